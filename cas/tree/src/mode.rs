//! File type and permission bits as a manifest keeps them: those of `st_mode`, see inode(7).

/// Mask of the type bits.
pub const S_IFMT: u16 = 0o170_000;
/// A directory.
pub const S_IFDIR: u16 = 0o040_000;
/// A regular file.
pub const S_IFREG: u16 = 0o100_000;
/// A symbolic link.
pub const S_IFLNK: u16 = 0o120_000;
/// The permission bits that a tree may hold: set-user-ID and set-group-ID never enter one.
pub const PERMISSIONS: u16 = 0o1777;
/// The mode of every symbolic link, as Linux reports it.
pub const SYMLINK_MODE: u16 = S_IFLNK | 0o777;
