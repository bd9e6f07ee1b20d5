//! `rift exec -- npm ci` on real projects, judged by what real npm does with the same input.
//!
//! Every expectation is either npm's own result (a tree that the strict differ calls equal, an exit status) or a
//! promise that only rift makes (a hit starts neither npm nor node and needs no network; a repeat touches nothing).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rift_tests::again::apart;
use rift_tests::differ::{Options, compare};
use rift_tests::fault::{CrashDisk, Dice, kill_at_random};
use rift_tests::fixture::{Fixture, direct_dependencies, edit_json};
use rift_tests::need::{Need, have};
use rift_tests::npm_project::prepare_mini;
use rift_tests::sandbox::{Ran, Sandbox, clear};
use rift_tests::warm::{Scripts, Warm};

fn fixtures() -> Vec<Fixture> {
    if rift_tests::full() { vec![Fixture::Small, Fixture::Medium] } else { vec![Fixture::Small] }
}

/// A sandbox with a warm npm cache and the fixture as a project in it.
fn prepared(name: &str, fixture: Fixture, scripts: Scripts) -> (Sandbox, PathBuf, Warm) {
    let warm = Warm::of(fixture, scripts).unwrap();
    let sandbox = Sandbox::new(name).unwrap();
    warm.fill_npm_cache(&sandbox).unwrap();
    let project = sandbox.path("project");
    fixture.prepare(&project).unwrap();
    (sandbox, project, warm)
}

fn rift(sandbox: &Sandbox, project: &Path, npm: &[&str]) -> Ran {
    let words: Vec<&str> = ["exec", "--", "npm"].into_iter().chain(npm.iter().copied()).collect();
    sandbox.run(&mut sandbox.rift(project, &words).unwrap()).unwrap()
}

#[track_caller]
fn assert_same(expected: &Path, found: &Path) {
    let differences = compare(expected, found, Options::default()).unwrap();
    let lines: Vec<String> = differences.iter().take(20).map(ToString::to_string).collect();
    let count = differences.len();
    assert!(
        count == 0,
        "{count} differences between {expected:?} and {found:?}:\n{}",
        lines.join("\n")
    );
}

#[track_caller]
fn assert_store_verifies(sandbox: &Sandbox, project: &Path) {
    sandbox
        .run(&mut sandbox.rift(project, &["store", "verify"]).unwrap())
        .unwrap()
        .success()
        .unwrap();
}

/// What a program that looks at times and identities sees of a tree.
fn identities(root: &Path) -> BTreeMap<PathBuf, (u64, i64, i64, i64, i64)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let m = fs::symlink_metadata(&path).unwrap();
            found.insert(
                path.clone(),
                (m.ino(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()),
            );
            if m.is_dir() {
                folders.push(path);
            }
        }
    }
    found
}

fn learn_and_hit(fixture: Fixture, scripts: Scripts) {
    let (sandbox, project, warm) = prepared("hit", fixture, scripts);
    let native = match (fixture, scripts) {
        // What a compiler leaves holds the path of the project and of the home: npm has to run in the same ones.
        (Fixture::Medium, Scripts::On) => {
            let native = sandbox.path("native");
            fixture.prepare(&native).unwrap();
            sandbox.run(&mut sandbox.npm(&project, scripts.install())).unwrap().success().unwrap();
            fs::rename(project.join("node_modules"), native.join("node_modules")).unwrap();
            native
        }
        _ => warm.project(),
    };
    for round in ["empty store, warm npm cache", "hit", "second hit"] {
        let ran = rift(&sandbox, &project, scripts.install()).success().unwrap();
        assert_same(&native, &project);
        assert!(
            ran.stdout.contains("added ") && ran.stdout.contains(" packages in "),
            "{round}: {ran}"
        );
        assert!(
            !ran.stdout.contains("audited") && !ran.stdout.contains("funding"),
            "{round}: {ran}"
        );
        if round != "empty store, warm npm cache" {
            assert_eq!(ran.stderr.lines().count(), 1, "{round}: {ran}");
        }
        clear(&project.join("node_modules")).unwrap();
    }
    assert_store_verifies(&sandbox, &project);
}

#[test]
fn the_tree_equals_npms_without_scripts() {
    fixtures().into_iter().for_each(|fixture| learn_and_hit(fixture, Scripts::Off));
}

#[test]
fn the_tree_equals_npms_with_scripts() {
    fixtures().into_iter().for_each(|fixture| learn_and_hit(fixture, Scripts::On));
}

/// Argument-less `npm install` of a project whose lockfile is right, and in npm's own form, makes the same files.
#[test]
fn npm_install_of_a_locked_project_equals_npms() {
    let sandbox = mini_sandbox("install");
    let arrange = |at: &Path| {
        Fixture::Small.prepare(at).unwrap();
        let rewrite = ["install", "--package-lock-only", "--ignore-scripts", "--prefer-offline"];
        sandbox.run(&mut sandbox.npm(at, &rewrite)).unwrap().success().unwrap();
    };
    for words in [["install", "--ignore-scripts"], ["i", "--ignore-scripts"]] {
        same_as_npm(words[0], &sandbox, &arrange, &words);
    }
}

/// A hit executes nothing but rift and opens no connection, with no network there to open one to.
#[test]
fn a_hit_starts_neither_npm_nor_node_and_needs_no_network() {
    let name = "a_hit_starts_neither_npm_nor_node_and_needs_no_network";
    if !have(name, &[Need::Strace, Need::NoNetwork]) {
        return;
    }
    for scripts in [Scripts::Off, Scripts::On] {
        let (sandbox, project, warm) = prepared("trace", Fixture::Small, scripts);
        rift(&sandbox, &project, scripts.install()).success().unwrap();
        clear(&project.join("node_modules")).unwrap();
        let trace = sandbox.path("trace");
        let mut command = sandbox.command(&project, "unshare");
        command
            .args(["--net", "strace", "-f", "-qq", "-e", "trace=execve,execveat,connect", "-o"])
            .arg(&trace);
        command
            .arg(rift_tests::sandbox::rift_binary().unwrap())
            .args(["exec", "--", "npm"])
            .args(scripts.install());
        sandbox.run(&mut command).unwrap().success().unwrap();
        assert_same(&warm.project(), &project);
        let text = fs::read_to_string(&trace).unwrap();
        let calls: Vec<&str> =
            text.lines().filter(|line| line.contains("exec") || line.contains("AF_INET")).collect();
        assert!(calls.len() == 1 && calls[0].contains("execve("), "{}", calls.join("\n"));
    }
}

/// With `node_modules` as it should be, nothing is touched: no inode, no time.
#[test]
fn a_repeat_touches_nothing() {
    let (sandbox, project, _) = prepared("repeat", Fixture::Small, Scripts::Off);
    rift(&sandbox, &project, Scripts::Off.install()).success().unwrap();
    let before = identities(&project);
    rift(&sandbox, &project, Scripts::Off.install()).success().unwrap();
    assert!(identities(&project) == before, "a repeat changed what was there");
}

type Disturb = fn(&Path);

/// Whatever was done to the tree, the next run gives npm's tree again.
#[test]
fn a_repeat_repairs_every_change() {
    let disturbances: &[(&str, Disturb)] = &[
        ("an edited file of the same size and time", |tree| {
            let path = tree.join("react/index.js");
            let metadata = fs::metadata(&path).unwrap();
            let mut bytes = fs::read(&path).unwrap();
            bytes[0] ^= 1;
            fs::write(&path, bytes).unwrap();
            let times = fs::FileTimes::new().set_modified(metadata.modified().unwrap());
            fs::File::options().write(true).open(&path).unwrap().set_times(times).unwrap();
        }),
        ("a longer file", |tree| {
            fs::write(tree.join("react/index.js"), vec![b' '; 100_000]).unwrap()
        }),
        ("a deleted file", |tree| fs::remove_file(tree.join("react/package.json")).unwrap()),
        ("a deleted package", |tree| clear(&tree.join("react")).unwrap()),
        ("an extra file", |tree| fs::write(tree.join("react/extra"), "").unwrap()),
        ("an extra package", |tree| {
            fs::create_dir(tree.join("stranger")).unwrap();
            fs::write(
                tree.join("stranger/package.json"),
                r#"{"name":"stranger","version":"1.0.0"}"#,
            )
            .unwrap();
        }),
        ("another mode", |tree| {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            fs::set_permissions(tree.join("react/index.js"), mode).unwrap();
        }),
        ("a file where a folder was", |tree| {
            clear(&tree.join("react/cjs")).unwrap();
            fs::write(tree.join("react/cjs"), "").unwrap();
        }),
        ("a symlink where a folder was", |tree| {
            clear(&tree.join("react/cjs")).unwrap();
            symlink("/", tree.join("react/cjs")).unwrap();
        }),
        ("a bin link elsewhere", |tree| {
            fs::remove_file(tree.join(".bin/vite")).unwrap();
            symlink("../react/index.js", tree.join(".bin/vite")).unwrap();
        }),
        ("a replaced package folder", |tree| {
            fs::rename(tree.join("react"), tree.join("react-dom/moved")).unwrap();
        }),
        ("no hidden lockfile", |tree| fs::remove_file(tree.join(".package-lock.json")).unwrap()),
        ("an edited hidden lockfile", |tree| {
            fs::write(tree.join(".package-lock.json"), "{}").unwrap()
        }),
    ];
    let (sandbox, project, warm) = prepared("repair", Fixture::Small, Scripts::Off);
    let tree = project.join("node_modules");
    rift(&sandbox, &project, Scripts::Off.install()).success().unwrap();
    for (name, disturb) in disturbances {
        disturb(&tree);
        let ran = rift(&sandbox, &project, Scripts::Off.install());
        assert!(ran.status.success(), "{name}: {ran}");
        let differences = compare(&warm.node_modules(), &tree, Options::default()).unwrap();
        assert!(differences.is_empty(), "{name}: {}", differences[0]);
    }
}

/// One package of another version: the next run makes npm's tree of the new lockfile.
#[test]
fn a_changed_lockfile_changes_the_tree() {
    let (sandbox, project, _) = prepared("changed", Fixture::Small, Scripts::Off);
    rift(&sandbox, &project, Scripts::Off.install()).success().unwrap();
    let update = ["install", "--ignore-scripts", "--package-lock-only", "globals@15.0.0"];
    sandbox.run(&mut sandbox.npm(&project, &update)).unwrap().success().unwrap();
    rift(&sandbox, &project, Scripts::Off.install()).success().unwrap();
    let native = sandbox.path("native");
    fs::create_dir(&native).unwrap();
    for name in ["package.json", "package-lock.json"] {
        fs::copy(project.join(name), native.join(name)).unwrap();
    }
    sandbox.run(&mut sandbox.npm(&native, Scripts::Off.install())).unwrap().success().unwrap();
    assert_same(&native, &project);
}

/// The programs of a project behave as after npm.
#[test]
fn tools_behave_as_after_npm() {
    for fixture in fixtures() {
        let (sandbox, project, warm) = prepared("tools", fixture, Scripts::On);
        let native = sandbox.path("native");
        let copied =
            Command::new("cp").arg("-a").arg(warm.project()).arg(&native).status().unwrap();
        assert!(copied.success());
        for round in 0..2 {
            clear(&project.join("node_modules")).unwrap();
            let ran = rift(&sandbox, &project, &["ci"]).success().unwrap();
            assert!(project.join("node_modules").is_dir(), "round {round}: {ran}");
        }
        let both = |words: &[&str]| {
            let run = |at: &Path| {
                let mut command = sandbox.command(at, words[0]);
                let ran = sandbox.run(command.args(&words[1..])).unwrap();
                let neutral = |text: &str| text.replace(&at.display().to_string(), "PROJECT");
                // Each run of npm that fails names a log of its own.
                let is_log = |line: &&str| line.contains("A complete log of this run");
                let said: Vec<_> = ran.stderr.lines().filter(|line| !is_log(line)).collect();
                (ran.status, neutral(&ran.stdout), neutral(&said.join("\n")))
            };
            (run(&native), run(&project))
        };
        for words in [
            &["npm", "ls"][..],
            &["npm", "ls", "--all", "--json"],
            &["npx", "--no-install", "tsc", "-v"],
        ] {
            let (expected, found) = both(words);
            assert_eq!(found, expected, "{words:?} in {}", fixture.name());
        }
        let (expected, found) = both(&["node_modules/.bin/esbuild", "--version"]);
        assert!(expected.0.success() && found == expected, "{found:?}");

        let before = identities(&project);
        let (expected, found) = both(&["npm", "install"]);
        assert!(expected.1.contains("up to date") && found.1.contains("up to date"), "{found:?}");
        assert_eq!(identities(&project).len(), before.len());
        let (expected, found) = both(&["npm", "rebuild"]);
        assert_eq!((found.0, &found.1), (expected.0, &expected.1));

        for name in direct_dependencies(&project, &["dependencies", "devDependencies"]).unwrap() {
            let script =
                format!("import({name:?}).then(m => console.log(Object.keys(m).sort().join()))");
            let (expected, found) = both(&["node", "--input-type=module", "-e", &script]);
            assert_eq!(
                (found.0, found.1),
                (expected.0, expected.1),
                "import of {name} in {}",
                fixture.name()
            );
            let script = format!("console.log(Object.keys(require({name:?})).sort().join())");
            let (expected, found) = both(&["node", "--input-type=commonjs", "-e", &script]);
            assert_eq!(
                (found.0, found.1),
                (expected.0, expected.1),
                "require of {name} in {}",
                fixture.name()
            );
        }
        if fixture == Fixture::Small {
            for at in [&native, &project] {
                fs::write(
                    at.join("index.html"),
                    r#"<script type="module" src="/main.jsx"></script>"#,
                )
                .unwrap();
                let main = "import React from 'react';\nimport { createRoot } from 'react-dom/client';\n\
                            createRoot(document.body).render(<p>rift</p>);\n";
                fs::write(at.join("main.jsx"), main).unwrap();
            }
            let (expected, found) = both(&["npx", "--no-install", "vite", "build"]);
            assert!(expected.0.success() && found.0.success(), "{found:?}");
            assert_same(&native.join("dist"), &project.join("dist"));
        }
    }
}

/// Runs npm and rift, each in its own copy of what `arrange` made, and asserts one outcome.
fn same_as_npm(name: &str, sandbox: &Sandbox, arrange: &dyn Fn(&Path), words: &[&str]) {
    let (native, ours) = (sandbox.path("npm-side"), sandbox.path("rift-side"));
    for side in [&native, &ours] {
        clear(side).unwrap();
        arrange(&side.join("outer/project"));
    }
    let expected = sandbox.run(&mut sandbox.npm(&native.join("outer/project"), words)).unwrap();
    for round in ["first", "second"] {
        let found = rift(sandbox, &ours.join("outer/project"), words);
        assert_eq!(
            found.status.code(),
            expected.status.code(),
            "{name}, {round}: {found}\nnpm: {expected}"
        );
        let differences = compare(&native, &ours, Options::default()).unwrap();
        let lines: Vec<String> = differences.iter().take(10).map(ToString::to_string).collect();
        assert!(
            lines.is_empty(),
            "{name}, {round} run:\n{}\n{found}\nnpm: {expected}",
            lines.join("\n")
        );
        assert!(!found.stderr.contains("panicked"), "{name}: {found}");
    }
}

fn mini_sandbox(name: &str) -> Sandbox {
    let sandbox = Sandbox::new(name).unwrap();
    Warm::of(Fixture::Small, Scripts::Off).unwrap().fill_npm_cache(&sandbox).unwrap();
    sandbox
}

fn edit_lock(project: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let changed = edit_json(&project.join("package-lock.json"), |lock| {
        change(lock);
        Ok(())
    });
    changed.unwrap();
}

type Arrange = fn(&Path);

/// Broken input ends as under npm: the same status, the same files.
#[test]
fn broken_lockfiles_end_as_under_npm() {
    let cases: &[(&str, Arrange)] = &[
        ("broken JSON", |at| fs::write(at.join("package-lock.json"), "{\"packages\": {").unwrap()),
        ("an empty lockfile", |at| fs::write(at.join("package-lock.json"), "").unwrap()),
        ("JSON of another shape", |at| fs::write(at.join("package-lock.json"), "[1]").unwrap()),
        ("packages of another shape", |at| {
            edit_lock(at, |lock| lock["packages"] = serde_json::json!([]))
        }),
        ("no lockfile", |at| fs::remove_file(at.join("package-lock.json")).unwrap()),
        ("no package.json", |at| fs::remove_file(at.join("package.json")).unwrap()),
        ("a broken package.json", |at| fs::write(at.join("package.json"), "{").unwrap()),
        ("version 99", |at| edit_lock(at, |lock| lock["lockfileVersion"] = 99.into())),
        ("version 1", |at| edit_lock(at, |lock| lock["lockfileVersion"] = 1.into())),
        ("a version that is a string", |at| {
            edit_lock(at, |lock| lock["lockfileVersion"] = "3".into())
        }),
        ("no version", |at| {
            edit_lock(at, |lock| drop(lock.as_object_mut().unwrap().remove("lockfileVersion")))
        }),
        ("a wrong integrity", |at| {
            edit_lock(at, |lock| {
                let other = lock["packages"]["node_modules/js-tokens"]["integrity"].clone();
                lock["packages"]["node_modules/loose-envify"]["integrity"] = other;
            });
        }),
        ("an unreadable integrity", |at| {
            edit_lock(at, |lock| {
                lock["packages"]["node_modules/react"]["integrity"] = "sha512-?".into()
            });
        }),
        ("no integrity", |at| {
            edit_lock(at, |lock| {
                lock["packages"]["node_modules/react"].as_object_mut().unwrap().remove("integrity");
            });
        }),
        ("no resolved", |at| {
            edit_lock(at, |lock| {
                lock["packages"]["node_modules/react"].as_object_mut().unwrap().remove("resolved");
            });
        }),
        ("another dependency in package.json", |at| {
            let text = r#"{"name":"fx-mini","version":"1.0.0","dependencies":{"react":"^17.0.0"}}"#;
            fs::write(at.join("package.json"), text).unwrap();
        }),
        ("a missing package", |at| {
            edit_lock(at, |lock| {
                lock["packages"].as_object_mut().unwrap().remove("node_modules/js-tokens");
            });
        }),
        ("another platform", |at| {
            edit_lock(at, |lock| {
                lock["packages"]["node_modules/react"]["os"] = serde_json::json!(["none"])
            });
        }),
        ("another platform, optional", |at| {
            edit_lock(at, |lock| {
                lock["packages"]["node_modules/react"]["os"] = serde_json::json!(["none"]);
                lock["packages"]["node_modules/react"]["optional"] = true.into();
            });
        }),
        ("an engine from the future", |at| {
            edit_lock(at, |lock| {
                lock["packages"]["node_modules/react"]["engines"] =
                    serde_json::json!({"node": ">=999"});
            });
            fs::write(at.join(".npmrc"), "engine-strict=true\n").unwrap();
        }),
        ("name twins by case", |at| {
            edit_lock(at, |lock| {
                let twin = lock["packages"]["node_modules/react"].clone();
                lock["packages"]["node_modules/React"] = twin;
            });
        }),
        ("an alias", |at| {
            edit_lock(at, |lock| {
                let mut alias = lock["packages"]["node_modules/js-tokens"].clone();
                alias["name"] = "js-tokens".into();
                lock["packages"]["node_modules/tokens"] = alias;
                lock["packages"][""]["dependencies"]["tokens"] = "npm:js-tokens@^4.0.0".into();
            });
            edit_json(&at.join("package.json"), |manifest| {
                manifest["dependencies"]["tokens"] = "npm:js-tokens@^4.0.0".into();
                Ok(())
            })
            .unwrap();
        }),
        ("a nested copy", |at| {
            edit_lock(at, |lock| {
                let copy = lock["packages"]["node_modules/js-tokens"].clone();
                lock["packages"]["node_modules/loose-envify/node_modules/js-tokens"] = copy;
            });
        }),
        ("a shrinkwrap beside the lockfile", |at| {
            fs::copy(at.join("package-lock.json"), at.join("npm-shrinkwrap.json")).unwrap();
        }),
    ];
    let sandbox = mini_sandbox("broken");
    for (name, arrange) in cases {
        let arranged = |at: &Path| {
            prepare_mini(at).unwrap();
            arrange(at);
        };
        same_as_npm(name, &sandbox, &arranged, &["ci"]);
    }
}

/// What was in `node_modules` before ends as under npm too.
#[test]
fn whatever_node_modules_is_ends_as_under_npm() {
    let cases: &[(&str, Arrange)] = &[
        ("a file", |at| fs::write(at.join("node_modules"), "mine").unwrap()),
        ("a symlink to a folder", |at| {
            fs::create_dir(at.join("../elsewhere")).unwrap();
            fs::write(at.join("../elsewhere/mine"), "mine").unwrap();
            symlink("../elsewhere", at.join("node_modules")).unwrap();
        }),
        ("a dangling symlink", |at| symlink("../nowhere", at.join("node_modules")).unwrap()),
        ("another tool's tree", |at| {
            fs::create_dir_all(at.join("node_modules/.pnpm/x")).unwrap();
            fs::write(at.join("node_modules/.modules.yaml"), "").unwrap();
        }),
        ("an empty folder", |at| fs::create_dir(at.join("node_modules")).unwrap()),
    ];
    let sandbox = mini_sandbox("before");
    for (name, arrange) in cases {
        let arranged = |at: &Path| {
            prepare_mini(at).unwrap();
            arrange(at);
        };
        same_as_npm(name, &sandbox, &arranged, &["ci"]);
    }
}

/// npm empties a `node_modules` that it finds and fills the same folder; rift puts another in its place.
#[test]
fn a_full_write_gives_node_modules_another_inode() {
    let sandbox = mini_sandbox("inode");
    let kept = ["npm", "rift"].map(|who| {
        let project = sandbox.path(who);
        prepare_mini(&project).unwrap();
        let tree = project.join("node_modules");
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("other"), "").unwrap();
        let before = fs::metadata(&tree).unwrap().ino();
        let ran = match who {
            "npm" => sandbox.run(&mut sandbox.npm(&project, &["ci"])).unwrap(),
            _ => rift(&sandbox, &project, &["ci"]),
        };
        ran.success().unwrap();
        assert!(!tree.join("other").exists());
        fs::metadata(&tree).unwrap().ino() == before
    });
    assert_eq!(kept, [true, false]);
    assert_same(&sandbox.path("npm"), &sandbox.path("rift"));
}

/// A `node_modules` that is a mount of its own, as in containers, is filled as npm fills it.
#[test]
fn a_mount_at_node_modules_ends_as_under_npm() {
    if !have("a_mount_at_node_modules_ends_as_under_npm", &[Need::Root]) {
        return;
    }
    let sandbox = mini_sandbox("mounted");
    for round in ["first", "second", "third"] {
        for who in ["npm", "rift"] {
            let project = sandbox.path(who);
            let tree = project.join("node_modules");
            if round == "first" {
                prepare_mini(&project).unwrap();
                fs::create_dir(&tree).unwrap();
                let mount = ["-t", "tmpfs", "-o", "size=64m", "tmpfs"];
                assert!(Command::new("mount").args(mount).arg(&tree).status().unwrap().success());
            }
            if round == "second" {
                fs::write(tree.join("react/index.js"), "edited").unwrap();
            }
            let ran = match who {
                "npm" => sandbox.run(&mut sandbox.npm(&project, &["ci"])).unwrap(),
                _ => rift(&sandbox, &project, &["ci"]),
            };
            assert!(ran.status.success(), "{round}: {ran}");
            assert_ne!(fs::metadata(&tree).unwrap().dev(), fs::metadata(&project).unwrap().dev());
        }
        assert_same(&sandbox.path("npm"), &sandbox.path("rift"));
    }
}

/// What npm keeps for itself in its cache, contents and logs, is not made.
#[test]
fn nothing_is_left_in_npms_cache() {
    let sandbox = Sandbox::new("npm-cache").unwrap();
    let project = sandbox.path("project");
    prepare_mini(&project).unwrap();
    let cache = sandbox.home().join(".npm");
    for round in ["cold", "hit", "repeat"] {
        rift(&sandbox, &project, &["ci"]).success().unwrap();
        assert_eq!(fs::read_dir(&cache).unwrap().count(), 0, "{round}");
        if round == "cold" {
            clear(&project.join("node_modules")).unwrap();
        }
    }
    sandbox.run(&mut sandbox.npm(&project, &["ci"])).unwrap().success().unwrap();
    assert!(cache.join("_cacache").is_dir() && cache.join("_logs").is_dir(), "npm leaves both");
}

/// In an image build as root no store is put into a layer: npm runs, and one line says so.
#[test]
fn an_image_build_without_a_named_store_is_left_to_npm() {
    let name = "an_image_build_without_a_named_store_is_left_to_npm";
    if !have(name, &[Need::Root, Need::Tool("unshare"), Need::Tool("hostname")]) {
        return;
    }
    let sandbox = mini_sandbox("image-build");
    let (native, project) = (sandbox.path("native"), sandbox.path("project"));
    for side in [&native, &project] {
        prepare_mini(side).unwrap();
    }
    let native_run = sandbox.run(&mut sandbox.npm(&native, &["ci"])).unwrap().success().unwrap();
    // BuildKit gives its steps this name.
    let build = |variables: &[(&str, &Path)]| {
        let mut command = sandbox.command(&project, "unshare");
        let script = "hostname buildkitsandbox && exec \"$0\" exec -- npm ci";
        command
            .args(["--uts", "sh", "-c", script])
            .arg(rift_tests::sandbox::rift_binary().unwrap());
        command.env_remove("RIFT_STORE").envs(variables.iter().copied());
        sandbox.run(&mut command).unwrap()
    };
    let before = fs::read_dir(sandbox.home()).unwrap().count();
    for _round in 0..2 {
        let ran = build(&[]).success().unwrap();
        assert_same(&native, &project);
        let (said, npms) = ran.stderr.split_once('\n').unwrap();
        let expected = "warning: running without a store: there is no store here: this looks like an image build \
                        (docker build), as root; name a folder with RIFT_STORE";
        assert_eq!((said, npms), (expected, native_run.stderr.as_str()));
        assert_eq!(fs::read_dir(sandbox.home()).unwrap().count(), before, "no store was made");
    }
    let strict = build(&[("RIFT_STRICT", Path::new("1"))]);
    assert_eq!(strict.status.code(), Some(125), "{strict}");
    // A cache mount of the build, for instance.
    let store = sandbox.store();
    for round in ["first", "hit"] {
        clear(&project.join("node_modules")).unwrap();
        let ran = build(&[("RIFT_STORE", &store)]).success().unwrap();
        assert_same(&native, &project);
        assert!(
            ran.stderr.starts_with("rift: ") && !ran.stderr.contains("warning"),
            "{round}: {ran}"
        );
    }
}

/// Places in a lockfile that lead out of the project write nothing there.
#[test]
fn no_place_in_a_lockfile_leads_out() {
    let places = [
        "../evil",
        "/evil",
        "node_modules/../../evil",
        "node_modules/../../../evil",
        "node_modules/react/../../../evil",
        "node_modules/./../../evil",
        "node_modules/..",
        "node_modules/@../evil",
        "node_modules/\u{0}evil",
        "node_modules/a\\..\\..\\evil",
    ];
    let sandbox = mini_sandbox("escape");
    for place in places {
        let outer = sandbox.path("outer");
        clear(&outer).unwrap();
        let project = outer.join("inner/project");
        prepare_mini(&project).unwrap();
        fs::write(outer.join("mine"), "mine").unwrap();
        edit_lock(&project, |lock| {
            let entry = lock["packages"]["node_modules/js-tokens"].clone();
            lock["packages"][place] = entry;
        });
        let ran = rift(&sandbox, &project, &["ci", "--ignore-scripts"]);
        assert!(!ran.stderr.contains("panicked"), "{place:?}: {ran}");
        let names = |folder: &Path| {
            let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
            entries.collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(names(&outer), ["inner", "mine"].map(Into::into).into(), "{place:?}: {ran}");
        assert_eq!(
            names(&outer.join("inner")),
            ["project"].map(Into::into).into(),
            "{place:?}: {ran}"
        );
        assert!(!Path::new("/evil").exists());
    }
}

/// Nesting that no path can hold ends as an error, not as a crash.
#[test]
fn deep_nesting_is_no_crash() {
    let sandbox = mini_sandbox("deep");
    let project = sandbox.path("project");
    prepare_mini(&project).unwrap();
    edit_lock(&project, |lock| {
        let entry = lock["packages"]["node_modules/js-tokens"].clone();
        let place = vec!["node_modules/js-tokens"; 10_000].join("/");
        lock["packages"][place] = entry;
    });
    let ran = rift(&sandbox, &project, &["ci", "--ignore-scripts"]);
    assert!(ran.status.code().is_some() && !ran.stderr.contains("panicked"), "{ran}");
}

/// The settings that change the layout give npm's layout.
#[test]
fn layout_settings_equal_npms() {
    let settings: &[&[&str]] = &[
        &["ci", "--ignore-scripts", "--omit=dev"],
        &["ci", "--ignore-scripts", "--omit=dev", "--omit=optional"],
        &["ci", "--ignore-scripts", "--omit=optional"],
        &["ci", "--ignore-scripts", "--omit=dev", "--include=dev"],
        &["ci", "--ignore-scripts", "--production"],
        &["ci", "--ignore-scripts", "--no-bin-links"],
        &["ci", "--ignore-scripts", "--legacy-peer-deps"],
        &["ci", "--ignore-scripts", "--install-strategy=nested"],
        &["ci", "--ignore-scripts", "--install-strategy=shallow"],
        &["ci", "--ignore-scripts", "--install-strategy=linked"],
        &["ci", "--ignore-scripts", "--cpu=arm64"],
        &["ci", "--ignore-scripts", "--silent"],
        &["ci", "--ignore-scripts", "--dry-run"],
    ];
    let sandbox = mini_sandbox("layout");
    for words in settings {
        same_as_npm(
            &words.join(" "),
            &sandbox,
            &|at: &Path| Fixture::Small.prepare(at).unwrap(),
            words,
        );
    }
}

/// A monorepo of fifty workspaces, linked and with dependencies of their own.
#[test]
fn a_monorepo_equals_npms() {
    let sandbox = mini_sandbox("monorepo");
    let arrange = |at: &Path| {
        prepare_mini(at).unwrap();
        for number in 0..50 {
            let member = at.join(format!("packages/member-{number}"));
            fs::create_dir_all(&member).unwrap();
            let needs = match number {
                0 => serde_json::json!({"js-tokens": "^4.0.0"}),
                _ => serde_json::json!({format!("@mono/member-{}", number - 1): "1.0.0"}),
            };
            let manifest = serde_json::json!({
                "name": format!("@mono/member-{number}"), "version": "1.0.0", "dependencies": needs,
                "bin": {format!("run-{number}"): "run.js"}
            });
            fs::write(member.join("package.json"), manifest.to_string()).unwrap();
            fs::write(member.join("run.js"), "#!/usr/bin/env node\nconsole.log('run')\n").unwrap();
        }
        make_workspaces(&sandbox, at);
    };
    same_as_npm("a monorepo", &sandbox, &arrange, &["ci"]);
}

/// Makes the folders below `packages` workspaces, also in the lockfile.
fn make_workspaces(sandbox: &Sandbox, at: &Path) {
    edit_json(&at.join("package.json"), |manifest| {
        manifest["workspaces"] = serde_json::json!(["packages/*"]);
        Ok(())
    })
    .unwrap();
    let lock = ["install", "--package-lock-only", "--ignore-scripts", "--prefer-offline"];
    sandbox.run(&mut sandbox.npm(at, &lock)).unwrap().success().unwrap();
}

/// A linked folder's command with a first line in DOS form is rewritten as npm rewrites it, hit or not.
#[test]
fn commands_of_linked_folders_are_mended_as_by_npm() {
    let sandbox = mini_sandbox("linked-bins");
    let arrange = |at: &Path| {
        prepare_mini(at).unwrap();
        let member = at.join("packages/member");
        fs::create_dir_all(&member).unwrap();
        let bins = ["dos", "odd", "way", "unix", "mixed", "none"];
        let bin: serde_json::Map<_, _> =
            bins.iter().map(|name| ((*name).to_owned(), format!("{name}.js").into())).collect();
        let manifest = serde_json::json!({"name": "member", "version": "1.0.0", "bin": bin});
        fs::write(member.join("package.json"), manifest.to_string()).unwrap();
        for (name, text) in [
            ("dos.js", &b"#!/usr/bin/env node\r\nconsole.log(1)\r\n"[..]),
            ("odd.js", b"#!/usr/bin/env node\r\n// \xff\xfe caf\xc3\xa9\r\n"),
            ("behind.js", b"#!/usr/bin/env node\r\n"),
            ("unix.js", b"#!/usr/bin/env node\nconsole.log(1)\r\n"),
            ("mixed.js", b"console.log(1)\r\n#!/usr/bin/env node\r\n"),
        ] {
            fs::write(member.join(name), text).unwrap();
        }
        symlink("behind.js", member.join("way.js")).unwrap();
        make_workspaces(&sandbox, at);
        assert!(fs::read(member.join("dos.js")).unwrap().contains(&b'\r'));
    };
    for name in ["a first run", "a hit"] {
        same_as_npm(name, &sandbox, &arrange, &["ci", "--ignore-scripts"]);
        let mended = fs::read(sandbox.path("rift-side/outer/project/packages/member/behind.js"));
        assert_eq!(mended.unwrap(), b"#!/usr/bin/env node\n", "{name}");
    }
    // In another checkout its own are meant, and those of the first one are left alone.
    let [first, second] = ["rift-side/outer/project", "elsewhere"].map(|at| sandbox.path(at));
    let behind = |at: &Path| at.join("packages/member/behind.js");
    fs::write(behind(&first), "#!/usr/bin/env node\r\n").unwrap();
    arrange(&second);
    let found = rift(&sandbox, &second, &["ci", "--ignore-scripts"]);
    assert!(found.stderr.contains(" projected in "), "{found}");
    assert_eq!(fs::read(behind(&second)).unwrap(), b"#!/usr/bin/env node\n");
    assert_eq!(fs::read(behind(&first)).unwrap(), b"#!/usr/bin/env node\r\n");
}

/// Root scripts run at every installation, hit or not, in npm's order and with npm's environment.
#[test]
fn root_scripts_run_as_under_npm() {
    let sandbox = mini_sandbox("root-scripts");
    let arrange = |at: &Path| {
        prepare_mini(at).unwrap();
        edit_json(&at.join("package.json"), |manifest| {
            let note =
                |name: &str| format!("echo {name} $npm_lifecycle_event $npm_command >> order");
            for name in [
                "preinstall",
                "install",
                "postinstall",
                "prepublish",
                "preprepare",
                "prepare",
                "postprepare",
            ] {
                manifest["scripts"][name] = note(name).into();
            }
            Ok(())
        })
        .unwrap();
    };
    let project = sandbox.path("native");
    arrange(&project);
    sandbox.run(&mut sandbox.npm(&project, &["ci"])).unwrap().success().unwrap();
    let once = fs::read_to_string(project.join("order")).unwrap();
    let ours = sandbox.path("ours");
    arrange(&ours);
    for round in 0..3 {
        let _previous = fs::remove_file(ours.join("order"));
        clear(&ours.join("node_modules")).unwrap();
        rift(&sandbox, &ours, &["ci"]).success().unwrap();
        assert_eq!(fs::read_to_string(ours.join("order")).unwrap(), once, "round {round}");
    }
    let failing = |at: &Path| {
        prepare_mini(at).unwrap();
        edit_json(&at.join("package.json"), |manifest| {
            manifest["scripts"]["postinstall"] = "exit 7".into();
            Ok(())
        })
        .unwrap();
    };
    same_as_npm("a failing root script", &sandbox, &failing, &["ci"]);
}

/// A project that cannot be written ends with npm's status and is not changed.
#[test]
fn a_read_only_project_ends_as_under_npm() {
    if !have("a_read_only_project_ends_as_under_npm", &[Need::Root]) {
        return;
    }
    let sandbox = mini_sandbox("read-only");
    let statuses = ["npm", "rift"].map(|who| {
        let project = sandbox.path(who);
        prepare_mini(&project).unwrap();
        let before = identities(&project);
        for options in [&["--bind"][..], &["-o", "remount,ro,bind"]] {
            let status =
                Command::new("mount").args(options).arg(&project).arg(&project).status().unwrap();
            assert!(status.success());
        }
        let words = ["ci", "--ignore-scripts"];
        let ran = match who {
            "npm" => sandbox.run(&mut sandbox.npm(&project, &words)).unwrap(),
            _ => rift(&sandbox, &project, &words),
        };
        assert!(!ran.status.success() && !ran.stderr.contains("panicked"), "{ran}");
        assert_eq!(identities(&project), before);
        ran.status.code()
    });
    assert_eq!(statuses[0], statuses[1]);
}

#[test]
fn two_runs_at_once_in_one_project_both_succeed() {
    let (sandbox, project, warm) = prepared("at-once", Fixture::Small, Scripts::Off);
    for _store in ["empty", "warm"] {
        let ran = std::thread::scope(|scope| {
            let start = || scope.spawn(|| rift(&sandbox, &project, Scripts::Off.install()));
            [start(), start()].map(|run| run.join().unwrap())
        });
        for one in ran {
            one.success().unwrap();
        }
        assert_same(&warm.project(), &project);
        clear(&project.join("node_modules")).unwrap();
    }
}

/// Neither the store nor the summary holds a token, though npm and rift were given one.
#[test]
fn no_token_is_kept() {
    let sandbox = mini_sandbox("token");
    let project = sandbox.path("project");
    prepare_mini(&project).unwrap();
    let secret = "npm_c0ffeec0ffeec0ffee";
    fs::write(project.join(".npmrc"), format!("//registry.example/:_authToken={secret}\n"))
        .unwrap();
    let summary = sandbox.path("summary.json");
    // Nobody listens there: everything is in npm's cache.
    let proxy = format!("http://me:{secret}@127.0.0.1:9/");
    for _round in 0..2 {
        clear(&project.join("node_modules")).unwrap();
        let mut command = sandbox.rift(&project, &["exec", "--summary-json"]).unwrap();
        let ran = sandbox
            .run(command.arg(&summary).args(["--", "npm", "ci", "--https-proxy", &proxy]))
            .unwrap()
            .success()
            .unwrap();
        assert!(!ran.stdout.contains(secret) && !ran.stderr.contains(secret));
        serde_json::from_slice::<serde_json::Value>(&fs::read(&summary).unwrap()).unwrap();
        let found = Command::new("grep")
            .arg("-rlF")
            .arg(secret)
            .arg(sandbox.store())
            .arg(&summary)
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    }
}

/// A run that was killed at any instant leaves a tree that the next run completes, and a store that verifies.
#[test]
fn killed_runs_are_completed_by_the_next() {
    let rounds = if rift_tests::full() { 200 } else { 12 };
    let (sandbox, project, warm) = prepared("kill", Fixture::Small, Scripts::Off);
    let usual = rift(&sandbox, &project, Scripts::Off.install()).success().unwrap().elapsed;
    let (mut dice, mut killed) = (Dice::new(20), 0);
    for round in 0..rounds {
        clear(&project.join("node_modules")).unwrap();
        let cold = round % 4 == 0;
        if cold {
            clear(&sandbox.store()).unwrap();
        }
        let words = ["exec", "--", "npm", "ci", "--ignore-scripts"];
        let mut command = sandbox.rift(&project, &words).unwrap();
        let within = if cold { usual } else { usual / 8 };
        killed += u32::from(kill_at_random(&mut command, within, &mut dice).unwrap());
        sandbox.kill_leftovers();
        let ran = rift(&sandbox, &project, Scripts::Off.install());
        assert!(ran.status.success(), "round {round}: {ran}");
        assert_same(&warm.project(), &project);
        if round % 10 == 0 || cold {
            assert_store_verifies(&sandbox, &project);
        }
    }
    assert!(killed * 4 > rounds, "only {killed} of {rounds} runs were killed before their end");
}

/// After a power loss at any instant the store verifies and the next run gives npm's tree.
#[test]
fn power_losses_are_survived() {
    let name = "power_losses_are_survived";
    if !have(name, &[Need::PowerLoss]) || !apart(name) {
        return;
    }
    let rounds = if rift_tests::full() { 100 } else { 5 };
    let warm = Warm::of(Fixture::Small, Scripts::Off).unwrap();
    let outside = Sandbox::new("power-disk").unwrap();
    let disk = CrashDisk::new(&outside.path("power"), 1 << 30).unwrap();
    let sandbox = Sandbox::in_folder(&disk.path().join("rift"), "power").unwrap();
    warm.fill_npm_cache(&outside).unwrap();
    let copied = Command::new("cp")
        .arg("-a")
        .arg(outside.home().join(".npm"))
        .arg(sandbox.home())
        .status()
        .unwrap();
    assert!(copied.success());
    let project = sandbox.path("project");
    Fixture::Small.prepare(&project).unwrap();
    let usual = rift(&sandbox, &project, Scripts::Off.install()).success().unwrap().elapsed;
    assert!(Command::new("sync").status().unwrap().success());
    let mut dice = Dice::new(30);
    for round in 0..rounds {
        clear(&project.join("node_modules")).unwrap();
        if round % 2 == 0 {
            clear(&sandbox.store()).unwrap();
        }
        if round % 8 == 0 {
            assert!(Command::new("sync").status().unwrap().success());
        }
        let mut command =
            sandbox.rift(&project, &["exec", "--", "npm", "ci", "--ignore-scripts"]).unwrap();
        kill_at_random(&mut command, usual, &mut dice).unwrap();
        sandbox.kill_leftovers();
        if round % 3 == 0 { disk.lose_power_after_journal() } else { disk.lose_power() }.unwrap();
        // A store whose making was cut short is none yet; one that was there stays one.
        let is_there = sandbox.store().join("format").exists();
        assert!(is_there || round % 2 == 0, "round {round}: the store is gone");
        if is_there {
            assert_store_verifies(&sandbox, &project);
        }
        let ran = rift(&sandbox, &project, Scripts::Off.install());
        assert!(ran.status.success(), "round {round}: {ran}");
        assert_same(&warm.project(), &project);
    }
}

/// A full disk ends as an error with a reason, and with room again the next run succeeds.
#[test]
fn a_full_disk_is_an_error_and_no_damage() {
    let name = "a_full_disk_is_an_error_and_no_damage";
    if !have(name, &[Need::Root]) {
        return;
    }
    let (sandbox, project, warm) = prepared("full", Fixture::Small, Scripts::Off);
    let store = sandbox.store();
    for (bytes, inodes) in [(4 << 20, 10_000), (32 << 20, 10_000), (256 << 20, 12)] {
        let disk = rift_tests::fault::SmallDisk::mount(&store, bytes, inodes).unwrap();
        let ran = rift(&sandbox, &project, Scripts::Off.install());
        assert!(!ran.stderr.contains("panicked"), "{ran}");
        // A store without room is no reason to fail the command; whatever rift chose, the tree is npm's or npm's error.
        if ran.status.success() {
            assert_same(&warm.project(), &project);
        }
        disk.resize(512 << 20, 100_000).unwrap();
        rift(&sandbox, &project, Scripts::Off.install()).success().unwrap();
        assert_same(&warm.project(), &project);
        assert_store_verifies(&sandbox, &project);
        clear(&project.join("node_modules")).unwrap();
        drop(disk);
    }
}

/// A store that strangers may write to is refused; the command still runs.
#[test]
fn a_store_writable_by_strangers_is_refused() {
    let (sandbox, project, _) = prepared("strangers", Fixture::Small, Scripts::Off);
    fs::create_dir(sandbox.store()).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    fs::set_permissions(sandbox.store(), mode).unwrap();
    let mut command =
        sandbox.rift(&project, &["exec", "--", "npm", "ci", "--ignore-scripts"]).unwrap();
    let strict = sandbox.run(command.env("RIFT_STRICT", "1")).unwrap();
    assert_eq!(strict.status.code(), Some(125), "{strict}");
    rift(&sandbox, &project, Scripts::Off.install()).success().unwrap();
    assert_eq!(fs::read_dir(sandbox.store()).unwrap().count(), 0);
}

/// What no script has made is the same wherever a project is; what one has may hold the place.
#[test]
fn a_result_without_scripts_is_known_everywhere() {
    let name = "a_result_without_scripts_is_known_everywhere";
    if !have(name, &[Need::Tool("npm")]) {
        return;
    }
    let sandbox = Sandbox::new(name).unwrap();
    // There is a store.
    sandbox
        .run(&mut sandbox.rift(&sandbox.home(), &["ingest", "."]).unwrap())
        .unwrap()
        .success()
        .unwrap();
    let key = |place: &str, more: &str, words: &[&str]| {
        let project = sandbox.path(place);
        fs::create_dir_all(&project).unwrap();
        let root = r#""name": "one", "version": "1.0.0", "dependencies": { "a": "1.0.0" }"#;
        fs::write(project.join("package.json"), format!("{{ {root} }}")).unwrap();
        let integrity = format!("sha512-{}==", "A".repeat(86));
        let package = format!(
            r#""version": "1.0.0", "resolved": "http://localhost/a/-/a-1.0.0.tgz", "integrity": "{integrity}"{more}"#
        );
        let lock = format!(
            r#"{{ "name": "one", "version": "1.0.0", "lockfileVersion": 3, "requires": true, "packages": {{ "": {{ {root} }}, "node_modules/a": {{ {package} }} }} }}"#
        );
        fs::write(project.join("package-lock.json"), lock).unwrap();
        let words = [&["plan", "--", "npm", "ci"], words].concat();
        let ran = sandbox.run(&mut sandbox.rift(&project, &words).unwrap()).unwrap();
        let said = ran.success().unwrap().stdout;
        let key = said.lines().find_map(|line| line.strip_prefix("key        "));
        key.unwrap_or_else(|| panic!("{said}")).to_owned()
    };
    let scripts = r#", "hasInstallScript": true"#;
    assert_eq!(key("here", "", &[]), key("there", "", &[]));
    assert_ne!(key("here", scripts, &[]), key("there", scripts, &[]));
    let without = &["--ignore-scripts"];
    assert_eq!(key("here", scripts, without), key("there", scripts, without));
    let escaped = r#", "has\u0049nstallScript": true"#;
    assert_ne!(key("here", escaped, &[]), key("there", escaped, &[]));
}
