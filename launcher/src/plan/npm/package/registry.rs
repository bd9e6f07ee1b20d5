//! Registries: where a package's tarball is, what may be said to whom, and the requests themselves.
//!
//! The rules are npm's: scopes choose registries, settings are keyed by what npm calls a nerf dart
//! (`//host/path/`), `replace-registry-host` moves addresses of a lockfile to the configured registry.
//! An `authorization` header is sent to the host and path whose settings gave it, or to the same host
//! as the package's registry, and never follows a redirect to another host or port. Nothing that
//! authorizes is ever part of an error: addresses are shown without user, query and fragment.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, USER_AGENT};
use reqwest::{Client, Response, StatusCode, Url, redirect};
use rift_cas::lock::lock;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::integrity::{base64_decode, base64_encode};

/// The most requests that are under way at once, whatever `maxsockets` says.
pub(super) const SOCKETS_MAX: u32 = 256;
/// How many bytes of one HTTP/2 stream may be unread.
const STREAM_BYTES: u32 = 256 << 10;
/// As npm follows them.
const REDIRECTS_MAX: usize = 20;

/// Settings that npm keeps per nerf dart.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Auth {
    /// `_authToken`.
    pub token: Option<String>,
    /// `_auth`: base64 of `user:password`.
    pub basic: Option<String>,
    /// `username`.
    pub username: Option<String>,
    /// `_password`: base64 of the password.
    pub password: Option<String>,
    /// `certfile`: a client certificate, PEM.
    pub certfile: Option<PathBuf>,
    /// `keyfile`: its key, PEM.
    pub keyfile: Option<PathBuf>,
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Secrets end up where values are printed, sooner or later.
        f.write_str(if self.is_any() { "Auth(set)" } else { "Auth(none)" })
    }
}

/// Which addresses of a lockfile are moved to the configured registry: `replace-registry-host`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ReplaceHost {
    /// None.
    #[default]
    Never,
    /// All.
    Always,
    /// Those at this host name, or below this address. npm's default is the public registry's name.
    Host(String),
}

/// What npm's configuration says about registries.
#[derive(Clone, PartialEq, Eq)]
pub struct RegistrySettings {
    /// `registry`.
    pub registry: String,
    /// `@scope:registry`, by scope with its `@`.
    pub scopes: BTreeMap<String, String>,
    /// Settings by nerf dart, such as `//host/path/`, as they are written.
    pub auth: BTreeMap<String, Auth>,
    /// `replace-registry-host`.
    pub replace_host: ReplaceHost,
    /// `ca`: certificates, PEM. When there are any, or a `cafile`, nothing else is trusted but `extra_ca_files`.
    pub ca: Vec<String>,
    /// `cafile`.
    pub cafile: Option<PathBuf>,
    /// `NODE_EXTRA_CA_CERTS`: trusted beside the rest. What can't be read is passed over, as by node.
    pub extra_ca_files: Vec<PathBuf>,
    /// `strict-ssl`.
    pub strict_ssl: bool,
    /// The proxy for `https:` addresses.
    pub https_proxy: Option<String>,
    /// The proxy for `http:` addresses.
    pub http_proxy: Option<String>,
    /// `noproxy`: ends of host names, by whole labels.
    pub no_proxy: Vec<String>,
    /// `maxsockets`: how many requests may be under way.
    pub max_sockets: usize,
    /// `fetch-retries`.
    pub retries: u32,
    /// `fetch-retry-factor`.
    pub retry_factor: u32,
    /// `fetch-retry-mintimeout`.
    pub retry_min: Duration,
    /// `fetch-retry-maxtimeout`.
    pub retry_max: Duration,
    /// `fetch-timeout`: how long a connection may be silent.
    pub timeout: Duration,
    /// `user-agent`.
    pub user_agent: Option<String>,
    /// `offline`: no request at all.
    pub is_offline: bool,
}

impl fmt::Debug for RegistrySettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Addresses may hold passwords too.
        let registry = Url::parse(&self.registry).map_or_else(|_| "?".into(), |url| shown(&url));
        f.debug_struct("RegistrySettings")
            .field("registry", &registry)
            .field("scopes", &self.scopes.len())
            .field("auth", &self.auth)
            .finish_non_exhaustive()
    }
}

impl RegistrySettings {
    /// Returns npm's defaults for a registry.
    #[must_use]
    pub fn new(registry: &str) -> Self {
        Self {
            registry: registry.to_owned(),
            scopes: BTreeMap::new(),
            auth: BTreeMap::new(),
            replace_host: ReplaceHost::Never,
            ca: Vec::new(),
            cafile: None,
            extra_ca_files: Vec::new(),
            strict_ssl: true,
            https_proxy: None,
            http_proxy: None,
            no_proxy: Vec::new(),
            max_sockets: 15,
            retries: 2,
            retry_factor: 10,
            retry_min: Duration::from_secs(10),
            retry_max: Duration::from_secs(60),
            timeout: Duration::from_secs(300),
            user_agent: None,
            is_offline: false,
        }
    }
}

/// A request that brought no tarball.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The address, of this kind, can't be asked over HTTP.
    #[error("an address of kind `{0}` is none of a registry")]
    Address(String),
    /// A setting can't be used.
    #[error("the setting `{name}` can't be used: {reason}")]
    Setting {
        /// Its name in npm's configuration.
        name: &'static str,
        /// Why not.
        reason: String,
    },
    /// The registry answered something else.
    #[error("{url} answered {status}")]
    Status {
        /// The address, without what is secret.
        url: String,
        /// The HTTP status.
        status: u16,
        /// Whether the request was authorized.
        was_authorized: bool,
    },
    /// The registry sent on too often, or nowhere.
    #[error("{url} redirects wrongly")]
    Redirect {
        /// The address, without what is secret.
        url: String,
    },
    /// No answer, or half of one.
    #[error("{url}: {reason}")]
    Network {
        /// The address, without what is secret.
        url: String,
        /// What failed.
        reason: String,
    },
    /// Requests are not allowed.
    #[error("it is not in npm's cache, and npm is configured to be offline")]
    Offline,
}

impl RegistryError {
    /// Tells whether npm would ask once more.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Status { status, .. } => matches!(status, 408 | 420 | 429 | 500..),
            Self::Network { .. } => true,
            _ => false,
        }
    }

    /// Returns what the user may do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Status { status: 401 | 403, was_authorized: false, .. } => {
                Some("this registry wants a login: run `npm login` or set `_authToken` in .npmrc")
            }
            Self::Status { status: 401 | 403, .. } => {
                Some("the registry refuses the login in .npmrc: run `npm login` again")
            }
            Self::Status { status: 404, .. } => {
                Some("check `registry` and the scopes in .npmrc, or make the lockfile anew")
            }
            Self::Status { status: 407, .. } => Some("the proxy wants a login: see `https-proxy`"),
            Self::Network { .. } => Some("check the network, `https-proxy` and `cafile` in .npmrc"),
            Self::Offline => Some("run once without `--offline`"),
            _ => None,
        }
    }
}

/// Returns an address as it may be shown: without user, password, query and fragment.
#[must_use]
pub fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // Addresses that can't have a user have none to take away.
    _ = url.set_username("");
    _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url.into()
}

fn parse_registry(text: &str) -> Result<Url, RegistryError> {
    let slash = if text.ends_with('/') { "" } else { "/" };
    let url = Url::parse(&format!("{}{slash}", text.trim()));
    let url = url.ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    url.ok_or_else(|| RegistryError::Setting {
        name: "registry",
        reason: "it is no http address".to_owned(),
    })
}

impl RegistrySettings {
    /// Returns the registry of a package.
    ///
    /// # Errors
    /// [`RegistryError::Setting`] when it is no address.
    pub fn registry_of(&self, name: &str) -> Result<Url, RegistryError> {
        let scope = name.starts_with('@').then(|| name.split('/').next().unwrap_or(name));
        let scoped = scope.and_then(|scope| self.scopes.get(scope));
        parse_registry(scoped.unwrap_or(&self.registry))
    }

    /// Returns where the tarball of a package is.
    ///
    /// # Errors
    /// [`RegistryError::Address`] when `resolved` is nothing that a registry answers.
    pub fn tarball_url(
        &self,
        name: &str,
        version: &str,
        resolved: Option<&str>,
    ) -> Result<Url, RegistryError> {
        let Some(resolved) = resolved else {
            let base = name.rsplit('/').next().unwrap_or(name);
            // In an address `+` of a version stays, as npm writes it.
            let path = format!("{name}/-/{base}-{version}.tgz");
            let registry = self.registry_of(name)?;
            return registry.join(&path).map_err(|_| RegistryError::Address(path));
        };
        let url = Url::parse(resolved).ok();
        let is_http = |url: &Url| matches!(url.scheme(), "http" | "https") && url.has_host();
        let Some(url) = url.filter(is_http) else {
            // What is no address of ours may hold a login anywhere: only its kind is shown.
            let kind =
                Url::parse(resolved).map_or_else(|_| "?".to_owned(), |it| it.scheme().into());
            return Err(RegistryError::Address(kind));
        };
        self.replace_host(url)
    }

    /// Moves an address to the configured registry when `replace-registry-host` says so.
    fn replace_host(&self, mut url: Url) -> Result<Url, RegistryError> {
        let registry = parse_registry(&self.registry)?;
        let (host, below) = match &self.replace_host {
            ReplaceHost::Never => return Ok(url),
            ReplaceHost::Always => (None, None),
            ReplaceHost::Host(text) => match Url::parse(text).ok().filter(Url::has_host) {
                Some(at) => {
                    let path = at.path().trim_end_matches('/').to_owned();
                    let path = Some(path).filter(|path| !path.is_empty());
                    (at.host_str().map(str::to_owned), path)
                }
                None => (Some(text.clone()), None),
            },
        };
        let has_prefix = |path: &str, prefix: &str| {
            path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let is_host = host.as_deref().is_none_or(|host| url.host_str() == Some(host));
        if !is_host || below.as_deref().is_some_and(|below| !has_prefix(url.path(), below)) {
            return Ok(url);
        }
        let above = registry.path().trim_end_matches('/');
        let path = match &below {
            Some(below) => format!("{above}{}", &url.path()[below.len()..]),
            None if above.is_empty() || has_prefix(url.path(), above) => url.path().to_owned(),
            None => format!("{above}{}", url.path()),
        };
        url = registry.clone();
        url.set_path(&path);
        Ok(url)
    }

    /// Returns the settings that npm would use for an address, given the package's registry.
    fn auth_for(&self, url: &Url, registry: &Url) -> Option<&Auth> {
        let is_same_host = || {
            url.host_str() == registry.host_str()
                && url.port_or_known_default() == registry.port_or_known_default()
        };
        self.auth_at(url).or_else(|| is_same_host().then(|| self.auth_at(registry)).flatten())
    }

    /// Walks up the path of an address to the first nerf dart with settings.
    fn auth_at(&self, url: &Url) -> Option<&Auth> {
        let port = url.port().map_or(String::new(), |port| format!(":{port}"));
        let mut key = format!("//{}{port}{}", url.host_str()?, url.path());
        while key.len() > 2 {
            if let Some(auth) = self.auth.get(&key).filter(|auth| auth.is_any()) {
                return Some(auth);
            }
            match key.strip_suffix('/') {
                Some(shorter) => key.truncate(shorter.len()),
                None => key.truncate(key.rfind('/').map_or(0, |slash| slash + 1)),
            }
        }
        None
    }

    fn proxy_for(&self, url: &Url) -> Option<&str> {
        let proxy = match url.scheme() {
            "https" => self.https_proxy.as_deref(),
            _ => self.http_proxy.as_deref(),
        }?;
        let host: Vec<&str> = url.host_str()?.rsplit('.').collect();
        let is_exempt = self.no_proxy.iter().any(|name| {
            let labels: Vec<&str> =
                name.trim().rsplit('.').filter(|label| !label.is_empty()).collect();
            !labels.is_empty() && host.starts_with(&labels)
        });
        (!is_exempt).then_some(proxy)
    }

    /// Returns how long to wait before attempt number `attempt`, which is 1 for the first repetition.
    #[must_use]
    pub fn backoff(&self, attempt: u32) -> Duration {
        let factor = self.retry_factor.max(1).saturating_pow(attempt.saturating_sub(1));
        self.retry_min.saturating_mul(factor).min(self.retry_max)
    }
}

impl Auth {
    fn is_any(&self) -> bool {
        self.token.is_some()
            || self.basic.is_some()
            || self.username.is_some() && self.password.is_some()
            || self.certfile.is_some() && self.keyfile.is_some()
    }

    /// Returns the `authorization` header.
    fn header(&self) -> Option<HeaderValue> {
        let value = match (&self.token, &self.basic, &self.username, &self.password) {
            (Some(token), ..) => format!("Bearer {token}"),
            (None, Some(basic), ..) => format!("Basic {basic}"),
            (None, None, Some(username), Some(password)) => {
                let mut login = format!("{username}:").into_bytes();
                // npm passes on what is no base64 as best it can; an empty password is refused anyway.
                login.extend(base64_decode(password).unwrap_or_default());
                format!("Basic {}", base64_encode(&login))
            }
            _ => return None,
        };
        let mut value = HeaderValue::from_str(&value).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

/// Clients for the registries of one run.
pub struct Registry {
    settings: Arc<RegistrySettings>,
    /// One per client certificate, and one without.
    clients: Mutex<HashMap<Option<(PathBuf, PathBuf)>, Client>>,
}

impl Registry {
    /// Prepares for requests; none is made yet.
    #[must_use]
    pub fn new(settings: RegistrySettings) -> Self {
        Self { settings: Arc::new(settings), clients: Mutex::new(HashMap::new()) }
    }

    /// Returns the settings.
    #[must_use]
    pub fn settings(&self) -> &RegistrySettings {
        &self.settings
    }

    fn client(&self, auth: Option<&Auth>) -> Result<Client, RegistryError> {
        let identity = auth.and_then(|auth| auth.certfile.clone().zip(auth.keyfile.clone()));
        let mut clients = lock(&self.clients);
        if let Some(client) = clients.get(&identity) {
            return Ok(client.clone());
        }
        let client = self.build_client(identity.as_ref())?;
        clients.insert(identity, client.clone());
        Ok(client)
    }

    fn build_client(&self, identity: Option<&(PathBuf, PathBuf)>) -> Result<Client, RegistryError> {
        let settings = Arc::clone(&self.settings);
        let proxy = reqwest::Proxy::custom(move |url| {
            let proxy = settings.proxy_for(url)?;
            Url::parse(proxy).or_else(|_| Url::parse(&format!("http://{proxy}"))).ok()
        });
        let agent = self.settings.user_agent.as_deref();
        let agent = agent.unwrap_or(concat!("rift/", env!("CARGO_PKG_VERSION"), " npm/11"));
        // Streams that wait for a worker must never use up what a stream that is read needs.
        let sockets = u32::try_from(self.settings.max_sockets).unwrap_or(SOCKETS_MAX);
        let connection_bytes = STREAM_BYTES * sockets.clamp(1, SOCKETS_MAX);
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        if let Ok(agent) = HeaderValue::from_str(agent) {
            headers.insert(USER_AGENT, agent);
        }
        Client::builder()
            .tls_backend_preconfigured(self.tls(identity)?)
            .no_proxy()
            .proxy(proxy)
            .default_headers(headers)
            .redirect(redirect::Policy::none())
            .referer(false)
            .connect_timeout(self.settings.timeout)
            .read_timeout(self.settings.timeout)
            .pool_max_idle_per_host(self.settings.max_sockets.max(1))
            .http2_initial_stream_window_size(STREAM_BYTES)
            .http2_initial_connection_window_size(connection_bytes)
            .build()
            .map_err(|error| RegistryError::Setting { name: "proxy", reason: reason(&error) })
    }

    /// Returns the TLS settings: whom to trust, and who we are.
    fn tls(
        &self,
        identity: Option<&(PathBuf, PathBuf)>,
    ) -> Result<rustls::ClientConfig, RegistryError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let setting = |name: &'static str| {
            move |error: rustls::Error| RegistryError::Setting { name, reason: error.to_string() }
        };
        let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(setting("strict-ssl"))?;
        let builder = match self.settings.strict_ssl {
            true => builder.with_root_certificates(self.roots()?),
            false => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(danger::TrustEverybody(provider))),
        };
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let bytes = read_setting("keyfile", key)?;
                let key = PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| {
                    let reason = "it holds no private key".to_owned();
                    RegistryError::Setting { name: "keyfile", reason }
                })?;
                let certs = certificates("certfile", &read_setting("certfile", cert)?)?;
                builder.with_client_auth_cert(certs, key).map_err(setting("certfile"))?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    fn roots(&self) -> Result<rustls::RootCertStore, RegistryError> {
        let mut own = Vec::new();
        for pem in &self.settings.ca {
            own.extend(certificates("ca", pem.replace("\\n", "\n").as_bytes())?);
        }
        if let Some(path) = &self.settings.cafile {
            own.extend(certificates("cafile", &read_setting("cafile", path)?)?);
        }
        let mut roots = rustls::RootCertStore::empty();
        if own.is_empty() {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        for path in &self.settings.extra_ca_files {
            let found = std::fs::read(path).ok().and_then(|it| certificates("ca", &it).ok());
            own.extend(found.unwrap_or_default());
        }
        // Certificates that rustls can't read, which collections of hundreds have, are passed over.
        roots.add_parsable_certificates(own);
        Ok(roots)
    }

    /// Asks for a tarball, following redirects; the answer is a 200.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn get(&self, name: &str, url: Url) -> Result<Response, RegistryError> {
        let registry = self.settings.registry_of(name)?;
        let auth = self.settings.auth_for(&url, &registry);
        let client = self.client(auth)?;
        let mut url = url;
        let mut authorization = auth.and_then(Auth::header).or_else(|| login_of(&url));
        for _ in 0..REDIRECTS_MAX {
            let shown = shown(&url);
            // reqwest would send what the address says about the user by itself.
            _ = url.set_username("");
            _ = url.set_password(None);
            let mut request = client.get(url.clone());
            if let Some(authorization) = &authorization {
                request = request.header(AUTHORIZATION, authorization.clone());
            }
            let response = request.send().await.map_err(|error| RegistryError::Network {
                url: shown.clone(),
                reason: reason(&error.without_url()),
            })?;
            let status = response.status();
            if status == StatusCode::OK {
                return Ok(response);
            }
            if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                let was_authorized = authorization.is_some();
                let status = status.as_u16();
                return Err(RegistryError::Status { url: shown, status, was_authorized });
            }
            let location = response.headers().get(LOCATION).and_then(|it| it.to_str().ok());
            let next = location.and_then(|location| url.join(location).ok());
            let is_http = |next: &Url| matches!(next.scheme(), "http" | "https");
            let Some(next) = next.filter(is_http) else {
                return Err(RegistryError::Redirect { url: shown });
            };
            if !is_same_place(&url, &next) {
                authorization = None;
            }
            url = next;
        }
        Err(RegistryError::Redirect { url: shown(&url) })
    }
}

/// Tells whether what may be said at `from` may be said at `to`: same host and port, or the same
/// host's encrypted default port.
fn is_same_place(from: &Url, to: &Url) -> bool {
    let is_upgrade = from.scheme() == "http"
        && to.scheme() == "https"
        && from.port().is_none()
        && to.port().is_none();
    let is_downgrade = from.scheme() == "https" && to.scheme() == "http";
    let is_same_port = from.port_or_known_default() == to.port_or_known_default();
    from.host_str() == to.host_str() && !is_downgrade && (is_same_port || is_upgrade)
}

/// Returns the `authorization` header that the user and password in an address ask for.
fn login_of(url: &Url) -> Option<HeaderValue> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let mut login = percent_decode(url.username());
    login.push(b':');
    login.extend(percent_decode(url.password().unwrap_or_default()));
    let auth = Auth { basic: Some(base64_encode(&login)), ..Auth::default() };
    auth.header()
}

fn percent_decode(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

/// Returns what is wrong, down to the last cause, without addresses.
pub(super) fn reason(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

fn read_setting(name: &'static str, path: &Path) -> Result<Vec<u8>, RegistryError> {
    std::fs::read(path).map_err(|error| RegistryError::Setting {
        name,
        reason: format!("could not read `{}`: {error}", path.display()),
    })
}

fn certificates(
    name: &'static str,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, RegistryError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    found.ok().filter(|found| !found.is_empty()).ok_or_else(|| RegistryError::Setting {
        name,
        reason: "it holds no certificate".to_owned(),
    })
}

/// What `strict-ssl=false` asks for.
mod danger {
    use std::sync::Arc;

    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{DigitallySignedStruct, Error, SignatureScheme};

    /// Believes any certificate. The tarball's integrity still has to match.
    #[derive(Debug)]
    pub(super) struct TrustEverybody(pub(super) Arc<CryptoProvider>);

    impl ServerCertVerifier for TrustEverybody {
        fn verify_server_cert(
            &self,
            _end_entity: &CertificateDer<'_>,
            _intermediates: &[CertificateDer<'_>],
            _server_name: &ServerName<'_>,
            _ocsp_response: &[u8],
            _now: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let algorithms = &self.0.signature_verification_algorithms;
            verify_tls12_signature(message, cert, dss, algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let algorithms = &self.0.signature_verification_algorithms;
            verify_tls13_signature(message, cert, dss, algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> RegistrySettings {
        let mut settings = RegistrySettings::new("https://reg.test/npm");
        settings.scopes.insert("@corp".into(), "https://corp.test/a/b/".into());
        let token = |token: &str| Auth { token: Some(token.into()), ..Auth::default() };
        settings.auth.insert("//corp.test/a/".into(), token("corp"));
        settings.auth.insert("//reg.test:8080/".into(), token("port"));
        settings.auth.insert("//cdn.test/pkgs".into(), token("cdn"));
        settings
    }

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn addresses_are_those_of_npm() {
        let mut settings = settings();
        let of = |settings: &RegistrySettings, name: &str, resolved: Option<&str>| {
            settings.tarball_url(name, "1.0.0+x", resolved).map(String::from)
        };
        let expected = "https://reg.test/npm/a/-/a-1.0.0+x.tgz";
        assert_eq!(of(&settings, "a", None).as_deref(), Ok(expected));
        let expected = "https://corp.test/a/b/@corp/n/-/n-1.0.0+x.tgz";
        assert_eq!(of(&settings, "@corp/n", None).as_deref(), Ok(expected));
        let resolved = "https://public.test/a/-/a-1.tgz?x=1";
        assert_eq!(of(&settings, "a", Some(resolved)).as_deref(), Ok(resolved));
        settings.replace_host = ReplaceHost::Host("public.test".into());
        let moved = "https://reg.test/npm/a/-/a-1.tgz";
        assert_eq!(of(&settings, "a", Some(resolved)).as_deref(), Ok(moved));
        let other = "https://other.test/a/-/a-1.tgz";
        assert_eq!(of(&settings, "a", Some(other)).as_deref(), Ok(other));
        settings.replace_host = ReplaceHost::Host("https://other.test/mirror/".into());
        let below = "https://other.test/mirror/a/-/a-1.tgz";
        assert_eq!(of(&settings, "a", Some(below)).as_deref(), Ok(moved));
        assert_eq!(of(&settings, "a", Some(other)).as_deref(), Ok(other));
        settings.replace_host = ReplaceHost::Always;
        assert_eq!(of(&settings, "a", Some(other)).as_deref(), Ok(moved));
        for bad in ["git+ssh://git@host/a.git#1", "file:../a", "a", "ftp://x/y"] {
            assert!(
                matches!(of(&settings, "a", Some(bad)), Err(RegistryError::Address(_))),
                "{bad}"
            );
        }
    }

    #[test]
    fn tokens_belong_to_hosts_and_paths() {
        let settings = settings();
        let token = |at: &str, name: &str| {
            let registry = settings.registry_of(name).unwrap();
            settings.auth_for(&url(at), &registry).and_then(|auth| auth.token.clone())
        };
        assert_eq!(token("https://corp.test/a/b/n.tgz", "@corp/n").as_deref(), Some("corp"));
        assert_eq!(token("https://corp.test/a/n.tgz", "n").as_deref(), Some("corp"));
        assert_eq!(token("https://corp.test/ab/n.tgz", "n"), None);
        // npm trusts the whole host of the package's own registry.
        assert_eq!(token("https://corp.test/ab/n.tgz", "@corp/n").as_deref(), Some("corp"));
        assert_eq!(token("https://corp.test:444/a/n.tgz", "@corp/n"), None);
        assert_eq!(token("https://reg.test/x.tgz", "n"), None);
        assert_eq!(token("http://reg.test:8080/x/y.tgz", "n").as_deref(), Some("port"));
        assert_eq!(token("https://cdn.test/pkgs/n.tgz", "n").as_deref(), Some("cdn"));
        assert_eq!(token("https://cdn.test/pkgs2/n.tgz", "n"), None);
        assert_eq!(token("https://corp.test.evil.test/a/b/n.tgz", "@corp/n"), None);
    }

    #[test]
    fn redirects_carry_nothing_elsewhere() {
        let same = |from: &str, to: &str| is_same_place(&url(from), &url(to));
        assert!(same("https://a.test/x", "https://a.test/y"));
        assert!(same("http://a.test/x", "https://a.test/y"));
        assert!(!same("https://a.test/x", "http://a.test/y"));
        assert!(!same("https://a.test/x", "https://b.a.test/y"));
        assert!(!same("https://a.test/x", "https://a.test:8443/y"));
    }

    #[test]
    fn nothing_secret_is_shown() {
        let secret = url("https://user:hunter2@a.test/p?token=hunter2#hunter2");
        assert_eq!(shown(&secret), "https://a.test/p");
        let mut settings = RegistrySettings::new("https://user:hunter2@a.test/");
        settings
            .auth
            .insert("//a.test/".into(), Auth { token: Some("hunter2".into()), ..Auth::default() });
        assert!(!format!("{settings:?}").contains("hunter2"), "{settings:?}");
        assert_eq!(
            login_of(&url("https://a%40b:c%2Fd@a.test/")).unwrap().to_str().unwrap(),
            format!("Basic {}", base64_encode(b"a@b:c/d"))
        );
    }

    #[test]
    fn proxies_and_backoff_are_npms() {
        let mut settings = settings();
        settings.https_proxy = Some("http://proxy.test:3128".into());
        settings.no_proxy = vec![".corp.test".into(), "localhost".into()];
        assert!(settings.proxy_for(&url("https://a.test/")).is_some());
        assert!(settings.proxy_for(&url("http://a.test/")).is_none());
        assert!(settings.proxy_for(&url("https://x.corp.test/")).is_none());
        assert!(settings.proxy_for(&url("https://xcorp.test/")).is_some());
        let seconds = [1, 2, 3].map(|attempt| settings.backoff(attempt).as_secs());
        assert_eq!(seconds, [10, 60, 60]);
    }
}
