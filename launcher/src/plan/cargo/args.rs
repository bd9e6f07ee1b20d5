//! What a command line of cargo asks for, as far as it decides which files of `target` come of it.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// Commands that compile, with their short names.
const COMPILING: &[(&str, &[&str])] = &[
    ("build", &["b"]),
    ("check", &["c"]),
    ("clippy", &[]),
    ("test", &["t"]),
    ("bench", &[]),
    ("run", &["r"]),
    ("rustc", &[]),
];

/// Flags that decide what is printed, or how fast, and nothing else.
const SILENT: &[&str] = &[
    "-v",
    "-vv",
    "-q",
    "--verbose",
    "--quiet",
    "--offline",
    "--locked",
    "--frozen",
    "--keep-going",
    "--timings",
    "--ignore-rust-version",
];

/// The same, with a value.
const SILENT_VALUES: &[&str] = &["--color", "-j", "--jobs", "--message-format"];

/// Flags with another name.
const SHORT: &[(&str, &str)] = &[("-r", "--release"), ("-F", "--features"), ("-p", "--package")];

/// Flags with a value that stands behind them.
const VALUES: &[&str] = &[
    "--manifest-path",
    "--target-dir",
    "--config",
    "--profile",
    "--target",
    "--features",
    "-F",
    "-p",
    "--package",
    "--exclude",
    "--bin",
    "--example",
    "--test",
    "--bench",
    "-Z",
    "--lockfile-path",
    "--artifact-dir",
    "--crate-type",
];

/// A command that compiles.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Args {
    /// `+NAME`, as rustup's stand-ins for cargo and rustc take it.
    pub toolchain: Option<OsString>,
    /// `--manifest-path`.
    pub manifest: Option<PathBuf>,
    /// `--target-dir`.
    pub target_dir: Option<PathBuf>,
    /// `--config`, each.
    pub configs: Vec<OsString>,
    /// The folder in `target` that the profile has.
    pub profile: String,
    /// What decides the result: the command and its flags, without what only decides what is printed.
    pub words: Vec<OsString>,
}

/// Reads the words behind `cargo`; the reason where they compile nothing, or something that is not known.
///
/// # Errors
/// Why cargo runs untouched.
pub fn read(words: &[OsString]) -> Result<Args, String> {
    let mut args = Args { profile: "debug".to_owned(), ..Args::default() };
    let mut rest = words.iter();
    let mut command = None;
    while let Some(word) = rest.next() {
        let text = word.to_str().ok_or("a word is no Unicode")?;
        if let Some(name) = text.strip_prefix('+').filter(|_| command.is_none()) {
            args.toolchain = Some(name.into());
            continue;
        }
        if !text.starts_with('-') && command.is_none() {
            let known =
                COMPILING.iter().find(|(name, short)| text == *name || short.contains(&text));
            let (name, _) =
                known.ok_or_else(|| format!("`cargo {text}` is not known to compile"))?;
            if *name == "bench" {
                args.profile = "release".to_owned();
            }
            args.words.push((*name).into());
            command = Some(*name);
            continue;
        }
        // What a program that is run gets is its own affair; rustc's flags are not.
        if text == "--" {
            if command != Some("run") && command != Some("test") && command != Some("bench") {
                args.words.push(word.clone());
                args.words.extend(rest.by_ref().cloned());
            }
            break;
        }
        if matches!(text, "-h" | "--help" | "-V" | "--version" | "--list" | "--explain" | "-C") {
            return Err(format!("`{text}` is not known to compile"));
        }
        if SILENT.contains(&text) || is_silent_with_value(text) {
            continue;
        }
        if SILENT_VALUES.contains(&text) {
            let _value = rest.next();
            continue;
        }
        let (flag, value) = match text.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => (flag, Some(OsString::from(value))),
            _ if VALUES.contains(&text) => (text, rest.next().cloned()),
            _ => (text, None),
        };
        match (flag, &value) {
            ("--manifest-path", Some(value)) => args.manifest = Some(value.into()),
            ("--target-dir", Some(value)) => args.target_dir = Some(value.into()),
            ("--config", Some(value)) => args.configs.push(value.clone()),
            ("-r" | "--release", _) => args.profile = "release".to_owned(),
            ("--profile", Some(value)) => args.profile = folder_of(value)?,
            _ => {}
        }
        let flag = SHORT.iter().find(|(short, _)| *short == flag).map_or(flag, |(_, long)| *long);
        // Where files lie says nothing about what they hold.
        if !matches!(flag, "--manifest-path" | "--target-dir") {
            args.words.push(flag.into());
            args.words.extend(value);
        }
    }
    match command {
        Some(_) => Ok(args),
        None => Err("no command of cargo is named".to_owned()),
    }
}

fn is_silent_with_value(text: &str) -> bool {
    let is_of = |flag: &str| text.strip_prefix(flag).is_some_and(|rest| rest.starts_with('='));
    let jobs = text.strip_prefix("-j").is_some_and(|rest| rest.parse::<u32>().is_ok());
    jobs || SILENT_VALUES.iter().any(|flag| is_of(flag)) || text.starts_with("--timings=")
}

/// Returns the folder of a profile, see "Build Cache" in Cargo's book.
fn folder_of(profile: &OsStr) -> Result<String, String> {
    let name = profile.to_str().ok_or("a profile's name is no Unicode")?;
    Ok(match name {
        "dev" | "test" => "debug",
        "release" | "bench" => "release",
        other => other,
    }
    .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn what_decides_the_result_is_told_from_what_is_printed() {
        for (line, profile, expected) in [
            ("build", "debug", "build"),
            ("b -v --color always -j1", "debug", "build"),
            ("+nightly build -r --jobs=2", "release", "build --release"),
            ("test --no-run --message-format=json", "debug", "test --no-run"),
            ("test -- --nocapture", "debug", "test"),
            ("rustc -- -C opt-level=1", "debug", "rustc -- -C opt-level=1"),
            ("build --profile fast -p one", "fast", "build --profile fast --package one"),
            ("build --profile=dev --target-dir x", "debug", "build --profile dev"),
            ("clippy --manifest-path a/Cargo.toml", "debug", "clippy"),
        ] {
            let args = read(&words(line)).unwrap();
            assert_eq!((args.profile.as_str(), args.words), (profile, words(expected)), "{line}");
        }
        let args = read(&words("+1.90 build --manifest-path a/Cargo.toml --target-dir=t")).unwrap();
        assert_eq!(args.toolchain, Some("1.90".into()));
        assert_eq!(
            (args.manifest, args.target_dir),
            (Some("a/Cargo.toml".into()), Some("t".into()))
        );
        for line in ["", "install ripgrep", "build --help", "--version", "-C dir build", "fmt"] {
            assert!(read(&words(line)).is_err(), "{line}");
        }
    }
}
