//! What npm does to a package's commands when it links them, and what else its package.json says.
//!
//! npm makes the file behind each command executable for all and rewrites a first line `#!…` that ends
//! in CRLF. That depends on the package alone, so it is done once, when the package comes in. Packages
//! bundled in its own `node_modules` are treated as it is.

use std::collections::{BTreeMap, HashMap};

use rift_cas::import::Unit;
use serde_json::Value;

use super::error::{PackageError, Result};
use super::facts::{Bin, Original, PackageFacts};
use super::layout::{File, Layout};

/// npm looks for the first line in this many bytes.
const SHEBANG_BYTES: usize = 2048;
/// Packages bundled in bundled packages, and so on: no deeper than this.
const BUNDLE_DEPTH_MAX: usize = 64;

/// Tells whether a file's content says what commands a package has.
pub(super) fn is_manifest(path: &str) -> bool {
    path == "package.json"
        || path.starts_with("node_modules/")
            && path.ends_with("/package.json")
            && !path.trim_end_matches("/package.json").ends_with("/node_modules")
}

/// Tells whether a file that begins so starts with `#!` and a line that ends in CRLF; `None` when more
/// of it must be seen.
pub(in crate::plan::npm) fn crlf_shebang(beginning: &[u8]) -> Option<bool> {
    let seen = &beginning[..beginning.len().min(SHEBANG_BYTES)];
    if !b"#!".starts_with(&seen[..seen.len().min(2)]) {
        return Some(false);
    }
    match seen.iter().position(|byte| *byte == b'\n') {
        Some(end) => Some(end >= 4 && seen[end - 1] == b'\r'),
        None if seen.len() == SHEBANG_BYTES => Some(false),
        None => None,
    }
}

/// Returns a file for which [`crlf_shebang`] holds as npm rewrites it.
///
/// npm reads and writes it as text, so bytes that are not UTF-8 become U+FFFD.
pub(in crate::plan::npm) fn with_unix_shebang(content: &[u8]) -> String {
    String::from_utf8_lossy(content).replacen("\r\n", "\n", 1)
}

/// Does to the files of `layout` what npm does, and gathers the facts.
pub(super) fn apply(
    layout: &mut Layout,
    kept: &HashMap<String, Vec<u8>>,
    unit: &mut Unit<'_>,
) -> Result<PackageFacts> {
    let mut facts = PackageFacts {
        has_binding_gyp: layout.file("binding.gyp").is_some(),
        has_shrinkwrap: layout.file("npm-shrinkwrap.json").is_some(),
        has_node_modules: layout.files().any(|path| path.starts_with("node_modules/")),
        ..PackageFacts::default()
    };
    if let Some(manifest) = manifest(kept, "") {
        facts.has_manifest = true;
        facts.name = text(&manifest, "name");
        facts.version = text(&manifest, "version");
        facts.is_gyp_off = manifest.get("gypfile") == Some(&Value::Bool(false));
        facts.scripts = scripts(&manifest);
        facts.bundled = bundled(&manifest);
        facts.bins = bins(&manifest, "", layout);
        let mut originals = fix(&facts.bins, "", layout, kept, unit)?;
        fix_bundled(&facts.bundled, "", layout, kept, unit, &mut originals, 0)?;
        facts.originals = originals;
    }
    Ok(facts)
}

/// Treats the packages that are bundled at `root`, with all those that lie in them.
fn fix_bundled(
    bundled: &[String],
    root: &str,
    layout: &mut Layout,
    kept: &HashMap<String, Vec<u8>>,
    unit: &mut Unit<'_>,
    originals: &mut Vec<Original>,
    depth: usize,
) -> Result<()> {
    if bundled.is_empty() || depth > BUNDLE_DEPTH_MAX {
        return Ok(());
    }
    // Once something is bundled, npm takes every package that it finds below `node_modules`.
    let below = format!("{root}node_modules/");
    let mut packages: Vec<String> = Vec::new();
    for path in kept.keys() {
        let Some(rest) = path.strip_prefix(&below).and_then(|it| it.strip_suffix("/package.json"))
        else {
            continue;
        };
        let slashes = rest.matches('/').count();
        if slashes == usize::from(rest.starts_with('@')) && !rest.starts_with('.') {
            packages.push(rest.to_owned());
        }
    }
    for package in packages {
        let at = format!("{below}{package}/");
        if let Some(manifest) = manifest(kept, &at) {
            originals.extend(fix(&bins(&manifest, &at, layout), &at, layout, kept, unit)?);
            fix_bundled(bundled, &at, layout, kept, unit, originals, depth + 1)?;
        }
    }
    Ok(())
}

/// Makes the files behind commands executable and mends their first lines; returns how those that
/// this changed were before.
fn fix(
    bins: &[Bin],
    root: &str,
    layout: &mut Layout,
    kept: &HashMap<String, Vec<u8>>,
    unit: &mut Unit<'_>,
) -> Result<Vec<Original>> {
    let mut originals: Vec<Original> = Vec::new();
    for bin in bins {
        let path = format!("{root}{}", bin.target);
        let Some(before) = layout.file(&path) else {
            continue;
        };
        let mut file = File { permissions: 0o777, ..before };
        if let Some(content) = kept.get(&path)
            && crlf_shebang(content) == Some(true)
        {
            let fixed = with_unix_shebang(content);
            let hash = unit.add(fixed.as_bytes())?;
            file = File { size: fixed.len() as u64, hash, ..file };
        }
        let is_changed = file.permissions != before.permissions || file.hash != before.hash;
        // Two commands may share a file: the first one finds it as it was.
        if is_changed && originals.iter().all(|original| original.path != path) {
            let File { permissions, size, hash } = before;
            originals.push(Original { path: path.clone(), permissions, size, hash });
        }
        layout.set_file(&path, file);
    }
    Ok(originals)
}

/// Reads a package.json as npm does; `None` when it is missing or no JSON object.
fn manifest(kept: &HashMap<String, Vec<u8>>, root: &str) -> Option<Value> {
    let content = String::from_utf8_lossy(kept.get(&format!("{root}package.json"))?);
    let content = content.strip_prefix('\u{feff}').unwrap_or(&content);
    serde_json::from_str(content).ok().filter(Value::is_object)
}

fn text(manifest: &Value, key: &str) -> String {
    manifest.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn scripts(manifest: &Value) -> Vec<String> {
    let scripts = manifest.get("scripts").and_then(Value::as_object);
    let names = scripts.into_iter().flatten().filter(|(_, script)| script.is_string());
    names.map(|(name, _)| name.clone()).collect()
}

fn bundled(manifest: &Value) -> Vec<String> {
    let given = manifest.get("bundleDependencies").or_else(|| manifest.get("bundledDependencies"));
    let keys = |value: Option<&Value>| {
        let object = value.and_then(Value::as_object);
        object.into_iter().flat_map(|object| object.keys().cloned()).collect()
    };
    match given {
        Some(Value::Bool(true)) => keys(manifest.get("dependencies")),
        Some(Value::Array(names)) => {
            names.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect()
        }
        other => keys(other),
    }
}

/// Returns a package's commands, in order of their names.
fn bins(manifest: &Value, root: &str, layout: &Layout) -> Vec<Bin> {
    let mut found = BTreeMap::new();
    let mut add = |name: &str, target: &str| {
        let name = name.replace(['\\', ':'], "/");
        let name = normalize(name.trim_end_matches('/').rsplit('/').next().unwrap_or_default());
        let target = normalize(&target.replace('\\', "/"));
        if !name.is_empty() && !target.is_empty() {
            found.insert(name, target);
        }
    };
    match manifest.get("bin") {
        Some(Value::String(target)) if !target.is_empty() => add(&text(manifest, "name"), target),
        Some(Value::Array(targets)) => {
            for target in targets.iter().filter_map(Value::as_str) {
                add(target, target);
            }
        }
        Some(Value::Object(targets)) => {
            for (name, target) in targets {
                if let Some(target) = target.as_str() {
                    add(name, target);
                }
            }
        }
        Some(Value::Null | Value::Bool(false)) | None => {
            let folder = manifest.get("directories").and_then(|it| it.get("bin"));
            if let Some(folder) = folder.and_then(Value::as_str).filter(|it| !it.is_empty()) {
                let folder = normalize(&folder.replace('\\', "/"));
                let below = format!("{root}{folder}/");
                for path in layout.files() {
                    if let Some(file) = path.strip_prefix(&below)
                        && !file.split('/').any(|name| name.starts_with('.'))
                    {
                        add(file, &format!("{folder}/{file}"));
                    }
                }
            }
        }
        Some(_) => {}
    }
    found.into_iter().map(|(name, target)| Bin { name, target }).collect()
}

/// Resolves `.` and `..` as if the path began at the root of everything.
pub(crate) fn normalize(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

/// Refuses facts that no record can hold.
pub(super) fn too_many() -> PackageError {
    PackageError::TooLarge("its package.json names too many commands and scripts")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_lines_are_judged_as_npm_judges_them() {
        for (beginning, verdict) in [
            (&b""[..], None),
            (b"#", None),
            (b"#!", None),
            (b"a", Some(false)),
            (b"#a", Some(false)),
            (b"#!\r\n", Some(false)),
            (b"#!x\r\n", Some(true)),
            (b"#!x\n\r\n", Some(false)),
            (b"#!/usr/bin/env node\r", None),
            (b"#!/usr/bin/env node\r\r\nx", Some(true)),
        ] {
            assert_eq!(crlf_shebang(beginning), verdict, "{}", beginning.escape_ascii());
        }
        let long = [b"#!".to_vec(), vec![b'x'; 2044], b"\r\n".to_vec()].concat();
        assert_eq!(crlf_shebang(&long), Some(true));
        let longer = [b"#!".to_vec(), vec![b'x'; 2045], b"\r\n".to_vec()].concat();
        assert_eq!(crlf_shebang(&longer), Some(false));
    }

    #[test]
    fn commands_are_named_as_npm_names_them() {
        let of = |json: &str| {
            let manifest = serde_json::from_str(json).unwrap();
            let found = bins(&manifest, "", &Layout::default());
            found.into_iter().map(|bin| (bin.name, bin.target)).collect::<Vec<_>>()
        };
        let pair = |name: &str, target: &str| vec![(name.to_owned(), target.to_owned())];
        assert_eq!(of(r#"{"name":"@s/n","bin":"./cli.js"}"#), pair("n", "cli.js"));
        assert_eq!(of(r#"{"bin":"./cli.js"}"#), []);
        assert_eq!(of(r#"{"bin":{"a/b":"../../x/y.js"}}"#), pair("b", "x/y.js"));
        assert_eq!(of(r#"{"bin":{"c:\\d":"x\\y.js"}}"#), pair("d", "x/y.js"));
        assert_eq!(of(r#"{"bin":["./x/y.js"]}"#), pair("y.js", "x/y.js"));
        assert_eq!(of(r#"{"bin":{"..":"x","a":1,"b":""}}"#), []);
    }
}
