//! `rift stats`: what became of the processes of builds, by program, and why those that ran did.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;

use super::summary::{existing_store, of_job, parse_duration};
use crate::actions::Outcome;
use crate::actions::parts::Process;
use crate::context::Context;
use crate::report::Run;
use crate::ui::{self, Out};

/// How many reasons are shown for each way to run.
const REASONS_MAX: usize = 10;

/// Show which processes of builds were reused, and why others ran
#[derive(Debug, clap::Args)]
#[command(after_help = "\
In CI it looks at all builds of this job, elsewhere at the last one.

Examples:
  rift stats
  rift stats --since 1d
  rift stats --json             each process")]
pub(crate) struct Args {
    /// All builds of the last DURATION instead, such as 45s, 30m, 2h or 1d
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    since: Option<Duration>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What became of the processes of one program.
#[derive(Debug, Default, Serialize)]
struct Program {
    reused: u64,
    /// Ran, and its result is kept.
    kept: u64,
    /// Ran, and did what is known of it.
    confirmed: u64,
    /// Ran, and nobody could do the same again.
    refused: u64,
    /// Ran, and did something else than is known of it, or did not end.
    others: u64,
    saved_cpu_ms: u64,
}

pub(crate) fn run(args: &Args, context: &Context) -> anyhow::Result<ExitCode> {
    let store = existing_store(context)?;
    let runs = match (of_job(store.as_ref(), args.since)?, &store) {
        (Some((runs, _)), _) => runs,
        (None, Some(store)) => {
            let mut last = Vec::new();
            Run::visit(store, |run| {
                last.extend(Some(run).filter(|run| !run.parts.is_empty()));
                last.is_empty()
            })?;
            last
        }
        (None, None) => Vec::new(),
    };
    let processes: Vec<Process> = runs.iter().flat_map(|run| run.parts.processes()).collect();
    let mut programs: BTreeMap<&str, Program> = BTreeMap::new();
    let (mut differed, mut refused) = (BTreeMap::new(), BTreeMap::new());
    let count = |reasons: &mut BTreeMap<String, u64>, why: &str| {
        *reasons.entry(why.to_owned()).or_default() += 1;
    };
    for process in &processes {
        let program = programs.entry(&process.program).or_default();
        if let Some(why) = &process.differed {
            count(&mut differed, why);
        }
        match &process.outcome {
            Outcome::Reused(cpu_ns) => {
                program.reused += 1;
                program.saved_cpu_ms += cpu_ns / 1_000_000;
            }
            Outcome::Kept => program.kept += 1,
            Outcome::Confirmed => program.confirmed += 1,
            Outcome::Refused(why) => {
                program.refused += 1;
                count(&mut refused, why);
            }
            Outcome::Missed(_) | Outcome::Mismatch(_) => program.others += 1,
        }
    }
    let mut out = Out::new();
    if args.json {
        let each = processes.iter().map(|process| {
            serde_json::json!({
                "program": process.program,
                "what": process.what,
                "outcome": process.outcome,
                "differed": process.differed,
            })
        });
        let each: Vec<_> = each.collect();
        let answer = serde_json::json!({ "schema": 1, "programs": programs, "processes": each });
        writeln!(out, "{answer:#}")?;
        out.finish()?;
        return Ok(ExitCode::SUCCESS);
    }
    if processes.is_empty() {
        writeln!(out, "no process of a build was recorded")?;
        out.finish()?;
        return Ok(ExitCode::SUCCESS);
    }
    let width = programs.keys().map(|name| name.chars().count()).max().unwrap_or(0).max(7);
    writeln!(out, "{:<width$}  reused    ran  refused  saved", "program")?;
    for (name, program) in &programs {
        let ran = program.kept + program.confirmed + program.others + program.refused;
        writeln!(
            out,
            "{:<width$}  {:>6}  {ran:>5}  {:>7}  {}",
            ui::printable(name),
            program.reused,
            program.refused,
            ui::duration(Duration::from_millis(program.saved_cpu_ms))
        )?;
    }
    for (title, reasons) in [("ran because", differed), ("refused because", refused)] {
        let mut reasons: Vec<(String, u64)> = reasons.into_iter().collect();
        reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        if !reasons.is_empty() {
            writeln!(out, "\n{title}")?;
        }
        for (why, count) in reasons.iter().take(REASONS_MAX) {
            writeln!(out, "  {count:>4}  {}", ui::printable(why))?;
        }
        let left = reasons.len().saturating_sub(REASONS_MAX);
        if left > 0 {
            writeln!(out, "        and {left} more (`--json` has all)")?;
        }
    }
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}
