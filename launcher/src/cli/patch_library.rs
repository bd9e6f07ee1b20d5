//! `rift patch-library`: what a process calls that has a C library which no run has seen; nobody types it.

use std::path::PathBuf;
use std::process::ExitCode;

/// Look at a library, and keep what was found
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    store: PathBuf,
    library: PathBuf,
}

/// Says nothing: another program's output goes to the same places.
pub(crate) fn run(args: &Args) -> ExitCode {
    match crate::shim::patch_library(&args.store, &args.library) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
