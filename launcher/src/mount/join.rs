//! Opens the view of a projection, as one of the processes that show it.
//!
//! Each holds a lock on the state, which a killed one loses. The first one brings the state up to date with
//! the directory; the last one takes orphans away.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rift_cas::Store;
use rift_cas::materialize::Options;
use rift_cas::projection::Projection;
use rift_cas::state::StateFile;
use rift_tree::state::Header;
use rustix::fs::{Mode, OFlags};

use super::attach::Since;
use super::view::{Parts, View};
use super::{attach, owner};
use crate::sys;

/// How long another process may take to bring the state up to date.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who may change what a view shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writers {
    /// This view alone: who mounts for everybody.
    One,
    /// Other views too.
    Many,
}

/// Opens the view of a projection whose directory nothing covers, as far as this process sees.
///
/// # Errors
/// When others show the projection in a way that does not go together with this one; what the system says.
pub(super) fn join(store: &Store, projection: &Projection, writers: Writers) -> Result<View> {
    let directory = &projection.directory;
    let tree = match store.open_shown(projection.tree) {
        // The projection's record keeps the tree, too.
        Err(rift_cas::Error::Io { source, .. }) if has_no_room(&source) => {
            store.open_tree(projection.tree)?
        }
        other => other?,
    };
    let tree = tree.context("the tree is gone from the store")?;
    let header = super::header(projection, tree.manifest().len());
    let state = match store.open_state(directory) {
        Ok(Some(state)) => state,
        // As where there is none: what is real is found again, and what was taken away is back.
        Err(rift_cas::Error::Damaged { .. }) | Ok(None) => store.create_state(directory, header)?,
        Err(error) => return Err(error.into()),
    };
    let found = state.header();
    // The device may have another number by now.
    if (Header { device: header.device, boot: header.boot, ..found }) != header {
        bail!("the state belongs to another projection");
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let real = rustix::fs::open(directory, flags, Mode::empty())
        .with_context(|| format!("could not open `{}`", directory.display()))?;
    let stat = directory_of(&real)?;
    if !projection.is_of(&stat) {
        bail!("`{}` is another directory by now", directory.display());
    }
    let owner = owner::current();
    let is_first = hold(&state, writers)?;
    if is_first {
        let since = if found.boot == header.boot { Since::SameBoot } else { Since::OtherBoot };
        attach::attach(&tree.manifest(), &state, real.as_fd(), owner, since)
            .with_context(|| format!("could not read `{}`", directory.display()))?;
        if since == Since::OtherBoot {
            state.set_boot(header.boot)?;
        }
    }
    share(&state, writers)?;
    let options = Options {
        stamp_ns: projection.stamp_ns,
        umask: projection.umask,
        links_twins: projection.links_twins,
        ..Options::default()
    };
    let (uid, gid, shown_ns) = (stat.uid(), stat.gid(), projection.done_ns);
    let is_shared = writers == Writers::Many;
    Ok(View::new(Parts { tree, state, real, options, uid, gid, shown_ns, is_shared }, owner))
}

/// Tells whether nothing more can be put where the store is.
fn has_no_room(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem)
}

fn directory_of(real: &OwnedFd) -> Result<std::fs::Metadata> {
    let file = std::fs::File::from(real.try_clone().context("could not keep a descriptor")?);
    file.metadata().context("could not look at the directory")
}

/// Takes the lock; tells whether nobody else has it.
fn hold(state: &StateFile, writers: Writers) -> Result<bool> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if state.hold_alone()? {
            return Ok(true);
        }
        match writers {
            Writers::One => bail!("a run or a mount shows the projection already"),
            Writers::Many if state.hold_shared()? => return Ok(false),
            Writers::Many if Instant::now() > deadline => bail!("it is mounted for everybody"),
            Writers::Many => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

/// Lets others in, after the state was brought up to date.
fn share(state: &StateFile, writers: Writers) -> Result<()> {
    // The lock may be lost for a moment. Who gets it then looks at the directory as well, and shares it.
    let deadline = Instant::now() + PATIENCE;
    while writers == Writers::Many && !state.hold_shared()? {
        if Instant::now() > deadline {
            bail!("the lock on the state was lost to a mount");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// What is left to do when a view is not shown any more.
#[derive(Debug)]
pub(super) struct Leaving {
    state: Option<StateFile>,
    real: OwnedFd,
}

impl Leaving {
    /// Keeps what is needed for it. The state is asked only where others may still show the projection.
    ///
    /// # Errors
    /// As fcntl(2).
    pub(super) fn of(view: &View, store: &Store, projection: &Projection) -> Result<Self> {
        let real = rustix::io::fcntl_dupfd_cloexec(&view.parts.real, 3)
            .context("could not keep a descriptor")?;
        let state = match view.parts.is_shared {
            true => store.open_state(&projection.directory)?,
            false => None,
        };
        Ok(Self { state, real })
    }

    /// Takes orphans away, if nobody else shows the projection. Where the state was lost or replaced somebody else may,
    /// and whoever attaches takes them away.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn leave(self) -> Result<()> {
        if sys::has_lost_pages() {
            return Ok(());
        }
        // The view's own lock is gone with the view.
        if let Some(state) = &self.state
            && (!state.hold_alone()? || state.is_forgotten() || !state.is_whole())
        {
            return Ok(());
        }
        attach::detach_all(self.real.as_fd()).context("could not remove what had no names")
    }
}
