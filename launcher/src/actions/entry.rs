//! What is kept of an action: what it found, and what it made of that.

use std::collections::HashMap;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use anyhow::{Context as _, bail};
use rift_cas::Store;
use rift_cas::hashes::{FileStamp, Hashes};
use rift_cas::record::Kind;
use rift_cas::tree::OpenTree;
use rift_tree::{BlobHash, EntryId, Kind as EntryKind, TreeHash};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use super::EntryName;
use super::roots::Roots;
use crate::paths::{decoded, escaped};

/// How many results are kept of what is told the same.
const ENTRIES_MAX: usize = 8;
/// The file of an entry's tree that says all but what files held.
pub(super) const ABOUT: &str = "action";

/// What was there when an action asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// A file that held this, by its BLAKE3 in hexadecimal.
    File(String),
    /// Nothing.
    Nothing,
    /// Something of this type, see `S_IFMT` in inode(7), or of any where it is 0; of a file also its size.
    Kind(u32, u64),
    /// A symbolic link to here.
    Link(String),
    /// No symbolic link, but something.
    NoLink,
    /// A directory with these names, by the hash of all.
    Names(String),
}

impl Found {
    /// Says how what is there now is another than this, for people.
    #[must_use]
    pub fn differs(&self) -> &'static str {
        match self {
            Self::File(_) => "holds something else",
            Self::Nothing => "is there now",
            Self::Kind(..) => "is of another kind or size",
            Self::Link(_) | Self::NoLink => "leads elsewhere",
            Self::Names(_) => "has other names",
        }
    }
}

/// Where something was found.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Observation {
    /// The path, with tokens.
    pub path: String,
    /// What was there.
    pub found: Found,
    /// A link at the end was not followed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_itself: bool,
}

/// What an action left, in the order in which it was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Left {
    /// A file: its path, its permissions, its place in the tree, and whether that has tokens.
    File {
        /// With tokens.
        path: String,
        /// See chmod(2).
        mode: u32,
        /// The name of the file in the tree.
        name: String,
        /// What it held has tokens as well.
        is_text: bool,
    },
    /// A directory.
    Directory(String),
    /// A symbolic link, and where it leads.
    Link(String, String),
    /// Nothing any more.
    Nothing(String),
}

/// An action, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The program's name, for people.
    pub program: String,
    /// What it found.
    pub observations: Vec<Observation>,
    /// What it left.
    pub left: Vec<Left>,
    /// What it said: on stdout (1) or stderr (2), with tokens.
    pub said: Vec<(u64, String)>,
    /// Places that what it left holds: it is of use only where they are these.
    pub pinned: Vec<(char, String)>,
    /// The processor time that it took, in nanoseconds.
    pub cpu_ns: u64,
}

/// The record of a key: the trees of its entries, the last one first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Entries {
    entries: Vec<EntryName>,
}

/// Returns the name of the record of a key.
fn record_name(key: &str) -> String {
    format!("action {key}")
}

impl Entries {
    /// Reads what is kept under a key; a damaged record is as good as none.
    ///
    /// # Errors
    /// What the system says.
    pub fn find(store: &Store, key: &str) -> rift_cas::Result<Self> {
        let payload = match store.record(Kind::Plan, &record_name(key)) {
            Err(rift_cas::Error::Damaged { .. }) => None,
            other => other?,
        };
        Ok(payload.and_then(|payload| serde_json::from_slice(&payload).ok()).unwrap_or_default())
    }

    /// Keeps one more entry under a key, before all others.
    ///
    /// # Errors
    /// What the system says.
    pub fn add(store: &Store, key: &str, name: EntryName) -> anyhow::Result<()> {
        let mut all = Self::find(store, key)?;
        all.entries.retain(|known| !known.is_same(&name));
        all.entries.insert(0, name);
        all.save(store, key)
    }

    /// Keeps one more entry under a key, behind those that were used here; nothing where there is no room.
    ///
    /// # Errors
    /// What the system says.
    pub fn add_behind(store: &Store, key: &str, name: EntryName) -> anyhow::Result<()> {
        let mut all = Self::find(store, key)?;
        if all.entries.iter().any(|known| known.is_same(&name)) {
            return Ok(());
        }
        // What others have used before is as good as gone.
        all.entries.retain(|known| Kept::open(store, known).is_some());
        all.entries.push(name);
        all.save(store, key)
    }

    /// Notes that a run has done the same as an entry says.
    ///
    /// # Errors
    /// What the system says.
    pub fn confirm(store: &Store, key: &str, name: &EntryName) -> anyhow::Result<()> {
        let mut all = Self::find(store, key)?;
        for known in all.entries.iter_mut().filter(|known| known.is_same(name)) {
            known.is_confirmed = true;
        }
        all.save(store, key)
    }

    fn save(mut self, store: &Store, key: &str) -> anyhow::Result<()> {
        self.entries.truncate(ENTRIES_MAX);
        store.set_record(Kind::Plan, &record_name(key), &serde_json::to_vec(&self)?)?;
        Ok(())
    }

    /// Notes that what is kept under a key was used.
    pub fn touch(store: &Store, key: &str) {
        // It is evicted sooner, else.
        let _noted = store.touch_plan(&record_name(key)).is_ok();
    }

    /// Returns all entries that the store still has; a process with the number `bringer` may bring what they hold.
    pub fn kept<'s>(
        &'s self,
        store: &'s Store,
        bringer: Option<u32>,
    ) -> impl Iterator<Item = (&'s EntryName, Kept)> + 's {
        self.entries.iter().filter_map(move |name| {
            let kept = Kept::open(store, name)?;
            Some((name, Kept { bringer, ..kept }))
        })
    }
}

/// An entry in the store.
#[derive(Debug)]
pub struct Kept {
    tree: OpenTree,
    folder: EntryId,
    /// The number of the process that brings what has not come yet.
    bringer: Option<u32>,
}

impl Kept {
    /// Opens an entry; `None` where the store has it no more.
    #[must_use]
    pub fn open(store: &Store, name: &EntryName) -> Option<Self> {
        let hash = TreeHash::from_hex(name.tree.as_bytes()).ok()?;
        let tree = match store.open_tree(hash).ok()? {
            Some(tree) => tree,
            None => store.open_partial(hash).ok()??,
        };
        let folder = tree.manifest().child_named(EntryId::ROOT, name.folder.as_bytes())?;
        Some(Self { tree, folder, bringer: None })
    }

    /// Reads what it says.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn entry(&self) -> anyhow::Result<Entry> {
        Ok(serde_json::from_slice(self.bytes(ABOUT)?.0)?)
    }

    /// Returns the bytes of one of its files, which are checked, and their hash; waits for them while somebody brings them.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn bytes(&self, name: &str) -> anyhow::Result<(&[u8], BlobHash)> {
        let manifest = self.tree.manifest();
        let id = manifest.child_named(self.folder, name.as_bytes()).context("it is not there")?;
        let Some(EntryKind::File { blob, size }) = manifest.kind(id) else {
            bail!("it is no file")
        };
        if let Some(partial) = self.tree.partial() {
            // Who waits for a remote that fails, waits longer than the program takes.
            let is_brought = || !partial.is_down() && self.bringer.is_some_and(is_running);
            let come = partial.wait_while(&manifest, blob, is_brought);
            come.context("a remote has it, and it has not come")?;
        }
        let bytes = self.tree.bytes(&self.tree.sidecar(), blob, size);
        let bytes = bytes.context("the store has lost it")?;
        let hash = BlobHash::from_bytes(*blake3::hash(bytes).as_bytes());
        if manifest.blob_hash(blob) != Some(hash) {
            bail!("the store's bytes are damaged");
        }
        Ok((bytes, hash))
    }
}

/// Tells whether a process is there, as far as this one can see.
fn is_running(process: u32) -> bool {
    let process = i32::try_from(process).ok().and_then(Pid::from_raw);
    process.is_some_and(|process| rustix::process::test_kill_process(process).is_ok())
}

impl Entry {
    /// Returns a place that what it left names and that is another one here.
    #[must_use]
    pub fn elsewhere(&self, roots: &Roots) -> Option<&str> {
        let is_here = |(letter, place): &&(char, String)| {
            roots.place(*letter).is_some_and(|here| escaped(here) == *place)
        };
        let other = self.pinned.iter().find(|pinned| !is_here(pinned));
        other.map(|(_, place)| place.as_str())
    }

    /// Tells why it is of no use now: how many things are not as they were found, and the first of them; nothing where all are.
    #[must_use]
    pub fn differs(&self, roots: &Roots, look: &mut Look<'_>) -> Option<(usize, String)> {
        if let Some(place) = self.elsewhere(roots) {
            return Some((usize::MAX, format!("what it left names `{place}`")));
        }
        let mut differing = self.observations.iter().filter(|one| !look.holds(roots, one));
        let first = differing.next()?;
        let was = first.found.differs();
        let path = roots.lengthen(decoded(&first.path).as_os_str().as_bytes()).unwrap_or_default();
        let why = format!("`{}` {was}", crate::ui::printable(&String::from_utf8_lossy(&path)));
        Some((1 + differing.count(), why))
    }
}

/// Looks at what is there, once for each path.
pub struct Look<'h> {
    hashes: &'h Hashes,
    known: HashMap<(PathBuf, bool), Result<(u32, FileStamp), i32>>,
}

impl<'h> Look<'h> {
    /// Begins to look, with these hashes.
    #[must_use]
    pub fn new(hashes: &'h Hashes) -> Self {
        Self { hashes, known: HashMap::new() }
    }

    /// Tells whether something is as it was found.
    pub(super) fn holds(&mut self, roots: &Roots, observation: &Observation) -> bool {
        let Some(path) = place(roots, &observation.path) else { return false };
        let stat = self.stat(&path, observation.is_itself);
        match (&observation.found, stat) {
            (Found::Nothing, Err(error)) => is_nothing(error),
            // That something is there was all that was asked.
            (Found::Kind(0, _), Ok(_)) => true,
            (Found::Kind(kind, size), Ok((mode, stamp))) => {
                mode & libc::S_IFMT == *kind && (*kind != libc::S_IFREG || stamp.size == *size)
            }
            (Found::File(hash), Ok((mode, stamp))) => {
                mode & libc::S_IFMT == libc::S_IFREG
                    && self.hashes.of(&path, stamp).is_ok_and(|found| found.to_string() == *hash)
            }
            (Found::Link(target), _) => {
                let shorten = |found: PathBuf| roots.shorten(found.as_os_str().as_bytes());
                fs::read_link(&path).ok().and_then(shorten).is_some_and(|found| {
                    escaped(Path::new(std::ffi::OsStr::from_bytes(&found))) == *target
                })
            }
            (Found::NoLink, _) => {
                self.stat(&path, true).is_ok_and(|(mode, _)| mode & libc::S_IFMT != libc::S_IFLNK)
            }
            (Found::Names(names), Ok(_)) => names_of(&path).is_ok_and(|found| found == *names),
            _ => false,
        }
    }

    fn stat(&mut self, path: &Path, is_itself: bool) -> Result<(u32, FileStamp), i32> {
        *self.known.entry((path.to_owned(), is_itself)).or_insert_with(|| {
            let stat = if is_itself { path.symlink_metadata() } else { path.metadata() };
            match stat {
                Ok(stat) => Ok((stat.mode(), FileStamp::of(&stat))),
                Err(error) => Err(error.raw_os_error().unwrap_or(libc::EIO)),
            }
        })
    }
}

/// Tells whether an error says that nothing is there.
pub(super) fn is_nothing(error: i32) -> bool {
    matches!(error, libc::ENOENT | libc::ENOTDIR)
}

/// Returns the path that is meant here.
pub(super) fn place(roots: &Roots, path: &str) -> Option<PathBuf> {
    let bytes = roots.lengthen(decoded(path).as_os_str().as_bytes())?;
    Some(PathBuf::from(std::ffi::OsString::from_vec(bytes)))
}

/// Returns the hash of all names of a directory.
pub(super) fn names_of(path: &Path) -> io::Result<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        names.push(entry?.file_name());
    }
    names.sort();
    let mut hasher = blake3::Hasher::new();
    for name in names {
        hasher.update(name.as_bytes()).update(b"\0");
    }
    Ok(hasher.finalize().to_hex().to_string())
}
