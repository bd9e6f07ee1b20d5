//! What a program does with a whole tree, with as few system calls as it can: getdents64(2), fstatat(2), openat(2),
//! read(2), close(2), each relative to a descriptor of the folder, in the order in which the folder lists its names.
//!
//! One thread, no allocation per entry while it is measured, so that what is compared is the file systems.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir};
use rustix::io;

/// What getdents64(2) is given, as glibc's readdir(3) does.
const LIST_BYTES: usize = 32 << 10;
/// What read(2) is given, as cat(1) does.
const READ_BYTES: usize = 128 << 10;
/// What each new file holds.
pub(crate) const NEW_BYTES: usize = 4096;

/// What was met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) folders: u64,
    pub(crate) files: u64,
    pub(crate) symlinks: u64,
    /// Of files: their sizes, or what was read of them.
    pub(crate) bytes: u64,
}

/// The names of a folder, and of all folders below it, in the order of its listing.
#[derive(Default)]
pub(crate) struct Names {
    pub(crate) files: Vec<CString>,
    pub(crate) folders: Vec<(CString, Names)>,
}

fn open_folder(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

fn open_root(root: &Path) -> Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, root, flags, Mode::empty())
        .with_context(|| format!("could not open {}", root.display()))
}

type Visit<'v> = dyn FnMut(BorrowedFd<'_>, &CStr, FileType) -> io::Result<()> + 'v;

/// Calls `visit` for each entry of a folder, then does the same with the folders in it.
fn each(
    folder: BorrowedFd<'_>,
    room: &mut [MaybeUninit<u8>],
    visit: &mut Visit<'_>,
) -> io::Result<()> {
    let mut inner = Vec::new();
    let mut list = RawDir::new(folder, room);
    while let Some(entry) = list.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        visit(folder, name, entry.file_type())?;
        if entry.file_type() == FileType::Directory {
            inner.push(name.to_owned());
        }
    }
    for name in inner {
        each(open_folder(folder, &name)?.as_fd(), room, visit)?;
    }
    Ok(())
}

fn walk(root: &Path, visit: &mut Visit<'_>) -> Result<()> {
    let mut room = vec![MaybeUninit::uninit(); LIST_BYTES];
    each(open_root(root)?.as_fd(), &mut room, visit)
        .with_context(|| format!("could not walk {}", root.display()))
}

/// Lists everything and asks for the attributes of each entry.
pub(crate) fn stat_all(root: &Path) -> Result<Counts> {
    let mut counts = Counts::default();
    walk(root, &mut |folder, name, _| {
        let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => counts.folders += 1,
            FileType::RegularFile => {
                counts.files += 1;
                counts.bytes += stat.st_size.unsigned_abs();
            }
            _ => counts.symlinks += 1,
        }
        Ok(())
    })?;
    Ok(counts)
}

/// Lists everything and reads each file as it is met.
pub(crate) fn read_all(root: &Path) -> Result<Counts> {
    let mut counts = Counts::default();
    let mut buffer = vec![0; READ_BYTES];
    walk(root, &mut |folder, name, kind| {
        match kind {
            FileType::Directory => counts.folders += 1,
            FileType::RegularFile => {
                counts.files += 1;
                counts.bytes += open(folder, name, Some(&mut buffer))?;
            }
            _ => counts.symlinks += 1,
        }
        Ok(())
    })?;
    Ok(counts)
}

/// Opens a file, reads all of it if there is a buffer, and closes it; returns the bytes read.
fn open(folder: BorrowedFd<'_>, name: &CStr, buffer: Option<&mut Vec<u8>>) -> io::Result<u64> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(folder, name, flags, Mode::empty())?;
    let mut bytes = 0;
    if let Some(buffer) = buffer {
        loop {
            match rustix::io::read(&file, &mut buffer[..])? {
                0 => break,
                read => bytes += read as u64,
            }
        }
    }
    Ok(bytes)
}

impl Names {
    /// Lists everything.
    pub(crate) fn of(root: &Path) -> Result<Self> {
        let mut room = vec![MaybeUninit::uninit(); LIST_BYTES];
        Self::list(open_root(root)?.as_fd(), &mut room)
            .with_context(|| format!("could not list {}", root.display()))
    }

    fn list(folder: BorrowedFd<'_>, room: &mut [MaybeUninit<u8>]) -> io::Result<Self> {
        let mut names = Self::default();
        let mut list = RawDir::new(folder, &mut *room);
        while let Some(entry) = list.next() {
            let entry = entry?;
            let name = entry.file_name();
            match entry.file_type() {
                FileType::Directory if name == c"." || name == c".." => {}
                FileType::Directory => names.folders.push((name.to_owned(), Self::default())),
                FileType::RegularFile => names.files.push(name.to_owned()),
                _ => {}
            }
        }
        for (name, inner) in &mut names.folders {
            *inner = Self::list(open_folder(folder, name)?.as_fd(), room)?;
        }
        Ok(names)
    }

    /// Opens and closes each file of which the name is known.
    pub(crate) fn open_all(&self, root: &Path) -> Result<Counts> {
        let mut counts = Counts::default();
        self.visit(open_root(root)?.as_fd(), &mut None, &mut counts)
            .with_context(|| format!("could not open all of {}", root.display()))?;
        Ok(counts)
    }

    /// The same, reading each file.
    pub(crate) fn read_all(&self, root: &Path) -> Result<Counts> {
        let mut counts = Counts::default();
        self.visit(open_root(root)?.as_fd(), &mut Some(vec![0; READ_BYTES]), &mut counts)
            .with_context(|| format!("could not read all of {}", root.display()))?;
        Ok(counts)
    }

    fn visit(
        &self,
        folder: BorrowedFd<'_>,
        buffer: &mut Option<Vec<u8>>,
        counts: &mut Counts,
    ) -> io::Result<()> {
        for name in &self.files {
            counts.files += 1;
            counts.bytes += open(folder, name, buffer.as_mut())?;
        }
        for (name, inner) in &self.folders {
            counts.folders += 1;
            inner.visit(open_folder(folder, name)?.as_fd(), buffer, counts)?;
        }
        Ok(())
    }
}

/// Makes `each` files of [`NEW_BYTES`] in each folder, which is relative to `root`.
pub(crate) fn write_files(root: &Path, folders: &[PathBuf], each: usize) -> Result<()> {
    let root = open_root(root)?;
    let names: Vec<_> = (0..each).map(new_name).collect();
    for folder in folders {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(&root, folder, flags, Mode::empty())?;
        for (number, name) in names.iter().enumerate() {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&folder, name, flags, Mode::from_raw_mode(0o644))?;
            let written = rustix::io::write(&file, &new_content(number))?;
            ensure!(written == NEW_BYTES, "write(2) took {written} bytes");
        }
    }
    Ok(())
}

/// The name of the file of that number.
pub(crate) fn new_name(number: usize) -> String {
    format!("measured-{number}")
}

/// What the file of that number holds.
pub(crate) fn new_content(number: usize) -> [u8; NEW_BYTES] {
    [b'a' + (number % 26) as u8; NEW_BYTES]
}
