//! The inventory: every file of a store, and what it is by its name.
//!
//! gc, verify and stats all begin here, so they agree on what belongs to a store and what strayed
//! into it. Nothing is opened.

use std::cell::OnceCell;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rift_tree::{BlobHash, PackId, TreeHash};

use crate::error::{Error, Result};
use crate::record::{self, KINDS, Kind};
use crate::store::{FOLDERS, Store};

/// What a file of the store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    Format,
    Lock,
    Pack(PackId),
    Loose(BlobHash),
    Tree(TreeHash),
    Sidecar(TreeHash),
    Record(Kind, String),
    Segment,
    Lease,
    /// The state of a projection of this name, or its log.
    State(String),
    /// The stand-in for directories of the projection of this name.
    StandIn(String),
    /// A program of rift's own, whose content has this hash.
    Tool(BlobHash),
    Cache,
    /// Hashes of files outside the store; each slot checks itself.
    Hashes,
    /// What was found in a library.
    Patches,
    /// The folder of a tree as plain files.
    LooseForm(TreeHash),
    /// The folder of a tree of which not all is here.
    Partial(TreeHash),
    Temporary,
    Quarantined,
    /// Nothing that a store has.
    Stray,
}

/// One file of the store.
#[derive(Debug)]
pub(crate) struct StoreFile {
    pub(crate) path: PathBuf,
    pub(crate) item: Item,
    stat: Metadata,
    /// What a folder's files take, once somebody asked.
    below: OnceCell<Sizes>,
}

/// Lengths, and what they take on the disk, in bytes.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    bytes: u64,
    disk_bytes: u64,
}

impl Sizes {
    fn of(stat: &Metadata) -> Self {
        Self { bytes: stat.len(), disk_bytes: stat.blocks().saturating_mul(512) }
    }

    /// Sums up all files below a folder; what can't be read counts as nothing.
    fn below(folder: &Path) -> Self {
        let mut sum = Self { bytes: 0, disk_bytes: 0 };
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                match entry.metadata() {
                    Ok(stat) if stat.is_dir() => folders.push(entry.path()),
                    Ok(stat) => {
                        let file = Self::of(&stat);
                        sum.bytes += file.bytes;
                        sum.disk_bytes += file.disk_bytes;
                    }
                    Err(_) => {}
                }
            }
        }
        sum
    }
}

impl StoreFile {
    /// Returns the length in bytes; of a folder, that of all files below it. Files with holes count as what they take.
    pub(crate) fn bytes(&self) -> u64 {
        match self.item {
            Item::Partial(_) | Item::Hashes => self.disk_bytes(),
            _ => self.sizes().bytes,
        }
    }

    /// Returns what it takes on the disk, in bytes.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.sizes().disk_bytes
    }

    fn sizes(&self) -> Sizes {
        match self.is_directory() {
            true => *self.below.get_or_init(|| Sizes::below(&self.path)),
            false => Sizes::of(&self.stat),
        }
    }

    /// Returns when it was last written.
    pub(crate) fn modified(&self) -> SystemTime {
        self.stat.modified().unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Returns the seconds since the epoch at which it got its name.
    pub(crate) fn changed_secs(&self) -> i64 {
        self.stat.ctime()
    }

    pub(crate) fn is_directory(&self) -> bool {
        self.stat.is_dir()
    }
}

/// Lists the whole store. Files that go while it is listed are left out.
pub(crate) fn inventory(store: &Store) -> Result<Vec<StoreFile>> {
    let mut files = Vec::new();
    for entry in list(store.root())? {
        let Some((name, stat)) = named(&entry)? else { continue };
        match (name.as_str(), stat.is_dir()) {
            ("format", false) => push(&mut files, entry, Item::Format, stat),
            ("lock", false) => push(&mut files, entry, Item::Lock, stat),
            ("blobs" | "trees" | "loose", true) => fanned(&mut files, &entry, &name)?,
            (_, true)
                if ["quarantine", "partial"].contains(&&*name)
                    || FOLDERS.contains(&name.as_str()) =>
            {
                flat(&mut files, &entry, &name)?;
            }
            _ => push(&mut files, entry, Item::Stray, stat),
        }
    }
    Ok(files)
}

fn push(files: &mut Vec<StoreFile>, path: PathBuf, item: Item, stat: Metadata) {
    files.push(StoreFile { path, item, stat, below: OnceCell::new() });
}

/// Lists a folder whose files have names of their own.
fn flat(files: &mut Vec<StoreFile>, folder: &Path, kind: &str) -> Result<()> {
    for entry in list(folder)? {
        let Some((name, stat)) = named(&entry)? else { continue };
        let record = KINDS.into_iter().find(|one| one.folder() == kind);
        let item = match (kind, record) {
            ("quarantine", _) => Item::Quarantined,
            ("tmp", _) => Item::Temporary,
            ("partial", _) if stat.is_dir() => {
                TreeHash::from_hex(name.as_bytes()).map_or(Item::Stray, Item::Partial)
            }
            ("states", _) if stat.is_dir() => {
                let projection = name.strip_suffix(".d").unwrap_or_default();
                match TreeHash::from_hex(projection.as_bytes()) {
                    Ok(_) => Item::StandIn(projection.to_owned()),
                    Err(_) => Item::Stray,
                }
            }
            _ if !stat.is_file() => Item::Stray,
            (_, Some(record)) => match record::unescape(&name) {
                Some(name) => Item::Record(record, name),
                None => Item::Stray,
            },
            ("packs", _) => match name.strip_suffix(".pack").map(str::as_bytes) {
                Some(hex) => PackId::from_hex(hex).map_or(Item::Stray, Item::Pack),
                None => Item::Stray,
            },
            ("actions", _) if name == "lock" => Item::Lock,
            ("actions", _) => match name.strip_suffix(".log").map(str::parse::<u64>) {
                Some(Ok(_)) => Item::Segment,
                _ => Item::Stray,
            },
            ("leases", _) => Item::Lease,
            ("states", _) => match TreeHash::from_hex(name.trim_end_matches(".log").as_bytes()) {
                Ok(_) => Item::State(name),
                Err(_) => Item::Stray,
            },
            ("tools", _) if name.starts_with(crate::store::PATCHES) => Item::Patches,
            ("tools", _) => {
                let hash = name.split('-').next().unwrap_or_default();
                BlobHash::from_hex(hash.as_bytes()).map_or(Item::Stray, Item::Tool)
            }
            ("index", _) if name == "hashes" => Item::Hashes,
            ("index", _) if ["blobs", "stamps", "size"].contains(&name.as_str()) => Item::Cache,
            _ => Item::Stray,
        };
        push(files, entry, item, stat);
    }
    Ok(())
}

/// Lists a folder whose files are named by hashes and fanned out by the first byte.
fn fanned(files: &mut Vec<StoreFile>, folder: &Path, kind: &str) -> Result<()> {
    for fan in list(folder)? {
        let Some((byte, stat)) = named(&fan)? else { continue };
        if !stat.is_dir() || byte.len() != 2 {
            push(files, fan, Item::Stray, stat);
            continue;
        }
        for entry in list(&fan)? {
            let Some((name, stat)) = named(&entry)? else { continue };
            let hex = name.as_bytes();
            let tree = TreeHash::from_hex(hex.get(..64).unwrap_or_default());
            let suffix = hex.get(64..).unwrap_or_default();
            let item = match (kind, tree, stat.is_file()) {
                _ if !name.starts_with(&byte) => Item::Stray,
                ("loose", Ok(tree), _) if is_umask(suffix) => Item::LooseForm(tree),
                ("blobs", _, true) => BlobHash::from_hex(hex).map_or(Item::Stray, Item::Loose),
                ("trees", Ok(tree), true) if suffix.is_empty() => Item::Tree(tree),
                ("trees", Ok(tree), true) if suffix == b".loc" => Item::Sidecar(tree),
                _ => Item::Stray,
            };
            push(files, entry, item, stat);
        }
    }
    Ok(())
}

/// Tells whether a loose form's name ends as it has to, with the umask that it was made under.
fn is_umask(suffix: &[u8]) -> bool {
    matches!(suffix, [b'-', digits @ ..] if digits.len() == 3 && digits.iter().all(|digit| matches!(digit, b'0'..=b'7')))
}

fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in record::read_folder(folder)? {
        paths.push(entry.map_err(Error::io("list", folder))?.path());
    }
    paths.sort();
    Ok(paths)
}

/// Returns an entry's name and what lstat(2) says; `None` when it is gone.
fn named(path: &Path) -> Result<Option<(String, Metadata)>> {
    match fs::symlink_metadata(path) {
        Ok(stat) => {
            let name = path.file_name().map(OsStrExt::as_bytes).unwrap_or_default();
            Ok(Some((String::from_utf8_lossy(name).into_owned(), stat)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("look at", path)(error)),
    }
}
