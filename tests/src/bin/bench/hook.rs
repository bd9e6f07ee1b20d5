//! The hook suite: a prompt and the start of each shell with the hook and without, and `rift exec -- true` beside `true`.
//!
//! Both sides of a pair are the same program with the same start-up file, but for the line that turns the hook on, in
//! rounds of one run, in an order drawn for each round. Prompts are counted, so that each is waited for by its number.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::Result;
use rift_tests::need::Need;
use rift_tests::sandbox::{clear, rift_binary};
use rift_tests::terminal::Terminal;

use crate::measure::{self, How, Sample};
use crate::suite::{Case, Suite};
use crate::table::Target::{AtMost, Reported};
use crate::table::{Measure, Of, Report, median};

/// What the table's head names the versions of.
pub(crate) const PROGRAMS: [&str; 3] = ["bash", "zsh", "fish"];

const RIFT: &str = "rift exec";
const HOOKED: &str = "rift hook";
const PLAIN: &str = "plain";

const TRUE: &str = "command: true";

/// How many prompts, and how many starts, one sample is the median of.
const PROMPTS: usize = 200;
const STARTS: usize = 20;

struct Shell {
    name: &'static str,
    /// In the home folder.
    start_file: &'static str,
    /// The line of README.
    hook: &'static str,
    /// Has each prompt tell its number.
    prompt: &'static str,
    prompts: &'static str,
    start: &'static str,
}

const SHELLS: [Shell; 3] = [
    Shell {
        name: PROGRAMS[0],
        start_file: ".bashrc",
        hook: r#"eval "$(rift hook --shell bash)""#,
        prompt: "n=0\nPROMPT_COMMAND='n=$((n + 1))'\nPS1='at-$n- '",
        prompts: "prompt: bash",
        start: "start: bash -i",
    },
    Shell {
        name: PROGRAMS[1],
        start_file: ".zshrc",
        hook: r#"eval "$(rift hook --shell zsh)""#,
        prompt: "n=0\nsetopt prompt_subst\nprecmd() { n=$((n + 1)) }\nPROMPT='at-$n- '",
        prompts: "prompt: zsh",
        start: "start: zsh -i",
    },
    Shell {
        name: PROGRAMS[2],
        start_file: ".config/fish/config.fish",
        hook: "rift hook --shell fish | source",
        prompt: "set -g n 0\nfunction count --on-event fish_prompt; set -g n (math $n + 1); end\n\
                 function fish_prompt; echo -n at-$n-' '; end",
        prompts: "prompt: fish",
        start: "start: fish -i",
    },
];

/// What the hook is held to.
pub(crate) fn measures(of: &Of<'_>) -> Vec<Measure> {
    let more = |group, case| of.more((group, case), (group, PLAIN)).map(|seconds| seconds * 1e3);
    let [bash, zsh, fish] = SHELLS;
    vec![
        ("`rift exec -- true`, ms more than `true`", more(TRUE, RIFT), AtMost(5.0)),
        ("a prompt of bash, ms more with the hook", more(bash.prompts, HOOKED), AtMost(1.0)),
        ("a prompt of zsh, ms more with the hook", more(zsh.prompts, HOOKED), AtMost(1.0)),
        ("a prompt of fish, ms more with the hook", more(fish.prompts, HOOKED), AtMost(1.0)),
        ("start of bash, ms more with the hook", more(bash.start, HOOKED), Reported),
        ("start of zsh, ms more with the hook", more(zsh.start, HOOKED), Reported),
        ("start of fish, ms more with the hook", more(fish.start, HOOKED), Reported),
    ]
}

impl Suite<'_> {
    pub(crate) fn hook(
        &self,
        report: &mut Report,
        save: &dyn Fn(&Report) -> Result<()>,
    ) -> Result<()> {
        let at = self.project("project")?;
        fs::create_dir_all(self.folder("bin"))?;
        symlink(rift_binary()?, self.folder("bin/rift"))?;
        let mut cases = Vec::new();
        for name in [RIFT, PLAIN].into_iter().filter(|name| self.wants(TRUE, name)) {
            let at = at.clone();
            cases.push(self.lasting((TRUE, name), move || {
                let command = match name {
                    RIFT => self.rift(&at, "store", &[], &["true"])?,
                    _ => self.sandbox.command(&at, "true"),
                };
                self.many(&command, STARTS)
            }));
        }
        for shell in &SHELLS {
            let missing = [shell.name, "script", "setsid"].map(Need::Tool);
            if let Some(why) = missing.into_iter().find_map(Need::missing) {
                self.leave_out(report, shell.name, &why);
                continue;
            }
            for case in [HOOKED, PLAIN] {
                cases.extend(self.shell_cases(shell, case)?);
            }
        }
        report.rows.extend(self.interleave(&cases, self.wanted.runs * 3));
        save(report)?;
        clear(&self.folder(""))
    }

    fn many(&self, command: &Command, times: usize) -> Result<(Sample, u64)> {
        let how = How { within: None, times };
        let sample =
            measure::command_as(how, command, &self.folder(""), &self.sandbox.path("log"))?;
        Ok((sample, times as u64))
    }

    /// Prepares a home folder; the cases of a shell in it.
    fn shell_cases<'a>(&'a self, shell: &'a Shell, case: &'static str) -> Result<Vec<Case<'a>>> {
        let home = self.folder(&format!("home-{}", case.replace(' ', "-")));
        // Without the last one fish reads every manual page when it starts.
        for folder in [".config/fish", ".local/share/fish/generated_completions"] {
            fs::create_dir_all(home.join(folder))?;
        }
        let hook = if case == HOOKED { shell.hook } else { "" };
        fs::write(home.join(shell.start_file), format!("{}\n{hook}\n", shell.prompt))?;
        let mut cases = Vec::new();
        if self.wants(shell.prompts, case) {
            let home = home.clone();
            cases.push(
                self.lasting((shell.prompts, case), move || self.prompts(shell, case, &home)),
            );
        }
        if self.wants(shell.start, case) {
            cases.push(self.lasting((shell.start, case), move || {
                let mut command = self.command_in(&home, "setsid")?;
                command.args(["--wait", shell.name, "-i", "-c", "true"]);
                self.many(&command, STARTS)
            }));
        }
        Ok(cases)
    }

    /// Returns a program that finds rift, and start-up files in that home.
    fn command_in(&self, home: &Path, program: &str) -> Result<Command> {
        let mut command = self.sandbox.command(&self.folder("project"), program);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(self.folder("bin")).chain(std::env::split_paths(&path));
        command.env("PATH", std::env::join_paths(folders)?).env("HOME", home);
        command.env("XDG_CONFIG_HOME", home.join(".config"));
        command.env("XDG_DATA_HOME", home.join(".local/share"));
        Ok(command)
    }

    /// From pressing Enter to the next prompt, again and again in one shell.
    fn prompts(&self, shell: &Shell, case: &str, home: &Path) -> Result<(Sample, u64)> {
        let script = self.command_in(home, "script")?;
        let mut terminal = Terminal::start(script, &format!("exec {} -i", shell.name))?;
        terminal.wait_for("at-1-")?;
        terminal.enter(r#"echo "hook-$RIFT_HOOK-""#)?;
        let is_on =
            if case == HOOKED { format!("hook-{}:", shell.name) } else { "hook--".to_owned() };
        terminal.wait_for(&is_on)?;
        terminal.wait_for("at-2-")?;
        let mut times = Vec::with_capacity(PROMPTS);
        for number in 3..PROMPTS + 3 {
            let start = Instant::now();
            terminal.enter("")?;
            terminal.wait_for(&format!("at-{number}-"))?;
            times.push(start.elapsed().as_secs_f64());
        }
        terminal.enter("exit")?;
        terminal.end()?;
        times.sort_by(f64::total_cmp);
        let p99_s = times.get(PROMPTS * 99 / 100).copied();
        let wall_s = median(times).unwrap_or_default();
        Ok((Sample { wall_s, p99_s, ..Sample::default() }, PROMPTS as u64))
    }
}
