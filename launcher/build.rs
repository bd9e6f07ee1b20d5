//! Builds the preload library, which `rift` carries: with another target directory, so that it does not wait for the
//! build that it is part of.

use std::path::PathBuf;
use std::process::Command;

/// The library is loaded into processes that have a C library of their own, so it is linked with none; and the loader is
/// to have little work at each start of a process: nothing is bound lazily, nothing is found by name.
const LINK_ARGUMENTS: [&str; 8] = [
    "-nostdlib",
    "-nostartfiles",
    "-Wl,-z,now",
    "-Wl,-z,noexecstack",
    "-Wl,-Bsymbolic",
    "-Wl,--hash-style=gnu",
    "-Wl,--gc-sections",
    "-Wl,--build-id=none",
];

fn main() {
    let folder = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let root = folder.parent().map(ToOwned::to_owned).unwrap_or_default();
    let target = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default()).join("shim");
    for watched in ["shim", "cas/tree/src", "Cargo.toml"] {
        println!("cargo:rerun-if-changed={}", root.join(watched).display());
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(&root).args([
        "rustc",
        "--package",
        "rift-shim",
        "--lib",
        "--release",
        "--quiet",
    ]);
    command.args(["--features", "preload", "--crate-type", "cdylib"]);
    command.arg("--target-dir").arg(&target).arg("--");
    command.args(LINK_ARGUMENTS.iter().map(|argument| format!("-Clink-arg={argument}")));
    // Those of the build that this is part of are for its own code. What is decided at a glance may use no vector register,
    // see `shim/src/quick.rs`.
    for name in ["CARGO_ENCODED_RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"] {
        command.env_remove(name);
    }
    command.env("RUSTFLAGS", "-Cno-vectorize-loops -Cno-vectorize-slp");
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("the preload library could not be built: cargo ended with {status}"),
        Err(error) => panic!("cargo could not be started for the preload library: {error}"),
    }
    let library = target.join("release/librift_shim.so");
    println!("cargo:rustc-env=SHIM_LIBRARY={}", library.display());
}
