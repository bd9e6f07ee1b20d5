//! What needs `unsafe` in the launcher: descriptors for a child, a thread's seccomp filter and the
//! answers to its notifications, signals, and libdeflate.

#![allow(
    unsafe_code,
    reason = "pre_exec, seccomp(2), its ioctls, sigaction(2) and libdeflate_gzip_decompress_ex have no safe form"
)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU64, Ordering};

/// Unpacks the gzip member that `packed` begins with, if it has exactly as many bytes as `out` and is undamaged; returns
/// how long the member is.
pub(crate) fn gunzip(packed: &[u8], out: &mut [u8]) -> Option<usize> {
    let (mut read, mut written) = (0, 0);
    // SAFETY: libdeflate.h: it takes nothing, and returns a decompressor or NULL.
    let decompressor = unsafe { libdeflate_sys::libdeflate_alloc_decompressor() };
    if decompressor.is_null() {
        return None;
    }
    // SAFETY: libdeflate.h: it reads at most `in_nbytes` from `in` and writes at most `out_nbytes_avail` to `out`, and both
    // slices are as long as is said; the two counts outlive the call.
    let result = unsafe {
        libdeflate_sys::libdeflate_gzip_decompress_ex(
            decompressor,
            packed.as_ptr().cast(),
            packed.len(),
            out.as_mut_ptr().cast(),
            out.len(),
            &raw mut read,
            &raw mut written,
        )
    };
    // SAFETY: it was allocated above and is not used again.
    unsafe { libdeflate_sys::libdeflate_free_decompressor(decompressor) };
    let is_done = result == libdeflate_sys::libdeflate_result_LIBDEFLATE_SUCCESS;
    (is_done && written == out.len()).then_some(read)
}

/// A system call that waits for an answer: `struct seccomp_notif` of seccomp_unotify(2).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Notification {
    /// Names the call until it is answered.
    pub(crate) id: u64,
    /// The thread that calls.
    pub(crate) pid: u32,
    flags: u32,
    /// The call's number.
    pub(crate) number: i32,
    /// The architecture whose numbers these are, as `AUDIT_ARCH_*`.
    pub(crate) arch: u32,
    instruction_pointer: u64,
    /// The call's arguments.
    pub(crate) args: [u64; 6],
}

/// `struct seccomp_notif_resp` of seccomp_unotify(2).
#[repr(C)]
struct Response {
    id: u64,
    val: i64,
    error: i32,
    flags: u32,
}

const SECCOMP_SET_MODE_FILTER: libc::c_long = 1;
const SECCOMP_FILTER_FLAG_NEW_LISTENER: libc::c_long = 1 << 3;
const SECCOMP_USER_NOTIF_FLAG_CONTINUE: u32 = 1;
// _IOWR('!', 0, struct seccomp_notif) and _IOWR('!', 1, struct seccomp_notif_resp).
const SECCOMP_IOCTL_NOTIF_RECV: libc::Ioctl = 0xc050_2100_u32 as libc::Ioctl;
const SECCOMP_IOCTL_NOTIF_SEND: libc::Ioctl = 0xc018_2101_u32 as libc::Ioctl;

/// Makes `command` find each descriptor under the number beside it. The descriptors are above all of
/// these numbers, and stay open in this process until the command was spawned.
pub(crate) fn pass_descriptors(command: &mut Command, descriptors: [(RawFd, RawFd); 2]) {
    let pass = move || {
        for (from, to) in descriptors {
            // SAFETY: dup2(2) takes two numbers; it is async-signal-safe (signal-safety(7)).
            if unsafe { libc::dup2(from, to) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: pre_exec asks for a closure that is sound between fork and exec: it calls dup2 only.
    unsafe { command.pre_exec(pass) };
}

/// What the child of [`try_listener`] reports when it got a listener: no call that it makes fails so.
const GOT_LISTENER: i32 = libc::ECANCELED;

/// Lets a child try whether [`new_listener`] works: a filter that is in force may kill who asks.
///
/// # Errors
/// As [`new_listener`], or when the child was killed.
pub(crate) fn try_listener(filter: Vec<libc::sock_filter>) -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    // Nothing is executed: either way `attempt` ends with an error.
    let mut command = Command::new("/");
    let attempt = move || {
        // A kill by a filter leaves a core otherwise.
        let limit = Rlimit { current: Some(0), maximum: getrlimit(Resource::Core).maximum };
        setrlimit(Resource::Core, limit)?;
        new_listener(&filter)?;
        Err(io::Error::from_raw_os_error(GOT_LISTENER))
    };
    // SAFETY: pre_exec asks for a closure that is sound between fork and exec: it makes system calls
    // only, allocates nothing, and the memory it reads was made before the fork.
    unsafe { command.pre_exec(attempt) };
    match command.spawn() {
        Err(error) if error.raw_os_error() == Some(GOT_LISTENER) => Ok(()),
        Err(error) => Err(error),
        // Killed before it could report anything.
        Ok(mut child) => {
            child.wait()?;
            Err(io::ErrorKind::PermissionDenied.into())
        }
    }
}

/// Tells whether the kernel traps system calls for who asks, see PR_SET_SYSCALL_USER_DISPATCH in prctl(2): since Linux 5.11.
pub(crate) fn can_trap_calls() -> bool {
    const SET_SYSCALL_USER_DISPATCH: libc::c_int = 59;
    // SAFETY: prctl(2) with PR_SET_SYSCALL_USER_DISPATCH takes numbers only; these leave off what is off.
    unsafe { libc::prctl(SET_SYSCALL_USER_DISPATCH, 0, 0, 0, 0) == 0 }
}

/// Installs the filter in this thread, and in what it begins from here on; returns its listener,
/// which is close-on-exec (seccomp(2)).
///
/// # Errors
/// As seccomp(2) and prctl(2).
pub(crate) fn new_listener(filter: &[libc::sock_filter]) -> io::Result<OwnedFd> {
    let program = libc::sock_fprog {
        // A few dozen instructions.
        len: filter.len() as u16,
        filter: filter.as_ptr().cast_mut(),
    };
    let install = || {
        // SAFETY: seccomp(2) reads `program`, which points to `len` instructions that outlive the call.
        unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                SECCOMP_SET_MODE_FILTER,
                SECCOMP_FILTER_FLAG_NEW_LISTENER,
                &raw const program,
            )
        }
    };
    let mut listener = install();
    if listener < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EACCES) {
        // SAFETY: prctl(2) with PR_SET_NO_NEW_PRIVS takes numbers only.
        let allowed = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        if allowed == 0 {
            listener = install();
        }
    }
    if listener < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call above returned this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(listener as RawFd) })
}

/// Waits for the next notification; `None` when no process has the filter any more.
///
/// # Errors
/// As poll(2) and ioctl(2).
pub(crate) fn next_notification(listener: &OwnedFd) -> io::Result<Option<Notification>> {
    loop {
        let mut waiting =
            libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: poll(2) reads and writes one pollfd.
        let ready = unsafe { libc::poll(&raw mut waiting, 1, -1) };
        if ready < 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        if waiting.revents & libc::POLLIN == 0 {
            return Ok(None);
        }
        let mut notification = Notification::default();
        let target = &raw mut notification;
        // SAFETY: SECCOMP_IOCTL_NOTIF_RECV writes one zeroed seccomp_notif, whose layout
        // `Notification` has.
        let received =
            unsafe { libc::ioctl(listener.as_raw_fd(), SECCOMP_IOCTL_NOTIF_RECV, target) };
        if received == 0 {
            return Ok(Some(notification));
        }
        let error = io::Error::last_os_error();
        // ENOENT: the caller was killed between poll and ioctl.
        if !matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) {
            return Err(error);
        }
    }
}

/// Lets a call go on as if there were no filter.
///
/// # Errors
/// As ioctl(2); `ENOENT` when the caller is gone.
pub(crate) fn let_continue(listener: &OwnedFd, id: u64) -> io::Result<()> {
    let mut response = Response { id, val: 0, error: 0, flags: SECCOMP_USER_NOTIF_FLAG_CONTINUE };
    // SAFETY: SECCOMP_IOCTL_NOTIF_SEND reads one seccomp_notif_resp, whose layout `Response` has.
    let sent =
        unsafe { libc::ioctl(listener.as_raw_fd(), SECCOMP_IOCTL_NOTIF_SEND, &raw mut response) };
    if sent == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The signals that are handed on to the child.
const RELAYED: [i32; 11] = [
    libc::SIGINT,
    libc::SIGTERM,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGWINCH,
    libc::SIGALRM,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGIO,
];

/// The child that signals are handed on to; 0 while there is none.
static CHILD: AtomicI32 = AtomicI32::new(0);
/// Signals to be handed on, one bit each; those stay that came before the child was known.
static PENDING: AtomicU64 = AtomicU64::new(0);
/// Who sent each of them.
static SENDERS: [AtomicI32; 32] = [const { AtomicI32::new(0) }; 32];
/// The terminal's hangup reaches the session's leader alone: then it has to be handed on.
static IS_LEADER: AtomicBool = AtomicBool::new(false);
/// Whether SIGPIPE was ignored when this process began, before Rust's runtime ignored it.
static IGNORED_SIGPIPE: AtomicBool = AtomicBool::new(false);

/// Which of the standard streams were closed when this process began, one bit each, before Rust's
/// runtime opened `/dev/null` in their place.
static CLOSED_STREAMS: AtomicU8 = AtomicU8::new(0);

/// Runs before `main` and before Rust's runtime, which ignores SIGPIPE and opens what is closed.
#[cfg_attr(target_os = "linux", unsafe(link_section = ".init_array"))]
#[cfg_attr(target_os = "macos", unsafe(link_section = "__DATA,__mod_init_func"))]
#[used]
static LOOK_BEFORE_MAIN: extern "C" fn() = {
    extern "C" fn look() {
        let ignored = disposition(libc::SIGPIPE).is_ok_and(|old| old.sa_sigaction == libc::SIG_IGN);
        IGNORED_SIGPIPE.store(ignored, Ordering::Relaxed);
        for stream in STREAMS {
            // SAFETY: fcntl(2) with F_GETFD takes numbers only; it fails with EBADF alone.
            if unsafe { libc::fcntl(stream, libc::F_GETFD) } < 0 {
                CLOSED_STREAMS.fetch_or(1 << stream, Ordering::Relaxed);
            }
        }
    }
    look
};

/// The standard streams.
const STREAMS: [RawFd; 3] = [libc::STDIN_FILENO, libc::STDOUT_FILENO, libc::STDERR_FILENO];

/// Returns what a signal does.
fn disposition(signal: i32) -> io::Result<libc::sigaction> {
    set_disposition(signal, std::ptr::null())
}

/// Sets what a signal does, unless `action` is null; returns what it did.
fn set_disposition(signal: i32, action: *const libc::sigaction) -> io::Result<libc::sigaction> {
    let mut old = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: sigaction(2): "If act is non-NULL, the new action for signal signum is installed from
    // act. If oldact is non-NULL, the previous action is saved in oldact." Callers pass null or a
    // whole action.
    let result = unsafe { libc::sigaction(signal, action, old.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all-zero bytes are a `sigaction` (the default action), and the call succeeded.
    Ok(unsafe { old.assume_init() })
}

fn action(handler: libc::sighandler_t, flags: i32) -> libc::sigaction {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: all-zero bytes are a `sigaction`: the default action and an empty mask.
    let fresh = unsafe { action.assume_init_mut() };
    fresh.sa_sigaction = handler;
    fresh.sa_flags = flags;
    *fresh
}

/// Hands a signal on. Async-signal-safe: atomics and kill(2) only, and errno is kept.
extern "C" fn relay(signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: sigaction(2): with SA_SIGINFO the second argument is "a pointer to a siginfo_t".
    let info = unsafe { &*info };
    // Above 0 the kernel sent it: the terminal's signals reach the child as well, by its group.
    let is_from_kernel = info.si_code > 0;
    // SAFETY: sigaction(2): signals that a process sent have si_pid; others have been left alone.
    let sender = if is_from_kernel { 0 } else { unsafe { info.si_pid() } };
    let is_lone_hangup = signal == libc::SIGHUP && IS_LEADER.load(Ordering::SeqCst);
    if is_from_kernel && !is_lone_hangup {
        return;
    }
    if let Some(slot) = SENDERS.get(signal as usize) {
        slot.store(sender, Ordering::SeqCst);
    }
    PENDING.fetch_or(1 << signal, Ordering::SeqCst);
    let errno = errno_place();
    // SAFETY: the C library's own place for this thread's errno.
    let kept = unsafe { *errno };
    hand_on_pending();
    // SAFETY: as above.
    unsafe { *errno = kept };
}

fn errno_place() -> *mut i32 {
    #[cfg(target_os = "linux")]
    // SAFETY: takes nothing and returns this thread's errno, which lives as long as the thread.
    let place = unsafe { libc::__errno_location() };
    #[cfg(not(target_os = "linux"))]
    // SAFETY: as above.
    let place = unsafe { libc::__error() };
    place
}

/// Sends the child what is pending, once there is a child.
fn hand_on_pending() {
    let child = CHILD.load(Ordering::SeqCst);
    if child <= 0 {
        return;
    }
    let pending = PENDING.swap(0, Ordering::SeqCst);
    for signal in RELAYED.into_iter().filter(|signal| pending & (1 << signal) != 0) {
        let sender = SENDERS.get(signal as usize).map_or(0, |slot| slot.load(Ordering::SeqCst));
        // The child signalled its whole group, itself among them.
        if sender == child {
            continue;
        }
        // SAFETY: kill(2) takes two numbers and is async-signal-safe. The child was not waited for,
        // so nobody else has its number.
        unsafe { libc::kill(child, signal) };
    }
}

/// Hands signals on to a child while it lives; one at a time.
#[derive(Debug)]
pub(crate) struct Relay {
    old: Vec<(i32, OldAction)>,
}

/// What a signal did before.
struct OldAction(libc::sigaction);

impl std::fmt::Debug for OldAction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OldAction")
    }
}

impl Relay {
    /// Starts to catch signals. Those that are ignored stay so, for the child too.
    ///
    /// # Errors
    /// As sigaction(2).
    pub(crate) fn start() -> io::Result<Self> {
        CHILD.store(0, Ordering::SeqCst);
        PENDING.store(0, Ordering::SeqCst);
        // SAFETY: getsid(2) takes and gives numbers only. It gives 0 for a session that was begun outside of this PID
        // namespace, for which rustix's type has no value.
        let session = unsafe { libc::getsid(0) };
        let leader = session == rustix::process::getpid().as_raw_pid();
        IS_LEADER.store(leader, Ordering::SeqCst);
        let mut relays = Self { old: Vec::new() };
        let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = relay;
        let catching = action(handler as libc::sighandler_t, libc::SA_SIGINFO | libc::SA_RESTART);
        for signal in RELAYED {
            if disposition(signal)?.sa_sigaction == libc::SIG_IGN {
                continue;
            }
            let old = set_disposition(signal, &raw const catching)?;
            relays.old.push((signal, OldAction(old)));
        }
        Ok(relays)
    }

    /// Hands on to this child from here on, beginning with what came before.
    pub(crate) fn hand_on_to(&self, child: i32) {
        CHILD.store(child, Ordering::SeqCst);
        hand_on_pending();
    }

    /// Waits until the child has ended, and leaves it for wait(2): until then its number is its own.
    ///
    /// # Errors
    /// As waitid(2).
    pub(crate) fn wait_until_ended(&self, child: i32) -> io::Result<()> {
        use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let id = Pid::from_raw(child).ok_or(io::ErrorKind::InvalidInput)?;
        loop {
            match waitid(WaitId::Pid(id), options) {
                Err(rustix::io::Errno::INTR) => {}
                other => {
                    CHILD.store(0, Ordering::SeqCst);
                    return other.map(drop).map_err(io::Error::from);
                }
            }
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        CHILD.store(0, Ordering::SeqCst);
        for (signal, old) in &self.old {
            // It was set before, so it can be set again.
            let _is_back = set_disposition(*signal, &raw const old.0).is_ok();
        }
    }
}

/// Gives `command` what this process was started with and Rust's runtime has changed: the disposition
/// of SIGPIPE, and standard streams that are closed.
pub(crate) fn restore_start(command: &mut Command) {
    let is_ignored = IGNORED_SIGPIPE.load(Ordering::Relaxed);
    let closed = CLOSED_STREAMS.load(Ordering::Relaxed);
    if !is_ignored && closed == 0 {
        // The standard library restores SIGPIPE's default itself.
        return;
    }
    let restore = move || {
        for stream in STREAMS.into_iter().filter(|stream| closed & (1 << stream) != 0) {
            // SAFETY: close(2) takes a number and is async-signal-safe (signal-safety(7)). It is
            // `/dev/null` of Rust's runtime, which the program that follows never sees.
            unsafe { libc::close(stream) };
        }
        if !is_ignored {
            return Ok(());
        }
        let ignoring = action(libc::SIG_IGN, 0);
        set_disposition(libc::SIGPIPE, &raw const ignoring).map(drop)
    };
    // SAFETY: pre_exec asks for a closure that is sound between fork and exec: close(2) and
    // sigaction(2) are async-signal-safe (signal-safety(7)), and nothing is allocated.
    unsafe { command.pre_exec(restore) };
}

/// Takes over a descriptor that this process was started with, and keeps it from what it starts.
///
/// # Errors
/// As fcntl(2): when nothing is open under this number.
pub(crate) fn take_descriptor(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl(2) with F_SETFD takes numbers only.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open; who started this process passed it on for this alone, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Moves this process, which has one thread, into namespaces of its own.
///
/// # Errors
/// As unshare(2).
#[cfg(target_os = "linux")]
pub(crate) fn unshare(flags: rustix::thread::UnshareFlags) -> rustix::io::Result<()> {
    // SAFETY: rustix asks that no other thread relies on shared descriptors; they stay shared.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// Makes this process die with the one that started it.
///
/// # Errors
/// As prctl(2).
#[cfg(target_os = "linux")]
pub(crate) fn die_with_parent() -> rustix::io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
}

/// Whether a page of a mapped file was found to be gone.
static HAS_LOST_PAGES: AtomicBool = AtomicBool::new(false);
/// The size of a page, in bytes.
static PAGE_BYTES: AtomicU64 = AtomicU64::new(0);

/// Lets this process live on when somebody cuts a file that it has mapped: what is gone reads as zeros from
/// then on, and [`has_lost_pages`] says so.
///
/// # Errors
/// As sigaction(2).
pub(crate) fn survive_lost_pages() -> io::Result<()> {
    PAGE_BYTES.store(rustix::param::page_size() as u64, Ordering::SeqCst);
    let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = replace_page;
    let catching = action(handler as libc::sighandler_t, libc::SA_SIGINFO);
    set_disposition(libc::SIGBUS, &raw const catching).map(drop)
}

/// Notes that mapped bytes are gone.
pub(crate) fn lose_pages() {
    HAS_LOST_PAGES.store(true, Ordering::SeqCst);
}

/// Tells whether mapped bytes are gone, so that nothing that was read can be believed.
pub(crate) fn has_lost_pages() -> bool {
    HAS_LOST_PAGES.load(Ordering::Relaxed)
}

/// Puts zeros where bytes are gone. Async-signal-safe: atomics, sigaction(2) and mmap(2).
extern "C" fn replace_page(signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: sigaction(2): with SA_SIGINFO the second argument is "a pointer to a siginfo_t".
    let info = unsafe { &*info };
    // SAFETY: sigaction(2): "SIGBUS fills in si_addr with the address of the fault".
    let (code, address) = (info.si_code, unsafe { info.si_addr() });
    let page = PAGE_BYTES.load(Ordering::SeqCst) as usize;
    let start = address.map_addr(|address| address & !page.wrapping_sub(1));
    let flags = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // 2 is BUS_ADRERR: "nonexistent physical address", which is how a page beyond a file's end is reported.
    if code == 2 {
        // Before there are zeros: no other thread may take them for what was there.
        HAS_LOST_PAGES.store(true, Ordering::SeqCst);
    }
    let is_replaced = code == 2 && {
        // SAFETY: mmap(2): with MAP_FIXED the page is replaced, which belongs to a mapping of a file: only these
        // fault so. Who reads or writes there finds bytes as before.
        let mapped = unsafe { libc::mmap(start, page, protection, flags, -1, 0) };
        mapped != libc::MAP_FAILED
    };
    if !is_replaced {
        let default = action(libc::SIG_DFL, 0);
        // The instruction runs again and ends the process.
        let _is_default = set_disposition(signal, &raw const default).is_ok();
    }
}

/// Makes `command` die with this process, should that be killed: who kills rift means the command.
///
/// The thread that starts it has to be the one that waits for it, see PR_SET_PDEATHSIG(2const).
#[cfg(target_os = "linux")]
pub(crate) fn die_together(command: &mut Command) {
    let us = rustix::process::getpid();
    let tie = move || {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        // Killed before the call: nobody would tell.
        if rustix::process::getppid() == Some(us) {
            Ok(())
        } else {
            Err(io::ErrorKind::Other.into())
        }
    };
    // SAFETY: pre_exec asks for a closure that is sound between fork and exec: it makes two system
    // calls and allocates nothing.
    unsafe { command.pre_exec(tie) };
}

/// Elsewhere the command outlives rift.
#[cfg(not(target_os = "linux"))]
pub(crate) fn die_together(_command: &mut Command) {}

/// Dies of a signal, without leaving a core of this process; returns when that does not kill.
pub(crate) fn die_of(signal: i32) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = Rlimit { current: Some(0), maximum: getrlimit(Resource::Core).maximum };
    // A second core is a nuisance, nothing more.
    let _has_no_core = setrlimit(Resource::Core, limit).is_ok();
    let default = action(libc::SIG_DFL, 0);
    // SIGKILL can't be set, and need not be.
    let _is_default = set_disposition(signal, &raw const default).is_ok();
    // SAFETY: raise(3) takes a number.
    unsafe { libc::raise(signal) };
}

/// Tells whether this process may execute a file, see access(2). It asks the C library: what a shim shows is seen only so.
pub(crate) fn may_execute(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: access(2) reads a path that ends with a NUL, and lives until it returns.
    unsafe { libc::access(path.as_ptr(), libc::X_OK) == 0 }
}
