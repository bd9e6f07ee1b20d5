//! Copies of C libraries whose system calls are jumps, kept in the store for all runs.
//!
//! ```text
//! copy: | the library's file, with a jump at each site | zeros up to a page | stubs, in whole pages |
//! ```
//! Beside a copy lies what was found in the library, as a run file that tells of nothing else; its name has the
//! library's build-id, and tells by what rules it was made. It holds as long as the library's file is the same.

use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use object::elf::{FileHeader64, PF_X, PT_LOAD};
use object::read::elf::{FileHeader as _, ProgramHeader as _};
use object::{Endianness, elf};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, SectionKind};
use rift_cas::Store;
use rift_tree::run::{self, BUILD_ID_MAX, Original, Run, Site, WATCHED, Watched};
use rift_tree::stub::{self, STUB_BYTES, STUBS_BELOW};

use super::{Which, sites, table};

/// To be raised when other stubs are made, or other sites are found in the same library.
const RULES: u32 = 2;
const PAGE: u64 = 4096;

/// Returns what the files of a store begin with that tell what was found in a library.
pub(super) fn prefix(store: &Store, which: Which) -> PathBuf {
    let wanted: Vec<bool> = (-1..table::NUMBERS as i32).map(|number| which.wants(number)).collect();
    let rules = format!("{RULES} {} {wanted:?}", run::VERSION);
    let rules = blake3::hash(rules.as_bytes()).to_hex();
    store.patches_path(&format!("{}-", rules.get(..16).unwrap_or(&rules)))
}

/// Finds out about a library, or knows it; returns a run file that tells of it.
///
/// # Errors
/// When it can't be patched whole, and what the system says.
pub(super) fn known(store: &Store, path: &Path, which: Which) -> Result<Vec<u8>> {
    let mut file = File::open(path).context("it can't be opened")?;
    let original = original(&file)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).context("it can't be read")?;
    if self::original(&file)? != original {
        bail!("it changes meanwhile");
    }
    let object = object::File::parse(&*bytes).context("it is no object file")?;
    let build_id = object.build_id().context("its notes can't be read")?;
    let build_id = build_id.context("it has no build-id")?;
    let build_id = build_id.get(..BUILD_ID_MAX).unwrap_or(build_id);
    let mut place = prefix(store, which).into_os_string();
    place.push(build_id.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    let place = PathBuf::from(place);
    if let Ok(found) = fs::read(&place)
        && is_of(&found, build_id, &original)
    {
        return Ok(found);
    }
    let found = look(store, path, &bytes, build_id, original, which);
    // What can't be patched is known, too.
    let written =
        found.as_ref().cloned().unwrap_or_else(|_| run::Writer::default().finish(&NO_FILES));
    store.keep_patches(&place, &written)?;
    found
}

const NO_FILES: run::Files<'_> = run::Files {
    shim: b"",
    counts: b"",
    launcher: b"",
    patches: b"",
    headers: b"",
    is_trapping: false,
    actions: b"",
    programs: b"",
};

/// Tells whether a file tells of a library, and the copy is there and whole.
fn is_of(found: &[u8], build_id: &[u8], original: &Original) -> bool {
    let Some(library) = Run::parse(found).ok().and_then(|run| run.library(build_id)) else {
        return false;
    };
    let copy = Path::new(OsStr::from_bytes(library.copy.to_bytes()));
    // It has the name of its hash, and is what all programs of the run are about to execute.
    let is_whole = || {
        let hash = fs::read(copy).map(|bytes| blake3::hash(&bytes).to_hex());
        let name = copy.file_name().unwrap_or_default().as_bytes();
        hash.is_ok_and(|hash| name.starts_with(hash.as_bytes()))
    };
    library.original == *original && (library.copy.is_empty() || is_whole())
}

fn original(file: &File) -> Result<Original> {
    let stat = file.metadata().context("it can't be looked at")?;
    let time = |seconds: i64, ns: i64| seconds.wrapping_mul(1_000_000_000).wrapping_add(ns);
    Ok(Original {
        device: stat.dev(),
        inode: stat.ino(),
        size: stat.size(),
        mtime_ns: time(stat.mtime(), stat.mtime_nsec()),
        ctime_ns: time(stat.ctime(), stat.ctime_nsec()),
    })
}

fn look(
    store: &Store,
    path: &Path,
    bytes: &[u8],
    build_id: &[u8],
    original: Original,
    which: Which,
) -> Result<Vec<u8>> {
    let found = sites::find(bytes, |number| which.wants(number))?;
    // Where all are wanted, those that are left are trapped.
    let needed = if which == Which::All { Which::Owned } else { which };
    let mut left = found.left.iter().filter(|(_, number)| needed.wants(*number));
    if let Some((address, number)) = left.next() {
        bail!("system call {number} at {address:#x} can't be replaced");
    }
    let mut library = run::Library {
        build_id,
        original,
        copy: c"",
        code: 0,
        code_bytes: 0,
        code_offset: 0,
        stubs_offset: 0,
        stubs_bytes: 0,
        watched: watched(bytes),
        sites: run::Sites::default(),
    };
    let copied = copy(bytes, &found.sites, &mut library);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let copy = match copied {
        Some(copy) => Some(store.publish_tool(&name, &copy).context("could not keep its copy")?),
        None => None,
    };
    let copy = copy.map(|copy| CString::new(copy.into_os_string().into_vec())).transpose()?;
    library.copy = copy.as_deref().unwrap_or_default();
    let mut writer = run::Writer::default();
    writer.add_library(&library, &found.sites);
    Ok(writer.finish(&NO_FILES))
}

/// Returns where debuggers stop a loader: where it says that it has loaded something, by a call or by one of its probes.
fn watched(bytes: &[u8]) -> [Watched; WATCHED] {
    let Ok(file) = object::File::parse(bytes) else { return Default::default() };
    let is_stop = |name: &[u8]| name == b"_dl_debug_state";
    let calls = file.dynamic_symbols().filter(|symbol| symbol.name_bytes().is_ok_and(is_stop));
    let probes = file.section_by_name(".note.stapsdt").and_then(|notes| notes.data().ok());
    let places =
        calls.map(|symbol| symbol.address()).chain(probes.into_iter().flat_map(rtld_probes));
    let code = || file.sections().filter(|section| section.kind() == SectionKind::Text);
    let found = places.filter_map(|address| {
        let byte = code().find_map(|code| code.data_range(address, 1).ok()?)?;
        Some(Watched { address: address.try_into().ok()?, byte: *byte.first()? })
    });
    let mut watched = [Watched::default(); WATCHED];
    for (place, one) in watched.iter_mut().zip(found) {
        *place = one;
    }
    watched
}

/// Returns the addresses of the loader's probes: of each a note has the address, two more, and the names.
fn rtld_probes(notes: &[u8]) -> Vec<u64> {
    let mut found = Vec::new();
    let mut rest = notes;
    while let Some((head, body)) = rest.split_at_checked(12) {
        let word = |at: usize| head[at..at + 4].try_into().map_or(0, u32::from_le_bytes) as usize;
        let name = word(0).next_multiple_of(4);
        let Some(note) = body.get(name..name + word(4)) else { break };
        if note.get(24..).is_some_and(|names| names.starts_with(b"rtld\0"))
            && let Some(address) = note.first_chunk()
        {
            found.push(u64::from_le_bytes(*address));
        }
        rest = body.get(name + word(4).next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// Returns the program headers of a program, as they are when it is loaded.
pub(super) fn program_headers(path: &Path) -> Result<Vec<u8>> {
    let mut head = vec![0; 4096];
    let read = File::open(path).and_then(|mut file| file.read(&mut head));
    head.truncate(read.context("the program can't be read")?);
    let header = FileHeader64::<Endianness>::parse(&*head).context("it is no program")?;
    let endian = header.endian().context("it is no program")?;
    let (start, size) = (header.e_phoff(endian) as usize, header.e_phentsize(endian));
    let bytes = usize::from(size) * usize::from(header.e_phnum(endian));
    let headers = head.get(start..start + bytes).context("its headers are elsewhere")?;
    Ok(headers.to_vec())
}

/// Makes the copy, where all sites lie in one piece of code.
fn copy(bytes: &[u8], sites: &[Site], library: &mut run::Library<'_>) -> Option<Vec<u8>> {
    let header = FileHeader64::<Endianness>::parse(bytes).ok()?;
    let endian = header.endian().ok()?;
    let parts = || sites.iter().flat_map(stub::parts).filter(|(_, part)| !part.is_empty());
    let (first, _) = parts().min_by_key(|(address, _)| *address)?;
    let segment = header.program_headers(endian, bytes).ok()?.iter().find(|one| {
        let code = one.p_vaddr(endian)..one.p_vaddr(endian) + one.p_filesz(endian);
        one.p_type(endian) == PT_LOAD
            && one.p_flags(endian) & (PF_X | elf::PF_W) == PF_X
            && code.contains(&first)
    })?;
    let (start, offset) = (segment.p_vaddr(endian), segment.p_offset(endian));
    let end = start + segment.p_filesz(endian);
    if parts().any(|(address, part)| address + part.len() as u64 > end)
        || start % PAGE != offset % PAGE
        || segment.p_memsz(endian) != segment.p_filesz(endian)
    {
        return None;
    }
    let page = start - start % PAGE;
    library.code = u32::try_from(page).ok()?;
    library.code_bytes = u32::try_from(end.next_multiple_of(PAGE) - page).ok()?;
    library.code_offset = u32::try_from(offset - offset % PAGE).ok()?;
    let stubs_offset = (bytes.len() as u64).next_multiple_of(PAGE);
    let stubs_bytes = ((sites.len() * STUB_BYTES) as u64).next_multiple_of(PAGE);
    library.stubs_offset = u32::try_from(stubs_offset).ok()?;
    library.stubs_bytes = u32::try_from(stubs_bytes).ok()?;
    let mut copy = bytes.to_vec();
    copy.resize((stubs_offset + stubs_bytes) as usize, 0);
    let stubs = 0_u64.wrapping_sub(STUBS_BELOW);
    for (number, site) in sites.iter().enumerate() {
        let at = stubs.wrapping_add((number * STUB_BYTES) as u64);
        let stub = stub::stub(site, at, stubs.wrapping_add(stubs_bytes));
        let place = stubs_offset as usize + number * STUB_BYTES;
        copy.get_mut(place..place + STUB_BYTES)?.copy_from_slice(&stub);
        let jump = stub::jump(site, at);
        for (address, part) in stub::parts(site) {
            let place = (address - start + offset) as usize;
            copy.get_mut(place..place + part.len())?.copy_from_slice(jump.get(part)?);
        }
    }
    Some(copy)
}
