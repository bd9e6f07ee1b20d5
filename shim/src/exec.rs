//! exec(2): what a program needs before the kernel can start it, and what its environment must say.
//!
//! A program that no shim will be loaded into (statically linked, of another word size, or with rights of its own)
//! would see the directory as it is on the disk, so everything is made real before it starts.

use linux_raw_sys::general as kernel;
use rift_tree::EntryId;
use rift_tree::run::Count;

use crate::counts;
use crate::place::{self, Last, Spot, Where};
use crate::program::{HEAD_BYTES, Program};
use crate::real;
use crate::room::{self, ENVIRONMENT_BYTES};
use crate::run;
use crate::sys::{self, CWD, Errno, Result};
use crate::text::Text;

/// The environment variable with the path of the run file, up to its value.
pub(crate) const RUN: &[u8] = b"RIFT_RUN=";
const PRELOAD: &[u8] = b"LD_PRELOAD=";

/// Makes ready what a program needs that is about to be started; tells whether the shim will be loaded into it.
pub(crate) fn prepare(path: &Text) -> Result<bool> {
    let mut script = Text::of(path.bytes())?;
    // Interpreters may be scripts themselves, see execve(2).
    for _ in 0..5 {
        let mut head = [0; HEAD_BYTES];
        let Some((length, is_privileged)) = head_of(&script, &mut head)? else { return Ok(false) };
        let head = head.get(..length).unwrap_or_default();
        match Program::of(head) {
            Program::Dynamic | Program::Unknown if !is_privileged => return Ok(true),
            Program::Dynamic | Program::Unknown | Program::Foreign => {
                counts::add(Count::Foreign);
                return make_all_real().map(|()| false);
            }
            Program::Script(start, end) => {
                let interpreter = Text::of(head.get(start..end).unwrap_or_default())?;
                if let Where::In(Spot { shown, place, .. }) =
                    place::find(CWD, interpreter.bytes(), Last::Followed)?
                    && let rift_tree::merge::Place::Pristine(id) = place
                {
                    real::make_real(shown, id)?;
                }
                script = interpreter;
            }
        }
    }
    Ok(false)
}

/// Reads the start of a program, and tells whether it gets rights that its caller has not; `None` where the kernel is
/// left to say what is wrong.
fn head_of(path: &Text, head: &mut [u8]) -> Result<Option<(usize, bool)>> {
    let Ok(file) = sys::open(path, kernel::O_RDONLY, 0) else { return Ok(None) };
    let read = sys::read(file, head);
    let stat = sys::stat_of(file);
    let has_rights = sys::has_attribute(file, c"security.capability");
    sys::close(file);
    let (length, mode) = (read?, stat?.st_mode);
    let is_for_all = mode & (kernel::S_ISUID | kernel::S_ISGID) != 0;
    Ok(Some((length, is_for_all || has_rights)))
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

/// Returns the environment that a program is to be started with, where the one that was given lacks what the shim
/// needs.
pub(crate) fn environment(given: usize) -> Result<Option<Environment>> {
    let Some(run) = run::run() else { return Ok(None) };
    let (mut count, mut preload, mut has_run) = (0, None, false);
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
        has_run |= text.starts_with(RUN);
        count += 1;
    }
    let shim = run.shim();
    let is_named =
        |value: &[u8]| value.split(|byte| matches!(byte, b':' | b' ')).any(|one| one == shim);
    let has_shim = preload.is_some_and(|(_, value)| is_named(value));
    if has_run && has_shim {
        return Ok(None);
    }
    let mut environment = Environment { start: room::for_environment()?, at: 0 };
    let mut text_at = (count + 3) * size_of::<usize>();
    for index in 0..count {
        let entry: usize = sys::value(given + index * size_of::<usize>())?;
        if preload.is_none_or(|(at, _)| at != index) || has_shim {
            environment.add(entry)?;
        }
    }
    if !has_shim {
        let others = preload.map_or(&b""[..], |(_, value)| value);
        let separator = if others.is_empty() { &b""[..] } else { b":" };
        text_at = environment.write(text_at, &[PRELOAD, shim, separator, others])?;
    }
    if !has_run {
        environment.write(text_at, &[RUN, run::path()])?;
    }
    environment.add(0)?;
    Ok(Some(environment))
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
