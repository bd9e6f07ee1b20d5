//! A signed ref: what a name means on a remote, and who says so.
//!
//! ```text
//! rift ref 1
//! name NAME
//! tree HEX              the tree hash
//! manifest BYTES        length of the object `trees/HEX`
//! places HEX BYTES      BLAKE3 and length of the tree's sidecar, `places/HEX`
//! base HEX BYTES        where the sidecar ends with a patch: of which tree's manifest, and its length
//! time SECONDS          when it was signed, since the epoch
//! key HEX               the public key
//! sign HEX              its signature of every byte before this line
//! ```
//!
//! Each line but that of the base is there once, in this order, and ends with a line feed; numbers are decimal without zeros in front. So there
//! is one text per record, and a reader that has checked the signature knows every byte.

use rift_tree::{FormatError, TreeHash};

use super::keys::{PrivateKey, PublicKey};

/// No signed ref is longer.
pub(crate) const BYTES_MAX: u64 = 1024;
const FIRST: &str = "rift ref 1\n";
/// How many bytes the name of a ref has at most.
const NAME_MAX: usize = 160;

/// A tree on a remote: all that has to be known to read it, and to check what was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Located {
    /// The tree.
    pub tree: TreeHash,
    /// Length of its manifest.
    pub manifest_bytes: u64,
    /// BLAKE3 of the sidecar that says where the tree's bytes are.
    pub places: [u8; 32],
    /// Length of the sidecar.
    pub places_bytes: u64,
    /// Where the manifest is no object: the one that a patch behind the sidecar is of.
    pub base: Option<Base>,
}

/// A manifest that is an object, of which a patch makes another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// The tree.
    pub tree: TreeHash,
    /// Length of its manifest.
    pub manifest_bytes: u64,
}

impl Located {
    /// Returns the manifest that is an object: the tree's own, or the one that it is a patch of.
    #[must_use]
    pub fn object(&self) -> Base {
        let Self { tree, manifest_bytes, .. } = *self;
        self.base.unwrap_or(Base { tree, manifest_bytes })
    }
}

/// What a signed ref says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// The name, so that a ref can't stand for another.
    pub name: String,
    /// The tree that it means.
    pub at: Located,
    /// When it was signed, in seconds since the epoch.
    pub time_secs: u64,
}

/// A signed ref that is well formed; nothing is known of its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedRef {
    /// What it says.
    pub statement: Statement,
    /// The key that it names.
    pub key: PublicKey,
    signature: [u8; 64],
}

impl SignedRef {
    /// Signs a statement.
    #[must_use]
    pub fn sign(statement: Statement, key: &PrivateKey) -> Self {
        let public = key.public().key;
        let signature = key.sign(message(&statement, &public).as_bytes());
        Self { statement, key: public, signature }
    }

    /// Returns the bytes of the record.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut text = message(&self.statement, &self.key);
        text.push_str(&sign_line(&self.signature));
        text.into_bytes()
    }

    /// Reads a record.
    ///
    /// # Errors
    /// The first line that is not as it has to be.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let text = std::str::from_utf8(bytes).map_err(|_| FormatError::Magic)?;
        let rest = text.strip_prefix(FIRST).ok_or(FormatError::Magic)?;
        let mut lines = Lines::new(rest);
        let name = lines.value("name ", Some)?.to_owned();
        let tree = lines.value("tree ", |hex| TreeHash::from_hex(hex.as_bytes()).ok())?;
        let manifest_bytes = lines.value("manifest ", number)?;
        let (places, places_bytes) = lines.value("places ", named)?;
        let base = match lines.rest.starts_with("base ") {
            true => Some(lines.value("base ", named)?),
            false => None,
        };
        let time_secs = lines.value("time ", number)?;
        let key = lines.value("key ", |hex| PublicKey::from_hex(hex).ok())?;
        let signature = lines.value("sign ", signature)?;
        if !lines.rest.is_empty() || !(1..=NAME_MAX).contains(&name.len()) {
            return Err(FormatError::Rule {
                rule: "a signed ref ends with its signature",
                index: 8,
            });
        }
        let places = *places.as_bytes();
        let base = base.map(|(tree, manifest_bytes)| Base { tree, manifest_bytes });
        let at = Located { tree, manifest_bytes, places, places_bytes, base };
        let statement = Statement { name, at, time_secs };
        Ok(Self { statement, key, signature })
    }

    /// Tells whether the key that it names has signed what it says.
    #[must_use]
    pub fn is_signed(&self) -> bool {
        let message = message(&self.statement, &self.key);
        self.key.has_signed(message.as_bytes(), &self.signature)
    }
}

/// Returns what is signed. Its first line keeps signatures apart from those of any other kind of record.
fn message(statement: &Statement, key: &PublicKey) -> String {
    let Statement { name, at, time_secs } = statement;
    let Located { tree, manifest_bytes, places, places_bytes, base } = at;
    let places = TreeHash::from_bytes(*places);
    let base = base.map(|base| format!("base {} {}\n", base.tree, base.manifest_bytes));
    let base = base.unwrap_or_default();
    format!(
        "{FIRST}name {name}\ntree {tree}\nmanifest {manifest_bytes}\nplaces {places} {places_bytes}\n\
         {base}time {time_secs}\nkey {key}\n"
    )
}

/// Reads a hash and a length.
fn named(value: &str) -> Option<(TreeHash, u64)> {
    let (hex, bytes) = value.split_once(' ')?;
    Some((TreeHash::from_hex(hex.as_bytes()).ok()?, number(bytes)?))
}

/// Returns the last line of what is signed.
pub(super) fn sign_line(signature: &[u8; 64]) -> String {
    let digits: String = signature.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sign {digits}\n")
}

/// Lines that are still to be read.
pub(super) struct Lines<'a> {
    pub(super) rest: &'a str,
    number: u32,
}

impl<'a> Lines<'a> {
    /// Begins behind the first line.
    pub(super) fn new(rest: &'a str) -> Self {
        Self { rest, number: 1 }
    }

    /// Reads a line that begins with a word.
    pub(super) fn value<T>(
        &mut self,
        word: &str,
        read: impl FnOnce(&'a str) -> Option<T>,
    ) -> Result<T, FormatError> {
        self.number += 1;
        let (line, rest) = self.rest.split_once('\n').unwrap_or_default();
        let wrong = FormatError::Rule { rule: "each line has its place", index: self.number };
        self.rest = rest;
        line.strip_prefix(word).and_then(read).ok_or(wrong)
    }
}

pub(super) fn number(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

pub(super) fn signature(hex: &str) -> Option<[u8; 64]> {
    let (low, high) = hex.split_at_checked(64)?;
    let mut signature = [0; 64];
    for (half, digits) in signature.as_chunks_mut::<32>().0.iter_mut().zip([low, high]) {
        *half = *TreeHash::from_hex(digits.as_bytes()).ok()?.as_bytes();
    }
    Some(signature)
}

/// Returns the object of a ref: letters of lower case, digits, `-` and a `.` inside stay, others become `_xx`, so that two names
/// never meet, whatever the server or file system makes of case.
pub(crate) fn object(name: &str) -> String {
    let mut object = String::from("refs/");
    for (at, byte) in name.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' => object.push(byte.into()),
            b'.' if at > 0 => object.push('.'),
            _ => object.push_str(&format!("_{byte:02x}")),
        }
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(base: Option<Base>) -> SignedRef {
        let statement = Statement {
            name: "deps/main".to_owned(),
            at: Located {
                tree: TreeHash::from_bytes([3; 32]),
                manifest_bytes: 4096,
                places: [4; 32],
                places_bytes: 128,
                base,
            },
            time_secs: 1_700_000_000,
        };
        SignedRef::sign(statement, &PrivateKey::new("a", &[1; 32]).unwrap())
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let base = Base { tree: TreeHash::from_bytes([5; 32]), manifest_bytes: u64::MAX };
        for record in [signed(None), signed(Some(base))] {
            let bytes = record.encode();
            assert_eq!(SignedRef::decode(&bytes), Ok(record.clone()));
            assert!(record.is_signed());
            let mut long = record;
            long.statement.name = "n".repeat(NAME_MAX);
            long.statement.at.manifest_bytes = u64::MAX;
            assert!(long.encode().len() as u64 <= BYTES_MAX);
        }
    }

    #[test]
    fn every_changed_byte_is_found() {
        let base = Base { tree: TreeHash::from_bytes([5; 32]), manifest_bytes: 77 };
        let bytes = signed(Some(base)).encode();
        for at in 0..bytes.len() {
            for flip in [1, 0x20, 0x80] {
                let mut changed = bytes.clone();
                changed[at] ^= flip;
                let read = SignedRef::decode(&changed);
                assert!(!read.is_ok_and(|read| read.is_signed()), "byte {at}");
            }
            assert!(SignedRef::decode(&bytes[..at]).is_err(), "length {at}");
        }
        assert!(SignedRef::decode(&[&bytes[..], b"\n"].concat()).is_err());
    }

    #[test]
    fn objects_of_refs_are_plain_and_differ() {
        let names = ["a", "A", "a/b", "a_2fb", "a@b", "..", "@scope/x+y"];
        let objects: std::collections::BTreeSet<String> = names.map(object).into();
        assert_eq!(objects.len(), names.len());
        assert_eq!(object("deps/Main_1"), "refs/deps_2f_4dain_5f1");
    }
}
