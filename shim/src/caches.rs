//! What the process remembers so as not to ask the kernel again: where it works, and what its descriptors are.
//!
//! Everything here may be forgotten at any time, and none of it is believed while a child of vfork(2) shares this
//! memory, which has descriptors and a working directory of its own.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use rift_tree::EntryId;

use crate::counts;
use crate::hot::HOT;
use crate::room::is_shared;
use crate::sys;

/// What a descriptor is known to be. Those of large numbers are looked at each time.
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

/// Returns what is known of a descriptor.
#[inline]
pub(crate) fn known(descriptor: i32) -> Known {
    if is_shared() {
        return Known::Unknown;
    }
    match HOT.kinds.get(descriptor as usize).map(|kind| kind.load(Ordering::Relaxed)) {
        Some(1) => Known::Outside,
        Some(2) => Known::Inside,
        Some(3) => Known::StandIn,
        Some(4) => Known::Mixed,
        _ => Known::Unknown,
    }
}

/// Remembers what a descriptor is.
#[inline]
pub(crate) fn remember(descriptor: i32, known: Known) {
    if is_shared() {
        return;
    }
    if let Some(kind) = HOT.kinds.get(descriptor as usize) {
        let number = match known {
            Known::Unknown => 0,
            Known::Outside => 1,
            Known::Inside => 2,
            Known::StandIn => 3,
            Known::Mixed => 4,
        };
        kind.store(number, Ordering::Relaxed);
    }
}

/// Returns the descriptors that are known to be stand-ins.
pub(crate) fn stand_ins() -> impl Iterator<Item = i32> {
    let is_one = |kind: &AtomicU8| kind.load(Ordering::Relaxed) == 3;
    // Fewer than 2^31.
    HOT.kinds
        .iter()
        .enumerate()
        .filter(move |(_, kind)| is_one(kind))
        .map(|(number, _)| number as i32)
}

/// Forgets what descriptors were, from `first` to `last`.
pub(crate) fn forget(first: usize, last: usize) {
    for kind in HOT
        .kinds
        .get(first..)
        .unwrap_or_default()
        .iter()
        .take(last.saturating_sub(first).saturating_add(1))
    {
        kind.store(0, Ordering::Relaxed);
    }
}

/// Where the process works, as far as projections go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Working {
    /// Nothing is known.
    Unknown,
    /// Neither in a projection nor above one.
    Outside,
    /// Above one: the rest of its directory's path begins at this byte.
    Above { projection: u32, rest: usize },
    /// In a directory of one.
    Inside { projection: u32, directory: EntryId },
}

/// Returns where the process works.
#[inline]
pub(crate) fn working() -> Working {
    let word = HOT.working.load(Ordering::Relaxed);
    if is_shared() {
        return Working::Unknown;
    }
    let projection = (word >> 32 & 0xff) as u32;
    match word >> 40 {
        1 => Working::Outside,
        2 => Working::Above { projection, rest: (word & 0xffff_ffff) as usize },
        3 => Working::Inside { projection, directory: EntryId(word as u32) },
        _ => Working::Unknown,
    }
}

/// Remembers where the process works.
pub(crate) fn set_working(working: Working) {
    if is_shared() && working != Working::Unknown {
        return;
    }
    let word = match working {
        Working::Unknown => 0,
        Working::Outside => 1 << 40,
        Working::Above { projection, rest } => 2 << 40 | u64::from(projection) << 32 | rest as u64,
        Working::Inside { projection, directory } => {
            3 << 40 | u64::from(projection) << 32 | u64::from(directory.0)
        }
    };
    HOT.working.store(word, Ordering::Relaxed);
}

/// The effective user, plus 1; 0 while it is not known.
static USER: AtomicU64 = AtomicU64::new(0);

/// Returns the effective user.
#[inline]
pub(crate) fn user() -> u32 {
    match USER.load(Ordering::Relaxed).checked_sub(1) {
        Some(known) if !is_shared() => known as u32,
        _ => {
            let (user, _) = sys::effective_ids();
            if !is_shared() {
                USER.store(u64::from(user) + 1, Ordering::Relaxed);
            }
            user
        }
    }
}

/// Forgets who the effective user is.
pub(crate) fn forget_user() {
    USER.store(0, Ordering::Relaxed);
}

/// How many places there are for paths that are known not to lead into a projection.
const MISSES: usize = 1 << 14;

static MISSED: [AtomicU64; MISSES] = [const { AtomicU64::new(0) }; MISSES];

/// What is remembered for a path with this hash as long as names are what they are now.
fn key(hash: u64) -> u64 {
    hash.wrapping_mul(2 * counts::names() + 1) | 1
}

/// Tells whether a path, or names in a directory, are known not to lead into a projection, by a hash.
pub(crate) fn is_missed(hash: u64) -> bool {
    let place = MISSED.get(hash as usize % MISSES);
    place.is_some_and(|place| place.load(Ordering::Relaxed) == key(hash))
}

/// Remembers that.
pub(crate) fn miss(hash: u64) {
    if let Some(place) = MISSED.get(hash as usize % MISSES) {
        place.store(key(hash), Ordering::Relaxed);
    }
}
