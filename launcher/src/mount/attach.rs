//! Brings the state of a projection up to date with its real directory, before anybody serves it.
//!
//! What is there by a name of the tree was made real, whatever the state says: a server was killed before
//! it could say so, a power loss took the state, or somebody changed the directory while nothing covered
//! it. What a dead server had claimed and not made is pristine again. Orphans of dead servers go.
//!
//! The other way round, an entry that was made real or replaced, and of which nothing is there, may have been lost by a
//! power loss that the state survived: after another boot it is pristine again. Who takes a name away says so in its
//! word. In the same boot it was taken away while nothing covered the directory, and stays so.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use rift_cas::state::StateFile;
use rift_tree::merge::States as _;
use rift_tree::state::{Attempt, Birth, Owner, Real, State};
use rift_tree::{EntryId, Kind, Manifest};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::identity::Identity;
use super::modes::noted;
use super::nodes::{self, ORPHANS};
use super::view::path_of;

/// What has happened since the state was up to date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Since {
    /// The machine went on: what the kernel was told holds.
    SameBoot,
    /// It was restarted, and may have lost what was not on the disk.
    OtherBoot,
}

/// See the module.
///
/// # Errors
/// What the system says.
pub(super) fn attach(
    manifest: &Manifest<'_>,
    state: &StateFile,
    real: BorrowedFd<'_>,
    owner: Owner,
    since: Since,
) -> Result<(), Errno> {
    let has_detached = give_up_dead(state, owner);
    put_modes_back(real)?;
    let root = open_any(real, b".")?;
    let before = rustix::fs::fstat(real)?;
    detach(state, EntryId::ROOT, Identity::of(real, b"")?.real, owner);
    let mut places = HashMap::from([(EntryId::ROOT, Place::Folder)]);
    let mut folders = vec![(EntryId::ROOT, root)];
    while let Some((directory, folder)) = folders.pop() {
        let opened = &folder.file;
        for (name, kind) in names(opened)? {
            let Some(id) = manifest.child_named(directory, &name) else { continue };
            if !state.is_detached(id) {
                detach(state, id, Identity::of(opened.as_fd(), &name)?.real, owner);
                if kind != FileType::Directory {
                    take_below_away(manifest, state, id, owner);
                }
            }
            let is_directory = matches!(manifest.kind(id), Some(Kind::Directory { .. }));
            let is_folder = kind == FileType::Directory && is_directory;
            places.insert(id, if is_folder { Place::Folder } else { Place::Other });
            if is_folder {
                folders.push((id, open_any(opened.as_fd(), &name)?));
            }
        }
    }
    if has_detached {
        find_lost(manifest, state, real, &places, since)?;
    }
    remove_below(real, ORPHANS)?;
    rustix::fs::mkdirat(real, ORPHANS, Mode::from_raw_mode(0o700))?;
    keep_mtime(real, &before)
}

/// Gives files their modes back that a killed server had widened.
fn put_modes_back(real: BorrowedFd<'_>) -> Result<(), Errno> {
    let orphans = match open_any(real, ORPHANS) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
        other => other?,
    };
    let listed = names(&orphans.file)?;
    let noted: HashMap<u64, Mode> = listed.iter().filter_map(|(name, _)| noted(name)).collect();
    if noted.is_empty() {
        return Ok(());
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let own = rustix::fs::openat(real, ".", flags, Mode::empty())?;
    put_back(&own, &noted)?;
    visit(real, |file, _, _| put_back(file, &noted))
}

fn put_back(file: &OwnedFd, noted: &HashMap<u64, Mode>) -> Result<(), Errno> {
    match noted.get(&rustix::fs::fstat(file)?.st_ino) {
        // A link has no mode, so there is no note of one.
        Some(mode) => rustix::fs::chmodat(CWD, path_of(file), *mode, AtFlags::empty()),
        None => Ok(()),
    }
}

/// What is at an entry's place in the real directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A directory, as in the tree.
    Folder,
    Other,
}

/// Looks for the real files of entries whose places are empty.
fn find_lost(
    manifest: &Manifest<'_>,
    state: &StateFile,
    real: BorrowedFd<'_>,
    places: &HashMap<EntryId, Place>,
    since: Since,
) -> Result<(), Errno> {
    let missing = |id: &EntryId| {
        !places.contains_key(id) && matches!(state.state(*id), State::Detached { inode: 1.. })
    };
    let mut lost = (0..manifest.len()).map(EntryId).filter(missing).peekable();
    if lost.peek().is_none() {
        return Ok(());
    }
    let (named, orphans) = files(real)?;
    let has = |files: &Births, inode, birth: Birth| {
        files.get(&inode).is_some_and(|found| found.may_be(birth))
    };
    // A directory comes before what is in it.
    for id in lost {
        let (State::Detached { inode }, Some(word)) = (state.state(id), state.word(id)) else {
            continue;
        };
        let above = manifest.parent(id).unwrap_or(EntryId::ROOT);
        let has_place = !state.is_detached(above) || places.get(&above) == Some(&Place::Folder);
        if has(&named, inode, word.birth()) {
            // It was moved.
        } else if since == Since::SameBoot || has(&orphans, inode, word.birth()) || !has_place {
            // The next file may have the number.
            word.forget_inode(inode);
        } else {
            // Nobody else is at it.
            let _is_pristine = word.revert(inode);
        }
    }
    Ok(())
}

/// Real files, by inode.
type Births = HashMap<u64, Birth>;

/// Returns the inodes and births of all that has a name below the real directory, and of the orphans.
fn files(real: BorrowedFd<'_>) -> Result<(Births, Births), Errno> {
    let (mut named, mut orphans) = (Births::new(), Births::new());
    visit(real, |file, name, part| {
        let Real { inode, birth } = Identity::of(file.as_fd(), b"")?.real;
        match part {
            Part::Shown => {
                named.insert(inode, birth);
            }
            // What was on its way to its place is no orphan: it was never there, as far as the disk knows.
            Part::Orphans if nodes::is_orphan_name(name) => {
                orphans.insert(inode, birth);
            }
            Part::Orphans => {}
        }
        Ok(())
    })?;
    Ok((named, orphans))
}

/// Which part of the real directory a file is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Shown,
    /// Below the folder of orphans.
    Orphans,
}

/// Calls `work` with everything below the real directory: the file, opened for nothing but to name it, and its name.
/// A directory comes before what is in it.
fn visit(
    real: BorrowedFd<'_>,
    mut work: impl FnMut(&OwnedFd, &[u8], Part) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut folders = vec![(open_any(real, b".")?, Part::Shown)];
    let mut is_top = true;
    while let Some((folder, part)) = folders.pop() {
        for (name, kind) in names(&folder.file)? {
            let file = rustix::fs::openat(&folder.file, &*name, flags, Mode::empty())?;
            work(&file, &name, part)?;
            if kind == FileType::Directory {
                let part = if is_top && name == ORPHANS { Part::Orphans } else { part };
                folders.push((open_any(folder.file.as_fd(), &name)?, part));
            }
        }
        is_top = false;
    }
    Ok(())
}

/// Takes the orphans away when a projection ends, and gives back what those who were killed had noted among them.
///
/// # Errors
/// What the system says.
pub(super) fn detach_all(real: BorrowedFd<'_>) -> Result<(), Errno> {
    put_modes_back(real)?;
    let _root = open_any(real, b".")?;
    let before = rustix::fs::fstat(real)?;
    remove_below(real, ORPHANS)?;
    keep_mtime(real, &before)
}

/// Gives a directory its mtime back.
fn keep_mtime(folder: BorrowedFd<'_>, before: &rustix::fs::Stat) -> Result<(), Errno> {
    let omit = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
    let modified = Timespec { tv_sec: before.st_mtime, tv_nsec: before.st_mtime_nsec as i64 };
    rustix::fs::futimens(folder, &Timestamps { last_access: omit, last_modification: modified })
}

/// Nobody else serves the projection, so whatever is claimed was claimed by the dead. Tells whether anything is detached.
fn give_up_dead(state: &StateFile, owner: Owner) -> bool {
    let mut has_detached = false;
    for word in state.words() {
        match word.load() {
            State::Claimed(dead) => {
                if let Attempt::Won(claim) = word.take_over(dead, owner) {
                    word.give_up(claim);
                }
            }
            State::Detached { .. } => has_detached = true,
            State::Pristine => {}
        }
    }
    has_detached
}

fn detach(state: &StateFile, id: EntryId, real: Real, owner: Owner) {
    if let Some(word) = state.word(id)
        && let Attempt::Won(claim) = word.claim(owner)
    {
        // Nobody else is at it, so the claim holds.
        let _is_mine = state.finish(id, claim, real);
    }
}

/// A directory of the tree is something else by now: nothing of what it held shows any more.
fn take_below_away(manifest: &Manifest<'_>, state: &StateFile, id: EntryId, owner: Owner) {
    if let (Some(Kind::Directory { first, children: 1.. }), Some(end)) =
        (manifest.kind(id), manifest.subtree_end(id))
    {
        for below in (first.0..end.0).map(EntryId) {
            detach(state, below, Real::NONE, owner);
        }
    }
}

fn open(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, OsStr::from_bytes(name), flags, Mode::empty())
}

/// Puts the mode of a directory back that was widened to work in it.
#[derive(Debug)]
pub(super) struct Narrowed {
    file: OwnedFd,
    mode: Option<Mode>,
}

impl Drop for Narrowed {
    fn drop(&mut self) {
        // What can be widened can be narrowed.
        let _is_back = self.mode.is_none_or(|mode| rustix::fs::fchmod(&self.file, mode).is_ok());
    }
}

/// Opens a directory whose mode may keep its owner from working in it, and widens the mode meanwhile.
///
/// # Errors
/// What the system says.
pub(super) fn open_any(parent: BorrowedFd<'_>, name: &[u8]) -> Result<Narrowed, Errno> {
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    let is_closed =
        stat.st_uid == rustix::process::geteuid().as_raw() && !mode.contains(Mode::RWXU);
    if is_closed && FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        rustix::fs::chmodat(parent, name, mode | Mode::RWXU, AtFlags::empty())?;
        let opened = open(parent, name);
        if opened.is_err() {
            rustix::fs::chmodat(parent, name, mode, AtFlags::empty())?;
        }
        return Ok(Narrowed { file: opened?, mode: Some(mode) });
    }
    Ok(Narrowed { file: open(parent, name)?, mode: None })
}

fn names(folder: &OwnedFd) -> Result<Vec<(Vec<u8>, FileType)>, Errno> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => {
                let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(stat.st_mode)
            }
            kind => kind,
        };
        names.push((name.to_vec(), kind));
    }
    Ok(names)
}

/// Removes what is called `name`, with all that is below it; nothing there is as good.
fn remove_below(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    let folder = match open_any(parent, name) {
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => {
            return rustix::fs::unlinkat(parent, name, AtFlags::empty());
        }
        other => other?,
    };
    let opened = &folder.file;
    for (child, kind) in names(opened)? {
        match kind {
            FileType::Directory => remove_below(opened.as_fd(), &child)?,
            _ => rustix::fs::unlinkat(opened, &*child, AtFlags::empty())?,
        }
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}
