//! What needs `unsafe`: mapped files, the words of state files, reflinks and the start of writeback.

#![allow(
    unsafe_code,
    reason = "mmap(2), mremap(2), ioctl_ficlonerange(2) and sync_file_range(2) have no safe form"
)]

use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

use memmap2::{Mmap, MmapMut};
use rift_tree::sidecar::Stamp;

/// A store file, mapped read-only, and what stat(2) said of it.
#[derive(Debug)]
pub struct Mapped {
    bytes: Mmap,
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
        let bytes = unsafe { Mmap::map(file)? };
        Ok(Self { bytes, stamp })
    }

    /// Puts a copy of the bytes in the place of the mapped pages, so that they stay whatever becomes of the file.
    /// Others may read them meanwhile.
    ///
    /// # Errors
    /// As mmap(2) and mremap(2); then the file's pages stay.
    pub fn keep(&self) -> io::Result<()> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        let mut copy = MmapMut::map_anon(self.bytes.len())?;
        copy.copy_from_slice(&self.bytes);
        let mut copy = ManuallyDrop::new(copy.make_read_only()?);
        let place = self.bytes.as_ptr().cast_mut().cast::<libc::c_void>();
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        let length = copy.len();
        // SAFETY: mremap(2): with MREMAP_FIXED "any previous mapping at the address range specified by new_address
        // and new_size is unmapped", in one step for other threads, who hold the address space's lock when they
        // fault. Both ranges are whole mappings of `length` bytes with the same contents, from which this process
        // only reads, and the place is unmapped by `bytes` as before.
        let moved =
            unsafe { libc::mremap(copy.as_ptr().cast_mut().cast(), length, length, flags, place) };
        if moved == libc::MAP_FAILED {
            let error = io::Error::last_os_error();
            // SAFETY: the copy was not moved, so it is its own to unmap, and it is not used again.
            unsafe { ManuallyDrop::drop(&mut copy) };
            return Err(error);
        }
        Ok(())
    }
}

impl std::ops::Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Returns the id of this boot, see random(4); zeros where the system does not tell.
#[must_use]
pub fn boot_id() -> [u8; 16] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).unwrap_or_default().to_be_bytes()
}

/// Returns what stat(2) says of an open file.
///
/// # Errors
/// As fstat(2).
pub fn stamp(file: &File) -> io::Result<Stamp> {
    Ok(stamp_of(&file.metadata()?))
}

/// Returns the part of what stat(2) says that a sidecar keeps.
pub(crate) fn stamp_of(stat: &std::fs::Metadata) -> Stamp {
    Stamp { size: stat.len(), inode: stat.ino(), mtime_ns: ns(stat.mtime(), stat.mtime_nsec()) }
}

/// Returns a time in nanoseconds, as stat(2) tells it in two parts.
pub(crate) fn ns(seconds: i64, rest: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
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

/// A file that several processes change through shared mappings of it.
#[derive(Debug)]
pub(crate) struct Shared {
    map: memmap2::MmapRaw,
}

impl Shared {
    /// Maps `length` bytes of `file`, which are on the disk already: who extended it by fallocate(2)
    /// gets no SIGBUS when the disk is full.
    ///
    /// # Errors
    /// As mmap(2), or EINVAL when the file is shorter.
    pub(crate) fn new(file: &File, length: usize) -> io::Result<Self> {
        if file.metadata()?.len() < length as u64 {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let map = memmap2::MmapOptions::new().len(length).map_raw(file)?;
        Ok(Self { map })
    }

    /// Returns the `count` state words from byte `offset` on.
    ///
    /// # Panics
    /// When they do not lie in the mapping, or not at a multiple of eight.
    pub(crate) fn words(&self, offset: usize, count: usize) -> &[rift_tree::state::StateWord] {
        let first = self.part(offset, count, 8, size_of::<rift_tree::state::StateWord>());
        // SAFETY: slice::from_raw_parts asks for `count` initialized, aligned values that live as long
        // as the result and are only changed through interior mutability. `part` has asserted the bounds
        // and the alignment; a word is `repr(C)` of two atomics, for which all bytes are values; and
        // other processes change them by atomic instructions only, as docs/format.md asks.
        unsafe { std::slice::from_raw_parts(first.cast(), count) }
    }

    /// Returns the `count` slots from byte `offset` on.
    ///
    /// # Panics
    /// When they do not lie in the mapping, or not at a multiple of four.
    pub(crate) fn slots(&self, offset: usize, count: usize) -> &[std::sync::atomic::AtomicU32] {
        let first = self.part(offset, count, 4, rift_tree::state::SLOT_BYTES);
        // SAFETY: as above, with one atomic.
        unsafe { std::slice::from_raw_parts(first.cast(), count) }
    }

    /// Returns where `count` values of so many bytes begin that lie in the mapping, aligned.
    fn part(&self, offset: usize, count: usize, alignment: usize, bytes: usize) -> *const u8 {
        let end = count.checked_mul(bytes).and_then(|bytes| bytes.checked_add(offset));
        assert!(end.is_some_and(|end| end <= self.map.len()), "values lie in the mapping");
        // mmap(2) gives whole pages.
        assert!(offset.is_multiple_of(alignment), "values are aligned");
        // SAFETY: `offset` is at most the length of the mapping, so the sum stays in one object.
        unsafe { self.map.as_ptr().add(offset) }
    }

    /// Writes what changed to the disk.
    ///
    /// # Errors
    /// As msync(2).
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.map.flush()
    }
}

/// Reads all of `buffer` from `offset` on, and leaves in the page cache only what was there before.
///
/// # Errors
/// As preadv2(2); `UnexpectedEof` when the file ends before.
pub(crate) fn read_uncached(file: &File, mut offset: u64, mut buffer: &mut [u8]) -> io::Result<()> {
    // preadv2(2), since Linux 6.14; not known to libc.
    const RWF_DONTCACHE: u32 = 0x80;
    let flags = rustix::io::ReadWriteFlags::from_bits_retain(RWF_DONTCACHE);
    let start = offset;
    let mut is_cached = false;
    while !buffer.is_empty() {
        let read = match is_cached {
            false => rustix::io::preadv2(file, &mut [io::IoSliceMut::new(buffer)], offset, flags),
            true => rustix::io::pread(file, &mut *buffer, offset),
        };
        match read {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                offset += count as u64;
                buffer = &mut buffer[count..];
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) if !is_cached => {
                is_cached = true;
            }
            Err(error) => return Err(error.into()),
        }
    }
    if is_cached {
        let length = std::num::NonZeroU64::new(offset - start);
        // Advice: a refusal costs memory only.
        let advice = rustix::fs::Advice::DontNeed;
        let _is_dropped = rustix::fs::fadvise(file, start, length, advice).is_ok();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_bytes_outlive_their_file() {
        let path = std::env::temp_dir().join(format!("rift-kept-{}", std::process::id()));
        let bytes: Vec<u8> = (0..300_000_u32).map(|number| number as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let mapped = Mapped::new(&File::open(&path).unwrap()).unwrap();
        let place = mapped.as_ptr();
        mapped.keep().unwrap();
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
        std::fs::remove_file(&path).unwrap();
        // Without a handler, a lost page would end this process.
        assert!(*mapped == bytes && mapped.as_ptr() == place);
    }
}
