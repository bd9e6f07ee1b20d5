//! What npm's configuration means for an install: layout, policy, and how registries are reached.
//!
//! Invariant: every setting that changes what an install writes is either represented in [`Settings`] (and so in the
//! key) or makes the plan leave the command to npm. Secrets sit in [`Secret`] only, which can't be printed.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::env::Env;
use super::npmrc::{Config, Source, unusual};
use super::why::Why;

/// A token, password or private key: never printed, never part of a key.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Returns the secret itself, for the request that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Settings that change what an install writes or runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// Dependency types that are not installed.
    pub omit: Omit,
    /// Peer dependencies count for nothing.
    pub legacy_peer_deps: bool,
    /// Peer conflicts are errors.
    pub strict_peer_deps: bool,
    /// `engines` that don't fit are errors.
    pub engine_strict: bool,
    /// Platform checks are skipped.
    pub force: bool,
    /// `.bin` links are written.
    pub bin_links: bool,
    /// `file:` folders are packed and installed instead of linked.
    pub install_links: bool,
    /// npm's hidden lockfile names no addresses of registry packages.
    pub omit_resolved: bool,
    /// No lifecycle script runs.
    pub ignore_scripts: bool,
    /// Scripts run one at a time with their output shown.
    pub foreground_scripts: bool,
    /// Scripts of packages that nobody reviewed are an error.
    pub strict_allow_scripts: bool,
    /// The allow-scripts policy is switched off.
    pub allow_all_scripts: bool,
    /// `allow-scripts` of the npmrc files; package.json's `allowScripts` goes before it.
    pub allow_scripts: Vec<String>,
    /// Asked-for platform, where it isn't this one.
    pub os: Option<String>,
    /// Asked-for processor, where it isn't this one.
    pub cpu: Option<String>,
    /// Asked-for C library, where it isn't this one.
    pub libc: Option<String>,
    /// The shell that runs scripts.
    pub script_shell: Option<String>,
}

/// Dependency types that are not installed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Omit {
    /// Development dependencies.
    pub dev: bool,
    /// Optional dependencies.
    pub optional: bool,
    /// Peer dependencies.
    pub peer: bool,
}

impl Omit {
    pub(crate) fn any(self) -> bool {
        self.dev || self.optional || self.peer
    }
}

/// How registries are reached, as npm's configuration says.
#[derive(Clone, Debug)]
pub struct Registries {
    /// The registry that is set; `None` means npm's built-in one (see [`super::Tool::default_registry`]).
    pub registry: Option<String>,
    /// `@scope` to its registry.
    pub scopes: BTreeMap<String, String>,
    /// `//host/path/` to the credentials used below it; the longest match wins.
    pub credentials: BTreeMap<String, Credentials>,
    /// Which hosts of `resolved` are replaced by the configured registry: `npmjs`, `never`, `always` or a host.
    pub replace_host: String,
    /// Certificates trusted besides the file's.
    pub ca: Vec<String>,
    /// A file of trusted certificates.
    pub cafile: Option<PathBuf>,
    /// Client certificate.
    pub cert: Option<String>,
    /// Client key.
    pub key: Option<Secret>,
    /// Certificates are checked.
    pub strict_ssl: bool,
    /// Proxy for plain addresses; may hold a password.
    pub proxy: Option<Secret>,
    /// Proxy for encrypted addresses; may hold a password.
    pub https_proxy: Option<Secret>,
    /// Hosts that are reached without a proxy.
    pub noproxy: Vec<String>,
    /// Attempts after the first.
    pub retries: u64,
    /// Shortest wait between attempts.
    pub retry_min_ms: u64,
    /// Longest wait between attempts.
    pub retry_max_ms: u64,
    /// Factor by which the wait grows.
    pub retry_factor: u64,
    /// Longest time for one request.
    pub timeout_ms: u64,
    /// Connections to one host.
    pub max_sockets: u64,
    /// npm's cache folder (its contents are in `_cacache` below it).
    pub cache: PathBuf,
    /// Nothing may be asked of the network.
    pub offline: bool,
}

/// Credentials for a part of a registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// Bearer token.
    pub token: Option<Secret>,
    /// `user:password`, base64.
    pub basic: Option<Secret>,
    /// User name, used with a password.
    pub username: Option<String>,
    /// Password, base64.
    pub password: Option<Secret>,
    /// File of the client certificate.
    pub certfile: Option<PathBuf>,
    /// File of the client key.
    pub keyfile: Option<PathBuf>,
}

/// What npm prints: decided by settings that change nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    /// npm prints nothing at all.
    pub silent: bool,
    /// Warnings are shown.
    pub warnings: bool,
}

/// Settings that must be off (or as given) for an install to be understood, with the clause that says what they do.
const OFF: &[(&str, &str)] = &[
    ("global", "the install is global"),
    ("dry-run", "nothing is to be installed (`dry-run`)"),
    ("package-lock-only", "only the lockfile is to be written"),
    ("json", "npm's output is asked for as JSON"),
    ("long", "npm's output is asked for in its long form"),
    ("parseable", "npm's output is asked for in its parseable form"),
    ("legacy-bundling", "`legacy-bundling` nests packages"),
    ("global-style", "`global-style` nests packages"),
    ("prefer-dedupe", "`prefer-dedupe` may move packages"),
    ("workspaces", "workspaces are filtered"),
    ("include-workspace-root", "workspaces are filtered"),
    ("usage", "npm's help is asked for"),
    ("version", "npm's version is asked for"),
    ("versions", "npm's version is asked for"),
];
const ON: &[(&str, &str)] = &[
    ("package-lock", "the lockfile is to be ignored"),
    ("shrinkwrap", "the lockfile is to be ignored"),
    ("format-package-lock", "the lockfile is to be written on one line"),
    ("rebuild-bundle", "`rebuild-bundle` is off"),
];
/// Settings that must not be set at all.
const UNSET: &[(&str, &str)] = &[
    ("workspace", "workspaces are filtered"),
    ("lockfile-version", "`lockfile-version` may rewrite the lockfile"),
    ("before", "`before` limits versions by age"),
    ("min-release-age", "`min-release-age` limits versions by age"),
    ("allow-directory", "`allow-directory` limits where packages may come from"),
    ("allow-file", "`allow-file` limits where packages may come from"),
    ("allow-git", "`allow-git` limits where packages may come from"),
    ("allow-remote", "`allow-remote` limits where packages may come from"),
];

/// Refuses a configuration whose install is not understood.
pub(crate) fn check(config: &Config) -> Result<(), Why> {
    for (key, clause) in OFF {
        if config.switch(key)? == Some(true) {
            return Err((*clause).into());
        }
    }
    if config.switch("workspaces")? == Some(false) {
        return Err("workspaces are filtered".into());
    }
    for (key, clause) in ON {
        if config.switch(key)? == Some(false) {
            return Err((*clause).into());
        }
    }
    for (key, clause) in UNSET {
        if config.text(key)?.is_some_and(|value| value != "all") {
            return Err((*clause).into());
        }
    }
    match config.text("location")? {
        Some("global") => return Err("the install is global".into()),
        None | Some("user" | "project") => {}
        Some(_) => return Err(unusual("location")),
    }
    match config.text("install-strategy")? {
        None | Some("hoisted") => Ok(()),
        Some(_) => Err("`install-strategy` is not `hoisted`".into()),
    }
}

/// Reads the settings that change an install.
pub(crate) fn settings(config: &Config, env: &Env) -> Result<Settings, Why> {
    let on = |key: &str| Ok::<_, Why>(config.switch(key)?.unwrap_or(false));
    let text = |key: &str| {
        Ok::<_, Why>(config.text(key)?.filter(|value| !value.is_empty()).map(str::to_owned))
    };
    let allow_scripts = match config.find("allow-scripts") {
        // npm refuses it there with an error of its own.
        Some((Source::CommandLine | Source::Environment, _)) => {
            return Err("`allow-scripts` is set outside of the project".into());
        }
        Some(_) => config.list("allow-scripts").unwrap_or_default(),
        None => Vec::new(),
    };
    Ok(Settings {
        omit: omit(config, env)?,
        legacy_peer_deps: on("legacy-peer-deps")?,
        strict_peer_deps: on("strict-peer-deps")?,
        engine_strict: on("engine-strict")?,
        force: on("force")?,
        bin_links: config.switch("bin-links")?.unwrap_or(true),
        install_links: on("install-links")?,
        omit_resolved: on("omit-lockfile-registry-resolved")?,
        ignore_scripts: on("ignore-scripts")?,
        foreground_scripts: on("foreground-scripts")?,
        strict_allow_scripts: on("strict-allow-scripts")?,
        allow_all_scripts: on("dangerously-allow-all-scripts")?,
        allow_scripts: allow_scripts
            .iter()
            .flat_map(|value| value.split(','))
            .map(|value| value.trim().to_owned())
            .filter(|value| !value.is_empty())
            .collect(),
        os: text("os")?,
        cpu: text("cpu")?,
        libc: text("libc")?,
        script_shell: text("script-shell")?,
    })
}

/// Works out `omit`, with all of its older spellings.
fn omit(config: &Config, env: &Env) -> Result<Omit, Why> {
    let types = |key: &str, allowed: &[&str]| {
        let list = config.list(key).unwrap_or_default();
        if list.iter().all(|name| allowed.contains(&name.as_str())) {
            Ok(list)
        } else {
            Err(unusual(key))
        }
    };
    let mut include = types("include", &["prod", "dev", "optional", "peer"])?;
    let mut omit = types("omit", &["dev", "optional", "peer"])?;
    if config.get("omit").is_none()
        && env.get("NODE_ENV").is_some_and(|value| value == "production")
    {
        omit.push("dev".to_owned());
    }
    let production = config.switch("production")?;
    let only = config.text("only")?;
    if production == Some(true) || matches!(only, Some("prod" | "production")) {
        omit.push("dev".to_owned());
    } else if production == Some(false) {
        include.push("dev".to_owned());
    }
    if matches!(config.text("also")?, Some("dev" | "development"))
        || config.switch("dev")? == Some(true)
    {
        include.push("dev".to_owned());
    }
    match config.switch("optional")? {
        Some(true) => include.push("optional".to_owned()),
        Some(false) => omit.push("optional".to_owned()),
        None => {}
    }
    let omitted = |name: &str| {
        omit.iter().any(|other| other == name) && !include.iter().any(|other| other == name)
    };
    Ok(Omit { dev: omitted("dev"), optional: omitted("optional"), peer: omitted("peer") })
}

/// Reads what npm prints.
pub(crate) fn output(config: &Config) -> Result<Output, Why> {
    let level = config.text("loglevel")?.unwrap_or("notice");
    if !["silent", "error", "warn", "notice", "http", "info", "verbose", "silly"].contains(&level) {
        return Err(unusual("loglevel"));
    }
    Ok(Output { silent: level == "silent", warnings: !matches!(level, "silent" | "error") })
}

/// Reads how registries are reached.
pub(crate) fn registries(config: &Config, env: &Env, cwd: &Path) -> Result<Registries, Why> {
    let text = |key: &str| {
        Ok::<_, Why>(config.text(key)?.filter(|value| !value.is_empty()).map(str::to_owned))
    };
    let number = |key: &str, otherwise: u64| Ok::<_, Why>(config.number(key)?.unwrap_or(otherwise));
    let on = |key: &str| Ok::<_, Why>(config.switch(key)?.unwrap_or(false));
    let proxy = |key: &str| Ok::<_, Why>(text(key)?.filter(|value| value != "false").map(Secret));
    let mut scopes = BTreeMap::new();
    let mut credentials: BTreeMap<String, Credentials> = BTreeMap::new();
    for key in config.effective().into_keys() {
        if let Some(scope) = key.strip_suffix(":registry").filter(|scope| scope.starts_with('@')) {
            scopes.extend(text(key)?.map(|url| (scope.to_owned(), url)));
        } else if key.starts_with("//")
            && let Some((host, field)) = key.rsplit_once(':')
        {
            let Some(value) = text(key)? else { continue };
            let entry = credentials.entry(host.to_owned()).or_default();
            match field {
                "_authToken" => entry.token = Some(Secret(value)),
                "_auth" => entry.basic = Some(Secret(value)),
                "username" => entry.username = Some(value),
                "_password" => entry.password = Some(Secret(value)),
                "certfile" => entry.certfile = Some(super::npmrc::resolve(&value, env, cwd)),
                "keyfile" => entry.keyfile = Some(super::npmrc::resolve(&value, env, cwd)),
                _ => {}
            }
        }
    }
    let noproxy = match config.list("noproxy") {
        Some(list) => list.join(","),
        None => ["NO_PROXY", "no_proxy"]
            .iter()
            .find_map(|name| env.get(name))
            .map(|value| value.to_string_lossy().into_owned())
            .unwrap_or_default(),
    };
    Ok(Registries {
        registry: text("registry")?,
        scopes,
        credentials,
        replace_host: text("replace-registry-host")?.unwrap_or_else(|| "npmjs".to_owned()),
        ca: config
            .list("ca")
            .unwrap_or_default()
            .into_iter()
            .filter(|ca| !ca.is_empty() && ca != "null")
            .collect(),
        cafile: config.path("cafile", env, cwd)?,
        cert: text("cert")?,
        key: text("key")?.map(Secret),
        strict_ssl: config.switch("strict-ssl")?.unwrap_or(true),
        proxy: proxy("proxy")?,
        https_proxy: proxy("https-proxy")?,
        noproxy: noproxy
            .split(',')
            .map(|host| host.trim().to_owned())
            .filter(|host| !host.is_empty())
            .collect(),
        retries: number("fetch-retries", 2)?,
        retry_min_ms: number("fetch-retry-mintimeout", 10_000)?,
        retry_max_ms: number("fetch-retry-maxtimeout", 60_000)?,
        retry_factor: number("fetch-retry-factor", 10)?,
        timeout_ms: number("fetch-timeout", 300_000)?,
        max_sockets: number("maxsockets", 15)?,
        cache: config.path("cache", env, cwd)?.unwrap_or_else(|| env.home().join(".npm")),
        offline: on("offline")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(settings: &[(&str, &str)]) -> Config {
        let mut config = Config::default();
        let settings: Vec<_> =
            settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        config.add_command_line(&settings);
        config
    }

    #[test]
    fn omitted_types() {
        let env = Env::default();
        let production = Env::new([("NODE_ENV", "production")]);
        for (pairs, env, expected) in [
            (&[][..], &env, (false, false, false)),
            (&[], &production, (true, false, false)),
            (&[("include", "dev")], &production, (false, false, false)),
            (&[("omit", "peer")], &production, (false, false, true)),
            (&[("omit", "dev"), ("omit", "optional")], &env, (true, true, false)),
            (&[("production", "true")], &env, (true, false, false)),
            (&[("production", "false")], &production, (false, false, false)),
            (&[("only", "prod"), ("omit", "peer")], &env, (true, false, true)),
            (&[("optional", "false")], &env, (false, true, false)),
            (&[("omit", "optional"), ("optional", "true")], &env, (false, false, false)),
        ] {
            let omit = omit(&config(pairs), env).unwrap();
            assert_eq!((omit.dev, omit.optional, omit.peer), expected, "{pairs:?}");
        }
        assert!(super::omit(&config(&[("omit", "everything")]), &env).is_err());
    }

    #[test]
    fn refused_settings() {
        for (key, value) in [
            ("global", "true"),
            ("dry-run", "true"),
            ("package-lock", "false"),
            ("install-strategy", "nested"),
            ("workspace", "a"),
            ("workspaces", "false"),
            ("allow-git", "none"),
            ("audit-level", "x"),
        ] {
            let refused = check(&config(&[(key, value)])).is_err();
            assert_eq!(refused, key != "audit-level", "{key}");
        }
        check(&config(&[
            ("allow-git", "all"),
            ("install-strategy", "hoisted"),
            ("global", "false"),
        ]))
        .unwrap();
    }

    #[test]
    fn secrets_are_not_printed() {
        let config = config(&[
            ("//host/:_authToken", "s3cret"),
            ("@a:registry", "https://host/"),
            ("https-proxy", "http://u:s3cret@p"),
        ]);
        let registries = registries(&config, &Env::new([("HOME", "/h")]), Path::new("/")).unwrap();
        assert_eq!(registries.credentials["//host/"].token.as_ref().unwrap().reveal(), "s3cret");
        assert_eq!(registries.scopes["@a"], "https://host/");
        assert_eq!(registries.cache, Path::new("/h/.npm"));
        assert!(!format!("{registries:?}").contains("s3cret"));
    }
}
