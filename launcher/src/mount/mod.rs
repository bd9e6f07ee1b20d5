//! Projections that every process sees: one mount each, served by a process of its own.
//!
//! The tree is served over the very directory that it is shown at; that directory's own entries, which
//! the mount covers, are those that are real. So nothing has to be moved when the projection ends, and a
//! view in another mount namespace, or a program under the shim, works on the same directory and state.
//!
//! * [`show`] starts a projection, [`close`] ends one, [`heal`] brings back one whose server is gone.
//! * `server` answers the kernel, `view` decides, `nodes` knows which file is which.

mod attach;
mod kernel;
mod nodes;
mod opened;
mod owner;
mod server;
mod view;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, anyhow, bail};
use rift_cas::Store;
use rift_cas::compare::Differences;
use rift_cas::materialize::{self, Options};
use rift_cas::projection::{Projection, is_dead};
use rift_cas::tree::OpenTree;
use rift_tree::EntryId;
use rift_tree::state::{Header, State};
use rustix::fs::{AtFlags, Mode, OFlags};

use crate::machine;

use self::server::{Ending, Server};
use self::view::{Parts, View};

/// The hidden command that serves a projection.
pub const COMMAND: &str = "serve-mount";
/// What a server says once the tree is there.
const READY: &str = "ready";
/// The attribute of a mount's root that tells its server to make everything real.
const MAKE_REAL: &str = "user.rift.make-real";

/// How a mounted projection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// It is served.
    Served,
    /// Its server is gone and left the mount behind.
    Dead,
    /// Nothing is mounted: the machine was restarted, or somebody unmounted it.
    Unmounted,
}

/// Tells how a mounted projection is doing.
#[must_use]
pub fn condition(projection: &Projection) -> Condition {
    match std::fs::symlink_metadata(&projection.directory) {
        Err(error) if is_dead(&error) => Condition::Dead,
        Ok(stat) if stat.ino() == nodes::ROOT && stat.dev() != projection.device => {
            Condition::Served
        }
        _ => Condition::Unmounted,
    }
}

/// Tells why trees can't, or should not, be mounted here; `None` when nothing speaks against it.
#[must_use]
pub fn refusal() -> Option<String> {
    if let Some(builder) = machine::image_build(Path::new("/")) {
        return Some(format!("{builder} would not keep what is mounted"));
    }
    match File::options().read(true).write(true).open(kernel::DEVICE) {
        Ok(_) => {}
        Err(error) => return Some(format!("`{}` can't be opened: {error}", kernel::DEVICE)),
    }
    if rustix::process::geteuid().is_root() || kernel::has_helper() {
        return None;
    }
    Some(format!("only root mounts without `{}`, which is not installed", kernel::HELPER))
}

/// Tells whether a tree is, or was, mounted at a directory.
///
/// # Errors
/// As [`Store::projection`].
pub fn is_at(store: &Store, directory: &Path) -> Result<bool> {
    let is_recorded = match store.projection(directory) {
        Err(rift_cas::Error::Damaged { .. }) => false,
        other => other?.is_some_and(|known| known.is_mount),
    };
    Ok(is_recorded || is_covered(directory) && !kernel::mounts_at(directory).is_empty())
}

/// Tells whether something may be mounted at a directory.
fn is_covered(directory: &Path) -> bool {
    let device = |path: &Path| path.symlink_metadata().map(|stat| stat.dev());
    match (device(directory), directory.parent().map(device)) {
        (Ok(own), Some(Ok(above))) => own != above,
        (Err(error), _) => is_dead(&error),
        _ => false,
    }
}

/// Brings a projection back whose server is gone or that is not mounted any more; one that is served is
/// as good.
///
/// # Errors
/// What the system says.
pub fn heal(store: &Store, projection: &Projection) -> Result<()> {
    match condition(projection) {
        Condition::Served => return Ok(()),
        Condition::Dead => unmount_all(&projection.directory)?,
        Condition::Unmounted => {}
    }
    start(store, projection)
}

/// Finds how a mounted projection differs from its tree, bringing it back first if that is needed.
///
/// # Errors
/// What the system says.
pub fn differences(store: &Store, tree: &OpenTree, known: &Projection) -> Result<Differences> {
    heal(store, known)?;
    let state = store.open_state(&known.directory)?.context("the state is gone")?;
    let manifest = tree.manifest();
    let mut found = Differences::default();
    for (id, word) in (0..).map(EntryId).zip(state.words()).skip(1) {
        if !matches!(word.load(), State::Pristine) {
            found.changed.push(id);
        }
    }
    // Names that the tree does not have lie in real directories: the root, or one that was found.
    let listed = std::fs::read_dir(&known.directory)
        .with_context(|| format!("could not list `{}`", known.directory.display()))?;
    for entry in listed {
        let name = entry?.file_name();
        if manifest.child_named(EntryId::ROOT, name.as_bytes()).is_none() {
            found.extra.push(name.into());
        }
    }
    Ok(found)
}

/// Ends the projection at `directory` with all that it shows.
///
/// # Errors
/// What the system says.
pub fn remove(store: &Store, directory: &Path, threads: usize) -> Result<()> {
    clear(store, directory, threads)
}

/// Ends a projection: everything it shows is real files afterwards.
///
/// # Errors
/// What the system says; the projection is as it was then.
pub fn close(store: &Store, projection: &Projection) -> Result<()> {
    let directory = &projection.directory;
    heal(store, projection)?;
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::lsetxattr(directory, MAKE_REAL, b"", flags)
        .with_context(|| format!("could not write all of `{}`", directory.display()))?;
    unmount_all(directory)?;
    store.forget_state(directory)?;
    // Nothing tells which entries were changed, so the next run compares all of them by content.
    let files = Projection { is_mount: false, done_ns: i64::MIN, ..projection.clone() };
    store.set_projection(&files)?;
    // What is still open keeps it until then.
    drop(std::fs::remove_dir(directory.join(OsStr::from_bytes(nodes::ORPHANS))));
    Ok(())
}

/// Shows `tree` at `directory`, whose parent exists; what was there is replaced.
///
/// # Errors
/// What the system says. What was at `directory` may be gone then, as with `npm ci`.
pub fn show(
    store: &Store,
    tree: &OpenTree,
    directory: &Path,
    options: Options,
) -> Result<Projection> {
    if options.verify {
        tree.verify_content()?;
    }
    clear(store, directory, options.threads)?;
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(directory)
        .with_context(|| format!("could not make `{}`", directory.display()))?;
    let manifest = tree.manifest();
    let mode = options.permissions(&manifest, EntryId::ROOT);
    let permissions = std::fs::Permissions::from_mode(mode.into());
    std::fs::set_permissions(directory, permissions)
        .with_context(|| format!("could not set the mode of `{}`", directory.display()))?;
    let times = options.times(&manifest, EntryId::ROOT);
    rustix::fs::utimensat(rustix::fs::CWD, directory, &times, AtFlags::SYMLINK_NOFOLLOW)
        .with_context(|| format!("could not set the time of `{}`", directory.display()))?;
    let stat = directory.symlink_metadata()?;
    let projection = Projection {
        tree: tree.hash(),
        directory: directory.to_owned(),
        device: stat.dev(),
        inode: stat.ino(),
        stamp_ns: options.stamp_ns,
        done_ns: stat.ctime().saturating_mul(1_000_000_000).saturating_add(stat.ctime_nsec()),
        umask: options.umask,
        has_links: false,
        is_mount: true,
    };
    store.create_state(directory, header(&projection, manifest.len()))?;
    store.set_projection(&projection)?;
    start(store, &projection)?;
    Ok(projection)
}

fn header(projection: &Projection, entries: u32) -> Header {
    let Projection { tree, device, inode, .. } = *projection;
    Header { entries, tree, device, inode }
}

/// Takes what is at `directory` away: mounts of ours first, then the directory itself.
fn clear(store: &Store, directory: &Path, threads: usize) -> Result<()> {
    unmount_all(directory)?;
    store.forget_state(directory)?;
    store.forget_projection(directory)?;
    if directory.symlink_metadata().is_ok() {
        materialize::move_away(directory, threads)
            .with_context(|| format!("could not remove `{}`", directory.display()))?;
    }
    Ok(())
}

/// Unmounts all our mounts at a directory.
fn unmount_all(directory: &Path) -> Result<()> {
    for _ in kernel::mounts_at(directory) {
        kernel::unmount(directory)?;
    }
    Ok(())
}

/// Starts the server of a projection and waits until the tree is there.
fn start(store: &Store, projection: &Projection) -> Result<()> {
    let log = store.state_log_path(&projection.directory);
    let log = File::create(&log).with_context(|| format!("could not make `{}`", log.display()))?;
    let mut command = Command::new("/proc/self/exe");
    command.arg(COMMAND).arg(store.root()).arg(&projection.directory);
    command.env_clear().current_dir("/");
    // The helper of fuse(8) is looked for where the user's programs are.
    command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    let mut child = command.spawn().context("could not start the server of the mount")?;
    let output = child.stdout.take().context("the server has an output")?;
    let mut said = String::new();
    BufReader::new(output).read_line(&mut said).context("could not hear from the server")?;
    match said.trim_end() {
        READY => Ok(()),
        "" => bail!("the server of the mount ended at once"),
        error => Err(anyhow!("{error}")),
    }
}

/// Serves the projection recorded at `directory` until it is unmounted: the whole life of a server.
///
/// # Errors
/// What the system says. Before the tree is there it goes to stdout, for who started the server.
pub fn serve(store: &Path, directory: &Path) -> Result<()> {
    // Signals to the terminal's foreground group are not for it.
    let _is_leader = rustix::process::setsid().is_ok();
    // The kernel has taken the asker's own mask off what it asks for.
    rustix::process::umask(Mode::empty());
    raise_limit();
    rustix::thread::set_name(c"rift-mount").context("could not name the process")?;
    let session = match prepare(store, directory) {
        Ok(session) => session,
        Err(error) => {
            let line = format!("{error:#}").replace('\n', " ");
            writeln!(std::io::stdout(), "{line}").context("could not tell of a failure")?;
            return Err(error);
        }
    };
    let (session, real) = session;
    writeln!(std::io::stdout(), "{READY}").context("could not tell that the mount is ready")?;
    // Who waits for the end of our output must not wait for the end of the mount.
    let null = File::options().write(true).open("/dev/null").context("could not open /dev/null")?;
    rustix::stdio::dup2_stdout(null).context("could not close the output")?;
    let served = session.run().context("could not serve the mount");
    attach::detach_all(real.as_fd()).context("could not remove what had no names")?;
    served
}

/// Directories that lost their names take a descriptor each until the kernel forgets them.
fn raise_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    // Where it is refused, the limit stays what it was.
    let _is_raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
}

/// Writes a line to the server's log.
#[allow(clippy::print_stderr, reason = "the server's stderr is its log")]
fn say(text: &str) {
    eprintln!("{text}");
}

fn prepare(store: &Path, directory: &Path) -> Result<(fuser::Session<Server>, OwnedFd)> {
    let store = Store::open_existing(store)?.context("the store is gone")?;
    let projection = store.projection(directory)?.context("the projection is gone")?;
    let tree = store.open_leased(projection.tree)?.context("the tree is gone from the store")?;
    let state = match store.open_state(directory)? {
        Some(state) => state,
        None => store.create_state(directory, header(&projection, tree.manifest().len()))?,
    };
    if state.header() != header(&projection, tree.manifest().len()) {
        bail!("the state belongs to another projection");
    }
    if !state.hold_alone()? {
        bail!("the projection is served already");
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let real = rustix::fs::open(directory, flags, Mode::empty())
        .with_context(|| format!("could not open `{}`", directory.display()))?;
    let stat = rustix::fs::fstat(&real)?;
    if (stat.st_dev, stat.st_ino) != (projection.device, projection.inode) {
        bail!("`{}` is another directory by now", directory.display());
    }
    let owner = owner::current();
    attach::attach(&tree.manifest(), &state, real.as_fd(), owner)
        .with_context(|| format!("could not read `{}`", directory.display()))?;
    let options = Options {
        threads: 1,
        stamp_ns: projection.stamp_ns,
        umask: projection.umask,
        verify: false,
    };
    let kept = rustix::io::fcntl_dupfd_cloexec(&real, 3).context("could not keep a descriptor")?;
    let (uid, gid, shown_ns) = (stat.st_uid, stat.st_gid, projection.done_ns);
    let parts = Parts { tree, state, real, options, uid, gid, shown_ns };
    let view = View::new(parts, owner);
    let device = kernel::mount(directory)?;
    let mut config = fuser::Config::default();
    config.acl = fuser::SessionACL::All;
    config.n_threads = Some(2);
    config.clone_fd = true;
    let ended = directory.to_owned();
    let ending = Ending(Box::new(move || {
        kernel::unmount(&ended)?;
        store.forget_projection(&ended)?;
        Ok(store.forget_state(&ended)?)
    }));
    let session = fuser::Session::from_fd(Server::new(view, ending), device, config.acl, config);
    let session = session.inspect_err(|_| drop(kernel::unmount(directory)));
    Ok((session.context("could not agree with the kernel")?, kept))
}
