//! What files were found to hold, so that what was not changed since is not read again.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rift_cas::Store;
pub(super) use rift_cas::hashes::FileStamp as Stamp;
use rift_cas::hashes::{self, STAMP_BYTES, now_ns};
use rift_cas::lock::{lock, unlocked};
use rift_cas::record::Kind;

/// Changes whenever the record does.
const VERSION: u32 = 1;

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
        let seen = unlocked(self.seen);
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
        let (stamp, after) = after.split_first_chunk::<STAMP_BYTES>()?;
        let (hash, after) = after.split_first_chunk::<32>()?;
        let path = PathBuf::from(std::ffi::OsString::from_vec(path.to_vec()));
        found.insert(path, (Stamp::decode(stamp), blake3::Hash::from_bytes(*hash)));
        rest = after;
    }
    Some(found)
}

/// Returns the hash of a file's bytes.
pub(super) fn hash_of(path: &Path) -> io::Result<blake3::Hash> {
    let hash = hashes::hash_of(&mut File::open(path)?)?;
    Ok(blake3::Hash::from_bytes(*hash.as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::fs;

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
