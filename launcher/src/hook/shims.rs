//! A folder of shims, for editors and CI: small scripts named like the tools, put first on PATH.
//!
//! ```text
//! DIR/.rift-shims   marks the folder: it holds shims and nothing else
//! DIR/npm           takes marked folders out of PATH and becomes `rift exec -- npm`, or the next npm on PATH
//! ```
//! Invariant: no shim starts a shim. One takes every marked folder out of PATH for what it starts; a `rift exec` that
//! somebody typed passes marked folders over, see [`is_shims`]; and a copy of a shim in another folder runs the tool
//! alone.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};

use super::{TOOLS, fill, program, quoted};
use crate::env_vars;
use crate::hint::Hint as _;

/// The name of the file that marks a folder of shims.
const MARK: &str = ".rift-shims";
const MARK_TEXT: &[u8] =
    b"Shims of Velo Rift and nothing else; `rift unhook --shims` removes this folder.\n";
const SHIM: &str = include_str!("shim.sh");
/// How the second line of each shim begins.
const SHIM_LINE: &str = "# A shim of Velo Rift:";

/// Tells whether a folder is one of shims.
#[must_use]
pub fn is_shims(folder: &Path) -> bool {
    folder.join(MARK).is_file()
}

/// Where shims are on PATH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OnPath {
    /// Before the tools.
    First(PathBuf),
    /// After a tool, whose path this is.
    After(PathBuf, PathBuf),
}

/// Looks for shims on PATH.
#[must_use]
pub fn on_path() -> Option<OnPath> {
    let path = std::env::var_os(env_vars::PATH)?;
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let at = folders.iter().position(|folder| is_shims(folder))?;
    let mut tools =
        folders[..at].iter().flat_map(|folder| TOOLS.map(|(tool, _)| folder.join(tool)));
    let earlier = tools.find(|tool| tool.is_file());
    let shims = folders[at].clone();
    Some(match earlier {
        None => OnPath::First(shims),
        Some(tool) => OnPath::After(shims, tool),
    })
}

/// Makes a folder of shims, or brings one up to date; files that are right are not touched.
///
/// # Errors
/// The folder holds something else, or what the system says.
pub fn install(folder: &Path) -> anyhow::Result<()> {
    let written = || format!("could not make shims in `{}`", folder.display());
    let foreign = match is_shims(folder) {
        true => foreign_tools(folder).with_context(written)?.into_iter().next(),
        false => first_entry(folder).with_context(written)?,
    };
    if let Some(name) = foreign {
        let (folder, name) = (folder.display(), name.display());
        let refused: anyhow::Result<()> =
            Err(anyhow!("`{folder}` holds `{name}`, which is no shim of rift's"));
        return refused.hint("name a folder for shims alone: it is taken out of PATH as a whole");
    }
    fs::create_dir_all(folder).with_context(written)?;
    let rift = quoted(program()?.as_os_str());
    put(&folder.join(MARK), MARK_TEXT, 0o644).with_context(written)?;
    for (tool, _) in TOOLS {
        let fields =
            [("@TOOL@", OsStr::new(tool)), ("@MARK@", OsStr::new(MARK)), ("@RIFT@", &rift)];
        put(&folder.join(tool), &fill(SHIM, &fields), 0o755).with_context(written)?;
    }
    Ok(())
}

/// Removes a folder of shims; what is not rift's stays, and so does a folder that was never marked.
///
/// # Errors
/// What the system says.
pub fn remove(folder: &Path) -> anyhow::Result<()> {
    let removed = || format!("could not remove the shims in `{}`", folder.display());
    if !is_shims(folder) {
        return Ok(());
    }
    for entry in fs::read_dir(folder).with_context(removed)? {
        let path = entry.with_context(removed)?.path();
        if is_shim(&path).with_context(removed)? {
            fs::remove_file(&path).with_context(removed)?;
        }
    }
    fs::remove_file(folder.join(MARK)).with_context(removed)?;
    match fs::remove_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        other => other.with_context(removed),
    }
}

/// Returns one name in a folder, if there is any; a folder that is not there has none.
fn first_entry(folder: &Path) -> io::Result<Option<OsString>> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        entries => Ok(entries?.next().transpose()?.map(|entry| entry.file_name())),
    }
}

/// Returns the names of tools in a marked folder that are no shims.
fn foreign_tools(folder: &Path) -> io::Result<Vec<OsString>> {
    let mut foreign = Vec::new();
    for (tool, _) in TOOLS {
        let path = folder.join(tool);
        if path.symlink_metadata().is_ok() && !is_shim(&path)? {
            foreign.push(tool.into());
        }
    }
    Ok(foreign)
}

/// Tells whether a file is a shim, by its second line.
fn is_shim(path: &Path) -> io::Result<bool> {
    if !path.symlink_metadata()?.is_file() {
        return Ok(false);
    }
    let text = fs::read(path)?;
    let line = text.split(|byte| *byte == b'\n').nth(1).unwrap_or_default();
    Ok(line.starts_with(SHIM_LINE.as_bytes()))
}

/// Writes a file as a whole: a shell reads a script while it runs it.
fn put(path: &Path, text: &[u8], mode: u32) -> io::Result<()> {
    if fs::read(path).is_ok_and(|there| there == text) {
        return Ok(());
    }
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}", std::process::id()));
    let temporary = path.with_file_name(name);
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
    file.write_all(text)?;
    drop(file);
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shim_says_what_it_is_where_it_is_looked_for() {
        let line = SHIM.lines().nth(1).unwrap();
        assert!(line.starts_with(SHIM_LINE), "{line}");
        assert!(SHIM.contains(&format!("'{SHIM_LINE}'*)")), "the shim knows others by it");
    }
}
