//! Where the process meets the shim: the constructor, the patched instructions and what they lead to.

mod clock;
mod entry;
mod patch;
mod start;
pub(crate) mod trap;
