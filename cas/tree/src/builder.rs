//! Makes a manifest from entries given by path, in any order.
//!
//! The builder is where the numbering and the order of the format are decided; `compose` shares
//! its [`Columns`], so both write the same bytes for the same tree.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use crate::manifest::{
    Counts, FLAG_STAMPED, HASHED_BYTES, HEADER_BYTES, MAGIC, SECTION_ALIGN, SECTION_BYTES,
    SECTIONS, VERSION, index_slots,
};
use crate::mode::{PERMISSIONS, S_IFDIR, S_IFREG, SYMLINK_MODE};
use crate::name::{self, PathKey};
use crate::{BlobHash, TreeHash};

/// A tree that can't be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildError {
    /// The path is not a relative path of valid names.
    Path(Vec<u8>),
    /// The path was given twice.
    Duplicate(Vec<u8>),
    /// The path's parent is missing or not a directory.
    Parent(Vec<u8>),
    /// A symbolic link has an empty target or one with NUL.
    Target(Vec<u8>),
    /// The path has an extended attribute that no tree can hold, or one name twice.
    Xattrs(Vec<u8>),
    /// More than `u32` can count: entries, or bytes of names or targets.
    TooLarge,
    /// The tree is deeper than [`crate::manifest::DEPTH_MAX`].
    TooDeep,
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, path) = match self {
            Self::Path(path) => ("not a relative path of valid names", path),
            Self::Duplicate(path) => ("given twice", path),
            Self::Parent(path) => ("its parent is not a directory of the tree", path),
            Self::Target(path) => ("a symbolic link needs a target without NUL", path),
            Self::Xattrs(path) => {
                ("attribute names are 1 to 255 bytes, each once, values below 64 KiB", path)
            }
            Self::TooLarge => return write!(f, "a tree has less than 2^31 entries"),
            Self::TooDeep => return write!(f, "a tree is at most 2048 deep"),
        };
        write!(f, "`{}`: {what}", path.escape_ascii())
    }
}

impl core::error::Error for BuildError {}

/// What is put at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A directory with these permission bits.
    Directory {
        /// Permission bits; set-user-ID and set-group-ID are dropped.
        permissions: u16,
    },
    /// A regular file.
    File {
        /// Permission bits; set-user-ID and set-group-ID are dropped.
        permissions: u16,
        /// Size in bytes.
        size: u64,
        /// The hash of its bytes.
        hash: BlobHash,
    },
    /// A symbolic link.
    Symlink {
        /// What readlink(2) gives.
        target: Vec<u8>,
    },
}

/// A finished manifest and its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// The tree hash.
    pub hash: TreeHash,
    /// The bytes of the manifest.
    pub bytes: Vec<u8>,
}

/// Extended attributes of one entry: (name, value) pairs.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

struct Node {
    path_start: usize,
    path_len: usize,
    mtime_ns: i64,
    item: Item,
    xattrs: Xattrs,
}

/// Collects entries and writes the manifest of their tree.
pub struct Builder {
    paths: Vec<u8>,
    nodes: Vec<Node>,
    is_stamped: bool,
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

impl Builder {
    /// Starts a tree whose entries carry mtimes. Its root is mode 0755 unless given.
    #[must_use]
    pub fn new() -> Self {
        Self { paths: Vec::new(), nodes: Vec::new(), is_stamped: false }
    }

    /// Starts a tree whose entries are stamped when it is shown.
    #[must_use]
    pub fn stamped() -> Self {
        Self { is_stamped: true, ..Self::new() }
    }

    /// Returns how many entries were given.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Tells whether nothing was given.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Puts `item` at `path`; the empty path is the root.
    ///
    /// # Errors
    /// A path or target that no tree can hold. Duplicates and missing parents show in `finish`.
    pub fn put(&mut self, path: &[u8], mtime_ns: i64, item: Item) -> Result<(), BuildError> {
        self.put_with_xattrs(path, mtime_ns, item, Vec::new())
    }

    /// Puts `item` at `path` with extended attributes.
    ///
    /// # Errors
    /// As [`Builder::put`].
    pub fn put_with_xattrs(
        &mut self,
        path: &[u8],
        mtime_ns: i64,
        item: Item,
        mut xattrs: Xattrs,
    ) -> Result<(), BuildError> {
        if !name::is_valid_path(path) {
            return Err(BuildError::Path(path.to_vec()));
        }
        if let Item::Symlink { target } = &item
            && (target.is_empty() || target.contains(&0))
        {
            return Err(BuildError::Target(path.to_vec()));
        }
        xattrs.sort();
        // xattr(7): names have at most 255 bytes. Lengths of values are kept in 16 bits.
        let fits = |(name, value): &(Vec<u8>, Vec<u8>)| {
            matches!(name.len(), 1..=255) && !name.contains(&0) && value.len() <= 0xffff
        };
        if !xattrs.iter().all(fits) || xattrs.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err(BuildError::Xattrs(path.to_vec()));
        }
        let path_start = self.paths.len();
        self.paths.extend_from_slice(path);
        self.nodes.push(Node { path_start, path_len: path.len(), mtime_ns, item, xattrs });
        Ok(())
    }

    /// Writes the manifest.
    ///
    /// # Errors
    /// Duplicates, entries without a parent directory, and trees over the limits.
    pub fn finish(mut self) -> Result<Built, BuildError> {
        let nodes = self.sorted()?;
        let paths = &self.paths;
        let path = |node: &Node| &paths[node.path_start..node.path_start + node.path_len];
        let parents = parents_of(&nodes, path)?;
        let ids = number(&nodes, &parents);
        let mut order = vec![0_usize; nodes.len()];
        for (position, id) in ids.iter().enumerate() {
            order[*id as usize] = position;
        }
        let mut columns = Columns::new(self.is_stamped);
        for position in order {
            let node = &nodes[position];
            let (_, name) = name::split_last(path(node));
            let parent = ids[parents.of[position]];
            let xattrs = encode_xattrs(&node.xattrs);
            let attributes = Attributes { name, parent, mtime_ns: node.mtime_ns, xattrs: &xattrs };
            match &node.item {
                Item::Directory { permissions } => {
                    columns.push_directory(attributes, *permissions);
                }
                Item::File { permissions, size, hash } => {
                    columns.push_file(attributes, *permissions, *size, *hash);
                }
                Item::Symlink { target } => columns.push_symlink(attributes, target),
            }
        }
        for (position, id) in ids.iter().enumerate() {
            let (first, count) = parents.children[position];
            if count > 0 {
                columns.set_children(*id, ids[first], count);
            }
        }
        columns.finish()
    }

    /// Returns the nodes in depth-first order, root first, with the root added where missing.
    fn sorted(&mut self) -> Result<Vec<Node>, BuildError> {
        let mut nodes = core::mem::take(&mut self.nodes);
        if !nodes.iter().any(|node| node.path_len == 0) {
            let item = Item::Directory { permissions: 0o755 };
            let root = Node { path_start: 0, path_len: 0, mtime_ns: 0, item, xattrs: Vec::new() };
            nodes.push(root);
        }
        if u32::try_from(nodes.len()).ok().and_then(index_slots).is_none() {
            return Err(BuildError::TooLarge);
        }
        let paths = &self.paths;
        let path = |node: &Node| &paths[node.path_start..node.path_start + node.path_len];
        nodes.sort_by(|one, two| compare_paths(path(one), path(two)));
        if let Some(pair) = nodes.windows(2).find(|pair| path(&pair[0]) == path(&pair[1])) {
            return Err(BuildError::Duplicate(path(&pair[0]).to_vec()));
        }
        Ok(nodes)
    }
}

/// Orders paths name by name: `/` is lower than any byte of a name.
fn compare_paths(one: &[u8], two: &[u8]) -> core::cmp::Ordering {
    let rank = |byte: &u8| {
        if *byte == b'/' { 0 } else { u16::from(*byte) + 1 }
    };
    match one.iter().zip(two).position(|(a, b)| a != b) {
        Some(at) => rank(&one[at]).cmp(&rank(&two[at])),
        None => one.len().cmp(&two.len()),
    }
}

/// The parent of each position, and the first child's position and number of children.
struct Parents {
    of: Vec<usize>,
    children: Vec<(usize, u32)>,
}

fn parents_of<'p>(nodes: &[Node], path: impl Fn(&Node) -> &'p [u8]) -> Result<Parents, BuildError> {
    let mut parents = Parents { of: vec![0; nodes.len()], children: vec![(0, 0); nodes.len()] };
    let mut stack: Vec<usize> = vec![0];
    for position in 1..nodes.len() {
        let own = path(&nodes[position]);
        let (above, _) = name::split_last(own);
        while stack.len() > 1 && stack.last().is_some_and(|top| path(&nodes[*top]) != above) {
            stack.pop();
        }
        let top = stack.last().copied().unwrap_or(0);
        let is_directory = matches!(nodes[top].item, Item::Directory { .. });
        if path(&nodes[top]) != above || !is_directory {
            return Err(BuildError::Parent(own.to_vec()));
        }
        parents.of[position] = top;
        let (first, count) = &mut parents.children[top];
        if *count == 0 {
            *first = position;
        }
        *count += 1;
        stack.push(position);
        if stack.len() >= crate::manifest::DEPTH_MAX {
            return Err(BuildError::TooDeep);
        }
    }
    Ok(parents)
}

/// Returns the entry number of each position: siblings together, directories depth first.
fn number(nodes: &[Node], parents: &Parents) -> Vec<u32> {
    let mut ids = vec![0_u32; nodes.len()];
    let mut next_child = vec![0_u32; nodes.len()];
    let mut next = 1;
    for position in 0..nodes.len() {
        if position > 0 {
            let slot = &mut next_child[parents.of[position]];
            ids[position] = *slot;
            *slot += 1;
        }
        next_child[position] = next;
        next += parents.children[position].1;
    }
    ids
}

fn encode_xattrs(xattrs: &Xattrs) -> Vec<u8> {
    let mut pairs = Vec::new();
    for (name, value) in xattrs {
        // `put_with_xattrs` has checked both lengths.
        pairs.push(name.len() as u8);
        pairs.extend_from_slice(&(value.len() as u16).to_le_bytes());
        pairs.extend_from_slice(name);
        pairs.extend_from_slice(value);
    }
    pairs
}

/// What every entry has.
pub(crate) struct Attributes<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) parent: u32,
    pub(crate) mtime_ns: i64,
    /// Encoded pairs.
    pub(crate) xattrs: &'a [u8],
}

/// The columns of a manifest as they grow, entry by entry in the order of their numbers.
pub(crate) struct Columns {
    pub(crate) name_ends: Vec<u32>,
    pub(crate) names: Vec<u8>,
    pub(crate) modes: Vec<u16>,
    pub(crate) spans: Vec<u64>,
    pub(crate) parents: Vec<u32>,
    pub(crate) payloads: Vec<u32>,
    pub(crate) mtimes: Vec<i64>,
    pub(crate) target_ends: Vec<u32>,
    pub(crate) targets: Vec<u8>,
    pub(crate) xattrs: Vec<u8>,
    pub(crate) blobs: BlobSet,
    pub(crate) counts: Counts,
    pub(crate) file_bytes: u64,
    is_stamped: bool,
}

impl Columns {
    pub(crate) fn new(is_stamped: bool) -> Self {
        Self {
            name_ends: Vec::new(),
            names: Vec::new(),
            modes: Vec::new(),
            spans: Vec::new(),
            parents: Vec::new(),
            payloads: Vec::new(),
            mtimes: Vec::new(),
            target_ends: Vec::new(),
            targets: Vec::new(),
            xattrs: Vec::new(),
            blobs: BlobSet::new(),
            counts: Counts::default(),
            file_bytes: 0,
            is_stamped,
        }
    }

    fn push(&mut self, attributes: Attributes<'_>, mode: u16, span: u64, payload: u32) {
        if !attributes.xattrs.is_empty() {
            let entry = self.modes.len() as u32;
            self.xattrs.extend_from_slice(&entry.to_le_bytes());
            self.xattrs.extend_from_slice(&(attributes.xattrs.len() as u32).to_le_bytes());
            self.xattrs.extend_from_slice(attributes.xattrs);
        }
        self.names.extend_from_slice(attributes.name);
        self.name_ends.push(self.names.len() as u32);
        self.modes.push(mode);
        self.spans.push(span);
        self.parents.push(attributes.parent);
        self.payloads.push(payload);
        if !self.is_stamped {
            self.mtimes.push(attributes.mtime_ns);
        }
    }

    pub(crate) fn push_directory(&mut self, attributes: Attributes<'_>, permissions: u16) {
        self.counts.directories += 1;
        self.push(attributes, S_IFDIR | permissions & PERMISSIONS, 0, 0);
    }

    pub(crate) fn push_file(
        &mut self,
        attributes: Attributes<'_>,
        permissions: u16,
        size: u64,
        hash: BlobHash,
    ) {
        self.counts.files += 1;
        self.file_bytes = self.file_bytes.wrapping_add(size);
        let blob = self.blobs.number_of(hash);
        self.push(attributes, S_IFREG | permissions & PERMISSIONS, size, blob);
    }

    pub(crate) fn push_symlink(&mut self, attributes: Attributes<'_>, target: &[u8]) {
        let number = self.counts.symlinks;
        self.counts.symlinks += 1;
        self.targets.extend_from_slice(target);
        self.target_ends.push(self.targets.len() as u32);
        self.push(attributes, SYMLINK_MODE, target.len() as u64, number);
    }

    pub(crate) fn set_children(&mut self, directory: u32, first: u32, children: u32) {
        self.spans[directory as usize] = u64::from(children) << 32 | u64::from(first);
    }

    /// Returns the index: every entry at the first free slot from its own on, in entry order.
    fn index(&self) -> Result<Vec<u32>, BuildError> {
        let entries = u32::try_from(self.modes.len()).map_err(|_| BuildError::TooLarge)?;
        let slots = index_slots(entries).ok_or(BuildError::TooLarge)?;
        let mut table = vec![0_u32; slots as usize];
        let mask = slots - 1;
        let mut keys = Vec::with_capacity(self.modes.len());
        keys.push(PathKey::ROOT);
        let mut start = 0;
        for (id, (parent, end)) in self.parents.iter().zip(&self.name_ends).enumerate().skip(1) {
            let end = *end as usize;
            let key = keys[*parent as usize].child(&self.names[start..end]);
            start = end;
            let mut slot = key.slot(mask) as usize;
            while table[slot] != 0 {
                slot = (slot + 1) & mask as usize;
            }
            table[slot] = id as u32 + 1;
            keys.push(key);
        }
        Ok(table)
    }

    /// Writes the file.
    pub(crate) fn finish(self) -> Result<Built, BuildError> {
        let index = self.index()?;
        let fits = |bytes: &[u8]| u32::try_from(bytes.len()).is_ok();
        if !fits(&self.names) || !fits(&self.targets) || !fits(&self.xattrs) {
            return Err(BuildError::TooLarge);
        }
        let hashes = self.blobs.hashes();
        let total = HASHED_BYTES
            + self.names.len()
            + self.modes.len() * 30
            + self.targets.len()
            + index.len() * 4
            + hashes.len() * 32
            + self.xattrs.len()
            + SECTIONS * SECTION_ALIGN;
        let mut file = SectionWriter::new(total);
        file.section(|out| extend_u32(out, &self.name_ends));
        file.section(|out| out.extend_from_slice(&self.names));
        file.section(|out| self.modes.iter().for_each(|mode| out.extend(mode.to_le_bytes())));
        file.section(|out| self.spans.iter().for_each(|span| out.extend(span.to_le_bytes())));
        file.section(|out| extend_u32(out, &self.parents));
        file.section(|out| extend_u32(out, &self.payloads));
        file.section(|out| self.mtimes.iter().for_each(|time| out.extend(time.to_le_bytes())));
        file.section(|out| extend_u32(out, &self.target_ends));
        file.section(|out| out.extend_from_slice(&self.targets));
        file.section(|out| out.extend_from_slice(&self.xattrs));
        file.section(|out| extend_u32(out, &index));
        file.section(|out| hashes.iter().for_each(|hash| out.extend_from_slice(hash.as_bytes())));
        let flags = if self.is_stamped { FLAG_STAMPED } else { 0 };
        let mut bytes = file.bytes;
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &MAGIC);
        put(8, &VERSION.to_le_bytes());
        put(12, &(SECTIONS as u32).to_le_bytes());
        put(16, &(self.modes.len() as u32).to_le_bytes());
        put(20, &(hashes.len() as u32).to_le_bytes());
        put(24, &self.file_bytes.to_le_bytes());
        put(32, &flags.to_le_bytes());
        put(36, &self.counts.files.to_le_bytes());
        put(40, &self.counts.directories.to_le_bytes());
        put(44, &self.counts.symlinks.to_le_bytes());
        let hash = TreeHash::from_bytes(*blake3::hash(&bytes[..HASHED_BYTES]).as_bytes());
        Ok(Built { hash, bytes })
    }
}

fn extend_u32(out: &mut Vec<u8>, column: &[u32]) {
    for item in column {
        out.extend_from_slice(&item.to_le_bytes());
    }
}

/// Appends sections and fills their places in the table.
struct SectionWriter {
    bytes: Vec<u8>,
    number: usize,
}

impl SectionWriter {
    fn new(capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(capacity);
        bytes.resize(HASHED_BYTES, 0);
        Self { bytes, number: 0 }
    }

    fn section(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.bytes.resize(self.bytes.len().next_multiple_of(SECTION_ALIGN), 0);
        let start = self.bytes.len();
        write(&mut self.bytes);
        let body = &self.bytes[start..];
        let (length, hash) = (body.len() as u64, blake3::hash(body));
        let at = HEADER_BYTES + self.number * SECTION_BYTES;
        self.number += 1;
        let record = &mut self.bytes[at..at + SECTION_BYTES];
        record[..4].copy_from_slice(&(self.number as u32).to_le_bytes());
        record[8..16].copy_from_slice(&(start as u64).to_le_bytes());
        record[16..24].copy_from_slice(&length.to_le_bytes());
        record[24..].copy_from_slice(hash.as_bytes());
    }
}

/// Numbers different hashes in the order in which they are first seen.
pub(crate) struct BlobSet {
    hashes: Vec<BlobHash>,
    /// Open addressing: number + 1, 0 for free.
    slots: Vec<u32>,
}

impl BlobSet {
    fn new() -> Self {
        Self { hashes: Vec::new(), slots: vec![0; 64] }
    }

    pub(crate) fn hashes(&self) -> &[BlobHash] {
        &self.hashes
    }

    fn home(hash: &BlobHash, slots: usize) -> usize {
        // BLAKE3 output is uniform: its first bytes are as good a table hash as any.
        let [a, b, c, d, ..] = *hash.as_bytes();
        u32::from_le_bytes([a, b, c, d]) as usize & (slots - 1)
    }

    pub(crate) fn number_of(&mut self, hash: BlobHash) -> u32 {
        let mask = self.slots.len() - 1;
        let mut slot = Self::home(&hash, self.slots.len());
        while let Some(number) = self.slots[slot].checked_sub(1) {
            if self.hashes[number as usize] == hash {
                return number;
            }
            slot = (slot + 1) & mask;
        }
        let number = self.hashes.len() as u32;
        self.hashes.push(hash);
        self.slots[slot] = number + 1;
        if self.hashes.len() * 2 > self.slots.len() {
            self.grow();
        }
        number
    }

    fn grow(&mut self) {
        let slots = self.slots.len() * 2;
        self.slots = vec![0; slots];
        for (number, hash) in self.hashes.iter().enumerate() {
            let mut slot = Self::home(hash, slots);
            while self.slots[slot] != 0 {
                slot = (slot + 1) & (slots - 1);
            }
            self.slots[slot] = number as u32 + 1;
        }
    }
}
