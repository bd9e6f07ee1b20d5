//! The errors of the store: what was being done, to which object, and why it failed.

use std::io;
use std::path::{Path, PathBuf};

use rift_tree::builder::BuildError;
use rift_tree::{BlobHash, FormatError};

/// What the store's functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system refused an operation.
    #[error("could not {action} `{}`", path.display())]
    Io {
        /// What was being done, as a verb.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A store file breaks its format.
    #[error("`{}` is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How.
        source: FormatError,
    },
    /// A store file was written by another version of rift.
    #[error(
        "the store `{}` has format {found}, but this rift reads format {readable}", path.display()
    )]
    Version {
        /// The store.
        path: PathBuf,
        /// Its version.
        found: String,
        /// The version this code reads.
        readable: u32,
    },
    /// Bytes do not have the hash that names them.
    #[error("`{}`: bytes of {expected} hash to {actual}", path.display())]
    HashMismatch {
        /// The name.
        expected: BlobHash,
        /// What the bytes hash to.
        actual: BlobHash,
        /// Where they are.
        path: PathBuf,
    },
    /// The store does not have a blob that it should.
    #[error("the store lacks blob {hash}")]
    MissingBlob {
        /// Its name.
        hash: BlobHash,
    },
    /// Others could change the store, or what leads to it.
    #[error("`{}` is not a safe place for a store: {reason}", path.display())]
    UnsafePlace {
        /// The offending folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Entries that no tree can hold.
    #[error("could not build a tree of `{}`", path.display())]
    Build {
        /// What was being read.
        path: PathBuf,
        /// Why not.
        source: BuildError,
    },
    /// A file that a tree can't hold, or that keeps changing while it is read.
    #[error("`{}`: {reason}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: &'static str,
    },
    /// A store is not to grow over its size.
    #[error("the store `{}` has no room left: it may have {} MB", path.display(), max_bytes / 1_000_000)]
    Full {
        /// The store.
        path: PathBuf,
        /// Its size, in bytes.
        max_bytes: u64,
    },
    /// Content that was purged is not taken in again.
    #[error("{what} was purged from this store")]
    Purged {
        /// The content.
        what: String,
    },
}

impl Error {
    /// Returns a closure that turns a system error into an [`Error::Io`].
    pub fn io<'p, E: Into<io::Error>>(
        action: &'static str,
        path: &'p Path,
    ) -> impl FnOnce(E) -> Self + use<'p, E> {
        move |source| Self::Io { action, path: path.to_owned(), source: source.into() }
    }

    /// Returns a closure that turns a format error into an [`Error::Damaged`].
    pub(crate) fn damaged(path: &Path) -> impl FnOnce(FormatError) -> Self + use<'_> {
        move |source| Self::Damaged { path: path.to_owned(), source }
    }

    /// Returns the errno(3) that describes the failure best.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::Io { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
            Self::UnsafePlace { .. } => libc::EACCES,
            Self::Full { .. } => libc::ENOSPC,
            Self::Refused { .. } | Self::Build { .. } | Self::Version { .. } => libc::EINVAL,
            Self::Damaged { .. }
            | Self::HashMismatch { .. }
            | Self::MissingBlob { .. }
            | Self::Purged { .. } => libc::EIO,
        }
    }
}

/// Tells whether a disk is full, or a user's part of it.
pub(crate) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}
