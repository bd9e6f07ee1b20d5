//! Records: small self-checking files that are replaced as a whole.
//!
//! ```text
//! record: "rift record 1 " | BLAKE3 of the payload, 64 hex digits | "\n" | payload
//! ```
//!
//! Refs, the results of plans and what is known of projections are records. A record that does not
//! match its checksum is reported as damaged, and who reads it goes on as if it were not there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rift_tree::{FormatError, TreeHash};

use crate::error::{Error, Result};
use crate::store::{Store, sync_folder};

const PREFIX: &[u8] = b"rift record 1 ";

/// Returns a record's bytes.
#[must_use]
pub fn encode(payload: &[u8]) -> Vec<u8> {
    let mut bytes = PREFIX.to_vec();
    bytes.extend_from_slice(blake3::hash(payload).to_hex().as_bytes());
    bytes.push(b'\n');
    bytes.extend_from_slice(payload);
    bytes
}

/// Returns the payload of a record.
///
/// # Errors
/// Which part of it is wrong.
pub fn decode(bytes: &[u8]) -> Result<&[u8], FormatError> {
    let rest = bytes.strip_prefix(PREFIX).ok_or(FormatError::Magic)?;
    let truncated = FormatError::Truncated { offset: bytes.len() as u64, wanted: 79 };
    let (checksum, rest) = rest.split_at_checked(64).ok_or(truncated)?;
    let payload = rest.strip_prefix(b"\n").ok_or(truncated)?;
    if blake3::hash(payload).to_hex().as_bytes() != checksum {
        return Err(FormatError::Checksum { part: "payload" });
    }
    Ok(payload)
}

/// The kinds of records, each with a folder of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A mutable name for a tree.
    Ref,
    /// What a command line with known inputs produces.
    Plan,
    /// Which tree was shown at a directory.
    Projection,
    /// What one run did.
    Run,
    /// What a remote denies, as this store has seen it last.
    Remote,
}

impl Kind {
    pub(crate) fn folder(self) -> &'static str {
        match self {
            Self::Ref => "refs",
            Self::Plan => "plans",
            Self::Projection => "projections",
            Self::Run => "runs",
            Self::Remote => "remotes",
        }
    }
}

/// Every kind, for who walks them all.
pub const KINDS: [Kind; 5] = [Kind::Ref, Kind::Plan, Kind::Projection, Kind::Run, Kind::Remote];

/// Returns `name` as a file name: letters, digits and `._-` stay, others become `%XX`.
fn file_name(name: &str) -> String {
    let mut escaped = String::new();
    for (at, byte) in name.bytes().enumerate() {
        match byte {
            b'.' if at == 0 => escaped.push_str("%2E"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' => {
                escaped.push(byte.into())
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

/// Returns the name that `file_name` made this of; `None` when it did not.
pub(crate) fn unescape(file: &str) -> Option<String> {
    String::from_utf8(decode_percent(file)?).ok().filter(|name| file_name(name) == file)
}

/// Returns the bytes that text with `%XX` in it stands for; `None` when digits are missing.
pub(crate) fn decode_percent(text: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            decoded.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            decoded.push(byte);
        }
    }
    Some(decoded)
}

impl Store {
    pub(crate) fn record_path(&self, kind: Kind, name: &str) -> PathBuf {
        self.path(kind.folder()).join(file_name(name))
    }

    /// Reads a record; `None` when there is none.
    ///
    /// # Errors
    /// [`Error::Damaged`] when it does not match its checksum, or what the system says.
    pub fn record(&self, kind: Kind, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.record_path(kind, name);
        match fs::read(&path) {
            Ok(bytes) => {
                decode(&bytes).map(|payload| Some(payload.to_vec())).map_err(Error::damaged(&path))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", &path)(error)),
        }
    }

    /// Writes a record, replacing one of the same name. Only a ref and what a remote denies are sure to outlive a
    /// power loss that follows; the others are made again where they are missed.
    ///
    /// # Errors
    /// [`Error::Refused`] for a name over 160 bytes, or what the system says.
    pub fn set_record(&self, kind: Kind, name: &str, payload: &[u8]) -> Result<()> {
        let path = self.record_path(kind, name);
        if name.is_empty() || name.len() > 160 {
            return Err(Error::Refused { path, reason: "a name has 1 to 160 bytes" });
        }
        match kind {
            Kind::Ref | Kind::Remote => self.publish_bytes(&path, &encode(payload)),
            Kind::Plan | Kind::Projection | Kind::Run => {
                self.publish_passing(&path, &encode(payload))
            }
        }
    }

    /// Removes a record; one that is not there is as good.
    ///
    /// # Errors
    /// What the system says.
    pub fn remove_record(&self, kind: Kind, name: &str) -> Result<()> {
        let path = self.record_path(kind, name);
        match fs::remove_file(&path) {
            Ok(()) => sync_folder(&path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::io("remove", &path)(error)),
        }
    }

    /// Returns the names of all records of a kind, sorted, with when each was last written.
    ///
    /// # Errors
    /// What the system says.
    pub fn records(&self, kind: Kind) -> Result<Vec<(String, std::time::SystemTime)>> {
        let folder = self.path(kind.folder());
        let mut found = Vec::new();
        for entry in read_folder(&folder)? {
            let entry = entry.map_err(Error::io("list", &folder))?;
            let Some(name) = entry.file_name().to_str().and_then(unescape) else {
                continue;
            };
            match entry.metadata().and_then(|stat| stat.modified()) {
                Ok(modified) => found.push((name, modified)),
                // Removed since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io("look at", &entry.path())(error)),
            }
        }
        found.sort();
        Ok(found)
    }

    /// Returns the tree that a ref names; `None` when there is no such ref.
    ///
    /// # Errors
    /// As [`Store::record`]; a payload that is not a tree hash is damage.
    pub fn get_ref(&self, name: &str) -> Result<Option<TreeHash>> {
        let Some(payload) = self.record(Kind::Ref, name)? else {
            return Ok(None);
        };
        let path = self.record_path(Kind::Ref, name);
        let wrong = |_| FormatError::Rule { rule: "a ref holds a tree hash", index: 0 };
        TreeHash::from_hex(&payload).map(Some).map_err(wrong).map_err(Error::damaged(&path))
    }

    /// Makes `name` mean `tree`, which is here: gc is kept out until the ref names it.
    ///
    /// # Errors
    /// [`Error::Refused`] when the store does not have the tree; else as [`Store::set_record`].
    pub fn set_ref(&self, name: &str, tree: TreeHash) -> Result<()> {
        let _guard = self.guard()?;
        if !self.has_tree(tree) && !self.is_partial(tree) {
            let path = self.record_path(Kind::Ref, name);
            return Err(Error::Refused { path, reason: "the store does not have its tree" });
        }
        self.set_record(Kind::Ref, name, &tree.to_hex())
    }
}

/// Lists a folder of the store; one that is not there is empty.
pub(crate) fn read_folder(
    folder: &Path,
) -> Result<Box<dyn Iterator<Item = io::Result<fs::DirEntry>>>> {
    match fs::read_dir(folder) {
        Ok(entries) => Ok(Box::new(entries)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Box::new(std::iter::empty())),
        Err(error) => Err(Error::io("list", folder)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_escaping() {
        for name in ["a", "npm/small@1", ".hidden", "ü%", "..", "a b"] {
            assert_eq!(unescape(&file_name(name)).as_deref(), Some(name));
            assert!(!file_name(name).contains('/') && !file_name(name).starts_with('.'));
        }
        assert_eq!(unescape("%zz"), None);
        assert_eq!(unescape("%41"), None, "not how we write `A`");
    }

    #[test]
    fn every_flipped_byte_of_a_record_is_found() {
        let record = encode(b"payload");
        assert_eq!(decode(&record).unwrap(), b"payload");
        for at in 0..record.len() {
            let mut flipped = record.clone();
            flipped[at] ^= 1;
            assert!(decode(&flipped).is_err(), "byte {at}");
            assert!(decode(&record[..at]).is_err(), "length {at}");
        }
    }
}
