//! What a command needed of trees that are here whole: machines that have nothing yet fetch that first.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::time::{Duration, Instant, SystemTime};

use rift_cas::remote::access::AccessKey;
use rift_cas::used::used;

use super::shared::Shared;
use crate::context::Context;
use crate::mount::private;
use crate::{keys, remotes};

/// What ends sooner needs too little for anybody to wait for it.
const SHORT: Duration = Duration::from_millis(500);

/// When a command began.
pub(super) struct Noted {
    began: Instant,
    time: SystemTime,
}

impl Noted {
    /// Begins to note what a command needs.
    pub(super) fn begin() -> Self {
        Self { began: Instant::now(), time: SystemTime::now() }
    }

    /// Tells the remote, where this user may write there and the command has read what nobody had read before. That it could not be told
    /// is no affair of the command.
    pub(super) fn end(self, command: &[OsString], context: &Context) {
        if let Err(error) = self.tell(command, context) {
            context.ui.warn(&format!("what the command needed is not noted: {error:#}"));
        }
    }

    fn tell(self, command: &[OsString], context: &Context) -> anyhow::Result<()> {
        let config = &context.config;
        let may_write = remotes::written(config).is_some() && remotes::refusal(config).is_none();
        if self.began.elapsed() < SHORT || !may_write {
            return Ok(());
        }
        let Ok(store) = context.existing_store() else { return Ok(()) };
        let Some(shared) = Shared::new(context, &store) else { return Ok(()) };
        if keys::private()?.is_none() {
            return Ok(());
        }
        let mut lists = Vec::new();
        for known in private::unmounted_near(&store, &context.cwd)? {
            if store.is_partial(known.tree) {
                // Who brings its files knows better.
                continue;
            }
            let Some(tree) = store.open_tree(known.tree)? else { continue };
            let found = used(&tree.manifest(), &known, self.time);
            if found.new > 0 {
                let words = command.iter().map(|word| word.as_bytes());
                lists.push((AccessKey::new(known.tree, words), found.blobs));
            }
        }
        shared.tell(&lists)
    }
}
