//! `rift store`: the store's place, and its care.

use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use crate::context::Context;
use crate::place::Place;
use crate::ui::{Out, Style};

/// Look after the store
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Print where the store is, or would be
    #[command(after_help = "\
Example:
  du -sh \"$(rift store path)\"

RIFT_STORE names another place. Without it, the store is on the project's file
system: in your data folder when that is there, else in a folder of yours
beside the project.")]
    Path,
}

pub(crate) fn run(args: &Args, context: &Context) -> anyhow::Result<ExitCode> {
    match &args.command {
        Command::Path => path(context),
    }
}

fn path(context: &Context) -> anyhow::Result<ExitCode> {
    let path = context.store_path()?;
    let mut out = Out::new();
    out.name(path.as_os_str().as_bytes())?;
    out.write_all(b"\n")?;
    out.finish()?;
    if let (Place::Folder { reason, .. }, true) = (context.place(), context.ui.is_terminal)
        && !context.ui.is_quiet
    {
        context.ui.note(&context.ui.paint(Style::Dim, reason.text()));
    }
    Ok(ExitCode::SUCCESS)
}
