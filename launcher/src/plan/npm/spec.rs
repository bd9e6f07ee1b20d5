//! What kind of thing a dependency's spec asks for (the part of `npm-package-arg` that matters to an install).
//!
//! Invariant: a spec whose kind isn't certain is [`Spec::Other`], which the plan refuses.

use super::semver::{self, DEPENDENCY};

/// A dependency's spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spec<'a> {
    /// A version or range of the registry's package of that name.
    Range(&'a str),
    /// A dist-tag: nothing a lockfile can be checked against, except that it came from an address.
    Tag,
    /// Another package of the registry, under this name.
    Alias(&'a str),
    /// A folder.
    Directory(&'a str),
    /// An archive at an address.
    Remote(&'a str),
    /// Git, archives on disk, and anything unclear.
    Other,
}

/// Tells what `spec` asks for.
pub(crate) fn classify(spec: &str) -> Spec<'_> {
    if spec.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("npm:")) {
        return alias(&spec[4..]);
    }
    let archive =
        [".tgz", ".tar.gz", ".tar"].iter().any(|end| spec.to_ascii_lowercase().ends_with(end));
    if let Some(path) = spec.strip_prefix("file:") {
        return if archive { Spec::Other } else { Spec::Directory(path) };
    }
    if spec.starts_with("./") || spec.starts_with("../") || spec == "." || spec == ".." {
        return if archive { Spec::Other } else { Spec::Directory(spec) };
    }
    if (spec.starts_with("https://") || spec.starts_with("http://")) && !may_be_git(spec) {
        return Spec::Remote(spec);
    }
    if archive
        || spec.starts_with(['.', '~']) && spec[1..].starts_with('/')
        || spec.contains(['/', ':', '@', '\\'])
    {
        return Spec::Other;
    }
    registry(spec)
}

fn registry(spec: &str) -> Spec<'_> {
    if semver::valid_range(spec, DEPENDENCY) {
        return Spec::Range(spec);
    }
    let tag = spec.trim();
    let plain = !tag.is_empty()
        && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.!~*'()".contains(&byte));
    if plain { Spec::Tag } else { Spec::Other }
}

/// `name`, `name@range`, `@scope/name@range`
fn alias(target: &str) -> Spec<'_> {
    let (name, range) = match target.get(1..).and_then(|rest| rest.find('@')) {
        Some(at) => (&target[..=at], &target[at + 2..]),
        None => (target, "*"),
    };
    if !valid_name(name) {
        return Spec::Other;
    }
    match registry(if range.is_empty() { "*" } else { range }) {
        Spec::Range(range) => Spec::Alias(range),
        Spec::Tag => Spec::Tag,
        _ => Spec::Other,
    }
}

/// Returns whether the spec is one of the registry's (`npa(spec).registry`).
pub(crate) fn of_registry(spec: &str) -> bool {
    matches!(classify(spec), Spec::Range(_) | Spec::Tag | Spec::Alias(_))
}

/// Hosts whose addresses npm turns into git ones.
pub(crate) fn may_be_git(url: &str) -> bool {
    let host = url
        .split_once("://")
        .map_or(url, |(_, rest)| rest)
        .split(['/', '?', '#'])
        .next()
        .unwrap_or_default();
    let host = host
        .rsplit('@')
        .next()
        .unwrap_or_default()
        .split(':')
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase();
    let host = host.strip_prefix("www.").unwrap_or(&host);
    [
        "github.com",
        "gist.github.com",
        "gitlab.com",
        "bitbucket.org",
        "git.sr.ht",
        "gist.githubusercontent.com",
    ]
    .contains(&host)
        || url.contains(".git")
}

/// Returns whether npm would take `name` for a package's.
pub(crate) fn valid_name(name: &str) -> bool {
    let part = |part: &str, first: bool| {
        let start = part.bytes().next().is_some_and(|byte| !matches!(byte, b'.' | b'-'));
        let own = first && part.starts_with('_');
        start
            && !own
            && part.len() <= 214
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.!~*'()".contains(&byte))
            && !part.eq_ignore_ascii_case("node_modules")
            && !part.eq_ignore_ascii_case("favicon.ico")
    };
    match name.strip_prefix('@') {
        Some(scoped) => scoped
            .split_once('/')
            .is_some_and(|(scope, name)| part(scope, false) && part(name, false)),
        None => part(name, true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        for (spec, kind) in [
            ("^1.2.3", Spec::Range("^1.2.3")),
            ("", Spec::Range("")),
            ("*", Spec::Range("*")),
            (">=1 <2 || 3.x", Spec::Range(">=1 <2 || 3.x")),
            ("~1.2", Spec::Range("~1.2")),
            ("latest", Spec::Tag),
            ("npm:is-odd@^3.0.0", Spec::Alias("^3.0.0")),
            ("npm:@s/p@1", Spec::Alias("1")),
            ("npm:@s/p", Spec::Alias("*")),
            ("npm:x@y/z", Spec::Other),
            ("file:../a", Spec::Directory("../a")),
            ("./a", Spec::Directory("./a")),
            ("file:a.tgz", Spec::Other),
            ("user/repo", Spec::Other),
            ("github:user/repo", Spec::Other),
            ("git+https://host/x.git", Spec::Other),
            ("https://host/a.tgz", Spec::Remote("https://host/a.tgz")),
            ("https://github.com/a/b", Spec::Other),
            ("workspace:*", Spec::Other),
            ("a b", Spec::Other),
        ] {
            assert_eq!(classify(spec), kind, "{spec}");
        }
    }

    #[test]
    fn names() {
        for name in ["a", "@s/a", "JSONStream", "a.b-c_d", "is-odd"] {
            assert!(valid_name(name), "{name}");
        }
        for name in [
            "",
            ".a",
            "_a",
            "-a",
            "a/b",
            "@s",
            "@/a",
            "@s/",
            "@s/a/b",
            "a b",
            "ä",
            "..",
            "node_modules",
            "@s/..",
            "a\\b",
        ] {
            assert!(!valid_name(name), "{name}");
        }
    }
}
