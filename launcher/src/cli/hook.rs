//! `rift hook` and `rift unhook`: code for the start-up file of a shell, and folders of shims.

use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{self, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};

use crate::config::Color;
use crate::hint::Hint as _;
use crate::hook::{self, Shell, shims};
use crate::ui::{Out, Ui};

/// Print code that runs plain `npm ci` of a shell under rift
#[derive(Debug, clap::Args)]
#[command(override_usage = "rift hook --shell <SHELL> [--always]\n       rift hook --shims <DIR>")]
#[command(after_help = "\
The last line of a shell's start-up file:
  eval \"$(rift hook --shell bash)\"    ~/.bashrc
  eval \"$(rift hook --shell zsh)\"     ~/.zshrc
  rift hook --shell fish | source     ~/.config/fish/config.fish

It defines functions for npm, npx and cargo; nothing is preloaded, nothing runs
at a prompt. `command npm` and RIFT_DISABLE=1 pass them by; `rift unhook` removes
them. A function of yours with such a name stays as it is.

For editors and CI, which start programs without a shell:
  PATH=\"$(rift hook --shims ~/.rift-shims):$PATH\"")]
pub(crate) struct Args {
    /// bash, zsh or fish
    #[arg(long, value_enum, hide_possible_values = true, required_unless_present = "shims")]
    shell: Option<Shell>,

    /// Also in shells that nobody types into
    #[arg(long, requires = "shell")]
    always: bool,

    /// Make a folder of shims to put first on PATH, and print its path
    #[arg(long, value_name = "DIR", conflicts_with = "shell")]
    #[arg(value_hint = clap::ValueHint::DirPath)]
    shims: Option<PathBuf>,
}

/// Print code that undoes `rift hook` in a shell
#[derive(Debug, clap::Args)]
#[command(override_usage = "rift unhook [--shell <SHELL>]\n       rift unhook --shims <DIR>")]
#[command(after_help = "\
Examples:
  eval \"$(rift unhook)\"                in bash and zsh
  rift unhook | source                in fish
  rift unhook --shims ~/.rift-shims   removes the shims, and the folder

It stays off in later shells when the line with `rift hook` is removed from the
start-up file.")]
pub(crate) struct UndoArgs {
    /// bash, zsh or fish; the one whose hook is on if left out
    #[arg(long, value_enum, hide_possible_values = true)]
    shell: Option<Shell>,

    /// Remove a folder of shims
    #[arg(long, value_name = "DIR", conflicts_with = "shell")]
    #[arg(value_hint = clap::ValueHint::DirPath)]
    shims: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut out = Out::new();
    if let Some(folder) = &args.shims {
        let folder = path::absolute(folder).context("could not find the working directory")?;
        shims::install(&folder)?;
        out.name(folder.as_os_str().as_bytes())?;
        out.write_all(b"\n")?;
        out.finish()?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(shell) = args.shell {
        out.write_all(&shell.hook(args.always)?)?;
        out.finish()?;
        if io::stdout().is_terminal() {
            let (line, file) = (shell.line(), shell.start_file());
            Ui::new(Color::Auto, false).note(&format!("`{line}`, last in {file}, runs this"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn undo(args: &UndoArgs) -> anyhow::Result<ExitCode> {
    if let Some(folder) = &args.shims {
        shims::remove(folder)?;
        return Ok(ExitCode::SUCCESS);
    }
    let shell = args.shell.or_else(|| hook::hooked().map(|hooked| hooked.shell));
    let shell = shell
        .ok_or_else(|| anyhow!("no hook is on here"))
        .hint("`--shell` names the shell to print code for")?;
    let mut out = Out::new();
    out.write_all(&shell.unhook())?;
    out.finish()?;
    let file = shell.start_file();
    let line = shell.line();
    let note = format!("later shells have the hook until the line `{line}` is removed from {file}");
    Ui::new(Color::Auto, false).note(&note);
    Ok(ExitCode::SUCCESS)
}
