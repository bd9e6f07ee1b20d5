//! The command line: one file per command, dispatched here.
//!
//! stdout carries data, stderr the rest. Rift's own failure ends with 125, a wrong command line with 2,
//! `rift exec` with the status or signal of its child. A reader that closes our stdout ends us quietly.

mod cat;
mod close;
mod completions;
mod config;
mod diff;
mod doctor;
mod exec;
mod hook;
mod ingest;
mod init;
mod key;
mod ls;
mod man;
mod materialize;
mod open;
mod patch_library;
mod plan;
mod pull;
mod push;
mod refs;
mod remote;
mod serve_mount;
mod stats;
mod status;
mod store;
mod summary;
mod tree;
mod uninstall;
mod view;
mod why;

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::builder::styling::{Ansi256Color, Color as AnsiColor, Style, Styles};
use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};

use crate::config::{Color, Config, Id};
use crate::context::Context;
use crate::exec::child;
use crate::ui::{self, Ui};

const STYLES: Styles = Styles::styled()
    .header(Style::new().bold().fg_color(Some(AnsiColor::Ansi256(Ansi256Color(141)))))
    .usage(Style::new().bold().fg_color(Some(AnsiColor::Ansi256(Ansi256Color(141)))))
    .literal(Style::new().fg_color(Some(AnsiColor::Ansi256(Ansi256Color(51)))))
    .placeholder(Style::new().fg_color(Some(AnsiColor::Ansi256(Ansi256Color(51)))).dimmed());

/// Known trees of files are there at once, and known commands finish at once.
#[derive(Debug, Parser)]
#[command(
    name = "rift",
    version,
    styles = STYLES,
    max_term_width = 80,
    propagate_version = false,
    disable_help_subcommand = true,
    after_help = "\
Examples:
  rift exec -- npm ci   node_modules from the store, without npm

`rift COMMAND --help` has examples of each. Exit status: the child's for exec;
125 rift failed, 126 not executable, 127 not found, 2 wrong usage."
)]
pub struct Cli {
    /// When output has colors.
    #[arg(long, global = true, value_name = "WHEN", value_enum, hide_possible_values = true)]
    #[arg(help = "Color output: auto, always or never")]
    color: Option<When>,

    /// Leaves out the summary and progress.
    #[arg(short, long, global = true, help = "Leave out summary and progress")]
    quiet: bool,

    /// Where the store is.
    #[arg(long, global = true, value_name = "TIER", value_parser = ["disk", "ram"])]
    #[arg(hide_possible_values = true)]
    #[arg(help = "Use the store on disk, or one in memory: disk or ram")]
    tier: Option<String>,

    #[command(subcommand)]
    command: Option<Command>,
}

/// When output has colors.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum When {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
enum Command {
    Exec(exec::Args),
    Plan(plan::Args),
    Why(why::Args),
    Summary(summary::Args),
    Stats(stats::Args),
    Init(init::Args),
    Ingest(ingest::Args),
    Ls(ls::Args),
    Cat(cat::Args),
    Diff(diff::Args),
    Refs(refs::Args),
    Materialize(materialize::Args),
    Open(open::Args),
    Push(push::Args),
    Pull(pull::Args),
    Remote(remote::Args),
    Key(key::Args),
    Store(store::Args),
    Status(status::Args),
    Close(close::Args),
    Config(config::Args),
    Doctor(doctor::Args),
    #[command(name = "self")]
    Itself(uninstall::Args),
    Hook(hook::Args),
    Unhook(hook::UndoArgs),
    Completions(completions::Args),
    Man(man::Args),
    #[command(name = crate::mount::COMMAND, hide = true)]
    ServeMount(serve_mount::Args),
    #[command(name = crate::mount::private::ENTER, hide = true)]
    EnterView(view::EnterArgs),
    #[command(name = crate::mount::private::LEAVE, hide = true)]
    LeaveView(view::LeaveArgs),
    #[command(name = crate::shim::BECOME, hide = true)]
    Become(view::BecomeArgs),
    #[command(name = crate::shim::PATCH, hide = true)]
    Patch(patch_library::Args),
}

/// Runs `rift` with the arguments and in the environment of this process.
#[must_use]
pub fn main() -> ExitCode {
    // The words are those of the program that it stands for.
    if crate::actions::replay::is_asked() {
        return crate::actions::replay::run();
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(answer) => {
            // Help and version are data on stdout; nobody listening is no failure.
            let _is_printed = answer.print().is_ok();
            return ExitCode::from(u8::from(answer.use_stderr()) * 2);
        }
    };
    match run(cli) {
        Ok(code) => code,
        Err(error) if ui::is_closed_stdout(&error) => ExitCode::SUCCESS,
        Err(error) => {
            Ui::new(Color::Auto, false).error(&error);
            ExitCode::from(child::FAILED)
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let Some(command) = cli.command else {
        Cli::command().print_help().context("could not print the help")?;
        return Ok(ExitCode::SUCCESS);
    };
    if let Command::Exec(args) = &command
        && let Some(ending) = exec::replace_if_disabled(args)
    {
        return Ok(ending);
    }
    // These work where settings are broken, and need none.
    match &command {
        Command::Hook(args) => return hook::run(args),
        Command::Unhook(args) => return hook::undo(args),
        Command::Completions(args) => return completions::run(args),
        Command::Man(args) => return man::run(args),
        Command::ServeMount(args) => return serve_mount::run(args),
        Command::EnterView(args) => return Ok(view::enter(args)),
        Command::LeaveView(args) => return view::leave(args),
        Command::Become(args) => return Ok(view::become_command(args)),
        Command::Patch(args) => return Ok(patch_library::run(args)),
        _ => {}
    }
    let (mut config, cwd) = match settings() {
        Ok(settings) => settings,
        Err(why) => {
            let alone = match &command {
                Command::Exec(args) => exec::replace_if_hooked(args, &why),
                _ => None,
            };
            return alone.ok_or(why);
        }
    };
    if let Some(when) = cli.color {
        let word = match when {
            When::Auto => "auto",
            When::Always => "always",
            When::Never => "never",
        };
        config.set_flag(Id::Color, "--color", OsStr::new(word), &cwd)?;
    }
    if cli.quiet {
        config.set_flag(Id::Quiet, "--quiet", OsStr::new("true"), &cwd)?;
    }
    if let Some(tier) = &cli.tier {
        config.set_flag(Id::Tier, "--tier", OsStr::new(tier), &cwd)?;
    }
    if let Command::Exec(args) = &command {
        exec::set_flags(args, &mut config, &cwd)?;
    }
    if let Command::Summary(args) = &command {
        summary::set_flags(args, &mut config, &cwd)?;
    }
    let context = Context::new(config, cwd);
    let result = dispatch(&command, &context);
    match result {
        Err(error) if !ui::is_closed_stdout(&error) => {
            context.ui.error(&error);
            Ok(ExitCode::from(child::FAILED))
        }
        other => other,
    }
}

/// Returns the settings, and the working directory that they hold for.
fn settings() -> anyhow::Result<(Config, PathBuf)> {
    let cwd = std::env::current_dir().context("could not find the working directory")?;
    Ok((Config::load(&cwd)?, cwd))
}

fn dispatch(command: &Command, context: &Context) -> anyhow::Result<ExitCode> {
    match command {
        Command::Exec(args) => exec::run(args, context),
        Command::Plan(args) => crate::exec::plan(&args.command, context),
        Command::Why(args) => why::run(args, context),
        Command::Summary(args) => summary::run(args, context),
        Command::Stats(args) => stats::run(args, context),
        Command::Init(args) => init::run(args, context),
        Command::Ingest(args) => ingest::run(args, context),
        Command::Ls(args) => ls::run(args, context),
        Command::Cat(args) => cat::run(args, context),
        Command::Diff(args) => diff::run(args, context),
        Command::Refs(args) => refs::run(args, context),
        Command::Materialize(args) => materialize::run(args, context),
        Command::Open(args) => open::run(args, context),
        Command::Push(args) => push::run(args, context),
        Command::Pull(args) => pull::run(args, context),
        Command::Remote(args) => remote::run(args, context),
        Command::Key(args) => key::run(args, context),
        Command::Store(args) => store::run(args, context),
        Command::Status(args) => status::run(args, context),
        Command::Close(args) => close::run(args, context),
        Command::Config(args) => config::run(args, context),
        Command::Doctor(args) => doctor::run(args, context),
        Command::Itself(args) => uninstall::run(args, context),
        Command::Hook(args) => hook::run(args),
        Command::Unhook(args) => hook::undo(args),
        Command::Completions(args) => completions::run(args),
        Command::Man(args) => man::run(args),
        Command::ServeMount(args) => serve_mount::run(args),
        Command::EnterView(args) => Ok(view::enter(args)),
        Command::LeaveView(args) => view::leave(args),
        Command::Become(args) => Ok(view::become_command(args)),
        Command::Patch(args) => Ok(patch_library::run(args)),
    }
}
