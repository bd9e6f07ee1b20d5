//! Collects what nothing needs any more, and keeps the store below a size.
//!
//! What is needed follows from the roots: refs, projections whose directory is still the same one,
//! leases of live runs, plans, and whatever is younger than the grace period. From them come trees,
//! from trees blobs, and from blobs the package records all of whose bytes are kept.
//!
//! Packs with little in them that is needed are rewritten first, while others go on reading and adding
//! (the shared lock): that only adds packs. Then, with everybody kept out for as long as it takes to
//! remove names, the roots are read again and what they do not reach goes: records before trees, trees
//! before blobs, each step on the disk before the next. So a process killed at any instant leaves a
//! store in which every tree is whole. The packs of leased trees stay where they are.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rift_tree::sidecar::ContainerKind;
use rift_tree::{BlobHash, Manifest, PackId, TreeHash};

use crate::blobs::{BlobIndex, Found};
use crate::error::{Error, Result};
use crate::inventory::{Item, StoreFile, inventory};
use crate::log::{Topic, tree_of};
use crate::pack::{ALIGN, ALIGN_FROM, Pack, PackWriter, PackedKind};
use crate::projection::Projection;
use crate::record::{self, Kind};
use crate::roots::trees_of_plan;
use crate::store::{Store, sync_folder};
use crate::sys::Mapped;
use crate::tree::{checked_sidecar, map_if_there, points_into};

/// How long what nothing names yet is kept when nobody says otherwise.
pub const GRACE: Duration = Duration::from_secs(600);
/// How many records of runs are kept, however old they are.
const RUNS_KEPT: usize = 200;
/// How many are kept of those that may belong to a job that is not summed up yet.
const FRESH_RUNS_KEPT: usize = 5000;
/// For how long a run may: no job takes longer.
const FRESH_RUN: Duration = Duration::from_secs(86_400);
/// How long a repair's leftovers are kept.
const QUARANTINE: Duration = Duration::from_secs(7 * 86_400);
/// How long a state may be without the record of its projection.
const STATE_GRACE: Duration = Duration::from_secs(60);
/// A temporary file of this age is a leftover, whoever has its writer's pid by now.
const TEMPORARY_MAX: Duration = Duration::from_secs(86_400);
/// The store's size is measured again when the cached figure is older.
const SIZE_AGE_MAX: Duration = Duration::from_secs(86_400);
/// An automatic collection that did not help enough is not repeated sooner.
const COLLECT_PAUSE: Duration = Duration::from_secs(600);

/// What to collect.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Evicts the least recently used plans until what is left fits.
    pub max_bytes: Option<u64>,
    /// Only tells what would go.
    pub dry_run: bool,
    /// Keeps what was written or used less than this ago.
    pub grace: Duration,
    /// Waits until nobody imports; else a busy store is left alone.
    pub wait: bool,
    /// Room is needed now: only what nothing names yet is kept for being young.
    pub is_pressed: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { max_bytes: None, dry_run: false, grace: GRACE, wait: true, is_pressed: false }
    }
}

/// What was collected, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Collected {
    /// The store was in use, and nothing was removed.
    pub is_busy: bool,
    /// Names of the plans that were evicted.
    pub plans: Vec<String>,
    /// Trees removed.
    pub trees: usize,
    /// Loose blobs removed.
    pub loose_blobs: usize,
    /// Packs removed, those that were rewritten among them.
    pub packs: usize,
    /// Packs rewritten.
    pub packs_rewritten: usize,
    /// Package and script records removed.
    pub log_records: usize,
    /// Records of projections that are gone.
    pub projections: usize,
    /// Records of old runs removed.
    pub runs: usize,
    /// Leftovers of killed processes and old repairs removed.
    pub leftovers: usize,
    /// Size of the store before, in bytes.
    pub bytes_before: u64,
    /// Size of the store after, in bytes; an estimate in a dry run.
    pub bytes_after: u64,
}

impl Collected {
    /// Returns what this collection and the next have done together; one that found the store busy did nothing.
    fn followed_by(mut self, next: Self) -> Self {
        if next.is_busy {
            return self;
        }
        self.plans.extend(next.plans);
        Self {
            is_busy: false,
            plans: self.plans,
            trees: self.trees + next.trees,
            loose_blobs: self.loose_blobs + next.loose_blobs,
            packs: self.packs + next.packs,
            packs_rewritten: self.packs_rewritten + next.packs_rewritten,
            log_records: self.log_records + next.log_records,
            projections: self.projections + next.projections,
            runs: self.runs + next.runs,
            leftovers: self.leftovers + next.leftovers,
            bytes_before: self.bytes_before,
            bytes_after: next.bytes_after,
        }
    }
}

/// A manifest that is mapped, from its file or from a pack.
enum ManifestBytes {
    File(Mapped),
    Packed(Found),
}

impl ManifestBytes {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::File(map) => map,
            Self::Packed(found) => found.bytes(),
        }
    }
}

/// What is needed, by the place where it is.
struct Marks<'a> {
    store: &'a Store,
    index: &'a BlobIndex,
    /// For each pack of the index by its number, one flag per entry.
    entries: Vec<Vec<bool>>,
    loose: HashSet<BlobHash>,
    trees: HashSet<TreeHash>,
    /// What manifest, sidecar, loose form and partial form of each tree take.
    own_bytes: HashMap<TreeHash, u64>,
    /// Trees whose manifests have files.
    own_trees: HashSet<TreeHash>,
    bytes: u64,
}

/// What a needed entry costs in a pack that holds nothing else.
fn packed_cost(length: u64) -> u64 {
    match length >= ALIGN_FROM as u64 {
        true => length.next_multiple_of(ALIGN as u64) + 48,
        false => length + 48,
    }
}

impl<'a> Marks<'a> {
    fn new(store: &'a Store, index: &'a BlobIndex, files: &[StoreFile]) -> Self {
        let (mut own_bytes, mut own_trees) = (HashMap::new(), HashSet::new());
        for file in files {
            if let Item::Tree(tree) = file.item {
                own_trees.insert(tree);
            }
            if let Item::Tree(tree)
            | Item::Sidecar(tree)
            | Item::LooseForm(tree)
            | Item::Partial(tree) = file.item
            {
                *own_bytes.entry(tree).or_default() += file.bytes();
            }
        }
        let entries = index.numbered_packs();
        let entries = entries.map(|pack| vec![false; pack.map_or(0, |pack| pack.len())]).collect();
        let (loose, trees) = (HashSet::new(), HashSet::new());
        Self { store, index, entries, loose, trees, own_bytes, own_trees, bytes: 0 }
    }

    fn manifest(&self, hash: TreeHash) -> Option<ManifestBytes> {
        match map_if_there(&self.store.tree_path(hash)) {
            Ok(Some(map)) => Some(ManifestBytes::File(map)),
            // What can't be read holds nothing that could be shown; `verify` reports it.
            Ok(None) | Err(_) => {
                crate::tree::packed_manifest(self.index, hash).map(ManifestBytes::Packed)
            }
        }
    }

    /// Calls `take` for each blob of a manifest; stops when it answers false, and returns false.
    fn blobs(bytes: &[u8], mut take: impl FnMut(BlobHash) -> bool) -> bool {
        let Ok(manifest) = Manifest::parse(bytes) else {
            return true;
        };
        (0..manifest.blob_count()).filter_map(|blob| manifest.blob_hash(blob)).all(&mut take)
    }

    /// Returns what marking a blob adds to the bytes that are kept, and marks it unless `dry`.
    fn mark_blob(&mut self, hash: BlobHash, dry: bool) -> u64 {
        if let Some((place, found)) = self.index.locate(hash.as_bytes(), PackedKind::Blob) {
            let flags = self.entries.get_mut(place.pack as usize);
            let Some(flag) = flags.and_then(|flags| flags.get_mut(place.entry as usize)) else {
                return 0;
            };
            let cost = if *flag { 0 } else { packed_cost(found.packed.length) };
            *flag |= !dry;
            return cost;
        }
        if self.loose.contains(&hash) {
            return 0;
        }
        let Ok(stat) = fs::symlink_metadata(self.store.loose_path(hash)) else {
            return 0;
        };
        if !dry {
            self.loose.insert(hash);
        }
        stat.len()
    }

    fn is_marked(&self, hash: BlobHash) -> bool {
        match self.index.locate(hash.as_bytes(), PackedKind::Blob) {
            Some((place, _)) => {
                let flags = self.entries.get(place.pack as usize);
                flags.and_then(|flags| flags.get(place.entry as usize)).is_some_and(|flag| *flag)
            }
            None => self.loose.contains(&hash),
        }
    }

    /// Returns what keeping a tree adds, in bytes, and marks it unless `dry`.
    fn mark_tree(&mut self, hash: TreeHash, dry: bool) -> u64 {
        if self.trees.contains(&hash) {
            return 0;
        }
        let mut cost = 0;
        if let Some(manifest) = self.manifest(hash) {
            Self::blobs(manifest.bytes(), |blob| {
                cost += self.mark_blob(blob, dry);
                true
            });
            cost += self.keep_manifest(hash, dry);
        } else {
            // A partial tree needs nothing but itself.
            cost += self.own_bytes.get(&hash).copied().unwrap_or(0);
        }
        if !dry {
            self.trees.insert(hash);
            self.bytes += cost;
        }
        cost
    }

    /// Returns what a tree's own files take, and marks the manifest where it lies in a pack.
    fn keep_manifest(&mut self, hash: TreeHash, dry: bool) -> u64 {
        let mut cost = self.own_bytes.get(&hash).copied().unwrap_or(0);
        if let Some((place, found)) = self.index.locate(hash.as_bytes(), PackedKind::Manifest)
            && let Some(flags) = self.entries.get_mut(place.pack as usize)
            && let Some(flag) = flags.get_mut(place.entry as usize)
        {
            cost += if *flag { 0 } else { packed_cost(found.packed.length) };
            *flag |= !dry;
        }
        cost
    }

    /// Tells whether everything that a tree needs is kept anyway.
    fn is_covered(&self, hash: TreeHash) -> bool {
        let manifest = self.manifest(hash);
        manifest.is_some_and(|bytes| Self::blobs(bytes.bytes(), |blob| self.is_marked(blob)))
    }
}

/// What the roots reach, and what goes.
struct Survey<'a> {
    files: Vec<StoreFile>,
    marks: Marks<'a>,
    evicted: Vec<String>,
    dead_projections: Vec<String>,
    old_runs: Vec<String>,
    dead_records: HashSet<(Topic, [u8; 32])>,
    /// Packs that stay as they are: young ones, and those of leased trees.
    pinned: HashSet<PackId>,
    leftovers: Vec<PathBuf>,
    leased: HashSet<TreeHash>,
}

/// Seconds since the epoch.
fn now_secs() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

fn is_younger(changed_secs: i64, age: Duration) -> bool {
    let age = i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
    age > 0 && changed_secs.saturating_add(age) > now_secs()
}

impl<'a> Survey<'a> {
    fn new(store: &'a Store, index: &'a BlobIndex, options: &Options) -> Result<Self> {
        let files = inventory(store)?;
        let (leased, dead_leases) = store.leases()?;
        let mut survey = Self {
            marks: Marks::new(store, index, &files),
            files,
            evicted: Vec::new(),
            dead_projections: Vec::new(),
            old_runs: Vec::new(),
            dead_records: HashSet::new(),
            pinned: HashSet::new(),
            leftovers: dead_leases,
            leased,
        };
        survey.mark_leased(store)?;
        survey.mark_young(store, index, options)?;
        survey.mark_records(store)?;
        survey.mark_plans(store, options)?;
        survey.judge_log(store)?;
        survey.find_leftovers()?;
        Ok(survey)
    }

    fn mark_leased(&mut self, store: &Store) -> Result<()> {
        for tree in &self.leased {
            self.marks.mark_tree(*tree, false);
            if let Some(map) = map_if_there(&store.sidecar_path(*tree))?
                && let Some(sidecar) = checked_sidecar(&map)
            {
                let containers =
                    (0..sidecar.container_count()).filter_map(|n| sidecar.container(n));
                let packs = containers.filter(|container| container.kind == ContainerKind::Pack);
                self.pinned.extend(packs.map(|container| PackId::from_bytes(container.name)));
            }
        }
        Ok(())
    }

    /// Keeps what is so young that its writer may not have named it yet.
    fn mark_young(&mut self, store: &Store, index: &BlobIndex, options: &Options) -> Result<()> {
        let is_young = |file: &&StoreFile| is_younger(file.changed_secs(), options.grace);
        let young = self.files.iter().filter(is_young);
        let (mut trees, mut young_packs) = (Vec::new(), HashSet::new());
        for file in young {
            match file.item {
                Item::Tree(tree) | Item::Partial(tree) => trees.push(tree),
                // Who is pressed for room goes by the trees.
                Item::Loose(blob) if !options.is_pressed => {
                    self.marks.loose.insert(blob);
                }
                Item::Pack(pack) => {
                    young_packs.insert(pack);
                }
                _ => {}
            }
        }
        let packs = index.packs().filter(|pack| young_packs.contains(&pack.id()));
        let entries = packs.flat_map(|pack| pack.entries());
        let manifests = entries.filter(|entry| entry.kind == PackedKind::Manifest);
        trees.extend(manifests.map(|entry| TreeHash::from_bytes(entry.hash)));
        if options.is_pressed {
            let named = named_trees(store)?;
            trees.retain(|tree| !named.contains(tree));
        } else {
            self.pinned.extend(&young_packs);
        }
        for tree in trees {
            self.marks.mark_tree(tree, false);
        }
        Ok(())
    }

    /// Marks what refs and projections name; finds projections that are gone, and old runs.
    fn mark_records(&mut self, store: &Store) -> Result<()> {
        let mut runs = Vec::new();
        for file in &self.files {
            let Item::Record(kind, name) = &file.item else { continue };
            // A damaged record names nothing; `verify` reports it.
            let payload = match store.record(*kind, name) {
                Err(Error::Damaged { .. }) => None,
                other => other?,
            };
            match (kind, payload) {
                (Kind::Ref, Some(payload)) => {
                    if let Ok(tree) = TreeHash::from_hex(&payload) {
                        self.marks.mark_tree(tree, false);
                    }
                }
                (Kind::Projection, Some(payload)) => match Projection::decode(&payload) {
                    Some(projection) if projection.is_in_place() => {
                        self.marks.mark_tree(projection.tree, false);
                    }
                    Some(_) => self.dead_projections.push(name.clone()),
                    None => {}
                },
                (Kind::Run, _) => runs.push((file.modified(), name.clone())),
                _ => {}
            }
        }
        runs.sort();
        let since = SystemTime::now() - FRESH_RUN;
        let fresh = runs.iter().filter(|(modified, _)| *modified >= since).count();
        let kept = fresh.clamp(RUNS_KEPT, FRESH_RUNS_KEPT);
        runs.truncate(runs.len().saturating_sub(kept));
        self.old_runs = runs.into_iter().map(|(_, name)| name).collect();
        Ok(())
    }

    /// Marks what plans need, the last used first, until the size is reached.
    fn mark_plans(&mut self, store: &Store, options: &Options) -> Result<()> {
        let mut plans = store.records(Kind::Plan)?;
        plans.sort_by_key(|(_, used)| std::cmp::Reverse(*used));
        let small: u64 =
            self.files.iter().filter(|file| is_small(file)).map(StoreFile::bytes).sum();
        let limit = options.max_bytes.map_or(u64::MAX, |max| max.saturating_sub(small));
        for (name, used) in plans {
            let payload = match store.record(Kind::Plan, &name) {
                Ok(Some(payload)) => payload,
                Ok(None) | Err(Error::Damaged { .. }) => continue,
                Err(error) => return Err(error),
            };
            let used_secs = used.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let is_young = !options.is_pressed
                && is_younger(i64::try_from(used_secs).unwrap_or(0), options.grace);
            let trees = trees_of_plan(&payload);
            let cost: u64 = trees.iter().map(|tree| self.marks.mark_tree(*tree, true)).sum();
            // One whose trees stay anyway costs nothing.
            if !is_young && cost > 0 && self.marks.bytes.saturating_add(cost) > limit {
                self.evicted.push(name);
                continue;
            }
            for tree in trees {
                self.marks.mark_tree(tree, false);
            }
        }
        Ok(())
    }

    /// Finds records of packages whose bytes are not kept, and keeps the manifests of the others.
    fn judge_log(&mut self, store: &Store) -> Result<()> {
        let log = store.log()?;
        for topic in [Topic::Package, Topic::Scripts] {
            for (key, payload) in log.topic(topic) {
                let Some(tree) = tree_of(topic, payload) else { continue };
                match self.marks.trees.contains(&tree) || self.marks.is_covered(tree) {
                    true => drop(self.marks.mark_tree(tree, false)),
                    false => drop(self.dead_records.insert((topic, *key))),
                }
            }
        }
        Ok(())
    }

    fn find_leftovers(&mut self) -> Result<()> {
        let projections = self.files.iter().filter_map(|file| match &file.item {
            Item::Record(Kind::Projection, name) => Some(name.as_str()),
            _ => None,
        });
        let mut live: HashSet<&str> = projections.collect();
        for name in &self.dead_projections {
            live.remove(name.as_str());
        }
        for file in &self.files {
            let is_leftover = match &file.item {
                Item::Temporary => is_abandoned(file)?,
                Item::Quarantined => !is_younger(file.changed_secs(), QUARANTINE),
                // The record of a projection comes after its state.
                Item::State(name) => {
                    let is_old = !is_younger(file.changed_secs(), STATE_GRACE);
                    is_old && !live.contains(name.trim_end_matches(".log"))
                }
                Item::StandIn(name) => {
                    !is_younger(file.changed_secs(), STATE_GRACE) && !live.contains(name.as_str())
                }
                _ => false,
            };
            if is_leftover {
                self.leftovers.push(file.path.clone());
            }
        }
        Ok(())
    }

    fn is_dead_file(&self, item: &Item) -> bool {
        match item {
            Item::Tree(tree) | Item::Sidecar(tree) | Item::LooseForm(tree) => {
                !self.marks.trees.contains(tree)
            }
            // One that is whole by now is only needed by who shows it.
            Item::Partial(tree) => {
                let is_whole = self.marks.own_trees.contains(tree) && !self.leased.contains(tree);
                is_whole || !self.marks.trees.contains(tree)
            }
            Item::Loose(blob) => !self.marks.loose.contains(blob),
            _ => false,
        }
    }

    /// Returns each pack with its number and what its needed entries cost, in bytes.
    fn packs(&self) -> impl Iterator<Item = (&Arc<Pack>, &[bool], u64)> {
        let numbered = self.marks.index.numbered_packs().zip(&self.marks.entries);
        numbered.filter_map(|(pack, flags)| {
            let pack = pack?;
            let live = pack.entries().zip(flags).filter(|(_, flag)| **flag);
            let cost = live.map(|(entry, _)| packed_cost(entry.length)).sum();
            Some((pack, flags.as_slice(), cost))
        })
    }

    fn dead_packs(&self) -> HashSet<PackId> {
        let packs = self.packs().filter(|(_, flags, _)| !flags.contains(&true));
        packs.map(|(pack, ..)| pack.id()).filter(|id| !self.pinned.contains(id)).collect()
    }

    /// Returns the packs that are worth rewriting: less than half of them is needed, or the size
    /// that was asked for can't be reached otherwise.
    fn sparse_packs(&self, options: &Options) -> HashSet<PackId> {
        let dead = self.dead_packs();
        let mut packs: Vec<_> = self
            .packs()
            .map(|(pack, _, live)| (pack.id(), pack.stamp().size, live))
            .filter(|(id, ..)| !dead.contains(id) && !self.pinned.contains(id))
            .collect();
        packs.sort_by_key(|(_, size, live)| live * 1000 / size.max(&1));
        let stays = |file: &&StoreFile| match file.item {
            Item::Pack(id) => !dead.contains(&id),
            _ => !self.is_dead_file(&file.item),
        };
        let mut total: u64 = self.files.iter().filter(stays).map(StoreFile::bytes).sum();
        let mut chosen = HashSet::new();
        for (id, size, live) in packs {
            let wasted = size.saturating_sub(live);
            let is_needed = options.max_bytes.is_some_and(|max| total > max);
            if live < size / 2 || is_needed && wasted > size / 20 {
                total = total.saturating_sub(wasted);
                chosen.insert(id);
            }
        }
        chosen
    }
}

/// Returns the trees that plans and records name.
fn named_trees(store: &Store) -> Result<HashSet<TreeHash>> {
    let mut named = HashSet::new();
    for (name, _) in store.records(Kind::Plan)? {
        match store.record(Kind::Plan, &name) {
            Ok(Some(payload)) => named.extend(trees_of_plan(&payload)),
            Ok(None) | Err(Error::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let log = store.log()?;
    for topic in [Topic::Package, Topic::Scripts] {
        named.extend(log.topic(topic).filter_map(|(_, payload)| tree_of(topic, payload)));
    }
    Ok(named)
}

/// Tells whether a file counts towards the size but is neither tree nor blob.
fn is_small(file: &StoreFile) -> bool {
    !matches!(
        file.item,
        Item::Pack(_)
            | Item::Loose(_)
            | Item::Tree(_)
            | Item::Sidecar(_)
            | Item::LooseForm(_)
            | Item::Partial(_)
            | Item::Temporary
    )
}

/// Tells whether the writer of a temporary file is gone.
pub(crate) fn is_abandoned(file: &StoreFile) -> Result<bool> {
    // A folder has no lock, but its writer keeps gc away.
    if !file.is_directory() && crate::leases::is_live(&file.path)? {
        return Ok(false);
    }
    // Between making and locking it the writer has no lock yet, but it lives.
    let name = file.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let pid = name.split('-').next().and_then(|pid| pid.parse().ok());
    let pid = pid.and_then(rustix::process::Pid::from_raw);
    let lives = pid.is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok());
    Ok(!lives || !is_younger(file.changed_secs(), TEMPORARY_MAX))
}

/// Removes what nothing needs.
///
/// # Errors
/// What the system says; what was removed by then was not needed.
pub fn collect(store: &Store, options: &Options) -> Result<Collected> {
    let (bytes_before, packs_rewritten) = {
        let _shared = store.guard()?;
        let index = BlobIndex::open_checked(store)?;
        let survey = Survey::new(store, &index, options)?;
        let sparse = survey.sparse_packs(options);
        if options.dry_run {
            return Ok(foresee(&survey, &sparse));
        }
        let bytes_before = survey.files.iter().map(StoreFile::bytes).sum();
        match rewrite(store, &survey, &sparse) {
            Ok(count) => (bytes_before, count),
            // First things first: what goes below makes room for the next time.
            Err(error) if is_full(&error) => (bytes_before, 0),
            Err(error) => return Err(error),
        }
    };
    let Some(_exclusive) = store.guard_exclusive(options.wait)? else {
        return Ok(Collected { is_busy: true, bytes_before, ..Collected::default() });
    };
    let index = BlobIndex::open_checked(store)?;
    let collected = sweep(store, &Survey::new(store, &index, options)?)?;
    let bytes_after = measure(store)?;
    Ok(Collected { packs_rewritten, bytes_before, bytes_after, ..collected })
}

/// Counts what would go, without touching anything.
fn foresee(survey: &Survey<'_>, sparse: &HashSet<PackId>) -> Collected {
    let dead_packs = survey.dead_packs();
    let dead = |file: &&StoreFile| match file.item {
        Item::Pack(id) => dead_packs.contains(&id),
        _ => survey.is_dead_file(&file.item),
    };
    let count = |wanted: fn(&Item) -> bool| {
        survey.files.iter().filter(dead).filter(|file| wanted(&file.item)).count()
    };
    let bytes_before: u64 = survey.files.iter().map(StoreFile::bytes).sum();
    let gone: u64 = survey.files.iter().filter(dead).map(StoreFile::bytes).sum();
    let squeezed: u64 = survey
        .packs()
        .filter(|(pack, ..)| sparse.contains(&pack.id()))
        .map(|(pack, _, live)| pack.stamp().size.saturating_sub(live))
        .sum();
    Collected {
        is_busy: false,
        plans: survey.evicted.clone(),
        trees: count(|item| matches!(item, Item::Tree(_))),
        loose_blobs: count(|item| matches!(item, Item::Loose(_))),
        packs: dead_packs.len() + sparse.len(),
        packs_rewritten: sparse.len(),
        log_records: survey.dead_records.len(),
        projections: survey.dead_projections.len(),
        runs: survey.old_runs.len(),
        leftovers: survey.leftovers.len(),
        bytes_before,
        bytes_after: bytes_before.saturating_sub(gone + squeezed),
    }
}

/// Copies what is needed of sparse packs to fresh ones and writes an index that finds it there.
/// Nothing is removed; returns how many packs are superfluous now.
fn rewrite(store: &Store, survey: &Survey<'_>, sparse: &HashSet<PackId>) -> Result<usize> {
    if sparse.is_empty() {
        return Ok(0);
    }
    let mut writer = PackWriter::new(store);
    let mut done = HashSet::new();
    for (pack, flags, _) in survey.packs().filter(|(pack, ..)| sparse.contains(&pack.id())) {
        let live = pack.entries().zip(flags).filter(|(_, flag)| **flag);
        let copied = live.map(|(entry, _)| entry).try_for_each(|entry| {
            let bytes = pack.bytes(entry.offset, entry.length).unwrap_or_default();
            writer.add(entry.hash, entry.kind, bytes)
        });
        match copied {
            Ok(()) => drop(done.insert(pack.id())),
            // Left as it is: `verify` reports it, and `--repair` salvages what is whole.
            Err(Error::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let fresh = writer.finish()?;
    BlobIndex::open(store, &fresh)?.rewrite(store, &done, true)?;
    Ok(done.len())
}

/// Removes what the survey did not reach. Nobody else uses the store.
fn sweep(store: &Store, survey: &Survey<'_>) -> Result<Collected> {
    let mut collected = Collected {
        plans: survey.evicted.clone(),
        projections: survey.dead_projections.len(),
        runs: survey.old_runs.len(),
        log_records: survey.dead_records.len(),
        leftovers: survey.leftovers.len(),
        ..Collected::default()
    };
    let records = [
        (Kind::Plan, &survey.evicted),
        (Kind::Projection, &survey.dead_projections),
        (Kind::Run, &survey.old_runs),
    ];
    for (kind, names) in records {
        // The names of new records may not have reached the disk: an older one must not come back when what it names is gone.
        sync_folder(&store.record_path(kind, "any"))?;
        remove_all(names.iter().map(|name| store.record_path(kind, name)))?;
    }
    remove_all(survey.leftovers.iter().cloned())?;
    let packs = survey.dead_packs();
    relocate(store, survey, &packs)?;
    let dead: Vec<&StoreFile> =
        survey.files.iter().filter(|file| survey.is_dead_file(&file.item)).collect();
    let paths = |wanted: fn(&Item) -> bool| {
        let chosen: Vec<PathBuf> =
            dead.iter().filter(|file| wanted(&file.item)).map(|file| file.path.clone()).collect();
        chosen
    };
    store.remove_loose(paths(|item| matches!(item, Item::LooseForm(_))))?;
    remove_all(paths(|item| matches!(item, Item::Partial(_))))?;
    remove_all(paths(|item| matches!(item, Item::Sidecar(_))))?;
    collected.trees = remove_all(paths(|item| matches!(item, Item::Tree(_))))?;
    collected.loose_blobs = remove_all(paths(|item| matches!(item, Item::Loose(_))))?;
    if !survey.dead_records.is_empty() {
        let compacted =
            store.compact_log(|topic, key, _| !survey.dead_records.contains(&(topic, *key)));
        // A record whose tree is gone is a miss; the next gc drops it.
        unless_full(compacted, || Ok(()))?;
    }
    if !packs.is_empty() {
        // The index goes first, so that it never names a pack that is gone.
        let rewritten = survey.marks.index.rewrite(store, &packs, false);
        unless_full(rewritten, || {
            remove_all([store.path("index/blobs"), store.path("index/stamps")]).map(drop)
        })?;
        collected.packs = remove_all(packs.iter().map(|id| store.pack_path(*id)))?;
    }
    Ok(collected)
}

/// Does something else where writing failed because the disk is full: gc must be able to free it.
fn unless_full(result: Result<()>, otherwise: impl FnOnce() -> Result<()>) -> Result<()> {
    match result {
        Err(error) if is_full(&error) => otherwise(),
        other => other,
    }
}

fn is_full(error: &Error) -> bool {
    match error {
        Error::Full { .. } => true,
        Error::Io { source, .. } => crate::error::is_full(source),
        _ => false,
    }
}

/// Writes the sidecars anew that point into packs which are about to go.
fn relocate(store: &Store, survey: &Survey<'_>, packs: &HashSet<PackId>) -> Result<()> {
    for tree in &survey.marks.trees {
        let is_hit = points_into(store, *tree, packs)?;
        let path = store.tree_path(*tree);
        if is_hit && let Some(manifest) = map_if_there(&path)? {
            match store.write_sidecar(*tree, &manifest, survey.marks.index) {
                // Not whole before either: `verify` reports it.
                Ok(()) | Err(Error::MissingBlob { .. } | Error::Damaged { .. }) => {}
                // Who opens the tree makes its sidecar again.
                failed => {
                    unless_full(failed, || remove_all([store.sidecar_path(*tree)]).map(drop))?
                }
            }
        }
    }
    Ok(())
}

/// Removes files and folders, and makes sure that they are gone from the disk; returns how many.
pub(crate) fn remove_all(paths: impl IntoIterator<Item = PathBuf>) -> Result<usize> {
    let mut folders = BTreeSet::new();
    let mut count = 0;
    for path in paths {
        crate::materialize::remove(&path, 1)?;
        folders.extend(path.parent().map(Path::to_owned));
        count += 1;
    }
    for folder in folders {
        let opened = File::open(&folder).map_err(Error::io("open", &folder))?;
        opened.sync_all().map_err(Error::io("write to the disk", &folder))?;
    }
    Ok(count)
}

/// Returns the size of everything in the store, in bytes.
///
/// # Errors
/// What the system says.
pub fn measure(store: &Store) -> Result<u64> {
    Ok(inventory(store)?.iter().map(StoreFile::bytes).sum())
}

/// What is remembered of the store's size.
#[derive(Debug, Clone, Copy, Default)]
struct Size {
    bytes: u64,
    measured_secs: i64,
    collected_secs: i64,
}

impl Size {
    /// Reads the cached figure; a damaged one is as good as none.
    fn read(store: &Store) -> Option<Self> {
        let bytes = fs::read(store.path("index/size")).ok()?;
        let text = std::str::from_utf8(record::decode(&bytes).ok()?).ok()?;
        let fields: HashMap<&str, &str> =
            text.lines().filter_map(|line| line.split_once(' ')).collect();
        Some(Self {
            bytes: fields.get("bytes")?.parse().ok()?,
            measured_secs: fields.get("measured")?.parse().ok()?,
            collected_secs: fields.get("collected")?.parse().ok()?,
        })
    }

    fn write(self, store: &Store) -> Result<()> {
        let Self { bytes, measured_secs, collected_secs } = self;
        let text = format!("bytes {bytes}\nmeasured {measured_secs}\ncollected {collected_secs}\n");
        store.publish_passing(&store.path("index/size"), &record::encode(text.as_bytes()))
    }
}

/// Returns the store's size as it was last measured or reckoned, in bytes; `None` when it never was.
#[must_use]
pub fn known_size(store: &Store) -> Option<u64> {
    Size::read(store).map(|size| size.bytes)
}

/// Keeps the store below `cap_bytes`, for the end of a run that imported `added_bytes`.
///
/// Mostly this reads and writes one small file: the size is cached, and measured again when the cap
/// seems to be passed or the figure is a day old. Then the least recently used plans go until a fifth
/// of the cap is free, young ones where the others are not enough. Nothing waits: a store that others
/// use is collected by a later run.
///
/// # Errors
/// What the system says.
pub fn maybe(store: &Store, cap_bytes: u64, added_bytes: u64) -> Result<Option<Collected>> {
    let now = now_secs();
    let known = Size::read(store);
    let collected_secs = known.map_or(0, |size| size.collected_secs);
    let fresh = known.filter(|size| is_younger(size.measured_secs, SIZE_AGE_MAX));
    if let Some(size) = fresh {
        let size = Size { bytes: size.bytes.saturating_add(added_bytes), ..size };
        if size.bytes <= cap_bytes {
            size.write(store)?;
            return Ok(None);
        }
    }
    let bytes = measure(store)?;
    if bytes <= cap_bytes || is_younger(collected_secs, COLLECT_PAUSE) {
        Size { bytes, measured_secs: now, collected_secs }.write(store)?;
        return Ok(None);
    }
    // Asked first, so that a busy store is not rewritten in vain.
    if store.guard_exclusive(false)?.is_none() {
        return Ok(None);
    }
    let max_bytes = Some(cap_bytes / 5 * 4);
    let options = Options { max_bytes, wait: false, ..Options::default() };
    let mut collected = collect(store, &options)?;
    if !collected.is_busy && collected.bytes_after > cap_bytes {
        let pressed = Options { is_pressed: true, ..options };
        collected = collected.followed_by(collect(store, &pressed)?);
    }
    if !collected.is_busy {
        let bytes = collected.bytes_after;
        let collected_secs = if bytes > cap_bytes { now } else { 0 };
        Size { bytes, measured_secs: now, collected_secs }.write(store)?;
    }
    Ok(Some(collected))
}
