//! The state word: 16 bytes in a shared mapping that tell who answers for one entry.
//!
//! ```text
//! state file: | header 80 | words: entries × 16 | slots: [`slot_count`] × 4 | end mark 4 "REND" |
//! header:     | magic 8 "RIFTSTAT" | version u32 | entries u32 | tree hash 32 | device u64 | inode u64 | boot id 16 |
//! word:       | control u64 | real inode u64 |
//! control:    | state 2 bits | owner pid 22 bits, owner birth 16 bits; or file birth 38 bits | generation 24 bits |
//! ```
//!
//! States go one way: pristine → claimed → detached, or back from claimed to pristine when a claim
//! is given up. All changes are compare-and-swaps of `control`, so one word is all that has to be
//! atomic; `inode` is swapped in by the owner of the claim before it publishes *detached* (release),
//! and read after *detached* was seen (acquire). It is 0 until then, and 2^64 - 1 where the entry was
//! taken away, or 2^64 - 2 where another file took its place. File systems give a number that is free to the next file, so
//! the word of a real file also holds when that file was made. A process that dies leaves *claimed*; whoever needs the entry asks the system whether
//! that owner still lives (pid and birth, so that a recycled pid does not count) and takes the claim
//! over, which raises the generation: the slow owner of an old claim can neither publish any more nor
//! change the inode that somebody else published.
//!
//! The slots find the entry that a real file was made of, by its inode: see [`Inodes`].

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::bytes::{split_header, u32_at, u64_at};
use crate::error::FormatError;
use crate::hash::TreeHash;
use crate::manifest::EntryId;

/// The first eight bytes of every state file.
pub const MAGIC: [u8; 8] = *b"RIFTSTAT";
/// The version of the format that this crate writes and reads.
pub const VERSION: u32 = 4;
/// The size of the header, in bytes.
pub const HEADER_BYTES: usize = 80;
/// Where the boot id begins in the header.
pub const BOOT_OFFSET: usize = 64;

/// The size of a state word, in bytes.
pub const WORD_BYTES: usize = 16;

/// The size of a slot, in bytes.
pub const SLOT_BYTES: usize = 4;
/// The last four bytes of every state file, as a number: a file that somebody has cut has lost them, wherever that was,
/// and whoever has it mapped can tell by one load.
pub const END_MARK: u32 = u32::from_le_bytes(*b"REND");

/// Returns how many slots there are for a tree of so many entries: a power of two, at least twice as many.
#[must_use]
pub const fn slot_count(entries: u32) -> usize {
    (entries as usize * 2).next_power_of_two()
}

/// What the header of a state file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// How many entries the tree has, and so the file words.
    pub entries: u32,
    /// The tree.
    pub tree: TreeHash,
    /// `st_dev` of the directory that the tree is shown at.
    pub device: u64,
    /// `st_ino` of that directory.
    pub inode: u64,
    /// The boot in which the state was last brought up to date, see random(4): what it says of files is what the kernel
    /// was told, and is on the disk only if the machine has not stopped since.
    pub boot: [u8; 16],
}

impl Header {
    /// Returns the bytes that a state file begins with.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.entries.to_le_bytes());
        bytes[16..48].copy_from_slice(self.tree.as_bytes());
        bytes[48..56].copy_from_slice(&self.device.to_le_bytes());
        bytes[56..BOOT_OFFSET].copy_from_slice(&self.inode.to_le_bytes());
        bytes[BOOT_OFFSET..].copy_from_slice(&self.boot);
        bytes
    }

    /// Reads the header that a state file begins with.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let (header, _) = split_header(bytes, HEADER_BYTES, MAGIC, VERSION)?;
        let mut tree = [0; 32];
        tree.copy_from_slice(&header[16..48]);
        Ok(Self {
            entries: u32_at(header, 3).unwrap_or_default(),
            tree: TreeHash::from_bytes(tree),
            device: u64_at(header, 6).unwrap_or_default(),
            inode: u64_at(header, 7).unwrap_or_default(),
            boot: header[BOOT_OFFSET..].try_into().unwrap_or_default(),
        })
    }

    /// Returns how long the file is, in bytes.
    #[must_use]
    pub fn file_bytes(&self) -> usize {
        self.end_offset() + size_of_val(&END_MARK)
    }

    /// Returns where in the file the end mark begins, in bytes.
    #[must_use]
    pub fn end_offset(&self) -> usize {
        self.slots_offset() + slot_count(self.entries) * SLOT_BYTES
    }

    /// Returns where in the file the slots begin, in bytes.
    #[must_use]
    pub fn slots_offset(&self) -> usize {
        HEADER_BYTES + self.entries as usize * WORD_BYTES
    }
}

/// Where files are that were made real and are on their way to their place, below the directory of a projection; it is in
/// nobody's listing and can't be looked up.
pub const ORPHANS: &str = ".rift-orphans";

const PRISTINE: u64 = 0;
const CLAIMED: u64 = 1;
const DETACHED: u64 = 2;
const OWNER_SHIFT: u32 = 2;
const GENERATION_SHIFT: u32 = 40;
const OWNER_MASK: u64 = (1 << 38) - 1;
/// The inode word of an entry that was taken away: not 0, with which every word begins.
const GONE: u64 = u64::MAX;
/// The inode of a detached entry whose place another file took. It is no file's: where nothing is at the place any more,
/// the disk was not told of that file before the machine stopped, and the entry was there.
pub const REPLACED: u64 = u64::MAX - 1;

/// When a real file was made: the low 38 bits of its birth in nanoseconds, see statx(2), or 0 where that is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Birth(u64);

impl Birth {
    /// The file system does not tell.
    pub const UNKNOWN: Self = Self(0);

    /// Returns the birth at so many nanoseconds after a second since the epoch.
    #[must_use]
    pub const fn new(seconds: i64, nanoseconds: u32) -> Self {
        let total = seconds.cast_unsigned().wrapping_mul(1_000_000_000);
        match total.wrapping_add(nanoseconds as u64) & OWNER_MASK {
            0 => Self(1),
            low => Self(low),
        }
    }

    /// Tells whether one file may have both births.
    #[must_use]
    pub fn may_be(self, other: Self) -> bool {
        self == other || self == Self::UNKNOWN || other == Self::UNKNOWN
    }
}

/// The real file that is at an entry's place from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Real {
    /// Its inode number.
    pub inode: u64,
    /// Tells it from the file that gets the number when it is gone.
    pub birth: Birth,
}

impl Real {
    /// There is none: the entry was taken away.
    pub const NONE: Self = Self { inode: 0, birth: Birth::UNKNOWN };
    /// There is none any more, and another file is at the place: see [`REPLACED`].
    pub const REPLACED: Self = Self { inode: REPLACED, birth: Birth::UNKNOWN };
}

/// A process that may own a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner(u64);

impl Owner {
    /// Names a process by its pid (at most `PID_MAX_LIMIT`, 2^22, see proc(5)) and the low bits of
    /// its start time in clock ticks since boot.
    #[must_use]
    pub const fn new(pid: u32, birth_ticks: u64) -> Self {
        Self(((birth_ticks & 0xffff) << 22) | (pid as u64 & 0x3f_ffff))
    }

    /// Returns the pid.
    #[must_use]
    pub const fn pid(self) -> u32 {
        // 22 bits.
        (self.0 & 0x3f_ffff) as u32
    }

    /// Returns the low 16 bits of the start time.
    #[must_use]
    pub const fn birth(self) -> u16 {
        // 16 bits above the pid.
        (self.0 >> 22) as u16
    }
}

/// What a word says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The tree answers.
    Pristine,
    /// Somebody is making the entry real or taking it away; the tree still answers reads.
    Claimed(Owner),
    /// The kernel answers. The inode is 0 where the entry was taken away.
    Detached {
        /// The real file's inode number.
        inode: u64,
    },
}

/// A claim that was won: proof for [`StateWord::finish`] and [`StateWord::give_up`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a claim that is neither finished nor given up blocks the entry until its owner dies"]
pub struct Claim {
    control: u64,
}

/// How an attempt to claim ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Attempt {
    /// The claim is the caller's.
    Won(Claim),
    /// Somebody else has it.
    Busy(Owner),
    /// There is nothing to claim: the entry is detached.
    Detached,
}

/// The state of one entry, as it lies in the shared mapping.
#[derive(Debug, Default)]
#[repr(C)]
pub struct StateWord {
    control: AtomicU64,
    inode: AtomicU64,
}

const _: () = assert!(size_of::<StateWord>() == WORD_BYTES);

fn pack(state: u64, owner: u64, generation: u64) -> u64 {
    state | owner << OWNER_SHIFT | generation << GENERATION_SHIFT
}

fn owner_of(control: u64) -> Owner {
    Owner(control >> OWNER_SHIFT & OWNER_MASK)
}

impl StateWord {
    /// Returns a pristine word.
    #[must_use]
    pub const fn new() -> Self {
        Self { control: AtomicU64::new(0), inode: AtomicU64::new(0) }
    }

    /// Returns what the word says now.
    #[must_use]
    #[inline]
    pub fn load(&self) -> State {
        let control = self.control.load(Ordering::Acquire);
        match control & 3 {
            PRISTINE => State::Pristine,
            CLAIMED => State::Claimed(owner_of(control)),
            // An unknown state can only come from damage; the kernel's answer is then the safe one.
            _ => match self.inode.load(Ordering::Relaxed) {
                GONE => State::Detached { inode: 0 },
                inode => State::Detached { inode },
            },
        }
    }

    /// Tries to claim a pristine entry for `owner`.
    pub fn claim(&self, owner: Owner) -> Attempt {
        let seen = self.control.load(Ordering::Acquire);
        match seen & 3 {
            PRISTINE => self.swap_claim(seen, owner),
            CLAIMED => Attempt::Busy(owner_of(seen)),
            _ => Attempt::Detached,
        }
    }

    /// Takes over the claim of `dead`, of which the caller knows that it does not live any more.
    pub fn take_over(&self, dead: Owner, owner: Owner) -> Attempt {
        let seen = self.control.load(Ordering::Acquire);
        match seen & 3 {
            PRISTINE => self.swap_claim(seen, owner),
            CLAIMED if owner_of(seen) == dead => self.swap_claim(seen, owner),
            CLAIMED => Attempt::Busy(owner_of(seen)),
            _ => Attempt::Detached,
        }
    }

    fn swap_claim(&self, seen: u64, owner: Owner) -> Attempt {
        let generation = (seen >> GENERATION_SHIFT).wrapping_add(1) & 0xff_ffff;
        let control = pack(CLAIMED, owner.0, generation);
        let swapped =
            self.control.compare_exchange(seen, control, Ordering::AcqRel, Ordering::Acquire);
        match swapped {
            Ok(_) => Attempt::Won(Claim { control }),
            Err(now) => match now & 3 {
                // Given up in between: the caller may try again.
                PRISTINE | CLAIMED => Attempt::Busy(owner_of(now)),
                _ => Attempt::Detached,
            },
        }
    }

    /// Returns when the real file of a detached entry was made.
    #[must_use]
    pub fn birth(&self) -> Birth {
        match self.control.load(Ordering::Acquire) {
            control if control & 3 == DETACHED => Birth(owner_of(control).0),
            _ => Birth::UNKNOWN,
        }
    }

    /// Publishes that the kernel answers from now on, with `real` at the entry's place.
    ///
    /// Returns whether the claim still held. If not, somebody took it over, and what the caller has
    /// made must not be put in place.
    pub fn finish(&self, claim: Claim, real: Real) -> bool {
        let generation = claim.control >> GENERATION_SHIFT;
        let inode = if real.inode == 0 { GONE } else { real.inode };
        // An owner that was replaced may be anywhere in this loop while its successor publishes. The
        // inode that it saw before it looked at its claim is not there any more then, so it swaps
        // nothing. Seeing the successor's inode (acquire) it also sees that the claim is lost.
        loop {
            let seen = self.inode.load(Ordering::Acquire);
            if self.control.load(Ordering::Acquire) != claim.control {
                return false;
            }
            let swapped =
                self.inode.compare_exchange(seen, inode, Ordering::AcqRel, Ordering::Relaxed);
            if swapped.is_ok() {
                break;
            }
        }
        let detached = pack(DETACHED, real.birth.0, generation);
        self.control
            .compare_exchange(claim.control, detached, Ordering::Release, Ordering::Relaxed)
            .is_ok()
    }

    /// Notes that the real file of a detached entry is gone, so that its inode number, which the file
    /// system gives to the next file, is not taken for the entry's.
    pub fn forget_inode(&self, inode: u64) {
        let swapped = self.inode.compare_exchange(inode, GONE, Ordering::AcqRel, Ordering::Relaxed);
        // Another number is another file's, which is there.
        let _is_forgotten = swapped.is_ok();
    }

    /// Notes that another file took the place of the entry's real file, which is gone for good.
    pub fn replace_inode(&self, inode: u64) {
        let swapped =
            self.inode.compare_exchange(inode, REPLACED, Ordering::AcqRel, Ordering::Relaxed);
        // As above.
        let _is_replaced = swapped.is_ok();
    }

    /// Makes an entry pristine again whose real file, of this inode, did not reach the disk. Nobody else may show the
    /// projection; `false` when the word says something else.
    #[must_use]
    pub fn revert(&self, inode: u64) -> bool {
        let seen = self.control.load(Ordering::Acquire);
        if self.load() != (State::Detached { inode }) {
            return false;
        }
        let pristine = pack(PRISTINE, 0, seen >> GENERATION_SHIFT);
        self.control.compare_exchange(seen, pristine, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Gives the claim up: the tree answers again.
    pub fn give_up(&self, claim: Claim) -> bool {
        let generation = claim.control >> GENERATION_SHIFT;
        let pristine = pack(PRISTINE, 0, generation);
        self.control
            .compare_exchange(claim.control, pristine, Ordering::Release, Ordering::Relaxed)
            .is_ok()
    }
}

/// Finds the entry that a real file was made of, by the file's inode, in any process.
///
/// A hash table with open addressing that only grows: a slot holds 0, or one more than an entry whose word
/// holds, or held, an inode that hashes to a slot before it. What counts is the word, so nothing is ever
/// removed, and since an entry is detached once, half of the slots stay empty.
#[derive(Debug, Clone, Copy)]
pub struct Inodes<'s> {
    words: &'s [StateWord],
    slots: &'s [AtomicU32],
}

impl<'s> Inodes<'s> {
    /// Returns the table of these words and slots, of which there are [`slot_count`].
    #[must_use]
    pub const fn new(words: &'s [StateWord], slots: &'s [AtomicU32]) -> Self {
        Self { words, slots }
    }

    /// Returns the entry whose word has this inode, if there is one.
    #[must_use]
    pub fn entry(&self, inode: u64) -> Option<EntryId> {
        for slot in self.chain(inode) {
            match slot.load(Ordering::Acquire).checked_sub(1) {
                None => return None,
                Some(id) => {
                    let word = self.words.get(id as usize)?;
                    if inode != 0 && word.load() == (State::Detached { inode }) {
                        return Some(EntryId(id));
                    }
                }
            }
        }
        None
    }

    /// Lets `inode` lead to an entry from the moment on when its word says so.
    pub fn add(&self, inode: u64, id: EntryId) {
        let value = id.0.wrapping_add(1);
        for slot in self.chain(inode) {
            let swapped = slot.compare_exchange(0, value, Ordering::AcqRel, Ordering::Acquire);
            if swapped.is_ok() || swapped == Err(value) {
                return;
            }
        }
    }

    /// Tells at a glance that no entry has this inode, of a table with these slots alone; else it may have one.
    #[must_use]
    #[inline(always)]
    pub fn has_none(slots: &[AtomicU32], inode: u64) -> bool {
        let first = slots.get(first_slot(inode, slots.len()));
        first.is_none_or(|slot| slot.load(Ordering::Acquire) == 0)
    }

    /// The slots in which an inode may be found, the first one first.
    fn chain(&self, inode: u64) -> impl Iterator<Item = &'s AtomicU32> + use<'s> {
        let first = first_slot(inode, self.slots.len());
        self.slots[first..].iter().chain(&self.slots[..first])
    }
}

/// Returns the slot in which an inode is looked for first.
#[inline(always)]
fn first_slot(inode: u64, slots: usize) -> usize {
    // Fibonacci hashing: neighbors, as inodes are, go far apart.
    let hash = inode.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    hash as usize & slots.saturating_sub(1)
}
