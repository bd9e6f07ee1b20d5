//! `rift why`: what [`crate::exec::why`] answers.

/// Explain what a run did, and why
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rift why                      the last run
  rift why 1764000000000-4711   that one")]
pub(crate) struct Args {
    /// The run; the last one when left out
    pub(crate) run: Option<String>,
}
