//! Frames: the bytes of an object, compressed in pieces that can be read alone.
//!
//! ```text
//! object: | frames, each of zstd… | seek table |
//! table:  | 0x184D2A5E u32 | length of what follows u32 | frames: (compressed u32, plain u32)… | count u32 | 0 u8 | 0x8F92EAB1 u32 |
//! ```
//!
//! This is zstd's seekable format without checksums: the table is a frame that `zstd -d` passes over, so it gives the plain bytes. What
//! is read has hashes of its own. A frame ends before the blob that would make it longer than [`FRAME_BYTES`], and after so many
//! bytes of a longer one: so a small blob is in one frame. Nothing in a table is believed: it says how many bytes a frame has,
//! and no more of them are ever made.

use std::ops::Range;

use rift_tree::FormatError;
use zstd::bulk::{Compressor, Decompressor};

use super::error::{Error, Result};

/// About how many plain bytes a frame has. Of a tree of 58 MB of JavaScript, 256 KiB make 4 % fewer bytes in all, and bring 43 % more to
/// who reads small files here and there.
const FRAME_BYTES: u64 = 128 << 10;
/// No frame that is read has more plain bytes.
const FRAME_MAX: u32 = 1 << 20;
const LEVEL: i32 = 3;
/// How many frames are compressed before it is looked at how long they are.
const BATCH: usize = 64;
const THREADS_MAX: usize = 4;

const TABLE_MAGIC: u32 = 0x184D_2A5E;
const SEEKABLE_MAGIC: u32 = 0x8F92_EAB1;
const HEAD_BYTES: usize = 8;
const RECORD_BYTES: usize = 8;
const FOOT_BYTES: usize = 9;

/// Where a frame begins, and the one before ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Edge {
    plain: u64,
    compressed: u64,
}

/// Where the frames of an object are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frames {
    /// One more than there are frames; both columns ascend.
    edges: Vec<Edge>,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

impl Frames {
    /// Reads the table that some bytes begin with; returns what is behind it as well.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn decode(bytes: &[u8]) -> Result<(Self, &[u8]), FormatError> {
        let short = |wanted: usize| FormatError::Truncated {
            offset: bytes.len() as u64,
            wanted: wanted as u64,
        };
        let head = (word(bytes, 0), word(bytes, 4));
        let (Some(TABLE_MAGIC), Some(length)) = head else { return Err(FormatError::Magic) };
        let total = HEAD_BYTES + length as usize;
        let (table, rest) = bytes.split_at_checked(total).ok_or_else(|| short(total))?;
        let broken = |rule, index| FormatError::Rule { rule, index };
        let foot_at = total.checked_sub(FOOT_BYTES).filter(|at| *at >= HEAD_BYTES);
        let foot_at = foot_at.ok_or_else(|| broken("a table of frames has an end", 0))?;
        let records = &table[HEAD_BYTES..foot_at];
        let count = word(table, foot_at);
        if table.get(foot_at + 4) != Some(&0) || word(table, foot_at + 5) != Some(SEEKABLE_MAGIC) {
            return Err(FormatError::Magic);
        }
        if records.len() % RECORD_BYTES != 0
            || count.map(|count| count as usize) != Some(records.len() / RECORD_BYTES)
        {
            return Err(broken("a table of frames has as many as it says", 0));
        }
        let mut edges = Vec::with_capacity(records.len() / RECORD_BYTES + 1);
        let mut edge = Edge::default();
        edges.push(edge);
        for (index, record) in (0..).zip(records.chunks_exact(RECORD_BYTES)) {
            let (compressed, plain) =
                (word(record, 0).unwrap_or_default(), word(record, 4).unwrap_or_default());
            if plain == 0 || plain > FRAME_MAX {
                return Err(broken("a frame has between 1 byte and 1 MiB", index));
            }
            let bound = zstd::zstd_safe::compress_bound(plain as usize) as u64;
            if compressed == 0 || u64::from(compressed) > bound {
                return Err(broken("a frame is not longer than zstd makes it", index));
            }
            // Fewer than 2^32 of less than 2^21 each.
            edge.plain += u64::from(plain);
            edge.compressed += u64::from(compressed);
            edges.push(edge);
        }
        Ok((Self { edges }, rest))
    }

    /// Reads the table at the end of an object; `None` where there is none that fits the lengths of the object and of its plain bytes.
    pub(super) fn at_end(tail: &[u8], object_bytes: u64, plain_bytes: u64) -> Option<Self> {
        let count = word(tail, tail.len().checked_sub(FOOT_BYTES)?)?;
        let length = table_bytes(u64::from(count));
        let start = tail.len().checked_sub(usize::try_from(length).ok()?)?;
        let (frames, rest) = Self::decode(&tail[start..]).ok()?;
        let fits = rest.is_empty()
            && frames.object_bytes() == object_bytes
            && frames.plain_bytes() == plain_bytes;
        fits.then_some(frames)
    }

    /// Returns the bytes of the table.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let count = self.edges.len() - 1;
        // Written by us, or read from such words.
        let length = (count * RECORD_BYTES + FOOT_BYTES) as u32;
        let mut bytes = Vec::with_capacity(HEAD_BYTES + length as usize);
        bytes.extend_from_slice(&TABLE_MAGIC.to_le_bytes());
        bytes.extend_from_slice(&length.to_le_bytes());
        for pair in self.edges.windows(2) {
            let (compressed, plain) =
                (pair[1].compressed - pair[0].compressed, pair[1].plain - pair[0].plain);
            bytes.extend_from_slice(&(compressed as u32).to_le_bytes());
            bytes.extend_from_slice(&(plain as u32).to_le_bytes());
        }
        bytes.extend_from_slice(&(count as u32).to_le_bytes());
        bytes.push(0);
        bytes.extend_from_slice(&SEEKABLE_MAGIC.to_le_bytes());
        bytes
    }

    fn last(&self) -> Edge {
        self.edges.last().copied().unwrap_or_default()
    }

    /// Returns how many bytes the frames hold.
    #[must_use]
    pub fn plain_bytes(&self) -> u64 {
        self.last().plain
    }

    /// Returns how long the object is, with its table.
    #[must_use]
    pub fn object_bytes(&self) -> u64 {
        self.last().compressed + table_bytes(self.edges.len() as u64 - 1)
    }

    /// Returns the numbers of the frames that hold some bytes.
    fn covering(&self, plain: &Range<u64>) -> Range<usize> {
        let count = self.edges.len() - 1;
        let first = self.edges.partition_point(|edge| edge.plain <= plain.start) - 1;
        let end = self.edges.partition_point(|edge| edge.plain < plain.end);
        match plain.is_empty() {
            true => first..first,
            false => first..end.clamp(first, count),
        }
    }

    /// Returns the bytes of the object that hold some plain bytes.
    pub(super) fn compressed(&self, plain: &Range<u64>) -> Range<u64> {
        let Range { start, end } = self.covering(plain);
        self.edges[start].compressed..self.edges[end].compressed
    }

    /// Returns the plain bytes that come when some of them are read.
    pub(super) fn around(&self, plain: &Range<u64>) -> Range<u64> {
        let Range { start, end } = self.covering(plain);
        self.edges[start].plain..self.edges[end].plain
    }

    /// Begins to decode the frames that hold some plain bytes. What is pushed begins with the first of them, or with the object.
    pub(super) fn decoding<'f>(
        &'f self,
        object: &'f str,
        plain: &Range<u64>,
        is_whole: bool,
    ) -> Result<Decoding<'f>> {
        let wanted = self.covering(plain);
        let next = if is_whole { 0 } else { wanted.start };
        let codec = Decompressor::new().map_err(failed("decompress"))?;
        let (part, bytes) = (Vec::new(), Vec::new());
        Ok(Decoding { frames: self, object, next, wanted, part, bytes, codec })
    }
}

fn failed(action: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |error| Error::Setup { action, reason: error.to_string() }
}

/// Returns how long a table of so many frames is.
fn table_bytes(count: u64) -> u64 {
    (HEAD_BYTES + FOOT_BYTES) as u64 + count * RECORD_BYTES as u64
}

/// Returns how much of an object's end is read to find its table: enough for frames half as long as those that are made here.
pub(super) fn tail_bytes(plain_bytes: u64) -> u64 {
    table_bytes(plain_bytes.div_ceil(FRAME_BYTES / 2) + 1)
}

/// Frames that are decoded as their bytes come.
pub(super) struct Decoding<'f> {
    frames: &'f Frames,
    object: &'f str,
    /// The frame whose bytes come next.
    next: usize,
    wanted: Range<usize>,
    /// Bytes of a frame that has not come whole.
    part: Vec<u8>,
    bytes: Vec<u8>,
    codec: Decompressor<'static>,
}

impl Decoding<'_> {
    /// Takes bytes of the object, and gives those that they hold, with where these are.
    ///
    /// # Errors
    /// [`Error::Wrong`] for a frame that is damaged or holds another number of bytes, and what `take` says.
    pub(super) fn push(
        &mut self,
        mut chunk: &[u8],
        take: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        while self.next < self.wanted.end && !chunk.is_empty() {
            let (edge, end) = (self.frames.edges[self.next], self.frames.edges[self.next + 1]);
            // Of both less than 2^21.
            let (length, plain) =
                ((end.compressed - edge.compressed) as usize, (end.plain - edge.plain) as usize);
            let (now, rest) = chunk.split_at((length - self.part.len()).min(chunk.len()));
            chunk = rest;
            let frame = match now.len() == length {
                true => now,
                false => {
                    self.part.extend_from_slice(now);
                    &self.part
                }
            };
            if frame.len() < length {
                return Ok(());
            }
            if self.wanted.contains(&self.next) {
                self.bytes.resize(plain, 0);
                let decoded = self.codec.decompress_to_buffer(frame, &mut self.bytes[..]);
                if decoded.ok() != Some(plain) {
                    let (object, number) = (self.object.to_owned(), self.next);
                    let reason = format!("frame {number} is damaged");
                    return Err(Error::Wrong { object, reason });
                }
                take(edge.plain, &self.bytes)?;
            }
            self.part.clear();
            self.next += 1;
        }
        Ok(())
    }
}

/// Returns where frames end: `pieces` are the places and lengths of what is to be read alone, one behind the other.
fn cut(length: u64, pieces: impl Iterator<Item = (u64, u64)>) -> Vec<u64> {
    let (mut ends, mut start) = (Vec::new(), 0);
    let mut cut = |start: &mut u64, end: u64| {
        ends.push(end);
        *start = end;
    };
    for (offset, size) in pieces {
        // What belongs to none of them: mostly the zeros before the next.
        while offset - start > 2 * FRAME_BYTES {
            let end = start + FRAME_BYTES;
            cut(&mut start, end);
        }
        if offset + size - start > FRAME_BYTES && offset > start {
            cut(&mut start, offset);
        }
        while offset + size - start > FRAME_BYTES {
            let end = start + FRAME_BYTES;
            cut(&mut start, end);
        }
    }
    while start < length {
        let end = length.min(start + FRAME_BYTES);
        cut(&mut start, end);
    }
    ends
}

/// Frames one behind the other: where what each holds ends, and its bytes.
type Run = Vec<(u64, Vec<u8>)>;

/// Compresses bytes; `None` where that saves less than a tenth of them, or more than `max` would be left. `pieces` are the places and lengths
/// of what is to be read alone, one behind the other.
pub(super) fn compress(
    bytes: &[u8],
    pieces: impl Iterator<Item = (u64, u64)>,
    max: u64,
) -> Result<Option<(Vec<u8>, Frames)>> {
    let max = max.min(bytes.len() as u64 / 10 * 9);
    let ends = cut(bytes.len() as u64, pieces);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let at_once = BATCH.div_ceil(threads.min(THREADS_MAX));
    let mut edges = vec![Edge::default()];
    let mut compressed = Vec::new();
    for batch in ends.chunks(BATCH) {
        let mut start = edges.last().map_or(0, |edge| edge.plain);
        let parts: Vec<Result<Run>> = std::thread::scope(|scope| {
            let spawn = |ends: &'_ [u64]| {
                let (first, ends) = (start, ends.to_vec());
                start = ends.last().copied().unwrap_or(start);
                scope.spawn(move || frames_of(bytes, first, &ends))
            };
            let threads: Vec<_> = batch.chunks(at_once).map(spawn).collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            threads.into_iter().map(join).collect()
        });
        for part in parts {
            for (plain, frame) in part? {
                compressed.extend_from_slice(&frame);
                edges.push(Edge { plain, compressed: compressed.len() as u64 });
            }
        }
        if compressed.len() as u64 > max {
            return Ok(None);
        }
    }
    let frames = Frames { edges };
    compressed.extend_from_slice(&frames.encode());
    Ok((compressed.len() as u64 <= max).then_some((compressed, frames)))
}

/// Compresses the frames from `start` on that end there.
fn frames_of(bytes: &[u8], mut start: u64, ends: &[u64]) -> Result<Run> {
    let mut codec = Compressor::new(LEVEL).map_err(failed("compress"))?;
    let mut frames = Vec::with_capacity(ends.len());
    for end in ends {
        // Inside of what is in memory.
        let plain = &bytes[start as usize..*end as usize];
        frames.push((*end, codec.compress(plain).map_err(failed("compress"))?));
        start = *end;
    }
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(length: usize) -> Vec<u8> {
        (0..length).map(|at| b"the quick brown fox "[at % 20] ^ (at >> 13) as u8).collect()
    }

    fn sizes(frames: &Frames) -> Vec<u64> {
        frames.edges.windows(2).map(|pair| pair[1].plain - pair[0].plain).collect()
    }

    #[test]
    fn small_blobs_are_in_one_frame() {
        let k = 1 << 10;
        for (length, pieces, ends) in [
            (0, &[][..], &[][..]),
            (10, &[], &[10]),
            (300 * k, &[], &[128 * k, 256 * k, 300 * k]),
            (600 * k, &[(400 * k, k)], &[128 * k, 256 * k, 400 * k, 528 * k, 600 * k]),
            (200 * k, &[(0, 100 * k), (100 * k, 100 * k)], &[100 * k, 200 * k]),
            (128 * k, &[(64, 64 * k), (64 + 64 * k, 64 * k - 64)], &[128 * k]),
            // The end of a long one goes on with what is behind it.
            (
                400 * k,
                &[(4 * k, k), (8 * k, 300 * k), (308 * k, 10 * k), (318 * k, 82 * k)],
                &[8 * k, 136 * k, 264 * k, 318 * k, 400 * k],
            ),
        ] {
            assert_eq!(cut(length, pieces.iter().copied()), ends, "{length} {pieces:?}");
        }
    }

    #[test]
    fn what_was_compressed_comes_back_and_zstd_reads_it() {
        let plain = text(700_000);
        let (object, frames) = compress(&plain, [].into_iter(), u64::MAX).unwrap().unwrap();
        assert_eq!(object.len() as u64, frames.object_bytes());
        assert_eq!(frames.plain_bytes(), plain.len() as u64);
        assert_eq!(zstd::decode_all(&object[..]).unwrap(), plain);
        let tail = &object[object.len() - 100..];
        let read = Frames::at_end(tail, object.len() as u64, plain.len() as u64);
        assert_eq!(read.as_ref(), Some(&frames));
        assert_eq!(Frames::at_end(tail, object.len() as u64 + 1, plain.len() as u64), None);
        assert_eq!(Frames::at_end(tail, object.len() as u64, plain.len() as u64 - 1), None);
        for range in [0..1, 0..700_000, 131_071..131_073, 131_072..262_144, 699_999..700_000] {
            for is_whole in [false, true] {
                let sent =
                    if is_whole { 0..frames.object_bytes() } else { frames.compressed(&range) };
                let sent = &object[sent.start as usize..sent.end as usize];
                for step in [1, 7, 1000, 1 << 20] {
                    let mut found = Vec::new();
                    let mut decoding = frames.decoding("x", &range, is_whole).unwrap();
                    for chunk in sent.chunks(step) {
                        let mut take = |at: u64, bytes: &[u8]| {
                            assert_eq!(at, frames.around(&range).start + found.len() as u64);
                            found.extend_from_slice(bytes);
                            Ok(())
                        };
                        decoding.push(chunk, &mut take).unwrap();
                    }
                    let around = frames.around(&range);
                    assert!(found == plain[around.start as usize..around.end as usize]);
                }
            }
        }
    }

    #[test]
    fn what_does_not_get_shorter_is_left() {
        let mut noise = vec![0; 300_000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        assert!(compress(&noise, [].into_iter(), u64::MAX).unwrap().is_none());
        assert!(compress(&text(300_000), [].into_iter(), 100).unwrap().is_none());
    }

    #[test]
    fn a_table_that_lies_is_refused() {
        let (object, frames) = compress(&text(300_000), [].into_iter(), u64::MAX).unwrap().unwrap();
        assert_eq!(sizes(&frames), [131_072, 131_072, 37_856]);
        let table = frames.encode();
        assert!(object.ends_with(&table));
        assert_eq!(
            Frames::decode(&[&table[..], b"more"].concat()),
            Ok((frames.clone(), &b"more"[..]))
        );
        for length in 0..table.len() {
            assert!(Frames::decode(&table[..length]).is_err(), "{length}");
        }
        let changed = |at: usize, value: u32| {
            let mut table = table.clone();
            table[at..at + 4].copy_from_slice(&value.to_le_bytes());
            Frames::decode(&table).map(drop)
        };
        // Magic, length, a frame without bytes or with too many, compressed and plain, count, magic.
        for (at, values) in [
            (0, &[0, TABLE_MAGIC + 1][..]),
            (4, &[0, 8, 9, 25, 32, 34, u32::MAX]),
            (8, &[0, 140_000, u32::MAX]),
            (12, &[0, 1, FRAME_MAX + 1, u32::MAX]),
            (32, &[0, 2, 4, u32::MAX]),
            (37, &[0, TABLE_MAGIC]),
        ] {
            for value in values {
                assert!(changed(at, *value).is_err(), "{at} {value}");
            }
        }
        let mut with_sums = table.clone();
        with_sums[36] = 0x80;
        assert!(Frames::decode(&with_sums).is_err());
        // More or fewer bytes than there are: never more than the table says, and an error.
        for plain in [131_071_u32, 131_073, 100_000, FRAME_MAX] {
            let mut lie = table.clone();
            lie[12..16].copy_from_slice(&plain.to_le_bytes());
            let (lie, _) = Frames::decode(&lie).unwrap();
            let mut decoding = lie.decoding("x", &(0..1), true).unwrap();
            let pushed = decoding.push(&object, &mut |_, _| panic!("it is not right"));
            assert!(matches!(pushed, Err(Error::Wrong { .. })), "{plain}");
        }
    }
}
