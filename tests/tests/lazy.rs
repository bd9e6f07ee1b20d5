//! Trees of which not all has come: shown as soon as their names are known, their bytes fetched when somebody needs them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::Duration;

use rift_cas::{Store, gc};
use rift_tests::need::{Need, have};
use rift_tests::runner::{Runner, assert_same, warm};
use rift_tests::sandbox::{Ran, clear};
use rift_tests::server::{Fault, Server, When};

/// A file of a package, and one that lies far from it.
const NEAR: &str = "node_modules/typescript/package.json";
const FAR: &str = "node_modules/which/package.json";
/// Waits to be told, and reads many files then.
const PATIENT: &str = "while [ ! -e go ]; do sleep 0.1; done; cat node_modules/[a-g]*/package.json";

/// See `relatime` in mount(8).
const KEEPS_READS: Need = Need::Works(
    "a file system that keeps times of reads",
    "t=$(mktemp) && echo a >$t && sleep 0.1 && cat $t >/dev/null && [ $(stat -c %X.%x $t | tr -dc 0-9) != $(stat -c %Z.%z $t | tr -dc 0-9) ] && rm $t",
);

struct Story {
    server: Server,
    producer: Runner,
    /// The producer's key.
    public: String,
}

impl Story {
    fn new(name: &str) -> Self {
        let server = Server::start().unwrap();
        let producer = Runner::with_packages(name, &server);
        let (public, _) = producer.key();
        drop(producer.ci().success().unwrap());
        let _earlier = (server.asked(), server.sent(""));
        Self { server, producer, public }
    }

    /// A machine that has nothing.
    fn consumer(&self, name: &str) -> Runner {
        let mut runner = Runner::new(name, &self.server);
        runner.env.push(("RIFT_TRUSTED_KEYS", self.public.clone()));
        runner
    }

    /// Makes a machine one that may tell others what it needed.
    fn may_tell(&self, runner: &mut Runner) {
        let private = self.producer.sandbox.path("home/.config/rift/key");
        let private = fs::read_to_string(private).unwrap().trim_end().to_owned();
        runner.env.push(("RIFT_KEY", private));
    }

    /// Returns how many access lists there are.
    fn lists(&self) -> usize {
        self.server.objects().iter().filter(|path| path.contains("/access/")).count()
    }

    /// Runs a patient command until all has come that will come by itself; then the remote goes, and it may go on.
    fn see_without_remote(&self, runner: &Runner, command: &[&str]) -> String {
        std::thread::scope(|scope| {
            let seen = scope.spawn(|| see(runner, command));
            let (mut requests, mut quiet) = (0, 0);
            while quiet < 20 && !seen.is_finished() {
                std::thread::sleep(Duration::from_millis(100));
                let more = self.data_requests();
                requests += more;
                quiet = if more > 0 || requests == 0 { 0 } else { quiet + 1 };
            }
            let (method, path, fault) = ("GET", "", Fault::Reset);
            self.server.fail([When { method, path, after: 0, times: 10_000, fault }]);
            fs::write(runner.project.join("go"), "").unwrap();
            seen.join().unwrap().success().unwrap().stdout
        })
    }

    /// Returns how many requests for objects of data there were since the last call.
    fn data_requests(&self) -> usize {
        self.server.asked().iter().filter(|(_, path)| path.contains("/data/")).count()
    }
}

fn show(runner: &Runner, how: &str) -> Ran {
    let words = ["exec", "--as", how, "--", "npm", "ci", "--ignore-scripts"];
    runner.rift(&words).success().unwrap()
}

fn see(runner: &Runner, words: &[&str]) -> Ran {
    runner.rift(&[&["exec", "--"], words].concat())
}

/// Returns where the store keeps what has come of the only partial tree.
fn partial(runner: &Runner) -> PathBuf {
    let mut folders = fs::read_dir(runner.sandbox.store().join("partial")).unwrap();
    folders.next().unwrap().unwrap().path()
}

#[test]
fn names_and_sizes_need_no_data() {
    let story = Story::new("names");
    let consumer = story.consumer("names-consumer");
    show(&consumer, "virtual");
    let asked = story.server.asked();
    assert!(asked.len() <= 10, "{asked:?}");
    assert!(asked.iter().all(|(_, path)| !path.contains("/data/")), "{asked:?}");
    let expected = warm().project();
    // Directories have no size of their own.
    let list = ["find", "node_modules", "-printf", "%y %m %P %l", "(", "-type", "d", "-printf"];
    let list = [&list[..], &["\\n", "-o", "-printf", " %s\\n", ")"]].concat();
    let mut native = consumer.sandbox.command(&expected, list[0]);
    let native = consumer.sandbox.run(native.args(&list[1..])).unwrap().success().unwrap();
    let seen = see(&consumer, &list).success().unwrap();
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&seen.stdout), sorted(&native.stdout));
    drop(see(&consumer, &["du", "-s", "node_modules"]).success().unwrap());
    assert_eq!(story.data_requests(), 0);
}

#[test]
fn only_what_is_needed_comes() {
    let story = Story::new("needed");
    let consumer = story.consumer("needed-consumer");
    show(&consumer, "virtual");
    let _before = (story.server.asked(), story.server.sent(""));
    for path in [NEAR, FAR] {
        let seen = see(&consumer, &["cat", path]).success().unwrap();
        assert_eq!(seen.stdout, fs::read_to_string(warm().project().join(path)).unwrap());
    }
    let (requests, bytes) = (story.data_requests(), story.server.sent(""));
    assert!((1..=2).contains(&requests), "{requests}");
    assert!(bytes < 400_000, "{bytes}");
    // It is here now.
    drop(see(&consumer, &["cat", NEAR, FAR]).success().unwrap());
    assert_eq!(story.data_requests(), 0);
    let why = consumer.good(&["why"]);
    assert!(why.contains("gave what was needed"), "{why}");
    // All of it, once somebody wants that.
    drop(consumer.good(&["close", "node_modules"]));
    assert_same(&warm().project(), &consumer.project);
}

#[test]
fn three_who_have_nothing_work_at_once() {
    let story = Story::new("three");
    let consumers = ["a", "b", "c"].map(|name| story.consumer(&format!("three-{name}")));
    std::thread::scope(|scope| {
        for consumer in &consumers {
            scope.spawn(|| {
                show(consumer, "virtual");
                let program = "for (const f of require('fs').readdirSync('node_modules')) \
                    try { require.resolve(f + '/package.json'); \
                    console.log(f, require('fs').readFileSync('node_modules/' + f + '/package.json').length) } \
                    catch (e) { if (e.code === 'EIO') throw e }";
                let seen = see(consumer, &["node", "-e", program]).success().unwrap();
                let mut native = consumer.sandbox.command(&warm().project(), "node");
                let native = consumer.sandbox.run(native.args(["-e", program])).unwrap();
                assert_eq!(seen.stdout, native.stdout);
            });
        }
    });
}

#[test]
fn a_mount_fetches_what_is_read() {
    if !have("a_mount_fetches_what_is_read", &[Need::Root, Need::Fuse]) {
        return;
    }
    let story = Story::new("mounted");
    let consumer = story.consumer("mounted-consumer");
    show(&consumer, "mount");
    let _before = (story.server.asked(), story.server.sent(""));
    let read = |path: &str| fs::read_to_string(consumer.project.join(path)).unwrap();
    let native = |path: &str| fs::read_to_string(warm().project().join(path)).unwrap();
    assert_eq!((read(NEAR), read(FAR)), (native(NEAR), native(FAR)));
    let (requests, bytes) = (story.data_requests(), story.server.sent(""));
    assert!((1..=3).contains(&requests) && bytes < 600_000, "{requests} {bytes}");
    drop(consumer.good(&["close", "node_modules"]));
    assert_same(&warm().project(), &consumer.project);
}

#[test]
fn what_a_command_needed_comes_before_it_is_asked_for() {
    let story = Story::new("ahead");
    let command = ["sh", "-c", PATIENT];
    let consumer = |name: &str| {
        let consumer = story.consumer(name);
        show(&consumer, "virtual");
        let _before = (story.server.asked(), story.server.sent(""));
        consumer
    };
    let mut first = consumer("ahead-first");
    story.may_tell(&mut first);
    fs::write(first.project.join("go"), "").unwrap();
    let expected = see(&first, &command).success().unwrap().stdout;
    let first_bytes = story.server.sent("");
    assert_eq!(story.lists(), 1);
    // It is here before it is asked for, so it does not matter that the remote is gone by then.
    let second = consumer("ahead-second");
    assert_eq!(story.see_without_remote(&second, &command), expected);
    let second_bytes = story.server.sent("");
    assert!(second_bytes < first_bytes * 5 / 4, "{second_bytes} bytes after {first_bytes}");
    assert_eq!(story.lists(), 1);
    // Nobody waits for what was to come ahead from a remote that then failed.
    story.server.fail([]);
    let third = consumer("ahead-third");
    story.server.fail([When {
        method: "GET",
        path: "/data/",
        after: 1,
        times: 10_000,
        fault: Fault::Status(403),
    }]);
    let refused = std::thread::scope(|scope| {
        let seen = scope.spawn(|| see(&third, &command));
        while story.data_requests() == 0 {
            std::thread::sleep(Duration::from_millis(10));
        }
        // Longer than a remote is left alone that has failed.
        std::thread::sleep(Duration::from_secs(6));
        fs::write(third.project.join("go"), "").unwrap();
        seen.join().unwrap()
    });
    assert!(!refused.status.success() && refused.stderr.contains("had not come yet"), "{refused}");
}

/// Who has the whole tree, as files or shown by the shim, tells as well: no machine that has nothing is the first.
#[test]
fn what_a_command_needed_of_a_whole_tree_is_told_as_well() {
    let name = "what_a_command_needed_of_a_whole_tree_is_told_as_well";
    if !have(name, &[KEEPS_READS]) {
        return;
    }
    let story = Story::new("whole");
    let line = format!("cat node_modules/[a-c]*/package.json; sleep 0.6; {PATIENT}");
    let command = ["sh", "-c", &line];
    let producer = &story.producer;
    fs::write(producer.project.join("go"), "").unwrap();
    assert_eq!(story.lists(), 0);
    // It is over too soon for anybody to wait.
    drop(see(producer, &["cat", FAR]).success().unwrap());
    assert_eq!(story.lists(), 0);
    let expected = see(producer, &command).success().unwrap().stdout;
    assert_eq!(story.lists(), 1);
    let _earlier = story.server.asked();
    // What it reads again is no news.
    drop(see(producer, &command).success().unwrap());
    assert_eq!(story.server.asked(), []);
    let consumer = story.consumer("whole-consumer");
    show(&consumer, "virtual");
    let _before = (story.server.asked(), story.server.sent(""));
    assert_eq!(story.see_without_remote(&consumer, &command), expected);
    // Little more came than the whole tree's part that the command reads.
    let sent = story.server.sent("/data/");
    assert!((1..2_000_000).contains(&sent), "{sent} bytes");
    // By the shim, on a machine that has all of it.
    story.server.fail([]);
    let mut other = story.consumer("whole-virtual");
    story.may_tell(&mut other);
    drop(other.ci().success().unwrap());
    clear(&other.project.join("node_modules")).unwrap();
    show(&other, "virtual");
    fs::write(other.project.join("go"), "").unwrap();
    let words = ["sh", "-c", "cat node_modules/[d-g]*/package.json; sleep 0.6"];
    drop(see(&other, &words).success().unwrap());
    assert_eq!(story.lists(), 2);
    // Who may not write tells nobody.
    let stranger = story.consumer("whole-stranger");
    drop(stranger.ci().success().unwrap());
    let words = ["sh", "-c", "cat node_modules/[h-k]*/package.json; sleep 0.6"];
    let told = see(&stranger, &words).success().unwrap();
    assert!(!told.stderr.contains("warning"), "{told}");
    assert_eq!(story.lists(), 2);
}

/// What others purge meanwhile comes no more, though nothing but files of it was still to come.
#[test]
fn a_purge_reaches_who_still_fetches() {
    let story = Story::new("purge-late");
    let consumer = story.consumer("purge-late-consumer");
    show(&consumer, "virtual");
    let read = ["sh", "-c", &format!("cat {NEAR} {FAR}")];
    let _before = story.server.asked();
    let (_, package) = story.producer.some_package();
    drop(story.producer.good(&["store", "purge", &package]));
    consumer.let_time_pass();
    let ran = see(&consumer, &read);
    assert!(!ran.status.success(), "{ran}");
    assert!(ran.stderr.contains("denies what this store had: 1 trees"), "{ran}");
    assert_eq!(story.data_requests(), 0);
}

/// The server of a mount has what a command needed elsewhere before it is asked for, and tells others as well.
#[test]
fn a_mount_fetches_ahead_too() {
    if !have("a_mount_fetches_ahead_too", &[Need::Fuse]) {
        return;
    }
    let story = Story::new("mounted-ahead");
    let command = ["sh", "-c", PATIENT];
    let mut first = story.consumer("mounted-first");
    story.may_tell(&mut first);
    show(&first, "mount");
    fs::write(first.project.join("go"), "").unwrap();
    let expected = see(&first, &command).success().unwrap().stdout;
    assert_eq!(story.lists(), 1);
    assert!(first.good(&["why"]).contains("what the command needed is noted there"));
    // What it needs now is not all that it needs.
    drop(see(&first, &["cat", FAR]).success().unwrap());
    assert_eq!(story.lists(), 1);
    let second = story.consumer("mounted-second");
    show(&second, "mount");
    let _before = story.data_requests();
    assert_eq!(story.see_without_remote(&second, &command), expected);
    let refused = see(&second, &["cat", NEAR]);
    assert!(!refused.status.success() && refused.stderr.contains("was given up"), "{refused}");
    for runner in [&first, &second] {
        drop(runner.good(&["close", "--discard", "node_modules"]));
    }
}

/// A remote that dies, lies or refuses: who reads is told so at once, rift says why once, and the next install is npm's.
#[test]
fn a_remote_that_fails_later_ends_in_errors_not_in_wrong_bytes() {
    let story = Story::new("later");
    let mut consumer = Runner::with_packages("later-consumer", &story.server);
    consumer.env.push(("RIFT_TRUSTED_KEYS", story.public.clone()));
    for fault in [Fault::Wrong, Fault::Short, Fault::Status(403), Fault::Reset] {
        story.server.fail([]);
        clear(&consumer.project.join("node_modules")).unwrap();
        clear(&consumer.sandbox.store()).unwrap();
        show(&consumer, "virtual");
        let dead = When { method: "GET", path: "/data/", after: 0, times: 10_000, fault };
        story.server.fail([dead]);
        let ran = see(&consumer, &["cat", NEAR, FAR]);
        assert_eq!(ran.status.code(), Some(1), "{fault:?}: {ran}");
        // What came whole before the end is right.
        let near = fs::read_to_string(warm().project().join(NEAR)).unwrap();
        let (is_right, errors) = (ran.stdout == near, ran.stderr.matches("Input/output error"));
        assert!(is_right || ran.stdout.is_empty(), "{fault:?}: {ran}");
        assert_eq!(errors.count(), 2 - usize::from(is_right), "{fault:?}: {ran}");
        assert_eq!(ran.stderr.matches("had not come yet").count(), 1, "{fault:?}: {ran}");
        // What is gone is gone: npm's cache has the packages.
        let gone = When { method: "GET", path: "", after: 0, times: 10_000, fault };
        story.server.fail([gone]);
        let again = show(&consumer, "virtual");
        assert_eq!(again.stderr.matches("is not used").count(), 1, "{fault:?}: {again}");
        let seen = see(&consumer, &["cat", NEAR]).success().unwrap();
        assert_eq!(seen.stdout, fs::read_to_string(warm().project().join(NEAR)).unwrap());
        drop(consumer.good(&["close", "node_modules"]));
    }
}

#[test]
fn a_remote_that_is_back_is_used_again() {
    let story = Story::new("back");
    let consumer = story.consumer("back-consumer");
    show(&consumer, "virtual");
    story.server.fail([When {
        method: "GET",
        path: "/data/",
        after: 0,
        times: 10_000,
        fault: Fault::Reset,
    }]);
    assert_eq!(see(&consumer, &["cat", NEAR]).status.code(), Some(1));
    story.server.fail([]);
    show(&consumer, "virtual");
    drop(see(&consumer, &["cat", NEAR]).success().unwrap());
}

/// After another boot nothing that lies there is believed before it was read.
#[test]
fn what_a_power_loss_left_is_checked() {
    let story = Story::new("boot");
    let consumer = story.consumer("boot-consumer");
    show(&consumer, "virtual");
    // A read of a copy, so that the file itself is not made real.
    let paths = [NEAR, FAR];
    drop(see(&consumer, &["cat", paths[0], paths[1]]).success().unwrap());
    drop(consumer.good(&["close", "--discard", "node_modules"]));
    let folder = partial(&consumer);
    let open = |name: &str| {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).open(folder.join(name)).unwrap()
    };
    let data = open("data");
    let length = data.metadata().unwrap().len();
    let zeros = vec![0; 1 << 20];
    for at in (0..length).step_by(1 << 20) {
        let count = (length - at).min(1 << 20) as usize;
        data.write_all_at(&zeros[..count], at).unwrap();
    }
    open("arrivals").write_all_at(&[9; 16], 48).unwrap();
    show(&consumer, "virtual");
    for path in paths {
        let seen = see(&consumer, &["cat", path]).success().unwrap();
        assert_eq!(seen.stdout, fs::read_to_string(warm().project().join(path)).unwrap());
    }
    assert!(story.data_requests() > 0);
}

/// Who waits for a supervisor that was killed gets an error, and soon.
#[test]
fn nobody_waits_for_a_dead_supervisor() {
    let story = Story::new("killed");
    let consumer = story.consumer("killed-consumer");
    show(&consumer, "virtual");
    story.server.fail([When {
        method: "GET",
        path: "/data/",
        after: 0,
        times: 10_000,
        fault: Fault::Silent,
    }]);
    // Only the command itself dies with the supervisor.
    let late = format!("sleep 1; cat {NEAR}; echo $? >status");
    let script = format!("sh -c '{late}' >/dev/null 2>&1 & kill -9 $PPID");
    let ran = see(&consumer, &["sh", "-c", &script]);
    assert!(!ran.status.success());
    let status = consumer.project.join("status");
    for _ in 0..200 {
        if fs::read_to_string(&status).is_ok_and(|text| text == "1\n") {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("cat still waits: {:?}", fs::read_to_string(&status));
}

#[test]
fn static_programs_see_it_too() {
    if !have("static_programs_see_it_too", &[Need::Tool("busybox"), Need::Fuse]) {
        return;
    }
    let story = Story::new("static");
    let consumer = story.consumer("static-consumer");
    show(&consumer, "virtual");
    let seen = see(&consumer, &["busybox", "cat", NEAR]).success().unwrap();
    assert_eq!(seen.stdout, fs::read_to_string(warm().project().join(NEAR)).unwrap());
}

/// Collects what nothing needs, however young.
fn collect(runner: &Runner) {
    let store = Store::open_existing(&runner.sandbox.store()).unwrap().unwrap();
    let options = gc::Options { grace: Duration::ZERO, ..gc::Options::default() };
    drop(gc::collect(&store, &options).unwrap());
}

#[test]
fn what_nobody_shows_is_collected() {
    let story = Story::new("collected");
    let consumer = story.consumer("collected-consumer");
    show(&consumer, "virtual");
    collect(&consumer);
    assert!(partial(&consumer).exists());
    drop(see(&consumer, &["cat", NEAR]).success().unwrap());
    // All of it as files: what has come need not come again, and nothing needs the rest.
    let _before = story.server.sent("");
    drop(consumer.ci().success().unwrap());
    collect(&consumer);
    let left = fs::read_dir(consumer.sandbox.store().join("partial")).unwrap().count();
    assert_eq!(left, 0);
    assert_same(&warm().project(), &consumer.project);
    drop(consumer.good(&["store", "verify"]));
}
