//! Mounted projections, judged by the same tree as real files.
//!
//! A program does the same in a mount and in real files and has to print the same; what only a mount has (a server that
//! dies, a projection that is closed) is held against the promises of docs/semantics.md.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rift_tests::again::{LET_GO, as_root_and_nobody};
use rift_tests::fault::{Dice, kill_at_random};
use rift_tests::fixture::Fixture;
use rift_tests::mounts::{
    assert_lines, assert_same, eventually, kill, mounts_at, open, rift, run, servers_of, state,
    take_files_in, uncover, with_tree,
};
use rift_tests::need::{Need, have};
use rift_tests::repository;
use rift_tests::sandbox::{Sandbox, clear};
use rift_tests::warm::{Scripts, Warm};

/// Random changes have the same results, one by one, and leave the same tree.
#[test]
fn random_changes_have_the_same_results() {
    let name = "random_changes_have_the_same_results";
    if !as_root_and_nobody(name) {
        return;
    }
    let sandbox = with_tree("random");
    let program = repository().join("tests/apps/random_files.py");
    // The last of the few met a closed directory below one that was moved.
    let seeds = if rift_tests::full() { 1..=200 } else { 151..=155 };
    for seed in seeds {
        let (real, mount) = (sandbox.path("real"), sandbox.path("mount"));
        let shown = real.display().to_string();
        rift(&sandbox, &sandbox.home(), &["materialize", "--force", "tree", &shown]);
        let mount_directory = open(&sandbox, "mount");
        assert_eq!(mount, mount_directory);
        let lines = |directory: &Path| {
            let mut command = sandbox.command(&sandbox.home(), "python3");
            command.arg(&program).arg(directory).args([&seed.to_string(), "400"]);
            sandbox.run(&mut command).unwrap().success().unwrap().stdout
        };
        let (expected, found) = (lines(&real), lines(&mount));
        assert_lines(&found, &expected, &format!("seed {seed}"));
        // What is written out is what was shown; and nothing but it.
        rift(&sandbox, &sandbox.home(), &["close", &mount.display().to_string()]);
        assert_eq!(mounts_at(&mount), 0);
        assert_same(&real, &mount);
        rift_tests::sandbox::clear(&mount).unwrap();
    }
}

/// What becomes real while its directory is listed is listed once, also by who lists it later.
#[test]
fn listings_tell_nothing_twice() {
    let name = "listings_tell_nothing_twice";
    if !as_root_and_nobody(name) {
        return;
    }
    let sandbox = with_tree("listed-once");
    let program = repository().join("tests/apps/list_while_linking.py");
    let (real, mount) = (sandbox.path("real"), open(&sandbox, "mount"));
    let shown = real.display().to_string();
    rift(&sandbox, &sandbox.home(), &["materialize", "--force", "tree", &shown]);
    let told = |directory: &Path| {
        let mut command = sandbox.command(&sandbox.home(), "python3");
        command.arg(&program).arg(directory.join("lib")).arg(directory.join("elsewhere"));
        sandbox.run(&mut command).unwrap().success().unwrap().stdout
    };
    assert_eq!(told(&mount), told(&real));
    rift(&sandbox, &sandbox.home(), &["close", &mount.display().to_string()]);
    assert_same(&real, &mount);
}

/// A hit is mounted and is npm's tree; a repeat finds it, an edit is mended, `files` replaces it.
#[test]
fn npm_ci_is_mounted_and_equals_npms_tree() {
    let name = "npm_ci_is_mounted_and_equals_npms_tree";
    // Root makes what nobody reads.
    let warm = Warm::of(Fixture::Small, Scripts::Off).unwrap();
    if !as_root_and_nobody(name) {
        return;
    }
    let sandbox = Sandbox::new("npm-mount").unwrap();
    warm.fill_npm_cache(&sandbox).unwrap();
    let project = sandbox.path("project");
    Fixture::Small.prepare(&project).unwrap();
    let tree = project.join("node_modules");
    let ci = ["exec", "--as", "mount", "--", "npm", "ci", "--ignore-scripts"];
    for round in 0..2 {
        rift(&sandbox, &project, &ci);
        assert_eq!((state(&sandbox, &tree).as_str(), mounts_at(&tree)), ("mounted", 1), "{round}");
        assert_same(&warm.project(), &project);
    }
    let [server] = servers_of(&tree)[..] else { panic!("one server serves it") };
    fs::write(tree.join("react/index.js"), "edited").unwrap();
    fs::create_dir(tree.join("extra")).unwrap();
    rift(&sandbox, &project, &ci);
    assert_same(&warm.project(), &project);
    assert_eq!(mounts_at(&tree), 1);
    eventually(|| !servers_of(&tree).contains(&server));
    rift(&sandbox, &project, &["exec", "--", "npm", "ci", "--ignore-scripts"]);
    assert_eq!((state(&sandbox, &tree).as_str(), mounts_at(&tree)), ("current", 0));
    assert_same(&warm.project(), &project);
    eventually(|| servers_of(&tree).is_empty());
}

/// Runs at once in one project all succeed, and end with one mount.
#[test]
fn many_runs_at_once_share_one_mount() {
    let name = "many_runs_at_once_share_one_mount";
    // Root makes what nobody reads.
    let warm = Warm::of(Fixture::Small, Scripts::Off).unwrap();
    if !as_root_and_nobody(name) {
        return;
    }
    let sandbox = Sandbox::new("many").unwrap();
    warm.fill_npm_cache(&sandbox).unwrap();
    let project = sandbox.path("project");
    Fixture::Small.prepare(&project).unwrap();
    let ci = ["exec", "--as", "mount", "--", "npm", "ci", "--ignore-scripts"];
    rift(&sandbox, &project, &ci);
    let tree = project.join("node_modules");
    std::thread::scope(|scope| {
        for number in 0..if rift_tests::full() { 64 } else { 16 } {
            let (sandbox, project, ci, tree) = (&sandbox, &project, &ci, &tree);
            scope.spawn(move || {
                if number % 4 == 0 {
                    // Every fourth finds an edited tree, or finds that another one was quicker.
                    let _is_edited = fs::write(tree.join(format!("extra-{number}")), "x").is_ok();
                }
                rift(sandbox, project, ci);
            });
        }
    });
    rift(&sandbox, &project, &ci);
    assert_eq!(mounts_at(&tree), 1);
    assert_same(&warm.project(), &project);
    eventually(|| servers_of(&tree).len() == 1);
}

/// `rm -rf` ends a projection like a directory; so does what empties it first.
#[test]
fn an_emptied_projection_ends() {
    let name = "an_emptied_projection_ends";
    if !as_root_and_nobody(name) {
        return;
    }
    let sandbox = with_tree("emptied");
    let mount = open(&sandbox, "mount");
    // As anywhere, who is not root has to open what is shut.
    let unlock = |folder: &str| {
        fs::set_permissions(mount.join(folder), fs::Permissions::from_mode(0o755)).unwrap();
    };
    unlock("shut");
    let removed = sandbox.command(&sandbox.home(), "rm").arg("-r").arg(&mount).status().unwrap();
    assert!(removed.success() && !mount.exists());
    assert_eq!((state(&sandbox, &mount).as_str(), mounts_at(&mount)), ("none", 0));
    eventually(|| servers_of(&mount).is_empty());

    assert_eq!(open(&sandbox, "mount"), mount);
    let kept = fs::File::open(mount.join("lib/deep/er/numbers")).unwrap();
    unlock("shut");
    fs::write(mount.join("new"), "text").unwrap();
    let changed = fs::File::open(mount.join("new")).unwrap();
    for entry in fs::read_dir(&mount).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
    }
    assert_eq!(mounts_at(&mount), 0);
    assert_eq!(fs::read_dir(&mount).unwrap().count(), 0);
    // What was open stays readable, as everywhere.
    let text = |file: &fs::File| std::io::read_to_string(file).unwrap();
    assert!(text(&kept).ends_with("2999\n"));
    assert_eq!(text(&changed), "text");
    assert_eq!(changed.metadata().unwrap().nlink(), 0);
    assert_eq!(servers_of(&mount).len(), 1);
    drop((kept, changed));
    eventually(|| servers_of(&mount).is_empty());
    fs::write(mount.join("after"), "real").unwrap();
}

/// A server that is killed leaves an error, no hang, and loses nothing.
#[test]
fn a_killed_server_is_healed() {
    let name = "a_killed_server_is_healed";
    if !as_root_and_nobody(name) {
        return;
    }
    let sandbox = with_tree("killed-server");
    let mount = open(&sandbox, "mount");
    fs::write(mount.join("lib/new"), "new").unwrap();
    fs::write(mount.join("a"), "changed").unwrap();
    fs::remove_file(mount.join("lib/x.js")).unwrap();
    fs::rename(mount.join("d e"), mount.join("moved")).unwrap();
    let [server] = servers_of(&mount)[..] else { panic!("one server serves it") };
    kill(server);
    eventually(|| servers_of(&mount).is_empty());
    // A request that was under way is answered with ECONNABORTED.
    let error = || fs::read_dir(&mount).unwrap_err().raw_os_error();
    eventually(|| error() == Some(libc::ENOTCONN));
    assert_eq!(state(&sandbox, &mount), "dead");
    let shown = mount.display().to_string();
    rift(&sandbox, &sandbox.home(), &["close", &shown]);
    assert_eq!(mounts_at(&mount), 0);
    let read = |path: &str| fs::read_to_string(mount.join(path)).ok();
    assert_eq!(read("lib/new").as_deref(), Some("new"));
    assert_eq!(read("a").as_deref(), Some("changed"));
    assert_eq!((read("lib/x.js"), read("d e/b")), (None, None));
    assert_eq!(read("moved/b").as_deref(), Some(""));
    assert!(read("lib/deep/er/numbers").unwrap().ends_with("2999\n"));
    let names: Vec<_> = fs::read_dir(&mount).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 6, "{names:?}");
}

/// What a mount can't do that a directory can.
#[test]
fn a_mount_is_a_file_system_of_its_own() {
    let name = "a_mount_is_a_file_system_of_its_own";
    if !as_root_and_nobody(name) {
        return;
    }
    let sandbox = with_tree("own");
    let mount = open(&sandbox, "mount");
    let outside = sandbox.path("outside");
    let code = |error: std::io::Error| error.raw_os_error();
    assert_ne!(fs::metadata(&mount).unwrap().dev(), fs::metadata(sandbox.home()).unwrap().dev());
    assert_eq!(code(fs::hard_link(mount.join("a"), &outside).unwrap_err()), Some(libc::EXDEV));
    assert_eq!(code(fs::rename(mount.join("a"), &outside).unwrap_err()), Some(libc::EXDEV));
    assert_eq!(code(fs::rename(&mount, &outside).unwrap_err()), Some(libc::EBUSY));
    let name = "system.posix_acl_access";
    let flags = rustix::fs::XattrFlags::empty();
    // Version 2; the owner, user 1, the group, the mask and others may read: tag, permissions, id.
    let entries = [(1_u16, u32::MAX), (2, 1), (4, u32::MAX), (16, u32::MAX), (32, u32::MAX)];
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, id) in entries {
        list.extend(
            tag.to_le_bytes().into_iter().chain(4_u16.to_le_bytes()).chain(id.to_le_bytes()),
        );
    }
    let set = rustix::fs::setxattr(mount.join("a"), name, &list, flags);
    assert_eq!(set.unwrap_err(), rustix::io::Errno::OPNOTSUPP);
    let told = sandbox.command(&mount, "getconf").args(["LINK_MAX", "."]).output().unwrap().stdout;
    assert_eq!(String::from_utf8_lossy(&told), "127\n");
    for number in 0..150 {
        fs::hard_link(mount.join("a"), mount.join(format!("link-{number}"))).unwrap();
    }
    assert_eq!(fs::metadata(mount.join("a")).unwrap().nlink(), 151);
    // Who opens it a second time is told.
    let shown = mount.display().to_string();
    let ran = run(&sandbox, &sandbox.home(), &["open", "tree", &shown]);
    assert_eq!((ran.status.code(), mounts_at(&mount)), (Some(125), 1), "{ran}");
}

/// Who writes to a file and is not root takes set-user-id away, and whoever looks for the mode alone sees it.
#[test]
fn a_write_takes_set_user_id_away() {
    let name = "a_write_takes_set_user_id_away";
    if !as_root_and_nobody(name) {
        return;
    }
    let sandbox = with_tree("set-id");
    let mount = open(&sandbox, "mount");
    let real = sandbox.path("source");
    for mode in [0o6777, 0o4666, 0o2676] {
        let [expected, found] = [&real, &mount].map(|folder| {
            fs::set_permissions(folder.join("a"), fs::Permissions::from_mode(mode)).unwrap();
            let mut command = sandbox.command(folder, "setpriv");
            if rustix::process::geteuid().is_root() {
                command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
            }
            command.args(["sh", "-c", "stat -c %a a && echo more >> a && stat -c %a a"]);
            sandbox.run(&mut command).unwrap().success().unwrap().stdout
        });
        assert_eq!(found, expected);
        assert_eq!(expected, format!("{mode:o}\n{:o}\n", mode & 0o777));
    }
}

/// Making an entry real, and reading it, changes no time; what was changed has times of its own.
#[test]
fn what_was_not_changed_has_the_times_of_the_tree() {
    let name = "what_was_not_changed_has_the_times_of_the_tree";
    if !as_root_and_nobody(name) {
        return;
    }
    let sandbox = with_tree("times");
    let mount = open(&sandbox, "mount");
    let look = |path: &str| {
        let stat = fs::symlink_metadata(mount.join(path)).unwrap();
        (stat.ino(), stat.mtime(), stat.ctime(), stat.ctime_nsec(), stat.mode(), stat.size())
    };
    let paths = ["", "lib", "lib/deep", "lib/deep/er", "lib/deep/er/numbers", "bin/x"];
    let before = paths.map(look);
    assert!(before[1..].iter().all(|entry| entry.1 == 1_400_000_000));
    let accessed = || fs::metadata(mount.join("a")).unwrap().accessed().unwrap();
    let read_at = accessed();
    assert_eq!(fs::read_to_string(mount.join("a")).unwrap(), "hello\n");
    assert_eq!(accessed(), read_at);
    // Real with all that is above it, and unchanged.
    fs::set_permissions(mount.join("lib/deep/er/numbers"), fs::Permissions::from_mode(0o600))
        .unwrap();
    assert_eq!(look("lib/deep/er/numbers").4 & 0o777, 0o600);
    fs::set_permissions(mount.join("lib/deep/er/numbers"), fs::Permissions::from_mode(0o644))
        .unwrap();
    assert_eq!(paths.map(look), before);
    fs::write(mount.join("lib/deep/new"), "").unwrap();
    let (changed, kept) = (look("lib/deep"), look("lib"));
    assert!(changed.1 > 1_400_000_000 && changed.0 == before[2].0);
    assert_eq!(kept, before[1]);
}

/// The files of a folder and of those below it, sorted.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let is_folder = path.symlink_metadata().unwrap().is_dir();
            if is_folder { &mut folders } else { &mut found }.push(path);
        }
    }
    found.sort();
    found
}

/// A server has no more descriptors, threads and memory after many changes than after few.
#[test]
fn a_server_keeps_nothing_of_what_is_gone() {
    let name = "a_server_keeps_nothing_of_what_is_gone";
    if !as_root_and_nobody(name) {
        return;
    }
    let sandbox = with_tree("kept");
    let mount = open(&sandbox, "mount");
    let [server] = servers_of(&mount)[..] else { panic!("one server serves it") };
    let rounds = if rift_tests::full() { 3_000 } else { 80 };
    let work = || {
        for round in 0..rounds {
            let (folder, file) = (mount.join("bin/folder"), mount.join("bin/folder/file"));
            fs::create_dir(&folder).unwrap();
            fs::write(&file, vec![b'x'; 20_000]).unwrap();
            let open = fs::File::options().read(true).write(true).open(&file).unwrap();
            open.lock().unwrap();
            fs::hard_link(&file, mount.join("lib/link")).unwrap();
            fs::rename(&file, mount.join(format!("lib/moved-{round}"))).unwrap();
            fs::remove_file(mount.join("lib/link")).unwrap();
            fs::remove_file(mount.join(format!("lib/moved-{round}"))).unwrap();
            open.set_len(1).unwrap();
            std::os::unix::fs::symlink("nowhere", &file).unwrap();
            fs::rename(&folder, mount.join("empty/folder")).unwrap();
            fs::remove_dir_all(mount.join("empty/folder")).unwrap();
            assert_eq!(open.metadata().unwrap().nlink(), 0);
        }
    };
    let kept = || {
        let count = |what: &str| fs::read_dir(format!("/proc/{server}/{what}")).unwrap().count();
        let status = fs::read_to_string(format!("/proc/{server}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        let memory_kb: usize = line.trim().trim_end_matches(" kB").parse().unwrap();
        (count("fd"), count("task"), memory_kb)
    };
    work();
    let mut measured = vec![kept()];
    let (descriptors, threads, _) = measured[0];
    assert!(descriptors < 100 && threads < 10, "{descriptors} descriptors, {threads} threads");
    // What is never given back shows each time; what a busy machine has let pile up does not.
    let is_steady = (0..4).any(|_| {
        work();
        // The kernel forgets a little later.
        std::thread::sleep(Duration::from_millis(500));
        let (before, after) = (measured[measured.len() - 1], kept());
        measured.push(after);
        after.0 <= descriptors + 2 && after.1 <= threads && after.2 <= before.2 + 150
    });
    assert!(is_steady, "descriptors, threads and kilobytes: {measured:?}");
    rift(&sandbox, &sandbox.home(), &["close", &mount.display().to_string()]);
    eventually(|| servers_of(&mount).is_empty());
}

/// A mount namespace has copies of the mounts that were there when it was made.
#[test]
fn a_copy_of_a_mount_is_served_until_it_goes() {
    let name = "a_copy_of_a_mount_is_served_until_it_goes";
    if !have(name, &[Need::Fuse, Need::Root, Need::Tool("unshare")]) {
        return;
    }
    let sandbox = with_tree("copied");
    let mount = open(&sandbox, "mount");
    let mut command = sandbox.command(&sandbox.home(), "unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c"]);
    command.arg("echo go; read line; cat \"$0/a\"; echo b > \"$0/b\"; $1; echo go; read line");
    command.args([mount.as_os_str(), OsStr::new(LET_GO)]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || said.next().unwrap().unwrap();
    assert_eq!(next(), "go");
    rift(&sandbox, &sandbox.home(), &["close", &mount.display().to_string()]);
    assert_eq!((mounts_at(&mount), servers_of(&mount).len()), (0, 1));
    writeln!(child.stdin.as_mut().unwrap()).unwrap();
    assert_eq!([next(), next()], ["hello", "go"]);
    eventually(|| servers_of(&mount).is_empty());
    assert_eq!(fs::read_to_string(mount.join("b")).unwrap(), "b\n");
    drop(child.stdin.take());
    child.wait().unwrap();
}

/// A projection that is opened and closed again and again leaves nothing behind.
#[test]
fn opening_and_closing_leaves_nothing() {
    let name = "opening_and_closing_leaves_nothing";
    if !as_root_and_nobody(name) {
        return;
    }
    let sandbox = with_tree("cycles");
    let mut first = [None, None];
    for round in 0..if rift_tests::full() { 100 } else { 10 } {
        let mount = open(&sandbox, "mount");
        fs::write(mount.join("lib/x.js"), format!("{round}")).unwrap();
        // Real in a directory that may not be written to.
        fs::set_permissions(mount.join("shut/in"), fs::Permissions::from_mode(0o400)).unwrap();
        let shown = mount.display().to_string();
        if round % 2 == 0 {
            rift(&sandbox, &sandbox.home(), &["close", "--discard", &shown]);
            assert!(!mount.exists());
        } else {
            rift(&sandbox, &sandbox.home(), &["close", &shown]);
            assert_eq!(fs::read_to_string(mount.join("lib/x.js")).unwrap(), round.to_string());
            rift_tests::sandbox::clear(&mount).unwrap();
        }
        assert_eq!(mounts_at(&mount), 0);
        eventually(|| servers_of(&mount).is_empty());
        let kept = files_below(&sandbox.store());
        assert_eq!(*first[round % 2].get_or_insert_with(|| kept.clone()), kept, "round {round}");
    }
    for folder in ["states", "leases", "tmp", "projections"] {
        let left = fs::read_dir(sandbox.store().join(folder)).unwrap().count();
        // What was closed last is there as files.
        assert_eq!(left, usize::from(folder == "projections"), "{folder}");
    }
    assert_eq!(sandbox.processes(), [0; 0]);
    rift(&sandbox, &sandbox.home(), &["store", "verify"]);
}

/// A project can be moved and removed with a mount in it; the mount goes along, and is found again.
#[test]
fn a_mount_goes_where_its_project_goes() {
    let name = "a_mount_goes_where_its_project_goes";
    if !as_root_and_nobody(name) {
        return;
    }
    let sandbox = with_tree("moved");
    fs::create_dir(sandbox.path("project")).unwrap();
    let old = open(&sandbox, "project/view");
    fs::write(old.join("new"), "kept").unwrap();
    fs::rename(sandbox.path("project"), sandbox.path("moved")).unwrap();
    let new = sandbox.path("moved/view");
    assert_eq!(fs::read_to_string(new.join("new")).unwrap(), "kept");
    assert_eq!(
        (state(&sandbox, &old).as_str(), state(&sandbox, &new).as_str()),
        ("none", "mounted")
    );
    let shown = new.display().to_string();
    rift(&sandbox, &sandbox.home(), &["close", &shown]);
    assert_eq!(fs::read_to_string(new.join("new")).unwrap(), "kept");
    assert_eq!(fs::read_to_string(new.join("a")).unwrap(), "hello\n");
    assert_eq!(mounts_at(&new), 0);
    eventually(|| servers_of(&old).is_empty());
    // Moved and removed; and moved while nothing is mounted.
    for is_removed in [true, false] {
        fs::create_dir(sandbox.path("project")).unwrap();
        let old = open(&sandbox, "project/view");
        fs::write(old.join("new"), "kept").unwrap();
        if !is_removed {
            uncover(&sandbox, &old);
        }
        rift_tests::sandbox::clear(&sandbox.path("moved")).unwrap();
        fs::rename(sandbox.path("project"), sandbox.path("moved")).unwrap();
        if is_removed {
            let open = fs::Permissions::from_mode(0o755);
            fs::set_permissions(new.join("shut"), open).unwrap();
            fs::remove_dir_all(sandbox.path("moved")).unwrap();
            assert_eq!(state(&sandbox, &new), "none");
        } else {
            rift(&sandbox, &sandbox.home(), &["close", &shown]);
            assert_eq!(fs::read_to_string(new.join("a")).unwrap(), "hello\n");
            assert_eq!(fs::read_to_string(new.join("new")).unwrap(), "kept");
        }
        assert_eq!(mounts_at(&new), 0);
        eventually(|| servers_of(&old).is_empty());
    }
}

/// After a restart of the machine nothing is mounted: the next run brings it back with all changes. A
/// directory that another program made in its place is that program's.
#[test]
fn what_is_not_mounted_any_more_comes_back() {
    let name = "what_is_not_mounted_any_more_comes_back";
    if !as_root_and_nobody(name) {
        return;
    }
    let sandbox = with_tree("restart");
    let mount = sandbox.home().join("view");
    let words = ["exec", "--as", "mount", "--tree", "tree=view", "--", "cat", "view/a"];
    assert_eq!(rift(&sandbox, &sandbox.home(), &words).stdout, "hello\n");
    fs::write(mount.join("lib/new"), "kept").unwrap();
    uncover(&sandbox, &mount);
    assert_eq!(state(&sandbox, &mount), "unmounted");
    assert_eq!(rift(&sandbox, &sandbox.home(), &words).stdout, "hello\n");
    assert_eq!(fs::read_to_string(mount.join("lib/new")).unwrap(), "kept");
    assert_eq!((state(&sandbox, &mount).as_str(), mounts_at(&mount)), ("mounted", 1));
    uncover(&sandbox, &mount);
    // ext4 gives the new directory the number of the old one.
    fs::remove_dir_all(&mount).unwrap();
    fs::create_dir(&mount).unwrap();
    fs::write(mount.join("own"), "").unwrap();
    let ran = run(&sandbox, &sandbox.home(), &["close", "view"]);
    assert_eq!(ran.status.code(), Some(125), "{ran}");
    let ran = run(&sandbox, &sandbox.home(), &words);
    assert_eq!(ran.status.code(), Some(125), "{ran}");
    assert_eq!(fs::read_dir(&mount).unwrap().count(), 1);
}

/// Runs that are killed at any instant leave one mount at most, and the next one completes them.
#[test]
fn killed_runs_never_stack_mounts() {
    let name = "killed_runs_never_stack_mounts";
    // Root makes what nobody reads.
    let warm = Warm::of(Fixture::Small, Scripts::Off).unwrap();
    if !as_root_and_nobody(name) {
        return;
    }
    let sandbox = Sandbox::new("killed-runs").unwrap();
    warm.fill_npm_cache(&sandbox).unwrap();
    let project = sandbox.path("project");
    Fixture::Small.prepare(&project).unwrap();
    let tree = project.join("node_modules");
    let ci = ["exec", "--as", "mount", "--", "npm", "ci", "--ignore-scripts"];
    rift(&sandbox, &project, &ci);
    let mut dice = Dice::new(3);
    for round in 0..if rift_tests::full() { 200 } else { 12 } {
        if round % 3 == 0 {
            // Something to mend: the whole tree is mounted anew.
            let _is_edited = fs::write(tree.join("extra"), "x").is_ok();
        }
        // The one that was killed before may have left nothing to close.
        if round % 5 == 0 && state(&sandbox, &tree) != "none" {
            rift(&sandbox, &project, &["close", "--discard", "node_modules"]);
        }
        let mut command = sandbox.rift(&project, &ci).unwrap();
        kill_at_random(&mut command, Duration::from_millis(30), &mut dice).unwrap();
        if round % 2 == 0 {
            let ran = rift(&sandbox, &project, &ci);
            assert_eq!(state(&sandbox, &tree), "mounted", "round {round}: {ran}");
        }
        assert!(mounts_at(&tree) <= 1, "round {round}");
    }
    rift(&sandbox, &project, &ci);
    assert_eq!(mounts_at(&tree), 1);
    assert_same(&warm.project(), &project);
    eventually(|| servers_of(&tree).len() == 1);
}

/// A directory that lost an entry has the time of that, also after the mount.
#[test]
fn directories_keep_the_times_of_removals() {
    let name = "directories_keep_the_times_of_removals";
    if !as_root_and_nobody(name) {
        return;
    }
    let sandbox = with_tree("removals");
    for is_killed in [false, true] {
        let mount = open(&sandbox, "mount");
        let folder = mount.join("lib/deep/er");
        let times = || {
            let stat = fs::metadata(&folder).unwrap();
            (stat.ino(), stat.mtime(), stat.mtime_nsec())
        };
        let before = times();
        fs::remove_file(folder.join("numbers")).unwrap();
        let after = times();
        assert!(after.0 == before.0 && after.1 > before.1);
        let shown = mount.display().to_string();
        if is_killed {
            fs::File::open(&folder).unwrap().sync_all().unwrap();
            let [server] = servers_of(&mount)[..] else { panic!("one server serves it") };
            kill(server);
            eventually(|| servers_of(&mount).is_empty());
        }
        rift(&sandbox, &sandbox.home(), &["close", &shown]);
        assert_eq!((times().1, times().2), (after.1, after.2));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        clear(&mount).unwrap();
    }
}

/// Whoever cuts files of the store gets errors for what is gone, and a server that lives.
#[test]
fn cut_store_files_give_errors() {
    let name = "cut_store_files_give_errors";
    if !as_root_and_nobody(name) {
        return;
    }
    let code = |error: std::io::Error| error.raw_os_error();
    let cut = |folder: &Path| {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() && path.extension().is_none_or(|kind| kind != "log") {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
                fs::File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
            }
        }
    };
    let sandbox = with_tree("cut");
    let mount = open(&sandbox, "mount");
    fs::write(mount.join("bin/new"), "new").unwrap();
    let [server] = servers_of(&mount)[..] else { panic!("one server serves it") };
    // The bytes: names and what was changed are there, the rest can't be read or made real.
    cut(&sandbox.store().join("packs"));
    assert_eq!(fs::read_dir(mount.join("lib")).unwrap().count(), 2);
    assert_eq!(fs::read_to_string(mount.join("bin/new")).unwrap(), "new");
    assert_eq!(fs::read(mount.join("a")).map_err(code), Err(Some(libc::EIO)));
    let appended = fs::File::options().append(true).open(mount.join("lib/x.js"));
    let appended = appended.and_then(|mut file| std::io::Write::write_all(&mut file, b"more"));
    assert_eq!(appended.map_err(code), Err(Some(libc::EIO)));
    // The manifest is in the server's memory.
    for folder in fs::read_dir(sandbox.store().join("trees")).unwrap() {
        cut(&folder.unwrap().path());
    }
    let size = |path: &str| fs::metadata(mount.join(path)).map(|stat| stat.len()).map_err(code);
    assert_eq!(
        (size("lib/deep/er/numbers"), size("missing")),
        (Ok(13_890), Err(Some(libc::ENOENT)))
    );
    // The state: nobody knows any more what was changed.
    cut(&sandbox.store().join("states"));
    assert_eq!(fs::write(mount.join("other"), "").map_err(code), Err(Some(libc::EIO)));
    assert_eq!(size("d e/b"), Err(Some(libc::EIO)));
    assert_eq!(servers_of(&mount), [server]);
    let shown = mount.display().to_string();
    rift(&sandbox, &sandbox.home(), &["close", "--discard", &shown]);
    eventually(|| servers_of(&mount).is_empty());
}

/// The manifest is cut while `rift close` makes files of a projection that is not mounted: an error, and nothing is lost.
#[test]
fn a_manifest_that_is_cut_under_close_gives_an_error() {
    let name = "a_manifest_that_is_cut_under_close_gives_an_error";
    if !as_root_and_nobody(name) {
        return;
    }
    let sandbox = Sandbox::new("cut-close").unwrap();
    let source = sandbox.path("source");
    let file = |number: u32| (format!("{}/{number}", number % 50), format!("{}", number % 7));
    take_files_in(&sandbox, (0..1_500).map(file));
    let mount = open(&sandbox, "mount");
    fs::write(mount.join("own"), "own").unwrap();
    uncover(&sandbox, &mount);
    let folders = fs::read_dir(sandbox.store().join("trees")).unwrap();
    let listed = folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap());
    let manifests: Vec<_> = listed.map(|file| file.unwrap().path()).collect();
    let whole: Vec<_> = manifests.iter().map(|path| fs::read(path).unwrap()).collect();
    let shown = mount.display().to_string();
    let mut close = sandbox.rift(&sandbox.home(), &["close", &shown]).unwrap();
    let closing = close.stderr(Stdio::piped()).spawn().unwrap();
    eventually(|| mount.join("10").exists());
    for path in &manifests {
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::File::options().write(true).open(path).unwrap().set_len(0).unwrap();
    }
    let ended = closing.wait_with_output().unwrap();
    for (path, bytes) in manifests.iter().zip(whole) {
        fs::write(path, bytes).unwrap();
    }
    let said = String::from_utf8_lossy(&ended.stderr);
    let is_told = said.contains("was cut while it was read");
    assert_eq!(ended.status.code(), Some(if is_told { 125 } else { 0 }), "{said}");
    rift(&sandbox, &sandbox.home(), &["close", &shown]);
    fs::remove_file(mount.join("own")).unwrap();
    let mut touch = sandbox.command(&mount, "touch");
    assert!(touch.arg("-r").arg(&source).arg(".").status().unwrap().success());
    assert_same(&source, &mount);
}

/// What was removed right before stays until the kernel has forgotten it, which the end of the mount waits for.
#[test]
fn closing_leaves_nothing_of_what_was_removed() {
    let name = "closing_leaves_nothing_of_what_was_removed";
    if !as_root_and_nobody(name) {
        return;
    }
    let sandbox = with_tree("removed");
    for round in 0..10 {
        let mount = open(&sandbox, "mount");
        let names: Vec<PathBuf> = (0..500).map(|number| mount.join(number.to_string())).collect();
        names.iter().for_each(|path| fs::write(path, "removed").unwrap());
        names.iter().for_each(|path| fs::remove_file(path).unwrap());
        rift(&sandbox, &sandbox.home(), &["close", &mount.display().to_string()]);
        let listed = fs::read_dir(&mount).unwrap();
        let mut shown: Vec<_> = listed.map(|entry| entry.unwrap().file_name()).collect();
        shown.sort();
        assert_eq!(shown, ["a", "bin", "d e", "empty", "lib", "shut"], "round {round}");
        clear(&mount).unwrap();
    }
}
