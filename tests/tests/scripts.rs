//! Install scripts of packages under `rift exec -- npm ci`: what is watched, kept and run again, beside npm itself.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rift_tests::apps::compiled;
use rift_tests::differ::{Options, compare};
use rift_tests::fixture::Fixture;
use rift_tests::need::{Need, have};
use rift_tests::npm_project::{add_package, prepare_mini};
use rift_tests::sandbox::{Ran, Sandbox, clear, rift_binary};
use rift_tests::warm::{Scripts, Warm};
use serde_json::json;

/// A sandbox with two copies of one project: `npm` for npm itself, `rift` for rift.
struct Pair {
    sandbox: Sandbox,
    npm: PathBuf,
    rift: PathBuf,
}

/// Makes the pair; each package has a name and its `install` script.
fn pair(name: &str, packages: &[(&str, &str)]) -> Pair {
    let sandbox = Sandbox::new(name).unwrap();
    Warm::of(Fixture::Small, Scripts::Off).unwrap().fill_npm_cache(&sandbox).unwrap();
    let sides = ["npm", "rift"].map(|side| {
        let project = sandbox.path(side);
        prepare_mini(&project).unwrap();
        for (package, script) in packages {
            let manifest = json!({"scripts": {"install": script}});
            add_package(&sandbox, &project, package, manifest, &[("old", "old\n")]).unwrap();
        }
        project
    });
    let [npm, rift] = sides;
    Pair { sandbox, npm, rift }
}

impl Pair {
    /// Runs `npm ci` with `extra`, below the words in `around`, in both.
    fn ci(&self, around: &[&str], extra: &[&str]) -> [Ran; 2] {
        let rift = rift_binary().unwrap();
        let rift: Vec<&str> =
            [rift.to_str().unwrap(), "exec"].iter().chain(extra).chain(&["--"]).copied().collect();
        [(&self.npm, &[][..]), (&self.rift, &rift)].map(|(project, before)| {
            let words: Vec<&str> =
                around.iter().chain(before).chain(&["npm", "ci"]).copied().collect();
            let mut command = self.sandbox.command(project, words[0]);
            self.sandbox.run(command.args(&words[1..])).unwrap().success().unwrap()
        })
    }

    #[track_caller]
    fn assert_same(&self) {
        let found = compare(&self.npm, &self.rift, Options::default()).unwrap();
        assert!(found.is_empty(), "{}", found[0]);
    }

    fn clear(&self) {
        for project in [&self.npm, &self.rift] {
            clear(&project.join("node_modules")).unwrap();
        }
    }

    /// Returns what `rift why` says of the last run.
    fn why(&self) -> String {
        let mut rift = self.sandbox.rift(&self.rift, &["why"]).unwrap();
        self.sandbox.run(&mut rift).unwrap().success().unwrap().stdout
    }
}

fn read(project: &Path, file: &str) -> String {
    fs::read_to_string(project.join("node_modules").join(file)).unwrap()
}

/// Without a listener nothing is seen, so nothing is kept; everything else is as ever.
#[test]
fn without_a_seccomp_listener_no_result_is_kept() {
    let name = "without_a_seccomp_listener_no_result_is_kept";
    if !have(name, &[Need::Tool("cc")]) {
        return;
    }
    let deny = compiled("deny").unwrap();
    let deny = deny.to_str().unwrap();
    // Too old a kernel, filters that forbid filters, one that kills who wants one.
    for error in [libc::ENOSYS, libc::EPERM, libc::EACCES, 0] {
        let pair = pair("no-listener", &[("made", "echo made > new && echo ran >> \"$LOG\"")]);
        let log = pair.sandbox.path("log");
        let (call, error) = (libc::SYS_seccomp.to_string(), error.to_string());
        let log_at = format!("LOG={}", log.display());
        let around = ["env", log_at.as_str(), deny, &call, &error];
        for round in 1..=2 {
            pair.ci(&around, &[]);
            pair.assert_same();
            assert_eq!(read(&pair.rift, "made/new"), "made\n");
            let ran = fs::read_to_string(&log).unwrap().lines().count();
            assert_eq!(ran, 2 * round, "npm's and rift's ran each time: {error}");
            assert!(pair.why().contains("could not be observed"), "{}", pair.why());
            pair.clear();
        }
    }
}

/// The default filter of Docker refuses these to who lacks `CAP_SYS_PTRACE`, as root does in its containers.
#[test]
fn results_are_kept_where_containers_refuse_to_trace() {
    let name = "results_are_kept_where_containers_refuse_to_trace";
    if !have(name, &[Need::Root, Need::Tool("cc"), Need::Tool("setpriv")]) {
        return;
    }
    let deny = compiled("deny").unwrap();
    let error = libc::EPERM.to_string();
    let calls =
        [libc::SYS_pidfd_getfd, libc::SYS_process_vm_readv, libc::SYS_ptrace, libc::SYS_kcmp]
            .map(|call| call.to_string());
    let mut around = vec!["setpriv", "--bounding-set", "-sys_ptrace"];
    for call in &calls {
        around.extend([deny.to_str().unwrap(), call, &error]);
    }
    let pair = pair("container", &[("made", "echo $$ > new")]);
    let mut ran = Vec::new();
    for _ in 0..2 {
        pair.ci(&around, &[]);
        assert!(!pair.why().contains("could not be observed"), "{}", pair.why());
        ran.push(read(&pair.rift, "made/new"));
        pair.clear();
    }
    assert_eq!(ran[0], ran[1], "what one run of the script left");
}

/// Without `CAP_SYS_PTRACE` the paths that another user's process changes can't be read.
#[test]
fn what_another_users_process_changes_is_not_taken_for_nothing() {
    let name = "what_another_users_process_changes_is_not_taken_for_nothing";
    if !have(name, &[Need::Root, Need::Tool("setpriv")]) {
        return;
    }
    // A write that would be harmless if it could be told from others, and needs no folder of that user's.
    let script = "setpriv --reuid 65534 --clear-groups sh -c 'echo x > /dev/null'; echo $$ > new";
    let pair = pair("other-user", &[("drops", script)]);
    let around = ["setpriv", "--bounding-set", "-sys_ptrace"];
    let mut ran = Vec::new();
    for _ in 0..2 {
        pair.ci(&around, &[]);
        let reason = "it used a process that rift may not look into, which can't be observed";
        assert!(pair.why().contains(reason), "{}", pair.why());
        ran.push(read(&pair.rift, "drops/new"));
        pair.clear();
    }
    assert_ne!(ran[0], ran[1], "what two runs of the script left");
}

/// A watch of one who may not install a filter otherwise costs scripts the rights of set-user-ID programs; without
/// anything to keep there is no watch, and what the project itself runs is never watched.
#[test]
fn a_watched_script_gains_no_rights() {
    let name = "a_watched_script_gains_no_rights";
    if !have(name, &[Need::Root, Need::Tool("setpriv")]) {
        return;
    }
    let pair = pair("rights", &[("asks", "\"$IDENTITY\" -u > who")]);
    let id = pair.sandbox.path("id");
    fs::copy("/usr/bin/id", &id).unwrap();
    chown(&id, Some(65_534), None).unwrap();
    fs::set_permissions(&id, fs::Permissions::from_mode(0o4755)).unwrap();
    for project in [&pair.npm, &pair.rift] {
        let changed = rift_tests::fixture::edit_json(&project.join("package.json"), |manifest| {
            manifest["scripts"]["postinstall"] = "\"$IDENTITY\" -u > root-who".into();
            Ok(())
        });
        changed.unwrap();
    }
    let identity = format!("IDENTITY={}", id.display());
    let plain = ["env", identity.as_str()];
    // As for everybody who is not root: no CAP_SYS_ADMIN.
    let bound = ["env", identity.as_str(), "setpriv", "--bounding-set", "-sys_admin"];
    for (around, options, watched) in [
        (&plain[..], &["--no-cache"][..], "65534\n"),
        (&bound, &["--no-cache"], "0\n"),
        (&bound, &["--no-script-cache"], "65534\n"),
    ] {
        pair.ci(around, options);
        assert_eq!(read(&pair.npm, "asks/who"), "65534\n", "{around:?}");
        assert_eq!(read(&pair.rift, "asks/who"), watched, "{around:?} {options:?}");
        let own = fs::read_to_string(pair.rift.join("root-who")).unwrap();
        assert_eq!(own, "65534\n", "{around:?} {options:?}");
        pair.clear();
    }
}

/// npm runs the scripts of several packages at once where the machine has more processors.
#[test]
fn scripts_run_one_after_the_other() {
    let script = "echo begin >> \"$LOG\"; sleep 0.2; echo end >> \"$LOG\"";
    let pair = pair("in-turn", &[("one", script), ("two", script), ("three", script)]);
    let log = pair.sandbox.path("log");
    let mut command = pair.sandbox.rift(&pair.rift, &["exec", "--", "npm", "ci"]).unwrap();
    pair.sandbox.run(command.env("LOG", &log)).unwrap().success().unwrap();
    assert_eq!(fs::read_to_string(&log).unwrap(), "begin\nend\n".repeat(3));
}

/// A script that has to run each time finds its package as the archive has it, not as it left it.
#[test]
fn a_script_that_runs_again_starts_from_the_packages_own_files() {
    let script = "echo more >> old; mkdir made; echo x > made/file; echo x > \"$OUTSIDE\"";
    let pair = pair("again", &[("grows", script)]);
    let outside = format!("OUTSIDE={}", pair.sandbox.path("left").display());
    for round in 0..3 {
        // Into what the former run left, and once into nothing.
        pair.ci(&["env", &outside], &[]);
        pair.assert_same();
        assert_eq!(read(&pair.rift, "grows/old"), "old\nmore\n", "round {round}");
        if round == 1 {
            pair.clear();
        }
    }
}

/// With `--no-script-cache` scripts run at every install, the tree being known or not.
#[test]
fn without_the_script_cache_scripts_run_each_time() {
    let pair = pair("no-script-cache", &[("counts", "echo made > new; echo ran >> \"$LOG\"")]);
    let log = pair.sandbox.path("log");
    let words = format!("LOG={}", log.display());
    for round in 1..=3 {
        pair.ci(&["env", &words], &["--no-script-cache"]);
        pair.assert_same();
        assert_eq!(fs::read_to_string(&log).unwrap().lines().count(), 2 * round);
    }
}
