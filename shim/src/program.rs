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
    /// As [`Program::Foreign`], and its loader would say so: it is for another processor, mostly one of 32 bits.
    OtherClass,
    /// Nothing that the kernel knows by these bytes: it says so, and a shell may run it.
    Unknown,
}

/// How much of a program is looked at, in bytes: an ELF header with its program headers, mostly.
pub(crate) const HEAD_BYTES: usize = 1024;

/// `PT_LOAD`, `PT_DYNAMIC` and `PT_INTERP`, see elf(5).
const LOAD: usize = 1;
const DYNAMIC: usize = 2;
const INTERPRETER: usize = 3;

/// `DT_NEEDED` and `DT_STRTAB`, see elf(5).
const NEEDED: usize = 1;
const STRINGS: usize = 5;

/// How much of a dynamic section is looked at, in bytes, and how much of a name in it.
const DYNAMIC_BYTES: usize = 1024;
const NAME_BYTES: usize = 32;

/// What the address sanitizer's library is called; it ends a program in which another one was loaded before it.
pub(crate) const SANITIZER: &[u8] = b"libasan.so";

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
            return Self::OtherClass;
        }
        match segments(head, INTERPRETER).next() {
            Some(_) => Self::Dynamic,
            None => Self::Foreign,
        }
    }

    /// Returns the path of the loader that a program names at its start.
    pub(crate) fn loader(head: &[u8]) -> Option<&[u8]> {
        let at = segments(head, INTERPRETER).next().filter(|_| Self::of(head) == Self::Dynamic)?;
        let start = number(head, at + 8, 8);
        let path = head.get(start..start.checked_add(number(head, at + 32, 8))?)?;
        // With a NUL at its end, see elf(5).
        path.strip_suffix(b"\0").filter(|path| !path.contains(&0))
    }

    /// Tells whether a dynamic program asks the loader for a library whose name begins so; `read` reads of its file at an
    /// offset, and returns how much it did.
    pub(crate) fn needs(
        head: &[u8],
        name: &[u8],
        read: impl Fn(usize, &mut [u8]) -> usize,
    ) -> bool {
        let Some(dynamic) = segments(head, DYNAMIC).next() else { return false };
        let mut section = [0; DYNAMIC_BYTES];
        let length = read(number(head, dynamic + 8, 8), &mut section);
        let length = length.min(number(head, dynamic + 32, 8));
        let section = section.get(..length).unwrap_or_default();
        let values = |tag| {
            let tagged = section.chunks_exact(16).filter(move |entry| number(entry, 0, 8) == tag);
            tagged.map(|entry| number(entry, 8, 8))
        };
        let Some(strings) = values(STRINGS).next() else { return false };
        // An address, by now; the file has it at an offset.
        let offset = segments(head, LOAD).find_map(|at| {
            let inside = strings.checked_sub(number(head, at + 16, 8))?;
            (inside < number(head, at + 32, 8)).then(|| inside + number(head, at + 8, 8))
        });
        let Some(offset) = offset else { return false };
        values(NEEDED).any(|at| {
            let mut found = [0; NAME_BYTES];
            let length = read(offset.saturating_add(at), &mut found);
            found.get(..length).is_some_and(|found| found.starts_with(name))
        })
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

/// Returns a number of an ELF file; 0 behind the end of what is known of it.
fn number(bytes: &[u8], at: usize, length: usize) -> usize {
    let end = at.saturating_add(length);
    let field = bytes.get(at..end).unwrap_or_default();
    field.iter().rev().fold(0_usize, |number, byte| number << 8 | usize::from(*byte))
}

/// Returns where the program headers of a kind are.
fn segments(head: &[u8], kind: usize) -> impl Iterator<Item = usize> {
    let (start, size, count) = (number(head, 32, 8), number(head, 54, 2), number(head, 56, 2));
    let places = (0..count.min(64)).map(move |index| start.saturating_add(index * size));
    places.filter(move |at| *at < HEAD_BYTES && number(head, *at, 4) == kind)
}
