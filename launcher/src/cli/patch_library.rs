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

    /// Replace those that are recorded, too
    #[arg(long)]
    recorded: bool,
}

/// Says nothing: another program's output goes to the same places.
pub(crate) fn run(args: &Args) -> ExitCode {
    let which = match (args.all, args.recorded) {
        (true, _) => Which::All,
        (_, true) => Which::Recorded,
        _ => Which::Owned,
    };
    match crate::shim::patch_library(&args.store, &args.library, which) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
