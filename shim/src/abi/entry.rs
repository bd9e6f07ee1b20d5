//! From a patched instruction to an answer, and back, with every register as the kernel would leave it.
//!
//! ```text
//! stub (one per site):  skip the red zone, push the way back, jump to rift_entry
//! rift_entry:           save the arguments ── glance ──> PASS: the kernel, and back
//!                                               ├──────> PASS_AND_LOOK: the kernel; nothing found? then SERVE
//!                                               ├──────> BARE: the kernel, at an instruction of the stub
//!                                               └──────> SERVE: save what vectors hold, serve
//! ```
//! A system call leaves all registers alone but rax, rcx and r11, so everything here does. [`glance`] and [`after`]
//! use no vector register, which a test checks in the library's code.

#![allow(unsafe_code, reason = "registers are the program's")]

use core::arch::global_asm;
use core::sync::atomic::Ordering;

use linux_raw_sys::general as kernel;

use crate::caches::{self, Known, Working};
use crate::counts;
use crate::hot::HOT;
use crate::room;
use crate::run;
use crate::serve::{self, Asked, Call};
use crate::sys::{self, CWD};
use crate::table::Shape;

/// The kernel does it.
const PASS: usize = 0;
/// The kernel does it; when it finds nothing, the call may mean something in a projection.
const PASS_AND_LOOK: usize = 1;
/// As `PASS_AND_LOOK`, and what stat(2) says has to be looked at.
const PASS_AND_FIX: usize = 2;
/// The call is served.
const SERVE: usize = 3;
/// The kernel does it, at an instruction of the stub: the stack may be another one afterwards.
const BARE: usize = 4;

global_asm!(
    ".text",
    ".p2align 4",
    ".hidden rift_entry",
    ".globl rift_entry",
    "rift_entry:",
    "push r9",
    "push r8",
    "push r10",
    "push rdx",
    "push rsi",
    "push rdi",
    "push rax",
    "push rbp",
    "mov rbp, rsp",
    "and rsp, -16",
    "lea rdi, [rbp + 8]",
    "call {glance}",
    "cmp eax, {serve}",
    "je 3f",
    "cmp eax, {bare}",
    "je 7f",
    "mov ecx, eax",
    "mov rdi, [rbp + 16]",
    "mov rsi, [rbp + 24]",
    "mov rdx, [rbp + 32]",
    "mov r10, [rbp + 40]",
    "mov r8, [rbp + 48]",
    "mov r9, [rbp + 56]",
    "mov rax, [rbp + 8]",
    "test ecx, ecx",
    "jnz 2f",
    "syscall",
    // The result is in rax; everything else is as it was.
    "1:",
    "mov rsp, rbp",
    "pop rbp",
    "lea rsp, [rsp + 56]",
    "pop rcx",
    "lea rsp, [rsp + 128]",
    "jmp rcx",
    "2:",
    "push rcx",
    "push rcx",
    "syscall",
    "pop rcx",
    "pop rcx",
    "cmp rax, -{noent}",
    "je 4f",
    "cmp ecx, {fix}",
    "jne 1b",
    "test rax, rax",
    "jne 1b",
    // A success of stat(2): only files of a projection are looked at further.
    "lea rdi, [rbp + 8]",
    "call {after}",
    "test eax, eax",
    "mov eax, 0",
    "jz 5f",
    "mov edx, {fixed}",
    "jmp 6f",
    "3:",
    "mov edx, {asked_no}",
    "jmp 6f",
    "4:",
    "mov edx, {found_nothing}",
    "6:",
    "lea rdi, [rbp + 8]",
    "mov esi, edx",
    "sub rsp, 272",
    "movups [rsp], xmm0",
    "movups [rsp + 16], xmm1",
    "movups [rsp + 32], xmm2",
    "movups [rsp + 48], xmm3",
    "movups [rsp + 64], xmm4",
    "movups [rsp + 80], xmm5",
    "movups [rsp + 96], xmm6",
    "movups [rsp + 112], xmm7",
    "movups [rsp + 128], xmm8",
    "movups [rsp + 144], xmm9",
    "movups [rsp + 160], xmm10",
    "movups [rsp + 176], xmm11",
    "movups [rsp + 192], xmm12",
    "movups [rsp + 208], xmm13",
    "movups [rsp + 224], xmm14",
    "movups [rsp + 240], xmm15",
    "mov [rsp + 256], rsi",
    "call {take}",
    "lea rdi, [rbp + 8]",
    "mov rsi, [rsp + 256]",
    "test rax, rax",
    "jz 8f",
    // On a stack of the shim's, whose end keeps the way back.
    "mov [rax - 8], rsp",
    "mov [rax - 16], rax",
    "lea rsp, [rax - 16]",
    "call {answer}",
    "mov rdi, [rsp]",
    "mov rsp, [rsp + 8]",
    "mov [rsp + 264], rax",
    "call {give_back}",
    "mov rax, [rsp + 264]",
    "jmp 9f",
    "8:",
    "call {answer}",
    "9:",
    "movups xmm0, [rsp]",
    "movups xmm1, [rsp + 16]",
    "movups xmm2, [rsp + 32]",
    "movups xmm3, [rsp + 48]",
    "movups xmm4, [rsp + 64]",
    "movups xmm5, [rsp + 80]",
    "movups xmm6, [rsp + 96]",
    "movups xmm7, [rsp + 112]",
    "movups xmm8, [rsp + 128]",
    "movups xmm9, [rsp + 144]",
    "movups xmm10, [rsp + 160]",
    "movups xmm11, [rsp + 176]",
    "movups xmm12, [rsp + 192]",
    "movups xmm13, [rsp + 208]",
    "movups xmm14, [rsp + 224]",
    "movups xmm15, [rsp + 240]",
    "5:",
    "mov rdi, [rbp + 16]",
    "mov rsi, [rbp + 24]",
    "mov rdx, [rbp + 32]",
    "mov r10, [rbp + 40]",
    "mov r8, [rbp + 48]",
    "mov r9, [rbp + 56]",
    "jmp 1b",
    // The instruction before the way back makes the call, with the stack as the program had it.
    "7:",
    "mov rsp, rbp",
    "pop rbp",
    "pop rax",
    "pop rdi",
    "pop rsi",
    "pop rdx",
    "pop r10",
    "pop r8",
    "pop r9",
    "pop rcx",
    "lea rsp, [rsp + 128]",
    "sub rcx, 2",
    "jmp rcx",
    glance = sym glance,
    after = sym after,
    answer = sym answer,
    take = sym take,
    give_back = sym give_back,
    serve = const SERVE,
    bare = const BARE,
    fix = const PASS_AND_FIX,
    noent = const linux_raw_sys::errno::ENOENT,
    asked_no = const ASKED_NO,
    found_nothing = const FOUND_NOTHING,
    fixed = const FIXED,
);

const ASKED_NO: u32 = 0;
const FOUND_NOTHING: u32 = 1;
const FIXED: u32 = 2;

unsafe extern "C" {
    safe fn rift_entry();
}

/// Returns where stubs jump to.
pub(super) fn entry() -> usize {
    rift_entry as *const () as usize
}

/// Notes what all directories of projections begin with.
pub(super) fn set_prefix(prefix: &'static [u8]) {
    let end = prefix.last_chunk().copied().map_or(0, u64::from_ne_bytes);
    HOT.prefix_end.store(end, Ordering::Relaxed);
    HOT.prefix_bytes.store(prefix.len(), Ordering::Relaxed);
    HOT.prefix.store(prefix.as_ptr().addr(), Ordering::Release);
}

/// Tells at a glance whether a call may mean something in a projection.
extern "C" fn glance(call: &Call) -> usize {
    let Some(shape) = HOT.shapes.get(call.number) else { return PASS };
    match *shape {
        Shape::None => PASS,
        Shape::Starting => {
            before_start(call);
            BARE
        }
        Shape::Path(at) => glance_at(call, None, at, PASS_AND_LOOK),
        Shape::At(at) => glance_at(call, Some(at - 1), at, PASS_AND_LOOK),
        Shape::Stat(at) => glance_at(call, None, at, PASS_AND_FIX),
        Shape::StatAt(at) => glance_at(call, Some(at - 1), at, PASS_AND_FIX),
        Shape::Open(at) => match call.args[usize::from(at & 7) + 1] as u32 & kernel::O_CREAT {
            0 => glance_at(call, at.checked_sub(1), at, PASS_AND_LOOK),
            _ => SERVE,
        },
        Shape::Change | Shape::Becoming => SERVE,
        Shape::Descriptor(at) => match caches::known(call.args[usize::from(at & 7)] as i32) {
            Known::Outside => PASS,
            _ => SERVE,
        },
        Shape::Closing => {
            close(call);
            PASS
        }
        Shape::Ending => {
            counts::flush();
            PASS
        }
    }
}

fn glance_at(call: &Call, directory: Option<u8>, path: u8, outside: usize) -> usize {
    let address = call.args[usize::from(path & 7)];
    if !sys::may_read(address) {
        // A descriptor alone may be meant, as utimensat(2) and statx(2) have it.
        return if address == 0 && directory.is_some() { SERVE } else { PASS };
    }
    let first = sys::byte_at(address);
    if first == b'/' {
        return if has_prefix(address) || leads_to_descriptors(address) { SERVE } else { outside };
    }
    let descriptor = directory.map_or(CWD, |at| call.args[usize::from(at & 7)] as i32);
    if descriptor != CWD {
        // A number may be that of a descriptor, in a directory of proc(5).
        let is_number = call.number as u32 == kernel::__NR_readlinkat && first.is_ascii_digit();
        let is_outside = caches::known(descriptor) == Known::Outside && first != 0 && !is_number;
        return if is_outside { outside } else { SERVE };
    }
    match caches::working() {
        Working::Outside => outside,
        Working::Above { projection, rest } if first != b'.' => {
            // A record of the run file is more than the registers hold that may be used here.
            match run::directory(projection).and_then(|directory| directory.get(rest..)) {
                Some(wanted) if !begins_with(address, wanted.as_ptr().addr(), wanted.len()) => {
                    outside
                }
                _ => SERVE,
            }
        }
        _ => SERVE,
    }
}

/// Tells whether an absolute path may be one of proc(5), where each process finds its descriptors.
#[inline(always)]
fn leads_to_descriptors(address: usize) -> bool {
    const PROC: u64 = u64::from_ne_bytes(*b"/proc/\0\0");
    const DEV: u64 = u64::from_ne_bytes(*b"/dev/fd/");
    if is_in_sight(address, size_of::<u64>()) {
        let word = sys::word_at(address);
        return word & PROC_MASK == PROC || word == DEV;
    }
    // So near to the end only short paths are.
    false
}

const PROC_MASK: u64 = u64::from_ne_bytes([255, 255, 255, 255, 255, 255, 0, 0]);

/// Tells whether a path begins as all directories of projections do. Paths of one folder differ at their ends, so the last
/// word is compared first, without a look at where the others lie.
#[inline(always)]
fn has_prefix(address: usize) -> bool {
    let bytes = HOT.prefix_bytes.load(Ordering::Relaxed);
    if let Some(end) = bytes.checked_sub(size_of::<u64>())
        && is_in_sight(address, bytes)
        && sys::word_at(address + end) != HOT.prefix_end.load(Ordering::Relaxed)
    {
        return false;
    }
    begins_with(address, HOT.prefix.load(Ordering::Relaxed), bytes)
}

#[inline(always)]
fn begins_with(address: usize, prefix: usize, bytes: usize) -> bool {
    const WORD: usize = size_of::<u64>();
    if bytes < WORD || !is_in_sight(address, bytes) {
        return begins_bytewise(address, prefix, bytes);
    }
    // Paths of one folder differ at their ends.
    let mut at = bytes - WORD;
    while sys::word_at(address + at) == sys::word_at(prefix + at) {
        if at == 0 {
            return true;
        }
        at = at.saturating_sub(WORD);
    }
    false
}

/// Tells whether so many bytes can be read behind an address that can.
#[inline(always)]
fn is_in_sight(address: usize, bytes: usize) -> bool {
    address % sys::PAGE_BYTES + bytes <= sys::PAGE_BYTES || sys::may_read(address + bytes)
}

/// As [`begins_with`], of what may end before the next page, which can't be read.
fn begins_bytewise(address: usize, prefix: usize, bytes: usize) -> bool {
    let mut at = 0;
    while at < bytes {
        let next = address + at;
        // The kernel says what is wrong with a string that has no end.
        let is_new_page = next.is_multiple_of(sys::PAGE_BYTES);
        if is_new_page && !sys::may_read(next) || sys::byte_at(next) != sys::byte_at(prefix + at) {
            return false;
        }
        at += 1;
    }
    true
}

/// Descriptors come to mean something else.
fn close(call: &Call) {
    let first = call.args[0];
    match call.number as u32 {
        kernel::__NR_close => caches::remember(first as i32, Known::Unknown),
        kernel::__NR_close_range => caches::forget(first, call.args[1]),
        _ => caches::remember(call.args[1] as i32, Known::Unknown),
    }
}

/// Tells whether what stat(2) said may be of a file of a projection.
extern "C" fn after(call: &Call) -> usize {
    let (device, inode) = if call.number as u32 == kernel::__NR_statx {
        let Ok(wide) = sys::value::<[u64; 18]>(call.args[4]) else { return 0 };
        let (major, minor) = (wide[17] & 0xffff_ffff, wide[17] >> 32);
        (minor & 0xff | (major & 0xfff) << 8 | (minor & !0xff) << 12, wide[4])
    } else {
        let at = if call.number as u32 == kernel::__NR_newfstatat { 2 } else { 1 };
        let Ok(stat) = sys::value::<[u64; 2]>(call.args[at]) else { return 0 };
        (stat[0], stat[1])
    };
    usize::from(run::may_be_shown(device, inode))
}

/// Takes a stack to serve a call on.
extern "C" fn take() -> usize {
    room::take()
}

extern "C" fn give_back(end: usize) {
    room::give_back(end);
}

/// Serves a call, with all registers at its disposal.
extern "C" fn answer(call: &Call, asked: u32) -> isize {
    match asked {
        FIXED => match serve::keep_identity(call, 0) {
            Ok(()) => 0,
            Err(error) => error.returned(),
        },
        FOUND_NOTHING => serve::serve(call, Asked::FoundNothing),
        _ => serve::serve(call, Asked::No),
    }
}

/// Looks at a call that starts a process: one that shares this memory makes what is remembered worth nothing.
fn before_start(call: &Call) {
    let flags = match call.number as u32 {
        kernel::__NR_vfork => u64::from(kernel::CLONE_VM | kernel::CLONE_VFORK),
        kernel::__NR_clone => call.args[0] as u64,
        kernel::__NR_fork | kernel::__NR_rt_sigreturn => 0,
        // The first field of `clone_args`.
        _ => sys::value::<u64>(call.args[0]).unwrap_or(0),
    };
    let has = |flag: u32| flags & u64::from(flag) != 0;
    match has(kernel::CLONE_VM) {
        true if has(kernel::CLONE_VFORK) => room::share(),
        // It lives on beside this one, and may work in another place.
        true if !(has(kernel::CLONE_FS) && has(kernel::CLONE_FILES)) => room::share_for_good(),
        _ => {}
    }
}

// What the compiler calls for copies: as instructions, which touch no vector register. They are hidden, so that the
// program's own are not replaced.
#[cfg(feature = "preload")]
global_asm!(
    ".text",
    // Named by tables of the core library; nothing here unwinds.
    ".hidden rust_eh_personality",
    ".globl rust_eh_personality",
    "rust_eh_personality:",
    "ud2",
    ".hidden memcpy",
    ".globl memcpy",
    "memcpy:",
    "mov rax, rdi",
    "cmp rdx, 256",
    "ja 4f",
    "cmp rdx, 8",
    "jb 2f",
    "1:",
    "mov rcx, [rsi]",
    "mov [rdi], rcx",
    "add rsi, 8",
    "add rdi, 8",
    "sub rdx, 8",
    "cmp rdx, 8",
    "jae 1b",
    "2:",
    "test rdx, rdx",
    "jz 3f",
    "movzx ecx, byte ptr [rsi]",
    "mov [rdi], cl",
    "inc rsi",
    "inc rdi",
    "dec rdx",
    "jmp 2b",
    "3:",
    "ret",
    "4:",
    "mov rcx, rdx",
    "rep movsb",
    "ret",
    ".hidden memmove",
    ".globl memmove",
    "memmove:",
    "mov rax, rdi",
    "mov rcx, rdx",
    "mov r8, rdi",
    "sub r8, rsi",
    "cmp r8, rdx",
    "jb 2f",
    "rep movsb",
    "ret",
    "2:",
    "lea rdi, [rdi + rdx - 1]",
    "lea rsi, [rsi + rdx - 1]",
    "std",
    "rep movsb",
    "cld",
    "ret",
    ".hidden memset",
    ".globl memset",
    "memset:",
    "mov r8, rdi",
    "mov eax, esi",
    "mov rcx, rdx",
    "rep stosb",
    "mov rax, r8",
    "ret",
    ".hidden memcmp",
    ".globl memcmp",
    ".hidden bcmp",
    ".globl bcmp",
    "memcmp:",
    "bcmp:",
    "1:",
    "cmp rdx, 8",
    "jb 2f",
    "mov rax, [rdi]",
    "mov rcx, [rsi]",
    "cmp rax, rcx",
    "jne 5f",
    "add rdi, 8",
    "add rsi, 8",
    "sub rdx, 8",
    "jmp 1b",
    "2:",
    "xor ecx, ecx",
    "3:",
    "cmp rcx, rdx",
    "je 4f",
    "movzx eax, byte ptr [rdi + rcx]",
    "movzx r8d, byte ptr [rsi + rcx]",
    "inc rcx",
    "sub eax, r8d",
    "je 3b",
    "ret",
    "4:",
    "xor eax, eax",
    "ret",
    // The first byte that differs decides.
    "5:",
    "bswap rax",
    "bswap rcx",
    "cmp rax, rcx",
    "sbb eax, eax",
    "or eax, 1",
    "ret",
);
