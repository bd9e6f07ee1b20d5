//! Push: a tree goes to a remote, and a ref there comes to mean it.
//!
//! What the ref meant before tells what the remote has: its sidecar names the object of each blob. The other blobs go into
//! packs of their own, in the order of the tree, so nothing of another tree leaves the machine. Which packs these are
//! follows from the tree and from what the remote has, so a push that was interrupted finds its own packs again, by one
//! listing, and sends what is missing. The ref comes last.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rift_tree::sidecar::{self, Container, ContainerKind, Location, Sidecar, Stamp};
use rift_tree::{BlobHash, Manifest, TreeHash};

use super::error::{Error, Result};
use super::keys::{PrivateKey, TrustedKeys};
use super::reference::{Located, SignedRef, Statement};
use super::share::open_whole;
use super::{AT_ONCE, PARTS_FROM, Progress, Remote, Watch, data_object, places_object};
use crate::blobs::LOOSE_FROM;
use crate::pack::{self, ALIGN, ALIGN_FROM, PACK_BYTES, Packed, PackedKind};
use crate::store::Store;
use crate::tree::{OpenTree, sizes};

/// Packs are held in memory while they are sent.
const PACKS_AT_ONCE: usize = AT_ONCE / 2;
/// Manifests and sidecars from this size on are only sent where they are missing.
const LOOK_FIRST_FROM: usize = 1 << 20;

/// What a push did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pushed {
    /// Whether the ref meant this tree already, and all of it was there.
    pub was_there: bool,
    /// Blobs that the remote did not have.
    pub blobs: usize,
    /// Objects that were sent with them.
    pub objects: usize,
}

/// A blob of the tree, by its number in the manifest.
#[derive(Debug, Clone, Copy)]
struct Blob {
    number: u32,
    hash: BlobHash,
    size: u64,
}

/// An object that holds blobs: on the remote, or on its way there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Place {
    name: [u8; 32],
    size: u64,
    kind: ContainerKind,
}

impl Place {
    fn object(&self) -> (String, u64) {
        (data_object(&self.name, self.kind), self.size)
    }
}

/// An object to make, with its blobs and where each begins.
struct Parcel {
    place: Place,
    blobs: Vec<(Blob, u64)>,
}

/// Sends a tree that the store has, and makes the remote's ref `name` mean it, signed by `key`.
///
/// # Errors
/// [`Error::ReadOnly`]; [`Error::Untrusted`] where the ref there was signed by a key that is not trusted, and is not replaced;
/// [`Error::Changed`] when somebody else was faster; and whatever remote and store say.
pub fn push(
    remote: &Remote,
    store: &Store,
    name: &str,
    tree: TreeHash,
    (key, trusted): (&PrivateKey, &TrustedKeys),
    watch: Watch<'_>,
) -> Result<Pushed> {
    remote.writable()?;
    let (own, above) =
        remote.ask(store, trusted, |remote, trusted| remote.trusted_ref(name, trusted))?;
    let own = own?;
    let is_ours = own.as_ref().is_some_and(|(signed, ..)| signed.key == key.public().key);
    let (before, seen) = match (own, believed(above)?) {
        (Some((signed, _, seen)), _) => (Some(signed.statement.at), Some(seen)),
        (None, above) => (above.map(|(signed, ..)| signed.statement.at), None),
    };
    let (at, pushed) = send_tree(remote, store, tree, before.as_ref(), watch)?;
    // What somebody else has signed is signed anew: their key may go.
    if !pushed.was_there || !is_ours {
        let statement = Statement { name: name.to_owned(), at, time_secs: now_secs() };
        remote.set_signed_ref(&SignedRef::sign(statement, key), seen)?;
    }
    Ok(pushed)
}

/// Returns a ref that only saves bytes: one that is not to be believed is as good as none.
pub(super) fn believed<T>(found: Result<Option<T>>) -> Result<Option<T>> {
    match found {
        Err(error) if error.is_of_stranger() => Ok(None),
        found => found,
    }
}

/// Returns what a ref means in the main part of a namespace.
pub(super) fn before_above(remote: &Remote, name: &str) -> Result<Option<Located>> {
    let (Some(main), Some(trusted)) = (remote.main(), remote.trusted_above()) else {
        return Ok(None);
    };
    let found = believed(main.trusted_ref(name, trusted))?;
    Ok(found.map(|(signed, ..)| signed.statement.at))
}

/// Returns the time, in seconds since the epoch.
pub(super) fn now_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Sends a tree that the store has: what the remote has of `before` is not sent again.
pub(super) fn send_tree(
    remote: &Remote,
    store: &Store,
    tree: TreeHash,
    before: Option<&Located>,
    watch: Watch<'_>,
) -> Result<(Located, Pushed)> {
    let opened = open_whole(store, tree)?;
    let blobs = blobs(&opened)?;
    let known = match before {
        Some(before) => known(remote, store, before)?,
        None => HashMap::new(),
    };
    let shipment = Shipment::plan(remote, &blobs, known)?;
    shipment.send(remote, &opened, watch)?;
    let places = shipment.sidecar(&opened, &blobs)?;
    let at = Located {
        tree,
        manifest_bytes: opened.manifest().as_bytes().len() as u64,
        places: *blake3::hash(&places).as_bytes(),
        places_bytes: places.len() as u64,
    };
    let object = format!("trees/{tree}");
    if shipment.missing.is_empty()
        && before == Some(&at)
        && remote.length(&object)? == Some(at.manifest_bytes)
    {
        return Ok((at, Pushed { was_there: true, blobs: 0, objects: 0 }));
    }
    send_named(remote, &object, opened.manifest().as_bytes().to_vec())?;
    send_named(remote, &places_object(&at.places), places)?;
    let pushed = Pushed {
        was_there: false,
        blobs: shipment.missing.iter().map(|parcel| parcel.blobs.len()).sum(),
        objects: shipment.missing.len(),
    };
    Ok((at, pushed))
}

/// Writes a manifest or a sidecar, a large one only where it is missing.
fn send_named(remote: &Remote, object: &str, bytes: Vec<u8>) -> Result<()> {
    if bytes.len() >= LOOK_FIRST_FROM && remote.length(object)? == Some(bytes.len() as u64) {
        return Ok(());
    }
    remote.put(object, bytes)
}

/// Returns the blobs of a tree that have bytes or not, in its order.
fn blobs(tree: &OpenTree) -> Result<Vec<Blob>> {
    let manifest = tree.manifest();
    let sized = sizes(&manifest).into_iter().enumerate();
    sized
        .map(|(number, size)| {
            // Blobs are numbered by u32.
            let number = number as u32;
            let hash = manifest.blob_hash(number).ok_or_else(|| lost(tree))?;
            Ok(Blob { number, hash, size })
        })
        .collect()
}

fn lost(tree: &OpenTree) -> Error {
    let path = std::path::PathBuf::from(tree.hash().to_string());
    crate::Error::Refused { path, reason: "the tree was cut while it was read" }.into()
}

/// Returns where the blobs of the tree are that a ref meant before; nothing when the remote has lost its record.
fn known(
    remote: &Remote,
    store: &Store,
    before: &Located,
) -> Result<HashMap<BlobHash, (Place, u64)>> {
    let absent = |error: Error| match error {
        Error::Missing { .. } | Error::Wrong { .. } => Ok(None),
        error => Err(error),
    };
    let Some(places) = remote.places(before).map(Some).or_else(absent)? else {
        return Ok(HashMap::new());
    };
    let local = store.map_manifest(before.tree).ok().flatten();
    let fetched = match local {
        Some(_) => None,
        None => remote.manifest(before).map(Some).or_else(absent)?,
    };
    let bytes = local.as_deref().or(fetched.as_deref()).unwrap_or_default();
    let mut known = HashMap::new();
    let (Ok(manifest), Ok(places)) = (Manifest::parse(bytes), Sidecar::parse(&places)) else {
        return Ok(known);
    };
    for number in 0..manifest.blob_count().min(places.blob_count()) {
        let (Some(hash), Some(at)) = (manifest.blob_hash(number), places.location(number)) else {
            continue;
        };
        if let Some(Container { name, stamp, kind }) = places.container(at.container) {
            known.insert(hash, (Place { name, size: stamp.size, kind }, at.offset));
        }
    }
    Ok(known)
}

/// What goes to the remote, and where each blob of the tree is afterwards.
struct Shipment {
    places: HashMap<BlobHash, (Place, u64)>,
    missing: Vec<Parcel>,
}

impl Shipment {
    fn plan(
        remote: &Remote,
        blobs: &[Blob],
        mut known: HashMap<BlobHash, (Place, u64)>,
    ) -> Result<Self> {
        let wanted: HashSet<BlobHash> = blobs.iter().map(|blob| blob.hash).collect();
        known.retain(|hash, _| wanted.contains(hash));
        let parcels = parcels(blobs, &known);
        let mut objects: Vec<(String, u64)> = {
            let used: HashSet<Place> = known.values().map(|(place, _)| *place).collect();
            used.iter()
                .chain(parcels.iter().map(|parcel| &parcel.place))
                .map(Place::object)
                .collect()
        };
        objects.sort();
        objects.dedup();
        let present = remote.present(&objects)?;
        let is_there = |place: &Place| present.contains(&place.object().0);
        let before = known.len();
        known.retain(|_, (place, _)| is_there(place));
        let parcels = match known.len() == before {
            true => parcels,
            // Objects that a tree needs are gone: their blobs are sent anew.
            false => self::parcels(blobs, &known),
        };
        let mut places = known;
        for parcel in &parcels {
            places.extend(parcel.blobs.iter().map(|(blob, at)| (blob.hash, (parcel.place, *at))));
        }
        let missing = parcels.into_iter().filter(|parcel| !is_there(&parcel.place)).collect();
        Ok(Self { places, missing })
    }

    /// Sends what is missing, several objects at once.
    fn send(&self, remote: &Remote, tree: &OpenTree, watch: Watch<'_>) -> Result<()> {
        let total_bytes = self.missing.iter().map(|parcel| parcel.place.size).sum();
        let done_bytes = AtomicU64::new(0);
        let tell = |bytes: u64| {
            let done_bytes = done_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
            watch(Progress { done_bytes, total_bytes });
        };
        let queue: Mutex<VecDeque<&Parcel>> = Mutex::new(self.missing.iter().collect());
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let work = || {
            while let Some(parcel) = next() {
                if let Err(error) = send_parcel(remote, tree, parcel, &tell) {
                    queue.lock().unwrap_or_else(PoisonError::into_inner).clear();
                    return Err(error);
                }
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let count = self.missing.len().min(PACKS_AT_ONCE);
            let workers: Vec<_> = (0..count).map(|_| scope.spawn(work)).collect();
            let ends = workers.into_iter().map(|worker| {
                worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            // All of them, so that none is left behind.
            ends.collect::<Vec<Result<()>>>().into_iter().collect()
        })
    }

    /// Returns the sidecar of the tree on the remote.
    fn sidecar(&self, tree: &OpenTree, blobs: &[Blob]) -> Result<Vec<u8>> {
        let mut containers: Vec<Container> = Vec::new();
        let mut numbers: HashMap<Place, u32> = HashMap::new();
        let mut locations = Vec::with_capacity(blobs.len());
        for blob in blobs {
            let (place, offset) = *self.places.get(&blob.hash).ok_or_else(|| lost(tree))?;
            let next = containers.len() as u32;
            let container = *numbers.entry(place).or_insert(next);
            if container == next {
                let Place { name, size, kind } = place;
                let stamp = Stamp { size, ..Stamp::default() };
                containers.push(Container { name, stamp, kind });
            }
            locations.push(Location { container, offset });
        }
        let size = tree.manifest().as_bytes().len() as u64;
        let stamp = Stamp { size, ..Stamp::default() };
        let written = sidecar::write(tree.hash(), stamp, &containers, &locations);
        let path = std::path::PathBuf::from(tree.hash().to_string());
        written.map_err(|source| crate::Error::Damaged { path, source }.into())
    }
}

/// Lays out the blobs that are not known, as packs in the order of the tree and as large blobs.
fn parcels(blobs: &[Blob], known: &HashMap<BlobHash, (Place, u64)>) -> Vec<Parcel> {
    let (mut packs, mut large) = (Vec::new(), Vec::new());
    let start = pack::header().len() as u64;
    let (mut open, mut end) = (Vec::new(), start);
    for blob in blobs.iter().filter(|blob| !known.contains_key(&blob.hash)) {
        let (blob, size) = (*blob, blob.size);
        if size >= LOOSE_FROM {
            let place = Place { name: *blob.hash.as_bytes(), size, kind: ContainerKind::Loose };
            large.push(Parcel { place, blobs: vec![(blob, 0)] });
            continue;
        }
        if end + size > PACK_BYTES && !open.is_empty() {
            packs.push(pack_parcel(std::mem::take(&mut open), end));
            end = start;
        }
        if size >= ALIGN_FROM as u64 {
            end = end.next_multiple_of(ALIGN as u64);
        }
        open.push((blob, end));
        end += size;
    }
    if !open.is_empty() {
        packs.push(pack_parcel(open, end));
    }
    packs.append(&mut large);
    packs
}

fn pack_parcel(blobs: Vec<(Blob, u64)>, end: u64) -> Parcel {
    let (footer, id) = pack::footer(&entries(&blobs), end);
    let size = end + footer.len() as u64;
    let place = Place { name: *id.as_bytes(), size, kind: ContainerKind::Pack };
    Parcel { place, blobs }
}

fn entries(blobs: &[(Blob, u64)]) -> Vec<Packed> {
    let entry = |(blob, offset): &(Blob, u64)| Packed {
        hash: *blob.hash.as_bytes(),
        offset: *offset,
        length: blob.size,
        kind: PackedKind::Blob,
    };
    blobs.iter().map(entry).collect()
}

/// Makes an object of blobs that the store has, each checked, and sends it.
fn send_parcel(
    remote: &Remote,
    tree: &OpenTree,
    parcel: &Parcel,
    tell: &dyn Fn(u64),
) -> Result<()> {
    let (object, size) = parcel.place.object();
    let sidecar = tree.sidecar();
    let checked = |blob: &Blob| -> Result<&[u8]> {
        let missing = crate::Error::MissingBlob { hash: blob.hash };
        let bytes = tree.bytes(&sidecar, blob.number, blob.size).ok_or(missing)?;
        let actual = BlobHash::from_bytes(*blake3::hash(bytes).as_bytes());
        match actual == blob.hash {
            true => Ok(bytes),
            false => {
                let path = tree.container_files().first().cloned().unwrap_or_default();
                Err(crate::Error::HashMismatch { expected: blob.hash, actual, path }.into())
            }
        }
    };
    if parcel.place.kind == ContainerKind::Loose {
        let Some((blob, _)) = parcel.blobs.first() else {
            return Ok(());
        };
        let bytes = checked(blob)?;
        if size >= PARTS_FROM {
            return remote.put_parts(&object, bytes, tell);
        }
        remote.put(&object, bytes.to_vec())?;
    } else {
        let mut bytes = pack::header().to_vec();
        for (blob, offset) in &parcel.blobs {
            // Below two times PACK_BYTES.
            bytes.resize(*offset as usize, 0);
            bytes.extend_from_slice(checked(blob)?);
        }
        let (footer, _) = pack::footer(&entries(&parcel.blobs), bytes.len() as u64);
        bytes.extend_from_slice(&footer);
        remote.put(&object, bytes)?;
    }
    tell(size);
    Ok(())
}
