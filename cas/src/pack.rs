//! Packs: many small blobs and manifests in one file, in the order of the trees that brought them.
//!
//! ```text
//! pack:    | magic 8 "RIFTPACK" | version u32 | zero to 64 | bytes… | index: count × 48 | tail 64 |
//! index:   | hash 32 | offset u64 | length u56, kind u8 (0 blob, 1 manifest) |
//! tail:    | pack id 32 | index offset u64 | count u64 | magic 8 | zero 8 |
//! ```
//!
//! The pack id is the BLAKE3 of the index and names the file, so the index is checked on every open;
//! each blob has its own hash. A blob of 16 KiB or more begins at a multiple of 4096, so that it can
//! be reflinked; smaller ones follow each other without gaps.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use rift_tree::sidecar::Stamp;
use rift_tree::{FormatError, PackId};

use crate::error::{Error, Result};
use crate::store::{Store, Temporary};
use crate::sys::Mapped;

/// Blobs of this many bytes begin at a multiple of [`ALIGN`].
pub const ALIGN_FROM: usize = 16 << 10;
/// The alignment of larger blobs: the block of the file systems that reflink.
pub const ALIGN: usize = 4096;
/// A pack is closed once it holds this many bytes.
pub const PACK_BYTES: u64 = 64 << 20;

const MAGIC: [u8; 8] = *b"RIFTPACK";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 64;
const TAIL_BYTES: usize = 64;
const RECORD_BYTES: usize = 48;

/// What an entry of a pack is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PackedKind {
    /// A blob; its hash is the BLAKE3 of its bytes.
    Blob,
    /// A manifest; its hash is the tree hash.
    Manifest,
}

/// One entry of a pack's index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed {
    /// Its name: a blob hash or a tree hash.
    pub hash: [u8; 32],
    /// Its first byte in the pack.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
    /// Blob or manifest.
    pub kind: PackedKind,
}

/// Returns the first bytes of every pack.
pub(crate) fn header() -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes
}

/// Returns index and tail of a pack whose bytes end at `end`, and its id.
pub(crate) fn footer(entries: &[Packed], end: u64) -> (Vec<u8>, PackId) {
    let mut bytes = Vec::with_capacity(entries.len() * RECORD_BYTES + TAIL_BYTES);
    for entry in entries {
        bytes.extend_from_slice(&entry.hash);
        bytes.extend_from_slice(&entry.offset.to_le_bytes());
        let kind = u64::from(entry.kind == PackedKind::Manifest);
        bytes.extend_from_slice(&(entry.length | kind << 56).to_le_bytes());
    }
    let id = PackId::from_bytes(*blake3::hash(&bytes).as_bytes());
    bytes.extend_from_slice(id.as_bytes());
    bytes.extend_from_slice(&end.to_le_bytes());
    bytes.extend_from_slice(&(entries.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&[0; 8]);
    (bytes, id)
}

/// Writes packs of entries whose bytes are at hand, for who moves them from other packs.
pub(crate) struct PackWriter<'s> {
    store: &'s Store,
    open: Option<(Temporary, Vec<Packed>)>,
    /// What is not in the file yet, and where it begins there.
    buffer: Vec<u8>,
    start: u64,
    sealed: Vec<(PackId, Stamp)>,
}

impl<'s> PackWriter<'s> {
    /// Starts writing; nothing is made before the first entry.
    pub(crate) fn new(store: &'s Store) -> Self {
        Self { store, open: None, buffer: Vec::new(), start: 0, sealed: Vec::new() }
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// [`Error::Damaged`] when `bytes` do not have the hash that names them, or what the system says.
    pub(crate) fn add(&mut self, hash: [u8; 32], kind: PackedKind, bytes: &[u8]) -> Result<()> {
        if !is_content(kind, &hash, bytes) {
            let rule = "an entry has the hash that names it";
            let source = FormatError::Rule { rule, index: 0 };
            return Err(Error::Damaged { path: self.store.path("packs"), source });
        }
        if self.end() + bytes.len() as u64 > PACK_BYTES + PACK_BYTES / 4 {
            self.seal()?;
        }
        if self.open.is_none() {
            self.buffer.extend_from_slice(&header());
            self.open = Some((self.store.temporary()?, Vec::new()));
        }
        if bytes.len() >= ALIGN_FROM {
            let padding = self.end().next_multiple_of(ALIGN as u64) - self.end();
            // Less than ALIGN.
            self.buffer.resize(self.buffer.len() + padding as usize, 0);
        }
        let entry = Packed { hash, offset: self.end(), length: bytes.len() as u64, kind };
        self.buffer.extend_from_slice(bytes);
        if let Some((_, entries)) = &mut self.open {
            entries.push(entry);
        }
        if self.buffer.len() >= 1 << 20 { self.flush() } else { Ok(()) }
    }

    fn end(&self) -> u64 {
        self.start + self.buffer.len() as u64
    }

    fn flush(&mut self) -> Result<()> {
        if let Some((temporary, _)) = &mut self.open {
            let written = temporary.file.write_all(&self.buffer);
            written.map_err(Error::io("write", &temporary.path))?;
            self.start += self.buffer.len() as u64;
            self.buffer.clear();
        }
        Ok(())
    }

    fn seal(&mut self) -> Result<()> {
        let end = self.end();
        if let Some((_, entries)) = &self.open {
            let (footer, id) = footer(entries, end);
            self.buffer.extend_from_slice(&footer);
            self.flush()?;
            if let Some((temporary, _)) = self.open.take() {
                let path = self.store.pack_path(id);
                let file =
                    temporary.file.try_clone().map_err(Error::io("open", &temporary.path))?;
                temporary.publish(&path)?;
                let stamp = crate::sys::stamp(&file).map_err(Error::io("look at", &path))?;
                self.sealed.push((id, stamp));
            }
        }
        self.start = 0;
        Ok(())
    }

    /// Publishes the last pack; returns all that were published.
    pub(crate) fn finish(mut self) -> Result<Vec<(PackId, Stamp)>> {
        self.seal()?;
        Ok(self.sealed)
    }
}

/// An open pack, mapped.
#[derive(Debug)]
pub struct Pack {
    map: Mapped,
    path: PathBuf,
    id: PackId,
    index_start: usize,
    count: usize,
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn parse_record(record: &[u8]) -> Option<Packed> {
    let tagged = word(record, 40)?;
    Some(Packed {
        hash: record.get(..32)?.try_into().ok()?,
        offset: word(record, 32)?,
        length: tagged & ((1 << 56) - 1),
        kind: match tagged >> 56 {
            0 => PackedKind::Blob,
            _ => PackedKind::Manifest,
        },
    })
}

impl Pack {
    /// Opens a pack and checks its structure: magic, version, lengths, and the index by its hash.
    ///
    /// # Errors
    /// What the system says, or [`Error::Damaged`].
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let map = Mapped::new(&file).map_err(Error::io("map", path))?;
        let damaged = |error: FormatError| Error::damaged(path)(error);
        if map.len() < HEADER_BYTES + TAIL_BYTES {
            let wanted = (HEADER_BYTES + TAIL_BYTES) as u64;
            return Err(damaged(FormatError::Truncated { offset: map.len() as u64, wanted }));
        }
        let tail_start = map.len() - TAIL_BYTES;
        let tail = &map[tail_start..];
        if !map.starts_with(&MAGIC) || tail[48..56] != MAGIC {
            return Err(damaged(FormatError::Magic));
        }
        let version = u32::from_le_bytes([map[8], map[9], map[10], map[11]]);
        if version != VERSION {
            return Err(damaged(FormatError::Version { readable: VERSION, found: version }));
        }
        let zeros = map[12..HEADER_BYTES].iter().chain(&tail[56..]).all(|byte| *byte == 0);
        let (start, count) = (word(tail, 32).unwrap_or(0), word(tail, 40).unwrap_or(0));
        let index_bytes = count.checked_mul(RECORD_BYTES as u64);
        let end = index_bytes.and_then(|bytes| start.checked_add(bytes));
        if end != Some(tail_start as u64) || start < HEADER_BYTES as u64 || !zeros {
            let rule = "the index ends where the tail begins";
            return Err(damaged(FormatError::Rule { rule, index: 0 }));
        }
        // Both fit: they are at most `tail_start`.
        let (index_start, count) = (start as usize, count as usize);
        let id = PackId::from_bytes(*blake3::hash(&map[index_start..tail_start]).as_bytes());
        if tail[..32] != *id.as_bytes() {
            return Err(damaged(FormatError::Checksum { part: "index" }));
        }
        let pack = Self { map, path: path.to_owned(), id, index_start, count };
        pack.check_entries().map_err(damaged)?;
        Ok(pack)
    }

    fn check_entries(&self) -> Result<(), FormatError> {
        for (number, entry) in self.entries().enumerate() {
            let end = entry.offset.checked_add(entry.length);
            let is_inside = entry.offset >= HEADER_BYTES as u64
                && end.is_some_and(|end| end <= self.index_start as u64);
            if !is_inside {
                let rule = "an entry lies between header and index";
                return Err(FormatError::Rule { rule, index: number as u32 });
            }
        }
        Ok(())
    }

    /// Finds the entry that begins at `offset` and has a hash.
    pub(crate) fn entry_at(&self, offset: u64, hash: &[u8; 32]) -> Option<Packed> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.entry(middle)?.offset < offset {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        // Empty blobs begin where the next one does.
        let rest = (low..self.count).filter_map(|number| self.entry(number));
        rest.take_while(|entry| entry.offset == offset).find(|entry| entry.hash == *hash)
    }

    /// Returns the pack's id.
    #[must_use]
    pub fn id(&self) -> PackId {
        self.id
    }

    /// Returns where the pack is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns what stat(2) said of the pack when it was opened.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        self.map.stamp
    }

    /// Returns how many entries the pack has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Tells whether the pack has no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns entry `number` of the index.
    #[must_use]
    pub fn entry(&self, number: usize) -> Option<Packed> {
        if number >= self.count {
            return None;
        }
        let start = self.index_start + number * RECORD_BYTES;
        parse_record(self.map.get(start..start + RECORD_BYTES)?)
    }

    /// Returns all entries, in the order of the file.
    pub fn entries(&self) -> impl Iterator<Item = Packed> {
        (0..self.count).filter_map(|number| self.entry(number))
    }

    /// Returns the bytes of an entry.
    #[must_use]
    pub fn bytes(&self, offset: u64, length: u64) -> Option<&[u8]> {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(usize::try_from(length).ok()?)?;
        self.map[..self.index_start].get(start..end)
    }

    /// Checks the content of every entry by its hash, and that gaps are zero.
    ///
    /// # Errors
    /// The first entry that is damaged.
    pub fn verify(&self) -> Result<()> {
        let mut end_before = HEADER_BYTES as u64;
        for (number, entry) in self.entries().enumerate() {
            let damaged = |rule| {
                let source = FormatError::Rule { rule, index: number as u32 };
                Error::Damaged { path: self.path.clone(), source }
            };
            let gap = entry.offset.checked_sub(end_before);
            let gap = gap.and_then(|length| self.bytes(end_before, length));
            if !gap.is_some_and(|gap| gap.iter().all(|byte| *byte == 0)) {
                return Err(damaged("entries follow each other, zeros between"));
            }
            end_before = entry.offset + entry.length;
            let bytes = self.bytes(entry.offset, entry.length).unwrap_or_default();
            if !is_content(entry.kind, &entry.hash, bytes) {
                return Err(damaged("an entry has the hash that names it"));
            }
        }
        let rest = self.index_start as u64 - end_before.min(self.index_start as u64);
        let rest = self.bytes(end_before, rest).unwrap_or_default();
        if rest.iter().any(|byte| *byte != 0) {
            let rule = "zeros follow the last entry";
            let source = FormatError::Rule { rule, index: self.count as u32 };
            return Err(Error::Damaged { path: self.path.clone(), source });
        }
        Ok(())
    }
}

/// The whole entries of a pack that may be damaged anywhere.
pub(crate) struct Salvage {
    map: Mapped,
    /// Entries whose bytes have the hash that names them.
    pub(crate) whole: Vec<Packed>,
    /// Entries that are listed, but damaged.
    pub(crate) lost: Vec<Packed>,
}

impl Salvage {
    /// Looks for entries, whether or not magic, index and tail are right.
    pub(crate) fn new(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let map = Mapped::new(&file).map_err(Error::io("map", path))?;
        let (mut whole, mut lost) = (Vec::new(), Vec::new());
        for (entry, at) in listed(&map) {
            match is_whole(&map, &entry, at) {
                true => whole.push(entry),
                false => lost.push(entry),
            }
        }
        if whole.is_empty() {
            whole = found_backwards(&map);
            lost.clear();
        }
        Ok(Self { map, whole, lost })
    }

    pub(crate) fn bytes(&self, entry: &Packed) -> &[u8] {
        slice(&self.map, entry).unwrap_or_default()
    }
}

fn slice<'a>(map: &'a [u8], entry: &Packed) -> Option<&'a [u8]> {
    let start = usize::try_from(entry.offset).ok()?;
    map.get(start..start.checked_add(usize::try_from(entry.length).ok()?)?)
}

/// Tells whether the entry of the index record at `at` has the hash that names it.
fn is_whole(map: &[u8], entry: &Packed, at: usize) -> bool {
    let end = entry.offset.checked_add(entry.length);
    let is_inside = entry.offset >= HEADER_BYTES as u64 && end.is_some_and(|end| end <= at as u64);
    let bytes = if is_inside { slice(map, entry) } else { None };
    bytes.is_some_and(|bytes| is_content(entry.kind, &entry.hash, bytes))
}

/// Returns the index records that the tail points to, with where they are, if it makes sense.
fn listed(map: &[u8]) -> Vec<(Packed, usize)> {
    let Some(tail_start) = map.len().checked_sub(TAIL_BYTES) else {
        return Vec::new();
    };
    let start = word(map, tail_start + 32).and_then(|start| usize::try_from(start).ok());
    let Some(start) = start.filter(|start| *start <= tail_start) else {
        return Vec::new();
    };
    if (tail_start - start) % RECORD_BYTES != 0 {
        return Vec::new();
    }
    let records = (start..tail_start).step_by(RECORD_BYTES);
    records.filter_map(|at| Some((parse_record(map.get(at..at + RECORD_BYTES)?)?, start))).collect()
}

/// Finds the index of a pack whose tail is damaged or cut off, from its last record to its first.
fn found_backwards(map: &[u8]) -> Vec<Packed> {
    let record_before = |end: usize| {
        let at = end.checked_sub(RECORD_BYTES)?;
        let entry = parse_record(map.get(at..end)?)?;
        is_whole(map, &entry, at).then_some(entry)
    };
    let ends = (0..=TAIL_BYTES).rev().filter_map(|cut| map.len().checked_sub(cut));
    let Some(mut end) = ends.into_iter().find(|end| record_before(*end).is_some()) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    while let Some(entry) = record_before(end) {
        found.push(entry);
        end -= RECORD_BYTES;
    }
    found.reverse();
    found
}

/// Tells whether `bytes` are what `hash` names.
pub(crate) fn is_content(kind: PackedKind, hash: &[u8; 32], bytes: &[u8]) -> bool {
    match kind {
        PackedKind::Blob => blake3::hash(bytes).as_bytes() == hash,
        PackedKind::Manifest => crate::tree::check_manifest(bytes, hash).is_ok(),
    }
}
