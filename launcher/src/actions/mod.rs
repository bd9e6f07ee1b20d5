//! Actions: single processes whose results are kept, and done again without running them.
//!
//! ```text
//! exec(2) of a known program ── shim ──> rift, in its place ── known, and all is as it was? ──> its results, its words, its status
//!                                            └── else the program itself, recorded by the shim in a journal
//! journal ended ── keeper, in the run's rift ──> observations and results, in the store
//!
//! roots.rs    places that differ between checkouts and machines
//! key.rs      what a program is told before it begins
//! reading.rs  a journal: what was found, what was left, or why nobody could do it again
//! entry.rs    what is kept: observations and results
//! found.rs    observations, as they are kept
//! look.rs     whether what was found is still there
//! replay.rs   what is done in a program's place
//! remap.rs    words that keep the checkout's place out of what compilers make
//! keeper.rs   what the run does with the journals
//! bell.rs     when it does that
//! compare.rs  what a program did, beside what is known of it
//! parts.rs    what a run remembers of each
//! shared.rs   what machines share
//! watch.rs    what was found besides what a build is known by
//! ```
//!
//! A result counts only where every observation holds, by content. In doubt the program runs.

mod bell;
mod compare;
pub mod entry;
mod found;
pub mod keeper;
pub mod key;
mod look;
pub mod parts;
mod reading;
mod remap;
pub mod replay;
pub mod roots;
pub mod shared;
pub mod watch;

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rift_tree::run::is_named;
use serde::{Deserialize, Serialize};

use self::roots::Roots;
use self::watch::Bounds;

/// Programs that do the same whenever they find the same: compilers, linkers, archivers, cargo's build scripts; see [`is_named`].
pub const PROGRAMS: &[&str] = &[
    "rustc",
    "clippy-driver",
    "rustdoc",
    "build-script-*",
    "cc",
    "c++",
    "gcc",
    "g++",
    "clang",
    "clang++",
    "ld",
    "ld.lld",
    "lld",
    "rust-lld",
    "ld.bfd",
    "ld.gold",
    "mold",
    "ar",
    "ranlib",
    "as",
    "nm",
    "objcopy",
    "strip",
    "c89",
    "c99",
    "gcc-ar",
    "llvm-ar",
    "x86_64-linux-gnu-gcc",
    "x86_64-linux-gnu-g++",
];

/// What the processes of a run that stand for others have to know; they find it in the folder of the journals.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Settings {
    /// The store.
    pub store: PathBuf,
    /// The places.
    pub roots: Roots,
    /// Tells what this run has written itself from what others may change again, see [`rift_cas::hashes`].
    pub run: u64,
    /// The number of the process that brings what a remote has while the run goes on, where one does.
    pub bringer: Option<u32>,
    /// What is known is not used.
    pub only_records: bool,
    /// What is known is not used, but compared with what the programs do.
    pub verifies: bool,
    /// Compilers are told to leave the places of checkouts out, see `remap.rs`.
    pub remaps: bool,
    /// What programs find beyond these places is told to who keeps the whole build.
    pub watched: Option<Bounds>,
    /// Nothing is kept of compilers that go on with what they have compiled before: what somebody is at work on is soon another thing.
    pub spares_edits: bool,
}

impl Settings {
    /// Tells whether what is known of a program is used only once two runs have agreed.
    fn is_opted(program: &Path) -> bool {
        let name = program.file_name().unwrap_or_default().as_bytes();
        !PROGRAMS.iter().any(|known| is_named(name, known.as_bytes()))
    }
}

/// The name of the settings' file.
pub const SETTINGS: &str = "settings.json";
/// What the names of journals end with.
pub const JOURNAL: &str = "journal";
/// What the names of files end with that say what a journal is of.
pub const ASKED: &str = "asked";
/// Where the processes that stand for others say what they did: a line of JSON each.
pub const EVENTS: &str = "events";

/// What a journal is of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AskedFor {
    /// The key.
    pub key: String,
    /// The program.
    pub program: PathBuf,
    /// Its words, escaped.
    pub words: Vec<String>,
    /// Where it works.
    pub cwd: PathBuf,
    /// What the key is made of, see [`key::Key`].
    pub told: Vec<String>,
}

/// What became of a program that was to run; what it was told is text, or stands for one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event<Told = String> {
    /// Its name.
    pub program: String,
    /// What tells it from others of its name: its last word.
    pub what: String,
    /// How it went.
    pub outcome: Outcome,
    /// Its key; empty where it has none.
    pub key: String,
    /// What the key is made of, see [`key::Key`].
    pub told: Vec<Told>,
    /// What cargo calls that which it makes, see [`watch::Watched`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// What was used, or is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<EntryName>,
}

/// What an entry is found by in the store.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EntryName {
    /// The tree.
    pub tree: String,
    /// Its folder in the tree, which has the actions of a whole run.
    pub folder: String,
    /// It came from somebody else, and writes nothing outside of the workspace and the folder of temporary files.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_foreign: bool,
    /// A run that was compared with it did the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_confirmed: bool,
}

impl EntryName {
    /// Tells whether both lead to the same entry, whatever is known of it.
    fn is_same(&self, other: &Self) -> bool {
        (&self.tree, &self.folder) == (&other.tree, &other.folder)
    }
}

/// How it went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Its result was there; it had taken so much processor time, in nanoseconds.
    Reused(u64),
    /// It ran: nothing was known, or this differed.
    Missed(Option<String>),
    /// It ran, and its result is kept.
    Kept,
    /// It ran, and nobody could do the same again.
    Refused(String),
    /// It ran, and did what is known of it.
    Confirmed,
    /// It ran, and did something else than it would have been taken for.
    Mismatch(String),
}
