//! Fetches the packages of a lockfile into the store: from npm's cache, else from registries.
//!
//! ```text
//! network thread (tokio)   one task per download, at most `maxsockets`: bytes → bodies
//! worker threads           verify, unpack, hash and store one body or cache file at a time
//! ```
//!
//! A body reaches a worker when it is whole, or when it fills its window, so that slow downloads keep no
//! worker waiting while others are ready. Windows come out of one budget, which bounds the memory of all
//! downloads together. Every window is granted before its first byte is read, so none waits for another.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::time::Duration;

use rift_cas::import::{Import, Unit};
use rift_cas::lock::{lock, unlocked};
use rift_cas::log::{Log, Record};
use rift_tree::builder::Built;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::cacache;
use super::error::PackageError;
use super::facts::Known;
use super::integrity::Integrity;
use super::registry::{Registry, RegistryError, RegistrySettings, SOCKETS_MAX, reason, shown};
use super::tarball::{self, Buffers};

/// How many bytes of one body may wait for a worker.
const WINDOW_BYTES: u32 = 4 << 20;
/// How many bytes of all bodies together may wait.
const BUDGET_BYTES: usize = 16 << 20;

/// A package of a lockfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The name by which the registry knows it.
    pub name: String,
    /// Its version.
    pub version: String,
    /// `integrity` in the lockfile.
    pub integrity: String,
    /// `resolved` in the lockfile.
    pub resolved: Option<String>,
    /// Whether npm would carry on without it.
    pub is_optional: bool,
}

/// Where a package came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// The store had it.
    Store,
    /// npm's cache.
    Cache,
    /// A registry.
    Registry,
}

/// A package that the store has, or will have when the import is finished.
#[derive(Debug, Clone)]
pub struct Got {
    /// Its tree and facts.
    pub known: Known,
    /// The tree's manifest, when it came with this run.
    pub built: Option<Arc<Built>>,
    /// Where it came from.
    pub source: Source,
}

/// Why a package could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// Its tarball.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// Its registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Something else in this process, such as threads.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// A package that could not be had.
#[derive(Debug, thiserror::Error)]
#[error("could not fetch {name}@{version}")]
pub struct Failure {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Why.
    #[source]
    pub cause: Box<Cause>,
}

impl Failure {
    fn of(wanted: &Wanted, cause: impl Into<Cause>) -> Self {
        let (name, version) = (wanted.name.clone(), wanted.version.clone());
        Self { name, version, cause: Box::new(cause.into()) }
    }

    /// Returns what the user may do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match &*self.cause {
            Cause::Registry(error) => error.hint(),
            Cause::Package(PackageError::Integrity { .. }) => Some(
                "the registry has other bytes than the lockfile names: make it anew, or ask why",
            ),
            Cause::Package(PackageError::Read(_)) => {
                Some("check the network, `https-proxy` and `fetch-timeout` in .npmrc")
            }
            _ => None,
        }
    }
}

/// What was fetched.
#[derive(Debug)]
pub struct Fetched {
    /// One for each package that was wanted, in the same order. Only optional ones can have failed.
    pub packages: Vec<Result<Got, Arc<Failure>>>,
    /// What [`Import::finish`] has to append to the log.
    pub records: Vec<Record>,
    /// How many compressed bytes came from registries.
    pub downloaded_bytes: u64,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Packages that are done, of those that the store did not have.
    pub done: usize,
    /// How many those are.
    pub total: usize,
    /// Compressed bytes that were read.
    pub bytes: u64,
}

/// Finds a package in the log, if the store still has its tree.
#[must_use]
pub fn find(log: &Log, import: &Import<'_>, integrity: &Integrity) -> Option<Known> {
    let known = Known::find(log, integrity)?;
    let is_here = rift_cas::tree::packed_manifest(import.index(), known.tree).is_some()
        || import.store().has_tree(known.tree);
    is_here.then_some(known)
}

/// Is told that a package was taken in: its number among the wanted ones, its tree, and the unit that has its files.
pub type Taken<'h> = dyn Fn(usize, &Built, &Unit<'_>) + Sync + 'h;

/// Who wants to know how a fetch goes on.
#[derive(Clone, Copy)]
pub struct Watch<'h> {
    /// Is told how far it is.
    pub progress: &'h (dyn Fn(Progress) + Sync),
    /// Is told of each package, from several threads.
    pub taken: Option<&'h Taken<'h>>,
}

/// Fetches every package that `known` does not find.
///
/// # Errors
/// The first package that could not be had and is not optional; nothing of this run is known then.
pub fn fetch_all(
    wanted: &[Wanted],
    import: &Import<'_>,
    known: &dyn Fn(&Integrity) -> Option<Known>,
    settings: &RegistrySettings,
    cache: Option<&Path>,
    watch: Watch<'_>,
) -> Result<Fetched, Failure> {
    let mut slots: Vec<Slot> = Vec::with_capacity(wanted.len());
    let mut jobs: Vec<Job<'_>> = Vec::new();
    let mut numbers: HashMap<Integrity, usize> = HashMap::new();
    for (place, package) in wanted.iter().enumerate() {
        let integrity = match Integrity::parse(&package.integrity) {
            Ok(integrity) => integrity,
            Err(error) if package.is_optional => {
                slots.push(Slot::Done(Box::new(Err(Arc::new(Failure::of(package, error))))));
                continue;
            }
            Err(error) => return Err(Failure::of(package, error)),
        };
        if let Some(number) = numbers.get(&integrity) {
            let job = &mut jobs[*number];
            job.is_optional &= package.is_optional;
            job.places.push(place);
            slots.push(Slot::Job(*number));
        } else if let Some(known) = known(&integrity) {
            let got = Got { known, built: None, source: Source::Store };
            slots.push(Slot::Done(Box::new(Ok(got))));
        } else {
            numbers.insert(integrity.clone(), jobs.len());
            slots.push(Slot::Job(jobs.len()));
            let is_optional = package.is_optional;
            jobs.push(Job { package, integrity, is_optional, places: vec![place] });
        }
    }
    let run = Run::new(&jobs, settings, cache, watch);
    if !jobs.is_empty() {
        run.run(import)?;
    }
    let downloaded_bytes = run.downloaded_bytes.load(Ordering::Relaxed);
    let results = unlocked(run.results);
    let mut records = Vec::new();
    for (job, result) in jobs.iter().zip(&results) {
        if let Some(Ok(got)) = result {
            let record = got.known.record(&job.integrity);
            records.push(record.map_err(|error| Failure::of(job.package, error))?);
        }
    }
    let mut packages = Vec::with_capacity(slots.len());
    for (slot, package) in slots.into_iter().zip(wanted) {
        packages.push(match slot {
            Slot::Done(result) => *result,
            Slot::Job(number) => match results.get(number).cloned().flatten() {
                Some(result) => result,
                None => return Err(Failure::of(package, io::Error::other("a worker stopped"))),
            },
        });
    }
    Ok(Fetched { packages, records, downloaded_bytes })
}

enum Slot {
    Done(Box<Result<Got, Arc<Failure>>>),
    Job(usize),
}

/// One tarball to take in.
struct Job<'w> {
    package: &'w Wanted,
    integrity: Integrity,
    is_optional: bool,
    /// Its numbers among the wanted packages.
    places: Vec<usize>,
}

/// A request for the network thread.
struct Ask {
    job: usize,
    name: String,
    url: reqwest::Url,
    /// How often it was tried before.
    attempt: u32,
    /// Whether it came whole once, with other bytes than the lockfile names.
    was_wrong: bool,
    wait: Duration,
}

/// What the network thread has for the workers.
struct Delivery {
    ask: Ask,
    body: Result<Body, RegistryError>,
}

/// Deliveries that wait for a worker.
#[derive(Default)]
struct Queue {
    ready: Mutex<Vec<Delivery>>,
    changed: Condvar,
}

impl Queue {
    fn deliver(&self, ask: Ask, body: Result<Body, RegistryError>) {
        lock(&self.ready).push(Delivery { ask, body });
        self.changed.notify_one();
    }
}

/// What a worker does next.
enum Task {
    FromCache(usize),
    Delivered(Box<Delivery>),
}

/// What one worker works with.
struct Worker<'i> {
    import: &'i Import<'i>,
    unit: Unit<'i>,
    buffers: Buffers,
}

impl Worker<'_> {
    fn import(
        &mut self,
        tarball: impl Read,
        integrity: &Integrity,
    ) -> Result<tarball::Package, PackageError> {
        tarball::import(tarball, integrity, &mut self.unit, &mut self.buffers)
    }
}

type JobResult = Option<Result<Got, Arc<Failure>>>;

/// One run of [`fetch_all`].
struct Run<'r> {
    jobs: &'r [Job<'r>],
    cache: Option<&'r Path>,
    watch: Watch<'r>,
    registry: Arc<Registry>,
    /// Jobs whose tarball npm's cache seems to have.
    cached: Mutex<VecDeque<usize>>,
    queue: Arc<Queue>,
    asks: Mutex<Option<tokio::sync::mpsc::UnboundedSender<Ask>>>,
    results: Mutex<Vec<JobResult>>,
    /// Jobs that are not done.
    open: AtomicUsize,
    is_stopped: AtomicBool,
    failure: Mutex<Option<Failure>>,
    read_bytes: AtomicU64,
    downloaded_bytes: AtomicU64,
}

impl<'r> Run<'r> {
    fn new(
        jobs: &'r [Job<'r>],
        settings: &RegistrySettings,
        cache: Option<&'r Path>,
        watch: Watch<'r>,
    ) -> Self {
        Self {
            jobs,
            cache,
            watch,
            registry: Arc::new(Registry::new(settings.clone())),
            cached: Mutex::default(),
            queue: Arc::default(),
            asks: Mutex::default(),
            results: Mutex::new(vec![None; jobs.len()]),
            open: AtomicUsize::new(jobs.len()),
            is_stopped: AtomicBool::new(false),
            failure: Mutex::default(),
            read_bytes: AtomicU64::new(0),
            downloaded_bytes: AtomicU64::new(0),
        }
    }

    fn run(&self, import: &Import<'_>) -> Result<(), Failure> {
        let first = self.jobs[0].package;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::of(first, error))?;
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        *lock(&self.asks) = Some(sender);
        for (number, job) in self.jobs.iter().enumerate() {
            let file = self.cache.and_then(|cache| cacache::open(cache, &job.integrity));
            match file {
                Some(_) => lock(&self.cached).push_back(number),
                None => self.ask(number),
            }
        }
        let workers = std::thread::available_parallelism().map_or(2, usize::from).min(8);
        std::thread::scope(|scope| {
            let (registry, queue) = (Arc::clone(&self.registry), Arc::clone(&self.queue));
            scope.spawn(move || {
                runtime.block_on(download_all(registry, queue, receiver));
                // Connections need no farewell.
                runtime.shutdown_background();
            });
            for _ in 0..workers.min(self.jobs.len()) {
                scope.spawn(|| self.work(import));
            }
        });
        match lock(&self.failure).take() {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }

    /// Takes in one tarball after the other until all are.
    fn work(&self, import: &Import<'_>) {
        let mut worker = Worker { import, unit: import.unit(), buffers: Buffers::default() };
        if self.watch.taken.is_some() {
            worker.unit.remember();
        }
        while let Some(task) = self.next_task() {
            match task {
                Task::FromCache(number) => self.take_from_cache(number, &mut worker),
                Task::Delivered(delivery) => self.take_in(*delivery, &mut worker),
            }
        }
        // Others may rely on blobs that this unit brings, whatever came of its packages.
        if let Err(error) = worker.unit.flush() {
            self.stop(Failure::of(self.jobs[0].package, PackageError::from(error)));
        }
    }

    fn next_task(&self) -> Option<Task> {
        let mut ready = lock(&self.queue.ready);
        loop {
            if self.is_stopped.load(Ordering::Relaxed) || self.open.load(Ordering::Relaxed) == 0 {
                return None;
            }
            // The largest first, so that none is left to one worker alone at the end.
            let size = |at: &usize| ready[*at].body.as_ref().map_or(0, |body| body.expected);
            if let Some(at) = (0..ready.len()).max_by_key(size) {
                return Some(Task::Delivered(Box::new(ready.swap_remove(at))));
            }
            if let Some(number) = lock(&self.cached).pop_front() {
                return Some(Task::FromCache(number));
            }
            ready = self.queue.changed.wait(ready).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn take_from_cache(&self, number: usize, worker: &mut Worker<'_>) {
        let job = &self.jobs[number];
        let file = self.cache.and_then(|cache| cacache::open(cache, &job.integrity));
        match file.map(|file| worker.import(file, &job.integrity)) {
            Some(Ok(package)) => self.keep(number, package, Source::Cache, worker),
            Some(Err(error)) if !error.is_about_this_copy() => self.fail(number, error),
            // Gone or damaged by now: npm would fetch it again too.
            _ => self.ask(number),
        }
    }

    fn take_in(&self, delivery: Delivery, worker: &mut Worker<'_>) {
        let Delivery { ask, body } = delivery;
        let number = ask.job;
        let settings = self.registry.settings();
        let body = match body {
            Ok(body) => body,
            Err(error) if error.is_passing() && ask.attempt < settings.retries => {
                return self.ask_again(ask, false);
            }
            Err(error) => return self.fail(number, error),
        };
        match worker.import(body, &self.jobs[number].integrity) {
            Ok(package) => {
                self.downloaded_bytes.fetch_add(package.facts.packed_bytes, Ordering::Relaxed);
                self.keep(number, package, Source::Registry, worker);
            }
            Err(PackageError::Read(_)) if ask.attempt < settings.retries => {
                self.ask_again(ask, false);
            }
            Err(PackageError::Integrity { .. }) if !ask.was_wrong => self.ask_again(ask, true),
            Err(error) => self.fail(number, error),
        }
    }

    fn ask(&self, number: usize) {
        let Wanted { name, version, resolved, .. } = self.jobs[number].package;
        let settings = self.registry.settings();
        if settings.is_offline {
            return self.fail(number, RegistryError::Offline);
        }
        match settings.tarball_url(name, version, resolved.as_deref()) {
            Err(error) => self.fail(number, error),
            Ok(url) => {
                let wait = Duration::ZERO;
                let name = name.clone();
                self.send(Ask { job: number, name, url, attempt: 0, was_wrong: false, wait });
            }
        }
    }

    /// Asks once more: after a while when the network failed, at once when the bytes were wrong.
    fn ask_again(&self, ask: Ask, was_wrong: bool) {
        let attempt = ask.attempt + u32::from(!was_wrong);
        let wait = match was_wrong {
            true => Duration::ZERO,
            false => self.registry.settings().backoff(attempt),
        };
        self.send(Ask { attempt, wait, was_wrong: ask.was_wrong || was_wrong, ..ask });
    }

    fn send(&self, ask: Ask) {
        if let Some(asks) = &*lock(&self.asks) {
            // The receiver lives until this sender is dropped.
            drop(asks.send(ask));
        }
    }

    fn keep(
        &self,
        number: usize,
        package: tarball::Package,
        source: Source,
        worker: &mut Worker<'_>,
    ) {
        let Worker { import, unit, .. } = worker;
        if let Err(error) = import.add_manifest(unit, &package.tree) {
            return self.fail(number, PackageError::from(error));
        }
        if let Some(taken) = self.watch.taken {
            self.jobs[number].places.iter().for_each(|place| taken(*place, &package.tree, unit));
        }
        let bytes = self.read_bytes.fetch_add(package.facts.packed_bytes, Ordering::Relaxed)
            + package.facts.packed_bytes;
        let known = Known { tree: package.tree.hash, facts: package.facts };
        let got = Got { known, built: Some(Arc::new(package.tree)), source };
        self.end(number, Ok(got), bytes);
    }

    fn fail(&self, number: usize, cause: impl Into<Cause>) {
        let job = &self.jobs[number];
        let failure = Failure::of(job.package, cause);
        let is_store = matches!(&*failure.cause, Cause::Package(PackageError::Store(_)));
        match job.is_optional && !is_store {
            true => {
                let bytes = self.read_bytes.load(Ordering::Relaxed);
                self.end(number, Err(Arc::new(failure)), bytes);
            }
            false => self.stop(failure),
        }
    }

    fn end(&self, number: usize, result: Result<Got, Arc<Failure>>, bytes: u64) {
        lock(&self.results)[number] = Some(result);
        let open = self.open.fetch_sub(1, Ordering::Relaxed) - 1;
        (self.watch.progress)(Progress {
            done: self.jobs.len() - open,
            total: self.jobs.len(),
            bytes,
        });
        if open == 0 {
            self.close();
        }
    }

    fn stop(&self, failure: Failure) {
        lock(&self.failure).get_or_insert(failure);
        self.is_stopped.store(true, Ordering::Relaxed);
        self.close();
    }

    /// Ends the network thread, and wakes the workers.
    fn close(&self) {
        lock(&self.asks).take();
        // Under the lock, so that nobody checks before and waits after.
        let _ready = lock(&self.queue.ready);
        self.queue.changed.notify_all();
    }
}

/// Downloads what is asked for until nobody can ask any more.
async fn download_all(
    registry: Arc<Registry>,
    queue: Arc<Queue>,
    mut asks: tokio::sync::mpsc::UnboundedReceiver<Ask>,
) {
    let sockets = registry.settings().max_sockets.clamp(1, SOCKETS_MAX as usize);
    let sockets = Arc::new(Semaphore::new(sockets));
    let budget = Arc::new(Semaphore::new(BUDGET_BYTES));
    while let Some(ask) = asks.recv().await {
        let (registry, queue) = (Arc::clone(&registry), Arc::clone(&queue));
        let (sockets, budget) = (Arc::clone(&sockets), Arc::clone(&budget));
        tokio::spawn(async move {
            tokio::time::sleep(ask.wait).await;
            // Neither semaphore is ever closed.
            let Ok(_socket) = sockets.acquire_owned().await else {
                return;
            };
            match registry.get(&ask.name, ask.url.clone()).await {
                Ok(response) => read_body(response, ask, &queue, budget).await,
                Err(error) => queue.deliver(ask, Err(error)),
            }
        });
    }
}

/// Reads a body into its window, and hands it over when it is whole or its window is full.
async fn read_body(
    mut response: reqwest::Response,
    ask: Ask,
    queue: &Queue,
    budget: Arc<Semaphore>,
) {
    let expected = response.content_length().unwrap_or(u64::from(WINDOW_BYTES));
    let room = u32::try_from(expected).unwrap_or(WINDOW_BYTES).clamp(1, WINDOW_BYTES);
    let Ok(budget) = budget.acquire_many_owned(room).await else {
        return;
    };
    let window = Arc::new(Semaphore::new(room as usize));
    let (sender, chunks) = mpsc::channel();
    let url = shown(response.url());
    let body = Body {
        chunks,
        current: Box::new([0; 0]),
        at: 0,
        owed: 0,
        window: Arc::clone(&window),
        is_at_end: false,
        expected,
        _budget: budget,
    };
    let mut waiting = Some((ask, body));
    loop {
        let chunk = match response.chunk().await {
            Ok(Some(chunk)) if chunk.is_empty() => continue,
            Ok(Some(chunk)) => chunk,
            Ok(None) => {
                drop(sender.send(Chunk::End));
                break;
            }
            Err(error) => {
                let reason = reason(&error.without_url());
                drop(sender.send(Chunk::Failed(RegistryError::Network { url, reason })));
                break;
            }
        };
        let cost = u32::try_from(chunk.len()).unwrap_or(room).min(room);
        let granted = match window.try_acquire_many(cost) {
            Ok(granted) => granted,
            Err(_) => {
                if let Some((ask, body)) = waiting.take() {
                    queue.deliver(ask, Ok(body));
                }
                // Closed when the worker wants no more.
                match window.acquire_many(cost).await {
                    Ok(granted) => granted,
                    Err(_) => return,
                }
            }
        };
        granted.forget();
        if sender.send(Chunk::Bytes(Box::new(chunk), cost)).is_err() {
            return;
        }
    }
    if let Some((ask, body)) = waiting.take() {
        queue.deliver(ask, Ok(body));
    }
}

enum Chunk {
    /// Bytes, and what they cost of the window.
    Bytes(Box<dyn AsRef<[u8]> + Send>, u32),
    End,
    Failed(RegistryError),
}

/// A body as a worker reads it.
struct Body {
    chunks: mpsc::Receiver<Chunk>,
    current: Box<dyn AsRef<[u8]> + Send>,
    at: usize,
    /// What the current chunk costs of the window.
    owed: u32,
    window: Arc<Semaphore>,
    is_at_end: bool,
    /// How many bytes its server announced.
    expected: u64,
    _budget: OwnedSemaphorePermit,
}

impl Read for Body {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let rest = &(*self.current).as_ref()[self.at..];
            if !rest.is_empty() || out.is_empty() {
                let count = rest.len().min(out.len());
                out[..count].copy_from_slice(&rest[..count]);
                self.at += count;
                return Ok(count);
            }
            if self.is_at_end {
                return Ok(0);
            }
            self.window.add_permits(self.owed as usize);
            self.owed = 0;
            match self.chunks.recv() {
                Ok(Chunk::Bytes(bytes, cost)) => {
                    (self.current, self.at, self.owed) = (bytes, 0, cost)
                }
                Ok(Chunk::End) => self.is_at_end = true,
                Ok(Chunk::Failed(error)) => return Err(io::Error::other(error)),
                Err(_) => return Err(io::Error::other("the download was given up")),
            }
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.window.close();
    }
}
