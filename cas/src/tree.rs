//! Trees in a store: a manifest file, its location sidecar, and the mapped files its bytes lie in.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, OnceLock};

use rift_tree::builder::{Builder, Built};
use rift_tree::sidecar::{self, Container, ContainerKind, Location, Sidecar, Stamp};
use rift_tree::{BlobHash, FormatError, Kind, Manifest, PackId, TreeHash};

use crate::blobs::{BlobIndex, LOOSE_FROM};
use crate::error::{Error, Result};
use crate::leases::Lease;
use crate::pack::PackedKind;
use crate::partial::Partial;
use crate::store::{Guard, Store, make_folder};
use crate::sys::Mapped;

/// Manifests below this many bytes may lie in packs; larger ones are files.
pub(crate) const PACKED_MANIFEST_MAX: usize = 1 << 20;

/// Checks that `bytes` are the manifest that `hash` names: structure, rules, and every section.
///
/// # Errors
/// What does not hold.
pub(crate) fn check_manifest(bytes: &[u8], hash: &[u8; 32]) -> Result<(), FormatError> {
    let manifest = Manifest::parse(bytes)?;
    check_header(&manifest, hash)?;
    let mut number = 0;
    let mut end = rift_tree::manifest::HASHED_BYTES;
    while let Some((section, expected)) = manifest.section_and_hash(number) {
        if blake3::hash(section).as_bytes() != &expected {
            return Err(FormatError::Checksum { part: "section" });
        }
        // Sections follow each other with zeros between, so that no byte is unaccounted for.
        let start = section.as_ptr().addr() - bytes.as_ptr().addr();
        let gap = bytes.get(end..start).unwrap_or(b"overlap");
        if gap.iter().any(|byte| *byte != 0) {
            return Err(FormatError::Rule { rule: "zeros lie between sections", index: 0 });
        }
        end = start + section.len();
        number += 1;
    }
    if end != bytes.len() {
        return Err(FormatError::Rule { rule: "a manifest ends with its last section", index: 0 });
    }
    manifest.validate()
}

/// Checks header and section table, which the tree hash covers.
pub(crate) fn check_header(manifest: &Manifest<'_>, hash: &[u8; 32]) -> Result<(), FormatError> {
    match blake3::hash(manifest.hashed_bytes()).as_bytes() == hash {
        true => Ok(()),
        false => Err(FormatError::Checksum { part: "header" }),
    }
}

/// What there is of a tree whose files were cut while they were mapped.
struct Nothing {
    manifest: Vec<u8>,
    sidecar: Vec<u8>,
}

static NOTHING: LazyLock<Nothing> = LazyLock::new(Nothing::new);

#[allow(clippy::expect_used, reason = "the same bytes each time, which a test makes and reads")]
impl Nothing {
    fn new() -> Self {
        let built = Builder::new().finish().expect("a tree without entries can be built");
        let stamp = Stamp { size: 0, inode: 0, mtime_ns: 0 };
        let sidecar = sidecar::write(TreeHash::from_bytes([0; 32]), stamp, &[], &[]);
        Self {
            manifest: built.bytes,
            sidecar: sidecar.expect("a sidecar without blobs can be written"),
        }
    }

    fn manifest(&self) -> Manifest<'_> {
        Manifest::parse(&self.manifest).expect("it was built so")
    }

    fn sidecar(&self) -> Sidecar<'_> {
        Sidecar::parse(&self.sidecar).expect("it was written so")
    }
}

/// A file of the store that holds blobs of a tree.
#[derive(Debug)]
struct Holder {
    stamp: Stamp,
    map: OnceLock<Option<Mapped>>,
}

impl Holder {
    fn mapped(map: Mapped) -> Self {
        Self { stamp: map.stamp, map: OnceLock::from(Some(map)) }
    }
}

/// When the files are mapped that hold a tree's blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    AtOnce,
    Needed,
}

/// A tree that can be shown: its manifest, and all its bytes, mapped.
#[derive(Debug)]
pub struct OpenTree {
    hash: TreeHash,
    manifest: Mapped,
    sidecar: Mapped,
    holders: Vec<Holder>,
    container_paths: Vec<PathBuf>,
    manifest_path: PathBuf,
    sidecar_path: PathBuf,
    /// Brings what is not here, where that is not all.
    partial: Option<Arc<Partial>>,
    /// Packs opened for [`OpenTree::read_at`], by their number among the containers.
    packs: Vec<OnceLock<Option<File>>>,
    /// Keeps the tree in the store, where that was asked for.
    lease: Option<Lease>,
    /// Keeps the files as they are that are not mapped yet.
    _guard: Option<Guard>,
}

impl OpenTree {
    fn new(
        store: &Store,
        hash: TreeHash,
        manifest: Mapped,
        (sidecar, holders): (Mapped, Vec<Holder>),
    ) -> Self {
        let packs = holders.iter().map(|_| OnceLock::new()).collect();
        let mut tree = Self {
            hash,
            manifest,
            sidecar,
            holders,
            container_paths: Vec::new(),
            manifest_path: store.tree_path(hash),
            sidecar_path: store.sidecar_path(hash),
            partial: None,
            packs,
            lease: None,
            _guard: None,
        };
        let read = tree.sidecar();
        let listed = (0..read.container_count()).filter_map(|number| read.container(number));
        // Opened by these paths, so each has one.
        let paths = listed.filter_map(|container| store.container_path(&container));
        tree.container_paths = paths.collect();
        tree
    }

    /// Makes a tree of manifest, sidecar and data, and of where these are.
    pub(crate) fn of_partial(
        hash: TreeHash,
        (manifest, sidecar, data): (Mapped, Mapped, Mapped),
        (manifest_path, sidecar_path, data_path): (PathBuf, PathBuf, PathBuf),
        partial: Arc<Partial>,
    ) -> Self {
        Self {
            hash,
            manifest,
            sidecar,
            holders: vec![Holder::mapped(data)],
            container_paths: vec![data_path],
            manifest_path,
            sidecar_path,
            partial: Some(partial),
            packs: vec![OnceLock::new()],
            lease: None,
            _guard: None,
        }
    }

    /// Returns the blobs that have come, where not all have, and are not what they should be.
    pub(crate) fn damaged_arrivals(&self) -> Vec<u32> {
        let (manifest, sidecar) = (self.manifest(), self.sidecar());
        self.partial().map(|partial| partial.damaged(&manifest, &sidecar)).unwrap_or_default()
    }

    /// Returns what brings the blobs that are not here; `None` for a tree that is whole.
    #[must_use]
    pub fn partial(&self) -> Option<&Arc<Partial>> {
        self.partial.as_ref()
    }

    /// Returns where the manifest is.
    #[must_use]
    pub fn manifest_path(&self) -> &Path {
        &self.manifest_path
    }

    /// Returns where the sidecar is.
    #[must_use]
    pub fn sidecar_path(&self) -> &Path {
        &self.sidecar_path
    }

    /// Brings all blobs that are not here; nothing for a tree that is whole.
    ///
    /// # Errors
    /// [`Error::MissingBlob`].
    pub fn fetch_rest(&self) -> Result<()> {
        match &self.partial {
            Some(partial) => partial.fetch_rest(&self.manifest()),
            None => Ok(()),
        }
    }

    /// Copies the manifest and the sidecar into memory: who serves the tree for days must not die of a store file
    /// that somebody cuts.
    ///
    /// # Errors
    /// As [`Mapped::keep`].
    pub fn keep(&self) -> std::io::Result<()> {
        self.manifest.keep()?;
        self.sidecar.keep()
    }

    /// Returns where the store files are that hold the tree's blobs, by their number in the sidecar.
    #[must_use]
    pub fn container_files(&self) -> &[PathBuf] {
        &self.container_paths
    }

    /// Opens a store file of the tree again, to share its bytes; `None` when it is not the same file.
    pub(crate) fn reopen_container(&self, number: usize) -> Option<File> {
        let file = File::open(self.container_paths.get(number)?).ok()?;
        let stamp = crate::sys::stamp(&file).ok()?;
        (stamp == self.holders.get(number)?.stamp).then_some(file)
    }

    /// Tells whether the tree stays in the store while it is open.
    #[must_use]
    pub fn is_leased(&self) -> bool {
        self.lease.is_some()
    }

    /// Returns the tree hash.
    #[must_use]
    pub fn hash(&self) -> TreeHash {
        self.hash
    }

    /// Returns the manifest. One whose file somebody has cut since it was opened has no entries, see [`OpenTree::intact`].
    #[must_use]
    pub fn manifest(&self) -> Manifest<'_> {
        Manifest::parse(&self.manifest).unwrap_or_else(|_| NOTHING.manifest())
    }

    /// Returns the sidecar. One whose file somebody has cut since it was opened has no blobs, see [`OpenTree::intact`].
    #[must_use]
    pub fn sidecar(&self) -> Sidecar<'_> {
        Sidecar::parse(&self.sidecar).unwrap_or_else(|_| NOTHING.sidecar())
    }

    /// Checks that nobody has cut the manifest, or the sidecar, since the tree was opened: what is recorded of a tree
    /// must be of all of it.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn intact(&self) -> Result<()> {
        let read = Manifest::parse(&self.manifest).and_then(|_| Sidecar::parse(&self.sidecar));
        read.map(drop).map_err(Error::damaged(Path::new(&self.hash.to_string())))
    }

    /// Checks every blob against its hash.
    ///
    /// # Errors
    /// [`Error::HashMismatch`], or [`Error::MissingBlob`] where bytes are gone.
    pub fn verify_content(&self) -> Result<()> {
        self.intact()?;
        let (manifest, sidecar) = (self.manifest(), self.sidecar());
        for (blob, size) in sizes(&manifest).into_iter().enumerate() {
            // Blobs are numbered by u32.
            let blob = blob as u32;
            let Some(expected) = manifest.blob_hash(blob) else { continue };
            let missing = Error::MissingBlob { hash: expected };
            let bytes = self.bytes(&sidecar, blob, size).ok_or(missing)?;
            let actual = BlobHash::from_bytes(*blake3::hash(bytes).as_bytes());
            if actual != expected {
                let number = sidecar.location(blob).map_or(0, |location| location.container);
                let path = self.container_paths.get(number as usize).cloned();
                let path = path.unwrap_or_default();
                return Err(Error::HashMismatch { expected, actual, path });
            }
        }
        Ok(())
    }

    /// Reads bytes of blob number `blob` from `offset` on into all of `buffer`, not checked against its hash.
    ///
    /// Unlike [`OpenTree::bytes`] it meets a store file that lost bytes since it was opened with an error.
    /// What is read of a loose blob does not stay in the page cache: who serves it has it cached already.
    ///
    /// # Errors
    /// As pread(2); `UnexpectedEof` when the bytes are not there.
    pub fn read_at(&self, blob: u32, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        use std::os::unix::fs::FileExt as _;
        let gone = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let location = self.sidecar().location(blob).ok_or_else(gone)?;
        let number = location.container as usize;
        let offset = location.offset.checked_add(offset).ok_or_else(gone)?;
        if let Some(partial) = &self.partial {
            partial.wait_for(&self.manifest(), blob).map_err(io::Error::other)?;
            return partial.data.read_exact_at(buffer, offset);
        }
        let kind = self.sidecar().container(location.container).map(|container| container.kind);
        if kind == Some(ContainerKind::Loose) {
            let file = self.reopen_container(number).ok_or_else(gone)?;
            return crate::sys::read_uncached(&file, offset, buffer);
        }
        let slot = self.packs.get(number).ok_or_else(gone)?;
        let file = slot.get_or_init(|| self.reopen_container(number)).as_ref().ok_or_else(gone)?;
        file.read_exact_at(buffer, offset)
    }

    /// Returns the bytes of blob number `blob`, not checked against its hash; waits for them where the tree is partial.
    #[must_use]
    pub fn bytes(&self, sidecar: &Sidecar<'_>, blob: u32, size: u64) -> Option<&[u8]> {
        if let Some(partial) = &self.partial {
            partial.wait_for(&self.manifest(), blob).ok()?;
        }
        let location = sidecar.location(blob)?;
        let number = location.container as usize;
        let holder = self.holders.get(number)?;
        let map = holder.map.get_or_init(|| {
            let map = map_if_there(self.container_paths.get(number)?).ok()??;
            (map.stamp == holder.stamp).then_some(map)
        });
        let start = usize::try_from(location.offset).ok()?;
        map.as_ref()?.get(start..start.checked_add(usize::try_from(size).ok()?)?)
    }
}

impl Store {
    /// Returns where the manifest of a tree is.
    #[must_use]
    pub fn tree_path(&self, hash: TreeHash) -> PathBuf {
        self.fanned("trees", hash.as_bytes(), "")
    }

    /// Returns where the location sidecar of a tree is.
    #[must_use]
    pub fn sidecar_path(&self, hash: TreeHash) -> PathBuf {
        self.fanned("trees", hash.as_bytes(), ".loc")
    }

    /// Tells whether a tree's manifest is here as a file.
    #[must_use]
    pub fn has_tree(&self, hash: TreeHash) -> bool {
        self.tree_path(hash).exists()
    }

    /// Maps the file of a tree's manifest, its header checked; `None` when there is none.
    ///
    /// # Errors
    /// [`Error::Damaged`], or what the system says.
    pub fn map_manifest(&self, hash: TreeHash) -> Result<Option<Mapped>> {
        let path = self.tree_path(hash);
        let Some(mapped) = map_if_there(&path)? else {
            return Ok(None);
        };
        let manifest = Manifest::parse(&mapped).map_err(Error::damaged(&path))?;
        check_header(&manifest, hash.as_bytes()).map_err(Error::damaged(&path))?;
        Ok(Some(mapped))
    }

    /// Gives a tree's manifest its file, so that it can be opened.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the bytes are not that tree's manifest, or what the system says.
    pub fn publish_tree(&self, built: &Built) -> Result<()> {
        let path = self.tree_path(built.hash);
        check_manifest(&built.bytes, built.hash.as_bytes()).map_err(Error::damaged(&path))?;
        if path.exists() {
            return Ok(());
        }
        if let Some(folder) = path.parent() {
            make_folder(folder)?;
        }
        self.publish_bytes(&path, &built.bytes)
    }

    /// Opens a tree: its manifest, its sidecar, and every store file that holds bytes of it.
    ///
    /// What changed since it was published is verified by content first; a sidecar that is missing,
    /// damaged or out of date is made again from the index. Everything is mapped when this returns, so
    /// what gc removes after that can still be read through the tree.
    ///
    /// # Errors
    /// [`Error::Damaged`] or [`Error::MissingBlob`] when the store can't show the tree whole, or what
    /// the system says. `Ok(None)` when the store does not have it.
    pub fn open_tree(&self, hash: TreeHash) -> Result<Option<OpenTree>> {
        // Between its manifest and its last pack gc must not rewrite anything.
        let _guard = self.guard()?;
        self.open_mapping(hash, When::AtOnce)
    }

    /// As [`Store::open_tree`], for who needs a few of the blobs, and at once: gc waits while the tree is open.
    ///
    /// # Errors
    /// As [`Store::open_tree`].
    pub fn open_briefly(&self, hash: TreeHash) -> Result<Option<OpenTree>> {
        let guard = self.guard()?;
        let tree = self.open_mapping(hash, When::Needed)?;
        Ok(tree.map(|tree| OpenTree { _guard: Some(guard), ..tree }))
    }

    fn open_mapping(&self, hash: TreeHash, when: When) -> Result<Option<OpenTree>> {
        let path = self.tree_path(hash);
        let Some(manifest) = map_if_there(&path)? else {
            return Ok(None);
        };
        let header = Manifest::parse(&manifest).map_err(Error::damaged(&path))?;
        check_header(&header, hash.as_bytes()).map_err(Error::damaged(&path))?;
        if let Some(tree) = self.open_with_sidecar(hash, &path, &manifest, when)? {
            return Ok(Some(OpenTree::new(self, hash, manifest, tree)));
        }
        check_manifest(&manifest, hash.as_bytes()).map_err(Error::damaged(&path))?;
        let index = self.blobs()?;
        self.write_sidecar(hash, &manifest, &index)?;
        index.refresh(self)?;
        match self.open_with_sidecar(hash, &path, &manifest, when)? {
            Some(tree) => Ok(Some(OpenTree::new(self, hash, manifest, tree))),
            None => Err(Error::Refused { path, reason: "the store changes while it is read" }),
        }
    }

    /// Opens a tree that stays in the store while it is open, for who shows it and then names it.
    ///
    /// # Errors
    /// As [`Store::open_tree`] and [`Store::lease`].
    pub fn open_leased(&self, hash: TreeHash) -> Result<Option<OpenTree>> {
        let lease = Some(self.lease(hash)?);
        Ok(self.open_tree(hash)?.map(|tree| OpenTree { lease, ..tree }))
    }

    /// As [`Store::open_leased`], for who shows the tree in a way that can wait for blobs: one that is not whole will do.
    ///
    /// # Errors
    /// As there.
    pub fn open_shown(&self, hash: TreeHash) -> Result<Option<OpenTree>> {
        if let Some(tree) = self.open_leased(hash)? {
            return Ok(Some(tree));
        }
        let lease = Some(self.lease(hash)?);
        Ok(self.open_partial(hash)?.map(|tree| OpenTree { lease, ..tree }))
    }

    /// Opens what the sidecar names; `None` when the sidecar has to be made again.
    fn open_with_sidecar(
        &self,
        hash: TreeHash,
        manifest_path: &Path,
        manifest: &Mapped,
        when: When,
    ) -> Result<Option<(Mapped, Vec<Holder>)>> {
        let Some(mapped) = map_if_there(&self.sidecar_path(hash))? else {
            return Ok(None);
        };
        let Some(read) = checked_sidecar(&mapped) else {
            return Ok(None);
        };
        let blobs = Manifest::parse(manifest).map_or(0, |manifest| manifest.blob_count());
        if read.tree() != hash || read.blob_count() != blobs {
            return Ok(None);
        }
        if read.manifest_stamp() != manifest.stamp {
            check_manifest(manifest, hash.as_bytes()).map_err(Error::damaged(manifest_path))?;
            return Ok(None);
        }
        let mut holders = Vec::with_capacity(read.container_count() as usize);
        for number in 0..read.container_count() {
            let Some(container) = read.container(number) else {
                return Ok(None);
            };
            // What only a remote has is no file of a store.
            let Some(path) = self.container_path(&container) else { return Ok(None) };
            let holder = match when {
                When::AtOnce => map_if_there(&path)?.map(Holder::mapped),
                When::Needed => {
                    stamp_if_there(&path)?.map(|stamp| Holder { stamp, map: OnceLock::new() })
                }
            };
            match holder {
                Some(holder) if holder.stamp == container.stamp => holders.push(holder),
                // Gone, moved or touched: the index looks again, and verifies what was touched.
                _ => return Ok(None),
            }
        }
        Ok(Some((mapped, holders)))
    }

    fn container_path(&self, container: &Container) -> Option<PathBuf> {
        match container.kind {
            ContainerKind::Pack => Some(self.pack_path(PackId::from_bytes(container.name))),
            ContainerKind::Loose => Some(self.loose_path(BlobHash::from_bytes(container.name))),
            ContainerKind::Partial => {
                Some(self.partial_path(TreeHash::from_bytes(container.name)).join("data"))
            }
            ContainerKind::PackInFrames | ContainerKind::LooseInFrames => None,
        }
    }

    /// Writes the sidecar of a tree whose manifest has its file.
    ///
    /// # Errors
    /// [`Error::MissingBlob`] when a blob is not in the store, or what the system says.
    pub(crate) fn write_sidecar(
        &self,
        hash: TreeHash,
        manifest: &Mapped,
        index: &BlobIndex,
    ) -> Result<()> {
        let mut containers = Containers::default();
        let mut locations = Vec::new();
        let path = self.tree_path(hash);
        let read = Manifest::parse(manifest).map_err(Error::damaged(&path))?;
        for (blob, size) in sizes(&read).into_iter().enumerate() {
            let Some(hash) = read.blob_hash(blob as u32) else {
                let rule = "every blob has a hash";
                return Err(Error::damaged(&path)(FormatError::Rule { rule, index: blob as u32 }));
            };
            locations.push(containers.locate(self, index, hash, size)?);
        }
        let bytes = sidecar::write(hash, manifest.stamp, &containers.list, &locations)
            .map_err(Error::damaged(&path))?;
        self.publish_bytes(&self.sidecar_path(hash), &bytes)
    }

    /// Publishes a tree and its sidecar.
    ///
    /// # Errors
    /// As [`Store::publish_tree`], [`Error::MissingBlob`] and [`Error::Purged`].
    pub fn publish_located(&self, built: &Built, index: &BlobIndex) -> Result<()> {
        index.refuse_purged(built.hash, &built.bytes)?;
        self.publish_tree(built)?;
        let path = self.tree_path(built.hash);
        let file = File::open(&path).map_err(Error::io("open", &path))?;
        let manifest = Mapped::new(&file).map_err(Error::io("map", &path))?;
        self.write_sidecar(built.hash, &manifest, index)
    }
}

/// Returns a sidecar whose checksum holds.
pub(crate) fn checked_sidecar(bytes: &[u8]) -> Option<Sidecar<'_>> {
    let (head, body, checksum) = Sidecar::checked_parts(bytes)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(head).update(body);
    (*hasher.finalize().as_bytes() == checksum).then_some(())?;
    Sidecar::parse(bytes).ok()
}

/// Tells whether the sidecar of a tree points into one of some packs.
pub(crate) fn points_into(
    store: &Store,
    tree: TreeHash,
    packs: &std::collections::HashSet<PackId>,
) -> Result<bool> {
    let Some(map) = map_if_there(&store.sidecar_path(tree))? else {
        return Ok(false);
    };
    let Some(sidecar) = checked_sidecar(&map) else {
        return Ok(false);
    };
    let mut containers = (0..sidecar.container_count()).filter_map(|n| sidecar.container(n));
    Ok(containers.any(|container| {
        container.kind == ContainerKind::Pack && packs.contains(&PackId::from_bytes(container.name))
    }))
}

/// Returns the size of each blob of a manifest.
pub(crate) fn sizes(manifest: &Manifest<'_>) -> Vec<u64> {
    let mut sizes = vec![0; manifest.blob_count() as usize];
    for id in (0..manifest.len()).map(rift_tree::EntryId) {
        if let Some(Kind::File { size, blob }) = manifest.kind(id)
            && let Some(slot) = sizes.get_mut(blob as usize)
        {
            *slot = size;
        }
    }
    sizes
}

/// The containers of a sidecar as they are met.
#[derive(Default)]
struct Containers {
    list: Vec<Container>,
    numbers: HashMap<[u8; 32], u32>,
    last: Option<([u8; 32], u32)>,
}

impl Containers {
    fn locate(
        &mut self,
        store: &Store,
        index: &BlobIndex,
        hash: BlobHash,
        size: u64,
    ) -> Result<Location> {
        if size >= LOOSE_FROM {
            let stamp = index.open_loose(store, hash)?.ok_or(Error::MissingBlob { hash })?;
            if stamp.size != size {
                let path = store.loose_path(hash);
                let wrong = FormatError::Truncated { offset: stamp.size, wanted: size };
                return Err(Error::damaged(&path)(wrong));
            }
            let container = self.number(*hash.as_bytes(), stamp, ContainerKind::Loose);
            return Ok(Location { container, offset: 0 });
        }
        let found =
            index.find(hash.as_bytes(), PackedKind::Blob).ok_or(Error::MissingBlob { hash })?;
        if found.packed.length != size {
            let wrong = FormatError::Truncated { offset: found.packed.length, wanted: size };
            return Err(Error::damaged(found.pack.path())(wrong));
        }
        let name = *found.pack.id().as_bytes();
        let container = self.number(name, found.pack.stamp(), ContainerKind::Pack);
        Ok(Location { container, offset: found.packed.offset })
    }

    fn number(&mut self, name: [u8; 32], stamp: Stamp, kind: ContainerKind) -> u32 {
        if let Some((last, number)) = self.last
            && last == name
        {
            return number;
        }
        let next = self.list.len() as u32;
        let number = *self.numbers.entry(name).or_insert(next);
        if number == next {
            self.list.push(Container { name, stamp, kind });
        }
        self.last = Some((name, number));
        number
    }
}

/// Maps a store file; `None` when there is none.
pub(crate) fn map_if_there(path: &Path) -> Result<Option<Mapped>> {
    match File::open(path) {
        Ok(file) => Mapped::new(&file).map(Some).map_err(Error::io("map", path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("open", path)(error)),
    }
}

fn stamp_if_there(path: &Path) -> Result<Option<Stamp>> {
    match fs::metadata(path) {
        Ok(stat) => Ok(Some(crate::sys::stamp_of(&stat))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("look at", path)(error)),
    }
}

/// Returns the manifest of a tree that a pack holds, its header checked.
#[must_use]
pub fn packed_manifest(index: &BlobIndex, hash: TreeHash) -> Option<crate::blobs::Found> {
    let found = index.find(hash.as_bytes(), PackedKind::Manifest)?;
    let manifest = Manifest::parse(found.bytes()).ok()?;
    check_header(&manifest, hash.as_bytes()).ok()?;
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_cut_has_no_entries() {
        assert_eq!((NOTHING.manifest().len(), NOTHING.sidecar().blob_count()), (1, 0));
    }
}
