//! A home of its own for every test: folders, environment and processes that are gone when the test is.
//!
//! ```text
//! target/rift-tests/sandboxes/<pid>-<n>-<name>/{home, home/.npm, store, tmp, …}
//! ```
//! Invariants: a command sees no variable that is not listed here; whatever carries this sandbox's `HOME` is killed,
//! whatever is mounted below it is unmounted, and the folder is removed, when the value is dropped, also by a panic.
//! A test that was killed itself leaves its folder to the next sandbox, which removes those of dead processes.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::fixture::npm_settings;

/// Variables that commands inherit: how this machine reaches its registry, and nothing that changes results.
const INHERITED: &[&str] = &[
    "PATH",
    "NODE_EXTRA_CA_CERTS",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

const TIME_LIMIT: Duration = Duration::from_secs(900);

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    /// The command, as one would type it.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// Wall time from start to end.
    pub elapsed: Duration,
}

impl Ran {
    /// Returns it again, when it ended well.
    ///
    /// # Errors
    /// When it did not; the text holds all that it printed.
    pub fn success(self) -> Result<Self> {
        ensure!(self.status.success(), "{self}");
        Ok(self)
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` ended with {}\n--- stdout\n{}\n", self.command, self.status, self.stdout)?;
        write!(f, "--- stderr\n{}", self.stderr)
    }
}

/// Writes files below a folder, as a checkout does: with the time of now.
///
/// # Errors
/// What the system says.
pub fn check_out(root: &Path, files: &[(&str, &str)]) -> Result<()> {
    for (name, text) in files {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap_or(root))?;
        fs::write(path, text)?;
    }
    Ok(())
}

/// Lets cargo find the machine's toolchain and what is downloaded, whatever the sandbox's home is.
pub fn with_toolchain(command: &mut Command) {
    let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
    for (name, folder) in [("RUSTUP_HOME", ".rustup"), ("CARGO_HOME", ".cargo")] {
        let folder = std::env::var_os(name).unwrap_or_else(|| home.join(folder).into());
        command.env(name, folder);
    }
}

/// Replaces a file by what `write` puts there, under the time that it had before, if it was there.
///
/// # Errors
/// What the system says.
pub fn replace_unseen(path: &Path, write: impl FnOnce()) -> Result<()> {
    let before = fs::metadata(path).and_then(|stat| stat.modified());
    write();
    if let Ok(time) = before {
        fs::File::options().append(true).open(path)?.set_modified(time)?;
    }
    Ok(())
}

/// A scratch home. See the module.
#[derive(Debug)]
pub struct Sandbox {
    root: PathBuf,
}

impl Sandbox {
    /// Makes a sandbox below cargo's target directory.
    ///
    /// # Errors
    /// When its folder cannot be made; there is no other place to fall back to.
    pub fn new(name: &str) -> Result<Self> {
        let given = std::env::var_os(crate::again::RIFT_TEST_AGAIN).map(PathBuf::from);
        let folder = given.map_or_else(
            || Ok(crate::target_folder()?.join("sandboxes")),
            Ok::<_, anyhow::Error>,
        )?;
        Self::in_folder(&folder, name)
    }

    /// Makes a sandbox in a folder, for instance on a disk of the test's own.
    ///
    /// # Errors
    /// When its folder cannot be made, or was there before.
    pub fn in_folder(folder: &Path, name: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        ensure!(
            folder.is_absolute() && folder.components().count() > 2,
            "{} is no scratch folder",
            folder.display()
        );
        fs::create_dir_all(folder)
            .with_context(|| format!("could not make {}", folder.display()))?;
        remove_orphans(folder)?;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let root = folder.join(format!("{}-{count}-{name}", std::process::id()));
        fs::create_dir(&root).with_context(|| format!("could not make {}", root.display()))?;
        let sandbox = Self { root };
        for inner in ["home", "home/.npm", "tmp"] {
            fs::create_dir(sandbox.path(inner))?;
        }
        fs::write(sandbox.home().join(".npmrc"), npmrc()?)?;
        Ok(sandbox)
    }

    /// Returns a path inside.
    #[must_use]
    pub fn path(&self, inner: &str) -> PathBuf {
        self.root.join(inner)
    }

    /// Returns the home folder; npm's cache is `.npm` in it.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.path("home")
    }

    /// Returns the store that commands use.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// Returns the command of these words in the folder `inside`, `rift` being the one under test.
    ///
    /// # Errors
    /// No word, or no binary of rift's.
    pub fn typed(&self, inside: &Path, words: &[&str]) -> Result<Command> {
        match words {
            ["rift", rest @ ..] => self.rift(inside, rest),
            [program, rest @ ..] => {
                let mut command = self.command(inside, program);
                command.args(rest);
                Ok(command)
            }
            [] => bail!("a command has words"),
        }
    }

    /// Returns a command with a clean environment, in the folder `inside`.
    #[must_use]
    pub fn command(&self, inside: &Path, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().current_dir(inside).stdin(Stdio::null());
        command.envs(INHERITED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        command.env("HOME", self.home()).env("TMPDIR", self.path("tmp")).env("LANG", "C.UTF-8");
        command
            .env("XDG_CONFIG_HOME", self.path("home/.config"))
            .env("XDG_CACHE_HOME", self.path("home/.cache"));
        command
            .env("XDG_DATA_HOME", self.path("home/.local/share"))
            .env("RIFT_STORE", self.store());
        command.env("XDG_STATE_HOME", self.path("home/.local/state"));
        command
    }

    /// Returns `npm ARGUMENTS`, to be run in a project.
    #[must_use]
    pub fn npm(&self, project: &Path, arguments: &[&str]) -> Command {
        let mut command = self.command(project, "npm");
        command.args(arguments);
        command
    }

    /// Returns `rift ARGUMENTS`, to be run in a project.
    ///
    /// # Errors
    /// When the binary cannot be built.
    pub fn rift(&self, project: &Path, arguments: &[&str]) -> Result<Command> {
        let mut command = self.command(project, rift_binary()?);
        command.args(arguments);
        Ok(command)
    }

    /// Returns the store's size in bytes.
    ///
    /// # Errors
    /// When `rift store stats` fails.
    pub fn store_bytes(&self, project: &Path) -> Result<u64> {
        let stats = self.run(&mut self.rift(project, &["store", "stats", "--json"])?)?.success()?;
        number(stats.stdout.as_bytes(), "disk_bytes")
    }

    /// Returns the store's size in bytes, and what a run's summary says that it is.
    ///
    /// # Errors
    /// When `rift store stats` fails, or there is no such summary.
    pub fn store_bytes_told(&self, project: &Path, summary: &Path) -> Result<(u64, u64)> {
        Ok((self.store_bytes(project)?, number(&fs::read(summary)?, "store_bytes")?))
    }

    /// Runs a command to its end and returns what it did, whatever that was.
    ///
    /// # Errors
    /// When it cannot be started, or is not done after a quarter of an hour; then everything of the sandbox is killed.
    pub fn run(&self, command: &mut Command) -> Result<Ran> {
        let text = spoken(command);
        let start = Instant::now();
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("could not start `{text}`"))?;
        let pipes = (child.stdout.take(), child.stderr.take());
        let (stdout, stderr) = (collect(pipes.0), collect(pipes.1));
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if start.elapsed() > TIME_LIMIT {
                child.kill()?;
                self.kill_leftovers();
                bail!("`{text}` was not done after {} s", TIME_LIMIT.as_secs());
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        let elapsed = start.elapsed();
        // A process left behind that keeps a pipe open is what the limit is for.
        let said = |pipe: Receiver<Vec<u8>>| {
            let bytes = pipe.recv_timeout(Duration::from_secs(30));
            bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).with_context(|| {
                format!(
                    "`{text}` ended, but a process it left behind keeps its output open: {:?}",
                    self.processes()
                )
            })
        };
        let (stdout, stderr) = (said(stdout)?, said(stderr)?);
        Ok(Ran { command: text, status, stdout, stderr, elapsed })
    }

    /// Returns the processes that carry this sandbox's home.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        let mut mark = OsString::from("HOME=");
        mark.push(self.home());
        let carries = |pid: &u32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
        };
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(carries)
            .collect()
    }

    /// Kills every process that carries this sandbox's home and waits until none is left.
    pub fn kill_leftovers(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        // A process has no environment for the moment in which it becomes another program, so none is seen twice.
        let mut empty_looks = 0;
        while empty_looks < 2 && Instant::now() < deadline {
            let left = self.processes();
            empty_looks = if left.is_empty() { empty_looks + 1 } else { 0 };
            for pid in left.into_iter().filter_map(|pid| Pid::from_raw(pid.cast_signed())) {
                // It may have ended in between; the next look tells.
                let _gone = kill_process(pid, Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until nothing of the sandbox runs any more, so that nothing disturbs what follows.
    ///
    /// # Errors
    /// When something still runs after a minute.
    pub fn settle(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.processes().is_empty() {
            ensure!(Instant::now() < deadline, "processes {:?} do not end", self.processes());
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.kill_leftovers();
        if let Err(error) = clear(&self.root) {
            let text = format!("{} could not be removed: {error:#}", self.root.display());
            assert!(std::thread::panicking(), "{text}");
        }
    }
}

/// Reads a number of an object in JSON.
fn number(json: &[u8], name: &str) -> Result<u64> {
    let object: serde_json::Value = serde_json::from_slice(json)?;
    object[name].as_u64().with_context(|| format!("there is no number {name} in {object}"))
}

/// Returns the `rift` binary under test.
///
/// # Errors
/// When it has to be built and cannot be.
pub fn rift_binary() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os(crate::RIFT_TEST_BIN) {
        return Ok(given.into());
    }
    static BUILT: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    if let Some(built) = BUILT.get() {
        return Ok(built.clone());
    }
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(crate::repository()).args([
        "build",
        "--quiet",
        "-p",
        "rift-launcher",
        "--bin",
        "rift",
    ]);
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    if profile == "release" {
        cargo.arg("--release");
    }
    ensure!(cargo.status().context("could not start cargo")?.success(), "`rift` does not build");
    let target = crate::target_folder()?.parent().map(Path::to_path_buf).unwrap_or_default();
    Ok(BUILT.get_or_init(|| target.join(profile).join("rift")).clone())
}

/// Removes a tree, whatever its folders' modes are, after unmounting everything below it.
///
/// # Errors
/// When something remains.
pub fn clear(root: &Path) -> Result<()> {
    for mount in mounts_below(root)? {
        let unmounted = Command::new("umount").arg("--lazy").arg(&mount).status()?;
        ensure!(unmounted.success(), "{} could not be unmounted", mount.display());
    }
    for attempt in 0..3 {
        match fs::remove_dir_all(root) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            // A folder without write permission, or a file that a dying process has just made.
            Err(_) if attempt < 2 => open_folders(root),
            other => return other.with_context(|| format!("could not remove {}", root.display())),
        }
    }
    Ok(())
}

fn open_folders(folder: &Path) {
    let Ok(metadata) = fs::symlink_metadata(folder) else { return };
    if !metadata.is_dir() {
        return;
    }
    let mode = metadata.permissions().mode();
    if mode & 0o700 != 0o700 {
        // The removal that follows reports what could not be opened.
        let _reported_later = fs::set_permissions(folder, fs::Permissions::from_mode(mode | 0o700));
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        open_folders(&entry.path());
    }
}

/// Returns what is mounted below a folder, innermost first.
fn mounts_below(root: &Path) -> Result<Vec<PathBuf>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    let mut below: Vec<PathBuf> = text
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(point.replace("\\040", " ")))
        .filter(|point| point.starts_with(root) && point != root)
        .collect();
    below.sort();
    below.reverse();
    Ok(below)
}

/// Removes the sandboxes whose process is gone.
fn remove_orphans(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let owner = path
            .file_name()
            .and_then(OsStr::to_str)
            .and_then(|name| name.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            adopt(path)?;
        }
    }
    Ok(())
}

/// Ends a sandbox that its own process could not; another one may be doing the same.
fn adopt(root: PathBuf) -> Result<()> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let orphan = Sandbox { root };
    orphan.kill_leftovers();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let ours = orphan.root.with_file_name(format!("{}-orphan-{count}", std::process::id()));
    let taken = fs::rename(&orphan.root, &ours);
    std::mem::forget(orphan);
    match taken {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        // A mount point cannot be renamed from below; `clear` unmounts first.
        _ => clear(&ours),
    }
}

/// npm's user configuration in a sandbox: the machine's way to its registry, and nothing else of the user's.
fn npmrc() -> Result<String> {
    let kept = npm_settings()?.iter().map(|(key, value)| format!("{key}={value}\n"));
    Ok(["update-notifier=false\naudit=false\nfund=false\n".to_owned()]
        .into_iter()
        .chain(kept)
        .collect())
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // A pipe that breaks has given all it had; a receiver that is gone has given up.
        let _broken = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
        let _unheard = sender.send(bytes);
    });
    receiver
}

fn spoken(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}
