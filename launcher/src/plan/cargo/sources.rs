//! The files of a workspace: what they hold, and when cargo takes them to have changed.
//!
//! Cargo goes by mtimes. A fresh checkout has new ones, so what was made of the same bytes would be made again; and bytes that were
//! changed under an old mtime would not be seen. So a file that holds what it held when a snapshot was taken gets the mtime back that it
//! had, and any other one is made newer than the snapshot.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, bail};
use rift_cas::lock::{lock, unlocked};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use serde::{Deserialize, Serialize};

use super::stamps::{Stamp, Stamps};
use crate::paths::{decoded, escaped};

/// More files than that are no sources alone.
const FILES_MAX: usize = 200_000;
const BYTES_MAX: u64 = 4 << 30;
/// What marks folders of caches, see bford.info/cachedir.
const CACHE_TAG: &str = "CACHEDIR.TAG";
/// Folders that hold what is no source.
const SKIPPED: &[&str] = &[".git", ".hg", ".svn", ".jj", "node_modules"];

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The BLAKE3 of its bytes, or of what a symbolic link leads to, in hexadecimal.
    pub hash: String,
    /// Its mtime, in nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// What tells whether it was changed meanwhile.
    #[serde(skip)]
    stamp: Stamp,
    /// It is a symbolic link.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_link: bool,
}

/// The files of a workspace, by their paths below its root.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sources(BTreeMap<String, Source>);

impl Sources {
    /// Reads the files below `root`, but for those below `target`, those of version control, and caches that say so.
    ///
    /// # Errors
    /// What the system says; more than can be sources; what leads out of the workspace.
    pub(super) fn read(
        root: &Path,
        target: &Path,
        threads: usize,
        stamps: &Stamps,
    ) -> anyhow::Result<Self> {
        let mut paths = Vec::new();
        list(root, target, &mut paths)?;
        let bytes: u64 = paths.iter().map(|(_, stamp, _)| stamp.size).sum();
        if bytes > BYTES_MAX {
            bail!("the workspace has more than {}", crate::ui::size(BYTES_MAX));
        }
        let next = AtomicUsize::new(0);
        let found = Mutex::new(BTreeMap::new());
        let work = || -> anyhow::Result<()> {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some((path, stamp, is_link)) = paths.get(at) else { return Ok(()) };
                let hash = match is_link {
                    true => blake3::hash(fs::read_link(path)?.as_os_str().as_bytes()),
                    false => stamps
                        .hash(path, *stamp)
                        .with_context(|| format!("`{}`", path.display()))?,
                };
                let name = name_of(root, path)?;
                let (hash, mtime_ns) = (hash.to_hex().to_string(), stamp.mtime_ns);
                let source = Source { hash, mtime_ns, stamp: *stamp, is_link: *is_link };
                lock(&found).insert(name, source);
            }
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
            let ends = workers.into_iter().map(|worker| {
                worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            ends.collect::<Vec<_>>().into_iter().collect::<anyhow::Result<()>>()
        })?;
        Ok(Self(unlocked(found)))
    }

    /// Returns a hash of all names and bytes, and of no times.
    #[must_use]
    pub fn hash(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for (name, source) in &self.0 {
            hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
            hasher.update(source.hash.as_bytes()).update(&[u8::from(source.is_link)]);
        }
        hasher.finalize()
    }

    /// Returns the hash of one of them, in hexadecimal.
    #[must_use]
    pub fn hash_of(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|source| source.hash.as_str())
    }

    /// Tells whether a path below the root is one of them.
    #[must_use]
    pub fn has(&self, path: &Path) -> bool {
        self.0.contains_key(&escaped(path))
    }

    /// Returns the folders of packages, below the root.
    pub fn packages(&self) -> impl Iterator<Item = PathBuf> {
        self.0.keys().filter_map(|name| {
            let path = Path::new(name);
            path.ends_with("Cargo.toml").then(|| path.parent().unwrap_or(Path::new("")).to_owned())
        })
    }

    /// Returns what differs from how it was, below the root: changed, new and gone.
    pub fn differing<'s>(&'s self, then: &'s Self) -> impl Iterator<Item = PathBuf> {
        let is_other = |name: &String, source: &Source| {
            then.0
                .get(name)
                .is_none_or(|before| before.hash != source.hash || before.is_link != source.is_link)
        };
        let other = self.0.iter().filter(move |(name, source)| is_other(name, source));
        let gone = then.0.keys().filter(|name| !self.0.contains_key(*name));
        other.map(|(name, _)| name).chain(gone).map(|name| decoded(name))
    }

    /// Returns how many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Tells whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns what was changed or removed since the files were read; `but` may have.
    #[must_use]
    pub fn changed(&self, root: &Path, but: &[&str]) -> Option<PathBuf> {
        let is_same = |name: &str, source: &Source| {
            let stat = root.join(decoded(name)).symlink_metadata();
            stat.is_ok_and(|stat| Stamp::of(&stat) == source.stamp)
        };
        let changed = self
            .0
            .iter()
            .find(|(name, source)| !but.contains(&name.as_str()) && !is_same(name, source));
        changed.map(|(name, _)| decoded(name))
    }

    /// Gives each file that holds what it held when a snapshot was taken the mtime that it had then, and makes any other one newer than
    /// `taken_ns`. Returns how many times were put back, and how many files differ. Unless `may_set`, unchanged files keep their times, and are
    /// compiled again.
    ///
    /// # Errors
    /// As utimensat(2): where a time can't be set, the snapshot can't be used.
    pub fn date(
        &mut self,
        root: &Path,
        then: &Self,
        taken_ns: i64,
        may_set: bool,
    ) -> anyhow::Result<(usize, usize)> {
        let (mut dated, mut differ) = (0, 0);
        for (name, source) in &mut self.0 {
            let before = then.0.get(name);
            let is_same = before.is_some_and(|before| {
                before.hash == source.hash && before.is_link == source.is_link
            });
            let mtime_ns = match before.filter(|_| is_same) {
                Some(before) if before.mtime_ns == source.mtime_ns || !may_set => continue,
                Some(before) => {
                    dated += 1;
                    Some(before.mtime_ns)
                }
                None => {
                    differ += 1;
                    if source.mtime_ns > taken_ns {
                        continue;
                    }
                    None
                }
            };
            let path = root.join(decoded(name));
            if !may_set {
                bail!("`{}` was changed under an old time", path.display());
            }
            let stat = path.symlink_metadata()?;
            if Stamp::of(&stat) != source.stamp {
                bail!("`{}` is being changed", path.display());
            }
            set_mtime(&path, mtime_ns)?;
            source.stamp = Stamp::of(&path.symlink_metadata()?);
            source.mtime_ns = source.stamp.mtime_ns;
        }
        let gone = then.0.keys().filter(|name| !self.0.contains_key(*name)).count();
        Ok((dated, differ + gone))
    }
}

/// Makes files newer that were changed under their old time, so that cargo sees it.
///
/// # Errors
/// As utimensat(2).
pub(super) fn reveal(disguised: &[PathBuf]) -> anyhow::Result<()> {
    disguised.iter().try_for_each(|path| set_mtime(path, None))
}

/// Sets the mtime of a file, that of now where none is given.
fn set_mtime(path: &Path, mtime_ns: Option<i64>) -> anyhow::Result<()> {
    let time = match mtime_ns {
        Some(ns) => {
            Timespec { tv_sec: ns.div_euclid(1_000_000_000), tv_nsec: ns.rem_euclid(1_000_000_000) }
        }
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
    };
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
        .with_context(|| format!("could not set the time of `{}`", path.display()))
}

/// Lists the files below a folder.
fn list(root: &Path, target: &Path, found: &mut Vec<(PathBuf, Stamp, bool)>) -> anyhow::Result<()> {
    // As the root, of which all links are resolved; it may be a link itself.
    let real = target.parent().and_then(|parent| parent.canonicalize().ok());
    let target = match (real, target.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => target.to_owned(),
    };
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let listed = fs::read_dir(&folder);
        for entry in listed.with_context(|| format!("could not list `{}`", folder.display()))? {
            let entry = entry?;
            let (path, kind) = (entry.path(), entry.file_type()?);
            if path == target {
                continue;
            }
            if kind.is_dir() {
                let is_skipped = SKIPPED.iter().any(|name| entry.file_name() == *name)
                    || path.join(CACHE_TAG).exists();
                if !is_skipped {
                    folders.push(path);
                }
            } else if kind.is_symlink() {
                if let Ok(real) = path.canonicalize()
                    && !real.starts_with(root)
                {
                    bail!("`{}` leads out of the workspace", path.display());
                }
                found.push((path, Stamp::of(&entry.metadata()?), true));
            } else if kind.is_file() {
                found.push((path, Stamp::of(&entry.metadata()?), false));
            }
            if found.len() > FILES_MAX {
                bail!("the workspace has more than {FILES_MAX} files");
            }
        }
    }
    Ok(())
}

fn name_of(root: &Path, path: &Path) -> anyhow::Result<String> {
    Ok(escaped(path.strip_prefix(root)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_holds_the_same_gets_its_time_back() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let write = |name: &str, text: &str| fs::write(root.join(name), text).unwrap();
        fs::create_dir_all(root.join("src/odd")).unwrap();
        fs::create_dir_all(root.join("target/debug")).unwrap();
        fs::create_dir_all(root.join("cache")).unwrap();
        write("src/same.rs", "same");
        write("src/changed.rs", "old");
        write("src/gone.rs", "gone");
        write("target/debug/object", "no source");
        write("cache/CACHEDIR.TAG", "");
        let odd = root.join("src/odd").join(std::ffi::OsStr::from_bytes(b"a%20\xff"));
        fs::write(&odd, "odd").unwrap();
        let old = 1_000_000_000_000_000_007;
        for name in ["src/same.rs", "src/changed.rs", "src/gone.rs"] {
            set_mtime(&root.join(name), Some(old)).unwrap();
        }
        set_mtime(&odd, Some(old)).unwrap();
        let read = || Sources::read(root, &root.join("target"), 2, &Stamps::default()).unwrap();
        let then = read();
        assert_eq!(then.len(), 4, "{then:?}");
        let text = serde_json::to_string(&then).unwrap();
        let then: Sources = serde_json::from_str(&text).unwrap();
        set_mtime(&root.join("src/same.rs"), None).unwrap();
        set_mtime(&odd, None).unwrap();
        // As long as before, under the same time.
        write("src/changed.rs", "new");
        set_mtime(&root.join("src/changed.rs"), Some(old)).unwrap();
        fs::remove_file(root.join("src/gone.rs")).unwrap();
        write("src/more.rs", "more");
        set_mtime(&root.join("src/more.rs"), Some(old)).unwrap();
        let mut now = read();
        assert_ne!(now.hash(), then.hash());
        assert!(now.date(root, &then, old, false).is_err());
        assert_eq!(now.date(root, &then, old, true).unwrap(), (2, 3));
        assert_eq!(now.changed(root, &[]), None);
        let mtime = |path: &Path| Stamp::of(&path.symlink_metadata().unwrap()).mtime_ns;
        assert_eq!((mtime(&root.join("src/same.rs")), mtime(&odd)), (old, old));
        assert!(
            mtime(&root.join("src/changed.rs")) > old && mtime(&root.join("src/more.rs")) > old
        );
        assert_eq!(read().hash(), now.hash());
        assert_eq!(now.date(root, &then, old, true).unwrap(), (0, 3));
        write("src/same.rs", "late");
        assert_eq!(now.changed(root, &[]), Some("src/same.rs".into()));
        assert_eq!(now.changed(root, &["src/same.rs"]), None);
    }

    #[test]
    fn what_leads_out_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("link")).unwrap();
        let read = Sources::read(folder.path(), Path::new("/none"), 1, &Stamps::default());
        assert!(read.unwrap_err().to_string().contains("leads out"));
    }
}
