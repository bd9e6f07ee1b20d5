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
