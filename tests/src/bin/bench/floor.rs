//! The floors: what two threads need to make a tree when they know everything beforehand.
//!
//! Each package is one piece of work: its folders are made with mkdirat(2), its files opened relative to their folder,
//! written in one write(2) (or linked), given their time, closed. Nothing is read, parsed, hashed, decompressed or
//! synced, so no tool that gives every file an inode (or a link) of its own can be expected below it.

use std::ffi::{CString, OsString};
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, Timespec, Timestamps};

const THREADS: usize = 2;

/// A tree in memory.
pub(crate) enum Node {
    Folder { mode: u32, children: Vec<(CString, Node)> },
    File { mode: u32, bytes: Vec<u8> },
    Symlink { target: CString },
}

/// How files come to be.
#[derive(Clone, Copy)]
pub(crate) enum Way {
    Write,
    Link,
}

fn c_string(name: OsString) -> Result<CString> {
    CString::new(name.into_vec()).context("a name holds a NUL")
}

/// Reads a tree; without bytes for [`Way::Link`].
pub(crate) fn load(path: &Path, way: Way) -> Result<Node> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_symlink() {
        return Ok(Node::Symlink { target: c_string(fs::read_link(path)?.into_os_string())? });
    }
    let mode = metadata.mode() & 0o7777;
    if metadata.is_file() {
        let bytes = if matches!(way, Way::Write) { fs::read(path)? } else { Vec::new() };
        return Ok(Node::File { mode, bytes });
    }
    let mut children = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        children.push((c_string(entry.file_name())?, load(&entry.path(), way)?));
    }
    children.sort_by(|left, right| left.0.cmp(&right.0));
    Ok(Node::Folder { mode, children })
}

fn open_folder(parent: BorrowedFd<'_>, name: &CString) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(
        parent,
        name,
        OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

fn times() -> Timestamps {
    let constant = Timespec { tv_sec: 499_162_500, tv_nsec: 0 };
    Timestamps { last_access: constant, last_modification: constant }
}

struct Pair<'a> {
    from: BorrowedFd<'a>,
    to: BorrowedFd<'a>,
}

fn make(pair: &Pair<'_>, name: &CString, node: &Node, way: Way) -> rustix::io::Result<()> {
    match node {
        Node::Folder { mode, children } => {
            rustix::fs::mkdirat(pair.to, name, Mode::from_raw_mode(*mode))?;
            let (from, to) = (open_folder(pair.from, name)?, open_folder(pair.to, name)?);
            for (name, child) in children {
                make(&Pair { from: from.as_fd(), to: to.as_fd() }, name, child, way)?;
            }
            rustix::fs::futimens(&to, &times())
        }
        Node::Symlink { target } => rustix::fs::symlinkat(target, pair.to, name),
        Node::File { .. } if matches!(way, Way::Link) => {
            rustix::fs::linkat(pair.from, name, pair.to, name, AtFlags::empty())
        }
        Node::File { mode, bytes } => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            let file = rustix::fs::openat(pair.to, name, flags, Mode::from_raw_mode(*mode))?;
            let mut left = &bytes[..];
            while !left.is_empty() {
                left = &left[rustix::io::write(&file, left)?..];
            }
            rustix::fs::futimens(&file, &times())
        }
    }
}

/// Makes `tree` (read from `from`) at `to`, which does not exist yet.
pub(crate) fn run(tree: &Node, from: &Path, to: &Path, way: Way) -> Result<()> {
    let Node::Folder { children, .. } = tree else {
        anyhow::bail!("{} is no folder", from.display())
    };
    fs::create_dir(to)?;
    // Pieces of work: packages, those of a scope one by one.
    let scope = |name: &CString| name.as_bytes().first() == Some(&b'@');
    let mut work: Vec<(CString, &CString, &Node)> = Vec::new();
    for (name, child) in children {
        match child {
            Node::Folder { mode, children } if scope(name) => {
                rustix::fs::mkdirat(
                    CWD,
                    to.join(std::ffi::OsStr::from_bytes(name.as_bytes())),
                    (*mode).into(),
                )?;
                work.extend(children.iter().map(|(inner, node)| (name.clone(), inner, node)));
            }
            _ => work.push((c".".to_owned(), name, child)),
        }
    }
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let (from, to) = (
        rustix::fs::open(from, flags, Mode::empty())?,
        rustix::fs::open(to, flags, Mode::empty())?,
    );
    let next = AtomicUsize::new(0);
    let thread = || -> rustix::io::Result<()> {
        while let Some((parent, name, node)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
            let (from, to) = (open_folder(from.as_fd(), parent)?, open_folder(to.as_fd(), parent)?);
            make(&Pair { from: from.as_fd(), to: to.as_fd() }, name, node, way)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(thread)).collect();
        threads.into_iter().try_for_each(|one| {
            one.join()
                .map_err(|_| anyhow::anyhow!("a thread panicked"))?
                .context("could not make the tree")
        })
    })?;
    rustix::fs::futimens(&to, &times())?;
    Ok(())
}
