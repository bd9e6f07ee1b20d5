//! `rift exec -- make`: what compilers did is done again without them, and nothing that is stale is ever believed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rift_tests::apps::compiled;
use rift_tests::builds::{Made, Story};
use rift_tests::need::{Need, have};
use rift_tests::sandbox::{self, Ran, Sandbox, rift_binary, with_toolchain};

const ALL: [&str; 4] = ["ar part.o", "cc app", "cc main.c", "cc part.c"];
const NONE: [&str; 0] = [];

#[test]
fn what_was_compiled_is_there_again() {
    let Some(story) = Story::new("what_was_compiled_is_there_again") else { return };
    story.run(&story.root, &["make"]).success().unwrap();
    let native = story.made_files(&story.root);
    let first = story.make(&["CFLAGS=-Wall"]);
    assert_eq!(
        (first.kept.as_slice(), first.reused.len()),
        (&ALL.map(str::to_owned)[..], 0),
        "{first:?}"
    );
    let again = story.make(&["CFLAGS=-Wall"]);
    assert_eq!(
        (again.reused.as_slice(), again.kept.len()),
        (&ALL.map(str::to_owned)[..], 0),
        "{again:?}"
    );
    assert_eq!(story.said(), "1 2 10");
    // What it said, and to whom.
    assert!(first.ran.stderr.contains("unused"), "{first:?}");
    let warnings = |made: &Made| {
        let lines = made.ran.stderr.lines().filter(|line| !line.starts_with("rift: "));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!((warnings(&again), &again.ran.stdout), (warnings(&first), &first.ran.stdout));
    assert!(again.ran.stderr.contains("rift: 4 processes projected"), "{again:?}");
    // To make there is nothing to do, and to who never heard of rift either.
    story.run(&story.root, &["make", "-q", "CFLAGS=-Wall"]).success().unwrap();
    // Bit by bit what the compilers make by themselves.
    story.make(&[]);
    assert_eq!(story.make(&[]).reused, ALL);
    assert_eq!(story.made_files(&story.root), native);
}

#[test]
fn the_summary_tells_how_large_the_store_is() {
    let Some(story) = Story::new("the_summary_tells_how_large_the_store_is_of_make") else {
        return;
    };
    story.make(&[]);
    let before = story.sandbox.store_bytes(&story.root).unwrap();
    story.write("part.c", "char large[12 << 20] = {7};\nint part(void) { return large[0]; }\n");
    let summary = story.sandbox.path("summary.json");
    let words = ["rift", "exec", "--summary-json", summary.to_str().unwrap(), "--", "make"];
    story.run(&story.root, &["make", "clean"]).success().unwrap();
    story.run(&story.root, &words).success().unwrap();
    let (after, told) = story.sandbox.store_bytes_told(&story.root, &summary).unwrap();
    assert!(after - before > 12 << 20, "{before} {after}");
    assert!(after.abs_diff(told) < 1 << 20, "{before} {after} {told}");
}

#[test]
fn what_was_changed_is_compiled() {
    let Some(story) = Story::new("what_was_changed_is_compiled") else { return };
    story.make(&[]);
    // One source: what depends on it runs, and nothing else.
    story.write("part.c", "int part(void) { return 77; }\n");
    let made = story.make(&[]);
    assert_eq!((made.kept.len(), story.said().as_str()), (3, "1 2 77"), "{made:?}");
    assert_eq!(made.reused, ["cc main.c"]);
    assert!(made.others["cc part.c"].contains("part.c` holds something else"), "{made:?}");
    // A header, as long as before and under the time that it had.
    let header = story.root.join("far/part.h");
    let time = fs::metadata(&header).unwrap().modified().unwrap();
    story.write("far/part.h", "#define PART 5\n");
    fs::File::options().append(true).open(&header).unwrap().set_modified(time).unwrap();
    let made = story.make(&[]);
    assert_eq!((made.reused.len(), story.said().as_str()), (2, "5 2 77"), "{made:?}");
    // What it was before is known as well.
    story.write("far/part.h", "#define PART 1\n");
    let made = story.make(&[]);
    assert_eq!((made.kept.len(), story.said().as_str()), (0, "1 2 77"), "{made:?}");
    // A header that comes before the one that was found.
    story.write("near/part.h", "#define PART 3\n");
    let made = story.make(&[]);
    assert!(made.others["cc main.c"].contains("near/part.h` is there now"), "{made:?}");
    assert_eq!(story.said(), "3 2 77");
    fs::remove_file(story.root.join("near/part.h")).unwrap();
    assert_eq!(story.make(&[]).kept, NONE);
    assert_eq!(story.said(), "1 2 77");
}

#[test]
fn what_is_told_makes_another_key() {
    let Some(story) = Story::new("what_is_told_makes_another_key") else { return };
    story.make(&[]);
    let made = story.make(&["CFLAGS=-O2"]);
    assert_eq!(
        (made.reused.as_slice(), made.kept.len()),
        (&["ar part.o".to_owned()][..0], 4),
        "{made:?}"
    );
    assert_eq!(story.make(&["CFLAGS=-O2"]).reused, ALL);
    // A variable that the compiler reads.
    let with_path = |folder: &str| {
        story.run(&story.root, &["make", "clean"]).success().unwrap();
        let mut command = story.sandbox.rift(&story.root, &["exec", "--", "make"]).unwrap();
        command.env("CPATH", folder).env("LC_ALL", "C").stdin(Stdio::null());
        let ran = story.sandbox.run(&mut command).unwrap().success().unwrap();
        story.made(ran)
    };
    assert_eq!(with_path("near").reused, NONE);
    assert_eq!(with_path("near").kept, NONE);
    // How many may run at once is no such thing, nor is the way in which that is agreed on.
    let made = story.make(&["-j2"]);
    assert_eq!(made.reused, ALL, "{made:?}");
    // Another program of the same name.
    let bin = story.sandbox.path("bin");
    fs::create_dir_all(&bin).unwrap();
    let compiler = bin.join("cc");
    for text in ["#!/bin/sh\nexec gcc \"$@\"\n", "#!/bin/sh\nexec gcc -DX \"$@\"\n"] {
        fs::write(&compiler, text).unwrap();
        fs::set_permissions(&compiler, fs::Permissions::from_mode(0o755)).unwrap();
        let given = format!("CC={}", compiler.display());
        let made = story.make(&[&given]);
        assert!(made.kept.contains(&"cc main.c".to_owned()), "{made:?}");
        assert_eq!(story.make(&[&given]).kept, NONE);
    }
}

#[test]
fn other_libraries_make_another_key_and_are_loaded_as_ever() {
    let name = "other_libraries_make_another_key_and_are_loaded_as_ever";
    let Some(story) = Story::new(name) else { return };
    story.make(&[]);
    let text = "#include <unistd.h>\n\
        __attribute__((constructor)) static void loaded(void) { write(2, \"loaded\\n\", 7); }\n";
    story.write("loaded.c", text);
    let library = story.root.join("loaded.so");
    let given = library.to_string_lossy();
    story.run(&story.root, &["cc", "-shared", "-o", &given, "loaded.c"]).success().unwrap();
    let given = format!("LD_PRELOAD={given}");
    let count = |ran: &Ran| ran.stderr.matches("loaded\n").count();
    story.run(&story.root, &["make", "clean"]).success().unwrap();
    let native = story.run(&story.root, &["make", &given]).success().unwrap();
    let first = story.make(&[&given]);
    assert_eq!((first.kept.as_slice(), first.reused.len()), (&ALL.map(str::to_owned)[..], 0));
    let again = story.make(&[&given]);
    assert_eq!(again.reused, ALL, "{again:?}");
    assert!(count(&native) > ALL.len(), "{native:?}");
    assert_eq!((count(&first.ran), count(&again.ran)), (count(&native), count(&native)));
}

#[test]
fn what_is_changed_at_once_is_not_the_compilers() {
    let name = "what_is_changed_at_once_is_not_the_compilers";
    let Some(story) = Story::new(name) else { return };
    // Within the same tick of the file system's clock, in one case under the same size.
    let makefile = "all: $(shell seq -f '%g.o' 20)\n\t@:\n\
        %.o: main.c\n\
        \tcc -MD -MF $*.d -c main.c -o $@ && echo '# more' >>$*.d\n\
        \tprintf X | dd of=$@ bs=1 seek=9 conv=notrunc status=none\n\
        clean:\n\trm -f *.o *.d\n";
    story.write("Makefile", makefile);
    story.write("main.c", "int main(void) { return 0; }\n");
    story.run(&story.root, &["make"]).success().unwrap();
    let native = story.made_files(&story.root);
    for round in 0..3 {
        story.make(&[]);
        assert_eq!(story.made_files(&story.root), native, "{round}");
    }
}

#[test]
fn what_gets_many_names_is_kept() {
    let Some(story) = Story::new("what_gets_many_names_is_kept") else { return };
    story.write("big.c", "char big[24 << 20] = { 1 };\nint main(void) { return 0; }\n");
    let makefile = "all: app\n\
        \tfor name in $$(seq 200); do ln -f app app-$$name; done\n\
        app: big.c\n\tcc -o app big.c\n\
        clean:\n\trm -f app app-*\n";
    story.write("Makefile", makefile);
    let first = story.make(&[]);
    assert_eq!(first.kept, ["cc app"], "{first:?}");
    let again = story.make(&[]);
    assert_eq!(again.reused, ["cc app"], "{again:?}");
}

#[test]
fn another_checkout_shares_what_names_no_place() {
    let Some(story) = Story::new("another_checkout_shares_what_names_no_place") else { return };
    story.make(&[]);
    let other = story.sandbox.path("elsewhere/deeper");
    story.check_out(&other);
    let made = story.make_at(&other, &[]);
    assert_eq!(
        (made.reused.as_slice(), made.kept.len()),
        (&ALL.map(str::to_owned)[..], 0),
        "{made:?}"
    );
    assert_eq!(story.said_at(&other), "1 2 10");
    // What a debugger reads names the place.
    story.make(&["CFLAGS=-g"]);
    let made = story.make_at(&other, &["CFLAGS=-g"]);
    assert!(made.others["cc main.c"].contains("what it left names"), "{made:?}");
    let object = fs::read(other.join("main.o")).unwrap();
    let place = story.root.as_os_str().as_encoded_bytes();
    assert!(!object.windows(place.len()).any(|bytes| bytes == place));
    // The files of dependencies name the place where they are.
    let absolute = |root: &Path| format!("CFLAGS=-I{}/far", root.display());
    story.make(&[&absolute(&story.root)]);
    let made = story.make_at(&other, &[&absolute(&other)]);
    assert_eq!(made.reused, ALL, "{made:?}");
    let text = fs::read_to_string(other.join("part.d")).unwrap();
    assert!(!text.contains(story.root.to_str().unwrap()), "{text}");
}

#[test]
fn a_compiler_that_fails_fails_again() {
    let Some(story) = Story::new("a_compiler_that_fails_fails_again") else { return };
    story.write("part.c", "int part(void) { return no; }\n");
    let native = story.run(&story.root, &["make"]);
    for _ in 0..2 {
        story.run(&story.root, &["make", "clean"]).success().unwrap();
        let ran = story.run(&story.root, &["rift", "exec", "--", "make"]);
        assert_eq!(ran.status.code(), native.status.code());
        let said = |ran: &Ran| {
            let lines = ran.stderr.lines().filter(|line| !line.starts_with("rift: "));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(said(&ran), said(&native));
        let made = story.made(ran);
        assert!(made.others["cc part.c"].contains("ended with status 1"), "{made:?}");
    }
    story.write("part.c", "int part(void) { return 4; }\n");
    story.make(&[]);
    assert_eq!(story.said(), "1 2 4");
}

/// Has make run `asks_again`, which is recorded as well.
fn ask_again(story: &Story, count: &str, link: &str, words: &[&str]) -> Made {
    let program = compiled("asks_again").unwrap();
    story.write("Makefile", &format!("asked:\n\t{} $(COUNT) $(LINK) asked\n", program.display()));
    let _none_yet = fs::remove_file(story.root.join("asked")).is_ok();
    let told = [format!("COUNT={count}"), format!("LINK={link}")];
    let words = [&["rift", "exec"], words, &["--", "make", &told[0], &told[1]]].concat();
    let mut command = story.command(&story.root, &words);
    command.env("RIFT_PROGRAMS", "asks_again");
    story.made(story.sandbox.run(&mut command).unwrap())
}

/// Each look would be told of by itself, in a journal that has no room for as many.
#[test]
fn what_is_asked_again_is_told_once() {
    let Some(story) = Story::new("what_is_asked_again_is_told_once") else { return };
    let make = |count: &str, link: &str, words: &[&str]| ask_again(&story, count, link, words);
    let made = make("100000", &format!("none{}", format!("/{}", "a".repeat(99)).repeat(30)), &[]);
    assert_eq!(made.kept.len(), 1, "{made:?}");
    // It still is what the program goes by.
    make("3", "none", &[]).ran.success().unwrap();
    make("3", "none", &["--verify"]).ran.success().unwrap();
    let made = make("3", "none", &[]);
    assert_eq!(made.reused.len(), 1, "{made:?}");
    assert_eq!(fs::read_to_string(story.root.join("asked")).unwrap(), "3\n");
    std::os::unix::fs::symlink("part.c", story.root.join("none")).unwrap();
    let made = make("3", "none", &[]);
    assert!(made.reused.is_empty() && !made.ran.status.success(), "{made:?}");
}

/// To one who asks what is there, a folder that is none is as good as one that is not there.
#[test]
fn why_nothing_is_there_decides_nothing() {
    let Some(story) = Story::new("why_nothing_is_there_decides_nothing") else { return };
    for words in [&[][..], &["--verify"]] {
        ask_again(&story, "3", "none/deeper", words).ran.success().unwrap();
    }
    story.write("none", "a file");
    let ran = ask_again(&story, "3", "none/deeper", &["--no-cache"]).ran;
    assert!(ran.stderr.contains("Error 3"), "the program can tell: {ran}");
    let made = ask_again(&story, "3", "none/deeper", &[]);
    assert_eq!((made.reused.len(), made.ran.status.code()), (1, Some(0)), "{made:?}");
    assert_eq!(fs::read_to_string(story.root.join("asked")).unwrap(), "3\n");
}

/// The system tells nobody of files that change where a user has as many queues for that as are allowed.
#[test]
fn what_ends_is_seen_where_nobody_is_told_of_it() {
    let name = "what_ends_is_seen_where_nobody_is_told_of_it";
    if !have(name, &[Need::PidNamespace]) {
        return;
    }
    let Some(story) = Story::new(name) else { return };
    let none = "echo 0 >/proc/sys/user/max_inotify_instances && exec \"$@\"";
    let make = || {
        story.run(&story.root, &["make", "clean"]).success().unwrap();
        let inside = ["unshare", "--user", "--map-root-user", "sh", "-c", none, "sh"];
        let rift = rift_binary().unwrap().display().to_string();
        let words = [&inside[..], &[&rift, "exec", "--", "make"]].concat();
        story.made(story.run(&story.root, &words).success().unwrap())
    };
    let first = make();
    assert_eq!(first.kept, ALL, "{first:?}");
    let again = make();
    assert_eq!(again.reused, ALL, "{again:?}");
}

#[test]
fn what_depends_on_the_clock_is_not_kept() {
    let Some(story) = Story::new("what_depends_on_the_clock_is_not_kept") else { return };
    story.write("near/other.h", "#define OTHER (int)sizeof(__TIME__)\n");
    let made = story.make(&[]);
    assert!(made.others["cc main.c"].contains("__TIME__"), "{made:?}");
    assert_eq!(made.kept, ["ar part.o", "cc app", "cc part.c"]);
    assert!(!story.make(&[]).reused.contains(&"cc main.c".to_owned()));
}

#[test]
fn what_is_changed_in_its_place_changes_nothing_that_is_kept() {
    let Some(story) = Story::new("what_is_changed_in_its_place_changes_nothing_that_is_kept")
    else {
        return;
    };
    story.make(&["CFLAGS=-g"]);
    story.make(&["CFLAGS=-g"]);
    let before = story.made_files(&story.root);
    let programs = story.root.join("app");
    story.run(&story.root, &["strip", "app"]).success().unwrap();
    fs::OpenOptions::new().append(true).open(&programs).unwrap();
    fs::write(story.root.join("main.o"), "nothing").unwrap();
    let made = story.make(&["CFLAGS=-g"]);
    assert_eq!(made.reused, ALL, "{made:?}");
    assert_eq!(story.made_files(&story.root), before);
    story.run(&story.root, &["rift", "store", "verify"]).success().unwrap();
}

#[test]
fn who_is_killed_leaves_nothing_false() {
    let Some(story) = Story::new("who_is_killed_leaves_nothing_false") else { return };
    let steps = if rift_tests::full() { 120 } else { 20 };
    for step in 0..steps {
        story.run(&story.root, &["make", "clean"]).success().unwrap();
        story.write("part.c", &format!("int part(void) {{ return {step}; }}\n"));
        let mut command = story.sandbox.rift(&story.root, &["exec", "--", "make", "-j2"]).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(step * 15 % 307));
        child.kill().unwrap();
        child.wait().unwrap();
        story.sandbox.kill_leftovers();
        // What is there of it may be half of a file, as after any make that was killed.
        story.make(&[]);
        assert_eq!(story.said(), format!("1 2 {step}"));
    }
    story.run(&story.root, &["rift", "store", "verify"]).success().unwrap();
}

#[test]
fn two_builds_at_once_end_well() {
    let Some(story) = Story::new("two_builds_at_once_end_well") else { return };
    let other = story.sandbox.path("other");
    story.check_out(&other);
    for _ in 0..3 {
        let start = |at: &Path| {
            story.run(at, &["make", "clean"]).success().unwrap();
            let mut command = story.sandbox.rift(at, &["exec", "--", "make", "-j2"]).unwrap();
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().unwrap()
        };
        let children = [start(&story.root), start(&other)];
        for mut child in children {
            assert!(child.wait().unwrap().success());
        }
        assert_eq!(
            (story.said(), story.said_at(&other)),
            ("1 2 10".to_owned(), "1 2 10".to_owned())
        );
    }
    // Nobody listened to these; what is told to somebody is another key.
    story.make(&[]);
    assert_eq!(story.make(&[]).reused, ALL);
}

/// What is known is compared with what the programs do, and nothing is believed before.
#[test]
fn what_does_something_else_is_found() {
    let Some(story) = Story::new("what_does_something_else_is_found") else { return };
    // A compiler that never does the same.
    let bin = story.sandbox.path("bin");
    fs::create_dir_all(&bin).unwrap();
    let compiler = bin.join("cc");
    fs::write(&compiler, "#!/bin/sh\nexec gcc -DNOW=$(date +%N | sed 's/^0*//') \"$@\"\n").unwrap();
    fs::set_permissions(&compiler, fs::Permissions::from_mode(0o755)).unwrap();
    let given = format!("CC={}", compiler.display());
    let verify = |given: &[&str]| {
        story.run(&story.root, &["make", "clean"]).success().unwrap();
        let words = [&["rift", "exec", "--verify", "--", "make"], given].concat();
        let ran = story.run(&story.root, &words);
        story.made(ran)
    };
    verify(&[]);
    let made = verify(&[]);
    assert!(made.ran.status.success() && !made.ran.stderr.contains("something else"), "{made:?}");
    assert_eq!(made.others.values().filter(|how| how.contains("did what is known")).count(), 4);
    // What names its checkout is compared with nothing elsewhere.
    let debugged = ["make", "-s", "CFLAGS=-g"];
    let other = story.sandbox.path("other");
    story.check_out(&other);
    for at in [&story.root, &other] {
        let words = [&["rift", "exec", "--verify", "--"], &debugged[..]].concat();
        story.run(at, &["make", "clean"]).success().unwrap();
        story.run(at, &words).success().unwrap();
    }
    story.write("part.c", "int part(void) { return NOW; }\n");
    verify(&[&given]);
    let made = verify(&[&given]);
    assert!(made.others["cc part.c"].contains("did something else"), "{made:?}");
    assert_eq!(made.ran.status.code(), Some(125));
    assert!(made.ran.stderr.contains("does something else than is known of it"), "{made:?}");
}

/// Fails where the compiler would, and asks nobody what came through a pipe before.
#[test]
fn what_nobody_can_do_again_is_done() {
    let Some(story) = Story::new("what_nobody_can_do_again_is_done") else { return };
    let makefile = "all:\n\tcc -c part.c -Ifar -o out/part.o\n";
    story.write("Makefile", makefile);
    let make = || story.run(&story.root, &["rift", "exec", "--", "make"]);
    fs::create_dir(story.root.join("out")).unwrap();
    assert_eq!(story.made(make().success().unwrap()).kept, ["cc out/part.o"]);
    fs::remove_dir_all(story.root.join("out")).unwrap();
    let ran = make();
    assert!(!ran.status.success() && ran.stderr.contains("out/part.o"), "{ran}");
    let made = story.made(ran);
    assert!(made.others["cc out/part.o"].contains("ended with status"), "{made:?}");
    // What comes by a pipe is another thing each time.
    story.write("Makefile", "SHELL = /bin/bash\nall:\n\tcc -x c -c -o piped.o <(echo \"int n = $(N);\")\n\tnm -S piped.o >names\n");
    for number in ["1", "2"] {
        let words = ["rift", "exec", "--", "make", &format!("N={number}")];
        let made = story.made(story.run(&story.root, &words).success().unwrap());
        assert!(made.others["cc piped.o"].contains("not kept"), "{made:?}");
        let object = fs::read(story.root.join("piped.o")).unwrap();
        let wanted = [number.parse::<u8>().unwrap(), 0, 0, 0];
        assert!(object.windows(4).any(|bytes| bytes == wanted), "{number}");
    }
    // Who uses what was made and removes it at once, as configure does, finds it each time.
    story.write(
        "Makefile",
        "all:\n\tcc -c part.c -Ifar -o try.o && nm try.o >names && rm try.o\n\tcc -c part.c -Ifar -o late.o && ln -f Makefile late.o && rm late.o\n",
    );
    for _ in 0..3 {
        fs::write(story.root.join("names"), "").unwrap();
        drop(make().success().unwrap());
        assert!(fs::read_to_string(story.root.join("names")).unwrap().contains("part"));
        assert!(!story.root.join("try.o").exists());
    }
    // A file that has other names is written through by compilers.
    story.write("Makefile", "all:\n\tcc -c part.c -Ifar -o part.o\n");
    drop(make().success().unwrap());
    fs::write(story.root.join("part.o"), "").unwrap();
    fs::hard_link(story.root.join("part.o"), story.root.join("other.o")).unwrap();
    let made = story.made(make().success().unwrap());
    assert!(
        made.others["cc part.o"].contains("not kept") || made.kept == ["cc part.o"],
        "{made:?}"
    );
    let read = |name: &str| fs::read(story.root.join(name)).unwrap();
    // As cc by itself leaves both, whichever that is.
    let left = (read("part.o"), read("other.o"));
    fs::remove_file(story.root.join("part.o")).unwrap();
    fs::write(story.root.join("other.o"), "").unwrap();
    fs::hard_link(story.root.join("other.o"), story.root.join("part.o")).unwrap();
    story.run(&story.root, &["make"]).success().unwrap();
    assert_eq!(left, (read("part.o"), read("other.o")));
}

/// A workspace whose library has a build script, and needs no registry.
const CRATES: &[(&str, &str)] = &[
    (
        "Cargo.toml",
        "[workspace]\nresolver = \"3\"\nmembers = [\"app\", \"lib\"]\n[profile.dev]\ndebug = false\n",
    ),
    (
        "app/Cargo.toml",
        "[package]\nname = \"app\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[dependencies]\nlib = { path = \"../lib\" }\n",
    ),
    ("app/src/main.rs", "fn main() { println!(\"{}\", lib::made()); }\n"),
    ("lib/Cargo.toml", "[package]\nname = \"lib\"\nversion = \"0.1.0\"\nedition = \"2024\"\n"),
    (
        "lib/build.rs",
        "fn main() {\n    let out = std::env::var(\"OUT_DIR\").unwrap();\n    let text = std::fs::read_to_string(\"data.txt\").unwrap();\n    std::fs::write(format!(\"{out}/made.rs\"), format!(\"\\\"{}\\\"\", text.trim())).unwrap();\n    println!(\"cargo::rerun-if-changed=data.txt\");\n}\n",
    ),
    ("lib/data.txt", "made\n"),
    (
        "lib/src/lib.rs",
        "pub fn made() -> &'static str { let unused = 1; include!(concat!(env!(\"OUT_DIR\"), \"/made.rs\")) }\n",
    ),
];

#[test]
fn crates_are_there_again_in_another_checkout() {
    if !have("crates_are_there_again_in_another_checkout", &[Need::Tool("cargo")]) {
        return;
    }
    let sandbox = Sandbox::new("crates_are_there_again_in_another_checkout").unwrap();
    let check_out = |name: &str| {
        let root = sandbox.path(name);
        sandbox::check_out(&root, CRATES).unwrap();
        root
    };
    let run = |root: &Path, words: &[&str]| {
        let mut command = sandbox.typed(root, words).unwrap();
        with_toolchain(&mut command);
        command.env("CARGO_NET_OFFLINE", "true").env_remove("CARGO_TARGET_DIR");
        sandbox.run(&mut command).unwrap().success().unwrap()
    };
    // Another setting makes another snapshot, and the same programs.
    let build = |root: &Path, setting: &str| {
        let setting = format!("net.retry={setting}");
        let ran = run(root, &["rift", "exec", "--", "cargo", "build", "--config", &setting]);
        let why = run(root, &["rift", "why"]).stdout;
        let count = |what: &str| why.lines().filter(|line| line.contains(what)).count();
        assert!(ran.stderr.contains("unused variable"), "{ran}");
        (count("was reused"), count("is kept") - count("what it left is kept"), why)
    };
    let one = check_out("one");
    let (reused, kept, why) = build(&one, "1");
    assert!(reused == 0 && kept >= 4, "{why}");
    let other = check_out("two/deeper");
    let (reused, ran, why) = build(&other, "2");
    assert!(reused >= 4, "{why}");
    // What is compiled names its checkout in the place of a panic, or of what is included.
    assert!(ran <= 2, "{why}");
    assert_eq!(run(&other, &["target/debug/app"]).stdout, "made\n");
    // Cargo by itself agrees.
    let natively = run(&other, &["cargo", "build"]);
    assert!(!natively.stderr.contains("Compiling"), "{natively}");
    fs::write(other.join("lib/data.txt"), "more\n").unwrap();
    fs::remove_dir_all(other.join("target")).unwrap();
    build(&other, "3");
    assert_eq!(run(&other, &["target/debug/app"]).stdout, "more\n");
    // A build script that asks for the time of day runs each time, and one that asks how long something took does not.
    let script = |clock: &str| {
        let (_, text) = CRATES[4];
        let text = text.replacen("{", &format!("{{ let _now = {clock}::now();"), 1);
        fs::write(other.join("lib/build.rs"), text).unwrap();
        let mut said = String::new();
        for setting in ["4", "5"] {
            fs::remove_dir_all(other.join("target")).unwrap();
            said = build(&other, &format!("{setting}{}", clock.len())).2;
        }
        said.lines().filter(|line| line.contains("build-script-build ")).collect::<String>()
    };
    let said = script("std::time::SystemTime");
    assert!(said.contains("asks for the time of day") && !said.contains("reused"), "{said}");
    let said = script("std::time::Instant");
    assert!(said.contains("reused"), "{said}");
}
