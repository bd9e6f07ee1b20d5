//! The manifest: one immutable directory tree in one mappable file.
//!
//! ```text
//! manifest: | header 64 | section table: 12 × 56 | sections, each at a multiple of 64 |
//! header:   | magic 8 "RIFTTREE" | version u32 | sections u32 | entries u32 | blobs u32
//!           | file bytes u64 | flags u32 | files u32 | directories u32 | symlinks u32 | zero 16 |
//! section:  | id u32 | zero u32 | offset u64 | length u64 | BLAKE3 of its bytes 32 |
//! ```
//!
//! Numbers are little-endian. The tree hash is the BLAKE3 of header and section table, so it covers
//! every byte, and a reader may fetch and check one section without the others. A manifest holds
//! nothing that depends on a machine or a store, and one tree has exactly one manifest.
//!
//! Entries are numbered so that the children of a directory are neighbors, ordered by name, and so
//! that everything below a directory, but for itself, is one range: the root is 0, then, for each
//! directory in depth-first order, its children. The columns, one item per entry:
//!
//! | section | item | holds |
//! |---|---|---|
//! | name ends, names | u32, bytes | where each name ends in the run of names |
//! | modes | u16 | type and permission bits, as `st_mode` |
//! | spans | u64 | file: size. directory: first child u32, children u32. symlink: target's length |
//! | parents | u32 | the directory that holds the entry; the root holds itself |
//! | payloads | u32 | file: number of its blob. symlink: number of its target. directory: 0 |
//! | mtimes | i64 | nanoseconds since the epoch; absent with the flag *stamped* |
//! | target ends, targets | u32, bytes | targets of the symlinks |
//! | xattrs | bytes | see [`Manifest::xattrs`] |
//! | index | u32 | open-addressing table: path hash → entry + 1 |
//! | hashes | 32 | the blobs, each once, in order of their first file |
//!
//! The reader answers from the bytes as they lie: no parsing, no allocation. [`Manifest::parse`]
//! checks in constant time that the parts lie inside the file; after that wrong bytes can give
//! `None` or a wrong answer, never a panic. [`Manifest::validate`] checks all the rules.

use crate::bytes::{hash_at, string_at, u16_at, u32_at, u64_at};
use crate::mode::{PERMISSIONS, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, SYMLINK_MODE};
use crate::name::{self, PathKey};
use crate::{BlobHash, FormatError};

/// The first eight bytes of every manifest.
pub const MAGIC: [u8; 8] = *b"RIFTTREE";
/// The version of the format that this crate writes and reads.
pub const VERSION: u32 = 1;
/// How deep a tree may be: more than `PATH_MAX` could name.
pub const DEPTH_MAX: usize = 2048;
/// Flag *stamped*: entries carry no mtime; who shows the tree gives all of them one.
pub const FLAG_STAMPED: u32 = 1;

pub(crate) const HEADER_BYTES: usize = 64;
pub(crate) const SECTION_BYTES: usize = 56;
pub(crate) const SECTION_ALIGN: usize = 64;

/// The sections, in the order in which they stand in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Section {
    NameEnds = 1,
    Names = 2,
    Modes = 3,
    Spans = 4,
    Parents = 5,
    Payloads = 6,
    Mtimes = 7,
    TargetEnds = 8,
    Targets = 9,
    Xattrs = 10,
    Index = 11,
    Hashes = 12,
}

/// How many sections there are.
pub(crate) const SECTIONS: usize = 12;
/// How many bytes the part takes whose BLAKE3 is the tree hash.
pub const HASHED_BYTES: usize = HEADER_BYTES + SECTIONS * SECTION_BYTES;

/// The number of an entry in its manifest; the root is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(pub u32);

impl EntryId {
    /// The root of every tree.
    pub const ROOT: Self = Self(0);

    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind<'a> {
    /// A directory, whose children are `children` entries from `first` on.
    Directory {
        /// The first child; means nothing when there are none.
        first: EntryId,
        /// How many children there are.
        children: u32,
    },
    /// A regular file.
    File {
        /// Its size in bytes.
        size: u64,
        /// The number of its blob among the blobs of the manifest.
        blob: u32,
    },
    /// A symbolic link to `target`.
    Symlink {
        /// The bytes that readlink(2) gives.
        target: &'a [u8],
    },
}

/// One entry, decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its number.
    pub id: EntryId,
    /// Its name; empty for the root.
    pub name: &'a [u8],
    /// The directory that holds it; the root for the root.
    pub parent: EntryId,
    /// Type and permission bits, as `st_mode`.
    pub mode: u16,
    /// Nanoseconds since the epoch, or `None` where the tree is stamped when shown.
    pub mtime_ns: Option<i64>,
    /// What it is.
    pub kind: Kind<'a>,
}

/// A manifest over the bytes of its file.
#[derive(Debug, Clone, Copy)]
pub struct Manifest<'a> {
    bytes: &'a [u8],
    entries: u32,
    blobs: u32,
    file_bytes: u64,
    flags: u32,
    counts: Counts,
    sections: [&'a [u8]; SECTIONS],
}

/// How many entries of each type a tree holds; the root counts as a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Regular files.
    pub files: u32,
    /// Directories, the root included.
    pub directories: u32,
    /// Symbolic links.
    pub symlinks: u32,
}

/// Compares two names word by word, without a call.
#[inline(always)]
fn is_same(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let (words, rest) = one.as_chunks::<8>();
    let (others, other_rest) = other.as_chunks::<8>();
    match (one.last_chunk::<8>(), other.last_chunk::<8>()) {
        // What is left over is in the last eight bytes.
        (Some(last), Some(other_last)) => {
            last == other_last && words.iter().zip(others).all(|(one, other)| one == other)
        }
        _ => rest.iter().zip(other_rest).all(|(one, other)| one == other),
    }
}

fn rule(rule: &'static str, index: usize) -> FormatError {
    FormatError::Rule { rule, index: u32::try_from(index).unwrap_or(u32::MAX) }
}

impl<'a> Manifest<'a> {
    /// Reads the header and checks that every part lies inside `bytes`.
    ///
    /// # Errors
    /// What is wrong with the first part that is wrong.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FormatError> {
        let truncated = |wanted: usize| FormatError::Truncated {
            offset: bytes.len() as u64,
            wanted: wanted as u64,
        };
        let head = bytes.get(..HASHED_BYTES).ok_or_else(|| truncated(HASHED_BYTES))?;
        if !head.starts_with(&MAGIC) {
            return Err(FormatError::Magic);
        }
        let word = |at: usize| u32_at(head, at / 4).ok_or_else(|| truncated(HASHED_BYTES));
        let (version, section_count) = (word(8)?, word(12)?);
        if version != VERSION {
            return Err(FormatError::Version { readable: VERSION, found: version });
        }
        if section_count as usize != SECTIONS {
            return Err(rule("a manifest of version 1 has twelve sections", SECTIONS));
        }
        if word(32)? & !FLAG_STAMPED != 0 || head[48..HEADER_BYTES].iter().any(|byte| *byte != 0) {
            return Err(rule("a manifest of version 1 has one flag and sixteen zeros", 0));
        }
        let mut sections = [&bytes[..0]; SECTIONS];
        for (number, section) in sections.iter_mut().enumerate() {
            *section = read_section(bytes, number)?;
        }
        let manifest = Self {
            bytes,
            entries: word(16)?,
            blobs: word(20)?,
            file_bytes: u64_at(head, 3).ok_or_else(|| truncated(HASHED_BYTES))?,
            flags: word(32)?,
            counts: Counts { files: word(36)?, directories: word(40)?, symlinks: word(44)? },
            sections,
        };
        manifest.check_lengths()?;
        Ok(manifest)
    }

    fn check_lengths(&self) -> Result<(), FormatError> {
        let entries = self.entries as usize;
        let mtimes = if self.is_stamped() { 0 } else { entries };
        let wanted = [
            (Section::NameEnds, entries.checked_mul(4)),
            (Section::Modes, entries.checked_mul(2)),
            (Section::Spans, entries.checked_mul(8)),
            (Section::Parents, entries.checked_mul(4)),
            (Section::Payloads, entries.checked_mul(4)),
            (Section::Mtimes, mtimes.checked_mul(8)),
            (Section::TargetEnds, (self.counts.symlinks as usize).checked_mul(4)),
            (Section::Index, index_slots(self.entries).map(|slots| slots as usize * 4)),
            (Section::Hashes, (self.blobs as usize).checked_mul(32)),
        ];
        if entries == 0 {
            return Err(rule("a tree has a root", 0));
        }
        for (section, length) in wanted {
            if length != Some(self.section(section).len()) {
                return Err(rule("a section's length follows from the counts", section as usize));
            }
        }
        Ok(())
    }

    #[inline]
    fn section(&self, section: Section) -> &'a [u8] {
        // Every discriminant is 1..=SECTIONS.
        self.sections[section as usize - 1]
    }

    /// Returns the bytes of the whole manifest.
    #[must_use]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Returns the bytes whose BLAKE3 is the tree hash.
    #[must_use]
    pub fn hashed_bytes(&self) -> &'a [u8] {
        // `parse` has read this far.
        &self.bytes[..HASHED_BYTES]
    }

    /// Returns how many entries there are, the root included.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.entries
    }

    /// Tells whether the tree is its root alone.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries <= 1
    }

    /// Returns how many entries of each type there are.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Returns the sum of the sizes of all files, in bytes.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Returns how many different blobs the files have.
    #[must_use]
    pub fn blob_count(&self) -> u32 {
        self.blobs
    }

    /// Tells whether entries carry no mtime because who shows the tree stamps it.
    #[must_use]
    pub fn is_stamped(&self) -> bool {
        self.flags & FLAG_STAMPED != 0
    }

    /// Returns the hash of blob number `blob`.
    #[must_use]
    pub fn blob_hash(&self, blob: u32) -> Option<BlobHash> {
        hash_at(self.section(Section::Hashes), blob as usize).map(BlobHash::from_bytes)
    }

    /// Returns the name of an entry, empty for the root.
    #[must_use]
    #[inline]
    pub fn name(&self, id: EntryId) -> Option<&'a [u8]> {
        string_at(self.section(Section::NameEnds), self.section(Section::Names), id.index())
    }

    /// Returns the directory that holds an entry.
    #[must_use]
    #[inline]
    pub fn parent(&self, id: EntryId) -> Option<EntryId> {
        u32_at(self.section(Section::Parents), id.index()).map(EntryId)
    }

    /// Returns type and permission bits of an entry.
    #[must_use]
    #[inline]
    pub fn mode(&self, id: EntryId) -> Option<u16> {
        u16_at(self.section(Section::Modes), id.index())
    }

    /// Returns what an entry is.
    #[must_use]
    #[inline]
    pub fn kind(&self, id: EntryId) -> Option<Kind<'a>> {
        let span = u64_at(self.section(Section::Spans), id.index())?;
        let payload = || u32_at(self.section(Section::Payloads), id.index());
        Some(match self.mode(id)? & S_IFMT {
            S_IFDIR => {
                // Deliberate truncation: the two halves of the span.
                Kind::Directory { first: EntryId(span as u32), children: (span >> 32) as u32 }
            }
            S_IFREG => Kind::File { size: span, blob: payload()? },
            S_IFLNK => {
                let (ends, run) =
                    (self.section(Section::TargetEnds), self.section(Section::Targets));
                Kind::Symlink { target: string_at(ends, run, payload()? as usize)? }
            }
            _ => return None,
        })
    }

    /// Returns the mtime of an entry, in nanoseconds since the epoch, unless the tree is stamped.
    #[must_use]
    pub fn mtime_ns(&self, id: EntryId) -> Option<i64> {
        u64_at(self.section(Section::Mtimes), id.index()).map(u64::cast_signed)
    }

    /// Returns an entry, decoded.
    #[must_use]
    pub fn entry(&self, id: EntryId) -> Option<Entry<'a>> {
        Some(Entry {
            id,
            name: self.name(id)?,
            parent: self.parent(id)?,
            mode: self.mode(id)?,
            mtime_ns: self.mtime_ns(id),
            kind: self.kind(id)?,
        })
    }

    /// Returns the children of a directory, in the order of their names; none for other entries.
    pub fn children(
        &self,
        id: EntryId,
    ) -> core::iter::Map<core::ops::Range<u32>, fn(u32) -> EntryId> {
        let range = match self.kind(id) {
            Some(Kind::Directory { first, children }) => {
                first.0.min(self.entries)..first.0.saturating_add(children).min(self.entries)
            }
            _ => 0..0,
        };
        range.map(EntryId)
    }

    /// Returns the first entry after everything below directory `id`.
    ///
    /// Entries `first child..end` are exactly what is below it; for other entries, and empty
    /// directories, that range is empty and the answer the entry after `id`.
    #[must_use]
    pub fn subtree_end(&self, id: EntryId) -> Option<EntryId> {
        let mut end = EntryId(id.0.checked_add(1)?);
        let mut directory = id;
        for _ in 0..DEPTH_MAX {
            let Kind::Directory { first, children } = self.kind(directory)? else {
                return None;
            };
            if children == 0 {
                return Some(end);
            }
            end = EntryId(first.0.checked_add(children)?);
            let mut last = None;
            for child in (first.0..end.0).rev() {
                if self.mode(EntryId(child))? & S_IFMT == S_IFDIR && self.has_children(child) {
                    last = Some(EntryId(child));
                    break;
                }
            }
            match last {
                Some(child) => directory = child,
                None => return Some(end),
            }
        }
        None
    }

    fn has_children(&self, id: u32) -> bool {
        u64_at(self.section(Section::Spans), id as usize).is_some_and(|span| span >> 32 != 0)
    }

    /// Returns the entry at a relative path, in one probe of the index for most paths.
    ///
    /// The path is taken as it is: no `.`, no `..`, no doubled or trailing slashes, and symbolic
    /// links are not followed.
    #[must_use]
    #[inline]
    pub fn lookup(&self, path: &[u8]) -> Option<EntryId> {
        if path.is_empty() {
            return Some(EntryId::ROOT);
        }
        let mut key = PathKey::ROOT;
        for name in path.split(|&byte| byte == b'/') {
            key = key.child(name);
        }
        self.lookup_below(EntryId::ROOT, key, path)
    }

    /// Returns the entry at a path from directory `base`, whose path key is `key`: for who has hashed the path already.
    #[must_use]
    #[inline]
    pub fn lookup_below(&self, base: EntryId, key: PathKey, path: &[u8]) -> Option<EntryId> {
        self.probe(key, |id| self.has_path(base, id, path))
    }

    /// Returns the child of directory `parent` called `name`.
    ///
    /// `key` is the path key of `parent`; walkers that go down name by name keep it.
    #[must_use]
    #[inline]
    pub fn child(&self, parent: EntryId, key: PathKey, name: &[u8]) -> Option<EntryId> {
        self.probe(key.child(name), |id| {
            id != EntryId::ROOT && self.parent(id) == Some(parent) && self.name(id) == Some(name)
        })
    }

    /// Returns the child of directory `parent` called `name`, for who has no path key of it: children
    /// are in the order of their names.
    #[must_use]
    pub fn child_named(&self, parent: EntryId, name: &[u8]) -> Option<EntryId> {
        let mut range = self.children(parent);
        let mut low = range.next()?.0;
        let mut high = range.next_back().map_or(low, |last| last.0) + 1;
        while low < high {
            let middle = low + (high - low) / 2;
            match self.name(EntryId(middle))?.cmp(name) {
                core::cmp::Ordering::Equal => return Some(EntryId(middle)),
                core::cmp::Ordering::Less => low = middle + 1,
                core::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    #[inline]
    fn probe(&self, key: PathKey, is_it: impl Fn(EntryId) -> bool) -> Option<EntryId> {
        let table = self.section(Section::Index);
        // A power of two by `check_lengths`, and not zero.
        let mask = (table.len() / 4 - 1) as u32;
        let mut slot = key.slot(mask);
        for _ in 0..=mask {
            let id = EntryId(u32_at(table, slot as usize)?.checked_sub(1)?);
            if is_it(id) {
                return Some(id);
            }
            slot = slot.wrapping_add(1) & mask;
        }
        None
    }

    /// Tells whether `path` leads from `base` to `id`, comparing names from the end.
    #[inline]
    fn has_path(&self, base: EntryId, id: EntryId, path: &[u8]) -> bool {
        let (mut id, mut rest) = (id, path);
        loop {
            let (Some(name), Some(parent)) = (self.name(id), self.parent(id)) else {
                return false;
            };
            let Some((head, last)) =
                rest.len().checked_sub(name.len()).and_then(|length| rest.split_at_checked(length))
            else {
                return false;
            };
            if id == EntryId::ROOT || name.is_empty() || !is_same(last, name) {
                return false;
            }
            match (head, parent == base) {
                ([], at_base) => return at_base,
                ([up @ .., b'/'], false) => (id, rest) = (parent, up),
                _ => return false,
            }
        }
    }

    /// Returns the extended attributes of an entry, ordered by name, as (name, value) pairs.
    ///
    /// The section is a sorted list of records, one per entry that has any:
    /// `| entry u32 | bytes u32 | pairs |`, a pair being
    /// `| name length u8 | value length u16 | name | value |`.
    pub fn xattrs(&self, id: EntryId) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let mut rest = self.section(Section::Xattrs);
        let mut pairs: &'a [u8] = &[];
        while let Some((entry, body, after)) = split_record(rest) {
            if entry == id.0 {
                pairs = body;
                break;
            }
            rest = after;
        }
        core::iter::from_fn(move || {
            let (name, value, after) = split_pair(pairs)?;
            pairs = after;
            Some((name, value))
        })
    }

    /// Returns the bytes of a section, with what the table says their BLAKE3 is.
    ///
    /// Sections are numbered from 0 in the order of the file; `None` beyond the last.
    #[must_use]
    pub fn section_and_hash(&self, number: usize) -> Option<(&'a [u8], [u8; 32])> {
        let at = HEADER_BYTES + number.checked_mul(SECTION_BYTES)? + 24;
        let hash = self.bytes.get(at..at + 32)?.try_into().ok()?;
        Some((*self.sections.get(number)?, hash))
    }

    /// Checks every rule of the format but the hashes, in time linear to the entries.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate(&self) -> Result<(), FormatError> {
        let mut state = Walk::default();
        if self.name(EntryId::ROOT) != Some(b"")
            || self.parent(EntryId::ROOT) != Some(EntryId::ROOT)
        {
            return Err(rule("the root has no name and holds itself", 0));
        }
        for id in 0..self.entries {
            self.validate_entry(EntryId(id), &mut state)?;
        }
        self.validate_order()?;
        self.validate_places()?;
        if state.counts != self.counts {
            return Err(rule("the counts of the header are those of the entries", 0));
        }
        if state.blobs != self.blobs || state.file_bytes != self.file_bytes {
            return Err(rule("every blob has a file, and sizes add up", 0));
        }
        self.validate_runs()?;
        self.validate_xattrs()
    }

    fn validate_entry(&self, id: EntryId, state: &mut Walk) -> Result<(), FormatError> {
        let at = id.index();
        let entry = self.entry(id).ok_or_else(|| rule("an entry's parts lie in the file", at))?;
        if id != EntryId::ROOT && !name::is_valid(entry.name) {
            return Err(rule("a name is 1 to 255 bytes, no slash, no NUL, not . or ..", at));
        }
        if entry.mode & !(S_IFMT | PERMISSIONS) != 0 {
            return Err(rule("no set-user-ID or set-group-ID bit enters a tree", at));
        }
        match entry.kind {
            Kind::Directory { first, children } => {
                state.counts.directories += 1;
                for child in self.children(id) {
                    if self.parent(child) != Some(id) || child <= id {
                        return Err(rule("a directory's children name it as parent", at));
                    }
                }
                let inside = first.0.checked_add(children).is_some_and(|end| end <= self.entries);
                if children == 0 && first.0 != 0 || children > 0 && !inside {
                    return Err(rule("children lie among the entries", at));
                }
                if u32_at(self.section(Section::Payloads), at) != Some(0) {
                    return Err(rule("a directory has no payload", at));
                }
            }
            Kind::File { size, blob } => {
                state.counts.files += 1;
                state.file_bytes = state.file_bytes.wrapping_add(size);
                if blob > state.blobs || blob >= self.blobs {
                    return Err(rule("blobs are numbered by their first file", at));
                }
                state.blobs += u32::from(blob == state.blobs);
            }
            Kind::Symlink { target } => {
                state.counts.symlinks += 1;
                let payload = u32_at(self.section(Section::Payloads), at);
                let span = u64_at(self.section(Section::Spans), at);
                if payload != Some(state.targets) || span != Some(target.len() as u64) {
                    return Err(rule("targets are numbered in the order of the links", at));
                }
                if target.is_empty() || target.contains(&0) || entry.mode != SYMLINK_MODE {
                    return Err(rule("a link has a target without NUL, and mode 0777", at));
                }
                state.targets += 1;
            }
        }
        if id == EntryId::ROOT && !matches!(entry.kind, Kind::Directory { .. }) {
            return Err(rule("the root is a directory", 0));
        }
        Ok(())
    }

    /// Checks numbering and the order of names by walking all directories depth first.
    fn validate_order(&self) -> Result<(), FormatError> {
        let mut next = 1;
        let mut keys = [PathKey::ROOT; DEPTH_MAX];
        let mut stack = [(0, 1); DEPTH_MAX];
        let mut depth = 0;
        loop {
            let (at, end) = stack[depth];
            if at == end {
                match depth.checked_sub(1) {
                    Some(up) => depth = up,
                    None => break,
                }
                continue;
            }
            stack[depth].0 += 1;
            let id = EntryId(at);
            let key = match (depth, self.name(id)) {
                (0, _) => PathKey::ROOT,
                (_, Some(name)) => keys[depth - 1].child(name),
                (_, None) => return Err(rule("an entry's parts lie in the file", id.index())),
            };
            if id != EntryId::ROOT {
                let parent = self.parent(id).unwrap_or(EntryId::ROOT);
                let found =
                    self.name(id).and_then(|name| self.child(parent, keys[depth - 1], name));
                if found != Some(id) || !self.is_first_fit(id, key) {
                    return Err(rule("the index finds every entry", id.index()));
                }
            }
            let Some(Kind::Directory { first, children }) = self.kind(id) else {
                continue;
            };
            if children > 0 && first.0 != next {
                return Err(rule("directories are numbered depth first", id.index()));
            }
            next = next.saturating_add(children);
            let names = self.children(id).map(|child| self.name(child));
            if !names.clone().zip(names.skip(1)).all(|(one, two)| one < two) {
                return Err(rule("siblings are ordered by name, each name once", id.index()));
            }
            depth += 1;
            if depth == DEPTH_MAX {
                return Err(rule("a tree is at most 2048 deep", id.index()));
            }
            keys[depth - 1] = key;
            stack[depth] = (first.0, first.0.saturating_add(children));
        }
        if next != self.entries {
            return Err(rule("every entry is reached from the root", next as usize));
        }
        Ok(())
    }

    /// Tells whether an entry is where the builder puts it: between its first slot and its own lie
    /// only entries that came before it. When that holds for all, the index is the only one possible.
    fn is_first_fit(&self, id: EntryId, key: PathKey) -> bool {
        let table = self.section(Section::Index);
        let mask = (table.len() / 4 - 1) as u32;
        let mut slot = key.slot(mask);
        for _ in 0..=mask {
            match u32_at(table, slot as usize).and_then(|word| word.checked_sub(1)) {
                Some(found) if found < id.0 => slot = slot.wrapping_add(1) & mask,
                found => return found == Some(id.0),
            }
        }
        false
    }

    /// Checks that sections follow each other as closely as they can, zeros between, and that the
    /// index holds each entry once.
    fn validate_places(&self) -> Result<(), FormatError> {
        let mut end = HASHED_BYTES;
        for number in 0..SECTIONS {
            let start = u64_at(self.bytes, (HEADER_BYTES + number * SECTION_BYTES + 8) / 8);
            let start = start.and_then(|start| usize::try_from(start).ok());
            let gap = start.and_then(|start| self.bytes.get(end..start));
            if start != Some(end.next_multiple_of(SECTION_ALIGN))
                || gap.is_none_or(|gap| gap.iter().any(|byte| *byte != 0))
            {
                return Err(rule("sections follow each other, zeros between", number));
            }
            end = end.next_multiple_of(SECTION_ALIGN) + self.sections[number].len();
        }
        if end != self.bytes.len() {
            return Err(rule("a manifest ends with its last section", SECTIONS));
        }
        let (slots, _) = self.section(Section::Index).as_chunks::<4>();
        if slots.iter().filter(|slot| **slot != [0; 4]).count() != self.entries as usize - 1 {
            return Err(rule("the index holds every entry but the root once", 0));
        }
        Ok(())
    }

    /// Checks that the runs of names and targets hold nothing else.
    fn validate_runs(&self) -> Result<(), FormatError> {
        let runs = [
            (Section::NameEnds, Section::Names, self.entries),
            (Section::TargetEnds, Section::Targets, self.counts.symlinks),
        ];
        for (ends, run, count) in runs {
            let last = match count.checked_sub(1) {
                Some(last) => u32_at(self.section(ends), last as usize),
                None => Some(0),
            };
            if last.map(|last| last as usize) != Some(self.section(run).len()) {
                return Err(rule("a run ends with its last string", run as usize));
            }
        }
        Ok(())
    }

    fn validate_xattrs(&self) -> Result<(), FormatError> {
        let mut rest = self.section(Section::Xattrs);
        let mut before = None;
        while !rest.is_empty() {
            let (entry, mut pairs, after) =
                split_record(rest).ok_or_else(|| rule("an xattr record is whole", 0))?;
            if before >= Some(entry) || entry >= self.entries || pairs.is_empty() {
                return Err(rule("xattr records are ordered by entry", entry as usize));
            }
            let mut name_before: &[u8] = &[];
            while !pairs.is_empty() {
                let (name, _, next) = split_pair(pairs)
                    .ok_or_else(|| rule("an xattr pair is whole", entry as usize))?;
                if name <= name_before || name.contains(&0) {
                    return Err(rule("xattrs are ordered by name", entry as usize));
                }
                (name_before, pairs) = (name, next);
            }
            (before, rest) = (Some(entry), after);
        }
        Ok(())
    }
}

/// What `validate` counts on its way.
#[derive(Default)]
struct Walk {
    targets: u32,
    blobs: u32,
    file_bytes: u64,
    counts: Counts,
}

/// Returns how many slots the index of a tree has: a power of two, at least twice its entries.
pub(crate) fn index_slots(entries: u32) -> Option<u32> {
    entries.checked_mul(2)?.checked_next_power_of_two()
}

/// Returns the bytes of section `number` (from 0), checking its place in the table and the file.
fn read_section(bytes: &[u8], number: usize) -> Result<&[u8], FormatError> {
    let at = HEADER_BYTES + number * SECTION_BYTES;
    let broken = || rule("the section table lists the twelve sections in order", number);
    let record = bytes.get(at..at + SECTION_BYTES).ok_or_else(broken)?;
    let offset = u64_at(record, 1).ok_or_else(broken)?;
    let length = u64_at(record, 2).ok_or_else(broken)?;
    let is_aligned = offset % SECTION_ALIGN as u64 == 0 && offset >= HASHED_BYTES as u64;
    if u32_at(record, 0) != Some(number as u32 + 1) || u32_at(record, 1) != Some(0) || !is_aligned {
        return Err(broken());
    }
    let end = offset.checked_add(length).ok_or_else(broken)?;
    match (usize::try_from(offset), usize::try_from(end)) {
        (Ok(start), Ok(stop)) if stop <= bytes.len() => Ok(&bytes[start..stop]),
        _ => Err(FormatError::Truncated { offset: bytes.len() as u64, wanted: end }),
    }
}

/// Splits the first xattr record off: (entry, pairs, what follows).
fn split_record(run: &[u8]) -> Option<(u32, &[u8], &[u8])> {
    let length = u32_at(run, 1)? as usize;
    let body = run.get(8..)?;
    Some((u32_at(run, 0)?, body.get(..length)?, body.get(length..)?))
}

/// Splits the first xattr pair off: (name, value, what follows).
fn split_pair(run: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let name = usize::from(*run.first()?);
    let value = usize::from(u16::from_le_bytes([*run.get(1)?, *run.get(2)?]));
    let body = run.get(3..)?;
    Some((body.get(..name)?, body.get(name..name + value)?, body.get(name + value..)?))
}
