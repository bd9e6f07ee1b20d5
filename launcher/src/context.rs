//! What every command needs: settings, the way it talks, where it is, and the store.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use rift_cas::{Store, remote};

use crate::config::{Config, Via};
use crate::hint::Hint as _;
use crate::place::{self, Place, Reason};
use crate::remotes;
use crate::ui::Ui;

/// The surroundings of one command.
#[derive(Debug)]
pub struct Context {
    /// All settings.
    pub config: Config,
    /// How to talk.
    pub ui: Ui,
    /// The working directory, absolute.
    pub cwd: PathBuf,
    place: OnceCell<Place>,
    disk_place: OnceCell<Place>,
}

impl Context {
    /// Makes a context of settings.
    #[must_use]
    pub fn new(config: Config, cwd: PathBuf) -> Self {
        let ui = Ui::new(config.color(), config.is_quiet());
        Self { config, ui, cwd, place: OnceCell::new(), disk_place: OnceCell::new() }
    }

    /// Returns where the store is, or would be.
    #[must_use]
    pub fn place(&self) -> &Place {
        match self.config.is_in_memory() {
            true => self.place.get_or_init(place::choose_memory),
            false => self.disk_place(),
        }
    }

    /// Returns where the store on the disk is, or would be.
    #[must_use]
    pub fn disk_place(&self) -> &Place {
        self.disk_place.get_or_init(|| place::choose(&self.config, &self.cwd))
    }

    /// Returns the store's folder, which need not be there.
    ///
    /// # Errors
    /// There is no place for one.
    pub fn store_path(&self) -> anyhow::Result<&Path> {
        let hint = match self.config.is_in_memory() {
            true => "`--tier disk` has a store on the disk",
            false => "name a folder with RIFT_STORE",
        };
        folder_of(self.place()).hint(hint)
    }

    /// Opens the store, making it if there is none.
    ///
    /// # Errors
    /// There is no place for one, it is not safe, or what the system says.
    pub fn store(&self) -> anyhow::Result<Store> {
        let path = self.store_path()?;
        made(path, self.place()).map(|store| self.limited(store))
    }

    /// Opens the store on the disk, making it if there is none: for what a store in memory has no room for.
    ///
    /// # Errors
    /// As [`Context::store`].
    pub fn disk_store(&self) -> anyhow::Result<Store> {
        made(folder_of(self.disk_place())?, self.disk_place())
    }

    /// Opens the store on the disk, if there is one.
    #[must_use]
    pub fn existing_disk_store(&self) -> Option<Store> {
        existing(folder_of(self.disk_place()).ok()?).ok()?
    }

    /// Keeps a store in memory from taking more than it may.
    fn limited(&self, store: Store) -> Store {
        match self.config.is_in_memory() {
            true => {
                let max_bytes = place::memory_limit(&self.config, store.root());
                store.limited(max_bytes)
            }
            false => store,
        }
    }

    /// Returns the size that a store is kept below after a command that brought something, if there is one.
    #[must_use]
    pub fn cap(&self, store: &Store) -> Option<u64> {
        // What runs next finds room in memory.
        store.max_bytes().map(|max_bytes| max_bytes / 5 * 4).or(self.config.max_size())
    }

    /// Opens the store for who only looks.
    ///
    /// # Errors
    /// There is none, it is not safe, or what the system says.
    pub fn existing_store(&self) -> anyhow::Result<Store> {
        let path = self.store_path()?;
        let found = existing(path)?.map(|store| self.limited(store));
        found.ok_or_else(|| anyhow!("there is no store at `{}`", path.display())).hint(
            "`rift ingest DIR` or `rift exec -- npm ci` makes one; RIFT_STORE names another place",
        )
    }

    /// Opens the store for a run, the one on the disk where there can be none in memory; `None` when it has to do
    /// without. Either is said once.
    ///
    /// # Errors
    /// It can't be opened and `strict` is set.
    pub fn store_or_none(&self) -> anyhow::Result<Option<Store>> {
        match self.store() {
            Ok(store) => Ok(Some(store)),
            Err(error) if self.config.is_strict() => Err(error),
            Err(error) if self.config.is_in_memory() && self.disk_store().is_ok() => {
                self.ui.warn(&format!("the store on the disk is used: {error:#}"));
                self.disk_store().map(Some)
            }
            Err(error) => {
                let hint = crate::hint::of(&error);
                let hint = hint.map(|hint| format!("; {hint}")).unwrap_or_default();
                self.ui.warn(&format!("running without a store: {error:#}{hint}"));
                Ok(None)
            }
        }
    }

    /// Says once that something is done in another way than was asked for.
    ///
    /// # Errors
    /// That, when `strict` is set.
    pub fn fall_back(&self, how: &str) -> anyhow::Result<()> {
        if self.config.is_strict() {
            return Err(anyhow::anyhow!("{how}"));
        }
        self.ui.warn(how);
        Ok(())
    }

    /// Returns how many threads read and write files.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.config.threads()
    }

    /// Tells whether files are hard links into the store; into memory there are none.
    #[must_use]
    pub fn links(&self) -> bool {
        self.config.via() == Via::HardLink && !self.config.is_in_memory()
    }
}

/// Tells whether an error is that a store with a limit has no room.
#[must_use]
pub fn is_out_of_room(error: &anyhow::Error, store: &Store) -> bool {
    error.chain().any(|cause| {
        let of_remote = match cause.downcast_ref::<remote::Error>() {
            Some(remote::Error::Store(error)) => Some(error),
            _ => None,
        };
        let error = cause.downcast_ref::<rift_cas::Error>().or(of_remote);
        error.is_some_and(|error| store.is_out_of_room(error))
    })
}

fn folder_of(place: &Place) -> anyhow::Result<&Path> {
    match place {
        Place::Folder { path, .. } => Ok(path),
        Place::Nowhere { reason } => Err(anyhow!("there is no store here: {reason}")),
    }
}

fn unopened(path: &Path) -> String {
    format!("could not open the store `{}`", path.display())
}

/// Opens the store in a folder, if there is one.
fn existing(path: &Path) -> anyhow::Result<Option<Store>> {
    let found = Store::open_existing(path).with_context(|| unopened(path))?;
    Ok(found.map(|store| store.reaching(remotes::options(remotes::OF_RUNS))))
}

/// Opens the store at a place, making it if there is none.
fn made(path: &Path, place: &Place) -> anyhow::Result<Store> {
    if let Some(store) = existing(path)? {
        return Ok(store);
    }
    let store = Store::open(path).with_context(|| unopened(path))?;
    let store = store.reaching(remotes::options(remotes::OF_RUNS));
    if !matches!(place, Place::Folder { reason: Reason::DataFolder, .. }) {
        place::remember(store.root())?;
    }
    Ok(store)
}
