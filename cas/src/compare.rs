//! Compare: finds how a directory differs from the tree that was shown there, and mends it.
//!
//! A finished projection leaves every entry with a known size, mode and mtime, and with a ctime that is
//! not later than the moment it was finished. An entry for which all of that still holds was not
//! changed, because nobody can set a ctime; the names in a directory are those of the tree while the
//! directory's own times hold. Only what fails this is read and compared by content. So an unchanged
//! projection costs one lstat(2) per entry and not one open(2) per file.
//!
//! Files that are hard links get a later ctime with every further link: for them size, mode and mtime
//! have to do, as `docs/semantics.md` says.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rift_tree::{EntryId, Kind, Manifest};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::blobs::hash_file;
use crate::error::{Error, Result};
use crate::ingest::mtime_ns;
use crate::materialize::{Options, Writer, Written, relative_path, remove};
use crate::projection::Projection;
use crate::tree::OpenTree;

/// How many directories a thread takes at a time.
const CHUNK: usize = 32;

/// How a directory differs from its tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Differences {
    /// Entries that are not there, or not as the tree has them; in the order of the tree, and never
    /// one below another.
    pub changed: Vec<EntryId>,
    /// What the tree does not have, relative to the root of the tree.
    pub extra: Vec<PathBuf>,
    /// Directories whose own mode or mtime differs.
    pub touched: Vec<EntryId>,
}

impl Differences {
    /// Tells whether the directory is the tree.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.extra.is_empty() && self.touched.is_empty()
    }

    fn append(&mut self, mut other: Self) {
        self.changed.append(&mut other.changed);
        self.extra.append(&mut other.extra);
        self.touched.append(&mut other.touched);
    }
}

struct Scan<'a> {
    /// Where the bytes are to compare with; without it, files are compared by their hash.
    tree: Option<&'a OpenTree>,
    manifest: Manifest<'a>,
    root: OwnedFd,
    path: &'a Path,
    known: &'a Projection,
    options: Options,
}

/// What lstat(2) says of an entry against what the tree says.
enum Look {
    Same,
    /// Its times or mode say that it may be another: its content decides.
    Suspect,
    Different,
}

/// Compares the directory of a projection with its tree.
///
/// # Errors
/// What the system says. A directory that was replaced by a symbolic link is a difference and is
/// never followed.
pub fn compare(tree: &OpenTree, known: &Projection, threads: usize) -> Result<Differences> {
    scan(Some(tree), tree.manifest(), known, threads)
}

/// Compares a directory with a manifest, every file by its hash.
///
/// # Errors
/// As [`compare`].
pub(crate) fn compare_content(
    manifest: Manifest<'_>,
    known: &Projection,
    threads: usize,
) -> Result<Differences> {
    // Nothing was changed so long ago, so no entry is taken for unchanged by its times.
    let known = Projection { done_ns: i64::MIN, has_links: false, ..known.clone() };
    scan(None, manifest, &known, threads)
}

fn scan(
    tree: Option<&OpenTree>,
    manifest: Manifest<'_>,
    known: &Projection,
    threads: usize,
) -> Result<Differences> {
    let path = known.directory.as_path();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::open(path, flags, Mode::empty()).map_err(Error::io("open", path))?;
    let options =
        Options { threads, stamp_ns: known.stamp_ns, umask: known.umask, ..Options::default() };
    let scan = Scan { tree, manifest, root, path, known, options };
    let visit = |directory, found: &mut Differences| scan.directory(directory, found);
    let mut found = each_directory(&manifest, threads, &visit)?;
    drop_covered(&manifest, &mut found);
    Ok(found)
}

/// Calls `visit` for every directory of a tree, from several threads, and gathers what it finds.
fn each_directory(
    manifest: &Manifest<'_>,
    threads: usize,
    visit: &(dyn Fn(EntryId, &mut Differences) -> Result<()> + Sync),
) -> Result<Differences> {
    let directories: Vec<EntryId> = (0..manifest.len())
        .map(EntryId)
        .filter(|id| matches!(manifest.kind(*id), Some(Kind::Directory { .. })))
        .collect();
    let next = AtomicUsize::new(0);
    let work = || -> Result<Differences> {
        let mut found = Differences::default();
        loop {
            let start = next.fetch_add(CHUNK, Ordering::Relaxed);
            let end = (start + CHUNK).min(directories.len());
            let Some(chunk) = directories.get(start..end).filter(|chunk| !chunk.is_empty()) else {
                return Ok(found);
            };
            for directory in chunk {
                visit(*directory, &mut found)?;
            }
        }
    };
    std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads.max(1)).map(|_| scope.spawn(work)).collect();
        let mut total = work();
        for helper in helpers {
            let part = helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            total = total.and_then(|mut total| {
                total.append(part?);
                Ok(total)
            });
        }
        total
    })
}

/// Gives every entry below `root`, which is the writer's tree, the writer's times.
///
/// Who has changed a projection from one tree to another calls it: a file that is another now must not
/// have the time of the one that was there.
///
/// # Errors
/// What the system says.
pub fn restamp(writer: &Writer<'_>, root: &Path) -> Result<()> {
    let manifest = writer.manifest();
    let visit = |directory: EntryId, _: &mut Differences| {
        let path = root.join(relative_path(&manifest, directory));
        let opened = crate::materialize::open_directory(None, path.as_os_str(), &path)?;
        for child in manifest.children(directory) {
            let name = OsStr::from_bytes(manifest.name(child).unwrap_or_default());
            let times = writer.times(child);
            rustix::fs::utimensat(&opened, name, &times, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|error| Error::io("set the time of", &path.join(name))(error))?;
        }
        Ok(())
    };
    each_directory(&manifest, writer.options().threads, &visit).map(drop)
}

/// Drops what lies below an entry that is written anew as a whole.
pub(crate) fn drop_covered(manifest: &Manifest<'_>, found: &mut Differences) {
    let changed: HashSet<EntryId> = found.changed.iter().copied().collect();
    let is_covered = |id: EntryId| {
        let mut at = id;
        while at != EntryId::ROOT {
            at = manifest.parent(at).unwrap_or(EntryId::ROOT);
            if changed.contains(&at) {
                return true;
            }
        }
        false
    };
    found.changed.retain(|id| !is_covered(*id));
    found.changed.sort();
    found.touched.retain(|id| !is_covered(*id) && !changed.contains(id));
    found.touched.sort();
    let changed_paths: HashSet<PathBuf> =
        found.changed.iter().map(|id| relative_path(manifest, *id)).collect();
    found.extra.retain(|path| !path.ancestors().any(|above| changed_paths.contains(above)));
    found.extra.sort();
}

fn ctime_ns(stat: &Stat) -> i64 {
    let nanoseconds = i64::try_from(stat.st_ctime_nsec).unwrap_or(0);
    stat.st_ctime.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}

impl Scan<'_> {
    /// Compares the entries of one directory; directories themselves are compared by their parent's.
    fn directory(&self, id: EntryId, found: &mut Differences) -> Result<()> {
        let below = relative_path(&self.manifest, id);
        let name = if below.as_os_str().is_empty() { Path::new(".") } else { &below };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
        let opened = match rustix::fs::openat2(&self.root, name, flags, Mode::empty(), resolve) {
            Ok(opened) => opened,
            // Its parent's scan reports it.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if id != EntryId::ROOT => return Ok(()),
            Err(error) => return Err(Error::io("open", &self.path.join(&below))(error)),
        };
        let stat = rustix::fs::fstat(&opened).map_err(Error::io("look at", self.path))?;
        if !self.has_times(id, &stat) {
            if self.is_touched(id, &stat) {
                found.touched.push(id);
            }
            self.find_extra(id, &opened, &below, found)?;
        }
        for child in self.manifest.children(id) {
            match self.look(opened.as_fd(), child)? {
                Look::Same => {}
                Look::Different => found.changed.push(child),
                Look::Suspect if self.has_content(opened.as_fd(), child)? => {}
                Look::Suspect => found.changed.push(child),
            }
        }
        Ok(())
    }

    /// Tells whether an entry's times say that it was not changed since the projection was finished. The clock of files stands
    /// still for milliseconds, so that very moment says nothing.
    fn has_times(&self, id: EntryId, stat: &Stat) -> bool {
        mtime_ns(stat) == self.options.mtime_ns(&self.manifest, id)
            && ctime_ns(stat) < self.known.done_ns
    }

    fn is_touched(&self, id: EntryId, stat: &Stat) -> bool {
        mtime_ns(stat) != self.options.mtime_ns(&self.manifest, id)
            || stat.st_mode & 0o7777 != u32::from(self.options.permissions(&self.manifest, id))
    }

    fn look(&self, parent: BorrowedFd<'_>, id: EntryId) -> Result<Look> {
        let name = OsStr::from_bytes(self.manifest.name(id).unwrap_or_default());
        let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Look::Different),
            Err(error) => return Err(Error::io("look at", &self.path.join(name))(error)),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        Ok(match self.manifest.kind(id) {
            // Its own scan says the rest.
            Some(Kind::Directory { .. }) if kind == FileType::Directory => Look::Same,
            Some(Kind::File { size, .. }) if kind == FileType::RegularFile => {
                let mode = u32::from(self.options.permissions(&self.manifest, id));
                let is_linked = self.known.has_links && stat.st_nlink > 1;
                let is_alike = u64::try_from(stat.st_size) == Ok(size)
                    && stat.st_mode & 0o7777 == mode
                    && mtime_ns(&stat) == self.options.mtime_ns(&self.manifest, id);
                if !is_alike {
                    Look::Different
                } else if ctime_ns(&stat) < self.known.done_ns || is_linked {
                    Look::Same
                } else {
                    Look::Suspect
                }
            }
            Some(Kind::Symlink { .. }) if kind == FileType::Symlink => {
                if self.has_times(id, &stat) { Look::Same } else { Look::Suspect }
            }
            _ => Look::Different,
        })
    }

    /// Reads an entry and compares it with the tree's.
    fn has_content(&self, parent: BorrowedFd<'_>, id: EntryId) -> Result<bool> {
        let name = OsStr::from_bytes(self.manifest.name(id).unwrap_or_default());
        let path = || self.path.join(relative_path(&self.manifest, id));
        match self.manifest.kind(id) {
            Some(Kind::Symlink { target }) => {
                let read = rustix::fs::readlinkat(parent, name, Vec::new());
                let read = read.map_err(|error| Error::io("read", &path())(error))?;
                Ok(read.as_bytes() == target)
            }
            Some(Kind::File { size, blob }) => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let Ok(file) = rustix::fs::openat(parent, name, flags, Mode::empty()) else {
                    // Unreadable is not what rift made.
                    return Ok(false);
                };
                self.is_blob(File::from(file), blob, size, &path)
            }
            _ => Ok(false),
        }
    }

    /// Tells whether a file holds the bytes of a blob.
    fn is_blob(
        &self,
        file: File,
        blob: u32,
        size: u64,
        path: &dyn Fn() -> PathBuf,
    ) -> Result<bool> {
        let Some(tree) = self.tree else {
            let actual = hash_file(&file).map_err(|error| Error::io("read", &path())(error))?;
            return Ok(self.manifest.blob_hash(blob) == Some(actual));
        };
        match tree.bytes(&tree.sidecar(), blob, size) {
            Some(expected) => {
                has_bytes(file, expected).map_err(|error| Error::io("read", &path())(error))
            }
            None => {
                let reason = "the store lost bytes of its tree";
                Err(Error::Refused { path: path(), reason })
            }
        }
    }

    /// Lists a directory whose times changed, for names that the tree does not have.
    fn find_extra(
        &self,
        id: EntryId,
        opened: &OwnedFd,
        below: &Path,
        found: &mut Differences,
    ) -> Result<()> {
        let path = || self.path.join(below);
        let names: HashSet<&[u8]> =
            self.manifest.children(id).filter_map(|child| self.manifest.name(child)).collect();
        let listed = rustix::fs::Dir::read_from(opened);
        for entry in listed.map_err(|error| Error::io("list", &path())(error))? {
            let entry = entry.map_err(|error| Error::io("list", &path())(error))?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." && !names.contains(name) {
                found.extra.push(below.join(OsString::from_vec(name.to_vec())));
            }
        }
        Ok(())
    }
}

/// Finds how a directory that is the tree `old` differs from the tree `new`.
///
/// Together with [`repair`] it changes a projection by what is different, not by writing it anew.
#[must_use]
pub fn between(old: &Manifest<'_>, new: &Manifest<'_>) -> Differences {
    let mut found = Differences::default();
    let mut pending = vec![(EntryId::ROOT, EntryId::ROOT)];
    if old.mode(EntryId::ROOT) != new.mode(EntryId::ROOT) {
        found.touched.push(EntryId::ROOT);
    }
    while let Some((before, after)) = pending.pop() {
        let mut olds = old.children(before).peekable();
        for id in new.children(after) {
            let name = new.name(id);
            while let Some(gone) = olds.next_if(|candidate| old.name(*candidate) < name) {
                found.extra.push(relative_path(old, gone));
            }
            let Some(same_name) = olds.next_if(|candidate| old.name(*candidate) == name) else {
                found.changed.push(id);
                continue;
            };
            let is_directory = |manifest: &Manifest<'_>, id| {
                matches!(manifest.kind(id), Some(Kind::Directory { .. }))
            };
            if is_directory(old, same_name) && is_directory(new, id) {
                let has_changed = old.mode(same_name) != new.mode(id)
                    || old.mtime_ns(same_name) != new.mtime_ns(id);
                if has_changed {
                    found.touched.push(id);
                }
                pending.push((same_name, id));
            } else if !is_same_leaf(old, same_name, new, id) {
                found.changed.push(id);
            }
        }
        found.extra.extend(olds.map(|gone| relative_path(old, gone)));
    }
    found.changed.sort();
    found.touched.sort();
    found.extra.sort();
    found
}

/// Compares two entries that are not both directories.
fn is_same_leaf(old: &Manifest<'_>, before: EntryId, new: &Manifest<'_>, after: EntryId) -> bool {
    let is_same_kind = match (old.kind(before), new.kind(after)) {
        (Some(Kind::File { blob: a, .. }), Some(Kind::File { blob: b, .. })) => {
            old.blob_hash(a) == new.blob_hash(b)
        }
        (Some(Kind::Symlink { target: a }), Some(Kind::Symlink { target: b })) => a == b,
        _ => false,
    };
    is_same_kind
        && old.mode(before) == new.mode(after)
        && old.mtime_ns(before) == new.mtime_ns(after)
        && old.xattrs(before).eq(new.xattrs(after))
}

/// Tells whether a file holds exactly `expected`.
fn has_bytes(mut file: File, mut expected: &[u8]) -> io::Result<bool> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = match file.read(&mut buffer) {
            Ok(0) => return Ok(expected.is_empty()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        match expected.strip_prefix(&buffer[..read]) {
            Some(rest) => expected = rest,
            None => return Ok(false),
        }
    }
}

/// Makes the directory at `root` the writer's tree again, where `found` says it is not.
///
/// # Errors
/// What the system says. What was mended by then stays mended; what was not still differs.
pub fn repair(writer: &Writer<'_>, root: &Path, found: &Differences) -> Result<Written> {
    let manifest = writer.manifest();
    let threads = writer.options().threads;
    let mut parents: HashSet<EntryId> = found.touched.iter().copied().collect();
    for extra in &found.extra {
        let parent = extra.parent().unwrap_or(Path::new(""));
        parents.extend(manifest.lookup(parent.as_os_str().as_bytes()));
        remove(&root.join(extra), threads)?;
    }
    for id in &found.changed {
        remove(&root.join(relative_path(&manifest, *id)), threads)?;
        parents.insert(manifest.parent(*id).unwrap_or(EntryId::ROOT));
    }
    let written = writer.write_entries(root, &found.changed)?;
    for id in parents {
        let path = root.join(relative_path(&manifest, id));
        let opened = crate::materialize::open_directory(None, path.as_os_str(), &path)?;
        writer.set_directory(opened.as_fd(), id, &path)?;
    }
    Ok(written)
}
