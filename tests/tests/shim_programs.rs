//! Real programs in a project whose packages only the shim shows: the same output and the same files as after npm.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rift_tests::differ::{Options, compare};
use rift_tests::fixture::Fixture;
use rift_tests::mounts::{rift, state};
use rift_tests::need::{Need, have};
use rift_tests::sandbox::Sandbox;
use rift_tests::warm::{Scripts, Warm};

/// The small project twice: after npm, and with packages that only the shim shows.
struct Twice {
    sandbox: Sandbox,
    native: PathBuf,
    project: PathBuf,
}

impl Twice {
    fn new(name: &str) -> Self {
        let warm = Warm::of(Fixture::Small, Scripts::Off).unwrap();
        let sandbox = Sandbox::new(name).unwrap();
        warm.fill_npm_cache(&sandbox).unwrap();
        let (native, project) = (sandbox.path("native"), sandbox.path("project"));
        let mut copy = Command::new("cp");
        assert!(copy.arg("-a").arg(warm.project()).arg(&native).status().unwrap().success());
        Fixture::Small.prepare(&project).unwrap();
        let words = ["exec", "--as", "virtual", "--", "npm", "ci", "--ignore-scripts"];
        let ran = rift(&sandbox, &project, &words);
        let tree = project.join("node_modules");
        assert_eq!(state(&sandbox, &tree), "virtual", "{ran}");
        assert_eq!(fs::read_dir(&tree).unwrap().count(), 0);
        let page = r#"<script type="module" src="/main.jsx"></script>"#;
        let main = "import React from 'react';\nimport { createRoot } from 'react-dom/client';\n\
                    createRoot(document.body).render(<p>rift</p>);\n";
        let lint = "export default [{ rules: { 'no-unused-vars': 'error' } }];\n";
        let typed =
            "import type { ReactNode } from 'react';\nexport const shown: ReactNode = 'rift';\n";
        for at in [&native, &project] {
            for (file, text) in [
                ("index.html", page),
                ("main.jsx", main),
                ("eslint.config.mjs", lint),
                ("unused.js", "const unused = 1;\n"),
                ("typed.ts", typed),
            ] {
                fs::write(at.join(file), text).unwrap();
            }
        }
        Self { sandbox, native, project }
    }

    /// Runs a line of a shell at one place; what it says of the place is taken out.
    fn said(&self, at: &Path, line: &str) -> String {
        let mut command = match at == self.project {
            true => self.sandbox.rift(at, &["exec", "--", "sh", "-c", line]).unwrap(),
            false => {
                let mut shell = self.sandbox.command(at, "sh");
                shell.args(["-c", line]);
                shell
            }
        };
        let ran = self.sandbox.run(&mut command).unwrap();
        let text = format!("{:?}\n{}", ran.status.code(), ran.stdout);
        let text = text.replace(&at.display().to_string(), "PROJECT");
        // How long something took.
        text.lines().filter(|line| !line.contains("built in")).collect::<Vec<_>>().join("\n")
    }

    #[track_caller]
    fn assert_alike(&self, line: &str) {
        let (expected, found) = (self.said(&self.native, line), self.said(&self.project, line));
        assert_eq!(found, expected, "{line}");
    }

    /// Ends the projection, which is then what the programs have left natively.
    fn end(self) {
        rift(&self.sandbox, &self.project, &["close", "node_modules"]);
        let options = Options { mtimes: false, ..Options::default() };
        let [native, project] = [&self.native, &self.project].map(|at| at.join("node_modules"));
        let differences = compare(&native, &project, options).unwrap();
        let lines: Vec<String> = differences.iter().take(20).map(ToString::to_string).collect();
        assert!(lines.is_empty(), "{}", lines.join("\n"));
    }
}

/// The tools of a project: what they say, and what they make.
#[test]
fn the_tools_of_a_project_work_under_the_shim() {
    let twice = Twice::new("shim-tools");
    for line in [
        "npm ls",
        "npx --no-install tsc -v",
        "node_modules/.bin/tsc -v",
        "npx --no-install tsc --noEmit --skipLibCheck --strict typed.ts",
        "npx --no-install eslint unused.js",
        "npx --no-install vite build >log; echo $?; cat dist/assets/* | cksum",
        "node_modules/.bin/esbuild --version",
        "node -e \"console.log(Object.keys(require('react')).join())\"",
        "node -p \"require('fs').realpathSync('node_modules/.bin/tsc')\"",
        "node -e \"const fs = require('fs'); fs.cpSync('node_modules/react', 'r', { recursive: true }); \
         console.log(fs.readdirSync('r').join()); fs.rmSync('r', { recursive: true })\"",
        "env -i /bin/ls node_modules | cksum",
        "env -u LD_PRELOAD sh -c 'cat node_modules/react/package.json' | cksum",
        "npm rebuild --ignore-scripts; npm install --ignore-scripts | grep -c 'up to date'",
    ] {
        twice.assert_alike(line);
    }
    twice.end();
}

/// What everybody has: it reads, copies, moves, changes and removes.
#[test]
fn the_usual_programs_work_under_the_shim() {
    let name = "the_usual_programs_work_under_the_shim";
    if !have(name, &["git", "rsync", "perl", "python3", "cc", "make"].map(Need::Tool)) {
        return;
    }
    let twice = Twice::new("shim-usual");
    for line in [
        "find node_modules | LC_ALL=C sort | cksum",
        "find node_modules -type l -printf '%p %l\\n' | LC_ALL=C sort | cksum",
        "find node_modules -type f -size +100k -printf '%p %s %m\\n' | LC_ALL=C sort",
        "ls -R node_modules/typescript | cksum",
        "du -a --apparent-size node_modules/react/cjs | LC_ALL=C sort | grep js | cksum",
        "tar c --sort=name --mtime=@0 --owner=0 --group=0 node_modules/react | cksum",
        "grep -rl createElement node_modules/react | LC_ALL=C sort | cksum",
        "cp -a node_modules/react copy && diff -r copy node_modules/react && rm -r copy",
        "cp -r node_modules/typescript /dev/shm/$$ && find /dev/shm/$$ -type f | wc -l && rm -r /dev/shm/$$",
        "rsync -a node_modules/react/ there && diff -r there node_modules/react && rm -r there",
        "mv node_modules/react /dev/shm/$$ && ls node_modules | cksum && mv /dev/shm/$$ node_modules/react",
        "python3 -c \"import os; print(sum(len(f) for _, _, f in os.walk('node_modules')))\"",
        "perl -MFile::Find -e 'my $n = 0; find(sub { $n++ }, \"node_modules\"); print \"$n\\n\"'",
        "git init -q . && git add node_modules/react && git status --short | cksum && git rm -q -r --cached node_modules",
        "echo '#include \"node_modules/x.h\"' >x.c; echo 'int main(void) { return VALUE; }' >>x.c; \
         echo '#define VALUE 3' >node_modules/x.h; cc x.c -o node_modules/x && node_modules/x; echo $?",
        "printf 'all: node_modules/react/made\\nnode_modules/react/made: node_modules/react/package.json\\n\\tcp $< $@\\n' \
         >Makefile && make && make && cksum node_modules/react/made",
        "sed -i s/react/tear/ node_modules/react/package.json && cat node_modules/react/package.json",
        "chmod 600 node_modules/react/index.js && stat -c %a node_modules/react/index.js",
        "touch -d @77 node_modules/react/LICENSE && stat -c %Y node_modules/react/LICENSE",
        "ln node_modules/react/index.js node_modules/linked && stat -c %h node_modules/react/index.js",
        "mv node_modules/react node_modules/moved && ls node_modules/moved && cat node_modules/moved/index.js",
        "find node_modules -name '*.md' -delete; find node_modules -name '*.md' | wc -l",
        "rm -rf node_modules/typescript && ls node_modules | cksum",
        "ls node_modules | cksum",
        "find node_modules | LC_ALL=C sort | cksum",
    ] {
        twice.assert_alike(line);
    }
    twice.end();
}
