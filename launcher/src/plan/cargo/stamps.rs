//! What files were found to hold, so that what was not changed since is not read again.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rift_cas::Store;
use rift_cas::record::Kind;

/// Changes whenever the record does.
const VERSION: u32 = 1;
/// A file that was changed less than this before it was read may be changed again under the same times: clocks of file systems have
/// ticks, of up to 2 s on FAT. What git calls racily clean.
const SETTLED_NS: i64 = 2_000_000_000;

/// What tells whether a file is as it was, see lstat(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    pub(super) size: u64,
    pub(super) mtime_ns: i64,
    ctime_ns: i64,
}

impl Stamp {
    pub(super) fn of(stat: &fs::Metadata) -> Self {
        let ns = |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000) + rest;
        Self {
            device: stat.dev(),
            inode: stat.ino(),
            size: stat.size(),
            mtime_ns: ns(stat.mtime(), stat.mtime_nsec()),
            ctime_ns: ns(stat.ctime(), stat.ctime_nsec()),
        }
    }

    fn encode(&self) -> [u8; 40] {
        let words = [
            self.device,
            self.inode,
            self.size,
            self.mtime_ns.cast_unsigned(),
            self.ctime_ns.cast_unsigned(),
        ];
        let mut bytes = [0; 40];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8; 40]) -> Self {
        let mut words = [0; 5];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = bytes.try_into().map_or(0, u64::from_le_bytes);
        }
        let [device, inode, size, mtime, ctime] = words;
        let (mtime_ns, ctime_ns) = (mtime.cast_signed(), ctime.cast_signed());
        Self { device, inode, size, mtime_ns, ctime_ns }
    }

    /// Tells whether a change after `now_ns` will show in it.
    fn is_settled(&self, now_ns: i64) -> bool {
        self.mtime_ns.max(self.ctime_ns).saturating_add(SETTLED_NS) < now_ns
    }
}

type Found = HashMap<PathBuf, (Stamp, blake3::Hash)>;

/// The hashes of files that earlier runs have read, and of those that this one reads.
#[derive(Debug, Default)]
pub(super) struct Stamps {
    known: Found,
    seen: Mutex<Found>,
    /// Files that hold something else than they did, under the same time.
    disguised: Mutex<Vec<PathBuf>>,
}

impl Stamps {
    /// Reads what is kept under a name; nothing where that can't be read.
    pub(super) fn load(store: &Store, name: &str) -> Self {
        let payload = store.record(Kind::Plan, name).ok().flatten();
        let known = payload.and_then(|payload| decode(&payload)).unwrap_or_default();
        Self { known, ..Self::default() }
    }

    /// Keeps what this run has seen under a name, where that is news.
    pub(super) fn save(self, store: &Store, name: &str) -> rift_cas::Result<()> {
        let seen = self.seen.into_inner().unwrap_or_else(PoisonError::into_inner);
        if seen == self.known {
            return Ok(());
        }
        store.set_record(Kind::Plan, name, &encode(&seen))
    }

    /// Returns the files that hold something else than when they were last seen, under the same mtime: who goes by times takes them for
    /// what they were.
    pub(super) fn disguised(&self) -> Vec<PathBuf> {
        lock(&self.disguised).clone()
    }

    /// Returns the hash of a file's bytes, whose stamp is this.
    pub(super) fn hash(&self, path: &Path, stamp: Stamp) -> io::Result<blake3::Hash> {
        let now_ns = now_ns();
        let before = self.known.get(path);
        let known = before.filter(|(known, _)| *known == stamp);
        let hash = match known {
            Some((_, hash)) => *hash,
            None => hash_of(path)?,
        };
        if before.is_some_and(|(known, before)| known.mtime_ns == stamp.mtime_ns && *before != hash)
        {
            lock(&self.disguised).push(path.to_owned());
        }
        if known.is_some() || stamp.is_settled(now_ns) {
            lock(&self.seen).insert(path.to_owned(), (stamp, hash));
        }
        Ok(hash)
    }
}

/// Takes a lock that a panicking thread may have held: what it guards is only ever added to.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The file's path and its length before it, then what tells it from others, then the hash of what it holds.
fn encode(found: &Found) -> Vec<u8> {
    let mut bytes = VERSION.to_le_bytes().to_vec();
    for (path, (stamp, hash)) in found {
        let path = path.as_os_str().as_bytes();
        let length = u32::try_from(path.len()).unwrap_or(0);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(path.get(..length as usize).unwrap_or_default());
        bytes.extend_from_slice(&stamp.encode());
        bytes.extend_from_slice(hash.as_bytes());
    }
    bytes
}

fn decode(payload: &[u8]) -> Option<Found> {
    let mut rest = payload.strip_prefix(&VERSION.to_le_bytes())?;
    let mut found = Found::new();
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let (path, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        let (stamp, after) = after.split_first_chunk::<40>()?;
        let (hash, after) = after.split_first_chunk::<32>()?;
        let path = PathBuf::from(std::ffi::OsString::from_vec(path.to_vec()));
        found.insert(path, (Stamp::decode(stamp), blake3::Hash::from_bytes(*hash)));
        rest = after;
    }
    Some(found)
}

/// Returns the time of day in nanoseconds since the epoch.
#[must_use]
pub fn now_ns() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}

/// Returns the hash of a file's bytes.
pub(super) fn hash_of(path: &Path) -> io::Result<blake3::Hash> {
    let mut file = File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut chunk = vec![0; 1 << 16];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(hasher.finalize()),
            Ok(read) => {
                hasher.update(&chunk[..read]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_settled_is_read_once() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "one").unwrap();
        let stamp = |path: &Path| Stamp::of(&path.symlink_metadata().unwrap());
        let fresh = stamp(&path);
        // As if it had been written long ago.
        let old = Stamp { mtime_ns: 5, ctime_ns: 5, ..fresh };
        let stamps = Stamps::default();
        let (one, other) = (blake3::hash(b"one"), folder.path().join("gone"));
        assert_eq!(stamps.hash(&path, old).unwrap(), one);
        assert!(stamps.hash(&other, old).is_err());
        stamps.save(&store, "name").unwrap();
        fs::write(&path, "two").unwrap();
        let stamps = Stamps::load(&store, "name");
        assert_eq!(stamps.hash(&path, old).unwrap(), one, "it is not read again");
        assert!(stamps.disguised().is_empty());
        let touched = Stamp { ctime_ns: 6, ..old };
        assert_eq!(stamps.hash(&path, touched).unwrap(), blake3::hash(b"two"));
        assert_eq!(stamps.disguised(), std::slice::from_ref(&path));
        let stamps = Stamps::load(&store, "name");
        assert_eq!(stamps.hash(&path, old).unwrap(), one);
        assert_eq!(stamps.hash(&path, fresh).unwrap(), blake3::hash(b"two"), "it was changed");
        stamps.save(&store, "name").unwrap();
        // What was just changed may be changed once more under these times.
        assert_eq!(Stamps::load(&store, "name").known.get(&path).unwrap().0, old);
        assert!(Stamps::load(&store, "another").known.is_empty());
        for length in 0..encode(&stamps_of(&path, old)).len() {
            let cut = encode(&stamps_of(&path, old));
            assert!(length == 4 || decode(&cut[..length]).is_none(), "{length}");
        }
    }

    fn stamps_of(path: &Path, stamp: Stamp) -> Found {
        Found::from([(path.to_owned(), (stamp, blake3::hash(b"one")))])
    }
}
