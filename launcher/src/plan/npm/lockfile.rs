//! A lockfile's `packages`: parsed strictly, every location and every hash checked before anything is built from them.
//!
//! Invariant: a [`Lock`] holds only locations inside the project (or a leading `..` for a linked folder, below which
//! nothing is ever placed), at most [`LOCATION_MAX`] long, with valid names and no two that differ by case only.
//! [`super::graph`] is the caller.

use std::collections::HashMap;

use super::collate;
use super::json::{self, Json, Object};
use super::spec::valid_name;
use super::why::Why;

/// Longest location; far below `PATH_MAX`, so that a deep one is refused instead of half written.
pub(crate) const LOCATION_MAX: usize = 2048;
/// Most entries that are looked at.
const ENTRIES_MAX: usize = 1_000_000;

/// A checked lockfile.
#[derive(Debug)]
pub(crate) struct Lock<'a> {
    /// `lockfileVersion`: 2 or 3.
    pub(crate) version: i64,
    /// Members besides `packages`, `dependencies` and `lockfileVersion`.
    pub(crate) rest: Object<'a>,
    /// What it records of the root's manifest.
    pub(crate) root: Json<'a>,
    /// Entries in file order, without the root.
    pub(crate) entries: Vec<Entry<'a>>,
}

/// One entry of `packages`.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    /// Its path, relative to the root.
    pub(crate) location: String,
    /// Where in [`Self::location`] the name starts, for an entry in a `node_modules`.
    pub(crate) name_at: Option<usize>,
    pub(crate) json: Json<'a>,
}

impl Entry<'_> {
    /// The name of its folder, with the scope.
    pub(crate) fn name(&self) -> &str {
        match self.name_at {
            Some(at) => &self.location[at..],
            None => super::project::name_of(&self.location),
        }
    }

    /// The location of the package that it is nested in (empty for the root), for an entry in a `node_modules`.
    pub(crate) fn parent(&self) -> Option<&str> {
        let dir = &self.location[..self.name_at?];
        let dir = &dir[..dir.len() - "node_modules/".len()];
        Some(dir.strip_suffix('/').unwrap_or(dir))
    }
}

/// Parses and checks the lockfile called `name`.
pub(crate) fn parse<'a>(name: &str, bytes: &'a [u8]) -> Result<Lock<'a>, Why> {
    let json = json::parse(bytes)
        .map_err(|error| Why::new(format!("{name} is not understood ({error})")))?;
    let Json::Object(members) = json else { return Err(format!("{name} is not an object").into()) };
    let version = match json::get(&members, "lockfileVersion") {
        Some(Json::Integer(version @ (2 | 3))) => *version,
        Some(Json::Integer(version)) => return Err(format!("{name} has version {version}").into()),
        _ => return Err(format!("{name} has no version").into()),
    };
    let mut rest = Vec::new();
    let mut packages = None;
    for (key, value) in members {
        match &*key {
            "packages" => packages = Some(value),
            "dependencies" | "lockfileVersion" | "requires" => {}
            _ => rest.push((key, value)),
        }
    }
    let Some(Json::Object(packages)) = packages else {
        return Err(format!("{name} lists no packages").into());
    };
    if packages.len() > ENTRIES_MAX {
        return Err(format!("{name} has too many entries").into());
    }
    let mut root = None;
    let mut entries = Vec::with_capacity(packages.len());
    let mut folded: HashMap<String, ()> = HashMap::with_capacity(packages.len());
    for (location, json) in packages {
        if !matches!(json, Json::Object(_)) {
            return Err(format!("{name}: the entry `{location}` is not an object").into());
        }
        if location.is_empty() {
            root = Some(json);
            continue;
        }
        let name_at = split(&location).ok_or_else(|| {
            Why::new(format!(
                "{name}: the entry `{}` is not a place in the project",
                short(&location)
            ))
        })?;
        if folded.insert(location.to_ascii_lowercase(), ()).is_some() {
            return Err(
                format!("{name}: the entry `{location}` is there twice but for case").into()
            );
        }
        entries.push(Entry { location: location.into_owned(), name_at, json });
    }
    let root = root.ok_or_else(|| Why::new(format!("{name} records no root")))?;
    Ok(Lock { version, rest, root, entries })
}

fn short(text: &str) -> &str {
    text.char_indices().nth(80).map_or(text, |(at, _)| &text[..at])
}

/// Checks a location and finds where its name starts (`Some(None)` for a folder outside of every `node_modules`).
fn split(location: &str) -> Option<Option<usize>> {
    if location.len() > LOCATION_MAX || !collate::exact(location) || location.contains(['\\', ':'])
    {
        return None;
    }
    let mut name_at = None;
    let mut at = 0;
    let mut parts = location.split('/').peekable();
    let mut up = true;
    while let Some(part) = parts.next() {
        let start = at;
        at += part.len() + 1;
        if part == "node_modules" {
            let name_start = at;
            let mut end = at + parts.peek()?.len();
            if parts.next()?.starts_with('@') {
                end += 1 + parts.next()?.len();
            }
            if !valid_name(&location[name_start..end]) {
                return None;
            }
            name_at = Some(name_start);
            at = end + 1;
            up = false;
        } else if name_at.is_some() || part.is_empty() || part == "." {
            return None;
        } else if part == ".." {
            if !up {
                return None;
            }
        } else if part.eq_ignore_ascii_case("node_modules") || (start == 0 && part == ".git") {
            return None;
        } else {
            up = false;
        }
    }
    // Nothing is placed below a folder outside of the project.
    if name_at.is_some() && location.starts_with("..") || up {
        return None;
    }
    Some(name_at)
}

/// Returns whether an `integrity` is well formed and holds a strong hash.
pub(crate) fn strong(integrity: &str) -> bool {
    let mut found = false;
    for hash in integrity.split(' ') {
        let Some((algorithm, digest)) = hash.split_once('-') else { return false };
        let bytes = match algorithm {
            "sha512" => 64,
            "sha384" => 48,
            "sha256" => 32,
            "sha1" => 20,
            _ => return false,
        };
        found |= bytes >= 32;
        if !base64(digest, bytes) {
            return false;
        }
    }
    found
}

/// Returns whether `digest` is the base64 form of that many bytes.
fn base64(digest: &str, bytes: usize) -> bool {
    let padding = (3 - bytes % 3) % 3;
    let Some(digits) = digest.strip_suffix(&"=="[..padding]) else { return false };
    digest.len() == bytes.div_ceil(3) * 4
        && digits.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations() {
        for (location, expected) in [
            ("node_modules/a", Some(Some(13))),
            ("node_modules/@s/a", Some(Some(13))),
            ("node_modules/a/node_modules/b", Some(Some(28))),
            ("packages/a", Some(None)),
            ("packages/a/node_modules/b", Some(Some(24))),
            ("../other", Some(None)),
            ("../../other", Some(None)),
        ] {
            assert_eq!(split(location), expected, "{location}");
        }
        for location in [
            "../node_modules/a",
            "..",
            "/etc/passwd",
            "/node_modules/a",
            "node_modules",
            "node_modules/..",
            "node_modules/../..",
            "node_modules/../../x",
            "node_modules/a/../b",
            "node_modules/a/b",
            "node_modules/.bin",
            "node_modules/.package-lock.json",
            "node_modules/@s",
            "node_modules/@s/..",
            "node_modules/@../a",
            "node_modules//a",
            "node_modules/a/",
            "./node_modules/a",
            "a/../b",
            "node_modules\\a",
            "node_modules/a\\..\\b",
            "node_modules/a\0",
            "node_modules/ä",
            "Node_Modules/a",
            "C:/x",
            ".git/hooks",
        ] {
            assert_eq!(split(location), None, "{location}");
        }
        assert_eq!(split(&"node_modules/a/".repeat(10_000)), None);
    }

    #[test]
    fn hashes() {
        let sha512 = format!("sha512-{}==", "A".repeat(86));
        let sha1 = format!("sha1-{}=", "A".repeat(27));
        assert!(strong(&sha512) && strong(&format!("{sha1} {sha512}")));
        for text in [
            "",
            "sha512-",
            "sha512-AAAA",
            "md5-AAAA",
            &sha1,
            &sha512.replace('A', "-"),
            &format!("{sha512}?x"),
        ] {
            assert!(!strong(text), "{text}");
        }
    }

    #[test]
    fn lockfiles_that_are_left_to_npm() {
        for (text, why) in [
            ("{", "l is not understood"),
            ("[]", "l is not an object"),
            (r#"{"lockfileVersion":1,"dependencies":{}}"#, "l has version 1"),
            (r#"{"lockfileVersion":4,"packages":{}}"#, "l has version 4"),
            (r#"{"packages":{}}"#, "l has no version"),
            (r#"{"lockfileVersion":3}"#, "l lists no packages"),
            (r#"{"lockfileVersion":3,"packages":{}}"#, "l records no root"),
            (
                r#"{"lockfileVersion":3,"packages":{"":{},"../x/node_modules/a":{}}}"#,
                "l: the entry `../x/node",
            ),
            (
                r#"{"lockfileVersion":3,"packages":{"":{},"node_modules/a":1}}"#,
                "l: the entry `node_modules/a` is not an",
            ),
            (
                r#"{"lockfileVersion":3,"packages":{"":{},"node_modules/a":{},"node_modules/A":{}}}"#,
                "l: the entry `node_modules/A` is there twice",
            ),
            (
                r#"{"lockfileVersion":3,"packages":{"":{},"node_modules/a":{},"node_modules/a":{}}}"#,
                "l is not understood",
            ),
        ] {
            let found = parse("l", text.as_bytes()).unwrap_err().to_string();
            assert!(found.starts_with(why), "{found}");
        }
    }
}
