//! What the runs of a job did together: its closing block for people, Markdown and programs.
//!
//! Every figure is a sum of what runs have recorded, nothing is estimated: original times count only where one was
//! recorded, and are compared only where that was on the same hardware. Text for Markdown and JSON, which others than
//! the user may read, holds no path outside the working directory and no word of a command line but those that a tool
//! gives a meaning to.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::plan;
use crate::report::{Mode, Run, SCHEMA, Tally};
use crate::ui::{self, Style, Ui};

/// How many rows of commands the Markdown has.
const ROWS_MAX: usize = 40;
/// How large these rows may get in the Markdown; all the rest of it is much smaller than what is left to 60 KiB.
const ROW_BYTES_MAX: usize = 48 << 10;
/// How many letters of a name are shown.
const LETTERS_MAX: usize = 80;
/// What is counted where runs count different things.
const MIXED: &str = "result";
/// How many shortfalls are told of.
const SHORTFALLS_MAX: usize = 3;

/// What runs did together.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Totals {
    /// What the figures count: `package`, or `result` where runs count different things; empty where there is no run.
    pub unit: String,
    /// How many commands rift did, as a whole or in part.
    pub served_runs: u64,
    /// How many commands ran, and rift learnt their result.
    pub learned_runs: u64,
    /// How many commands ran though rift has a plan for such, and nothing was learnt.
    pub missed_runs: u64,
    /// How many other commands ran.
    pub untouched_runs: u64,
    /// How many of those that rift did have a recorded original.
    pub original_runs: u64,
    /// What these originals took together.
    pub original_ms: Option<u64>,
    /// Whether any of these was on other hardware.
    pub original_on_other_hardware: bool,
    /// What the commands took that rift did.
    pub elapsed_ms: u64,
    /// How much less they took than their originals on the same hardware; `None` where there is none.
    pub saved_ms: Option<i64>,
    /// How many times longer the originals took; `None` where any can't be compared.
    pub ratio: Option<f64>,
    /// Came from the store.
    pub reused: Tally,
    /// Came from a cache of the tool, or over the network.
    pub fetched: Tally,
    /// Was made by running something.
    pub built: Tally,
    /// Was made by commands that ran, and learnt from them.
    pub learned: Tally,
    /// Install scripts that ran.
    pub scripts_run: u64,
    /// Install scripts whose recorded result was used.
    pub scripts_reused: u64,
    /// Processes of builds whose recorded results were used.
    pub processes_reused: u64,
    /// Processes of builds that ran, of those that are recorded.
    pub processes_run: u64,
    /// The processor time that those reused took when they were recorded, in milliseconds.
    pub saved_cpu_ms: u64,
    /// How much of all came from the store, in whole percent, rounded down; `None` where nothing was asked for.
    pub hit_percent: Option<u64>,
}

impl Totals {
    fn of<'r>(runs: impl Iterator<Item = &'r Run>) -> Self {
        let mut totals = Self::default();
        let (mut compared_ms, mut compared_original_ms) = (0_u64, 0_u64);
        for run in runs {
            let summary = &run.summary;
            // What ran untouched has nothing to count.
            if summary.mode != Mode::Untouched && totals.unit != summary.unit {
                let unit = if totals.unit.is_empty() { &summary.unit } else { MIXED };
                totals.unit = unit.to_owned();
            }
            totals.processes_reused += summary.processes.reused;
            totals.processes_run += summary.processes.run;
            totals.saved_cpu_ms += summary.processes.saved_cpu_ms;
            match summary.mode {
                Mode::Untouched if run.is_missed => totals.missed_runs += 1,
                Mode::Untouched => totals.untouched_runs += 1,
                Mode::Learned => {
                    totals.learned_runs += 1;
                    for tally in [summary.reused, summary.fetched, summary.built] {
                        add(&mut totals.learned, tally);
                    }
                }
                Mode::Hit | Mode::Repeat | Mode::Partial => {
                    totals.served_runs += 1;
                    totals.elapsed_ms += summary.elapsed_ms;
                    add(&mut totals.reused, summary.reused);
                    add(&mut totals.fetched, summary.fetched);
                    add(&mut totals.built, summary.built);
                    totals.scripts_run += summary.scripts_run;
                    totals.scripts_reused += summary.scripts_reused;
                    let Some(original_ms) = summary.original_ms else { continue };
                    totals.original_runs += 1;
                    totals.original_ms = Some(totals.original_ms.unwrap_or(0) + original_ms);
                    if summary.original_on_other_hardware {
                        totals.original_on_other_hardware = true;
                        continue;
                    }
                    compared_ms += summary.elapsed_ms;
                    compared_original_ms += original_ms;
                    let saved_ms = compared_original_ms.cast_signed() - compared_ms.cast_signed();
                    totals.saved_ms = Some(saved_ms);
                }
            }
        }
        let is_comparable = totals.saved_ms.is_some() && !totals.original_on_other_hardware;
        totals.ratio = (is_comparable && compared_ms > 0)
            .then(|| compared_original_ms as f64 / compared_ms as f64);
        totals.hit_percent = match (totals.asked_for(), totals.missed_runs) {
            (0, 0) => None,
            (0, _) => Some(0),
            (count, _) => Some(totals.reused.count * 100 / count),
        };
        totals
    }

    /// Says how many, and of what.
    fn counted(&self, count: u64) -> String {
        let unit = if self.unit.is_empty() { "package" } else { &self.unit };
        let end = match count {
            1 => "",
            _ if unit.ends_with('s') => "es",
            _ => "s",
        };
        format!("{} {unit}{end}", ui::count(count))
    }

    fn served(&self) -> u64 {
        self.reused.count + self.fetched.count + self.built.count
    }

    fn asked_for(&self) -> u64 {
        self.served() + self.learned.count
    }

    fn original(&self) -> Option<String> {
        let mut text = millis(self.original_ms?);
        if self.original_runs < self.served_runs {
            let (some, all) = (ui::count(self.original_runs), ui::count(self.served_runs));
            let written = write!(text, ", recorded for {some} of {all} runs");
            debug_assert!(written.is_ok(), "writing to a string can't fail");
        }
        if self.original_on_other_hardware {
            let part = if self.saved_ms.is_some() { "in part " } else { "" };
            let written = write!(text, ", {part}on other hardware");
            debug_assert!(written.is_ok(), "writing to a string can't fail");
        }
        Some(text)
    }

    /// Returns how many times longer the originals took, where it is worth saying.
    fn faster(&self) -> Option<String> {
        let ratio = self.ratio.filter(|ratio| *ratio >= 1.95)?;
        let digits = usize::from(ratio < 9.95);
        Some(format!("{ratio:.digits$}× faster"))
    }

    /// Returns the lines of the block: what a figure is, and the figure.
    fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines = Vec::new();
        lines.extend(self.original().map(|text| ("original", text)));
        if self.served_runs > 0 {
            lines.push(("rift", millis(self.elapsed_ms)));
        }
        if let Some(saved_ms) = self.saved_ms {
            let faster = self.faster().map(|text| format!(", {text}")).unwrap_or_default();
            let label = if saved_ms < 0 { "lost" } else { "saved" };
            lines.push((label, format!("{}{faster}", millis(saved_ms.unsigned_abs()))));
        }
        for (label, tally) in [
            ("reused", self.reused),
            ("fetched", self.fetched),
            ("built", self.built),
            ("learned", self.learned),
        ] {
            if tally.count > 0 {
                let bytes = Some(tally.bytes).filter(|bytes| *bytes > 0);
                let bytes = bytes.map(|bytes| format!(" ({})", ui::size(bytes)));
                let counted = self.counted(tally.count);
                lines.push((label, format!("{counted}{}", bytes.unwrap_or_default())));
            }
        }
        let scripts = [(self.scripts_reused, "reused"), (self.scripts_run, "run")];
        let scripts = scripts.into_iter().filter(|(count, _)| *count > 0);
        let scripts: Vec<_> =
            scripts.map(|(count, what)| format!("{} {what}", ui::count(count))).collect();
        if !scripts.is_empty() {
            lines.push(("scripts", scripts.join(", ")));
        }
        if self.processes_reused > 0 {
            let (reused, run) = (ui::count(self.processes_reused), ui::count(self.processes_run));
            let saved = millis(self.saved_cpu_ms);
            let text = format!("{reused} reused, {run} run; {saved} of processor time saved");
            lines.push(("builds", text));
        }
        if self.missed_runs > 0 {
            lines.push(("missed", plural(self.missed_runs, "command")));
        }
        lines.extend(self.hit_percent.map(|percent| ("hit rate", format!("{percent} %"))));
        lines
    }
}

fn add(sum: &mut Tally, more: Tally) {
    sum.count += more.count;
    sum.bytes += more.bytes;
}

fn millis(time: u64) -> String {
    ui::duration(Duration::from_millis(time))
}

fn plural(count: u64, what: &str) -> String {
    format!("{} {what}{}", ui::count(count), if count == 1 { "" } else { "s" })
}

/// A command in a directory.
#[derive(Debug, PartialEq, Serialize)]
struct Place {
    /// What may be shown of the command line.
    command: String,
    /// The directory below the working directory; `None` when it is elsewhere.
    directory: Option<String>,
}

/// The runs of one command in one directory.
#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    place: Place,
    #[serde(flatten)]
    totals: Totals,
}

/// The runs of a job.
#[derive(Debug)]
pub struct Job {
    runs: Vec<Run>,
    totals: Totals,
    rows: Vec<Row>,
    /// Which hit rate it has to reach, in percent.
    floor: Option<u32>,
}

impl Job {
    /// Sums up runs, the first one first, for somebody in `cwd`.
    #[must_use]
    pub fn new(runs: Vec<Run>, cwd: &Path, floor: Option<u32>) -> Self {
        let mut groups: Vec<(Place, Vec<&Run>)> = Vec::new();
        for run in &runs {
            let place = Place { command: command(run), directory: directory(run, cwd) };
            match groups.iter_mut().find(|(known, _)| *known == place) {
                Some((_, runs)) => runs.push(run),
                None => groups.push((place, vec![run])),
            }
        }
        let row = |(place, runs): (Place, Vec<&Run>)| {
            let totals = Totals::of(runs.into_iter());
            Row { place, totals }
        };
        let rows = groups.into_iter().map(row).collect();
        Self { totals: Totals::of(runs.iter()), rows, runs, floor }
    }

    fn head(&self) -> String {
        let totals = &self.totals;
        let planned = totals.served_runs + totals.learned_runs + totals.missed_runs;
        match (planned, totals.untouched_runs) {
            (0, 0) => "no run was recorded".to_owned(),
            (0, others) => format!("{} ran untouched", plural(others, "command")),
            (runs, 0) => plural(runs, "run"),
            (runs, others) => {
                format!("{}, {} ran untouched", plural(runs, "run"), plural(others, "command"))
            }
        }
    }

    /// Returns the closing block; with a frame where somebody looks at a terminal.
    #[must_use]
    pub fn block(&self, ui: &Ui) -> String {
        let mut text = match ui.is_terminal {
            true => format!("{} {}", ui.paint(Style::Accent, "▞ rift"), self.head()),
            false => format!("rift summary: {}", self.head()),
        };
        let bar = match ui.is_terminal {
            true => ui.paint(Style::Accent, "▏"),
            false => " ".to_owned(),
        };
        for (label, figure) in self.totals.lines() {
            let is_result = ["rift", "saved", "hit rate"].contains(&label);
            let figure = if is_result { ui.paint(Style::Number, &figure) } else { figure };
            let label = ui.paint(Style::Dim, &format!("{label:<8}"));
            let written = write!(text, "\n{bar} {label}  {figure}");
            debug_assert!(written.is_ok(), "writing to a string can't fail");
        }
        text
    }

    /// Returns the one line that people can paste; `None` when rift did nothing.
    #[must_use]
    pub fn share(&self) -> Option<String> {
        let totals = &self.totals;
        let percent = (totals.reused.count * 100).checked_div(totals.served())?;
        let packages = totals.counted(totals.served());
        let elapsed = millis(totals.elapsed_ms);
        let is_whole = totals.original_runs == totals.served_runs;
        let original = totals.original_ms.filter(|_| is_whole).zip(totals.faster());
        let compared = match (original, totals.saved_ms) {
            (Some((original, faster)), _) => format!(" instead of {} ({faster})", millis(original)),
            (None, Some(saved @ 1..)) => format!(", {} saved", millis(saved.unsigned_abs())),
            (None, _) => String::new(),
        };
        Some(format!("▞ rift: {packages} in {elapsed}{compared}, {percent} % from the store"))
    }

    /// Returns the summary for programs.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        let answer = serde_json::json!({
            "schema": SCHEMA,
            "floor_percent": self.floor,
            "is_below_floor": self.floor.map(|_| !self.shortfalls().is_empty()),
            "commands": self.rows,
        });
        let totals = serde_json::to_value(&self.totals).unwrap_or_default();
        let fields = [answer, totals].into_iter().filter_map(|value| match value {
            serde_json::Value::Object(fields) => Some(fields),
            _ => None,
        });
        fields.flatten().collect::<serde_json::Map<_, _>>().into()
    }

    /// Returns the summary as Markdown, less than 60 KiB of it.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = format!("### rift: {}\n", self.head());
        let lines = self.totals.lines();
        if !lines.is_empty() {
            text.push_str("\n| | |\n|---|---|\n");
            for (label, figure) in lines {
                push_row(&mut text, &[label, &figure]);
            }
        }
        for shortfall in self.shortfalls() {
            text.push_str(&format!("\n⚠ {}\n", escaped(&shortfall)));
        }
        let is_worth_a_row = |row: &&Row| {
            row.totals.served_runs + row.totals.learned_runs + row.totals.missed_runs > 0
        };
        let mut rows: Vec<&Row> = self.rows.iter().filter(is_worth_a_row).collect();
        if rows.is_empty() {
            return text;
        }
        // Where some have to be left out, it is those with the least in them.
        rows.sort_by_key(|row| {
            let totals = &row.totals;
            std::cmp::Reverse((totals.missed_runs + totals.learned_runs, totals.asked_for()))
        });
        text.push_str("\n| command | directory | runs | rift | original | hit rate |\n");
        text.push_str("|---|---|--:|--:|--:|--:|\n");
        let (mut shown, end) = (0, text.len() + ROW_BYTES_MAX);
        for row in rows.iter().take(ROWS_MAX) {
            let mut line = String::new();
            push_row(&mut line, &row.cells().each_ref().map(String::as_str));
            if text.len() + line.len() > end {
                break;
            }
            text.push_str(&line);
            shown += 1;
        }
        if shown < rows.len() {
            let left = plural((rows.len() - shown) as u64, "more command");
            text.push_str(&format!("\nLeft out here, but not above: {left}.\n"));
        }
        text
    }

    /// Returns in what the job falls short of its floor, in at most three sentences; none when it reaches it.
    ///
    /// A command that rift has a plan for and that ran itself falls short even if the others had hits: it is what nobody would notice.
    #[must_use]
    pub fn shortfalls(&self) -> Vec<String> {
        let Some(floor) = self.floor else { return Vec::new() };
        let totals = &self.totals;
        let mut told = Vec::new();
        if totals.served_runs + totals.learned_runs + totals.missed_runs == 0 {
            told.push(format!(
                "no run was recorded that could reach the floor of {floor} % for the hit rate"
            ));
            return told;
        }
        if let Some(percent) = totals.hit_percent.filter(|percent| *percent < floor.into()) {
            let (reused, all) = (totals.reused.count, totals.asked_for());
            let packages = match all {
                0 => String::new(),
                _ => format!(
                    ": {} of {} came from the store",
                    ui::count(reused),
                    totals.counted(all)
                ),
            };
            told.push(format!(
                "the hit rate is {percent} %, below the floor of {floor} %{packages}"
            ));
        }
        if told.is_empty() && totals.missed_runs == 0 {
            return told;
        }
        let alone = |run: &&Run| run.is_missed || run.summary.mode == Mode::Learned;
        for run in self.runs.iter().filter(alone) {
            let mut text = format!("`{}` ran itself", command(run));
            if let Some(reason) = run.reasons.first().and_then(|reason| shown_reason(reason)) {
                text.push_str(&format!(": {reason}"));
            }
            let text = cut(&text, 300);
            if !told.contains(&text) {
                told.push(text);
            }
        }
        told.truncate(SHORTFALLS_MAX);
        told
    }
}

impl Row {
    fn cells(&self) -> [String; 6] {
        let totals = &self.totals;
        let none = || "–".to_owned();
        let runs = totals.served_runs + totals.learned_runs + totals.missed_runs;
        let elapsed = match totals.served_runs {
            0 => none(),
            _ => millis(totals.elapsed_ms),
        };
        [
            format!("<code>{}</code>", escaped(&self.place.command)),
            match &self.place.directory {
                Some(directory) => format!("<code>{}</code>", escaped(directory)),
                None => none(),
            },
            ui::count(runs),
            elapsed,
            totals.original().unwrap_or_else(none),
            totals.hit_percent.map_or_else(none, |percent| format!("{percent} %")),
        ]
    }
}

fn push_row(text: &mut String, cells: &[&str]) {
    text.push_str("| ");
    text.push_str(&cells.join(" | "));
    text.push_str(" |\n");
}

/// Returns text that Markdown and HTML show as it is, also in a table.
fn escaped(text: &str) -> String {
    let mut clean = String::new();
    for letter in text.chars() {
        match letter {
            '-' | '.' | ',' | '/' | '=' | '%' | '(' | ')' => clean.push(letter),
            letter if letter.is_ascii_punctuation() => {
                let written = write!(clean, "&#{};", u32::from(letter));
                debug_assert!(written.is_ok(), "writing to a string can't fail");
            }
            letter => clean.push(letter),
        }
    }
    clean
}

/// Returns at most `max` letters of a text that fits a line, without those that would change how others are shown.
fn cut(text: &str, max: usize) -> String {
    let is_odd = |letter: char| {
        letter.is_control()
            || matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut letters = text.chars().map(|letter| if is_odd(letter) { '\u{fffd}' } else { letter });
    let mut short: String = letters.by_ref().take(max).collect();
    if letters.next().is_some() {
        short.push('…');
    }
    short
}

fn is_name(word: &str) -> bool {
    let mut letters = word.bytes();
    letters.next().is_some_and(|letter| letter.is_ascii_lowercase())
        && letters.all(|letter| letter.is_ascii_lowercase() || b"0123456789-".contains(&letter))
}

fn is_flag(word: &str) -> bool {
    word.strip_prefix("--").or(word.strip_prefix('-')).is_some_and(is_name)
}

/// Returns what may be shown of a reason to others: what it quotes only if that is a flag, and nothing at all where it
/// seems to name a file, an address or an account outside quotes.
fn shown_reason(reason: &str) -> Option<String> {
    let parts = reason.split('`').enumerate().map(|(at, part)| match at % 2 {
        0 => (!part.contains(['/', '=', '@'])).then(|| part.to_owned()),
        _ if is_flag(part) => Some(format!("`{part}`")),
        _ => Some("`…`".to_owned()),
    });
    parts.collect()
}

/// Returns what may be shown of a command line to others: the program, what a known tool is to do, and names of flags.
/// All else may be a path, a host, a name of somebody, or a secret.
fn command(run: &Run) -> String {
    let mut words = run.summary.command.iter();
    let program = words.next().map_or("", String::as_str);
    let program = Path::new(program).file_name().and_then(|name| name.to_str()).unwrap_or(program);
    let mut is_verb_next = plan::kind_of(program.as_ref()) == Some(plan::Kind::Npm);
    let mut shown = vec![program.to_owned()];
    for word in words {
        let (flag, value) = match word.split_once('=') {
            Some((flag, _)) => (flag, "=…"),
            None => (word.as_str(), ""),
        };
        if is_flag(flag) {
            shown.push(format!("{flag}{value}"));
            // What follows may be its value.
            is_verb_next &= !value.is_empty();
        } else if is_verb_next && is_name(word) {
            shown.push(word.clone());
            is_verb_next = false;
        } else if shown.last().is_none_or(|last| last != "…") {
            shown.push("…".to_owned());
        }
    }
    cut(&shown.join(" "), LETTERS_MAX)
}

/// Returns where a run was, seen from `cwd`; `None` when it was not below it.
fn directory(run: &Run, cwd: &Path) -> Option<String> {
    let below = run.directory.strip_prefix(cwd).ok()?;
    let text = if below.as_os_str().is_empty() { ".".into() } else { below.to_string_lossy() };
    Some(cut(&text, LETTERS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Summary;

    const LOG: Ui = Ui { is_terminal: false, has_color: false, is_quiet: false };
    const TERMINAL: Ui = Ui { is_terminal: true, ..LOG };

    fn run(mode: Mode, line: &str, folder: &str) -> Run {
        let words: Vec<_> = line.split(' ').map(Into::into).collect();
        let mut run = Run::begin(Summary::new(mode, &words), &Path::new("/home/joe").join(folder));
        run.job = None;
        run
    }

    /// A hit of 100 packages in half a second, which once took `original` seconds.
    fn hit(folder: &str, original: Option<u64>, is_same_hardware: bool) -> Run {
        let mut run = run(Mode::Hit, "npm ci", folder);
        run.summary.reused = Tally { count: 100, bytes: 1_000_000 };
        let original = original.map(Duration::from_secs);
        run.summary.set_times(Duration::from_millis(500), original, is_same_hardware);
        run
    }

    fn learned() -> Run {
        let mut run = run(Mode::Learned, "/usr/bin/npm install lodash", "web");
        run.summary.reused = Tally { count: 90, bytes: 900_000 };
        run.summary.fetched = Tally { count: 10, bytes: 100_000 };
        run.reasons.push("the command runs to be recorded".to_owned());
        run
    }

    fn missed() -> Run {
        let mut run = run(Mode::Untouched, "npm ci --prefix /srv/joe", "");
        run.is_missed = true;
        run.reasons.push("rift does not know the flag".to_owned());
        run
    }

    fn job(runs: Vec<Run>, floor: u32) -> Job {
        Job::new(runs, Path::new("/home/joe"), Some(floor).filter(|floor| *floor > 0))
    }

    #[test]
    fn a_log_gets_plain_lines_and_a_terminal_a_frame() {
        let mut partial = hit("web", Some(20), true);
        partial.summary.mode = Mode::Partial;
        partial.summary.fetched = Tally { count: 1, bytes: 4200 };
        (partial.summary.scripts_run, partial.summary.scripts_reused) = (1, 2);
        let runs = vec![hit("", Some(10), true), partial, run(Mode::Untouched, "tsc", "")];
        let job = job(runs, 0);
        assert_eq!(
            job.block(&LOG),
            "rift summary: 2 runs, 1 command ran untouched\n\
             \x20 original  30.0 s\n\
             \x20 rift      1.00 s\n\
             \x20 saved     29.0 s, 30× faster\n\
             \x20 reused    200 packages (2.0 MB)\n\
             \x20 fetched   1 package (4.2 kB)\n\
             \x20 scripts   2 reused, 1 run\n\
             \x20 hit rate  99 %"
        );
        let framed = job.block(&TERMINAL);
        assert!(framed.starts_with("▞ rift 2 runs, 1 command ran untouched\n▏ original  30.0 s\n"));
        let colored = job.block(&Ui { has_color: true, ..TERMINAL });
        assert!(
            colored.contains("\x1b[2msaved   \x1b[0m  \x1b[1;38;5;51m29.0 s, 30× faster\x1b[0m"),
            "{colored:?}"
        );
        assert_eq!(
            job.share().unwrap(),
            "▞ rift: 201 packages in 1.00 s instead of 30.0 s (30× faster), 99 % from the store"
        );
    }

    #[test]
    fn originals_are_compared_where_that_can_be() {
        let figures = |runs| {
            let job = job(runs, 0);
            let lines = job.totals.lines();
            let of = |label: &str| {
                let line = lines.iter().find(|(found, _)| *found == label);
                line.map_or("", |(_, text)| text).to_owned()
            };
            [of("original"), of("saved") + &of("lost"), job.share().unwrap()]
        };
        let none = figures(vec![hit("", None, true)]);
        assert_eq!(none, ["", "", "▞ rift: 100 packages in 0.50 s, 100 % from the store"]);
        let [original, saved, share] = figures(vec![hit("", Some(10), false)]);
        assert_eq!([&original, &saved], ["10.0 s, on other hardware", ""]);
        assert_eq!(share, none[2]);
        let mixed = vec![hit("", Some(10), false), hit("", Some(10), true), hit("", None, true)];
        let [original, saved, share] = figures(mixed);
        let expected = "20.0 s, recorded for 2 of 3 runs, in part on other hardware";
        assert_eq!([&original, &saved], [expected, "9.50 s"]);
        assert_eq!(share, "▞ rift: 300 packages in 1.50 s, 9.50 s saved, 100 % from the store");
        let slow = job(vec![hit("", Some(0), true)], 0);
        assert_eq!((slow.totals.saved_ms, slow.totals.ratio), (Some(-500), Some(0.0)));
        assert!(slow.block(&LOG).contains("\n  lost      0.50 s\n"), "{}", slow.block(&LOG));
    }

    #[test]
    fn what_a_command_made_itself_is_no_hit() {
        let totals = job(vec![hit("", None, true), learned(), missed()], 0).totals;
        assert_eq!((totals.served_runs, totals.learned_runs, totals.missed_runs), (1, 1, 1));
        assert_eq!(totals.learned, Tally { count: 100, bytes: 1_000_000 });
        assert_eq!((totals.reused.count, totals.elapsed_ms), (100, 500));
        assert_eq!(totals.hit_percent, Some(50));
        assert_eq!(job(vec![missed()], 0).totals.hit_percent, Some(0));
        assert_eq!(job(vec![run(Mode::Untouched, "tsc", "")], 0).totals.hit_percent, None);
    }

    #[test]
    fn a_floor_tells_what_was_missed_and_why() {
        let told = |runs, floor| job(runs, floor).shortfalls();
        assert_eq!(told(vec![hit("", None, true)], 100), [""; 0]);
        assert_eq!(told(vec![hit("", None, true), learned()], 50), [""; 0]);
        assert_eq!(told(vec![learned(), missed()], 0), [""; 0]);
        assert_eq!(
            told(vec![hit("", None, true), learned()], 51),
            [
                "the hit rate is 50 %, below the floor of 51 %: 100 of 200 packages came from the store",
                "`npm install …` ran itself: the command runs to be recorded",
            ]
        );
        // What was missed as a whole has no packages to count.
        let unnoticed = "`npm ci --prefix …` ran itself: rift does not know the flag";
        assert_eq!(told(vec![hit("", None, true), missed()], 1), [unnoticed]);
        let mut private = missed();
        private.reasons = vec!["no lockfile in /home/joe".to_owned()];
        let told_privately = told(vec![private], 1);
        assert_eq!(told_privately[1], "`npm ci --prefix …` ran itself");
        for (reason, shown) in [
            ("the flag `--foo` is not understood", Some("the flag `--foo` is not understood")),
            ("`npm install lodash` changes package.json", Some("`…` changes package.json")),
            ("the flag `--user=joe` is not understood", Some("the flag `…` is not understood")),
            ("`/home/joe` has no lockfile", Some("`…` has no lockfile")),
            ("rift failed: no space on /dev/sda", None),
        ] {
            assert_eq!(shown_reason(reason).as_deref(), shown);
        }
        let many = (b'a'..=b'z').map(|letter| {
            let mut run = missed();
            run.summary.command = ["npm".to_owned(), format!("{}", letter as char)].into();
            run
        });
        assert_eq!(told(many.collect(), 1).len(), 3);
        assert!(told(vec![run(Mode::Untouched, "tsc", "")], 1)[0].starts_with("no run was"));
    }

    #[test]
    fn commands_show_nothing_private() {
        for (line, shown) in [
            ("/home/joe/bin/npm ci", "npm ci"),
            ("npm --silent ci", "npm --silent …"),
            ("npm --loglevel=error ci --omit=dev", "npm --loglevel=… ci --omit=…"),
            ("npm install @joe/x /home/joe/y z", "npm install …"),
            ("npm ci --registry https://npm.corp.test/", "npm ci --registry …"),
            ("npm ci --//npm.corp.test/:_authToken=…", "npm ci …"),
            ("ssh joe@host uptime -v", "ssh … -v"),
        ] {
            assert_eq!(command(&run(Mode::Hit, line, "")), shown);
        }
        let cwd = Path::new("/home/joe");
        assert_eq!(directory(&hit("", None, true), cwd).as_deref(), Some("."));
        assert_eq!(directory(&hit("a/b", None, true), cwd).as_deref(), Some("a/b"));
        assert_eq!(directory(&hit("/home/ann", None, true), cwd), None);
    }

    /// Tells whether each table of a Markdown text has rows of the same number of cells.
    fn has_whole_tables(text: &str) -> bool {
        let mut cells = None;
        text.lines().all(|line| {
            let found = line.starts_with('|').then(|| line.matches('|').count());
            let is_whole = cells.is_none() || found.is_none() || cells == found;
            cells = found;
            is_whole
                && (found.is_none()
                    || line.ends_with(" |")
                    || line.ends_with("-|")
                    || line.ends_with(":|"))
        })
    }

    #[test]
    fn markdown_holds_figures_and_rows() {
        let text =
            job(vec![hit("", Some(10), true), hit("web", None, true), learned()], 99).markdown();
        assert!(has_whole_tables(&text), "{text}");
        assert_eq!(
            text,
            "### rift: 3 runs\n\n\
             | | |\n|---|---|\n\
             | original | 10.0 s, recorded for 1 of 2 runs |\n\
             | rift | 1.00 s |\n\
             | saved | 9.50 s, 20× faster |\n\
             | reused | 200 packages (2.0 MB) |\n\
             | learned | 100 packages (1.0 MB) |\n\
             | hit rate | 66 % |\n\n\
             ⚠ the hit rate is 66 %, below the floor of 99 %&#58; 200 of 300 packages came from the store\n\n\
             ⚠ &#96;npm install …&#96; ran itself&#58; the command runs to be recorded\n\n\
             | command | directory | runs | rift | original | hit rate |\n\
             |---|---|--:|--:|--:|--:|\n\
             | <code>npm install …</code> | <code>web</code> | 1 | – | – | 0 % |\n\
             | <code>npm ci</code> | <code>.</code> | 1 | 0.50 s | 10.0 s | 100 % |\n\
             | <code>npm ci</code> | <code>web</code> | 1 | 0.50 s | – | 100 % |\n"
        );
        assert_eq!(job(Vec::new(), 0).markdown(), "### rift: no run was recorded\n");
    }

    #[test]
    fn markdown_survives_every_name_and_number() {
        let odd =
            "a|b`c\n| <img src=x> **@joe** [x](http://y) \\ & _z_ ~~ \u{202e}\u{1b}[1m 日本語";
        let mut one = hit(odd, None, true);
        one.summary.command[0] = "we|ird`<b>".to_owned();
        let text = job(vec![one], 0).markdown();
        assert!(has_whole_tables(&text), "{text}");
        let row = text.lines().last().unwrap();
        assert!(row.starts_with("| <code>we&#124;ird&#96;&#60;b&#62; …</code> | <code>a&#124;b"));
        for letter in ["<img", "`", "@", "[", "\\", "*", "\u{202e}", "\u{1b}"] {
            assert!(!row.contains(letter), "{letter:?} in {row}");
        }
        // As long as they get, and each letter escaped.
        let many = (0..700).map(|number| {
            let mut run = hit(&format!("{number:03}{}", "|".repeat(500)), Some(1), false);
            run.summary.command[0] = format!("{}{number:03}", "`".repeat(500));
            run
        });
        let text = job(many.collect(), 0).markdown();
        assert!(has_whole_tables(&text), "{text}");
        assert!(text.len() < 60 << 10, "{}", text.len());
        let shown = text.lines().filter(|line| line.starts_with("| <code>")).count();
        assert!((10..=ROWS_MAX).contains(&shown), "{shown}");
        let left = format!("\n\nLeft out here, but not above: {} more commands.\n", 700 - shown);
        assert!(text.ends_with(&left), "{text}");
        let same = (0..700).map(|_| hit("", None, true));
        let text = job(same.collect(), 0).markdown();
        assert!(text.contains("| <code>npm ci</code> | <code>.</code> | 700 |"), "{text}");
    }

    #[test]
    fn json_has_all_figures() {
        let json = job(vec![hit("web", Some(10), true), missed()], 90).json();
        assert_eq!(json["schema"], 1);
        assert_eq!(json["original_ms"], 10_000);
        assert_eq!(json["saved_ms"], 9_500);
        assert_eq!(json["reused"]["bytes"], 1_000_000);
        assert_eq!((&json["floor_percent"], &json["is_below_floor"]), (&90.into(), &true.into()));
        assert_eq!(json["commands"][0]["command"], "npm ci");
        assert_eq!(json["commands"][0]["directory"], "web");
        assert_eq!(json["commands"][1]["missed_runs"], 1);
        assert!(!json.to_string().contains("joe"), "{json}");
        assert!(job(Vec::new(), 0).json()["is_below_floor"].is_null());
    }
}
