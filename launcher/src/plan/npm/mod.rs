//! `npm ci` and argument-less `npm install`, answered from the store.
//!
//! [`read()`] tells what a command line means without parsing the lockfile; [`Install::layout`] then tells which entries
//! npm would write, and where. Whatever is not certainly understood is left to npm itself, with a [`Why`].

mod args;
mod bin_links;
mod collate;
mod compose;
mod driver;
mod env;
mod graph;
mod hidden_lockfile;
mod json;
mod layout;
mod lockfile;
mod machine;
mod network;
mod npmrc;
pub mod package;
pub mod planned;
mod project;
mod read;
pub mod run;
mod script_results;
mod scripts;
mod semver;
mod settings;
mod spec;
mod tool;
mod why;

pub use args::Command;
pub use env::Env;
pub use graph::Flags;
pub use layout::{BinLink, Layout, Owner, Placed, Projection, RootScript, Scripts, Symlink};
pub use read::{Install, InstallKey, Recognized, read};
pub use scripts::Verdict;
pub use settings::{Credentials, Omit, Output, Registries, Secret, Settings};
pub use tool::Tool;
pub use why::Why;

/// Reads a small file of the user's; `None` when there is none.
fn read_file(path: &std::path::Path) -> Result<Option<Vec<u8>>, Why> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(format!("{} can't be read ({error})", path.display()).into()),
    }
}
