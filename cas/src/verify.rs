//! Verifies a store byte by byte, and repairs what can be.
//!
//! Everything that a store holds is read: packs with every blob and gap, loose blobs, manifests,
//! sidecars, loose forms, what has come of partial trees, records, the log, the caches, and whatever strayed in. A repair salvages the
//! whole blobs of a damaged pack, rebuilds caches and sidecars, and removes what can't be whole any
//! more together with the plans and records that name it, so that the next run takes it for a miss and
//! fetches it anew. Originals of what was damaged go to `quarantine`. After a repair a store verifies.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rift_tree::sidecar::{ContainerKind, Sidecar};
use rift_tree::state::Header;
use rift_tree::{BlobHash, Manifest, PackId, TreeHash};

use crate::blobs::{BlobIndex, LOOSE_FROM, TableCheck, check_table, hash_file};
use crate::error::{Error, Result};
use crate::inventory::{Item, StoreFile, inventory};
use crate::lock::{lock, unlocked};
use crate::log::tree_of;
use crate::loose::Wrong;
use crate::pack::{Pack, PackWriter, PackedKind, Salvage};
use crate::projection::Projection;
use crate::record::{self, Kind};
use crate::roots::trees_of_plan;
use crate::store::{FORMAT, Store, make_folder, sync_folder};
use crate::sys::Mapped;
use crate::tree::{check_manifest, checked_sidecar, map_if_there, sizes};

/// How many threads read: more only wait for the disk.
const THREADS: usize = 2;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// What a killed process, or somebody's `cp`, leaves behind; nothing is lost.
    Litter,
    /// Bytes are not what they were.
    Damage,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub path: PathBuf,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub what: String,
    /// What follows from it.
    pub meaning: &'static str,
    /// It is mended, as far as it can be.
    pub is_repaired: bool,
}

/// What was looked at, and what was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Everything that is not as it should be.
    pub findings: Vec<Finding>,
    /// Packs read.
    pub packs: usize,
    /// Blobs and manifests in packs, and loose blobs, whose content was checked.
    pub blobs: usize,
    /// Trees checked.
    pub trees: usize,
    /// Bytes read.
    pub bytes: u64,
}

impl Report {
    /// Tells whether nothing at all was found.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// Tells whether every byte is as it should be; litter does not count.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity == Severity::Litter)
    }
}

/// How far a verification is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes read so far.
    pub done_bytes: u64,
    /// Bytes to be read.
    pub total_bytes: u64,
}

const UNUSABLE: &str = "trees that need its bytes can't be shown until they are fetched again";
const FETCHED_AGAIN: &str = "the next run that needs it fetches it again";
const REBUILT: &str = "nothing is lost: it is made again from the rest";
const SPREADS: &str = "directories that link to it show the same; its tree is whole in the packs";
const SWEPT: &str = "nothing is lost: gc removes it";

/// All packs that are whole.
type Packs = HashMap<PackId, Arc<Pack>>;

struct Check<'a> {
    store: &'a Store,
    repair: bool,
    progress: &'a (dyn Fn(Progress) + Sync),
    done_bytes: AtomicU64,
    total_bytes: u64,
    blobs: AtomicUsize,
    findings: Mutex<Vec<Finding>>,
    damaged_packs: Mutex<HashSet<PackId>>,
    loose: Mutex<HashMap<BlobHash, u64>>,
    whole_trees: Mutex<HashSet<TreeHash>>,
}

/// Verifies the whole store, and repairs it when asked.
///
/// A repair waits until nobody else uses the store; without one, others go on using it.
///
/// # Errors
/// What the system says when the store can't be read at all; what is wrong with it is in the report.
pub fn verify(store: &Store, repair: bool, progress: &(dyn Fn(Progress) + Sync)) -> Result<Report> {
    let _guard = match repair {
        true => store.guard_exclusive(true)?,
        false => Some(store.guard()?),
    };
    let files = inventory(store)?;
    let is_read =
        |file: &&StoreFile| matches!(file.item, Item::Pack(_) | Item::Loose(_) | Item::Tree(_));
    let forms = files.iter().filter(|file| matches!(file.item, Item::LooseForm(_)));
    let form_bytes: u64 = forms.map(StoreFile::bytes).sum();
    let mut work: Vec<&StoreFile> = files.iter().filter(is_read).collect();
    work.sort_by_key(|file| std::cmp::Reverse(file.bytes()));
    let check = Check {
        store,
        repair,
        progress,
        done_bytes: AtomicU64::new(0),
        total_bytes: form_bytes + work.iter().map(|file| file.bytes()).sum::<u64>(),
        blobs: AtomicUsize::new(0),
        findings: Mutex::default(),
        damaged_packs: Mutex::default(),
        loose: Mutex::default(),
        whole_trees: Mutex::default(),
    };
    let work: Vec<(&Path, &Item)> =
        work.into_iter().map(|file| (file.path.as_path(), &file.item)).collect();
    in_parallel(&work, |(path, item)| check.content(path, item))?;
    check.places(&files)?;
    let index = check.index(&files)?;
    let packs = index.packs().map(|pack| (pack.id(), Arc::clone(pack))).collect();
    let trees: Vec<TreeHash> = lock(&check.whole_trees).iter().copied().collect();
    in_parallel(&trees, |tree| check.tree(&index, &packs, *tree))?;
    check.sidecars_without_tree(&files)?;
    for file in &files {
        if let Item::LooseForm(tree) = file.item {
            check.loose_form(file, tree)?;
        }
    }
    check.log(&index)?;
    for file in &files {
        if let Item::Partial(tree) = file.item {
            check.partial(&file.path, tree)?;
        }
    }
    for file in &files {
        if let Item::Record(kind, name) = &file.item {
            check.record(&file.path, *kind, name)?;
        }
    }
    let mut report = Report {
        findings: unlocked(check.findings),
        packs: work.iter().filter(|(_, item)| matches!(item, Item::Pack(_))).count(),
        blobs: check.blobs.into_inner(),
        trees: trees.len(),
        bytes: check.done_bytes.into_inner(),
    };
    report.findings.sort_by(|one, two| (&one.path, &one.what).cmp(&(&two.path, &two.what)));
    Ok(report)
}

/// Does all pieces of work with a few threads; the first error ends it.
fn in_parallel<T: Sync>(work: &[T], one: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    let next = AtomicUsize::new(0);
    let run = || {
        while let Some(piece) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
            one(piece)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..THREADS).map(|_| scope.spawn(run)).collect();
        let mut result = run();
        for helper in helpers {
            let helped = helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            result = result.and(helped);
        }
        result
    })
}

/// Reads a file to its end, so that a disk which can't is an error here and no signal in a mapping.
fn read_through(file: &File) -> io::Result<u64> {
    let mut chunk = vec![0; 1 << 20];
    let (mut file, mut total) = (file, 0);
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(total),
            Ok(read) => total += read as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Turns an error into what it says about one file; what concerns the whole store stays an error.
fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

impl Check<'_> {
    fn find(&self, path: &Path, severity: Severity, what: String, meaning: &'static str) {
        let (path, is_repaired) = (path.to_owned(), self.repair);
        lock(&self.findings).push(Finding { path, severity, what, meaning, is_repaired });
    }

    fn damage(&self, path: &Path, what: String, meaning: &'static str) {
        self.find(path, Severity::Damage, what, meaning);
    }

    /// Checks the bytes of a pack, a loose blob or a manifest.
    fn content(&self, path: &Path, item: &Item) -> Result<()> {
        let file = match File::open(path) {
            // Removed since it was listed: only who deletes does that, so it is no part any more.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return self.unreadable(path, item, &error),
            Ok(file) => file,
        };
        let bytes = match (item, read_through(&file)) {
            (_, Err(error)) => return self.unreadable(path, item, &error),
            (Item::Pack(id), Ok(bytes)) => {
                self.pack(path, *id)?;
                bytes
            }
            (Item::Loose(hash), Ok(bytes)) => {
                self.loose(path, *hash, bytes)?;
                bytes
            }
            (Item::Tree(tree), Ok(bytes)) => {
                self.manifest(path, *tree)?;
                bytes
            }
            (_, Ok(bytes)) => bytes,
        };
        self.has_read(bytes);
        Ok(())
    }

    fn has_read(&self, bytes: u64) {
        let done_bytes = self.done_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        (self.progress)(Progress { done_bytes, total_bytes: self.total_bytes });
    }

    fn unreadable(&self, path: &Path, item: &Item, error: &io::Error) -> Result<()> {
        self.damage(path, format!("it can't be read: {error}"), UNUSABLE);
        if let Item::Pack(id) = item {
            lock(&self.damaged_packs).insert(*id);
        }
        if self.repair { self.quarantine(path) } else { Ok(()) }
    }

    fn pack(&self, path: &Path, id: PackId) -> Result<()> {
        let checked = Pack::open(path).and_then(|pack| {
            self.blobs.fetch_add(pack.len(), Ordering::Relaxed);
            let is_named = pack.id() == id;
            pack.verify().map(|()| is_named)
        });
        let why = match checked {
            Ok(true) => return Ok(()),
            Ok(false) => "it has the name of another pack".to_owned(),
            Err(error) => cause(&error),
        };
        let salvage = Salvage::new(path)?;
        let (whole, lost) = (salvage.whole.len(), salvage.lost.len());
        let what = format!("{why}; {whole} of its entries are whole, {lost} are not");
        self.damage(path, what, UNUSABLE);
        for entry in &salvage.lost {
            let hash = BlobHash::from_bytes(entry.hash);
            let what = match entry.kind {
                PackedKind::Blob => format!("blob {hash} of {} bytes is damaged", entry.length),
                PackedKind::Manifest => format!("the manifest of tree {hash} is damaged"),
            };
            self.damage(path, what, UNUSABLE);
        }
        if !self.repair {
            lock(&self.damaged_packs).insert(id);
            return Ok(());
        }
        let mut writer = PackWriter::new(self.store);
        for entry in &salvage.whole {
            writer.add(entry.hash, entry.kind, salvage.bytes(entry))?;
        }
        let fresh = writer.finish()?;
        // Where nothing but a gap was damaged, the salvaged pack has taken the old one's name.
        match fresh.iter().any(|(fresh, _)| *fresh == id) {
            true => Ok(()),
            false => self.quarantine(path),
        }
    }

    fn loose(&self, path: &Path, hash: BlobHash, length: u64) -> Result<()> {
        self.blobs.fetch_add(1, Ordering::Relaxed);
        let file = File::open(path).map_err(Error::io("open", path))?;
        let actual = hash_file(&file).map_err(Error::io("read", path))?;
        if actual == hash {
            lock(&self.loose).insert(hash, length);
            return Ok(());
        }
        self.damage(path, format!("its bytes hash to {actual}"), UNUSABLE);
        if self.repair { self.quarantine(path) } else { Ok(()) }
    }

    fn manifest(&self, path: &Path, tree: TreeHash) -> Result<()> {
        let bytes = fs::read(path).map_err(Error::io("read", path))?;
        match check_manifest(&bytes, tree.as_bytes()) {
            Ok(()) => {
                lock(&self.whole_trees).insert(tree);
                Ok(())
            }
            Err(error) => {
                self.damage(path, format!("the manifest: {error}"), FETCHED_AGAIN);
                if self.repair { self.remove_tree(tree) } else { Ok(()) }
            }
        }
    }

    /// Takes a tree that can't be whole out of the way.
    fn remove_tree(&self, tree: TreeHash) -> Result<()> {
        lock(&self.whole_trees).remove(&tree);
        remove(&self.store.sidecar_path(tree))?;
        self.quarantine(&self.store.tree_path(tree))
    }

    /// Moves a file out of the way, where gc finds it later.
    fn quarantine(&self, path: &Path) -> Result<()> {
        let folder = self.store.path("quarantine");
        make_folder(&folder)?;
        let name = path.file_name().unwrap_or_default();
        let mut target = folder.join(name);
        let mut number = 1;
        while target.symlink_metadata().is_ok() {
            let mut numbered = name.to_owned();
            numbered.push(format!("-{number}"));
            target = folder.join(numbered);
            number += 1;
        }
        match fs::rename(path, &target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::io("move aside", path)(error)),
            Ok(()) => sync_folder(&target).and_then(|()| sync_folder(path)),
        }
    }

    /// Checks what the names of files tell: strays, leftovers, and the format.
    fn places(&self, files: &[StoreFile]) -> Result<()> {
        for file in files {
            let path = &file.path;
            match file.item {
                Item::Stray => {
                    let what = "no store has such a file here".to_owned();
                    self.find(path, Severity::Litter, what, "nothing reads it");
                    if self.repair {
                        self.quarantine(path)?;
                    }
                }
                Item::Temporary if crate::gc::is_abandoned(file)? => {
                    let what = "its writer is gone".to_owned();
                    self.find(path, Severity::Litter, what, SWEPT);
                    if self.repair {
                        crate::materialize::remove(path, 1)?;
                    }
                }
                Item::Lease if !crate::leases::is_live(path)? => {
                    let what = "its run is gone".to_owned();
                    self.find(path, Severity::Litter, what, SWEPT);
                    if self.repair {
                        remove(path)?;
                    }
                }
                Item::Format => self.format(path)?,
                Item::State(ref name) if !name.ends_with(".log") => self.state(path)?,
                Item::Tool(hash) => self.tool(path, hash)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Checks what can be checked of a state; its words are changed while it is read.
    fn state(&self, path: &Path) -> Result<()> {
        let bytes = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(Error::io("read", path))?,
        };
        let is_whole =
            Header::decode(&bytes).is_ok_and(|header| header.file_bytes() == bytes.len());
        if !is_whole {
            let cure = "`--repair` removes it; what is real is found again from the directory";
            self.damage(path, "it is no state of a projection".to_owned(), cure);
            if self.repair {
                remove(path)?;
            }
        }
        Ok(())
    }

    /// Checks a program of rift's own.
    fn tool(&self, path: &Path, hash: BlobHash) -> Result<()> {
        let bytes = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(Error::io("read", path))?,
        };
        if blake3::hash(&bytes).as_bytes() != hash.as_bytes() {
            self.find(path, Severity::Damage, "its content has changed".to_owned(), REBUILT);
            if self.repair {
                remove(path)?;
            }
        }
        Ok(())
    }

    fn format(&self, path: &Path) -> Result<()> {
        let wanted = format!("{FORMAT}\n");
        if fs::read(path).map_err(Error::io("read", path))? != wanted.as_bytes() {
            self.damage(path, "it is not what this rift writes".to_owned(), REBUILT);
            if self.repair {
                self.store.publish_bytes(path, wanted.as_bytes())?;
            }
        }
        Ok(())
    }

    /// Checks the caches, and returns an index of what is whole.
    fn index(&self, files: &[StoreFile]) -> Result<BlobIndex> {
        let damaged = lock(&self.damaged_packs).clone();
        let index = BlobIndex::open_without(self.store, &[], &damaged)?;
        let packs: Packs = index.packs().map(|pack| (pack.id(), Arc::clone(pack))).collect();
        let mut is_stale = false;
        for file in files.iter().filter(|file| file.item == Item::Cache) {
            let bytes = match fs::read(&file.path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(Error::io("read", &file.path))?,
            };
            let is_table = file.path.ends_with("blobs");
            let found = match is_table {
                true => check_table(&bytes, &packs),
                false if record::decode(&bytes).is_ok() => TableCheck::Right,
                false => TableCheck::Damaged,
            };
            match found {
                TableCheck::Right => continue,
                TableCheck::Outdated => {
                    let what = "packs changed since it was written".to_owned();
                    self.find(&file.path, Severity::Litter, what, REBUILT);
                }
                TableCheck::Damaged => {
                    self.damage(&file.path, "its bytes changed".to_owned(), REBUILT);
                }
            }
            is_stale = true;
            if self.repair {
                remove(&file.path)?;
            }
        }
        if self.repair && is_stale {
            let index = BlobIndex::open(self.store, &[])?;
            index.rewrite(self.store, &HashSet::new(), true)?;
            return Ok(index);
        }
        Ok(index)
    }

    /// Returns how many blobs of a manifest the store lacks.
    fn missing(&self, index: &BlobIndex, manifest: &Manifest<'_>) -> usize {
        let loose = lock(&self.loose);
        let is_missing = |(blob, size): (usize, u64)| {
            let Some(hash) = manifest.blob_hash(blob as u32) else {
                return true;
            };
            match size >= LOOSE_FROM {
                true => loose.get(&hash) != Some(&size),
                false => {
                    let found = index.find(hash.as_bytes(), PackedKind::Blob);
                    found.is_none_or(|found| found.packed.length != size)
                }
            }
        };
        sizes(manifest).into_iter().enumerate().filter(|blob| is_missing(*blob)).count()
    }

    /// Checks that a tree has all its blobs, and that its sidecar points to them.
    fn tree(&self, index: &BlobIndex, packs: &Packs, tree: TreeHash) -> Result<()> {
        let path = self.store.tree_path(tree);
        let Some(map) = map_if_there(&path)? else {
            return Ok(());
        };
        let manifest = Manifest::parse(&map).map_err(Error::damaged(&path))?;
        let missing = self.missing(index, &manifest);
        if missing > 0 {
            let what = format!("{missing} of its {} blobs are missing", manifest.blob_count());
            self.damage(&path, what, FETCHED_AGAIN);
            if self.repair {
                return self.remove_tree(tree);
            }
            lock(&self.whole_trees).remove(&tree);
            return Ok(());
        }
        let path = self.store.sidecar_path(tree);
        let Some(bytes) = map_if_there(&path)? else {
            return Ok(());
        };
        let judged = match checked_sidecar(&bytes) {
            None => Err("its checksum does not match".to_owned()),
            Some(sidecar) => self.sidecar(packs, tree, &map, &manifest, &sidecar),
        };
        match judged {
            Ok(true) => return Ok(()),
            Ok(false) => {
                let what = "store files changed since it was written".to_owned();
                self.find(&path, Severity::Litter, what, REBUILT);
            }
            Err(what) => self.damage(&path, what, REBUILT),
        }
        match self.repair {
            true => self.store.write_sidecar(tree, &map, index),
            false => Ok(()),
        }
    }

    /// Tells whether a sidecar is up to date, or what is wrong with it.
    fn sidecar(
        &self,
        all: &Packs,
        tree: TreeHash,
        map: &Mapped,
        manifest: &Manifest<'_>,
        sidecar: &Sidecar<'_>,
    ) -> Result<bool, String> {
        if sidecar.tree() != tree || sidecar.blob_count() != manifest.blob_count() {
            return Err("it belongs to another tree".to_owned());
        }
        if sidecar.manifest_stamp() != map.stamp {
            return Ok(false);
        }
        let mut packs = HashMap::new();
        for number in 0..sidecar.container_count() {
            let container = sidecar.container(number).ok_or("a container is of no known kind")?;
            if container.kind == ContainerKind::Pack {
                let id = PackId::from_bytes(container.name);
                match all.get(&id).filter(|pack| pack.stamp() == container.stamp) {
                    Some(pack) => drop(packs.insert(number, Arc::clone(pack))),
                    None => return Ok(false),
                }
            } else {
                let file = File::open(self.store.loose_path(BlobHash::from_bytes(container.name)));
                let stamp = file.and_then(|file| crate::sys::stamp(&file));
                if stamp.ok() != Some(container.stamp) {
                    return Ok(false);
                }
            }
        }
        for (blob, size) in sizes(manifest).into_iter().enumerate() {
            let place = sidecar.location(blob as u32);
            let (Some(place), Some(hash)) = (place, manifest.blob_hash(blob as u32)) else {
                return Err(format!("blob {blob} has no place"));
            };
            let is_right = match packs.get(&place.container) {
                Some(pack) => {
                    let entry = pack.entry_at(place.offset, hash.as_bytes());
                    entry.is_some_and(|entry| entry.length == size)
                }
                None => {
                    let container = sidecar.container(place.container);
                    let name = container.map(|container| container.name);
                    name.as_ref() == Some(hash.as_bytes()) && place.offset == 0
                }
            };
            if !is_right {
                return Err(format!("blob {hash} is not where it says"));
            }
        }
        Ok(true)
    }

    fn sidecars_without_tree(&self, files: &[StoreFile]) -> Result<()> {
        for file in files {
            if let Item::Sidecar(tree) = file.item
                && !self.store.has_tree(tree)
                && file.path.exists()
            {
                let what = "its tree is gone".to_owned();
                self.find(&file.path, Severity::Litter, what, SWEPT);
                if self.repair {
                    remove(&file.path)?;
                }
            }
        }
        Ok(())
    }

    /// Checks a tree's plain files. The tree itself was checked, and what is bad in it reported.
    fn loose_form(&self, file: &StoreFile, tree: TreeHash) -> Result<()> {
        let path = &file.path;
        let Some(map) = map_if_there(&self.store.tree_path(tree))? else {
            if path.symlink_metadata().is_ok() {
                self.find(path, Severity::Litter, "its tree is gone".to_owned(), SWEPT);
                if self.repair {
                    self.store.remove_loose([path.clone()])?;
                }
            }
            return Ok(());
        };
        if !lock(&self.whole_trees).contains(&tree) {
            return Ok(());
        }
        let manifest = Manifest::parse(&map).map_err(Error::damaged(path))?;
        let wrong = crate::loose::check(path, manifest);
        self.has_read(file.bytes());
        match wrong {
            Ok(None) => return Ok(()),
            Ok(Some(Wrong { is_hidden: true, what })) => self.damage(path, what, SPREADS),
            // An edit through a hard link is one, too; whoever links next mends or leaves it.
            Ok(Some(Wrong { what, .. })) => self.find(path, Severity::Litter, what, REBUILT),
            Err(error) => {
                let what = format!("it can't be read: {}", cause(&error));
                self.damage(path, what, "no run can link to it");
            }
        }
        // Runs that link to it go on; the next one makes it again from the packs.
        if self.repair { self.quarantine(path) } else { Ok(()) }
    }

    /// Checks what has come of a tree that is fetched as it is read.
    fn partial(&self, path: &Path, tree: TreeHash) -> Result<()> {
        let Ok(Some(opened)) = self.store.open_partial(tree) else {
            self.damage(path, "nothing of it can be used".to_owned(), FETCHED_AGAIN);
            return if self.repair { crate::materialize::remove(path, 1) } else { Ok(()) };
        };
        let damaged = opened.damaged_arrivals();
        if !damaged.is_empty() {
            let what = format!("{} of the blobs that have come are damaged", damaged.len());
            self.damage(path, what, FETCHED_AGAIN);
            if let Some(partial) = opened.partial().filter(|_| self.repair) {
                partial.withdraw(&damaged);
            }
        }
        lock(&self.whole_trees).insert(tree);
        Ok(())
    }

    /// Tells whether a tree that the log names can be used.
    fn is_usable(&self, index: &BlobIndex, tree: TreeHash) -> bool {
        if lock(&self.whole_trees).contains(&tree) {
            return true;
        }
        let Some(found) = crate::tree::packed_manifest(index, tree) else {
            return false;
        };
        let manifest = Manifest::parse(found.bytes());
        manifest.is_ok_and(|manifest| self.missing(index, &manifest) == 0)
    }

    fn log(&self, index: &BlobIndex) -> Result<()> {
        let mut is_torn = false;
        for (path, check) in self.store.check_log()? {
            let (garbage, torn) = (check.garbage_bytes, check.torn_bytes);
            if torn > 0 {
                let what = format!("its last {torn} bytes are no whole record");
                let meaning = "a process was killed while it appended, or a record was damaged";
                self.find(&path, Severity::Litter, what, meaning);
            }
            if garbage > torn {
                let what = format!("{} bytes in its middle are damaged", garbage - torn);
                self.damage(&path, what, FETCHED_AGAIN);
            }
            if check.missing_before > 0 {
                let what = format!("{} segments before it are missing", check.missing_before);
                self.damage(
                    &path,
                    what,
                    "what was purged may come back; the rest is fetched again",
                );
            }
            is_torn |= garbage > 0 || check.missing_before > 0;
        }
        let folder = self.store.path("actions");
        let log = self.store.log()?;
        let mut lost = HashSet::new();
        for (topic, key, payload) in log.all() {
            let tree = tree_of(topic, payload);
            if tree.is_some_and(|tree| !self.is_usable(index, tree)) {
                lost.insert((topic, *key));
            }
        }
        if !lost.is_empty() {
            let what = format!("{} records name trees that are not whole", lost.len());
            self.find(&folder, Severity::Litter, what, FETCHED_AGAIN);
        }
        match self.repair && (is_torn || !lost.is_empty()) {
            true => self.store.compact_log(|topic, key, _| !lost.contains(&(topic, *key))),
            false => Ok(()),
        }
    }

    fn record(&self, path: &Path, kind: Kind, name: &str) -> Result<()> {
        let bytes = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(Error::io("read", path))?,
        };
        let trees = match (record::decode(&bytes), kind) {
            (Err(error), _) => {
                self.damage(path, format!("the record `{name}`: {error}"), FETCHED_AGAIN);
                return if self.repair { self.quarantine(path) } else { Ok(()) };
            }
            (Ok(payload), Kind::Ref) => match TreeHash::from_hex(payload) {
                Ok(tree) => vec![tree],
                Err(_) => {
                    let what = format!("the ref `{name}` holds no tree hash");
                    self.damage(path, what, "it names nothing");
                    return if self.repair { self.quarantine(path) } else { Ok(()) };
                }
            },
            (Ok(payload), Kind::Plan) => trees_of_plan(payload),
            (Ok(payload), Kind::Projection) => {
                Projection::decode(payload).map(|projection| projection.tree).into_iter().collect()
            }
            (Ok(_), Kind::Run | Kind::Remote) => Vec::new(),
        };
        // A tree that was published after the trees were listed is none of ours to judge.
        let is_there =
            |tree| lock(&self.whole_trees).contains(&tree) || !self.repair && self.is_new(tree);
        let Some(tree) = trees.into_iter().find(|tree| !is_there(*tree)) else {
            return Ok(());
        };
        let what = format!("`{name}` needs tree {tree}, which is not whole");
        let meaning = match kind {
            Kind::Ref => "the name is lost: ingest or pull what it named again",
            _ => FETCHED_AGAIN,
        };
        self.damage(path, what, meaning);
        if self.repair { self.quarantine(path) } else { Ok(()) }
    }

    /// Tells whether a tree is here and nobody has found anything wrong with it.
    fn is_new(&self, tree: TreeHash) -> bool {
        let path = self.store.tree_path(tree);
        let is_found = lock(&self.findings).iter().any(|finding| finding.path == path);
        path.exists() && !is_found
    }
}

/// Removes a file; one that is gone is as good.
fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io("remove", path)(error))
        }
        _ => sync_folder(path),
    }
}
