//! Where the store's blobs are: a rebuildable index over the packs, and the loose blobs.
//!
//! ```text
//! index/blobs: | magic 8 "RIFTIDX1" | packs u32 | slots u32 | entries u64 | header checksum 32 | zero 8 |
//!              | packs × (id 32, stamp 24) | slots × u64 |
//! slot:        hash bits 16 | pack 20 | entry + 1: 28
//! ```
//!
//! The index is a cache: a slot only points to an entry of a pack's own index, where the whole hash is
//! compared, so a damaged index can hide a blob but never give a wrong one. Packs that it does not
//! cover are read beside it; when these grow, it is written anew. It also remembers each pack's stamp:
//! a pack that changed since it was published is verified before anything is served from it.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rift_tree::sidecar::Stamp;
use rift_tree::{BlobHash, PackId};

use crate::error::{Error, Result};
use crate::pack::{Pack, Packed, PackedKind};
use crate::record::read_folder;
use crate::store::Store;
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

/// All blobs and small manifests of a store, as they were when the index was opened.
#[derive(Debug)]
pub struct BlobIndex {
    packs: Vec<KnownPack>,
    /// Packs `0..covered` are in `table`.
    covered: usize,
    table: Option<Mapped>,
    table_at: usize,
    /// What the table does not cover: tag → (pack, entry).
    overlay: HashMap<([u8; 32], PackedKind), (u32, u32)>,
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
        let mut on_disk = list_packs(store)?;
        let mut index = Self {
            packs: Vec::new(),
            covered: 0,
            table: None,
            table_at: 0,
            overlay: HashMap::new(),
        };
        index.read_table(&store.path("index/blobs"), &mut on_disk);
        for (id, path) in on_disk {
            let published = fresh.iter().find(|(fresh, _)| *fresh == id).map(|(_, stamp)| *stamp);
            index.packs.push(KnownPack { id, path, published, open: OnceLock::new() });
        }
        for number in index.covered..index.packs.len() {
            let Some(pack) = index.packs[number].open() else {
                continue;
            };
            for (entry, packed) in Arc::clone(pack).entries().enumerate() {
                let place = (number as u32, entry as u32);
                index.overlay.insert((packed.hash, packed.kind), place);
            }
        }
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
        if let Some((pack, entry)) = self.overlay.get(&(*hash, kind))
            && let Some(found) = self.entry(*pack, *entry, hash, kind)
        {
            return Some(found);
        }
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
            if word >> (ENTRY_BITS + PACK_BITS) == tag(hash)
                && let Some(found) = self.entry(pack, entry.wrapping_sub(1), hash, kind)
            {
                return Some(found);
            }
            slot = (slot + 1) & mask;
        }
        None
    }

    fn entry(&self, pack: u32, entry: u32, hash: &[u8; 32], kind: PackedKind) -> Option<Found> {
        let pack = self.packs.get(pack as usize)?.open()?;
        let packed = pack.entry(entry as usize)?;
        (packed.hash == *hash && packed.kind == kind)
            .then(|| Found { pack: Arc::clone(pack), packed })
    }

    /// Returns all packs that could be opened.
    pub fn packs(&self) -> impl Iterator<Item = &Arc<Pack>> {
        self.packs.iter().filter_map(KnownPack::open)
    }

    /// Returns the paths of packs that could not be opened or failed their check.
    pub fn damaged_packs(&self) -> impl Iterator<Item = &Path> {
        self.packs.iter().filter(|pack| pack.open().is_none()).map(|pack| pack.path.as_path())
    }

    /// Writes the index anew when too much of the store is not in it.
    pub(crate) fn refresh(&self, store: &Store) -> Result<()> {
        let uncovered = self.packs.len() - self.covered;
        let covered_entries =
            self.table.as_ref().map_or(0, |map| (map.len() - self.table_at) / 8 / 4);
        if uncovered == 0 || uncovered < 8 && self.overlay.len() < covered_entries {
            return Ok(());
        }
        self.write(store)
    }

    fn write(&self, store: &Store) -> Result<()> {
        let packs: Vec<&Arc<Pack>> = self.packs().collect();
        let entries: usize = packs.iter().map(|pack| pack.len()).sum();
        let slots = (entries * 2).next_power_of_two().max(64);
        let too_many = packs.len() >= 1 << PACK_BITS
            || packs.iter().any(|pack| pack.len() >= (1 << ENTRY_BITS) - 1);
        if too_many {
            // Without a table every pack is read at every open: slow, not wrong.
            return Ok(());
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
            let stamp = pack.stamp();
            bytes.extend_from_slice(pack.id().as_bytes());
            bytes.extend_from_slice(&stamp.size.to_le_bytes());
            bytes.extend_from_slice(&stamp.inode.to_le_bytes());
            bytes.extend_from_slice(&stamp.mtime_ns.to_le_bytes());
        }
        let checksum = header_checksum(&bytes);
        bytes[24..56].copy_from_slice(&checksum);
        table.iter().for_each(|slot| bytes.extend_from_slice(&slot.to_le_bytes()));
        store.publish_bytes(&store.path("index/blobs"), &bytes)
    }
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
        BlobIndex::open(self, &[])
    }

    pub(crate) fn pack_path(&self, id: PackId) -> PathBuf {
        self.path("packs").join(format!("{id}.pack"))
    }

    /// Returns where a loose blob is, or would be.
    pub(crate) fn loose_path(&self, hash: BlobHash) -> PathBuf {
        self.fanned("blobs", hash.as_bytes(), "")
    }
}
