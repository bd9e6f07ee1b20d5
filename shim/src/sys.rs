//! The kernel and the memory of the process, without a C library.

#![allow(
    unsafe_code,
    reason = "system calls, mappings and the program's own pointers have no safe form"
)]

use core::arch::asm;
use core::ffi::CStr;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use linux_raw_sys::errno;
use linux_raw_sys::general as kernel;
use rift_tree::journal::{self, Chance, Entry};
use rift_tree::state::{Birth, Real, StateWord};

use crate::hot::{HOT, PAGES};
use crate::text::{Path, Text};

/// An error number, see errno(3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) u32);

impl Errno {
    pub(crate) const NOENT: Self = Self(errno::ENOENT);
    pub(crate) const IO: Self = Self(errno::EIO);
    pub(crate) const NOTDIR: Self = Self(errno::ENOTDIR);
    pub(crate) const ISDIR: Self = Self(errno::EISDIR);
    pub(crate) const EXIST: Self = Self(errno::EEXIST);
    pub(crate) const INVAL: Self = Self(errno::EINVAL);
    pub(crate) const ACCESS: Self = Self(errno::EACCES);
    pub(crate) const LOOP: Self = Self(errno::ELOOP);
    pub(crate) const NAMETOOLONG: Self = Self(errno::ENAMETOOLONG);
    pub(crate) const NOTEMPTY: Self = Self(errno::ENOTEMPTY);
    pub(crate) const STALE: Self = Self(errno::ESTALE);
    pub(crate) const NODATA: Self = Self(errno::ENODATA);
    pub(crate) const RANGE: Self = Self(errno::ERANGE);
    pub(crate) const NOSYS: Self = Self(errno::ENOSYS);
    pub(crate) const FAULT: Self = Self(errno::EFAULT);
    pub(crate) const OPNOTSUPP: Self = Self(errno::EOPNOTSUPP);
    pub(crate) const NFILE: Self = Self(errno::ENFILE);
    pub(crate) const MFILE: Self = Self(errno::EMFILE);
    pub(crate) const NOSPC: Self = Self(errno::ENOSPC);
    pub(crate) const DQUOT: Self = Self(errno::EDQUOT);

    /// Returns what a system call returns for it.
    pub(crate) fn returned(self) -> isize {
        -(self.0 as isize)
    }
}

pub(crate) type Result<T> = core::result::Result<T, Errno>;

/// The working directory, where a descriptor of a directory is asked for.
pub(crate) const CWD: i32 = kernel::AT_FDCWD;

/// Makes a system call.
///
/// Whoever passes pointers has them from the program itself, which asked for this very call, or passes those of
/// values that live until it returns.
#[inline(always)]
pub(crate) fn call(number: usize, args: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: syscall(2): the instruction clobbers rcx, r11 and the result, and what the kernel does to memory is
    // what the caller asked for.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            in("r9") args[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}

fn check(result: isize) -> Result<usize> {
    if result < 0 { Err(Errno(result.unsigned_abs() as u32)) } else { Ok(result.unsigned_abs()) }
}

macro_rules! ask {
    ($name:ident $(, $argument:expr)*) => {{
        let given: &[usize] = &[$($argument as usize),*];
        let mut args = [0; 6];
        let mut at = 0;
        while at < given.len() {
            args[at] = given[at];
            at += 1;
        }
        check(call(kernel::$name as usize, args))
    }};
}

/// Ends the process, see abort(3).
#[cfg(feature = "preload")]
pub(crate) fn abort() -> ! {
    loop {
        let _killed = ask!(__NR_kill, pid(), kernel::SIGABRT);
        let _ended = ask!(__NR_exit_group, 134);
    }
}

/// Says something on stderr.
pub(crate) fn say(text: &[u8]) {
    // There is nowhere else to say it.
    let _said = write_all(2, text);
}

/// Returns the process, see getpid(2).
pub(crate) fn pid() -> u32 {
    ask!(__NR_getpid).unwrap_or(0) as u32
}

/// Returns the effective user, see geteuid(2).
pub(crate) fn user() -> u32 {
    ask!(__NR_geteuid).unwrap_or(0) as u32
}

/// Returns the thread, see gettid(2).
pub(crate) fn tid() -> u32 {
    ask!(__NR_gettid).unwrap_or(0) as u32
}

/// Lets the kernel write a 0 to an address when this thread leaves the memory that it shares with others; nowhere where the
/// address is 0, see set_tid_address(2).
pub(crate) fn clear_when_gone(address: usize) {
    let _set = ask!(__NR_set_tid_address, address);
}

/// Tells whether an open file has an extended attribute, see fgetxattr(2).
pub(crate) fn has_attribute(descriptor: i32, name: &core::ffi::CStr) -> bool {
    ask!(__NR_fgetxattr, descriptor, name.as_ptr(), 0, 0).is_ok()
}

/// As fsetxattr(2).
pub(crate) fn set_attribute(descriptor: i32, name: &Text, value: &[u8]) -> Result<()> {
    ask!(__NR_fsetxattr, descriptor, name.pointer(), value.as_ptr(), value.len(), 0).map(drop)
}

/// Returns the real user and group, see getuid(2).
pub(crate) fn real_ids() -> (u32, u32) {
    (ask!(__NR_getuid).unwrap_or(0) as u32, ask!(__NR_getgid).unwrap_or(0) as u32)
}

/// Returns the effective user and group, see geteuid(2).
pub(crate) fn effective_ids() -> (u32, u32) {
    (ask!(__NR_geteuid).unwrap_or(0) as u32, ask!(__NR_getegid).unwrap_or(0) as u32)
}

/// Tells whether the process is in a group, see getgroups(2).
pub(crate) fn is_in_group(group: u32) -> bool {
    // 65536 is the system's limit; who is in more than these asks for more than this.
    let mut groups = [0_u32; 256];
    match ask!(__NR_getgroups, groups.len(), groups.as_mut_ptr()) {
        Ok(count) => groups.iter().take(count).any(|found| *found == group),
        Err(_) => false,
    }
}

/// Runs a program, in an environment without any variable, and waits for its end, of which nobody else hears. The last of
/// its words is null.
pub(crate) fn run_program(program: &CStr, words: &[*const u8]) -> Result<()> {
    // As fork(2), but without a signal at the end, see clone(2).
    let child = ask!(__NR_clone, 0, 0, 0, 0, 0)?;
    if child == 0 {
        let environment = [core::ptr::null::<u8>()];
        let _failed = ask!(__NR_execve, program.as_ptr(), words.as_ptr(), environment.as_ptr());
        loop {
            let _ended = ask!(__NR_exit_group, 127);
        }
    }
    loop {
        match ask!(__NR_wait4, child, 0, kernel::__WALL, 0) {
            Err(Errno(errno::EINTR)) => {}
            other => return other.map(drop),
        }
    }
}

/// Waits a moment, see nanosleep(2).
pub(crate) fn sleep_ns(nanoseconds: i64) {
    let time = [0_i64, nanoseconds];
    let _slept = ask!(__NR_nanosleep, time.as_ptr(), 0);
}

/// What stat(2) fills in.
pub(crate) type Stat = kernel::stat;

/// Returns what fstatat(2) says.
pub(crate) fn stat_at(directory: i32, path: &(impl Path + ?Sized), flags: u32) -> Result<Stat> {
    let mut stat = MaybeUninit::<Stat>::uninit();
    ask!(__NR_newfstatat, directory, path.pointer(), stat.as_mut_ptr(), flags)?;
    // SAFETY: fstatat(2): on success the buffer is filled in.
    Ok(unsafe { stat.assume_init() })
}

/// Returns what fstat(2) says.
pub(crate) fn stat_of(descriptor: i32) -> Result<Stat> {
    let mut stat = MaybeUninit::<Stat>::uninit();
    ask!(__NR_fstat, descriptor, stat.as_mut_ptr())?;
    // SAFETY: fstat(2): on success the buffer is filled in.
    Ok(unsafe { stat.assume_init() })
}

/// What tells a file from all others, whom it belongs to and what may be done to it.
pub(crate) struct Identity {
    pub(crate) real: Real,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) permissions: u32,
}

/// Returns what tells a file from all others, also from those that come after it; a symbolic link is one itself, and an empty
/// path means the descriptor.
pub(crate) fn identify(directory: i32, path: &Text) -> Result<Identity> {
    let wanted = kernel::STATX_BASIC_STATS | kernel::STATX_BTIME;
    let flags = kernel::AT_SYMLINK_NOFOLLOW | kernel::AT_EMPTY_PATH;
    let mut stat = MaybeUninit::<kernel::statx>::uninit();
    if ask!(__NR_statx, directory, path.pointer(), flags, wanted, stat.as_mut_ptr()).is_err() {
        // An old kernel, or a container's filter.
        let stat = stat_at(directory, path, flags)?;
        let real = Real { inode: stat.st_ino, birth: Birth::UNKNOWN };
        return Ok(Identity {
            real,
            uid: stat.st_uid,
            gid: stat.st_gid,
            permissions: stat.st_mode & 0o7777,
        });
    }
    // SAFETY: statx(2): on success the buffer is filled in.
    let stat = unsafe { stat.assume_init() };
    let birth = match stat.stx_btime {
        time if stat.stx_mask & kernel::STATX_BTIME != 0 => Birth::new(time.tv_sec, time.tv_nsec),
        _ => Birth::UNKNOWN,
    };
    let real = Real { inode: stat.stx_ino, birth };
    let permissions = u32::from(stat.stx_mode) & 0o7777;
    Ok(Identity { real, uid: stat.stx_uid, gid: stat.stx_gid, permissions })
}

/// As openat(2), close-on-exec.
pub(crate) fn open(path: &(impl Path + ?Sized), flags: u32, mode: u32) -> Result<i32> {
    let flags = flags | kernel::O_CLOEXEC;
    Ok(ask!(__NR_openat, CWD, path.pointer(), flags, mode)? as i32)
}

/// Tells whether nothing has a path, absolute or from the working directory, and no link is on the way to where that shows, see
/// openat2(2).
pub(crate) fn is_missing_without_links(path: usize) -> bool {
    // `struct open_how`: flags, mode, resolve.
    static HOW: [u64; 3] =
        [(kernel::O_PATH | kernel::O_CLOEXEC) as u64, 0, kernel::RESOLVE_NO_SYMLINKS as u64];
    match ask!(__NR_openat2, CWD, path, HOW.as_ptr(), size_of_val(&HOW)) {
        // Somebody has made it in the meantime.
        Ok(descriptor) => {
            close(descriptor as i32);
            false
        }
        Err(error) => error == Errno::NOENT,
    }
}

/// As close(2).
pub(crate) fn close(descriptor: i32) {
    // It is closed, whatever is said.
    let _closed = ask!(__NR_close, descriptor);
}

/// Gives a descriptor the meaning of another one; it stays close-on-exec if it was, see dup3(2).
pub(crate) fn replace(from: i32, descriptor: i32) {
    let was = ask!(__NR_fcntl, descriptor, kernel::F_GETFD).unwrap_or(0) as u32;
    let flags = if was & kernel::FD_CLOEXEC != 0 { kernel::O_CLOEXEC } else { 0 };
    // Where it fails, the old meaning stays.
    let _replaced = ask!(__NR_dup3, from, descriptor, flags);
}

/// As lseek(2).
pub(crate) fn seek(descriptor: i32, offset: i64, whence: u32) -> Result<i64> {
    Ok(ask!(__NR_lseek, descriptor, offset, whence)? as i64)
}

/// As write(2), until all is written.
pub(crate) fn write_all(descriptor: i32, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match ask!(__NR_write, descriptor, bytes.as_ptr(), bytes.len()) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(Errno(errno::EINTR)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// As read(2).
pub(crate) fn read(descriptor: i32, bytes: &mut [u8]) -> Result<usize> {
    ask!(__NR_read, descriptor, bytes.as_mut_ptr(), bytes.len())
}

/// As pread64(2).
pub(crate) fn read_at(descriptor: i32, bytes: &mut [u8], offset: usize) -> Result<usize> {
    ask!(__NR_pread64, descriptor, bytes.as_mut_ptr(), bytes.len(), offset)
}

/// As getdents64(2).
pub(crate) fn entries(descriptor: i32, bytes: &mut [u8]) -> Result<usize> {
    ask!(__NR_getdents64, descriptor, bytes.as_mut_ptr(), bytes.len())
}

/// As fchmod(2).
pub(crate) fn set_mode(descriptor: i32, mode: u32) -> Result<()> {
    ask!(__NR_fchmod, descriptor, mode).map(drop)
}

/// As fchownat(2), following no link; an empty path means the descriptor.
pub(crate) fn set_owner(directory: i32, path: &Text, uid: u32, gid: u32) -> Result<()> {
    let flags = kernel::AT_SYMLINK_NOFOLLOW | kernel::AT_EMPTY_PATH;
    ask!(__NR_fchownat, directory, path.pointer(), uid, gid, flags).map(drop)
}

/// Sets the mtime of an open file and leaves its atime alone, as futimens(3).
pub(crate) fn set_modified(descriptor: i32, seconds: i64, nanoseconds: i64) -> Result<()> {
    let times = [0, i64::from(kernel::UTIME_OMIT), seconds, nanoseconds];
    ask!(__NR_utimensat, descriptor, 0, times.as_ptr(), 0).map(drop)
}

/// Sets the mtime of a file and leaves its atime alone, following no link, as utimensat(2); an empty path means the
/// descriptor, since Linux 5.8.
pub(crate) fn set_modified_at(
    directory: i32,
    path: &Text,
    seconds: i64,
    nanoseconds: i64,
) -> Result<()> {
    let times = [0, i64::from(kernel::UTIME_OMIT), seconds, nanoseconds];
    let empty = if path.bytes().is_empty() { kernel::AT_EMPTY_PATH } else { 0 };
    let flags = kernel::AT_SYMLINK_NOFOLLOW | empty;
    ask!(__NR_utimensat, directory, path.pointer(), times.as_ptr(), flags).map(drop)
}

/// Sets both times of a file to the present, as utimensat(2), of which inotify(7) tells those who watch its folder.
fn ring(path: &Text) -> Result<()> {
    ask!(__NR_utimensat, CWD, path.pointer(), 0, 0).map(drop)
}

/// Sets the mtime of a file to the present, as utimensat(2).
pub(crate) fn touch(path: &Text) -> Result<()> {
    set_modified_at(CWD, path, 0, i64::from(kernel::UTIME_NOW))
}

/// As mkdir(2).
pub(crate) fn make_directory(path: &Text, mode: u32) -> Result<()> {
    ask!(__NR_mkdir, path.pointer(), mode).map(drop)
}

/// As chmod(2).
pub(crate) fn set_mode_at(path: &Text, mode: u32) -> Result<()> {
    ask!(__NR_chmod, path.pointer(), mode).map(drop)
}

/// As symlink(2).
pub(crate) fn make_link(target: &Text, path: &Text) -> Result<()> {
    ask!(__NR_symlink, target.pointer(), path.pointer()).map(drop)
}

/// As renameat2(2) with RENAME_NOREPLACE.
pub(crate) fn put(from: &Text, directory: i32, to: &Text) -> Result<()> {
    let flags = kernel::RENAME_NOREPLACE;
    ask!(__NR_renameat2, CWD, from.pointer(), directory, to.pointer(), flags).map(drop)
}

/// Gives an open file without a name one, as linkat(2).
pub(crate) fn give_name(file: i32, directory: i32, name: &Text) -> Result<()> {
    let empty = c"".as_ptr();
    match ask!(__NR_linkat, file, empty, directory, name.pointer(), kernel::AT_EMPTY_PATH) {
        // Before Linux 6.10 only the privileged might do it this way.
        Err(Errno::NOENT) => {
            let path = Text::of_descriptor(file)?;
            let flags = kernel::AT_SYMLINK_FOLLOW;
            ask!(__NR_linkat, CWD, path.pointer(), directory, name.pointer(), flags).map(drop)
        }
        other => other.map(drop),
    }
}

/// Removes a file or an empty directory.
pub(crate) fn remove(path: &Text) {
    if ask!(__NR_unlink, path.pointer()).is_err() {
        // What can't be removed is among the orphans, which go when the projection is attached to next.
        let _removed = ask!(__NR_rmdir, path.pointer());
    }
}

/// Tells whether the effective user may do this to a file, as faccessat2(2).
pub(crate) fn may(path: &Text, mode: u32) -> Result<()> {
    ask!(__NR_faccessat2, CWD, path.pointer(), mode, kernel::AT_EACCESS).map(drop)
}

/// As [`may`], for the real user, and without the rights beyond those of an ordinary one: access(2) asks so, and so will
/// the next program be asked.
pub(crate) fn may_plainly(path: &Text, mode: u32) -> Result<()> {
    ask!(__NR_faccessat, CWD, path.pointer(), mode).map(drop)
}

/// As getcwd(2).
pub(crate) fn working_directory(text: &mut Text) -> Result<()> {
    text.fill(|room| match ask!(__NR_getcwd, room.as_mut_ptr(), room.len()) {
        // With the NUL.
        Ok(length) => Ok(length - 1),
        Err(error) => Err(error),
    })
}

/// As readlink(2), into room that may be too small.
pub(crate) fn read_link(path: &CStr, room: &mut [u8]) -> Result<usize> {
    ask!(__NR_readlink, path.as_ptr(), room.as_mut_ptr(), room.len())
}

/// As readlink(2).
pub(crate) fn link_target(path: &Text, target: &mut Text) -> Result<()> {
    target.fill(|room| ask!(__NR_readlink, path.pointer(), room.as_mut_ptr(), room.len()))
}

/// Tells whether a path leads to a symbolic link itself, see readlinkat(2).
pub(crate) fn is_link(directory: i32, path: &Text) -> bool {
    let mut byte = [0_u8];
    ask!(__NR_readlinkat, directory, path.pointer(), byte.as_mut_ptr(), byte.len()).is_ok()
}

/// Maps a file, to be read only or to be shared with other processes.
fn map(descriptor: i32, bytes: usize, is_shared: bool) -> Result<usize> {
    let (protection, flags) = match is_shared {
        true => (kernel::PROT_READ | kernel::PROT_WRITE, kernel::MAP_SHARED),
        false => (kernel::PROT_READ, kernel::MAP_SHARED),
    };
    ask!(__NR_mmap, 0, bytes, protection, flags, descriptor, 0)
}

/// Maps a whole file for as long as the process lives.
pub(crate) fn map_file(path: &(impl Path + ?Sized)) -> Result<&'static [u8]> {
    let file = open(path, kernel::O_RDONLY, 0)?;
    let mapped = stat_of(file).and_then(|stat| {
        let bytes = usize::try_from(stat.st_size).map_err(|_| Errno::IO)?;
        if bytes == 0 {
            return Ok(&[][..]);
        }
        let start = map(file, bytes, false)?;
        // SAFETY: mmap(2): "on success, mmap() returns a pointer to the mapped area" of `bytes` bytes; store files
        // are never written after they got their name, and this mapping is never removed.
        Ok(unsafe { core::slice::from_raw_parts(start as *const u8, bytes) })
    });
    close(file);
    mapped
}

/// Where the loader's cache is mapped, and how long it is.
static LOADER_CACHE: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];

/// Returns the loader's cache, see ldconfig(8), as it was when it was first asked for: it is replaced, never written.
pub(crate) fn loader_cache() -> Option<&'static [u8]> {
    let [start, length] = &LOADER_CACHE;
    if start.load(Ordering::Acquire) == 0 {
        let bytes = map_file(&Text::of(b"/etc/ld.so.cache").ok()?).ok()?;
        // Threads that do this at once map the same file, and all of them write the same length first.
        length.store(bytes.len(), Ordering::Relaxed);
        start.store(bytes.as_ptr().addr(), Ordering::Release);
    }
    Some(mapped(start.load(Ordering::Acquire), length.load(Ordering::Relaxed)))
}

/// Maps the file of counts, to be shared; returns where.
pub(crate) fn map_counts(path: &(impl Path + ?Sized)) -> Result<usize> {
    let file = open(path, kernel::O_RDWR, 0)?;
    let mapped = stat_of(file).and_then(|stat| {
        let is_whole = stat.st_size == rift_tree::run::COUNTS_BYTES as i64;
        if is_whole { map(file, rift_tree::run::COUNTS_BYTES, true) } else { Err(Errno::IO) }
    });
    close(file);
    mapped
}

/// Maps a file of words that others change meanwhile.
pub(crate) fn map_words(path: &Text) -> Result<&'static [AtomicU32]> {
    let file = open(path, kernel::O_RDWR, 0)?;
    let mapped = stat_of(file).and_then(|stat| {
        let bytes = usize::try_from(stat.st_size).map_err(|_| Errno::IO)?;
        Ok((map(file, bytes, true)?, bytes / size_of::<AtomicU32>()))
    });
    close(file);
    let (start, count) = mapped?;
    Ok(slots(start, count))
}

/// Maps a journal, to be shared; returns where.
pub(crate) fn map_journal(path: &Text) -> Result<usize> {
    let file = open(path, kernel::O_RDWR, 0)?;
    let protection = kernel::PROT_READ | kernel::PROT_WRITE;
    let flags = kernel::MAP_SHARED | kernel::MAP_NORESERVE;
    let mapped = ask!(__NR_mmap, 0, journal::JOURNAL_MAX, protection, flags, file, 0);
    close(file);
    mapped
}

/// Returns a word of a mapped journal's header.
fn journal_word(journal: usize, offset: usize) -> &'static AtomicU64 {
    // SAFETY: the header is mapped as long as the process lives, and its words are changed by atomic operations only.
    unsafe { &*((journal + offset) as *const AtomicU64) }
}

/// Returns what a mapped journal says of the clock and of random numbers.
pub(crate) fn journal_chance(journal: usize) -> Chance {
    Chance::of(journal_word(journal, journal::CHANCE_OFFSET).load(Ordering::Relaxed) as u32)
}

/// Adds an entry to a mapped journal, and returns where it begins; one that finds no room makes the journal worth nothing.
pub(crate) fn append(journal: usize, path: &[u8], entry: &Entry<'_>) -> Option<usize> {
    let bytes = entry.bytes();
    let end = journal_word(journal, journal::END_OFFSET);
    let at = end.fetch_add(bytes as u64, Ordering::AcqRel) as usize;
    let allocated = journal_word(journal, journal::ALLOCATED_OFFSET);
    while at + bytes > allocated.load(Ordering::Acquire) as usize {
        let was = allocated.load(Ordering::Acquire);
        let wanted = ((at + bytes) as u64).next_power_of_two().max(was * 2);
        // A page without room on the disk would kill the program with SIGBUS.
        if wanted as usize > journal::JOURNAL_MAX || allocate(path, wanted).is_err() {
            end.store(u64::MAX / 2, Ordering::Release);
            return None;
        }
        let _larger = allocated.fetch_max(wanted, Ordering::AcqRel);
    }
    let head = entry.head();
    let (first, rest) = head.split_at(size_of::<u32>());
    let place = journal + at;
    let (after, text) = ((place + first.len()) as *mut u8, (place + head.len()) as *mut u8);
    // SAFETY: these bytes of the mapping were taken for this entry alone, and have room on the disk.
    unsafe { core::ptr::copy_nonoverlapping(rest.as_ptr(), after, rest.len()) };
    // SAFETY: as above.
    unsafe { core::ptr::copy_nonoverlapping(entry.text.as_ptr(), text, entry.text.len()) };
    // SAFETY: as above; entries begin at multiples of 8.
    let length = unsafe { &*(place as *const AtomicU32) };
    length.store((bytes as u32).to_le(), Ordering::Release);
    Some(at)
}

/// Returns the entry of a mapped journal that begins at this offset, if it was written to its end.
pub(crate) fn entry_at(journal: usize, at: usize) -> Option<Entry<'static>> {
    let end = journal_word(journal, journal::END_OFFSET).load(Ordering::Acquire) as usize;
    if at + journal::HEAD_BYTES > end || end > journal::JOURNAL_MAX {
        return None;
    }
    let length = slots(journal + at, 1).first()?.load(Ordering::Acquire);
    let length = u32::from_le(length) as usize;
    let is_whole = length >= journal::HEAD_BYTES && at + length <= end;
    is_whole.then(|| mapped(journal + at, length)).and_then(journal::entry)
}

/// Sees to it that a file has room on the disk up to here, see fallocate(2).
fn allocate(path: &[u8], bytes: u64) -> Result<()> {
    let file = open(&Text::of(path)?, kernel::O_RDWR, 0)?;
    let allocated = loop {
        match ask!(__NR_fallocate, file, 0, 0, bytes) {
            Err(Errno(errno::EINTR)) => {}
            other => break other.map(drop),
        }
    };
    close(file);
    allocated
}

/// Tells whether this is the first process of a mapped journal's action.
pub(crate) fn is_first(journal: usize) -> bool {
    let first = || (journal_word(journal, 8).load(Ordering::Relaxed) >> 32) as u32;
    journal != 0 && first() == pid()
}

/// Ends the mapped journal of this path, if this is its first process, and tells the keeper, who looks by itself where that fails.
pub(crate) fn end_journal(journal: usize, path: &[u8]) {
    if is_first(journal) {
        let state = slots(journal + journal::STATE_OFFSET, 1);
        state.iter().for_each(|state| state.store(journal::STATE_ENDED, Ordering::Release));
        let _is_told = Text::of(path).and_then(|path| ring(&path)).is_ok();
    }
}

/// Tells whether a file is what a mapped journal's action has as stdin (0), stdout (1) or stderr (2).
pub(crate) fn is_stream(journal: usize, stream: usize, device: u64, inode: u64) -> bool {
    let word =
        |at: usize| journal_word(journal, journal::STREAMS_OFFSET + at * 8).load(Ordering::Relaxed);
    journal != 0 && (device, inode) == (word(2 * stream), word(2 * stream + 1))
}

/// Returns the parent process, see getppid(2).
pub(crate) fn parent() -> u32 {
    ask!(__NR_getppid).unwrap_or(0) as u32
}

/// Returns the time of day, which no file system is ahead of, in nanoseconds since the epoch, see clock_gettime(2).
pub(crate) fn now_ns() -> i64 {
    let mut time = [0_i64; 2];
    let _asked = ask!(__NR_clock_gettime, kernel::CLOCK_REALTIME, time.as_mut_ptr());
    time[0].wrapping_mul(1_000_000_000).wrapping_add(time[1])
}

/// Returns the processor time of this process and of its children that have ended, in nanoseconds, see getrusage(2).
pub(crate) fn processor_time_ns() -> u64 {
    const SELF: usize = 0;
    const CHILDREN: usize = usize::MAX;
    let of = |who: usize| {
        // Two times, each in seconds and microseconds, and fourteen words that matter to nobody here.
        let mut usage = [0_u64; 18];
        let _asked = ask!(__NR_getrusage, who, usage.as_mut_ptr());
        (usage[0] + usage[2]) * 1_000_000_000 + (usage[1] + usage[3]) * 1_000
    };
    of(SELF) + of(CHILDREN)
}

/// Sleeps until a word is another one than was seen, somebody wakes the sleepers, a signal comes, or so much time has passed,
/// see futex(2).
pub(crate) fn sleep_on(word: &AtomicU32, seen: u32, nanoseconds: i64) {
    let time = [nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000];
    let _woken = ask!(__NR_futex, word.as_ptr(), kernel::FUTEX_WAIT, seen, time.as_ptr(), 0, 0);
}

/// Wakes all that sleep on a word.
pub(crate) fn wake(word: &AtomicU32) {
    let _woken = ask!(__NR_futex, word.as_ptr(), kernel::FUTEX_WAKE, i32::MAX, 0, 0, 0);
}

/// Tells whether somebody has locked a file, see flock(2).
pub(crate) fn is_locked(path: &Text) -> Result<bool> {
    let file = open(path, kernel::O_RDONLY, 0)?;
    let locked = ask!(__NR_flock, file, kernel::LOCK_EX | kernel::LOCK_NB);
    close(file);
    Ok(locked.is_err())
}

/// A mapped state file: its words and its slots.
pub(crate) struct MappedState {
    pub(crate) words: &'static [StateWord],
    pub(crate) slots: &'static [AtomicU32],
}

/// Maps a state file that others change meanwhile; `layout` says how many words there are, and where the slots begin
/// and how many there are, when it is told the header and the file's length.
pub(crate) fn map_state(
    path: &Text,
    header_bytes: usize,
    layout: impl FnOnce(&[u8], usize) -> Option<(usize, usize, usize)>,
) -> Result<MappedState> {
    let file = open(path, kernel::O_RDWR, 0)?;
    let mapped = stat_of(file).and_then(|stat| {
        let bytes = usize::try_from(stat.st_size).map_err(|_| Errno::IO)?;
        if bytes < header_bytes {
            return Err(Errno::IO);
        }
        Ok((map(file, bytes, true)?, bytes))
    });
    close(file);
    let (start, bytes) = mapped?;
    // SAFETY: the mapping is at least that long and never removed; nobody changes the header.
    let header = unsafe { core::slice::from_raw_parts(start as *const u8, header_bytes) };
    let (words, slots_at, slots) = layout(header, bytes).ok_or(Errno::IO)?;
    let words_end =
        words.checked_mul(size_of::<StateWord>()).and_then(|all| all.checked_add(header_bytes));
    let slots_end = slots.checked_mul(4).and_then(|all| all.checked_add(slots_at));
    if words_end.is_none_or(|end| end > slots_at) || slots_end.is_none_or(|end| end > bytes) {
        return Err(Errno::IO);
    }
    // SAFETY: the words lie inside the mapping, whose start and header are multiples of their alignment, and are
    // changed by atomic operations only.
    let words =
        unsafe { core::slice::from_raw_parts((start + header_bytes) as *const StateWord, words) };
    // SAFETY: as the words; `slots_at` is a multiple of 4.
    let slots =
        unsafe { core::slice::from_raw_parts((start + slots_at) as *const AtomicU32, slots) };
    Ok(MappedState { words, slots })
}

/// Puts a value and as many zeros behind it into memory of their own, for as long as the process lives.
pub(crate) fn keep<T>(value: T, places: usize) -> Result<(&'static T, &'static [AtomicUsize])> {
    let head = size_of::<T>().next_multiple_of(align_of::<AtomicUsize>());
    // Of nothing there is a page, too.
    let bytes = (head + places * size_of::<AtomicUsize>()).max(1);
    let protection = kernel::PROT_READ | kernel::PROT_WRITE;
    let flags = kernel::MAP_PRIVATE | kernel::MAP_ANONYMOUS;
    let start = ask!(__NR_mmap, 0, bytes, protection, flags, usize::MAX, 0)?;
    let place = start as *mut T;
    // SAFETY: the mapping is fresh, large enough and aligned to a page.
    unsafe { place.write(value) };
    // SAFETY: it was just written and is never removed.
    let value = unsafe { &*place };
    // SAFETY: they lie in the mapping, which is zeros there.
    let behind =
        unsafe { core::slice::from_raw_parts((start + head) as *const AtomicUsize, places) };
    Ok((value, behind))
}

/// The least that a page has, in bytes.
pub(crate) const PAGE_BYTES: usize = 4096;

/// Reserves a page for as long as the process lives, which a child of fork(2) finds full of zeros, see madvise(2).
pub(crate) fn reserve_wiped() -> Result<usize> {
    let page = reserve(PAGE_BYTES)?;
    match ask!(__NR_madvise, page, PAGE_BYTES, kernel::MADV_WIPEONFORK) {
        Ok(_) => Ok(page),
        Err(error) => {
            release(page, PAGE_BYTES);
            Err(error)
        }
    }
}

/// Gives memory back that [`reserve`] gave and nobody was told of.
pub(crate) fn release(start: usize, bytes: usize) {
    let _unmapped = ask!(__NR_munmap, start, bytes);
}

/// Reserves memory for as long as the process lives.
pub(crate) fn reserve(bytes: usize) -> Result<usize> {
    let protection = kernel::PROT_READ | kernel::PROT_WRITE;
    let flags = kernel::MAP_PRIVATE | kernel::MAP_ANONYMOUS | kernel::MAP_NORESERVE;
    ask!(__NR_mmap, 0, bytes, protection, flags, usize::MAX, 0)
}

/// Gives memory of [`keep`] back that nobody was told of.
pub(crate) fn drop_kept<T>(value: &'static T, places: usize) {
    let head = size_of::<T>().next_multiple_of(align_of::<AtomicUsize>());
    let bytes = (head + places * size_of::<AtomicUsize>()).max(1);
    let _unmapped = ask!(__NR_munmap, core::ptr::from_ref(value), bytes);
}

/// Returns what was kept, from its address.
pub(crate) fn kept<T>(address: usize) -> Option<&'static T> {
    // SAFETY: only addresses of values that `keep` returned are passed on, and they are never removed.
    (address != 0).then(|| unsafe { &*(address as *const T) })
}

/// Returns mapped bytes, from their address.
pub(crate) fn mapped(address: usize, bytes: usize) -> &'static [u8] {
    // SAFETY: only what `map_file` returned is passed on, what the loader has mapped of a library's file, or an entry of a journal that was
    // written to its end, which nobody changes.
    unsafe { core::slice::from_raw_parts(address as *const u8, bytes) }
}

/// Returns mapped slots of a state file, from their address.
#[inline(always)]
pub(crate) fn slots(address: usize, count: usize) -> &'static [AtomicU32] {
    // SAFETY: only what `map_state` returned is passed on.
    unsafe { core::slice::from_raw_parts(address as *const AtomicU32, count) }
}

/// Addresses below are nobody's, see vm.mmap_min_addr in proc(5).
const FIRST_ADDRESS: usize = 4096;
/// Addresses from here on are the kernel's.
const LAST_ADDRESS: usize = 1 << 47;

/// Tells whether a pointer of the program can't be one.
fn is_nowhere(address: usize) -> bool {
    !(FIRST_ADDRESS..LAST_ADDRESS).contains(&address)
}

/// Tells whether the program's memory can be read at an address. A page that could be once is not asked for again: it is
/// the program's affair to give it back while it passes it on.
#[inline(always)]
pub(crate) fn may_read(address: usize) -> bool {
    let page = address / PAGE_BYTES;
    HOT.page_read.load(Ordering::Relaxed) == page && page != 0 || is_readable(page)
}

#[inline(never)]
fn is_readable(page: usize) -> bool {
    if is_remembered(&HOT.readable, page) {
        HOT.page_read.store(page, Ordering::Relaxed);
        return true;
    }
    !is_nowhere(page.saturating_mul(PAGE_BYTES)) && was_readable(page)
}

/// Tells whether a page was looked at before.
#[inline(always)]
fn is_remembered(pages: &[AtomicUsize; PAGES], page: usize) -> bool {
    match pages.get(page % PAGES) {
        // Nothing is at page 0, with which all places begin.
        Some(place) => page != 0 && place.load(Ordering::Relaxed) == page,
        None => false,
    }
}

/// Tells whether memory of the program, less than a page, is known to take what is written to it.
#[inline(always)]
pub(crate) fn is_room_known(address: usize, bytes: usize) -> bool {
    let last = address.wrapping_add(bytes - 1);
    is_remembered(&HOT.writable, address / PAGE_BYTES)
        && (address / PAGE_BYTES == last / PAGE_BYTES
            || is_remembered(&HOT.writable, last / PAGE_BYTES))
}

/// Writes eight bytes where the program wants them, see [`is_room_known`]: each by itself, in no vector register.
#[inline(always)]
pub(crate) fn put_word(address: usize, word: u64) {
    // SAFETY: as `room`; volatile, so that it is not joined with its neighbors, and bytes, for it need not be aligned.
    unsafe { (address as *mut [u8; 8]).cast::<Unaligned>().write_volatile(Unaligned(word)) };
}

/// A word anywhere.
#[repr(C, packed)]
struct Unaligned(u64);

/// Returns text of the program that was looked through from its start to its end.
#[inline(always)]
pub(crate) fn text_between(start: usize, end: usize) -> &'static [u8] {
    // SAFETY: as `string`, whose bytes were all read.
    unsafe { core::slice::from_raw_parts(start as *const u8, end - start) }
}

#[cold]
#[inline(never)]
fn was_readable(page: usize) -> bool {
    // It reads a set of signals and then finds that there is no such way to change one, see sigprocmask(2).
    let asked = ask!(__NR_rt_sigprocmask, usize::MAX, page * PAGE_BYTES, 0, size_of::<u64>());
    remember_page(&HOT.readable, page, asked == Err(Errno::INVAL))
}

/// As [`may_read`], of memory that is about to be overwritten.
fn may_write(address: usize) -> bool {
    let page = address / PAGE_BYTES;
    if is_remembered(&HOT.writable, page) {
        return true;
    }
    // It writes the set of signals there, where something else will be in a moment.
    let room = address & !(size_of::<u64>() - 1);
    let is_within = room == address;
    let asked = match is_within {
        true => ask!(__NR_rt_sigprocmask, 0, 0, room, size_of::<u64>()),
        false => ask!(__NR_rt_sigprocmask, usize::MAX, page * PAGE_BYTES, 0, size_of::<u64>()),
    };
    let is_good = match is_within {
        true => asked.is_ok(),
        false => asked == Err(Errno::INVAL),
    };
    !is_nowhere(address) && remember_page(&HOT.writable, page, is_good)
}

fn remember_page(pages: &[AtomicUsize; PAGES], page: usize, is_good: bool) -> bool {
    if is_good && let Some(place) = pages.get(page % PAGES) {
        place.store(page, Ordering::Relaxed);
    }
    is_good
}

/// Returns a byte of the program's memory.
#[inline(always)]
pub(crate) fn byte_at(address: usize) -> u8 {
    // SAFETY: the program passed the address to a system call that reads a string there.
    unsafe { *(address as *const u8) }
}

/// Returns eight bytes of the program's memory, which lie in one page that may be read, or are aligned.
#[inline(always)]
pub(crate) fn word_at(address: usize) -> u64 {
    // SAFETY: as `byte_at`; what is behind the end of a string is in the same page.
    unsafe { (address as *const u64).read_unaligned() }
}

/// Returns how many bytes come before the next NUL, if these are fewer than `most`.
fn length_of(address: usize, most: usize) -> Result<usize> {
    const LOW: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    if !may_read(address) {
        return Err(Errno::FAULT);
    }
    // The word that the string begins in, as if no byte before it was a NUL.
    let before = address % size_of::<u64>();
    let mut at = address - before;
    let mut word = word_at(at) | ((1 << (8 * before)) - 1);
    loop {
        // The lowest bit that is set is right, whatever is above it.
        let ends = word.wrapping_sub(LOW) & !word & HIGH;
        if ends != 0 {
            let length = at + (ends.trailing_zeros() / 8) as usize - address;
            return if length < most { Ok(length) } else { Err(Errno::NAMETOOLONG) };
        }
        at += size_of::<u64>();
        if at - address >= most {
            return Err(Errno::NAMETOOLONG);
        }
        if at.is_multiple_of(PAGE_BYTES) && !may_read(at) {
            return Err(Errno::FAULT);
        }
        word = word_at(at);
    }
}

/// Returns a string that the program passed to a system call.
pub(crate) fn string(address: usize) -> Result<&'static [u8]> {
    let length = length_of(address, kernel::PATH_MAX as usize)?;
    // SAFETY: as `byte_at`. It is read while the call is made, when the program may not change it either.
    Ok(unsafe { core::slice::from_raw_parts(address as *const u8, length) })
}

/// As [`string`], with its NUL.
pub(crate) fn name(address: usize) -> Result<&'static CStr> {
    let length = string(address)?.len();
    // SAFETY: as `string`, which has found the NUL there.
    let bytes = unsafe { core::slice::from_raw_parts(address as *const u8, length + 1) };
    CStr::from_bytes_with_nul(bytes).map_err(|_| Errno::INVAL)
}

/// As [`string`], for what may be longer than a path.
pub(crate) fn long_string(address: usize) -> Result<&'static [u8]> {
    let length = length_of(address, usize::MAX)?;
    // SAFETY: as `string`.
    Ok(unsafe { core::slice::from_raw_parts(address as *const u8, length) })
}

/// Returns memory of the program that a system call is to fill, or reads from.
pub(crate) fn room(address: usize, bytes: usize) -> Result<&'static mut [u8]> {
    if bytes > 0 && !(may_read(address) && may_read(address.wrapping_add(bytes - 1))) {
        return Err(Errno::FAULT);
    }
    // SAFETY: the program passed it for that, and waits for the call to return.
    Ok(unsafe { core::slice::from_raw_parts_mut(address as *mut u8, bytes) })
}

/// Writes a value where the program wants it.
pub(crate) fn give<T>(address: usize, value: T) -> Result<()> {
    if !(may_write(address) && may_read(address.wrapping_add(size_of::<T>() - 1))) {
        return Err(Errno::FAULT);
    }
    // SAFETY: as `room`; the program need not have aligned it.
    unsafe { (address as *mut T).write_unaligned(value) };
    Ok(())
}

/// Returns a value that the program passed, or that the kernel gave to it.
#[inline(always)]
pub(crate) fn value<T: Copy>(address: usize) -> Result<T> {
    if !(may_read(address) && may_read(address.wrapping_add(size_of::<T>() - 1))) {
        return Err(Errno::FAULT);
    }
    // SAFETY: as `room`.
    Ok(unsafe { (address as *const T).read_unaligned() })
}

/// Bytes with a NUL behind them, in room that does not grow. What was not put there is never read, and need not be anything.
pub(crate) struct Room<const BYTES: usize> {
    /// Those before `length` are put there, and the NUL behind them.
    bytes: [MaybeUninit<u8>; BYTES],
    length: usize,
}

impl<const BYTES: usize> Room<BYTES> {
    #[inline]
    pub(crate) const fn new() -> Self {
        let mut bytes = [const { MaybeUninit::uninit() }; BYTES];
        bytes[0] = MaybeUninit::new(0);
        Self { bytes, length: 0 }
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        let known = self.bytes.get(..self.length).unwrap_or_default();
        // SAFETY: `add` and `fill` put something there, as far as `length`, and `cut` only shortens it.
        unsafe { known.assume_init_ref() }
    }

    pub(crate) fn pointer(&self) -> *const u8 {
        self.bytes.as_ptr().cast()
    }

    /// Adds bytes at the end; `false` when they do not fit.
    pub(crate) fn add(&mut self, bytes: &[u8]) -> bool {
        let end = self.length + bytes.len();
        match self.bytes.get_mut(self.length..=end) {
            Some([room @ .., last]) => {
                room.write_copy_of_slice(bytes);
                *last = MaybeUninit::new(0);
                self.length = end;
                true
            }
            _ => false,
        }
    }

    /// Keeps the first bytes only.
    pub(crate) fn cut(&mut self, length: usize) {
        self.length = self.length.min(length);
        self.bytes[self.length] = MaybeUninit::new(0);
    }

    /// Holds what a system call puts into the room that it is given, and returns the length of.
    pub(crate) fn fill(
        &mut self,
        fill: impl FnOnce(&mut [MaybeUninit<u8>]) -> Result<usize>,
    ) -> Result<()> {
        let length = fill(&mut self.bytes[..BYTES - 1])?;
        self.length = length.min(BYTES - 1);
        self.bytes[self.length] = MaybeUninit::new(0);
        Ok(())
    }
}
