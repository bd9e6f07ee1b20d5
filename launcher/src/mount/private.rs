//! Private views: a command in a mount namespace of its own, where projections are mounted that the world
//! outside does not see.
//!
//! ```text
//! run ── starts ──> enter: a new namespace, mounts, then becomes the command
//!  │ <── the kernel's end of each mount, over a socket ──┘
//!  └─ starts one server for each, outside: a namespace ends with its last process, and its mounts with it
//! ```
//! Several views of one projection, and programs under the shim, share its directory and state.

use std::ffi::OsString;
use std::io::{IoSlice, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, anyhow, bail};
use rift_cas::Store;
use rift_cas::projection::{Projection, ShownAs};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::process::{Pid, PidfdFlags};
use rustix::thread::{ThreadNameSpaceType, UnshareFlags};

use super::{Condition, kernel};
use crate::exec::child::{self, Ending};
use crate::sys;

/// The hidden command that makes the namespace and becomes the command.
pub const ENTER: &str = "enter-view";
/// The hidden command that unmounts in another process's namespace.
pub const LEAVE: &str = "leave-view";

/// The first byte of a message with a descriptor.
const MOUNTED: u8 = b'm';
/// The first byte of a message that says why there is none.
const REFUSED: u8 = b'r';
/// Everything is mounted.
const READY: u8 = b'!';

/// Returns the projections that a command in `folder` should see and that nobody mounted: those below it,
/// and those beside what it is in, such as the `node_modules` of a folder above.
///
/// # Errors
/// What the system says.
pub fn in_reach(store: &Store, folder: &Path) -> Result<Vec<Projection>> {
    let mut found = near(store, folder)?;
    for known in found.iter().filter(|known| known.shown_as == ShownAs::Mount) {
        // Where that fails, this run has a view of its own.
        let _is_served = super::heal(store, known).is_ok();
    }
    found.retain(|known| super::condition(known) != Condition::Served);
    Ok(found)
}

/// Tells whether a command in `folder` may need files that have not come yet.
///
/// # Errors
/// What the system says.
pub fn is_partial_near(store: &Store, folder: &Path) -> Result<bool> {
    Ok(near(store, folder)?.iter().any(|known| store.is_partial(known.tree)))
}

/// Returns the projections that every command in `folder` sees and of which not all has come.
///
/// # Errors
/// What the system says.
pub fn mounted_partial(store: &Store, folder: &Path) -> Result<Vec<Projection>> {
    let mut found = near(store, folder)?;
    let is_partial = |known: &Projection| {
        store.is_partial(known.tree) && super::condition(known) == Condition::Served
    };
    found.retain(is_partial);
    Ok(found)
}

/// Returns the trees that are files at and near `folder`, or that the shim shows there.
///
/// # Errors
/// What the system says.
pub fn unmounted_near(store: &Store, folder: &Path) -> Result<Vec<Projection>> {
    let mut found = store.projections()?;
    found.retain(|known| known.shown_as != ShownAs::Mount && is_near(known, folder));
    Ok(found)
}

/// Returns the projections without files at and near `folder`.
fn near(store: &Store, folder: &Path) -> Result<Vec<Projection>> {
    let mut found = store.projections()?;
    found.retain(|known| known.shown_as.has_state() && is_near(known, folder));
    Ok(found)
}

/// Tells whether a projection is still in place, at or near a folder.
fn is_near(known: &Projection, folder: &Path) -> bool {
    let above = known.directory.parent().is_some_and(|parent| folder.starts_with(parent));
    (above || known.directory.starts_with(folder)) && known.is_in_place()
}

/// Runs a command that sees the projections; the reason, when it can't be done here and the command was
/// not started.
///
/// # Errors
/// What the system says.
pub fn run(
    store: &Store,
    projections: &[Projection],
    command: &[OsString],
) -> Result<Result<Ending, String>> {
    let directories = projections.iter().map(|known| known.directory.as_path());
    in_namespace(directories, command, |socket| serve_all(store, projections, socket))
}

/// Tells why commands can't have a namespace of their own here; `None` when they can.
#[must_use]
pub fn refusal() -> Option<String> {
    match in_namespace(std::iter::empty(), &["true".into()], |_| Ok(())) {
        Ok(Ok(_)) => None,
        Ok(Err(why)) => Some(why),
        Err(error) => Some(format!("{error:#}")),
    }
}

/// Runs a command in a namespace of its own, once `serve` has seen to its mounts.
fn in_namespace<'d>(
    directories: impl Iterator<Item = &'d Path>,
    command: &[OsString],
    serve: impl FnOnce(&OwnedFd) -> Result<()> + Send,
) -> Result<Result<Ending, String>> {
    let (ours, theirs) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .context("could not make a socket")?;
    rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty())
        .context("could not pass a socket on")?;
    let mut entering = Command::new("/proc/self/exe");
    entering.arg(ENTER).arg(theirs.as_raw_fd().to_string());
    entering.args(directories).arg("--").args(command);
    std::thread::scope(|scope| {
        let serving = scope.spawn(move || {
            serve(&ours)?;
            match kernel::receive(&ours).context("no namespace was made")? {
                (word, _) if word == [READY] => {}
                (word, _) => return Err(refused(&word)),
            }
            rustix::net::send(&ours, b"go", SendFlags::NOSIGNAL)
                .map(drop)
                .context("could not start the command")
        });
        // Theirs alone: where the child dies, we hear the end of it.
        let ending = child::supervise_from(&mut entering, move || drop(theirs));
        let served = serving.join().map_err(|_| anyhow!("the servers could not be started"))?;
        match served {
            Ok(()) => Ok(Ok(ending.context("could not start the command")?)),
            Err(error) => Ok(Err(format!("{error:#}"))),
        }
    })
}

/// Starts a server for each mount that the child reports.
fn serve_all(store: &Store, projections: &[Projection], socket: &OwnedFd) -> Result<()> {
    for projection in projections {
        match kernel::receive(socket).context("no namespace was made")? {
            (word, Some(device)) if word == [MOUNTED] => {
                super::start(store, projection, Some(device))?;
            }
            (word, _) => return Err(refused(&word)),
        }
    }
    Ok(())
}

/// What the child said instead of that all is well.
fn refused(message: &[u8]) -> anyhow::Error {
    match message.split_first() {
        Some((&REFUSED, why)) => anyhow!("{}", String::from_utf8_lossy(why)),
        _ => anyhow!("the process that makes the namespace was killed"),
    }
}

/// Makes the namespace with its mounts and becomes the command; returns only when that fails.
pub fn enter(socket: RawFd, directories: &[PathBuf], command: &[OsString]) -> Ending {
    let Ok(socket) = sys::take_descriptor(socket) else {
        return Ending::Exited(child::FAILED);
    };
    let ready = || {
        make_namespace()?;
        mount_all(&socket, directories)?;
        rustix::net::send(&socket, &[READY], SendFlags::NOSIGNAL)
            .context("could not tell that all is mounted")
    };
    if let Err(error) = ready() {
        let message = [&[REFUSED], format!("{error:#}").as_bytes()].concat();
        // Nobody listens when the run is over.
        let _is_sent = rustix::net::send(&socket, &message, SendFlags::NOSIGNAL).is_ok();
        return Ending::Exited(child::FAILED);
    }
    let mut word = [0; 2];
    match rustix::net::recv(&socket, &mut word[..], RecvFlags::empty()) {
        Ok((2, _)) => {}
        // The run says why it can't be.
        _ => return Ending::Exited(child::FAILED),
    }
    drop(socket);
    child::replace(command)
}

fn make_namespace() -> Result<()> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    match sys::unshare(UnshareFlags::NEWNS) {
        Ok(()) => {}
        Err(Errno::PERM) => {
            sys::unshare(UnshareFlags::NEWNS | UnshareFlags::NEWUSER)
                .context("no mount namespace can be made")?;
            // Everybody keeps the numbers they have, see user_namespaces(7).
            write("/proc/self/setgroups", "deny")?;
            write("/proc/self/uid_map", &format!("{uid} {uid} 1"))?;
            write("/proc/self/gid_map", &format!("{gid} {gid} 1"))?;
        }
        Err(error) => return Err(error).context("no mount namespace can be made"),
    }
    // The kernel drops it with the change of rights.
    sys::die_with_parent().context("could not be bound to the run")?;
    // What others mount is seen here, but not the other way round.
    let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", flags).context("could not part the mounts from the others'")
}

fn write(path: &str, text: &str) -> Result<()> {
    let file = std::fs::OpenOptions::new().write(true).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.with_context(|| format!("no user namespace can be made: `{path}`"))
}

fn mount_all(socket: &OwnedFd, directories: &[PathBuf]) -> Result<()> {
    let folder = std::env::current_dir();
    for directory in directories {
        let device = kernel::mount_here(directory)?;
        send(socket, device.as_fd()).context("could not hand a mount over")?;
    }
    // Who is in a directory that is covered now goes to what covers it.
    match folder {
        Ok(folder) if directories.iter().any(|directory| folder.starts_with(directory)) => {
            std::env::set_current_dir(&folder).context("could not change to the working directory")
        }
        _ => Ok(()),
    }
}

fn send(socket: &OwnedFd, device: BorrowedFd<'_>) -> Result<(), Errno> {
    let devices = [device];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    // There is room for one.
    let _has_room = control.push(SendAncillaryMessage::ScmRights(&devices));
    let parts = [IoSlice::new(&[MOUNTED])];
    rustix::net::sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL).map(drop)
}

/// Returns the kernel's end of the mount that a private server gets as its stdin.
///
/// # Errors
/// As fcntl(2) and dup(2).
pub(super) fn device() -> Result<OwnedFd> {
    let device = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)
        .context("could not take the mount")?;
    let null = std::fs::File::open("/dev/null").context("could not open /dev/null")?;
    rustix::stdio::dup2_stdin(null).context("could not close the input")?;
    Ok(device)
}

/// Unmounts in the namespace of a process, which waits for us.
///
/// # Errors
/// What the system says.
pub(super) fn unmount_for(pid: u32, directory: &Path) -> Result<()> {
    let mut leaving = Command::new("/proc/self/exe");
    leaving.arg(LEAVE).arg(pid.to_string()).arg(directory).env_clear().stdin(Stdio::null());
    let status = leaving.status().context("could not start what unmounts")?;
    if status.success() { Ok(()) } else { bail!("it could not be unmounted: {status}") }
}

/// Unmounts in the namespace of another process.
///
/// # Errors
/// What the system says.
pub fn leave(pid: i32, directory: &Path) -> Result<()> {
    let pid = Pid::from_raw(pid).context("no process has this number")?;
    let process = rustix::process::pidfd_open(pid, PidfdFlags::empty())
        .context("could not find the process")?;
    let join = |kinds| rustix::thread::move_into_thread_name_spaces(process.as_fd(), kinds);
    let mounts = ThreadNameSpaceType::MOUNT;
    match join(mounts | ThreadNameSpaceType::USER) {
        // In the same user namespace already.
        Err(Errno::INVAL) => join(mounts),
        other => other,
    }
    .context("could not join the namespace")?;
    let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
    rustix::mount::unmount(directory, flags)
        .with_context(|| format!("could not unmount `{}`", directory.display()))
}
