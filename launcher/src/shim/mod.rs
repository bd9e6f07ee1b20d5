//! Runs under the shim: the command and all that it starts see projections that are neither written nor mounted.
//!
//! The launcher puts the preload library and a run file where the processes find them, stays until the command has
//! ended, and holds the projections meanwhile.

mod patched;
#[path = "../../../shim/src/program.rs"]
#[allow(dead_code, reason = "the shim asks for interpreters, too")]
mod program;
mod sites;
#[path = "../../../shim/src/table.rs"]
#[allow(dead_code, reason = "the shim asks for more than numbers")]
mod table;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use linux_raw_sys::general as kernel;
use rift_cas::Store;
use rift_cas::partial::Partial;
use rift_cas::projection::Projection;
use rift_cas::store::LiveFile;
use rift_tree::run::{self, COUNTS_BYTES, Containers, Count, Run};
use rift_tree::{EntryId, Kind, Manifest};

use crate::env_vars;
use crate::exec::child::{self, Ending};
use crate::machine;
use crate::mount::Held;
use crate::ui;

use self::program::Program;

/// The preload library, as the build has made it.
const LIBRARY: &[u8] = include_bytes!(env!("SHIM_LIBRARY"));

/// The hidden command that becomes another one: it finds programs that only the shim shows.
pub use rift_tree::run::{BECOME, PATCH};

/// How a run under the shim went.
#[derive(Debug)]
pub struct Outcome {
    /// How the command ended.
    pub ending: Ending,
    /// What its processes have counted.
    pub counted: Counted,
}

/// What the processes of a run have counted together.
#[derive(Debug, Clone, Copy)]
pub struct Counted([u64; COUNTS_BYTES / size_of::<u64>()]);

impl Counted {
    fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).context("could not read what was counted")?;
        let mut counted = [0; COUNTS_BYTES / size_of::<u64>()];
        for (number, bytes) in counted.iter_mut().zip(bytes.chunks_exact(size_of::<u64>())) {
            *number = bytes.try_into().map_or(0, u64::from_le_bytes);
        }
        Ok(Self(counted))
    }

    /// Returns one of the counts.
    #[must_use]
    pub fn of(&self, count: Count) -> u64 {
        self.0.get(count as usize).copied().unwrap_or(0)
    }

    /// Tells whether every program that was to be intercepted was.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let is_none = |count| self.of(count) == 0;
        self.of(Count::Expected) <= self.of(Count::Arrived)
            && is_none(Count::Unpatched)
            && is_none(Count::Foreign)
    }

    /// Says it, line by line.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let of = |count| ui::count(self.of(count));
        let mut lines = vec![
            format!("{} looks at the tree were answered without the kernel", of(Count::Answered)),
            format!("{} calls about it were passed to the kernel", of(Count::Passed)),
            format!("{} entries were made real", of(Count::MadeReal)),
            format!("{} programs had the shim", of(Count::Arrived)),
        ];
        let missing = self.of(Count::Expected).saturating_sub(self.of(Count::Arrived));
        for (number, what) in [
            (missing, "started without the shim, and may have seen an empty directory"),
            (self.of(Count::Unpatched), "could not be patched: everything was made real"),
            (self.of(Count::Foreign), "can't have the shim: everything was made real"),
        ] {
            if number > 0 {
                lines.push(format!("{} programs {what}", ui::count(number)));
            }
        }
        lines.extend(self.damage());
        lines
    }

    /// Says what could not be read; `None` where all could.
    #[must_use]
    pub fn damage(&self) -> Option<String> {
        let number = self.of(Count::Damaged);
        (number > 0).then(|| {
            let (times, store) = (ui::count(number), "the store's bytes were lost or touched");
            format!("a file of a tree could not be read {times} times: {store}")
        })
    }
}

/// A run whose processes will find all that they need.
pub struct Prepared {
    library: PathBuf,
    file: LiveFile,
    counts: LiveFile,
    held: Vec<Held>,
}

impl Prepared {
    /// Holds the projections and writes the run file; with [`Which::All`], system calls are trapped that are made elsewhere.
    ///
    /// # Errors
    /// What the system says; nothing was started then.
    pub fn new(store: &Store, projections: &[Projection], which: Which) -> Result<Self> {
        Self::recording(store, projections, which, None)
    }

    /// As [`Prepared::new`]; with `actions`, runs of programs are recorded and replayed.
    ///
    /// # Errors
    /// As [`Prepared::new`].
    pub fn recording(
        store: &Store,
        projections: &[Projection],
        which: Which,
        actions: Option<Actions<'_>>,
    ) -> Result<Self> {
        let library =
            store.publish_tool("librift.so", LIBRARY).context("could not keep the shim")?;
        // The loader would leave the library out, and programs see an empty directory.
        let mounted = rustix::fs::statvfs(&library).context("could not look at the shim")?;
        anyhow::ensure!(
            !mounted.f_flag.contains(rustix::fs::StatVfsMountFlags::NOEXEC),
            "the store's file system lets nothing be executed (noexec, see mount(8))"
        );
        let mut writer = run::Writer::default();
        let mut held = Vec::new();
        for (number, projection) in (1..).zip(projections) {
            let one = Held::of(store, projection)?;
            add(&mut writer, store, projection, &one, number)?;
            held.push(one);
        }
        for path in libraries() {
            // Where it can't be patched, everything is made real.
            let Ok(known) = patched::known(store, &path, which) else { continue };
            let Ok(known) = Run::parse(&known) else { continue };
            for library in known.libraries() {
                writer.add_library(&library, &known.sites(&library).collect::<Vec<_>>());
            }
        }
        let mut counts = [0; COUNTS_BYTES];
        // The command itself.
        counts[Count::Expected as usize * size_of::<u64>()] = 1;
        counts[Count::Doubts as usize * size_of::<u64>()] = u8::from(are_in_doubt(projections));
        let counts = store.live_file(&counts)?;
        let launcher = std::fs::read_link("/proc/self/exe").context("could not find rift")?;
        let (patches, headers) =
            (patched::prefix(store, which), patched::program_headers(&launcher)?);
        let [shim, counts_path, launcher, patches] =
            [&library, counts.path(), &launcher, &patches].map(|path| path.as_os_str().as_bytes());
        let is_trapping = which == Which::All;
        let files = run::Files {
            shim,
            counts: counts_path,
            launcher,
            patches,
            headers: &headers,
            is_trapping,
            actions: actions.map_or(&b""[..], |actions| actions.folder.as_os_str().as_bytes()),
            programs: actions.map_or(&b""[..], |actions| actions.programs.as_bytes()),
        };
        let file = store.live_file(&writer.finish(&files))?;
        Ok(Self { library, file, counts, held })
    }

    /// Returns what brings the blobs of trees that are not whole.
    #[must_use]
    pub fn partial(&self) -> Vec<Arc<Partial>> {
        self.held.iter().filter_map(|held| held.tree().partial().cloned()).collect()
    }

    /// Runs a command that sees the projections.
    ///
    /// # Errors
    /// What the system says.
    pub fn run(self, command: &[OsString]) -> Result<Outcome> {
        // What only the shim shows, or must not be started before all is real, the shim starts.
        let is_plain =
            command.first().and_then(|program| child::find(program)).is_some_and(is_plain);
        let through = ["/proc/self/exe", BECOME, "--"].map(OsString::from);
        let through = if is_plain { command.to_vec() } else { [&through, command].concat() };
        let ending = child::run_with(&through, |process: &mut Command| {
            let mut preload = std::env::var_os(env_vars::LD_PRELOAD).unwrap_or_default().into_vec();
            if !preload.is_empty() {
                preload.push(b':');
            }
            preload.extend_from_slice(self.library.as_os_str().as_bytes());
            process.env(env_vars::LD_PRELOAD, OsStr::from_bytes(&preload));
            process.env(env_vars::RIFT_RUN, self.file.path());
            // What goes through io_uring passes by everybody who watches system calls.
            process.env(env_vars::UV_USE_IO_URING, "0");
        })?;
        let counted = Counted::read(self.counts.path())?;
        self.held.into_iter().try_for_each(Held::leave)?;
        Ok(Outcome { ending, counted })
    }
}

/// Tells whether what a run starts with makes openat2(2) say too little of where paths lead, see [`Count::Doubts`].
fn are_in_doubt(projections: &[Projection]) -> bool {
    use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let asked = rustix::fs::openat2(CWD, "/", flags, Mode::empty(), ResolveFlags::NO_SYMLINKS);
    let mounts = machine::mounts(Path::new("/"));
    asked.is_err()
        || projections.iter().any(|one| machine::has_other_names(&mounts, &one.directory))
}

/// Tells whether the loader will load the shim into a program.
fn is_plain(program: PathBuf) -> bool {
    let mut head = Vec::new();
    let Ok(file) = File::open(program) else { return false };
    let has_rights = file.metadata().map_or(true, |stat| stat.mode() & 0o6000 != 0)
        || rustix::fs::fgetxattr(&file, "security.capability", &mut [0_u8; 0][..]).is_ok();
    let is_read = (&file).take(program::HEAD_BYTES as u64).read_to_end(&mut head).is_ok();
    let wishes =
        Program::wishes(&head, |offset, bytes| file.read_at(bytes, offset as u64).unwrap_or(0));
    // The shim looks for the libraries that may be a tree's.
    let finds_more = [env_vars::LD_LIBRARY_PATH, env_vars::LD_PRELOAD, env_vars::LD_AUDIT];
    let has_paths =
        wishes.has_paths || finds_more.iter().any(|name| std::env::var_os(name).is_some());
    // The shim makes it real where it is a tree's.
    let loader = Program::loader(&head).map(OsStr::from_bytes);
    let has_loader = loader.is_some_and(|loader| Path::new(loader).exists());
    is_read && !has_rights && !wishes.is_checked && !has_paths && has_loader
}

/// Tells whether a command is a program that no library is loaded into: a static one, or one that runs with other rights.
#[must_use]
pub fn is_closed(program: &OsStr) -> bool {
    let mut head = Vec::new();
    let Some(Ok(file)) = child::find(program).map(File::open) else { return false };
    let has_rights = file.metadata().is_ok_and(|stat| stat.mode() & 0o6000 != 0);
    let is_read = (&file).take(program::HEAD_BYTES as u64).read_to_end(&mut head).is_ok();
    is_read && head.starts_with(b"\x7fELF") && (has_rights || Program::loader(&head).is_none())
}

/// Which system calls of a library become jumps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Those that the shim has anything to do with.
    Owned,
    /// These, and all that are written down of actions.
    Recorded,
    /// All that may, because those that are left are trapped.
    All,
}

/// What a run records and replays: the folder of its journals, and the names of programs, with a space between them.
#[derive(Debug, Clone, Copy)]
pub struct Actions<'a> {
    /// The folder.
    pub folder: &'a Path,
    /// The names.
    pub programs: &'a str,
}

impl Which {
    /// Tells whether a system call becomes a jump. The end of a signal handler stays as it is: debuggers and unwinders know it
    /// by its bytes.
    fn wants(self, number: i32) -> bool {
        let Ok(place) = usize::try_from(number) else { return true };
        match (self, number.cast_unsigned()) {
            (_, kernel::__NR_rt_sigreturn) => false,
            // A thread may give its stack back and then end without one.
            (Self::All, number) => !matches!(number, kernel::__NR_munmap | kernel::__NR_exit),
            (Self::Owned | Self::Recorded, number) => {
                let shape = table::SHAPES.get(place).copied().unwrap_or(table::Shape::None);
                !matches!(shape, table::Shape::None | table::Shape::Masking)
                    || self == Self::Recorded && table::RECORDED.contains(&number)
            }
        }
    }
}

/// Adds a projection to the run file.
fn add(
    writer: &mut run::Writer,
    store: &Store,
    projection: &Projection,
    held: &Held,
    number: u32,
) -> Result<()> {
    let stand_in = store.stand_in(&projection.directory)?;
    let empty = stand_in.symlink_metadata().context("could not look at a stand-in")?;
    let own = projection.directory.symlink_metadata().context("could not look at the directory")?;
    let tree = held.tree();
    let (manifest, sidecar) = (tree.manifest_path(), tree.sidecar_path());
    let state = store.state_path(&projection.directory);
    let containers: Vec<&[u8]> =
        tree.container_files().iter().map(|path| path.as_os_str().as_bytes()).collect();
    let record = run::Projection {
        device: own.dev(),
        inode: own.ino(),
        stand_in_device: empty.dev(),
        stand_in_inode: empty.ino(),
        shown_ns: projection.done_ns,
        stamp_ns: projection.stamp_ns,
        uid: own.uid(),
        gid: own.gid(),
        umask: projection.umask.into(),
        number,
        directory: projection.directory.as_os_str().as_bytes(),
        manifest: manifest.as_os_str().as_bytes(),
        sidecar: sidecar.as_os_str().as_bytes(),
        state: state.as_os_str().as_bytes(),
        stand_in: stand_in.as_os_str().as_bytes(),
        is_searchable: is_searchable(&tree.manifest(), projection.umask.into()),
        containers: Containers::default(),
    };
    writer.add_projection(&record, &containers);
    Ok(())
}

/// Tells whether the owner may search all directories of a tree that are written with this umask.
fn is_searchable(manifest: &Manifest<'_>, umask: u32) -> bool {
    let taken = if manifest.is_stamped() { umask } else { 0 };
    let is_directory = |id: &EntryId| matches!(manifest.kind(*id), Some(Kind::Directory { .. }));
    let mut directories = (0..manifest.len()).map(EntryId).filter(is_directory);
    directories.all(|id| u32::from(manifest.mode(id).unwrap_or_default()) & !taken & 0o100 != 0)
}

/// Returns the C libraries and loaders that programs of this machine are started with.
fn libraries() -> Vec<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mapped = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
    let mut found: Vec<PathBuf> =
        mapped.map(PathBuf::from).filter(|path| is_library(path)).collect();
    found.dedup();
    // Older C libraries have threads in a library of their own, which newer ones keep as an empty one.
    let beside =
        found.iter().map(|path| path.with_file_name("libpthread.so.0")).collect::<Vec<_>>();
    found.extend(beside);
    found.push(PathBuf::from("/lib/ld-musl-x86_64.so.1"));
    found.retain(|path| path.exists());
    found.sort();
    found.dedup();
    found
}

fn is_library(path: &Path) -> bool {
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let starts = ["libc.so", "libc-", "ld-linux", "ld-2", "ld-musl", "libpthread"];
    starts.iter().any(|start| name.starts_with(start))
}

/// Looks at a library that no run has seen, for all that come.
///
/// # Errors
/// When it can't be patched, and what the system says.
pub fn patch_library(store: &Path, library: &Path, which: Which) -> Result<()> {
    patched::known(&Store::open(store)?, library, which).map(drop)
}

#[cfg(test)]
mod tests {
    use iced_x86::{Decoder, DecoderOptions, Mnemonic};
    use object::elf::FileHeader64;
    use object::read::elf::{FileHeader as _, ProgramHeader as _};
    use object::{Endianness, Object as _, ObjectSection as _, ObjectSymbol as _, SectionKind};
    use rift_tree::stub;

    use super::*;

    /// It is loaded at each start of a process, into any C library's, so it has to be small and to need nothing.
    #[test]
    fn the_library_is_small_and_needs_nothing() {
        assert!(LIBRARY.len() <= 300 << 10, "{} bytes", LIBRARY.len());
        let header = FileHeader64::<Endianness>::parse(LIBRARY).unwrap();
        let endian = header.endian().unwrap();
        let segments = header.program_headers(endian, LIBRARY).unwrap();
        assert!(segments.iter().all(|segment| segment.p_type(endian) != object::elf::PT_TLS));
        let dynamic = segments.iter().find_map(|one| one.dynamic(endian, LIBRARY).ok().flatten());
        let needs = |entry: &object::elf::Dyn64<Endianness>| {
            entry.d_tag.get(endian) == object::elf::DT_NEEDED
        };
        assert!(!dynamic.unwrap().iter().any(needs));
        let file = object::File::parse(LIBRARY).unwrap();
        let asked: Vec<_> = file
            .dynamic_symbols()
            .filter(|symbol| symbol.is_undefined() && !symbol.is_weak())
            .filter_map(|symbol| symbol.name().ok().map(str::to_owned))
            .filter(|name| !name.is_empty())
            .collect();
        assert!(asked.is_empty(), "{asked:?}");
        // Nor does it take the place of anybody's symbols.
        let given: Vec<_> =
            file.dynamic_symbols().filter(|one| one.is_definition() && one.size() > 0).collect();
        assert!(given.is_empty(), "{given:?}");
        let relocations = file.dynamic_relocations().map_or(0, Iterator::count);
        assert!(relocations <= 64, "{relocations}");
    }

    /// Returns where all system calls of a library are.
    fn instructions(bytes: &[u8]) -> Vec<u64> {
        let file = object::File::parse(bytes).unwrap();
        let code = file.sections().filter(|section| section.kind() == SectionKind::Text);
        let calls = code.flat_map(|section| {
            let mut decoder = Decoder::with_ip(
                64,
                section.data().unwrap(),
                section.address(),
                DecoderOptions::NONE,
            );
            let calls = decoder.iter().filter(|one| one.mnemonic() == Mnemonic::Syscall);
            calls.map(|one| one.ip()).collect::<Vec<_>>()
        });
        let mut calls: Vec<u64> = calls.collect();
        calls.sort_unstable();
        calls
    }

    /// Every system call of the C libraries and loaders of this machine is replaced, or is known to be none that the shim
    /// has to do with.
    #[test]
    fn every_call_of_the_c_libraries_counts() {
        let paths = libraries();
        for wanted in ["libc.so.6", "ld-linux-x86-64.so.2"] {
            assert!(paths.iter().any(|path| path.ends_with(wanted)), "{wanted}: {paths:?}");
        }
        for path in paths {
            let bytes = std::fs::read(&path).unwrap();
            let is_wanted = |number| Which::Owned.wants(number);
            let found = sites::find(&bytes, is_wanted).unwrap();
            assert!(found.others.iter().all(|(_, number)| *number >= 0 && !is_wanted(*number)));
            assert!(found.left.is_empty(), "{}: {:x?}", path.display(), found.left);
            // No instruction is missed, and none is replaced twice.
            let mut calls: Vec<u64> = found.sites.iter().map(|site| site.call()).collect();
            calls.extend(found.others.iter().map(|(address, _)| *address));
            let count = calls.len();
            calls.sort_unstable();
            calls.dedup();
            assert_eq!(calls.len(), count, "{}", path.display());
            assert_eq!(calls, instructions(&bytes), "{}", path.display());
            let starting = [56, 58, 435];
            let numbers: Vec<i32> = found.sites.iter().map(|site| site.number).collect();
            if path.ends_with("libc.so.6") {
                // openat, newfstatat, getdents64, unlink, execve, and those that take the stack away: clone, vfork, clone3; see
                // x86_64's unistd.h.
                for wanted in [257, 262, 217, 87, 59].iter().chain(&starting) {
                    assert!(numbers.contains(wanted), "{wanted} is not among {numbers:?}");
                }
            }
            // The end of a signal handler is known by its bytes.
            assert!(!numbers.contains(&15), "{}", path.display());
            let ranges =
                found.sites.iter().flat_map(stub::parts).filter(|(_, part)| !part.is_empty());
            let mut ranges: Vec<_> =
                ranges.map(|(at, part)| (at, at + part.len() as u64)).collect();
            ranges.sort_unstable();
            assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{}", path.display());
        }
    }
}
