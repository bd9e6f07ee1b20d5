//! `rift store`: the store's place, and its care.

use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use rift_cas::log::Topic;
use rift_cas::purge::{self, Banned, Purged, What};
use rift_cas::remote::address::Address;
use rift_cas::remote::denied::{self, Denial};
use rift_cas::verify::{self, Severity};
use rift_cas::{Store, gc, stats};
use rift_tree::{BlobHash, TreeHash};

use crate::cli::remote;
use crate::context::Context;
use crate::hint::Hint as _;
use crate::place::Place;
use crate::plan::npm::package::facts::Known;
use crate::ui::{self, Out, Style};
use crate::{config, keys, remotes};

/// Look after the store
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Count what is in the store
    #[command(after_help = "\
Examples:
  rift store stats
  rift store stats --json | jq .disk_bytes")]
    Stats {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },

    /// Read every byte of the store and check it
    #[command(after_help = "\
Each finding is a line: damage (bytes are not what they were) or litter (what a
killed process left; nothing is lost). A repair keeps what is whole, puts the
rest aside, and the next run fetches it anew.

Exit status: 0 whole, 1 damaged and not repaired.

Examples:
  rift store verify
  rift store verify --repair")]
    Verify {
        /// Mend what can be mended; waits until nobody else uses the store
        #[arg(long)]
        repair: bool,
    },

    /// Remove what nothing needs, and make the store smaller
    #[command(after_help = "\
Refs, directories that still are what rift wrote, running commands and recent
results keep their trees. To reach a size, results go that were not used for
longest.

Examples:
  rift store gc --dry-run
  rift store gc --max-size 5GB")]
    Gc {
        /// How large the store may be afterwards [env: RIFT_MAX_SIZE]
        #[arg(long, value_name = "SIZE", value_parser = parse_size)]
        max_size: Option<u64>,

        /// Only tell what would go
        #[arg(short = 'n', long)]
        dry_run: bool,
    },

    /// Remove content for ever: it is never taken in again
    #[command(after_help = "\
Every tree that has it goes too. What other packages share with a purged one
stays.
Each remote of the settings gets it on its deny-list, signed with your key:
nobody who uses the remote is served it any more, and their stores purge it.
Plans and refs there that name it are removed.

Examples:
  rift store purge event-stream@3.3.6
  rift store purge --local left-pad@1.3.0
  rift store purge 2f79ea871dbbba4c76e12cbd866e794eab35f7a5c7d842ab0409fc17103d57e5")]
    Purge {
        /// A package, or the whole hash of a tree or blob
        #[arg(value_name = "NAME@VERSION|HASH")]
        what: String,

        /// An address, or a name of the settings [default: all of them]
        #[arg(long, value_name = "REMOTE", conflicts_with = "local")]
        remote: Option<String>,

        /// Leave the remotes as they are
        #[arg(long)]
        local: bool,
    },

    /// Print where the store is, or would be
    #[command(after_help = "\
RIFT_STORE names another place. Without it, the store is on the project's file
system: in your data folder when that is there, else in a folder of yours
beside the project. With `--tier ram` it is in a folder of yours in memory.

Example:
  du -sh \"$(rift store path)\"")]
    Path,
}

fn parse_size(text: &str) -> Result<u64, String> {
    config::parse_size(text).ok_or_else(|| format!("expected {}", config::Kind::Bytes))
}

pub(crate) fn run(args: &Args, context: &Context) -> anyhow::Result<ExitCode> {
    match &args.command {
        Command::Stats { json } => count(*json, context),
        Command::Verify { repair } => check(*repair, context),
        Command::Gc { max_size, dry_run } => collect(*max_size, *dry_run, context),
        Command::Purge { what, remote, local } => {
            remove(what, (remote.as_deref(), *local), context)
        }
        Command::Path => path(context),
    }
}

fn path(context: &Context) -> anyhow::Result<ExitCode> {
    let path = context.store_path()?;
    let mut out = Out::new();
    out.name(path.as_os_str().as_bytes())?;
    out.write_all(b"\n")?;
    out.finish()?;
    if let (Place::Folder { reason, .. }, true) = (context.place(), context.ui.is_terminal)
        && !context.ui.is_quiet
    {
        context.ui.note(&context.ui.paint(Style::Dim, reason.text()));
    }
    Ok(ExitCode::SUCCESS)
}

fn count(json: bool, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.existing_store()?;
    let stats = stats::stats(&store).context("could not count what is in the store")?;
    let max_bytes = store.max_bytes().or(context.config.max_size());
    // Each figure once: its name in JSON, and its words.
    let bytes = [
        ("disk_bytes", "on the disk", stats.disk_bytes),
        ("unique_bytes", "content, each once", stats.unique_bytes),
        ("pack_bytes", "packs", stats.pack_bytes),
        ("padding_bytes", "padding in packs", stats.padding_bytes),
        ("loose_bytes", "loose blobs", stats.loose_bytes),
        ("tree_bytes", "manifests of trees", stats.tree_bytes),
        ("log_bytes", "log", stats.log_bytes),
    ];
    let counts = [
        ("packs", "packs", stats.packs),
        ("packed_blobs", "blobs in packs", stats.packed_blobs),
        ("packed_manifests", "manifests in packs", stats.packed_manifests),
        ("loose_blobs", "loose blobs", stats.loose_blobs),
        ("trees", "trees", stats.trees),
        ("loose_forms", "trees kept as files", stats.loose_forms),
        ("refs", "refs", stats.refs),
        ("plans", "results of commands", stats.plans),
        ("projections", "projections", stats.projections),
        ("runs", "recorded runs", stats.runs),
        ("log_segments", "segments of the log", stats.log_segments),
    ];
    let mut out = Out::new();
    if json {
        let mut answer = serde_json::Map::new();
        answer.insert("schema".to_owned(), 1.into());
        answer.insert("store".to_owned(), store.root().to_string_lossy().into());
        let tier = if context.config.is_in_memory() { "ram" } else { "disk" };
        answer.insert("tier".to_owned(), tier.into());
        answer.insert("max_bytes".to_owned(), max_bytes.into());
        for (name, _, value) in bytes.into_iter().chain(counts) {
            answer.insert(name.to_owned(), value.into());
        }
        writeln!(out, "{:#}", serde_json::Value::Object(answer))?;
    } else {
        if let Some(max_bytes) = max_bytes {
            let tier = if context.config.is_in_memory() { "memory" } else { "the disk" };
            writeln!(out, "{:>12}  of {tier} may be used", ui::size(max_bytes))?;
        }
        for (_, words, value) in bytes {
            let words = match (words, context.config.is_in_memory()) {
                ("on the disk", true) => "in memory",
                (words, _) => words,
            };
            writeln!(out, "{:>12}  {words}", ui::size(value))?;
        }
        for (_, words, value) in counts {
            writeln!(out, "{:>12}  {words}", ui::count(value))?;
        }
    }
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}

fn check(repair: bool, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.existing_store()?;
    let bar = context.ui.progress("MB read");
    let report = verify::verify(&store, repair, &|progress| {
        bar.set_position(progress.done_bytes / 1_000_000);
    });
    bar.finish_and_clear();
    let report = report.context("could not verify the store")?;
    let mut out = Out::new();
    for finding in &report.findings {
        let word = match finding.severity {
            Severity::Litter => "litter",
            Severity::Damage => "damage",
        };
        let path = finding.path.strip_prefix(store.root()).unwrap_or(&finding.path);
        let mended = if finding.is_repaired { " (mended)" } else { "" };
        write!(out, "{word}  ")?;
        out.name(path.as_os_str().as_bytes())?;
        writeln!(out, ": {}; {}{mended}", ui::printable(&finding.what), finding.meaning)?;
    }
    out.finish()?;
    let is_damaged = report
        .findings
        .iter()
        .any(|finding| finding.severity == Severity::Damage && !finding.is_repaired);
    if !context.ui.is_quiet {
        context.ui.note(&format!(
            "{}: {} packs, {} blobs, {} trees, {} read",
            match (is_damaged, report.is_whole()) {
                (true, _) => "damaged",
                (false, true) => "the store is whole",
                (false, false) => "all damage is mended",
            },
            ui::count(report.packs as u64),
            ui::count(report.blobs as u64),
            ui::count(report.trees as u64),
            ui::size(report.bytes)
        ));
        if is_damaged && !repair {
            context.ui.note("`rift store verify --repair` keeps what is whole");
        }
    }
    Ok(ExitCode::from(u8::from(is_damaged)))
}

fn collect(max_size: Option<u64>, dry_run: bool, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.existing_store()?;
    let max_bytes = max_size.or_else(|| context.cap(&store));
    let options = gc::Options { max_bytes, dry_run, ..gc::Options::default() };
    let collected = gc::collect(&store, &options).context("could not make the store smaller")?;
    let mut out = Out::new();
    let verb = if dry_run { "would go" } else { "removed" };
    for (count, words) in [
        (collected.plans.len(), "results of commands"),
        (collected.trees, "trees"),
        (collected.packs, "packs"),
        (collected.loose_blobs, "loose blobs"),
        (collected.log_records, "records of packages"),
        (collected.projections, "records of projections"),
        (collected.runs, "records of runs"),
        (collected.leftovers, "leftovers"),
    ] {
        if count > 0 {
            writeln!(out, "{verb}  {:>8}  {words}", ui::count(count as u64))?;
        }
    }
    let (before, after) = (ui::size(collected.bytes_before), ui::size(collected.bytes_after));
    writeln!(out, "size     {before} → {after}")?;
    out.finish()?;
    if let Some(limit) = max_size.filter(|limit| collected.bytes_after > *limit) {
        context.ui.warn(&format!(
            "what is needed takes more than {}: refs, directories that are there, running commands \
             and what was used just now are kept",
            ui::size(limit)
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Purges what a text means here, and then on the remotes.
fn remove(
    text: &str,
    (remote, is_local): (Option<&str>, bool),
    context: &Context,
) -> anyhow::Result<ExitCode> {
    let store = context.existing_store()?;
    // What can't be denied is told before anything is gone.
    let remotes = match is_local {
        true => Vec::new(),
        false => deniers(remote, context)?,
    };
    let mut out = Out::new();
    let mut all = Vec::new();
    for what in meant(&store, text)? {
        let purged = purge::purge(&store, &what).context("could not purge it")?;
        writeln!(
            out,
            "removed  {} trees, {} records, {} blobs; {} packs rewritten or removed",
            ui::count(purged.trees as u64),
            ui::count(purged.records as u64),
            ui::count(purged.blobs as u64),
            ui::count(purged.packs as u64)
        )?;
        all.push(purged);
    }
    let mut failed = Ok(());
    for address in &remotes {
        match deny(address, &store, &all, context) {
            Ok(denial) => writeln!(
                out,
                "denied   {} entries, {} plans and refs removed at {address}",
                ui::count(denial.added as u64),
                ui::count(denial.removed as u64)
            )?,
            Err(error) => {
                let mut names = all.iter().flat_map(|purged| &purged.banned).map(Banned::name);
                let name = names.next_back().map(|name| BlobHash::from_bytes(name).to_string());
                let again =
                    format!("`rift store purge {}` tries that again", name.unwrap_or_default());
                let what = format!("it is purged here, but not at {address}");
                failed = failed.and(Err(error).context(what).hint(again));
            }
        }
    }
    out.finish()?;
    failed.map(|()| ExitCode::SUCCESS)
}

/// Returns the remotes that get to know of a purge: the one that is named, or those of the settings. Says why where they don't.
fn deniers(remote: Option<&str>, context: &Context) -> anyhow::Result<Vec<Address>> {
    let addresses: Vec<Address> = match remote {
        Some(_) => vec![remote::address(remote, context)?],
        None => context.config.remotes().iter().map(|known| known.address.clone()).collect(),
    };
    if addresses.is_empty() {
        return Ok(addresses);
    }
    let why = match (remotes::refusal(&context.config), keys::private()?) {
        (Some(why), _) => why,
        (None, None) => "you have no key to sign with; `rift key new` makes one",
        (None, Some(_)) => {
            let (written, read): (Vec<Address>, Vec<Address>) =
                addresses.into_iter().partition(|address| !address.is_read_only());
            for address in read {
                context.ui.warn(&format!("{address} keeps it: it can only be read"));
            }
            return Ok(written);
        }
    };
    if remote.is_some() {
        bail!("it can't be denied there: {why}");
    }
    context.ui.warn(&format!("the remotes keep it: {why}"));
    Ok(Vec::new())
}

/// Adds what was purged to the deny-list of a remote.
fn deny(
    address: &Address,
    store: &Store,
    purged: &[Purged],
    context: &Context,
) -> anyhow::Result<Denial> {
    let key = keys::private()?.context("there is no key to sign with")?;
    let opened = remote::open(address, true, context)?;
    let denial = denied::deny(&opened, store, purged, (&key, &keys::trusted()?));
    remote::tell_remarks(&opened, context);
    Ok(denial?)
}

/// Returns what is to be purged: each way in which a package is known, or a tree or blob.
fn meant(store: &Store, text: &str) -> anyhow::Result<Vec<What>> {
    if let (Ok(tree), Ok(blob)) =
        (TreeHash::from_hex(text.as_bytes()), BlobHash::from_hex(text.as_bytes()))
    {
        let is_tree = purge::has(store, &What::Tree(tree))?;
        // A tree that was purged before.
        let is_purged_tree = !is_tree
            && store.log()?.get(Topic::Purged, tree.as_bytes()).is_some_and(|set| !set.is_empty());
        // What is not here yet is refused from here on, as a tree and as a blob.
        return Ok(match (is_tree || is_purged_tree, purge::has(store, &What::Blob(blob))?) {
            (true, false) => vec![What::Tree(tree)],
            (false, true) => vec![What::Blob(blob)],
            _ => vec![What::Tree(tree), What::Blob(blob)],
        });
    }
    // A scope begins with @, too.
    let split =
        text.rsplit_once('@').filter(|(name, version)| !name.is_empty() && !version.is_empty());
    let (name, version) = split
        .ok_or_else(|| anyhow!("`{}` is neither NAME@VERSION nor a whole hash", ui::printable(text)))
        .hint("a blob or tree has 64 hexadecimal digits; `rift refs` and `rift ingest` print those of trees")?;
    let log = store.log()?;
    let found: Vec<What> = log
        .topic(Topic::Package)
        .filter_map(|(key, payload)| Some((*key, Known::decode(payload)?)))
        .filter(|(_, known)| known.facts.name == name && known.facts.version == version)
        .map(|(key, known)| What::Package { key, tree: Some(known.tree) })
        .collect();
    if found.is_empty() {
        let unknown: anyhow::Result<_> =
            Err(anyhow!("the store has no package {}", ui::printable(text)));
        return unknown.hint("names and versions are those of its package.json");
    }
    Ok(found)
}
