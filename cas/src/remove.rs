//! Removes a whole store: for who uninstalls rift.
//!
//! Only what a store makes is removed. A folder that holds something else as well keeps that, and so
//! keeps its name.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::FlockOperation;

use crate::error::{Error, Result};
use crate::store::{FOLDERS, lock_file};

/// What a store has beside [`FOLDERS`].
const OTHERS: [&str; 5] = ["loose", "partial", "quarantine", "lock", "format"];

/// Tells whether a folder is a store of this user's.
#[must_use]
pub fn is_own_store(root: &Path) -> bool {
    let me = rustix::process::geteuid().as_raw();
    let is_own = fs::metadata(root).is_ok_and(|stat| stat.is_dir() && stat.uid() == me);
    is_own && root.join("format").is_file() && root.join("packs").is_dir()
}

/// Removes the store at `root`, of whatever version; `false` when the folder holds something else too
/// and is still there.
///
/// # Errors
/// [`Error::Refused`] when it is no store of this user's or is in use, and what the system says; what
/// was removed by then is gone, and what is left is found to be a store until the end.
pub fn remove(root: &Path) -> Result<bool> {
    let refuse = |reason| Err(Error::Refused { path: root.to_owned(), reason });
    if !is_own_store(root) {
        return refuse("it is not a store of yours");
    }
    let operation = FlockOperation::NonBlockingLockExclusive;
    let _lock = match lock_file(&root.join("lock"), operation) {
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::WouldBlock => {
            return refuse("somebody uses it");
        }
        other => other?,
    };
    // `packs` and `format` last: they tell what the folder is.
    let first = FOLDERS.into_iter().filter(|name| *name != "packs");
    for name in first.chain(["packs"]).chain(OTHERS) {
        let path = root.join(name);
        remove_all(&path).map_err(Error::io("remove", &path))?;
    }
    match fs::remove_dir(root) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
        Err(error) => Err(Error::io("remove", root)(error)),
    }
}

/// Removes a file or folder, also one whose folders may not be written to; gone is as good.
pub(crate) fn remove_all(path: &Path) -> io::Result<()> {
    let remove = || match path.symlink_metadata() {
        Ok(stat) if stat.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match remove() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            make_writable(path)?;
            remove()
        }
        other => other,
    }
}

/// Trees kept as plain files have the modes of their directories.
fn make_writable(path: &Path) -> io::Result<()> {
    if !path.symlink_metadata()?.is_dir() {
        return Ok(());
    }
    open_folder(path)?;
    for entry in fs::read_dir(path)? {
        make_writable(&entry?.path())?;
    }
    Ok(())
}

/// Lets the owner of a folder that is to be removed into it.
pub(crate) fn open_folder(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Store;

    #[test]
    fn a_store_goes_and_what_is_not_its_own_stays() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("store");
        let store = Store::open(&root).unwrap();
        let deep = root.join("loose/00/tree/read-only");
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("file"), b"x").unwrap();
        fs::set_permissions(&deep, fs::Permissions::from_mode(0o555)).unwrap();
        fs::write(root.join("mine"), b"kept").unwrap();
        let guard = store.guard().unwrap();
        assert!(matches!(remove(&root), Err(Error::Refused { .. })), "in use");
        drop(guard);
        assert!(!remove(&root).unwrap());
        let left: Vec<_> = fs::read_dir(&root).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["mine"]);
        assert!(matches!(remove(&root), Err(Error::Refused { .. })), "no store any more");

        let whole = folder.path().join("whole");
        drop(Store::open(&whole).unwrap());
        assert!(remove(&whole).unwrap());
        assert!(!whole.exists());
    }
}
