//! Pull: a ref of a remote, and the tree that it means, come into the store.
//!
//! The signed ref names manifest and sidecar by their hashes, so three requests tell all about a tree of any size. Then each
//! object that holds bytes which the store lacks is read once, in the ranges that are needed; a range goes over gaps that
//! cost less than another request. Each blob is hashed before the store takes it in. What arrived stays when a
//! pull fails, so the next one asks for less.

use std::cmp::Reverse;
use std::sync::Arc;

use rift_tree::builder::Built;
use rift_tree::{BlobHash, Manifest, TreeHash};

use super::error::{Error, Result};
use super::fetch::{Job, Wanted, fetch};
use super::keys::{NamedKey, TrustedKeys};
use super::places::Places;
use super::reference::{Base, Located};
use super::{Remote, Watch, manifest_object, patch, places_object};
use crate::blobs::{BlobIndex, LOOSE_FROM};
use crate::import::Import;
use crate::pack::PackedKind;
use crate::store::Store;
use crate::tree::{check_manifest, sizes};

/// What a pull brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// The tree that the ref means.
    pub tree: TreeHash,
    /// Who signed the ref.
    pub signer: NamedKey,
    /// When, in seconds since the epoch.
    pub time_secs: u64,
    /// Whether the store had the tree already.
    pub was_here: bool,
    /// The part of the remote that had the ref.
    pub from: String,
    /// Blobs that the store lacked.
    pub blobs: usize,
}

/// Brings what ref `name` means into the store, as much of it as `extent` says, and makes the store's ref of that name mean it.
///
/// # Errors
/// As [`bring`].
pub fn pull(
    remote: &Remote,
    store: &Store,
    (name, extent): (&str, Extent),
    trusted: &TrustedKeys,
    watch: Watch<'_>,
) -> Result<Pulled> {
    let pulled = bring(remote, store, (name, extent), trusted, watch)?;
    if !pulled.was_here || store.get_ref(name)? != Some(pulled.tree) {
        store.set_ref(name, pulled.tree)?;
    }
    Ok(pulled)
}

/// Brings what ref `name` means into the store, as much of it as `extent` says. The caller's next step names it.
///
/// # Errors
/// [`Error::NoRef`]; [`Error::Untrusted`] and [`Error::Signature`] where the ref is not to be believed; [`Error::Wrong`] for other bytes
/// than the ref's hashes name; and whatever remote and store say.
pub fn bring(
    remote: &Remote,
    store: &Store,
    (name, extent): (&str, Extent),
    trusted: &TrustedKeys,
    watch: Watch<'_>,
) -> Result<Pulled> {
    let answers =
        remote.ask(store, trusted, |remote, trusted| remote.trusted_ref(name, trusted))?;
    let ((signed, signer, _), remote) =
        remote.first(answers)?.ok_or_else(|| Error::NoRef { name: name.to_owned() })?;
    let statement = signed.statement;
    let (tree, time_secs) = (statement.at.tree, statement.time_secs);
    let fetched = fetch_tree(remote, store, &statement.at, extent, watch)?;
    let (was_here, blobs) = (fetched.is_none(), fetched.unwrap_or(0));
    let from = remote.address().to_string();
    Ok(Pulled { tree, signer, time_secs, was_here, from, blobs })
}

/// How much of a tree is to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    Whole,
    /// What is needed to show it; its blobs come when somebody needs them, see [`partial`](crate::partial).
    Partial,
}

/// Brings a tree into the store, and returns how many blobs came; `None` when it was there. The caller's next step names it.
pub(super) fn fetch_tree(
    remote: &Remote,
    store: &Store,
    at: &Located,
    extent: Extent,
    watch: Watch<'_>,
) -> Result<Option<usize>> {
    let tree = at.tree;
    if is_whole(store, tree) {
        return Ok(None);
    }
    let Description { manifest, places, .. } = remote.description(at, Some(store))?;
    let import = store.import()?;
    import.index().refuse_purged(tree, &manifest)?;
    if extent == Extent::Partial {
        drop(import);
        store.create_partial(tree, &manifest, &places, remote.address())?;
        return Ok(Some(0));
    }
    let import = match take_arrived(store, &import, tree)? {
        true => {
            import.finish(&[])?;
            store.import()?
        }
        false => import,
    };
    let is_here = |hash, size| has(import.index(), store, hash, size);
    let jobs = jobs(&manifest, &places, is_here)?;
    let blobs = jobs.iter().map(|job| job.wanted.len()).sum();
    let fetched = fetch(remote, &import, jobs, watch);
    // What arrived before a failure was checked, and need not come again.
    let finished = import.finish(&[]);
    fetched?;
    let (_, index) = finished?;
    store.publish_located(&Built { hash: tree, bytes: manifest }, &index)?;
    Ok(Some(blobs))
}

/// Takes over what has arrived of a tree that was partial so far; tells whether there was anything.
fn take_arrived(store: &Store, import: &Import<'_>, tree: TreeHash) -> Result<bool> {
    let Ok(Some(opened)) = store.open_partial(tree) else { return Ok(false) };
    let Some(arrivals) = opened.partial().and_then(|partial| partial.arrivals()) else {
        return Ok(false);
    };
    let (manifest, sidecar) = (opened.manifest(), opened.sidecar());
    let mut unit = import.unit();
    let mut has_any = false;
    for (blob, size) in (0..).zip(sizes(&manifest)) {
        let Some(hash) = manifest.blob_hash(blob) else { continue };
        if size == 0 || !arrivals.has(blob) || has(import.index(), store, hash, size) {
            continue;
        }
        if let Some(bytes) = opened.bytes(&sidecar, blob, size) {
            unit.begin(size)?;
            unit.write(bytes)?;
            unit.end()?;
            has_any = true;
        }
    }
    unit.flush()?;
    Ok(has_any)
}

/// Tells whether the store can show a tree.
fn is_whole(store: &Store, tree: TreeHash) -> bool {
    matches!(store.open_tree(tree), Ok(Some(_)))
}

impl Remote {
    /// Reads a ref that a trusted key has signed; `None` when there is none.
    pub(super) fn trusted_ref(
        &self,
        name: &str,
        trusted: &TrustedKeys,
    ) -> Result<Option<(super::SignedRef, NamedKey, super::Small)>> {
        let Some((signed, small)) = self.signed_ref(name)? else {
            return Ok(None);
        };
        let (name, key) = (name.to_owned(), signed.key);
        let Some(signer) = trusted.get(&key) else {
            return Err(Error::Untrusted { name, key });
        };
        match signed.is_signed() {
            true => Ok(Some((signed, signer.clone(), small))),
            false => Err(Error::Signature { name, key }),
        }
    }

    /// Reads the manifest of a tree that is an object, checked.
    pub(super) fn manifest(&self, of: &Base) -> Result<Vec<u8>> {
        let hash = of.tree.as_bytes();
        let check = |bytes: &[u8]| check_manifest(bytes, hash).map_err(|error| error.to_string());
        self.whole(&manifest_object(of.tree), of.manifest_bytes, check)
    }

    /// Reads manifest and sidecar of a tree at once, both checked. The base of a patch may be in a store.
    pub(super) fn description(&self, at: &Located, store: Option<&Store>) -> Result<Description> {
        if let (Some(base), Some(store)) = (at.base, store)
            && let Ok(Some(here)) = store.map_manifest(base.tree)
        {
            let (places, mut base) = (self.places(at)?, here.to_vec());
            let manifest = patched(at, &places, &base).or_else(|_| {
                // A file here that is damaged is read there.
                base = self.manifest(&at.object())?;
                patched(at, &places, &base)
            })?;
            return Ok(Description { manifest, places, base: Some(base) });
        }
        let (places, object) = std::thread::scope(|scope| {
            let places = scope.spawn(|| self.places(at));
            let object = self.manifest(&at.object());
            (places.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), object)
        });
        let (object, places) = (object?, places?);
        match at.base {
            None => Ok(Description { manifest: object, places, base: None }),
            Some(_) => {
                let manifest = patched(at, &places, &object)?;
                Ok(Description { manifest, places, base: Some(object) })
            }
        }
    }

    /// Reads the sidecar of a tree, checked.
    pub(super) fn places(&self, at: &Located) -> Result<Vec<u8>> {
        let check = |bytes: &[u8]| {
            if *blake3::hash(bytes).as_bytes() != at.places {
                return Err("its bytes do not have the hash that names it".to_owned());
            }
            let places = Places::parse(bytes).map_err(|error| error.to_string())?;
            if places.sidecar.tree() != at.tree {
                return Err("it is not the sidecar of that tree".to_owned());
            }
            let is_right = places.patch.is_empty() == at.base.is_none();
            is_right
                .then_some(())
                .ok_or_else(|| "it has a patch, or none, against its ref".to_owned())
        };
        self.whole(&places_object(&at.places), at.places_bytes, check)
    }
}

/// What is known of a tree before any of its blobs.
pub(super) struct Description {
    pub(super) manifest: Vec<u8>,
    pub(super) places: Vec<u8>,
    /// The manifest that the tree's own is a patch of.
    pub(super) base: Option<Vec<u8>>,
}

/// Makes the manifest of a tree of its base, and checks it.
fn patched(at: &Located, places: &[u8], base: &[u8]) -> Result<Vec<u8>> {
    let wrong = |reason: String| Error::Wrong { object: places_object(&at.places), reason };
    let patch = Places::parse(places).map_err(|error| wrong(error.to_string()))?.patch;
    let manifest = patch::apply(patch, base, at.manifest_bytes)
        .map_err(|error| wrong(format!("its patch can't be used: {error}")))?;
    check_manifest(&manifest, at.tree.as_bytes()).map_err(|error| wrong(error.to_string()))?;
    Ok(manifest)
}

/// Returns what has to be read of which objects, beside the blobs that are here.
pub(super) fn jobs(
    manifest: &[u8],
    places: &[u8],
    is_here: impl Fn(BlobHash, u64) -> bool,
) -> Result<Vec<Job>> {
    let wrong = |reason: &str| {
        let object = "places".to_owned();
        Error::Wrong { object, reason: reason.to_owned() }
    };
    let manifest = Manifest::parse(manifest).map_err(|_| wrong("the manifest is damaged"))?;
    let objects = Places::parse(places).map_err(|_| wrong("the sidecar is damaged"))?;
    let places = &objects.sidecar;
    if places.blob_count() != manifest.blob_count() {
        return Err(wrong("it has another number of blobs than the manifest"));
    }
    let mut jobs: Vec<Option<Job>> = Vec::new();
    jobs.resize_with(places.container_count() as usize, || None);
    for (blob, size) in sizes(&manifest).into_iter().enumerate() {
        // Blobs are numbered by u32.
        let blob = blob as u32;
        let (Some(hash), Some(location)) = (manifest.blob_hash(blob), places.location(blob)) else {
            return Err(wrong("it does not have all blobs"));
        };
        if is_here(hash, size) {
            continue;
        }
        let Some(container) = places.container(location.container) else {
            return Err(wrong("it names a container that it does not have"));
        };
        let end = location.offset.checked_add(size);
        if end.is_none_or(|end| end > container.stamp.size)
            || container.kind.is_loose() != (size >= LOOSE_FROM)
        {
            return Err(wrong("a blob lies outside its object, or in one of the wrong kind"));
        }
        let object = || Arc::new(objects.object(location.container, &container));
        let job = jobs[location.container as usize]
            .get_or_insert_with(|| Job { object: object(), wanted: Vec::new() });
        job.wanted.push(Wanted { offset: location.offset, size, hash });
    }
    let mut jobs: Vec<Job> = jobs.into_iter().flatten().collect();
    for job in &mut jobs {
        job.wanted.sort_by_key(|wanted| (wanted.offset, wanted.size));
    }
    // What takes longest begins first, so that nobody waits for it at the end.
    jobs.sort_by_key(|job| Reverse(job.sent_bytes()));
    Ok(jobs)
}

/// Tells whether the store has a blob whole.
fn has(index: &BlobIndex, store: &Store, hash: BlobHash, size: u64) -> bool {
    match size >= LOOSE_FROM {
        true => matches!(index.open_loose(store, hash), Ok(Some(stamp)) if stamp.size == size),
        false => index.find(hash.as_bytes(), PackedKind::Blob).is_some(),
    }
}
