//! Refs of a remote, opened where nothing is: the names come at once, and each file when it is read.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs;

use rift_cas::Store;
use rift_tests::again::as_root_and_nobody;
use rift_tests::mounts::{mounts_at, servers_of};
use rift_tests::need::{Need, have};
use rift_tests::runner::{Runner, assert_same};
use rift_tests::server::{Fault, Server, When};
use rift_tree::builder::{Builder, Item};

const MANY_FULL: usize = 1_280_000;
const MANY: usize = 20_000;
/// How many files a folder has.
const FOLDER: usize = 1_000;

/// A producer that has shared a folder as `site`, and somebody with nothing who trusts it.
fn shared(name: &str, server: &Server) -> (Runner, Runner) {
    let producer = Runner::new(name, server);
    let (public, _) = producer.key();
    let source = producer.sandbox.path("site");
    fs::create_dir_all(source.join("pages")).unwrap();
    for (path, text) in [("index", "hello"), ("pages/one", "one"), ("pages/two", "two")] {
        fs::write(source.join(path), text).unwrap();
    }
    drop(producer.good(&["ingest", &source.display().to_string(), "--name", "site"]));
    drop(producer.good(&["push", "site"]));
    let mut consumer = Runner::new(&format!("{name}-consumer"), server);
    consumer.env.push(("RIFT_TRUSTED_KEYS", public));
    let _earlier = server.asked();
    (producer, consumer)
}

fn is_data((_, path): &(String, String)) -> bool {
    path.contains("/data/")
}

#[test]
fn a_ref_of_a_remote_is_opened_at_once() {
    let name = "a_ref_of_a_remote_is_opened_at_once";
    if !as_root_and_nobody(name) {
        return;
    }
    let server = Server::start().unwrap();
    let (producer, consumer) = shared("open", &server);
    let site = consumer.project.join("site");
    drop(consumer.good(&["open", "site", "site"]));
    let asked = server.asked();
    assert!(asked.len() <= 4 && !asked.iter().any(is_data), "{asked:?}");
    assert_eq!(fs::read_dir(site.join("pages")).unwrap().count(), 2);
    assert!(!server.asked().iter().any(is_data));
    assert_eq!(fs::read_to_string(site.join("pages/two")).unwrap(), "two");
    assert!(server.asked().iter().any(is_data));
    fs::write(site.join("pages/three"), "three").unwrap();
    drop(consumer.good(&["close", "site"]));
    assert_eq!(mounts_at(&site), 0);
    fs::remove_file(site.join("pages/three")).unwrap();
    assert_eq!(fs::read_to_string(site.join("index")).unwrap(), "hello");
    // Another folder needs nobody any more: all of it is here.
    let _earlier = server.asked();
    drop(consumer.good(&["materialize", "site", "again"]));
    assert_eq!(server.asked(), []);
    assert_same(&producer.sandbox.path("site"), &consumer.project.join("again"));
}

#[test]
fn a_command_is_shown_a_ref_of_a_remote() {
    let server = Server::start().unwrap();
    let (producer, consumer) = shared("shown", &server);
    let words = ["exec", "--as", "virtual", "--tree", "site=site", "--", "cat", "site/pages/one"];
    assert_eq!(consumer.rift(&words).success().unwrap().stdout, "one");
    assert_eq!(fs::read_dir(consumer.project.join("site")).unwrap().count(), 1);
    // As files, all of it comes.
    let words = ["exec", "--as", "files", "--tree", "site=files", "--", "cat", "files/index"];
    assert_eq!(consumer.rift(&words).success().unwrap().stdout, "hello");
    assert_same(&producer.sandbox.path("site"), &consumer.project.join("files"));
}

#[test]
fn what_is_pulled_lazily_comes_when_it_is_read() {
    let server = Server::start().unwrap();
    let (producer, consumer) = shared("lazily", &server);
    let tree = consumer.good(&["pull", "--lazy", "site"]);
    let asked = server.asked();
    assert!(asked.len() <= 4 && !asked.iter().any(is_data), "{asked:?}");
    assert_eq!(consumer.good(&["refs"]).matches(&tree[..12]).count(), 1);
    assert_eq!(consumer.good(&["ls", "site", "pages"]).lines().count(), 2);
    for words in [["store", "gc"], ["store", "verify"]] {
        drop(consumer.good(&words));
    }
    let _own = consumer.key();
    let ran = consumer.rift(&["push", "site", "s3://bucket/other"]);
    assert!(ran.stderr.contains("not all of this tree has come"), "{ran}");
    assert!(!server.asked().iter().any(is_data));
    assert_eq!(consumer.good(&["cat", "site", "index"]), "hello");
    // Whole, with what is here.
    drop(consumer.good(&["pull", "site"]));
    server.fail([When {
        method: "GET",
        path: "/",
        after: 0,
        times: 100,
        fault: Fault::Status(500),
    }]);
    drop(consumer.good(&["materialize", "site", "site"]));
    assert_same(&producer.sandbox.path("site"), &consumer.project.join("site"));
}

#[test]
fn what_has_come_is_verified_and_mended() {
    let server = Server::start().unwrap();
    let (_producer, consumer) = shared("verified", &server);
    let tree = consumer.good(&["pull", "--lazy", "site"]);
    let index = || consumer.rift(&["cat", "site", "index"]).success().unwrap().stdout;
    assert_eq!(index(), "hello");
    drop(consumer.good(&["store", "verify"]));
    let folder = consumer.sandbox.store().join("partial").join(tree);
    let spoil = |name: &str, with: u8| {
        let file = fs::File::options().write(true).open(folder.join(name)).unwrap();
        let length = file.metadata().unwrap().len() as usize;
        std::os::unix::fs::FileExt::write_all_at(&file, &vec![with; length], 0).unwrap();
    };
    let verify = |words: &[&str], status, says: &str| {
        let ran = consumer.rift(&[&["store", "verify"], words].concat());
        assert_eq!(ran.status.code(), Some(status), "{ran}");
        assert!(format!("{}{}", ran.stdout, ran.stderr).contains(says), "{ran}");
    };
    spoil("data", b'x');
    verify(&[], 1, "of the blobs that have come are damaged");
    verify(&["--repair"], 0, "of the blobs that have come are damaged");
    verify(&[], 0, "");
    assert_eq!(index(), "hello");
    spoil("manifest", 0);
    verify(&[], 1, "nothing of it can be used");
    verify(&["--repair"], 0, "nothing of it can be used");
    verify(&[], 0, "");
    drop(consumer.good(&["pull", "--lazy", "site"]));
    assert_eq!(index(), "hello");
}

#[test]
fn what_a_remote_does_not_have_is_said() {
    let name = "what_a_remote_does_not_have_is_said";
    if !have(name, &[Need::Fuse]) {
        return;
    }
    let server = Server::start().unwrap();
    let (_producer, mut consumer) = shared("absent", &server);
    let ran = consumer.rift(&["open", "sight", "sight"]);
    assert_eq!(ran.status.code(), Some(125), "{ran}");
    assert!(ran.stderr.contains("could not pull `sight` from s3://bucket/team"), "{ran}");
    // Nor what is not to be believed, or can't be reached.
    consumer.env.retain(|(variable, _)| *variable != "RIFT_TRUSTED_KEYS");
    let ran = consumer.rift(&["open", "site", "site"]);
    assert!(!ran.status.success() && ran.stderr.contains("not trusted here"), "{ran}");
    consumer.env.push(("AWS_ENDPOINT_URL", "http://127.0.0.1:9".to_owned()));
    let ran = consumer.rift(&["open", "site", "site"]);
    assert!(!ran.status.success() && ran.stderr.contains("could not pull `site`"), "{ran}");
    for directory in ["sight", "site"].map(|name| consumer.project.join(name)) {
        assert_eq!(mounts_at(&directory), 0);
        assert!(servers_of(&directory).is_empty() && !directory.exists());
    }
}

/// As many files as a well-known set of images has; with fewer, unless all tests run.
#[test]
fn a_tree_of_a_million_files_opens_in_four_requests() {
    let name = "a_tree_of_a_million_files_opens_in_four_requests";
    if !have(name, &[Need::Fuse]) {
        return;
    }
    let count = if rift_tests::full() { MANY_FULL } else { MANY };
    let server = Server::start().unwrap();
    let producer = Runner::new("million", &server);
    let (public, _) = producer.key();
    {
        let store = Store::open(&producer.sandbox.store()).unwrap();
        let import = store.import().unwrap();
        let (mut unit, mut builder) = (import.unit(), Builder::new());
        for number in 0..count {
            if number % FOLDER == 0 {
                let folder = format!("{:05}", number / FOLDER);
                builder.put(folder.as_bytes(), 1, Item::Directory { permissions: 0o755 }).unwrap();
            }
            let bytes = format!("file {number}\n");
            let hash = unit.add(bytes.as_bytes()).unwrap();
            let item = Item::File { permissions: 0o644, size: bytes.len() as u64, hash };
            builder.put(path_of(number).as_bytes(), 1, item).unwrap();
        }
        let built = builder.finish().unwrap();
        import.add_manifest(&mut unit, &built).unwrap();
        unit.flush().unwrap();
        let (_, index) = import.finish(&[]).unwrap();
        store.publish_located(&built, &index).unwrap();
        store.set_ref("images", built.hash).unwrap();
    }
    drop(producer.good(&["push", "images"]));
    let mut consumer = Runner::new("million-consumer", &server);
    consumer.env.push(("RIFT_TRUSTED_KEYS", public));
    let _earlier = server.asked();
    drop(consumer.good(&["open", "images", "images"]));
    let asked = server.asked();
    assert!(asked.len() <= 4 && !asked.iter().any(is_data), "{asked:?}");
    let images = consumer.project.join("images");
    assert_eq!(fs::read_dir(&images).unwrap().count(), count / FOLDER);
    assert!(!server.asked().iter().any(is_data));
    for number in [0, count / 2, count - 1] {
        let text = fs::read_to_string(images.join(path_of(number))).unwrap();
        assert_eq!(text, format!("file {number}\n"));
    }
    let asked = server.asked().into_iter().filter(is_data).count();
    assert!((1..=3).contains(&asked), "{asked}");
    drop(consumer.good(&["close", "--discard", "images"]));
}

fn path_of(number: usize) -> String {
    format!("{:05}/{number:07}", number / FOLDER)
}
