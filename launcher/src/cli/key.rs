//! `rift key`: the key that signs what is pushed, and the keys that are trusted.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};
use rift_cas::remote::keys::NamedKey;

use crate::context::Context;
use crate::hint::Hint as _;
use crate::keys;
use crate::ui::Out;

/// Make the key that signs your refs, and trust those of others
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
#[command(after_help = "\
A ref that is pushed is signed; one that is pulled must be signed by a key that
is trusted here. Your own is.")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a private key and print its public half
    #[command(after_help = "\
The private key is a file beside your settings that only you can read; it is
never printed. Others run `rift key trust` with what this prints.

Example:
  rift key new ci@example")]
    New {
        /// What people call it
        #[arg(default_value = "rift")]
        name: String,

        /// Make another in place of the one that you have
        #[arg(long)]
        replace: bool,
    },
    /// Trust a key, or no longer
    #[command(after_help = "\
Examples:
  rift key trust ci@example:3f9a…   what `rift key new` printed there
  rift key trust --remove ci@example")]
    Trust {
        /// NAME:HEX; with --remove also NAME or HEX
        key: String,

        /// Trust it no longer
        #[arg(long)]
        remove: bool,
    },
    /// List the keys that are trusted
    #[command(after_help = "\
Example:
  rift key list                   NAME:HEX, tab, whose it is")]
    List,
}

pub(crate) fn run(args: &Args, context: &Context) -> anyhow::Result<ExitCode> {
    let mut out = Out::new();
    match &args.command {
        Command::New { name, replace } => {
            let key = keys::make(name, *replace)?;
            writeln!(out, "{key}")?;
        }
        Command::Trust { key, remove: true } => {
            let gone = keys::distrust(key)?;
            (!gone.is_empty())
                .then_some(())
                .ok_or_else(|| anyhow!("no trusted key is called `{key}`"))
                .hint("`rift key list` lists them; your own is always trusted")?;
        }
        Command::Trust { key, remove: false } => {
            let key = NamedKey::parse(key.trim()).context("this key can't be trusted")?;
            if !keys::trust(&key)? {
                context.ui.note("that key is trusted already");
            }
        }
        Command::List => {
            let own = keys::private()?.map(|key| key.public());
            for key in own.iter() {
                writeln!(out, "{key}\tyours")?;
            }
            let listed = keys::listed()?;
            let others =
                listed.iter().filter(|key| own.as_ref().is_none_or(|own| own.key != key.key));
            for key in others {
                writeln!(out, "{key}\ttrusted")?;
            }
        }
    }
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}
