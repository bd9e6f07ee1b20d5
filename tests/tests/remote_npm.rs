//! One machine runs `npm ci`, the others have its tree: `rift exec` with a remote, judged by npm's own tree.
//!
//! Each machine is a sandbox with a home, keys, a store and an npm cache of its own. Those that share have an empty one, so what they
//! show has come from the remote, or npm has fetched it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs;

use rift_cas::remote::denied::SignedDenyList;
use rift_tests::runner::{Runner, URL, assert_same, warm};
use rift_tests::sandbox::clear;
use rift_tests::server::{Fault, Server, When};

/// The whole story: one produces, three with nothing have its tree at once, and who must not be believed is not.
#[test]
fn what_one_machine_has_made_others_have() {
    let server = Server::start().unwrap();
    let producer = Runner::with_packages("produces", &server);
    let (public, _) = producer.key();
    let made = producer.ci().success().unwrap();
    producer.assert_as_npm();
    let why = producer.good(&["why"]);
    assert!(why.contains("has no result of this key") && why.contains("shared at s3://"), "{why}");
    let plans = server.objects().iter().filter(|path| path.contains("/plans/")).count();
    assert_eq!(plans, 1, "{:?} after {made}", server.objects());
    // What is there is neither sent nor asked for again.
    let _earlier = server.asked();
    drop(producer.ci().success().unwrap());
    assert_eq!(server.asked(), [], "a repeat asks for nothing");

    let consumers: Vec<Runner> = ["first", "second", "third"]
        .map(|name| {
            let mut runner = Runner::new(name, &server);
            runner.env.push(("RIFT_TRUSTED_KEYS", public.clone()));
            runner
        })
        .into();
    std::thread::scope(|scope| {
        for runner in &consumers {
            scope.spawn(|| runner.ci().success().unwrap());
        }
    });
    let asked = server.asked();
    assert!(asked.len() <= 3 * 10 && asked.iter().all(|(method, _)| method == "GET"), "{asked:?}");
    for runner in &consumers {
        runner.assert_as_npm();
        let why = runner.good(&["why"]);
        assert!(why.contains("signed by ci@main"), "{why}");
    }

    // A changed lockfile is another key, and only what is new is sent for it.
    let before = server.objects();
    let lock = producer.project.join("package-lock.json");
    let text = fs::read_to_string(&lock).unwrap();
    fs::write(&lock, format!("{text}\n")).unwrap();
    drop(producer.ci().success().unwrap());
    let objects = server.objects();
    let new: Vec<_> = objects.iter().filter(|path| !before.contains(path)).collect();
    assert!(new.iter().all(|path| !path.contains("/data/")), "{new:?}");
    assert_eq!(new.iter().filter(|path| path.contains("/plans/")).count(), 1, "{new:?}");
}

/// A plan that a stranger has signed is no plan: who has the packages makes the tree again, and a trusted writer replaces it.
#[test]
fn what_a_stranger_has_signed_is_made_again() {
    let server = Server::start().unwrap();
    let stranger = Runner::with_packages("stranger", &server);
    drop(stranger.key());
    // A tree of the stranger's own, under the key of this lockfile.
    drop(stranger.ci().success().unwrap());
    let victim = Runner::with_packages("victim", &server);
    let ran = victim.ci().success().unwrap();
    assert!(ran.stderr.contains("is not used") && ran.stderr.contains("not trusted here"), "{ran}");
    assert_eq!(ran.stderr.matches("is not used").count(), 1, "{ran}");
    victim.assert_as_npm();
    let mut strict = Runner::with_packages("strict", &server);
    strict.env.push(("RIFT_STRICT", "1".to_owned()));
    assert_eq!(strict.ci().status.code(), Some(125));

    let writer = Runner::with_packages("writer", &server);
    let (public, private) = writer.key();
    drop(writer.ci().success().unwrap());
    let mut reader = Runner::new("reader", &server);
    reader.env.push(("RIFT_TRUSTED_KEYS", public));
    assert!(!reader.ci().stderr.contains("is not used"));
    reader.assert_as_npm();
    // The key can come from the secrets of a CI.
    let mut other = Runner::new("other", &server);
    other.env.push(("RIFT_KEY", private));
    drop(other.ci().success().unwrap());
    other.assert_as_npm();
    let plan = || server.objects().iter().find(|path| path.contains("/plans/")).cloned().unwrap();
    assert_eq!(plan(), plan());
}

/// A server that lies, refuses, hangs up or dies half way costs time and one line, never a wrong byte.
#[test]
fn a_remote_that_fails_leaves_the_run_to_npm() {
    let server = Server::start().unwrap();
    let producer = Runner::with_packages("fails", &server);
    let (public, _) = producer.key();
    drop(producer.ci().success().unwrap());
    let runner = |name| {
        let mut runner = Runner::with_packages(name, &server);
        runner.env.push(("RIFT_TRUSTED_KEYS", public.clone()));
        runner
    };
    let consumer = runner("fails-consumer");
    for (path, after, fault) in [
        ("/plans/", 0, Fault::Wrong),
        ("/trees/", 0, Fault::Short),
        ("/places/", 0, Fault::Wrong),
        ("/data/", 0, Fault::Wrong),
        ("/data/", 0, Fault::Status(403)),
        // It dies half way.
        ("/data/", 1, Fault::Reset),
        ("", 2, Fault::Reset),
    ] {
        server.fail([When { method: "GET", path, after, times: 10_000, fault }]);
        clear(&consumer.sandbox.store()).unwrap();
        clear(&consumer.project.join("node_modules")).unwrap();
        let ran = consumer.ci().success().unwrap();
        let is_said = ran.stderr.matches("is not used").count();
        // A remote of one object is whole when that has come.
        assert!(is_said == 1 || after == 1, "{fault:?} of {path}: {ran}");
        consumer.assert_as_npm();
    }
    server.fail([]);
    // One that is gone.
    let mut alone = runner("fails-alone");
    alone.env.push(("AWS_ENDPOINT_URL", "http://127.0.0.1:9".to_owned()));
    let ran = alone.ci().success().unwrap();
    assert_eq!(ran.stderr.matches("is not used").count(), 1, "{ran}");
    alone.assert_as_npm();
}

/// A folder is a remote, too: the one that a CI carries from job to job.
#[test]
fn a_folder_carries_results() {
    let server = Server::start().unwrap();
    let mut producer = Runner::with_packages("carries", &server);
    let folder = format!("file://{}", producer.sandbox.path("carried").display());
    producer.env.push(("RIFT_REMOTE", folder.clone()));
    let (_, private) = producer.key();
    drop(producer.ci().success().unwrap());
    let mut consumer = Runner::new("carried", &server);
    consumer.env.extend([("RIFT_REMOTE", folder), ("RIFT_KEY", private)]);
    drop(consumer.ci().success().unwrap());
    consumer.assert_as_npm();
    assert_eq!(server.asked(), []);
    // Another folder in its place has nothing, whatever was sent there before.
    clear(&producer.sandbox.path("carried")).unwrap();
    drop(producer.ci().success().unwrap());
    let plans = fs::read_dir(producer.sandbox.path("carried/plans")).unwrap();
    assert_eq!(plans.count(), 1);
}

fn plans(runner: &Runner) -> usize {
    fs::read_dir(runner.sandbox.store().join("plans")).unwrap().count()
}

/// A package turns out to be harmful: purged by one, it is served to nobody, from whatever cache, whoever puts it back.
#[test]
fn a_purged_package_is_served_to_nobody() {
    let server = Server::start().unwrap();
    let producer = Runner::with_packages("purges", &server);
    let (public, _) = producer.key();
    drop(producer.ci().success().unwrap());
    let consumers: Vec<Runner> = ["one", "two", "three"]
        .map(|name| {
            let mut runner = match name {
                "three" => Runner::with_packages(name, &server),
                _ => Runner::new(name, &server),
            };
            runner.env.push(("RIFT_TRUSTED_KEYS", public.clone()));
            drop(runner.ci().success().unwrap());
            assert_eq!(plans(&runner), 1);
            runner
        })
        .into();
    let before: Vec<(String, Vec<u8>)> = server
        .objects()
        .into_iter()
        .filter_map(|path| Some((path.clone(), server.object(&path)?)))
        .collect();
    let (name, package) = producer.some_package();
    let folder = format!("node_modules/{name}");

    let said = producer.good(&["store", "purge", &package]);
    assert!(said.contains("plans and refs removed at s3://bucket/team"), "{said}");
    let is_left = |path: &String| path.contains("/plans/") || path.contains("/refs/");
    assert!(!server.objects().iter().any(is_left), "{:?}", server.objects());
    // Whoever can write to the server puts the plan back.
    before.iter().for_each(|(path, bytes)| server.put(path, bytes.clone()));
    for runner in &consumers {
        runner.let_time_pass();
        clear(&runner.project.join("node_modules")).unwrap();
        let ran = runner.ci();
        assert!(ran.stderr.contains("denies what this store had"), "{ran}");
        assert!(ran.stderr.contains("was purged from this store"), "{ran}");
        // Only who has npm's own cache has it, and from npm.
        let has_packages = runner.sandbox.path("home/.npm/_cacache").exists();
        assert_eq!(ran.status.success(), has_packages, "{ran}");
        assert_eq!(runner.project.join(&folder).exists(), has_packages);
        assert_eq!(plans(runner), 0, "it is not learnt either");
        drop(runner.good(&["store", "verify"]));
    }
    // It stays so without a network.
    let mut alone = consumers.into_iter().next().unwrap();
    alone.env.push(("AWS_ENDPOINT_URL", "http://127.0.0.1:9".to_owned()));
    clear(&alone.project.join("node_modules")).unwrap();
    assert!(!alone.ci().status.success() && !alone.project.join(&folder).exists());
    // And for who comes first to the remote.
    let mut fresh = Runner::new("fresh", &server);
    fresh.env.push(("RIFT_TRUSTED_KEYS", public));
    let ran = fresh.ci();
    assert!(!ran.status.success() && ran.stderr.contains("was purged from this store"), "{ran}");
    assert!(!fresh.project.join(&folder).exists());
    // The purge itself is of one key and one tree, whatever it was found in.
    let list = server.object("/bucket/team/denied/list").unwrap();
    assert_eq!(SignedDenyList::decode(&list).unwrap().list.entries.len(), 2);
}

/// A result that is here is used without asking, but for what is denied, and that not each time.
#[test]
fn a_known_result_asks_for_the_deny_list_now_and_then() {
    let server = Server::start().unwrap();
    let mut runner = Runner::with_packages("heeds", &server);
    drop(runner.ci().success().unwrap());
    let _earlier = server.asked();
    drop(runner.ci().success().unwrap());
    assert_eq!(server.asked(), []);
    runner.let_time_pass();
    drop(runner.ci().success().unwrap());
    let list = ("GET".to_owned(), "/bucket/team/denied/list".to_owned());
    assert_eq!(server.asked(), [list]);
    drop(runner.ci().success().unwrap());
    assert_eq!(server.asked(), []);
    // Who has no network is told once, and has the result.
    runner.let_time_pass();
    runner.env.push(("AWS_ENDPOINT_URL", "http://127.0.0.1:9".to_owned()));
    let ran = runner.ci().success().unwrap();
    assert_eq!(ran.stderr.matches("what s3://bucket/team denies is not known").count(), 1, "{ran}");
    let ran = runner.ci().success().unwrap();
    assert!(!ran.stderr.contains("is not known"), "{ran}");
    runner.assert_as_npm();
}

/// A pull request makes what it needs in its namespace, and no trusted run is served any of it.
#[test]
fn a_pull_request_makes_its_own() {
    let server = Server::start().unwrap();
    let producer = Runner::with_packages("main", &server);
    let (public, _) = producer.key();
    drop(producer.ci().success().unwrap());
    let before = server.objects();
    let change = |runner: &Runner| {
        let lock = runner.project.join("package-lock.json");
        let text = fs::read_to_string(&lock).unwrap();
        fs::write(&lock, format!("{text}\n")).unwrap();
    };
    let in_namespace = |mut runner: Runner, private: Option<&String>| {
        runner.env.push(("RIFT_TRUSTED_KEYS", public.clone()));
        runner.env.push(("RIFT_NAMESPACE", "pr-7".to_owned()));
        runner.env.extend(private.map(|key| ("RIFT_KEY", key.clone())));
        runner
    };
    let request = in_namespace(Runner::with_packages("request", &server), None);
    let (_, private) = request.key();
    // What the main part has is not made again, and nothing is written for it.
    drop(request.ci().success().unwrap());
    let why = request.good(&["why"]);
    assert!(why.contains("s3://bucket/team had the result, signed by ci@main"), "{why}");
    assert_eq!(server.objects(), before);
    change(&request);
    drop(request.ci().success().unwrap());
    let why = request.good(&["why"]);
    assert!(why.contains("shared at s3://bucket/team/ns/pr-7"), "{why}");
    let new: Vec<String> =
        server.objects().into_iter().filter(|path| !before.contains(path)).collect();
    assert!(new.iter().all(|path| path.starts_with("/bucket/team/ns/pr-7/")), "{new:?}");
    assert!(new.iter().any(|path| path.contains("/plans/")), "{new:?}");
    assert!(
        !new.iter().any(|path| path.contains("/data/")),
        "the main part has all bytes: {new:?}"
    );
    // The next job of the pull request has it, with bytes of the main part.
    let next = in_namespace(Runner::new("next", &server), Some(&private));
    change(&next);
    drop(next.ci().success().unwrap());
    assert_same(&warm().project().join("node_modules"), &next.project.join("node_modules"));
    let why = next.good(&["why"]);
    assert!(why.contains("s3://bucket/team/ns/pr-7 had the result"), "{why}");
    // A trusted run of the same lockfile, once the pull request is merged, makes its own.
    let _earlier = server.asked();
    change(&producer);
    drop(producer.ci().success().unwrap());
    let why = producer.good(&["why"]);
    assert!(why.contains("has no result of this key") && why.contains("shared at"), "{why}");
    let asked = server.asked();
    assert!(asked.iter().all(|(_, path)| !path.contains("/ns")), "{asked:?}");
}

/// A key is replaced: what the old one has signed is signed by the new one, and counts no longer by the old one.
#[test]
fn a_replaced_key_signs_again() {
    let server = Server::start().unwrap();
    let producer = Runner::with_packages("replaces", &server);
    let (old, _) = producer.key();
    drop(producer.ci().success().unwrap());
    let tree = producer.project.join("node_modules");
    let kept = producer.good(&["ingest", &tree.display().to_string(), "--name", "kept"]);
    drop(producer.good(&["push", "kept"]));
    let bad = producer.sandbox.path("bad");
    fs::create_dir(&bad).unwrap();
    fs::write(bad.join("a"), "bad").unwrap();
    let bad = producer.good(&["ingest", &bad.display().to_string()]);
    drop(producer.good(&["store", "purge", &bad]));

    drop(producer.good(&["key", "trust", &old]));
    let new = producer.good(&["key", "new", "ci@new", "--replace"]);
    drop(producer.good(&["push", "kept"]));
    drop(producer.good(&["store", "purge", &bad]));
    drop(producer.good(&["key", "trust", "--remove", &old]));
    drop(producer.ci().success().unwrap());
    let why = producer.good(&["why"]);
    assert!(why.contains("shared at s3://bucket/team"), "{why}");
    drop(producer.ci().success().unwrap());
    assert!(!producer.good(&["why"]).contains("shared at"), "once");

    let mut reader = Runner::new("reads-new", &server);
    reader.env.push(("RIFT_TRUSTED_KEYS", new));
    let ran = reader.ci().success().unwrap();
    assert!(!ran.stderr.contains("not trusted") && !ran.stderr.contains("means nothing"), "{ran}");
    assert!(reader.good(&["why"]).contains("signed by ci@new"));
    assert_eq!(reader.good(&["pull", "kept"]), kept);
    let list = server.object("/bucket/team/denied/list").unwrap();
    assert_eq!(SignedDenyList::decode(&list).unwrap().list.serial, 2);
    reader.assert_as_npm();
    // Who trusts the old one alone has none of it.
    let mut late = Runner::new("reads-old", &server);
    late.env.push(("RIFT_TRUSTED_KEYS", old));
    assert!(late.rift(&["pull", "kept"]).stderr.contains("not trusted here"));
}

/// Returns the paths of data that were written.
fn sent_data(asked: &[(String, String)]) -> Vec<String> {
    let data = asked.iter().filter(|(method, path)| method == "PUT" && path.contains("/data/"));
    data.map(|(_, path)| path.clone()).collect()
}

/// Sharing ends when its time is over, wherever it is then; the next run goes on with what is missing.
#[test]
fn sharing_is_bounded_and_goes_on() {
    let server = Server::start().unwrap();
    let mut producer = Runner::with_packages("bounded", &server);
    let (public, _) = producer.key();
    producer.env.push(("RIFT_SHARE_SECONDS", "2".to_owned()));
    // With a remote of its own for each, so that nothing is there.
    for (number, path) in ["/data/", "/trees/", "/places/", "/plans/"].into_iter().enumerate() {
        let url = format!("s3://bucket/team-{number}");
        producer.env.push(("RIFT_REMOTE", url.clone()));
        server.fail([When { method: "PUT", path, after: 0, times: 10_000, fault: Fault::Silent }]);
        let _earlier = server.asked();
        let ran = producer.ci().success().unwrap();
        assert_eq!(ran.stderr.matches("the next run goes on").count(), 1, "{path}: {ran}");
        assert_eq!(ran.stderr.matches("warning").count(), 1, "{path}: {ran}");
        assert!(ran.elapsed.as_secs() < 25, "{path}: {:?}", ran.elapsed);
        let plans = format!("team-{number}/plans/");
        assert!(!server.objects().iter().any(|path| path.contains(&plans)), "{path}");
        let there: Vec<String> = server.objects();
        server.fail([]);
        let _earlier = server.asked();
        let ran = producer.ci().success().unwrap();
        assert!(!ran.stderr.contains("warning"), "{ran}");
        let sent = sent_data(&server.asked());
        assert_eq!(sent.is_empty(), path != "/data/", "{path}: {sent:?}");
        assert!(sent.iter().all(|path| !there.contains(path)), "{path}: {sent:?}");
        let mut consumer = Runner::new("bounded-consumer", &server);
        consumer.env.extend([("RIFT_TRUSTED_KEYS", public.clone()), ("RIFT_REMOTE", url)]);
        assert!(!consumer.ci().success().unwrap().stderr.contains("warning"));
        consumer.assert_as_npm();
    }
}

/// Ctrl-C ends a run at once at each request of its sharing; what is there is whole, and the next run goes on.
#[test]
fn an_interrupted_run_leaves_a_remote_that_is_right() {
    use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
    use std::process::Stdio;
    use std::time::{Duration, Instant};
    let server = Server::start().unwrap();
    let mut producer = Runner::with_packages("ctrl-c", &server);
    let (public, _) = producer.key();
    // What is known already: only sharing is left to do.
    producer.env.push(("RIFT_REMOTE", String::new()));
    producer.ci().success().unwrap();
    producer.env.push(("RIFT_REMOTE", URL.to_owned()));
    let mut consumer = Runner::with_packages("ctrl-c-consumer", &server);
    consumer.env.push(("RIFT_TRUSTED_KEYS", public));
    let (mut is_done, mut interrupted) = (false, 0);
    for after in 0..20 {
        server.fall_silent_after(after);
        let _earlier = server.asked();
        let mut child = producer
            .command(&["exec", "--", "npm", "ci", "--ignore-scripts"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let started = Instant::now();
        let mut asked = 0;
        while asked <= after && child.try_wait().unwrap().is_none() {
            asked += server.asked().len();
            assert!(started.elapsed() < Duration::from_secs(60), "{after}");
            std::thread::sleep(Duration::from_millis(5));
        }
        let group = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
        let interrupt = rustix::process::Signal::INT;
        // It may have ended just now.
        let _is_gone = rustix::process::kill_process_group(group, interrupt).is_err();
        let stopped = Instant::now();
        let status = child.wait().unwrap();
        assert!(stopped.elapsed() < Duration::from_secs(3), "{after}: {:?}", stopped.elapsed());
        server.speak();
        is_done = status.success();
        if is_done {
            break;
        }
        assert!(status.signal() == Some(2) || status.code() == Some(130), "{after}: {status:?}");
        interrupted += 1;
        clear(&consumer.sandbox.store()).unwrap();
        clear(&consumer.project.join("node_modules")).unwrap();
        let ran = consumer.ci().success().unwrap();
        assert!(!ran.stderr.contains("warning"), "{after}: {ran}");
        consumer.assert_as_npm();
    }
    assert!(is_done && interrupted >= 5, "sharing took {interrupted} requests");
    producer.assert_as_npm();
}

/// A store that caches a remote stays below its cap: what was used last stays, and the rest is fetched again.
#[test]
fn a_cache_of_a_remote_stays_below_its_cap() {
    let server = Server::start().unwrap();
    let mut producer = Runner::with_packages("caches", &server);
    let (public, _) = producer.key();
    let projects = ["one", "two"].map(|name| {
        let project = producer.sandbox.path(name);
        rift_tests::npm_project::prepare_large(&producer.sandbox, &project, name, 6 << 20).unwrap();
        producer.project.clone_from(&project);
        producer.ci().success().unwrap();
        project
    });
    const CAP: u64 = 10_000_000;
    let mut consumer = Runner::new("caches-consumer", &server);
    consumer.env.push(("RIFT_TRUSTED_KEYS", public));
    consumer.env.push(("RIFT_MAX_SIZE", CAP.to_string()));
    for round in 0..3 {
        for made in &projects {
            let project = consumer.sandbox.path("work");
            clear(&project).unwrap();
            fs::create_dir(&project).unwrap();
            for file in ["package.json", "package-lock.json"] {
                fs::copy(made.join(file), project.join(file)).unwrap();
            }
            consumer.project.clone_from(&project);
            let _earlier = server.asked();
            consumer.ci().success().unwrap();
            let asked = server.asked();
            let is_fetched = asked.iter().any(|(_, path)| path.contains("/data/"));
            assert!(is_fetched, "round {round}: the other one was evicted: {asked:?}");
            assert_same(made, &project);
            let stats = consumer.good(&["store", "stats", "--json"]);
            let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
            let size = stats["disk_bytes"].as_u64().unwrap();
            assert!(size <= CAP, "round {round}: {size}");
            // What this run used is here: it is looked at, and nothing is asked for.
            consumer.ci().success().unwrap();
            assert_eq!(server.asked(), [], "round {round}");
            drop(consumer.good(&["store", "verify"]));
        }
    }
}
