//! What this process was told of the run, and the projections it sees, mapped when they are first touched.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use rift_tree::arrival::Arrivals;
use rift_tree::merge::States;
use rift_tree::run::{Projection, Run};
use rift_tree::sidecar::{ContainerKind, Location, Sidecar, Stamp};
use rift_tree::state::{HEADER_BYTES, Header, Inodes, State, StateWord, slot_count};
use rift_tree::{EntryId, Manifest};

use crate::arrive;
use crate::counts;
use crate::hot::HOT;
use crate::room::is_shared;
use crate::sys::{self, Errno, Result};
use crate::text::{OfRun, Text};

/// How many projections one run can have; the launcher makes files of the others.
pub(crate) const PROJECTIONS_MAX: usize = 16;

/// The run, once the constructor has read of it: the address of what [`sys::keep`] keeps.
static RUN: AtomicUsize = AtomicUsize::new(0);
/// The projections that were touched: addresses too.
static SHOWN: [AtomicUsize; PROJECTIONS_MAX] = [const { AtomicUsize::new(0) }; PROJECTIONS_MAX];

/// How many words statx(2) fills in.
pub(crate) const WIDE_WORDS: usize = size_of::<linux_raw_sys::general::statx>() / size_of::<u64>();

/// A projection, mapped.
pub(crate) struct Shown {
    /// Its place in the run file.
    pub(crate) index: u32,
    pub(crate) record: Projection<'static>,
    pub(crate) manifest: Manifest<'static>,
    sidecar: Sidecar<'static>,
    words: &'static [StateWord],
    slots: &'static [AtomicU32],
    /// What statx(2) says of the directory, and with how many changes of names, plus 1, that was; 0 while it is not known.
    pub(crate) wide: [AtomicU64; WIDE_WORDS],
    pub(crate) wide_names: AtomicU64,
    /// Where its packs are mapped, and how long they are.
    packs: &'static [AtomicUsize],
    /// Which of its blobs are here, where that need not be all of them.
    pub(crate) arrivals: Option<Arrivals<'static>>,
    /// Its file system has no files without names.
    needs_names: AtomicBool,
}

/// The path of the run file: where it is, and how long.
static PATH: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];

/// Returns the path of the run file.
pub(crate) fn path() -> &'static [u8] {
    let [start, length] = [&PATH[0], &PATH[1]].map(|part| part.load(Ordering::Acquire));
    if start == 0 { &[] } else { sys::mapped(start, length) }
}

/// The directory of each projection: where its path is, and how long.
static DIRECTORIES: [[AtomicUsize; 2]; PROJECTIONS_MAX] =
    [const { [const { AtomicUsize::new(0) }; 2] }; PROJECTIONS_MAX];

/// Returns the directories of the projections.
#[inline]
pub(crate) fn directories() -> impl Iterator<Item = (u32, &'static [u8])> {
    (0..).zip(&DIRECTORIES).map_while(|(index, [start, length])| {
        let start = start.load(Ordering::Acquire);
        (start != 0).then(|| (index, sys::mapped(start, length.load(Ordering::Relaxed))))
    })
}

/// Returns the directory of a projection.
#[inline(always)]
pub(crate) fn directory(index: u32) -> Option<&'static [u8]> {
    let [start, length] = DIRECTORIES.get(index as usize)?;
    let start = start.load(Ordering::Acquire);
    (start != 0).then(|| sys::mapped(start, length.load(Ordering::Relaxed)))
}

/// Keeps the run file for the life of the process.
pub(crate) fn set(path: &[u8], bytes: &'static [u8]) -> Result<Run<'static>> {
    let run = Run::parse(bytes).map_err(|_| Errno::IO)?;
    counts::set(run.counts())?;
    let (kept, words) = sys::keep(run, path.len().div_ceil(size_of::<usize>()))?;
    // The environment may change.
    for (word, part) in words.iter().zip(path.chunks(size_of::<usize>())) {
        let mut bytes = [0; size_of::<usize>()];
        bytes.get_mut(..part.len()).unwrap_or_default().copy_from_slice(part);
        word.store(usize::from_ne_bytes(bytes), Ordering::Relaxed);
    }
    PATH[1].store(path.len(), Ordering::Release);
    PATH[0].store(words.as_ptr().addr(), Ordering::Release);
    RUN.store(core::ptr::from_ref(kept).addr(), Ordering::Release);
    for ((_, record), [start, length]) in records().zip(&DIRECTORIES) {
        length.store(record.directory.len(), Ordering::Relaxed);
        start.store(record.directory.as_ptr().addr(), Ordering::Release);
    }
    Ok(run)
}

/// Returns the run; `None` outside of one.
pub(crate) fn run() -> Option<&'static Run<'static>> {
    sys::kept(RUN.load(Ordering::Acquire))
}

/// Returns the projections of the run.
pub(crate) fn records() -> impl Iterator<Item = (u32, Projection<'static>)> {
    run().into_iter().flat_map(|run| {
        (0..run.projection_count()).filter_map(|at| Some((at, run.projection(at)?)))
    })
}

/// Returns what the directories of all projections begin with.
pub(crate) fn common_prefix() -> Option<&'static [u8]> {
    let common = |one: &'static [u8], other: &'static [u8]| {
        let length = one.iter().zip(other).take_while(|(one, other)| one == other).count();
        one.get(..length).unwrap_or_default()
    };
    records().map(|(_, record)| record.directory).reduce(common)
}

/// Tells whether a real file may be one of a projection's, or a stand-in.
#[inline(always)]
pub(crate) fn may_be_shown(device: u64, inode: u64) -> bool {
    let slots = HOT.slots.load(Ordering::Acquire);
    if slots == 0 {
        return may_be_any_shown(device, inode);
    }
    let is = |place: &AtomicU64| place.load(Ordering::Relaxed) == inode;
    if is(&HOT.stand_in) || is(&HOT.inode) {
        return true;
    }
    let slots = sys::slots(slots, HOT.slot_count.load(Ordering::Relaxed));
    device == HOT.device.load(Ordering::Relaxed) && !Inodes::has_none(slots, inode)
}

/// As [`may_be_shown`], where there are several projections, or none was touched.
#[inline(never)]
fn may_be_any_shown(device: u64, inode: u64) -> bool {
    let mut at = 0;
    while let Some(place) = SHOWN.get(at) {
        let Some(shown) = sys::kept::<Shown>(place.load(Ordering::Acquire)) else { return true };
        let record = &shown.record;
        if inode == record.stand_in_inode
            || device == record.device
                && (inode == record.inode || !Inodes::has_none(shown.slots, inode))
        {
            return true;
        }
        at += 1;
        if at >= run().map_or(0, |run| run.projection_count() as usize) {
            return false;
        }
    }
    false
}

/// Keeps at hand what tells the files of the only projection from others.
fn keep_at_hand(shown: &'static Shown) {
    if run().map_or(0, Run::projection_count) != 1 {
        return;
    }
    HOT.device.store(shown.record.device, Ordering::Relaxed);
    HOT.inode.store(shown.record.inode, Ordering::Relaxed);
    HOT.stand_in.store(shown.record.stand_in_inode, Ordering::Relaxed);
    HOT.slot_count.store(shown.slots.len(), Ordering::Relaxed);
    HOT.slots.store(shown.slots.as_ptr().addr(), Ordering::Release);
}

/// Returns a projection by its place in the run file, mapping it when it is the first time.
pub(crate) fn shown(index: u32) -> Result<&'static Shown> {
    let place = SHOWN.get(index as usize).ok_or(Errno::IO)?;
    if let Some(shown) = sys::kept(place.load(Ordering::Acquire)) {
        return Ok(shown);
    }
    let run = run().ok_or(Errno::IO)?;
    let record = run.projection(index).ok_or(Errno::IO)?;
    let manifest = sys::map_file(&Text::of(record.manifest)?)?;
    let manifest = Manifest::parse(manifest).map_err(|_| Errno::IO)?;
    let sidecar = sys::map_file(&Text::of(record.sidecar)?)?;
    let sidecar = Sidecar::parse(sidecar).map_err(|_| Errno::IO)?;
    let layout = |bytes: &[u8], length: usize| {
        let header = Header::decode(bytes).ok()?;
        let fits = header.entries == manifest.len() && header.file_bytes() == length;
        fits.then(|| (header.entries as usize, header.slots_offset(), slot_count(header.entries)))
    };
    let state = sys::map_state(&Text::of(record.state)?, HEADER_BYTES, layout)?;
    let (words, slots) = (state.words, state.slots);
    let is_partial = sidecar.container(0).is_some_and(|one| one.kind == ContainerKind::Partial);
    let arrivals = match run.container(&record, 0).filter(|_| is_partial) {
        Some(data) => Some(arrive::map(data, manifest.blob_count())?),
        None => None,
    };
    let count = sidecar.container_count() as usize;
    // The address and the length of each.
    let (_, packs) = sys::keep((), 2 * count)?;
    let needs_names = AtomicBool::new(false);
    let (wide, wide_names) = ([const { AtomicU64::new(0) }; WIDE_WORDS], AtomicU64::new(0));
    let shown = Shown {
        index,
        record,
        manifest,
        sidecar,
        words,
        slots,
        wide,
        wide_names,
        packs,
        arrivals,
        needs_names,
    };
    let (shown, _) = sys::keep(shown, 0)?;
    let address = core::ptr::from_ref(shown).addr();
    match place.compare_exchange(0, address, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {
            keep_at_hand(shown);
            Ok(shown)
        }
        // Another thread was faster; what it maps is the same.
        Err(other) => {
            sys::drop_kept(shown, 0);
            sys::kept(other).ok_or(Errno::IO)
        }
    }
}

/// Returns the projections of the run.
pub(crate) fn each_shown() -> impl Iterator<Item = &'static Shown> {
    each_numbered().map(|(_, shown)| shown)
}

/// As [`each_shown`], with their places in the run file.
pub(crate) fn each_numbered() -> impl Iterator<Item = (u32, &'static Shown)> {
    let count = run().map_or(0, Run::projection_count);
    (0..count).filter_map(|index| Some((index, shown(index).ok()?)))
}

/// Lets calls be answered at a glance: the user may search all directories of a projection.
pub(crate) fn note_searched(shown: &'static Shown) {
    let bit = 1 << shown.index;
    if HOT.searched.load(Ordering::Relaxed) & bit == 0 && !is_shared() {
        HOT.searched.fetch_or(bit, Ordering::Release);
    }
}

/// Returns a projection that is mapped and whose directories the user may search, all of them.
#[inline(always)]
pub(crate) fn searched(index: u32) -> Option<&'static Shown> {
    if HOT.searched.load(Ordering::Acquire) & 1 << (index & 31) == 0 {
        return None;
    }
    sys::kept(SHOWN.get(index as usize)?.load(Ordering::Acquire))
}

impl Shown {
    /// Returns the word of an entry.
    pub(crate) fn word(&self, id: EntryId) -> Result<&'static StateWord> {
        self.words.get(id.0 as usize).ok_or(Errno::STALE)
    }

    /// Tells whether the tree answers for an entry.
    #[inline]
    pub(crate) fn is_pristine(&self, id: EntryId) -> bool {
        !self.is_detached(id)
    }

    /// Finds the entry that a real file was made of.
    pub(crate) fn inodes(&self) -> Inodes<'static> {
        Inodes::new(self.words, self.slots)
    }

    /// Returns the bytes of a blob as they lie in the store; waits for them where they are not there yet.
    pub(crate) fn blob(&self, blob: u32, size: u64) -> Result<&'static [u8]> {
        if size == 0 {
            return Ok(&[]);
        }
        if let Some(arrivals) = &self.arrivals {
            arrive::wait_for(self, arrivals, blob)?;
        }
        let Location { container, offset } = self.sidecar.location(blob).ok_or(Errno::IO)?;
        let bytes = self.container(container)?;
        let start = usize::try_from(offset).map_err(|_| Errno::IO)?;
        let length = usize::try_from(size).map_err(|_| Errno::IO)?;
        start.checked_add(length).and_then(|end| bytes.get(start..end)).ok_or(Errno::IO)
    }

    /// Checks that nobody has touched the file of the store that a blob was read from, after it was read.
    pub(crate) fn is_untouched(&self, blob: u32, size: u64) -> Result<()> {
        if size == 0 {
            return Ok(());
        }
        let Location { container, .. } = self.sidecar.location(blob).ok_or(Errno::IO)?;
        let published = self.sidecar.container(container).ok_or(Errno::IO)?;
        let path = self.container_path(container)?;
        let stat = sys::stat_at(sys::CWD, &OfRun(path), 0).map_err(|_| Errno::IO)?;
        let nanoseconds = stat.st_mtime.cast_signed().wrapping_mul(1_000_000_000);
        let mtime_ns = match published.kind {
            // Others arrive meanwhile.
            ContainerKind::Partial => published.stamp.mtime_ns,
            _ => nanoseconds.wrapping_add(stat.st_mtime_nsec.cast_signed()),
        };
        let found = Stamp { size: stat.st_size.cast_unsigned(), inode: stat.st_ino, mtime_ns };
        if found == published.stamp { Ok(()) } else { Err(Errno::IO) }
    }

    /// Returns where the store keeps a container.
    pub(crate) fn container_path(&self, number: u32) -> Result<&'static [u8]> {
        run().ok_or(Errno::IO)?.container(&self.record, number).ok_or(Errno::IO)
    }

    fn container(&self, number: u32) -> Result<&'static [u8]> {
        let at = number as usize * 2;
        let (start, length) =
            (self.packs.get(at).ok_or(Errno::IO)?, self.packs.get(at + 1).ok_or(Errno::IO)?);
        let address = start.load(Ordering::Acquire);
        if address != 0 {
            return Ok(sys::mapped(address, length.load(Ordering::Relaxed)));
        }
        let bytes = sys::map_file(&Text::of(self.container_path(number)?)?)?;
        // Threads that do this at once map the same file, and all of them write the same length first.
        length.store(bytes.len(), Ordering::Relaxed);
        start.store(bytes.as_ptr().addr(), Ordering::Release);
        Ok(bytes)
    }

    /// Tells whether files can only be made with names.
    pub(crate) fn needs_names(&self) -> bool {
        self.needs_names.load(Ordering::Relaxed)
    }

    /// Remembers that.
    pub(crate) fn note_need_of_names(&self) {
        self.needs_names.store(true, Ordering::Relaxed);
    }

    /// Returns the permission bits that an entry has.
    pub(crate) fn permissions(&self, id: EntryId) -> u32 {
        let mode = u32::from(self.manifest.mode(id).unwrap_or(0o755)) & 0o1777;
        if self.manifest.is_stamped() { mode & !self.record.umask } else { mode }
    }

    /// Returns the mtime of an entry, in nanoseconds since the epoch.
    pub(crate) fn mtime_ns(&self, id: EntryId) -> i64 {
        self.manifest.mtime_ns(id).unwrap_or(self.record.stamp_ns)
    }

    /// Returns the inode number that an entry is shown with, for ever: no file system gives such large ones.
    pub(crate) fn inode(&self, id: EntryId) -> u64 {
        if id == EntryId::ROOT {
            return self.record.inode;
        }
        1 << 62 | u64::from(self.record.number) << 32 | u64::from(id.0)
    }

    /// Puts the path of an entry into `text`.
    pub(crate) fn path(&self, id: EntryId, text: &mut Text) -> Result<()> {
        text.cut(0);
        text.push(self.record.directory)?;
        self.push_names(id, text, 0)
    }

    fn push_names(&self, id: EntryId, text: &mut Text, depth: usize) -> Result<()> {
        if id == EntryId::ROOT {
            return Ok(());
        }
        if depth > rift_tree::manifest::DEPTH_MAX {
            return Err(Errno::IO);
        }
        let parent = self.manifest.parent(id).ok_or(Errno::IO)?;
        self.push_names(parent, text, depth + 1)?;
        text.push_name(self.manifest.name(id).ok_or(Errno::IO)?)
    }
}

impl States for Shown {
    fn state(&self, id: EntryId) -> State {
        self.words.get(id.0 as usize).map_or(State::Detached { inode: 0 }, StateWord::load)
    }
}
