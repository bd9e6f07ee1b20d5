//! Stores in memory: `--tier ram`, on a `/dev/shm` of the test's own, judged by npm's own tree.
//!
//! Each [`Memory`] is a mount namespace with such a file system of a given size, in which `rift` runs; it is gone with the
//! value, as after a restart of the machine.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rift_tests::again::LET_GO;
use rift_tests::differ::{Options, compare};
use rift_tests::fixture::Fixture;
use rift_tests::need::{Need, have};
use rift_tests::npm_project::prepare_large;
use rift_tests::sandbox::{Ran, Sandbox, clear};
use rift_tests::warm::{Scripts, Warm};

/// What the namespace is made by: `sh -c SETUP sh LET_GO OPTIONS`.
const SETUP: &str =
    "$1 && mount -t tmpfs -o \"$2\" rift-test /dev/shm && echo ready && exec sleep 3600";

/// A `/dev/shm` of the test's own.
struct Memory<'s> {
    sandbox: &'s Sandbox,
    holder: Child,
}

impl<'s> Memory<'s> {
    fn new(sandbox: &'s Sandbox, bytes: u64, inodes: u64) -> Self {
        Self::mounted(sandbox, &format!("size={bytes},nr_inodes={inodes},mode=1777"))
    }

    fn mounted(sandbox: &'s Sandbox, options: &str) -> Self {
        let mut command = sandbox.command(&sandbox.home(), "unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", SETUP, "sh", LET_GO]);
        command.arg(options).stdout(Stdio::piped());
        let mut holder = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self { sandbox, holder }
    }

    /// Returns a command in the namespace.
    fn command(&self, inside: &Path, words: &[&str], variables: &[(&str, &str)]) -> Command {
        let mut command = self.sandbox.command(inside, "nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.holder.id()));
        // Who enters a mount namespace begins at its root.
        command.args(["sh", "-c", "cd \"$1\" && shift && exec \"$@\"", "sh"]).arg(inside);
        command.args(words).env("npm_config_offline", "true");
        command.envs(variables.iter().copied());
        command
    }

    fn run(&self, inside: &Path, words: &[&str], variables: &[(&str, &str)]) -> Ran {
        let ran = self.sandbox.run(&mut self.command(inside, words, variables)).unwrap();
        assert!(!ran.stderr.contains("panicked"), "{ran}");
        ran
    }

    fn rift(&self, inside: &Path, words: &[&str], variables: &[(&str, &str)]) -> Ran {
        let rift = rift_tests::sandbox::rift_binary().unwrap().display().to_string();
        let words: Vec<&str> = [&*rift, "--tier", "ram"].iter().chain(words).copied().collect();
        self.run(inside, &words, variables)
    }

    fn good(&self, inside: &Path, words: &[&str]) -> String {
        self.rift(inside, words, &[]).success().unwrap().stdout.trim_end().to_owned()
    }

    fn ci(&self, project: &Path, variables: &[(&str, &str)]) -> Ran {
        self.rift(project, &["exec", "--", "npm", "ci", "--ignore-scripts"], variables)
    }

    /// Returns what the folder of the store takes, in bytes.
    fn used(&self, inside: &Path) -> u64 {
        let stats = self.good(inside, &["store", "stats", "--json"]);
        let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
        assert_eq!(stats["tier"], "ram");
        stats["disk_bytes"].as_u64().unwrap()
    }
}

impl Drop for Memory<'_> {
    fn drop(&mut self) {
        let _is_ended = self.holder.kill().and_then(|()| self.holder.wait()).is_ok();
    }
}

fn needs(name: &str) -> bool {
    have(name, &[Need::Root, Need::Tool("unshare"), Need::Tool("nsenter")])
}

fn prepared(name: &str) -> (Sandbox, PathBuf, Warm) {
    let sandbox = Sandbox::new(name).unwrap();
    let warm = Warm::of(Fixture::Small, Scripts::Off).unwrap();
    warm.fill_npm_cache(&sandbox).unwrap();
    let project = sandbox.path("project");
    Fixture::Small.prepare(&project).unwrap();
    (sandbox, project, warm)
}

#[track_caller]
fn assert_same(expected: &Path, found: &Path) {
    let differences = compare(expected, found, Options::default()).unwrap();
    let lines: Vec<String> = differences.iter().take(20).map(ToString::to_string).collect();
    assert!(lines.is_empty(), "{found:?}:\n{}", lines.join("\n"));
}

fn warnings(ran: &Ran) -> usize {
    ran.stderr.matches("warning: ").count()
}

#[test]
fn a_store_in_memory_serves_installs() {
    if !needs("a_store_in_memory_serves_installs") {
        return;
    }
    let (sandbox, project, warm) = prepared("memory");
    let memory = Memory::new(&sandbox, 1 << 30, 100_000);
    let place = format!("/dev/shm/rift-ram-{}", rustix::process::geteuid().as_raw());
    assert_eq!(memory.good(&project, &["store", "path"]), place);
    for _ in 0..2 {
        let ran = memory.ci(&project, &[]).success().unwrap();
        assert_eq!(warnings(&ran), 0, "{ran}");
        assert_same(&warm.project(), &project);
        clear(&project.join("node_modules")).unwrap();
    }
    assert!(memory.good(&project, &["why"]).contains("projected"));
    assert!(!sandbox.store().exists(), "nothing is written to a disk but the project");
    let mode = memory.run(&project, &["stat", "-c", "%a %F", &place], &[]);
    assert_eq!(mode.stdout, "700 directory\n");
    assert!(memory.used(&project) > 50_000_000);
    assert!(memory.good(&project, &["store", "stats"]).contains("MB  of memory may be used"));
    let doctor = memory.good(&project, &["doctor"]);
    assert!(doctor.contains(&format!("{place} (in memory, as you asked)")), "{doctor}");
    assert!(doctor.contains("takes what memory has no room for"), "{doctor}");
    let origins = memory.good(&project, &["config", "list", "--origins"]);
    let tier = origins.lines().find(|line| line.starts_with("tier = ")).unwrap();
    assert!(tier.contains("\"ram\"") && tier.contains("--tier"), "{tier}");
    // Without the flag, too.
    let listed = ["self", "uninstall", "--dry-run"];
    let rift = rift_tests::sandbox::rift_binary().unwrap().display().to_string();
    let listed = memory.run(&project, &[&[&*rift], &listed[..]].concat(), &[]).success().unwrap();
    assert!(listed.stdout.contains(&place), "{listed}");
    // The variable and the user's own file say the same.
    let path = |variables: &[(&str, &str)]| {
        memory.run(&project, &[&*rift, "store", "path"], variables).success().unwrap().stdout
    };
    assert_eq!(path(&[("RIFT_TIER", "ram")]).trim_end(), place);
    assert_eq!(path(&[]).trim_end(), sandbox.store().display().to_string());
    fs::write(project.join("rift.toml"), "tier = \"ram\"\n").unwrap();
    let refused = memory.run(&project, &[&*rift, "store", "path"], &[]);
    assert!(refused.stderr.contains("a project may not set `tier`"), "{refused}");
}

/// Wherever memory ends, the command has its tree, from the disk's store or by npm itself, and that is said once.
#[test]
fn what_memory_has_no_room_for_goes_to_the_disk() {
    if !needs("what_memory_has_no_room_for_goes_to_the_disk") {
        return;
    }
    let (sandbox, project, warm) = prepared("spill");
    let large = 100_000;
    let mut sizes = vec![
        (16 << 10, large),
        (256 << 10, large),
        (2 << 20, large),
        (16 << 20, large),
        (48 << 20, large),
        (72 << 20, large),
        (80 << 20, large),
        (90 << 20, large),
        (1 << 30, 1),
        (1 << 30, 20),
        (1 << 30, 40),
    ];
    if rift_tests::full() {
        sizes.extend((64..160).map(|part| (part << 19, large)));
        sizes.extend((2..60).map(|inodes| (1 << 30, inodes)));
    }
    for (bytes, inodes) in sizes {
        let what = format!("{bytes} bytes, {inodes} files");
        let memory = Memory::new(&sandbox, bytes, inodes);
        clear(&sandbox.store()).unwrap();
        clear(&project.join("node_modules")).unwrap();
        // All of it, though others may need it.
        let all = [("RIFT_RAM_MAX", "1TB")];
        let ran = memory.ci(&project, &all).success().unwrap();
        assert!(warnings(&ran) <= 1, "{what}: {ran}");
        assert_same(&warm.project(), &project);
        let is_on_disk = sandbox.store().exists();
        assert!(!is_on_disk || warnings(&ran) == 1, "{what}: {ran}");
        if is_on_disk {
            sandbox
                .run(&mut sandbox.rift(&project, &["store", "verify"]).unwrap())
                .unwrap()
                .success()
                .unwrap();
        }
        let verified = memory.rift(&project, &["store", "verify"], &all);
        // There may be room for the beginning of a store, and for none of what it keeps.
        let has_none = ["there is no store", "No space left on device"]
            .iter()
            .any(|says| verified.stderr.contains(says));
        assert!(verified.status.success() || has_none, "{what}: {verified}");
        // What is on the disk is served from there, in silence where there is a store in memory at all.
        clear(&project.join("node_modules")).unwrap();
        let ran = memory.ci(&project, &all).success().unwrap();
        assert!(warnings(&ran) <= usize::from(has_none || !is_on_disk), "{what}: {ran}");
        assert_same(&warm.project(), &project);
    }
    // Where there can be no store on the disk, npm runs itself.
    let memory = Memory::new(&sandbox, 16 << 20, large);
    clear(&project.join("node_modules")).unwrap();
    fs::write(sandbox.path("file"), "").unwrap();
    let nowhere = sandbox.path("file/store").display().to_string();
    let ran = memory.ci(&project, &[("RIFT_STORE", &nowhere)]).success().unwrap();
    assert!(ran.stderr.contains("npm runs itself") && warnings(&ran) <= 2, "{ran}");
    assert_same(&warm.project(), &project);
    clear(&project.join("node_modules")).unwrap();
    let ran = memory.ci(&project, &[("RIFT_STRICT", "1")]);
    assert_eq!(ran.status.code(), Some(125), "{ran}");
    assert!(ran.stderr.contains("no room"), "{ran}");
    // Other commands say that there is no room, and change nothing.
    let warm = warm.project().display().to_string();
    let ran = memory.rift(&project, &["ingest", &warm], &[]);
    assert!(ran.status.code() == Some(125) && ran.stderr.contains("no room left"), "{ran}");
    memory.good(&project, &["store", "verify"]);
}

/// The limit is kept: what was used least recently makes room, and what cannot be missed is no reason to pass it.
#[test]
fn a_store_in_memory_stays_below_its_limit() {
    if !needs("a_store_in_memory_stays_below_its_limit") {
        return;
    }
    const LIMIT: u64 = 12_000_000;
    let (sandbox, first, _) = prepared("limit");
    let memory = Memory::new(&sandbox, 1 << 30, 100_000);
    let limit = LIMIT.to_string();
    let limit = [("RIFT_RAM_MAX", &*limit)];
    let projects = ["one", "two", "three"].map(|name| sandbox.path(name));
    for project in &projects {
        let name = project.file_name().unwrap().to_str().unwrap();
        prepare_large(&sandbox, project, name, 7 << 20).unwrap();
    }
    for _ in 0..2 {
        for project in &projects {
            let ran = memory.ci(project, &limit).success().unwrap();
            assert_eq!(warnings(&ran), 0, "{ran}");
            assert!(memory.used(&first) <= LIMIT, "{}", memory.used(&first));
            let text =
                fs::read(project.join("node_modules").join(large(project)).join("noise.txt"));
            assert_eq!(text.unwrap().len(), (7 << 20) / 33 * 33);
            clear(&project.join("node_modules")).unwrap();
        }
    }
    assert!(!sandbox.store().exists());
    // Two that are in place can't make room for each other.
    assert_eq!(warnings(&memory.ci(&projects[0], &limit).success().unwrap()), 0);
    let ran = memory.ci(&projects[1], &limit).success().unwrap();
    assert_eq!(ran.stderr.matches("no room for").count(), 1, "{ran}");
    assert_eq!(warnings(&ran), 1, "{ran}");
    assert!(sandbox.store().exists() && memory.used(&first) <= LIMIT);
    memory.good(&first, &["store", "verify"]);
    let ran = memory.ci(&projects[1], &limit).success().unwrap();
    assert!(warnings(&ran) == 0 && ran.stderr.contains("checked"), "{ran}");
    assert_eq!(warnings(&memory.ci(&projects[0], &limit).success().unwrap()), 0);
}

fn large(project: &Path) -> String {
    format!("large-{}", project.file_name().unwrap().to_str().unwrap())
}

/// Mounts and the shim show trees of memory as they do those of a disk.
#[test]
fn a_tree_in_memory_is_mounted_and_answered_by_the_shim() {
    let name = "a_tree_in_memory_is_mounted_and_answered_by_the_shim";
    if !needs(name) || !have(name, &[Need::Fuse]) {
        return;
    }
    let (sandbox, project, warm) = prepared("memory-ways");
    let memory = Memory::new(&sandbox, 1 << 30, 100_000);
    let modules = project.join("node_modules");
    for how in ["virtual", "mount"] {
        let words = ["exec", "--as", how, "--", "npm", "ci", "--ignore-scripts"];
        let ran = memory.rift(&project, &words, &[]).success().unwrap();
        assert_eq!(warnings(&ran), 0, "{ran}");
        let words =
            ["exec", "--as", how, "--", "node", "-e", "console.log(require('react').version)"];
        let version = memory.rift(&project, &words, &[]).success().unwrap();
        assert!(version.stdout.starts_with("18."), "{version}");
        memory.good(&project, &["close", "node_modules"]);
        assert_same(&warm.project(), &project);
        clear(&modules).unwrap();
    }
    // What has no room is files, and what was mounted before becomes files.
    let words = ["exec", "--as", "mount", "--", "npm", "ci", "--ignore-scripts"];
    memory.rift(&project, &words, &[]).success().unwrap();
    let other = sandbox.path("other");
    prepare_large(&sandbox, &other, "other", 2 << 20).unwrap();
    for file in ["package.json", "package-lock.json"] {
        fs::copy(other.join(file), project.join(file)).unwrap();
    }
    let full = [("RIFT_RAM_MAX", "1MB")];
    let ran = memory.rift(&project, &words, &full).success().unwrap();
    assert_eq!(ran.stderr.matches("no room for").count(), 1, "{ran}");
    assert!(modules.join("large-other/noise.txt").is_file());
    assert!(!modules.join("vite").exists());
    let status = memory.good(&project, &["status"]);
    assert!(!status.contains("mounted"), "{status}");
}

/// Docker's `/dev/shm` is mounted so that nothing in it can be executed, which takes the shim away.
#[test]
fn where_nothing_may_be_executed_trees_are_files() {
    if !needs("where_nothing_may_be_executed_trees_are_files") {
        return;
    }
    let (sandbox, project, warm) = prepared("noexec");
    let memory = Memory::mounted(&sandbox, "size=1g,mode=1777,noexec");
    let words = ["exec", "--as", "virtual", "--", "npm", "ci", "--ignore-scripts"];
    memory.rift(&project, &words, &[]).success().unwrap();
    let script = "console.log(require('react').version)";
    let words = ["exec", "--as", "virtual", "--", "node", "-e", script];
    let ran = memory.rift(&project, &words, &[]).success().unwrap();
    assert!(ran.stdout.starts_with("18.") && ran.stderr.contains("noexec"), "{ran}");
    assert_eq!(warnings(&ran), 1, "{ran}");
    assert_same(&warm.project(), &project);
}

/// A restart takes the store, and with it what only the store had: npm's tree is made again.
#[test]
fn a_restart_takes_what_only_memory_had() {
    if !needs("a_restart_takes_what_only_memory_had") {
        return;
    }
    let (sandbox, project, warm) = prepared("restart");
    let modules = project.join("node_modules");
    let file = modules.join("react/package.json");
    {
        let memory = Memory::new(&sandbox, 1 << 30, 100_000);
        let words = ["exec", "--as", "virtual", "--", "npm", "ci", "--ignore-scripts"];
        memory.rift(&project, &words, &[]).success().unwrap();
        let change = "require('fs').appendFileSync('node_modules/react/package.json', '\\n')";
        let words = ["exec", "--as", "virtual", "--", "node", "-e", change];
        memory.rift(&project, &words, &[]).success().unwrap();
    }
    assert!(file.is_file(), "what was changed stays");
    assert!(!modules.join("react/index.js").exists());
    let memory = Memory::new(&sandbox, 1 << 30, 100_000);
    let ran = memory.ci(&project, &[]).success().unwrap();
    assert_eq!(warnings(&ran), 0, "{ran}");
    assert_same(&warm.project(), &project);
}
