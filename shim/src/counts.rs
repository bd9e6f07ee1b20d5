//! What the processes of a run count together, in a file that all of them have mapped.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use rift_tree::run::Count;

use crate::sys::{self, Result};
use crate::text::Text;

/// Where the file is mapped.
static COUNTS: AtomicUsize = AtomicUsize::new(0);
/// Calls answered since the last [`flush`], and calls that the kernel has done; two threads at once may lose one.
static ANSWERED: AtomicU64 = AtomicU64::new(0);
static PASSED: AtomicU64 = AtomicU64::new(0);

/// Maps the file of this path.
pub(crate) fn set(path: &[u8]) -> Result<()> {
    let mapped = sys::map_counts(&Text::of(path)?)?;
    COUNTS.store(mapped, Ordering::Release);
    Ok(())
}

fn place(count: Count) -> Option<&'static AtomicU64> {
    let start = COUNTS.load(Ordering::Acquire);
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
pub(crate) fn names() -> u64 {
    place(Count::Names).map_or(0, |place| place.load(Ordering::Acquire))
}

/// Counts a call that was answered.
#[inline]
pub(crate) fn answered() {
    // No other process is to be disturbed.
    ANSWERED.store(ANSWERED.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// Counts a call about a tree that the kernel does.
pub(crate) fn passed() {
    PASSED.store(PASSED.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// Returns how many those were.
#[inline]
pub(crate) fn passed_until() -> u64 {
    PASSED.load(Ordering::Relaxed)
}

/// Adds what this process has answered: it ends, or becomes another program.
pub(crate) fn flush() {
    if let Some(place) = place(Count::Answered) {
        place.fetch_add(ANSWERED.swap(0, Ordering::Relaxed), Ordering::AcqRel);
    }
    if let Some(place) = place(Count::Passed) {
        place.fetch_add(PASSED.swap(0, Ordering::Relaxed), Ordering::AcqRel);
    }
}
