//! `rift cat`: the bytes of one file of a tree.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use rift_tree::Kind;

use crate::cli::tree;
use crate::context::Context;
use crate::hint::Hint as _;
use crate::ui::{self, Out};

/// Write a file of a tree to standard output
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  rift cat deps/main lodash/package.json")]
pub(crate) struct Args {
    /// A ref, a tree hash, or at least 6 digits of one
    tree: String,

    /// The file's path in the tree
    path: PathBuf,
}

pub(crate) fn run(args: &Args, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.existing_store()?;
    let opened = tree::open(&store, &args.tree)?;
    let manifest = opened.manifest();
    let (id, path) = tree::find(&manifest, Some(&args.path))?;
    let shown = ui::printable(&String::from_utf8_lossy(&path));
    let (size, blob) = match manifest.kind(id) {
        Some(Kind::File { size, blob }) => (size, blob),
        Some(Kind::Symlink { target }) => {
            let target = ui::printable(&String::from_utf8_lossy(target));
            let link: anyhow::Result<_> = Err(anyhow!("`{shown}` is a symbolic link"));
            return link.hint(format!("it points to `{target}`"));
        }
        _ => bail!("`{shown}` is a directory"),
    };
    let bytes = opened.bytes(&opened.sidecar(), blob, size);
    let bytes = bytes.with_context(|| format!("the store lost the bytes of `{shown}`"))?;
    let expected = manifest.blob_hash(blob).context("the manifest is damaged")?;
    let actual = rift_tree::BlobHash::from_bytes(*blake3::hash(bytes).as_bytes());
    if actual != expected {
        let path = args.path.clone();
        return Err(rift_cas::Error::HashMismatch { expected, actual, path }.into());
    }
    let mut out = Out::new();
    out.write_all(bytes)?;
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}
