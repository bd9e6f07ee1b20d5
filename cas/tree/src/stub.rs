//! The code that takes the place of system calls: what a site becomes, and the stub that it leads to.
//!
//! ```text
//! site:  jmp stub                       | or, where two bytes are all there is: jmp short; padding: jmp stub
//! stub:  syscall; jmp way back          | for calls after which the stack may be another one
//!        (nothing)
//!        what stood before              | so that it ends at the way back
//!        lea rsp, [rsp - 128]           | below is the red zone
//!        lea rcx, [way back]; push rcx  | a system call overwrites rcx
//!        jmp [slot]
//! way back, at WAY_BACK:
//!        what stood after
//!        jmp behind the site
//! ```
//!
//! Nothing in it depends on where the library lies, but for what the slot holds: the same bytes serve in every process,
//! from a file. The slot lies behind the stubs. All addresses are in the library's own numbering.

use crate::run::{SITE_MAX, Site};

/// What a stub takes, in bytes.
pub const STUB_BYTES: usize = 64;
/// Where in a stub the answer goes to; the system call is as far before it.
pub const WAY_BACK: usize = 40;
/// How far below a library the stubs of its patched copy are mapped, in bytes: where programs have other libraries
/// nearer, and where jumps of 2 GiB reach.
pub const STUBS_BELOW: u64 = 1 << 29;
/// What a jump takes, in bytes.
pub const JUMP_BYTES: usize = 5;

/// From what stood before a system call to the way back.
const CALL_BYTES: usize = 5 + 7 + 1 + 6;
/// What is before all of it.
const BARE_BYTES: usize = 4;

const _: () = assert!(BARE_BYTES + SITE_MAX - 2 + CALL_BYTES <= WAY_BACK);
const _: () = assert!(WAY_BACK + SITE_MAX - 2 + JUMP_BYTES <= STUB_BYTES);

/// Bytes of code, as they are put together.
struct Code<const N: usize> {
    start: u64,
    bytes: [u8; N],
    used: usize,
}

impl<const N: usize> Code<N> {
    fn new(start: u64) -> Self {
        // What nothing leads to is a trap.
        Self { start, bytes: [0xcc; N], used: 0 }
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if let Some(place) = self.bytes.get_mut(self.used) {
                *place = *byte;
            }
            self.used += 1;
        }
    }

    /// Adds an instruction that ends with how far it is from its end to `target`.
    fn add_leading_to(&mut self, instruction: &[u8], target: u64) {
        self.add(instruction);
        let end = self.start.wrapping_add(self.used as u64 + 4);
        self.add(&(target.wrapping_sub(end) as u32).to_le_bytes());
    }
}

/// Returns the stub of a site that begins at `at`.
#[must_use]
pub fn stub(site: &Site, at: u64, slot: u64) -> [u8; STUB_BYTES] {
    let displaced = |from: usize, to: usize| site.bytes.get(from..to).unwrap_or_default();
    let (before, after) = match site.hop {
        0 => (usize::from(site.before), usize::from(site.after)),
        _ => (0, 0),
    };
    let mut code = Code::<STUB_BYTES>::new(at);
    code.add(&[0x0f, 0x05, 0xeb, (WAY_BACK - BARE_BYTES) as u8]);
    code.used = entrance(site);
    code.add(displaced(0, before));
    code.add(&[0x48, 0x8d, 0x64, 0x24, 0x80]);
    code.add_leading_to(&[0x48, 0x8d, 0x0d], at.wrapping_add(WAY_BACK as u64));
    code.add(&[0x51]);
    code.add_leading_to(&[0xff, 0x25], slot);
    code.add(displaced(before + 2, before + 2 + after));
    code.add_leading_to(&[0xe9], u64::from(site.address) + site.len() as u64);
    code.bytes
}

/// Returns where in its stub a site jumps to.
#[must_use]
pub fn entrance(site: &Site) -> usize {
    WAY_BACK - CALL_BYTES - usize::from(site.before)
}

/// Returns what a site becomes whose stub begins at `at`: as many of the bytes as there were of [`Site::bytes`].
#[must_use]
pub fn jump(site: &Site, at: u64) -> [u8; SITE_MAX] {
    let target = at.wrapping_add(entrance(site) as u64);
    if site.hop == 0 {
        let mut code = Code::<SITE_MAX>::new(site.address.into());
        code.add_leading_to(&[0xe9], target);
        return code.bytes;
    }
    // The bytes of the hop come first, though they may lie behind.
    let padding = u64::from(site.address).wrapping_add_signed(site.hop.into());
    let mut code = Code::<SITE_MAX>::new(padding.wrapping_sub(2));
    code.add(&[0xeb, (site.hop - 2) as u8]);
    code.add_leading_to(&[0xe9], target);
    code.bytes
}

/// Returns where the bytes of a site lie, in parts: the address of each, and which of [`Site::bytes`] they are.
#[must_use]
pub fn parts(site: &Site) -> [(u64, core::ops::Range<usize>); 2] {
    let address = u64::from(site.address);
    match site.hop {
        0 => [(address, 0..site.len()), (address, 0..0)],
        hop => [(address, 0..2), (address.wrapping_add_signed(hop.into()), 2..2 + JUMP_BYTES)],
    }
}
