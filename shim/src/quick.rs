//! What is decided at a glance: whether the kernel does a call, and what it is told without the kernel.
//!
//! All of this runs on the program's stack before any vector register is saved, so nothing here may use one, which a test
//! checks in the library's code. What takes more than a look at the index of the one tree is left to `serve`.

use core::sync::atomic::Ordering;

use linux_raw_sys::general as kernel;
use rift_tree::EntryId;
use rift_tree::name::{NameHash, PathKey};

use crate::answer;
use crate::caches::{self, Known, Working};
use crate::counts;
use crate::hot::HOT;
use crate::run::{self, Shown};
use crate::serve::Call;
use crate::sys::{self, CWD, Errno};
use crate::table::Way;

/// The kernel does it.
pub(crate) const PASS: usize = 0;
/// The kernel does it; when it finds nothing, the call may mean something in a projection.
pub(crate) const PASS_AND_LOOK: usize = 1;
/// As `PASS_AND_LOOK`, and what stat(2) says has to be looked at.
pub(crate) const PASS_AND_FIX: usize = 2;
/// It is done, with this result.
pub(crate) const DONE: usize = 3;
/// The call is served.
pub(crate) const SERVE: usize = 4;
/// The kernel does it, at an instruction of the stub: the stack may be another one afterwards.
pub(crate) const BARE: usize = 5;

/// What a glance has found out.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Glance {
    pub(crate) code: usize,
    pub(crate) result: isize,
}

#[inline(always)]
pub(crate) fn just(code: usize) -> Glance {
    Glance { code, result: 0 }
}

#[inline(always)]
fn done(result: isize) -> Glance {
    counts::answered();
    Glance { code: DONE, result }
}

/// Where a relative path of a tree begins.
#[derive(Clone, Copy)]
struct Base {
    directory: EntryId,
    key: PathKey,
    /// The kernel begins at the same directory.
    is_real: bool,
}

const ROOT: Base = Base { directory: EntryId::ROOT, key: PathKey::ROOT, is_real: true };

/// Looks at a call with a path. What is outside by its first bytes is found out in few lines of code, for the kernel leaves
/// few in the processor's cache.
#[inline(always)]
pub(crate) fn path(call: &Call, way: Way) -> Glance {
    let (kind, at) = (way.kind(), way.argument());
    let address = argument(call, at);
    let makes = kind == Way::OPEN && argument(call, at + 1) as u32 & kernel::O_CREAT != 0;
    let bytes = HOT.prefix_bytes.load(Ordering::Relaxed);
    if !makes
        && HOT.page_read.load(Ordering::Relaxed) == address / sys::PAGE_BYTES
        && address >= sys::PAGE_BYTES
        && sys::byte_at(address) == b'/'
        && bytes >= size_of::<u64>()
        && address % sys::PAGE_BYTES + bytes <= sys::PAGE_BYTES
        // Paths of one folder differ at their ends.
        && sys::word_at(address + bytes - size_of::<u64>())
            != HOT.prefix_end.load(Ordering::Relaxed)
        && !leads_to_descriptors(sys::word_at(address))
    {
        return just(outside(kind));
    }
    // Nor is a name in a directory that is neither in a projection nor above one.
    if !makes
        && HOT.page_read.load(Ordering::Relaxed) == address / sys::PAGE_BYTES
        && address >= sys::PAGE_BYTES
        && !matches!(sys::byte_at(address), 0 | b'/')
        && (!way.is_at() || argument(call, at.wrapping_sub(1)) as i32 == CWD)
        && HOT.working.load(Ordering::Relaxed) & caches::WORKING_KIND == caches::WORKING_OUTSIDE
        && HOT.sharing.load(Ordering::Relaxed) == 0
    {
        return just(outside(kind));
    }
    if makes { just(SERVE) } else { path_further(call, way) }
}

/// Tells whether an absolute path that begins so may be one of proc(5), where each process finds its descriptors.
#[inline(always)]
fn leads_to_descriptors(word: u64) -> bool {
    const PROC: u64 = u64::from_ne_bytes(*b"/proc/\0\0");
    const DEV: u64 = u64::from_ne_bytes(*b"/dev/fd/");
    word & u64::from_ne_bytes([255, 255, 255, 255, 255, 255, 0, 0]) == PROC || word == DEV
}

/// As [`leads_to_descriptors`], of the path itself; so near to the end of what can be read only short ones are.
#[inline(always)]
fn may_lead_to_descriptors(address: usize) -> bool {
    is_in_sight(address, size_of::<u64>()) && leads_to_descriptors(sys::word_at(address))
}

/// What becomes of a call with a path that is in no projection, as it is written.
#[inline(always)]
fn outside(kind: u8) -> usize {
    if kind == Way::STAT { PASS_AND_FIX } else { PASS_AND_LOOK }
}

/// As [`path`], of whatever it is.
#[inline(never)]
fn path_further(call: &Call, way: Way) -> Glance {
    let (kind, at) = (way.kind(), way.argument());
    let address = argument(call, at);
    if !sys::may_read(address) {
        // A descriptor alone may be meant, as utimensat(2) and statx(2) have it.
        return just(if address == 0 && way.is_at() { SERVE } else { PASS });
    }
    let outside = just(outside(kind));
    let first = sys::byte_at(address);
    let (index, base, rest) = if first == b'/' {
        match below_projection(address) {
            Below::Outside if may_lead_to_descriptors(address) => return just(SERVE),
            Below::Outside => return outside,
            Below::Unsure => return just(SERVE),
            Below::In(index, rest) => (index, ROOT, rest),
        }
    } else {
        let descriptor = if way.is_at() { argument(call, at - 1) as i32 } else { CWD };
        if descriptor != CWD {
            if caches::is_outside(descriptor) {
                // A number may be that of a descriptor, in a directory of proc(5).
                let is_number =
                    call.number as u32 == kernel::__NR_readlinkat && first.is_ascii_digit();
                return match first {
                    0 => just(PASS),
                    _ if is_number => just(SERVE),
                    _ => outside,
                };
            }
            if first == 0 {
                return just(if kind == Way::STAT { stat_of(descriptor) } else { SERVE });
            }
            let (Some(one), Some(key)) = (caches::stand_in(descriptor), caches::key(descriptor))
            else {
                return just(SERVE);
            };
            (one.projection, Base { directory: one.entry, key, is_real: false }, address)
        } else {
            match caches::working() {
                Working::Outside => return outside,
                Working::Above { projection, rest } if first != b'.' => {
                    match below_named(address, projection, rest) {
                        Below::Outside => return outside,
                        Below::Unsure => return just(SERVE),
                        Below::In(index, rest) => (index, ROOT, rest),
                    }
                }
                Working::Inside { projection, directory } => {
                    let Some(key) = caches::working_key() else { return just(SERVE) };
                    (projection, Base { directory, key, is_real: true }, address)
                }
                _ => return just(SERVE),
            }
        }
    };
    let Some(shown) = run::searched(index) else { return just(SERVE) };
    if HOT.sharing.load(Ordering::Relaxed) != 0 {
        return just(SERVE);
    }
    decide(call, kind, shown, base, rest)
}

/// Where an absolute path leads by its first names.
enum Below {
    Outside,
    Unsure,
    /// Below the directory of this projection, from which the path goes on here.
    In(u32, usize),
}

/// Finds the projection that an absolute path is below.
#[inline(always)]
fn below_projection(address: usize) -> Below {
    let mut index = 0;
    while let Some(directory) = run::directory(index) {
        if begins_with(address, directory.as_ptr().addr(), directory.len()) {
            match rest_of(address + directory.len()) {
                Below::In(_, rest) => return Below::In(index, rest),
                Below::Unsure => return Below::Unsure,
                Below::Outside => {}
            }
        }
        index += 1;
    }
    Below::Outside
}

/// As [`below_projection`], of a relative path from the first `cut` bytes of the directory of the projection `above`.
#[inline(always)]
fn below_named(address: usize, above: u32, cut: usize) -> Below {
    let Some(first) = run::directory(above) else { return Below::Unsure };
    let mut index = above;
    while let Some(directory) = run::directory(index) {
        let is_below = index == above
            || directory.len() > cut
                && begins_with(directory.as_ptr().addr(), first.as_ptr().addr(), cut);
        if is_below
            && let Some(wanted) = directory.get(cut..)
            && begins_with(address, wanted.as_ptr().addr(), wanted.len())
        {
            match rest_of(address + wanted.len()) {
                Below::In(_, rest) => return Below::In(index, rest),
                Below::Unsure => return Below::Unsure,
                Below::Outside => {}
            }
        }
        index += 1;
    }
    Below::Outside
}

/// Looks how a path goes on behind the directory of a projection.
#[inline(always)]
fn rest_of(rest: usize) -> Below {
    if !sys::may_read(rest) {
        return Below::Unsure;
    }
    match sys::byte_at(rest) {
        b'/' => Below::In(0, rest + 1),
        // The directory itself.
        0 => Below::Unsure,
        // Another name that begins as the projection's.
        _ => Below::Outside,
    }
}

/// Decides what becomes of a call that asks what a descriptor is open on.
#[inline(always)]
fn stat_of(descriptor: i32) -> usize {
    match caches::known(descriptor) {
        // A directory may have entries that the kernel does not count.
        Known::StandIn | Known::Mixed => SERVE,
        _ => PASS_AND_FIX,
    }
}

/// Decides what a path from a directory of the tree means to a call.
#[inline(always)]
fn decide(call: &Call, kind: u8, shown: &Shown, base: Base, rest: usize) -> Glance {
    let number = call.number as u32;
    let by_kernel = || match base.is_real {
        true => {
            counts::passed();
            just(outside(kind))
        }
        false => just(SERVE),
    };
    let id = match look_up(shown, base, rest) {
        Found::Unsure => return just(SERVE),
        // Only real directories hold names that the tree does not have.
        Found::MissingIn(directory) if shown.is_pristine(directory) => {
            return match asks_for_attribute(number) || may_be_refused(call) {
                true => just(SERVE),
                false => done(Errno::NOENT.returned()),
            };
        }
        Found::MissingIn(_) => return by_kernel(),
        Found::Entry(id) if !shown.is_pristine(id) => return by_kernel(),
        Found::Entry(id) => id,
    };
    let mode = shown.manifest.mode(id).map_or(0, u32::from);
    let is_link = mode & kernel::S_IFMT == kernel::S_IFLNK;
    match kind {
        Way::STAT => {
            let known = kernel::AT_SYMLINK_NOFOLLOW | kernel::AT_NO_AUTOMOUNT;
            let (room, flags) = match number {
                kernel::__NR_stat => (call.args[1], 0),
                kernel::__NR_lstat => (call.args[1], kernel::AT_SYMLINK_NOFOLLOW),
                kernel::__NR_newfstatat => (call.args[2], call.args[3] as u32),
                _ => return just(SERVE),
            };
            let is_followed = flags & kernel::AT_SYMLINK_NOFOLLOW == 0;
            let is_large = shown.manifest.children(id).len() > CHILDREN_MAX;
            if flags & !known != 0 || is_link && is_followed || is_large {
                return just(SERVE);
            }
            if !sys::is_room_known(room, size_of::<sys::Stat>()) {
                return just(SERVE);
            }
            match answer::each_word(shown, id, |at, word| sys::put_word(room + 8 * at, word)) {
                Ok(()) => done(0),
                Err(_) => just(SERVE),
            }
        }
        Way::LOOK if !is_link => match number {
            // Nor is there another error for too little room.
            kernel::__NR_readlink | kernel::__NR_readlinkat => done(Errno::INVAL.returned()),
            kernel::__NR_access if call.args[1] as u32 == kernel::F_OK => done(0),
            kernel::__NR_faccessat if call.args[2] as u32 == kernel::F_OK => done(0),
            _ => just(SERVE),
        },
        _ => just(SERVE),
    }
}

/// Tells whether a call names an attribute, which is looked at before the path is.
#[inline(always)]
fn asks_for_attribute(number: u32) -> bool {
    matches!(number, kernel::__NR_getxattr | kernel::__NR_lgetxattr)
}

/// The bits that tell statx(2) how to get what it tells, which exclude each other.
const SYNC_TYPE: u32 = 0x6000;
/// The bit of `O_TMPFILE` that is no `O_DIRECTORY`.
const UNNAMED: u32 = kernel::__O_TMPFILE;

/// Tells whether a call that is answered here is given something that the kernel may refuse whatever the path means.
#[inline(always)]
pub(crate) fn may_be_refused(call: &Call) -> bool {
    let nofollow = kernel::AT_SYMLINK_NOFOLLOW;
    let looks = nofollow | kernel::AT_NO_AUTOMOUNT | kernel::AT_EMPTY_PATH | SYNC_TYPE;
    let modes = kernel::R_OK | kernel::W_OK | kernel::X_OK;
    let word = |at: usize| argument(call, at) as u32;
    let has = |at: usize, known: u32| word(at) & !known != 0;
    match call.number as u32 {
        kernel::__NR_newfstatat => has(3, looks),
        kernel::__NR_statx => {
            has(2, looks)
                || word(2) & SYNC_TYPE == SYNC_TYPE
                || word(3) & kernel::STATX__RESERVED != 0
        }
        kernel::__NR_access => has(1, modes),
        kernel::__NR_faccessat => has(2, modes),
        kernel::__NR_faccessat2 => {
            has(2, modes) || has(3, nofollow | kernel::AT_EACCESS | kernel::AT_EMPTY_PATH)
        }
        kernel::__NR_readlink => word(2).cast_signed() <= 0,
        kernel::__NR_readlinkat => word(3).cast_signed() <= 0,
        kernel::__NR_open => is_unnamed_wrongly(word(1)),
        kernel::__NR_openat => is_unnamed_wrongly(word(2)),
        kernel::__NR_unlinkat => has(2, kernel::AT_REMOVEDIR),
        _ => false,
    }
}

/// Tells whether open(2) is given what belongs to `O_TMPFILE` without the rest of it, or nothing to write.
#[inline(always)]
fn is_unnamed_wrongly(flags: u32) -> bool {
    let needed = kernel::O_DIRECTORY | kernel::O_CREAT;
    flags & (UNNAMED | kernel::O_PATH) == UNNAMED
        && (flags & needed != kernel::O_DIRECTORY || flags & kernel::O_ACCMODE == kernel::O_RDONLY)
}

/// Looks at a call with a descriptor.
#[inline(always)]
pub(crate) fn descriptor(call: &Call, way: Way) -> Glance {
    let descriptor = argument(call, way.argument()) as i32;
    if caches::is_outside(descriptor) {
        return just(PASS);
    }
    if call.number as u32 == kernel::__NR_fstat {
        return just(stat_of(descriptor));
    }
    let is_rewound = call.number as u32 == kernel::__NR_lseek
        && call.args[2] as u32 == kernel::SEEK_SET
        && call.args[1] == 0
        && caches::rewind(descriptor);
    if is_rewound { done(0) } else { just(SERVE) }
}

/// Of larger directories the subdirectories are not counted at a glance.
const CHILDREN_MAX: usize = 64;

/// What a path means, as far as a look into the index tells.
enum Found {
    Entry(EntryId),
    /// The tree has this directory, but not the last name in it.
    MissingIn(EntryId),
    /// It has to be followed name by name.
    Unsure,
}

/// Looks a path up that begins in a directory of the tree and is written straight.
#[inline(always)]
fn look_up(shown: &Shown, base: Base, path: usize) -> Found {
    let (mut above, mut at) = (base.key, path);
    let (key, end) = loop {
        let Some((hash, bytes)) = name(at) else { return Found::Unsure };
        let key = above.child_hashed(hash);
        // What `name` has looked at can be read.
        if sys::byte_at(at + bytes) == 0 {
            break (key, at + bytes);
        }
        above = key;
        at += bytes + 1;
    };
    let manifest = &shown.manifest;
    let whole = sys::text_between(path, end);
    if let Some(id) = manifest.lookup_below(base.directory, key, whole) {
        return Found::Entry(id);
    }
    let folder = match at.checked_sub(path + 1) {
        None => base.directory,
        Some(bytes) => {
            let folder = sys::text_between(path, path + bytes);
            match manifest.lookup_below(base.directory, above, folder) {
                Some(folder) => folder,
                None => return Found::Unsure,
            }
        }
    };
    match manifest.mode(folder).map(|mode| u32::from(mode) & kernel::S_IFMT) {
        Some(kernel::S_IFDIR) => Found::MissingIn(folder),
        _ => Found::Unsure,
    }
}

const LOW: u64 = u64::from_ne_bytes([0x01; 8]);
const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
const SLASHES: u64 = u64::from_ne_bytes([b'/'; 8]);

/// Returns the hash and the length of the name that begins here; `None` where it means more than a name.
#[inline(always)]
fn name(start: usize) -> Option<(u64, usize)> {
    let (hash, tail, bytes) = hashed(start, 255, |word| zeros(word) | zeros(word ^ SLASHES))?;
    let is_dots = bytes == 1 && tail == 0x2e || bytes == 2 && tail == 0x2e2e;
    (bytes != 0 && !is_dots).then_some((hash, bytes))
}

/// Returns the hash of what begins here, the last of it that is less than a word, and its length, which is `most` bytes at the
/// most; `ends` marks the highest bits of bytes that end it, of which only the first has to be right.
#[inline(always)]
fn hashed(start: usize, most: usize, ends: impl Fn(u64) -> u64) -> Option<(u64, u64, usize)> {
    let mut hash = NameHash::new();
    let mut at = start;
    loop {
        if at % sys::PAGE_BYTES > sys::PAGE_BYTES - 8 && !sys::may_read(at + 7) {
            return None;
        }
        let word = sys::word_at(at);
        let found = ends(word);
        if found != 0 {
            let bits = found.trailing_zeros() & !7;
            let tail = word & ((1 << bits) - 1);
            let bytes = at - start + (bits / 8) as usize;
            return (bytes <= most).then(|| (hash.finish(tail, bytes), tail, bytes));
        }
        hash.add(word);
        at += 8;
        if at - start > most {
            return None;
        }
    }
}

/// Marks the bytes of a word that are 0; the first mark is right, whatever is above it.
#[inline(always)]
fn zeros(word: u64) -> u64 {
    word.wrapping_sub(LOW) & !word & HIGH
}

#[inline(always)]
fn argument(call: &Call, at: usize) -> usize {
    call.args.get(at).copied().unwrap_or(0)
}

#[inline(always)]
fn begins_with(address: usize, prefix: usize, bytes: usize) -> bool {
    const WORD: usize = size_of::<u64>();
    if bytes < WORD || !is_in_sight(address, bytes) {
        return begins_bytewise(address, prefix, bytes);
    }
    // Paths of one folder differ at their ends.
    let mut at = bytes - WORD;
    while sys::word_at(address + at) == sys::word_at(prefix + at) {
        if at == 0 {
            return true;
        }
        at = at.saturating_sub(WORD);
    }
    false
}

/// Tells whether so many bytes can be read behind an address that can.
#[inline(always)]
fn is_in_sight(address: usize, bytes: usize) -> bool {
    address % sys::PAGE_BYTES + bytes <= sys::PAGE_BYTES || sys::may_read(address + bytes)
}

/// As [`begins_with`], of what may end before the next page, which can't be read.
#[inline(never)]
fn begins_bytewise(address: usize, prefix: usize, bytes: usize) -> bool {
    let mut at = 0;
    while at < bytes {
        let next = address + at;
        // The kernel says what is wrong with a string that has no end.
        let is_new_page = next.is_multiple_of(sys::PAGE_BYTES);
        if is_new_page && !sys::may_read(next) || sys::byte_at(next) != sys::byte_at(prefix + at) {
            return false;
        }
        at += 1;
    }
    true
}

/// Tells whether what the kernel found nothing for is known to lead into no projection.
#[inline(always)]
pub(crate) fn is_nothing(call: &Call) -> bool {
    let way = HOT.ways.get(call.number).filter(|way| (Way::LOOK..=Way::OPEN).contains(&way.kind()));
    let Some(way) = way else { return false };
    let at = way.argument();
    // The kernel has read it.
    let path = argument(call, at);
    let start = if sys::byte_at(path) == b'/' {
        caches::MISSED_BELOW_ROOT
    } else if way.is_at() && argument(call, at.wrapping_sub(1)) as i32 != CWD {
        return false;
    } else {
        caches::missed_below_working()
    };
    let Some((hash, ..)) = hashed(path, kernel::PATH_MAX as usize, zeros) else { return false };
    let hash = PathKey::of_bits(start).child_hashed(hash).bits();
    if HOT.sharing.load(Ordering::Relaxed) != 0 {
        return false;
    }
    if caches::is_missed(hash) {
        return true;
    }
    let is_nothing = !counts::are_in_doubt()
        && is_written_outside(path)
        && is_straight(path)
        && sys::is_missing_without_links(path);
    if is_nothing {
        caches::miss(hash);
    }
    is_nothing
}

/// Tells whether a path, absolute or from the working directory, leads into no projection by its very words.
#[inline(always)]
fn is_written_outside(path: usize) -> bool {
    let below = match sys::byte_at(path) {
        b'/' => below_projection(path),
        _ => match caches::working() {
            Working::Outside => Below::Outside,
            Working::Above { projection, rest } => below_named(path, projection, rest),
            Working::Inside { .. } | Working::Unknown => Below::Unsure,
        },
    };
    matches!(below, Below::Outside)
}

/// Tells whether a path, which the kernel has read, has only names in it: no `.`, no `..`, and no slashes that say nothing.
#[inline(always)]
fn is_straight(path: usize) -> bool {
    let ends = |at: usize| matches!(sys::byte_at(at), 0 | b'/');
    let mut at = path + usize::from(sys::byte_at(path) == b'/');
    loop {
        let means_more = match sys::byte_at(at) {
            0 => return true,
            b'/' => true,
            b'.' => ends(at + 1) || sys::byte_at(at + 1) == b'.' && ends(at + 2),
            _ => false,
        };
        if means_more {
            return false;
        }
        while !ends(at) {
            at += 1;
        }
        at += usize::from(sys::byte_at(at) == b'/');
    }
}

/// Returns what a path, absolute or from the working directory, is remembered by that leads nowhere.
#[inline(always)]
pub(crate) fn missed(path: &[u8]) -> u64 {
    let start = match path.first() {
        Some(b'/') => caches::MISSED_BELOW_ROOT,
        _ => caches::missed_below_working(),
    };
    missed_from(start, path)
}

/// As [`missed`], from a directory that is told from others by `start`.
#[inline(always)]
pub(crate) fn missed_from(start: u64, path: &[u8]) -> u64 {
    PathKey::of_bits(start).child(path).bits()
}

/// Tells whether what stat(2) said may be of a file of a projection, or of a stand-in. What a descriptor is open on otherwise is
/// remembered.
#[inline(always)]
pub(crate) fn may_be_shown(call: &Call) -> bool {
    let number = call.number as u32;
    if number == kernel::__NR_statx {
        return may_be_shown_wide(call);
    }
    // The kernel has just written it.
    let room = call.args[if number == kernel::__NR_newfstatat { 2 } else { 1 }];
    let (device, inode) = (sys::word_at(room), sys::word_at(room + 8));
    run::may_be_shown(device, inode) || {
        note_outside(call);
        false
    }
}

/// As [`may_be_shown`], of what statx(2) said.
#[inline(never)]
fn may_be_shown_wide(call: &Call) -> bool {
    let word = |at: usize| sys::word_at(call.args[4] + 8 * at);
    let (major, minor) = (word(17) & 0xffff_ffff, word(17) >> 32);
    let device = minor & 0xff | (major & 0xfff) << 8 | (minor & !0xff) << 12;
    run::may_be_shown(device, word(4)) || {
        note_outside(call);
        false
    }
}

/// Remembers that what a call has asked about by a descriptor is outside.
#[inline(always)]
fn note_outside(call: &Call) {
    if let Some(descriptor) = descriptor_of(call)
        && caches::known(descriptor) == Known::Unknown
    {
        caches::remember(descriptor, Known::Outside);
    }
}

/// Returns the descriptor whose file a call has asked about, if it was one.
#[inline(always)]
pub(crate) fn descriptor_of(call: &Call) -> Option<i32> {
    let is_one = match call.number as u32 {
        kernel::__NR_fstat => true,
        kernel::__NR_newfstatat | kernel::__NR_statx => {
            call.args[1] == 0 || sys::byte_at(call.args[1]) == 0
        }
        _ => false,
    };
    is_one.then_some(call.args[0] as i32).filter(|descriptor| *descriptor >= 0)
}
