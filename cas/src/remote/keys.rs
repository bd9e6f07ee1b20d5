//! Keys that sign refs, and the list of those whose signatures count here: ed25519, see RFC 8032.
//!
//! ```text
//! a public key, as people pass it on     NAME:HEX        (HEX: 64 digits)
//! the file of a private key              rift private key 1 NAME:HEX\n
//! the file of trusted keys               one public key a line; empty lines and `#` are passed over
//! ```
//!
//! A name is for people: only the digits count. A private key is never shown, not even for debugging.

use std::fmt;

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use rift_tree::TreeHash;

const PREFIX: &str = "rift private key 1 ";
/// How many letters the name of a key has at most.
const NAME_MAX: usize = 64;

/// Text that is not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key is NAME:HEX, a name of letters, digits and ._@- and 64 hexadecimal digits")]
pub struct ParseKeyError;

/// Returns 32 bytes that 64 lower-case hexadecimal digits stand for.
fn from_hex(digits: &str) -> Option<[u8; 32]> {
    TreeHash::from_hex(digits.as_bytes()).ok().map(|bytes| *bytes.as_bytes())
}

fn is_name(name: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"._@-".contains(&byte);
    (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(is_letter)
}

/// The public half of a key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Reads 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`ParseKeyError`] for any other text, and for digits that are no point of the curve.
    pub fn from_hex(digits: &str) -> Result<Self, ParseKeyError> {
        let bytes = from_hex(digits).ok_or(ParseKeyError)?;
        VerifyingKey::from_bytes(&bytes).map_err(|_| ParseKeyError)?;
        Ok(Self(bytes))
    }

    /// Tells whether this key signed a message.
    #[must_use]
    pub fn has_signed(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        let signature = Signature::from_bytes(signature);
        // Strict: refuses keys of small order, for which many messages fit one signature.
        VerifyingKey::from_bytes(&self.0)
            .is_ok_and(|key| key.verify_strict(message, &signature).is_ok())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// A public key with the name that people call it by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedKey {
    /// The name.
    pub name: String,
    /// The key.
    pub key: PublicKey,
}

impl NamedKey {
    /// Reads `NAME:HEX`.
    ///
    /// # Errors
    /// [`ParseKeyError`] for any other text.
    pub fn parse(text: &str) -> Result<Self, ParseKeyError> {
        let (name, digits) = text.split_once(':').ok_or(ParseKeyError)?;
        is_name(name).then_some(()).ok_or(ParseKeyError)?;
        Ok(Self { name: name.to_owned(), key: PublicKey::from_hex(digits)? })
    }
}

impl fmt::Display for NamedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.key)
    }
}

/// The private half of a key.
pub struct PrivateKey {
    name: String,
    key: SigningKey,
}

impl PrivateKey {
    /// Makes a key of 32 bytes that nobody can guess.
    ///
    /// # Errors
    /// [`ParseKeyError`] for a name that can't be one.
    pub fn new(name: &str, random: &[u8; 32]) -> Result<Self, ParseKeyError> {
        is_name(name).then_some(()).ok_or(ParseKeyError)?;
        Ok(Self { name: name.to_owned(), key: SigningKey::from_bytes(random) })
    }

    /// Reads the text of a private key's file.
    ///
    /// # Errors
    /// [`ParseKeyError`] for any other text.
    pub fn parse(text: &str) -> Result<Self, ParseKeyError> {
        let rest = text.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix('\n'));
        let (name, digits) = rest.and_then(|rest| rest.split_once(':')).ok_or(ParseKeyError)?;
        Self::new(name, &from_hex(digits).ok_or(ParseKeyError)?)
    }

    /// Returns the text of the private key's file.
    #[must_use]
    pub fn to_file(&self) -> String {
        format!("{PREFIX}{}:{}\n", self.name, TreeHash::from_bytes(self.key.to_bytes()))
    }

    /// Returns the public half.
    #[must_use]
    pub fn public(&self) -> NamedKey {
        NamedKey { name: self.name.clone(), key: PublicKey(self.key.verifying_key().to_bytes()) }
    }

    /// Signs a message.
    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(message).to_bytes()
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.name)
    }
}

/// The keys whose signatures count.
#[derive(Debug, Clone, Default)]
pub struct TrustedKeys(Vec<NamedKey>);

impl TrustedKeys {
    /// Reads the text of a file of trusted keys.
    ///
    /// # Errors
    /// The number of the first line that is no key, from 1.
    pub fn parse(text: &str) -> Result<Self, usize> {
        let mut keys = Self::default();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if !line.is_empty() && !line.starts_with('#') {
                keys.add(NamedKey::parse(line).map_err(|_| number + 1)?);
            }
        }
        Ok(keys)
    }

    /// Trusts a key; tells whether it was not trusted before.
    pub fn add(&mut self, key: NamedKey) -> bool {
        let is_new = self.get(&key.key).is_none();
        if is_new {
            self.0.push(key);
        }
        is_new
    }

    /// Returns the key with its name, if it is trusted.
    #[must_use]
    pub fn get(&self, key: &PublicKey) -> Option<&NamedKey> {
        self.0.iter().find(|known| known.key == *key)
    }

    /// Returns all keys, in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = &NamedKey> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_and_written_back_and_never_shown() {
        let key = PrivateKey::new("ci@main", &[7; 32]).unwrap();
        let again = PrivateKey::parse(&key.to_file()).unwrap();
        assert_eq!(again.public(), key.public());
        assert_eq!(NamedKey::parse(&key.public().to_string()), Ok(key.public()));
        assert_eq!(format!("{key:?}"), "PrivateKey(ci@main)");
        for bad in ["", "a", "a:00", ":00", "a b:00"] {
            assert!(NamedKey::parse(bad).is_err() && PrivateKey::parse(bad).is_err(), "{bad}");
        }
        assert!(PrivateKey::new("a\nb", &[7; 32]).is_err());
    }

    #[test]
    fn only_the_key_that_signed_has_signed() {
        let [one, two] = [1, 2].map(|byte| PrivateKey::new("a", &[byte; 32]).unwrap());
        let signature = one.sign(b"message");
        assert!(one.public().key.has_signed(b"message", &signature));
        assert!(!one.public().key.has_signed(b"massage", &signature));
        assert!(!two.public().key.has_signed(b"message", &signature));
        let mut other = signature;
        other[3] ^= 1;
        assert!(!one.public().key.has_signed(b"message", &other));
    }

    #[test]
    fn trusted_keys_name_the_wrong_line() {
        let key = PrivateKey::new("a", &[1; 32]).unwrap().public();
        let keys = TrustedKeys::parse(&format!("# mine\n\n{key}\n{key}\n")).unwrap();
        assert_eq!(keys.iter().count(), 1);
        assert_eq!(keys.get(&key.key), Some(&key));
        assert_eq!(TrustedKeys::parse("# mine\nnonsense\n").unwrap_err(), 2);
    }
}
