//! `rift patch-library`: what a process calls that has a C library which no run has seen; nobody types it.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::shim::Which;

/// Look at a library, and keep what was found
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    store: PathBuf,
    library: PathBuf,

    /// Replace all system calls
    #[arg(long)]
    all: bool,
}

/// Says nothing: another program's output goes to the same places.
pub(crate) fn run(args: &Args) -> ExitCode {
    let which = if args.all { Which::All } else { Which::Owned };
    match crate::shim::patch_library(&args.store, &args.library, which) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
