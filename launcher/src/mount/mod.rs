//! Projections that every process sees: one mount each, served by a process of its own.
//!
//! The tree is served over the very directory that it is shown at; that directory's own entries, which
//! the mount covers, are those that are real. So nothing has to be moved when the projection ends, and a
//! view in another mount namespace, or a program under the shim, works on the same directory and state.
//!
//! * [`show`] starts a projection, [`close`] ends one, [`heal`] brings back one whose server is gone.
//! * [`show_virtual`] records one that only runs see which ask for it: each in a [`private`] view.
//! * `server` answers the kernel, `view` decides, `nodes` knows which file is which; `join` lets a process
//!   become one of those that show a projection.

mod attach;
mod identity;
mod join;
mod kernel;
mod linger;
mod modes;
mod nodes;
mod opened;
mod owner;
pub mod private;
mod server;
mod twins;
mod view;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use rift_cas::Store;
use rift_cas::compare::Differences;
use rift_cas::materialize::{self, Options};
use rift_cas::projection::{Projection, ShownAs, born_ns, is_dead};
use rift_cas::remote::access::AccessKey;
use rift_cas::tree::OpenTree;
use rift_tree::EntryId;
use rift_tree::state::{Header, State};
use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;

use crate::{machine, remotes};

use self::join::{Leaving, Writers};
use self::linger::Linger;
use self::server::{Ending, Server};
use self::view::View;

/// The hidden command that serves a projection.
pub const COMMAND: &str = "serve-mount";
/// The option of it for a server whose stdin is the kernel's end of a private mount.
const PRIVATE: &str = "--private";
/// What a server says once the tree is there.
const READY: &str = "ready";
/// The attribute of a mount's root that tells its server to make everything real.
const MAKE_REAL: &str = "user.rift.make-real";
/// The attribute of a mount's root that names the access list of a command that begins; its value is the key.
const FOLLOW: &str = "user.rift.follow";

/// How long a server takes to end at most, on a busy machine, once nobody uses its mount.
const SERVER_ENDS: Duration = Duration::from_secs(10);

/// How a projection without files is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Runs see it that ask for it.
    Virtual,
    /// It is served.
    Served,
    /// Its server is gone and left the mount behind.
    Dead,
    /// Nothing is mounted: the machine was restarted, or somebody unmounted it.
    Unmounted,
}

/// The name of a projection's mount: what it covers, which a new path does not change.
fn name(projection: &Projection) -> String {
    format!("rift:{:x}:{:x}", projection.device, projection.inode)
}

/// Returns what is known of a projection at `directory`, also of one without files that was moved there with
/// what is above it.
///
/// # Errors
/// As [`Store::projection`] and [`Store::move_projection`].
pub fn find(store: &Store, directory: &Path) -> Result<Option<Projection>> {
    if let Some(known) = store.projection(directory)? {
        return Ok(Some(known));
    }
    let own = match directory.symlink_metadata() {
        // Nothing was moved here; most runs ask for a directory that is missing.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        own => own.ok(),
    };
    let mounts = if is_covered(directory) { kernel::mounts_at(directory) } else { Vec::new() };
    let is_it = |known: &Projection| {
        let is_mounted = mounts.iter().any(|mount| mount.source == Path::new(&name(known)));
        let is_own = own.as_ref().is_some_and(|stat| known.is_of(stat));
        (is_mounted || is_own) && known.shown_as.has_state() && !known.is_in_place()
    };
    match store.projections()?.into_iter().find(is_it) {
        Some(known) => Ok(Some(store.move_projection(&known, directory)?)),
        None => Ok(None),
    }
}

/// Finds mounts that were moved with what is above them, and records where they are.
///
/// # Errors
/// As [`Store::move_projection`].
pub fn follow(store: &Store) -> Result<()> {
    let is_away = |known: &Projection| known.shown_as.has_state() && !known.is_in_place();
    for known in store.projections()?.iter().filter(|known| is_away(known)) {
        if let Some(place) = kernel::place_of(&name(known)) {
            store.move_projection(known, &place)?;
        }
    }
    Ok(())
}

/// Tells how a projection without files is doing.
#[must_use]
pub fn condition(projection: &Projection) -> Condition {
    match std::fs::symlink_metadata(&projection.directory) {
        Err(error) if is_dead(&error) => Condition::Dead,
        Ok(stat) if stat.ino() == nodes::ROOT && !projection.is_of(&stat) => {
            // What the kernel keeps it shows without the server.
            match rustix::fs::statfs(&projection.directory) {
                Err(error) if is_dead(&error.into()) => Condition::Dead,
                _ => Condition::Served,
            }
        }
        _ if projection.shown_as == ShownAs::Virtual => Condition::Virtual,
        _ => Condition::Unmounted,
    }
}

/// Tells why trees can't, or should not, be mounted here; `None` when nothing speaks against it.
#[must_use]
pub fn refusal() -> Option<String> {
    if let Some(builder) = machine::image_build(Path::new("/")) {
        return Some(format!("{builder} would not keep what is mounted"));
    }
    if let Some(why) = device_refusal() {
        return Some(why);
    }
    if rustix::process::geteuid().is_root() || kernel::has_helper() {
        return None;
    }
    Some(format!("only root mounts without `{}`, which is not installed", kernel::HELPER))
}

/// Tells why the kernel's FUSE device can't be used; `None` when it can.
#[must_use]
pub fn device_refusal() -> Option<String> {
    let opened = File::options().read(true).write(true).open(kernel::DEVICE);
    opened.err().map(|error| format!("`{}` can't be opened: {error}", kernel::DEVICE))
}

/// Tells whether users other than root may show their mounts to others.
#[must_use]
pub fn may_allow_other() -> bool {
    kernel::may_allow_other()
}

/// Says what mounts need, and what there is of it.
#[must_use]
pub fn describe() -> String {
    let device = device_refusal().unwrap_or(format!("`{}` can be opened", kernel::DEVICE));
    let is = |is: bool| if is { "is" } else { "is not" };
    let (has_helper, is_open) = (is(kernel::has_helper()), is(kernel::may_allow_other()));
    format!(
        "{device}; `{}` {has_helper} installed; `user_allow_other` {is_open} set",
        kernel::HELPER
    )
}

/// Tells whether a tree is, or was, mounted at a directory.
///
/// # Errors
/// As [`Store::projection`].
pub fn is_at(store: &Store, directory: &Path) -> Result<bool> {
    let is_recorded = match find(store, directory) {
        Err(error) if is_damage(&error) => false,
        other => other?.is_some_and(|known| known.shown_as.has_state()),
    };
    Ok(is_recorded || is_covered(directory) && !kernel::mounts_at(directory).is_empty())
}

/// Tells whether a record can't be read, which says nothing then.
fn is_damage(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(rift_cas::Error::Damaged { .. }))
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
    // Servers of runs that were killed may still come and go.
    let mut attempts = 3;
    loop {
        match condition(projection) {
            Condition::Served | Condition::Virtual => return Ok(()),
            Condition::Dead => unmount_all(&projection.directory)?,
            Condition::Unmounted => {}
        }
        attempts -= 1;
        let Err(error) = start(store, projection, None) else { return Ok(()) };
        match comes_up(projection) {
            Condition::Served => return Ok(()),
            Condition::Dead if attempts > 0 => {}
            _ => return Err(error),
        }
    }
}

/// Waits a while for somebody else's server; returns how the projection is doing then.
fn comes_up(projection: &Projection) -> Condition {
    for _ in 0..200 {
        match condition(projection) {
            Condition::Unmounted | Condition::Virtual => {}
            found => return found,
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    condition(projection)
}

/// Finds how a projection without files differs from its tree, bringing it back first if that is needed.
///
/// # Errors
/// What the system says.
pub fn differences(store: &Store, tree: &OpenTree, known: &Projection) -> Result<Differences> {
    heal(store, known)?;
    if condition(known) == Condition::Virtual {
        // Looks at the directory, unless a run shows the projection and knows.
        with_view(store, known, |_| Ok(()))?;
    }
    let Some(state) = store.open_state(&known.directory)? else {
        // A run that was killed had begun to replace it.
        return Ok(Differences { changed: vec![EntryId::ROOT], ..Differences::default() });
    };
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
        let is_ours = name.as_bytes() == nodes::ORPHANS;
        if !is_ours && manifest.child_named(EntryId::ROOT, name.as_bytes()).is_none() {
            found.extra.push(name.into());
        }
    }
    Ok(found)
}

/// Runs `work` on a view that nobody sees.
fn with_view(
    store: &Store,
    projection: &Projection,
    work: impl FnOnce(&View) -> Result<()>,
) -> Result<()> {
    crate::sys::survive_lost_pages().context("could not set a handler")?;
    let done = Held::of(store, projection).and_then(|held| {
        work(&held.view)?;
        held.leave()
    });
    match crate::sys::has_lost_pages() {
        true => bail!("a file of the store was cut while it was read"),
        false => done,
    }
}

/// A projection that programs show themselves: held for them, and cleaned up after the last one.
pub struct Held {
    view: View,
    leaving: Leaving,
}

impl Held {
    /// Brings the state up to date, and holds the projection until [`Held::leave`].
    ///
    /// # Errors
    /// What the system says, or that it is mounted for everybody.
    pub fn of(store: &Store, projection: &Projection) -> Result<Self> {
        let view = join::join(store, projection, Writers::Many)?;
        let leaving = Leaving::of(&view, store, projection)?;
        Ok(Self { view, leaving })
    }

    /// Returns the tree.
    #[must_use]
    pub fn tree(&self) -> &OpenTree {
        &self.view.parts.tree
    }

    /// Lets go.
    ///
    /// # Errors
    /// What the system says.
    pub fn leave(self) -> Result<()> {
        drop(self.view);
        self.leaving.leave()
    }
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
    let mut found = condition(projection);
    if found == Condition::Served {
        let flags = rustix::fs::XattrFlags::empty();
        let made = rustix::fs::lsetxattr(directory, MAKE_REAL, b"", flags);
        // The server may have found only now that its state is gone.
        if made == Err(Errno::IO) {
            found = condition(projection);
        }
        if found == Condition::Served {
            made.with_context(|| format!("could not write all of `{}`", directory.display()))?;
        }
    }
    if found == Condition::Dead {
        unmount_all(directory)?;
    }
    if found != Condition::Served {
        with_view(store, projection, |view| Ok(view.make_all_real()?))
            .with_context(|| format!("could not write all of `{}`", directory.display()))?;
    }
    let is_idle = found == Condition::Served && kernel::unmount_idle(directory);
    unmount_all(directory)?;
    // What the state tells must be on the disk before the state goes, which may be on another one.
    File::open(directory)
        .and_then(|folder| Ok(rustix::fs::syncfs(folder)?))
        .with_context(|| format!("could not write `{}` to the disk", directory.display()))?;
    // Nothing tells which entries were changed, so the next run compares all of them by content.
    let files = Projection { shown_as: ShownAs::Files, done_ns: i64::MIN, ..projection.clone() };
    // Before the state goes: without it, what was removed would be the tree's again.
    store.set_projection(&files)?;
    store.forget_state(directory)?;
    // The server takes orphans away when it ends, soon where nobody keeps it. What is still open keeps them until then.
    let limit = if is_idle { SERVER_ENDS } else { Duration::ZERO };
    let (started, orphans) = (Instant::now(), directory.join(OsStr::from_bytes(nodes::ORPHANS)));
    while std::fs::remove_dir(&orphans)
        .is_err_and(|error| error.kind() == ErrorKind::DirectoryNotEmpty)
        && started.elapsed() < limit
    {
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Makes the server of a projection bring what a command needed elsewhere, before it is asked for.
pub fn fetch_ahead(projection: &Projection, key: AccessKey) {
    let (directory, flags) = (&projection.directory, rustix::fs::XattrFlags::empty());
    // It only saves time.
    let _is_known = rustix::fs::lsetxattr(directory, FOLLOW, key.as_bytes(), flags).is_ok();
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
    replace(store, tree, directory, options, || {
        let projection = record(store, tree, directory, options, ShownAs::Mount)?;
        start(store, &projection, None)?;
        Ok(projection)
    })
}

/// Takes what is at `directory` away and makes something else; where that fails, nothing is left of it.
fn replace<T>(
    store: &Store,
    tree: &OpenTree,
    directory: &Path,
    options: Options,
    make: impl FnOnce() -> Result<T>,
) -> Result<T> {
    if options.verify {
        tree.verify_content()?;
    }
    let was_there = directory.symlink_metadata().is_ok();
    clear(store, directory, options.threads)?;
    make().inspect_err(|_| withdraw(store, directory, was_there))
}

/// Takes back what was made for a projection that can't be shown. A state that stays goes with the next gc.
fn withdraw(store: &Store, directory: &Path, was_there: bool) {
    let orphans = directory.join(OsStr::from_bytes(nodes::ORPHANS));
    let _are_gone = [
        store.forget_state(directory).is_ok(),
        store.forget_projection(directory).is_ok(),
        std::fs::remove_dir(orphans).is_ok(),
        !was_there && std::fs::remove_dir(directory).is_ok(),
    ];
}

/// Mounts a projection for everybody that so far only runs see which ask for it.
///
/// # Errors
/// What the system says; it is as before then.
pub fn show_to_all(store: &Store, projection: &Projection) -> Result<()> {
    if projection.shown_as == ShownAs::Virtual {
        start(store, projection, None)?;
        let mounted = Projection { shown_as: ShownAs::Mount, ..projection.clone() };
        return Ok(store.set_projection(&mounted)?);
    }
    heal(store, projection)
}

/// Lets runs see `tree` at `directory` that ask for it; what was there is replaced.
///
/// # Errors
/// As [`show`].
pub fn show_virtual(
    store: &Store,
    tree: &OpenTree,
    directory: &Path,
    options: Options,
) -> Result<Projection> {
    let make = || record(store, tree, directory, options, ShownAs::Virtual);
    replace(store, tree, directory, options, make)
}

/// Makes the directory of a projection, its state and its record.
fn record(
    store: &Store,
    tree: &OpenTree,
    directory: &Path,
    options: Options,
    shown_as: ShownAs,
) -> Result<Projection> {
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
        born_ns: born_ns(&stat),
        stamp_ns: options.stamp_ns,
        done_ns: stat.ctime().saturating_mul(1_000_000_000).saturating_add(stat.ctime_nsec()),
        umask: options.umask,
        has_links: false,
        links_twins: options.links_twins,
        shown_as,
    };
    store.create_state(directory, header(&projection, manifest.len()))?;
    store.set_projection(&projection)?;
    Ok(projection)
}

fn header(projection: &Projection, entries: u32) -> Header {
    let Projection { tree, device, inode, .. } = *projection;
    Header { entries, tree, device, inode, boot: rift_cas::sys::boot_id() }
}

/// Takes what is at `directory` away: mounts of ours first, then the directory itself.
fn clear(store: &Store, directory: &Path, threads: usize) -> Result<()> {
    // The server must not think that the projection goes on.
    store.forget_state(directory)?;
    unmount_all(directory)?;
    store.forget_projection(directory)?;
    // Where it is missing, a run that was killed may have left what it had moved away.
    if directory.parent().is_some_and(Path::exists) {
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

/// Starts the server of a projection and waits until the tree is there. With the kernel's end of a mount in
/// another namespace, that is what it serves.
fn start(store: &Store, projection: &Projection, device: Option<OwnedFd>) -> Result<()> {
    let log = store.state_log_path(&projection.directory);
    let log = File::options().create(true).append(true).open(&log);
    let log = log.context("could not make the log of the mount")?;
    let mut command = Command::new("/proc/self/exe");
    command.arg(COMMAND).arg(store.root()).arg(&projection.directory);
    command.args(device.is_some().then_some(PRIVATE));
    command.env_clear().current_dir("/");
    // The helper of fuse(8) is looked for where the user's programs are.
    command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    if store.is_partial(projection.tree) {
        command.envs(remotes::environment());
    }
    command.stdin(device.map_or_else(Stdio::null, Stdio::from));
    command.stdout(Stdio::piped()).stderr(log);
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

/// Serves the projection recorded at `directory` until it is unmounted: the whole life of a server. One
/// `is_private` has the kernel's end of the mount as its stdin.
///
/// # Errors
/// What the system says. Before the tree is there it goes to stdout, for who started the server.
pub fn serve(store: &Path, directory: &Path, is_private: bool) -> Result<()> {
    // Signals to the terminal's foreground group are not for it.
    let _is_leader = rustix::process::setsid().is_ok();
    // The kernel has taken the asker's own mask off what it asks for.
    rustix::process::umask(Mode::empty());
    raise_limit();
    crate::sys::survive_lost_pages().context("could not set a handler")?;
    rustix::thread::set_name(c"rift-mount").context("could not name the process")?;
    let (session, view, leaving) = match prepare(store, directory, is_private) {
        Ok(prepared) => prepared,
        Err(error) => {
            let line = format!("{error:#}").replace('\n', " ");
            writeln!(std::io::stdout(), "{line}").context("could not tell of a failure")?;
            return Err(error);
        }
    };
    writeln!(std::io::stdout(), "{READY}").context("could not tell that the mount is ready")?;
    // Who waits for the end of our output must not wait for the end of the mount.
    let null = File::options().write(true).open("/dev/null").context("could not open /dev/null")?;
    rustix::stdio::dup2_stdout(null).context("could not close the output")?;
    let keeping = keep(view);
    let served = session.run().context("could not serve the mount");
    // As long as somebody has the view, it has its lease and its lock. A panic was said.
    let _is_done = keeping.is_none_or(|thread| thread.join().is_ok());
    leaving.leave()?;
    served
}

/// Starts to copy what the view knows of the tree into memory. Not before the mount is ready: where there are many
/// files it takes as long as all the rest.
fn keep(view: Arc<View>) -> Option<JoinHandle<()>> {
    let copy = move || {
        if let Err(error) = view.parts.tree.keep() {
            say(&format!("the manifest stays in the store's files: {error}"));
        }
    };
    let started = std::thread::Builder::new().name("rift-keep".into()).spawn(copy);
    started
        .inspect_err(|error| {
            say(&format!("the manifest stays in the store's files: no thread: {error}"));
        })
        .ok()
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

fn prepare(
    store: &Path,
    directory: &Path,
    is_private: bool,
) -> Result<(fuser::Session<Server>, Arc<View>, Leaving)> {
    let store = Store::open_existing(store)?.context("the store is gone")?;
    let store = store.reaching(remotes::options(remotes::OF_RUNS));
    let projection = store.projection(directory)?.context("the projection is gone")?;
    let writers = if is_private { Writers::Many } else { Writers::One };
    let view = Arc::new(join::join(&store, &projection, writers)?);
    let leaving = Leaving::of(&view, &store, &projection)?;
    let device = match is_private {
        true => private::device()?,
        false => kernel::mount(directory, &name(&projection))?,
    };
    let mut config = fuser::Config::default();
    config.acl = fuser::SessionACL::All;
    // Each may wait for a remote.
    config.n_threads = Some(if view.parts.tree.partial().is_some() { 16 } else { 2 });
    // Who opened the device in another user namespace can't be asked for a second one.
    config.clone_fd = !is_private;
    let ended = directory.to_owned();
    let ending = Ending(Box::new(move |pid| {
        let place = match is_private {
            true => None,
            false => kernel::place_of(&name(&projection)),
        };
        let place = place.unwrap_or_else(|| ended.clone());
        match is_private {
            true => private::unmount_for(pid, &place)?,
            false => kernel::unmount(&place)?,
        }
        for place in [&place, &ended] {
            store.forget_projection(place)?;
            store.forget_state(place)?;
        }
        Ok(())
    }));
    let looking = rustix::io::fcntl_dupfd_cloexec(&device, 3);
    let linger = Linger::new(looking.context("could not keep a descriptor")?);
    let server = Server::new(Arc::clone(&view), ending, linger);
    let notifier = Arc::clone(&server.notifier);
    let session = fuser::Session::from_fd(server, device, config.acl, config);
    let session = session.inspect_err(|_| {
        if !is_private {
            drop(kernel::unmount(directory));
        }
    });
    let session = session.context("could not agree with the kernel")?;
    notifier.get_or_init(|| session.notifier());
    Ok((session, view, leaving))
}
