//! exec(2): what a program needs before the kernel can start it, and what its environment must say.
//!
//! A program that no shim will be loaded into (statically linked, of another word size, or with rights of its own)
//! would see the directory as it is on the disk, so everything is made real before it starts.

use linux_raw_sys::general as kernel;
use rift_tree::EntryId;
use rift_tree::merge::Place;
use rift_tree::run::Count;

use crate::closure::{self, Settings};
use crate::counts;
use crate::place::{self, Last, Spot, Where};
use crate::program::{HEAD_BYTES, Program, Wishes};
use crate::real;
use crate::record::{self, RECORD};
use crate::room::{self, ENVIRONMENT_BYTES};
use crate::run::{self, Shown};
use crate::serve;
use crate::sys::{self, CWD, Errno, Result};
use crate::text::Text;

/// The environment variable with the path of the run file, up to its value.
pub(crate) const RUN: &[u8] = b"RIFT_RUN=";
const PRELOAD: &[u8] = b"LD_PRELOAD=";
/// How many other libraries an `LD_PRELOAD` may have that the shim is taken out of.
const LIBRARIES_MAX: usize = 64;
const SANITIZER_OPTIONS: &[u8] = b"ASAN_OPTIONS=";

/// The option that lets the address sanitizer start where another library was loaded before its own.
const ANY_ORDER: &[u8] = b"verify_asan_link_order=0";

/// What a program that is about to be started does with the shim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loads {
    /// It has it loaded.
    Shim,
    /// As [`Loads::Shim`], and the address sanitizer, which looks at what was loaded first.
    Sanitizer,
    /// Nothing is loaded into it; what it starts itself may have the shim again.
    Nothing,
    /// Its loader can't, and would say so.
    Refuses,
    /// The kernel finds nothing there that can be read.
    Unseen,
}

/// Makes ready what a program needs that is about to be started with this environment.
pub(crate) fn prepare(path: &Text, environment: usize) -> Result<Loads> {
    let mut script = Text::of(path.bytes())?;
    // Interpreters may be scripts themselves, see execve(2).
    for depth in 0..5 {
        let mut head = [0; HEAD_BYTES];
        let Some(found) = head_of(&script, &mut head)? else {
            return Ok(if depth == 0 { Loads::Unseen } else { Loads::Nothing });
        };
        let head = head.get(..found.length).unwrap_or_default();
        let program = Program::of(head);
        if let Some(loader) = Program::loader(head) {
            make_ready(loader)?;
        }
        match program {
            // Of another user's store, or outside of a changed root.
            Program::Dynamic | Program::Unknown if !found.is_privileged && !is_in_reach() => {
                counts::add(Count::Foreign);
                return make_all_in_sight_real().map(|()| Loads::Refuses);
            }
            Program::Dynamic | Program::Unknown if !found.is_privileged => {
                let is_musl = Program::loader(head).is_some_and(|loader| contains(loader, b"musl"));
                let settings = Settings::of(environment, is_musl)?;
                if program == Program::Dynamic
                    && (found.wishes.has_paths || closure::may_lead_in(&settings)?)
                {
                    closure::make_ready(&script, &settings)?;
                }
                let is_checked = found.wishes.is_checked;
                return Ok(if is_checked { Loads::Sanitizer } else { Loads::Shim });
            }
            Program::Dynamic | Program::Unknown | Program::Foreign | Program::OtherClass => {
                counts::add(Count::Foreign);
                let is_other = program == Program::OtherClass || !is_in_reach();
                let loads = if is_other { Loads::Refuses } else { Loads::Nothing };
                return make_all_real().map(|()| loads);
            }
            Program::Script(start, end) => {
                let interpreter = Text::of(head.get(start..end).unwrap_or_default())?;
                make_ready(interpreter.bytes())?;
                script = interpreter;
            }
        }
    }
    Ok(Loads::Nothing)
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|some| some == wanted)
}

/// Makes a file real that the kernel opens to start another, and the way to it.
fn make_ready(path: &[u8]) -> Result<()> {
    let found = match place::find(CWD, path, Last::Followed)? {
        // What is real there may be a link.
        Where::In(Spot { place: Place::Detached(_) | Place::Foreign, .. }) => {
            serve::find_anywhere(path)?
        }
        found => found,
    };
    if let Where::In(Spot { shown, place: Place::Pristine(id), .. }) = found {
        real::make_real(shown, id)?;
    }
    serve::make_way(CWD, path, Last::Followed, serve::LINKS_MAX)
}

/// Tells whether a program that this process becomes can read the shim.
fn is_in_reach() -> bool {
    let shim = run::run().map_or(&b""[..], |run| run.shim());
    Text::of(shim).and_then(|shim| sys::may_plainly(&shim, kernel::R_OK)).is_ok()
}

/// What the start of a program says.
struct Head {
    /// How much of it was read.
    length: usize,
    /// It gets rights that its caller has not.
    is_privileged: bool,
    /// What its loader will look for.
    wishes: Wishes,
}

/// Reads the start of a program; `None` where the kernel is left to say what is wrong.
fn head_of(path: &Text, head: &mut [u8]) -> Result<Option<Head>> {
    let Ok(file) = sys::open(path, kernel::O_RDONLY, 0) else { return Ok(None) };
    let read = sys::read(file, head);
    let stat = sys::stat_of(file);
    let has_rights = sys::has_attribute(file, c"security.capability");
    let known = head.get(..*read.as_ref().unwrap_or(&0)).unwrap_or_default();
    let wishes = match Program::of(known) {
        Program::Dynamic => {
            Program::wishes(known, |offset, bytes| sys::read_at(file, bytes, offset).unwrap_or(0))
        }
        _ => Wishes { is_checked: false, has_paths: false },
    };
    sys::close(file);
    // Of a directory, too, the kernel says what it is not.
    let (Ok(length), mode) = (read, stat?.st_mode) else { return Ok(None) };
    let is_for_all = mode & (kernel::S_ISUID | kernel::S_ISGID) != 0;
    Ok(Some(Head { length, is_privileged: is_for_all || has_rights, wishes }))
}

/// Makes everything real that this process sees at its place, as far as it still is there.
pub(crate) fn make_all_in_sight_real() -> Result<()> {
    let is_there = |shown: &&Shown| {
        let found = Text::of(shown.record.directory).and_then(|path| sys::stat_at(CWD, &path, 0));
        found.is_ok_and(|stat| {
            (stat.st_dev, stat.st_ino) == (shown.record.device, shown.record.inode)
        })
    };
    let mut all = run::each_shown().filter(is_there);
    all.try_for_each(|shown| real::make_subtree_real(shown, EntryId::ROOT))
}

/// Makes everything real that the run sees, and leaves nothing beside it.
pub(crate) fn make_all_real() -> Result<()> {
    run::each_shown().try_for_each(|shown| {
        real::make_subtree_real(shown, EntryId::ROOT)?;
        // Of another user's directory it stays until the end of the run.
        let _is_gone = real::remove_scratch(shown).is_ok();
        Ok(())
    })
}

/// The environment variable with the path of a program that the launcher is started in the place of, up to its value.
pub(crate) const REPLAY: &[u8] = b"RIFT_REPLAY=";
/// The environment variable with the libraries that such a program has loaded before its own; the launcher itself has none.
const HELD: &[u8] = b"RIFT_PRELOAD=";

/// Returns the environment that a program is to be started with, where the one that was given is not what it needs; `replaced` is the
/// program in whose place the launcher is started.
pub(crate) fn environment(
    given: usize,
    loads: Loads,
    replaced: Option<&[u8]>,
) -> Result<Option<Environment>> {
    let Some(run) = run::run() else { return Ok(None) };
    let (mut count, mut preload, mut options, mut has_run) = (0, None, None, false);
    let mut has_journal = !record::is_recording();
    loop {
        if given == 0 {
            break;
        }
        let entry: usize = sys::value(given + count * size_of::<usize>())?;
        if entry == 0 {
            break;
        }
        let text = sys::long_string(entry)?;
        if let Some(value) = text.strip_prefix(PRELOAD) {
            preload = Some((count, value));
        }
        if let Some(value) = text.strip_prefix(SANITIZER_OPTIONS) {
            options = Some((count, value));
        }
        has_run |= text.starts_with(RUN);
        has_journal |= text.starts_with(RECORD);
        count += 1;
    }
    let shim = run.shim();
    let mut libraries = preload.iter().flat_map(|(_, value)| names(value));
    let is_preloaded = libraries.any(|one| one == shim) != (loads == Loads::Refuses);
    let is_in_order =
        loads != Loads::Sanitizer || options.is_some_and(|(_, value)| value.ends_with(ANY_ORDER));
    if has_run && has_journal && is_preloaded && is_in_order && replaced.is_none() {
        return Ok(None);
    }
    let mut environment = Environment { start: room::for_environment()?, at: 0 };
    // Of what is added, and the end.
    let mut text_at = (count + 6) * size_of::<usize>();
    for index in 0..count {
        let entry: usize = sys::value(given + index * size_of::<usize>())?;
        let is_other = !is_preloaded || replaced.is_some();
        let is_changed = preload.is_some_and(|(at, _)| at == index) && is_other
            || options.is_some_and(|(at, _)| at == index) && !is_in_order;
        if !is_changed {
            environment.add(entry)?;
        }
    }
    let value = |found: Option<(usize, &'static [u8])>| found.map_or(&b""[..], |(_, value)| value);
    let name = if replaced.is_some() { HELD } else { PRELOAD };
    if !is_preloaded && loads == Loads::Refuses {
        text_at = environment.write_without(text_at, value(preload), shim)?;
    } else if !is_preloaded {
        // Behind the program's own, which may look at who comes first.
        text_at = environment.write_behind(text_at, name, value(preload), shim)?;
    } else if replaced.is_some() {
        text_at = environment.write(text_at, &[name, value(preload)])?;
    }
    if !is_in_order {
        text_at =
            environment.write_behind(text_at, SANITIZER_OPTIONS, value(options), ANY_ORDER)?;
    }
    if !has_run {
        text_at = environment.write(text_at, &[RUN, run::path()])?;
    }
    if !has_journal {
        text_at = environment.write(text_at, &[RECORD, record::path()])?;
    }
    if let Some(program) = replaced {
        environment.write(text_at, &[REPLAY, program])?;
    }
    environment.add(0)?;
    Ok(Some(environment))
}

/// Returns the libraries of an `LD_PRELOAD`, see ld.so(8).
pub(crate) fn names(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| matches!(byte, b':' | b' ')).filter(|name| !name.is_empty())
}

/// An environment that was made here.
pub(crate) struct Environment {
    start: usize,
    at: usize,
}

impl Environment {
    /// Returns where it is.
    pub(crate) fn address(&self) -> usize {
        self.start
    }

    fn add(&mut self, entry: usize) -> Result<()> {
        sys::give(self.start + self.at, entry)?;
        self.at += size_of::<usize>();
        if self.at + 64 > ENVIRONMENT_BYTES {
            Err(Errno(linux_raw_sys::errno::E2BIG))
        } else {
            Ok(())
        }
    }

    /// Adds a variable with one more part behind those that it has.
    fn write_behind(&mut self, at: usize, name: &[u8], parts: &[u8], last: &[u8]) -> Result<usize> {
        let separator = if parts.is_empty() { &b""[..] } else { b":" };
        self.write(at, &[name, parts, separator, last])
    }

    /// Adds an `LD_PRELOAD` without the shim, or none where nothing is left of it.
    fn write_without(&mut self, at: usize, value: &[u8], shim: &[u8]) -> Result<usize> {
        if names(value).all(|name| name == shim) {
            return Ok(at);
        }
        let mut parts = [&b""[..]; 2 * LIBRARIES_MAX];
        let mut places = parts.iter_mut();
        for name in names(value).filter(|name| *name != shim) {
            for part in [&b":"[..], name] {
                *places.next().ok_or(Errno(linux_raw_sys::errno::E2BIG))? = part;
            }
        }
        // Before the first is no separator.
        parts[0] = PRELOAD;
        self.write(at, &parts)
    }

    /// Adds an entry whose text goes to `at`; returns where the next one may go.
    fn write(&mut self, at: usize, parts: &[&[u8]]) -> Result<usize> {
        let start = at;
        let mut at = at;
        for part in parts.iter().chain([&&b"\0"[..]]) {
            if at + part.len() > ENVIRONMENT_BYTES {
                return Err(Errno(linux_raw_sys::errno::E2BIG));
            }
            sys::room(self.start + at, part.len())?.copy_from_slice(part);
            at += part.len();
        }
        self.add(self.start + start)?;
        Ok(at)
    }
}
