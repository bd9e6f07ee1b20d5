//! `rift exec -- cargo build`: what an earlier build left is put back, and nothing that is stale is ever believed.
//!
//! The workspace needs no registry: a library whose build script looks at its whole package, a procedural macro, and a program.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rift_tests::mounts::mounts_at;
use rift_tests::need::{Need, have};
use rift_tests::sandbox::{self, Ran, Sandbox, clear, with_toolchain};

const FILES: &[(&str, &str)] = &[
    ("Cargo.toml", "[workspace]\nresolver = \"3\"\nmembers = [\"app\", \"lib\", \"macros\"]\n"),
    (
        "app/Cargo.toml",
        "[package]\nname = \"app\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[dependencies]\nlib = { path = \"../lib\" }\n",
    ),
    (
        "app/src/main.rs",
        "fn main() {\n    println!(\"{} {} {}\", lib::word(), lib::text().trim(), lib::made());\n}\n",
    ),
    (
        "lib/Cargo.toml",
        "[package]\nname = \"lib\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[dependencies]\nmacros = { path = \"../macros\" }\n",
    ),
    // Without `rerun-if-changed`: cargo goes by the newest file of the package.
    (
        "lib/build.rs",
        "fn main() {\n    let out = std::env::var(\"OUT_DIR\").unwrap();\n    let text = std::fs::read_to_string(\"data.txt\").unwrap();\n    std::fs::write(format!(\"{out}/made.rs\"), format!(\"\\\"{}\\\"\", text.trim())).unwrap();\n}\n",
    ),
    ("lib/data.txt", "made\n"),
    ("lib/text.txt", "text\n"),
    (
        "lib/src/lib.rs",
        "macros::word!();\npub fn text() -> &'static str { include_str!(\"../text.txt\") }\npub fn made() -> &'static str { include!(concat!(env!(\"OUT_DIR\"), \"/made.rs\")) }\n",
    ),
    (
        "macros/Cargo.toml",
        "[package]\nname = \"macros\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[lib]\nproc-macro = true\n",
    ),
    (
        "macros/src/lib.rs",
        "extern crate proc_macro;\n#[proc_macro]\npub fn word(_: proc_macro::TokenStream) -> proc_macro::TokenStream {\n    \"pub fn word() -> &'static str { \\\"word\\\" }\".parse().unwrap()\n}\n",
    ),
];

/// A machine with the workspace.
struct Story {
    sandbox: Sandbox,
    root: PathBuf,
}

impl Story {
    /// `None` where cargo is missing, which was said then.
    fn new(name: &str) -> Option<Self> {
        have(name, &[Need::Tool("cargo")]).then(|| {
            let sandbox = Sandbox::new(name).unwrap();
            let root = sandbox.path("work");
            let story = Self { sandbox, root };
            story.check_out(&story.root);
            story
        })
    }

    /// Writes the workspace as a checkout does: with the time of now.
    fn check_out(&self, root: &Path) {
        sandbox::check_out(root, FILES).unwrap();
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.root.join(name), text).unwrap();
    }

    /// Prepares a command that finds the machine's toolchain, whatever the sandbox's home is.
    fn command(&self, at: &Path, words: &[&str]) -> std::process::Command {
        let mut command = self.sandbox.typed(at, words).unwrap();
        with_toolchain(&mut command);
        command.env("CARGO_NET_OFFLINE", "true").env_remove("CARGO_TARGET_DIR");
        command
    }

    fn run(&self, at: &Path, words: &[&str]) -> Ran {
        self.sandbox.run(&mut self.command(at, words)).unwrap()
    }

    /// Builds under rift; returns the crates that cargo compiled.
    #[track_caller]
    fn build_at(&self, at: &Path, words: &[&str]) -> Vec<String> {
        let words = [&["rift", "exec", "--", "cargo"], words].concat();
        compiled(&self.run(at, &words).success().unwrap())
    }

    #[track_caller]
    fn build(&self) -> Vec<String> {
        self.build_at(&self.root, &["build"])
    }

    /// Builds without rift; returns the crates that cargo compiled.
    #[track_caller]
    fn build_natively(&self, at: &Path) -> Vec<String> {
        compiled(&self.run(at, &["cargo", "build"]).success().unwrap())
    }

    /// Returns what the program says that was built.
    fn said_at(&self, at: &Path) -> String {
        let program = at.join("target/debug/app");
        let mut command = self.sandbox.command(at, &program);
        self.sandbox.run(&mut command).unwrap().success().unwrap().stdout.trim_end().to_owned()
    }

    fn said(&self) -> String {
        self.said_at(&self.root)
    }

    fn why(&self) -> String {
        self.run(&self.root, &["rift", "why"]).success().unwrap().stdout
    }

    fn forget_target(&self) {
        clear(&self.root.join("target")).unwrap();
    }

    fn mtime(&self, name: &str) -> SystemTime {
        fs::metadata(self.root.join(name)).unwrap().modified().unwrap()
    }

    fn set_mtime(&self, name: &str, time: SystemTime) {
        fs::File::options()
            .append(true)
            .open(self.root.join(name))
            .unwrap()
            .set_modified(time)
            .unwrap();
    }
}

/// Returns the crates that cargo says it compiles, sorted.
fn compiled(ran: &Ran) -> Vec<String> {
    let lines = ran.stderr.lines().filter_map(|line| line.trim_start().strip_prefix("Compiling "));
    let mut names: Vec<String> =
        lines.filter_map(|rest| rest.split(' ').next()).map(str::to_owned).collect();
    names.sort();
    names
}

const NOTHING: [&str; 0] = [];

#[test]
fn what_was_built_is_there_again() {
    let Some(story) = Story::new("what_was_built_is_there_again") else { return };
    assert_eq!(story.build(), ["app", "lib", "macros"]);
    assert_eq!(story.said(), "word text made");
    assert!(story.why().contains("what it left is kept"), "{}", story.why());
    assert_eq!(story.build(), NOTHING);
    // A fresh checkout: new times, no target.
    story.forget_target();
    story.check_out(&story.root);
    assert_eq!(story.build(), NOTHING);
    assert_eq!(story.said(), "word text made");
    assert!(story.why().contains("the same sources"), "{}", story.why());
    // Cargo by itself agrees, in that and in every profile's flags that were built.
    assert_eq!(story.build_natively(&story.root), NOTHING);
    let plan = story.run(&story.root, &["rift", "plan", "--", "cargo", "build"]);
    assert!(plan.success().unwrap().stdout.contains("what is there stays"));
    // Another profile is another snapshot.
    assert_eq!(story.build_at(&story.root, &["build", "--release"]), ["app", "lib", "macros"]);
    story.forget_target();
    assert_eq!(story.build_at(&story.root, &["build", "-r", "--color=never"]), NOTHING);
    assert_eq!(story.build(), NOTHING);
    story.forget_target();
    let plan = story.run(&story.root, &["rift", "plan", "--", "cargo", "build"]);
    assert!(plan.success().unwrap().stdout.contains("a hit"));
}

#[test]
fn the_summary_counts_what_was_put_back() {
    let Some(story) = Story::new("the_summary_counts_what_was_put_back") else { return };
    let summary = || {
        let ran = story.run(&story.root, &["rift", "exec", "--", "cargo", "build"]);
        let lines = ran.success().unwrap().stderr;
        let line = lines.lines().rev().find_map(|line| line.strip_prefix("rift: "));
        line.unwrap_or_default().split(" in ").next().unwrap().to_owned()
    };
    let first = summary();
    let all = first.strip_suffix(" crates learned").unwrap();
    assert!(all.parse::<u32>().unwrap() >= 3, "{first}");
    story.forget_target();
    assert_eq!(summary(), format!("{all} crates projected"));
    let edit = |text: &str| story.write("app/src/main.rs", &format!("fn main() {{ {text} }}\n"));
    edit("");
    story.forget_target();
    let some = summary();
    let put_back = some.strip_suffix(&format!(" of {all} crates projected"));
    let put_back = put_back.unwrap_or_else(|| panic!("{some}"));
    assert!(put_back.parse::<u32>().unwrap() < all.parse().unwrap(), "{some}");
    // What cargo had by itself was not projected; whether one more crate is worth keeping goes by what that takes.
    edit("println!();");
    let last = summary();
    assert!(["", "1 crate learned"].contains(&&*last), "{last}");
}

#[test]
fn the_summary_tells_how_large_the_store_is() {
    let Some(story) = Story::new("the_summary_tells_how_large_the_store_is") else { return };
    story.build();
    let before = story.sandbox.store_bytes(&story.root).unwrap();
    // Large enough for a file of its own, and of no other file's bytes.
    let numbers =
        (0..3_u32 << 20).flat_map(|number| number.wrapping_mul(0x9e37_79b9).to_le_bytes());
    fs::write(story.root.join("app/large"), numbers.collect::<Vec<u8>>()).unwrap();
    let text = "fn main() { print!(\"{}\", include_bytes!(\"../large\")[7]); }\n";
    story.write("app/src/main.rs", text);
    story.forget_target();
    let summary = story.sandbox.path("summary.json");
    let words =
        ["rift", "exec", "--summary-json", summary.to_str().unwrap(), "--", "cargo", "build"];
    story.run(&story.root, &words).success().unwrap();
    let (after, told) = story.sandbox.store_bytes_told(&story.root, &summary).unwrap();
    assert!(after - before > 12 << 20, "{before} {after}");
    assert!(after.abs_diff(told) < 1 << 20, "{before} {after} {told}");
    let verified = story.run(&story.root, &["rift", "store", "verify"]).success().unwrap();
    assert_eq!(verified.stdout, "");
}

#[test]
fn what_was_changed_is_compiled() {
    let Some(story) = Story::new("what_was_changed_is_compiled") else { return };
    drop(story.build());
    // With the lockfile that the first build has written.
    drop(story.build());
    // As long as before, and under the old time: cargo alone would not see it.
    for (name, before, after, expected, crates) in [
        ("lib/text.txt", "text", "next", "word next made", &["app", "lib"][..]),
        ("lib/data.txt", "made", "mode", "word next mode", &["app", "lib"]),
        ("app/src/main.rs", "{} {} {}", "{}-{}-{}", "word-next-mode", &["app"]),
        (
            "macros/src/lib.rs",
            "\\\"word\\\"",
            "\\\"ward\\\"",
            "ward-next-mode",
            &["app", "lib", "macros"],
        ),
    ] {
        let time = story.mtime(name);
        let text = fs::read_to_string(story.root.join(name)).unwrap();
        assert!(text.contains(before));
        story.write(name, &text.replace(before, after));
        story.set_mtime(name, time);
        story.forget_target();
        assert_eq!(story.build(), crates, "{name}");
        assert_eq!(story.said(), expected, "{name}");
        assert!(story.why().contains("an earlier state"), "{}", story.why());
        assert_eq!(story.build_natively(&story.root), NOTHING, "{name}");
    }
    // A file that is older than what was built of another one.
    story.write("lib/text.txt", "back in time\n");
    story.set_mtime("lib/text.txt", SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000));
    story.forget_target();
    assert_eq!(story.build(), ["app", "lib"]);
    assert_eq!(story.said(), "ward-back in time-mode");
    // A file that is gone.
    fs::remove_file(story.root.join("lib/text.txt")).unwrap();
    story.forget_target();
    let ran = story.run(&story.root, &["rift", "exec", "--", "cargo", "build"]);
    assert_eq!(ran.status.code(), Some(101), "{ran}");
    // And the first state of all, which was kept.
    story.check_out(&story.root);
    story.forget_target();
    assert_eq!(story.build(), NOTHING);
    assert_eq!(story.said(), "word text made");
}

#[test]
fn a_moved_checkout_holds_its_own_place() {
    let Some(story) = Story::new("a_moved_checkout_holds_its_own_place") else { return };
    drop(story.build());
    let other = story.sandbox.path("elsewhere/work");
    story.check_out(&other);
    // What was made of OUT_DIR holds the old place: that is made anew, and what needs it.
    assert_eq!(story.build_at(&other, &["build"]), ["app", "lib"]);
    assert_eq!(story.said_at(&other), "word text made");
    assert_eq!(story.build_natively(&other), NOTHING);
    let place = "pub fn place() -> &'static str { env!(\"CARGO_MANIFEST_DIR\") }\n";
    let rename = |root: &Path, file: &str, from: &str, to: &str| {
        let text = fs::read_to_string(root.join(file)).unwrap();
        fs::write(root.join(file), text.replace(from, to)).unwrap();
    };
    let main = "fn main() { println!(\"{}\", lib::place()); }\n";
    for root in [&story.root, &other] {
        let library = root.join("lib/src/lib.rs");
        let text = fs::read_to_string(&library).unwrap();
        fs::write(&library, format!("{text}{place}")).unwrap();
        fs::write(root.join("app/src/main.rs"), main).unwrap();
        // A crate that is not called as its package is.
        rename(root, "lib/Cargo.toml", "name = \"lib\"", "name = \"the-lib\"");
        rename(root, "app/Cargo.toml", "lib\" }", "lib\", package = \"the-lib\" }");
    }
    drop(story.build());
    drop(story.build());
    clear(&other.join("target")).unwrap();
    drop(story.build_at(&other, &["build"]));
    assert_eq!(story.said(), story.root.join("lib").display().to_string());
    assert_eq!(story.said_at(&other), other.join("lib").display().to_string());
}

#[test]
fn what_decides_the_result_makes_another_key() {
    let Some(story) = Story::new("what_decides_the_result_makes_another_key") else { return };
    drop(story.build());
    let all = ["app", "lib", "macros"];
    let hidden = story.sandbox.path("bin");
    fs::create_dir_all(&hidden).unwrap();
    symlink("/bin/true", hidden.join("cmake")).unwrap();
    let path = std::env::var("PATH").unwrap();
    for (name, value) in [
        ("RUSTFLAGS", "-Cdebuginfo=0".to_owned()),
        ("CFLAGS", "-O1".to_owned()),
        ("PKG_CONFIG_PATH", "/nowhere".to_owned()),
        ("PATH", format!("{}:{path}", hidden.display())),
    ] {
        story.forget_target();
        let words = ["rift", "exec", "--", "cargo", "build"];
        let mut command = story.command(&story.root, &words);
        command.env(name, value);
        let ran = story.sandbox.run(&mut command).unwrap().success().unwrap();
        assert_eq!(compiled(&ran), all, "{name}");
    }
    // A setting of cargo's, and what only decides what is printed.
    story.forget_target();
    fs::create_dir_all(story.root.join(".cargo")).unwrap();
    story.write(".cargo/config.toml", "[profile.dev]\nopt-level = 1\n");
    assert_eq!(story.build(), all);
    story.write(".cargo/config.toml", "[term]\nquiet = false\n");
    fs::remove_dir_all(story.root.join(".cargo")).unwrap();
    story.forget_target();
    assert_eq!(story.build_at(&story.root, &["b", "-v", "-j", "1"]), NOTHING);
}

/// Writes a script, under the time of what was there before.
fn write_script(path: &Path, text: &str) {
    let write = || {
        fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    sandbox::replace_unseen(path, write).unwrap();
}

/// Says which of two compilers, or linkers, has made the program.
const MAIN: &str = "fn main() { println!(\"{}\", if cfg!(two) { \"two\" } else { \"one\" }); }\n";

#[test]
fn what_is_replaced_in_its_place_makes_another_key() {
    let Some(story) = Story::new("what_is_replaced_in_its_place_makes_another_key") else { return };
    story.write("app/src/main.rs", MAIN);
    let tool = story.sandbox.path("tools/tool");
    fs::create_dir_all(tool.parent().unwrap()).unwrap();
    let place = tool.display();
    let linker = "exec cc -Wl,--defsym=mark_NAME=1 \"$@\"";
    for (setting, variable, text) in [
        ("", ("RUSTC", format!("{place}")), "exec rustc --cfg NAME \"$@\""),
        ("", ("RUSTC_WRAPPER", format!("{place}")), "exec \"$@\" --cfg NAME"),
        ("[build]\nrustc = \"PLACE\"\n", ("WORD", String::new()), "exec rustc --cfg NAME \"$@\""),
        ("", ("RUSTFLAGS", format!("-Clinker={place}")), linker),
        (
            "[target.x86_64-unknown-linux-gnu]\nlinker = \"PLACE\"\n",
            ("WORD", String::new()),
            linker,
        ),
    ] {
        fs::create_dir_all(story.root.join(".cargo")).unwrap();
        story.write(".cargo/config.toml", &setting.replace("PLACE", &place.to_string()));
        for name in ["one", "two", "one"] {
            write_script(&tool, &text.replace("NAME", name));
            story.forget_target();
            let mut command = story.command(&story.root, &["rift", "exec", "--", "cargo", "build"]);
            command.env(variable.0, &variable.1);
            let ran = story.sandbox.run(&mut command).unwrap().success().unwrap();
            let app = fs::read(story.root.join("target/debug/app")).unwrap();
            let mark = format!("mark_{name}");
            let is_marked = app.windows(mark.len()).any(|bytes| bytes == mark.as_bytes());
            assert!(is_marked || text != linker, "{setting} {variable:?} {name}: {ran}");
            assert!(story.said() == name || text == linker, "{setting} {variable:?} {name}: {ran}");
        }
    }
}

#[test]
fn a_toolchain_that_the_project_names_makes_another_key() {
    let name = "a_toolchain_that_the_project_names_makes_another_key";
    if !have(name, &[Need::Tool("rustup")]) {
        return;
    }
    let Some(story) = Story::new(name) else { return };
    story.write("app/src/main.rs", MAIN);
    drop(story.build());
    assert_eq!(story.said(), "one");
    let printed = story.run(&story.root, &["rustc", "--print", "sysroot"]).success().unwrap();
    let real = PathBuf::from(printed.stdout.trim_end()).join("bin");
    let folder = story.sandbox.path("toolchain/bin");
    fs::create_dir_all(&folder).unwrap();
    symlink(real.join("cargo"), folder.join("cargo")).unwrap();
    let named = format!("[toolchain]\npath = {:?}\n", folder.parent().unwrap());
    story.write("rust-toolchain.toml", &named);
    for name in ["two", "one", "two"] {
        let rustc = format!("exec {}/rustc --cfg {name} \"$@\"", real.display());
        write_script(&folder.join("rustc"), &rustc);
        story.forget_target();
        let ran = story.run(&story.root, &["rift", "exec", "--", "cargo", "build"]);
        assert_eq!(story.said(), name, "{ran}");
    }
    fs::remove_file(story.root.join("rust-toolchain.toml")).unwrap();
    story.forget_target();
    assert_eq!(story.build(), NOTHING);
    assert_eq!(story.said(), "one");
}

/// What build scripts and compilers find in other places, which they tell nobody of: nobody who removes `target` gets what was made of
/// another state of that.
#[test]
fn what_programs_find_elsewhere_is_made_anew() {
    let Some(story) = Story::new("what_programs_find_elsewhere_is_made_anew") else { return };
    let (near, far) = (story.sandbox.path("near"), story.sandbox.path("far"));
    fs::create_dir_all(&near).unwrap();
    fs::create_dir_all(&far).unwrap();
    fs::write(far.join("part.h"), "#define PART \"far\"\n").unwrap();
    fs::create_dir_all(story.root.join(".git")).unwrap();
    story.write(".git/HEAD", "one\n");
    story.write(
        "lib/part.c",
        "#include \"part.h\"\n#include <stdio.h>\nint main(void) { puts(PART); }\n",
    );
    // It asks for the time of day, so that its result is never kept, and names a file that is no reason to run again.
    let script = format!(
        "use std::process::Command;\nfn main() {{\n    println!(\"cargo::rerun-if-changed=make.rs\");\n    let _now = std::time::SystemTime::now();\n    let out = std::env::var(\"OUT_DIR\").unwrap();\n    let program = format!(\"{{out}}/part\");\n    let built = Command::new(\"cc\").args([\"-I{}\", \"-I{}\", \"part.c\", \"-o\", &program]).status().unwrap();\n    assert!(built.success());\n    let said = Command::new(&program).output().unwrap().stdout;\n    let part = String::from_utf8(said).unwrap();\n    let head = std::fs::read_to_string(\"../.git/HEAD\").unwrap();\n    std::fs::write(format!(\"{{out}}/made.rs\"), format!(\"\\\"{{}} {{}}\\\"\", part.trim(), head.trim())).unwrap();\n}}\n",
        near.display(),
        far.display()
    );
    // One that is not called `build.rs`.
    story.write("lib/make.rs", &script);
    fs::remove_file(story.root.join("lib/build.rs")).unwrap();
    let manifest = fs::read_to_string(story.root.join("lib/Cargo.toml")).unwrap();
    let manifest = manifest.replace("[dependencies]", "build = \"make.rs\"\n[dependencies]");
    story.write("lib/Cargo.toml", &manifest);
    drop(story.build());
    story.forget_target();
    assert_eq!(story.build(), NOTHING);
    assert_eq!(story.said(), "word text far one");
    let change = |what: &str, path: &Path, text: &str| {
        fs::write(path, text).unwrap();
        for compiled in [&["app", "lib"][..], &[]] {
            story.forget_target();
            assert_eq!(story.build(), compiled, "{what} {}", story.why());
        }
        story.said()
    };
    let said = change("a file of version control", &story.root.join(".git/HEAD"), "two\n");
    assert_eq!(said, "word text far two");
    let said = change("a header", &far.join("part.h"), "#define PART \"fan\"\n");
    assert_eq!(said, "word text fan two");
    let header = near.join("part.h");
    let said = change("a header where none was", &header, "#define PART \"near\"\n");
    assert_eq!(said, "word text near two");
    // What was not made anew is still looked after.
    story.write("app/src/main.rs", "fn main() { println!(\"{}\", lib::made()); }\n");
    story.forget_target();
    assert_eq!(story.build(), ["app"]);
    fs::remove_file(header).unwrap();
    story.forget_target();
    assert_eq!(story.build(), ["app", "lib"]);
    assert_eq!(story.said(), "fan two");
    assert!(story.why().contains("is something else now"), "{}", story.why());
    assert_eq!(story.build_natively(&story.root), NOTHING);
}

#[test]
fn variables_are_noticed_that_cargo_is_told_of() {
    let Some(story) = Story::new("variables_are_noticed_that_cargo_is_told_of") else { return };
    let write = |told: &str| {
        let script = format!(
            "fn main() {{\n    println!(\"cargo::rerun-if-changed=build.rs\");\n    {told}\n    let out = std::env::var(\"OUT_DIR\").unwrap();\n    let word = std::env::var(\"WORD_OF_MINE\").unwrap();\n    std::fs::write(format!(\"{{out}}/made.rs\"), format!(\"{{word:?}}\")).unwrap();\n}}\n"
        );
        story.write("lib/build.rs", &script);
    };
    let build = |word: &str| {
        story.forget_target();
        let mut command = story.command(&story.root, &["rift", "exec", "--", "cargo", "build"]);
        command.env("WORD_OF_MINE", word);
        story.sandbox.run(&mut command).unwrap().success().unwrap();
        story.said()
    };
    write("println!(\"cargo::rerun-if-env-changed=WORD_OF_MINE\");");
    assert_eq!(build("one"), "word text one");
    assert_eq!(build("two"), "word text two");
    assert_eq!(build("one"), "word text one");
    write("");
    assert_eq!(build("one"), "word text one");
    assert_eq!(build("two"), "word text one", "cargo is told nothing");
    write("// Another one.");
    assert_eq!(build("two"), "word text two");
}

/// The folder of results is a link to another place.
#[test]
fn target_may_be_a_link() {
    let Some(story) = Story::new("target_may_be_a_link") else { return };
    let elsewhere = story.sandbox.path("elsewhere");
    symlink(&elsewhere, story.root.join("target")).unwrap();
    for turn in 0..3 {
        if elsewhere.exists() {
            clear(&elsewhere).unwrap();
        }
        fs::create_dir_all(&elsewhere).unwrap();
        let compiled = story.build();
        assert!(turn == 0 || compiled == NOTHING, "{turn}: {compiled:?} {}", story.why());
        assert_eq!(story.said(), "word text made");
        assert!(elsewhere.join("debug/app").exists());
        assert!(story.root.join("target").symlink_metadata().unwrap().is_symlink());
        assert_eq!(story.build_natively(&story.root), NOTHING);
    }
}

/// Who wants his files' times left alone has what comes from registries, here nothing, and never what is stale.
#[test]
fn times_of_sources_are_left_alone_on_demand() {
    let Some(story) = Story::new("times_of_sources_are_left_alone_on_demand") else { return };
    drop(story.build());
    drop(story.build());
    let build = || {
        let words = ["rift", "exec", "--", "cargo", "build"];
        let mut command = story.command(&story.root, &words);
        command.env("RIFT_SOURCE_TIMES", "false");
        compiled(&story.sandbox.run(&mut command).unwrap().success().unwrap())
    };
    story.forget_target();
    assert_eq!(build(), NOTHING);
    story.forget_target();
    story.check_out(&story.root);
    let time = story.mtime("app/src/main.rs");
    assert_eq!(build(), ["app", "lib", "macros"]);
    assert_eq!(story.mtime("app/src/main.rs"), time);
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    story.write("lib/text.txt", "text of old\n");
    story.set_mtime("lib/text.txt", old);
    story.forget_target();
    drop(build());
    assert_eq!(story.said(), "word text of old made");
    assert_eq!(story.mtime("lib/text.txt"), old);
}

#[test]
fn what_changes_meanwhile_is_not_kept() {
    let Some(story) = Story::new("what_changes_meanwhile_is_not_kept") else { return };
    let script = fs::read_to_string(story.root.join("lib/build.rs")).unwrap();
    let append = "    use std::io::Write;\n    let mut file = std::fs::File::options().append(true).open(\"text.txt\").unwrap();\n    writeln!(file, \"more\").unwrap();\n}\n";
    story.write(
        "lib/build.rs",
        &format!("{}{append}", script.trim_end().strip_suffix('}').unwrap()),
    );
    drop(story.build());
    assert!(story.why().contains("was changed meanwhile"), "{}", story.why());
    // A build that fails keeps nothing, and its status is cargo's.
    story.check_out(&story.root);
    story.write("app/src/main.rs", "fn main() { no }\n");
    story.forget_target();
    let ran = story.run(&story.root, &["rift", "exec", "--", "cargo", "build"]);
    assert_eq!(ran.status.code(), Some(101), "{ran}");
    story.check_out(&story.root);
    story.forget_target();
    assert_eq!(story.build(), ["app", "lib", "macros"]);
}

#[test]
fn what_lies_outside_is_looked_at() {
    let Some(story) = Story::new("what_lies_outside_is_looked_at") else { return };
    let outside = story.sandbox.path("outside.txt");
    fs::write(&outside, "one").unwrap();
    let main = format!("fn main() {{ println!(\"{{}}\", include_str!({outside:?})); }}\n");
    story.write("app/src/main.rs", &main);
    drop(story.build());
    story.forget_target();
    assert_eq!(story.build(), NOTHING);
    let time = fs::metadata(&outside).unwrap().modified().unwrap();
    fs::write(&outside, "two").unwrap();
    fs::File::options().append(true).open(&outside).unwrap().set_modified(time).unwrap();
    story.forget_target();
    drop(story.build());
    assert_eq!(story.said(), "two");
    assert!(story.why().contains("is another one"), "{}", story.why());
    // What leads out can't be followed: cargo runs, and nothing is kept.
    symlink(&outside, story.root.join("app/link")).unwrap();
    story.forget_target();
    drop(story.build());
    assert!(story.why().contains("leads out of the workspace"), "{}", story.why());
    assert_eq!(story.said(), "two");
}

/// What a macro reads, cargo does not know: nobody who removes `target` gets what was made of another state of that.
#[test]
fn what_cargo_does_not_know_of_is_made_anew() {
    let Some(story) = Story::new("what_cargo_does_not_know_of_is_made_anew") else { return };
    let reading = "extern crate proc_macro;\n#[proc_macro]\npub fn word(_: proc_macro::TokenStream) -> proc_macro::TokenStream {\n    let text = std::fs::read_to_string(\"lib/secret.txt\").unwrap();\n    format!(\"pub fn word() -> &'static str {{ {:?} }}\", text.trim()).parse().unwrap()\n}\n";
    story.write("macros/src/lib.rs", reading);
    story.write("lib/secret.txt", "one\n");
    drop(story.build());
    drop(story.build());
    story.forget_target();
    assert_eq!(story.build(), NOTHING);
    story.write("lib/secret.txt", "two\n");
    story.forget_target();
    assert_eq!(story.build(), ["app", "lib"]);
    assert_eq!(story.said(), "two text made");
    // In no package's folder, and so perhaps in every one's.
    let reading = reading.replace("lib/secret.txt", "top.txt");
    story.write("macros/src/lib.rs", &reading);
    story.write("top.txt", "three\n");
    story.forget_target();
    drop(story.build());
    assert_eq!(story.said(), "three text made");
    story.write("top.txt", "four\n");
    story.forget_target();
    assert_eq!(story.build(), ["app", "lib", "macros"]);
    assert_eq!(story.said(), "four text made");
    // What a build script has named that is no source of rift's.
    let script = "fn main() {\n    println!(\"cargo::rerun-if-changed=../.git/HEAD\");\n    let out = std::env::var(\"OUT_DIR\").unwrap();\n    let text = std::fs::read_to_string(\"../.git/HEAD\").unwrap();\n    std::fs::write(format!(\"{out}/made.rs\"), format!(\"\\\"{}\\\"\", text.trim())).unwrap();\n}\n";
    story.write("lib/build.rs", script);
    fs::create_dir_all(story.root.join(".git")).unwrap();
    story.write(".git/HEAD", "first\n");
    let time = story.mtime("app/src/main.rs");
    story.set_mtime(".git/HEAD", time);
    // What goes on with its target is kept only where that takes a small part of the time.
    story.forget_target();
    drop(story.build());
    assert_eq!(story.said(), "four text first");
    story.write(".git/HEAD", "other\n");
    story.set_mtime(".git/HEAD", time);
    story.forget_target();
    drop(story.build());
    assert_eq!(story.said(), "four text other");
    assert!(story.why().contains("is another one"), "{}", story.why());
}

/// Whoever is killed while it puts things back, or keeps them, leaves nothing that cargo or the next run takes for more than it is.
#[test]
fn who_is_killed_leaves_nothing_false() {
    let Some(story) = Story::new("who_is_killed_leaves_nothing_false") else { return };
    drop(story.build());
    let times = if rift_tests::full() { 100 } else { 12 };
    for turn in 0..times {
        let text = format!("text {turn}\n");
        let is_old = turn % 3 == 0;
        story.write("lib/text.txt", if is_old { "text\n" } else { &text });
        story.forget_target();
        let mut command = story.command(&story.root, &["rift", "exec", "--", "cargo", "build"]);
        let mut child = command.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(turn * 1_500 / times));
        child.kill().unwrap();
        child.wait().unwrap();
        // What the killed one has started may go on: cargo waits for cargo.
        drop(story.build());
        let expected =
            if is_old { "word text made".to_owned() } else { format!("word text {turn} made") };
        assert_eq!(story.said(), expected, "after {turn}");
        assert_eq!(story.build_natively(&story.root), NOTHING, "after {turn}");
    }
    drop(story.run(&story.root, &["rift", "store", "verify"]).success().unwrap());
}

#[test]
fn two_builds_at_once_end_well() {
    let Some(story) = Story::new("two_builds_at_once_end_well") else { return };
    drop(story.build());
    for _ in 0..3 {
        story.forget_target();
        std::thread::scope(|scope| {
            let builds: Vec<_> = (0..2).map(|_| scope.spawn(|| story.build())).collect();
            for build in builds {
                assert_eq!(build.join().unwrap(), NOTHING);
            }
        });
        assert_eq!(story.said(), "word text made");
    }
}

/// `target` can be mounted: what cargo gives two names has them there as well, changes are kept, and closing leaves files.
#[test]
fn what_was_built_can_be_mounted() {
    let name = "what_was_built_can_be_mounted";
    if !have(name, &[Need::Root, Need::Fuse]) {
        return;
    }
    let Some(story) = Story::new(name) else { return };
    let target = story.root.join("target/debug");
    let build = || {
        let words = ["rift", "exec", "--as", "mount", "--", "cargo", "build"];
        // Where others wait for what is made, it is kept however long that takes.
        let mut command = story.command(&story.root, &words);
        compiled(&story.sandbox.run(command.env("CI", "true")).unwrap().success().unwrap())
    };
    let is_linked = || {
        let names = fs::read_dir(target.join("deps")).unwrap().map(|entry| entry.unwrap().path());
        let inode = |path: &Path| path.metadata().unwrap().ino();
        let app = target.join("app");
        let twins = names.filter(|path| inode(path) == inode(&app)).count();
        (twins, app.metadata().unwrap().nlink())
    };
    assert_eq!(build(), ["app", "lib", "macros"]);
    assert_eq!(mounts_at(&target), 0, "what was just built stays as it is");
    story.forget_target();
    story.check_out(&story.root);
    assert_eq!(build(), NOTHING);
    assert_eq!((mounts_at(&target), is_linked()), (1, (1, 2)));
    assert_eq!(story.said(), "word text made");
    assert_eq!(story.build_natively(&story.root), NOTHING);
    // What is made anew is kept, with what is still as it was.
    story.write("app/src/main.rs", "fn main() { println!(\"{}\", lib::word()); }\n");
    assert_eq!(build(), ["app"]);
    assert_eq!((story.said().as_str(), is_linked()), ("word", (1, 2)));
    assert!(story.why().contains("what it left is kept"), "{}", story.why());
    story.forget_target();
    assert_eq!(build(), NOTHING);
    assert_eq!((story.said().as_str(), mounts_at(&target)), ("word", 1));
    // Who removes one of two names leaves the other one.
    fs::remove_file(target.join("app")).unwrap();
    assert_eq!(story.build_natively(&story.root), NOTHING);
    assert_eq!((story.said().as_str(), is_linked()), ("word", (1, 2)));
    let refused = story.run(&story.root, &["rift", "close", "target"]);
    assert!(refused.stderr.contains("hint: `rift close target/debug`"), "{refused}");
    story.run(&story.root, &["rift", "close", "target/debug"]).success().unwrap();
    assert_eq!((mounts_at(&target), is_linked()), (0, (1, 2)));
    assert_eq!(story.build(), NOTHING);
    assert_eq!(story.build_natively(&story.root), NOTHING);
    story.forget_target();
    assert_eq!(build(), NOTHING);
    story.run(&story.root, &["rift", "close", "target/debug"]).success().unwrap();
    assert_eq!((mounts_at(&target), is_linked()), (0, (1, 2)), "of what nobody has touched");
    story.forget_target();
    assert_eq!(build(), NOTHING);
    story.run(&story.root, &["cargo", "clean"]).success().unwrap();
    assert!(!target.exists() && mounts_at(&target) == 0);
}

/// What one machine has built the others have, also in another folder: the same sources at once, others by what the first build with their
/// lockfile has left. Who is not trusted is not believed.
#[test]
fn machines_share_what_they_build() {
    let name = "machines_share_what_they_build";
    let Some(producer) = Story::new(name) else { return };
    let new_key = producer.run(&producer.root, &["rift", "key", "new", "producer"]);
    // `NAME:HEX`, as others trust it.
    let public = new_key.success().unwrap().stdout.trim_end().to_owned();
    let remote = format!("file://{}", producer.sandbox.path("carried").display());
    let build = |story: &Story, trusted: &str| {
        let words = ["rift", "exec", "--", "cargo", "build"];
        let mut command = story.command(&story.root, &words);
        command.env("RIFT_REMOTE", &remote);
        if !trusted.is_empty() {
            command.env("RIFT_TRUSTED_KEYS", trusted);
        }
        let ran = story.sandbox.run(&mut command).unwrap().success().unwrap();
        (compiled(&ran), ran.stderr)
    };
    assert_eq!(build(&producer, "").0, ["app", "lib", "macros"]);
    assert!(producer.why().contains("shared at"), "{}", producer.why());
    let lockfile = fs::read(producer.root.join("Cargo.lock")).unwrap();
    // Nobody else has that store.
    fs::rename(producer.sandbox.store(), producer.sandbox.path("elsewhere")).unwrap();
    let machine = |number: &str| {
        let story = Story::new(&format!("{name}-{number}")).unwrap();
        // As it comes with a checkout.
        fs::write(story.root.join("Cargo.lock"), &lockfile).unwrap();
        story
    };
    let same = machine("same");
    // What has the place of its build script's folder in it is compiled anew in another one, and what needs that.
    assert_eq!(build(&same, &public).0, ["app", "lib"], "{}", same.why());
    assert_eq!(same.said(), "word text made");
    assert_eq!(same.build_natively(&same.root), NOTHING);
    assert!(same.why().contains("signed by producer"), "{}", same.why());
    let changed = machine("changed");
    changed.write("app/src/main.rs", "fn main() { println!(\"{}\", lib::word()); }\n");
    assert_eq!(build(&changed, &public).0, ["app", "lib"], "{}", changed.why());
    assert_eq!(changed.said(), "word");
    let stranger = machine("stranger");
    let (compiled, said) = build(&stranger, "");
    assert_eq!(compiled, ["app", "lib", "macros"]);
    assert!(said.contains("not trusted here"), "{said}");
}
