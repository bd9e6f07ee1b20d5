//! Push: a tree goes to a remote, and a ref there comes to mean it.
//!
//! What the ref meant before tells what the remote has: its sidecar names the object of each blob. The other blobs go into
//! packs of their own, in the order of the tree, so nothing of another tree leaves the machine. Which packs these are
//! follows from the tree and from what the remote has, so a push that was interrupted finds its own packs again, by one
//! listing, and sends what is missing. The ref comes last.
//!
//! An object is sent in frames where that saves a tenth of it (see `frames`). One in frames is never replaced: another version of
//! zstd makes other frames, and trees may know the table of those that are there. So it is made only where there is none; else
//! its own table is read, and where there is no right one, the object is sent plain, under its other name.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rift_tree::sidecar::{self, Container, ContainerKind, Location, Stamp};
use rift_tree::{BlobHash, Manifest, TreeHash};

use super::error::{Error, Result};
use super::frames::{self, Frames};
use super::keys::{PrivateKey, TrustedKeys};
use super::places::Places;
use super::present::Present;
use super::pull::Description;
use super::reference::{Base, Located, SignedRef, Statement};
use super::share::open_whole;
use super::{
    AT_ONCE, PARTS_FROM, Progress, Remote, Watch, data_object, manifest_object, patch,
    places_object,
};
use crate::blobs::LOOSE_FROM;
use crate::lock::{lock, unlocked};
use crate::pack::{self, ALIGN, ALIGN_FROM, PACK_BYTES, Packed, PackedKind};
use crate::store::Store;
use crate::tree::{OpenTree, sizes};

/// Packs are held in memory while they are sent.
const PACKS_AT_ONCE: usize = AT_ONCE / 2;
/// How often an object is sent that is not to replace another: clients do not try that again by themselves.
const ATTEMPTS: usize = 2;
/// Manifests and sidecars from this size on are only sent where they are missing.
const LOOK_FIRST_FROM: usize = 1 << 20;
/// Shorter manifests are sent as they are.
const PATCH_FROM: usize = 128 << 10;

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

/// A pack or a large blob: on the remote, or on its way there. Whether its object is in frames is told elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Place {
    name: [u8; 32],
    size: u64,
    is_loose: bool,
}

impl Place {
    fn kind(&self, is_in_frames: bool) -> ContainerKind {
        match (self.is_loose, is_in_frames) {
            (false, false) => ContainerKind::Pack,
            (true, false) => ContainerKind::Loose,
            (false, true) => ContainerKind::PackInFrames,
            (true, true) => ContainerKind::LooseInFrames,
        }
    }

    fn object(&self, is_in_frames: bool) -> String {
        data_object(&self.name, self.kind(is_in_frames))
    }
}

/// The frames of places whose objects are in frames.
type Framed = HashMap<Place, Frames>;

/// What a remote has of a tree: where each blob is.
#[derive(Default)]
struct Known {
    places: HashMap<BlobHash, (Place, u64)>,
    framed: Framed,
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
    let (known, base) = match before {
        Some(before) => known(remote, store, before)?,
        None => (Known::default(), None),
    };
    let mut shipment = Shipment::plan(remote, &blobs, known)?;
    shipment.send(remote, &opened, watch)?;
    let mut places = shipment.places(&opened, &blobs)?;
    let manifest = opened.manifest().as_bytes();
    let patched = base.map(|base| base.patch(remote, manifest)).transpose()?.flatten();
    let base = patched.map(|(base, mut patch)| {
        places.append(&mut patch);
        base
    });
    let at = Located {
        tree,
        manifest_bytes: manifest.len() as u64,
        places: *blake3::hash(&places).as_bytes(),
        places_bytes: places.len() as u64,
        base,
    };
    let object = manifest_object(tree);
    // The object of a base was seen.
    let is_there = || -> Result<bool> {
        Ok(base.is_some() || remote.length(&object)? == Some(at.manifest_bytes))
    };
    if shipment.missing.is_empty() && before == Some(&at) && is_there()? {
        return Ok((at, Pushed { was_there: true, blobs: 0, objects: 0 }));
    }
    if base.is_none() {
        send_named(remote, &object, manifest.to_vec())?;
    }
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

/// A manifest on the remote that a new one may be a patch of.
struct Patchable {
    object: Base,
    manifest: Vec<u8>,
}

impl Patchable {
    /// Returns what makes a manifest of this one, where that pays and the remote has it.
    fn patch(self, remote: &Remote, manifest: &[u8]) -> Result<Option<(Base, Vec<u8>)>> {
        let object = manifest_object(self.object.tree);
        if manifest.len() < PATCH_FROM || manifest == self.manifest {
            return Ok(None);
        }
        let patch = patch::make(manifest, &self.manifest);
        let Some(patch) = patch.map_err(|source| Error::Setup {
            action: "compress the manifest",
            reason: source.to_string(),
        })?
        else {
            return Ok(None);
        };
        let is_there = remote.length(&object)? == Some(self.object.manifest_bytes);
        Ok(is_there.then_some((self.object, patch)))
    }
}

/// Returns where the blobs of the tree are that a ref meant before, and what its manifest is a patch of; nothing when the remote has
/// lost its record.
fn known(remote: &Remote, store: &Store, before: &Located) -> Result<(Known, Option<Patchable>)> {
    let local = store.map_manifest(before.tree).ok().flatten();
    let read = match local {
        Some(local) => remote.places(before).map(|places| {
            let manifest = local.to_vec();
            Description { manifest, places, base: None }
        }),
        None => remote.description(before, Some(store)),
    };
    let Description { manifest: bytes, places, base } = match read {
        Ok(read) => read,
        Err(Error::Missing { .. } | Error::Wrong { .. }) => return Ok((Known::default(), None)),
        Err(error) => return Err(error),
    };
    let known = places_of(&bytes, &places);
    let object = before.object();
    let manifest = match (before.base, base) {
        (None, _) => Some(bytes),
        (Some(_), Some(base)) => Some(base),
        // Without it the next one is a base of its own.
        (Some(base), None) => match store.map_manifest(base.tree) {
            Ok(Some(local)) => Some(local.to_vec()),
            Ok(None) | Err(_) => remote.manifest(&base).ok(),
        },
    };
    Ok((known, manifest.map(|manifest| Patchable { object, manifest })))
}

/// Returns where a remote has the blobs of a manifest.
fn places_of(manifest: &[u8], places: &[u8]) -> Known {
    let mut known = Known::default();
    let (Ok(manifest), Ok(places)) = (Manifest::parse(manifest), Places::parse(places)) else {
        return known;
    };
    let sidecar = &places.sidecar;
    let place = |Container { name, stamp, kind }| Place {
        name,
        size: stamp.size,
        is_loose: ContainerKind::is_loose(kind),
    };
    for number in 0..sidecar.container_count() {
        if let (Some(container), Some(frames)) = (sidecar.container(number), places.frames(number))
        {
            known.framed.insert(place(container), frames.clone());
        }
    }
    for number in 0..manifest.blob_count().min(sidecar.blob_count()) {
        let (Some(hash), Some(at)) = (manifest.blob_hash(number), sidecar.location(number)) else {
            continue;
        };
        if let Some(container) = sidecar.container(at.container) {
            known.places.insert(hash, (place(container), at.offset));
        }
    }
    known
}

/// What goes to the remote, and where each blob of the tree is afterwards.
struct Shipment {
    places: HashMap<BlobHash, (Place, u64)>,
    framed: Framed,
    missing: Vec<Parcel>,
}

impl Shipment {
    fn plan(remote: &Remote, blobs: &[Blob], known: Known) -> Result<Self> {
        let Known { places: mut known, mut framed } = known;
        let wanted: HashSet<BlobHash> = blobs.iter().map(|blob| blob.hash).collect();
        known.retain(|hash, _| wanted.contains(hash));
        let parcels = parcels(blobs, &known);
        let used: HashSet<Place> = known.values().map(|(place, _)| *place).collect();
        let mut present = Present::new(remote, used.len() + parcels.len());
        let mut there = HashSet::new();
        for place in &used {
            let frames = framed.get(place);
            let length = frames.map_or(place.size, Frames::object_bytes);
            if present.length(&place.object(frames.is_some()))? == Some(length) {
                there.insert(*place);
            }
        }
        // What an interrupted push has left, or another tree.
        for Parcel { place, .. } in &parcels {
            let length = present.length(&place.object(true))?;
            let frames = length.map(|length| remote.frames(place, length)).transpose()?.flatten();
            if let Some(frames) = frames {
                framed.insert(*place, frames);
                there.insert(*place);
            } else if present.length(&place.object(false))? == Some(place.size) {
                framed.remove(place);
                there.insert(*place);
            }
        }
        let before = known.len();
        known.retain(|_, (place, _)| there.contains(place));
        let parcels = match known.len() == before {
            true => parcels,
            // Objects that a tree needs are gone: their blobs are sent anew.
            false => self::parcels(blobs, &known),
        };
        framed.retain(|place, _| there.contains(place));
        let mut places = known;
        for parcel in &parcels {
            places.extend(parcel.blobs.iter().map(|(blob, at)| (blob.hash, (parcel.place, *at))));
        }
        let missing = parcels.into_iter().filter(|parcel| !there.contains(&parcel.place)).collect();
        Ok(Self { places, framed, missing })
    }

    /// Sends what is missing, several objects at once.
    fn send(&mut self, remote: &Remote, tree: &OpenTree, watch: Watch<'_>) -> Result<()> {
        let total_bytes = self.missing.iter().map(|parcel| parcel.place.size).sum();
        let done_bytes = AtomicU64::new(0);
        let tell = |bytes: u64| {
            let done_bytes = done_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
            watch(Progress { done_bytes, total_bytes });
        };
        let queue: Mutex<VecDeque<&Parcel>> = Mutex::new(self.missing.iter().collect());
        let next = || lock(&queue).pop_front();
        let framed = Mutex::new(std::mem::take(&mut self.framed));
        let work = || {
            while let Some(parcel) = next() {
                match send_parcel(remote, tree, parcel, &tell) {
                    Ok(None) => {}
                    Ok(Some(frames)) => {
                        let mut framed = lock(&framed);
                        framed.insert(parcel.place, frames);
                    }
                    Err(error) => {
                        lock(&queue).clear();
                        return Err(error);
                    }
                }
            }
            Ok(())
        };
        let sent = std::thread::scope(|scope| {
            let count = self.missing.len().min(PACKS_AT_ONCE);
            let workers: Vec<_> = (0..count).map(|_| scope.spawn(work)).collect();
            let ends = workers.into_iter().map(|worker| {
                worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            // All of them, so that none is left behind.
            ends.collect::<Vec<Result<()>>>().into_iter().collect()
        });
        self.framed = unlocked(framed);
        sent
    }

    /// Returns the places of the tree on the remote.
    fn places(&self, tree: &OpenTree, blobs: &[Blob]) -> Result<Vec<u8>> {
        let mut containers: Vec<Container> = Vec::new();
        let mut numbers: HashMap<Place, u32> = HashMap::new();
        let mut locations = Vec::with_capacity(blobs.len());
        let mut tables = Vec::new();
        for blob in blobs {
            let (place, offset) = *self.places.get(&blob.hash).ok_or_else(|| lost(tree))?;
            let next = containers.len() as u32;
            let container = *numbers.entry(place).or_insert(next);
            if container == next {
                let frames = self.framed.get(&place);
                tables.extend(frames.into_iter().flat_map(Frames::encode));
                let Place { name, size, .. } = place;
                let stamp = Stamp { size, ..Stamp::default() };
                containers.push(Container { name, stamp, kind: place.kind(frames.is_some()) });
            }
            locations.push(Location { container, offset });
        }
        let size = tree.manifest().as_bytes().len() as u64;
        let stamp = Stamp { size, ..Stamp::default() };
        let written = sidecar::write(tree.hash(), stamp, &containers, &locations);
        let path = std::path::PathBuf::from(tree.hash().to_string());
        let mut places = written.map_err(|source| crate::Error::Damaged { path, source })?;
        places.append(&mut tables);
        Ok(places)
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
            let place = Place { name: *blob.hash.as_bytes(), size, is_loose: true };
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
    let place = Place { name: *id.as_bytes(), size, is_loose: false };
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

/// Makes an object of blobs that the store has, each checked, and sends it; returns its frames, if it is in frames.
fn send_parcel(
    remote: &Remote,
    tree: &OpenTree,
    parcel: &Parcel,
    tell: &dyn Fn(u64),
) -> Result<Option<Frames>> {
    let place = &parcel.place;
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
    if place.is_loose {
        let Some((blob, _)) = parcel.blobs.first() else {
            return Ok(None);
        };
        let bytes = checked(blob)?;
        if let Some(frames) = send_frames(remote, place, bytes, std::iter::empty())? {
            tell(place.size);
            return Ok(Some(frames));
        }
        if place.size >= PARTS_FROM {
            remote.put_parts(&place.object(false), bytes, tell)?;
            return Ok(None);
        }
        remote.put(&place.object(false), bytes.to_vec())?;
        tell(place.size);
        return Ok(None);
    }
    let mut bytes = pack::header().to_vec();
    for (blob, offset) in &parcel.blobs {
        // Below two times PACK_BYTES.
        bytes.resize(*offset as usize, 0);
        bytes.extend_from_slice(checked(blob)?);
    }
    let end = bytes.len() as u64;
    let (footer, _) = pack::footer(&entries(&parcel.blobs), end);
    bytes.extend_from_slice(&footer);
    let pieces = parcel.blobs.iter().map(|(blob, offset)| (*offset, blob.size));
    let pieces = pieces.chain([(end, footer.len() as u64)]);
    let frames = send_frames(remote, place, &bytes, pieces)?;
    if frames.is_none() {
        remote.put(&place.object(false), bytes)?;
    }
    tell(place.size);
    Ok(frames)
}

/// Sends an object in frames; `None` where that does not pay, and where one is there that is no good.
fn send_frames(
    remote: &Remote,
    place: &Place,
    bytes: &[u8],
    pieces: impl Iterator<Item = (u64, u64)>,
) -> Result<Option<Frames>> {
    // What is longer is sent in parts, which can't be told not to replace anything.
    let Some((compressed, frames)) = frames::compress(bytes, pieces, PARTS_FROM)? else {
        return Ok(None);
    };
    let compressed = Bytes::from(compressed);
    let object = place.object(true);
    let mut attempt = 1;
    loop {
        match remote.create(&object, compressed.clone()) {
            Ok(true) => return Ok(Some(frames)),
            // Somebody was faster, or an attempt whose answer was lost.
            Ok(false) => {
                let length = remote.length(&object)?.unwrap_or_default();
                return remote.frames(place, length);
            }
            Err(error) if attempt < ATTEMPTS && error.is_passing() => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}

impl Remote {
    /// Reads the table at the end of an object in frames; `None` where it has none that is right.
    fn frames(&self, place: &Place, length: u64) -> Result<Option<Frames>> {
        let object = place.object(true);
        let start = length.saturating_sub(frames::tail_bytes(place.size));
        let mut tail = Vec::new();
        let range = Some(start..length).filter(|range| !range.is_empty());
        let Some(range) = range else { return Ok(None) };
        let read = self.read(&object, Some(range), length - start, &mut |chunk| {
            tail.extend_from_slice(chunk);
            Ok(())
        });
        match read {
            Ok(_) => Ok(Frames::at_end(&tail, length, place.size)),
            Err(Error::Missing { .. } | Error::Wrong { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
