//! `rift close`: ends a mounted projection.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};

use crate::context::Context;
use crate::hint::Hint as _;
use crate::{mount, plan};

/// End a mounted projection; what it shows becomes real files
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Programs that still use the directory go on as before.

Examples:
  rift close node_modules              keeps everything, changes included
  rift close --discard node_modules    removes the directory with all changes")]
pub(crate) struct Args {
    /// Remove the directory and all changes instead of keeping them
    #[arg(long)]
    discard: bool,

    /// Where the tree is mounted
    #[arg(value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    directory: PathBuf,
}

pub(crate) fn run(args: &Args, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.existing_store()?;
    let directory = plan::show::place(&context.cwd.join(&args.directory))?;
    let shown = directory.display();
    let known = mount::find(&store, &directory)?.filter(|known| known.shown_as.has_state());
    let known = known.ok_or_else(|| anyhow!("nothing is mounted at `{shown}`"));
    let known = known.hint("`rift status` lists what is")?;
    match args.discard {
        true => mount::remove(&store, &directory, context.threads()),
        false => mount::close(&store, &known),
    }
    .with_context(|| format!("could not close `{shown}`"))?;
    Ok(ExitCode::SUCCESS)
}
