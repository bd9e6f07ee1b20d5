//! What the first bytes of a program say of who can start it; the launcher asks the same.

/// What a program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// The loader starts it, and loads the shim first.
    Dynamic,
    /// A script for the interpreter whose path lies here in the bytes.
    Script(usize, usize),
    /// The shim gets into it in no way.
    Foreign,
    /// Nothing that the kernel knows by these bytes: it says so, and a shell may run it.
    Unknown,
}

/// How much of a program is looked at, in bytes: an ELF header with its program headers, mostly.
pub(crate) const HEAD_BYTES: usize = 1024;

/// `PT_INTERP`, see elf(5).
const INTERPRETER: usize = 3;

impl Program {
    /// Tells by the first bytes of a program what it is.
    pub(crate) fn of(head: &[u8]) -> Self {
        if let Some(line) = head.strip_prefix(b"#!") {
            return Self::script(line);
        }
        if !head.starts_with(b"\x7fELF") {
            return Self::Unknown;
        }
        // 64 bits, little-endian.
        if !head.starts_with(b"\x7fELF\x02\x01") {
            return Self::Foreign;
        }
        let number = |at: usize, bytes: usize| {
            let field = head.get(at..at + bytes).unwrap_or_default();
            field.iter().rev().fold(0_usize, |number, byte| number << 8 | usize::from(*byte))
        };
        let (start, size, count) = (number(32, 8), number(54, 2), number(56, 2));
        let is_dynamic = (0..count.min(64)).any(|index| {
            let at = start.saturating_add(index * size);
            at < HEAD_BYTES && number(at, 4) == INTERPRETER
        });
        if is_dynamic { Self::Dynamic } else { Self::Foreign }
    }

    fn script(line: &[u8]) -> Self {
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
        let start = line.iter().position(|byte| !is_blank(byte)).unwrap_or(line.len());
        let word = line.get(start..).unwrap_or_default();
        let length = word.iter().position(|byte| is_blank(byte) || *byte == 0);
        // Behind the `#!`.
        let start = start + 2;
        Self::Script(start, start + length.unwrap_or(word.len()))
    }
}
