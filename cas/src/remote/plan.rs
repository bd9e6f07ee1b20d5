//! Signed plans: what a command line with known inputs makes, found by its key in one request.
//!
//! ```text
//! rift plan 1
//! plan KEY                          the plan's key, 64 digits
//! tree HEX BYTES HEX BYTES          a tree and the length of its manifest, its sidecar and the length of that; a line per tree,
//!                                   which goes on with HEX BYTES of the base where the sidecar ends with a patch
//! time SECONDS                      when it was signed, since the epoch
//! record HEX BYTES                  BLAKE3 and length of the record, which follows the signature
//! key HEX                           the public key
//! sign HEX                          its signature of every byte before this line
//! RECORD
//! ```
//!
//! As in a signed ref there is one text per plan. A trusted key's plan is made where there is none, and never replaced by another one; what somebody
//! else has put there is.

use std::path::Path;

use rift_tree::{FormatError, TreeHash};

use super::address::{Address, Scheme};
use super::error::{Error, Result};
use super::keys::{NamedKey, PrivateKey, PublicKey, TrustedKeys};
use super::pull::{Extent, fetch_tree};
use super::push::{Pushed, before_above, believed, now_secs, send_tree};
use super::reference::{Base, Lines, Located, SignedRef, Statement, number, sign_line, signature};
use super::{Remote, Watch};
use crate::store::Store;

/// No signed plan is longer.
pub(crate) const BYTES_MAX: u64 = 256 << 10;
/// How many trees a plan has at most.
const TREES_MAX: usize = 1024;
const FIRST: &str = "rift plan 1\n";

/// What a signed plan says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanStatement {
    /// The key.
    pub plan: TreeHash,
    /// The trees.
    pub trees: Vec<Located>,
    /// When it was signed, in seconds since the epoch.
    pub time_secs: u64,
    /// The record, as the store has it.
    pub record: Vec<u8>,
}

/// A signed plan that is well formed; nothing is known of its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedPlan {
    /// What it says.
    pub statement: PlanStatement,
    /// The key that it names.
    pub key: PublicKey,
    signature: [u8; 64],
}

impl SignedPlan {
    /// Signs a statement.
    #[must_use]
    pub fn sign(statement: PlanStatement, key: &PrivateKey) -> Self {
        let public = key.public().key;
        let signature = key.sign(message(&statement, &public).as_bytes());
        Self { statement, key: public, signature }
    }

    /// Returns the bytes of the object.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = message(&self.statement, &self.key).into_bytes();
        bytes.extend_from_slice(sign_line(&self.signature).as_bytes());
        bytes.extend_from_slice(&self.statement.record);
        bytes
    }

    /// Reads the bytes of an object.
    ///
    /// # Errors
    /// The first line that is not as it has to be.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        // The record need not be text.
        let end = bytes.windows(6).position(|at| at == b"\nsign ").ok_or(FormatError::Magic)?;
        let end = end + "\nsign ".len() + 128 + 1;
        let (text, record) = bytes.split_at_checked(end).ok_or(FormatError::Magic)?;
        let text = std::str::from_utf8(text).map_err(|_| FormatError::Magic)?;
        let rest = text.strip_prefix(FIRST).ok_or(FormatError::Magic)?;
        let mut lines = Lines::new(rest);
        let hash = |hex: &str| TreeHash::from_hex(hex.as_bytes()).ok();
        let plan = lines.value("plan ", hash)?;
        let mut trees = Vec::new();
        while lines.rest.starts_with("tree ") && trees.len() < TREES_MAX {
            trees.push(lines.value("tree ", located)?);
        }
        let time_secs = lines.value("time ", number)?;
        let (sum, length) = lines.value("record ", |value| {
            let (hex, bytes) = value.split_once(' ')?;
            Some((hash(hex)?, number(bytes)?))
        })?;
        let key = lines.value("key ", |hex| PublicKey::from_hex(hex).ok())?;
        let signature = lines.value("sign ", signature)?;
        let is_record =
            record.len() as u64 == length && *blake3::hash(record).as_bytes() == *sum.as_bytes();
        if trees.is_empty() || !lines.rest.is_empty() || !is_record {
            return Err(FormatError::Checksum { part: "record" });
        }
        let statement = PlanStatement { plan, trees, time_secs, record: record.to_vec() };
        Ok(Self { statement, key, signature })
    }

    /// Tells whether the key that it names has signed what it says.
    #[must_use]
    pub fn is_signed(&self) -> bool {
        let message = message(&self.statement, &self.key);
        self.key.has_signed(message.as_bytes(), &self.signature)
    }
}

fn located(value: &str) -> Option<Located> {
    let hash = |hex: &str| TreeHash::from_hex(hex.as_bytes()).ok();
    let mut words = value.split(' ');
    let tree = hash(words.next()?)?;
    let manifest_bytes = number(words.next()?)?;
    let places = *hash(words.next()?)?.as_bytes();
    let places_bytes = number(words.next()?)?;
    let base = match words.next() {
        Some(hex) => Some(Base { tree: hash(hex)?, manifest_bytes: number(words.next()?)? }),
        None => None,
    };
    let at = Located { tree, manifest_bytes, places, places_bytes, base };
    words.next().is_none().then_some(at)
}

/// Returns what is signed. Its first line keeps signatures apart from those of any other kind of record.
fn message(statement: &PlanStatement, key: &PublicKey) -> String {
    let PlanStatement { plan, trees, time_secs, record } = statement;
    let mut text = format!("{FIRST}plan {plan}\n");
    for Located { tree, manifest_bytes, places, places_bytes, base } in trees {
        let places = TreeHash::from_bytes(*places);
        text.push_str(&format!("tree {tree} {manifest_bytes} {places} {places_bytes}"));
        if let Some(Base { tree, manifest_bytes }) = base {
            text.push_str(&format!(" {tree} {manifest_bytes}"));
        }
        text.push('\n');
    }
    let sum = TreeHash::from_bytes(*blake3::hash(record).as_bytes());
    text.push_str(&format!("time {time_secs}\nrecord {sum} {}\nkey {key}\n", record.len()));
    text
}

pub(super) fn object(plan: TreeHash) -> String {
    format!("plans/{plan}")
}

/// A plan that came from a remote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PulledPlan {
    /// Who signed it.
    pub signer: NamedKey,
    /// The part of the remote that had it.
    pub from: String,
    /// The record, which the store has not been given yet.
    pub record: Vec<u8>,
    /// Blobs that the store lacked.
    pub blobs: usize,
}

/// A plan, its trees and the record that the store has of it.
#[derive(Debug, Clone)]
pub struct Plan<'p> {
    /// The key.
    pub key: TreeHash,
    /// The trees of the record.
    pub trees: &'p [TreeHash],
    /// The record.
    pub record: &'p [u8],
    /// The ref of the remote that says where an earlier result of the same project is, and then this one.
    pub lineage: &'p str,
}

/// What became of a plan that was to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// The remote has one already, of this trusted key.
    WasThere(PublicKey),
    /// It is there, and this was sent with it.
    Done(Pushed),
}

impl Remote {
    /// Reads the plan of a key, with what tells whether it was replaced.
    pub(super) fn plan(
        &self,
        plan: TreeHash,
    ) -> Result<Option<(Result<SignedPlan>, super::Small)>> {
        let object = object(plan);
        let Some(found) = self.small(&object, BYTES_MAX)? else { return Ok(None) };
        let wrong = |reason: String| Error::Wrong { object: object.clone(), reason };
        let read = SignedPlan::decode(&found.bytes).map_err(|error| wrong(error.to_string()));
        let read = read.and_then(|signed| match signed.statement.plan == plan {
            true => Ok(signed),
            false => Err(wrong("it is the plan of another key".to_owned())),
        });
        Ok(Some((read, found)))
    }
}

/// Tells who has signed a plan, if that is somebody who is trusted.
pub(super) fn signer(signed: &SignedPlan, trusted: &TrustedKeys) -> Result<NamedKey> {
    let (name, key) = (signed.statement.plan.to_string(), signed.key);
    let Some(signer) = trusted.get(&key) else { return Err(Error::Untrusted { name, key }) };
    match signed.is_signed() {
        true => Ok(signer.clone()),
        false => Err(Error::Signature { name, key }),
    }
}

/// Tells whether a remote is a folder that has no plan of this key: what was sent there may be gone, because a folder can be pruned, or another
/// one may be in its place.
#[must_use]
pub fn is_gone(address: &Address, key: &str) -> bool {
    address.scheme() == Scheme::File && !Path::new(address.path()).join("plans").join(key).exists()
}

/// Tells whether the record of a plan means something here.
pub type Accepts<'a> = &'a dyn Fn(&[u8]) -> bool;

/// Brings so much of the trees of a key's plan into the store, whose next step is to keep the record; `None` when the remote has none. A record that
/// `accepts` refuses brings nothing.
///
/// # Errors
/// [`Error::Untrusted`] and [`Error::Signature`] for one that is not to be believed; [`Error::Wrong`] for other bytes than
/// its hashes name; [`Error::Rollback`]; and whatever remote and store say.
pub fn pull_plan(
    remote: &Remote,
    store: &Store,
    key: TreeHash,
    extent: Extent,
    (trusted, accepts): (&TrustedKeys, Accepts<'_>),
    watch: Watch<'_>,
) -> Result<Option<PulledPlan>> {
    let answers = remote.ask(store, trusted, |remote, trusted| {
        let Some((read, _)) = remote.plan(key)? else { return Ok(None) };
        let signed = read?;
        let signer = signer(&signed, trusted)?;
        Ok(Some((signed, signer)))
    })?;
    let Some(((signed, signer), remote)) = remote.first(answers)? else { return Ok(None) };
    let PlanStatement { trees, record, .. } = signed.statement;
    let wrong = |reason: &str| Error::Wrong { object: object(key), reason: reason.to_owned() };
    let named = crate::roots::trees_of_plan(&record);
    if !named.iter().all(|tree| trees.iter().any(|at| at.tree == *tree)) {
        return Err(wrong("its record names trees that it does not locate"));
    }
    if !accepts(&record) {
        return Err(wrong("it means nothing here"));
    }
    let mut blobs = 0;
    for at in &trees {
        blobs += fetch_tree(remote, store, at, extent, watch)?.unwrap_or(0);
    }
    let from = remote.address().to_string();
    Ok(Some(PulledPlan { signer, from, record, blobs }))
}

/// Sends a plan with its trees, where the remote does not have one of a trusted key.
///
/// # Errors
/// [`Error::ReadOnly`], and whatever remote and store say.
pub fn push_plan(
    remote: &Remote,
    store: &Store,
    plan: &Plan<'_>,
    (key, trusted): (&PrivateKey, &TrustedKeys),
    watch: Watch<'_>,
) -> Result<Sent> {
    remote.writable()?;
    let (own, above) = remote.ask(store, trusted, |remote, _| remote.plan(plan.key))?;
    if let (Some((Ok(signed), _)), Some(trusted)) = (above?, remote.trusted_above())
        && signer(&signed, trusted).is_ok()
    {
        return Ok(Sent::WasThere(signed.key));
    }
    let seen = match own? {
        Some((Ok(signed), _)) if signer(&signed, trusted).is_ok() => {
            return Ok(Sent::WasThere(signed.key));
        }
        // Of no use to anybody: it is replaced.
        Some((_, seen)) => Some(seen),
        None => None,
    };
    let (before, lineage) = match believed(remote.trusted_ref(plan.lineage, trusted))? {
        Some((signed, _, seen)) => (Some(signed.statement.at), Some(seen)),
        None => (before_above(remote, plan.lineage)?, None),
    };
    let mut sent = Pushed { was_there: true, blobs: 0, objects: 0 };
    let mut trees = Vec::new();
    for tree in plan.trees {
        let known = before.as_ref().or(trees.last());
        let (at, pushed) = send_tree(remote, store, *tree, known, watch)?;
        trees.push(at);
        sent.was_there &= pushed.was_there;
        sent.blobs += pushed.blobs;
        sent.objects += pushed.objects;
    }
    let (time_secs, record) = (now_secs(), plan.record.to_vec());
    let main = trees.first().copied();
    let statement = PlanStatement { plan: plan.key, trees, time_secs, record };
    let bytes = SignedPlan::sign(statement, key).encode();
    if bytes.len() as u64 > BYTES_MAX {
        let reason = format!("the plan is longer than {BYTES_MAX} bytes");
        return Err(Error::Setup { action: "sign the plan", reason });
    }
    // Who was faster has made the same.
    let _is_ours = remote.set_object(&object(plan.key), bytes, seen)?;
    if let Some(at) = main.filter(|at| before != Some(*at)) {
        let statement = Statement { name: plan.lineage.to_owned(), at, time_secs };
        match remote.set_signed_ref(&SignedRef::sign(statement, key), lineage) {
            Ok(()) | Err(Error::Changed { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Sent::Done(sent))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed() -> SignedPlan {
        let at = |byte| Located {
            tree: TreeHash::from_bytes([byte; 32]),
            manifest_bytes: 4096,
            places: [byte + 1; 32],
            places_bytes: 128,
            base: (byte > 1)
                .then_some(Base { tree: TreeHash::from_bytes([7; 32]), manifest_bytes: 4095 }),
        };
        let statement = PlanStatement {
            plan: TreeHash::from_bytes([9; 32]),
            trees: vec![at(1), at(5)],
            time_secs: 1_700_000_000,
            record: b"{\"sign\": \"\nsign \"}\xff".to_vec(),
        };
        SignedPlan::sign(statement, &PrivateKey::new("a", &[1; 32]).unwrap())
    }

    #[test]
    fn a_plan_is_read_as_it_was_written() {
        let signed = signed();
        assert_eq!(SignedPlan::decode(&signed.encode()), Ok(signed.clone()));
        assert!(signed.is_signed());
    }

    #[test]
    fn every_changed_byte_of_a_plan_is_found() {
        let bytes = signed().encode();
        for at in 0..bytes.len() {
            for flip in [1, 0x20, 0x80] {
                let mut changed = bytes.clone();
                changed[at] ^= flip;
                let read = SignedPlan::decode(&changed);
                assert!(!read.is_ok_and(|read| read.is_signed()), "byte {at}");
            }
            assert!(SignedPlan::decode(&bytes[..at]).is_err(), "length {at}");
        }
        assert!(SignedPlan::decode(&[&bytes[..], b"\n"].concat()).is_err());
    }
}
