//! Mounted projections under faults: dead servers, busy mount points, full disks, and system calls that are refused.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rift_tests::apps::compiled;
use rift_tests::differ::{Options, compare};
use rift_tests::fault::{Dice, SmallDisk};
use rift_tests::mounts::{
    assert_same, eventually, kill, mounts_at, open, rift, run, servers_of, state, with_tree,
};
use rift_tests::need::{Need, have};
use rift_tests::repository;
use rift_tests::sandbox::{Sandbox, clear};

/// How long anything may take that is answered at all.
const BOUND: Duration = Duration::from_secs(20);

/// Nothing is left of the projections that a test had: no mount, no server, no state, no lease, no half-made file.
#[track_caller]
fn assert_over(sandbox: &Sandbox, directory: &Path) {
    assert_eq!(mounts_at(directory), 0);
    eventually(|| servers_of(directory).is_empty());
    // The leases of who was killed are taken away by the next collection.
    rift(sandbox, &sandbox.home(), &["store", "gc"]);
    for folder in ["states", "leases", "tmp"] {
        let left: Vec<_> = fs::read_dir(sandbox.store().join(folder)).unwrap().collect();
        assert!(left.is_empty(), "{folder}: {left:?}");
    }
    assert!(!directory.join(".rift-orphans").exists());
    rift(sandbox, &sandbox.home(), &["store", "verify"]);
}

/// How two trees differ in all but the times of what a program changed.
fn differences(expected: &Path, found: &Path) -> Vec<String> {
    let options = Options { mtimes: false, hard_links: true, ..Options::default() };
    compare(expected, found, options).unwrap().iter().map(ToString::to_string).collect()
}

/// A server that is gone is noticed, also where the kernel still knows what it said of the root.
#[test]
fn a_dead_server_is_known_by_more_than_its_root() {
    let name = "a_dead_server_is_known_by_more_than_its_root";
    if !have(name, &[Need::Root, Need::Fuse]) {
        return;
    }
    let sandbox = with_tree("cached-root");
    let mount = open(&sandbox, "home/view");
    fs::metadata(&mount).unwrap();
    servers_of(&mount).into_iter().for_each(kill);
    eventually(|| servers_of(&mount).is_empty());
    assert_eq!(state(&sandbox, &mount), "dead");
    let words = ["exec", "--as", "mount", "--tree", "tree=view", "cat", "view/a"];
    assert_eq!(rift(&sandbox, &sandbox.home(), &words).stdout, "hello\n");
    rift(&sandbox, &sandbox.home(), &["close", "view"]);
    assert_over(&sandbox, &mount);
}

/// A server that is killed at any instant loses no change that was done, and hangs nobody.
#[test]
fn a_server_killed_at_any_instant_loses_nothing() {
    let name = "a_server_killed_at_any_instant_loses_nothing";
    if !have(name, &[Need::Root, Need::Fuse, Need::Tool("python3")]) {
        return;
    }
    let sandbox = with_tree("killed-at-random");
    let program = repository().join("tests/apps/mirrored_changes.py");
    let (view, mirror) = (sandbox.home().join("view"), sandbox.path("mirror"));
    let seed = u64::from(std::process::id());
    let mut dice = Dice::new(seed);
    for round in 0..if rift_tests::full() { 240 } else { 8 } {
        // Three deaths of one mount, each healed, then one of a private view, all on the same changes.
        let is_private = round % 4 == 3;
        let closes = |context: &str| {
            rift(&sandbox, &sandbox.home(), &["close", "view"]);
            let found = mended(&program, &sandbox, (&mirror, &view), context);
            assert!(found.is_empty(), "{found:#?}");
            assert_over(&sandbox, &view);
        };
        if round % 4 == 0 || is_private {
            clear(&view).unwrap();
            rift(&sandbox, &sandbox.home(), &["materialize", "--force", "tree", "../mirror"]);
        }
        let round_seed = dice.below(1 << 32).to_string();
        let mut words = vec!["exec", "--as", "mount", "--tree", "tree=view"];
        words.extend(is_private.then_some("--private"));
        words.extend(["--", "python3", program.to_str().unwrap()]);
        words.extend([view.to_str().unwrap(), mirror.to_str().unwrap(), &round_seed, "100000"]);
        let mut command = sandbox.rift(&sandbox.home(), &words).unwrap();
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        eventually(|| !servers_of(&view).is_empty());
        std::thread::sleep(Duration::from_micros(100_000 + dice.below(300_000)));
        servers_of(&view).into_iter().for_each(kill);
        let killed = Instant::now();
        let output = child.wait_with_output().unwrap();
        assert!(killed.elapsed() < BOUND, "seed {seed}, round {round}");
        let last = String::from_utf8_lossy(&output.stdout);
        let context = format!("seed {seed}, round {round}: {last}");
        assert_eq!(output.status.code(), Some(4), "{context}{output:?}");
        if is_private {
            closes(&last);
            continue;
        }
        assert_eq!(state(&sandbox, &view), "dead", "{context}");
        if round % 4 == 2 {
            closes(&last);
            continue;
        }
        rift(&sandbox, &sandbox.home(), &["exec", "--as", "mount", "--tree", "tree=view", "true"]);
        assert_eq!((state(&sandbox, &view).as_str(), mounts_at(&view)), ("mounted", 1));
        let found = mended(&program, &sandbox, (&mirror, &view), &last);
        assert!(found.is_empty(), "{context}{found:#?}");
    }
}

/// Returns how a view differs from its mirror, which gets the last change, too, where the view got it.
fn mended(
    program: &Path,
    sandbox: &Sandbox,
    (mirror, view): (&Path, &Path),
    last: &str,
) -> Vec<String> {
    let before = differences(mirror, view);
    if before.is_empty() {
        return before;
    }
    let mut command = sandbox.command(&sandbox.home(), "python3");
    command.arg(program).arg("--last").arg(mirror).arg(last.trim());
    assert!(command.status().unwrap().success());
    let after = differences(mirror, view);
    if after.is_empty() { after } else { [before, after].concat() }
}

/// A mount that somebody is in can be closed; who is in it goes on.
#[test]
fn a_busy_mount_can_be_closed() {
    let name = "a_busy_mount_can_be_closed";
    if !have(name, &[Need::Root, Need::Fuse]) {
        return;
    }
    let sandbox = with_tree("busy");
    for discards in [false, true] {
        let mount = open(&sandbox, "home/view");
        let mut inside = sandbox.command(&mount, "sh");
        inside.args(["-c", "exec 3< lib/x.js; echo go; read line; cat <&3; cat a; ls lib"]);
        inside.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = inside.spawn().unwrap();
        let mut word = [0; 3];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut word).unwrap();
        let option = if discards { &["--discard"][..] } else { &[] };
        rift(&sandbox, &sandbox.home(), &[&["close"], option, &["view"]].concat());
        assert_eq!((mounts_at(&mount), mount.exists()), (0, !discards));
        drop(child.stdin.take());
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(discards || text == "libhello\ndeep\nx.js\n", "{text}");
        if !discards {
            assert_same(&sandbox.path("source"), &mount);
        }
        assert_over(&sandbox, &mount);
        clear(&mount).unwrap();
    }
}

/// Writes to a changed file of a tree that was discarded go where those to a removed file go, or fail; never elsewhere.
#[test]
fn writes_to_what_was_discarded_go_nowhere() {
    let name = "writes_to_what_was_discarded_go_nowhere";
    if !have(name, &[Need::Root, Need::Fuse]) {
        return;
    }
    let sandbox = with_tree("discarded");
    let mount = open(&sandbox, "home/view");
    let mut changed = fs::File::options().append(true).open(mount.join("a")).unwrap();
    let mut made = fs::File::create(mount.join("made")).unwrap();
    for file in [&mut changed, &mut made] {
        file.write_all(b"before").unwrap();
    }
    rift(&sandbox, &sandbox.home(), &["close", "--discard", "view"]);
    fs::create_dir(&mount).unwrap();
    for name in ["a", "made"] {
        fs::write(mount.join(name), "own").unwrap();
    }
    for file in [&mut changed, &mut made] {
        let error = file.write_all(b"after").err().and_then(|error| error.raw_os_error());
        assert!(matches!(error, None | Some(libc::EIO | libc::ENOENT)), "{error:?}");
    }
    drop((changed, made));
    for name in ["a", "made"] {
        assert_eq!(fs::read_to_string(mount.join(name)).unwrap(), "own");
    }
    eventually(|| servers_of(&mount).is_empty());
}

/// A full disk is an error as in real files; the tree stays whole, and with room again everything goes on.
#[test]
fn a_full_disk_takes_nothing_from_a_mount() {
    let name = "a_full_disk_takes_nothing_from_a_mount";
    if !have(name, &[Need::Root, Need::Fuse]) {
        return;
    }
    let sandbox = with_tree("full-mount");
    for (bytes, inodes) in [(1 << 20, 1_000), (64 << 20, 24)] {
        let disk = SmallDisk::mount(&sandbox.path("small"), bytes, inodes).unwrap();
        let mount = open(&sandbox, "small/view");
        let code = |error: std::io::Error| error.raw_os_error();
        let fill = |round: usize| {
            (0..).find_map(|number| {
                let path = mount.join(format!("bin/fill-{round}-{number}"));
                fs::write(path, vec![b'x'; 30_000]).map_err(code).err()
            })
        };
        for round in 0..20 {
            assert_eq!(fill(round), Some(Some(libc::ENOSPC)), "round {round}");
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
            let changed = fs::set_permissions(mount.join("lib/deep/er/numbers"), mode);
            assert!(matches!(changed.map_err(code), Ok(()) | Err(Some(libc::ENOSPC))));
            let numbers = fs::read_to_string(mount.join("lib/deep/er/numbers")).unwrap();
            assert!(numbers.ends_with("2999\n") && numbers.len() == 13_890);
            let ran = run(&sandbox, &sandbox.home(), &["close", &mount.display().to_string()]);
            assert_eq!(ran.status.code(), Some(125), "{ran}");
            assert!(ran.stderr.contains("No space left"), "{ran}");
            assert_eq!(state(&sandbox, &mount), "mounted");
            let fillers =
                fs::read_dir(mount.join("bin")).unwrap().map(|entry| entry.unwrap().path());
            let fillers = fillers.filter(|path| path.to_string_lossy().contains("fill-"));
            fillers.for_each(|path| fs::remove_file(path).unwrap());
        }
        disk.resize(64 << 20, 1_000).unwrap();
        rift(&sandbox, &sandbox.home(), &["close", &mount.display().to_string()]);
        let source = sandbox.path("source");
        let options = Options { mtimes: false, ..Options::default() };
        let left = compare(&source, &mount, options).unwrap();
        assert!(left.is_empty(), "{left:?}");
        assert_over(&sandbox, &mount);
    }
}

/// Where mount(2) is refused, as by the filter of a container, trees are files, which is said once.
#[test]
fn without_mounts_trees_are_files() {
    let name = "without_mounts_trees_are_files";
    if !have(name, &[Need::Root, Need::Fuse, Need::Tool("cc")]) {
        return;
    }
    let sandbox = with_tree("refused");
    let deny = compiled("deny").unwrap();
    let binary = rift_tests::sandbox::rift_binary().unwrap();
    let refused = |words: &[&str]| {
        let mut command = sandbox.command(&sandbox.home(), &deny);
        // The helper has set-user-ID, but a filter holds for it too.
        command
            .args([libc::SYS_mount.to_string(), libc::EPERM.to_string()])
            .arg(&binary)
            .args(words);
        sandbox.run(&mut command).unwrap()
    };
    let ran = refused(&["open", "tree", "view"]);
    assert_eq!(ran.status.code(), Some(125), "{ran}");
    assert!(ran.stderr.contains("could not mount"), "{ran}");
    let view = sandbox.home().join("view");
    assert!(!view.exists());
    assert_over(&sandbox, &view);
    let ran = refused(&["exec", "--as", "mount", "--tree", "tree=view", "--", "cat", "view/a"]);
    assert_eq!((ran.status.code(), ran.stdout.as_str()), (Some(0), "hello\n"), "{ran}");
    assert_eq!(ran.stderr.matches("warning:").count(), 1, "{ran}");
    assert_same(&sandbox.path("source"), &view);
    assert_eq!(state(&sandbox, &view), "current");
    assert_over(&sandbox, &view);
}

/// A pack that lost its end costs the files whose bytes lay there, and no other: none is made real with zeros.
#[test]
fn a_cut_pack_costs_only_what_it_lost() {
    let name = "a_cut_pack_costs_only_what_it_lost";
    if !have(name, &[Need::Root, Need::Fuse]) {
        return;
    }
    let sandbox = with_tree("cut-pack");
    let mount = open(&sandbox, "home/view");
    // What was read once needs no look at the pack's name.
    let numbers = fs::read(mount.join("lib/deep/er/numbers")).unwrap();
    let is_pack = |bytes: &Vec<u8>| bytes.windows(numbers.len()).any(|part| part == numbers);
    let packs = files_below(&sandbox.store().join("packs"));
    let pack = packs.iter().find(|path| is_pack(&fs::read(path).unwrap())).unwrap();
    let bytes = fs::read(pack).unwrap();
    let place = bytes.windows(numbers.len()).position(|part| part == numbers).unwrap();
    let kept = place + numbers.len() - 2;
    cut(pack, kept as u64);
    let mut lost = 0;
    for path in ["a", "d e/b", "lib/x.js", "lib/deep/er/numbers", "shut/in"] {
        let expected = fs::read(sandbox.path("source").join(path)).unwrap();
        let at = bytes.windows(expected.len().max(1)).position(|part| part == expected);
        let is_kept = expected.is_empty() || at.unwrap() + expected.len() <= kept;
        let mode = fs::Permissions::from_mode(0o600);
        let changed = fs::set_permissions(mount.join(path), mode);
        let changed = changed.map_err(|error| error.raw_os_error());
        if is_kept {
            assert_eq!(changed, Ok(()), "{path}");
            assert_eq!(fs::read(mount.join(path)).unwrap(), expected, "{path}");
        } else {
            assert_eq!(changed, Err(Some(libc::EIO)), "{path}");
            lost += 1;
        }
    }
    assert!((1..5).contains(&lost), "{lost} were lost");
    let ran = run(&sandbox, &sandbox.home(), &["close", "view"]);
    assert_eq!(ran.status.code(), Some(125), "{ran}");
    assert_eq!(state(&sandbox, &mount), "mounted");
    rift(&sandbox, &sandbox.home(), &["close", "--discard", "view"]);
    eventually(|| servers_of(&mount).is_empty());
}

/// A server whose state somebody cuts, by however little, answers with errors from then on. The next run, or the end of
/// the projection, shows what is real again; who has a file open writes nowhere.
#[test]
fn a_server_without_its_state_is_replaced() {
    let name = "a_server_without_its_state_is_replaced";
    if !have(name, &[Need::Root, Need::Fuse]) {
        return;
    }
    let sandbox = with_tree("cut-state-served");
    let code = |error: std::io::Error| error.raw_os_error();
    let eio = Err(Some(libc::EIO));
    for (is_closed, is_noticed, cuts_all) in
        [(false, true, true), (false, false, false), (true, true, false), (true, false, true)]
    {
        let mount = open(&sandbox, "home/view");
        fs::write(mount.join("lib/new"), "new").unwrap();
        fs::remove_file(mount.join("bin/x")).unwrap();
        let mut file = fs::File::options().append(true).open(mount.join("a")).unwrap();
        file.write_all(b"before").unwrap();
        let servers = servers_of(&mount);
        let states = files_below(&sandbox.store().join("states"));
        let path = states.iter().find(|path| path.extension().is_none()).unwrap();
        cut(path, if cuts_all { 0 } else { fs::metadata(path).unwrap().len() - 1 });
        if is_noticed {
            assert_eq!(fs::read(mount.join("d e/b")).map(drop).map_err(code), eio);
            assert_eq!(fs::remove_file(mount.join("lib/new")).map_err(code), eio);
            assert_eq!(file.write_all(b"after").map_err(code), eio);
            assert_eq!((servers_of(&mount), state(&sandbox, &mount)), (servers, "dead".to_owned()));
        }
        if is_closed {
            rift(&sandbox, &sandbox.home(), &["close", "view"]);
        } else {
            let words = ["exec", "--as", "mount", "--tree", "tree=view", "cat", "view/lib/x.js"];
            assert_eq!(rift(&sandbox, &sandbox.home(), &words).stdout, "lib");
            assert_eq!((mounts_at(&mount), state(&sandbox, &mount).as_str()), (1, "mounted"));
        }
        assert_eq!(file.write_all(b"late").map_err(code), eio);
        drop(file);
        let look = || {
            assert_eq!(fs::read_to_string(mount.join("a")).unwrap(), "hello\nbefore");
            assert_eq!(fs::read_to_string(mount.join("lib/new")).unwrap(), "new");
            // As docs/semantics.md has it.
            assert_eq!(fs::read_to_string(mount.join("bin/x")).unwrap(), "lib");
        };
        look();
        if !is_closed {
            eventually(|| servers_of(&mount).len() == 1);
            fs::remove_file(mount.join("bin/x")).unwrap();
            fs::write(mount.join("lib/x.js"), "changed").unwrap();
            rift(&sandbox, &sandbox.home(), &["close", "view"]);
            assert!(!mount.join("bin/x").exists());
            assert_eq!(fs::read_to_string(mount.join("lib/x.js")).unwrap(), "changed");
        }
        assert_over(&sandbox, &mount);
        clear(&mount).unwrap();
    }
}

/// All files below a folder.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let listed = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let below = |path: PathBuf| if path.is_dir() { files_below(&path) } else { vec![path] };
    listed.flat_map(below).collect()
}

/// Cuts a store file, as somebody may who does not know what it is.
fn cut(path: &Path, length: u64) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::File::options().write(true).open(path).unwrap().set_len(length).unwrap();
}
