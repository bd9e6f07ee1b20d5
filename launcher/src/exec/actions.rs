//! Builds under `rift exec`: compilers, linkers and the like are recorded, and what is known of them is not done again.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rift_cas::hashes::{FileStamp, Hashes};
use rift_cas::projection::ShownAs;
use rift_cas::remote::Extent;
use rift_cas::tree::OpenTree;
use rift_cas::{Store, gc};
use rift_tree::TreeHash;

use super::shared::{self, Came, Shared};
use super::{Ending, ExecOptions, child};
use crate::actions::entry::Kept;
use crate::actions::keeper::{Ended, Keeper};
use crate::actions::parts::Parts;
use crate::actions::roots::Roots;
use crate::actions::watch::{Bounds, Watched};
use crate::actions::{self, Event, Outcome, PROGRAMS, Settings};
use crate::config::Config;
use crate::context::Context;
use crate::mount::private;
use crate::paths::decoded;
use crate::report::{Mode, Processes, Run, Summary, Tally};
use crate::shim::{self, Actions, Prepared, Which};
use crate::ui;

/// Commands that build: what they start is recorded.
const BUILDING: &[&str] = &[
    "make", "gmake", "ninja", "samu", "cmake", "meson", "scons", "cc", "c++", "gcc", "g++",
    "clang", "clang++", "rustc", "go",
];

/// Commands that start what a project asks for: its programs are recorded where the settings name any.
const RUNNING: &[(&str, &[&str])] =
    &[("npm", &["run", "run-script"]), ("pnpm", &["run"]), ("yarn", &["run"]), ("bun", &["run"])];

/// Tells whether the parts of a command are recorded.
pub(super) fn are_recorded(command: &[OsString], config: &Config) -> bool {
    let Some(name) = command.first().and_then(|program| Path::new(program).file_name()) else {
        return false;
    };
    let is_opted = |known: &String| name == known.as_str();
    let runs = |(tool, words): &(&str, &[&str])| {
        name == *tool && command.get(1).is_some_and(|word| words.iter().any(|known| word == *known))
    };
    let programs = config.programs();
    BUILDING.iter().any(|known| name == *known)
        || programs.iter().any(is_opted)
        || !programs.is_empty() && RUNNING.iter().any(runs)
}

/// What became of a command's actions.
#[derive(Debug, Default)]
pub(super) struct Told {
    events: Vec<Event>,
    /// What those have found that ran.
    watched: Watched,
    /// Why nothing was recorded, or not all of it, and what came from remotes and went there.
    remarks: Vec<String>,
    /// The ref of its actions, where the settings name a remote.
    shared_as: Option<String>,
    /// The number of the run that kept them; 0 where nothing was recorded.
    run: u64,
    /// Bytes that the store grew by.
    stored_bytes: u64,
}

impl Told {
    /// Counts them.
    pub(super) fn counts(&self) -> Processes {
        let mut counts = Processes::default();
        let mut saved_ns = 0;
        for event in &self.events {
            match &event.outcome {
                Outcome::Reused(cpu_ns) => {
                    counts.reused += 1;
                    saved_ns += cpu_ns;
                }
                Outcome::Kept | Outcome::Refused(_) | Outcome::Confirmed | Outcome::Mismatch(_) => {
                    counts.run += 1;
                }
                Outcome::Missed(_) => {}
            }
        }
        counts.saved_cpu_ms = saved_ns / 1_000_000;
        counts
    }

    fn remark(why: String) -> Self {
        Self { remarks: vec![why], ..Self::default() }
    }

    /// Says why nothing was recorded, or not all of it, and what remotes had, for `rift why`.
    pub(super) fn reasons(&self) -> impl Iterator<Item = String> {
        self.remarks.iter().cloned()
    }

    /// Returns the refs of the run's actions.
    pub(super) fn refs(&self) -> Vec<String> {
        self.shared_as.iter().cloned().collect()
    }

    /// Returns by how many bytes the store grew.
    pub(super) fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    /// Returns what the run remembers of its actions.
    pub(super) fn parts(&self) -> Parts {
        Parts::new(&self.events)
    }

    /// Opens the hashes that they have found.
    pub(super) fn hashes(&self, store: &Store) -> Hashes {
        store.hashes(self.run)
    }

    /// Returns what all of them have found beyond some places, also those whose results were known.
    pub(super) fn watched(&mut self, store: &Store, roots: &Roots, bounds: &Bounds) -> Watched {
        let mut watched = std::mem::take(&mut self.watched);
        for event in &self.events {
            if let (Outcome::Reused(_), Some(unit), Some(name)) =
                (&event.outcome, &event.unit, &event.entry)
                && let Some(Ok(found)) = Kept::open(store, name).map(|kept| kept.observations())
            {
                let beyond = bounds.beyond(roots, &found).cloned();
                watched.entry(unit.clone()).or_default().extend(beyond);
            }
        }
        watched
    }

    /// Returns how the run ends, if the command has ended so: it fails where a program did something else than is known of it.
    pub(super) fn ending(&self, ending: Ending) -> Ending {
        match ending.is_success() && self.mismatches().next().is_some() {
            true => Ending::Exited(child::FAILED),
            false => ending,
        }
    }

    /// Returns what was not as it is known.
    fn mismatches(&self) -> impl Iterator<Item = &Event> {
        self.events.iter().filter(|event| matches!(event.outcome, Outcome::Mismatch(_)))
    }
}

/// What is built.
#[derive(Debug, Clone, Copy)]
pub(super) struct Project<'p> {
    /// Its folder.
    pub(super) root: &'p Path,
    /// Under what machines share its actions.
    pub(super) key: Option<&'p str>,
    /// See [`Settings::watched`].
    pub(super) watched: Option<&'p Bounds>,
    /// See [`Settings::spares_edits`].
    pub(super) spares_edits: bool,
}

/// Runs a command whose parts are recorded and replayed.
///
/// # Errors
/// Rift itself failed, and is to fail rather than fall back.
pub(super) fn run_command(
    options: &ExecOptions,
    context: &Context,
    store: &Store,
    project: &Project<'_>,
) -> anyhow::Result<(Ending, Told)> {
    let shown = private::in_reach(store, &context.cwd)?;
    if shown.iter().any(|known| known.shown_as == ShownAs::Virtual) {
        let why = "nothing is recorded of what runs: it sees trees by the shim".to_owned();
        return Ok((super::run_command(options, context)?, Told::remark(why)));
    }
    let sharing = Sharing::begin(options, context, store, project.key)?;
    let arriving = sharing.as_ref().and_then(|sharing| sharing.arriving.as_ref());
    let bringer = arriving.map(|_| std::process::id());
    let begun = begin(options, context, store, (project, bringer));
    let (keeper, prepared, run) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            let why = format!("nothing is recorded of what runs: {error:#}");
            context.fall_back(&why)?;
            return Ok((child::run(&options.command)?, Told::remark(why)));
        }
    };
    let outcome = prepared.run(&options.command)?;
    let mut told = match keeper.end() {
        Ok(Ended { events, watched, stored_bytes }) => {
            Told { events, watched, run, stored_bytes, ..Told::default() }
        }
        Err(error) if context.config.is_strict() => return Err(error),
        Err(error) => {
            let why = format!("what ran could not be kept: {error:#}");
            context.ui.warn(&why);
            Told::remark(why)
        }
    };
    if shim::is_closed(&options.command[0]) {
        let program = ui::printable(&options.command[0].to_string_lossy());
        let why = format!("`{program}` can't be observed: nothing of it was recorded");
        context.fall_back(&why)?;
        told.remarks.push(why);
    }
    for mismatch in told.mismatches() {
        context.ui.warn(&format!(
            "{} {} does something else than is known of it",
            ui::printable(&mismatch.program),
            ui::printable(&mismatch.what)
        ));
    }
    if let Some(sharing) = sharing {
        sharing.end(store, &mut told)?;
    }
    Ok((outcome.ending, told))
}

/// The actions of a project that machines share, as a ref of a remote.
struct Sharing<'c> {
    shared: Shared<'c>,
    name: String,
    came: Option<Came>,
    /// What came, where more of it comes while the command runs.
    arriving: Option<OpenTree>,
    remarks: Vec<String>,
}

impl<'c> Sharing<'c> {
    /// Brings what others have found, where there is a remote, and begins to bring what they have made; without it the command runs as well.
    fn begin(
        options: &ExecOptions,
        context: &'c Context,
        store: &'c Store,
        key: Option<&str>,
    ) -> anyhow::Result<Option<Self>> {
        let (Some(shared), Some(key)) = (Shared::new(context, store), key) else {
            return Ok(None);
        };
        let name = format!("{}{key}", shared::ACTIONS);
        let mut sharing = Self { shared, name, came: None, arriving: None, remarks: Vec::new() };
        if options.record_only {
            return Ok(Some(sharing));
        }
        // What is compared must be here.
        let extent = match options.compares {
            true => Extent::Whole,
            false => store.extent_shown(),
        };
        (sharing.came, sharing.remarks) = sharing.shared.bring_ref(&sharing.name, extent)?;
        if let Some((tree, _)) = &sharing.came {
            match taken(store, *tree) {
                Ok(arriving) => sharing.arriving = arriving,
                Err(error) => sharing.remarks.push(format!("what came is not used: {error:#}")),
            }
        }
        Ok(Some(sharing))
    }

    /// Sends what the run has used and made, where that is more than what came.
    fn end(mut self, store: &Store, told: &mut Told) -> anyhow::Result<()> {
        let sent = self.send(store, &told.events);
        told.remarks.append(&mut self.remarks);
        told.stored_bytes += self.shared.received_bytes();
        told.shared_as = Some(self.name);
        sent
    }

    fn send(&mut self, store: &Store, events: &[Event]) -> anyhow::Result<()> {
        let came = self.came.as_ref().map(|(tree, _)| *tree);
        if let Some(arriving) = &self.arriving {
            self.remarks.extend(self.shared.brought(arriving)?);
        }
        if !actions::shared::has_more(events, came) {
            return Ok(());
        }
        if let Some(why) = self.shared.refusal()? {
            self.remarks.push(why);
            return Ok(());
        }
        // What is handed on goes through this store.
        if let Some(arriving) = &self.arriving {
            if let Err(error) = arriving.fetch_rest() {
                self.remarks.push(format!("programs not shared: {error}"));
                return Ok(());
            }
            let (_, remarks) = self.shared.bring_ref(&self.name, Extent::Whole)?;
            self.remarks.extend(remarks);
        }
        let gathered = match actions::shared::gather(store, events, came) {
            Ok(gathered) => gathered,
            Err(error) => {
                self.remarks.push(format!("programs not shared: {error:#}"));
                return Ok(());
            }
        };
        for (path, holds) in &gathered.left_out {
            let path = decoded(path);
            let name = ui::printable(&path.file_name().unwrap_or_default().to_string_lossy());
            let why = format!("a program's result is not shared: `{name}` holds {holds}");
            self.shared.context.ui.warn(&why);
            self.remarks.push(why);
        }
        if let Some((tree, _lease)) = gathered.tree
            && came != Some(tree)
        {
            self.remarks.extend(self.shared.send_ref(&self.name, tree)?);
        }
        Ok(())
    }
}

/// Keeps the actions that came under their keys, and begins to bring the rest of them; returns the tree where there is a rest.
fn taken(store: &Store, tree: TreeHash) -> anyhow::Result<Option<OpenTree>> {
    let tree = store.open_shown(tree)?;
    if let Some(tree) = &tree {
        actions::shared::take(store, tree)?;
        actions::shared::prefetch(tree);
    }
    Ok(tree.filter(|tree| tree.partial().is_some()))
}

fn begin(
    options: &ExecOptions,
    context: &Context,
    store: &Store,
    (project, bringer): (&Project<'_>, Option<u32>),
) -> anyhow::Result<(Keeper, Prepared, u64)> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let run = (since.as_nanos() as u64 ^ u64::from(std::process::id()) << 40).max(1);
    let settings = Settings {
        store: store.root().to_owned(),
        roots: Roots::here(project.root),
        watched: project.watched.cloned(),
        run,
        bringer,
        only_records: options.record_only,
        verifies: options.compares,
        remaps: context.config.remaps_paths(),
        spares_edits: project.spares_edits,
    };
    let keeper = Keeper::begin(store, &settings)?;
    let opted = context.config.programs().iter().map(String::as_str);
    let programs: Vec<&str> = PROGRAMS.iter().copied().chain(opted).collect();
    let programs = programs.join(" ");
    let actions = Actions { folder: keeper.folder(), programs: &programs };
    let prepared = Prepared::recording(store, &[], Which::Recorded, Some(actions))?;
    Ok((keeper, prepared, run))
}

/// Files that say how a project is built.
const BUILD_FILES: &[&str] = &[
    "GNUmakefile",
    "makefile",
    "Makefile",
    "CMakeLists.txt",
    "build.ninja",
    "meson.build",
    "SConstruct",
    "configure.ac",
];

/// Returns under what machines share the actions of such builds: the tool, the file that says what is built, and the compilers; `None` where there is no
/// such file. Two projects that agree in all of this share what they make, which is of no harm.
fn key(command: &[OsString], context: &Context, store: &Store) -> Option<String> {
    Shared::new(context, store)?;
    let hashes = store.hashes(0);
    let hash_of = |path: &Path| {
        let stat = path.metadata().ok().filter(std::fs::Metadata::is_file)?;
        hashes.of(path, FileStamp::of(&stat)).ok().map(|hash| hash.to_string())
    };
    let mut fields = vec!["actions".to_owned(), std::env::consts::ARCH.to_owned()];
    fields.push(Path::new(command.first()?).file_name()?.to_string_lossy().into_owned());
    fields.push(BUILD_FILES.iter().find_map(|name| hash_of(&context.cwd.join(name)))?);
    for compiler in ["cc", "c++", "clang", "rustc"] {
        let found = child::find(OsStr::new(compiler)).and_then(|path| hash_of(&path));
        fields.push(found.unwrap_or_default());
    }
    Some(blake3::hash(fields.join("\n").as_bytes()).to_hex().to_string())
}

/// Returns the folder of the project that a folder is in: the nearest one above that version control knows, else itself.
pub(super) fn project(cwd: &Path) -> &Path {
    let is_known = |folder: &&Path| {
        [".git", ".hg", ".svn", ".jj"].iter().any(|name| folder.join(name).exists())
    };
    cwd.ancestors().find(is_known).unwrap_or(cwd)
}

/// Runs a command that builds.
///
/// # Errors
/// Rift itself failed, and is to fail rather than fall back.
pub(super) fn run(
    options: &ExecOptions,
    context: &Context,
    store: &Store,
    started: Instant,
) -> anyhow::Result<Ending> {
    let key = key(&options.command, context, store);
    let root = project(&context.cwd);
    let project = Project { root, key: key.as_deref(), watched: None, spares_edits: false };
    let (ending, told) = run_command(options, context, store, &project)?;
    let counts = told.counts();
    let mode = match (counts.reused, counts.run) {
        (0, 0) => Mode::Untouched,
        (0, _) => Mode::Learned,
        (_, 0) => Mode::Hit,
        _ => Mode::Partial,
    };
    let mut summary = Summary::new(mode, &options.command);
    summary.unit = "process".to_owned();
    summary.reused = Tally { count: counts.reused, bytes: 0 };
    summary.built = Tally { count: counts.run, bytes: 0 };
    summary.processes = counts;
    let upkeep = super::keep_small(context, store, told.stored_bytes());
    summary.store_bytes = gc::known_size(store);
    summary.set_times(started.elapsed(), None, true);
    summary.print(&context.ui);
    if let Some(path) = &options.summary_json {
        summary.write_json(path)?;
    }
    let mut run = Run::begin(summary, &context.cwd);
    run.reasons = told.reasons().collect();
    run.parts = told.parts();
    run.refs = told.refs();
    let saved = run.save(store);
    if let Err(error) = saved.and(upkeep) {
        context.ui.warn(&format!("the run could not be recorded: {error:#}"));
    }
    Ok(told.ending(ending))
}
