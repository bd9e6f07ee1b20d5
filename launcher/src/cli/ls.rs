//! `rift ls`: what is in a tree.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use rift_tree::{EntryId, Kind, Manifest};

use crate::cli::tree;
use crate::context::Context;
use crate::ui::Out;

/// List what is in a tree
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rift ls deps/main
  rift ls -l deps/main lodash     mode, size, time (UTC) and name
  rift ls -R 3f9a41               everything below, by the start of a tree hash")]
pub(crate) struct Args {
    /// A ref, a tree hash, or at least 6 digits of one
    tree: String,

    /// Where to look in the tree
    path: Option<PathBuf>,

    /// Show mode, size, time and link target
    #[arg(short, long)]
    long: bool,

    /// List everything below, by its path
    #[arg(short = 'R', long)]
    recursive: bool,
}

pub(crate) fn run(args: &Args, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.existing_store()?;
    let opened = tree::open(&store, &args.tree)?;
    let manifest = opened.manifest();
    let (id, path) = tree::find(&manifest, args.path.as_deref())?;
    let mut listing = Listing { manifest, out: Out::new(), is_long: args.long };
    match manifest.kind(id) {
        Some(Kind::Directory { .. }) if args.recursive => listing.below(id, &mut path.clone())?,
        Some(Kind::Directory { .. }) => {
            for child in manifest.children(id) {
                listing.entry(child, manifest.name(child).unwrap_or_default())?;
            }
        }
        _ => listing.entry(id, &path)?,
    }
    listing.out.finish()?;
    Ok(ExitCode::SUCCESS)
}

struct Listing<'t> {
    manifest: Manifest<'t>,
    out: Out,
    is_long: bool,
}

impl Listing<'_> {
    fn below(&mut self, directory: EntryId, path: &mut Vec<u8>) -> io::Result<()> {
        for child in self.manifest.children(directory) {
            let length = path.len();
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(self.manifest.name(child).unwrap_or_default());
            self.entry(child, path)?;
            self.below(child, path)?;
            path.truncate(length);
        }
        Ok(())
    }

    fn entry(&mut self, id: EntryId, name: &[u8]) -> io::Result<()> {
        let Some(kind) = self.manifest.kind(id) else {
            return Ok(());
        };
        if self.is_long {
            let size = match kind {
                Kind::File { size, .. } => size,
                Kind::Symlink { target } => target.len() as u64,
                Kind::Directory { children, .. } => u64::from(children),
            };
            let mode = permissions(self.manifest.mode(id).unwrap_or(0));
            let time = self.manifest.mtime_ns(id).map_or_else(|| format!("{:<19}", "-"), utc);
            write!(self.out, "{}{mode} {size:>10} {time} ", tree::letter(&kind))?;
        }
        self.out.name(name)?;
        if let (true, Kind::Symlink { target }) = (self.is_long, kind) {
            self.out.write_all(b" -> ")?;
            self.out.name(target)?;
        }
        self.out.write_all(b"\n")
    }
}

/// Returns permission bits as ls(1) writes them.
fn permissions(mode: u16) -> String {
    let bit = |mask: u16, letter: char| if mode & mask != 0 { letter } else { '-' };
    let mut text = String::new();
    for shift in [6, 3, 0] {
        text.push(bit(0o4 << shift, 'r'));
        text.push(bit(0o2 << shift, 'w'));
        text.push(bit(0o1 << shift, 'x'));
    }
    if mode & 0o1000 != 0 {
        text.pop();
        text.push(if mode & 1 != 0 { 't' } else { 'T' });
    }
    text
}

/// Returns a time as `YYYY-MM-DD hh:mm:ss`, UTC.
pub(crate) fn utc(nanoseconds: i64) -> String {
    let seconds = nanoseconds.div_euclid(1_000_000_000);
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days since 0000-03-01, in eras of 400 years: each month then has a fixed place.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_modes() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00"),
            (499_162_500, "1985-10-26 08:15:00"),
            (951_782_400, "2000-02-29 00:00:00"),
            (1_709_251_199, "2024-02-29 23:59:59"),
            (-1, "1969-12-31 23:59:59"),
        ] {
            assert_eq!(utc(seconds * 1_000_000_000), text);
        }
        assert_eq!(permissions(0o100_644), "rw-r--r--");
        assert_eq!(permissions(0o041_777), "rwxrwxrwt");
        assert_eq!(permissions(0o041_770), "rwxrwx--T");
    }
}
