//! What people see: colors, numbers, progress, messages and errors.
//!
//! stdout carries data only, through [`Out`]; everything else goes to stderr from this file, so that
//! colors, `NO_COLOR` and terminals are decided in one place. Text that comes from file names is
//! cleaned of control characters before it reaches a terminal.

#![allow(clippy::print_stderr, reason = "this is the file that talks to people")]

use std::fmt::Write as _;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use rift_cas::remote::Watch;

use crate::config::Color;
use crate::{ci, env_vars, hint};

/// How rift talks to whoever started it.
#[derive(Debug, Clone, Copy)]
pub struct Ui {
    /// Whether somebody looks at a terminal. A job of a CI system may have one, but what it shows is kept as a log.
    pub is_terminal: bool,
    /// Whether there are colors.
    pub has_color: bool,
    /// Whether the summary and progress are left out.
    pub is_quiet: bool,
}

impl Ui {
    /// Looks at stderr and the environment.
    #[must_use]
    pub fn new(color: Color, is_quiet: bool) -> Self {
        Self::of(&io::stderr(), color, is_quiet)
    }

    /// Looks at stdout and the environment, for a command whose data are for people.
    #[must_use]
    pub fn of_stdout(color: Color, is_quiet: bool) -> Self {
        Self::of(&io::stdout(), color, is_quiet)
    }

    fn of(stream: &impl IsTerminal, color: Color, is_quiet: bool) -> Self {
        let is_terminal = stream.is_terminal() && ci::here().is_none();
        let environment = Environment {
            no_color: env_vars::get(env_vars::NO_COLOR).is_some(),
            force: env_vars::get(env_vars::CLICOLOR_FORCE).is_some_and(|value| value != "0"),
            is_dumb: env_vars::get(env_vars::TERM).is_none_or(|term| term == "dumb"),
        };
        Self { is_terminal, has_color: wants_color(color, environment, is_terminal), is_quiet }
    }

    /// Says something that is worth a line.
    pub fn note(&self, text: &str) {
        eprintln!("{} {text}", self.paint(Style::Accent, "rift:"));
    }

    /// Says that something is not as it should be, but work goes on.
    pub fn warn(&self, text: &str) {
        eprintln!("{} {text}", self.paint(Style::Warning, "warning:"));
    }

    /// Hands a command to the runner of a CI system, which reads stderr as well where stdout is data.
    pub fn command(&self, line: &str) {
        eprintln!("{line}");
    }

    /// Prints an error, what caused it, and what can be done about it.
    pub fn error(&self, error: &anyhow::Error) {
        eprint!("{}", self.error_text(error));
    }

    fn error_text(&self, error: &anyhow::Error) -> String {
        let mut text = String::new();
        for (depth, link) in error.chain().enumerate() {
            let label = match depth {
                0 => self.paint(Style::Error, "error:"),
                _ => "  caused by:".to_owned(),
            };
            push_line(&mut text, &label, &printable(&link.to_string()));
        }
        if let Some(hint) = hint::of(error) {
            push_line(&mut text, &self.paint(Style::Accent, "hint:"), &printable(&hint));
        }
        text
    }

    /// Returns `text` in a style, if there are colors.
    #[must_use]
    pub fn paint(&self, style: Style, text: &str) -> String {
        match self.has_color {
            true => format!("\x1b[{}m{text}\x1b[0m", style.code()),
            false => text.to_owned(),
        }
    }

    /// Starts a progress line; a hidden one where nobody would see it.
    #[must_use]
    pub fn progress(&self, what: &str) -> ProgressBar {
        if !self.is_terminal || self.is_quiet {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::new_spinner();
        let template = match self.has_color {
            true => "{spinner:.magenta} {msg} {human_pos:.cyan}",
            false => "{spinner} {msg} {human_pos}",
        };
        show(&bar, template, what);
        bar
    }

    /// Runs `work`, which moves bytes and tells how far it is, with a progress line where somebody sees it.
    pub fn transfer<T>(&self, what: &str, work: impl FnOnce(Watch<'_>) -> T) -> T {
        let bar = self.bytes(what);
        let result = work(&|progress| {
            bar.set_length(progress.total_bytes);
            bar.set_position(progress.done_bytes);
        });
        bar.finish_and_clear();
        result
    }

    fn bytes(&self, what: &str) -> ProgressBar {
        if !self.is_terminal || self.is_quiet {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::new(0);
        let template = match self.has_color {
            true => "{spinner:.magenta} {msg} {decimal_bytes:.cyan} of {decimal_total_bytes}",
            false => "{spinner} {msg} {decimal_bytes} of {decimal_total_bytes}",
        };
        show(&bar, template, what);
        bar
    }
}

fn show(bar: &ProgressBar, template: &str, what: &str) {
    // The templates are constants; were one wrong, the default style would do.
    bar.set_style(
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner()),
    );
    bar.set_message(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(100));
}

fn push_line(text: &mut String, label: &str, message: &str) {
    let written = writeln!(text, "{label} {message}");
    debug_assert!(written.is_ok(), "writing to a string can't fail");
}

/// The few styles there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Violet: rift itself.
    Accent,
    /// Cyan: the number that matters.
    Number,
    /// Dimmed: what can be skipped.
    Dim,
    /// Yellow.
    Warning,
    /// Red.
    Error,
}

impl Style {
    fn code(self) -> &'static str {
        match self {
            Self::Accent => "1;38;5;141",
            Self::Number => "1;38;5;51",
            Self::Dim => "2",
            Self::Warning => "1;33",
            Self::Error => "1;31",
        }
    }
}

/// What the environment says about colors.
#[derive(Debug, Clone, Copy)]
struct Environment {
    no_color: bool,
    force: bool,
    is_dumb: bool,
}

/// Decides: what the user told rift, then `NO_COLOR`, then `CLICOLOR_FORCE`, then the terminal.
fn wants_color(color: Color, environment: Environment, is_terminal: bool) -> bool {
    match color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto if environment.no_color => false,
        Color::Auto if environment.force => true,
        Color::Auto => is_terminal && !environment.is_dumb,
    }
}

/// Returns text whose control characters can't reach a terminal.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|letter| match letter {
            '\n' | '\t' => letter,
            letter if letter.is_control() => '\u{fffd}',
            letter => letter,
        })
        .collect()
}

/// The reader of stdout has gone: rift ends quietly.
#[derive(Debug)]
struct StdoutClosed;

impl std::fmt::Display for StdoutClosed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("nobody reads standard output")
    }
}

impl std::error::Error for StdoutClosed {}

/// Tells whether an error only says that nobody reads stdout any more.
#[must_use]
pub fn is_closed_stdout(error: &anyhow::Error) -> bool {
    error.chain().any(|link| {
        let inner = link.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        inner.is_some_and(|inner| inner.is::<StdoutClosed>())
    })
}

/// Buffered stdout. It must be finished, so that a full disk is noticed.
#[derive(Debug)]
pub struct Out {
    inner: BufWriter<StdoutLock<'static>>,
    is_terminal: bool,
}

impl Out {
    /// Takes stdout.
    #[must_use]
    pub fn new() -> Self {
        let stdout = io::stdout();
        let is_terminal = stdout.is_terminal();
        Self { inner: BufWriter::with_capacity(64 << 10, stdout.lock()), is_terminal }
    }

    /// Writes a name: its bytes as they are, or cleaned where a terminal would obey them.
    ///
    /// # Errors
    /// As write(2).
    pub fn name(&mut self, name: &[u8]) -> io::Result<()> {
        match self.is_terminal {
            false => self.write_all(name),
            true => {
                let text = String::from_utf8_lossy(name);
                let clean: String =
                    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
                self.write_all(clean.as_bytes())
            }
        }
    }

    /// Writes what is buffered.
    ///
    /// # Errors
    /// As write(2).
    pub fn finish(mut self) -> io::Result<()> {
        self.flush()
    }
}

impl Default for Out {
    fn default() -> Self {
        Self::new()
    }
}

fn explain(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => io::Error::new(io::ErrorKind::BrokenPipe, StdoutClosed),
        kind => io::Error::new(kind, format!("could not write to standard output: {error}")),
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner.write(bytes).map_err(explain)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush().map_err(explain)
    }
}

/// Returns a size with a decimal unit: `999 B`, `4.2 kB`, `472 MB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    // Rounding to three digits can carry into the next unit.
    let mut value = bytes as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = usize::from(value < 9.95);
    format!("{value:.digits$} {}", UNITS[unit])
}

/// Returns a duration as people say it: `4 ms`, `0.61 s`, `32.4 s`, `3 min 20 s`.
#[must_use]
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 0.0995 {
        return format!("{:.0} ms", seconds * 1000.0);
    }
    if seconds < 9.995 {
        return format!("{seconds:.2} s");
    }
    if seconds < 99.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    format!("{} min {} s", whole / 60, whole % 60)
}

/// Returns a number with commas: `1,237`.
#[must_use]
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hint::Hint as _;
    use anyhow::Context as _;

    const PLAIN: Ui = Ui { is_terminal: false, has_color: false, is_quiet: false };

    #[test]
    fn sizes_durations_and_counts() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (4_200, "4.2 kB"),
            (9_949, "9.9 kB"),
            (9_950, "10 kB"),
            (999_499, "999 kB"),
            (999_500, "1.0 MB"),
            (472_000_000, "472 MB"),
            (1_900_000_000, "1.9 GB"),
            (u64::MAX, "18 EB"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
        for (millis, text) in [
            (0, "0 ms"),
            (4, "4 ms"),
            (99, "99 ms"),
            (100, "0.10 s"),
            (610, "0.61 s"),
            (9_994, "9.99 s"),
            (9_995, "10.0 s"),
            (32_400, "32.4 s"),
            (99_960, "1 min 40 s"),
            (200_000, "3 min 20 s"),
        ] {
            assert_eq!(duration(Duration::from_millis(millis)), text, "{millis}");
        }
        for (number, text) in [(0, "0"), (999, "999"), (1237, "1,237"), (1_234_567, "1,234,567")] {
            assert_eq!(count(number), text);
        }
    }

    #[test]
    fn colors_obey_the_user_then_the_environment_then_the_terminal() {
        let none = Environment { no_color: false, force: false, is_dumb: false };
        for (color, environment, is_terminal, expected) in [
            (Color::Auto, none, true, true),
            (Color::Auto, none, false, false),
            (Color::Auto, Environment { no_color: true, ..none }, true, false),
            (Color::Auto, Environment { no_color: true, force: true, ..none }, true, false),
            (Color::Auto, Environment { force: true, ..none }, false, true),
            (Color::Auto, Environment { is_dumb: true, ..none }, true, false),
            (Color::Always, Environment { no_color: true, ..none }, false, true),
            (Color::Never, Environment { force: true, ..none }, true, false),
        ] {
            let got = wants_color(color, environment, is_terminal);
            assert_eq!(got, expected, "{color:?} {environment:?} {is_terminal}");
        }
    }

    #[test]
    fn errors_print_their_chain_and_one_hint() {
        let cause: anyhow::Result<()> = Err(anyhow::anyhow!("pack is \x1b[31mtruncated"));
        let error = cause.hint("mend it").context("could not show `node_modules`").unwrap_err();
        assert_eq!(
            PLAIN.error_text(&error),
            "error: could not show `node_modules`\n  caused by: pack is \u{fffd}[31mtruncated\nhint: mend it\n"
        );
    }
}
