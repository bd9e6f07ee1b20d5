//! SIGSYS where stray system calls are trapped: the kernel needs the signal for that, and the program may use it as well.
//!
//! The kernel ends a process whose trapped call finds the signal blocked or ignored. So the program's action is remembered
//! here and followed for signals that have another cause; the signal is taken out of every set that is to be blocked. Only
//! where calls are trapped is anything of this looked at.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use linux_raw_sys::{general as kernel, prctl};

use crate::abi;
use crate::room;
use crate::serve::Call;
use crate::sys::{self, Errno, Result};

/// Whether calls are trapped.
static IS_ON: AtomicBool = AtomicBool::new(false);

/// What the program wants done at the signal: see [`Action`].
static WANTED: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];

/// The kernel's form of `struct sigaction`, see rt_sigaction(2).
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Action {
    pub(crate) handler: u64,
    pub(crate) flags: u64,
    pub(crate) restorer: u64,
    pub(crate) mask: u64,
}

/// As handlers: what every signal does that nobody handles, and nothing.
pub(crate) const DEFAULT: u64 = 0;
pub(crate) const IGNORED: u64 = 1;

const SET_BYTES: usize = size_of::<u64>();
const SIGSYS_BIT: u64 = 1 << (kernel::SIGSYS - 1);
/// What is never blocked.
const UNBLOCKABLE: u64 = SIGSYS_BIT | 1 << (kernel::SIGKILL - 1) | 1 << (kernel::SIGSTOP - 1);
/// Where in an action its mask is.
const MASK_AT: usize = 24;

/// Begins with what the kernel was told before.
pub(crate) fn begin(action: &Action) {
    want(action);
    IS_ON.store(true, Ordering::Release);
}

/// Tells whether calls are trapped.
pub(crate) fn is_on() -> bool {
    IS_ON.load(Ordering::Acquire)
}

/// Returns what the program wants done at the signal.
pub(crate) fn wanted() -> Action {
    let [handler, flags, restorer, mask] =
        WANTED.each_ref().map(|word| word.load(Ordering::Acquire));
    Action { handler, flags, restorer, mask }
}

/// Remembers that.
pub(crate) fn want(action: &Action) {
    let words = [action.handler, action.flags, action.restorer, action.mask];
    for (place, word) in WANTED.iter().zip(words) {
        place.store(word, Ordering::Release);
    }
}

/// Returns a set of signals without those that are never blocked.
pub(crate) fn without_own(set: u64) -> u64 {
    set & !UNBLOCKABLE
}

/// Tells whether a call would keep the signal from being delivered, or has to do with who gets it.
pub(crate) fn keeps(call: &Call) -> bool {
    if !is_on() {
        return false;
    }
    let holds = |address: usize| {
        address != 0 && sys::value::<u64>(address).is_ok_and(|set| set & SIGSYS_BIT != 0)
    };
    match call.number as u32 {
        kernel::__NR_rt_sigaction => {
            let action = call.args[1];
            call.args[0] as u32 == kernel::SIGSYS || action != 0 && holds(action + MASK_AT)
        }
        kernel::__NR_rt_sigprocmask => {
            call.args[0] as u32 != kernel::SIG_UNBLOCK && holds(call.args[1])
        }
        kernel::__NR_prctl => call.args[0] as u32 == prctl::PR_SET_SYSCALL_USER_DISPATCH,
        kernel::__NR_pselect6 | kernel::__NR_io_pgetevents => {
            call.args[5] != 0 && sys::value(call.args[5]).is_ok_and(holds)
        }
        _ => set_at(call).is_some_and(|at| holds(call.args[at])),
    }
}

/// Returns which argument is a set of signals to block for a while.
fn set_at(call: &Call) -> Option<usize> {
    match call.number as u32 {
        kernel::__NR_rt_sigsuspend => Some(0),
        kernel::__NR_rt_sigprocmask => Some(1),
        kernel::__NR_ppoll => Some(3),
        kernel::__NR_epoll_pwait | kernel::__NR_epoll_pwait2 => Some(4),
        _ => None,
    }
}

/// Does a call that [`keeps`] has found.
pub(crate) fn serve(call: &Call) -> Result<isize> {
    let mut changed = *call;
    match call.number as u32 {
        // The kernel has one such thing for each thread, and it is taken.
        kernel::__NR_prctl => Err(Errno::INVAL),
        kernel::__NR_rt_sigaction if call.args[3] != SET_BYTES => Ok(call.pass()),
        kernel::__NR_rt_sigaction if call.args[0] as u32 == kernel::SIGSYS => act(call),
        kernel::__NR_rt_sigaction => {
            let mut action: Action = sys::value(call.args[1])?;
            action.mask = without_own(action.mask);
            changed.args[1] = core::ptr::from_ref(&action).addr();
            Ok(changed.pass())
        }
        kernel::__NR_pselect6 | kernel::__NR_io_pgetevents => {
            let [set, bytes]: [usize; 2] = sys::value(call.args[5])?;
            let set = without_own(sys::value(set)?);
            let pair = [core::ptr::from_ref(&set).addr(), bytes];
            changed.args[5] = pair.as_ptr().addr();
            Ok(changed.pass())
        }
        _ => match set_at(call) {
            Some(at) => {
                let set = without_own(sys::value(call.args[at])?);
                changed.args[at] = core::ptr::from_ref(&set).addr();
                Ok(changed.pass())
            }
            None => Ok(call.pass()),
        },
    }
}

/// The program asks what is done at the signal, or says what is to be.
fn act(call: &Call) -> Result<isize> {
    let action = match call.args[1] {
        0 => None,
        address => Some(sys::value::<Action>(address)?),
    };
    if call.args[2] != 0 {
        sys::give(call.args[2], wanted())?;
    }
    // What a child does that shares this memory is not this process's.
    if let Some(mut action) = action
        && !room::is_child()
    {
        action.mask &= !UNBLOCKABLE | SIGSYS_BIT;
        want(&action);
        abi::trap::act()?;
    }
    Ok(0)
}

/// Runs `start`, which becomes another program or fails: what is ignored stays ignored, see execve(2).
pub(crate) fn leaving<T>(start: impl FnOnce() -> T) -> T {
    if !is_on() || wanted().handler != IGNORED {
        return start();
    }
    abi::trap::ignore();
    let result = start();
    // It was accepted before.
    let _acts = abi::trap::act().is_ok();
    result
}
