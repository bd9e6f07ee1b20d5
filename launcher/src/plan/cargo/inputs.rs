//! What rustc and build scripts say that they have read.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::project::Project;
use super::snapshot::{FINGERPRINTS, files_in, folders_in};
use super::sources::Sources;
use crate::actions::watch::{is_record_of, unit_of_crate};
use crate::paths::{escaped, normal};

/// What rustc and build scripts say that they have read.
pub(super) struct Inputs<'p> {
    project: &'p Project,
    sources: &'p Sources,
    packages: Vec<PathBuf>,
    /// The names of cargo's records in the folder that is looked at.
    records: Vec<String>,
    /// Files that are no sources, nor among what cargo and rustup keep as it is.
    pub(super) outside: BTreeSet<PathBuf>,
    /// Sources that cargo knows of.
    pub(super) tracked: BTreeSet<String>,
    /// Records of what holds the place of the workspace.
    pub(super) pinned: BTreeSet<String>,
}

impl<'p> Inputs<'p> {
    pub(super) fn new(project: &'p Project, sources: &'p Sources) -> Self {
        let packages = sources.packages().collect();
        let (outside, tracked, pinned) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        Self { project, sources, packages, records: Vec::new(), outside, tracked, pinned }
    }

    /// Looks through a folder of `target`.
    pub(super) fn look_at(&mut self, folder: &str) -> anyhow::Result<()> {
        let place = self.project.target.join(folder);
        let name = |unit: PathBuf| Some(unit.file_name()?.to_str()?.to_owned());
        self.records =
            folders_in(&place.join(FINGERPRINTS))?.into_iter().filter_map(name).collect();
        for file in files_in(&place.join("deps"))? {
            if file.extension().is_some_and(|extension| extension == "d") {
                self.look_at_unit(folder, &file)?;
            }
        }
        for script in folders_in(&place.join("build"))? {
            let Ok(text) = fs::read(script.join("output")) else { continue };
            for line in text.split(|byte| *byte == b'\n') {
                let path = line
                    .strip_prefix(b"cargo:rerun-if-changed=")
                    .or_else(|| line.strip_prefix(b"cargo::rerun-if-changed="));
                if let Some(path) = path {
                    let path = Path::new(OsStr::from_bytes(path));
                    // Below the folder of its package, whichever that is.
                    let packages = self.packages.clone();
                    packages.iter().for_each(|package| self.note(&package.join(path)));
                }
            }
        }
        Ok(())
    }

    /// Looks through what rustc says of one crate.
    fn look_at_unit(&mut self, folder: &str, file: &Path) -> anyhow::Result<()> {
        let root = self.project.root.as_os_str().as_bytes();
        for line in fs::read(file)?.split(|byte| *byte == b'\n') {
            if let Some(value) = line.strip_prefix(b"# env-dep:") {
                let holds = value.windows(root.len()).any(|bytes| bytes == root);
                let unit = file.file_stem().and_then(|stem| stem.to_str());
                let unit = unit.filter(|_| holds).and_then(|unit| unit.rsplit_once('-'));
                if let Some((_, hash)) = unit {
                    // A package may be called otherwise than its crate.
                    let unit = unit_of_crate(hash);
                    let records = self.records.iter().filter(|record| is_record_of(record, &unit));
                    let named = records.map(|record| format!("{folder}/{FINGERPRINTS}/{record}"));
                    self.pinned.extend(named);
                }
            } else if let Some(path) = line.strip_suffix(b":") {
                // Each input has a line of its own, with nothing behind the colon; spaces have a backslash before them.
                let path = String::from_utf8_lossy(path).replace("\\ ", " ");
                self.note(Path::new(&path));
            }
        }
        Ok(())
    }

    /// Notes a file that was read; a relative path is one below the root.
    fn note(&mut self, path: &Path) {
        let path = normal(&self.project.root.join(path)).into_owned();
        let home = super::home();
        let is_below = |folder: &Path| path.starts_with(folder);
        let is_kept = home
            .is_some_and(|home| is_below(&home.join("registry")) || is_below(&home.join("git")));
        if is_kept || is_below(&self.project.target) || is_below(&self.project.sysroot) {
            return;
        }
        match path.strip_prefix(&self.project.root) {
            Ok(below) if self.sources.has(below) => {
                self.tracked.insert(escaped(below));
            }
            _ if path.is_file() => {
                self.outside.insert(path);
            }
            _ => {}
        }
    }
}
