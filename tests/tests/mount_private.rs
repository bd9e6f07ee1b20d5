//! Private views: what a command sees in a mount namespace of its own, and that nobody else does.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;

use rift_tests::again::{as_root_and_nobody, is_again};
use rift_tests::apps::compiled;
use rift_tests::mounts::{
    assert_same, eventually, kill, mounts_at, open, rift, run, servers_of, state, with_tree,
};
use rift_tests::need::{Need, have};
use rift_tests::refused::REFUSALS;
use rift_tests::repository;
use rift_tests::sandbox::{Ran, Sandbox, clear};

/// The words before `--` that give a command a private view with the tree at `view` of its folder.
const PRIVATE: [&str; 6] = ["exec", "--as", "mount", "--private", "--tree", "tree=view"];

/// Runs a command of the home with the tree at `view` there.
fn privately(sandbox: &Sandbox, command: &[&str]) -> Ran {
    run(sandbox, &sandbox.home(), &[&PRIVATE, &["--"][..], command].concat())
}

fn close(sandbox: &Sandbox, directory: &Path) {
    rift(sandbox, &sandbox.home(), &["close", &directory.display().to_string()]);
}

/// Nothing of a view is left: no mount, no server.
#[track_caller]
fn assert_over(view: &Path) {
    assert_eq!(mounts_at(view), 0);
    eventually(|| servers_of(view).is_empty());
}

/// The command sees the tree, writable; the world sees what was changed, and `close` makes the rest real.
#[test]
fn a_private_view_is_seen_by_its_command_alone() {
    let name = "a_private_view_is_seen_by_its_command_alone";
    if !as_root_and_nobody(name) {
        return;
    }
    let sandbox = with_tree("private");
    let view = sandbox.home().join("view");
    let script = "cat view/a view/lib/x.js && echo new > view/lib/new && rm view/bin/x && exit 7";
    let ran = privately(&sandbox, &["sh", "-c", script]);
    assert_eq!((ran.status.code(), ran.stdout.as_str()), (Some(7), "hello\nlib"), "{ran}");
    let listed: Vec<_> = fs::read_dir(view.join("lib")).unwrap().collect();
    assert_eq!((listed.len(), fs::read_dir(view.join("bin")).unwrap().count()), (1, 0));
    assert!(!view.join("a").exists() && state(&sandbox, &view) == "virtual");
    assert_over(&view);
    // Another run sees what the first one did, also without naming the tree, and from inside.
    let words = ["exec", "--as", "mount", "--private", "--", "cat", "../a", "new"];
    let ran = rift(&sandbox, &view.join("lib"), &words);
    assert_eq!(ran.stdout, "hello\nnew\n");
    close(&sandbox, &view);
    assert_eq!(fs::read_to_string(view.join("lib/new")).unwrap(), "new\n");
    assert!(!view.join("bin/x").is_symlink() && state(&sandbox, &view) == "current");
    fs::remove_file(view.join("lib/new")).unwrap();
    std::os::unix::fs::symlink("../lib/x.js", view.join("bin/x")).unwrap();
    let source = sandbox.path("source");
    for changed in ["lib", "bin", "bin/x"] {
        let (from, to) = (source.join(changed), view.join(changed));
        let mut touch = sandbox.command(&sandbox.home(), "touch");
        assert!(touch.arg("-h").arg("-r").arg(from).arg(to).status().unwrap().success());
    }
    assert_same(&source, &view);
    assert_over(&view);
}

/// Random changes have the same results in a view as in real files.
#[test]
fn a_private_view_behaves_like_real_files() {
    let name = "a_private_view_behaves_like_real_files";
    if !as_root_and_nobody(name) {
        return;
    }
    let sandbox = with_tree("private-random");
    let program = repository().join("tests/apps/random_files.py");
    let (real, view) = (sandbox.home().join("real"), sandbox.home().join("view"));
    for seed in 1..=if rift_tests::full() { 100 } else { 6 } {
        rift(&sandbox, &sandbox.home(), &["materialize", "--force", "tree", "real"]);
        let seed = seed.to_string();
        let program = program.to_str().unwrap();
        let words = |place: &Path| {
            ["python3", program, place.to_str().unwrap(), &seed, "400"].map(str::to_owned)
        };
        let [command, arguments @ ..] = words(&real);
        let mut native = sandbox.command(&sandbox.home(), command);
        let expected = sandbox.run(native.args(arguments)).unwrap().success().unwrap().stdout;
        let command = words(&view);
        let found = privately(&sandbox, &command.each_ref().map(String::as_str)).success().unwrap();
        for (expected, found) in expected.lines().zip(found.stdout.lines()) {
            assert_eq!(found, expected, "seed {seed}");
        }
        assert_eq!(found.stdout.lines().count(), expected.lines().count(), "seed {seed}");
        close(&sandbox, &view);
        assert_same(&real, &view);
        clear(&view).unwrap();
    }
}

/// What one view changes another one finds: names, bytes, and the numbers of files.
#[test]
fn two_views_see_each_others_changes() {
    let name = "two_views_see_each_others_changes";
    if !as_root_and_nobody(name) {
        return;
    }
    let sandbox = with_tree("two-views");
    let (view, turns) = (sandbox.home().join("view"), sandbox.path("turns"));
    let program = repository().join("tests/apps/two_views.py");
    for _ in 0..if rift_tests::full() { 50 } else { 3 } {
        fs::create_dir(&turns).unwrap();
        std::thread::scope(|scope| {
            for role in ["a", "b"] {
                let (sandbox, program, view, turns) = (&sandbox, &program, &view, &turns);
                scope.spawn(move || {
                    let [program, view, turns] =
                        [program, view, turns].map(|path| path.to_str().unwrap());
                    let ran = privately(sandbox, &["python3", program, role, view, turns]);
                    assert_eq!(ran.stdout, "as expected\n", "{ran}");
                });
            }
        });
        close(&sandbox, &view);
        assert_eq!(fs::read_to_string(view.join("log")).unwrap(), "a\nb\n");
        assert_eq!(fs::read_to_string(view.join("lib/z.js")).unwrap(), "lib");
        assert!(fs::read_to_string(view.join("moved/er/numbers")).unwrap().ends_with("2999\n"));
        assert_over(&view);
        clear(&view).unwrap();
        clear(&turns).unwrap();
    }
}

/// `rm -r` of the directory works inside, and ends the projection.
#[test]
fn a_private_view_can_be_removed_inside() {
    let name = "a_private_view_can_be_removed_inside";
    if !as_root_and_nobody(name) {
        return;
    }
    let sandbox = with_tree("private-removed");
    let view = sandbox.home().join("view");
    let ran = privately(
        &sandbox,
        &["sh", "-c", "chmod 755 view/shut && rm -r view && mkdir view && echo own > view/file"],
    );
    assert!(ran.status.success(), "{ran}");
    assert_eq!(fs::read_to_string(view.join("file")).unwrap(), "own\n");
    assert_eq!(state(&sandbox, &view), "none");
    assert_over(&view);
}

/// A mount that everybody sees is the view.
#[test]
fn a_mount_for_all_is_inherited() {
    let name = "a_mount_for_all_is_inherited";
    if !as_root_and_nobody(name) {
        return;
    }
    let sandbox = with_tree("inherited");
    let mount = open(&sandbox, "home/view");
    let servers = servers_of(&mount);
    let ran = privately(&sandbox, &["sh", "-c", "cat view/a; echo more > view/more"]);
    assert_eq!(ran.success().unwrap().stdout, "hello\n");
    assert_eq!(fs::read_to_string(mount.join("more")).unwrap(), "more\n");
    assert_eq!((servers_of(&mount), mounts_at(&mount)), (servers, 1));
    close(&sandbox, &mount);
    assert_over(&mount);
}

/// Where no namespace can be made, nothing mounted or no device opened, everything is made real, which is said once.
#[test]
fn without_namespaces_everything_is_made_real() {
    let name = "without_namespaces_everything_is_made_real";
    // Root makes what nobody reads.
    if !have(name, &["cc", "setpriv", "unshare"].map(Need::Tool)) {
        return;
    }
    let deny = compiled("deny").unwrap();
    if !as_root_and_nobody(name) {
        return;
    }
    let calls = [libc::SYS_unshare, libc::SYS_mount].map(|call| {
        [deny.display().to_string(), call.to_string(), libc::EPERM.to_string()].to_vec()
    });
    // Namespaces that have no device are root's to make.
    let is_root = rustix::process::geteuid().is_root() && !is_again();
    let whole = REFUSALS.iter().filter(|_| is_root).map(|way| way.words().unwrap());
    for words in calls.into_iter().chain(whole) {
        let sandbox = with_tree("no-namespaces");
        let view = sandbox.home().join("view");
        let rift = rift_tests::sandbox::rift_binary().unwrap();
        let denied = |strict: &str| {
            let mut command = sandbox.command(&sandbox.home(), &words[0]);
            command.args(&words[1..]).arg(&rift).args(PRIVATE).args(["--", "cat", "view/a"]);
            sandbox.run(command.env("RIFT_STRICT", strict)).unwrap()
        };
        let ran = denied("1");
        assert_eq!((ran.status.code(), ran.stdout.as_str()), (Some(125), ""), "{ran}");
        let ran = denied("0");
        assert_eq!((ran.status.code(), ran.stdout.as_str()), (Some(0), "hello\n"), "{ran}");
        assert_eq!(ran.stderr.matches("warning:").count(), 1, "{ran}");
        assert_same(&sandbox.path("source"), &view);
        assert_eq!(state(&sandbox, &view), "current");
        assert_over(&view);
    }
}

/// Whoever kills the run ends the command and the view; whoever kills a server gets errors, no hang.
#[test]
fn a_killed_view_is_over() {
    let name = "a_killed_view_is_over";
    if !as_root_and_nobody(name) {
        return;
    }
    let sandbox = with_tree("private-killed");
    let view = sandbox.home().join("view");
    for kills_server in [false, true] {
        let words = [&PRIVATE[..], &["--", "sh", "-c"]].concat();
        let script = "echo kept > view/lib/kept; sync view/lib/kept; echo go; read line; ls view";
        let mut command = sandbox.rift(&sandbox.home(), &words).unwrap();
        command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut word = [0; 3];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut word).unwrap();
        if kills_server {
            // The one of the view before may be about to end.
            eventually(|| servers_of(&view).len() == 1);
            kill(servers_of(&view)[0]);
            eventually(|| servers_of(&view).is_empty());
            drop(child.stdin.take());
            assert!(child.wait().unwrap().code().is_some_and(|code| code != 0));
        } else {
            kill(child.id());
            assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
        }
        assert_over(&view);
        let ran = privately(&sandbox, &["cat", "view/lib/kept", "view/a"]);
        assert_eq!(ran.success().unwrap().stdout, "kept\nhello\n");
    }
    close(&sandbox, &view);
    assert_eq!(fs::read_dir(&view).unwrap().count(), 6);
}

/// A projection that a run still sees can be closed: the run goes on with the files.
#[test]
fn a_view_outlives_the_end_of_its_projection() {
    let name = "a_view_outlives_the_end_of_its_projection";
    if !as_root_and_nobody(name) {
        return;
    }
    let sandbox = with_tree("private-closed");
    let view = sandbox.home().join("view");
    let words = [&PRIVATE[..], &["--", "sh", "-c"]].concat();
    let mut command = sandbox.rift(&sandbox.home(), &words).unwrap();
    command.arg("exec 3< view/lib/x.js; echo go; read line; cat <&3; cat view/a; echo b > view/b");
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut word = [0; 3];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut word).unwrap();
    close(&sandbox, &view);
    assert_same(&sandbox.path("source"), &view);
    drop(child.stdin.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "libhello\n");
    assert_eq!(fs::read_to_string(view.join("b")).unwrap(), "b\n");
    assert_over(&view);
}

/// A tree that is there as files is seen as it is, and stays files.
#[test]
fn files_stay_files_in_a_private_view() {
    let name = "files_stay_files_in_a_private_view";
    if !as_root_and_nobody(name) {
        return;
    }
    let sandbox = with_tree("private-files");
    let view = sandbox.home().join("view");
    rift(&sandbox, &sandbox.home(), &["materialize", "tree", "view"]);
    // Other tests have mounts of their own.
    let script = "cat view/a; grep -c \"$PWD/view fuse.rift\" /proc/mounts";
    let ran = privately(&sandbox, &["sh", "-c", script]);
    assert_eq!(ran.stdout, "hello\n0\n", "{ran}");
    assert_eq!(state(&sandbox, &view), "current");
    assert_eq!(fs::read_dir(sandbox.store().join("states")).unwrap().count(), 0);
    assert_over(&view);
}
