//! The words after `npm`: which command they name and which settings they give.
//!
//! Invariant: a command line is either read exactly as npm's own parser (nopt) reads it, or refused with a [`Why`].
//! Abbreviated flags, clusters of letters and everything else where nopt guesses are refused.
//! [`super::read`] is the caller.

use std::ffi::OsString;

use super::why::Why;

/// The commands that a plan understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// `npm ci`
    Ci,
    /// `npm install` without packages
    Install,
}

/// A command line that was understood.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Args {
    pub(crate) command: Command,
    /// Settings in the order given; each with the values that it was given (one, or several for lists).
    pub(crate) settings: Vec<(String, String)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    /// `--audit`, `--no-audit`, `--audit false`
    Switch,
    /// `--cache DIR`, `--cache=DIR`
    Value,
}

/// npm's settings that may be given on a command line that is understood. What they do is decided by
/// [`super::settings`]; here only their form matters.
const KNOWN: &[(&str, Takes)] = &[
    ("allow-directory", Takes::Value),
    ("allow-file", Takes::Value),
    ("allow-git", Takes::Value),
    ("allow-remote", Takes::Value),
    ("also", Takes::Value),
    ("audit", Takes::Switch),
    ("audit-level", Takes::Value),
    ("bin-links", Takes::Switch),
    ("cache", Takes::Value),
    ("cafile", Takes::Value),
    ("cpu", Takes::Value),
    ("dangerously-allow-all-scripts", Takes::Switch),
    ("dev", Takes::Switch),
    ("dry-run", Takes::Switch),
    ("engine-strict", Takes::Switch),
    ("fetch-retries", Takes::Value),
    ("fetch-retry-factor", Takes::Value),
    ("fetch-retry-maxtimeout", Takes::Value),
    ("fetch-retry-mintimeout", Takes::Value),
    ("fetch-timeout", Takes::Value),
    ("force", Takes::Switch),
    ("foreground-scripts", Takes::Switch),
    ("format-package-lock", Takes::Switch),
    ("fund", Takes::Switch),
    ("global", Takes::Switch),
    ("global-style", Takes::Switch),
    ("globalconfig", Takes::Value),
    ("https-proxy", Takes::Value),
    ("ignore-scripts", Takes::Switch),
    ("include", Takes::Value),
    ("include-workspace-root", Takes::Switch),
    ("install-links", Takes::Switch),
    ("install-strategy", Takes::Value),
    ("json", Takes::Switch),
    ("legacy-bundling", Takes::Switch),
    ("legacy-peer-deps", Takes::Switch),
    ("libc", Takes::Value),
    ("location", Takes::Value),
    ("lockfile-version", Takes::Value),
    ("loglevel", Takes::Value),
    ("logs-dir", Takes::Value),
    ("logs-max", Takes::Value),
    ("long", Takes::Switch),
    ("maxsockets", Takes::Value),
    ("noproxy", Takes::Value),
    ("offline", Takes::Switch),
    ("omit", Takes::Value),
    ("omit-lockfile-registry-resolved", Takes::Switch),
    ("only", Takes::Value),
    ("optional", Takes::Switch),
    ("os", Takes::Value),
    ("package-lock", Takes::Switch),
    ("package-lock-only", Takes::Switch),
    ("parseable", Takes::Switch),
    ("prefer-dedupe", Takes::Switch),
    ("prefer-offline", Takes::Switch),
    ("prefer-online", Takes::Switch),
    ("prefix", Takes::Value),
    ("production", Takes::Switch),
    ("progress", Takes::Switch),
    ("proxy", Takes::Value),
    ("rebuild-bundle", Takes::Switch),
    ("registry", Takes::Value),
    ("replace-registry-host", Takes::Value),
    ("save", Takes::Switch),
    ("save-bundle", Takes::Switch),
    ("save-dev", Takes::Switch),
    ("save-exact", Takes::Switch),
    ("save-optional", Takes::Switch),
    ("save-prod", Takes::Switch),
    ("script-shell", Takes::Value),
    ("shrinkwrap", Takes::Switch),
    ("strict-allow-scripts", Takes::Switch),
    ("strict-peer-deps", Takes::Switch),
    ("strict-ssl", Takes::Switch),
    ("timing", Takes::Switch),
    ("unicode", Takes::Switch),
    ("update-notifier", Takes::Switch),
    ("userconfig", Takes::Value),
    ("workspaces", Takes::Switch),
];

/// Shorthands and what they stand for. npm takes them with any number of dashes.
const SHORT: &[(&str, &[&str])] = &[
    ("s", &["--loglevel", "silent"]),
    ("silent", &["--loglevel", "silent"]),
    ("q", &["--loglevel", "warn"]),
    ("quiet", &["--loglevel", "warn"]),
    ("d", &["--loglevel", "info"]),
    ("dd", &["--loglevel", "verbose"]),
    ("ddd", &["--loglevel", "silly"]),
    ("verbose", &["--loglevel", "verbose"]),
    ("f", &["--force"]),
    ("g", &["--global"]),
    ("C", &["--prefix"]),
    ("S", &["--save"]),
    ("B", &["--save-bundle"]),
    ("D", &["--save-dev"]),
    ("E", &["--save-exact"]),
    ("O", &["--save-optional"]),
    ("P", &["--save-prod"]),
    ("l", &["--long"]),
    ("p", &["--parseable"]),
    ("porcelain", &["--parseable"]),
    ("reg", &["--registry"]),
    ("iwr", &["--include-workspace-root"]),
    ("ws", &["--workspaces"]),
];

/// Names of `npm ci`.
const CI: &[&str] = &["ci", "clean-install", "ic", "install-clean", "isntall-clean"];
/// Names of `npm install`.
const INSTALL: &[&str] = &[
    "install", "add", "i", "in", "ins", "inst", "insta", "instal", "isnt", "isnta", "isntal",
    "isntall",
];

/// Reads the words after `npm`.
pub(crate) fn read(argv: &[OsString]) -> Result<Args, Why> {
    let mut words: Vec<&str> = Vec::with_capacity(argv.len());
    for word in argv {
        words.push(word.to_str().ok_or("an argument is not UTF-8")?);
    }
    words.reverse();

    let mut settings = Vec::new();
    let mut positional = Vec::new();
    while let Some(word) = words.pop() {
        if word.len() >= 2 && word.bytes().all(|byte| byte == b'-') {
            positional.extend(words.drain(..).rev());
            break;
        }
        if !word.starts_with('-') || word.len() == 1 {
            positional.push(word);
            continue;
        }
        let (flag, value) = match word.split_once('=') {
            Some((flag, value)) => (flag, Some(value)),
            None => (word, None),
        };
        let name = flag.trim_start_matches('-');
        if known(name).is_none()
            && let Some((_, long)) = SHORT.iter().find(|(short, _)| *short == name)
        {
            if value.is_some() && long.len() > 1 {
                return Err(unread(flag));
            }
            words.extend(value);
            words.extend(long.iter().rev());
            continue;
        }
        settings.push(setting(flag, value, &mut words)?);
    }

    let Some((command, packages)) = positional.split_first() else {
        return Err("no command is given".into());
    };
    let command = match *command {
        name if CI.contains(&name) => Command::Ci,
        name if INSTALL.contains(&name) => Command::Install,
        name => return Err(format!("`npm {name}` is not an install from a lockfile").into()),
    };
    match (command, packages.first()) {
        (_, None) => Ok(Args { command, settings }),
        (Command::Install, Some(package)) => {
            Err(format!("`npm install {package}` changes package.json").into())
        }
        (Command::Ci, Some(_)) => Err("`npm ci` is given packages".into()),
    }
}

fn known(name: &str) -> Option<Takes> {
    KNOWN.iter().find(|(known, _)| *known == name).map(|(_, takes)| *takes)
}

fn unread(flag: &str) -> Why {
    format!("the flag `{flag}` is not understood").into()
}

/// Reads one flag; takes its value off `words` (which is reversed) when it isn't in the same word.
fn setting(
    flag: &str,
    value: Option<&str>,
    words: &mut Vec<&str>,
) -> Result<(String, String), Why> {
    // A single dash is as good as two for a whole name.
    let name = flag.trim_start_matches('-');
    let (name, no) = match name.strip_prefix("no-") {
        Some(rest) => (rest, true),
        None => (name, false),
    };
    match known(name).ok_or_else(|| unread(flag))? {
        Takes::Switch => {
            let next = value.or_else(|| words.last().copied());
            let on = match next {
                // `--no-x false` means on in npm; nobody means that.
                Some("true" | "false") if no => return Err(unread(flag)),
                Some("null") => return Err(unread(flag)),
                Some(word @ ("true" | "false")) => {
                    if value.is_none() {
                        words.pop();
                    }
                    word == "true"
                }
                // nopt takes what follows `=` for a package here.
                _ if value.is_some() => return Err(unread(flag)),
                _ => !no,
            };
            Ok((name.to_owned(), on.to_string()))
        }
        Takes::Value => {
            let value = value.or_else(|| words.pop()).ok_or_else(|| unread(flag))?;
            // nopt's rules for a value that looks like a flag or a word of its own depend on the setting's type.
            if no
                || value.is_empty()
                || value.starts_with('-')
                || matches!(value, "true" | "false" | "null")
            {
                return Err(unread(flag));
            }
            Ok((name.to_owned(), value.to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(line: &str) -> Result<Args, String> {
        let argv: Vec<OsString> =
            line.split(' ').filter(|word| !word.is_empty()).map(OsString::from).collect();
        read(&argv).map_err(|why| why.to_string())
    }

    #[test]
    fn commands_and_settings() {
        for (text, command, settings) in [
            ("ci", Command::Ci, &[][..]),
            ("clean-install", Command::Ci, &[]),
            ("i", Command::Install, &[]),
            ("add", Command::Install, &[]),
            (
                "ci --ignore-scripts --no-audit",
                Command::Ci,
                &[("ignore-scripts", "true"), ("audit", "false")],
            ),
            ("--omit dev ci --omit=peer", Command::Ci, &[("omit", "dev"), ("omit", "peer")]),
            ("ci --audit false --fund=true", Command::Ci, &[("audit", "false"), ("fund", "true")]),
            ("ci -s", Command::Ci, &[("loglevel", "silent")]),
            ("ci --silent", Command::Ci, &[("loglevel", "silent")]),
            ("-C dir install", Command::Install, &[("prefix", "dir")]),
            ("-C=dir install", Command::Install, &[("prefix", "dir")]),
            (
                "install --production -D",
                Command::Install,
                &[("production", "true"), ("save-dev", "true")],
            ),
            ("ci -- ", Command::Ci, &[]),
            ("ci --proxy http://p:1/?a=b", Command::Ci, &[("proxy", "http://p:1/?a=b")]),
        ] {
            let settings =
                settings.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
            assert_eq!(line(text), Ok(Args { command, settings }), "{text}");
        }
    }

    #[test]
    fn everything_else_is_npms() {
        for (text, why) in [
            ("", "no command is given"),
            ("run build", "`npm run` is not an install from a lockfile"),
            ("install lodash", "`npm install lodash` changes package.json"),
            ("install -- lodash", "`npm install lodash` changes package.json"),
            ("ci .", "`npm ci` is given packages"),
            ("ci --ignore-script", "the flag `--ignore-script` is not understood"),
            ("ci -gf", "the flag `-gf` is not understood"),
            ("ci -w a", "the flag `-w` is not understood"),
            ("ci --omit", "the flag `--omit` is not understood"),
            ("ci --omit --force", "the flag `--omit` is not understood"),
            ("ci --audit=maybe", "the flag `--audit` is not understood"),
            ("ci --no-audit true", "the flag `--no-audit` is not understood"),
            ("ci --no-cache", "the flag `--no-cache` is not understood"),
            ("ci --@a:registry=x", "the flag `--@a:registry` is not understood"),
            ("ci --help", "the flag `--help` is not understood"),
            ("ci --silent=x", "the flag `--silent` is not understood"),
        ] {
            assert_eq!(line(text).unwrap_err(), why, "{text}");
        }
    }
}
