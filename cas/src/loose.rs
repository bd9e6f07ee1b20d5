//! The loose form of a tree: plain files in the store that hard links are made to.
//!
//! ```text
//! loose/HH/HEX-UMASK/   the tree HEX as it is shown under that umask; a stamped tree's stamp is the
//!                       mtime of this directory
//! ```
//!
//! It exists for those who ask for hard links. Whoever edits such a link in place edits the loose form
//! with it, so each source's size and mtime are compared with what they have to be before it is linked,
//! and one that differs is written anew from the packs: the edit stays where it was made.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rift_tree::{BlobHash, EntryId, Manifest};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::blobs::hash_file;
use crate::error::{Error, Result};
use crate::ingest::mtime_ns;
use crate::materialize::{Options, Writer, remove};
use crate::store::{Store, make_folder};
use crate::tree::OpenTree;

/// The loose form of one tree, ready to be linked to.
#[derive(Debug)]
pub struct Linker {
    root: OwnedFd,
    path: PathBuf,
    stamp_ns: i64,
}

/// What became of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Linked {
    /// It was made.
    Made,
    /// The source is not what it has to be.
    Edited,
    /// This file can't have another link here: it is written instead.
    Unlinkable,
}

impl Linker {
    /// Returns the mtime of every entry of a stamped tree, in nanoseconds since the epoch.
    #[must_use]
    pub fn stamp_ns(&self) -> i64 {
        self.stamp_ns
    }

    /// Opens the loose form's directory of `below`, a path of the tree.
    pub(crate) fn open(&self, below: &Path) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let name = if below.as_os_str().is_empty() { Path::new(".") } else { below };
        rustix::fs::openat(&self.root, name, flags, Mode::empty())
            .map_err(|error| Error::io("open", &self.path.join(below))(error))
    }
}

/// Tells whether file `name` of the loose directory `source` has this content.
pub(crate) fn has_content(
    source: BorrowedFd<'_>,
    name: &OsStr,
    expected: BlobHash,
) -> Result<bool, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(source, name, flags, Mode::empty()) {
        Err(Errno::NOENT | Errno::LOOP) => return Ok(false),
        other => File::from(other?),
    };
    match hash_file(&file) {
        Ok(hash) => Ok(hash == expected),
        Err(error) => Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
    }
}

/// Links file `name` of the loose directory `source` into `target`, if it is what it has to be.
pub(crate) fn link(
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    name: &OsStr,
    expected: (u64, i64, u16),
) -> Result<Linked, Errno> {
    let stat = match rustix::fs::statat(source, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(Linked::Edited),
        other => other?,
    };
    let (size, time_ns, permissions) = expected;
    let is_expected = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && u64::try_from(stat.st_size) == Ok(size)
        && mtime_ns(&stat) == time_ns
        && stat.st_mode & 0o7777 == u32::from(permissions);
    if !is_expected {
        return Ok(Linked::Edited);
    }
    match rustix::fs::linkat(source, name, target, name, AtFlags::empty()) {
        Ok(()) => Ok(Linked::Made),
        Err(Errno::MLINK | Errno::XDEV | Errno::PERM | Errno::OPNOTSUPP) => Ok(Linked::Unlinkable),
        Err(error) => Err(error),
    }
}

impl Store {
    /// Returns the loose form of a tree, making it first where it is missing.
    ///
    /// # Errors
    /// What the system says, or damage that was met.
    pub fn linker(&self, tree: &OpenTree, options: Options) -> Result<Linker> {
        let suffix = format!("-{:03o}", options.umask);
        let path = self.fanned("loose", tree.hash().as_bytes(), &suffix);
        if !path.exists() {
            let _guard = self.guard()?;
            self.make_loose(tree, &path, options)?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = rustix::fs::open(&path, flags, Mode::empty());
        let root = root.map_err(Error::io("open", &path))?;
        let stat = rustix::fs::fstat(&root).map_err(Error::io("look at", &path))?;
        Ok(Linker { root, path, stamp_ns: mtime_ns(&stat) })
    }

    fn make_loose(&self, tree: &OpenTree, path: &Path, options: Options) -> Result<()> {
        let folder = path.parent().unwrap_or(path);
        if let Some(above) = folder.parent() {
            make_folder(above)?;
        }
        make_folder(folder)?;
        let fresh = self.temporary_folder()?;
        let root = fresh.join("tree");
        Writer::new(tree, options).write_tree(&root)?;
        let cwd = rustix::fs::CWD;
        let renamed = rustix::fs::renameat_with(cwd, &root, cwd, path, RenameFlags::NOREPLACE);
        remove_quietly(&fresh, options.threads);
        match renamed {
            // Somebody else was faster; theirs is as good.
            Ok(()) | Err(Errno::EXIST | Errno::NOTEMPTY) => Ok(()),
            Err(error) => Err(Error::io("publish", path)(error)),
        }
    }
}

/// Removes a folder below `tmp`; what can't be removed is swept by gc.
fn remove_quietly(path: &Path, threads: usize) {
    let _is_removed = remove(path, threads).is_ok();
}

impl Writer<'_> {
    /// Writes file `id` anew in the loose directory `source`, in place of an edited one.
    pub(crate) fn mend_loose(
        &self,
        source: BorrowedFd<'_>,
        id: EntryId,
        manifest: &Manifest<'_>,
        folder: &Path,
    ) -> Result<()> {
        let name = OsStr::from_bytes(manifest.name(id).unwrap_or_default());
        let mut fresh = std::ffi::OsString::from(".rift-mend-");
        fresh.push(std::process::id().to_string());
        fresh.push(format!("-{}", id.0));
        match rustix::fs::unlinkat(source, &*fresh, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(Error::io("remove", folder)(error)),
        }
        self.write_file_as(source.as_fd(), &fresh, id, folder)?;
        rustix::fs::renameat(source, &*fresh, source, name)
            .map_err(|error| Error::io("mend", &folder.join(name))(error))
    }
}
