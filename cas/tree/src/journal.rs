//! The journal of an action: what its processes asked of the system and did to it, in their order.
//!
//! ```text
//! journal: | header 96 | entries |
//! header:  | magic 8 "RIFTJRNL" | version u32 | root process u32 | end u64 | state u32 | bell u32
//!          | stdin: device u64, inode u64 | stdout: the same | stderr: the same | allocated u64
//!          | clock u32 | zero 4 |
//! entry:   | bytes u32 | kind u16 | bytes of text u16 | process u32 | error u32 | word u64 | stamp 40 | text
//!          | zeros to a multiple of 8 |
//! stamp:   | device u64 | inode u64 | size u64 | mtime i64 (ns) | ctime i64 (ns) |
//! ```
//!
//! Every process of the action maps the file. Who adds an entry takes room by adding to *end*, writes all but the first word, and
//! then that (release). What lies behind *allocated* may have no room on the disk: who gets there sees to it first, see fallocate(2). So the journal of a run that was killed is known by an entry without length, or by its state, and nothing
//! is believed of it. Numbers are little-endian; it belongs to one machine and one run, and nobody keeps it.

use crate::FormatError;
use crate::bytes::{split_header, truncated, u16_at, u32_at, u64_at};

/// The first eight bytes of every journal.
pub const MAGIC: [u8; 8] = *b"RIFTJRNL";
/// The version of the format that this crate writes and reads.
pub const VERSION: u32 = 1;
/// The size of the header, in bytes.
pub const HEADER_BYTES: usize = 96;
/// Where the word *end* is, in bytes.
pub const END_OFFSET: usize = 16;
/// Where the word *state* is, in bytes.
pub const STATE_OFFSET: usize = 24;
/// Where the devices and inodes of stdin, stdout and stderr are, in bytes.
pub const STREAMS_OFFSET: usize = 32;
/// Where the word *allocated* is, in bytes.
pub const ALLOCATED_OFFSET: usize = 80;
/// Where the word *chance* is, in bytes: see [`Header::chance`].
pub const CHANCE_OFFSET: usize = 88;
/// How many bytes of the file have room on the disk at first.
pub const ALLOCATED_FIRST: usize = 256 << 10;
/// What an entry has before its text, in bytes.
pub const HEAD_BYTES: usize = 64;
/// The longest text of an entry, in bytes: what is longer comes in several.
pub const TEXT_MAX: usize = 16 << 10;
/// How long a journal gets, in bytes; one that is full says so by an *end* behind it.
pub const JOURNAL_MAX: usize = 256 << 20;

/// The action goes on.
pub const STATE_OPEN: u32 = 0;
/// Its first process has ended by itself.
pub const STATE_ENDED: u32 = 1;

/// What an entry is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// A program has begun in a process: the word is its parent, the text its file.
    Began = 1,
    /// The loader had loaded a library before that.
    Loaded,
    /// A process was forked: the word is its parent.
    Forked,
    /// A file was opened: the word has the flags, the stamp is of what was opened, and the high half of the word its `st_mode`.
    Opened,
    /// It was asked whether something is there, and what: the low half of the word has [`NOFOLLOW`], the high one its `st_mode` where
    /// that was told.
    Looked,
    /// A symbolic link was asked where it leads: the text is its path, a NUL, and its target. That it failed as before, a process may leave
    /// out.
    Link,
    /// A directory was listed.
    Listed,
    /// A program is about to begin in this process.
    Executes,
    /// It did not.
    NotExecuted,
    /// Names or attributes were changed: the word is the number of the system call, the text one path, or two with a NUL between them.
    Changed,
    /// Something was written to stdout (1) or stderr (2) of the action: the word tells which.
    Said,
    /// A process ends: the word is its exit status, the size in the stamp is the processor time of it and its children (ns),
    /// the mtime the time of day.
    Ends,
    /// Something was done that can't be replayed: the word is the number of the system call.
    Refused,
    /// A file that was written, as it was when the first process ended: the high half of the word has its `st_mode`.
    Left,
}

/// The call asked for a link itself.
pub const NOFOLLOW: u64 = 1;
/// The file that was opened with `O_CREAT` was there before.
pub const EXISTED: u64 = 1 << 31;

impl Kind {
    const ALL: [Self; 14] = [
        Self::Began,
        Self::Loaded,
        Self::Forked,
        Self::Opened,
        Self::Looked,
        Self::Link,
        Self::Listed,
        Self::Executes,
        Self::NotExecuted,
        Self::Changed,
        Self::Said,
        Self::Ends,
        Self::Refused,
        Self::Left,
    ];

    fn of(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u16 == number)
    }
}

/// What tells a file, and what it held, from others; all zeros where nothing is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamp {
    /// `st_dev`.
    pub device: u64,
    /// `st_ino`.
    pub inode: u64,
    /// `st_size`.
    pub size: u64,
    /// `st_mtim`, in nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// `st_ctim`, in nanoseconds since the epoch.
    pub ctime_ns: i64,
}

/// An entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'j> {
    /// What it is about.
    pub kind: Kind,
    /// The process, see getpid(2).
    pub process: u32,
    /// What the system call failed with, see errno(3); 0 where it succeeded.
    pub error: u32,
    /// See [`Kind`].
    pub word: u64,
    /// What was opened or looked at.
    pub stamp: Stamp,
    /// A path, as the kernel got it, but absolute; see [`Kind`].
    pub text: &'j [u8],
}

impl Entry<'_> {
    /// Returns what stands before the text, in a file that ends with it.
    #[must_use]
    pub fn head(&self) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        let stamp = &self.stamp;
        let words = [
            self.word,
            stamp.device,
            stamp.inode,
            stamp.size,
            stamp.mtime_ns.cast_unsigned(),
            stamp.ctime_ns.cast_unsigned(),
        ];
        let (before, behind) = head.split_at_mut(16);
        before[..4].copy_from_slice(&(self.bytes() as u32).to_le_bytes());
        before[4..6].copy_from_slice(&(self.kind as u16).to_le_bytes());
        before[6..8].copy_from_slice(&(self.text.len() as u16).to_le_bytes());
        before[8..12].copy_from_slice(&self.process.to_le_bytes());
        before[12..].copy_from_slice(&self.error.to_le_bytes());
        for (place, word) in behind.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        head
    }

    /// Returns how many bytes it takes in a journal.
    #[must_use]
    pub fn bytes(&self) -> usize {
        (HEAD_BYTES + self.text.len()).next_multiple_of(8)
    }
}

/// What a journal's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The first process.
    pub root: u32,
    /// Device and inode of its stdin, its stdout and its stderr.
    pub streams: [(u64, u64); 3],
    /// What is done about the clock and random numbers, in processes whose program is not known.
    pub chance: Chance,
}

/// Whether what a program does may depend on the time of day, or on random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u32)]
pub enum Chance {
    /// It is known not to.
    #[default]
    Trusted,
    /// Nothing is believed of it once it has asked, nor where that can't be noticed.
    Suspected,
}

impl Chance {
    /// Returns what a word of a header says.
    #[must_use]
    pub fn of(word: u32) -> Self {
        if word == Self::Trusted as u32 { Self::Trusted } else { Self::Suspected }
    }
}

impl Header {
    /// Returns the bytes that a journal begins with.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.root.to_le_bytes());
        bytes[END_OFFSET..24].copy_from_slice(&(HEADER_BYTES as u64).to_le_bytes());
        let words = self.streams.iter().flat_map(|(device, inode)| [*device, *inode]);
        let places = bytes[STREAMS_OFFSET..].chunks_exact_mut(8);
        for (place, word) in places.zip(words.chain([ALLOCATED_FIRST as u64])) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        let chance = (self.chance as u32).to_le_bytes();
        bytes[CHANCE_OFFSET..CHANCE_OFFSET + chance.len()].copy_from_slice(&chance);
        bytes
    }
}

/// A journal that has ended, over its bytes.
#[derive(Debug, Clone, Copy)]
pub struct Journal<'j> {
    entries: &'j [u8],
    /// What the header says.
    pub header: Header,
    /// Whether its first process has ended by itself.
    pub has_ended: bool,
}

impl<'j> Journal<'j> {
    /// Reads the header.
    ///
    /// # Errors
    /// What is wrong with it, and a journal that has become too long.
    pub fn parse(bytes: &'j [u8]) -> Result<Self, FormatError> {
        let (head, body) = split_header(bytes, HEADER_BYTES, MAGIC, VERSION)?;
        let word = |index: usize| u64_at(head, index).unwrap_or_default();
        let end = usize::try_from(word(END_OFFSET / 8)).unwrap_or(usize::MAX);
        let entries = end
            .checked_sub(HEADER_BYTES)
            .and_then(|length| body.get(..length))
            .ok_or_else(|| truncated(bytes, end))?;
        let root = u32_at(head, 3).unwrap_or_default();
        let streams = [4, 6, 8].map(|at| (word(at), word(at + 1)));
        let has_ended = u32_at(head, STATE_OFFSET / 4) == Some(STATE_ENDED);
        let chance = Chance::of(u32_at(head, CHANCE_OFFSET / 4).unwrap_or_default());
        Ok(Self { entries, header: Header { root, streams, chance }, has_ended })
    }

    /// Returns the entries; an error in the place of one that was not written to its end, and nothing behind it.
    pub fn entries(&self) -> impl Iterator<Item = Result<Entry<'j>, FormatError>> + use<'j> {
        let mut rest = self.entries;
        core::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let read = entry(rest);
            rest = read.map_or(&[][..], |entry| rest.get(entry.bytes()..).unwrap_or_default());
            Some(read.ok_or_else(|| truncated(&[], HEAD_BYTES)))
        })
    }
}

/// Reads the entry that some bytes begin with; `None` where that was not written to its end.
#[must_use]
pub fn entry(bytes: &[u8]) -> Option<Entry<'_>> {
    let length = u32_at(bytes, 0)? as usize;
    let entry = bytes.get(..length)?;
    let text_bytes = usize::from(u16_at(entry, 3)?);
    let word = |index: usize| u64_at(entry, index);
    let entry = Entry {
        kind: Kind::of(u16_at(entry, 2)?)?,
        process: u32_at(entry, 2)?,
        error: u32_at(entry, 3)?,
        word: word(2)?,
        stamp: Stamp {
            device: word(3)?,
            inode: word(4)?,
            size: word(5)?,
            mtime_ns: word(6)?.cast_signed(),
            ctime_ns: word(7)?.cast_signed(),
        },
        text: entry.get(HEAD_BYTES..)?.get(..text_bytes)?,
    };
    (entry.bytes() == length).then_some(entry)
}

#[cfg(all(test, feature = "alloc"))]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    const HEADER: Header =
        Header { root: 7, streams: [(1, 2), (3, 4), (5, 6)], chance: Chance::Suspected };

    fn journal(entries: &[Entry<'_>]) -> Vec<u8> {
        let header = HEADER;
        let mut bytes = header.encode().to_vec();
        for entry in entries {
            bytes.extend_from_slice(&entry.head());
            bytes.extend_from_slice(entry.text);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
        let end = bytes.len() as u64;
        bytes[END_OFFSET..END_OFFSET + 8].copy_from_slice(&end.to_le_bytes());
        bytes
    }

    fn entry_of(kind: Kind, text: &[u8]) -> Entry<'_> {
        let stamp = Stamp { device: 1, inode: 2, size: 3, mtime_ns: -4, ctime_ns: 5 };
        Entry { kind, process: 9, error: 2, word: u64::MAX, stamp, text }
    }

    #[test]
    fn what_is_written_is_read() {
        let texts: [&[u8]; 3] = [b"/a", b"", b"/some/longer/path"];
        let written: Vec<Entry<'_>> = Kind::ALL
            .into_iter()
            .enumerate()
            .map(|(at, kind)| entry_of(kind, texts[at % texts.len()]))
            .collect();
        let mut bytes = journal(&written);
        let read = Journal::parse(&bytes).unwrap();
        assert_eq!(read.header, HEADER);
        assert!(!read.has_ended);
        assert_eq!(read.entries().collect::<Result<Vec<_>, _>>().unwrap(), written);
        bytes[STATE_OFFSET] = STATE_ENDED as u8;
        // What lies behind the end was never an entry.
        bytes.extend_from_slice(&[0; 4096]);
        assert!(Journal::parse(&bytes).unwrap().has_ended);
        assert_eq!(Journal::parse(&bytes).unwrap().entries().count(), written.len());
    }

    #[test]
    fn what_was_not_written_to_its_end_is_found() {
        let written = [entry_of(Kind::Began, b"/a"), entry_of(Kind::Ends, b"/b")];
        let bytes = journal(&written);
        let second = HEADER_BYTES + written[0].bytes();
        let mut torn = bytes.clone();
        torn[second..second + 4].fill(0);
        let read: Vec<_> = Journal::parse(&torn).unwrap().entries().collect();
        assert!(read.len() == 2 && read[0].is_ok() && read[1].is_err(), "{read:?}");
        for length in 0..bytes.len() {
            assert!(Journal::parse(&bytes[..length]).is_err(), "{length}");
        }
        for at in second..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0xff;
            // Whatever it says then, it says something or nothing.
            let _count = Journal::parse(&changed).unwrap().entries().count();
        }
    }
}
