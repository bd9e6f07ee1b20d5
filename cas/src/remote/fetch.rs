//! Fetch: the bytes of a pull, by several connections at once.
//!
//! What is to be read of an object is divided, so that no connection is busy long after all others: blobs one behind the other by
//! what they cost, a large blob in parts. A server that does not know ranges sends each object from its start, so there nothing is.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use rift_tree::BlobHash;

use super::error::{Error, Result};
use super::places::Object;
use super::{AT_ONCE, Progress, Ranges, Remote, Watch};
use crate::import::{Import, Unit};
use crate::lock::lock;
use crate::parts::{PART_BYTES, Parts};

/// Bytes between two wanted blobs that are read along: less than what another request costs in time, at 90 MB/s and 20 ms
/// divided by what is moved at once.
const GAP_MAX: u64 = 256 << 10;
/// How often an object is read before its remote is given up.
const ATTEMPTS: usize = 2;
/// About how many bytes of blobs one request brings: enough that what it costs besides is little.
const PIECE_BYTES: u64 = 8 << 20;

/// A blob that is wanted of an object.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) offset: u64,
    pub(super) size: u64,
    pub(super) hash: BlobHash,
}

/// An object with what is wanted of it, in the order of the offsets.
pub(super) struct Job {
    pub(super) object: Arc<Object>,
    pub(super) wanted: Vec<Wanted>,
}

impl Job {
    /// Returns about how many bytes come for it.
    pub(super) fn sent_bytes(&self) -> u64 {
        self.sent_for(&self.wanted)
    }

    /// Returns about how many bytes come for blobs that are in order.
    fn sent_for(&self, wanted: &[Wanted]) -> u64 {
        let (Some(first), Some(last)) = (wanted.first(), wanted.last()) else { return 0 };
        let sent = self.object.sent(&(first.offset..last.offset.saturating_add(last.size)));
        sent.end - sent.start
    }

    /// Divides it after so many blobs as are worth a request; a short rest comes along.
    fn divided(mut self) -> (Self, Option<Self>) {
        let is_enough = |count: usize| self.sent_for(&self.wanted[..count]) > PIECE_BYTES;
        let Some(count) = (1..self.wanted.len()).find(|count| is_enough(*count)) else {
            return (self, None);
        };
        if self.sent_for(&self.wanted[count..]) < PIECE_BYTES / 2 {
            return (self, None);
        }
        let later = self.wanted.split_off(count);
        let later = Self { object: Arc::clone(&self.object), wanted: later };
        (self, Some(later))
    }
}

/// What one thread does before it asks for more.
enum Work<'i> {
    /// Brings blobs.
    Blobs(Job),
    /// Brings these bytes of the only blob of a job, part by part.
    Parts { job: Arc<Job>, parts: Arc<Parts<'i>>, bytes: Range<u64> },
}

impl<'i> Work<'i> {
    /// Divides it into what one request brings and what is left.
    fn divided(self, import: &'i Import<'i>) -> Result<(Self, Option<Self>)> {
        let (job, parts, bytes) = match self {
            Self::Parts { job, parts, bytes } => (job, parts, bytes),
            Self::Blobs(job) => match job.wanted[..] {
                [Wanted { size, .. }] if size > PART_BYTES => {
                    (Arc::new(job), Arc::new(Parts::begin(import, size)?), 0..size)
                }
                _ => {
                    let (now, later) = job.divided();
                    return Ok((Self::Blobs(now), later.map(Self::Blobs)));
                }
            },
        };
        let now = parts.part_at(bytes.start);
        let later = now.end..bytes.end;
        let later = (!later.is_empty()).then(|| {
            let (job, parts) = (Arc::clone(&job), Arc::clone(&parts));
            Self::Parts { job, parts, bytes: later }
        });
        Ok((Self::Parts { job, parts, bytes: now }, later))
    }
}

/// Reads all objects, several at once. Those that take longest come first.
pub(super) fn fetch(
    remote: &Remote,
    import: &Import<'_>,
    jobs: Vec<Job>,
    watch: Watch<'_>,
) -> Result<()> {
    let sizes = jobs.iter().flat_map(|job| &job.wanted).map(|wanted| wanted.size);
    let total_bytes = sizes.fold(0, u64::saturating_add);
    let done_bytes = AtomicU64::new(0);
    let tell = |bytes: u64| {
        let done_bytes = done_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        watch(Progress { done_bytes, total_bytes });
    };
    let queue = Mutex::new(jobs.into_iter().map(Work::Blobs).collect::<VecDeque<_>>());
    let queue = || -> MutexGuard<'_, VecDeque<Work<'_>>> { lock(&queue) };
    let next = || -> Result<Option<Work<'_>>> {
        let mut queue = queue();
        let Some(work) = queue.pop_front() else { return Ok(None) };
        let ranges = remote.ranges();
        if ranges == Ranges::Lacking {
            return Ok(Some(work));
        }
        let (now, later) = work.divided(import)?;
        match (later, ranges) {
            (None, _) => {}
            (Some(later), Ranges::Known) => queue.push_front(later),
            // By then it is known.
            (Some(later), _) => queue.push_back(later),
        }
        Ok(Some(now))
    };
    let take_all = |unit: &mut Unit<'_>| -> Result<()> {
        while let Some(work) = next()? {
            match work {
                Work::Blobs(job) => take_object(remote, unit, &job, &tell)?,
                Work::Parts { job, parts, bytes } => {
                    take_parts(remote, &job, &parts, bytes, &tell)?;
                    end_parts(remote, unit, &job, parts)?;
                }
            }
        }
        Ok(())
    };
    let work = || {
        let mut unit = import.unit();
        let taken = take_all(&mut unit);
        if taken.is_err() {
            queue().clear();
            unit.abandon();
        }
        unit.flush()?;
        taken
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        let ends = workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        // All of them, so that none is left behind.
        ends.collect::<Vec<Result<()>>>().into_iter().collect()
    })
}

/// Brings parts of a job's only blob, again where that may help.
fn take_parts(
    remote: &Remote,
    job: &Job,
    parts: &Parts<'_>,
    bytes: Range<u64>,
    tell: &dyn Fn(u64),
) -> Result<()> {
    let Some(start) = job.wanted.first().map(|wanted| wanted.offset) else { return Ok(()) };
    let mut from = bytes.start;
    let mut attempt = 1;
    loop {
        let range = start + from..start + bytes.end;
        let mut writer = parts.write_from(from);
        let mut take = |at: u64, chunk: &[u8]| -> Result<()> {
            // At most the length of the chunk.
            let within = |place: u64| place.saturating_sub(at).min(chunk.len() as u64) as usize;
            writer.write(&chunk[within(range.start)..within(range.end)])?;
            Ok(())
        };
        let read = job.object.read(remote, &range, &mut take);
        let done = writer.done();
        if done >= bytes.end {
            tell(bytes.end - from);
            return Ok(());
        }
        tell(done - from);
        from = done;
        let early = || {
            let reason = "it ends too early".to_owned();
            Error::Wrong { object: job.object.name.clone(), reason }
        };
        match read.err().unwrap_or_else(early) {
            error if attempt < ATTEMPTS && error.is_passing() => attempt += 1,
            error => return Err(error),
        }
    }
}

/// Ends a blob of parts where the last of them has come. One that is not what it has to be is read once more, in order.
fn end_parts(remote: &Remote, unit: &mut Unit<'_>, job: &Job, parts: Arc<Parts<'_>>) -> Result<()> {
    let Some(parts) = Arc::into_inner(parts).filter(Parts::is_whole) else { return Ok(()) };
    let Some(wanted) = job.wanted.first() else { return Ok(()) };
    match parts.end_as(wanted.hash)? {
        Ok(()) => Ok(()),
        Err(_) => take_object(remote, unit, job, &|_| {}),
    }
}

/// Reads what is wanted of one object, again where that may help.
fn take_object(remote: &Remote, unit: &mut Unit<'_>, job: &Job, tell: &dyn Fn(u64)) -> Result<()> {
    let mut done = 0;
    let mut attempt = 1;
    while done < job.wanted.len() {
        match take_run(remote, unit, job, &mut done, tell) {
            Ok(()) => {}
            Err(error) if attempt < ATTEMPTS && error.is_passing() => attempt += 1,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Returns how many of the blobs one request brings, and the bytes that it reads of what the object holds.
fn run(object: &Object, wanted: &[Wanted]) -> (usize, Range<u64>) {
    let Some(first) = wanted.first() else {
        return (0, 0..0);
    };
    let mut range = first.offset..first.offset + first.size;
    let mut count = 1;
    for next in &wanted[1..] {
        let bytes = next.offset..next.offset + next.size;
        let gap = object.sent(&bytes).start.saturating_sub(object.sent(&range).end);
        if next.offset < range.end || gap > GAP_MAX {
            break;
        }
        range.end = next.offset + next.size;
        count += 1;
    }
    (count, range)
}

/// Reads one range, and gives what it holds to the store; `done` counts the blobs that the store took.
fn take_run(
    remote: &Remote,
    unit: &mut Unit<'_>,
    job: &Job,
    done: &mut usize,
    tell: &dyn Fn(u64),
) -> Result<()> {
    let wrong = |reason: String| Error::Wrong { object: job.object.name.clone(), reason };
    let (count, range) = run(&job.object, &job.wanted[*done..]);
    let last = *done + count;
    let mut is_begun = false;
    let mut take = |mut at: u64, mut chunk: &[u8]| -> Result<()> {
        while *done < last {
            let wanted = job.wanted[*done];
            let skipped = wanted.offset.saturating_sub(at).min(chunk.len() as u64);
            // At most the length of the chunk.
            chunk = &chunk[skipped as usize..];
            at += skipped;
            if at < wanted.offset {
                return Ok(());
            }
            if !is_begun {
                unit.begin(wanted.size)?;
                is_begun = true;
            }
            let end = wanted.offset + wanted.size;
            // At most the length of the chunk.
            let (part, rest) = chunk.split_at((end - at).min(chunk.len() as u64) as usize);
            unit.write(part)?;
            at += part.len() as u64;
            chunk = rest;
            if at < end {
                return Ok(());
            }
            is_begun = false;
            if let Err(actual) = unit.end_as(wanted.hash)? {
                return Err(wrong(format!("bytes of {} hash to {actual}", wanted.hash)));
            }
            *done += 1;
            tell(wanted.size);
        }
        Ok(())
    };
    if range.is_empty() {
        // Blobs without bytes are nowhere.
        return take(range.start, &[]);
    }
    let read = job.object.read(remote, &range, &mut take);
    unit.abandon();
    // What comes after what was wanted does no harm.
    match *done == last {
        true => Ok(()),
        false => read.and(Err(wrong("it ends too early".to_owned()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_goes_over_small_gaps_only() {
        let hash = BlobHash::from_bytes([0; 32]);
        let object = Object { name: String::new(), size: 1 << 30, frames: None };
        let wanted = |list: &[(u64, u64)]| -> Vec<Wanted> {
            list.iter()
                .map(|(offset, size)| Wanted { offset: *offset, size: *size, hash })
                .collect()
        };
        let far = 64 + 10 + GAP_MAX;
        for (list, count, range) in [
            (&[][..], 0, 0..0),
            (&[(64, 10)], 1, 64..74),
            (&[(64, 10), (74, 5)], 2, 64..79),
            (&[(64, 10), (far, 5)], 2, 64..far + 5),
            (&[(64, 10), (far + 1, 5)], 1, 64..74),
            (&[(64, 10), (70, 5)], 1, 64..74),
            (&[(64, 0), (64, 5)], 2, 64..69),
        ] {
            assert_eq!(run(&object, &wanted(list)), (count, range), "{list:?}");
        }
    }
}
