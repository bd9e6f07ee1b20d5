//! Version ranges as `node-semver` judges them: what decides whether a lockfile still satisfies a manifest and whether
//! an optional package's `engines` fit.
//!
//! Invariant: never panics; anything `node-semver` calls invalid satisfies nothing here either. Loose mode is used for
//! dependencies, strict mode with pre-releases for `engines`, as in arborist.

use std::cmp::Ordering;

/// How to read versions and ranges.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mode {
    pub(crate) loose: bool,
    pub(crate) prerelease: bool,
}

/// For dependency edges.
pub(crate) const DEPENDENCY: Mode = Mode { loose: true, prerelease: false };
/// For `engines`.
pub(crate) const ENGINE: Mode = Mode { loose: false, prerelease: true };

/// The largest number JavaScript counts exactly.
const MAX: u64 = (1 << 53) - 1;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    main: [u64; 3],
    pre: Vec<Id>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Id {
    Number(u64),
    Text(String),
}

impl Version {
    fn order(&self, other: &Version) -> Ordering {
        self.main.cmp(&other.main).then_with(|| match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => self.pre.cmp(&other.pre),
        })
    }
}

/// Returns whether `text` is a version (`semver.valid`).
pub(crate) fn valid(text: &str, mode: Mode) -> bool {
    version(text, mode.loose).is_some()
}

/// Returns whether `text` is a range (`semver.validRange`).
pub(crate) fn valid_range(text: &str, mode: Mode) -> bool {
    range(text, mode).is_some()
}

/// Returns whether `version` satisfies `range` (`semver.satisfies`).
pub(crate) fn satisfies(version_text: &str, range_text: &str, mode: Mode) -> bool {
    let (Some(version), Some(sets)) = (version(version_text, mode.loose), range(range_text, mode))
    else {
        return false;
    };
    sets.iter().any(|set| {
        let within = set.iter().all(|comparator| comparator.test(&version));
        let allowed = version.pre.is_empty()
            || mode.prerelease
            || set.iter().any(|comparator| match comparator {
                Comparator::Any => false,
                Comparator::Op(_, bound) => !bound.pre.is_empty() && bound.main == version.main,
            });
        within && allowed
    })
}

fn version(text: &str, loose: bool) -> Option<Version> {
    if text.len() > 256 {
        return None;
    }
    let mut rest = text.trim();
    rest = if loose {
        rest.trim_start_matches(is_prefix)
    } else {
        rest.strip_prefix('v').unwrap_or(rest)
    };
    let (major, rest) = number(rest, loose)?;
    let (minor, rest) = number(rest.strip_prefix('.')?, loose)?;
    let (patch, rest) = number(rest.strip_prefix('.')?, loose)?;
    let pre = tail(rest, loose)?;
    Some(Version { main: [major, minor, patch], pre })
}

fn is_prefix(c: char) -> bool {
    matches!(c, 'v' | '=') || c.is_whitespace()
}

fn number(text: &str, loose: bool) -> Option<(u64, &str)> {
    let end = text.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, rest) = text.split_at(end);
    if digits.is_empty() || (!loose && digits.len() > 1 && digits.starts_with('0')) {
        return None;
    }
    digits.parse().ok().filter(|value| *value <= MAX).map(|value| (value, rest))
}

/// Reads `-pre.release+build` up to the end.
fn tail(text: &str, loose: bool) -> Option<Vec<Id>> {
    let (pre, build) = match text.split_once('+') {
        Some((pre, build)) => (pre, Some(build)),
        None => (text, None),
    };
    let plain = |id: &str| {
        !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    if build.is_some_and(|build| !build.split('.').all(plain)) {
        return None;
    }
    if pre.is_empty() {
        return Some(Vec::new());
    }
    let ids = match pre.strip_prefix('-') {
        Some(ids) => ids,
        None if loose => pre,
        None => return None,
    };
    ids.split('.')
        .map(|id| {
            let digits = id.bytes().all(|byte| byte.is_ascii_digit());
            match id {
                _ if !plain(id) => None,
                _ if digits && !loose && id.len() > 1 && id.starts_with('0') => None,
                _ if digits => Some(
                    id.parse()
                        .ok()
                        .filter(|value| *value < MAX)
                        .map_or_else(|| Id::Text(id.to_owned()), Id::Number),
                ),
                _ => Some(Id::Text(id.to_owned())),
            }
        })
        .collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Less,
    LessOrEqual,
    Equal,
    GreaterOrEqual,
    Greater,
}

#[derive(Debug)]
enum Comparator {
    Any,
    Op(Op, Version),
}

impl Comparator {
    fn test(&self, version: &Version) -> bool {
        let Comparator::Op(op, bound) = self else { return true };
        let order = version.order(bound);
        match op {
            Op::Less => order.is_lt(),
            Op::LessOrEqual => order.is_le(),
            Op::Equal => order.is_eq(),
            Op::GreaterOrEqual => order.is_ge(),
            Op::Greater => order.is_gt(),
        }
    }
}

fn range(text: &str, mode: Mode) -> Option<Vec<Vec<Comparator>>> {
    let mut sets = Vec::new();
    for part in text.split("||") {
        let set = comparators(part, mode)?;
        if !set.is_empty() {
            sets.push(set);
        }
    }
    (!sets.is_empty()).then_some(sets)
}

/// Reads the comparators of one alternative; empty when loose mode threw all of them out.
fn comparators(text: &str, mode: Mode) -> Option<Vec<Comparator>> {
    let words: Vec<&str> = text.split_whitespace().collect();
    if let [from, "-", to] = words[..]
        && let (Some(from), Some(to)) = (partial(from, mode.loose), partial(to, mode.loose))
    {
        return Some(hyphen(&from, &to, mode));
    }
    if words.is_empty() {
        return Some(vec![Comparator::Any]);
    }
    let mut set = Vec::new();
    let mut operator = String::new();
    for word in words {
        operator.push_str(word);
        if word.bytes().all(|byte| matches!(byte, b'<' | b'>' | b'=' | b'~' | b'^' | b'v')) {
            continue;
        }
        match comparator(&operator, mode, &mut set) {
            Some(()) => {}
            None if mode.loose => {}
            None => return None,
        }
        operator.clear();
    }
    if !operator.is_empty() && !mode.loose {
        return None;
    }
    Some(set)
}

/// `1`, `1.x`, `1.2.*`, `1.2.3-pre`: the parts that are given.
struct Partial {
    major: Option<u64>,
    minor: Option<u64>,
    patch: Option<u64>,
    pre: Vec<Id>,
}

impl Partial {
    fn full(&self) -> Option<Version> {
        Some(Version { main: [self.major?, self.minor?, self.patch?], pre: self.pre.clone() })
    }
}

fn partial(text: &str, loose: bool) -> Option<Partial> {
    let mut rest = text.trim_start_matches(is_prefix);
    let mut parts = [None; 3];
    let mut given = 0;
    let mut wild = false;
    while given < 3 {
        if given > 0 {
            match rest.strip_prefix('.') {
                Some(after) => rest = after,
                None => break,
            }
        }
        if let Some(after) = rest.strip_prefix(['x', 'X', '*']) {
            rest = after;
            wild = true;
        } else {
            let (value, after) = number(rest, loose)?;
            if wild {
                // `1.x.3`, `*.1`: not an order of parts that means anything.
                return None;
            }
            rest = after;
            parts[given] = Some(value);
        }
        given += 1;
    }
    if given == 0 {
        return None;
    }
    let pre = if given == 3 { tail(rest, loose)? } else { tail_build_only(rest)? };
    Some(Partial { major: parts[0], minor: parts[1], patch: parts[2], pre })
}

/// After fewer than three parts only build metadata may follow (it is stripped before anything else is looked at).
fn tail_build_only(text: &str) -> Option<Vec<Id>> {
    if text.is_empty() || text.starts_with('+') { tail(text, false) } else { None }
}

fn bound(op: Op, main: [u64; 3], pre: Vec<Id>) -> Comparator {
    Comparator::Op(op, Version { main, pre })
}

/// `-0`, the lowest pre-release.
fn zero() -> Vec<Id> {
    vec![Id::Number(0)]
}

fn below(main: [u64; 3]) -> Comparator {
    bound(Op::Less, main, zero())
}

fn hyphen(from: &Partial, to: &Partial, mode: Mode) -> Vec<Comparator> {
    let low = || if mode.prerelease { zero() } else { Vec::new() };
    let mut set = Vec::new();
    match (from.major, from.minor, from.patch) {
        (None, _, _) => {}
        (Some(major), None, _) => set.push(bound(Op::GreaterOrEqual, [major, 0, 0], low())),
        (Some(major), Some(minor), None) => {
            set.push(bound(Op::GreaterOrEqual, [major, minor, 0], low()))
        }
        (Some(major), Some(minor), Some(patch)) => {
            let pre = if from.pre.is_empty() { low() } else { from.pre.clone() };
            set.push(bound(Op::GreaterOrEqual, [major, minor, patch], pre));
        }
    }
    match (to.major, to.minor, to.patch) {
        (None, _, _) => {}
        (Some(major), None, _) => set.push(below([major + 1, 0, 0])),
        (Some(major), Some(minor), None) => set.push(below([major, minor + 1, 0])),
        (Some(major), Some(minor), Some(patch)) if to.pre.is_empty() && mode.prerelease => {
            set.push(below([major, minor, patch + 1]));
        }
        (Some(major), Some(minor), Some(patch)) => {
            set.push(bound(Op::LessOrEqual, [major, minor, patch], to.pre.clone()))
        }
    }
    if set.is_empty() {
        set.push(Comparator::Any);
    }
    set
}

/// Adds what one word means; `None` when it means nothing.
fn comparator(word: &str, mode: Mode, set: &mut Vec<Comparator>) -> Option<()> {
    if let Some(rest) = word.strip_prefix('^') {
        return caret(&partial(rest, mode.loose)?, mode, set);
    }
    if let Some(rest) = word.strip_prefix('~') {
        return tilde(&partial(rest.strip_prefix('>').unwrap_or(rest), mode.loose)?, mode, set);
    }
    let (op, rest) = operator(word);
    let parts = partial(rest, mode.loose)?;
    if let Some(version) = parts.full() {
        // Strict mode allows one `v` here, and no further `=`.
        if !mode.loose && rest.strip_prefix('v').unwrap_or(rest).starts_with(is_prefix) {
            return None;
        }
        set.push(Comparator::Op(op.unwrap_or(Op::Equal), version));
        return Some(());
    }
    let low = || if mode.prerelease { zero() } else { Vec::new() };
    let op = op.filter(|op| *op != Op::Equal);
    match (parts.major, parts.minor, op) {
        (None, _, Some(Op::Less | Op::Greater)) => set.push(below([0, 0, 0])),
        (None, _, _) => set.push(Comparator::Any),
        (Some(major), None, None) => {
            set.push(bound(Op::GreaterOrEqual, [major, 0, 0], low()));
            set.push(below([major + 1, 0, 0]));
        }
        (Some(major), Some(minor), None) => {
            set.push(bound(Op::GreaterOrEqual, [major, minor, 0], low()));
            set.push(below([major, minor + 1, 0]));
        }
        (Some(major), minor, Some(op)) => {
            let next = minor.map_or([major + 1, 0, 0], |minor| [major, minor + 1, 0]);
            let this = [major, minor.unwrap_or(0), 0];
            set.push(match op {
                Op::Greater => bound(Op::GreaterOrEqual, next, low()),
                Op::LessOrEqual => below(next),
                Op::Less => below(this),
                Op::GreaterOrEqual | Op::Equal => bound(Op::GreaterOrEqual, this, low()),
            });
        }
    }
    Some(())
}

fn operator(word: &str) -> (Option<Op>, &str) {
    for (text, op) in [
        ("<=", Op::LessOrEqual),
        (">=", Op::GreaterOrEqual),
        ("<", Op::Less),
        (">", Op::Greater),
        ("=", Op::Equal),
    ] {
        if let Some(rest) = word.strip_prefix(text) {
            return (Some(op), rest);
        }
    }
    (None, word)
}

fn tilde(parts: &Partial, mode: Mode, set: &mut Vec<Comparator>) -> Option<()> {
    let low = || if mode.prerelease { zero() } else { Vec::new() };
    match (parts.major, parts.minor, parts.patch) {
        (None, _, _) => set.push(Comparator::Any),
        (Some(major), None, _) => {
            set.push(bound(Op::GreaterOrEqual, [major, 0, 0], low()));
            set.push(below([major + 1, 0, 0]));
        }
        (Some(major), Some(minor), patch) => {
            let pre = if patch.is_none() { low() } else { parts.pre.clone() };
            set.push(bound(Op::GreaterOrEqual, [major, minor, patch.unwrap_or(0)], pre));
            set.push(below([major, minor + 1, 0]));
        }
    }
    Some(())
}

fn caret(parts: &Partial, mode: Mode, set: &mut Vec<Comparator>) -> Option<()> {
    let low = || if mode.prerelease { zero() } else { Vec::new() };
    let Some(major) = parts.major else {
        set.push(Comparator::Any);
        return Some(());
    };
    let (least, pre) = match (parts.minor, parts.patch) {
        (None, _) => ([major, 0, 0], low()),
        (Some(minor), None) => ([major, minor, 0], low()),
        (Some(minor), Some(patch)) => ([major, minor, patch], parts.pre.clone()),
    };
    let most = match (major, parts.minor, parts.patch) {
        (0, Some(0), Some(patch)) => [0, 0, patch + 1],
        (0, Some(minor), _) => [0, minor + 1, 0],
        _ => [major + 1, 0, 0],
    };
    set.push(bound(Op::GreaterOrEqual, least, pre));
    set.push(below(most));
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependency_ranges() {
        for (range, yes, no) in [
            ("^1.2.3", &["1.2.3", "1.9.0"][..], &["2.0.0", "1.2.2", "1.3.0-beta", "2.0.0-0"][..]),
            ("^0.2.3", &["0.2.9"], &["0.3.0"]),
            ("^0.0.3", &["0.0.3"], &["0.0.4"]),
            ("^0", &["0.9.0"], &["1.0.0"]),
            ("~1.2", &["1.2.9"], &["1.3.0"]),
            ("~> 1.2.3", &["1.2.9"], &["1.3.0"]),
            ("1.x || >=2.5.0 || 5.0.0 - 7.2.3", &["1.0.0", "2.5.0", "6.0.0"], &["2.4.9"]),
            ("", &["1.0.0"], &["1.0.0-a"]),
            ("*", &["1.0.0"], &["1.0.0-a"]),
            (">= 1.2.0 <2", &["1.2.0"], &["2.0.0"]),
            ("^1.2.3-beta.2", &["1.2.3-beta.4", "1.3.0"], &["1.2.4-beta.2", "1.2.3-beta.1"]),
            (">1.2", &["1.3.0"], &["1.2.9"]),
            ("<=1.2", &["1.2.9"], &["1.3.0"]),
            ("1.2.3 - 2", &["2.9.9"], &["3.0.0", "1.2.2"]),
            ("=1.0.0", &["1.0.0", "v1.0.0"], &["1.0.1"]),
            ("latest", &[], &["1.0.0"]),
            ("1.2.x.3", &[], &["1.2.3"]),
        ] {
            for version in yes {
                assert!(satisfies(version, range, DEPENDENCY), "{version} {range}");
            }
            for version in no {
                assert!(!satisfies(version, range, DEPENDENCY), "{version} {range}");
            }
        }
    }

    #[test]
    fn engine_ranges() {
        for (range, yes, no) in [
            (">=18", &["20.20.2", "18.0.0-rc.1"][..], &["16.0.0"][..]),
            ("^18.17.0 || ^20.3.0 || >=21.0.0", &["20.20.2", "18.20.0"], &["19.0.0", "20.1.0"]),
            ("*", &["20.0.0", "21.0.0-nightly1"], &[]),
            ("^10 || 12 || >=14", &["12.1.0"], &["13.0.0"]),
            ("node", &[], &["20.0.0"]),
            (">=10 foo", &[], &["20.0.0"]),
        ] {
            for version in yes {
                assert!(satisfies(version, range, ENGINE), "{version} {range}");
            }
            for version in no {
                assert!(!satisfies(version, range, ENGINE), "{version} {range}");
            }
        }
    }

    #[test]
    fn names_are_not_ranges() {
        for text in ["latest", "next", "beta1"] {
            assert!(!valid_range(text, DEPENDENCY), "{text}");
        }
        assert!(
            valid("1.2.3-a", DEPENDENCY) && valid_range("1", DEPENDENCY) && !valid("1", DEPENDENCY)
        );
    }
}
