//! `bench SUITE …`: measures rift and its peers in one run, as a table that anyone can make again.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line program: the table is its data"
)]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

mod build;
mod floor;
mod hook;
mod measure;
mod mount;
mod npm;
mod peers;
mod remote;
mod shim;
mod suite;
mod table;
mod walk;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use rift_tests::fault::CrashDisk;
use rift_tests::fixture::Fixture;
use rift_tests::need::find_in_path;
use rift_tests::sandbox::Sandbox;

/// Room for the trees and caches of the medium fixture.
const DISK_BYTES: u64 = 20 << 30;

/// Measures rift beside its peers.
#[derive(Parser)]
#[command(name = "bench")]
struct Arguments {
    #[command(subcommand)]
    suite: Suite,
}

#[derive(Subcommand)]
enum Suite {
    /// `rift exec -- npm ci` beside npm, bun, pnpm, cp and the floors of the file system.
    Npm(Asked),
    /// Mounted trees beside the same trees as files, and a mounted hit beside npm, bun and pnpm.
    Mount(Asked),
    /// Programs of a run under the shim, in a projection and beside one, beside the same programs and files without.
    Shim(Asked),
    /// Prompts and starts of shells with the hook and without, and `rift exec -- true` beside `true`.
    Hook(Asked),
    /// A machine with nothing beside npm and an archive, through one slow network; pushes and pulls beside curl.
    Remote(Asked),
    /// A build that is known beside cargo, caches of compilers, and an archive of `target`.
    Build(Asked),
    /// Removes what a run that was cut has left.
    Clean,
}

#[derive(Clone, Copy, ValueEnum)]
enum Which {
    Small,
    Medium,
    Both,
}

#[derive(clap::Args)]
struct Asked {
    /// The project.
    #[arg(long, value_enum, default_value = "both")]
    fixture: Which,
    /// Measured rounds; at most three of what takes long, three times as many of what takes milliseconds.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Only cases whose `group: name` contains one of these.
    #[arg(long, value_delimiter = ';')]
    only: Vec<String>,
    /// Leave out the figures that are no times.
    #[arg(long)]
    no_figures: bool,
    /// Write everything measured, sample by sample.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write the tables to a file instead of standard output.
    #[arg(long)]
    markdown: Option<PathBuf>,
}

type Measures = fn(&table::Of<'_>) -> Vec<table::Measure>;
type Save<'s> = dyn Fn(&table::Report) -> Result<()> + 's;
type Run = fn(&suite::Suite<'_>, &mut table::Report, &Save<'_>) -> Result<()>;

fn main() -> Result<()> {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    if let Some((word, rest)) = words.split_first()
        && word == measure::LAUNCH
    {
        return measure::launched(rest);
    }
    let mut layout = table::Layout::Groups;
    // Of suites that have no peers.
    let mut programs: &[&str] = &[];
    let (asked, measures, run): (Asked, Measures, Run) = match Arguments::parse().suite {
        Suite::Npm(asked) => (asked, npm::measures, |suite, report, save| suite.npm(report, save)),
        Suite::Mount(asked) => {
            (asked, mount::measures, |suite, report, save| suite.mount(report, save))
        }
        Suite::Shim(asked) => {
            layout = table::Layout::Pairs;
            programs = &shim::PROGRAMS;
            (asked, shim::measures, |suite, report, save| suite.shim(report, save))
        }
        Suite::Hook(mut asked) => {
            layout = table::Layout::Pairs;
            programs = &hook::PROGRAMS;
            // The shells are the same in either project.
            asked.fixture = Which::Small;
            (asked, hook::measures, |suite, report, save| suite.hook(report, save))
        }
        Suite::Remote(asked) => {
            programs = &remote::PROGRAMS;
            (asked, remote::measures, |suite, report, save| suite.remote(report, save))
        }
        Suite::Build(mut asked) => {
            programs = &build::PROGRAMS;
            // Of one project, which is none of npm's.
            asked.fixture = Which::Small;
            (asked, build::measures, |suite, report, save| suite.build(report, save))
        }
        // A new sandbox removes those of dead processes.
        Suite::Clean => return Sandbox::new("clean").map(drop),
    };
    ensure!(asked.runs > 0, "--runs must be at least 1");
    let fixtures = match asked.fixture {
        Which::Small => vec![Fixture::Small],
        Which::Medium => vec![Fixture::Medium],
        Which::Both => vec![Fixture::Small, Fixture::Medium],
    };
    let outer = Sandbox::new("bench")?;
    let disk = match lacks_journal(&outer.path(""))? {
        false => None,
        true => Some(CrashDisk::to_measure_on(&outer.path("disk"), DISK_BYTES).context(
            "ext4 without a journal looks at every inode deleted in the last minutes before it makes a file, so \
             measuring there needs a disk of its own, and that root",
        )?),
    };
    let sandbox = match &disk {
        None => outer,
        // Declared last, so dropped first.
        Some(disk) => Sandbox::in_folder(disk.path(), "bench")?,
    };
    let peers = match programs {
        [] => Some(peers::Peers::install(&sandbox)?),
        _ => None,
    };
    let versions = match &peers {
        Some(peers) => peers.versions.clone(),
        None => {
            let here = programs.iter().filter(|name| find_in_path(name).is_some());
            peers::versions(
                &sandbox,
                &here.map(|name| (*name, Path::new(name))).collect::<Vec<_>>(),
            )?
        }
    };
    let mut report = table::Report {
        machine: machine(&sandbox.path(""))?,
        versions,
        command: std::iter::once("scripts/bench".to_owned())
            .chain(std::env::args().skip(1))
            .collect::<Vec<_>>()
            .join(" "),
        rows: Vec::new(),
        figures: Vec::new(),
        left_out: Vec::new(),
        measures,
        layout,
    };
    let wanted = suite::Wanted { runs: asked.runs, only: asked.only, figures: !asked.no_figures };
    let save = |report: &table::Report| -> Result<()> {
        if let Some(path) = &asked.markdown {
            fs::write(path, report.markdown())?;
        }
        if let Some(path) = &asked.json {
            fs::write(path, serde_json::to_vec_pretty(report)?)?;
        }
        Ok(())
    };
    for fixture in fixtures {
        let suite =
            suite::Suite { sandbox: &sandbox, peers: peers.as_ref(), fixture, wanted: &wanted };
        run(&suite, &mut report, &save)?;
    }
    if asked.markdown.is_none() {
        print!("{}", report.markdown());
    }
    let failed: Vec<_> =
        report.rows.iter().filter_map(|row| Some((row, row.failure.as_ref()?))).collect();
    for (row, failure) in &failed {
        eprintln!("{}, {}: {} failed: {failure}", row.fixture, row.group, row.case);
    }
    ensure!(failed.is_empty(), "{} cases failed", failed.len());
    Ok(())
}

/// Tells whether a folder is on ext4 without a journal.
fn lacks_journal(folder: &Path) -> Result<bool> {
    let device = fs::metadata(folder)?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let Ok(block) = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")) else {
        return Ok(false);
    };
    let name = block.file_name().context("a block device has a name")?;
    let task = fs::read_to_string(Path::new("/sys/fs/ext4").join(name).join("journal_task"));
    Ok(task.is_ok_and(|task| task.trim() == "<none>"))
}

/// One line about the machine: processor, cores, kernel, file system, load.
fn machine(scratch: &Path) -> Result<String> {
    let processor = fs::read_to_string("/proc/cpuinfo")?;
    let model = processor
        .lines()
        .find_map(|line| Some(line.strip_prefix("model name")?.split_once(": ")?.1));
    let cores = std::thread::available_parallelism()?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let file_system = mounts
        .lines()
        .filter_map(|line| {
            let point = line.split(' ').nth(4)?;
            let (kind, source) = line.split(" - ").nth(1)?.split_once(' ')?;
            let is_loop = source.starts_with("/dev/loop");
            let name = format!("{kind}{}", if is_loop { " on a loop device" } else { "" });
            scratch.starts_with(point).then_some((point.len(), name))
        })
        .max()
        .map_or_else(|| "unknown".to_owned(), |(_, name)| name);
    let load = fs::read_to_string("/proc/loadavg")?;
    let load = load.split(' ').next().unwrap_or("?").to_owned();
    let (model, kernel) = (model.unwrap_or("unknown processor"), kernel.trim());
    Ok(format!("{model}, {cores} cores, Linux {kernel}, {file_system}, load at the start {load}"))
}
