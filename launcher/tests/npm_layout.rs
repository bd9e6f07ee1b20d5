//! The layout that the npm plan works out, against what the real npm writes: package folders, symlinks, hidden lockfile,
//! the count it prints, and the order of install scripts. Every project is installed by npm itself in a scratch folder.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use flate2::{Compression, write::GzEncoder};
use rift_launcher::plan::npm::{Env, Install, Layout, Owner, Recognized, Verdict, read};
use serde_json::{Value, json};
use sha2::{Digest, Sha512};

// What npm wrote.

#[derive(Debug, Default, PartialEq, Eq)]
struct Tree {
    packages: BTreeSet<String>,
    symlinks: BTreeMap<String, String>,
}

/// Collects what lies in a `node_modules` folder and in those of its packages.
fn walk(root: &Path, nm: &str, tree: &mut Tree) {
    let Ok(entries) = fs::read_dir(root.join(nm)) else { return };
    for entry in entries {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let path = format!("{nm}/{name}");
        let kind = entry.file_type().unwrap();
        if kind.is_symlink() {
            tree.symlinks.insert(
                path,
                fs::read_link(entry.path()).unwrap().into_os_string().into_string().unwrap(),
            );
        } else if kind.is_dir() && (name == ".bin" || name.starts_with('@')) {
            if name == ".bin" {
                walk(root, &path, tree);
            } else {
                for inner in fs::read_dir(entry.path()).unwrap() {
                    let inner = inner.unwrap();
                    let path = format!("{path}/{}", inner.file_name().into_string().unwrap());
                    if inner.file_type().unwrap().is_symlink() {
                        let target = fs::read_link(inner.path()).unwrap();
                        tree.symlinks.insert(path, target.into_os_string().into_string().unwrap());
                    } else {
                        walk(root, &format!("{path}/node_modules"), tree);
                        tree.packages.insert(path);
                    }
                }
            }
        } else if kind.is_dir() {
            walk(root, &format!("{path}/node_modules"), tree);
            tree.packages.insert(path);
        }
    }
}

/// The same for a layout, with commands only where the installed package has their file.
fn tree_of(root: &Path, layout: &Layout) -> Tree {
    let mut tree = Tree::default();
    tree.packages.extend(layout.packages.iter().map(|package| package.path.clone()));
    tree.symlinks.extend(layout.links.iter().map(|link| (link.path.clone(), link.target.clone())));
    for bin in &layout.bins {
        let owner = match bin.owner {
            Owner::Package(at) => &layout.packages[at].path,
            Owner::Link(at) => &layout.links[at].path,
        };
        if root.join(owner).join(&bin.file).symlink_metadata().is_ok() {
            tree.symlinks.insert(bin.path.clone(), bin.target.clone());
        }
    }
    tree
}

struct Npm {
    stdout: String,
    stderr: String,
    success: bool,
}

fn npm(args: &[&str], dir: &Path, env: Option<&[(OsString, OsString)]>) -> Npm {
    let mut command = Command::new("npm");
    command.args(args).current_dir(dir);
    if let Some(env) = env {
        command.env_clear().envs(env.iter().cloned());
    }
    let output = command.output().unwrap();
    Npm {
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
        success: output.status.success(),
    }
}

fn added(stdout: &str) -> usize {
    let Some(rest) = stdout.split("added ").nth(1) else { return 0 };
    rest.split(' ').next().unwrap().parse().unwrap()
}

fn recognize(args: &[&str], dir: &Path, env: &Env) -> Result<Box<Install>, String> {
    let argv: Vec<OsString> = args.iter().map(OsString::from).collect();
    match read(&argv, dir, env).unwrap() {
        Recognized::Install(install) => Ok(install),
        Recognized::Untouched(why) => Err(why.to_string()),
    }
}

/// Installs with npm and compares everything with the layout, which is worked out before.
fn compare(args: &[&str], dir: &Path, env: Option<&[(OsString, OsString)]>) -> Layout {
    let our_env = env.map_or_else(Env::current, |env| Env::new(env.iter().cloned()));
    let install = recognize(args, dir, &our_env).unwrap();
    let layout = install.layout().unwrap_or_else(|why| panic!("{args:?}: {why}"));
    let ran = npm(args, dir, env);
    assert!(ran.success, "{args:?}: {}{}", ran.stdout, ran.stderr);
    let mut tree = Tree::default();
    for root in &layout.roots {
        walk(dir, &root.dir, &mut tree);
    }
    let ours = tree_of(dir, &layout);
    let packages: Vec<_> = ours.packages.symmetric_difference(&tree.packages).collect();
    assert!(packages.is_empty(), "{args:?}: packages of one side only: {packages:?}");
    let links = |tree: &Tree| tree.symlinks.clone().into_iter().collect::<BTreeSet<_>>();
    let symlinks: Vec<_> = links(&ours).symmetric_difference(&links(&tree)).cloned().collect();
    assert!(symlinks.is_empty(), "{args:?}: symlinks of one side only: {symlinks:?}");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let hidden = fs::read(dir.join("node_modules/.package-lock.json")).ok().map(text);
    let ours = layout.hidden_lockfile.clone().map(text);
    if ours != hidden {
        let (ours, hidden) = (ours.unwrap_or_default(), hidden.unwrap_or_default());
        let at =
            ours.lines().zip(hidden.lines()).take_while(|(ours, hidden)| ours == hidden).count();
        let part = |text: &str| {
            text.lines().skip(at.saturating_sub(3)).take(8).collect::<Vec<_>>().join("\n")
        };
        panic!(
            "{args:?}: line {at} of the hidden lockfile:\n{}\nnpm:\n{}",
            part(&ours),
            part(&hidden)
        );
    }
    assert_eq!(layout.added, added(&ran.stdout), "{args:?}: {}", ran.stdout);
    layout
}

// The fixtures.

/// Copies a fixture as a real project: its lockfile gets the addresses that npm's registry gives the packages.
fn prepare(fixture: &str, dir: &Path) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(fixture);
    fs::copy(from.join("package.json"), dir.join("package.json")).unwrap();
    let registry = npm(&["config", "get", "registry"], dir, None).stdout;
    let registry = registry.trim().trim_end_matches('/');
    let lock = fs::read_to_string(from.join("package-lock.json")).unwrap();
    let (mut out, mut name, mut version) = (String::new(), String::new(), String::new());
    let value = |line: &str| line.split('"').nth(3).unwrap().to_owned();
    for line in lock.lines() {
        if line.starts_with("  \"") {
            name =
                line.split('"').nth(1).unwrap().rsplit("node_modules/").next().unwrap().to_owned();
        } else if line.starts_with("   \"name\"") {
            name = value(line);
        } else if line.starts_with("   \"version\"") {
            version = value(line);
        } else if line.starts_with("   \"integrity\"") {
            let base = name.rsplit('/').next().unwrap();
            writeln!(out, "   \"resolved\": \"{registry}/{name}/-/{base}-{version}.tgz\",")
                .unwrap();
        }
        out.push_str(line);
        out.push('\n');
    }
    fs::write(dir.join("package-lock.json"), out).unwrap();
}

const QUIET: &[&str] = &["--ignore-scripts", "--no-audit", "--no-fund"];

fn fixture(name: &str) {
    let dir = tempfile::tempdir().unwrap();
    prepare(name, dir.path());
    let mut args = vec!["ci", "--prefer-offline"];
    args.extend(QUIET);
    compare(&args, dir.path(), None);
    args.push("--omit=dev");
    compare(&args, dir.path(), None);
}

#[test]
fn small_fixture() {
    fixture("small");
}

#[test]
fn medium_fixture() {
    if std::env::var_os("RIFT_TEST_FULL").is_some_and(|value| value == "1") {
        fixture("medium");
    }
}

// A registry of hand-made packages.

struct Package {
    manifest: Value,
    archive: Vec<u8>,
}

/// Serves packages to npm and gives it a home of its own.
struct Registry {
    home: tempfile::TempDir,
    address: String,
}

impl Registry {
    fn serve(packages: Vec<Package>) -> Registry {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (packages, base) = (Arc::new(packages), address.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (packages, base) = (Arc::clone(&packages), base.clone());
                std::thread::spawn(move || answer(stream.unwrap(), &packages, &base));
            }
        });
        Registry { home: tempfile::tempdir().unwrap(), address }
    }

    fn env(&self) -> Vec<(OsString, OsString)> {
        let home = self.home.path();
        vec![
            ("PATH".into(), std::env::var_os("PATH").unwrap()),
            ("HOME".into(), home.into()),
            ("npm_config_registry".into(), self.address.clone().into()),
            ("npm_config_cache".into(), home.join("cache").into()),
            ("npm_config_audit".into(), "false".into()),
            ("npm_config_fund".into(), "false".into()),
            ("npm_config_update_notifier".into(), "false".into()),
        ]
    }
}

fn answer(mut stream: TcpStream, packages: &[Package], base: &str) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request).unwrap_or(0) == 0 {
            return;
        }
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).unwrap();
            if header.trim().is_empty() {
                break;
            }
        }
        let path = request.split(' ').nth(1).unwrap().replace("%2f", "/").replace("%2F", "/");
        let body = body(&path, packages, base);
        let status = if body.is_some() { "200 OK" } else { "404 Not Found" };
        let body = body.unwrap_or_else(|| b"{}".to_vec());
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", body.len());
        if stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body)).is_err() {
            return;
        }
    }
}

fn body(path: &str, packages: &[Package], base: &str) -> Option<Vec<u8>> {
    let text = |package: &Package, key: &str| package.manifest[key].as_str().unwrap().to_owned();
    let url = |package: &Package| {
        let (name, version) = (text(package, "name"), text(package, "version"));
        format!("/{name}/-/{}-{version}.tgz", name.rsplit('/').next().unwrap())
    };
    if let Some(package) = packages.iter().find(|package| url(package) == path) {
        return Some(package.archive.clone());
    }
    let mut versions = serde_json::Map::new();
    let mut latest = String::new();
    for package in packages.iter().filter(|package| format!("/{}", text(package, "name")) == path) {
        let mut manifest = package.manifest.clone();
        let scripts = &package.manifest["scripts"];
        if ["preinstall", "install", "postinstall"].iter().any(|event| scripts[event].is_string()) {
            manifest["hasInstallScript"] = json!(true);
        }
        manifest["dist"] = json!({
            "tarball": format!("{base}{}", url(package)),
            "integrity": format!("sha512-{}", base64(&Sha512::digest(&package.archive))),
        });
        latest = text(package, "version");
        versions.insert(latest.clone(), manifest);
    }
    let name = path.trim_start_matches('/');
    let packument = json!({"name": name, "dist-tags": {"latest": latest}, "versions": versions});
    (!latest.is_empty()).then(|| packument.to_string().into_bytes())
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk
            .iter()
            .enumerate()
            .fold(0_u32, |word, (at, byte)| word | u32::from(*byte) << (16 - 8 * at));
        for at in 0..4 {
            let digit = if at <= chunk.len() {
                DIGITS[(word >> (18 - 6 * at)) as usize & 63]
            } else {
                b'='
            };
            out.push(char::from(digit));
        }
    }
    out
}

/// Packs a package with these files besides its package.json.
fn package(manifest: Value, files: &[(&str, &str)]) -> Package {
    let mut tar = Vec::new();
    let text = serde_json::to_string_pretty(&manifest).unwrap();
    for (name, content) in [("package.json", text.as_str())].iter().chain(files) {
        let mut header = [0_u8; 512];
        let mut put =
            |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, &format!("package/{name}"));
        put(100, "0000644\0");
        put(124, &format!("{:011o}\0", content.len()));
        put(136, "00000000000\0");
        put(148, "        ");
        put(156, "0");
        put(257, "ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        tar.extend_from_slice(&header);
        tar.extend_from_slice(content.as_bytes());
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0);
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&tar).unwrap();
    Package { manifest, archive: gzip.finish().unwrap() }
}

/// A package without anything special.
fn plain(name: &str, version: &str) -> Package {
    package(json!({"name": name, "version": version}), &[("index.js", "")])
}

struct Project {
    // Held for its folder.
    _dir: tempfile::TempDir,
    root: PathBuf,
    registry: Registry,
}

impl Project {
    /// Writes a project below a scratch folder's `project` and lets npm make its lockfile.
    fn new(packages: Vec<Package>, files: &[(&str, String)], args: &[&str]) -> Project {
        let registry = Registry::serve(packages);
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap().join("project");
        for (path, content) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let project = Project { _dir: dir, root, registry };
        let mut install = vec!["install", "--package-lock-only"];
        install.extend(args);
        let ran = npm(&install, &project.root, Some(&project.registry.env()));
        assert!(ran.success, "{}{}", ran.stdout, ran.stderr);
        project
    }

    fn compare(&self, args: &[&str]) -> Layout {
        compare(args, &self.root, Some(&self.registry.env()))
    }

    fn untouched(&self, args: &[&str]) -> String {
        match recognize(args, &self.root, &Env::new(self.registry.env())) {
            Ok(install) => install.layout().unwrap_err().to_string(),
            Err(why) => why,
        }
    }
}

fn text(value: Value) -> String {
    serde_json::to_string_pretty(&value).unwrap()
}

#[test]
fn fifty_workspaces() {
    let mut files = vec![(
        "package.json".to_owned(),
        text(
            json!({"name": "mono", "workspaces": ["packages/*", "apps/one"], "devDependencies": {"left": "^2.0.0"}}),
        ),
    )];
    for n in 0..50 {
        let name = if n % 7 == 0 { format!("@mono/ws-{n}") } else { format!("ws-{n}") };
        let mut manifest = json!({
            "name": name, "version": "1.0.0", "license": "MIT", "devDependencies": {"right": "1"},
            "dependencies": {"left": if n % 3 == 0 { "1.0.0" } else { "2.0.0" }},
        });
        if n > 0 {
            let before = if (n - 1) % 7 == 0 {
                format!("@mono/ws-{}", n - 1)
            } else {
                format!("ws-{}", n - 1)
            };
            manifest["dependencies"][before] = json!("^1.0.0");
        }
        if n % 2 == 0 {
            manifest["bin"] = json!({format!("tool-{}", n % 10): "./bin.js"});
            files.push((format!("packages/p{n}/bin.js"), "#!/usr/bin/env node\n".to_owned()));
        }
        files.push((format!("packages/p{n}/package.json"), text(manifest)));
    }
    files.push((
        "apps/one/package.json".to_owned(),
        text(json!({"dependencies": {"ws-1": "*", "deep": "1"}})),
    ));
    let files: Vec<(&str, String)> =
        files.iter().map(|(path, text)| (path.as_str(), text.clone())).collect();
    let deep = package(
        json!({"name": "deep", "version": "1.0.0", "dependencies": {"left": "1"}, "bin": "cli.js"}),
        &[("cli.js", "#!/usr/bin/env node\n")],
    );
    let packages =
        vec![plain("left", "1.0.0"), plain("left", "2.0.0"), plain("right", "1.2.3"), deep];
    let project = Project::new(packages, &files, &[]);
    let layout = project.compare(&["ci"]);
    assert_eq!(layout.links.len(), 51);
    assert!(layout.roots.len() > 10, "{:?}", layout.roots);
    project.compare(&["ci", "--omit=dev", "--no-bin-links"]);
    assert!(
        recognize(&["ci"], &project.root.join("packages/p3"), &Env::new(project.registry.env()))
            .is_err()
    );
}

#[test]
fn aliases_peers_and_the_form_of_package_json() {
    let packages = [
        plain("left", "1.0.0"),
        plain("left", "2.0.0"),
        package(
            json!({"name": "host", "version": "1.0.0", "peerDependencies": {"left": ">=1", "@s/peer": "*"},
                   "peerDependenciesMeta": {"@s/peer": {"optional": true}}, "funding": "https://a.test/",
                   "license": {"type": "MIT", "url": "x"}, "engines": {"node": ">=99"}}),
            &[],
        ),
        plain("@s/peer", "1.0.0"),
        package(
            json!({"name": "JSONStream", "version": "1.3.5", "bin": "./bin.js", "deprecated": "old"}),
            &[("bin.js", "")],
        ),
    ];
    let manifest = text(json!({
        "name": "p", "version": "0.1.0",
        "dependencies": {"odd": "npm:left@^1.0.0", "left": "^2.0.0", "host": "1", "JSONStream": "1", "@al/ias": "npm:@s/peer@1"},
        "optionalDependencies": {"left": "^2.0.0"},
    }));
    let tabs = manifest.replace("  ", "\t").replace('\n', "\r\n");
    for (manifest, args) in [(manifest, &["ci"][..]), (tabs, &["ci", "--legacy-peer-deps"])] {
        let packages = packages
            .iter()
            .map(|p| Package { manifest: p.manifest.clone(), archive: p.archive.clone() });
        let project = Project::new(packages.collect(), &[("package.json", manifest)], &args[1..]);
        let layout = project.compare(args);
        assert_eq!(layout.engine_warnings, ["node_modules/host"]);
        let mut install = vec!["install"];
        install.extend(&args[1..]);
        fs::remove_dir_all(project.root.join("node_modules")).unwrap();
        let before = fs::read(project.root.join("package-lock.json")).unwrap();
        project.compare(&install);
        assert_eq!(fs::read(project.root.join("package-lock.json")).unwrap(), before);
        project.compare(
            &["ci", "--omit=peer", "--omit-lockfile-registry-resolved", args.last().unwrap()]
                [..args.len() + 2],
        );
    }
}

#[test]
fn what_is_left_out() {
    let with = |name: &str, rest: Value| {
        let mut manifest = json!({"name": name, "version": "1.0.0"});
        manifest.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        package(manifest, &[("cli.js", "")])
    };
    let packages = vec![
        with(
            "only-dev",
            json!({"dependencies": {"shared": "1", "dev-leaf": "1"}, "bin": "cli.js"}),
        ),
        with("maybe", json!({"dependencies": {"shared": "1", "maybe-leaf": "1"}})),
        with("shared", json!({})),
        with("dev-leaf", json!({"optionalDependencies": {"alien": "1", "maybe": "1"}})),
        with("maybe-leaf", json!({})),
        with("alien", json!({"os": ["none"], "dependencies": {"alien-leaf": "1", "both": "1"}})),
        with("alien-leaf", json!({"dependencies": {"alien": "1"}})),
        with("both", json!({})),
        with("wants-alien", json!({"dependencies": {"alien": "1"}})),
        with("old-engine", json!({"engines": {"node": "<1"}})),
        with("not-here", json!({"cpu": ["!x64", "!arm64"], "libc": ["glibc"]})),
        with(
            "prod",
            json!({"dependencies": {"both": "1"}, "optionalDependencies": {"wants-alien": "1"}}),
        ),
    ];
    let manifest = text(json!({
        "name": "p", "dependencies": {"prod": "1"}, "devDependencies": {"only-dev": "1"},
        "optionalDependencies": {"maybe": "1", "old-engine": "1", "not-here": "1"},
    }));
    let project = Project::new(packages, &[("package.json", manifest)], &[]);
    let all = project.compare(&["ci"]);
    assert!(
        all.packages
            .iter()
            .all(|package| !package.path.contains("alien") && !package.path.contains("engine"))
    );
    for args in [
        &["--omit=dev"][..],
        &["--omit=optional"],
        &["--omit=dev", "--omit=optional"],
        &["--omit=dev", "--include=dev"],
        &["--production"],
        &["--os=none"],
        &["--cpu=ppc64", "--libc=musl"],
    ] {
        let mut line = vec!["ci"];
        line.extend(args);
        project.compare(&line);
    }
}

#[test]
fn bundles() {
    let inner = text(
        json!({"name": "inner", "version": "1.0.0", "license": "ISC", "bin": {"inner": "cli.js"}, "dependencies": {"core": "1"}}),
    );
    let core = text(json!({"name": "core", "version": "1.0.0"}));
    let packages = vec![
        package(
            json!({"name": "bundler", "version": "1.0.0", "bin": {"bundler": "cli.js"}, "dependencies": {"inner": "1", "left": "1"},
                   "bundleDependencies": ["inner"]}),
            &[
                ("cli.js", ""),
                ("node_modules/inner/package.json", &inner),
                ("node_modules/inner/cli.js", "#!/usr/bin/env node\r\n"),
                ("node_modules/core/package.json", &core),
            ],
        ),
        package(serde_json::from_str(&inner).unwrap(), &[("cli.js", "")]),
        package(json!({"name": "inner", "version": "2.0.0"}), &[]),
        plain("core", "1.0.0"),
        plain("left", "1.0.0"),
    ];
    let manifest = text(json!({"name": "p", "dependencies": {"bundler": "1", "inner": "2"}}));
    let project = Project::new(packages, &[("package.json", manifest)], &[]);
    let layout = project.compare(&["ci"]);
    let bundled: Vec<_> =
        layout.packages.iter().filter(|package| package.bundled_by.is_some()).collect();
    assert_eq!(bundled.len(), 2, "{bundled:?}");
}

#[test]
fn commands_in_conflict() {
    let tool = |name: &str, bin: Value, dependencies: Value| {
        package(
            json!({"name": name, "version": "1.0.0", "bin": bin, "dependencies": dependencies}),
            &[("a.js", "#!/bin/sh\r\n"), ("b/c.js", "")],
        )
    };
    let packages = vec![
        tool("zed", json!({"tool": "a.js", "mine": "./b/c.js"}), json!({})),
        tool("@s/alpha", json!({"tool": "b/c.js", "missing": "none.js"}), json!({"zed": "1"})),
        tool(
            "Beta",
            json!({"tool": "a.js", "missing": "a.js", "../out": "../../a.js"}),
            json!({"left": "1"}),
        ),
        tool("@s/named", json!("a.js"), json!({})),
        package(
            json!({"name": "left", "version": "1.0.0", "bin": {"tool": "index.js"}}),
            &[("index.js", "")],
        ),
        package(
            json!({"name": "left", "version": "2.0.0", "bin": {"tool": "index.js"}}),
            &[("index.js", "")],
        ),
        package(
            json!({"name": "dirs", "version": "1.0.0", "directories": {"bin": "bin"}}),
            &[("bin/x.js", "")],
        ),
    ];
    let manifest = text(json!({
        "name": "p", "bin": "nothing.js",
        "dependencies": {"zed": "1", "@s/alpha": "1", "Beta": "1", "@s/named": "1", "left": "2", "dirs": "1"},
    }));
    let project = Project::new(packages, &[("package.json", manifest)], &[]);
    project.compare(&["ci"]);
    assert!(project.compare(&["ci", "--bin-links=false"]).bins.is_empty());
}

#[test]
fn linked_folders() {
    let files = [
        (
            "package.json",
            text(
                json!({"name": "p", "dependencies": {"lib": "file:lib", "@s/out": "file:../outside"},
                        "devDependencies": {"left": "2", "dev-link": "file:tools/dev"}}),
            ),
        ),
        (
            "lib/package.json",
            text(
                json!({"name": "lib", "version": "1.0.0", "bin": {"lib": "cli.js"}, "dependencies": {"left": "1"},
                        "devDependencies": {"right": "1"}, "scripts": {"prepare": "true"}}),
            ),
        ),
        ("lib/cli.js", String::new()),
        ("tools/dev/package.json", text(json!({"name": "dev-link", "version": "1.0.0"}))),
        (
            "../outside/package.json",
            text(json!({"name": "@s/out", "version": "3.0.0", "bin": "o.js"})),
        ),
        ("../outside/o.js", String::new()),
    ];
    let packages = vec![plain("left", "1.0.0"), plain("left", "2.0.0"), plain("right", "1.0.0")];
    let project = Project::new(packages, &files, &[]);
    let layout = project.compare(&["ci"]);
    assert_eq!(layout.links.len(), 3);
    assert_eq!(
        project.untouched(&["ci", "--omit=dev"]),
        "the link node_modules/dev-link is to be left out"
    );
}

#[test]
fn install_scripts_in_order() {
    let log = |event: &str| format!("echo $npm_package_name {event} >> \"$INIT_CWD/../log\"");
    let noisy = |name: &str, dependencies: Value| {
        let scripts = json!({"preinstall": log("preinstall"), "install": log("install"), "postinstall": log("postinstall")});
        package(
            json!({"name": name, "version": "1.0.0", "scripts": scripts, "dependencies": dependencies}),
            &[],
        )
    };
    let packages = vec![
        noisy("zeta", json!({"nested": "1"})),
        noisy("Alpha", json!({})),
        noisy("@s/beta", json!({})),
        noisy("denied", json!({})),
        package(
            json!({"name": "nested", "version": "1.0.0", "scripts": {"postinstall": log("postinstall")}}),
            &[],
        ),
        plain("nested", "2.0.0"),
    ];
    let ws = |name: &str| {
        let scripts = json!({"prepare": log("prepare"), "preinstall": log("preinstall"), "postinstall": log("postinstall")});
        text(json!({"name": name, "version": "1.0.0", "scripts": scripts}))
    };
    let events = [
        "preinstall",
        "install",
        "postinstall",
        "prepublish",
        "preprepare",
        "prepare",
        "postprepare",
        "dependencies",
    ];
    let root_scripts: BTreeMap<_, _> = events.iter().map(|event| (*event, log(event))).collect();
    let files = [
        (
            "package.json",
            text(json!({"name": "root", "workspaces": ["w/*"], "scripts": root_scripts,
                "allowScripts": {"zeta@1.0.0 || 2.0.0": true, "denied": false, "Alpha@^1": true},
                "dependencies": {"zeta": "1", "Alpha": "1", "@s/beta": "1", "denied": "1", "nested": "2"}})),
        ),
        ("w/b/package.json", ws("wb")),
        ("w/a/package.json", ws("wa")),
    ];
    let project = Project::new(packages, &files, &["--ignore-scripts"]);
    let log = project.root.join("../log");
    let install = recognize(&["ci"], &project.root, &Env::new(project.registry.env())).unwrap();
    let layout = project.compare(&["ci", "--foreground-scripts"]);
    let name = |owner: Owner| match owner {
        Owner::Package(at) => layout.packages[at].name.clone(),
        Owner::Link(at) => layout.links[at].path.replace("node_modules/", ""),
    };
    let mut expected = Vec::new();
    let packages =
        layout.scripts.iter().filter(|scripts| matches!(scripts.owner, Owner::Package(_)));
    for event in ["preinstall", "install", "postinstall"] {
        let run = packages
            .clone()
            .filter(|scripts| event == "postinstall" || name(scripts.owner) != "nested");
        expected.extend(run.map(|scripts| format!("{} {event}", name(scripts.owner))));
    }
    let links = layout.scripts.iter().filter(|scripts| matches!(scripts.owner, Owner::Link(_)));
    for event in ["preinstall", "prepare", "postinstall"] {
        expected.extend(links.clone().map(|scripts| format!("{} {event}", name(scripts.owner))));
    }
    expected.extend(
        install.root_scripts().unwrap().iter().map(|script| format!("root {}", script.event)),
    );
    let ran = fs::read_to_string(&log).unwrap();
    assert_eq!(ran.lines().collect::<Vec<_>>(), expected);
    let verdicts: BTreeMap<_, _> =
        layout.scripts.iter().map(|scripts| (name(scripts.owner), scripts.verdict)).collect();
    assert_eq!(verdicts["zeta"], Verdict::Allowed);
    assert_eq!(verdicts["Alpha"], Verdict::Unreviewed);
    assert!(!verdicts.contains_key("denied"));
    assert!(
        project
            .untouched(&["ci", "--strict-allow-scripts"])
            .starts_with("`strict-allow-scripts` stops at")
    );
    assert!(
        !npm(&["ci", "--strict-allow-scripts"], &project.root, Some(&project.registry.env()))
            .success
    );
}

#[test]
fn a_project_without_packages() {
    let project = Project::new(
        vec![],
        &[("package.json", text(json!({"name": "p", "version": "1.0.0"})))],
        &[],
    );
    let layout = project.compare(&["ci"]);
    assert!(layout.hidden_lockfile.is_none() && layout.roots.is_empty());
}

#[test]
fn a_manifest_that_left_its_lockfile_behind() {
    let project = Project::new(
        vec![plain("left", "1.0.0"), plain("left", "2.0.0")],
        &[("package.json", text(json!({"name": "p", "dependencies": {"left": "1"}})))],
        &[],
    );
    fs::write(
        project.root.join("package.json"),
        text(json!({"name": "p", "dependencies": {"left": "2"}})),
    )
    .unwrap();
    assert_eq!(
        project.untouched(&["ci"]),
        "the lockfile records other `dependencies` than package.json has"
    );
    assert!(!npm(&["ci"], &project.root, Some(&project.registry.env())).success);
}

// Hostile input.

/// A project that nothing of npm is needed for.
fn lay_out(manifest: &str, lock: &[u8]) -> Result<Layout, String> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("package.json"), manifest).unwrap();
    fs::write(dir.path().join("package-lock.json"), lock).unwrap();
    let env = Env::new([("PATH", std::env::var_os("PATH").unwrap()), ("HOME", dir.path().into())]);
    recognize(&["ci"], dir.path(), &env)?.layout().map_err(|why| why.to_string())
}

fn assert_inside(layout: &Layout) {
    let inside = |path: &str| {
        let parts: Vec<&str> = path.split('/').collect();
        assert!(parts.contains(&"node_modules"), "{path}");
        assert!(!parts.iter().any(|part| matches!(*part, "" | "." | "..")), "{path}");
        assert!(!path.contains(['\\', '\0']), "{path}");
    };
    layout.packages.iter().for_each(|package| inside(&package.path));
    layout.links.iter().for_each(|link| inside(&link.path));
    for bin in &layout.bins {
        inside(&bin.path);
        assert!(!bin.file.split('/').any(|part| part == ".."), "{}", bin.file);
        // One step up from `.bin`, then down.
        assert!(
            !bin.target.strip_prefix("../").unwrap().split('/').any(|part| part == ".."),
            "{}",
            bin.target
        );
    }
}

mod hostile {
    use super::*;
    use proptest::prelude::*;

    /// Words that lockfiles get wrong.
    fn bad_text() -> impl Strategy<Value = String> {
        prop_oneof![
            Just("..".to_owned()),
            Just("../..".to_owned()),
            Just("/etc/passwd".to_owned()),
            Just("node_modules/../../x".to_owned()),
            Just("node_modules/a/node_modules/b".to_owned()),
            Just("node_modules/.bin".to_owned()),
            Just("packages/a".to_owned()),
            Just("../../../../tmp/x".to_owned()),
            Just("a\\..\\b".to_owned()),
            Just("git+ssh://host/x".to_owned()),
            Just("file:../x".to_owned()),
            Just("^1.0.0".to_owned()),
            Just("\u{0}".to_owned()),
            Just(String::new()),
            ".{0,12}",
        ]
    }

    fn bad_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i32>().prop_map(Value::from),
            bad_text().prop_map(Value::String),
            bad_text().prop_map(|text| json!([text])),
            (bad_text(), bad_text()).prop_map(|(key, value)| json!({key: value})),
            (bad_text(), bad_text())
                .prop_map(|(key, value)| json!({"bin": {key: value}, "version": "1.0.0"})),
            bad_text().prop_map(|text| json!({"link": true, "resolved": text})),
        ]
    }

    #[derive(Clone, Debug)]
    enum Change {
        /// Sets a member of an entry.
        Member(prop::sample::Index, prop::sample::Index, Value),
        /// Sets an entry.
        Entry(String, Value),
        /// Moves an entry.
        Move(prop::sample::Index, String),
        /// Removes an entry.
        Remove(prop::sample::Index),
        /// Sets a byte of the file.
        Byte(prop::sample::Index, u8),
    }

    fn change() -> impl Strategy<Value = Change> {
        let at = any::<prop::sample::Index>;
        prop_oneof![
            3 => (at(), at(), bad_value()).prop_map(|(entry, member, value)| Change::Member(entry, member, value)),
            2 => (bad_text(), bad_value()).prop_map(|(key, value)| Change::Entry(key, value)),
            2 => (at(), bad_text()).prop_map(|(entry, key)| Change::Move(entry, key)),
            1 => at().prop_map(Change::Remove),
            1 => (at(), any::<u8>()).prop_map(|(at, byte)| Change::Byte(at, byte)),
        ]
    }

    const MEMBERS: [&str; 14] = [
        "version",
        "resolved",
        "integrity",
        "dependencies",
        "optionalDependencies",
        "peerDependencies",
        "bin",
        "link",
        "inBundle",
        "os",
        "engines",
        "name",
        "bundleDependencies",
        "hasInstallScript",
    ];

    fn base() -> (Value, Value) {
        let integrity = format!("sha512-{}==", "A".repeat(86));
        let entry = |dependencies: Value| json!({"version": "1.0.0", "integrity": integrity, "dependencies": dependencies, "bin": {"x": "x.js"}});
        let dependencies = json!({"a": "^1.0.0", "@s/b": "1"});
        let lock = json!({"name": "p", "lockfileVersion": 3, "requires": true, "packages": {
            "": {"name": "p", "dependencies": dependencies},
            "node_modules/a": entry(json!({"c": "*"})),
            "node_modules/@s/b": entry(json!({"a": "1"})),
            "node_modules/a/node_modules/c": entry(json!({})),
        }});
        (json!({"name": "p", "dependencies": dependencies}), lock)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn changed_lockfiles_stay_inside(changes in prop::collection::vec(change(), 1..4)) {
            let (manifest, mut lock) = base();
            let mut bytes = Vec::new();
            for change in &changes {
                let packages = lock["packages"].as_object_mut().unwrap();
                let keys: Vec<String> = packages.keys().cloned().collect();
                match change {
                    Change::Member(entry, member, value) if !keys.is_empty() => {
                        let entry = packages.get_mut(entry.get(&keys)).unwrap();
                        if let Some(entry) = entry.as_object_mut() {
                            entry.insert((*member.get(&MEMBERS)).to_owned(), value.clone());
                        }
                    }
                    Change::Entry(key, value) => {
                        packages.insert(key.clone(), value.clone());
                    }
                    Change::Move(entry, key) if !keys.is_empty() => {
                        let value = packages.remove(entry.get(&keys)).unwrap();
                        packages.insert(key.clone(), value);
                    }
                    Change::Remove(entry) if !keys.is_empty() => {
                        packages.remove(entry.get(&keys)).unwrap();
                    }
                    _ => bytes.push(change.clone()),
                }
            }
            let mut text = serde_json::to_vec(&lock).unwrap();
            for change in bytes {
                if let Change::Byte(at, byte) = change {
                    let at = at.index(text.len());
                    text[at] = byte;
                }
            }
            if let Ok(layout) = lay_out(&manifest.to_string(), &text) {
                assert_inside(&layout);
            }
        }
    }

    #[test]
    fn the_base_is_laid_out() {
        let (manifest, lock) = base();
        let layout = lay_out(&manifest.to_string(), lock.to_string().as_bytes()).unwrap();
        assert_eq!((layout.packages.len(), layout.bins.len(), layout.added), (3, 2, 3));
        assert_inside(&layout);
    }

    #[test]
    fn single_faults_are_left_to_npm() {
        let fault = |change: &dyn Fn(&mut Value)| {
            let (manifest, mut lock) = base();
            change(&mut lock);
            lay_out(&manifest.to_string(), lock.to_string().as_bytes()).unwrap_err()
        };
        let entry = |lock: &mut Value, key: &str, value: Value| {
            lock["packages"]["node_modules/a"][key] = value;
        };
        for (key, value, why) in [
            ("integrity", Value::Null, "node_modules/a has no integrity"),
            (
                "integrity",
                json!("sha1-AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
                "the integrity of node_modules/a is weak or malformed",
            ),
            (
                "integrity",
                json!("sha512-AAAA"),
                "the integrity of node_modules/a is weak or malformed",
            ),
            (
                "resolved",
                json!("git+ssh://git@host/a.git#0000"),
                "node_modules/a comes from elsewhere than a registry",
            ),
            (
                "resolved",
                json!("file:a.tgz"),
                "node_modules/a comes from elsewhere than a registry",
            ),
            (
                "version",
                json!("2.0.0"),
                "a doesn't fit what the lockfile has (needed by the project)",
            ),
            ("hasShrinkwrap", json!(true), "node_modules/a brings its own npm-shrinkwrap.json"),
            (
                "dependencies",
                json!({"z": "1"}),
                "z is not in the lockfile (needed by node_modules/a)",
            ),
            (
                "dependencies",
                json!({"c": "user/repo"}),
                "c doesn't fit what the lockfile has (needed by node_modules/a)",
            ),
            ("os", json!(["none"]), "node_modules/a is for another platform"),
        ] {
            assert_eq!(fault(&|lock| entry(lock, key, value.clone())), why, "{key}");
        }
        let stray = fault(&|lock| {
            lock["packages"]["node_modules/q/node_modules/r"] = json!({"version": "1.0.0"})
        });
        assert_eq!(stray, "node_modules/q/node_modules/r lies in nothing that is installed");
        let link = fault(&|lock| {
            lock["packages"]["node_modules/a"] = json!({"link": true, "resolved": "../../etc"})
        });
        assert_eq!(link, "the link node_modules/a is not understood");
    }

    /// Both must take time in proportion to their size; a step that doesn't would take minutes.
    #[test]
    fn large_lockfiles_are_quick() {
        let integrity = format!("sha512-{}==", "A".repeat(86));
        let mut packages = serde_json::Map::new();
        packages.insert(String::new(), json!({"dependencies": {"p0": "1"}}));
        for n in 0..40_000 {
            let dependencies =
                json!({format!("p{}", (n + 1) % 40_000): "1", format!("p{}", n / 2): "^1.0.0"});
            let entry =
                json!({"version": "1.0.0", "integrity": integrity, "dependencies": dependencies});
            packages.insert(format!("node_modules/p{n}"), entry);
        }
        let lock = json!({"lockfileVersion": 3, "packages": packages}).to_string();
        let started = std::time::Instant::now();
        let layout = lay_out(r#"{"dependencies":{"p0":"1"}}"#, lock.as_bytes()).unwrap();
        assert_eq!(layout.packages.len(), 40_000);
        assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());

        let mut deep = serde_json::Map::new();
        deep.insert(String::new(), json!({"dependencies": {"a": "1"}}));
        for depth in [1, 2, 10_000] {
            let path = vec!["node_modules/a"; depth].join("/");
            deep.insert(path, json!({"version": "1.0.0", "integrity": integrity}));
        }
        let lock = json!({"lockfileVersion": 3, "packages": deep}).to_string();
        let why = lay_out(r#"{"dependencies":{"a":"1"}}"#, lock.as_bytes()).unwrap_err();
        assert!(why.contains("is not a place in the project"), "{why}");
    }
}
