//! Mounting and unmounting: mount(2) for who may, fusermount3(1) for everybody else.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::machine::{self, Mount};

/// The type that our mounts have in mountinfo, see proc(5).
pub(super) const KIND: &str = "fuse.rift";
pub(super) const DEVICE: &str = "/dev/fuse";
pub(super) const HELPER: &str = "fusermount3";

/// Mounts at `directory` under a name, which mountinfo shows as the source; returns the kernel's end. Others
/// than the caller see it only where that is allowed.
///
/// # Errors
/// What the system, or the helper, says.
pub(super) fn mount(directory: &Path, name: &str) -> Result<OwnedFd> {
    let (device, result) = mount_directly(directory, name)?;
    match result {
        Ok(()) => Ok(device),
        Err(Errno::PERM) => mount_by_helper(directory, name),
        Err(error) => {
            Err(error).with_context(|| format!("could not mount at `{}`", directory.display()))
        }
    }
}

/// Mounts at `directory` by mount(2); who made the namespace of this process may do so.
///
/// # Errors
/// What the system says.
pub(super) fn mount_here(directory: &Path) -> Result<OwnedFd> {
    let (device, result) = mount_directly(directory, "rift")?;
    result.with_context(|| format!("could not mount at `{}`", directory.display()))?;
    Ok(device)
}

fn mount_directly(directory: &Path, name: &str) -> Result<(OwnedFd, Result<(), Errno>)> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let device = rustix::fs::open(DEVICE, flags, Mode::empty())
        .with_context(|| format!("could not open `{DEVICE}`"))?;
    let mode = rustix::fs::stat(directory)
        .with_context(|| format!("could not look at `{}`", directory.display()))?
        .st_mode;
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    let options = format!(
        "fd={},rootmode={mode:o},user_id={uid},group_id={gid},default_permissions,allow_other",
        device.as_raw_fd()
    );
    let options = CString::new(options).context("options have no NUL")?;
    let kernel = MountFlags::NOSUID | MountFlags::NODEV;
    let kernel = if uid == 0 { MountFlags::empty() } else { kernel };
    let result = rustix::mount::mount(name, directory, KIND, kernel, Some(options.as_c_str()));
    Ok((device, result))
}

/// Tells whether the helper is installed.
pub(super) fn has_helper() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(HELPER).is_file())
}

/// Tells whether other users may be let in by who is not root, see mount.fuse3(8).
pub(super) fn may_allow_other() -> bool {
    let settings = std::fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
    settings.lines().any(|line| line.trim() == "user_allow_other")
}

/// Lets the set-user-id helper mount; it hands the kernel's end over a socket.
fn mount_by_helper(directory: &Path, name: &str) -> Result<OwnedFd> {
    let (ours, theirs) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::STREAM,
        rustix::net::SocketFlags::empty(),
        None,
    )
    .context("could not make a socket")?;
    rustix::io::fcntl_setfd(&ours, rustix::io::FdFlags::CLOEXEC).context("could not set a flag")?;
    // The helper mounts where its user may write.
    let _open = super::attach::open_any(rustix::fs::CWD, directory.as_os_str().as_bytes())
        .with_context(|| format!("could not open `{}`", directory.display()))?;
    let mut helper = Command::new(HELPER);
    let shared = if may_allow_other() { ",allow_other" } else { "" };
    let options = format!("default_permissions,fsname={name},subtype=rift{shared}");
    helper.args(["-o", &options, "--"]).arg(directory);
    helper.env("_FUSE_COMMFD", theirs.as_raw_fd().to_string()).stdin(Stdio::null());
    let output = helper.output().with_context(|| format!("could not run `{HELPER}`"))?;
    drop(theirs);
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{HELPER} could not mount at `{}`: {}", directory.display(), said.trim());
    }
    let received = receive(&ours).ok().and_then(|(_, device)| device);
    received.with_context(|| format!("{HELPER} sent no descriptor"))
}

/// Receives a message of at most 4 KiB, and the descriptor that came with it.
///
/// # Errors
/// As recvmsg(2).
pub(super) fn receive(socket: &OwnedFd) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = vec![0; 4096];
    let mut parts = [io::IoSliceMut::new(&mut bytes)];
    let received = rustix::net::recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    bytes.truncate(received.bytes);
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok((bytes, descriptor))
}

/// Unmounts what is uppermost at `directory`; `false` when somebody uses it, or there is nothing to unmount.
pub(super) fn unmount_idle(directory: &Path) -> bool {
    match rustix::mount::unmount(directory, UnmountFlags::NOFOLLOW) {
        Err(Errno::PERM) => {}
        unmounted => return unmounted.is_ok(),
    }
    unmount_by_helper(directory, &["-u"]).is_ok()
}

/// Takes the uppermost mount at `directory` out of sight at once; who still uses it goes on with it.
///
/// # Errors
/// What the system, or the helper, says.
pub(super) fn unmount(directory: &Path) -> Result<()> {
    let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
    match rustix::mount::unmount(directory, flags) {
        Ok(()) => return Ok(()),
        Err(Errno::PERM) => {}
        Err(error) => {
            return Err(error)
                .with_context(|| format!("could not unmount `{}`", directory.display()));
        }
    }
    unmount_by_helper(directory, &["-u", "-z"])
}

fn unmount_by_helper(directory: &Path, options: &[&str]) -> Result<()> {
    let output = Command::new(HELPER).args(options).arg("--").arg(directory).output();
    let output = output.with_context(|| format!("could not run `{HELPER}`"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{HELPER} could not unmount `{}`: {}", directory.display(), said.trim());
    }
    Ok(())
}

/// Returns where the mount of this name is now: it goes along when what is above it is moved.
#[must_use]
pub(super) fn place_of(name: &str) -> Option<PathBuf> {
    let mut mounts = machine::mounts(Path::new("/")).into_iter();
    let found = mounts.find(|mount| mount.kind == KIND && mount.source == Path::new(name));
    found.map(|mount| mount.place)
}

/// Returns our mounts at `directory`, which is absolute and without symbolic links, the uppermost last.
#[must_use]
pub(super) fn mounts_at(directory: &Path) -> Vec<Mount> {
    let mounts = machine::mounts(Path::new("/"));
    let is_ours = |mount: &Mount| {
        // A directory that was removed is shown so.
        let place = mount.place.as_os_str().as_bytes();
        let place = place.strip_suffix(b"//deleted").unwrap_or(place);
        mount.kind == KIND && place == directory.as_os_str().as_bytes()
    };
    mounts.into_iter().filter(is_ours).collect()
}
