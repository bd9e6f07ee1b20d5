//! Parts: a large blob that several threads bring at once, each another part of it, in any order.
//!
//! BLAKE3 is a tree: what it makes of a part that begins at a multiple of [`PART_BYTES`] is a branch, whoever hashes it, and the
//! branches are joined at the end. So no byte is read again for the hash.

use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};
use rift_tree::BlobHash;

use crate::error::{Error, Result};
use crate::import::Import;
use crate::lock::lock;
use crate::store::Temporary;

/// How many bytes a part has, but for the last: enough that what a request costs besides is little.
pub(crate) const PART_BYTES: u64 = 32 << 20;

// Only so are parts branches: see `blake3::hazmat`.
const _: () = assert!(PART_BYTES.is_power_of_two() && PART_BYTES >= 1024);

/// A blob of more than one part on its way into a store.
pub(crate) struct Parts<'i> {
    import: &'i Import<'i>,
    temporary: Temporary,
    length: u64,
    branches: Mutex<Vec<Option<ChainingValue>>>,
}

impl<'i> Parts<'i> {
    /// Begins a blob.
    ///
    /// # Errors
    /// What the system says; [`Error::Refused`] for one that is a single part.
    pub(crate) fn begin(import: &'i Import<'i>, length: u64) -> Result<Self> {
        let temporary = import.store().temporary()?;
        if length <= PART_BYTES {
            let path = temporary.path.clone();
            return Err(Error::Refused { path, reason: "it has a single part" });
        }
        // As many as fit a file.
        let count = length.div_ceil(PART_BYTES) as usize;
        Ok(Self { import, temporary, length, branches: Mutex::new(vec![None; count]) })
    }

    /// Returns where a part is that some byte is in.
    pub(crate) fn part_at(&self, offset: u64) -> Range<u64> {
        let start = offset / PART_BYTES * PART_BYTES;
        start..(start + PART_BYTES).min(self.length)
    }

    /// Begins to write at the start of a part.
    pub(crate) fn write_from(&self, start: u64) -> PartWriter<'_, 'i> {
        PartWriter { parts: self, at: start, hasher: begin_branch(start) }
    }

    fn branches(&self) -> std::sync::MutexGuard<'_, Vec<Option<ChainingValue>>> {
        lock(&self.branches)
    }

    /// Tells whether all parts were written.
    pub(crate) fn is_whole(&self) -> bool {
        self.branches().iter().all(Option::is_some)
    }

    /// Gives the blob to the import if its bytes have this hash; returns theirs otherwise.
    ///
    /// # Errors
    /// What the system says; [`Error::Refused`] where a part is missing.
    pub(crate) fn end_as(self, wanted: BlobHash) -> Result<Result<(), BlobHash>> {
        let branches: Option<Vec<_>> = self.branches().iter().copied().collect();
        let Some(branches) = branches else {
            let path = self.temporary.path.clone();
            return Err(Error::Refused { path, reason: "a part is missing" });
        };
        let (left, right) = halves(&branches, 0..self.length);
        let actual =
            BlobHash::from_bytes(*merge_subtrees_root(&left, &right, Mode::Hash).as_bytes());
        if actual != wanted {
            return Ok(Err(actual));
        }
        self.import.end_loose(self.temporary, wanted, self.length).map(Ok)
    }
}

fn begin_branch(start: u64) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(start);
    hasher
}

/// Joins what is left and what is right of the place where BLAKE3 divides some bytes of more than one part.
fn halves(branches: &[ChainingValue], bytes: Range<u64>) -> (ChainingValue, ChainingValue) {
    let middle = bytes.start + left_subtree_len(bytes.end - bytes.start);
    (branch(branches, bytes.start..middle), branch(branches, middle..bytes.end))
}

fn branch(branches: &[ChainingValue], bytes: Range<u64>) -> ChainingValue {
    if bytes.end - bytes.start <= PART_BYTES {
        // Some bytes of the blob, so there is one.
        return branches[(bytes.start / PART_BYTES) as usize];
    }
    let (left, right) = halves(branches, bytes);
    merge_subtrees_non_root(&left, &right, Mode::Hash)
}

/// Writes parts one behind the other.
pub(crate) struct PartWriter<'p, 'i> {
    parts: &'p Parts<'i>,
    at: u64,
    hasher: blake3::Hasher,
}

impl PartWriter<'_, '_> {
    /// Returns how far the blob was written by it in whole parts, from where it began.
    pub(crate) fn done(&self) -> u64 {
        let length = self.parts.length;
        if self.at == length { length } else { self.parts.part_at(self.at).start }
    }

    /// Appends bytes; what would lie behind the blob is left out.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        let Parts { import, temporary, length, .. } = self.parts;
        while !bytes.is_empty() && self.at < *length {
            let part = self.parts.part_at(self.at);
            // At most the length of the bytes.
            let (now, rest) = bytes.split_at((part.end - self.at).min(bytes.len() as u64) as usize);
            import.store().ask(now.len() as u64)?;
            let write = temporary.file.write_all_at(now, self.at);
            write.map_err(Error::io("write", &temporary.path))?;
            self.hasher.update(now);
            self.at += now.len() as u64;
            bytes = rest;
            if self.at == part.end {
                let number = (part.start / PART_BYTES) as usize;
                if let Some(branch) = self.parts.branches().get_mut(number) {
                    *branch = Some(self.hasher.finalize_non_root());
                }
                if self.at < *length {
                    self.hasher = begin_branch(self.at);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    #[test]
    fn parts_in_any_order_have_the_hash_of_the_whole() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let part = PART_BYTES as usize;
        for length in [part + 1, 2 * part, 3 * part + 1025] {
            let bytes: Vec<u8> = (0..length).map(|at| ((at * 31) >> 7) as u8).collect();
            let hash = BlobHash::from_bytes(*blake3::hash(&bytes).as_bytes());
            let import = store.import().unwrap();
            let parts = Parts::begin(&import, length as u64).unwrap();
            for number in (0..length.div_ceil(part)).rev() {
                assert!(!parts.is_whole());
                let start = number * part;
                let end = length.min(start + part);
                assert_eq!(parts.part_at(start as u64), start as u64..end as u64);
                let mut writer = parts.write_from(start as u64);
                for chunk in bytes[start..end].chunks((5 << 20) + 7) {
                    writer.write(chunk).unwrap();
                }
            }
            assert!(parts.is_whole());
            assert_eq!(parts.end_as(hash).unwrap(), Ok(()));
            // What is behind the blob is not written, and one writer may bring several parts.
            let other = Parts::begin(&import, length as u64).unwrap();
            let mut writer = other.write_from(0);
            writer.write(&bytes).unwrap();
            writer.write(b"more").unwrap();
            let wanted = BlobHash::from_bytes([0; 32]);
            assert_eq!(other.end_as(wanted).unwrap(), Err(hash));
            import.finish(&[]).unwrap();
            let path = store.loose_path(hash);
            assert_eq!(std::fs::read(path).unwrap(), bytes);
        }
        let import = store.import().unwrap();
        assert!(Parts::begin(&import, PART_BYTES).is_err());
        let missing = Parts::begin(&import, PART_BYTES + 1).unwrap();
        assert!(missing.end_as(BlobHash::from_bytes([0; 32])).is_err());
    }
}
