//! Used: which files of a tree were read where it is shown, as far as the file system tells.
//!
//! Where the tree is real files, one was read whose atime is later than its ctime: mostly the first read since a change is noted, and no
//! more for a day, see `relatime` in mount(8). Where entries become real when they are needed, those that are were.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::SystemTime;

use rift_tree::{EntryId, Kind, Manifest};

use crate::projection::{Projection, ShownAs};

/// What was read of a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Used {
    /// The blobs, in the order of their reads.
    pub blobs: Vec<u32>,
    /// How many of them nobody had read before the time that was asked for.
    pub new: usize,
}

/// Returns what was read of a tree since it was shown as files, or by the shim. Where the file system keeps no times of reads it is
/// nothing. What other programs have read is in it as well.
#[must_use]
pub fn used(manifest: &Manifest<'_>, known: &Projection, since: SystemTime) -> Used {
    let since_ns = since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
    let mut found = Vec::new();
    let mut at = known.directory.clone();
    look(manifest, EntryId::ROOT, &mut at, known.shown_as, &mut found);
    found.sort_unstable();
    let new = found.iter().filter(|(time_ns, _)| i128::from(*time_ns) >= since_ns as i128).count();
    let mut seen = HashSet::new();
    let blobs = found.into_iter().map(|(_, blob)| blob).filter(|blob| seen.insert(*blob)).collect();
    Used { blobs, new }
}

/// Looks through a directory of the tree, which is here; appends (time of the read in nanoseconds, blob).
fn look(
    manifest: &Manifest<'_>,
    directory: EntryId,
    at: &mut PathBuf,
    shown_as: ShownAs,
    found: &mut Vec<(i64, u32)>,
) {
    for child in manifest.children(directory) {
        let (Some(name), Some(kind)) = (manifest.name(child), manifest.kind(child)) else { return };
        at.push(OsStr::from_bytes(name));
        // What can't be looked at was not read by this user.
        match (kind, at.symlink_metadata()) {
            (Kind::Directory { .. }, Ok(stat)) if stat.is_dir() => {
                look(manifest, child, at, shown_as, found);
            }
            (Kind::File { blob, size, .. }, Ok(stat)) if stat.is_file() && stat.size() == size => {
                let ns = |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000) + rest;
                let read = ns(stat.atime(), stat.atime_nsec());
                let changed = ns(stat.ctime(), stat.ctime_nsec());
                match shown_as {
                    ShownAs::Files if read > changed => found.push((read, blob)),
                    ShownAs::Virtual => found.push((changed, blob)),
                    ShownAs::Files | ShownAs::Mount => {}
                }
            }
            _ => {}
        }
        at.pop();
    }
}
