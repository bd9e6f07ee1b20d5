//! `npm ci` on mounts where something is in the way: a container's filter, no device, a busy tree, a full store.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rift_tests::again::as_root_and_nobody;
use rift_tests::fault::{Room, SmallDisk};
use rift_tests::fixture::Fixture;
use rift_tests::mounts::{
    assert_same, eventually, kill, mounts_at, rift, servers_of, state, uncover,
};
use rift_tests::need::{Need, have};
use rift_tests::npm_project::add_package;
use rift_tests::refused::{REFUSALS, Refusal};
use rift_tests::sandbox::{Sandbox, rift_binary};
use rift_tests::warm::{Scripts, Warm};
use serde_json::json;

const CI: [&str; 6] = ["exec", "--as", "mount", "--", "npm", "ci"];

/// Where a sandbox has the small project, whose packages npm has in its cache.
fn project(sandbox: &Sandbox, warm: &Warm) -> PathBuf {
    warm.fill_npm_cache(sandbox).unwrap();
    let project = sandbox.path("project");
    Fixture::Small.prepare(&project).unwrap();
    project
}

/// A plan only tells: what is not mounted any more is not mounted by it.
#[test]
fn a_plan_mounts_nothing() {
    let name = "a_plan_mounts_nothing";
    if !have(name, &[Need::Root, Need::Fuse]) {
        return;
    }
    let warm = Warm::of(Fixture::Small, Scripts::Off).unwrap();
    let sandbox = Sandbox::new("npm-plan").unwrap();
    let project = project(&sandbox, &warm);
    let tree = project.join("node_modules");
    fs::write(project.join("rift.toml"), "as = \"mount\"\n").unwrap();
    let plan = || rift(&sandbox, &project, &["plan", "--", "npm", "ci", "--ignore-scripts"]).stdout;
    let install = || rift(&sandbox, &project, &["exec", "--", "npm", "ci", "--ignore-scripts"]);
    install();
    assert!(plan().contains("which is there already"), "{}", plan());
    servers_of(&tree).into_iter().for_each(kill);
    assert!(plan().contains("which would be mounted again"), "{}", plan());
    assert!(servers_of(&tree).is_empty());
    uncover(&sandbox, &tree);
    assert!(plan().contains("which would be mounted again"), "{}", plan());
    assert_eq!((state(&sandbox, &tree).as_str(), mounts_at(&tree)), ("unmounted", 0));
    install();
    assert_eq!((state(&sandbox, &tree).as_str(), mounts_at(&tree)), ("mounted", 1));
    rift(&sandbox, &project, &["close", "node_modules", "--discard"]);
}

/// Where mounts are refused, in whatever way a container does it, the tree is there as files, which is said once; also where
/// it was mounted when that was permitted.
#[test]
fn npm_ci_makes_files_where_mounts_are_refused() {
    let name = "npm_ci_makes_files_where_mounts_are_refused";
    let tools = ["cc", "setpriv", "unshare"].map(Need::Tool);
    if !have(name, &[&[Need::Root, Need::Fuse][..], &tools].concat()) {
        return;
    }
    let warm = Warm::of(Fixture::Small, Scripts::Off).unwrap();
    let binary = rift_binary().unwrap();
    let ways =
        if rift_tests::full() { &REFUSALS[..] } else { &[Refusal::Calls, Refusal::Container] };
    for way in ways {
        let sandbox = Sandbox::new("npm-refused").unwrap();
        let project = project(&sandbox, &warm);
        let tree = project.join("node_modules");
        let words = way.words().unwrap();
        let refused = |strict: &str| {
            let mut command = sandbox.command(&project, &words[0]);
            command.args(&words[1..]).arg(&binary).args(CI).arg("--ignore-scripts");
            sandbox.run(command.env("RIFT_STRICT", strict)).unwrap()
        };
        for was_mounted in [false, true] {
            if was_mounted {
                rift(&sandbox, &project, &[&CI[..], &["--ignore-scripts"]].concat());
                assert_eq!((state(&sandbox, &tree).as_str(), mounts_at(&tree)), ("mounted", 1));
                fs::write(tree.join("extra"), "").unwrap();
                uncover(&sandbox, &tree);
            }
            let context = format!("{way:?}, mounted before: {was_mounted}");
            let ran = refused("1");
            assert_eq!(ran.status.code(), Some(125), "{context}: {ran}");
            let ran = refused("0");
            assert_eq!(ran.status.code(), Some(0), "{context}: {ran}");
            assert_eq!(ran.stderr.matches("warning:").count(), 1, "{context}: {ran}");
            let found = (state(&sandbox, &tree), mounts_at(&tree));
            assert_eq!(found, ("current".to_owned(), 0), "{context}: {ran}");
            assert_same(&warm.project(), &project);
            assert!(servers_of(&tree).is_empty(), "{context}");
        }
    }
}

/// A process that works in the tree, and has one of its files open.
struct Busy(std::process::Child);

impl Busy {
    fn inside(sandbox: &Sandbox, tree: &Path) -> Self {
        let mut shell = sandbox.command(&tree.join("react"), "sh");
        shell.args(["-c", "exec 3< index.js; echo go; read line; cat <&3"]);
        let mut child = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
        Self(child)
    }

    /// What it reads in the end.
    fn end(mut self) -> String {
        drop(self.0.stdin.take());
        let output = self.0.wait_with_output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

/// Who is in the tree while it is installed again goes on with what was there, or hears that it is gone.
#[test]
fn npm_ci_replaces_a_busy_mount() {
    let name = "npm_ci_replaces_a_busy_mount";
    // Root makes what nobody reads.
    let warm = Warm::of(Fixture::Small, Scripts::Off).unwrap();
    let is_wanted = || match rift_tests::full() {
        true => as_root_and_nobody(name),
        false => have(name, &[Need::Root, Need::Fuse]),
    };
    if !is_wanted() {
        return;
    }
    let sandbox = Sandbox::new("npm-busy").unwrap();
    let project = project(&sandbox, &warm);
    let tree = project.join("node_modules");
    let ci = [&CI[..], &["--ignore-scripts"]].concat();
    rift(&sandbox, &project, &ci);
    let text = fs::read_to_string(tree.join("react/index.js")).unwrap();
    let mut expected = warm.project();
    for way in ["unchanged", "edited", "emptied", "removed", "another lockfile"] {
        let busy = Busy::inside(&sandbox, &tree);
        match way {
            "edited" => fs::write(tree.join("react/package.json"), "{}").unwrap(),
            "emptied" => {
                for entry in fs::read_dir(&tree).unwrap() {
                    let path = entry.unwrap().path();
                    let is_folder = path.symlink_metadata().unwrap().is_dir();
                    if is_folder { fs::remove_dir_all(path) } else { fs::remove_file(path) }
                        .unwrap();
                }
            }
            "removed" => fs::remove_dir_all(&tree).unwrap(),
            "another lockfile" => {
                let files = [("index.js", "module.exports = 1;\n")];
                add_package(&sandbox, &project, "one-more", json!({}), &files).unwrap();
                expected = sandbox.path("expected");
                fs::create_dir(&expected).unwrap();
                for file in ["package.json", "package-lock.json"] {
                    fs::copy(project.join(file), expected.join(file)).unwrap();
                }
                let mut npm = sandbox.npm(&expected, &["ci", "--ignore-scripts"]);
                sandbox.run(&mut npm).unwrap().success().unwrap();
            }
            _ => {}
        }
        rift(&sandbox, &project, &ci);
        assert_eq!((state(&sandbox, &tree).as_str(), mounts_at(&tree)), ("mounted", 1), "{way}");
        assert_same(&expected.join("node_modules"), &tree);
        assert_eq!(busy.end(), text, "{way}");
        eventually(|| servers_of(&tree).len() == 1);
    }
    rift(&sandbox, &project, &["close", "--discard", "node_modules"]);
    eventually(|| servers_of(&tree).is_empty());
}

/// An install into a store without room ends with npm's tree, mounted or not, and the next one with room is mounted.
#[test]
fn npm_ci_ends_with_npms_tree_however_full_the_store_is() {
    let name = "npm_ci_ends_with_npms_tree_however_full_the_store_is";
    if !have(name, &[Need::Root, Need::Fuse]) {
        return;
    }
    let warm = Warm::of(Fixture::Small, Scripts::Off).unwrap();
    let sandbox = Sandbox::new("npm-full").unwrap();
    let disk = SmallDisk::mount(&sandbox.store(), 512 << 20, 10_000).unwrap();
    let project = project(&sandbox, &warm);
    let tree = project.join("node_modules");
    let ci = [&CI[..], &["--ignore-scripts"]].concat();
    rift(&sandbox, &project, &ci);
    let mut mounted = 0;
    for count in if rift_tests::full() { 0..40 } else { 0..2 } {
        let blocks = count * if rift_tests::full() { 4 } else { 80 };
        for room in [Room { blocks, inodes: 1_000 }, Room { blocks: 100_000, inodes: count }] {
            // What was there goes: with a new state, or by the fallback.
            fs::write(tree.join("extra"), "").unwrap();
            disk.leave(room).unwrap();
            let ran = rift(&sandbox, &project, &ci);
            let context = format!("{room:?}: {ran}");
            assert!(ran.stderr.matches("warning:").count() <= 1, "{context}");
            let is_mounted = mounts_at(&tree) == 1;
            assert_eq!(mounts_at(&tree), usize::from(is_mounted), "{context}");
            assert_eq!(ran.stderr.contains("warning:"), !is_mounted, "{context}");
            mounted += u32::from(is_mounted);
            assert_same(&warm.project(), &project);
            disk.resize(512 << 20, 10_000).unwrap();
            rift(&sandbox, &project, &ci);
            assert_eq!((state(&sandbox, &tree).as_str(), mounts_at(&tree)), ("mounted", 1));
            assert_same(&warm.project(), &project);
            eventually(|| servers_of(&tree).len() == 1);
        }
    }
    assert!(mounted > 0, "there was never enough room");
    rift(&sandbox, &project, &["store", "verify"]);
    rift(&sandbox, &project, &["close", "--discard", "node_modules"]);
}
