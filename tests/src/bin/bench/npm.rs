//! The npm suite: what `rift exec -- npm ci` takes, beside npm, bun, pnpm, cp and the floors.
//!
//! Fairness: one machine, one run, all cases of a group in every round, in an order that rotates; caches warm and no
//! network unless the case's name says otherwise; `node_modules` removed and the disk drained before each measurement,
//! untimed; no `CI` variable; every case runs once unmeasured first, and what it made is then checked: equal to npm's
//! tree by the strict differ, or, for tools with a layout of their own, every direct dependency resolves.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rift_tests::differ::{Options, compare};
use rift_tests::fixture::{Fixture, direct_dependencies};
use rift_tests::sandbox::{Sandbox, clear};

use crate::floor::{self, Way};
use crate::measure::{self, Sample};
use crate::peers::Peers;
use crate::table::{Figure, Row};

/// What was asked for.
pub(crate) struct Wanted {
    pub(crate) runs: usize,
    pub(crate) only: Vec<String>,
    pub(crate) figures: bool,
}

/// What a case must have made.
enum Check {
    /// npm's tree, as in that project.
    Equal(PathBuf),
    /// Something in which the direct dependencies resolve.
    Resolves,
}

type Step<'a> = Box<dyn Fn(usize) -> Result<()> + 'a>;
type Run<'a> = Box<dyn Fn(usize) -> Result<Sample> + 'a>;

struct Case<'a> {
    group: &'static str,
    name: &'static str,
    project: PathBuf,
    before: Step<'a>,
    run: Run<'a>,
    check: Check,
}

/// One fixture's measurements.
pub(crate) struct Suite<'a> {
    pub(crate) sandbox: &'a Sandbox,
    pub(crate) peers: &'a Peers,
    pub(crate) fixture: Fixture,
    pub(crate) wanted: &'a Wanted,
}

const NPM_CI: &[&str] = &["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--offline"];
const NPM_CI_ONLINE: &[&str] = &["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"];
const NPM_CI_SCRIPTS: &[&str] = &["npm", "ci", "--no-audit", "--no-fund", "--offline"];

impl Suite<'_> {
    fn folder(&self, name: &str) -> PathBuf {
        self.sandbox.path(&format!("{}/{name}", self.fixture.name()))
    }

    fn wants(&self, group: &str, name: &str) -> bool {
        let full = format!("{group}: {name}");
        self.wanted.only.is_empty()
            || self.wanted.only.iter().any(|part| full.contains(part.as_str()))
    }

    fn rift(&self, project: &Path, store: &str, flags: &[&str], words: &[&str]) -> Result<Command> {
        let mut command = self.sandbox.rift(project, &["exec"])?;
        command.args(flags).arg("--").args(words).env("RIFT_STORE", self.folder(store));
        Ok(command)
    }

    fn plain(&self, project: &Path, program: &Path, words: &[&str]) -> Command {
        let mut command = self.sandbox.command(project, program);
        command.args(words);
        command
    }

    fn project(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder(name);
        if !folder.exists() {
            self.fixture.prepare(&folder)?;
        }
        Ok(folder)
    }

    fn measured(&self, command: Command, project: &Path) -> Result<Sample> {
        measure::command(&command, project, &self.sandbox.path("log"))
    }

    /// Runs something that prepares a case.
    fn quietly(&self, mut command: Command) -> Result<()> {
        self.sandbox.run(&mut command)?.success().map(drop)
    }

    /// Measures everything wanted.
    pub(crate) fn run(&self, rows: &mut Vec<Row>, figures: &mut Vec<Figure>) -> Result<()> {
        let reference = self.project("reference")?;
        // Fills npm's cache: the only download of most cases.
        self.quietly(self.plain(&reference, Path::new("npm"), &NPM_CI_ONLINE[1..]))?;
        let warm = self.warm_cases(&reference)?;
        let others = self.other_cases(&reference)?;
        for (cases, runs) in [(warm, self.wanted.runs), (others, self.wanted.runs.min(3))] {
            for group in cases.iter().map(|case| case.group).collect::<BTreeSet<_>>() {
                let of_group: Vec<&Case<'_>> =
                    cases.iter().filter(|case| case.group == group).collect();
                rows.extend(self.interleave(&of_group, runs));
            }
        }
        if self.wanted.figures {
            self.figures(&reference, figures)?;
        }
        clear(&self.folder(""))
    }

    fn interleave(&self, cases: &[&Case<'_>], runs: usize) -> Vec<Row> {
        let mut rows: Vec<Row> = cases.iter().map(|case| self.warm_up(case)).collect();
        for round in 0..runs {
            for turn in 0..cases.len() {
                let at = (turn + round) % cases.len();
                let (case, row) = (cases[at], &mut rows[at]);
                let sample = if row.failure.is_none() {
                    self.one(case, row.entries, round + 1)
                } else {
                    Ok(None)
                };
                match sample {
                    Ok(sample) => row.samples.push(sample),
                    Err(error) => row.failure = Some(format!("{error:#}")),
                }
            }
        }
        rows
    }

    /// Runs a case unmeasured and checks what it made.
    fn warm_up(&self, case: &Case<'_>) -> Row {
        let (fixture, group) = (self.fixture.name(), case.group);
        let mut row =
            Row { fixture, group, case: case.name, samples: Vec::new(), entries: 0, failure: None };
        let tried = (case.before)(0).and_then(|()| (case.run)(0)).and_then(|_| self.check(case));
        match tried.and_then(|()| entries(&case.project.join("node_modules"))) {
            Ok(count) => row.entries = count,
            Err(error) => row.failure = Some(format!("{error:#}")),
        }
        row
    }

    fn one(&self, case: &Case<'_>, expected: u64, round: usize) -> Result<Option<Sample>> {
        (case.before)(round)?;
        self.sandbox.settle()?;
        rustix::fs::sync();
        let sample = (case.run)(round)?;
        let found = entries(&case.project.join("node_modules"))?;
        // A changed package may have another number of files.
        let close = found.abs_diff(expected) * 50 <= expected;
        ensure!(close, "round {round} made {found} entries, not {expected}");
        Ok(Some(sample))
    }

    fn check(&self, case: &Case<'_>) -> Result<()> {
        let tree = case.project.join("node_modules");
        match &case.check {
            Check::Equal(reference) => {
                let differences =
                    compare(&reference.join("node_modules"), &tree, Options::default())?;
                let first = differences.first().map(ToString::to_string).unwrap_or_default();
                ensure!(
                    differences.is_empty(),
                    "{} differences from npm's tree: {first}",
                    differences.len()
                );
            }
            Check::Resolves => {
                for name in
                    direct_dependencies(&case.project, &["dependencies", "devDependencies"])?
                {
                    ensure!(
                        tree.join(&name).join("package.json").is_file(),
                        "{name} does not resolve"
                    );
                }
            }
        }
        Ok(())
    }

    fn remover<'a>(&self, project: &Path) -> Step<'a> {
        let tree = project.join("node_modules");
        Box::new(move |_| clear(&tree))
    }

    fn warm_cases(&self, reference: &Path) -> Result<Vec<Case<'_>>> {
        let mut cases = Vec::new();
        let equal = || Check::Equal(reference.to_path_buf());
        let group = "warm";
        for (name, flags) in
            [("rift hit", &[][..]), ("rift hit, --via hardlink", &["--via", "hardlink"])]
        {
            if self.wants(group, name) {
                let project =
                    self.project(if flags.is_empty() { "rift" } else { "rift-hardlink" })?;
                let at = project.clone();
                let run: Run<'_> =
                    Box::new(move |_| self.measured(self.rift(&at, "store", flags, NPM_CI)?, &at));
                // The first run learns; the warm-up then is a hit already.
                if let Err(error) = run(0) {
                    eprintln!("learning for `{name}` failed: {error:#}");
                }
                cases.push(Case {
                    group,
                    name,
                    before: self.remover(&project),
                    project,
                    run,
                    check: equal(),
                });
            }
        }
        if self.wants(group, "rift repeat") {
            let project = self.project("rift-repeat")?;
            let (at, before) = (project.clone(), Box::new(|_| Ok(())));
            let run: Run<'_> =
                Box::new(move |_| self.measured(self.rift(&at, "store", &[], NPM_CI)?, &at));
            cases.push(Case { group, name: "rift repeat", project, before, run, check: equal() });
        }
        if self.wants(group, "rift, one package changed") {
            cases.push(self.changed_case()?);
        }
        if self.wants(group, "npm ci") {
            let project = self.project("npm")?;
            let at = project.clone();
            let run: Run<'_> = Box::new(move |_| {
                self.measured(self.plain(&at, Path::new("npm"), &NPM_CI[1..]), &at)
            });
            cases.push(Case {
                group,
                name: "npm ci",
                before: self.remover(&project),
                project,
                run,
                check: equal(),
            });
        }
        for name in [
            "pnpm, hard links",
            "pnpm, global virtual store",
            "bun, hard links",
            "bun, isolated global store",
        ] {
            if self.wants(group, name) {
                cases.push(self.peer_case(name)?);
            }
        }
        for (name, how) in [("cp -al", "-al"), ("cp -a", "-a")] {
            if self.wants(group, name) {
                let project = self.project(&format!("cp{how}"))?;
                let (at, from) = (project.clone(), reference.join("node_modules"));
                let run: Run<'_> = Box::new(move |_| {
                    let mut command = self.sandbox.command(&at, "cp");
                    command.arg(how).arg(&from).arg(at.join("node_modules"));
                    self.measured(command, &at)
                });
                cases.push(Case {
                    group,
                    name,
                    before: self.remover(&project),
                    project,
                    run,
                    check: equal(),
                });
            }
        }
        for (name, way) in [("two-thread write", Way::Write), ("two-thread links", Way::Link)] {
            if self.wants(group, name) {
                let project = self.project(&name.replace(' ', "-"))?;
                let (at, from) = (project.clone(), reference.join("node_modules"));
                // Kept for all rounds: memory given back and taken again would be charged to the writing.
                let tree = floor::load(&from, way)?;
                let run: Run<'_> = Box::new(move |_| {
                    measure::here(|| floor::run(&tree, &from, &at.join("node_modules"), way))
                });
                cases.push(Case {
                    group,
                    name,
                    before: self.remover(&project),
                    project,
                    run,
                    check: equal(),
                });
            }
        }
        Ok(cases)
    }

    /// One package of a version that the store does not have, but npm's cache does; another version in every round.
    fn changed_case(&self) -> Result<Case<'_>> {
        let project = self.project("rift-changed")?;
        let package = if self.fixture == Fixture::Small { "globals@15" } else { "zod@3.23" };
        let variants = self.folder("variants");
        for round in 0..=self.wanted.runs.min(8) {
            let variant = variants.join(round.to_string());
            self.fixture.prepare(&variant)?;
            let word = if self.fixture == Fixture::Small {
                format!("{package}.{round}.0")
            } else {
                format!("{package}.{round}")
            };
            let words = [
                "install",
                "--ignore-scripts",
                "--package-lock-only",
                "--save-exact",
                "--prefer-offline",
            ];
            self.quietly(self.plain(&variant, Path::new("npm"), &[&words[..], &[&word]].concat()))?;
            self.quietly(self.plain(&variant, Path::new("npm"), &["cache", "add", &word]))?;
        }
        // The store knows the tree of the fixture as it is.
        if let Err(error) = self.measured(self.rift(&project, "store", &[], NPM_CI)?, &project) {
            eprintln!("learning for `rift, one package changed` failed: {error:#}");
        }
        let at = project.clone();
        let from = variants.clone();
        let before: Step<'_> = Box::new(move |round| {
            for name in ["package.json", "package-lock.json"] {
                fs::copy(from.join(round.min(8).to_string()).join(name), at.join(name))?;
            }
            clear(&at.join("node_modules"))
        });
        let at = project.clone();
        let run: Run<'_> =
            Box::new(move |_| self.measured(self.rift(&at, "store", &[], NPM_CI)?, &at));
        // What npm makes of the first variant, which is the one that is checked.
        let native = variants.join("0");
        self.quietly(self.plain(&native, Path::new("npm"), &NPM_CI[1..]))?;
        let check = Check::Equal(native);
        Ok(Case { group: "warm", name: "rift, one package changed", project, before, run, check })
    }

    /// bun or pnpm with a warm store and the lockfile that it made itself.
    fn peer_case(&self, name: &'static str) -> Result<Case<'_>> {
        let (program, project, mut words) = self.peer(name)?;
        if name.starts_with("pnpm") {
            words.push("--offline");
        }
        let at = project.clone();
        let run: Run<'_> = Box::new(move |_| self.measured(self.plain(&at, &program, &words), &at));
        Ok(Case {
            group: "warm",
            name,
            before: self.remover(&project),
            project,
            run,
            check: Check::Resolves,
        })
    }

    /// Prepares a project of bun's or pnpm's: settings, lockfile, warm store.
    fn peer(&self, name: &str) -> Result<(PathBuf, PathBuf, Vec<&'static str>)> {
        let project = self.project(&name.replace([',', ' '], "-"))?;
        let frozen = ["install", "--frozen-lockfile", "--ignore-scripts"];
        let bun = name.starts_with("bun");
        let program = if bun { &self.peers.bun } else { &self.peers.pnpm };
        let mut words = frozen.to_vec();
        match name {
            "bun, hard links" => words.extend(["--linker", "hoisted", "--backend", "hardlink"]),
            "bun, isolated global store" => {
                let text = "[install]\nglobalStore = true\nlinker = \"isolated\"\n";
                fs::write(project.join("bunfig.toml"), text)?;
            }
            "pnpm, global virtual store" => {
                fs::write(project.join("pnpm-workspace.yaml"), "enableGlobalVirtualStore: true\n")?;
            }
            _ => fs::write(project.join("pnpm-workspace.yaml"), "packageImportMethod: hardlink\n")?,
        }
        if !project.join(if bun { "bun.lock" } else { "pnpm-lock.yaml" }).exists() {
            if !bun {
                self.quietly(self.plain(&project, program, &["import"]))?;
            }
            self.quietly(self.plain(
                &project,
                program,
                &[&["install", "--ignore-scripts"][..], &words[3..]].concat(),
            ))?;
        }
        Ok((program.clone(), project, words))
    }

    fn other_cases(&self, reference: &Path) -> Result<Vec<Case<'_>>> {
        let mut cases = Vec::new();
        let equal = || Check::Equal(reference.to_path_buf());
        let forget = |project: &Path, caches: &[&str]| -> Step<'_> {
            let mut gone: Vec<PathBuf> = caches.iter().map(|name| self.folder(name)).collect();
            gone.push(project.join("node_modules"));
            Box::new(move |_| gone.iter().try_for_each(|path| clear(path)))
        };

        let group = "cold store, warm npm cache";
        for (name, flags) in [("rift", &[][..]), ("rift --record-only", &["--record-only"])] {
            if self.wants(group, name) {
                let project = self.project("cold-store")?;
                let at = project.clone();
                let run: Run<'_> = Box::new(move |_| {
                    self.measured(self.rift(&at, "cold-store-store", flags, NPM_CI)?, &at)
                });
                let before = forget(&project, &["cold-store-store"]);
                cases.push(Case { group, name, project, before, run, check: equal() });
            }
        }
        if self.wants(group, "npm ci") {
            let project = self.project("npm")?;
            let at = project.clone();
            let run: Run<'_> = Box::new(move |_| {
                self.measured(self.plain(&at, Path::new("npm"), &NPM_CI[1..]), &at)
            });
            cases.push(Case {
                group,
                name: "npm ci",
                before: self.remover(&project),
                project,
                run,
                check: equal(),
            });
        }

        let group = "everything cold";
        let cold_npm = self.folder("cold-npm");
        if self.wants(group, "rift") {
            let project = self.project("cold")?;
            let (at, cache) = (project.clone(), cold_npm.clone());
            let run: Run<'_> = Box::new(move |_| {
                let mut command = self.rift(&at, "cold-everything-store", &[], NPM_CI_ONLINE)?;
                command.env("npm_config_cache", &cache);
                self.measured(command, &at)
            });
            let before = forget(&project, &["cold-everything-store", "cold-npm"]);
            cases.push(Case { group, name: "rift", project, before, run, check: equal() });
        }
        if self.wants(group, "npm ci") {
            let project = self.project("cold")?;
            let (at, cache) = (project.clone(), cold_npm.clone());
            let run: Run<'_> = Box::new(move |_| {
                let mut command = self.plain(&at, Path::new("npm"), &NPM_CI_ONLINE[1..]);
                command.env("npm_config_cache", &cache);
                self.measured(command, &at)
            });
            let before = forget(&project, &["cold-npm"]);
            cases.push(Case { group, name: "npm ci", project, before, run, check: equal() });
        }
        for (name, of) in [("bun", "bun, hard links"), ("pnpm", "pnpm, hard links")] {
            if self.wants(group, name) {
                let (program, project, mut words) = self.peer(of)?;
                let store = self.folder(&format!("cold-{name}"));
                let flag = if name == "bun" { "--cache-dir" } else { "--store-dir" };
                let at = project.clone();
                words.push(flag);
                let cold = store.clone();
                let run: Run<'_> = Box::new(move |_| {
                    let mut command = self.plain(&at, &program, &words);
                    // pnpm also keeps what the registry said.
                    command.arg(&cold).env("XDG_CACHE_HOME", cold.join("cache"));
                    self.measured(command, &at)
                });
                let tree = project.join("node_modules");
                let before: Step<'_> = Box::new(move |_| clear(&store).and_then(|()| clear(&tree)));
                cases.push(Case { group, name, project, before, run, check: Check::Resolves });
            }
        }

        let group = "npm install lodash";
        for (name, under) in [("rift", true), ("npm", false)] {
            if self.wants(group, name) {
                let project = self.project(&format!("lodash-{name}"))?;
                let words = [
                    "npm",
                    "install",
                    "lodash@4.17.21",
                    "--ignore-scripts",
                    "--no-audit",
                    "--prefer-offline",
                ];
                let (at, from) = (project.clone(), reference.to_path_buf());
                let before: Step<'_> = Box::new(move |_| {
                    clear(&at)?;
                    let copied = Command::new("cp").arg("-a").arg(&from).arg(&at).status()?;
                    ensure!(copied.success(), "cp -a ended with {copied}");
                    Ok(())
                });
                let at = project.clone();
                let run: Run<'_> = Box::new(move |_| {
                    let command = match under {
                        true => self.rift(&at, "store", &[], &words)?,
                        false => self.plain(&at, Path::new("npm"), &words[1..]),
                    };
                    self.measured(command, &at)
                });
                cases.push(Case { group, name, project, before, run, check: Check::Resolves });
            }
        }

        let group = "install scripts on";
        if self.wants(group, "rift hit") {
            let native = self.project("scripts-native")?;
            self.quietly(self.plain(
                &native,
                Path::new("npm"),
                &["ci", "--no-audit", "--no-fund"],
            ))?;
            for (name, words, check) in [
                ("rift hit", NPM_CI_SCRIPTS, Check::Equal(native)),
                ("rift hit without scripts", NPM_CI, equal()),
            ] {
                let project = self.project(if words == NPM_CI { "rift" } else { "scripts" })?;
                let at = project.clone();
                let run: Run<'_> =
                    Box::new(move |_| self.measured(self.rift(&at, "store", &[], words)?, &at));
                if let Err(error) = run(0) {
                    eprintln!("learning for `{name}` failed: {error:#}");
                }
                cases.push(Case {
                    group,
                    name,
                    before: self.remover(&project),
                    project,
                    run,
                    check,
                });
            }
        }
        Ok(cases)
    }

    /// Sizes and rates that are no times of an install.
    fn figures(&self, reference: &Path, figures: &mut Vec<Figure>) -> Result<()> {
        let tree = reference.join("node_modules");
        let (total, unique) = content_bytes(&tree)?;
        let mut note = |name: &str, value: f64, unit: &'static str| {
            figures.push(Figure {
                fixture: self.fixture.name(),
                name: name.to_owned(),
                value,
                unit,
            });
        };
        note("bytes of the tree's files", total as f64 / 1e6, "MB");
        note("unique bytes of the tree's files", unique as f64 / 1e6, "MB");
        if self.wants("figures", "rift ingest") {
            let mut rates = Vec::new();
            for _run in 0..self.wanted.runs.min(3) {
                let store = self.folder("ingest-store");
                clear(&store)?;
                rustix::fs::sync();
                let mut command = self.sandbox.rift(reference, &["ingest", "node_modules"])?;
                command.env("RIFT_STORE", &store);
                let sample = self.measured(command, reference)?;
                rates.push(total as f64 / 1e6 / sample.wall_s);
                note(
                    "rift ingest, peak memory",
                    sample.rss_bytes_max.unwrap_or(0) as f64 / 1e6,
                    "MB",
                );
                let size = disk_bytes(&[store])?;
                note("store after ingest over unique bytes", size as f64 / unique as f64, "×");
            }
            note("rift ingest, median", crate::table::median(rates).unwrap_or(0.0), "MB/s");
        }
        for name in ["rift", "rift, --via hardlink", "npm", "bun, hard links", "pnpm, hard links"] {
            if self.wants("figures: ten projects", name) {
                match self.ten_projects(name) {
                    Ok(bytes) => note(
                        &format!("disk of ten projects and the cache, {name}"),
                        bytes as f64 / 1e6,
                        "MB",
                    ),
                    Err(error) => eprintln!("ten projects of `{name}` failed: {error:#}"),
                }
            }
        }
        Ok(())
    }

    /// Installs ten projects from one fresh cache and returns the disk used by all together.
    fn ten_projects(&self, name: &str) -> Result<u64> {
        let all = self.folder("ten");
        clear(&all)?;
        let cache = all.join("cache");
        for number in 0..10 {
            let project = all.join(number.to_string());
            let command = if name.starts_with("rift") {
                self.fixture.prepare(&project)?;
                let flags = if name == "rift" { &[][..] } else { &["--via", "hardlink"] };
                self.rift(&project, "ten/cache", flags, NPM_CI)?
            } else if name == "npm" {
                self.fixture.prepare(&project)?;
                let mut command = self.plain(&project, Path::new("npm"), &NPM_CI_ONLINE[1..]);
                command.env("npm_config_cache", &cache);
                command
            } else {
                let (program, from, words) = self.peer(name)?;
                fs::create_dir_all(&project)?;
                for name in ["package.json", "bun.lock", "pnpm-lock.yaml", "pnpm-workspace.yaml"] {
                    if from.join(name).exists() {
                        fs::copy(from.join(name), project.join(name))?;
                    }
                }
                let mut command = self.plain(&project, &program, &words);
                command
                    .arg(if name.starts_with("bun") { "--cache-dir" } else { "--store-dir" })
                    .arg(&cache);
                command
            };
            self.quietly(command)?;
        }
        let bytes = disk_bytes(std::slice::from_ref(&all))?;
        clear(&all)?;
        Ok(bytes)
    }
}

fn walk(folder: &Path, visit: &mut dyn FnMut(&Path, &fs::Metadata) -> Result<()>) -> Result<()> {
    for entry in
        fs::read_dir(folder).with_context(|| format!("could not list {}", folder.display()))?
    {
        let path = entry?.path();
        let metadata = fs::symlink_metadata(&path)?;
        visit(&path, &metadata)?;
        if metadata.is_dir() {
            walk(&path, visit)?;
        }
    }
    Ok(())
}

/// Returns the number of files and symlinks below a folder.
fn entries(folder: &Path) -> Result<u64> {
    let mut count = 0;
    walk(folder, &mut |_, metadata| {
        count += u64::from(!metadata.is_dir());
        Ok(())
    })?;
    Ok(count)
}

/// Returns the blocks that folders use on disk, every inode counted once.
fn disk_bytes(folders: &[PathBuf]) -> Result<u64> {
    let mut inodes = BTreeMap::new();
    rustix::fs::sync();
    for folder in folders {
        walk(folder, &mut |_, metadata| {
            inodes.insert((metadata.dev(), metadata.ino()), metadata.blocks() * 512);
            Ok(())
        })?;
    }
    Ok(inodes.values().sum())
}

/// Returns the bytes of all files, and of all different files.
fn content_bytes(folder: &Path) -> Result<(u64, u64)> {
    let (mut total, mut unique) = (0, BTreeMap::new());
    walk(folder, &mut |path, metadata| {
        if metadata.is_file() {
            let mut hasher = DefaultHasher::new();
            fs::read(path)?.hash(&mut hasher);
            total += metadata.len();
            unique.insert((hasher.finish(), metadata.len()), metadata.len());
        }
        Ok(())
    })?;
    Ok((total, unique.values().sum()))
}
