//! `npm ci` and `npm install` under `rift exec`: done from the store where that is certain, else by npm
//! itself, whose result is then learnt where that is sound.

use std::cell::OnceCell;
use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rift_cas::projection::ShownAs;
use rift_cas::remote::Extent;
use rift_cas::{Lease, Store, gc};

use super::shared::{self, Shared};
use super::{Ending, ExecOptions};
use crate::context::Context;
use crate::mount;
use crate::plan;
use crate::plan::npm::planned::{Planned, hardware};
use crate::plan::npm::run::{self, Outcome, Report, Request};
use crate::plan::npm::{self, Env, Install, Recognized};
use crate::plan::show::How;
use crate::report::{Mode, Run, Summary, Tally};

/// Commands of npm after which a project's packages may be others.
const CHANGING: [&str; 8] =
    ["install", "i", "add", "uninstall", "remove", "update", "ci", "dedupe"];

/// Tells whether a command is npm, found on the PATH.
pub(super) fn is_npm(command: &[OsString]) -> bool {
    command.first().and_then(|program| plan::kind_of(program)) == Some(plan::Kind::Npm)
}

/// A run of npm under rift.
struct NpmRun<'a> {
    options: &'a ExecOptions,
    context: &'a Context,
    store: &'a Store,
    /// The store that the run began with: who asks about runs looks there.
    home: &'a Store,
    env: Env,
    started: Instant,
    /// Why things were decided, for `rift why`.
    reasons: Vec<String>,
    /// How trees are shown.
    shown_as: ShownAs,
    /// The key of the plan, where the settings name a remote.
    plans: Vec<String>,
    /// The store on the disk, once it serves because one in memory has no room, or cannot.
    disk: &'a OnceCell<Store>,
    /// Whether it was said that there is no room.
    has_said_full: bool,
    /// What came from a remote stays in the store until the run is over.
    leases: Vec<Lease>,
    /// Bytes that came from a remote.
    received_bytes: u64,
}

/// Runs npm, or does what it would do.
///
/// # Errors
/// Rift itself failed, and is to fail rather than fall back.
pub(super) fn run(
    options: &ExecOptions,
    context: &Context,
    store: &Store,
    started: Instant,
) -> anyhow::Result<Ending> {
    let disk = OnceCell::new();
    let mut run = NpmRun::new(options, context, store, started, &disk);
    let words = &options.command[1..];
    match npm::read(words, &context.cwd, &run.env)? {
        Recognized::Untouched(why) => {
            run.reasons.push(why.to_string());
            run.natively(None)
        }
        Recognized::Install(install) => {
            run.shown_as = run.how_to_show()?;
            if options.record_only {
                run.reasons.push("the command runs to be recorded".to_owned());
                return run.natively(Some(&install));
            }
            run.through_the_store(&install)
        }
    }
}

impl<'a> NpmRun<'a> {
    fn new(
        options: &'a ExecOptions,
        context: &'a Context,
        store: &'a Store,
        started: Instant,
        disk: &'a OnceCell<Store>,
    ) -> Self {
        Self {
            options,
            context,
            store,
            home: store,
            env: Env::current(),
            started,
            reasons: Vec::new(),
            shown_as: ShownAs::Files,
            disk,
            has_said_full: false,
            leases: Vec::new(),
            received_bytes: 0,
            plans: Vec::new(),
        }
    }

    /// Tells how trees are shown, and says why they are not mounted where that was asked for.
    fn how_to_show(&mut self) -> anyhow::Result<ShownAs> {
        if super::is_forgotten(self.context, self.store) {
            return Ok(ShownAs::Files);
        }
        if self.options.is_virtual {
            return Ok(ShownAs::Virtual);
        }
        if self.options.is_private && self.context.config.shows_mounts() {
            let why = "an install is for later commands too";
            self.context.ui.warn(&super::not_mounted(why));
            self.reasons.push(format!("not mounted: {why}"));
            return Ok(ShownAs::Files);
        }
        super::for_all(self.context, self.store, &mut self.reasons)
    }

    fn through_the_store(&mut self, install: &Install) -> anyhow::Result<Ending> {
        if let Some(disk) = self.known_on_disk(install)? {
            self.reasons.push("the store on the disk has the result".to_owned());
            self.turn_to(disk, &install.root)?;
        }
        let mut outcome = self.attempt(install);
        if self.has_no_room(&outcome) && self.makes_room() {
            outcome = self.attempt(install);
        }
        if self.has_no_room(&outcome) && self.spill(&install.root)? {
            outcome = self.attempt(install);
        }
        match outcome {
            Ok(Outcome::Done(report)) => self.finish(install, &report),
            Ok(Outcome::Native(why)) => {
                self.reasons.push(why);
                self.natively(Some(install))
            }
            Err(error) if self.context.config.is_strict() => Err(error),
            Err(error) => {
                self.has_said_full |= self.is_out_of_room(&error);
                self.context.ui.warn(&format!("npm runs itself, because rift failed: {error:#}"));
                self.reasons.push(format!("rift failed: {error:#}"));
                let ending = super::run_command(self.options, self.context)?;
                self.record_missed(ending);
                Ok(ending)
            }
        }
    }

    /// Does an install with the store as it is.
    fn attempt(&mut self, install: &Install) -> anyhow::Result<Outcome> {
        self.bring(install)?;
        let bar = self.context.ui.progress("packages");
        let outcome = self.request(install, &|progress| {
            bar.set_length(progress.total as u64);
            bar.set_position(progress.done as u64);
        });
        bar.finish_and_clear();
        outcome
    }

    /// Opens the store on the disk where it has a result that the one in memory does not have, and may serve it: what it
    /// serves is files.
    fn known_on_disk(&self, install: &Install) -> anyhow::Result<Option<Store>> {
        if self.store.max_bytes().is_none() || !self.context.config.has_cache() {
            return Ok(None);
        }
        let request = self.describe(install, &self.options.command[1..], &|_| {});
        let key = request.key();
        if run::is_known(&request, &key)? {
            return Ok(None);
        }
        let Some(disk) = self.context.existing_disk_store() else { return Ok(None) };
        let serves = match self.shown_as {
            ShownAs::Files => true,
            // It did the last time, for want of room.
            _ => disk
                .projection(&install.root.join("node_modules"))
                .is_ok_and(|known| known.is_some_and(|known| known.is_in_place())),
        };
        let is_known = serves && run::is_known(&Request { store: &disk, ..request }, &key)?;
        Ok(is_known.then_some(disk))
    }

    fn is_out_of_room(&self, error: &anyhow::Error) -> bool {
        crate::context::is_out_of_room(error, self.store)
    }

    fn has_no_room<T>(&self, outcome: &anyhow::Result<T>) -> bool {
        outcome.as_ref().is_err_and(|error| self.is_out_of_room(error))
    }

    /// Makes room in a store in memory; what can't be made room in is full.
    fn makes_room(&mut self) -> bool {
        self.leases.clear();
        self.store.make_room().unwrap_or(false)
    }

    /// Goes on with the store on the disk, because the one in memory has no room; `false` where there can be none.
    fn spill(&mut self, project: &Path) -> anyhow::Result<bool> {
        if self.context.config.is_strict() {
            return Ok(false);
        }
        let Ok(disk) = self.context.disk_store() else { return Ok(false) };
        if disk.root() == self.store.root() {
            return Ok(false);
        }
        let limit = crate::ui::size(self.store.max_bytes().unwrap_or(0));
        let why =
            format!("the store on the disk takes what the one in memory has no room for ({limit})");
        self.has_said_full = true;
        self.context.ui.warn(&why);
        self.reasons.push(why);
        self.turn_to(disk, project)?;
        Ok(true)
    }

    /// Goes on with the store on the disk. What the one in memory shows in this project becomes files.
    fn turn_to(&mut self, disk: Store, project: &Path) -> anyhow::Result<()> {
        for projection in self.store.projections()? {
            let is_here = projection.directory.starts_with(project);
            if is_here && projection.shown_as.has_state() && projection.is_in_place() {
                mount::close(self.store, &projection)?;
            }
        }
        self.shown_as = ShownAs::Files;
        self.store = self.disk.get_or_init(|| disk);
        Ok(())
    }

    /// Brings the result of an install from a remote, where the store does not know it.
    fn bring(&mut self, install: &Install) -> anyhow::Result<()> {
        let has_cache = self.context.config.has_cache();
        let Some(shared) = Shared::new(self.context, self.store).filter(|_| has_cache) else {
            return Ok(());
        };
        let request = self.describe(install, &self.options.command[1..], &|_| {});
        let key = request.key();
        let mut reasons = Vec::new();
        let mut is_known = run::is_known(&request, &key)?;
        if is_known {
            reasons = shared.heed()?;
            // What was denied is not known any more.
            is_known = reasons.is_empty() || run::is_known(&request, &key)?;
        }
        if !is_known {
            let extent = match self.shown_as.has_state() {
                true => self.store.extent_shown(),
                false => Extent::Whole,
            };
            reasons.extend(shared.bring::<Planned>(&key, extent)?);
            self.received_bytes += shared.received_bytes();
            // What was collected by now is missing when it is opened.
            for tree in run::trees_of(self.store, &key)? {
                self.leases.push(self.store.lease(tree)?);
            }
        }
        self.reasons.extend(reasons);
        Ok(())
    }

    /// Sends the result of an install to a remote, where it is new there.
    fn send(&mut self, install: &Install, words: &[OsString]) -> anyhow::Result<()> {
        if let Some(shared) = Shared::new(self.context, self.store)
            && self.context.config.has_cache()
        {
            let key = self.describe(install, words, &|_| {}).key();
            let how =
                shared.send::<Planned>(&key, &format!("{}{}", shared::LINEAGE, install.name()))?;
            self.reasons.extend(how);
            self.plans = vec![key];
        }
        Ok(())
    }

    fn request(
        &self,
        install: &Install,
        progress: &(dyn Fn(npm::package::fetch::Progress) + Sync),
    ) -> anyhow::Result<Outcome> {
        run::run(&self.describe(install, &self.options.command[1..], progress))
    }

    fn describe<'r>(
        &'r self,
        install: &'r Install,
        words: &'r [OsString],
        progress: &'r (dyn Fn(npm::package::fetch::Progress) + Sync),
    ) -> Request<'r> {
        let config = &self.context.config;
        Request {
            store: self.store,
            install,
            env: &self.env,
            words,
            options: run::options(config.threads(), config.verifies_always()),
            has_links: self.context.links(),
            shown_as: self.shown_as,
            has_cache: config.has_cache(),
            has_script_cache: config.has_script_cache(),
            script_env: config.script_env(),
            progress,
        }
    }

    /// Says what npm would have said, and what was saved.
    fn finish(&mut self, install: &Install, report: &Report) -> anyhow::Result<Ending> {
        if let Some(event) = &report.failed_script {
            let why =
                format!("the project's `{event}` script failed with status {}", report.status);
            self.context.ui.warn(&why);
        } else if !install.output.silent {
            self.announce(report)?;
        }
        if let Some(why) = &report.unmountable {
            self.context.fall_back(&format!("the tree is real files instead of a mount: {why}"))?;
            self.reasons.push(format!("not mounted: {why}"));
        }
        for (path, reason) in &report.uncacheable {
            let why = format!("the scripts of `{path}` run each time: {reason}");
            self.reasons.push(why);
        }
        let mut summary = Summary::new(mode(report), &self.options.command);
        summary.reused = Tally { count: report.reused, bytes: report.reused_bytes };
        summary.fetched =
            Tally { count: report.from_cache + report.fetched, bytes: report.fetched_bytes };
        summary.scripts_run = report.scripts_run;
        summary.scripts_reused = report.scripts_reused;
        let original = report.original.as_ref();
        let is_same_hardware = original.is_some_and(|original| original.hardware == hardware());
        let took = original.map(|original| Duration::from_millis(original.elapsed_ms));
        summary.set_times(self.started.elapsed(), took, is_same_hardware);
        if report.failed_script.is_none() {
            self.send(install, &self.options.command[1..])?;
        }
        self.keep(summary, report.stored_bytes)?;
        Ok(Ending::Exited(u8::try_from(report.status).unwrap_or(1)))
    }

    /// Prints the one line that npm ends an install with.
    fn announce(&self, report: &Report) -> anyhow::Result<()> {
        let took = short(self.started.elapsed());
        let plural = if report.added == 1 { "" } else { "s" };
        let line = match (report.is_up_to_date, report.added) {
            (true, _) | (false, 0) => format!("\nup to date in {took}\n"),
            (false, added) => format!("\nadded {added} package{plural} in {took}\n"),
        };
        let mut out = std::io::stdout();
        match out.write_all(line.as_bytes()).and_then(|()| out.flush()) {
            // Nobody listens: npm does not fail for that either.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            other => other.context("could not write to stdout"),
        }
    }

    /// Records the run, makes room in the store, prints the summary.
    fn keep(&mut self, mut summary: Summary, stored_bytes: u64) -> anyhow::Result<()> {
        // What was shown is kept by that, and its packs may go.
        self.leases.clear();
        let added_bytes = stored_bytes + self.received_bytes;
        let upkeep = super::keep_small(self.context, self.store, added_bytes);
        summary.store_bytes = gc::known_size(self.store);
        summary.print(&self.context.ui);
        if let Some(path) = &self.options.summary_json {
            summary.write_json(path)?;
        }
        self.record(Run::begin(summary, &self.context.cwd), upkeep);
        Ok(())
    }

    /// Records the run, with what became of the upkeep before it.
    fn record(&mut self, mut run: Run, upkeep: anyhow::Result<()>) {
        run.reasons = std::mem::take(&mut self.reasons);
        run.plans = std::mem::take(&mut self.plans);
        let saved =
            run.save(self.home).or_else(|error| match std::ptr::eq(self.home, self.store) {
                true => Err(error),
                false => run.save(self.store),
            });
        if let Err(error) = saved.and(upkeep) {
            if self.has_said_full && self.is_out_of_room(&error) {
                return;
            }
            // The project is as it has to be; what failed is bookkeeping.
            self.context.ui.warn(&format!("the run could not be recorded: {error:#}"));
        }
    }

    /// Records that npm did what it is rift's to do, so that nobody has to notice it by the clock.
    fn record_missed(&mut self, ending: Ending) {
        if !ending.is_success() {
            return;
        }
        let mut summary = Summary::new(Mode::Untouched, &self.options.command);
        summary.set_times(self.started.elapsed(), None, true);
        let mut run = Run::begin(summary, &self.context.cwd);
        run.is_missed = true;
        self.record(run, Ok(()));
    }

    /// Runs npm itself and learns its result.
    fn natively(&mut self, install: Option<&Install>) -> anyhow::Result<Ending> {
        let begun = Instant::now();
        let ending = super::run_command(self.options, self.context)?;
        let took = begun.elapsed();
        if !ending.is_success() || !self.context.config.has_cache() {
            return Ok(ending);
        }
        let mut learnt = self.learn(install, took);
        if self.has_no_room(&learnt) && self.makes_room() {
            learnt = self.learn(install, took);
        }
        let project = install.map_or(&self.context.cwd, |install| &install.root);
        if self.has_no_room(&learnt) && !self.has_said_full && self.spill(project)? {
            learnt = self.learn(install, took);
        }
        match learnt {
            Ok(Some(report)) => {
                let mut summary = Summary::new(Mode::Learned, &self.options.command);
                summary.reused = Tally { count: report.reused, bytes: report.reused_bytes };
                summary.fetched = Tally { count: report.from_cache, bytes: report.fetched_bytes };
                summary.scripts_reused = report.scripts_reused;
                summary.set_times(self.started.elapsed(), None, true);
                self.keep(summary, report.stored_bytes)?;
            }
            Ok(None) if install.is_some() || is_whole_install(&self.options.command[1..]) => {
                self.record_missed(ending);
            }
            Ok(None) => {}
            Err(error) if self.context.config.is_strict() => return Err(error),
            Err(error) => {
                self.has_said_full |= self.is_out_of_room(&error);
                self.context.ui.warn(&format!("the run could not be learnt: {error:#}"));
                self.reasons.push(format!("not learnt: {error:#}"));
                self.record_missed(ending);
            }
        }
        Ok(ending)
    }

    /// Learns what an install that ended well has made; `None` when that can't be known.
    fn learn(
        &mut self,
        install: Option<&Install>,
        took: Duration,
    ) -> anyhow::Result<Option<Report>> {
        let is_changing = || {
            let word = self.options.command[1..].iter().find(|word| !is_flag(word));
            word.is_some_and(|word| CHANGING.iter().any(|known| word == known))
        };
        // Read anew: npm may have written the lockfile.
        let words = words_of_ci(&self.options.command[1..]);
        let read = match install.is_some() || is_changing() {
            true => npm::read(&words, &self.context.cwd, &self.env)?,
            false => return Ok(None),
        };
        let install = match read {
            Recognized::Install(install) => install,
            Recognized::Untouched(why) => {
                self.reasons.push(format!("not learnt: {why}"));
                return Ok(None);
            }
        };
        // Only an `npm ci` took what the next one would take.
        let is_ci = self.options.command.get(1).is_some_and(|word| word == "ci");
        let original = is_ci.then_some(took);
        match run::learn(&self.describe(&install, &words, &|_| {}), original)? {
            Ok(report) => {
                self.send(&install, &words)?;
                Ok(Some(report))
            }
            Err(why) => {
                self.reasons.push(format!("not learnt: {why}"));
                Ok(None)
            }
        }
    }
}

/// Tells whether words ask for all that a lockfile names, which is what rift has a plan for.
fn is_whole_install(words: &[OsString]) -> bool {
    let is_global = words.iter().any(|word| word == "-g" || word == "--global");
    let mut words = words.iter().filter(|word| !is_flag(word));
    match words.next().and_then(|word| word.to_str()) {
        Some("ci") => true,
        Some("install" | "i") => words.next().is_none() && !is_global,
        _ => false,
    }
}

fn is_flag(word: &OsStr) -> bool {
    word.as_encoded_bytes().starts_with(b"-")
}

/// Returns the words of the `npm ci` that would give what these words just gave.
fn words_of_ci(words: &[OsString]) -> Vec<OsString> {
    if words.first().is_some_and(|word| word == "ci") {
        return words.to_vec();
    }
    let layout = ["--ignore-scripts", "--legacy-peer-deps", "--no-bin-links", "--omit=dev"];
    let kept = words.iter().filter(|word| layout.iter().any(|known| *word == known)).cloned();
    std::iter::once(OsString::from("ci")).chain(kept).collect()
}

fn mode(report: &Report) -> Mode {
    let is_known = report.from_cache + report.fetched + report.scripts_run == 0;
    match report.how {
        _ if !is_known => Mode::Partial,
        Some(How::Unchanged) | None => Mode::Repeat,
        Some(_) => Mode::Hit,
    }
}

/// Writes a time as npm does in its last line: `950ms`, `2s`, `1m`.
fn short(time: Duration) -> String {
    let milliseconds = time.as_millis();
    let rounded = |unit: u128| (milliseconds + unit / 2) / unit;
    match milliseconds {
        0..1_000 => format!("{milliseconds}ms"),
        1_000..60_000 => format!("{}s", rounded(1_000)),
        60_000..3_600_000 => format!("{}m", rounded(60_000)),
        _ => format!("{}h", rounded(3_600_000)),
    }
}

/// Shows what a command of npm would do.
///
/// # Errors
/// What the system says.
pub(super) fn plan(
    command: &[OsString],
    context: &Context,
    out: &mut impl std::io::Write,
) -> anyhow::Result<()> {
    let install = match npm::read(&command[1..], &context.cwd, &Env::current())? {
        Recognized::Untouched(why) => {
            writeln!(out, "npm runs untouched: {why}")?;
            return Ok(());
        }
        Recognized::Install(install) => install,
    };
    writeln!(out, "project    {}", show(&install.root))?;
    writeln!(out, "lockfile   {}", install.lock_name)?;
    writeln!(
        out,
        "npm        {} with node {}",
        install.tool.npm_version, install.tool.node_version
    )?;
    writeln!(out, "inputs     {}", install.key())?;
    let Ok(store) = context.existing_store() else {
        writeln!(out, "a miss: there is no store yet")?;
        return Ok(());
    };
    let options = ExecOptions { command: command.to_vec(), ..ExecOptions::default() };
    let started = Instant::now();
    let shown_as = if context.config.shows_virtually() {
        ShownAs::Virtual
    } else if context.config.shows_mounts() && mount::refusal().is_none() {
        ShownAs::Mount
    } else {
        ShownAs::Files
    };
    let disk = OnceCell::new();
    let run = NpmRun { shown_as, ..NpmRun::new(&options, context, &store, started, &disk) };
    let request = run.describe(&install, &command[1..], &|_| {});
    writeln!(out, "key        {}", request.key())?;
    for line in run::foresee(&request)? {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

fn show(path: &Path) -> String {
    crate::ui::printable(&path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_install_of_the_whole_lockfile_is_told_from_others() {
        for (line, expected) in [
            ("ci", true),
            ("--silent ci --no-such-flag", true),
            ("install --no-such-flag", true),
            ("i", true),
            ("i -g", false),
            ("install lodash", false),
            ("run ci", false),
            ("--version", false),
        ] {
            let words: Vec<OsString> = line.split(' ').map(Into::into).collect();
            assert_eq!(is_whole_install(&words), expected, "{line}");
        }
    }

    #[test]
    fn times_are_written_as_npm_writes_them() {
        for (milliseconds, expected) in [
            (0, "0ms"),
            (999, "999ms"),
            (1_000, "1s"),
            (1_499, "1s"),
            (1_500, "2s"),
            (59_400, "59s"),
            (60_000, "1m"),
            (5_400_000, "2h"),
        ] {
            assert_eq!(short(Duration::from_millis(milliseconds)), expected);
        }
    }
}
