//! A view: what a directory with a tree shown at it holds, and how it changes.
//!
//! The tree answers for pristine entries, without a lock and without touching the disk. For everything
//! else the *real directory* does: the very directory that the tree is shown at, which the mount covers.
//! Whoever changes an entry makes it real first, with all directories above it, under the lock of
//! [`Nodes`]; its word then says *detached* for every view of the projection.
//!
//! Paths are relative to the real directory and lead through directories only, so they leave it nowhere.

use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use rift_cas::materialize::{Options, Writer};
use rift_cas::state::StateFile;
use rift_cas::tree::OpenTree;
use rift_tree::merge::{self, States as _};
use rift_tree::state::{Attempt, Claim, Owner, REPLACED, Real, State, StateWord};
use rift_tree::{EntryId, Kind, Manifest};
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use super::identity::Identity;
use super::modes::{Modes, Way};
use super::nodes::{self, Known, Link, Node, Nodes, ORPHANS, ROOT};
use super::opened::Opened;
use super::twins::Twins;
use crate::sys;

pub(super) type Result<T, E = Errno> = std::result::Result<T, E>;

/// What a view is made of.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) tree: OpenTree,
    pub(super) state: StateFile,
    /// The real directory.
    pub(super) real: OwnedFd,
    pub(super) options: Options,
    /// Whom pristine entries belong to.
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// The ctime of what was never changed, in nanoseconds since the epoch.
    pub(super) shown_ns: i64,
    /// Whether other views of the projection may change it too.
    pub(super) is_shared: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct View {
    pub(super) parts: Parts,
    nodes: RwLock<Nodes>,
    twins: Twins,
    pub(super) modes: Modes,
    pub(super) opened: Opened,
    owner: Owner,
    scratch: AtomicU64,
    /// Whether a pristine directory ever lost an entry.
    has_touched: AtomicBool,
    /// How often the kernel was told of each entry.
    lookups: Box<[AtomicU64]>,
}

/// Who answers for a name.
#[derive(Debug, Clone)]
pub(super) enum Found {
    /// The tree.
    Pristine(EntryId),
    /// The real directory.
    Real(Node, Stat),
    /// Nobody.
    Missing,
}

/// Who asks for something to be made, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Maker {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// What to make.
#[derive(Debug, Clone, Copy)]
pub(super) enum New<'n> {
    Directory {
        mode: u32,
    },
    Symlink {
        target: &'n [u8],
    },
    /// Of any other type, as mknod(2).
    Node {
        mode: u32,
        device: u64,
    },
}

/// What stat(2) shows of a node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shown {
    pub(super) node: Node,
    pub(super) mode: u32,
    pub(super) links: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) device: u32,
    pub(super) size: u64,
    /// In 512 bytes.
    pub(super) blocks: u64,
    pub(super) accessed: Timespec,
    pub(super) modified: Timespec,
    pub(super) changed: Timespec,
}

const TYPE: u32 = 0o170_000;
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
/// What a directory of the tree shows as its size.
const DIRECTORY_BYTES: u64 = 4096;

/// Splits nanoseconds since the epoch.
fn timespec(nanoseconds: i64) -> Timespec {
    Timespec {
        tv_sec: nanoseconds.div_euclid(1_000_000_000),
        tv_nsec: nanoseconds.rem_euclid(1_000_000_000),
    }
}

fn modified(stat: &Stat) -> Timespec {
    Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as i64 }
}

/// Turns what the store says into what a program can be told.
fn errno(error: &rift_cas::Error) -> Errno {
    match error {
        // Bytes of a store file are gone from under its mapping.
        rift_cas::Error::Io { source, .. } if source.raw_os_error() == Some(libc::EFAULT) => {
            Errno::IO
        }
        rift_cas::Error::Io { source, .. } => {
            source.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
        }
        _ => Errno::IO,
    }
}

impl View {
    /// Makes the view of a projection whose state was brought up to date by [`super::attach`].
    pub(super) fn new(parts: Parts, owner: Owner) -> Self {
        let (nodes, scratch) = (RwLock::new(Nodes::default()), AtomicU64::new(0));
        let lookups = parts.state.words().iter().map(|_| AtomicU64::new(0)).collect();
        let modes = Modes::with_notes_below(parts.real.as_fd());
        let opened = Opened::default();
        let has_touched = AtomicBool::new(false);
        // Other views that may change it would have to know of them.
        let twins = match parts.options.links_twins && !parts.is_shared {
            true => Writer::new(&parts.tree, parts.options).twins(),
            false => HashMap::new(),
        };
        let twins = Twins::new(twins, |id| !parts.state.is_detached(id));
        Self { parts, nodes, twins, has_touched, modes, opened, owner, scratch, lookups }
    }

    /// Fails once mapped bytes are gone: what they said can't be believed, and whoever shows the projection next must
    /// find no more changes.
    pub(super) fn intact(&self) -> Result<()> {
        if !self.parts.state.is_whole() {
            sys::lose_pages();
        }
        if sys::has_lost_pages() { Err(Errno::IO) } else { Ok(()) }
    }

    /// Notes that the kernel is told of an entry.
    fn count(&self, id: EntryId) {
        if let Some(count) = self.lookups.get(id.0 as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns what a pristine entry shows to the kernel, which knows its node from then on.
    fn tell(&self, id: EntryId) -> Shown {
        let shown = self.show_pristine(id);
        self.count(nodes::entry(shown.node).unwrap_or(id));
        shown
    }

    /// Returns the first name of the pristine file that an entry is one of several names of.
    fn twin(&self, id: EntryId) -> Option<EntryId> {
        self.twins.first(id).filter(|first| self.is_pristine(*first))
    }

    /// Notes a name of a real file, and that the kernel is told of the file when `is_told`.
    fn meet(&self, nodes: &mut Nodes, node: Node, parent: Node, name: &[u8], is_told: bool) {
        match nodes::entry(node) {
            Some(id) => {
                nodes.meet(node, parent, name, 0);
                if is_told {
                    self.count(id);
                }
            }
            None => nodes.meet(node, parent, name, is_told.into()),
        }
    }

    pub(super) fn manifest(&self) -> Manifest<'_> {
        self.parts.tree.manifest()
    }

    fn read(&self) -> RwLockReadGuard<'_, Nodes> {
        self.nodes.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Nodes> {
        self.nodes.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn real(&self) -> BorrowedFd<'_> {
        self.parts.real.as_fd()
    }

    /// Tells whether the tree answers for an entry.
    fn is_pristine(&self, id: EntryId) -> bool {
        !self.parts.state.is_detached(id)
    }

    /// Returns the entry of a node whose bytes are the tree's: pristine, or taken away without having
    /// been real.
    pub(super) fn tree_entry(&self, nodes: &Nodes, node: Node) -> Option<EntryId> {
        let id = nodes::entry(node)?;
        match self.parts.state.state(id) {
            State::Pristine | State::Claimed(_) => Some(id),
            State::Detached { inode: 0 | REPLACED } if nodes.get(node).is_none() => Some(id),
            State::Detached { .. } => None,
        }
    }

    /// As [`View::tree_entry`], without the lock where that is possible.
    pub(super) fn pristine(&self, node: Node) -> Option<EntryId> {
        let id = nodes::entry(node)?;
        self.is_pristine(id).then_some(id)
    }

    /// Returns the node of a real file.
    fn node_of(&self, inode: u64) -> Node {
        match self.parts.state.entry(inode) {
            Some(id) => nodes::of_entry(id),
            None => nodes::of_foreign(inode),
        }
    }

    /// Returns a path that leads to a node's real file.
    fn path(&self, nodes: &Nodes, node: Node) -> Result<Vec<u8>> {
        if !self.parts.is_shared || node == ROOT {
            return self.path_by_names(nodes, node, 0);
        }
        // Another view may have given the names to others.
        let known = nodes.get(node);
        let is_named = known.is_none_or(|known| !known.is_orphan && known.removed.is_none());
        if !is_named {
            return self.path_by_names(nodes, node, 0);
        }
        let count = known.map_or(0, |known| known.links.len());
        for nth in 0..=count {
            let Ok(path) = self.path_by_names(nodes, node, nth) else { break };
            match self.stat(&path) {
                Ok(stat) if self.node_of(stat.st_ino) == node => return Ok(path),
                Err(Errno::ACCESS) => return Err(Errno::ACCESS),
                _ => {}
            }
        }
        let held = known.and_then(|known| known.held.as_ref());
        // What the kernel hears then makes it look the names up anew.
        held.map(path_of).ok_or(Errno::STALE)
    }

    /// Returns the path of a node by its `nth` name, counted from the last that was met; behind these comes
    /// the place that the tree has for it.
    fn path_by_names(&self, nodes: &Nodes, node: Node, nth: usize) -> Result<Vec<u8>> {
        let manifest = self.manifest();
        let mut names: Vec<&[u8]> = Vec::new();
        let orphan;
        let mut at = node;
        while at != ROOT {
            if names.len() > 2 * rift_tree::manifest::DEPTH_MAX {
                return Err(Errno::LOOP);
            }
            match nodes.get(at) {
                Some(Known { held: Some(file), is_orphan: true, .. }) => return Ok(path_of(file)),
                Some(known) if known.is_orphan => {
                    orphan = nodes::orphan_name(at);
                    names.push(&orphan);
                    names.push(ORPHANS);
                    break;
                }
                Some(known) if known.removed.is_some() => return Err(Errno::NOENT),
                Some(known) if known.links.len() > if at == node { nth } else { 0 } => {
                    let link = &known.links[if at == node { nth } else { 0 }];
                    names.push(&link.name);
                    at = link.parent;
                }
                _ => {
                    let id = nodes::entry(at).ok_or(Errno::STALE)?;
                    names.push(manifest.name(id).ok_or(Errno::STALE)?);
                    at = nodes::of_entry(manifest.parent(id).ok_or(Errno::STALE)?);
                }
            }
        }
        names.reverse();
        let path = names.join(&b'/');
        Ok(if path.is_empty() { b".".to_vec() } else { path })
    }

    /// Returns the path that leads to a node as far as is known, real or not.
    pub(super) fn likely_path(&self, node: Node) -> Option<Vec<u8>> {
        self.path_by_names(&self.read(), node, 0).ok()
    }

    /// Returns the path of a name in a directory.
    fn path_in(&self, nodes: &Nodes, parent: Node, name: &[u8]) -> Result<Vec<u8>> {
        let mut path = self.path(nodes, parent)?;
        path.push(b'/');
        path.extend_from_slice(name);
        Ok(path)
    }

    fn stat(&self, path: &[u8]) -> Result<Stat> {
        let mut stat = match path {
            // Its own mode does not keep anybody from looking at it.
            b"." => rustix::fs::fstat(self.real()),
            path => rustix::fs::statat(self.real(), path, following(path)),
        }?;
        self.modes.narrow(&mut stat);
        Ok(stat)
    }

    /// Finds who answers for a name.
    fn find(&self, nodes: &Nodes, parent: Node, name: &[u8]) -> Result<Found> {
        if parent == ROOT && name == ORPHANS {
            return Ok(Found::Missing);
        }
        if let Some(directory) = nodes::entry(parent) {
            match self.manifest().child_named(directory, name) {
                Some(child) if self.is_pristine(child) => return Ok(Found::Pristine(child)),
                _ if self.is_pristine(directory) => return Ok(Found::Missing),
                _ => {}
            }
        }
        match self.stat(&self.path_in(nodes, parent, name)?) {
            Ok(stat) => Ok(Found::Real(self.node_of(stat.st_ino), stat)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(Found::Missing),
            Err(error) => Err(error),
        }
    }

    /// As [`View::find`], for who takes the name away or gives it to another file: one of several of a file is real then.
    fn find_to_change(&self, nodes: &mut Nodes, parent: Node, name: &[u8]) -> Result<Found> {
        match self.find(nodes, parent, name)? {
            Found::Pristine(id) if self.twin(id).is_some() => {
                self.make_real(nodes, id)?;
                self.find(nodes, parent, name)
            }
            found => Ok(found),
        }
    }

    /// Looks a name up for the kernel, which knows the node from then on; `None` when it is missing.
    pub(super) fn lookup(&self, parent: Node, name: &[u8]) -> Result<Option<Shown>> {
        if let Some(directory) = self.pristine(parent) {
            match self.manifest().child_named(directory, name) {
                Some(child) if self.is_pristine(child) => return Ok(Some(self.tell(child))),
                // Read again under the lock: the directory may have become real meanwhile.
                _ if self.is_pristine(directory) => return Ok(None),
                _ => {}
            }
        }
        let mut nodes = self.write();
        match self.find(&nodes, parent, name)? {
            Found::Pristine(id) => {
                drop(nodes);
                Ok(Some(self.tell(id)))
            }
            Found::Real(node, stat) => {
                self.meet(&mut nodes, node, parent, name, true);
                Ok(Some(self.show_real(&nodes, node, &stat)))
            }
            Found::Missing => Ok(None),
        }
    }

    /// Returns what stat(2) shows of a node.
    pub(super) fn show(&self, node: Node) -> Result<Shown> {
        if let Some(id) = self.pristine(node) {
            return Ok(self.show_pristine(id));
        }
        let nodes = self.read();
        if let Some(id) = self.tree_entry(&nodes, node) {
            let shown = self.show_entry(id);
            // Taken away while somebody has it open.
            return Ok(Shown { links: 0, ..shown });
        }
        if let Some((stat, _)) = nodes.get(node).and_then(|known| known.removed.as_ref()) {
            let shown = self.show_real(&nodes, node, stat);
            return Ok(Shown { links: 0, ..shown });
        }
        let stat = match nodes.get(node).and_then(|known| known.held.as_ref()) {
            Some(file) => rustix::fs::fstat(file)?,
            None => self.stat(&self.path(&nodes, node)?)?,
        };
        Ok(self.show_real(&nodes, node, &stat))
    }

    /// Returns what a pristine entry shows, also when it is a directory that lost entries.
    fn show_pristine(&self, id: EntryId) -> Shown {
        let shown = self.show_entry(id);
        if !self.has_touched.load(Ordering::Acquire) {
            return shown;
        }
        match self.read().touched.get(&id) {
            Some(time) => Shown { modified: *time, changed: *time, ..shown },
            None => shown,
        }
    }

    /// Makes a directory real if it lost entries.
    pub(super) fn settle_at(&self, node: Node) -> Result<()> {
        match self.pristine(node) {
            Some(id) if self.has_touched.load(Ordering::Acquire) => {
                let mut nodes = self.write();
                if nodes.touched.contains_key(&id) {
                    self.make_real(&mut nodes, id)
                } else {
                    Ok(())
                }
            }
            _ => Ok(()),
        }
    }

    /// Makes all directories real that lost entries.
    pub(super) fn settle(&self) -> Result<()> {
        let mut nodes = self.write();
        let touched: Vec<EntryId> = nodes.touched.keys().copied().collect();
        touched.into_iter().try_for_each(|id| self.make_real(&mut nodes, id))
    }

    /// Returns what a pristine entry shows.
    pub(super) fn show_entry(&self, id: EntryId) -> Shown {
        let manifest = self.manifest();
        let options = &self.parts.options;
        let kind = manifest.kind(id);
        let twin = self.twin(id);
        let (bits, size, links) = match kind {
            Some(Kind::Directory { .. }) => {
                (DIRECTORY, DIRECTORY_BYTES, 2 + self.pristine_directories(id))
            }
            Some(Kind::File { size, .. }) => {
                let others = twin.map_or(0, |first| self.twins.others(first).len());
                (REGULAR, size, 1 + others as u32)
            }
            Some(Kind::Symlink { target }) => (LINK, target.len() as u64, 1),
            None => (REGULAR, 0, 1),
        };
        let permissions = match kind {
            Some(Kind::Symlink { .. }) => 0o777,
            _ => u32::from(options.permissions(&manifest, id)),
        };
        let time = timespec(options.mtime_ns(&manifest, id));
        let blocks = if bits == LINK { 0 } else { size.div_ceil(4096) * 8 };
        Shown {
            node: nodes::of_entry(twin.unwrap_or(id)),
            mode: bits | permissions,
            links,
            uid: self.parts.uid,
            gid: self.parts.gid,
            device: 0,
            size,
            blocks,
            accessed: time,
            modified: time,
            changed: timespec(self.parts.shown_ns),
        }
    }

    fn pristine_directories(&self, id: EntryId) -> u32 {
        let manifest = self.manifest();
        let is_one = |child: &EntryId| {
            manifest.mode(*child).is_some_and(|mode| u32::from(mode) & TYPE == DIRECTORY)
                && self.is_pristine(*child)
        };
        manifest.children(id).filter(is_one).count() as u32
    }

    /// Returns what a real file shows.
    fn show_real(&self, nodes: &Nodes, node: Node, stat: &Stat) -> Shown {
        let is_orphan = |known: &Known| known.is_orphan && known.held.is_none();
        let is_orphan = nodes.get(node).is_some_and(is_orphan);
        let mut shown = Shown {
            node,
            mode: stat.st_mode,
            links: (stat.st_nlink as u32).saturating_sub(is_orphan.into()),
            uid: stat.st_uid,
            gid: stat.st_gid,
            // The kernel's own encoding of device numbers, as fuse(4) has it.
            device: rustix::fs::minor(stat.st_rdev) & 0xff
                | rustix::fs::major(stat.st_rdev) << 8
                | (rustix::fs::minor(stat.st_rdev) & !0xff) << 12,
            size: stat.st_size as u64,
            blocks: stat.st_blocks as u64,
            accessed: Timespec { tv_sec: stat.st_atime, tv_nsec: stat.st_atime_nsec as i64 },
            modified: modified(stat),
            changed: Timespec { tv_sec: stat.st_ctime, tv_nsec: stat.st_ctime_nsec as i64 },
        };
        if node == ROOT {
            // That of the orphans is none of its directories.
            shown.links = shown.links.saturating_sub(1);
        }
        let Some(id) = nodes::entry(node) else {
            return shown;
        };
        if stat.st_mode & TYPE == DIRECTORY {
            shown.links += self.pristine_directories(id);
            shown.size = DIRECTORY_BYTES;
        }
        // Who made it real did not change it: as long as nothing else differs, neither does its ctime.
        let entry = self.show_entry(id);
        let is_same = |one: &Shown| (one.mode, one.uid, one.gid, one.size, one.modified);
        let is_file = stat.st_mode & TYPE != DIRECTORY;
        if is_same(&shown) == is_same(&entry) && !(is_file && shown.links != 1) {
            shown.changed = entry.changed;
        }
        shown
    }

    /// Returns the target of a symbolic link.
    pub(super) fn target(&self, node: Node) -> Result<Vec<u8>> {
        let nodes = self.read();
        if let Some(id) = self.tree_entry(&nodes, node) {
            return match self.manifest().kind(id) {
                Some(Kind::Symlink { target }) => Ok(target.to_vec()),
                _ => Err(Errno::INVAL),
            };
        }
        let path = self.path(&nodes, node)?;
        rustix::fs::readlinkat(self.real(), path, Vec::new()).map(CString::into_bytes)
    }

    // ---- making entries real

    /// Returns a path among the orphans that nothing has.
    fn scratch(&self) -> Vec<u8> {
        let number = self.scratch.fetch_add(1, Ordering::Relaxed);
        let pid = self.owner.pid();
        [ORPHANS, format!("/new-{pid}-{number}").as_bytes()].concat()
    }

    /// Claims an entry, as soon as nobody else does; `None` when it is detached.
    fn claim(&self, id: EntryId) -> Result<Option<Claim>> {
        let word = self.parts.state.word(id).ok_or(Errno::STALE)?;
        let mut attempt = word.claim(self.owner);
        loop {
            match attempt {
                Attempt::Detached => return Ok(None),
                Attempt::Won(claim) => return Ok(Some(claim)),
                Attempt::Busy(owner) if super::owner::is_dead(owner) => {
                    attempt = word.take_over(owner, self.owner);
                }
                Attempt::Busy(_) => {
                    std::thread::sleep(Duration::from_micros(50));
                    attempt = word.claim(self.owner);
                }
            }
        }
    }

    /// Makes an entry real, and all directories above it; one that is already is as good.
    fn make_real(&self, nodes: &mut Nodes, id: EntryId) -> Result<()> {
        if let Some(first) = self.twin(id) {
            return self.make_names_real(nodes, first);
        }
        match self.claim(id)? {
            Some(claim) => self.build(nodes, id, claim),
            None => Ok(()),
        }
    }

    fn build(&self, nodes: &mut Nodes, id: EntryId, claim: Claim) -> Result<()> {
        let word = self.parts.state.word(id).ok_or(Errno::STALE)?;
        match self.write_entry(nodes, id) {
            Ok(real) => self.parts.state.finish(id, claim, real).then_some(()).ok_or(Errno::STALE),
            Err(error) => {
                word.give_up(claim);
                Err(error)
            }
        }
    }

    /// Makes a file real that has several names in the tree, with all of them.
    fn make_names_real(&self, nodes: &mut Nodes, first: EntryId) -> Result<()> {
        let mut claims = Vec::new();
        let made = self.link_names(nodes, first, &mut claims);
        for (id, claim) in claims {
            if let Some(word) = self.parts.state.word(id) {
                word.give_up(claim);
            }
        }
        made
    }

    /// As [`View::make_names_real`]; leaves the claims that were won and not finished.
    fn link_names(
        &self,
        nodes: &mut Nodes,
        first: EntryId,
        claims: &mut Vec<(EntryId, Claim)>,
    ) -> Result<()> {
        let mut claim = |id| -> Result<bool> {
            let claim = self.claim(id)?;
            let is_won = claim.is_some();
            claims.extend(claim.map(|claim| (id, claim)));
            Ok(is_won)
        };
        if !claim(first)? {
            return Ok(());
        }
        for other in self.twins.others(first) {
            claim(*other)?;
        }
        let manifest = self.manifest();
        let place_of = |id| -> Result<(EntryId, &[u8])> {
            Ok((manifest.parent(id).ok_or(Errno::STALE)?, manifest.name(id).ok_or(Errno::STALE)?))
        };
        let node = nodes::of_entry(first);
        let real = self.write_entry(nodes, first)?;
        self.meet_own_place(nodes, node);
        let (above, name) = place_of(first)?;
        let from = self.path_in(nodes, nodes::of_entry(above), name)?;
        // Whoever looks for one of the names without the lock finds it pristine, or waits for the lock, until the first one is real.
        while claims.len() > 1
            && let Some((other, claim)) = claims.pop()
        {
            let linked = self.link_name(nodes, &from, place_of(other)?);
            if linked.is_err() {
                claims.push((other, claim));
                return linked;
            }
            let is_own = self.parts.state.finish(other, claim, Real::REPLACED);
            is_own.then_some(()).ok_or(Errno::STALE)?;
            let (above, name) = place_of(other)?;
            nodes.meet(node, nodes::of_entry(above), name, 0);
        }
        let is_own =
            claims.pop().is_some_and(|(_, claim)| self.parts.state.finish(first, claim, real));
        is_own.then_some(()).ok_or(Errno::STALE)
    }

    /// Gives a real file another name that it has in the tree.
    fn link_name(
        &self,
        nodes: &mut Nodes,
        from: &[u8],
        (above, name): (EntryId, &[u8]),
    ) -> Result<()> {
        self.make_real(nodes, above)?;
        let folder = self.path(nodes, nodes::of_entry(above))?;
        self.widen_along(&folder);
        let place = self.path_in(nodes, nodes::of_entry(above), name)?;
        let linked = self.keeping_times(&folder, || {
            rustix::fs::linkat(self.real(), from, self.real(), &*place, AtFlags::empty())
        });
        // Made from outside, or by a server that died before it could say so.
        if linked == Err(Errno::EXIST) { Ok(()) } else { linked }
    }

    /// Writes an entry at its place, whole.
    fn write_entry(&self, nodes: &mut Nodes, id: EntryId) -> Result<Real> {
        let manifest = self.manifest();
        let parent = manifest.parent(id).ok_or(Errno::STALE)?;
        self.make_real(nodes, parent)?;
        let folder = self.path(nodes, nodes::of_entry(parent))?;
        // Who makes a whole subtree real meets directories that no way of the request leads to.
        self.widen_along(&folder);
        let place =
            self.path_in(nodes, nodes::of_entry(parent), manifest.name(id).ok_or(Errno::STALE)?)?;
        let scratch = self.scratch();
        let touched = nodes.touched.get(&id).copied();
        let written = self.write_scratch(&manifest, id, &scratch).and_then(|real| {
            if let Some(last_modification) = touched {
                self.set_modified(&scratch, last_modification)?;
            }
            // What was made of lost pages has no bytes or modes of the tree.
            self.intact()?;
            self.keeping_times(&folder, || {
                let flags = RenameFlags::NOREPLACE;
                rustix::fs::renameat_with(self.real(), &*scratch, self.real(), &*place, flags)
            })?;
            nodes.touched.remove(&id);
            Ok(real)
        });
        written.or_else(|error| {
            self.discard(&scratch);
            match error {
                // Made from outside, or by a server that died before it could say so.
                Errno::EXIST => Identity::of(self.real(), &place).map(|found| found.real),
                error => Err(error),
            }
        })
    }

    fn write_scratch(&self, manifest: &Manifest<'_>, id: EntryId, scratch: &[u8]) -> Result<Real> {
        let (name, shown) = (OsStr::from_bytes(scratch), Path::new(OsStr::from_bytes(ORPHANS)));
        let writer = Writer::reading(&self.parts.tree, self.parts.options);
        match manifest.kind(id).ok_or(Errno::IO)? {
            Kind::Symlink { target } => {
                rustix::fs::symlinkat(OsStr::from_bytes(target), self.real(), name)?;
                let times = self.parts.options.times(manifest, id);
                rustix::fs::utimensat(self.real(), name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            Kind::Directory { .. } => {
                let made = writer.write_directory_as(self.real(), name, id, shown);
                drop(made.map_err(|error| errno(&error))?);
                // Only who may write to it moves it, and puts something into it.
                self.widen(scratch)?;
            }
            Kind::File { .. } => {
                let made = writer.write_file_as(self.real(), name, id, shown);
                made.and_then(|file| writer.wait_for_bytes(file, shown))
                    .map_err(|error| errno(&error))?;
            }
        }
        let made = Identity::of(self.real(), scratch)?;
        if (made.uid, made.gid) != (self.parts.uid, self.parts.gid) {
            self.give(scratch, self.parts.uid, self.parts.gid)?;
        }
        Ok(made.real)
    }

    fn give(&self, path: &[u8], uid: u32, gid: u32) -> Result<()> {
        let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        rustix::fs::chownat(self.real(), path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Removes what could not be put in place.
    fn discard(&self, scratch: &[u8]) {
        let flags = [AtFlags::empty(), AtFlags::REMOVEDIR];
        // What can't be removed is among the orphans, which go when the projection is attached to next.
        let _is_gone =
            flags.iter().any(|flags| rustix::fs::unlinkat(self.real(), scratch, *flags).is_ok());
    }

    /// Runs `change`, which is no change that programs may see, and gives `folder` its mtime back.
    fn keeping_times(&self, folder: &[u8], change: impl FnOnce() -> Result<()>) -> Result<()> {
        let before = self.stat(folder)?;
        change()?;
        self.set_modified(folder, modified(&before))
    }

    fn set_modified(&self, path: &[u8], last_modification: Timespec) -> Result<()> {
        let last_access = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
        let times = Timestamps { last_access, last_modification };
        rustix::fs::utimensat(self.real(), path, &times, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Makes an entry real with everything below it that still is the tree's.
    fn make_subtree_real(&self, nodes: &mut Nodes, id: EntryId) -> Result<()> {
        self.make_real(nodes, id)?;
        let manifest = self.manifest();
        let below = match manifest.kind(id) {
            Some(Kind::Directory { first, children: 1.. }) => {
                first.0..manifest.subtree_end(id).ok_or(Errno::IO)?.0
            }
            _ => 0..0,
        };
        for child in below.map(EntryId).filter(|child| self.is_pristine(*child)) {
            self.make_real(nodes, child)?;
        }
        Ok(())
    }

    /// Makes the whole tree real.
    pub(super) fn make_all_real(&self) -> Result<()> {
        self.parts.tree.fetch_rest().map_err(|error| errno(&error))?;
        for id in (1..self.manifest().len()).map(EntryId) {
            self.intact()?;
            if self.is_pristine(id) {
                let way = Way::Into(nodes::of_entry(id));
                self.reach(&[way], || self.make_real(&mut self.write(), id))?;
            }
        }
        Ok(())
    }

    /// Makes a node real, if it is not; returns its path.
    fn real_path(&self, nodes: &mut Nodes, node: Node) -> Result<Vec<u8>> {
        if let Some(id) = self.tree_entry(nodes, node) {
            if self.is_pristine(id) {
                self.make_real(nodes, id)?;
            } else {
                // It has no name any more: its bytes live on among the orphans.
                self.make_orphan_of(nodes, node, id)?;
            }
        }
        self.path(nodes, node)
    }

    fn make_orphan_of(&self, nodes: &mut Nodes, node: Node, id: EntryId) -> Result<()> {
        let scratch = self.scratch();
        self.write_scratch(&self.manifest(), id, &scratch)?;
        let place = orphan_path(node);
        rustix::fs::renameat(self.real(), &*scratch, self.real(), &*place)?;
        nodes.get_mut(node).is_orphan = true;
        Ok(())
    }

    /// Makes a node real and its path known, for who works on the file and not on its name.
    pub(super) fn with_real<T>(
        &self,
        node: Node,
        work: impl FnOnce(BorrowedFd<'_>, &[u8]) -> Result<T>,
    ) -> Result<T> {
        {
            let nodes = self.read();
            if self.tree_entry(&nodes, node).is_none() {
                let path = self.path(&nodes, node)?;
                return work(self.real(), &path);
            }
        }
        let mut nodes = self.write();
        let path = self.real_path(&mut nodes, node)?;
        work(self.real(), &path)
    }

    /// Runs `work` on a real file's path; `None` when the tree answers for the node.
    pub(super) fn if_real<T>(
        &self,
        node: Node,
        work: impl FnOnce(BorrowedFd<'_>, &[u8]) -> Result<T>,
    ) -> Result<Result<T, EntryId>> {
        let nodes = self.read();
        if let Some(id) = self.tree_entry(&nodes, node) {
            return Ok(Err(id));
        }
        let path = self.path(&nodes, node)?;
        work(self.real(), &path).map(Ok)
    }

    /// Opens a node's real file.
    fn open(&self, real: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
        let is_followed = following(path).is_empty();
        let follow = if is_followed { OFlags::empty() } else { OFlags::NOFOLLOW };
        let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK | follow;
        match rustix::fs::openat(real, path, flags, Mode::empty()) {
            // The kernel has checked who asks; the file's mode need not let its owner in.
            Err(Errno::ACCESS) => self.open_forced(path, flags),
            other => other,
        }
    }

    fn open_forced(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
        let stat = self.stat(path)?;
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        rustix::fs::chmodat(self.real(), path, mode | Mode::RUSR | Mode::WUSR, AtFlags::empty())?;
        let opened = rustix::fs::openat(self.real(), path, flags, Mode::empty());
        rustix::fs::chmodat(self.real(), path, mode, AtFlags::empty())?;
        opened
    }

    /// Opens a node for who keeps it open whatever happens to its names; `false` when there is no need to,
    /// because the tree answers for it.
    pub(super) fn hold(&self, node: Node, to_write: bool) -> Result<bool> {
        if !to_write && self.pristine(node).is_some() {
            return Ok(false);
        }
        let mut nodes = self.write();
        let flags = if to_write { OFlags::RDWR } else { OFlags::RDONLY };
        let is_enough = match nodes.get(node).and_then(|known| known.held.as_ref()) {
            Some(file) => !to_write || rustix::fs::fcntl_getfl(file)?.contains(OFlags::RDWR),
            None => false,
        };
        if !is_enough {
            if !to_write && self.tree_entry(&nodes, node).is_some() {
                return Ok(false);
            }
            let path = self.real_path(&mut nodes, node)?;
            let file = self.open(self.real(), &path, flags)?;
            nodes.get_mut(node).held = Some(Arc::new(file));
        }
        nodes.get_mut(node).opens += 1;
        Ok(true)
    }

    /// Undoes one [`View::hold`] that was needed.
    pub(super) fn release(&self, node: Node) {
        let mut nodes = self.write();
        let known = nodes.get_mut(node);
        known.opens = known.opens.saturating_sub(1);
        if known.opens == 0 {
            known.held = None;
        }
    }

    fn held(&self, node: Node) -> Option<Arc<OwnedFd>> {
        self.read().get(node)?.held.clone()
    }

    /// Runs `work` on a descriptor that writes to a node's real file, which is made where missing.
    pub(super) fn with_writer<T>(
        &self,
        node: Node,
        work: impl FnOnce(BorrowedFd<'_>) -> Result<T>,
    ) -> Result<T> {
        let file = match self.held(node).or_else(|| self.opened.get(node, true)) {
            Some(file) => file,
            None => self.with_real(node, |real, path| {
                let file = self.open(real, path, OFlags::RDWR)?;
                Ok(self.opened.put(node, true, file))
            })?,
        };
        work(file.as_fd())
    }

    /// Runs `work` on a descriptor that reads a node's real file; the entry when the tree answers.
    pub(super) fn with_reader<T>(
        &self,
        node: Node,
        work: impl FnOnce(BorrowedFd<'_>) -> Result<T>,
    ) -> Result<Result<T, EntryId>> {
        let file = match self.held(node).or_else(|| self.opened.get(node, false)) {
            Some(file) => file,
            None => {
                let opened = self.if_real(node, |real, path| {
                    let file = self.open(real, path, OFlags::RDONLY)?;
                    Ok(self.opened.put(node, false, file))
                })?;
                match opened {
                    Ok(file) => file,
                    Err(id) => return Ok(Err(id)),
                }
            }
        };
        work(file.as_fd()).map(Ok)
    }

    // ---- names

    /// Makes a directory real for a new name in it; fails when it has no name itself any more.
    fn real_parent(&self, nodes: &mut Nodes, parent: Node) -> Result<Vec<u8>> {
        if let Some(id) = self.tree_entry(nodes, parent)
            && !self.is_pristine(id)
        {
            return Err(Errno::NOENT);
        }
        self.real_path(nodes, parent)
    }

    /// Makes something new.
    pub(super) fn make(&self, parent: Node, name: &[u8], new: New<'_>, by: Maker) -> Result<Shown> {
        let mut nodes = self.write();
        let is_pristine = |directory| {
            let child = self.manifest().child_named(directory, name);
            child.is_some_and(|child| self.is_pristine(child))
        };
        if nodes::entry(parent).is_some_and(is_pristine) || parent == ROOT && name == ORPHANS {
            return Err(Errno::EXIST);
        }
        let folder = self.real_parent(&mut nodes, parent)?;
        let path = [&*folder, b"/", name].concat();
        let mut file = None;
        let (mode, result) = match new {
            New::Directory { mode } => {
                let bits = Mode::from_raw_mode(mode & 0o7777);
                (mode, rustix::fs::mkdirat(self.real(), &*path, bits))
            }
            New::Symlink { target } => {
                (0o777, rustix::fs::symlinkat(OsStr::from_bytes(target), self.real(), &*path))
            }
            // It is written to next, so it is kept open.
            New::Node { mode, .. } if mode & TYPE == REGULAR && !self.parts.is_shared => {
                let flags = OFlags::RDWR
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let bits = Mode::from_raw_mode(mode & 0o7777);
                let made = rustix::fs::openat(self.real(), &*path, flags, bits);
                (mode, made.map(|made| file = Some(made)))
            }
            New::Node { mode, device } => {
                let kind = rustix::fs::FileType::from_raw_mode(mode);
                let bits = Mode::from_raw_mode(mode & 0o7777);
                (mode, rustix::fs::mknodat(self.real(), &*path, kind, bits, device))
            }
        };
        result?;
        let stat = self.owned_by(&folder, &path, mode, by).inspect_err(|_| self.discard(&path))?;
        let node = self.node_of(stat.st_ino);
        self.meet(&mut nodes, node, parent, name, true);
        if let Some(file) = file {
            self.opened.put(node, true, file);
        }
        Ok(self.show_real(&nodes, node, &stat))
    }

    /// Gives something new to who asked for it, as the kernel would have; returns what it is then.
    fn owned_by(&self, folder: &[u8], path: &[u8], mode: u32, by: Maker) -> Result<Stat> {
        let stat = self.stat(path)?;
        let above = self.stat(folder)?;
        let gid = if above.st_mode & 0o2000 != 0 { above.st_gid } else { by.gid };
        if (stat.st_uid, stat.st_gid) == (by.uid, gid) {
            return Ok(stat);
        }
        self.give(path, by.uid, gid)?;
        if mode & 0o6000 != 0 && stat.st_mode & TYPE != LINK {
            // chown(2) takes these away.
            let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
            rustix::fs::chmodat(self.real(), path, mode, AtFlags::empty())?;
        }
        self.stat(path)
    }

    /// Sets the mtime of a real directory in which a pristine entry was taken away.
    fn touch(&self, folder: &[u8]) -> Result<()> {
        self.set_modified(folder, Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW })
    }

    /// Takes a pristine entry out of its directory. One that is pristine itself stays so: whoever removes a
    /// whole tree looks at none of its directories again, and makes none.
    fn remove_pristine(&self, nodes: &mut Nodes, parent: Node, id: EntryId) -> Result<()> {
        if let Some(above) = self.pristine(parent)
            && !self.parts.is_shared
        {
            self.take_away(id, Real::NONE, || Ok(()))?;
            nodes.touched.remove(&id);
            // The clock that file systems set times by.
            let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
            nodes.touched.insert(above, now);
            self.has_touched.store(true, Ordering::Release);
            return Ok(());
        }
        let folder = self.real_parent(nodes, parent)?;
        self.take_away(id, Real::NONE, || self.touch(&folder))?;
        nodes.touched.remove(&id);
        Ok(())
    }

    /// Runs `change`, after which a pristine entry is gone, and `real` at its place.
    fn take_away(
        &self,
        id: EntryId,
        real: Real,
        change: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let word = self.parts.state.word(id).ok_or(Errno::STALE)?;
        let claim = self.claim(id)?.ok_or(Errno::NOENT)?;
        match change() {
            Ok(()) => self.parts.state.finish(id, claim, real).then_some(()).ok_or(Errno::STALE),
            Err(error) => {
                word.give_up(claim);
                Err(error)
            }
        }
    }

    /// Removes a name that is no directory's.
    pub(super) fn unlink(&self, parent: Node, name: &[u8]) -> Result<()> {
        let mut nodes = self.write();
        match self.find_to_change(&mut nodes, parent, name)? {
            Found::Missing => Err(Errno::NOENT),
            Found::Pristine(id) => self.remove_pristine(&mut nodes, parent, id),
            Found::Real(node, stat) => {
                let path = self.path_in(&nodes, parent, name)?;
                if stat.st_mode & TYPE == DIRECTORY {
                    return Err(Errno::ISDIR);
                }
                if self.parts.is_shared {
                    self.drop_name(&path, &stat, || {
                        rustix::fs::unlinkat(self.real(), &*path, AtFlags::empty())
                    })?;
                    nodes.lose(node, parent, name);
                } else if stat.st_nlink == 1 {
                    self.bury(&path, node)?;
                    nodes.lose(node, parent, name);
                    nodes.get_mut(node).is_orphan = true;
                    // Said here already, so that who syncs the directory syncs it, too.
                    self.gone(stat.st_ino);
                } else {
                    self.lose(&mut nodes, node, parent, name)?;
                    rustix::fs::unlinkat(self.real(), &*path, AtFlags::empty())?;
                }
                self.vacate(parent, name);
                Ok(())
            }
        }
    }

    /// Returns the word of the entry whose place this is.
    fn word_at(&self, parent: Node, name: &[u8]) -> Option<&StateWord> {
        let id = self.manifest().child_named(nodes::entry(parent)?, name)?;
        self.parts.state.word(id)
    }

    /// Notes that a real file lost this name and no other one has it.
    fn vacate(&self, parent: Node, name: &[u8]) {
        if let Some(word) = self.word_at(parent, name) {
            word.forget_inode(REPLACED);
        }
    }

    /// Notes that another file took this name, the last one of a real file.
    fn replace(&self, parent: Node, name: &[u8], lost: &Stat) {
        if let Some(word) = self.word_at(parent, name)
            && (lost.st_nlink == 1 || lost.st_mode & TYPE == DIRECTORY)
        {
            word.replace_inode(lost.st_ino);
        }
    }

    /// Runs `change`, which takes a name from a file that other views may know. Who has it open holds it.
    fn drop_name(
        &self,
        path: &[u8],
        stat: &Stat,
        change: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        // Keeps the number from being the next file's before the word says that it is gone.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let _kept = rustix::fs::openat(self.real(), path, flags, Mode::empty())?;
        change()?;
        if stat.st_nlink == 1 {
            self.gone(stat.st_ino);
        }
        Ok(())
    }

    /// Moves a file among the orphans.
    fn bury(&self, path: &[u8], node: Node) -> Result<()> {
        let bury = || rustix::fs::renameat(self.real(), path, self.real(), &*orphan_path(node));
        match bury() {
            // The folder goes when the projection was emptied; who is still in it may begin anew.
            Err(Errno::NOENT) => {
                rustix::fs::mkdirat(self.real(), ORPHANS, Mode::from_raw_mode(0o700))?;
                bury()
            }
            other => other,
        }
    }

    /// Tells whether the root shows nothing any more, of a tree that has something to show.
    pub(super) fn is_emptied(&self) -> bool {
        if self.manifest().len() == 1 || self.has_pristine(EntryId::ROOT) {
            return false;
        }
        let mut is_empty = true;
        // What comes after its own name and that of what is above.
        let listed = self.list(ROOT, 2, false, |_, _, _| {
            is_empty = false;
            true
        });
        listed.is_ok() && is_empty
    }

    /// Removes the folder of orphans; those that somebody may have open live on in descriptors.
    pub(super) fn hold_orphans(&self) -> Result<()> {
        let mut nodes = self.write();
        for (node, known) in nodes.orphans() {
            let path = orphan_path(node);
            let file = match self.open(self.real(), &path, OFlags::RDWR) {
                // No regular file: the kernel keeps what is in it.
                Err(Errno::NXIO | Errno::ISDIR | Errno::LOOP) => continue,
                other => other?,
            };
            rustix::fs::unlinkat(self.real(), &*path, AtFlags::empty())?;
            known.held = Some(Arc::new(file));
        }
        drop(nodes);
        super::attach::detach_all(self.real())
    }

    /// Forgets one of several names of a file; keeps the file reachable when no other is known.
    fn lose(&self, nodes: &mut Nodes, node: Node, parent: Node, name: &[u8]) -> Result<()> {
        let path = self.path_in(nodes, parent, name)?;
        if !nodes.lose(node, parent, name) {
            let orphan = orphan_path(node);
            match rustix::fs::linkat(self.real(), &*path, self.real(), &*orphan, AtFlags::empty()) {
                Ok(()) | Err(Errno::EXIST) => nodes.get_mut(node).is_orphan = true,
                // Who has it open can't be served any more; the name goes all the same.
                Err(Errno::MLINK | Errno::PERM) => {}
                Err(error) => {
                    nodes.meet(node, parent, name, 0);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Tells whether a directory of the tree still shows entries of the tree.
    fn has_pristine(&self, directory: EntryId) -> bool {
        let mut children = self.manifest().children(directory);
        children.any(|child| merge::lists_tree_child(&self.parts.state, child))
    }

    /// Removes an empty directory.
    pub(super) fn rmdir(&self, parent: Node, name: &[u8]) -> Result<()> {
        let mut nodes = self.write();
        match self.find(&nodes, parent, name)? {
            Found::Missing => Err(Errno::NOENT),
            Found::Pristine(id) => {
                match self.manifest().kind(id) {
                    Some(Kind::Directory { .. }) if self.has_pristine(id) => {
                        return Err(Errno::NOTEMPTY);
                    }
                    Some(Kind::Directory { .. }) => {}
                    _ => return Err(Errno::NOTDIR),
                }
                self.remove_pristine(&mut nodes, parent, id)
            }
            Found::Real(node, stat) => {
                if nodes::entry(node).is_some_and(|id| self.has_pristine(id)) {
                    return Err(Errno::NOTEMPTY);
                }
                let path = self.path_in(&nodes, parent, name)?;
                let kept = self.keep(&path)?;
                rustix::fs::unlinkat(self.real(), &*path, AtFlags::REMOVEDIR)?;
                self.removed(&mut nodes, node, (stat, kept));
                self.vacate(parent, name);
                Ok(())
            }
        }
    }

    /// Opens a directory that is about to lose its name.
    fn keep(&self, path: &[u8]) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(self.real(), path, flags, Mode::empty())
    }

    /// Notes that a real directory is gone.
    fn removed(&self, nodes: &mut Nodes, node: Node, (stat, kept): (Stat, OwnedFd)) {
        let inode = stat.st_ino;
        let known = nodes.get_mut(node);
        known.links.clear();
        known.removed = Some((stat, kept));
        self.gone(inode);
    }

    /// Notes that a real file is gone for good: its inode number may be the next one's.
    fn gone(&self, inode: u64) {
        if let Some(word) = self.parts.state.entry(inode).and_then(|id| self.parts.state.word(id)) {
            word.forget_inode(inode);
        }
    }

    /// Makes what has a name real, with all that is below it; returns its node.
    fn make_found_real(&self, nodes: &mut Nodes, found: &Found) -> Result<Node> {
        match found {
            Found::Missing => Err(Errno::NOENT),
            Found::Pristine(id) => {
                self.make_subtree_real(nodes, *id)?;
                Ok(nodes::of_entry(*id))
            }
            Found::Real(node, stat) => {
                if let Some(id) = nodes::entry(*node)
                    && stat.st_mode & TYPE == DIRECTORY
                {
                    self.make_subtree_real(nodes, id)?;
                }
                Ok(*node)
            }
        }
    }

    /// Renames, as renameat2(2).
    pub(super) fn rename(
        &self,
        (from_parent, from): (Node, &[u8]),
        (to_parent, to): (Node, &[u8]),
        flags: RenameFlags,
    ) -> Result<()> {
        if flags.contains(RenameFlags::WHITEOUT) {
            return Err(Errno::INVAL);
        }
        let mut nodes = self.write();
        // Making one real may make the other one real, whose name it is as well.
        let target = self.find_to_change(&mut nodes, to_parent, to)?;
        let source = self.find_to_change(&mut nodes, from_parent, from)?;
        let is_exchange = flags.contains(RenameFlags::EXCHANGE);
        match (&source, &target) {
            (Found::Missing, _) => return Err(Errno::NOENT),
            (_, Found::Missing) if is_exchange => return Err(Errno::NOENT),
            (_, Found::Pristine(_) | Found::Real(..)) if flags.contains(RenameFlags::NOREPLACE) => {
                return Err(Errno::EXIST);
            }
            // Two names of one file: nothing happens, as rename(2) says.
            (Found::Real(one, _), Found::Real(other, _)) if one == other => return Ok(()),
            _ => {}
        }
        let node = self.make_found_real(&mut nodes, &source)?;
        let new_folder = self.real_parent(&mut nodes, to_parent)?;
        let old = self.path_in(&nodes, from_parent, from)?;
        let new = [&*new_folder, b"/", to].concat();
        let here = Link { parent: from_parent, name: from.into() };
        let there = Link { parent: to_parent, name: to.into() };
        let rename =
            |flags| rustix::fs::renameat_with(self.real(), &*old, self.real(), &*new, flags);
        if is_exchange {
            let other = self.make_found_real(&mut nodes, &target)?;
            rename(RenameFlags::EXCHANGE)?;
            nodes.rename(node, &here, there.clone());
            nodes.rename(other, &there, here);
            return Ok(());
        }
        match target {
            Found::Missing => rename(RenameFlags::empty())?,
            Found::Pristine(id) => {
                let is_full = matches!(self.manifest().kind(id), Some(Kind::Directory { .. }))
                    && self.has_pristine(id);
                if is_full {
                    return Err(Errno::NOTEMPTY);
                }
                if let Found::Real(_, stat) = &source
                    && stat.st_mode & TYPE == REGULAR
                {
                    // ext4 does so where a file's name is taken, see auto_da_alloc in ext4(5).
                    let file = self.open(self.real(), &old, OFlags::RDONLY)?;
                    let writer = Writer::new(&self.parts.tree, self.parts.options);
                    let written = writer.wait_for_bytes(file, Path::new(OsStr::from_bytes(&old)));
                    written.map_err(|error| errno(&error))?;
                }
                self.take_away(id, Real::REPLACED, || rename(RenameFlags::empty()))?;
            }
            Found::Real(other, stat) if stat.st_mode & TYPE == DIRECTORY => {
                if nodes::entry(other).is_some_and(|id| self.has_pristine(id)) {
                    return Err(Errno::NOTEMPTY);
                }
                let kept = self.keep(&new)?;
                rename(RenameFlags::empty())?;
                self.replace(to_parent, to, &stat);
                self.removed(&mut nodes, other, (stat, kept));
            }
            Found::Real(other, stat) if self.parts.is_shared => {
                self.drop_name(&new, &stat, || {
                    rename(RenameFlags::empty())?;
                    self.replace(to_parent, to, &stat);
                    Ok(())
                })?;
                nodes.lose(other, to_parent, to);
            }
            Found::Real(other, stat) => {
                // The file that loses its name here may be open, so it gets another one first.
                self.lose(&mut nodes, other, to_parent, to)?;
                if let Err(error) = rename(RenameFlags::empty()) {
                    nodes.meet(other, to_parent, to, 0);
                    return Err(error);
                }
                self.replace(to_parent, to, &stat);
            }
        }
        self.vacate(from_parent, from);
        nodes.rename(node, &here, there);
        Ok(())
    }

    /// Gives a file another name.
    pub(super) fn link(&self, node: Node, parent: Node, name: &[u8]) -> Result<Shown> {
        let mut nodes = self.write();
        if !matches!(self.find(&nodes, parent, name)?, Found::Missing) {
            return Err(Errno::EXIST);
        }
        let is_nameless = self.tree_entry(&nodes, node).is_some_and(|id| !self.is_pristine(id))
            || nodes.get(node).is_some_and(|known| known.is_orphan);
        if is_nameless {
            return Err(Errno::NOENT);
        }
        let old = self.real_path(&mut nodes, node)?;
        self.real_parent(&mut nodes, parent)?;
        let new = self.path_in(&nodes, parent, name)?;
        rustix::fs::linkat(self.real(), &*old, self.real(), &*new, AtFlags::empty())?;
        self.meet_own_place(&mut nodes, node);
        self.meet(&mut nodes, node, parent, name, true);
        let stat = self.stat(&new)?;
        Ok(self.show_real(&nodes, node, &stat))
    }

    /// Notes the place that the tree has for an entry before it gets other ones.
    fn meet_own_place(&self, nodes: &mut Nodes, node: Node) {
        let Some(id) = nodes::entry(node) else { return };
        if nodes.get(node).is_none_or(|known| known.links.is_empty()) {
            let manifest = self.manifest();
            let parent = nodes::of_entry(manifest.parent(id).unwrap_or(EntryId::ROOT));
            nodes.meet(node, parent, manifest.name(id).unwrap_or_default(), 0);
        }
    }

    /// The kernel forgets a node `times` times; what lost its last name goes with it.
    pub(super) fn forget(&self, node: Node, times: u64) {
        if let Some(id) = nodes::entry(node) {
            let count = self.lookups.get(id.0 as usize);
            let before = count.map(|count| count.fetch_sub(times, Ordering::Relaxed));
            if self.is_pristine(id) || before != Some(times) {
                return;
            }
        }
        let mut nodes = self.write();
        let Some(known) = nodes.forget(node, times) else { return };
        self.opened.close(node);
        if known.is_orphan && known.held.is_none() {
            let path = orphan_path(node);
            let inode = self.stat(&path).map(|stat| stat.st_ino);
            self.discard(&path);
            if let Ok(inode) = inode {
                self.gone(inode);
            }
        }
    }

    // ---- listings

    /// Lists a directory from `offset` on until `emit`, which gets each name's own offset, has enough.
    ///
    /// Offsets: 0 and 1 are `.` and `..`, then come the tree's children by their order, whether they are
    /// listed or not, then the real directory's own cookies, for names that the tree does not have: so none is missed or told
    /// twice that becomes real meanwhile. The kernel hands back the offset of the last
    /// name that it took, so an offset is also where the listing goes on after its name.
    pub(super) fn list(
        &self,
        node: Node,
        offset: u64,
        counts: bool,
        mut emit: impl FnMut(&[u8], u64, &Shown) -> bool,
    ) -> Result<()> {
        let manifest = self.manifest();
        let directory = nodes::entry(node);
        let first = manifest.children(directory.unwrap_or(EntryId(u32::MAX))).next();
        if offset < TREE_OFFSETS {
            for at in offset..2 {
                let name = if at == 0 { b".".as_slice() } else { b".." };
                let shown = if at == 0 { self.show(node)? } else { self.show_entry(EntryId::ROOT) };
                if emit(name, at + 1, &shown) {
                    return Ok(());
                }
            }
            let start = offset.saturating_sub(2);
            let children = directory.into_iter().flat_map(|id| manifest.children(id));
            let mut real = None;
            for child in children.skip(usize::try_from(start).unwrap_or(usize::MAX)) {
                let at = 3 + u64::from(child.0 - first.unwrap_or(child).0);
                let name = manifest.name(child).ok_or(Errno::IO)?;
                if merge::lists_tree_child(&self.parts.state, child) {
                    let shown = self.show_pristine(child);
                    if emit(name, at, &shown) {
                        return Ok(());
                    }
                    if counts {
                        self.count(nodes::entry(shown.node).unwrap_or(child));
                    }
                    continue;
                }
                let mut nodes = self.write();
                if real.is_none() {
                    real = self.open_real(&nodes, node)?;
                }
                let Some(folder) = &real else { continue };
                let is_full =
                    self.list_name(&mut nodes, (node, folder), name, counts, |shown| {
                        emit(name, at, shown)
                    })?;
                if is_full {
                    return Ok(());
                }
            }
        }
        if directory.is_some_and(|id| self.is_pristine(id)) {
            return Ok(());
        }
        self.list_real(node, offset, counts, emit)
    }

    /// Opens a directory as it is on the disk; `None` where it is not there.
    fn open_real(&self, nodes: &Nodes, node: Node) -> Result<Option<OwnedFd>> {
        if self.tree_entry(nodes, node).is_some() {
            // Pristine, or taken away without having been real.
            return Ok(None);
        }
        let path = match self.path(nodes, node) {
            Err(Errno::NOENT) => return Ok(None),
            other => other?,
        };
        self.open(self.real(), &path, OFlags::RDONLY | OFlags::DIRECTORY).map(Some)
    }

    /// Lists what has a name in a directory on the disk, if something has; tells whether there is no more room.
    fn list_name(
        &self,
        nodes: &mut Nodes,
        (node, folder): (Node, &OwnedFd),
        name: &[u8],
        counts: bool,
        emit: impl FnOnce(&Shown) -> bool,
    ) -> Result<bool> {
        let stat = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(false),
            other => other?,
        };
        let own = self.node_of(stat.st_ino);
        let shown = self.show_real(nodes, own, &stat);
        if emit(&shown) {
            return Ok(true);
        }
        self.meet(nodes, own, node, name, counts);
        Ok(false)
    }

    fn list_real(
        &self,
        node: Node,
        offset: u64,
        counts: bool,
        mut emit: impl FnMut(&[u8], u64, &Shown) -> bool,
    ) -> Result<()> {
        let mut nodes = self.write();
        let Some(folder) = self.open_real(&nodes, node)? else { return Ok(()) };
        if let Some(cookie) = real_cookie(offset) {
            rustix::fs::seek(&folder, rustix::fs::SeekFrom::Start(cookie))?;
        }
        let mut buffer = Vec::with_capacity(32 << 10);
        let mut listing = rustix::fs::RawDir::new(&folder, buffer.spare_capacity_mut());
        while let Some(found) = listing.next() {
            let found = found?;
            let name = found.file_name().to_bytes();
            if matches!(name, b"." | b"..") || node == ROOT && name == ORPHANS {
                continue;
            }
            let has_place = |id| self.manifest().child_named(id, name).is_some();
            if nodes::entry(node).is_some_and(has_place) {
                continue;
            }
            let at = real_offset(found.next_entry_cookie());
            let is_full = self.list_name(&mut nodes, (node, &folder), name, counts, |shown| {
                emit(name, at, shown)
            })?;
            if is_full {
                break;
            }
        }
        Ok(())
    }

    /// Reads bytes of a file of the tree.
    pub(super) fn tree_bytes(&self, id: EntryId, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let Some(Kind::File { size, blob }) = self.manifest().kind(id) else {
            return Err(Errno::ISDIR);
        };
        let wanted = size.saturating_sub(offset).min(buffer.len() as u64);
        let part = &mut buffer[..usize::try_from(wanted).unwrap_or(0)];
        let read = self.parts.tree.read_at(blob, offset, part);
        read.map_err(|error| error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))?;
        Ok(part.len())
    }

    /// Writes everything that a crash may not take to the disk.
    pub(super) fn sync_state(&self) -> Result<()> {
        self.parts.state.sync().map_err(|error| errno(&error))
    }
}

/// Offsets of the tree's children are below this.
const TREE_OFFSETS: u64 = 1 << 32;

/// Keeps the file system's own cookies apart from the tree's offsets. Those of ext4 are hashes, and one in
/// 2^31 of them is taken for a neighbor's here; those of others are small.
fn real_offset(cookie: u64) -> u64 {
    if cookie < TREE_OFFSETS { cookie + TREE_OFFSETS } else { cookie }
}

/// Undoes [`real_offset`]; `None` for the offsets before the first real name.
fn real_cookie(offset: u64) -> Option<u64> {
    match offset {
        0..TREE_OFFSETS => None,
        _ if offset < 2 * TREE_OFFSETS => Some(offset - TREE_OFFSETS),
        _ => Some(offset),
    }
}

/// Returns a path that leads to an open file; it is a symbolic link, to be followed.
pub(super) fn path_of(file: impl AsFd) -> Vec<u8> {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()).into_bytes()
}

/// Returns how to work on the file that a path of ours leads to.
pub(super) fn following(path: &[u8]) -> AtFlags {
    if path.starts_with(b"/") { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW }
}

fn orphan_path(node: Node) -> Vec<u8> {
    [ORPHANS, b"/", &nodes::orphan_name(node)].concat()
}
