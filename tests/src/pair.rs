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
use std::process::Command;

use crate::mounts::{assert_same_but_times, rift, state};
use crate::sandbox::{Ran, Sandbox};

/// A tree twice. See the module.
pub struct Pair {
    /// What everything is in.
    pub sandbox: Sandbox,
    /// Where the tree is real.
    pub real: PathBuf,
    /// Where the shim shows it.
    pub shim: PathBuf,
    /// Words that `rift exec` gets besides.
    pub flags: &'static [&'static str],
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
        let pair = Self { sandbox, real, shim, flags: &[] };
        pair.take_in();
        pair
    }

    /// Takes the source in as it is, and copies it.
    pub fn take_in(&self) {
        rift(&self.sandbox, &self.sandbox.path("source"), &["ingest", ".", "--name", "tree"]);
        self.copy();
    }

    /// Copies the source, in the place of what commands have left of its copy.
    pub fn copy(&self) {
        crate::sandbox::clear(&self.real.join("view")).unwrap();
        let mut copy = self.sandbox.command(&self.real, "cp");
        let source = self.sandbox.path("source");
        assert!(copy.arg("-a").arg(source).arg("view").status().unwrap().success());
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
        self.sandbox.run(&mut self.command("view", words)).unwrap()
    }

    /// Returns a command with the tree shown at a directory.
    #[must_use]
    pub fn command(&self, shown: &str, words: &[&str]) -> Command {
        let tree = format!("tree={shown}");
        let shown = ["exec", "--as", "virtual", "--tree", &tree];
        let all = [&shown[..], self.flags, &["--"], words].concat();
        self.sandbox.rift(&self.shim, &all).unwrap()
    }

    /// Shows the tree at one more directory, which every later command sees as well.
    pub fn show_another(&self) {
        self.sandbox.run(&mut self.command("other", &["true"])).unwrap().success().unwrap();
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
        assert_same_but_times(&self.real.join("view"), &view);
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
