//! A head start: files of packages are written where their tree is going to be, while other packages of it are
//! still on their way.
//!
//! Nothing relies on what is written ahead. It lies in a folder beside the target, which nobody else may enter; what is
//! not at hand is left out; and [`Ahead::complete`] compares what was written with the finished tree and writes the
//! difference. Without it the network waits for the disk and then the disk for the network.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use rift_tree::builder::Built;
use rift_tree::compose::Composer;
use rift_tree::{EntryId, Kind, Manifest};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::compare::{self, Differences};
use crate::error::{Error, Result};
use crate::import::Unit;
use crate::lock::lock;
use crate::materialize::{self, CREATE, Options, REFLINK_FROM, Writer, Written};
use crate::store::Store;
use crate::sys;

/// A folder that is filled before its tree is known.
#[derive(Debug)]
pub struct Ahead {
    target: PathBuf,
    folder: PathBuf,
    options: Options,
    /// Files of so many bytes or more wait for the finished tree, because they then share their blocks with the store.
    shared_from: u64,
    /// Something could not be written: the finished tree is written as a whole, and tells why.
    is_broken: AtomicBool,
    placed: Mutex<Placed>,
}

/// What was written.
#[derive(Debug, Default)]
struct Placed {
    /// The manifests of packages, by their places.
    packages: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The places of files that were left out.
    left_out: Vec<Vec<u8>>,
}

impl Ahead {
    /// Begins to fill the folder that becomes `target`, whose parent exists. One run at a time must hold the target.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(store: &Store, target: &Path, options: Options) -> Result<Self> {
        materialize::remove_leftovers(target)?;
        let folder = materialize::beside(target, "new");
        let mode = Mode::from_raw_mode(0o700);
        rustix::fs::mkdir(&folder, mode).map_err(Error::io("make", &folder))?;
        let mut ahead = Self {
            target: target.to_owned(),
            folder,
            options,
            shared_from: u64::MAX,
            is_broken: AtomicBool::new(false),
            placed: Mutex::default(),
        };
        if ahead.can_reflink(store)? {
            ahead.shared_from = REFLINK_FROM;
        }
        Ok(ahead)
    }

    fn can_reflink(&self, store: &Store) -> Result<bool> {
        let source = store.temporary()?;
        source.file.set_len(sys::CLONE_ALIGN).map_err(Error::io("write", &source.path))?;
        let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
        let Ok(file) = rustix::fs::open(&self.folder, flags, Mode::from_raw_mode(0o600)) else {
            // A file system without unnamed files: it may be able to, and then time is all that is lost.
            return Ok(false);
        };
        Ok(sys::clone_range(&source.file, 0, sys::CLONE_ALIGN, &file).is_ok())
    }

    /// Writes what it can of a package that `unit` has just brought, to `path` in the folder.
    pub fn write(&self, unit: &Unit<'_>, tree: &Built, path: &Path) {
        if self.is_broken.load(Ordering::Relaxed) {
            return;
        }
        if self.try_write(unit, tree, path).is_err() {
            self.is_broken.store(true, Ordering::Relaxed);
        }
    }

    fn try_write(&self, unit: &Unit<'_>, tree: &Built, path: &Path) -> Result<()> {
        let manifest = Manifest::parse(&tree.bytes).map_err(Error::damaged(path))?;
        let mut at = self.folder.clone();
        for part in path.components() {
            let Component::Normal(name) = part else {
                let reason = "a package has a place inside its folder";
                return Err(Error::Refused { path: path.to_owned(), reason });
            };
            at.push(name);
            make_directory(None, at.as_os_str(), 0o777, &at)?;
        }
        let opened = materialize::open_directory(None, at.as_os_str(), &at)?;
        let mut left_out = Vec::new();
        let top = (EntryId::ROOT, at.as_path());
        self.write_directory(opened.as_fd(), &manifest, top, unit, &mut left_out)?;
        let mut placed = lock(&self.placed);
        let place = path.as_os_str().as_bytes();
        placed.left_out.extend(left_out.iter().map(|inner| [place, b"/", inner].concat()));
        placed.packages.insert(place.to_vec(), tree.bytes.clone());
        Ok(())
    }

    fn write_directory(
        &self,
        opened: BorrowedFd<'_>,
        manifest: &Manifest<'_>,
        (id, path): (EntryId, &Path),
        unit: &Unit<'_>,
        left_out: &mut Vec<Vec<u8>>,
    ) -> Result<()> {
        for child in manifest.children(id) {
            let name = manifest.name(child).filter(|name| rift_tree::name::is_valid(name));
            let name = OsStr::from_bytes(name.unwrap_or_default());
            let is_written = match manifest.kind(child) {
                Some(Kind::File { size, blob }) if size < self.shared_from => {
                    self.write_file(opened, manifest, (child, blob, size), unit, path)?
                }
                Some(Kind::Directory { .. }) => {
                    let below = path.join(name);
                    let mode = self.options.permissions(manifest, child) | 0o700;
                    make_directory(Some(opened), name, mode, &below)?;
                    let opened = materialize::open_directory(Some(opened), name, &below)?;
                    let at = (child, below.as_path());
                    self.write_directory(opened.as_fd(), manifest, at, unit, left_out)?;
                    true
                }
                _ => false,
            };
            if !is_written {
                let relative = materialize::relative_path(manifest, child);
                left_out.push(relative.as_os_str().as_bytes().to_vec());
            }
        }
        let mode = self.options.permissions(manifest, id);
        if mode & 0o700 != 0o700 {
            let mode = Mode::from_raw_mode(u32::from(mode));
            rustix::fs::fchmod(opened, mode).map_err(Error::io("set the mode of", path))?;
        }
        let times = self.options.times(manifest, id);
        rustix::fs::futimens(opened, &times).map_err(Error::io("set the time of", path))
    }

    /// Writes a file; `false` where its bytes are not at hand.
    fn write_file(
        &self,
        parent: BorrowedFd<'_>,
        manifest: &Manifest<'_>,
        (id, blob, size): (EntryId, u32, u64),
        unit: &Unit<'_>,
        folder: &Path,
    ) -> Result<bool> {
        let name = OsStr::from_bytes(manifest.name(id).unwrap_or_default());
        let mode = self.options.permissions(manifest, id);
        let is_plain = mode & (self.options.umask | 0o1000) == 0;
        let hash = manifest.blob_hash(blob).filter(|_| is_plain);
        let is_right = |bytes: &[u8]| {
            !self.options.verify
                || hash.is_some_and(|hash| blake3::hash(bytes).as_bytes() == hash.as_bytes())
        };
        let at_hand = hash.and_then(|hash| unit.at_hand(hash, size));
        // Wrong bytes are left out too: who writes the finished tree meets them and says so.
        let Some(bytes) = at_hand.filter(|bytes| is_right(bytes)) else {
            return Ok(false);
        };
        let io =
            |action: &'static str| move |error: Errno| Error::io(action, &folder.join(name))(error);
        let created = Mode::from_raw_mode(u32::from(mode));
        let file = rustix::fs::openat(parent, name, CREATE, created).map_err(io("make"))?;
        materialize::write_all(&file, &bytes).map_err(io("write"))?;
        let times = self.options.times(manifest, id);
        rustix::fs::futimens(&file, &times).map_err(io("set the time of"))?;
        Ok(true)
    }

    /// Makes the folder the writer's tree and gives it the target's name, as [`materialize::replace`] does.
    ///
    /// # Errors
    /// What the system says; the target is then as it was.
    pub fn complete(self, writer: &Writer<'_>) -> Result<Written> {
        let manifest = writer.manifest();
        let is_alike = !writer.has_links() && writer.options().stamp_ns == self.options.stamp_ns;
        let found = match is_alike && !self.is_broken.load(Ordering::Relaxed) {
            true => self.differences(&manifest),
            false => None,
        };
        let Some(found) = found else {
            let target = self.target.clone();
            drop(self);
            return materialize::replace(writer, &target);
        };
        compare::repair(writer, &self.folder, &found)?;
        materialize::put_in_place(&self.folder, &self.target, self.options.threads)?;
        let (entries, bytes) = (u64::from(manifest.len()), manifest.file_bytes());
        Ok(Written { entries, bytes, linked: 0 })
    }

    /// Finds how the folder differs from a tree; `None` where nothing was written, or where one package may have
    /// written into another.
    fn differences(&self, tree: &Manifest<'_>) -> Option<Differences> {
        let placed = lock(&self.placed);
        if placed.packages.is_empty() {
            return None;
        }
        let mut here = Composer::new(tree.mode(EntryId::ROOT)?);
        let mut touched = vec![EntryId::ROOT];
        for (place, bytes) in &placed.packages {
            for (at, _) in place.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
                let (above, below) = (&place[..at], &place[at + 1..]);
                let host = placed.packages.get(above).map(|bytes| Manifest::parse(bytes));
                if host.is_some_and(|host| host.ok().is_none_or(|it| it.lookup(below).is_some())) {
                    return None;
                }
                touched.extend(tree.lookup(above));
            }
            touched.extend(tree.lookup(place));
            here.graft(place, Manifest::parse(bytes).ok()?).ok()?;
        }
        let here = here.finish().ok()?.built;
        let mut found = compare::between(&Manifest::parse(&here.bytes).ok()?, tree);
        found.changed.extend(placed.left_out.iter().filter_map(|path| tree.lookup(path)));
        // Who made these did not know what else would come into them.
        found.touched.extend(touched);
        found.changed.sort();
        found.changed.dedup();
        compare::drop_covered(tree, &mut found);
        found.touched.dedup();
        Some(found)
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        // Under another name by now, or of no use; what can't be removed is a leftover for the next run.
        drop(materialize::remove(&self.folder, self.options.threads));
    }
}

/// Makes a directory, or takes the one that a package above or below has made.
fn make_directory(
    parent: Option<BorrowedFd<'_>>,
    name: &OsStr,
    mode: u16,
    path: &Path,
) -> Result<()> {
    let parent = parent.unwrap_or(rustix::fs::CWD);
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(u32::from(mode))) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(Error::io("make", path)(error)),
    }
}
