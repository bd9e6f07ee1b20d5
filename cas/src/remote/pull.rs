//! Pull: a ref of a remote, and the tree that it means, come into the store.
//!
//! The signed ref names manifest and sidecar by their hashes, so three requests tell all about a tree of any size. Then each
//! object that holds bytes which the store lacks is read once, in the ranges that are needed; a range goes over gaps that
//! cost less than another request. Each blob is hashed before the store takes it in. What arrived stays when a
//! pull fails, so the next one asks for less.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rift_tree::builder::Built;
use rift_tree::{BlobHash, Manifest, TreeHash};

use super::error::{Error, Result};
use super::keys::{NamedKey, TrustedKeys};
use super::places::{Object, Places};
use super::reference::{Base, Located};
use super::{AT_ONCE, Progress, Remote, Watch, manifest_object, patch, places_object};
use crate::blobs::{BlobIndex, LOOSE_FROM};
use crate::import::{Import, Unit};
use crate::pack::PackedKind;
use crate::store::Store;
use crate::tree::{check_manifest, sizes};

/// Bytes between two wanted blobs that are read along: less than what another request costs in time, at 90 MB/s and 20 ms
/// divided by what is moved at once.
const GAP_MAX: u64 = 256 << 10;
/// How often an object is read before its remote is given up.
const ATTEMPTS: usize = 2;

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

/// A blob that is wanted of an object.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) offset: u64,
    pub(super) size: u64,
    pub(super) hash: BlobHash,
}

/// An object with what is wanted of it, in the order of the offsets.
pub(super) struct Job {
    pub(super) object: Object,
    pub(super) wanted: Vec<Wanted>,
}

impl Job {
    /// Returns about how many bytes come for it; what is wanted is in order.
    fn sent_bytes(&self) -> u64 {
        let (Some(first), Some(last)) = (self.wanted.first(), self.wanted.last()) else { return 0 };
        let sent = self.object.sent(&(first.offset..last.offset.saturating_add(last.size)));
        sent.end - sent.start
    }
}

/// Brings what ref `name` means into the store, as much of it as `extent` says, and makes the store's ref of that name mean it.
///
/// # Errors
/// [`Error::NoRef`]; [`Error::Untrusted`] and [`Error::Signature`] where the ref is not to be believed; [`Error::Wrong`] for other bytes
/// than the ref's hashes name; and whatever remote and store say.
pub fn pull(
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
    if fetched.is_some() || store.get_ref(name)? != Some(tree) {
        store.set_ref(name, tree)?;
    }
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
        let object = || objects.object(location.container, &container);
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

/// Reads all objects, several at once.
fn fetch(remote: &Remote, import: &Import<'_>, jobs: Vec<Job>, watch: Watch<'_>) -> Result<()> {
    let sizes = jobs.iter().flat_map(|job| &job.wanted).map(|wanted| wanted.size);
    let total_bytes = sizes.fold(0, u64::saturating_add);
    let done_bytes = AtomicU64::new(0);
    let tell = |bytes: u64| {
        let done_bytes = done_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        watch(Progress { done_bytes, total_bytes });
    };
    let workers = jobs.len().min(AT_ONCE);
    let queue = Mutex::new(VecDeque::from(jobs));
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let stop = || queue.lock().unwrap_or_else(PoisonError::into_inner).clear();
    let work = || {
        let mut unit = import.unit();
        while let Some(job) = next() {
            let taken = take_object(remote, &mut unit, &job, &tell);
            if taken.is_err() {
                stop();
                unit.abandon();
                unit.flush()?;
                return taken;
            }
        }
        unit.flush()?;
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let ends = workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        // All of them, so that none is left behind.
        ends.collect::<Vec<Result<()>>>().into_iter().collect()
    })
}

/// Reads what is wanted of one object, again where that may help.
fn take_object(remote: &Remote, unit: &mut Unit<'_>, job: &Job, tell: &dyn Fn(u64)) -> Result<()> {
    let mut done = 0;
    let mut attempt = 1;
    while done < job.wanted.len() {
        match take_run(remote, unit, job, &mut done, tell) {
            Ok(()) => {}
            Err(error) if attempt < ATTEMPTS && error.is_passing() => attempt += 1,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Returns how many of the blobs one request brings, and the bytes that it reads of what the object holds.
fn run(object: &Object, wanted: &[Wanted]) -> (usize, Range<u64>) {
    let Some(first) = wanted.first() else {
        return (0, 0..0);
    };
    let mut range = first.offset..first.offset + first.size;
    let mut count = 1;
    for next in &wanted[1..] {
        let bytes = next.offset..next.offset + next.size;
        let gap = object.sent(&bytes).start.saturating_sub(object.sent(&range).end);
        if next.offset < range.end || gap > GAP_MAX {
            break;
        }
        range.end = next.offset + next.size;
        count += 1;
    }
    (count, range)
}

/// Reads one range, and gives what it holds to the store; `done` counts the blobs that the store took.
fn take_run(
    remote: &Remote,
    unit: &mut Unit<'_>,
    job: &Job,
    done: &mut usize,
    tell: &dyn Fn(u64),
) -> Result<()> {
    let wrong = |reason: String| Error::Wrong { object: job.object.name.clone(), reason };
    let (count, range) = run(&job.object, &job.wanted[*done..]);
    let last = *done + count;
    let mut is_begun = false;
    let mut hasher = blake3::Hasher::new();
    let mut take = |mut at: u64, mut chunk: &[u8]| -> Result<()> {
        while *done < last {
            let wanted = job.wanted[*done];
            let skipped = wanted.offset.saturating_sub(at).min(chunk.len() as u64);
            // At most the length of the chunk.
            chunk = &chunk[skipped as usize..];
            at += skipped;
            if at < wanted.offset {
                return Ok(());
            }
            if !is_begun {
                unit.begin(wanted.size)?;
                hasher.reset();
                is_begun = true;
            }
            let end = wanted.offset + wanted.size;
            // At most the length of the chunk.
            let (part, rest) = chunk.split_at((end - at).min(chunk.len() as u64) as usize);
            hasher.update(part);
            unit.write(part)?;
            at += part.len() as u64;
            chunk = rest;
            if at < end {
                return Ok(());
            }
            is_begun = false;
            let actual = BlobHash::from_bytes(*hasher.finalize().as_bytes());
            if actual != wanted.hash {
                unit.abandon();
                return Err(wrong(format!("bytes of {} hash to {actual}", wanted.hash)));
            }
            unit.end()?;
            *done += 1;
            tell(wanted.size);
        }
        Ok(())
    };
    if range.is_empty() {
        // Blobs without bytes are nowhere.
        return take(range.start, &[]);
    }
    let read = job.object.read(remote, &range, &mut take);
    unit.abandon();
    // What comes after what was wanted does no harm.
    match *done == last {
        true => Ok(()),
        false => read.and(Err(wrong("it ends too early".to_owned()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_goes_over_small_gaps_only() {
        let hash = BlobHash::from_bytes([0; 32]);
        let object = Object { name: String::new(), size: 1 << 30, frames: None };
        let wanted = |list: &[(u64, u64)]| -> Vec<Wanted> {
            list.iter()
                .map(|(offset, size)| Wanted { offset: *offset, size: *size, hash })
                .collect()
        };
        let far = 64 + 10 + GAP_MAX;
        for (list, count, range) in [
            (&[][..], 0, 0..0),
            (&[(64, 10)], 1, 64..74),
            (&[(64, 10), (74, 5)], 2, 64..79),
            (&[(64, 10), (far, 5)], 2, 64..far + 5),
            (&[(64, 10), (far + 1, 5)], 1, 64..74),
            (&[(64, 10), (70, 5)], 1, 64..74),
            (&[(64, 0), (64, 5)], 2, 64..69),
        ] {
            assert_eq!(run(&object, &wanted(list)), (count, range), "{list:?}");
        }
    }
}
