//! Records what the processes of an action ask of the system, in its journal: see `rift_tree::journal`.
//!
//! A recorded call is made here, with the program's own words, and then written down with what came of it. What can't be written
//! down, for want of room or because nobody could do it again, makes the journal worth nothing.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use linux_raw_sys::general as kernel;
use rift_tree::journal::{self, Chance, EXISTED, Entry, Kind, NOFOLLOW, Stamp, TEXT_MAX};

use crate::hot::HOT;
use crate::quick;
use crate::serve::{self, Asked, Call};
use crate::sys::{self, CWD, Errno, Result};
use crate::table::RECORDED;
use crate::text::Text;

/// The environment variable with the path of the journal, up to its value.
pub(crate) const RECORD: &[u8] = b"RIFT_RECORD=";

/// The path of the journal: where it is, and how long.
static PATH: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];
/// The process that was last written down as begun or forked.
static KNOWN: AtomicU32 = AtomicU32::new(0);
/// Where the journal says of links that asking for them failed, by their paths: as multiples of 8 bytes, and 0 for none.
static FAILED: [AtomicU32; FAILED_LINKS] = [const { AtomicU32::new(0) }; FAILED_LINKS];
const FAILED_LINKS: usize = 1024;
/// Whether this process is not to be believed once it has asked for the time of day, or for random numbers.
static IS_SUSPECTED: AtomicBool = AtomicBool::new(false);

/// Returns the path of the journal; empty where nothing is recorded.
pub(crate) fn path() -> &'static [u8] {
    let [start, length] = [&PATH[0], &PATH[1]].map(|part| part.load(Ordering::Acquire));
    if start == 0 { &[] } else { sys::mapped(start, length) }
}

/// Begins to record into the file of this path, which lives as long as the process.
pub(crate) fn begin(path: &'static [u8]) -> Result<()> {
    let start = sys::map_journal(&Text::of(path)?)?;
    PATH[1].store(path.len(), Ordering::Release);
    PATH[0].store(path.as_ptr().addr(), Ordering::Release);
    KNOWN.store(sys::pid(), Ordering::Release);
    let is_suspected = sys::journal_chance(start) == Chance::Suspected && !is_timeless();
    IS_SUSPECTED.store(is_suspected, Ordering::Release);
    HOT.journal.store(start, Ordering::Release);
    Ok(())
}

/// Writes down that a program has begun.
pub(crate) fn began() {
    let parent = u64::from(sys::parent());
    let mut own = Text::new();
    // Where it can't be read, the action is not believed.
    let _is_read = Text::of(b"/proc/self/exe").and_then(|path| sys::link_target(&path, &mut own));
    add(Kind::Began, 0, parent, Stamp::default(), &[own.bytes()]);
}

/// Programs that name their scratch files by the time of day or by lot, and nothing else, or what their names begin with. What their
/// sources ask for is seen in these.
const TIMELESS: [&[u8]; 14] = [
    b"gcc",
    b"g++",
    b"cc",
    b"c++",
    b"cpp",
    b"clang",
    b"x86_64-linux-gnu-",
    b"as",
    b"ld",
    b"collect2",
    b"lto",
    b"ar",
    b"rust",
    b"ranlib",
];

/// Where random numbers are read from.
const RANDOM: [&[u8]; 2] = [b"/dev/urandom", b"/dev/random"];
/// How many bytes of random numbers a table of hashes takes, or a name of a scratch file, which don't wait for them: see the sources of Rust's
/// standard library (`hashmap_random_keys`) and glibc (`random_bits`).
const KEYS_BYTES: usize = 16;

/// Tells whether this process is one of [`TIMELESS`].
fn is_timeless() -> bool {
    let mut own = Text::new();
    let _is_read = Text::of(b"/proc/self/exe").and_then(|path| sys::link_target(&path, &mut own));
    let name = own.bytes().rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    TIMELESS.iter().any(|known| name.starts_with(known))
}

/// Tells whether this process is not to be believed once it has asked for the time of day, or for random numbers.
pub(crate) fn is_suspected() -> bool {
    IS_SUSPECTED.load(Ordering::Relaxed)
}

/// Notes that the time of day is asked for, if it is that clock; others tell only how long something took.
pub(crate) fn asks_clock(clock: i32) {
    let of_day = [kernel::CLOCK_REALTIME, kernel::CLOCK_REALTIME_COARSE, kernel::CLOCK_TAI];
    if of_day.contains(&clock.cast_unsigned()) {
        note_process();
        refuse(kernel::__NR_clock_gettime as usize);
    }
}

/// Makes the journal worth nothing: not all that this process does will be heard of.
pub(crate) fn give_up() {
    refuse(0);
}

/// Writes down a library that was loaded before anybody listened; the kernel's own has no path, and that this one is there is nobody's
/// business: other machines, and other versions, have it elsewhere.
pub(crate) fn loaded(name: &[u8]) {
    let is_own = crate::run::run().is_some_and(|run| run.shim() == name);
    if name.contains(&b'/') && !is_own {
        add(Kind::Loaded, 0, 0, Stamp::default(), &[name]);
    }
}

/// Tells whether a call is recorded. What is read was opened before, unless it comes from stdin.
#[inline]
pub(crate) fn takes(call: &Call) -> bool {
    let number = call.number;
    let is_read = matches!(number as u32, kernel::__NR_read | kernel::__NR_readv);
    TAKEN.get(number / 64).is_some_and(|word| word >> (number % 64) & 1 != 0)
        && !(is_read && call.args[0] as i32 != 0)
}

/// The calls that are recorded: a bit for each number.
static TAKEN: [u64; 8] = taken();

const fn taken() -> [u64; 8] {
    let mut bits = [0; 8];
    let mut at = 0;
    while at < RECORDED.len() {
        let number = RECORDED[at] as usize;
        bits[number / 64] |= 1 << (number % 64);
        at += 1;
    }
    bits
}

/// Makes a call and writes it down.
pub(crate) fn serve(call: &Call) -> isize {
    note_process();
    let name = |directory: usize, path: usize| (Some(directory), path);
    let result = match call.number as u32 {
        kernel::__NR_open => open(call, (None, 0), call.word(1)),
        kernel::__NR_openat => open(call, name(0, 1), call.word(2)),
        kernel::__NR_openat2 => {
            let flags = sys::value::<u64>(call.args[2]).unwrap_or(0) as u32;
            open(call, name(0, 1), flags)
        }
        kernel::__NR_creat => {
            open(call, (None, 0), kernel::O_CREAT | kernel::O_WRONLY | kernel::O_TRUNC)
        }
        kernel::__NR_stat => look(call, (None, 0), false),
        kernel::__NR_lstat => look(call, (None, 0), true),
        kernel::__NR_newfstatat => {
            look(call, name(0, 1), call.word(3) & kernel::AT_SYMLINK_NOFOLLOW != 0)
        }
        kernel::__NR_statx => {
            look(call, name(0, 1), call.word(2) & kernel::AT_SYMLINK_NOFOLLOW != 0)
        }
        kernel::__NR_access => look(call, (None, 0), false),
        kernel::__NR_faccessat | kernel::__NR_faccessat2 => look(call, name(0, 1), false),
        kernel::__NR_readlink => link(call, (None, 0), 1),
        kernel::__NR_readlinkat => link(call, name(0, 1), 2),
        kernel::__NR_getdents | kernel::__NR_getdents64 => list(call),
        kernel::__NR_rename => change(call, &[(None, 0), (None, 1)]),
        kernel::__NR_renameat | kernel::__NR_renameat2 => change(call, &[name(0, 1), name(2, 3)]),
        kernel::__NR_link => change(call, &[(None, 0), (None, 1)]),
        kernel::__NR_linkat => change(call, &[name(0, 1), name(2, 3)]),
        kernel::__NR_symlink => change(call, &[(None, 1)]),
        kernel::__NR_symlinkat => change(call, &[name(1, 2)]),
        kernel::__NR_mkdir
        | kernel::__NR_rmdir
        | kernel::__NR_unlink
        | kernel::__NR_chmod
        | kernel::__NR_utime
        | kernel::__NR_utimes
        | kernel::__NR_truncate => change(call, &[(None, 0)]),
        kernel::__NR_mkdirat
        | kernel::__NR_unlinkat
        | kernel::__NR_fchmodat
        | kernel::__NR_fchmodat2
        | kernel::__NR_futimesat
        | kernel::__NR_utimensat => change(call, &[name(0, 1)]),
        kernel::__NR_fchmod => change_open(call),
        kernel::__NR_execve => execute(call, (None, 0)),
        kernel::__NR_execveat => execute(call, name(0, 1)),
        kernel::__NR_exit_group => ends(call),
        kernel::__NR_write => write(call, false),
        kernel::__NR_writev => write(call, true),
        kernel::__NR_read | kernel::__NR_readv => read(call),
        kernel::__NR_io_uring_setup => Ok(Errno::NOSYS.returned()),
        kernel::__NR_sendfile => refuse_if(call, is_stream(call.args[0] as i32)),
        kernel::__NR_splice => refuse_if(call, is_stream(call.args[2] as i32)),
        // Make takes the rights that it has, again and again.
        kernel::__NR_setuid | kernel::__NR_setreuid | kernel::__NR_setresuid => {
            let before = sys::user();
            let result = call.pass();
            if sys::user() != before {
                refuse(call.number);
            }
            Ok(result)
        }
        kernel::__NR_getrandom => {
            let is_waiting = call.word(2) & (kernel::GRND_NONBLOCK | kernel::GRND_INSECURE) == 0;
            refuse_if(call, is_suspected() && (is_waiting || call.args[1] > KEYS_BYTES))
        }
        // Names of users are looked up so, where somebody answers; nobody does on most machines.
        kernel::__NR_connect => {
            let result = call.pass();
            if result >= 0
                || Errno(result.unsigned_abs() as u32).0 == linux_raw_sys::errno::EINPROGRESS
            {
                refuse(call.number);
            }
            Ok(result)
        }
        _ => refuse_if(call, true),
    };
    match result {
        Ok(result) => result,
        // What could not be written down, for a path too long or a pointer that leads nowhere, the kernel judges.
        Err(_) => {
            let result = call.pass();
            if result >= 0 {
                refuse(call.number);
            }
            result
        }
    }
}

/// Which argument has a directory, and which a path.
type Name = (Option<usize>, usize);

/// Adds an entry, and returns where it begins; a journal that is full is known by its end.
fn add(kind: Kind, error: u32, word: u64, stamp: Stamp, texts: &[&[u8]]) -> Option<usize> {
    let journal = HOT.journal.load(Ordering::Acquire);
    if journal == 0 {
        return None;
    }
    let mut text = Text::new();
    let mut whole = texts.first().copied().unwrap_or_default();
    if texts.len() > 1 {
        let mut parts = texts.iter();
        let joined = parts.next().map_or(Ok(()), |first| text.push(first)).and_then(|()| {
            parts.try_for_each(|part| {
                text.push(b"\0")?;
                text.push(part)
            })
        });
        match joined {
            Ok(()) => whole = text.bytes(),
            // Two paths that are too long together.
            Err(_) => return add(Kind::Refused, 0, word, stamp, &[]),
        }
    }
    let whole = whole.get(..TEXT_MAX).unwrap_or(whole);
    let entry = Entry { kind, process: sys::pid(), error, word, stamp, text: whole };
    sys::append(journal, path(), &entry)
}

/// Notes a process that was forked, when it is first heard of.
fn note_process() {
    let process = sys::pid();
    let known = KNOWN.load(Ordering::Acquire);
    if known == process {
        return;
    }
    add(Kind::Forked, 0, u64::from(sys::parent()), Stamp::default(), &[]);
    // A child that shares this memory must not pass for its parent: the journal bears to be told twice.
    KNOWN.store(process, Ordering::Release);
}

/// Puts the absolute path of what is named into `text`.
fn absolute(call: &Call, (directory, path): Name, text: &mut Text) -> Result<()> {
    absolute_of(directory.map_or(CWD, |at| call.args[at] as i32), call.args[path], text)
}

fn absolute_of(directory: i32, path: usize, text: &mut Text) -> Result<()> {
    let path: &[u8] = if path == 0 { &[] } else { sys::string(path)? };
    text.cut(0);
    if path.first() == Some(&b'/') {
        return text.push(path);
    }
    match directory {
        CWD => sys::working_directory(text)?,
        descriptor => sys::link_target(&Text::of_descriptor(descriptor)?, text)?,
    }
    if path.is_empty() { Ok(()) } else { text.push_name(path) }
}

fn stamp_of(stat: &sys::Stat) -> Stamp {
    // The kernel's own structure has unsigned fields for them, see `struct stat` in asm/stat.h.
    let ns = |seconds: u64, rest: u64| {
        seconds.cast_signed().wrapping_mul(1_000_000_000).wrapping_add(rest.cast_signed())
    };
    Stamp {
        device: stat.st_dev,
        inode: stat.st_ino,
        size: stat.st_size.cast_unsigned(),
        mtime_ns: ns(stat.st_mtime, stat.st_mtime_nsec),
        ctime_ns: ns(stat.st_ctime, stat.st_ctime_nsec),
    }
}

fn error_of(result: isize) -> u32 {
    if result < 0 { result.unsigned_abs() as u32 } else { 0 }
}

fn open(call: &Call, name: Name, flags: u32) -> Result<isize> {
    let mut text = Text::new();
    absolute(call, name, &mut text)?;
    let makes = flags & kernel::O_CREAT != 0 && flags & kernel::O_EXCL == 0;
    let existed = makes && sys::stat_at(CWD, &text, kernel::AT_SYMLINK_NOFOLLOW).is_ok();
    let result = call.pass();
    let mut word = u64::from(flags) & !EXISTED | if existed { EXISTED } else { 0 };
    let mut stamp = Stamp::default();
    if result >= 0 {
        let stat = sys::stat_of(result as i32)?;
        word |= u64::from(stat.st_mode) << 32;
        stamp = stamp_of(&stat);
    }
    add(Kind::Opened, error_of(result), word, stamp, &[text.bytes()]);
    if is_suspected() && RANDOM.contains(&text.bytes()) {
        refuse(kernel::__NR_getrandom as usize);
    }
    Ok(result)
}

fn look(call: &Call, name: Name, is_itself: bool) -> Result<isize> {
    let number = call.number as u32;
    // Of a descriptor: what is open was written down when it was opened.
    let is_open = matches!(number, kernel::__NR_newfstatat | kernel::__NR_statx)
        && (call.args[1] == 0 || sys::string(call.args[1])?.is_empty());
    if is_open {
        return Ok(call.pass());
    }
    let mut text = Text::new();
    absolute(call, name, &mut text)?;
    let result = call.pass();
    let mut word = if is_itself { NOFOLLOW } else { 0 };
    let mut stamp = Stamp::default();
    if result == 0 {
        match number {
            kernel::__NR_stat | kernel::__NR_lstat | kernel::__NR_newfstatat => {
                let at = if number == kernel::__NR_newfstatat { 2 } else { 1 };
                let stat = sys::value::<sys::Stat>(call.args[at])?;
                word |= u64::from(stat.st_mode) << 32;
                stamp = stamp_of(&stat);
            }
            kernel::__NR_statx => {
                let stat = sys::value::<kernel::statx>(call.args[4])?;
                word |= u64::from(stat.stx_mode) << 32;
                stamp.size = stat.stx_size;
                stamp.inode = stat.stx_ino;
            }
            _ => {}
        }
    }
    add(Kind::Looked, error_of(result), word, stamp, &[text.bytes()]);
    Ok(result)
}

fn link(call: &Call, name: Name, room: usize) -> Result<isize> {
    let mut text = Text::new();
    absolute(call, name, &mut text)?;
    let result = call.pass();
    match usize::try_from(result) {
        Ok(length) => {
            let target = &*sys::room(call.args[room], length)?;
            add(Kind::Link, 0, 0, Stamp::default(), &[text.bytes(), target]);
        }
        Err(_) => failed_link(error_of(result), text.bytes()),
    }
    Ok(result)
}

/// Writes down that a link could not be read, unless the journal says so already: gcc asks for each folder above each header, again and
/// again, and from the second time on that tells nothing.
fn failed_link(error: u32, path: &[u8]) {
    let journal = HOT.journal.load(Ordering::Acquire);
    // Of two that have the same place, each is told of again after the other.
    let Some(slot) = FAILED.get((quick::missed(path) >> 32) as usize % FAILED_LINKS) else {
        return;
    };
    let at = slot.load(Ordering::Acquire) as usize * 8;
    let is_told = at != 0
        && sys::entry_at(journal, at).is_some_and(|told| {
            (told.kind, told.error) == (Kind::Link, error)
                && told.text.strip_suffix(b"\0") == Some(path)
        });
    if !is_told && let Some(at) = add(Kind::Link, error, 0, Stamp::default(), &[path, &[]]) {
        slot.store((at / 8) as u32, Ordering::Release);
    }
}

fn list(call: &Call) -> Result<isize> {
    let descriptor = call.args[0] as i32;
    let mut text = Text::new();
    absolute_of(descriptor, 0, &mut text)?;
    let stat = sys::stat_of(descriptor)?;
    let result = call.pass();
    add(Kind::Listed, error_of(result), 0, stamp_of(&stat), &[text.bytes()]);
    Ok(result)
}

fn change(call: &Call, names: &[Name]) -> Result<isize> {
    let (mut first, mut second) = (Text::new(), Text::new());
    for (name, text) in names.iter().zip([&mut first, &mut second]) {
        absolute(call, *name, text)?;
    }
    let result = call.pass();
    let word = call.number as u64;
    let both = [first.bytes(), second.bytes()];
    let texts = both.get(..names.len()).unwrap_or_default();
    add(Kind::Changed, error_of(result), word, Stamp::default(), texts);
    Ok(result)
}

fn change_open(call: &Call) -> Result<isize> {
    let mut text = Text::new();
    absolute_of(call.args[0] as i32, 0, &mut text)?;
    let result = call.pass();
    let word = call.number as u64;
    add(Kind::Changed, error_of(result), word, Stamp::default(), &[text.bytes()]);
    Ok(result)
}

fn execute(call: &Call, name: Name) -> Result<isize> {
    let mut text = Text::new();
    absolute(call, name, &mut text)?;
    add(Kind::Executes, 0, 0, Stamp::default(), &[text.bytes()]);
    let result = serve::serve(call, Asked::No);
    add(Kind::NotExecuted, error_of(result), 0, Stamp::default(), &[text.bytes()]);
    Ok(result)
}

/// Writes down what was written to, as it is now. Who changes it from now on leaves another time: a file system takes the time of a tick, but
/// not again for what was looked at since (since Linux 6.13).
fn leave(journal: usize) {
    let mut at = journal::HEADER_BYTES;
    while let Some(entry) = sys::entry_at(journal, at) {
        at += entry.bytes();
        let flags = entry.word as u32;
        let has = |flag: u32| flags & flag != 0;
        let path = match entry.kind {
            _ if entry.error != 0 => continue,
            Kind::Opened => {
                let makes = has(kernel::O_CREAT) && entry.word & EXISTED == 0;
                let writes = flags & kernel::O_ACCMODE != kernel::O_RDONLY;
                Some(entry.text).filter(|_| writes || makes || has(kernel::O_TRUNC))
            }
            // Where it has two names, the second is the one that is there now.
            Kind::Changed => entry.text.rsplit(|byte| *byte == 0).next(),
            _ => None,
        };
        let Some(Ok(text)) = path.map(Text::of) else { continue };
        // What is gone, or can't be looked at, is told of by nobody.
        if let Ok(stat) = sys::stat_at(CWD, &text, kernel::AT_SYMLINK_NOFOLLOW)
            && stat.st_mode & kernel::S_IFMT == kernel::S_IFREG
        {
            add(Kind::Left, 0, u64::from(stat.st_mode) << 32, stamp_of(&stat), &[text.bytes()]);
        }
    }
}

fn ends(call: &Call) -> Result<isize> {
    let journal = HOT.journal.load(Ordering::Acquire);
    if sys::is_first(journal) {
        leave(journal);
    }
    let (size, mtime_ns) = (sys::processor_time_ns(), sys::now_ns());
    let status = call.args[0] as u64 & 0xff;
    add(Kind::Ends, 0, status, Stamp { size, mtime_ns, ..Stamp::default() }, &[]);
    sys::end_journal(journal, path());
    crate::counts::flush();
    Ok(call.pass())
}

/// Tells whether a descriptor is what the action has as stdout or stderr: 1 or 2, else 0.
fn stream(descriptor: i32) -> u64 {
    let Ok(stat) = sys::stat_of(descriptor) else { return 0 };
    let journal = HOT.journal.load(Ordering::Acquire);
    let is_it = |stream: &usize| sys::is_stream(journal, *stream, stat.st_dev, stat.st_ino);
    [1, 2].iter().find(|stream| is_it(stream)).map_or(0, |stream| *stream as u64)
}

/// What was told to the action while it ran, nobody tells it again.
fn read(call: &Call) -> Result<isize> {
    let result = call.pass();
    if result > 0
        && let Ok(stat) = sys::stat_of(call.args[0] as i32)
    {
        let journal = HOT.journal.load(Ordering::Acquire);
        if sys::is_stream(journal, 0, stat.st_dev, stat.st_ino) {
            refuse(call.number);
        }
    }
    Ok(result)
}

fn is_stream(descriptor: i32) -> bool {
    stream(descriptor) != 0
}

fn write(call: &Call, is_vector: bool) -> Result<isize> {
    let result = call.pass();
    let Ok(mut left) = usize::try_from(result) else { return Ok(result) };
    let stream = stream(call.args[0] as i32);
    if stream == 0 || left == 0 {
        return Ok(result);
    }
    let said = |start: usize, length: usize| -> Result<()> {
        for part in sys::room(start, length)?.chunks(TEXT_MAX) {
            add(Kind::Said, 0, stream, Stamp::default(), &[part]);
        }
        Ok(())
    };
    if !is_vector {
        said(call.args[1], left)?;
        return Ok(result);
    }
    let mut at = call.args[1];
    while left > 0 {
        // See readv(2): an address and a length.
        let [start, length] = sys::value::<[usize; 2]>(at)?;
        said(start, length.min(left))?;
        left = left.saturating_sub(length);
        at += size_of::<[usize; 2]>();
    }
    Ok(result)
}

/// Notes that nobody can do again what a system call of this number did.
fn refuse(number: usize) {
    add(Kind::Refused, 0, number as u64, Stamp::default(), &[]);
}

/// Makes a call that nobody can replay.
fn refuse_if(call: &Call, is_refused: bool) -> Result<isize> {
    let result = call.pass();
    if is_refused && result >= 0 {
        refuse(call.number);
    }
    Ok(result)
}

/// Tells where the journal is that an entry goes to, for what is begun beside it.
pub(crate) fn is_recording() -> bool {
    HOT.journal.load(Ordering::Relaxed) != 0
}

const _: () = assert!(journal::HEAD_BYTES == 64);
