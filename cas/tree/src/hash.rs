//! Hash newtypes: a blob's, a tree's and a pack's name can't be mixed up.

use core::fmt;

/// Text that is not 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseHashError;

impl fmt::Display for ParseHashError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a hash is 64 hexadecimal digits")
    }
}

impl core::error::Error for ParseHashError {}

fn digit(byte: u8) -> Result<u8, ParseHashError> {
    match byte {
        b'0'..=b'9' => Ok(byte - b'0'),
        b'a'..=b'f' => Ok(byte - b'a' + 10),
        _ => Err(ParseHashError),
    }
}

fn parse(text: &[u8]) -> Result<[u8; 32], ParseHashError> {
    let (pairs, []) = text.as_chunks::<2>() else {
        return Err(ParseHashError);
    };
    let mut bytes = [0; 32];
    if pairs.len() != bytes.len() {
        return Err(ParseHashError);
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Ok(bytes)
}

macro_rules! hash_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Wraps 32 bytes that are such a hash.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// Returns the 32 bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// Returns the 64 lower-case hexadecimal digits, ASCII.
            #[must_use]
            pub fn to_hex(&self) -> [u8; 64] {
                const DIGITS: &[u8; 16] = b"0123456789abcdef";
                let mut text = [0; 64];
                for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
                    pair[0] = DIGITS[usize::from(byte >> 4)];
                    pair[1] = DIGITS[usize::from(byte & 15)];
                }
                text
            }

            /// Parses 64 lower-case hexadecimal digits.
            ///
            /// # Errors
            /// [`ParseHashError`] for any other text.
            pub fn from_hex(text: &[u8]) -> Result<Self, ParseHashError> {
                parse(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                for byte in self.0 {
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

hash_type! {
    /// The BLAKE3 of a blob's bytes.
    BlobHash
}
hash_type! {
    /// The BLAKE3 of a canonical manifest's header, which holds the BLAKE3 of every section.
    TreeHash
}
hash_type! {
    /// The BLAKE3 of a pack's index, which holds the BLAKE3 of every entry.
    PackId
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn hex_round_trip_and_refusals() {
        let hash = BlobHash::from_bytes(core::array::from_fn(|i| (i * 7) as u8));
        assert_eq!(BlobHash::from_hex(&hash.to_hex()), Ok(hash));
        assert_eq!(hash.to_string().as_bytes(), hash.to_hex());
        for bad in ["", "00", &"0".repeat(63), &"0".repeat(65), &"G".repeat(64), &"A".repeat(64)] {
            assert_eq!(TreeHash::from_hex(bad.as_bytes()), Err(ParseHashError), "{bad}");
        }
    }
}
