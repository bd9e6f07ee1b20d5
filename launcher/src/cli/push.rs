//! `rift push`: a tree goes to a remote, and a ref there comes to mean it.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, anyhow};
use rift_cas::remote;

use crate::cli::{remote as remotes, tree};
use crate::context::Context;
use crate::hint::Hint as _;
use crate::keys;
use crate::ui::{self, Out};

/// Send a tree to a remote, under the name of its ref
#[derive(Debug, clap::Args)]
#[command(after_help = "\
What the remote has is not sent again, also after an interruption. Files that
hold secrets (.env, keys, tokens) stay here and are named; the tree there is
then another, whose hash is printed. With a namespace (RIFT_NAMESPACE) the ref
is made there.

Examples:
  rift push deps/main
  rift push site file:///mnt/share/rift")]
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
    remotes::may_write(context)?;
    let store = context.existing_store()?;
    let hash =
        store.get_ref(&args.name)?.ok_or_else(|| anyhow!("no ref is called `{}`", args.name));
    let hash = hash.hint("`rift refs` lists the names there are")?;
    let key = keys::private()?.ok_or_else(|| anyhow!("you have no key to sign with"));
    let key = key.hint("`rift key new` makes one")?;
    let trusted = keys::trusted()?;
    // A package's manifest lies in a pack; it gets its file when it is first asked for.
    tree::open_hash(&store, hash)?;
    let shareable = remote::without_secrets(&store, hash)?;
    for (path, holds) in &shareable.left_out {
        let path = ui::printable(&String::from_utf8_lossy(path));
        context.ui.warn(&format!("`{path}` stays here: it holds {holds}"));
    }
    let opened = remotes::open(&address, true, context)?;
    let address = opened.address();
    let signing = (&key, &trusted);
    let pushed = context.ui.transfer("sent", |watch| {
        remote::push(&opened, &store, &args.name, shareable.tree, signing, watch)
    });
    remotes::tell_remarks(&opened, context);
    if args.verbose {
        remotes::tell_traffic(&opened, context);
    }
    let pushed = pushed.with_context(|| format!("could not push `{}` to {address}", args.name))?;
    let mut out = Out::new();
    writeln!(out, "{}", shareable.tree)?;
    out.finish()?;
    if !context.ui.is_quiet {
        let sent = ui::size(opened.traffic().sent_bytes);
        let time = ui::duration(started.elapsed());
        context.ui.note(&match pushed.was_there {
            true => format!("{address} has `{}` already ({time})", args.name),
            false => format!("`{}` pushed to {address}: {sent} sent in {time}", args.name),
        });
    }
    Ok(ExitCode::SUCCESS)
}
