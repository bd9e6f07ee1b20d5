//! Waits for journals that end: whoever ends one sets its times, see `end_journal` of the shim, and inotify(7) tells of that.
//!
//! Looking every few milliseconds instead took a hundredth of a compiler's time from it. Where nobody is told (a user has 128 such queues on
//! most machines), that is what is done all the same; and now and then in any case, so that nothing depends on being told.

use std::fs::{self, FileTimes};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

/// How often is looked where nobody tells.
const PAUSE: Duration = Duration::from_millis(5);
/// How often is looked where somebody does.
const ROUND: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Tells of a folder of journals.
#[derive(Debug)]
pub(super) struct Bell(Option<OwnedFd>);

impl Bell {
    /// Begins to listen: of what ends from now on is told.
    pub(super) fn of(folder: &Path) -> Self {
        let begin = || {
            let queue = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            inotify::add_watch(&queue, folder, WatchFlags::ATTRIB)?;
            rustix::io::Result::Ok(queue)
        };
        Self(begin().ok())
    }

    /// Tells those who listen in the folder of this file.
    ///
    /// # Errors
    /// What the system says; they look by themselves then, a little later.
    pub(super) fn ring(file: &Path) -> io::Result<()> {
        let now = SystemTime::now();
        // It takes both to be told of.
        fs::File::open(file)?.set_times(FileTimes::new().set_accessed(now).set_modified(now))
    }

    /// Waits until it is time to look; tells whether somebody said so.
    pub(super) fn wait(&self) -> bool {
        let Some(queue) = &self.0 else {
            std::thread::sleep(PAUSE);
            return false;
        };
        let mut asked = [PollFd::new(queue, PollFlags::IN)];
        match poll(&mut asked, Some(&ROUND)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return false,
            Ok(_) => {}
            Err(_) => std::thread::sleep(PAUSE),
        }
        // Which it was is seen by a look at all of them.
        let mut told = [0; 4096];
        while rustix::io::read(queue, &mut told).is_ok_and(|read| read > 0) {}
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let journal = folder.path().join("journal");
        let bell = Bell::of(folder.path());
        assert!(!bell.wait());
        fs::write(&journal, "nobody has ended").unwrap();
        drop(fs::read(&journal).unwrap());
        assert!(!bell.wait(), "what is written and read is no end");
        Bell::ring(&journal).unwrap();
        Bell::ring(&journal).unwrap();
        assert!(bell.wait());
        assert!(!bell.wait(), "that was told");
        let silent = Bell::of(&journal.join("none"));
        assert!(!silent.wait() && silent.0.is_none());
        assert!(Bell::ring(&folder.path().join("none")).is_err());
    }
}
