//! Programs of cargo's that are known, one by one: without snapshots of `target`, so that each compiler, linker and build script is replaced
//! by its result, or runs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rift_tests::apps::compiled;
use rift_tests::fault::SmallDisk;
use rift_tests::need::{Need, have};
use rift_tests::sandbox::{self, Ran, Sandbox, rift_binary, with_toolchain};

/// All kinds of crates: a macro that reads a file, a library for C, a program that holds places and variables.
const FILES: &[(&str, &str)] = &[
    (
        "Cargo.toml",
        "[workspace]\nresolver = \"3\"\nmembers = [\"app\", \"lib\", \"macros\", \"shared\"]\n",
    ),
    (
        "app/Cargo.toml",
        "[package]\nname = \"app\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[dependencies]\nlib = { path = \"../lib\" }\n",
    ),
    (
        "app/src/main.rs",
        "fn main() {\n    let unused = 1;\n    println!(\"{} {} {} {}\", lib::text().trim(), lib::MADE, option_env!(\"WORD\").unwrap_or(\"none\"), env!(\"CARGO_MANIFEST_DIR\"));\n}\n#[test]\nfn holds() { assert_eq!(lib::MADE, \"made\"); }\n",
    ),
    (
        "lib/Cargo.toml",
        "[package]\nname = \"lib\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[dependencies]\nmacros = { path = \"../macros\" }\n",
    ),
    (
        "lib/build.rs",
        "fn main() {\n    println!(\"cargo::rerun-if-changed=build.rs\");\n    println!(\"cargo::warning=from the script\");\n}\n",
    ),
    (
        "lib/src/lib.rs",
        "pub fn text() -> &'static str { include_str!(\"../text.txt\") }\npub const MADE: &str = macros::read!();\n",
    ),
    ("lib/text.txt", "text\n"),
    (
        "macros/Cargo.toml",
        "[package]\nname = \"macros\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[lib]\nproc-macro = true\n",
    ),
    (
        "macros/src/lib.rs",
        "extern crate proc_macro;\n#[proc_macro]\npub fn read(_: proc_macro::TokenStream) -> proc_macro::TokenStream {\n    let folder = std::env::var(\"CARGO_MANIFEST_DIR\").unwrap();\n    let text = std::fs::read_to_string(format!(\"{folder}/../macro.txt\")).unwrap();\n    format!(\"{:?}\", text.trim()).parse().unwrap()\n}\n",
    ),
    ("macro.txt", "made\n"),
    (
        "shared/Cargo.toml",
        "[package]\nname = \"shared\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[lib]\ncrate-type = [\"cdylib\", \"staticlib\", \"rlib\"]\n",
    ),
    ("shared/src/lib.rs", "#[unsafe(no_mangle)]\npub extern \"C\" fn seven() -> i32 { 7 }\n"),
];

/// A machine with the workspace.
struct Story {
    sandbox: Sandbox,
    root: PathBuf,
}

/// What a build under rift did.
#[derive(Debug)]
struct Built {
    ran: Ran,
    /// What became of its programs.
    why: String,
}

impl Built {
    fn count(&self, what: &str) -> usize {
        self.why.lines().filter(|line| line.contains(what)).count()
    }

    fn reused(&self) -> usize {
        self.count(": its result was reused")
    }

    /// Returns the programs that ran.
    fn that_ran(&self) -> Vec<&str> {
        let names = self.why.lines().filter_map(|line| {
            let (name, how) = line.strip_prefix("because    ")?.split_once(": ")?;
            let has_run = how == "its result is kept" || how.starts_with("its result is not kept");
            has_run.then_some(name)
        });
        names.collect()
    }
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

    fn check_out(&self, root: &Path) {
        sandbox::check_out(root, FILES).unwrap();
    }

    /// Gets a lockfile, and a key that signs what it shares; returns the key as `NAME:HEX`, by which others trust it.
    fn signs(&self) -> String {
        self.run(&self.root, &["cargo", "generate-lockfile"]).success().unwrap();
        let made = self.run(&self.root, &["rift", "key", "new", "producer"]).success().unwrap();
        made.stdout.trim_end().to_owned()
    }

    /// Takes the lockfile of another one, as it comes with a checkout.
    fn takes_lockfile(&self, other: &Self) {
        fs::copy(other.root.join("Cargo.lock"), self.root.join("Cargo.lock")).unwrap();
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.root.join(name), text).unwrap();
    }

    fn command(&self, at: &Path, words: &[&str]) -> Command {
        let mut command = self.sandbox.typed(at, words).unwrap();
        with_toolchain(&mut command);
        command.env("CARGO_NET_OFFLINE", "true").env("RIFT_TARGET_CACHE", "false");
        command.env_remove("CARGO_TARGET_DIR");
        command
    }

    fn run(&self, at: &Path, words: &[&str]) -> Ran {
        self.sandbox.run(&mut self.command(at, words)).unwrap()
    }

    /// Builds under rift, without `target`.
    #[track_caller]
    fn build(&self, at: &Path, words: &[&str], env: &[(&str, &str)]) -> Built {
        if at.join("target").exists() {
            fs::remove_dir_all(at.join("target")).unwrap();
        }
        let words = [&["rift", "exec", "--", "cargo"], words].concat();
        let mut command = self.command(at, &words);
        command.envs(env.iter().copied());
        let ran = self.sandbox.run(&mut command).unwrap().success().unwrap();
        let why = self.run(at, &["rift", "why"]).success().unwrap().stdout;
        Built { ran, why }
    }

    #[track_caller]
    fn said(&self, at: &Path) -> String {
        let mut command = self.sandbox.command(at, at.join("target/debug/app"));
        self.sandbox.run(&mut command).unwrap().success().unwrap().stdout.trim_end().to_owned()
    }

    /// Tells whether cargo by itself has nothing to compile.
    #[track_caller]
    fn is_fresh(&self, at: &Path, words: &[&str]) -> bool {
        let ran = self.run(at, &[&["cargo"], words].concat()).success().unwrap();
        !ran.stderr.contains("Compiling") && !ran.stderr.contains("Checking")
    }
}

#[test]
fn all_that_cargo_makes_is_there_again() {
    let Some(story) = Story::new("all_that_cargo_makes_is_there_again") else { return };
    let root = &story.root;
    for words in [
        &["build", "--workspace"][..],
        &["build", "--workspace", "--release"],
        &["test", "--no-run"],
        &["check", "-j1"],
    ] {
        let first = story.build(root, words, &[]);
        let again = story.build(root, words, &[]);
        assert_eq!(again.that_ran(), [""; 0], "{words:?}: {first:?} {again:?}");
        assert_eq!(again.reused(), first.count("its result is kept") + first.reused());
        assert!(story.is_fresh(root, words), "{words:?}");
        assert!(again.ran.stderr.contains("unused variable"), "{again:?}");
        assert!(again.ran.stderr.contains("from the script"), "{again:?}");
    }
    // What others read of it is the same, letter by letter, but for the order of what runs at once.
    let words = ["build", "--message-format=json", "--config", "term.color='always'"];
    let messages = |said: &str| {
        let mut lines: Vec<String> = said.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    fs::remove_dir_all(root.join("target")).unwrap();
    let native = story.run(root, &[&["cargo"], &words[..]].concat()).success().unwrap();
    story.build(root, &words, &[]);
    let again = story.build(root, &words, &[]);
    assert_eq!(again.that_ran(), [""; 0], "{again:?}");
    assert_eq!(messages(&again.ran.stdout), messages(&native.stdout));
    // Bit by bit what cargo makes by itself.
    let library = fs::read(root.join("target/debug/app")).unwrap();
    fs::remove_dir_all(root.join("target")).unwrap();
    story.run(root, &["cargo", "build"]).success().unwrap();
    assert!(fs::read(root.join("target/debug/app")).unwrap() == library);
}

/// Who is at work does not wait for what is soon another thing.
#[test]
fn an_edit_is_kept_where_others_need_it() {
    let Some(story) = Story::new("an_edit_is_kept_where_others_need_it") else { return };
    story.build(&story.root, &["build"], &[]);
    for (env, how) in [(None, "goes on with what it has compiled"), (Some("CI"), "is kept")] {
        let text = format!("fn main() {{ println!(\"{how}\"); }}\n");
        story.write("app/src/main.rs", &text);
        let mut command = story.command(&story.root, &["rift", "exec", "--", "cargo", "build"]);
        command.envs(env.map(|name| (name, "true")));
        story.sandbox.run(&mut command).unwrap().success().unwrap();
        let why = story.run(&story.root, &["rift", "why"]).success().unwrap().stdout;
        let of_app = |line: &&str| line.contains("rustc app: ") && line.contains(how);
        assert!(why.lines().any(|line| of_app(&line)), "{why}");
        assert_eq!(story.said(&story.root), how);
    }
}

#[test]
fn whatever_is_compiled_in_is_followed() {
    let Some(story) = Story::new("whatever_is_compiled_in_is_followed") else { return };
    let root = &story.root;
    let place = root.join("app");
    let place = place.to_str().unwrap();
    let build = |env: &[(&str, &str)]| story.build(root, &["build"], env);
    build(&[]);
    build(&[]);
    assert_eq!(story.said(root), format!("text made none {place}"));
    // A variable that is compiled in, there and not there.
    let built = build(&[("WORD", "word")]);
    assert_eq!(story.said(root), format!("text made word {place}"), "{built:?}");
    build(&[]);
    assert_eq!(story.said(root), format!("text made none {place}"));
    // A file that is included, and one that a macro reads, which cargo knows nothing of.
    story.write("lib/text.txt", "more\n");
    let built = build(&[]);
    assert_eq!(story.said(root), format!("more made none {place}"), "{built:?}");
    story.write("macro.txt", "read\n");
    let built = build(&[]);
    assert_eq!(story.said(root), format!("more read none {place}"), "{built:?}");
    assert!(built.why.contains("macro.txt` holds something else"), "{built:?}");
    // Only what depends on it runs: not the macro, not the library for C.
    assert!(built.that_ran().iter().all(|name| !name.contains("macros")), "{built:?}");
    // Flags, and the linker, which is another program under the same name.
    let linker = story.sandbox.path("linker");
    for mark in ["one", "two"] {
        fs::write(&linker, format!("#!/bin/sh\nexec cc -Wl,--defsym=mark_{mark}=1 \"$@\"\n"))
            .unwrap();
        fs::set_permissions(&linker, fs::Permissions::from_mode(0o755)).unwrap();
        let flags = format!("-Clinker={}", linker.display());
        let built = build(&[("RUSTFLAGS", &flags)]);
        let app = fs::read(root.join("target/debug/app")).unwrap();
        let mark = format!("mark_{mark}");
        assert!(app.windows(mark.len()).any(|bytes| bytes == mark.as_bytes()), "{built:?}");
    }
}

#[test]
fn another_checkout_gets_what_names_no_place() {
    let Some(story) = Story::new("another_checkout_gets_what_names_no_place") else { return };
    let other = story.sandbox.path("elsewhere/deeper");
    story.check_out(&other);
    let words = ["build", "--workspace"];
    let remap = [("RIFT_REMAP_PATHS", "true")];
    let first = story.build(&story.root, &words, &[]);
    let there = story.build(&other, &words, &[]);
    assert_eq!(story.said(&other), format!("text made none {}", other.join("app").display()));
    // Debug information names the checkout.
    assert!(there.reused() < first.count("its result is kept"), "{there:?}");
    story.build(&story.root, &words, &remap);
    let there = story.build(&other, &words, &remap);
    // But for the program, which holds its place on purpose.
    assert!(there.that_ran().iter().all(|name| name.ends_with(" app")), "{there:?}");
    assert!(there.reused() >= 5, "{there:?}");
    assert_eq!(story.said(&other), format!("text made none {}", other.join("app").display()));
    assert!(story.is_fresh(&other, &words));
    for name in ["libshared.so", "deps/libmacros"] {
        let folder = other.join("target/debug");
        let found = fs::read_dir(folder.join(name).parent().unwrap()).unwrap();
        let start = Path::new(name).file_name().unwrap().to_str().unwrap().to_owned();
        let is_it = |path: &PathBuf| {
            path.is_file() && path.file_name().unwrap().to_string_lossy().starts_with(&start)
        };
        let path = found.map(|entry| entry.unwrap().path()).find(is_it).unwrap();
        let bytes = fs::read(path).unwrap();
        for root in [&story.root, &other] {
            let root = root.to_str().unwrap();
            assert!(!bytes.windows(root.len()).any(|some| some == root.as_bytes()), "{name}");
        }
    }
}

#[test]
fn a_notice_never_comes_before_what_it_tells_of() {
    let Some(story) = Story::new("a_notice_never_comes_before_what_it_tells_of") else { return };
    // Cargo begins with dependents as soon as rustc tells it of metadata.
    story.write(
        "Makefile",
        "all:\n\trustc --crate-name shared --crate-type rlib --emit=metadata,link --error-format=json --json=artifacts --out-dir out shared/src/lib.rs 2>&1 | while read -r line; do case $$line in *rmeta*) test -s out/libshared.rmeta && echo there;; esac; done\n",
    );
    for _ in 0..3 {
        let out = story.root.join("out");
        if out.exists() {
            fs::remove_dir_all(&out).unwrap();
        }
        fs::create_dir(&out).unwrap();
        let ran = story.run(&story.root, &["rift", "exec", "--", "make", "-s"]).success().unwrap();
        assert_eq!(ran.stdout.trim(), "there", "{ran}");
    }
    let why = story.run(&story.root, &["rift", "why"]).success().unwrap().stdout;
    assert!(why.contains("rustc shared: its result was reused"), "{why}");
}

#[test]
fn who_builds_at_once_is_told_by_make() {
    let Some(story) = Story::new("who_builds_at_once_is_told_by_make") else { return };
    story.write(
        "Makefile",
        "all: one two\none:\n\t+cargo build -q --target-dir one\ntwo:\n\t+cargo build -q --target-dir two\n.PHONY: one two\n",
    );
    let clean = || {
        for name in ["one", "two"] {
            let path = story.root.join(name);
            if path.exists() {
                fs::remove_dir_all(path).unwrap();
            }
        }
    };
    let said = |target: &str| {
        let mut command =
            story.sandbox.command(&story.root, story.root.join(target).join("debug/app"));
        story.sandbox.run(&mut command).unwrap().success().unwrap().stdout
    };
    for jobs in ["-j1", "-j2", "-j16"] {
        clean();
        story.run(&story.root, &["rift", "exec", "--", "make", jobs]).success().unwrap();
        assert_eq!(said("one"), said("two"), "{jobs}");
    }
    // One more time: nothing but what is known.
    let why = story.run(&story.root, &["rift", "why"]).success().unwrap().stdout;
    assert!(why.matches("its result was reused").count() >= 6, "{why}");
    let rift = story.sandbox.rift(&story.root, &[]).unwrap();
    let rift = rift.get_program().to_string_lossy();
    // A jobserver that is a pipe with a name.
    let pipe = story.sandbox.path("jobs");
    story.run(&story.root, &["mkfifo", pipe.to_str().unwrap()]).success().unwrap();
    for round in 0..2 {
        if story.root.join("target").exists() {
            fs::remove_dir_all(story.root.join("target")).unwrap();
        }
        let words = [
            "sh",
            "-c",
            "exec 9<>\"$1\" && printf ++ >&9 && MAKEFLAGS=\" -j3 --jobserver-auth=fifo:$1\" \"$0\" exec -- cargo build",
            &rift,
            pipe.to_str().unwrap(),
        ];
        let ran = story.run(&story.root, &words).success().unwrap();
        let why = story.run(&story.root, &["rift", "why"]).success().unwrap().stdout;
        assert!(!why.contains("not kept"), "{why}\n{ran}");
        assert!(round == 0 || why.contains("was reused"), "{why}");
    }
}

#[test]
fn build_scripts_that_ask_others_run_each_time() {
    let Some(story) = Story::new("build_scripts_that_ask_others_run_each_time") else { return };
    let build = |script: &str| {
        story.write(
            "lib/build.rs",
            &format!("fn main() {{ println!(\"cargo::rerun-if-changed=build.rs\"); {script} }}\n"),
        );
        story.build(&story.root, &["build"], &[]);
        let built = story.build(&story.root, &["build"], &[]);
        let of_script =
            |line: &&str| line.contains("build-script-build ") && !line.contains("it ran");
        built.why.lines().filter(of_script).map(str::to_owned).collect::<String>()
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let said = build(&format!("let _ = std::net::TcpStream::connect(\"{address}\").unwrap();"));
    assert!(said.contains("not kept"), "{said}");
    let said = build("let _ = std::os::unix::net::UnixStream::pair().unwrap();");
    assert!(said.contains("was reused"), "{said}");
    // What is drawn by lot may be kept; keys of tables are no such thing.
    let program = compiled("random_number").unwrap();
    let random =
        format!("assert!(std::process::Command::new({program:?}).status().unwrap().success());");
    for script in [&*random, "assert!(std::fs::File::open(\"/dev/urandom\").is_ok());"] {
        let said = build(script);
        assert!(said.contains("asks for random numbers"), "{said}");
    }
    let said = build("let _ = std::collections::HashMap::from([(1, 2)]);");
    assert!(said.contains("was reused"), "{said}");
    let said = build("std::process::Command::new(\"sleep\").arg(\"1\").spawn().unwrap();");
    assert!(said.contains("not kept"), "{said}");
    // What it reads of version control is a file as any other.
    fs::create_dir_all(story.root.join(".git")).unwrap();
    story.write(".git/HEAD", "one\n");
    let script = "let head = std::fs::read_to_string(\"../.git/HEAD\").unwrap(); println!(\"cargo::rustc-env=WORD={}\", head.trim());";
    let said = build(script);
    assert!(said.contains("was reused"), "{said}");
    story.write(
        "lib/src/lib.rs",
        "pub fn text() -> &'static str { env!(\"WORD\") }\npub const MADE: &str = \"made\";\n",
    );
    build(script);
    assert!(story.said(&story.root).starts_with("one made"));
    story.write(".git/HEAD", "two\n");
    let said = build(script);
    assert!(story.said(&story.root).starts_with("two made"), "{said}");
}

/// With `--verify` all is compiled, whatever is known, and does what is known of it; a setting that all bytes be checked changes no build.
#[test]
fn a_build_that_is_known_is_compared() {
    let Some(story) = Story::new("a_build_that_is_known_is_compared") else { return };
    let build = |how: &[&str]| {
        let target = story.root.join("target");
        if target.exists() {
            fs::remove_dir_all(target).unwrap();
        }
        let words = [&["rift", "exec"], how, &["--", "cargo", "build"]].concat();
        let mut command = story.command(&story.root, &words);
        command.env("RIFT_TARGET_CACHE", "true").env("RIFT_VERIFY", "always");
        let ran = story.sandbox.run(&mut command).unwrap().success().unwrap();
        let why = story.run(&story.root, &["rift", "why"]).success().unwrap().stdout;
        Built { ran, why }
    };
    let first = build(&[]);
    assert!(first.count("its result is kept") >= 5, "{first:?}");
    let known = build(&[]);
    assert!(known.why.contains("is there again") && known.that_ran().is_empty(), "{known:?}");
    let compared = build(&["--verify"]);
    let same = compared.count("did what is known of it");
    // Rustc draws names of objects by lot where it goes on with what it has compiled before, so that the program finds another library.
    assert_eq!(compared.that_ran(), ["rustc app"], "{compared:?}");
    assert_eq!(same + 1, first.count("its result is kept"), "{compared:?}");
    assert_eq!(compared.count("something else"), 0, "{compared:?}");
}

/// What a first machine has compiled a second one is told, if it trusts the first.
#[test]
fn machines_share_programs() {
    let name = "machines_share_programs";
    let Some(producer) = Story::new(name) else { return };
    let public = producer.signs();
    let folder = producer.sandbox.path("carried");
    let remote = format!("file://{}", folder.display());
    let build = |story: &Story, trusted: &str| {
        let mut env = vec![("RIFT_REMOTE", remote.as_str())];
        env.extend((!trusted.is_empty()).then_some(("RIFT_TRUSTED_KEYS", trusted)));
        story.build(&story.root, &["build"], &env)
    };
    let first = build(&producer, "");
    assert!(first.why.contains("programs shared at"), "{first:?}");
    // Nothing is new.
    let again = build(&producer, "");
    assert!(again.that_ran().is_empty() && !again.why.contains("programs shared"), "{again:?}");
    // Nobody else has that store.
    fs::rename(producer.sandbox.store(), producer.sandbox.path("elsewhere")).unwrap();
    let machine = |number: &str| {
        let story = Story::new(&format!("{name}-{number}")).unwrap();
        story.takes_lockfile(&producer);
        story
    };
    let friend = machine("friend");
    let built = build(&friend, &public);
    assert!(built.reused() >= 2, "{built:?}");
    assert!(built.why.contains("signed by producer"), "{built:?}");
    assert!(built.why.contains("meanwhile"), "what was made comes beside the build: {built:?}");
    let place = friend.root.join("app");
    assert_eq!(friend.said(&friend.root), format!("text made none {}", place.display()));
    let stranger = machine("stranger");
    let built = build(&stranger, "");
    assert!(built.reused() == 0 && built.ran.stderr.contains("not trusted here"), "{built:?}");
    // Bytes of it are others, or gone: nothing that holds them is used, and what held them is compiled.
    let packs = files_below(&folder.join("data"));
    assert!(!packs.is_empty());
    let damages: [(&str, Damage); 3] = [
        ("poisoned", |bytes| {
            let mut bytes = bytes.to_owned();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            bytes
        }),
        ("cut", |bytes| bytes[..bytes.len() / 2].to_owned()),
        ("emptied", |_| Vec::new()),
    ];
    for (damage, damaged) in damages {
        for (path, bytes) in &packs {
            fs::write(path, damaged(bytes)).unwrap();
        }
        let victim = machine(damage);
        let built = build(&victim, &public);
        assert!(
            built.why.contains("not all that others have made has come"),
            "{damage}: {built:?}"
        );
        let is_known_in_vain = built.why.contains("a remote has it, and it has not come");
        assert!(
            built.reused() == 0 && is_known_in_vain || damage != "emptied",
            "{damage}: {built:?}"
        );
        let place = victim.root.join("app");
        assert_eq!(victim.said(&victim.root), format!("text made none {}", place.display()));
        assert!(victim.is_fresh(&victim.root, &["build"]), "{damage}");
    }
}

/// A build script that leaves what must not leave the machine is run by each machine itself; nor is a whole build shared that holds it.
#[test]
fn what_holds_secrets_stays() {
    let name = "what_holds_secrets_stays";
    let Some(producer) = Story::new(name) else { return };
    let leaving = "fn main() {\n    let out = std::path::PathBuf::from(std::env::var(\"OUT_DIR\").unwrap());\n    std::fs::write(out.join(\".env\"), \"TOKEN=c0ffee\").unwrap();\n}\n";
    producer.write("lib/build.rs", leaving);
    let public = producer.signs();
    let remote = format!("file://{}", producer.sandbox.path("carried").display());
    let env = [("RIFT_REMOTE", remote.as_str()), ("RIFT_TARGET_CACHE", "true")];
    let first = producer.build(&producer.root, &["build"], &env);
    for says in [
        "a program's result is not shared: `.env` holds environment variables",
        "programs shared at",
        "because    the result is not shared: `",
    ] {
        assert!(first.why.contains(says), "{says}: {first:?}");
    }
    let friend = Story::new(&format!("{name}-friend")).unwrap();
    friend.write("lib/build.rs", leaving);
    friend.takes_lockfile(&producer);
    let env = [("RIFT_REMOTE", remote.as_str()), ("RIFT_TRUSTED_KEYS", public.as_str())];
    let built = friend.build(&friend.root, &["build"], &env);
    assert!(built.reused() >= 2, "{built:?}");
    let script = built.that_ran().iter().any(|ran| ran.starts_with("build-script-build"));
    assert!(script, "{built:?}");
}

/// What becomes of a file's bytes.
type Damage = fn(&[u8]) -> Vec<u8>;

/// Returns all files below a folder, with what they hold.
fn files_below(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let bytes = fs::read(&path).unwrap();
                found.push((path, bytes));
            }
        }
    }
    found
}

/// Sources that can't be written to, results on another file system, with snapshots of `target` and without.
#[test]
fn sources_may_be_read_only_and_results_elsewhere() {
    let name = "sources_may_be_read_only_and_results_elsewhere";
    if !have(name, &[Need::Root, Need::Tool("unshare")]) {
        return;
    }
    let Some(story) = Story::new(name) else { return };
    story.run(&story.root, &["cargo", "generate-lockfile"]).success().unwrap();
    let place = story.sandbox.path("elsewhere");
    let _disk = SmallDisk::mount(&place, 512 << 20, 20_000).unwrap();
    let (target, root) = (place.join("target"), story.root.display().to_string());
    let read_only =
        "mount --bind \"$0\" \"$0\" && mount -o remount,ro,bind \"$0\" && cd \"$0\" && exec \"$@\"";
    let private = ["unshare", "--mount", "--propagation", "private", "sh", "-c", read_only, &root];
    let build = |has_snapshots: &str, words: &[&str]| {
        let words = [&private[..], words, &["cargo", "build", "--locked"]].concat();
        let mut command = story.command(&story.root, &words);
        command.env("CARGO_TARGET_DIR", &target).env("RIFT_TARGET_CACHE", has_snapshots);
        story.sandbox.run(&mut command).unwrap().success().unwrap()
    };
    let rift = rift_binary().unwrap().display().to_string();
    let rift = [rift.as_str(), "exec", "--"];
    for has_snapshots in ["false", "true"] {
        for turn in 0..3 {
            if target.exists() {
                fs::remove_dir_all(&target).unwrap();
            }
            let ran = build(has_snapshots, &rift);
            let why = story.run(&story.root, &["rift", "why"]).success().unwrap().stdout;
            let built = Built { ran, why };
            let is_known = match has_snapshots {
                "true" => !built.ran.stderr.contains("Compiling"),
                _ => built.that_ran().is_empty() && built.reused() > 0,
            };
            assert!(is_known || turn == 0, "{has_snapshots} {turn}: {built:?}");
            let mut app = story.sandbox.command(&story.root, target.join("debug/app"));
            let said = story.sandbox.run(&mut app).unwrap().success().unwrap().stdout;
            assert_eq!(said, format!("text made none {root}/app\n"));
            let natively = build(has_snapshots, &[]);
            assert!(!natively.stderr.contains("Compiling"), "{natively}");
        }
    }
    assert!(!story.root.join("target").exists());
}

/// What no rule knows is used once two runs have agreed, and each run of a build tells what was another.
#[test]
fn other_programs_are_used_when_two_runs_agree() {
    let Some(story) = Story::new("other_programs_are_used_when_two_runs_agree") else { return };
    let bin = story.sandbox.path("bin");
    fs::create_dir_all(&bin).unwrap();
    let generator = bin.join("generate");
    fs::write(&generator, "#!/bin/sh\nsed s/a/b/ <in >out\n").unwrap();
    fs::set_permissions(&generator, fs::Permissions::from_mode(0o755)).unwrap();
    story.write("Makefile", &format!("out: in\n\t{}\n", generator.display()));
    story.write("in", "a\n");
    let make = |words: &[&str]| {
        let _none_yet = fs::remove_file(story.root.join("out")).is_ok();
        let words = [&["rift", "exec"], words, &["--", "make"]].concat();
        let mut command = story.command(&story.root, &words);
        command.env("RIFT_PROGRAMS", "generate");
        let ran = story.sandbox.run(&mut command).unwrap().success().unwrap();
        let why = story.run(&story.root, &["rift", "why"]).success().unwrap().stdout;
        (
            why.lines().next().unwrap().split_whitespace().nth(1).unwrap().to_owned(),
            Built { ran, why },
        )
    };
    let (first, _) = make(&[]);
    let (_, built) = make(&[]);
    assert!(built.why.contains("no two runs have agreed"), "{built:?}");
    let (_, built) = make(&["--verify"]);
    assert!(built.why.contains("did what is known of it"), "{built:?}");
    let (_, built) = make(&[]);
    assert_eq!(built.reused(), 1, "{built:?}");
    assert_eq!(fs::read_to_string(story.root.join("out")).unwrap(), "b\n");
    story.write("in", "aa\n");
    let (second, built) = make(&[]);
    assert_eq!(fs::read_to_string(story.root.join("out")).unwrap(), "ba\n", "{built:?}");
    let differs = story.run(&story.root, &["rift", "why", &first, &second]).success().unwrap();
    assert!(differs.stdout.contains("in` holds something else"), "{differs}");
    let stats = story.run(&story.root, &["rift", "stats"]).success().unwrap().stdout;
    assert!(stats.contains("generate") && stats.contains("ran because"), "{stats}");
    let stats = story.run(&story.root, &["rift", "stats", "--json"]).success().unwrap().stdout;
    let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
    assert_eq!(stats["processes"][0]["program"], "generate");
}
