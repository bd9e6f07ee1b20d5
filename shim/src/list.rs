//! Listings: getdents64(2) of directories that are not real, or not all of whose entries are.
//!
//! A directory that is not real is opened as the projection's *stand-in*, an empty directory. The offset of the
//! open file is all that tells what it stands for, so it survives dup, fork, exec and being sent:
//!
//! ```text
//! offset of a stand-in:          | 0 | entry 31 bits | place 32 bits |
//! offset of a real directory:    the file system's own, then | 0 | 31 ones | place 32 bits |
//! place:                         0 is `.`, 1 is `..`, then the entries of the tree
//! ```
//! No file system gives a hash of 31 ones: ext4 keeps it for the end. A real directory that has all its entries lists what
//! the kernel lists. One that has not lists the names of the kernel that the tree does not have, and then those of the
//! tree, real or not: so none is missed or told twice that becomes real meanwhile.

use linux_raw_sys::general as kernel;
use rift_tree::merge::States as _;
use rift_tree::state::State;
use rift_tree::{EntryId, Kind};

use crate::caches::{self, Known};
use crate::place;
use crate::real::ORPHANS;
use crate::run::Shown;
use crate::sys::{self, Errno, Result};
use crate::text::Text;

/// Where the tree's entries begin in a real directory's offsets.
const TREE: i64 = 0x7fff_ffff << 32;
/// The file system's own end, as ext4 has it: the last of those offsets.
const END: i64 = i64::MAX;

/// Returns what a stand-in with this offset stands for.
pub(crate) fn entry_at(offset: i64) -> EntryId {
    EntryId((offset >> 32) as u32)
}

/// Returns where a real directory goes on after what a stand-in with this offset has listed.
pub(crate) fn real_offset(offset: i64) -> i64 {
    match offset as u32 {
        0 => 0,
        place => TREE + i64::from(place),
    }
}

/// Returns the offset of a stand-in for `id`, at a place of its listing.
pub(crate) fn offset_of(id: EntryId, place: u32) -> i64 {
    i64::from(id.0) << 32 | i64::from(place)
}

/// The fixed part of a record, in bytes, see getdents(2).
const RECORD_BYTES: usize = 19;

/// Records for the program, in its buffer.
struct Records<'b> {
    room: &'b mut [u8],
    used: usize,
}

impl Records<'_> {
    /// Adds a record; `false` when it does not fit.
    fn add(&mut self, inode: u64, next: i64, kind: u8, name: &[u8]) -> bool {
        let length = (RECORD_BYTES + name.len() + 1).next_multiple_of(8);
        let Some(record) = self.room.get_mut(self.used..self.used + length) else { return false };
        // The end, before a name that may reach into it.
        if let Some(end) = record.last_chunk_mut() {
            *end = 0_u64.to_ne_bytes();
        }
        if let Some((head, rest)) = record.split_first_chunk_mut::<RECORD_BYTES>() {
            head[..8].copy_from_slice(&inode.to_ne_bytes());
            head[8..16].copy_from_slice(&next.to_ne_bytes());
            head[16..18].copy_from_slice(&(length as u16).to_ne_bytes());
            head[18] = kind;
            if let Some(place) = rest.get_mut(..name.len()) {
                place.copy_from_slice(name);
            }
        }
        self.used += length;
        true
    }
}

/// Gives records the form of getdents(2), which has the type behind the name; they are as long.
pub(crate) fn make_old(bytes: &mut [u8]) {
    let mut rest = bytes;
    while let Some(length) = split(rest).map(|(record, _)| RECORD_BYTES + record.name.len()) {
        let whole = usize::from(u16::from_ne_bytes([rest[16], rest[17]]));
        let (record, after) = rest.split_at_mut(whole);
        let kind = record[RECORD_BYTES - 1];
        record.copy_within(RECORD_BYTES..length, RECORD_BYTES - 1);
        record[length - 1..].fill(0);
        record[whole - 1] = kind;
        rest = after;
    }
}

/// Returns the type of an entry as records have it: 12 bits below are the permissions, see inode(7).
fn kind_of(shown: &Shown, id: EntryId) -> u8 {
    (shown.manifest.mode(id).unwrap_or(0) >> 12) as u8
}

/// Lists the entries of the tree from a place on, those that are real included; returns the next place, and whether
/// nothing is left. `offset` tells what a place's offset is.
fn add_entries(
    shown: &Shown,
    id: EntryId,
    from: u32,
    records: &mut Records<'_>,
    offset: impl Fn(u32) -> i64,
) -> Result<(u32, bool)> {
    let mut at = from;
    if at < 2 {
        let parent = shown.manifest.parent(id).unwrap_or(id);
        for (place, name, inode) in
            [(0, &b"."[..], shown.inode(id)), (1, b"..", shown.inode(parent))]
        {
            if at == place {
                if !records.add(inode, offset(at + 1), kernel::DT_DIR as u8, name) {
                    return Ok((at, false));
                }
                at += 1;
            }
        }
    }
    let Some(Kind::Directory { first, children }) = shown.manifest.kind(id) else {
        return Err(Errno::NOTDIR);
    };
    while at - 2 < children {
        let child = EntryId(first.0 + (at - 2));
        let found = match shown.state(child) {
            // Something else may have taken the place.
            State::Detached { .. } => real_one(shown, child)?,
            _ => Some((shown.inode(child), kind_of(shown, child))),
        };
        if let Some((inode, kind)) = found {
            let name = shown.manifest.name(child).ok_or(Errno::IO)?;
            if !records.add(inode, offset(at + 1), kind, name) {
                return Ok((at, false));
            }
        }
        at += 1;
    }
    Ok((at, true))
}

/// Returns the inode and the type of what is at the place of an entry that is real, or was.
#[cold]
fn real_one(shown: &Shown, id: EntryId) -> Result<Option<(u64, u8)>> {
    let mut path = Text::new();
    shown.path(id, &mut path)?;
    match sys::stat_at(sys::CWD, &path, kernel::AT_SYMLINK_NOFOLLOW) {
        // 12 bits below are the mode, see inode(7).
        Ok(stat) => Ok(Some((shown_inode(shown, stat.st_ino), (stat.st_mode >> 12 & 15) as u8))),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Lists what a stand-in stands for.
pub(crate) fn list_stand_in(
    shown: &'static Shown,
    descriptor: i32,
    room: &mut [u8],
) -> Result<usize> {
    loop {
        let offset = caches::offset(descriptor)?;
        let id = entry_at(offset);
        let count = shown.manifest.children(id).len() as u32 + 2;
        let from = offset as u32;
        let mut records = Records { room: &mut *room, used: 0 };
        let (mut at, mut is_done) = (from, true);
        if from < count {
            (at, is_done) =
                add_entries(shown, id, from, &mut records, |place| offset_of(id, place))?;
        }
        if is_done && !shown.is_pristine(id) {
            // It has become real meanwhile: what it holds beside the tree's entries comes last, counted.
            at = add_real(shown, id, at, count, &mut records)?;
        }
        let used = records.used;
        if used == 0 && !is_done {
            return Err(Errno::INVAL);
        }
        // Where another thread has listed the same, this one goes on behind it.
        if at == from || caches::move_on(descriptor, offset, offset_of(id, at))? {
            return Ok(used);
        }
    }
}

/// Adds the names in the real directory of an entry, from the one at `at - base` on.
fn add_real(
    shown: &'static Shown,
    id: EntryId,
    at: u32,
    base: u32,
    records: &mut Records<'_>,
) -> Result<u32> {
    let mut path = Text::new();
    shown.path(id, &mut path)?;
    let opened = match sys::open(&path, kernel::O_RDONLY | kernel::O_DIRECTORY, 0) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(at),
        other => other?,
    };
    let listed = add_opened(shown, id, opened, (at, base), records);
    sys::close(opened);
    listed
}

fn add_opened(
    shown: &'static Shown,
    id: EntryId,
    opened: i32,
    (at, base): (u32, u32),
    records: &mut Records<'_>,
) -> Result<u32> {
    let (mut place, mut at) = (base, at);
    let mut bytes = [0; 2048];
    loop {
        let count = sys::entries(opened, &mut bytes)?;
        if count == 0 {
            return Ok(at);
        }
        let mut rest = bytes.get(..count).unwrap_or_default();
        while let Some((record, after)) = split(rest) {
            rest = after;
            if !is_foreign(shown, id, record.name) || matches!(record.name, b"." | b"..") {
                continue;
            }
            if place == at {
                let inode = shown_inode(shown, record.inode);
                if !records.add(inode, offset_of(id, at + 1), record.kind, record.name) {
                    return Ok(at);
                }
                at += 1;
            }
            place += 1;
        }
    }
}

/// A record of the kernel's.
struct Record<'b> {
    inode: u64,
    kind: u8,
    name: &'b [u8],
}

/// Splits the first record off.
fn split(bytes: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let length = usize::from(u16::from_ne_bytes(bytes.get(16..18)?.try_into().ok()?));
    let (record, rest) = bytes.split_at_checked(length)?;
    let name = record.get(RECORD_BYTES..)?;
    let end = name.iter().position(|byte| *byte == 0)?;
    let inode = u64::from_ne_bytes(record.get(..8)?.try_into().ok()?);
    Some((Record { inode, kind: record[18], name: &name[..end] }, rest))
}

/// Tells whether a name that the kernel lists is shown: the place of scratch files is not.
fn is_listed(id: EntryId, name: &[u8]) -> bool {
    !(id == EntryId::ROOT && name == ORPHANS)
}

/// As [`is_listed`], of names that the tree does not have.
fn is_foreign(shown: &Shown, id: EntryId, name: &[u8]) -> bool {
    is_listed(id, name) && shown.manifest.child_named(id, name).is_none()
}

fn shown_inode(shown: &Shown, inode: u64) -> u64 {
    place::entry_with(shown, inode).map_or(inode, |id| shown.inode(id))
}

/// Lists a real directory of a projection.
pub(crate) fn list_real(
    shown: &'static Shown,
    id: EntryId,
    descriptor: i32,
    room: &mut [u8],
) -> Result<usize> {
    let offset = sys::seek(descriptor, 0, kernel::SEEK_CUR)?;
    let is_at_tree = (TREE..END).contains(&offset);
    let is_mixed = offset != 0 && caches::known(descriptor) == Known::Mixed
        || shown.manifest.children(id).any(|child| shown.is_pristine(child));
    if is_mixed {
        caches::remember(descriptor, Known::Mixed);
    }
    if !is_at_tree {
        loop {
            let count = sys::entries(descriptor, room)?;
            if count == 0 && !is_mixed {
                return Ok(0);
            }
            if count == 0 {
                break;
            }
            let listed = room.get_mut(..count).unwrap_or_default();
            let kept = keep_listed(shown, id, is_mixed, listed);
            if kept > 0 {
                return Ok(kept);
            }
        }
    }
    // Who stood for it before may have listed `.` alone; else the kernel has listed both.
    let from = if is_at_tree { (offset - TREE) as u32 } else { 2 };
    let mut records = Records { room, used: 0 };
    let (at, is_done) =
        add_entries(shown, id, from.max(1), &mut records, |place| TREE + i64::from(place))?;
    let used = records.used;
    if used == 0 && !is_done {
        return Err(Errno::INVAL);
    }
    sys::seek(descriptor, TREE + i64::from(at), kernel::SEEK_SET)?;
    Ok(used)
}

/// Takes records out that are not shown and gives the others their inode numbers; returns how many bytes are left.
fn keep_listed(shown: &Shown, id: EntryId, is_mixed: bool, bytes: &mut [u8]) -> usize {
    let (mut from, mut to) = (0, 0);
    while let Some((record, rest)) = bytes.get(from..).and_then(split) {
        let length = bytes.len() - from - rest.len();
        let is_kept = match is_mixed {
            true => is_foreign(shown, id, record.name),
            false => is_listed(id, record.name),
        };
        let inode = match record.name {
            b".." => shown.inode(shown.manifest.parent(id).unwrap_or(id)),
            _ => shown_inode(shown, record.inode),
        };
        // The root's own parent is none of ours.
        let is_ours = !(id == EntryId::ROOT && record.name == b"..");
        if is_kept {
            bytes.copy_within(from..from + length, to);
            if is_ours {
                bytes[to..to + 8].copy_from_slice(&inode.to_ne_bytes());
            }
            to += length;
        }
        from += length;
    }
    to
}
