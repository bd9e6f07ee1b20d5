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
    /// What could not be measured here, and why.
    pub(crate) left_out: Vec<String>,
    /// What the suite is held to.
    #[serde(skip)]
    pub(crate) measures: fn(&Of<'_>) -> Vec<Measure>,
    #[serde(skip)]
    pub(crate) layout: Layout,
}

/// How the cases are shown below the measures.
#[derive(Clone, Copy)]
pub(crate) enum Layout {
    /// A table for each group, a line for each case.
    Groups,
    /// A table for each fixture, a line for each case that rift's stands beside.
    Pairs,
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

    /// This case's times and the other's, round by round.
    fn beside(&self, other: &Row) -> impl Iterator<Item = (f64, f64)> {
        let pairs = self.samples.iter().zip(&other.samples);
        pairs.filter_map(|(ours, theirs)| Some((ours.as_ref()?.wall_s, theirs.as_ref()?.wall_s)))
    }

    /// This case's time over the other's, round by round.
    fn ratios_to(&self, other: &Row) -> Vec<f64> {
        self.beside(other).map(|(ours, theirs)| ours / theirs).collect()
    }

    /// The median of this case's time over the other's, round by round.
    fn ratio_to(&self, other: &Row) -> Option<f64> {
        median(self.ratios_to(other))
    }
}

fn extremes(values: &[f64]) -> (Option<f64>, Option<f64>) {
    let all = || values.iter().copied();
    (all().reduce(f64::min), all().reduce(f64::max))
}

/// Writes a time in the unit that suits it.
pub(crate) fn time(seconds: Option<f64>) -> String {
    let units = [(1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")];
    let Some(seconds) = seconds else { return "–".to_owned() };
    let (unit, name) = units.into_iter().find(|(unit, _)| seconds >= *unit).unwrap_or((1e-9, "ns"));
    let value = seconds / unit;
    format!("{value:.*} {name}", if value < 100.0 { 2 } else { 0 })
}

fn cell(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}"))
}

/// What a measure is held against.
pub(crate) enum Target {
    AtMost(f64),
    AtLeast(f64),
    /// Nothing.
    Reported,
}

/// A name, what was measured, if it was, and the target.
pub(crate) type Measure = (&'static str, Option<f64>, Target);

/// What was measured of one fixture. A case is named by its group and its name.
pub(crate) struct Of<'a> {
    report: &'a Report,
    pub(crate) fixture: &'a str,
}

impl Of<'_> {
    fn row(&self, (group, case): (&str, &str)) -> Option<&Row> {
        let is_it =
            |row: &&Row| row.fixture == self.fixture && row.group == group && row.case == case;
        self.report.rows.iter().find(is_it)
    }

    /// The median of one case's time over another's, round by round.
    pub(crate) fn ratio(&self, case: (&str, &str), other: (&str, &str)) -> Option<f64> {
        self.row(case)?.ratio_to(self.row(other)?)
    }

    /// The median of the seconds that one case takes more than another, round by round.
    pub(crate) fn more(&self, case: (&str, &str), other: (&str, &str)) -> Option<f64> {
        let pairs = self.row(case)?.beside(self.row(other)?);
        median(pairs.map(|(ours, theirs)| ours - theirs).collect())
    }

    pub(crate) fn figure(&self, name: &str) -> Option<f64> {
        let is_it = |figure: &&Figure| figure.fixture == self.fixture && figure.name == name;
        self.report.figures.iter().find(is_it).map(|figure| figure.value)
    }

    /// The median of something that every round has.
    pub(crate) fn median(
        &self,
        case: (&str, &str),
        field: fn(&Sample) -> Option<f64>,
    ) -> Option<f64> {
        median(self.row(case)?.of(field))
    }
}

impl Report {
    /// Returns the tables as Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("{}\n\n{}\n\n`{}`\n", self.machine, self.versions, self.command);
        self.targets(&mut text);
        let mut seen: Vec<(&str, &str)> = Vec::new();
        for row in &self.rows {
            let group = match self.layout {
                Layout::Groups => row.group,
                Layout::Pairs => "",
            };
            if !seen.contains(&(row.fixture, group)) {
                seen.push((row.fixture, group));
                match self.layout {
                    Layout::Groups => self.group(&mut text, row.fixture, group),
                    Layout::Pairs => self.pairs(&mut text, row.fixture),
                }
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
        let of_rows = self.rows.iter().map(|row| row.fixture);
        let mut fixtures: Vec<_> =
            of_rows.chain(self.figures.iter().map(|figure| figure.fixture)).collect();
        fixtures.sort_unstable();
        fixtures.dedup();
        let mut lines = String::new();
        for fixture in fixtures {
            for (name, value, target) in (self.measures)(&Of { report: self, fixture }) {
                let Some(value) = value else { continue };
                let (bound, is_met) = match target {
                    Target::AtMost(bound) => (format!("≤ {bound}"), value <= bound),
                    Target::AtLeast(bound) => (format!("≥ {bound}"), value >= bound),
                    Target::Reported => ("–".to_owned(), true),
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
        for reason in &self.left_out {
            let _infallible = writeln!(text, "\nLeft out: {reason}.");
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
            let (min, max) = extremes(&walls);
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

    fn pairs(&self, text: &mut String, fixture: &str) {
        let _infallible = write!(
            text,
            "\n**{fixture}** (ratio: rift's time over that of the case beside it, in each round; p99 of single operations)\n\n\
             | what | rift exec | p99 | beside it | its time | p99 | ratio | min | max | rounds |\n\
             |---|---:|---:|---|---:|---:|---:|---:|---:|---:|\n"
        );
        let rows = || self.rows.iter().filter(|row| row.fixture == fixture);
        for row in rows() {
            let is_rift = row.case.starts_with("rift");
            if let Some(failure) = &row.failure {
                let (case, line) = (row.case, failure.lines().next().unwrap_or(""));
                let _infallible =
                    writeln!(text, "| {}: {case} | failed: {line} | | | | | | | | |", row.group);
            }
            let of_group = |one: &&Row| one.group == row.group && one.case.starts_with("rift");
            let (false, Some(ours)) = (is_rift, rows().find(of_group)) else { continue };
            let times = |row: &Row| {
                let of = |field: fn(&Sample) -> Option<f64>| time(median(row.of(field)));
                [of(|sample| Some(sample.wall_s)), of(|sample| sample.p99_s)].join(" | ")
            };
            let ratios = ours.ratios_to(row);
            let ((min, max), rounds) = (extremes(&ratios), ratios.len());
            let _infallible = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} | {rounds} |",
                row.group,
                times(ours),
                row.case,
                times(row),
                cell(median(ratios), 3),
                cell(min, 3),
                cell(max, 3),
            );
        }
    }
}
