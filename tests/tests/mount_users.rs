//! Mounts and the users who did not make them: what they may see and do is what the modes of real files would let them,
//! or nothing at all.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use rift_tests::again::{Again, NOBODY, is_again, run};
use rift_tests::mounts::{eventually, kill, open, rift, servers_of, with_tree};
use rift_tests::need::{Need, have};
use rift_tests::sandbox::{Sandbox, clear, rift_binary};

/// A user who is neither root nor nobody.
const OTHER: u32 = 1;

/// Returns whether the test is to go on: as root, in a namespace whose `/etc/fuse.conf` says this.
fn with_fuse_conf(name: &str, fuse_conf: &str) -> bool {
    if !is_again() && have(name, &[Need::Fuse, Need::Nobody]) {
        run(name, Again { user: 0, fuse_conf });
    }
    is_again()
}

/// Returns a command line that a user runs in `home`, which is theirs.
fn by(sandbox: &Sandbox, user: u32, home: &Path) -> Command {
    let mut command = sandbox.command(home, "setpriv");
    let [reuid, regid] = ["--reuid", "--regid"].map(|flag| format!("{flag}={user}"));
    command.args([&reuid, &regid, "--clear-groups"]);
    command.env("HOME", home).env("RIFT_STORE", home.join("store"));
    for name in ["XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"] {
        command.env_remove(name);
    }
    command
}

/// Returns what a shell says to a user, error messages and status included.
fn said(sandbox: &Sandbox, user: u32, home: &Path, script: &str) -> String {
    let ran = sandbox.run(by(sandbox, user, home).args(["sh", "-c", script])).unwrap();
    format!("{}{}", ran.stdout, ran.stderr).trim().to_owned()
}

/// The tree of [`with_tree`], mounted by a user at `mount` in a folder of theirs.
fn mounted_by(sandbox: &Sandbox, user: u32) -> PathBuf {
    let home = sandbox.path(&format!("of-{user}"));
    fs::create_dir(&home).unwrap();
    chown(&home, Some(user), Some(user)).unwrap();
    let source = sandbox.path("source").display().to_string();
    for words in [["ingest", &source, "--name", "tree"].as_slice(), &["open", "tree", "mount"]] {
        let mut command = by(sandbox, user, &home);
        command.arg(rift_binary().unwrap()).args(words);
        sandbox.run(&mut command).unwrap().success().unwrap();
    }
    home
}

/// What others than the owner get to hear in a mount that they may see.
fn assert_modes_hold(sandbox: &Sandbox, home: &Path, user: u32) {
    let mount = home.join("mount");
    let said = |script: &str| {
        said(
            sandbox,
            user,
            &sandbox.path(""),
            &script.replace("MOUNT", &mount.display().to_string()),
        )
    };
    assert_eq!(
        said("cd MOUNT && cat a && stat -c %U lib/x.js && ls bin"),
        format!("hello\n{}\nx", said(&format!("stat -c %U '{}'", home.display())))
    );
    for closed in [
        "echo > MOUNT/a",
        "echo > MOUNT/new",
        "rm MOUNT/a",
        "mkdir MOUNT/lib/new",
        "chmod 600 MOUNT/a",
        "mv MOUNT/a MOUNT/b",
    ] {
        let heard = said(closed);
        assert!(
            heard.contains("Permission denied") || heard.contains("not permitted"),
            "{closed}: {heard}"
        );
    }
    fs::set_permissions(mount.join("a"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(mount.join("lib"), fs::Permissions::from_mode(0o700)).unwrap();
    for closed in ["cat MOUNT/a", "cat MOUNT/lib/x.js", "ls MOUNT/lib"] {
        assert!(said(closed).contains("Permission denied"), "{closed}");
    }
    for (path, mode) in [("a", 0o644), ("lib", 0o755)] {
        fs::set_permissions(mount.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    assert_eq!(said("cat MOUNT/a MOUNT/lib/x.js"), "hello\nlib");
    // As a container has it that gets the directory: elsewhere, in a namespace of its own.
    let place = sandbox.path("bound");
    fs::create_dir_all(&place).unwrap();
    let inside = format!("mount --bind '{}' '{}' && exec \"$@\"", mount.display(), place.display());
    let in_container = |script: &str| {
        let mut command = sandbox.command(&sandbox.home(), "unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &inside, "sh", "setpriv"]);
        command.args([
            format!("--reuid={user}"),
            format!("--regid={user}"),
            "--clear-groups".to_owned(),
        ]);
        let script = script.replace("PLACE", &place.display().to_string());
        let ran = sandbox.run(command.args(["sh", "-c", &script])).unwrap();
        format!("{}{}", ran.stdout, ran.stderr).trim().to_owned()
    };
    assert_eq!(in_container("cat PLACE/a"), "hello");
    assert!(in_container("echo > PLACE/a").contains("Permission denied"));
    fs::set_permissions(mount.join("a"), fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(in_container("echo changed > PLACE/a && cat PLACE/a"), "changed");
    assert_eq!(fs::read_to_string(mount.join("a")).unwrap(), "changed\n");
}

/// A mount of root's is there for everybody, as far as its modes let them.
#[test]
fn everybody_sees_what_root_mounts() {
    let name = "everybody_sees_what_root_mounts";
    if !with_fuse_conf(name, "") {
        return;
    }
    let sandbox = with_tree("of-root");
    let home = mounted_by(&sandbox, 0);
    assert_modes_hold(&sandbox, &home, NOBODY);
    // What others make is theirs.
    let mount = home.join("mount");
    let open = mount.join("empty");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(open.join("roots"), "").unwrap();
    let heard = said(
        &sandbox,
        NOBODY,
        &open,
        "echo text > own && mkdir folder && ln -s own link && cat own && rm roots",
    );
    assert!(heard.starts_with("text\n") && heard.contains("not permitted"), "{heard}");
    for made in ["own", "folder", "link"] {
        let stat = fs::symlink_metadata(open.join(made)).unwrap();
        assert_eq!((stat.uid(), stat.gid()), (NOBODY, NOBODY), "{made}");
    }
}

/// A mount of another user's is closed to all others, root included.
#[test]
fn nobody_else_sees_what_a_user_mounts() {
    let name = "nobody_else_sees_what_a_user_mounts";
    if !with_fuse_conf(name, "") {
        return;
    }
    let sandbox = with_tree("of-nobody");
    let home = mounted_by(&sandbox, NOBODY);
    let mount = home.join("mount");
    for user in [0, OTHER] {
        for script in ["cat mount/a", "ls mount", "stat mount", "echo > mount/new"] {
            let heard = said(&sandbox, user, &home, script);
            assert!(heard.contains("Permission denied"), "{script}: {heard}");
        }
    }
    assert_eq!(fs::metadata(&mount).unwrap_err().raw_os_error(), Some(libc::EACCES));
    assert_eq!(said(&sandbox, NOBODY, &home, "cat mount/a"), "hello");
}

/// Where the machine permits it, a user's mount is there for others too; they can't own anything in it.
#[test]
fn others_see_what_a_user_mounts_where_that_is_permitted() {
    let name = "others_see_what_a_user_mounts_where_that_is_permitted";
    if !with_fuse_conf(name, "# for all\nuser_allow_other\n") {
        return;
    }
    let sandbox = with_tree("permitted");
    let home = mounted_by(&sandbox, NOBODY);
    assert_modes_hold(&sandbox, &home, OTHER);
    let open = home.join("mount/empty");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o1777)).unwrap();
    for user in [0, OTHER] {
        let heard = said(&sandbox, user, &open, "echo > own; mkdir own; ln -s own own");
        assert_eq!(heard.matches("not permitted").count(), 3, "{heard}");
    }
    assert_eq!(fs::read_dir(&open).unwrap().count(), 0);
}

/// A server that may not write somewhere opens the mode for a moment. One that is killed just then leaves a note.
#[test]
fn modes_are_put_back_after_a_kill() {
    let name = "modes_are_put_back_after_a_kill";
    if !is_again() && have(name, &[Need::Fuse, Need::Nobody, Need::Tool("strace")]) {
        run(name, Again { user: NOBODY, fuse_conf: "" });
    }
    if !is_again() {
        return;
    }
    let sandbox = with_tree("killed-wide");
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    let mut killed = 0;
    for nth in 1..=4 {
        let mount = open(&sandbox, "mount");
        let server = servers_of(&mount)[0].to_string();
        let mut strace = sandbox.command(&sandbox.home(), "strace");
        strace.args(["-f", "-qq", "-o", "/dev/null", "-p", &server, "-e", "trace=fchmodat"]);
        strace.args(["-e", &format!("inject=fchmodat:signal=KILL:when={nth}")]);
        let mut strace = strace.spawn().unwrap();
        let is_traced = || {
            let status = fs::read_to_string(format!("/proc/{server}/status")).unwrap();
            !status.contains("TracerPid:\t0\n")
        };
        eventually(is_traced);
        let wanted = fs::Permissions::from_mode(0o400);
        let is_changed = fs::set_permissions(mount.join("shut/in"), wanted).is_ok();
        killed += u32::from(!is_changed);
        if is_changed {
            kill(strace.id());
        }
        strace.wait().unwrap();
        rift(&sandbox, &sandbox.home(), &["close", &mount.display().to_string()]);
        assert_eq!(mode(&mount.join("shut")), 0o555, "killed at chmod {nth}");
        let found = mode(&mount.join("shut/in"));
        assert!(
            found == 0o400 || !is_changed && found == 0o444,
            "killed at chmod {nth}: {found:o}"
        );
        assert!(!mount.join(".rift-orphans").exists());
        clear(&mount).unwrap();
    }
    assert!(killed >= 2, "{killed} servers were killed");
}
