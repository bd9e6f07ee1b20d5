//! A server between rift and the emulator of a cloud. It can hold a request back, so that another writer is certainly faster, and says
//! uploads of Google's XML API in the words of its JSON API, which is the one that fake-gcs-server has uploads of.
//!
//! Each connection carries one request. Bodies and answers pass as they are; whether a condition holds is decided by the emulator.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::listener::Listener;

/// Separates the parts of an upload.
const BOUNDARY: &str = "a-boundary-of-the-tests";
/// A request that is held back is let go after this, whatever happens.
const HELD_MAX: Duration = Duration::from_secs(60);

/// What of the requests is said in other words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// All of them are passed on.
    AsItIs,
    /// Uploads are those of Google's JSON API.
    Json,
}

/// A request that is held back.
pub struct Held {
    arrived: Receiver<()>,
    go: Sender<()>,
}

struct Gate {
    path: &'static str,
    arrived: Sender<()>,
    go: Receiver<()>,
}

struct State {
    upstream: u16,
    speaks: Speaks,
    gate: Mutex<Option<Gate>>,
}

/// A running server.
pub struct Between {
    state: Arc<State>,
    listener: Listener,
}

impl Held {
    /// Waits until the request is there.
    ///
    /// # Errors
    /// When none comes within a minute.
    pub fn arrived(&self) -> Result<()> {
        self.arrived.recv_timeout(HELD_MAX).context("no such request came")
    }

    /// Lets it go on.
    pub fn go(self) {
        // It may have been let go already.
        let _is_waited_for = self.go.send(()).is_ok();
    }
}

impl Between {
    /// Starts one before the server of a port of this machine.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(upstream: u16, speaks: Speaks) -> Result<Self> {
        let state = Arc::new(State { upstream, speaks, gate: Mutex::default() });
        let shared = Arc::clone(&state);
        let listener =
            Listener::start(move |stream| pass(&shared, stream)).context("could not listen")?;
        Ok(Self { state, listener })
    }

    /// Returns its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.listener.port()
    }

    /// Holds back the next `PUT` whose path, with its escapes undone, contains this.
    #[must_use]
    pub fn hold(&self, path: &'static str) -> Held {
        let (arrived, is_there) = mpsc::channel();
        let (go, may_go) = mpsc::channel();
        *self.state.gate.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Gate { path, arrived, go: may_go });
        Held { arrived: is_there, go }
    }
}

/// Undoes the escapes of an address.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte.filter(|_| *first == b'%') {
            Some(byte) => (bytes.push(byte), rest = &tail[2..]).1,
            None => (bytes.push(*first), rest = tail).1,
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn pass(state: &State, mut client: &TcpStream) -> Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut first = String::new();
    if reader.read_line(&mut first)? == 0 {
        return Ok(());
    }
    let (mut headers, mut length, mut condition) = (String::new(), 0, None);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse()?,
            "x-goog-if-generation-match" => condition = Some(value.to_owned()),
            "connection" => continue,
            _ => {}
        }
        headers.push_str(&line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut words = first.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = unescaped(target);
    if method == "PUT" {
        let mut gate = state.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let met = gate.take_if(|gate| path.contains(gate.path));
        drop(gate);
        if let Some(gate) = met {
            gate.arrived.send(())?;
            // Who does not answer in time has failed already.
            let _is_told = gate.go.recv_timeout(HELD_MAX).is_ok();
        }
    }
    let mut server = TcpStream::connect(("127.0.0.1", state.upstream))?;
    if state.speaks == Speaks::Json && method == "PUT" && !target.contains('?') {
        server.write_all(&upload(&path, condition.as_deref(), &body)?)?;
        let mut answer = String::new();
        server.read_to_string(&mut answer)?;
        return Ok(client.write_all(answer_of_upload(&answer).as_bytes())?);
    }
    server.write_all(format!("{first}{headers}Connection: close\r\n\r\n").as_bytes())?;
    server.write_all(&body)?;
    std::io::copy(&mut server, &mut client)?;
    Ok(())
}

/// Returns the upload of an object `/BUCKET/NAME`, with the condition that its generation is still this one.
fn upload(path: &str, condition: Option<&str>, body: &[u8]) -> Result<Vec<u8>> {
    let (bucket, name) =
        path.trim_start_matches('/').split_once('/').context("it is no object's path")?;
    let condition = condition.map(|generation| format!("&ifGenerationMatch={generation}"));
    let meta = format!(
        "--{BOUNDARY}\r\nContent-Type: application/json\r\n\r\n{{\"name\": \"{name}\"}}\r\n\
         --{BOUNDARY}\r\nContent-Type: application/octet-stream\r\n\r\n"
    );
    let end = format!("\r\n--{BOUNDARY}--\r\n");
    let head = format!(
        "POST /upload/storage/v1/b/{bucket}/o?uploadType=multipart{} HTTP/1.1\r\nHost: 127.0.0.1\r\n\
         Content-Type: multipart/related; boundary={BOUNDARY}\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        condition.unwrap_or_default(),
        meta.len() + body.len() + end.len(),
    );
    Ok([head.as_bytes(), meta.as_bytes(), body, end.as_bytes()].concat())
}

/// Returns the answer that the XML API would give.
fn answer_of_upload(answer: &str) -> String {
    let status = answer.lines().next().unwrap_or("HTTP/1.1 502 no answer");
    let text = |key: &str| {
        let value = answer.split(&format!("\"{key}\":\"")).nth(1)?;
        Some(value.split('"').next()?.to_owned())
    };
    let mut said = format!("{status}\r\nContent-Length: 0\r\nConnection: close\r\n");
    if let (Some(generation), Some(tag)) = (text("generation"), text("etag")) {
        said.push_str(&format!("x-goog-generation: {generation}\r\nETag: \"{tag}\"\r\n"));
    }
    said + "\r\n"
}
