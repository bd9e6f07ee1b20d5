//! `rift ingest`: a directory becomes a tree.

use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use rift_cas::{Store, ingest};
use rift_tree::TreeHash;
use rift_tree::builder::Builder;

use crate::cli::tree;
use crate::context::Context;
use crate::ui::Out;

/// Take a directory into the store and print its tree hash
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Symbolic links are kept, not followed; set-user-ID and set-group-ID bits are
dropped; devices, pipes and sockets are refused. A tree without a name goes
with a later gc.

Examples:
  rift ingest dist
  rift ingest node_modules --name deps/main   a name that can change its meaning
  rift materialize deps/main copy             and back")]
pub(crate) struct Args {
    /// The directory
    #[arg(value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    directory: PathBuf,

    /// Make REF mean the tree
    #[arg(long, value_name = "REF")]
    name: Option<String>,
}

pub(crate) fn run(args: &Args, context: &Context) -> anyhow::Result<ExitCode> {
    if let Some(name) = &args.name {
        tree::check_name(name)?;
    }
    let store = context.store()?;
    let hash = directory(&store, args, context)
        .with_context(|| format!("could not ingest `{}`", args.directory.display()))?;
    let mut out = Out::new();
    writeln!(out, "{hash}")?;
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}

fn directory(store: &Store, args: &Args, context: &Context) -> anyhow::Result<TreeHash> {
    let root = args.directory.canonicalize()?;
    let bar = context.ui.progress("entries");
    // A store below the directory would take in itself.
    let own = store.root().strip_prefix(&root).ok().map(|path| path.as_os_str().as_bytes());
    let skip = |path: &[u8]| {
        bar.inc(1);
        own == Some(path)
    };
    let import = store.import()?;
    let entries = ingest::directory(&import, &root, context.threads(), &skip)?;
    let mut builder = Builder::new();
    for entry in entries {
        builder
            .put_with_xattrs(&entry.path, entry.mtime_ns, entry.item, entry.xattrs)
            .with_context(|| format!("`{}`", String::from_utf8_lossy(&entry.path)))?;
    }
    let built = builder.finish()?;
    // gc waits while the index lives: by then the tree has its name.
    let (_, index) = import.finish(&[])?;
    store.publish_located(&built, &index)?;
    if let Some(name) = &args.name {
        store.set_ref(name, built.hash).with_context(|| format!("could not set `{name}`"))?;
    }
    bar.finish_and_clear();
    Ok(built.hash)
}
