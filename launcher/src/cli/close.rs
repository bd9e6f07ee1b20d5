//! `rift close`: ends a mounted projection.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};
use rift_cas::projection::Projection;

use crate::context::Context;
use crate::hint::Hint as _;
use crate::{mount, plan, ui};

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
    let Some(known) = known else {
        let refused = Err(anyhow!("nothing is mounted at `{shown}`"));
        let is_below = |known: &Projection| {
            known.shown_as.has_state() && known.directory.starts_with(&directory)
        };
        return refused.hint(match store.projections()?.into_iter().find(is_below) {
            Some(Projection { directory: below, .. }) => {
                let below = below.strip_prefix(&context.cwd).unwrap_or(&below).display();
                format!("`rift close {}`: that is mounted", ui::printable(&below.to_string()))
            }
            None => "`rift status` lists what is".to_owned(),
        });
    };
    match args.discard {
        true => mount::remove(&store, &directory, context.threads()),
        false => mount::close(&store, &known),
    }
    .with_context(|| format!("could not close `{shown}`"))?;
    Ok(ExitCode::SUCCESS)
}
