//! Removes the plans and refs of a remote that name what was purged, and that a trusted key has signed: others mean nothing. Whoever finds one that is left refuses what it names: so this
//! saves requests, and goes no further than it soon gets.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rift_tree::TreeHash;

use super::error::{Error, Result};
use super::keys::TrustedKeys;
use super::plan::{self, SignedPlan};
use super::reference::{self, SignedRef};
use super::{AT_ONCE, Remote};
use crate::lock::lock;
use crate::purge::Purged;

/// How many plans, and how many refs, of a remote are looked into at most.
const LOOKED_AT_MAX: usize = 512;

impl Remote {
    /// Removes plans and refs that name a purged tree; returns how many. Manifests stay, as those of other trees may be patches of them.
    pub(super) fn sweep(&self, purged: &[Purged], trusted: &TrustedKeys) -> Result<usize> {
        let doomed: HashSet<TreeHash> =
            purged.iter().flat_map(|purged| &purged.doomed).copied().collect();
        let plans = purged.iter().flat_map(|purged| &purged.plans);
        let refs = purged.iter().flat_map(|purged| &purged.refs);
        let own = plans
            .map(|name| format!("plans/{name}"))
            .chain(refs.map(|name| reference::object(name)));
        let mut objects: BTreeSet<String> = own.collect();
        for folder in ["plans", "refs"] {
            let listed = self.listed(folder, LOOKED_AT_MAX)?;
            objects.extend(listed.into_iter().map(|(object, _)| object));
        }
        let objects = Mutex::new(VecDeque::from_iter(objects));
        let next = || lock(&objects).pop_front();
        let removed = AtomicUsize::new(0);
        let work = || -> Result<()> {
            while let Some(object) = next() {
                let named = self.named(&object, trusted)?;
                if named.iter().any(|tree| doomed.contains(tree)) {
                    self.remove(&object)?;
                    removed.fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok(())
        };
        let ends: Vec<Result<()>> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
            let join = |worker: std::thread::ScopedJoinHandle<'_, Result<()>>| {
                worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            workers.into_iter().map(join).collect()
        });
        ends.into_iter().collect::<Result<()>>()?;
        Ok(removed.into_inner())
    }

    /// Returns the trees that a plan or a ref of a trusted key names; none for what is neither.
    fn named(&self, object: &str, trusted: &TrustedKeys) -> Result<Vec<TreeHash>> {
        let max = if object.starts_with("plans/") { plan::BYTES_MAX } else { reference::BYTES_MAX };
        let bytes = match self.small(object, max) {
            Ok(Some(found)) => found.bytes,
            Ok(None) | Err(Error::Wrong { .. }) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        if object.starts_with("plans/") {
            let signed = SignedPlan::decode(&bytes).ok();
            let signed = signed.filter(|signed| trusted.get(&signed.key).is_some());
            let trees = signed.map(|signed| signed.statement.trees).unwrap_or_default();
            return Ok(trees.iter().map(|at| at.tree).collect());
        }
        let signed = SignedRef::decode(&bytes).ok();
        let signed = signed.filter(|signed| trusted.get(&signed.key).is_some());
        Ok(signed.map(|signed| signed.statement.at.tree).into_iter().collect())
    }
}
