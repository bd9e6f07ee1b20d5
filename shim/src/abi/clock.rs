//! The clock of recorded processes. The kernel maps code into each process that tells the time without a system call, see vdso(7);
//! in a process that must not be believed once it has asked for the time of day, that code leads here instead.

use linux_raw_sys::general as kernel;

use super::patch;
use crate::record;
use crate::sys::{self, Errno, Result};

/// `AT_SYSINFO_EHDR`, see getauxval(3).
const VDSO: usize = 33;
/// `DT_STRTAB` and `DT_SYMTAB`, see elf(5).
const STRINGS: i64 = 5;
const SYMBOLS: i64 = 6;
/// How many functions it can have at most.
const SYMBOLS_MAX: usize = 64;
/// What is replaced.
const FUNCTIONS: [(&[u8], usize); 3] =
    [(b"__vdso_clock_gettime", 0), (b"__vdso_gettimeofday", 1), (b"__vdso_time", 2)];

fn replacement(number: usize) -> usize {
    match number {
        0 => clock_gettime as *const () as usize,
        1 => gettimeofday as *const () as usize,
        _ => time as *const () as usize,
    }
}

extern "C" fn clock_gettime(clock: i32, place: usize) -> isize {
    record::asks_clock(clock);
    sys::call(kernel::__NR_clock_gettime as usize, [clock as usize, place, 0, 0, 0, 0])
}

extern "C" fn gettimeofday(place: usize, zone: usize) -> isize {
    record::asks_clock(kernel::CLOCK_REALTIME as i32);
    sys::call(kernel::__NR_gettimeofday as usize, [place, zone, 0, 0, 0, 0])
}

extern "C" fn time(place: usize) -> isize {
    record::asks_clock(kernel::CLOCK_REALTIME as i32);
    sys::call(kernel::__NR_time as usize, [place, 0, 0, 0, 0, 0])
}

/// Leads what tells the time of day here.
pub(super) fn watch() -> Result<()> {
    let Some(start) = find()? else { return Ok(()) };
    let word = |at: usize| sys::value::<u64>(at).map(|word| word as usize);
    let half = |at: usize| sys::value::<u16>(at).map(usize::from);
    // `Elf64_Ehdr` and `Elf64_Phdr`, see elf(5).
    let (headers, size, count) = (start + word(start + 32)?, half(start + 54)?, half(start + 56)?);
    let (mut base, mut dynamic, mut end) = (None, None, start);
    for number in 0..count {
        let header = headers + number * size;
        let address = word(header + 16)?;
        match sys::value::<u32>(header)? {
            1 => {
                base = Some(start.wrapping_sub(address));
                end = start.wrapping_add(address).wrapping_add(word(header + 40)?);
            }
            2 => dynamic = Some(start + word(header + 8)?),
            _ => {}
        }
    }
    let (base, mut at) = (base.ok_or(Errno::IO)?, dynamic.ok_or(Errno::IO)?);
    let (mut strings, mut symbols) = (0, 0);
    loop {
        let (tag, value) = (sys::value::<i64>(at)?, word(at + 8)?);
        match tag {
            0 => break,
            STRINGS => strings = base.wrapping_add(value),
            SYMBOLS => symbols = base.wrapping_add(value),
            _ => {}
        }
        at += 16;
    }
    if strings <= symbols || symbols == 0 {
        return Err(Errno::IO);
    }
    let first = start & !(sys::PAGE_BYTES - 1);
    let bytes = (end - first).next_multiple_of(sys::PAGE_BYTES);
    patch::protect(first, bytes, kernel::PROT_READ | kernel::PROT_WRITE)?;
    // The names lie behind the symbols, of which nothing tells the number otherwise.
    let count = ((strings - symbols) / 24).min(SYMBOLS_MAX);
    for number in 0..count {
        let symbol = symbols + number * 24;
        let name = sys::string(strings + sys::value::<u32>(symbol)? as usize)?;
        if let Some((_, which)) = FUNCTIONS.iter().find(|(known, _)| *known == name) {
            // mov rax, imm64; jmp rax
            let mut jump = [0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xe0];
            jump[2..10].copy_from_slice(&replacement(*which).to_le_bytes());
            let place = base.wrapping_add(word(symbol + 8)?);
            patch::write(place, &jump);
        }
    }
    patch::protect(first, bytes, patch::CODE)
}

/// Finds the kernel's code; `None` where it maps none.
fn find() -> Result<Option<usize>> {
    let file = sys::open(c"/proc/self/auxv", kernel::O_RDONLY, 0)?;
    let mut bytes = [0; 1024];
    let read = sys::read(file, &mut bytes);
    sys::close(file);
    let pairs = bytes.get(..read?).unwrap_or_default().chunks_exact(16);
    let word = |bytes: &[u8]| bytes.try_into().map_or(0, usize::from_ne_bytes);
    let mut found = pairs.map(|pair| (word(&pair[..8]), word(&pair[8..])));
    Ok(found.find(|(kind, _)| *kind == VDSO).map(|(_, value)| value))
}
