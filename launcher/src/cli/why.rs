//! `rift why`: what [`crate::exec::why`] answers.

use std::process::ExitCode;

use crate::context::Context;
use crate::exec::why;

/// Explain what a run did, and why
#[derive(Debug, clap::Args)]
#[command(after_help = "\
With two runs of a build it tells which processes differ, and the first thing
that each was told or has found otherwise.

Examples:
  rift why                      the last run
  rift why 1764000000000-4711   that one
  rift why FIRST SECOND         what differed in the second")]
pub(crate) struct Args {
    /// The run; the last one when left out
    run: Option<String>,

    /// The run to compare it with
    second: Option<String>,
}

pub(crate) fn run(args: &Args, context: &Context) -> anyhow::Result<ExitCode> {
    match (&args.run, &args.second) {
        (Some(first), Some(second)) => why::compare(first, second, context),
        (run, _) => why::why(run.as_deref(), context),
    }
}
