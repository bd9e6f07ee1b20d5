//! An install, from its key to the files: a hit shows known trees, a miss makes them first.
//!
//! What is not understood, and what fails in a way that npm explains better, ends in
//! [`Outcome::Native`]: nothing of the project was touched then, and npm itself runs.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rift_cas::Store;
use rift_cas::ahead::Ahead;
use rift_cas::import::{Import, Unit};
use rift_cas::materialize::{self, Options, Written};
use rift_cas::projection::ShownAs;
use rift_cas::tree::OpenTree;
use rift_tree::TreeHash;
use rift_tree::builder::{Built, Item};
use serde_json::Value;

use super::args::Command;
use super::compose::{self, Graft, Parts};
use super::driver::{Driver, Script, Start};
use super::env::Env;
use super::layout::{Layout, Owner, Placed};
use super::machine;
use super::network;
use super::package;
use super::package::error::PackageError;
use super::package::facts::Original as OriginalFile;
use super::package::fetch::{self, Fetched, Got, Progress, Source, Wanted, Watch};
use super::planned::{Original, Planned, PlannedRoot, hardware};
use super::read::Install;
use super::script_results::{self, Place, ScriptFailed, Scripted};
use crate::plan::show::{self, How};

/// What to do for an install.
pub struct Request<'a> {
    /// The store.
    pub store: &'a Store,
    /// The install.
    pub install: &'a Install,
    /// The environment that npm would have.
    pub env: &'a Env,
    /// The words after `npm`.
    pub words: &'a [OsString],
    /// How trees are written.
    pub options: Options,
    /// Whether files may be hard links.
    pub has_links: bool,
    /// Who is to see trees, and by what.
    pub shown_as: ShownAs,
    /// Whether known results are used.
    pub has_cache: bool,
    /// Whether recorded results of install scripts are used and kept.
    pub has_script_cache: bool,
    /// Variables that install scripts read beside the known ones.
    pub script_env: &'a [String],
    /// Is told how far the packages are.
    pub progress: &'a (dyn Fn(Progress) + Sync),
}

/// What became of an install.
#[derive(Debug)]
pub enum Outcome {
    /// It is done.
    Done(Box<Report>),
    /// npm itself has to do it, for this reason.
    Native(String),
}

/// What an install took.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The exit status.
    pub status: i32,
    /// The number in npm's `added N packages`.
    pub added: u64,
    /// Whether npm would have said `up to date`.
    pub is_up_to_date: bool,
    /// Packages that the store had.
    pub reused: u64,
    /// Packages that came from npm's cache.
    pub from_cache: u64,
    /// Packages that came from a registry.
    pub fetched: u64,
    /// Bytes of the files of packages that the store had.
    pub reused_bytes: u64,
    /// Bytes of the files of packages that came from elsewhere.
    pub fetched_bytes: u64,
    /// Compressed bytes that came from registries.
    pub downloaded_bytes: u64,
    /// Bytes that the store grew by.
    pub stored_bytes: u64,
    /// Packages whose install scripts ran.
    pub scripts_run: u64,
    /// Packages whose install scripts' results were reused.
    pub scripts_reused: u64,
    /// Packages whose scripts have to run each time, and why.
    pub uncacheable: BTreeMap<String, String>,
    /// How the trees came to be in place.
    pub how: Option<How>,
    /// Why trees that were to be mounted are files.
    pub unmountable: Option<String>,
    /// What was written.
    pub written: Written,
    /// Files and bytes of the trees.
    pub files: u64,
    /// Bytes of these files.
    pub bytes: u64,
    /// Tree hashes with their folders.
    pub trees: Vec<(PathBuf, TreeHash)>,
    /// npm's own run that this was learnt from.
    pub original: Option<Original>,
    /// Whether a script of the project failed, and which.
    pub failed_script: Option<String>,
}

/// The events of a linked folder, in npm's order.
const LINK_EVENTS: [&str; 4] = ["preinstall", "prepare", "install", "postinstall"];

/// Why an install on top of another state is left to npm.
const NPM_JUDGES: &str = "what is there has to be changed, and how is for npm to say";

/// Why a miss ended before anything was touched.
enum Stop {
    Native(String),
    Failed(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl Request<'_> {
    /// Returns the key of the install's result.
    #[must_use]
    pub fn key(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"rift npm install").update(self.install.key().as_bytes());
        if self.install.may_run_scripts() {
            // Which results of scripts are in the trees depends on all that the scripts depend on.
            hasher.update(&self.machine()).update(self.install.root.as_os_str().as_encoded_bytes());
            hasher.update(&self.options.umask.to_le_bytes());
            hasher.update(&[u8::from(self.has_script_cache)]);
        }
        hasher.finalize().to_hex().to_string()
    }

    fn machine(&self) -> [u8; 32] {
        machine::key(&self.install.tool, self.env, self.script_env)
    }

    fn place(&self) -> Place<'_> {
        let root = &self.install.root;
        Place { machine: self.machine(), root, umask: self.options.umask }
    }

    fn start(&self, is_watched: bool) -> Start<'_> {
        let install = self.install;
        let (node, npm_root) = (&*install.tool.node, &*install.tool.npm_dir);
        Start { node, npm_root, words: self.words, folder: &install.root, is_watched }
    }
}

/// Does an install.
///
/// # Errors
/// When rift itself fails; the project's folders are then as they were, or as far as they came, and
/// npm repairs them like any other state.
pub fn run(request: &Request<'_>) -> Result<Outcome> {
    let _lock = show::lock_project(&request.install.root)?;
    let key = request.key();
    let known = if request.has_cache { Planned::find(request.store, &key)? } else { None };
    if let Some(planned) = known.as_ref().filter(|planned| planned.pending.is_empty())
        && let Some(trees) = open_all(request, &planned.roots)
    {
        request.store.touch_plan(&key)?;
        return hit(request, planned, &trees);
    }
    if request.install.command == Command::Install && has_any_root(request) {
        return Ok(Outcome::Native(NPM_JUDGES.to_owned()));
    }
    match miss(request, &key, known) {
        Ok(report) => Ok(Outcome::Done(Box::new(report))),
        Err(Stop::Native(why)) => Ok(Outcome::Native(why)),
        Err(Stop::Failed(error)) => Err(error),
    }
}

/// Tells whether the store knows all of an install's result.
///
/// # Errors
/// What the system says.
pub fn is_known(request: &Request<'_>, key: &str) -> Result<bool> {
    let planned = Planned::find(request.store, key)?;
    let complete = planned.filter(|planned| planned.pending.is_empty());
    Ok(complete.is_some_and(|planned| open_all(request, &planned.roots).is_some()))
}

/// Returns the trees of an install's result, as far as the store knows it.
///
/// # Errors
/// What the system says.
pub fn trees_of(store: &Store, key: &str) -> Result<Vec<TreeHash>> {
    let planned = Planned::find(store, key)?;
    Ok(planned.iter().flat_map(|planned| &planned.roots).filter_map(PlannedRoot::tree).collect())
}

/// Trees, each with the folder of the project that it is shown at.
type Trees = Vec<(String, OpenTree)>;

/// Opens every tree of a plan; `None` when the store no longer has all of one, which makes it a miss. What is shown without
/// files may come from a remote later, unless that could not be reached the last time.
fn open_all(request: &Request<'_>, roots: &[PlannedRoot]) -> Option<Trees> {
    let open = |root: &PlannedRoot| {
        let tree = match request.shown_as.has_state() {
            true => request.store.open_shown(root.tree()?).ok()??,
            false => request.store.open_leased(root.tree()?).ok()??,
        };
        let is_there = tree.partial().is_none_or(|partial| !partial.is_down());
        is_there.then(|| (root.folder.clone(), tree))
    };
    roots.iter().map(open).collect()
}

fn hit(request: &Request<'_>, planned: &Planned, trees: &[(String, OpenTree)]) -> Result<Outcome> {
    let mut report = Report {
        added: planned.added,
        reused: planned.packages,
        scripts_reused: planned.built,
        original: planned.original.clone(),
        ..Report::default()
    };
    if request.install.command == Command::Install {
        match npm_install_would(request, trees)? {
            Some(is_up_to_date) => report.is_up_to_date = is_up_to_date,
            None => return Ok(Outcome::Native(NPM_JUDGES.to_owned())),
        }
    }
    if !report.is_up_to_date {
        for (folder, tree) in trees {
            show_root(request, folder, tree, None, &mut report)?;
        }
    }
    for (folder, tree) in trees {
        count(request, folder, tree, &mut report);
    }
    report.reused_bytes = report.bytes;
    run_project_scripts(request, planned, &mut report)?;
    Ok(Outcome::Done(Box::new(report)))
}

/// Tells whether the project has a `node_modules` already.
fn has_any_root(request: &Request<'_>) -> bool {
    request.install.root.join("node_modules").symlink_metadata().is_ok()
}

/// Tells what `npm install` would find: `Some(true)` when everything is in place, `Some(false)` when
/// nothing is, `None` when it is something else that npm has to judge.
fn npm_install_would(request: &Request<'_>, trees: &[(String, OpenTree)]) -> Result<Option<bool>> {
    let mut is_in_place = None;
    for (folder, tree) in trees {
        let target = request.install.root.join(folder);
        let here = match target.symlink_metadata() {
            Err(_) => false,
            Ok(_) => match show_request(request, &target, tree).differences()? {
                // npm leaves folders with a dot alone, such as those of bundlers.
                Some((_, found)) => {
                    let is_dot = |path: &PathBuf| path.to_string_lossy().starts_with('.');
                    let is_kept = found.extra.iter().all(is_dot) && found.changed.is_empty();
                    if !is_kept {
                        return Ok(None);
                    }
                    true
                }
                None => return Ok(None),
            },
        };
        if is_in_place.replace(here).is_some_and(|before| before != here) {
            return Ok(None);
        }
    }
    Ok(is_in_place)
}

fn show_request<'r>(
    request: &'r Request<'_>,
    target: &'r std::path::Path,
    tree: &'r OpenTree,
) -> show::Request<'r> {
    show::Request {
        store: request.store,
        tree,
        folder: target,
        options: request.options,
        has_links: request.has_links,
        shown_as: request.shown_as,
    }
}

fn show_root(
    request: &Request<'_>,
    folder: &str,
    tree: &OpenTree,
    ahead: Option<Ahead>,
    report: &mut Report,
) -> Result<()> {
    let target = request.install.root.join(folder);
    let shown = show_request(request, &target, tree)
        .show(ahead)
        .with_context(|| format!("could not project `{folder}`"))?;
    report.how = report.how.max(Some(shown.how));
    report.unmountable = report.unmountable.take().or(shown.unmountable);
    report.written += shown.written;
    Ok(())
}

fn count(request: &Request<'_>, folder: &str, tree: &OpenTree, report: &mut Report) {
    let manifest = tree.manifest();
    report.files += u64::from(manifest.counts().files);
    report.bytes += manifest.file_bytes();
    report.trees.push((request.install.root.join(folder), tree.hash()));
}

/// The packages of a layout, in the store.
struct Packages<'s> {
    import: Import<'s>,
    /// By their number in the layout.
    fetched: BTreeMap<usize, Got>,
    records: Vec<rift_cas::log::Record>,
    downloaded_bytes: u64,
    scripted: Vec<Scripted>,
    /// Results of scripts that are known, by path.
    known: BTreeMap<String, TreeHash>,
}

fn miss(request: &Request<'_>, key: &str, known: Option<Planned>) -> Result<Report, Stop> {
    let layout = request.install.layout().map_err(|why| Stop::Native(why.to_string()))?;
    let mut ahead = start_ahead(request, &layout)?;
    let packages = take_in(request, &layout, false, &ahead)?;
    let mut report = Report { added: layout.added as u64, ..Report::default() };
    tally(&packages, &mut report);
    report.scripts_reused = packages.known.len() as u64;
    let to_run: Vec<Scripted> = packages
        .scripted
        .iter()
        .filter(|scripted| !packages.known.contains_key(&scripted.path))
        .cloned()
        .collect();
    let bases = base_trees(&layout, &packages);
    let (trees, stored_bytes) = publish(request, &layout, packages, &BTreeMap::new())?;
    report.stored_bytes += stored_bytes;
    for (folder, tree) in &trees {
        show_root(request, folder, tree, ahead.remove(folder), &mut report)?;
    }
    let trees = match to_run.is_empty() {
        true => trees,
        false => run_scripts(request, &layout, &to_run, &bases, &mut report)?,
    };
    for (folder, tree) in &trees {
        count(request, folder, tree, &mut report);
    }
    let mut planned = plan_of(&layout, &trees, &report);
    planned.original = known.and_then(|known| known.original);
    planned.save(request.store, key)?;
    report.original.clone_from(&planned.original);
    run_project_scripts(request, &planned, &mut report)?;
    Ok(report)
}

/// Begins to fill the folders of the layout that are going to be written as a whole.
fn start_ahead(request: &Request<'_>, layout: &Layout) -> Result<BTreeMap<String, Ahead>> {
    let mut started = BTreeMap::new();
    for root in &layout.roots {
        let target = request.install.root.join(&root.dir);
        let has_parent = target.parent().is_some_and(Path::is_dir);
        let is_unknown = matches!(request.store.projection(&target), Ok(None));
        if has_parent && is_unknown && !request.has_links && !request.shown_as.has_state() {
            let ahead = Ahead::start(request.store, &target, request.options)
                .with_context(|| format!("could not begin `{}`", root.dir))?;
            started.insert(root.dir.clone(), ahead);
        }
    }
    Ok(started)
}

/// Counts where the packages came from.
fn tally(packages: &Packages<'_>, report: &mut Report) {
    for got in packages.fetched.values() {
        let bytes = got.known.facts.bytes;
        match got.source {
            Source::Store => {
                report.reused += 1;
                report.reused_bytes += bytes;
            }
            Source::Cache => {
                report.from_cache += 1;
                report.fetched_bytes += bytes;
            }
            Source::Registry => {
                report.fetched += 1;
                report.fetched_bytes += bytes;
            }
        }
    }
    report.downloaded_bytes = packages.downloaded_bytes;
}

fn plan_of(layout: &Layout, trees: &[(String, OpenTree)], report: &Report) -> Planned {
    let root = |(folder, tree): &(String, OpenTree)| PlannedRoot {
        folder: folder.clone(),
        tree: tree.hash().to_string(),
    };
    let mut planned = Planned::new(trees.iter().map(root).collect(), layout.added as u64);
    planned.pending = report.uncacheable.keys().cloned().collect();
    planned.packages = layout.packages.len() as u64;
    planned.linked = linked_scripts(layout);
    planned.linked_bins = linked_bins(layout);
    planned.built = report.scripts_run + report.scripts_reused - planned.pending.len() as u64;
    planned
}

/// Brings every package of a layout into the store, and writes what comes into folders begun `ahead`.
fn take_in<'s>(
    request: &Request<'s>,
    layout: &Layout,
    is_offline: bool,
    ahead: &BTreeMap<String, Ahead>,
) -> Result<Packages<'s>, Stop> {
    let install = request.install;
    let import = request.store.import()?;
    let log = request.store.log()?;
    let (numbers, wanted): (Vec<usize>, Vec<Wanted>) = archived(layout)?.into_iter().unzip();
    let find = |integrity: &_| match request.has_cache {
        true => fetch::find(&log, &import, integrity),
        false => None,
    };
    let mut settings = network::settings(&install.registries, &install.tool, request.env)?;
    settings.is_offline |= is_offline;
    let cache = Some(&*install.registries.cache);
    let write = |number: usize, tree: &Built, unit: &Unit<'_>| {
        let placed: &Placed = &layout.packages[numbers[number]];
        // What scripts make of a package is another tree.
        let is_plain = !placed.has_install_script || install.settings.ignore_scripts;
        let folder = &layout.roots[placed.root].dir;
        if let Some(ahead) = ahead.get(folder).filter(|_| is_plain)
            && let Ok(path) = below(folder, &placed.path)
        {
            ahead.write(unit, tree, Path::new(&path));
        }
    };
    let watch = Watch { progress: request.progress, taken: (!ahead.is_empty()).then_some(&write) };
    let Fetched { packages, records, downloaded_bytes } =
        fetch::fetch_all(&wanted, &import, &find, &settings, cache, watch)
            .map_err(|failure| unfetched(request.store, &failure))?;
    let mut fetched = BTreeMap::new();
    for (number, got) in numbers.iter().zip(packages) {
        fetched.insert(*number, got.map_err(|failure| unfetched(request.store, &failure))?);
    }
    check(layout, &fetched, install.settings.ignore_scripts)?;
    let scripted = match install.settings.ignore_scripts {
        true => Vec::new(),
        false => scripted(request, layout)?,
    };
    let mut known = BTreeMap::new();
    if request.has_script_cache && request.has_cache {
        for package in &scripted {
            let result = package.result(&log).filter(|tree| {
                rift_cas::tree::packed_manifest(import.index(), *tree).is_some()
                    || request.store.has_tree(*tree)
            });
            known.extend(result.map(|tree| (package.path.clone(), tree)));
        }
    }
    Ok(Packages { import, fetched, records, downloaded_bytes, scripted, known })
}

/// Why a package can't be had is npm's to say, but for a store that may not grow: others than it may have room.
fn unfetched(store: &Store, failure: &fetch::Failure) -> Stop {
    match &*failure.cause {
        fetch::Cause::Package(PackageError::Store(error)) if store.is_out_of_room(error) => {
            Stop::Failed(store.full().into())
        }
        _ => Stop::Native(describe(failure)),
    }
}

fn describe(failure: &fetch::Failure) -> String {
    let cause = std::error::Error::source(failure).map(|cause| format!(": {cause}"));
    format!("{failure}{}", cause.unwrap_or_default())
}

/// Returns the packages that have an archive of their own, with their number in the layout.
fn archived(layout: &Layout) -> Result<Vec<(usize, Wanted)>, Stop> {
    let mut archived = Vec::new();
    for (number, placed) in layout.packages.iter().enumerate() {
        if placed.bundled_by.is_some() {
            continue;
        }
        if placed.resolved.as_deref().is_some_and(crate::redact::has_login) {
            // The hidden lockfile repeats the address, and the store must not hold it.
            let why = format!("the lockfile holds a login in the address of `{}`", placed.path);
            return Err(Stop::Native(why));
        }
        let Some(integrity) = placed.integrity.clone() else {
            return Err(Stop::Native(format!("`{}` has no integrity", placed.path)));
        };
        let wanted = Wanted {
            name: placed.name.clone(),
            version: placed.version.clone(),
            integrity,
            resolved: placed.resolved.clone(),
            is_optional: placed.flags.optional,
        };
        archived.push((number, wanted));
    }
    Ok(archived)
}

/// Refuses packages about which npm would do something else than lay their files down.
fn check(
    layout: &Layout,
    fetched: &BTreeMap<usize, Got>,
    ignores_scripts: bool,
) -> Result<(), Stop> {
    for (number, got) in fetched {
        let placed = &layout.packages[*number];
        let path = &placed.path;
        let facts = &got.known.facts;
        if facts.has_shrinkwrap {
            return Err(Stop::Native(format!("`{path}` brings a npm-shrinkwrap.json")));
        }
        if !facts.has_manifest {
            return Err(Stop::Native(format!("`{path}` has no readable package.json")));
        }
        let has_script = ["install", "preinstall"]
            .iter()
            .any(|name| facts.scripts.iter().any(|has| has == name));
        let is_built = facts.has_binding_gyp && !has_script && !facts.is_gyp_off;
        if is_built && !placed.has_install_script && !ignores_scripts {
            let why = format!("`{path}` has a binding.gyp that the lockfile does not tell of");
            return Err(Stop::Native(why));
        }
    }
    Ok(())
}

fn scripted(request: &Request<'_>, layout: &Layout) -> Result<Vec<Scripted>, Stop> {
    let Some(hidden) = &layout.hidden_lockfile else {
        return Ok(Vec::new());
    };
    let hidden: Value = serde_json::from_slice(hidden)
        .context("could not read the hidden lockfile that was just made")?;
    let empty = serde_json::Map::new();
    let entries = hidden.get("packages").and_then(Value::as_object).unwrap_or(&empty);
    let mut paths = Vec::new();
    for scripts in &layout.scripts {
        if let Owner::Package(number) = scripts.owner {
            let placed = &layout.packages[number];
            if placed.bundled_by.is_some() {
                let why = format!("`{}` is bundled and has install scripts", placed.path);
                return Err(Stop::Native(why));
            }
            paths.push(placed.path.clone());
        }
    }
    Ok(Scripted::of(&paths, entries, request.place())?)
}

/// Returns the linked folders whose scripts run, in npm's order.
fn linked_scripts(layout: &Layout) -> Vec<String> {
    let folder = |scripts: &super::layout::Scripts| match scripts.owner {
        Owner::Package(_) => None,
        Owner::Link(number) => Some(layout.links[number].path.clone()),
    };
    layout.scripts.iter().filter_map(folder).collect()
}

/// Returns each scripted package's tree as the tarball has it, by path.
fn base_trees(layout: &Layout, packages: &Packages<'_>) -> BTreeMap<String, Got> {
    let mut bases = BTreeMap::new();
    for (number, got) in &packages.fetched {
        let path = &layout.packages[*number].path;
        if packages.scripted.iter().any(|scripted| scripted.path == *path) {
            bases.insert(path.clone(), got.clone());
        }
    }
    bases
}

/// Composes the trees of a layout, publishes and opens them. Packages in `results` are as their
/// scripts have just left them.
fn publish(
    request: &Request<'_>,
    layout: &Layout,
    packages: Packages<'_>,
    results: &BTreeMap<String, Arc<Built>>,
) -> Result<(Trees, u64)> {
    let Packages { import, fetched, records, known, .. } = packages;
    let mut parts: Vec<Parts> = layout
        .roots
        .iter()
        .map(|root| Parts { folder: root.dir.clone(), ..Parts::default() })
        .collect();
    let mut linked: HashSet<(usize, String)> = HashSet::new();
    for bin in &layout.bins {
        match bin_file(request, &import, layout, &fetched, bin)? {
            BinFile::Missing => continue,
            BinFile::OfPackage(number, file) => {
                linked.insert((number, file));
            }
            BinFile::OfProject => {}
        }
        put_link(&mut parts, &bin.path, &bin.target)?;
    }
    for (number, got) in &fetched {
        let placed = &layout.packages[*number];
        let path = below(&parts[placed.root].folder, &placed.path)?;
        let (tree, built) = match (results.get(&placed.path), known.get(&placed.path)) {
            (Some(built), _) => (built.hash, Some(Arc::clone(built))),
            (None, Some(tree)) => (*tree, None),
            (None, None) => {
                // npm leaves the files of commands that it does not link as they are.
                for original in &got.known.facts.originals {
                    if !linked.contains(&(*number, original.path.clone())) {
                        let OriginalFile { permissions, size, hash, .. } = *original;
                        let item = Item::File { permissions, size, hash };
                        let path = format!("{path}/{}", original.path);
                        parts[placed.root].instead.push((path, item));
                    }
                }
                (got.known.tree, got.built.clone())
            }
        };
        parts[placed.root].grafts.push(Graft { path, tree, built });
    }
    for link in &layout.links {
        put_link(&mut parts, &link.path, &link.target)?;
    }
    if let Some(hidden) = &layout.hidden_lockfile {
        let root = parts.iter_mut().find(|parts| parts.folder == "node_modules");
        let root = root.context("there is a hidden lockfile and no folder for it")?;
        root.files.push((".package-lock.json".to_owned(), hidden.clone()));
    }
    let mut unit = import.unit();
    let mut built = Vec::new();
    for parts in &parts {
        built.push((parts.folder.clone(), compose::compose(&import, &mut unit, parts)?));
    }
    unit.flush()?;
    drop(unit);
    finish(request, import, &records, built)
}

/// Returns a path of the project relative to one of its folders.
fn below(folder: &str, path: &str) -> Result<String> {
    let rest = path.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/'));
    let rest = rest.with_context(|| format!("`{path}` does not lie in `{folder}`"))?;
    Ok(rest.to_owned())
}

fn put_link(parts: &mut [Parts], path: &str, target: &str) -> Result<()> {
    for parts in parts {
        if let Ok(path) = below(&parts.folder, path) {
            parts.links.push((path, target.to_owned()));
            return Ok(());
        }
    }
    anyhow::bail!("the link `{path}` lies in no folder of the layout")
}

/// What is behind a command.
enum BinFile {
    /// Nothing: npm makes no link.
    Missing,
    /// A file of the package of this number, whose archive it comes with.
    OfPackage(usize, String),
    /// A file of a linked folder.
    OfProject,
}

/// Finds the file of a command.
fn bin_file(
    request: &Request<'_>,
    import: &Import<'_>,
    layout: &Layout,
    fetched: &BTreeMap<usize, Got>,
    bin: &super::layout::BinLink,
) -> Result<BinFile> {
    match bin.owner {
        Owner::Link(number) => {
            let file = linked_file(request, &layout.links[number], &bin.file);
            Ok(if file.symlink_metadata().is_ok() { BinFile::OfProject } else { BinFile::Missing })
        }
        Owner::Package(number) => {
            let (mut package, mut file) = (number, bin.file.clone());
            while let Some(bundler) = layout.packages[package].bundled_by {
                let (inner, outer) =
                    (&layout.packages[package].path, &layout.packages[bundler].path);
                file = format!("{}/{file}", below(outer, inner)?);
                package = bundler;
            }
            let got = fetched.get(&package).context("a command belongs to no package")?;
            let is_there = compose::lookup(import, got.known.tree, got.built.as_ref(), &file)?;
            Ok(if is_there { BinFile::OfPackage(package, file) } else { BinFile::Missing })
        }
    }
}

/// Returns a file of a linked folder.
fn linked_file(request: &Request<'_>, link: &super::layout::Symlink, file: &str) -> PathBuf {
    plain(&request.install.root.join(linked_path(link, file)))
}

/// As [`linked_file`], relative to the project.
fn linked_path(link: &super::layout::Symlink, file: &str) -> PathBuf {
    let folder = Path::new(&link.path).parent().unwrap_or(Path::new(""));
    folder.join(&link.target).join(file)
}

/// Takes `..` parts out of a path without looking at the disk: its folders need not be there yet.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => {
                plain.pop();
            }
            std::path::Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

/// Returns the files behind commands of linked folders, which npm makes executable.
fn linked_bins(layout: &Layout) -> Vec<PathBuf> {
    let file = |bin: &super::layout::BinLink| match bin.owner {
        Owner::Package(_) => None,
        Owner::Link(number) => Some(linked_path(&layout.links[number], &bin.file)),
    };
    layout.bins.iter().filter_map(file).collect()
}

fn finish(
    request: &Request<'_>,
    import: Import<'_>,
    records: &[rift_cas::log::Record],
    built: Vec<(String, Built)>,
) -> Result<(Trees, u64)> {
    let (imported, index) = import.finish(records)?;
    let mut trees = Vec::new();
    for (folder, built) in built {
        request.store.publish_located(&built, &index)?;
        // Scripts may run for long before the plan names it.
        let opened = request.store.open_leased(built.hash)?;
        trees.push((folder, opened.context("the store lost a tree that was just published")?));
    }
    Ok((trees, imported.bytes()))
}

/// Runs scripts in the project, keeps what can be kept, and returns the trees with their results.
fn run_scripts(
    request: &Request<'_>,
    layout: &Layout,
    to_run: &[Scripted],
    bases: &BTreeMap<String, Got>,
    report: &mut Report,
) -> Result<Trees, Stop> {
    let import = request.store.import()?;
    let packages: Vec<&Scripted> = to_run.iter().collect();
    let base = |package: &Scripted| {
        let got = bases.get(&package.path)?;
        let bytes = match &got.built {
            Some(built) => built.bytes.clone(),
            None => compose::manifest_bytes(&import, got.known.tree)?,
        };
        Some(Arc::new(Built { hash: got.known.tree, bytes }))
    };
    let foreground = request.install.settings.foreground_scripts;
    let ran = script_results::run(
        &packages,
        &base,
        &import,
        request.start(request.has_script_cache),
        request.place(),
        foreground,
    );
    let ran = ran.map_err(|error| match error.downcast::<ScriptFailed>() {
        // npm says it better, and knows what to do when the package is optional.
        Ok(failed) => Stop::Native(failed.to_string()),
        Err(error) => Stop::Failed(error),
    })?;
    report.scripts_run = to_run.len() as u64;
    report.uncacheable = ran.uncacheable;
    let records = if request.has_script_cache { ran.records } else { Vec::new() };
    import.finish(&records)?;
    // Composed anew from what the store has by now: the packages, and the results just kept.
    let packages = take_in(request, layout, true, &BTreeMap::new())?;
    let (trees, stored_bytes) = publish(request, layout, packages, &ran.results)?;
    report.stored_bytes += stored_bytes;
    for (folder, tree) in &trees {
        adopt(request, folder, tree, &report.uncacheable)?;
    }
    Ok(trees)
}

/// Makes what scripts left in place the projection of the tree that now holds their results.
fn adopt(
    request: &Request<'_>,
    folder: &str,
    tree: &OpenTree,
    uncacheable: &BTreeMap<String, String>,
) -> Result<()> {
    if !uncacheable.is_empty() {
        // What these left is not in the tree: the next run starts from before their scripts.
        return Ok(());
    }
    let target = request.install.root.join(folder);
    show_request(request, &target, tree).adopt()
}

/// Does to a command of the project's own what npm does when it links it: makes it executable, and a
/// first line `#!…` end in LF.
fn mend_command(file: &Path, umask: u16) -> Result<()> {
    let mode = 0o777 & !u32::from(umask);
    // npm replaces what a symbolic link leads to.
    let file = match file.canonicalize() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.with_context(|| format!("could not look at `{}`", file.display()))?,
    };
    let stat =
        file.metadata().with_context(|| format!("could not look at `{}`", file.display()))?;
    if stat.permissions().mode() & 0o777 != mode {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode))
            .with_context(|| format!("could not make `{}` executable", file.display()))?;
    }
    if !stat.is_file() {
        return Ok(());
    }
    let content =
        std::fs::read(&file).with_context(|| format!("could not read `{}`", file.display()))?;
    if package::bins::crlf_shebang(&content) != Some(true) {
        return Ok(());
    }
    let text = package::bins::with_unix_shebang(&content);
    replace_file(&file, text.as_bytes(), mode, &stat)
        .with_context(|| format!("could not rewrite `{}`", file.display()))
}

/// Replaces a file as a whole, keeping its owner.
fn replace_file(
    file: &Path,
    bytes: &[u8],
    mode: u32,
    before: &std::fs::Metadata,
) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".rift-{}", std::process::id()));
    let beside = file.with_file_name(name);
    let write = || {
        let mut new =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        new.write_all(bytes)?;
        // Only root may give files away; npm goes on without it too.
        let _is_kept = fchown(&new, Some(before.uid()), Some(before.gid())).is_ok();
        new.set_permissions(std::fs::Permissions::from_mode(mode))?;
        new.sync_all()?;
        std::fs::rename(&beside, file)
    };
    write().inspect_err(|_| {
        // What is reported is the failure before.
        let _is_gone = std::fs::remove_file(&beside).is_ok();
    })
}

/// Runs the lifecycle scripts of linked folders and of the project, as npm does after every install.
fn run_project_scripts(
    request: &Request<'_>,
    planned: &Planned,
    report: &mut Report,
) -> Result<()> {
    let install = request.install;
    for file in &planned.linked_bins {
        mend_command(&plain(&install.root.join(file)), request.options.umask)?;
    }
    let mut scripts: Vec<(PathBuf, &'static str, bool)> = Vec::new();
    if !install.settings.ignore_scripts {
        for event in LINK_EVENTS {
            let shows = install.settings.foreground_scripts;
            scripts
                .extend(planned.linked.iter().map(|path| (install.root.join(path), event, shows)));
        }
    }
    for script in install.root_scripts()? {
        // `npm ci` has no events for changed dependencies; nothing changed when all was in place.
        let is_skipped =
            script.only_if_changed && (install.command == Command::Ci || report.is_up_to_date);
        if !is_skipped {
            scripts.push((install.root.clone(), script.event, true));
        }
    }
    if scripts.is_empty() {
        return Ok(());
    }
    // Their results are never kept, so nothing has to be known of them.
    let mut driver = Driver::start(request.start(false))?;
    for (path, event, foreground) in scripts {
        let env = serde_json::Map::new();
        let script = Script { path, event, pkg: None, env, foreground };
        let (outcome, _) = driver.run(&script, crate::observe::Own::default())?;
        if !outcome.is_success() {
            report.status = if outcome.code == 0 { 1 } else { outcome.code };
            report.failed_script = Some(event.to_owned());
            break;
        }
    }
    driver.finish()
}

/// Learns the result of a run of npm itself that has just ended well, after `elapsed`.
///
/// Packages are taken from npm's cache, where npm has just put or used them, so what is learnt is what
/// the lockfile names, whatever scripts have done to the folder. Returns why nothing was learnt.
///
/// # Errors
/// When rift itself fails.
pub fn learn(request: &Request<'_>, elapsed: Option<Duration>) -> Result<Result<Report, String>> {
    let original = elapsed.map(|elapsed| {
        let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        Original { elapsed_ms, hardware: hardware() }
    });
    match learn_trees(request, original) {
        Ok(report) => Ok(Ok(report)),
        Err(Stop::Native(why)) => Ok(Err(why)),
        Err(Stop::Failed(error)) => Err(error),
    }
}

fn learn_trees(request: &Request<'_>, original: Option<Original>) -> Result<Report, Stop> {
    let layout = request.install.layout().map_err(|why| Stop::Native(why.to_string()))?;
    let packages = take_in(request, &layout, true, &BTreeMap::new())?;
    let mut report = Report { added: layout.added as u64, ..Report::default() };
    tally(&packages, &mut report);
    report.scripts_reused = packages.known.len() as u64;
    let waiting = packages.scripted.iter().map(|scripted| &scripted.path);
    let waiting: Vec<String> =
        waiting.filter(|path| !packages.known.contains_key(*path)).cloned().collect();
    let (trees, stored_bytes) = publish(request, &layout, packages, &BTreeMap::new())?;
    report.stored_bytes = stored_bytes;
    for (folder, tree) in &trees {
        count(request, folder, tree, &mut report);
    }
    let mut planned = plan_of(&layout, &trees, &report);
    planned.pending = waiting;
    let key = request.key();
    let before = || Planned::find(request.store, &key).ok()??.original;
    planned.original = original.or_else(before);
    planned.save(request.store, &key)?;
    report.original = planned.original;
    Ok(report)
}

/// Tells what [`run`] would do, line by line, without doing it.
///
/// # Errors
/// When rift itself fails.
pub fn foresee(request: &Request<'_>) -> Result<Vec<String>> {
    let planned = Planned::find(request.store, &request.key())?;
    let complete = planned.as_ref().filter(|planned| planned.pending.is_empty());
    if let Some(planned) = complete
        && let Some(trees) = open_all(request, &planned.roots)
    {
        let mut lines = vec![format!("a hit: {} packages are known", planned.packages)];
        for (folder, tree) in &trees {
            let target = request.install.root.join(folder);
            let asked = show_request(request, &target, tree);
            if asked.is_only_unmounted()? {
                let hash = tree.hash();
                lines
                    .push(format!("tree       {hash} at `{folder}`, which would be mounted again"));
                continue;
            }
            let state = match asked.differences()? {
                Some((_, found)) if found.is_empty() => "is there already",
                Some(_) => "is there and was edited: it would be mended",
                None => "would be written",
            };
            lines.push(format!("tree       {} at `{folder}`, which {state}", tree.hash()));
        }
        return Ok(lines);
    }
    let layout = match request.install.layout() {
        Ok(layout) => layout,
        Err(why) => return Ok(vec![format!("npm runs itself: {why}")]),
    };
    let (import, log) = (request.store.import()?, request.store.log()?);
    let archived = match archived(&layout) {
        Ok(archived) => archived,
        Err(Stop::Native(why)) => return Ok(vec![format!("npm runs itself: {why}")]),
        Err(Stop::Failed(error)) => return Err(error),
    };
    let is_known = |wanted: &Wanted| {
        super::package::Integrity::parse(&wanted.integrity)
            .is_ok_and(|integrity| fetch::find(&log, &import, &integrity).is_some())
    };
    let known = archived.iter().filter(|(_, wanted)| is_known(wanted)).count();
    let missing = archived.len() - known;
    let mut lines = vec![format!("a miss: {known} packages are known, {missing} would be fetched")];
    if let Some(planned) = planned {
        let scripts = planned.pending.join(", ");
        lines.push(format!("scripts    would run for {scripts}"));
    }
    Ok(lines)
}

/// Returns the umask, and how trees are written otherwise.
#[must_use]
pub fn options(threads: usize, verify: bool) -> Options {
    let stamp_ns = show::stamp_ns(std::env::var_os("SOURCE_DATE_EPOCH").as_deref());
    Options { threads, stamp_ns, umask: materialize::umask(), verify, ..Options::default() }
}
