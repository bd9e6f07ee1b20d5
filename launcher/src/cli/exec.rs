//! `rift exec`: flags into settings, and over to [`crate::exec`].

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::config::{Config, Id};
use crate::context::Context;
use crate::env_vars;
use crate::exec::{self, ExecOptions, child};

/// Run a command, or do without running it where its result is known
#[derive(Debug, clap::Args)]
#[command(override_usage = "rift exec [OPTIONS] -- COMMAND...")]
#[command(after_help = "\
What rift does not recognize runs untouched: same arguments, streams, signals
and exit status.

Examples:
  rift exec -- npm ci
  rift exec --via hardlink -- npm ci       files are links into the store
  rift exec --as mount -- npm ci           there in milliseconds, until `rift close`
  rift exec --summary-json s.json -- npm ci
  RIFT_DISABLE=1 rift exec -- npm ci       plain exec(2), for comparison

Exit status: the command's; 125 rift failed, 126 not executable, 127 not found.")]
pub(crate) struct Args {
    /// How trees are shown: auto, files or mount [env: RIFT_AS]
    #[arg(long = "as", value_name = "HOW", value_parser = ["auto", "files", "mount"])]
    #[arg(hide_possible_values = true)]
    show_as: Option<String>,

    /// How files get their bytes: auto (private) or hardlink [env: RIFT_VIA]
    #[arg(long, value_name = "HOW", value_parser = ["auto", "hardlink"])]
    #[arg(hide_possible_values = true)]
    via: Option<String>,

    /// Neither use nor keep known results
    #[arg(long)]
    no_cache: bool,

    /// Run the command even if its result is known, and record it
    #[arg(long, conflicts_with = "no_cache")]
    record_only: bool,

    /// Run install scripts even if their results are recorded
    #[arg(long)]
    no_script_cache: bool,

    /// Check all content against its hash as it is used
    #[arg(long)]
    verify: bool,

    /// Write the summary as JSON to FILE
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    summary_json: Option<PathBuf>,

    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    #[arg(value_name = "COMMAND", value_hint = clap::ValueHint::CommandWithArguments)]
    command: Vec<OsString>,
}

/// Becomes the command when the user has switched rift off.
pub(crate) fn replace_if_disabled(args: &Args) -> Option<ExitCode> {
    let is_disabled = env_vars::get(env_vars::RIFT_DISABLE).is_some_and(|value| value != "0");
    is_disabled.then(|| child::replace(&args.command).into_exit_code())
}

/// Takes the flags over into the settings.
pub(crate) fn set_flags(args: &Args, config: &mut Config, cwd: &Path) -> anyhow::Result<()> {
    let word = |flag: bool, word: &'static str| flag.then_some(OsStr::new(word));
    let flags = [
        (Id::As, "--as", args.show_as.as_deref().map(OsStr::new)),
        (Id::Via, "--via", args.via.as_deref().map(OsStr::new)),
        (Id::Cache, "--no-cache", word(args.no_cache, "false")),
        (Id::ScriptCache, "--no-script-cache", word(args.no_script_cache, "false")),
        (Id::Verify, "--verify", word(args.verify, "always")),
        (
            Id::SummaryJson,
            "--summary-json",
            args.summary_json.as_ref().map(|path| path.as_os_str()),
        ),
    ];
    for (id, flag, text) in flags {
        if let Some(text) = text {
            config.set_flag(id, flag, text, cwd)?;
        }
    }
    Ok(())
}

pub(crate) fn run(args: &Args, context: &Context) -> anyhow::Result<ExitCode> {
    let options = ExecOptions {
        command: args.command.clone(),
        record_only: args.record_only,
        summary_json: context.config.summary_json().map(Path::to_owned),
    };
    exec::run(&options, context).map(exec::Ending::into_exit_code)
}
