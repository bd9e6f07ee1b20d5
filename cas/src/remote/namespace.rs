//! Namespaces: parts of a remote for writers who are not trusted, such as pull requests.
//!
//! A namespace is a whole remote at `ns/NAME` of another one, its main part. It is read first, and alone is written to. What it
//! lacks is read from the main part, where only the keys count that are trusted there: the key of who works in the namespace does
//! not. A remote that is opened without a namespace asks for nothing below `ns`, and no object of the main part names one of a namespace.

use std::sync::{Arc, Mutex};

use super::Remote;
use super::address::{Address, is_namespace};
use super::error::{Error, Result};
use super::keys::TrustedKeys;
use crate::store::Store;

/// The remote that a namespace lies in.
pub(super) struct Main {
    remote: Remote,
    trusted: TrustedKeys,
}

/// What was asked of a remote: its own answer, and that of the main part where it is a namespace.
pub(super) type Answers<T> = (Result<Option<T>>, Result<Option<T>>);

impl Remote {
    /// Returns the part of this remote that belongs to the namespace `name`; `trusted` are the keys that count outside of it.
    ///
    /// # Errors
    /// [`Error::Address`] for a name that is none.
    pub fn in_namespace(self, name: &str, trusted: TrustedKeys) -> Result<Self> {
        let address = self.address.namespace(name)?;
        let prefix = self.prefix.clone().join("ns").join(name);
        Ok(Self {
            address,
            objects: Arc::clone(&self.objects),
            prefix,
            runtime: Arc::clone(&self.runtime),
            meter: Arc::clone(&self.meter),
            limits: self.limits,
            end: self.end,
            ranges: Arc::clone(&self.ranges),
            main: Some(Box::new(Main { remote: self, trusted })),
            remarks: Mutex::default(),
        })
    }

    /// Returns the remote that this is a namespace of.
    #[must_use]
    pub fn main(&self) -> Option<&Self> {
        self.main.as_ref().map(|main| &main.remote)
    }

    /// Asks the remote and its main part at the same time, and reads their deny-lists meanwhile: what these say holds before anybody
    /// uses an answer.
    pub(super) fn ask<T: Send>(
        &self,
        store: &Store,
        trusted: &TrustedKeys,
        ask: impl Fn(&Self, &TrustedKeys) -> Result<Option<T>> + Sync,
    ) -> Result<Answers<T>> {
        let main = self.main.as_deref();
        let ask = &ask;
        let (own, above, list, list_above) = std::thread::scope(|scope| {
            let list = scope.spawn(|| self.deny_list());
            let list_above = main.map(|main| scope.spawn(|| main.remote.deny_list()));
            let above = main.map(|main| scope.spawn(|| ask(&main.remote, &main.trusted)));
            let own = ask(self, trusted);
            (own, above.map_or(Ok(None), join), join(list), list_above.map(join))
        });
        if list.is_err() && own.is_err() {
            // Both for one reason: what was asked for says more about it.
            return own.map(|own| (Ok(own), above));
        }
        self.heed(store, list?.as_ref(), trusted)?;
        if let (Some(main), Some(list)) = (main, list_above) {
            main.remote.heed(store, list?.as_ref(), &main.trusted)?;
        }
        Ok((own, above))
    }

    /// Returns the first answer that there is, and where it is from.
    pub(super) fn first<T>(&self, (own, above): Answers<T>) -> Result<Option<(T, &Self)>> {
        let own = match own {
            // Others may write to a namespace as well; that must not keep anybody from the main part.
            Err(error) if self.main.is_some() && error.is_of_stranger() => {
                self.remark(format!("{} is passed over: {error}", self.address));
                None
            }
            own => own?,
        };
        if let Some(own) = own {
            return Ok(Some((own, self)));
        }
        Ok(above?.zip(self.main()))
    }

    /// Returns the keys that count in the main part.
    pub(super) fn trusted_above(&self) -> Option<&TrustedKeys> {
        self.main.as_ref().map(|main| &main.trusted)
    }
}

fn join<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

impl Address {
    /// Returns the address of a namespace here.
    ///
    /// # Errors
    /// [`Error::Address`] for a name that is none.
    pub fn namespace(&self, name: &str) -> Result<Self> {
        if !is_namespace(name) {
            let reason = "a namespace is 1 to 64 letters, digits and ._-, and begins with no `.`";
            return Err(Error::Address {
                address: format!("{self}/ns/{}", name.escape_debug()),
                reason,
            });
        }
        Ok(self.below(&format!("ns/{name}")))
    }
}
