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

/// The page; what its parts mean, those say that use them. What is read together lies in one line of the processor's cache,
/// of which the kernel leaves few.
#[repr(C, align(4096))]
pub(crate) struct Hot {
    /// What all directories of projections begin with: where it is, how long, and its last eight bytes.
    pub(crate) prefix: AtomicUsize,
    pub(crate) prefix_bytes: AtomicUsize,
    pub(crate) prefix_end: AtomicU64,
    /// The page of the program that was read last.
    pub(crate) page_read: AtomicUsize,
    /// Not 0 while a child may share this memory.
    pub(crate) sharing: AtomicUsize,
    /// Where the process works.
    pub(crate) working: AtomicU64,
    /// Of which projections the user may search all directories: a bit for each that is mapped.
    pub(crate) searched: AtomicUsize,
    /// Where the file of counts is mapped.
    pub(crate) counts: AtomicUsize,

    /// Where the slots of the state of the only projection are, and how many, once it is mapped.
    pub(crate) slots: AtomicUsize,
    pub(crate) slot_count: AtomicUsize,
    /// The device that it is on, and the inodes of its directory and of the stand-in, of the same device or another.
    pub(crate) device: AtomicU64,
    pub(crate) inode: AtomicU64,
    pub(crate) stand_in: AtomicU64,
    /// The path key of the directory of a tree that the process works in.
    pub(crate) working_key: AtomicU64,
    /// Calls answered, and calls about trees that the kernel has done, that were not added to the counts.
    pub(crate) answered: AtomicU64,
    pub(crate) passed: AtomicU64,

    /// How many of `offsets` are taken.
    pub(crate) offsets_taken: AtomicUsize,
    /// The effective user and the real one, plus 1; 0 while it is not known.
    pub(crate) user: AtomicU64,
    pub(crate) real_user: AtomicU64,
    /// What tells who shares this memory.
    pub(crate) page: AtomicUsize,
    /// Where the journal is mapped, while this process is recorded.
    pub(crate) journal: AtomicUsize,
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
}

/// The offset of an open stand-in, and how many descriptors have it open.
pub(crate) struct Offset {
    pub(crate) offset: AtomicU64,
    pub(crate) holders: AtomicU32,
}

pub(crate) static HOT: Hot = Hot {
    prefix: AtomicUsize::new(0),
    prefix_bytes: AtomicUsize::new(0),
    prefix_end: AtomicU64::new(0),
    page_read: AtomicUsize::new(0),
    // Until the page is there.
    sharing: AtomicUsize::new(1),
    working: AtomicU64::new(0),
    searched: AtomicUsize::new(0),
    counts: AtomicUsize::new(0),
    slots: AtomicUsize::new(0),
    slot_count: AtomicUsize::new(0),
    device: AtomicU64::new(0),
    inode: AtomicU64::new(0),
    stand_in: AtomicU64::new(0),
    working_key: AtomicU64::new(0),
    answered: AtomicU64::new(0),
    passed: AtomicU64::new(0),
    offsets_taken: AtomicUsize::new(0),
    user: AtomicU64::new(0),
    real_user: AtomicU64::new(0),
    page: AtomicUsize::new(0),
    journal: AtomicUsize::new(0),
    ways: WAYS,
    readable: [const { AtomicUsize::new(0) }; PAGES],
    writable: [const { AtomicUsize::new(0) }; PAGES],
    descriptors: [const { AtomicU64::new(0) }; DESCRIPTORS],
    offsets: [const { Offset { offset: AtomicU64::new(0), holders: AtomicU32::new(0) } }; OFFSETS],
};

const _: () = assert!(size_of::<Hot>() == 4096);
