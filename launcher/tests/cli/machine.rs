//! What rift finds on a machine, and what it leaves there: doctor, init, places, uninstall.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::home::{Home, Ran};

#[test]
fn doctor_checks_and_makes_nothing() {
    let home = Home::new();
    let text = home.run(["doctor"]).good();
    for name in
        ["store", "file system", "reflinks", "hard links", "free space", "clock", "trap", "umask"]
    {
        let line =
            text.lines().find(|line| line.get(6..).is_some_and(|rest| rest.starts_with(name)));
        let line = line.unwrap_or_else(|| panic!("no line for {name}: {text}"));
        assert!(line.starts_with("ok    ") || line.starts_with("warn  "), "{line}");
    }
    let json = home.run(["doctor", "--json"]).good();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let checks = json["checks"].as_array().unwrap();
    assert!(checks.len() >= 10);
    for check in checks.iter().filter(|check| check["is_ok"] == false) {
        assert!(check["hint"].is_string(), "{check}");
    }
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1, "the working directory alone");
    assert_eq!(fs::read_dir(home.work("")).unwrap().count(), 0);
    let typo = home.rift().arg("doctor").env(concat!("RIFT_", "STROE"), "/x").output().unwrap();
    assert!(
        String::from_utf8_lossy(&typo.stdout).contains(concat!("nothing reads RIFT_", "STROE"))
    );
}

#[test]
fn init_writes_once_and_what_it_writes_holds() {
    let home = Home::new();
    let path = home.work("").canonicalize().unwrap().join("rift.toml");
    assert_eq!(home.run(["init"]).good(), format!("{}\n", path.display()));
    let before = home.run(["config", "list"]).good();
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("# via = \"auto\"") && !text.contains("store ="), "{text}");
    let error = home.run(["init"]).bad(125);
    assert!(error.contains("is there already"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    fs::remove_file(&path).unwrap();
    assert_eq!(home.run(["config", "list"]).good(), before, "it changes nothing by itself");
}

#[test]
fn the_store_is_where_it_was_named_or_in_the_data_folder() {
    let home = Home::new();
    let data = home.path().join(".local/share/rift");
    assert_eq!(home.run(["store", "path"]).good(), format!("{}\n", data.display()));
    let mut rift = home.rift();
    rift.args(["store", "path"]).env("XDG_DATA_HOME", home.path().join("data"));
    let named = String::from_utf8(rift.output().unwrap().stdout).unwrap();
    assert_eq!(named, format!("{}\n", home.path().join("data/rift").display()));
    let mut rift = home.rift();
    rift.args(["store", "path"]).env("RIFT_STORE", "here");
    let named = String::from_utf8(rift.output().unwrap().stdout).unwrap();
    assert_eq!(
        named,
        format!("{}\n", home.work("").canonicalize().unwrap().join("here").display())
    );
    assert!(!data.exists() && !home.work("here").exists(), "asking makes nothing");
}

fn all_below(root: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut pending = vec![root.to_owned()];
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() {
                pending.push(path.clone());
            }
            found.insert(path.strip_prefix(root).unwrap().to_owned());
        }
    }
    found
}

#[test]
fn uninstall_leaves_nothing_of_rift_and_everything_of_the_users() {
    let home = Home::new();
    let program = home.path().join("bin/rift");
    fs::create_dir(home.path().join("bin")).unwrap();
    // Folders that other programs make as well.
    for folder in [".local/share/bash-completion/completions", ".local/state", ".config"] {
        fs::create_dir_all(home.path().join(folder)).unwrap();
    }
    fs::create_dir(home.work("source")).unwrap();
    fs::write(home.work("source/file"), b"mine").unwrap();
    fs::write(home.work("rift.toml"), b"via = 'hardlink'\n").unwrap();
    let before = all_below(home.path());
    fs::copy(env!("CARGO_BIN_EXE_rift"), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let run = |args: &[&str], store: &str| {
        let mut rift = home.command(&program);
        Ran(rift.args(args).env("RIFT_STORE", store).output().unwrap())
    };
    fs::create_dir(home.path().join(".config/rift")).unwrap();
    fs::write(home.path().join(".config/rift/config.toml"), b"quiet = true\n").unwrap();
    run(&["completions", "bash", "--install"], "").good();
    run(&["completions", "fish", "--install"], "").good();
    run(&["ingest", "source", "--name", "one"], "").good();
    run(&["ingest", "source", "--name", "two"], "elsewhere").good();
    run(&["materialize", "one", "tree"], "").good();
    assert!(home.work("tree/file").is_file());

    let asked = run(&["self", "uninstall"], "");
    assert!(asked.bad(125).contains("hint: `--yes`"), "{}", asked.err());
    let listed = run(&["self", "uninstall", "--dry-run"], "").good();
    let real = home.path().canonicalize().unwrap();
    let words =
        ["store", "store", "list of stores", "settings", "completions", "completions", "program"];
    assert_eq!(listed.lines().count(), words.len(), "{listed}");
    for (line, word) in listed.lines().zip(words) {
        assert!(line.starts_with(word), "{line}");
        assert!(
            line.contains(home.path().to_str().unwrap()) || line.contains(real.to_str().unwrap())
        );
    }
    assert!(program.exists() && home.path().join(".local/share/rift/format").exists());

    assert_eq!(run(&["self", "uninstall", "--yes"], "").good(), listed);
    let mut after = all_below(home.path());
    for own in ["project/tree", "project/tree/file"] {
        assert!(after.remove(Path::new(own)), "a tree that was written stays");
    }
    // fish's own folders were made for its completions.
    for shared in [".config/fish", ".config/fish/completions"] {
        after.remove(Path::new(shared));
    }
    assert_eq!(after, before);
}
