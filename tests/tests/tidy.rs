//! Rules of the repository that no compiler checks, over every file that git tracks.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rift_tests::need::skip;
use rift_tests::repository;

/// The only files that may hold unsafe code.
const UNSAFE_FILES: &[&str] = &[
    "cas/src/sys.rs",
    "launcher/src/sys.rs",
    "shim/src/abi/entry.rs",
    "shim/src/abi/patch.rs",
    "shim/src/abi/start.rs",
    "shim/src/abi/trap.rs",
    "shim/src/sys.rs",
    "tests/src/sys.rs",
];

/// Every tracked text file, with its path from the repository's root.
fn tracked() -> Vec<(PathBuf, String)> {
    let output =
        Command::new("git").args(["ls-files", "-z"]).current_dir(repository()).output().unwrap();
    assert!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).unwrap();
    let paths = names.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from);
    // A file may be deleted and not yet staged; binary files hold no rules.
    paths
        .filter_map(|path| Some((path.clone(), fs::read_to_string(repository().join(path)).ok()?)))
        .collect()
}

fn is(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}

#[track_caller]
fn assert_none(found: &[String]) {
    assert!(found.is_empty(), "{} lines break the rule:\n{}", found.len(), found.join("\n"));
}

/// Returns `path:line: text` of every line for which `breaks` holds.
fn lines(files: &[(PathBuf, String)], breaks: impl Fn(&Path, &str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in files {
        for (number, line) in text.lines().enumerate().filter(|(_, line)| breaks(path, line)) {
            found.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
        }
    }
    found
}

#[test]
fn unsafe_code_is_in_listed_files_only() {
    let word = concat!("uns", "afe");
    let marks = ["{", "fn", "impl", "extern", "trait"].map(|what| format!("{word} {what}"));
    let allow = format!("allow({word}_code");
    let found = lines(&tracked(), |path, line| {
        let code = line.split("//").next().unwrap_or(line);
        let hit = code.contains(&allow) || marks.iter().any(|mark| code.contains(mark.as_str()));
        is(path, "rs") && hit && !UNSAFE_FILES.iter().any(|listed| path == Path::new(listed))
    });
    assert_none(&found);
}

#[test]
fn no_unfinished_work_is_tracked() {
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("X", "XX"),
        concat!("HA", "CK"),
        concat!("for", " now"),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("#[ig", "nore]"),
    ];
    let judged = |path: &Path| {
        ["rs", "py", "sh", "mjs", "toml", "md"].iter().any(|one| is(path, one))
            || path.starts_with("scripts")
    };
    assert_none(&lines(&tracked(), |path, line| {
        judged(path) && marks.iter().any(|mark| line.contains(mark))
    }));
}

/// The host part of an address.
fn host(address: &str) -> Option<String> {
    let rest = address.split_once("://")?.1;
    let authority = rest.split('/').next()?;
    let host = authority.rsplit('@').next()?.split(':').next()?;
    (!host.is_empty()).then(|| host.to_owned())
}

#[test]
fn no_machine_path_and_no_registry_is_tracked() {
    let mut words: Vec<String> = ["work", "farm"].map(|name| format!("/{name}/")).into();
    words.push(format!("/{}/", "root"));
    words.extend(host(&rift_tests::fixture::registry().unwrap()));
    let pip =
        Command::new("python3").args(["-m", "pip", "config", "get", "global.index-url"]).output();
    words.extend(pip.ok().and_then(|output| host(&String::from_utf8_lossy(&output.stdout))));
    let lock = Path::new("Cargo.lock");
    assert_none(&lines(&tracked(), |path, line| {
        path != lock && words.iter().any(|word| line.contains(word.as_str()))
    }));
}

/// The names of variables in a text: `RIFT_` and what follows; not a prefix of names, which ends with `_`.
fn variables(text: &str) -> BTreeSet<&str> {
    let name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    text.split(|c: char| !name(c))
        .filter(|word| word.starts_with("RIFT_") && !word.ends_with('_'))
        .collect()
}

#[test]
fn every_variable_is_documented() {
    let declared = Path::new("launcher/src/env_vars.rs");
    let files = tracked();
    let Some((_, users)) = files.iter().find(|(path, _)| path == declared) else {
        skip("every_variable_is_documented", "launcher/src/env_vars.rs is not written yet");
        return;
    };
    let tests = fs::read_to_string(repository().join("tests/src/lib.rs")).unwrap();
    let known: BTreeSet<&str> = variables(users).union(&variables(&tests)).copied().collect();
    let judged = |path: &Path| {
        is(path, "rs") || is(path, "md") || path.starts_with("scripts") || path.starts_with(".ci")
    };
    // What a test says to a child of its own stays in that test.
    let own = |path: &Path, name: &str| {
        name.starts_with("RIFT_TEST_") && path.iter().any(|part| part == "tests")
    };
    let found = lines(&files, |path, line| {
        judged(path) && variables(line).iter().any(|name| !known.contains(name) && !own(path, name))
    });
    assert_none(&found);
    let undocumented: Vec<String> = variables(&tests)
        .into_iter()
        .filter(|name| !name.starts_with("RIFT_TEST_"))
        .map(|name| format!("tests/src/lib.rs names {name}, which is not a variable of the tests"))
        .collect();
    assert_none(&undocumented);
}

/// Every deviation in `docs/semantics.md` (one list item each) names, in backticks, a test that exists.
#[test]
fn every_deviation_has_a_test() {
    let files = tracked();
    let Some((_, text)) = files.iter().find(|(path, _)| path == Path::new("docs/semantics.md"))
    else {
        skip("every_deviation_has_a_test", "docs/semantics.md is not written yet");
        return;
    };
    let tests: BTreeSet<&str> = files
        .iter()
        .filter(|(path, _)| is(path, "rs"))
        .flat_map(|(_, text)| {
            text.lines().filter_map(|line| line.trim().strip_prefix("fn ")?.split('(').next())
        })
        .collect();
    let mut items: Vec<String> = Vec::new();
    for line in text.lines() {
        match (line.starts_with("* ") || line.starts_with("- "), items.last_mut()) {
            (true, _) => items.push(line.to_owned()),
            (false, Some(item)) if line.starts_with("  ") => item.push_str(line),
            _ => {}
        }
    }
    assert!(!items.is_empty(), "docs/semantics.md lists nothing");
    items.retain(|item| !item.split('`').skip(1).step_by(2).any(|name| tests.contains(name)));
    assert_none(&items);
}

/// README's table names every direct dependency, with its reason.
#[test]
fn readme_names_every_dependency() {
    let files = tracked();
    let text =
        |name: &str| files.iter().find(|(path, _)| path == Path::new(name)).map(|(_, text)| text);
    let Some(readme) = text("README.md") else {
        skip("readme_names_every_dependency", "README.md is not written yet");
        return;
    };
    let manifest = text("Cargo.toml").unwrap();
    let section =
        manifest.split("[workspace.dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    let names =
        section.lines().filter_map(|line| line.split_once(" = ")).map(|(name, _)| name.trim());
    let rows: Vec<&str> = readme.lines().filter(|line| line.starts_with('|')).collect();
    let missing: Vec<String> = names
        .filter(|name| !name.starts_with("rift-"))
        .filter(|name| !rows.iter().any(|row| row.contains(&format!("`{name}`"))))
        .map(|name| format!("README's dependency table lacks `{name}`"))
        .collect();
    assert_none(&missing);
}

/// Scripts are bash, stop at errors, and can be executed.
#[test]
fn scripts_stop_at_errors() {
    use std::os::unix::fs::PermissionsExt;
    let scripts = tracked();
    let scripts = scripts.iter().filter(|(path, text)| text.starts_with("#!") && !is(path, "rs"));
    let mut count = 0;
    for (path, text) in scripts {
        count += 1;
        let mode = fs::metadata(repository().join(path)).unwrap().permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "{} is not executable", path.display());
        if text.starts_with("#!/usr/bin/env bash") {
            assert!(
                text.contains("\nset -euo pipefail\n"),
                "{} goes on after errors",
                path.display()
            );
        }
    }
    assert!(count >= 4, "only {count} scripts are tracked");
}
