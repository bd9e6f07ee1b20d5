//! A program that prints credentials (`credential_process`), run as AWS's tools run it: without a shell.
//!
//! What it prints is shown to nobody, nor are its words. What it complains of stands in the error when it fails.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use object_store::aws::AwsCredential;

use super::kept::{Asked, Known, Source, parse_time};
use crate::lock::lock;

/// No program prints more.
const PRINTED_MAX: u64 = 64 << 10;
/// So much of what it complains of is shown.
const COMPLAINT_CHARS: usize = 160;
/// How long what a program printed is waited for after its end: one that it has started may keep the pipe.
const PIPE_MAX: Duration = Duration::from_secs(1);

/// The program.
pub(super) struct Program {
    profile: String,
    words: Vec<String>,
    limit: Duration,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Program({})", self.profile)
    }
}

impl Program {
    /// Takes the words of a command line for a profile; `None` when it can't be read. It may take `limit`.
    pub(super) fn new(profile: String, command: &str, limit: Duration) -> Option<Self> {
        Some(Self { profile, words: words(command)?, limit })
    }
}

/// Tells a thread that nobody waits for it any more.
struct Waits(Arc<AtomicBool>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Source for Program {
    fn ask(&self) -> Asked<'_> {
        Box::pin(async move {
            let is_over = Arc::new(AtomicBool::new(false));
            let _waits = Waits(Arc::clone(&is_over));
            let (words, limit) = (self.words.clone(), self.limit);
            let ran = tokio::task::spawn_blocking(move || printed(&words, limit, &is_over)).await;
            let ran = ran.map_err(|error| error.to_string()).and_then(|ran| ran);
            ran.and_then(|bytes| read(&bytes)).map_err(|reason| {
                format!("`credential_process` of the profile `{}` {reason}", self.profile)
            })
        })
    }
}

/// What comes out of a pipe, as far as it is kept, and a sign that it has ended.
struct Heard {
    bytes: Arc<Mutex<Vec<u8>>>,
    ended: Receiver<bool>,
}

impl Heard {
    /// Reads a pipe to its end; its first or its last bytes are kept, one more than there may be.
    fn listen(pipe: Option<impl Read + Send + 'static>, keeps_last: bool) -> Self {
        let (sender, ended) = mpsc::channel();
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&bytes);
        std::thread::spawn(move || {
            let Some(mut pipe) = pipe else { return };
            let mut chunk = [0; 4096];
            let is_whole = loop {
                let count = match pipe.read(&mut chunk) {
                    Ok(0) => break true,
                    Ok(count) => count,
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                    Err(_) => break false,
                };
                let mut kept = lock(&kept);
                kept.extend_from_slice(&chunk[..count]);
                let more = (kept.len() as u64).saturating_sub(PRINTED_MAX + 1);
                // At most what a vector holds.
                let more = more as usize;
                match keeps_last {
                    true => drop(kept.drain(..more)),
                    // The program ends at its next write.
                    false if more > 0 => break true,
                    false => {}
                }
            };
            // Nobody may wait for it any more.
            let _is_heard = sender.send(is_whole).is_ok();
        });
        Self { bytes, ended }
    }

    /// Returns what came; `None` when it does not end.
    fn whole(&self) -> Option<Vec<u8>> {
        let is_whole = self.ended.recv_timeout(PIPE_MAX).is_ok_and(|is_whole| is_whole);
        let mut bytes = lock(&self.bytes);
        is_whole.then(|| std::mem::take(&mut *bytes))
    }

    /// Returns the end of what came so far, on one line.
    fn complaint(&self) -> String {
        // Whether it has ended does not matter.
        let _is_whole = self.ended.recv_timeout(PIPE_MAX).is_ok();
        let bytes = lock(&self.bytes);
        let text = String::from_utf8_lossy(&bytes);
        let line: Vec<&str> = text.split_whitespace().collect();
        let line = line.join(" ").replace(char::is_control, "");
        let passed = line.chars().count().saturating_sub(COMPLAINT_CHARS);
        let end: String = line.chars().skip(passed).collect();
        match (end.is_empty(), passed) {
            (true, _) => ", and says nothing".to_owned(),
            (false, 0) => format!(": {end}"),
            (false, _) => format!(": …{end}"),
        }
    }
}

/// Runs a program and returns what it prints.
fn printed(words: &[String], limit: Duration, is_over: &AtomicBool) -> Result<Vec<u8>, String> {
    let end = Instant::now() + limit;
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::null()).stderr(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("could not be started: {error}"))?;
    let answer = Heard::listen(child.stdout.take(), false);
    let said = Heard::listen(child.stderr.take(), true);
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < end && !is_over.load(Ordering::Relaxed) => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok(None) => {
                let _is_ended = child.kill().and_then(|()| child.wait()).is_ok();
                let complaint = said.complaint();
                return Err(format!("was not done after {} s{complaint}", limit.as_secs()));
            }
            Err(error) => return Err(format!("could not be waited for: {error}")),
        }
    };
    let answer = answer.whole();
    let is_long = answer.as_ref().is_some_and(|bytes| bytes.len() as u64 > PRINTED_MAX);
    if is_long {
        return Err(format!("prints more than {PRINTED_MAX} bytes"));
    }
    if !status.success() {
        return Err(format!("ended with {status}{}", said.complaint()));
    }
    answer.ok_or_else(|| "does not end what it prints".to_owned())
}

/// Reads what a program has printed. Errors show nothing of it.
fn read(bytes: &[u8]) -> Result<Known, String> {
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
    let credential = AwsCredential { key_id, secret_key, token: filled("SessionToken") };
    Known::new(credential, expires).ok_or_else(|| "prints credentials that are over".to_owned())
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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn what_a_program_prints_is_not_shown() {
        let error = |text: &str| read(text.as_bytes()).map(drop).unwrap_err();
        for text in [
            "s3cr3t",
            "{\"Version\": 2, \"AccessKeyId\": \"a\", \"SecretAccessKey\": \"s3cr3t\"}",
            "{\"Version\": 1, \"AccessKeyId\": \"\", \"SecretAccessKey\": \"s3cr3t\"}",
            "{\"Version\": 1, \"AccessKeyId\": \"a\", \"SecretAccessKey\": \"s3cr3t\", \"Expiration\": \"2001-01-01T00:00:00Z\"}",
        ] {
            assert!(!error(text).contains("s3cr3t"), "{text}");
        }
        let good = "{\"Version\": 1, \"AccessKeyId\": \"a\", \"SecretAccessKey\": \"b\"}";
        assert!(read(good.as_bytes()).is_ok_and(|known| known.is_fresh()));
    }
}
