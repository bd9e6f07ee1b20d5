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

/// `DT_NEEDED`, `DT_STRTAB`, `DT_RPATH` and `DT_RUNPATH`, see elf(5).
pub(crate) const NEEDED: usize = 1;
const STRINGS: usize = 5;
pub(crate) const PATHS: usize = 15;
pub(crate) const OWN_PATHS: usize = 29;
/// `DT_AUXILIARY` and `DT_FILTER`: libraries that another one stands for.
pub(crate) const AUXILIARY: usize = 0x7fff_fffd;
pub(crate) const FILTER: usize = 0x7fff_ffff;

/// How much of a dynamic section is looked at, in bytes, and how much of its strings at once.
const DYNAMIC_BYTES: usize = 4096;
const STRING_BYTES: usize = 4096;

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

    /// Tells what the loader will look for before a dynamic program starts; `read` reads of its file at an offset, and
    /// returns how much it did.
    pub(crate) fn wishes(head: &[u8], read: impl Fn(usize, &mut [u8]) -> usize) -> Wishes {
        let none = Wishes { is_checked: false, has_paths: false };
        let Some(dynamic) = Dynamic::of(head, &read) else { return none };
        let has_paths =
            !dynamic.is_whole() || [PATHS, OWN_PATHS].iter().any(|tag| dynamic.has(*tag));
        let mut strings = Strings::new();
        let is_sanitizer =
            |at| strings.at(at, &read).is_some_and(|name| name.starts_with(SANITIZER));
        let is_checked = dynamic.strings(NEEDED).any(is_sanitizer);
        Wishes { is_checked, has_paths }
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

/// What the loader will look for before a program starts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wishes {
    /// The address sanitizer's library.
    pub(crate) is_checked: bool,
    /// Libraries in places of the program's own.
    pub(crate) has_paths: bool,
}

/// The dynamic section of an ELF file.
pub(crate) struct Dynamic {
    section: [u8; DYNAMIC_BYTES],
    length: usize,
    is_whole: bool,
    /// Where its strings are in the file.
    strings: usize,
}

impl Dynamic {
    /// Reads it; `None` where the file has none.
    pub(crate) fn of(head: &[u8], read: &impl Fn(usize, &mut [u8]) -> usize) -> Option<Self> {
        let dynamic = segments(head, DYNAMIC).next()?;
        let bytes = number(head, dynamic + 32, 8);
        let mut section = [0; DYNAMIC_BYTES];
        let length = read(number(head, dynamic + 8, 8), &mut section).min(bytes);
        let is_whole = bytes <= DYNAMIC_BYTES;
        let mut found = Self { section, length, is_whole, strings: 0 };
        // An address, by now; the file has it at an offset.
        let strings = found.values(STRINGS).next()?;
        found.strings = segments(head, LOAD).find_map(|at| {
            let inside = strings.checked_sub(number(head, at + 16, 8))?;
            (inside < number(head, at + 32, 8)).then(|| inside + number(head, at + 8, 8))
        })?;
        Some(found)
    }

    /// Tells whether all of it is known.
    pub(crate) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Returns the values of all entries of a kind.
    fn values(&self, tag: usize) -> impl Iterator<Item = usize> {
        let section = self.section.get(..self.length).unwrap_or_default();
        let entries = section.chunks_exact(16).take_while(|entry| number(entry, 0, 8) != 0);
        let tagged = entries.filter(move |entry| number(entry, 0, 8) == tag);
        tagged.map(|entry| number(entry, 8, 8))
    }

    fn has(&self, tag: usize) -> bool {
        self.values(tag).next().is_some()
    }

    /// Returns where in the file the strings of all entries of a kind are.
    pub(crate) fn strings(&self, tag: usize) -> impl Iterator<Item = usize> {
        self.values(tag).map(|at| self.strings.saturating_add(at))
    }
}

/// Strings of an ELF file, of which many are read at once: those of a section lie together, mostly.
pub(crate) struct Strings {
    window: [u8; STRING_BYTES],
    start: usize,
    length: usize,
}

impl Strings {
    pub(crate) fn new() -> Self {
        Self { window: [0; STRING_BYTES], start: 0, length: 0 }
    }

    /// Returns the string at an offset of the file; `None` where it is longer than a path can be, or not there.
    pub(crate) fn at(
        &mut self,
        at: usize,
        read: &impl Fn(usize, &mut [u8]) -> usize,
    ) -> Option<&[u8]> {
        // What comes before may be asked for as well.
        for before in [STRING_BYTES / 4, 0] {
            if self.known(at).is_none() {
                self.start = at.saturating_sub(before);
                self.length = read(self.start, &mut self.window).min(STRING_BYTES);
            }
        }
        self.known(at)
    }

    fn known(&self, at: usize) -> Option<&[u8]> {
        let from = at.checked_sub(self.start)?;
        let rest = self.window.get(from..self.length)?;
        rest.get(..rest.iter().position(|byte| *byte == 0)?)
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
