//! Install scripts: run for real once, and their result kept where it is just what they did to the
//! folder of their package.
//!
//! The key of a result holds the package, everything its dependencies resolve to, and the machine (see
//! [`super::machine`]). A result that holds the path of the project counts in that folder only. What a
//! script leaves outside its folder, or fetches from the network, can't be kept: such scripts run again
//! each time.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use rift_cas::import::Import;
use rift_cas::ingest::{self, Ingested};
use rift_cas::log::{Log, Record, Topic};
use rift_tree::builder::{Builder, Built, Item};
use rift_tree::{BlobHash, Kind, Manifest, TreeHash};
use serde_json::Value;

use super::driver::{Driver, Script, Start};
use crate::observe::Own;

/// Grows when results are made or found in another way.
const RULES: u32 = 1;
const PAYLOAD_VERSION: u8 = 1;

/// The events of a dependency, in npm's order.
const EVENTS: [&str; 3] = ["preinstall", "install", "postinstall"];

/// A package whose scripts are to run.
#[derive(Debug, Clone)]
pub(crate) struct Scripted {
    /// Its path in the project.
    pub(crate) path: String,
    /// Its entry in the lockfile.
    pub(crate) entry: Value,
    /// Whether other packages lie below it.
    pub(crate) has_nested: bool,
    keys: Keys,
}

/// The keys under which a result may be kept.
#[derive(Debug, Clone)]
struct Keys {
    anywhere: [u8; 32],
    here: [u8; 32],
}

/// Everything the keys are made of beside the package.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// See [`super::machine::key`].
    pub(crate) machine: [u8; 32],
    /// The project's folder.
    pub(crate) root: &'a Path,
    /// The umask, which new files get.
    pub(crate) umask: u16,
}

/// What became of the scripts.
#[derive(Debug, Default)]
pub(crate) struct Ran {
    /// Results that can be kept, by path: the package's folder as it is afterwards.
    pub(crate) results: BTreeMap<String, Arc<Built>>,
    /// Records of these results.
    pub(crate) records: Vec<Record>,
    /// Packages whose result can't be kept, and why.
    pub(crate) uncacheable: BTreeMap<String, String>,
}

/// A script failed; npm itself has to say how.
#[derive(Debug, thiserror::Error)]
#[error("the {event} script of `{path}` failed")]
pub(crate) struct ScriptFailed {
    path: String,
    event: &'static str,
}

impl Scripted {
    /// Describes the packages at `paths`, which are in npm's order, by the lockfile's `packages`.
    ///
    /// # Errors
    /// When a package has no entry or no integrity.
    pub(crate) fn of(
        paths: &[String],
        packages: &serde_json::Map<String, Value>,
        place: Place<'_>,
    ) -> Result<Vec<Self>> {
        let describe = |path: &String| {
            let entry = packages.get(path).with_context(|| format!("`{path}` is not locked"))?;
            // Without it the key would not name the content.
            let integrity = entry.get("integrity").and_then(Value::as_str);
            integrity.with_context(|| format!("`{path}` has no integrity"))?;
            let below = format!("{path}/node_modules/");
            let has_nested = packages.keys().any(|name| name.starts_with(&below));
            let keys = Keys::of(path, packages, place);
            Ok(Self { path: path.clone(), entry: entry.clone(), has_nested, keys })
        };
        paths.iter().map(describe).collect()
    }

    /// Returns the tree of the package's folder after its scripts, if that is known.
    #[must_use]
    pub(crate) fn result(&self, log: &Log) -> Option<TreeHash> {
        let find = |key| decode(log.get(Topic::Scripts, key)?);
        find(&self.keys.here).or_else(|| find(&self.keys.anywhere))
    }

    fn record(&self, tree: TreeHash, is_bound: bool) -> Record {
        let key = if is_bound { self.keys.here } else { self.keys.anywhere };
        let mut payload = vec![PAYLOAD_VERSION];
        payload.extend_from_slice(tree.as_bytes());
        Record { topic: Topic::Scripts, key, payload }
    }

    fn script(&self, root: &Path, event: &'static str, foreground: bool) -> Script {
        let text = |name: &str| self.entry.get(name).cloned().unwrap_or(Value::Null);
        let is = |name: &str| self.entry.get(name).and_then(Value::as_bool).unwrap_or(false);
        let flag = |flag: bool| Value::from(if flag { "1" } else { "" });
        let path = root.join(&self.path);
        let mut env = serde_json::Map::new();
        for (name, field) in
            [("npm_package_resolved", "resolved"), ("npm_package_integrity", "integrity")]
        {
            if let value @ Value::String(_) = text(field) {
                env.insert(name.to_owned(), value);
            }
        }
        let json = path.join("package.json").to_string_lossy().into_owned();
        env.insert("npm_package_json".to_owned(), json.into());
        env.insert("npm_package_optional".to_owned(), flag(is("optional")));
        env.insert("npm_package_dev".to_owned(), flag(is("dev")));
        env.insert("npm_package_peer".to_owned(), flag(is("peer")));
        let dev_optional = is("devOptional") && !is("dev") && !is("optional");
        env.insert("npm_package_dev_optional".to_owned(), flag(dev_optional));
        let name = self.path.rsplit_once("node_modules/").map_or(&*self.path, |(_, name)| name);
        let mut pkg = serde_json::Map::new();
        pkg.insert("name".to_owned(), name.into());
        for field in ["name", "version", "engines", "bin"] {
            if let Some(value) = self.entry.get(field) {
                pkg.insert(field.to_owned(), value.clone());
            }
        }
        Script { path, event, pkg: Some(pkg.into()), env, foreground }
    }
}

fn decode(payload: &[u8]) -> Option<TreeHash> {
    let (version, hash) = payload.split_first()?;
    let hash: [u8; 32] = hash.try_into().ok()?;
    (*version == PAYLOAD_VERSION).then(|| TreeHash::from_bytes(hash))
}

impl Keys {
    fn of(path: &str, packages: &serde_json::Map<String, Value>, place: Place<'_>) -> Self {
        let mut hasher = blake3::Hasher::new();
        let mut field = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
        };
        field(b"rift npm scripts");
        field(&RULES.to_le_bytes());
        field(&place.machine);
        field(&place.umask.to_le_bytes());
        // Where it lies decides what it finds, and npm tells scripts some of its entry.
        for path in closure(path, packages) {
            field(path.as_bytes());
            let entry = packages.get(&path).cloned().unwrap_or(Value::Null);
            for name in
                ["name", "version", "integrity", "bin", "engines", "dev", "optional", "peer"]
            {
                field(entry.get(name).map(Value::to_string).unwrap_or_default().as_bytes());
            }
        }
        let anywhere = *hasher.finalize().as_bytes();
        hasher.update(place.root.as_os_str().as_bytes());
        Self { anywhere, here: *hasher.finalize().as_bytes() }
    }
}

/// Returns the paths of a package and of all that it depends on, as node would find them.
fn closure(path: &str, packages: &serde_json::Map<String, Value>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut pending = vec![path.to_owned()];
    while let Some(path) = pending.pop() {
        if !found.insert(path.clone()) {
            continue;
        }
        let Some(entry) = packages.get(&path) else {
            continue;
        };
        for field in ["dependencies", "optionalDependencies", "peerDependencies"] {
            let names = entry.get(field).and_then(Value::as_object);
            for name in names.into_iter().flat_map(|names| names.keys()) {
                pending.extend(resolve(&path, name, packages));
            }
        }
    }
    found
}

/// Finds the package that `name` means in the package at `path`.
fn resolve(path: &str, name: &str, packages: &serde_json::Map<String, Value>) -> Option<String> {
    let mut folder = path;
    loop {
        let candidate = match folder.is_empty() {
            true => format!("node_modules/{name}"),
            false => format!("{folder}/node_modules/{name}"),
        };
        if packages.contains_key(&candidate) {
            return Some(candidate);
        }
        if folder.is_empty() {
            return None;
        }
        folder = match folder.rfind("/node_modules/") {
            Some(at) => &folder[..at],
            None => "",
        };
    }
}

/// Runs the scripts of `packages` in the project, where their trees are in place.
///
/// # Errors
/// [`ScriptFailed`] when one fails; otherwise what the system says.
pub(crate) fn run(
    packages: &[&Scripted],
    bases: &dyn Fn(&Scripted) -> Option<Arc<Built>>,
    import: &Import<'_>,
    start: Start<'_>,
    place: Place<'_>,
    foreground: bool,
) -> Result<Ran> {
    let mut ran = Ran::default();
    let mut driver = Driver::start(start)?;
    for event in EVENTS {
        for package in packages {
            let folder = place.root.join(&package.path);
            let except = match package.has_nested {
                true => vec![folder.join("node_modules")],
                false => Vec::new(),
            };
            let own = Own { folders: vec![folder], except };
            let script = package.script(place.root, event, foreground);
            let (outcome, seen) = driver.run(&script, own)?;
            if !outcome.is_success() {
                return Err(ScriptFailed { path: package.path.clone(), event }.into());
            }
            if !outcome.ran {
                continue;
            }
            let reason = match seen {
                Some(seen) => seen.reason(),
                None if !start.is_watched => Some("its result was not to be kept".to_owned()),
                None => Some("it could not be observed".to_owned()),
            };
            if let Some(reason) = reason {
                ran.uncacheable.entry(package.path.clone()).or_insert(reason);
            }
        }
    }
    driver.finish()?;
    for package in packages {
        if ran.uncacheable.contains_key(&package.path) {
            continue;
        }
        let base = bases(package);
        let (built, is_bound) = keep(package, base.as_deref(), import, place)?;
        ran.records.push(package.record(built.hash, is_bound));
        ran.results.insert(package.path.clone(), Arc::new(built));
    }
    Ok(ran)
}

/// Takes a package's folder in; tells whether it holds the path of the project.
fn keep(
    package: &Scripted,
    base: Option<&Built>,
    import: &Import<'_>,
    place: Place<'_>,
) -> Result<(Built, bool)> {
    let folder = place.root.join(&package.path);
    let skip = |path: &[u8]| package.has_nested && path == b"node_modules";
    let entries = ingest::directory(import, &folder, 2, &skip)?;
    let base = base.map(|built| Manifest::parse(&built.bytes)).transpose()?;
    let root = place.root.as_os_str().as_bytes();
    let mut is_bound = false;
    let mut builder = Builder::stamped();
    for entry in entries {
        let before = base.as_ref().and_then(|base| same(base, &entry, place.umask));
        if before.is_none() {
            is_bound |= holds(&folder, &entry, root)?;
        }
        let item = before.unwrap_or(entry.item);
        builder.put_with_xattrs(&entry.path, 0, item, entry.xattrs)?;
    }
    let built = builder.finish()?;
    let mut unit = import.unit();
    import.add_manifest(&mut unit, &built)?;
    unit.flush()?;
    Ok((built, is_bound))
}

/// Returns an entry as it was before the scripts, with the modes that no umask took from, when they
/// did not change it.
fn same(base: &Manifest<'_>, entry: &Ingested, umask: u16) -> Option<Item> {
    let id = base.lookup(&entry.path)?;
    let permissions = base.mode(id)? & 0o7777;
    match (base.kind(id)?, &entry.item) {
        (Kind::Directory { .. }, Item::Directory { permissions: shown }) => {
            (permissions & !umask == *shown).then_some(Item::Directory { permissions })
        }
        (Kind::File { size, blob }, Item::File { permissions: shown, hash, .. }) => {
            let before: BlobHash = base.blob_hash(blob)?;
            let is_same = before == *hash && permissions & !umask == *shown;
            is_same.then_some(Item::File { permissions, size, hash: before })
        }
        (Kind::Symlink { target: before }, Item::Symlink { target }) if before == target => {
            Some(entry.item.clone())
        }
        _ => None,
    }
}

/// Tells whether an entry's bytes or target hold `needle`.
fn holds(folder: &Path, entry: &Ingested, needle: &[u8]) -> Result<bool> {
    match &entry.item {
        Item::Directory { .. } => Ok(false),
        Item::Symlink { target } => Ok(contains(target, needle)),
        Item::File { .. } => {
            let path: PathBuf = folder.join(OsStr::from_bytes(&entry.path));
            let bytes = std::fs::read(&path)
                .with_context(|| format!("could not read `{}`", path.display()))?;
            Ok(contains(&bytes, needle))
        }
    }
}

/// Tells whether `bytes` hold `needle`, looking at places that begin as it does.
fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    let Some(first) = needle.first() else {
        return true;
    };
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        rest = &rest[at..];
        if rest.starts_with(needle) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packages() -> serde_json::Map<String, Value> {
        let text = r#"{
            "node_modules/a": {"version": "1.0.0", "integrity": "sha512-a", "dependencies": {"b": "1", "c": "1"}},
            "node_modules/a/node_modules/c": {"version": "2.0.0", "integrity": "sha512-c2"},
            "node_modules/b": {"version": "1.0.0", "integrity": "sha512-b", "dependencies": {"c": "1", "a": "1"}},
            "node_modules/c": {"version": "1.0.0", "integrity": "sha512-c1"},
            "node_modules/d": {"version": "1.0.0", "integrity": "sha512-d"}
        }"#;
        serde_json::from_str(text).unwrap()
    }

    fn key(packages: &serde_json::Map<String, Value>, root: &str) -> Keys {
        let place = Place { machine: [1; 32], root: Path::new(root), umask: 0o22 };
        let paths = ["node_modules/a".to_owned()];
        Scripted::of(&paths, packages, place).unwrap().remove(0).keys
    }

    #[test]
    fn the_key_holds_what_the_package_can_resolve_and_nothing_else() {
        let packages = packages();
        let expected: BTreeSet<String> =
            ["node_modules/a", "node_modules/a/node_modules/c", "node_modules/b", "node_modules/c"]
                .map(str::to_owned)
                .into();
        assert_eq!(closure("node_modules/a", &packages), expected);
        let before = key(&packages, "/p");
        for (path, is_part) in
            [("node_modules/c", true), ("node_modules/b", true), ("node_modules/d", false)]
        {
            let mut changed = packages.clone();
            changed[path]["integrity"] = "sha512-other".into();
            assert_eq!(key(&changed, "/p").anywhere != before.anywhere, is_part, "{path}");
        }
        let elsewhere = key(&packages, "/q");
        assert!(elsewhere.anywhere == before.anywhere && elsewhere.here != before.here);
    }

    #[test]
    fn bytes_are_searched_whole() {
        for (bytes, expected) in
            [("x/a/b/cx", true), ("/a/b/c", true), ("/a/b/", false), ("//a/b/c", true), ("", false)]
        {
            assert_eq!(contains(bytes.as_bytes(), b"/a/b/c"), expected, "{bytes}");
        }
    }
}
