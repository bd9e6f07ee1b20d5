//! Puts jumps to stubs in the place of system calls, in libraries whose build-id is known.
//!
//! The bytes of every site are compared before anything is touched: any doubt about one of a library means that the
//! library stays as it is.

#![allow(unsafe_code, reason = "code is written")]

use linux_raw_sys::general as kernel;
use rift_tree::run::{Library, Run, Site};

use super::entry;
use crate::sys::{self, Errno, Result};

/// Room for one stub, in bytes.
const STUB_BYTES: usize = 96;
/// How far a jump reaches, less some for the length of what is jumped over.
const REACH: usize = (1 << 31) - (1 << 20);
const PAGE: usize = 4096;

/// Patches a library that is loaded at `base`; returns how many sites were.
pub(super) fn patch(run: &Run<'_>, library: &Library, base: usize) -> Result<usize> {
    let sites = || run.sites(library);
    let count = sites().count();
    let (Some(first), Some(last)) = (
        sites().map(|site| site.address as usize).min(),
        sites().map(|site| site.address as usize + site.len()).max(),
    ) else {
        return Ok(0);
    };
    if sites().any(|site| !is_as_expected(base, &site)) {
        return Err(Errno::INVAL);
    }
    let bytes = (count * STUB_BYTES).next_multiple_of(PAGE);
    let stubs = near(base + first, base + last, bytes)?;
    for (number, site) in sites().enumerate() {
        let mut stub = Stub { start: stubs + number * STUB_BYTES, used: 0 };
        write_stub(&mut stub, base, &site);
    }
    protect(stubs, bytes, kernel::PROT_READ | kernel::PROT_EXEC)?;
    let start = (base + first) & !(PAGE - 1);
    let length = (base + last).next_multiple_of(PAGE) - start;
    protect(start, length, kernel::PROT_READ | kernel::PROT_WRITE)?;
    for (number, site) in sites().enumerate() {
        let place = base + site.address as usize;
        let mut jump = Stub { start: place, used: 0 };
        jump.jump_to(stubs + number * STUB_BYTES);
        while jump.used < site.len() {
            // A trap: nothing comes here.
            jump.add(&[0xcc]);
        }
    }
    protect(start, length, kernel::PROT_READ | kernel::PROT_EXEC)?;
    Ok(count)
}

fn is_as_expected(base: usize, site: &Site) -> bool {
    let expected = site.bytes.get(..site.len()).unwrap_or_default();
    site.len() >= 5
        && (0..site.len())
            .all(|at| Some(&sys::byte_at(base + site.address as usize + at)) == expected.get(at))
}

/// Reserves memory that jumps from the library reach.
fn near(first: usize, last: usize, bytes: usize) -> Result<usize> {
    let protection = kernel::PROT_READ | kernel::PROT_WRITE;
    let flags = kernel::MAP_PRIVATE | kernel::MAP_ANONYMOUS | kernel::MAP_FIXED_NOREPLACE;
    let mut distance = PAGE * 16;
    while distance < REACH - bytes {
        for start in [
            first.wrapping_sub(distance + bytes) & !(PAGE - 1),
            (last + distance).next_multiple_of(PAGE),
        ] {
            let args = [start, bytes, protection as usize, flags as usize, usize::MAX, 0];
            let found = sys::call(kernel::__NR_mmap as usize, args);
            if found == start.cast_signed() {
                return Ok(start);
            }
            if found > 0 {
                // A kernel that does not know the flag took it for a wish.
                sys::call(kernel::__NR_munmap as usize, [found.unsigned_abs(), bytes, 0, 0, 0, 0]);
            }
        }
        distance += (distance / 2) & !(PAGE - 1);
    }
    Err(Errno::NOENT)
}

fn protect(start: usize, bytes: usize, protection: u32) -> Result<()> {
    match sys::call(kernel::__NR_mprotect as usize, [start, bytes, protection as usize, 0, 0, 0]) {
        0 => Ok(()),
        error => Err(Errno(error.unsigned_abs() as u32)),
    }
}

/// Code that is being written.
struct Stub {
    start: usize,
    used: usize,
}

impl Stub {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            // SAFETY: the caller has made the page writable, and code of this length was measured.
            unsafe { ((self.start + self.used) as *mut u8).write(*byte) };
            self.used += 1;
        }
    }

    /// `jmp rel32`.
    fn jump_to(&mut self, target: usize) {
        let from = self.start + self.used + 5;
        self.add(&[0xe9]);
        // In reach, as the place was chosen.
        self.add(&(target.wrapping_sub(from) as u32).to_le_bytes());
    }
}

/// Writes what a site jumps to.
fn write_stub(stub: &mut Stub, base: usize, site: &Site) {
    let (before, after) = (usize::from(site.before), usize::from(site.after));
    let place = base + site.address as usize;
    let displaced = |from: usize, to: usize| site.bytes.get(from..to).unwrap_or_default();
    stub.add(displaced(0, before));
    // lea rsp, [rsp - 128]: below is the red zone.
    stub.add(&[0x48, 0x8d, 0x64, 0x24, 0x80]);
    // push [rip + 6]: the way back, from behind the jump.
    stub.add(&[0xff, 0x35, 6, 0, 0, 0]);
    // jmp [rip + 8]
    stub.add(&[0xff, 0x25, 8, 0, 0, 0]);
    let way_back = stub.start + stub.used + 18;
    stub.add(&way_back.to_le_bytes());
    stub.add(&entry::entry().to_le_bytes());
    // Where the stack may be another one afterwards, the call is made here, just before the way back.
    stub.add(&[0x0f, 0x05]);
    stub.add(displaced(before + 2, before + 2 + after));
    stub.jump_to(place + site.len());
}
