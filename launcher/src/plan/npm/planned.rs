//! What a plan found: the trees that an install makes, kept under the install's key.
//!
//! The record is JSON in a self-checking file, in which gc finds the trees by their hashes. It holds no content: a tree that the store no longer
//! has, or scripts whose result it does not have, make the plan a miss or a partial hit.

use std::path::{Component, Path, PathBuf};

use rift_cas::Store;
use rift_cas::record::Kind;
use rift_tree::TreeHash;
use serde::{Deserialize, Serialize};

use crate::plan::shareable::Shareable;

/// Changes whenever the record does.
const VERSION: u32 = 2;

/// The result of an install.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    version: u32,
    /// The trees, each with the folder it is shown at.
    pub roots: Vec<PlannedRoot>,
    /// The number in npm's `added N packages`.
    pub added: u64,
    /// Packages whose scripts have to run each time, by their path in the project; the trees hold
    /// them as they are before.
    pub pending: Vec<String>,
    /// Packages whose scripts' results are in the trees.
    pub built: u64,
    /// Packages in the trees.
    pub packages: u64,
    /// Linked folders whose scripts run each time, in npm's order.
    pub linked: Vec<String>,
    /// Commands of linked folders, which npm makes executable, relative to the project, wherever that is.
    pub linked_bins: Vec<PathBuf>,
    /// The run of npm itself that this was learnt from.
    pub original: Option<Original>,
    /// The parts of remotes that have it, each with the key that signed it there: `ADDRESS HEX`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared: Vec<String>,
}

/// A tree and where it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedRoot {
    /// The folder, relative to the project.
    pub folder: String,
    /// The tree hash, in hexadecimal.
    pub tree: String,
}

impl PlannedRoot {
    /// Returns the tree hash; `None` when the record holds none.
    #[must_use]
    pub fn tree(&self) -> Option<TreeHash> {
        TreeHash::from_hex(self.tree.as_bytes()).ok()
    }
}

/// A run of the tool itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Original {
    /// How long it took, in milliseconds.
    pub elapsed_ms: u64,
    /// What it ran on.
    pub hardware: String,
}

impl Planned {
    /// Starts a record.
    #[must_use]
    pub fn new(roots: Vec<PlannedRoot>, added: u64) -> Self {
        Self {
            version: VERSION,
            roots,
            added,
            pending: Vec::new(),
            built: 0,
            packages: 0,
            linked: Vec::new(),
            linked_bins: Vec::new(),
            original: None,
            shared: Vec::new(),
        }
    }

    /// Reads the record of a key; `None` when there is none that can be used.
    ///
    /// # Errors
    /// What the system says. A damaged record is as good as none: it is written anew.
    pub fn find(store: &Store, key: &str) -> rift_cas::Result<Option<Self>> {
        let payload = match store.record(Kind::Plan, key) {
            Err(rift_cas::Error::Damaged { .. }) => None,
            other => other?,
        };
        Ok(payload.and_then(|payload| Self::decode(&payload)))
    }

    /// Reads the payload of a record; `None` when it is not one that can be used.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let read: Option<Self> = serde_json::from_slice(payload).ok();
        read.filter(|planned| planned.version == VERSION)
    }

    /// Writes the record of a key.
    ///
    /// # Errors
    /// What the system says.
    pub fn save(&self, store: &Store, key: &str) -> anyhow::Result<()> {
        store.set_record(Kind::Plan, key, &self.record()?)?;
        Ok(())
    }

    /// Returns the payload of the record.
    ///
    /// # Errors
    /// None of these values can't be encoded.
    pub fn record(&self) -> anyhow::Result<Vec<u8>> {
        Ok(serde_json::to_vec_pretty(self)?)
    }
}

impl Shareable for Planned {
    fn find(store: &Store, key: &str) -> rift_cas::Result<Option<Self>> {
        Self::find(store, key)
    }

    fn save(&self, store: &Store, key: &str) -> anyhow::Result<()> {
        self.save(store, key)
    }

    fn of_others(payload: &[u8]) -> Option<Self> {
        Self::decode(payload).filter(stays_in_project)
    }

    fn record(&self) -> anyhow::Result<Vec<u8>> {
        self.record()
    }

    fn trees(&self) -> Option<Vec<TreeHash>> {
        self.roots.iter().map(PlannedRoot::tree).collect()
    }

    fn shared(&mut self) -> &mut Vec<String> {
        &mut self.shared
    }

    fn is_whole(&self) -> bool {
        self.pending.is_empty()
    }

    /// What a package's archive holds its registry has given away; what scripts have made of it may hold secrets.
    fn may_hold_secrets(&self) -> bool {
        self.built > 0
    }
}

/// Tells whether all that a plan names lies in the project: who signed it may write there, and nowhere else.
fn stays_in_project(planned: &Planned) -> bool {
    let goes_down = |path: &Path| {
        let mut depth = 0_i32;
        path.components().all(|part| {
            depth += match part {
                Component::Normal(_) => 1,
                Component::CurDir => 0,
                Component::ParentDir => -1,
                Component::RootDir | Component::Prefix(_) => i32::MIN,
            };
            depth >= 0
        })
    };
    let is_folder = |folder: &str| {
        let path = Path::new(folder);
        path.components().all(|part| matches!(part, Component::Normal(_)))
            && path.ends_with("node_modules")
    };
    planned.roots.iter().all(|root| is_folder(&root.folder))
        && planned.linked.iter().all(|path| goes_down(Path::new(path)))
        && planned.linked_bins.iter().all(|path| goes_down(path))
}

/// Describes the machine, to tell times measured here from those measured elsewhere.
#[must_use]
pub fn hardware() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let model = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{model}, {cores} cores")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_stays_in_its_project() {
        let plan = |folder: &str, linked: &str, bin: &str| {
            let tree = "0".repeat(64);
            let mut plan = Planned::new(vec![PlannedRoot { folder: folder.to_owned(), tree }], 1);
            plan.linked.push(linked.to_owned());
            plan.linked_bins.push(bin.into());
            stays_in_project(&plan)
        };
        assert!(plan("node_modules", "packages/a", "node_modules/a/../../packages/a/x.js"));
        assert!(plan("packages/a/node_modules", "a", "a"));
        for (folder, linked, bin) in [
            ("../node_modules", "a", "a"),
            ("/node_modules", "a", "a"),
            ("src", "a", "a"),
            ("node_modules", "../a", "a"),
            ("node_modules", "/a", "a"),
            ("node_modules", "a", "a/../../b"),
            ("node_modules", "a", "/etc/x"),
        ] {
            assert!(!plan(folder, linked, bin), "{folder} {linked} {bin}");
        }
    }
}
