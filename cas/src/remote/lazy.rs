//! Brings blobs of a partial tree when somebody waits for them.
//!
//! One thread looks at what is wanted and makes requests of it; a few others make them. What lies close together in one object
//! comes with one request, as far as the bytes between are few beside what was wanted, and these are kept as well. Of an object in
//! frames all that lies in a frame comes with it. What lies beside a wanted blob comes along, for most trees are read package by package,
//! in the order that packs have: as long as most of what came that way was needed, or fewer bytes have come than were read, which
//! compression makes room for. A blob that is on its way is not asked for again.
//!
//! A remote that fails is asked once more, and then not for a while: who waits is told so at once.

use std::collections::VecDeque;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use rift_tree::arrival::Arrivals;
use rift_tree::{BlobHash, Manifest};

use super::access::AccessKey;
use super::error::{Error, Result};
use super::keys::TrustedKeys;
use super::places::{Object, Places};
use super::{Remote, Traffic};
use crate::blobs::BlobIndex;
use crate::lock::lock;
use crate::pack::PackedKind;
use crate::partial::{Bases, Partial, ring, sleep_on, wake};
use crate::store::Store;
use crate::tree::{map_if_there, sizes};

/// How many requests are made at once. With less, small files wait for each other.
const AT_ONCE: usize = 16;
/// No request is for more, so that several bring what is large.
const REQUEST_MAX: u64 = 4 << 20;
/// Bytes between two wanted blobs that come along at most: what another request costs in time, divided by how many are
/// made at once.
const GAP_MAX: u64 = 96 << 10;
/// Of bytes that nobody wants, one request brings this part of those that somebody does, and a few more.
const WASTE_PART: u64 = 8;
const WASTE_FREE: u64 = 4 << 10;
/// What lies behind a wanted blob comes along up to so many bytes of the object, and what lies before it.
const BESIDE_MAX: u64 = 256 << 10;
/// Of bytes that came along, so many may not have been needed, and this part of those that were read.
const UNUSED_FREE: u64 = 64 << 10;
const UNUSED_PART: u64 = 8;
/// How long a remote that failed is left alone.
const PAUSE: Duration = Duration::from_secs(5);
/// How often a request is made.
const ATTEMPTS: usize = 2;

/// What brings the blobs of one tree; it works until the process ends.
#[derive(Debug)]
pub struct Fetching {
    shared: Arc<Shared>,
}

/// What the threads share.
#[derive(Debug)]
struct Shared {
    partial: Weak<Partial>,
    queue: Mutex<Queue>,
    more: Condvar,
    remote: OnceLock<Remote>,
    /// What the store has elsewhere.
    index: OnceLock<BlobIndex>,
    /// What others needed.
    followed: OnceLock<Vec<u32>>,
}

#[derive(Debug, Default)]
struct Queue {
    /// What somebody waits for.
    now: VecDeque<Range<u32>>,
    /// What will be needed.
    ahead: VecDeque<Range<u32>>,
    /// Which blobs are on their way, by their place.
    on_way: Vec<bool>,
    /// Blobs that will be needed, not yet made requests of.
    hints: Vec<u32>,
    down_until: Option<Instant>,
    workers: usize,
}

impl Queue {
    fn next(&mut self) -> Option<Range<u32>> {
        self.now.pop_front().or_else(|| self.ahead.pop_front())
    }

    /// Somebody waits for what was to come ahead.
    fn hurry(&mut self, place: u32) {
        if let Some(at) = self.ahead.iter().position(|range| range.contains(&place)) {
            self.now.extend(self.ahead.remove(at));
        }
    }
}

/// A blob and where it lies.
#[derive(Debug, Clone, Copy)]
struct Lying {
    blob: u32,
    /// The number of the object.
    object: u32,
    /// Where in the object.
    offset: u64,
    size: u64,
    hash: BlobHash,
}

/// All blobs with bytes, in the order of the objects; a *place* is a number in this list.
struct Lie {
    list: Vec<Lying>,
    /// The place of each blob.
    places: Vec<Option<u32>>,
    /// Where each object begins in the data file.
    starts: Vec<u64>,
    objects: Vec<Object>,
}

impl Lie {
    fn new(manifest: &Manifest<'_>, places: &Places<'_>) -> Option<Self> {
        let starts = Bases::new(&places.sidecar)?.starts;
        let numbers = 0..places.sidecar.container_count();
        let objects = numbers.map(|number| {
            let container = places.sidecar.container(number)?;
            Some(places.object(number, &container))
        });
        let objects = objects.collect::<Option<Vec<_>>>()?;
        let sized = (0..).zip(sizes(manifest)).filter(|(_, size)| *size > 0);
        let lying = sized.map(|(blob, size)| {
            let location = places.sidecar.location(blob)?;
            let hash = manifest.blob_hash(blob)?;
            Some(Lying { blob, object: location.container, offset: location.offset, size, hash })
        });
        let mut list = lying.collect::<Option<Vec<_>>>()?;
        list.sort_by_key(|one| (one.object, one.offset));
        let mut places = vec![None; manifest.blob_count() as usize];
        for (place, one) in (0..).zip(&list) {
            *places.get_mut(one.blob as usize)? = Some(place);
        }
        Some(Self { list, places, starts, objects })
    }

    fn at(&self, place: u32) -> Option<&Lying> {
        self.list.get(place as usize)
    }

    fn slice(&self, range: &Range<u32>) -> &[Lying] {
        self.list.get(range.start as usize..range.end as usize).unwrap_or_default()
    }

    /// Returns what comes with a blob: the places that lie whole in the frames that hold it, and the bytes of the object that are read.
    fn unit(&self, place: u32) -> Option<(Range<u32>, Range<u64>)> {
        let one = self.at(place)?;
        let object = self.objects.get(one.object as usize)?;
        let bytes = one.bytes();
        let (around, sent) = (object.around(&bytes), object.sent(&bytes));
        let mut unit = place..place + 1;
        let (mut first, mut last) = (one, one);
        while let Some(before) = unit.start.checked_sub(1).and_then(|before| self.at(before))
            && before.object == one.object
            && around.start <= before.offset
            && before.bytes().end <= first.offset
        {
            first = before;
            unit.start -= 1;
        }
        while let Some(next) = self.at(unit.end)
            && next.object == one.object
            && last.bytes().end <= next.offset
            && next.bytes().end <= around.end
        {
            last = next;
            unit.end += 1;
        }
        Some((unit, sent))
    }
}

impl Lying {
    fn bytes(&self) -> Range<u64> {
        self.offset..self.offset + self.size
    }
}

/// A request that is being made.
struct Open {
    places: Range<u32>,
    /// Of the object.
    sent: Range<u64>,
    useful_bytes: u64,
    wasted_bytes: u64,
}

/// Makes requests of places, which are in order: each a range of places in one object.
///
/// Between two wanted ones lie others that come along: at most [`GAP_MAX`] bytes of the object, and all of a request's no more than a
/// part of what is wanted of it. What lies in one frame with a wanted one comes anyway.
fn requests(lie: &Lie, wanted: &[u32]) -> Vec<Range<u32>> {
    let mut requests = Vec::new();
    let mut open: Option<Open> = None;
    for place in wanted {
        let (Some(one), Some((unit, sent))) = (lie.at(*place), lie.unit(*place)) else { continue };
        if let Some(open) = &mut open
            && let Some(last) = lie.at(open.places.end - 1)
            && one.object == last.object
        {
            if *place < open.places.end {
                continue;
            }
            let gap = sent.start.saturating_sub(open.sent.end);
            let more = sent.end.saturating_sub(sent.start.max(open.sent.end));
            let useful_bytes = open.useful_bytes + more;
            let wasted_bytes = open.wasted_bytes + gap;
            if one.offset >= last.bytes().end
                && gap <= GAP_MAX
                && sent.end.saturating_sub(open.sent.start) <= REQUEST_MAX
                && wasted_bytes <= useful_bytes / WASTE_PART + WASTE_FREE
            {
                let places = open.places.start..unit.end;
                let sent = open.sent.start..sent.end.max(open.sent.end);
                *open = Open { places, sent, useful_bytes, wasted_bytes };
                continue;
            }
        }
        requests.extend(open.take().map(|open| open.places));
        let useful_bytes = sent.end - sent.start;
        open = Some(Open { places: unit, sent, useful_bytes, wasted_bytes: 0 });
    }
    requests.extend(open.map(|open| open.places));
    requests
}

/// What is known of blobs that came along with others. What comes is counted as it is sent, what is read as it is.
#[derive(Debug, Default)]
struct Along {
    /// Places that came and were not needed so far, with what was sent for them.
    waiting: Vec<(u32, u64)>,
    sent_bytes: u64,
    /// Of these, those of what waits.
    unused_bytes: u64,
    read_bytes: u64,
}

impl Along {
    /// Looks which ones were needed since.
    fn look(&mut self, lie: &Lie, arrivals: &Arrivals<'_>) {
        let (unused, read) = (&mut self.unused_bytes, &mut self.read_bytes);
        self.waiting.retain(|(place, sent)| {
            let Some(one) = lie.at(*place) else { return false };
            let is_used = arrivals.is_used(one.blob);
            if is_used {
                *unused = unused.saturating_sub(*sent);
                *read = read.saturating_add(one.size);
            }
            !is_used
        });
    }

    /// Tells whether so many bytes more may be sent for nothing: before a wanted blob, where they cost a request, only when as much was read.
    fn may_take(&self, bytes: u64, side: Side) -> bool {
        let is_earned = self.sent_bytes + bytes <= self.read_bytes;
        let is_behind = matches!(side, Side::Behind);
        let is_free = self.unused_bytes + bytes <= UNUSED_FREE + self.read_bytes / UNUSED_PART;
        is_earned || (is_behind && is_free)
    }

    /// Notes what requests bring beside the wanted places, which are in order.
    fn take(&mut self, lie: &Lie, requests: &[Range<u32>], wanted: &[u32]) {
        for range in requests {
            let slice = lie.slice(range);
            let (Some(first), Some(last)) = (slice.first(), slice.last()) else { continue };
            let plain = first.offset..last.bytes().end;
            let sent = lie.objects.get(first.object as usize).map(|object| object.sent(&plain));
            let sent_bytes = sent.map_or(0, |sent| sent.end - sent.start);
            self.sent_bytes += sent_bytes;
            for (place, one) in range.clone().zip(slice) {
                if wanted.binary_search(&place).is_ok() {
                    self.read_bytes += one.size;
                    continue;
                }
                // Below the length of an object twice, and that is below 2^64.
                let part = u128::from(sent_bytes) * u128::from(one.size);
                let part = (part / u128::from((plain.end - plain.start).max(1))) as u64;
                self.waiting.push((place, part));
                self.unused_bytes += part;
            }
        }
    }
}

/// Where blobs lie beside another one.
#[derive(Clone, Copy)]
enum Side {
    Before,
    Behind,
}

/// Returns the places on one side of a wanted one that come along; `is_free` tells those that have not come and are not on their way.
fn beside(
    lie: &Lie,
    along: &Along,
    place: u32,
    side: Side,
    is_free: impl Fn(u32) -> bool,
) -> Vec<u32> {
    let mut taken = Vec::new();
    let (Some(wanted), Some((mut unit, mut sent))) = (lie.at(place), lie.unit(place)) else {
        return taken;
    };
    let mut bytes = 0;
    loop {
        let next = match side {
            Side::Before => unit.start.checked_sub(1),
            Side::Behind => Some(unit.end),
        };
        let Some(next) = next.filter(|next| is_free(*next)) else { return taken };
        let Some((one, more)) = lie.at(next).zip(lie.unit(next)) else { return taken };
        let last = std::mem::replace(&mut sent, more.1);
        unit = more.0;
        let gap = match side {
            Side::Before => last.start.saturating_sub(sent.end),
            Side::Behind => sent.start.saturating_sub(last.end),
        };
        bytes += gap + (sent.end - sent.start);
        if one.object != wanted.object
            || gap > WASTE_FREE
            || bytes > BESIDE_MAX
            || !along.may_take(bytes, side)
        {
            return taken;
        }
        taken.extend(unit.clone());
    }
}

impl Fetching {
    /// Starts the thread that looks at what is wanted.
    pub(crate) fn start(partial: &Arc<Partial>) -> Self {
        let shared = Arc::new(Shared {
            partial: Arc::downgrade(partial),
            queue: Mutex::new(Queue::default()),
            more: Condvar::new(),
            remote: OnceLock::new(),
            index: OnceLock::new(),
            followed: OnceLock::new(),
        });
        let watching = Arc::clone(&shared);
        let started = std::thread::Builder::new().name("fetch".to_owned()).spawn(move || {
            if let Some(partial) = watching.partial.upgrade() {
                watching.watch(&partial);
            }
        });
        if let Err(error) = started {
            partial.note_trouble(format!("could not start a thread: {error}"));
            if let Some(arrivals) = partial.arrivals() {
                arrivals.set_down(true);
            }
        }
        Self { shared }
    }

    /// Brings what a command needed when others ran it on the tree; nothing waits for that.
    pub fn follow(&self, key: AccessKey) {
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name("fetch".to_owned());
        let follow = move || {
            let Some(partial) = shared.partial.upgrade() else { return };
            // It only saves time, and what is wrong with the remote whoever waits for a blob is told.
            let known = shared.remote(&partial).and_then(|remote| remote.access(key));
            if let Ok(Some(blobs)) = known {
                shared.queue().hints.extend_from_slice(&blobs);
                shared.followed.get_or_init(|| blobs);
                if let Some(arrivals) = partial.arrivals() {
                    ring(&arrivals);
                }
            }
        };
        // Without it, blobs come when they are needed.
        let _is_started = thread.spawn(follow).is_ok();
    }

    /// Brings blobs that will be needed behind those that somebody waits for; nothing waits for that.
    pub fn prefetch(&self, blobs: &[u32]) {
        let arrivals = self.shared.partial.upgrade();
        self.shared.queue().hints.extend_from_slice(blobs);
        if let Some(arrivals) = arrivals.as_ref().and_then(|partial| partial.arrivals()) {
            ring(&arrivals);
        }
    }

    /// Tells others which blobs a command needed, where the remote does not know; tells whether it was told.
    ///
    /// # Errors
    /// What the remote says.
    pub fn share(&self, key: AccessKey) -> Result<bool> {
        let Some(partial) = self.shared.partial.upgrade() else { return Ok(false) };
        let known = self.shared.followed.get().map(Vec::as_slice);
        self.shared.remote(&partial)?.set_access(key, &partial.used(), known)
    }

    /// Returns what the remote was asked so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.shared.remote.get().map(Remote::traffic).unwrap_or_default()
    }
}

impl Partial {
    /// Prepares the remote of the tree for requests. Nothing that is signed is read there.
    fn reach(&self) -> Result<Remote> {
        match self.origin.outside() {
            Some((main, name)) => {
                Remote::open(&main, &self.options)?.in_namespace(&name, TrustedKeys::default())
            }
            None => Remote::open(&self.origin, &self.options),
        }
    }

    /// As [`Fetching::share`], of a tree that another process brings the blobs of.
    ///
    /// # Errors
    /// What the remote says.
    pub fn share(&self, key: AccessKey) -> Result<bool> {
        self.reach()?.add_access(key, &self.used())
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }

    fn remote(&self, partial: &Partial) -> Result<&Remote> {
        match self.remote.get() {
            Some(remote) => Ok(remote),
            None => {
                let opened = partial.reach()?;
                Ok(self.remote.get_or_init(|| opened))
            }
        }
    }

    /// Makes requests of what is wanted, until the process ends.
    fn watch(self: &Arc<Self>, partial: &Arc<Partial>) {
        let Some(arrivals) = partial.arrivals() else { return };
        let manifest = map_if_there(&partial.path_of("manifest")).ok().flatten();
        let manifest = manifest.as_deref().and_then(|bytes| Manifest::parse(bytes).ok());
        let lie = manifest.zip(partial.places()).and_then(|(all, places)| Lie::new(&all, &places));
        let (Some(lie), Some(bell)) = (lie, arrivals.bell()) else {
            partial.note_trouble("the store has lost what it knew of the tree".to_owned());
            return refuse_all(&arrivals);
        };
        let lie = Arc::new(lie);
        if let Ok(Some(store)) = Store::open_existing(&partial.store)
            && let Ok(index) = BlobIndex::open(&store, &[])
        {
            self.index.get_or_init(|| index);
        }
        self.queue().on_way = vec![false; lie.list.len()];
        let mut along = Along::default();
        loop {
            let seen = bell.load(Ordering::Acquire);
            let mut wanted = Vec::new();
            arrivals.take_wanted(|blob| {
                if let Some(Some(place)) = lie.places.get(blob as usize)
                    && !arrivals.has(blob)
                    && !self.is_elsewhere(partial, &lie, &arrivals, *place)
                {
                    wanted.push(*place);
                }
            });
            let hints = std::mem::take(&mut self.queue().hints);
            if wanted.is_empty() && hints.is_empty() {
                sleep_on(bell, seen);
                continue;
            }
            self.plan(partial, &lie, &arrivals, (wanted, hints), &mut along);
        }
    }

    /// Takes a blob from a pack of the store, where one has it.
    fn is_elsewhere(
        &self,
        partial: &Partial,
        lie: &Lie,
        arrivals: &Arrivals<'_>,
        place: u32,
    ) -> bool {
        let (Some(index), Some(one)) = (self.index.get(), lie.at(place)) else { return false };
        let Some(found) = index.find(one.hash.as_bytes(), PackedKind::Blob) else { return false };
        let (bytes, start) = (found.bytes(), lie.starts.get(one.object as usize));
        let is_it = bytes.len() as u64 == one.size
            && blake3::hash(bytes).as_bytes() == one.hash.as_bytes()
            && start
                .is_some_and(|start| partial.data.write_all_at(bytes, start + one.offset).is_ok());
        if is_it {
            publish(arrivals, one.blob);
        }
        is_it
    }

    fn plan(
        self: &Arc<Self>,
        partial: &Arc<Partial>,
        lie: &Arc<Lie>,
        arrivals: &Arrivals<'_>,
        (mut wanted, hints): (Vec<u32>, Vec<u32>),
        along: &mut Along,
    ) {
        along.look(lie, arrivals);
        let mut queue = self.queue();
        if queue.down_until.is_some_and(|until| Instant::now() < until) {
            drop(queue);
            let blobs = wanted.iter().filter_map(|place| lie.at(*place));
            return blobs.for_each(|one| refuse(arrivals, one.blob));
        }
        let is_free = |queue: &Queue, place: u32| {
            let is_on_way = queue.on_way.get(place as usize).is_none_or(|is| *is);
            !is_on_way && lie.at(place).is_some_and(|one| !arrivals.has(one.blob))
        };
        wanted.iter().for_each(|place| queue.hurry(*place));
        wanted.retain(|place| is_free(&queue, *place));
        wanted.sort_unstable();
        wanted.dedup();
        let at = |side: Side| -> Vec<u32> {
            let free = |place: u32| is_free(&queue, place);
            wanted.iter().flat_map(|place| beside(lie, along, *place, side, free)).collect()
        };
        // What lies behind comes in the same request and later; what lies before in another one, so that nobody waits for it.
        let (mut before, behind) = (at(Side::Before), at(Side::Behind));
        let mut places = [&wanted[..], &behind].concat();
        places.sort_unstable();
        places.dedup();
        let now = requests(lie, &places);
        take(&mut queue, lie, arrivals, &now);
        before.retain(|place| is_free(&queue, *place));
        before.sort_unstable();
        before.dedup();
        let early = requests(lie, &before);
        take(&mut queue, lie, arrivals, &early);
        along.take(lie, &now, &wanted);
        along.take(lie, &early, &wanted);
        queue.now.extend(now);
        queue.ahead.extend(early);
        let places = hints.iter().filter_map(|blob| *lie.places.get(*blob as usize)?);
        let mut hinted: Vec<u32> = places.filter(|place| is_free(&queue, *place)).collect();
        let rank: std::collections::HashMap<u32, usize> =
            hinted.iter().enumerate().map(|(rank, place)| (*place, rank)).collect();
        hinted.sort_unstable();
        hinted.dedup();
        let mut ahead = requests(lie, &hinted);
        take(&mut queue, lie, arrivals, &ahead);
        ahead
            .sort_by_key(|range| range.clone().filter_map(|place| rank.get(&place)).min().copied());
        queue.ahead.extend(ahead);
        let work = queue.now.len() + queue.ahead.len();
        while queue.workers < AT_ONCE.min(work) {
            let (shared, partial, lie) = (Arc::clone(self), Arc::clone(partial), Arc::clone(lie));
            let worker = std::thread::Builder::new().name("fetch".to_owned());
            if worker.spawn(move || shared.work(&partial, &lie)).is_err() {
                break;
            }
            queue.workers += 1;
        }
        if queue.workers == 0 {
            // There are no threads to be had; this one does it.
            drop(queue);
            while let Some(range) = self.next() {
                self.bring(partial, lie, arrivals, &range);
            }
            return;
        }
        drop(queue);
        self.more.notify_all();
    }

    fn next(&self) -> Option<Range<u32>> {
        self.queue().next()
    }

    /// Makes requests, one after the other, until the process ends.
    fn work(&self, partial: &Partial, lie: &Lie) {
        let Some(arrivals) = partial.arrivals() else { return };
        loop {
            let mut queue = self.queue();
            let range = loop {
                match queue.next() {
                    Some(range) => break range,
                    None => {
                        queue = self.more.wait(queue).unwrap_or_else(PoisonError::into_inner);
                    }
                }
            };
            drop(queue);
            self.bring(partial, lie, &arrivals, &range);
        }
    }

    /// Brings what one request is for; tells who waits what became of it.
    fn bring(&self, partial: &Partial, lie: &Lie, arrivals: &Arrivals<'_>, range: &Range<u32>) {
        let brought = self.request(partial, lie, arrivals, range);
        let mut queue = self.queue();
        for place in range.clone() {
            if let Some(is_on_way) = queue.on_way.get_mut(place as usize) {
                *is_on_way = false;
            }
        }
        if let Err(error) = brought {
            queue.down_until = Some(Instant::now() + PAUSE);
            // Somebody may wait for what was to come ahead as well.
            let mut waiting: Vec<Range<u32>> = queue.now.drain(..).collect();
            waiting.extend(queue.ahead.drain(..));
            for place in waiting.iter().cloned().flatten() {
                if let Some(is_on_way) = queue.on_way.get_mut(place as usize) {
                    *is_on_way = false;
                }
            }
            drop(queue);
            partial.note_trouble(format!("the remote {}: {error}", partial.origin));
            arrivals.set_down(true);
            let all = waiting.into_iter().flatten().chain(range.clone());
            all.filter_map(|place| lie.at(place)).for_each(|one| refuse(arrivals, one.blob));
        }
    }

    fn request(
        &self,
        partial: &Partial,
        lie: &Lie,
        arrivals: &Arrivals<'_>,
        range: &Range<u32>,
    ) -> Result<()> {
        let remote = self.remote(partial)?;
        let mut attempt = 1;
        loop {
            match read(remote, partial, lie, arrivals, range) {
                Ok(()) => return Ok(()),
                Err(error) if attempt < ATTEMPTS && error.is_passing() => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }
}

/// Tells everybody who waits that there is nothing to be had, until the process ends.
fn refuse_all(arrivals: &Arrivals<'_>) {
    arrivals.set_down(true);
    while let Some(bell) = arrivals.bell() {
        let seen = bell.load(Ordering::Acquire);
        arrivals.take_wanted(|blob| refuse(arrivals, blob));
        sleep_on(bell, seen);
    }
}

/// Notes that what some requests are for is on its way.
fn take(queue: &mut Queue, lie: &Lie, arrivals: &Arrivals<'_>, requests: &[Range<u32>]) {
    for place in requests.iter().cloned().flatten() {
        let is_missing = lie.at(place).is_some_and(|one| !arrivals.has(one.blob));
        if let Some(is_on_way) = queue.on_way.get_mut(place as usize) {
            *is_on_way |= is_missing;
        }
    }
}

fn publish(arrivals: &Arrivals<'_>, blob: u32) {
    arrivals.arrive(blob);
    if let Some(word) = arrivals.word_of(blob) {
        wake(word);
    }
}

fn refuse(arrivals: &Arrivals<'_>, blob: u32) {
    arrivals.fail(blob);
    if let Some(word) = arrivals.word_of(blob) {
        wake(word);
    }
}

/// Makes one request, and keeps what comes.
fn read(
    remote: &Remote,
    partial: &Partial,
    lie: &Lie,
    arrivals: &Arrivals<'_>,
    range: &Range<u32>,
) -> Result<()> {
    let missing = lie.slice(range).iter().filter(|one| !arrivals.has(one.blob));
    let missing: Vec<&Lying> = missing.collect();
    let (Some(first), Some(last)) = (missing.first(), missing.last()) else {
        return Ok(());
    };
    let number = first.object as usize;
    let (Some(object), Some(start)) = (lie.objects.get(number), lie.starts.get(number)) else {
        return Ok(());
    };
    let wrong = |reason: String| Error::Wrong { object: object.name.clone(), reason };
    let is_apart = |pair: &[&Lying]| pair[0].bytes().end <= pair[1].offset;
    if !missing.windows(2).all(is_apart) {
        return Err(wrong("blobs lie in each other".to_owned()));
    }
    let asked = first.offset..last.bytes().end;
    let mut left = missing.iter().copied();
    let mut current = left.next();
    let mut hasher = blake3::Hasher::new();
    let mut done = 0;
    let mut take = |mut at: u64, mut chunk: &[u8]| -> Result<()> {
        while let Some(one) = current {
            let skipped = one.offset.saturating_sub(at).min(chunk.len() as u64);
            // At most the length of the chunk.
            chunk = &chunk[skipped as usize..];
            at += skipped;
            let end = one.offset + one.size;
            let (part, rest) = chunk.split_at((end - at).min(chunk.len() as u64) as usize);
            if at < one.offset || part.is_empty() {
                return Ok(());
            }
            hasher.update(part);
            let is_whole = at + part.len() as u64 == end;
            if is_whole {
                let actual = BlobHash::from_bytes(*hasher.finalize().as_bytes());
                if actual != one.hash {
                    return Err(wrong(format!("bytes of {} hash to {actual}", one.hash)));
                }
            }
            partial
                .data
                .write_all_at(part, start + at)
                .map_err(|source| crate::Error::io("write", &partial.path_of("data"))(source))?;
            at += part.len() as u64;
            chunk = rest;
            if !is_whole {
                return Ok(());
            }
            hasher.reset();
            publish(arrivals, one.blob);
            done += 1;
            current = left.next();
        }
        Ok(())
    };
    let read = object.read(remote, &asked, &mut take);
    // What comes after what was wanted does no harm.
    match done == missing.len() {
        true => Ok(()),
        false => read.and(Err(wrong("it ends too early".to_owned()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_waits_for_comes_before_what_will_be_needed() {
        let mut queue = Queue::default();
        queue.ahead.extend([0..4, 4..6, 6..9]);
        queue.hurry(5);
        // Nobody can hurry what is asked for already.
        queue.hurry(5);
        let order: Vec<_> = std::iter::from_fn(|| queue.next()).collect();
        assert_eq!(order, [4..6, 0..4, 6..9]);
    }
}
