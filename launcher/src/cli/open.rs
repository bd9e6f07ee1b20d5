//! `rift open`: a tree is there at once, mounted.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};

use crate::cli::{materialize as target, tree};
use crate::context::Context;
use crate::hint::Hint as _;
use crate::mount;

/// Mount a tree, writable, until `rift close`
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Changes lie in DIR itself, below the mount; `rift close DIR` keeps them. A ref
that the store does not know is looked for on the first remote of the settings:
then it is there after four requests, and each file comes when it is read.

Examples:
  rift open site dist          the tree that the ref `site` names
  rift close dist")]
pub(crate) struct Args {
    /// A ref, a tree hash, or at least 6 digits of one
    #[arg(value_name = "SOURCE")]
    source: String,

    /// Where it is shown: an empty directory, or one to make
    #[arg(value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    directory: PathBuf,
}

pub(crate) fn run(args: &Args, context: &Context) -> anyhow::Result<ExitCode> {
    let store = tree::store(context)?;
    let directory = target::target(&args.directory, false)?;
    let shown = args.directory.display();
    if mount::is_at(&store, &directory)? {
        let there: anyhow::Result<()> = Err(anyhow!("a tree is mounted at `{shown}` already"));
        there.hint(format!("`rift close {shown}` ends that"))?;
    }
    if let Some(why) = mount::refusal() {
        let refused: anyhow::Result<()> = Err(anyhow!("nothing can be mounted here: {why}"));
        refused.hint(format!("`rift materialize {} {shown}` writes files", args.source))?;
    }
    let opened = tree::open_hash(&store, tree::resolve_or_pull(&store, &args.source, context)?)?;
    mount::show(&store, &opened, &directory, target::options(context))
        .with_context(|| format!("could not open `{shown}`"))?;
    Ok(ExitCode::SUCCESS)
}
