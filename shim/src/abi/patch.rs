//! Puts jumps to stubs in the place of system calls, in libraries whose build-id is known.
//!
//! Mostly that is done already: the launcher has made a copy of the library, and its code is mapped over the library's
//! own, where that comes from the very file that was copied. No page is written then, and no kernel that lets nothing
//! become executable is in the way. Else the library is patched in its place, after the bytes of every site were
//! compared: any doubt about one of a library means that the library stays as it is.

#![allow(unsafe_code, reason = "code is written")]

use core::ffi::CStr;

use linux_raw_sys::general as kernel;
use rift_tree::run::{Library, Original, Run, Site, Watched};
use rift_tree::stub::{self, STUB_BYTES, STUBS_BELOW};

use super::entry;
use crate::sys::{self, CWD, Errno, Result};

/// How far a jump reaches, less some for the length of what is jumped over.
const REACH: usize = (1 << 31) - (1 << 20);
const PAGE: usize = 4096;
pub(super) const CODE: u32 = kernel::PROT_READ | kernel::PROT_EXEC;
const DATA: u32 = kernel::PROT_READ | kernel::PROT_WRITE;

/// How a library is patched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Its copy is mapped, if that is possible.
    Copy,
    /// It is patched where it is.
    InPlace,
}

/// Patches a library that is loaded at `base` from the file `name`.
pub(super) fn patch(
    run: &Run<'_>,
    library: &Library<'_>,
    base: usize,
    name: &CStr,
    way: Way,
) -> Result<()> {
    match way {
        Way::Copy if map_copy(library, base, name).is_ok() => Ok(()),
        _ => patch_in_place(run, library, base),
    }
}

/// Tells whether a debugger stops a library.
pub(super) fn is_watched((base, library): (usize, &Library<'_>)) -> bool {
    let is_stop =
        |one: &Watched| one.address != 0 && sys::byte_at(base + one.address as usize) != one.byte;
    library.watched.iter().any(is_stop)
}

/// Maps the code of the patched copy over the library's.
fn map_copy(library: &Library<'_>, base: usize, name: &CStr) -> Result<()> {
    if library.copy.is_empty() || library.original != original(name)? {
        return Err(Errno::NOENT);
    }
    let file = sys::open(library.copy, kernel::O_RDONLY, 0)?;
    let mapped = map_stubs_and_code(library, base, file);
    sys::close(file);
    mapped
}

/// Returns what tells the file at a path from all others.
fn original(path: &CStr) -> Result<Original> {
    let stat = sys::stat_at(CWD, path, 0)?;
    let time = |seconds: u64, ns: u64| {
        seconds.cast_signed().wrapping_mul(1_000_000_000).wrapping_add(ns.cast_signed())
    };
    Ok(Original {
        device: stat.st_dev,
        inode: stat.st_ino,
        size: stat.st_size as u64,
        mtime_ns: time(stat.st_mtime, stat.st_mtime_nsec),
        ctime_ns: time(stat.st_ctime, stat.st_ctime_nsec),
    })
}

fn map_stubs_and_code(library: &Library<'_>, base: usize, file: i32) -> Result<()> {
    let (stubs, bytes) = (base.wrapping_sub(STUBS_BELOW as usize), library.stubs_bytes as usize);
    let slot = stubs + bytes;
    let from = Some((file, library.stubs_offset as usize));
    map(stubs, bytes, CODE, kernel::MAP_FIXED_NOREPLACE, from)?;
    let mapped = map(slot, PAGE, DATA, kernel::MAP_FIXED_NOREPLACE, None).and_then(|()| {
        // SAFETY: it was just mapped, and is nobody else's.
        unsafe { (slot as *mut usize).write(entry::entry()) };
        // The code that was there is replaced in one step, by the same but for its sites.
        let from = Some((file, library.code_offset as usize));
        map(
            base + library.code as usize,
            library.code_bytes as usize,
            CODE,
            kernel::MAP_FIXED,
            from,
        )
        .inspect_err(|_| sys::release(slot, PAGE))
    });
    mapped.inspect_err(|_| sys::release(stubs, bytes))
}

/// Patches a library where it is.
fn patch_in_place(run: &Run<'_>, library: &Library<'_>, base: usize) -> Result<()> {
    let sites = || run.sites(library);
    let places = || {
        let parts = sites().flat_map(|site| stub::parts(&site));
        parts.map(|(address, part)| (base + address as usize, part.len()))
    };
    let (Some(first), Some(last)) =
        (places().map(|(at, _)| at).min(), places().map(|(at, bytes)| at + bytes).max())
    else {
        return Ok(());
    };
    if sites().any(|site| !is_as_expected(base, &site)) {
        return Err(Errno::INVAL);
    }
    let bytes = (sites().count() * STUB_BYTES + size_of::<usize>()).next_multiple_of(PAGE);
    let stubs = near(first, last, bytes)?;
    let slot = stubs + bytes - size_of::<usize>();
    let own = |address: usize| address.wrapping_sub(base) as u64;
    for (number, site) in sites().enumerate() {
        let at = stubs + number * STUB_BYTES;
        write(at, &stub::stub(&site, own(at), own(slot)));
    }
    write(slot, &entry::entry().to_le_bytes());
    protect(stubs, bytes, CODE)?;
    let start = first & !(PAGE - 1);
    let length = last.next_multiple_of(PAGE) - start;
    protect(start, length, DATA)?;
    for (number, site) in sites().enumerate() {
        let jump = stub::jump(&site, own(stubs + number * STUB_BYTES));
        for (address, part) in stub::parts(&site) {
            write(base + address as usize, jump.get(part).unwrap_or_default());
        }
    }
    protect(start, length, CODE)
}

fn is_as_expected(base: usize, site: &Site) -> bool {
    let is_so = |(address, part): (u64, core::ops::Range<usize>)| {
        let expected = site.bytes.get(part).unwrap_or_default();
        let mut all = (base + address as usize..).zip(expected);
        all.all(|(at, byte)| sys::byte_at(at) == *byte)
    };
    stub::parts(site).into_iter().all(is_so)
}

/// Reserves memory that jumps from the library reach.
fn near(first: usize, last: usize, bytes: usize) -> Result<usize> {
    let mut distance = PAGE * 16;
    while distance < REACH - bytes {
        for start in [
            first.wrapping_sub(distance + bytes) & !(PAGE - 1),
            (last + distance).next_multiple_of(PAGE),
        ] {
            if map(start, bytes, DATA, kernel::MAP_FIXED_NOREPLACE, None).is_ok() {
                return Ok(start);
            }
        }
        distance += (distance / 2) & !(PAGE - 1);
    }
    Err(Errno::NOENT)
}

/// Maps memory at an address, from a file and where it begins in it, or of zeros.
fn map(
    start: usize,
    bytes: usize,
    protection: u32,
    how: u32,
    from: Option<(i32, usize)>,
) -> Result<()> {
    let (kind, file, offset) = match from {
        Some((file, offset)) => (0, file as usize, offset),
        None => (kernel::MAP_ANONYMOUS, usize::MAX, 0),
    };
    let flags = (kernel::MAP_PRIVATE | how | kind) as usize;
    let args = [start, bytes, protection as usize, flags, file, offset];
    let found = sys::call(kernel::__NR_mmap as usize, args);
    if found == start.cast_signed() {
        return Ok(());
    }
    if found > 0 {
        // A kernel that does not know the flag took it for a wish.
        sys::release(found.unsigned_abs(), bytes);
        return Err(Errno::EXIST);
    }
    Err(Errno(found.unsigned_abs() as u32))
}

pub(super) fn protect(start: usize, bytes: usize, protection: u32) -> Result<()> {
    match sys::call(kernel::__NR_mprotect as usize, [start, bytes, protection as usize, 0, 0, 0]) {
        0 => Ok(()),
        error => Err(Errno(error.unsigned_abs() as u32)),
    }
}

pub(super) fn write(start: usize, bytes: &[u8]) {
    for (at, byte) in (start..).zip(bytes) {
        // SAFETY: the caller has made the page writable, and what is there was looked at or is its own.
        unsafe { (at as *mut u8).write(*byte) };
    }
}
