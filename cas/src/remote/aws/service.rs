//! A service of AWS's that gives credentials: requests to it, and what it answers.

use std::time::Duration;

use futures_util::StreamExt as _;
use object_store::ClientOptions;
use object_store::client::{HttpClient, HttpConnector as _, HttpRequest, HttpResponse};

use crate::remote::Limits;
use crate::remote::error::innermost;
use crate::remote::http::Connector;

/// No answer with credentials is longer.
const ANSWER_MAX: usize = 64 << 10;
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// A service.
#[derive(Debug)]
pub(super) struct Service {
    client: HttpClient,
    endpoint: String,
    limits: Limits,
}

/// What it answers.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) text: String,
}

impl Service {
    /// Prepares for requests to an endpoint. No credential follows where it redirects to.
    pub(super) fn new(
        connector: &Connector,
        endpoint: String,
        allows_http: bool,
        limits: Limits,
    ) -> Result<Self, String> {
        if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
            return Err("an endpoint of AWS's services begins with https://".to_owned());
        }
        let options = ClientOptions::new().with_allow_http(allows_http);
        let client = connector.without_redirects().connect(&options);
        let client = client.map_err(|error| error.to_string())?;
        Ok(Self { client, endpoint: endpoint.trim_end_matches('/').to_owned(), limits })
    }

    /// Returns the address of a path, which may have a query.
    pub(super) fn address(&self, path: &str) -> String {
        format!("{}{path}", self.endpoint)
    }

    /// Sends a request, and again where that may help; `make` makes each.
    pub(super) async fn answer(
        &self,
        make: impl Fn() -> Result<HttpRequest, String> + Send,
    ) -> Result<Answer, String> {
        let (mut left, mut pause) = (self.limits.retries, FIRST_PAUSE);
        loop {
            let failed = match self.client.execute(make()?).await {
                Ok(response) => match self.read(response).await {
                    Ok(answer) if answer.status < 500 && answer.status != 429 => return Ok(answer),
                    Ok(answer) => format!("it answers with status {}", answer.status),
                    Err(reason) => reason,
                },
                Err(error) => innermost(&error),
            };
            if left == 0 {
                return Err(failed);
            }
            left -= 1;
            tokio::time::sleep(pause.min(self.limits.answer)).await;
            pause *= 2;
        }
    }

    async fn read(&self, response: HttpResponse) -> Result<Answer, String> {
        let status = response.status().as_u16();
        let mut stream = response.into_body().bytes_stream();
        let mut bytes = Vec::new();
        let whole = async {
            while let Some(chunk) = stream.next().await {
                bytes.extend_from_slice(&chunk.map_err(|error| innermost(&error))?);
                if bytes.len() > ANSWER_MAX {
                    return Err(format!("it answers with more than {ANSWER_MAX} bytes"));
                }
            }
            Ok(())
        };
        let whole = tokio::time::timeout(self.limits.answer, whole).await;
        whole.map_err(|_| "its answer does not end".to_owned())??;
        Ok(Answer { status, text: String::from_utf8_lossy(&bytes).into_owned() })
    }
}

/// Escapes a value for a query or a form.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                escaped.push(char::from(byte));
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}
