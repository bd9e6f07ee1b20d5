//! Opens remotes as the settings and the environment have them.

use std::path::PathBuf;

use rift_cas::remote::address::Address;
use rift_cas::remote::{Limits, Options, Remote, Result};

use crate::env_vars;

/// Prepares a remote for requests; the folder of one may be made where it is missing.
///
/// # Errors
/// As [`Remote::open`].
pub(crate) fn open(address: &Address, makes_folder: bool, limits: Limits) -> Result<Remote> {
    let certificates = env_vars::get(env_vars::SSL_CERT_FILE).map(PathBuf::from);
    let certificates = certificates.into_iter().collect();
    Remote::open(address, &Options { certificates, limits, makes_folder })
}
