//! Prune: a remote that is a folder loses what nobody needs any more, and what is damaged.
//!
//! Kept are the plans that are named, the refs that people have pushed, and the trees of both with every object that holds
//! bytes of them. A ref that plans leave behind goes with its tree; access lists, which are small and name no tree, stay. All that is kept was read and has the hash that names it:
//! a plan or a ref with a damaged tree goes, so that the next run makes it anew. What names others goes before what is
//! named, so a prune that was cut short leaves nothing that lacks a part.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rift_tree::TreeHash;
use rustix::fs::FlockOperation;

use super::address::Scheme;
use super::error::{Error, Result};
use super::fetch::Job;
use super::keys::TrustedKeys;
use super::places::Object;
use super::pull::jobs;
use super::reference::{self, Located, SignedRef};
use super::{Remote, manifest_object, places_object, plan};

/// The folders of a remote, each before those that it names objects of.
const FOLDERS: [&str; 5] = ["plans", "refs", "places", "trees", "data"];
/// How much of an object is read at once.
const CHUNK_BYTES: usize = 256 << 10;

/// What a prune left and what it removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pruned {
    /// Plans that were kept.
    pub plans: usize,
    /// Bytes of all objects that were kept.
    pub kept_bytes: u64,
    /// Objects that were removed.
    pub removed: usize,
    /// Bytes of these.
    pub removed_bytes: u64,
}

/// What is to stay in a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs<'n> {
    /// Keys of plans.
    pub plans: &'n [TreeHash],
    /// Below these, refs are left behind by runs: they go with the trees of plans, unless they are named.
    pub lineages: &'n [&'n str],
    /// Refs below lineages that stay.
    pub refs: &'n [&'n str],
}

/// Removes everything from a folder that neither the plans of these keys need nor the refs. Of plans, only those that a
/// trusted key has signed count. Nobody may write to the folder meanwhile.
///
/// # Errors
/// [`Error::Setup`] for a remote that is no folder, and what the system says.
pub fn prune(remote: &Remote, needs: &Needs<'_>, trusted: &TrustedKeys) -> Result<Pruned> {
    if remote.address.scheme() != Scheme::File {
        let reason = "only a folder is pruned: others may need what a server has".to_owned();
        return Err(Error::Setup { action: "prune the remote", reason });
    }
    let folder = Path::new(remote.address.path());
    let _lock = crate::store::lock_file(&folder.join("lock"), FlockOperation::LockExclusive)?;
    let mut kept = Kept { remote, folder, trees: HashMap::new(), objects: BTreeSet::new() };
    let mut pruned = Pruned::default();
    for key in needs.plans {
        let signed = match remote.plan(*key) {
            Ok(Some((Ok(signed), _))) => signed,
            Ok(_) | Err(Error::Wrong { .. }) => continue,
            Err(error) => return Err(error),
        };
        if plan::signer(&signed, trusted).is_ok() && kept.keeps(&signed.statement.trees)? {
            kept.objects.insert(plan::object(*key));
            pruned.plans += 1;
        }
    }
    let of_plans = kept.objects.clone();
    for (object, path) in files(folder, "refs")? {
        let Some(statement) = read_ref(&object, &path)? else { continue };
        let is_left = needs.lineages.iter().any(|lineage| statement.name.starts_with(lineage));
        let is_needed = match is_left && !needs.refs.contains(&&*statement.name) {
            true => of_plans.contains(&places_object(&statement.at.places)),
            false => kept.keeps(&[statement.at])?,
        };
        if is_needed {
            kept.objects.insert(object);
        }
    }
    for name in FOLDERS {
        for (object, path) in files(folder, name)? {
            let bytes = fs::metadata(&path).map_err(crate::Error::io("look at", &path))?.len();
            if kept.objects.contains(&object) {
                pruned.kept_bytes += bytes;
                continue;
            }
            fs::remove_file(&path).map_err(crate::Error::io("remove", &path))?;
            pruned.removed += 1;
            pruned.removed_bytes += bytes;
        }
    }
    Ok(pruned)
}

/// What is to stay.
struct Kept<'r> {
    remote: &'r Remote,
    folder: &'r Path,
    /// The objects of each tree that was looked at, by its sidecar; `None` for one that is damaged.
    trees: HashMap<[u8; 32], Option<Vec<String>>>,
    objects: BTreeSet<String>,
}

impl Kept<'_> {
    /// Keeps the objects of trees, if all of these are whole; tells whether they are.
    fn keeps(&mut self, trees: &[Located]) -> Result<bool> {
        let mut objects = Vec::new();
        for at in trees {
            let known = match self.trees.get(&at.places) {
                Some(known) => known.clone(),
                None => {
                    let found = self.whole(at)?;
                    self.trees.insert(at.places, found.clone());
                    found
                }
            };
            let Some(known) = known else { return Ok(false) };
            objects.extend(known);
        }
        self.objects.extend(objects);
        Ok(true)
    }

    /// Returns the objects of a tree; `None` when one is missing or damaged.
    fn whole(&self, at: &Located) -> Result<Option<Vec<String>>> {
        let read = self.remote.description(at, None);
        let read = read.and_then(|read| jobs(&read.manifest, &read.places, |_, _| false));
        let jobs = match read {
            Ok(jobs) => jobs,
            Err(Error::Missing { .. } | Error::Wrong { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        if !jobs.iter().all(|job| is_whole(self.folder, job)) {
            return Ok(None);
        }
        let mut objects = vec![manifest_object(at.object().tree), places_object(&at.places)];
        objects.extend(jobs.into_iter().map(|job| job.object.name.clone()));
        Ok(Some(objects))
    }
}

/// Tells whether an object has all that is wanted of it; one that can't be read has not.
fn is_whole(folder: &Path, job: &Job) -> bool {
    let Ok(file) = File::open(folder.join(&job.object.name)) else { return false };
    if !file.metadata().is_ok_and(|stat| stat.len() == job.object.length()) {
        return false;
    }
    let mut open = Open { file, object: &job.object, frame: (0..0, Vec::new()) };
    let mut chunk = vec![0; CHUNK_BYTES];
    open.has_its_table()
        && job.wanted.iter().all(|wanted| {
            let mut hasher = blake3::Hasher::new();
            let mut done = 0;
            while done < wanted.size {
                // At most the length of the chunk.
                let length = (wanted.size - done).min(CHUNK_BYTES as u64) as usize;
                if open.read(&mut chunk[..length], wanted.offset + done).is_none() {
                    return false;
                }
                hasher.update(&chunk[..length]);
                done += length as u64;
            }
            hasher.finalize().as_bytes() == wanted.hash.as_bytes()
        })
}

/// An object whose blobs are read.
struct Open<'j> {
    file: File,
    object: &'j Object,
    /// The bytes of the last frame, and where they are.
    frame: (Range<u64>, Vec<u8>),
}

impl Open<'_> {
    /// Tells whether an object in frames has the table that others find at its end.
    fn has_its_table(&self) -> bool {
        let Some(frames) = &self.object.frames else { return true };
        let mut table = frames.encode();
        let (expected, start) = (table.clone(), frames.object_bytes() - table.len() as u64);
        self.file.read_exact_at(&mut table, start).is_ok() && table == expected
    }

    /// Reads bytes of what the object holds, if that can be read.
    fn read(&mut self, mut buffer: &mut [u8], mut at: u64) -> Option<()> {
        let Some(frames) = &self.object.frames else {
            return self.file.read_exact_at(buffer, at).ok();
        };
        while !buffer.is_empty() {
            if !self.frame.0.contains(&at) {
                let one = at..at.checked_add(1)?;
                let sent = frames.compressed(&one);
                let mut compressed = vec![0; usize::try_from(sent.end - sent.start).ok()?];
                self.file.read_exact_at(&mut compressed, sent.start).ok()?;
                let mut bytes = Vec::new();
                let mut decoding = frames.decoding(&self.object.name, &one, false).ok()?;
                let mut take = |_, plain: &[u8]| {
                    bytes.extend_from_slice(plain);
                    Ok(())
                };
                decoding.push(&compressed, &mut take).ok()?;
                self.frame = (frames.around(&one), bytes);
            }
            let start = usize::try_from(at - self.frame.0.start).ok()?;
            let found = self.frame.1.get(start..).filter(|found| !found.is_empty())?;
            let length = found.len().min(buffer.len());
            let (now, rest) = buffer.split_at_mut(length);
            now.copy_from_slice(&found[..length]);
            buffer = rest;
            at += length as u64;
        }
        Some(())
    }
}

/// Returns what the ref at `path` says; `None` for a file that is no ref, or one of another name.
fn read_ref(object: &str, path: &Path) -> Result<Option<reference::Statement>> {
    let bytes = fs::read(path).map_err(crate::Error::io("read", path))?;
    let signed = SignedRef::decode(&bytes).ok();
    let statement = signed.map(|signed| signed.statement);
    Ok(statement.filter(|statement| reference::object(&statement.name) == object))
}

/// Returns the files of a folder of the remote, each with the name of its object; none when there is no such folder.
fn files(folder: &Path, name: &str) -> Result<Vec<(String, PathBuf)>> {
    let path = folder.join(name);
    let entries = match fs::read_dir(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(crate::Error::io("read", &path))?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(crate::Error::io("read", &path))?;
        let is_folder = entry.file_type().map_err(crate::Error::io("look at", &path))?.is_dir();
        if !is_folder {
            // A name that is no text is none of an object.
            let file = entry.file_name().to_string_lossy().into_owned();
            files.push((format!("{name}/{file}"), entry.path()));
        }
    }
    Ok(files)
}
