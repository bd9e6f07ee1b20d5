//! npm's own cache of tarballs, read only.
//!
//! ```text
//! CACHE/_cacache/content-v2/sha512/AA/BB/REST   the bytes whose digest, in hexadecimal, is AABBREST
//! ```
//!
//! The path follows from the integrity, so npm's index is not needed. Who reads a file verifies it like
//! any other copy: one that is damaged is as good as none.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::integrity::Integrity;

/// Opens the tarball with this integrity from the cache below `cache`; `None` when there is none that
/// can be opened.
#[must_use]
pub fn open(cache: &Path, integrity: &Integrity) -> Option<File> {
    paths(cache, integrity).find_map(|path| {
        // Missing, unreadable or no file: the registry has it.
        let file = File::open(path).ok()?;
        file.metadata().ok()?.is_file().then_some(file)
    })
}

/// Returns where the cache would keep it: one place for each digest.
fn paths<'a>(cache: &Path, integrity: &'a Integrity) -> impl Iterator<Item = PathBuf> + use<'a> {
    let folder = cache.join("_cacache/content-v2").join(integrity.algorithm().name());
    integrity.digests().map(move |digest| {
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        // A digest has at least 20 bytes, so 40 digits.
        folder.join(&hex[..2]).join(&hex[2..4]).join(&hex[4..])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_npms() {
        let integrity = Integrity::parse("sha1-qZk+NkcGgWq6PiVxeFDCbJzQ2J0=").unwrap();
        let path = paths(Path::new("/c"), &integrity).next().unwrap();
        let expected = "/c/_cacache/content-v2/sha1/a9/99/3e364706816aba3e25717850c26c9cd0d89d";
        assert_eq!(path, Path::new(expected));
    }

    #[test]
    fn only_files_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        let integrity = Integrity::parse("sha1-qZk+NkcGgWq6PiVxeFDCbJzQ2J0=").unwrap();
        assert!(open(folder.path(), &integrity).is_none());
        let path = paths(folder.path(), &integrity).next().unwrap();
        std::fs::create_dir_all(&path).unwrap();
        assert!(open(folder.path(), &integrity).is_none());
        std::fs::remove_dir(&path).unwrap();
        std::fs::write(&path, b"abc").unwrap();
        assert!(open(folder.path(), &integrity).is_some());
    }
}
