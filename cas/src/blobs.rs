//! Where the store's blobs are: a rebuildable index over the packs, and the loose blobs.
//!
//! ```text
//! index/blobs: | magic 8 "RIFTIDX1" | packs u32 | slots u32 | entries u64 | header checksum 32 | zero 8 |
//!              | packs × (id 32, stamp 24) | slots × u64 |
//! slot:        hash bits 16 | pack 20 | entry + 1: 28
//! index/stamps: a record (see `record`) of (name 32, stamp 24): loose blobs, and packs not in the table
//! ```
//!
//! The index is a cache: a slot only points to an entry of a pack's own index, where the whole hash is
//! compared, so a damaged index can hide a blob but never give a wrong one; who removes what it does not
//! find checks it first. Packs that it does not cover are read beside it; when these grow, it is written
//! anew. It also remembers the stamp of each pack and loose blob: one that changed since it was published
//! is verified before anything is served from it. While an index is open, gc deletes nothing.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use rift_tree::sidecar::Stamp;
use rift_tree::{BlobHash, PackId, TreeHash};

use crate::error::{Error, Result};
use crate::lock::lock;
use crate::pack::{Pack, Packed, PackedKind};
use crate::purge::Bans;
use crate::record::{self, read_folder};
use crate::store::{Guard, Store};
use crate::sys::Mapped;

/// Blobs of this many bytes or more are loose files, smaller ones lie in packs.
pub const LOOSE_FROM: u64 = 8 << 20;

const MAGIC: [u8; 8] = *b"RIFTIDX1";
const HEADER_BYTES: usize = 64;
const PACK_BYTES: usize = 56;
const ENTRY_BITS: u32 = 28;
const PACK_BITS: u32 = 20;

/// A pack that the index knows, opened when first needed.
#[derive(Debug)]
struct KnownPack {
    id: PackId,
    path: PathBuf,
    /// What it was when it was published; `None` when nobody remembers.
    published: Option<Stamp>,
    open: OnceLock<Option<Arc<Pack>>>,
}

/// A pack of the index by its number, and an entry of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) pack: u32,
    pub(crate) entry: u32,
}

/// All blobs and small manifests of a store, as they were when the index was opened.
#[derive(Debug)]
pub struct BlobIndex {
    packs: Vec<KnownPack>,
    /// Packs `0..covered` are in `table`.
    covered: usize,
    table: Option<Mapped>,
    table_at: usize,
    /// What the table does not cover.
    overlay: HashMap<([u8; 32], PackedKind), Place>,
    /// The stamps on disk, and those of loose blobs whose content was checked since.
    stamps: Mutex<Stamps>,
    /// What must not come back, see `purge`.
    pub(crate) purged: Bans,
    /// Keeps gc away; gc itself opens an index without.
    pub(crate) guard: Option<Guard>,
}

/// Stamps of packs and loose blobs, by their names.
#[derive(Debug, Default)]
struct Stamps {
    known: BTreeMap<[u8; 32], Stamp>,
    /// The loose blobs among them.
    loose: HashSet<[u8; 32]>,
    is_changed: bool,
}

/// Where a blob was found.
#[derive(Debug, Clone)]
pub struct Found {
    /// The pack that holds it.
    pub pack: Arc<Pack>,
    /// Its entry.
    pub packed: Packed,
}

impl Found {
    /// Returns the blob's bytes, not checked against its hash.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // `Pack::open` has checked that entries lie inside.
        self.pack.bytes(self.packed.offset, self.packed.length).unwrap_or_default()
    }
}

fn home(hash: &[u8; 32]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *hash;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

fn tag(hash: &[u8; 32]) -> u64 {
    u64::from(u16::from_le_bytes([hash[8], hash[9]]))
}

impl KnownPack {
    /// Opens the pack; a damaged one counts as not there, which `verify` reports.
    fn open(&self) -> Option<&Arc<Pack>> {
        self.open
            .get_or_init(|| {
                let pack = Pack::open(&self.path).ok().filter(|pack| pack.id() == self.id)?;
                let is_as_published = self.published == Some(pack.stamp());
                (is_as_published || pack.verify().is_ok()).then(|| Arc::new(pack))
            })
            .as_ref()
    }
}

fn parse_stamp(bytes: &[u8]) -> Stamp {
    let word = |at: usize| {
        let field = bytes.get(at..at + 8).and_then(|field| field.try_into().ok());
        u64::from_le_bytes(field.unwrap_or_default())
    };
    Stamp { size: word(0), inode: word(8), mtime_ns: word(16).cast_signed() }
}

impl BlobIndex {
    /// Opens the index of a store and reads the packs that it does not cover.
    ///
    /// `fresh` are packs that the caller has just published, with their stamps.
    ///
    /// # Errors
    /// What the system says of the packs' folder.
    pub(crate) fn open(store: &Store, fresh: &[(PackId, Stamp)]) -> Result<Self> {
        Self::open_without(store, fresh, &HashSet::new())
    }

    /// Opens an index that hides nothing, for who removes what it does not find: the table is compared
    /// with what the packs say, and left out where it says something else.
    ///
    /// # Errors
    /// As [`BlobIndex::open`].
    pub(crate) fn open_checked(store: &Store) -> Result<Self> {
        let index = Self::open(store, &[])?;
        let packs = index.packs().map(|pack| (pack.id(), Arc::clone(pack))).collect();
        match &index.table {
            Some(table) if !matches!(check_table(table, &packs), TableCheck::Right) => {
                Self::open_parts(store, &[], &HashSet::new(), false)
            }
            _ => Ok(index),
        }
    }

    /// Opens the index as if some packs were not there.
    pub(crate) fn open_without(
        store: &Store,
        fresh: &[(PackId, Stamp)],
        hidden: &HashSet<PackId>,
    ) -> Result<Self> {
        Self::open_parts(store, fresh, hidden, true)
    }

    fn open_parts(
        store: &Store,
        fresh: &[(PackId, Stamp)],
        hidden: &HashSet<PackId>,
        has_table: bool,
    ) -> Result<Self> {
        let mut on_disk = list_packs(store)?;
        on_disk.retain(|id, _| !hidden.contains(id));
        let mut known = read_stamps(&store.path("index/stamps"));
        known.extend(fresh.iter().map(|(id, stamp)| (*id.as_bytes(), *stamp)));
        let stamps = Stamps { known, loose: HashSet::new(), is_changed: !fresh.is_empty() };
        let mut index = Self {
            packs: Vec::new(),
            covered: 0,
            table: None,
            table_at: 0,
            overlay: HashMap::new(),
            stamps: Mutex::default(),
            purged: Bans::default(),
            guard: None,
        };
        if has_table {
            index.read_table(&store.path("index/blobs"), &mut on_disk);
        }
        for (id, path) in on_disk {
            let published = stamps.known.get(id.as_bytes()).copied();
            index.packs.push(KnownPack { id, path, published, open: OnceLock::new() });
        }
        for number in index.covered..index.packs.len() {
            let Some(pack) = index.packs[number].open() else {
                continue;
            };
            for (entry, packed) in Arc::clone(pack).entries().enumerate() {
                let place = Place { pack: number as u32, entry: entry as u32 };
                index.overlay.insert((packed.hash, packed.kind), place);
            }
        }
        index.stamps = Mutex::new(stamps);
        Ok(index)
    }

    /// Takes over the table on disk, and its packs out of `on_disk`; a table that names packs which
    /// are gone, or that is damaged, is left alone and written anew later.
    fn read_table(&mut self, path: &Path, on_disk: &mut HashMap<PackId, PathBuf>) {
        let Ok(Ok(map)) = File::open(path).map(|file| Mapped::new(&file)) else {
            return;
        };
        let Some((packs, slots_at)) = parse_table(&map) else {
            return;
        };
        if packs.iter().any(|(id, _)| !on_disk.contains_key(id)) {
            return;
        }
        for (id, stamp) in packs {
            if let Some(path) = on_disk.remove(&id) {
                let published = Some(stamp);
                self.packs.push(KnownPack { id, path, published, open: OnceLock::new() });
            }
        }
        self.covered = self.packs.len();
        self.table = Some(map);
        self.table_at = slots_at;
    }

    /// Finds a blob or small manifest in the packs.
    #[must_use]
    pub fn find(&self, hash: &[u8; 32], kind: PackedKind) -> Option<Found> {
        self.locate(hash, kind).map(|(_, found)| found)
    }

    /// Finds a blob or small manifest and where it is. What the table covers comes first, so gc can
    /// hide the packs that it is about to remove by leaving them out of the table.
    pub(crate) fn locate(&self, hash: &[u8; 32], kind: PackedKind) -> Option<(Place, Found)> {
        if let Some(found) = self.locate_in_table(hash, kind) {
            return Some(found);
        }
        let place = *self.overlay.get(&(*hash, kind))?;
        self.entry(place, hash, kind).map(|found| (place, found))
    }

    fn locate_in_table(&self, hash: &[u8; 32], kind: PackedKind) -> Option<(Place, Found)> {
        let slots = self.table.as_ref()?.get(self.table_at..)?;
        let mask = (slots.len() / 8).checked_sub(1)?;
        // Deliberate truncation: any bits of the hash do.
        let mut slot = home(hash) as usize & mask;
        for _ in 0..=mask {
            let word = u64::from_le_bytes(slots.get(slot * 8..slot * 8 + 8)?.try_into().ok()?);
            if word == 0 {
                return None;
            }
            let entry = (word & ((1 << ENTRY_BITS) - 1)) as u32;
            let pack = (word >> ENTRY_BITS & ((1 << PACK_BITS) - 1)) as u32;
            let place = Place { pack, entry: entry.wrapping_sub(1) };
            if word >> (ENTRY_BITS + PACK_BITS) == tag(hash)
                && let Some(found) = self.entry(place, hash, kind)
            {
                return Some((place, found));
            }
            slot = (slot + 1) & mask;
        }
        None
    }

    fn entry(&self, place: Place, hash: &[u8; 32], kind: PackedKind) -> Option<Found> {
        let pack = self.packs.get(place.pack as usize)?.open()?;
        let packed = pack.entry(place.entry as usize)?;
        (packed.hash == *hash && packed.kind == kind)
            .then(|| Found { pack: Arc::clone(pack), packed })
    }

    /// Returns all packs that could be opened.
    pub fn packs(&self) -> impl Iterator<Item = &Arc<Pack>> {
        self.packs.iter().filter_map(KnownPack::open)
    }

    /// Returns the packs by their numbers; `None` for one that could not be opened.
    pub(crate) fn numbered_packs(&self) -> impl Iterator<Item = Option<&Arc<Pack>>> {
        self.packs.iter().map(KnownPack::open)
    }

    fn stamps(&self) -> MutexGuard<'_, Stamps> {
        lock(&self.stamps)
    }

    /// Remembers the stamp of a loose blob whose content is right.
    pub(crate) fn trust_loose(&self, hash: BlobHash, stamp: Stamp) {
        let mut stamps = self.stamps();
        stamps.is_changed |= stamps.known.insert(*hash.as_bytes(), stamp) != Some(stamp);
        stamps.loose.insert(*hash.as_bytes());
    }

    /// Takes over what another index of the same store knows of loose blobs.
    pub(crate) fn trust_loose_of(&self, other: &Self) {
        let stamps = other.stamps();
        for hash in &stamps.loose {
            if let Some(stamp) = stamps.known.get(hash) {
                self.trust_loose(BlobHash::from_bytes(*hash), *stamp);
            }
        }
    }

    /// Opens a loose blob, whose content is checked unless it is as it was published; `None` when
    /// the store does not have it.
    ///
    /// # Errors
    /// [`Error::HashMismatch`] when it is damaged, or what the system says.
    pub(crate) fn open_loose(&self, store: &Store, hash: BlobHash) -> Result<Option<Stamp>> {
        let path = store.loose_path(hash);
        let file = match File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(Error::io("open", &path))?,
        };
        let stamp = crate::sys::stamp(&file).map_err(Error::io("look at", &path))?;
        if self.stamps().known.get(hash.as_bytes()) != Some(&stamp) {
            let actual = hash_file(&file).map_err(Error::io("read", &path))?;
            if actual != hash {
                return Err(Error::HashMismatch { expected: hash, actual, path });
            }
        }
        self.trust_loose(hash, stamp);
        Ok(Some(stamp))
    }

    /// Tells whether content of that name was purged from the store.
    #[must_use]
    pub fn is_purged(&self, name: &[u8; 32]) -> bool {
        self.purged.has(name)
    }

    /// Refuses a tree that was purged, has a purged blob, or has all blobs of a purged tree.
    pub(crate) fn refuse_purged(&self, tree: TreeHash, manifest: &[u8]) -> Result<()> {
        self.purged.refuse(tree, manifest)
    }

    /// Returns the paths of packs that could not be opened or failed their check.
    pub fn damaged_packs(&self) -> impl Iterator<Item = &Path> {
        self.packs.iter().filter(|pack| pack.open().is_none()).map(|pack| pack.path.as_path())
    }

    /// Writes the index anew when too much of the store is not in it, and the stamps that are new.
    pub(crate) fn refresh(&self, store: &Store) -> Result<()> {
        let covered = match self.refresh_table(store)? {
            true => self.packs.len(),
            false => self.covered,
        };
        let covered: HashSet<PackId> = self.packs[..covered].iter().map(|pack| pack.id).collect();
        self.write_stamps(store, |pack| !covered.contains(&pack.id()))
    }

    /// Writes the stamps of loose blobs, and of those packs that the table does not cover.
    fn write_stamps(&self, store: &Store, is_uncovered: impl Fn(&Pack) -> bool) -> Result<()> {
        let mut wanted = BTreeMap::new();
        for known in &self.packs {
            // Opening a pack that nobody asked for would only cost: covered ones stay closed.
            let open = known.open.get().and_then(Option::as_ref);
            if let Some(pack) = open.filter(|pack| is_uncovered(pack)) {
                wanted.insert(*pack.id().as_bytes(), pack.stamp());
            }
        }
        let stamps = self.stamps();
        for (name, stamp) in &stamps.known {
            // A pack's stamp is in the table or above; what is left is a loose blob's.
            let is_loose = stamps.loose.contains(name)
                || store.loose_path(BlobHash::from_bytes(*name)).exists();
            if is_loose {
                wanted.insert(*name, *stamp);
            }
        }
        if wanted == stamps.known && !stamps.is_changed {
            return Ok(());
        }
        let mut payload = Vec::with_capacity(wanted.len() * PACK_BYTES);
        for (name, stamp) in &wanted {
            payload.extend_from_slice(name);
            put_stamp(&mut payload, *stamp);
        }
        store.publish_passing(&store.path("index/stamps"), &record::encode(&payload))
    }

    fn refresh_table(&self, store: &Store) -> Result<bool> {
        let uncovered = self.packs.len() - self.covered;
        let covered_entries =
            self.table.as_ref().map_or(0, |map| (map.len() - self.table_at) / 8 / 4);
        // A pack that was touched and found whole need not be verified by everybody.
        let is_touched = |known: &KnownPack| {
            let open = known.open.get().and_then(Option::as_ref);
            open.is_some_and(|pack| known.published != Some(pack.stamp()))
        };
        let is_current = !self.packs[..self.covered].iter().any(is_touched);
        let is_small = uncovered < 8 && self.overlay.len() < covered_entries;
        if is_current && (uncovered == 0 || is_small) {
            return Ok(false);
        }
        self.write(store, &HashSet::new())
    }

    /// Writes table and stamps anew, whatever is there. Packs that are `hidden` are left out of the
    /// table; `keep_stamps` remembers that they are whole.
    pub(crate) fn rewrite(
        &self,
        store: &Store,
        hidden: &HashSet<PackId>,
        keep_stamps: bool,
    ) -> Result<()> {
        let is_written = self.write(store, hidden)?;
        let uncovered = |pack: &Pack| match hidden.contains(&pack.id()) {
            true => keep_stamps,
            false => !is_written,
        };
        self.stamps().is_changed = true;
        self.write_stamps(store, uncovered)
    }

    fn write(&self, store: &Store, hidden: &HashSet<PackId>) -> Result<bool> {
        let packs: Vec<&Arc<Pack>> =
            self.packs().filter(|pack| !hidden.contains(&pack.id())).collect();
        match table_bytes(&packs) {
            Some(bytes) => store.publish_bytes(&store.path("index/blobs"), &bytes).map(|()| true),
            // Without a table every pack is read at every open: slow, not wrong.
            None => Ok(false),
        }
    }
}

/// Returns the table over some packs; `None` when it can't hold so many.
fn table_bytes(packs: &[&Arc<Pack>]) -> Option<Vec<u8>> {
    let entries: usize = packs.iter().map(|pack| pack.len()).sum();
    let slots = (entries * 2).next_power_of_two().max(64);
    let too_many = packs.len() >= 1 << PACK_BITS
        || packs.iter().any(|pack| pack.len() >= (1 << ENTRY_BITS) - 1);
    if too_many {
        return None;
    }
    let mut table = vec![0_u64; slots];
    for (number, pack) in packs.iter().enumerate() {
        for (entry, packed) in pack.entries().enumerate() {
            let mut slot = home(&packed.hash) as usize & (slots - 1);
            while table[slot] != 0 {
                slot = (slot + 1) & (slots - 1);
            }
            table[slot] = tag(&packed.hash) << (ENTRY_BITS + PACK_BITS)
                | (number as u64) << ENTRY_BITS
                | (entry as u64 + 1);
        }
    }
    let mut bytes = Vec::with_capacity(HEADER_BYTES + packs.len() * PACK_BYTES + slots * 8);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&(packs.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&(slots as u32).to_le_bytes());
    bytes.extend_from_slice(&(entries as u64).to_le_bytes());
    bytes.resize(HEADER_BYTES, 0);
    for pack in packs {
        bytes.extend_from_slice(pack.id().as_bytes());
        put_stamp(&mut bytes, pack.stamp());
    }
    let checksum = header_checksum(&bytes);
    bytes[24..56].copy_from_slice(&checksum);
    table.iter().for_each(|slot| bytes.extend_from_slice(&slot.to_le_bytes()));
    Some(bytes)
}

fn put_stamp(bytes: &mut Vec<u8>, stamp: Stamp) {
    bytes.extend_from_slice(&stamp.size.to_le_bytes());
    bytes.extend_from_slice(&stamp.inode.to_le_bytes());
    bytes.extend_from_slice(&stamp.mtime_ns.to_le_bytes());
}

/// Reads the stamps; none when the file is missing or damaged, which only costs verifying again.
fn read_stamps(path: &Path) -> BTreeMap<[u8; 32], Stamp> {
    let bytes = fs::read(path).unwrap_or_default();
    let payload = record::decode(&bytes).unwrap_or_default();
    let (records, _) = payload.as_chunks::<PACK_BYTES>();
    let name = |record: &[u8; PACK_BYTES]| record[..32].try_into().unwrap_or_default();
    records.iter().map(|record| (name(record), parse_stamp(&record[32..]))).collect()
}

/// Returns the hash of a file's bytes, read in pieces.
pub(crate) fn hash_file(file: &File) -> std::io::Result<BlobHash> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file)?;
    Ok(BlobHash::from_bytes(*hasher.finalize().as_bytes()))
}

/// Tells whether a table on disk says exactly what the packs that it names hold.
pub(crate) fn check_table(map: &[u8], packs: &HashMap<PackId, Arc<Pack>>) -> TableCheck {
    let Some((named, _)) = parse_table(map) else {
        return TableCheck::Damaged;
    };
    let mut known = Vec::with_capacity(named.len());
    for (id, stamp) in &named {
        match packs.get(id) {
            Some(pack) if pack.stamp() == *stamp => known.push(pack),
            _ => return TableCheck::Outdated,
        }
    }
    match table_bytes(&known).as_deref() == Some(map) {
        true => TableCheck::Right,
        false => TableCheck::Damaged,
    }
}

/// What a table on disk turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TableCheck {
    Right,
    /// It names packs that are gone or were touched: it is not used.
    Outdated,
    Damaged,
}

/// Returns the checksum of the header and the packs of a table.
fn header_checksum(bytes: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bytes[..24]).update(&bytes[56..]);
    *hasher.finalize().as_bytes()
}

/// Returns the packs of a table and where its slots begin; `None` when it is damaged.
fn parse_table(map: &[u8]) -> Option<(Vec<(PackId, Stamp)>, usize)> {
    let word = |at: usize| Some(u32::from_le_bytes(map.get(at..at + 4)?.try_into().ok()?));
    let (packs, slots) = (word(8)? as usize, word(12)? as usize);
    let slots_at = HEADER_BYTES.checked_add(packs.checked_mul(PACK_BYTES)?)?;
    let length = slots_at.checked_add(slots.checked_mul(8)?)?;
    if !map.starts_with(&MAGIC) || map.len() != length || !slots.is_power_of_two() {
        return None;
    }
    if header_checksum(&map[..slots_at]) != map[24..56] {
        return None;
    }
    let record = |number: usize| {
        let at = HEADER_BYTES + number * PACK_BYTES;
        let id = map.get(at..at + 32)?.try_into().ok()?;
        Some((PackId::from_bytes(id), parse_stamp(map.get(at + 32..at + PACK_BYTES)?)))
    };
    Some(((0..packs).map(record).collect::<Option<_>>()?, slots_at))
}

/// Returns the packs of a store by the id in their names.
pub(crate) fn list_packs(store: &Store) -> Result<HashMap<PackId, PathBuf>> {
    let folder = store.path("packs");
    let mut packs = HashMap::new();
    for entry in read_folder(&folder)? {
        let path = entry.map_err(Error::io("list", &folder))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let id = name.and_then(|name| name.strip_suffix(".pack"));
        if let Some(id) = id.and_then(|id| PackId::from_hex(id.as_bytes()).ok()) {
            packs.insert(id, path);
        }
    }
    Ok(packs)
}

impl Store {
    /// Opens the index of the store's blobs.
    ///
    /// # Errors
    /// What the system says.
    pub fn blobs(&self) -> Result<BlobIndex> {
        let guard = self.guard()?;
        let mut index = BlobIndex::open(self, &[])?;
        index.guard = Some(guard);
        index.purged = Bans::of(&self.log()?);
        Ok(index)
    }

    pub(crate) fn pack_path(&self, id: PackId) -> PathBuf {
        self.path("packs").join(format!("{id}.pack"))
    }

    /// Returns where a loose blob is, or would be.
    pub(crate) fn loose_path(&self, hash: BlobHash) -> PathBuf {
        self.fanned("blobs", hash.as_bytes(), "")
    }
}
