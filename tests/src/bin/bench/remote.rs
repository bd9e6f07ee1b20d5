//! The remote suite: a machine with nothing, beside the same with npm and with an archive, all through one slow network.
//!
//! The network is a server of the tests' own in this process: 20 ms until an answer begins, 90 MB/s for each connection. It has the
//! remote, the registry's packages and the archive. Every case begins without `node_modules`, store and caches, and ends
//! with the same `tsc`, or `eslint`, which reads less and is done sooner. What counts is time; requests and bytes are counted by the server.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rift_tests::fixture::{Fixture, registry};
use rift_tests::need::Need;
use rift_tests::sandbox::clear;
use rift_tests::server::{Pace, Server};

use crate::measure::Sample;
use crate::suite::{Case, Check, NPM_CI_ONLINE, Suite};
use crate::table::Target::{AtLeast, AtMost, Reported};
use crate::table::{Figure, Measure, Of, Report, median};

/// What the table's head names the versions of.
pub(crate) const PROGRAMS: [&str; 4] = ["curl", "zstd", "node", "npm"];

/// The network of a machine that begins with nothing.
pub(crate) const PACE: Pace =
    Pace { wait: Duration::from_millis(20), bytes_per_second: 90_000_000 };
/// How many connections curl has, as many as `actions/cache` has by default.
const CONNECTIONS: u64 = 8;

/// As many as rift moves at once.
const AT_ONCE: usize = 4;

const CI_BY_RIFT: &[&str] = &["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"];
const TSC: &[&str] = &["npx", "tsc", "--noEmit"];
/// Of the medium project only: the small one has a newer eslint, and no settings for it.
const ESLINT: &[&str] = &["npx", "eslint", "--ext", ".jsx,.ts", "app"];
const ESLINT_CONFIG: &str = r#"{"root": true, "extends": "next/core-web-vitals"}"#;

const INSTALL: &str = "a machine with nothing: install";
const CHECK: &str = "a machine with nothing: install and tsc";
const LINT: &str = "a machine with nothing: install and eslint";
const MOVE: &str = "a whole tree";

const RIFT: &str = "rift exec --as virtual";
const FIRST: &str = "rift exec --as virtual, nobody ran tsc before";
const NPM: &str = "npm ci";
const ARCHIVE: &str = "zstd archive of node_modules";
const FILES: &str = "ordinary files that are there";
const PULL: &str = "rift pull";
const CURL: &str = "curl, the same objects";
const PUSH: &str = "rift push";
const SEND: &str = "curl, sending the same objects";

const REQUESTS: &str = "requests until the tree is there";
const FETCHED: &str = "bytes fetched by tsc over bytes of the files it opened";
const FETCHED_FIRST: &str = "the same, nobody ran tsc before";
const TSC_REQUESTS: &str = "requests while tsc runs";
const FETCHED_LINT: &str = "bytes fetched by eslint over bytes of the files it opened";
const CHANGED_BYTES: &str = "push of one changed package: bytes beyond the new ones, MB";
const CHANGED_REQUESTS: &str = "push of one changed package: requests";

/// What remotes are held to.
pub(crate) fn measures(of: &Of<'_>) -> Vec<Measure> {
    let over = |case, other| of.ratio((CHECK, case), (CHECK, other));
    let lint_over = |case, other| of.ratio((LINT, case), (LINT, other));
    let wall = of.median((INSTALL, RIFT), |sample| Some(sample.wall_s));
    let is_medium = of.fixture == Fixture::Medium.name();
    let held = |target| if is_medium { target } else { Reported };
    vec![
        ("usable after, s", wall, held(AtMost(0.5))),
        (REQUESTS, of.figure(REQUESTS), AtMost(10.0)),
        (FETCHED, of.figure(FETCHED), AtMost(1.2)),
        (FETCHED_FIRST, of.figure(FETCHED_FIRST), Reported),
        (TSC_REQUESTS, of.figure(TSC_REQUESTS), Reported),
        (FETCHED_LINT, of.figure(FETCHED_LINT), AtMost(1.2)),
        ("install and eslint over npm ci and eslint", lint_over(RIFT, NPM), held(AtMost(0.2))),
        ("install and eslint over archive and eslint", lint_over(RIFT, ARCHIVE), held(AtMost(0.5))),
        ("the same, nobody ran eslint before", lint_over(FIRST, ARCHIVE), Reported),
        ("install and tsc over npm ci and tsc", over(RIFT, NPM), Reported),
        ("install and tsc over archive and tsc", over(RIFT, ARCHIVE), Reported),
        ("install and tsc over tsc alone, of files that are there", over(RIFT, FILES), Reported),
        (
            "install and tsc over archive and tsc, nobody ran tsc before",
            over(FIRST, ARCHIVE),
            Reported,
        ),
        (CHANGED_BYTES, of.figure(CHANGED_BYTES), AtMost(1.0)),
        (CHANGED_REQUESTS, of.figure(CHANGED_REQUESTS), AtMost(10.0)),
        ("speed of a pull over curl's", of.ratio((MOVE, CURL), (MOVE, PULL)), AtLeast(0.8)),
        ("speed of a push over curl's", of.ratio((MOVE, SEND), (MOVE, PUSH)), AtLeast(0.8)),
    ]
}

/// What tsc is given where the project has no settings for it: its own program, and one that uses more of its packages.
const CONFIG: &str = r#"{
  "compilerOptions": {"strict": true, "allowJs": true, "jsx": "react-jsx", "module": "esnext", "moduleResolution": "bundler",
    "target": "es2022", "lib": ["es2022", "dom"]},
  "include": ["app"]
}
"#;
const MORE: &str = "import axios from 'axios';
import Link from 'next/link';
import { z } from 'zod';

const shape = z.object({ name: z.string() });

export const link = Link;

export async function load(url: string) {
  return shape.parse((await axios.get(url)).data);
}
";

/// Lets a command of rift's reach the remote of a server.
pub(crate) fn reached(server: &Server, command: &mut Command) -> Command {
    command
        .env("RIFT_REMOTE", "s3://bucket/team")
        .env("AWS_ENDPOINT_URL", server.endpoint())
        .env("AWS_REGION", "us-east-1")
        .env("AWS_ACCESS_KEY_ID", "bench")
        .env("AWS_SECRET_ACCESS_KEY", "bench");
    std::mem::replace(command, Command::new("true"))
}

/// The network of a fixture, and what is known of it.
struct Network<'a, 'b> {
    suite: &'a Suite<'b>,
    server: Server,
    requests: RefCell<Vec<f64>>,
    tsc_requests: RefCell<Vec<f64>>,
    fetched: RefCell<Vec<f64>>,
    fetched_first: RefCell<Vec<f64>>,
    fetched_lint: RefCell<Vec<f64>>,
    /// What a machine told that ran tsc before.
    lists: RefCell<Vec<(String, Vec<u8>)>>,
}

impl Suite<'_> {
    pub(crate) fn remote(
        &self,
        report: &mut Report,
        save: &dyn Fn(&Report) -> Result<()>,
    ) -> Result<()> {
        if let Some(why) =
            ["curl", "zstd", "tar"].map(Need::Tool).into_iter().find_map(Need::missing)
        {
            self.leave_out(report, "remotes", &why);
            return Ok(());
        }
        let network = Network {
            suite: self,
            server: Server::start()?,
            requests: RefCell::default(),
            tsc_requests: RefCell::default(),
            fetched: RefCell::default(),
            fetched_first: RefCell::default(),
            fetched_lint: RefCell::default(),
            lists: RefCell::default(),
        };
        network.prepare()?;
        let cases = network.cases()?;
        report.rows.extend(self.interleave(&cases, self.wanted.runs));
        drop(cases);
        let fixture = self.fixture.name();
        let mut figure = |name: &str, values: Vec<f64>, unit| {
            let figure = |value| Figure { fixture, name: name.to_owned(), value, unit };
            report.figures.extend(median(values).map(figure));
        };
        figure(REQUESTS, network.requests.take(), "");
        figure(TSC_REQUESTS, network.tsc_requests.take(), "");
        figure(FETCHED, network.fetched.take(), "");
        figure(FETCHED_FIRST, network.fetched_first.take(), "");
        figure(FETCHED_LINT, network.fetched_lint.take(), "");
        if self.wants("figures", CHANGED_BYTES) && self.wanted.figures {
            let (bytes, requests) = network.push_changed()?;
            figure(CHANGED_BYTES, vec![bytes / 1e6], "MB");
            figure(CHANGED_REQUESTS, vec![requests], "");
        }
        save(report)?;
        clear(&self.folder(""))
    }
}

impl Network<'_, '_> {
    fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.server.endpoint())
    }

    /// A project whose packages come from this network.
    fn project(&self, name: &str) -> Result<PathBuf> {
        let project = self.suite.project(name)?;
        let lock = project.join("package-lock.json");
        let text = fs::read_to_string(&lock)?;
        fs::write(&lock, text.replace(&registry()?, &self.url("packages/")))?;
        let mut copy = self.suite.sandbox.command(&project, "cp");
        copy.arg("-r").arg(self.suite.fixture.source().join("app/.")).arg(&project);
        self.suite.quietly(copy)?;
        if !project.join("tsconfig.json").exists() {
            fs::write(project.join("tsconfig.json"), CONFIG)?;
            fs::write(project.join("app/load.ts"), MORE)?;
            fs::write(project.join(".eslintrc.json"), ESLINT_CONFIG)?;
        }
        Ok(project)
    }

    /// Puts everything on the network: packages, the remote with what others have learnt, the archive.
    fn prepare(&self) -> Result<()> {
        let suite = self.suite;
        let reference = suite.reference()?;
        self.put_packages(&self.project("npm")?)?;
        let producer = self.project("producer")?;
        let mut key = suite.rift_in(&producer, "store-producer", &["key", "new", "bench"])?;
        suite.quietly(self.reached(&mut key))?;
        let mut make = suite.rift(&producer, "store-producer", &[], CI_BY_RIFT)?;
        let made = suite.sandbox.run(&mut self.reached(&mut make))?.success()?;
        let is_shared = self.server.objects().iter().any(|path| path.contains("/plans/"));
        ensure!(is_shared, "nothing was shared: {made}");
        // Somebody who may tell others has run the tools, each from the beginning.
        for (group, tool) in self.tools() {
            let teller = self.project("teller")?;
            let mut install =
                suite.rift(&teller, "store-teller", &["--as", "virtual"], CI_BY_RIFT)?;
            let installed = suite.sandbox.run(&mut self.reached(&mut install))?.success()?;
            let mut check = suite.rift(&teller, "store-teller", &[], tool)?;
            let checked = suite.sandbox.run(&mut self.reached(&mut check))?.success()?;
            let mut told = self.server.take("/access/");
            ensure!(!told.is_empty(), "nothing was told, {group}: {installed}\n{checked}");
            self.lists.borrow_mut().append(&mut told);
            [teller, suite.folder("store-teller")].iter().try_for_each(|path| clear(path))?;
        }
        let archive = suite.folder("archive.tzst");
        let mut pack = suite.sandbox.command(&reference, "tar");
        pack.args(["--use-compress-program", "zstd -3 -T0", "-cf"]).arg(&archive);
        suite.quietly(std::mem::replace(pack.arg("node_modules"), Command::new("true")))?;
        self.server.put("/archives/node_modules.tzst", fs::read(&archive)?);
        fs::remove_file(archive)?;
        self.server.pace(PACE);
        Ok(())
    }

    /// Puts the packages of a lockfile where it says that they are, out of npm's cache.
    fn put_packages(&self, project: &Path) -> Result<()> {
        let lock: serde_json::Value =
            serde_json::from_slice(&fs::read(project.join("package-lock.json"))?)?;
        let packages = lock["packages"].as_object().context("the lockfile has no packages")?;
        let cache = self.suite.sandbox.home().join(".npm/_cacache/content-v2");
        for package in packages.values() {
            let (Some(resolved), Some(integrity)) =
                (package["resolved"].as_str(), package["integrity"].as_str())
            else {
                continue;
            };
            let (kind, digest) = integrity.split_once('-').context("an integrity has a kind")?;
            let hex = hex_of(digest).context("an integrity is base64")?;
            let file = cache.join(kind).join(&hex[..2]).join(&hex[2..4]).join(&hex[4..]);
            let path = resolved.strip_prefix(&self.server.endpoint());
            // Those for other machines were never asked for.
            if let (Some(path), Ok(bytes)) = (path, fs::read(file)) {
                self.server.put(path, bytes);
            }
        }
        Ok(())
    }

    fn reached(&self, command: &mut Command) -> Command {
        reached(&self.server, command)
    }

    /// Returns the tools that run after an install, with what their group is called.
    fn tools(&self) -> Vec<(&'static str, &'static [&'static str])> {
        let mut tools = vec![(CHECK, TSC)];
        if self.suite.fixture == Fixture::Medium {
            tools.push((LINT, ESLINT));
        }
        tools
    }

    fn cases(&self) -> Result<Vec<Case<'_>>> {
        let mut cases = Vec::new();
        let install = [RIFT].map(|name| (INSTALL, name));
        let checks = self
            .tools()
            .into_iter()
            .flat_map(|(group, _)| [RIFT, FIRST, NPM, ARCHIVE, FILES].map(|name| (group, name)));
        let moved = [PULL, CURL, PUSH, SEND].map(|name| (MOVE, name));
        for (group, name) in install.into_iter().chain(checks).chain(moved) {
            if self.suite.wants(group, name) {
                cases.push(self.case(group, name)?);
            }
        }
        Ok(cases)
    }

    /// One that begins with nothing.
    fn case(&self, group: &'static str, name: &'static str) -> Result<Case<'_>> {
        let project = self.project(&format!("{group} {name}").replace([',', ' ', ':'], "-"))?;
        let place = project.clone();
        let run = move |_: usize| self.run(group, name, &place);
        let gone =
            [project.join("node_modules"), self.suite.folder("store"), self.suite.folder("cache")];
        let mut gone = gone.to_vec();
        if name == FILES {
            let mut copy = self.suite.sandbox.command(&project, "cp");
            let from = self.suite.folder("reference/node_modules");
            copy.arg("-a").arg(from).arg(project.join("node_modules"));
            self.suite.quietly(copy)?;
            gone.remove(0);
        }
        let (before, after) = (gone.clone(), gone);
        Ok(Case {
            group,
            name,
            project,
            before: Box::new(move |_| {
                drop(self.server.take("/access/"));
                drop(self.server.take("/elsewhere/"));
                if name == RIFT {
                    let lists = self.lists.borrow();
                    lists.iter().for_each(|(path, list)| self.server.put(path, list.clone()));
                }
                before.iter().try_for_each(|path| clear(path))
            }),
            run: Box::new(run),
            check: Check::Own(Box::new(|| Ok(()))),
            count: Box::new(|| Ok(0)),
            after: Box::new(move || after.iter().try_for_each(|path| clear(path))),
        })
    }

    fn run(&self, group: &str, name: &str, at: &Path) -> Result<Sample> {
        let suite = self.suite;
        let rift = rift_tests::sandbox::rift_binary()?;
        let rift = rift.display();
        let tool = self.tools().into_iter().find(|tool| tool.0 == group);
        let (ci, tool) =
            (CI_BY_RIFT.join(" "), tool.map_or_else(String::new, |tool| tool.1.join(" ")));
        let line = match (group, name) {
            (INSTALL, _) => format!("{rift} exec --as virtual -- {ci}"),
            (_, RIFT | FIRST) => {
                format!("{rift} exec --as virtual -- {ci} && {rift} exec -- {tool}")
            }
            (_, NPM) => format!("{} && {tool}", NPM_CI_ONLINE.join(" ")),
            (_, FILES) => tool,
            (_, ARCHIVE) => {
                let fetch = self.fetch("archives/node_modules.tzst", "archive.tzst")?;
                format!(
                    "{fetch} && tar --use-compress-program 'zstd -d -T0' -xf archive.tzst && \
                     rm archive.tzst && {tool}"
                )
            }
            (_, PULL) => format!("{rift} pull {}", self.lineage()?),
            (_, CURL) => {
                let objects = self.moved();
                let urls = objects.iter().map(|path| self.url(path.trim_start_matches('/')));
                let urls: Vec<String> = urls.collect();
                format!(
                    "mkdir -p node_modules && cd node_modules && echo {} | xargs -n1 -P{AT_ONCE} curl -sfO",
                    urls.join(" ")
                )
            }
            (_, PUSH) => format!("{rift} push {} s3://bucket/elsewhere", self.lineage()?),
            (_, _) => {
                let folder = suite.folder("objects");
                let url = self.url("bucket/elsewhere/data/");
                format!(
                    "ls -d {}/* | xargs -n1 -P{AT_ONCE} -I{{}} curl -sf -T {{}} {url}",
                    folder.display()
                )
            }
        };
        let mut command = suite.sandbox.command(at, "sh");
        command.args(["-c", &line]).env("npm_config_cache", suite.folder("cache"));
        let store = if name == PUSH { "store-push" } else { "store" };
        command.env("RIFT_STORE", suite.folder(store));
        if name == PUSH {
            self.take_whole(at)?;
        }
        if name == SEND {
            self.keep_objects()?;
        }
        let _earlier = (self.server.asked(), self.server.sent(""));
        let sample = suite.measured(self.reached(&mut command), at)?;
        let asked = self.server.asked();
        let of_data = asked.iter().filter(|(_, path)| path.contains("/data/")).count();
        if group == INSTALL {
            self.requests.borrow_mut().push(asked.len() as f64);
        } else if name == RIFT || name == FIRST {
            let mut opened = 0;
            crate::suite::walk(&at.join("node_modules"), &mut |_, stat| {
                opened += if stat.is_file() { stat.len() } else { 0 };
                Ok(())
            })?;
            let share = self.server.sent("/data/") as f64 / opened as f64;
            match (group, name) {
                (CHECK, RIFT) => {
                    self.fetched.borrow_mut().push(share);
                    self.tsc_requests.borrow_mut().push(of_data as f64);
                }
                (CHECK, _) => self.fetched_first.borrow_mut().push(share),
                (_, RIFT) => self.fetched_lint.borrow_mut().push(share),
                (_, _) => {}
            }
        }
        Ok(sample)
    }

    /// The name under which the producer's tree is known.
    fn lineage(&self) -> Result<String> {
        let reference = self.suite.folder("reference/package.json");
        let manifest: serde_json::Value = serde_json::from_slice(&fs::read(reference)?)?;
        Ok(format!("npm/{}", manifest["name"].as_str().context("the project has a name")?))
    }

    /// What a pull of the producer's tree reads.
    fn moved(&self) -> Vec<String> {
        let objects = self.server.objects().into_iter();
        objects
            .filter(|path| path.contains("/team/data/") || path.contains("/team/trees/"))
            .collect()
    }

    /// Has the producer's tree in a store of its own.
    fn take_whole(&self, at: &Path) -> Result<()> {
        if !self.suite.folder("store-push").exists() {
            let mut pull = self.suite.rift_in(at, "store-push", &["pull", &self.lineage()?])?;
            self.suite.quietly(self.reached(&mut pull))?;
        }
        Ok(())
    }

    /// Writes what a push sends to files.
    fn keep_objects(&self) -> Result<()> {
        let folder = self.suite.folder("objects");
        if folder.exists() {
            return Ok(());
        }
        fs::create_dir_all(&folder)?;
        for path in self.moved() {
            let mut fetch = self.suite.sandbox.command(&folder, "curl");
            fetch.args(["-sfO", &self.url(path.trim_start_matches('/'))]);
            self.suite.quietly(fetch)?;
        }
        Ok(())
    }

    /// A line that fetches an object by several connections.
    fn fetch(&self, path: &str, file: &str) -> Result<String> {
        let taken = self.server.take(path);
        let (path, bytes) = taken.into_iter().next().context("the archive is there")?;
        let part = (bytes.len() as u64).div_ceil(CONNECTIONS);
        self.server.put(&path, bytes);
        let url = self.url(path.trim_start_matches('/'));
        let ranges: Vec<String> = (0..CONNECTIONS)
            .map(|n| {
                format!("curl -sf -r {}-{} -o {file}.{n} {url} &", n * part, (n + 1) * part - 1)
            })
            .collect();
        let parts: Vec<String> = (0..CONNECTIONS).map(|n| format!("{file}.{n}")).collect();
        let parts = parts.join(" ");
        Ok(format!("{{ {} wait; }} && cat {parts} >{file} && rm {parts}", ranges.join(" ")))
    }

    /// Pushes a tree in which one package is another one; returns the bytes beyond its new ones, and the requests.
    fn push_changed(&self) -> Result<(f64, f64)> {
        let suite = self.suite;
        let at = self.project("changed")?;
        self.take_whole(&at)?;
        let tree = at.join("tree");
        let name = self.lineage()?;
        let shown = tree.display().to_string();
        let run = |words: &[&str]| {
            let mut command = suite.rift_in(&at, "store-push", words)?;
            suite.quietly(self.reached(&mut command))
        };
        run(&["materialize", &name, &shown])?;
        let changed = tree.join("lodash/lodash.js");
        let changed = if changed.exists() { changed } else { tree.join("react/package.json") };
        let text = format!("{}\n", fs::read_to_string(&changed)?);
        fs::write(&changed, &text)?;
        run(&["ingest", &shown, "--name", &name])?;
        let _earlier = (self.server.asked(), self.server.received());
        run(&["push", &name])?;
        let asked = self.server.asked().len();
        Ok((self.server.received() as f64 - text.len() as f64, asked as f64))
    }
}

/// Returns the hexadecimal digits of what is written in base64 (RFC 4648).
fn hex_of(base64: &str) -> Option<String> {
    let digits = base64.trim_end_matches('=').bytes().map(|byte| {
        Some(match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        })
    });
    let (mut hex, mut bits, mut count) = (String::new(), 0_u32, 0);
    for digit in digits {
        bits = bits << 6 | u32::from(digit?);
        count += 6;
        while count >= 4 {
            count -= 4;
            hex.push(char::from_digit(bits >> count & 15, 16)?);
        }
    }
    // What is left of the last digit is no whole byte.
    hex.truncate(hex.len() / 2 * 2);
    Some(hex)
}
