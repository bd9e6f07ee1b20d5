//! The project on disk: its root, its manifest, its workspaces and the folders it links.
//!
//! Invariant: paths are relative to the root, with `/`, without `.` parts; `..` parts only lead, and only for linked
//! folders outside of the project. Globs that are more than stars are refused. [`super::read`] is the caller.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::collate;
use super::json::{self, Json};
use super::read_file;
use super::spec::{Spec, classify};
use super::why::Why;

/// More manifests than any real project has.
const MANIFESTS_MAX: usize = 20_000;

/// A package.json outside of `node_modules`.
#[derive(Debug)]
pub(crate) struct Manifest {
    /// The folder, relative to the root; empty for the root.
    pub(crate) dir: String,
    pub(crate) bytes: Vec<u8>,
}

impl Manifest {
    pub(crate) fn json(&self) -> Result<Json<'_>, Why> {
        let json = json::parse(&self.bytes)
            .map_err(|error| Why::new(format!("{} is not understood ({error})", self.path())))?;
        match json {
            Json::Object(_) => Ok(json),
            _ => Err(format!("{} is not an object", self.path()).into()),
        }
    }

    pub(crate) fn path(&self) -> String {
        if self.dir.is_empty() {
            "package.json".to_owned()
        } else {
            format!("{}/package.json", self.dir)
        }
    }
}

/// A workspace of the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Workspace {
    pub(crate) name: String,
    pub(crate) dir: String,
}

/// Everything of a project that decides an install, besides its lockfile.
#[derive(Debug)]
pub(crate) struct Project {
    pub(crate) root: PathBuf,
    /// The root's manifest first.
    pub(crate) manifests: Vec<Manifest>,
    pub(crate) workspaces: Vec<Workspace>,
}

/// Finds the folder that npm takes for the project when it runs in `cwd`: the nearest with a package.json or a
/// node_modules, unless that is a workspace of one further up.
pub(crate) fn find_root(cwd: &Path) -> Result<PathBuf, Why> {
    let is_file = |path: PathBuf| fs::metadata(path).is_ok_and(|meta| meta.is_file());
    let is_dir = |path: PathBuf| fs::metadata(path).is_ok_and(|meta| meta.is_dir());
    let mut found: Option<&Path> = None;
    for dir in cwd.ancestors() {
        let manifest = is_file(dir.join("package.json"));
        let Some(root) = found else {
            if manifest || is_dir(dir.join("node_modules")) {
                found = Some(dir);
            }
            continue;
        };
        if manifest && owns(dir, root)? {
            return Err(format!("the folder is a workspace of {}", dir.display()).into());
        }
    }
    Ok(found.unwrap_or(cwd).to_owned())
}

/// Returns whether `dir` is a workspace of the project at `root`.
fn owns(root: &Path, dir: &Path) -> Result<bool, Why> {
    let Some(bytes) = read_file(&root.join("package.json"))? else { return Ok(false) };
    // npm passes over a manifest above the project that it can't read.
    let Ok(manifest) = json::parse(&bytes) else { return Ok(false) };
    if manifest.get("workspaces").is_none() || !dir.join("package.json").is_file() {
        return Ok(false);
    }
    let dirs = expand(root, &manifest)?;
    Ok(dirs.iter().any(|workspace| root.join(workspace) == dir))
}

/// Reads the project at `root`.
pub(crate) fn read(root: PathBuf) -> Result<Project, Why> {
    let bytes = read_file(&root.join("package.json"))?.ok_or("there is no package.json")?;
    let manifest = Manifest { dir: String::new(), bytes };
    let json = manifest.json()?;
    let mut workspaces: Vec<Workspace> = Vec::new();
    let mut manifests = Vec::new();
    let mut linked = Vec::new();
    links_of(&json, "", &mut linked)?;
    for dir in expand(&root, &json)? {
        let Some(bytes) = read_file(&root.join(&dir).join("package.json"))? else { continue };
        let manifest = Manifest { dir, bytes };
        let json = manifest.json()?;
        let name = match json.get("name").and_then(Json::as_str) {
            Some(name) if !name.is_empty() => name.trim().to_owned(),
            _ => name_of(&manifest.dir).to_owned(),
        };
        if workspaces.iter().any(|other| other.name == name) {
            return Err(format!("two workspaces are named {name}").into());
        }
        links_of(&json, &manifest.dir, &mut linked)?;
        workspaces.push(Workspace { name, dir: manifest.dir.clone() });
        manifests.push(manifest);
    }
    drop(json);
    manifests.insert(0, manifest);

    let mut known: BTreeSet<String> =
        manifests.iter().map(|manifest| manifest.dir.clone()).collect();
    while let Some(dir) = linked.pop() {
        if !known.insert(dir.clone()) {
            continue;
        }
        if known.len() > MANIFESTS_MAX {
            return Err("the project links too many folders".into());
        }
        let bytes = read_file(&root.join(&dir).join("package.json"))?
            .ok_or_else(|| Why::new(format!("the linked folder {dir} has no package.json")))?;
        let manifest = Manifest { dir, bytes };
        links_of(&manifest.json()?, &manifest.dir, &mut linked)?;
        manifests.push(manifest);
    }
    Ok(Project { root, manifests, workspaces })
}

/// The last part of a path, with its scope.
pub(crate) fn name_of(path: &str) -> &str {
    let base = path.rfind('/').map_or(0, |at| at + 1);
    let parent = path[..base.saturating_sub(1)].rfind('/').map_or(0, |at| at + 1);
    if base > 0 && path[parent..].starts_with('@') { &path[parent..] } else { &path[base..] }
}

/// Adds the folders that a manifest's dependencies name by path.
fn links_of(manifest: &Json<'_>, dir: &str, linked: &mut Vec<String>) -> Result<(), Why> {
    for field in ["dependencies", "devDependencies", "optionalDependencies", "peerDependencies"] {
        for (_, spec) in manifest.get(field).and_then(Json::as_object).unwrap_or_default() {
            if let Some(Spec::Directory(path)) = spec.as_str().map(classify) {
                linked.push(join(dir, path)?);
            }
        }
    }
    Ok(())
}

/// Joins and normalizes a relative path.
pub(crate) fn join(dir: &str, path: &str) -> Result<String, Why> {
    if path.starts_with(['/', '~'])
        || path.contains(['\\', '\0', '%', '#', '?'])
        || !collate::exact(path)
    {
        return Err("a dependency is a folder with an unusual path".into());
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in dir.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

/// Expands the `workspaces` of a manifest to folders, in npm's order.
fn expand(root: &Path, manifest: &Json<'_>) -> Result<Vec<String>, Why> {
    let patterns = match manifest.get("workspaces") {
        None | Some(Json::Null) => return Ok(Vec::new()),
        Some(Json::List(patterns)) => patterns,
        Some(object @ Json::Object(_)) => match object.get("packages") {
            Some(Json::List(patterns)) => patterns,
            _ => return Err("`workspaces` has a form that is not understood".into()),
        },
        Some(_) => return Err("`workspaces` has a form that is not understood".into()),
    };
    let mut dirs: Vec<String> = Vec::new();
    for pattern in patterns {
        let pattern = pattern.as_str().ok_or("`workspaces` has a form that is not understood")?;
        let pattern =
            pattern.strip_prefix('.').filter(|rest| rest.starts_with('/')).unwrap_or(pattern);
        let parts: Vec<&str> = pattern.split('/').filter(|part| !part.is_empty()).collect();
        let plain = |part: &&str| {
            *part != "." && *part != ".." && !part.contains(|c| "!{}[]()?+@|\\\0".contains(c))
        };
        let scoped = |part: &&str| {
            part.strip_prefix('@').is_some_and(|rest| plain(&rest) && !rest.contains('*'))
        };
        if parts.is_empty()
            || !parts.iter().all(|part| plain(part) || scoped(part))
            || !collate::exact(pattern)
        {
            return Err(format!("the workspaces pattern `{pattern}` is not understood").into());
        }
        let mut found = Vec::new();
        walk(root, String::new(), &parts, &mut found)?;
        found.sort_by(|a, b| collate::compare(a, b));
        found.dedup();
        for dir in found {
            if !dirs.contains(&dir) {
                dirs.push(dir);
            }
        }
    }
    Ok(dirs)
}

/// Adds every folder below `dir` that the pattern's parts match.
fn walk(root: &Path, dir: String, parts: &[&str], found: &mut Vec<String>) -> Result<(), Why> {
    let Some((part, rest)) = parts.split_first() else {
        found.push(dir);
        return Ok(());
    };
    let below = |name: &str| if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") };
    if !part.contains('*') {
        let next = below(part);
        return match fs::symlink_metadata(root.join(&next)) {
            Ok(meta) if meta.is_symlink() => {
                Err(format!("the workspace {next} is a symlink").into())
            }
            Ok(meta) if meta.is_dir() && *part != "node_modules" => walk(root, next, rest, found),
            _ => Ok(()),
        };
    }
    if *part == "**" {
        walk(root, dir.clone(), rest, found)?;
    } else if part.contains("**") {
        return Err("a workspaces pattern is not understood".into());
    }
    let entries = match fs::read_dir(root.join(&dir)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(format!("the folder {dir} can't be listed ({error})").into()),
    };
    for entry in entries {
        let entry = entry
            .map_err(|error| Why::new(format!("the folder {dir} can't be listed ({error})")))?;
        let name = entry.file_name();
        let kind = entry
            .file_type()
            .map_err(|error| Why::new(format!("the folder {dir} can't be listed ({error})")))?;
        let name = name
            .to_str()
            .filter(|name| collate::exact(name))
            .ok_or("a folder's name is unusual")?;
        if name.starts_with('.')
            || name == "node_modules"
            || !(*part == "**" || matches(part, name))
        {
            continue;
        }
        if kind.is_symlink() && fs::metadata(entry.path()).is_ok_and(|meta| meta.is_dir()) {
            return Err(format!("the workspace {} is a symlink", below(name)).into());
        }
        if !kind.is_dir() {
            continue;
        }
        if found.len() > MANIFESTS_MAX {
            return Err("the project has too many workspaces".into());
        }
        walk(root, below(name), if *part == "**" { parts } else { rest }, found)?;
    }
    Ok(())
}

/// Matches a name against a pattern whose only specials are stars.
fn matches(pattern: &str, name: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut last = None;
    for piece in pieces {
        if let Some(piece) = last.replace(piece) {
            match rest.find(piece) {
                Some(at) => rest = &rest[at + piece.len()..],
                None => return false,
            }
        }
    }
    last.is_none_or(|piece| rest.ends_with(piece)) && (last.is_some() || rest.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars() {
        for (pattern, name, expected) in [
            ("*", "a", true),
            ("a*", "abc", true),
            ("a*c", "abc", true),
            ("a*c", "abd", false),
            ("*-*-x", "a-b-x", true),
            ("ab", "abc", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn paths() {
        for (dir, path, expected) in [
            ("", "./a", "a"),
            ("packages/a", "../b", "packages/b"),
            ("packages/a", "../../../x", "../x"),
            ("", "..", ".."),
            ("a", "..", ""),
        ] {
            assert_eq!(join(dir, path).unwrap(), expected);
        }
        assert!(join("", "/etc").is_err());
        for (path, name) in
            [("packages/a", "a"), ("packages/@s/a", "@s/a"), ("@s/a", "@s/a"), ("a", "a"), ("", "")]
        {
            assert_eq!(name_of(path), name);
        }
    }

    #[test]
    fn workspaces_and_links_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(
            "package.json",
            r#"{"workspaces":["packages/*","tools/cli","deep/**"],"dependencies":{"l":"file:lib"}}"#,
        );
        write("packages/b/package.json", r#"{"name":"b"}"#);
        write(
            "packages/a/package.json",
            r#"{"name":"@s/a","devDependencies":{"m":"file:../../more"}}"#,
        );
        write("packages/none/x", "");
        write("tools/cli/package.json", "{}");
        write("deep/one/two/package.json", "{}");
        write("deep/node_modules/three/package.json", "{}");
        write("lib/package.json", "{}");
        write("more/package.json", "{}");
        write("packages/a/src/x", "");
        let project = read(root.clone()).unwrap();
        let workspaces: Vec<_> =
            project.workspaces.iter().map(|w| (w.name.as_str(), w.dir.as_str())).collect();
        assert_eq!(
            workspaces,
            [
                ("@s/a", "packages/a"),
                ("b", "packages/b"),
                ("cli", "tools/cli"),
                ("two", "deep/one/two")
            ]
        );
        let dirs: BTreeSet<_> =
            project.manifests.iter().map(|manifest| manifest.dir.as_str()).collect();
        assert!(dirs.contains("lib") && dirs.contains("more") && dirs.len() == 7);
        assert_eq!(find_root(&root.join("deep")).unwrap(), root.join("deep"));
        assert_eq!(find_root(&root.join("more")).unwrap(), root.join("more"));
        assert!(
            find_root(&root.join("packages/a/src"))
                .unwrap_err()
                .to_string()
                .starts_with("the folder is a workspace")
        );
        assert_eq!(find_root(&root.join("packages")).unwrap(), root);
    }
}
