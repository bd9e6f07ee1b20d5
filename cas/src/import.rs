//! Import: new blobs and trees on their way into the store, from several threads at once.
//!
//! Each thread fills a [`Unit`], a few megabytes of files in the order of their tree: a file is read
//! to its final place in the unit's buffer, hashed there, and taken back if the store has it already.
//! A full unit is written to the current pack in one piece, so a pack keeps the order of the trees.
//! Nothing is visible before [`Import::finish`] has written every pack to the disk and named it.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rift_tree::builder::Built;
use rift_tree::sidecar::Stamp;
use rift_tree::{BlobHash, PackId, TreeHash};

use crate::blobs::{BlobIndex, Found, LOOSE_FROM};
use crate::error::{Error, Result};
use crate::lock::{lock, unlocked};
use crate::log::Record;
use crate::pack::{self, ALIGN, ALIGN_FROM, PACK_BYTES, Packed, PackedKind};
use crate::store::{Store, Temporary};
use crate::sys::{self, Mapped};
use crate::tree::PACKED_MANIFEST_MAX;

/// A unit is written once it holds this many bytes.
const UNIT_BYTES: usize = 4 << 20;
/// How many large blobs wait for their names until the import is finished; each is an open file.
const WAITING_MAX: usize = 64;
/// How many shards the set of new hashes has, so that threads rarely wait for each other.
const SHARDS: usize = 16;

/// A pack that is being filled.
struct OpenPack {
    temporary: Temporary,
    state: Mutex<PackState>,
}

#[derive(Default)]
struct PackState {
    end: u64,
    entries: Vec<Packed>,
}

/// What a unit brings: a hash of a kind.
type Claim = ([u8; 32], PackedKind);

/// An import in progress. gc waits until it is finished or dropped.
pub struct Import<'s> {
    store: &'s Store,
    index: BlobIndex,
    new: [Mutex<HashSet<Claim>>; SHARDS],
    packs: Mutex<Vec<Arc<OpenPack>>>,
    /// Large blobs that wait for their names.
    loose: Mutex<Vec<(Temporary, BlobHash)>>,
    /// Bytes of those that have one.
    loose_bytes: AtomicU64,
    /// A write failed: packs have holes where their entries should be.
    is_broken: AtomicBool,
}

/// What an import has brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Imported {
    /// New packs.
    pub packs: usize,
    /// Bytes of the new packs.
    pub pack_bytes: u64,
    /// Bytes of the new files of large blobs.
    pub loose_bytes: u64,
}

impl Imported {
    /// Returns by how many bytes the store has grown.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.pack_bytes + self.loose_bytes
    }
}

impl Store {
    /// Starts an import.
    ///
    /// # Errors
    /// What the system says.
    pub fn import(&self) -> Result<Import<'_>> {
        Ok(Import {
            store: self,
            index: self.blobs()?,
            new: std::array::from_fn(|_| Mutex::new(HashSet::new())),
            packs: Mutex::new(Vec::new()),
            loose: Mutex::new(Vec::new()),
            loose_bytes: AtomicU64::new(0),
            is_broken: AtomicBool::new(false),
        })
    }
}

impl Import<'_> {
    /// Returns the store that is imported into.
    #[must_use]
    pub fn store(&self) -> &Store {
        self.store
    }

    /// Returns what the store had when the import began.
    #[must_use]
    pub fn index(&self) -> &BlobIndex {
        &self.index
    }

    /// Starts a unit.
    #[must_use]
    pub fn unit(&self) -> Unit<'_> {
        let (buffer, entries) = (Vec::new(), Vec::new());
        Unit { import: self, buffer, entries, start: None, loose: None, recent: None }
    }

    /// Tells whether the store has it or this import brings it; if not, the caller now brings it.
    fn claim(&self, hash: &[u8; 32], kind: PackedKind) -> Result<bool> {
        self.refuse_purged(hash)?;
        let shard = &self.new[usize::from(hash[16]) % SHARDS];
        Ok(self.index.find(hash, kind).is_none() && lock(shard).insert((*hash, kind)))
    }

    /// Tells whether the store had a blob of this hash and size, in bytes, when the import began.
    pub(crate) fn has(&self, hash: BlobHash, size: u64) -> bool {
        let is_there = if size >= LOOSE_FROM {
            let loose = self.index.open_loose(self.store, hash);
            loose.is_ok_and(|loose| loose.is_some_and(|stamp| stamp.size == size))
        } else {
            let found = self.index.find(hash.as_bytes(), PackedKind::Blob);
            found.is_some_and(|found| found.packed.length == size)
        };
        is_there && !self.index.is_purged(hash.as_bytes())
    }

    fn refuse_purged(&self, hash: &[u8; 32]) -> Result<()> {
        match self.index.is_purged(hash) {
            true => Err(Error::Purged { what: BlobHash::from_bytes(*hash).to_string() }),
            false => Ok(()),
        }
    }

    /// Writes a unit to the current pack; returns the pack and where the unit begins in it.
    fn write_unit(&self, buffer: &[u8], entries: &[Packed]) -> Result<(Arc<OpenPack>, u64)> {
        if let Err(error) = self.store.ask(buffer.len() as u64) {
            self.is_broken.store(true, Ordering::Relaxed);
            return Err(error);
        }
        let (pack, offset) = self.reserve(buffer.len() as u64, entries)?;
        let file = &pack.temporary.file;
        if let Err(error) = file.write_all_at(buffer, offset) {
            self.is_broken.store(true, Ordering::Relaxed);
            return Err(Error::io("write", &pack.temporary.path)(error));
        }
        sys::start_writeback(file, offset, buffer.len() as u64);
        Ok((pack, offset))
    }

    /// Reserves room in the current pack, starting a new one when it is full.
    fn reserve(&self, length: u64, entries: &[Packed]) -> Result<(Arc<OpenPack>, u64)> {
        let mut packs = lock(&self.packs);
        let is_full = packs.last().is_none_or(|pack| {
            let end = lock(&pack.state).end;
            end >= PACK_BYTES || end + length > PACK_BYTES + PACK_BYTES / 4
        });
        if is_full {
            let temporary = self.store.temporary()?;
            (&temporary.file)
                .write_all(&pack::header())
                .map_err(Error::io("write", &temporary.path))?;
            let state = PackState { end: pack::header().len() as u64, entries: Vec::new() };
            packs.push(Arc::new(OpenPack { temporary, state: Mutex::new(state) }));
        }
        let Some(pack) = packs.last().map(Arc::clone) else {
            // `is_full` is true of an empty list, so there is one.
            let path = self.store.path("packs");
            return Err(Error::Refused { path, reason: "no pack is open" });
        };
        let mut state = lock(&pack.state);
        let offset = state.end.next_multiple_of(ALIGN as u64);
        state.end = offset + length;
        let shifted =
            entries.iter().map(|entry| Packed { offset: entry.offset + offset, ..*entry });
        state.entries.extend(shifted);
        drop(state);
        Ok((pack, offset))
    }

    /// Adds a small tree's manifest to the packs; a large one gets its own file.
    ///
    /// # Errors
    /// What the system says.
    pub fn add_manifest(&self, unit: &mut Unit<'_>, built: &Built) -> Result<()> {
        if built.bytes.len() >= PACKED_MANIFEST_MAX {
            self.refuse_purged(built.hash.as_bytes())?;
            return self.store.publish_tree(built);
        }
        let path = self.store.path("packs");
        crate::tree::check_manifest(&built.bytes, built.hash.as_bytes())
            .map_err(Error::damaged(&path))?;
        unit.add_packed(&built.bytes, *built.hash.as_bytes(), PackedKind::Manifest)
    }

    /// Writes all packs to the disk, names them, and only then appends `records` to the log.
    ///
    /// Returns what is new and an index that knows it. Keep the index until a ref, a plan or a lease
    /// names what was imported: gc waits for it.
    ///
    /// # Errors
    /// What the system says; packs that have their names by then stay and are whole.
    /// [`Error::Refused`] when a unit could not be written, [`Error::Purged`] for a key that was.
    pub fn finish(mut self, records: &[Record]) -> Result<(Imported, BlobIndex)> {
        if self.is_broken.load(Ordering::Relaxed) {
            let reason = "an import that could not write all its files is not finished";
            return Err(Error::Refused { path: self.store.path("packs"), reason });
        }
        records.iter().try_for_each(|record| self.refuse_purged(&record.key))?;
        let packs = std::mem::take(&mut *lock(&self.packs));
        let waiting = std::mem::take(&mut *lock(&self.loose));
        // Side by side: the disk takes them together.
        let (sealed, named) = std::thread::scope(|scope| {
            let name = |(temporary, hash)| self.name_loose(temporary, hash);
            let named: Vec<_> =
                waiting.into_iter().map(|one| scope.spawn(move || name(one))).collect();
            let sealed: Result<Vec<_>> = packs.into_iter().map(|pack| self.seal(pack)).collect();
            let joined = named.into_iter().map(|thread| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            (sealed, joined.collect::<Result<()>>())
        });
        let fresh = sealed?;
        named?;
        let imported = Imported {
            packs: fresh.len(),
            pack_bytes: fresh.iter().map(|(_, stamp)| stamp.size).sum(),
            loose_bytes: self.loose_bytes.load(Ordering::Relaxed),
        };
        let index = match fresh.is_empty() {
            true => self.index,
            false => {
                let mut index = BlobIndex::open(self.store, &fresh)?;
                index.purged = std::mem::take(&mut self.index.purged);
                index.guard = self.index.guard.take();
                index.trust_loose_of(&self.index);
                index
            }
        };
        index.refresh(self.store)?;
        if !records.is_empty() {
            self.store.append(records)?;
        }
        Ok((imported, index))
    }

    /// Keeps a large blob for the end of the import, unless the store has it whole.
    pub(crate) fn end_loose(
        &self,
        temporary: Temporary,
        hash: BlobHash,
        length: u64,
    ) -> Result<()> {
        let Self { store, index, .. } = self;
        self.refuse_purged(hash.as_bytes())?;
        match index.open_loose(store, hash) {
            Ok(Some(_)) => return Ok(()),
            // A damaged one is replaced.
            Ok(None) | Err(Error::HashMismatch { .. }) => {}
            Err(error) => return Err(error),
        }
        sys::start_writeback(&temporary.file, 0, length);
        let mut waiting = lock(&self.loose);
        if waiting.len() < WAITING_MAX {
            waiting.push((temporary, hash));
            return Ok(());
        }
        drop(waiting);
        self.name_loose(temporary, hash)
    }

    /// Gives a large blob its name.
    fn name_loose(&self, temporary: Temporary, hash: BlobHash) -> Result<()> {
        let path = self.store.loose_path(hash);
        let file = temporary.file.try_clone().map_err(Error::io("open", &path))?;
        temporary.publish(&path)?;
        let stamp = sys::stamp(&file).map_err(Error::io("look at", &path))?;
        self.loose_bytes.fetch_add(stamp.size, Ordering::Relaxed);
        self.index.trust_loose(hash, stamp);
        Ok(())
    }

    /// Writes index and tail of a pack and publishes it.
    fn seal(&self, pack: Arc<OpenPack>) -> Result<(PackId, Stamp)> {
        let Some(pack) = Arc::into_inner(pack) else {
            let path = self.store.path("packs");
            return Err(Error::Refused { path, reason: "a unit is still being written" });
        };
        let OpenPack { temporary, state } = pack;
        let state = unlocked(state);
        let (footer, id) = pack::footer(&state.entries, state.end);
        let file = temporary.file.try_clone().map_err(Error::io("open", &temporary.path))?;
        file.write_all_at(&footer, state.end).map_err(Error::io("write", &temporary.path))?;
        let path = self.store.pack_path(id);
        temporary.publish(&path)?;
        let stamp = sys::stamp(&file).map_err(Error::io("look at", &path))?;
        Ok((id, stamp))
    }
}

/// A large blob on its way to its own file.
struct LooseWriter {
    temporary: Temporary,
    hasher: blake3::Hasher,
    length: u64,
}

/// Where a blob is that a unit has brought.
enum Recent {
    /// In the unit's buffer.
    Buffer { offset: usize, length: usize },
    /// In a pack that is being filled.
    Pack { pack: Arc<OpenPack>, offset: u64, length: usize },
    /// A file of its own.
    Loose(File),
}

/// Bytes of a blob, and what keeps them.
pub(crate) enum AtHand<'u> {
    Buffer(&'u [u8]),
    Read(Vec<u8>),
    Packed(Found),
    Loose(Mapped),
}

impl std::ops::Deref for AtHand<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Buffer(bytes) => bytes,
            Self::Read(bytes) => bytes,
            Self::Packed(found) => found.bytes(),
            Self::Loose(mapped) => mapped,
        }
    }
}

/// A run of files on its way into a pack. One thread fills it.
pub struct Unit<'i> {
    import: &'i Import<'i>,
    buffer: Vec<u8>,
    entries: Vec<Packed>,
    /// Where the current file begins in the buffer.
    start: Option<usize>,
    loose: Option<LooseWriter>,
    /// What the unit has brought since it was told to remember.
    recent: Option<HashMap<[u8; 32], Recent>>,
}

impl Unit<'_> {
    /// Remembers from here on where blobs went, for [`Ahead`](crate::ahead::Ahead).
    pub fn remember(&mut self) {
        self.recent.get_or_insert_default();
    }

    /// Returns a blob's bytes if this unit has brought it, or the store had it.
    pub(crate) fn at_hand(&self, hash: BlobHash, size: u64) -> Option<AtHand<'_>> {
        let bytes = match self.recent.as_ref().and_then(|recent| recent.get(hash.as_bytes())) {
            Some(Recent::Buffer { offset, length }) => {
                AtHand::Buffer(self.buffer.get(*offset..offset + length)?)
            }
            Some(Recent::Pack { pack, offset, length }) => {
                let mut bytes = vec![0; *length];
                pack.temporary.file.read_exact_at(&mut bytes, *offset).ok()?;
                AtHand::Read(bytes)
            }
            Some(Recent::Loose(file)) => AtHand::Loose(Mapped::new(file).ok()?),
            None => AtHand::Packed(self.import.index.find(hash.as_bytes(), PackedKind::Blob)?),
        };
        (bytes.len() as u64 == size).then_some(bytes)
    }

    fn note(&mut self, hash: &[u8; 32], place: Recent) {
        if let Some(recent) = &mut self.recent {
            recent.insert(*hash, place);
        }
    }

    /// Begins a file. `size` is what is expected; the file may turn out otherwise.
    ///
    /// # Errors
    /// What the system says.
    pub fn begin(&mut self, size: u64) -> Result<()> {
        self.abandon();
        if size >= LOOSE_FROM {
            return self.begin_loose();
        }
        // Below LOOSE_FROM, so it fits.
        let size = size as usize;
        if self.buffer.len() + size > UNIT_BYTES + UNIT_BYTES / 2 && !self.buffer.is_empty() {
            self.flush()?;
        }
        if size >= ALIGN_FROM {
            self.buffer.resize(self.buffer.len().next_multiple_of(ALIGN), 0);
        }
        self.start = Some(self.buffer.len());
        Ok(())
    }

    fn begin_loose(&mut self) -> Result<()> {
        let temporary = self.import.store.temporary()?;
        self.loose = Some(LooseWriter { temporary, hasher: blake3::Hasher::new(), length: 0 });
        Ok(())
    }

    /// Appends bytes to the file that was begun.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.loose.is_none() {
            self.buffer.extend_from_slice(bytes);
            return self.spill_if_large();
        }
        self.write_loose(bytes)
    }

    fn write_loose(&mut self, bytes: &[u8]) -> Result<()> {
        if let Some(loose) = &mut self.loose {
            self.import.store.ask(bytes.len() as u64)?;
            loose.hasher.update(bytes);
            loose.length += bytes.len() as u64;
            let path = &loose.temporary.path;
            (&loose.temporary.file).write_all(bytes).map_err(Error::io("write", path))?;
        }
        Ok(())
    }

    /// Moves a file that grew over the limit from the buffer to a file of its own.
    fn spill_if_large(&mut self) -> Result<()> {
        let Some(start) = self.start else {
            return Ok(());
        };
        if ((self.buffer.len() - start) as u64) < LOOSE_FROM {
            return Ok(());
        }
        let bytes = self.buffer.split_off(start);
        self.start = None;
        self.begin_loose()?;
        self.write_loose(&bytes)
    }

    /// Appends everything that `file` still holds; returns how many bytes that were.
    ///
    /// # Errors
    /// What the system says of reading, as `Ok(Err(_))`; of the store, as `Err(_)`.
    pub fn read_from(&mut self, file: &mut File) -> Result<io::Result<u64>> {
        let mut total = 0;
        loop {
            let read = match &mut self.loose {
                None => (&mut *file).take(LOOSE_FROM).read_to_end(&mut self.buffer),
                Some(_) => {
                    let mut chunk = vec![0; 1 << 18];
                    match file.read(&mut chunk) {
                        Ok(read) => {
                            self.write_loose(&chunk[..read])?;
                            Ok(read)
                        }
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                        Err(error) => Err(error),
                    }
                }
            };
            match read {
                Ok(0) => return Ok(Ok(total)),
                Ok(read) => total += read as u64,
                Err(error) => return Ok(Err(error)),
            }
            if self.loose.is_none() {
                self.spill_if_large()?;
                if self.loose.is_none() {
                    return Ok(Ok(total));
                }
            }
        }
    }

    /// Returns the bytes of the file that was begun, while they are few enough to be in memory.
    pub(crate) fn current(&self) -> Option<&[u8]> {
        self.start.and_then(|start| self.buffer.get(start..))
    }

    /// Forgets the file that was begun.
    pub fn abandon(&mut self) {
        if let Some(start) = self.start.take() {
            self.buffer.truncate(start);
        }
        self.loose = None;
    }

    /// Ends the file: returns its hash and length.
    ///
    /// # Errors
    /// What the system says.
    pub fn end(&mut self) -> Result<(BlobHash, u64)> {
        let hash = self.hash();
        self.end_hashed(hash)
    }

    /// Ends the file if its bytes have this hash; forgets it otherwise, and returns theirs.
    ///
    /// # Errors
    /// What the system says.
    pub fn end_as(&mut self, wanted: BlobHash) -> Result<Result<(), BlobHash>> {
        let actual = self.hash();
        if actual != wanted {
            self.abandon();
            return Ok(Err(actual));
        }
        self.end_hashed(actual).map(|_| Ok(()))
    }

    fn hash(&self) -> BlobHash {
        let hash = match &self.loose {
            Some(loose) => loose.hasher.finalize(),
            None => blake3::hash(self.current().unwrap_or_default()),
        };
        BlobHash::from_bytes(*hash.as_bytes())
    }

    fn end_hashed(&mut self, hash: BlobHash) -> Result<(BlobHash, u64)> {
        if let Some(loose) = self.loose.take() {
            if loose.length < LOOSE_FROM {
                return self.repack(loose, hash);
            }
            // It may be gone from here before it is asked for; the descriptor is not.
            let file = loose.temporary.file.try_clone();
            self.import.end_loose(loose.temporary, hash, loose.length)?;
            if let Ok(file) = file {
                self.note(hash.as_bytes(), Recent::Loose(file));
            }
            return Ok((hash, loose.length));
        }
        let start = self.start.take().unwrap_or(self.buffer.len());
        let (key, length) = (*hash.as_bytes(), (self.buffer.len() - start) as u64);
        match self.import.claim(&key, PackedKind::Blob)? {
            true => {
                let kind = PackedKind::Blob;
                self.entries.push(Packed { hash: key, offset: start as u64, length, kind });
                let length = self.buffer.len() - start;
                self.note(&key, Recent::Buffer { offset: start, length });
            }
            false => self.buffer.truncate(start),
        }
        if self.buffer.len() >= UNIT_BYTES {
            self.flush()?;
        }
        Ok((hash, length))
    }

    /// Puts a file that was announced as large, and is not, where small ones go.
    fn repack(&mut self, loose: LooseWriter, hash: BlobHash) -> Result<(BlobHash, u64)> {
        // Below LOOSE_FROM, so it fits.
        let mut bytes = vec![0; loose.length as usize];
        let path = &loose.temporary.path;
        loose.temporary.file.read_exact_at(&mut bytes, 0).map_err(Error::io("read", path))?;
        self.add_packed(&bytes, *hash.as_bytes(), PackedKind::Blob)?;
        Ok((hash, loose.length))
    }

    /// Adds bytes whose hash is known.
    fn add_packed(&mut self, bytes: &[u8], hash: [u8; 32], kind: PackedKind) -> Result<()> {
        if !self.import.claim(&hash, kind)? {
            return Ok(());
        }
        if bytes.len() >= ALIGN_FROM {
            self.buffer.resize(self.buffer.len().next_multiple_of(ALIGN), 0);
        }
        let (offset, length) = (self.buffer.len() as u64, bytes.len() as u64);
        self.buffer.extend_from_slice(bytes);
        self.entries.push(Packed { hash, offset, length, kind });
        if self.buffer.len() >= UNIT_BYTES { self.flush() } else { Ok(()) }
    }

    /// Adds a whole small file; returns its hash.
    ///
    /// # Errors
    /// What the system says.
    pub fn add(&mut self, bytes: &[u8]) -> Result<BlobHash> {
        self.begin(bytes.len() as u64)?;
        self.write(bytes)?;
        self.end().map(|(hash, _)| hash)
    }

    /// Writes what the unit holds to the pack.
    ///
    /// # Errors
    /// What the system says.
    pub fn flush(&mut self) -> Result<()> {
        // Padding before a file that was then taken back would end the unit with zeros.
        let end = self.entries.last().map_or(0, |last| (last.offset + last.length) as usize);
        self.buffer.truncate(end);
        if !self.entries.is_empty() {
            let (pack, base) = self.import.write_unit(&self.buffer, &self.entries)?;
            if let Some(recent) = &mut self.recent {
                for Packed { hash, offset, length, .. } in &self.entries {
                    // Below LOOSE_FROM, so it fits.
                    let (offset, length) = (base + offset, *length as usize);
                    let pack = Arc::clone(&pack);
                    recent.insert(*hash, Recent::Pack { pack, offset, length });
                }
            }
        }
        self.buffer.clear();
        self.entries.clear();
        Ok(())
    }
}

/// Returns a tree hash's manifest from the packs that an index knows, or its file.
///
/// # Errors
/// What the system says.
pub fn manifest_bytes(store: &Store, index: &BlobIndex, hash: TreeHash) -> Result<Option<Vec<u8>>> {
    if let Some(found) = crate::tree::packed_manifest(index, hash) {
        return Ok(Some(found.bytes().to_vec()));
    }
    Ok(crate::tree::map_if_there(&store.tree_path(hash))?.map(|map| map.to_vec()))
}
