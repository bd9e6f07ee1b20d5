//! Single sign-on: AWS's portal gives credentials of a role for the token that `aws sso login` has left in a file.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use object_store::aws::AwsCredential;
use object_store::client::{HttpRequest, HttpRequestBody};
use reqwest::header::HeaderValue;
use serde_json::Value;
use sha1::{Digest as _, Sha1};

use super::kept::{Asked, Known, Source, parse_time};
use super::service::{Service, escaped};

/// Who has signed on, as what.
pub(super) struct SignOn {
    pub(super) profile: String,
    /// The file of the token.
    pub(super) token: PathBuf,
    pub(super) account: String,
    pub(super) role: String,
    pub(super) portal: Service,
}

impl std::fmt::Debug for SignOn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SignOn({})", self.profile)
    }
}

/// Returns the file of a token in a folder, by the name of its session, or by the start address where it has none.
pub(super) fn token_file(folder: &Path, name: &str) -> PathBuf {
    let digits: Vec<String> =
        Sha1::digest(name.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    folder.join(format!("{}.json", digits.concat()))
}

impl SignOn {
    /// Says what is wrong with the token, and what helps.
    fn sign_on(&self, wrong: &str) -> String {
        let profile = &self.profile;
        format!("{wrong} for the profile `{profile}`: `aws sso login --profile {profile}` does it")
    }

    /// Returns the token, which somebody may have renewed meanwhile.
    fn token(&self) -> Result<String, String> {
        let bytes = match std::fs::read(&self.token) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(self.sign_on("nobody has signed on"));
            }
            Err(error) => return Err(format!("`{}`: {error}", self.token.display())),
        };
        let token: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let text = |key: &str| token.get(key).and_then(Value::as_str);
        let (Some(token), Some(end)) =
            (text("accessToken"), text("expiresAt").and_then(parse_time))
        else {
            return Err(self.sign_on("the file of the sign-on can't be read; sign on again"));
        };
        match end > SystemTime::now() {
            true => Ok(token.to_owned()),
            false => Err(self.sign_on("the sign-on is over; sign on again")),
        }
    }

    async fn credentials(&self) -> Result<Known, String> {
        let token = self.token()?;
        let (role, account) = (escaped(&self.role), escaped(&self.account));
        let path = format!("/federation/credentials?role_name={role}&account_id={account}");
        let make = || {
            let mut request = HttpRequest::new(HttpRequestBody::empty());
            *request.uri_mut() = self.portal.address(&path).parse().map_err(|_| {
                format!("the portal of the profile `{}` has an odd address", self.profile)
            })?;
            let mut value = HeaderValue::from_str(&token)
                .map_err(|_| self.sign_on("the token of the sign-on is odd; sign on again"))?;
            value.set_sensitive(true);
            request.headers_mut().insert("x-amz-sso_bearer_token", value);
            Ok(request)
        };
        let profile = &self.profile;
        let failed =
            |reason| format!("AWS gives no credentials to the sign-on of `{profile}`: {reason}");
        let answer = self.portal.answer(make).await.map_err(failed)?;
        match answer.status {
            200 => read(&answer.text).ok_or_else(|| failed("its answer can't be read".to_owned())),
            401 => Err(self.sign_on("the sign-on is not accepted any more; sign on again")),
            status => Err(failed(format!("it answers with status {status}"))),
        }
    }
}

impl Source for SignOn {
    fn ask(&self) -> Asked<'_> {
        Box::pin(self.credentials())
    }
}

/// Reads what the portal answers.
fn read(text: &str) -> Option<Known> {
    let answer: Value = serde_json::from_str(text).ok()?;
    let answer = answer.get("roleCredentials")?;
    let text = |key: &str| {
        let value = answer.get(key)?.as_str()?;
        (!value.is_empty()).then(|| value.to_owned())
    };
    let (key_id, secret_key) = (text("accessKeyId")?, text("secretAccessKey")?);
    let credential = AwsCredential { key_id, secret_key, token: text("sessionToken") };
    let end = Duration::from_millis(answer.get("expiration")?.as_u64()?);
    Known::new(credential, Some(SystemTime::UNIX_EPOCH + end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_a_token_is_found() {
        // As Python's hashlib has it.
        let expected = "/cache/ee0bfd2552fbd840c02cc48b6e823320543c450f.json";
        assert_eq!(token_file(Path::new("/cache"), "corp").to_str(), Some(expected));
    }

    #[test]
    fn only_whole_answers_are_read() {
        let answer = |end: u64| {
            format!(
                "{{\"roleCredentials\": {{\"accessKeyId\": \"a\", \"secretAccessKey\": \"b\", \
                 \"sessionToken\": \"c\", \"expiration\": {end}}}}}"
            )
        };
        assert!(read(&answer(u64::MAX / 2_000_000)).is_some());
        for wrong in [&answer(1000), "{}", "", "{\"roleCredentials\": {\"accessKeyId\": \"a\"}}"] {
            assert!(read(wrong).is_none(), "{wrong}");
        }
    }
}
