//! `rift config`: the settings that hold here, and where each came from.

use std::io::Write as _;
use std::process::ExitCode;

use crate::context::Context;
use crate::ui::Out;

/// Show the settings that hold here
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
#[command(after_help = "\
A flag beats a variable RIFT_*, which beats the project's rift.toml, which beats
your own file (rift/config.toml in $XDG_CONFIG_HOME or ~/.config).")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List every setting as a line of a settings file
    #[command(after_help = "\
Example:
  rift config list --origins")]
    List {
        /// Say where each value came from, and its variable
        #[arg(long)]
        origins: bool,
    },
}

pub(crate) fn run(args: &Args, context: &Context) -> anyhow::Result<ExitCode> {
    let Command::List { origins } = args.command;
    let lines: Vec<_> = context
        .config
        .settings()
        .map(|(key, value, origin)| (format!("{} = {value}", key.name), key, origin))
        .collect();
    let width = lines.iter().map(|(line, ..)| line.chars().count()).max().unwrap_or(0);
    let mut out = Out::new();
    for (line, key, origin) in lines {
        match origins {
            true => writeln!(out, "{line:<width$}  # {origin} ({})", key.env)?,
            false => writeln!(out, "{line}")?,
        }
    }
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}
