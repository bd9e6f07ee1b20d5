//! What nearly every system call looks at, in one page.
//!
//! The kernel may forget on each system call where pages are, so that every page that is touched on the way to it costs
//! some nanoseconds more than what is read of it.

use core::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize};

use crate::table::{NUMBERS, SHAPES, Shape};

/// How many pages of the program are remembered that could be read.
pub(crate) const PAGES: usize = 128;
/// Descriptors below are told apart here.
pub(crate) const DESCRIPTORS: usize = 1024;

/// The page; what its parts mean, those say that use them.
#[repr(C, align(4096))]
pub(crate) struct Hot {
    /// What each system call is given.
    pub(crate) shapes: [Shape; NUMBERS],
    /// Pages of the program that could be read.
    pub(crate) readable: [AtomicUsize; PAGES],
    /// What descriptors are known to be.
    pub(crate) kinds: [AtomicU8; DESCRIPTORS],
    /// What all directories of projections begin with: where it is, how long, and its last eight bytes.
    pub(crate) prefix: AtomicUsize,
    pub(crate) prefix_bytes: AtomicUsize,
    pub(crate) prefix_end: AtomicU64,
    /// Where the process works.
    pub(crate) working: AtomicU64,
    /// What tells who shares this memory.
    pub(crate) page: AtomicUsize,
}

pub(crate) static HOT: Hot = Hot {
    shapes: SHAPES,
    readable: [const { AtomicUsize::new(0) }; PAGES],
    kinds: [const { AtomicU8::new(0) }; DESCRIPTORS],
    prefix: AtomicUsize::new(0),
    prefix_bytes: AtomicUsize::new(0),
    prefix_end: AtomicU64::new(0),
    working: AtomicU64::new(0),
    page: AtomicUsize::new(0),
};

const _: () = assert!(size_of::<Hot>() == 4096);
