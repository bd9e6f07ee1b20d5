//! Ways in which a machine refuses mounts: the start of a command line that runs the rest of it so.
//!
//! Containers are what most people meet: Docker gives no device, takes capabilities away, and has a filter for system calls.
//! Called by the tests of mounts, as root; who sees less is in a namespace of its own, so the machine stays as it was.

use anyhow::Result;

use crate::apps::compiled;

/// What keeps a command from mounting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A filter for the calls that make mounts and namespaces.
    Calls,
    /// The device can be opened, and is another one.
    OtherDevice,
    /// The device may not be opened.
    ShutDevice,
    /// There is no device.
    NoDevice,
    /// All that Docker does where it is not told otherwise.
    Container,
}

/// All of them.
pub const REFUSALS: [Refusal; 5] = [
    Refusal::Calls,
    Refusal::OtherDevice,
    Refusal::ShutDevice,
    Refusal::NoDevice,
    Refusal::Container,
];

/// What Docker leaves to root, see capabilities(7).
const CAPABILITIES: &str = "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,\
    +net_bind_service,+net_raw,+sys_chroot,+mknod,+audit_write,+setfcap";

/// The flags of clone(2) that make namespaces.
const NAMESPACES: libc::c_int = libc::CLONE_NEWNS
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

/// Runs the rest of the command line with devices as a container has them, in a folder that goes with the namespace.
const FEW_DEVICES: &str = r#"
set -e
mount -t tmpfs -o mode=755 rift-test /mnt
cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /mnt
ln -s /proc/self/fd /mnt/fd
mount --move /mnt /dev
exec "$@"
"#;

/// Runs it where the device has no modes at all; root needs a capability less to care.
const SHUT_DEVICE: &str = r#"
set -e
mount -t tmpfs -o mode=755 rift-test /mnt
mknod -m 0 /mnt/fuse c 10 229
mount --bind /mnt/fuse /dev/fuse
umount --lazy /mnt
exec setpriv --bounding-set -dac_override,-dac_read_search "$@"
"#;

/// Runs it where something else has the device's name.
const OTHER_DEVICE: &str = r#"mount --bind /dev/null /dev/fuse && exec "$@""#;

impl Refusal {
    /// Returns the words to put before a command line. The tools are `cc`, `setpriv` and `unshare`.
    ///
    /// # Errors
    /// When the filter can't be compiled.
    pub fn words(self) -> Result<Vec<String>> {
        let inside = |script: &str| {
            ["unshare", "--mount", "sh", "-c", script, "sh"].map(str::to_owned).to_vec()
        };
        Ok(match self {
            Self::Calls => filter()?,
            Self::OtherDevice => inside(OTHER_DEVICE),
            Self::ShutDevice => inside(SHUT_DEVICE),
            Self::NoDevice => inside(FEW_DEVICES),
            Self::Container => {
                let rights = ["setpriv", "--bounding-set", CAPABILITIES].map(str::to_owned);
                [inside(FEW_DEVICES), rights.to_vec(), filter()?].concat()
            }
        })
    }
}

/// The part of Docker's filter that is about mounts and namespaces, call by call.
fn filter() -> Result<Vec<String>> {
    let deny = compiled("deny")?.display().to_string();
    let forbidden = [
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_fsopen,
        libc::SYS_fsmount,
        libc::SYS_open_tree,
        libc::SYS_move_mount,
    ];
    let one = |call: String, error: libc::c_int| [deny.clone(), call, error.to_string()];
    let mut words: Vec<String> =
        forbidden.iter().flat_map(|call| one(call.to_string(), libc::EPERM)).collect();
    words.extend(one(format!("{}&{NAMESPACES}", libc::SYS_clone), libc::EPERM));
    // A filter can't see its flags, so that C libraries are to use the older call.
    words.extend(one(libc::SYS_clone3.to_string(), libc::ENOSYS));
    Ok(words)
}
