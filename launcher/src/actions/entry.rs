//! What is kept of an action: what it found, and what it made of that.

use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use rift_cas::hashes::Hashes;
use rift_cas::record::Kind;
use rift_cas::tree::OpenTree;
use rift_cas::{Store, secrets};
use rift_tree::{BlobHash, EntryId, Kind as EntryKind, TreeHash};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use super::EntryName;
use super::found;
use super::roots::Roots;
use crate::paths::{decoded, escaped};

/// How many results are kept of what is told the same.
const ENTRIES_MAX: usize = 8;
/// The file of an entry's tree that says what the action did, but for what files held: a [`Done`], as JSON.
pub(super) const DONE: &str = "action";
/// The file of an entry's tree that says what the action found, see `found.rs`.
pub(super) const FOUND: &str = "found";

/// What was there when an action asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// A file that held this.
    File(#[serde(with = "hexadecimal")] BlobHash),
    /// Nothing.
    Nothing,
    /// Something of this type, see `S_IFMT` in inode(7), or of any where it is 0; of a file also its size.
    Kind(u32, u64),
    /// A symbolic link to here.
    Link(String),
    /// No symbolic link, but something.
    NoLink,
    /// A directory with these names, by the hash of all.
    Names(#[serde(with = "hexadecimal")] BlobHash),
}

/// Hashes as text.
mod hexadecimal {
    use rift_tree::BlobHash;
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        hash: &BlobHash,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(hash)
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(
        deserializer: D,
    ) -> Result<BlobHash, D::Error> {
        let text = String::deserialize(deserializer)?;
        BlobHash::from_hex(text.as_bytes()).map_err(D::Error::custom)
    }
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

/// What an action found, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it found.
    pub observations: Vec<Observation>,
    /// What it did.
    pub done: Done,
}

/// What an action did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// The program's name, for people.
    pub program: String,
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
    tree: Arc<OpenTree>,
    folder: EntryId,
    /// The number of the process that brings what has not come yet.
    bringer: Option<u32>,
}

impl Kept {
    /// Opens an entry; `None` where the store has it no more.
    #[must_use]
    pub fn open(store: &Store, name: &EntryName) -> Option<Self> {
        let hash = TreeHash::from_hex(name.tree.as_bytes()).ok()?;
        let tree = match store.open_briefly(hash).ok()? {
            Some(tree) => tree,
            None => store.open_partial(hash).ok()??,
        };
        Self::within(Arc::new(tree), &name.folder)
    }

    /// Returns the entry that a folder of a tree is; `None` where there is no such folder.
    #[must_use]
    pub fn within(tree: Arc<OpenTree>, folder: &str) -> Option<Self> {
        let folder = tree.manifest().child_named(EntryId::ROOT, folder.as_bytes())?;
        Some(Self { tree, folder, bringer: None })
    }

    /// Returns the names, sizes in bytes and hashes of its files; `None` where it holds anything else.
    #[must_use]
    pub fn files(&self) -> Option<Vec<(&[u8], u64, BlobHash)>> {
        let manifest = self.tree.manifest();
        let file = |id| match (manifest.kind(id)?, manifest.name(id)?) {
            (EntryKind::File { blob, size }, name) => Some((name, size, manifest.blob_hash(blob)?)),
            _ => None,
        };
        manifest.children(self.folder).map(file).collect()
    }

    /// Returns what tells whether two entries of a key mean the same, where this one is whole.
    #[must_use]
    pub fn meaning(&self) -> Option<[[u8; 32]; 2]> {
        let hash_of = |name| {
            let (blob, _) = self.file(name).ok()?;
            self.tree.manifest().blob_hash(blob).map(|hash| *hash.as_bytes())
        };
        Some([hash_of(DONE)?, hash_of(FOUND)?])
    }

    /// Reads all that it says.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn entry(&self) -> anyhow::Result<Entry> {
        Ok(Entry { observations: self.observations()?, done: self.done()? })
    }

    /// Reads what the action found.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn observations(&self) -> anyhow::Result<Vec<Observation>> {
        found::decode(self.bytes(FOUND)?.0)
    }

    /// Reads what the action did.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn done(&self) -> anyhow::Result<Done> {
        Ok(serde_json::from_slice(self.bytes(DONE)?.0)?)
    }

    /// Returns a file that the action left and that must not leave the machine, and what it holds.
    ///
    /// # Errors
    /// What is wrong with the entry.
    pub fn secret(&self) -> anyhow::Result<Option<(String, &'static str)>> {
        for left in self.done()?.left {
            let Left::File { path, name, .. } = left else { continue };
            let (_, size) = self.file(&name)?;
            let bytes = || self.bytes(&name).ok().map(|(bytes, _)| bytes);
            let place = decoded(&path);
            if let Some(holds) = secrets::in_file(place.as_os_str().as_bytes(), size, bytes) {
                return Ok(Some((path, holds)));
            }
        }
        Ok(None)
    }

    /// Tells how many things are not as the action found them, and how the first of them differs, for people; nothing where all are.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn differs(
        &self,
        roots: &Roots,
        hashes: &Hashes,
    ) -> anyhow::Result<Option<(usize, String)>> {
        found::differing(self.bytes(FOUND)?.0, roots, hashes)
    }

    /// Returns the number of one of its files in the tree, and its size in bytes.
    fn file(&self, name: &str) -> anyhow::Result<(u32, u64)> {
        let manifest = self.tree.manifest();
        let id = manifest.child_named(self.folder, name.as_bytes()).context("it is not there")?;
        match manifest.kind(id) {
            Some(EntryKind::File { blob, size }) => Ok((blob, size)),
            _ => bail!("it is no file"),
        }
    }

    /// Returns the bytes of one of its files, which are checked, and their hash; waits for them while somebody brings them.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn bytes(&self, name: &str) -> anyhow::Result<(&[u8], BlobHash)> {
        let manifest = self.tree.manifest();
        let (blob, size) = self.file(name)?;
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

impl Done {
    /// Returns a place that what it left names and that is another one here.
    #[must_use]
    pub fn elsewhere(&self, roots: &Roots) -> Option<&str> {
        let is_here = |(letter, place): &&(char, String)| {
            roots.place(*letter).is_some_and(|here| escaped(here) == *place)
        };
        let other = self.pinned.iter().find(|pinned| !is_here(pinned));
        other.map(|(_, place)| place.as_str())
    }
}
