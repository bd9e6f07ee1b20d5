//! Machines that share a remote: each a sandbox with a home, keys, a store and an npm cache of its own.

#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a test that cannot go on says where"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::differ::{Options, compare};
use crate::fixture::Fixture;
use crate::sandbox::{Ran, Sandbox};
use crate::server::Server;
use crate::warm::{Scripts, Warm};

/// The remote of all runners.
pub const URL: &str = "s3://bucket/team";

/// A machine with a project.
pub struct Runner {
    /// Its home, store and all else.
    pub sandbox: Sandbox,
    /// The project.
    pub project: PathBuf,
    /// What it has in the environment beside the sandbox's.
    pub env: Vec<(&'static str, String)>,
}

impl Runner {
    /// Makes one with nothing but the project.
    #[must_use]
    pub fn new(name: &str, server: &Server) -> Self {
        let env = [
            ("AWS_ENDPOINT_URL", server.endpoint()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", "test".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "s3cr3t-of-the-test".to_owned()),
            ("RIFT_REMOTE", URL.to_owned()),
        ];
        Self::with_env(name, env.to_vec())
    }

    /// Makes one with the project and this in its environment.
    #[must_use]
    pub fn with_env(name: &str, env: Vec<(&'static str, String)>) -> Self {
        let sandbox = Sandbox::new(name).unwrap();
        let project = sandbox.path("project");
        Fixture::Small.prepare(&project).unwrap();
        Self { sandbox, project, env }
    }

    /// One that can reach the packages themselves, and nothing else but the remote.
    #[must_use]
    pub fn with_packages(name: &str, server: &Server) -> Self {
        let runner = Self::new(name, server);
        warm().fill_npm_cache(&runner.sandbox).unwrap();
        runner
    }

    /// Returns a command that runs rift.
    #[must_use]
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = self.sandbox.rift(&self.project, words).unwrap();
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        // Packages come from npm's cache or from nowhere.
        command.env("npm_config_offline", "true");
        command
    }

    /// Runs rift; nothing that it says holds a secret.
    #[must_use]
    pub fn rift(&self, words: &[&str]) -> Ran {
        let ran = self.sandbox.run(&mut self.command(words)).unwrap();
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(!said.contains("s3cr3t") && !said.contains("panicked"), "{ran}");
        ran
    }

    /// Runs rift, which does well; returns what it says.
    #[must_use]
    pub fn good(&self, words: &[&str]) -> String {
        self.rift(words).success().unwrap().stdout.trim_end().to_owned()
    }

    /// Installs the project's packages, as files.
    #[must_use]
    pub fn ci(&self) -> Ran {
        self.rift(&["exec", "--", "npm", "ci", "--ignore-scripts"])
    }

    /// Makes a key, with the digits of its private half.
    #[must_use]
    pub fn key(&self) -> (String, String) {
        let public = self.good(&["key", "new", "ci@main"]);
        let file = self.sandbox.path("home/.config/rift/key");
        (public, fs::read_to_string(file).unwrap().trim_end().to_owned())
    }

    /// Returns the name of a package of the project, and the same as NAME@VERSION.
    #[must_use]
    pub fn some_package(&self) -> (String, String) {
        let text = fs::read_to_string(self.project.join("package-lock.json")).unwrap();
        let lock: serde_json::Value = serde_json::from_str(&text).unwrap();
        let packages = lock["packages"].as_object().unwrap();
        // Not nested, not scoped: its name is what its folder is called.
        let (folder, package) = packages
            .iter()
            .find(|(folder, _)| folder.matches('/').count() == 1 && !folder.contains('@'))
            .unwrap();
        let name = folder.strip_prefix("node_modules/").unwrap();
        (name.to_owned(), format!("{name}@{}", package["version"].as_str().unwrap()))
    }

    /// Makes it a while since the machine has asked what is denied.
    pub fn let_time_pass(&self) {
        for record in fs::read_dir(self.sandbox.store().join("remotes")).unwrap() {
            let file = fs::File::open(record.unwrap().path()).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(61)).unwrap();
        }
    }

    /// Checks that the project is as npm makes it, and the store whole.
    #[track_caller]
    pub fn assert_as_npm(&self) {
        assert_same(&warm().project(), &self.project);
        drop(self.good(&["store", "verify"]));
    }
}

/// Returns the project as npm makes it.
#[must_use]
pub fn warm() -> Warm {
    Warm::of(Fixture::Small, Scripts::Off).unwrap()
}

/// Checks that two directories are the same.
#[track_caller]
pub fn assert_same(expected: &Path, found: &Path) {
    let differences = compare(expected, found, Options::default()).unwrap();
    let lines: Vec<String> = differences.iter().take(20).map(ToString::to_string).collect();
    assert!(lines.is_empty(), "{found:?}:\n{}", lines.join("\n"));
}
