//! Which npm and which Node would run, found without starting either.
//!
//! Invariant: a version is only reported when a file says it. [`super::read`] calls [`find`] once.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use super::env::Env;
use super::why::Why;
use crate::hook::shims;

/// The npm and the Node that a command line would start.
#[derive(Clone, Debug)]
pub struct Tool {
    /// npm's own folder.
    pub npm_dir: PathBuf,
    /// npm's version.
    pub npm_version: String,
    /// Node's executable, links resolved (`process.execPath`).
    pub node: PathBuf,
    /// Node's version, without a leading `v`.
    pub node_version: String,
    /// `process.platform`
    pub platform: &'static str,
    /// `process.arch`
    pub arch: &'static str,
    /// `glibc` or `musl`; nothing where npm finds neither.
    pub libc: Option<&'static str>,
}

/// Finds npm and Node on `PATH`.
pub(crate) fn find(env: &Env) -> Result<Tool, Why> {
    let path = env.get("PATH").ok_or("`PATH` is not set")?;
    let node = on_path(path, "node").ok_or("no `node` is on `PATH`")?;
    let header = Header::read(&node);
    let npm_dir = on_path(path, "npm")
        .and_then(|npm| npm_folder(&npm))
        .or_else(|| npm_folder(&fs::canonicalize(node.parent()?.join("npm")).ok()?))
        .ok_or("npm's own folder was not found")?;
    let npm_version = npm_version(&npm_dir).ok_or("npm's version was not found")?;
    let header = header.ok_or("`node` on `PATH` is a script that picks a version")?;
    let node_version = version_by_header(&node)
        .or_else(|| version_by_path(&node))
        .or_else(|| version_by_asking(&node))
        .ok_or("Node's version was not found")?;
    let platform = match std::env::consts::OS {
        "linux" => "linux",
        "macos" => "darwin",
        _ => return Err("this platform is not supported".into()),
    };
    let libc = if platform == "linux" { libc(header.musl) } else { None };
    Ok(Tool { npm_dir, npm_version, node, node_version, platform, arch: header.arch, libc })
}

impl Tool {
    /// Asks npm for the registry it uses when none is set. Starts npm; only a download needs it.
    pub fn default_registry(&self) -> anyhow::Result<String> {
        let output = Command::new(&self.node)
            .arg(self.npm_dir.join("bin/npm-cli.js"))
            .args(["config", "get", "registry"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .context("could not ask npm for its registry")?;
        let registry = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if !output.status.success() || registry.is_empty() {
            bail!("npm did not name its registry");
        }
        Ok(registry)
    }
}

/// Returns the first executable of this name that is no shim of rift's, links resolved.
fn on_path(path: &OsStr, name: &str) -> Option<PathBuf> {
    std::env::split_paths(path).filter(|folder| folder.is_absolute()).find_map(|folder| {
        let file = folder.join(name);
        rustix::fs::access(&file, rustix::fs::Access::EXEC_OK).ok()?;
        fs::metadata(&file).ok().filter(fs::Metadata::is_file)?;
        fs::canonicalize(file).ok().filter(|_| !shims::is_shims(&folder))
    })
}

/// `…/npm/bin/npm-cli.js` → `…/npm`
fn npm_folder(npm: &Path) -> Option<PathBuf> {
    let bin = npm.parent().filter(|_| npm.file_name() == Some(OsStr::new("npm-cli.js")))?;
    Some(bin.parent()?.to_owned())
}

fn npm_version(npm_dir: &Path) -> Option<String> {
    let bytes = fs::read(npm_dir.join("package.json")).ok()?;
    let manifest: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
    (manifest.get("name")? == "npm").then(|| Some(manifest.get("version")?.as_str()?.to_owned()))?
}

/// Distributions put Node's headers beside its `bin`.
fn version_by_header(node: &Path) -> Option<String> {
    let prefix = node.parent()?.parent()?;
    let text = fs::read_to_string(prefix.join("include/node/node_version.h")).ok()?;
    let define = |name: &str| {
        let line = text.lines().find_map(|line| {
            line.strip_prefix("#define ")?.strip_prefix(name)?.strip_prefix(' ')
        })?;
        line.trim().parse::<u32>().ok()
    };
    // A nightly or release candidate has a tag besides its numbers.
    let release = define("NODE_VERSION_IS_RELEASE")? == 1;
    let numbers = (
        define("NODE_MAJOR_VERSION")?,
        define("NODE_MINOR_VERSION")?,
        define("NODE_PATCH_VERSION")?,
    );
    release.then(|| format!("{}.{}.{}", numbers.0, numbers.1, numbers.2))
}

/// Version managers put each Node into a folder named after its version.
fn version_by_path(node: &Path) -> Option<String> {
    node.iter().rev().skip(1).find_map(|part| {
        let part = part.to_str()?;
        let numbers = part.strip_prefix("node-").unwrap_or(part);
        let numbers = numbers.strip_prefix('v').unwrap_or(numbers);
        let plain = numbers.split('.').count() == 3
            && numbers.split('.').all(|number| number.parse::<u32>().is_ok());
        plain.then(|| numbers.to_owned())
    })
}

fn version_by_asking(node: &Path) -> Option<String> {
    let output = Command::new(node)
        .arg("--version")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim().strip_prefix('v')?.to_owned()).filter(|_| output.status.success())
}

/// What an executable's header says.
struct Header {
    arch: &'static str,
    musl: bool,
}

impl Header {
    fn read(file: &Path) -> Option<Header> {
        let mut start = Vec::new();
        fs::File::open(file).ok()?.take(4096).read_to_end(&mut start).ok()?;
        if start.starts_with(b"\xcf\xfa\xed\xfe") {
            let arch = match start.get(4..8)? {
                [7, 0, 0, 1] => "x64",
                [12, 0, 0, 1] => "arm64",
                _ => return None,
            };
            return Some(Header { arch, musl: false });
        }
        if !start.starts_with(b"\x7fELF") {
            return None;
        }
        let wide = *start.get(4)? == 2;
        let little = *start.get(5)? == 1;
        let machine: [u8; 2] = start.get(18..20)?.try_into().ok()?;
        let machine =
            if little { u16::from_le_bytes(machine) } else { u16::from_be_bytes(machine) };
        let arch = match (machine, wide, little) {
            (62, true, _) => "x64",
            (183, true, true) => "arm64",
            (3, false, _) => "ia32",
            (40, false, true) => "arm",
            (21, true, _) => "ppc64",
            (22, true, false) => "s390x",
            (243, true, true) => "riscv64",
            (258, true, true) => "loong64",
            _ => return None,
        };
        let musl = start.windows(8).any(|window| window == b"ld-musl-");
        Some(Header { arch, musl })
    }
}

/// npm asks `ldd` first, then what Node was linked with.
fn libc(musl: bool) -> Option<&'static str> {
    match fs::read("/usr/bin/ldd") {
        Ok(text) => {
            let holds = |word: &[u8]| text.windows(word.len()).any(|window| window == word);
            if holds(b"musl") {
                Some("musl")
            } else if holds(b"GNU C Library") {
                Some("glibc")
            } else {
                None
            }
        }
        Err(_) => Some(if musl { "musl" } else { "glibc" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_in_paths() {
        for (path, version) in [
            ("/h/.nvm/versions/node/v20.1.0/bin/node", Some("20.1.0")),
            ("/h/.fnm/node-versions/v22.3.1/installation/bin/node", Some("22.3.1")),
            ("/opt/homebrew/Cellar/node/23.0.0/bin/node", Some("23.0.0")),
            ("/usr/bin/node", None),
            ("/opt/node20/bin/node", None),
        ] {
            assert_eq!(version_by_path(Path::new(path)).as_deref(), version, "{path}");
        }
    }

    #[test]
    fn the_tool_of_this_machine() {
        let tool = find(&Env::current()).unwrap();
        let asked = version_by_asking(&tool.node).unwrap();
        assert_eq!(tool.node_version, asked);
        let script = "const l=require('child_process');process.stdout.write([process.platform,process.arch].join())";
        let output = Command::new(&tool.node).args(["-e", script]).output().unwrap();
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            format!("{},{}", tool.platform, tool.arch)
        );
        let output = Command::new("npm").arg("--version").output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), tool.npm_version);
    }
}
