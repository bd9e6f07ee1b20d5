//! Partial trees: the store has the manifest and as many blobs as were needed; the others lie with a remote.
//!
//! ```text
//! partial/HEX/manifest   as of any tree
//! partial/HEX/places     the remote's places: in which of its objects the blobs are
//! partial/HEX/sidecar    the store's own, with one container: `data`
//! partial/HEX/data       what those objects hold, one behind the other, each at a multiple of 4 KiB; holes where nothing has arrived
//! partial/HEX/arrivals   which blobs are here, see `rift_tree::arrival`
//! partial/HEX/origin     the address of the remote
//! ```
//!
//! Only projections that are neither written nor linked show partial trees: whoever needs a blob waits until it has come, and
//! looking at names, sizes and modes needs none. Each blob is hashed before *arrivals* tells of it. The folder is a cache: what
//! is damaged in it, and what a power loss leaves of it, is checked or dropped when it is opened after another boot.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use rift_tree::arrival::{Arrivals, BOOT_OFFSET, HEADER_BYTES, Header};
use rift_tree::sidecar::{self, Container, ContainerKind, Location, Sidecar, Stamp};
use rift_tree::{BlobHash, FormatError, Manifest, TreeHash};
use rustix::fs::FlockOperation;
use rustix::thread::futex;

use crate::blobs::LOOSE_FROM;
use crate::error::{Error, Result};
use crate::lock::lock;
use crate::remote::address::Address;
use crate::remote::lazy::Fetching;
use crate::remote::places::Places;
use crate::store::{Store, lock_open, make_folder};
use crate::sys::{self, Mapped, Shared};
use crate::tree::{OpenTree, check_header, check_manifest, checked_sidecar, map_if_there, sizes};

/// Where each object begins in the data file.
const ALIGN: u64 = 4096;
/// How long who waits for a blob sleeps between two looks at who fetches.
const PATIENCE: Duration = Duration::from_secs(1);

/// The part of a partial tree that has to do with what is here and what is not.
#[derive(Debug)]
pub struct Partial {
    tree: TreeHash,
    pub(crate) origin: Address,
    pub(crate) options: crate::remote::Options,
    /// The store's folder, which may have blobs that have not arrived here.
    pub(crate) store: PathBuf,
    pub(crate) data: File,
    folder: PathBuf,
    places: Mapped,
    words: Shared,
    header: Header,
    /// Locked by all that show the tree.
    file: File,
    fetching: OnceLock<Fetching>,
    trouble: Mutex<Option<String>>,
}

impl Partial {
    /// Returns what is here, and what is wanted.
    pub(crate) fn arrivals(&self) -> Option<Arrivals<'_>> {
        let words = self.words.slots(0, self.header.file_words());
        Arrivals::new(words, self.header.blobs)
    }

    /// Returns in which objects of the remote the blobs are.
    pub(crate) fn places(&self) -> Option<Places<'_>> {
        Places::parse(&self.places).ok()
    }

    /// Returns where one of its files is.
    pub(crate) fn path_of(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Returns the tree hash.
    #[must_use]
    pub fn tree(&self) -> TreeHash {
        self.tree
    }

    /// Returns the remote.
    #[must_use]
    pub fn origin(&self) -> &Address {
        &self.origin
    }

    /// Returns what has kept blobs from coming, if something has.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        lock(&self.trouble).clone()
    }

    /// Notes what keeps blobs from coming; the first thing counts.
    pub(crate) fn note_trouble(&self, what: String) {
        let mut trouble = lock(&self.trouble);
        trouble.get_or_insert(what);
    }

    /// Tells whether the remote was given up when something was last wanted of it, so that it should be asked before the tree
    /// is shown again.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.arrivals().is_none_or(|arrivals| arrivals.is_down())
    }

    /// Returns the blobs that were needed since the first of the processes came that now show the tree, in order.
    #[must_use]
    pub fn used(&self) -> Vec<u32> {
        self.arrivals().map(|arrivals| arrivals.used().collect()).unwrap_or_default()
    }

    /// Begins to bring what is wanted, for this process and all others that show the tree, until the process ends.
    pub fn serve(self: &Arc<Self>) -> &Fetching {
        self.fetching.get_or_init(|| Fetching::start(self))
    }

    /// Waits until a blob is here, and begins to bring what is wanted if that is needed for it.
    ///
    /// # Errors
    /// [`Error::MissingBlob`]: it can't be had; [`Partial::trouble`] tells why.
    pub fn wait_for(self: &Arc<Self>, manifest: &Manifest<'_>, blob: u32) -> Result<()> {
        let serves = || {
            self.serve();
            true
        };
        self.wait_while(manifest, blob, serves)
    }

    /// Waits until a blob is here that another process brings, as long as that is said to be there.
    ///
    /// # Errors
    /// [`Error::MissingBlob`]: it can't be had.
    pub fn wait_while(
        &self,
        manifest: &Manifest<'_>,
        blob: u32,
        is_served: impl Fn() -> bool,
    ) -> Result<()> {
        let arrivals = self.arrivals();
        let missing = || {
            let hash = manifest.blob_hash(blob).unwrap_or(BlobHash::from_bytes([0; 32]));
            Error::MissingBlob { hash }
        };
        let arrivals = arrivals.ok_or_else(missing)?;
        arrivals.note_used(blob);
        if arrivals.has(blob) {
            return Ok(());
        }
        let word = arrivals.word_of(blob).ok_or_else(missing)?;
        arrivals.want(blob);
        if !is_served() {
            return Err(missing());
        }
        ring(&arrivals);
        loop {
            let seen = word.load(std::sync::atomic::Ordering::Acquire);
            if arrivals.has(blob) {
                return Ok(());
            }
            if arrivals.has_failed(blob) || !is_served() {
                return Err(missing());
            }
            sleep_on(word, seen);
        }
    }

    /// Asks whoever shows the tree, as soon as somebody does, for blobs that will be needed; waits for none of them.
    pub fn ask_for(&self, blobs: impl Iterator<Item = u32>) {
        if let Some(arrivals) = self.arrivals() {
            blobs.filter(|blob| !arrivals.has(*blob)).for_each(|blob| arrivals.want(blob));
            ring(&arrivals);
        }
    }

    /// Brings all that is not here yet, as fast as the remote gives it.
    ///
    /// # Errors
    /// [`Error::MissingBlob`]: some of it can't be had.
    pub fn fetch_rest(self: &Arc<Self>, manifest: &Manifest<'_>) -> Result<()> {
        if self.arrivals().is_none() {
            return Ok(());
        }
        let blobs = 0..self.header.blobs;
        self.serve();
        self.ask_for(blobs.clone());
        blobs.into_iter().try_for_each(|blob| self.wait_for(manifest, blob))
    }

    /// Returns the blobs that are here and not what they should be: the disk may have lost some of them.
    pub(crate) fn damaged(&self, manifest: &Manifest<'_>, own: &Sidecar<'_>) -> Vec<u32> {
        let Some(arrivals) = self.arrivals() else { return Vec::new() };
        let mut bytes = Vec::new();
        let mut is_damaged = |blob: u32, size: u64| {
            let (Some(hash), Some(location)) = (manifest.blob_hash(blob), own.location(blob))
            else {
                return false;
            };
            bytes.resize(usize::try_from(size).unwrap_or(0), 0);
            let read = self.data.read_exact_at(&mut bytes, location.offset);
            read.is_err() || blake3::hash(&bytes).as_bytes() != hash.as_bytes()
        };
        let here = (0..).zip(sizes(manifest)).filter(|(blob, _)| arrivals.has(*blob));
        here.filter(|(blob, size)| is_damaged(*blob, *size)).map(|(blob, _)| blob).collect()
    }

    /// Makes blobs come again when somebody needs them.
    pub(crate) fn withdraw(&self, blobs: &[u32]) {
        if let Some(arrivals) = self.arrivals() {
            blobs.iter().for_each(|blob| arrivals.withdraw(*blob));
        }
    }
}

/// Wakes who fetches.
pub(crate) fn ring(arrivals: &Arrivals<'_>) {
    arrivals.ring();
    if let Some(bell) = arrivals.bell() {
        wake(bell);
    }
}

/// Wakes all that sleep on a word. A failure wakes nobody, and all of them look again after a while.
pub(crate) fn wake(word: &std::sync::atomic::AtomicU32) {
    let _woken = futex::wake(word, futex::Flags::empty(), i32::MAX.cast_unsigned());
}

/// Sleeps until a word is another one than was seen, or somebody wakes the sleepers, or a while has passed.
pub(crate) fn sleep_on(word: &std::sync::atomic::AtomicU32, seen: u32) {
    let limit = rustix::time::Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
    let _woken = futex::wait(word, futex::Flags::empty(), seen, Some(&limit));
}

/// Where each object of a remote begins in the data file, and how long that is in all.
pub(crate) struct Bases {
    pub(crate) starts: Vec<u64>,
    end: u64,
}

impl Bases {
    pub(crate) fn new(places: &Sidecar<'_>) -> Option<Self> {
        let (mut starts, mut end) = (Vec::new(), 0_u64);
        for number in 0..places.container_count() {
            starts.push(end);
            let size = places.container(number)?.stamp.size;
            end = end.checked_add(size)?.checked_next_multiple_of(ALIGN)?;
        }
        (end <= sidecar::OFFSET_MAX).then_some(Self { starts, end })
    }
}

/// Returns where the blobs of a tree are in the data file, if the remote's sidecar tells of all of them.
fn locations(
    manifest: &Manifest<'_>,
    places: &Sidecar<'_>,
    bases: &Bases,
) -> Option<Vec<Location>> {
    let locate = |(blob, size): (u32, u64)| {
        let place = places.location(blob)?;
        let container = places.container(place.container)?;
        let is_inside = place.offset.checked_add(size)? <= container.stamp.size;
        let is_of_kind = container.kind.is_loose() == (size >= LOOSE_FROM);
        let base = bases.starts.get(place.container as usize)?;
        let offset = base + place.offset;
        (is_inside && is_of_kind).then_some(Location { container: 0, offset })
    };
    let is_same = places.blob_count() == manifest.blob_count();
    let blobs = (0..).zip(sizes(manifest));
    is_same.then(|| blobs.map(locate).collect::<Option<Vec<_>>>()).flatten()
}

impl Store {
    /// Returns the folder of a partial tree.
    pub(crate) fn partial_path(&self, tree: TreeHash) -> PathBuf {
        self.path("partial").join(tree.to_string())
    }

    /// Tells whether a tree was shown here of which not all had come.
    #[must_use]
    pub fn is_partial(&self, tree: TreeHash) -> bool {
        self.partial_path(tree).exists()
    }

    /// Makes a partial tree of what a remote tells of it, both checked; one that is there goes on.
    pub(crate) fn create_partial(
        &self,
        tree: TreeHash,
        manifest: &[u8],
        places: &[u8],
        origin: &Address,
    ) -> Result<()> {
        if let Ok(Some(opened)) = self.open_partial(tree) {
            if let Some(arrivals) = opened.partial().and_then(|partial| partial.arrivals()) {
                arrivals.set_down(false);
            }
            return Ok(());
        }
        let path = self.partial_path(tree);
        let _guard = self.guard()?;
        let folder = self.temporary_folder()?;
        let made = fill(&folder, tree, manifest, places, origin).and_then(|()| {
            if let Some(above) = path.parent() {
                make_folder(above)?;
            }
            // What is there can't be opened.
            crate::materialize::remove(&path, 1)?;
            fs::rename(&folder, &path).map_err(Error::io("publish", &path))
        });
        if made.is_err() {
            // Swept by gc otherwise.
            let _is_gone = fs::remove_dir_all(&folder).is_ok();
        }
        made
    }

    /// Opens a partial tree; `None` when the store has none of that hash, or nothing of it can be used.
    ///
    /// # Errors
    /// What the system says.
    pub fn open_partial(&self, tree: TreeHash) -> Result<Option<OpenTree>> {
        let folder = self.partial_path(tree);
        let Some(manifest) = map_if_there(&folder.join("manifest"))? else {
            return Ok(None);
        };
        let Ok(header) = Manifest::parse(&manifest) else { return Ok(None) };
        if check_header(&header, tree.as_bytes()).is_err() {
            return Ok(None);
        }
        let Some(own) = map_if_there(&folder.join("sidecar"))? else { return Ok(None) };
        let Some(read) = checked_sidecar(&own) else { return Ok(None) };
        let Some(container) = read.container(0) else { return Ok(None) };
        if read.manifest_stamp() != manifest.stamp
            && check_manifest(&manifest, tree.as_bytes()).is_err()
        {
            return Ok(None);
        }
        let Some((partial, is_first)) = self.open_parts(tree, &folder)? else { return Ok(None) };
        let data = Mapped::new(&partial.data).map_err(Error::io("map", &folder))?;
        let is_of_tree = read.tree() == tree
            && read.blob_count() == header.blob_count()
            && partial.header.blobs == header.blob_count()
            && (container.stamp.size, container.stamp.inode) == (data.stamp.size, data.stamp.inode);
        if !is_of_tree {
            return Ok(None);
        }
        if is_first {
            let boot = sys::boot_id();
            if partial.header.boot != boot {
                if check_manifest(&manifest, tree.as_bytes()).is_err() {
                    return Ok(None);
                }
                partial.withdraw(&partial.damaged(&header, &read));
                let written = partial.file.write_all_at(&boot, BOOT_OFFSET as u64);
                written.map_err(Error::io("write", &partial.path_of("arrivals")))?;
            }
            if let Some(arrivals) = partial.arrivals() {
                arrivals.forget_used();
            }
        }
        // Others need not wait for us any more.
        let path = folder.join("arrivals");
        lock_open(&partial.file, &path, FlockOperation::LockShared)?;
        let files = (folder.join("manifest"), folder.join("sidecar"), folder.join("data"));
        Ok(Some(OpenTree::of_partial(tree, (manifest, own, data), files, Arc::new(partial))))
    }

    /// Opens the files of a partial tree that change; tells whether nobody else shows it.
    fn open_parts(&self, tree: TreeHash, folder: &Path) -> Result<Option<(Partial, bool)>> {
        let Some(places) = map_if_there(&folder.join("places"))? else { return Ok(None) };
        if !Places::parse(&places).is_ok_and(|places| places.sidecar.tree() == tree) {
            return Ok(None);
        }
        let Ok(origin) = fs::read_to_string(folder.join("origin")) else { return Ok(None) };
        let Ok(origin) = Address::parse(origin.trim_end()) else { return Ok(None) };
        let open = |name: &str| {
            let path = folder.join(name);
            let opened = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_NOFOLLOW)
                .open(&path);
            match opened {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                other => other.map(Some).map_err(Error::io("open", &path)),
            }
        };
        let (Some(data), Some(mut arrivals)) = (open("data")?, open("arrivals")?) else {
            return Ok(None);
        };
        let path = folder.join("arrivals");
        let is_first = match lock_open(&arrivals, &path, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => true,
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::WouldBlock => {
                // Waits for who checks what is here.
                lock_open(&arrivals, &path, FlockOperation::LockShared)?;
                false
            }
            Err(error) => return Err(error),
        };
        let mut head = [0; HEADER_BYTES];
        let header = match arrivals.read_exact(&mut head) {
            Ok(()) => Header::decode(&head).ok(),
            Err(_) => None,
        };
        let Some(header) = header.filter(|header| header.tree == tree) else { return Ok(None) };
        let length = header.file_words() * 4;
        let Ok(words) = Shared::new(&arrivals, length) else { return Ok(None) };
        let partial = Partial {
            tree,
            origin,
            options: self.remote_options().clone(),
            store: self.root().to_owned(),
            data,
            folder: folder.to_owned(),
            places,
            words,
            header,
            file: arrivals,
            fetching: OnceLock::new(),
            trouble: Mutex::new(None),
        };
        Ok(Some((partial, is_first)))
    }
}

/// Writes the files of a partial tree of which nothing has arrived.
fn fill(
    folder: &Path,
    tree: TreeHash,
    manifest: &[u8],
    places: &[u8],
    origin: &Address,
) -> Result<()> {
    let wrong = |rule| {
        let path = folder.join("places");
        move || Error::damaged(&path)(FormatError::Rule { rule, index: 0 })
    };
    let read = Manifest::parse(manifest).map_err(Error::damaged(&folder.join("manifest")))?;
    let remote = Places::parse(places).map_err(Error::damaged(&folder.join("places")))?.sidecar;
    let bases = Bases::new(&remote).ok_or_else(wrong("objects have 16 TiB at most"))?;
    let locations = locations(&read, &remote, &bases)
        .ok_or_else(wrong("all blobs lie in objects of their kind"))?;
    let put = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(Error::io("make", &path))?;
        (&file).write_all(bytes).map_err(Error::io("write", &path))?;
        Ok::<File, Error>(file)
    };
    let manifest_file = put("manifest", manifest)?;
    put("places", places)?;
    put("origin", format!("{origin}\n").as_bytes())?;
    let data_path = folder.join("data");
    let data = put("data", &[])?;
    // A hole: it is only ever written to by pwrite(2), which says when the disk is full.
    data.set_len(bases.end.max(1)).map_err(Error::io("make room in", &data_path))?;
    let stamp = |file: &File, path: &Path| sys::stamp(file).map_err(Error::io("look at", path));
    let data_stamp = Stamp { mtime_ns: 0, ..stamp(&data, &data_path)? };
    let container =
        Container { name: *tree.as_bytes(), stamp: data_stamp, kind: ContainerKind::Partial };
    let manifest_stamp = stamp(&manifest_file, &folder.join("manifest"))?;
    let own = sidecar::write(tree, manifest_stamp, &[container], &locations)
        .map_err(Error::damaged(&folder.join("sidecar")))?;
    put("sidecar", &own)?;
    let header = Header { blobs: read.blob_count(), tree, boot: sys::boot_id() };
    let arrivals = put("arrivals", &header.encode())?;
    let path = folder.join("arrivals");
    let length = (header.file_words() * 4) as u64;
    let flags = rustix::fs::FallocateFlags::empty();
    rustix::fs::fallocate(&arrivals, flags, 0, length)
        .map_err(Error::io("make room for", &path))?;
    let words = Shared::new(&arrivals, header.file_words() * 4).map_err(Error::io("map", &path))?;
    let words = words.slots(0, header.file_words());
    if let Some(arrivals) = Arrivals::new(words, header.blobs) {
        let empty = (0..).zip(sizes(&read)).filter(|(_, size)| *size == 0);
        empty.for_each(|(blob, _)| arrivals.arrive(blob));
    }
    Ok(())
}
