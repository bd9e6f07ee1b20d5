//! The build suite: projects that were built before, by cargo and make, by what rift knows, by caches of compilers, and from an archive.
//!
//! Each build of crates begins with a fresh checkout's times and without `target`, each of C with nothing made, and ends in one that cargo or make
//! finds done: that is looked at when a case warms up. Caches are warm: the first build of each fills its own.

use std::cell::{Cell, RefCell};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use rift_tests::need::find_in_path;
use rift_tests::sandbox::{clear, with_toolchain};
use rift_tests::server::Server;

use crate::measure::{self, Sample};
use crate::remote::{PACE, reached};
use crate::suite::{Case, Check, Suite};
use crate::table::Target::{AtMost, Reported};
use crate::table::{Figure, Measure, Of, Report, median};

/// What the table's head names the versions of.
pub(crate) const PROGRAMS: [&str; 5] = ["sccache", "kache", "ccache", "zstd", "make"];

const RIPGREP: &str = "ripgrep, dev profile, no `target`";
const MANY: &str = "xh, 290 crates in its lockfile, dev profile, no `target`";
const EDITED: &str = "ripgrep, one source changed";
const LUA: &str = "lua, make -j2, nothing made";
const GIT: &str = "git, make -j2, nothing made";

const RIFT: &str = "rift exec";
const ACTIONS: &str = "rift exec, programs alone";
const REMOTE: &str = "rift exec, empty store and a remote";
const MOUNTED: &str = "rift exec --as mount";
const REMOTE_MOUNTED: &str = "rift exec --as mount, empty store and a remote";
const RECORDING: &str = "rift exec, nothing known";
const CARGO: &str = "cargo";
const IDLE: &str = "nothing to do";
const ARCHIVE: &str = "zstd archive of target";
const SCCACHE: &str = "sccache";
const KACHE: &str = "kache";
const MAKE: &str = "make";
const CCACHE: &str = "ccache";
const CC_CCACHE: &str = "CC=ccache cc";
const FIREBUILD: &str = "firebuild";

const MOVED: &str = "bytes received with an empty store over the archive's";
const MOVED_MOUNTED: &str = "bytes received with an empty store, mounted, over the archive's";
/// Caches with a server: how it is started, and stopped.
const SERVERS: [(&str, &[&str], &[&str]); 2] = [
    (SCCACHE, &["--start-server"], &["--stop-server"]),
    (KACHE, &["daemon", "start"], &["daemon", "stop"]),
];
/// A port that nobody else is likely to have.
const SCCACHE_PORT: &str = "42817";
/// How long sccache's server waits for somebody, in seconds: longer than what comes between its rounds, as else the next one starts a
/// server of its own, which the sandbox waits for.
const SCCACHE_WAITS: &str = "3600";

/// A project from the registry, with all that its lockfile names.
const FETCH_CRATE: &str = "mkdir -p fetch/src; touch fetch/src/lib.rs; \
    printf '[package]\\nname = \"fetch\"\\nversion = \"0.1.0\"\\nedition = \"2021\"\\n[dependencies]\\n%s = \"=%s\"\\n[workspace]\\n' \"$1\" \"$2\" >fetch/Cargo.toml; \
    (cd fetch && cargo fetch -q); tar xf \"$CARGO_HOME\"/registry/cache/*/\"$1-$2.crate\" --strip-components=1; rm -r fetch; \
    echo '[workspace]' >>Cargo.toml; cargo fetch -q --locked";
/// A project of Debian's, from the machine's own sources, in private lists.
const FETCH_SOURCE: &str = "mkdir -p apt/lists/partial apt/parts; \
    cat /etc/apt/sources.list.d/*.sources | awk 'BEGIN{RS=\"\";ORS=\"\\n\\n\"} !/security/' | sed 's/^Types:.*/Types: deb-src/' >apt/parts/src.sources; \
    get() { apt-get -qq -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts=\"$PWD/apt/parts\" -o Dir::State::lists=\"$PWD/apt/lists\" \"$@\"; }; \
    get update; get source --download-only \"$1\"; rm -r apt; tar xf \"$1\"_*.orig.tar.* --strip-components=1; rm ./*.dsc ./*.tar.*; mkdir -p .git";

/// A project.
#[derive(Clone, Copy)]
struct Project {
    group: &'static str,
    name: &'static str,
    /// Of the registry; empty for what Debian has.
    version: &'static str,
    /// The program that is built, and what it is asked.
    program: &'static str,
    asked: &'static str,
    /// What make is told.
    words: &'static [&'static str],
}

const PROJECTS: [Project; 4] = [
    Project {
        group: RIPGREP,
        name: "ripgrep",
        version: "14.1.1",
        program: "target/debug/rg",
        asked: "--version",
        words: &[],
    },
    Project {
        group: MANY,
        name: "xh",
        version: "0.24.1",
        program: "target/debug/xh",
        asked: "--version",
        words: &[],
    },
    Project {
        group: LUA,
        name: "lua5.4",
        version: "",
        program: "src/lua",
        asked: "-v",
        words: &["linux"],
    },
    Project {
        group: GIT,
        name: "git",
        version: "",
        program: "git",
        asked: "--version",
        words: &[
            "NO_CURL=1",
            "NO_EXPAT=1",
            "NO_GETTEXT=1",
            "NO_TCLTK=1",
            "NO_OPENSSL=1",
            "NO_PERL=1",
            "NO_PYTHON=1",
            "all",
        ],
    },
];

impl Project {
    fn is_c(&self) -> bool {
        self.version.is_empty()
    }

    fn cases(&self) -> &'static [&'static str] {
        match self.is_c() {
            true => &[RIFT, RECORDING, MAKE, IDLE, CCACHE, FIREBUILD],
            false => &[
                RIFT,
                MOUNTED,
                ACTIONS,
                REMOTE,
                REMOTE_MOUNTED,
                RECORDING,
                CARGO,
                IDLE,
                ARCHIVE,
                SCCACHE,
                KACHE,
            ],
        }
    }
}

/// What builds are held to.
pub(crate) fn measures(of: &Of<'_>) -> Vec<Measure> {
    let mut measures = Vec::from(of_crates(
        of,
        RIPGREP,
        [
            "ripgrep: known over cargo with nothing to do",
            "ripgrep: known over kache",
            "ripgrep: known over sccache",
            "ripgrep: known over cargo",
            "ripgrep: known over an archive",
            "ripgrep: known, empty store and a remote, over cargo",
            "ripgrep: mounted over cargo with nothing to do",
            "ripgrep: mounted over kache",
            "ripgrep: mounted over sccache",
            "ripgrep: mounted over cargo",
            "ripgrep: mounted, empty store and a remote, over cargo",
            "ripgrep: each program known, over kache",
            "ripgrep: the first build over cargo",
        ],
    ));
    measures.push((MOVED, of.figure(MOVED), AtMost(1.0)));
    measures.push((MOVED_MOUNTED, of.figure(MOVED_MOUNTED), AtMost(1.0)));
    let edited = of.ratio((EDITED, RIFT), (EDITED, CARGO));
    measures.push(("ripgrep: one source changed, over cargo", edited, AtMost(1.1)));
    measures.extend(of_crates(
        of,
        MANY,
        [
            "xh: known over cargo with nothing to do",
            "xh: known over kache",
            "xh: known over sccache",
            "xh: known over cargo",
            "xh: known over an archive",
            "xh: known, empty store and a remote, over cargo",
            "xh: mounted over cargo with nothing to do",
            "xh: mounted over kache",
            "xh: mounted over sccache",
            "xh: mounted over cargo",
            "xh: mounted, empty store and a remote, over cargo",
            "xh: each program known, over kache",
            "xh: the first build over cargo",
        ],
    ));
    let over = |group, case, other| of.ratio((group, case), (group, other));
    measures.extend([
        ("lua: known over firebuild", over(LUA, RIFT, FIREBUILD), AtMost(1.2)),
        ("lua: known over ccache", over(LUA, RIFT, CCACHE), AtMost(1.0)),
        ("lua: known over make", over(LUA, RIFT, MAKE), Reported),
        ("lua: the first build over make", over(LUA, RECORDING, MAKE), AtMost(1.08)),
        ("git: known over firebuild", over(GIT, RIFT, FIREBUILD), AtMost(1.2)),
        ("git: known over ccache", over(GIT, RIFT, CCACHE), AtMost(1.0)),
        ("git: known over make", over(GIT, RIFT, MAKE), Reported),
        ("git: the first build over make", over(GIT, RECORDING, MAKE), AtMost(1.08)),
    ]);
    measures
}

/// The same of each project of crates, under names of its own.
fn of_crates(of: &Of<'_>, group: &'static str, names: [&'static str; 13]) -> [Measure; 13] {
    let over = |case, other| of.ratio((group, case), (group, other));
    let found = [
        (over(RIFT, IDLE), AtMost(3.0)),
        (over(RIFT, KACHE), AtMost(0.333)),
        (over(RIFT, SCCACHE), AtMost(0.025)),
        (over(RIFT, CARGO), AtMost(0.01)),
        (over(RIFT, ARCHIVE), Reported),
        (over(REMOTE, CARGO), AtMost(0.033)),
        (over(MOUNTED, IDLE), AtMost(3.0)),
        (over(MOUNTED, KACHE), AtMost(0.333)),
        (over(MOUNTED, SCCACHE), AtMost(0.025)),
        (over(MOUNTED, CARGO), AtMost(0.01)),
        (over(REMOTE_MOUNTED, CARGO), AtMost(0.033)),
        (over(ACTIONS, KACHE), AtMost(1.0)),
        (over(RECORDING, CARGO), AtMost(1.05)),
    ];
    let mut names = names.into_iter();
    found.map(|(value, target)| (names.next().unwrap_or_default(), value, target))
}

impl Suite<'_> {
    pub(crate) fn build(
        &self,
        report: &mut Report,
        save: &dyn Fn(&Report) -> Result<()>,
    ) -> Result<()> {
        let mut version = self.plain(&self.sandbox.path(""), Path::new("cargo"), &["--version"]);
        with_toolchain(&mut version);
        let version = self.sandbox.run(&mut version)?.success()?.stdout;
        report.versions = format!("{}, {}", version.trim_end(), report.versions);
        for project in PROJECTS {
            let wanted = |name: &&&str| self.wants(project.group, name);
            let is_edited = project.group == RIPGREP && self.wants(EDITED, RIFT);
            if !project.cases().iter().any(|name| wanted(&name)) && !is_edited {
                continue;
            }
            let at = self.folder(project.name);
            fs::create_dir_all(&at)?;
            let script = if project.is_c() { FETCH_SOURCE } else { FETCH_CRATE };
            let mut fetch = self.sandbox.command(&at, "sh");
            fetch.args(["-ec", script, "fetch", project.name, project.version]);
            with_toolchain(&mut fetch);
            self.quietly(fetch)?;
            let work = Work {
                suite: self,
                project,
                at,
                server: Server::start()?,
                received: RefCell::default(),
                is_shared: Cell::new(false),
            };
            work.run(report, save)?;
            if is_edited {
                work.edit(report)?;
            }
            save(report)?;
            clear(&self.folder(""))?;
        }
        Ok(())
    }
}

/// A project that is built.
struct Work<'s, 'b> {
    suite: &'s Suite<'b>,
    project: Project,
    at: PathBuf,
    /// The remote.
    server: Server,
    /// What builds with an empty store have received, in bytes.
    received: RefCell<Vec<(&'static str, f64)>>,
    /// Whether the remote has what is built.
    is_shared: Cell<bool>,
}

impl Work<'_, '_> {
    fn run(&self, report: &mut Report, save: &dyn Fn(&Report) -> Result<()>) -> Result<()> {
        let (suite, group) = (self.suite, self.project.group);
        let mut cases = Vec::new();
        for name in self.project.cases() {
            let is_peer = matches!(*name, SCCACHE | KACHE | CCACHE | FIREBUILD);
            if !suite.wants(group, name) {
                continue;
            }
            if is_peer && find_in_path(name).is_none() {
                suite.leave_out(report, name, "it is not installed");
            } else {
                cases.push(self.case(name));
            }
        }
        report.rows.extend(suite.interleave(&cases, suite.wanted.runs));
        drop(cases);
        let archive = self.suite.folder("target.tar.zst").metadata().map(|stat| stat.len() as f64);
        let received = self.received.take();
        for (case, figure) in [(REMOTE, MOVED), (REMOTE_MOUNTED, MOVED_MOUNTED)] {
            let bytes = received.iter().filter(|(name, _)| *name == case).map(|(_, bytes)| *bytes);
            if let (Some(bytes), Ok(archive)) = (median(bytes.collect()), &archive)
                && group == RIPGREP
            {
                let fixture = suite.fixture.name();
                let (name, value) = (figure.to_owned(), bytes / archive);
                report.figures.push(Figure { fixture, name, value, unit: "" });
            }
        }
        save(report)?;
        for (cache, _, stop) in SERVERS.iter().filter(|(cache, ..)| find_in_path(cache).is_some()) {
            if !self.project.is_c() {
                // It ends by itself else, after a while; or none was started.
                let _stopped = self.server(cache, stop).is_ok();
            }
        }
        Ok(())
    }

    fn case(&self, name: &'static str) -> Case<'_> {
        Case {
            group: self.project.group,
            name,
            project: self.at.clone(),
            before: Box::new(move |round| self.begin(name, round)),
            run: Box::new(move |_| {
                let sample = self.once(name, &self.at)?;
                if is_remote(name) {
                    self.received.borrow_mut().push((name, self.server.sent("/") as f64));
                }
                Ok(sample)
            }),
            check: Check::Own(Box::new(move || self.is_fresh(name, &self.at))),
            count: Box::new(|| Ok(0)),
            after: Box::new(|| Ok(())),
        }
    }

    /// Removes what was made.
    fn clean(&self) -> Result<()> {
        if !self.project.is_c() {
            return clear(&self.at.join("target"));
        }
        let clean = self.suite.plain(&self.at, Path::new("make"), &["-s", "clean"]);
        self.suite.quietly(clean)
    }

    /// Prepares a fresh checkout where nothing is made, and fills caches before the first round.
    fn begin(&self, name: &str, round: usize) -> Result<()> {
        let plain = if self.project.is_c() { MAKE } else { CARGO };
        if name == RECORDING || is_remote(name) {
            // What is mounted there comes from this store.
            self.clean()?;
            clear(&self.suite.folder("store-new"))?;
        }
        if round == 0
            && let Some((cache, start, _)) = SERVERS.iter().find(|(cache, ..)| name == *cache)
        {
            self.server(cache, start)?;
        }
        if round == 0 && ![MAKE, CARGO, RECORDING].contains(&name) {
            self.clean()?;
            match name {
                // What is packed, or looked at, cargo has made.
                IDLE | ARCHIVE => drop(self.once(plain, &self.at)?),
                REMOTE | REMOTE_MOUNTED => self.share()?,
                _ => drop(self.once(name, &self.at)?),
            }
            if name == ARCHIVE {
                let mut pack = self.suite.sandbox.command(&self.at, "sh");
                pack.args(["-ec", "tar cf - target | zstd -q -3 -f -o ../target.tar.zst"]);
                self.suite.quietly(pack)?;
            }
        }
        if name == IDLE {
            // What was there before may be of another case.
            if self.is_fresh(name, &self.at).is_err() {
                self.once(plain, &self.at)?;
            }
            return Ok(());
        }
        self.clean()?;
        if is_remote(name) {
            // What counts is what comes now.
            let _before: u64 = self.server.sent("/");
        }
        // An archive is of use only where sources have the times that they had; make looks at none of what is not made.
        if name != ARCHIVE && !self.project.is_c() {
            touch(&self.at)?;
        }
        Ok(())
    }

    /// Tells a cache's server to start or stop, outside of the sandbox, which waits between cases until all of its own processes have ended.
    fn server(&self, cache: &str, words: &[&str]) -> Result<()> {
        let mut server = self.suite.sandbox.command(&self.at, cache);
        self.of_cache(server.args(words));
        server.env("SCCACHE_IDLE_TIMEOUT", SCCACHE_WAITS);
        server.env("HOME", std::env::var_os("HOME").unwrap_or_default());
        with_toolchain(&mut server);
        self.suite.quietly(server)
    }

    /// Tells caches of compilers where they are.
    fn of_cache(&self, command: &mut Command) {
        command.env("SCCACHE_DIR", self.suite.folder("sccache"));
        command.env("SCCACHE_SERVER_PORT", SCCACHE_PORT);
        command.env("KACHE_CACHE_DIR", self.suite.folder("kache"));
        command.env("FIREBUILD_CACHE_DIR", self.suite.folder("firebuild"));
        command.env("CCACHE_DIR", self.suite.folder("ccache"));
    }

    /// Lets somebody build who may tell others.
    fn share(&self) -> Result<()> {
        if self.is_shared.replace(true) {
            return Ok(());
        }
        let mut key = self.suite.rift_in(&self.at, "store-producer", &["key", "new", "bench"])?;
        self.suite.quietly(reached(&self.server, &mut key))?;
        let words = ["cargo", "build", "--offline", "-q"];
        let mut make = self.suite.rift(&self.at, "store-producer", &[], &words)?;
        with_toolchain(&mut make);
        self.suite.quietly(reached(&self.server, &mut make))?;
        clear(&self.suite.folder("store-producer"))?;
        self.clean()?;
        self.server.pace(PACE);
        Ok(())
    }

    /// Returns what a build takes, by each.
    fn once(&self, name: &str, at: &Path) -> Result<Sample> {
        let (suite, is_c) = (self.suite, self.project.is_c());
        let build: Vec<&str> = match is_c {
            true => [&["make", "-s", "-j2"], self.project.words].concat(),
            false => vec!["cargo", "build", "--offline", "-q"],
        };
        let mut command = match name {
            RIFT => suite.rift(at, "store", &[], &build)?,
            MOUNTED => suite.rift(at, "store", &["--as", "mount"], &build)?,
            ACTIONS => suite.rift(at, "store-alone", &[], &build)?,
            RECORDING => suite.rift(at, "store-new", &[], &build)?,
            REMOTE | REMOTE_MOUNTED => {
                let how: &[&str] = if name == REMOTE { &[] } else { &["--as", "mount"] };
                let mut command = suite.rift(at, "store-new", how, &build)?;
                reached(&self.server, &mut command)
            }
            ARCHIVE => {
                let mut command = suite.sandbox.command(at, "sh");
                let line = "zstd -q -d -c ../target.tar.zst | tar xf - && cargo build --offline -q";
                command.args(["-ec", line]);
                command
            }
            FIREBUILD => suite.plain(at, Path::new(FIREBUILD), &[&["--"], &build[..]].concat()),
            CCACHE => suite.plain(at, Path::new(build[0]), &[&build[1..], &[CC_CCACHE]].concat()),
            _ => suite.plain(at, Path::new(build[0]), &build[1..]),
        };
        with_toolchain(&mut command);
        self.of_cache(&mut command);
        match name {
            ACTIONS => drop(command.env("RIFT_TARGET_CACHE", "false")),
            SCCACHE | KACHE => {
                command.env("RUSTC_WRAPPER", name).env("CARGO_INCREMENTAL", "0");
            }
            _ => {}
        }
        measure::command(&command, at, &suite.sandbox.path("log"))
    }

    /// Tells whether cargo or make by itself has nothing to do, and the program works.
    fn is_fresh(&self, name: &str, at: &Path) -> Result<()> {
        let program = at.join(self.project.program);
        if self.project.is_c() {
            // Their makefiles have something to do each time, so that `make -q` tells nothing; what is done links nothing again.
            let linked = || program.metadata().and_then(|stat| stat.modified());
            let before = linked().with_context(|| format!("no {}", program.display()))?;
            // Another compiler is another flag.
            let compiler: &[&str] = if name == CCACHE { &[CC_CCACHE] } else { &[] };
            let words = [&["-s"], self.project.words, compiler].concat();
            self.suite.quietly(self.suite.plain(at, Path::new("make"), &words))?;
            ensure!(linked()? == before, "make links {} again", program.display());
        } else {
            let mut again = self.suite.plain(at, Path::new("cargo"), &["build", "--offline"]);
            with_toolchain(&mut again);
            if matches!(name, SCCACHE | KACHE) {
                again.env("CARGO_INCREMENTAL", "0");
            }
            let ran = self.suite.sandbox.run(&mut again)?.success()?;
            ensure!(!ran.stderr.contains("Compiling"), "cargo compiles: {}", ran.stderr);
        }
        self.suite.quietly(self.suite.plain(at, &program, &[self.project.asked]))
    }

    /// Measures a build that goes on with its `target` when one source has changed.
    fn edit(&self, report: &mut Report) -> Result<()> {
        let mut cases = Vec::new();
        for (name, folder) in [(RIFT, "edited-rift"), (CARGO, "edited-cargo")] {
            let at = self.suite.folder(folder);
            let mut copy = self.suite.sandbox.command(&self.at, "cp");
            self.suite.quietly(std::mem::replace(
                copy.arg("-a").arg(&self.at).arg(&at),
                Command::new("true"),
            ))?;
            let (edited, built) = (at.join("crates/core/main.rs"), at.clone());
            cases.push(Case {
                group: EDITED,
                name,
                project: at,
                before: Box::new(move |round| {
                    let text = fs::read_to_string(&edited)?;
                    Ok(fs::write(&edited, format!("{text}// {round}\n"))?)
                }),
                run: Box::new(move |_| self.once(name, &built)),
                check: Check::Own(Box::new(|| Ok(()))),
                count: Box::new(|| Ok(0)),
                after: Box::new(|| Ok(())),
            });
        }
        report.rows.extend(self.suite.interleave(&cases, self.suite.wanted.runs));
        Ok(())
    }
}

/// Tells whether a case begins with an empty store.
fn is_remote(name: &str) -> bool {
    matches!(name, REMOTE | REMOTE_MOUNTED)
}

/// Gives all sources the time of now, as a checkout does.
fn touch(at: &Path) -> Result<()> {
    for entry in fs::read_dir(at)? {
        let path = entry?.path();
        if path.is_dir() {
            touch(&path)?;
        } else {
            let file = fs::File::options().append(true).open(&path);
            let file = file.with_context(|| format!("could not open {}", path.display()))?;
            file.set_modified(SystemTime::now())?;
        }
    }
    Ok(())
}
