//! `rift completions`: what a shell needs to complete rift's command line.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};
use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::config::{Color, xdg};
use crate::env_vars;
use crate::hint::Hint as _;
use crate::ui::{Out, Ui};

/// Print the completions of a shell, or install them
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rift completions bash --install
  rift completions zsh > ~/.zfunc/_rift
  rift completions fish | source")]
pub(crate) struct Args {
    /// bash, zsh, fish, elvish or powershell
    #[arg(value_enum, hide_possible_values = true)]
    shell: Shell,

    /// Write them where the shell looks (bash, zsh, fish)
    #[arg(long)]
    install: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "rift", &mut script);
    if !args.install {
        let mut out = Out::new();
        out.write_all(&script)?;
        out.finish()?;
        return Ok(ExitCode::SUCCESS);
    }
    let path = place(args.shell)
        .ok_or_else(|| anyhow!("rift does not know where {} looks for completions", args.shell))
        .hint("leave out `--install` and put the output there")?;
    let written = || format!("could not write `{}`", path.display());
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(written)?;
    }
    fs::write(&path, &script).with_context(written)?;
    let ui = Ui::new(Color::Auto, false);
    ui.note(&format!("wrote {}", path.display()));
    if args.shell == Shell::Zsh {
        ui.note("put that folder into zsh's `fpath` before `compinit`");
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns where a shell looks for the user's completions of rift.
fn place(shell: Shell) -> Option<PathBuf> {
    let data = |below: &str| Some(xdg(env_vars::XDG_DATA_HOME, ".local/share")?.join(below));
    match shell {
        Shell::Bash => data("bash-completion/completions/rift"),
        Shell::Zsh => data("zsh/site-functions/_rift"),
        Shell::Fish => {
            Some(xdg(env_vars::XDG_CONFIG_HOME, ".config")?.join("fish/completions/rift.fish"))
        }
        _ => None,
    }
}

/// Returns the completions that were installed.
pub(crate) fn installed() -> Vec<PathBuf> {
    let places = [Shell::Bash, Shell::Zsh, Shell::Fish].into_iter().filter_map(place);
    places.filter(|path| path.is_file()).collect()
}
