//! Paths of our own: bytes with a NUL behind them, in room that does not grow.

use core::ffi::CStr;
use core::mem::MaybeUninit;

use crate::sys::{Errno, Result, Room};

/// The longest path, with its NUL, see PATH_MAX in limits.h(0P).
const ROOM: usize = 4096;

/// What the kernel takes as a path.
pub(crate) trait Path {
    /// Returns where the kernel finds it, with a NUL behind it.
    fn pointer(&self) -> *const u8;
}

impl Path for Text {
    fn pointer(&self) -> *const u8 {
        self.pointer()
    }
}

impl Path for CStr {
    fn pointer(&self) -> *const u8 {
        self.as_ptr().cast()
    }
}

/// A path of the run file, where a NUL follows each.
pub(crate) struct OfRun(pub(crate) &'static [u8]);

impl Path for OfRun {
    fn pointer(&self) -> *const u8 {
        self.0.as_ptr()
    }
}

/// A path.
pub(crate) struct Text {
    room: Room<ROOM>,
}

impl Text {
    /// Returns an empty one. Most paths are short, so the room is not filled with anything.
    #[inline]
    pub(crate) const fn new() -> Self {
        Self { room: Room::new() }
    }

    /// Returns one that holds `bytes`.
    pub(crate) fn of(bytes: &[u8]) -> Result<Self> {
        let mut text = Self::new();
        text.push(bytes)?;
        Ok(text)
    }

    /// Returns the path that leads to what a descriptor is open on, see proc(5).
    pub(crate) fn of_descriptor(descriptor: i32) -> Result<Self> {
        let mut text = Self::of(b"/proc/self/fd/")?;
        text.push_decimal(descriptor.cast_unsigned())?;
        Ok(text)
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        self.room.bytes()
    }

    /// Returns where the kernel finds it.
    pub(crate) fn pointer(&self) -> *const u8 {
        self.room.pointer()
    }

    /// Adds bytes at the end.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<()> {
        if self.room.add(bytes) { Ok(()) } else { Err(Errno::NAMETOOLONG) }
    }

    /// Adds a name, behind a slash.
    pub(crate) fn push_name(&mut self, name: &[u8]) -> Result<()> {
        if !self.bytes().ends_with(b"/") {
            self.push(b"/")?;
        }
        self.push(name)
    }

    /// Adds a number, in hexadecimal.
    pub(crate) fn push_number(&mut self, number: u64) -> Result<()> {
        let mut digits = [0; 16];
        let mut start = digits.len();
        let mut rest = number;
        loop {
            start -= 1;
            digits[start] = b"0123456789abcdef"[(rest & 15) as usize];
            rest >>= 4;
            if rest == 0 {
                return self.push(&digits[start..]);
            }
        }
    }

    /// Adds a number, in decimal.
    pub(crate) fn push_decimal(&mut self, number: u32) -> Result<()> {
        let mut digits = [0; 10];
        let mut start = digits.len();
        let mut rest = number;
        loop {
            start -= 1;
            digits[start] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                return self.push(&digits[start..]);
            }
        }
    }

    /// Keeps the first bytes only.
    pub(crate) fn cut(&mut self, length: usize) {
        self.room.cut(length);
    }

    /// Takes the last name away, down to the root.
    pub(crate) fn pop(&mut self) {
        let slash = self.bytes().iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        self.cut(slash.max(1));
    }

    /// Holds what `fill` puts into the room that it is given, and tells the length of.
    pub(crate) fn fill(
        &mut self,
        fill: impl FnOnce(&mut [MaybeUninit<u8>]) -> Result<usize>,
    ) -> Result<()> {
        self.room.fill(fill)
    }
}
