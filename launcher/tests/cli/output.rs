//! stdout carries data, stderr the rest; readers may leave, disks may be full, colors are asked for.

use std::fs;
use std::io::Read;
use std::process::Stdio;

use crate::home::Home;

/// Makes a home whose store has the tree `many`, whose listing is larger than any pipe.
fn with_many_files() -> Home {
    let home = Home::new();
    let folder = home.work("many");
    fs::create_dir(&folder).unwrap();
    for number in 0..3000 {
        fs::write(folder.join(format!("a-rather-long-name-so-that-pipes-fill-{number:05}")), b"")
            .unwrap();
    }
    home.run(["ingest", "many", "--name", "many"]).good();
    home
}

#[test]
fn a_reader_that_leaves_ends_rift_quietly() {
    let home = with_many_files();
    for args in [&["ls", "many"][..], &["ls", "-lR", "many"]] {
        let mut rift = home.rift();
        let mut child =
            rift.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = [0; 10];
        child.stdout.take().unwrap().read_exact(&mut first).unwrap();
        let ended = child.wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(0));
        assert_eq!(String::from_utf8_lossy(&ended.stderr), "");
    }
}

#[test]
fn a_full_disk_behind_stdout_is_a_failure() {
    let home = with_many_files();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let ended = home.rift().args(["refs"]).stdout(full).output().unwrap();
    assert_eq!(ended.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("could not write to standard output"));
}

#[test]
fn colors_come_only_where_they_are_wanted() {
    let home = Home::new();
    let colored = |env: &[(&str, &str)], args: &[&str]| {
        let mut rift = home.rift();
        rift.args(args).args(["ls", "nothing"]).envs(env.iter().copied());
        let ended = rift.output().unwrap();
        assert_eq!(ended.status.code(), Some(125));
        ended.stderr.contains(&0x1b)
    };
    let force = ("CLICOLOR_FORCE", "1");
    assert!(!colored(&[], &[]), "no terminal");
    assert!(colored(&[force], &[]));
    assert!(!colored(&[force, ("NO_COLOR", "1")], &[]));
    assert!(colored(&[("NO_COLOR", "1")], &["--color", "always"]));
    assert!(!colored(&[force], &["--color=never"]));
    assert!(colored(&[("RIFT_COLOR", "always"), ("NO_COLOR", "1")], &[]));
    assert!(!colored(&[("RIFT_COLOR", "always")], &["--color", "never"]));
}

#[test]
fn errors_have_a_cause_and_one_hint() {
    let home = Home::new();
    let error = home.run(["refs"]).bad(125);
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(lines.len(), 2, "{error}");
    assert!(lines[0].starts_with("error: there is no store at `"), "{error}");
    assert!(lines[1].starts_with("hint: "), "{error}");
    let error = home.run(["ingest", "missing"]).bad(125);
    assert!(error.starts_with("error: could not ingest `missing`\n  caused by: "), "{error}");
}

#[test]
fn settings_are_listed_with_their_origins() {
    let home = Home::new();
    fs::create_dir_all(home.path().join(".config/rift")).unwrap();
    fs::write(home.path().join(".config/rift/config.toml"), "\nmax_size = \"5 GiB\"\n").unwrap();
    fs::write(home.work("rift.toml"), "via = \"hardlink\"\n").unwrap();
    let mut rift = home.rift();
    rift.args(["config", "list", "--origins", "--quiet"]).env("RIFT_THREADS", "3");
    let listed = String::from_utf8(rift.output().unwrap().stdout).unwrap();
    let origin = |name: &str| {
        let line = listed.lines().find(|line| line.starts_with(&format!("{name} = "))).unwrap();
        let (value, origin) = line.split_once("  # ").unwrap();
        (value.trim_end().to_owned(), origin.replace(&home.path().display().to_string(), "~"))
    };
    let expect = |value: &str, origin: &str| (value.to_owned(), origin.to_owned());
    assert_eq!(
        origin("max_size"),
        expect("max_size = \"5GiB\"", "~/.config/rift/config.toml:2 (RIFT_MAX_SIZE)")
    );
    assert_eq!(origin("via"), expect("via = \"hardlink\"", "~/project/rift.toml:1 (RIFT_VIA)"));
    assert_eq!(origin("threads"), expect("threads = 3", "RIFT_THREADS (RIFT_THREADS)"));
    assert_eq!(origin("quiet"), expect("quiet = true", "--quiet (RIFT_QUIET)"));
    assert_eq!(origin("strict"), expect("strict = false", "default (RIFT_STRICT)"));
    let plain = home.run(["config", "list"]).good();
    fs::write(home.path().join("again.toml"), &plain).unwrap();
    assert!(!plain.contains('#'));
}
