//! Projections under the shim, judged by the same tree as real files.
//!
//! A program does the same in a projection that only the shim shows, in real files, and in real files beside a projection;
//! it has to print the same each time.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rift_tests::again::as_root_and_nobody;
use rift_tests::apps::compiled_with;
use rift_tests::fault::{Dice, kill_at_random};
use rift_tests::mounts::{
    assert_lines, assert_same, eventually, mounts_at, rift, run, state, take_files_in, with_tree,
};
use rift_tests::need::{Need, have};
use rift_tests::repository;
use rift_tests::sandbox::{Ran, Sandbox, clear, rift_binary};

/// The words before `--` that let a command see the tree at `view` of its folder.
const VIRTUAL: [&str; 5] = ["exec", "--as", "virtual", "--tree", "tree=view"];

/// Runs a command of the home with the tree at `view` there.
fn virtually(sandbox: &Sandbox, command: &[&str]) -> Ran {
    run(sandbox, &sandbox.home(), &[&VIRTUAL, &["--"][..], command].concat())
}

/// The command sees the tree, and changes it; the world sees what was changed, and `close` makes the rest real.
#[test]
fn a_projection_is_seen_by_its_run_alone() {
    let name = "a_projection_is_seen_by_its_run_alone";
    if !as_root_and_nobody(name) {
        return;
    }
    let sandbox = with_tree("virtual");
    let view = sandbox.home().join("view");
    let script = "cat view/a view/lib/x.js && echo new > view/lib/new && rm view/bin/x && exit 7";
    let ran = virtually(&sandbox, &["sh", "-c", script]);
    assert_eq!((ran.status.code(), ran.stdout.as_str()), (Some(7), "hello\nlib"), "{ran}");
    assert_eq!(fs::read_to_string(view.join("lib/new")).unwrap(), "new\n");
    assert!(!view.join("d e").exists() && state(&sandbox, &view) == "virtual");
    assert_eq!(mounts_at(&view), 0);
    // Another run sees what the first one did, also without naming the tree, and from inside.
    let ran = rift(&sandbox, &view.join("lib"), &["exec", "--", "cat", "../a", "new"]);
    assert_eq!(ran.stdout, "hello\nnew\n");
    rift(&sandbox, &sandbox.home(), &["close", "view"]);
    assert_eq!(fs::read_to_string(view.join("lib/new")).unwrap(), "new\n");
    assert_eq!(fs::read_to_string(view.join("a")).unwrap(), "hello\n");
    assert!(!view.join("bin/x").exists() && !view.join(".rift-orphans").exists());
    // What runs leave in the store is the store's.
    let verified = rift(&sandbox, &sandbox.home(), &["store", "verify"]);
    assert!(
        !verified.stdout.contains("litter") && !verified.stderr.contains("nothing reads it"),
        "{verified}"
    );
}

/// From above several projections relative names lead into each, and where the process works is asked once, however many names
/// lead nowhere.
#[test]
fn names_from_above_several_projections_lead_into_each() {
    let name = "names_from_above_several_projections_lead_into_each";
    if !have(name, &[Need::Tool("strace")]) || !as_root_and_nobody(name) {
        return;
    }
    let sandbox = with_tree("several");
    let home = sandbox.home();
    fs::create_dir(home.join("beside")).unwrap();
    let script = "cat one/a ./two/a three/lib/x.js; ls one two/lib; echo new >two/lib/new; mkdir one/made; mv two/a one/b; \
                  cat one/b; [ -e two/a ] || echo gone; [ -e beside/a ] || echo none; [ -e onea ] || echo none; \
                  cd beside; cat ../one/lib/x.js; cd ..; cat one/b; cd one; cat ../two/lib/x.js";
    let native = sandbox.path("native");
    fs::create_dir_all(native.join("beside")).unwrap();
    for view in ["one", "two", "three"] {
        rift(&sandbox, &home, &["materialize", "tree", &native.join(view).display().to_string()]);
    }

    let mut command = sandbox.command(&native, "sh");
    let expected = sandbox.run(command.args(["-c", script])).unwrap().success().unwrap();
    let trees = ["--tree", "tree=one", "--tree", "tree=two", "--tree", "tree=three"];
    let under = |command: &[&str]| {
        run(&sandbox, &home, &[&["exec", "--as", "virtual"], &trees[..], &["--"], command].concat())
    };
    let found = under(&["sh", "-c", script]).success().unwrap();
    assert_eq!(found.stdout, expected.stdout);
    let many = "for at in $(seq 200); do [ -e none$at ]; done; [ -e one/lib/x.js ] && echo there";
    let traced = ["strace", "-qq", "-e", "trace=getcwd", "sh", "-c", many];
    let found = under(&traced).success().unwrap();
    assert_eq!(found.stdout, "there\n");
    assert!(found.stderr.matches("getcwd").count() < 10, "{}", found.stderr);
    for view in ["one", "two", "three"] {
        rift(&sandbox, &home, &["close", view]);
        assert_same(&native.join(view), &home.join(view));
    }
}

/// Who runs `probe`, and how it is linked.
fn probes() -> [PathBuf; 2] {
    let quiet = "-Wno-unused-result";
    [
        compiled_with("probe", "probe", &[quiet]).unwrap(),
        compiled_with("probe", "probe-static", &[quiet, "-static", "-w"]).unwrap(),
    ]
}

/// All that the kernel and the C library are asked of files has the same answers in real files, in a projection, and in
/// real files beside one.
#[test]
fn everything_asked_has_the_same_answers() {
    let name = "everything_asked_has_the_same_answers";
    if !have(name, &[Need::Tool("cc")]) {
        return;
    }
    let probes = probes();
    if !as_root_and_nobody(name) {
        return;
    }
    for probe in probes {
        let sandbox = with_tree("probe");
        let probe = probe.display().to_string();
        let [native, beside] = ["native", "beside"].map(|name| sandbox.path(name));
        for real in [&native, &beside] {
            let shown = real.display().to_string();
            rift(&sandbox, &sandbox.home(), &["materialize", "tree", &shown]);
        }
        let mut command = sandbox.command(&sandbox.home(), &probe);
        let expected = sandbox.run(command.arg(&native)).unwrap().success().unwrap().stdout;
        assert!(expected.lines().count() > 700, "{expected}");
        let view = sandbox.home().join("view");
        for place in [&view, &beside] {
            let found = virtually(&sandbox, &[&probe, &place.display().to_string()]);
            let found = found.success().unwrap().stdout;
            assert_lines(&found, &expected, &format!("{probe} {}", place.display()));
        }
        rift(&sandbox, &sandbox.home(), &["close", "view"]);
    }
}

/// Random changes have the same results, one by one, and leave the same tree.
#[test]
fn random_changes_have_the_same_results_under_the_shim() {
    let name = "random_changes_have_the_same_results_under_the_shim";
    if !as_root_and_nobody(name) {
        return;
    }
    let sandbox = with_tree("random-virtual");
    let program = repository().join("tests/apps/random_files.py").display().to_string();
    let view = sandbox.home().join("view");
    let seeds = if rift_tests::full() { 1..=200 } else { 151..=155 };
    for seed in seeds {
        let real = sandbox.path("real");
        let shown = real.display().to_string();
        rift(&sandbox, &sandbox.home(), &["materialize", "--force", "tree", &shown]);
        let words = |directory: &Path| {
            let directory = directory.display().to_string();
            ["python3".to_owned(), program.clone(), directory, seed.to_string(), "400".to_owned()]
        };
        let native = words(&real);
        let mut native_command = sandbox.command(&sandbox.home(), &native[0]);
        let expected = sandbox.run(native_command.args(&native[1..])).unwrap().success().unwrap();
        let inside = words(&view);
        let inside: Vec<&str> = inside.iter().map(String::as_str).collect();
        let found = virtually(&sandbox, &inside).success().unwrap();
        assert_lines(&found.stdout, &expected.stdout, &format!("seed {seed}"));
        rift(&sandbox, &sandbox.home(), &["close", "view"]);
        assert_same(&real, &view);
        clear(&view).unwrap();
    }
}

/// Whoever is killed, and whenever: what nobody changed is the tree's.
#[test]
fn killed_runs_lose_nothing() {
    let name = "killed_runs_lose_nothing";
    if !as_root_and_nobody(name) {
        return;
    }
    let sandbox = with_tree("killed-virtual");
    let view = sandbox.home().join("view");
    let read_all = "for i in 1 2 3; do find view -type f -exec cat {} + >/dev/null & done; wait";
    let mut dice = Dice::new(5);
    for _ in 0..if rift_tests::full() { 100 } else { 10 } {
        let words = [&VIRTUAL, &["--", "sh", "-c", read_all][..]].concat();
        let mut command = sandbox.rift(&sandbox.home(), &words).unwrap();
        kill_at_random(&mut command, Duration::from_millis(60), &mut dice).unwrap();
        eventually(|| sandbox.processes().is_empty());
        // The directory may not be there yet.
        if state(&sandbox, &view) == "none" {
            continue;
        }
        let ran = virtually(&sandbox, &["cat", "view/lib/x.js", "view/shut/in"]);
        assert_eq!(ran.success().unwrap().stdout, "libshut");
        rift(&sandbox, &sandbox.home(), &["close", "view"]);
        assert_same(&sandbox.path("source"), &view);
        clear(&view).unwrap();
    }
}

/// A process that is killed at any step of making an entry real, also between its claim and the entry's name: another of the
/// same run takes over at once.
#[test]
fn who_is_killed_at_work_is_taken_over() {
    let name = "who_is_killed_at_work_is_taken_over";
    if !have(name, &[Need::Strace]) || !as_root_and_nobody(name) {
        return;
    }
    let sandbox = with_tree("killed-at-work");
    let (view, source) = (sandbox.home().join("view"), sandbox.path("source"));
    let mut killed = 0;
    for call in ["mkdir", "openat", "write", "fchmod", "utimensat", "statx", "renameat2"] {
        for nth in 1..=if rift_tests::full() { 12 } else { 2 } {
            let script = format!(
                "strace -f -o /dev/null -e trace={call} -e inject={call}:signal=SIGKILL:when={nth} \
                 cat view/shut/in >/dev/null 2>&1; echo $?; cat view/shut/in view/lib/x.js; \
                 find view | wc -l"
            );
            let ran = virtually(&sandbox, &["sh", "-c", &script]).success().unwrap();
            let (status, rest) = ran.stdout.split_once('\n').unwrap();
            killed += usize::from(status == "137");
            assert_eq!(rest, "shutlib14\n", "{call} {nth}: {ran}");
            rift(&sandbox, &sandbox.home(), &["close", "view"]);
            assert_same(&source, &view);
            clear(&view).unwrap();
        }
    }
    assert!(killed >= 5, "only {killed} were killed");
}

/// `rift why` tells what a run answered, passed and made real, and `rift doctor` whether the shim works, and why not.
#[test]
fn what_the_shim_did_is_told() {
    let sandbox = with_tree("told");
    let script =
        "for i in 1 2 3; do test -e view/lib/x.js; done; cat view/a view/a; chmod 600 view/a; true";
    virtually(&sandbox, &["sh", "-c", script]).success().unwrap();
    let told = rift(&sandbox, &sandbox.home(), &["why"]).stdout;
    let number = |what: &str| {
        let line = told.lines().find(|line| line.ends_with(what));
        let word = line.and_then(|line| line.split_whitespace().nth(1));
        word.and_then(|word| word.parse::<u64>().ok()).unwrap_or_else(|| panic!("{what}: {told}"))
    };
    assert!(number("looks at the tree were answered without the kernel") >= 3, "{told}");
    assert!(number("calls about it were passed to the kernel") >= 2, "{told}");
    assert_eq!(number("entries were made real"), 1, "{told}");
    assert_eq!(number("programs had the shim"), 3, "{told}");
    assert!(told.contains("summary    rift: sh ran in "), "{told}");
    let doctor = rift(&sandbox, &sandbox.home(), &["doctor"]).stdout;
    assert!(doctor.contains("ok    shim          `--as virtual` answers programs"), "{doctor}");
}

/// Many processes at once make the same entries real, and each of them sees all of them.
#[test]
fn many_processes_make_one_tree() {
    let name = "many_processes_make_one_tree";
    if !as_root_and_nobody(name) {
        return;
    }
    let sandbox = Sandbox::new("storm").unwrap();
    let file = |number: usize| {
        (format!("{}/{}/{number}", number % 10, number % 3), format!("{number}\n").repeat(number))
    };
    take_files_in(&sandbox, (0..200).map(file));
    let (processes, rounds, seconds) = if rift_tests::full() { (512, 3, 40) } else { (40, 2, 0) };
    // Each has a file of its own come and go beside those that it reads.
    let own = "echo $i >view/1/1/own-$i; mv view/1/1/own-$i view/2/2/own-$i; rm view/2/2/own-$i";
    let all = "find view -type f ! -name 'own-*' | LC_ALL=C sort | xargs cat | cksum";
    let storm = format!(
        "end=$(($(date +%s) + {seconds})); while :; do \
             for i in $(seq {processes}); do ({all}; {own}) & done; wait; \
             [ $(date +%s) -lt $end ] || break; \
         done"
    );
    for _ in 0..rounds {
        let ran = virtually(&sandbox, &["sh", "-c", &storm]).success().unwrap();
        let (count, lines) =
            (ran.stdout.lines().count(), ran.stdout.lines().collect::<BTreeSet<&str>>());
        assert!(count >= processes && count.is_multiple_of(processes) && lines.len() == 1, "{ran}");
        let view = sandbox.home().join("view");
        rift(&sandbox, &sandbox.home(), &["close", "view"]);
        assert_same(&sandbox.path("source"), &view);
        clear(&view).unwrap();
    }
}

/// Whichever system call fails while entries are made real: an error, or the right bytes, and the next run has all.
#[test]
fn a_failing_call_is_an_error_and_no_damage() {
    let name = "a_failing_call_is_an_error_and_no_damage";
    if !have(name, &[Need::Strace]) || !as_root_and_nobody(name) {
        return;
    }
    let sandbox = with_tree("failing");
    let view = sandbox.home().join("view");
    let words = [&VIRTUAL, &["--", "cat", "view/lib/deep/er/numbers", "view/shut/in"][..]].concat();
    let numbers = fs::read_to_string(sandbox.path("source/lib/deep/er/numbers")).unwrap();
    for call in ["mkdir", "openat", "write", "linkat", "renameat2", "utimensat", "statx", "mmap"] {
        for error in if rift_tests::full() { &["ENOSPC", "EIO"][..] } else { &["EIO"] } {
            for nth in 1..if rift_tests::full() { 60 } else { 4 } {
                let mut traced = sandbox.command(&sandbox.home(), "strace");
                let inject = format!("inject={call}:error={error}:when={nth}");
                traced.args([
                    "-f",
                    "-o",
                    "/dev/null",
                    "-e",
                    &format!("trace={call}"),
                    "-e",
                    &inject,
                ]);
                let rift_itself = rift_binary().unwrap();
                let ran = sandbox.run(traced.arg(rift_itself).args(&words)).unwrap();
                let context = format!("{call} {error} {nth}: {ran}");
                if ran.status.success() {
                    assert_eq!(ran.stdout, format!("{numbers}shut"), "{context}");
                }
                // What was read is right as far as it goes.
                assert!(format!("{numbers}shut").contains(&ran.stdout), "{context}");
                if state(&sandbox, &view) == "virtual" {
                    rift(&sandbox, &sandbox.home(), &["close", "view"]);
                    assert_same(&sandbox.path("source"), &view);
                }
                clear(&view).unwrap();
            }
        }
    }
}

/// A file is made whatever the file system, the kernel and the limits of the process leave: without a name, or with one that
/// nobody sees; by a descriptor of its folder, or by its path. Its mode is the tree's.
#[test]
fn files_are_made_in_every_way_that_is_left() {
    let name = "files_are_made_in_every_way_that_is_left";
    if !have(name, &[Need::Strace]) || !as_root_and_nobody(name) {
        return;
    }
    let sandbox = with_tree("every-way");
    let view = sandbox.home().join("view");
    let read = "cat view/lib/deep/er/numbers view/shut/in";
    let numbers = fs::read_to_string(sandbox.path("source/lib/deep/er/numbers")).unwrap();
    let inject = |what: &str| {
        let orphans = view.join(".rift-orphans");
        format!(
            "strace -f -o trace -P {} -e trace=openat,linkat -e inject={what} {read}; grep -q INJECTED trace",
            orphans.display()
        )
    };
    let every_link = format!(
        "strace -f -o trace -e trace=linkat -e inject=linkat:error=ENOENT {read}; grep -q INJECTED trace"
    );
    let first_link = every_link.replace("ENOENT", "ENOENT:when=1");
    let ways = [
        inject("openat:error=EOPNOTSUPP"),
        inject("openat:error=EISDIR"),
        every_link,
        first_link,
        format!("ulimit -n 4; {read}"),
        format!("umask 777; {read}"),
        format!("umask 0; {read}"),
    ];
    for way in ways {
        let ran = virtually(&sandbox, &["sh", "-ec", &way]).success().unwrap();
        assert_eq!(ran.stdout, format!("{numbers}shut"), "{way}: {ran}");
        let left = fs::read_dir(view.join(".rift-orphans")).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{way}");
        rift(&sandbox, &sandbox.home(), &["close", "view"]);
        assert_same(&sandbox.path("source"), &view);
        clear(&view).unwrap();
    }
}

/// Blobs that the store has lost give EIO, never other bytes.
#[test]
fn what_the_store_lost_is_an_error() {
    let name = "what_the_store_lost_is_an_error";
    if !as_root_and_nobody(name) {
        return;
    }
    let sandbox = with_tree("lost-virtual");
    // Within one run, for a store that is damaged before it is not used at all.
    let packs = sandbox.store().join("packs").display().to_string();
    let script = format!(
        "cat view/a; chmod -R u+w {packs}; find {packs} -type f -exec truncate -s 0 {{}} +; \
         cat view/a view/lib/deep/er/numbers; stat -c %s view/lib/deep/er/numbers"
    );
    let ran = virtually(&sandbox, &["sh", "-c", &script]);
    assert_eq!(ran.stdout, "hello\nhello\n13890\n", "{ran}");
    assert!(ran.stderr.contains("view/lib/deep/er/numbers: Input/output error"), "{ran}");
    assert!(!sandbox.home().join("view/lib/deep/er/numbers").exists());
}

/// Bytes of the store that were touched in place give EIO, never themselves; a run says so, and `RIFT_VERIFY=always` finds
/// what was hidden.
#[test]
fn what_was_touched_in_the_store_is_an_error() {
    let name = "what_was_touched_in_the_store_is_an_error";
    if !have(name, &[Need::Tool("python3")]) || !as_root_and_nobody(name) {
        return;
    }
    let flip = "import glob, os, sys\n\
                for path in glob.glob(sys.argv[1] + '/**', recursive=True):\n    \
                if not os.path.isfile(path): continue\n    \
                stat = os.stat(path)\n    os.chmod(path, 0o600)\n    data = bytearray(open(path, 'rb').read())\n    \
                at = data.find(b'1234\\n')\n    \
                if at >= 0:\n        file = open(path, 'r+b')\n        file.seek(at)\n        file.write(b'1235')\n        file.close()\n    \
                if sys.argv[2] == 'hidden': os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))\n";
    // Also a pack that this process has read from before, and one that another process has.
    let reads = "cat view/lib/x.js; python3 -c \"$FLIP\" \"$PACKS\" seen; cat view/lib/deep/er/numbers | tail -1; \
                 python3 -c 'import os\ntry:\n    print(len(open(\"view/shut/in\").read()))\nexcept OSError as e:\n    print(e.errno)'; \
                 head -c 5 view/a; stat -c %s view/a";
    let sandbox = with_tree("touched-virtual");
    let packs = sandbox.store().join("packs").display().to_string();
    let mut command = sandbox
        .rift(&sandbox.home(), &[&VIRTUAL, &["--", "sh", "-c", reads][..]].concat())
        .unwrap();
    let ran = sandbox.run(command.env("FLIP", flip).env("PACKS", &packs)).unwrap();
    assert_eq!(ran.stdout, "lib5\n6\n", "{ran}");
    assert!(ran.stderr.contains("view/lib/deep/er/numbers: Input/output error"), "{ran}");
    assert!(ran.stderr.contains("warning: a file of a tree could not be read 3 times"), "{ran}");
    assert!(!sandbox.home().join("view/lib/deep/er/numbers").exists());
    // The next run looks at the content of what was touched.
    let ran = virtually(&sandbox, &["cat", "view/lib/deep/er/numbers"]);
    assert!(!ran.status.success() && ran.stdout.is_empty(), "{ran}");
    // Who puts the time back is found by reading all.
    let sandbox = with_tree("hidden-virtual");
    let packs = sandbox.store().join("packs").display().to_string();
    virtually(&sandbox, &["true"]).success().unwrap();
    let mut command = sandbox.command(&sandbox.home(), "python3");
    sandbox.run(command.args(["-c", flip, &packs, "hidden"])).unwrap().success().unwrap();
    let words = [&VIRTUAL, &["--", "cat", "view/lib/deep/er/numbers"][..]].concat();
    let mut command = sandbox.rift(&sandbox.home(), &words).unwrap();
    let ran = sandbox.run(command.env("RIFT_VERIFY", "always")).unwrap();
    assert_eq!((ran.status.code(), ran.stdout.as_str()), (Some(125), ""), "{ran}");
}

/// Each change of a tree, with whichever system call failing: it is made or not, and what else there is stays.
#[test]
fn changes_are_made_or_not_whatever_fails() {
    let name = "changes_are_made_or_not_whatever_fails";
    if !have(name, &[Need::Strace]) || rift_tests::full() && !as_root_and_nobody(name) {
        return;
    }
    let sandbox = with_tree("failing-changes");
    let (view, source) = (sandbox.home().join("view"), sandbox.path("source"));
    let numbers = fs::read_to_string(source.join("lib/deep/er/numbers")).unwrap();
    // Each with what it leads to: a path and its content, or that there is none.
    let changes: [(&[&str], &str, Option<&str>); 7] = [
        (&["mv", "view/lib/deep", "view/moved"], "moved/er/numbers", Some(&numbers)),
        (&["rm", "view/a"], "a", None),
        (&["rm", "-r", "view/lib"], "lib", None),
        (&["ln", "view/a", "view/d e/hard"], "d e/hard", Some("hello\n")),
        (&["cp", "view/bin/x", "view/copy"], "copy", Some("lib")),
        (&["rmdir", "view/empty"], "empty", None),
        (
            &["find", "view", "-name", "x*", "-exec", "chmod", "711", "{}", "+"],
            "lib/x.js",
            Some("lib"),
        ),
    ];
    let all = [
        "mkdir",
        "openat",
        "write",
        "renameat2",
        "utimensat",
        "getdents64",
        "unlinkat",
        "fchmod",
        "linkat",
        "execve",
    ];
    let (calls, times) = if rift_tests::full() { (&all[..], 40) } else { (&all[2..6], 2) };
    let mut made = 0;
    for (words, path, content) in changes {
        for call in calls {
            for nth in 1..=times {
                let trace =
                    [&format!("trace={call}"), &format!("inject={call}:error=EIO:when={nth}")];
                let mut traced = sandbox.command(&sandbox.home(), "strace");
                traced.args(["-f", "-o", "/dev/null", "-e", trace[0], "-e", trace[1]]);
                let all = [&VIRTUAL, &["--"][..], words].concat();
                let ran = sandbox.run(traced.arg(rift_binary().unwrap()).args(all)).unwrap();
                let context = format!("{words:?}, {call} {nth}: {ran}");
                // Where no run could begin, the tree became files, or nothing did.
                if state(&sandbox, &view) == "virtual" {
                    rift(&sandbox, &sandbox.home(), &["close", "view"]);
                }
                assert!(view.exists() || !ran.status.success(), "{context}");
                if view.exists() {
                    let found = fs::read_to_string(view.join(path)).ok();
                    let before = fs::read_to_string(source.join(path)).ok();
                    // Half of several changes is what a failing program leaves natively, too.
                    let is_done = found.as_deref() == content;
                    made += usize::from(ran.status.success());
                    assert!(
                        is_done || !ran.status.success() && found == before,
                        "{found:?}, {context}"
                    );
                    // What it was not about is whole.
                    let other = fs::read_to_string(view.join("shut/in")).unwrap();
                    assert_eq!(other, "shut", "{context}");
                }
                clear(&view).unwrap();
            }
        }
    }
    assert!(made > 3, "only {made} changes were made");
}

/// Looking at a tree makes nothing, and asks the kernel nothing about it.
#[test]
fn looking_reaches_no_kernel() {
    let name = "looking_reaches_no_kernel";
    if !have(name, &[Need::Strace, Need::Tool("python3")]) {
        return;
    }
    let sandbox = with_tree("looking");
    let view = sandbox.home().join("view");
    let trace = sandbox.path("trace");
    let mut traced = sandbox.command(&sandbox.home(), "strace");
    traced.args(["-f", "-o"]).arg(&trace).arg(rift_binary().unwrap()).args(VIRTUAL);
    let python = "import os\nfor folder, _, names in os.walk('view'):\n    for name in names:\n        \
                  path = os.path.join(folder, name)\n        os.stat(path), os.lstat(path), os.access(path, 7), os.path.realpath(path)\n        \
                  os.listxattr(path), os.path.islink(path) and os.readlink(path)\n\
                  for path in ['view/lib/none', 'view/a/none', 'view/lib/none/none', 'view/lib/deep/../none']:\n    \
                  assert not os.path.exists(path) and not os.access(path, 0)\n\
                  with os.scandir('view/lib') as all: print(sorted((one.name, one.is_dir(), one.stat().st_size) for one in all))\n\
                  here = os.open('view/lib', os.O_RDONLY)\n\
                  os.stat('x.js', dir_fd=here), os.listdir(here), os.access('deep/er', 1, dir_fd=here), os.fstat(here), os.stat(f'/dev/fd/{here}/deep')\n\
                  os.statvfs('view/lib')";
    let node = "const fs = require('fs');\n\
                for (const path of ['view/a', 'view/lib/x.js', 'view/bin/x', 'view/lib/deep']) {\n  \
                fs.statSync(path), fs.lstatSync(path), fs.existsSync(path), fs.accessSync(path), fs.realpathSync(path), fs.realpathSync.native(path); }\n\
                fs.readdirSync('view', {recursive: true, withFileTypes: true}), fs.existsSync('view/lib/none'), fs.statSync('view/lib/none', {throwIfNoEntry: false}), fs.readlinkSync('view/bin/x');";
    let node = if have(name, &[Need::Tool("node")]) {
        format!("node -e \"{node}\";")
    } else {
        String::new()
    };
    let looks = format!(
        "find view -printf '%p %s %m %T@\n' >/dev/null; ls -lR view >/dev/null; ls -laZ view/lib >/dev/null; du -a view >/dev/null; \
         test -e view/lib/missing; test -d view/lib/deep; readlink view/bin/x >/dev/null; readlink -f view/bin/x view/lib/none >/dev/null; \
         realpath view/lib/deep/../x.js >/dev/null; stat view/a >/dev/null; echo view/*/* view/lib/none/* >/dev/null; \
         [ -x view/lib/x.js ] && [ ! -e view/a/x ]; {node} python3 -c \"{python}\""
    );
    sandbox.run(traced.args(["--", "sh", "-c", &looks])).unwrap().success().unwrap();
    let lines = fs::read_to_string(&trace).unwrap();
    // Of what is below a descriptor the name alone is asked.
    let names = ["\"x.js\"", "\"deep", "\"numbers\"", "\"er\""];
    let bare: Vec<&str> = lines
        .lines()
        .filter(|line| names.iter().any(|name| line.contains(name)) && !line.contains("exec"))
        .collect();
    assert!(bare.is_empty(), "{bare:#?}");
    let asked: Vec<&str> =
        lines.lines().filter(|line| line.contains("view/") && !line.contains("exec")).collect();
    let asked: Vec<&&str> = asked.iter().filter(|line| !line.contains(".rift-orphans")).collect();
    // Its own directory is a real one.
    let is_other = |line: &&&&str| !line.contains("write(") && !line.contains("\"view/\"");
    let asked: Vec<_> = asked.iter().filter(is_other).collect();
    assert!(asked.is_empty(), "{asked:#?}");
    assert_eq!(fs::read_dir(&view).unwrap().count(), 0);
}

/// Programs that the shim can't be loaded into, or that become another user's, find real files.
#[test]
fn programs_without_the_shim_find_real_files() {
    let name = "programs_without_the_shim_find_real_files";
    if !have(name, &[Need::Root, Need::Tool("setpriv"), Need::Tool("cc")]) {
        return;
    }
    let nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "cat"];
    let static_cat = compiled_with("cat", "cat-static", &["-static"]).unwrap();
    let raw_cat = compiled_with("cat", "cat-raw", &["-DRAW"]).unwrap();
    for way in ["nobody", "set-user-ID", "static", "raw"] {
        let sandbox = with_tree("without-shim");
        let home = sandbox.home();
        let all_may = || fs::Permissions::from_mode(0o755);
        for folder in [sandbox.path(""), home.clone()] {
            fs::set_permissions(folder, all_may()).unwrap();
        }
        let marked = home.join("cat");
        fs::copy(&static_cat, home.join("static")).unwrap();
        fs::copy("/bin/cat", &marked).unwrap();
        std::os::unix::fs::chown(&marked, Some(65534), None).unwrap();
        fs::set_permissions(&marked, fs::Permissions::from_mode(0o4755)).unwrap();
        let marked = marked.display().to_string();
        let raw = raw_cat.display().to_string();
        let words = match way {
            "nobody" => [&nobody[..], &["view/a"]].concat(),
            "set-user-ID" => vec![&*marked, "view/a"],
            "static" => vec!["sh", "-c", "exec ./static view/a"],
            _ => vec![&*raw, "view/a"],
        };
        let ran = virtually(&sandbox, &words);
        // Who makes system calls without the C library sees the directory as it is.
        let is_seen = way != "raw";
        assert_eq!(ran.status.success(), is_seen, "{way}: {ran}");
        assert_eq!(ran.stdout, if is_seen { "hello\n" } else { "" }, "{way}: {ran}");
        assert_eq!(home.join("view/d e/b").exists(), is_seen, "{way}");
    }
}

/// What a program can tell.
#[test]
fn what_differs_under_the_shim() {
    let name = "what_differs_under_the_shim";
    if !have(name, &[Need::Tool("python3")]) {
        return;
    }
    let sandbox = with_tree("differs");
    let python = |text: &str| virtually(&sandbox, &["python3", "-c", text]).success().unwrap();
    let io_uring = "import ctypes, errno\nlibc = ctypes.CDLL(None, use_errno=True)\n\
                    print(libc.syscall(425, 1, 0), errno.errorcode[ctypes.get_errno()])";
    assert_eq!(python(io_uring).stdout, "-1 ENOSYS\n");
    let variables =
        "import os\nprint(sorted(set(os.environ) & {'LD_PRELOAD', 'RIFT_RUN', 'UV_USE_IO_URING'}))";
    assert_eq!(python(variables).stdout, "['LD_PRELOAD', 'RIFT_RUN', 'UV_USE_IO_URING']\n");
    // A directory that another process has open, and this one takes away.
    let other = "import os, subprocess, sys\n\
                 child = subprocess.Popen([sys.executable, '-c', 'import os\\nfd = os.open(\"view/lib\", os.O_RDONLY)\\n\
                 print(\"open\", flush=True)\\ninput()\\ntry:\\n    print(len(os.listdir(fd)))\\n\
                 except FileNotFoundError:\\n    print(\"gone\")'], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)\n\
                 child.stdout.readline()\nos.rename('view/lib', 'view/other')\nprint(child.communicate('\\n')[0], end='')";
    assert_eq!(python(other).stdout, "gone\n");
}

/// Pointers that lead nowhere give EFAULT; one into memory that was used for paths before may end the program.
#[test]
fn a_pointer_into_nowhere_gives_an_error() {
    let name = "a_pointer_into_nowhere_gives_an_error";
    if !have(name, &[Need::Tool("python3")]) {
        return;
    }
    let sandbox = with_tree("nowhere");
    let text = "import ctypes, errno, mmap\nlibc = ctypes.CDLL(None, use_errno=True)\n\
                for pointer in [0, 8, 1 << 40, (1 << 64) - 1]:\n    pointer = ctypes.c_void_p(pointer)\n    \
                for call in [libc.access, libc.chmod, libc.unlink, libc.rmdir, libc.open]:\n        \
                print(call(pointer, 0), errno.errorcode[ctypes.get_errno()])\n\
                print(libc.syscall(4, b'view/a', ctypes.c_void_p(8)), errno.errorcode[ctypes.get_errno()])\n";
    let native = sandbox.command(&sandbox.home(), "python3").args(["-c", text]).output().unwrap();
    let ran = virtually(&sandbox, &["python3", "-c", text]).success().unwrap();
    let native = String::from_utf8(native.stdout).unwrap();
    // Natively there is no such file.
    assert_eq!(ran.stdout, native.replace("ENOENT", "EFAULT"), "{ran}");
    assert_eq!(ran.stdout.matches("-1 EFAULT").count(), 21, "{ran}");
    let text = "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.mmap.restype = ctypes.c_void_p\n\
                page = ctypes.c_void_p(libc.mmap(None, 4096, 3, 34, -1, 0))\n\
                print(libc.access(page, 0), flush=True)\nlibc.munmap(page, 4096)\nlibc.access(page, 0)";
    let ran = virtually(&sandbox, &["python3", "-c", text]);
    assert_eq!(ran.stdout, "-1\n", "{ran}");
    assert!(matches!(ran.status.signal(), None | Some(libc::SIGSEGV)), "{ran}");
}

/// A folder above a projection that is mounted at another place shows the tree there as well, be it mounted before the run
/// or in it; a path that nothing has goes on to say so.
#[test]
fn a_folder_with_another_name_shows_the_tree() {
    let name = "a_folder_with_another_name_shows_the_tree";
    if !have(name, &[Need::Root, Need::Tool("unshare")]) {
        return;
    }
    let sandbox = with_tree("mounted-twice");
    // A program with rights that others have not, as mount(8), would find real files.
    let mounts =
        "import ctypes; assert ctypes.CDLL(None).mount(b'.', b'here', None, 4096, None) == 0";
    let look = "cat $PWD/here/view/lib/x.js $PWD/here/view/none here/none 2>&1";
    let script = format!("mkdir here; cat $PWD/here/view/a; python3 -c \"{mounts}\"; {look}; true");
    let private = ["unshare", "--mount", "--propagation", "private", "sh", "-c"];
    let ran = virtually(&sandbox, &[&private[..], &[&script]].concat()).success().unwrap();
    let missing = |path: &str| format!("cat: {path}: No such file or directory\n");
    let home = sandbox.home().display().to_string();
    let [inside, outside] = [missing(&format!("{home}/here/view/none")), missing("here/none")];
    assert_eq!(ran.stdout, format!("lib{inside}{outside}"), "{ran}");
    let rift = rift_binary().unwrap().display().to_string();
    let run = |script: &str| {
        let mut command = sandbox.command(&sandbox.home(), private[0]);
        sandbox.run(command.args(&private[1..]).arg(script)).unwrap()
    };
    let exec = |view: &str| format!("{rift} exec --as virtual --tree tree={view} --");
    let ran = run(&format!("mount --bind . here && {} cat here/early/a", exec("early")));
    assert_eq!(ran.success().unwrap().stdout, "hello\n");
    let waits = "while [ ! -e go ]; do sleep 0.05; done; cat $PWD/here/late/a late/a";
    let meanwhile =
        "while [ ! -e ready ]; do sleep 0.05; done; mount --bind . here; touch go; wait";
    let ran = run(&format!("{} sh -c 'touch ready; {waits}' 2>&1 & {meanwhile}", exec("late")));
    let inside = missing(&format!("{home}/here/late/a"));
    assert_eq!(ran.stdout, format!("{inside}hello\n"), "{ran}");
}

/// What is mounted from a projection is mounted once, and what is mounted by name is none of its paths.
#[test]
fn a_mount_is_made_once() {
    let name = "a_mount_is_made_once";
    if !have(name, &[Need::Root, Need::Tool("unshare")]) {
        return;
    }
    let sandbox = with_tree("mounted-once");
    let script = "mkdir here && mount --bind view/lib here && cat here/x.js && \
                  grep -c /here /proc/self/mountinfo && cd view/lib/deep && mount -t tmpfs missing er && ls er";
    let words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script];
    let ran = virtually(&sandbox, &words).success().unwrap();
    assert_eq!(ran.stdout, "lib1\n", "{ran}");
}
