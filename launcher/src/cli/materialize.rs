//! `rift materialize`: a tree becomes real files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Instant, SystemTime};

use anyhow::{Context as _, anyhow, bail};
use rift_cas::materialize::{self, Options, Writer};
use rift_cas::projection::Projection;

use crate::cli::tree;
use crate::context::Context;
use crate::hint::Hint as _;
use crate::{config, env_vars, mount, ui};

/// Write a tree as real files
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The tree is written beside DIR and gets its name when it is whole.

Examples:
  rift materialize deps/main node_modules
  rift materialize --force 3f9a41 dist     replaces what is in dist")]
pub(crate) struct Args {
    /// A ref, a tree hash, or at least 6 digits of one
    tree: String,

    /// The directory to make; its parent is there
    #[arg(value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    directory: PathBuf,

    /// Replace a directory that is not empty
    #[arg(long)]
    force: bool,

    /// How files get their bytes: auto (private) or hardlink [env: RIFT_VIA]
    #[arg(long, value_name = "HOW", value_parser = ["auto", "hardlink"])]
    #[arg(hide_possible_values = true)]
    via: Option<String>,
}

pub(crate) fn run(args: &Args, context: &Context) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let store = context.existing_store()?;
    let target = target(&args.directory, args.force)?;
    let hash = tree::resolve(&store, &args.tree)?;
    let _lease = store.lease(hash)?;
    let opened = tree::open_hash(&store, hash)?;
    let links = args.via.as_deref().map_or(context.links(), |via| via == "hardlink");
    let options = options(context);
    let linker = if links { store.linker(&opened, options)? } else { None };
    let writer = match &linker {
        Some(linker) => Writer::linking(&opened, linker, options),
        None => Writer::new(&opened, options),
    };
    if mount::is_at(&store, &target)? {
        mount::remove(&store, &target, options.threads)?;
    }
    let written = materialize::replace(&writer, &target)
        .with_context(|| format!("could not materialize `{}`", args.directory.display()))?;
    store.set_projection(&Projection::seal(&writer, &target)?)?;
    if !context.ui.is_quiet {
        context.ui.note(&format!(
            "{} entries ({}) in {}",
            ui::count(written.entries),
            ui::size(written.bytes),
            ui::duration(started.elapsed())
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns how a tree is shown that gets the time of now.
pub(crate) fn options(context: &Context) -> Options {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Options {
        threads: context.threads(),
        stamp_ns: i64::try_from(now.as_nanos()).unwrap_or(0),
        umask: materialize::umask(),
        verify: context.config.verifies_always(),
        ..Options::default()
    }
}

/// Returns the absolute path of the directory to make, if it may be made.
pub(crate) fn target(directory: &Path, force: bool) -> anyhow::Result<PathBuf> {
    let shown = directory.display();
    let target = match directory.file_name() {
        Some(name) => {
            let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = parent.unwrap_or(Path::new("."));
            let real = parent.canonicalize();
            real.with_context(|| format!("could not find `{}`", parent.display()))?.join(name)
        }
        // `.`, `..` and `/`.
        None => directory.canonicalize().with_context(|| format!("could not find `{shown}`"))?,
    };
    let stat = match fs::symlink_metadata(&target) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(target),
        other => other.with_context(|| format!("could not look at `{shown}`"))?,
    };
    if stat.is_symlink() {
        bail!("`{shown}` is a symbolic link: name the directory itself");
    }
    if !stat.is_dir() {
        bail!("`{shown}` is there already and is not a directory");
    }
    let cwd = std::env::current_dir().unwrap_or_default();
    let home = env_vars::get(env_vars::HOME).map(PathBuf::from).unwrap_or_default();
    let holds = |path: &Path| !path.as_os_str().is_empty() && path.starts_with(&target);
    if holds(&cwd)
        || holds(&home)
        || config::project_file(&target) == Some(target.join(config::PROJECT_FILE))
    {
        bail!(
            "`{shown}` is or holds your working directory, your home or a project: it is never replaced"
        );
    }
    let mut entries = fs::read_dir(&target).with_context(|| format!("could not list `{shown}`"))?;
    if entries.next().is_some() && !force {
        let refused: anyhow::Result<_> = Err(anyhow!("`{shown}` is not empty"));
        return refused.hint("`--force` replaces it with the tree; what is in it now goes");
    }
    Ok(target)
}
