//! npm's allow-scripts policy: which packages' install scripts may run, and which nobody has reviewed.
//!
//! Invariant: a package's identity is taken from its address or from who depends on it, never from its own manifest.
//! Keys whose meaning isn't certain are refused with a [`Why`]. [`super::layout`] calls.

use super::graph::{Graph, Id};
use super::json::Json;
use super::semver::{self, DEPENDENCY};
use super::spec::{Spec, classify, valid_name};
use super::why::Why;

/// What the policy says of one package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its scripts run.
    Allowed,
    /// Its scripts do not run.
    Denied,
    /// Nobody decided; its scripts run, and npm warns.
    Unreviewed,
}

/// The policy in force.
#[derive(Debug, Default)]
pub(crate) struct Policy(Vec<Rule>);

#[derive(Debug, PartialEq, Eq)]
struct Rule {
    name: String,
    /// `1.0.0 || 1.0.1`; nothing for every version.
    versions: Option<String>,
    allow: bool,
}

impl Policy {
    /// Reads package.json's `allowScripts`, else the npmrc files' `allow-scripts`.
    pub(crate) fn read(manifest: &Json<'_>, npmrc: &[String]) -> Result<Policy, Why> {
        let mut rules = Vec::new();
        for (key, allow) in
            manifest.get("allowScripts").and_then(Json::as_object).unwrap_or_default()
        {
            let Json::Bool(allow) = allow else {
                return Err("`allowScripts` has a form that is not understood".into());
            };
            rules.extend(rule(key, *allow)?);
        }
        if rules.is_empty() {
            for key in npmrc {
                rules.extend(rule(key, true)?);
            }
        }
        Ok(Policy(rules))
    }

    /// Judges a package of the registry.
    pub(crate) fn verdict(&self, graph: &Graph<'_>, id: Id) -> Verdict {
        let mut verdict = Verdict::Unreviewed;
        if !graph.of_registry(id) {
            return verdict;
        }
        let Some((name, version)) = identity(graph, id) else { return verdict };
        for rule in self.0.iter().filter(|rule| rule.name == name) {
            let matches = match (&rule.versions, &version) {
                (None, _) => true,
                (Some(versions), Some(version)) => semver::satisfies(version, versions, DEPENDENCY),
                // A version that can't be trusted denies, but doesn't allow.
                (Some(_), None) => !rule.allow,
            };
            match matches.then_some(rule.allow) {
                Some(false) => return Verdict::Denied,
                Some(true) => verdict = Verdict::Allowed,
                None => {}
            }
        }
        verdict
    }
}

/// Reads one key; nothing for a key that npm ignores with a warning.
fn rule(key: &str, allow: bool) -> Result<Option<Rule>, Why> {
    let (name, spec) = match key.get(1..).and_then(|rest| rest.find('@')) {
        Some(at) => (&key[..=at], &key[at + 2..]),
        None => (key, "*"),
    };
    if !valid_name(name) {
        return Err("`allowScripts` names something that is not of the registry".into());
    }
    let versions = match spec.trim() {
        "" | "*" => None,
        spec if spec.split("||").all(|version| semver::valid(version.trim(), DEPENDENCY)) => {
            Some(spec.to_owned())
        }
        spec => {
            return match classify(spec) {
                Spec::Range(_) | Spec::Tag => Ok(None),
                _ => Err("`allowScripts` names something that is not of the registry".into()),
            };
        }
    };
    Ok(Some(Rule { name: name.to_owned(), versions, allow }))
}

/// The name and version that the address says, else the name that a dependent asks for.
fn identity(graph: &Graph<'_>, id: Id) -> Option<(String, Option<String>)> {
    let node = &graph.nodes[id];
    if let Some((name, version)) =
        node.entry.get("resolved").and_then(Json::as_str).and_then(from_address)
    {
        return Some((name, Some(version)));
    }
    node.edges_in.iter().find_map(|(from, edge)| {
        let edge = &graph.nodes[*from].edges[*edge as usize];
        match edge.spec.get(4..).filter(|_| edge.spec.to_ascii_lowercase().starts_with("npm:")) {
            Some(target) => {
                let end = target.get(1..)?.find('@').map_or(target.len(), |at| at + 1);
                Some((target[..end].to_owned(), None))
            }
            None => Some((edge.name.to_owned(), None)),
        }
    })
}

/// `…/@scope/name/-/name-1.0.0.tgz` → `@scope/name`, `1.0.0`
fn from_address(url: &str) -> Option<(String, String)> {
    let path = url.split_once("://")?.1.split(['?', '#']).next()?;
    let (before, file) = path.rsplit_once("/-/")?;
    if file.contains('/') {
        return None;
    }
    let before = before.split_once('/')?.1.replace("%2f", "/").replace("%2F", "/");
    let mut parts = before.rsplit('/');
    let name = parts.next()?;
    let version = file.strip_suffix(".tgz")?.strip_prefix(name)?.strip_prefix('-')?;
    if !semver::valid(version, semver::ENGINE) {
        return None;
    }
    let full = match parts.next() {
        Some(scope) if scope.starts_with('@') => format!("{scope}/{name}"),
        _ => name.to_owned(),
    };
    Some((full, version.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (url, expected) in [
            ("https://h/is-odd/-/is-odd-3.0.1.tgz", Some(("is-odd", "3.0.1"))),
            ("https://h/m/@s/a/-/a-1.0.0-b.1.tgz", Some(("@s/a", "1.0.0-b.1"))),
            ("https://h/@s%2fa/-/a-1.0.0.tgz", Some(("@s/a", "1.0.0"))),
            ("https://h/-/a-1.0.0.tgz", None),
            ("https://h/a/-/b-1.0.0.tgz", None),
            ("https://h/a.tgz", None),
        ] {
            let expected = expected.map(|(name, version)| (name.to_owned(), version.to_owned()));
            assert_eq!(from_address(url), expected, "{url}");
        }
    }

    #[test]
    fn keys() {
        let read =
            |key: &str| rule(key, true).map(|rule| rule.map(|rule| (rule.name, rule.versions)));
        assert_eq!(read("canvas"), Ok(Some(("canvas".into(), None))));
        assert_eq!(read("@s/a@*"), Ok(Some(("@s/a".into(), None))));
        assert_eq!(read("a@1.0.0 || 1.0.1"), Ok(Some(("a".into(), Some("1.0.0 || 1.0.1".into())))));
        assert_eq!(read("a@^1"), Ok(None));
        assert_eq!(read("a@latest"), Ok(None));
        assert!(read("github:a/b").is_err() && read("file:../a").is_err());
    }
}
