//! `rift refs`: the names that trees have.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::anyhow;
use rift_cas::record::Kind;

use crate::cli::tree;
use crate::context::Context;
use crate::hint::Hint as _;
use crate::ui::Out;

/// List the names of trees
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rift refs                       tree hash, tab, name
  rift refs --delete deps/old     the tree goes with the next gc")]
pub(crate) struct Args {
    /// Remove a name
    #[arg(long, value_name = "REF")]
    delete: Option<String>,
}

pub(crate) fn run(args: &Args, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.existing_store()?;
    if let Some(name) = &args.delete {
        tree::check_name(name)?;
        let there = store.records(Kind::Ref)?.iter().any(|(found, _)| found == name);
        there
            .then_some(())
            .ok_or_else(|| anyhow!("no ref is called `{name}`"))
            .hint("`rift refs` lists the names there are")?;
        store.remove_record(Kind::Ref, name)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut out = Out::new();
    for (name, _) in store.records(Kind::Ref)? {
        match store.get_ref(&name) {
            Ok(Some(hash)) => writeln!(out, "{hash}\t{name}")?,
            // Removed since it was listed.
            Ok(None) => {}
            Err(error) => context.ui.warn(&format!("{error}")),
        }
    }
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}
