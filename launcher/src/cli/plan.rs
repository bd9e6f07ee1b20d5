//! `rift plan`: what [`crate::exec::plan`] answers.

use std::ffi::OsString;

/// Show what `rift exec` would do with a command, without doing it
#[derive(Debug, clap::Args)]
#[command(override_usage = "rift plan -- COMMAND...")]
#[command(after_help = "\
Example:
  rift plan -- npm ci")]
pub(crate) struct Args {
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    #[arg(value_name = "COMMAND", value_hint = clap::ValueHint::CommandWithArguments)]
    pub(crate) command: Vec<OsString>,
}
