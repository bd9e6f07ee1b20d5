//! The one error of the readers.

use core::fmt;

/// Bytes that are not what their format demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FormatError {
    /// The file ends before the field at `offset`, which needs `wanted` bytes in all.
    Truncated {
        /// Where the missing bytes should begin.
        offset: u64,
        /// How long the file would have to be.
        wanted: u64,
    },
    /// The first bytes are not those of this kind of file.
    Magic,
    /// The file was written by another version of the format.
    Version {
        /// The version this code reads.
        readable: u32,
        /// The version the file names.
        found: u32,
    },
    /// A checksum inside the file does not match the bytes it covers.
    Checksum {
        /// Which part of the file.
        part: &'static str,
    },
    /// A rule of the format is broken.
    Rule {
        /// The rule, as a sentence about what must hold.
        rule: &'static str,
        /// The entry or record that breaks it.
        index: u32,
    },
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { offset, wanted } => {
                write!(f, "truncated at byte {offset} (wanted {wanted} bytes in all)")
            }
            Self::Magic => write!(f, "not a file of this kind (wrong magic)"),
            Self::Version { readable, found } => {
                write!(f, "format version {found}, but this rift reads version {readable}")
            }
            Self::Checksum { part } => write!(f, "the checksum of its {part} does not match"),
            Self::Rule { rule, index } => write!(f, "entry {index}: {rule}"),
        }
    }
}

impl core::error::Error for FormatError {}
