//! `rift self uninstall`: everything of rift's goes, and nothing else.

use std::fs;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};
use rift_cas::remove;
use rustix::fs::Access;

use crate::cli::completions;
use crate::context::Context;
use crate::hint::Hint as _;
use crate::place::Place;
use crate::ui::Out;
use crate::{config, hook, keys, machine, place};

/// Manage this installation of rift
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Remove rift: its stores, your settings and keys, its completions, the program
    #[command(after_help = "\
Lists exactly what goes, and asks. Trees that were written stay: they are
yours, and so is every project's rift.toml.

Examples:
  rift self uninstall --dry-run   only the list
  rift self uninstall --yes       without asking")]
    Uninstall {
        /// Do not ask
        #[arg(short, long)]
        yes: bool,

        /// Only list what would go
        #[arg(short = 'n', long, conflicts_with = "yes")]
        dry_run: bool,
    },
}

/// What goes, and how it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Store,
    Settings,
    Key,
    Memory,
    Completions,
    Program,
}

impl What {
    fn word(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Settings => "settings",
            Self::Key => "keys",
            Self::Memory => "list of stores",
            Self::Completions => "completions",
            Self::Program => "program",
        }
    }
}

pub(crate) fn run(args: &Args, context: &Context) -> anyhow::Result<ExitCode> {
    let Command::Uninstall { yes, dry_run } = args.command;
    let (items, kept) = items(context)?;
    let mut out = Out::new();
    for (what, path) in &items {
        write!(out, "{:<14}  ", what.word())?;
        out.name(path.as_os_str().as_bytes())?;
        out.write_all(b"\n")?;
    }
    out.finish()?;
    for (what, path, reason) in &kept {
        context.ui.warn(&format!("{} `{}` stays: {reason}", what.word(), path.display()));
    }
    if let Some(hooked) = hook::hooked() {
        let (line, file) = (hooked.shell.line(), hooked.shell.start_file());
        context.ui.warn(&format!("the line `{line}` in {file} stays: remove it by hand"));
    }
    if dry_run {
        return Ok(ExitCode::SUCCESS);
    }
    if !yes && !is_agreed(context)? {
        context.ui.note("nothing was removed");
        return Ok(ExitCode::SUCCESS);
    }
    for (what, path) in &items {
        remove_item(*what, path, context)
            .with_context(|| format!("could not remove `{}`", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn is_agreed(context: &Context) -> anyhow::Result<bool> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        let silent: anyhow::Result<_> = Err(anyhow!("nobody can be asked here"));
        return silent.hint("`--yes` removes all of the above without asking");
    }
    context.ui.note("remove all of this? [y/N]");
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer).context("could not read the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

type Item = (What, PathBuf);
type Kept = (What, PathBuf, &'static str);

/// Finds everything of rift's, the program last; and what this user can't remove.
fn items(context: &Context) -> anyhow::Result<(Vec<Item>, Vec<Kept>)> {
    let mut items: Vec<Item> =
        stores(context).into_iter().map(|path| (What::Store, path)).collect();
    let files = [
        (What::Memory, place::list()),
        (What::Settings, config::user_file()),
        (What::Key, keys::private_path()),
        (What::Key, keys::trusted_path()),
    ];
    for (what, path) in files {
        items.extend(path.filter(|path| path.is_file()).map(|path| (what, path)));
    }
    items.extend(completions::installed().into_iter().map(|path| (What::Completions, path)));
    let program = std::env::current_exe().context("could not find this program")?;
    if program.is_file() {
        items.push((What::Program, program));
    }
    let can_go = |path: &Path| {
        let folder = path.parent().unwrap_or(Path::new("/"));
        rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK).is_ok()
    };
    let (items, kept): (Vec<_>, Vec<_>) = items.into_iter().partition(|(_, path)| can_go(path));
    let reason = "you may not write to its folder";
    Ok((items, kept.into_iter().map(|(what, path)| (what, path, reason)).collect()))
}

/// Finds every store of this user's: the one used here, those that were made in other places, and
/// those at the top of file systems.
fn stores(context: &Context) -> Vec<PathBuf> {
    let mut candidates = place::remembered();
    for place in [context.place(), context.disk_place()] {
        if let Place::Folder { path, .. } = place {
            candidates.push(path.clone());
        }
    }
    let data = config::xdg(crate::env_vars::XDG_DATA_HOME, ".local/share");
    candidates.extend(data.map(|folder| folder.join("rift")));
    candidates.extend(place::memory_places());
    let name = format!(".rift-store-{}", rustix::process::geteuid().as_raw());
    let mounts = machine::mounts(Path::new("/"));
    candidates.extend(mounts.into_iter().map(|mount| mount.place.join(&name)));
    let real = candidates.into_iter().filter_map(|path| path.canonicalize().ok());
    let mut found: Vec<PathBuf> = real.filter(|path| remove::is_own_store(path)).collect();
    found.sort();
    found.dedup();
    found
}

/// Makes what is mounted from a store real, so that nothing of the user's goes with it.
fn close_mounts(path: &Path) -> anyhow::Result<()> {
    let Ok(Some(store)) = rift_cas::Store::open_existing(path) else {
        return Ok(());
    };
    for projection in store.projections()?.iter().filter(|known| known.shown_as.has_state()) {
        if projection.is_in_place() {
            let shown = projection.directory.display();
            crate::mount::close(&store, projection)
                .with_context(|| format!("could not close `{shown}`"))?;
        }
    }
    Ok(())
}

fn remove_item(what: What, path: &Path, context: &Context) -> anyhow::Result<()> {
    match what {
        What::Store => {
            close_mounts(path)?;
            if !remove::remove(path)? {
                let shown = path.display();
                context.ui.warn(&format!("`{shown}` holds something else too, which stays"));
            }
        }
        What::Settings | What::Key | What::Memory => {
            fs::remove_file(path)?;
            // The folder `rift` itself goes when nothing of the user's is in it.
            if let Some(folder) = path.parent() {
                let _is_gone = fs::remove_dir(folder).is_ok();
            }
        }
        What::Completions | What::Program => fs::remove_file(path)?,
    }
    Ok(())
}
