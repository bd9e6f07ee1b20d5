//! What is downloaded and installed once and then shared by all tests of all processes.
//!
//! ```text
//! target/rift-tests/warm/<key>/{npm, project, done}     key: fixture, scripts, lockfile, node and npm
//! ```
//! `npm` is a warm cache of npm's own, `project` the fixture as real npm installs it. Invariant: nobody changes either;
//! a test works on copies. Whoever comes first makes them, the others wait at a lock; `done` is written last.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::fixture::Fixture;
use crate::sandbox::Sandbox;

/// Whether install scripts ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scripts {
    /// `npm ci`.
    On,
    /// `npm ci --ignore-scripts`.
    Off,
}

impl Scripts {
    /// Returns the words of the command line after `npm`.
    #[must_use]
    pub fn install(self) -> &'static [&'static str] {
        match self {
            Self::On => &["ci"],
            Self::Off => &["ci", "--ignore-scripts"],
        }
    }
}

/// A fixture that npm has installed.
#[derive(Debug)]
pub struct Warm {
    folder: PathBuf,
}

impl Warm {
    /// Returns the shared installation, after making it where it is missing.
    ///
    /// # Errors
    /// When npm fails; and when it is missing in a test that runs again as another user, who can't make what all share.
    pub fn of(fixture: Fixture, scripts: Scripts) -> Result<Self> {
        let shared = crate::target_folder()?.join("warm");
        let folder = folder_of(fixture, scripts, &shared)?;
        if folder.join("done").exists() {
            return Ok(Self { folder });
        }
        anyhow::ensure!(
            !crate::again::is_again(),
            "{} has to be made before a test runs again as another user",
            folder.display()
        );
        fs::create_dir_all(&shared)?;
        let lock = File::create(shared.join("lock"))?;
        lock.lock()?;
        if !folder.join("done").exists() {
            crate::sandbox::clear(&folder)?;
            fs::create_dir_all(&folder)?;
            let sandbox = Sandbox::new("warm")?;
            let cached = match scripts {
                // One download serves both.
                Scripts::On => Some(folder_of(fixture, Scripts::Off, &shared)?)
                    .filter(|off| off.join("done").exists()),
                Scripts::Off => None,
            };
            if let Some(other) = cached {
                copy_npm_cache(&other.join("npm"), &sandbox.home().join(".npm"))?;
            }
            let project = folder.join("project");
            fixture.prepare(&project)?;
            sandbox.run(&mut sandbox.npm(&project, scripts.install()))?.success()?;
            fs::rename(sandbox.home().join(".npm"), folder.join("npm"))?;
            File::create(folder.join("done"))?.sync_all()?;
        }
        Ok(Self { folder })
    }

    /// Returns the project as npm installed it; only to be read.
    #[must_use]
    pub fn project(&self) -> PathBuf {
        self.folder.join("project")
    }

    /// Returns its `node_modules`; only to be read.
    #[must_use]
    pub fn node_modules(&self) -> PathBuf {
        self.folder.join("project/node_modules")
    }

    /// Gives a sandbox a warm npm cache of its own.
    ///
    /// # Errors
    /// When files cannot be made.
    pub fn fill_npm_cache(&self, sandbox: &Sandbox) -> Result<()> {
        copy_npm_cache(&self.folder.join("npm"), &sandbox.home().join(".npm"))
    }
}

fn folder_of(fixture: Fixture, scripts: Scripts, shared: &Path) -> Result<PathBuf> {
    Ok(shared.join(key(fixture, scripts)?))
}

/// What the result depends on; npm and node are named by the file that would run.
fn key(fixture: Fixture, scripts: Scripts) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    fs::read(fixture.source().join("package-lock.json"))?.hash(&mut hasher);
    for tool in ["node", "npm"] {
        let path = crate::need::find_in_path(tool)
            .with_context(|| format!("the tests need {tool} in PATH"))?;
        let metadata = fs::metadata(&path)?;
        (path, metadata.len(), metadata.mtime(), metadata.ino()).hash(&mut hasher);
    }
    let scripts = if scripts == Scripts::On { "scripts" } else { "plain" };
    Ok(format!("{}-{scripts}-{:016x}", fixture.name(), hasher.finish()))
}

/// Copies npm's content-addressed cache: immutable contents as hard links, the index, which npm appends to, as files.
fn copy_npm_cache(from: &Path, to: &Path) -> Result<()> {
    let (from, to) = (from.join("_cacache"), to.join("_cacache"));
    fs::create_dir_all(&to)?;
    // Others than the owner of the files may not link to them.
    let link = if crate::again::is_again() { "-a" } else { "-al" };
    for (name, how) in [("content-v2", link), ("index-v5", "-a")] {
        let status =
            Command::new("cp").arg(how).arg(from.join(name)).arg(to.join(name)).status()?;
        anyhow::ensure!(status.success(), "could not copy npm's cache {}", from.display());
    }
    Ok(())
}
