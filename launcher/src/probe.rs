//! Probes: what the file systems of the store and of a project can do, found by trying it.
//!
//! Every probe uses small files of its own, which are gone when it ends. `doctor` and `init` ask.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

/// A small file that goes when it is dropped.
struct Probe {
    file: File,
    path: PathBuf,
}

fn fresh_path(folder: &Path) -> PathBuf {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    folder.join(format!(".rift-probe-{}-{number}", std::process::id()))
}

impl Probe {
    fn make(folder: &Path) -> io::Result<Self> {
        let path = fresh_path(folder);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Self { file, path })
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // Nothing better can be done about a file that can't be removed.
        drop(fs::remove_file(&self.path));
    }
}

/// Returns `path` or the nearest folder above it that is there.
#[must_use]
pub fn nearest_folder(path: &Path) -> &Path {
    path.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("/"))
}

/// Returns how many bytes a user may still write to the file system of a folder.
///
/// # Errors
/// As statvfs(3).
pub fn free_bytes(folder: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(folder)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Tells whether files in `from` can share their blocks with files in `to`, see ioctl_ficlone(2).
///
/// # Errors
/// The folders can't be written to.
pub fn can_reflink(from: &Path, to: &Path) -> io::Result<bool> {
    let mut source = Probe::make(from)?;
    let target = Probe::make(to)?;
    source.file.write_all(&[7; 8192])?;
    Ok(clone(&target.file, &source.file))
}

#[cfg(target_os = "linux")]
fn clone(target: &File, source: &File) -> bool {
    rustix::fs::ioctl_ficlone(target, source).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn clone(_target: &File, _source: &File) -> bool {
    false
}

/// Tells whether a file in `from` can have another name in `to`, see link(2).
///
/// # Errors
/// The folders can't be written to.
pub fn can_link(from: &Path, to: &Path) -> io::Result<bool> {
    let source = Probe::make(from)?;
    let name = fresh_path(to);
    match fs::hard_link(&source.path, &name) {
        Ok(()) => fs::remove_file(&name).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => Ok(false),
        Err(error) => match error.raw_os_error() {
            Some(libc::EPERM | libc::EMLINK | libc::EOPNOTSUPP) => Ok(false),
            _ => Err(error),
        },
    }
}

/// Returns how far the file system's clock is from the system's.
///
/// # Errors
/// The folder can't be written to.
pub fn clock_skew(folder: &Path) -> io::Result<Duration> {
    let before = SystemTime::now();
    let probe = Probe::make(folder)?;
    let stat = probe.file.metadata()?;
    let nanoseconds = u32::try_from(stat.mtime_nsec()).unwrap_or(0);
    let seconds = u64::try_from(stat.mtime()).unwrap_or(0);
    let stamped = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds);
    let skew = stamped.duration_since(before).or_else(|_| before.duration_since(stamped));
    Ok(skew.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_leave_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        fs::create_dir(&one).unwrap();
        fs::create_dir(&two).unwrap();
        can_reflink(&one, &two).unwrap();
        assert!(can_link(&one, &two).unwrap());
        assert!(clock_skew(&one).unwrap() < Duration::from_secs(5));
        for folder in [one, two] {
            assert_eq!(fs::read_dir(folder).unwrap().count(), 0);
        }
        assert!(can_link(Path::new("/no/such/folder"), folder.path()).is_err());
        assert_eq!(nearest_folder(&folder.path().join("a/b")), folder.path());
    }
}
