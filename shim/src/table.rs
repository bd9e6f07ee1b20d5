//! The one table of system calls: which the shim owns, and where their paths and descriptors are.
//!
//! Everything else goes to the kernel without a look. The launcher patches the sites of these numbers only.

use linux_raw_sys::general as kernel;

/// What a system call is given, as far as files go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Not ours.
    None,
    /// It reads what one path leads to; the path is this argument.
    Path(u8),
    /// As `Path`, of the directory in the argument before.
    At(u8),
    /// It fills in what stat(2) says, in the argument after the path.
    Stat(u8),
    /// As `Stat`, of the directory in the argument before the path.
    StatAt(u8),
    /// It opens: the path is this argument, the flags the next one.
    Open(u8),
    /// It makes, changes or moves names, and is looked at whole each time.
    Change,
    /// It asks something of an open directory or file: the descriptor is this argument.
    Descriptor(u8),
    /// It makes descriptors mean something else, and is done whatever they meant.
    Closing,
    /// It makes another descriptor mean what the one in the first argument means.
    Doubling,
    /// It may send descriptors to another process.
    Sending,
    /// It makes the process another user's.
    Becoming,
    /// It may keep SIGSYS from being delivered; looked at only where stray calls are trapped.
    Masking,
    /// Paths may lead elsewhere after it, or calls be forbidden.
    Doubting,
    /// The process ends.
    Ending,
    /// It starts a process, or takes the stack away under itself.
    Starting,
}

/// The number of the largest call that is listed.
pub(crate) const NUMBERS: usize = 480;

/// What each number is given.
pub(crate) const SHAPES: [Shape; NUMBERS] = shapes();

const fn shapes() -> [Shape; NUMBERS] {
    let mut shapes = [Shape::None; NUMBERS];
    let mut at = 0;
    while at < TABLE.len() {
        let (number, shape) = TABLE[at];
        shapes[number as usize] = shape;
        at += 1;
    }
    shapes
}

/// A shape in one byte, for a look at a glance: what it is, and where in the arguments.
///
/// ```text
/// | kind 4 bits | of a directory 1 bit | argument 3 bits |
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Way(u8);

impl Way {
    /// The kernel does it.
    pub(crate) const PASS: Self = Self(0);
    pub(crate) const LOOK: u8 = 1;
    pub(crate) const STAT: u8 = 2;
    pub(crate) const OPEN: u8 = 3;
    pub(crate) const DESCRIPTOR: u8 = 4;
    pub(crate) const CLOSE: u8 = 5;
    pub(crate) const OTHER: u8 = 6;

    const fn of(shape: Shape) -> Self {
        let (kind, argument) = match shape {
            Shape::None => return Self::PASS,
            Shape::Path(at) => (Self::LOOK, at),
            Shape::At(at) => (Self::LOOK, at | 8),
            Shape::Stat(at) => (Self::STAT, at),
            Shape::StatAt(at) => (Self::STAT, at | 8),
            Shape::Open(0) => (Self::OPEN, 0),
            Shape::Open(at) => (Self::OPEN, at | 8),
            Shape::Descriptor(at) => (Self::DESCRIPTOR, at),
            Shape::Closing => (Self::CLOSE, 0),
            _ => (Self::OTHER, 0),
        };
        Self(kind << 4 | argument)
    }

    #[inline(always)]
    pub(crate) fn kind(self) -> u8 {
        self.0 >> 4
    }

    /// Which argument it is, one of the first six.
    #[inline(always)]
    pub(crate) fn argument(self) -> usize {
        usize::from(self.0 & 7)
    }

    /// Whether a directory is in the argument before.
    #[inline(always)]
    pub(crate) fn is_at(self) -> bool {
        self.0 & 8 != 0
    }
}

/// The ways of all numbers.
pub(crate) const WAYS: [Way; NUMBERS] = ways();

const fn ways() -> [Way; NUMBERS] {
    let mut ways = [Way::PASS; NUMBERS];
    let mut at = 0;
    while at < TABLE.len() {
        let (number, shape) = TABLE[at];
        ways[number as usize] = Way::of(shape);
        at += 1;
    }
    ways
}

/// Every system call that the shim owns.
pub(crate) const TABLE: &[(u32, Shape)] = &[
    (kernel::__NR_open, Shape::Open(0)),
    (kernel::__NR_openat, Shape::Open(1)),
    (kernel::__NR_openat2, Shape::Change),
    (kernel::__NR_creat, Shape::Change),
    (kernel::__NR_stat, Shape::Stat(0)),
    (kernel::__NR_lstat, Shape::Stat(0)),
    (kernel::__NR_newfstatat, Shape::StatAt(1)),
    (kernel::__NR_statx, Shape::StatAt(1)),
    (kernel::__NR_fstat, Shape::Descriptor(0)),
    (kernel::__NR_access, Shape::Path(0)),
    (kernel::__NR_faccessat, Shape::At(1)),
    (kernel::__NR_faccessat2, Shape::At(1)),
    (kernel::__NR_readlink, Shape::Path(0)),
    (kernel::__NR_readlinkat, Shape::At(1)),
    (kernel::__NR_getdents64, Shape::Descriptor(0)),
    (kernel::__NR_getdents, Shape::Descriptor(0)),
    (kernel::__NR_lseek, Shape::Descriptor(0)),
    (kernel::__NR_chdir, Shape::Change),
    (kernel::__NR_fchdir, Shape::Change),
    (kernel::__NR_chroot, Shape::Change),
    (kernel::__NR_rename, Shape::Change),
    (kernel::__NR_renameat, Shape::Change),
    (kernel::__NR_renameat2, Shape::Change),
    (kernel::__NR_mkdir, Shape::Change),
    (kernel::__NR_mkdirat, Shape::Change),
    (kernel::__NR_rmdir, Shape::Change),
    (kernel::__NR_unlink, Shape::Change),
    (kernel::__NR_unlinkat, Shape::Change),
    (kernel::__NR_link, Shape::Change),
    (kernel::__NR_linkat, Shape::Change),
    (kernel::__NR_symlink, Shape::Change),
    (kernel::__NR_symlinkat, Shape::Change),
    (kernel::__NR_mknod, Shape::Change),
    (kernel::__NR_mknodat, Shape::Change),
    (kernel::__NR_chmod, Shape::Change),
    (kernel::__NR_fchmodat, Shape::Change),
    (kernel::__NR_fchmodat2, Shape::Change),
    (kernel::__NR_chown, Shape::Change),
    (kernel::__NR_lchown, Shape::Change),
    (kernel::__NR_fchownat, Shape::Change),
    (kernel::__NR_utime, Shape::Change),
    (kernel::__NR_utimes, Shape::Change),
    (kernel::__NR_futimesat, Shape::Change),
    (kernel::__NR_utimensat, Shape::Change),
    (kernel::__NR_truncate, Shape::Change),
    (kernel::__NR_setxattr, Shape::Change),
    (kernel::__NR_lsetxattr, Shape::Change),
    (kernel::__NR_removexattr, Shape::Change),
    (kernel::__NR_lremovexattr, Shape::Change),
    (kernel::__NR_getxattr, Shape::Path(0)),
    (kernel::__NR_lgetxattr, Shape::Path(0)),
    (kernel::__NR_listxattr, Shape::Path(0)),
    (kernel::__NR_llistxattr, Shape::Path(0)),
    (kernel::__NR_statfs, Shape::Path(0)),
    (kernel::__NR_name_to_handle_at, Shape::Change),
    (kernel::__NR_inotify_add_watch, Shape::Change),
    (kernel::__NR_fanotify_mark, Shape::Change),
    (kernel::__NR_execve, Shape::Change),
    (kernel::__NR_execveat, Shape::Change),
    (kernel::__NR_mount, Shape::Change),
    (kernel::__NR_umount2, Shape::Change),
    (kernel::__NR_acct, Shape::Change),
    (kernel::__NR_swapon, Shape::Change),
    (kernel::__NR_swapoff, Shape::Change),
    (kernel::__NR_quotactl, Shape::Change),
    (kernel::__NR_uselib, Shape::Change),
    (kernel::__NR_open_tree, Shape::Change),
    (kernel::__NR_open_tree_attr, Shape::Change),
    (kernel::__NR_move_mount, Shape::Change),
    (kernel::__NR_mount_setattr, Shape::Change),
    (kernel::__NR_fspick, Shape::Change),
    (kernel::__NR_fsconfig, Shape::Change),
    (kernel::__NR_pivot_root, Shape::Change),
    (kernel::__NR_unshare, Shape::Change),
    (kernel::__NR_landlock_add_rule, Shape::Change),
    (kernel::__NR_landlock_restrict_self, Shape::Becoming),
    (kernel::__NR_setxattrat, Shape::Change),
    (kernel::__NR_getxattrat, Shape::Change),
    (kernel::__NR_listxattrat, Shape::Change),
    (kernel::__NR_removexattrat, Shape::Change),
    (kernel::__NR_file_getattr, Shape::Change),
    (kernel::__NR_file_setattr, Shape::Change),
    (kernel::__NR_bind, Shape::Change),
    (kernel::__NR_connect, Shape::Change),
    (kernel::__NR_fchmod, Shape::Descriptor(0)),
    (kernel::__NR_fchown, Shape::Descriptor(0)),
    (kernel::__NR_fsetxattr, Shape::Descriptor(0)),
    (kernel::__NR_fgetxattr, Shape::Descriptor(0)),
    (kernel::__NR_flistxattr, Shape::Descriptor(0)),
    (kernel::__NR_fremovexattr, Shape::Descriptor(0)),
    (kernel::__NR_flock, Shape::Descriptor(0)),
    (kernel::__NR_ioctl, Shape::Descriptor(0)),
    (kernel::__NR_syncfs, Shape::Descriptor(0)),
    (kernel::__NR_open_by_handle_at, Shape::Descriptor(0)),
    (kernel::__NR_fsync, Shape::Descriptor(0)),
    (kernel::__NR_fdatasync, Shape::Descriptor(0)),
    (kernel::__NR_fstatfs, Shape::Descriptor(0)),
    (kernel::__NR_quotactl_fd, Shape::Descriptor(0)),
    (kernel::__NR_close, Shape::Closing),
    (kernel::__NR_close_range, Shape::Closing),
    (kernel::__NR_dup, Shape::Doubling),
    (kernel::__NR_dup2, Shape::Doubling),
    (kernel::__NR_dup3, Shape::Doubling),
    (kernel::__NR_fcntl, Shape::Doubling),
    (kernel::__NR_sendmsg, Shape::Sending),
    (kernel::__NR_sendmmsg, Shape::Sending),
    (kernel::__NR_setns, Shape::Doubting),
    (kernel::__NR_seccomp, Shape::Doubting),
    (kernel::__NR_exit_group, Shape::Ending),
    (kernel::__NR_setuid, Shape::Becoming),
    (kernel::__NR_setreuid, Shape::Becoming),
    (kernel::__NR_setresuid, Shape::Becoming),
    (kernel::__NR_setfsuid, Shape::Becoming),
    (kernel::__NR_io_uring_setup, Shape::Change),
    (kernel::__NR_clone, Shape::Starting),
    (kernel::__NR_clone3, Shape::Starting),
    (kernel::__NR_vfork, Shape::Starting),
    (kernel::__NR_fork, Shape::Starting),
    (kernel::__NR_rt_sigreturn, Shape::Starting),
    (kernel::__NR_rt_sigaction, Shape::Masking),
    (kernel::__NR_rt_sigprocmask, Shape::Masking),
    (kernel::__NR_rt_sigsuspend, Shape::Masking),
    (kernel::__NR_ppoll, Shape::Masking),
    (kernel::__NR_pselect6, Shape::Masking),
    (kernel::__NR_epoll_pwait, Shape::Masking),
    (kernel::__NR_epoll_pwait2, Shape::Masking),
    (kernel::__NR_io_pgetevents, Shape::Masking),
    (kernel::__NR_prctl, Shape::Masking),
];

/// Every system call that is recorded. Those that the shim does not own otherwise are patched only where a run may be recorded.
pub(crate) const RECORDED: &[u32] = &[
    kernel::__NR_open,
    kernel::__NR_openat,
    kernel::__NR_openat2,
    kernel::__NR_creat,
    kernel::__NR_stat,
    kernel::__NR_lstat,
    kernel::__NR_newfstatat,
    kernel::__NR_statx,
    kernel::__NR_access,
    kernel::__NR_faccessat,
    kernel::__NR_faccessat2,
    kernel::__NR_readlink,
    kernel::__NR_readlinkat,
    kernel::__NR_getdents,
    kernel::__NR_getdents64,
    kernel::__NR_rename,
    kernel::__NR_renameat,
    kernel::__NR_renameat2,
    kernel::__NR_mkdir,
    kernel::__NR_mkdirat,
    kernel::__NR_rmdir,
    kernel::__NR_unlink,
    kernel::__NR_unlinkat,
    kernel::__NR_link,
    kernel::__NR_linkat,
    kernel::__NR_symlink,
    kernel::__NR_symlinkat,
    kernel::__NR_chmod,
    kernel::__NR_fchmodat,
    kernel::__NR_fchmodat2,
    kernel::__NR_utime,
    kernel::__NR_utimes,
    kernel::__NR_futimesat,
    kernel::__NR_utimensat,
    kernel::__NR_truncate,
    kernel::__NR_fchmod,
    kernel::__NR_execve,
    kernel::__NR_execveat,
    kernel::__NR_exit_group,
    kernel::__NR_write,
    kernel::__NR_writev,
    kernel::__NR_read,
    kernel::__NR_readv,
    // What goes through it passes by everybody who watches system calls.
    kernel::__NR_io_uring_setup,
    // What can't be done again.
    kernel::__NR_mknod,
    kernel::__NR_mknodat,
    kernel::__NR_chown,
    kernel::__NR_lchown,
    kernel::__NR_fchown,
    kernel::__NR_fchownat,
    kernel::__NR_setxattr,
    kernel::__NR_lsetxattr,
    kernel::__NR_fsetxattr,
    kernel::__NR_removexattr,
    kernel::__NR_lremovexattr,
    kernel::__NR_fremovexattr,
    kernel::__NR_connect,
    kernel::__NR_bind,
    kernel::__NR_chroot,
    kernel::__NR_mount,
    kernel::__NR_umount2,
    kernel::__NR_pivot_root,
    kernel::__NR_unshare,
    kernel::__NR_name_to_handle_at,
    kernel::__NR_open_by_handle_at,
    kernel::__NR_inotify_add_watch,
    kernel::__NR_fanotify_mark,
    kernel::__NR_shmat,
    kernel::__NR_ptrace,
    kernel::__NR_sendfile,
    kernel::__NR_splice,
    kernel::__NR_setsid,
    kernel::__NR_setuid,
    kernel::__NR_setreuid,
    kernel::__NR_setresuid,
    kernel::__NR_getrandom,
];
