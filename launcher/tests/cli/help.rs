//! Help, manual and completions. `RIFT_TEST_WRITE_GOLDEN=1 cargo test` writes the golden texts anew.

use std::fs;
use std::path::Path;

use crate::home::Home;

const COMMANDS: &[&[&str]] = &[
    &[],
    &["exec"],
    &["plan"],
    &["why"],
    &["summary"],
    &["stats"],
    &["init"],
    &["ingest"],
    &["ls"],
    &["cat"],
    &["diff"],
    &["refs"],
    &["materialize"],
    &["open"],
    &["close"],
    &["push"],
    &["pull"],
    &["remote"],
    &["remote", "add"],
    &["remote", "check"],
    &["remote", "prune"],
    &["remote", "list"],
    &["key"],
    &["key", "new"],
    &["key", "trust"],
    &["key", "list"],
    &["store"],
    &["store", "stats"],
    &["store", "verify"],
    &["store", "gc"],
    &["store", "purge"],
    &["store", "path"],
    &["status"],
    &["config"],
    &["config", "list"],
    &["doctor"],
    &["self"],
    &["self", "uninstall"],
    &["hook"],
    &["unhook"],
    &["completions"],
    &["man"],
];

/// What fits on a screen.
const LINES_MAX: usize = 45;

#[test]
fn help_is_as_agreed_and_fits_a_screen() {
    let home = Home::new();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/help");
    let is_update = std::env::var_os("RIFT_TEST_WRITE_GOLDEN").is_some();
    let mut wrong = Vec::new();
    for command in COMMANDS {
        let text = home.run(command.iter().chain(&["--help"])).good();
        let name = if command.is_empty() { "rift".to_owned() } else { command.join("-") };
        let path = golden.join(format!("{name}.txt"));
        if is_update {
            fs::write(&path, &text).unwrap();
        }
        let lines = text.lines().count();
        let width = text.lines().map(|line| line.chars().count()).max().unwrap_or(0);
        // `store purge` shows a whole hash.
        let width_max = if name == "store-purge" { 90 } else { 80 };
        if lines > LINES_MAX || width > width_max {
            wrong.push(format!("{name}: {lines} lines, {width} columns"));
        }
        if fs::read_to_string(&path).unwrap_or_default() != text {
            wrong.push(format!("{name}: differs from {}:\n{text}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(fs::read_dir(golden).unwrap().count(), COMMANDS.len(), "no golden text too many");
}

#[test]
fn every_command_has_a_golden_text() {
    let listed = Home::new().run(["--help"]).good();
    let commands = listed.split("Commands:").nth(1).unwrap().split("Options:").next().unwrap();
    for line in commands.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   ")) {
        let name = line.split_whitespace().next().unwrap();
        assert!(COMMANDS.iter().any(|command| command.first() == Some(&name)), "{name}");
    }
}

#[test]
fn rift_alone_shows_its_help_and_mistakes_end_with_2() {
    let home = Home::new();
    assert_eq!(home.run([""; 0]).good(), home.run(["--help"]).good());
    assert!(home.run(["--version"]).good().starts_with("rift "));
    for mistake in [&["nonsense"][..], &["ls"], &["exec"], &["ls", "--nonsense"], &["store"]] {
        let said = home.run(mistake);
        assert_eq!((said.code(), said.out().as_str()), (Some(2), ""), "{mistake:?}");
        assert!(said.err().contains("Usage: rift"), "{mistake:?}");
    }
}

#[test]
fn manual_pages_are_written_for_every_command() {
    let home = Home::new();
    let main = home.run(["man"]).good();
    assert!(main.contains(".SH SETTINGS") && main.contains("RIFT_STORE"), "{main}");
    home.run(["man", "--dir", "pages"]).good();
    for command in COMMANDS {
        let name = [&["rift"], *command].concat().join("-");
        let page = fs::read_to_string(home.work(format!("pages/{name}.1"))).unwrap();
        assert!(page.contains(".TH"), "{name}");
    }
}

#[test]
fn completions_are_scripts_that_their_shells_read() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = home.run(["completions", shell]).good();
        assert!(script.contains("materialize"), "{shell}");
    }
    home.run(["completions", "bash", "--install"]).good();
    let path = home.path().join(".local/share/bash-completion/completions/rift");
    let checked = home.command("bash").arg("-n").arg(path).output().unwrap();
    assert!(checked.status.success(), "{checked:?}");
    assert!(home.run(["completions", "elvish", "--install"]).bad(125).contains("hint: "));
}
