//! Packages come out of tarballs as npm lays them out, from wherever they come, or not at all.
//!
//! The judge is npm itself: what `npm ci` wrote for a real project, and what its own pacote makes of
//! tarballs that are wrong on purpose. Both need `npm` on the path; the first needs its registry.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

#[path = "npm_package/archive.rs"]
mod archive;
#[path = "npm_package/server.rs"]
mod server;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use archive::{Archive, Entry, gzip, sri};
use rift_cas::Store;
use rift_cas::materialize::{Options, Writer};
use rift_launcher::plan::npm::package::error::PackageError;
use rift_launcher::plan::npm::package::fetch::{
    Cause, Failure, Fetched, Source, Wanted, Watch, fetch_all, find,
};
use rift_launcher::plan::npm::package::registry::{Auth, RegistryError, RegistrySettings};
use rift_launcher::plan::npm::package::{Integrity, tarball};
use rift_tree::builder::Built;
use serde_json::{Value, json};
use server::{Server, reply};

/// Paths below a folder: a directory's or file's mode, and a file's bytes.
type Files = BTreeMap<PathBuf, (u32, Option<Vec<u8>>)>;

/// Lists a folder, but not `skip` directly below it.
fn list(folder: &Path, skip: &str) -> Files {
    let mut files = Files::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            let relative = path.strip_prefix(folder).unwrap().to_owned();
            if relative == Path::new(skip) {
                continue;
            }
            let stat = path.symlink_metadata().unwrap();
            assert!(!stat.is_symlink(), "{}", path.display());
            let bytes = stat.is_file().then(|| fs::read(&path).unwrap());
            files.insert(relative, (stat.permissions().mode(), bytes));
            if stat.is_dir() {
                folders.push(path);
            }
        }
    }
    files
}

/// Writes a tree as npm would: with the modes of the tree, less the umask.
fn materialize(store: &Store, built: &Built, folder: &Path) {
    let index = store.blobs().unwrap();
    store.publish_located(built, &index).unwrap();
    let tree = store.open_tree(built.hash).unwrap().unwrap();
    let options = Options { verify: true, ..Options::default() };
    Writer::new(&tree, options).write_tree(folder).unwrap();
}

fn npm(arguments: &[&str], folder: &Path) -> String {
    let output = Command::new("npm").args(arguments).current_dir(folder).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "npm {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn wanted(name: &str, integrity: &str, resolved: Option<String>) -> Wanted {
    Wanted {
        name: name.into(),
        version: "1.0.0".into(),
        integrity: integrity.into(),
        resolved,
        is_optional: false,
    }
}

/// Fetches and finishes, as a run does.
fn fetch(
    store: &Store,
    wanted: &[Wanted],
    settings: &RegistrySettings,
    cache: Option<&Path>,
) -> Result<Fetched, Failure> {
    let import = store.import().unwrap();
    let log = store.log().unwrap();
    let known = |integrity: &Integrity| find(&log, &import, integrity);
    let fetched = fetch_all(
        wanted,
        &import,
        &known,
        settings,
        cache,
        Watch { progress: &|_| {}, taken: None },
    )?;
    import.finish(&fetched.records).unwrap();
    Ok(fetched)
}

fn quick(registry: &str) -> RegistrySettings {
    let mut settings = RegistrySettings::new(registry);
    settings.retry_min = Duration::from_millis(1);
    settings.retry_max = Duration::from_millis(5);
    settings.timeout = Duration::from_secs(20);
    settings
}

#[test]
fn real_packages_are_what_npm_ci_writes() {
    let folder = tempfile::tempdir().unwrap();
    let (project, cache) = (folder.path().join("project"), folder.path().join("cache"));
    fs::create_dir(&project).unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/small");
    fs::copy(fixture.join("package.json"), project.join("package.json")).unwrap();
    let registry = npm(&["config", "get", "registry"], &project);
    let mut lock: Value =
        serde_json::from_slice(&fs::read(fixture.join("package-lock.json")).unwrap()).unwrap();
    let mut places = Vec::new();
    for (place, entry) in lock["packages"].as_object_mut().unwrap() {
        let Some(integrity) = entry["integrity"].as_str().map(str::to_owned) else {
            continue;
        };
        let name = place.rsplit_once("node_modules/").map_or("", |(_, name)| name);
        let name = entry["name"].as_str().unwrap_or(name).to_owned();
        let mut package = wanted(&name, &integrity, None);
        package.version = entry["version"].as_str().unwrap().to_owned();
        let url = RegistrySettings::new(&registry).tarball_url(&name, &package.version, None);
        package.resolved = Some(url.unwrap().into());
        entry["resolved"] = package.resolved.clone().into();
        places.push((place.clone(), package));
    }
    fs::write(project.join("package-lock.json"), lock.to_string()).unwrap();
    let cache_text = cache.to_str().unwrap();
    let flags = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--cache", cache_text];
    npm(&flags, &project);
    places.retain(|(place, _)| project.join(place).is_dir());
    assert!(places.len() > 170, "{}", places.len());

    let store = Store::open(&folder.path().join("store")).unwrap();
    let mut offline = RegistrySettings::new(&registry);
    offline.is_offline = true;
    let packages: Vec<Wanted> = places.iter().map(|(_, package)| package.clone()).collect();
    let fetched = fetch(&store, &packages, &offline, Some(&cache)).unwrap();
    for (number, (place, package)) in places.iter().enumerate() {
        let got = fetched.packages[number].as_ref().unwrap();
        assert_eq!(got.source, Source::Cache);
        assert_eq!(got.known.facts.name, package.name);
        assert_eq!(got.known.facts.version, package.version);
        let ours = folder.path().join(format!("ours-{number}"));
        materialize(&store, got.built.as_ref().unwrap(), &ours);
        let skip = if got.known.facts.has_node_modules { "" } else { "node_modules" };
        let (ours, npms) = (list(&ours, ""), list(&project.join(place), skip));
        assert_eq!(ours.keys().collect::<Vec<_>>(), npms.keys().collect::<Vec<_>>(), "{place}");
        for (path, entry) in &npms {
            assert!(ours[path] == *entry, "{place}: {}: mode {:o}", path.display(), entry.0);
        }
    }

    // The next run finds every package in the log, and a damaged cache is no harm then.
    fs::remove_dir_all(&cache).unwrap();
    let again = fetch(&store, &packages, &offline, Some(&cache)).unwrap();
    assert!(again.packages.iter().all(|got| got.as_ref().unwrap().source == Source::Store));
    assert!(again.records.is_empty());
}

/// Tarballs that bend the rules, as tar archives.
fn odd_archives() -> Vec<(String, Vec<u8>)> {
    let start = || Archive::default().file("package/package.json", b"{\"name\":\"p\"}");
    let long = |count: usize| format!("package/{}", "n".repeat(count));
    let base256 = |bytes: &[u8]| {
        let mut field = [0; 12];
        field[12 - bytes.len()..].copy_from_slice(bytes);
        field[0] |= 0x80;
        Some(field)
    };
    let sized = |size| Entry { name: b"package/s", size, body: b"12345", ..Entry::default() };
    let mode = |mode: &'static [u8]| Entry { name: b"package/m", mode, ..Entry::default() };
    let link = |typeflag, name: &'static [u8], link: &'static [u8]| Entry {
        name,
        typeflag,
        link,
        ..Entry::default()
    };
    let mut archives: Vec<(&str, Archive)> = vec![
        ("plain", start().file("package/a/b", b"x")),
        ("other root", start().file("other/a", b"x").file("nested/package/b", b"y")),
        ("no folder", start().file("alone", b"x")),
        ("dot dot", start().file("package/../../evil", b"x").file("package/ok", b"y")),
        ("dot dot inside", start().file("package/a/../b", b"x")),
        ("backslash dot dot", start().file("package/a\\..\\..\\evil", b"x")),
        ("backslash", start().file("package/a\\b", b"x")),
        ("absolute", start().file("/etc/evil", b"x").file("//etc/evil2", b"y")),
        ("absolute inside", start().file("package//etc/evil", b"x")),
        ("drive", start().file("package/C:\\evil", b"x").file("package/c:../evil", b"y")),
        ("unc", start().file("package/\\\\server\\share\\x", b"x")),
        ("dots", start().file("package/./a/././b", b"x").file("package/.", b"y")),
        ("empty parts", start().file("package///a//b", b"x")),
        ("long 255", start().typed(b'L', "L", long(255).as_bytes()).file("package/x", b"x")),
        ("long 256", start().typed(b'L', "L", long(256).as_bytes()).file("package/x", b"x")),
        ("long folder", {
            let name = format!("package/e/{}/x", "n".repeat(256));
            start()
                .typed(b'L', "L", name.as_bytes())
                .file("package/x", b"x")
                .file("package/e", b"y")
        }),
        ("long name escapes", {
            start().typed(b'L', "L", b"package/../../evil\0junk").file("package/x", b"x")
        }),
        ("long link", start().typed(b'K', "K", b"../../evil").file("package/x", b"x")),
        ("pax path", start().pax(b'x', &[("path", "package/p/q")]).file("package/x", b"x")),
        ("pax path escapes", {
            start().pax(b'x', &[("path", "package/../../evil")]).file("package/x", b"x")
        }),
        ("pax size", start().pax(b'x', &[("size", "5")]).entry(&sized(Some([0; 12])))),
        ("pax size lies", {
            start()
                .pax(b'x', &[("size", "600")])
                .file("package/a", &[b'a'; 100])
                .file("package/b", b"b")
        }),
        ("pax size negative", start().pax(b'x', &[("size", "-5")]).file("package/a", b"abc")),
        ("pax size before long name", {
            let archive = start().pax(b'x', &[("size", "3")]);
            archive.typed(b'L', "L", b"package/long").file("package/a", b"abc")
        }),
        ("pax size zero before long name", {
            let archive = start().pax(b'x', &[("size", "0")]);
            archive.typed(b'L', "L", b"package/long").file("package/a", b"abc")
        }),
        ("pax linkpath on a file", {
            start().pax(b'x', &[("linkpath", "../../evil")]).file("package/a/b", b"x")
        }),
        ("pax mode", start().pax(b'x', &[("mode", "511")]).file("package/a", b"x")),
        (
            "pax garbage",
            start().typed(b'x', "x", b"999 path=a\nxx\n0 =\n\n").file("package/a", b"x"),
        ),
        ("pax empty path", start().pax(b'x', &[("path", "")]).file("package/a", b"x")),
        ("global path", start().pax(b'g', &[("path", "package/g")]).file("package/a", b"x")),
        ("global size", {
            start().pax(b'g', &[("size", "2")]).file("package/a", b"xy").file("package/b", b"zz")
        }),
        ("global then pax", {
            start()
                .pax(b'g', &[("comment", "c")])
                .pax(b'x', &[("path", "package/z")])
                .file("a/b", b"x")
        }),
        ("big size", start().entry(&sized(base256(&[0x7f; 3])))),
        ("base 256", start().entry(&sized(base256(&[5])))),
        ("negative size", start().entry(&sized(Some([0xff; 12]))).file("package/z", b"z")),
        ("bad base 256", start().entry(&sized(Some([0x81; 12]))).file("package/z", b"z")),
        ("huge base 256", start().entry(&sized(base256(&[0x7f; 11]))).file("package/z", b"z")),
        ("no number", start().entry(&sized(Some(*b"zzzzzzzzzzz\0"))).file("package/z", b"z")),
        ("negative octal", start().entry(&sized(Some(*b"-0000000005\0"))).file("package/z", b"z")),
        ("mode none", start().entry(&mode(b"\0\0\0\0\0\0\0\0"))),
        ("mode zero", start().entry(&mode(b"0000000\0"))),
        ("mode executable", start().entry(&mode(b"0000755\0"))),
        ("mode read only", start().entry(&mode(b"0000444\0"))),
        ("mode odd", start().entry(&mode(b"0000111\0"))),
        ("symlink then through it", {
            start().entry(&link(b'2', b"package/l", b"/tmp")).file("package/l/evil", b"x")
        }),
        (
            "symlink up",
            start().entry(&link(b'2', b"package/l", b"../..")).file("package/l/e", b"x"),
        ),
        ("hard link out", start().entry(&link(b'1', b"package/l", b"/etc/passwd"))),
        (
            "link without target",
            start().entry(&link(b'2', b"package/l", b"")).file("package/a", b"x"),
        ),
        (
            "file with target",
            start().entry(&link(b'0', b"package/l", b"t")).file("package/a", b"x"),
        ),
        (
            "devices",
            start().typed(b'3', "package/c", b"").typed(b'4', "package/b", b"").typed(
                b'6',
                "package/f",
                b"",
            ),
        ),
        ("unknown type", start().typed(b'Q', "package/q", b"body").file("package/a", b"x")),
        (
            "gnu types",
            start().typed(b'S', "package/q", b"body").typed(b'V', "v", b"").typed(b'M', "m", b""),
        ),
        ("directories", start().typed(b'5', "package/d/", b"").typed(b'D', "package/e", b"abc")),
        ("slash means directory", start().file("package/d/", b"x").file("package/e", b"y")),
        ("old file", start().typed(0, "package/a", b"x")),
        ("contiguous", {
            let archive = start().entry(&mode(b"0000755\0")).typed(b'7', "package/m", b"x");
            archive.typed(b'7', "package/n/", b"y")
        }),
        ("twice", start().entry(&mode(b"0000755\0")).file("package/m", b"second")),
        ("file then folder", start().file("package/a", b"x").file("package/a/b", b"y")),
        ("folder then file", start().file("package/a/b", b"y").file("package/a", b"x")),
        ("case twins", start().file("package/A", b"x").file("package/a", b"y")),
        ("unicode twins", start().file("package/\u{e9}", b"x").file("package/e\u{301}", b"y")),
        ("no utf-8", start().entry(&Entry { name: b"package/\xff\xc3(", ..Entry::default() })),
        ("newline", start().file("package/a\nb", b"x")),
        ("git ignore", start().file("package/.gitignore", b"g").file("package/d/.gitignore", b"h")),
        ("git then npm ignore", {
            start().file("package/.gitignore", b"g").file("package/.npmignore", b"n")
        }),
        ("npm then git ignore", {
            start().file("package/.npmignore", b"n").file("package/.gitignore", b"g")
        }),
        ("bad checksum", {
            let mut archive = start().file("package/a", b"x").file("package/b", b"y");
            archive.0[1024 + 3] ^= 1;
            archive
        }),
        (
            "prefix",
            start()
                .file("name", b"")
                .change(|block| block[345..355].copy_from_slice(b"package/dd")),
        ),
        (
            "long prefix",
            start().file("name", b"").change(|block| {
                block[345..353].copy_from_slice(b"package/");
                block[353..490].fill(b'p');
            }),
        ),
        ("one null block", {
            let mut archive = start();
            archive.0.resize(archive.0.len() + 512, 0);
            archive.file("package/after", b"x")
        }),
        ("after the end", Archive(start().end()).file("package/after", b"x")),
        ("junk between", start().body(&[b'j'; 512]).file("package/a", b"x")),
        ("only links", Archive::default().entry(&link(b'2', b"package/l", b"x"))),
        ("nothing", Archive::default()),
        ("junk", Archive::default().body(&[b'j'; 2048])),
        ("deep", {
            let name = format!("package/{}x", "d/".repeat(600));
            start().typed(b'L', "L", name.as_bytes()).file("package/x", b"x")
        }),
        ("too deep", {
            let name = format!("package/{}x", "d/".repeat(1024));
            start().typed(b'L', "L", name.as_bytes()).file("package/x", b"x")
        }),
        ("large extension header", {
            let name = [b"package/".to_vec(), vec![b'n'; 2 << 20]].concat();
            start().typed(b'L', "L", &name).file("package/x", b"x")
        }),
        ("fractions", start().pax(b'x', &[("size", "3e0")]).file("package/a", b"abc")),
    ];
    let cut = start().file("package/a", &[b'a'; 700]).file("package/b/c", b"x");
    let mut all: Vec<(String, Vec<u8>)> =
        archives.drain(..).map(|(name, archive)| (name.to_owned(), archive.end())).collect();
    let whole = cut.end();
    for end in (0..whole.len()).step_by(512) {
        all.push((format!("cut at {end}"), whole[..end].to_vec()));
        all.push((format!("cut at {}", end + 100), whole[..end + 100].to_vec()));
    }
    all
}

/// The same as what a registry would send.
fn odd_tarballs() -> Vec<(String, Vec<u8>)> {
    let plain = Archive::default().file("package/a", &[b'a'; 3000]).end();
    let packed = gzip(&plain);
    let mut tarballs: Vec<(String, Vec<u8>)> =
        odd_archives().into_iter().map(|(name, tar)| (name, gzip(&tar))).collect();
    let mut add = |name: &str, bytes: Vec<u8>| tarballs.push((name.to_owned(), bytes));
    add("no gzip", plain.clone());
    add("two members", [gzip(&plain[..1000]), gzip(&plain[1000..])].concat());
    add("zeros behind", [packed.clone(), vec![0; 700]].concat());
    add("garbage behind", [packed.clone(), b"garbage".to_vec()].concat());
    add("empty", Vec::new());
    add("three bytes", packed[..3].to_vec());
    add("zstd", [&[0x28, 0xb5, 0x2f, 0xfd][..], &packed].concat());
    let zeros = Archive::default().file("package/a", &vec![0; 20 << 20]).end();
    add("expands 229 times", gzip(&zeros));
    add("expands over 1000 times", archive::gzip_best(&zeros));
    for end in [10, 20, packed.len() - 8, packed.len() - 1] {
        add(&format!("gzip cut at {end}"), packed[..end].to_vec());
    }
    let mut wrong = packed.clone();
    wrong[packed.len() - 6] ^= 1;
    add("wrong check sum", wrong);
    tarballs
}

#[test]
fn odd_tarballs_come_out_as_from_npms_own_pacote() {
    let folder = tempfile::tempdir().unwrap();
    let tarballs = odd_tarballs();
    let bodies: BTreeMap<String, Vec<u8>> = tarballs
        .iter()
        .enumerate()
        .map(|(number, (_, bytes))| (format!("/{number}.tgz"), bytes.clone()))
        .collect();
    let server = Server::start(move |request, _, stream| {
        reply(stream, "200 OK", "", &bodies[&request.path]);
    });
    let path = |name: &str| folder.path().join(name);
    let cases: Vec<Value> = tarballs
        .iter()
        .enumerate()
        .map(|(number, (name, bytes))| {
            json!({
                "name": name,
                "url": format!("{}{number}.tgz", server.url()),
                "integrity": sri(bytes),
                "dest": path(&format!("npm-{number}")),
                "cache": path("cache"),
            })
        })
        .collect();
    fs::write(path("cases.json"), json!(cases).to_string()).unwrap();
    let root = npm(&["root", "--global"], folder.path());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/npm_package/extract.js");
    let output = Command::new("node")
        .args([&script, &Path::new(&root).join("npm"), &path("cases.json")])
        .output()
        .unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(lines.lines().count(), tarballs.len(), "{errors}");

    let store = Store::open(&path("store")).unwrap();
    let (mut accepted, mut refused, mut buffers) = (0, 0, tarball::Buffers::default());
    for (number, ((name, bytes), line)) in tarballs.iter().zip(lines.lines()).enumerate() {
        let npms: Value = serde_json::from_str(line).unwrap();
        let import = store.import().unwrap();
        let mut unit = import.unit();
        let result = tarball::import(
            &bytes[..],
            &Integrity::parse(&sri(bytes)).unwrap(),
            &mut unit,
            &mut buffers,
        );
        unit.flush().unwrap();
        drop(unit);
        import.finish(&[]).unwrap();
        match result {
            Ok(package) => {
                assert_eq!(npms["error"], Value::Null, "{name}: npm refuses it");
                let ours = path(&format!("ours-{number}"));
                materialize(&store, &package.tree, &ours);
                let npms = list(&path(&format!("npm-{number}")), "");
                assert_eq!(list(&ours, ""), npms, "{name}");
                accepted += 1;
            }
            Err(error) => {
                assert_ne!(npms["error"], Value::Null, "{name}: npm accepts it, we say {error}");
                assert!(!matches!(error, PackageError::Store(_)), "{name}: {error}");
                refused += 1;
            }
        }
    }
    assert!(accepted > 70 && refused > 10, "{accepted} accepted, {refused} refused");
    let escaped = ["evil", "evil2"].map(|name| folder.path().join(name).exists());
    assert_eq!(escaped, [false, false]);
}

#[test]
fn set_id_bits_nul_names_and_bombs_are_kept_out() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store")).unwrap();
    let import = store.import().unwrap();
    let mut unit = import.unit();
    let mut buffers = tarball::Buffers::default();
    let mut take = |bytes: &[u8]| {
        tarball::import(bytes, &Integrity::parse(&sri(bytes)).unwrap(), &mut unit, &mut buffers)
    };
    let mode = Entry { name: b"package/s", mode: b"0006755\0", ..Entry::default() };
    let package = take(&Archive::default().entry(&mode).end()).unwrap();
    let manifest = rift_tree::Manifest::parse(&package.tree.bytes).unwrap();
    let id = manifest.children(rift_tree::EntryId::ROOT).next().unwrap();
    assert_eq!(manifest.mode(id).unwrap() & 0o7777, 0o777);
    // npm's own tar throws on this one outside of any promise.
    let name = Entry { name: b"package/a\0b\nc\0d", ..Entry::default() };
    let nul = take(&Archive::default().entry(&name).end());
    assert!(matches!(nul, Err(PackageError::Corrupt(_))), "{nul:?}");
    let claim = Entry { name: b"package/a", size: Some(*b"777777777777"), ..Entry::default() };
    let large = take(&Archive::default().entry(&claim).end());
    assert!(matches!(large, Err(PackageError::TooLarge(_))), "{large:?}");
    let right = Archive::default().file("package/a", b"x").end();
    let wrong = tarball::import(
        &right[..],
        &Integrity::parse(&sri(b"other")).unwrap(),
        &mut unit,
        &mut tarball::Buffers::default(),
    );
    assert!(matches!(wrong, Err(PackageError::Integrity { .. })), "{wrong:?}");
}

#[test]
fn commands_are_executable_and_have_clean_first_lines() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store")).unwrap();
    let crlf = b"#!/usr/bin/env node\r\nnext\r\n\xff";
    let manifest = br#"{"name":"@s/p","bin":{"a":"./a.js","b":"b.js","c":"missing"},
        "scripts":{"install":"x"},"bundleDependencies":["q"]}"#;
    let tar = Archive::default()
        .file("package/a.js", crlf)
        .file("package/other.js", crlf)
        .file("package/b.js", b"#!/bin/sh\n")
        .file("package/package.json", manifest)
        .file("package/node_modules/q/package.json", br#"{"name":"q","bin":"q.js"}"#)
        .file("package/node_modules/q/q.js", crlf)
        .file("package/binding.gyp", b"{}")
        .end();
    let import = store.import().unwrap();
    let mut unit = import.unit();
    let integrity = Integrity::parse(&sri(&tar)).unwrap();
    let package =
        tarball::import(&tar[..], &integrity, &mut unit, &mut tarball::Buffers::default()).unwrap();
    unit.flush().unwrap();
    drop(unit);
    import.finish(&[]).unwrap();
    let ours = folder.path().join("ours");
    materialize(&store, &package.tree, &ours);
    let read = |name: &str| {
        let path = ours.join(name);
        (path.metadata().unwrap().permissions().mode() & 0o100, fs::read(path).unwrap())
    };
    let fixed = "#!/usr/bin/env node\nnext\r\n\u{fffd}".as_bytes().to_vec();
    assert_eq!(read("a.js"), (0o100, fixed.clone()));
    assert_eq!(read("node_modules/q/q.js"), (0o100, fixed));
    assert_eq!(read("other.js"), (0, crlf.to_vec()));
    assert_eq!(read("b.js").0, 0o100);
    let facts = package.facts;
    assert!(facts.has_binding_gyp && facts.has_node_modules && !facts.has_shrinkwrap);
    assert_eq!(facts.bins.iter().map(|bin| &*bin.name).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!((facts.scripts, facts.bundled), (vec!["install".into()], vec!["q".into()]));
}

const SECRET: &str = "s3cr3t-t0k3n";

fn package_bytes() -> Vec<u8> {
    gzip(&Archive::default().file("package/package.json", b"{\"name\":\"p\"}").end())
}

/// Tells whether a file below `folder` holds `needle`.
fn holds(folder: &Path, needle: &[u8]) -> bool {
    list(folder, "")
        .values()
        .filter_map(|(_, bytes)| bytes.as_ref())
        .any(|bytes| bytes.windows(needle.len()).any(|window| window == needle))
}

#[test]
fn logins_go_where_they_belong_and_nowhere_else() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store")).unwrap();
    let bytes = package_bytes();
    let elsewhere = {
        let bytes = bytes.clone();
        Server::start(move |_, _, stream| reply(stream, "200 OK", "", &bytes))
    };
    let target = elsewhere.url();
    let home = Server::start(move |request, _, stream| match &request.authorization {
        Some(login) if login == &format!("Bearer {SECRET}") => match &*request.path {
            "/npm/@corp/p/-/p-1.0.0.tgz" => {
                let location = format!("location: /npm/moved?token={SECRET}\r\n");
                reply(stream, "302 Found", &location, b"");
            }
            _ => reply(stream, "307 Away", &format!("location: {target}p.tgz\r\n"), b""),
        },
        _ => reply(stream, "401 Unauthorized", "", b""),
    });
    let mut settings = quick(&elsewhere.url());
    settings.scopes.insert("@corp".into(), format!("{}npm/", home.url()));
    let package = wanted("@corp/p", &sri(&bytes), None);
    let denied = fetch(&store, std::slice::from_ref(&package), &settings, None).unwrap_err();
    let Cause::Registry(RegistryError::Status { status: 401, .. }) = &*denied.cause else {
        panic!("{denied:?}");
    };
    assert!(denied.hint().unwrap().contains("npm login"));
    let auth = Auth { token: Some(SECRET.into()), ..Auth::default() };
    settings.auth.insert(format!("//{}/npm/", home.address), auth);
    let fetched = fetch(&store, std::slice::from_ref(&package), &settings, None).unwrap();
    assert_eq!(fetched.packages[0].as_ref().unwrap().source, Source::Registry);
    let asked: Vec<String> = home.requests().into_iter().map(|request| request.path).collect();
    assert_eq!(asked[2], format!("/npm/moved?token={SECRET}"), "{asked:?}");
    let strangers = elsewhere.requests();
    assert_eq!(strangers.len(), 1);
    assert_eq!(strangers[0].authorization, None);
    assert!(!holds(store.root(), SECRET.as_bytes()));
    assert!(holds(store.root(), b"{\"name\":\"p\"}"), "the search finds what is there");
}

#[test]
fn errors_hold_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store")).unwrap();
    let server = Server::start(|request, _, stream| match request.path.split('?').next() {
        Some("/cut") => {
            drop(stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nx"));
        }
        Some("/loop") => reply(stream, "302 Found", &format!("location: /loop?{SECRET}\r\n"), b""),
        Some("/wrong") => reply(stream, "200 OK", "", b"wrong"),
        Some("/none") => reply(stream, "404 Not Found", "", SECRET.as_bytes()),
        _ => reply(stream, "500 Oh", "", b""),
    });
    let mut settings = quick(&server.url());
    let login = Auth {
        username: Some("user".into()),
        password: Some(rift_launcher::plan::npm::package::integrity::base64_encode(
            SECRET.as_bytes(),
        )),
        ..Auth::default()
    };
    settings.auth.insert(format!("//{}/", server.address), login.clone());
    let secrets = [SECRET.to_owned(), login.password.unwrap()];
    let host = server.address;
    let closed = "127.0.0.1:9";
    for url in [
        format!("http://u:{SECRET}@{host}/cut?token={SECRET}"),
        format!("http://u:{SECRET}@{host}/loop?token={SECRET}"),
        format!("http://u:{SECRET}@{host}/wrong?token={SECRET}"),
        format!("http://u:{SECRET}@{host}/none?token={SECRET}"),
        format!("http://u:{SECRET}@{host}/broken?token={SECRET}"),
        format!("http://u:{SECRET}@{closed}/x?token={SECRET}"),
        format!("ftp://u:{SECRET}@{host}/x"),
        format!("git+ssh://u:{SECRET}@{host}/x"),
        format!("not an address?{SECRET}"),
    ] {
        let package = wanted("p", &sri(b"x"), Some(url.clone()));
        let failure = fetch(&store, &[package], &settings, None).unwrap_err();
        let mut text = format!("{failure} {failure:?} {:?} {settings:?}", failure.hint());
        let mut cause: Option<&dyn std::error::Error> = Some(&failure);
        while let Some(error) = cause {
            text.push_str(&error.to_string());
            cause = error.source();
        }
        for secret in &secrets {
            assert!(!text.contains(secret.as_str()), "{url}: {text}");
        }
    }
    assert!(!holds(store.root(), SECRET.as_bytes()));
}

#[test]
fn failures_that_pass_are_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = gzip(&Archive::default().file("package/a", &[b'a'; 200_000]).end());
    let start = || {
        let bytes = bytes.clone();
        Server::start(move |request, before, stream| match (&*request.path, before) {
            ("/busy", 0) => reply(stream, "503 Busy", "", b""),
            ("/busy", 1) => reply(stream, "429 Slow", "", b""),
            ("/cut", 0) => {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", bytes.len());
                drop(stream.write_all(head.as_bytes()));
                drop(stream.write_all(&bytes[..bytes.len() / 2]));
            }
            ("/silent", 0) => {}
            ("/wrong", 0) => reply(stream, "200 OK", "", b"wrong"),
            ("/slow", _) => {
                let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
                drop(stream.write_all(head));
                for piece in bytes.chunks(bytes.len() / 7 + 1) {
                    drop(write!(stream, "{:x}\r\n", piece.len()));
                    drop(stream.write_all(piece).and_then(|()| stream.write_all(b"\r\n")));
                    std::thread::sleep(Duration::from_millis(20));
                }
                drop(stream.write_all(b"0\r\n\r\n"));
            }
            ("/gone", _) => reply(stream, "503 Busy", "", b""),
            ("/always-wrong", _) => reply(stream, "200 OK", "", b"wrong"),
            ("/stuck", _) => std::thread::sleep(Duration::from_secs(3)),
            _ => reply(stream, "200 OK", "", &bytes),
        })
    };
    for (path, requests, is_good) in [
        ("busy", 3, true),
        ("cut", 2, true),
        ("silent", 2, true),
        ("wrong", 2, true),
        ("slow", 1, true),
        ("gone", 3, false),
        ("always-wrong", 2, false),
        ("stuck", 3, false),
    ] {
        let store = Store::open(&folder.path().join(path)).unwrap();
        let server = start();
        let mut settings = quick(&server.url());
        if path == "stuck" {
            settings.timeout = Duration::from_millis(200);
        }
        let package = wanted("p", &sri(&bytes), Some(format!("{}{path}", server.url())));
        let result = fetch(&store, &[package], &settings, None);
        let asked = server.requests().len();
        assert_eq!(result.is_ok(), is_good, "{path}: {result:?}");
        assert_eq!(asked, requests, "{path}");
    }
}

#[test]
fn a_damaged_cache_file_is_a_miss_and_optional_packages_may_fail() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store")).unwrap();
    let bytes = package_bytes();
    let server = {
        let bytes = bytes.clone();
        Server::start(move |request, _, stream| match &*request.path {
            "/p/-/p-1.0.0.tgz" => reply(stream, "200 OK", "", &bytes),
            _ => reply(stream, "404 Not Found", "", b""),
        })
    };
    let integrity = Integrity::parse(&sri(&bytes)).unwrap();
    let hex: String =
        integrity.digests().next().unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
    let cache = folder.path().join("cache");
    let content = cache.join("_cacache/content-v2/sha512").join(&hex[..2]).join(&hex[2..4]);
    fs::create_dir_all(&content).unwrap();
    fs::write(content.join(&hex[4..]), b"damaged").unwrap();
    let mut missing = wanted("missing", &sri(b"missing"), None);
    missing.is_optional = true;
    let twice = wanted("p", &sri(&bytes), None);
    let packages = [missing.clone(), twice.clone(), twice];
    let settings = quick(&server.url());
    let fetched = fetch(&store, &packages, &settings, Some(&cache)).unwrap();
    assert!(fetched.packages[0].is_err());
    assert_eq!(fetched.packages[1].as_ref().unwrap().source, Source::Registry);
    assert_eq!(fetched.packages[2].as_ref().unwrap().source, Source::Registry);
    assert_eq!(fetched.records.len(), 1, "equal integrities are one package");
    assert_eq!(server.requests().len(), 2);
    missing.is_optional = false;
    let failure = fetch(&store, &[missing], &settings, Some(&cache)).unwrap_err();
    assert_eq!(failure.to_string(), "could not fetch missing@1.0.0");
    assert!(failure.hint().unwrap().contains("lockfile"));
}
