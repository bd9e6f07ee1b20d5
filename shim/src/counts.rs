//! What the processes of a run count together, in a file that all of them have mapped.

use core::ffi::CStr;
use core::sync::atomic::{AtomicU64, Ordering};

use rift_tree::run::Count;

use crate::hot::HOT;
use crate::sys::{self, Result};

/// Maps the file of this path.
pub(crate) fn set(path: &CStr) -> Result<()> {
    let mapped = sys::map_counts(path)?;
    HOT.counts.store(mapped, Ordering::Release);
    Ok(())
}

#[inline(always)]
fn place(count: Count) -> Option<&'static AtomicU64> {
    let start = HOT.counts.load(Ordering::Acquire);
    // The file has room for each.
    sys::kept(if start == 0 { 0 } else { start + count as usize * size_of::<u64>() })
}

/// Counts one more.
pub(crate) fn add(count: Count) {
    if let Some(place) = place(count) {
        place.fetch_add(1, Ordering::AcqRel);
    }
}

/// Takes one back.
pub(crate) fn take_back(count: Count) {
    if let Some(place) = place(count) {
        place.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Returns how often names were changed.
#[inline(always)]
pub(crate) fn names() -> u64 {
    place(Count::Names).map_or(0, |place| place.load(Ordering::Acquire))
}

/// Tells whether the kernel's word on a path without links may not be taken, see [`Count::Doubts`].
#[inline(always)]
pub(crate) fn are_in_doubt() -> bool {
    place(Count::Doubts).is_none_or(|place| place.load(Ordering::Acquire) != 0)
}

/// Counts a call that was answered; two threads at once may lose one.
#[inline(always)]
pub(crate) fn answered() {
    // No other process is to be disturbed.
    HOT.answered.store(HOT.answered.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// Counts a call about a tree that the kernel does.
#[inline(always)]
pub(crate) fn passed() {
    HOT.passed.store(HOT.passed.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// Returns how many those were.
#[inline]
pub(crate) fn passed_until() -> u64 {
    HOT.passed.load(Ordering::Relaxed)
}

/// Adds what this process has answered: it ends, or becomes another program.
pub(crate) fn flush() {
    if let Some(place) = place(Count::Answered) {
        place.fetch_add(HOT.answered.swap(0, Ordering::Relaxed), Ordering::AcqRel);
    }
    if let Some(place) = place(Count::Passed) {
        place.fetch_add(HOT.passed.swap(0, Ordering::Relaxed), Ordering::AcqRel);
    }
}
