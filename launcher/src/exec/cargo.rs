//! `cargo build` and its like under `rift exec`: what an earlier build left in `target` is put back where it is missing, cargo runs, and
//! what it leaves is kept.
//!
//! Cargo always runs, and says itself what it compiles. So what goes wrong here costs time only.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rift_cas::materialize::Options;
use rift_cas::projection::ShownAs;
use rift_cas::remote::Extent;
use rift_cas::{Lease, Store, gc};

use super::actions::{self, Told};
use super::shared::{self, Shared};
use super::{Ending, ExecOptions};
use crate::ci;
use crate::context::Context;
use crate::plan::cargo::args::{self, Args};
use crate::plan::cargo::project::Project;
use crate::plan::cargo::snapshot::{self, MadeOf, Means, Restored, Snapshot};
use crate::plan::cargo::sources::Sources;
use crate::plan::npm::planned::{Original, hardware};
use crate::plan::npm::run::options as write_options;
use crate::plan::shareable::Shareable as _;
use crate::plan::{self, show};
use crate::report::{Mode, Processes, Run, Summary, Tally};

/// Tells whether a command is cargo, found on the PATH.
pub(super) fn is_cargo(command: &[std::ffi::OsString]) -> bool {
    command.first().and_then(|program| plan::kind_of(program)) == Some(plan::Kind::Cargo)
}

/// Keeping what a build has left that went on with its `target` may take this part of its time: what was changed since the last one is soon
/// compiled again.
const KEEPING: u128 = 10;

/// A build that rift has something to do with.
struct Build<'a> {
    options: &'a ExecOptions,
    context: &'a Context,
    store: &'a Store,
    args: Args,
    reasons: Vec<String>,
    /// How what is known is put back.
    shown_as: ShownAs,
    /// What came from a remote stays in the store until the run is over.
    leases: Vec<Lease>,
    /// Bytes that the store grew by.
    added_bytes: u64,
    /// The keys of its result, where the settings name a remote.
    plans: Vec<String>,
}

/// What is known of a build before it begins.
struct Begun {
    project: Project,
    sources: Sources,
    keys: Keys,
    /// There was nothing of it before.
    is_clean: bool,
    /// What was put back, and whether it was made of the same sources.
    restored: Option<(Snapshot, Restored, bool)>,
}

impl Begun {
    /// Tells whether what a build of the same sources left was put back.
    fn is_exact(&self) -> bool {
        self.restored.as_ref().is_some_and(|(_, _, is_exact)| *is_exact)
    }
}

/// Under what builds are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Keys {
    /// A build of the same sources.
    exact: String,
    /// The first one with the same lockfile: what others find who have no build of theirs.
    locked: String,
    /// The last one here of all like it.
    nearest: String,
    /// The programs of builds with the same lockfile.
    programs: String,
}

/// Runs cargo.
///
/// # Errors
/// Rift itself failed, and is to fail rather than fall back.
pub(super) fn run(
    options: &ExecOptions,
    context: &Context,
    store: &Store,
    started: Instant,
) -> anyhow::Result<Ending> {
    let args = match args::read(&options.command[1..]) {
        Ok(args) if context.config.has_cache() => args,
        Ok(_) => return super::run_untouched(options, context, started),
        Err(why) => {
            let ending = super::run_untouched(options, context, started)?;
            super::record(store, options, context, started, vec![why]);
            return Ok(ending);
        }
    };
    let mut build = Build::new(options, context, store, args);
    let begun = match build.begin() {
        Ok(begun) => Some(begun),
        Err(error) if context.config.is_strict() => return Err(error),
        Err(error) => {
            build.reasons.push(format!("nothing is kept of it: {error:#}"));
            None
        }
    };
    let (compiling, since_ns) = (Instant::now(), snapshot::now_ns());
    let is_exact = begun.as_ref().is_some_and(Begun::is_exact);
    let (ending, mut told) = match &begun {
        // Else cargo has nothing to compile, or nobody has asked for a library in all that it starts.
        Some(begun) if !is_exact && !options.is_hooked => {
            // Else somebody is at work here; others may need what a job has made.
            let keeps_all =
                begun.is_clean || options.record_only || ci::here().is_some() || options.compares;
            let (root, key) = (&begun.project.root, Some(&*begun.keys.programs));
            let bounds = begun.project.bounds();
            let watched = context.config.keeps_targets().then_some(&bounds);
            let project = actions::Project { root, key, watched, spares_edits: !keeps_all };
            actions::run_command(options, context, store, &project)?
        }
        _ => {
            let (ending, reasons) = super::run_told(options, context)?;
            build.reasons.extend(reasons);
            (ending, Told::default())
        }
    };
    let took = compiling.elapsed();
    build.reasons.extend(told.reasons());
    let mut summary = Summary::new(Mode::Untouched, &options.command);
    summary.unit = "crate".to_owned();
    if let Some(begun) = begun.filter(|_| ending.is_success()) {
        match build.end(begun, (took, since_ns), &mut told, &mut summary) {
            Ok(()) => {}
            Err(error) if context.config.is_strict() => return Err(error),
            Err(error) => {
                context.ui.warn(&format!("the build could not be kept: {error:#}"));
                build.reasons.push(format!("not kept: {error:#}"));
            }
        }
    }
    summary.processes = told.counts();
    let Processes { reused, run, .. } = summary.processes;
    if reused > 0 && matches!(summary.mode, Mode::Untouched | Mode::Learned) {
        summary.mode = Mode::Partial;
        summary.unit = "process".to_owned();
        summary.reused = Tally { count: reused, bytes: 0 };
        summary.built = Tally { count: run, bytes: 0 };
    }
    let upkeep = super::keep_small(context, store, build.added_bytes + told.stored_bytes());
    summary.store_bytes = gc::known_size(store);
    let original = summary.original_ms.map(Duration::from_millis);
    let is_same_hardware = !summary.original_on_other_hardware;
    summary.set_times(started.elapsed(), original, is_same_hardware);
    summary.print(&context.ui);
    if let Some(path) = &options.summary_json {
        summary.write_json(path)?;
    }
    let mut run = Run::begin(summary, &context.cwd);
    run.reasons = build.reasons;
    run.parts = told.parts();
    run.refs = told.refs();
    run.plans = build.plans;
    if let Err(error) = run.save(store).and(upkeep) {
        context.ui.warn(&format!("the run could not be recorded: {error:#}"));
    }
    Ok(told.ending(ending))
}

impl<'a> Build<'a> {
    fn new(options: &'a ExecOptions, context: &'a Context, store: &'a Store, args: Args) -> Self {
        let (reasons, leases) = (Vec::new(), Vec::new());
        Self {
            options,
            context,
            store,
            args,
            reasons,
            shown_as: ShownAs::Files,
            leases,
            added_bytes: 0,
            plans: Vec::new(),
        }
    }

    fn means(&self) -> Means<'_> {
        let config = &self.context.config;
        // Cargo gives what it makes a second name, and looks whether that still is one.
        let options = write_options(config.threads(), config.verifies_always());
        let options = Options { links_twins: true, ..options };
        let sets_times = config.sets_source_times();
        Means { store: self.store, options, shown_as: self.shown_as, sets_times }
    }

    /// Finds out what is to be built, and puts back what is known of it.
    fn begin(&mut self) -> anyhow::Result<Begun> {
        let project = Project::find(self.store, &self.args, &self.context.cwd)?;
        let _lock = show::lock_project(&project.root)?;
        let mut begun = self.look(project)?;
        if self.options.record_only {
            self.reasons.push("the command runs to be recorded".to_owned());
        } else if self.options.compares {
            self.reasons.push("the command runs to be compared with what is known".to_owned());
        } else if !self.context.config.keeps_targets() {
            self.reasons.push("`target_cache` is off: only programs are known".to_owned());
        } else if begun.is_clean {
            self.put_back(&mut begun)?;
        } else {
            self.reasons.push("`target` is there: cargo goes on with it".to_owned());
        }
        Ok(begun)
    }

    /// Looks at the workspace as it is.
    fn look(&self, project: Project) -> anyhow::Result<Begun> {
        let means = self.means();
        let (sources, key) = project.look(means, &self.args, &self.context.cwd)?;
        let of = |what: &str, hash: &str| {
            blake3::hash(format!("{what} {key} {hash}").as_bytes()).to_hex().to_string()
        };
        let keys = Keys {
            exact: of("exact", sources.hash().to_hex().as_str()),
            locked: of("locked", sources.hash_of("Cargo.lock").unwrap_or_default()),
            programs: of("programs", sources.hash_of("Cargo.lock").unwrap_or_default()),
            nearest: key,
        };
        let is_clean = snapshot::is_missing(&project.target, &self.args.profile)?;
        Ok(Begun { project, sources, keys, is_clean, restored: None })
    }

    fn put_back(&mut self, begun: &mut Begun) -> anyhow::Result<()> {
        self.shown_as = super::for_all(self.context, self.store, &mut self.reasons)?;
        let extent = match self.shown_as.has_state() {
            true => self.store.extent_shown(),
            false => Extent::Whole,
        };
        let Keys { exact, locked, nearest, .. } = begun.keys.clone();
        let shared = Shared::new(self.context, self.store);
        if let Some(shared) = &shared {
            self.reasons.extend(shared.heed()?);
        }
        for (key, is_exact, is_far) in
            [(&exact, true, true), (&nearest, false, false), (&locked, false, true)]
        {
            let mut found =
                Snapshot::find(self.store, key)?.filter(|known| known.is_here(self.means()));
            if let Some(shared) = shared.as_ref().filter(|_| found.is_none() && is_far) {
                self.reasons.extend(shared.bring::<Snapshot>(key, extent)?);
                self.added_bytes = shared.received_bytes();
                found = Snapshot::find(self.store, key)?;
                for tree in found.iter().filter_map(Snapshot::trees).flatten() {
                    // What was collected by now is missing when it is opened.
                    self.leases.push(self.store.lease(tree)?);
                }
            }
            let Some(found) = found else { continue };
            match found.restore(self.means(), &begun.project, &mut begun.sources) {
                Ok(restored) => {
                    self.store.touch_plan(&snapshot::record_name(key))?;
                    let what = if is_exact { "the same sources" } else { "an earlier state" };
                    self.reasons.push(format!(
                        "what a build of {what} left is there again: {} entries; {} sources have their time of then, {} differ",
                        restored.entries, restored.dated, restored.differ
                    ));
                    if let Some(unit) = &restored.stale {
                        self.reasons
                            .push(format!("what `{unit}` was made of is something else now"));
                    }
                    let is_exact = is_exact && restored.stale.is_none();
                    begun.restored = Some((found, restored, is_exact));
                    return Ok(());
                }
                Err(error) if self.context.config.is_strict() => return Err(error),
                Err(error) => self.reasons.push(format!("a snapshot is not used: {error:#}")),
            }
        }
        self.reasons.push("nothing like it was built before".to_owned());
        Ok(())
    }

    /// Keeps what the build has left, where that is worth it.
    fn end(
        &mut self,
        begun: Begun,
        (took, since_ns): (Duration, i64),
        told: &mut Told,
        summary: &mut Summary,
    ) -> anyhow::Result<()> {
        let (all, compiled) =
            snapshot::compiled_since(&begun.project.target, &self.args.profile, since_ns)?;
        let is_exact = begun.is_exact();
        summary.mode = match &begun.restored {
            Some(_) if is_exact && compiled == 0 => Mode::Hit,
            Some(_) => Mode::Partial,
            None => Mode::Untouched,
        };
        // What cargo had already is none of rift's doing.
        if begun.restored.is_some() {
            summary.reused = Tally { count: all.saturating_sub(compiled), bytes: 0 };
            summary.built = Tally { count: compiled, bytes: 0 };
        }
        let last = Snapshot::find(self.store, &begun.keys.nearest)?;
        let original = match begun.restored.is_none() && begun.is_clean {
            // Only a build that had nothing took what it takes without rift.
            true => {
                let elapsed_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                Some(Original { elapsed_ms, hardware: hardware() })
            }
            false => {
                let known = begun.restored.as_ref().map(|(known, ..)| known).or(last.as_ref());
                known.and_then(|known| known.original.clone())
            }
        };
        if begun.restored.is_some()
            && let Some(original) = &original
        {
            summary.original_ms = Some(original.elapsed_ms);
            summary.original_on_other_hardware = original.hardware != hardware();
        }
        let keep_ms = last.as_ref().map_or(0, |last| u128::from(last.keep_ms));
        let is_cheap = took.as_millis() >= KEEPING * keep_ms;
        let is_worth_it = self.options.record_only
            || compiled > 0 && (begun.is_clean || ci::here().is_some() || is_cheap);
        if !self.context.config.keeps_targets() {
            return Ok(());
        }
        if !is_worth_it {
            if compiled > 0 {
                self.reasons.push(format!(
                    "not kept: that took {keep_ms} ms the last time, and the build {} ms",
                    took.as_millis()
                ));
            }
            return self.share(&begun.keys);
        }
        // Cargo may have written the lockfile; what else has changed, nobody knows when.
        const LOCKFILE: &str = "Cargo.lock";
        let touched = begun.sources.changed(&begun.project.root, &[LOCKFILE]);
        let Begun { sources: before, restored, .. } = begun;
        let Begun { project, sources, keys, .. } = self.look(begun.project)?;
        let changed = sources.differing(&before).find(|path| path != Path::new(LOCKFILE));
        if let Some(path) = touched.or(changed) {
            self.reasons.push(format!("not kept: `{}` was changed meanwhile", path.display()));
            return Ok(());
        }
        let watched = told.watched(self.store, &project.roots(), &project.bounds());
        // What was not made now was made then.
        let before = restored.map(|(known, ..)| known).or(last);
        let hashes = &told.hashes(self.store);
        let made_of = MadeOf { sources: &sources, watched, before: before.as_ref(), hashes };
        let taken = Snapshot::take(self.means(), &project, &self.args.profile, made_of, original)?;
        let taken = match taken {
            Ok(taken) => taken,
            Err(why) => {
                self.reasons.push(format!("not kept: {why}"));
                return Ok(());
            }
        };
        for key in [&keys.exact, &keys.nearest] {
            taken.snapshot.save(self.store, key).context("could not keep the build")?;
        }
        if Snapshot::find(self.store, &keys.locked)?.is_none() {
            taken.snapshot.save(self.store, &keys.locked).context("could not keep the build")?;
        }
        self.reasons.push("what it left is kept".to_owned());
        if summary.mode == Mode::Untouched {
            summary.mode = Mode::Learned;
            summary.built = Tally { count: compiled, bytes: 0 };
        }
        self.added_bytes += taken.stored_bytes;
        self.share(&keys)
    }

    /// Sends what is kept to a remote, where it is new there.
    fn share(&mut self, keys: &Keys) -> anyhow::Result<()> {
        let Some(shared) = Shared::new(self.context, self.store) else { return Ok(()) };
        for key in [&keys.exact, &keys.locked] {
            let lineage = format!("{}{}", shared::CARGO_LINEAGE, keys.nearest);
            self.reasons.extend(shared.send::<Snapshot>(key, &lineage)?);
        }
        self.plans = vec![keys.exact.clone(), keys.locked.clone()];
        Ok(())
    }
}

/// Shows what would become of a command of cargo.
///
/// # Errors
/// What the system says.
pub(super) fn plan(
    command: &[std::ffi::OsString],
    context: &Context,
    out: &mut impl std::io::Write,
) -> anyhow::Result<()> {
    let args = match args::read(&command[1..]) {
        Ok(args) => args,
        Err(why) => {
            writeln!(out, "cargo runs untouched: {why}")?;
            return Ok(());
        }
    };
    let Ok(store) = context.existing_store() else {
        writeln!(out, "a miss: there is no store yet")?;
        return Ok(());
    };
    let options = ExecOptions { command: command.to_vec(), ..ExecOptions::default() };
    let profile = args.profile.clone();
    let build = Build::new(&options, context, &store, args);
    let project = Project::find(&store, &build.args, &context.cwd)?;
    let begun = build.look(project)?;
    let show = |path: &Path| crate::ui::printable(&path.display().to_string());
    writeln!(out, "workspace  {}", show(&begun.project.root))?;
    writeln!(out, "target     {}", show(&begun.project.target.join(&profile)))?;
    writeln!(out, "sources    {} files", crate::ui::count(begun.sources.len() as u64))?;
    writeln!(out, "key        {}", begun.keys.exact)?;
    let is_known = |key: &str| Ok::<_, anyhow::Error>(Snapshot::find(&store, key)?.is_some());
    let Keys { exact, nearest, locked, .. } = &begun.keys;
    let line = match (is_known(exact)?, is_known(nearest)? || is_known(locked)?) {
        _ if !begun.is_clean => "what is there stays: cargo goes on with it",
        (true, _) => "a hit: what a build of the same sources left would be put back",
        (_, true) => "what a build of an earlier state left would be put back",
        _ => "a miss: nothing like it was built before",
    };
    writeln!(out, "{line}")?;
    Ok(())
}
