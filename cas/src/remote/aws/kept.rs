//! Credentials that end: they are kept in memory, and asked for again before they are over.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use chrono::DateTime;
use object_store::CredentialProvider;
use object_store::aws::{AwsCredential, AwsCredentialProvider};

/// Credentials that are over sooner than this are asked for again.
const REFRESH: Duration = Duration::from_secs(300);
/// But not more often than this while they are good.
const PAUSE: Duration = Duration::from_secs(60);
/// Those that are over sooner are of no use.
const SPARE: Duration = Duration::from_secs(10);

/// What a source answers: credentials, or a sentence that shows nothing of them.
pub(super) type Asked<'a> = Pin<Box<dyn Future<Output = Result<Known, String>> + Send + 'a>>;

/// Where credentials come from.
pub(super) trait Source: fmt::Debug + Send + Sync + 'static {
    /// Asks for credentials.
    fn ask(&self) -> Asked<'_>;
}

/// Credentials, and when they end.
#[derive(Clone)]
pub(super) struct Known {
    credential: Arc<AwsCredential>,
    expires: Option<SystemTime>,
    asked: Instant,
}

impl Known {
    /// Takes what a source has answered; `None` when it is over already.
    pub(super) fn new(credential: AwsCredential, expires: Option<SystemTime>) -> Option<Self> {
        let known = Self { credential: Arc::new(credential), expires, asked: Instant::now() };
        known.lasts(Duration::ZERO).then_some(known)
    }

    /// Tells whether they are good for at least so long.
    fn lasts(&self, time: Duration) -> bool {
        self.expires.is_none_or(|expires| expires > SystemTime::now() + time)
    }

    pub(super) fn is_fresh(&self) -> bool {
        let is_young = self.asked.elapsed() < PAUSE && self.lasts(SPARE);
        self.lasts(REFRESH) || is_young
    }
}

/// A source, and what it has answered last.
struct Kept<S> {
    source: S,
    known: tokio::sync::Mutex<Option<Known>>,
}

/// Returns what signs with the credentials of a source.
pub(super) fn kept(source: impl Source) -> AwsCredentialProvider {
    Arc::new(Kept { source, known: tokio::sync::Mutex::new(None) })
}

impl<S: Source> fmt::Debug for Kept<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kept({:?})", self.source)
    }
}

impl<S: Source> Kept<S> {
    async fn credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        // Who comes second waits for the same answer.
        let mut known = self.known.lock().await;
        if let Some(known) = known.as_ref().filter(|known| known.is_fresh()) {
            return Ok(Arc::clone(&known.credential));
        }
        let answer = match (self.source.ask().await, known.as_ref()) {
            // What is there is good for a while yet.
            (Err(_), Some(known)) if known.lasts(SPARE) => {
                Known { asked: Instant::now(), ..known.clone() }
            }
            (answer, _) => answer.map_err(|text| object_store::Error::Generic {
                store: "S3",
                source: text.into(),
            })?,
        };
        Ok(Arc::clone(&known.insert(answer).credential))
    }
}

impl<S: Source> CredentialProvider for Kept<S> {
    type Credential = AwsCredential;

    // As the macro of the crate `async-trait` would write it.
    fn get_credential<'s, 'f>(
        &'s self,
    ) -> Pin<Box<dyn Future<Output = object_store::Result<Arc<AwsCredential>>> + Send + 'f>>
    where
        's: 'f,
        Self: 'f,
    {
        Box::pin(self.credential())
    }
}

/// Reads a time as RFC 3339 has it, or with `UTC` at its end.
pub(super) fn parse_time(text: &str) -> Option<SystemTime> {
    let time = match text.strip_suffix("UTC") {
        Some(time) => DateTime::parse_from_rfc3339(&format!("{time}Z")),
        None => DateTime::parse_from_rfc3339(text),
    };
    time.ok().map(SystemTime::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        let secs = |text| {
            let time = parse_time(text)?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
            Some(time.as_secs())
        };
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T12:00:00Z", Some(951_825_600)),
            ("2024-12-31T23:59:59.123456Z", Some(1_735_689_599)),
            ("2025-01-01T01:00:00+01:00", Some(1_735_689_600)),
            ("2024-12-31T22:30:00-01:30", Some(1_735_689_600)),
            ("2024-12-31T23:59:59UTC", Some(1_735_689_599)),
            ("2025-13-01T00:00:00Z", None),
            ("soon", None),
        ] {
            assert_eq!(secs(text), expected, "{text}");
        }
    }
}
