//! Shows a tree at a folder of a project, at the least cost: nothing where it is there already, the
//! difference where another tree is, and the whole otherwise.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rift_cas::Store;
use rift_cas::ahead::Ahead;
use rift_cas::compare::{self, Differences};
use rift_cas::loose::Linker;
use rift_cas::materialize::{self, Options, Writer};
use rift_cas::projection::{Projection, ShownAs};
use rift_cas::tree::OpenTree;
use rift_tree::EntryId;

use crate::mount;

/// How a tree came to be where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    /// It was there.
    Unchanged,
    /// It was there and had been edited.
    Mended,
    /// What differs from the tree that was there was written.
    Changed,
    /// All of it was written.
    Written,
    /// It was mounted.
    Mounted,
    /// Runs see it that ask for it.
    Projected,
}

/// What was done to show a tree.
#[derive(Debug, Clone)]
pub struct Shown {
    /// How.
    pub how: How,
    /// What had to be written.
    pub written: materialize::Written,
    /// Why a tree that was to be mounted is files.
    pub unmountable: Option<String>,
}

impl Shown {
    fn new(how: How, written: materialize::Written) -> Self {
        Self { how, written, unmountable: None }
    }
}

/// Keeps two runs from changing one project at once, while it lives.
#[derive(Debug)]
pub struct ProjectLock {
    _folder: Option<File>,
}

/// Waits until nobody else changes the project at `root`.
///
/// # Errors
/// When the folder can't be opened.
pub fn lock_project(root: &Path) -> Result<ProjectLock> {
    let folder =
        File::open(root).with_context(|| format!("could not open `{}`", root.display()))?;
    // Where the file system has no locks, two runs at once are the user's affair, as with npm.
    let is_locked = rustix::fs::flock(&folder, rustix::fs::FlockOperation::LockExclusive).is_ok();
    Ok(ProjectLock { _folder: is_locked.then_some(folder) })
}

/// How a tree is to be shown.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The store.
    pub store: &'a Store,
    /// The tree.
    pub tree: &'a OpenTree,
    /// The folder, absolute and without symbolic links in what is above it.
    pub folder: &'a Path,
    /// How it is written.
    pub options: Options,
    /// Whether files may be hard links.
    pub has_links: bool,
    /// Who is to see it, and by what.
    pub shown_as: ShownAs,
}

impl Request<'_> {
    /// Finds how the folder differs from the tree, if it is a projection of it.
    ///
    /// # Errors
    /// What the system says.
    pub fn differences(&self) -> Result<Option<(Projection, Differences)>> {
        let Some(known) = self.shown()? else {
            return Ok(None);
        };
        let found = self.differences_of(&known)?;
        Ok(Some((known, found)))
    }

    /// Tells whether the tree is there as soon as what the machine, or a killed server, took away is mounted again.
    ///
    /// # Errors
    /// What the system says.
    pub fn is_only_unmounted(&self) -> Result<bool> {
        use mount::Condition::{Dead, Unmounted};
        let is_mounted = |known: &Projection| !matches!(mount::condition(known), Dead | Unmounted);
        Ok(self.shown()?.is_some_and(|known| known.shown_as.has_state() && !is_mounted(&known)))
    }

    fn differences_of(&self, known: &Projection) -> Result<Differences> {
        Ok(match known.shown_as.has_state() {
            true => mount::differences(self.store, self.tree, known)?,
            false => compare::compare(self.tree, known, self.options.threads)?,
        })
    }

    /// Returns the projection at the folder, if it is one of this tree.
    fn shown(&self) -> Result<Option<Projection>> {
        Ok(self.known()?.filter(|known| known.tree == self.tree.hash()))
    }

    fn known(&self) -> Result<Option<Projection>> {
        let known = match self.store.projection(self.folder) {
            // A damaged record says nothing: the tree is written as if there were none.
            Err(rift_cas::Error::Damaged { .. }) => None,
            Ok(None) if self.shown_as.has_state() => mount::find(self.store, self.folder)?,
            other => other?,
        };
        let is_alike = |known: &Projection| {
            let has_links = self.has_links && !self.shown_as.has_state();
            let found = (known.umask, known.has_links, known.shown_as);
            found == (self.options.umask, has_links, self.shown_as)
        };
        Ok(known.filter(is_alike))
    }

    /// Shows the tree; what was written ahead saves work where all of it has to be written.
    ///
    /// # Errors
    /// What the system says; see [`materialize::replace`] for what is there then.
    pub fn show(&self, ahead: Option<Ahead>) -> Result<Shown> {
        if let Some(known) = self.shown()? {
            if self.shown_as == ShownAs::Mount
                && let Err(error) = mount::heal(self.store, &known)
            {
                // It was mounted when that was permitted.
                return self.show_files(&error);
            }
            let found = self.differences_of(&known)?;
            if found.is_empty() {
                return Ok(Shown::new(How::Unchanged, materialize::Written::default()));
            }
            if self.shown_as.has_state() {
                return self.show_without_files();
            }
            return self.apply(&known, &found, How::Mended);
        }
        if self.shown_as.has_state() {
            return self.show_without_files();
        }
        if mount::is_at(self.store, self.folder)? {
            mount::remove(self.store, self.folder, self.options.threads)?;
        }
        if let Some(found) = self.change()? {
            // A run that is killed in between leaves neither tree: the next one writes all of it.
            self.store.forget_projection(self.folder)?;
            return self.change_by(&found);
        }
        let linker = self.linker()?;
        let writer = self.writer(linker.as_ref(), self.options);
        let written = match ahead {
            Some(ahead) => ahead.complete(&writer)?,
            None => materialize::replace(&writer, self.folder)?,
        };
        self.seal(&writer)?;
        Ok(Shown::new(How::Written, written))
    }

    /// Shows the tree afresh; where it can't be mounted, it becomes files.
    fn show_without_files(&self) -> Result<Shown> {
        let nothing = materialize::Written::default();
        if self.shown_as == ShownAs::Virtual {
            mount::show_virtual(self.store, self.tree, self.folder, self.options)?;
            return Ok(Shown::new(How::Projected, nothing));
        }
        match mount::show(self.store, self.tree, self.folder, self.options) {
            Ok(_) => Ok(Shown::new(How::Mounted, nothing)),
            Err(error) => self.show_files(&error),
        }
    }

    /// Writes the tree because it can't be mounted.
    fn show_files(&self, why: &anyhow::Error) -> Result<Shown> {
        let files = Self { shown_as: ShownAs::Files, ..*self };
        Ok(Shown { unmountable: Some(format!("{why:#}")), ..files.show(None)? })
    }

    /// Makes what is there the projection of this tree, which was taken from it just now: only what
    /// differs is written, mostly times.
    ///
    /// # Errors
    /// What the system says.
    pub fn adopt(&self) -> Result<()> {
        let Some(known) = self.known()? else {
            return self.show(None).map(drop);
        };
        if known.shown_as.has_state() {
            return self.show_without_files().map(drop);
        }
        self.store.forget_projection(self.folder)?;
        let known = Projection { tree: self.tree.hash(), ..known };
        let found = compare::compare(self.tree, &known, self.options.threads)?;
        self.apply(&known, &found, How::Mended).map(drop)
    }

    /// Finds what to change when the folder is an unedited projection of another, similar tree.
    fn change(&self) -> Result<Option<Differences>> {
        // The times of linked files belong to the loose form of the other tree.
        let is_private = |known: &Projection| !known.has_links && !known.shown_as.has_state();
        let Some(known) = self.known()?.filter(is_private) else {
            return Ok(None);
        };
        let Ok(Some(old)) = self.store.open_tree(known.tree) else {
            return Ok(None);
        };
        let (before, after) = (old.manifest(), self.tree.manifest());
        let found = compare::between(&before, &after);
        if cost(&after, &found) > after.len() / 2 {
            return Ok(None);
        }
        let edits = compare::compare(&old, &known, self.options.threads)?;
        Ok(edits.is_empty().then_some(found))
    }

    /// Turns another tree into this one; all entries get the time of this run.
    fn change_by(&self, found: &Differences) -> Result<Shown> {
        let writer = self.writer(None, self.options);
        let written = compare::repair(&writer, self.folder, found)?;
        compare::restamp(&writer, self.folder)?;
        self.seal(&writer)?;
        Ok(Shown::new(How::Changed, written))
    }

    fn apply(&self, known: &Projection, found: &Differences, how: How) -> Result<Shown> {
        let linker = self.linker()?;
        // What stays has the stamp it has, and the rest gets the same.
        let options = Options { stamp_ns: known.stamp_ns, ..self.options };
        let writer = self.writer(linker.as_ref(), options);
        let written = compare::repair(&writer, self.folder, found)?;
        self.seal(&writer)?;
        Ok(Shown::new(how, written))
    }

    fn linker(&self) -> Result<Option<Linker<'_>>> {
        match self.has_links {
            true => Ok(self.store.linker(self.tree, self.options)?),
            false => Ok(None),
        }
    }

    fn writer<'w>(&'w self, linker: Option<&'w Linker>, options: Options) -> Writer<'w> {
        match linker {
            Some(linker) => Writer::linking(self.tree, linker, options),
            None => Writer::new(self.tree, options),
        }
    }

    fn seal(&self, writer: &Writer<'_>) -> Result<()> {
        let projection = Projection::seal(writer, self.folder)?;
        self.store.set_projection(&projection)?;
        Ok(())
    }
}

/// Returns how many entries a change touches.
fn cost(manifest: &rift_tree::Manifest<'_>, found: &Differences) -> u32 {
    let below = |id: &EntryId| {
        let first = manifest.children(*id).next().map_or(id.0, |child| child.0);
        let end = manifest.subtree_end(*id).map_or(first, |end| end.0);
        1 + end.saturating_sub(first)
    };
    let changed: u32 = found.changed.iter().map(below).sum();
    // What is removed is not counted entry by entry; a name costs at least one.
    changed.saturating_add(u32::try_from(found.extra.len()).unwrap_or(u32::MAX))
}

/// Returns the moment that stamped trees of this run get: `SOURCE_DATE_EPOCH` where it is set, else
/// the time of day in whole milliseconds.
#[must_use]
pub fn stamp_ns(source_date_epoch: Option<&std::ffi::OsStr>) -> i64 {
    let given = source_date_epoch.and_then(|text| text.to_str()?.parse::<i64>().ok());
    if let Some(seconds) = given {
        return seconds.saturating_mul(1_000_000_000);
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let milliseconds = now.map_or(0, |now| i64::try_from(now.as_millis()).unwrap_or(0));
    milliseconds.saturating_mul(1_000_000)
}

/// Returns `path` made absolute without following its last name.
///
/// # Errors
/// When its folder is not there.
pub fn place(path: &Path) -> Result<PathBuf> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let parent = parent
        .canonicalize()
        .with_context(|| format!("could not resolve `{}`", parent.display()))?;
    Ok(parent.join(path.file_name().unwrap_or_default()))
}
