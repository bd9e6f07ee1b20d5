//! The arrival file: which blobs of a partial tree are here, and for which somebody waits.
//!
//! ```text
//! arrivals: | header 80 | arrived: bits | wanted: bits | used: bits | failed: bits | order: blobs × u32 |
//! header:   | magic 8 "RIFTARRV" | version u32 | blobs u32 | tree hash 32 | boot id 16 | bell u32 | used u32 | down u32 | zero 4 |
//! bits:     one per blob of the manifest, in words of 32
//! ```
//!
//! Every process that shows the tree maps the file and changes it by atomic instructions only. Who needs a blob that has not
//! arrived sets its bit in *wanted*, adds one to the bell and wakes whoever sleeps on it (futex(2)); then it sleeps on the
//! word of *arrived* that has the blob's bit. Who fetches takes bits out of *wanted*, and sets the one in *arrived* after the
//! blob's bytes are in the data file and were checked (release; read with acquire), or the one in *failed*, and wakes the
//! sleepers. A bit in *arrived* is never taken back while the machine runs; after another boot the blobs are checked again.
//! *Used* tells which blobs somebody has asked for since the first process of now came, and *order* in which order.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::bytes::{split_header, u32_at};
use crate::error::FormatError;
use crate::hash::TreeHash;

/// The first eight bytes of every arrival file.
pub const MAGIC: [u8; 8] = *b"RIFTARRV";
/// The version of the format that this crate writes and reads.
pub const VERSION: u32 = 1;
/// The size of the header, in bytes.
pub const HEADER_BYTES: usize = 80;
/// Where the boot id begins in the header.
pub const BOOT_OFFSET: usize = 48;

const BELL: usize = 16;
const USED: usize = 17;
const DOWN: usize = 18;
const BITS: usize = 4;

/// What the header of an arrival file says that does not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// How many blobs the tree has.
    pub blobs: u32,
    /// The tree.
    pub tree: TreeHash,
    /// The boot in which all that has arrived was last known to be there, see random(4).
    pub boot: [u8; 16],
}

impl Header {
    /// Returns the bytes that an arrival file begins with.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.blobs.to_le_bytes());
        bytes[16..BOOT_OFFSET].copy_from_slice(self.tree.as_bytes());
        bytes[BOOT_OFFSET..BOOT_OFFSET + 16].copy_from_slice(&self.boot);
        bytes
    }

    /// Reads the header that an arrival file begins with.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let (header, _) = split_header(bytes, HEADER_BYTES, MAGIC, VERSION)?;
        let mut tree = [0; 32];
        tree.copy_from_slice(&header[16..BOOT_OFFSET]);
        Ok(Self {
            blobs: u32_at(header, 3).unwrap_or_default(),
            tree: TreeHash::from_bytes(tree),
            boot: header[BOOT_OFFSET..BOOT_OFFSET + 16].try_into().unwrap_or_default(),
        })
    }

    /// Returns how many words of four bytes the file has.
    #[must_use]
    pub fn file_words(&self) -> usize {
        HEADER_BYTES / 4 + BITS * bit_words(self.blobs) + self.blobs as usize
    }
}

/// Returns how many words have a bit for each of so many blobs.
fn bit_words(blobs: u32) -> usize {
    blobs.div_ceil(32) as usize
}

/// The word and the bit of a blob.
fn bit_of(blob: u32) -> (usize, u32) {
    (blob as usize / 32, 1 << (blob % 32))
}

/// An arrival file, mapped.
#[derive(Debug, Clone, Copy)]
pub struct Arrivals<'a> {
    header: &'a [AtomicU32],
    arrived: &'a [AtomicU32],
    wanted: &'a [AtomicU32],
    used: &'a [AtomicU32],
    failed: &'a [AtomicU32],
    order: &'a [AtomicU32],
}

impl<'a> Arrivals<'a> {
    /// Reads the words of a file for so many blobs; `None` when it is of another version or length.
    #[must_use]
    pub fn new(words: &'a [AtomicU32], blobs: u32) -> Option<Self> {
        let bits = bit_words(blobs);
        let (header, rest) = words.split_at_checked(HEADER_BYTES / 4)?;
        let says = |place: usize, number: u32| {
            let word = header.get(place);
            word.is_some_and(|word| u32::from_le(word.load(Ordering::Relaxed)) == number)
        };
        if !(says(2, VERSION) && says(3, blobs)) {
            return None;
        }
        let (arrived, rest) = rest.split_at_checked(bits)?;
        let (wanted, rest) = rest.split_at_checked(bits)?;
        let (used, rest) = rest.split_at_checked(bits)?;
        let (failed, order) = rest.split_at_checked(bits)?;
        (order.len() == blobs as usize).then_some(Self {
            header,
            arrived,
            wanted,
            used,
            failed,
            order,
        })
    }

    /// Tells whether a blob is here.
    #[must_use]
    #[inline]
    pub fn has(&self, blob: u32) -> bool {
        let (word, bit) = bit_of(blob);
        self.arrived.get(word).is_some_and(|word| word.load(Ordering::Acquire) & bit != 0)
    }

    /// Returns the word that changes when a blob arrives, for who waits for that.
    #[must_use]
    pub fn word_of(&self, blob: u32) -> Option<&'a AtomicU32> {
        self.arrived.get(bit_of(blob).0)
    }

    /// Returns the word that changes when somebody wants something.
    #[must_use]
    pub fn bell(&self) -> Option<&'a AtomicU32> {
        self.header.get(BELL)
    }

    /// Changes the bell; the caller wakes who sleeps on it.
    pub fn ring(&self) {
        if let Some(bell) = self.bell() {
            bell.fetch_add(1, Ordering::Release);
        }
    }

    /// Asks for a blob; the caller rings. What was refused before is tried again.
    pub fn want(&self, blob: u32) {
        let (word, bit) = bit_of(blob);
        if let (Some(failed), Some(wanted)) = (self.failed.get(word), self.wanted.get(word)) {
            failed.fetch_and(!bit, Ordering::Relaxed);
            wanted.fetch_or(bit, Ordering::Release);
        }
    }

    /// Notes that somebody needs a blob.
    pub fn note_used(&self, blob: u32) {
        let (word, bit) = bit_of(blob);
        let Some(used) = self.used.get(word) else { return };
        if used.load(Ordering::Relaxed) & bit != 0
            || used.fetch_or(bit, Ordering::Relaxed) & bit != 0
        {
            return;
        }
        if let Some(count) = self.header.get(USED) {
            let place = count.fetch_add(1, Ordering::Relaxed) as usize;
            if let Some(order) = self.order.get(place) {
                order.store(blob + 1, Ordering::Relaxed);
            }
        }
    }

    /// Tells whether somebody needed a blob.
    #[must_use]
    pub fn is_used(&self, blob: u32) -> bool {
        let (word, bit) = bit_of(blob);
        self.used.get(word).is_some_and(|word| word.load(Ordering::Relaxed) & bit != 0)
    }

    /// Returns the blobs that somebody needed, in order.
    pub fn used(&self) -> impl Iterator<Item = u32> + use<'a> {
        let count = self.header.get(USED).map_or(0, |count| count.load(Ordering::Relaxed));
        // One that is being noted is not there yet.
        let noted = self.order.iter().take(count as usize);
        noted.filter_map(|blob| blob.load(Ordering::Relaxed).checked_sub(1))
    }

    /// Forgets what was needed: nobody shows the tree yet.
    pub fn forget_used(&self) {
        self.used.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        self.order.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        if let Some(count) = self.header.get(USED) {
            count.store(0, Ordering::Relaxed);
        }
    }

    /// Takes what is wanted, all of it, for who fetches.
    pub fn take_wanted(&self, mut take: impl FnMut(u32)) {
        for (number, word) in (0_u32..).zip(self.wanted) {
            if word.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let mut bits = word.swap(0, Ordering::Acquire);
            while bits != 0 {
                take(number * 32 + bits.trailing_zeros());
                bits &= bits - 1;
            }
        }
    }

    /// Publishes that a blob is here, whose bytes were checked; the caller wakes who sleeps on its word.
    pub fn arrive(&self, blob: u32) {
        let (word, bit) = bit_of(blob);
        if let Some(word) = self.arrived.get(word) {
            word.fetch_or(bit, Ordering::Release);
        }
    }

    /// Takes back that a blob is here: nobody shows the tree, and its bytes were found to be others.
    pub fn withdraw(&self, blob: u32) {
        let (word, bit) = bit_of(blob);
        if let Some(word) = self.arrived.get(word) {
            word.fetch_and(!bit, Ordering::Relaxed);
        }
    }

    /// Tells who waits for a blob that it can't be had; the caller wakes who sleeps on its word.
    pub fn fail(&self, blob: u32) {
        let (word, bit) = bit_of(blob);
        if let Some(word) = self.failed.get(word) {
            word.fetch_or(bit, Ordering::Release);
        }
    }

    /// Tells whether a blob could not be had when it was last wanted.
    #[must_use]
    pub fn has_failed(&self, blob: u32) -> bool {
        let (word, bit) = bit_of(blob);
        self.failed.get(word).is_none_or(|word| word.load(Ordering::Acquire) & bit != 0)
    }

    /// Notes whether the remote was given up.
    pub fn set_down(&self, is_down: bool) {
        if let Some(word) = self.header.get(DOWN) {
            word.store(is_down.into(), Ordering::Relaxed);
        }
    }

    /// Tells whether the remote was given up when something was last wanted of it.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.header.get(DOWN).is_none_or(|word| word.load(Ordering::Relaxed) != 0)
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    fn words(blobs: u32) -> Vec<AtomicU32> {
        let header = Header { blobs, tree: TreeHash::from_bytes([3; 32]), boot: [4; 16] };
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes), Ok(header));
        let numbers = bytes.chunks(4).map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap()));
        let mut words: Vec<AtomicU32> = numbers.map(AtomicU32::new).collect();
        words.resize_with(header.file_words(), AtomicU32::default);
        words
    }

    #[test]
    fn what_is_wanted_is_taken_once_and_arrives() {
        let words = words(70);
        let arrivals = Arrivals::new(&words, 70).unwrap();
        for blob in [0, 33, 69] {
            arrivals.want(blob);
        }
        let mut taken = Vec::new();
        arrivals.take_wanted(|blob| taken.push(blob));
        arrivals.take_wanted(|blob| taken.push(blob));
        assert_eq!(taken, [0, 33, 69]);
        arrivals.arrive(33);
        arrivals.fail(69);
        let has: Vec<u32> = (0..70).filter(|blob| arrivals.has(*blob)).collect();
        assert_eq!(
            (has.as_slice(), arrivals.has_failed(69), arrivals.has_failed(0)),
            (&[33][..], true, false)
        );
        arrivals.want(69);
        assert!(!arrivals.has_failed(69));
        arrivals.withdraw(33);
        assert!(!arrivals.has(33));
    }

    #[test]
    fn the_order_of_use_is_kept() {
        let words = words(40);
        let arrivals = Arrivals::new(&words, 40).unwrap();
        for blob in [7, 39, 7, 0, 39] {
            arrivals.note_used(blob);
        }
        assert_eq!(arrivals.used().collect::<Vec<_>>(), [7, 39, 0]);
        assert!(arrivals.is_used(39) && !arrivals.is_used(1));
        arrivals.forget_used();
        assert_eq!(arrivals.used().count(), 0);
    }

    #[test]
    fn blobs_that_the_tree_does_not_have_do_no_harm() {
        let words = words(3);
        let arrivals = Arrivals::new(&words, 3).unwrap();
        arrivals.want(4000);
        arrivals.note_used(4000);
        arrivals.arrive(4000);
        assert!(!arrivals.has(4000) && arrivals.has_failed(4000));
        assert!(Arrivals::new(&words, 4).is_none() && Arrivals::new(&[], 0).is_none());
        assert!(Arrivals::new(&words[..words.len() - 1], 3).is_none());
    }
}
