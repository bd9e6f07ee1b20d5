//! `rift enter-view` and `rift leave-view`: what private views are made of; nobody types them.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::mount::private;

/// Run a command in a private view
#[derive(Debug, clap::Args)]
pub(crate) struct EnterArgs {
    socket: i32,
    directories: Vec<PathBuf>,
    #[arg(last = true)]
    command: Vec<OsString>,
}

/// Unmount in the namespace of another process
#[derive(Debug, clap::Args)]
pub(crate) struct LeaveArgs {
    pid: i32,
    directory: PathBuf,
}

pub(crate) fn enter(args: &EnterArgs) -> ExitCode {
    private::enter(args.socket, &args.directories, &args.command).into_exit_code()
}

pub(crate) fn leave(args: &LeaveArgs) -> anyhow::Result<ExitCode> {
    private::leave(args.pid, &args.directory)?;
    Ok(ExitCode::SUCCESS)
}
