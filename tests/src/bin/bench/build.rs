//! The build suite: ripgrep with an empty `target`, by cargo, by what rift knows, by caches of compilers, and from an archive.
//!
//! Each build begins with a fresh checkout's times and without `target`, and ends in one that cargo finds fresh: that is looked at when
//! a case warms up. Caches are warm: the first build of each fills its own.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use rift_tests::need::find_in_path;
use rift_tests::sandbox::{clear, with_toolchain};

use crate::measure::{self, Sample};
use crate::suite::{Case, Check, Suite};
use crate::table::Target::{AtMost, Reported};
use crate::table::{Measure, Of, Report};

/// What the table's head names the versions of.
pub(crate) const PROGRAMS: [&str; 3] = ["sccache", "kache", "zstd"];

const GROUP: &str = "ripgrep, dev profile, no `target`";
const RIFT: &str = "rift exec";
const ACTIONS: &str = "rift exec, programs alone";
const RECORDING: &str = "rift exec, nothing known";
const CARGO: &str = "cargo";
const IDLE: &str = "cargo with nothing to do";
const ARCHIVE: &str = "zstd archive of target";
const SCCACHE: &str = "sccache";
const KACHE: &str = "kache";

/// The project, from the registry, with all that its lockfile names.
const FETCH: &str = "mkdir -p fetch/src; touch fetch/src/lib.rs; \
    printf '[package]\\nname = \"fetch\"\\nversion = \"0.1.0\"\\nedition = \"2021\"\\n[dependencies]\\nripgrep = \"=14.1.1\"\\n[workspace]\\n' >fetch/Cargo.toml; \
    (cd fetch && cargo fetch -q); tar xf \"$CARGO_HOME\"/registry/cache/*/ripgrep-14.1.1.crate; rm -r fetch; \
    mv ripgrep-14.1.1/* .; rmdir ripgrep-14.1.1 || true; echo '[workspace]' >>Cargo.toml; cargo fetch -q --locked";

/// What builds are held to.
pub(crate) fn measures(of: &Of<'_>) -> Vec<Measure> {
    let over = |case, other| of.ratio((GROUP, case), (GROUP, other));
    vec![
        ("a build that is known, over cargo with nothing to do", over(RIFT, IDLE), AtMost(3.0)),
        ("the same, over kache", over(RIFT, KACHE), AtMost(1.0 / 3.0)),
        ("the same, over sccache", over(RIFT, SCCACHE), AtMost(1.0 / 40.0)),
        ("the same, over cargo", over(RIFT, CARGO), AtMost(0.01)),
        ("the same, over an archive", over(RIFT, ARCHIVE), Reported),
        ("each program from what is known, over kache", over(ACTIONS, KACHE), AtMost(1.0)),
        ("the same, over cargo", over(ACTIONS, CARGO), Reported),
        ("the first build, over cargo", over(RECORDING, CARGO), AtMost(1.05)),
    ]
}

impl Suite<'_> {
    pub(crate) fn build(
        &self,
        report: &mut Report,
        save: &dyn Fn(&Report) -> Result<()>,
    ) -> Result<()> {
        let at = self.folder("ripgrep");
        fs::create_dir_all(&at)?;
        let mut fetch = self.sandbox.command(&at, "sh");
        fetch.args(["-ec", FETCH]);
        with_toolchain(&mut fetch);
        self.quietly(fetch)?;
        let mut version = self.plain(&at, Path::new("cargo"), &["--version"]);
        with_toolchain(&mut version);
        let version = self.sandbox.run(&mut version)?.success()?.stdout;
        report.versions = format!("{}, {}", version.trim_end(), report.versions);
        let mut cases = Vec::new();
        for name in [RIFT, ACTIONS, RECORDING, CARGO, IDLE, ARCHIVE, SCCACHE, KACHE] {
            if matches!(name, SCCACHE | KACHE) && find_in_path(name).is_none() {
                self.leave_out(report, name, "it is not installed (`cargo install --locked`)");
            } else if self.wants(GROUP, name) {
                cases.push(self.build_case(name, &at));
            }
        }
        report.rows.extend(self.interleave(&cases, self.wanted.runs));
        save(report)?;
        if find_in_path(SCCACHE).is_some() {
            let mut stop = self.sandbox.command(&at, SCCACHE);
            stop.arg("--stop-server");
            // It ends by itself else, after a while.
            let _stopped = self.quietly(stop).is_ok();
        }
        clear(&self.folder(""))
    }

    fn build_case<'a>(&'a self, name: &'static str, at: &Path) -> Case<'a> {
        let (before, run, check) = (at.to_owned(), at.to_owned(), at.to_owned());
        Case {
            group: GROUP,
            name,
            project: at.to_owned(),
            before: Box::new(move |round| self.begin(name, &before, round)),
            run: Box::new(move |_| self.once(name, &run)),
            check: Check::Own(Box::new(move || self.is_fresh(&check))),
            count: Box::new(|| Ok(0)),
            after: Box::new(|| Ok(())),
        }
    }

    /// Prepares a fresh checkout without `target`, and fills caches before the first round.
    fn begin(&self, name: &str, at: &Path, round: usize) -> Result<()> {
        let target = at.join("target");
        if name == RECORDING {
            clear(&self.folder("store-new"))?;
        }
        if round == 0 && name != CARGO && name != RECORDING {
            clear(&target)?;
            match name {
                // What is packed, or looked at, cargo has made.
                IDLE | ARCHIVE => self.once(CARGO, at)?,
                _ => self.once(name, at)?,
            };
            if name == ARCHIVE {
                let mut pack = self.sandbox.command(at, "sh");
                pack.args(["-ec", "tar cf - target | zstd -q -3 -f -o ../target.tar.zst"]);
                self.quietly(pack)?;
            }
        }
        if name == IDLE {
            // What was there before may be of another case.
            if self.is_fresh(at).is_err() {
                self.once(CARGO, at)?;
            }
            return Ok(());
        }
        clear(&target)?;
        // An archive is of use only where sources have the times that they had.
        if name != ARCHIVE {
            touch(at)?;
        }
        Ok(())
    }

    fn once(&self, name: &str, at: &Path) -> Result<Sample> {
        let build = ["cargo", "build", "--offline", "-q"];
        let mut command = match name {
            RIFT => self.rift(at, "store", &[], &build)?,
            ACTIONS => self.rift(at, "store-alone", &[], &build)?,
            RECORDING => self.rift(at, "store-new", &[], &build)?,
            ARCHIVE => {
                let mut command = self.sandbox.command(at, "sh");
                let line = "zstd -q -d -c ../target.tar.zst | tar xf - && cargo build --offline -q";
                command.args(["-ec", line]);
                command
            }
            _ => self.plain(at, Path::new(build[0]), &build[1..]),
        };
        with_toolchain(&mut command);
        match name {
            ACTIONS => drop(command.env("RIFT_TARGET_CACHE", "false")),
            SCCACHE | KACHE => {
                command.env("RUSTC_WRAPPER", name).env("CARGO_INCREMENTAL", "0");
                command.env("SCCACHE_DIR", self.folder("sccache"));
                command.env("KACHE_CACHE_DIR", self.folder("kache"));
            }
            _ => {}
        }
        measure::command(&command, at, &self.sandbox.path("log"))
    }

    /// Tells whether cargo by itself has nothing to do, and the program works.
    fn is_fresh(&self, at: &Path) -> Result<()> {
        let mut again = self.plain(at, Path::new("cargo"), &["build", "--offline"]);
        with_toolchain(&mut again);
        let ran = self.sandbox.run(&mut again)?.success()?;
        // Caches of compilers are told apart by cargo, which they are a wrapper of.
        ensure!(!ran.stderr.contains("Compiling"), "cargo compiles: {}", ran.stderr);
        let mut program = self.plain(at, &at.join("target/debug/rg"), &["--version"]);
        let said = self.sandbox.run(&mut program)?;
        ensure!(said.success()?.stdout.contains("ripgrep 14.1.1"), "it is not ripgrep");
        Ok(())
    }
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
