//! npm's configuration: the layers (command line, environment, npmrc files) and how a value is looked up in them.
//!
//! Invariant: nothing is guessed; a form whose meaning in npm depends on more than is read here is refused with a
//! [`Why`]. [`super::settings`] gives the values their meaning. Values may be secrets: they are never put in a message.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::env::Env;
use super::why::Why;

/// A value as written, before its type is known.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Raw {
    One(String),
    List(Vec<String>),
}

/// Where a value comes from; the later, the stronger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    Builtin,
    Global,
    User,
    Project,
    Environment,
    CommandLine,
}

/// The layers of one npm run.
#[derive(Default)]
pub(crate) struct Config {
    /// Strongest last.
    layers: BTreeMap<Source, BTreeMap<String, Raw>>,
}

impl Config {
    /// Adds the settings of the command line.
    pub(crate) fn add_command_line(&mut self, settings: &[(String, String)]) {
        let layer = self.layers.entry(Source::CommandLine).or_default();
        for (key, value) in settings {
            match layer.get_mut(key) {
                Some(raw) => {
                    let before = std::mem::replace(raw, Raw::List(Vec::new()));
                    let mut list = before.into_list();
                    list.push(value.clone());
                    *raw = Raw::List(list);
                }
                None => {
                    layer.insert(key.clone(), Raw::One(value.clone()));
                }
            }
        }
    }

    /// Adds the `npm_config_*` variables.
    pub(crate) fn add_environment(&mut self, env: &Env) -> Result<(), Why> {
        const PREFIX: &str = "npm_config_";
        let layer = self.layers.entry(Source::Environment).or_default();
        for (name, value) in env.iter() {
            let Some(name) = name.to_str() else { continue };
            let Some((prefix, key)) = name.split_at_checked(PREFIX.len()) else { continue };
            if !prefix.eq_ignore_ascii_case(PREFIX) || value.is_empty() {
                continue;
            }
            let value = value.to_str().ok_or_else(|| Why::new(format!("`{name}` is not UTF-8")))?;
            let key = if key.starts_with("//") {
                key.to_owned()
            } else {
                let mut key = key.to_lowercase();
                // The first character may be an underscore of its own (`_auth`).
                if let Some((at, _)) = key.char_indices().nth(1) {
                    let rest = key.split_off(at).replace('_', "-");
                    key.push_str(&rest);
                }
                key
            };
            let value = Raw::One(value.trim().to_owned());
            match layer.insert(key, value.clone()) {
                Some(other) if other != value => {
                    return Err(format!("`{name}` is set twice in the environment").into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Adds an npmrc file; a missing one adds nothing.
    pub(crate) fn add_file(&mut self, source: Source, path: &Path, env: &Env) -> Result<(), Why> {
        let Some(bytes) = super::read_file(path)? else { return Ok(()) };
        let text = String::from_utf8_lossy(&bytes);
        let mut layer = BTreeMap::new();
        for (key, raw) in parse(&text)? {
            let key = expand(&key, env)?;
            let raw = match raw {
                Raw::One(value) => Raw::One(expand(value.trim(), env)?),
                Raw::List(values) => Raw::List(
                    values
                        .iter()
                        .map(|value| expand(value.trim(), env))
                        .collect::<Result<_, _>>()?,
                ),
            };
            layer.insert(key, raw);
        }
        self.layers.insert(source, layer);
        Ok(())
    }

    /// Returns the strongest value of `key`.
    pub(crate) fn get(&self, key: &str) -> Option<&Raw> {
        self.find(key).map(|(_, raw)| raw)
    }

    /// Returns the strongest value of `key` and where it comes from.
    pub(crate) fn find(&self, key: &str) -> Option<(Source, &Raw)> {
        self.layers.iter().rev().find_map(|(source, layer)| Some((*source, layer.get(key)?)))
    }

    /// Returns the value that one layer gives.
    pub(crate) fn within(&self, source: Source, key: &str) -> Option<&Raw> {
        self.layers.get(&source)?.get(key)
    }

    /// Every key that is set, with its strongest value.
    pub(crate) fn effective(&self) -> BTreeMap<&str, &Raw> {
        self.layers.values().flatten().map(|(key, raw)| (key.as_str(), raw)).collect()
    }

    /// Returns a switch; `None` when it isn't set.
    pub(crate) fn switch(&self, key: &str) -> Result<Option<bool>, Why> {
        match self.get(key) {
            None => Ok(None),
            Some(Raw::One(value)) if value == "true" || value.is_empty() => Ok(Some(true)),
            Some(Raw::One(value)) if value == "false" || value == "null" => Ok(Some(false)),
            Some(_) => Err(unusual(key)),
        }
    }

    /// Returns a text; `null` counts as not set.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>, Why> {
        match self.get(key) {
            None => Ok(None),
            Some(Raw::One(value)) if value == "null" => Ok(None),
            Some(Raw::One(value)) => Ok(Some(value)),
            Some(Raw::List(_)) => Err(unusual(key)),
        }
    }

    /// Returns a path: `~/` is the home folder, anything else relative to `cwd`.
    pub(crate) fn path(&self, key: &str, env: &Env, cwd: &Path) -> Result<Option<PathBuf>, Why> {
        Ok(self.text(key)?.map(|value| resolve(value, env, cwd)))
    }

    /// Returns a list; a single value is split at empty lines, as npm does.
    pub(crate) fn list(&self, key: &str) -> Option<Vec<String>> {
        self.get(key).map(|raw| raw.clone().into_list())
    }

    /// Returns a number.
    pub(crate) fn number(&self, key: &str) -> Result<Option<u64>, Why> {
        match self.text(key)? {
            None => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| unusual(key)),
        }
    }
}

impl Raw {
    fn into_list(self) -> Vec<String> {
        match self {
            Raw::One(value) => value.split("\n\n").map(|item| item.trim().to_owned()).collect(),
            Raw::List(values) => values,
        }
    }
}

pub(crate) fn unusual(key: &str) -> Why {
    format!("the npm setting `{key}` has a form that is not understood").into()
}

/// Resolves a path as npm's configuration does.
pub(crate) fn resolve(value: &str, env: &Env, cwd: &Path) -> PathBuf {
    match value.strip_prefix("~/") {
        Some(rest) => env.home().join(rest),
        None => cwd.join(value),
    }
}

/// Replaces `${NAME}` and `${NAME?}` as npm does; backslashes before one are refused.
fn expand(text: &str, env: &Env) -> Result<String, Why> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        let Some(end) = from.find('}') else { break };
        let name = &from[2..end];
        let (name, optional) = match name.strip_suffix('?') {
            Some(name) => (name, true),
            None => (name, false),
        };
        out.push_str(before);
        if before.ends_with('\\') || name.contains(['$', '{', '?']) {
            return Err("an npmrc file escapes a variable".into());
        }
        match env.get(name) {
            Some(value) if !name.is_empty() => {
                out.push_str(
                    value.to_str().ok_or("a variable that an npmrc file uses is not UTF-8")?,
                );
            }
            _ if optional => {}
            _ => out.push_str(&from[..=end]),
        }
        rest = &from[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

/// Reads the ini form of an npmrc file. Keys inside a `[section]` are no settings and are skipped.
fn parse(text: &str) -> Result<Vec<(String, Raw)>, Why> {
    let mut entries: BTreeMap<String, Raw> = BTreeMap::new();
    let mut section = false;
    for line in text.split(['\r', '\n']) {
        let start = line.trim_start();
        if start.is_empty() || start.starts_with([';', '#']) {
            continue;
        }
        if line.starts_with('[')
            && line.trim_end().ends_with(']')
            && !line[1..line.trim_end().len() - 1].contains(']')
        {
            section = true;
            continue;
        }
        if section {
            continue;
        }
        let (key, value) = match line.split_once('=') {
            Some((key, value)) => (unquote(key), unquote(value)),
            None => (unquote(line), "true".to_owned()),
        };
        match key.strip_suffix("[]").filter(|name| !name.is_empty()) {
            Some(name) => {
                let list = entries.entry(name.to_owned()).or_insert_with(|| Raw::List(Vec::new()));
                if let Raw::One(first) = list {
                    *list = Raw::List(vec![std::mem::take(first)]);
                }
                if let Raw::List(values) = list {
                    values.push(value);
                }
            }
            None => match entries.get_mut(&key) {
                Some(Raw::List(values)) => values.push(value),
                _ if key.is_empty() => return Err("an npmrc file has a line without a key".into()),
                _ => {
                    entries.insert(key, Raw::One(value));
                }
            },
        }
    }
    Ok(entries.into_iter().collect())
}

/// Takes off quotes, or a comment and the escapes.
fn unquote(text: &str) -> String {
    let text = text.trim();
    let quoted = |quote: char| text.len() > 1 && text.starts_with(quote) && text.ends_with(quote);
    if quoted('"') {
        return serde_json::from_str(text).unwrap_or_else(|_| text.to_owned());
    }
    if quoted('\'') {
        let inner = &text[1..text.len() - 1];
        return serde_json::from_str(inner).unwrap_or_else(|_| inner.to_owned());
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            ';' | '#' => break,
            '\\' => match chars.next() {
                Some(escaped @ ('\\' | ';' | '#')) => out.push(escaped),
                Some(other) => {
                    out.push('\\');
                    out.push(other);
                }
                None => out.push('\\'),
            },
            c => out.push(c),
        }
    }
    out.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env() -> Env {
        Env::new([
            ("HOME", "/home/u"),
            ("TOKEN", "t0k"),
            ("NPM_CONFIG_FETCH_RETRIES", "5"),
            ("npm_config__auth", "x"),
        ])
    }

    #[test]
    fn ini_lines() {
        let text = "; c\n# c\na = 1 ; tail\nb\nc=\"q ; x\"\nd='s'\nomit[]=dev\nomit[]=peer\n//h/:_authToken=a\\;b\r\ne=\n[s]\nf=1\n";
        let entries: BTreeMap<_, _> = parse(text).unwrap().into_iter().collect();
        let one = |text: &str| Raw::One(text.to_owned());
        let expected = BTreeMap::from([
            ("a".to_owned(), one("1")),
            ("b".to_owned(), one("true")),
            ("c".to_owned(), one("q ; x")),
            ("d".to_owned(), one("s")),
            ("omit".to_owned(), Raw::List(vec!["dev".into(), "peer".into()])),
            ("//h/:_authToken".to_owned(), one("a;b")),
            ("e".to_owned(), one("")),
        ]);
        assert!(entries == expected);
    }

    #[test]
    fn variables() {
        for (text, expected) in [
            ("${TOKEN}", "t0k"),
            ("a${TOKEN}b${NONE?}", "at0kb"),
            ("${NONE}", "${NONE}"),
            ("${TOKEN", "${TOKEN"),
        ] {
            assert_eq!(expand(text, &env()).unwrap(), expected);
        }
        assert!(expand("\\${TOKEN}", &env()).is_err());
    }

    #[test]
    fn the_environment() {
        let mut config = Config::default();
        config.add_environment(&env()).unwrap();
        assert_eq!(config.number("fetch-retries").unwrap(), Some(5));
        assert!(config.get("_auth").is_some());
        let twice = Env::new([("npm_config_os", "a"), ("NPM_CONFIG_OS", "b")]);
        assert!(Config::default().add_environment(&twice).is_err());
    }

    #[test]
    fn the_command_line_wins() {
        let mut config = Config::default();
        config.add_environment(&env()).unwrap();
        config.add_command_line(&[
            ("fetch-retries".into(), "1".into()),
            ("omit".into(), "dev".into()),
            ("omit".into(), "peer".into()),
        ]);
        assert_eq!(config.number("fetch-retries").unwrap(), Some(1));
        assert_eq!(config.list("omit").unwrap(), ["dev", "peer"]);
        assert_eq!(resolve("~/x", &env(), Path::new("/p")), Path::new("/home/u/x"));
        assert_eq!(resolve("x", &env(), Path::new("/p")), Path::new("/p/x"));
    }
}
