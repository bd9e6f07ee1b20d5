//! Composes one tree out of others grafted at paths.
//!
//! The result is an ordinary manifest: the same bytes that a [`Builder`](crate::builder::Builder)
//! would write for the same entries, so readers know one form only. What makes composing cheap is
//! the numbering: everything below a directory is one range of entries, so a grafted tree is copied
//! column by column with its numbers shifted, without hashing or sorting a name. Only directories
//! in which both a graft and the skeleton have entries are merged child by child.

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

use crate::builder::{Attributes, BuildError, Built, Columns, Item};
use crate::manifest::{EntryId, Kind, Manifest};
use crate::name;

/// Where a composed tree's blob comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobSource {
    /// A file of the skeleton.
    Skeleton,
    /// Blob number `blob` of graft number `graft`.
    Graft {
        /// The graft's number, in the order of the calls.
        graft: u32,
        /// The blob's number in its manifest.
        blob: u32,
    },
}

/// A composed tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Composed {
    /// Its manifest.
    pub built: Built,
    /// Where each blob of the manifest comes from.
    pub sources: Vec<BlobSource>,
}

/// What the skeleton has at a path.
enum Own {
    /// A directory that is here because something below it is.
    Implied,
    Item(Item),
    Graft(usize),
}

#[derive(Default)]
struct Node {
    own: Option<Own>,
    children: BTreeMap<Vec<u8>, usize>,
}

/// Collects a skeleton and grafts.
pub struct Composer<'a> {
    nodes: Vec<Node>,
    grafts: Vec<Manifest<'a>>,
    implied_permissions: u16,
}

/// A directory entry of a graft: the graft's number, and the entry in its manifest.
type Grafted = (usize, EntryId);

/// One directory that waits to be written.
#[derive(Clone, Copy)]
struct Pending {
    out: u32,
    node: Option<usize>,
    source: Option<Grafted>,
}

impl<'a> Composer<'a> {
    /// Starts a stamped tree; directories that nobody gives get `implied_permissions`.
    #[must_use]
    pub fn new(implied_permissions: u16) -> Self {
        let root = Node { own: Some(Own::Implied), children: BTreeMap::new() };
        Self { nodes: vec![root], grafts: Vec::new(), implied_permissions }
    }

    /// Puts a directory, file or link at `path`. It hides what a graft has there, but a directory
    /// is merged with a graft's.
    ///
    /// # Errors
    /// A path or target that no tree can hold, or a path given twice.
    pub fn put(&mut self, path: &[u8], item: Item) -> Result<(), BuildError> {
        if let Item::Symlink { target } = &item
            && (target.is_empty() || target.contains(&0))
        {
            return Err(BuildError::Target(path.to_vec()));
        }
        self.place(path, Own::Item(item))
    }

    /// Grafts `tree` at `path`: its root becomes the directory `path`.
    ///
    /// # Errors
    /// As [`Composer::put`].
    pub fn graft(&mut self, path: &[u8], tree: Manifest<'a>) -> Result<(), BuildError> {
        self.grafts.push(tree);
        self.place(path, Own::Graft(self.grafts.len() - 1))
    }

    fn place(&mut self, path: &[u8], own: Own) -> Result<(), BuildError> {
        if !name::is_valid_path(path) {
            return Err(BuildError::Path(path.to_vec()));
        }
        let mut at = 0;
        if !path.is_empty() {
            for part in path.split(|&byte| byte == b'/') {
                if matches!(&self.nodes[at].own, Some(Own::Item(item)) if !is_directory(item)) {
                    return Err(BuildError::Parent(path.to_vec()));
                }
                at = match self.nodes[at].children.get(part) {
                    Some(child) => *child,
                    None => {
                        self.nodes.push(Node::default());
                        let child = self.nodes.len() - 1;
                        self.nodes[at].children.insert(part.to_vec(), child);
                        child
                    }
                };
            }
        }
        let node = &mut self.nodes[at];
        let is_leaf = matches!(&own, Own::Item(item) if !is_directory(item));
        if is_leaf && !node.children.is_empty() {
            return Err(BuildError::Parent(path.to_vec()));
        }
        match node.own {
            None | Some(Own::Implied) => node.own = Some(own),
            Some(_) => return Err(BuildError::Duplicate(path.to_vec())),
        }
        Ok(())
    }

    /// Writes the manifest.
    ///
    /// # Errors
    /// Trees over the limits. Wrong bytes in a graft end in [`BuildError::Parent`].
    pub fn finish(self) -> Result<Composed, BuildError> {
        let mut out = Output {
            columns: Columns::new(true),
            sources: Vec::new(),
            blob_maps: self
                .grafts
                .iter()
                .map(|tree| vec![u32::MAX; tree.blob_count() as usize])
                .collect(),
            pending: Vec::new(),
        };
        let root = self.source_of(0, None);
        let permissions = self.permissions(0, root);
        let attributes = Attributes { name: b"", parent: 0, mtime_ns: 0, xattrs: &[] };
        out.columns.push_directory(attributes, permissions);
        out.pending.push(Pending { out: 0, node: Some(0), source: root });
        while let Some(directory) = out.pending.pop() {
            let done = match (directory.node, directory.source) {
                (Some(node), _) => self.merge_children(&mut out, directory, node),
                (None, Some((graft, id))) => {
                    out.copy_below(graft, &self.grafts[graft], id, directory.out)
                }
                (None, None) => Some(()),
            };
            done.ok_or_else(|| BuildError::Parent(b"a grafted tree".to_vec()))?;
        }
        let built = out.columns.finish()?;
        Ok(Composed { built, sources: out.sources })
    }

    /// Returns the grafted directory that shows at `node`, given what shows from above.
    fn source_of(&self, node: usize, above: Option<Grafted>) -> Option<Grafted> {
        match self.nodes[node].own {
            Some(Own::Graft(graft)) => Some((graft, EntryId::ROOT)),
            _ => above,
        }
    }

    fn permissions(&self, node: usize, source: Option<Grafted>) -> u16 {
        if let Some(Own::Item(Item::Directory { permissions })) = &self.nodes[node].own {
            return *permissions;
        }
        let mode = source.and_then(|(graft, id)| self.grafts[graft].mode(id));
        mode.unwrap_or(self.implied_permissions)
    }

    /// Writes the children of a directory in which the skeleton has entries, and queues the
    /// directories among them.
    fn merge_children(&self, out: &mut Output, directory: Pending, node: usize) -> Option<()> {
        // By name: the skeleton's node, and what a graft has there.
        type Both = (Option<usize>, Option<Grafted>);
        let mut merged: BTreeMap<&[u8], Both> = BTreeMap::new();
        if let Some((graft, id)) = directory.source {
            let tree = &self.grafts[graft];
            for child in tree.children(id) {
                merged.insert(tree.name(child)?, (None, Some((graft, child))));
            }
        }
        for (name, child) in &self.nodes[node].children {
            merged.entry(name).or_default().0 = Some(*child);
        }
        let first = out.columns.modes.len() as u32;
        let mut directories = Vec::new();
        for (name, (own, source)) in &merged {
            let at = out.columns.modes.len() as u32;
            match own {
                None => {
                    let (graft, id) = (*source)?;
                    let tree = &self.grafts[graft];
                    out.copy_one(graft, tree, id, directory.out)?;
                    if matches!(tree.kind(id)?, Kind::Directory { .. }) {
                        directories.push(Pending { out: at, node: None, source: *source });
                    }
                }
                Some(child) => {
                    let pending = self.write_own(out, name, *child, *source, directory.out)?;
                    directories.extend(pending);
                }
            }
        }
        if !merged.is_empty() {
            out.columns.set_children(directory.out, first, merged.len() as u32);
        }
        out.pending.extend(directories.into_iter().rev());
        Some(())
    }

    /// Writes one entry that the skeleton has; returns it when it is a directory.
    fn write_own(
        &self,
        out: &mut Output,
        name: &[u8],
        node: usize,
        below: Option<Grafted>,
        parent: u32,
    ) -> Option<Option<Pending>> {
        let attributes = Attributes { name, parent, mtime_ns: 0, xattrs: &[] };
        let at = out.columns.modes.len() as u32;
        match &self.nodes[node].own {
            Some(Own::Item(Item::File { permissions, size, hash })) => {
                out.columns.push_file(attributes, *permissions, *size, *hash);
                out.note_new_blob(BlobSource::Skeleton);
                return Some(None);
            }
            Some(Own::Item(Item::Symlink { target })) => {
                out.columns.push_symlink(attributes, target);
                return Some(None);
            }
            _ => {}
        }
        let is_below_directory = below.is_some_and(|(graft, id)| {
            matches!(self.grafts[graft].kind(id), Some(Kind::Directory { .. }))
        });
        let source = self.source_of(node, below.filter(|_| is_below_directory));
        out.columns.push_directory(attributes, self.permissions(node, source));
        Some(Some(Pending { out: at, node: Some(node), source }))
    }
}

fn is_directory(item: &Item) -> bool {
    matches!(item, Item::Directory { .. })
}

struct Output {
    columns: Columns,
    sources: Vec<BlobSource>,
    /// Per graft: its blob numbers → ours, `u32::MAX` where not met yet.
    blob_maps: Vec<Vec<u32>>,
    pending: Vec<Pending>,
}

impl Output {
    fn note_new_blob(&mut self, source: BlobSource) {
        if self.columns.blobs.hashes().len() > self.sources.len() {
            self.sources.push(source);
        }
    }

    /// Returns our number of a graft's blob.
    fn blob(&mut self, graft: usize, tree: &Manifest<'_>, blob: u32) -> Option<u32> {
        let known = *self.blob_maps[graft].get(blob as usize)?;
        if known != u32::MAX {
            return Some(known);
        }
        let number = self.columns.blobs.number_of(tree.blob_hash(blob)?);
        self.note_new_blob(BlobSource::Graft { graft: graft as u32, blob });
        self.blob_maps[graft][blob as usize] = number;
        Some(number)
    }

    /// Copies one entry; a directory comes without its children.
    fn copy_one(
        &mut self,
        graft: usize,
        tree: &Manifest<'_>,
        id: EntryId,
        parent: u32,
    ) -> Option<()> {
        let mut xattrs = Vec::new();
        for (name, value) in tree.xattrs(id) {
            xattrs.push(name.len() as u8);
            xattrs.extend_from_slice(&(value.len() as u16).to_le_bytes());
            xattrs.extend_from_slice(name);
            xattrs.extend_from_slice(value);
        }
        let attributes = Attributes { name: tree.name(id)?, parent, mtime_ns: 0, xattrs: &xattrs };
        let mode = tree.mode(id)?;
        match tree.kind(id)? {
            Kind::Directory { .. } => self.columns.push_directory(attributes, mode),
            Kind::Symlink { target } => self.columns.push_symlink(attributes, target),
            Kind::File { size, blob } => {
                // Numbered here so that the source is noted; `push_file` then finds it.
                self.blob(graft, tree, blob)?;
                self.columns.push_file(attributes, mode, size, tree.blob_hash(blob)?);
            }
        }
        Some(())
    }

    /// Copies everything below directory `id` of a graft below our directory `out`.
    fn copy_below(
        &mut self,
        graft: usize,
        tree: &Manifest<'_>,
        id: EntryId,
        out: u32,
    ) -> Option<()> {
        let Kind::Directory { first, children } = tree.kind(id)? else {
            return None;
        };
        if children == 0 {
            return Some(());
        }
        let end = tree.subtree_end(id)?;
        let base = self.columns.modes.len() as u32;
        self.columns.set_children(out, base, children);
        let shift = |entry: u32| entry.checked_sub(first.0).map(|local| local + base);
        for local in (first.0..end.0).map(EntryId) {
            let parent = match tree.parent(local)? {
                above if above == id => out,
                above => shift(above.0)?,
            };
            self.copy_one(graft, tree, local, parent)?;
            if let Kind::Directory { first, children } = tree.kind(local)?
                && children > 0
            {
                let at = self.columns.modes.len() as u32 - 1;
                self.columns.set_children(at, shift(first.0)?, children);
            }
        }
        Some(())
    }
}
