//! Hooks: plain `npm ci`, typed into a shell or started by an editor, runs under `rift exec`.
//!
//! In a shell a function stands before each of [`TOOLS`], see [`code`]; elsewhere a folder of small scripts that is
//! first on PATH, see [`shims`]. Neither preloads anything, and nothing runs at a prompt. Either steps aside when
//! `RIFT_DISABLE` is set or rift is gone, and `rift exec --hooked` does where rift can't begin: then the tool itself runs.

mod code;
pub mod shims;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::ValueEnum;

use crate::env_vars;
use crate::exec::child;
use crate::plan::TOOLS;

/// The shells that have a hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// bash(1)
    Bash,
    /// zsh(1)
    Zsh,
    /// fish(1)
    Fish,
}

impl Shell {
    /// Returns its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bash => "bash",
            Self::Zsh => "zsh",
            Self::Fish => "fish",
        }
    }

    /// Returns the line that turns the hook on.
    #[must_use]
    pub fn line(self) -> &'static str {
        match self {
            Self::Bash => r#"eval "$(rift hook --shell bash)""#,
            Self::Zsh => r#"eval "$(rift hook --shell zsh)""#,
            Self::Fish => "rift hook --shell fish | source",
        }
    }

    /// Returns the file that the line belongs into, as people write it.
    #[must_use]
    pub fn start_file(self) -> &'static str {
        match self {
            Self::Bash => "~/.bashrc",
            Self::Zsh => "~/.zshrc",
            Self::Fish => "~/.config/fish/config.fish",
        }
    }

    /// Returns the code that turns the hook on.
    ///
    /// # Errors
    /// Rift does not find itself.
    pub fn hook(self, is_always: bool) -> anyhow::Result<Vec<u8>> {
        Ok(code::hook(self, program()?.as_os_str(), is_always))
    }

    /// Returns the code that turns it off.
    #[must_use]
    pub fn unhook(self) -> Vec<u8> {
        code::unhook(self)
    }
}

/// A shell in which the hook was turned on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hooked {
    /// Which shell.
    pub shell: Shell,
    /// Its process.
    pub pid: i32,
}

/// Returns the shell in whose environment this process runs, if its hook is on; that need not be the one that started us.
#[must_use]
pub fn hooked() -> Option<Hooked> {
    let mark = env_vars::get(env_vars::RIFT_HOOK)?.into_string().ok()?;
    let (name, pid) = mark.split_once(':')?;
    Some(Hooked { shell: Shell::from_str(name, false).ok()?, pid: pid.parse().ok()? })
}

/// Returns where this program is to be found later as well: by its name on PATH, which outlives an upgrade, where that
/// leads to it.
fn program() -> anyhow::Result<PathBuf> {
    let itself = std::env::current_exe().context("could not find this program")?;
    let named = child::find(OsStr::new("rift")).filter(|path| path.is_absolute());
    let same = named.filter(|path| path.canonicalize().is_ok_and(|real| real == itself));
    Ok(same.unwrap_or(itself))
}

/// Returns `text` with every `name` replaced, for templates.
fn fill(template: &str, fields: &[(&str, &OsStr)]) -> Vec<u8> {
    let mut text = Vec::with_capacity(template.len() + 256);
    let mut rest = template;
    while let Some(at) = rest.find('@') {
        let (before, after) = rest.split_at(at);
        text.extend_from_slice(before.as_bytes());
        match fields.iter().find(|(name, _)| after.starts_with(name)) {
            Some((name, value)) => {
                text.extend_from_slice(value.as_bytes());
                rest = &after[name.len()..];
            }
            None => {
                text.push(b'@');
                rest = &after[1..];
            }
        }
    }
    text.extend_from_slice(rest.as_bytes());
    text
}

/// Returns a word that every POSIX shell, bash and zsh read as `word`.
fn quoted(word: &OsStr) -> OsString {
    let mut text = vec![b'\''];
    for &byte in word.as_bytes() {
        match byte {
            b'\'' => text.extend_from_slice(b"'\\''"),
            byte => text.push(byte),
        }
    }
    text.push(b'\'');
    OsString::from_vec(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_filled_once() {
        let fields = [("@A@", OsStr::new("@B@")), ("@B@", OsStr::new("b"))];
        assert_eq!(fill("x @A@ $@ \"$@\" @B@", &fields), b"x @B@ $@ \"$@\" b");
    }

    #[test]
    fn quoted_words_are_read_as_they_were() {
        for word in ["plain", "", "it's", "''", "a b\n$c`d`\\", "--x"] {
            for shell in ["sh", "bash"] {
                let mut line = OsString::from("printf %s ");
                line.push(quoted(OsStr::new(word)));
                let output =
                    std::process::Command::new(shell).arg("-c").arg(line).output().unwrap();
                assert_eq!(output.stdout, word.as_bytes(), "{word:?} in {shell}");
            }
        }
    }
}
