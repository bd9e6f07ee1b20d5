//! One measured execution: wall time, processor time, memory, bytes written, and when its first entry appeared.

use std::ffi::OsString;
use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rift_tests::sys::wait4;
use rustix::fs::inotify;

/// What one execution took.
#[derive(Clone, Copy, Debug, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Sample {
    pub(crate) wall_s: f64,
    /// User and system time of the process and the children it waited for.
    pub(crate) cpu_s: f64,
    pub(crate) user_s: Option<f64>,
    pub(crate) system_s: Option<f64>,
    pub(crate) rss_bytes_max: Option<u64>,
    pub(crate) written_bytes: Option<u64>,
    /// From the start to the first new entry in the project's folder: `node_modules`, or what becomes it.
    pub(crate) first_entry_s: Option<f64>,
}

/// The word that makes this binary the small process between the benchmark and what it measures.
pub(crate) const LAUNCH: &str = "launch";

/// Runs a command of a sandbox whose project is `folder`; its output goes to `log`, and into the error when it fails.
///
/// A small process of this binary starts and measures it: getrusage(2) counts, in a child's largest resident set, the
/// memory of the process that started it, and this one may hold a whole tree.
pub(crate) fn command(command: &Command, folder: &Path, log: &Path) -> Result<Sample> {
    let report = log.with_extension("json");
    let mut launch = Command::new(std::env::current_exe()?);
    launch
        .args([LAUNCH.as_ref(), folder, log, report.as_path()])
        .arg(command.get_program())
        .args(command.get_args());
    let set = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
    launch
        .env_clear()
        .envs(set)
        .current_dir(command.get_current_dir().unwrap_or(folder))
        .stdin(Stdio::null());
    let status = launch.status().with_context(|| format!("could not start {command:?}"))?;
    ensure!(
        status.success(),
        "{command:?} failed:\n{}",
        fs::read_to_string(log).unwrap_or_default()
    );
    serde_json::from_slice(&fs::read(&report)?)
        .context("the launched process reports something else")
}

/// The small process: `launch FOLDER LOG REPORT PROGRAM ARGUMENTS…`.
pub(crate) fn launched(words: &[OsString]) -> Result<()> {
    let [folder, log, report, program, arguments @ ..] = words else {
        bail!("launch needs four words")
    };
    let output = File::create(log)?;
    let mut command = Command::new(program);
    command.args(arguments).stdout(output.try_clone()?).stderr(output);
    let watch = Watch::on(Path::new(folder))?;
    let start = Instant::now();
    let child = command
        .spawn()
        .with_context(|| format!("could not start {}", Path::new(program).display()))?;
    let (status, used) = wait4(child.id())?;
    let wall = start.elapsed();
    let first = watch.first_after(start)?;
    ensure!(status.success(), "{} ended with {status}", Path::new(program).display());
    let sample = Sample {
        wall_s: wall.as_secs_f64(),
        cpu_s: (used.user + used.system).as_secs_f64(),
        user_s: Some(used.user.as_secs_f64()),
        system_s: Some(used.system.as_secs_f64()),
        rss_bytes_max: Some(used.rss_bytes_max),
        written_bytes: Some(used.written_bytes),
        first_entry_s: first.map(|first| first.as_secs_f64()),
    };
    Ok(fs::write(report, serde_json::to_vec(&sample)?)?)
}

/// Runs a part of this process.
pub(crate) fn here(work: impl FnOnce() -> Result<()>) -> Result<Sample> {
    let cpu = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
            .as_secs_f64()
    };
    let (start, before) = (Instant::now(), cpu());
    work()?;
    Ok(Sample { wall_s: start.elapsed().as_secs_f64(), cpu_s: cpu() - before, ..Sample::default() })
}

const SENTINEL: &str = ".measured";

/// Notes when something first appears in a folder (inotify(7)).
struct Watch {
    seen: std::thread::JoinHandle<Result<Option<Instant>>>,
    sentinel: std::path::PathBuf,
}

impl Watch {
    fn on(folder: &Path) -> Result<Self> {
        let queue = inotify::init(inotify::CreateFlags::CLOEXEC)?;
        inotify::add_watch(
            &queue,
            folder,
            inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO,
        )?;
        let seen = std::thread::spawn(move || {
            let mut buffer = [MaybeUninit::uninit(); 1024];
            let mut reader = inotify::Reader::new(&queue, &mut buffer);
            let event = reader.next()?;
            let at = Instant::now();
            Ok((event.file_name().is_none_or(|name| name.to_bytes() != SENTINEL.as_bytes()))
                .then_some(at))
        });
        Ok(Self { seen, sentinel: folder.join(SENTINEL) })
    }

    fn first_after(self, start: Instant) -> Result<Option<Duration>> {
        // Wakes the watcher when the command made nothing.
        File::create(&self.sentinel)?;
        fs::remove_file(&self.sentinel)?;
        let seen = self.seen.join().map_err(|_| anyhow::anyhow!("the watcher panicked"))??;
        Ok(seen.map(|at| at.duration_since(start)))
    }
}
