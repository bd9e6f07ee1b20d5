//! `rift summary` at the end of jobs that the environment describes as CI systems do, with real runs of `npm ci`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rift_tests::again::{as_nobody_too, is_again};
use rift_tests::fixture::Fixture;
use rift_tests::need::{Need, have};
use rift_tests::npm_project::prepare_mini;
use rift_tests::sandbox::{Ran, Sandbox, clear, rift_binary};
use rift_tests::terminal::Terminal;
use rift_tests::warm::{Scripts, Warm};
use serde_json::Value;

/// The variables of a job.
type Job<'a> = &'a [(&'a str, &'a str)];

const GITHUB: Job<'static> = &[
    ("CI", "true"),
    ("GITHUB_ACTIONS", "true"),
    ("GITHUB_RUN_ID", "16000000001"),
    ("GITHUB_RUN_ATTEMPT", "1"),
    ("GITHUB_JOB", "build"),
];
const GITHUB_AGAIN: Job<'static> = &[
    ("CI", "true"),
    ("GITHUB_ACTIONS", "true"),
    ("GITHUB_RUN_ID", "16000000001"),
    ("GITHUB_RUN_ATTEMPT", "2"),
    ("GITHUB_JOB", "build"),
];
const GITLAB: Job<'static> = &[
    ("CI", "true"),
    ("GITLAB_CI", "true"),
    ("CI_JOB_ID", "7000"),
    ("CI_SERVER_URL", "https://ci"),
];
const HERE: Job<'static> = &[];

/// A home with a warm npm cache, and a project of three packages.
struct Scene {
    sandbox: Sandbox,
    project: PathBuf,
}

impl Scene {
    fn new(name: &str) -> Self {
        let sandbox = Sandbox::new(name).unwrap();
        Warm::of(Fixture::Small, Scripts::Off).unwrap().fill_npm_cache(&sandbox).unwrap();
        let project = sandbox.path("project");
        prepare_mini(&project).unwrap();
        Self { sandbox, project }
    }

    fn command(&self, job: Job<'_>, words: &[&str]) -> Command {
        let mut command = self.sandbox.rift(&self.project, words).unwrap();
        command.envs(job.iter().copied());
        command
    }

    fn rift(&self, job: Job<'_>, words: &[&str]) -> Ran {
        self.sandbox.run(&mut self.command(job, words)).unwrap()
    }

    fn good(&self, job: Job<'_>, words: &[&str]) -> Ran {
        self.rift(job, words).success().unwrap()
    }

    /// Runs `npm ci` where no `node_modules` is.
    fn install(&self, job: Job<'_>) -> Ran {
        clear(&self.project.join("node_modules")).unwrap();
        self.good(job, &["exec", "--", "npm", "ci"])
    }

    /// Lets npm install, so that its time is known from there on.
    fn record(&self, job: Job<'_>) {
        self.good(job, &["exec", "--record-only", "--", "npm", "ci"]);
    }

    fn json(&self, job: Job<'_>, words: &[&str]) -> Value {
        let ran = self.good(job, &[&["summary", "--json"], words].concat());
        serde_json::from_str(&ran.stdout).unwrap()
    }
}

/// Returns the figure of a label of the block.
fn figure<'t>(text: &'t str, label: &str) -> Option<&'t str> {
    let line = text.lines().find_map(|line| line.strip_prefix("  ")?.strip_prefix(label));
    line.map(str::trim)
}

#[track_caller]
fn assert_no_place(scene: &Scene, text: &str) {
    let home = scene.sandbox.home();
    for path in [scene.sandbox.path(""), home, std::env::temp_dir()] {
        assert!(!text.contains(&*path.to_string_lossy()), "{text}");
    }
}

#[test]
fn a_job_shows_its_own_runs() {
    let scene = Scene::new("jobs");
    scene.record(GITHUB);
    for job in [GITHUB_AGAIN, GITLAB] {
        let ran = scene.install(job);
        assert!(ran.stderr.starts_with("rift: 3 packages projected in "), "{ran}");
        assert_eq!(ran.stderr.lines().count(), 1, "{ran}");
    }
    scene.good(GITLAB, &["exec", "--", "npm", "ci"]);
    scene.good(GITLAB, &["exec", "--", "true"]);
    for (job, figures) in [(GITHUB, (0, 1)), (GITHUB_AGAIN, (1, 0)), (GITLAB, (2, 0))] {
        let json = scene.json(job, &[]);
        let count = |name: &str| json[name].as_u64().unwrap();
        assert_eq!((count("served_runs"), count("learned_runs")), figures, "{job:?} {json}");
        assert_eq!(json["schema"], 1);
        assert_eq!(json["reused"]["count"], figures.0 * 3, "{json}");
        assert_eq!(json["hit_percent"], figures.0.min(1) * 100, "{json}");
        assert_no_place(&scene, &json.to_string());
        let (original, elapsed) = (&json["original_ms"], &json["elapsed_ms"]);
        match figures.0 {
            0 => assert!(original.is_null() && json["saved_ms"].is_null(), "{json}"),
            _ => {
                let saved = original.as_i64().unwrap() - elapsed.as_i64().unwrap();
                assert_eq!(json["saved_ms"], saved, "{json}");
                assert_eq!(json["original_on_other_hardware"], false, "{json}");
            }
        }
    }
    let block = scene.good(GITLAB, &["summary"]);
    assert_eq!(block.stderr, "", "{block}");
    assert!(block.stdout.starts_with("rift summary: 2 runs\n"), "{block}");
    assert_eq!(figure(&block.stdout, "hit rate"), Some("100 %"), "{block}");
    assert!(figure(&block.stdout, "reused").unwrap().starts_with("6 packages ("), "{block}");
    for label in ["original", "rift"] {
        assert!(figure(&block.stdout, label).is_some(), "{label}: {block}");
    }
    assert!(!block.stdout.contains("from the store"), "the line to share: {block}");
    let shared = scene.good(GITLAB, &["summary", "--share"]).stdout;
    let line = shared.lines().last().unwrap();
    assert!(line.starts_with("▞ rift: 6 packages in "), "{line}");
    assert!(line.ends_with(", 100 % from the store"), "{line}");
    let first = scene.good(GITHUB, &["summary"]).stdout;
    assert_eq!(figure(&first, "original"), None, "{first}");
    assert!(figure(&first, "learned").unwrap().starts_with("3 packages ("), "{first}");
    // Nobody's job: the last run, or those since a time.
    assert_eq!(scene.json(HERE, &[])["served_runs"], 1);
    let all = scene.json(HERE, &["--since", "1d"]);
    assert_eq!((&all["served_runs"], &all["learned_runs"]), (&3.into(), &1.into()), "{all}");
    assert_eq!(scene.json(GITHUB, &["--since", "1d"])["served_runs"], 3);
    // What names a job stays out of the store.
    let runs = fs::read_dir(scene.sandbox.store().join("runs")).unwrap();
    let records: Vec<String> =
        runs.map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap()).collect();
    assert_eq!(records.len(), 4);
    for record in records {
        assert!(record.contains("\"job\":\""), "{record}");
        assert!(!record.contains("16000000001") && !record.contains("7000\""), "{record}");
    }
}

#[test]
fn github_gets_markdown_and_annotations() {
    let scene = Scene::new("github");
    let file = scene.sandbox.path("summary.md");
    fs::write(&file, "| a |\n|---|\n| 1 |").unwrap();
    let path = file.to_str().unwrap();
    let job = [GITHUB, &[("GITHUB_STEP_SUMMARY", path)]].concat();
    scene.install(&job);
    let plain = scene.good(&job, &["summary"]);
    assert!(!plain.stdout.contains("::"), "{plain}");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("| a |\n|---|\n| 1 |\n\n### rift: 1 run\n\n"), "{text}");
    assert!(text.contains("\n| hit rate | 0 % |\n"), "{text}");
    assert!(text.contains("| <code>npm ci</code> | <code>.</code> | 1 |"), "{text}");
    assert_no_place(&scene, &text);
    // Once more, where the floor is missed, and to a file of the user's as well.
    let missed = scene.good(&job, &["summary", "--floor", "90", "--markdown", "of-user.md"]);
    let annotation = "::warning title=rift::the hit rate is 0 %25, below the floor of 90 %25: \
                      0 of 3 packages came from the store";
    assert_eq!(missed.stdout.lines().last(), Some(annotation), "{missed}");
    assert_eq!(missed.stderr, "");
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(text.matches("\n\n### rift: 1 run\n").count(), 2, "{text}");
    assert!(text.contains("\n⚠ the hit rate is 0 %, below the floor of 90 %&#58; "), "{text}");
    let of_user = fs::read_to_string(scene.project.join("of-user.md")).unwrap();
    assert!(of_user.starts_with("### rift: 1 run\n"), "{of_user}");
    assert!(text.ends_with(&of_user), "{text}");
    // One file, one text.
    let before = text.len();
    scene.good(&job, &["summary", "--quiet", "--markdown", path]);
    let added = fs::read_to_string(&file).unwrap().split_off(before);
    assert_eq!(added.matches("### rift").count(), 1, "{added}");
    // JSON stays JSON.
    let json = scene.good(&job, &["summary", "--json", "--floor", "90%"]);
    let read: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((&read["floor_percent"], &read["is_below_floor"]), (&90.into(), &true.into()));
    assert_eq!(json.stderr.lines().collect::<Vec<_>>(), [annotation]);
}

#[test]
fn a_floor_is_met_and_missed() {
    let scene = Scene::new("floor");
    scene.install(GITLAB);
    let floor = |job: Job<'static>| [job, &[("RIFT_FLOOR", "100")]].concat();
    let missed = scene.good(&floor(GITLAB), &["summary"]);
    let why =
        "the hit rate is 0 %, below the floor of 100 %: 0 of 3 packages came from the store\n";
    assert_eq!(missed.stderr, format!("warning: {why}"), "{missed}");
    assert!(!missed.stdout.contains("::"), "{missed}");
    let strict = [floor(GITLAB), vec![("RIFT_STRICT", "1")]].concat();
    let failed = scene.rift(&strict, &["summary"]);
    assert_eq!(failed.status.code(), Some(125), "{failed}");
    assert_eq!(failed.stderr, format!("error: {why}"), "{failed}");
    assert_eq!(figure(&failed.stdout, "hit rate"), Some("0 %"), "{failed}");
    // In the next job all is known.
    scene.install(GITHUB);
    let met = scene.good(&[floor(GITHUB), vec![("RIFT_STRICT", "1")]].concat(), &["summary"]);
    assert_eq!(met.stderr, "", "{met}");
    assert!(!met.stdout.contains("::"), "{met}");
    // A project may ask for one.
    fs::write(scene.project.join("rift.toml"), "floor = 1\n").unwrap();
    assert_eq!(scene.good(GITLAB, &["summary"]).stderr.lines().count(), 1);
    assert_eq!(scene.good(GITLAB, &["summary", "--floor", "0"]).stderr, "");
    let wrong = scene.rift(GITLAB, &["summary", "--floor", "101"]);
    assert_eq!(wrong.status.code(), Some(125), "{wrong}");
    let expected = "the flag --floor has a wrong value";
    assert!(wrong.stderr.contains(expected), "{wrong}");
    // Without any run the floor can't be reached.
    let none = scene.good(&floor(GITHUB_AGAIN), &["summary"]);
    let told = "::warning title=rift::no run was recorded that could reach the floor of 100 %25 \
                for the hit rate";
    assert_eq!(none.stdout, format!("rift summary: no run was recorded\n{told}\n"), "{none}");
}

/// npm does an install that rift has a plan for, and says nothing; the summary does.
#[test]
fn a_command_that_ran_itself_is_noticed() {
    let scene = Scene::new("alone");
    scene.install(HERE);
    scene.install(GITHUB);
    scene.good(GITHUB, &["exec", "--", "npm", "ci", "--no-such-flag"]);
    let why = scene.good(GITHUB, &["why"]).stdout;
    assert!(why.contains("npm ci --no-such-flag") && why.contains("because "), "{why}");
    let ran = scene.good(GITHUB, &["summary", "--floor", "50"]);
    assert!(ran.stdout.starts_with("rift summary: 2 runs\n"), "{ran}");
    assert_eq!(figure(&ran.stdout, "missed"), Some("1 command"), "{ran}");
    assert_eq!(figure(&ran.stdout, "hit rate"), Some("100 %"), "{ran}");
    let told: Vec<_> = ran.stdout.lines().filter(|line| line.starts_with("::")).collect();
    assert_eq!(told.len(), 1, "{ran}");
    let start = "::warning title=rift::`npm ci --no-such-flag` ran itself: ";
    assert!(told[0].starts_with(start), "{ran}");
    // Commands that rift has no plan for are none of this.
    scene.good(GITLAB, &["exec", "--", "npm", "config", "get", "cache"]);
    assert!(scene.good(GITLAB, &["summary"]).stdout.contains("no run was recorded"));
}

#[test]
fn a_terminal_gets_a_frame_and_ci_a_log() {
    if !have("a_terminal_gets_a_frame_and_ci_a_log", &[Need::Tool("script")]) {
        return;
    }
    let scene = Scene::new("terminal");
    scene.install(HERE);
    let rift = rift_binary().unwrap();
    let shown = |variables: &str, words: &str| {
        let line = format!(
            "TERM=xterm-256color {variables} '{}' {words}; echo end-$((1 + 1))",
            rift.display()
        );
        let like = scene.sandbox.command(&scene.project, "script");
        let mut terminal = Terminal::start(like, &line).unwrap();
        let text = terminal.wait_for("end-2").unwrap();
        assert!(terminal.end().unwrap().success());
        text
    };
    let framed = shown("", "summary");
    assert!(framed.contains("\x1b[1;38;5;141m▞ rift\x1b[0m 1 run"), "{framed:?}");
    assert!(framed.contains("\x1b[1;38;5;141m▏\x1b[0m"), "{framed:?}");
    assert!(framed.contains("▞ rift: 3 packages in "), "{framed:?}");
    let without_color = shown("NO_COLOR=1", "summary");
    assert!(!without_color.contains('\x1b'), "{without_color:?}");
    assert!(without_color.contains("▏ hit rate  0 %"), "{without_color:?}");
    // A job may have a terminal: what it shows is a log all the same.
    for sign in ["CI=true", "GITHUB_ACTIONS=true", "TF_BUILD=True"] {
        let log = shown(sign, "summary");
        assert!(!log.contains('\x1b') && !log.contains('▞') && !log.contains('▏'), "{log:?}");
        let ran = shown(sign, "exec -- npm ci");
        assert!(!ran.contains('\x1b') && !ran.contains('▞'), "{ran:?}");
        assert!(ran.contains("rift: 3 packages checked in "), "{ran:?}");
    }
    let ran = shown("CI=false", "exec -- npm ci");
    assert!(ran.contains("\x1b[1;38;5;141m▞ rift\x1b[0m 3 packages checked in "), "{ran:?}");
}

#[test]
fn a_store_without_runs_has_nothing_to_show() {
    let sandbox = Sandbox::new("empty").unwrap();
    let home = sandbox.home();
    let run = |words: &[&str]| sandbox.run(&mut sandbox.rift(&home, words).unwrap()).unwrap();
    for is_there in [false, true] {
        if is_there {
            fs::create_dir(home.join("tree")).unwrap();
            run(&["ingest", "tree"]).success().unwrap();
        }
        let ran = run(&["summary", "--share"]).success().unwrap();
        assert_eq!(ran.stdout, "rift summary: no run was recorded\n", "{ran}");
        assert_eq!((ran.stderr.as_str(), sandbox.store().exists()), ("", is_there));
        let json = run(&["summary", "--json"]).success().unwrap();
        let json: Value = serde_json::from_str(&json.stdout).unwrap();
        assert_eq!((&json["served_runs"], &json["hit_percent"]), (&0.into(), &Value::Null));
    }
    // A damaged record is no reason to show nothing.
    fs::create_dir_all(sandbox.store().join("runs")).unwrap();
    fs::write(sandbox.store().join("runs/1-1"), "nonsense").unwrap();
    let ran = run(&["summary"]).success().unwrap();
    assert_eq!(ran.stdout, "rift summary: no run was recorded\n", "{ran}");
    assert!(ran.stderr.starts_with("warning: 1 recorded run can't be read"), "{ran}");
}

/// Root writes whatever its mode is, so it meets a folder; `nobody` meets the mode.
#[test]
fn a_summary_that_can_not_be_written_is_an_error() {
    as_nobody_too("a_summary_that_can_not_be_written_is_an_error");
    let sandbox = Sandbox::new("refused").unwrap();
    let home = sandbox.home();
    let refused = |path: &Path, why: &str| {
        let path = path.to_str().unwrap();
        let with_flag = sandbox.rift(&home, &["summary", "--markdown", path]).unwrap();
        let mut of_github = sandbox.rift(&home, &["summary"]).unwrap();
        of_github.env("GITHUB_STEP_SUMMARY", path);
        for mut command in [with_flag, of_github] {
            let ran = sandbox.run(&mut command).unwrap();
            assert_eq!(ran.status.code(), Some(125), "{ran}");
            assert_eq!(ran.stdout, "rift summary: no run was recorded\n", "{ran}");
            let start =
                format!("error: could not append the summary to `{path}`\n  caused by: {why}");
            assert!(ran.stderr.starts_with(&start) && ran.stderr.contains("\nhint: "), "{ran}");
        }
    };
    refused(&home, "Is a directory");
    refused(&home.join("no/such.md"), "No such file or directory");
    if is_again() {
        let file = home.join("summary.md");
        fs::write(&file, "kept").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o444)).unwrap();
        refused(&file, "Permission denied");
        assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
    }
}
