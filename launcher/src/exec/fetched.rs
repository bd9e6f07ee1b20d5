//! What a run fetches of trees that have not come whole, while its command needs it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;

use rift_cas::partial::Partial;
use rift_cas::remote::access::AccessKey;

use super::shared::traffic;
use crate::keys;

/// The trees of a run of which not all is here, and what their access lists are found by.
pub(super) struct Fetched(Vec<(Arc<Partial>, AccessKey)>);

impl Fetched {
    /// Begins to bring what the command waits for, and before that what it needed elsewhere.
    pub(super) fn begin(partial: Vec<Arc<Partial>>, command: &[OsString]) -> Self {
        let with_key = |partial: Arc<Partial>| {
            let words = command.iter().map(|word| word.as_bytes());
            let key = AccessKey::new(partial.tree(), words);
            partial.serve().follow(key);
            (partial, key)
        };
        Self(partial.into_iter().map(with_key).collect())
    }

    /// Tells others what was needed; returns what came, for `rift why`, and what kept something from coming.
    pub(super) fn end(self) -> (Vec<String>, Option<String>) {
        let (mut reasons, mut trouble) = (Vec::new(), None);
        let is_writer = keys::private().is_ok_and(|key| key.is_some());
        for (partial, key) in self.0 {
            let fetching = partial.serve();
            if partial.trouble().is_none() && is_writer && !partial.origin().is_read_only() {
                match fetching.share(key) {
                    Ok(true) => reasons.push("what the command needed is noted there".to_owned()),
                    Ok(false) => {}
                    Err(error) => reasons.push(format!("what it needed is not noted: {error}")),
                }
            }
            let what = traffic(&fetching.traffic());
            reasons.insert(0, format!("{} gave what was needed ({what})", partial.origin()));
            trouble = trouble.or_else(|| partial.trouble());
        }
        let say = |why| format!("files could not be read that had not come yet: {why}");
        (reasons, trouble.map(say))
    }
}
