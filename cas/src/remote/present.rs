//! Which objects of `data` a remote has, by one listing or few requests.

use std::collections::HashMap;

use super::Remote;
use super::error::Result;

/// A listing is read up to this many objects; those that it does not reach are asked for one by one.
const LISTED_MAX: usize = 20_000;
/// Fewer objects are asked for one by one: a listing tells of others' objects too.
const ASKED_MAX: usize = 2;

/// What is known of a remote, and of its main part where it is a namespace.
pub(super) struct Present<'r> {
    remote: &'r Remote,
    /// How many objects will be asked for.
    count: usize,
    listed: Option<Listed>,
    above: Option<Box<Present<'r>>>,
}

/// The objects that a listing showed, with their lengths.
struct Listed {
    objects: HashMap<String, u64>,
    is_complete: bool,
}

impl<'r> Present<'r> {
    /// Begins to ask for about `count` objects.
    pub(super) fn new(remote: &'r Remote, count: usize) -> Self {
        let above = remote.main().map(|main| Box::new(Self::new(main, count)));
        Self { remote, count, listed: None, above }
    }

    /// Returns the length of an object; `None` when there is none.
    pub(super) fn length(&mut self, object: &str) -> Result<Option<u64>> {
        if let Some(length) = self.length_here(object)? {
            return Ok(Some(length));
        }
        // It only saves bytes.
        let above = self.above.as_mut().map(|above| above.length(object));
        Ok(above.and_then(Result::ok).flatten())
    }

    fn length_here(&mut self, object: &str) -> Result<Option<u64>> {
        if self.count <= ASKED_MAX {
            return self.remote.length(object);
        }
        let listed = match &self.listed {
            Some(listed) => listed,
            None => {
                let objects = self.remote.listed("data", LISTED_MAX)?;
                let is_complete = objects.len() < LISTED_MAX;
                let objects = objects.into_iter().collect();
                self.listed.insert(Listed { objects, is_complete })
            }
        };
        match listed.objects.get(object) {
            Some(length) => Ok(Some(*length)),
            None if listed.is_complete => Ok(None),
            None => self.remote.length(object),
        }
    }
}
