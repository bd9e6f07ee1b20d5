//! The store: one directory that holds packs, blobs, trees, refs and the action log.
//!
//! ```text
//! format              the version, as text
//! packs/HEX.pack      many small blobs and small manifests (see `pack`)
//! blobs/HH/HEX        one large blob each
//! trees/HH/HEX        manifests of whole projections; HEX.loc beside it is its location sidecar
//! refs/NAME           a mutable name: tree hash and checksum
//! plans/NAME          what a command line with known inputs produces
//! projections/NAME    which tree was shown at which directory
//! runs/NAME           what a run did
//! states/HEX          which entries of a mounted projection are real; HEX.log is what its server said
//! actions/N.log       append-only records: what keys were found to mean (see `log`)
//! leases/             one locked file per live run
//! loose/HH/HEX-UMASK/ trees as plain files, for those who ask for hard links
//! partial/HEX/        trees of which not all is here (see `partial`)
//! index/              caches that can be rebuilt from the rest
//! tmp/                what has no name yet, each file locked while its writer lives
//! quarantine/         what a repair took out of the way; gc removes it after a week
//! lock                shared while anything is added or read, exclusive while gc deletes
//! ```
//!
//! Everything but `index`, `partial` and `tmp` is the truth, and every such file checks itself. Nothing gets
//! its name before it is whole and on the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::FlockOperation;

use crate::error::{Error, Result};
use crate::room::{ASK_FROM, Room};

/// The version of the store's layout that this code reads and writes.
pub const FORMAT: u32 = 1;

/// The folders that every store has.
pub(crate) const FOLDERS: [&str; 14] = [
    "packs",
    "blobs",
    "trees",
    "refs",
    "plans",
    "projections",
    "runs",
    "remotes",
    "states",
    "actions",
    "leases",
    "index",
    "tools",
    "tmp",
];

/// What the names of files begin with that tell what was found in a library.
pub(crate) const PATCHES: &str = "patches-";

/// An open store.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    lock: PathBuf,
    remote: crate::remote::Options,
    /// How large it may be, where that is to be kept.
    pub(crate) room: Option<Room>,
}

/// Keeps gc from deleting while it lives.
#[derive(Debug)]
pub struct Guard {
    _file: File,
}

impl Store {
    /// Opens the store at `root`, making it if there is none.
    ///
    /// # Errors
    /// [`Error::UnsafePlace`] when others could change it, [`Error::Version`] when another rift made
    /// it, and what the system says.
    pub fn open(root: &Path) -> Result<Self> {
        if let Some(store) = Self::open_existing(root)? {
            return Ok(store);
        }
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .map_err(Error::io("make", root))?;
        let root = root.canonicalize().map_err(Error::io("resolve", root))?;
        check_place(&root)?;
        let remote = crate::remote::Options::default();
        let store = Self { lock: root.join("lock"), root, remote, room: None };
        for folder in FOLDERS {
            make_unsynced(&store.root.join(folder))?;
        }
        check_folders(&store.root)?;
        sync_folder(&store.root)?;
        // Its own sync is that of all folders too.
        store.publish_bytes(&store.root.join("format"), format!("{FORMAT}\n").as_bytes())?;
        Ok(store)
    }

    /// Opens the store at `root`; `None` when there is none.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_existing(root: &Path) -> Result<Option<Self>> {
        let version = match fs::read_to_string(root.join("format")) {
            Ok(version) => version,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("read", &root.join("format"))(error)),
        };
        let root = root.canonicalize().map_err(Error::io("resolve", root))?;
        check_place(&root)?;
        if version.trim_end() != FORMAT.to_string() {
            let found = version.trim_end().escape_debug().to_string();
            return Err(Error::Version { path: root, found, readable: FORMAT });
        }
        for folder in FOLDERS {
            let path = root.join(folder);
            if !path.is_dir() {
                make_folder(&path)?;
            }
        }
        check_folders(&root)?;
        let remote = crate::remote::Options::default();
        Ok(Some(Self { lock: root.join("lock"), root, remote, room: None }))
    }

    /// Returns the store's folder, absolute and without symbolic links.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Tells how remotes are reached that have the rest of partial trees.
    #[must_use]
    pub fn reaching(self, remote: crate::remote::Options) -> Self {
        Self { remote, ..self }
    }

    /// Returns how remotes are reached.
    pub(crate) fn remote_options(&self) -> &crate::remote::Options {
        &self.remote
    }

    /// Returns a path inside the store.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// Returns the path of a file named by 32 bytes, fanned out by the first.
    pub(crate) fn fanned(&self, folder: &str, name: &[u8; 32], suffix: &str) -> PathBuf {
        let hex: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
        self.root.join(folder).join(&hex[..2]).join(format!("{hex}{suffix}"))
    }

    /// Waits until no gc runs and keeps the next one waiting while the guard lives.
    ///
    /// # Errors
    /// As flock(2).
    pub fn guard(&self) -> Result<Guard> {
        self.locked(FlockOperation::LockShared).map(|file| Guard { _file: file })
    }

    /// Takes the store for deleting; `None` when `wait` is false and somebody uses it.
    pub(crate) fn guard_exclusive(&self, wait: bool) -> Result<Option<Guard>> {
        let operation = match wait {
            true => FlockOperation::LockExclusive,
            false => FlockOperation::NonBlockingLockExclusive,
        };
        match self.locked(operation) {
            Ok(file) => Ok(Some(Guard { _file: file })),
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn locked(&self, operation: FlockOperation) -> Result<File> {
        lock_file(&self.lock, operation)
    }

    /// Makes a new file below `tmp`, opened for reading and writing.
    ///
    /// # Errors
    /// As open(2).
    pub(crate) fn temporary(&self) -> Result<Temporary> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let path = self.path("tmp").join(format!("{}-{number}", std::process::id()));
            let mut options = OpenOptions::new();
            options.read(true).write(true).create_new(true).mode(0o600);
            match options.open(&path) {
                Ok(file) => {
                    // Tells gc that the writer lives, whatever its pid means to gc; the kernel
                    // lets go of it when the last descriptor is closed.
                    lock_open(&file, &path, FlockOperation::LockExclusive)?;
                    return Ok(Temporary { file, path, is_published: false });
                }
                // A killed process with the same pid left it; the next number is as good.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::io("make", &path)(error)),
            }
        }
    }

    /// Keeps a tool's file below `tools`, named by its content; one that is there and whole is as good.
    ///
    /// # Errors
    /// What the system says.
    pub fn publish_tool(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        let path = self.path("tools").join(format!("{}-{name}", blake3::hash(bytes).to_hex()));
        if fs::read(&path).ok().is_none_or(|found| found != bytes) {
            self.publish_bytes(&path, bytes)?;
        }
        Ok(path)
    }

    /// Returns where what was found in libraries is kept, by rules of this name, before the name of each.
    #[must_use]
    pub fn patches_path(&self, rules: &str) -> PathBuf {
        self.path("tools").join(format!("{PATCHES}{rules}"))
    }

    /// Keeps what was found in a library, in place of what was found before.
    ///
    /// # Errors
    /// What the system says.
    pub fn keep_patches(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        self.publish_passing(path, bytes)
    }

    /// Writes a file that lives as long as what is returned.
    ///
    /// # Errors
    /// What the system says.
    pub fn live_file(&self, bytes: &[u8]) -> Result<LiveFile> {
        self.written(bytes).map(LiveFile)
    }

    /// Makes a new folder for the processes of a run; who has made it removes it, or gc where that one was killed.
    ///
    /// # Errors
    /// As mkdir(2).
    pub fn live_folder(&self) -> Result<PathBuf> {
        self.temporary_folder()
    }

    /// Makes a new folder below `tmp`.
    ///
    /// # Errors
    /// As mkdir(2).
    pub(crate) fn temporary_folder(&self) -> Result<PathBuf> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let path = self.path("tmp").join(format!("{}-folder-{number}", std::process::id()));
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(path),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::io("make", &path)(error)),
            }
        }
    }

    /// Gives `bytes` the name `path` once they are on the disk, replacing what had it.
    ///
    /// # Errors
    /// What the system says; nothing has the name then that did not have it before.
    pub(crate) fn publish_bytes(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        self.written(bytes)?.publish(path)
    }

    /// As [`Store::publish_bytes`], for what can be made again: a power loss may take the file as if it had never been
    /// written, or bring back the one that it replaced, but never leaves half of it.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn publish_passing(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let written = self.written(bytes)?;
        written.set_mode(0o444)?;
        // Bytes first: where journals keep the order of changes, no name is there then without them.
        crate::sys::write_back(&written.file)
            .map_err(Error::io("write to the disk", &written.path))?;
        written.put(path)
    }

    fn written(&self, bytes: &[u8]) -> Result<Temporary> {
        let length = bytes.len() as u64;
        if length >= ASK_FROM {
            self.ask(length)?;
        }
        let mut temporary = self.temporary()?;
        temporary.file.write_all(bytes).map_err(Error::io("write", &temporary.path))?;
        Ok(temporary)
    }
}

/// A file without a name of its own yet; it goes when dropped unpublished.
#[derive(Debug)]
pub(crate) struct Temporary {
    pub(crate) file: File,
    pub(crate) path: PathBuf,
    is_published: bool,
}

/// A file for processes that live; it is removed with the value, or by gc when its maker was killed.
#[derive(Debug)]
pub struct LiveFile(Temporary);

impl LiveFile {
    /// Returns where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }
}

impl Temporary {
    /// Writes the file to the disk, makes it read-only and gives it its name.
    pub(crate) fn publish(self, path: &Path) -> Result<()> {
        self.publish_as(path, 0o444)
    }

    /// Writes the file to the disk and gives it a mode and its name.
    pub(crate) fn publish_as(self, path: &Path, mode: u32) -> Result<()> {
        self.set_mode(mode)?;
        self.file.sync_data().map_err(Error::io("write to the disk", &self.path))?;
        self.put(path)?;
        sync_folder(path)
    }

    fn set_mode(&self, mode: u32) -> Result<()> {
        let permissions = fs::Permissions::from_mode(mode);
        self.file.set_permissions(permissions).map_err(Error::io("set the mode of", &self.path))
    }

    /// Gives the file, whose bytes are on the disk, a name that may not last.
    pub(crate) fn put(mut self, path: &Path) -> Result<()> {
        let renamed = match fs::rename(&self.path, path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if let Some(folder) = path.parent() {
                    make_folder(folder)?;
                }
                fs::rename(&self.path, path)
            }
            other => other,
        };
        renamed.map_err(Error::io("publish", path))?;
        self.is_published = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.is_published {
            // Already gone is as good; anything else is swept with the rest of `tmp` by gc.
            drop(fs::remove_file(&self.path));
        }
    }
}

/// Opens a lock file, making it where missing, and locks it.
pub(crate) fn lock_file(path: &Path, operation: FlockOperation) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = match options.open(path) {
        // Who may only read a store can still keep others from changing it.
        Err(error) if is_shared(&operation) && is_read_only(&error) => File::open(path),
        other => other,
    };
    let file = file.map_err(Error::io("open", path))?;
    lock_open(&file, path, operation).map(|()| file)
}

fn is_shared(operation: &FlockOperation) -> bool {
    matches!(operation, FlockOperation::LockShared | FlockOperation::NonBlockingLockShared)
}

fn is_read_only(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem)
}

/// Locks an open file.
pub(crate) fn lock_open(file: &File, path: &Path, operation: FlockOperation) -> Result<()> {
    loop {
        match rustix::fs::flock(file, operation) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Error::io("lock", path)(error)),
        }
    }
}

/// Makes a folder of the store; one that is there already is as good.
pub(crate) fn make_folder(path: &Path) -> Result<()> {
    make_unsynced(path)?;
    sync_folder(path)
}

fn make_unsynced(path: &Path) -> Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(Error::io("make", path)(error))
        }
        _ => Ok(()),
    }
}

/// Writes the folder that holds `path` to the disk, so that the name lasts.
pub(crate) fn sync_folder(path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(path);
    let opened = File::open(folder).map_err(Error::io("open", folder))?;
    opened.sync_all().map_err(Error::io("write to the disk", folder))
}

/// Refuses folders of a store that others could change, and links in their place.
fn check_folders(root: &Path) -> Result<()> {
    let me = rustix::process::geteuid().as_raw();
    for folder in FOLDERS {
        let path = root.join(folder);
        let stat = fs::symlink_metadata(&path).map_err(Error::io("look at", &path))?;
        let reason = match () {
            () if !stat.is_dir() => "a folder of the store is something else",
            () if stat.uid() != me => "a folder of the store belongs to another user",
            () if stat.mode() & 0o022 != 0 => "others may write to a folder of the store",
            () => continue,
        };
        return Err(Error::UnsafePlace { path, reason });
    }
    Ok(())
}

/// Refuses a place where somebody else could change what a store says.
fn check_place(root: &Path) -> Result<()> {
    let me = rustix::process::geteuid().as_raw();
    let my_group = rustix::process::getegid().as_raw();
    for (depth, folder) in root.ancestors().enumerate() {
        if folder.as_os_str().as_bytes().is_empty() {
            continue;
        }
        let stat = fs::symlink_metadata(folder).map_err(Error::io("look at", folder))?;
        let refuse = |reason| Err(Error::UnsafePlace { path: folder.to_owned(), reason });
        if stat.uid() != me && (stat.uid() != 0 || depth == 0) {
            return refuse("it belongs to another user");
        }
        let is_sticky = stat.mode() & 0o1000 != 0 && depth > 0;
        let is_private_group = stat.uid() == me && stat.gid() == my_group && me != 0;
        if stat.mode() & 0o002 != 0 && !is_sticky {
            return refuse("anybody may write to it");
        }
        if stat.mode() & 0o020 != 0 && !is_sticky && !is_private_group && stat.gid() != 0 {
            return refuse("another group may write to it");
        }
    }
    Ok(())
}
