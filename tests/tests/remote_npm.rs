//! One machine runs `npm ci`, the others have its tree: `rift exec` with a remote, judged by npm's own tree.
//!
//! Each machine is a sandbox with a home, keys, a store and an npm cache of its own. Those that share have an empty one, so what they
//! show has come from the remote, or npm has fetched it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs;

use rift_tests::runner::Runner;
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
    producer.ci().success().unwrap();
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
    producer.ci().success().unwrap();
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
    stranger.ci().success().unwrap();
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
    writer.ci().success().unwrap();
    let mut reader = Runner::new("reader", &server);
    reader.env.push(("RIFT_TRUSTED_KEYS", public));
    assert!(!reader.ci().stderr.contains("is not used"));
    reader.assert_as_npm();
    // The key can come from the secrets of a CI.
    let mut other = Runner::new("other", &server);
    other.env.push(("RIFT_KEY", private));
    other.ci().success().unwrap();
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
    producer.ci().success().unwrap();
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
    producer.ci().success().unwrap();
    let mut consumer = Runner::new("carried", &server);
    consumer.env.extend([("RIFT_REMOTE", folder), ("RIFT_KEY", private)]);
    consumer.ci().success().unwrap();
    consumer.assert_as_npm();
    assert_eq!(server.asked(), []);
}
