//! Trees between machines: `rift push`, `pull`, `remote` and `key` against a folder, a server that counts and misbehaves, and moto.
//!
//! Two machines are two sandboxes: each has its home, its keys and its store.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rift_cas::Store;
use rift_cas::remote::address::Address;
use rift_cas::remote::keys::{NamedKey, PrivateKey, TrustedKeys};
use rift_cas::remote::plan::{self, Plan};
use rift_cas::remote::{self, Error, Extent, Limits, Needs, Options, Pruned, Remote};
use rift_tests::moto::{self, Moto};
use rift_tests::need::skip;
use rift_tests::noise;
use rift_tests::sandbox::{self, Ran, Sandbox};
use rift_tests::server::{Fault, Server, When};
use rift_tree::TreeHash;

/// A secret that must never be printed.
const SECRET: &str = "s3cr3t-of-the-test";

/// What a prune leaves that plans need.
fn needs_of(plans: &[TreeHash]) -> Needs<'_> {
    Needs { plans, lineages: &["npm/"], refs: &[] }
}

/// A machine.
struct Machine {
    sandbox: Sandbox,
    endpoint: Option<String>,
    secret: &'static str,
}

impl Machine {
    fn new(name: &str, endpoint: Option<String>) -> Result<Self> {
        Ok(Self { sandbox: Sandbox::new(name)?, endpoint, secret: SECRET })
    }

    fn run(&self, arguments: &[&str]) -> Result<Ran> {
        let mut command = self.sandbox.rift(&self.sandbox.home(), arguments)?;
        if let Some(endpoint) = &self.endpoint {
            command.env("AWS_ENDPOINT_URL", endpoint).env("AWS_REGION", "us-east-1");
            command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", self.secret);
        }
        let ran = self.sandbox.run(&mut command)?;
        ensure!(!format!("{}{}", ran.stdout, ran.stderr).contains(SECRET), "{ran}");
        Ok(ran)
    }

    /// Returns what a command printed that ended well.
    fn good(&self, arguments: &[&str]) -> Result<String> {
        Ok(self.run(arguments)?.success()?.stdout.trim_end().to_owned())
    }

    /// Returns what a command said that failed.
    fn bad(&self, arguments: &[&str]) -> Result<String> {
        let ran = self.run(arguments)?;
        ensure!(ran.status.code() == Some(125), "{ran}");
        Ok(ran.stderr)
    }

    fn path(&self, inner: &str) -> String {
        self.sandbox.path(inner).display().to_string()
    }

    /// Makes the files of a tree.
    fn write(&self, folder: &str, files: &[(&str, Vec<u8>)]) -> Result<String> {
        for (name, bytes) in files {
            let path = self.sandbox.path(folder).join(name);
            fs::create_dir_all(path.parent().context("a file is in a folder")?)?;
            fs::write(path, bytes)?;
        }
        Ok(self.path(folder))
    }
}

/// Returns a tree of packages, small files and a large one.
fn files() -> Vec<(&'static str, Vec<u8>)> {
    let mut files = vec![
        ("big/blob", noise(1, 9 << 20)),
        ("one/package.json", b"{\"name\":\"one\"}".to_vec()),
        ("one/empty", Vec::new()),
        ("two/index.js", noise(2, 3000)),
    ];
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    files.extend(
        names.iter().enumerate().map(|(seed, name)| (*name, noise(seed as u64 + 10, 90_000))),
    );
    files
}

/// Returns every file below a folder.
fn below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        match path.is_dir() {
            true => found.extend(below(&path)?),
            false => found.push(path),
        }
    }
    found.sort();
    Ok(found)
}

#[test]
fn a_pushed_tree_comes_back_as_it_was() -> Result<()> {
    let (one, two) = (Machine::new("push", None)?, Machine::new("pull", None)?);
    let source = one.write("source", &files())?;
    std::os::unix::fs::symlink("../one/empty", one.sandbox.path("source/two/link"))?;
    let tree = one.good(&["ingest", &source, "--name", "deps/main"])?;
    let url = format!("file://{}", one.path("shared"));
    let said = one.bad(&["push", "deps/main", &url])?;
    assert!(said.contains("rift key new"), "{said}");
    let key = one.good(&["key", "new", "alice@test"])?;
    assert!(key.starts_with("alice@test:"), "{key}");
    assert_eq!(one.good(&["push", "deps/main", &url])?, tree);
    let again = one.run(&["push", "-v", "deps/main", &url])?.success()?;
    assert!(again.stderr.contains("already") && again.stderr.contains(" 0 PUT"), "{again}");

    let said = two.bad(&["pull", "deps/main", &url])?;
    let digits = key.split_once(':').context("NAME:HEX")?.1;
    assert!(said.contains(digits) && said.contains("rift key trust NAME:"), "{said}");
    assert!(two.good(&["refs"])?.is_empty());
    two.good(&["key", "trust", &key])?;
    let pulled = two.run(&["pull", "-v", "deps/main", &url])?.success()?;
    assert_eq!(pulled.stdout.trim_end(), tree);
    // Ref, deny-list, manifest, sidecar, a pack and the large blob.
    assert!(pulled.stderr.contains("6 requests (6 GET, 0 HEAD, 0 PUT"), "{pulled}");
    let target = two.path("target");
    two.good(&["materialize", "deps/main", &target])?;
    assert_eq!(two.good(&["ingest", &target])?, tree, "names, bytes, modes and times are the same");
    two.good(&["store", "verify"])?;
    let again = two.run(&["pull", "-v", "deps/main", &url])?.success()?;
    assert!(again.stderr.contains("2 requests"), "{again}");
    assert!(two.bad(&["pull", "no/such", &url])?.contains("has no ref `no/such`"));

    // A stranger's ref is not replaced by who does not trust its key.
    let three = Machine::new("stranger", None)?;
    three.good(&["key", "new", "mallory"])?;
    let other = three.write("source", &[("x", b"x".to_vec())])?;
    three.good(&["ingest", &other, "--name", "deps/main"])?;
    assert!(three.bad(&["push", "deps/main", &url])?.contains("not trusted here"));
    two.good(&["key", "trust", "--remove", "alice@test"])?;
    assert!(two.bad(&["pull", "deps/main", &url])?.contains("not trusted here"));
    Ok(())
}

#[test]
fn secrets_stay_on_the_machine() -> Result<()> {
    let one = Machine::new("secrets", None)?;
    let word = b"a-word-that-must-stay";
    let settings = [b"//host.test/:_authToken=".as_slice(), word].concat();
    let source = one.write(
        "source",
        &[
            ("a/.env", word.to_vec()),
            ("a/.npmrc", settings),
            ("id_rsa", word.to_vec()),
            ("index.js", b"good".to_vec()),
        ],
    )?;
    let tree = one.good(&["ingest", &source, "--name", "app"])?;
    one.good(&["key", "new"])?;
    let url = format!("file://{}", one.path("shared"));
    let pushed = one.run(&["push", "app", &url])?.success()?;
    for name in ["a/.env", "a/.npmrc", "id_rsa"] {
        assert!(pushed.stderr.contains(&format!("`{name}` stays here")), "{pushed}");
    }
    assert_ne!(pushed.stdout.trim_end(), tree);
    for path in below(&one.sandbox.path("shared"))? {
        let bytes = fs::read(&path)?;
        assert!(!bytes.windows(word.len()).any(|at| at == word), "{}", path.display());
    }
    let listed = one.good(&["ls", "-R", pushed.stdout.trim_end()])?;
    assert!(listed.contains("index.js") && !listed.contains(".env"), "{listed}");
    Ok(())
}

#[test]
fn a_changed_tree_sends_what_changed() -> Result<()> {
    let server = Server::start()?;
    let one = Machine::new("changed", Some(server.endpoint()))?;
    let two = Machine::new("changed-pull", Some(server.endpoint()))?;
    let source = one.write("source", &files())?;
    one.good(&["ingest", &source, "--name", "deps"])?;
    two.good(&["key", "trust", &one.good(&["key", "new"])?])?;
    one.good(&["remote", "add", "s3://bucket/team"])?;
    one.good(&["push", "deps"])?;
    two.good(&["pull", "deps", "s3://bucket/team"])?;
    one.write("source", &[("two/index.js", noise(99, 3000)), ("two/more.js", noise(98, 2000))])?;
    let tree = one.good(&["ingest", &source, "--name", "deps"])?;
    let before: BTreeSet<String> = server.objects().into_iter().collect();
    let _earlier = server.asked();
    let pushed = one.run(&["push", "-v", "deps"])?.success()?;
    let asked = server.asked();
    assert!(asked.len() <= 10, "{asked:?}");
    assert!(pushed.stderr.contains(&format!("{} requests", asked.len())), "{pushed} {asked:?}");
    let new: Vec<String> =
        server.objects().into_iter().filter(|path| !before.contains(path)).collect();
    assert_eq!(new.iter().filter(|path| path.contains("/data/")).count(), 1, "{new:?}");
    assert!(pushed.stderr.contains(" kB sent"), "{pushed}");
    let pulled = two.run(&["pull", "-v", "deps", "s3://bucket/team"])?.success()?;
    assert_eq!(pulled.stdout.trim_end(), tree);
    let asked = server.asked();
    assert!(asked.len() == 5 && asked.iter().all(|(method, _)| method == "GET"), "{asked:?}");
    assert!(pulled.stderr.contains(" kB received"), "{pulled}");
    Ok(())
}

#[test]
fn who_is_second_replaces_nothing() -> Result<()> {
    let server = Server::start()?;
    let one = Machine::new("race", Some(server.endpoint()))?;
    let source = one.write("source", &[("x", b"1".to_vec())])?;
    one.good(&["ingest", &source, "--name", "deps"])?;
    one.good(&["key", "new"])?;
    let race = || When { method: "PUT", path: "/refs/", after: 0, times: 1, fault: Fault::Race };
    // The ref is made, and then changed, by another while this push is under way.
    server.fail([race()]);
    let said = one.bad(&["push", "deps", "s3://bucket"])?;
    assert!(said.contains("somebody else changed the ref `deps`"), "{said}");
    let second = Server::start()?;
    let one = Machine { endpoint: Some(second.endpoint()), ..one };
    one.good(&["push", "deps", "s3://bucket"])?;
    one.write("source", &[("x", b"2".to_vec())])?;
    one.good(&["ingest", &source, "--name", "deps"])?;
    second.fail([race()]);
    let said = one.bad(&["push", "deps", "s3://bucket"])?;
    assert!(said.contains("somebody else changed the ref `deps`"), "{said}");
    one.good(&["push", "deps", "s3://bucket"])?;
    Ok(())
}

#[test]
fn an_interrupted_push_goes_on_where_it_was() -> Result<()> {
    let server = Server::start()?;
    let one = Machine::new("interrupted", Some(server.endpoint()))?;
    let large = ["a", "b", "c", "d"].iter().zip(1..);
    let large: Vec<_> = large.map(|(name, seed)| (*name, noise(seed, 8 << 20))).collect();
    let source = one.write("source", &large)?;
    let tree = one.good(&["ingest", &source, "--name", "data"])?;
    one.good(&["key", "new"])?;
    server.fail([When {
        method: "PUT",
        path: "/data/",
        after: 2,
        times: 9,
        fault: Fault::Status(403),
    }]);
    let said = one.bad(&["push", "data", "s3://bucket"])?;
    assert!(said.contains("credentials"), "{said}");
    let there: BTreeSet<String> = server.objects().into_iter().collect();
    assert_eq!(there.len(), 2, "{there:?}");
    server.fail([]);
    let _earlier = server.asked();
    assert_eq!(one.good(&["push", "data", "s3://bucket"])?, tree);
    let sent: Vec<String> = server
        .asked()
        .into_iter()
        .filter(|(method, path)| method == "PUT" && path.contains("/data/"))
        .map(|(_, path)| path)
        .collect();
    assert_eq!(sent.len(), 2, "{sent:?}");
    assert!(sent.iter().all(|path| !there.contains(path)), "{sent:?}");
    Ok(())
}

/// Where the last part is refused nothing of it is left, and the next push sends it anew.
#[test]
fn a_very_large_file_goes_in_parts() -> Result<()> {
    let server = Server::start()?;
    let one = Machine::new("parts", Some(server.endpoint()))?;
    let source = one.write("source", &[("image", noise(5, 100 << 20))])?;
    let tree = one.good(&["ingest", &source, "--name", "deps"])?;
    let key = one.good(&["key", "new"])?;
    let push = ["push", "deps", "s3://bucket/team"];
    let refused = Fault::Status(403);
    server.fail([When { method: "PUT", path: "/data/", after: 2, times: 1, fault: refused }]);
    one.bad(&push)?;
    ensure!(server.unfinished() == 0 && server.objects().is_empty(), "{:?}", server.objects());
    let _earlier = server.asked();
    one.good(&push)?;
    let is_part = |(method, path): &&(String, String)| method == "PUT" && path.contains("/data/");
    ensure!(server.asked().iter().filter(is_part).count() > 2);
    let two = Machine::new("parts-2", Some(server.endpoint()))?;
    two.good(&["key", "trust", &key])?;
    two.good(&["pull", "deps", "s3://bucket/team"])?;
    two.good(&["materialize", "deps", &two.path("made")])?;
    assert_eq!(two.good(&["ingest", &two.path("made")])?, tree);
    Ok(())
}

/// What one connection would take long for is read by several, and checked as a whole; from a server that does not know
/// ranges each object comes in order.
#[test]
fn a_pull_divides_what_is_large() -> Result<()> {
    let server = Server::start()?;
    let one = Machine::new("divided", Some(server.endpoint()))?;
    let mut mixed = noise(6, 5 << 20);
    mixed.extend(b"what is in frames, ".repeat(2 << 20));
    let small: Vec<_> =
        (0..20).map(|seed| (format!("small/{seed}"), noise(seed, 1 << 20))).collect();
    let mut files: Vec<(&str, Vec<u8>)> = vec![("plain", noise(5, 40 << 20)), ("mixed", mixed)];
    files.extend(small.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())));
    let source = one.write("source", &files)?;
    let tree = one.good(&["ingest", &source, "--name", "deps"])?;
    let mut trusted = TrustedKeys::default();
    trusted.add(NamedKey::parse(&one.good(&["key", "new"])?)?);
    one.good(&["push", "deps", "s3://bucket/team"])?;
    let data = || server.asked().iter().filter(|(_, path)| path.contains("/data/")).count();
    let total: u64 = files.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    // In memory, where fsync(2) is free.
    let stores = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?;
    let mut count = 0;
    // Returns whether it succeeds, how many requests of data it makes, and how many bytes are sent.
    let mut pull =
        |fault: Option<(&'static str, usize, usize, Fault)>| -> Result<(bool, usize, u64)> {
            let when = fault.map(|(path, after, times, fault)| When {
                method: "GET",
                path,
                after,
                times,
                fault,
            });
            server.fail(when);
            let _earlier = (data(), server.sent("/data/"));
            count += 1;
            let folder = stores.path().join(count.to_string());
            let (pulled, _) = pull_impatiently(&server, &folder, &trusted)?;
            let store = Store::open(&folder)?;
            let is_there = store.get_ref("deps")?.is_some();
            assert_eq!(pulled.is_ok(), is_there, "{fault:?}: {pulled:?}");
            if is_there {
                assert_eq!(pulled?.tree.to_string(), tree);
                let bad = rift_cas::verify::verify(&store, false, &|_| {})?;
                assert!(bad.is_clean(), "{fault:?}");
            }
            assert_eq!(fs::read_dir(folder.join("tmp"))?.count(), 0, "{fault:?}");
            fs::remove_dir_all(&folder)?;
            Ok((is_there, data(), server.sent("/data/")))
        };
    let (is_there, requests, all) = pull(None)?;
    // Both large files in two parts, and the pack as well.
    assert!(is_there && requests == 6 && all < total, "{requests} requests, {all} of {total}");
    let mut chosen = 0;
    for fault in [Fault::Wrong, Fault::Short, Fault::Reset, Fault::Status(500)] {
        for path in [".blob", ".blob.zst", ".pack"] {
            for after in [0, 1] {
                chosen += 1;
                if !rift_tests::full() && chosen % 5 != 0 {
                    continue;
                }
                assert!(pull(Some((path, after, 1, fault)))?.0, "{fault:?} of {path} {after}");
            }
        }
    }
    assert!(!pull(Some((".blob", 1, 1000, Fault::Wrong)))?.0);
    // One request shows for each object that it comes whole; then its start is read, and the rest.
    let (is_there, requests, _) = pull(Some(("/data/", 0, 1000, Fault::Whole)))?;
    // A machine that is busy makes it ask for one or the other again.
    assert!(is_there && requests <= 12, "{requests} requests");
    Ok(())
}

#[test]
fn what_was_tampered_with_is_refused() -> Result<()> {
    let (one, two) = (Machine::new("tamper", None)?, Machine::new("tamper-pull", None)?);
    let source = one.write("source", &files())?;
    one.good(&["ingest", &source, "--name", "deps"])?;
    two.good(&["key", "trust", &one.good(&["key", "new"])?])?;
    let url = format!("file://{}", one.path("shared"));
    one.good(&["push", "deps", &url])?;
    let objects = below(&one.sandbox.path("shared"))?;
    assert_eq!(objects.len(), 5, "{objects:?}");
    for object in objects {
        let whole = fs::read(&object)?;
        let mut changed = whole.clone();
        // In a record the digits of the tree; elsewhere somewhere in the middle.
        let at = if object.ends_with("refs/deps") { 40 } else { whole.len() / 2 };
        changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
        for bytes in [&changed[..], &whole[..whole.len() / 2]] {
            fs::write(&object, bytes)?;
            sandbox::clear(&two.sandbox.store())?;
            let said = two.bad(&["pull", "deps", &url])?;
            assert!(said.contains("error: could not pull `deps`"), "{}: {said}", object.display());
            assert!(two.good(&["refs"])?.is_empty());
            two.good(&["store", "verify"])?;
        }
        fs::write(&object, &whole)?;
    }
    // A ref in the place of another.
    fs::copy(one.sandbox.path("shared/refs/deps"), one.sandbox.path("shared/refs/other"))?;
    assert!(two.bad(&["pull", "other", &url])?.contains("what `deps` means"));
    two.good(&["pull", "deps", &url])?;
    Ok(())
}

/// Pulls from a server with short limits; returns what came of it, and how long it took.
fn pull_impatiently(
    server: &Server,
    store: &Path,
    trusted: &TrustedKeys,
) -> Result<(Result<remote::Pulled, Error>, Duration)> {
    let limits = Limits {
        answer: Duration::from_millis(700),
        bytes_per_second: 4 << 20,
        retries: 2,
        all: None,
    };
    let options = Options { limits, ..Options::default() };
    let address = Address::parse(&format!("{}/bucket/team", server.endpoint()))?;
    let opened = Remote::open(&address, &options)?;
    let store = Store::open(store)?;
    let started = Instant::now();
    let pulled = remote::pull(&opened, &store, ("deps", Extent::Whole), trusted, &|_| {});
    Ok((pulled, started.elapsed()))
}

#[test]
fn a_remote_that_misbehaves_ends_in_a_clear_error() -> Result<()> {
    let server = Server::start()?;
    let one = Machine::new("misbehaves", None)?;
    let source = one.write("source", &files())?;
    // What is sent in frames.
    one.write("source", &[("big/text", b"a line of text, and ".repeat(450_000))])?;
    one.good(&["ingest", &source, "--name", "deps"])?;
    let key = NamedKey::parse(&one.good(&["key", "new"])?)?;
    let url = format!("file://{}", one.path("shared"));
    one.good(&["push", "deps", &url])?;
    let shared = one.sandbox.path("shared");
    for path in below(&shared)? {
        let name = path.strip_prefix(&shared)?.display().to_string();
        server.put(&format!("/bucket/team/{name}"), fs::read(&path)?);
    }
    let mut trusted = TrustedKeys::default();
    trusted.add(key);
    let faults = [
        (Fault::Wrong, true),
        (Fault::Short, true),
        (Fault::Long, true),
        (Fault::Endless, true),
        (Fault::Slow, true),
        (Fault::Silent, true),
        (Fault::Reset, true),
        (Fault::Status(500), true),
        (Fault::Busy, true),
        (Fault::Status(403), false),
        (Fault::Status(404), false),
    ];
    let mut count = 0;
    // In memory, where fsync(2) is free.
    let memory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?;
    let stores = memory.path();
    for (fault, passes) in faults {
        for path in ["/refs/", "/trees/", "/places/", ".pack", ".blob", ".zst"] {
            count += 1;
            // Each pair waits for its limits.
            if !rift_tests::full() && count % 3 != 0 {
                continue;
            }
            let store = stores.join(format!("store-{count}"));
            let fail = |times| server.fail([When { method: "GET", path, after: 0, times, fault }]);
            fail(1000);
            let (pulled, time) = pull_impatiently(&server, &store, &trusted)?;
            let what = format!("{fault:?} of {path}: {pulled:?} after {time:?}");
            assert!(time < Duration::from_secs(25), "{what}");
            // Who sends more than was asked for has sent that, and it was checked.
            let is_data = path.starts_with('.');
            let is_harmless = is_data && matches!(fault, Fault::Long | Fault::Endless);
            assert_eq!(pulled.is_ok(), is_harmless, "{what}");
            let opened = Store::open(&store)?;
            assert_eq!(opened.get_ref("deps")?.is_some(), is_harmless, "{what}");
            // What is wrong once does not end a pull, but for a ref: that is small, and read once.
            if passes && path != "/refs/" {
                fail(1);
                let (pulled, _) = pull_impatiently(&server, &store, &trusted)?;
                assert!(pulled.is_ok(), "{fault:?} of {path} once: {pulled:?}");
            }
            fs::remove_dir_all(&store)?;
        }
    }
    server.fail([]);
    let (pulled, _) = pull_impatiently(&server, &stores.join("store-0"), &trusted)?;
    assert!(!pulled?.was_here);
    Ok(())
}

#[test]
fn a_private_key_is_never_shown_and_never_shared() -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let one = Machine::new("key", None)?;
    let public = one.good(&["key", "new", "me"])?;
    let path = one.sandbox.path("home/.config/rift/key");
    assert_eq!(fs::metadata(&path)?.permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&path)?;
    let secret = text.trim_end().rsplit(':').next().context("the key")?.to_owned();
    assert_eq!(secret.len(), 64);
    assert_eq!(one.good(&["key", "list"])?, format!("{public}\tyours"));
    assert!(!public.contains(&secret));
    let said = one.bad(&["key", "new", "me"])?;
    assert!(said.contains("--replace") && !said.contains(&secret), "{said}");
    assert_ne!(one.good(&["key", "new", "me", "--replace"])?, public);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640))?;
    let said = one.bad(&["key", "list"])?;
    assert!(said.contains("others can reach") && said.contains("chmod 600"), "{said}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    fs::write(&path, text.replace(':', ";"))?;
    let said = one.bad(&["key", "list"])?;
    assert!(said.contains("is no private key") && !said.contains(&secret), "{said}");
    Ok(())
}

#[test]
fn remotes_are_found_by_name_and_checked() -> Result<()> {
    let server = Server::start()?;
    let one = Machine::new("remotes", Some(server.endpoint()))?;
    let shared = format!("file://{}", one.path("shared"));
    one.good(&["remote", "add", "--user", "s3://bucket/team"])?;
    one.good(&["remote", "add", "--user", "--name", "disk", &shared])?;
    assert_eq!(one.good(&["remote", "list"])?, format!("-\ts3://bucket/team\ndisk\t{shared}"));
    one.good(&["remote", "check"])?;
    one.good(&["remote", "check", "disk"])?;
    assert!(server.objects().is_empty() && below(&one.sandbox.path("shared"))?.is_empty());
    assert!(one.bad(&["remote", "check", "other"])?.contains("no remote is called `other`"));
    // A server that replaces what it is asked not to.
    server.fail([When {
        method: "PUT",
        path: "_check",
        after: 1,
        times: 1,
        fault: Fault::Careless,
    }]);
    assert!(one.bad(&["remote", "check"])?.contains("refs are not safe there"));
    for wrong in [format!("https://me:{SECRET}@host/x"), "http://host.test/x".to_owned()] {
        let said = one.bad(&["remote", "add", &wrong])?;
        assert!(said.contains("can't be a remote"), "{said}");
    }
    Ok(())
}

#[test]
fn s3_as_moto_has_it() -> Result<()> {
    let Some(program) = moto::program("s3_as_moto_has_it")? else { return Ok(()) };
    let folder = Sandbox::new("moto")?;
    let moto = Moto::start(&program, &folder.home())?;
    let endpoint = Some(moto.endpoint());
    let one = Machine::new("moto-push", endpoint.clone())?;
    let two = Machine::new("moto-pull", endpoint)?;
    assert_shared(&one, &two)
}

/// One machine sends a tree and a changed one, another has it.
fn assert_shared(one: &Machine, two: &Machine) -> Result<()> {
    let url = "s3://bucket/some/team";
    one.good(&["remote", "check", url])?;
    let source = one.write("source", &files())?;
    one.good(&["ingest", &source, "--name", "@scope/Deps_1.0"])?;
    two.good(&["key", "trust", &one.good(&["key", "new"])?])?;
    one.good(&["push", "@scope/Deps_1.0", url])?;
    one.write("source", &[("two/index.js", noise(77, 3000))])?;
    let tree = one.good(&["ingest", &source, "--name", "@scope/Deps_1.0"])?;
    one.good(&["push", "@scope/Deps_1.0", url])?;
    let again = one.run(&["push", "@scope/Deps_1.0", url])?.success()?;
    assert!(again.stderr.contains("already"), "{again}");
    assert_eq!(two.good(&["pull", "@scope/Deps_1.0", url])?, tree);
    two.good(&["store", "verify"])?;
    Ok(())
}

/// A folder is pruned to what is named; what stays is whole, and what is damaged goes.
#[test]
fn a_pruned_folder_has_what_was_kept() -> Result<()> {
    let one = Machine::new("prune", None)?;
    let public = one.good(&["key", "new", "me"])?;
    let key = fs::read_to_string(one.sandbox.path("home/.config/rift/key"))?;
    let key = PrivateKey::parse(&key)?;
    let mut trusted = TrustedKeys::default();
    trusted.add(NamedKey::parse(&public)?);
    let url = format!("file://{}", one.path("shared"));
    let shared = one.sandbox.path("shared");
    let options = Options { makes_folder: true, ..Options::default() };
    let opened = Remote::open(&Address::parse(&url)?, &options)?;
    let tree_of = |folder: &str, seed| -> Result<TreeHash> {
        let source =
            one.write(folder, &[("same", noise(1, 50_000)), ("other", noise(seed, 70_000))])?;
        Ok(TreeHash::from_hex(one.good(&["ingest", &source, "--name", folder])?.as_bytes())?)
    };
    let [first, second] = [tree_of("first", 2)?, tree_of("second", 3)?];
    let pushed = tree_of("pushed", 4)?;
    one.good(&["push", "pushed", &url])?;
    let store = Store::open(&one.sandbox.store())?;
    let plan_key = |byte| TreeHash::from_bytes([byte; 32]);
    let send = |byte, tree: TreeHash| {
        let (record, trees) = (format!("tree {tree}\n"), [tree]);
        let key_of_plan = plan_key(byte);
        let plan =
            Plan { key: key_of_plan, trees: &trees, record: record.as_bytes(), lineage: "npm/app" };
        plan::push_plan(&opened, &store, &plan, (&key, &trusted), &|_| {})
    };
    send(1, first)?;
    send(2, second)?;
    // What a killed writer leaves.
    fs::write(shared.join("data/left#1"), "left")?;
    // A pack of each tree, as each differs from what was there; the second plan's needs that of the first.
    assert_eq!(below(&shared.join("data"))?.len(), 4);
    let prune = |byte| remote::prune(&opened, &needs_of(&[plan_key(byte)]), &trusted);
    let pruned = prune(2)?;
    assert_eq!(
        (pruned.plans, pruned.removed),
        (1, 4),
        "a plan, a manifest, a sidecar, and what was left"
    );
    assert!(pruned.removed_bytes > 0 && pruned.kept_bytes > 4 * 50_000);
    assert_eq!(prune(2)?, Pruned { removed: 0, removed_bytes: 0, ..pruned });
    // All that stays can be had.
    let other = Store::open(&one.sandbox.path("other"))?;
    let signing: (&TrustedKeys, plan::Accepts<'_>) = (&trusted, &|_| true);
    let pulled = |key| plan::pull_plan(&opened, &other, key, Extent::Whole, signing, &|_| {});
    assert!(pulled(plan_key(1))?.is_none());
    assert!(pulled(plan_key(2))?.is_some());
    assert_eq!(
        remote::pull(&opened, &other, ("pushed", Extent::Whole), &trusted, &|_| {})?.tree,
        pushed
    );
    // A plan that nobody trusts is as good as none.
    let none = remote::prune(&opened, &needs_of(&[plan_key(2)]), &TrustedKeys::default())?;
    assert_eq!(
        (none.plans, below(&shared.join("refs"))?.len()),
        (0, 1),
        "the ref of its lineage goes with it"
    );
    send(2, second)?;
    let of_pushed = noise(4, 16);
    // A bit of its own data that is wrong, and then the pushed tree's.
    for (what, refs) in [("npm", 1), ("pushed", 0)] {
        for path in below(&shared.join("data"))? {
            let mut bytes = fs::read(&path)?;
            let at = bytes.len() / 2;
            bytes[at] ^= 1;
            let is_of_pushed = bytes.windows(16).any(|at| at == of_pushed);
            if is_of_pushed == (what == "pushed") {
                fs::write(&path, bytes)?;
            }
        }
        let pruned = prune(2)?;
        assert_eq!((pruned.plans, below(&shared.join("refs"))?.len()), (0, refs), "{what}");
    }
    assert_eq!(below(&shared)?, [shared.join("lock")]);
    // Only folders are pruned, and outside of a job only when it is said which runs count.
    let said = one.bad(&["remote", "prune", &url])?;
    assert!(said.contains("no job of a CI system") && said.contains("--since"), "{said}");
    let said = one.run(&["remote", "prune", "--since", "1h", &url])?.success()?.stderr;
    assert!(said.contains("everything stays"), "{said}");
    let server = Server::start()?;
    let address = Address::parse(&format!("{}/bucket", server.endpoint()))?;
    let remote = Remote::open(&address, &Options::default())?;
    let said = remote::prune(&remote, &needs_of(&[plan_key(2)]), &trusted).unwrap_err().to_string();
    assert!(said.contains("only a folder is pruned"), "{said}");
    assert_eq!(server.asked(), []);
    Ok(())
}

/// A running s3s-fs, which ends with the value.
struct Signed(Child);

impl Drop for Signed {
    fn drop(&mut self) {
        let _is_ended = self.0.kill().and_then(|()| self.0.wait()).is_ok();
    }
}

/// `scripts/test` installs s3s-fs below the target directory. Unlike moto it looks at signatures.
#[test]
fn s3_that_checks_signatures() -> Result<()> {
    let program = rift_tests::target_folder()?.join("s3s/bin/s3s-fs");
    if !program.is_file() {
        let why = "s3s-fs is not installed (scripts/test installs it from crates.io)";
        skip("s3_that_checks_signatures", why);
        return Ok(());
    }
    let folder = Sandbox::new("s3s")?;
    fs::create_dir_all(folder.path("data/bucket"))?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let mut command = folder.command(&folder.home(), &program);
    command.args(["--host", "127.0.0.1", "--port", &port.to_string(), "--access-key", "test"]);
    command.args(["--secret-key", SECRET]).arg(folder.path("data"));
    let log = fs::File::create(folder.home().join("s3s.log"))?;
    let _server = Signed(command.stdout(log.try_clone()?).stderr(log).spawn()?);
    let started = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        ensure!(started.elapsed() < Duration::from_secs(60), "s3s-fs does not answer");
        std::thread::sleep(Duration::from_millis(50));
    }
    let endpoint = Some(format!("http://127.0.0.1:{port}"));
    let one = Machine::new("s3s-push", endpoint.clone())?;
    let two = Machine::new("s3s-pull", endpoint.clone())?;
    assert_shared(&one, &two)?;
    let mut stranger = Machine::new("s3s-stranger", endpoint)?;
    stranger.secret = "another-s3cr3t";
    let refused = stranger.bad(&["pull", "@scope/Deps_1.0", "s3://bucket/some/team"])?;
    assert!(!refused.contains(stranger.secret) && refused.contains("could not read"), "{refused}");
    assert!(refused.contains("credentials"), "{refused}");
    Ok(())
}
