//! `rift exec -- make` with what compilers for C and C++ have up their sleeves: what they do is done again, or they run; never is
//! anything stale believed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use rift_tests::builds::Story;
use rift_tests::fault::SmallDisk;
use rift_tests::need::{Need, have};
use rift_tests::sandbox::replace_unseen;

/// Returns all files of a checkout that git does not know, by path.
fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with(".git") {
                folders.push(path);
            } else if path.is_file() {
                let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
                found.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// Writes a program in C, and gives it the time of a file that was there before.
fn compile(story: &Story, path: &Path, text: &str) {
    let source = path.with_extension("c");
    let words = ["cc", "-o", path.to_str().unwrap(), source.to_str().unwrap()];
    let write = || {
        fs::write(&source, text).unwrap();
        drop(story.run(&story.root, &words).success().unwrap());
    };
    replace_unseen(path, write).unwrap();
}

#[test]
fn all_that_a_compiler_leaves_is_there_again() {
    let Some(story) = Story::new("all_that_a_compiler_leaves_is_there_again") else { return };
    let clean = "clean:\n\trm -rf *.o *.a *.d *.i *.s *.ii *.dwo *.gcno *.gcda *.res *.out app\n";
    let makefile = format!(
        "CC = cc\nall: app\napp: main.o part.o\n\t$(CC) $(CFLAGS) -o $@ main.o part.o\n%.o: %.c\n\t$(CC) $(CFLAGS) -Inear -Ifar -MD -c $<\n{clean}"
    );
    story.write("Makefile", &makefile);
    story.write("words", "-O1 -DFROM_A_FILE");
    // Whether the compilers' own results are the same each time: of link-time optimization they are not.
    for (flags, is_stable) in [
        ("-save-temps", true),
        ("-pipe -O2", true),
        ("@words", true),
        ("-g -gsplit-dwarf", true),
        ("-flto=2", false),
        ("--coverage", false),
        ("-static", true),
        ("-ffunction-sections -Wl,--gc-sections -Wl,-Map=map.out", true),
    ] {
        let given = format!("CFLAGS={flags}");
        story.run(&story.root, &["make", "clean"]).success().unwrap();
        story.run(&story.root, &["make", &given]).success().unwrap();
        let native = files(&story.root);
        let first = story.make(&[&given]);
        let then = files(&story.root);
        let names: Vec<_> = native.keys().collect();
        assert_eq!(then.keys().collect::<Vec<_>>(), names, "{flags}: {first:?}");
        assert!(!is_stable || then == native, "{flags}");
        let again = story.make(&[&given]);
        let now = files(&story.root);
        assert_eq!(now.keys().collect::<Vec<_>>(), names, "{flags}: {again:?}");
        assert!(now == then || !is_stable, "{flags}: {again:?}");
        // Nothing runs but what nobody could do again.
        assert_eq!(again.reused, first.kept, "{flags}: {first:?} {again:?}");
        assert!(again.reused.len() == 3, "{flags}: {first:?} {again:?}");
        story.run(&story.root, &["make", "-q", &given]).success().unwrap();
        assert_eq!(story.said(), "1 2 10", "{flags}");
        // A part is another one: nothing of the old one is left anywhere.
        story.write("part.c", "int part(void) { return 3; }\n");
        story.make(&[&given]);
        assert_eq!(story.said(), "1 2 3", "{flags}");
        story.write("part.c", "#include \"part.h\"\nint part(void) { return 10 * PART; }\n");
        story.make(&[&given]);
        assert_eq!(story.said(), "1 2 10", "{flags}");
    }
}

#[test]
fn what_was_counted_while_a_program_ran_is_looked_at() {
    let Some(story) = Story::new("what_was_counted_while_a_program_ran_is_looked_at") else {
        return;
    };
    // gcc reads what a program has counted, and compiles by it.
    story.write(
        "Makefile",
        "all: app\napp: main.c part.c\n\tcc -O2 -Inear -Ifar $(CFLAGS) -o $@ main.c part.c\nclean:\n\trm -f app\n",
    );
    let make = |flag: &str| story.make(&[&format!("CFLAGS={flag}")]);
    make("-fprofile-generate");
    for _ in 0..2 {
        assert_eq!(story.said(), "1 2 10");
    }
    let counted =
        |text: &str| files(&story.root).keys().filter(|name| name.ends_with(text)).count();
    assert_eq!(counted(".gcda"), 2);
    let first = make("-fprofile-use");
    let used = fs::read(story.root.join("app")).unwrap();
    let again = make("-fprofile-use");
    assert_eq!(
        (again.reused.as_slice(), first.kept.as_slice()),
        (&["cc app".to_owned()][..], &["cc app".to_owned()][..]),
        "{first:?} {again:?}"
    );
    assert_eq!(fs::read(story.root.join("app")).unwrap(), used);
    for name in files(&story.root).keys().filter(|name| name.ends_with(".gcda")) {
        fs::remove_file(story.root.join(name)).unwrap();
    }
    let made = make("-fprofile-use");
    assert!(made.reused.is_empty(), "{made:?}");
}

#[test]
fn headers_and_modules_that_are_compiled_first_are_followed() {
    let name = "headers_and_modules_that_are_compiled_first_are_followed";
    let Some(story) = Story::new(name) else { return };
    if !have(name, &[Need::Tool("g++")]) {
        return;
    }
    story.write(
        "Makefile",
        "all: app mod\napp: main.c part.o pre.h.gch\n\tcc -include pre.h -Inear -Ifar -o $@ main.c part.o\npart.o: part.c\n\tcc -Ifar -c $<\npre.h.gch: pre.h far/part.h\n\tcc -Inear -Ifar -o $@ pre.h\nmod: use.cc word.o\n\tg++ -std=c++20 -fmodules-ts -o $@ use.cc word.o\nword.o: word.cc\n\tg++ -std=c++20 -fmodules-ts -c $<\nclean:\n\trm -rf app mod *.o *.gch gcm.cache\n",
    );
    story.write("pre.h", "#include \"part.h\"\n#include \"other.h\"\n");
    story.write("word.cc", "export module word;\nexport int word() { return 5; }\n");
    story.write("use.cc", "import word;\nint main() { return word(); }\n");
    let status = || {
        let mut command = story.sandbox.command(&story.root, story.root.join("mod"));
        story.sandbox.run(&mut command).unwrap().status.code()
    };
    let first = story.make(&[]);
    assert_eq!((story.said().as_str(), status()), ("1 2 10", Some(5)));
    let again = story.make(&[]);
    assert_eq!((story.said().as_str(), status()), ("1 2 10", Some(5)));
    assert!(again.kept.is_empty() && again.reused == first.kept, "{first:?} {again:?}");
    assert!(again.reused.contains(&"cc pre.h.gch".to_owned()), "{again:?}");
    story.write("far/part.h", "#define PART 4\n");
    story.write("word.cc", "export module word;\nexport int word() { return 6; }\n");
    story.make(&[]);
    assert_eq!((story.said().as_str(), status()), ("4 2 40", Some(6)));
    story.run(&story.root, &["make", "-q"]).success().unwrap();
}

#[test]
fn what_a_compiler_starts_is_looked_at() {
    let Some(story) = Story::new("what_a_compiler_starts_is_looked_at") else { return };
    let bin = story.sandbox.path("bin");
    fs::create_dir_all(&bin).unwrap();
    let linker = |name: &str, flag: &str| {
        compile(
            &story,
            &bin.join(name),
            &format!(
                "#include <unistd.h>\n#include <stdlib.h>\nint main(int n, char **v) {{ char **w = calloc(n + 2, sizeof *w); for (int i = 0; i < n; i++) w[i] = v[i]; w[n] = \"{flag}\"; return execv(\"/usr/bin/ld\", w); }}\n"
            ),
        );
    };
    linker("one", "--defsym=this_is_one=1");
    linker("two", "--defsym=this_is_two=1");
    let point = |name: &str| {
        let _none_yet = fs::remove_file(bin.join("ld")).is_ok();
        symlink(name, bin.join("ld")).unwrap();
    };
    let given = format!("CFLAGS=-B{}", bin.display());
    let has = |text: &str| {
        let app = fs::read(story.root.join("app")).unwrap();
        app.windows(text.len()).any(|bytes| bytes == text.as_bytes())
    };
    point("one");
    story.make(&[&given]);
    let made = story.make(&[&given]);
    assert!(made.reused.contains(&"cc app".to_owned()) && has("this_is_one"), "{made:?}");
    // The link leads to another linker.
    point("two");
    let made = story.make(&[&given]);
    assert!(!made.reused.contains(&"cc app".to_owned()) && has("this_is_two"), "{made:?}");
    assert!(made.others["cc app"].contains("bin/ld` holds something else"), "{made:?}");
    // The linker is replaced in place: as long as before, and under the same time.
    let length = fs::metadata(bin.join("two")).unwrap().len();
    linker("two", "--defsym=this_is_six=1");
    assert_eq!(fs::metadata(bin.join("two")).unwrap().len(), length);
    let made = story.make(&[&given]);
    assert!(!made.reused.contains(&"cc app".to_owned()) && has("this_is_six"), "{made:?}");
    // So is the compiler itself.
    let compiler = |value: u32| {
        compile(
            &story,
            &bin.join("cc1"),
            &format!(
                "#include <unistd.h>\n#include <stdlib.h>\nint main(int n, char **v) {{ char **w = calloc(n + 2, sizeof *w); for (int i = 0; i < n; i++) w[i] = v[i]; w[0] = \"/usr/bin/cc\"; w[n] = \"-DPART={value}\"; return execv(\"/usr/bin/cc\", w); }}\n"
            ),
        );
    };
    story.write("far/part.h", "\n");
    let given = format!("CC={}", bin.join("cc1").display());
    for value in [3, 4] {
        compiler(value);
        let made = story.make(&[&given]);
        assert_eq!(story.said(), format!("{value} 2 {}", 10 * value), "{made:?}");
    }
}

/// As makefiles do that are older than `ar s`.
#[test]
fn what_a_program_replaces_is_known_by_who_has_made_it() {
    let name = "what_a_program_replaces_is_known_by_who_has_made_it";
    let Some(story) = Story::new(name) else { return };
    story.write(
        "Makefile",
        "all: app\napp: main.c lib.a\n\tcc -Inear -Ifar -o $@ main.c lib.a\nlib.a: part.o\n\tar rc $@ part.o\n\tranlib $@\npart.o: part.c\n\tcc -Ifar -c $<\nclean:\n\trm -f app *.a *.o\n",
    );
    let all = ["ar part.o", "cc app", "cc part.c", "ranlib lib.a"];
    assert_eq!(story.make(&[]).kept, all);
    let made = story.make(&[]);
    assert_eq!(
        (made.reused.as_slice(), story.said().as_str()),
        (&all.map(str::to_owned)[..], "1 2 10")
    );
    story.write("part.c", "int part(void) { return 6; }\n");
    story.make(&[]);
    assert_eq!(story.said(), "1 2 6");
}

#[test]
fn a_library_that_comes_first_is_seen() {
    let Some(story) = Story::new("a_library_that_comes_first_is_seen") else { return };
    story.write(
        "Makefile",
        "all: app\napp: main.o far/libpart.a\n\tcc -Lnear -Lfar -o $@ main.o -lpart\nmain.o: main.c\n\tcc -Inear -Ifar -c $<\nfar/libpart.a: part.c\n\tcc -Ifar -c $< && ar rcs $@ part.o\nclean:\n\trm -f *.o far/*.a app\n",
    );
    story.make(&[]);
    assert_eq!(story.make(&[]).kept, [""; 0]);
    assert_eq!(story.said(), "1 2 10");
    story.write("new.c", "int part(void) { return 99; }\n");
    let words = ["sh", "-c", "cc -c new.c && ar rcs near/libpart.a new.o && rm new.o"];
    story.run(&story.root, &words).success().unwrap();
    let made = story.make(&[]);
    assert_eq!(story.said(), "1 2 99", "{made:?}");
}

#[test]
fn what_is_left_has_the_rights_that_it_would_have() {
    let Some(story) = Story::new("what_is_left_has_the_rights_that_it_would_have") else { return };
    let elsewhere = story.sandbox.path("elsewhere");
    fs::create_dir_all(&elsewhere).unwrap();
    symlink(&elsewhere, story.root.join("out")).unwrap();
    story.write(
        "Makefile",
        "all: out/app\nout/app: main.c part.c\n\tmkdir -p out/deep && cc -Inear -Ifar -o out/deep/app main.c part.c && cp out/deep/app $@\nclean:\n\trm -rf out/*\n",
    );
    let make = |umask: &str| {
        let line = format!("umask {umask}; make clean; exec \"$0\" exec -- make");
        let rift = story.sandbox.rift(&story.root, &[]).unwrap();
        let program = rift.get_program().to_str().unwrap().to_owned();
        let ran = story.run(&story.root, &["sh", "-c", &line, &program]).success().unwrap();
        let mode = elsewhere.join("deep/app").metadata().unwrap().permissions().mode() & 0o777;
        (story.made(ran), mode)
    };
    for _ in 0..2 {
        assert_eq!(make("022").1, 0o755);
    }
    let (made, mode) = make("077");
    assert!(mode == 0o700 && made.reused.is_empty(), "{mode:o} {made:?}");
    let (made, mode) = make("022");
    assert!(mode == 0o755 && made.reused == ["cc out/deep/app"], "{mode:o} {made:?}");
    // Where it can't write, it says so itself.
    fs::remove_dir_all(elsewhere.join("deep")).unwrap();
    fs::write(elsewhere.join("deep"), "").unwrap();
    fs::remove_file(elsewhere.join("app")).unwrap();
    let ran = story.run(&story.root, &["rift", "exec", "--", "make"]);
    assert!(!ran.status.success(), "{ran}");
}

#[test]
fn a_store_that_is_full_costs_only_time() {
    let name = "a_store_that_is_full_costs_only_time";
    if !have(name, &[Need::Root]) {
        return;
    }
    let Some(story) = Story::new(name) else { return };
    let disk = SmallDisk::mount(&story.sandbox.store(), 700 << 10, 4000).unwrap();
    for value in 0..6 {
        // Each object is larger than the one before, and soon there is no room.
        let text = format!(
            "char big[{}] = {{1}};\nint part(void) {{ return {value}; }}\n",
            (value + 1) * 150_000
        );
        story.write("part.c", &text);
        story.run(&story.root, &["make", "clean"]).success().unwrap();
        let ran = story.run(&story.root, &["rift", "exec", "--", "make"]).success().unwrap();
        assert_eq!(story.said(), format!("1 2 {value}"), "{ran}");
    }
    disk.resize(64 << 20, 4000).unwrap();
    story.make(&[]);
    let made = story.make(&[]);
    assert_eq!((made.reused.len(), story.said().as_str()), (4, "1 2 5"), "{made:?}");
    story.run(&story.root, &["rift", "store", "verify"]).success().unwrap();
}

#[test]
fn who_can_not_be_observed_runs_and_that_is_said() {
    let name = "who_can_not_be_observed_runs_and_that_is_said";
    let Some(story) = Story::new(name) else { return };
    let bin = story.sandbox.path("bin");
    fs::create_dir_all(&bin).unwrap();
    // A compiler that no library can be loaded into, and a make of that kind.
    let source = bin.join("static.c");
    let program = "#include <unistd.h>\nint main(int n, char **v) { (void)n; v[0] = PROGRAM; execv(PROGRAM, v); return 9; }\n";
    fs::write(&source, program).unwrap();
    for (name, target) in [("cc", "/usr/bin/cc"), ("make", "/usr/bin/make")] {
        let (out, define) = (bin.join(name), format!("-DPROGRAM=\"{target}\""));
        let words =
            ["cc", "-static", &define, "-o", out.to_str().unwrap(), source.to_str().unwrap()];
        story.run(&story.root, &words).success().unwrap();
    }
    let compiler = format!("CC={}", bin.join("cc").display());
    for value in [1, 2] {
        story.write("part.c", &format!("int part(void) {{ return {value}; }}\n"));
        let made = story.make(&[&compiler]);
        assert!(
            made.kept.iter().chain(&made.reused).all(|name| !name.starts_with("cc ")),
            "{made:?}"
        );
        assert_eq!(story.said(), format!("1 2 {value}"));
    }
    let make = bin.join("make");
    story.run(&story.root, &["make", "clean"]).success().unwrap();
    let ran = story.run(&story.root, &["rift", "exec", "--", make.to_str().unwrap()]);
    let ran = ran.success().unwrap();
    assert_eq!(story.said(), "1 2 2");
    assert_eq!(ran.stderr.matches("can't be observed").count(), 1, "{ran}");
    // The command runs where home can't be written, as ever.
    story.run(&story.root, &["make", "clean"]).success().unwrap();
    let mut command = story.command(&story.root, &["rift", "exec", "--", "make"]);
    command.env("HOME", "/proc/nowhere").env("XDG_CACHE_HOME", "/proc/nowhere/cache");
    story.sandbox.run(&mut command).unwrap().success().unwrap();
    assert_eq!(story.said(), "1 2 2");
}

/// The shim can't be loaded: nothing is observed, which is said, and all that is asked for is made.
#[test]
fn where_nothing_may_be_executed_that_is_said() {
    let name = "where_nothing_may_be_executed_that_is_said";
    if !have(name, &[Need::Root]) {
        return;
    }
    let Some(story) = Story::new(name) else { return };
    let disk = SmallDisk::mount(&story.sandbox.store(), 64 << 20, 4000).unwrap();
    disk.forbid_execution().unwrap();
    for value in [1, 2] {
        story.write("part.c", &format!("int part(void) {{ return {value}; }}\n"));
        let made = story.make(&[]);
        assert_eq!(story.said(), format!("1 2 {value}"));
        assert_eq!(made.ran.stderr.matches("noexec").count(), 1, "{made:?}");
        assert!(made.kept.is_empty() && made.reused.is_empty(), "{made:?}");
    }
    story.run(&story.root, &["make", "clean"]).success().unwrap();
    let mut command = story.command(&story.root, &["rift", "exec", "--", "make"]);
    let ran = story.sandbox.run(command.env("RIFT_STRICT", "1")).unwrap();
    assert!(ran.status.code() == Some(125) && ran.stderr.contains("noexec"), "{ran}");
    assert!(!story.root.join("app").exists());
}
