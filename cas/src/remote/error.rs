//! The errors of remotes: what was asked of which object, and why it failed.

use std::time::Duration;

use rift_tree::FormatError;

use super::keys::PublicKey;

/// What the functions of remotes return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of a remote, or of the store while it talked to one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An address that names no remote.
    #[error("`{address}` can't be a remote: {reason}")]
    Address {
        /// The address, without a login.
        address: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A remote that can only be read was to be written to.
    #[error("the remote {address} can only be read")]
    ReadOnly {
        /// The remote.
        address: String,
    },
    /// Something on this side that has to be there before the first request.
    #[error("could not {action}: {reason}")]
    Setup {
        /// What was being done, as a verb.
        action: &'static str,
        /// Why not.
        reason: String,
    },
    /// The remote did not do what it was asked to.
    #[error("could not {action} `{object}`: {reason}")]
    Request {
        /// What was asked, as a verb.
        action: &'static str,
        /// Of which object.
        object: String,
        /// Why not, in words that hold no address and no credential.
        reason: String,
        /// Whether access was denied.
        is_denied: bool,
    },
    /// The remote was too slow.
    #[error("could not {action} `{object}`: the remote took longer than {} s", limit.as_secs())]
    Slow {
        /// What was asked, as a verb.
        action: &'static str,
        /// Of which object.
        object: String,
        /// How long was waited.
        limit: Duration,
    },
    /// The time was over that all requests together had.
    #[error("not done in the {} s that it was to take", limit.as_secs())]
    OutOfTime {
        /// How long that was.
        limit: Duration,
    },
    /// The remote does not have an object that it should.
    #[error("the remote lacks `{object}`")]
    Missing {
        /// The object.
        object: String,
    },
    /// The remote does not have a ref.
    #[error("the remote has no ref `{name}`")]
    NoRef {
        /// The ref.
        name: String,
    },
    /// The remote sent something else than was asked for.
    #[error("the remote sent a wrong `{object}`: {reason}")]
    Wrong {
        /// The object.
        object: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A signed ref breaks its format.
    #[error("the remote's ref `{name}` is not a signed ref")]
    RefFormat {
        /// The ref.
        name: String,
        /// How.
        source: FormatError,
    },
    /// A ref is signed by a key that is not trusted here.
    #[error("the ref `{name}` is signed by the key {key}, which is not trusted here")]
    Untrusted {
        /// The ref.
        name: String,
        /// The key.
        key: PublicKey,
    },
    /// The signature of a ref does not fit it.
    #[error("the ref `{name}` was changed after the key {key} signed it")]
    Signature {
        /// The ref.
        name: String,
        /// The key that it names.
        key: PublicKey,
    },
    /// Somebody else changed a ref meanwhile.
    #[error("somebody else changed the ref `{name}` meanwhile; nothing was replaced")]
    Changed {
        /// The ref.
        name: String,
    },
    /// The remote has lost what it denied, or somebody has put an older deny-list there.
    #[error(
        "the remote shows {found}, which lacks what this store has seen: number {seen}, with {entries} entries"
    )]
    Rollback {
        /// What it shows.
        found: String,
        /// The serial number of the list that was seen.
        seen: u64,
        /// How many entries that has.
        entries: usize,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] crate::Error),
}

impl Error {
    /// Returns the errno(3) that describes the failure best.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::Address { .. } | Self::Setup { .. } => libc::EINVAL,
            Self::ReadOnly { .. } => libc::EROFS,
            Self::Request { is_denied: true, .. } => libc::EACCES,
            Self::Slow { .. } | Self::OutOfTime { .. } => libc::ETIMEDOUT,
            Self::NoRef { .. } | Self::Missing { .. } => libc::ENOENT,
            Self::Untrusted { .. } | Self::Signature { .. } | Self::Rollback { .. } => libc::EPERM,
            Self::Changed { .. } => libc::EAGAIN,
            Self::Request { .. } | Self::Wrong { .. } | Self::RefFormat { .. } => libc::EIO,
            Self::Store(error) => error.errno(),
        }
    }

    /// Tells whether an object is not to be believed, or is none: who could write it may have meant to do harm.
    pub(super) fn is_of_stranger(&self) -> bool {
        matches!(
            self,
            Self::Untrusted { .. }
                | Self::Signature { .. }
                | Self::RefFormat { .. }
                | Self::Wrong { .. }
        )
    }

    /// Tells whether another attempt may end otherwise.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Request { is_denied, .. } => !is_denied,
            Self::Slow { .. } | Self::Wrong { .. } => true,
            _ => false,
        }
    }

    /// Tells whether a server refused to send a part of an object.
    pub(crate) fn is_of_ranges(&self) -> bool {
        // `object_store` has no kind for it.
        matches!(self, Self::Request { reason, .. } if reason.starts_with("Range request not supported"))
    }

    /// Returns what a failed request means.
    pub(crate) fn of_request(
        action: &'static str,
        object: &str,
        error: &object_store::Error,
    ) -> Self {
        use object_store::Error as E;
        let object = object.to_owned();
        let is_denied = matches!(error, E::PermissionDenied { .. } | E::Unauthenticated { .. });
        match error {
            // Objects are made where there are none.
            E::NotFound { .. } if action == "write" => Self::Request {
                action,
                object,
                reason: "there is no such bucket, container or folder".to_owned(),
                is_denied: false,
            },
            E::NotFound { .. } => Self::Missing { object },
            _ => Self::Request { action, object, reason: innermost(error), is_denied },
        }
    }
}

/// Returns what caused an error in the first place, which names no address, on one line.
pub(super) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let text = cause.to_string();
    let line: Vec<&str> = text.split_whitespace().collect();
    line.join(" ").chars().take(240).collect()
}
