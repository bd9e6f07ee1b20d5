//! Why a package could not be had, told apart by what may be done about it.

use std::io;

/// What this module's functions return.
pub type Result<T, E = PackageError> = std::result::Result<T, E>;

/// A package that could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackageError {
    /// The bytes are not those that the lockfile names. Another copy may be whole.
    #[error("integrity check failed: wanted {expected}, got {actual} ({bytes} bytes)")]
    Integrity {
        /// What the lockfile says.
        expected: String,
        /// What the bytes are.
        actual: String,
        /// How many bytes there were.
        bytes: u64,
    },
    /// The bytes are what was published, and no package.
    #[error("the tarball is corrupt: {0}")]
    Corrupt(&'static str),
    /// The tarball would become more than any package is.
    #[error("the tarball is refused: {0}")]
    TooLarge(&'static str),
    /// The lockfile's `integrity` can't be checked.
    #[error("the integrity `{0}` names no hash that can be checked")]
    UnknownIntegrity(String),
    /// Where the bytes come from failed.
    #[error("could not read the tarball")]
    Read(#[source] io::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] rift_cas::Error),
    /// No tree can hold the files.
    #[error("its files make no tree")]
    Tree(#[from] rift_tree::builder::BuildError),
}

impl PackageError {
    /// Tells whether another copy of the same tarball may be whole.
    #[must_use]
    pub fn is_about_this_copy(&self) -> bool {
        matches!(self, Self::Integrity { .. } | Self::Read(_))
    }
}
