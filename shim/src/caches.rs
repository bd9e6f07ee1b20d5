//! What the process remembers so as not to ask the kernel again: where it works, who it is, and what its descriptors are.
//!
//! Everything here may be forgotten at any time, and none of it is believed while a child of vfork(2) shares this
//! memory, which has descriptors and a working directory of its own. A descriptor is one word:
//!
//! ```text
//! | entry 32 bits | its offset's place + 1: 16 bits | projection 8 bits | what it is 8 bits |
//! ```

use core::sync::atomic::{AtomicU64, Ordering};

use rift_tree::EntryId;
use rift_tree::name::PathKey;

use crate::counts;
use crate::hot::{DESCRIPTORS, HOT, Offset};
use crate::room::is_shared;
use crate::sys::{self, Result};

/// What a descriptor is known to be. Those of very large numbers are looked at each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// Nothing is known.
    Unknown,
    /// Nothing of a projection: the kernel answers.
    Outside,
    /// A real file or directory of a projection.
    Inside,
    /// As `Inside`, of a directory that is listed by names of the kernel and of the tree.
    Mixed,
    /// A stand-in for a directory that is not real.
    StandIn,
}

const OUTSIDE: u64 = 1;
const INSIDE: u64 = 2;
const STAND_IN: u64 = 3;
const MIXED: u64 = 4;

/// Descriptors whose words are not in the page that is looked at all the time.
const MORE: usize = 4096 - DESCRIPTORS;
static MORE_DESCRIPTORS: [AtomicU64; MORE] = [const { AtomicU64::new(0) }; MORE];

/// The path keys of directories that are open as stand-ins; 0 where they are not known.
static KEYS: [AtomicU64; DESCRIPTORS] = [const { AtomicU64::new(0) }; DESCRIPTORS];

#[inline(always)]
fn word(descriptor: i32) -> Option<&'static AtomicU64> {
    let at = descriptor as usize;
    match HOT.descriptors.get(at) {
        Some(word) => Some(word),
        None => MORE_DESCRIPTORS.get(at.wrapping_sub(DESCRIPTORS)),
    }
}

/// Returns what is known of a descriptor.
#[inline(always)]
pub(crate) fn known(descriptor: i32) -> Known {
    let Some(word) = word(descriptor) else { return Known::Unknown };
    if is_shared() {
        return Known::Unknown;
    }
    match word.load(Ordering::Relaxed) & 0xff {
        OUTSIDE => Known::Outside,
        INSIDE => Known::Inside,
        STAND_IN => Known::StandIn,
        MIXED => Known::Mixed,
        _ => Known::Unknown,
    }
}

/// Tells whether the kernel answers whatever is asked of a descriptor.
#[inline(always)]
pub(crate) fn is_outside(descriptor: i32) -> bool {
    let word = word(descriptor).map_or(0, |word| word.load(Ordering::Relaxed));
    word == OUTSIDE && !is_shared()
}

/// Remembers what a descriptor is that is no stand-in.
#[inline]
pub(crate) fn remember(descriptor: i32, known: Known) {
    if is_shared() {
        return;
    }
    let now = match known {
        Known::Outside => OUTSIDE,
        Known::Inside => INSIDE,
        Known::Mixed => MIXED,
        Known::Unknown | Known::StandIn => 0,
    };
    if let Some(word) = word(descriptor) {
        change(word, now);
    }
}

/// Changes a word, whose offset nobody has any more.
#[inline(always)]
fn change(word: &AtomicU64, now: u64) {
    if word.load(Ordering::Relaxed) != now {
        let before = word.swap(now, Ordering::Relaxed);
        if let Some(offset) = offset_in(before) {
            release(offset);
        }
    }
}

/// A stand-in, as far as this process knows it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StandIn {
    pub(crate) projection: u32,
    pub(crate) entry: EntryId,
}

/// Returns the stand-in that a descriptor is known to be.
#[inline]
pub(crate) fn stand_in(descriptor: i32) -> Option<StandIn> {
    let seen = word(descriptor)?.load(Ordering::Relaxed);
    if seen & 0xff != STAND_IN || is_shared() {
        return None;
    }
    Some(StandIn { projection: (seen >> 8 & 0xff) as u32, entry: EntryId((seen >> 32) as u32) })
}

/// Remembers that a descriptor is a stand-in, whose offset the kernel has.
pub(crate) fn remember_stand_in(descriptor: i32, one: StandIn) {
    if is_shared() {
        return;
    }
    if let Some(word) = word(descriptor) {
        let now = u64::from(one.entry.0) << 32 | u64::from(one.projection & 0xff) << 8 | STAND_IN;
        set_key(descriptor, 0);
        change(word, now);
    }
}

/// Keeps the offset of a stand-in that was just opened, and that no other descriptor has open, from now on; where there is no
/// place for it, the kernel does.
pub(crate) fn keep_offset(descriptor: i32, offset: i64) {
    let Some(word) = word(descriptor).filter(|_| !is_shared()) else { return };
    for (at, place) in HOT.offsets.iter().enumerate() {
        let is_free = place.holders.load(Ordering::Relaxed) == 0
            && place.holders.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok();
        if is_free {
            HOT.offsets_taken.fetch_add(1, Ordering::Relaxed);
            place.offset.store(offset.cast_unsigned(), Ordering::Relaxed);
            // As many as there are offsets.
            word.fetch_or((at as u64 + 1) << 16, Ordering::Release);
            return;
        }
    }
}

#[inline(always)]
fn offset_in(word: u64) -> Option<&'static Offset> {
    HOT.offsets.get((word >> 16 & 0xffff).wrapping_sub(1) as usize)
}

#[cold]
fn release(offset: &Offset) {
    if offset.holders.fetch_sub(1, Ordering::Release) == 1 {
        HOT.offsets_taken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Returns the offset of a stand-in.
pub(crate) fn offset(descriptor: i32) -> Result<i64> {
    let seen = word(descriptor).map_or(0, |word| word.load(Ordering::Acquire));
    match offset_in(seen).filter(|_| !is_shared()) {
        Some(kept) => Ok(kept.offset.load(Ordering::Acquire).cast_signed()),
        None => sys::seek(descriptor, 0, linux_raw_sys::general::SEEK_CUR),
    }
}

/// Moves a stand-in on; `false` where another thread was faster.
pub(crate) fn move_on(descriptor: i32, from: i64, to: i64) -> Result<bool> {
    let seen = word(descriptor).map_or(0, |word| word.load(Ordering::Acquire));
    if let Some(kept) = offset_in(seen).filter(|_| !is_shared()) {
        let (from, to) = (from.cast_unsigned(), to.cast_unsigned());
        let moved = kept.offset.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed);
        return Ok(moved.is_ok());
    }
    sys::seek(descriptor, to, linux_raw_sys::general::SEEK_SET).map(|_| true)
}

/// Moves a stand-in to its start, if this process has its offset.
#[inline(always)]
pub(crate) fn rewind(descriptor: i32) -> bool {
    let seen = word(descriptor).map_or(0, |word| word.load(Ordering::Acquire));
    match offset_in(seen) {
        Some(kept) if HOT.sharing.load(Ordering::Relaxed) == 0 => {
            let entry = kept.offset.load(Ordering::Relaxed) & !0xffff_ffff;
            kept.offset.store(entry, Ordering::Release);
            true
        }
        _ => false,
    }
}

/// Lets the kernel keep the offset of a stand-in.
pub(crate) fn give_offset_back(descriptor: i32) {
    let Some(word) = word(descriptor) else { return };
    let seen = word.load(Ordering::Acquire);
    if let Some(kept) = offset_in(seen).filter(|_| !is_shared()) {
        let offset = kept.offset.load(Ordering::Acquire).cast_signed();
        // An open directory takes every offset.
        let _is_moved = sys::seek(descriptor, offset, linux_raw_sys::general::SEEK_SET).is_ok();
        change(word, seen & !0xffff_0000);
    }
}

/// As [`give_offset_back`], of all stand-ins: another process is about to have them open as well.
#[inline]
pub(crate) fn give_offsets_back() {
    if HOT.offsets_taken.load(Ordering::Relaxed) != 0 {
        give_all_back();
    }
}

#[cold]
#[inline(never)]
fn give_all_back() {
    stand_ins().for_each(give_offset_back);
}

/// Notes that a descriptor is open on what another one is open on, as dup(2) has it.
pub(crate) fn double(from: i32, to: i32) {
    let (Some(from_word), Some(to_word)) = (word(from), word(to)) else {
        give_offset_back(from);
        return;
    };
    if is_shared() || from == to {
        return;
    }
    let seen = from_word.load(Ordering::Acquire);
    if let Some(kept) = offset_in(seen) {
        kept.holders.fetch_add(1, Ordering::Relaxed);
    }
    change(to_word, seen);
    set_key(to, key_bits(from));
}

/// Returns the path key of the directory that a stand-in stands for, where it is known.
#[inline(always)]
pub(crate) fn key(descriptor: i32) -> Option<PathKey> {
    Some(key_bits(descriptor)).filter(|bits| *bits != 0).map(PathKey::of_bits)
}

#[inline(always)]
fn key_bits(descriptor: i32) -> u64 {
    KEYS.get(descriptor as usize).map_or(0, |key| key.load(Ordering::Relaxed))
}

/// Remembers the path key of the directory that a stand-in stands for.
pub(crate) fn remember_key(descriptor: i32, key: PathKey) {
    if !is_shared() {
        set_key(descriptor, key.bits());
    }
}

fn set_key(descriptor: i32, bits: u64) {
    if let Some(key) = KEYS.get(descriptor as usize) {
        key.store(bits, Ordering::Relaxed);
    }
}

/// Returns the descriptors that are known to be stand-ins.
pub(crate) fn stand_ins() -> impl Iterator<Item = i32> {
    // Fewer than 2^31.
    (0..(DESCRIPTORS + MORE) as i32)
        .filter(|at| word(*at).is_some_and(|word| word.load(Ordering::Relaxed) & 0xff == STAND_IN))
}

/// Forgets what a descriptor was.
#[inline(always)]
pub(crate) fn forget_one(descriptor: i32) {
    if let Some(word) = word(descriptor)
        && word.load(Ordering::Relaxed) != 0
    {
        forget_known(word);
    }
}

#[inline(never)]
fn forget_known(word: &AtomicU64) {
    if !is_shared() {
        change(word, 0);
    }
}

/// Forgets what descriptors were, from `first` to `last`.
pub(crate) fn forget(first: usize, last: usize) {
    if is_shared() {
        return;
    }
    let mut at = first;
    while at <= last
        && let Some(word) = i32::try_from(at).ok().and_then(word)
    {
        change(word, 0);
        at += 1;
    }
}

/// Where the process works, as far as projections go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Working {
    /// Nothing is known.
    Unknown,
    /// Neither in a projection nor above one.
    Outside,
    /// Above this one, and perhaps above some that come after it: the rests of their directories' paths begin at this byte.
    Above { projection: u32, rest: usize },
    /// In a directory of one.
    Inside { projection: u32, directory: EntryId },
}

/// What of the word that tells where the process works says that it is outside.
pub(crate) const WORKING_KIND: u64 = 0xff << 40;
pub(crate) const WORKING_OUTSIDE: u64 = 1 << 40;

/// Returns where the process works.
#[inline(always)]
pub(crate) fn working() -> Working {
    let word = HOT.working.load(Ordering::Relaxed);
    if is_shared() {
        return Working::Unknown;
    }
    let projection = (word >> 32 & 0xff) as u32;
    match word >> 40 & 0xff {
        1 => Working::Outside,
        2 => Working::Above { projection, rest: (word & 0xffff_ffff) as usize },
        3 => Working::Inside { projection, directory: EntryId(word as u32) },
        _ => Working::Unknown,
    }
}

/// Remembers where the process works.
pub(crate) fn set_working(working: Working, key: Option<PathKey>) {
    if is_shared() && working != Working::Unknown {
        return;
    }
    let word = match working {
        Working::Unknown => 0,
        Working::Outside => WORKING_OUTSIDE,
        Working::Above { projection, rest } => 2 << 40 | u64::from(projection) << 32 | rest as u64,
        Working::Inside { projection, directory } => {
            3 << 40 | u64::from(projection) << 32 | u64::from(directory.0)
        }
    };
    // What was looked up below another directory counts no more, see `missed_below_working`.
    let turn = HOT.working.load(Ordering::Relaxed) >> 48;
    let turn = if working == Working::Unknown { turn.wrapping_add(1) } else { turn };
    HOT.working.store(turn << 48 | word, Ordering::Relaxed);
    HOT.working_key.store(key.map_or(0, PathKey::bits), Ordering::Relaxed);
}

/// Returns the path key of the directory of a tree that the process works in, where it is known.
#[inline(always)]
pub(crate) fn working_key() -> Option<PathKey> {
    match HOT.working_key.load(Ordering::Relaxed) {
        0 => None,
        bits => Some(PathKey::of_bits(bits)),
    }
}

/// Returns the effective user.
#[inline(always)]
pub(crate) fn user() -> u32 {
    known_user(&HOT.user, || sys::effective_ids().0)
}

/// Returns the real user.
pub(crate) fn real_user() -> u32 {
    known_user(&HOT.real_user, || sys::real_ids().0)
}

#[inline(always)]
fn known_user(place: &AtomicU64, ask: impl FnOnce() -> u32) -> u32 {
    match place.load(Ordering::Relaxed).checked_sub(1) {
        Some(known) if !is_shared() => known as u32,
        _ => {
            let user = ask();
            if !is_shared() {
                place.store(u64::from(user) + 1, Ordering::Relaxed);
            }
            user
        }
    }
}

/// Forgets who the user is.
pub(crate) fn forget_user() {
    for place in [&HOT.user, &HOT.real_user] {
        place.store(0, Ordering::Relaxed);
    }
    HOT.searched.store(0, Ordering::Release);
}

/// How many places there are for paths that are known not to lead into a projection.
const MISSES: usize = 1 << 14;

static MISSED: [AtomicU64; MISSES] = [const { AtomicU64::new(0) }; MISSES];

/// What is remembered for a path with this hash as long as names are what they are now.
#[inline(always)]
fn missed_as(hash: u64) -> u64 {
    hash.wrapping_mul(2 * counts::names() + 1) | 1
}

/// Tells whether a path, or names in a directory, are known not to lead into a projection, by a hash.
#[inline(always)]
pub(crate) fn is_missed(hash: u64) -> bool {
    let place = MISSED.get(hash as usize % MISSES);
    place.is_some_and(|place| place.load(Ordering::Relaxed) == missed_as(hash))
}

/// Remembers that.
pub(crate) fn miss(hash: u64) {
    if let Some(place) = MISSED.get(hash as usize % MISSES) {
        place.store(missed_as(hash), Ordering::Relaxed);
    }
}

/// What the hashes of absolute paths begin with.
pub(crate) const MISSED_BELOW_ROOT: u64 = 0xcbf2_9ce4_8422_2325;

/// Returns what the hashes of paths below the working directory begin with.
#[inline(always)]
pub(crate) fn missed_below_working() -> u64 {
    (HOT.working.load(Ordering::Relaxed) >> 48) << 8 | 0x5f
}
