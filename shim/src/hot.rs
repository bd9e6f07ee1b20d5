//! What nearly every system call looks at, in one page.
//!
//! Every page that is touched on the way to the kernel, or to an answer, costs some nanoseconds more than what is read of it.

use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize};

use crate::table::{NUMBERS, WAYS, Way};

/// How many pages of the program are remembered that could be read, or written to.
pub(crate) const PAGES: usize = 32;
/// Descriptors below are told apart here.
pub(crate) const DESCRIPTORS: usize = 256;
/// How many open stand-ins have their offset here.
pub(crate) const OFFSETS: usize = 32;

/// The page; what its parts mean, those say that use them.
#[repr(C, align(4096))]
pub(crate) struct Hot {
    /// What to do at a system call.
    pub(crate) ways: [Way; NUMBERS],
    /// Pages of the program that could be read.
    pub(crate) readable: [AtomicUsize; PAGES],
    /// Pages of the program that could be written to.
    pub(crate) writable: [AtomicUsize; PAGES],
    /// What descriptors are known to be.
    pub(crate) descriptors: [AtomicU64; DESCRIPTORS],
    /// Where open stand-ins are.
    pub(crate) offsets: [Offset; OFFSETS],
    /// How many of these are taken.
    pub(crate) offsets_taken: AtomicUsize,
    /// What all directories of projections begin with: where it is, how long, and its last eight bytes.
    pub(crate) prefix: AtomicUsize,
    pub(crate) prefix_bytes: AtomicUsize,
    pub(crate) prefix_end: AtomicU64,
    /// The projection, where there is one only, it is mapped, and the user searches all its directories.
    pub(crate) shown: AtomicUsize,
    /// Where the process works, and the path key of that directory of a tree.
    pub(crate) working: AtomicU64,
    pub(crate) working_key: AtomicU64,
    /// The effective user and the real one, plus 1; 0 while it is not known.
    pub(crate) user: AtomicU64,
    pub(crate) real_user: AtomicU64,
    /// Not 0 while a child may share this memory.
    pub(crate) sharing: AtomicUsize,
    /// What tells who does.
    pub(crate) page: AtomicUsize,
    /// Where the file of counts is mapped.
    pub(crate) counts: AtomicUsize,
    /// Calls answered that were not added to it.
    pub(crate) answered: AtomicU64,
}

/// The offset of an open stand-in, and how many descriptors have it open.
pub(crate) struct Offset {
    pub(crate) offset: AtomicU64,
    pub(crate) holders: AtomicU32,
}

pub(crate) static HOT: Hot = Hot {
    ways: WAYS,
    readable: [const { AtomicUsize::new(0) }; PAGES],
    writable: [const { AtomicUsize::new(0) }; PAGES],
    descriptors: [const { AtomicU64::new(0) }; DESCRIPTORS],
    offsets: [const { Offset { offset: AtomicU64::new(0), holders: AtomicU32::new(0) } }; OFFSETS],
    offsets_taken: AtomicUsize::new(0),
    prefix: AtomicUsize::new(0),
    prefix_bytes: AtomicUsize::new(0),
    prefix_end: AtomicU64::new(0),
    shown: AtomicUsize::new(0),
    working: AtomicU64::new(0),
    working_key: AtomicU64::new(0),
    user: AtomicU64::new(0),
    real_user: AtomicU64::new(0),
    // Until the page is there.
    sharing: AtomicUsize::new(1),
    page: AtomicUsize::new(0),
    counts: AtomicUsize::new(0),
    answered: AtomicU64::new(0),
};

const _: () = assert!(size_of::<Hot>() == 4096);
