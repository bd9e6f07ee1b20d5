//! The plan for cargo: what a command that compiles leaves in `target` is kept as trees, with every mtime, and put back where it
//! is missing. Cargo itself then finds it fresh, or compiles what has changed.
//!
//! ```text
//! args.rs      which command, which profile
//! project.rs   where the workspace and `target` are, and all that decides a result beside the sources: the key
//! sources.rs   the files of the workspace: their hashes, and the times that cargo goes by
//! stamps.rs    what files were found to hold, so that they are read once
//! inputs.rs    what rustc and build scripts say that they have read
//! snapshot.rs  what is kept under a key: put back, taken in
//! ```
//!
//! Nothing here decides what is compiled. A snapshot that does not fit costs time, and never gives a wrong result: every file that
//! is not, by content, what it was when the snapshot was taken looks newer to cargo than all that was made of it.

pub mod args;
mod inputs;
pub mod project;
pub mod snapshot;
pub mod sources;
mod stamps;

use std::path::PathBuf;

/// Returns the folder of cargo's settings and registries, see `CARGO_HOME` in its book.
#[must_use]
pub fn home() -> Option<PathBuf> {
    let named = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    named.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))
}
