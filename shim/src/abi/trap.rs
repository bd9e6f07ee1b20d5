//! System calls that the program makes by instructions of its own: trapped by Syscall User Dispatch, and then as any other.
//!
//! ```text
//! syscall (of the program) ── SIGSYS ──> trapped: what does glance say?
//!                              ├─> nothing for us, or a process starts: on at a gate, with every register as it was
//!                              ├─> answered: back, with the answer
//!                              └─> to be served: on at rift_entry, on a stack of the shim's
//! gate (one per instruction):  syscall; jump behind the program's own instruction
//! ```
//! The kernel lets calls through that are made by the shim's code, and traps all others of a thread that asked for it, see
//! PR_SET_SYSCALL_USER_DISPATCH in prctl(2). What a gate leads back to is in memory that nobody else's stack overwrites, so
//! that a child which shares the stack does no harm. The handler makes no call for the program: it is over before the call
//! begins, so signals, masks and stacks are what the program made them. A new thread or process is not trapped at first;
//! the gate that it comes out of sees to that. The next program begins without, and its shim asks again.

#![allow(unsafe_code, reason = "registers are the program's")]

use core::arch::global_asm;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use linux_raw_sys::{general as kernel, prctl};

use super::entry;
use crate::exec;
use crate::quick::{BARE, DONE, PASS};
use crate::room;
use crate::serve::Call;
use crate::signals::{self, Action, DEFAULT, IGNORED};
use crate::sys::{self, Errno, Result};

/// How many instructions have a gate.
const GATES: usize = 512;
/// How many have one that processes and threads may start at.
const STARTS: usize = 64;
/// What the code of each takes, and so each place that it leads to.
const GATE_BYTES: usize = 8;
const START_BYTES: usize = 32;
/// What x86_64 calls itself, see `linux/audit.h`.
const ARCHITECTURE: u32 = 0xc000_003e;
/// Below the stack is what a leaf function keeps.
const RED_ZONE: usize = 128;

global_asm!(
    ".text",
    ".p2align 5",
    ".hidden rift_gates",
    ".globl rift_gates",
    "rift_gates:",
    ".rept {gates}",
    "syscall",
    // jmp [rip + ...]; a place is as far from its gate as any other.
    ".byte 0xff, 0x25",
    ".long {ways} - rift_gates - 8",
    ".endr",
    ".p2align 5",
    ".hidden rift_starts",
    ".globl rift_starts",
    "rift_starts:",
    ".rept {starts}",
    "syscall",
    "test rax, rax",
    "jnz 2f",
    "add rsp, -128",
    "call rift_arm",
    "sub rsp, -128",
    "2:",
    ".byte 0xff, 0x25",
    ".long {start_ways} - rift_starts - 26",
    ".p2align 5",
    ".endr",
    // What a new thread or process does first: it may have no handlers any more, and traps no calls.
    ".hidden rift_arm",
    ".globl rift_arm",
    "rift_arm:",
    "push rdi",
    "push rsi",
    "push rdx",
    "push r10",
    "push r8",
    "mov eax, {sigaction}",
    "mov edi, {sigsys}",
    "lea rsi, [rip + {action}]",
    "xor edx, edx",
    "mov r10d, 8",
    "syscall",
    "mov eax, {prctl}",
    "mov edi, {dispatch}",
    "mov esi, {on}",
    "mov rdx, [rip + {code}]",
    "mov r10, [rip + {code} + 8]",
    "xor r8d, r8d",
    "syscall",
    "pop r8",
    "pop r10",
    "pop rdx",
    "pop rsi",
    "pop rdi",
    "xor eax, eax",
    "ret",
    // Where a served call comes back to, on the stack of the shim's that it was served on.
    ".hidden rift_leave",
    ".globl rift_leave",
    "rift_leave:",
    "mov rcx, [rsp + 16]",
    "mov r11, [rsp + 24]",
    "mov rsp, [rsp + 8]",
    // From here on it is another's.
    "mov dword ptr [r11], 0",
    "jmp rcx",
    // Debuggers and unwinders know it by its bytes.
    ".hidden rift_restorer",
    ".globl rift_restorer",
    "rift_restorer:",
    "mov rax, {sigreturn}",
    "syscall",
    // Calls the second argument on the stack that the first one is the end of.
    ".hidden rift_call_on",
    ".globl rift_call_on",
    "rift_call_on:",
    "push rbp",
    "mov rbp, rsp",
    "mov rsp, rdi",
    "call rsi",
    "mov rsp, rbp",
    "pop rbp",
    "ret",
    gates = const GATES,
    starts = const STARTS,
    ways = sym WAYS,
    start_ways = sym START_WAYS,
    action = sym ACTION,
    code = sym CODE,
    sigaction = const kernel::__NR_rt_sigaction,
    sigreturn = const kernel::__NR_rt_sigreturn,
    sigsys = const kernel::SIGSYS,
    prctl = const kernel::__NR_prctl,
    dispatch = const prctl::PR_SET_SYSCALL_USER_DISPATCH,
    on = const prctl::PR_SYS_DISPATCH_ON,
);

unsafe extern "C" {
    safe fn rift_gates();
    safe fn rift_starts();
    safe fn rift_arm();
    safe fn rift_leave();
    safe fn rift_restorer();
    fn rift_call_on(end: usize, function: extern "C" fn());
}

/// Where the gates lead to; 0 while nothing does.
static WAYS: [AtomicUsize; GATES] = [const { AtomicUsize::new(0) }; GATES];

/// Where a gate leads to that processes start at, in as many bytes as its code takes.
#[repr(C, align(32))]
struct StartWay(AtomicUsize);

const _: () = assert!(size_of::<usize>() == GATE_BYTES && size_of::<StartWay>() == START_BYTES);

static START_WAYS: [StartWay; STARTS] = [const { StartWay(AtomicUsize::new(0)) }; STARTS];

/// What the kernel is told to do at the signal, as [`Action`].
static ACTION: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];

/// The code whose calls are let through: where it begins, and how long it is.
static CODE: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];

/// What stands for the flag of a stack where none was free.
static NOBODYS: AtomicU32 = AtomicU32::new(0);

/// The start of `siginfo_t` of a trapped call, see sigaction(2).
#[repr(C)]
struct Info {
    signal: i32,
    error: i32,
    code: i32,
    address: usize,
    number: i32,
    architecture: u32,
}

/// `ucontext_t`, see `asm/ucontext.h` and getcontext(3).
#[repr(C)]
struct Context {
    flags: u64,
    link: usize,
    stack: [usize; 3],
    registers: Registers,
    /// Segments, and what a fault has left.
    others: [u64; 5],
    floats: usize,
    reserved: [u64; 8],
    mask: u64,
}

/// The first part of `struct sigcontext`.
#[repr(C)]
struct Registers {
    r8: usize,
    r9: usize,
    r10: usize,
    r11: usize,
    r12_to_r15: [usize; 4],
    rdi: usize,
    rsi: usize,
    rbp: usize,
    rbx: usize,
    rdx: usize,
    rax: usize,
    rcx: usize,
    rsp: usize,
    rip: usize,
    flags: usize,
}

const _: () = assert!(core::mem::offset_of!(Context, mask) == 296);

/// Traps the calls of this thread, and of all that it starts, but for those of `code`: the shim's own.
pub(super) fn begin(code: (usize, usize)) -> Result<()> {
    CODE[0].store(code.0, Ordering::Relaxed);
    CODE[1].store(code.1, Ordering::Release);
    let mut before = Action { handler: DEFAULT, flags: 0, restorer: 0, mask: 0 };
    ask(
        kernel::__NR_rt_sigaction,
        [kernel::SIGSYS as usize, 0, core::ptr::from_mut(&mut before).addr(), size_of::<u64>(), 0],
    )?;
    signals::begin(&before);
    act()?;
    let own = !signals::without_own(u64::MAX);
    let (how, set) = (kernel::SIG_UNBLOCK as usize, core::ptr::from_ref(&own).addr());
    ask(kernel::__NR_rt_sigprocmask, [how, set, 0, size_of::<u64>(), 0])?;
    dispatch(prctl::PR_SYS_DISPATCH_ON, code)
}

/// Tells the kernel to trap the calls of this thread, or no more.
fn dispatch(whether: u32, code: (usize, usize)) -> Result<()> {
    let option = prctl::PR_SET_SYSCALL_USER_DISPATCH as usize;
    ask(kernel::__NR_prctl, [option, whether as usize, code.0, code.1, 0])
}

fn ask(number: u32, args: [usize; 5]) -> Result<()> {
    let [first, second, third, fourth, fifth] = args;
    match sys::call(number as usize, [first, second, third, fourth, fifth, 0]) {
        0.. => Ok(()),
        error => Err(Errno(error.unsigned_abs() as u32)),
    }
}

/// Takes the signal over. Whether it interrupts for good what it finds waiting is up to the program's own handler.
pub(crate) fn act() -> Result<()> {
    let wanted = signals::wanted();
    let restarts = u64::from(kernel::SA_RESTART);
    let is_handled = !matches!(wanted.handler, DEFAULT | IGNORED);
    let may_restart = if is_handled { wanted.flags & restarts } else { restarts };
    let flags = kernel::SA_SIGINFO | kernel::SA_NODEFER | kernel::SA_ONSTACK | kernel::SA_RESTORER;
    let handler: extern "C" fn(i32, &Info, &mut Context) = trapped;
    ACTION[0].store(handler as usize as u64, Ordering::Relaxed);
    ACTION[1].store(u64::from(flags) | may_restart, Ordering::Relaxed);
    ACTION[2].store(rift_restorer as *const () as u64, Ordering::Release);
    set(ACTION.as_ptr().addr())
}

/// Lets the kernel ignore the signal: the next program finds it so.
pub(crate) fn ignore() {
    let action = Action { handler: IGNORED, flags: 0, restorer: 0, mask: 0 };
    // It is no error for this signal.
    let _ignored = set(core::ptr::from_ref(&action).addr()).is_ok();
}

fn set(action: usize) -> Result<()> {
    let args = [kernel::SIGSYS as usize, action, 0, size_of::<u64>(), 0];
    ask(kernel::__NR_rt_sigaction, args)
}

/// Called by the kernel in the place of a trapped call, and wherever else the signal comes from.
extern "C" fn trapped(signal: i32, info: &Info, context: &mut Context) {
    if info.code.cast_unsigned() != kernel::SYS_USER_DISPATCH {
        return forward(signal, info, context);
    }
    let is_ours = info.architecture == ARCHITECTURE;
    let registers = &mut context.registers;
    let number = registers.rax;
    let args =
        [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9];
    if is_ours && number == kernel::__NR_rt_sigreturn as usize {
        return unblock(registers);
    }
    if is_ours && number == kernel::__NR_munmap as usize {
        // A thread that takes its own stack away can't be trapped again, and has only to end.
        let is_own = registers.rsp.wrapping_sub(args[0]) < args[1];
        if is_own && dispatch(prctl::PR_SYS_DISPATCH_OFF, (0, 0)).is_ok() {
            return again(registers);
        }
    }
    if !is_ours {
        give_up();
        return again(registers);
    }
    let call = Call { number, args };
    let found = entry::glance(&call);
    match found.code {
        DONE => registers.rax = found.result.cast_unsigned(),
        BARE => match gate(registers.rip, STARTS, |at| Some(&START_WAYS.get(at)?.0)) {
            Some(at) => registers.rip = rift_starts as *const () as usize + at * START_BYTES,
            None => {
                give_up();
                again(registers);
            }
        },
        PASS => match gate(registers.rip, GATES, |at| WAYS.get(at)) {
            Some(at) => registers.rip = rift_gates as *const () as usize + at * GATE_BYTES,
            None => enter(registers),
        },
        _ => enter(registers),
    }
}

/// Lets the program make its call once more.
fn again(registers: &mut Registers) {
    const INSTRUCTION_BYTES: usize = 2;
    registers.rip -= INSTRUCTION_BYTES;
}

/// Lets a handler of the program return; what it blocks by that must not be the signal.
fn unblock(registers: &mut Registers) {
    let place = registers.rsp + core::mem::offset_of!(Context, mask);
    if let Ok(set) = sys::value::<u64>(place)
        && set != signals::without_own(set)
    {
        // The kernel says what is wrong with the rest.
        let _unblocked = sys::give(place, signals::without_own(set)).is_ok();
    }
    registers.rip = rift_gates as *const () as usize;
}

/// Finds the gate that leads back to an address; `None` where all are others'.
fn gate(
    back: usize,
    count: usize,
    place: impl Fn(usize) -> Option<&'static AtomicUsize>,
) -> Option<usize> {
    let first = back.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    (0..count).map(|at| (first + at) % count).find(|at| {
        place(*at).is_some_and(|place| {
            let known = place.load(Ordering::Acquire);
            known == back
                || known == 0
                    && match place.compare_exchange(0, back, Ordering::AcqRel, Ordering::Acquire) {
                        Ok(_) => true,
                        Err(other) => other == back,
                    }
        })
    })
}

/// Lets a call go on where all calls of the C library do, but on a stack of the shim's where one is free: that of the
/// program may have hardly any room, as those of coroutines.
fn enter(registers: &mut Registers) {
    let end = room::take();
    let (end, flag) = match room::flag(end) {
        Some(flag) => (end, flag),
        None => ((registers.rsp - RED_ZONE) & !15, &NOBODYS),
    };
    let words = [0, registers.rsp, registers.rip, core::ptr::from_ref(flag).addr()];
    let frame = end - size_of_val(&words);
    // SAFETY: the memory above is a stack that was just taken, or what is below the program's own.
    unsafe { (frame as *mut [usize; 4]).write(words) };
    let at = frame - RED_ZONE - size_of::<usize>();
    // SAFETY: as above.
    unsafe { (at as *mut usize).write(rift_leave as *const () as usize) };
    registers.rsp = at;
    registers.rip = entry::entry();
}

/// Makes everything real and traps no more calls of this thread: what it does can't be followed.
#[cold]
#[inline(never)]
fn give_up() {
    extern "C" fn make_all_real() {
        if exec::make_all_real().is_err() {
            sys::say(
                b"rift: a projection could not be written for a thread that can't be followed\n",
            );
        }
    }
    match room::take() {
        0 => make_all_real(),
        end => {
            // SAFETY: it was just taken, and nobody else is on it.
            unsafe { rift_call_on(end, make_all_real) };
            room::give_back(end);
        }
    }
    // A kernel that began with it ends it.
    let _off = dispatch(prctl::PR_SYS_DISPATCH_OFF, (0, 0)).is_ok();
}

/// Does what the program wants done at a signal that has another cause.
fn forward(signal: i32, info: &Info, context: &mut Context) {
    let arming = rift_arm as *const () as usize..rift_leave as *const () as usize;
    if info.code.cast_unsigned() == kernel::SYS_SECCOMP && arming.contains(&context.registers.rip) {
        // A sandbox of the program's own, which knows nothing of this call: the thread goes on without.
        context.registers.rax = Errno(linux_raw_sys::errno::EPERM).returned().cast_unsigned();
        return;
    }
    let wanted = signals::wanted();
    match wanted.handler {
        IGNORED => {}
        DEFAULT => die(),
        handler => {
            if wanted.flags & u64::from(kernel::SA_RESETHAND) != 0 {
                signals::want(&Action { handler: DEFAULT, ..wanted });
            }
            let set = signals::without_own(wanted.mask);
            let at = core::ptr::from_ref(&set).addr();
            // The end of this handler puts the old set back.
            let args = [kernel::SIG_BLOCK as usize, at, 0, size_of::<u64>(), 0];
            let _blocked = ask(kernel::__NR_rt_sigprocmask, args).is_ok();
            type Handler = extern "C" fn(i32, &Info, &mut Context);
            // SAFETY: sigaction(2): it is a function that takes these; one without SA_SIGINFO looks at the first alone.
            let handler: Handler = unsafe { core::mem::transmute(handler as usize) };
            handler(signal, info, context);
        }
    }
}

/// Ends as the signal does where nobody handles it.
fn die() {
    let action = Action { handler: DEFAULT, flags: 0, restorer: 0, mask: 0 };
    let _default = set(core::ptr::from_ref(&action).addr()).is_ok();
    let (process, thread) = (sys::pid() as usize, sys::tid() as usize);
    let args = [process, thread, kernel::SIGSYS as usize, 0, 0];
    let _killed = ask(kernel::__NR_tgkill, args).is_ok();
}
