//! `rift enter-view`, `rift leave-view` and `rift become`: what views are made of; nobody types them.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::exec::child;
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

/// Become a command
#[derive(Debug, clap::Args)]
pub(crate) struct BecomeArgs {
    #[arg(last = true)]
    command: Vec<OsString>,
}

pub(crate) fn become_command(args: &BecomeArgs) -> ExitCode {
    child::replace(&args.command).into_exit_code()
}

pub(crate) fn enter(args: &EnterArgs) -> ExitCode {
    private::enter(args.socket, &args.directories, &args.command).into_exit_code()
}

pub(crate) fn leave(args: &LeaveArgs) -> anyhow::Result<ExitCode> {
    private::leave(args.pid, &args.directory)?;
    Ok(ExitCode::SUCCESS)
}
