//! Modes that keep their own owner out.
//!
//! The kernel has checked who asks, so the server has to be able to do it, but where it is no superuser the modes of the
//! real files hold for it as well: it may be asked to work in a directory by a descriptor while the path to it is
//! closed, or to make a file real whose directory may not be written to. Such a request is tried as it is;
//! when that is refused it runs again, alone, with the modes on its way widened until it is done. Among the orphans there
//! is a note of each mode that is widened, so that what a killed server left is put back by who attaches next.

use std::ffi::OsStr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use rift_cas::lock::lock;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::nodes::{Node, ORPHANS};
use super::view::{Result, View, path_of};
/// What a request has to get to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Way<'n> {
    /// A file, whatever its own mode is.
    To(Node),
    /// A file that is to be opened, or a directory to work in.
    Into(Node),
    /// What a directory has by a name, to be worked in too.
    Named(Node, &'n [u8]),
}

/// Lets requests run side by side, or one alone with modes widened.
#[derive(Debug, Default)]
pub(super) struct Modes {
    turns: RwLock<()>,
    /// What the request that is alone has widened, and the modes to put back.
    widened: Mutex<Option<Vec<Widened>>>,
    /// Where notes of them are put: the folder of orphans.
    notes: Option<OwnedFd>,
}

#[derive(Debug)]
struct Widened {
    file: OwnedFd,
    inode: u64,
    /// The mode that there is a note of.
    noted: Mode,
    /// The mode to put back.
    mode: Mode,
}

/// What the name of a note begins with; `-`, inode and mode follow, in hexadecimal.
const NOTE: &str = "mode";

fn note(inode: u64, mode: Mode) -> String {
    format!("{NOTE}-{inode:x}-{:x}", mode.bits())
}

/// Returns the inode and the mode that a note tells of, by its name.
pub(super) fn noted(name: &[u8]) -> Option<(u64, Mode)> {
    let mut parts = std::str::from_utf8(name).ok()?.split('-');
    let (kind, inode, mode) = (parts.next()?, parts.next()?, parts.next()?);
    let inode = u64::from_str_radix(inode, 16).ok()?;
    let mode = Mode::from_raw_mode(u32::from_str_radix(mode, 16).ok()? & 0o7777);
    (kind == NOTE && parts.next().is_none()).then_some((inode, mode))
}

impl Modes {
    /// Puts notes into the folder of orphans below `real`.
    pub(super) fn with_notes_below(real: BorrowedFd<'_>) -> Self {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Without it modes are widened all the same: they are put back unless the server is killed just then.
        let notes = rustix::fs::openat(real, OsStr::from_bytes(ORPHANS), flags, Mode::empty()).ok();
        Self { notes, ..Self::default() }
    }

    fn write_note(&self, inode: u64, mode: Mode) {
        let Some(notes) = &self.notes else { return };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let name = note(inode, mode);
        // As there.
        let _is_noted = rustix::fs::openat(notes, name, flags, Mode::RUSR | Mode::WUSR).is_ok();
    }

    fn take_note_away(&self, inode: u64, mode: Mode) {
        if let Some(notes) = &self.notes {
            let taken = rustix::fs::unlinkat(notes, note(inode, mode), AtFlags::empty());
            let _is_gone = taken.is_ok();
        }
    }

    fn widened(&self) -> MutexGuard<'_, Option<Vec<Widened>>> {
        lock(&self.widened)
    }

    fn put_back(&self) {
        let widened = self.widened().take();
        // A directory is closed before those that lead to it.
        for Widened { file, inode, noted, mode } in widened.into_iter().flatten().rev() {
            // Where the file is gone by now its mode is too.
            let _is_back = rustix::fs::chmodat(CWD, path_of(&file), mode, AtFlags::empty()).is_ok();
            self.take_note_away(inode, noted);
        }
    }

    /// Shows the mode that a file has when nothing is widened.
    pub(super) fn narrow(&self, stat: &mut Stat) {
        let widened = self.widened();
        let mut all = widened.iter().flatten();
        if let Some(found) = all.find(|widened| widened.inode == stat.st_ino) {
            stat.st_mode = stat.st_mode & !0o7777 | found.mode.bits();
        }
    }

    /// Notes that a file was given a mode, which is the one to put back.
    pub(super) fn choose(&self, inode: u64, mode: Mode) {
        let mut widened = self.widened();
        let mut all = widened.iter_mut().flatten();
        if let Some(found) = all.find(|widened| widened.inode == inode) {
            found.mode = mode;
        }
    }
}

impl View {
    /// Runs a request; see the module.
    pub(super) fn reach<T>(&self, ways: &[Way<'_>], work: impl FnMut() -> Result<T>) -> Result<T> {
        self.intact()?;
        let result = self.reach_whole(ways, work);
        self.intact()?;
        result
    }

    /// As [`View::reach`], as long as the state file is whole.
    fn reach_whole<T>(&self, ways: &[Way<'_>], mut work: impl FnMut() -> Result<T>) -> Result<T> {
        {
            let _turn = self.modes.turns.read().unwrap_or_else(PoisonError::into_inner);
            match work() {
                Err(Errno::ACCESS) => {}
                other => return other,
            }
        }
        let _alone = self.modes.turns.write().unwrap_or_else(PoisonError::into_inner);
        *self.modes.widened() = Some(Vec::new());
        for path in ways.iter().filter_map(|way| self.way(*way)) {
            self.widen_along(&path);
        }
        let result = work();
        self.modes.put_back();
        result
    }

    /// Returns the path to widen; there may be none for what is gone or not real.
    fn way(&self, way: Way<'_>) -> Option<Vec<u8>> {
        let mut path = self.likely_path(match way {
            Way::To(node) | Way::Into(node) | Way::Named(node, _) => node,
        })?;
        match way {
            Way::To(_) => path.truncate(path.iter().rposition(|byte| *byte == b'/').unwrap_or(0)),
            Way::Into(_) => {}
            Way::Named(_, name) => {
                path.push(b'/');
                path.extend_from_slice(name);
            }
        }
        Some(path)
    }

    /// As [`View::widen`], for a file and all directories that lead to it.
    pub(super) fn widen_along(&self, path: &[u8]) {
        if self.modes.widened().is_none() {
            return;
        }
        let ends = (0..path.len()).filter(|at| path[*at] == b'/').chain([path.len()]);
        let parts = ends.map(|end| &path[..end]).filter(|part| !part.is_empty());
        for part in [b".".as_slice()].into_iter().chain(parts) {
            // What is missing or another user's is left to the request to fail at.
            let _is_wide = self.widen(part).is_ok();
        }
    }

    /// Lets the owner into a real file until the request that is alone is over; does nothing while none is.
    pub(super) fn widen(&self, path: &[u8]) -> Result<()> {
        let mut widened = self.modes.widened();
        let Some(widened) = widened.as_mut() else { return Ok(()) };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match path {
            // A closed directory does not even lead to itself.
            b"." => rustix::io::fcntl_dupfd_cloexec(&self.parts.real, 3),
            path => rustix::fs::openat(&self.parts.real, path, flags, Mode::empty()),
        }?;
        let stat = rustix::fs::fstat(&file)?;
        let wanted = match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
            rustix::fs::FileType::Directory => Mode::RWXU,
            rustix::fs::FileType::Symlink => return Ok(()),
            _ => Mode::RUSR | Mode::WUSR,
        };
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        if !mode.contains(wanted) {
            self.modes.write_note(stat.st_ino, mode);
            rustix::fs::chmodat(CWD, path_of(&file), mode | wanted, AtFlags::empty())?;
            widened.push(Widened { file, inode: stat.st_ino, noted: mode, mode });
        }
        Ok(())
    }
}
