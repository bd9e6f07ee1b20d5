//! A project in C that is built under rift, for the tests of recorded programs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::need::{Need, have};
use crate::sandbox::{self, Ran, Sandbox};

/// The project.
const FILES: &[(&str, &str)] = &[
    (
        "Makefile",
        "CC = cc
all: app
app: main.o lib.a
\t$(CC) $(CFLAGS) -o $@ main.o lib.a
lib.a: part.o
\tar rcs $@ part.o
%.o: %.c
\t$(CC) $(CFLAGS) -Inear -Ifar -MD -c $<
clean:
\trm -f *.o *.a *.d app
-include *.d
",
    ),
    ("far/part.h", "#define PART 1\n"),
    ("near/other.h", "#define OTHER 2\n"),
    (
        "main.c",
        "#include <stdio.h>\n#include \"part.h\"\n#include \"other.h\"\nint part(void);\nint main(void) { printf(\"%d %d %d\\n\", PART, OTHER, part()); return 0; }\n",
    ),
    ("part.c", "#include \"part.h\"\nint part(void) { int unused; return 10 * PART; }\n"),
];

/// A checkout of a project in C, on a machine with a store.
#[derive(Debug)]
pub struct Story {
    /// The machine.
    pub sandbox: Sandbox,
    /// The checkout.
    pub root: PathBuf,
}

impl Story {
    /// `None` where a compiler is missing, which was said then.
    pub fn new(name: &str) -> Option<Self> {
        have(name, &[Need::Tool("cc"), Need::Tool("make"), Need::Tool("ar")]).then(|| {
            let sandbox = Sandbox::new(name).unwrap();
            let root = sandbox.path("work");
            let story = Self { sandbox, root };
            story.check_out(&story.root);
            story
        })
    }

    /// Writes the project into a folder.
    pub fn check_out(&self, root: &Path) {
        sandbox::check_out(root, FILES).unwrap();
        // Where a project begins.
        fs::create_dir_all(root.join(".git")).unwrap();
    }

    /// Writes a file of the project.
    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.root.join(name), text).unwrap();
    }

    /// Runs a command, `rift` being the one that is tested.
    pub fn run(&self, at: &Path, words: &[&str]) -> Ran {
        self.sandbox.run(&mut self.command(at, words)).unwrap()
    }

    /// Prepares a command that nobody types to, in the language of the tests.
    pub fn command(&self, at: &Path, words: &[&str]) -> Command {
        let mut command = self.sandbox.typed(at, words).unwrap();
        command.env("LC_ALL", "C").stdin(Stdio::null());
        command
    }

    /// Makes it under rift, with everything that was made gone.
    #[track_caller]
    pub fn make(&self, words: &[&str]) -> Made {
        self.make_at(&self.root, words)
    }

    /// The same in another checkout.
    #[track_caller]
    pub fn make_at(&self, at: &Path, words: &[&str]) -> Made {
        self.run(at, &["make", "clean"]).success().unwrap();
        let words = [&["rift", "exec", "--", "make"], words].concat();
        let ran = self.run(at, &words).success().unwrap();
        self.made(ran)
    }

    /// Returns what became of each action of the last run.
    pub fn made(&self, ran: Ran) -> Made {
        let why = self.run(&self.root, &["rift", "why"]).success().unwrap().stdout;
        let reasons = why.lines().filter_map(|line| line.strip_prefix("because    "));
        let mut made = Made { ran, reused: Vec::new(), kept: Vec::new(), others: BTreeMap::new() };
        for reason in reasons {
            let Some((action, how)) = reason.split_once(": ") else { continue };
            let action = action.to_owned();
            match how {
                _ if how.starts_with("its result was reused") => made.reused.push(action),
                "its result is kept" => made.kept.push(action),
                _ => drop(made.others.insert(action, how.to_owned())),
            }
        }
        made.reused.sort();
        made.kept.sort();
        made
    }

    /// Returns what the program says that was made in a checkout.
    pub fn said_at(&self, at: &Path) -> String {
        let mut command = self.sandbox.command(at, at.join("app"));
        self.sandbox.run(&mut command).unwrap().success().unwrap().stdout.trim_end().to_owned()
    }

    /// Returns what the program says that was made.
    pub fn said(&self) -> String {
        self.said_at(&self.root)
    }

    /// Returns what is made, by name.
    pub fn made_files(&self, at: &Path) -> BTreeMap<String, Vec<u8>> {
        let is_made = |path: &Path| {
            let extension = path.extension().and_then(|extension| extension.to_str());
            matches!(extension, Some("o" | "a" | "d")) || path.ends_with("app")
        };
        let listed = fs::read_dir(at).unwrap().map(|entry| entry.unwrap().path());
        let made = listed.filter(|path| is_made(path));
        made.map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, fs::read(path).unwrap())
        })
        .collect()
    }
}

/// What became of a run's actions.
#[derive(Debug)]
pub struct Made {
    /// The command.
    pub ran: Ran,
    /// Their results were used.
    pub reused: Vec<String>,
    /// They ran, and their results are kept.
    pub kept: Vec<String>,
    /// The others, and why.
    pub others: BTreeMap<String, String>,
}
