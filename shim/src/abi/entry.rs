//! From a patched instruction to an answer, and back, with every register as the kernel would leave it.
//!
//! ```text
//! stub (one per site):  skip the red zone, push the way back, jump to rift_entry
//! rift_entry:           save the arguments ── glance ──> PASS: the kernel, and back
//!                                               ├──────> PASS_AND_LOOK: the kernel; nothing found? then perhaps SERVE
//!                                               ├──────> DONE: back, with the answer
//!                                               ├──────> BARE: the kernel, at an instruction of the stub
//!                                               └──────> SERVE: save what vectors hold, serve
//! ```
//! A system call leaves all registers alone but rax, rcx and r11, so everything here does. [`glance`],
//! [`after`] and [`is_nothing`] use no vector register, which a test checks in the library's code.

#![allow(unsafe_code, reason = "registers are the program's")]

use core::arch::global_asm;
use core::sync::atomic::Ordering;

use linux_raw_sys::{general as kernel, prctl};
use rift_tree::run::Count;
use rift_tree::stub::WAY_BACK;

use crate::caches::{self, Known};
use crate::counts;
use crate::hot::HOT;
use crate::quick::{self, BARE, DONE, Glance, PASS, PASS_AND_FIX, SERVE, just};
use crate::record;
use crate::room;
use crate::serve::{self, Asked, Call};
use crate::signals;
use crate::sys;
use crate::table::{SHAPES, Shape, Way};

global_asm!(
    // With what it calls at once, in few pages.
    ".section .text.hot.rift_entry, \"ax\", @progbits",
    ".p2align 6",
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
    "cmp eax, {done}",
    "jae 10f",
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
    "10:",
    "ja 11f",
    "mov rax, rdx",
    "jmp 5f",
    "11:",
    "cmp eax, {bare}",
    "je 7f",
    "mov edx, {asked_no}",
    "jmp 6f",
    "4:",
    "lea rdi, [rbp + 8]",
    "call {is_nothing}",
    "test eax, eax",
    "mov rax, -{noent}",
    "jnz 5f",
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
    // An instruction of the stub makes the call, with the stack as the program had it.
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
    "sub rcx, {way_back}",
    "jmp rcx",
    glance = sym glance,
    after = sym after,
    is_nothing = sym is_nothing,
    answer = sym answer,
    take = sym take,
    give_back = sym give_back,
    done = const DONE,
    bare = const BARE,
    fix = const PASS_AND_FIX,
    way_back = const WAY_BACK,
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
#[unsafe(link_section = ".text.hot.rift_glance")]
pub(super) extern "C" fn glance(call: &Call) -> Glance {
    let Some(way) = HOT.ways.get(call.number).copied() else { return just(PASS) };
    if HOT.prefix_bytes.load(Ordering::Relaxed) == 0 {
        return without_projections(call, way);
    }
    if way == Way::PASS {
        return just(PASS);
    }
    if way.kind() <= Way::OPEN {
        return quick::path(call, way);
    }
    if way.kind() == Way::CLOSE && call.number as u32 == kernel::__NR_close {
        caches::forget_one(call.args[0] as i32);
        return just(PASS);
    }
    look_otherwise(call, way)
}

/// Where nothing is projected, only what is recorded, and what begins and ends, is looked at.
#[unsafe(link_section = ".text.hot.rift_glance")]
#[inline(never)]
fn without_projections(call: &Call, way: Way) -> Glance {
    if record::is_recording() && record::takes(call) {
        return just(SERVE);
    }
    match way != Way::PASS && is_of_processes(call.number) {
        true => look_otherwise(call, way),
        false => just(PASS),
    }
}

/// Tells whether a call begins or ends a process or a program.
#[inline]
fn is_of_processes(number: usize) -> bool {
    matches!(SHAPES.get(number), Some(Shape::Starting | Shape::Ending))
        || matches!(number as u32, kernel::__NR_execve | kernel::__NR_execveat)
}

/// Looks at a call that is not made so often.
#[unsafe(link_section = ".text.hot.rift_glance")]
#[inline(never)]
fn look_otherwise(call: &Call, way: Way) -> Glance {
    if way.kind() == Way::DESCRIPTOR {
        return quick::descriptor(call, way);
    }
    if raises_doubts(call) {
        counts::add(Count::Doubts);
    }
    match SHAPES.get(call.number) {
        Some(Shape::Starting) => {
            before_start(call);
            just(BARE)
        }
        Some(Shape::Closing) => {
            before_closing(call);
            just(PASS)
        }
        Some(Shape::Doubling) => just(before_doubling(call)),
        Some(Shape::Sending) => {
            before_sending();
            just(PASS)
        }
        Some(Shape::Masking) => just(if signals::keeps(call) { SERVE } else { PASS }),
        Some(Shape::Ending) => {
            counts::flush();
            just(PASS)
        }
        Some(Shape::Doubting) => just(PASS),
        _ => just(SERVE),
    }
}

/// Tells whether directories may have other names after a call, or system calls be forbidden.
#[inline]
fn raises_doubts(call: &Call) -> bool {
    match call.number as u32 {
        kernel::__NR_mount
        | kernel::__NR_move_mount
        | kernel::__NR_pivot_root
        | kernel::__NR_chroot
        | kernel::__NR_setns
        | kernel::__NR_seccomp => true,
        kernel::__NR_prctl => call.args[0] as u32 == prctl::PR_SET_SECCOMP,
        _ => false,
    }
}

/// Several descriptors are closed, or only marked, see close_range(2).
fn before_closing(call: &Call) {
    /// `CLOSE_RANGE_UNSHARE`: the thread has descriptors of its own from here on.
    const UNSHARE: u32 = 2;
    /// `CLOSE_RANGE_CLOEXEC`.
    const MARK: u32 = 4;
    let flags = call.args[2] as u32;
    if flags & !(UNSHARE | MARK) != 0 {
        return;
    }
    if flags & UNSHARE != 0 {
        room::share_for_good();
    } else if flags & MARK == 0 {
        caches::forget(call.args[0] as u32 as usize, call.args[1] as u32 as usize);
    }
}

/// A descriptor comes to mean what another one does; that of a stand-in has the same offset.
fn before_doubling(call: &Call) -> usize {
    let number = call.number as u32;
    if number == kernel::__NR_fcntl {
        match call.args[1] as u32 {
            kernel::F_DUPFD | kernel::F_DUPFD_CLOEXEC => {}
            // The kernel does it to a directory, not to its stand-in.
            kernel::F_NOTIFY | kernel::F_SETLEASE => return SERVE,
            _ => return PASS,
        }
    }
    if matches!(number, kernel::__NR_dup2 | kernel::__NR_dup3) && call.args[0] != call.args[1] {
        // It stays what it is if the call fails.
        if caches::known(call.args[1] as i32) == Known::StandIn {
            return SERVE;
        }
        caches::forget_one(call.args[1] as i32);
    }
    if caches::known(call.args[0] as i32) == Known::StandIn { SERVE } else { PASS }
}

/// Descriptors that are sent along with a message another process has open, too.
fn before_sending() {
    caches::give_offsets_back();
}

/// Tells whether what stat(2) said may be of a file of a projection.
#[unsafe(link_section = ".text.hot.rift_glance")]
extern "C" fn after(call: &Call) -> usize {
    usize::from(quick::may_be_shown(call))
}

/// Tells whether what the kernel found nothing for is known to lead into no projection.
#[unsafe(link_section = ".text.hot.rift_glance")]
extern "C" fn is_nothing(call: &Call) -> usize {
    usize::from(quick::is_nothing(call))
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
        _ if record::is_recording() && record::takes(call) => record::serve(call),
        FIXED => serve::fix_up(call),
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
    if call.number as u32 != kernel::__NR_rt_sigreturn
        && !(has(kernel::CLONE_VM) && has(kernel::CLONE_FILES))
    {
        caches::give_offsets_back();
    }
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
    "ja 5f",
    "cmp rdx, 8",
    "jb 2f",
    // Words, and the last one once more where it is not whole.
    "mov r8, [rsi + rdx - 8]",
    "lea r9, [rdi + rdx - 8]",
    "1:",
    "mov rcx, [rsi]",
    "mov [rdi], rcx",
    "add rsi, 8",
    "add rdi, 8",
    "sub rdx, 8",
    "cmp rdx, 8",
    "jae 1b",
    "mov [r9], r8",
    "ret",
    "2:",
    "cmp rdx, 4",
    "jb 3f",
    "mov ecx, [rsi]",
    "mov r8d, [rsi + rdx - 4]",
    "mov [rdi], ecx",
    "mov [rdi + rdx - 4], r8d",
    "ret",
    "3:",
    "test rdx, rdx",
    "jz 4f",
    // The first, the middle and the last of at most three.
    "mov r9, rdx",
    "shr r9, 1",
    "movzx ecx, byte ptr [rsi]",
    "movzx r8d, byte ptr [rsi + rdx - 1]",
    "movzx esi, byte ptr [rsi + r9]",
    "mov [rdi], cl",
    "mov [rdi + r9], sil",
    "mov [rdi + rdx - 1], r8b",
    "4:",
    "ret",
    "5:",
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
    "movzx eax, sil",
    "cmp rdx, 256",
    "ja 3f",
    "cmp rdx, 8",
    "jb 2f",
    "mov rcx, 0x0101010101010101",
    "imul rax, rcx",
    "lea r9, [rdi + rdx - 8]",
    "1:",
    "mov [rdi], rax",
    "add rdi, 8",
    "cmp rdi, r9",
    "jb 1b",
    "mov [r9], rax",
    "mov rax, r8",
    "ret",
    "2:",
    "test rdx, rdx",
    "jz 4f",
    "mov [rdi], al",
    "inc rdi",
    "dec rdx",
    "jmp 2b",
    "3:",
    "mov rcx, rdx",
    "rep stosb",
    "4:",
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
