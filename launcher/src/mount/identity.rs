//! What tells a real file from all others, also from the one that gets its inode number later.

use std::os::fd::BorrowedFd;

use rift_tree::state::{Birth, Real};
use rustix::fs::{AtFlags, StatxFlags};
use rustix::io::Errno;

/// A file, and whom it belongs to.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) real: Real,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Identity {
    /// Looks at a file; a symbolic link is one itself, and `folder` the file where the path is empty.
    ///
    /// # Errors
    /// As statx(2).
    pub(super) fn of(folder: BorrowedFd<'_>, path: &[u8]) -> Result<Self, Errno> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        match rustix::fs::statx(folder, path, flags, wanted) {
            Ok(stat) => {
                let tells = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
                let birth = match stat.stx_btime {
                    time if tells => Birth::new(time.tv_sec, time.tv_nsec),
                    _ => Birth::UNKNOWN,
                };
                let real = Real { inode: stat.stx_ino, birth };
                Ok(Self { real, uid: stat.stx_uid, gid: stat.stx_gid })
            }
            // An old kernel, or a container's filter.
            Err(Errno::NOSYS | Errno::PERM) => {
                let stat = rustix::fs::statat(folder, path, flags)?;
                let real = Real { inode: stat.st_ino, birth: Birth::UNKNOWN };
                Ok(Self { real, uid: stat.st_uid, gid: stat.st_gid })
            }
            Err(error) => Err(error),
        }
    }
}
