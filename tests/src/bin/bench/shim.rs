//! The shim suite: programs of a run in a projection that only the shim shows, beside the same programs in real files;
//! and programs of a run that never go near its projection, beside the same programs without rift.
//!
//! Both sides of a pair are the same program with the same words, in rounds of one run, in an order drawn for each round.
//! Single operations are measured by `tests/apps/measure_calls.c` in its own process. Whole programs are measured by a
//! small process that is part of the run as well, so that rift's own start is in no time but those of cold walks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use rift_tests::apps::compiled;
use rift_tests::fixture::Fixture;
use rift_tests::need::Need;
use rift_tests::sandbox::clear;

use crate::measure::{self, How, Sample};
use crate::suite::{Case, Check, Suite, drop_caches, same};
use crate::table::Target::{AtMost, Reported};
use crate::table::{Figure, Measure, Of, Report, median};
use crate::walk::{self as pass, Counts};

/// What the table's head names the versions of.
pub(crate) const PROGRAMS: [&str; 4] = ["node", "git", "find", "du"];

const RIFT: &str = "rift exec";
/// In real files, or without rift.
const PLAIN: &str = "plain";
const PRELOAD: &str = "plain, an empty library preloaded";

const STAT: &str = "inside: stat";
const MISSING: &str = "inside: stat of a missing path";
const LIST: &str = "inside: 22 readdir calls";
const LIST_FETCHED: &str = "inside: the C library's own part of 22 readdir calls";
const OPENDIR: &str = "inside: opendir+closedir";
const STAT_REAL: &str = "inside: stat of what is real";
const OPEN_REAL: &str = "inside: open+close of what is real";
const FSTAT_REAL: &str = "inside: fstat of what is real";
const OUT_STAT: &str = "outside: stat";
const OUT_MISSING: &str = "outside: stat of a missing path";
const OUT_OPEN: &str = "outside: open+close";
const OUT_READ: &str = "outside: read";
const OUT_FSTAT: &str = "outside: fstat";

/// Each group of single operations, with its word for the program; inside and outside of a projection.
const INSIDE: &[(&str, &str)] = &[
    (STAT, "stat"),
    (MISSING, "missing"),
    (LIST, "list"),
    (LIST_FETCHED, "list-fetched"),
    (OPENDIR, "opendir"),
    (STAT_REAL, "stat-opened"),
    (OPEN_REAL, "open"),
    (FSTAT_REAL, "fstat"),
];
const OUTSIDE: &[(&str, &str)] = &[
    (OUT_STAT, "stat"),
    (OUT_MISSING, "missing"),
    (OUT_OPEN, "open"),
    (OUT_READ, "read"),
    (OUT_FSTAT, "fstat"),
];

const FIRST_OPEN: &str = "inside: first open of 4 KB";

const FIND: &str = "find -printf %s";
const DU: &str = "du -s";
const NFTW: &str = "nftw";
const WALKERS: [&str; 3] = [FIND, DU, NFTW];
const WARM: [&str; 3] = ["find -printf %s, warm", "du -s, warm", "nftw, warm"];
const COLD: [&str; 3] = ["find -printf %s, cold", "du -s, cold", "nftw, cold"];

const GIT: &str = "outside: git status";
const CARGO: &str = "outside: cargo build";
const NODE: &str = "outside: node -e 0";
const TSC: &str = "outside: tsc --noEmit";
const TRUE: &str = "process start: /bin/true";

const LIBRARY: &str = "size of the library";
const MEMORY: &str = "private memory of a process, more than plain, the tree's mappings apart";

const PATH: &str = "length of the path of inside: stat";

/// The tree of single operations, as `tests/apps/measure_calls.c` wants it: without `.` and `..`, and of folders of files.
const LISTED: usize = 20;
const FOLDERS: usize = 40;
const FILES_EACH: usize = 100;
const FILE_BYTES: usize = 4096;

/// The repository in which `git status` is asked.
const TRACKED_FOLDERS: usize = 100;
const TRACKED_EACH: usize = 30;

/// What the shim is held to. Whole trees are compared on the medium project, as small ones are mostly the start of a
/// process.
pub(crate) fn measures(of: &Of<'_>) -> Vec<Measure> {
    let walked = |bound| if of.fixture == "medium" { AtMost(bound) } else { Reported };
    let over = |group| of.ratio((group, RIFT), (group, PLAIN));
    let each = |group, units| {
        of.median((group, RIFT), |sample| Some(sample.wall_s)).map(|seconds| seconds * units)
    };
    let start = |case| of.more((TRUE, case), (TRUE, PLAIN)).map(|seconds| seconds * 1e6);
    vec![
        ("inside: stat of an existing path, ns", each(STAT, 1e9), AtMost(120.0)),
        ("inside: stat of an existing path, over native", over(STAT), Reported),
        ("inside: stat of a missing path, ns", each(MISSING, 1e9), AtMost(100.0)),
        ("inside: stat of a missing path, over native", over(MISSING), Reported),
        ("inside: 22 readdir calls, ns", each(LIST, 1e9), AtMost(300.0)),
        ("inside: 22 readdir calls, over native", over(LIST), Reported),
        ("inside: the C library's own part of these, ns", each(LIST_FETCHED, 1e9), Reported),
        ("inside: opendir+closedir, over native", over(OPENDIR), Reported),
        ("inside: first open of a packed 4 KB file, µs", each(FIRST_OPEN, 1e6), Reported),
        ("inside: first open, over making it natively", over(FIRST_OPEN), AtMost(1.3)),
        ("inside: open+close of what is real, over native", over(OPEN_REAL), AtMost(1.1)),
        ("inside: stat of what is real, over native", over(STAT_REAL), Reported),
        ("inside: fstat of what is real, over native", over(FSTAT_REAL), Reported),
        ("find, warm, over native", over(WARM[0]), walked(0.6)),
        ("du, warm, over native", over(WARM[1]), walked(0.6)),
        ("nftw, warm, over native", over(WARM[2]), walked(0.6)),
        ("find, cold, over native", over(COLD[0]), walked(0.2)),
        ("du, cold, over native", over(COLD[1]), walked(0.2)),
        ("nftw, cold, over native", over(COLD[2]), walked(0.2)),
        ("outside: stat, over plain", over(OUT_STAT), AtMost(1.03)),
        ("outside: open+close, over plain", over(OUT_OPEN), AtMost(1.03)),
        ("outside: read, over plain", over(OUT_READ), AtMost(1.03)),
        ("outside: stat of a missing path, over plain", over(OUT_MISSING), AtMost(1.1)),
        ("outside: fstat, over plain", over(OUT_FSTAT), Reported),
        ("outside: git status, over plain", over(GIT), AtMost(1.02)),
        ("outside: cargo build with nothing to do, over plain", over(CARGO), AtMost(1.02)),
        ("outside: node -e 0, over plain", over(NODE), AtMost(1.02)),
        ("outside: tsc --noEmit, over plain", over(TSC), AtMost(1.02)),
        ("start of /bin/true, µs more than plain", start(RIFT), AtMost(200.0)),
        ("start of /bin/true with an empty library, µs more", start(PRELOAD), Reported),
        ("size of the library, KB", of.figure(LIBRARY), AtMost(300.0)),
        ("private memory of a process, KB more than plain", of.figure(MEMORY), AtMost(1024.0)),
    ]
}

/// A program that is run outside of the projection.
struct Program<'a> {
    group: &'static str,
    command: Box<dyn Fn() -> Command + 'a>,
    /// How many times for one sample.
    times: usize,
    /// What it says when it has done what it should.
    says: &'static str,
}

/// Prepares the cases of a section, all of which are measured in the same rounds.
type Section<'s> = for<'a> fn(&'a Suite<'s>, &mut Report) -> Result<Vec<Case<'a>>>;

impl Suite<'_> {
    /// Measures everything wanted; `save` is called after each section, so that what was measured outlives a cut.
    pub(crate) fn shim(
        &self,
        report: &mut Report,
        save: &dyn Fn(&Report) -> Result<()>,
    ) -> Result<()> {
        if let Some(why) = Need::Tool("cc").missing() {
            self.leave_out(report, "everything", &why);
            return Ok(());
        }
        let (all, many) = (self.wanted.runs, self.wanted.runs * 3);
        for (section, runs) in [
            (Self::call_cases as Section<'_>, many),
            (Self::first_open_cases, many),
            (Self::warm_walk_cases, many),
            (Self::cold_walk_cases, all),
            (Self::program_cases, many),
        ] {
            let cases = section(self, report)?;
            report.rows.extend(self.interleave(&cases, runs));
            save(report)?;
        }
        if self.wanted.figures {
            self.shim_figures(report)?;
            save(report)?;
        }
        clear(&self.folder(""))
    }

    /// Returns the wanted ones of a group's cases.
    fn wanted_of(&self, group: &'static str) -> impl Iterator<Item = &'static str> {
        [RIFT, PLAIN].into_iter().filter(move |name| self.wants(group, name))
    }

    /// Returns a case that changes nothing.
    pub(crate) fn lasting<'a>(
        &self,
        (group, name): (&'static str, &'static str),
        run: impl Fn() -> Result<(Sample, u64)> + 'a,
    ) -> Case<'a> {
        let met = std::rc::Rc::new(std::cell::Cell::new(0));
        let counted = met.clone();
        Case {
            group,
            name,
            project: self.folder(""),
            before: Box::new(|_| Ok(())),
            run: Box::new(move |_| {
                let (sample, entries) = run()?;
                met.set(entries);
                Ok(sample)
            }),
            check: Check::Own(Box::new(|| Ok(()))),
            count: Box::new(move || Ok(counted.get())),
            after: Box::new(|| Ok(())),
        }
    }

    /// The beginning of a command in a run that shows a tree: in the folder `at`, at a directory that may be elsewhere.
    fn run(&self, at: &Path, tree: &str, shown: &Path) -> Result<Command> {
        let shown = format!("{tree}={}", shown.display());
        let words = ["exec", "--quiet", "--as", "virtual", "--tree", &shown, "--"];
        self.rift_in(at, "store", &words)
    }

    fn ingest(&self, directory: &Path, name: &str) -> Result<()> {
        let mut ingest = self.rift_in(&self.folder(""), "store", &["ingest"])?;
        ingest.arg(directory).args(["--name", name]);
        self.quietly(ingest)
    }

    /// Returns what the last command has printed.
    fn printed(&self) -> Result<String> {
        fs::read_to_string(self.sandbox.path("log")).context("nothing was printed")
    }

    /// The folder of the tree that single operations are done in: `real`, taken in as `calls`.
    fn calls(&self) -> Result<PathBuf> {
        let folder = self.folder("calls");
        if !folder.exists() {
            write_calls(&folder.join("real"))?;
            self.ingest(&folder.join("real"), "calls")?;
        }
        Ok(folder)
    }

    /// Does one kind of operation in a directory: in a run that shows the tree beside it or just there, or without.
    fn call(
        &self,
        name: &str,
        kind: &str,
        directory: &Path,
        shown: &Path,
    ) -> Result<(Sample, u64)> {
        let (program, folder) = (measure_calls()?, self.calls()?);
        let mut command = match name {
            RIFT => {
                let mut run = self.run(&folder, "calls", shown)?;
                run.arg(program);
                run
            }
            _ => self.sandbox.command(&folder, program),
        };
        command.arg(kind).arg(directory);
        let whole = self.measured(command, &folder)?;
        let printed = self.printed()?;
        let [operations, p50, p99] = numbers(&printed)?;
        let sample = Sample {
            wall_s: p50 * 1e-9,
            p99_s: Some(p99 * 1e-9),
            cpu_s: whole.cpu_s,
            ..Sample::default()
        };
        Ok((sample, operations as u64))
    }

    fn call_cases(&self, _: &mut Report) -> Result<Vec<Case<'_>>> {
        let mut cases = Vec::new();
        for (is_inside, calls) in [(true, INSIDE), (false, OUTSIDE)] {
            for (group, kind) in calls.iter().copied() {
                for name in self.wanted_of(group) {
                    let folder = self.calls()?;
                    let (real, view) = (folder.join("real"), folder.join("view"));
                    let directory = if is_inside && name == RIFT { view.clone() } else { real };
                    cases.push(
                        self.lasting((group, name), move || {
                            self.call(name, kind, &directory, &view)
                        }),
                    );
                }
            }
        }
        Ok(cases)
    }

    /// Files that are opened for the first time, beside files that are made and then opened.
    fn first_open_cases(&self, _: &mut Report) -> Result<Vec<Case<'_>>> {
        let mut cases = Vec::new();
        for name in self.wanted_of(FIRST_OPEN) {
            let folder = self.calls()?;
            let (kind, directory) = match name {
                RIFT => ("first-open", folder.join("once")),
                _ => ("make", folder.join("made")),
            };
            let at = directory.clone();
            let mut case =
                self.lasting((FIRST_OPEN, name), move || self.call(name, kind, &at, &at));
            let at = directory.clone();
            case.before = Box::new(move |_| match name {
                RIFT => Ok(()),
                _ => fs::create_dir(&at).context("the former round left something"),
            });
            let (made, expected) = (directory.join("packed"), folder.join("real/packed"));
            case.check = Check::Own(Box::new(move || match name {
                RIFT => same(&expected, &made),
                _ => {
                    let found = pass::stat_all(&made)?;
                    ensure!(found == pass::stat_all(&expected)?, "made {found:?}");
                    Ok(())
                }
            }));
            case.after = Box::new(move || {
                if name == RIFT {
                    self.discard(&directory)?;
                }
                clear(&directory)
            });
            cases.push(case);
        }
        Ok(cases)
    }

    /// Ends a projection and forgets what became of it.
    fn discard(&self, shown: &Path) -> Result<()> {
        let mut command = self.rift_in(&self.folder(""), "store", &["close", "--discard"])?;
        command.arg(shown);
        self.quietly(command)
    }

    /// Returns npm's tree of the project, which is taken in under the project's name.
    fn whole_tree(&self) -> Result<PathBuf> {
        let tree = self.folder("reference/node_modules");
        if !tree.exists() {
            self.ingest(&self.reference()?.join("node_modules"), self.fixture.name())?;
        }
        Ok(tree)
    }

    fn warm_walk_cases(&self, _: &mut Report) -> Result<Vec<Case<'_>>> {
        let mut cases = Vec::new();
        for (group, walker) in WARM.into_iter().zip(WALKERS) {
            for name in self.wanted_of(group) {
                let walk = self.walk(walker, name)?;
                let once = std::rc::Rc::new(move || walk(false));
                let before = once.clone();
                let mut case = self.lasting((group, name), move || once());
                case.before = Box::new(move |_| before().map(drop));
                cases.push(case);
            }
        }
        Ok(cases)
    }

    fn cold_walk_cases(&self, report: &mut Report) -> Result<Vec<Case<'_>>> {
        let mut cases = Vec::new();
        for (group, walker) in COLD.into_iter().zip(WALKERS) {
            for name in self.wanted_of(group) {
                if let Some(why) = Need::Root.missing() {
                    self.leave_out(report, group, &why);
                    break;
                }
                let walk = self.walk(walker, name)?;
                cases.push(self.lasting((group, name), move || walk(true)));
            }
        }
        Ok(cases)
    }

    /// Returns what walks the whole tree once: in a run that has begun before, or, cold, with that run's own beginning.
    fn walk<'a>(
        &'a self,
        walker: &'static str,
        name: &'static str,
    ) -> Result<impl Fn(bool) -> Result<(Sample, u64)> + 'a> {
        let native = self.whole_tree()?;
        // As long a path as the other.
        let shown = self.folder("projected/node_modules");
        let above = match name {
            RIFT => self.folder("projected"),
            _ => self.folder("reference"),
        };
        fs::create_dir_all(&above)?;
        let directory = if name == RIFT { &shown } else { &native }.display().to_string();
        let calls = measure_calls()?.display().to_string();
        let words = match walker {
            FIND => vec!["find".to_owned(), directory, "-printf".to_owned(), "%s\\n".to_owned()],
            DU => vec!["du".to_owned(), "-s".to_owned(), directory],
            _ => vec![calls, "walk".to_owned(), directory],
        };
        let mut usage = self.sandbox.command(&self.folder(""), "du");
        let usage = self.sandbox.run(usage.arg("-s").arg(&native))?.success()?.stdout;
        let [usage] = numbers(&usage)?;
        let met = pass::stat_all(&native)?;
        let entries = met.folders + met.files + met.symlinks;
        Ok(move |is_cold: bool| {
            let mut command = self.sandbox.command(&above, &words[0]);
            command.args(&words[1..]);
            let mut run = self.run(&above, self.fixture.name(), &shown)?;
            if is_cold {
                drop_caches()?;
            }
            let log = self.sandbox.path("log");
            let sample = match (name, is_cold) {
                (RIFT, true) => {
                    run.args(&words);
                    measure::command(&run, &above, &log)?
                }
                (RIFT, false) => {
                    let how = How { within: Some(&run), times: 1 };
                    measure::command_as(how, &command, &above, &log)?
                }
                _ => measure::command(&command, &above, &log)?,
            };
            let printed = self.printed()?;
            match walker {
                // The directory itself, too.
                FIND => ensure!(printed.lines().count() as u64 == entries + 1, "find met others"),
                NFTW => {
                    let [folders, files, symlinks, bytes] =
                        numbers(&printed)?.map(|one| one as u64);
                    let found = Counts { folders: folders - 1, files, symlinks, bytes };
                    ensure!(found == met, "nftw met {found:?}, not {met:?}");
                }
                _ => {
                    let [found] = numbers(&printed)?;
                    let is_near = (found - usage).abs() < usage / 50.0;
                    ensure!(is_near, "du says {found}, not {usage}");
                }
            }
            if name == RIFT {
                let made = fs::read_dir(&shown)?.count();
                ensure!(made == 0, "listing has made {made} entries");
            }
            Ok((sample, entries))
        })
    }

    /// Programs that never go near the projection of their run, and the start of a process.
    fn program_cases(&self, report: &mut Report) -> Result<Vec<Case<'_>>> {
        let mut cases = Vec::new();
        for group in [GIT, CARGO, NODE, TSC, TRUE] {
            let names: Vec<_> = self.wanted_of(group).collect();
            let tool = match group {
                GIT => "git",
                CARGO => "cargo",
                _ => "node",
            };
            if names.is_empty() || (group == TSC && self.fixture != Fixture::Small) {
                continue;
            }
            if let Some(why) = Need::Tool(tool).missing() {
                self.leave_out(report, group, &why);
                continue;
            }
            let program = std::rc::Rc::new(self.program(group)?);
            for name in names {
                cases.push(self.program_case(program.clone(), name)?);
            }
            if group == TRUE && self.wants(group, PRELOAD) {
                cases.push(self.program_case(program.clone(), PRELOAD)?);
            }
        }
        Ok(cases)
    }

    fn program_case<'a>(
        &'a self,
        program: std::rc::Rc<Program<'a>>,
        name: &'static str,
    ) -> Result<Case<'a>> {
        let (shown, log) = (self.calls()?.join("view"), self.sandbox.path("log"));
        let empty = self.folder("calls/empty.so");
        if name == PRELOAD {
            let mut cc = self.sandbox.command(&self.folder(""), "cc");
            cc.args(["-shared", "-fPIC", "-nostdlib", "-x", "c", "/dev/null", "-o"]).arg(&empty);
            self.quietly(cc)?;
        }
        Ok(self.lasting((program.group, name), move || {
            let mut command = (program.command)();
            if name == PRELOAD {
                command.env("LD_PRELOAD", &empty);
            }
            let at = command
                .get_current_dir()
                .context("no program is started just anywhere")?
                .to_path_buf();
            let run = self.run(&at, "calls", &shown)?;
            let how = How { within: (name == RIFT).then_some(&run), times: program.times };
            let sample = measure::command_as(how, &command, &at, &log)?;
            let printed = self.printed()?;
            let said = printed.matches(program.says).count();
            ensure!(program.says.is_empty() || said == program.times, "it says {printed}");
            Ok((sample, program.times as u64))
        }))
    }

    /// Prepares what a program needs.
    fn program(&self, group: &'static str) -> Result<Program<'_>> {
        let at = match group {
            GIT => self.git_repository()?,
            CARGO => self.crate_folder()?,
            TSC => {
                self.whole_tree()?;
                let project = self.folder("reference");
                let mut copy = self.sandbox.command(&project, "cp");
                copy.arg("-r").arg(self.fixture.source().join("app/.")).arg(&project);
                self.quietly(copy)?;
                project
            }
            _ => self.calls()?,
        };
        let (words, times, says): (&[&str], _, _) = match group {
            GIT => (&["git", "status"], 20, "nothing to commit"),
            CARGO => (&["cargo", "build", "--offline"], 20, "Finished"),
            NODE => (&["node", "-e", "0"], 20, ""),
            TSC => (&["node_modules/.bin/tsc", "--noEmit"], 1, ""),
            _ => (&["/bin/true"], 500, ""),
        };
        let command = move || {
            let mut command = self.sandbox.command(&at, words[0]);
            command.args(&words[1..]);
            if group == CARGO {
                with_rust(&mut command);
            }
            command
        };
        Ok(Program { group, command: Box::new(command), times, says })
    }

    /// A repository of a few thousand files, with nothing to commit.
    fn git_repository(&self) -> Result<PathBuf> {
        let folder = self.folder("repository");
        for number in 0..TRACKED_FOLDERS {
            let inner = folder.join(format!("src/folder-{number}"));
            fs::create_dir_all(&inner)?;
            for file in 0..TRACKED_EACH {
                fs::write(inner.join(format!("file-{file}.txt")), format!("{number} {file}\n"))?;
            }
        }
        let who = ["-c", "user.name=rift", "-c", "user.email=rift@example.org"];
        for words in [&["init", "--quiet"][..], &["add", "."], &["commit", "--quiet", "-m", "all"]]
        {
            let mut git = self.sandbox.command(&folder, "git");
            git.args(who).args(words);
            self.quietly(git)?;
        }
        Ok(folder)
    }

    /// A crate without dependencies that has been built.
    fn crate_folder(&self) -> Result<PathBuf> {
        let folder = self.folder("crate");
        fs::create_dir_all(folder.join("src"))?;
        fs::write(folder.join("src/main.rs"), "fn main() {}\n")?;
        let manifest =
            "[package]\nname = \"small\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\n[workspace]\n";
        fs::write(folder.join("Cargo.toml"), manifest)?;
        let mut build = self.sandbox.command(&folder, "cargo");
        with_rust(build.args(["build", "--offline"]));
        self.quietly(build)?;
        Ok(folder)
    }

    /// Sizes that are no times.
    fn shim_figures(&self, report: &mut Report) -> Result<()> {
        let fixture = self.fixture.name();
        let mut note = |name: &str, value, unit| {
            report.figures.push(Figure { fixture, name: name.to_owned(), value, unit });
        };
        let folder = self.calls()?;
        let shown = folder.join("view");
        if self.wants("figures", MEMORY) {
            let program = measure_calls()?;
            let mut more = Vec::new();
            for _ in 0..self.wanted.runs {
                // Of what other processes have as well, at least one does: the shell that waits.
                let twice = "\"$0\" memory \"$1\"; exit $?";
                let mut run = self.run(&folder, "calls", &shown)?;
                run.args(["sh", "-c", twice]).arg(program).arg(&shown);
                let mut plain = self.sandbox.command(&folder, "sh");
                plain.args(["-c", twice]).arg(program).arg(folder.join("real"));
                let [ours, theirs] = [run, plain].map(|mut command| {
                    let smaps = self.sandbox.run(&mut command)?.success()?.stdout;
                    private_bytes(&smaps, &self.folder("store"))
                });
                more.push(ours? as f64 - theirs? as f64);
            }
            let more = median(more).context("there is one run at least")?;
            note(MEMORY, more / 1024.0, "KB");
        }
        if self.wants("figures", PATH) {
            note(PATH, shown.join("lib/deep/er/file.txt").as_os_str().len() as f64, "bytes");
        }
        if self.wants("figures", LIBRARY) {
            let mut run = self.run(&folder, "calls", &shown)?;
            run.args(["sh", "-c", "echo $LD_PRELOAD"]);
            let library = self.sandbox.run(&mut run)?.success()?.stdout;
            let bytes = fs::metadata(library.trim())
                .with_context(|| format!("no library at {library}"))?
                .len();
            note(LIBRARY, bytes as f64 / 1024.0, "KB");
        }
        Ok(())
    }
}

/// Returns the program of single operations, which is compiled once.
fn measure_calls() -> Result<&'static Path> {
    static COMPILED: OnceLock<PathBuf> = OnceLock::new();
    if let Some(program) = COMPILED.get() {
        return Ok(program);
    }
    let program = compiled("measure_calls")?;
    Ok(COMPILED.get_or_init(|| program))
}

/// Makes the tree that single operations are done in.
fn write_calls(root: &Path) -> Result<()> {
    fs::create_dir_all(root.join("lib/deep/er"))?;
    fs::create_dir(root.join("many"))?;
    fs::write(root.join("lib/deep/er/file.txt"), "file\n")?;
    fs::write(root.join("lib/deep/opened.txt"), [b'x'; 16 << 10])?;
    for number in 0..LISTED {
        fs::write(root.join(format!("many/name-{number}.js")), format!("{number}\n"))?;
    }
    for folder in 0..FOLDERS {
        let inner = root.join(format!("packed/{folder}"));
        fs::create_dir_all(&inner)?;
        for file in 0..FILES_EACH {
            let number = folder * FILES_EACH + file;
            fs::write(inner.join(file.to_string()), format!("{number:>FILE_BYTES$}"))?;
        }
    }
    Ok(())
}

/// Returns the numbers that a program's last line begins with.
fn numbers<const COUNT: usize>(printed: &str) -> Result<[f64; COUNT]> {
    let words = printed.lines().next_back().unwrap_or_default().split_whitespace();
    let found: Vec<f64> = words.map_while(|word| word.parse().ok()).collect();
    <[f64; COUNT]>::try_from(found)
        .map_err(|found| anyhow::anyhow!("{} numbers in {printed}", found.len()))
}

/// Says where rustup keeps the toolchain, which it looks for in the home otherwise.
fn with_rust(command: &mut Command) {
    let home = std::env::home_dir().map(|home| home.join(".rustup"));
    if let Some(folder) = std::env::var_os("RUSTUP_HOME").map(PathBuf::from).or(home) {
        command.env("RUSTUP_HOME", folder);
    }
}

/// Returns the bytes that no other process has of all that smaps lists, without what is mapped of a store's trees.
fn private_bytes(smaps: &str, store: &Path) -> Result<u64> {
    let (mut kilobytes, mut is_counted) = (0, false);
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("Private_Clean:" | "Private_Dirty:"), Some(number)) if is_counted => {
                kilobytes += number.parse::<u64>()?;
            }
            (Some(first), _) if !first.ends_with(':') => {
                let path = Path::new(words.next_back().unwrap_or_default());
                is_counted = !path.starts_with(store) || path.starts_with(store.join("tools"));
            }
            _ => {}
        }
    }
    ensure!(kilobytes > 0, "no memory in {smaps}");
    Ok(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

    use super::*;

    #[test]
    fn numbers_are_those_of_the_last_line() {
        assert_eq!(
            numbers("said before\n400000 97.25 130.5\n").unwrap(),
            [400_000.0, 97.25, 130.5]
        );
        assert_eq!(numbers::<1>("1234\t/some/folder\n").unwrap(), [1234.0]);
        assert!(numbers::<3>("400000 97.25\n").is_err() && numbers::<1>("").is_err());
    }

    #[test]
    fn private_memory_is_that_beside_the_stores_trees() {
        let mapping = |path: &str, kilobytes| {
            format!(
                "7f00-7f01 r--p 00000000 fe:00 12 {path}\nSize: 900 kB\nShared_Clean: 500 kB\n\
                 Private_Clean: {kilobytes} kB\nPrivate_Dirty: 1 kB\nVmFlags: rd\n"
            )
        };
        let smaps: String = [("/lib/libc.so.6", 8), ("/store/trees/x", 100), ("", 16)]
            .into_iter()
            .chain([("/store/tools/x-librift.so", 32), ("/storehouse", 64)])
            .map(|(path, kilobytes)| mapping(path, kilobytes))
            .collect();
        let counted = 8 + 16 + 32 + 64 + 4;
        assert_eq!(private_bytes(&smaps, Path::new("/store")).unwrap(), counted * 1024);
        assert!(private_bytes("", Path::new("/store")).is_err());
    }
}
