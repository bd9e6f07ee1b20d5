//! One actionable hint, carried by an error to the place that prints it.
//!
//! Whoever knows what the user can do about a failure says so with [`Hint::hint`]; the outermost hint
//! of a chain is printed, see [`crate::ui`]. Failures of the store bring a hint of their own.

use std::fmt;

/// An error with a hint; it reads like the error itself, and stands for it in a chain.
#[derive(Debug)]
pub struct Hinted {
    source: anyhow::Error,
    hint: String,
}

impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl std::error::Error for Hinted {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.source()
    }
}

/// Adds a hint to a failure.
pub trait Hint<T> {
    /// Says what the user can do about the failure.
    ///
    /// # Errors
    /// The same failure.
    fn hint(self, hint: impl Into<String>) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> Hint<T> for Result<T, E> {
    fn hint(self, hint: impl Into<String>) -> anyhow::Result<T> {
        self.map_err(|error| Hinted { source: error.into(), hint: hint.into() }.into())
    }
}

/// Returns the hint of an error: the outermost that was given, else the store's.
#[must_use]
pub fn of(error: &anyhow::Error) -> Option<String> {
    let given = error.chain().find_map(|link| link.downcast_ref::<Hinted>());
    if let Some(hinted) = given {
        return Some(hinted.hint.clone());
    }
    if let Some(remote) = error.chain().find_map(|link| link.downcast_ref()) {
        return of_remote(remote);
    }
    error.chain().find_map(|link| link.downcast_ref::<rift_cas::Error>()).and_then(of_store)
}

/// Returns what can be done about a failure of a remote.
fn of_remote(error: &rift_cas::remote::Error) -> Option<String> {
    use rift_cas::remote::Error;
    let hint = match error {
        Error::Untrusted { key, .. } => {
            return Some(format!(
                "if you know whose key that is, `rift key trust NAME:{key}` trusts it"
            ));
        }
        Error::Signature { .. } | Error::RefFormat { .. } => {
            "do not use it; ask who may write to the remote, and push the ref again"
        }
        Error::Rollback { .. } => {
            "nothing of it is used: ask who put an older state there. Who has a trusted key writes the list again with `rift store purge HASH` of anything that was purged before"
        }
        Error::NoRef { .. } => "`rift push` brings one there; names are as `rift refs` shows them",
        Error::Changed { .. } => "`rift pull` brings what they pushed; a second push replaces it",
        Error::ReadOnly { .. } => {
            "push to an address that begins with s3://, gs://, az:// or file://"
        }
        Error::Request { is_denied: true, .. } => {
            "check the credentials in the environment, as the tools of that service read them"
        }
        Error::Request { .. } | Error::Slow { .. } => {
            "check the address, the network and HTTPS_PROXY; `rift remote check` tries them"
        }
        Error::Missing { .. } | Error::Wrong { .. } => {
            "the remote is damaged or lies: nothing of it was used; a push from a whole store mends what is missing"
        }
        Error::Store(error) => return of_store(error),
        _ => return None,
    };
    Some(hint.to_owned())
}

/// Returns what can be done about a failure of the store.
fn of_store(error: &rift_cas::Error) -> Option<String> {
    use rift_cas::Error;
    use std::io::ErrorKind;
    let hint = match error {
        Error::UnsafePlace { .. } => {
            "set RIFT_STORE to a folder that only you can write to, in folders that only you or root can"
        }
        Error::Version { .. } => {
            "use the rift that made it, or set RIFT_STORE to another folder: both can live side by side"
        }
        Error::Damaged { .. } | Error::HashMismatch { .. } | Error::MissingBlob { .. } => {
            "`rift store verify --repair` finds all damage and mends what can be fetched again"
        }
        Error::Io { source, .. } => match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                "make room on that file system, or make the store smaller: `rift store gc --max-size 1G`"
            }
            ErrorKind::ReadOnlyFilesystem => "choose a place that can be written to",
            ErrorKind::PermissionDenied => "check the owner and the mode of that path",
            _ => return None,
        },
        _ => return None,
    };
    Some(hint.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn the_outermost_hint_is_found_below_context() {
        let plain: anyhow::Result<()> = Err(anyhow::anyhow!("cause"));
        let error = plain.hint("inner").context("middle").hint("outer").context("top").unwrap_err();
        assert_eq!(of(&error).as_deref(), Some("outer"));
        assert_eq!(of(&anyhow::anyhow!("no hint")), None);
    }

    #[test]
    fn failures_of_the_store_bring_their_own() {
        let unsafe_place = rift_cas::Error::UnsafePlace { path: "/x".into(), reason: "anybody" };
        let error = anyhow::Error::new(unsafe_place).context("could not open the store");
        assert!(of(&error).unwrap().contains("RIFT_STORE"));
    }
}
