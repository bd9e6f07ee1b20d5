//! Small npm projects cut out of the fixtures, for tests that need many of them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::fixture::{Fixture, edit_json, registry};
use crate::sandbox::Sandbox;

/// Makes `folder` a project with `react` and what it needs: three packages, two of them with a `bin` link between them.
///
/// # Errors
/// When files cannot be written or npm does not answer.
pub fn prepare_mini(folder: &Path) -> Result<()> {
    Fixture::Small.prepare(folder)?;
    let whole: Value = serde_json::from_slice(&fs::read(folder.join("package-lock.json"))?)?;
    let mut packages = json!({
        "": {"name": "fx-mini", "version": "1.0.0", "dependencies": {"react": "^18.3.1"}}
    });
    for name in ["node_modules/react", "node_modules/loose-envify", "node_modules/js-tokens"] {
        let mut entry = whole["packages"]
            .get(name)
            .with_context(|| format!("the fixture lacks {name}"))?
            .clone();
        if let Some(fields) = entry.as_object_mut() {
            fields.remove("dev");
        }
        packages[name] = entry;
    }
    let lock = json!({"name": "fx-mini", "version": "1.0.0", "lockfileVersion": 3, "requires": true, "packages": packages});
    let manifest = json!({"name": "fx-mini", "version": "1.0.0", "private": true, "dependencies": {"react": "^18.3.1"}});
    fs::write(folder.join("package-lock.json"), format!("{lock:#}\n"))?;
    fs::write(folder.join("package.json"), format!("{manifest:#}\n"))?;
    Ok(())
}

/// Adds a package of our own to a project: to its lockfile, its manifest and the npm cache of the sandbox, where npm
/// and rift find it by its integrity. `manifest` is its package.json without the name and the version.
///
/// # Errors
/// When npm can't pack it, or files cannot be written.
pub fn add_package(
    sandbox: &Sandbox,
    project: &Path,
    name: &str,
    manifest: Value,
    files: &[(&str, &str)],
) -> Result<()> {
    let source = sandbox.path("packages").join(name);
    if !source.exists() {
        fs::create_dir_all(&source)?;
        let mut whole = json!({"name": name, "version": "1.0.0"});
        if let (Some(whole), Value::Object(fields)) = (whole.as_object_mut(), manifest.clone()) {
            whole.extend(fields);
        }
        fs::write(source.join("package.json"), format!("{whole:#}\n"))?;
        for (path, text) in files {
            fs::write(source.join(path), text)?;
        }
        sandbox.run(&mut sandbox.npm(&source, &["pack", "--ignore-scripts"]))?.success()?;
        let archive = format!("{name}-1.0.0.tgz");
        sandbox
            .run(&mut sandbox.npm(&source, &["cache", "add", &format!("./{archive}")]))?
            .success()?;
    }
    let packed = ["pack", "--dry-run", "--json", &format!("./{name}-1.0.0.tgz")];
    let said = sandbox.run(&mut sandbox.npm(&source, &packed))?.success()?.stdout;
    let said: Value = serde_json::from_str(&said)?;
    let integrity = said[0]["integrity"].as_str().context("npm pack names no integrity")?;
    let resolved = format!("{}{name}/-/{name}-1.0.0.tgz", registry()?);
    let mut entry = json!({"version": "1.0.0", "resolved": resolved, "integrity": integrity});
    if manifest.get("scripts").is_some() {
        entry["hasInstallScript"] = true.into();
    }
    for field in ["bin", "dependencies"] {
        if let Some(value) = manifest.get(field) {
            entry[field] = value.clone();
        }
    }
    edit_json(&project.join("package-lock.json"), |lock| {
        lock["packages"][""]["dependencies"][name] = "1.0.0".into();
        lock["packages"][format!("node_modules/{name}")] = entry;
        Ok(())
    })?;
    edit_json(&project.join("package.json"), |project| {
        project["dependencies"][name] = "1.0.0".into();
        Ok(())
    })
}

/// Makes `folder` the project of [`prepare_mini`] with one package more, `large-NAME`, of about so many bytes that no
/// other name has.
///
/// # Errors
/// As [`add_package`].
pub fn prepare_large(sandbox: &Sandbox, folder: &Path, name: &str, bytes: usize) -> Result<()> {
    prepare_mini(folder)?;
    let mut dice =
        crate::fault::Dice::new(name.bytes().fold(7, |seed, byte| seed * 31 + u64::from(byte)));
    let line = |_| format!("{:016x}{:016x}\n", dice.below(u64::MAX), dice.below(u64::MAX));
    let text: String = (0..bytes / 33).map(line).collect();
    let name = format!("large-{name}");
    add_package(sandbox, folder, &name, json!({}), &[("noise.txt", &text)])
}
