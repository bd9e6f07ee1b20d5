//! The loose form of a tree: plain files in the store that hard links are made to.
//!
//! ```text
//! loose/HH/HEX-UMASK/   the tree HEX as it is shown under that umask; a stamped tree's stamp is the
//!                       mtime of this directory
//! ```
//!
//! It exists for those who ask for hard links. Whoever edits such a link in place edits the loose form
//! with it, so each source's size and mtime are compared with what they have to be before it is linked,
//! and one that differs is written anew from the packs: the edit stays where it was made. An edit that
//! sets size and mtime back is for `verify` to find, which reads every byte.
//!
//! A loose form gets its name when it is whole and on the disk, and loses it before anything in it is
//! removed. Its files are only ever replaced by rename, and nothing is replaced directly in the
//! directory of a stamped tree, because that would change its mtime.

use std::ffi::OsStr;
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rift_tree::{BlobHash, EntryId, Manifest, TreeHash};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use crate::blobs::hash_file;
use crate::compare::compare_content;
use crate::error::{Error, Result};
use crate::ingest::mtime_ns;
use crate::leases::Lease;
use crate::materialize::{Options, Writer, open_directory, relative_path, remove};
use crate::projection::{Projection, ShownAs};
use crate::store::{Store, make_folder, sync_folder};
use crate::tree::OpenTree;

/// How many threads check and remove: more only wait for the disk.
const THREADS: usize = 2;

/// The loose form of one tree, ready to be linked to.
#[derive(Debug)]
pub struct Linker<'s> {
    store: &'s Store,
    /// Keeps gc from the form, and from the packs that it is mended from.
    _lease: Lease,
    root: OwnedFd,
    path: PathBuf,
    stamp_ns: i64,
}

/// What became of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Linked {
    /// It was made.
    Made,
    /// The source is not what it has to be.
    Edited,
    /// This file can't have another link here: it is written instead.
    Unlinkable,
}

impl Linker<'_> {
    /// Returns the mtime of every entry of a stamped tree, in nanoseconds since the epoch.
    #[must_use]
    pub fn stamp_ns(&self) -> i64 {
        self.stamp_ns
    }

    /// Opens the loose form's directory of `below`, a path of the tree; `None` where it has none, so
    /// that files are written instead.
    pub(crate) fn open(&self, below: &Path) -> Result<Option<OwnedFd>> {
        let name = if below.as_os_str().is_empty() { Path::new(".") } else { below };
        open_below(self.root.as_fd(), name)
            .map_err(|error| Error::io("open", &self.path.join(below))(error))
    }

    /// Writes file `id` anew in the loose directory `source`, in place of an edited one; `false` where
    /// that can't be, and the file has to be written for itself.
    pub(crate) fn mend(
        &self,
        writer: &Writer<'_>,
        source: BorrowedFd<'_>,
        id: EntryId,
    ) -> Result<bool> {
        let manifest = writer.manifest();
        if manifest.is_stamped() && manifest.parent(id) == Some(EntryId::ROOT) {
            return Ok(false);
        }
        let path = self.path.join(relative_path(&manifest, id));
        // A folder below `tmp` has no lock: the guard keeps gc away from it.
        let _guard = self.store.guard()?;
        let folder = self.store.temporary_folder()?;
        let mended = open_directory(None, folder.as_os_str(), &folder).and_then(|opened| {
            let name = OsStr::from_bytes(manifest.name(id).unwrap_or_default());
            let file = writer.write_file_as(opened.as_fd(), name, id, &folder)?;
            rustix::fs::fsync(&file).map_err(Error::io("write to the disk", &path))?;
            rustix::fs::renameat(&opened, name, source, name).map_err(Error::io("mend", &path))
        });
        remove_quietly(&folder, 1);
        mended.map(|()| true)
    }
}

/// What the file of a loose form has to be like to be linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) size: u64,
    pub(crate) mtime_ns: i64,
    pub(crate) permissions: u16,
}

impl Expected {
    fn is_met_by(self, stat: &Stat) -> bool {
        FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && u64::try_from(stat.st_size) == Ok(self.size)
            && mtime_ns(stat) == self.mtime_ns
            && stat.st_mode & 0o7777 == u32::from(self.permissions)
    }
}

/// Opens directory `name` of a loose directory; `None` when it is none.
pub(crate) fn open_below(
    parent: BorrowedFd<'_>,
    name: impl rustix::path::Arg,
) -> Result<Option<OwnedFd>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Ok(opened) => Ok(Some(opened)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Tells whether file `name` of the loose directory `source` has this content.
pub(crate) fn has_content(
    source: BorrowedFd<'_>,
    name: &OsStr,
    expected: BlobHash,
) -> Result<bool, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(source, name, flags, Mode::empty()) {
        Err(Errno::NOENT | Errno::LOOP) => return Ok(false),
        other => File::from(other?),
    };
    match hash_file(&file) {
        Ok(hash) => Ok(hash == expected),
        Err(error) => Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
    }
}

/// Links file `name` of the loose directory `source` into `target`, if it is what it has to be.
pub(crate) fn link(
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    name: &OsStr,
    expected: Expected,
) -> Result<Linked, Errno> {
    let stat = match rustix::fs::statat(source, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(Linked::Edited),
        other => other?,
    };
    if !expected.is_met_by(&stat) {
        return Ok(Linked::Edited);
    }
    match rustix::fs::linkat(source, name, target, name, AtFlags::empty()) {
        Ok(()) => Ok(Linked::Made),
        // Mended by another process since.
        Err(Errno::NOENT) => Ok(Linked::Edited),
        Err(Errno::MLINK | Errno::XDEV | Errno::PERM | Errno::OPNOTSUPP) => Ok(Linked::Unlinkable),
        Err(error) => Err(error),
    }
}

impl Store {
    /// Returns the loose form of a tree, making it first where it is missing; `None` when the store
    /// has lost the tree since it was opened.
    ///
    /// # Errors
    /// What the system says, or damage that was met.
    pub fn linker(&self, tree: &OpenTree, options: Options) -> Result<Option<Linker<'_>>> {
        let lease = self.lease(tree.hash())?;
        if !self.has_tree(tree.hash()) {
            return Ok(None);
        }
        let suffix = format!("-{:03o}", options.umask);
        let path = self.fanned("loose", tree.hash().as_bytes(), &suffix);
        if !path.exists() {
            let _guard = self.guard()?;
            self.make_loose(tree, &path, options)?;
        }
        let root = open_directory(None, path.as_os_str(), &path)?;
        let stat = rustix::fs::fstat(&root).map_err(Error::io("look at", &path))?;
        let stamp_ns = mtime_ns(&stat);
        Ok(Some(Linker { store: self, _lease: lease, root, path, stamp_ns }))
    }

    fn make_loose(&self, tree: &OpenTree, path: &Path, options: Options) -> Result<()> {
        let folder = path.parent().unwrap_or(path);
        if let Some(above) = folder.parent() {
            make_folder(above)?;
        }
        make_folder(folder)?;
        let fresh = self.temporary_folder()?;
        let made = publish(&Writer::new(tree, options), &fresh.join("tree"), path);
        remove_quietly(&fresh, options.threads);
        made
    }

    /// Removes loose forms. Nobody else uses the store.
    ///
    /// Each loses its name first, so that a killed process leaves no half of one.
    pub(crate) fn remove_loose(&self, forms: impl IntoIterator<Item = PathBuf>) -> Result<()> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        for form in forms {
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let name = format!("{}-form-{number}", std::process::id());
            let aside = self.path("tmp").join(name);
            // What a killed process with the same pid left has the same name.
            remove(&aside, THREADS)?;
            match std::fs::rename(&form, &aside) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                other => other.map_err(Error::io("move aside", &form))?,
            }
            sync_folder(&form)?;
            remove(&aside, THREADS)?;
        }
        Ok(())
    }
}

/// Writes a tree as `fresh` and gives it the name `path`.
fn publish(writer: &Writer<'_>, fresh: &Path, path: &Path) -> Result<()> {
    writer.write_tree(fresh)?;
    // One call for all of its files, which would take an fsync(2) each.
    let root = File::open(fresh).map_err(Error::io("open", fresh))?;
    rustix::fs::syncfs(&root).map_err(Error::io("write to the disk", fresh))?;
    let cwd = rustix::fs::CWD;
    match rustix::fs::renameat_with(cwd, fresh, cwd, path, RenameFlags::NOREPLACE) {
        Ok(()) => sync_folder(path),
        // Somebody else was faster; theirs is as good.
        Err(Errno::EXIST | Errno::NOTEMPTY) => Ok(()),
        Err(error) => Err(Error::io("publish", path)(error)),
    }
}

/// Removes a folder below `tmp`; what can't be removed is swept by gc.
fn remove_quietly(path: &Path, threads: usize) {
    let _is_removed = remove(path, threads).is_ok();
}

/// What is wrong with a loose form.
#[derive(Debug)]
pub(crate) struct Wrong {
    /// A file has other content, and whoever links to it can't tell.
    pub(crate) is_hidden: bool,
    /// What it is, in words.
    pub(crate) what: String,
}

/// Tells what is wrong with a loose form of a tree: names, types, modes, link targets, and of files
/// size, mtime and content. `None` when nothing is.
///
/// # Errors
/// What the system says.
pub(crate) fn check(path: &Path, manifest: Manifest<'_>) -> Result<Option<Wrong>> {
    let root = rustix::fs::lstat(path).map_err(Error::io("look at", path))?;
    let known = Projection {
        tree: TreeHash::from_bytes([0; 32]),
        directory: path.to_owned(),
        device: root.st_dev,
        inode: root.st_ino,
        stamp_ns: mtime_ns(&root),
        born_ns: None,
        done_ns: 0,
        umask: umask_of(path).unwrap_or(0),
        has_links: false,
        links_twins: false,
        shown_as: ShownAs::Files,
    };
    let found = compare_content(manifest, &known, THREADS)?;
    let options = Options { stamp_ns: known.stamp_ns, umask: known.umask, ..Options::default() };
    let stat = |id| rustix::fs::lstat(path.join(relative_path(&manifest, id)));
    let is_hidden = |id: &EntryId| match (expected(&manifest, *id, &options), stat(*id)) {
        (Some(expected), Ok(stat)) => expected.is_met_by(&stat),
        _ => false,
    };
    // The mtime of a directory below the root changes when a file in it is mended; nothing reads it.
    let has_other_mode = |id: &&EntryId| {
        let permissions = u32::from(options.permissions(&manifest, **id));
        stat(**id).map_or(true, |stat| stat.st_mode & 0o1777 != permissions)
    };
    let touched = found.touched.iter().filter(has_other_mode);
    let mut paths: Vec<PathBuf> =
        found.changed.iter().chain(touched).map(|id| relative_path(&manifest, *id)).collect();
    let (bad, extra) = (paths.len(), found.extra.len());
    paths.extend(found.extra);
    Ok(paths.iter().min().map(|first| {
        let is_root = first.as_os_str().is_empty();
        let first = if is_root { Path::new(".") } else { first }.display();
        Wrong {
            is_hidden: found.changed.iter().any(is_hidden),
            what: format!(
                "{bad} entries differ from its tree, {extra} are not in it: `{first}` first"
            ),
        }
    }))
}

/// Returns what a file of a loose form has to be like; `None` for other entries.
pub(crate) fn expected(
    manifest: &Manifest<'_>,
    id: EntryId,
    options: &Options,
) -> Option<Expected> {
    let Some(rift_tree::Kind::File { size, .. }) = manifest.kind(id) else {
        return None;
    };
    let mtime_ns = options.mtime_ns(manifest, id);
    Some(Expected { size, mtime_ns, permissions: options.permissions(manifest, id) })
}

/// Returns the umask that a loose form's name ends with.
fn umask_of(path: &Path) -> Option<u16> {
    let name = path.file_name()?.to_str()?;
    u16::from_str_radix(name.rsplit_once('-')?.1, 8).ok()
}
