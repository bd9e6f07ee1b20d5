//! A server of objects that counts what it is asked, and misbehaves where it is told to.
//!
//! It speaks as much of S3 as remotes use (reads with ranges, conditional writes, listings), so it is an ordinary web server for
//! reads as well. Objects are in memory, by their path with the bucket. It ends with the value.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::listener::{self, Listener};

/// What the server does instead of what it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Sends other bytes.
    Wrong,
    /// Announces all bytes, sends half of them, and closes.
    Short,
    /// Sends more than there is.
    Long,
    /// Announces more bytes than there are disks for, and sends others behind the right ones for ever.
    Endless,
    /// Sends a byte now and then.
    Slow,
    /// Takes the request and says nothing.
    Silent,
    /// Closes without an answer.
    Reset,
    /// Answers with this status.
    Status(u16),
    /// Is overloaded, and asks for a pause of a second.
    Busy,
    /// Lets another writer be faster: the object changes just before it is written.
    Race,
    /// Writes whatever the conditions of the request are.
    Careless,
    /// Sends all of an object, whatever part of it was asked for.
    Whole,
}

/// When a fault happens.
#[derive(Debug, Clone)]
pub struct When {
    /// The method of the request.
    pub method: &'static str,
    /// What its path contains.
    pub path: &'static str,
    /// How many such requests are well before the first that is not.
    pub after: usize,
    /// How many are not.
    pub times: usize,
    /// What happens.
    pub fault: Fault,
}

/// How fast the server is.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Until an answer begins.
    pub wait: Duration,
    /// How fast each goes on, and each request comes in.
    pub bytes_per_second: u64,
}

#[derive(Default)]
struct State {
    pace: Mutex<Option<Pace>>,
    sent: Mutex<Vec<(String, u64)>>,
    received: AtomicU64,
    objects: Mutex<Objects>,
    /// Objects that come in parts, by the id of the upload.
    uploads: Mutex<BTreeMap<String, BTreeMap<u32, Vec<u8>>>>,
    faults: Mutex<Vec<When>>,
    asked: Mutex<Vec<(String, String)>>,
    keys: Mutex<Vec<String>>,
    /// How many requests are answered before the server falls silent.
    left: Mutex<Option<usize>>,
}

impl Pace {
    fn time_of(self, bytes: usize) -> Duration {
        Duration::from_nanos(bytes as u64 * 1_000_000_000 / self.bytes_per_second.max(1))
    }
}

/// A running server.
pub struct Server {
    state: Arc<State>,
    listener: Listener,
}

struct Request {
    method: String,
    path: String,
    query: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    /// Starts a server without objects on a port of its own.
    ///
    /// # Errors
    /// What the system says.
    pub fn start() -> Result<Self> {
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let listener =
            Listener::start(move |stream| converse(&shared, stream)).context("could not listen")?;
        Ok(Self { state, listener })
    }

    /// Returns the address that S3's clients take as an endpoint.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.listener.port())
    }

    /// Makes the server misbehave from here on; earlier faults are over.
    pub fn fail(&self, faults: impl IntoIterator<Item = When>) {
        *lock(&self.state.faults) = faults.into_iter().collect();
    }

    /// Makes the server answer so many requests more, and none after them until it is to [`speak`](Self::speak) again.
    pub fn fall_silent_after(&self, requests: usize) {
        *lock(&self.state.left) = Some(requests);
    }

    /// Makes the server answer new requests again.
    pub fn speak(&self) {
        *lock(&self.state.left) = None;
    }

    /// Returns what was asked since the last call, as (method, path); a listing has its query behind the path.
    #[must_use]
    pub fn asked(&self) -> Vec<(String, String)> {
        std::mem::take(&mut *lock(&self.state.asked))
    }

    /// Makes the server as fast as that from here on; so far it is as fast as it can.
    pub fn pace(&self, pace: Pace) {
        *lock(&self.state.pace) = Some(pace);
    }

    /// Returns how many bytes of objects were sent since the last call whose paths have this part.
    #[must_use]
    pub fn sent(&self, part: &str) -> u64 {
        let sent = std::mem::take(&mut *lock(&self.state.sent));
        sent.iter().filter(|(path, _)| path.contains(part)).map(|(_, bytes)| bytes).sum()
    }

    /// Returns how many bytes of objects came since the last call.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.state.received.swap(0, Ordering::Relaxed)
    }

    /// Takes away the objects whose paths have this part, and returns them.
    #[must_use]
    pub fn take(&self, part: &str) -> Vec<(String, Vec<u8>)> {
        let mut objects = lock(&self.state.objects);
        let wanted = objects.extract_if(.., |path, _| path.contains(part));
        wanted.map(|(path, (bytes, _))| (path, bytes)).collect()
    }

    /// Returns the ids of the access keys that requests since the last call were signed with, each once in a row.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        let mut keys = std::mem::take(&mut *lock(&self.state.keys));
        keys.dedup();
        keys
    }

    /// Gives an object to the server, under a path with its bucket.
    pub fn put(&self, path: &str, bytes: Vec<u8>) {
        store(&mut lock(&self.state.objects), path, bytes);
    }

    /// Returns the bytes of an object, by its path with the bucket.
    #[must_use]
    pub fn object(&self, path: &str) -> Option<Vec<u8>> {
        lock(&self.state.objects).get(path).map(|(bytes, _)| bytes.clone())
    }

    /// Loses an object.
    pub fn lose(&self, path: &str) {
        lock(&self.state.objects).remove(path);
    }

    /// Returns how many objects are on their way in parts.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        lock(&self.state.uploads).len()
    }

    /// Returns the paths of all objects.
    #[must_use]
    pub fn objects(&self) -> Vec<String> {
        lock(&self.state.objects).keys().cloned().collect()
    }
}

type Objects = BTreeMap<String, (Vec<u8>, u64)>;

fn store(objects: &mut Objects, path: &str, bytes: Vec<u8>) -> u64 {
    let version = objects.get(path).map_or(0, |(_, version)| *version) + 1;
    objects.insert(path.to_owned(), (bytes, version));
    version
}

fn converse(state: &State, stream: &TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(request) = read_request(&mut reader)? {
        let mut asked = request.path.clone();
        if request.query.contains("prefix=") {
            push(&mut asked, &format!("?{}", request.query));
        }
        lock(&state.asked).push((request.method.clone(), asked));
        let signed = request.headers.get("authorization").and_then(|value| key_of(value));
        lock(&state.keys).extend(signed.map(str::to_owned));
        let fault = fault(state, &request);
        if let Some(pace) = *lock(&state.pace) {
            std::thread::sleep(pace.wait + pace.time_of(request.body.len()));
        }
        if !answer(state, &request, fault, stream)? {
            return stream.shutdown(Shutdown::Both);
        }
    }
    Ok(())
}

/// Returns the id of the access key of a signature, see AWS's Signature Version 4.
fn key_of(authorization: &str) -> Option<&str> {
    authorization.split("Credential=").nth(1)?.split('/').next()
}

fn read_request(reader: &mut impl BufRead) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let method = words.next().unwrap_or_default().to_owned();
    let target = words.next().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (path, query) = (path.to_owned(), query.replace("%2F", "/"));
    let headers = listener::headers(reader)?;
    let length = headers.get("content-length").and_then(|length| length.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body)?;
    Ok(Some(Request { method, path, query, headers, body }))
}

fn fault(state: &State, request: &Request) -> Option<Fault> {
    match lock(&state.left).as_mut() {
        Some(0) => return Some(Fault::Silent),
        Some(left) => *left -= 1,
        None => {}
    }
    let mut faults = lock(&state.faults);
    let meant = |when: &&mut When| {
        when.times > 0 && when.method == request.method && request.path.contains(when.path)
    };
    let when = faults.iter_mut().find(meant)?;
    if when.after > 0 {
        when.after -= 1;
        return None;
    }
    when.times -= 1;
    Some(when.fault)
}

/// Answers a request; tells whether the connection goes on.
fn answer(
    state: &State,
    request: &Request,
    fault: Option<Fault>,
    mut stream: &TcpStream,
) -> std::io::Result<bool> {
    match fault {
        Some(Fault::Reset) => return Ok(false),
        Some(Fault::Silent) => {
            std::thread::sleep(Duration::from_secs(30));
            return Ok(false);
        }
        Some(Fault::Status(code)) => return respond(stream, code, "", b"refused"),
        Some(Fault::Busy) => return respond(stream, 503, "Retry-After: 1\r\n", b"SlowDown"),
        Some(Fault::Race) => {
            let mut objects = lock(&state.objects);
            let found = objects.get(&request.path).map(|(bytes, _)| bytes.clone());
            store(&mut objects, &request.path, found.unwrap_or_else(|| b"other".to_vec()));
        }
        _ => {}
    }
    if request.method == "POST" {
        return upload(state, request, stream);
    }
    if let Some(number) = value(request, "partNumber").and_then(|number| number.parse().ok()) {
        return put_part(state, request, number, stream);
    }
    if request.method == "PUT" {
        return put(state, request, fault == Some(Fault::Careless), stream);
    }
    if request.method == "DELETE" {
        if let Some(id) = value(request, "uploadId") {
            lock(&state.uploads).remove(id);
            return respond(stream, 204, "", b"");
        }
        lock(&state.objects).remove(&request.path);
        return respond(stream, 204, "", b"");
    }
    if request.query.contains("list-type=2") {
        return list(state, request, stream);
    }
    let Some((mut bytes, version)) = lock(&state.objects).get(&request.path).cloned() else {
        return respond(stream, 404, "", b"");
    };
    let total = bytes.len();
    let mut head =
        format!("ETag: \"v{version}\"\r\nLast-Modified: Wed, 01 Jan 2025 00:00:00 GMT\r\n");
    let mut code = 200;
    let range = request.headers.get("range").filter(|_| fault != Some(Fault::Whole));
    let range = range.and_then(|range| range.strip_prefix("bytes="));
    if let Some((first, last)) = range.and_then(|range| range.split_once('-')) {
        let first = first.parse().unwrap_or(0).min(total);
        let end = last.parse::<usize>().map_or(total, |last| last + 1).min(total);
        bytes = bytes[first..end.max(first)].to_vec();
        code = 206;
        push(
            &mut head,
            &format!("Content-Range: bytes {first}-{}/{total}\r\n", end.saturating_sub(1)),
        );
    }
    if request.method == "HEAD" {
        let text = format!("HTTP/1.1 200 OK\r\n{head}Content-Length: {total}\r\n\r\n");
        return stream.write_all(text.as_bytes()).map(|()| true);
    }
    let announced = match fault {
        Some(Fault::Long) => bytes.len() + 1000,
        Some(Fault::Endless) => 1 << 50,
        _ => bytes.len(),
    };
    let text = format!("HTTP/1.1 {code} OK\r\n{head}Content-Length: {announced}\r\n\r\n");
    stream.write_all(text.as_bytes())?;
    match fault {
        Some(Fault::Wrong) => bytes.iter_mut().for_each(|byte| *byte ^= 0x55),
        Some(Fault::Short) => bytes.truncate(bytes.len() / 2),
        Some(Fault::Long) => bytes.resize(announced, b'x'),
        Some(Fault::Endless) => {
            stream.write_all(&bytes)?;
            loop {
                stream.write_all(&[b'x'; 1 << 16])?;
            }
        }
        Some(Fault::Slow) => {
            for byte in &bytes {
                stream.write_all(&[*byte])?;
                std::thread::sleep(Duration::from_millis(200));
            }
        }
        _ => {}
    }
    let pace = *lock(&state.pace);
    lock(&state.sent).push((request.path.clone(), bytes.len() as u64));
    for chunk in bytes.chunks(1 << 18) {
        let begun = Instant::now();
        stream.write_all(chunk)?;
        if let Some(pace) = pace {
            std::thread::sleep(pace.time_of(chunk.len()).saturating_sub(begun.elapsed()));
        }
    }
    Ok(fault != Some(Fault::Short))
}

fn push(text: &mut String, more: &str) {
    let written = text.write_str(more);
    debug_assert!(written.is_ok(), "writing to a string can't fail");
}

fn put(
    state: &State,
    request: &Request,
    is_careless: bool,
    stream: &TcpStream,
) -> std::io::Result<bool> {
    // Held until it is written, so that two who write at once are one after the other.
    let mut objects = lock(&state.objects);
    let found = objects.get(&request.path).map(|(_, version)| *version);
    let must_be_new = request.headers.get("if-none-match").is_some_and(|value| value == "*");
    let expected = request.headers.get("if-match");
    let is_other =
        expected.is_some_and(|tag| found.is_none_or(|version| *tag != format!("\"v{version}\"")));
    if !is_careless && ((must_be_new && found.is_some()) || is_other) {
        drop(objects);
        return respond(stream, 412, "", b"");
    }
    state.received.fetch_add(request.body.len() as u64, Ordering::Relaxed);
    let version = store(&mut objects, &request.path, request.body.clone());
    drop(objects);
    respond(stream, 200, &format!("ETag: \"v{version}\"\r\n"), b"")
}

/// Returns what a query says of `name`.
fn value<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    let mut pairs = request.query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(found, _)| *found == name).map(|(_, value)| value)
}

/// Begins to take an object in parts, or makes it of them.
fn upload(state: &State, request: &Request, stream: &TcpStream) -> std::io::Result<bool> {
    let mut uploads = lock(&state.uploads);
    let Some(id) = value(request, "uploadId") else {
        let id = uploads.keys().last().map_or(0, |last| last.parse().unwrap_or(0)) + 1;
        uploads.insert(format!("{id:08}"), BTreeMap::new());
        let text = format!(
            "<InitiateMultipartUploadResult><UploadId>{id:08}</UploadId></InitiateMultipartUploadResult>"
        );
        return respond(stream, 200, "Content-Type: application/xml\r\n", text.as_bytes());
    };
    let Some(parts) = uploads.remove(id) else {
        return respond(stream, 404, "", b"");
    };
    let bytes = parts.into_values().flatten().collect();
    let version = store(&mut lock(&state.objects), &request.path, bytes);
    let text = format!(
        "<CompleteMultipartUploadResult><ETag>v{version}</ETag></CompleteMultipartUploadResult>"
    );
    respond(stream, 200, "Content-Type: application/xml\r\n", text.as_bytes())
}

fn put_part(
    state: &State,
    request: &Request,
    number: u32,
    stream: &TcpStream,
) -> std::io::Result<bool> {
    let mut uploads = lock(&state.uploads);
    let Some(parts) = value(request, "uploadId").and_then(|id| uploads.get_mut(id)) else {
        return respond(stream, 404, "", b"");
    };
    state.received.fetch_add(request.body.len() as u64, Ordering::Relaxed);
    parts.insert(number, request.body.clone());
    respond(stream, 200, &format!("ETag: \"p{number}\"\r\n"), b"")
}

fn list(state: &State, request: &Request, stream: &TcpStream) -> std::io::Result<bool> {
    let prefix = value(request, "prefix").unwrap_or_default();
    let bucket = request.path.trim_end_matches('/');
    let mut text = String::from("<ListBucketResult><IsTruncated>false</IsTruncated>");
    for (path, (bytes, version)) in lock(&state.objects).iter() {
        let key = path.strip_prefix(bucket).and_then(|path| path.strip_prefix('/'));
        if let Some(key) = key.filter(|key| key.starts_with(prefix)) {
            push(
                &mut text,
                &format!(
                    "<Contents><Key>{key}</Key><LastModified>2025-01-01T00:00:00.000Z</LastModified>\
                     <ETag>v{version}</ETag><Size>{}</Size></Contents>",
                    bytes.len()
                ),
            );
        }
    }
    push(&mut text, "</ListBucketResult>");
    respond(stream, 200, "Content-Type: application/xml\r\n", text.as_bytes())
}

fn respond(mut stream: &TcpStream, code: u16, head: &str, body: &[u8]) -> std::io::Result<bool> {
    let text = format!("HTTP/1.1 {code} X\r\n{head}Content-Length: {}\r\n\r\n", body.len());
    stream.write_all(text.as_bytes())?;
    stream.write_all(body)?;
    Ok(true)
}
