//! Access lists: which blobs of a tree a command needed, in order, for the next machine that runs it on a partial tree.
//!
//! ```text
//! access/KEY: | magic 8 "RIFTACCS" | version u32 | count u32 | blobs: count × u32 |
//! ```
//!
//! The key is the BLAKE3 of the tree and the words of the command. A list is no more than advice: it is not signed, and whoever
//! can write to the remote can only make others fetch what they do not need of a tree that they see anyway.

use std::collections::HashSet;

use rift_tree::TreeHash;

use super::Remote;
use super::error::{Error, Result};

const MAGIC: [u8; 8] = *b"RIFTACCS";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 16;
/// No list is longer.
const BYTES_MAX: u64 = 16 << 20;
/// A list is replaced when more than one in so many of the blobs that were needed is not on it.
const NEWS_PART: usize = 4;

/// What an access list is found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccessKey([u8; 32]);

impl AccessKey {
    /// Returns the key for a command on a tree.
    pub fn new<'w>(tree: TreeHash, words: impl Iterator<Item = &'w [u8]>) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"rift access 1\n").update(tree.as_bytes());
        for word in words {
            hasher.update(&(word.len() as u64).to_le_bytes()).update(word);
        }
        Self(*hasher.finalize().as_bytes())
    }

    /// Returns the key that has these bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes of the key.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn object(self) -> String {
        format!("access/{}", TreeHash::from_bytes(self.0))
    }
}

fn encode(blobs: &[u32]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&(blobs.len() as u32).to_le_bytes());
    bytes.extend(blobs.iter().flat_map(|blob| blob.to_le_bytes()));
    bytes
}

fn decode(bytes: &[u8]) -> Option<Vec<u32>> {
    let (head, rest) = bytes.split_at_checked(HEADER_BYTES)?;
    let word = |bytes: &[u8]| bytes.try_into().map(u32::from_le_bytes).ok();
    let is_ours = head.starts_with(&MAGIC) && word(&head[8..12])? == VERSION;
    let is_whole = word(&head[12..])? as usize * 4 == rest.len();
    (is_ours && is_whole).then(|| rest.chunks_exact(4).filter_map(word).collect())
}

impl Remote {
    /// Reads an access list; one that is damaged is as good as none.
    ///
    /// # Errors
    /// What the remote says.
    pub fn access(&self, key: AccessKey) -> Result<Option<Vec<u32>>> {
        match self.small(&key.object(), BYTES_MAX) {
            Ok(found) => Ok(found.and_then(|found| decode(&found.bytes))),
            Err(Error::Wrong { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends an access list, unless the one that is there tells mostly the same; tells whether it was sent.
    ///
    /// # Errors
    /// What the remote says.
    pub fn add_access(&self, key: AccessKey, used: &[u32]) -> Result<bool> {
        self.set_access(key, used, self.access(key)?.as_deref())
    }

    /// Sends an access list, unless `known`, which is there, tells mostly the same; tells whether it was sent.
    ///
    /// # Errors
    /// What the remote says.
    pub fn set_access(&self, key: AccessKey, used: &[u32], known: Option<&[u32]>) -> Result<bool> {
        self.writable()?;
        if let Some(known) = known {
            let known: HashSet<u32> = known.iter().copied().collect();
            let new = used.iter().filter(|blob| !known.contains(blob)).count();
            if new <= used.len() / NEWS_PART {
                return Ok(false);
            }
        }
        let bytes = encode(used);
        if used.is_empty() || bytes.len() as u64 > BYTES_MAX {
            return Ok(false);
        }
        self.put(&key.object(), bytes).map(|()| true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_as_it_was_written() {
        let bytes = encode(&[7, 0, u32::MAX]);
        assert_eq!(decode(&bytes), Some(vec![7, 0, u32::MAX]));
        for end in 0..bytes.len() {
            assert_eq!(decode(&bytes[..end]), None, "{end}");
        }
        let mut other = bytes;
        other[8] = 2;
        assert_eq!(decode(&other), None);
    }

    #[test]
    fn each_command_has_a_key() {
        let tree = TreeHash::from_bytes([1; 32]);
        let key = |words: &[&str]| AccessKey::new(tree, words.iter().map(|word| word.as_bytes()));
        assert_eq!(key(&["npx", "tsc"]), key(&["npx", "tsc"]));
        assert_ne!(key(&["npx", "tsc"]), key(&["npxt", "sc"]));
        let other = TreeHash::from_bytes([2; 32]);
        assert_ne!(key(&["a"]), AccessKey::new(other, [&b"a"[..]].into_iter()));
    }
}
