//! bun and pnpm, from the npm registry by name, of pinned versions, run as native programs without node in front.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use rift_tests::sandbox::Sandbox;

const BUN: &str = "bun@1.4.5";
const PNPM: &str = "pnpm@12.21.0";

/// The programs.
pub(crate) struct Peers {
    pub(crate) bun: PathBuf,
    pub(crate) pnpm: PathBuf,
    /// What they and npm say of their versions.
    pub(crate) versions: String,
}

impl Peers {
    /// Installs them into the sandbox.
    pub(crate) fn install(sandbox: &Sandbox) -> Result<Self> {
        let folder = sandbox.path("peers");
        fs::create_dir(&folder)?;
        fs::write(folder.join("package.json"), "{}")?;
        let words = ["install", "--ignore-scripts", "--save-exact", BUN, PNPM];
        sandbox.run(&mut sandbox.npm(&folder, &words))?.success()?;
        let modules = folder.join("node_modules");
        let bun = native(sandbox, &modules.join("@oven"), "bin/bun")
            .context("no bun of this platform")?;
        let pnpm =
            native(sandbox, &modules.join("@pnpm"), "pnpm").context("no pnpm of this platform")?;
        let versions = versions(
            sandbox,
            &[
                ("npm", Path::new("npm")),
                ("node", Path::new("node")),
                ("bun", &bun),
                ("pnpm", &pnpm),
            ],
        )?;
        Ok(Self { bun, pnpm, versions })
    }
}

/// Returns what programs say of their versions: the first word that begins as one.
pub(crate) fn versions(sandbox: &Sandbox, programs: &[(&str, &Path)]) -> Result<String> {
    let one = |(name, program): &(&str, &Path)| -> Result<String> {
        let mut command = sandbox.command(&sandbox.path(""), program);
        let said = sandbox.run(command.arg("--version"))?.success()?.stdout;
        let begins = |word: &&str| word.trim_start_matches('v').starts_with(char::is_numeric);
        let version = said.split_whitespace().find(begins);
        Ok(format!("{name} {}", version.unwrap_or("?")))
    };
    Ok(programs.iter().map(one).collect::<Result<Vec<_>>>()?.join(", "))
}

/// Returns the first of a scope's packages whose program runs here.
fn native(sandbox: &Sandbox, scope: &Path, inside: &str) -> Option<PathBuf> {
    let mut packages: Vec<_> =
        fs::read_dir(scope).ok()?.flatten().map(|entry| entry.path().join(inside)).collect();
    // `bun-linux-x64` before its `-baseline` and `-musl` variants.
    packages.sort();
    let runs = |path: &PathBuf| {
        let mut command: Command = sandbox.command(scope, path);
        path.is_file()
            && sandbox.run(command.arg("--version")).is_ok_and(|ran| ran.status.success())
    };
    packages.into_iter().find(runs)
}
