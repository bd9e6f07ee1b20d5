//! Remotes: a store's trees on a server or in a folder that others share.
//!
//! ```text
//! data/HEX.pack    a pack as stores have them, of blobs that one push brought
//! data/HEX.blob    a large blob
//! data/….zst       one of both, compressed (see `frames`)
//! trees/HEX        a manifest, by its tree hash
//! places/HEX       a tree's sidecar, by its BLAKE3: in which objects the tree's bytes are, and where there (see `places`)
//! refs/NAME        a signed ref (see `reference`)
//! plans/KEY        a signed plan (see `plan`)
//! access/KEY       which blobs a command needed (see `access`)
//! denied/list      what was purged (see `denied`), and `denied/HEX` beside it
//! ns/NAME/...       the same again, for writers who are not trusted (see `namespace`)
//! ```
//!
//! Everything but refs and access lists is named by its hash and never changes; a ref is signed, names manifest and sidecar, and is
//! only replaced by who has seen what it replaces. So a tree of any size is known after three requests, and whoever can write to
//! the server can take away, but not change, what a trusted key has signed.
//!
//! Nothing that a remote sends is believed: each answer has a limit of bytes and of time, and gets its name in the store
//! after its hash was checked. The sidecar has the format of a store's own; its stamps have a size, and zeros for the rest.

pub mod access;
pub mod address;
pub mod aws;
pub mod denied;
mod error;
mod fetch;
pub mod frames;
mod http;
pub mod keys;
pub mod lazy;
mod namespace;
mod patch;
pub mod places;
pub mod plan;
mod present;
mod prune;
mod pull;
mod push;
pub mod reference;
mod share;
mod sweep;

use std::future::Future;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::ClientConfigKey;
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{
    BackoffConfig, ClientOptions, GetOptions, GetRange, GetResultPayload, ObjectStore,
    ObjectStoreExt as _, PutMode, PutOptions, PutPayload, RetryConfig, UpdateVersion,
};
use rift_tree::sidecar::ContainerKind;
use rustix::fs::FlockOperation;

use self::address::{Address, Scheme, is_loopback};
pub use self::error::{Error, Result};
use self::http::{Connector, Meter};
use self::namespace::Main;
pub use self::prune::{Needs, Pruned, prune};
pub use self::pull::{Extent, Pulled, bring, pull};
pub use self::push::{Pushed, push};
use self::reference::SignedRef;
pub use self::share::{Shareable, without_secrets};
use crate::lock::lock;

/// How many objects are moved at once.
const AT_ONCE: usize = 4;
/// Objects from this size on are sent in parts.
const PARTS_FROM: u64 = 96 << 20;
const PART_BYTES: usize = 16 << 20;
/// How long a remote may take to forget the parts that it has; it is over anyway.
const ABORT_MAX: Duration = Duration::from_secs(2);

/// How long a remote may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Until an answer begins, or goes on.
    pub answer: Duration,
    /// What it has to move beyond that, on the whole.
    pub bytes_per_second: u64,
    /// How often a request is made again after a failure that may pass.
    pub retries: usize,
    /// For all requests together, from when the remote was opened; `None` where each has its own time.
    pub all: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { answer: Duration::from_secs(30), bytes_per_second: 64 << 10, retries: 4, all: None }
    }
}

impl Limits {
    /// Returns how long so many bytes may take.
    fn of_bytes(&self, bytes: u64) -> Duration {
        self.answer + Duration::from_secs(bytes / self.bytes_per_second.max(1))
    }

    /// Returns how long a request with a small answer may take, with all its retries.
    fn of_request(&self) -> Duration {
        self.answer * 4
    }
}

/// How a remote is reached.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Files of certificates that are trusted beside the system's.
    pub certificates: Vec<PathBuf>,
    /// How long it may take.
    pub limits: Limits,
    /// Makes the folder of a `file://` remote where it is missing.
    pub makes_folder: bool,
    /// Where AWS has its profiles.
    pub aws: aws::Files,
}

/// What a remote was asked, and how much went back and forth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Requests to read an object or a listing, retries among them.
    pub gets: u64,
    /// Requests whether an object is there.
    pub heads: u64,
    /// Requests to write.
    pub puts: u64,
    /// Others, such as those for credentials.
    pub others: u64,
    /// Bytes of objects that were sent.
    pub sent_bytes: u64,
    /// Bytes of objects that were received.
    pub received_bytes: u64,
    /// How many these are when nothing is compressed.
    pub unpacked_bytes: u64,
}

impl Traffic {
    /// Returns how many requests there were.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.gets + self.heads + self.puts + self.others
    }
}

/// How far a push or a pull is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes that were moved.
    pub done_bytes: u64,
    /// How many there are to move.
    pub total_bytes: u64,
}

/// Is told how far it is, from several threads.
pub type Watch<'w> = &'w (dyn Fn(Progress) + Sync);

/// An open remote. Nothing is asked of it before the first use.
pub struct Remote {
    address: Address,
    objects: Arc<dyn ObjectStore>,
    prefix: ObjectPath,
    runtime: Arc<Threads>,
    meter: Arc<Meter>,
    limits: Limits,
    ranges: Arc<Mutex<Ranges>>,
    /// What a namespace lies in.
    main: Option<Box<Main>>,
    remarks: Mutex<Vec<String>>,
    /// When the time for all requests is over.
    end: Option<Instant>,
}

/// The threads of a remote. What still waits when it goes, such as a request for a name, ends by itself.
struct Threads(Option<tokio::runtime::Runtime>);

impl Threads {
    #[allow(clippy::expect_used, reason = "only drop takes it")]
    fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.0.as_ref().expect("it is there until drop").block_on(work)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Whether a server sends parts of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ranges {
    /// It was not asked for any.
    Unknown,
    Known,
    Lacking,
}

/// A small object, and what tells whether it was replaced.
struct Small {
    bytes: Vec<u8>,
    version: UpdateVersion,
}

impl Remote {
    /// Prepares for requests.
    ///
    /// # Errors
    /// [`Error::Setup`]: a setting of the environment that can't be, or a file of certificates that can't be read.
    pub fn open(address: &Address, options: &Options) -> Result<Self> {
        let failed = |action: &'static str| move |reason: String| Error::Setup { action, reason };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|error| failed("start threads")(error.to_string()))?;
        let meter = Arc::new(Meter::default());
        let objects = objects(address, options, &meter)
            .map_err(|error| failed("set up the remote")(error))?;
        let prefix = match address.scheme() {
            Scheme::S3 | Scheme::Gcs | Scheme::Azure => address.path(),
            Scheme::Https | Scheme::Http | Scheme::File => "",
        };
        let prefix = ObjectPath::parse(prefix)
            .map_err(|error| failed("set up the remote")(error.to_string()))?;
        let (address, limits) = (address.clone(), options.limits);
        let ranges = match address.scheme() {
            Scheme::File => Ranges::Known,
            _ => Ranges::Unknown,
        };
        let ranges = Arc::new(Mutex::new(ranges));
        let runtime = Arc::new(Threads(Some(runtime)));
        let end = limits.all.map(|all| Instant::now() + all);
        let (main, remarks) = (None, Mutex::default());
        Ok(Self { address, objects, prefix, runtime, meter, limits, ranges, end, main, remarks })
    }

    /// Returns the address.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Returns what the remote was asked so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        Traffic {
            gets: read(&self.meter.gets),
            heads: read(&self.meter.heads),
            puts: read(&self.meter.puts),
            others: read(&self.meter.others),
            sent_bytes: read(&self.meter.sent_bytes),
            received_bytes: read(&self.meter.received_bytes),
            unpacked_bytes: read(&self.meter.received_bytes) + read(&self.meter.gained_bytes),
        }
    }

    /// Notes what the user should hear.
    fn remark(&self, text: String) {
        let mut remarks = lock(&self.remarks);
        if !remarks.contains(&text) {
            remarks.push(text);
        }
    }

    /// Returns what the user should hear of the remote since the last call.
    #[must_use]
    pub fn remarks(&self) -> Vec<String> {
        let mut remarks = lock(&self.remarks);
        let mut said = std::mem::take(&mut *remarks);
        said.extend(self.main().into_iter().flat_map(Self::remarks));
        said
    }

    /// Tries the remote: reads, and where `writes` says so makes, makes again and removes a small object.
    ///
    /// # Errors
    /// What does not work; [`Error::Wrong`] for a server that lets one writer replace what another made, though asked not to.
    pub fn check(&self, writes: bool) -> Result<()> {
        const PROBE: &str = "refs/_check";
        self.main().map_or(Ok(()), |main| main.check(false))?;
        self.small(PROBE, reference::BYTES_MAX)?;
        if !writes {
            return Ok(());
        }
        self.writable()?;
        let made = self.create(PROBE, b"probe\n".to_vec());
        let again = self.create(PROBE, b"other\n".to_vec());
        self.remove(PROBE)?;
        match (made?, again?) {
            (_, false) => Ok(()),
            (_, true) => Err(Error::Wrong {
                object: PROBE.to_owned(),
                reason: "it replaces objects though it is asked not to, so refs are not safe there"
                    .to_owned(),
            }),
        }
    }

    fn writable(&self) -> Result<()> {
        match self.address.is_read_only() {
            true => Err(Error::ReadOnly { address: self.address.to_string() }),
            false => Ok(()),
        }
    }

    fn path(&self, object: &str) -> ObjectPath {
        object.split('/').fold(self.prefix.clone(), |path, part| path.join(part))
    }

    /// Counts a request that no HTTP client counts.
    fn count(&self, method: &str, sent_bytes: usize) {
        if self.address.scheme() == Scheme::File {
            self.meter.count(method, sent_bytes as u64);
        }
    }

    fn received(&self, bytes: usize) {
        self.meter.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts bytes that came out of frames beyond those that were in them.
    fn unpacked(&self, gained_bytes: u64) {
        self.meter.gained_bytes.fetch_add(gained_bytes, Ordering::Relaxed);
    }

    /// Returns how much there is left of the time for all requests.
    fn left(&self) -> Result<Duration> {
        let left = self.end.map(|end| end.saturating_duration_since(Instant::now()));
        match left {
            Some(Duration::ZERO) => Err(self.out_of_time()),
            left => Ok(left.unwrap_or(Duration::MAX)),
        }
    }

    fn out_of_time(&self) -> Error {
        Error::OutOfTime { limit: self.limits.all.unwrap_or_default() }
    }

    /// Waits for a request and its retries, and no longer than `limit`.
    fn wait<T>(
        &self,
        action: &'static str,
        object: &str,
        limit: Duration,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T> {
        let left = self.left()?;
        let limit = limit.min(left);
        let limited = async { tokio::time::timeout(limit, request).await };
        match self.runtime.block_on(limited) {
            Ok(answer) => answer.map_err(|error| Error::of_request(action, object, &error)),
            Err(_) if limit == left => Err(self.out_of_time()),
            Err(_) => Err(Error::Slow { action, object: object.to_owned(), limit }),
        }
    }

    /// Reads an object of at most `max` bytes; `None` when there is none.
    fn small(&self, object: &str, max: u64) -> Result<Option<Small>> {
        let mut bytes = Vec::new();
        let read = self.read(object, None, max, &mut |chunk| {
            bytes.extend_from_slice(chunk);
            Ok(())
        });
        match read {
            Ok(version) => Ok(Some(Small { bytes, version })),
            Err(Error::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads an object whose length is known, once more where it is not what `check` says it has to be.
    fn whole(
        &self,
        object: &str,
        length: u64,
        check: impl Fn(&[u8]) -> Result<(), String>,
    ) -> Result<Vec<u8>> {
        let wrong = |reason| Error::Wrong { object: object.to_owned(), reason };
        let attempt = || {
            let lacks = || Error::Missing { object: object.to_owned() };
            let bytes = self.small(object, length)?.ok_or_else(lacks)?.bytes;
            if bytes.len() as u64 != length {
                return Err(wrong(format!("it has {} bytes instead of {length}", bytes.len())));
            }
            check(&bytes).map_err(wrong).map(|()| bytes)
        };
        attempt().or_else(|error| if error.is_passing() { attempt() } else { Err(error) })
    }

    /// Reads bytes of an object in order, at most `max`; gives up on a remote that sends more, or too slowly. What is named by its
    /// content and not in a namespace may lie in the main part. Of a server that does not know ranges, all bytes come as far as
    /// the range's end.
    fn read(
        &self,
        object: &str,
        range: Option<Range<u64>>,
        max: u64,
        take: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<UpdateVersion> {
        let read = self.read_here(object, range.clone(), max, take);
        match (read, self.main()) {
            (Err(Error::Missing { .. }), Some(main)) if is_content(object) => {
                main.read_here(object, range, max, take)
            }
            (read, _) => read,
        }
    }

    fn read_here(
        &self,
        object: &str,
        range: Option<Range<u64>>,
        max: u64,
        take: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<UpdateVersion> {
        const ACTION: &str = "read";
        let (asked, mut skipped) = match range.clone() {
            Some(range) if self.ranges() == Ranges::Lacking => (None, range.start),
            range => (range, 0),
        };
        let is_cut = range.is_some() && asked.is_none();
        let options = GetOptions { range: asked.map(GetRange::Bounded), ..GetOptions::default() };
        self.count("GET", 0);
        let path = self.path(object);
        let limit = self.limits.of_request();
        let found = self.wait(ACTION, object, limit, self.objects.get_opts(&path, options));
        let found = match found {
            Err(error) if range.is_some() && !is_cut && error.is_of_ranges() => {
                self.set_ranges(Ranges::Lacking);
                return self.read_here(object, range, max, take);
            }
            found => found?,
        };
        if range.is_some() && !is_cut {
            self.set_ranges(Ranges::Known);
        }
        let meta = found.meta;
        let version = UpdateVersion { e_tag: meta.e_tag, version: meta.version };
        let too_long = || Error::Wrong {
            object: object.to_owned(),
            reason: format!("it is longer than {max} bytes"),
        };
        let mut left = max;
        let passed = skipped;
        let mut take = |chunk: &[u8]| {
            self.received(chunk.len());
            // At most the length of the chunk.
            let chunk = chunk.split_at(skipped.min(chunk.len() as u64) as usize);
            skipped -= chunk.0.len() as u64;
            let chunk = chunk.1;
            // At most the length of the chunk.
            let (wanted, more) = chunk.split_at(left.min(chunk.len() as u64) as usize);
            left -= wanted.len() as u64;
            take(wanted)?;
            match more.is_empty() || is_cut {
                true => Ok(is_cut && left == 0),
                false => Err(too_long()),
            }
        };
        let mut stream = match found.payload {
            GetResultPayload::File(file, _) => {
                read_file(object, &file, found.range, &mut |chunk| take(chunk).map(drop))?;
                return Ok(version);
            }
            GetResultPayload::Stream(stream) => stream,
        };
        let slow = |limit| Error::Slow { action: ACTION, object: object.to_owned(), limit };
        let whole_limit =
            self.limits.of_bytes((passed + max).min(found.range.end - found.range.start));
        let end = Instant::now() + whole_limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let all_left = self.left()?;
            let limit = self.limits.answer.min(left).min(all_left);
            let next = async { tokio::time::timeout(limit, stream.next()).await };
            match self.runtime.block_on(next) {
                Err(_) if limit == all_left => return Err(self.out_of_time()),
                Err(_) if limit == left => return Err(slow(whole_limit)),
                Err(_) => return Err(slow(limit)),
                Ok(None) => return Ok(version),
                Ok(Some(Ok(chunk))) if take(&chunk)? => return Ok(version),
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(error))) => return Err(Error::of_request(ACTION, object, &error)),
            }
        }
    }

    /// Returns whether the server sends parts of objects.
    fn ranges(&self) -> Ranges {
        *lock(&self.ranges)
    }

    fn set_ranges(&self, ranges: Ranges) {
        *lock(&self.ranges) = ranges;
    }

    /// Returns the length of an object; `None` when there is none.
    fn length(&self, object: &str) -> Result<Option<u64>> {
        let path = self.path(object);
        self.count("HEAD", 0);
        let head = self.objects.head(&path);
        match self.wait("look for", object, self.limits.of_request(), head) {
            Ok(meta) => Ok(Some(meta.size)),
            Err(Error::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the first objects directly below a folder, with their lengths.
    fn listed(&self, folder: &'static str, max: usize) -> Result<Vec<(String, u64)>> {
        let path = self.path(folder);
        self.count("GET", 0);
        let listing = async {
            let mut listing = self.objects.list(Some(&path)).take(max);
            let mut listed = Vec::new();
            while let Some(meta) = listing.next().await {
                listed.push(meta?);
            }
            Ok(listed)
        };
        let limit = self.limits.of_request() * 4;
        let listed = match self.wait("list", folder, limit, listing) {
            Ok(listed) => listed,
            Err(Error::Missing { .. }) => Vec::new(),
            Err(error) => return Err(error),
        };
        let named = listed.into_iter().filter_map(|meta| {
            Some((format!("{folder}/{}", meta.location.filename()?), meta.size))
        });
        Ok(named.collect())
    }

    /// Removes an object; one that is not there is as good.
    fn remove(&self, object: &str) -> Result<()> {
        self.count("DELETE", 0);
        let path = self.path(object);
        match self.wait("remove", object, self.limits.of_request(), self.objects.delete(&path)) {
            Err(Error::Missing { .. }) => Ok(()),
            other => other,
        }
    }

    /// Writes an object that is named by its content.
    fn put(&self, object: &str, bytes: Vec<u8>) -> Result<()> {
        self.count("PUT", bytes.len());
        let limit = self.limits.of_bytes(bytes.len() as u64) * 2 + self.limits.of_request();
        let path = self.path(object);
        let payload = PutPayload::from(Bytes::from(bytes));
        self.wait("write", object, limit, self.objects.put(&path, payload)).map(drop)
    }

    /// Writes a large object in parts.
    fn put_parts(&self, object: &str, bytes: &[u8], moved: &dyn Fn(u64)) -> Result<()> {
        let path = self.path(object);
        let limit = self.limits.of_request();
        let mut upload = self.wait("write", object, limit, self.objects.put_multipart(&path))?;
        for part in bytes.chunks(PART_BYTES) {
            self.count("PUT", part.len());
            let limit = self.limits.of_bytes(part.len() as u64) * 2 + self.limits.of_request();
            let payload = PutPayload::from(Bytes::copy_from_slice(part));
            let sent = self.wait("write", object, limit, upload.put_part(payload));
            if let Err(error) = sent {
                // What is left of it costs room; the first error is the one to tell.
                let abort = async { tokio::time::timeout(ABORT_MAX, upload.abort()).await };
                let _is_gone = self.runtime.block_on(abort).is_ok();
                return Err(error);
            }
            moved(part.len() as u64);
        }
        self.wait("write", object, limit, upload.complete()).map(drop)
    }

    /// Makes an object; tells whether it was not there.
    fn create(&self, object: &str, bytes: impl Into<Bytes>) -> Result<bool> {
        self.put_if(object, bytes, PutMode::Create)
    }

    fn put_if(&self, object: &str, bytes: impl Into<Bytes>, mode: PutMode) -> Result<bool> {
        use object_store::Error::{AlreadyExists, NotFound, Precondition};
        let bytes = bytes.into();
        let limit = self.limits.of_bytes(bytes.len() as u64) * 2 + self.limits.of_request();
        let replaces = matches!(mode, PutMode::Update(_));
        let path = self.path(object);
        self.count("PUT", bytes.len());
        let options = PutOptions { mode, ..PutOptions::default() };
        let payload = PutPayload::from(bytes);
        let put = async {
            match self.objects.put_opts(&path, payload, options).await {
                Ok(_) => Ok(true),
                Err(AlreadyExists { .. } | Precondition { .. }) => Ok(false),
                // Somebody has removed it since it was seen.
                Err(NotFound { .. }) if replaces => Ok(false),
                Err(error) => Err(error),
            }
        };
        self.wait("write", object, limit, put)
    }

    /// Reads a ref; nothing is known of its signature.
    fn signed_ref(&self, name: &str) -> Result<Option<(SignedRef, Small)>> {
        let Some(found) = self.small(&reference::object(name), reference::BYTES_MAX)? else {
            return Ok(None);
        };
        let wrong = |source| Error::RefFormat { name: name.to_owned(), source };
        let signed = SignedRef::decode(&found.bytes).map_err(wrong)?;
        if signed.statement.name != name {
            let reason = format!("it says what `{}` means", signed.statement.name.escape_debug());
            return Err(Error::Wrong { object: reference::object(name), reason });
        }
        Ok(Some((signed, found)))
    }

    /// Replaces a ref that was seen, or makes one that was not there.
    fn set_signed_ref(&self, signed: &SignedRef, seen: Option<Small>) -> Result<()> {
        let name = &signed.statement.name;
        match self.set_object(&reference::object(name), signed.encode(), seen)? {
            true => Ok(()),
            false => Err(Error::Changed { name: name.clone() }),
        }
    }

    /// Replaces a signed object that was seen, or makes one that was not there; tells whether it is as it has to be.
    fn set_object(&self, object: &str, bytes: Vec<u8>, seen: Option<Small>) -> Result<bool> {
        let is_set = match seen {
            None => self.create(object, bytes.clone())?,
            Some(seen) if self.address.scheme() == Scheme::File => {
                self.replace_file(object, &seen.bytes, bytes.clone())?
            }
            Some(seen) => self.put_if(object, bytes.clone(), PutMode::Update(seen.version))?,
        };
        if is_set {
            return Ok(true);
        }
        // A first attempt may have succeeded though its answer was lost.
        let found = self.small(object, plan::BYTES_MAX)?;
        Ok(found.is_some_and(|found| found.bytes == bytes))
    }

    /// Replaces a signed object in a folder, if it still is what was seen. Who replaces one holds the lock.
    fn replace_file(&self, object: &str, seen: &[u8], bytes: Vec<u8>) -> Result<bool> {
        let lock = Path::new(self.address.path()).join("lock");
        let _lock = crate::store::lock_file(&lock, FlockOperation::LockExclusive)?;
        match self.small(object, plan::BYTES_MAX)? {
            Some(found) if found.bytes == seen => self.put(object, bytes).map(|()| true),
            _ => Ok(false),
        }
    }
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Remote({})", self.address)
    }
}

/// Returns the object of a container.
fn data_object(name: &[u8; 32], kind: ContainerKind) -> String {
    let name = rift_tree::BlobHash::from_bytes(*name);
    match kind {
        // No remote has data of a partial tree: places that say so are refused.
        ContainerKind::Pack | ContainerKind::Partial => format!("data/{name}.pack"),
        ContainerKind::Loose => format!("data/{name}.blob"),
        ContainerKind::PackInFrames => format!("data/{name}.pack.zst"),
        ContainerKind::LooseInFrames => format!("data/{name}.blob.zst"),
    }
}

/// Tells whether an object is named by its content.
fn is_content(object: &str) -> bool {
    ["data/", "trees/", "places/"].iter().any(|folder| object.starts_with(folder))
}

fn manifest_object(tree: rift_tree::TreeHash) -> String {
    format!("trees/{tree}")
}

fn places_object(hash: &[u8; 32]) -> String {
    format!("places/{}", rift_tree::BlobHash::from_bytes(*hash))
}

fn read_file(
    object: &str,
    file: &std::fs::File,
    range: Range<u64>,
    take: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    use std::os::unix::fs::FileExt as _;
    let mut chunk = vec![0; 1 << 18];
    let mut at = range.start;
    while at < range.end {
        let length = chunk.len().min(usize::try_from(range.end - at).unwrap_or(usize::MAX));
        let read = file.read_at(&mut chunk[..length], at).map_err(|error| Error::Request {
            action: "read",
            object: object.to_owned(),
            reason: error.to_string(),
            is_denied: false,
        })?;
        if read == 0 {
            break;
        }
        take(&chunk[..read])?;
        at += read as u64;
    }
    Ok(())
}

/// Makes what talks to the server; credentials come from the environment, and from AWS's files.
fn objects(
    address: &Address,
    options: &Options,
    meter: &Arc<Meter>,
) -> Result<Arc<dyn ObjectStore>, String> {
    let text = |error: object_store::Error| error.to_string();
    if address.scheme() == Scheme::File {
        let folder = Path::new(address.path());
        let made = match options.makes_folder {
            true => std::fs::create_dir_all(folder),
            false => std::fs::metadata(folder).map(drop),
        };
        made.map_err(|error| format!("`{}`: {error}", folder.display()))?;
        let objects = LocalFileSystem::new_with_prefix(folder).map_err(text)?;
        return Ok(Arc::new(objects.with_fsync(true)));
    }
    let limits = options.limits;
    let connector = Connector::new(&options.certificates, Arc::clone(meter), limits);
    let connector = connector.map_err(|error| error.to_string())?;
    let retry = RetryConfig {
        backoff: BackoffConfig {
            init_backoff: limits.answer.min(Duration::from_millis(200)),
            max_backoff: limits.answer.min(Duration::from_secs(5)),
            base: 2.0,
        },
        max_retries: limits.retries,
        retry_timeout: limits.of_request(),
    };
    let plain = ClientOptions::new().with_allow_http(true);
    Ok(match address.scheme() {
        Scheme::S3 => {
            let means = aws::Means { connector: &connector, limits, retry: &retry };
            let builder = options.aws.apply(AmazonS3Builder::from_env(), &means)?;
            let keys = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint];
            let endpoint = keys.iter().find_map(|key| builder.get_config_value(key));
            let is_here = endpoint.is_some_and(|endpoint| is_here(&endpoint));
            let builder = if is_here { builder.with_allow_http(true) } else { builder };
            // Not every compatible server knows how to remove many objects at once.
            let builder = builder.with_disable_bulk_delete(true);
            let builder = builder.with_bucket_name(address.place()).with_retry(retry);
            Arc::new(builder.with_http_connector(connector).build().map_err(text)?)
        }
        Scheme::Gcs => {
            let builder = with_tls(GoogleCloudStorageBuilder::from_env());
            let builder = builder.with_bucket_name(address.place());
            let builder = builder.with_retry(retry).with_http_connector(connector);
            Arc::new(builder.build().map_err(text)?)
        }
        Scheme::Azure => {
            let builder = MicrosoftAzureBuilder::from_env().with_container_name(address.place());
            let endpoint = builder.get_config_value(&AzureConfigKey::Endpoint);
            let is_here = endpoint.is_some_and(|endpoint| is_here(&endpoint));
            let builder = if is_here { builder.with_allow_http(true) } else { builder };
            let builder = builder.with_retry(retry).with_http_connector(connector);
            Arc::new(builder.build().map_err(text)?)
        }
        Scheme::Https | Scheme::Http | Scheme::File => {
            let builder = HttpBuilder::new().with_url(address.to_string()).with_retry(retry);
            let builder = match address.scheme() {
                Scheme::Http => builder.with_client_options(plain),
                _ => builder,
            };
            Arc::new(builder.with_http_connector(connector).build().map_err(text)?)
        }
    })
}

/// Tells whether an endpoint without TLS is on this machine.
fn is_here(endpoint: &str) -> bool {
    endpoint
        .strip_prefix("http://")
        .is_some_and(|rest| is_loopback(rest.split('/').next().unwrap_or_default()))
}

/// Demands TLS of Google's service, as of the others: `object_store` would do without wherever an account's file says so.
fn with_tls(builder: GoogleCloudStorageBuilder) -> GoogleCloudStorageBuilder {
    let get = |key| builder.get_config_value(&key);
    let account = get(GoogleConfigKey::ServiceAccountKey).or_else(|| {
        let path = get(GoogleConfigKey::ServiceAccount)?;
        // One that can't be read is the builder's to complain of.
        std::fs::read_to_string(path).ok()
    });
    let base = get(GoogleConfigKey::BaseUrl).or_else(|| {
        let account: serde_json::Value = serde_json::from_str(&account?).ok()?;
        Some(account.get("gcs_base_url")?.as_str()?.to_owned())
    });
    let may_be_plain = base.is_some_and(|base| is_here(&base))
        || std::env::var("GOOGLE_ALLOW_HTTP").is_ok_and(|value| value == "true");
    let key = GoogleConfigKey::Client(ClientConfigKey::AllowHttp);
    builder.with_config(key, may_be_plain.to_string())
}
