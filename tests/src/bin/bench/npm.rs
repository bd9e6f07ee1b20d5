//! The npm suite: what `rift exec -- npm ci` takes, beside npm, bun, pnpm, cp and the floors.
//!
//! Caches are warm and there is no network unless the case's name says otherwise; `node_modules` is removed before each
//! measurement, untimed. What a case made must be equal to npm's tree by the strict differ, or, for tools with a layout
//! of their own, every direct dependency must resolve.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use rift_tests::fixture::Fixture;
use rift_tests::sandbox::clear;

use crate::floor::{self, Way};
use crate::measure::{self, Sample};
use crate::suite::{Case, Check, NPM_CI, NPM_CI_ONLINE, NPM_CI_SCRIPTS, Suite, walk};
use crate::table::Target::{AtLeast, AtMost, Reported};
use crate::table::{Figure, Measure, Of, Report, median};

const WARM: &str = "warm";
const COLD_STORE: &str = "cold store, warm npm cache";
const EVERYTHING_COLD: &str = "everything cold";
const LODASH: &str = "npm install lodash";
const SCRIPTS: &str = "install scripts on";

/// What a hit and a miss are held to.
pub(crate) fn measures(of: &Of<'_>) -> Vec<Measure> {
    let (cold, lodash) = (EVERYTHING_COLD, LODASH);
    let (hit, links) = ((WARM, "rift hit"), (WARM, "rift hit, --via hardlink"));
    let learning = (COLD_STORE, "rift --record-only");
    let is_medium = of.fixture == "medium";
    let milliseconds = |case, field: fn(&Sample) -> Option<f64>| {
        of.median((WARM, case), field).map(|seconds| seconds * 1e3)
    };
    vec![
        ("hit over two-thread write", of.ratio(hit, (WARM, "two-thread write")), AtMost(1.1)),
        ("hit over npm ci", of.ratio(hit, (WARM, "npm ci")), AtMost(0.1)),
        ("hit over bun, hard links", of.ratio(hit, (WARM, "bun, hard links")), Reported),
        (
            "--via hardlink over bun, hard links",
            of.ratio(links, (WARM, "bun, hard links")),
            AtMost(if is_medium { 1.0 } else { 1.5 }),
        ),
        (
            "hit with scripts over hit without",
            of.ratio((SCRIPTS, "rift hit"), (SCRIPTS, "rift hit without scripts")),
            AtMost(1.1),
        ),
        ("everything cold over bun", of.ratio((cold, "rift"), (cold, "bun")), AtMost(1.1)),
        ("everything cold over npm ci", of.ratio((cold, "rift"), (cold, "npm ci")), AtMost(0.5)),
        ("npm install lodash over npm", of.ratio((lodash, "rift"), (lodash, "npm")), AtMost(1.05)),
        (
            "one package changed over hit",
            of.ratio((WARM, "rift, one package changed"), hit),
            AtMost(1.3),
        ),
        ("learning over npm ci", of.ratio(learning, (learning.0, "npm ci")), AtMost(1.25)),
        (
            "first entry of a hit, ms",
            milliseconds("rift hit", |sample| sample.first_entry_s),
            AtMost(15.0),
        ),
        ("repeat, ms", milliseconds("rift repeat", |sample| Some(sample.wall_s)), AtMost(60.0)),
        ("ingest, MB/s", of.figure("rift ingest, median"), AtLeast(400.0)),
        ("ingest, peak memory, MB", of.figure("rift ingest, peak memory"), AtMost(64.0)),
        (
            "store over unique bytes",
            of.figure("store after ingest over unique bytes"),
            AtMost(1.05),
        ),
    ]
}

impl Suite<'_> {
    /// Measures everything wanted; `save` is called after each group, so that what was measured outlives a cut.
    pub(crate) fn npm(
        &self,
        report: &mut Report,
        save: &dyn Fn(&Report) -> Result<()>,
    ) -> Result<()> {
        let reference = self.reference()?;
        let (all, few) = (self.wanted.runs, self.wanted.runs.min(3));
        for (group, runs) in
            [(WARM, all), (COLD_STORE, all), (EVERYTHING_COLD, all), (LODASH, few), (SCRIPTS, few)]
        {
            let cases = match group {
                WARM => self.warm_cases(&reference)?,
                COLD_STORE => self.cold_store_cases(&reference)?,
                EVERYTHING_COLD => self.cold_cases(&reference)?,
                LODASH => self.lodash_cases(&reference)?,
                _ => self.script_cases(&reference)?,
            };
            report.rows.extend(self.interleave(&cases, runs));
            save(report)?;
        }
        if self.wanted.figures {
            self.figures(&reference, &mut report.figures)?;
            save(report)?;
        }
        clear(&self.folder(""))
    }

    fn warm_cases(&self, reference: &Path) -> Result<Vec<Case<'_>>> {
        let mut cases = Vec::new();
        let equal = || Check::Equal(reference.to_path_buf());
        let group = WARM;
        for (name, folder, flags) in [
            ("rift hit", "rift", &[][..]),
            ("rift hit, --via hardlink", "rift-hardlink", &["--via", "hardlink"]),
        ] {
            if self.wants(group, name) {
                cases.push(self.hit(group, name, self.project(folder)?, equal(), (flags, NPM_CI)));
            }
        }
        if self.wants(group, "rift repeat") {
            let project = self.project("rift-repeat")?;
            let mut case = self.hit(group, "rift repeat", project, equal(), (&[], NPM_CI));
            (case.before, case.after) = (Box::new(|_| Ok(())), Box::new(|| Ok(())));
            cases.push(case);
        }
        if self.wants(group, "rift, one package changed") {
            cases.push(self.changed_case()?);
        }
        if self.wants(group, "npm ci") {
            cases.push(self.npm_case(group, reference)?);
        }
        for name in [
            "pnpm, hard links",
            "pnpm, global virtual store",
            "bun, hard links",
            "bun, isolated global store",
        ] {
            if self.wants(group, name) {
                cases.push(self.peer_case(group, name)?);
            }
        }
        for (name, how) in [("cp -al", "-al"), ("cp -a", "-a")] {
            if self.wants(group, name) {
                let project = self.project(&format!("cp{how}"))?;
                let from = reference.join("node_modules");
                cases.push(self.case(group, name, project, equal(), move |at| {
                    let mut command = self.sandbox.command(at, "cp");
                    command.arg(how).arg(&from).arg(at.join("node_modules"));
                    self.measured(command, at)
                }));
            }
        }
        for (name, way) in [("two-thread write", Way::Write), ("two-thread links", Way::Link)] {
            if self.wants(group, name) {
                let project = self.project(&name.replace(' ', "-"))?;
                let from = reference.join("node_modules");
                // Kept for all rounds: memory given back and taken again would be charged to the writing.
                let tree = floor::load(&from, way)?;
                cases.push(self.case(group, name, project, equal(), move |at| {
                    measure::here(|| floor::run(&tree, &from, &at.join("node_modules"), way))
                }));
            }
        }
        Ok(cases)
    }

    /// One package of a version that the store does not have, but npm's cache does; another version in every round.
    fn changed_case(&self) -> Result<Case<'_>> {
        let project = self.project("rift-changed")?;
        // Packages without dependencies, so that nothing else of the lockfile changes.
        let (name, range, series, end) = match self.fixture {
            Fixture::Small => ("globals", "^15.0.0", "15", ".0"),
            Fixture::Medium => ("zod", "^3.23.0", "3.23", ""),
            Fixture::Tools => bail!("there are no variants for this fixture"),
        };
        let variants = self.folder("variants");
        for round in 0..=self.wanted.runs.min(8) {
            let variant = variants.join(round.to_string());
            self.fixture.prepare(&variant)?;
            let version = format!("{series}.{round}{end}");
            let word = format!("{name}@{version}");
            self.quietly(self.plain(&variant, Path::new("npm"), &["cache", "add", &word]))?;
            let asked = ["view", &word, "dist.integrity", "--prefer-offline"];
            let mut view = self.plain(&variant, Path::new("npm"), &asked);
            let integrity = self.sandbox.run(&mut view)?.success()?.stdout;
            change_version(&variant, name, range, &version, integrity.trim())?;
        }
        // What npm makes of the first variant, which is the one that is checked.
        let native = variants.join("0");
        self.quietly(self.plain(&native, Path::new("npm"), &NPM_CI[1..]))?;
        // The store knows the tree of the fixture as it is.
        let name = "rift, one package changed";
        let mut case = self.hit(WARM, name, project, Check::Equal(native), (&[], NPM_CI));
        let at = case.project.clone();
        case.before = Box::new(move |round| {
            for name in ["package.json", "package-lock.json"] {
                fs::copy(variants.join(round.min(8).to_string()).join(name), at.join(name))?;
            }
            clear(&at.join("node_modules"))
        });
        Ok(case)
    }

    fn cold_store_cases(&self, reference: &Path) -> Result<Vec<Case<'_>>> {
        let mut cases = Vec::new();
        let (group, store) = (COLD_STORE, "cold-store-store");
        for (name, flags) in [("rift", &[][..]), ("rift --record-only", &["--record-only"])] {
            if self.wants(group, name) {
                let run = move |at: &Path| self.measured(self.rift(at, store, flags, NPM_CI)?, at);
                let (project, equal) =
                    (self.project("cold-store")?, Check::Equal(reference.to_path_buf()));
                let case = self.case(group, name, project, equal, run);
                cases.push(self.forgetting(case, &[store]));
            }
        }
        if self.wants(group, "npm ci") {
            cases.push(self.npm_case(group, reference)?);
        }
        Ok(cases)
    }

    fn cold_cases(&self, reference: &Path) -> Result<Vec<Case<'_>>> {
        let mut cases = Vec::new();
        let (group, store, cache) = (EVERYTHING_COLD, "cold-everything-store", "cold-npm");
        for name in ["rift", "npm ci"] {
            if self.wants(group, name) {
                let run = move |at: &Path| {
                    let mut command = match name {
                        "rift" => self.rift(at, store, &[], NPM_CI_ONLINE)?,
                        _ => self.plain(at, Path::new("npm"), &NPM_CI_ONLINE[1..]),
                    };
                    command.env("npm_config_cache", self.folder(cache));
                    self.measured(command, at)
                };
                let equal = Check::Equal(reference.to_path_buf());
                let case = self.case(group, name, self.project("cold")?, equal, run);
                cases.push(self.forgetting(case, &[store, cache]));
            }
        }
        for (name, of, cache, flag) in [
            ("bun", "bun, hard links", "cold-bun", "--cache-dir"),
            ("pnpm", "pnpm, hard links", "cold-pnpm", "--store-dir"),
        ] {
            if self.wants(group, name) {
                let (program, project, mut words) = self.peer(of)?;
                words.push(flag);
                let run = move |at: &Path| {
                    let (mut command, cold) =
                        (self.plain(at, &program, &words), self.folder(cache));
                    // pnpm also keeps what the registry said.
                    command.arg(&cold).env("XDG_CACHE_HOME", cold.join("cache"));
                    self.measured(command, at)
                };
                let case = self.case(group, name, project, Check::Resolves, run);
                cases.push(self.forgetting(case, &[cache]));
            }
        }
        Ok(cases)
    }

    fn lodash_cases(&self, reference: &Path) -> Result<Vec<Case<'_>>> {
        const WORDS: &[&str] = &[
            "npm",
            "install",
            "lodash@4.17.21",
            "--ignore-scripts",
            "--no-audit",
            "--prefer-offline",
        ];
        let mut cases = Vec::new();
        for name in ["rift", "npm"] {
            if self.wants(LODASH, name) {
                let run = move |at: &Path| {
                    let command = match name {
                        "rift" => self.rift(at, "store", &[], WORDS)?,
                        _ => self.plain(at, Path::new("npm"), &WORDS[1..]),
                    };
                    self.measured(command, at)
                };
                let project = self.project(&format!("lodash-{name}"))?;
                let mut case = self.case(LODASH, name, project, Check::Resolves, run);
                let (at, from) = (case.project.clone(), reference.to_path_buf());
                case.before = Box::new(move |_| {
                    clear(&at)?;
                    let copied = Command::new("cp").arg("-a").arg(&from).arg(&at).status()?;
                    ensure!(copied.success(), "cp -a ended with {copied}");
                    Ok(())
                });
                cases.push(case);
            }
        }
        Ok(cases)
    }

    fn script_cases(&self, reference: &Path) -> Result<Vec<Case<'_>>> {
        let mut cases = Vec::new();
        if self.wants(SCRIPTS, "rift hit") {
            // What a compiler leaves holds the path of the project: npm runs where rift is going to.
            let (native, project) = (self.project("scripts-native")?, self.project("scripts")?);
            self.quietly(self.plain(&project, Path::new("npm"), &NPM_CI_SCRIPTS[1..]))?;
            fs::rename(project.join("node_modules"), native.join("node_modules"))?;
            for (name, folder, words, tree) in [
                ("rift hit", "scripts", NPM_CI_SCRIPTS, native.as_path()),
                ("rift hit without scripts", "rift", NPM_CI, reference),
            ] {
                let equal = Check::Equal(tree.to_path_buf());
                cases.push(self.hit(SCRIPTS, name, self.project(folder)?, equal, (&[], words)));
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
            let (mut rates, mut peaks, mut sizes) = (Vec::new(), Vec::new(), Vec::new());
            for _run in 0..self.wanted.runs.min(3) {
                let store = self.folder("ingest-store");
                clear(&store)?;
                rustix::fs::sync();
                let mut command = self.sandbox.rift(reference, &["ingest", "node_modules"])?;
                command.env("RIFT_STORE", &store);
                let sample = self.measured(command, reference)?;
                rates.push(total as f64 / 1e6 / sample.wall_s);
                peaks.extend(sample.rss_bytes_max.map(|bytes| bytes as f64 / 1e6));
                sizes.push(disk_bytes(&[store])? as f64 / unique as f64);
            }
            let peak = peaks.into_iter().fold(0.0, f64::max);
            note("rift ingest, peak memory", peak, "MB");
            let size = median(sizes).unwrap_or(0.0);
            note("store after ingest over unique bytes", size, "×");
            note("rift ingest, median", median(rates).unwrap_or(0.0), "MB/s");
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

/// Makes a project depend on one version of a package, and its lockfile have it.
fn change_version(
    project: &Path,
    name: &str,
    range: &str,
    version: &str,
    integrity: &str,
) -> Result<()> {
    let manifest = fs::read_to_string(project.join("package.json"))?;
    let lock = fs::read_to_string(project.join("package-lock.json"))?;
    let (wide, narrow) = (format!("\"{name}\":\"{range}\""), format!("\"{name}\":\"{version}\""));
    ensure!(manifest.contains(&wide), "package.json has no {wide}");
    fs::write(project.join("package.json"), manifest.replacen(&wide, &narrow, 1))?;
    let place = format!("\"node_modules/{name}\": {{\n");
    let at = lock.find(&place).with_context(|| format!("the lockfile has no {place}"))?;
    let (head, entry) = lock.split_at(at + place.len());
    let end = entry.find('}').context("an entry ends")?;
    let (entry, rest) = entry.split_at(end);
    let old = entry
        .split_once("\"version\": \"")
        .and_then(|(_, rest)| rest.split_once('"'))
        .map(|(old, _)| old)
        .context("an entry has a version")?;
    let mut changed = String::new();
    for line in entry.split_inclusive('\n') {
        match line.split_once("\"integrity\": ") {
            Some((indent, _)) => {
                changed.push_str(&format!("{indent}\"integrity\": \"{integrity}\",\n"))
            }
            None => changed.push_str(&line.replace(old, version)),
        }
    }
    let wide = format!("\"{name}\": \"{range}\"");
    let head = head.replacen(&wide, &format!("\"{name}\": \"{version}\""), 1);
    fs::write(project.join("package-lock.json"), format!("{head}{changed}{rest}"))?;
    Ok(())
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
