//! What is remembered of a package beside its files, as a record of the action log.
//!
//! ```text
//! payload: | version 1 | tree hash 32 | flags u16 | files u32 | bytes u64 | packed bytes u64
//!          | name | version | bins × (name, target) | scripts × name | bundled × name |
//!          | originals × (path, permissions u16, size u64, hash 32) |
//! lists begin with a count u32, texts with a length u32; all little-endian, nothing follows
//! flags:   1 package.json was read, 2 binding.gyp, 4 `gypfile: false`, 8 npm-shrinkwrap.json, 16 node_modules
//! ```
//!
//! The key is made from the integrity alone, and from the version of the rules by which files are laid
//! out: a rift with other rules finds nothing and takes the package in again.

use rift_cas::log::{Log, PAYLOAD_BYTES_MAX, Record, Topic};
use rift_tree::{BlobHash, TreeHash};

use super::bins::too_many;
use super::error::Result;
use super::integrity::Integrity;
use crate::bytes::Reader;

/// Changes whenever the same tarball would give another tree.
const LAYOUT_VERSION: u8 = 2;
/// Changes whenever the payload does.
const PAYLOAD_VERSION: u8 = 2;

/// A command of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bin {
    /// The name of the link that npm makes.
    pub name: String,
    /// The file in the package, which need not be there.
    pub target: String,
}

/// A command's file as the tarball has it: what lies there when npm does not link the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Original {
    /// Its path in the package.
    pub path: String,
    /// Permission bits, before the umask.
    pub permissions: u16,
    /// Size in bytes.
    pub size: u64,
    /// The hash of its bytes.
    pub hash: BlobHash,
}

/// What a package is, beside its files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PackageFacts {
    /// Whether it has a package.json that is a JSON object; if not, npm alone knows what to make of it.
    pub has_manifest: bool,
    /// Whether it has `binding.gyp`, which npm builds when no script says otherwise.
    pub has_binding_gyp: bool,
    /// Whether package.json says `gypfile: false`.
    pub is_gyp_off: bool,
    /// Whether it brings `npm-shrinkwrap.json`, which then rules its dependencies.
    pub has_shrinkwrap: bool,
    /// Whether its tarball has files below `node_modules`.
    pub has_node_modules: bool,
    /// How many files it has.
    pub files: u64,
    /// How many bytes they are.
    pub bytes: u64,
    /// How many bytes the tarball is.
    pub packed_bytes: u64,
    /// The name in package.json.
    pub name: String,
    /// The version in package.json.
    pub version: String,
    /// Its commands, whose files are executable and have clean first lines in the tree.
    pub bins: Vec<Bin>,
    /// The names of its scripts.
    pub scripts: Vec<String>,
    /// The names in `bundleDependencies`.
    pub bundled: Vec<String>,
    /// Files of commands that are otherwise in the tree than in the tarball.
    pub originals: Vec<Original>,
}

/// What the log knows of an integrity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The tree of the package's files.
    pub tree: TreeHash,
    /// The rest.
    pub facts: PackageFacts,
}

/// Returns the key under which the log knows an integrity.
#[must_use]
pub fn package_key(integrity: &Integrity) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"rift npm package");
    hasher.update(&[LAYOUT_VERSION, integrity.algorithm() as u8]);
    for digest in integrity.digests() {
        hasher.update(digest);
    }
    *hasher.finalize().as_bytes()
}

impl Known {
    /// Looks an integrity up; a record that can't be read is as good as none.
    #[must_use]
    pub fn find(log: &Log, integrity: &Integrity) -> Option<Self> {
        Self::decode(log.get(Topic::Package, &package_key(integrity))?)
    }

    /// Returns the record that makes an integrity known.
    ///
    /// # Errors
    /// [`super::PackageError::TooLarge`] when a record can't hold it.
    pub fn record(&self, integrity: &Integrity) -> Result<Record> {
        let payload = self.encode();
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(too_many());
        }
        Ok(Record { topic: Topic::Package, key: package_key(integrity), payload })
    }

    /// Writes the payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let facts = &self.facts;
        let flags = [
            facts.has_manifest,
            facts.has_binding_gyp,
            facts.is_gyp_off,
            facts.has_shrinkwrap,
            facts.has_node_modules,
        ];
        let flags = flags.iter().rev().fold(0_u16, |flags, flag| flags << 1 | u16::from(*flag));
        let mut out = vec![PAYLOAD_VERSION];
        out.extend_from_slice(self.tree.as_bytes());
        out.extend_from_slice(&flags.to_le_bytes());
        // A layout has at most a million files.
        out.extend_from_slice(&(facts.files as u32).to_le_bytes());
        out.extend_from_slice(&facts.bytes.to_le_bytes());
        out.extend_from_slice(&facts.packed_bytes.to_le_bytes());
        let count = |out: &mut Vec<u8>, length: usize| {
            // What is longer is over the largest payload, which `record` refuses.
            out.extend_from_slice(&(length as u32).to_le_bytes());
        };
        let text = |out: &mut Vec<u8>, text: &str| {
            count(out, text.len());
            out.extend_from_slice(text.as_bytes());
        };
        text(&mut out, &facts.name);
        text(&mut out, &facts.version);
        count(&mut out, facts.bins.len());
        for bin in &facts.bins {
            text(&mut out, &bin.name);
            text(&mut out, &bin.target);
        }
        for list in [&facts.scripts, &facts.bundled] {
            count(&mut out, list.len());
            list.iter().for_each(|name| text(&mut out, name));
        }
        count(&mut out, facts.originals.len());
        for original in &facts.originals {
            text(&mut out, &original.path);
            out.extend_from_slice(&original.permissions.to_le_bytes());
            out.extend_from_slice(&original.size.to_le_bytes());
            out.extend_from_slice(original.hash.as_bytes());
        }
        out
    }

    /// Reads a payload; `None` when it is not one of this version, whole.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let mut reader = Reader(payload);
        if reader.take::<1>()? != [PAYLOAD_VERSION] {
            return None;
        }
        let tree = TreeHash::from_bytes(reader.take()?);
        let flags = u16::from_le_bytes(reader.take()?);
        if flags >= 1 << 5 {
            return None;
        }
        let mut facts = PackageFacts {
            has_manifest: flags & 1 != 0,
            has_binding_gyp: flags & 2 != 0,
            is_gyp_off: flags & 4 != 0,
            has_shrinkwrap: flags & 8 != 0,
            has_node_modules: flags & 16 != 0,
            files: u32::from_le_bytes(reader.take()?).into(),
            bytes: u64::from_le_bytes(reader.take()?),
            packed_bytes: u64::from_le_bytes(reader.take()?),
            name: reader.text()?,
            version: reader.text()?,
            ..PackageFacts::default()
        };
        for _ in 0..reader.count()? {
            facts.bins.push(Bin { name: reader.text()?, target: reader.text()? });
        }
        for list in [&mut facts.scripts, &mut facts.bundled] {
            for _ in 0..reader.count()? {
                list.push(reader.text()?);
            }
        }
        for _ in 0..reader.count()? {
            facts.originals.push(Original {
                path: reader.text()?,
                permissions: u16::from_le_bytes(reader.take()?),
                size: u64::from_le_bytes(reader.take()?),
                hash: BlobHash::from_bytes(reader.take()?),
            });
        }
        reader.0.is_empty().then_some(Self { tree, facts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Known {
        let facts = PackageFacts {
            has_manifest: true,
            has_shrinkwrap: true,
            files: 7,
            bytes: 1 << 40,
            packed_bytes: 9,
            name: "n".into(),
            version: "1.2.3".into(),
            bins: vec![Bin { name: "a".into(), target: "b/c".into() }],
            scripts: vec!["install".into(), "test".into()],
            bundled: vec!["@s/x".into()],
            originals: vec![Original {
                path: "b/c".into(),
                permissions: 0o666,
                size: 5,
                hash: BlobHash::from_bytes([4; 32]),
            }],
            ..PackageFacts::default()
        };
        Known { tree: TreeHash::from_bytes([3; 32]), facts }
    }

    #[test]
    fn payloads_round_trip_and_damage_is_never_a_panic() {
        let payload = known().encode();
        assert_eq!(Known::decode(&payload), Some(known()));
        for length in 0..payload.len() {
            assert_eq!(Known::decode(&payload[..length]), None, "{length}");
        }
        for at in 0..payload.len() {
            let mut flipped = payload.clone();
            flipped[at] ^= 0x81;
            assert_ne!(Known::decode(&flipped), Some(known()), "{at}");
        }
        let longer = [payload, vec![0]].concat();
        assert_eq!(Known::decode(&longer), None);
    }

    #[test]
    fn keys_depend_on_what_must_match() {
        let key = |text: &str| package_key(&Integrity::parse(text).unwrap());
        let (one, two) = ("sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk=", "sha1-Yc6a6bi/CHu5bqrfdpo7Q0WQ4ls=");
        assert_ne!(key(one), key(two));
        assert_eq!(key(&format!("{one} {two}")), key(&format!("{two} {one}  {two}")));
        assert_ne!(key(&format!("{one} {two}")), key(one));
    }
}
