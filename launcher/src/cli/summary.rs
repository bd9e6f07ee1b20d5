//! `rift summary`: the closing block of a job, from what its runs have recorded.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, anyhow};
use rift_cas::Store;

use crate::config::{Config, Id};
use crate::context::Context;
use crate::exec::child;
use crate::hint::Hint as _;
use crate::job::Job;
use crate::place::Place;
use crate::report::{Mode, Run};
use crate::ui::{self, Out, Ui};
use crate::{ci, env_vars};

/// Show what the runs of a job did, and what was saved
#[derive(Debug, clap::Args)]
#[command(after_help = "\
In CI it shows all runs of this job, elsewhere the last one. Original times are
those recorded when a result was made; without one the line is left out. The
hit rate is how many packages came from the store, of all that runs asked for.

In GitHub Actions the summary of the job gets it too ($GITHUB_STEP_SUMMARY).
Where a floor is set and missed, or a command that rift has a plan for ran
itself, there is a warning, in GitHub Actions an annotation; RIFT_STRICT=1 fails
then.

Examples:
  rift summary
  rift summary --since 2h --json
  rift summary --floor 90              the last step of a job")]
pub(crate) struct Args {
    /// All runs of the last DURATION instead, such as 45s, 30m, 2h or 1d
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    since: Option<Duration>,

    /// Warn when less than PERCENT came from the store [env: RIFT_FLOOR]
    #[arg(long, value_name = "PERCENT")]
    floor: Option<OsString>,

    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Append Markdown to FILE
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    markdown: Option<PathBuf>,

    /// Print the line to share, as on a terminal
    #[arg(long, conflicts_with = "json")]
    share: bool,
}

/// Takes the flags over into the settings.
pub(crate) fn set_flags(args: &Args, config: &mut Config, cwd: &Path) -> anyhow::Result<()> {
    match &args.floor {
        Some(floor) => config.set_flag(Id::Floor, "--floor", floor, cwd),
        None => Ok(()),
    }
}

pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let units = [("s", 1), ("min", 60), ("m", 60), ("h", 3600), ("d", 86_400)];
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let seconds = units.iter().find(|(name, _)| *name == unit).map(|(_, seconds)| *seconds);
    let seconds = number.parse::<u64>().ok().zip(seconds);
    let seconds = seconds.and_then(|(number, seconds)| number.checked_mul(seconds));
    seconds.map(Duration::from_secs).ok_or_else(|| "expected 45s, 30m, 2h or 1d".to_owned())
}

pub(crate) fn run(args: &Args, context: &Context) -> anyhow::Result<ExitCode> {
    let floor = context.config.floor();
    let job = Job::new(runs(args, context)?, &context.cwd, floor);
    let ui = Ui::of_stdout(context.config.color(), context.config.is_quiet());
    let mut out = Out::new();
    if args.json {
        writeln!(out, "{:#}", job.json())?;
    } else {
        if !ui.is_quiet {
            writeln!(out, "{}", job.block(&ui))?;
        }
        let is_shared = args.share || (ui.is_terminal && !ui.is_quiet);
        if let Some(line) = job.share().filter(|_| is_shared) {
            writeln!(out, "{line}")?;
        }
    }
    let shortfalls = job.shortfalls();
    let is_strict = context.config.is_strict();
    for shortfall in shortfalls.iter().map(|text| ui::printable(text)) {
        match (ci::is_github(), args.json) {
            (true, false) => writeln!(out, "{}", ci::annotation("rift", &shortfall))?,
            // The runner reads stderr as well.
            (true, true) => context.ui.command(&ci::annotation("rift", &shortfall)),
            (false, _) if !is_strict => context.ui.warn(&shortfall),
            (false, _) => {}
        }
    }
    out.finish()?;
    let of_github = env_vars::get(env_vars::GITHUB_STEP_SUMMARY).map(PathBuf::from);
    let files = args.markdown.iter().cloned().chain(of_github);
    let mut files: Vec<PathBuf> = files.map(|path| context.cwd.join(path)).collect();
    files.dedup();
    if !files.is_empty() {
        let text = job.markdown();
        for file in files {
            append(&file, &text)?;
        }
    }
    if is_strict && !shortfalls.is_empty() {
        context.ui.error(&anyhow!("{}", shortfalls.join("; ")));
        return Ok(ExitCode::from(child::FAILED));
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the runs that were asked for, the first one first.
fn runs(args: &Args, context: &Context) -> anyhow::Result<Vec<Run>> {
    let store = existing_store(context)?;
    let (mut found, unreadable) = match (of_job(store.as_ref(), args.since)?, &store) {
        (Some(found), _) => found,
        (None, Some(store)) => last(store)?,
        (None, None) => return Ok(Vec::new()),
    };
    if unreadable > 0 {
        let plural = if unreadable == 1 { "" } else { "s" };
        context.ui.warn(&format!(
            "{unreadable} recorded run{plural} can't be read: damaged, or of another version of rift"
        ));
    }
    found.reverse();
    Ok(found)
}

/// Opens the store, if there is one.
pub(super) fn existing_store(context: &Context) -> anyhow::Result<Option<Store>> {
    match context.place() {
        Place::Folder { path, .. } => Store::open_existing(path)
            .with_context(|| format!("could not open the store `{}`", path.display())),
        Place::Nowhere { .. } => Ok(None),
    }
}

/// Returns the runs of so long ago, or else those of this job, the last one first, and how many can't be read; `None` where this is no
/// job and no time was given.
pub(super) fn of_job(
    store: Option<&Store>,
    since: Option<Duration>,
) -> anyhow::Result<Option<(Vec<Run>, u64)>> {
    let job = ci::here().and_then(|ci| ci.job);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let begin = since.map(|duration| now.saturating_sub(duration).as_millis());
    if begin.is_none() && job.is_none() {
        return Ok(None);
    }
    let Some(store) = store else { return Ok(Some((Vec::new(), 0))) };
    let is_wanted = |run: &Run| match begin {
        Some(begin) => u128::from(run.started_ms) >= begin,
        None => run.job == job,
    };
    let mut found = Vec::new();
    let unreadable = Run::visit(store, |run| {
        found.extend(Some(run).filter(is_wanted));
        true
    })?;
    Ok(Some((found, unreadable)))
}

/// Returns the last run, before those after it that rift left alone: these are not what somebody asks about who installed before them.
fn last(store: &Store) -> anyhow::Result<(Vec<Run>, u64)> {
    let is_left_alone = |run: &Run| run.summary.mode == Mode::Untouched && !run.is_missed;
    let mut found = Vec::new();
    let unreadable = Run::visit(store, |run| {
        let is_end = !is_left_alone(&run);
        if is_end || found.is_empty() {
            found = vec![run];
        }
        !is_end
    })?;
    Ok((found, unreadable))
}

/// Adds text to the end of a file, as a paragraph of its own.
fn append(path: &Path, text: &str) -> anyhow::Result<()> {
    let written = OpenOptions::new().append(true).create(true).open(path).and_then(|mut file| {
        let is_empty = file.metadata()?.len() == 0;
        // One write(2), so that what others append goes before it or after it.
        file.write_all(format!("{}{text}", if is_empty { "" } else { "\n\n" }).as_bytes())
    });
    written
        .with_context(|| format!("could not append the summary to `{}`", path.display()))
        .hint("name a file that can be written, with `--markdown` or GITHUB_STEP_SUMMARY")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        for (text, seconds) in [
            ("45s", Some(45)),
            ("30m", Some(1800)),
            ("30min", Some(1800)),
            ("2h", Some(7200)),
            ("1d", Some(86_400)),
            ("5", None),
            ("", None),
            ("h", None),
            ("-1h", None),
            ("1.5h", None),
            ("99999999999999999999d", None),
            ("999999999999999999d", None),
        ] {
            assert_eq!(parse_duration(text).ok().map(|time| time.as_secs()), seconds, "{text}");
        }
    }
}
