//! A home of its own for each test, in which the built `rift` is run.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A scratch home; it goes when it is dropped.
pub(crate) struct Home {
    folder: tempfile::TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("project")).unwrap();
        Self { folder }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Returns a path in the working directory.
    pub(crate) fn work(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join("project").join(name)
    }

    /// Prepares a program that sees this home and nothing of the real one.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("HOME", self.path()).env("LC_ALL", "C");
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.current_dir(self.work(""));
        command
    }

    pub(crate) fn rift(&self) -> Command {
        self.command(env!("CARGO_BIN_EXE_rift"))
    }

    /// Runs `rift` with these arguments.
    pub(crate) fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Ran {
        Ran(self.rift().args(args).output().unwrap())
    }
}

/// What a command did.
pub(crate) struct Ran(pub(crate) Output);

impl Ran {
    pub(crate) fn out(&self) -> String {
        String::from_utf8_lossy(&self.0.stdout).into_owned()
    }

    pub(crate) fn err(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }

    pub(crate) fn code(&self) -> Option<i32> {
        self.0.status.code()
    }

    /// Returns stdout, when it ended well.
    #[track_caller]
    pub(crate) fn good(&self) -> String {
        assert_eq!(self.code(), Some(0), "stdout: {}\nstderr: {}", self.out(), self.err());
        self.out()
    }

    /// Returns stderr, when it ended with this status.
    #[track_caller]
    pub(crate) fn bad(&self, code: i32) -> String {
        assert_eq!(self.code(), Some(code), "stdout: {}\nstderr: {}", self.out(), self.err());
        self.err()
    }
}
