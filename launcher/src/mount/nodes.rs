//! The nodes of a view: which number the kernel knows a file by, and where its real file is.
//!
//! An entry of the tree has its own number for the projection's life, so that making it real changes
//! nothing: entry 0, the root, is node 1. Every other file is named by the inode of the real file. Numbers
//! are what stat(2) shows, and stay below 2^32 where the file system's do.
//!
//! An entry whose word says *detached* is at its own place unless this table knows better: it was moved,
//! has further names, or lost its last one while somebody may still have it open. Then the real file is an
//! *orphan*: kept under its number in [`ORPHANS`], out of sight, until the kernel forgets the node.

use std::collections::HashMap;

use rift_tree::EntryId;
use rustix::fs::Timespec;

/// The number of a node, as in `st_ino`.
pub(super) type Node = u64;

/// The node of the root, see fuse(4).
pub(super) const ROOT: Node = 1;
/// Where orphans are, below the real directory.
pub(super) const ORPHANS: &[u8] = rift_tree::state::ORPHANS.as_bytes();
/// Returns the name of a file among the orphans.
pub(super) fn orphan_name(node: Node) -> Vec<u8> {
    format!("{node:x}").into_bytes()
}

/// Tells orphans from what else is there: scratch files and notes.
pub(super) fn is_orphan_name(name: &[u8]) -> bool {
    name.iter().all(u8::is_ascii_hexdigit)
}

/// Numbers of files that the tree does not have begin here; a tree has fewer entries than that.
const FOREIGN: Node = 1 << 31;

/// Returns the node of an entry.
pub(super) fn of_entry(id: EntryId) -> Node {
    Node::from(id.0) + 1
}

/// Returns the node of a real file that was made of no entry.
pub(super) fn of_foreign(inode: u64) -> Node {
    FOREIGN.wrapping_add(inode)
}

/// Returns the entry of a node, if it is one's.
pub(super) fn entry(node: Node) -> Option<EntryId> {
    // Below 2^31, so it fits.
    (node < FOREIGN).then(|| EntryId((node as u32).saturating_sub(1)))
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) parent: Node,
    pub(super) name: Box<[u8]>,
}

/// What is known of a real file beside what its own place would say.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Its names that were met, the last one first; that one leads to it.
    pub(super) links: Vec<Link>,
    /// How often the kernel was told of a file that the tree does not have.
    lookups: u64,
    /// It lost its last name and is among the orphans.
    pub(super) is_orphan: bool,
    /// Its file, where no name may lead to it any more: that of an orphan whose place had to go, or one
    /// that is open while other views change names too.
    pub(super) held: Option<std::sync::Arc<std::os::fd::OwnedFd>>,
    /// How often it is open, where that keeps `held`.
    pub(super) opens: u64,
    /// A directory that lost its name, and what stat(2) said then. The descriptor keeps its inode number,
    /// and so its node, from being the next one's while the kernel still knows it.
    pub(super) removed: Option<(rustix::fs::Stat, std::os::fd::OwnedFd)>,
}

/// All that is known of real files.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    known: HashMap<Node, Known>,
    /// When a pristine directory lost an entry. It becomes real with this time when something is put into it,
    /// when it is synced, and when the projection is unmounted.
    pub(super) touched: HashMap<EntryId, Timespec>,
}

impl Nodes {
    pub(super) fn get(&self, node: Node) -> Option<&Known> {
        self.known.get(&node)
    }

    pub(super) fn get_mut(&mut self, node: Node) -> &mut Known {
        self.known.entry(node).or_default()
    }

    /// Returns every orphan that has a place.
    pub(super) fn orphans(&mut self) -> impl Iterator<Item = (Node, &mut Known)> {
        let known = self.known.iter_mut().map(|(node, known)| (*node, known));
        known.filter(|(_, known)| known.is_orphan && known.held.is_none())
    }

    /// Notes a name of a real file, and that the kernel is told of it `times` times more.
    pub(super) fn meet(&mut self, node: Node, parent: Node, name: &[u8], times: u64) {
        let known = self.get_mut(node);
        known.lookups += times;
        let is_it = |link: &Link| link.parent == parent && *link.name == *name;
        match known.links.iter().position(is_it) {
            Some(at) => known.links[..=at].rotate_right(1),
            None => known.links.insert(0, Link { parent, name: name.into() }),
        }
    }

    /// Drops a name of a real file; tells whether it has another one that is known.
    pub(super) fn lose(&mut self, node: Node, parent: Node, name: &[u8]) -> bool {
        let known = self.get_mut(node);
        known.links.retain(|link| link.parent != parent || *link.name != *name);
        !known.links.is_empty()
    }

    /// Gives a name of a real file a new place.
    pub(super) fn rename(&mut self, node: Node, from: &Link, to: Link) {
        let known = self.get_mut(node);
        known.links.retain(|link| link != from && *link != to);
        known.links.insert(0, to);
    }

    /// The kernel forgets `times` of what it was told of a node. Returns what was known of it when
    /// that was the last, and nothing else keeps it.
    pub(super) fn forget(&mut self, node: Node, times: u64) -> Option<Known> {
        let known = self.known.get_mut(&node)?;
        known.lookups = known.lookups.saturating_sub(times);
        // An entry's place is needed for as long as the projection lives.
        let is_nameless = known.is_orphan || known.removed.is_some();
        let is_over = known.lookups == 0 && (entry(node).is_none() || is_nameless);
        is_over.then(|| self.known.remove(&node)).flatten()
    }
}
