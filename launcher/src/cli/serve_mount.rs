//! `rift serve-mount`: what the server of a mount runs as; nobody types it.

use std::path::PathBuf;
use std::process::ExitCode;

/// Serve a mounted projection
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    store: PathBuf,
    directory: PathBuf,
    /// Serve the mount whose other end is stdin
    #[arg(long)]
    private: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    crate::mount::serve(&args.store, &args.directory, args.private)?;
    Ok(ExitCode::SUCCESS)
}
