//! `rift pull`: a ref of a remote, and the tree that it means, come into the store.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context as _;
use rift_cas::{gc, remote};

use crate::cli::{remote as remotes, tree};
use crate::context::Context;
use crate::keys;
use crate::ui::{self, Out};

/// Bring a ref of a remote and its tree into the store
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The ref must be signed by a key that is trusted here: see `rift key`. Every file
is checked before the store takes it in; what the store has is not fetched. In a
namespace (RIFT_NAMESPACE) that is asked before the rest of the remote.

Examples:
  rift pull deps/main
  rift pull site https://files.example/rift
  rift materialize site DIR       makes files of it")]
pub(crate) struct Args {
    /// The ref
    #[arg(value_name = "REF")]
    name: String,

    /// An address, or a name of the settings [default: the first of the settings]
    remote: Option<String>,

    /// Say what was asked of the remote
    #[arg(short, long)]
    verbose: bool,
}

pub(crate) fn run(args: &Args, context: &Context) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    tree::check_name(&args.name)?;
    let address = remotes::address(args.remote.as_deref(), context)?;
    let trusted = keys::trusted()?;
    let opened = remotes::open(&address, false, context)?;
    let store = context.store()?;
    let pulled = context
        .ui
        .transfer("received", |watch| remote::pull(&opened, &store, &args.name, &trusted, watch));
    remotes::tell_remarks(&opened, context);
    if args.verbose {
        remotes::tell_traffic(&opened, context);
    }
    let pulled =
        pulled.with_context(|| format!("could not pull `{}` from {address}", args.name))?;
    let received_bytes = opened.traffic().received_bytes;
    if let Some(cap) = context.cap(&store)
        && !pulled.was_here
        && let Err(error) = gc::maybe(&store, cap, received_bytes)
    {
        // The tree is here; what failed is upkeep.
        context.ui.warn(&format!("the store could not be made smaller: {error:#}"));
    }
    let mut out = Out::new();
    writeln!(out, "{}", pulled.tree)?;
    out.finish()?;
    if !context.ui.is_quiet {
        let received = ui::size(received_bytes);
        let time = ui::duration(started.elapsed());
        let signer = pulled.signer.name;
        context.ui.note(&match pulled.was_here {
            true => format!("`{}` is here already, signed by {signer} ({time})", args.name),
            false => format!(
                "`{}` pulled from {}: {received} received in {time}, signed by {signer}",
                args.name, pulled.from
            ),
        });
    }
    Ok(ExitCode::SUCCESS)
}
