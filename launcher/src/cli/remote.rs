//! `rift remote`: where trees are shared. Also what push and pull have in common.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use rift_cas::remote::address::Address;
use rift_cas::remote::{self, Limits, Needs, Remote};
use rift_tree::TreeHash;

use super::summary;
use crate::config::{self, NamedRemote, PROJECT_FILE};
use crate::context::Context;
use crate::exec::shared::{ACTIONS, CARGO_LINEAGE, LINEAGE};
use crate::hint::Hint as _;
use crate::ui::Out;
use crate::{keys, remotes, ui};

/// Name the places where trees are shared
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
#[command(after_help = "\
An address begins with s3://, gs://, az://, https:// (only read) or file://.
Credentials come from the environment, as the tools of each service read them;
rift neither stores nor prints them.")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Add a remote to the project's rift.toml, or to your settings
    #[command(after_help = "\
The first remote of the settings is the one that push and pull use.

Examples:
  rift remote add s3://bucket/team
  rift remote add --user --name disk file:///mnt/share/rift")]
    Add {
        /// Where it is
        address: String,

        /// What you call it
        #[arg(long)]
        name: Option<String>,

        /// Add it to your own settings instead of the project's
        #[arg(long)]
        user: bool,
    },
    /// Try a remote: can it be read and written?
    #[command(after_help = "\
Makes a small object, tries to make it again, which must be refused, and
removes it. In a namespace it does so there, and reads the rest.

Examples:
  rift remote check
  rift remote check --read-only s3://bucket/team")]
    Check {
        /// An address, or a name of the settings
        remote: Option<String>,

        /// Write nothing
        #[arg(long)]
        read_only: bool,
    },
    /// Leave in a folder only what the runs of this job used
    #[command(after_help = "\
Kept are the results that these runs had or made, as far as they are whole, and
the refs that somebody pushed, with their trees. Everything else is removed, so
nobody else may be writing there. Only folders (file://) are pruned.

Examples:
  rift remote prune                    the last step of a job
  rift remote prune --since 2h file:///mnt/share/rift")]
    Prune {
        /// An address, or a name of the settings
        remote: Option<String>,

        /// All runs of the last DURATION instead, such as 45s, 30m, 2h or 1d
        #[arg(long, value_name = "DURATION", value_parser = summary::parse_duration)]
        since: Option<Duration>,
    },
    /// List the remotes of the settings
    #[command(after_help = "\
In a namespace (RIFT_NAMESPACE) its address comes before that of the rest, each
with a third column: `written` or `read`.

Example:
  rift remote list                name or -, tab, address; the default first")]
    List,
}

pub(crate) fn run(args: &Args, context: &Context) -> anyhow::Result<ExitCode> {
    match &args.command {
        Command::Add { address, name, user } => {
            let text = name.iter().map(|name| format!("{name}=")).chain([address.clone()]);
            let remote = NamedRemote::parse(&text.collect::<String>())?;
            config::add_remote(&settings_file(context, *user)?, &remote)?;
        }
        Command::Check { remote, read_only } => check(remote.as_deref(), *read_only, context)?,
        Command::Prune { remote, since } => prune(remote.as_deref(), *since, context)?,
        Command::List => {
            let mut out = Out::new();
            for remote in context.config.remotes() {
                let name = remote.name.as_deref().unwrap_or("-");
                let parts = remotes::parts(&remote.address, &context.config)?;
                let [own, main] = parts.as_slice() else {
                    writeln!(out, "{name}\t{}", remote.address)?;
                    continue;
                };
                let use_of_own = if own.is_read_only() { "read" } else { "written" };
                writeln!(out, "{name}\t{own}\t{use_of_own}\n{name}\t{main}\tread")?;
            }
            out.finish()?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn settings_file(context: &Context, is_user: bool) -> anyhow::Result<PathBuf> {
    if is_user {
        let path = config::user_file().ok_or_else(|| anyhow!("there is no place for settings"));
        return path.hint("set HOME or XDG_CONFIG_HOME");
    }
    let project = config::project_file(&context.cwd);
    Ok(project.unwrap_or_else(|| context.cwd.join(PROJECT_FILE)))
}

fn check(remote: Option<&str>, read_only: bool, context: &Context) -> anyhow::Result<()> {
    let started = Instant::now();
    let address = address(remote, context)?;
    let refusal = remotes::refusal(&context.config);
    let writes = !read_only && !address.is_read_only() && refusal.is_none();
    let opened = open(&address, writes, context)?;
    let address = opened.address();
    opened.check(writes).with_context(|| format!("{address} does not work"))?;
    if !context.ui.is_quiet {
        let what = if writes { "read and written" } else { "read" };
        let time = ui::duration(started.elapsed());
        context.ui.note(&format!("{address} can be {what} ({time})"));
    }
    Ok(())
}

fn prune(remote: Option<&str>, since: Option<Duration>, context: &Context) -> anyhow::Result<()> {
    let address = address(remote, context)?;
    let runs = summary::of_job(summary::existing_store(context)?.as_ref(), since)?;
    let (runs, _) = runs
        .ok_or_else(|| anyhow!("this is no job of a CI system"))
        .hint("`--since 2h` takes the runs of that time")?;
    let mut plans: Vec<TreeHash> = runs
        .iter()
        .flat_map(|run| &run.plans)
        .filter_map(|plan| TreeHash::from_hex(plan.as_bytes()).ok())
        .collect();
    plans.sort();
    plans.dedup();
    let refs: Vec<&str> = runs.iter().flat_map(|run| &run.refs).map(String::as_str).collect();
    if plans.is_empty() && refs.is_empty() {
        if !context.ui.is_quiet {
            context.ui.note("no run says what it needs, so everything stays");
        }
        return Ok(());
    }
    let lineages = &[LINEAGE, CARGO_LINEAGE, ACTIONS];
    let needs = Needs { plans: &plans, lineages, refs: &refs };
    let opened = open(&address, false, context)?;
    let pruned = remote::prune(&opened, &needs, &keys::trusted()?)
        .with_context(|| format!("could not prune {address}"))?;
    if !context.ui.is_quiet {
        context.ui.note(&format!(
            "{address} has {} result{} of {} ({}); {} objects are gone ({})",
            pruned.plans,
            if pruned.plans == 1 { "" } else { "s" },
            plans.len(),
            ui::size(pruned.kept_bytes),
            ui::count(pruned.removed as u64),
            ui::size(pruned.removed_bytes)
        ));
    }
    Ok(())
}

/// Returns the address that the user means: one that is given, one of the settings by its name, or the first.
pub(crate) fn address(given: Option<&str>, context: &Context) -> anyhow::Result<Address> {
    let known = context.config.remotes();
    match given {
        Some(text) if text.contains("://") => Ok(Address::parse(text)?),
        Some(name) => {
            let found = known.iter().find(|remote| remote.name.as_deref() == Some(name));
            let found = found.ok_or_else(|| anyhow!("no remote is called `{name}`"));
            found.map(|remote| remote.address.clone()).hint("`rift remote list` lists them")
        }
        None => {
            let first = known.first().ok_or_else(|| anyhow!("there is no remote"));
            let hint = "`rift remote add ADDRESS` adds one; RIFT_REMOTE names one for a command";
            first.map(|remote| remote.address.clone()).hint(hint)
        }
    }
}

/// Fails where this run may write to no remote.
pub(crate) fn may_write(context: &Context) -> anyhow::Result<()> {
    let refused = remotes::refusal(&context.config).map_or(Ok(()), |why| Err(anyhow!("{why}")));
    refused.hint("RIFT_NAMESPACE names the part of the remote that pull requests may write to")
}

/// Prepares a remote for requests.
pub(crate) fn open(address: &Address, writes: bool, context: &Context) -> anyhow::Result<Remote> {
    remotes::open(address, writes, Limits::default(), &context.config)
        .with_context(|| format!("could not open {address}"))
}

/// Passes on what a remote has to say.
pub(crate) fn tell_remarks(remote: &Remote, context: &Context) {
    remote.remarks().iter().for_each(|remark| context.ui.warn(remark));
}

/// Says what went back and forth.
pub(crate) fn tell_traffic(remote: &Remote, context: &Context) {
    let traffic = remote.traffic();
    context.ui.note(&format!(
        "{} requests ({} GET, {} HEAD, {} PUT, {} other); {} sent, {} received",
        ui::count(traffic.requests()),
        ui::count(traffic.gets),
        ui::count(traffic.heads),
        ui::count(traffic.puts),
        ui::count(traffic.others),
        ui::size(traffic.sent_bytes),
        ui::size(traffic.received_bytes)
    ));
}
