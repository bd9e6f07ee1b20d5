//! A tree twice: as real files, and shown by the shim; a command has to do the same in both.
//!
//! ```text
//! SANDBOX/real/view    a copy of the source       SANDBOX/shim/view    the tree, by `--tree tree=view`
//! ```
//! Commands run in `real` and in `shim`, which differ in nothing else. Called by the tests of programs under the shim.

#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "part of tests, which say where they can't go on"
)]

use std::fs;
use std::path::{Path, PathBuf};

use crate::differ::{Options, compare};
use crate::mounts::{rift, state};
use crate::sandbox::{Ran, Sandbox};

/// A tree twice. See the module.
pub struct Pair {
    /// What everything is in.
    pub sandbox: Sandbox,
    /// Where the tree is real.
    pub real: PathBuf,
    /// Where the shim shows it.
    pub shim: PathBuf,
}

impl Pair {
    /// Makes a source by `fill`, takes it in and copies it.
    #[must_use]
    pub fn new(name: &str, fill: impl FnOnce(&Sandbox, &Path)) -> Self {
        let sandbox = Sandbox::new(name).unwrap();
        let [real, shim, source] = ["real", "shim", "source"].map(|name| sandbox.path(name));
        for folder in [&real, &shim, &source] {
            fs::create_dir(folder).unwrap();
        }
        fill(&sandbox, &source);
        rift(&sandbox, &source, &["ingest", ".", "--name", "tree"]);
        let mut copy = sandbox.command(&real, "cp");
        assert!(copy.arg("-a").arg(&source).arg("view").status().unwrap().success());
        Self { sandbox, real, shim }
    }

    /// Runs a command with the real files.
    #[must_use]
    pub fn really(&self, words: &[&str]) -> Ran {
        let mut command = self.sandbox.command(&self.real, words[0]);
        self.sandbox.run(command.args(&words[1..])).unwrap()
    }

    /// Runs a command with the tree that the shim shows.
    #[must_use]
    pub fn virtually(&self, words: &[&str]) -> Ran {
        let all = [&["exec", "--as", "virtual", "--tree", "tree=view", "--"], words].concat();
        self.sandbox.run(&mut self.sandbox.rift(&self.shim, &all).unwrap()).unwrap()
    }

    /// What a command has said, without its place.
    fn said(at: &Path, ran: &Ran) -> String {
        let text = format!("{:?}\n{}--- stderr\n{}", ran.status.code(), ran.stdout, ran.stderr);
        text.replace(&at.display().to_string(), "PLACE")
    }

    /// A command says the same in both, which holds `wanted`; returns what.
    #[track_caller]
    pub fn assert_same(&self, words: &[&str], wanted: &str) -> String {
        let expected = Self::said(&self.real, &self.really(words));
        assert!(expected.contains(wanted), "{words:?} without rift: {expected}");
        let found = Self::said(&self.shim, &self.virtually(words));
        assert_eq!(found, expected, "{words:?}");
        expected
    }

    /// As [`Pair::assert_same`], of a line of a shell.
    #[track_caller]
    pub fn assert_same_line(&self, line: &str, wanted: &str) -> String {
        self.assert_same(&["sh", "-c", line], wanted)
    }

    /// Tells whether an entry of the tree is real where the shim shows it.
    #[must_use]
    pub fn is_real(&self, entry: &str) -> bool {
        self.shim.join("view").join(entry).symlink_metadata().is_ok()
    }

    /// Ends the projection, which is then what the commands have left of the real files.
    pub fn end(&self) {
        let view = self.shim.join("view");
        assert_eq!(state(&self.sandbox, &view), "virtual");
        rift(&self.sandbox, &self.shim, &["close", "view"]);
        let options = Options { mtimes: false, ..Options::default() };
        let differences = compare(&self.real.join("view"), &view, options).unwrap();
        let lines: Vec<String> = differences.iter().take(20).map(ToString::to_string).collect();
        assert!(lines.is_empty(), "{}", lines.join("\n"));
    }

    /// Ends the projection and forgets what was made real, so that the next command finds nothing real.
    pub fn begin_again(&self) {
        let view = self.shim.join("view");
        if view.exists() {
            rift(&self.sandbox, &self.shim, &["close", "view", "--discard"]);
            crate::sandbox::clear(&view).unwrap();
        }
    }
}
