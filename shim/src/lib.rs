//! The Velo Rift preload library: answers for projected trees inside any process.
//!
//! It is loaded into each process of a run, patches the system calls of the C library and of the loader, and so
//! hears of everything a program asks of files:
//!
//! ```text
//! libc ── jump ──> abi::entry ── outside? ──> the kernel, with the very registers
//!                      └── serve: one function per system call ── place: which entry is meant?
//!                             ├── answer, list: from the mapped tree, without the kernel
//!                             └── real: write the entry, then let the kernel do it
//! ```
//! It needs no library, allocates nothing, takes no lock and has no thread-local state: it runs in signal
//! handlers, between vfork and exec, and before the C library has started. What processes share lies in mapped
//! files and is changed by compare-and-swap. In doubt the kernel is asked.
#![cfg_attr(feature = "preload", no_std)]
#![cfg_attr(not(feature = "preload"), allow(dead_code, reason = "the loader begins it"))]

mod abi;
mod answer;
mod arrive;
mod caches;
mod closure;
mod counts;
mod exec;
mod hot;
mod list;
mod place;
mod program;
mod quick;
mod real;
mod record;
mod room;
mod run;
mod serve;
mod signals;
mod sys;
mod table;
mod text;

#[cfg(feature = "preload")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    sys::abort()
}
