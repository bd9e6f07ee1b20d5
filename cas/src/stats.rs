//! What a store holds, in counts and bytes.

use std::collections::HashSet;

use crate::blobs::BlobIndex;
use crate::error::Result;
use crate::inventory::{Item, inventory};
use crate::pack::PackedKind;
use crate::record::Kind;
use crate::store::Store;

/// Counts and bytes of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Packs.
    pub packs: u64,
    /// Bytes of the packs.
    pub pack_bytes: u64,
    /// Bytes of packs that are neither a blob nor a manifest: headers, indexes, alignment.
    pub padding_bytes: u64,
    /// Blobs in packs, each once.
    pub packed_blobs: u64,
    /// Small manifests in packs, each once.
    pub packed_manifests: u64,
    /// Loose blobs.
    pub loose_blobs: u64,
    /// Bytes of the loose blobs.
    pub loose_bytes: u64,
    /// Bytes of all blobs and packed manifests, each once.
    pub unique_bytes: u64,
    /// Trees with a file of their own.
    pub trees: u64,
    /// Bytes of their manifests and sidecars.
    pub tree_bytes: u64,
    /// Trees kept as plain files for hard links.
    pub loose_forms: u64,
    /// Refs.
    pub refs: u64,
    /// Plans.
    pub plans: u64,
    /// Projections.
    pub projections: u64,
    /// Recorded runs.
    pub runs: u64,
    /// Segments of the action log.
    pub log_segments: u64,
    /// Bytes of the action log.
    pub log_bytes: u64,
    /// Bytes that the store's files take on the disk.
    pub disk_bytes: u64,
}

/// Counts what is in a store.
///
/// # Errors
/// What the system says.
pub fn stats(store: &Store) -> Result<Stats> {
    let _guard = store.guard()?;
    let index = BlobIndex::open(store, &[])?;
    let mut stats = Stats::default();
    for file in inventory(store)? {
        stats.disk_bytes += file.disk_bytes();
        match file.item {
            Item::Pack(_) => {
                stats.packs += 1;
                stats.pack_bytes += file.bytes();
            }
            Item::Loose(_) => {
                stats.loose_blobs += 1;
                stats.loose_bytes += file.bytes();
            }
            Item::Tree(_) => {
                stats.trees += 1;
                stats.tree_bytes += file.bytes();
            }
            Item::Sidecar(_) => stats.tree_bytes += file.bytes(),
            Item::LooseForm(_) => stats.loose_forms += 1,
            Item::Record(Kind::Ref, _) => stats.refs += 1,
            Item::Record(Kind::Plan, _) => stats.plans += 1,
            Item::Record(Kind::Projection, _) => stats.projections += 1,
            Item::Record(Kind::Run, _) => stats.runs += 1,
            Item::Segment => {
                stats.log_segments += 1;
                stats.log_bytes += file.bytes();
            }
            _ => {}
        }
    }
    let mut seen = HashSet::new();
    let mut entry_bytes = 0;
    for entry in index.packs().flat_map(|pack| pack.entries()) {
        entry_bytes += entry.length;
        // Sixteen bytes of a hash tell two blobs of one store apart.
        let half: [u8; 16] = entry.hash[..16].try_into().unwrap_or_default();
        if seen.insert((half, entry.kind)) {
            stats.unique_bytes += entry.length;
            match entry.kind {
                PackedKind::Blob => stats.packed_blobs += 1,
                PackedKind::Manifest => stats.packed_manifests += 1,
            }
        }
    }
    stats.padding_bytes = stats.pack_bytes.saturating_sub(entry_bytes);
    stats.unique_bytes += stats.loose_bytes;
    Ok(stats)
}
