//! `rift why`: what a run did and why, and what was another in the run after it.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::anyhow;
use rift_cas::Store;

use crate::context::Context;
use crate::hint::Hint as _;
use crate::report::Run;
use crate::ui::{self, Out};

/// Explains a run, the last one when none is named.
///
/// # Errors
/// No such run was recorded, or it can't be read.
pub fn why(name: Option<&str>, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.existing_store()?;
    let (name, run) = load(&store, name)?;
    let mut out = Out::new();
    writeln!(out, "run        {name}")?;
    writeln!(out, "command    {}", ui::printable(&run.summary.command.join(" ")))?;
    writeln!(out, "directory  {}", ui::printable(&run.directory.display().to_string()))?;
    writeln!(out, "summary    {}", run.summary.line())?;
    for reason in run.reasons.iter().cloned().chain(run.parts.lines()) {
        writeln!(out, "because    {}", ui::printable(&reason))?;
    }
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// Tells for each process of a run in what it was another than in the one before: the first thing that it was told or has found.
///
/// # Errors
/// No such run was recorded, or it can't be read.
pub fn compare(before: &str, after: &str, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.existing_store()?;
    let (_, before) = load(&store, Some(before))?;
    let (_, after) = load(&store, Some(after))?;
    let (lines, same) = before.parts.differences(&after.parts, &store);
    let mut out = Out::new();
    for line in &lines {
        writeln!(out, "differs    {}", ui::printable(line))?;
    }
    let plural = if same == 1 { "" } else { "es" };
    writeln!(out, "same       {} process{plural}", ui::count(same as u64))?;
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}

fn load(store: &Store, name: Option<&str>) -> anyhow::Result<(String, Run)> {
    let missing = || match name {
        Some(name) => anyhow!("no run {name} was recorded"),
        None => anyhow!("no run was recorded"),
    };
    Run::load(store, name)?
        .ok_or_else(missing)
        .hint("commands that rift recognizes are recorded; `rift plan -- COMMAND` tells which are")
}
