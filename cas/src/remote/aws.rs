//! AWS's files: credentials, region and endpoint of a profile, as its own tools read `~/.aws/config` and
//! `~/.aws/credentials`.
//!
//! The environment comes first. What it lacks a profile may have: keys, a token of a web identity, or a program that
//! prints credentials. Roles that are assumed and single sign-on are AWS's own to do: the error says how its command
//! line does them. Nothing of a credential is printed or written, and the program is not named, as its words may hold one.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};

use chrono::DateTime;
use object_store::CredentialProvider;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey as Key, AwsCredential};

/// Credentials that are over sooner than this are asked for again.
const REFRESH: Duration = Duration::from_secs(300);
/// But not more often than this while they are good.
const PAUSE: Duration = Duration::from_secs(60);
/// No program prints more.
const PRINTED_MAX: u64 = 64 << 10;
/// How long what a program printed is waited for after its end: one that it has started may keep the pipe.
const PIPE_MAX: Duration = Duration::from_secs(1);

/// Where the profiles are.
#[derive(Debug, Clone, Default)]
pub struct Files {
    /// The profile that was asked for; else it is `default`.
    pub profile: Option<String>,
    /// The file of settings.
    pub config: Option<PathBuf>,
    /// The file of keys.
    pub credentials: Option<PathBuf>,
    /// Whether endpoints of the files are passed over.
    pub ignores_endpoints: bool,
}

type Section = BTreeMap<String, String>;

impl Files {
    /// Adds what the environment lacks; a program that prints credentials may take `limit`.
    pub(super) fn apply(
        &self,
        mut builder: AmazonS3Builder,
        limit: Duration,
    ) -> Result<AmazonS3Builder, String> {
        let name = self.profile.as_deref().unwrap_or("default");
        let settings = sections(self.config.as_deref())?;
        let keys = sections(self.credentials.as_deref())?;
        let of_settings = match name {
            "default" => settings.get(name).or_else(|| settings.get("profile default")),
            name => settings.get(&format!("profile {name}")),
        };
        if self.profile.is_some() && of_settings.is_none() && !keys.contains_key(name) {
            return Err(format!("AWS's files have no profile `{}`", name.escape_debug()));
        }
        let mut profile: Section = of_settings.cloned().unwrap_or_default();
        profile.extend(keys.get(name).cloned().unwrap_or_default());
        let is_unset = |builder: &AmazonS3Builder, keys: &[Key]| {
            keys.iter().all(|key| builder.get_config_value(key).is_none())
        };
        if let Some(region) = profile.get("region")
            && is_unset(&builder, &[Key::Region, Key::DefaultRegion])
        {
            builder = builder.with_region(region);
        }
        let services =
            profile.get("services").and_then(|of| settings.get(&format!("services {of}")));
        let endpoint = services.and_then(|services| services.get("s3.endpoint_url"));
        if let Some(endpoint) = endpoint.or_else(|| profile.get("endpoint_url"))
            && is_unset(&builder, &[Key::Endpoint, Key::S3Endpoint])
            && !self.ignores_endpoints
        {
            builder = builder.with_endpoint(endpoint);
        }
        let is_anonymous =
            builder.get_config_value(&Key::SkipSignature).is_some_and(|skips| skips == "true");
        let is_known = !is_unset(&builder, &[Key::AccessKeyId, Key::SecretAccessKey])
            || !is_unset(&builder, &[Key::WebIdentityTokenFile]);
        if is_anonymous || is_known {
            return Ok(builder);
        }
        with_credentials(builder, name, &profile, limit)
    }
}

/// Adds the credentials of a profile; where it has none, those of the machine remain to be asked for.
fn with_credentials(
    builder: AmazonS3Builder,
    name: &str,
    profile: &Section,
    limit: Duration,
) -> Result<AmazonS3Builder, String> {
    let get = |key: &str| profile.get(key).filter(|value| !value.is_empty());
    let shown = name.escape_debug();
    let elsewhere = |what: &str| {
        Err(format!(
            "the profile `{shown}` {what}, which rift does not do itself: AWS's command line does, by a profile with \
             `credential_process = aws configure export-credentials --profile {shown} --format process`"
        ))
    };
    if let (Some(role), Some(token)) = (get("role_arn"), get("web_identity_token_file")) {
        let builder = builder.with_config(Key::RoleArn, role);
        let builder = match get("role_session_name") {
            Some(session) => builder.with_config(Key::RoleSessionName, session),
            None => builder,
        };
        return Ok(builder.with_config(Key::WebIdentityTokenFile, token));
    }
    if get("role_arn").is_some() {
        return elsewhere("assumes a role");
    }
    match (get("aws_access_key_id"), get("aws_secret_access_key")) {
        (Some(id), Some(secret)) => {
            let builder = builder.with_access_key_id(id).with_secret_access_key(secret);
            return Ok(match get("aws_session_token") {
                Some(token) => builder.with_token(token),
                None => builder,
            });
        }
        (None, None) => {}
        _ => return Err(format!("the profile `{shown}` has one half of a key")),
    }
    if let Some(command) = get("credential_process") {
        let words = words(command).ok_or_else(|| {
            format!("`credential_process` of the profile `{shown}` can't be read")
        })?;
        let known = tokio::sync::Mutex::new(None);
        let program = Program { profile: shown.to_string(), words, limit, known };
        return Ok(builder.with_credentials(Arc::new(program)));
    }
    if ["sso_session", "sso_start_url", "sso_account_id"].iter().any(|key| get(key).is_some()) {
        return elsewhere("signs on at AWS");
    }
    if get("login_session").is_some() {
        return elsewhere("has the login of a browser");
    }
    Ok(builder)
}

/// Reads a file of sections; one that is not there has none.
fn sections(path: Option<&Path>) -> Result<BTreeMap<String, Section>, String> {
    let Some(path) = path else { return Ok(BTreeMap::new()) };
    match std::fs::read(path) {
        Ok(bytes) => Ok(parse(&String::from_utf8_lossy(&bytes))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(format!("`{}`: {error}", path.display())),
    }
}

/// Reads sections of settings. A setting below another one is named `ABOVE.NAME`.
fn parse(text: &str) -> BTreeMap<String, Section> {
    let mut sections: BTreeMap<String, Section> = BTreeMap::new();
    let (mut section, mut above) = (None, None);
    for line in text.lines() {
        let content = line.trim();
        if content.is_empty() || content.starts_with(['#', ';']) {
            continue;
        }
        if let Some(rest) = content.strip_prefix('[') {
            let inner = rest.split(']').next().unwrap_or_default().replace(['"', '\''], "");
            let name = inner.split_whitespace().collect::<Vec<_>>().join(" ");
            sections.entry(name.clone()).or_default();
            (section, above) = (Some(name), None);
            continue;
        }
        let Some((key, value)) = content.split_once('=') else { continue };
        let Some(settings) = section.as_ref().and_then(|name| sections.get_mut(name)) else {
            continue;
        };
        let key = key.trim().to_ascii_lowercase();
        let value = without_comment(value).trim().to_owned();
        if line.starts_with([' ', '\t']) {
            // Anything else that is indented goes on with a value that takes no second line here.
            if let Some(above) = &above {
                settings.insert(format!("{above}.{key}"), value);
            }
            continue;
        }
        above = value.is_empty().then(|| key.clone());
        settings.insert(key, value);
    }
    sections
}

/// Cuts a comment off a value: it begins behind a blank.
fn without_comment(value: &str) -> &str {
    let is_blank = |at: usize| value[..at].ends_with([' ', '\t']);
    let end = value.match_indices(['#', ';']).find(|(at, _)| is_blank(*at)).map(|(at, _)| at);
    &value[..end.unwrap_or(value.len())]
}

/// Splits a command line into words, with quotes as shells have them; `None` when a quote does not end.
fn words(command: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut letters = command.chars();
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (None, letter) if letter.is_whitespace() => words.extend(word.take()),
            (None, '\'' | '"') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (Some(open), letter) if letter == open => quote = None,
            (None | Some('"'), '\\') => word.get_or_insert_default().push(letters.next()?),
            (_, letter) => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    (quote.is_none() && !words.is_empty()).then_some(words)
}

/// A program that prints credentials, and what it has printed last.
struct Program {
    profile: String,
    words: Vec<String>,
    limit: Duration,
    known: tokio::sync::Mutex<Option<Known>>,
}

#[derive(Clone)]
struct Known {
    credential: Arc<AwsCredential>,
    expires: Option<SystemTime>,
    asked: Instant,
}

impl Known {
    /// Tells whether they are good for at least so long.
    fn lasts(&self, time: Duration) -> bool {
        self.expires.is_none_or(|expires| expires > SystemTime::now() + time)
    }

    fn is_fresh(&self) -> bool {
        let is_young = self.asked.elapsed() < PAUSE && self.lasts(Duration::from_secs(10));
        self.lasts(REFRESH) || is_young
    }
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Program({})", self.profile)
    }
}

/// Tells a thread that nobody waits for it any more.
struct Waits(Arc<AtomicBool>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Program {
    async fn credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        // Who comes second waits for the same answer.
        let mut known = self.known.lock().await;
        if let Some(known) = known.as_ref().filter(|known| known.is_fresh()) {
            return Ok(Arc::clone(&known.credential));
        }
        let is_over = Arc::new(AtomicBool::new(false));
        let _waits = Waits(Arc::clone(&is_over));
        let (words, limit) = (self.words.clone(), self.limit);
        let ran = tokio::task::spawn_blocking(move || printed(&words, limit, &is_over)).await;
        let ran = ran.map_err(|error| error.to_string()).and_then(|ran| ran);
        let asked = Instant::now();
        let answer = ran.and_then(|bytes| read(&bytes, asked));
        let answer = match (answer, known.as_ref()) {
            // What is there is good for a while yet.
            (Err(_), Some(known)) if known.lasts(Duration::from_secs(10)) => {
                Known { asked, ..known.clone() }
            }
            (answer, _) => answer.map_err(|reason| {
                let profile = &self.profile;
                let text = format!("`credential_process` of the profile `{profile}` {reason}");
                object_store::Error::Generic { store: "S3", source: text.into() }
            })?,
        };
        Ok(Arc::clone(&known.insert(answer).credential))
    }
}

impl CredentialProvider for Program {
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

/// Runs a program and returns what it prints; what it complains of is its own, and may hold what nobody else is to see.
fn printed(words: &[String], limit: Duration, is_over: &AtomicBool) -> Result<Vec<u8>, String> {
    let end = Instant::now() + limit;
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("could not be started: {error}"))?;
    let (sender, receiver) = mpsc::channel();
    let pipe = child.stdout.take();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = pipe.map(|pipe| pipe.take(PRINTED_MAX + 1).read_to_end(&mut bytes));
        // Nobody may wait for it any more.
        let _is_heard = sender.send(read.is_some_and(|read| read.is_ok()).then_some(bytes)).is_ok();
    });
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < end && !is_over.load(Ordering::Relaxed) => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok(None) => {
                let _is_ended = child.kill().and_then(|()| child.wait()).is_ok();
                return Err(format!("was not done after {} s", limit.as_secs()));
            }
            Err(error) => return Err(format!("could not be waited for: {error}")),
        }
    };
    if !status.success() {
        return Err(format!("ended with {status}; run it by hand to see why"));
    }
    match receiver.recv_timeout(PIPE_MAX) {
        Ok(Some(bytes)) if bytes.len() as u64 <= PRINTED_MAX => Ok(bytes),
        Ok(Some(_)) => Err(format!("prints more than {PRINTED_MAX} bytes")),
        Ok(None) | Err(_) => Err("does not end what it prints".to_owned()),
    }
}

/// Reads what a program has printed. Errors show nothing of it.
fn read(bytes: &[u8], asked: Instant) -> Result<Known, String> {
    let wrong = || "does not print credentials of version 1".to_owned();
    let printed: serde_json::Value = serde_json::from_slice(bytes).map_err(|_| wrong())?;
    let text = |key: &str| printed.get(key).and_then(|value| value.as_str()).map(str::to_owned);
    let filled = |key: &str| text(key).filter(|value| !value.is_empty());
    if printed.get("Version").and_then(serde_json::Value::as_u64) != Some(1) {
        return Err(wrong());
    }
    let (Some(key_id), Some(secret_key)) = (filled("AccessKeyId"), filled("SecretAccessKey"))
    else {
        return Err(wrong());
    };
    let expires = match text("Expiration") {
        Some(time) => Some(parse_time(&time).ok_or_else(|| "prints no time of expiry".to_owned())?),
        None => None,
    };
    let credential = Arc::new(AwsCredential { key_id, secret_key, token: filled("SessionToken") });
    let known = Known { credential, expires, asked };
    match known.lasts(Duration::ZERO) {
        true => Ok(known),
        false => Err("prints credentials that are over".to_owned()),
    }
}

/// Reads a time as RFC 3339 has it.
fn parse_time(text: &str) -> Option<SystemTime> {
    DateTime::parse_from_rfc3339(text).ok().map(SystemTime::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_as_awss_tools_read_them() {
        let read = parse(
            "# mine\n[default]\nregion=eu-west-1 ; here\naws_secret_access_key = a/b+c=d#e\n\n\
             [profile \"two words\"]\nRegion = us-east-2\ns3 =\n  max_concurrent_requests = 20\n\
             services = local\n[ services local ]\ns3 =\n  endpoint_url = http://127.0.0.1:1 # x\n",
        );
        let get = |section: &str, key: &str| read[section].get(key).map(String::as_str);
        assert_eq!(get("default", "region"), Some("eu-west-1"));
        assert_eq!(get("default", "aws_secret_access_key"), Some("a/b+c=d#e"));
        assert_eq!(get("profile two words", "region"), Some("us-east-2"));
        assert_eq!(get("profile two words", "services"), Some("local"));
        assert_eq!(get("services local", "s3.endpoint_url"), Some("http://127.0.0.1:1"));
    }

    #[test]
    fn command_lines_are_split() {
        let split = |line| words(line).map(|words| words.join("|"));
        for (line, expected) in [
            ("/opt/keys --for me", Some("/opt/keys|--for|me")),
            (" \"/a b/c\" 'd \"e' \"\" f\\ g ", Some("/a b/c|d \"e||f g")),
            ("'open", None),
            ("", None),
        ] {
            assert_eq!(split(line).as_deref(), expected, "{line}");
        }
    }

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
            ("2025-13-01T00:00:00Z", None),
            ("soon", None),
        ] {
            assert_eq!(secs(text), expected, "{text}");
        }
    }

    #[test]
    fn what_a_program_prints_is_not_shown() {
        let now = Instant::now();
        let error = |text: &str| read(text.as_bytes(), now).map(drop).unwrap_err();
        for text in [
            "s3cr3t",
            "{\"Version\": 2, \"AccessKeyId\": \"a\", \"SecretAccessKey\": \"s3cr3t\"}",
            "{\"Version\": 1, \"AccessKeyId\": \"\", \"SecretAccessKey\": \"s3cr3t\"}",
            "{\"Version\": 1, \"AccessKeyId\": \"a\", \"SecretAccessKey\": \"s3cr3t\", \"Expiration\": \"2001-01-01T00:00:00Z\"}",
        ] {
            assert!(!error(text).contains("s3cr3t"), "{text}");
        }
        let good = "{\"Version\": 1, \"AccessKeyId\": \"a\", \"SecretAccessKey\": \"b\"}";
        assert!(read(good.as_bytes(), now).is_ok_and(|known| known.is_fresh()));
    }
}
