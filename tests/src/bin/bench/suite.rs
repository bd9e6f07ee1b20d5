//! What every suite is made of: cases in groups, run in rounds, each with a check of what it made.
//!
//! Fairness: one machine, one run, all cases of a group in every round, in an order drawn for it; the disk drained
//! before each measurement, untimed; no `CI` variable; every case runs once unmeasured first, and what it made is then
//! checked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rift_tests::differ::{Options, compare};
use rift_tests::fault::Dice;
use rift_tests::fixture::{Fixture, direct_dependencies};
use rift_tests::sandbox::{Sandbox, clear};

use crate::measure::{self, Sample};
use crate::peers::Peers;
use crate::table::{Report, Row, time};

/// What was asked for.
pub(crate) struct Wanted {
    pub(crate) runs: usize,
    pub(crate) only: Vec<String>,
    pub(crate) figures: bool,
}

/// What a case must have made.
pub(crate) enum Check<'a> {
    /// npm's tree, as in that project.
    Equal(PathBuf),
    /// Something in which the direct dependencies resolve.
    Resolves,
    /// What the case itself knows.
    Own(Box<dyn Fn() -> Result<()> + 'a>),
}

type Step<'a> = Box<dyn Fn(usize) -> Result<()> + 'a>;
type Run<'a> = Box<dyn Fn(usize) -> Result<Sample> + 'a>;

pub(crate) struct Case<'a> {
    pub(crate) group: &'static str,
    pub(crate) name: &'static str,
    pub(crate) project: PathBuf,
    pub(crate) before: Step<'a>,
    pub(crate) run: Run<'a>,
    pub(crate) check: Check<'a>,
    /// How many entries there are afterwards: by default the files and symlinks in `node_modules`.
    pub(crate) count: Box<dyn Fn() -> Result<u64> + 'a>,
    /// Untimed, when the result has been looked at: by default removes it, so that no case finds the page cache and
    /// the disk full of another's tree.
    pub(crate) after: Box<dyn Fn() -> Result<()> + 'a>,
}

/// One fixture's measurements.
pub(crate) struct Suite<'a> {
    pub(crate) sandbox: &'a Sandbox,
    /// Of suites that compare with them.
    pub(crate) peers: Option<&'a Peers>,
    pub(crate) fixture: Fixture,
    pub(crate) wanted: &'a Wanted,
}

pub(crate) const NPM_CI: &[&str] =
    &["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--offline"];
pub(crate) const NPM_CI_ONLINE: &[&str] =
    &["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"];
pub(crate) const NPM_CI_SCRIPTS: &[&str] = &["npm", "ci", "--no-audit", "--no-fund", "--offline"];

impl Suite<'_> {
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        self.sandbox.path(&format!("{}/{name}", self.fixture.name()))
    }

    pub(crate) fn wants(&self, group: &str, name: &str) -> bool {
        let full = format!("{group}: {name}");
        self.wanted.only.is_empty()
            || self.wanted.only.iter().any(|part| full.contains(part.as_str()))
    }

    /// Returns `rift WORDS` with a store of the fixture's.
    pub(crate) fn rift_in(&self, project: &Path, store: &str, words: &[&str]) -> Result<Command> {
        let mut command = self.sandbox.rift(project, words)?;
        command.env("RIFT_STORE", self.folder(store));
        Ok(command)
    }

    /// Returns `rift exec FLAGS -- WORDS` with a store of the fixture's.
    pub(crate) fn rift(
        &self,
        project: &Path,
        store: &str,
        flags: &[&str],
        words: &[&str],
    ) -> Result<Command> {
        let mut command = self.rift_in(project, store, &["exec"])?;
        command.args(flags).arg("--").args(words);
        Ok(command)
    }

    pub(crate) fn plain(&self, project: &Path, program: &Path, words: &[&str]) -> Command {
        let mut command = self.sandbox.command(project, program);
        command.args(words);
        command
    }

    pub(crate) fn project(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder(name);
        if !folder.exists() {
            self.fixture.prepare(&folder)?;
        }
        Ok(folder)
    }

    pub(crate) fn measured(&self, command: Command, project: &Path) -> Result<Sample> {
        measure::command(&command, project, &self.sandbox.path("log"))
    }

    /// Says that something can't be measured here.
    pub(crate) fn leave_out(&self, report: &mut Report, what: &str, why: &str) {
        report.left_out.push(format!("{}, {what}: {why}", self.fixture.name()));
    }

    /// Runs something that prepares a case.
    pub(crate) fn quietly(&self, mut command: Command) -> Result<()> {
        self.sandbox.run(&mut command)?.success().map(drop)
    }

    /// Returns the project as npm installs it; npm's cache is filled by that, the only download of most cases.
    pub(crate) fn reference(&self) -> Result<PathBuf> {
        let reference = self.project("reference")?;
        self.quietly(self.plain(&reference, Path::new("npm"), &NPM_CI_ONLINE[1..]))?;
        Ok(reference)
    }

    pub(crate) fn interleave(&self, cases: &[Case<'_>], runs: usize) -> Vec<Row> {
        let mut rows: Vec<Row> = cases.iter().map(|case| self.warm_up(case)).collect();
        for round in 0..runs {
            for at in order(cases.len(), round) {
                let (case, row) = (&cases[at], &mut rows[at]);
                let sample = if row.failure.is_none() {
                    self.one(case, row.entries, round + 1)
                } else {
                    Ok(None)
                };
                let what = format!("{}, {}: {}", row.fixture, case.group, case.name);
                match &sample {
                    Ok(Some(sample)) => {
                        eprintln!("{}/{runs} {what}: {}", round + 1, time(Some(sample.wall_s)))
                    }
                    Ok(None) => {}
                    Err(error) => eprintln!("{}/{runs} {what}: {error:#}", round + 1),
                }
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
        eprintln!("warming up {fixture}, {group}: {}", case.name);
        let tried = (case.before)(0).and_then(|()| (case.run)(0)).and_then(|_| self.check(case));
        match tried.and_then(|()| (case.count)()).and_then(|count| (case.after)().map(|()| count)) {
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
        let found = (case.count)()?;
        // A changed package may have another number of files.
        let close = found.abs_diff(expected) * 50 <= expected;
        ensure!(close, "round {round} made {found} entries, not {expected}");
        (case.after)()?;
        Ok(Some(sample))
    }

    fn check(&self, case: &Case<'_>) -> Result<()> {
        let tree = case.project.join("node_modules");
        match &case.check {
            Check::Equal(reference) => {
                same(&reference.join("node_modules"), &tree).context("it is not npm's tree")?;
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
            Check::Own(holds) => holds()?,
        }
        Ok(())
    }

    /// A case that starts without `node_modules` and is checked against npm's tree.
    pub(crate) fn case<'a>(
        &self,
        group: &'static str,
        name: &'static str,
        project: PathBuf,
        check: Check<'a>,
        run: impl Fn(&Path) -> Result<Sample> + 'a,
    ) -> Case<'a> {
        let tree = project.join("node_modules");
        let (counted, after) = (tree.clone(), tree.clone());
        let at = project.clone();
        Case {
            group,
            name,
            project,
            before: Box::new(move |_| clear(&tree)),
            run: Box::new(move |_| run(&at)),
            check,
            count: Box::new(move || entries(&counted)),
            after: Box::new(move || clear(&after)),
        }
    }

    /// The same, where caches are removed too before each run.
    pub(crate) fn forgetting<'a>(&self, mut case: Case<'a>, caches: &[&str]) -> Case<'a> {
        let mut gone: Vec<PathBuf> = caches.iter().map(|name| self.folder(name)).collect();
        gone.push(case.project.join("node_modules"));
        case.before = Box::new(move |_| gone.iter().try_for_each(|path| clear(path)));
        case
    }

    /// `rift exec` with a warm store: the first run learns, the warm-up then is a hit already.
    pub(crate) fn hit<'a>(
        &'a self,
        group: &'static str,
        name: &'static str,
        project: PathBuf,
        check: Check<'a>,
        (flags, words): (&'static [&'static str], &'static [&'static str]),
    ) -> Case<'a> {
        let run = move |at: &Path| self.measured(self.rift(at, "store", flags, words)?, at);
        if let Err(error) = run(&project) {
            eprintln!("learning for `{name}` failed: {error:#}");
        }
        self.case(group, name, project, check, run)
    }

    /// `npm ci` as it is.
    pub(crate) fn npm_case(&self, group: &'static str, reference: &Path) -> Result<Case<'_>> {
        let run = |at: &Path| self.measured(self.plain(at, Path::new("npm"), &NPM_CI[1..]), at);
        let equal = Check::Equal(reference.to_path_buf());
        Ok(self.case(group, "npm ci", self.project("npm")?, equal, run))
    }

    /// bun or pnpm with a warm store and the lockfile that it made itself.
    pub(crate) fn peer_case(&self, group: &'static str, name: &'static str) -> Result<Case<'_>> {
        let (program, project, mut words) = self.peer(name)?;
        if name.starts_with("pnpm") {
            words.push("--offline");
        }
        let run = move |at: &Path| self.measured(self.plain(at, &program, &words), at);
        Ok(self.case(group, name, project, Check::Resolves, run))
    }

    /// Prepares a project of bun's or pnpm's: settings, lockfile, warm store.
    pub(crate) fn peer(&self, name: &str) -> Result<(PathBuf, PathBuf, Vec<&'static str>)> {
        let project = self.project(&name.replace([',', ' '], "-"))?;
        let frozen = ["install", "--frozen-lockfile", "--ignore-scripts"];
        let bun = name.starts_with("bun");
        let peers = self.peers.context("this suite has no peers")?;
        let program = if bun { &peers.bun } else { &peers.pnpm };
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
}

/// Returns the cases of a round in an order of its own, the same in every run.
fn order(count: usize, round: usize) -> Vec<usize> {
    let mut dice = Dice::new(round as u64);
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        // Below `count`, so it fits.
        order.swap(last, dice.below(last as u64 + 1) as usize);
    }
    order
}

/// Makes the kernel forget names, inodes and pages that nobody uses.
pub(crate) fn drop_caches() -> Result<()> {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").context("could not drop the kernel's caches")
}

/// Fails where two trees differ.
pub(crate) fn same(expected: &Path, found: &Path) -> Result<()> {
    let differences = compare(expected, found, Options::default())?;
    let first = differences.first().map(ToString::to_string).unwrap_or_default();
    ensure!(differences.is_empty(), "{} differences: {first}", differences.len());
    Ok(())
}

pub(crate) fn walk(
    folder: &Path,
    visit: &mut dyn FnMut(&Path, &fs::Metadata) -> Result<()>,
) -> Result<()> {
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
pub(crate) fn entries(folder: &Path) -> Result<u64> {
    let mut count = 0;
    walk(folder, &mut |_, metadata| {
        count += u64::from(!metadata.is_dir());
        Ok(())
    })?;
    Ok(count)
}
