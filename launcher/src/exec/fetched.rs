//! What a run fetches of trees that have not come whole, while its command needs it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;

use rift_cas::Store;
use rift_cas::partial::Partial;
use rift_cas::projection::Projection;
use rift_cas::remote::access::AccessKey;

use super::shared::traffic;
use crate::{keys, mount};

/// The trees of a run of which not all is here.
pub(super) struct Fetched(Vec<One>);

struct One {
    partial: Arc<Partial>,
    /// What its access list is found by.
    key: AccessKey,
    /// Whether the server of a mount brings what is needed, and not this process.
    is_mounted: bool,
    /// Whether nobody needed any of it before, so that what was needed is all that the command needs.
    is_first: bool,
}

impl One {
    fn new(partial: Arc<Partial>, command: &[OsString], is_mounted: bool) -> Self {
        let key = AccessKey::new(partial.tree(), command.iter().map(|word| word.as_bytes()));
        let is_first = partial.used().is_empty();
        Self { partial, key, is_mounted, is_first }
    }

    /// Tells others what was needed; tells whether they did not know.
    fn share(&self) -> rift_cas::remote::Result<bool> {
        match self.is_mounted {
            true => self.partial.share(self.key),
            false => self.partial.serve().share(self.key),
        }
    }

    /// Returns what kept something from coming.
    fn trouble(&self) -> Option<String> {
        let is_down = self.is_mounted && self.partial.is_down();
        let given_up = || format!("the remote {} was given up", self.partial.origin());
        self.partial.trouble().or_else(|| is_down.then(given_up))
    }
}

impl Fetched {
    /// Begins to bring what the command waits for, and before that what it needed elsewhere.
    pub(super) fn begin(partial: Vec<Arc<Partial>>, command: &[OsString]) -> Self {
        let begin = |partial: Arc<Partial>| {
            let one = One::new(partial, command, false);
            one.partial.serve().follow(one.key);
            one
        };
        Self(partial.into_iter().map(begin).collect())
    }

    /// Has the servers of mounts bring what the command needed elsewhere; `None` where no tree has to come.
    pub(super) fn begin_mounted(
        store: &Store,
        mounted: &[Projection],
        command: &[OsString],
    ) -> Option<Self> {
        let begin = |projection: &Projection| {
            let tree = store.open_partial(projection.tree).ok()??;
            let one = One::new(Arc::clone(tree.partial()?), command, true);
            mount::fetch_ahead(projection, one.key);
            Some(one)
        };
        let all: Vec<One> = mounted.iter().filter_map(begin).collect();
        (!all.is_empty()).then_some(Self(all))
    }

    /// Tells others what was needed; returns what came, for `rift why`, and what kept something from coming.
    pub(super) fn end(self) -> (Vec<String>, Option<String>) {
        let (mut reasons, mut trouble) = (Vec::new(), None);
        let is_writer = keys::private().is_ok_and(|key| key.is_some());
        for one in self.0 {
            let origin = one.partial.origin();
            let failure = one.trouble();
            if one.is_first && failure.is_none() && is_writer && !origin.is_read_only() {
                match one.share() {
                    Ok(true) => reasons.push("what the command needed is noted there".to_owned()),
                    Ok(false) => {}
                    Err(error) => reasons.push(format!("what it needed is not noted: {error}")),
                }
            }
            let how = match one.is_mounted {
                true => "to the server of the mount".to_owned(),
                false => traffic(&one.partial.serve().traffic()),
            };
            reasons.insert(0, format!("{origin} gave what was needed ({how})"));
            trouble = trouble.or(failure);
        }
        let say = |why| format!("files could not be read that had not come yet: {why}");
        (reasons, trouble.map(say))
    }
}
