//! Results of others: a plan that the store lacks comes from a remote before the command, and a new one goes there after it.
//!
//! A remote only saves time. Whatever is wrong with it is said once, and the run goes on without it.

use std::path::{Component, Path};

use anyhow::Context as _;
use rift_cas::Store;
use rift_cas::record::Kind;
use rift_cas::remote::address::Address;
use rift_cas::remote::plan::{self, Plan, Sent};
use rift_cas::remote::{self, Extent, Remote, Traffic};
use rift_tree::TreeHash;

use crate::context::Context;
use crate::plan::npm::planned::Planned;
use crate::{keys, remotes, ui};

/// The remotes of a run.
pub(super) struct Shared<'c> {
    context: &'c Context,
    store: &'c Store,
}

impl<'c> Shared<'c> {
    /// Returns the remotes of the settings; `None` when there are none.
    pub(super) fn new(context: &'c Context, store: &'c Store) -> Option<Self> {
        (!context.config.remotes().is_empty()).then_some(Self { context, store })
    }

    /// Brings a plan and so much of its trees from the first remote that has it into the store; returns what came of it, for `rift why`.
    ///
    /// # Errors
    /// A remote that can't be used, when `strict` is set.
    pub(super) fn bring(&self, key: &str, extent: Extent) -> anyhow::Result<Vec<String>> {
        let mut reasons = Vec::new();
        for named in self.context.config.remotes() {
            let address = &named.address;
            match self.bring_from(address, key, extent) {
                Ok(Some(how)) => {
                    reasons.push(how);
                    return Ok(reasons);
                }
                Ok(None) => reasons.push(format!("{address} has no result of this key")),
                Err(error) => reasons.push(self.refuse(address, &error)?),
            }
        }
        Ok(reasons)
    }

    fn refuse(&self, address: &Address, error: &anyhow::Error) -> anyhow::Result<String> {
        let why = format!("the remote {address} is not used: {error:#}");
        self.context.fall_back(&why)?;
        Ok(why)
    }

    fn bring_from(
        &self,
        address: &Address,
        key: &str,
        extent: Extent,
    ) -> anyhow::Result<Option<String>> {
        let remote = open(address)?;
        let trusted = keys::trusted()?;
        let hash = TreeHash::from_hex(key.as_bytes()).context("a plan's key is a hash")?;
        let pulled = self.context.ui.transfer("received", |watch| {
            plan::pull_plan(&remote, self.store, hash, extent, &trusted, watch)
        });
        let Some(pulled) = pulled? else { return Ok(None) };
        let planned = Planned::find(self.store, key)?.filter(stays_in_project);
        let Some(mut planned) = planned else {
            self.store.remove_record(Kind::Plan, key)?;
            anyhow::bail!("it has a plan that means nothing here");
        };
        planned.shared.push(address.to_string());
        planned.save(self.store, key)?;
        let signer = pulled.signer.name;
        Ok(Some(format!(
            "{address} had the result, signed by {signer} ({})",
            traffic(&remote.traffic())
        )))
    }

    /// Sends a plan and its trees to the first remote that can be written, if this user has a key and it is not there.
    ///
    /// # Errors
    /// A remote that can't be used, when `strict` is set.
    pub(super) fn send(&self, key: &str, lineage: &str) -> anyhow::Result<Option<String>> {
        let mut remotes = self.context.config.remotes().iter().map(|named| &named.address);
        let Some(address) = remotes.find(|address| !address.is_read_only()) else {
            return Ok(None);
        };
        match self.send_to(address, key, lineage) {
            Ok(sent) => Ok(sent),
            Err(error) => self.refuse(address, &error).map(Some),
        }
    }

    fn send_to(
        &self,
        address: &Address,
        key: &str,
        lineage: &str,
    ) -> anyhow::Result<Option<String>> {
        let Some(mut planned) = Planned::find(self.store, key)? else { return Ok(None) };
        let is_shared = planned.shared.iter().any(|known| *known == address.to_string());
        if is_shared || !planned.pending.is_empty() {
            return Ok(None);
        }
        let Some(own) = keys::private()? else {
            return Ok(Some("not shared: there is no key to sign with".to_owned()));
        };
        let trees: Option<Vec<TreeHash>> = planned.roots.iter().map(|root| root.tree()).collect();
        let trees = trees.context("a plan names no tree")?;
        if let Some(why) = self.secret(&planned, &trees)? {
            self.context.ui.warn(&why);
            return Ok(Some(why));
        }
        let remote = open(address)?;
        let hash = TreeHash::from_hex(key.as_bytes()).context("a plan's key is a hash")?;
        planned.shared.clear();
        let record = planned.record()?;
        let plan = Plan { key: hash, trees: &trees, record: &record, lineage };
        let signing = (&own, &keys::trusted()?);
        let sent = self
            .context
            .ui
            .transfer("sent", |watch| plan::push_plan(&remote, self.store, &plan, signing, watch));
        let how = match sent? {
            Sent::WasThere => format!("{address} has the result already"),
            Sent::Done(_) => format!("shared at {address} ({})", traffic(&remote.traffic())),
        };
        planned.shared.push(address.to_string());
        planned.save(self.store, key)?;
        Ok(Some(how))
    }

    /// Tells why trees stay here. What a package's archive holds its registry has given away; what scripts have made of it may hold secrets
    /// of this machine.
    fn secret(&self, planned: &Planned, trees: &[TreeHash]) -> anyhow::Result<Option<String>> {
        if planned.built == 0 {
            return Ok(None);
        }
        for tree in trees {
            let shareable = remote::without_secrets(self.store, *tree)?;
            if let Some((path, holds)) = shareable.left_out.first() {
                let path = ui::printable(&String::from_utf8_lossy(path));
                return Ok(Some(format!("the result is not shared: `{path}` holds {holds}")));
            }
        }
        Ok(None)
    }
}

fn open(address: &Address) -> remote::Result<Remote> {
    remotes::open(address, !address.is_read_only(), remotes::OF_RUNS)
}

pub(super) fn traffic(traffic: &Traffic) -> String {
    format!(
        "{} requests, {} sent, {} received",
        ui::count(traffic.requests()),
        ui::size(traffic.sent_bytes),
        ui::size(traffic.received_bytes)
    )
}

/// Tells whether all that a plan names lies in the project: who signed it may write there, and nowhere else.
fn stays_in_project(planned: &Planned) -> bool {
    let goes_down = |path: &Path| {
        let mut depth = 0_i32;
        path.components().all(|part| {
            depth += match part {
                Component::Normal(_) => 1,
                Component::CurDir => 0,
                Component::ParentDir => -1,
                Component::RootDir | Component::Prefix(_) => i32::MIN,
            };
            depth >= 0
        })
    };
    let is_folder = |folder: &str| {
        let path = Path::new(folder);
        path.components().all(|part| matches!(part, Component::Normal(_)))
            && path.ends_with("node_modules")
    };
    planned.roots.iter().all(|root| is_folder(&root.folder))
        && planned.linked.iter().all(|path| goes_down(Path::new(path)))
        && planned.linked_bins.iter().all(|path| goes_down(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::npm::planned::PlannedRoot;

    #[test]
    fn a_plan_stays_in_its_project() {
        let plan = |folder: &str, linked: &str, bin: &str| {
            let tree = "0".repeat(64);
            let mut plan = Planned::new(vec![PlannedRoot { folder: folder.to_owned(), tree }], 1);
            plan.linked.push(linked.to_owned());
            plan.linked_bins.push(bin.into());
            stays_in_project(&plan)
        };
        assert!(plan("node_modules", "packages/a", "node_modules/a/../../packages/a/x.js"));
        assert!(plan("packages/a/node_modules", "a", "a"));
        for (folder, linked, bin) in [
            ("../node_modules", "a", "a"),
            ("/node_modules", "a", "a"),
            ("src", "a", "a"),
            ("node_modules", "../a", "a"),
            ("node_modules", "/a", "a"),
            ("node_modules", "a", "a/../../b"),
            ("node_modules", "a", "/etc/x"),
        ] {
            assert!(!plan(folder, linked, bin), "{folder} {linked} {bin}");
        }
    }
}
