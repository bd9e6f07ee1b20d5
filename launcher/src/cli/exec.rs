//! `rift exec`: flags into settings, and over to [`crate::exec`].

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};
use rift_cas::Store;
use rift_cas::projection::{Projection, ShownAs};

use crate::cli::{materialize, tree};
use crate::config::{Color, Config, Id};
use crate::context::Context;
use crate::env_vars;
use crate::exec::{self, ExecOptions, child};
use crate::hint::{self, Hint as _};
use crate::ui::Ui;
use crate::{mount, plan};

/// Run a command, or do without running it where its result is known
#[derive(Debug, clap::Args)]
#[command(override_usage = "rift exec [OPTIONS] -- COMMAND...")]
#[command(after_help = "\
What rift does not recognize runs untouched: same arguments, streams, signals
and exit status.

Examples:
  rift exec -- npm ci
  rift exec --via hardlink -- npm ci       files are links into the store
  rift exec --as mount -- npm ci           there in milliseconds, until `rift close`
  rift exec --as mount --private --tree site=dist -- ls dist
                                           only this command sees it
  rift exec --summary-json s.json -- npm ci
  RIFT_DISABLE=1 rift exec -- npm ci       plain exec(2), for comparison

Exit status: the command's; 125 rift failed, 126 not executable, 127 not found.")]
pub(crate) struct Args {
    /// How trees are shown: auto, files, mount or virtual [env: RIFT_AS]
    #[arg(long = "as", value_name = "HOW", value_parser = ["auto", "files", "mount", "virtual"])]
    #[arg(hide_possible_values = true)]
    show_as: Option<String>,

    /// How files get their bytes: auto (private) or hardlink [env: RIFT_VIA]
    #[arg(long, value_name = "HOW", value_parser = ["auto", "hardlink"])]
    #[arg(hide_possible_values = true)]
    via: Option<String>,

    /// Show TREE at DIR; a projection of it that is there stays as it is
    #[arg(long = "tree", value_name = "TREE=DIR")]
    trees: Vec<String>,

    /// With `--as mount`: mount for this command alone, gone when it ends
    #[arg(long)]
    private: bool,

    /// With `--as virtual`: for programs that make system calls without the C library, too
    /// [env: RIFT_TRAP]
    #[arg(long)]
    trap: bool,

    /// Neither use nor keep known results
    #[arg(long)]
    no_cache: bool,

    /// Run the command even if its result is known, and record it
    #[arg(long, conflicts_with = "no_cache")]
    record_only: bool,

    /// Run install scripts even if their results are recorded
    #[arg(long)]
    no_script_cache: bool,

    /// Check all hashes at use; run and compare builds
    #[arg(long)]
    verify: bool,

    /// Write the summary as JSON to FILE
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    summary_json: Option<PathBuf>,

    /// Runs the command alone where rift can't begin: what hooks ask for, as nobody asked them for rift.
    #[arg(long, hide = true)]
    hooked: bool,

    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    #[arg(value_name = "COMMAND", value_hint = clap::ValueHint::CommandWithArguments)]
    command: Vec<OsString>,
}

/// Becomes the command when the user has switched rift off.
pub(crate) fn replace_if_disabled(args: &Args) -> Option<ExitCode> {
    let is_disabled = env_vars::get(env_vars::RIFT_DISABLE).is_some_and(|value| value != "0");
    is_disabled.then(|| child::replace(&args.command).into_exit_code())
}

/// Becomes the command when a hook started rift, which can't begin; says why.
pub(crate) fn replace_if_hooked(args: &Args, why: &anyhow::Error) -> Option<ExitCode> {
    let is_no = |value: &OsStr| ["0", "false", "no", "off"].iter().any(|word| value == *word);
    let is_strict = env_vars::get(env_vars::RIFT_STRICT).is_some_and(|value| !is_no(&value));
    if !args.hooked || is_strict {
        return None;
    }
    let tool = args.command[0].display();
    let hint = hint::of(why).map(|hint| format!("; {hint}")).unwrap_or_default();
    let warning = format!("{tool} runs without rift: {why:#}{hint}");
    Ui::new(Color::Auto, false).warn(&warning);
    Some(child::replace(&args.command).into_exit_code())
}

/// Takes the flags over into the settings.
pub(crate) fn set_flags(args: &Args, config: &mut Config, cwd: &Path) -> anyhow::Result<()> {
    let word = |flag: bool, word: &'static str| flag.then_some(OsStr::new(word));
    let flags = [
        (Id::As, "--as", args.show_as.as_deref().map(OsStr::new)),
        (Id::Via, "--via", args.via.as_deref().map(OsStr::new)),
        (Id::Cache, "--no-cache", word(args.no_cache, "false")),
        (Id::ScriptCache, "--no-script-cache", word(args.no_script_cache, "false")),
        (Id::Trap, "--trap", word(args.trap, "true")),
        (Id::Verify, "--verify", word(args.verify, "always")),
        (
            Id::SummaryJson,
            "--summary-json",
            args.summary_json.as_ref().map(|path| path.as_os_str()),
        ),
    ];
    for (id, flag, text) in flags {
        if let Some(text) = text {
            config.set_flag(id, flag, text, cwd)?;
        }
    }
    Ok(())
}

pub(crate) fn run(args: &Args, context: &Context) -> anyhow::Result<ExitCode> {
    if args.private && !context.config.shows_mounts() {
        let refused: anyhow::Result<()> = Err(anyhow!("`--private` goes with `--as mount`"));
        refused.hint("files are there for everybody")?;
    }
    let is_virtual = context.config.shows_virtually();
    let views = args.trees.iter().map(|tree| show_tree(tree, args.private || is_virtual, context));
    let options = ExecOptions {
        is_private: args.private,
        is_virtual,
        views: views.collect::<anyhow::Result<_>>()?,
        command: args.command.clone(),
        record_only: args.record_only,
        compares: args.verify,
        is_hooked: args.hooked,
        summary_json: context.config.summary_json().map(Path::to_owned),
    };
    exec::run(&options, context).map(exec::Ending::into_exit_code)
}

/// Shows the tree of `--tree`; returns where.
fn show_tree(spec: &str, is_private: bool, context: &Context) -> anyhow::Result<PathBuf> {
    let (source, directory) = spec
        .split_once('=')
        .filter(|(source, directory)| !source.is_empty() && !directory.is_empty())
        .with_context(|| format!("`--tree {spec}` is not of the form TREE=DIR"))?;
    let store = tree::store(context)?;
    let hash = tree::resolve_or_pull(&store, source, context)?;
    let place = plan::show::place(&context.cwd.join(directory))?;
    let is_for_all = context.config.shows_mounts() && !is_private;
    let _lock = plan::show::lock_project(place.parent().unwrap_or(&context.cwd))?;
    let fall_back = |why: &str| {
        context.fall_back(&format!("`{directory}` is real files instead of a mount: {why}"))
    };
    let known = mount::find(&store, &place)?;
    if let Some(known) = known.filter(|known| known.tree == hash) {
        match known.shown_as {
            ShownAs::Files => Ok(()),
            ShownAs::Mount | ShownAs::Virtual if is_private => Ok(()),
            ShownAs::Mount | ShownAs::Virtual if is_for_all => match unmountable(&store, &known) {
                None => Ok(()),
                Some(why) => {
                    fall_back(&why)?;
                    mount::close(&store, &known)
                }
            },
            ShownAs::Mount | ShownAs::Virtual => mount::close(&store, &known),
        }
        .with_context(|| format!("could not show `{directory}`"))?;
        return Ok(place);
    }
    let place = materialize::target(&context.cwd.join(directory), false)?;
    let opened = tree::open_hash(&store, hash)?;
    let options = materialize::options(context);
    if is_private {
        mount::show_virtual(&store, &opened, &place, options)?;
        return Ok(place);
    }
    let refusal = if is_for_all { mount::refusal() } else { None };
    if let Some(why) = &refusal {
        fall_back(why)?;
    }
    let request = plan::show::Request {
        store: &store,
        tree: &opened,
        folder: &place,
        options,
        has_links: context.links(),
        shown_as: match is_for_all && refusal.is_none() {
            true => ShownAs::Mount,
            false => ShownAs::Files,
        },
    };
    let shown = request.show(None).with_context(|| format!("could not show `{directory}`"))?;
    if let Some(why) = shown.unmountable {
        fall_back(&why)?;
    }
    Ok(place)
}

/// Mounts for everybody what is a projection already; why, where that can't be.
fn unmountable(store: &Store, known: &Projection) -> Option<String> {
    let is_served = mount::condition(known) == mount::Condition::Served;
    let refusal = if is_served { None } else { mount::refusal() };
    refusal.or_else(|| Some(format!("{:#}", mount::show_to_all(store, known).err()?)))
}
