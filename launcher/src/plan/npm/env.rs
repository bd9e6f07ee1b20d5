//! The environment a plan reads, as a value: tests and the launcher decide what is in it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// A process environment.
#[derive(Clone, Debug, Default)]
pub struct Env(BTreeMap<OsString, OsString>);

impl Env {
    /// Returns this process's environment.
    pub fn current() -> Env {
        Env(std::env::vars_os().collect())
    }

    /// Returns an environment of these variables.
    pub fn new<K: Into<OsString>, V: Into<OsString>>(
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Env {
        Env(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }

    /// Returns a variable.
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.0.get(OsStr::new(name)).map(OsString::as_os_str)
    }

    /// Every variable.
    pub fn iter(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.0.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()))
    }

    /// Returns the home folder; without `HOME` there is none to read a user's npmrc from.
    pub(crate) fn home(&self) -> PathBuf {
        self.get("HOME")
            .filter(|home| !home.is_empty())
            .map_or_else(|| PathBuf::from("/nonexistent"), PathBuf::from)
    }
}
