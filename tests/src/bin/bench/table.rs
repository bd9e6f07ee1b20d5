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

impl Report {
    /// Returns the tables as Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("{}\n\n{}\n\n`{}`\n", self.machine, self.versions, self.command);
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
