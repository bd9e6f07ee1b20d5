//! Subresource integrity as npm's lockfiles write it: `sha512-…`, several hashes, the strongest counts.

use std::fmt;

use sha1::Sha1;
use sha2::{Digest, Sha256, Sha384, Sha512};

use super::error::{PackageError, Result};

/// A hash function, weakest first: the order is npm's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Algorithm {
    /// 20 bytes; what registries gave before 2017.
    Sha1 = 1,
    /// 32 bytes.
    Sha256 = 2,
    /// 48 bytes.
    Sha384 = 3,
    /// 64 bytes; what registries give.
    Sha512 = 4,
}

impl Algorithm {
    fn from_name(name: &str) -> Option<Self> {
        [Self::Sha1, Self::Sha256, Self::Sha384, Self::Sha512]
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
    }

    /// Returns the name that a lockfile uses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    fn digest_bytes(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }
}

/// The hashes of which a tarball must have one: those of the strongest algorithm that was named.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Integrity {
    algorithm: Algorithm,
    /// Sorted, at least one.
    digests: Vec<Vec<u8>>,
}

impl Integrity {
    /// Parses what a lockfile says.
    ///
    /// # Errors
    /// [`PackageError::UnknownIntegrity`] when the strongest algorithm is not one of ours, or no
    /// digest of it is well formed: npm would then refuse or check something else.
    pub fn parse(text: &str) -> Result<Self> {
        let unknown = || PackageError::UnknownIntegrity(text.to_owned());
        let mut found: Option<Self> = None;
        for word in text.split_whitespace() {
            let Some((name, rest)) = word.split_once('-') else {
                continue;
            };
            let digest = rest.split_once('?').map_or(rest, |(digest, _options)| digest);
            // md5 and whirlpool are weaker than all of ours; what else there is, is not.
            let Some(algorithm) = Algorithm::from_name(name) else {
                match name {
                    "md5" | "whirlpool" => continue,
                    _ => return Err(unknown()),
                }
            };
            let digest = base64_decode(digest).filter(|it| it.len() == algorithm.digest_bytes());
            let stronger = found.as_ref().is_none_or(|found| algorithm > found.algorithm);
            if stronger {
                found = Some(Self { algorithm, digests: Vec::new() });
            }
            if let (Some(found), Some(digest)) = (&mut found, digest)
                && found.algorithm == algorithm
            {
                found.digests.push(digest);
            }
        }
        let mut found = found.filter(|found| !found.digests.is_empty()).ok_or_else(unknown)?;
        found.digests.sort();
        found.digests.dedup();
        Ok(found)
    }

    /// Returns the algorithm that counts.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Returns the digests of which one must match.
    pub fn digests(&self) -> impl Iterator<Item = &[u8]> {
        self.digests.iter().map(Vec::as_slice)
    }

    /// Starts hashing.
    #[must_use]
    pub fn hasher(&self) -> Hasher {
        match self.algorithm {
            Algorithm::Sha1 => Hasher::Sha1(Sha1::new()),
            Algorithm::Sha256 => Hasher::Sha256(Sha256::new()),
            Algorithm::Sha384 => Hasher::Sha384(Sha384::new()),
            Algorithm::Sha512 => Hasher::Sha512(Sha512::new()),
        }
    }

    /// Checks what `hasher`, which saw `bytes` bytes, found.
    ///
    /// # Errors
    /// [`PackageError::Integrity`] when it is none of the digests.
    pub fn check(&self, hasher: Hasher, bytes: u64) -> Result<()> {
        let actual = hasher.finish();
        if self.digests.contains(&actual) {
            return Ok(());
        }
        let actual = Self { algorithm: self.algorithm, digests: vec![actual] };
        Err(PackageError::Integrity {
            expected: self.to_string(),
            actual: actual.to_string(),
            bytes,
        })
    }
}

impl fmt::Display for Integrity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, digest) in self.digests.iter().enumerate() {
            let space = if number == 0 { "" } else { " " };
            write!(f, "{space}{}-{}", self.algorithm.name(), base64_encode(digest))?;
        }
        Ok(())
    }
}

/// A hash of one of the algorithms, in progress.
#[derive(Debug, Clone)]
pub enum Hasher {
    /// SHA-1.
    Sha1(Sha1),
    /// SHA-256.
    Sha256(Sha256),
    /// SHA-384.
    Sha384(Sha384),
    /// SHA-512.
    Sha512(Sha512),
}

impl Hasher {
    /// Takes in bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha1(hasher) => hasher.update(bytes),
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha384(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    fn finish(self) -> Vec<u8> {
        match self {
            Self::Sha1(hasher) => hasher.finalize().to_vec(),
            Self::Sha256(hasher) => hasher.finalize().to_vec(),
            Self::Sha384(hasher) => hasher.finalize().to_vec(),
            Self::Sha512(hasher) => hasher.finalize().to_vec(),
        }
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Returns the base64 of `bytes`, padded.
#[must_use]
pub fn base64_encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let at = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let word = at(0) << 16 | at(1) << 8 | at(2);
        for digit in 0..4 {
            let symbol = ALPHABET[(word >> (18 - 6 * digit) & 63) as usize];
            text.push(if digit > chunk.len() as u32 { '=' } else { char::from(symbol) });
        }
    }
    text
}

/// Decodes padded base64 in its one canonical form.
#[must_use]
pub fn base64_decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut word, mut bits) = (0_u32, 0);
    for symbol in text.bytes().filter(|symbol| *symbol != b'=') {
        let value = ALPHABET.iter().position(|it| *it == symbol)?;
        // Below 64.
        word = word << 6 | value as u32;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            // Deliberate truncation: the byte that is complete.
            bytes.push((word >> bits) as u8);
        }
    }
    (base64_encode(&bytes) == text).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(algorithm: &str, bytes: &[u8]) -> String {
        let digest = match algorithm {
            "sha1" => Sha1::digest(bytes).to_vec(),
            "sha256" => Sha256::digest(bytes).to_vec(),
            "sha384" => Sha384::digest(bytes).to_vec(),
            _ => Sha512::digest(bytes).to_vec(),
        };
        format!("{algorithm}-{}", base64_encode(&digest))
    }

    fn check(text: &str, bytes: &[u8]) -> Result<()> {
        let integrity = Integrity::parse(text)?;
        let mut hasher = integrity.hasher();
        hasher.update(bytes);
        integrity.check(hasher, bytes.len() as u64)
    }

    #[test]
    fn the_strongest_algorithm_counts_and_one_of_its_digests_must_match() {
        for algorithm in ["sha1", "sha256", "sha384", "sha512"] {
            check(&of(algorithm, b"abc"), b"abc").unwrap();
            check(&of(algorithm, b"abc"), b"abd").unwrap_err();
        }
        let mixed = format!("{} {}", of("sha1", b"other"), of("sha512", b"abc"));
        check(&mixed, b"abc").unwrap();
        check(&mixed, b"other").unwrap_err();
        let several = format!("{}?opt {}", of("sha512", b"other"), of("sha512", b"abc"));
        check(&several, b"abc").unwrap();
        check(&several, b"other").unwrap();
        let weak = format!("md5-AAAA {}", of("sha1", b"abc"));
        check(&weak, b"abc").unwrap();
    }

    #[test]
    fn what_cannot_be_checked_is_refused() {
        for bad in
            ["", "sha512", "sha512-", "sha512-!!!!", "md5-AAAA", "sha3-512-AAAA", "sha1-AAAA"]
        {
            assert!(
                matches!(Integrity::parse(bad), Err(PackageError::UnknownIntegrity(_))),
                "{bad}"
            );
        }
        // A stronger hash that is not one of ours may not be passed over.
        assert!(Integrity::parse(&format!("{} blake9-AAAA", of("sha512", b"abc"))).is_err());
    }

    #[test]
    fn base64_has_one_form() {
        for length in 0..70 {
            let bytes: Vec<u8> = (0..length).map(|byte: u8| byte.wrapping_mul(37)).collect();
            assert_eq!(base64_decode(&base64_encode(&bytes)), Some(bytes));
        }
        for bad in ["A", "AA", "AB==", "AAA", "====", "AA=A"] {
            assert_eq!(base64_decode(bad), None, "{bad}");
        }
    }
}
