//! `rift exec`: runs a command, or does without running it when its result is known.
//!
//! [`run`] is where a plan takes over. Whatever no plan recognizes runs untouched: the same arguments,
//! environment, standard streams, terminal and signals, and its exit status is ours.

pub mod child;
mod npm;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::anyhow;
use rift_cas::projection::Projection;

pub use child::Ending;

use crate::context::Context;
use crate::hint::Hint as _;
use crate::mount::{self, Condition, private};
use crate::report::{Mode, Run, Summary};
use crate::ui::{self, Out};

/// What `rift exec` was asked to do.
#[derive(Debug, Clone, Default)]
pub struct ExecOptions {
    /// The command and its arguments; never empty.
    pub command: Vec<OsString>,
    /// Runs the command even if its result is known, and records it.
    pub record_only: bool,
    /// Where the summary goes as JSON.
    pub summary_json: Option<PathBuf>,
    /// Whether the command has a private view.
    pub is_private: bool,
    /// Directories of projections that it sees wherever it runs.
    pub views: Vec<PathBuf>,
}

/// Runs a command under rift.
///
/// # Errors
/// Rift itself failed; a command that fails is an [`Ending`].
pub fn run(options: &ExecOptions, context: &Context) -> anyhow::Result<Ending> {
    let started = Instant::now();
    if npm::is_npm(&options.command)
        && let Some(store) = context.store_or_none()?
    {
        return npm::run(options, context, &store, started);
    }
    let ending = run_command(options, context)?;
    let mut summary = Summary::new(Mode::Untouched, &options.command);
    summary.set_times(started.elapsed(), None, true);
    summary.print(&context.ui);
    if let Some(path) = &options.summary_json {
        summary.write_json(path)?;
    }
    Ok(ending)
}

/// Runs the command itself, in a private view where that is asked for and there is something to see.
fn run_command(options: &ExecOptions, context: &Context) -> anyhow::Result<Ending> {
    if !options.is_private {
        return child::run(&options.command);
    }
    let Some(store) = context.store_or_none()? else {
        return child::run(&options.command);
    };
    let mut projections = private::in_reach(&store, &context.cwd)?;
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
        return child::run(&options.command);
    }
    let why = match private::run(&store, &projections, &options.command)? {
        Ok(ending) => return Ok(ending),
        Err(why) => why,
    };
    context.fall_back(&format!("trees are real files instead of a private view: {why}"))?;
    for projection in &projections {
        mount::close(&store, projection)?;
    }
    child::run(&options.command)
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
    let words: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
    writeln!(out, "{}: not recognized: runs untouched", ui::printable(&words.join(" ")))?;
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// Explains a run, the last one when none is named.
///
/// # Errors
/// No such run was recorded, or it can't be read.
pub fn why(name: Option<&str>, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.existing_store()?;
    let missing = || match name {
        Some(name) => anyhow!("no run {name} was recorded"),
        None => anyhow!("no run was recorded"),
    };
    let (name, run) = Run::load(&store, name)?.ok_or_else(missing).hint(
        "commands that rift recognizes are recorded; `rift plan -- COMMAND` tells which are",
    )?;
    let mut out = Out::new();
    writeln!(out, "run        {name}")?;
    writeln!(out, "command    {}", ui::printable(&run.summary.command.join(" ")))?;
    writeln!(out, "directory  {}", ui::printable(&run.directory.display().to_string()))?;
    writeln!(out, "summary    {}", run.summary.line())?;
    for reason in &run.reasons {
        writeln!(out, "because    {}", ui::printable(reason))?;
    }
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}
