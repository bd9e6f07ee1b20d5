//! Roles that are assumed: AWS's token service gives credentials of a role to those of another profile, or of the machine.

use object_store::aws::{AwsAuthorizer, AwsCredential, AwsCredentialProvider};
use object_store::client::{HttpRequest, HttpRequestBody};
use reqwest::Method;
use reqwest::header::HeaderValue;

use super::kept::{Asked, Known, Source, parse_time};
use super::service::{Service, escaped};

/// The name that sessions have where the profile gives none.
pub(super) const SESSION: &str = "rift";

/// Which role is assumed, and by whom.
pub(super) struct Role {
    pub(super) profile: String,
    pub(super) arn: String,
    pub(super) session: String,
    pub(super) external_id: Option<String>,
    /// How long the credentials are to last; the service has its own mind where nothing is said.
    pub(super) seconds: Option<u32>,
    pub(super) source: AwsCredentialProvider,
    pub(super) region: String,
    pub(super) service: Service,
}

impl std::fmt::Debug for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Role({})", self.profile)
    }
}

impl Role {
    /// Returns the request, as a form.
    fn form(&self) -> String {
        let seconds = self.seconds.map(|seconds| seconds.to_string());
        let fields = [
            ("Action", Some("AssumeRole")),
            ("Version", Some("2011-06-15")),
            ("RoleArn", Some(self.arn.as_str())),
            ("RoleSessionName", Some(self.session.as_str())),
            ("DurationSeconds", seconds.as_deref()),
            ("ExternalId", self.external_id.as_deref()),
        ];
        let fields = fields.iter().filter_map(|(name, value)| Some((name, (*value)?)));
        let fields: Vec<_> =
            fields.map(|(name, value)| format!("{name}={}", escaped(value))).collect();
        fields.join("&")
    }

    fn request(&self, source: &AwsCredential) -> Result<HttpRequest, String> {
        let mut request = HttpRequest::new(HttpRequestBody::from(self.form()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() =
            self.service.address("/").parse().map_err(|_| "its address is odd".to_owned())?;
        let form = HeaderValue::from_static("application/x-www-form-urlencoded; charset=utf-8");
        request.headers_mut().insert("content-type", form);
        let signer = AwsAuthorizer::new(source, "sts", &self.region);
        let signed = signer.try_authorize(&mut request, None);
        signed.map_err(|_| "the request could not be signed".to_owned())?;
        Ok(request)
    }

    async fn credentials(&self) -> Result<Known, String> {
        let source = self.source.get_credential().await.map_err(|error| match error {
            // Its own sentence, without the name of the service.
            object_store::Error::Generic { source, .. } => source.to_string(),
            error => error.to_string(),
        })?;
        let failed = |reason: String| {
            format!("the role of the profile `{}` is not given by AWS: {reason}", self.profile)
        };
        let answer = self.service.answer(|| self.request(&source)).await.map_err(failed)?;
        if answer.status != 200 {
            // The rest of it may hold what was signed.
            let code = element(&answer.text, "Code").filter(|code| is_word(code));
            let code = code.map(|code| format!(", {code}")).unwrap_or_default();
            return Err(failed(format!("it answers with status {}{code}", answer.status)));
        }
        read(&answer.text).ok_or_else(|| failed("its answer can't be read".to_owned()))
    }
}

impl Source for Role {
    fn ask(&self) -> Asked<'_> {
        Box::pin(self.credentials())
    }
}

fn is_word(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Returns what the first element of a name holds, in XML as the service writes it; these values have no escapes.
fn element<'t>(xml: &'t str, name: &str) -> Option<&'t str> {
    let rest = xml.split_once(&format!("<{name}>"))?.1;
    Some(rest.split_once(&format!("</{name}>"))?.0.trim())
}

/// Reads what the service answers.
fn read(xml: &str) -> Option<Known> {
    let inner = element(xml, "Credentials")?;
    let text = |name| element(inner, name).filter(|text| !text.is_empty()).map(str::to_owned);
    let (key_id, secret_key) = (text("AccessKeyId")?, text("SecretAccessKey")?);
    let credential = AwsCredential { key_id, secret_key, token: Some(text("SessionToken")?) };
    Known::new(credential, Some(parse_time(element(inner, "Expiration")?)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_answers_are_read() {
        let answer = |year: u32| {
            format!(
                "<AssumeRoleResponse><AssumeRoleResult><Credentials>\n<AccessKeyId>a</AccessKeyId>\
                 <SecretAccessKey>b+/=</SecretAccessKey><SessionToken>c</SessionToken>\
                 <Expiration>{year}-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"
            )
        };
        assert!(read(&answer(2900)).is_some());
        for wrong in [&answer(2001), "", "<Credentials></Credentials>"] {
            assert!(read(wrong).is_none(), "{wrong}");
        }
        assert_eq!(element("<E><Code>AccessDenied</Code></E>", "Code"), Some("AccessDenied"));
        assert!(is_word("AccessDenied") && !is_word("a b") && !is_word(""));
    }
}
