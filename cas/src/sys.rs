//! What needs `unsafe`: mapped files, reflinks and the start of writeback.

#![allow(
    unsafe_code,
    reason = "mmap(2), ioctl_ficlonerange(2) and sync_file_range(2) have no safe form"
)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

use memmap2::Mmap;
use rift_tree::sidecar::Stamp;

/// A store file, mapped read-only, and what stat(2) said of it.
#[derive(Debug)]
pub struct Mapped {
    map: Mmap,
    /// What stat(2) said of the file when it was mapped.
    pub stamp: Stamp,
}

impl Mapped {
    /// Maps the whole of `file`.
    ///
    /// # Errors
    /// As mmap(2). An empty file gives an empty mapping.
    pub fn new(file: &File) -> io::Result<Self> {
        let stamp = stamp(file)?;
        // SAFETY: mmap(2): "If the size of the mapped file changes after the call to mmap() as a
        // result of some other operation on the mapped file, the effect of referencing the portions
        // [...] is unspecified". Store files are 0444, never written after they got their name and
        // only replaced by rename, so neither their length nor their bytes change under the map.
        let map = unsafe { Mmap::map(file)? };
        Ok(Self { map, stamp })
    }
}

impl std::ops::Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

/// Returns what stat(2) says of an open file.
///
/// # Errors
/// As fstat(2).
pub fn stamp(file: &File) -> io::Result<Stamp> {
    let stat = file.metadata()?;
    Ok(Stamp {
        size: stat.len(),
        inode: stat.ino(),
        mtime_ns: stat.mtime().saturating_mul(1_000_000_000).saturating_add(stat.mtime_nsec()),
    })
}

/// Starts writing `length` bytes from `offset` to the disk, without waiting for them.
///
/// It only makes a later fdatasync(2) short, so a refusal means nothing.
pub(crate) fn start_writeback(file: &File, offset: u64, length: u64) {
    let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) else {
        return;
    };
    let flags = libc::SYNC_FILE_RANGE_WRITE;
    // SAFETY: sync_file_range(2) takes an open descriptor and three numbers, and touches no memory.
    unsafe { libc::sync_file_range(file.as_raw_fd(), offset, length, flags) };
}

/// Writes the bytes of a file to the disk and waits for them, not for its metadata: sync_file_range(2) waits for no
/// journal, which may hold what others did to ten thousands of files.
///
/// # Errors
/// As fdatasync(2).
pub(crate) fn write_back(file: &File) -> io::Result<()> {
    let flags = libc::SYNC_FILE_RANGE_WRITE
        | libc::SYNC_FILE_RANGE_WAIT_BEFORE
        | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: sync_file_range(2) takes an open descriptor and three numbers, and touches no memory.
    match unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, flags) } {
        0 => Ok(()),
        // Not every file system has it.
        _ => file.sync_data(),
    }
}

/// Offsets and lengths of shared bytes are multiples of this: no common file system's blocks are larger.
pub(crate) const CLONE_ALIGN: u64 = 4096;

/// Makes the start of `target` share `length` bytes of `source` from `offset` on.
///
/// # Errors
/// As ioctl_ficlonerange(2); many file systems can't.
pub(crate) fn clone_range(
    source: &File,
    offset: u64,
    length: u64,
    target: &impl AsRawFd,
) -> io::Result<()> {
    let range = libc::file_clone_range {
        src_fd: i64::from(source.as_raw_fd()),
        src_offset: offset,
        src_length: length,
        dest_offset: 0,
    };
    // SAFETY: ioctl_ficlonerange(2): FICLONERANGE takes a pointer to a file_clone_range, which it
    // only reads; both descriptors are open.
    let result = unsafe { libc::ioctl(target.as_raw_fd(), libc::FICLONERANGE, &raw const range) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
