//! The one system call of the tests that neither the standard library nor rustix offers.
//!
//! Invariant: the only `unsafe` of this package is here. Called by the benchmarks.

#![allow(unsafe_code, reason = "wait4(2) has no safe form in our dependencies")]

use std::io;
use std::mem::MaybeUninit;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

/// What a finished process and the children that it waited for have used (getrusage(2)).
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Processor time in the program.
    pub user: Duration,
    /// Processor time in the kernel.
    pub system: Duration,
    /// The largest resident set of any one of the processes.
    pub rss_bytes_max: u64,
    /// Bytes of pages made dirty on block devices (512-byte units of `ru_oublock`).
    pub written_bytes: u64,
}

/// Waits for a child of this process and returns how it ended and what it used.
///
/// # Errors
/// As wait4(2); `EINTR` is tried again.
pub fn wait4(pid: u32) -> io::Result<(ExitStatus, Usage)> {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    loop {
        // SAFETY: wait4(2): "if wstatus is not NULL, wait4() stores status information in the int to which it points";
        // "if rusage is not NULL, the struct rusage to which it points will be filled". Both live here.
        let waited =
            unsafe { libc::wait4(pid.cast_signed(), &raw mut status, 0, usage.as_mut_ptr()) };
        if waited >= 0 {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    // SAFETY: `zeroed` made it a valid value of a struct of integers, and the call above has filled it.
    let usage = unsafe { usage.assume_init() };
    let time = |t: libc::timeval| {
        Duration::new(t.tv_sec.unsigned_abs(), (t.tv_usec.unsigned_abs() as u32) * 1000)
    };
    let used = Usage {
        user: time(usage.ru_utime),
        system: time(usage.ru_stime),
        rss_bytes_max: usage.ru_maxrss.unsigned_abs() * 1024,
        written_bytes: usage.ru_oublock.unsigned_abs() * 512,
    };
    Ok((ExitStatus::from_raw(status), used))
}
