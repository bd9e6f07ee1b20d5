//! Ingest: reads a directory into the store in one parallel pass: walk, hash, pack.
//!
//! Symbolic links are stored, never followed; set-user-ID and set-group-ID bits are dropped; devices,
//! pipes and sockets are refused. A file that changes while it is read is read again, and one that
//! goes on changing ends the ingest, so what is stored is always what the file once was as a whole.
//!
//! A change is seen by size, mtime and ctime. write(2) sets the times when it begins, and file systems
//! keep them in ticks of some milliseconds; so a file that changed just now is given time to settle
//! before it is believed. A program that writes through a mapping can still escape that. The same holds for what was read before and is
//! known by these three, where the caller believes that.

use std::collections::VecDeque;
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::Seek as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rift_tree::BlobHash;
use rift_tree::builder::{Item, Xattrs};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::blobs::LOOSE_FROM;
use crate::error::{Error, Result};
use crate::hashes::{FileStamp, Hashes};
use crate::import::{Import, Unit};
use crate::lock::{lock, unlocked};
use crate::secrets;

/// How often a file that changes under the reader is read again.
const ATTEMPTS: usize = 5;
/// A file that changed less than this ago may be in the middle of a write(2), or be changed again
/// within the tick of its file system's clock.
const SETTLED_MS: i64 = 50;

/// One entry that was read, by its path below the ingested directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ingested {
    /// Relative path; empty for the directory itself.
    pub path: Vec<u8>,
    /// Modification time, in nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// What it is; its blob is in the import.
    pub item: Item,
    /// Its `user.*` extended attributes.
    pub xattrs: Xattrs,
}

/// What is left out of an ingest.
pub type Skip<'a> = &'a (dyn Fn(&[u8]) -> bool + Sync);

/// How a directory is read.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// How many threads read.
    pub threads: usize,
    /// Entries for which it holds are left out, with all that is below them.
    pub skip: Skip<'a>,
    /// Leaves out what `secrets` takes for a secret: for trees that may leave the machine.
    pub without_secrets: bool,
    /// Files that they know to hold what the store has are not read again, where all may hold secrets.
    pub hashes: Option<&'a Hashes>,
}

/// A directory that was read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Read {
    /// Its entries, in no particular order.
    pub entries: Vec<Ingested>,
    /// Paths that were left out as secrets, sorted, with what they hold.
    pub secrets: Vec<(Vec<u8>, &'static str)>,
}

struct Task {
    parent: Arc<OwnedFd>,
    name: CString,
    path: Vec<u8>,
}

#[derive(Default)]
struct Queue {
    tasks: VecDeque<Task>,
    busy: usize,
    failure: Option<Error>,
}

struct Walk<'a> {
    root: &'a Path,
    import: &'a Import<'a>,
    options: Options<'a>,
    secrets: Mutex<Vec<(Vec<u8>, &'static str)>>,
    queue: Mutex<Queue>,
    wake: Condvar,
}

/// Reads directory `root` with `threads` threads; entries for which `skip` holds are left out with
/// all that is below them. The answer is in no particular order.
///
/// # Errors
/// What could not be read or stored, or [`Error::Refused`] for what a tree can't hold.
pub fn directory(
    import: &Import<'_>,
    root: &Path,
    threads: usize,
    skip: Skip<'_>,
) -> Result<Vec<Ingested>> {
    let options = Options { threads, skip, without_secrets: false, hashes: None };
    directory_with(import, root, options).map(|read| read.entries)
}

/// Reads directory `root` as the options say.
///
/// # Errors
/// As [`directory`].
pub fn directory_with(import: &Import<'_>, root: &Path, options: Options<'_>) -> Result<Read> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(root, flags, Mode::empty()).map_err(Error::io("open", root))?;
    let stat = rustix::fs::fstat(&opened).map_err(Error::io("look at", root))?;
    let (queue, secrets) = (Mutex::default(), Mutex::default());
    let walk = Walk { root, import, options, secrets, queue, wake: Condvar::new() };
    let threads = options.threads;
    let first = Task { parent: Arc::new(opened), name: c".".to_owned(), path: Vec::new() };
    lock(&walk.queue).tasks.push_back(first);
    let mut entries = vec![Ingested {
        path: Vec::new(),
        mtime_ns: mtime_ns(&stat),
        item: Item::Directory { permissions: permissions(&stat) },
        xattrs: Xattrs::new(),
    }];
    let parts: Vec<Result<Vec<Ingested>>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(|| walk.work())).collect();
        workers.into_iter().map(|worker| worker.join()).collect::<Result<_, _>>()
    })
    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    for part in parts {
        entries.append(&mut part?);
    }
    if let Some(error) = lock(&walk.queue).failure.take() {
        return Err(error);
    }
    let mut secrets = unlocked(walk.secrets);
    secrets.sort();
    Ok(Read { entries, secrets })
}

pub(crate) fn mtime_ns(stat: &Stat) -> i64 {
    let nanoseconds = i64::try_from(stat.st_mtime_nsec).unwrap_or(0);
    stat.st_mtime.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}

fn permissions(stat: &Stat) -> u16 {
    // Masked to 12 bits.
    (stat.st_mode & 0o1777) as u16
}

impl Walk<'_> {
    /// Returns what secret a file holds that was just read into the unit.
    fn secret(&self, path: &[u8], stat: &Stat, unit: &Unit<'_>) -> Option<&'static str> {
        if !self.options.without_secrets {
            return None;
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        secrets::in_file(path, size, || unit.current())
    }

    /// Returns the hash and size of a file that need not be taken in, as it is known to hold what the store has.
    fn known(&self, file: &mut File, stat: &Stat) -> Option<(BlobHash, u64)> {
        let hashes = self.options.hashes.filter(|_| !self.options.without_secrets)?;
        let stamp = FileStamp::of_stat(stat);
        let hash = match hashes.known(&stamp) {
            Some(hash) => hash,
            // It would be written before its hash is known.
            None if stamp.size >= LOOSE_FROM => {
                let hash = hashes.read(file, stamp);
                file.rewind().ok()?;
                hash.ok()?
            }
            None => return None,
        };
        self.import.has(hash, stamp.size).then_some((hash, stamp.size))
    }

    fn full_path(&self, path: &[u8]) -> PathBuf {
        self.root.join(OsStr::from_bytes(path))
    }

    /// Takes directories from the queue until none is left and nobody can add one.
    fn work(&self) -> Result<Vec<Ingested>> {
        let mut unit = self.import.unit();
        let mut found = Vec::new();
        while let Some(task) = self.next() {
            let result = self.read_directory(&task, &mut unit, &mut found);
            let mut queue = lock(&self.queue);
            queue.busy -= 1;
            if let Err(error) = result {
                queue.failure.get_or_insert(error);
            }
            self.wake.notify_all();
        }
        unit.flush()?;
        Ok(found)
    }

    fn next(&self) -> Option<Task> {
        let mut queue = lock(&self.queue);
        loop {
            if queue.failure.is_some() {
                return None;
            }
            // The newest first: depth first, so packs are in tree order and few folders are open.
            if let Some(task) = queue.tasks.pop_back() {
                queue.busy += 1;
                return Some(task);
            }
            if queue.busy == 0 {
                self.wake.notify_all();
                return None;
            }
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn read_directory(
        &self,
        task: &Task,
        unit: &mut Unit<'_>,
        found: &mut Vec<Ingested>,
    ) -> Result<()> {
        let path = self.full_path(&task.path);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = match rustix::fs::openat(&*task.parent, &task.name, flags, Mode::empty()) {
            // Gone, or no directory any more, since it was listed.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if !task.path.is_empty() => {
                return Ok(());
            }
            other => Arc::new(other.map_err(Error::io("open", &path))?),
        };
        let mut names = Vec::new();
        let mut buffer = Vec::with_capacity(32 << 10);
        let mut listing = rustix::fs::RawDir::new(&*opened, buffer.spare_capacity_mut());
        while let Some(entry) = listing.next() {
            let entry = entry.map_err(Error::io("list", &path))?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                names.push((name.to_owned(), entry.file_type()));
            }
        }
        names.sort_by(|(one, _), (two, _)| one.cmp(two));
        let mut directories = Vec::new();
        for (name, kind) in names {
            let mut below = task.path.clone();
            if !below.is_empty() {
                below.push(b'/');
            }
            below.extend_from_slice(name.to_bytes());
            if (self.options.skip)(&below) {
                continue;
            }
            if self.read_entry(&opened, &name, kind, &below, unit, found)? {
                directories.push(Task { parent: Arc::clone(&opened), name, path: below });
            }
        }
        let mut queue = lock(&self.queue);
        queue.tasks.extend(directories.into_iter().rev());
        self.wake.notify_all();
        Ok(())
    }

    /// Reads one entry; returns whether it is a directory to go into.
    fn read_entry(
        &self,
        parent: &OwnedFd,
        name: &CStr,
        kind: FileType,
        path: &[u8],
        unit: &mut Unit<'_>,
        found: &mut Vec<Ingested>,
    ) -> Result<bool> {
        if kind == FileType::RegularFile {
            let entry = self.read_file(parent, name, path, unit)?;
            found.extend(entry);
            return Ok(false);
        }
        let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(false),
            other => other.map_err(Error::io("look at", &self.full_path(path)))?,
        };
        let item = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let entry = self.read_file(parent, name, path, unit)?;
                found.extend(entry);
                return Ok(false);
            }
            FileType::Directory => Item::Directory { permissions: permissions(&stat) },
            FileType::Symlink => match rustix::fs::readlinkat(parent, name, Vec::new()) {
                Err(Errno::NOENT) => return Ok(false),
                Err(error) => return Err(Error::io("read", &self.full_path(path))(error)),
                Ok(target) => Item::Symlink { target: target.into_bytes() },
            },
            _ => {
                let reason = "a tree holds no devices, pipes or sockets";
                return Err(Error::Refused { path: self.full_path(path), reason });
            }
        };
        let is_directory = matches!(item, Item::Directory { .. });
        let xattrs = Xattrs::new();
        found.push(Ingested { path: path.to_vec(), mtime_ns: mtime_ns(&stat), item, xattrs });
        Ok(is_directory)
    }

    fn read_file(
        &self,
        parent: &OwnedFd,
        name: &CStr,
        path: &[u8],
        unit: &mut Unit<'_>,
    ) -> Result<Option<Ingested>> {
        let io = |action| move |error: Errno| Error::io(action, &self.full_path(path))(error);
        // O_NONBLOCK: what was listed as a file may be a pipe by now.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        for _ in 0..ATTEMPTS {
            // Nobody needed it by that, see `used`; only who owns it may look so, see open(2).
            let opened = rustix::fs::openat(parent, name, flags | OFlags::NOATIME, Mode::empty());
            let opened = match opened {
                Err(Errno::PERM) => rustix::fs::openat(parent, name, flags, Mode::empty()),
                opened => opened,
            };
            let mut file = match opened {
                Err(Errno::NOENT) => return Ok(None),
                other => File::from(other.map_err(io("open"))?),
            };
            let mut before = rustix::fs::fstat(&file).map_err(io("look at"))?;
            if let Some(rest) = unsettled(&before) {
                std::thread::sleep(rest);
                before = rustix::fs::fstat(&file).map_err(io("look at"))?;
            }
            if FileType::from_raw_mode(before.st_mode) != FileType::RegularFile {
                let reason = "it was a file when it was listed, and is something else now";
                return Err(Error::Refused { path: self.full_path(path), reason });
            }
            if let Some((hash, size)) = self.known(&mut file, &before) {
                let item = Item::File { permissions: permissions(&before), size, hash };
                let (mtime_ns, xattrs) = (mtime_ns(&before), user_xattrs(&file));
                return Ok(Some(Ingested { path: path.to_vec(), mtime_ns, item, xattrs }));
            }
            unit.begin(u64::try_from(before.st_size).unwrap_or(0))?;
            let read = unit.read_from(&mut file)?;
            read.map_err(|error| Error::io("read", &self.full_path(path))(error))?;
            let after = rustix::fs::fstat(&file).map_err(io("look at"))?;
            let key = |stat: &Stat| {
                (stat.st_size, stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec)
            };
            if key(&before) != key(&after) || unsettled(&after).is_some() {
                unit.abandon();
                continue;
            }
            if let Some(holds) = self.secret(path, &after, unit) {
                unit.abandon();
                lock(&self.secrets).push((path.to_vec(), holds));
                return Ok(None);
            }
            let xattrs = user_xattrs(&file);
            let (hash, size) = unit.end()?;
            let item = Item::File { permissions: permissions(&after), size, hash };
            let mtime_ns = mtime_ns(&after);
            return Ok(Some(Ingested { path: path.to_vec(), mtime_ns, item, xattrs }));
        }
        let reason = "it keeps changing while it is read";
        Err(Error::Refused { path: self.full_path(path), reason })
    }
}

/// Returns how long to wait until a file that changed just now has settled.
fn unsettled(stat: &Stat) -> Option<Duration> {
    let changed = Duration::new(
        u64::try_from(stat.st_ctime).ok()?,
        u32::try_from(stat.st_ctime_nsec).unwrap_or(0),
    );
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    let age_ms = now.as_millis() as i64 - changed.as_millis() as i64;
    // A file from the future is on another machine's clock, which tells nothing.
    let is_young = (-SETTLED_MS..SETTLED_MS).contains(&age_ms);
    is_young.then(|| Duration::from_millis((SETTLED_MS - age_ms + 1).unsigned_abs()))
}

/// Returns the `user.*` attributes of a file; none where the file system has none.
fn user_xattrs(file: &File) -> Xattrs {
    let mut names = vec![0; 1024];
    let length = loop {
        match rustix::fs::flistxattr(file, &mut names[..]) {
            Ok(length) => break length,
            // XATTR_LIST_MAX of xattr(7): no list is longer.
            Err(Errno::RANGE) if names.len() < 65_536 => names.resize(65_536, 0),
            Err(_) => return Xattrs::new(),
        }
    };
    let mut found = Xattrs::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| name.starts_with(b"user.")) {
        let mut value = vec![0; 65_535];
        if let Ok(length) = rustix::fs::fgetxattr(file, OsStr::from_bytes(name), &mut value) {
            value.truncate(length);
            found.push((name.to_vec(), value));
        }
    }
    found
}
