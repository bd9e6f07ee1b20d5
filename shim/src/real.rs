//! Makes entries real: written whole without a name or beside their place, then put there, then published.
//!
//! Any process of the run may do it, and several at once: a claim on the entry's word decides who does, and the
//! claim of a process that died is taken over.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use linux_raw_sys::general as kernel;
use rift_tree::run::Count;
use rift_tree::state::{Attempt, Claim, Owner, Real};
use rift_tree::{EntryId, Kind};

use crate::answer;
use crate::arrive;
use crate::counts;
use crate::run::Shown;
use crate::sys::{self, Errno, Result};
use crate::text::Text;

/// Where scratch files are, below the directory of the projection.
pub(crate) const ORPHANS: &[u8] = rift_tree::state::ORPHANS.as_bytes();

/// How long somebody else's claim is waited for between looks, in nanoseconds.
const PAUSE_NS: i64 = 50_000;

/// How many scratch files this process has made.
static MADE: AtomicU32 = AtomicU32::new(0);

/// Makes an entry real, and all directories above it; one that is already is as good.
pub(crate) fn make_real(shown: &'static Shown, id: EntryId) -> Result<()> {
    while let Some(next) = first_pristine(shown, id)? {
        if let Some(claim) = claim(shown, next)? {
            build(shown, next, claim)?;
        }
    }
    Ok(())
}

/// Returns the uppermost entry on the way to `id` that is still the tree's, or itself.
fn first_pristine(shown: &Shown, id: EntryId) -> Result<Option<EntryId>> {
    let mut found = None;
    let mut at = id;
    // What is above a real entry is real.
    while at != EntryId::ROOT && shown.is_pristine(at) {
        found = Some(at);
        at = shown.manifest.parent(at).ok_or(Errno::IO)?;
    }
    Ok(found)
}

/// Makes an entry real with everything below it that still is the tree's.
pub(crate) fn make_subtree_real(shown: &'static Shown, id: EntryId) -> Result<()> {
    make_real(shown, id)?;
    let (Some(Kind::Directory { first, children: 1.. }), Some(end)) =
        (shown.manifest.kind(id), shown.manifest.subtree_end(id))
    else {
        return Ok(());
    };
    let children = (first.0..end.0).map(EntryId).filter(|child| shown.is_pristine(*child));
    arrive::ask_for(shown, children.clone());
    children.into_iter().try_for_each(|child| make_real(shown, child))
}

/// Removes the place of scratch files, unless somebody is at it.
pub(crate) fn remove_scratch(shown: &Shown) -> Result<()> {
    let folder = Text::of(shown.record.directory)?;
    let mut scratch = Text::new();
    push_scratch(shown, &mut scratch)?;
    let before = sys::stat_at(sys::CWD, &folder, kernel::AT_SYMLINK_NOFOLLOW)?;
    sys::remove(&scratch);
    let (seconds, nanoseconds) = (before.st_mtime, before.st_mtime_nsec);
    sys::set_modified_at(sys::CWD, &folder, seconds.cast_signed(), nanoseconds.cast_signed())
}

/// Makes a directory's own entries real, and itself.
pub(crate) fn make_children_real(shown: &'static Shown, id: EntryId) -> Result<()> {
    make_real(shown, id)?;
    shown.manifest.children(id).try_for_each(|child| make_real(shown, child))
}

/// Takes an entry away that the tree answers for, without writing it; `change` is made while nobody else can.
pub(crate) fn take_away(shown: &'static Shown, id: EntryId) -> Result<()> {
    match claim(shown, id)? {
        Some(claim) => publish(shown, id, claim, Real::NONE),
        None => Err(Errno::NOENT),
    }
}

/// Claims an entry, as soon as nobody else does; `None` when it is detached.
fn claim(shown: &Shown, id: EntryId) -> Result<Option<Claim>> {
    let word = shown.word(id)?;
    let own = owner()?;
    let mut attempt = word.claim(own);
    loop {
        match attempt {
            Attempt::Detached => return Ok(None),
            Attempt::Won(claim) => return Ok(Some(claim)),
            // A signal handler of this very thread can't wait for what it interrupts.
            Attempt::Busy(other) if is_dead(other)? => attempt = word.take_over(other, own),
            Attempt::Busy(_) => {
                sys::sleep_ns(PAUSE_NS);
                attempt = word.claim(own);
            }
        }
    }
}

fn publish(shown: &Shown, id: EntryId, claim: Claim, real: Real) -> Result<()> {
    if real != Real::NONE {
        shown.inodes().add(real.inode, id);
    }
    if shown.word(id)?.finish(claim, real) { Ok(()) } else { Err(Errno::STALE) }
}

fn build(shown: &'static Shown, id: EntryId, claim: Claim) -> Result<()> {
    let written = match write_entry(shown, id) {
        // A mode keeps the owner from working in a directory; who makes an entry real does not ask for the program.
        Err(Errno::ACCESS) => {
            let mut written = Err(Errno::ACCESS);
            let parent = shown.manifest.parent(id).ok_or(Errno::IO)?;
            with_open(shown, parent, &mut || written = write_entry(shown, id))?;
            written
        }
        other => other,
    };
    match written {
        Ok(real) => {
            counts::add(Count::MadeReal);
            publish(shown, id, claim, real)
        }
        Err(error) => {
            shown.word(id)?.give_up(claim);
            Err(error)
        }
    }
}

/// What a directory lets its owner do who works in it.
const OPEN: u32 = 0o700;

/// Runs `work` while the owner may work in a directory and in all above it.
fn with_open(shown: &'static Shown, folder: EntryId, work: &mut dyn FnMut()) -> Result<()> {
    let mut result = Ok(());
    let mut widened = || {
        let mut path = Text::new();
        result = shown.path(folder, &mut path).and_then(|()| widen(shown, &path, work));
    };
    match shown.manifest.parent(folder) {
        Some(above) if folder != EntryId::ROOT => with_open(shown, above, &mut widened)?,
        _ => widened(),
    }
    result
}

/// Runs `work` while the owner may work in a directory.
fn widen(shown: &'static Shown, path: &Text, work: &mut dyn FnMut()) -> Result<()> {
    let stat = sys::stat_at(sys::CWD, path, kernel::AT_SYMLINK_NOFOLLOW)?;
    let mode = stat.st_mode & 0o7777;
    if mode & OPEN == OPEN || stat.st_uid != sys::effective_ids().0 {
        work();
        return Ok(());
    }
    // Who attaches next puts the mode back, should this process be killed.
    let note = note(shown, stat.st_ino, mode)?;
    let opened = sys::set_mode_at(path, mode | OPEN);
    if opened.is_ok() {
        work();
        sys::set_mode_at(path, mode)?;
    }
    if let Some(note) = note {
        sys::remove(&note);
    }
    opened
}

/// Notes the mode that a file has to get back; `None` where another process has noted it, and is at it.
fn note(shown: &Shown, inode: u64, mode: u32) -> Result<Option<Text>> {
    let mut note = Text::new();
    push_scratch(shown, &mut note)?;
    note.push_name(b"mode-")?;
    note.push_number(inode)?;
    note.push(b"-")?;
    note.push_number(mode.into())?;
    match sys::open(&note, kernel::O_WRONLY | kernel::O_CREAT | kernel::O_EXCL, 0o600) {
        Ok(file) => {
            sys::close(file);
            Ok(Some(note))
        }
        Err(Errno::EXIST) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The directory that an entry goes to, and the entry's name there.
struct Goal {
    /// The directory, opened; [`CWD`](sys::CWD) where no descriptor was left.
    directory: i32,
    /// Its path, from there.
    folder: Text,
    /// The path of the entry, from there.
    place: Text,
}

impl Goal {
    /// Returns none, to be found out: what has this much room is not moved about.
    #[inline]
    const fn new() -> Self {
        Self { directory: sys::CWD, folder: Text::new(), place: Text::new() }
    }

    /// Opens the directory, for a path of many names takes long to follow.
    fn open(&mut self, shown: &Shown, id: EntryId) -> Result<()> {
        let parent = shown.manifest.parent(id).ok_or(Errno::IO)?;
        shown.path(parent, &mut self.folder)?;
        self.place.push(shown.manifest.name(id).ok_or(Errno::IO)?)?;
        self.directory = sys::open(&self.folder, kernel::O_PATH | kernel::O_DIRECTORY, 0)?;
        self.folder.cut(0);
        Ok(())
    }

    /// Names it by its whole path.
    fn name(&mut self, shown: &Shown, id: EntryId) -> Result<()> {
        let parent = shown.manifest.parent(id).ok_or(Errno::IO)?;
        shown.path(parent, &mut self.folder)?;
        shown.path(id, &mut self.place)
    }

    /// Runs `put`, which puts something into the directory, and sets its mtime back.
    fn keeping_time(&self, put: impl FnOnce() -> Result<()>) -> Result<()> {
        let flags = kernel::AT_SYMLINK_NOFOLLOW | kernel::AT_EMPTY_PATH;
        let before = sys::stat_at(self.directory, &self.folder, flags)?;
        put()?;
        sys::set_modified_at(
            self.directory,
            &self.folder,
            before.st_mtime.cast_signed(),
            before.st_mtime_nsec.cast_signed(),
        )
    }
}

impl Drop for Goal {
    fn drop(&mut self) {
        if self.directory != sys::CWD {
            sys::close(self.directory);
        }
    }
}

/// Writes an entry at its place, whole.
fn write_entry(shown: &'static Shown, id: EntryId) -> Result<Real> {
    let mut goal = Goal::new();
    match goal.open(shown, id).and_then(|()| write_to(shown, id, &goal)) {
        Err(Errno::MFILE | Errno::NFILE) => {}
        other => return other,
    }
    drop(goal);
    // One descriptor less may do.
    let mut goal = Goal::new();
    goal.name(shown, id)?;
    write_to(shown, id, &goal)
}

fn write_to(shown: &'static Shown, id: EntryId, goal: &Goal) -> Result<Real> {
    let written = match shown.manifest.kind(id).ok_or(Errno::IO)? {
        Kind::File { size, blob } if !shown.needs_names() => {
            match write_unnamed(shown, id, (blob, size), goal) {
                // Told by what was written, or by the place.
                Err(
                    error
                    @ (Errno::EXIST | Errno::ACCESS | Errno::IO | Errno::NOSPC | Errno::DQUOT),
                ) => Err(error),
                // Nothing without a name is to be had, or it gets none: nor would the next one.
                Err(_) => write_named(shown, id, goal).inspect(|_| shown.note_need_of_names()),
                other => other,
            }
        }
        _ => write_named(shown, id, goal),
    };
    match written {
        // Made from outside, or by a process that died before it could say so.
        Err(Errno::EXIST) => sys::identify(goal.directory, &goal.place).map(|found| found.real),
        other => other,
    }
}

/// Adds the path of where scratch files are.
fn push_scratch(shown: &Shown, path: &mut Text) -> Result<()> {
    path.push(shown.record.directory)?;
    path.push_name(ORPHANS)
}

/// Writes a file that gets its name when it is whole.
fn write_unnamed(
    shown: &Shown,
    id: EntryId,
    (blob, size): (u32, u64),
    goal: &Goal,
) -> Result<Real> {
    let bytes = shown.blob(blob, size).inspect_err(count_damaged)?;
    let mode = shown.permissions(id);
    let flags = kernel::O_WRONLY | kernel::O_TMPFILE;
    let mut scratch = Text::new();
    push_scratch(shown, &mut scratch)?;
    let file = match sys::open(&scratch, flags, writable(shown, id, mode)) {
        // Not on this file system, or an older kernel's, see open(2).
        Err(error @ (Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL)) => {
            shown.note_need_of_names();
            return Err(error);
        }
        other => other?,
    };
    let written = write_file(shown, id, file, bytes).and_then(|()| {
        shown.is_untouched(blob, size).inspect_err(count_damaged)?;
        let found = complete(shown, file, &Text::new(), Some(mode))?;
        goal.keeping_time(|| sys::give_name(file, goal.directory, &goal.place))?;
        Ok(found)
    });
    sys::close(file);
    written
}

/// Gives what was written the owner that it has to have, and the mode where it has one of its own, and tells what it is; an
/// empty path means the descriptor.
fn complete(shown: &Shown, directory: i32, path: &Text, mode: Option<u32>) -> Result<Real> {
    let found = sys::identify(directory, path)?;
    if (found.uid, found.gid) != (shown.record.uid, shown.record.gid) {
        sys::set_owner(directory, path, shown.record.uid, shown.record.gid)?;
    }
    // The process's umask, or what the directory gives to all in it.
    match mode.filter(|mode| *mode != found.permissions) {
        Some(mode) if path.bytes().is_empty() => sys::set_mode(directory, mode)?,
        Some(mode) => sys::set_mode_at(path, mode)?,
        None => {}
    }
    Ok(found.real)
}

/// Writes an entry beside its place and moves it there.
fn write_named(shown: &'static Shown, id: EntryId, goal: &Goal) -> Result<Real> {
    let mut scratch = Text::new();
    push_scratch(shown, &mut scratch)?;
    scratch.push_name(b"shim-")?;
    scratch.push_number(sys::tid().into())?;
    scratch.push(b"-")?;
    scratch.push_number(MADE.fetch_add(1, Ordering::Relaxed).into())?;
    let written = write_scratch(shown, id, &scratch).and_then(|real| {
        goal.keeping_time(|| move_in(shown, id, &scratch, goal, real))?;
        Ok(real)
    });
    if written.is_err() {
        sys::remove(&scratch);
    }
    written
}

/// Moves what was written to its place.
fn move_in(
    shown: &'static Shown,
    id: EntryId,
    scratch: &Text,
    goal: &Goal,
    real: Real,
) -> Result<()> {
    let mode = shown.permissions(id);
    let is_directory = matches!(shown.manifest.kind(id), Some(Kind::Directory { .. }));
    if !is_directory || mode & OPEN == OPEN {
        return sys::put(scratch, goal.directory, &goal.place);
    }
    // Only who may write to a directory moves it.
    let note = note(shown, real.inode, mode)?;
    sys::set_mode_at(scratch, mode | OPEN)?;
    let put = sys::put(scratch, goal.directory, &goal.place);
    if put.is_ok() {
        let mut place = Text::new();
        shown.path(id, &mut place)?;
        sys::set_mode_at(&place, mode)?;
    }
    // Before what was not put is removed, for the next file may get its number.
    if let Some(note) = note {
        sys::remove(&note);
    }
    put
}

fn write_scratch(shown: &'static Shown, id: EntryId, scratch: &Text) -> Result<Real> {
    let (seconds, nanoseconds) = split_signed(shown.mtime_ns(id));
    let mode = shown.permissions(id);
    let mut own_mode = Some(mode);
    match shown.manifest.kind(id).ok_or(Errno::IO)? {
        Kind::Symlink { target } => {
            sys::make_link(&Text::of(target)?, scratch)?;
            sys::set_modified_at(sys::CWD, scratch, seconds, nanoseconds)?;
            own_mode = None;
        }
        Kind::Directory { .. } => {
            sys::make_directory(scratch, mode)?;
            sys::set_modified_at(sys::CWD, scratch, seconds, nanoseconds)?;
        }
        Kind::File { size, blob } => {
            let bytes = shown.blob(blob, size).inspect_err(count_damaged)?;
            let flags = kernel::O_WRONLY | kernel::O_CREAT | kernel::O_EXCL | kernel::O_NOFOLLOW;
            let file = sys::open(scratch, flags, writable(shown, id, mode))?;
            let written = write_file(shown, id, file, bytes)
                .and_then(|()| shown.is_untouched(blob, size).inspect_err(count_damaged));
            sys::close(file);
            written?;
        }
    }
    complete(shown, sys::CWD, scratch, own_mode)
}

fn split_signed(nanoseconds: i64) -> (i64, i64) {
    let (seconds, nanoseconds) = answer::split(nanoseconds);
    (seconds, nanoseconds.cast_signed())
}

/// Returns the mode that a file is made with: only who may write to it gives it attributes.
fn writable(shown: &Shown, id: EntryId, mode: u32) -> u32 {
    let has_attributes = shown.manifest.xattrs(id).next().is_some();
    if has_attributes { mode | 0o600 } else { mode }
}

/// Counts a file that the store can't give.
fn count_damaged(_: &Errno) {
    counts::add(Count::Damaged);
}

fn write_attributes(shown: &Shown, id: EntryId, file: i32) -> Result<()> {
    shown.manifest.xattrs(id).try_for_each(|(name, value)| {
        match sys::set_attribute(file, &Text::of(name)?, value) {
            // What this file system does not keep, the tree's files do not have here.
            Err(Errno::OPNOTSUPP) => Ok(()),
            other => other,
        }
    })
}

fn write_file(shown: &Shown, id: EntryId, file: i32, bytes: &[u8]) -> Result<()> {
    write_attributes(shown, id, file)?;
    sys::write_all(file, bytes).map_err(|error| match error {
        // The pack is shorter than it was: its pages are gone.
        Errno::FAULT => {
            count_damaged(&Errno::IO);
            Errno::IO
        }
        error => error,
    })?;
    let (seconds, nanoseconds) = split_signed(shown.mtime_ns(id));
    sys::set_modified(file, seconds, nanoseconds)
}

/// Who this process is among the owners of claims, and of which process that was found out.
static OWNER: AtomicU64 = AtomicU64::new(0);
static OWNER_PID: AtomicU32 = AtomicU32::new(0);

/// Returns the thread that makes claims. A thread, for a child of vfork(2) shares all but its number.
fn owner() -> Result<Owner> {
    let tid = sys::tid();
    if OWNER_PID.load(Ordering::Acquire) == tid {
        return Ok(Owner::new(tid, OWNER.load(Ordering::Relaxed)));
    }
    let birth = birth(tid)?.unwrap_or(0);
    // Two threads at once: one of them finds the other's number, and looks again next time.
    OWNER_PID.store(0, Ordering::Release);
    OWNER.store(birth, Ordering::Release);
    OWNER_PID.store(tid, Ordering::Release);
    Ok(Owner::new(tid, birth))
}

/// Tells whether the thread of a claim is gone; its number may be another one's by now.
fn is_dead(owner: Owner) -> Result<bool> {
    // 16 bits of the start time are kept.
    Ok(birth(owner.pid())?.is_none_or(|birth| birth as u16 != owner.birth()))
}

/// Returns when a thread started, in clock ticks since boot, see proc(5).
fn birth(tid: u32) -> Result<Option<u64>> {
    let mut path = Text::of(b"/proc/")?;
    path.push_decimal(tid)?;
    path.push(b"/stat")?;
    let file = match sys::open(&path, kernel::O_RDONLY, 0) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = [0; 1024];
    let read = sys::read(file, &mut bytes);
    sys::close(file);
    // It has ended meanwhile.
    let Ok(read) = read else { return Ok(None) };
    let text = bytes.get(..read).unwrap_or_default();
    // The name in parentheses may hold anything.
    let Some(after) = text.iter().rposition(|byte| *byte == b')') else { return Ok(None) };
    let field = text.get(after + 2..).and_then(|rest| rest.split(|byte| *byte == b' ').nth(19));
    let digits = field.unwrap_or_default().iter();
    Ok(Some(digits.fold(0, |number, digit| number * 10 + u64::from(digit.wrapping_sub(b'0')))))
}
