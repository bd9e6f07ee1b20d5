//! Lifecycle scripts, run for real by npm's own modules.
//!
//! One node process loads npm, which sets the environment that npm gives to scripts, and then runs
//! the scripts it is told, one after the other. Between two scripts the watch on it begins anew, so
//! whatever is seen belongs to one package. The rest of npm is never started. Scripts whose result
//! nobody keeps have no watch: one may take rights from them, see [`observe::spawn`].

use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::observe::{self, Observed, Own, Seen};
use crate::sys;

const PROGRAM: &str = include_str!("driver.cjs");

/// A script to run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Script {
    /// The package's folder, absolute.
    pub(crate) path: PathBuf,
    /// The event, such as `postinstall`.
    pub(crate) event: &'static str,
    /// What the lockfile says of the package; `None` for the project's own scripts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pkg: Option<serde_json::Value>,
    /// Variables that npm sets for this package only.
    pub(crate) env: serde_json::Map<String, serde_json::Value>,
    /// Whether the script has the terminal.
    pub(crate) foreground: bool,
}

/// What became of a script.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Outcome {
    /// Whether the package has such a script at all.
    pub(crate) ran: bool,
    /// Its exit status.
    pub(crate) code: i32,
    /// The signal that ended it.
    pub(crate) signal: Option<String>,
    /// What npm says of the failure.
    pub(crate) error: Option<String>,
}

impl Outcome {
    /// Tells whether the script ended well, or there was none.
    #[must_use]
    pub(crate) fn is_success(&self) -> bool {
        self.code == 0 && self.signal.is_none() && self.error.is_none()
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    Outcome(Outcome),
    Ready { logs: PathBuf },
    Failed { failed: String },
}

/// What starts the driver.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start<'a> {
    /// The node program.
    pub(crate) node: &'a Path,
    /// npm's folder.
    pub(crate) npm_root: &'a Path,
    /// The words after `npm`.
    pub(crate) words: &'a [std::ffi::OsString],
    /// Where npm was called.
    pub(crate) folder: &'a Path,
    /// Whether what scripts do has to be known.
    pub(crate) is_watched: bool,
}

/// A running driver.
#[derive(Debug)]
pub(crate) struct Driver {
    observed: Observed,
    requests: PipeWriter,
    answers: BufReader<PipeReader>,
    /// Where npm itself, not a script, writes its logs.
    logs: PathBuf,
}

/// Where the program finds its requests and puts its answers.
const REQUESTS: RawFd = 3;
const ANSWERS: RawFd = 4;

impl Driver {
    /// Starts node and waits until npm is loaded.
    ///
    /// # Errors
    /// As spawning a process; what npm says when it can't be loaded.
    pub(crate) fn start(start: Start<'_>) -> Result<Self> {
        let (request_end, requests) = io::pipe().context("could not make a pipe")?;
        let (answers, answer_end) = io::pipe().context("could not make a pipe")?;
        let request_end =
            observe::above_standard(request_end.into()).context("could not pass a pipe on")?;
        let answer_end =
            observe::above_standard(answer_end.into()).context("could not pass a pipe on")?;
        // std's own pipe, which tells what execve(2) said, must not lie where the child gets these.
        let _occupied =
            observe::occupy(request_end.as_fd(), ANSWERS).context("could not pass a pipe on")?;
        let passed = [(request_end.as_raw_fd(), REQUESTS), (answer_end.as_raw_fd(), ANSWERS)];
        let command = || {
            let mut command = Command::new(start.node);
            command.args(["-e", PROGRAM, "--"]).arg(start.npm_root).args(start.words);
            command.current_dir(start.folder).env("INIT_CWD", start.folder).stdin(Stdio::inherit());
            sys::pass_descriptors(&mut command, passed);
            command
        };
        let observed = match start.is_watched {
            true => observe::spawn(command),
            false => observe::spawn_unwatched(command()),
        };
        let observed = observed.context("could not start node")?;
        drop((request_end, answer_end));
        let answers = BufReader::new(answers);
        let mut driver = Self { observed, requests, answers, logs: PathBuf::new() };
        match driver.answer()? {
            Answer::Ready { logs } => driver.logs = logs,
            Answer::Failed { failed } => bail!("npm could not be loaded: {failed}"),
            Answer::Outcome(_) => bail!("npm could not be loaded"),
        }
        Ok(driver)
    }

    fn answer(&mut self) -> Result<Answer> {
        let mut line = String::new();
        let read = self.answers.read_line(&mut line).context("could not hear from node")?;
        if read == 0 {
            bail!("node ended before its scripts did");
        }
        serde_json::from_str(&line).context("could not understand node")
    }

    /// Runs one script; changes in `own` are its own, and what else was seen is returned with
    /// the outcome: `None` when nothing could be seen.
    ///
    /// # Errors
    /// When node is gone.
    pub(crate) fn run(&mut self, script: &Script, mut own: Own) -> Result<(Outcome, Option<Seen>)> {
        own.folders.push(self.logs.clone());
        self.observed.expect(own);
        let mut line = serde_json::to_vec(script).context("could not write a request")?;
        line.push(b'\n');
        self.requests.write_all(&line).context("could not reach node")?;
        match self.answer()? {
            Answer::Outcome(outcome) => Ok((outcome, self.observed.seen())),
            Answer::Failed { failed } => bail!("npm failed: {failed}"),
            Answer::Ready { .. } => bail!("could not understand node"),
        }
    }

    /// Ends node.
    ///
    /// # Errors
    /// As waiting for a process.
    pub(crate) fn finish(self) -> Result<()> {
        let Self { mut observed, requests, answers, .. } = self;
        drop((requests, answers));
        let status = observed.child.wait().context("could not wait for node")?;
        if !status.success() {
            bail!("node ended with {status}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Finds node and npm as a shell would.
    fn tools() -> (PathBuf, PathBuf) {
        let find = |name: &str| {
            let path = std::env::var_os("PATH").unwrap();
            let found = std::env::split_paths(&path).map(|folder| folder.join(name));
            found.filter_map(|path| path.canonicalize().ok()).next().unwrap()
        };
        let npm = find("npm");
        (find("node"), npm.parent().unwrap().parent().unwrap().to_owned())
    }

    #[test]
    fn a_node_that_cannot_be_executed_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        for is_watched in [false, true] {
            let (node, npm_root) = (&*folder.join("node"), folder);
            let start = Start { node, npm_root, words: &[], folder, is_watched };
            let error = format!("{:#}", Driver::start(start).unwrap_err());
            assert!(error.starts_with("could not start node: No such file"), "{error}");
        }
    }

    #[test]
    fn scripts_run_with_npms_environment_and_are_watched() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        let package = folder.join("node_modules/it");
        std::fs::create_dir_all(&package).unwrap();
        std::fs::write(folder.join("package.json"), r#"{"name":"root","version":"1.0.0"}"#)
            .unwrap();
        let scripts = r#"{"scripts":{"install":"echo $npm_lifecycle_event $npm_package_name $npm_command $npm_config_foo > made",
            "postinstall":"echo x > ../other","preinstall":"exit 7"}}"#;
        std::fs::write(package.join("package.json"), scripts).unwrap();
        let (node, npm_root) = tools();
        let words = ["ci".into(), "--ignore-scripts=false".into(), "--foo=bar".into()];
        let (node, npm_root, is_watched) = (&*node, &*npm_root, true);
        let start = Start { node, npm_root, words: &words, folder: &folder, is_watched };
        let mut driver = Driver::start(start).unwrap();
        let script = |event| Script {
            path: package.clone(),
            event,
            pkg: Some(serde_json::json!({"name": "it", "version": "2.0.0"})),
            env: serde_json::Map::new(),
            foreground: false,
        };
        let mut run = |event| {
            let own = Own { folders: vec![package.clone()], except: Vec::new() };
            driver.run(&script(event), own).unwrap()
        };
        let (outcome, seen) = run("install");
        assert!(outcome.ran && outcome.is_success(), "{outcome:?}");
        assert_eq!(seen.unwrap().reason(), None);
        let made = std::fs::read_to_string(package.join("made")).unwrap();
        assert_eq!(made, "install it ci bar\n");
        let (outcome, seen) = run("postinstall");
        assert!(outcome.is_success());
        let left = folder.join("node_modules/other");
        assert_eq!(seen.unwrap().reason(), Some(format!("it left `{}`", left.display())));
        let (outcome, _) = run("preinstall");
        assert_eq!((outcome.code, outcome.is_success()), (7, false));
        let (outcome, _) = run("prepare");
        assert!(!outcome.ran && outcome.is_success());
        driver.finish().unwrap();
    }
}
