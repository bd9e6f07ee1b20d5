//! What stat(2) and its relatives say of entries that are not there.

use linux_raw_sys::general as kernel;
use rift_tree::{EntryId, Kind};

use crate::caches;
use crate::run::Shown;
use crate::sys::{self, Errno, Result, Stat};

/// What a directory of the tree shows as its size, in bytes.
const DIRECTORY_BYTES: u64 = 4096;

/// Returns what stat(2) says of an entry as the tree has it.
pub(crate) fn stat(shown: &Shown, id: EntryId) -> Result<Stat> {
    let mut words = [0_u64; size_of::<Stat>() / size_of::<u64>()];
    each_word(shown, id, |at, word| {
        if let Some(place) = words.get_mut(at) {
            *place = word;
        }
    })?;
    sys::value(words.as_ptr().addr())
}

/// Hands over what stat(2) says of an entry as the tree has it: each word of the structure with its place in it.
#[inline(always)]
pub(crate) fn each_word(shown: &Shown, id: EntryId, mut put: impl FnMut(usize, u64)) -> Result<()> {
    let kind = shown.manifest.kind(id).ok_or(Errno::IO)?;
    let (bits, size, links) = match kind {
        Kind::Directory { .. } => (kernel::S_IFDIR, DIRECTORY_BYTES, 2 + directories(shown, id)),
        Kind::File { size, .. } => (kernel::S_IFREG, size, 1),
        Kind::Symlink { target } => (kernel::S_IFLNK, target.len() as u64, 1),
    };
    let permissions = match kind {
        Kind::Symlink { .. } => 0o777,
        _ => shown.permissions(id),
    };
    let (seconds, nanoseconds) = split(shown.mtime_ns(id));
    let (changed, changed_ns) = split(shown.record.shown_ns);
    let blocks = if bits == kernel::S_IFLNK { 0 } else { size.div_ceil(4096) * 8 };
    put(0, shown.record.device);
    put(1, shown.inode(id));
    put(2, links);
    put(3, u64::from(bits | permissions) | u64::from(shown.record.uid) << 32);
    put(4, u64::from(shown.record.gid));
    put(5, 0);
    put(6, size);
    put(7, 4096);
    put(8, blocks);
    put(9, seconds.cast_unsigned());
    put(10, nanoseconds);
    put(11, seconds.cast_unsigned());
    put(12, nanoseconds);
    put(13, changed.cast_unsigned());
    put(14, changed_ns);
    put(15, 0);
    put(16, 0);
    put(17, 0);
    Ok(())
}

/// Splits nanoseconds since the epoch.
#[inline(always)]
pub(crate) fn split(nanoseconds: i64) -> (i64, u64) {
    // From 0 to 999 999 999.
    let rest = nanoseconds.rem_euclid(1_000_000_000).cast_unsigned();
    (nanoseconds.div_euclid(1_000_000_000), rest)
}

/// Counts the directories in a directory that the tree answers for.
#[inline(always)]
fn directories(shown: &Shown, id: EntryId) -> u64 {
    let Some(Kind::Directory { first, children }) = shown.manifest.kind(id) else { return 0 };
    let (mut at, mut count) = (first.0, 0);
    // No more than there are, so it does not overflow.
    let end = first.0.saturating_add(children).min(shown.manifest.len());
    while at < end {
        let mode = shown.manifest.mode(EntryId(at)).map_or(0, u32::from);
        if mode & kernel::S_IFMT == kernel::S_IFDIR && shown.is_pristine(EntryId(at)) {
            count += 1;
        }
        at += 1;
    }
    count
}

/// Makes what the kernel says of a real file what was said of the entry it was made of.
pub(crate) fn keep_identity(shown: &Shown, id: EntryId, stat: &mut Stat) {
    stat.st_ino = shown.inode(id);
    let is_directory = stat.st_mode & kernel::S_IFMT == kernel::S_IFDIR;
    if is_directory {
        stat.st_nlink += directories(shown, id);
        stat.st_size = DIRECTORY_BYTES.cast_signed();
        stat.st_blocks = 8;
        if id == EntryId::ROOT {
            // That of the orphans is none of its directories.
            stat.st_nlink -= 1;
        }
    }
    let Ok(entry) = self::stat(shown, id) else { return };
    // Who made it real did not change it: as long as nothing else differs, neither does its ctime.
    let is_same = |one: &Stat| {
        (one.st_mode, one.st_uid, one.st_gid, one.st_size, one.st_mtime, one.st_mtime_nsec)
    };
    if is_same(stat) == is_same(&entry) && (is_directory || stat.st_nlink == 1) {
        stat.st_ctime = entry.st_ctime;
        stat.st_ctime_nsec = entry.st_ctime_nsec;
        if !is_directory {
            stat.st_blocks = entry.st_blocks;
        }
    }
}

/// Returns what statx(2) says where stat(2) says this, but for what the kernel alone knows.
pub(crate) fn widen(stat: &Stat, into: &mut kernel::statx) {
    let time = |seconds: u64, nanoseconds: u64| kernel::statx_timestamp {
        tv_sec: seconds.cast_signed(),
        tv_nsec: nanoseconds as u32,
        __reserved: 0,
    };
    into.stx_blksize = stat.st_blksize as u32;
    into.stx_nlink = stat.st_nlink as u32;
    into.stx_uid = stat.st_uid;
    into.stx_gid = stat.st_gid;
    into.stx_mode = stat.st_mode as u16;
    into.stx_ino = stat.st_ino;
    into.stx_size = stat.st_size.cast_unsigned();
    into.stx_blocks = stat.st_blocks.cast_unsigned();
    into.stx_atime = time(stat.st_atime, stat.st_atime_nsec);
    into.stx_ctime = time(stat.st_ctime, stat.st_ctime_nsec);
    into.stx_mtime = time(stat.st_mtime, stat.st_mtime_nsec);
    // The encoding of makedev(3), as far as its numbers reach.
    into.stx_dev_major = (stat.st_dev >> 8 & 0xfff) as u32;
    into.stx_dev_minor = (stat.st_dev & 0xff | stat.st_dev >> 12 & 0xf_ff00) as u32;
}

/// Returns what stat(2) would say where statx(2) says this.
pub(crate) fn narrow(from: &kernel::statx) -> Stat {
    let (major, minor) = (u64::from(from.stx_dev_major), u64::from(from.stx_dev_minor));
    Stat {
        st_dev: minor & 0xff | (major & 0xfff) << 8 | (minor & !0xff) << 12,
        st_ino: from.stx_ino,
        st_nlink: from.stx_nlink.into(),
        st_mode: from.stx_mode.into(),
        st_uid: from.stx_uid,
        st_gid: from.stx_gid,
        __pad0: 0,
        st_rdev: 0,
        st_size: from.stx_size.cast_signed(),
        st_blksize: from.stx_blksize.into(),
        st_blocks: from.stx_blocks.cast_signed(),
        st_atime: from.stx_atime.tv_sec.cast_unsigned(),
        st_atime_nsec: from.stx_atime.tv_nsec.into(),
        st_mtime: from.stx_mtime.tv_sec.cast_unsigned(),
        st_mtime_nsec: from.stx_mtime.tv_nsec.into(),
        st_ctime: from.stx_ctime.tv_sec.cast_unsigned(),
        st_ctime_nsec: from.stx_ctime.tv_nsec.into(),
        __unused: [0; 3],
    }
}

/// Tells whether the process may do something to an entry, see access(2); `by_effective` as AT_EACCESS has it.
pub(crate) fn access(shown: &Shown, id: EntryId, mode: u32, by_effective: bool) -> Result<()> {
    if mode == kernel::F_OK {
        return Ok(());
    }
    let uid = if by_effective { caches::user() } else { caches::real_user() };
    let kind = shown.manifest.kind(id).ok_or(Errno::IO)?;
    let bits = match kind {
        Kind::Symlink { .. } => 0o777,
        _ => shown.permissions(id),
    };
    if uid == 0 {
        let is_directory = matches!(kind, Kind::Directory { .. });
        let is_denied = mode & kernel::X_OK != 0 && bits & 0o111 == 0 && !is_directory;
        return if is_denied { Err(Errno::ACCESS) } else { Ok(()) };
    }
    let group = shown.record.gid;
    let is_of_group = || {
        let (_, gid) = if by_effective { sys::effective_ids() } else { sys::real_ids() };
        gid == group || sys::is_in_group(group)
    };
    let granted = if uid == shown.record.uid {
        bits >> 6
    } else if is_of_group() {
        bits >> 3
    } else {
        bits
    };
    if granted & mode == mode { Ok(()) } else { Err(Errno::ACCESS) }
}
