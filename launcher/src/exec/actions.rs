//! Builds under `rift exec`: compilers, linkers and the like are recorded, and what is known of them is not done again.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rift_cas::projection::ShownAs;
use rift_cas::{Store, gc};

use super::{Ending, ExecOptions, child};
use crate::actions::keeper::Keeper;
use crate::actions::roots::Roots;
use crate::actions::{Event, Outcome, PROGRAMS, Settings};
use crate::context::Context;
use crate::mount::private;
use crate::report::{Mode, Run, Summary, Tally};
use crate::shim::{Actions, Prepared, Which};
use crate::ui;

/// Commands that build: what they start is recorded.
const BUILDING: &[&str] = &[
    "make", "gmake", "ninja", "samu", "cmake", "meson", "scons", "cc", "c++", "gcc", "g++",
    "clang", "clang++", "rustc",
];

/// Tells whether the parts of a command are recorded.
pub(super) fn are_recorded(command: &[OsString]) -> bool {
    let name = command.first().and_then(|program| Path::new(program).file_name());
    name.is_some_and(|name| BUILDING.iter().any(|known| name == *known))
}

/// What became of a command's actions.
#[derive(Debug, Default)]
pub(super) struct Told {
    events: Vec<Event>,
    /// Why nothing was recorded, or not all of it.
    trouble: Option<String>,
}

impl Told {
    /// Returns how many were reused, how many ran, and the processor time that the former had taken, in nanoseconds.
    pub(super) fn counts(&self) -> (u64, u64, u64) {
        let (mut reused, mut ran, mut saved_ns) = (0, 0, 0);
        for event in &self.events {
            match &event.outcome {
                Outcome::Reused(cpu_ns) => {
                    reused += 1;
                    saved_ns += cpu_ns;
                }
                Outcome::Kept | Outcome::Refused(_) | Outcome::Confirmed | Outcome::Mismatch(_) => {
                    ran += 1
                }
                Outcome::Missed(_) => {}
            }
        }
        (reused, ran, saved_ns)
    }

    /// Says what became of each, for `rift why`.
    pub(super) fn reasons(&self) -> Vec<String> {
        let mut reasons: Vec<String> = self.trouble.iter().cloned().collect();
        for Event { program, what, outcome } in &self.events {
            let how = match outcome {
                Outcome::Reused(cpu_ns) => {
                    format!("its result was reused ({} ms of processor time)", cpu_ns / 1_000_000)
                }
                Outcome::Missed(None) => "it ran: nothing was known of it".to_owned(),
                Outcome::Missed(Some(why)) => format!("it ran: {why}"),
                Outcome::Kept => "its result is kept".to_owned(),
                Outcome::Confirmed => "it ran, and did what is known of it".to_owned(),
                Outcome::Refused(why) => format!("its result is not kept: {why}"),
                Outcome::Mismatch(why) => {
                    format!("it did something else than is known of it: {why}")
                }
            };
            reasons.push(format!("{program} {what}: {how}"));
        }
        reasons
    }

    /// Returns how the run ends, if the command has ended so: it fails where a program did something else than is known of it.
    pub(super) fn ending(&self, ending: Ending) -> Ending {
        match ending.is_success() && self.mismatches().next().is_some() {
            true => Ending::Exited(child::FAILED),
            false => ending,
        }
    }

    /// Returns what was not as it is known.
    fn mismatches(&self) -> impl Iterator<Item = &Event> {
        self.events.iter().filter(|event| matches!(event.outcome, Outcome::Mismatch(_)))
    }
}

/// Runs a command whose parts are recorded and replayed.
///
/// # Errors
/// Rift itself failed, and is to fail rather than fall back.
pub(super) fn run_command(
    options: &ExecOptions,
    context: &Context,
    store: &Store,
    root: &Path,
) -> anyhow::Result<(Ending, Told)> {
    let shown = private::in_reach(store, &context.cwd)?;
    if shown.iter().any(|known| known.shown_as == ShownAs::Virtual) {
        let why = "nothing is recorded of what runs: it sees trees by the shim".to_owned();
        let told = Told { trouble: Some(why), ..Told::default() };
        return Ok((super::run_command(options, context)?, told));
    }
    let begun = begin(options, context, store, root);
    let (keeper, prepared) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            let why = format!("nothing is recorded of what runs: {error:#}");
            context.fall_back(&why)?;
            let told = Told { trouble: Some(why), ..Told::default() };
            return Ok((child::run(&options.command)?, told));
        }
    };
    let outcome = prepared.run(&options.command)?;
    let told = match keeper.end() {
        Ok(events) => Told { events, trouble: None },
        Err(error) if context.config.is_strict() => return Err(error),
        Err(error) => {
            let why = format!("what ran could not be kept: {error:#}");
            context.ui.warn(&why);
            Told { trouble: Some(why), ..Told::default() }
        }
    };
    for mismatch in told.mismatches() {
        context.ui.warn(&format!(
            "{} {} does something else than is known of it",
            ui::printable(&mismatch.program),
            ui::printable(&mismatch.what)
        ));
    }
    Ok((outcome.ending, told))
}

fn begin(
    options: &ExecOptions,
    context: &Context,
    store: &Store,
    root: &Path,
) -> anyhow::Result<(Keeper, Prepared)> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let run = since.as_nanos() as u64 ^ u64::from(std::process::id()) << 40;
    let settings = Settings {
        store: store.root().to_owned(),
        roots: roots(root),
        run: run.max(1),
        only_records: options.record_only,
        verifies: context.config.verifies_always(),
    };
    let keeper = Keeper::begin(store, &settings)?;
    let programs = PROGRAMS.join(" ");
    let actions = Actions { folder: keeper.folder(), programs: &programs };
    let prepared = Prepared::recording(store, &[], Which::Recorded, Some(actions))?;
    Ok((keeper, prepared))
}

/// Returns the places that differ between checkouts and machines.
fn roots(root: &Path) -> Roots {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let home = variable("HOME");
    let below_home = |name: &str| home.as_ref().map(|home| home.join(name));
    let cargo = variable("CARGO_HOME").or_else(|| below_home(".cargo"));
    let rustup = variable("RUSTUP_HOME").or_else(|| below_home(".rustup"));
    let temporary = variable("TMPDIR").unwrap_or_else(std::env::temp_dir);
    let places = [
        ('W', Some(root.to_owned())),
        ('C', cargo),
        ('R', rustup),
        ('H', home),
        ('X', Some(temporary)),
    ];
    Roots::new(places.into_iter().filter_map(|(letter, path)| Some((letter, path?))))
}

/// Returns the folder of the project that a folder is in: the nearest one above that version control knows, else itself.
pub(super) fn project(cwd: &Path) -> &Path {
    let is_known = |folder: &&Path| {
        [".git", ".hg", ".svn", ".jj"].iter().any(|name| folder.join(name).exists())
    };
    cwd.ancestors().find(is_known).unwrap_or(cwd)
}

/// Runs a command that builds.
///
/// # Errors
/// Rift itself failed, and is to fail rather than fall back.
pub(super) fn run(
    options: &ExecOptions,
    context: &Context,
    store: &Store,
    started: Instant,
) -> anyhow::Result<Ending> {
    let (ending, told) = run_command(options, context, store, project(&context.cwd))?;
    let (reused, ran, _) = told.counts();
    let mode = match (reused, ran) {
        (0, 0) => Mode::Untouched,
        (0, _) => Mode::Learned,
        (_, 0) => Mode::Hit,
        _ => Mode::Partial,
    };
    let mut summary = Summary::new(mode, &options.command);
    summary.unit = "process".to_owned();
    summary.reused = Tally { count: reused, bytes: 0 };
    summary.store_bytes = gc::known_size(store);
    summary.set_times(started.elapsed(), None, true);
    summary.print(&context.ui);
    if let Some(path) = &options.summary_json {
        summary.write_json(path)?;
    }
    let mut run = Run::begin(summary, &context.cwd);
    run.reasons = told.reasons();
    let saved = run.save(store);
    let upkeep = context.cap(store).filter(|_| ran > 0).map(|cap| gc::maybe(store, cap, 0));
    if let Err(error) = saved.and(upkeep.transpose().map(drop).map_err(Into::into)) {
        context.ui.warn(&format!("the run could not be recorded: {error:#}"));
    }
    Ok(told.ending(ending))
}
