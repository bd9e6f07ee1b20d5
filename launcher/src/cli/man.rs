//! `rift man`: manual pages, made of the same text as `--help`.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_mangen::roff::{Roff, bold, roman};

use crate::cli::Cli;
use crate::config::KEYS;
use crate::ui::Out;

/// Print the manual page, or write those of all commands
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rift man | man -l -
  rift man --dir ~/.local/share/man/man1")]
pub(crate) struct Args {
    /// Write one page per command to DIR
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    dir: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let Some(folder) = &args.dir else {
        let mut out = Out::new();
        out.write_all(&main_page()?)?;
        out.finish()?;
        return Ok(ExitCode::SUCCESS);
    };
    let written = || format!("could not write manual pages to `{}`", folder.display());
    fs::create_dir_all(folder).with_context(written)?;
    let mut command = Cli::command();
    command.build();
    clap_mangen::generate_to(command, folder).with_context(written)?;
    fs::write(folder.join("rift.1"), main_page()?).with_context(written)?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the main page: that of the command line, and every setting.
fn main_page() -> anyhow::Result<Vec<u8>> {
    let mut page = Vec::new();
    let mut command = Cli::command();
    command.build();
    let rendered = clap_mangen::Man::new(command).render(&mut page).and_then(|()| {
        let mut settings = Roff::new();
        settings.control("SH", ["SETTINGS"]);
        settings.text([roman(
            "A flag beats a variable, which beats rift.toml of the project, which beats \
             rift/config.toml of the user.",
        )]);
        for key in &KEYS {
            settings.control("TP", []);
            settings.text([bold(key.name), roman(", "), bold(key.env)]);
            settings.text([roman(key.doc)]);
        }
        settings.to_writer(&mut page)
    });
    rendered.context("could not make the manual page")?;
    Ok(page)
}
