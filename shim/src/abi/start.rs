//! The constructor: finds out about the run, patches the libraries, and says that it is there.

#![allow(unsafe_code, reason = "the loader's own structures are read")]

use core::arch::asm;
use core::ffi::{CStr, c_char};

use rift_tree::run::{BECOME, BUILD_ID_MAX, Count, Library, PATCH, PATCH_ALL, PATCH_RECORDED, Run};

use super::patch::Way;
use super::{clock, entry, patch, trap};
use crate::counts;
use crate::exec::RUN;
use crate::record::{self, RECORD};
use crate::room;
use crate::run;
use crate::sys::{self, Errno, Result};
use crate::text::{Path as _, Text};

#[cfg(feature = "preload")]
#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = start;

/// Called by the loader before the program's own code.
extern "C" fn start() {
    let Some(path) = variable(RUN) else { return };
    let Ok(bytes) = sys::map_file(path) else { return };
    let Ok(run) = run::set(path.to_bytes(), bytes) else { return };
    counts::add(Count::Arrived);
    let mut seen =
        Seen { run, libraries: [None; LIBRARIES], count: 0, is_launcher: None, code: None };
    let is_asked = look(&mut seen);
    if seen.is_launcher == Some(true) && is_launcher(run.launcher().to_bytes()) {
        return;
    }
    room::begin();
    // Who sees trees by the shim is answered, not recorded.
    let journal = variable(RECORD).map(CStr::to_bytes).filter(|_| run.projection_count() == 0);
    // An action of which a part is not written down is not believed.
    let is_recorded = journal.is_none_or(|path| record::begin(path).is_ok());
    if let Some(prefix) = run::common_prefix() {
        entry::set_prefix(prefix);
    }
    // What can't be patched would see the directory as it is on the disk.
    if is_asked && patch_libraries(&seen) && (!run.is_trapping() || trap_strays(&seen)) {
        if journal.is_some() && is_recorded {
            record::began();
            if record::is_suspected() && clock::watch().is_err() {
                record::give_up();
            }
            let _is_told = iterate(visit_name, &mut seen);
        }
        return;
    }
    counts::add(Count::Unpatched);
    record::give_up();
    if crate::exec::make_all_real().is_err() {
        sys::say(
            b"rift: a projection could not be written for a program that can't be intercepted\n",
        );
    }
}

/// Tells whether this process is the launcher, which looks at what is real. It makes some system calls itself, and would see
/// two things at once.
fn is_launcher(launcher: &[u8]) -> bool {
    // Of a longer one the beginning is as good: nothing else is below a path that is as long.
    let mut own = [0; 512];
    let wanted = launcher.get(..own.len()).unwrap_or(launcher);
    let found = sys::read_link(c"/proc/self/exe", &mut own).unwrap_or(0);
    if own.get(..found) != Some(wanted) {
        return false;
    }
    let Ok(file) = sys::open(c"/proc/self/cmdline", linux_raw_sys::general::O_RDONLY, 0) else {
        return true;
    };
    let mut words = [0; 256];
    let read = sys::read(file, &mut words).unwrap_or(0);
    sys::close(file);
    let mut words = words.get(..read).unwrap_or_default().split(|byte| *byte == 0);
    words.nth(1) != Some(BECOME.as_bytes())
}

/// Returns the value of an environment variable.
fn variable(name: &[u8]) -> Option<&'static CStr> {
    let environment: *const *const *const c_char;
    // SAFETY: reads the address of the C library's `__environ` from the loader's table; it is 0 where there is none.
    unsafe {
        asm!(
            ".weak __environ",
            "mov {}, qword ptr [rip + __environ@GOTPCREL]",
            out(reg) environment,
            options(nostack, readonly),
        );
    }
    if environment.is_null() {
        return None;
    }
    // SAFETY: environ(7): it points to an array of pointers to strings, with a null pointer at the end.
    let mut at = unsafe { *environment };
    if at.is_null() {
        return None;
    }
    loop {
        // SAFETY: as above; the end was not passed.
        let entry = unsafe { *at };
        if entry.is_null() {
            return None;
        }
        if sys::string(entry.addr()).is_ok_and(|text| text.starts_with(name)) {
            return sys::name(entry.addr() + name.len()).ok();
        }
        // SAFETY: this was not the last one.
        at = unsafe { at.add(1) };
    }
}

/// What dl_iterate_phdr(3) tells of a library: as much of `struct dl_phdr_info` as is used.
#[repr(C)]
struct Loaded {
    base: usize,
    name: *const c_char,
    headers: *const Header,
    count: u16,
}

/// `Elf64_Phdr`, see elf(5).
#[repr(C)]
struct Header {
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    physical: u64,
    bytes_in_file: u64,
    bytes: u64,
    align: u64,
}

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const NT_GNU_BUILD_ID: u32 = 3;

/// How many libraries a process may have that make system calls.
const LIBRARIES: usize = 16;

/// What the visits of all that is loaded have found.
struct Seen {
    run: Run<'static>,
    libraries: [Option<Found>; LIBRARIES],
    count: usize,
    /// Whether the program, which comes first, has the launcher's headers.
    is_launcher: Option<bool>,
    /// The code of the shim: where it begins, and how long it is.
    code: Option<(usize, usize)>,
}

/// A library that makes system calls.
#[derive(Clone, Copy)]
struct Found {
    base: usize,
    name: &'static CStr,
    id: Option<&'static [u8]>,
    known: Option<Library<'static>>,
}

type Visit = extern "C" fn(&Loaded, usize, *mut Seen) -> i32;

/// Looks at all that is loaded; tells whether that can be asked for.
fn look(seen: &mut Seen) -> bool {
    iterate(visit, seen)
}

/// Writes down what is loaded, of which the loader has asked before anybody listened.
extern "C" fn visit_name(loaded: &Loaded, _size: usize, _seen: *mut Seen) -> i32 {
    if let Ok(name) = sys::name(loaded.name.addr()) {
        record::loaded(name.to_bytes());
    }
    0
}

/// Calls `visit` for all that is loaded; tells whether that can be done.
fn iterate(visit: Visit, seen: &mut Seen) -> bool {
    let iterate: usize;
    // SAFETY: as for `__environ`.
    unsafe {
        asm!(
            ".weak dl_iterate_phdr",
            "mov {}, qword ptr [rip + dl_iterate_phdr@GOTPCREL]",
            out(reg) iterate,
            options(nostack, readonly),
        );
    }
    if iterate == 0 {
        return false;
    }
    // SAFETY: both C libraries declare it so, see dl_iterate_phdr(3).
    let iterate: extern "C" fn(Visit, *mut Seen) -> i32 = unsafe { core::mem::transmute(iterate) };
    iterate(visit, seen);
    true
}

/// Patches the C library and the loader; tells whether that is done.
fn patch_libraries(seen: &Seen) -> bool {
    let libraries = || seen.libraries.iter().flatten();
    // A debugger that has its stops in the loader may have more of them anywhere: they stay where they are.
    let way = match libraries()
        .filter_map(|one| Some((one.base, one.known.as_ref()?)))
        .any(patch::is_watched)
    {
        true => Way::InPlace,
        false => Way::Copy,
    };
    let mut patched = libraries().map(|one| match &one.known {
        Some(library) => patch::patch(&seen.run, library, one.base, one.name, way),
        None => patch_unknown(one, &seen.run, way),
    });
    seen.count > 0 && seen.count <= LIBRARIES && patched.all(|result| result.is_ok())
}

/// Traps the system calls that are made elsewhere; tells whether that is done.
fn trap_strays(seen: &Seen) -> bool {
    seen.code.is_some_and(|code| trap::begin(code).is_ok())
}

/// Tells whether a file's name is that of a C library, or a loader.
fn makes_calls(name: &[u8]) -> bool {
    let name = name.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let starts: [&[u8]; 5] = [b"libc.so", b"libc-", b"ld-", b"libpthread", b"libc.musl"];
    starts.iter().any(|start| name.starts_with(start))
}

extern "C" fn visit(loaded: &Loaded, _size: usize, seen: *mut Seen) -> i32 {
    // SAFETY: what `look` passed, which waits for the last visit.
    let seen = unsafe { &mut *seen };
    // SAFETY: dl_iterate_phdr(3): the headers are an array of this many.
    let headers = unsafe { core::slice::from_raw_parts(loaded.headers, loaded.count.into()) };
    if seen.is_launcher.is_none() {
        let bytes = sys::mapped(loaded.headers.addr(), size_of_val(headers));
        seen.is_launcher = Some(bytes == seen.run.launcher_headers());
    }
    let own = entry::entry().wrapping_sub(loaded.base) as u64;
    let is_around_own = |one: &&Header| {
        one.kind == PT_LOAD && (one.address..one.address.saturating_add(one.bytes)).contains(&own)
    };
    if let Some(code) = headers.iter().find(is_around_own) {
        let start = loaded.base.wrapping_add(code.address as usize);
        seen.code = Some((start, code.bytes as usize));
    }
    let is_loaded = |note: &Header| {
        let (start, end) = (note.address, note.address.saturating_add(note.bytes));
        headers.iter().any(|one| {
            let is_around =
                one.address <= start && end <= one.address.saturating_add(one.bytes_in_file);
            one.kind == PT_LOAD && is_around
        })
    };
    let mut notes = headers.iter().filter(|one| one.kind == PT_NOTE && is_loaded(one));
    let id = notes.find_map(|note| {
        let start = loaded.base.wrapping_add(note.address as usize);
        build_id(sys::mapped(start, note.bytes as usize))
    });
    let known = id.and_then(|id| seen.run.library(id));
    let name = sys::name(loaded.name.addr()).unwrap_or_default();
    if known.is_some() || makes_calls(name.to_bytes()) {
        if let Some(place) = seen.libraries.get_mut(seen.count) {
            *place = Some(Found { base: loaded.base, name, id, known });
        }
        seen.count += 1;
    }
    0
}

/// Patches a library that the run was not told of: another run may have seen it, else the launcher looks at it.
#[cold]
#[inline(never)]
fn patch_unknown(found: &Found, run: &Run<'static>, way: Way) -> Result<()> {
    let id = found.id.ok_or(Errno::NOENT)?;
    let id = id.get(..BUILD_ID_MAX).unwrap_or(id);
    let mut place = Text::of(run.patches())?;
    for byte in id {
        let digit = |value: u8| b"0123456789abcdef".get(usize::from(value)).copied().unwrap_or(0);
        place.push(&[digit(byte >> 4), digit(byte & 15)])?;
    }
    let bytes = sys::map_file(&place).or_else(|_| {
        // The file is in a folder of the store.
        let store = run.patches().rsplitn(3, |byte| *byte == b'/').nth(2).unwrap_or_default();
        let (store, command, launcher) =
            (Text::of(store)?, Text::of(PATCH.as_bytes())?, run.launcher());
        let (all, recorded) =
            (Text::of(PATCH_ALL.as_bytes())?, Text::of(PATCH_RECORDED.as_bytes())?);
        let which = match (run.is_trapping(), run.actions()) {
            (true, _) => all.pointer(),
            (false, []) => core::ptr::null(),
            (false, _) => recorded.pointer(),
        };
        let words = [
            launcher.pointer(),
            command.pointer(),
            store.pointer(),
            found.name.pointer(),
            which,
            core::ptr::null(),
        ];
        sys::run_program(launcher, &words)?;
        sys::map_file(&place)
    })?;
    let told = Run::parse(bytes).map_err(|_| Errno::IO)?;
    let library = told.library(id).ok_or(Errno::NOENT)?;
    patch::patch(&told, &library, found.base, found.name, way)
}

/// Finds the build-id in a note segment.
fn build_id(mut notes: &[u8]) -> Option<&[u8]> {
    loop {
        let (head, rest) = notes.split_at_checked(12)?;
        let word = |at: usize| head.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
        let (name_bytes, bytes, kind) = (word(0)? as usize, word(4)? as usize, word(8)?);
        let (name, rest) = rest.split_at_checked(name_bytes.next_multiple_of(4))?;
        let (value, rest) = rest.split_at_checked(bytes.next_multiple_of(4))?;
        if kind == NT_GNU_BUILD_ID && name.starts_with(b"GNU") {
            return value.get(..bytes);
        }
        notes = rest;
    }
}
