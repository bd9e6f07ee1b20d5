//! `rift exec`: runs a command, or does without running it when its result is known.
//!
//! [`run`] is where a plan takes over. Whatever no plan recognizes runs untouched: the same arguments,
//! environment, standard streams, terminal and signals, and its exit status is ours.

mod actions;
mod cargo;
pub mod child;
mod fetched;
mod noted;
mod npm;
pub(crate) mod shared;
pub mod why;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context as _;
use rift_cas::projection::{Projection, ShownAs};
use rift_cas::{Store, gc};

pub use child::Ending;

use self::fetched::Fetched;
use self::noted::Noted;
use self::shared::Shared;
use crate::context::Context;
use crate::mount::{self, Condition, private};
use crate::report::{Mode, Run, Summary};
use crate::shim::{self, Which};
use crate::sys;
use crate::ui::{self, Out};

/// What `rift exec` was asked to do.
#[derive(Debug, Clone, Default)]
pub struct ExecOptions {
    /// The command and its arguments; never empty.
    pub command: Vec<OsString>,
    /// Runs the command even if its result is known, and records it.
    pub record_only: bool,
    /// Runs all of a build even if its results are known, and compares them.
    pub compares: bool,
    /// Whether a hook has asked, so that nothing is preloaded that nobody asked for.
    pub is_hooked: bool,
    /// Where the summary goes as JSON.
    pub summary_json: Option<PathBuf>,
    /// Whether the command has a private view.
    pub is_private: bool,
    /// Whether the command sees projections by the shim.
    pub is_virtual: bool,
    /// Directories of projections that it sees wherever it runs.
    pub views: Vec<PathBuf>,
}

/// Runs a command under rift.
///
/// # Errors
/// Rift itself failed; a command that fails is an [`Ending`].
pub fn run(options: &ExecOptions, context: &Context) -> anyhow::Result<Ending> {
    let started = Instant::now();
    let sees_files = !options.is_private && !options.is_virtual && options.views.is_empty();
    let is_recorded = sees_files
        && context.config.has_cache()
        && !options.is_hooked
        && actions::are_recorded(&options.command, &context.config);
    if !is_recorded
        && npm::is_npm(&options.command)
        && let Some(store) = context.store_or_none()?
    {
        return npm::run(options, context, &store, started);
    }
    if sees_files
        && cargo::is_cargo(&options.command)
        && let Some(store) = context.store_or_none()?
    {
        return cargo::run(options, context, &store, started);
    }
    if is_recorded && let Some(store) = context.store_or_none()? {
        return actions::run(options, context, &store, started);
    }
    run_untouched(options, context, started)
}

/// Runs a command that no plan recognizes.
fn run_untouched(
    options: &ExecOptions,
    context: &Context,
    started: Instant,
) -> anyhow::Result<Ending> {
    let noted = Noted::begin();
    let ending = run_command(options, context)?;
    noted.end(&options.command, context);
    let mut summary = Summary::new(Mode::Untouched, &options.command);
    summary.set_times(started.elapsed(), None, true);
    summary.print(&context.ui);
    if let Some(path) = &options.summary_json {
        summary.write_json(path)?;
    }
    Ok(ending)
}

/// Runs the command itself, and records what is to be told of how it saw trees.
fn run_command(options: &ExecOptions, context: &Context) -> anyhow::Result<Ending> {
    let started = Instant::now();
    let (ending, reasons) = run_told(options, context)?;
    if !reasons.is_empty()
        && let Ok(store) = context.existing_store()
    {
        record(&store, options, context, started, reasons);
    }
    Ok(ending)
}

/// Runs the command itself, in a private view where that is asked for and there is something to see; also returns what is to be told
/// of that.
fn run_told(options: &ExecOptions, context: &Context) -> anyhow::Result<(Ending, Vec<String>)> {
    let is_asked = options.is_private || options.is_virtual;
    let store = if is_asked { context.store_or_none()? } else { context.existing_store().ok() };
    let Some(store) = store else {
        return Ok((child::run(&options.command)?, Vec::new()));
    };
    heed(&store, context)?;
    let mut projections = private::in_reach(&store, &context.cwd)?;
    if !is_asked {
        // What an earlier run has shown this way later ones see as well.
        projections.retain(|known| known.shown_as == ShownAs::Virtual);
    }
    for directory in &options.views {
        let is_new = !projections.iter().any(|known| known.directory == *directory);
        let is_unseen = |known: &Projection| {
            known.shown_as.has_state() && mount::condition(known) != Condition::Served
        };
        if is_new {
            projections.extend(store.projection(directory)?.filter(is_unseen));
        }
    }
    if projections.is_empty() {
        return run_beside_mounts(&store, options, context);
    }
    if !options.is_private {
        return run_under_shim(&store, &projections, options, context);
    }
    let why = match private::run(&store, &projections, &options.command)? {
        Ok(ending) => return Ok((ending, Vec::new())),
        Err(why) => why,
    };
    let why = format!("trees are real files instead of a private view: {why}");
    Ok((run_on_files(&store, &projections, options, context, &why)?, Vec::new()))
}

/// Tells whether later commands look for projections in another store: the one in memory, where this is on the disk.
fn is_forgotten(context: &Context, store: &Store) -> bool {
    context.config.is_in_memory() && store.max_bytes().is_none()
}

/// Makes room in the store, if it grew by some bytes and has more than the settings allow.
///
/// # Errors
/// What the system says.
fn keep_small(context: &Context, store: &Store, added_bytes: u64) -> anyhow::Result<()> {
    if let Some(cap) = context.cap(store).filter(|_| added_bytes > 0) {
        gc::maybe(store, cap, added_bytes)?;
    }
    Ok(())
}

/// Tells how trees are shown that later commands see as well, and adds why they are not mounted where that was asked for.
fn for_all(context: &Context, store: &Store, reasons: &mut Vec<String>) -> anyhow::Result<ShownAs> {
    if !context.config.shows_mounts() || is_forgotten(context, store) {
        return Ok(ShownAs::Files);
    }
    let Some(why) = mount::refusal() else { return Ok(ShownAs::Mount) };
    context.fall_back(&not_mounted(&why))?;
    reasons.push(format!("not mounted: {why}"));
    Ok(ShownAs::Files)
}

fn not_mounted(why: &str) -> String {
    format!("trees are real files instead of mounts: {why}")
}

/// Purges what the remotes deny before more of a tree comes from them.
fn heed(store: &Store, context: &Context) -> anyhow::Result<()> {
    if !private::is_partial_near(store, &context.cwd)? {
        return Ok(());
    }
    let said = Shared::new(context, store).map_or(Ok(Vec::new()), |shared| shared.heed());
    match said {
        Ok(_) => Ok(()),
        Err(error) => context.fall_back(&format!("what remotes deny is not known: {error:#}")),
    }
}

/// Runs the command, and has the servers of mounts bring what it needed elsewhere.
fn run_beside_mounts(
    store: &Store,
    options: &ExecOptions,
    context: &Context,
) -> anyhow::Result<(Ending, Vec<String>)> {
    let mounted = private::mounted_partial(store, &context.cwd)?;
    let Some(fetched) = Fetched::begin_mounted(store, &mounted, &options.command) else {
        return Ok((child::run(&options.command)?, Vec::new()));
    };
    let ending = child::run(&options.command)?;
    let (reasons, trouble) = fetched.end();
    trouble.iter().for_each(|trouble| context.ui.warn(trouble));
    Ok((ending, reasons))
}

/// Records a run for `rift why`.
fn record(
    store: &Store,
    options: &ExecOptions,
    context: &Context,
    started: Instant,
    reasons: Vec<String>,
) {
    let mut summary = Summary::new(Mode::Untouched, &options.command);
    summary.set_times(started.elapsed(), None, true);
    let mut run = Run::begin(summary, &context.cwd);
    run.reasons = reasons;
    if let Err(error) = run.save(store) {
        // The command has done what it has to; what failed is bookkeeping.
        context.ui.warn(&format!("the run could not be recorded: {error:#}"));
    }
}

/// Makes the projections real and runs the command, because it can't be shown them otherwise.
fn run_on_files(
    store: &Store,
    projections: &[Projection],
    options: &ExecOptions,
    context: &Context,
    why: &str,
) -> anyhow::Result<Ending> {
    context.fall_back(why)?;
    for projection in projections {
        mount::close(store, projection)?;
    }
    child::run(&options.command)
}

/// Runs the command under the shim; also returns what its processes have counted.
fn run_under_shim(
    store: &Store,
    projections: &[Projection],
    options: &ExecOptions,
    context: &Context,
) -> anyhow::Result<(Ending, Vec<String>)> {
    if context.config.verifies_always() {
        for projection in projections {
            let tree = store.open_shown(projection.tree)?;
            tree.context("the store has lost a tree that is shown")?.verify_content()?;
        }
    }
    let which = match context.config.traps_strays() {
        true if sys::can_trap_calls() => Which::All,
        true => {
            let why = "system calls made without the C library see what is on the disk: this kernel traps none (since Linux 5.11)";
            context.fall_back(why)?;
            Which::Owned
        }
        false => Which::Owned,
    };
    let prepared = match shim::Prepared::new(store, projections, which) {
        Ok(prepared) => prepared,
        Err(error) => {
            let why = format!("trees are real files instead of answered by the shim: {error:#}");
            return Ok((run_on_files(store, projections, options, context, &why)?, Vec::new()));
        }
    };
    let fetched = Fetched::begin(prepared.partial(), &options.command);
    let outcome = prepared.run(&options.command)?;
    let (fetched, trouble) = fetched.end();
    if let Some(trouble) = trouble {
        context.ui.warn(&trouble);
    } else if let Some(damage) = outcome.counted.damage() {
        context.ui.warn(&format!("{damage}; `rift store verify --repair` tells which"));
    }
    Ok((outcome.ending, outcome.counted.lines().into_iter().chain(fetched).collect()))
}

/// Shows what [`run`] would do, without doing it.
///
/// # Errors
/// What can't be written.
pub fn plan(command: &[OsString], context: &Context) -> anyhow::Result<ExitCode> {
    let mut out = Out::new();
    if npm::is_npm(command) {
        npm::plan(command, context, &mut out)?;
        out.finish()?;
        return Ok(ExitCode::SUCCESS);
    }
    if cargo::is_cargo(command) {
        cargo::plan(command, context, &mut out)?;
        out.finish()?;
        return Ok(ExitCode::SUCCESS);
    }
    let words: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
    writeln!(out, "{}: not recognized: runs untouched", ui::printable(&words.join(" ")))?;
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}
