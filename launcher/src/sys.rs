//! What needs `unsafe` in the launcher: descriptors for a child, and a seccomp filter in a child and
//! the answers to its notifications.

#![allow(unsafe_code, reason = "pre_exec, seccomp(2) and its ioctls have no safe form")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

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

/// Makes `command` install `filter` before it executes, tell the descriptor of its listener through
/// `report` and wait until something arrives on `wait`.
pub(crate) fn install_filter(
    command: &mut Command,
    filter: Vec<libc::sock_filter>,
    report: RawFd,
    wait: RawFd,
) {
    let install = move || {
        let listener = new_listener(&filter)?;
        let mut message = [0; 8];
        // getpid(2) never fails.
        message[..4].copy_from_slice(&std::process::id().to_ne_bytes());
        message[4..].copy_from_slice(&listener.to_ne_bytes());
        // SAFETY: write(2) reads 8 bytes of `message`; it is async-signal-safe (signal-safety(7)).
        let written = unsafe { libc::write(report, message.as_ptr().cast(), message.len()) };
        let mut answer = 0_u8;
        // SAFETY: read(2) writes at most one byte to `answer`; it is async-signal-safe.
        let read = unsafe { libc::read(wait, (&raw mut answer).cast(), 1) };
        if written == 8 && read == 1 { Ok(()) } else { Err(io::Error::from(io::ErrorKind::Other)) }
    };
    // SAFETY: pre_exec asks for a closure that is sound between fork and exec: it makes system calls
    // only, allocates nothing, and the memory it reads was made before the fork.
    unsafe { command.pre_exec(install) };
}

/// Installs the filter in this process and returns its listener.
fn new_listener(filter: &[libc::sock_filter]) -> io::Result<RawFd> {
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
    if listener < 0 { Err(io::Error::last_os_error()) } else { Ok(listener as RawFd) }
}

/// Takes a copy of descriptor `number` of process `pid`.
///
/// # Errors
/// As pidfd_open(2) and pidfd_getfd(2).
pub(crate) fn take_descriptor(pid: u32, number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open(2) takes a number and flags.
    let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if pidfd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call above returned this descriptor, and nobody else has it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd as RawFd) };
    // SAFETY: pidfd_getfd(2) takes an open descriptor and numbers.
    let taken = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) };
    if taken < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call above returned this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(taken as RawFd) })
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
