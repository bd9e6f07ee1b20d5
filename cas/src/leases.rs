//! Leases: which trees live runs use, so that gc leaves them and their packs where they are.
//!
//! ```text
//! leases/PID-N: "tree HEX\n"…, locked (flock(2)) while the run lives
//! ```
//!
//! The kernel lets go of the lock when the run dies, however it dies; a lease that can be locked is
//! a leftover. A lease is made while gc is kept out, so gc sees it whole or not at all.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rift_tree::TreeHash;
use rustix::fs::FlockOperation;

use crate::error::{Error, Result};
use crate::record::read_folder;
use crate::store::{Store, lock_open};

/// A live run's claim on trees; it ends when dropped or when the process dies.
#[derive(Debug)]
pub struct Lease {
    file: File,
    path: PathBuf,
}

impl Store {
    /// Leases a tree. Take the lease before the tree is opened.
    ///
    /// # Errors
    /// What the system says.
    pub fn lease(&self, tree: TreeHash) -> Result<Lease> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let _guard = self.guard()?;
        loop {
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let path = self.path("leases").join(format!("{}-{number}", std::process::id()));
            let mut options = OpenOptions::new();
            match options.append(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => {
                    // Waits for nobody but `is_live`, which asks and lets go.
                    lock_open(&file, &path, FlockOperation::LockExclusive)?;
                    let lease = Lease { file, path };
                    lease.write(tree)?;
                    return Ok(lease);
                }
                // A killed process with the same pid left it; the next number is as good.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::io("make", &path)(error)),
            }
        }
    }

    /// Returns the trees of all live runs, and the leases of dead ones.
    pub(crate) fn leases(&self) -> Result<(HashSet<TreeHash>, Vec<PathBuf>)> {
        let folder = self.path("leases");
        let (mut trees, mut dead) = (HashSet::new(), Vec::new());
        for entry in read_folder(&folder)? {
            let path = entry.map_err(Error::io("list", &folder))?.path();
            if is_live(&path)? {
                let text = match fs::read(&path) {
                    // Its run ended since.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    other => other.map_err(Error::io("read", &path))?,
                };
                let lines = text.split(|byte| *byte == b'\n');
                let hexes = lines.filter_map(|line| line.strip_prefix(b"tree "));
                trees.extend(hexes.filter_map(|hex| TreeHash::from_hex(hex).ok()));
            } else {
                dead.push(path);
            }
        }
        Ok((trees, dead))
    }
}

impl Lease {
    /// Leases one more tree for the same run.
    ///
    /// # Errors
    /// What the system says.
    pub fn add(&self, store: &Store, tree: TreeHash) -> Result<()> {
        let _guard = store.guard()?;
        self.write(tree)
    }

    fn write(&self, tree: TreeHash) -> Result<()> {
        let line = format!("tree {tree}\n");
        (&self.file).write_all(line.as_bytes()).map_err(Error::io("write", &self.path))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // What stays behind is unlocked and swept by gc.
        drop(fs::remove_file(&self.path));
    }
}

/// Tells whether somebody holds the lock of a file; one that is gone has nobody.
pub(crate) fn is_live(path: &Path) -> Result<bool> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other.map_err(Error::io("open", path))?,
    };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(Error::io("lock", path)(error)),
    }
}
