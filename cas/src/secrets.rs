//! Files that hold secrets: what an ingest leaves out when its tree may leave the machine.
//!
//! The list is here to be read. It goes by names, and by content where a name alone does not tell: an
//! `.npmrc` is left out when it holds a credential, a JSON file when it is a service account's key.

/// Names that are secrets wherever they are, with what they hold.
pub const NAMES: [(&str, &str); 24] = [
    (".env", "environment variables"),
    (".envrc", "environment variables"),
    (".netrc", "passwords"),
    ("_netrc", "passwords"),
    (".git-credentials", "passwords"),
    (".pgpass", "passwords"),
    (".my.cnf", "passwords"),
    (".htpasswd", "passwords"),
    (".pypirc", "an upload token"),
    (".dockercfg", "registry passwords"),
    (".vault-token", "an access token"),
    (".terraformrc", "an access token"),
    ("id_rsa", "a private key"),
    ("id_dsa", "a private key"),
    ("id_ecdsa", "a private key"),
    ("id_ecdsa_sk", "a private key"),
    ("id_ed25519", "a private key"),
    ("id_ed25519_sk", "a private key"),
    ("secring.gpg", "a private key"),
    ("terraform.tfstate", "secrets of an infrastructure"),
    ("terraform.tfvars", "secrets of an infrastructure"),
    ("master.key", "an encryption key"),
    ("application_default_credentials.json", "cloud credentials"),
    (".npmrc.bak", "a registry token"),
];

/// Ends of names, with what such files hold.
pub const ENDINGS: [(&str, &str); 9] = [
    (".pem", "a key or certificate"),
    (".key", "a private key"),
    (".p12", "a key store"),
    (".pfx", "a key store"),
    (".jks", "a key store"),
    (".keystore", "a key store"),
    (".kdbx", "a password safe"),
    (".ppk", "a private key"),
    (".tfstate.backup", "secrets of an infrastructure"),
];

/// Ends of paths, with what such files hold.
pub const PATHS: [(&str, &str); 7] = [
    (".aws/credentials", "cloud credentials"),
    (".aws/config", "cloud credentials"),
    (".azure/accessTokens.json", "cloud credentials"),
    (".config/gcloud/credentials.db", "cloud credentials"),
    (".docker/config.json", "registry passwords"),
    (".kube/config", "cluster credentials"),
    (".cargo/credentials.toml", "a registry token"),
];

/// Words that make a line of a registry's settings a credential.
const CREDENTIALS: [&[u8]; 6] =
    [b"_authToken", b"_auth", b"_password", b"npmAuthToken", b"npmAuthIdent", b"keyfile"];

/// `.env.example` and its like are meant to be shared.
const SHARED_ENV: [&str; 5] =
    [".env.example", ".env.sample", ".env.template", ".env.dist", ".env.defaults"];

/// Larger files are not looked into: settings and keys are small.
const LOOKED_INTO_MAX: u64 = 64 << 10;

/// Returns what a file of that relative path holds that must not leave the machine.
#[must_use]
pub fn by_path(path: &[u8]) -> Option<&'static str> {
    let text = String::from_utf8_lossy(path);
    let name = text.rsplit('/').next().unwrap_or_default();
    let is_path = |end: &str| {
        text.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
    };
    if SHARED_ENV.contains(&name) {
        return None;
    }
    if name.starts_with(".env.") {
        return Some("environment variables");
    }
    let lower = name.to_ascii_lowercase();
    let named = NAMES.iter().find(|(known, _)| *known == lower);
    let ending = || ENDINGS.iter().find(|(end, _)| lower.ends_with(end));
    let placed = || PATHS.iter().find(|(end, _)| is_path(end));
    named.or_else(ending).or_else(placed).map(|(_, holds)| *holds)
}

/// Returns what a file of that relative path and size, in bytes, holds that must not leave the machine; what it holds is asked for where that has
/// to be seen.
#[must_use]
pub fn in_file<'b>(
    path: &[u8],
    size: u64,
    bytes: impl FnOnce() -> Option<&'b [u8]>,
) -> Option<&'static str> {
    if let Some(holds) = by_path(path) {
        return Some(holds);
    }
    if size > LOOKED_INTO_MAX || !wants_content(path) {
        return None;
    }
    by_content(path, bytes()?)
}

/// Tells whether [`by_content`] has to see a file of that path.
fn wants_content(path: &[u8]) -> bool {
    let name = rift_tree::name::split_last(path).1;
    [&b".npmrc"[..], b".yarnrc", b".yarnrc.yml"].contains(&name) || name.ends_with(b".json")
}

/// Returns what a file holds that must not leave the machine, by its path and its bytes.
fn by_content(path: &[u8], bytes: &[u8]) -> Option<&'static str> {
    let has = |word: &[u8]| bytes.windows(word.len()).any(|at| at == word);
    if path.ends_with(b".json") {
        let is_key = has(b"\"private_key\"") && has(b"PRIVATE KEY-----");
        return is_key.then_some("a service account's key");
    }
    let lines = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_start);
    let mut settings = lines.filter(|line| !line.starts_with(b"#") && !line.starts_with(b";"));
    let is_credential = |line: &[u8]| {
        let separator = line.iter().position(|byte| matches!(byte, b'=' | b' ' | b'"'));
        let (key, value) = line.split_at(separator.unwrap_or(line.len()));
        let (key, value) = match key.strip_suffix(b":") {
            Some(key) => (key, value),
            None => (key, value),
        };
        // `${TOKEN}` names an environment variable and holds nothing.
        let is_named = value.windows(2).any(|at| at == b"${");
        CREDENTIALS.iter().any(|word| key.ends_with(word)) && !value.is_empty() && !is_named
    };
    settings.any(is_credential).then_some("a registry token")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_told_by_name() {
        for secret in [
            ".env",
            "a/.env.production",
            "a/b/server.PEM",
            "id_ed25519",
            "home/.aws/credentials",
            ".docker/config.json",
            "x/.netrc",
        ] {
            assert!(by_path(secret.as_bytes()).is_some(), "{secret}");
        }
        for plain in
            ["env", ".env.example", "src/id_rsa.js", "aws/credentials", "x.aws/credentials", "key"]
        {
            assert!(by_path(plain.as_bytes()).is_none(), "{plain}");
        }
    }

    #[test]
    fn settings_are_told_by_their_content() {
        let npmrc = |text: &str| by_content(b".npmrc", text.as_bytes()).is_some();
        assert!(npmrc("//registry.example/:_authToken=abc\n"));
        assert!(npmrc("save-exact=true\n  _auth = YWJj\n"));
        assert!(!npmrc("//registry.example/:_authToken=${TOKEN}\n"));
        assert!(!npmrc("# //registry.example/:_authToken=abc\nsave-exact=true\n"));
        assert!(!npmrc("registry=https://registry.example/\n"));
        let yarn = b"npmAuthToken: \"abc\"\n";
        assert!(by_content(b"a/.yarnrc.yml", yarn).is_some());
        let key = br#"{"type": "service_account", "private_key": "-----BEGIN PRIVATE KEY-----"}"#;
        assert!(by_content(b"a/b.json", key).is_some());
        assert!(by_content(b"package.json", b"{\"private\": true}").is_none());
    }
}
