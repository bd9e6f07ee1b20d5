//! What a build left in `target`, kept under a key.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, bail};
use rift_cas::blobs::BlobIndex;
use rift_cas::compare::{self, Differences};
use rift_cas::hashes::Hashes;
pub use rift_cas::hashes::now_ns;
use rift_cas::materialize::{Options, Writer};
use rift_cas::projection::{Projection, ShownAs};
use rift_cas::record::Kind;
use rift_cas::tree::OpenTree;
use rift_cas::{Lease, Store, ingest};
use rift_tree::builder::{Builder, Built, Item, Xattrs};
use rift_tree::{BlobHash, EntryId, Kind as EntryKind, Manifest, TreeHash};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::inputs::Inputs;
use super::project::Project;
use super::sources::Sources;
use super::stamps::hash_of;
use crate::actions::entry::Observation;
use crate::actions::watch::{self, Watched, is_record_of};
use crate::mount;
use crate::paths::{decoded, escaped};
use crate::plan::npm::planned::Original;
use crate::plan::shareable::Shareable;
use crate::plan::show;

/// Changes whenever the record does.
const VERSION: u32 = 3;
pub(super) const FINGERPRINTS: &str = ".fingerprint";
/// Cargo writes this when it begins to compile a crate.
const INVOKED: &str = "invoked.timestamp";
const LOCK: &str = ".cargo-lock";
const ABOUT: &[u8] = b"about.json";
const RUSTC_INFO: &str = ".rustc_info.json";
const TAG: &str = "CACHEDIR.TAG";
/// As cargo writes it.
const TAG_TEXT: &str = "Signature: 8a477f597d28d172789f06886806bc55
# This file is a cache directory tag created by cargo.
# For information about cache directory tags see https://bford.info/cachedir/
";
/// The clock of a file system may be behind by a tick.
const TICK_NS: i64 = 20_000_000;

/// What a build left: what the store and remotes keep under a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    version: u32,
    /// The folders of `target`, each with its tree.
    pub roots: Vec<Root>,
    /// The tree whose only file says what it was made of, see [`About`].
    about: AboutTree,
    /// How many crates cargo knows there.
    pub crates: u64,
    /// The build.
    pub original: Option<Original>,
    /// How long it took to take it in, in milliseconds.
    pub keep_ms: u64,
    /// See [`Shareable::shared`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    shared: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct AboutTree {
    tree: String,
}

/// What a build was made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct About {
    /// The files of the workspace.
    sources: Sources,
    /// Where the workspace was.
    workspace: String,
    /// Nothing in the trees is newer, in nanoseconds since the epoch.
    taken_ns: i64,
    /// What cargo knows of rustc, so that it does not ask again.
    rustc_info: Option<String>,
    /// Files that were looked at and are no sources, with the hash of what they held: absolute, or below the root.
    outside: Vec<(String, String)>,
    /// The sources that cargo knows of: it notices itself when they change.
    tracked: BTreeSet<String>,
    /// Records of what holds the place of the workspace, so that cargo makes it anew in another one.
    pinned: BTreeSet<String>,
    /// What programs have found besides.
    watched: watch::Kept,
}

/// What a build was made of, as far as it is known when it ends.
#[derive(Debug)]
pub struct MadeOf<'b> {
    /// The files of the workspace.
    pub sources: &'b Sources,
    /// What its programs have found besides.
    pub watched: Watched,
    /// What was there of an earlier build.
    pub before: Option<&'b Snapshot>,
    /// What its run knows of files.
    pub hashes: &'b Hashes,
}

/// A folder of `target`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Its path below `target`.
    pub folder: String,
    /// Its tree hash, in hexadecimal.
    pub tree: String,
}

/// How snapshots are written.
#[derive(Debug, Clone, Copy)]
pub struct Means<'s> {
    /// The store.
    pub store: &'s Store,
    /// See [`Options`].
    pub options: Options,
    /// How folders are put back.
    pub shown_as: ShownAs,
    /// Whether the times of sources may be set.
    pub sets_times: bool,
}

impl Means<'_> {
    /// Opens a tree that can be put back so; what is mounted need not be whole.
    fn open(&self, tree: TreeHash) -> rift_cas::Result<Option<OpenTree>> {
        let found = match self.shown_as.has_state() {
            true => self.store.open_shown(tree)?,
            false => self.store.open_tree(tree)?,
        };
        let can_wait = |tree: &OpenTree| tree.partial().is_none_or(|partial| !partial.is_down());
        Ok(found.filter(can_wait))
    }
}

/// What was put back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Restored {
    /// Entries that were written.
    pub entries: u64,
    /// Sources that got their old time.
    pub dated: usize,
    /// Sources that differ.
    pub differ: usize,
    /// What is to be made anew as something else is another thing, the first of it.
    pub stale: Option<String>,
}

/// Returns the name of the record that is kept under a key.
#[must_use]
pub fn record_name(key: &str) -> String {
    format!("cargo {key}")
}

impl Shareable for Snapshot {
    fn find(store: &Store, key: &str) -> rift_cas::Result<Option<Self>> {
        let payload = match store.record(Kind::Plan, &record_name(key)) {
            Err(rift_cas::Error::Damaged { .. }) => None,
            other => other?,
        };
        Ok(payload.and_then(|payload| Self::decode(&payload)))
    }

    fn save(&self, store: &Store, key: &str) -> anyhow::Result<()> {
        store.set_record(Kind::Plan, &record_name(key), &self.record()?)?;
        Ok(())
    }

    fn of_others(payload: &[u8]) -> Option<Self> {
        Self::decode(payload)
            .filter(|snapshot| snapshot.roots.iter().all(|root| goes_down(Path::new(&root.folder))))
    }

    fn record(&self) -> anyhow::Result<Vec<u8>> {
        Ok(serde_json::to_vec(self)?)
    }

    fn trees(&self) -> Option<Vec<TreeHash>> {
        let named = self.roots.iter().map(|root| &root.tree).chain([&self.about.tree]);
        named.map(|tree| TreeHash::from_hex(tree.as_bytes()).ok()).collect()
    }

    fn shared(&mut self) -> &mut Vec<String> {
        &mut self.shared
    }

    fn is_whole(&self) -> bool {
        true
    }

    /// Whatever a build script has been told may be in there.
    fn may_hold_secrets(&self) -> bool {
        true
    }
}

/// Tells whether a path leads to something below, whatever is there.
fn goes_down(path: &Path) -> bool {
    let mut parts = path.components().peekable();
    parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
}

impl About {
    fn read(means: Means<'_>, about: &AboutTree) -> anyhow::Result<Self> {
        let tree = opened(means, &about.tree)?;
        tree.fetch_rest()?;
        let manifest = tree.manifest();
        let file = manifest.children(EntryId::ROOT).next().and_then(|id| manifest.kind(id));
        let Some(EntryKind::File { blob, size }) = file else { bail!("it says nothing of itself") };
        let bytes = tree.bytes(&tree.sidecar(), blob, size).context("what it says is lost")?;
        let hash = BlobHash::from_bytes(*blake3::hash(bytes).as_bytes());
        if manifest.blob_hash(blob) != Some(hash) {
            bail!("what it says is damaged");
        }
        let about: Self = serde_json::from_slice(bytes)?;
        let is_record = |pinned: &String| {
            let path = Path::new(pinned);
            let parent = path.parent().and_then(Path::file_name);
            goes_down(path) && parent.is_some_and(|name| name == FINGERPRINTS)
        };
        if !about.pinned.iter().all(is_record) {
            bail!("it names what is no record of cargo's");
        }
        Ok(about)
    }

    /// Returns the packages in whose folders something differs that cargo does not know of, as a macro may have read it: nobody who has
    /// removed `target` wants what was made of that.
    fn unseen(&self, project: &Project, sources: &Sources) -> BTreeSet<String> {
        let (mut folders, mut is_everywhere) = (BTreeSet::new(), false);
        let all: BTreeSet<PathBuf> = sources.packages().collect();
        let is_seen = |path: &Path| {
            self.tracked.contains(&escaped(path))
                || path.file_name().is_some_and(|name| name == "Cargo.toml" || name == "Cargo.lock")
        };
        for path in sources.differing(&self.sources).filter(|path| !is_seen(path)) {
            match path.ancestors().skip(1).find(|folder| all.contains(*folder)) {
                Some(folder) if folder != Path::new("") => {
                    folders.insert(folder.to_owned());
                }
                // The root may be a package and hold others.
                _ => is_everywhere = true,
            }
        }
        let folders = if is_everywhere { all } else { folders };
        folders.iter().filter_map(|folder| package_name(&project.root.join(folder))).collect()
    }

    /// Keeps it as a tree.
    fn keep(&self, store: &Store) -> anyhow::Result<(AboutTree, Lease)> {
        let bytes = serde_json::to_vec(self)?;
        let import = store.import()?;
        let mut unit = import.unit();
        let hash = unit.add(&bytes)?;
        unit.flush()?;
        drop(unit);
        let mut builder = Builder::new();
        builder.put(ABOUT, 0, Item::File { permissions: 0o644, size: bytes.len() as u64, hash })?;
        let built = builder.finish()?;
        let (_, index) = import.finish(&[])?;
        store.publish_located(&built, &index)?;
        // gc waits while the index lives.
        let lease = store.lease(built.hash)?;
        drop(index);
        Ok((AboutTree { tree: built.hash.to_string() }, lease))
    }
}

/// Opens a tree that a record names.
fn opened(means: Means<'_>, tree: &str) -> anyhow::Result<OpenTree> {
    let hash = TreeHash::from_hex(tree.as_bytes()).ok().context("it names no tree")?;
    means.open(hash)?.context("its tree is not in the store")
}

impl Snapshot {
    fn decode(payload: &[u8]) -> Option<Self> {
        let read: Option<Self> = serde_json::from_slice(payload).ok();
        read.filter(|snapshot| snapshot.version == VERSION)
    }

    /// Tells whether the store has all its trees.
    #[must_use]
    pub fn is_here(&self, means: Means<'_>) -> bool {
        self.trees().is_some_and(|trees| {
            trees.iter().all(|tree| means.open(*tree).is_ok_and(|tree| tree.is_some()))
        })
    }

    /// Puts the folders back, none of which is there, and sets the times of the sources.
    ///
    /// # Errors
    /// Why it can't be used here; the sources may have other times then.
    pub fn restore(
        &self,
        means: Means<'_>,
        project: &Project,
        sources: &mut Sources,
    ) -> anyhow::Result<Restored> {
        let about = About::read(means, &self.about)?;
        if now_ns() <= about.taken_ns {
            bail!("the clock is behind that of the machine that it was made on");
        }
        for (path, hash) in &about.outside {
            let path = project.root.join(decoded(path));
            let is_same = hash_of(&path).is_ok_and(|found| found.to_hex().as_str() == hash);
            if !is_same {
                bail!("`{}` is another one", path.display());
            }
        }
        let unseen = about.unseen(project, sources);
        let hashes = means.store.hashes(0);
        let stale = about.watched.stale(&project.roots(), &hashes);
        let open = |root: &Root| -> anyhow::Result<(PathBuf, OpenTree)> {
            Ok((project.target.join(&root.folder), opened(means, &root.tree)?))
        };
        let trees = self.roots.iter().map(open).collect::<anyhow::Result<Vec<_>>>()?;
        for (_, tree) in &trees {
            if let Some(partial) = tree.partial() {
                partial.ask_for(looked_at(&tree.manifest()).into_iter());
            }
        }
        let (dated, differ) =
            sources.date(&project.root, &about.sources, about.taken_ns, means.sets_times)?;
        make_target(&project.target, about.rustc_info.as_deref())?;
        let mut restored = Restored { entries: 0, dated, differ, stale: None };
        for (folder, tree) in &trees {
            if let Some(parent) = folder.parent() {
                make_target(parent, None)?;
            }
            let request = show::Request {
                store: means.store,
                tree,
                folder,
                options: means.options,
                has_links: false,
                shown_as: means.shown_as,
            };
            let shown = request.show(None).with_context(|| format!("`{}`", folder.display()))?;
            restored.entries += shown.written.entries;
        }
        let remove = |folder: PathBuf| {
            fs::remove_dir_all(&folder).with_context(|| format!("`{}`", folder.display()))
        };
        if about.workspace != project.root.display().to_string() {
            about.pinned.iter().try_for_each(|pinned| remove(project.target.join(pinned)))?;
        }
        for (folder, _) in &trees {
            for unit in folders_in(&folder.join(FINGERPRINTS))? {
                let name = unit.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                let is_stale = stale.iter().any(|made| is_record_of(name, made));
                if is_stale && restored.stale.is_none() {
                    restored.stale = Some(name.to_owned());
                }
                if is_stale || unseen.iter().any(|package| is_record_of(name, package)) {
                    remove(unit)?;
                }
            }
        }
        Ok(restored)
    }

    /// Takes in what a build has left; the reason where that can't be kept.
    ///
    /// # Errors
    /// What the system says.
    pub fn take(
        means: Means<'_>,
        project: &Project,
        profile: &str,
        made_of: MadeOf<'_>,
        original: Option<Original>,
    ) -> anyhow::Result<Result<Taken, String>> {
        let MadeOf { sources, watched, before, hashes } = made_of;
        // Who wants all bytes looked at believes nobody.
        let hashes = Some(hashes).filter(|_| !means.options.verify);
        let begun = Instant::now();
        let folders = folders(&project.target, profile)?;
        if folders.is_empty() {
            return Ok(Err(format!("there is no `{profile}` in `{}`", project.target.display())));
        }
        let mut locks = Vec::new();
        for folder in &folders {
            match lock(&project.target.join(folder)) {
                Some(lock) => locks.push(lock),
                None => return Ok(Err("another cargo is at work".to_owned())),
            }
        }
        let (mut roots, mut stored_bytes) = (Vec::new(), 0);
        let mut inputs = Inputs::new(project, sources);
        let taken_ns = now_ns();
        for folder in &folders {
            let place = project.target.join(folder);
            let (tree, added_bytes) = take_folder(means, &place, hashes)?;
            stored_bytes += added_bytes;
            inputs.look_at(folder)?;
            roots.push(Root { folder: folder.clone(), tree: tree.to_string() });
        }
        if let Some(path) = sources.changed(&project.root, &[]) {
            return Ok(Err(format!("`{}` was changed meanwhile", path.display())));
        }
        let mut hashed = Vec::new();
        for path in inputs.outside {
            match hash_of(&path) {
                Ok(hash) => {
                    let name = path.strip_prefix(&project.root).unwrap_or(&path);
                    hashed.push((escaped(name), hash.to_hex().to_string()));
                }
                // A build script may name what is not there.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Ok(Err(format!("`{}` can't be read: {error}", path.display())));
                }
            }
        }
        let (crates, _) = compiled_since(&project.target, profile, i64::MAX)?;
        let before = before.and_then(|known| About::read(means, &known.about).ok());
        let places = project.roots();
        let is_known = |one: &Observation| {
            watch::is_of_sources(&places, &project.root, |below| sources.has(below), one)
        };
        let before = before.map(|about| about.watched).unwrap_or_default();
        let watched = watch::Kept::new(watched, before, is_known);
        let about = About {
            sources: sources.clone(),
            workspace: project.root.display().to_string(),
            taken_ns,
            rustc_info: fs::read_to_string(project.target.join(RUSTC_INFO)).ok(),
            outside: hashed,
            tracked: inputs.tracked,
            pinned: inputs.pinned,
            watched,
        };
        let (about, lease) = about.keep(means.store)?;
        let keep_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let snapshot =
            Self { version: VERSION, roots, about, crates, original, keep_ms, shared: Vec::new() };
        Ok(Ok(Taken { snapshot, stored_bytes, _lease: lease }))
    }
}

/// What was taken in; it stays in the store while this lives, even if nothing names it yet.
#[derive(Debug)]
pub struct Taken {
    /// What to keep.
    pub snapshot: Snapshot,
    /// Bytes that the store grew by, but for what it was made of.
    pub stored_bytes: u64,
    _lease: Lease,
}

/// Returns the blobs that cargo reads to see that all is done: its records, and what build scripts have said.
fn looked_at(manifest: &Manifest<'_>) -> Vec<u32> {
    let is_record = |id: EntryId| {
        let folder = manifest.parent(manifest.parent(id)?)?;
        let is_top = manifest.parent(folder) == Some(EntryId::ROOT);
        let name = manifest.name(folder).filter(|_| is_top)?;
        let is_program = manifest.mode(id).is_some_and(|mode| mode & 0o111 != 0);
        Some(name == FINGERPRINTS.as_bytes() || name == b"build" && !is_program)
    };
    let files = (0..manifest.len()).map(EntryId).filter(|id| is_record(*id) == Some(true));
    let blobs = files.filter_map(|id| match manifest.kind(id) {
        Some(EntryKind::File { blob, .. }) => Some(blob),
        _ => None,
    });
    blobs.collect()
}

/// How many crates cargo knows in the folders of a profile, and how many of them it has begun to compile since a moment, in nanoseconds
/// since the epoch.
///
/// # Errors
/// What the system says.
pub fn compiled_since(target: &Path, profile: &str, since_ns: i64) -> anyhow::Result<(u64, u64)> {
    let (mut all, mut compiled) = (0, 0);
    for folder in folders(target, profile)? {
        for unit in folders_in(&target.join(folder).join(FINGERPRINTS))? {
            let Ok(stat) = unit.join(INVOKED).symlink_metadata() else { continue };
            let mtime_ns = stat.mtime().saturating_mul(1_000_000_000) + stat.mtime_nsec();
            all += 1;
            compiled += u64::from(mtime_ns >= since_ns);
        }
    }
    Ok((all, compiled))
}

/// Returns the folders of a profile: that of the host, and those of targets.
fn folders(target: &Path, profile: &str) -> anyhow::Result<Vec<String>> {
    let has = |folder: &str| target.join(folder).join(FINGERPRINTS).is_dir();
    let mut found = Vec::new();
    if has(profile) {
        found.push(profile.to_owned());
    }
    let Ok(listed) = fs::read_dir(target) else { return Ok(found) };
    for entry in listed {
        let entry = entry?;
        if let Some(name) = entry.file_name().to_str()
            && entry.file_type()?.is_dir()
            && has(&format!("{name}/{profile}"))
        {
            found.push(format!("{name}/{profile}"));
        }
    }
    found.sort();
    Ok(found)
}

/// Tells whether nothing of a profile is there.
///
/// # Errors
/// What the system says.
pub fn is_missing(target: &Path, profile: &str) -> anyhow::Result<bool> {
    Ok(!target.join(profile).exists() && folders(target, profile)?.is_empty())
}

/// Keeps cargo from changing a folder; `None` where it does so now.
fn lock(folder: &Path) -> Option<File> {
    let file = File::open(folder.join(LOCK)).or_else(|_| File::open(folder)).ok()?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).ok()?;
    Some(file)
}

/// Makes the folder of all that cargo makes, as cargo does.
fn make_target(target: &Path, rustc_info: Option<&str>) -> anyhow::Result<()> {
    let made = |path: &Path| format!("could not make `{}`", path.display());
    if !target.exists() {
        fs::create_dir_all(target).with_context(|| made(target))?;
        if rustc_info.is_some() {
            fs::write(target.join(TAG), TAG_TEXT).with_context(|| made(&target.join(TAG)))?;
        }
    }
    let path = target.join(RUSTC_INFO);
    if let Some(text) = rustc_info
        && !path.exists()
    {
        fs::write(&path, text).with_context(|| made(&path))?;
    }
    Ok(())
}

/// Takes a folder into the store, of which only what has changed is read where it was taken in or written before; tells by how many
/// bytes the store grew.
fn take_folder(
    means: Means<'_>,
    folder: &Path,
    hashes: Option<&Hashes>,
) -> anyhow::Result<(TreeHash, u64)> {
    let Means { store, options, .. } = means;
    let known = match store.projection(folder)? {
        Some(known) => store.open_shown(known.tree)?.map(|tree| (known, tree)),
        None => None,
    };
    let is_mounted = known.as_ref().is_some_and(|(known, _)| known.shown_as.has_state());
    let mut kept = HashMap::new();
    let begun_ns = now_ns() - TICK_NS;
    if let Some((known, tree)) = &known {
        let found = match is_mounted {
            true => mount::differences(store, tree, known)?,
            false => compare::compare(tree, known, options.threads)?,
        };
        // A no-op links what it makes anew, and so touches folders; and it writes what a makefile would read.
        let manifest = tree.manifest();
        let is_for_make = |id: &EntryId| {
            manifest.parent(*id) == Some(EntryId::ROOT)
                && manifest.name(*id).is_some_and(|name| name.ends_with(b".d"))
        };
        let is_same = found.changed.iter().all(is_for_make) && found.extra.is_empty();
        if is_same && !is_mounted {
            let done_ns = known.done_ns.max(begun_ns);
            store.set_projection(&Projection { done_ns, ..known.clone() })?;
        }
        if is_same {
            return Ok((known.tree, 0));
        }
        kept = unchanged(tree, &found, is_mounted);
    }
    let (built, index, added_bytes) = read(store, folder, (options.threads, hashes), kept)?;
    store.publish_located(&built, &index)?;
    if is_mounted {
        // It goes on to show the tree that it did, with what was changed.
        return Ok((built.hash, added_bytes));
    }
    let tree = store.open_tree(built.hash)?.context("a tree is gone that was just kept")?;
    let options = Options { umask: 0, ..options };
    let mut projection = Projection::seal(&Writer::new(&tree, options), folder)?;
    projection.umask = means.options.umask;
    // What was changed since it was read is looked at by its content.
    projection.done_ns = projection.done_ns.min(begun_ns);
    store.set_projection(&projection)?;
    drop(index);
    Ok((built.hash, added_bytes))
}

/// A file that is as the store has it: its mtime, and what it is.
type Kept = HashMap<Vec<u8>, (i64, Item, Xattrs)>;

/// Returns the files of a tree that do not differ from it. In a mounted one, folders that do may hold such files.
fn unchanged(tree: &OpenTree, found: &Differences, is_mounted: bool) -> Kept {
    let manifest = tree.manifest();
    let changed: BTreeSet<EntryId> = found.changed.iter().copied().collect();
    let mut kept = HashMap::new();
    let mut folders = vec![(EntryId::ROOT, Vec::new())];
    while let Some((folder, path)) = folders.pop() {
        for child in manifest.children(folder) {
            let is_folder = matches!(manifest.kind(child), Some(EntryKind::Directory { .. }));
            if changed.contains(&child) && !(is_mounted && is_folder) {
                continue;
            }
            let mut below = path.clone();
            if !below.is_empty() {
                below.push(b'/');
            }
            below.extend_from_slice(manifest.name(child).unwrap_or_default());
            match manifest.kind(child) {
                Some(EntryKind::Directory { .. }) => folders.push((child, below)),
                Some(EntryKind::File { blob, size, .. }) => {
                    let permissions = manifest.mode(child).unwrap_or(0o644) & 0o7777;
                    if let (Some(hash), Some(mtime_ns)) =
                        (manifest.blob_hash(blob), manifest.mtime_ns(child))
                    {
                        let xattrs = manifest.xattrs(child);
                        let xattrs = xattrs.map(|(name, value)| (name.to_vec(), value.to_vec()));
                        let item = Item::File { permissions, size, hash };
                        kept.insert(below, (mtime_ns, item, xattrs.collect()));
                    }
                }
                _ => {}
            }
        }
    }
    kept
}

/// Reads a folder into the store, but for what is kept of it; tells by how many bytes the store grew.
fn read(
    store: &Store,
    folder: &Path,
    (threads, hashes): (usize, Option<&Hashes>),
    kept: Kept,
) -> anyhow::Result<(Built, BlobIndex, u64)> {
    let import = store.import()?;
    let skip = |path: &[u8]| kept.contains_key(path);
    let options = ingest::Options { threads, skip: &skip, without_secrets: false, hashes };
    let entries = ingest::directory_with(&import, folder, options)?.entries;
    let mut builder = Builder::new();
    for entry in entries {
        builder.put_with_xattrs(&entry.path, entry.mtime_ns, entry.item, entry.xattrs)?;
    }
    for (path, (mtime_ns, item, xattrs)) in kept {
        builder.put_with_xattrs(&path, mtime_ns, item, xattrs)?;
    }
    let built = builder.finish()?;
    // gc waits while the index lives.
    let (imported, index) = import.finish(&[])?;
    Ok((built, index, imported.bytes()))
}

/// Returns the name of the package in a folder; nothing for a workspace alone.
fn package_name(folder: &Path) -> Option<String> {
    let text = fs::read_to_string(folder.join("Cargo.toml")).ok()?;
    let manifest: toml::Table = text.parse().ok()?;
    Some(manifest.get("package")?.get("name")?.as_str()?.to_owned())
}

fn listed(folder: &Path, is_wanted: fn(&fs::FileType) -> bool) -> anyhow::Result<Vec<PathBuf>> {
    let Ok(listed) = fs::read_dir(folder) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for entry in listed {
        let entry = entry?;
        if is_wanted(&entry.file_type()?) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

pub(super) fn files_in(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    listed(folder, fs::FileType::is_file)
}

pub(super) fn folders_in(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    listed(folder, fs::FileType::is_dir)
}
