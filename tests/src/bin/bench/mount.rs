//! The mount suite: mounted trees beside the same trees as ordinary files, and a mounted hit beside npm, bun and pnpm.
//!
//! Both sides of a pair run the same code on the same disk, each on a tree of its own that was made beforehand, in
//! rounds of one run. What is in the page cache is said by the group's name: *warm* after a pass that is not measured,
//! *cold* after the kernel's caches were dropped and the server was started anew.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rift_tests::fault::Dice;
use rift_tests::fixture::Fixture;
use rift_tests::mounts::servers_of;
use rift_tests::need::Need;
use rift_tests::sandbox::clear;

use crate::measure;
use crate::suite::{Case, Check, NPM_CI, Suite, drop_caches, entries, same, walk};
use crate::table::Target::{AtLeast, AtMost, Reported};
use crate::table::{Figure, Measure, Of, Report, median};
use crate::walk::{self as pass, Counts, Names};

const APPEAR: &str = "appear";
const STAT_WARM: &str = "walk+stat, warm";
const OPEN_WARM: &str = "open+close, warm";
const READ_WARM: &str = "read all, warm";
const STAT_COLD: &str = "walk+stat, cold";
const READ_COLD: &str = "read all, cold";
const WRITE: &str = "write 1,000 files";
const VITE: &str = "vite build";
const TSC: &str = "tsc --noEmit";
const NEXT: &str = "next build";
const REMOVE: &str = "rm -rf";

/// The two cases of every group but the first.
const MOUNT: &str = "rift mount";
const FILES: &str = "files";
/// What was considered for root: the kernel's overlay above the mount, so that writing asks no server.
const OVERLAY: &str = "overlay above rift mount";

const OPEN: &str = "rift open";
const OPEN_MANY: &str = "rift open, 150k files";
const ANONYMOUS: &str = "server's anonymous memory, 70k files";
const PAGE_CACHE: &str = "page cache over a large file's size";

/// Where new files are put, and how many in each.
const FOLDERS: usize = 100;
const FILES_EACH: usize = 10;
const LARGE_BYTES: u64 = 256 << 20;

/// What a program makes of a project whose `node_modules` is mounted.
struct Application {
    group: &'static str,
    fixture: Fixture,
    /// Below `node_modules/.bin`.
    words: &'static [&'static str],
    /// Removed before each run.
    output: Option<&'static str>,
    /// The part of the output that is the same whenever it is made.
    stable: Stable,
}

enum Stable {
    Folder(&'static str),
    /// What the program says, with one more word, of the files that it reads.
    Listing(&'static str),
}

const APPLICATIONS: &[Application] = &[
    Application {
        group: VITE,
        fixture: Fixture::Small,
        words: &["vite", "build"],
        output: Some("dist"),
        stable: Stable::Folder("dist"),
    },
    Application {
        group: TSC,
        fixture: Fixture::Small,
        words: &["tsc", "--noEmit"],
        output: None,
        stable: Stable::Listing("--listFiles"),
    },
    Application {
        group: NEXT,
        fixture: Fixture::Medium,
        words: &["next", "build"],
        output: Some(".next"),
        stable: Stable::Folder(".next/static"),
    },
];

/// What a mount is held to. Peers and the many files are compared on the medium project, as small trees are mostly the
/// start of a process.
pub(crate) fn measures(of: &Of<'_>) -> Vec<Measure> {
    let hit = (APPEAR, "rift hit");
    let is_medium = of.fixture == "medium";
    let at_least = |bound| if is_medium { AtLeast(bound) } else { Reported };
    let over_hit = |peer| of.ratio((APPEAR, peer), hit);
    let pair = |group| of.ratio((group, MOUNT), (group, FILES));
    let overlay = |group| of.ratio((group, OVERLAY), (group, MOUNT));
    vec![
        (
            "hit to exit, ms",
            of.median(hit, |sample| Some(sample.wall_s)).map(|seconds| seconds * 1e3),
            AtMost(20.0),
        ),
        ("bun, hard links, over hit", over_hit("bun, hard links"), at_least(8.0)),
        (
            "bun, isolated global store, over hit",
            over_hit("bun, isolated global store"),
            at_least(6.0),
        ),
        (
            "pnpm, global virtual store, over hit",
            over_hit("pnpm, global virtual store"),
            at_least(6.0),
        ),
        ("npm ci over hit", over_hit("npm ci"), at_least(200.0)),
        (
            "150k files over the project's tree",
            of.ratio((APPEAR, OPEN_MANY), (APPEAR, OPEN)),
            if is_medium { AtMost(1.5) } else { Reported },
        ),
        ("walk+stat, warm, over files", pair(STAT_WARM), AtMost(1.1)),
        ("open+close, warm, over files", pair(OPEN_WARM), AtMost(1.4)),
        ("read all, warm, over files", pair(READ_WARM), AtMost(1.2)),
        ("walk+stat, cold, over files", pair(STAT_COLD), AtMost(0.25)),
        ("read all, cold, over files", pair(READ_COLD), AtMost(1.1)),
        ("write 1,000 files, over files", pair(WRITE), AtMost(3.0)),
        ("vite build, over files", pair(VITE), AtMost(1.02)),
        ("tsc --noEmit, over files", pair(TSC), AtMost(1.02)),
        ("next build, over files", pair(NEXT), AtMost(1.02)),
        ("rm -rf, over files", pair(REMOVE), AtMost(1.5)),
        ("walk+stat, warm, overlay over mount", overlay(STAT_WARM), Reported),
        ("open+close, warm, overlay over mount", overlay(OPEN_WARM), Reported),
        ("read all, warm, overlay over mount", overlay(READ_WARM), Reported),
        ("write 1,000 files, overlay over mount", overlay(WRITE), Reported),
        ("server's anonymous memory, 70k files, MB", of.figure(ANONYMOUS), AtMost(20.0)),
        ("page cache over a large file's size", of.figure(PAGE_CACHE), AtMost(1.1)),
    ]
}

impl Suite<'_> {
    /// Measures everything wanted; `save` is called after each group, so that what was measured outlives a cut.
    pub(crate) fn mount(
        &self,
        report: &mut Report,
        save: &dyn Fn(&Report) -> Result<()>,
    ) -> Result<()> {
        let reference = self.reference()?;
        let (all, many) = (self.wanted.runs, self.wanted.runs * 3);
        let groups = [
            (APPEAR, all),
            // A pass takes milliseconds, so that there can be more of them.
            (STAT_WARM, many),
            (OPEN_WARM, many),
            (READ_WARM, many),
            (STAT_COLD, all),
            (READ_COLD, all),
            (WRITE, all),
            (REMOVE, all),
        ];
        for (group, runs) in groups {
            if matches!(group, STAT_COLD | READ_COLD)
                && !self.pair(group).is_empty()
                && let Some(why) = Need::Root.missing()
            {
                self.leave_out(report, group, &why);
                continue;
            }
            let cases = match group {
                APPEAR => self.appear_cases(&reference)?,
                WRITE => self.write_cases()?,
                REMOVE => self.remove_cases(&reference)?,
                _ => self.pass_cases(group, &reference)?,
            };
            report.rows.extend(self.interleave(&cases, runs));
            save(report)?;
        }
        for application in APPLICATIONS.iter().filter(|one| one.fixture == self.fixture) {
            let cases = self.application_cases(application)?;
            report.rows.extend(self.interleave(&cases, all));
            save(report)?;
        }
        if self.wanted.figures {
            self.mount_figures(&reference, report)?;
            save(report)?;
        }
        for project in ["mounted", "lower"] {
            self.close(&self.folder(project).join("node_modules"))?;
        }
        clear(&self.folder(""))
    }

    /// Ends what is shown at a directory and removes it, whatever it is.
    fn close(&self, directory: &Path) -> Result<()> {
        if !servers_of(directory).is_empty() {
            let mut command = self.rift_in(&self.folder(""), "store", &["close", "--discard"])?;
            command.arg(directory);
            self.quietly(command)?;
            wait_for_end(directory)?;
        }
        clear(directory)
    }

    /// Shows the fixture's tree at a project's `node_modules`, by a server that has just started.
    fn mount_anew(&self, project: &Path) -> Result<()> {
        let directory = project.join("node_modules");
        self.close(&directory)?;
        self.quietly(self.rift(project, "store", &["--as", "mount"], NPM_CI)?)?;
        let servers = servers_of(&directory).len();
        ensure!(servers == 1, "{servers} servers show {}", directory.display());
        Ok(())
    }

    /// The project whose `node_modules` is mounted.
    fn mounted(&self) -> Result<PathBuf> {
        let project = self.project("mounted")?;
        if servers_of(&project.join("node_modules")).is_empty() {
            self.mount_anew(&project)?;
        }
        Ok(project)
    }

    /// A project that npm has installed, to be written in.
    fn native(&self) -> Result<PathBuf> {
        let project = self.project("native")?;
        if !project.join("node_modules").exists() {
            self.quietly(self.plain(&project, Path::new("npm"), &NPM_CI[1..]))?;
        }
        Ok(project)
    }

    /// Returns the wanted ones of a group's two cases.
    fn pair(&self, group: &str) -> Vec<&'static str> {
        [MOUNT, FILES].into_iter().filter(|name| self.wants(group, name)).collect()
    }

    /// Returns the wanted ones of a group's cases, the overlay among them where it can be mounted.
    fn pair_and_overlay(&self, group: &str) -> Vec<&'static str> {
        let mut names = self.pair(group);
        let is_wanted = self.wants(group, OVERLAY) && Need::Root.missing().is_none();
        names.extend(is_wanted.then_some(OVERLAY));
        names
    }

    /// Mounts a writable overlay above a tree that is mounted for it, at the `node_modules` of another project.
    fn overlaid(&self) -> Result<Overlaid> {
        let lower = self.project("lower")?;
        self.mount_anew(&lower)?;
        let lower = lower.join("node_modules");
        let place = self.project("overlaid")?.join("node_modules");
        let [upper, work] = ["upper", "work"].map(|name| self.folder(&format!("overlay/{name}")));
        clear(&self.folder("overlay"))?;
        for folder in [&upper, &work, &place] {
            fs::create_dir_all(folder)?;
        }
        let [lower, upper, work] = [lower, upper, work].map(|path| path.display().to_string());
        let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        let mut mount = self.sandbox.command(&self.folder(""), "mount");
        mount.args(["-t", "overlay", "-o", &options, "overlay"]).arg(&place);
        self.quietly(mount)?;
        Ok(Overlaid(place))
    }

    /// The tree appears: a mounted hit, and what others do instead.
    fn appear_cases(&self, reference: &Path) -> Result<Vec<Case<'_>>> {
        let mut cases = Vec::new();
        let (group, tree) = (APPEAR, reference.join("node_modules"));
        if self.wants(group, "rift hit") {
            let equal = Check::Equal(reference.to_path_buf());
            let how = (&["--as", "mount"][..], NPM_CI);
            let case = self.hit(group, "rift hit", self.project("appear")?, equal, how);
            cases.push(self.closing(case));
        }
        let one = entries(&tree)?;
        for (name, place, files) in [(OPEN, "open", one), (OPEN_MANY, "open-many", 150_000)] {
            if !self.wants(group, name) {
                continue;
            }
            let (copies, project) =
                (self.ingest_copies(reference, place, files)?, self.folder(place));
            fs::create_dir(&project)?;
            let shown = project.join("node_modules");
            let tree = tree.clone();
            let check = Check::Own(Box::new(move || {
                for number in 0..copies {
                    same(&tree, &shown.join(number.to_string()))?;
                }
                Ok(())
            }));
            let case = self.case(group, name, project, check, move |at| {
                let words = ["open", place, "node_modules"];
                self.measured(self.rift_in(at, "store", &words)?, at)
            });
            cases.push(self.closing(case));
        }
        if self.wants(group, "npm ci") {
            cases.push(self.npm_case(group, reference)?);
        }
        for name in ["pnpm, global virtual store", "bun, hard links", "bun, isolated global store"]
        {
            if self.wants(group, name) {
                cases.push(self.peer_case(group, name)?);
            }
        }
        Ok(cases)
    }

    /// Takes copies of the fixture's tree in as one tree of at least so many files; returns how many copies.
    fn ingest_copies(&self, reference: &Path, name: &str, files: u64) -> Result<u64> {
        let tree = reference.join("node_modules");
        let copies = files.div_ceil(entries(&tree)?);
        let (all, above) = (self.folder(name), self.folder(""));
        fs::create_dir(&all)?;
        for number in 0..copies {
            let mut copy = self.sandbox.command(&all, "cp");
            copy.arg("-al").arg(&tree).arg(all.join(number.to_string()));
            self.quietly(copy)?;
        }
        self.quietly(self.rift_in(&above, "store", &["ingest", name, "--name", name])?)?;
        clear(&all)?;
        Ok(copies)
    }

    /// A case that starts and ends with nothing mounted.
    fn closing<'a>(&'a self, mut case: Case<'a>) -> Case<'a> {
        let tree = case.project.join("node_modules");
        let after = tree.clone();
        case.before = Box::new(move |_| self.close(&tree));
        case.after = Box::new(move || self.close(&after));
        case
    }

    /// One pass over the whole tree.
    fn pass_cases(&self, group: &'static str, reference: &Path) -> Result<Vec<Case<'_>>> {
        let mut cases = Vec::new();
        let is_cold = matches!(group, STAT_COLD | READ_COLD);
        let names = if is_cold { self.pair(group) } else { self.pair_and_overlay(group) };
        for name in names {
            let overlaid = if name == OVERLAY { Some(self.overlaid()?) } else { None };
            let project = match (&overlaid, name) {
                (Some(overlaid), _) => overlaid.project(),
                (None, MOUNT) => self.mounted()?,
                _ => reference.to_path_buf(),
            };
            let known = Names::of(&project.join("node_modules"))?;
            let all = pass::stat_all(&reference.join("node_modules"))?;
            // Names that are known beforehand are those of files and folders, and opening reads nothing.
            let expected = match group {
                OPEN_WARM => Counts { symlinks: 0, bytes: 0, ..all },
                READ_WARM => Counts { symlinks: 0, ..all },
                _ => all,
            };
            let once = Rc::new(move |project: &Path| {
                let (tree, mut met) = (project.join("node_modules"), Counts::default());
                let sample = measure::here(|| {
                    met = match group {
                        OPEN_WARM => known.open_all(&tree),
                        READ_WARM => known.read_all(&tree),
                        READ_COLD => pass::read_all(&tree),
                        _ => pass::stat_all(&tree),
                    }?;
                    Ok(())
                })?;
                ensure!(met == expected, "met {met:?}, not {expected:?}");
                Ok(sample)
            });
            let (unmeasured, again) = (once.clone(), project.clone());
            let equal = Check::Equal(reference.to_path_buf());
            let mut case = self.case(group, name, project, equal, move |at| {
                if is_cold {
                    drop_caches()?;
                }
                once(at)
            });
            case.before = Box::new(move |_| {
                if !is_cold {
                    return unmeasured(&again).map(drop);
                }
                if name == MOUNT {
                    self.close(&again.join("node_modules"))?;
                    // What a server reads as it starts must not be mapped with pages that are there already.
                    drop_caches()?;
                    self.mount_anew(&again)?;
                }
                Ok(())
            });
            case.count = Box::new(move || Ok(all.files + all.symlinks));
            // The overlay lives as long as the case.
            case.after = Box::new(move || overlaid.as_ref().map_or(Ok(()), Overlaid::is_there));
            cases.push(case);
        }
        Ok(cases)
    }

    /// New small files in folders that the tree has and nobody has written to.
    fn write_cases(&self) -> Result<Vec<Case<'_>>> {
        let mut cases = Vec::new();
        for name in self.pair_and_overlay(WRITE) {
            let overlaid = if name == OVERLAY { Some(self.overlaid()?) } else { None };
            let project = match (&overlaid, name) {
                (Some(overlaid), _) => overlaid.project(),
                (None, MOUNT) => self.mounted()?,
                _ => self.native()?,
            };
            let folders = spread(&project.join("node_modules"), FOLDERS)?;
            let (written, removed) = (folders.clone(), folders);
            let nothing_more = Check::Own(Box::new(|| Ok(())));
            let mut case = self.case(WRITE, name, project, nothing_more, move |at| {
                let tree = at.join("node_modules");
                let sample = measure::here(|| pass::write_files(&tree, &written, FILES_EACH))?;
                for folder in &written {
                    for number in 0..FILES_EACH {
                        let path = tree.join(folder).join(pass::new_name(number));
                        let is_right = fs::read(&path)? == pass::new_content(number);
                        ensure!(is_right, "{} holds something else", path.display());
                    }
                }
                Ok(sample)
            });
            let at = case.project.clone();
            let overlaid = std::cell::RefCell::new(overlaid);
            case.before = Box::new(move |_| {
                match name {
                    MOUNT => self.mount_anew(&at)?,
                    OVERLAY => {
                        drop(overlaid.take());
                        overlaid.replace(Some(self.overlaid()?));
                    }
                    _ => {}
                }
                pass::stat_all(&at.join("node_modules")).map(drop)
            });
            let tree = case.project.join("node_modules");
            case.after = Box::new(move || {
                let mut files = removed.iter().flat_map(|folder| {
                    let folder = tree.join(folder);
                    (0..FILES_EACH).map(move |number| folder.join(pass::new_name(number)))
                });
                files.try_for_each(fs::remove_file)?;
                Ok(())
            });
            cases.push(case);
        }
        Ok(cases)
    }

    /// `rm -rf node_modules`, of which all names have been looked at.
    fn remove_cases(&self, reference: &Path) -> Result<Vec<Case<'_>>> {
        let mut cases = Vec::new();
        for name in self.pair(REMOVE) {
            let project = self.project(if name == MOUNT { "removed-mount" } else { "removed" })?;
            let nothing_more = Check::Own(Box::new(|| Ok(())));
            let mut case = self.case(REMOVE, name, project, nothing_more, move |at| {
                let mut command = self.plain(at, Path::new("rm"), &["-rf"]);
                command.arg(at.join("node_modules"));
                let sample = self.measured(command, at)?;
                ensure!(!at.join("node_modules").exists(), "something is left");
                Ok(sample)
            });
            let (at, from) = (case.project.clone(), reference.join("node_modules"));
            case.before = Box::new(move |_| {
                let tree = at.join("node_modules");
                if name == MOUNT {
                    self.mount_anew(&at)?;
                } else {
                    let mut copy = self.sandbox.command(&at, "cp");
                    copy.arg("-a").arg(&from).arg(&tree);
                    self.quietly(copy)?;
                }
                ensure!(pass::stat_all(&tree)? == pass::stat_all(&from)?, "another tree");
                Ok(())
            });
            case.count = Box::new(|| Ok(0));
            let tree = case.project.join("node_modules");
            case.after = Box::new(move || wait_for_end(&tree));
            cases.push(case);
        }
        Ok(cases)
    }

    /// A program that reads a project's packages.
    fn application_cases(&self, application: &'static Application) -> Result<Vec<Case<'_>>> {
        let group = application.group;
        let mut cases = Vec::new();
        for name in self.pair(group) {
            let native = self.native()?;
            let project = if name == MOUNT { self.project("mounted")? } else { native.clone() };
            let mut copy = self.sandbox.command(&project, "cp");
            copy.arg("-r").arg(self.fixture.source().join("app/.")).arg(&project);
            self.quietly(copy)?;
            // What comes out with ordinary files is expected, at the same place: next names modules by their paths.
            let (real, tree) = (native.join("node_modules"), project.join("node_modules"));
            if name == MOUNT {
                self.close(&tree)?;
                fs::rename(&real, &tree)?;
            }
            self.quietly(self.application(application, &project))?;
            let listing = self.listing(application, &project)?;
            let expected = self.folder(&format!("expected/{name}"));
            if let Stable::Folder(folder) = application.stable {
                clear(&expected)?;
                fs::create_dir_all(self.folder("expected"))?;
                fs::rename(project.join(folder), &expected)?;
            }
            if name == MOUNT {
                fs::rename(&tree, &real)?;
                self.mount_anew(&project)?;
            }
            let at = project.clone();
            let check = Check::Own(Box::new(move || match application.stable {
                Stable::Folder(folder) => same(&expected, &at.join(folder)),
                Stable::Listing(_) => {
                    let found = self.listing(application, &at)?;
                    ensure!(found == listing, "it reads other files: {found}");
                    Ok(())
                }
            }));
            let mut case = self.case(group, name, project, check, move |at| {
                self.measured(self.application(application, at), at)
            });
            let (at, made) = (case.project.clone(), case.project.clone());
            case.before = Box::new(move |_| match application.output {
                Some(output) => clear(&at.join(output)),
                None => Ok(()),
            });
            case.count = Box::new(move || match application.output {
                Some(output) => entries(&made.join(output)),
                None => Ok(0),
            });
            case.after = Box::new(|| Ok(()));
            cases.push(case);
        }
        Ok(cases)
    }

    fn application(&self, application: &Application, project: &Path) -> Command {
        let program = project.join("node_modules/.bin").join(application.words[0]);
        let mut command = self.plain(project, &program, &application.words[1..]);
        command.env("NEXT_TELEMETRY_DISABLED", "1");
        command
    }

    /// What the program says of the files that it reads, without the project's place.
    fn listing(&self, application: &Application, project: &Path) -> Result<String> {
        let Stable::Listing(word) = application.stable else { return Ok(String::new()) };
        let mut command = self.application(application, project);
        let said = self.sandbox.run(command.arg(word))?.success()?.stdout;
        let here = project.canonicalize()?.display().to_string();
        ensure!(said.contains(&here), "it names no file of the project: {said}");
        Ok(said.replace(&here, ""))
    }

    /// Sizes that are no times.
    fn mount_figures(&self, reference: &Path, report: &mut Report) -> Result<()> {
        let fixture = self.fixture.name();
        let note = |report: &mut Report, name: &str, value, unit| {
            report.figures.push(Figure { fixture, name: name.to_owned(), value, unit });
        };
        if self.wants("figures", ANONYMOUS) {
            let copies = self.ingest_copies(reference, "seventy", 70_000)?;
            let (shown, bytes) = self.anonymous("seventy", copies, reference)?;
            note(report, "files of the tree of many copies", shown.files as f64, "files");
            note(report, ANONYMOUS, bytes as f64 / 1e6, "MB");
        }
        if self.wants("figures", PAGE_CACHE) {
            match Need::Root.missing() {
                Some(why) => self.leave_out(report, PAGE_CACHE, &why),
                None => note(report, PAGE_CACHE, self.page_cache()?, "×"),
            }
        }
        Ok(())
    }

    /// Reads everything of a mounted tree; returns what there was, and the server's anonymous memory.
    fn anonymous(&self, name: &str, copies: u64, reference: &Path) -> Result<(Counts, u64)> {
        let directory = self.folder("figures");
        let mut open = self.rift_in(&self.folder(""), "store", &["open", name])?;
        open.arg(&directory);
        self.quietly(open)?;
        let (looked, read) = (pass::stat_all(&directory)?, pass::read_all(&directory)?);
        let one = pass::stat_all(&reference.join("node_modules"))?;
        let expected = (one.files * copies, one.bytes * copies);
        ensure!(looked == read && (read.files, read.bytes) == expected, "met {read:?}");
        let [server] = servers_of(&directory)[..] else {
            anyhow::bail!("not one server shows {}", directory.display())
        };
        let bytes = proc_bytes(&format!("/proc/{server}/status"), "RssAnon")?;
        self.close(&directory)?;
        Ok((read, bytes))
    }

    /// Reads a large file of a mounted tree; returns how much more the page cache holds, over the file's size.
    fn page_cache(&self) -> Result<f64> {
        let (above, directory) = (self.folder(""), self.folder("figures"));
        fs::create_dir(self.folder("large"))?;
        let mut file = File::create(self.folder("large/file"))?;
        noise(|block| Ok(file.write_all(block)?))?;
        drop(file);
        self.quietly(self.rift_in(&above, "store", &["ingest", "large", "--name", "large"])?)?;
        clear(&self.folder("large"))?;
        let mut ratios = Vec::new();
        for _run in 0..self.wanted.runs.min(3) {
            let mut open = self.rift_in(&above, "store", &["open", "large"])?;
            open.arg(&directory);
            self.quietly(open)?;
            drop_caches()?;
            let before = proc_bytes("/proc/meminfo", "Cached")?;
            let read = pass::read_all(&directory)?;
            let after = proc_bytes("/proc/meminfo", "Cached")?;
            ratios.push((after as f64 - before as f64) / LARGE_BYTES as f64);
            ensure!(read.bytes == LARGE_BYTES, "met {read:?}");
            let mut file = File::open(directory.join("file"))?;
            let mut found = [0; BLOCK_BYTES];
            noise(|block| {
                file.read_exact(&mut found)?;
                ensure!(found == *block, "the large file holds something else");
                Ok(())
            })?;
            drop(file);
            self.close(&directory)?;
        }
        median(ratios).context("there is one run at least")
    }
}

/// Waits until nobody serves a mount at a directory.
fn wait_for_end(directory: &Path) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !servers_of(directory).is_empty() {
        let shown = directory.display();
        ensure!(Instant::now() < deadline, "the server of {shown} does not end");
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Returns the number of bytes that a file of proc(5) has beside a name.
fn proc_bytes(path: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("could not read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kilobytes.with_context(|| format!("{path} has no {name}"))?.parse::<u64>()? * 1024)
}

const BLOCK_BYTES: usize = 4096;

/// Gives out [`LARGE_BYTES`] that nothing can make smaller, always the same.
fn noise(mut take: impl FnMut(&[u8; BLOCK_BYTES]) -> Result<()>) -> Result<()> {
    let (mut dice, mut block) = (Dice::new(0), [0; BLOCK_BYTES]);
    for _block in 0..LARGE_BYTES / BLOCK_BYTES as u64 {
        for word in block.as_chunks_mut::<8>().0 {
            *word = dice.below(u64::MAX).to_le_bytes();
        }
        take(&block)?;
    }
    Ok(())
}

/// Returns so many folders of a tree, relative to it, evenly spread over all of them.
fn spread(tree: &Path, count: usize) -> Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    walk(tree, &mut |path, metadata| {
        if metadata.is_dir() {
            folders.push(path.strip_prefix(tree)?.to_path_buf());
        }
        Ok(())
    })?;
    ensure!(folders.len() >= count, "the tree has {} folders", folders.len());
    folders.sort();
    Ok((0..count).map(|number| folders[number * folders.len() / count].clone()).collect())
}

/// A mounted overlay; it goes when this is dropped.
struct Overlaid(PathBuf);

impl Overlaid {
    fn project(&self) -> PathBuf {
        self.0.parent().unwrap_or(&self.0).to_path_buf()
    }

    fn is_there(&self) -> Result<()> {
        let listed = fs::read_dir(&self.0)?.next();
        ensure!(listed.is_some(), "{} is empty", self.0.display());
        Ok(())
    }
}

impl Drop for Overlaid {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.0.display());
        }
    }
}
