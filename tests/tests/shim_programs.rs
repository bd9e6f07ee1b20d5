//! Real programs in a project whose packages only the shim shows: the same output and the same files as after npm.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rift_tests::fixture::Fixture;
use rift_tests::mounts::{assert_same_but_times, rift, state};
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
    /// A project with a page, and sources for the linter and the compiler.
    fn new(name: &str) -> Self {
        let page = r#"<script type="module" src="/main.jsx"></script>"#;
        let main = "import React from 'react';\nimport { createRoot } from 'react-dom/client';\n\
                    createRoot(document.body).render(<p>rift</p>);\n";
        let lint = "export default [{ rules: { 'no-unused-vars': 'error' } }];\n";
        let typed =
            "import type { ReactNode } from 'react';\nexport const shown: ReactNode = 'rift';\n";
        let files = [
            ("index.html", page),
            ("main.jsx", main),
            ("eslint.config.mjs", lint),
            ("unused.js", "const unused = 1;\n"),
            ("typed.ts", typed),
        ];
        Self::of(Fixture::Small, name, &files)
    }

    /// A fixture with files of its own.
    fn of(fixture: Fixture, name: &str, files: &[(&str, &str)]) -> Self {
        let warm = Warm::of(fixture, Scripts::Off).unwrap();
        let sandbox = Sandbox::new(name).unwrap();
        warm.fill_npm_cache(&sandbox).unwrap();
        let (native, project) = (sandbox.path("native"), sandbox.path("project"));
        let mut copy = Command::new("cp");
        assert!(copy.arg("-a").arg(warm.project()).arg(&native).status().unwrap().success());
        fixture.prepare(&project).unwrap();
        let words = ["exec", "--as", "virtual", "--", "npm", "ci", "--ignore-scripts"];
        let ran = rift(&sandbox, &project, &words);
        let tree = project.join("node_modules");
        assert_eq!(state(&sandbox, &tree), "virtual", "{ran}");
        assert_eq!(fs::read_dir(&tree).unwrap().count(), 0);
        for at in [&native, &project] {
            for (file, text) in files {
                fs::create_dir_all(at.join(file).parent().unwrap()).unwrap();
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
        let [native, project] = [&self.native, &self.project].map(|at| at.join("node_modules"));
        assert_same_but_times(&native, &project);
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

/// Tools that bundle, test, and wait for changes in packages and sources.
#[test]
fn bundlers_test_runners_and_watchers_work_under_the_shim() {
    let jest = "module.exports = { testMatch: ['**/test/*.test.js'], transform: { '\\.js$': 'babel-jest' } };\n";
    let tested = "const sum = (a, b) => a + b;\n\
                  jest.mock('tape', () => () => 7);\n\
                  test('adds', () => expect(sum(1, 2)).toBe(3));\n\
                  test('mocks', () => expect(require('tape')()).toBe(7));\n\
                  test('keeps', () => expect({ a: [1, 2] }).toMatchSnapshot());\n";
    let webpack =
        "module.exports = { mode: 'production', entry: './src/index.js', stats: 'errors-only' };\n";
    let index = "import { equal } from 'fast-uri';\nimport one from './one.js';\nconsole.log(equal('a', 'b'), one);\n";
    let typed = "import type { Added } from 'pretty-format';\nexport const shown: Added = 1;\n";
    let files = [
        ("jest.config.cjs", jest),
        ("test/sum.test.js", tested),
        ("webpack.config.cjs", webpack),
        ("src/index.js", index),
        ("src/one.js", "export default 1;\n"),
        ("typed.ts", typed),
    ];
    let twice = Twice::of(Fixture::Tools, "shim-builders", &files);
    let jest = "2>&1 | sed 's/ ([0-9]* ms)//; s/^Time:.*//'; cat test/__snapshots__/*";
    for line in [
        "npx --no-install webpack; cksum dist/*; node dist/main.js".to_owned(),
        format!("node_modules/.bin/jest --ci=false {jest}"),
        format!("node_modules/.bin/jest --ci {jest}"),
        WATCHED.to_owned(),
    ] {
        twice.assert_alike(&line);
    }
    let said = twice.said(&twice.project, "cat all");
    for wanted in ["not assignable to type '1'", "Found 0 errors"] {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
    twice.end();
}

/// Starts the compiler, and changes a file of a package, a source, and the package again, each when the compiler has
/// done what it had to.
const WATCHED: &str = "
    >log; >all
    node_modules/.bin/tsc --watch --preserveWatchOutput --noEmit --skipLibCheck --moduleResolution node \
        --types node typed.ts >>log 2>&1 & compiler=$!
    done_with() {
        rounds=0
        while ! grep -q 'Watching for' log && [ $rounds -lt 600 ]; do rounds=$((rounds + 1)); sleep 0.1; done
        echo $1; grep -o 'error.*' log; cat log >>all; >log
    }
    types=node_modules/pretty-format/build/index.d.ts
    done_with start
    echo 'export type Added = 1;' >>$types; done_with package
    echo 'export const wrong: Added = 2;' >>typed.ts; done_with source
    sed -i 's/Added = 1/Added = 1 | 2/' $types; done_with replaced
    rm $types; done_with removed
    kill $compiler; wait $compiler; echo $?
";

/// `npm test` of a package as it was published: with npm's packages, beside a projection, and inside one.
#[test]
fn the_tests_of_a_published_package_pass_under_the_shim() {
    if !rift_tests::full() {
        return;
    }
    let twice = Twice::of(Fixture::Tools, "shim-published", &[]);
    let line = "cd node_modules/fast-uri && npm test 2>&1";
    let expected = twice.said(&twice.native, line);
    assert!(
        expected.contains("# tests 2048\n# pass  2048") && expected.contains("tsd"),
        "{expected}"
    );
    // Beside: where packages are real, while another project is a projection.
    let tree = format!("native={}", twice.sandbox.path("elsewhere").display());
    let packages = twice.native.join("node_modules/ajv");
    rift(&twice.sandbox, &packages, &["ingest", ".", "--name", "native"]);
    let words = ["exec", "--as", "virtual", "--tree", &tree, "--", "sh", "-c", line];
    let beside = rift(&twice.sandbox, &twice.native, &words).stdout;
    let beside = beside.replace(&twice.native.display().to_string(), "PROJECT");
    assert_eq!(format!("Some(0)\n{}", beside.trim_end()), expected.trim_end());
    assert_eq!(twice.said(&twice.project, line), expected);
    twice.end();
}

/// npm itself, where its packages are shown: install scripts run, and leave what they leave natively.
#[test]
fn install_scripts_run_under_the_shim() {
    let warm = Warm::of(Fixture::Small, Scripts::On).unwrap();
    let sandbox = Sandbox::new("shim-scripts").unwrap();
    warm.fill_npm_cache(&sandbox).unwrap();
    let project = sandbox.path("project");
    Fixture::Small.prepare(&project).unwrap();
    let tree = project.join("node_modules");
    for round in ["learnt", "known"] {
        let ran = rift(&sandbox, &project, &["exec", "--as", "virtual", "--", "npm", "ci"]);
        assert_eq!(state(&sandbox, &tree), "virtual", "{round}: {ran}");
        let version =
            rift(&sandbox, &project, &["exec", "--", "node_modules/.bin/esbuild", "--version"]);
        assert!(version.stdout.starts_with("0."), "{round}: {version}");
        rift(&sandbox, &project, &["close", "node_modules"]);
        assert_same_but_times(&warm.node_modules(), &tree);
        fs::remove_dir_all(&tree).unwrap();
    }
}
