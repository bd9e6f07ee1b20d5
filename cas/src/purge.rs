//! Purges content: it leaves the store for ever, and is not taken in again.
//!
//! A purged blob goes from every pack and loose file, with every tree that has it. A purged tree or
//! package goes with every tree that holds all its files, and with those of its blobs that nothing
//! else needs. What was named is remembered in the log (topic *purged*) before anything is removed, so
//! that a purge which was cut short is refused on import already and only has to be run again.
//! Blobs that a purged package shares with others stay and are not banned: they are the others' too.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::PathBuf;

use rift_tree::{BlobHash, Manifest, TreeHash};

use crate::blobs::BlobIndex;
use crate::error::{Error, Result};
use crate::gc::remove_all;
use crate::inventory::{Item, StoreFile, inventory};
use crate::log::{Record, Topic, tree_of};
use crate::pack::{PackWriter, PackedKind};
use crate::projection::Projection;
use crate::record::Kind;
use crate::roots::trees_of_plan;
use crate::store::{Store, sync_folder};
use crate::tree::{map_if_there, packed_manifest};

/// What to purge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// One blob, wherever it is.
    Blob(BlobHash),
    /// One tree.
    Tree(TreeHash),
    /// A package: the key of its log records, and its tree where the store has it.
    Package {
        /// The key that its records have.
        key: [u8; 32],
        /// Its tree.
        tree: Option<TreeHash>,
    },
}

/// What a purge has removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Purged {
    /// Trees that had it.
    pub trees: usize,
    /// Plans, refs and projections that named them, and package records.
    pub records: usize,
    /// Blobs.
    pub blobs: usize,
    /// Packs that were rewritten or removed.
    pub packs: usize,
}

impl What {
    fn names(&self) -> Vec<[u8; 32]> {
        match self {
            Self::Blob(blob) => vec![*blob.as_bytes()],
            Self::Tree(tree) => vec![*tree.as_bytes()],
            Self::Package { key, tree } => {
                let tree = tree.map(|tree| *tree.as_bytes());
                std::iter::once(*key).chain(tree).collect()
            }
        }
    }

    fn tree(&self) -> Option<TreeHash> {
        match self {
            Self::Blob(_) => None,
            Self::Tree(tree) => Some(*tree),
            Self::Package { tree, .. } => *tree,
        }
    }
}

/// Every tree of the store, in its own file or in a pack, with its blobs.
struct Trees {
    blobs: HashMap<TreeHash, Vec<BlobHash>>,
}

fn blobs_of(bytes: &[u8]) -> Vec<BlobHash> {
    let manifest = Manifest::parse(bytes);
    let blobs = |manifest: Manifest<'_>| {
        (0..manifest.blob_count()).filter_map(|blob| manifest.blob_hash(blob)).collect()
    };
    manifest.map(blobs).unwrap_or_default()
}

impl Trees {
    fn read(store: &Store, index: &BlobIndex, files: &[StoreFile]) -> Result<Self> {
        let mut blobs = HashMap::new();
        for pack in index.packs() {
            for entry in pack.entries().filter(|entry| entry.kind == PackedKind::Manifest) {
                let bytes = pack.bytes(entry.offset, entry.length).unwrap_or_default();
                blobs.insert(TreeHash::from_bytes(entry.hash), blobs_of(bytes));
            }
        }
        for file in files {
            if let Item::Tree(tree) = file.item
                && let Some(map) = map_if_there(&store.tree_path(tree))?
            {
                blobs.insert(tree, blobs_of(&map));
            }
            if let Item::Partial(tree) = file.item
                && let Some(map) = map_if_there(&file.path.join("manifest"))?
            {
                blobs.insert(tree, blobs_of(&map));
            }
        }
        Ok(Self { blobs })
    }

    /// Returns the trees that have what is purged.
    fn with(&self, what: &What) -> HashSet<TreeHash> {
        let wanted: HashSet<BlobHash> = match what {
            What::Blob(blob) => HashSet::from([*blob]),
            _ => {
                let tree = what.tree().and_then(|tree| self.blobs.get(&tree));
                tree.into_iter().flatten().copied().collect()
            }
        };
        let mut found: HashSet<TreeHash> = what.tree().into_iter().collect();
        if !wanted.is_empty() {
            let has_all = |blobs: &[BlobHash]| {
                let own: HashSet<BlobHash> = blobs.iter().copied().collect();
                wanted.is_subset(&own)
            };
            let holders = self.blobs.iter().filter(|(_, blobs)| has_all(blobs));
            found.extend(holders.map(|(tree, _)| *tree));
        }
        found
    }
}

/// Removes content for ever and remembers it. Waits until nobody imports or collects.
///
/// # Errors
/// [`Error::Refused`] while a live run uses a tree that has it, or what the system says; run it
/// again then.
pub fn purge(store: &Store, what: &What) -> Result<Purged> {
    let _exclusive = store.guard_exclusive(true)?;
    let index = BlobIndex::open_checked(store)?;
    let files = inventory(store)?;
    let trees = Trees::read(store, &index, &files)?;
    let doomed = trees.with(what);
    if !store.leases()?.0.is_disjoint(&doomed) {
        let reason = "a live run uses a tree with it; try again when that has ended";
        return Err(Error::Refused { path: store.root().to_owned(), reason });
    }
    let banned: Vec<Record> = what
        .names()
        .into_iter()
        .map(|key| Record { topic: Topic::Purged, key, payload: Vec::new() })
        .collect();
    store.append(&banned)?;
    let mut purged = Purged { records: remove_records(store, &doomed)?, ..Purged::default() };
    purged.records += remove_log_records(store, what, &doomed)?;
    let forms = files
        .iter()
        .filter(|file| matches!(file.item, Item::LooseForm(tree) if doomed.contains(&tree)));
    store.remove_loose(forms.map(|file| file.path.clone()))?;
    let partial = doomed.iter().map(|tree| store.partial_path(*tree));
    remove_all(partial.filter(|path| path.exists()))?;
    remove_all(doomed.iter().map(|tree| store.sidecar_path(*tree)).filter(|path| path.exists()))?;
    let manifests: HashSet<PathBuf> = doomed.iter().map(|tree| store.tree_path(*tree)).collect();
    remove_all(manifests.into_iter().filter(|path| path.exists()))?;
    purged.trees = doomed.len();
    let blobs = doomed_blobs(what, &trees, &doomed);
    purge_bytes(store, &index, &blobs, &doomed, &mut purged)?;
    let kept = |file: &&StoreFile| matches!(file.item, Item::Quarantined);
    remove_all(files.iter().filter(kept).map(|file| file.path.clone()))?;
    Ok(purged)
}

/// Returns the blobs to remove: the one that is purged, or those that only purged trees need.
fn doomed_blobs(what: &What, trees: &Trees, doomed: &HashSet<TreeHash>) -> HashSet<BlobHash> {
    if let What::Blob(blob) = what {
        return HashSet::from([*blob]);
    }
    let own = what.tree().and_then(|tree| trees.blobs.get(&tree));
    let mut blobs: HashSet<BlobHash> = own.into_iter().flatten().copied().collect();
    for (tree, others) in &trees.blobs {
        if !doomed.contains(tree) {
            for blob in others {
                blobs.remove(blob);
            }
        }
    }
    blobs
}

/// Removes plans, refs and projections that name purged trees.
fn remove_records(store: &Store, doomed: &HashSet<TreeHash>) -> Result<usize> {
    let mut count = 0;
    for kind in [Kind::Plan, Kind::Ref, Kind::Projection] {
        // As in gc: the names of new records may not have reached the disk.
        sync_folder(&store.record_path(kind, "any"))?;
        for (name, _) in store.records(kind)? {
            let payload = match store.record(kind, &name) {
                Ok(Some(payload)) => payload,
                Ok(None) | Err(Error::Damaged { .. }) => continue,
                Err(error) => return Err(error),
            };
            let trees: Vec<TreeHash> = match kind {
                Kind::Plan => trees_of_plan(&payload),
                Kind::Ref => TreeHash::from_hex(&payload).into_iter().collect(),
                _ => Projection::decode(&payload).map(|one| one.tree).into_iter().collect(),
            };
            if trees.iter().any(|tree| doomed.contains(tree)) {
                store.remove_record(kind, &name)?;
                count += 1;
            }
        }
    }
    Ok(count)
}

fn remove_log_records(store: &Store, what: &What, doomed: &HashSet<TreeHash>) -> Result<usize> {
    let key = match what {
        What::Package { key, .. } => Some(*key),
        _ => None,
    };
    let is_doomed = |topic, found: &[u8; 32], payload: &[u8]| {
        let names_doomed = tree_of(topic, payload).is_some_and(|tree| doomed.contains(&tree));
        topic != Topic::Purged && (Some(*found) == key || names_doomed)
    };
    let log = store.log()?;
    let count = log.all().filter(|(topic, key, payload)| is_doomed(*topic, key, payload)).count();
    if count > 0 {
        store.compact_log(|topic, key, payload| !is_doomed(topic, key, payload))?;
    }
    Ok(count)
}

/// Rewrites the packs that hold purged blobs or manifests, and removes loose blobs.
fn purge_bytes(
    store: &Store,
    index: &BlobIndex,
    blobs: &HashSet<BlobHash>,
    doomed: &HashSet<TreeHash>,
    purged: &mut Purged,
) -> Result<()> {
    let mut writer = PackWriter::new(store);
    let mut old = HashSet::new();
    for pack in index.packs() {
        let is_purged = |hash: &[u8; 32], kind| match kind {
            PackedKind::Blob => blobs.contains(&BlobHash::from_bytes(*hash)),
            PackedKind::Manifest => doomed.contains(&TreeHash::from_bytes(*hash)),
        };
        let gone = pack.entries().filter(|entry| is_purged(&entry.hash, entry.kind));
        let gone: Vec<PackedKind> = gone.map(|entry| entry.kind).collect();
        if gone.is_empty() {
            continue;
        }
        purged.blobs += gone.iter().filter(|kind| **kind == PackedKind::Blob).count();
        for entry in pack.entries().filter(|entry| !is_purged(&entry.hash, entry.kind)) {
            let bytes = pack.bytes(entry.offset, entry.length).unwrap_or_default();
            writer.add(entry.hash, entry.kind, bytes)?;
        }
        old.insert(pack.id());
    }
    purged.packs = old.len();
    let fresh = writer.finish()?;
    let loose = blobs.iter().map(|blob| store.loose_path(*blob)).filter(|path| path.exists());
    purged.blobs += remove_all(loose.collect::<Vec<_>>())?;
    if old.is_empty() {
        return Ok(());
    }
    let index = BlobIndex::open(store, &fresh)?;
    index.rewrite(store, &old, true)?;
    relocate(store, &BlobIndex::open_without(store, &fresh, &old)?, &old)?;
    index.rewrite(store, &old, false)?;
    remove_all(old.iter().map(|id| store.pack_path(*id)))?;
    Ok(())
}

/// Writes the sidecars of the trees that stay anew, where they point into packs that go.
fn relocate(store: &Store, index: &BlobIndex, old: &HashSet<rift_tree::PackId>) -> Result<()> {
    for file in inventory(store)? {
        if let Item::Tree(tree) = file.item
            && crate::tree::points_into(store, tree, old)?
            && let Some(manifest) = map_if_there(&file.path)?
        {
            match store.write_sidecar(tree, &manifest, index) {
                // Not whole before either: `verify` reports it.
                Ok(()) | Err(Error::MissingBlob { .. } | Error::Damaged { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// Tells whether the store still has a blob or tree anywhere; for who wants to see that it is gone.
///
/// # Errors
/// What the system says.
pub fn has(store: &Store, what: &What) -> Result<bool> {
    let index = store.blobs()?;
    let has_blob = |blob: BlobHash| {
        index.find(blob.as_bytes(), PackedKind::Blob).is_some()
            || fs::symlink_metadata(store.loose_path(blob)).is_ok()
    };
    let has_tree = |tree| store.has_tree(tree) || packed_manifest(&index, tree).is_some();
    Ok(match what {
        What::Blob(blob) => has_blob(*blob),
        _ => what.tree().is_some_and(has_tree),
    })
}
