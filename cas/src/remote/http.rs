//! HTTP for remotes: TLS with ring, proxies of the environment, and a count of what goes over the wire.
//!
//! `object_store` signs requests and retries them; each attempt passes through [`Service`], which counts it, bounds the
//! time until its answer begins, and waits as long as an overloaded server asks for. How long an answer may take is
//! bounded by who reads it.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use object_store::client::{
    ClientConfigKey, ClientOptions, HttpClient, HttpConnector, HttpError, HttpErrorKind,
    HttpRequest, HttpResponse, HttpService,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::Limits;
use super::error::{Error, Result};

/// Where systems keep the certificates that they trust.
const SYSTEM_CERTIFICATES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// A server that asks for a longer pause is asked again anyway.
const PAUSE_MAX: Duration = Duration::from_secs(20);
const REDIRECTS_MAX: usize = 3;

/// What went over the wire.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    pub(crate) gets: AtomicU64,
    pub(crate) heads: AtomicU64,
    pub(crate) puts: AtomicU64,
    pub(crate) others: AtomicU64,
    pub(crate) sent_bytes: AtomicU64,
    pub(crate) received_bytes: AtomicU64,
    /// How many bytes more came out of frames than were in them.
    pub(crate) gained_bytes: AtomicU64,
}

impl Meter {
    pub(crate) fn count(&self, method: &str, sent_bytes: u64) {
        let requests = match method {
            "GET" => &self.gets,
            "HEAD" => &self.heads,
            "PUT" => &self.puts,
            _ => &self.others,
        };
        requests.fetch_add(1, Ordering::Relaxed);
        self.sent_bytes.fetch_add(sent_bytes, Ordering::Relaxed);
    }
}

/// Makes clients for `object_store`.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    tls: rustls::ClientConfig,
    meter: Arc<Meter>,
    limits: Limits,
    redirects: usize,
}

impl Connector {
    /// Reads the certificates that servers are known by: the web's, the system's, and those of `certificates`.
    ///
    /// # Errors
    /// A file of `certificates` that can't be read.
    pub(crate) fn new(certificates: &[PathBuf], meter: Arc<Meter>, limits: Limits) -> Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        let system = SYSTEM_CERTIFICATES.iter().find_map(|path| std::fs::read(path).ok());
        let mut files: Vec<Vec<u8>> = system.into_iter().collect();
        for path in certificates {
            let reason = |error| format!("`{}`: {error}", path.display());
            let bytes = std::fs::read(path).map_err(reason);
            let action = "read the certificates";
            files.push(bytes.map_err(|reason| Error::Setup { action, reason })?);
        }
        for file in &files {
            // Certificates that rustls can't read, which collections of hundreds have, are passed over.
            roots.add_parsable_certificates(CertificateDer::pem_slice_iter(file).flatten());
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::Setup { action: "set up TLS", reason: error.to_string() })?;
        let mut tls = builder.with_root_certificates(roots).with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { tls, meter, limits, redirects: REDIRECTS_MAX })
    }

    /// Returns one whose clients stay where they are sent to, as headers with credentials of its own would go along.
    pub(crate) fn without_redirects(&self) -> Self {
        Self { redirects: 0, ..self.clone() }
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let policy = match self.redirects {
            0 => reqwest::redirect::Policy::none(),
            redirects => reqwest::redirect::Policy::limited(redirects),
        };
        let allows_http = options.get_config_value(&ClientConfigKey::AllowHttp);
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(self.tls.clone())
            .https_only(allows_http.as_deref() != Some("true"))
            .user_agent(concat!("rift/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(self.limits.answer)
            .redirect(policy)
            .referer(false)
            .build()
            .map_err(|error| object_store::Error::Generic {
                store: "HTTP",
                source: error.into(),
            })?;
        let (meter, limits) = (Arc::clone(&self.meter), self.limits);
        Ok(HttpClient::new(Service { client, meter, limits }))
    }
}

/// One client.
#[derive(Debug)]
struct Service {
    client: reqwest::Client,
    meter: Arc<Meter>,
    limits: Limits,
}

impl Service {
    async fn answer(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let sent_bytes = request.body().content_length() as u64;
        self.meter.count(request.method().as_str(), sent_bytes);
        let limit = self.limits.of_bytes(sent_bytes);
        let answer = match tokio::time::timeout(limit, self.client.call(request)).await {
            Ok(answer) => answer?,
            Err(elapsed) => return Err(HttpError::new(HttpErrorKind::Timeout, elapsed)),
        };
        if matches!(answer.status().as_u16(), 429 | 503) {
            let pause = answer.headers().get("retry-after");
            let seconds = pause.and_then(|value| value.to_str().ok()?.trim().parse().ok());
            let pause = seconds.map_or(Duration::ZERO, Duration::from_secs);
            tokio::time::sleep(pause.min(PAUSE_MAX).min(limit)).await;
        }
        Ok(answer)
    }
}

impl HttpService for Service {
    // As the macro of the crate `async-trait` would write it.
    fn call<'s, 'f>(
        &'s self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'f>>
    where
        's: 'f,
        Self: 'f,
    {
        Box::pin(self.answer(request))
    }
}
