//! What every command needs: settings, the way it talks, where it is, and the store.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use rift_cas::Store;

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
}

impl Context {
    /// Makes a context of settings.
    #[must_use]
    pub fn new(config: Config, cwd: PathBuf) -> Self {
        let ui = Ui::new(config.color(), config.is_quiet());
        Self { config, ui, cwd, place: OnceCell::new() }
    }

    /// Returns where the store is, or would be.
    #[must_use]
    pub fn place(&self) -> &Place {
        self.place.get_or_init(|| place::choose(&self.config, &self.cwd))
    }

    /// Returns the store's folder, which need not be there.
    ///
    /// # Errors
    /// There is no place for one.
    pub fn store_path(&self) -> anyhow::Result<&Path> {
        match self.place() {
            Place::Folder { path, .. } => Ok(path),
            Place::Nowhere { reason } => {
                let none: anyhow::Result<_> = Err(anyhow!("there is no store here: {reason}"));
                none.hint("name a folder with RIFT_STORE")
            }
        }
    }

    /// Opens the store, making it if there is none.
    ///
    /// # Errors
    /// There is no place for one, it is not safe, or what the system says.
    pub fn store(&self) -> anyhow::Result<Store> {
        let path = self.store_path()?;
        let opened = || format!("could not open the store `{}`", path.display());
        let reach = || remotes::options(remotes::OF_RUNS);
        if let Some(store) = Store::open_existing(path).with_context(opened)? {
            return Ok(store.reaching(reach()));
        }
        let store = Store::open(path).with_context(opened)?.reaching(reach());
        if !matches!(self.place(), Place::Folder { reason: Reason::DataFolder, .. }) {
            place::remember(store.root())?;
        }
        Ok(store)
    }

    /// Opens the store for who only looks.
    ///
    /// # Errors
    /// There is none, it is not safe, or what the system says.
    pub fn existing_store(&self) -> anyhow::Result<Store> {
        let path = self.store_path()?;
        let found = Store::open_existing(path)
            .with_context(|| format!("could not open the store `{}`", path.display()))?;
        let found = found.map(|store| store.reaching(remotes::options(remotes::OF_RUNS)));
        found.ok_or_else(|| anyhow!("there is no store at `{}`", path.display())).hint(
            "`rift ingest DIR` or `rift exec -- npm ci` makes one; RIFT_STORE names another place",
        )
    }

    /// Opens the store for a run; `None`, said once, when it has to do without.
    ///
    /// # Errors
    /// It can't be opened and `strict` is set.
    pub fn store_or_none(&self) -> anyhow::Result<Option<Store>> {
        match self.store() {
            Ok(store) => Ok(Some(store)),
            Err(error) if self.config.is_strict() => Err(error),
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

    /// Tells whether files are hard links into the store.
    #[must_use]
    pub fn links(&self) -> bool {
        self.config.via() == Via::HardLink
    }
}
