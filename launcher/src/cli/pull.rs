//! `rift pull`: a ref of a remote, and the tree that it means, come into the store.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context as _;
use rift_cas::remote::{self, Extent, Pulled, Remote};
use rift_cas::{Store, gc};

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

With --lazy only the names come, in four requests, and each file when somebody
reads it: then the remote has to be there.

Examples:
  rift pull deps/main
  rift pull site https://files.example/rift
  rift pull --lazy images && rift open images DIR
  rift materialize site DIR       makes files of it")]
pub(crate) struct Args {
    /// The ref
    #[arg(value_name = "REF")]
    name: String,

    /// An address, or a name of the settings [default: the first of the settings]
    remote: Option<String>,

    /// Bring files when they are read
    #[arg(long)]
    lazy: bool,

    /// Say what was asked of the remote
    #[arg(short, long)]
    verbose: bool,
}

pub(crate) fn run(args: &Args, context: &Context) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    tree::check_name(&args.name)?;
    let address = remotes::address(args.remote.as_deref(), context)?;
    let store = context.store()?;
    let extent = if args.lazy { store.extent_shown() } else { Extent::Whole };
    let opened = remotes::open(&address, false, context)?;
    let pulled = bring(&opened, &store, (&args.name, extent), context);
    if args.verbose {
        remotes::tell_traffic(&opened, context);
    }
    let pulled = pulled?;
    let mut out = Out::new();
    writeln!(out, "{}", pulled.tree)?;
    out.finish()?;
    if !context.ui.is_quiet {
        let received = ui::size(opened.traffic().received_bytes);
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

/// Brings what a ref of a remote means into the store, and keeps that below its cap.
pub(crate) fn bring(
    remote: &Remote,
    store: &Store,
    (name, extent): (&str, Extent),
    context: &Context,
) -> anyhow::Result<Pulled> {
    let trusted = keys::trusted()?;
    let pulled = context
        .ui
        .transfer("received", |watch| remote::pull(remote, store, (name, extent), &trusted, watch));
    remotes::tell_remarks(remote, context);
    let pulled =
        pulled.with_context(|| format!("could not pull `{name}` from {}", remote.address()))?;
    if let Some(cap) = context.cap(store)
        && !pulled.was_here
        && let Err(error) = gc::maybe(store, cap, remote.traffic().unpacked_bytes)
    {
        // The tree is here; what failed is upkeep.
        context.ui.warn(&format!("the store could not be made smaller: {error:#}"));
    }
    Ok(pulled)
}
