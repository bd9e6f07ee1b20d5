//! Results of others: a plan that the store lacks comes from a remote before the command, and a new one goes there after it.
//!
//! A remote only saves time. Whatever is wrong with it is said once, and the run goes on without it.

use std::cell::Cell;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use rift_cas::remote::access::AccessKey;
use rift_cas::remote::address::{Address, Scheme};
use rift_cas::remote::keys::{PrivateKey, PublicKey, TrustedKeys};
use rift_cas::remote::plan::{self, Plan, Sent};
use rift_cas::remote::{self, Extent, Limits, Remote, Traffic, denied};
use rift_cas::tree::OpenTree;
use rift_cas::{Lease, Store};
use rift_tree::TreeHash;

use crate::context::{Context, is_out_of_room};
use crate::plan::shareable::Shareable;
use crate::{keys, remotes, ui};

/// How old a deny-list may be where a result is here already: a purge reaches all runs after this long, and most ask for nothing.
const HEEDED_FOR: Duration = Duration::from_secs(60);
/// A result that is here waits no longer for the deny-list.
const HEED_LIMITS: Limits =
    Limits { answer: Duration::from_secs(2), bytes_per_second: 256 << 10, retries: 0, all: None };
/// What the names of refs begin with that plans leave behind, for the next push of the same project.
pub(crate) const LINEAGE: &str = "npm/";
/// The same, of builds of cargo.
pub(crate) const CARGO_LINEAGE: &str = "cargo/";
/// What the names of refs begin with that mean the actions of a project.
pub(crate) const ACTIONS: &str = "actions/";

/// A tree that came from a remote, and stays in the store while the lease lives.
pub(super) type Came = (TreeHash, Lease);

/// The remotes of a run.
pub(super) struct Shared<'c> {
    pub(super) context: &'c Context,
    store: &'c Store,
    received_bytes: Cell<u64>,
}

impl<'c> Shared<'c> {
    /// Returns the remotes of the settings; `None` when there are none.
    pub(super) fn new(context: &'c Context, store: &'c Store) -> Option<Self> {
        let received_bytes = Cell::new(0);
        let shared = Self { context, store, received_bytes };
        (!context.config.remotes().is_empty()).then_some(shared)
    }

    /// Returns how many bytes came from remotes.
    pub(super) fn received_bytes(&self) -> u64 {
        self.received_bytes.get()
    }

    /// Brings a plan and so much of its trees from the first remote that has it into the store; returns what came of it, for `rift why`.
    ///
    /// # Errors
    /// A remote that can't be used, when `strict` is set.
    pub(super) fn bring<R: Shareable>(
        &self,
        key: &str,
        extent: Extent,
    ) -> anyhow::Result<Vec<String>> {
        let mut reasons = Vec::new();
        for named in self.context.config.remotes() {
            let address = &named.address;
            match self.bring_from::<R>(address, key, extent) {
                Ok(Some(how)) => {
                    reasons.push(how);
                    return Ok(reasons);
                }
                Ok(None) => reasons.push(format!("{address} has no result of this key")),
                // That is not the remote's fault.
                Err(error) if is_out_of_room(&error, self.store) => return Err(error),
                Err(error) => reasons.push(self.refuse(address, &error)?),
            }
        }
        Ok(reasons)
    }

    /// Reads what the remotes deny, where that is not known, and purges it here; returns what came of it, nothing where nothing did.
    ///
    /// # Errors
    /// Settings or keys that can't be read.
    pub(super) fn heed(&self) -> anyhow::Result<Vec<String>> {
        let config = &self.context.config;
        let mut said = Vec::new();
        for named in config.remotes() {
            // A folder that nobody has made denies nothing.
            let address = &named.address;
            if address.scheme() == Scheme::File && !Path::new(address.path()).exists() {
                continue;
            }
            let parts = remotes::parts(address, config)?;
            let is_known = |part: &Address| denied::has_heeded(self.store, part, HEEDED_FOR);
            if parts.iter().all(is_known) {
                continue;
            }
            let remote = remotes::open(&named.address, false, HEED_LIMITS, config);
            let heeded = remote.and_then(|remote| {
                let heeded = remote.heed_now(self.store, &keys::trusted()?);
                said.extend(self.say(&remote));
                Ok(heeded?)
            });
            if let Err(error) = heeded {
                // What is here needs no remote, so that this fails no run.
                let why = format!("what {} denies is not known: {error:#}", named.address);
                self.context.ui.warn(&why);
                said.push(why);
            }
        }
        Ok(said)
    }

    /// Passes on what a remote has to say.
    fn say(&self, remote: &Remote) -> Vec<String> {
        let remarks = remote.remarks();
        remarks.iter().for_each(|remark| self.context.ui.warn(remark));
        remarks
    }

    fn open(&self, address: &Address, limits: Limits) -> anyhow::Result<Remote> {
        let config = &self.context.config;
        let makes_folder = !address.is_read_only() && remotes::refusal(config).is_none();
        remotes::open(address, makes_folder, limits, config)
    }

    fn say_out_of_time(&self, address: &Address) -> String {
        let seconds = self.context.config.share_limit().map_or(0, |limit| limit.as_secs());
        let why = format!(
            "the result is not all at {address} after {seconds} s (`share_seconds`): the next run \
             goes on"
        );
        self.context.ui.warn(&why);
        why
    }

    /// Notes what came of a tree while the command ran; returns it, and what kept more from coming, for `rift why`.
    ///
    /// # Errors
    /// A remote that can't be used, when `strict` is set.
    pub(super) fn brought(&self, tree: &OpenTree) -> anyhow::Result<Vec<String>> {
        let Some(partial) = tree.partial() else { return Ok(Vec::new()) };
        let came = partial.serve().traffic();
        self.received_bytes.set(self.received_bytes.get() + came.unpacked_bytes);
        let mut remarks =
            vec![format!("meanwhile {} came ({})", ui::size(came.unpacked_bytes), traffic(&came))];
        if let Some(trouble) = partial.trouble() {
            let why = format!("not all that others have made has come: {trouble}");
            self.context.fall_back(&why)?;
            remarks.push(why);
        }
        Ok(remarks)
    }

    /// Returns the key that signs what goes to remotes, or why nothing does.
    fn signing(&self) -> anyhow::Result<Result<PrivateKey, String>> {
        let Some(own) = keys::private()? else {
            return Ok(Err("not shared: there is no key to sign with".to_owned()));
        };
        let refusal = remotes::refusal(&self.context.config);
        Ok(refusal.map_or(Ok(own), |why| Err(format!("not shared: {why}"))))
    }

    /// Tells why nothing goes to a remote, where there is one that can be written; `None` where something may.
    ///
    /// # Errors
    /// Keys that can't be read.
    pub(super) fn refusal(&self) -> anyhow::Result<Option<String>> {
        Ok(self.signing()?.err())
    }

    fn refuse(&self, address: &Address, error: &anyhow::Error) -> anyhow::Result<String> {
        let why = format!("the remote {address} is not used: {error:#}");
        self.context.fall_back(&why)?;
        Ok(why)
    }

    fn bring_from<R: Shareable>(
        &self,
        address: &Address,
        key: &str,
        extent: Extent,
    ) -> anyhow::Result<Option<String>> {
        let remote = self.open(address, remotes::OF_RUNS)?;
        let trusted = keys::trusted()?;
        let hash = TreeHash::from_hex(key.as_bytes()).context("a plan's key is a hash")?;
        let accepts: &dyn Fn(&[u8]) -> bool = &|record| R::of_others(record).is_some();
        let pulled = self.context.ui.transfer("received", |watch| {
            plan::pull_plan(&remote, self.store, hash, extent, (&trusted, accepts), watch)
        });
        self.say(&remote);
        self.received_bytes.set(self.received_bytes.get() + remote.traffic().unpacked_bytes);
        let Some(pulled) = pulled? else { return Ok(None) };
        let mut result =
            R::of_others(&pulled.record).context("it has a plan that means nothing here")?;
        result.shared().push(format!("{} {}", pulled.from, pulled.signer.key));
        result.save(self.store, key)?;
        let (from, signer) = (pulled.from, pulled.signer.name);
        let traffic = traffic(&remote.traffic());
        Ok(Some(format!("{from} had the result, signed by {signer} ({traffic})")))
    }

    /// Brings the tree that a ref means, or so much of it, from the first remote that has it into the store, whose next step is to name it; also
    /// returns what came of it, for `rift why`.
    ///
    /// # Errors
    /// A remote that can't be used, when `strict` is set.
    pub(super) fn bring_ref(
        &self,
        name: &str,
        extent: Extent,
    ) -> anyhow::Result<(Option<Came>, Vec<String>)> {
        let mut reasons = Vec::new();
        for named in self.context.config.remotes() {
            let address = &named.address;
            match self.bring_ref_from(address, name, extent) {
                Ok(Some((tree, lease, how))) => {
                    reasons.push(how);
                    return Ok((Some((tree, lease)), reasons));
                }
                Ok(None) => reasons.push(format!("{address} has no programs of such builds")),
                Err(error) if is_out_of_room(&error, self.store) => return Err(error),
                Err(error) => reasons.push(self.refuse(address, &error)?),
            }
        }
        Ok((None, reasons))
    }

    fn bring_ref_from(
        &self,
        address: &Address,
        name: &str,
        extent: Extent,
    ) -> anyhow::Result<Option<(TreeHash, Lease, String)>> {
        let remote = self.open(address, remotes::OF_RUNS)?;
        let trusted = keys::trusted()?;
        let pulled = self.context.ui.transfer("received", |watch| {
            remote::bring(&remote, self.store, (name, extent), &trusted, watch)
        });
        self.say(&remote);
        self.received_bytes.set(self.received_bytes.get() + remote.traffic().unpacked_bytes);
        let pulled = match pulled {
            Err(remote::Error::NoRef { .. }) => return Ok(None),
            other => other?,
        };
        let lease = self.store.lease(pulled.tree)?;
        let (from, signer) = (&pulled.from, &pulled.signer.name);
        let traffic = traffic(&remote.traffic());
        let how = format!("{from} had programs of such builds, signed by {signer} ({traffic})");
        Ok(Some((pulled.tree, lease, how)))
    }

    /// Sends a tree to the first remote that can be written, if this user has a key, and makes a ref there mean it.
    ///
    /// # Errors
    /// A remote that can't be used, when `strict` is set.
    pub(super) fn send_ref(&self, name: &str, tree: TreeHash) -> anyhow::Result<Option<String>> {
        let Some(address) = remotes::written(&self.context.config) else { return Ok(None) };
        match self.send_ref_to(address, name, tree) {
            Ok(sent) => Ok(sent),
            Err(error) if is_out_of_time(&error) => Ok(Some(self.say_out_of_time(address))),
            Err(error) => self.refuse(address, &error).map(Some),
        }
    }

    fn send_ref_to(
        &self,
        address: &Address,
        name: &str,
        tree: TreeHash,
    ) -> anyhow::Result<Option<String>> {
        let own = match self.signing()? {
            Ok(own) => own,
            Err(why) => return Ok(Some(why)),
        };
        if let Some(why) = self.secret(&[tree])? {
            self.context.ui.warn(&why);
            return Ok(Some(why));
        }
        let limits = Limits { all: self.context.config.share_limit(), ..remotes::OF_RUNS };
        let remote = self.open(address, limits)?;
        let trusted = keys::trusted()?;
        let sent = self.context.ui.transfer("sent", |watch| {
            remote::push(&remote, self.store, name, tree, (&own, &trusted), watch)
        });
        self.say(&remote);
        match sent {
            Ok(_) => {
                let (address, traffic) = (remote.address(), traffic(&remote.traffic()));
                Ok(Some(format!("programs shared at {address} ({traffic})")))
            }
            // Its next run has these as well.
            Err(remote::Error::Changed { .. }) => {
                Ok(Some("programs not shared: another run was faster".to_owned()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a plan and its trees to the first remote that can be written, if this user has a key and it is not there.
    ///
    /// # Errors
    /// A remote that can't be used, when `strict` is set.
    pub(super) fn send<R: Shareable>(
        &self,
        key: &str,
        lineage: &str,
    ) -> anyhow::Result<Option<String>> {
        let Some(address) = remotes::written(&self.context.config) else { return Ok(None) };
        match self.send_to::<R>(address, key, lineage) {
            Ok(sent) => Ok(sent),
            Err(error) if is_out_of_time(&error) => Ok(Some(self.say_out_of_time(address))),
            Err(error) => self.refuse(address, &error).map(Some),
        }
    }

    fn send_to<R: Shareable>(
        &self,
        address: &Address,
        key: &str,
        lineage: &str,
    ) -> anyhow::Result<Option<String>> {
        let Some(mut result) = R::find(self.store, key)? else { return Ok(None) };
        let parts = remotes::parts(address, &self.context.config)?;
        let trusted = keys::trusted()?;
        let is_there = |known: &String| {
            // One that nobody believes any more is as good as none.
            let part = known.rsplit_once(' ').filter(|(_, signer)| is_trusted(signer, &trusted));
            let is_it = |part: &Address, known: &str| {
                part.to_string() == known && !plan::is_gone(part, key)
            };
            part.is_some_and(|(known, _)| parts.iter().any(|part| is_it(part, known)))
        };
        if result.shared().iter().any(is_there) || !result.is_whole() {
            return Ok(None);
        }
        let own = match self.signing()? {
            Ok(own) => own,
            Err(why) => return Ok(Some(why)),
        };
        let trees = result.trees().context("a plan names no tree")?;
        if result.may_hold_secrets()
            && let Some(why) = self.secret(&trees)?
        {
            self.context.ui.warn(&why);
            return Ok(Some(why));
        }
        let limits = Limits { all: self.context.config.share_limit(), ..remotes::OF_RUNS };
        let remote = self.open(address, limits)?;
        let hash = TreeHash::from_hex(key.as_bytes()).context("a plan's key is a hash")?;
        result.shared().clear();
        let record = result.record()?;
        let plan = Plan { key: hash, trees: &trees, record: &record, lineage };
        let signing = (&own, &trusted);
        let sent = self
            .context
            .ui
            .transfer("sent", |watch| plan::push_plan(&remote, self.store, &plan, signing, watch));
        self.say(&remote);
        let address = remote.address();
        let (how, key_of) = match sent? {
            Sent::WasThere(key) => (format!("{address} has the result already"), key),
            Sent::Done(_) => {
                (format!("shared at {address} ({})", traffic(&remote.traffic())), own.public().key)
            }
        };
        result.shared().push(format!("{address} {key_of}"));
        result.save(self.store, key)?;
        Ok(Some(how))
    }

    /// Tells the remote that results go to which blobs a command needed of some trees, where it does not know.
    ///
    /// # Errors
    /// What the remote says.
    pub(super) fn tell(&self, lists: &[(AccessKey, Vec<u32>)]) -> anyhow::Result<()> {
        let address = remotes::written(&self.context.config).filter(|_| !lists.is_empty());
        let Some(address) = address else { return Ok(()) };
        let remote = self.open(address, remotes::OF_RUNS)?;
        for (key, blobs) in lists {
            remote.add_access(*key, blobs)?;
        }
        Ok(())
    }

    /// Tells why trees stay here that may hold secrets of this machine.
    fn secret(&self, trees: &[TreeHash]) -> anyhow::Result<Option<String>> {
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

fn is_trusted(key: &str, trusted: &TrustedKeys) -> bool {
    PublicKey::from_hex(key).is_ok_and(|key| trusted.get(&key).is_some())
}

fn is_out_of_time(error: &anyhow::Error) -> bool {
    let is_it = |error: &remote::Error| matches!(error, remote::Error::OutOfTime { .. });
    error.chain().any(|cause| cause.downcast_ref().is_some_and(is_it))
}

pub(super) fn traffic(traffic: &Traffic) -> String {
    format!(
        "{} requests, {} sent, {} received",
        ui::count(traffic.requests()),
        ui::size(traffic.sent_bytes),
        ui::size(traffic.received_bytes)
    )
}
