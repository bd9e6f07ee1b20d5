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

use crate::table::median;

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
    /// Where `wall_s` is the median of single operations: the 99th percentile of them.
    pub(crate) p99_s: Option<f64>,
}

/// Where and how often a command is measured.
#[derive(Clone, Copy)]
pub(crate) struct How<'a> {
    /// What starts the small process: a run that it is to be in, and with it the command.
    pub(crate) within: Option<&'a Command>,
    /// How many times, one after the other; the sample holds medians of these.
    pub(crate) times: usize,
}

/// The word that makes this binary the small process between the benchmark and what it measures.
pub(crate) const LAUNCH: &str = "launch";

/// Runs a command of a sandbox whose project is `folder`; its output goes to `log`, and into the error when it fails.
///
/// A small process of this binary starts and measures it: getrusage(2) counts, in a child's largest resident set, the
/// memory of the process that started it, and this one may hold a whole tree.
pub(crate) fn command(command: &Command, folder: &Path, log: &Path) -> Result<Sample> {
    command_as(How { within: None, times: 1 }, command, folder, log)
}

/// As [`command`], perhaps in a run, perhaps many times.
pub(crate) fn command_as(
    how: How<'_>,
    command: &Command,
    folder: &Path,
    log: &Path,
) -> Result<Sample> {
    let (report, this) = (log.with_extension("json"), std::env::current_exe()?);
    let mut launch = match how.within {
        None => Command::new(&this),
        Some(run) => {
            let mut launch = Command::new(run.get_program());
            launch.args(run.get_args()).arg(&this);
            launch
        }
    };
    launch
        .args([LAUNCH.as_ref(), folder, log, report.as_path()])
        .arg(how.times.to_string())
        .arg(command.get_program())
        .args(command.get_args());
    let environments = [Some(command), how.within].into_iter().flatten().map(Command::get_envs);
    let set = environments.flatten().filter_map(|(name, value)| Some((name, value?)));
    launch
        .env_clear()
        .envs(set)
        .current_dir(command.get_current_dir().unwrap_or(folder))
        .stdin(Stdio::null());
    let status = launch.status().with_context(|| format!("could not start {command:?}"))?;
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    ensure!(status.success(), "`{words}` failed:\n{}", fs::read_to_string(log).unwrap_or_default());
    serde_json::from_slice(&fs::read(&report)?)
        .context("the launched process reports something else")
}

/// The small process: `launch FOLDER LOG REPORT TIMES PROGRAM ARGUMENTS…`.
pub(crate) fn launched(words: &[OsString]) -> Result<()> {
    let [folder, log, report, times, program, arguments @ ..] = words else {
        bail!("launch needs five words")
    };
    let times: usize = times.to_str().context("no number")?.parse()?;
    let output = File::create(log)?;
    let mut command = Command::new(program);
    command.args(arguments).stdout(output.try_clone()?).stderr(output);
    // What is measured many times is short, and makes nothing.
    let folder = (times == 1).then_some(Path::new(folder));
    let samples = (0..times).map(|_| once(&mut command, folder)).collect::<Result<Vec<_>>>()?;
    Ok(fs::write(report, serde_json::to_vec(&middle(&samples))?)?)
}

/// Runs a command to its end; without a folder nobody looks for its first entry.
fn once(command: &mut Command, folder: Option<&Path>) -> Result<Sample> {
    let watch = folder.map(Watch::on).transpose()?;
    let program = Path::new(command.get_program()).display().to_string();
    let start = Instant::now();
    let child = command.spawn().with_context(|| format!("could not start {program}"))?;
    let (status, used) = wait4(child.id())?;
    let wall = start.elapsed();
    let first = watch.map(|watch| watch.first_after(start)).transpose()?.flatten();
    ensure!(status.success(), "{program} ended with {status}");
    Ok(Sample {
        wall_s: wall.as_secs_f64(),
        cpu_s: (used.user + used.system).as_secs_f64(),
        user_s: Some(used.user.as_secs_f64()),
        system_s: Some(used.system.as_secs_f64()),
        rss_bytes_max: Some(used.rss_bytes_max),
        written_bytes: Some(used.written_bytes),
        first_entry_s: first.map(|first| first.as_secs_f64()),
        p99_s: None,
    })
}

/// Returns a sample of medians. What is known of one execution only is that of the last.
fn middle(samples: &[Sample]) -> Sample {
    let of = |field: fn(&Sample) -> f64| median(samples.iter().map(field).collect());
    let last = samples.last().copied().unwrap_or_default();
    Sample {
        wall_s: of(|sample| sample.wall_s).unwrap_or_default(),
        cpu_s: of(|sample| sample.cpu_s).unwrap_or_default(),
        ..last
    }
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
