//! What the tests and benchmarks of the finished tool stand on: a strict comparison of two trees, real npm
//! projects, a scratch home for every test, and faults that can be had on an ordinary machine.
//!
//! Nothing here knows how rift works: the tools look at files, processes and exit statuses only, so they judge
//! npm, its rivals and rift by one measure. Called by `tests/tests/*.rs` and by the binaries of this package.

pub mod again;
pub mod apps;
pub mod bad_disk;
pub mod between;
pub mod builds;
pub mod differ;
pub mod fault;
pub mod fixture;
pub mod listener;
pub mod moto;
pub mod mounts;
pub mod need;
pub mod npm_project;
pub mod pair;
pub mod refused;
pub mod runner;
pub mod sandbox;
pub mod server;
pub mod sys;
pub mod terminal;
pub mod warm;

use std::path::{Path, PathBuf};

/// Runs the long suites: the medium fixture, hundreds of kills and power losses.
pub const RIFT_TEST_FULL: &str = "RIFT_TEST_FULL";

/// The `rift` binary under test; without it `cargo build` makes one of the tests' own profile.
pub const RIFT_TEST_BIN: &str = "RIFT_TEST_BIN";

/// Returns whether the long suites were asked for.
#[must_use]
pub fn full() -> bool {
    std::env::var_os(RIFT_TEST_FULL).is_some_and(|value| !value.is_empty() && value != "0")
}

/// Returns the root of the repository.
#[must_use]
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or_else(|| Path::new("."))
}

/// Returns the folder below cargo's target directory where everything of the tests lives.
///
/// It is found from the running binary (`target/<profile>[/deps]/<binary>`), so that it is on the file system of the
/// build and no test writes to a shared temporary folder.
///
/// # Errors
/// When the running binary is not inside a target directory.
pub fn target_folder() -> anyhow::Result<PathBuf> {
    let binary = std::env::current_exe()?;
    // Not CACHEDIR.TAG: cargo leaves it out where the target directory was there before.
    let profile = binary.ancestors().find(|folder| folder.join(".cargo-lock").exists());
    let target = profile.and_then(Path::parent).ok_or_else(|| {
        anyhow::anyhow!("{} is not inside a cargo target directory", binary.display())
    })?;
    Ok(target.join("rift-tests"))
}

/// Returns bytes that no other seed has, and that do not compress.
#[must_use]
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
