//! Real npm projects, as ordinary users have them: `tests/fixtures/{small,medium,tools}`.
//!
//! The committed lockfiles name no registry; preparing a project fills each `resolved` with the address that npm's
//! configured registry gives the package, exactly as an ordinary lockfile has it. Called by the end-to-end tests, the
//! benchmarks and the binary `fixture`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// A project with a lockfile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fixture {
    /// vite, react, typescript, eslint: 174 packages, 4,900 files.
    Small,
    /// next, tailwind, jest, storybook, sharp, better-sqlite3: 1,220 packages, 38,600 files.
    Medium,
    /// webpack, jest, typescript, and a package with its own tests and what they need: 503 packages, 11,800 files.
    Tools,
}

impl Fixture {
    /// Returns the fixture of that name.
    ///
    /// # Errors
    /// When there is none.
    pub fn named(name: &str) -> Result<Self> {
        match name {
            "small" => Ok(Self::Small),
            "medium" => Ok(Self::Medium),
            "tools" => Ok(Self::Tools),
            _ => bail!("no fixture `{name}`: there are `small`, `medium` and `tools`"),
        }
    }

    /// Returns its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Medium => "medium",
            Self::Tools => "tools",
        }
    }

    /// Returns the committed folder.
    #[must_use]
    pub fn source(self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(self.name())
    }

    /// Makes `folder` (and its parents) the project.
    ///
    /// # Errors
    /// When npm does not answer or the folder cannot be written.
    pub fn prepare(self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)
            .with_context(|| format!("could not make {}", folder.display()))?;
        fs::write(folder.join("package.json"), fs::read(self.source().join("package.json"))?)?;
        let lock = fs::read_to_string(self.source().join("package-lock.json"))?;
        fs::write(folder.join("package-lock.json"), fill_resolved(&lock, &registry()?)?)?;
        Ok(())
    }
}

/// Rewrites a JSON file in place, in npm's own form: two spaces and a line end.
///
/// # Errors
/// When it cannot be read, parsed or written, and what `change` returns.
pub fn edit_json(path: &Path, change: impl FnOnce(&mut Value) -> Result<()>) -> Result<()> {
    let text = fs::read(path).with_context(|| format!("could not read {}", path.display()))?;
    let mut value = serde_json::from_slice(&text)
        .with_context(|| format!("could not parse {}", path.display()))?;
    change(&mut value)?;
    fs::write(path, format!("{value:#}\n"))
        .with_context(|| format!("could not write {}", path.display()))
}

/// Settings of npm that say how this machine reaches its registry and builds native code.
const SETTINGS: &[&str] =
    &["registry", "cafile", "proxy", "https-proxy", "noproxy", "strict-ssl", "nodedir"];

/// Returns npm's configured registry, with one slash at its end.
///
/// # Errors
/// When npm cannot be started or names none.
pub fn registry() -> Result<String> {
    let registry = npm_settings()?.get("registry").context("npm has no registry configured")?;
    Ok(format!("{}/", registry.trim_end_matches('/')))
}

/// Returns the settings with which npm works on this machine, outside of any project; npm is asked once per process.
///
/// # Errors
/// When npm cannot be started.
pub fn npm_settings() -> Result<&'static BTreeMap<String, String>> {
    static ANSWER: OnceLock<BTreeMap<String, String>> = OnceLock::new();
    if let Some(known) = ANSWER.get() {
        return Ok(known);
    }
    let output = Command::new("npm")
        .args(["config", "get"])
        .args(SETTINGS)
        .current_dir("/")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .context("could not start npm: the tests need Node.js with npm")?;
    ensure!(output.status.success(), "`npm config get` ended with {}", output.status);
    let text = String::from_utf8(output.stdout)?;
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    let set = pairs.filter(|(_, value)| !matches!(*value, "" | "undefined" | "null"));
    Ok(ANSWER.get_or_init(|| set.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()))
}

/// Inserts each `resolved` before its `integrity`, where npm writes it; everything else stays as it stands.
fn fill_resolved(text: &str, registry: &str) -> Result<String> {
    let lock: Value = serde_json::from_str(text)?;
    let packages = lock["packages"].as_object().context("the lockfile has no packages")?;
    let mut filled = String::with_capacity(text.len() * 2);
    let mut place = "";
    for line in text.split_inclusive('\n') {
        let (field, indent) = (line.trim_start(), line.len() - line.trim_start().len());
        match field.strip_prefix('"').and_then(|rest| rest.split_once('"')) {
            Some((name, rest)) if name.contains("node_modules/") && rest.trim_end() == ": {" => {
                place = name
            }
            Some(("integrity", _)) => {
                let resolved = address(place, &packages[place], registry)?;
                filled.push_str(&format!("{}\"resolved\": \"{resolved}\",\n", &line[..indent]));
            }
            _ => {}
        }
        filled.push_str(line);
    }
    Ok(filled)
}

/// Returns where the registry has the tarball of a lockfile's entry.
fn address(place: &str, entry: &Value, registry: &str) -> Result<String> {
    let name = match entry["name"].as_str() {
        Some(alias_of) => alias_of,
        None => place.rsplit_once("node_modules/").map_or(place, |(_, name)| name),
    };
    let version = entry["version"].as_str().with_context(|| format!("{place} has no version"))?;
    let base = name.rsplit('/').next().unwrap_or(name);
    Ok(format!("{registry}{name}/-/{base}-{version}.tgz"))
}

/// Returns the names of a project's direct dependencies of the given kinds (`dependencies`, `devDependencies`, …).
///
/// # Errors
/// When its `package.json` cannot be read.
pub fn direct_dependencies(project: &Path, kinds: &[&str]) -> Result<Vec<String>> {
    let manifest: Value = serde_json::from_slice(&fs::read(project.join("package.json"))?)?;
    let of_kind = |kind: &&str| {
        manifest[*kind].as_object().into_iter().flat_map(|names| names.keys().cloned())
    };
    Ok(kinds.iter().flat_map(of_kind).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lockfile differs from the committed one by its addresses only, for every package that has bytes.
    #[test]
    fn only_addresses_are_filled_in() {
        for fixture in [Fixture::Small, Fixture::Medium, Fixture::Tools] {
            let committed = fs::read_to_string(fixture.source().join("package-lock.json")).unwrap();
            let filled = fill_resolved(&committed, "https://registry.example/").unwrap();
            let mut lock: Value = serde_json::from_str(&filled).unwrap();
            let packages = lock["packages"].as_object_mut().unwrap();
            for (place, entry) in
                packages.iter_mut().filter(|(_, entry)| entry.get("integrity").is_some())
            {
                let resolved =
                    entry.as_object_mut().unwrap().remove("resolved").unwrap_or_default();
                let version = entry["version"].as_str().unwrap();
                let right = resolved.as_str().is_some_and(|url| {
                    url.starts_with("https://registry.example/")
                        && url.ends_with(&format!("-{version}.tgz"))
                });
                assert!(right, "{place}: {resolved}");
            }
            assert_eq!(lock, serde_json::from_str::<Value>(&committed).unwrap());
        }
    }
}
