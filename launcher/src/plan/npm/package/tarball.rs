//! One pass over a package's tarball: verify, unpack, lay out as npm does, and store.
//!
//! The compressed bytes are hashed as they are read, unpacked in memory of limited size, and each file
//! goes to its place in the store's [`Unit`] while it comes. What is found is believed only after the
//! last byte was read and the whole had the integrity that was asked for; blobs of a tarball that fails
//! then are named by nobody and go with the next gc.
//!
//! The rules are those of npm 11: links, directories and devices are left out, `.gitignore` becomes
//! `.npmignore`, every file is readable and writable by all before the umask, damage that npm's tar
//! warns about is passed over, and damage that it stops at is an error. Set-user-ID, set-group-ID and
//! sticky bits are dropped, which npm keeps.

use std::collections::{HashMap, HashSet};
use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;
use rift_cas::import::Unit;
use rift_tree::builder::Built;

use super::bins;
use super::error::{PackageError, Result};
use super::facts::PackageFacts;
use super::header::{BLOCK, Block, Extension, Header, Kind, cut_at_nul, read};
use super::integrity::{Hasher, Integrity};
use super::layout::{Layout, target};
use crate::sys;

/// The buffer of compressed bytes.
const INPUT_BYTES: usize = 64 << 10;
/// The buffer of unpacked bytes.
const OUTPUT_BYTES: usize = 128 << 10;
/// Up to this size a tarball is unpacked in one go, which takes half the time...
const WHOLE_PACKED_BYTES: usize = 8 << 20;
/// ... if no more than this comes out.
const WHOLE_BYTES: usize = 32 << 20;
/// npm's tar stops when more than this comes out of each byte.
const EXPANSION_MAX: u64 = 1000;
/// No package is larger, compressed.
const PACKED_BYTES_MAX: u64 = 2 << 30;
/// No package is larger.
const UNPACKED_BYTES_MAX: u64 = 8 << 30;
/// npm's tar passes over extension headers that are larger.
const EXTENSION_BYTES_MAX: u64 = 1 << 20;
/// How many bytes of package.json files and of scripts with CRLF are kept, at most.
const KEPT_BYTES_MAX: usize = 32 << 20;

/// A package that has come in whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// The tree of its files.
    pub tree: Built,
    /// What else is known about it.
    pub facts: PackageFacts,
}

/// Buffers that serve one tarball after the other.
#[derive(Debug, Default)]
pub struct Buffers {
    packed: Vec<u8>,
    unpacked: Vec<u8>,
}

/// Reads a tarball to its end and stores its files.
///
/// # Errors
/// [`PackageError::Integrity`] when the bytes are not those asked for, whatever else is wrong with
/// them; damage, limits, what `reader` says, and what the store says.
pub fn import(
    reader: impl Read,
    integrity: &Integrity,
    unit: &mut Unit<'_>,
    buffers: &mut Buffers,
) -> Result<Package> {
    let Buffers { packed, unpacked } = buffers;
    let mut input = Input::new(reader, integrity.hasher(), packed);
    let mut unpacker = Unpacker::new(unit);
    let unpacked = unpack(&mut input, &mut unpacker, unpacked).and_then(|()| unpacker.finish());
    if unpacked.is_err() {
        unit.abandon();
        if let Some(error) = input.failure.take() {
            return Err(PackageError::Read(error));
        }
        if let Err(PackageError::Store(_)) = unpacked {
            return unpacked;
        }
        // What is wrong may be no fault of the package: the rest tells.
        input.drain()?;
    }
    let (hasher, packed_bytes) = (input.hasher, input.total);
    integrity.check(hasher, packed_bytes)?;
    unpacked.map(|mut package| {
        package.facts.packed_bytes = packed_bytes;
        package
    })
}

/// Feeds all that comes out of `input` to `unpacker`.
fn unpack<R: Read>(
    input: &mut Input<'_, R>,
    unpacker: &mut Unpacker<'_, '_>,
    output: &mut Vec<u8>,
) -> Result<()> {
    let magic = input.peek(4)?;
    if magic == [0x28, 0xb5, 0x2f, 0xfd] {
        return Err(PackageError::Corrupt("it is compressed by zstd, which npm can't read here"));
    }
    let is_gzip = magic.starts_with(&[0x1f, 0x8b]) && magic.len() == 4;
    if !is_gzip {
        loop {
            let bytes = input.fill_buf().map_err(PackageError::Read)?;
            if bytes.is_empty() {
                return Ok(());
            }
            let count = bytes.len();
            unpacker.feed(bytes)?;
            input.consume(count);
        }
    }
    if let Some(bytes) = in_one_go(input.whole()?, output) {
        unpacker.feed(bytes)?;
        return input.drain();
    }
    output.resize(output.len().max(OUTPUT_BYTES), 0);
    let output = &mut output[..OUTPUT_BYTES];
    loop {
        let mut member = GzDecoder::new(&mut *input);
        loop {
            let count = match member.read(output) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(PackageError::Corrupt("its gzip stream ends early"));
                }
                Err(_) => return Err(PackageError::Corrupt("its gzip stream is damaged")),
            };
            unpacker.feed(&output[..count])?;
            let packed = member.get_ref().seen();
            if unpacker.total > packed.saturating_mul(EXPANSION_MAX) {
                return Err(PackageError::TooLarge("it expands over a thousandfold"));
            }
        }
        match input.peek(2)? {
            [] => return Ok(()),
            [0x1f, 0x8b] => {}
            [0, ..] => return input.drain_zeros(),
            _ => return Err(PackageError::Corrupt("garbage follows its gzip stream")),
        }
    }
}

/// Unpacks a tarball that is one undamaged gzip member and nothing else; of all others the decoder tells what is wrong.
fn in_one_go<'o>(packed: &[u8], output: &'o mut Vec<u8>) -> Option<&'o [u8]> {
    // gzip, RFC 1952: the last four bytes are the length of what was packed, modulo 2^32.
    let length = u32::from_le_bytes(*packed.last_chunk()?) as usize;
    if length > WHOLE_BYTES || length as u64 > packed.len() as u64 * EXPANSION_MAX {
        return None;
    }
    output.resize(output.len().max(length), 0);
    let unpacked = &mut output[..length];
    let is_whole = sys::gunzip(packed, unpacked) == Some(packed.len());
    is_whole.then_some(unpacked)
}

/// The compressed bytes, hashed as they are consumed.
struct Input<'b, R> {
    reader: R,
    buffer: &'b mut Vec<u8>,
    start: usize,
    end: usize,
    hasher: Hasher,
    total: u64,
    /// What the reader said, since a decoder in between only passes on a kind.
    failure: Option<io::Error>,
}

impl<'b, R: Read> Input<'b, R> {
    fn new(reader: R, hasher: Hasher, buffer: &'b mut Vec<u8>) -> Self {
        buffer.resize(buffer.len().max(INPUT_BYTES), 0);
        Self { reader, buffer, start: 0, end: 0, hasher, total: 0, failure: None }
    }

    /// Returns how many bytes were read, consumed or not.
    fn seen(&self) -> u64 {
        self.total + (self.end - self.start) as u64
    }

    /// Reads once behind what is there; tells whether anything came.
    fn read_more(&mut self) -> io::Result<bool> {
        if self.total > PACKED_BYTES_MAX {
            let error = io::Error::new(io::ErrorKind::FileTooLarge, "no package is over 2 GiB");
            self.failure = Some(error);
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        loop {
            match self.reader.read(&mut self.buffer[self.end..]) {
                Ok(count) => {
                    self.end += count;
                    return Ok(count > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let kind = error.kind();
                    self.failure = Some(error);
                    return Err(kind.into());
                }
            }
        }
    }

    /// Returns the next `count` bytes, or what is left of them, without consuming any.
    fn peek(&mut self, count: usize) -> Result<&[u8]> {
        if self.buffer.len() - self.start < count {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        while self.end - self.start < count && self.read_more().map_err(PackageError::Read)? {}
        Ok(&self.buffer[self.start..self.end.min(self.start + count)])
    }

    /// Reads all that is left if it is not too much; returns it, or nothing, without consuming any.
    fn whole(&mut self) -> Result<&[u8]> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        loop {
            if self.end == self.buffer.len() {
                if self.end >= WHOLE_PACKED_BYTES {
                    return Ok(&[]);
                }
                self.buffer.resize(self.end * 2, 0);
            }
            if !self.read_more().map_err(PackageError::Read)? {
                return Ok(&self.buffer[..self.end]);
            }
        }
    }

    fn drain(&mut self) -> Result<()> {
        loop {
            let count = match self.fill_buf() {
                Ok(bytes) => bytes.len(),
                Err(error) => {
                    return Err(PackageError::Read(self.failure.take().unwrap_or(error)));
                }
            };
            if count == 0 {
                return Ok(());
            }
            self.consume(count);
        }
    }

    fn drain_zeros(&mut self) -> Result<()> {
        loop {
            let bytes = self.fill_buf().map_err(PackageError::Read)?;
            if bytes.iter().any(|byte| *byte != 0) {
                return Err(PackageError::Corrupt("garbage follows its gzip stream"));
            }
            let count = bytes.len();
            if count == 0 {
                return Ok(());
            }
            self.consume(count);
        }
    }
}

impl<R: Read> Read for Input<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(out)?;
        self.consume(count);
        Ok(count)
    }
}

impl<R: Read> BufRead for Input<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            self.read_more()?;
        }
        Ok(&self.buffer[self.start..self.end])
    }

    fn consume(&mut self, count: usize) {
        let end = (self.start + count).min(self.end);
        self.hasher.update(&self.buffer[self.start..end]);
        self.total += (end - self.start) as u64;
        self.start = end;
    }
}

/// What the bytes that come next belong to.
enum State {
    Header,
    /// A file's body.
    File(OpenFile),
    /// An extension header's body.
    Extension {
        kind: Kind,
        body: Vec<u8>,
        rest: u64,
        padding: u64,
    },
    /// A body that nobody wants.
    Skip {
        rest: u64,
    },
    /// What follows the end of the archive.
    End,
}

/// A file that is being stored.
struct OpenFile {
    path: String,
    rest: u64,
    padding: u64,
    copy: Copy,
}

/// What is kept of a file beside the store.
enum Copy {
    Nothing,
    /// The first bytes, until it is clear whether they are `#!` and a line that ends in CRLF.
    Beginning(Vec<u8>),
    Whole(Vec<u8>),
}

/// Tar blocks on their way into a layout.
struct Unpacker<'u, 'i> {
    unit: &'u mut Unit<'i>,
    layout: Layout,
    state: State,
    /// The part of a header that came at the end of the last piece.
    carry: Vec<u8>,
    pending: Option<Extension>,
    global: Option<Extension>,
    saw_null: bool,
    saw_header: bool,
    ignores: HashSet<String>,
    /// Copies of package.json files and of scripts whose first line ends in CRLF.
    kept: HashMap<String, Vec<u8>>,
    kept_bytes: usize,
    total: u64,
}

impl<'u, 'i> Unpacker<'u, 'i> {
    fn new(unit: &'u mut Unit<'i>) -> Self {
        Self {
            unit,
            layout: Layout::default(),
            state: State::Header,
            carry: Vec::with_capacity(BLOCK),
            pending: None,
            global: None,
            saw_null: false,
            saw_header: false,
            ignores: HashSet::new(),
            kept: HashMap::new(),
            kept_bytes: 0,
            total: 0,
        }
    }

    /// Takes in the next unpacked bytes.
    fn feed(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.total += bytes.len() as u64;
        if self.total > UNPACKED_BYTES_MAX {
            return Err(PackageError::TooLarge("it unpacks to over 8 GiB"));
        }
        while !bytes.is_empty() {
            let used = match &mut self.state {
                State::End => return Ok(()),
                State::Header => self.feed_header(bytes)?,
                State::Skip { rest } => {
                    let used = take(rest, bytes.len());
                    if *rest == 0 {
                        self.state = State::Header;
                    }
                    used
                }
                State::File(_) => self.feed_file(bytes)?,
                State::Extension { body, rest, padding, .. } => {
                    let used = take(rest, bytes.len());
                    body.extend_from_slice(&bytes[..used]);
                    let used = used + take(padding, bytes.len() - used);
                    if *rest == 0 && *padding == 0 {
                        self.end_extension();
                    }
                    used
                }
            };
            bytes = &bytes[used..];
        }
        Ok(())
    }

    fn feed_header(&mut self, bytes: &[u8]) -> Result<usize> {
        if self.carry.is_empty()
            && let Some(block) = bytes.first_chunk::<BLOCK>()
        {
            self.read_header(block)?;
            return Ok(BLOCK);
        }
        let used = (BLOCK - self.carry.len()).min(bytes.len());
        self.carry.extend_from_slice(&bytes[..used]);
        if let Some(block) = self.carry.first_chunk::<BLOCK>().copied() {
            self.carry.clear();
            self.read_header(&block)?;
        }
        Ok(used)
    }

    fn read_header(&mut self, block: &[u8; BLOCK]) -> Result<()> {
        match read(block, self.pending.as_ref(), self.global.as_ref()) {
            Block::Null if self.saw_null => self.state = State::End,
            Block::Null => self.saw_null = true,
            Block::Invalid => self.saw_null = false,
            Block::Unreadable => {}
            Block::Header(header) => {
                self.saw_null = false;
                self.saw_header = true;
                self.begin_entry(header)?;
            }
        }
        Ok(())
    }

    fn begin_entry(&mut self, header: Header) -> Result<()> {
        let padded = header
            .body
            .checked_next_multiple_of(BLOCK as u64)
            .filter(|padded| *padded <= UNPACKED_BYTES_MAX)
            .ok_or(PackageError::TooLarge("an entry claims to be over 8 GiB"))?;
        let (rest, padding) = (header.body, padded - header.body);
        let skip = if padded == 0 { State::Header } else { State::Skip { rest: padded } };
        self.state = match header.kind {
            Kind::Pax | Kind::GlobalPax | Kind::LongPath | Kind::LongLink => {
                if header.judged_size > EXTENSION_BYTES_MAX {
                    skip
                } else if header.judged_size == 0 || padded == 0 {
                    // npm's tar looks for a header right behind one that it judges to be empty.
                    State::Header
                } else if rest > EXTENSION_BYTES_MAX {
                    return Err(PackageError::TooLarge("an extension header is over 1 MiB"));
                } else {
                    State::Extension { kind: header.kind, body: Vec::new(), rest, padding }
                }
            }
            Kind::LeftOut => {
                self.pending = None;
                skip
            }
            Kind::File | Kind::ContiguousFile => {
                self.pending = None;
                match self.place(&header)? {
                    None => skip,
                    Some(path) => {
                        self.unit.begin(header.body)?;
                        let copy = match bins::is_manifest(&path) {
                            true => Copy::Whole(Vec::new()),
                            false => Copy::Beginning(Vec::new()),
                        };
                        let file = OpenFile { path, rest, padding, copy };
                        match padded {
                            0 => {
                                self.end_file(file)?;
                                State::Header
                            }
                            _ => State::File(file),
                        }
                    }
                }
            }
        };
        Ok(())
    }

    /// Finds where a file goes, and makes room for it; `None` when npm leaves it out.
    fn place(&mut self, header: &Header) -> Result<Option<String>> {
        let mut path = header.path.clone();
        match base_name(&path) {
            ".npmignore" => {
                self.ignores.insert(path.clone());
            }
            ".gitignore" => {
                // A name with a slash at its end is judged by its base but not renamed.
                if let Some(stem) = path.strip_suffix(".gitignore") {
                    path = format!("{stem}.npmignore");
                }
                if self.ignores.contains(&path) {
                    return Ok(None);
                }
            }
            _ => {}
        }
        let Some(path) = target(&path, header.linkpath.as_deref())? else {
            return Ok(None);
        };
        // npm: at least readable and writable by all; the umask of the process takes away from it.
        let permissions = header.mode & 0o777 | 0o666;
        let replaces = header.kind == Kind::ContiguousFile;
        let is_wanted = self.layout.begin(&path, permissions, replaces)?;
        Ok(is_wanted.then_some(path))
    }

    fn feed_file(&mut self, bytes: &[u8]) -> Result<usize> {
        let State::File(file) = &mut self.state else {
            return Ok(0);
        };
        let used = take(&mut file.rest, bytes.len());
        if used > 0 {
            self.unit.write(&bytes[..used])?;
            file.copy.add(&bytes[..used]);
            if file.copy.len() + self.kept_bytes > KEPT_BYTES_MAX {
                return Err(PackageError::TooLarge("its scripts with CRLF are over 32 MiB"));
            }
        }
        let used = used + take(&mut file.padding, bytes.len() - used);
        if file.rest == 0 && file.padding == 0 {
            let state = std::mem::replace(&mut self.state, State::Header);
            if let State::File(file) = state {
                self.end_file(file)?;
            }
        }
        Ok(used)
    }

    fn end_file(&mut self, file: OpenFile) -> Result<()> {
        let (hash, size) = self.unit.end()?;
        self.layout.end(&file.path, size, hash);
        if let Some(old) = self.kept.remove(&file.path) {
            self.kept_bytes -= old.len();
        }
        let copy = match file.copy {
            Copy::Whole(copy) => copy,
            // It ended before its first line did.
            Copy::Beginning(copy) if bins::crlf_shebang(&copy) == Some(true) => copy,
            _ => return Ok(()),
        };
        self.kept_bytes += copy.len();
        self.kept.insert(file.path, copy);
        Ok(())
    }

    fn end_extension(&mut self) {
        let state = std::mem::replace(&mut self.state, State::Header);
        let State::Extension { kind, body, .. } = state else {
            return;
        };
        let text = || cut_at_nul(&String::from_utf8_lossy(&body)).into_owned();
        match kind {
            Kind::GlobalPax => self.global.get_or_insert_default().add_records(&body),
            Kind::LongPath => self.pending.get_or_insert_default().path = Some(text()),
            Kind::LongLink => self.pending.get_or_insert_default().linkpath = Some(text()),
            _ => self.pending.get_or_insert_default().add_records(&body),
        }
    }

    /// Ends the archive: applies what npm does to commands, and builds the tree.
    fn finish(&mut self) -> Result<Package> {
        match &self.state {
            State::Header | State::End => {}
            _ => return Err(PackageError::Corrupt("it ends inside an entry")),
        }
        if !self.saw_header {
            return Err(PackageError::Corrupt("it holds no tar archive"));
        }
        let mut layout = std::mem::take(&mut self.layout);
        let mut facts = bins::apply(&mut layout, &self.kept, self.unit)?;
        (facts.files, facts.bytes) = layout.totals();
        Ok(Package { tree: layout.build()?, facts })
    }
}

impl Copy {
    fn add(&mut self, bytes: &[u8]) {
        match self {
            Self::Nothing => {}
            Self::Whole(copy) => copy.extend_from_slice(bytes),
            Self::Beginning(copy) => {
                if copy.is_empty() && !bytes.starts_with(b"#") {
                    *self = Self::Nothing;
                    return;
                }
                copy.extend_from_slice(bytes);
                match bins::crlf_shebang(copy) {
                    Some(true) => *self = Self::Whole(std::mem::take(copy)),
                    Some(false) => *self = Self::Nothing,
                    None => {}
                }
            }
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Whole(copy) | Self::Beginning(copy) => copy.len(),
        }
    }
}

/// Takes as much of `rest` as `available` has; returns how much that is.
fn take(rest: &mut u64, available: usize) -> usize {
    let taken = available.min(usize::try_from(*rest).unwrap_or(usize::MAX));
    *rest -= taken as u64;
    taken
}

/// Returns the last name of a path, slashes at its end aside.
fn base_name(path: &str) -> &str {
    let path = path.trim_end_matches('/');
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}
