//! Opens remotes as the settings and the environment have them.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use rift_cas::remote::address::Address;
use rift_cas::remote::{Limits, Options, Remote, Result};

use crate::env_vars;

/// What a run does not wait longer for than this is done without.
pub(crate) const OF_RUNS: Limits =
    Limits { answer: Duration::from_secs(10), bytes_per_second: 256 << 10, retries: 2 };

/// Prepares a remote for requests; the folder of one may be made where it is missing.
///
/// # Errors
/// As [`Remote::open`].
pub(crate) fn open(address: &Address, makes_folder: bool, limits: Limits) -> Result<Remote> {
    Remote::open(address, &Options { makes_folder, ..options(limits) })
}

/// What the names of variables begin with that say how remotes are reached, and as whom. A key is for who sends.
const OF_REMOTES: [&str; 9] = [
    "AWS_",
    "AZURE_",
    "GOOGLE_",
    "HOME",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    env_vars::SSL_CERT_FILE,
];

/// Returns the variables that a process needs which fetches from remotes.
pub(crate) fn environment() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| {
        let name = name.to_string_lossy().to_ascii_uppercase();
        OF_REMOTES.iter().any(|start| name.starts_with(start))
    })
}

/// Returns how remotes are reached.
pub(crate) fn options(limits: Limits) -> Options {
    let certificates = env_vars::get(env_vars::SSL_CERT_FILE).map(PathBuf::from);
    let certificates = certificates.into_iter().collect();
    Options { certificates, limits, makes_folder: false }
}
