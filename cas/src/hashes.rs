//! What files were found to hold, by what tells them apart: a file of fixed slots, for all processes at once.
//!
//! ```text
//! index/hashes: slots: 65,536 × | sum u64 | device u64 | inode u64 | size u64 | mtime i64 (ns) | ctime i64 (ns) | hash 32 |
//! ```
//!
//! A slot holds what was written to it last; one that two have written at once has a wrong sum, and says nothing. The sum is the
//! beginning of the BLAKE3 of the rest, and of the run that it is believed in: 0 is all. What was changed less than 2 s before it was read
//! may be changed again under the same times (what git calls racily clean), so only the run that has made it believes it. And that only
//! since Linux 6.13, where what was looked at never gets the same time again: before, what was changed within a tick is hashed anew, and
//! everywhere what was changed just now and has a time of whole seconds, as some file systems keep no others.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rift_tree::BlobHash;

use crate::store::Store;
use crate::sys::ns;

const SLOTS: u64 = 1 << 16;
const SLOT_BYTES: usize = 80;
/// How many bytes a stamp has.
pub const STAMP_BYTES: usize = 40;
/// File systems have clocks with ticks, of up to 2 s on FAT.
const SETTLED_NS: i64 = 2_000_000_000;
/// The kernel's clock has ticks of up to 10 ms.
const TICK_NS: i64 = 20_000_000;
const CHUNK_BYTES: usize = 256 << 10;

/// What tells a file, and what it holds, from others, see stat(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FileStamp {
    /// `st_dev`.
    pub device: u64,
    /// `st_ino`.
    pub inode: u64,
    /// `st_size`.
    pub size: u64,
    /// `st_mtim`, in nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// `st_ctim`, in nanoseconds since the epoch.
    pub ctime_ns: i64,
}

impl FileStamp {
    /// Returns what stat(2) says.
    #[must_use]
    pub fn of(stat: &std::fs::Metadata) -> Self {
        Self {
            device: stat.dev(),
            inode: stat.ino(),
            size: stat.size(),
            mtime_ns: ns(stat.mtime(), stat.mtime_nsec()),
            ctime_ns: ns(stat.ctime(), stat.ctime_nsec()),
        }
    }

    /// As [`FileStamp::of`], of what the system itself says.
    #[must_use]
    pub fn of_stat(stat: &rustix::fs::Stat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size.cast_unsigned(),
            mtime_ns: ns(stat.st_mtime, stat.st_mtime_nsec.cast_signed()),
            ctime_ns: ns(stat.st_ctime, stat.st_ctime_nsec.cast_signed()),
        }
    }

    /// Returns it as bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; STAMP_BYTES] {
        let (mtime, ctime) = (self.mtime_ns.cast_unsigned(), self.ctime_ns.cast_unsigned());
        let mut bytes = [0; STAMP_BYTES];
        let words = [self.device, self.inode, self.size, mtime, ctime];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Reads the bytes of one.
    #[must_use]
    pub fn decode(bytes: &[u8; STAMP_BYTES]) -> Self {
        let mut words = [0; 5];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = bytes.try_into().map_or(0, u64::from_le_bytes);
        }
        let [device, inode, size, mtime, ctime] = words;
        let (mtime_ns, ctime_ns) = (mtime.cast_signed(), ctime.cast_signed());
        Self { device, inode, size, mtime_ns, ctime_ns }
    }

    /// Tells whether a change after this moment, in nanoseconds since the epoch, will show in it.
    #[must_use]
    pub fn is_settled(&self, now_ns: i64) -> bool {
        self.is_older(SETTLED_NS, now_ns)
    }

    fn is_older(&self, than_ns: i64, now_ns: i64) -> bool {
        self.mtime_ns.max(self.ctime_ns).saturating_add(than_ns) < now_ns
    }
}

/// The hashes that runs have found.
#[derive(Debug)]
pub struct Hashes {
    file: Option<File>,
    run: u64,
    /// What is changed twice within a tick has the same time.
    has_ticks: bool,
}

impl Store {
    /// Opens the hashes of files, as the run with this number sees them; where they can't be kept, each is found anew. Who is no run is 0, and
    /// keeps none of what was changed just now.
    #[must_use]
    pub fn hashes(&self, run: u64) -> Hashes {
        let mut options = OpenOptions::new();
        let opened = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = opened.open(self.path("index").join("hashes")).ok();
        let has_ticks = has_ticks(&rustix::system::uname().release().to_string_lossy());
        Hashes { file, run, has_ticks }
    }
}

impl Hashes {
    /// Returns the hash of a file's bytes, which are read where it is not known.
    ///
    /// # Errors
    /// What the system says; that the file was changed while it was read.
    pub fn of(&self, path: &Path, stamp: FileStamp) -> io::Result<BlobHash> {
        if let Some(known) = self.known(&stamp) {
            return Ok(known);
        }
        self.read(&mut File::open(path)?, stamp)
    }

    /// As [`Hashes::of`], of an open file whose hash is not known, which is read from where it stands.
    ///
    /// # Errors
    /// As [`Hashes::of`].
    pub(crate) fn read(&self, file: &mut File, stamp: FileStamp) -> io::Result<BlobHash> {
        let hash = hash_of(file)?;
        if FileStamp::of(&file.metadata()?) != stamp {
            return Err(io::Error::other("it was changed meanwhile"));
        }
        self.note(&stamp, hash);
        Ok(hash)
    }

    /// Returns the hash of the file with this stamp, if it is known.
    #[must_use]
    pub fn known(&self, stamp: &FileStamp) -> Option<BlobHash> {
        let file = self.file.as_ref()?;
        let mut slot = [0; SLOT_BYTES];
        file.read_exact_at(&mut slot, offset(stamp)).ok()?;
        let (sum, rest) = slot.split_at(8);
        let (words, hash) = rest.split_at(STAMP_BYTES);
        if words != stamp.encode() {
            return None;
        }
        let is_believed = [0, self.run].iter().any(|run| sum == sum_of(rest, *run));
        let hash: [u8; 32] = hash.try_into().ok()?;
        is_believed.then(|| BlobHash::from_bytes(hash))
    }

    /// Keeps the hash of the file with this stamp.
    pub fn note(&self, stamp: &FileStamp, hash: BlobHash) {
        let Some(file) = &self.file else { return };
        let now_ns = now_ns();
        if self.has_ticks && !stamp.is_older(TICK_NS, now_ns) {
            return;
        }
        let run = match (stamp.is_settled(now_ns), self.run) {
            (true, _) => 0,
            // All runs would believe it.
            (false, 0) => return,
            // Nor does a second change show where times are kept in seconds.
            (false, _) if stamp.ctime_ns % 1_000_000_000 == 0 => return,
            (false, run) => run,
        };
        let mut slot = [0; SLOT_BYTES];
        let (sum, rest) = slot.split_at_mut(8);
        let (words, place) = rest.split_at_mut(STAMP_BYTES);
        words.copy_from_slice(&stamp.encode());
        place.copy_from_slice(hash.as_bytes());
        sum.copy_from_slice(&sum_of(rest, run));
        // A full disk costs time, later.
        let _kept = file.write_all_at(&slot, offset(stamp)).is_ok();
    }
}

/// Tells whether file systems of a kernel, by its release, take their times from its ticks alone; they don't since 6.13.
fn has_ticks(release: &str) -> bool {
    let mut parts = release.split(|letter: char| !letter.is_ascii_digit());
    let mut part = || parts.next().and_then(|part| part.parse::<u32>().ok()).unwrap_or(0);
    (part(), part()) < (6, 13)
}

/// Returns the time of day, in nanoseconds since the epoch.
#[must_use]
pub fn now_ns() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}

/// Returns the hash of the bytes of an open file, from where it stands to its end.
///
/// # Errors
/// What the system says.
pub fn hash_of(file: &mut File) -> io::Result<BlobHash> {
    let mut hasher = blake3::Hasher::new();
    let size = usize::try_from(file.metadata()?.len()).unwrap_or(CHUNK_BYTES);
    let mut chunk = vec![0; CHUNK_BYTES.min(size.saturating_add(1))];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(BlobHash::from_bytes(*hasher.finalize().as_bytes())),
            Ok(read) => {
                hasher.update(&chunk[..read]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn offset(stamp: &FileStamp) -> u64 {
    let mixed = (stamp.inode ^ stamp.device.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 48) % SLOTS * SLOT_BYTES as u64
}

fn sum_of(rest: &[u8], run: u64) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(rest).update(&run.to_le_bytes());
    let mut sum = [0; 8];
    sum.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_once() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "one").unwrap();
        let stamp = FileStamp::of(&path.metadata().unwrap());
        let one = BlobHash::from_bytes(*blake3::hash(b"one").as_bytes());
        let (run, other) = (store.hashes(7), store.hashes(8));
        assert_eq!(run.known(&stamp), None);
        assert_eq!(run.of(&path, stamp).unwrap(), one);
        // It may be changed again under this time, so that other runs read it.
        assert_eq!((run.known(&stamp), other.known(&stamp)), (Some(one), None));
        let (none, now) = (store.hashes(0), FileStamp { inode: 1, mtime_ns: now_ns(), ..stamp });
        none.note(&now, one);
        assert_eq!(other.known(&now), None, "it may be changed again as well");
        let seconds = FileStamp { ctime_ns: now_ns() / 1_000_000_000 * 1_000_000_000, ..now };
        run.note(&seconds, one);
        assert_eq!(run.known(&seconds), None, "nor would that be seen");
        let old = FileStamp { mtime_ns: 5, ctime_ns: 5, ..stamp };
        assert!(run.of(&path, old).is_err(), "that is not what is there");
        run.note(&old, one);
        assert_eq!((run.known(&old), other.known(&old)), (Some(one), Some(one)));
        assert_eq!(run.known(&FileStamp { size: 4, ..old }), None);
        let ticking = Hashes { has_ticks: true, ..store.hashes(9) };
        let fresh = FileStamp { mtime_ns: now_ns(), ..old };
        ticking.note(&fresh, one);
        assert_eq!(ticking.known(&fresh), None);
        let file = store.hashes(7).file.unwrap();
        for at in 0..SLOT_BYTES as u64 {
            let mut byte = [0];
            file.read_exact_at(&mut byte, offset(&old) + at).unwrap();
            file.write_all_at(&[byte[0] ^ 1], offset(&old) + at).unwrap();
            assert_eq!(run.known(&old), None, "byte {at}");
            file.write_all_at(&byte, offset(&old) + at).unwrap();
        }
        assert_eq!(run.known(&old), Some(one));
    }

    #[test]
    fn kernels_tell_by_their_release_whether_times_have_ticks() {
        for (release, ticks) in [
            ("6.1.0-44-amd64", true),
            ("6.12.9", true),
            ("5.15.0-1-generic", true),
            ("6.13.0", false),
            ("6.18.44-fc", false),
            ("7.0-rc1", false),
            ("", true),
        ] {
            assert_eq!(has_ticks(release), ticks, "{release}");
        }
    }
}
