//! `rift diff`: what differs between two trees, or a tree and a directory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use rift_tree::{BlobHash, EntryId, Kind, Manifest};

use crate::cli::tree;
use crate::context::Context;
use crate::ui::Out;

/// Show what differs between two trees, or a tree and a directory
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Compares types, permission bits, bytes and link targets; times don't count.
Each line is A (only in the second), D (only in the first) or M (differs) and a
path. Exit status: 0 same, 1 different.

Examples:
  rift diff deps/main deps/next
  rift diff deps/main ./node_modules lodash   only what is below lodash

A ref or tree is meant before a directory; ./NAME is always a directory.")]
pub(crate) struct Args {
    /// A ref, a tree hash, or at least 6 digits of one
    tree: String,

    /// Another, or a directory
    #[arg(value_name = "TREE|DIR", value_hint = clap::ValueHint::DirPath)]
    other: PathBuf,

    /// Compare only what is below this path
    path: Option<PathBuf>,
}

/// What an entry is, as far as it is compared.
#[derive(Debug, PartialEq, Eq)]
enum What {
    Directory,
    File {
        size: u64,
        hash: Option<BlobHash>,
    },
    Symlink(Vec<u8>),
    /// What no tree holds.
    Other,
}

/// Entries by their path: permission bits, and what it is.
type Side = BTreeMap<Vec<u8>, (u32, What)>;

pub(crate) fn run(args: &Args, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.existing_store()?;
    let opened = tree::open(&store, &args.tree)?;
    let (base, path) = tree::find(&opened.manifest(), args.path.as_deref())?;
    let first = of_tree(&opened.manifest(), base);
    let as_tree = args.other.to_str().map(|text| tree::resolve(&store, text));
    let (second, root) = match as_tree {
        Some(Ok(hash)) => {
            let other = tree::open_hash(&store, hash)?;
            let manifest = other.manifest();
            let below = if path.is_empty() { Some(EntryId::ROOT) } else { manifest.lookup(&path) };
            (below.map(|id| of_tree(&manifest, id)).unwrap_or_default(), None)
        }
        unresolved if !args.other.is_dir() => {
            if let Some(Err(error)) = unresolved {
                return Err(error);
            }
            anyhow::bail!("`{}` is neither a tree nor a directory", args.other.display());
        }
        _ => {
            let root = args.other.join(std::ffi::OsStr::from_bytes(&path));
            let side = of_directory(&root)
                .with_context(|| format!("could not read `{}`", root.display()))?;
            (side, Some(root))
        }
    };
    let mut out = Out::new();
    let mut is_same = true;
    for below in first.keys().chain(second.keys()).collect::<BTreeSet<_>>() {
        let mark = match (first.get(below), second.get(below)) {
            (Some(_), None) => b'D',
            (None, _) => b'A',
            (Some(one), Some(two)) if differs(one, two, root.as_deref(), below)? => b'M',
            _ => continue,
        };
        is_same = false;
        out.write_all(&[mark, b' '])?;
        let full: Vec<&[u8]> =
            [&path[..], &below[..]].into_iter().filter(|part| !part.is_empty()).collect();
        let full = full.join(&b'/');
        out.name(if full.is_empty() { b"." } else { &full })?;
        out.write_all(b"\n")?;
    }
    out.finish()?;
    Ok(ExitCode::from(u8::from(!is_same)))
}

/// Compares two entries; a file of a directory is only read when it has the size of the tree's.
fn differs(
    one: &(u32, What),
    two: &(u32, What),
    root: Option<&Path>,
    below: &[u8],
) -> anyhow::Result<bool> {
    let is_link = matches!(one.1, What::Symlink(_));
    if one.0 != two.0 && !is_link {
        return Ok(true);
    }
    match (&one.1, &two.1, root) {
        (
            What::File { size: expected, hash: Some(hash) },
            What::File { size, hash: None },
            Some(root),
        ) => {
            if size != expected {
                return Ok(true);
            }
            let path = match below {
                b"" => root.to_owned(),
                below => root.join(std::ffi::OsStr::from_bytes(below)),
            };
            let read = || format!("could not read `{}`", path.display());
            let mut hasher = blake3::Hasher::new();
            let mut file = File::open(&path).with_context(read)?;
            io::copy(&mut file, &mut hasher).with_context(read)?;
            Ok(hasher.finalize().as_bytes() != hash.as_bytes())
        }
        (one, two, _) => Ok(one != two),
    }
}

fn of_tree(manifest: &Manifest<'_>, base: EntryId) -> Side {
    let mut side = Side::new();
    let mut pending = vec![(base, Vec::new())];
    while let Some((id, path)) = pending.pop() {
        let what = match manifest.kind(id) {
            Some(Kind::Directory { .. }) => What::Directory,
            Some(Kind::File { size, blob }) => What::File { size, hash: manifest.blob_hash(blob) },
            Some(Kind::Symlink { target }) => What::Symlink(target.to_vec()),
            None => What::Other,
        };
        for child in manifest.children(id) {
            pending.push((child, join(&path, manifest.name(child).unwrap_or_default())));
        }
        let permissions = manifest.mode(id).unwrap_or(0) & rift_tree::mode::PERMISSIONS;
        side.insert(path, (permissions.into(), what));
    }
    side
}

fn of_directory(root: &Path) -> io::Result<Side> {
    let mut side = Side::new();
    let mut pending = vec![(root.to_owned(), Vec::new())];
    while let Some((full, path)) = pending.pop() {
        let stat = match fs::symlink_metadata(&full) {
            // Gone since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            // The directory itself may be given as a symbolic link.
            Ok(stat) if stat.is_symlink() && path.is_empty() => fs::metadata(&full)?,
            other => other?,
        };
        let what = if stat.is_dir() {
            for entry in fs::read_dir(&full)? {
                let entry = entry?;
                pending.push((entry.path(), join(&path, entry.file_name().as_bytes())));
            }
            What::Directory
        } else if stat.is_file() {
            What::File { size: stat.len(), hash: None }
        } else if stat.is_symlink() {
            What::Symlink(fs::read_link(&full)?.as_os_str().as_bytes().to_vec())
        } else {
            What::Other
        };
        side.insert(path, (stat.mode() & u32::from(rift_tree::mode::PERMISSIONS), what));
    }
    Ok(side)
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    match path {
        b"" => name.to_vec(),
        path => [path, b"/", name].concat(),
    }
}
