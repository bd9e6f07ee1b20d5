//! Who is believed: what was purged is served to nobody who uses the remote, and who is not trusted writes to a namespace that no
//! trusted run reads. Each machine is a sandbox with a home, keys and a store.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use rift_cas::remote::denied::SignedDenyList;
use rift_tests::noise;
use rift_tests::sandbox::{Ran, Sandbox};
use rift_tests::server::{Fault, Server, When};

const URL: &str = "s3://bucket/team";
const LIST: &str = "/bucket/team/denied/list";

/// A machine whose settings name the remote.
struct Machine {
    sandbox: Sandbox,
    env: Vec<(&'static str, String)>,
}

impl Machine {
    fn new(name: &str, server: &Server) -> Result<Self> {
        let env = [
            ("AWS_ENDPOINT_URL", server.endpoint()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", "test".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "s3cr3t-of-the-test".to_owned()),
            ("RIFT_REMOTE", URL.to_owned()),
        ];
        Ok(Self { sandbox: Sandbox::new(name)?, env: env.to_vec() })
    }

    /// One with a key, and the public half of it.
    fn with_key(name: &str, server: &Server) -> Result<(Self, String)> {
        let machine = Self::new(name, server)?;
        let key = machine.good(&["key", "new", name])?;
        Ok((machine, key))
    }

    /// One that trusts keys.
    fn trusting(name: &str, server: &Server, keys: &[&String]) -> Result<Self> {
        let machine = Self::new(name, server)?;
        for key in keys {
            machine.good(&["key", "trust", key])?;
        }
        Ok(machine)
    }

    /// Sets a variable for all commands.
    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.env.push((name, value.into()));
        self
    }

    fn run(&self, arguments: &[&str]) -> Result<Ran> {
        let mut command = self.sandbox.rift(&self.sandbox.home(), arguments)?;
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        self.sandbox.run(&mut command)
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

    /// Makes the files of a tree, takes them in under a name, and returns the tree.
    fn ingest(&self, name: &str, files: &[(&str, &[u8])]) -> Result<String> {
        let folder = self.sandbox.path(name);
        for (inner, bytes) in files {
            let path = folder.join(inner);
            fs::create_dir_all(path.parent().context("a file is in a folder")?)?;
            fs::write(path, bytes)?;
        }
        self.good(&["ingest", &folder.display().to_string(), "--name", name])
    }

    /// Tells whether bytes stand anywhere in the store.
    fn holds(&self, bytes: &[u8]) -> Result<bool> {
        let mut folders = vec![self.sandbox.store()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder)? {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if fs::read(path)?.windows(bytes.len()).any(|at| at == bytes) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

const CODE: &[u8] = b"the code of a package that nobody may be served";
const LICENSE: &[u8] = b"a license that many packages carry";

/// A package that is harmful, by itself and in a tree of others.
fn poison() -> [(&'static str, &'static [u8]); 2] {
    [("index.js", CODE), ("LICENSE", LICENSE)]
}

fn project(own: &'static [u8]) -> [(&'static str, &'static [u8]); 4] {
    [
        ("bad/index.js", CODE),
        ("bad/LICENSE", LICENSE),
        ("good/index.js", own),
        ("good/LICENSE", LICENSE),
    ]
}

fn entries(server: &Server) -> Result<usize> {
    let bytes = server.object(LIST).context("there is a deny-list")?;
    let signed = SignedDenyList::decode(&bytes)?;
    ensure!(signed.is_signed());
    Ok(signed.list.entries.len())
}

#[test]
fn a_purge_reaches_all_who_use_the_remote() -> Result<()> {
    let server = Server::start()?;
    let (one, key) = Machine::with_key("one", &server)?;
    let package = one.ingest("bad", &poison())?;
    one.ingest("deps", &project(b"one"))?;
    one.ingest("other", &[("LICENSE", LICENSE), ("main.js", b"other")])?;
    one.good(&["push", "deps"])?;
    one.good(&["push", "other"])?;
    let [cached, composed, fresh] =
        ["cached", "composed", "fresh"].map(|name| Machine::trusting(name, &server, &[&key]));
    let (cached, composed, fresh) = (cached?, composed?, fresh?);
    cached.good(&["pull", "deps"])?;
    // A tree that only this machine has made of it.
    let mine = composed.ingest("mine", &project(b"another"))?;
    assert!(cached.holds(CODE)? && composed.holds(CODE)?);
    let before: Vec<(String, Vec<u8>)> = server
        .objects()
        .into_iter()
        .filter_map(|path| Some((path.clone(), server.object(&path)?)))
        .collect();

    let said = one.good(&["store", "purge", &package])?;
    assert!(said.contains("denied   1 entries, 1 plans and refs removed at s3://"), "{said}");
    assert!(!one.holds(CODE)? && one.holds(LICENSE)?);
    assert!(!server.objects().iter().any(|path| path.ends_with("/refs/deps")));
    assert_eq!(entries(&server)?, 1);
    // Whoever can write to the server puts everything back but the deny-list.
    before.iter().for_each(|(path, bytes)| server.put(path, bytes.clone()));
    for machine in [&cached, &composed, &fresh] {
        let said = machine.bad(&["pull", "deps"])?;
        assert!(said.contains("was purged from this store"), "{said}");
        let had = !std::ptr::eq(machine, &fresh);
        assert_eq!(said.contains("denies what this store had"), had, "{said}");
        assert!(!machine.holds(CODE)?, "{said}");
        assert_eq!(machine.good(&["refs"])?, "", "no name is left");
        machine.good(&["pull", "other"])?;
        assert!(machine.holds(LICENSE)?, "what others have stays");
        machine.good(&["store", "verify"])?;
    }
    let again = cached.run(&["pull", "deps"])?;
    assert!(!again.stderr.contains("denies what this store had"), "it is told once: {again}");
    // Nor does it come from the disk again, or go to a remote.
    let folder = composed.sandbox.path("mine").display().to_string();
    assert!(composed.bad(&["ingest", &folder, "--name", "mine"])?.contains("was purged"));
    composed.good(&["key", "new"])?;
    assert!(composed.bad(&["push", "mine"])?.contains("no ref is called"));
    assert!(composed.bad(&["cat", &mine, "bad/index.js"])?.contains("no tree"));

    // What is purged without the remotes stays there.
    let tree = one.ingest("local", &[("a", b"local")])?;
    assert!(!one.good(&["store", "purge", "--local", &tree])?.contains("denied"));
    assert_eq!(entries(&server)?, 1);
    // Who has no key purges here, and hears that.
    let tree = cached.ingest("mine", &[("a", b"mine")])?;
    let ran = cached.run(&["store", "purge", &tree])?.success()?;
    assert!(ran.stderr.contains("the remotes keep it: you have no key"), "{ran}");
    assert!(cached.bad(&["store", "purge", "--remote", URL, &tree])?.contains("no key"));
    Ok(())
}

#[test]
fn an_older_deny_list_is_refused() -> Result<()> {
    let server = Server::start()?;
    let (one, key) = Machine::with_key("first", &server)?;
    let trees = [b"1", b"2", b"3"].map(|byte| one.ingest("tree", &[("a", byte)]));
    let [first, second, third] = trees;
    one.ingest("deps", &[("b", b"kept")])?;
    one.good(&["push", "deps"])?;
    let two = Machine::trusting("second", &server, &[&key])?;
    one.good(&["store", "purge", &first?])?;
    let older = server.object(LIST).context("a deny-list")?;
    one.good(&["store", "purge", &second?])?;
    assert_eq!(entries(&server)?, 2);
    two.good(&["pull", "deps"])?;
    for put_back in [Some(&older), None] {
        match put_back {
            Some(older) => server.put(LIST, older.clone()),
            None => server.lose(LIST),
        }
        let said = two.bad(&["pull", "deps"])?;
        assert!(
            said.contains("lacks what this store has seen: number 2, with 2 entries"),
            "{said}"
        );
        assert!(said.contains("writes the list again"), "{said}");
        // Who has seen none can't know.
        Machine::trusting("third", &server, &[&key])?.good(&["pull", "deps"])?;
    }
    // The next purge writes what was lost as well.
    one.good(&["store", "purge", &third?])?;
    assert_eq!(entries(&server)?, 3);
    two.good(&["pull", "deps"])?;
    Ok(())
}

#[test]
fn a_strangers_deny_list_means_nothing() -> Result<()> {
    let server = Server::start()?;
    let (one, key) = Machine::with_key("trusted", &server)?;
    let tree = one.ingest("deps", &[("a", b"kept")])?;
    one.good(&["push", "deps"])?;
    let (stranger, _) = Machine::with_key("stranger", &server)?;
    // It denies what others need.
    stranger.ingest("x", &[("x", b"x")])?;
    stranger.good(&["store", "purge", &tree])?;
    let two = Machine::trusting("reader", &server, &[&key])?;
    let ran = two.run(&["pull", "deps"])?.success()?;
    assert_eq!(ran.stderr.matches("is not trusted here, and means nothing").count(), 1, "{ran}");
    // The deny-list of who is trusted takes its place.
    let bad = one.ingest("bad", &[("b", b"bad")])?;
    one.good(&["store", "purge", &bad])?;
    assert_eq!(entries(&server)?, 1);
    let ran = two.run(&["pull", "deps"])?.success()?;
    assert!(!ran.stderr.contains("means nothing"), "{ran}");
    // So does that of a colleague whose key is not known here, though it keeps what was denied.
    let (colleague, _) = Machine::with_key("colleague", &server)?;
    colleague.good(&["key", "trust", &key])?;
    let own = colleague.ingest("own", &[("c", b"own")])?;
    colleague.good(&["store", "purge", &own])?;
    assert_eq!(entries(&server)?, 2);
    let ran = two.run(&["pull", "deps"])?.success()?;
    assert_eq!(ran.stderr.matches("means nothing").count(), 1, "{ran}");
    two.ingest("own", &[("c", b"own")])?;
    // One that lacks it is refused.
    stranger.good(&["store", "purge", &tree])?;
    assert!(two.bad(&["pull", "deps"])?.contains("lacks what this store has seen"));
    one.good(&["store", "purge", &bad])?;
    assert_eq!(entries(&server)?, 1);
    two.good(&["pull", "deps"])?;
    // Changed bytes are no deny-list, and so is half of one: then the remote is not used.
    let whole = server.object(LIST).context("a deny-list")?;
    let at = whole.len() / 2;
    let mut changed = whole.clone();
    changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
    for bytes in [&changed[..], &whole[..at], b""] {
        server.put(LIST, bytes.to_vec());
        let said = two.bad(&["pull", "deps"])?;
        assert!(said.contains("the remote sent a wrong `denied/list`"), "{said}");
    }
    // A server that does not answer for it is not used either.
    server.put(LIST, whole);
    let fault = Fault::Status(403);
    server.fail([When { method: "GET", path: "denied/list", after: 0, times: 9, fault }]);
    assert!(two.bad(&["pull", "deps"])?.contains("could not read `denied/list`"));
    server.fail([]);
    two.good(&["pull", "deps"])?;
    Ok(())
}

#[test]
fn two_who_purge_at_once_lose_nothing() -> Result<()> {
    let server = Server::start()?;
    let (one, first) = Machine::with_key("one", &server)?;
    let (two, second) = Machine::with_key("two", &server)?;
    one.good(&["key", "trust", &second])?;
    two.good(&["key", "trust", &first])?;
    let purge = |machine: &Machine, byte: u8| -> Result<()> {
        for round in 0..4 {
            let tree = machine.ingest("tree", &[("a", &[byte, round])])?;
            machine.good(&["store", "purge", &tree])?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| purge(&two, b'2'));
        purge(&one, b'1')?;
        other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    assert_eq!(entries(&server)?, 8);
    // The list changes just before it is written.
    let fault = Fault::Race;
    server.fail([When { method: "PUT", path: "denied/list", after: 0, times: 2, fault }]);
    let tree = one.ingest("tree", &[("a", b"last")])?;
    one.good(&["store", "purge", &tree])?;
    assert_eq!(entries(&server)?, 9);
    // All of it is known everywhere.
    let reader = Machine::trusting("reader", &server, &[&first, &second])?;
    reader.bad(&["pull", "none"])?;
    let folder = reader.sandbox.path("tree");
    fs::create_dir_all(&folder)?;
    for bytes in [&b"last"[..], b"1\x03", b"2\x00"] {
        fs::write(folder.join("a"), bytes)?;
        let said = reader.bad(&["ingest", &folder.display().to_string()])?;
        assert!(said.contains("was purged"), "{said}");
    }
    Ok(())
}

/// Returns every file below a folder, relative to it.
fn below(folder: &PathBuf) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.clone()];
    while let Some(inner) = folders.pop() {
        for entry in fs::read_dir(inner)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(folder)?.to_owned());
            }
        }
    }
    Ok(found)
}

#[test]
fn a_namespace_is_all_that_a_pull_request_writes() -> Result<()> {
    let server = Server::start()?;
    let (one, key) = Machine::with_key("main", &server)?;
    let shared = one.sandbox.path("shared");
    let url = format!("file://{}", shared.display());
    let one = one.with("RIFT_REMOTE", url.clone());
    let large = noise(7, 100_000);
    let tree = one.ingest("deps", &[("a", &large), ("b", b"main")])?;
    one.good(&["push", "deps"])?;
    let before = below(&shared)?;
    let pr = Machine::trusting("pr", &server, &[&key])?.with("RIFT_REMOTE", url.clone());
    let pr = pr.with("RIFT_NAMESPACE", "pr-7");
    let own_key = pr.good(&["key", "new", "pr@fork"])?;
    // It reads what is trusted,
    assert_eq!(pr.good(&["pull", "deps"])?, tree);
    let own = pr.ingest("deps", &[("a", &large), ("b", b"pull request")])?;
    assert_eq!(pr.good(&["push", "deps"])?, own);
    pr.good(&["store", "purge", &pr.ingest("bad", &[("c", b"bad")])?])?;
    pr.good(&["remote", "check"])?;
    // and writes beside it, without what is there already.
    let after = below(&shared)?;
    let new: Vec<&PathBuf> = after.difference(&before).collect();
    assert!(before.is_subset(&after) && !new.is_empty());
    assert!(new.iter().all(|path| path.starts_with("ns/pr-7")), "{new:?}");
    let packs = new.iter().filter(|path| path.to_string_lossy().contains(".pack"));
    let sizes: Vec<u64> =
        packs.map(|path| Ok(fs::metadata(shared.join(path))?.len())).collect::<Result<_>>()?;
    assert!(sizes.len() == 1 && sizes[0] < 4096, "{sizes:?}");
    // Another job of the same pull request has it, from both parts.
    let key_file = fs::read_to_string(pr.sandbox.path("home/.config/rift/key"))?;
    let next = Machine::trusting("next", &server, &[&key])?.with("RIFT_REMOTE", url.clone());
    let next = next.with("RIFT_NAMESPACE", "pr-7").with("RIFT_KEY", key_file.trim_end());
    assert_eq!(next.good(&["pull", "deps"])?, own);
    let target = next.sandbox.path("target").display().to_string();
    next.good(&["materialize", "deps", &target])?;
    assert_eq!(fs::read(next.sandbox.path("target/a"))?, large);
    // Nobody else has: neither another pull request nor a trusted run.
    let other = Machine::trusting("other", &server, &[&key])?.with("RIFT_REMOTE", url.clone());
    let other = other.with("RIFT_NAMESPACE", "pr-8").with("RIFT_KEY", key_file.trim_end());
    assert_eq!(other.good(&["pull", "deps"])?, tree);
    let trusted = Machine::trusting("trusted", &server, &[&key])?.with("RIFT_REMOTE", url);
    assert_eq!(trusted.good(&["pull", "deps"])?, tree);
    assert_eq!(
        pr.good(&["remote", "list"])?
            .lines()
            .map(|line| line.rsplit('\t').next())
            .collect::<Vec<_>>(),
        [Some("written"), Some("read")]
    );

    // With a stolen key of the pull request, and rights to write to everything.
    let thief = Machine::new("thief", &server)?;
    let thief = thief.with("RIFT_REMOTE", format!("file://{}", shared.display()));
    let thief = thief.with("RIFT_KEY", key_file.trim_end());
    thief.good(&["key", "trust", &key])?;
    thief.ingest("mine", &[("b", b"stolen")])?;
    thief.good(&["push", "mine"])?;
    let digits = own_key.split_once(':').context("NAME:HEX")?.1;
    for machine in [&trusted, &one] {
        let said = machine.bad(&["pull", "mine"])?;
        assert!(said.contains("not trusted here") && said.contains(digits), "{said}");
    }
    // In the main part one's own key does not count, either.
    let said = next.bad(&["pull", "mine"])?;
    assert!(said.contains("not trusted here") && said.contains(digits), "{said}");
    Ok(())
}

#[test]
fn a_trusted_run_asks_for_nothing_in_a_namespace() -> Result<()> {
    let server = Server::start()?;
    let (one, key) = Machine::with_key("main", &server)?;
    let pr = Machine::trusting("pr", &server, &[&key])?.with("RIFT_NAMESPACE", "pr-7");
    pr.good(&["key", "new"])?;
    pr.ingest("deps", &[("a", b"of the pull request"), ("b", b"x"), ("c", b"y")])?;
    pr.good(&["push", "deps"])?;
    let objects = server.objects();
    assert!(objects.iter().all(|path| path.starts_with("/bucket/team/ns/pr-7/")), "{objects:?}");
    let _earlier = server.asked();
    assert!(one.bad(&["pull", "deps"])?.contains("has no ref `deps`"));
    let tree = one.ingest("deps", &[("a", b"main"), ("b", b"x"), ("c", b"y")])?;
    one.good(&["push", "deps"])?;
    one.good(&["remote", "check"])?;
    one.good(&["store", "purge", &one.ingest("bad", &[("c", b"bad")])?])?;
    let reader = Machine::trusting("reader", &server, &[&key])?;
    assert_eq!(reader.good(&["pull", "deps"])?, tree);
    let asked = server.asked();
    assert!(asked.len() > 10 && asked.iter().all(|(_, path)| !path.contains("/ns")), "{asked:?}");
    // The pull request has its own before the other, and hears what is denied there.
    let ran = pr.run(&["pull", "-v", "deps"])?.success()?;
    assert_ne!(ran.stdout.trim_end(), tree);
    let asked = server.asked();
    let lists = asked.iter().filter(|(_, path)| path.ends_with("/denied/list")).count();
    assert_eq!(lists, 2, "{asked:?}");
    let folder = pr.sandbox.path("bad");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("c"), b"bad")?;
    assert!(pr.bad(&["ingest", &folder.display().to_string()])?.contains("was purged"));
    Ok(())
}

#[test]
fn what_a_fork_proposes_writes_to_no_remote() -> Result<()> {
    let server = Server::start()?;
    let one = Machine::new("fork", &server)?.with("GITHUB_ACTIONS", "true").with("CI", "true");
    let event = one.sandbox.path("event.json");
    let write = |head: &str| {
        let head = format!(r#"{{"head": {{"repo": {{"full_name": "{head}"}}}}}}"#);
        let base = r#"{"full_name": "team/app"}"#;
        fs::write(&event, format!(r#"{{"pull_request": {head}, "repository": {base}}}"#))
    };
    let one = one.with("GITHUB_EVENT_NAME", "pull_request");
    let one = one.with("GITHUB_EVENT_PATH", event.display().to_string());
    one.good(&["key", "new"])?;
    let tree = one.ingest("deps", &[("a", b"1")])?;
    write("stranger/app")?;
    let said = one.bad(&["push", "deps"])?;
    assert!(said.contains("a fork's pull request") && said.contains("RIFT_NAMESPACE"), "{said}");
    one.good(&["remote", "check"])?;
    let bad = one.ingest("bad", &[("b", b"2")])?;
    let ran = one.run(&["store", "purge", &bad])?.success()?;
    assert!(ran.stderr.contains("the remotes keep it: a fork's pull request"), "{ran}");
    let asked = server.asked();
    assert!(asked.iter().all(|(method, _)| method == "GET"), "{asked:?}");
    assert!(server.objects().is_empty());
    // In a namespace it does, and the pull request of somebody who may write is none of a fork.
    let one = one.with("RIFT_NAMESPACE", "fork-1");
    assert_eq!(one.good(&["push", "deps"])?, tree);
    let objects = server.objects();
    assert!(!objects.is_empty() && objects.iter().all(|path| path.contains("/ns/fork-1/")));
    write("team/app")?;
    let one = one.with("RIFT_NAMESPACE", "");
    assert_eq!(one.good(&["push", "deps"])?, tree);
    assert!(server.objects().iter().any(|path| !path.contains("/ns/")));
    for wrong in ["../main", "a/b", "..", ".x"] {
        let mut command = one.sandbox.rift(&one.sandbox.home(), &["remote", "list"])?;
        let ran = one.sandbox.run(command.env("RIFT_NAMESPACE", wrong))?;
        assert!(ran.status.code() == Some(125) && ran.stderr.contains("1 to 64 letters"), "{ran}");
    }
    Ok(())
}
