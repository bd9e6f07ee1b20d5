//! Opens remotes as the settings and the environment have them, and tells what of them a run may use.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use rift_cas::remote::address::Address;
use rift_cas::remote::aws::Files;
use rift_cas::remote::{Limits, Options, Remote};

use crate::config::Config;
use crate::{ci, env_vars, keys};

/// What a run does not wait longer for than this is done without.
pub(crate) const OF_RUNS: Limits =
    Limits { answer: Duration::from_secs(10), bytes_per_second: 256 << 10, retries: 2, all: None };

/// What the names of variables begin with that say how remotes are reached, and as whom. A key is for who sends.
const OF_REMOTES: [&str; 12] = [
    "AWS_",
    "AZURE_",
    "AZURITE_BLOB_STORAGE_URL",
    "IDENTITY_",
    "GOOGLE_",
    "SERVICE_ACCOUNT",
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
    Options { certificates, limits, makes_folder: false, aws: aws_files() }
}

/// Returns where AWS's profiles are, and which one is asked for.
fn aws_files() -> Files {
    let home = env_vars::get(env_vars::HOME).map(PathBuf::from);
    let file = |variable: &str, name: &str| {
        let named = env_vars::get(variable).map(PathBuf::from);
        named.or_else(|| Some(home.as_ref()?.join(".aws").join(name)))
    };
    let portal = env_vars::get(env_vars::AWS_ENDPOINT_URL_SSO);
    let ignores = env_vars::get(env_vars::AWS_IGNORE_CONFIGURED_ENDPOINT_URLS);
    Files {
        profile: env_vars::get(env_vars::AWS_PROFILE)
            .map(|name| name.to_string_lossy().into_owned()),
        config: file(env_vars::AWS_CONFIG_FILE, "config"),
        credentials: file(env_vars::AWS_SHARED_CREDENTIALS_FILE, "credentials"),
        tokens: home.as_ref().map(|home| home.join(".aws/sso/cache")),
        portal: portal.map(|address| address.to_string_lossy().into_owned()),
        ignores_endpoints: ignores.is_some_and(|value| value.eq_ignore_ascii_case("true")),
    }
}

/// Prepares a remote for requests: where the settings name a namespace, that part of it, which reads the rest as well. The folder of a
/// remote may be made where it is missing.
///
/// # Errors
/// As [`Remote::open`], or keys that can't be read.
pub(crate) fn open(
    address: &Address,
    makes_folder: bool,
    limits: Limits,
    config: &Config,
) -> anyhow::Result<Remote> {
    let remote = Remote::open(address, &Options { makes_folder, ..options(limits) })?;
    Ok(match config.namespace() {
        None => remote,
        Some(name) => remote.in_namespace(name, keys::trusted_beside_own()?)?,
    })
}

/// Returns the parts of a remote that are read, in their order; the first is the one that is written to.
pub(crate) fn parts(address: &Address, config: &Config) -> anyhow::Result<Vec<Address>> {
    let own = config.namespace().map(|name| address.namespace(name)).transpose()?;
    Ok(own.into_iter().chain([address.clone()]).collect())
}

/// Returns the remote that results go to: the first that can be written.
pub(crate) fn written(config: &Config) -> Option<&Address> {
    config.remotes().iter().map(|named| &named.address).find(|address| !address.is_read_only())
}

/// Tells why this run writes to no remote, whatever keys it has.
pub(crate) fn refusal(config: &Config) -> Option<&'static str> {
    let is_refused = config.namespace().is_none() && ci::is_untrusted();
    is_refused.then_some("a fork's pull request writes to its namespace only, and none is set")
}
