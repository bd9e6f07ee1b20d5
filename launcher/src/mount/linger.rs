//! Waits a moment for the next request without sleeping.
//!
//! Requests come one after the other: who removes a tree asks again some microseconds after each answer. To be woken
//! for each, on a processor that went to sleep meanwhile, takes longer than to answer.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

/// How long a thread looks for the next request before it sleeps.
const PATIENCE: Duration = Duration::from_micros(100);

/// Lets one thread at a time look out.
#[derive(Debug)]
pub(super) struct Linger {
    /// The kernel's end of the mount; `None` where there is but one processor, which the asker needs.
    device: Option<OwnedFd>,
    is_taken: AtomicBool,
}

impl Linger {
    /// Looks out on a descriptor of its own, if there is a second processor to do it on.
    pub(super) fn new(device: OwnedFd) -> Self {
        // Counts what a control group may use, too.
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        Self { device: (count > 1).then_some(device), is_taken: AtomicBool::new(false) }
    }

    /// Returns when there is a request, or after a while.
    pub(super) fn wait(&self) {
        let Some(device) = &self.device else { return };
        if self.is_taken.swap(true, Ordering::Acquire) {
            return;
        }
        let start = Instant::now();
        let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        while start.elapsed() < PATIENCE {
            let mut waiting = [PollFd::new(device, PollFlags::IN)];
            // An error is for who reads.
            if poll(&mut waiting, Some(&now)) != Ok(0) {
                break;
            }
            std::hint::spin_loop();
        }
        self.is_taken.store(false, Ordering::Release);
    }
}
