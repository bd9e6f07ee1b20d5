//! Watchers on mounted trees: what another process changes in a mount is noticed as it is in real files.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs;
use std::path::{Path, PathBuf};

use rift_tests::again::as_root_and_nobody;
use rift_tests::fixture::Fixture;
use rift_tests::mounts::{mounts_at, open, rift, with_tree};
use rift_tests::need::{Need, have};
use rift_tests::sandbox::Sandbox;
use rift_tests::warm::{Scripts, Warm};
use rift_tests::{full, repository};

/// Returns whether a test is to go on; they are slow, so as nobody only where all was asked for.
fn is_wanted(test: &str) -> bool {
    if full() { as_root_and_nobody(test) } else { have(test, &[Need::Fuse, Need::Root]) }
}

/// Those of the compiler.
const SETTINGS: &str = r#"{
  "compilerOptions": {"target": "es2022", "module": "esnext", "moduleResolution": "bundler", "strict": true, "types": []},
  "include": ["src"]
}"#;

/// What `tests/apps/watch.mjs` notices in a folder; it finds its packages from `inside`.
fn noticed(sandbox: &Sandbox, inside: &Path, what: &str, folder: &Path) -> String {
    let mut command = sandbox.command(inside, "node");
    command
        .arg(repository().join("tests/apps/watch.mjs"))
        .args([what.as_ref(), folder.as_os_str()]);
    sandbox.run(&mut command).unwrap().success().unwrap().stdout
}

/// By inotify(7) and by chokidar.
#[test]
fn changes_in_a_mount_are_noticed() {
    let name = "changes_in_a_mount_are_noticed";
    if !is_wanted(name) {
        return;
    }
    let sandbox = with_tree("watch");
    let tools = sandbox.path("tools");
    fs::create_dir(&tools).unwrap();
    fs::write(tools.join("package.json"), r#"{"dependencies": {"chokidar": "4.0.3"}}"#).unwrap();
    sandbox.run(&mut sandbox.npm(&tools, &["install"])).unwrap().success().unwrap();
    for what in ["raw", "chokidar"] {
        let (real, mount) = (sandbox.path(&format!("real-{what}")), format!("mount-{what}"));
        rift(&sandbox, &sandbox.home(), &["materialize", "tree", &real.display().to_string()]);
        let mount = open(&sandbox, &mount);
        let (expected, found) = std::thread::scope(|scope| {
            let expected = scope.spawn(|| noticed(&sandbox, &tools, what, &real));
            let found = noticed(&sandbox, &tools, what, &mount);
            (expected.join().unwrap(), found)
        });
        assert_eq!(found, expected, "{what}");
        // Nothing is noticed where nobody looks.
        assert!(expected.lines().count() > 20, "{what}: {expected}");
    }
}

/// By `tsc --watch` and vite's server, with `node_modules` mounted, and with the sources mounted too.
#[test]
fn tools_notice_changes_in_mounted_sources() {
    let name = "tools_notice_changes_in_mounted_sources";
    // Root makes what nobody reads.
    let warm = Warm::of(Fixture::Small, Scripts::Off).unwrap();
    if !is_wanted(name) {
        return;
    }
    let sandbox = Sandbox::new("watch-tools").unwrap();
    warm.fill_npm_cache(&sandbox).unwrap();
    let sources = sandbox.path("sources");
    fs::create_dir(&sources).unwrap();
    fs::write(sources.join("part.ts"), "export const part: number = 1;\n").unwrap();
    let main = "import 'react';\nimport { part } from './part';\nconsole.log(part);\n";
    fs::write(sources.join("main.ts"), main).unwrap();
    rift(&sandbox, &sources, &["ingest", ".", "--name", "sources"]);
    let kinds = if full() { &["real", "modules", "all"][..] } else { &["real", "all"] };
    for what in ["tsc", "vite"] {
        let projects = kinds.iter().map(|kind| {
            let project = sandbox.path(&format!("{what}-{kind}"));
            Fixture::Small.prepare(&project).unwrap();
            fs::write(project.join("tsconfig.json"), SETTINGS).unwrap();
            let shown = if *kind == "real" { "files" } else { "mount" };
            let ci = ["exec", "--as", shown, "--", "npm", "ci", "--ignore-scripts"];
            rift(&sandbox, &project, &ci);
            let show = if *kind == "all" { "open" } else { "materialize" };
            rift(&sandbox, &project, &[show, "sources", "src"]);
            let mounts = ["node_modules", "src"].map(|folder| mounts_at(&project.join(folder)));
            let expected = [usize::from(*kind != "real"), usize::from(*kind == "all")];
            assert_eq!(mounts, expected, "{kind}");
            project
        });
        let projects: Vec<PathBuf> = projects.collect();
        let all: Vec<String> = std::thread::scope(|scope| {
            let watch = |project| noticed(&sandbox, project, what, project);
            let watching: Vec<_> =
                projects.iter().map(|project| scope.spawn(move || watch(project))).collect();
            watching.into_iter().map(|one| one.join().unwrap()).collect()
        });
        for (kind, found) in kinds.iter().zip(&all) {
            assert_eq!(found, &all[0], "{what}, mounted: {kind}");
        }
        assert!(all[0].lines().count() > 10, "{what}: {}", all[0]);
    }
}
