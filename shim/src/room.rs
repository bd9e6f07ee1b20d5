//! Room to work in: stacks, and with each a place for an environment.
//!
//! A program may have little stack left where it makes a system call: in a child of posix_spawn(3), in a handler on a
//! stack of its own, in a thread that was given few pages. So calls are served on stacks that the shim keeps. One is taken
//! for as long as a call is served; a child that shares this memory and becomes another program never gives its one
//! back, so the kernel does it.
//!
//! What tells who is at it lies in a page that a child of fork(2) finds empty, see MADV_WIPEONFORK in madvise(2): no thread
//! but the forking one lives on in it.

use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use crate::hot::HOT;
use crate::sys;

/// How many calls can be served at once; what is more than that stays on the stacks of the program.
const ROOMS: usize = 32;
/// What a stack takes, in bytes.
const STACK_BYTES: usize = 256 << 10;
/// What an environment may take, in bytes.
pub(crate) const ENVIRONMENT_BYTES: usize = 1 << 20;
const ROOM_BYTES: usize = STACK_BYTES + ENVIRONMENT_BYTES;
/// How many threads can wait for children that share this memory.
const SHARERS: usize = 64;

/// What a child of fork(2) finds empty.
struct Page {
    /// The process; 0 while it is not known.
    process: AtomicU32,
    /// Threads that wait for a child which shares this memory.
    sharers: [AtomicU32; SHARERS],
    /// Which rooms are taken.
    taken: [AtomicU32; ROOMS],
}

const _: () = assert!(size_of::<Page>() <= sys::PAGE_BYTES);

/// Where the rooms are.
static START: AtomicUsize = AtomicUsize::new(0);

/// Makes the page.
pub(super) fn begin() {
    // Without it everything is served where the program is, and nothing is remembered.
    if let Ok(page) = sys::reserve_wiped() {
        HOT.page.store(page, Ordering::Release);
        HOT.sharing.store(0, Ordering::Release);
    }
}

#[inline]
fn page() -> Option<&'static Page> {
    sys::kept(HOT.page.load(Ordering::Acquire))
}

/// Notes that the calling thread starts a child that shares this memory, and waits for it.
pub(crate) fn share() {
    let Some(page) = page() else { return };
    forget_sharers_of_parent(page);
    let thread = sys::tid();
    page.process.store(sys::pid(), Ordering::Release);
    HOT.sharing.fetch_add(1, Ordering::SeqCst);
    let mut at = 0;
    while let Some(place) = page.sharers.get(at) {
        if place.compare_exchange(0, thread, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            return;
        }
        at += 1;
    }
    // Too many: nothing is remembered any more.
}

/// Notes that threads work in places, or have descriptors, of their own.
pub(crate) fn share_for_good() {
    if let Some(page) = page() {
        page.process.store(sys::pid(), Ordering::Release);
        HOT.sharing.fetch_add(1, Ordering::SeqCst);
    }
}

/// Tells whether a child may share this memory.
#[inline(always)]
pub(crate) fn is_shared() -> bool {
    HOT.sharing.load(Ordering::Relaxed) != 0 && is_still_shared()
}

/// A thread goes on when its child is gone, and then asks this itself.
#[cold]
#[inline(never)]
fn is_still_shared() -> bool {
    let Some(page) = page() else { return true };
    forget_sharers_of_parent(page);
    let thread = sys::tid();
    let mut at = 0;
    while let Some(place) = page.sharers.get(at) {
        // What the child did is not this process's, but it wrote nothing down.
        if place.compare_exchange(thread, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            HOT.sharing.fetch_sub(1, Ordering::SeqCst);
        }
        at += 1;
    }
    HOT.sharing.load(Ordering::SeqCst) != 0
}

/// In a child of fork(2), whose page is empty and whose only thread asks, nobody shares what the parent's threads shared.
fn forget_sharers_of_parent(page: &Page) {
    if page.process.load(Ordering::Acquire) == 0 {
        HOT.sharing.store(0, Ordering::SeqCst);
    }
}

/// Tells whether the caller is a child that shares the memory of its parent.
pub(crate) fn is_child() -> bool {
    let known = page().map_or(0, |page| page.process.load(Ordering::Acquire));
    is_shared() && known != 0 && known != sys::pid()
}

/// Takes a stack; returns its upper end, or 0 where there is none.
pub(crate) fn take() -> usize {
    let Some(page) = page() else { return 0 };
    let Some(start) = start() else { return 0 };
    if is_at_end(start) {
        return 0;
    }
    let mut at = 0;
    while let Some(place) = page.taken.get(at) {
        let is_free = place.load(Ordering::Relaxed) == 0;
        if is_free && place.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            return start + at * ROOM_BYTES + STACK_BYTES;
        }
        at += 1;
    }
    0
}

/// Tells whether the caller has just begun on a stack of ours. One that a signal has interrupted on it is further down, as
/// what the kernel saves of it is not small.
fn is_at_end(start: usize) -> bool {
    const NEAR_BYTES: usize = 1024;
    let here = 0_u8;
    let offset = core::ptr::from_ref(&here).addr().wrapping_sub(start);
    offset < ROOMS * ROOM_BYTES && STACK_BYTES.wrapping_sub(offset % ROOM_BYTES) < NEAR_BYTES
}

/// Returns what is not 0 as long as a stack is taken, by its upper end.
pub(crate) fn flag(end: usize) -> Option<&'static AtomicU32> {
    place_of(end)
}

/// Gives a stack back.
pub(crate) fn give_back(end: usize) {
    if let Some(place) = place_of(end) {
        place.store(0, Ordering::Release);
    }
}

fn place_of(end: usize) -> Option<&'static AtomicU32> {
    let at = end.checked_sub(START.load(Ordering::Acquire))? / ROOM_BYTES;
    page()?.taken.get(at)
}

/// Returns where the rooms are, making them when it is the first time.
fn start() -> Option<usize> {
    let known = START.load(Ordering::Acquire);
    if known != 0 {
        return Some(known);
    }
    let made = sys::reserve(ROOMS * ROOM_BYTES).ok()?;
    match START.compare_exchange(0, made, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => Some(made),
        Err(other) => {
            sys::release(made, ROOMS * ROOM_BYTES);
            Some(other)
        }
    }
}

/// Where an environment may be made: beside the stack that the caller is on, or for ever where it is on its own.
pub(crate) fn for_environment() -> sys::Result<usize> {
    match own_end() {
        Some(end) => Ok(end),
        None => sys::reserve(ENVIRONMENT_BYTES),
    }
}

/// The upper end of the stack of ours that the caller is on.
fn own_end() -> Option<usize> {
    let here = 0_u8;
    let start = START.load(Ordering::Acquire);
    let offset = core::ptr::from_ref(&here).addr().checked_sub(start)?;
    (start != 0 && offset < ROOMS * ROOM_BYTES)
        .then(|| start + offset / ROOM_BYTES * ROOM_BYTES + STACK_BYTES)
}

/// Runs `start`, which becomes another program or fails. A child that shares this memory leaves its room to the kernel:
/// it writes a 0 when the memory is left, see set_tid_address(2).
pub(crate) fn leaving<T>(start: impl FnOnce() -> T) -> T {
    let place = own_end().and_then(place_of).filter(|_| is_child());
    if let Some(place) = place {
        sys::clear_when_gone(core::ptr::from_ref(place).addr());
    }
    let result = start();
    if place.is_some() {
        sys::clear_when_gone(0);
    }
    result
}
