//! What the result of an install script depends on beside the packages: node, npm, the system, the
//! tools on the PATH and the declared environment.
//!
//! Tools are told apart by where they really are, and by size and mtime: that is more than a version,
//! and needs no process. A script that looks at anything else gives wrong results under any cache; the
//! environment variables that are looked at are listed here, and `script_env` in the configuration
//! adds to them.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::env::Env;
use super::tool::Tool;

/// Grows when scripts are run or recorded in another way.
const RULES: u32 = 1;

/// Programs that compile, configure or are run by compilations.
const TOOLS: &[&str] = &[
    "cc",
    "c++",
    "gcc",
    "g++",
    "clang",
    "clang++",
    "ld",
    "ar",
    "as",
    "make",
    "cmake",
    "ninja",
    "python",
    "python3",
    "pkg-config",
    "rustc",
    "cargo",
    "go",
    "sh",
    "bash",
];

/// Files that name the system and its C library.
const SYSTEM: &[&str] = &[
    "/etc/os-release",
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/ld-linux-aarch64.so.1",
    "/lib/ld-musl-x86_64.so.1",
    "/lib/ld-musl-aarch64.so.1",
];

/// Variables that scripts are told things by.
const VARIABLES: &[&str] = &[
    "CC",
    "CXX",
    "AR",
    "LD",
    "AS",
    "CFLAGS",
    "CXXFLAGS",
    "CPPFLAGS",
    "LDFLAGS",
    "CPATH",
    "C_INCLUDE_PATH",
    "CPLUS_INCLUDE_PATH",
    "LIBRARY_PATH",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "PKG_CONFIG_PATH",
    "MAKEFLAGS",
    "MACOSX_DEPLOYMENT_TARGET",
    "PYTHON",
    "PYTHONPATH",
    "NODE_OPTIONS",
    "NODE_ENV",
    "NODE_PATH",
    "CI",
    "SOURCE_DATE_EPOCH",
];

/// Beginnings of such variables, in lower case.
const PREFIXES: &[&str] = &[
    "npm_config_",
    "npm_package_config_",
    "sharp_",
    "esbuild_",
    "puppeteer_",
    "playwright_",
    "cypress_",
    "electron_",
    "prisma_",
    "sentrycli_",
    "sass_",
    "gyp_",
    "cmake_",
    "cargo_",
    "rust",
    "swc_",
    "better_sqlite3_",
    "canvas_",
    "husky",
];

/// Settings that npm hands to scripts as `npm_config_*`, but that change nothing in their result:
/// where the cache is, what is printed, and how the network is reached.
const IGNORED: &[&str] = &[
    "npm_config_cache",
    "npm_config_loglevel",
    "npm_config_progress",
    "npm_config_color",
    "npm_config_audit",
    "npm_config_fund",
    "npm_config_update_notifier",
    "npm_config_logs_dir",
    "npm_config_logs_max",
    "npm_config_userconfig",
    "npm_config_ignore_scripts",
    "npm_config_prefer_offline",
    "npm_config_offline",
    "npm_config_registry",
];

/// Returns a hash of everything here that the result of a script may depend on.
#[must_use]
pub(crate) fn key(tool: &Tool, env: &Env, declared: &[String]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    let mut field = |name: &[u8], value: &[u8]| {
        hasher.update(&(name.len() as u64).to_le_bytes()).update(name);
        hasher.update(&(value.len() as u64).to_le_bytes()).update(value);
    };
    field(b"rules", &RULES.to_le_bytes());
    field(b"npm", tool.npm_version.as_bytes());
    let platform = format!("{} {} {:?}", tool.platform, tool.arch, tool.libc);
    field(b"platform", platform.as_bytes());
    field(b"node", identity(&tool.node).as_bytes());
    for path in SYSTEM {
        field(path.as_bytes(), identity(Path::new(path)).as_bytes());
    }
    for name in TOOLS {
        let found = find(name, env).map(|path| identity(&path)).unwrap_or_default();
        field(name.as_bytes(), found.as_bytes());
    }
    for (name, value) in env.iter() {
        if is_read_by_scripts(&name.to_string_lossy(), declared) {
            field(name.as_bytes(), value.as_bytes());
        }
    }
    *hasher.finalize().as_bytes()
}

fn is_read_by_scripts(name: &str, declared: &[String]) -> bool {
    let lower = name.to_ascii_lowercase();
    // Credentials are written as npm_config_//host/:_authToken.
    let is_ignored = IGNORED.contains(&lower.as_str()) || lower.contains("//");
    let is_listed = VARIABLES.contains(&name) || declared.iter().any(|declared| declared == name);
    is_listed || !is_ignored && PREFIXES.iter().any(|prefix| lower.starts_with(prefix))
}

/// Finds a program as a shell would.
fn find(name: &str, env: &Env) -> Option<PathBuf> {
    std::env::split_paths(env.get("PATH")?)
        .map(|folder| folder.join(name))
        .find(|path| path.metadata().is_ok_and(|stat| stat.is_file() && stat.mode() & 0o111 != 0))
}

/// Describes a file so that another one, or a newer one, is described in another way.
fn identity(path: &Path) -> String {
    match (path.canonicalize(), path.metadata()) {
        (Ok(real), Ok(stat)) => {
            format!("{} {} {} {}", real.display(), stat.len(), stat.mtime(), stat.mtime_nsec())
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_that_scripts_read_are_told_from_others() {
        let declared = ["OWN".to_owned()];
        for (name, expected) in [
            ("CC", true),
            ("npm_config_nodedir", true),
            ("NPM_CONFIG_TARGET", true),
            ("npm_config_cache", false),
            ("npm_config_//example.test/:_authToken", false),
            ("OWN", true),
            ("HOME", false),
            ("TERM", false),
        ] {
            assert_eq!(is_read_by_scripts(name, &declared), expected, "{name}");
        }
    }
}
