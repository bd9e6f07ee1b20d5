//! `rift hook` in the real shells: what is typed runs under rift, and nothing else about a shell changes.
//!
//! A fake `npm`, first on PATH, notes who started it. Each script runs without the hook first; with it, it prints the
//! same.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rift_tests::again::as_nobody_too;
use rift_tests::fixture::Fixture;
use rift_tests::need::{Need, have};
use rift_tests::sandbox::{Ran, Sandbox, rift_binary};
use rift_tests::terminal::Terminal;
use rift_tests::warm::{Scripts, Warm};

/// Notes its parent and its words, and does what the first one says.
const FAKE: &str = r#"#!/bin/sh
read -r by <"/proc/$PPID/comm"
line="$by|"
for word; do line="$line[$word]"; done
printf '%s\n' "$line" >>"$FAKE_LOG"
case ${1-} in
exit) exit "$2" ;;
kill) kill -"$2" $$ ;;
cat) exec cat ;;
show) exec cat "$2" ;;
say) shift; printf '%s\n' "$*" ;;
env) printenv "$2" ;;
slow) sleep 0.5; echo slow ;;
stay) echo $$ >"$FAKE_LOG.pid"; exec sleep 100 ;;
count)
    n=0
    trap 'n=$((n+1))' INT
    echo ready
    i=0
    while [ $n = 0 ] && [ $i -lt 400 ]; do sleep 0.05; i=$((i+1)); done
    sleep 0.3
    echo counted-$n
    exit 40
    ;;
esac
"#;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

use Shell::{Bash, Fish, Zsh};

impl Shell {
    fn name(self) -> &'static str {
        match self {
            Bash => "bash",
            Zsh => "zsh",
            Fish => "fish",
        }
    }

    /// The line of README for the start-up file.
    fn line(self) -> &'static str {
        match self {
            Bash => r#"eval "$(rift hook --shell bash)""#,
            Zsh => r#"eval "$(rift hook --shell zsh)""#,
            Fish => "rift hook --shell fish | source",
        }
    }

    fn unhook(self) -> &'static str {
        match self {
            Bash | Zsh => r#"eval "$(rift unhook)""#,
            Fish => "rift unhook | source",
        }
    }

    fn start_file(self) -> &'static str {
        match self {
            Bash => "home/.bashrc",
            Zsh => "home/.zshrc",
            Fish => "home/.config/fish/config.fish",
        }
    }

    /// Prints `end-2`, which is not what is typed.
    fn mark(self) -> &'static str {
        match self {
            Bash | Zsh => "echo end-$((1 + 1))",
            Fish => "echo end-(math 1 + 1)",
        }
    }
}

/// The shells that are here. As root, the test has passed as `nobody` before.
fn shells(test: &str) -> Vec<Shell> {
    as_nobody_too(test);
    let is_here = |shell: &Shell| have(test, &[Need::Tool(shell.name()), Need::Tool("setsid")]);
    [Bash, Zsh, Fish].into_iter().filter(is_here).collect()
}

/// A sandbox with the fake tools and rift in one folder, which is first on PATH.
struct Desk {
    sandbox: Sandbox,
}

impl Desk {
    fn new(name: &str) -> Self {
        let desk = Self::without_tools(name);
        for tool in ["npm", "npx", "cargo"] {
            desk.put(&format!("bin/{tool}"), FAKE);
        }
        desk
    }

    /// With rift alone, so that the tools are the real ones.
    fn without_tools(name: &str) -> Self {
        let sandbox = Sandbox::new(name).unwrap();
        // Without the last one fish reads every manual page when it starts.
        for folder in
            ["bin", "work", "home/.config/fish", "home/.local/share/fish/generated_completions"]
        {
            fs::create_dir_all(sandbox.path(folder)).unwrap();
        }
        let binary = rift_binary().unwrap().canonicalize().unwrap();
        symlink(binary, sandbox.path("bin/rift")).unwrap();
        Self { sandbox }
    }

    fn path(&self, inner: &str) -> PathBuf {
        self.sandbox.path(inner)
    }

    /// Writes a program.
    fn put(&self, inner: &str, text: &str) {
        let path = self.path(inner);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// What a shell reads when it starts; `HOOK` stands for the line that turns the hook on.
    fn start_with(&self, shell: Shell, text: &str) {
        let text = text.replace("HOOK", shell.line());
        fs::write(self.path(shell.start_file()), format!("{text}\n")).unwrap();
    }

    fn search_path(&self, before: &[&str]) -> OsString {
        let own = before.iter().chain(&["bin"]).map(|inner| self.path(inner));
        let rest = std::env::var_os("PATH").unwrap();
        std::env::join_paths(own.chain(std::env::split_paths(&rest))).unwrap()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = self.sandbox.command(&self.path("work"), program);
        command.env("PATH", self.search_path(&[])).env("FAKE_LOG", self.path("log"));
        command
    }

    /// Runs a script in a shell that believes that somebody types, without a terminal that it could take.
    fn interactive(&self, shell: Shell, script: &str) -> Ran {
        let mut command = self.command("setsid");
        command.args(["--wait", shell.name(), "-i", "-c", script]);
        self.sandbox.run(&mut command).unwrap()
    }

    fn plain(&self, shell: Shell, script: &str) -> Ran {
        self.sandbox.run(self.command(shell.name()).args(["-c", script])).unwrap()
    }

    fn rift(&self, words: &[&str]) -> Ran {
        self.sandbox.run(self.command("rift").args(words)).unwrap()
    }

    /// Returns what the fake tools noted since the last call: whether rift started it, and its words.
    fn noted(&self) -> Vec<(bool, String)> {
        let log = self.path("log");
        let text = fs::read_to_string(&log).unwrap_or_default();
        let _none_yet = fs::remove_file(&log).is_err();
        let lines = text.lines().map(|line| line.split_once('|').unwrap());
        lines.map(|(by, words)| (by == "rift", words.to_owned())).collect()
    }

    fn terminal(&self, shell: Shell) -> Terminal {
        self.terminal_of(shell, &format!("exec {} -i", shell.name()))
    }

    fn terminal_of(&self, shell: Shell, line: &str) -> Terminal {
        let mut terminal = Terminal::start(self.command("script"), line).unwrap();
        terminal.enter(shell.mark()).unwrap();
        terminal.wait_for("end-2").unwrap();
        terminal
    }

    /// Waits for the process that `npm stay` is.
    fn staying(&self) -> u32 {
        let path = self.path("log.pid");
        let start = Instant::now();
        loop {
            if let Ok(pid) = fs::read_to_string(&path).unwrap_or_default().trim().parse() {
                fs::remove_file(&path).unwrap();
                return pid;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "`npm stay` does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Tells a process's state, see proc_pid_stat(5); `None` when there is no such process, or only its remains.
fn state(pid: u32) -> Option<char> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(") ")?.1.chars().next().filter(|state| *state != 'Z')
}

#[track_caller]
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(60), "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Statuses, signals, words, streams, variables, subshells: all as without the hook.
#[test]
fn what_is_typed_runs_under_rift_and_ends_as_it_would() {
    const POSIX: &str = r#"
npm say 'two  words' '' '*' "it's" -- --x
npm exit 7; echo "status $?"
npx exit 8; echo "status $?"
npm kill TERM; echo "status $?"
echo in | npm cat | tr a-z A-Z
npm exit 4 | npm exit 5; echo "pipe ${PIPESTATUS[*]}${pipestatus[*]}"
echo "list $(npm say hello)"
(npm exit 3; echo "sub $?")
npm cat <"$0.none" || npm cat <$FAKE_LOG | wc -l
npm exit 1 || echo or; npm exit 0 && echo and
! npm exit 2; echo "not $?"
for word in a b; do npm say $word; done
X=1 npm env X; echo "X=${X-}"; export X=2; npm env X
npm say out >&2 2>/dev/null
(cd / && npm say there)
npm exit 9
"#;
    const OF_FISH: &str = r#"
npm say 'two  words' '' '*' "it's" -- --x
npm exit 7; echo "status $status"
npx exit 8; echo "status $status"
npm kill TERM; echo "status $status"
echo in | npm cat | tr a-z A-Z
npm exit 4 | npm exit 5; echo "pipe $pipestatus"
echo "list "(npm say hello)
begin; npm exit 3; echo "sub $status"; end
npm cat <$FAKE_LOG | wc -l
npm exit 1; or echo or; npm exit 0; and echo and
not npm exit 2; echo "not $status"
for word in a b; npm say $word; end
X=1 npm env X; echo "X=$X"; set -gx X 2; npm env X
npm say out >&2 2>/dev/null
npm exit 9
"#;
    for shell in shells("what_is_typed_runs_under_rift_and_ends_as_it_would") {
        let desk = Desk::new("hook-typed");
        let script = if shell == Fish { OF_FISH } else { POSIX };
        desk.start_with(shell, "");
        let native = desk.interactive(shell, script);
        let noted = desk.noted();
        assert!(native.stdout.contains("status 143\n"), "{native}");
        assert!(noted.len() > 15 && noted.iter().all(|(by_rift, _)| !by_rift), "{noted:?}");
        desk.start_with(shell, "HOOK");
        let hooked = desk.interactive(shell, script);
        assert_eq!(hooked.stdout, native.stdout, "{shell:?}");
        assert_eq!(native.status.code(), Some(9));
        assert_eq!(hooked.status.code(), Some(9));
        let expected: Vec<_> = noted.into_iter().map(|(_, words)| (true, words)).collect();
        let mut found = desk.noted();
        let mut expected_sorted = expected.clone();
        // The two ends of a pipe start in any order.
        found.sort();
        expected_sorted.sort();
        assert_eq!(found, expected_sorted, "{shell:?}");
    }
}

#[test]
fn command_and_the_switch_pass_the_hook_by() {
    for shell in shells("command_and_the_switch_pass_the_hook_by") {
        let desk = Desk::new("hook-bypass");
        desk.start_with(shell, "HOOK");
        let script = "RIFT_DISABLE=1 npm a; RIFT_DISABLE=yes npm b; RIFT_DISABLE=0 npm c; \
                      RIFT_DISABLE= npm d; command npm e; env npm f; COMP_LINE=x npm completion; npm g";
        let ran = desk.interactive(shell, script);
        let expected = [
            (false, "[a]"),
            (false, "[b]"),
            (true, "[c]"),
            (true, "[d]"),
            (false, "[e]"),
            (false, "[f]"),
            (false, "[completion]"),
            (true, "[g]"),
        ];
        let expected = expected.map(|(by_rift, words)| (by_rift, words.to_owned()));
        assert_eq!(desk.noted(), expected, "{shell:?} {ran}");
    }
}

/// `type npm` and its like tell of a function; `which` and scripts find the file.
#[test]
fn a_hooked_tool_is_a_function() {
    for shell in shells("a_hooked_tool_is_a_function") {
        let desk = Desk::new("hook-function");
        desk.start_with(shell, "HOOK");
        let ran = desk.interactive(shell, "type npm; command -v npm; env which npm; type npm2");
        assert!(ran.stdout.starts_with("npm is a "), "{ran}");
        assert!(ran.stdout.lines().next().unwrap().contains("function"), "{ran}");
        let file = desk.path("bin/npm");
        assert!(ran.stdout.contains(&format!("{}\n", file.display())), "{ran}");
        let ran = desk.interactive(shell, "sh -c 'command -v npm'");
        assert_eq!(ran.stdout, format!("{}\n", file.display()));
    }
}

/// The line in a file that every shell reads, scripts below a hooked shell, and a hook that was asked for.
#[test]
fn shells_that_nobody_types_into_have_no_hook_unless_asked() {
    for shell in shells("shells_that_nobody_types_into_have_no_hook_unless_asked") {
        let desk = Desk::new("hook-scripts");
        let ran = desk.plain(shell, &format!("{}; npm a; env | grep RIFT_HOOK", shell.line()));
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""), "{ran}");
        assert_eq!(desk.noted(), [(false, "[a]".to_owned())], "{shell:?}");
        let always = shell.line().replace(shell.name(), &format!("{} --always", shell.name()));
        desk.plain(shell, &format!("{always}; npm b")).success().unwrap();
        assert_eq!(desk.noted(), [(true, "[b]".to_owned())], "{shell:?}");
        desk.start_with(shell, "HOOK");
        fs::write(desk.path("work/script"), "npm script\n").unwrap();
        let name = shell.name();
        let script = format!("sh -c 'npm sh; :'; {name} -c 'npm c'; {name} ./script; npm on");
        desk.interactive(shell, &script);
        let expected = [(false, "[sh]"), (false, "[c]"), (false, "[script]"), (true, "[on]")];
        let expected = expected.map(|(by_rift, words)| (by_rift, words.to_owned()));
        assert_eq!(desk.noted(), expected, "{shell:?}");
        if have("dash, untouched by the hook", &[Need::Tool("dash")]) {
            desk.interactive(shell, "dash -c 'npm dash; :'; dash -ic 'npm typed; :'");
            let expected = [(false, "[dash]".to_owned()), (false, "[typed]".to_owned())];
            assert_eq!(desk.noted(), expected, "{shell:?}");
        }
    }
}

/// Everything of a shell that a hook could leave something in, as lines.
fn state_of(shell: Shell) -> &'static str {
    match shell {
        Bash => {
            "declare -p | grep -vE '^declare -[-a-zA-Z]+ (_|BASH_[A-Z]*|BASHPID|EPOCH[A-Z]*|S?RANDOM|SECONDS|LINENO|FUNCNAME|PIPESTATUS|COLUMNS|LINES)(=|$)'; \
             declare -F; alias; trap; complete -p; shopt; set -o; bind -p; bind -X"
        }
        Zsh => {
            "typeset -x | grep -v '^_='; print -l ${(ok)functions}; alias; trap; setopt; bindkey; \
             print -l hooks $precmd_functions $preexec_functions $chpwd_functions $periodic_functions; print -r -- $PS1$PROMPT_COMMAND"
        }
        Fish => {
            "functions -a; set -n | string match -rv '^(status|pipestatus|status_generation|_)$'; set -x | string match -rv '^_ '; \
             functions --handlers; bind; complete | sort; trap -p"
        }
    }
}

#[test]
fn the_hook_is_functions_and_one_variable_and_unhook_removes_them() {
    for shell in shells("the_hook_is_functions_and_one_variable_and_unhook_removes_them") {
        let desk = Desk::new("hook-state");
        desk.start_with(shell, "");
        let (hook, unhook, look) = (shell.line(), shell.unhook(), state_of(shell));
        let tell = if shell == Fish { "begin; LOOK; end >NAME" } else { "{ LOOK; } >NAME" };
        let tell = |name: &str| tell.replace("LOOK", look).replace("NAME", name);
        // The first look loads what looking itself needs.
        let script = [
            tell("first"),
            tell("before"),
            hook.to_owned(),
            tell("once"),
            hook.to_owned(),
            tell("twice"),
            unhook.to_owned(),
            tell("off"),
            unhook.replace("unhook", &format!("unhook --shell {}", shell.name())),
            tell("off-again"),
        ];
        let ran = desk.interactive(shell, &script.join("\n"));
        let seen = |name: &str| fs::read_to_string(desk.path("work").join(name)).unwrap();
        let before = seen("before");
        assert!(before.lines().count() > 30, "{ran}");
        let once = seen("once");
        let known: Vec<&str> = before.lines().collect();
        let fresh: Vec<&str> = once.lines().filter(|line| !known.contains(line)).collect();
        let is_ours = |line: &&str| {
            ["__rift_exec", "npm", "npx", "cargo", "RIFT_HOOK"]
                .iter()
                .any(|name| line.contains(name))
        };
        assert!(fresh.len() >= 4 && fresh.iter().all(is_ours), "{shell:?}: {fresh:?}");
        assert_eq!(seen("twice"), once, "{shell:?}");
        assert_eq!(seen("off"), before, "{shell:?}");
        assert_eq!(seen("off-again"), before, "{shell:?}");
        assert!(ran.stderr.contains("later shells have the hook until the line"), "{ran}");
        assert!(ran.stderr.contains(hook), "{ran}");
    }
}

/// An alias leads to the hooked tool, whenever it was made; another function of that name stays, also when the hook goes.
#[test]
fn aliases_and_functions_of_the_users_stay() {
    for shell in shells("aliases_and_functions_of_the_users_stay") {
        let desk = Desk::new("hook-aliases");
        let (own, look) = match shell {
            Bash | Zsh => ("npm() { command npm own \"$@\"; }", "declare -f npm"),
            Fish => ("function npm; command npm own $argv; end", "functions npm"),
        };
        if shell != Fish {
            // fish's aliases are functions.
            for start in
                ["alias npm='npm --aliased'\nHOOK\nHOOK", "HOOK\nalias npm='npm --aliased'"]
            {
                desk.start_with(shell, start);
                let lines = "npm a\nalias npm\neval \"$(rift unhook)\"\nnpm b\n";
                fs::write(desk.path("work/lines"), lines).unwrap();
                let ran = desk.interactive(shell, ". ./lines");
                let expected = [(true, "[--aliased][a]"), (false, "[--aliased][b]")];
                let expected = expected.map(|(by_rift, words)| (by_rift, words.to_owned()));
                assert_eq!(desk.noted(), expected, "{shell:?} {start} {ran}");
                assert!(ran.stdout.contains("npm='npm --aliased'"), "{ran}");
            }
        }
        if shell == Zsh {
            desk.start_with(shell, "alias -g npm='npm --global'\nHOOK");
            let ran = desk.interactive(shell, "eval 'npm a'");
            assert_eq!(desk.noted(), [(true, "[--global][a]".to_owned())], "{ran}");
        }
        for start in [format!("{own}\nHOOK"), format!("HOOK\n{own}\nHOOK")] {
            desk.start_with(shell, &start);
            let script = format!("npm a; npx b; {}; npm c; {look}", shell.unhook());
            let ran = desk.interactive(shell, &script);
            let expected = [(false, "[own][a]"), (true, "[b]"), (false, "[own][c]")];
            let expected = expected.map(|(by_rift, words)| (by_rift, words.to_owned()));
            assert_eq!(desk.noted(), expected, "{shell:?} {start} {ran}");
            assert!(ran.stdout.contains("command npm own"), "{ran}");
        }
    }
}

#[test]
fn strict_shells_stop_where_they_would() {
    for shell in shells("strict_shells_stop_where_they_would") {
        if shell == Fish {
            // It has no such mode.
            continue;
        }
        let desk = Desk::new("hook-strict");
        let options = if shell == Bash { "set -euo pipefail" } else { "setopt err_exit no_unset" };
        desk.start_with(shell, &format!("{options}\nHOOK\nHOOK"));
        let script = "npm exit 0; npm exit 5 || echo caught; if npm exit 6; then :; fi; \
                      npm say a | cat; npm exit 3; echo unreached";
        let ran = desk.interactive(shell, script);
        assert_eq!((ran.status.code(), ran.stdout.as_str()), (Some(3), "caught\na\n"), "{ran}");
        assert_eq!(desk.noted().iter().filter(|(by_rift, _)| *by_rift).count(), 5, "{shell:?}");
        let again = "eval \"$(rift unhook)\"; eval \"$(rift unhook --shell SHELL)\"; echo off";
        let ran = desk.interactive(shell, &again.replace("SHELL", shell.name()));
        assert_eq!((ran.status.code(), ran.stdout.as_str()), (Some(0), "off\n"), "{ran}");
    }
}

/// Rift can go while shells are open, and so can the tool.
#[test]
fn without_rift_the_tool_runs_and_without_the_tool_the_shell_says_so() {
    for shell in shells("without_rift_the_tool_runs_and_without_the_tool_the_shell_says_so") {
        let desk = Desk::new("hook-gone");
        desk.start_with(shell, "HOOK");
        let ran = desk.interactive(shell, "npm a; rm $HOME/../bin/rift; npm b; npm exit 6");
        assert_eq!(ran.status.code(), Some(6), "{ran}");
        let noted = desk.noted();
        assert_eq!(noted[..2], [(true, "[a]".to_owned()), (false, "[b]".to_owned())], "{ran}");
        // The line in the start-up file then does no harm either.
        let ran = desk.interactive(shell, "npm c");
        assert_eq!((ran.status.code(), desk.noted().len()), (Some(0), 1), "{ran}");
        let desk = Desk::new("hook-gone");
        desk.start_with(shell, "HOOK");
        let ran = desk.interactive(shell, "PATH=/nonexistent npm a");
        assert_eq!(ran.status.code(), Some(127), "{ran}");
        assert!(ran.stderr.contains("ommand not found") || ran.stderr.contains("nknown command"));
        assert!(!ran.stderr.contains("rift: "), "{ran}");
    }
}

/// Every shell within another has a hook of its own, and doctor tells in which it was called.
#[test]
fn nested_shells_are_hooked_and_doctor_tells_where() {
    let here = shells("nested_shells_are_hooked_and_doctor_tells_where");
    let desk = Desk::new("hook-nested");
    for shell in &here {
        desk.start_with(*shell, "HOOK");
    }
    let finding = |ran: &Ran| {
        let line = ran.stdout.lines().find(|line| line.get(6..10) == Some("hook"));
        line.unwrap_or_else(|| panic!("{ran}"))[20..].to_owned()
    };
    let off = "off; `rift hook --help` shows the line that turns it on";
    assert_eq!(finding(&desk.rift(&["doctor"])), off);
    for shell in &here {
        let name = shell.name();
        let ran = desk.interactive(*shell, "rift doctor; true");
        assert_eq!(finding(&ran), format!("on in this {name}, for npm, npx and cargo"));
        let ran = desk.interactive(*shell, "sh -c 'rift doctor; true'; true");
        assert_eq!(finding(&ran), format!("on in a {name} above, not in this shell"));
        let ran = desk.interactive(*shell, "rift self uninstall --dry-run; true");
        let told = format!("the line `{}` in ", shell.line());
        assert!(ran.stderr.contains(&told), "{ran}");
        let ran = desk.interactive(*shell, &format!("{}; rift doctor", shell.unhook()));
        assert_eq!(finding(&ran), off);
        for inner in &here {
            let inner = inner.name();
            let script = format!("{inner} -i -c 'npm inner; rift doctor; true'; npm outer");
            let ran = desk.interactive(*shell, &script);
            assert_eq!(finding(&ran), format!("on in this {inner}, for npm, npx and cargo"));
            let mut noted = desk.noted();
            // Doctor asks for the version.
            noted.retain(|(_, words)| words != "[--version]");
            let expected = [(true, "[inner]".to_owned()), (true, "[outer]".to_owned())];
            assert_eq!(noted, expected, "{shell:?} {ran}");
        }
    }
}

/// Who typed `npm` has not asked for rift: what keeps it from starting does not keep npm.
#[test]
fn a_hooked_tool_runs_alone_where_rift_cannot_begin() {
    for shell in shells("a_hooked_tool_runs_alone_where_rift_cannot_begin") {
        let desk = Desk::new("hook-broken");
        desk.start_with(shell, "HOOK");
        fs::create_dir(desk.path("work/gone")).unwrap();
        fs::write(desk.path("work/rift.toml"), "vai = \"hardlink\"\n").unwrap();
        let script = "npm say settings; RIFT_STRICT=1 npm say strict; cd gone; rmdir ../gone; \
                      npm say folder; cd ..; rm rift.toml; RIFT_STORE=/proc/none npm say store; \
                      RIFT_AS=nonsense npm exit 6";
        let ran = desk.interactive(shell, script);
        assert_eq!(
            (ran.status.code(), ran.stdout.as_str()),
            (Some(6), "settings\nfolder\nstore\n")
        );
        for text in [
            "warning: npm runs without rift: ",
            "rift.toml:1: unknown key `vai`; did you mean `via`?\n",
            "error: ",
            "could not find the working directory",
            "warning: running without a store: ",
            "the variable RIFT_AS has a wrong value",
        ] {
            assert!(ran.stderr.contains(text), "{shell:?} `{text}`: {ran}");
        }
        shims(&desk, "shims").success().unwrap();
        fs::write(desk.path("work/rift.toml"), "vai = \"hardlink\"\n").unwrap();
        let mut command = desk.command("sh");
        command.env("PATH", desk.search_path(&["shims"])).args(["-c", "npm say shim"]);
        let ran = desk.sandbox.run(&mut command).unwrap();
        assert_eq!(ran.stdout, "shim\n", "{ran}");
        assert!(ran.stderr.starts_with("warning: npm runs without rift: "), "{ran}");
    }
}

/// A start-up file that runs anywhere: a project with broken settings, a folder that is gone, a rift with an odd path.
#[test]
fn the_hook_comes_in_spite_of_settings_and_from_any_path() {
    for shell in shells("the_hook_comes_in_spite_of_settings_and_from_any_path") {
        let desk = Desk::new("hook-odd");
        fs::write(desk.path("work/rift.toml"), "nonsense = 1\n").unwrap();
        let odd = desk.path("it's $HOME \\ \"odd\"\n");
        fs::create_dir(&odd).unwrap();
        fs::rename(desk.path("bin/rift"), odd.join("rift")).unwrap();
        let mut command = desk.command("setsid");
        let path = std::env::join_paths(
            [odd].into_iter().chain(std::env::split_paths(&desk.search_path(&[]))),
        );
        command.env("PATH", path.unwrap());
        let script = format!("cd; {}; npm odd", shell.line());
        command.args(["--wait", shell.name(), "-i", "-c", &script]);
        desk.start_with(shell, "HOOK");
        let ran = desk.sandbox.run(&mut command).unwrap();
        assert_eq!(desk.noted(), [(true, "[odd]".to_owned())], "{shell:?} {ran}");
    }
}

/// `$!` is the shell's own process, which stands for the function. In fish a function has no background.
#[test]
fn a_function_in_the_background_is_a_process_of_the_shell() {
    for shell in shells("a_function_in_the_background_is_a_process_of_the_shell") {
        let desk = Desk::new("hook-background");
        desk.start_with(shell, "HOOK");
        if shell == Fish {
            let ran = desk.interactive(shell, "npm slow &\necho after\nwait");
            assert_eq!(ran.stdout, "slow\nafter\n", "{ran}");
            let ran = desk.interactive(shell, "command npm slow &\necho after\nwait");
            assert_eq!(ran.stdout, "after\nslow\n", "{ran}");
            continue;
        }
        let wait = "until [ -s $FAKE_LOG.pid ]; do sleep 0.05; done; kill $!; wait $!; echo $?";
        let ran = desk.interactive(shell, &format!("npm stay >/dev/null 2>&1 & {wait}"));
        assert!(ran.stdout.ends_with("143\n"), "{ran}");
        let tool = desk.staying();
        assert!(state(tool).is_some(), "only the shell's process was told");
        desk.sandbox.kill_leftovers();
        let ran = desk.interactive(shell, &format!("command npm stay & {wait}"));
        assert!(ran.stdout.ends_with("143\n"), "{ran}");
        let tool = desk.staying();
        wait_until("the tool ends", || state(tool).is_none());
    }
}

#[test]
fn keys_of_the_terminal_reach_a_hooked_tool_once() {
    for shell in shells("keys_of_the_terminal_reach_a_hooked_tool_once") {
        if !have("keys_of_the_terminal_reach_a_hooked_tool_once", &[Need::Tool("script")]) {
            return;
        }
        let desk = Desk::new("hook-keys");
        let mut native = Vec::new();
        for start in ["", "HOOK"] {
            desk.start_with(shell, start);
            let mut terminal = desk.terminal(shell);
            terminal.enter("npm count").unwrap();
            terminal.wait_for("ready").unwrap();
            terminal.press("\x03").unwrap();
            terminal.wait_for("counted-1").unwrap();
            let status = if shell == Fish { "echo st-$status" } else { "echo st-$?" };
            terminal.enter(status).unwrap();
            terminal.wait_for("st-40").unwrap();
            // Stopped and brought back.
            terminal.enter("npm stay").unwrap();
            let tool = desk.staying();
            terminal.press("\x1a").unwrap();
            wait_until("the tool stops", || state(tool) == Some('T'));
            terminal.enter(shell.mark()).unwrap();
            terminal.wait_for("end-2").unwrap();
            terminal.enter("fg").unwrap();
            wait_until("the tool goes on", || state(tool) == Some('S'));
            terminal.press("\x03").unwrap();
            wait_until("the tool ends", || state(tool).is_none());
            // A tool that the key ends takes the loop around it with it, but not through a function of fish's.
            let a_loop = match shell {
                Bash | Zsh => "for i in 1 2; do npm stay; done",
                Fish => "for i in 1 2; npm stay; end",
            };
            terminal.enter(a_loop).unwrap();
            let rounds = if shell == Fish && start == "HOOK" { 2 } else { 1 };
            for _ in 0..rounds {
                let tool = desk.staying();
                terminal.press("\x03").unwrap();
                wait_until("the tool ends", || state(tool).is_none());
            }
            terminal.enter(shell.mark()).unwrap();
            terminal.wait_for("end-2").unwrap();
            if shell == Bash {
                // Of a list bash ends all, and a function is one.
                terminal.enter("if npm stay; then :; else echo else-$((1 + 1)); fi").unwrap();
                let tool = desk.staying();
                terminal.press("\x03").unwrap();
                wait_until("the tool ends", || state(tool).is_none());
                terminal.enter(shell.mark()).unwrap();
                let screen = terminal.wait_for("end-2").unwrap();
                assert_eq!(screen.contains("else-2"), start.is_empty(), "{screen}");
            }
            if shell != Fish {
                terminal.enter("npm stay &").unwrap();
                let tool = desk.staying();
                terminal.enter("kill %1").unwrap();
                wait_until("the job ends", || state(tool).is_none());
            }
            terminal.enter(shell.mark()).unwrap();
            terminal.wait_for("end-2").unwrap();
            terminal.enter("exit").unwrap();
            terminal.end().unwrap();
            let noted = desk.noted();
            assert!(noted.iter().all(|(by_rift, _)| *by_rift == (start == "HOOK")), "{noted:?}");
            let mut words: Vec<String> = noted.into_iter().map(|(_, words)| words).collect();
            if rounds == 2 {
                assert_eq!(words.pop().unwrap(), "[stay]");
            }
            if start == "HOOK" {
                assert_eq!(words, native, "{shell:?}");
            } else {
                assert!(words.len() >= 3, "{words:?}");
                native = words;
            }
        }
    }
}

/// Between two commands a shell waits for keys, and the hook has it do nothing more.
#[test]
fn nothing_runs_at_a_prompt() {
    for shell in shells("nothing_runs_at_a_prompt") {
        if !have("nothing_runs_at_a_prompt", &[Need::Tool("script"), Need::Strace]) {
            return;
        }
        let desk = Desk::new("hook-prompt");
        // fish's own prompt may run git.
        let prompt = if shell == Fish { "function fish_prompt; echo '> '; end\n" } else { "" };
        desk.start_with(shell, &format!("{prompt}HOOK"));
        let trace = "exec strace -f -qq -e trace=execve -o trace SHELL -i";
        let mut terminal = desk.terminal_of(shell, &trace.replace("SHELL", shell.name()));
        terminal.enter("env printf 'be%s\\n' gun").unwrap();
        terminal.wait_for("begun").unwrap();
        for _ in 0..20 {
            terminal.enter("").unwrap();
        }
        terminal.enter("npm done").unwrap();
        terminal.enter(shell.mark()).unwrap();
        terminal.wait_for("end-2").unwrap();
        terminal.enter("exit").unwrap();
        terminal.end().unwrap();
        let trace = fs::read_to_string(desk.path("work/trace")).unwrap();
        let is_start = |line: &&str| line.contains("execve(") && !line.contains(" = -1 ");
        let started: Vec<&str> = trace.lines().filter(is_start).collect();
        let at = started.iter().rposition(|line| line.contains("\"gun\"")).unwrap();
        let next = started[at + 1];
        assert!(next.contains("\"exec\", \"--hooked\", \"--\", \"npm\""), "{shell:?}: {next}");
    }
}

/// The Tab key completes a hooked tool as it does without the hook, whichever came first.
#[test]
fn completion_goes_on() {
    for shell in shells("completion_goes_on") {
        if !have("completion_goes_on", &[Need::Tool("script")]) {
            return;
        }
        let desk = Desk::new("hook-completion");
        let complete = match shell {
            Bash => {
                "_c() { COMPREPLY=($(compgen -W 'run-script rebuild' -- \"$2\")); }\ncomplete -F _c npm"
            }
            Zsh => {
                "autoload -Uz compinit\ncompinit -u -D\n_c() { compadd run-script rebuild }\ncompdef _c npm"
            }
            Fish => "complete -c npm -f -a 'run-script rebuild'",
        };
        for start in [complete.to_owned(), format!("HOOK\n{complete}"), format!("{complete}\nHOOK")]
        {
            desk.start_with(shell, &start);
            let mut terminal = desk.terminal(shell);
            terminal.press("npm run-s\t").unwrap();
            terminal.enter("last").unwrap();
            terminal.enter(shell.mark()).unwrap();
            terminal.wait_for("end-2").unwrap();
            terminal.enter("exit").unwrap();
            terminal.end().unwrap();
            let is_hooked = start.contains("HOOK");
            // fish's own completions of npm ask npm itself, hooked or not.
            let (asked, ran): (Vec<_>, Vec<_>) =
                desk.noted().into_iter().partition(|(_, words)| words.starts_with("[completion]"));
            assert_eq!(ran, [(is_hooked, "[run-script][last]".to_owned())], "{shell:?}");
            assert!(asked.iter().all(|(by_rift, _)| !by_rift), "{asked:?}");
        }
    }
}

/// Real npm, a real project, and `npm ci` as people type it: learnt the first time, from the store then.
#[test]
fn npm_ci_typed_into_each_shell_is_a_hit() {
    let test = "npm_ci_typed_into_each_shell_is_a_hit";
    // Root makes what nobody reads.
    let warm = Warm::of(Fixture::Small, Scripts::On).unwrap();
    let here = shells(test);
    if here.is_empty() || !have(test, &[Need::Tool("script")]) {
        return;
    }
    let desk = Desk::without_tools("hook-npm");
    warm.fill_npm_cache(&desk.sandbox).unwrap();
    Fixture::Small.prepare(&desk.path("work")).unwrap();
    let mut done = ["  fetched 174 (", "scripts run 1 "];
    for shell in here {
        desk.start_with(shell, "HOOK");
        let mut terminal = desk.terminal(shell);
        let mut say = |line: &str| {
            terminal.enter(line).unwrap();
            terminal.enter(shell.mark()).unwrap();
            terminal.wait_for("end-2").unwrap()
        };
        loop {
            let screen = say("npm ci");
            for text in ["added 174 packages in ", "▞ rift 174 packages projected in "] {
                assert!(screen.contains(text), "{shell:?} `{text}`: {screen}");
            }
            for text in done {
                assert!(screen.contains(text), "{shell:?} `{text}`: {screen}");
            }
            assert!(desk.path("work/node_modules/.bin/tsc").exists(), "{shell:?}: {screen}");
            let hit = ["  reused 174 (", "scripts reused 1 "];
            if std::mem::replace(&mut done, hit) == hit {
                break;
            }
            say("rm -r node_modules");
        }
        // What is not an install is npm's own.
        let screen = say("npm ls --depth 0");
        assert!(screen.contains("typescript@"), "{shell:?}: {screen}");
        say("rm -r node_modules");
        terminal.enter("exit").unwrap();
        assert!(terminal.end().unwrap().success());
    }
}

/// Nothing is preloaded but where settings of the project show trees virtually.
#[test]
fn the_preload_is_left_to_projects_that_ask_for_it() {
    for shell in shells("the_preload_is_left_to_projects_that_ask_for_it") {
        let desk = Desk::new("hook-preload");
        for folder in ["tree", "work/asks", "work/plain"] {
            fs::create_dir_all(desk.path(folder)).unwrap();
        }
        fs::write(desk.path("tree/file"), "text\n").unwrap();
        fs::write(desk.path("work/asks/rift.toml"), "as = \"virtual\"\n").unwrap();
        desk.rift(&["ingest", "../tree", "--name", "tree"]).success().unwrap();
        let show = ["exec", "--as", "virtual", "--tree", "tree=asks/shown", "--", "true"];
        desk.rift(&show).success().unwrap();
        desk.start_with(shell, "HOOK");
        let script = "cd plain; npm env LD_PRELOAD; npx env LD_PRELOAD; cd ../asks; echo asked; \
                      npm env LD_PRELOAD; npx env LD_PRELOAD; npx show shown/file; \
                      command npm env LD_PRELOAD; env | grep LD_PRELOAD";
        let ran = desk.interactive(shell, script);
        let lines: Vec<&str> = ran.stdout.lines().collect();
        let is_shim = |line: &&str| line.contains("rift");
        assert!(lines.len() == 4 && lines[0] == "asked", "{shell:?} {ran}");
        assert!(lines[1..3].iter().all(is_shim) && lines[3] == "text", "{shell:?} {ran}");
        assert_eq!(desk.noted().len(), 6);
    }
}

/// Makes shims at `inner` and returns what was said.
fn shims(desk: &Desk, inner: &str) -> Ran {
    let folder = desk.path(inner);
    desk.rift(&["hook", "--shims", folder.to_str().unwrap()])
}

fn identities(folder: &Path) -> Vec<(OsString, u64, i64, i64)> {
    let mut found: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            let metadata = entry.metadata().unwrap();
            (entry.file_name(), metadata.ino(), metadata.mtime(), metadata.mtime_nsec())
        })
        .collect();
    found.sort();
    found
}

#[test]
fn shims_run_the_next_tool_on_path_under_rift() {
    as_nobody_too("shims_run_the_next_tool_on_path_under_rift");
    let desk = Desk::new("shims");
    let said = shims(&desk, "shims").success().unwrap();
    assert_eq!(said.stdout, format!("{}\n", desk.path("shims").display()));
    let run = |before: &[&str], script: &str| {
        let mut command = desk.command("sh");
        command.env("PATH", desk.search_path(before)).args(["-c", script]);
        desk.sandbox.run(&mut command).unwrap()
    };
    let script = "npm say 'a  b' '' '*'; npm exit 7; echo $?; npm kill TERM; echo $?; \
                  echo in | npm cat | tr a-z A-Z; x=1 npm env x; npx exit 3";
    let native = run(&[], script);
    let noted = desk.noted();
    let shimmed = run(&["shims"], script);
    assert_eq!((native.stdout.clone(), native.status), (shimmed.stdout, shimmed.status));
    let expected: Vec<_> = noted.into_iter().map(|(_, words)| (true, words)).collect();
    assert_eq!(desk.noted(), expected);
    // The switch, rift's own word, and rift itself being gone.
    let script = "RIFT_DISABLE=1 npm a; RIFT_DISABLE=0 npm b; rift exec -- npm c; \
                  RIFT_DISABLE=1 rift exec -- npm d; $HOME/../shims/npm e; rm $HOME/../bin/rift; npm f";
    run(&["shims"], script);
    let expected = [
        (false, "[a]"),
        (true, "[b]"),
        (true, "[c]"),
        (false, "[d]"),
        (true, "[e]"),
        (false, "[f]"),
    ];
    assert_eq!(desk.noted(), expected.map(|(by_rift, words)| (by_rift, words.to_owned())));
}

#[test]
fn shims_never_start_shims() {
    as_nobody_too("shims_never_start_shims");
    let desk = Desk::new("shims-once");
    for inner in ["shims", "others"] {
        shims(&desk, inner).success().unwrap();
    }
    symlink(desk.path("shims"), desk.path("linked")).unwrap();
    fs::create_dir(desk.path("astray")).unwrap();
    fs::copy(desk.path("shims/npm"), desk.path("astray/npm")).unwrap();
    fs::create_dir(desk.path("pointing")).unwrap();
    symlink("../shims/npm", desk.path("pointing/npm")).unwrap();
    let run = |folders: &[&str]| {
        let mut command = desk.command("sh");
        command.env("PATH", desk.search_path(folders)).args(["-c", "npm a; exit $?"]);
        (desk.sandbox.run(&mut command).unwrap(), desk.noted())
    };
    for folders in [
        &["shims", "others"][..],
        &["others", "shims", "shims"],
        &["linked", "shims"],
        &["shims", "linked", "others"],
    ] {
        let (ran, noted) = run(folders);
        assert_eq!(noted, [(true, "[a]".to_owned())], "{folders:?} {ran}");
    }
    // A shim in another folder is not told from the tool by its name: the tool runs alone.
    for folders in [
        &["astray"][..],
        &["astray", "shims"],
        &["shims", "astray"],
        &["pointing"],
        &["pointing", "shims", "astray"],
        &["others", "pointing"],
    ] {
        let (ran, noted) = run(folders);
        assert_eq!(noted, [(false, "[a]".to_owned())], "{folders:?} {ran}");
    }
    // Nothing but shims: not found, as by a shell.
    let mut command = desk.command("/bin/sh");
    let folders = ["shims", "others", "astray"].map(|inner| desk.path(inner));
    command.env("PATH", std::env::join_paths(folders).unwrap()).args(["-c", "npm a"]);
    let ran = desk.sandbox.run(&mut command).unwrap();
    assert_eq!(ran.status.code(), Some(127), "{ran}");
    assert!(ran.stderr.contains("npm: not found"), "{ran}");
}

/// What a shim starts has every folder of PATH but those of shims, in their order.
#[test]
fn what_a_shim_starts_does_not_see_shims_on_path() {
    as_nobody_too("what_a_shim_starts_does_not_see_shims_on_path");
    let desk = Desk::new("shims-path");
    shims(&desk, "shims").success().unwrap();
    let bin = desk.path("bin").display().to_string();
    let shims = desk.path("shims").display().to_string();
    for (path, seen) in [
        (format!("{shims}:{bin}:/usr/bin:/bin"), format!("{bin}:/usr/bin:/bin")),
        (format!("/a b:{shims}/:{bin}::/usr/bin:/bin:/*"), format!("/a b:{bin}::/usr/bin:/bin:/*")),
        (format!(":{shims}:{bin}:/usr/bin:/bin:"), format!(":{bin}:/usr/bin:/bin:")),
    ] {
        let mut command = desk.command("/bin/sh");
        command.env("PATH", path).args(["-c", &format!("{shims}/npm env PATH")]);
        assert_eq!(desk.sandbox.run(&mut command).unwrap().stdout, format!("{seen}\n"));
    }
}

#[test]
fn a_folder_of_shims_is_made_once_and_holds_nothing_else() {
    as_nobody_too("a_folder_of_shims_is_made_once_and_holds_nothing_else");
    let desk = Desk::new("shims-folder");
    shims(&desk, "shims").success().unwrap();
    let folder = desk.path("shims");
    let before = identities(&folder);
    assert_eq!(before.len(), 4);
    shims(&desk, "shims").success().unwrap();
    assert_eq!(identities(&folder), before, "what is right is not touched");
    // A rift elsewhere brings it up to date, and nothing is left over.
    fs::write(folder.join("npm"), fs::read_to_string(folder.join("npm")).unwrap() + "# old\n")
        .unwrap();
    shims(&desk, "shims").success().unwrap();
    assert!(!fs::read_to_string(folder.join("npm")).unwrap().contains("# old"));
    assert_eq!(identities(&folder).len(), 4);
    // A folder with anything else in it is nobody's to take out of PATH.
    for inner in ["bin", "home"] {
        let before = identities(&desk.path(inner));
        let ran = shims(&desk, inner);
        assert_eq!(ran.status.code(), Some(125), "{ran}");
        assert!(ran.stderr.contains("no shim of rift's") && ran.stderr.contains("hint: "), "{ran}");
        assert_eq!(identities(&desk.path(inner)), before);
    }
    fs::write(folder.join("npx"), "#!/bin/sh\nmine\n").unwrap();
    assert_eq!(shims(&desk, "shims").status.code(), Some(125));
    let unhook = || desk.rift(&["unhook", "--shims", folder.to_str().unwrap()]);
    unhook().success().unwrap();
    let left: Vec<_> = identities(&folder).into_iter().map(|(name, ..)| name).collect();
    assert_eq!(left, ["npx"], "what is not rift's stays");
    fs::remove_file(folder.join("npx")).unwrap();
    shims(&desk, "shims").success().unwrap();
    unhook().success().unwrap();
    assert!(!folder.exists());
    unhook().success().unwrap();
    let bin = desk.path("bin");
    desk.rift(&["unhook", "--shims", bin.to_str().unwrap()]).success().unwrap();
    assert!(bin.join("npm").exists());
}

#[test]
fn doctor_tells_where_shims_are_on_path() {
    as_nobody_too("doctor_tells_where_shims_are_on_path");
    let desk = Desk::new("shims-doctor");
    shims(&desk, "shims").success().unwrap();
    let ask = |path: OsString| {
        let ran = desk.sandbox.run(desk.command("rift").arg("doctor").env("PATH", path)).unwrap();
        let lines: Vec<String> = ran.stdout.lines().map(str::to_owned).collect();
        let at = lines.iter().position(|line| line.get(6..10) == Some("hook")).unwrap();
        lines[at..(at + 2).min(lines.len())].join("\n")
    };
    let shims = desk.path("shims");
    let found = ask(desk.search_path(&["shims"]));
    let first = format!("ok    hook          shims are first on PATH, in {}\n", shims.display());
    assert!(found.starts_with(&first), "{found}");
    let mut later = desk.search_path(&[]);
    later.push(":");
    later.push(&shims);
    let found = ask(later);
    let npm = desk.path("bin/npm");
    let expected = format!(
        "warn  hook          {} comes before the shims on PATH\n                    hint: put {} first on PATH",
        npm.display(),
        shims.display()
    );
    assert_eq!(found, expected);
}
