//! `rift doctor`: what this machine permits, one line each, with one thing to do about what is wrong.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, SystemTime};

use rift_cas::{Store, materialize};
use rift_tree::run::Count;
use serde::Serialize;

use crate::context::Context;
use crate::exec::child;
use crate::hook::shims::{self, OnPath};
use crate::place::Place;
use crate::shim::{self, Which};
use crate::ui::{self, Out, Style};
use crate::{config, env_vars, hint, hook, machine, mount, place, plan, probe, sys};

/// Show what this machine permits, and what to do about it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rift doctor
  rift doctor --json")]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// One finding.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    is_ok: bool,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

fn ok(name: &'static str, found: impl Into<String>) -> Check {
    Check { name, is_ok: true, found: found.into(), hint: None }
}

fn warn(name: &'static str, found: impl Into<String>, hint: impl Into<String>) -> Check {
    Check { name, is_ok: false, found: found.into(), hint: Some(hint.into()) }
}

/// Less than this much free space is worth a warning, in bytes.
const FREE_BYTES_MIN: u64 = 2_000_000_000;
/// A tree of packages has tens of thousands of files.
const FREE_INODES_MIN: u64 = 200_000;

pub(crate) fn run(args: &Args, context: &Context) -> anyhow::Result<ExitCode> {
    let mut checks = vec![ok("rift", env!("CARGO_PKG_VERSION"))];
    checks.push(settings(context));
    checks.push(store(context));
    if let Ok(path) = context.store_path() {
        let folder = match path.join("tmp") {
            temporary if temporary.is_dir() => temporary,
            _ => probe::nearest_folder(path).to_owned(),
        };
        let is_in_memory = context.config.is_in_memory();
        checks.push(file_system(&folder, is_in_memory));
        if is_in_memory {
            checks.push(spill(context));
        }
        checks.push(reflinks(&folder, &context.cwd));
        checks.push(hard_links(&folder, &context.cwd, is_in_memory));
        checks.push(match is_in_memory {
            true => memory(&folder, context),
            false => space(&folder),
        });
        checks.push(clock(&folder));
    }
    checks.extend(mounts());
    checks.push(intercepted(context));
    checks.push(trapped(context));
    checks.push(hooked());
    checks.push(umask());
    checks.push(program("node", node_version));
    checks.push(program("npm", npm_version));
    let mut out = Out::new();
    if args.json {
        let answer = serde_json::json!({ "schema": 1, "checks": checks });
        writeln!(out, "{answer:#}")?;
    } else {
        for check in &checks {
            let mark = match check.is_ok {
                true => "ok  ".to_owned(),
                false => context.ui.paint(Style::Warning, "warn"),
            };
            writeln!(out, "{mark}  {:<12}  {}", check.name, ui::printable(&check.found))?;
            if let Some(hint) = &check.hint {
                writeln!(out, "      {:<12}  hint: {}", "", ui::printable(hint))?;
            }
        }
    }
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// What mounts need, and what follows for each way to show a tree.
fn mounts() -> [Check; 4] {
    let root = Path::new("/");
    let around = match (machine::image_build(root), machine::container(root)) {
        (Some(builder), _) => format!("{builder}: no mount outlives its step"),
        (None, Some(container)) => container.to_owned(),
        (None, None) => "none was noticed".to_owned(),
    };
    let refused = mount::private::refusal();
    let namespaces = match &refused {
        None => ok("namespaces", "commands can have a mount namespace of their own"),
        Some(why) if machine::restricts_namespaces(root) => warn(
            "namespaces",
            format!("{why}; AppArmor denies rights to programs without a profile"),
            "`--as mount` needs none where `fusermount3` is installed",
        ),
        Some(why) => ok("namespaces", why.clone()),
    };
    let is_for_all = rustix::process::geteuid().is_root() || mount::may_allow_other();
    let mounted = match mount::refusal() {
        None if is_for_all => "mounts them, for every user to see".to_owned(),
        None => "mounts them, for this user to see".to_owned(),
        Some(why) => format!("too, because {why}"),
    };
    let privately = match (&refused, mount::device_refusal()) {
        (None, None) => "mounts them, for one command",
        _ => "too",
    };
    let shown =
        format!("`--as auto` writes files; `--as mount` {mounted}; `--private` {privately}");
    [ok("fuse", mount::describe()), namespaces, ok("container", around), ok("mount", shown)]
}

/// Whether the shim gets into programs here.
fn intercepted(context: &Context) -> Check {
    let Ok(store) = context.existing_store() else {
        return ok("shim", "not tried: there is no store yet");
    };
    let hint = "`--as mount` and `--as files` need no shim";
    let tried = shim::Prepared::new(&store, &[], Which::Owned)
        .and_then(|run| run.run(&["/bin/true".into()]));
    match tried {
        Ok(outcome) if outcome.counted.is_complete() => ok(
            "shim",
            "`--as virtual` answers programs that use the system's C library; others find real files",
        ),
        Ok(outcome) => {
            let is_some = |count| outcome.counted.of(count) > 0;
            let why = match (is_some(Count::Unpatched), is_some(Count::Foreign)) {
                (true, _) => "the C library's code can't be patched here",
                (_, true) => "no library can be loaded into `/bin/true`",
                _ => "the loader leaves the library out",
            };
            warn("shim", format!("{why}: `--as virtual` writes files"), hint)
        }
        Err(error) => warn("shim", format!("`--as virtual` fails: {error:#}"), hint),
    }
}

/// Whether `--trap` does what it says.
fn trapped(context: &Context) -> Check {
    let hint = "only programs that make system calls without the C library need it";
    if !sys::can_trap_calls() {
        return warn("trap", "`--trap` is not to be had: the kernel has it since Linux 5.11", hint);
    }
    let Ok(store) = context.existing_store() else {
        return ok("trap", "not tried: there is no store yet");
    };
    let tried = shim::Prepared::new(&store, &[], Which::All);
    match tried.and_then(|run| run.run(&["/bin/true".into()])) {
        Ok(outcome) if outcome.counted.is_complete() => {
            ok("trap", "`--trap` answers system calls made without the C library")
        }
        Ok(_) => warn("trap", "`--trap` does not work: `--as virtual` with it writes files", hint),
        Err(error) => warn("trap", format!("`--trap` fails: {error:#}"), hint),
    }
}

/// Whether plain commands run under rift where it was called from.
fn hooked() -> Check {
    match shims::on_path() {
        Some(OnPath::First(folder)) => {
            return ok("hook", format!("shims are first on PATH, in {}", folder.display()));
        }
        Some(OnPath::After(folder, tool)) => {
            let found = format!("{} comes before the shims on PATH", tool.display());
            return warn("hook", found, format!("put {} first on PATH", folder.display()));
        }
        None => {}
    }
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    ok(
        "hook",
        match hook::hooked() {
            Some(hooked) if Some(hooked.pid) == parent => {
                let tools = plan::TOOLS.map(|(tool, _)| tool);
                let [first @ .., last] = &tools;
                let tools = format!("{} and {last}", first.join(", "));
                format!("on in this {}, for {tools}", hooked.shell.name())
            }
            Some(hooked) => format!("on in a {} above, not in this shell", hooked.shell.name()),
            None => "off; `rift hook --help` shows the line that turns it on".to_owned(),
        },
    )
}

fn settings(context: &Context) -> Check {
    let unknown: Vec<String> = std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| name.starts_with(env_vars::PREFIX))
        .filter(|name| !env_vars::OWN.contains(&name.as_str()))
        .collect();
    if !unknown.is_empty() {
        let hint = "`rift config list --origins` shows the variables there are";
        return warn("settings", format!("nothing reads {}", unknown.join(", ")), hint);
    }
    let files = [config::user_file(), config::project_file(&context.cwd)];
    let files: Vec<_> = files.into_iter().flatten().filter(|path| path.is_file()).collect();
    let names: Vec<_> = files.iter().map(|path| path.display().to_string()).collect();
    ok("settings", if names.is_empty() { "defaults".to_owned() } else { names.join(", ") })
}

fn store(context: &Context) -> Check {
    let (path, reason) = match context.place() {
        Place::Folder { path, reason } => (path, reason),
        Place::Nowhere { reason } if context.config.is_in_memory() => {
            return warn("store", format!("none: {reason}"), "`--tier disk` has one on the disk");
        }
        Place::Nowhere { reason } => {
            return warn("store", format!("none: {reason}"), "name a folder with RIFT_STORE");
        }
    };
    let place = format!("{} ({})", path.display(), reason.text());
    match Store::open_existing(path) {
        Ok(Some(_)) => ok("store", place),
        Ok(None) => ok("store", format!("{place}; not made yet")),
        Err(error) => {
            let error = anyhow::Error::from(error);
            let hint =
                hint::of(&error).unwrap_or_else(|| "name another with RIFT_STORE".to_owned());
            warn("store", format!("{error:#}"), hint)
        }
    }
}

/// What takes what a store in memory has no room for.
fn spill(context: &Context) -> Check {
    match context.disk_place() {
        Place::Folder { path, .. } => {
            ok("spill", format!("{} takes what memory has no room for", path.display()))
        }
        Place::Nowhere { reason } => {
            let found = format!("what memory has no room for runs by itself: {reason}");
            warn("spill", found, "name a folder on a disk with RIFT_STORE")
        }
    }
}

/// How much a store in memory may take.
fn memory(folder: &Path, context: &Context) -> Check {
    let limit = place::memory_limit(&context.config, folder);
    let found = format!("{} of it for the store", ui::size(limit));
    match probe::free_bytes(folder) {
        Ok(free) if free < limit / 4 => warn(
            "memory",
            format!("{found}, but only {} are free", ui::size(free)),
            "others fill this file system: what finds no room goes to the disk",
        ),
        _ => ok("memory", found),
    }
}

fn file_system(folder: &Path, is_in_memory: bool) -> Check {
    const REMOTE: [&str; 8] = ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "afs", "ceph"];
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let mounts = machine::mounts(Path::new("/"));
    let Some(mount) = machine::mount_of(&mounts, &folder) else {
        return ok("file system", "unknown");
    };
    let found = format!("{} at {}", mount.kind, mount.place.display());
    match mount.kind.as_str() {
        kind if REMOTE.contains(&kind) => {
            warn("file system", found, "a store on a local disk is faster, and its locks are surer")
        }
        "tmpfs" if !is_in_memory => {
            warn("file system", found, "a store in memory is gone after a restart")
        }
        _ => ok("file system", found),
    }
}

fn reflinks(folder: &Path, project: &Path) -> Check {
    match probe::can_reflink(folder, project) {
        Ok(true) => ok("reflinks", "files share their bytes with the store until they are changed"),
        Ok(false) => ok("reflinks", "none here: files are private copies"),
        Err(error) => {
            let hint = "store and project both have to be writable";
            warn("reflinks", format!("could not be tried: {error}"), hint)
        }
    }
}

fn hard_links(folder: &Path, project: &Path, is_in_memory: bool) -> Check {
    if is_in_memory {
        return ok("hard links", "none into memory: files are private copies");
    }
    match probe::can_link(folder, project) {
        Ok(true) => ok("hard links", "possible (`via = \"hardlink\"` uses them)"),
        Ok(false) => warn(
            "hard links",
            "impossible between store and project",
            "RIFT_STORE on the project's file system makes them, and reflinks, possible",
        ),
        Err(error) => {
            let hint = "store and project both have to be writable";
            warn("hard links", format!("could not be tried: {error}"), hint)
        }
    }
}

fn space(folder: &Path) -> Check {
    let stat = match rustix::fs::statvfs(folder) {
        Ok(stat) => stat,
        Err(error) => {
            let hint = "check the folder of the store";
            return warn("free space", format!("unknown: {error}"), hint);
        }
    };
    let bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
    let found = format!("{} for the store", ui::size(bytes));
    if bytes < FREE_BYTES_MIN {
        return warn("free space", found, "make room, or `rift store gc --max-size 1GB`");
    }
    // Some file systems, such as btrfs, have no fixed number of inodes and say 0.
    if stat.f_files > 0 && stat.f_favail < FREE_INODES_MIN {
        let found = format!("{found}, but only {} inodes", ui::count(stat.f_favail));
        return warn("free space", found, "a project's node_modules may need that many files");
    }
    ok("free space", found)
}

fn clock(folder: &Path) -> Check {
    // What was released can't be before that: 2026.
    const EARLIEST: Duration = Duration::from_secs(1_767_225_600);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    if now < EARLIEST {
        return warn("clock", "it is in the past", "set the clock: changes are noticed by times");
    }
    match probe::clock_skew(folder) {
        Ok(skew) if skew > Duration::from_secs(2) => warn(
            "clock",
            format!("the store's file system is {} off", ui::duration(skew)),
            "synchronize the clocks: changes are noticed by times",
        ),
        Ok(_) => ok("clock", "the file system agrees with it"),
        Err(error) => {
            warn("clock", format!("could not be tried: {error}"), "check the folder of the store")
        }
    }
}

fn umask() -> Check {
    let mask = materialize::umask();
    let found = format!("{mask:03o}");
    match mask {
        mask if mask & 0o700 != 0 => {
            warn("umask", found, "`umask 022`: with this one you can't use what you make")
        }
        mask if mask & 0o002 == 0 => {
            warn("umask", found, "`umask 022`: with this one anybody may change what you make")
        }
        _ => ok("umask", found),
    }
}

/// Reads a version from the files of a program.
type VersionOf = fn(&Path) -> Option<String>;

fn program(name: &'static str, version: VersionOf) -> Check {
    let Some(found) = child::find(OsStr::new(name)) else {
        return warn(name, "not found", format!("put {name} on PATH, for projects that need it"));
    };
    let real = found.canonicalize().unwrap_or_else(|_| found.clone());
    match version(&real).or_else(|| asked_version(&found)) {
        Some(version) => ok(name, format!("{version} ({})", found.display())),
        None => warn(name, format!("no version ({})", found.display()), "try it: it may be broken"),
    }
}

/// Returns node's version as its headers have it, when they are beside it.
fn node_version(node: &Path) -> Option<String> {
    let header: PathBuf = node.parent()?.parent()?.join("include/node/node_version.h");
    let text = fs::read_to_string(header).ok()?;
    let number = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(&format!("#define {name} ")))?;
        line.split_whitespace().nth(2).map(str::to_owned)
    };
    let parts = [
        number("NODE_MAJOR_VERSION")?,
        number("NODE_MINOR_VERSION")?,
        number("NODE_PATCH_VERSION")?,
    ];
    Some(parts.join("."))
}

/// Returns npm's version as its package.json has it.
fn npm_version(npm: &Path) -> Option<String> {
    let package = npm.ancestors().skip(1).take(3).map(|folder| folder.join("package.json"));
    let text = package.into_iter().find_map(|path| fs::read_to_string(path).ok())?;
    let package: serde_json::Value = serde_json::from_str(&text).ok()?;
    let is_npm = package.get("name")?.as_str()? == "npm";
    is_npm.then(|| package.get("version")?.as_str().map(str::to_owned)).flatten()
}

/// Starts a program only to learn its version: where its files do not tell.
fn asked_version(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let version = text.trim().trim_start_matches('v').to_owned();
    (output.status.success() && !version.is_empty()).then_some(version)
}
