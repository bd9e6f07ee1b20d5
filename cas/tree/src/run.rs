//! The run file: what the launcher tells the processes of one run.
//!
//! ```text
//! run:        | header 96 | projections: count × 128 | containers: count × 8 | libraries: count × 128
//!             | sites: count × 32 | strings |
//! header:     | magic 8 "RIFTRUN\0" | version u32 | projections u32 | containers u32 | libraries u32 | sites u32
//!             | string bytes u32 | shim string | counts string
//!             | launcher string | patches string | launcher's program headers string | flags u32
//!             | actions string | programs string | zero 4 |
//! projection: | device u64 | inode u64 | stand-in device u64 | stand-in inode u64 | shown i64 (ns) | stamp i64 (ns)
//!             | uid u32 | gid u32 | umask u32 | first container u32 | containers u32 | number u32
//!             | directory string | manifest string | sidecar string | state string | stand-in string
//!             | flags u32 | zero 12 |
//! container:  | string |
//! library:    | device u64 | inode u64 | size u64 | mtime i64 (ns) | ctime i64 (ns)
//!             | build-id, at most 20 bytes and zeros | its length u32 | first site u32 | sites u32
//!             | code u32 | bytes of code u32 | code in the file u32 | stubs in the copy u32 | bytes of stubs u32
//!             | copy string | watched: 3 × address u32 | watched: 3 × byte u8 | zero 13 |
//! site:       | address u32 | bytes before u8 | bytes after u8 | zero 2 | number i32 | hop i32 | bytes 16 |
//! string:     | offset u32 | length u32 |
//! ```
//!
//! Flag 1 of a projection says that the modes of the tree let the owner search all its directories; flag 1 of the run,
//! that system calls are trapped that no library of the system makes.
//!
//! Numbers are little-endian. A string is followed by a NUL, so that system calls take it as it lies. A run file
//! belongs to one machine and to processes that live: nobody keeps it. One with a single library and nothing else is
//! kept, as long as that library's file is the same: it tells what was found in it.

use core::ffi::CStr;

use crate::FormatError;
use crate::bytes::{split_header, truncated, u32_at, u64_at};

/// The first eight bytes of every run file.
pub const MAGIC: [u8; 8] = *b"RIFTRUN\0";
/// The version of the format that this crate writes and reads.
pub const VERSION: u32 = 1;
/// The longest build-id that is told apart, in bytes: a SHA-1, as linkers make it.
pub const BUILD_ID_MAX: usize = 20;
/// The longest run of instructions that a patch replaces, in bytes.
pub const SITE_MAX: usize = 16;

/// What the launcher is called to do when it becomes another program, and has to find it as the run sees it.
pub const BECOME: &str = "become";
/// What the launcher is called to do for a library that no run has seen: its words are a store and the library, and
/// [`PATCH_ALL`] where all system calls are to become jumps.
pub const PATCH: &str = "patch-library";
/// See [`PATCH`].
pub const PATCH_ALL: &str = "--all";
/// As [`PATCH_ALL`], where those become jumps that are recorded.
pub const PATCH_RECORDED: &str = "--recorded";

const SEARCHABLE: u32 = 1;
const TRAPPING: u32 = 1;
const HEADER_BYTES: usize = 96;
const PROJECTION_BYTES: usize = 128;
const STRING_BYTES: usize = 8;
const LIBRARY_BYTES: usize = 128;
const SITE_BYTES: usize = 32;

/// A projection that the run sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Projection<'r> {
    /// `st_dev` of the directory.
    pub device: u64,
    /// `st_ino` of the directory.
    pub inode: u64,
    /// `st_dev` of the stand-in.
    pub stand_in_device: u64,
    /// `st_ino` of the stand-in.
    pub stand_in_inode: u64,
    /// The ctime of what was never changed, in nanoseconds since the epoch.
    pub shown_ns: i64,
    /// The mtime of every entry of a stamped tree, in nanoseconds since the epoch.
    pub stamp_ns: i64,
    /// Whom pristine entries belong to.
    pub uid: u32,
    /// Their group.
    pub gid: u32,
    /// What is taken off the modes of a stamped tree.
    pub umask: u32,
    /// Tells the inode numbers of this projection's entries from those of others.
    pub number: u32,
    /// Where the tree is shown: an absolute path without links.
    pub directory: &'r [u8],
    /// The manifest in the store.
    pub manifest: &'r [u8],
    /// The location sidecar in the store.
    pub sidecar: &'r [u8],
    /// The state file in the store.
    pub state: &'r [u8],
    /// An empty directory, which is opened in the place of directories that are not real.
    pub stand_in: &'r [u8],
    /// Whether the modes of the tree let the owner search all its directories.
    pub is_searchable: bool,
    /// Where the containers of the sidecar are told of; [`Writer`] sees to it.
    pub containers: Containers,
}

/// Which of a run file's containers are a projection's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Containers {
    first: u32,
    count: u32,
}

/// What tells whether a file is the one that was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Original {
    /// `st_dev`.
    pub device: u64,
    /// `st_ino`.
    pub inode: u64,
    /// `st_size`.
    pub size: u64,
    /// `st_mtim`, in nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// `st_ctim`, in nanoseconds since the epoch.
    pub ctime_ns: i64,
}

/// A library whose system calls are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Library<'r> {
    /// The build-id; of a longer one the first bytes.
    pub build_id: &'r [u8],
    /// The file.
    pub original: Original,
    /// A copy of it whose sites are patched, and behind it the stubs that they lead to; empty where there is none.
    pub copy: &'r CStr,
    /// Where its code begins, at a page, and how long it is in whole pages.
    pub code: u32,
    /// See `code`.
    pub code_bytes: u32,
    /// Where the code is in the file, and in the copy.
    pub code_offset: u32,
    /// Where the stubs are in the copy.
    pub stubs_offset: u32,
    /// How long they are, in whole pages.
    pub stubs_bytes: u32,
    /// Where debuggers stop what is loaded by it.
    pub watched: [Watched; WATCHED],
    /// Where its sites are told of; [`Writer`] sees to it.
    pub sites: Sites,
}

/// Where a debugger stops a library; see [`Library::watched`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Watched {
    /// The address; 0 is none.
    pub address: u32,
    /// What stands there where no debugger is.
    pub byte: u8,
}

/// How many of them are looked at.
pub const WATCHED: usize = 3;

/// Which of a run file's sites are a library's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sites {
    first: u32,
    count: u32,
}

/// Instructions around one `syscall` instruction that a jump may replace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Site {
    /// The address of the first byte that is replaced, in the library's own numbering.
    pub address: u32,
    /// How many of the bytes come before the `syscall` instruction.
    pub before: u8,
    /// How many come after its two.
    pub after: u8,
    /// The number of the system call, or -1 where it is known only when it is made.
    pub number: i32,
    /// Where nothing beside the instruction may move: how far behind it is padding that a longer jump fits into. Else 0.
    pub hop: i32,
    /// What must stand there; in the padding, what follows the first two.
    pub bytes: [u8; SITE_MAX],
}

impl Site {
    /// Returns how many bytes are replaced.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.before) + 2 + usize::from(self.after)
    }

    /// Returns the address of the `syscall` instruction.
    #[must_use]
    pub fn call(&self) -> u64 {
        u64::from(self.address) + u64::from(self.before)
    }

    /// Tells whether nothing is replaced, which no site does.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Tells whether a program has this name, or one that begins so where it ends with `*`.
#[must_use]
pub fn is_named(name: &[u8], known: &[u8]) -> bool {
    known.strip_suffix(b"*").map_or(name == known, |start| name.starts_with(start))
}

/// A run file over its bytes.
#[derive(Debug, Clone, Copy)]
pub struct Run<'r> {
    projections: &'r [u8],
    containers: &'r [u8],
    libraries: &'r [u8],
    sites: &'r [u8],
    strings: &'r [u8],
    shim: &'r [u8],
    counts: &'r CStr,
    launcher: &'r CStr,
    patches: &'r [u8],
    headers: &'r [u8],
    is_trapping: bool,
    actions: &'r [u8],
    programs: &'r [u8],
}

/// What the processes of a run count together, by its place in a file of [`COUNTS_BYTES`]: one u64 each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Count {
    /// How often names were changed that may lead elsewhere: what a process remembers of names that lead nowhere is worth
    /// nothing then. It is read all the time, so it has a line of the processors' caches to itself.
    Names,
    /// Not 0 where a path without links may lead into a projection all the same, as by a bind mount, or where the kernel may
    /// not be asked about a path in another way than the program does.
    Doubts,
    /// Programs started that the shim has to be loaded into.
    Expected = 8,
    /// Processes that it was loaded into.
    Arrived,
    /// Of these, ones whose libraries could not be patched, so that everything was made real.
    Unpatched,
    /// Programs started that it can't be loaded into, so that everything was made real.
    Foreign,
    /// System calls that were answered without the kernel.
    Answered,
    /// Entries that were made real.
    MadeReal,
    /// Entries that could not be, for the store has not the bytes any more that it had.
    Damaged,
    /// System calls about a tree that the kernel has done.
    Passed,
}

/// How long the file of counts is, in bytes.
pub const COUNTS_BYTES: usize = 4096;

impl<'r> Run<'r> {
    /// Reads the header and checks every length.
    ///
    /// # Errors
    /// What is wrong with the first part that is wrong.
    pub fn parse(bytes: &'r [u8]) -> Result<Self, FormatError> {
        let (head, body) = split_header(bytes, HEADER_BYTES, MAGIC, VERSION)?;
        let word = |index: usize| u32_at(head, index).unwrap_or(0);
        let lengths = [
            (word(3) as usize).saturating_mul(PROJECTION_BYTES),
            (word(4) as usize).saturating_mul(STRING_BYTES),
            (word(5) as usize).saturating_mul(LIBRARY_BYTES),
            (word(6) as usize).saturating_mul(SITE_BYTES),
            word(7) as usize,
        ];
        let wanted = lengths.iter().fold(0_usize, |sum, length| sum.saturating_add(*length));
        if body.len() != wanted {
            return Err(truncated(bytes, wanted.saturating_add(HEADER_BYTES)));
        }
        let (projections, rest) = body.split_at(lengths[0]);
        let (containers, rest) = rest.split_at(lengths[1]);
        let (libraries, rest) = rest.split_at(lengths[2]);
        let (sites, strings) = rest.split_at(lengths[3]);
        let file = |at: usize| string(strings, head, at).ok_or_else(|| truncated(bytes, wanted));
        let name = |at: usize| name(strings, head, at).ok_or_else(|| truncated(bytes, wanted));
        let (shim, counts, launcher, patches) = (file(8)?, name(10)?, name(12)?, file(14)?);
        let headers = file(16)?;
        let is_trapping = word(18) & TRAPPING != 0;
        let (actions, programs) = (file(19)?, file(21)?);
        Ok(Self {
            projections,
            containers,
            libraries,
            sites,
            strings,
            shim,
            counts,
            launcher,
            patches,
            headers,
            is_trapping,
            actions,
            programs,
        })
    }

    /// Returns the folder of the journals of this run; empty where nothing is recorded.
    #[must_use]
    pub fn actions(&self) -> &'r [u8] {
        self.actions
    }

    /// Tells whether runs of the program with this path are recorded and replayed.
    #[must_use]
    pub fn is_recorded(&self, program: &[u8]) -> bool {
        let name = program.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let mut known = self.programs.split(|byte| *byte == b' ');
        !name.is_empty() && known.any(|known| is_named(name, known))
    }

    /// Tells whether system calls are trapped that are made by instructions of the program's own.
    #[must_use]
    pub fn is_trapping(&self) -> bool {
        self.is_trapping
    }

    /// Returns the program headers of the launcher, by which it can be told from most other programs.
    #[must_use]
    pub fn launcher_headers(&self) -> &'r [u8] {
        self.headers
    }

    /// Returns what the paths of files begin with that tell of one library each, before its build-id in hexadecimal.
    #[must_use]
    pub fn patches(&self) -> &'r [u8] {
        self.patches
    }

    /// Returns where the launcher is, which looks at real files only.
    #[must_use]
    pub fn launcher(&self) -> &'r CStr {
        self.launcher
    }

    /// Returns where the file of counts is.
    #[must_use]
    pub fn counts(&self) -> &'r CStr {
        self.counts
    }

    /// Returns where the shim is.
    #[must_use]
    pub fn shim(&self) -> &'r [u8] {
        self.shim
    }

    /// Returns how many projections there are.
    #[must_use]
    pub fn projection_count(&self) -> u32 {
        (self.projections.len() / PROJECTION_BYTES) as u32
    }

    /// Returns a projection by its place in the file.
    #[must_use]
    pub fn projection(&self, index: u32) -> Option<Projection<'r>> {
        let record = record(self.projections, PROJECTION_BYTES, index)?;
        let string = |at: usize| string(self.strings, record, at);
        Some(Projection {
            device: u64_at(record, 0)?,
            inode: u64_at(record, 1)?,
            stand_in_device: u64_at(record, 2)?,
            stand_in_inode: u64_at(record, 3)?,
            shown_ns: u64_at(record, 4)?.cast_signed(),
            stamp_ns: u64_at(record, 5)?.cast_signed(),
            uid: u32_at(record, 12)?,
            gid: u32_at(record, 13)?,
            umask: u32_at(record, 14)?,
            containers: Containers { first: u32_at(record, 15)?, count: u32_at(record, 16)? },
            number: u32_at(record, 17)?,
            directory: string(18)?,
            manifest: string(20)?,
            sidecar: string(22)?,
            state: string(24)?,
            stand_in: string(26)?,
            is_searchable: u32_at(record, 28)? & SEARCHABLE != 0,
        })
    }

    /// Returns where a container of a projection's sidecar is.
    #[must_use]
    pub fn container(&self, projection: &Projection<'r>, number: u32) -> Option<&'r [u8]> {
        if number >= projection.containers.count {
            return None;
        }
        let index = projection.containers.first.checked_add(number)?;
        string(self.strings, record(self.containers, STRING_BYTES, index)?, 0)
    }

    /// Returns the library with this build-id.
    #[must_use]
    pub fn library(&self, build_id: &[u8]) -> Option<Library<'r>> {
        let wanted = build_id.get(..BUILD_ID_MAX).unwrap_or(build_id);
        self.libraries().find(|one| one.build_id == wanted)
    }

    /// Returns all libraries.
    pub fn libraries(&self) -> impl Iterator<Item = Library<'r>> + use<'r> {
        let run = *self;
        let records = (0..).map_while(move |index| record(run.libraries, LIBRARY_BYTES, index));
        records.filter_map(move |record| run.read_library(record))
    }

    fn read_library(&self, record: &'r [u8]) -> Option<Library<'r>> {
        let time = |at: usize| u64_at(record, at).map(u64::cast_signed);
        let build_id = record.get(40..40 + BUILD_ID_MAX)?.get(..u32_at(record, 15)? as usize)?;
        Some(Library {
            build_id,
            original: Original {
                device: u64_at(record, 0)?,
                inode: u64_at(record, 1)?,
                size: u64_at(record, 2)?,
                mtime_ns: time(3)?,
                ctime_ns: time(4)?,
            },
            sites: Sites { first: u32_at(record, 16)?, count: u32_at(record, 17)? },
            code: u32_at(record, 18)?,
            code_bytes: u32_at(record, 19)?,
            code_offset: u32_at(record, 20)?,
            stubs_offset: u32_at(record, 21)?,
            stubs_bytes: u32_at(record, 22)?,
            copy: name(self.strings, record, 23)?,
            watched: core::array::from_fn(|at| Watched {
                address: u32_at(record, 25 + at).unwrap_or(0),
                byte: record.get(112 + at).copied().unwrap_or(0),
            }),
        })
    }

    /// Returns the sites of a library.
    pub fn sites(&self, library: &Library<'r>) -> impl Iterator<Item = Site> + use<'r> {
        let (sites, of) = (self.sites, library.sites);
        (0..of.count).map_while(move |index| {
            let record = record(sites, SITE_BYTES, of.first.checked_add(index)?)?;
            Some(Site {
                address: u32_at(record, 0)?,
                before: record[4],
                after: record[5],
                number: u32_at(record, 2)?.cast_signed(),
                hop: u32_at(record, 3)?.cast_signed(),
                bytes: record[16..].try_into().ok()?,
            })
        })
    }
}

fn record(records: &[u8], bytes: usize, index: u32) -> Option<&[u8]> {
    let start = (index as usize).checked_mul(bytes)?;
    records.get(start..start.checked_add(bytes)?)
}

/// Returns the string that words `at` and the next of a record tell of, if a NUL follows it.
fn string<'r>(strings: &'r [u8], record: &[u8], at: usize) -> Option<&'r [u8]> {
    let (start, length) = (u32_at(record, at)? as usize, u32_at(record, at + 1)? as usize);
    let (text, rest) = strings.get(start..)?.split_at_checked(length)?;
    (rest.first() == Some(&0)).then_some(text)
}

/// As [`string`], with the NUL.
fn name<'r>(strings: &'r [u8], record: &[u8], at: usize) -> Option<&'r CStr> {
    let (start, length) = (u32_at(record, at)? as usize, u32_at(record, at + 1)? as usize);
    let bytes = strings.get(start..)?.get(..length.checked_add(1)?)?;
    CStr::from_bytes_with_nul(bytes).ok()
}

/// Files that the processes of a run have to find.
#[cfg(feature = "alloc")]
#[derive(Debug, Clone, Copy)]
pub struct Files<'f> {
    /// The shim.
    pub shim: &'f [u8],
    /// The file of counts.
    pub counts: &'f [u8],
    /// The launcher.
    pub launcher: &'f [u8],
    /// See [`Run::patches`].
    pub patches: &'f [u8],
    /// See [`Run::launcher_headers`].
    pub headers: &'f [u8],
    /// See [`Run::is_trapping`].
    pub is_trapping: bool,
    /// See [`Run::actions`].
    pub actions: &'f [u8],
    /// See [`Run::is_recorded`] and [`is_named`]: names with a space between them.
    pub programs: &'f [u8],
}

/// Makes run files.
#[cfg(feature = "alloc")]
#[derive(Debug, Default)]
pub struct Writer {
    projections: alloc::vec::Vec<u8>,
    containers: alloc::vec::Vec<u8>,
    libraries: alloc::vec::Vec<u8>,
    sites: alloc::vec::Vec<u8>,
    strings: alloc::vec::Vec<u8>,
}

#[cfg(feature = "alloc")]
impl Writer {
    fn string(&mut self, text: &[u8]) -> [u8; STRING_BYTES] {
        let mut bytes = [0; STRING_BYTES];
        bytes[..4].copy_from_slice(&(self.strings.len() as u32).to_le_bytes());
        bytes[4..].copy_from_slice(&(text.len() as u32).to_le_bytes());
        self.strings.extend_from_slice(text);
        self.strings.push(0);
        bytes
    }

    /// Adds a projection, whose containers are at these places.
    pub fn add_projection(&mut self, projection: &Projection<'_>, containers: &[&[u8]]) {
        let first = (self.containers.len() / STRING_BYTES) as u32;
        for container in containers {
            let bytes = self.string(container);
            self.containers.extend_from_slice(&bytes);
        }
        let mut record = alloc::vec::Vec::with_capacity(PROJECTION_BYTES);
        for number in [
            projection.device,
            projection.inode,
            projection.stand_in_device,
            projection.stand_in_inode,
            projection.shown_ns.cast_unsigned(),
            projection.stamp_ns.cast_unsigned(),
        ] {
            record.extend_from_slice(&number.to_le_bytes());
        }
        let (uid, gid, umask) = (projection.uid, projection.gid, projection.umask);
        for number in [uid, gid, umask, first, containers.len() as u32, projection.number] {
            record.extend_from_slice(&number.to_le_bytes());
        }
        let (directory, manifest) = (projection.directory, projection.manifest);
        let (sidecar, state) = (projection.sidecar, projection.state);
        for text in [directory, manifest, sidecar, state, projection.stand_in] {
            record.extend_from_slice(&self.string(text));
        }
        let flags = if projection.is_searchable { SEARCHABLE } else { 0 };
        record.extend_from_slice(&flags.to_le_bytes());
        record.resize(PROJECTION_BYTES, 0);
        self.projections.extend_from_slice(&record);
    }

    /// Adds a library with its sites; of a longer build-id the first bytes count.
    pub fn add_library(&mut self, library: &Library<'_>, sites: &[Site]) {
        let original = &library.original;
        let times = [original.mtime_ns, original.ctime_ns].map(i64::cast_unsigned);
        let mut record = alloc::vec::Vec::with_capacity(LIBRARY_BYTES);
        for number in [original.device, original.inode, original.size].iter().chain(&times) {
            record.extend_from_slice(&number.to_le_bytes());
        }
        let build_id = library.build_id.get(..BUILD_ID_MAX).unwrap_or(library.build_id);
        record.extend_from_slice(build_id);
        record.resize(40 + BUILD_ID_MAX, 0);
        let first = (self.sites.len() / SITE_BYTES) as u32;
        let counts = [build_id.len() as u32, first, sites.len() as u32];
        let code = [library.code, library.code_bytes, library.code_offset];
        for number in counts.iter().chain(&code).chain(&[library.stubs_offset, library.stubs_bytes])
        {
            record.extend_from_slice(&number.to_le_bytes());
        }
        record.extend_from_slice(&self.string(library.copy.to_bytes()));
        library.watched.iter().for_each(|one| record.extend_from_slice(&one.address.to_le_bytes()));
        record.extend(library.watched.iter().map(|one| one.byte));
        record.resize(LIBRARY_BYTES, 0);
        self.libraries.extend_from_slice(&record);
        for site in sites {
            self.sites.extend_from_slice(&site.address.to_le_bytes());
            self.sites.extend_from_slice(&[site.before, site.after, 0, 0]);
            self.sites.extend_from_slice(&site.number.to_le_bytes());
            self.sites.extend_from_slice(&site.hop.to_le_bytes());
            self.sites.extend_from_slice(&site.bytes);
        }
    }

    /// Returns the bytes of the file.
    #[must_use]
    pub fn finish(mut self, files: &Files<'_>) -> alloc::vec::Vec<u8> {
        let flags = if files.is_trapping { TRAPPING } else { 0 };
        let behind = [files.actions, files.programs].map(|file| self.string(file));
        let files = [files.shim, files.counts, files.launcher, files.patches, files.headers];
        let files = files.map(|file| self.string(file));
        let mut bytes = MAGIC.to_vec();
        let counts = [
            VERSION as usize,
            self.projections.len() / PROJECTION_BYTES,
            self.containers.len() / STRING_BYTES,
            self.libraries.len() / LIBRARY_BYTES,
            self.sites.len() / SITE_BYTES,
            self.strings.len(),
        ];
        for count in counts {
            bytes.extend_from_slice(&(count as u32).to_le_bytes());
        }
        files.iter().for_each(|file| bytes.extend_from_slice(file));
        bytes.extend_from_slice(&flags.to_le_bytes());
        behind.iter().for_each(|file| bytes.extend_from_slice(file));
        bytes.resize(HEADER_BYTES, 0);
        let parts = [self.projections, self.containers, self.libraries, self.sites, self.strings];
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
        bytes
    }
}

#[cfg(all(test, feature = "alloc"))]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let projection = Projection {
            device: 1,
            inode: 2,
            stand_in_device: 3,
            stand_in_inode: 4,
            shown_ns: -5,
            stamp_ns: 6,
            uid: 7,
            gid: 8,
            umask: 0o22,
            number: 9,
            directory: b"/a",
            manifest: b"/m",
            sidecar: b"/s",
            state: b"/t",
            stand_in: b"/d",
            is_searchable: true,
            containers: Containers { first: 0, count: 2 },
        };
        let mut bytes = [0; SITE_MAX];
        bytes[..2].copy_from_slice(&[0x0f, 0x05]);
        let site = Site { address: 77, before: 0, after: 6, number: -1, hop: -99, bytes };
        let original = Original { device: 1, inode: 2, size: 3, mtime_ns: -4, ctime_ns: 5 };
        let library = Library {
            build_id: &[3; 20],
            original,
            copy: c"/copy",
            code: 6,
            code_bytes: 7,
            code_offset: 8,
            stubs_offset: 9,
            stubs_bytes: 10,
            watched: [1, 2, 3].map(|byte| Watched { address: 11, byte }),
            sites: Sites { first: 1, count: 2 },
        };
        let mut writer = Writer::default();
        writer.add_projection(&projection, &[b"/one", b"/two"]);
        writer.add_library(&Library { build_id: b"first", ..library }, &[site]);
        writer.add_library(&library, &[site, site]);
        let (shim, counts) = (b"/shim.so", b"/counts");
        let files = Files {
            shim,
            counts,
            launcher: b"/rift",
            patches: b"/p-",
            headers: b"h",
            is_trapping: true,
            actions: b"/actions",
            programs: b"cc rustc build-script-*",
        };
        let bytes = writer.finish(&files);
        let run = Run::parse(&bytes).unwrap();
        assert_eq!(
            [run.shim(), run.counts().to_bytes(), run.launcher().to_bytes()],
            [&b"/shim.so"[..], b"/counts", b"/rift"]
        );
        assert_eq!([run.patches(), run.launcher_headers()], [&b"/p-"[..], b"h"]);
        assert!(run.is_trapping());
        assert_eq!(run.actions(), b"/actions");
        let recorded = |path: &str| run.is_recorded(path.as_bytes());
        assert!(recorded("/usr/bin/cc") && recorded("rustc") && recorded("/t/build-script-make"));
        assert!(!recorded("/cc/") && !recorded("c") && !recorded("") && !recorded("build-script"));
        assert_eq!((run.projection_count(), run.projection(0)), (1, Some(projection)));
        assert_eq!(run.container(&projection, 1), Some(&b"/two"[..]));
        assert_eq!(run.container(&projection, 2), None);
        assert_eq!(run.library(&[3; 21]), Some(library));
        assert_eq!(run.sites(&library).count(), 2);
        assert!(run.sites(&library).all(|read| read == site) && run.library(b"other").is_none());
        for end in 0..bytes.len() {
            assert!(Run::parse(&bytes[..end]).is_err(), "{end}");
        }
    }
}
