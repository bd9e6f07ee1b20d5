//! Materialize: writes a tree as real files, in parallel, from the mapped packs.
//!
//! The tree is cut into subtrees of similar weight. One thread makes the directories above them, then
//! all threads take subtrees in the order of the tree, which is the order of the packs. Every file gets
//! an inode of its own, whose bytes are shared by reflink where the file system can; only who asks for
//! it gets hard links to a loose form of the tree (see [`crate::loose`]).
//!
//! A *stamped* tree stands for what a tool would make at this moment: its entries get one mtime, and
//! its modes lose the bits of the umask. Other trees are written exactly as they were taken in.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

use rift_tree::sidecar::Sidecar;
use rift_tree::{EntryId, Kind, Manifest};
use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::lock::{lock, unlocked};
use crate::loose::{self, Linked, Linker};
use crate::remove::{open_folder, remove_all};
use crate::sys;
use crate::tree::OpenTree;

/// Files of this many bytes or more are reflinked where the file system can: below it, writing the
/// bytes costs less than sharing them.
pub(crate) const REFLINK_FROM: u64 = 64 << 10;
/// How many subtrees each thread gets, roughly: enough to end together, few enough to cost nothing.
const SUBTREES_PER_THREAD: u64 = 24;
/// What making one entry costs, in bytes of writing.
const ENTRY_WEIGHT: u64 = 8 << 10;
/// How a new file is opened.
pub(crate) const CREATE: OFlags =
    OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::CLOEXEC);

/// How a tree is written.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How many threads write.
    pub threads: usize,
    /// The mtime of every entry of a stamped tree, in nanoseconds since the epoch.
    pub stamp_ns: i64,
    /// The process's file mode creation mask, see umask(2).
    pub umask: u16,
    /// Checks each blob against its hash before it is written, or the file that is linked to.
    pub verify: bool,
    /// Large files of a tree that have the same bytes, mode and mtime, and names alike, become names of one file, as cargo leaves them.
    pub links_twins: bool,
}

/// One thread, no time, no mask, and nothing that takes longer.
impl Default for Options {
    fn default() -> Self {
        Self { threads: 1, stamp_ns: 0, umask: 0, verify: false, links_twins: false }
    }
}

impl Options {
    /// Returns the permission bits that an entry of `manifest` gets.
    #[must_use]
    pub fn permissions(&self, manifest: &Manifest<'_>, id: EntryId) -> u16 {
        let mode = manifest.mode(id).unwrap_or(0o755) & 0o1777;
        if manifest.is_stamped() { mode & !self.umask } else { mode }
    }

    /// Returns the mtime that an entry is shown with, in nanoseconds since the epoch.
    #[must_use]
    pub fn mtime_ns(&self, manifest: &Manifest<'_>, id: EntryId) -> i64 {
        manifest.mtime_ns(id).unwrap_or(self.stamp_ns)
    }

    /// Returns the times that an entry is shown with, for utimensat(2).
    #[must_use]
    pub fn times(&self, manifest: &Manifest<'_>, id: EntryId) -> Timestamps {
        let mtime_ns = self.mtime_ns(manifest, id);
        let time = Timespec {
            tv_sec: mtime_ns.div_euclid(1_000_000_000),
            tv_nsec: mtime_ns.rem_euclid(1_000_000_000),
        };
        let omit = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
        Timestamps { last_access: omit, last_modification: time }
    }
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Written {
    /// Files, links and directories.
    pub entries: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// Files that are links to the loose form of their tree.
    pub linked: u64,
}

impl std::ops::AddAssign for Written {
    fn add_assign(&mut self, other: Self) {
        self.entries += other.entries;
        self.bytes += other.bytes;
        self.linked += other.linked;
    }
}

/// A subtree for one thread.
struct Part {
    directory: EntryId,
    path: PathBuf,
    /// Only these entries of `directory`, none of which is a directory: the rest are parts of their own.
    files: Option<Vec<EntryId>>,
}

/// A directory that entries are written into.
#[derive(Clone, Copy)]
struct Place<'p> {
    opened: BorrowedFd<'p>,
    /// The same directory of the loose form, when files are linked.
    loose: Option<BorrowedFd<'p>>,
    path: &'p Path,
}

/// Writes entries of one open tree.
pub struct Writer<'t> {
    tree: &'t OpenTree,
    manifest: Manifest<'t>,
    sidecar: Sidecar<'t>,
    options: Options,
    linker: Option<&'t Linker<'t>>,
    can_reflink: AtomicBool,
    /// The store's files, opened when the first large blob is shared.
    containers: Vec<OnceLock<Option<File>>>,
    /// Whether bytes are read from the store's files, not taken from the maps of them.
    reads: bool,
    /// Files that become a name of another one, which comes before them.
    twins: HashMap<EntryId, EntryId>,
}

/// Files from this size on are linked to their twins.
const TWINS_FROM: u64 = 64 << 10;

/// How much is copied at once where bytes are read.
const COPY_BYTES: u64 = 256 << 10;

/// Reads the process's umask. Call it before threads start: umask(2) can only be read by setting it.
#[must_use]
pub fn umask() -> u16 {
    let mask = rustix::process::umask(Mode::from_raw_mode(0o077));
    rustix::process::umask(mask);
    // At most 0o777.
    mask.as_raw_mode() as u16
}

impl<'t> Writer<'t> {
    /// Starts writing entries of `tree`.
    #[must_use]
    pub fn new(tree: &'t OpenTree, options: Options) -> Self {
        let (manifest, sidecar) = (tree.manifest(), tree.sidecar());
        let containers = (0..sidecar.container_count()).map(|_| OnceLock::new()).collect();
        let (can_reflink, reads, twins) = (AtomicBool::new(true), false, HashMap::new());
        Self {
            tree,
            manifest,
            sidecar,
            options,
            linker: None,
            can_reflink,
            containers,
            reads,
            twins,
        }
    }

    /// Starts writing entries of `tree` for who serves it for days: of a store file that was cut meanwhile, the map shows
    /// zeros up to the end of a page, where reading is an error.
    #[must_use]
    pub fn reading(tree: &'t OpenTree, options: Options) -> Self {
        Self { reads: true, ..Self::new(tree, options) }
    }

    /// Starts writing `tree` with hard links to its loose form.
    #[must_use]
    pub fn linking(tree: &'t OpenTree, linker: &'t Linker<'t>, options: Options) -> Self {
        let options = Options { stamp_ns: linker.stamp_ns(), ..options };
        Self { linker: Some(linker), ..Self::new(tree, options) }
    }

    /// Writes the whole tree as the new directory `root`, whose parent exists.
    ///
    /// # Errors
    /// What the system says, or damage that was met; what was written by then stays.
    pub fn write_tree(&self, root: &Path) -> Result<Written> {
        if self.options.links_twins && self.linker.is_none() {
            let new = Self::new(self.tree, self.options);
            return Self { reads: self.reads, twins: self.twins(), ..new }.write_whole(root);
        }
        self.write_whole(root)
    }

    fn write_whole(&self, root: &Path) -> Result<Written> {
        let mut parts = Vec::new();
        let mut above = Vec::new();
        let weights = self.weights();
        let total = weights.last().copied().unwrap_or(0);
        self.tree.fetch_rest()?;
        let limit = total / (self.options.threads.max(1) as u64 * SUBTREES_PER_THREAD);
        self.make_directory(None, root.as_os_str(), EntryId::ROOT, root)?;
        self.cut(EntryId::ROOT, root, limit, &weights, &mut parts, &mut above)?;
        let written = self.write_parts(&parts)?;
        let touched = self.link_twins(root)?;
        let finished = above.len() as u64;
        above.extend(touched);
        for (directory, path) in above.iter().rev() {
            let opened = open_directory(None, path.as_os_str(), path)?;
            self.finish_directory(opened.as_fd(), *directory, path)?;
        }
        Ok(Written { entries: written.entries + finished, ..written })
    }

    /// Finds files that are names of one, which comes before them.
    #[must_use]
    pub fn twins(&self) -> HashMap<EntryId, EntryId> {
        let (mut first, mut twins) = (HashMap::<_, Vec<EntryId>>::new(), HashMap::new());
        for id in (0..self.manifest.len()).map(EntryId) {
            let Some(Kind::File { blob, size }) = self.manifest.kind(id) else { continue };
            if size < TWINS_FROM || self.manifest.xattrs(id).next().is_some() {
                continue;
            }
            let alike = (blob, self.manifest.mode(id), self.manifest.mtime_ns(id));
            // A clock that ticks slowly gives others the same time.
            let group = first.entry(alike).or_default();
            match group.iter().find(|known| self.are_named_alike(id, **known)) {
                Some(known) => drop(twins.insert(id, *known)),
                None => group.push(id),
            }
        }
        twins
    }

    /// Tells whether one name is the other with something behind it, as cargo names what it makes: `build-script-build` and `build_script_build-HASH`.
    fn are_named_alike(&self, one: EntryId, other: EntryId) -> bool {
        let stem = |id: EntryId| -> Vec<u8> {
            let name = self.manifest.name(id).unwrap_or_default();
            let stem = name.split(|byte| *byte == b'.').next().unwrap_or_default();
            stem.iter().map(|byte| if *byte == b'-' { b'_' } else { *byte }).collect()
        };
        let (one, other) = (stem(one), stem(other));
        one.starts_with(&other) || other.starts_with(&one)
    }

    /// Links files to their twins, when these are written; returns the directories that were changed by that.
    fn link_twins(&self, root: &Path) -> Result<Vec<(EntryId, PathBuf)>> {
        let mut touched = Vec::new();
        for (id, twin) in &self.twins {
            let [path, from] = [*id, *twin].map(|id| root.join(relative_path(&self.manifest, id)));
            let folder = path.parent().unwrap_or(root).to_owned();
            if std::fs::hard_link(from, &path).is_err() {
                let opened = open_directory(None, folder.as_os_str(), &folder)?;
                let name = path.file_name().unwrap_or_default();
                self.write_file_as(opened.as_fd(), name, *id, &folder)?;
            }
            touched.push((self.manifest.parent(*id).unwrap_or(EntryId::ROOT), folder));
        }
        Ok(touched)
    }

    /// Makes directory `id`, without its entries, as `name` in `parent`, which is at `path`.
    ///
    /// # Errors
    /// As [`Writer::write_tree`].
    pub fn write_directory_as(
        &self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        id: EntryId,
        path: &Path,
    ) -> Result<OwnedFd> {
        self.make_directory(Some(parent), name, id, path)?;
        let opened = open_directory(Some(parent), name, path)?;
        self.finish_directory(opened.as_fd(), id, path)?;
        Ok(opened)
    }

    /// Returns how the tree is written.
    #[must_use]
    pub fn options(&self) -> Options {
        self.options
    }

    /// Writes one entry and all that is below it into `parent`, which is at `path`; nothing has its
    /// name yet.
    ///
    /// # Errors
    /// As [`Writer::write_tree`].
    pub fn write_entry(&self, parent: BorrowedFd<'_>, id: EntryId, path: &Path) -> Result<Written> {
        let loose = self.loose_directory(self.manifest.parent(id).unwrap_or(EntryId::ROOT))?;
        let loose = loose.as_ref().map(AsFd::as_fd);
        let mut written = Written::default();
        self.write_one(Place { opened: parent, loose, path }, id, &mut written)?;
        Ok(written)
    }

    /// Writes entries and all that is below them to their places below `root`, from several threads; nothing has their
    /// names yet, and none is below another.
    ///
    /// # Errors
    /// As [`Writer::write_tree`].
    pub(crate) fn write_entries(&self, root: &Path, ids: &[EntryId]) -> Result<Written> {
        let part = |id: &EntryId| {
            let path = root.join(relative_path(&self.manifest, *id));
            Part { directory: *id, path, files: None }
        };
        self.write_parts(&ids.iter().map(part).collect::<Vec<_>>())
    }

    /// Opens the loose form's directory `id` when files are linked.
    fn loose_directory(&self, id: EntryId) -> Result<Option<OwnedFd>> {
        match self.linker {
            Some(linker) => linker.open(&relative_path(&self.manifest, id)),
            None => Ok(None),
        }
    }

    /// Returns running sums: entry `i` costs `sums[i + 1] - sums[i]`.
    fn weights(&self) -> Vec<u64> {
        let mut sums = Vec::with_capacity(self.manifest.len() as usize + 1);
        let mut sum = 0_u64;
        sums.push(0);
        for id in (0..self.manifest.len()).map(EntryId) {
            let bytes = match self.manifest.kind(id) {
                Some(Kind::File { size, .. }) => size,
                _ => 0,
            };
            sum = sum.saturating_add(bytes).saturating_add(ENTRY_WEIGHT);
            sums.push(sum);
        }
        sums
    }

    /// Cuts what is below a directory, which was made, into parts; makes the directories it cuts.
    fn cut(
        &self,
        directory: EntryId,
        path: &Path,
        limit: u64,
        weights: &[u64],
        parts: &mut Vec<Part>,
        above: &mut Vec<(EntryId, PathBuf)>,
    ) -> Result<()> {
        above.push((directory, path.to_owned()));
        let (mut files, mut weight) = (Vec::new(), 0);
        for child in self.manifest.children(directory) {
            let Some(Kind::Directory { .. }) = self.manifest.kind(child) else {
                let at = |index: u32| weights.get(index as usize).copied().unwrap_or(0);
                weight += at(child.0 + 1).saturating_sub(at(child.0));
                files.push(child);
                if weight > limit {
                    let files = Some(std::mem::take(&mut files));
                    parts.push(Part { directory, path: path.to_owned(), files });
                    weight = 0;
                }
                continue;
            };
            let below = path.join(OsStr::from_bytes(self.manifest.name(child).unwrap_or_default()));
            if self.weight(child, weights) > limit {
                self.make_directory(None, below.as_os_str(), child, &below)?;
                self.cut(child, &below, limit, weights, parts, above)?;
            } else {
                parts.push(Part { directory: child, path: below, files: None });
            }
        }
        if !files.is_empty() {
            parts.push(Part { directory, path: path.to_owned(), files: Some(files) });
        }
        Ok(())
    }

    fn weight(&self, directory: EntryId, weights: &[u64]) -> u64 {
        let Some(Kind::Directory { first, .. }) = self.manifest.kind(directory) else {
            return 0;
        };
        let end = self.manifest.subtree_end(directory).map_or(first.0, |end| end.0);
        let at = |index: u32| weights.get(index as usize).copied().unwrap_or(0);
        at(end).saturating_sub(at(first.0))
    }

    fn write_parts(&self, parts: &[Part]) -> Result<Written> {
        let next = AtomicUsize::new(0);
        let failure: Mutex<Option<Error>> = Mutex::new(None);
        let stop = AtomicBool::new(false);
        let work = || {
            let mut written = Written::default();
            while !stop.load(Ordering::Relaxed) {
                let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) else {
                    break;
                };
                if let Err(error) = self.write_part(part, &mut written) {
                    stop.store(true, Ordering::Relaxed);
                    lock(&failure).get_or_insert(error);
                }
            }
            written
        };
        let mut total = Written::default();
        std::thread::scope(|scope| {
            let helpers: Vec<_> =
                (1..self.options.threads.max(1)).map(|_| scope.spawn(work)).collect();
            total += work();
            for helper in helpers {
                match helper.join() {
                    Ok(written) => total += written,
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
        });
        match unlocked(failure) {
            Some(error) => Err(error),
            None => Ok(total),
        }
    }

    fn write_part(&self, part: &Part, written: &mut Written) -> Result<()> {
        if let Some(files) = &part.files {
            let opened = open_directory(None, part.path.as_os_str(), &part.path)?;
            let loose = self.loose_directory(part.directory)?;
            let loose = loose.as_ref().map(AsFd::as_fd);
            let place = Place { opened: opened.as_fd(), loose, path: &part.path };
            return files.iter().try_for_each(|child| self.write_one(place, *child, written));
        }
        // Only the root has no parent, and it is flat.
        let parent = part.path.parent().unwrap_or(&part.path);
        let opened = open_directory(None, parent.as_os_str(), parent)?;
        *written += self.write_entry(opened.as_fd(), part.directory, parent)?;
        Ok(())
    }

    /// Writes an entry and all that is below it.
    fn write_one(&self, parent: Place<'_>, id: EntryId, written: &mut Written) -> Result<()> {
        let damaged = || Error::Refused {
            path: parent.path.to_owned(),
            reason: "the manifest of its tree is damaged",
        };
        let name = self.manifest.name(id).filter(|name| rift_tree::name::is_valid(name));
        let name = OsStr::from_bytes(name.ok_or_else(damaged)?);
        written.entries += 1;
        match self.manifest.kind(id).ok_or_else(damaged)? {
            Kind::Directory { .. } => {
                let path = parent.path.join(name);
                self.make_directory(Some(parent.opened), name, id, &path)?;
                let opened = open_directory(Some(parent.opened), name, &path)?;
                let loose = match parent.loose {
                    Some(loose) => {
                        loose::open_below(loose, name).map_err(Error::io("open", &path))?
                    }
                    None => None,
                };
                let loose = loose.as_ref().map(AsFd::as_fd);
                let place = Place { opened: opened.as_fd(), loose, path: &path };
                for child in self.manifest.children(id) {
                    self.write_one(place, child, written)?;
                }
                self.finish_directory(opened.as_fd(), id, &path)
            }
            Kind::File { size, .. } => {
                written.bytes += size;
                if self.link_file(parent, name, id)? {
                    written.linked += 1;
                    return Ok(());
                }
                // It is linked when all others are there.
                if self.twins.contains_key(&id) {
                    return Ok(());
                }
                self.write_file_as(parent.opened, name, id, parent.path).map(drop)
            }
            Kind::Symlink { target } => {
                let path = || parent.path.join(name);
                let made = rustix::fs::symlinkat(OsStr::from_bytes(target), parent.opened, name);
                made.map_err(|error| Error::io("make", &path())(error))?;
                let times = self.times(id);
                rustix::fs::utimensat(parent.opened, name, &times, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(|error| Error::io("set the time of", &path())(error))
            }
        }
    }

    /// Links a file to the loose form; `false` when it has to be written.
    fn link_file(&self, parent: Place<'_>, name: &OsStr, id: EntryId) -> Result<bool> {
        let (Some(loose), Some(linker)) = (parent.loose, self.linker) else {
            return Ok(false);
        };
        let Some(expected) = loose::expected(&self.manifest, id, &self.options) else {
            return Ok(false);
        };
        let io = |error: Errno| Error::io("link", &parent.path.join(name))(error);
        if self.options.verify
            && let Some(Kind::File { blob, .. }) = self.manifest.kind(id)
            && let Some(hash) = self.manifest.blob_hash(blob)
            && !loose::has_content(loose, name, hash).map_err(io)?
            && !linker.mend(self, loose, id)?
        {
            return Ok(false);
        }
        for _ in 0..2 {
            let linked = loose::link(loose, parent.opened, name, expected).map_err(io)?;
            match linked {
                Linked::Made => return Ok(true),
                Linked::Unlinkable => return Ok(false),
                Linked::Edited if !linker.mend(self, loose, id)? => return Ok(false),
                Linked::Edited => {}
            }
        }
        Ok(false)
    }

    /// Writes the bytes of file `id` as `name` into `parent`, which is at `folder`; returns the file.
    ///
    /// # Errors
    /// As [`Writer::write_tree`].
    pub fn write_file_as(
        &self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        id: EntryId,
        folder: &Path,
    ) -> Result<OwnedFd> {
        let Some(Kind::File { size, blob }) = self.manifest.kind(id) else {
            let reason = "the manifest of its tree is damaged";
            return Err(Error::Refused { path: folder.to_owned(), reason });
        };
        let io =
            |action: &'static str| move |error: Errno| Error::io(action, &folder.join(name))(error);
        let bytes = if self.reads { &[] } else { self.bytes(blob, size, folder)? };
        let mode = self.options.permissions(&self.manifest, id);
        // The owner's write bit lets a read-only file be written through this descriptor only.
        let has_xattrs = self.manifest.xattrs(id).next().is_some();
        // setxattr(2) needs a writable inode even through a descriptor that may write.
        let create = if has_xattrs { mode | 0o200 } else { mode };
        let created = Mode::from_raw_mode(u32::from(create & 0o777));
        let file = rustix::fs::openat(parent, name, CREATE, created).map_err(io("make"))?;
        let shared = if size >= REFLINK_FROM { self.reflink(&file, blob, size) } else { 0 };
        // What was shared is at most what there is.
        let rest = bytes.get(shared as usize..).unwrap_or_default();
        if shared > 0 {
            rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(shared)).map_err(io("write"))?;
        }
        write_all(&file, rest).map_err(io("write"))?;
        if self.reads {
            self.copy(&file, blob, shared..size).map_err(Error::io("write", &folder.join(name)))?;
        }
        for (name, value) in self.manifest.xattrs(id) {
            let flags = rustix::fs::XattrFlags::empty();
            match rustix::fs::fsetxattr(&file, OsStr::from_bytes(name), value, flags) {
                // A file system without attributes keeps the rest of the file.
                Ok(()) | Err(Errno::OPNOTSUPP) => {}
                Err(error) => return Err(io("set an attribute of")(error)),
            }
        }
        if mode & (self.options.umask | 0o1000) != 0 || create != mode {
            let mode = Mode::from_raw_mode(u32::from(mode));
            rustix::fs::fchmod(&file, mode).map_err(io("set the mode of"))?;
        }
        rustix::fs::futimens(&file, &self.times(id)).map_err(io("set the time of"))?;
        Ok(file)
    }

    /// Copies a part of a blob to where the file stands.
    fn copy(&self, file: &OwnedFd, blob: u32, part: std::ops::Range<u64>) -> io::Result<()> {
        let mut buffer = vec![0; COPY_BYTES.min(part.end.saturating_sub(part.start)) as usize];
        let mut at = part.start;
        while at < part.end {
            let count = COPY_BYTES.min(part.end - at);
            let piece = &mut buffer[..count as usize];
            self.tree.read_at(blob, at, piece)?;
            write_all(file, piece)?;
            at += count;
        }
        Ok(())
    }

    /// Waits until the bytes of a new file are on the disk, before it gets the name that is looked for after a
    /// power loss: a name may outlive that without them.
    ///
    /// # Errors
    /// As sync_file_range(2).
    pub fn wait_for_bytes(&self, file: OwnedFd, folder: &Path) -> Result<()> {
        crate::sys::write_back(&std::fs::File::from(file)).map_err(Error::io("write to", folder))
    }

    /// Shares a large blob's whole blocks with the store; returns how many bytes that were.
    fn reflink(&self, file: &OwnedFd, blob: u32, size: u64) -> u64 {
        let Some(location) = self.sidecar.location(blob) else {
            return 0;
        };
        let length = size - size % sys::CLONE_ALIGN;
        if location.offset % sys::CLONE_ALIGN != 0 || !self.can_reflink.load(Ordering::Relaxed) {
            return 0;
        }
        let number = location.container as usize;
        let container = self
            .containers
            .get(number)
            .and_then(|slot| slot.get_or_init(|| self.tree.reopen_container(number)).as_ref());
        match container.map(|container| sys::clone_range(container, location.offset, length, file))
        {
            Some(Ok(())) => length,
            _ => {
                self.can_reflink.store(false, Ordering::Relaxed);
                0
            }
        }
    }

    /// Returns a blob's bytes, checked when the options say so.
    fn bytes(&self, blob: u32, size: u64, folder: &Path) -> Result<&'t [u8]> {
        let expected = self.manifest.blob_hash(blob);
        let bytes = self.tree.bytes(&self.sidecar, blob, size);
        let (Some(expected), Some(bytes)) = (expected, bytes) else {
            let reason = "the store lost bytes of its tree";
            return Err(Error::Refused { path: folder.to_owned(), reason });
        };
        if self.options.verify {
            let actual = rift_tree::BlobHash::from_bytes(*blake3::hash(bytes).as_bytes());
            if actual != expected {
                return Err(Error::HashMismatch { expected, actual, path: folder.to_owned() });
            }
        }
        Ok(bytes)
    }

    pub(crate) fn times(&self, id: EntryId) -> Timestamps {
        self.options.times(&self.manifest, id)
    }

    fn make_directory(
        &self,
        parent: Option<BorrowedFd<'_>>,
        name: &OsStr,
        id: EntryId,
        path: &Path,
    ) -> Result<()> {
        let parent = parent.unwrap_or(rustix::fs::CWD);
        // 0700: its entries have to be made before it may become read-only.
        let permissions = self.options.permissions(&self.manifest, id) & 0o777;
        let mode = Mode::from_raw_mode(u32::from(permissions | 0o700));
        rustix::fs::mkdirat(parent, name, mode).map_err(Error::io("make", path))
    }

    /// Returns the tree.
    #[must_use]
    pub fn tree(&self) -> &'t OpenTree {
        self.tree
    }

    /// Tells whether files may become hard links.
    #[must_use]
    pub fn has_links(&self) -> bool {
        self.linker.is_some()
    }

    /// Returns the manifest of the tree.
    #[must_use]
    pub fn manifest(&self) -> Manifest<'t> {
        self.manifest
    }

    /// Sets mode and mtime of a directory that somebody else may have changed.
    pub(crate) fn set_directory(
        &self,
        opened: BorrowedFd<'_>,
        id: EntryId,
        path: &Path,
    ) -> Result<()> {
        let mode = Mode::from_raw_mode(self.options.permissions(&self.manifest, id).into());
        rustix::fs::fchmod(opened, mode).map_err(Error::io("set the mode of", path))?;
        self.finish_directory(opened, id, path)
    }

    /// Sets mode and mtime of a directory whose entries are all made.
    fn finish_directory(&self, opened: BorrowedFd<'_>, id: EntryId, path: &Path) -> Result<()> {
        let mode = self.options.permissions(&self.manifest, id);
        if mode & (self.options.umask | 0o1000) != 0 || mode & 0o700 != 0o700 {
            let mode = Mode::from_raw_mode(u32::from(mode));
            rustix::fs::fchmod(opened, mode).map_err(Error::io("set the mode of", path))?;
        }
        rustix::fs::futimens(opened, &self.times(id)).map_err(Error::io("set the time of", path))
    }
}

/// Writes all of `bytes` from where the file stands.
pub(crate) fn write_all(file: &OwnedFd, mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(file, bytes) {
            Ok(0) => return Err(Errno::NOSPC),
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Returns the path of an entry below the root of its tree.
pub(crate) fn relative_path(manifest: &Manifest<'_>, id: EntryId) -> PathBuf {
    let mut names = Vec::new();
    let mut at = id;
    while at != EntryId::ROOT && names.len() < rift_tree::manifest::DEPTH_MAX {
        names.push(OsStr::from_bytes(manifest.name(at).unwrap_or_default()));
        at = manifest.parent(at).unwrap_or(EntryId::ROOT);
    }
    names.iter().rev().collect()
}

pub(crate) fn open_directory(
    parent: Option<BorrowedFd<'_>>,
    name: &OsStr,
    path: &Path,
) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let parent = parent.unwrap_or(rustix::fs::CWD);
    rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(Error::io("open", path))
}

/// Returns a folder name beside `target` that nothing has yet.
pub(crate) fn beside(target: &Path, purpose: &str) -> PathBuf {
    let name = target.file_name().unwrap_or_default();
    let mut own = std::ffi::OsString::from(".");
    own.push(name);
    own.push(format!(".rift-{purpose}-{}", std::process::id()));
    target.with_file_name(own)
}

/// Writes a tree at `target`, which takes the place of what is there only when it is whole.
///
/// The tree is written beside the target and renamed; what was there is renamed aside and removed.
/// Leftovers of killed runs beside it are removed first, so one run at a time must hold the target.
///
/// # Errors
/// What the system says; the target is then as it was.
pub fn replace(writer: &Writer<'_>, target: &Path) -> Result<Written> {
    remove_leftovers(target)?;
    let fresh = beside(target, "new");
    let threads = writer.options.threads;
    let result = writer.write_tree(&fresh).and_then(|written| {
        put_in_place(&fresh, target, threads)?;
        Ok(written)
    });
    if result.is_err() && fresh.symlink_metadata().is_ok() {
        // The first failure is what counts; what can't be removed now is a leftover for the next run.
        drop(remove(&fresh, threads));
    }
    result
}

/// Gives the finished `fresh` the name `target`.
pub(crate) fn put_in_place(fresh: &Path, target: &Path, threads: usize) -> Result<()> {
    let flags = rustix::fs::RenameFlags::NOREPLACE;
    let cwd = rustix::fs::CWD;
    match rustix::fs::renameat_with(cwd, fresh, cwd, target, flags) {
        Ok(()) => return Ok(()),
        Err(Errno::EXIST) => {}
        // File systems without RENAME_NOREPLACE: the target is looked at first.
        Err(Errno::INVAL) if target.symlink_metadata().is_err() => {
            return rustix::fs::rename(fresh, target).map_err(Error::io("put in place", target));
        }
        Err(Errno::INVAL) => {}
        Err(error) => return Err(Error::io("put in place", target)(error)),
    }
    let old = beside(target, "old");
    rustix::fs::rename(target, &old).map_err(Error::io("move aside", target))?;
    if let Err(error) = rustix::fs::rename(fresh, target) {
        // Back to how it was; if even that fails, the next run finds the folder by its name.
        let _is_back = rustix::fs::rename(&old, target).is_ok();
        return Err(Error::io("put in place", target)(error));
    }
    remove(&old, threads)
}

/// Takes what is at `target` away: it is renamed aside, so that it is gone at once, and then removed, with what killed
/// runs left of that; missing is as good.
///
/// # Errors
/// What the system says.
pub fn move_away(target: &Path, threads: usize) -> Result<()> {
    remove_leftovers(target)?;
    let old = beside(target, "new");
    match rustix::fs::rename(target, &old) {
        Err(Errno::NOENT) => Ok(()),
        other => {
            other.map_err(Error::io("move aside", target))?;
            remove(&old, threads)
        }
    }
}

/// Removes what killed runs left beside `target`; puts its old folder back if it was moved aside last.
pub(crate) fn remove_leftovers(target: &Path) -> Result<()> {
    let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
        return Ok(());
    };
    let prefix = [b".", name.as_bytes(), b".rift-"].concat();
    for entry in std::fs::read_dir(parent).map_err(Error::io("list", parent))? {
        let entry = entry.map_err(Error::io("list", parent))?;
        let file_name = entry.file_name();
        let Some(rest) = file_name.as_bytes().strip_prefix(prefix.as_slice()) else {
            continue;
        };
        let is_old = rest.starts_with(b"old-");
        if is_old && target.symlink_metadata().is_err() {
            let path = entry.path();
            std::fs::rename(&path, target).map_err(Error::io("put back", target))?;
        } else if is_old || rest.starts_with(b"new-") {
            remove(&entry.path(), 1)?;
        }
    }
    Ok(())
}

/// Removes a file, link or directory with all that is below it; nothing there is as good.
///
/// # Errors
/// What the system says.
pub fn remove(path: &Path, threads: usize) -> Result<()> {
    let gone = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(Error::io("remove", path)),
    };
    match path.symlink_metadata() {
        Err(error) => return gone(Err(error)),
        Ok(stat) if !stat.is_dir() => return gone(std::fs::remove_file(path)),
        // Its mode may keep even its owner out.
        Ok(stat) if stat.mode() & 0o700 != 0o700 => {
            open_folder(path).map_err(Error::io("open", path))?;
        }
        Ok(_) => {}
    }
    let mut children = Vec::new();
    for entry in std::fs::read_dir(path).map_err(Error::io("list", path))? {
        children.push(entry.map_err(Error::io("list", path))?.path());
    }
    let next = AtomicUsize::new(0);
    let work = || -> Result<()> {
        while let Some(child) = children.get(next.fetch_add(1, Ordering::Relaxed)) {
            gone(remove_all(child))?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads.max(1)).map(|_| scope.spawn(work)).collect();
        let mut result = work();
        for helper in helpers {
            let helped = helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            result = result.and(helped);
        }
        result
    })?;
    gone(std::fs::remove_dir(path))
}
