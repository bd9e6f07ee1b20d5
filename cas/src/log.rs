//! The action log: append-only segments of checked records, each a key and what it was found to mean.
//!
//! ```text
//! segment: frames, one after the other
//! frame:   | magic 4 "RFA1" | kind u32 | payload length u32 | CRC-32 u32 | key 32 | payload | pad to 8 |
//! ```
//!
//! The CRC covers everything else. Appending is one write(2) at the end of the last segment under a
//! lock, then fdatasync(2). A frame that a crash left torn is skipped by its CRC; the next append then
//! starts a new segment, so nothing is ever written behind garbage. The last frame of a key counts.
//! Nothing ties frames to each other: `docs/format.md` says what a reader may rely on.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rift_tree::TreeHash;
use rustix::fs::FlockOperation;

use crate::error::{Error, Result};
use crate::record::read_folder;
use crate::store::{Store, lock_file, sync_folder};

const MAGIC: [u8; 4] = *b"RFA1";
const HEADER_BYTES: usize = 48;
const SEGMENT_BYTES: u64 = 8 << 20;
/// How many compactions a reader may meet while it reads the log.
const COMPACTIONS_MAX: usize = 16;
/// The largest payload, in bytes: a frame that claims more is garbage.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;

/// What a frame says something about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Topic {
    /// A package: integrity → tree.
    Package = 1,
    /// What a package's install scripts did to its folder.
    Scripts = 2,
    /// Content that must never be taken in again.
    Purged = 3,
}

impl Topic {
    fn from_u32(number: u32) -> Option<Self> {
        [Self::Package, Self::Scripts, Self::Purged]
            .into_iter()
            .find(|topic| *topic as u32 == number)
    }
}

/// Returns the tree that a record's payload begins with; `None` when it names none.
///
/// The payload of a [`Topic::Package`] or [`Topic::Scripts`] record begins with a byte that is its
/// writer's and the 32 bytes of the tree that its key means, or of zeros when there is none; what
/// follows is its writer's too. That is how gc and verify know what a record needs.
#[must_use]
pub fn tree_of(topic: Topic, payload: &[u8]) -> Option<TreeHash> {
    let bytes: [u8; 32] = payload.get(1..33)?.try_into().ok()?;
    let names_tree = topic != Topic::Purged && bytes != [0; 32];
    names_tree.then(|| TreeHash::from_bytes(bytes))
}

/// One frame to append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What it is about.
    pub topic: Topic,
    /// The key, usually a hash of what the record depends on.
    pub key: [u8; 32],
    /// What the key was found to mean.
    pub payload: Vec<u8>,
}

/// All records of the log, as they were when it was read.
#[derive(Debug, Default)]
pub struct Log {
    records: HashMap<(Topic, [u8; 32]), Vec<u8>>,
}

impl Log {
    fn insert(&mut self, record: Record) {
        self.records.insert((record.topic, record.key), record.payload);
    }

    /// Returns the payload of a key's last record.
    #[must_use]
    pub fn get(&self, topic: Topic, key: &[u8; 32]) -> Option<&[u8]> {
        self.records.get(&(topic, *key)).map(Vec::as_slice)
    }

    /// Returns all records.
    pub(crate) fn all(&self) -> impl Iterator<Item = (Topic, &[u8; 32], &[u8])> {
        self.records.iter().map(|((topic, key), payload)| (*topic, key, payload.as_slice()))
    }

    /// Returns all records of a topic.
    pub fn topic(&self, topic: Topic) -> impl Iterator<Item = (&[u8; 32], &[u8])> {
        self.records
            .iter()
            .filter(move |((found, _), _)| *found == topic)
            .map(|((_, key), payload)| (key, payload.as_slice()))
    }
}

fn encode(record: &Record, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&(record.topic as u32).to_le_bytes());
    out.extend_from_slice(&(record.payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&record.key);
    out.extend_from_slice(&record.payload);
    out.resize(out.len().next_multiple_of(8), 0);
    let crc = crc32fast::hash(&out[start..]);
    out[start + 12..start + 16].copy_from_slice(&crc.to_le_bytes());
}

/// Reads the frame at the start of `bytes`: its record and its length in the file.
fn decode(bytes: &[u8]) -> Option<(Option<Record>, usize)> {
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let payload_len = word(8)? as usize;
    let length = HEADER_BYTES.checked_add(payload_len)?.next_multiple_of(8);
    if !bytes.starts_with(&MAGIC) || payload_len > PAYLOAD_BYTES_MAX {
        return None;
    }
    let frame = bytes.get(..length)?;
    let mut crc = crc32fast::Hasher::new();
    crc.update(&frame[..12]);
    crc.update(&[0; 4]);
    crc.update(&frame[16..]);
    if crc.finalize() != word(12)? {
        return None;
    }
    let record = Topic::from_u32(word(4)?).map(|topic| Record {
        topic,
        // 32 bytes by the slice.
        key: frame[16..48].try_into().unwrap_or_default(),
        payload: frame[HEADER_BYTES..HEADER_BYTES + payload_len].to_vec(),
    });
    Some((record, length))
}

/// What reading one segment found.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct SegmentCheck {
    /// Whole frames.
    pub frames: usize,
    /// Bytes that belong to no whole frame.
    pub garbage_bytes: usize,
    /// Those of them that no whole frame follows: what a crash while appending leaves.
    pub torn_bytes: usize,
    /// Segments that should lie between the one before and this: their numbers are left out.
    pub missing_before: u64,
}

/// Calls `take` with the bytes of every whole frame, and its record where the topic is known.
fn read_segment(bytes: &[u8], mut take: impl FnMut(&[u8], Option<Record>)) -> SegmentCheck {
    let mut check = SegmentCheck::default();
    let mut at = 0;
    while at < bytes.len() {
        match decode(&bytes[at..]) {
            Some((record, length)) => {
                check.frames += 1;
                check.torn_bytes = 0;
                take(&bytes[at..at + length], record);
                at += length;
            }
            None => {
                // Frames begin at multiples of 8: look for the next one there.
                let step = (bytes.len() - at).min(8);
                check.garbage_bytes += step;
                check.torn_bytes += step;
                at += step;
            }
        }
    }
    check
}

/// Checks the bytes of a segment.
#[must_use]
pub fn check_segment(bytes: &[u8]) -> SegmentCheck {
    read_segment(bytes, |_, _| ())
}

impl Store {
    fn segments(&self) -> Result<Vec<(u64, PathBuf)>> {
        let folder = self.path("actions");
        let mut segments = Vec::new();
        for entry in read_folder(&folder)? {
            let path = entry.map_err(Error::io("list", &folder))?.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            if path.extension().is_some_and(|extension| extension == "log")
                && let Some(number) = stem.and_then(|stem| stem.parse().ok())
            {
                segments.push((number, path));
            }
        }
        segments.sort();
        Ok(segments)
    }

    /// Reads the whole log.
    ///
    /// # Errors
    /// What the system says; damaged frames are left out.
    pub fn log(&self) -> Result<Log> {
        for _ in 0..COMPACTIONS_MAX {
            match self.read_log() {
                // A compaction took a segment away after it was listed; its successor is there.
                Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                other => return other,
            }
        }
        self.read_log()
    }

    fn read_log(&self) -> Result<Log> {
        let mut log = Log::default();
        for (_, path) in self.segments()? {
            let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
            read_segment(&bytes, |_, record| record.into_iter().for_each(|one| log.insert(one)));
        }
        Ok(log)
    }

    /// Checks every segment, with its path.
    ///
    /// # Errors
    /// What the system says.
    pub fn check_log(&self) -> Result<Vec<(PathBuf, SegmentCheck)>> {
        // Under the lock: what is half appended is no damage.
        let lock = self.path("actions/lock");
        let _lock = lock_file(&lock, FlockOperation::LockShared)?;
        let mut checks = Vec::new();
        let mut next = None;
        for (number, path) in self.segments()? {
            let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
            // A compaction takes the oldest first, so what is left has no gaps.
            let missing_before = number.saturating_sub(next.unwrap_or(number));
            checks.push((path, SegmentCheck { missing_before, ..check_segment(&bytes) }));
            next = Some(number.saturating_add(1));
        }
        Ok(checks)
    }

    /// Appends records; they are on the disk when this returns.
    ///
    /// # Errors
    /// [`Error::Refused`] for a payload over [`PAYLOAD_BYTES_MAX`], or what the system says.
    pub fn append(&self, records: &[Record]) -> Result<()> {
        let folder = self.path("actions");
        let mut frames = Vec::new();
        for record in records {
            if record.payload.len() > PAYLOAD_BYTES_MAX {
                return Err(Error::Refused { path: folder, reason: "a record is over 1 MiB" });
            }
            encode(record, &mut frames);
        }
        let _lock = lock_file(&folder.join("lock"), FlockOperation::LockExclusive)?;
        let (path, mut file) = self.writable_segment(&folder)?;
        file.write_all(&frames).map_err(Error::io("append to", &path))?;
        file.sync_data().map_err(Error::io("write to the disk", &path))
    }

    /// Opens the last segment if it is whole and has room, else a new one.
    fn writable_segment(&self, folder: &Path) -> Result<(PathBuf, File)> {
        let mut options = OpenOptions::new();
        options.append(true).mode(0o600);
        let mut next = 1;
        if let Some((number, path)) = self.segments()?.pop() {
            let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
            let is_whole = check_segment(&bytes).garbage_bytes == 0;
            if is_whole && (bytes.len() as u64) < SEGMENT_BYTES {
                let file = options.open(&path).map_err(Error::io("open", &path))?;
                return Ok((path, file));
            }
            next = number + 1;
        }
        let path = folder.join(format!("{next:08}.log"));
        let file = options.create_new(true).open(&path).map_err(Error::io("make", &path))?;
        sync_folder(&path)?;
        Ok((path, file))
    }

    /// Writes a new log of the records that `keep` wants and removes the old segments.
    pub(crate) fn compact_log(&self, keep: impl Fn(Topic, &[u8; 32], &[u8]) -> bool) -> Result<()> {
        let folder = self.path("actions");
        let _lock = lock_file(&folder.join("lock"), FlockOperation::LockExclusive)?;
        let old = self.segments()?;
        let mut log = Log::default();
        let mut frames = Vec::new();
        for (_, path) in &old {
            let bytes = fs::read(path).map_err(Error::io("read", path))?;
            read_segment(&bytes, |frame, record| match record {
                Some(record) => log.insert(record),
                // What a later rift says is not ours to drop.
                None => frames.extend_from_slice(frame),
            });
        }
        for ((topic, key), payload) in log.records {
            if keep(topic, &key, &payload) {
                encode(&Record { topic, key, payload }, &mut frames);
            }
        }
        let number = old.last().map_or(1, |(number, _)| number + 1);
        let mut temporary = self.temporary()?;
        temporary.file.write_all(&frames).map_err(Error::io("write", &temporary.path))?;
        let path = folder.join(format!("{number:08}.log"));
        // Appending needs the owner's write bit.
        temporary.publish_as(&path, 0o600)?;
        for (_, path) in old {
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
        sync_folder(&path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(seed: u8, payload: &[u8]) -> Record {
        Record { topic: Topic::Package, key: [seed; 32], payload: payload.to_vec() }
    }

    #[test]
    fn damaged_frames_are_skipped_and_the_rest_is_read() {
        let mut bytes = Vec::new();
        for seed in 0..4 {
            encode(&record(seed, &vec![seed; usize::from(seed) * 5]), &mut bytes);
        }
        let read = |bytes: &[u8]| {
            let mut keys = Vec::new();
            let check = read_segment(bytes, |_, record| keys.extend(record.map(|one| one.key[0])));
            (keys, check.garbage_bytes)
        };
        assert_eq!(read(&bytes), (vec![0, 1, 2, 3], 0));
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x40;
            let (keys, garbage) = read(&flipped);
            assert!(keys.len() == 3 && garbage > 0, "byte {at}: {keys:?}");
            assert!(read(&bytes[..at]).0.len() <= 4);
        }
    }

    #[test]
    fn the_last_record_of_a_key_counts_and_torn_tails_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        store.append(&[record(1, b"old"), record(2, b"two")]).unwrap();
        store.append(&[record(1, b"new")]).unwrap();
        let (_, path) = store.segments().unwrap().pop().unwrap();
        let mut torn = OpenOptions::new().append(true).open(&path).unwrap();
        torn.write_all(&MAGIC).unwrap();
        store.append(&[record(3, b"three")]).unwrap();
        assert_eq!(store.segments().unwrap().len(), 2);
        let log = store.log().unwrap();
        assert_eq!(log.get(Topic::Package, &[1; 32]), Some(&b"new"[..]));
        assert_eq!(log.get(Topic::Package, &[3; 32]), Some(&b"three"[..]));
        assert_eq!(log.get(Topic::Scripts, &[3; 32]), None);
        store.compact_log(|_, key, _| key[0] != 2).unwrap();
        assert_eq!(store.segments().unwrap().len(), 1);
        let log = store.log().unwrap();
        assert_eq!(log.topic(Topic::Package).count(), 2);
        store.append(&[record(4, b"four")]).unwrap();
        assert_eq!(store.log().unwrap().topic(Topic::Package).count(), 3);
    }
}
