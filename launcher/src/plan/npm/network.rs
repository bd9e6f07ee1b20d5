//! From npm's configuration to what downloads need.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use super::env::Env;
use super::package::registry::{Auth, RegistrySettings, ReplaceHost};
use super::settings::{Credentials, Registries, Secret};
use super::tool::Tool;

/// Where npm's configuration names its defaults, in npm's folder.
const DEFINITIONS: &str = "node_modules/@npmcli/config/lib/definitions/definitions.js";

/// Returns the registry that npm uses when none is set, by reading its source; asks npm when that
/// has another form.
fn builtin_registry(tool: &Tool) -> Result<String> {
    let text = std::fs::read_to_string(tool.npm_dir.join(DEFINITIONS)).unwrap_or_default();
    let found = text
        .split_once("new Definition('registry',")
        .and_then(|(_, rest)| rest.split_once("default: '"))
        .and_then(|(_, rest)| rest.split_once('\''))
        .map(|(address, _)| address.to_owned());
    match found.filter(|address| address.starts_with("https://")) {
        Some(address) => Ok(address),
        None => tool.default_registry(),
    }
}

/// Returns the settings of downloads.
///
/// # Errors
/// When npm's own registry can't be found out.
pub(crate) fn settings(
    registries: &Registries,
    tool: &Tool,
    env: &Env,
) -> Result<RegistrySettings> {
    let builtin = builtin_registry(tool)?;
    let mut settings = RegistrySettings::new(registries.registry.as_deref().unwrap_or(&builtin));
    let reveal = |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.reveal().to_owned());
    settings.scopes = registries.scopes.clone();
    settings.auth =
        registries.credentials.iter().map(|(host, found)| (host.clone(), auth(found))).collect();
    settings.replace_host = match registries.replace_host.as_str() {
        "never" => ReplaceHost::Never,
        "always" => ReplaceHost::Always,
        "npmjs" => ReplaceHost::Host(builtin),
        host => ReplaceHost::Host(host.to_owned()),
    };
    settings.ca = registries.ca.clone();
    settings.cafile = registries.cafile.clone();
    let extra = env.get("NODE_EXTRA_CA_CERTS").filter(|path| !path.is_empty());
    settings.extra_ca_files = extra.map(PathBuf::from).into_iter().collect();
    settings.strict_ssl = registries.strict_ssl;
    settings.https_proxy = reveal(&registries.https_proxy).or_else(|| {
        proxy(env, &["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "PROXY", "proxy"])
    });
    settings.http_proxy = reveal(&registries.proxy)
        .or_else(|| proxy(env, &["HTTP_PROXY", "http_proxy", "PROXY", "proxy"]));
    settings.no_proxy = registries.noproxy.clone();
    settings.max_sockets = usize::try_from(registries.max_sockets).unwrap_or(usize::MAX).max(1);
    let count = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    settings.retries = count(registries.retries);
    settings.retry_factor = count(registries.retry_factor);
    settings.retry_min = Duration::from_millis(registries.retry_min_ms);
    settings.retry_max = Duration::from_millis(registries.retry_max_ms);
    settings.timeout = Duration::from_millis(registries.timeout_ms);
    settings.user_agent = Some(format!("npm/{} node/v{}", tool.npm_version, tool.node_version));
    settings.is_offline = registries.offline;
    Ok(settings)
}

fn auth(found: &Credentials) -> Auth {
    let reveal = |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.reveal().to_owned());
    Auth {
        token: reveal(&found.token),
        basic: reveal(&found.basic),
        username: found.username.clone(),
        password: reveal(&found.password),
        certfile: found.certfile.clone(),
        keyfile: found.keyfile.clone(),
    }
}

fn proxy(env: &Env, names: &[&str]) -> Option<String> {
    let found = names.iter().find_map(|name| env.get(name).filter(|value| !value.is_empty()));
    found.map(|value| value.to_string_lossy().into_owned())
}
