//! Where the store is.
//!
//! A store belongs on the file system of the project, where reflinks and hard links reach it. What the
//! user names is taken as it is. Otherwise the first of these that is on that file system:
//!
//! 1. `/var/cas`, where an administrator made it and this user may use it,
//! 2. the folder `rift` of the user's data folder ($XDG_DATA_HOME, `~/.local/share`),
//! 3. `.rift-store-UID` in the highest folder of that file system that the user can write to, but not
//!    in the project itself.
//!
//! If none is, the first that can be used. As root in an image build there is no store unless it was
//! named: nobody wants gigabytes in an image layer by accident.
//!
//! A store in memory is the folder `rift-ram-UID`, for this user alone, on a tmpfs (tmpfs(5)): where one
//! is already, else on the roomiest of `/dev/shm`, the temporary folder and `$XDG_RUNTIME_DIR`.

use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::fs::Access;

use crate::config::{self, Config, PROJECT_FILE};
use crate::{env_vars, machine, probe};

/// The administrator's place.
const SHARED: &str = "/var/cas";
/// What statfs(2) calls a file system in memory.
const TMPFS: u64 = 0x0102_1994;

/// What was chosen, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A folder.
    Folder {
        /// The folder, which need not be there.
        path: PathBuf,
        /// Why it.
        reason: Reason,
    },
    /// None.
    Nowhere {
        /// Why not.
        reason: String,
    },
}

/// Why a place was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The user named it.
    Named,
    /// An administrator made it.
    Administrator,
    /// It is the user's data folder.
    DataFolder,
    /// It is on the project's file system, which the user's data folder is not.
    BesideProject,
    /// Nothing on the project's file system can be used.
    OtherFileSystem,
    /// The user wants it in memory.
    Memory,
}

impl Reason {
    /// Says it in words.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Named => "as you named it",
            Self::Administrator => "made by an administrator",
            Self::DataFolder => "your data folder",
            Self::BesideProject => "on the project's file system",
            Self::OtherFileSystem => "not on the project's file system, where nothing can be used",
            Self::Memory => "in memory, as you asked",
        }
    }
}

/// What a choice depends on.
#[derive(Debug)]
struct Surroundings<'s> {
    project: &'s Path,
    uid: u32,
    shared: &'s Path,
    data: Option<PathBuf>,
    build: Option<&'static str>,
}

/// Chooses the store's place for the project that `cwd` is in.
#[must_use]
pub fn choose(config: &Config, cwd: &Path) -> Place {
    if let Some(path) = config.store() {
        return Place::Folder { path: path.to_owned(), reason: Reason::Named };
    }
    let uid = rustix::process::geteuid().as_raw();
    let build = image_build();
    let project = config::project_file(cwd).and_then(|file| Some(file.parent()?.to_owned()));
    choose_in(&Surroundings {
        project: project.as_deref().unwrap_or(cwd),
        uid,
        shared: Path::new(SHARED),
        data: config::xdg(env_vars::XDG_DATA_HOME, ".local/share"),
        build,
    })
}

/// Tells what builds an image around this process, as root; `None` when nothing seems to.
fn image_build() -> Option<&'static str> {
    let is_root = rustix::process::geteuid().is_root();
    is_root.then(|| machine::image_build(Path::new("/"))).flatten()
}

/// Chooses the place of a store in memory.
#[must_use]
pub fn choose_memory() -> Place {
    memory_in(&memory_folders(), rustix::process::geteuid().as_raw())
}

/// Returns the places that a store in memory may have, the first choice first.
#[must_use]
pub fn memory_places() -> Vec<PathBuf> {
    let name = memory_name(rustix::process::geteuid().as_raw());
    memory_folders().iter().map(|folder| folder.join(&name)).collect()
}

fn memory_name(uid: u32) -> String {
    format!("rift-ram-{uid}")
}

fn memory_folders() -> Vec<PathBuf> {
    let named = |name| env_vars::get(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let temporary = named(env_vars::TMPDIR).unwrap_or_else(|| PathBuf::from("/tmp"));
    let mut folders = vec![PathBuf::from("/dev/shm"), temporary];
    folders.extend(named(env_vars::XDG_RUNTIME_DIR));
    folders
}

fn memory_in(folders: &[PathBuf], uid: u32) -> Place {
    let mut best: Option<(u64, PathBuf)> = None;
    for folder in folders {
        let Some(free_bytes) = memory_free(folder) else { continue };
        let path = folder.join(memory_name(uid));
        match fs::symlink_metadata(&path) {
            Ok(stat) if is_own(&stat, uid) => {
                return Place::Folder { path, reason: Reason::Memory };
            }
            // Somebody else's, or a link to who knows where.
            Ok(_) => continue,
            Err(_) if !is_writable(folder) => continue,
            Err(_) => {}
        }
        if best.as_ref().is_none_or(|(most, _)| free_bytes > *most) {
            best = Some((free_bytes, path));
        }
    }
    match best {
        Some((_, path)) => Place::Folder { path, reason: Reason::Memory },
        None => {
            let reason = "no file system in memory can be written to";
            Place::Nowhere { reason: reason.to_owned() }
        }
    }
}

/// Returns how much is free in a folder in memory; `None` when it is not in memory.
fn memory_free(folder: &Path) -> Option<u64> {
    let kind = rustix::fs::statfs(folder).ok()?.f_type;
    let is_memory = u64::try_from(kind).is_ok_and(|kind| kind == TMPFS);
    if is_memory { probe::free_bytes(folder).ok() } else { None }
}

/// Returns how much a store in memory may take: what the user says, else a quarter of the memory that
/// there is for this process, and never more than half of its file system, which others use too.
#[must_use]
pub fn memory_limit(config: &Config, path: &Path) -> u64 {
    let stat = rustix::fs::statvfs(probe::nearest_folder(path));
    let size = stat.map_or(u64::MAX, |stat| stat.f_blocks.saturating_mul(stat.f_frsize));
    match config.ram_max() {
        Some(bytes) => bytes.min(size),
        None => {
            let memory = machine::memory_bytes(Path::new("/"));
            (size / 2).min(memory.map_or(u64::MAX, |bytes| bytes / 4))
        }
    }
}

fn choose_in(around: &Surroundings<'_>) -> Place {
    if let Some(build) = around.build {
        let reason = format!("this looks like an image build ({build}), as root");
        return Place::Nowhere { reason };
    }
    let device = device_of(around.project);
    let is_near = |path: &Path| device.is_some() && device_of(path) == device;
    let data = around.data.as_ref().map(|folder| folder.join("rift"));
    let mut elsewhere = Vec::new();
    let candidates = [
        (administrators(around), Reason::Administrator),
        (data.filter(|path| can_be_made(path, around.uid)), Reason::DataFolder),
        (beside(around, device), Reason::BesideProject),
    ];
    for (path, reason) in candidates {
        let Some(path) = path else {
            continue;
        };
        if is_near(&path) {
            return Place::Folder { path, reason };
        }
        elsewhere.push(path);
    }
    match elsewhere.into_iter().next() {
        Some(path) => Place::Folder { path, reason: Reason::OtherFileSystem },
        None => Place::Nowhere { reason: "no folder for it can be written to".to_owned() },
    }
}

/// Returns the device of `path`, or of the nearest folder above it that is there.
fn device_of(path: &Path) -> Option<u64> {
    path.ancestors().find_map(|folder| fs::metadata(folder).ok()).map(|stat| stat.dev())
}

fn is_writable(folder: &Path) -> bool {
    rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

/// Tells whether a folder is there and the user's own, or can be made.
fn can_be_made(path: &Path, uid: u32) -> bool {
    match fs::symlink_metadata(path) {
        Ok(stat) if stat.is_symlink() => fs::metadata(path).is_ok_and(|stat| is_own(&stat, uid)),
        Ok(stat) => is_own(&stat, uid) && is_writable(path),
        Err(_) => path
            .ancestors()
            .skip(1)
            .find(|folder| folder.symlink_metadata().is_ok())
            .is_some_and(|folder| folder.is_dir() && is_writable(folder)),
    }
}

fn is_own(stat: &fs::Metadata, uid: u32) -> bool {
    stat.is_dir() && stat.uid() == uid
}

/// Returns the administrator's place: the folder itself for root, one of their own in it for others.
fn administrators(around: &Surroundings<'_>) -> Option<PathBuf> {
    let stat = fs::symlink_metadata(around.shared).ok()?;
    if !stat.is_dir() || stat.uid() != 0 {
        return None;
    }
    let path = match around.uid {
        0 => around.shared.to_owned(),
        uid => around.shared.join(uid.to_string()),
    };
    can_be_made(&path, around.uid).then_some(path)
}

/// Returns a folder of the user's as high as possible on the project's file system.
fn beside(around: &Surroundings<'_>, device: Option<u64>) -> Option<PathBuf> {
    let above = around.project.ancestors().skip(1);
    let mut same: Vec<&Path> = above.take_while(|folder| device_of(folder) == device).collect();
    // The top of the root file system is for the system, not for a user's folder.
    same.retain(|folder| folder.parent().is_some() && !folder.join(PROJECT_FILE).exists());
    let name = format!(".rift-store-{}", around.uid);
    let places = same.iter().rev().map(|folder| folder.join(&name));
    places.into_iter().find(|path| can_be_made(path, around.uid))
}

/// Remembers a store that is not in the data folder, so that `self uninstall` finds it. Not in an image build, whose layer would get the list;
/// and who has no home to write to, as users of containers often have none, does without.
///
/// # Errors
/// What the system says.
pub fn remember(store: &Path) -> anyhow::Result<()> {
    let Some(list) = list().filter(|_| image_build().is_none()) else {
        return Ok(());
    };
    let known = remembered();
    if known.iter().any(|path| path == store) {
        return Ok(());
    }
    let action = || format!("could not remember the store in `{}`", list.display());
    if let Some(folder) = list.parent() {
        match fs::DirBuilder::new().recursive(true).mode(0o700).create(folder) {
            Err(error) if is_refused(&error) => return Ok(()),
            made => made.with_context(action)?,
        }
    }
    let mut options = fs::OpenOptions::new();
    let mut file =
        options.append(true).create(true).mode(0o600).open(&list).with_context(action)?;
    // One write of one line: several processes may append at once.
    let line = [store.as_os_str().as_bytes(), b"\n"].concat();
    file.write_all(&line).with_context(action)
}

fn is_refused(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

/// Returns the file that stores are remembered in.
#[must_use]
pub fn list() -> Option<PathBuf> {
    Some(config::xdg(env_vars::XDG_STATE_HOME, ".local/state")?.join("rift/stores"))
}

/// Returns the stores that were remembered.
#[must_use]
pub fn remembered() -> Vec<PathBuf> {
    let bytes = match list().map(fs::read) {
        Some(Ok(bytes)) => bytes,
        Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => Vec::new(),
        _ => Vec::new(),
    };
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| PathBuf::from(std::ffi::OsStr::from_bytes(line))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    fn around<'s>(project: &'s Path, shared: &'s Path, data: Option<&Path>) -> Surroundings<'s> {
        Surroundings { project, uid: uid(), shared, data: data.map(Path::to_owned), build: None }
    }

    #[test]
    fn the_data_folder_is_taken_on_the_projects_file_system() {
        let folder = tempfile::tempdir().unwrap();
        let (project, data) = (folder.path().join("project"), folder.path().join("data"));
        fs::create_dir(&project).unwrap();
        let place = choose_in(&around(&project, Path::new("/nowhere"), Some(&data)));
        let path = data.join("rift");
        assert_eq!(place, Place::Folder { path, reason: Reason::DataFolder });
    }

    #[test]
    fn a_folder_beside_the_project_is_taken_where_the_data_folder_is_elsewhere() {
        // Needs a second file system: shared memory is one wherever Linux is.
        let (Ok(folder), Ok(data)) = (tempfile::tempdir_in("/dev/shm"), tempfile::tempdir()) else {
            return;
        };
        if device_of(folder.path()) == device_of(data.path()) {
            return;
        }
        let project = folder.path().join("project");
        fs::create_dir(&project).unwrap();
        let near = around(&project, Path::new("/nowhere"), Some(data.path()));
        let Place::Folder { path, reason } = choose_in(&near) else { panic!("nowhere") };
        assert_eq!(reason, Reason::BesideProject);
        assert!(path.ends_with(format!(".rift-store-{}", uid())), "{}", path.display());
        assert_eq!(device_of(&path), device_of(&project));
        assert!(!path.starts_with(&project));
    }

    #[test]
    fn a_store_in_memory_is_the_users_own_and_in_memory() {
        let disk = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let (Ok(one), Ok(two)) =
            (tempfile::tempdir_in("/dev/shm"), tempfile::tempdir_in("/dev/shm"))
        else {
            return;
        };
        let name = memory_name(uid());
        let folders: Vec<PathBuf> =
            [&disk, &one, &two].map(|folder| folder.path().to_owned()).into();
        let chosen = |folders: &[PathBuf]| match memory_in(folders, uid()) {
            Place::Folder { path, reason: Reason::Memory } => Some(path),
            _ => None,
        };
        if memory_free(disk.path()).is_none() {
            assert_eq!(chosen(&folders[..1]), None);
            assert_eq!(chosen(&folders), Some(one.path().join(&name)));
        }
        fs::create_dir(two.path().join(&name)).unwrap();
        assert_eq!(chosen(&folders), Some(two.path().join(&name)), "where one is already");
        fs::remove_dir(two.path().join(&name)).unwrap();
        std::os::unix::fs::symlink(disk.path(), one.path().join(&name)).unwrap();
        assert_eq!(chosen(&folders[1..]), Some(two.path().join(&name)), "no link is followed");
    }

    #[test]
    fn image_builds_have_no_store_unless_it_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut around = around(folder.path(), Path::new("/nowhere"), Some(folder.path()));
        around.build = Some("docker build");
        let Place::Nowhere { reason } = choose_in(&around) else { panic!("a store") };
        assert!(reason.contains("docker build"));
    }

    #[test]
    fn the_administrators_folder_counts_only_when_root_made_it() {
        let folder = tempfile::tempdir().unwrap();
        let shared = folder.path().join("cas");
        fs::create_dir(&shared).unwrap();
        let here = around(folder.path(), &shared, Some(folder.path()));
        let Place::Folder { reason, .. } = choose_in(&here) else { panic!("nowhere") };
        let expected = if uid() == 0 { Reason::Administrator } else { Reason::DataFolder };
        assert_eq!(reason, expected);
        let missing = around(folder.path(), Path::new("/no/cas"), Some(folder.path()));
        let Place::Folder { reason, .. } = choose_in(&missing) else { panic!("nowhere") };
        assert_eq!(reason, Reason::DataFolder);
    }
}
