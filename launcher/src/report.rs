//! What a run did: its summary for people and programs, and its record in the store.
//!
//! Every figure was counted or measured. What the original command took is what was measured when its
//! result was recorded; where that was on other hardware the summary says so and gives no ratio.

use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use rift_cas::Store;
use rift_cas::record::Kind;
use serde::{Deserialize, Serialize};

use crate::actions::parts::Parts;
use crate::ci;
use crate::ui::{self, Style, Ui};

/// The version of the summary's JSON form.
pub const SCHEMA: u32 = 1;

/// What became of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Everything was known; the command did not run.
    Hit,
    /// The result was there already.
    Repeat,
    /// A part was known, the rest was fetched or built; the command did not run as a whole.
    Partial,
    /// The command ran, and its result is known from here on.
    Learned,
    /// The command ran as it would have without rift.
    Untouched,
}

/// How many, and how large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tally {
    /// How many.
    pub count: u64,
    /// How many bytes they have.
    pub bytes: u64,
}

impl Tally {
    fn text(self) -> String {
        match self.bytes {
            0 => ui::count(self.count),
            bytes => format!("{} ({})", ui::count(self.count), ui::size(bytes)),
        }
    }
}

/// Processes of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Processes {
    /// Their recorded results were used.
    pub reused: u64,
    /// They ran.
    pub run: u64,
    /// The processor time that those reused took when they were recorded, in milliseconds.
    pub saved_cpu_ms: u64,
}

impl Processes {
    /// Says what was saved; nothing where that is nothing.
    fn saved(self) -> Option<String> {
        let time = ui::duration(Duration::from_millis(self.saved_cpu_ms));
        (self.saved_cpu_ms > 0).then(|| format!("{time} of processor time saved"))
    }
}

/// What a run did, in figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// [`SCHEMA`].
    pub schema: u32,
    /// What became of the command.
    pub mode: Mode,
    /// The command line without its secrets; what is no Unicode is replaced.
    pub command: Vec<String>,
    /// What the figures count: `package`.
    pub unit: String,
    /// Came from the store.
    pub reused: Tally,
    /// Came from a cache of the tool, or over the network.
    pub fetched: Tally,
    /// Was made by running something.
    pub built: Tally,
    /// Install scripts that ran.
    pub scripts_run: u64,
    /// Install scripts whose recorded result was used.
    pub scripts_reused: u64,
    /// Processes of a build, as far as they are recorded.
    #[serde(default)]
    pub processes: Processes,
    /// What the store takes on the disk, when that is known.
    pub store_bytes: Option<u64>,
    /// What the run took, in milliseconds.
    pub elapsed_ms: u64,
    /// What the command took when its result was recorded, in milliseconds.
    pub original_ms: Option<u64>,
    /// Whether that was on other hardware.
    pub original_on_other_hardware: bool,
    /// How many times longer the original took; `None` when that can't be compared.
    pub ratio: Option<f64>,
}

impl Summary {
    /// Starts the summary of a command.
    #[must_use]
    pub fn new(mode: Mode, command: &[OsString]) -> Self {
        let words = command.iter().map(|word| word.to_string_lossy().into_owned());
        let command = crate::redact::words(words);
        Self {
            schema: SCHEMA,
            mode,
            command,
            unit: "package".to_owned(),
            reused: Tally::default(),
            fetched: Tally::default(),
            built: Tally::default(),
            scripts_run: 0,
            scripts_reused: 0,
            processes: Processes::default(),
            store_bytes: None,
            elapsed_ms: 0,
            original_ms: None,
            original_on_other_hardware: false,
            ratio: None,
        }
    }

    /// Sets what the run took and, where it is known, what the original took.
    pub fn set_times(
        &mut self,
        elapsed: Duration,
        original: Option<Duration>,
        is_same_hardware: bool,
    ) {
        self.elapsed_ms = millis(elapsed);
        self.original_ms = original.map(millis);
        self.original_on_other_hardware = original.is_some() && !is_same_hardware;
        self.ratio = original
            .filter(|_| is_same_hardware && !elapsed.is_zero())
            .map(|original| original.as_secs_f64() / elapsed.as_secs_f64());
    }

    fn total(&self) -> u64 {
        self.reused.count + self.fetched.count + self.built.count
    }

    /// Returns the name of the program that was asked for.
    fn tool(&self) -> &str {
        let program = self.command.first().map_or("the command", String::as_str);
        Path::new(program).file_name().and_then(|name| name.to_str()).unwrap_or(program)
    }

    fn what(&self) -> String {
        let total = self.total();
        if total == 0 && self.mode == Mode::Untouched {
            return format!("{} ran", self.tool());
        }
        let plural = match total {
            1 => "",
            _ if self.unit.ends_with('s') => "es",
            _ => "s",
        };
        let verb = match self.mode {
            Mode::Repeat => "checked",
            Mode::Learned => "learned",
            Mode::Hit | Mode::Partial | Mode::Untouched => "projected",
        };
        let count = match self.mode {
            // What was made anew was not projected.
            Mode::Hit | Mode::Partial if self.built.count > 0 => {
                format!("{} of {}", ui::count(total - self.built.count), ui::count(total))
            }
            _ => ui::count(total),
        };
        format!("{count} {}{plural} {verb}", self.unit)
    }

    fn original(&self) -> Option<String> {
        let time = ui::duration(Duration::from_millis(self.original_ms?));
        let place = if self.original_on_other_hardware { " on other hardware" } else { "" };
        Some(format!("{} took {time} when recorded{place}", self.tool()))
    }

    /// Returns the one line that a log gets.
    #[must_use]
    pub fn line(&self) -> String {
        let elapsed = ui::duration(Duration::from_millis(self.elapsed_ms));
        let compared = self.original().or_else(|| self.processes.saved());
        let original = compared.map(|text| format!(" ({text})")).unwrap_or_default();
        let store = self.store_bytes.map(|bytes| format!("; store {}", ui::size(bytes)));
        format!("rift: {} in {elapsed}{original}{}", self.what(), store.unwrap_or_default())
    }

    /// Returns the block that a terminal gets.
    fn block(&self, ui: &Ui) -> String {
        let elapsed = ui::duration(Duration::from_millis(self.elapsed_ms));
        let faster = match self.ratio {
            Some(ratio) if ratio >= 1.95 => {
                let times =
                    if ratio < 9.95 { format!("{ratio:.1}") } else { format!("{ratio:.0}") };
                format!(" · {}", ui.paint(Style::Number, &format!("{times}× faster")))
            }
            _ => String::new(),
        };
        let head = format!(
            "{} {} in {}{faster}",
            ui.paint(Style::Accent, "▞ rift"),
            self.what(),
            ui.paint(Style::Number, &elapsed)
        );
        let mut details = Vec::new();
        for (word, tally) in
            [("reused", self.reused), ("fetched", self.fetched), ("built", self.built)]
        {
            if tally.count > 0 {
                details.push(format!("{word} {}", tally.text()));
            }
        }
        for (word, scripts) in [("run", self.scripts_run), ("reused", self.scripts_reused)] {
            if scripts > 0 {
                details.push(format!("scripts {word} {}", ui::count(scripts)));
            }
        }
        for (word, count) in [("reused", self.processes.reused), ("run", self.processes.run)] {
            // Else they were counted above.
            if count > 0 && self.unit != "process" {
                details.push(format!("processes {word} {}", ui::count(count)));
            }
        }
        details.extend(self.processes.saved());
        details.extend(self.original());
        details.extend(self.store_bytes.map(|bytes| format!("store {}", ui::size(bytes))));
        match details.is_empty() {
            true => head,
            false => format!("{head}\n  {}", ui.paint(Style::Dim, &details.join(" · "))),
        }
    }

    /// Prints the summary to stderr; nothing for a command that rift left alone.
    #[allow(clippy::print_stderr, reason = "the summary is for people")]
    pub fn print(&self, ui: &Ui) {
        if ui.is_quiet || self.mode == Mode::Untouched {
            return;
        }
        match ui.is_terminal {
            true => eprintln!("{}", self.block(ui)),
            false => eprintln!("{}", self.line()),
        }
    }

    /// Writes the summary as JSON; readers see the old file or the whole of the new one.
    ///
    /// # Errors
    /// What the system says.
    pub fn write_json(&self, path: &Path) -> anyhow::Result<()> {
        let mut text = serde_json::to_vec_pretty(self).context("could not encode the summary")?;
        text.push(b'\n');
        replace_file(path, &text)
            .with_context(|| format!("could not write the summary to `{}`", path.display()))
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Gives `bytes` the name `path` by renaming.
fn replace_file(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    // Pipes and /dev/stderr are written to as they are.
    if fs::metadata(path).is_ok_and(|stat| !stat.is_file()) {
        return fs::OpenOptions::new().write(true).open(path)?.write_all(bytes);
    }
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}", std::process::id()));
    let fresh = path.with_file_name(name);
    let written = fs::write(&fresh, bytes).and_then(|()| fs::rename(&fresh, path));
    if written.is_err() {
        // The first failure is the one to report.
        drop(fs::remove_file(&fresh));
    }
    written
}

/// One run as the store remembers it, for `rift why` and `rift summary`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// When it began, in milliseconds since the epoch.
    pub started_ms: u64,
    /// Where.
    pub directory: PathBuf,
    /// What it did.
    pub summary: Summary,
    /// Why, in the order in which it was decided.
    pub reasons: Vec<String>,
    /// What became of the processes of a build.
    #[serde(default, skip_serializing_if = "Parts::is_empty")]
    pub parts: Parts,
    /// The job of a CI system that it was a part of, see [`ci::Ci`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Whether rift has a plan for such commands, but this one ran and nothing was learnt.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_missed: bool,
    /// The keys of its plans, where the settings name a remote.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plans: Vec<String>,
    /// The refs of its actions, where the settings name a remote.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refs: Vec<String>,
}

impl Run {
    /// Starts the record of a run that begins now.
    #[must_use]
    pub fn begin(summary: Summary, directory: &Path) -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let started_ms = millis(since);
        Self {
            started_ms,
            directory: directory.to_owned(),
            summary,
            reasons: Vec::new(),
            parts: Parts::default(),
            job: ci::here().and_then(|ci| ci.job),
            is_missed: false,
            plans: Vec::new(),
            refs: Vec::new(),
        }
    }

    /// Writes the run down; returns the name it can be asked for by.
    ///
    /// # Errors
    /// As [`Store::set_record`].
    pub fn save(&self, store: &Store) -> anyhow::Result<String> {
        let name = format!("{}-{}", self.started_ms, std::process::id());
        let payload = serde_json::to_vec(self).context("could not encode the run")?;
        store.set_record(Kind::Run, &name, &payload).context("could not record the run")?;
        Ok(name)
    }

    /// Reads a run; the last one when no name is given.
    ///
    /// # Errors
    /// As [`Store::record`].
    pub fn load(store: &Store, name: Option<&str>) -> anyhow::Result<Option<(String, Self)>> {
        let name = match name {
            Some(name) => name.to_owned(),
            None => {
                let mut runs = store.records(Kind::Run)?;
                runs.sort_by_key(|(name, time)| (*time, name.clone()));
                match runs.pop() {
                    Some((name, _)) => name,
                    None => return Ok(None),
                }
            }
        };
        Ok(Self::read(store, &name)?.map(|run| (name, run)))
    }

    fn read(store: &Store, name: &str) -> anyhow::Result<Option<Self>> {
        let Some(payload) = store.record(Kind::Run, name)? else {
            return Ok(None);
        };
        let run = serde_json::from_slice(&payload)
            .with_context(|| format!("another version of rift recorded run {name}"))?;
        Ok(Some(run))
    }

    /// Hands the runs that can be read to `visit`, the last one first, until it says that it has seen enough; returns how
    /// many can't be read.
    ///
    /// # Errors
    /// As [`Store::records`].
    pub fn visit(store: &Store, mut visit: impl FnMut(Self) -> bool) -> anyhow::Result<u64> {
        let mut names = store.records(Kind::Run)?;
        names.sort_by_key(|(name, time)| (*time, name.clone()));
        let mut unreadable = 0;
        for (name, _) in names.iter().rev() {
            match Self::read(store, name) {
                Ok(Some(run)) => {
                    if !visit(run) {
                        break;
                    }
                }
                // Removed since it was listed.
                Ok(None) => {}
                Err(_) => unreadable += 1,
            }
        }
        Ok(unreadable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary() -> Summary {
        let mut summary = Summary::new(Mode::Hit, &["/usr/bin/npm".into(), "ci".into()]);
        summary.reused = Tally { count: 1235, bytes: 118_000_000 };
        summary.fetched = Tally { count: 2, bytes: 1_200_000 };
        summary.scripts_reused = 3;
        summary.store_bytes = Some(472_000_000);
        let original = Some(Duration::from_millis(32_400));
        summary.set_times(Duration::from_millis(610), original, true);
        summary
    }

    #[test]
    fn a_log_gets_one_line() {
        assert_eq!(
            summary().line(),
            "rift: 1,237 packages projected in 0.61 s (npm took 32.4 s when recorded); store 472 MB"
        );
        let mut some = summary();
        some.built = Tally { count: 3, bytes: 0 };
        assert!(some.line().starts_with("rift: 1,237 of 1,240 packages projected in 0.61 s"));
        some.mode = Mode::Learned;
        assert!(some.line().starts_with("rift: 1,240 packages learned in 0.61 s"));
        let mut elsewhere = summary();
        let original = Some(Duration::from_millis(32_400));
        elsewhere.set_times(Duration::from_millis(610), original, false);
        assert_eq!(elsewhere.ratio, None);
        assert!(elsewhere.line().contains("npm took 32.4 s when recorded on other hardware"));
        let mut bare = Summary::new(Mode::Repeat, &["npm".into()]);
        bare.reused.count = 1;
        bare.set_times(Duration::from_millis(41), None, true);
        assert_eq!(bare.line(), "rift: 1 package checked in 41 ms");
    }

    #[test]
    fn a_terminal_gets_a_block() {
        let ui = Ui { is_terminal: true, has_color: false, is_quiet: false };
        assert_eq!(
            summary().block(&ui),
            "▞ rift 1,237 packages projected in 0.61 s · 53× faster\n  \
             reused 1,235 (118 MB) · fetched 2 (1.2 MB) · scripts reused 3 · \
             npm took 32.4 s when recorded · store 472 MB"
        );
        let colored = summary().block(&Ui { has_color: true, ..ui });
        assert!(colored.contains("\x1b[1;38;5;141m▞ rift\x1b[0m"), "{colored:?}");
    }

    #[test]
    fn json_is_replaced_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("summary.json");
        fs::write(&path, b"old").unwrap();
        summary().write_json(&path).unwrap();
        let read: Summary = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(read, summary());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(summary().write_json(&folder.path().join("no/such/folder")).is_err());
    }

    #[test]
    fn runs_are_found_by_name_and_the_last_without() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        assert_eq!(Run::load(&store, None).unwrap(), None);
        let mut run = Run::begin(summary(), Path::new("/project"));
        run.reasons.push("the lockfile was known".to_owned());
        let name = run.save(&store).unwrap();
        assert_eq!(Run::load(&store, None).unwrap(), Some((name.clone(), run.clone())));
        assert_eq!(Run::load(&store, Some(&name)).unwrap(), Some((name, run)));
        assert_eq!(Run::load(&store, Some("other")).unwrap(), None);
    }

    #[test]
    fn runs_are_visited_and_what_is_no_run_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let run = Run::begin(summary(), Path::new("/project"));
        // As recorded before runs had jobs.
        let mut old = serde_json::to_value(&run).unwrap();
        let fields = old.as_object_mut().unwrap();
        fields.remove("job");
        assert!(!fields.contains_key("is_missed") && !fields.contains_key("plans"));
        store.set_record(Kind::Run, "1-1", old.to_string().as_bytes()).unwrap();
        store.set_record(Kind::Run, "1-2", b"{}").unwrap();
        let mut seen = Vec::new();
        let count = |seen: &mut Vec<Run>, is_enough: bool| {
            Run::visit(&store, |run| {
                seen.push(run);
                !is_enough
            })
        };
        assert_eq!(count(&mut seen, false).unwrap(), 1);
        assert_eq!((seen.len(), &seen[0].job, seen[0].is_missed), (1, &None, false));
        run.save(&store).unwrap();
        seen.clear();
        assert_eq!(count(&mut seen, true).unwrap(), 0);
        assert_eq!(seen, [run]);
    }
}
