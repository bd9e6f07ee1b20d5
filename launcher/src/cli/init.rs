//! `rift init`: a project's settings file, explained in itself.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};

use crate::config::{KEYS, Kind, PROJECT_FILE, Scope, project_file};
use crate::context::Context;
use crate::hint::Hint as _;
use crate::probe;
use crate::ui::Out;

/// Write rift.toml here, and say what works on this machine
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The file explains every setting and changes none: what is right for this
machine need not be for the next that checks the project out. An existing file
is never touched.

Example:
  cd project && rift init")]
pub(crate) struct Args {}

pub(crate) fn run(_args: &Args, context: &Context) -> anyhow::Result<ExitCode> {
    let path = context.cwd.join(PROJECT_FILE);
    let above = project_file(&context.cwd).filter(|found| *found != path);
    match fs::OpenOptions::new().write(true).create_new(true).open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let there: anyhow::Result<()> = Err(anyhow!("`{}` is there already", path.display()));
            there.hint("edit it; `rift config list --origins` shows what holds")?;
        }
        opened => opened
            .and_then(|mut file| file.write_all(contents().as_bytes()))
            .with_context(|| format!("could not write `{}`", path.display()))?,
    }
    let mut out = Out::new();
    out.name(path.as_os_str().as_bytes())?;
    out.write_all(b"\n")?;
    out.finish()?;
    if let Some(above) = above {
        context.ui.warn(&format!("it hides `{}` from this project", above.display()));
    }
    for line in advice(context) {
        context.ui.note(&line);
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the file: every key that a project may set, explained, at its default.
fn contents() -> String {
    let mut text = String::from(
        "# Settings of Velo Rift for this project. A flag or a variable RIFT_* beats this file, and\n\
         # this file beats your own settings. Every line shows its default; remove the `#` to change it.\n",
    );
    for key in KEYS.iter().filter(|key| key.scope == Scope::Anywhere) {
        let default = match key.kind {
            Kind::Flag | Kind::Count | Kind::Percent => key.default.to_owned(),
            _ => format!("{:?}", key.default),
        };
        let written = write!(text, "\n# {}\n# {} = {default}\n", key.doc, key.name);
        debug_assert!(written.is_ok(), "writing to a string can't fail");
    }
    text
}

/// Says what rift does here, after trying it.
fn advice(context: &Context) -> Vec<String> {
    let mut lines = Vec::new();
    match context.store_path() {
        Err(error) => lines.push(format!("{error:#}")),
        Ok(path) => {
            lines.push(format!("the store is {}", path.display()));
            let folder = probe::nearest_folder(path);
            let reflinks = probe::can_reflink(folder, &context.cwd).unwrap_or(false);
            let links = probe::can_link(folder, &context.cwd).unwrap_or(false);
            lines.push(match (reflinks, links) {
                (true, _) => {
                    "files share their bytes with the store until they are changed".to_owned()
                }
                (false, true) => "files are private copies: there are no reflinks here; \
                     `via = \"hardlink\"` would share them with the store"
                    .to_owned(),
                (false, false) => {
                    "files are private copies: the store is on another file system".to_owned()
                }
            });
        }
    }
    lines.push(match crate::mount::refusal() {
        None => "`as = \"mount\"` shows trees in milliseconds, by a process that stays until \
                 `rift close`; files need none"
            .to_owned(),
        Some(why) => format!("trees are files: {why}"),
    });
    if context.cwd.join("package-lock.json").is_file() {
        lines.push("try `rift exec -- npm ci`, twice".to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Sources};

    #[test]
    fn the_file_is_valid_with_and_without_its_marks() {
        let folder = tempfile::tempdir().unwrap();
        let load = |text: &str| {
            fs::write(folder.path().join(PROJECT_FILE), text).unwrap();
            let cwd = folder.path().to_owned();
            Config::from_sources(&Sources { user_file: None, cwd, env: None }).unwrap()
        };
        let values = |config: &Config| -> Vec<String> {
            config.settings().map(|(_, value, _)| value.to_string()).collect()
        };
        let defaults = values(&Config::defaults().unwrap());
        assert_eq!(values(&load(&contents())), defaults);
        let active: String = contents()
            .lines()
            .filter_map(|line| line.strip_prefix("# "))
            .filter(|line| KEYS.iter().any(|key| line.starts_with(&format!("{} = ", key.name))))
            .map(|line| format!("{line}\n"))
            .collect();
        assert_eq!(
            active.lines().count(),
            KEYS.iter().filter(|key| key.scope == Scope::Anywhere).count()
        );
        assert_eq!(values(&load(&active)), defaults);
    }
}
