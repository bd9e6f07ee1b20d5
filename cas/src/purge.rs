//! Purges content: it leaves the store for ever, and is not taken in again.
//!
//! A purged blob goes from every pack and loose file, with every tree that has it. A purged tree or
//! package goes with every tree that holds all its files, and with those of its blobs that nothing
//! else needs. What was named is remembered in the log (topic *purged*) before anything is removed, so
//! that a purge which was cut short is refused on import already and only has to be run again. With a tree its blobs
//! are remembered: a tree from elsewhere that holds all of them is refused as well.
//! Blobs that a purged package shares with others stay and are not banned: they are the others' too.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::PathBuf;

use rift_tree::{BlobHash, Manifest, TreeHash};

use crate::blobs::BlobIndex;
use crate::error::{Error, Result};
use crate::gc::remove_all;
use crate::inventory::{Item, StoreFile, inventory};
use crate::log::{Log, PAYLOAD_BYTES_MAX, Record, Topic, tree_of};
use crate::pack::{PackWriter, PackedKind};
use crate::projection::Projection;
use crate::record::Kind;
use crate::roots::trees_of_plan;
use crate::store::{Store, sync_folder};
use crate::tree::{map_if_there, packed_manifest};

/// How many blobs of a tree are remembered at most; a tree of more is known by its hash alone.
pub const BLOBS_MAX: usize = PAYLOAD_BYTES_MAX / 32;

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

/// A name that must not come again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Banned {
    /// A blob.
    Blob(BlobHash),
    /// A package, by the key of its log records.
    Package([u8; 32]),
    /// A tree.
    Tree {
        /// The tree.
        tree: TreeHash,
        /// Its blobs, sorted and each once; none where they are not known. No tree that has all of them comes again.
        blobs: Vec<BlobHash>,
    },
}

/// What a purge has removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Purged {
    /// Trees that had it.
    pub trees: usize,
    /// Plans, refs and projections that named them, and package records.
    pub records: usize,
    /// Blobs.
    pub blobs: usize,
    /// Packs that were rewritten or removed.
    pub packs: usize,
    /// Trees that stay for as long as live runs use them.
    pub in_use: usize,
    /// What must not come again.
    pub banned: Vec<Banned>,
    /// The trees that had it, those in use among them.
    pub doomed: HashSet<TreeHash>,
    /// The plans that named such a tree.
    pub plans: Vec<String>,
    /// The refs that did.
    pub refs: Vec<String>,
}

impl What {
    fn banned(self) -> Vec<Banned> {
        let tree = |tree| Banned::Tree { tree, blobs: Vec::new() };
        match self {
            Self::Blob(blob) => vec![Banned::Blob(blob)],
            Self::Tree(named) => vec![tree(named)],
            Self::Package { key, tree: named } => {
                std::iter::once(Banned::Package(key)).chain(named.map(tree)).collect()
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

impl Banned {
    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> [u8; 32] {
        match self {
            Self::Blob(blob) => *blob.as_bytes(),
            Self::Package(key) => *key,
            Self::Tree { tree, .. } => *tree.as_bytes(),
        }
    }

    /// Returns the hashes of a tree's blobs, one after the other; nothing where they are not known, or too many.
    #[must_use]
    pub fn set(&self) -> Vec<u8> {
        match self {
            Self::Tree { blobs, .. } if blobs.len() <= BLOBS_MAX => {
                blobs.iter().flat_map(|blob| *blob.as_bytes()).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// Returns the blobs whose hashes are one after the other.
pub(crate) fn blobs_of_set(set: &[u8]) -> Vec<BlobHash> {
    let (hashes, _) = set.as_chunks::<32>();
    hashes.iter().map(|hash| BlobHash::from_bytes(*hash)).collect()
}

/// What was purged from a store.
#[derive(Debug, Default)]
pub(crate) struct Bans {
    names: HashSet<[u8; 32]>,
    /// The blobs of purged trees.
    sets: Vec<Vec<BlobHash>>,
}

impl Bans {
    /// Reads what the log remembers.
    pub(crate) fn of(log: &Log) -> Self {
        let mut bans = Self::default();
        for (name, set) in log.topic(Topic::Purged) {
            bans.names.insert(*name);
            let blobs = blobs_of_set(set);
            if !blobs.is_empty() {
                bans.sets.push(blobs);
            }
        }
        bans
    }

    /// Tells whether content of that name was purged.
    pub(crate) fn has(&self, name: &[u8; 32]) -> bool {
        self.names.contains(name)
    }

    /// Refuses a tree that was purged, has a purged blob, or has all blobs of a purged tree.
    pub(crate) fn refuse(&self, tree: TreeHash, manifest: &[u8]) -> Result<()> {
        if self.names.is_empty() {
            return Ok(());
        }
        let own: HashSet<BlobHash> = blobs_of(manifest).into_iter().collect();
        let what = if self.has(tree.as_bytes()) {
            format!("tree {tree}")
        } else if let Some(blob) = own.iter().find(|blob| self.has(blob.as_bytes())) {
            format!("the blob {blob} of tree {tree}")
        } else if self.sets.iter().any(|set| set.iter().all(|blob| own.contains(blob))) {
            format!("what tree {tree} holds")
        } else {
            return Ok(());
        };
        Err(Error::Purged { what })
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

    /// Adds the blobs of banned trees, as far as the store knows them.
    fn complete(&self, banned: &mut [Banned], log: &Log) {
        for one in banned {
            if let Banned::Tree { tree, blobs } = one
                && blobs.is_empty()
            {
                *blobs = match self.blobs.get(tree) {
                    Some(known) => known.clone(),
                    // It was purged before.
                    None => {
                        blobs_of_set(log.get(Topic::Purged, tree.as_bytes()).unwrap_or_default())
                    }
                };
                blobs.sort_unstable();
                blobs.dedup();
            }
        }
    }

    /// Returns the trees that have what is banned.
    fn with(&self, banned: &[Banned]) -> HashSet<TreeHash> {
        let mut found = HashSet::new();
        for one in banned {
            if let Banned::Tree { tree, .. } = one {
                found.insert(*tree);
            }
        }
        for (tree, blobs) in &self.blobs {
            let own: HashSet<&BlobHash> = blobs.iter().collect();
            let has = |one: &Banned| match one {
                Banned::Blob(blob) => own.contains(blob),
                Banned::Package(_) => false,
                Banned::Tree { blobs, .. } => {
                    !blobs.is_empty() && blobs.iter().all(|blob| own.contains(blob))
                }
            };
            if banned.iter().any(has) {
                found.insert(*tree);
            }
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
    remove(store, what.banned(), true)
}

/// Purges what others have purged. What a live run uses stays, for it alone, until this is done again; nothing names it any more.
///
/// # Errors
/// What the system says; what was named is refused from then on if it could be remembered.
pub fn purge_banned(store: &Store, banned: Vec<Banned>) -> Result<Purged> {
    remove(store, banned, false)
}

fn remove(store: &Store, mut banned: Vec<Banned>, stops_for_runs: bool) -> Result<Purged> {
    let _exclusive = store.guard_exclusive(true)?;
    let index = BlobIndex::open_checked(store)?;
    let files = inventory(store)?;
    let trees = Trees::read(store, &index, &files)?;
    let log = store.log()?;
    trees.complete(&mut banned, &log);
    let doomed = trees.with(&banned);
    let leased = store.leases()?.0;
    let in_use: HashSet<TreeHash> = doomed.intersection(&leased).copied().collect();
    if stops_for_runs && !in_use.is_empty() {
        let reason = "a live run uses a tree with it; try again when that has ended";
        return Err(Error::Refused { path: store.root().to_owned(), reason });
    }
    let record = |one: &Banned| {
        let (key, set) = (one.name(), one.set());
        // What is known of a name already is not forgotten.
        let known = log.get(Topic::Purged, &key).filter(|_| set.is_empty());
        Record { topic: Topic::Purged, key, payload: known.map_or(set, <[u8]>::to_vec) }
    };
    let records: Vec<Record> = banned.iter().map(record).collect();
    store.append(&records)?;
    let mut purged = Purged { in_use: in_use.len(), ..Purged::default() };
    remove_records(store, &doomed, &in_use, &mut purged)?;
    purged.records += remove_log_records(store, &banned, &doomed)?;
    let gone: HashSet<TreeHash> = doomed.difference(&in_use).copied().collect();
    let forms = files
        .iter()
        .filter(|file| matches!(file.item, Item::LooseForm(tree) if gone.contains(&tree)));
    store.remove_loose(forms.map(|file| file.path.clone()))?;
    let partial = gone.iter().map(|tree| store.partial_path(*tree));
    remove_all(partial.filter(|path| path.exists()))?;
    remove_all(gone.iter().map(|tree| store.sidecar_path(*tree)).filter(|path| path.exists()))?;
    let manifests: HashSet<PathBuf> = gone.iter().map(|tree| store.tree_path(*tree)).collect();
    remove_all(manifests.into_iter().filter(|path| path.exists()))?;
    purged.trees = gone.iter().filter(|tree| trees.blobs.contains_key(tree)).count();
    let blobs = doomed_blobs(&banned, &trees, &gone);
    purge_bytes(store, &index, &blobs, &gone, &mut purged)?;
    let kept = |file: &&StoreFile| matches!(file.item, Item::Quarantined);
    remove_all(files.iter().filter(kept).map(|file| file.path.clone()))?;
    purged.banned = banned;
    purged.doomed = doomed;
    Ok(purged)
}

/// Returns the blobs to remove: those that are banned and those of banned trees, as far as no tree that stays needs them.
fn doomed_blobs(banned: &[Banned], trees: &Trees, gone: &HashSet<TreeHash>) -> HashSet<BlobHash> {
    let mut doomed = HashSet::new();
    for one in banned {
        match one {
            Banned::Blob(blob) => {
                doomed.insert(*blob);
            }
            Banned::Package(_) => {}
            Banned::Tree { blobs, .. } => doomed.extend(blobs.iter().copied()),
        }
    }
    for (tree, others) in &trees.blobs {
        if !gone.contains(tree) {
            for blob in others {
                doomed.remove(blob);
            }
        }
    }
    doomed
}

/// Removes plans, refs and projections that name purged trees, but the projections of those in use.
fn remove_records(
    store: &Store,
    doomed: &HashSet<TreeHash>,
    in_use: &HashSet<TreeHash>,
    purged: &mut Purged,
) -> Result<()> {
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
            let is_kept = |tree: &TreeHash| kind == Kind::Projection && in_use.contains(tree);
            if !trees.iter().any(|tree| doomed.contains(tree) && !is_kept(tree)) {
                continue;
            }
            store.remove_record(kind, &name)?;
            purged.records += 1;
            match kind {
                Kind::Plan => purged.plans.push(name),
                Kind::Ref => purged.refs.push(name),
                _ => {}
            }
        }
    }
    Ok(())
}

fn remove_log_records(
    store: &Store,
    banned: &[Banned],
    doomed: &HashSet<TreeHash>,
) -> Result<usize> {
    let is_package = |found: &[u8; 32]| {
        banned.iter().any(|one| matches!(one, Banned::Package(key) if key == found))
    };
    let is_doomed = |topic, found: &[u8; 32], payload: &[u8]| {
        let names_doomed = tree_of(topic, payload).is_some_and(|tree| doomed.contains(&tree));
        topic != Topic::Purged && (is_package(found) || names_doomed)
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
