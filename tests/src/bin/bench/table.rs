//! Medians, ratios of the same rounds, JSON and Markdown.

use std::fmt::Write;

use serde::Serialize;

use crate::measure::Sample;

/// Everything measured of one case.
#[derive(Serialize)]
pub(crate) struct Row {
    pub(crate) fixture: &'static str,
    pub(crate) group: &'static str,
    pub(crate) case: &'static str,
    /// One per round, in order; `None` where the case failed.
    pub(crate) samples: Vec<Option<Sample>>,
    /// Files and symlinks in `node_modules` afterwards.
    pub(crate) entries: u64,
    pub(crate) failure: Option<String>,
}

/// A figure that is not a time.
#[derive(Serialize)]
pub(crate) struct Figure {
    pub(crate) fixture: &'static str,
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
}

/// The whole result.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) machine: String,
    pub(crate) versions: String,
    pub(crate) command: String,
    pub(crate) rows: Vec<Row>,
    pub(crate) figures: Vec<Figure>,
}

/// Returns the middle of some figures; of two middles the mean.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

impl Row {
    fn of(&self, field: impl Fn(&Sample) -> Option<f64>) -> Vec<f64> {
        self.samples.iter().flatten().filter_map(field).collect()
    }

    /// The median of this case's time over the other's, round by round.
    fn ratio_to(&self, other: &Row) -> Option<f64> {
        let pairs = self.samples.iter().zip(&other.samples);
        median(
            pairs
                .filter_map(|(ours, theirs)| Some(ours.as_ref()?.wall_s / theirs.as_ref()?.wall_s))
                .collect(),
        )
    }
}

fn cell(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}"))
}

/// What a measure is held against.
enum Target {
    AtMost(f64),
    AtLeast(f64),
    None,
}

impl Report {
    /// Returns the tables as Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("{}\n\n{}\n\n`{}`\n", self.machine, self.versions, self.command);
        self.targets(&mut text);
        let mut seen: Vec<(&str, &str)> = Vec::new();
        for row in &self.rows {
            if !seen.contains(&(row.fixture, row.group)) {
                seen.push((row.fixture, row.group));
                self.group(&mut text, row.fixture, row.group);
            }
        }
        if !self.figures.is_empty() {
            text.push_str("\n| fixture | figure | value |\n|---|---|---:|\n");
        }
        for Figure { fixture, name, value, unit } in &self.figures {
            // Writing to a String cannot fail.
            let _infallible = writeln!(text, "| {fixture} | {name} | {value:.2} {unit} |");
        }
        text
    }

    /// Puts what rift is held to first: each measure with its target.
    fn targets(&self, text: &mut String) {
        use Target::{AtLeast, AtMost, None as Reported};
        let mut fixtures: Vec<&str> = self.rows.iter().map(|row| row.fixture).collect();
        fixtures.dedup();
        let mut lines = String::new();
        for fixture in fixtures {
            let row = |group: &str, case: &str| {
                let is_it =
                    |row: &&Row| row.fixture == fixture && row.group == group && row.case == case;
                self.rows.iter().find(is_it)
            };
            let ratio = |(group, case): (&str, &str), (other_group, other): (&str, &str)| {
                row(group, case)?.ratio_to(row(other_group, other)?)
            };
            let cold = "everything cold";
            let (hit, links) = (("warm", "rift hit"), ("warm", "rift hit, --via hardlink"));
            let learning = ("cold store, warm npm cache", "rift --record-only");
            let scripts = "install scripts on";
            let is_medium = fixture == "medium";
            let figure = |name: &str| {
                let is_it = |figure: &&Figure| figure.fixture == fixture && figure.name == name;
                self.figures.iter().find(is_it).map(|figure| figure.value)
            };
            let median_of = |case: &str, field: fn(&Sample) -> Option<f64>| {
                median(row("warm", case)?.of(field)).map(|seconds| seconds * 1e3)
            };
            let measures = [
                (
                    "hit over two-thread write",
                    ratio(hit, ("warm", "two-thread write")),
                    AtMost(1.1),
                ),
                ("hit over npm ci", ratio(hit, ("warm", "npm ci")), AtMost(0.1)),
                ("hit over bun, hard links", ratio(hit, ("warm", "bun, hard links")), Reported),
                (
                    "--via hardlink over bun, hard links",
                    ratio(links, ("warm", "bun, hard links")),
                    AtMost(if is_medium { 1.0 } else { 1.5 }),
                ),
                (
                    "hit with scripts over hit without",
                    ratio((scripts, "rift hit"), (scripts, "rift hit without scripts")),
                    AtMost(1.1),
                ),
                ("everything cold over bun", ratio((cold, "rift"), (cold, "bun")), AtMost(1.1)),
                (
                    "everything cold over npm ci",
                    ratio((cold, "rift"), (cold, "npm ci")),
                    AtMost(0.5),
                ),
                (
                    "npm install lodash over npm",
                    ratio(("npm install lodash", "rift"), ("npm install lodash", "npm")),
                    AtMost(1.05),
                ),
                (
                    "one package changed over hit",
                    ratio(("warm", "rift, one package changed"), hit),
                    AtMost(1.3),
                ),
                ("learning over npm ci", ratio(learning, (learning.0, "npm ci")), AtMost(1.25)),
                (
                    "first entry of a hit, ms",
                    median_of("rift hit", |sample| sample.first_entry_s),
                    AtMost(15.0),
                ),
                (
                    "repeat, ms",
                    median_of("rift repeat", |sample| Some(sample.wall_s)),
                    AtMost(60.0),
                ),
                ("ingest, MB/s", figure("rift ingest, median"), AtLeast(400.0)),
                ("ingest, peak memory, MB", figure("rift ingest, peak memory"), AtMost(64.0)),
                (
                    "store over unique bytes",
                    figure("store after ingest over unique bytes"),
                    AtMost(1.05),
                ),
            ];
            for (name, value, target) in measures {
                let Some(value) = value else { continue };
                let (bound, is_met) = match target {
                    AtMost(bound) => (format!("≤ {bound}"), value <= bound),
                    AtLeast(bound) => (format!("≥ {bound}"), value >= bound),
                    Reported => ("–".to_owned(), true),
                };
                let mark = if is_met { "" } else { " (missed)" };
                let _infallible =
                    writeln!(lines, "| {fixture} | {name} | {value:.2} | {bound}{mark} |");
            }
        }
        if !lines.is_empty() {
            text.push_str("\n| fixture | measure | measured | target |\n|---|---|---:|---|\n");
            text.push_str(&lines);
        }
    }

    fn group(&self, text: &mut String, fixture: &str, group: &str) {
        let rows: Vec<&Row> =
            self.rows.iter().filter(|row| row.fixture == fixture && row.group == group).collect();
        let base = rows.iter().copied().find(|row| row.case.starts_with("rift"));
        let rounds = rows.iter().map(|row| row.samples.len()).max().unwrap_or(0);
        let base_name = base.map_or("–", |row| row.case);
        let _infallible = write!(
            text,
            "\n**{fixture}, {group}** ({rounds} interleaved rounds; ratio: time of the case over `{base_name}`)\n\n\
             | case | median s | min | max | ratio | CPU s | peak MB | written MB | first entry ms | entries |\n\
             |---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n"
        );
        for row in rows {
            if let Some(failure) = &row.failure {
                let line = failure.lines().next().unwrap_or("");
                let _infallible =
                    writeln!(text, "| {} | failed: {line} | | | | | | | | |", row.case);
                continue;
            }
            let walls = row.of(|sample| Some(sample.wall_s));
            let (min, max) =
                (walls.iter().copied().reduce(f64::min), walls.iter().copied().reduce(f64::max));
            let mega = |value: Option<u64>| value.map(|bytes| bytes as f64 / 1e6);
            let _infallible = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                row.case,
                cell(median(walls), 3),
                cell(min, 3),
                cell(max, 3),
                cell(base.and_then(|base| row.ratio_to(base)), 2),
                cell(median(row.of(|sample| Some(sample.cpu_s))), 2),
                cell(median(row.of(|sample| mega(sample.rss_bytes_max))), 0),
                cell(median(row.of(|sample| mega(sample.written_bytes))), 0),
                cell(median(row.of(|sample| sample.first_entry_s.map(|s| s * 1e3))), 1),
                row.entries
            );
        }
    }
}
