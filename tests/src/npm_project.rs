//! Small npm projects cut out of the fixtures, for tests that need many of them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::fixture::Fixture;

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
