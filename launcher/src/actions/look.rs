//! Looks whether what was found is still there.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::{fs, io};

use rift_cas::hashes::{FileStamp, Hashes};
use rift_tree::BlobHash;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::entry::{Found, Observation};
use super::roots::Roots;
use crate::paths::{decoded, escaped};

/// A directory in which names are looked at.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Open: the way to it is gone once.
    Open(OwnedFd),
    /// Nothing is there, nor in it.
    Gone,
    /// Names in it are looked at by their whole path.
    Closed,
}

impl Folder {
    /// So many names make it worthwhile.
    const NAMES_MIN: usize = 3;
    /// Where the names are whole paths.
    const NONE: Self = Self { path: PathBuf::new(), state: State::Closed };

    /// Opens a directory in which so many names are looked at; an empty path is none, and the names are whole paths.
    pub(super) fn open(path: PathBuf, names: usize) -> Self {
        if names < Self::NAMES_MIN || path.as_os_str().is_empty() {
            return Self { path, state: State::Closed };
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let state = match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(directory) => State::Open(directory),
            Err(error) if is_nothing(error.raw_os_error()) => State::Gone,
            Err(_) => State::Closed,
        };
        Self { path, state }
    }
}

/// A name that is looked at, once however much is asked of it.
#[derive(Debug)]
pub(super) struct Spot<'s> {
    folder: &'s Folder,
    name: &'s OsStr,
    itself: Option<Result<Stat, Errno>>,
    target: Option<Result<Stat, Errno>>,
}

impl<'s> Spot<'s> {
    /// A name in a folder.
    pub(super) fn new(folder: &'s Folder, name: &'s OsStr) -> Self {
        Self { folder, name, itself: None, target: None }
    }

    /// Returns the whole path.
    pub(super) fn path(&self) -> Cow<'s, Path> {
        match self.folder.path.as_os_str().is_empty() {
            true => Cow::Borrowed(Path::new(self.name)),
            false => Cow::Owned(self.folder.path.join(self.name)),
        }
    }

    fn stat(&self, flags: AtFlags) -> Result<Stat, Errno> {
        match &self.folder.state {
            State::Open(directory) => rustix::fs::statat(directory, self.name, flags),
            State::Gone => Err(Errno::NOENT),
            State::Closed => rustix::fs::statat(CWD, &*self.path(), flags),
        }
    }

    /// As lstat(2).
    fn itself(&mut self) -> Result<Stat, Errno> {
        match self.itself {
            Some(known) => known,
            None => *self.itself.insert(self.stat(AtFlags::SYMLINK_NOFOLLOW)),
        }
    }

    /// As stat(2).
    fn target(&mut self) -> Result<Stat, Errno> {
        let is_link = |stat: Stat| stat.st_mode & libc::S_IFMT == libc::S_IFLNK;
        match (self.target, self.itself) {
            (Some(known), _) => known,
            // What is no link leads nowhere else.
            (None, Some(itself)) if !itself.is_ok_and(is_link) => itself,
            (None, _) => *self.target.insert(self.stat(AtFlags::empty())),
        }
    }

    /// Tells whether something is as it was found, where `is_itself` says that a link was not followed.
    pub(super) fn holds(
        &mut self,
        found: &Found,
        is_itself: bool,
        roots: &Roots,
        hashes: &Hashes,
    ) -> bool {
        let stat = if is_itself { self.itself() } else { self.target() };
        match (found, stat) {
            (Found::Nothing, Err(error)) => is_nothing(error.raw_os_error()),
            // That something is there was all that was asked.
            (Found::Kind(0, _), Ok(_)) => true,
            (Found::Kind(kind, size), Ok(stat)) => {
                let stamp = FileStamp::of_stat(&stat);
                stat.st_mode & libc::S_IFMT == *kind
                    && (*kind != libc::S_IFREG || stamp.size == *size)
            }
            (Found::File(hash), Ok(stat)) => {
                stat.st_mode & libc::S_IFMT == libc::S_IFREG
                    && self.hash(&stat, hashes).is_some_and(|found| found == *hash)
            }
            (Found::Link(target), Ok(_)) => {
                let found = fs::read_link(self.path()).ok();
                let found = found.and_then(|found| roots.shorten(found.as_os_str().as_bytes()));
                found.is_some_and(|found| escaped(Path::new(OsStr::from_bytes(&found))) == *target)
            }
            (Found::NoLink, Ok(_)) => {
                self.itself().is_ok_and(|stat| stat.st_mode & libc::S_IFMT != libc::S_IFLNK)
            }
            (Found::Names(names), Ok(_)) => {
                names_of(&self.path()).is_ok_and(|found| found == *names)
            }
            _ => false,
        }
    }

    fn hash(&self, stat: &Stat, hashes: &Hashes) -> Option<BlobHash> {
        let stamp = FileStamp::of_stat(stat);
        hashes.known(&stamp).or_else(|| hashes.of(&self.path(), stamp).ok())
    }
}

/// Tells whether something is as it was found.
pub(super) fn holds(roots: &Roots, hashes: &Hashes, observation: &Observation) -> bool {
    place(roots, &observation.path).is_some_and(|path| {
        Spot::new(&Folder::NONE, path.as_os_str()).holds(
            &observation.found,
            observation.is_itself,
            roots,
            hashes,
        )
    })
}

/// Tells whether an error says that nothing is there.
pub(super) fn is_nothing(error: i32) -> bool {
    matches!(error, libc::ENOENT | libc::ENOTDIR)
}

/// Returns the path that is meant here.
pub(super) fn place(roots: &Roots, path: &str) -> Option<PathBuf> {
    let bytes = roots.lengthen(decoded(path).as_os_str().as_bytes())?;
    Some(PathBuf::from(OsString::from_vec(bytes)))
}

/// Returns the hash of all names of a directory.
pub(super) fn names_of(path: &Path) -> io::Result<BlobHash> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        names.push(entry?.file_name());
    }
    names.sort();
    let mut hasher = blake3::Hasher::new();
    for name in names {
        hasher.update(name.as_bytes()).update(b"\0");
    }
    Ok(BlobHash::from_bytes(*hasher.finalize().as_bytes()))
}
