//! The deny-list of a remote: what was purged, for all who use the remote.
//!
//! ```text
//! rift denied 1
//! serial N               one more than that of the list before
//! time SECONDS           when it was signed, since the epoch
//! blob HEX               what is denied, a line each, in the order blob, package, tree, and of the digits
//! package HEX            the key of a package's records
//! tree HEX               a tree whose blobs nobody knows any more
//! tree HEX SET COUNT     a tree, and BLAKE3 and number of the hashes of its blobs, which are `denied/SET`
//! key HEX                the public key
//! sign HEX               its signature of every byte before this line
//! ```
//!
//! As in a signed ref there is one text per list. Entries are added and never taken away. A store remembers the last list that a
//! trusted key has signed: one that is older, or lacks entries of that, is refused, whoever has signed it. What a list denies goes into the store's own
//! memory of what was purged, so it is refused from wherever it comes.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use rift_tree::{BlobHash, FormatError, TreeHash};

use super::address::Address;
use super::error::{Error, Result};
use super::keys::{PrivateKey, PublicKey, TrustedKeys};
use super::push::now_secs;
use super::reference::{Lines, number, sign_line, signature};
use super::{Remote, Small};
use crate::log::Topic;
use crate::purge::{self, BLOBS_MAX, Banned, Purged, blobs_of_set};
use crate::record::Kind;
use crate::store::Store;

/// No deny-list is longer, which is room for some 1,200 packages.
pub(crate) const BYTES_MAX: u64 = super::plan::BYTES_MAX;
const FIRST: &str = "rift denied 1\n";
const OBJECT: &str = "denied/list";
/// How often a list is written that others change at the same time.
const ATTEMPTS: usize = 8;

/// What an entry denies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Blob,
    Package,
    Tree,
}

const WHATS: [(&str, What); 3] =
    [("blob", What::Blob), ("package", What::Package), ("tree", What::Tree)];

/// The hashes of a tree's blobs, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Set {
    /// Their BLAKE3, which names the object.
    hash: BlobHash,
    count: u64,
}

/// An entry of a deny-list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    what: What,
    name: BlobHash,
    set: Option<Set>,
}

impl Entry {
    /// Returns the entry of a name, with the hashes of a tree's blobs.
    fn of(banned: &Banned) -> (Self, Vec<u8>) {
        let what = match banned {
            Banned::Blob(_) => What::Blob,
            Banned::Package(_) => What::Package,
            Banned::Tree { .. } => What::Tree,
        };
        let bytes = banned.set();
        let set = (!bytes.is_empty()).then(|| Set {
            hash: BlobHash::from_bytes(*blake3::hash(&bytes).as_bytes()),
            count: bytes.len() as u64 / 32,
        });
        (Self { what, name: BlobHash::from_bytes(banned.name()), set }, bytes)
    }

    fn banned(&self, set: &[u8]) -> Banned {
        let name = *self.name.as_bytes();
        match self.what {
            What::Blob => Banned::Blob(self.name),
            What::Package => Banned::Package(name),
            What::Tree => {
                Banned::Tree { tree: TreeHash::from_bytes(name), blobs: blobs_of_set(set) }
            }
        }
    }

    fn line(&self) -> String {
        let word = WHATS.iter().find(|(_, what)| *what == self.what).map_or("", |(word, _)| word);
        match self.set {
            None => format!("{word} {}\n", self.name),
            Some(Set { hash, count }) => format!("{word} {} {hash} {count}\n", self.name),
        }
    }

    fn read(line: &str) -> Option<Self> {
        let hash = |hex: &str| BlobHash::from_hex(hex.as_bytes()).ok();
        let mut words = line.split(' ');
        let word = words.next()?;
        let (_, what) = *WHATS.iter().find(|(known, _)| *known == word)?;
        let name = hash(words.next()?)?;
        let set = match words.next() {
            None => None,
            Some(hex) => Some(Set { hash: hash(hex)?, count: number(words.next()?)? }),
        };
        let is_right =
            set.is_none_or(|set| what == What::Tree && (1..=BLOBS_MAX as u64).contains(&set.count));
        (is_right && words.next().is_none()).then_some(Self { what, name, set })
    }
}

/// What a deny-list says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DenyList {
    /// Is higher in each later list.
    pub serial: u64,
    /// When it was signed, in seconds since the epoch.
    pub time_secs: u64,
    /// What is denied.
    pub entries: BTreeSet<Entry>,
}

/// A signed deny-list that is well formed; nothing is known of its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedDenyList {
    /// What it says.
    pub list: DenyList,
    /// The key that it names.
    pub key: PublicKey,
    signature: [u8; 64],
}

impl SignedDenyList {
    /// Signs a list.
    #[must_use]
    pub fn sign(list: DenyList, key: &PrivateKey) -> Self {
        let public = key.public().key;
        let signature = key.sign(message(&list, &public).as_bytes());
        Self { list, key: public, signature }
    }

    /// Returns the bytes of the object.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut text = message(&self.list, &self.key);
        text.push_str(&sign_line(&self.signature));
        text.into_bytes()
    }

    /// Reads the bytes of an object.
    ///
    /// # Errors
    /// The first line that is not as it has to be.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let text = std::str::from_utf8(bytes).map_err(|_| FormatError::Magic)?;
        let mut lines = Lines::new(text.strip_prefix(FIRST).ok_or(FormatError::Magic)?);
        let serial = lines.value("serial ", number)?;
        let time_secs = lines.value("time ", number)?;
        let mut entries = BTreeSet::new();
        while !lines.rest.starts_with("key ") {
            let entry = lines.value("", Entry::read)?;
            if entries.last().is_some_and(|last| *last >= entry) {
                let index = u32::try_from(entries.len()).unwrap_or(u32::MAX);
                return Err(FormatError::Rule { rule: "entries are in order", index });
            }
            entries.insert(entry);
        }
        let key = lines.value("key ", |hex| PublicKey::from_hex(hex).ok())?;
        let signature = lines.value("sign ", signature)?;
        if !lines.rest.is_empty() {
            return Err(FormatError::Rule { rule: "a signature ends a deny-list", index: 0 });
        }
        Ok(Self { list: DenyList { serial, time_secs, entries }, key, signature })
    }

    /// Tells whether the key that it names has signed what it says.
    #[must_use]
    pub fn is_signed(&self) -> bool {
        let message = message(&self.list, &self.key);
        self.key.has_signed(message.as_bytes(), &self.signature)
    }
}

/// Returns what is signed. Its first line keeps signatures apart from those of any other kind of record.
fn message(list: &DenyList, key: &PublicKey) -> String {
    let DenyList { serial, time_secs, entries } = list;
    let mut text = format!("{FIRST}serial {serial}\ntime {time_secs}\n");
    entries.iter().for_each(|entry| text.push_str(&entry.line()));
    text.push_str(&format!("key {key}\n"));
    text
}

/// What a store remembers of the deny-list of one remote.
#[derive(Debug, Default)]
struct Memory {
    /// The last list that a trusted key had signed.
    list: Option<DenyList>,
    /// Whether the store has none of what it denies any more.
    is_done: bool,
}

const DONE: &[u8] = b"done 1\n";
const NOT_DONE: &[u8] = b"done 0\n";

/// Returns the name of the record that a store has of a remote.
fn record_name(address: &Address) -> String {
    blake3::hash(address.to_string().as_bytes()).to_hex().to_string()
}

impl Memory {
    fn of(remote: &Remote, store: &Store) -> Result<Option<Self>> {
        let payload = match store.record(Kind::Remote, &record_name(remote.address())) {
            // As good as never seen: what it denied is remembered elsewhere.
            Err(crate::Error::Damaged { .. }) => None,
            other => other?,
        };
        let Some(payload) = payload else { return Ok(None) };
        let is_done = payload.starts_with(DONE);
        let list = payload.get(DONE.len()..).unwrap_or_default();
        let list = SignedDenyList::decode(list).ok().map(|signed| signed.list);
        Ok(Some(Self { list, is_done }))
    }

    fn save(remote: &Remote, store: &Store, list: &[u8], is_done: bool) -> Result<()> {
        let payload = [if is_done { DONE } else { NOT_DONE }, list].concat();
        Ok(store.set_record(Kind::Remote, &record_name(remote.address()), &payload)?)
    }

    /// Returns the entries that are purged here already.
    fn done(&self) -> Option<&BTreeSet<Entry>> {
        self.list.as_ref().filter(|_| self.is_done).map(|list| &list.entries)
    }
}

fn wrong(reason: String) -> Error {
    Error::Wrong { object: OBJECT.to_owned(), reason }
}

fn decoded(found: &Small) -> Result<SignedDenyList> {
    SignedDenyList::decode(&found.bytes).map_err(|error| wrong(error.to_string()))
}

/// Refuses a deny-list that is older than one that was seen, or lacks entries of it, whoever has signed it.
fn check_against(seen: &DenyList, found: Option<&SignedDenyList>) -> Result<()> {
    let found = found.map(|signed| &signed.list);
    let is_later =
        |list: &DenyList| list.serial >= seen.serial && seen.entries.is_subset(&list.entries);
    if found.is_some_and(is_later) {
        return Ok(());
    }
    let text = |list: &DenyList| format!("deny-list number {}", list.serial);
    let found = found.map_or_else(|| "no deny-list".to_owned(), text);
    Err(Error::Rollback { found, seen: seen.serial, entries: seen.entries.len() })
}

impl Remote {
    /// Reads the deny-list; nothing is known of its signature.
    pub(super) fn deny_list(&self) -> Result<Option<Small>> {
        self.small(OBJECT, BYTES_MAX)
    }

    /// Reads the hashes of a denied tree's blobs.
    fn set(&self, set: &Set) -> Result<Vec<u8>> {
        let object = format!("denied/{}", set.hash);
        self.whole(&object, set.count * 32, |bytes| {
            let is_right = *blake3::hash(bytes).as_bytes() == *set.hash.as_bytes();
            let wrong = || "its bytes do not have the hash that names it".to_owned();
            is_right.then_some(()).ok_or_else(wrong)
        })
    }

    /// Tells whether a trusted key has signed a deny-list; one of somebody else is remarked once.
    fn believes(&self, signed: &SignedDenyList, trusted: &TrustedKeys) -> Result<bool> {
        if !signed.is_signed() {
            return Err(wrong(format!("it was changed after the key {} signed it", signed.key)));
        }
        let is_believed = trusted.get(&signed.key).is_some();
        if !is_believed {
            self.remark(format!(
                "the deny-list of {} is signed by the key {}, which is not trusted here, and means nothing",
                self.address(),
                signed.key
            ));
        }
        Ok(is_believed)
    }

    /// Takes over what a deny-list says, and purges what the store has of it.
    ///
    /// # Errors
    /// [`Error::Rollback`] for a list that is older, or lacks entries of what this store has seen; [`Error::Wrong`]; and whatever
    /// remote and store say.
    pub(super) fn heed(
        &self,
        store: &Store,
        found: Option<&Small>,
        trusted: &TrustedKeys,
    ) -> Result<()> {
        let memory = Memory::of(self, store)?;
        let signed = found.map(decoded).transpose()?;
        let is_believed = match &signed {
            Some(signed) => self.believes(signed, trusted)?,
            None => false,
        };
        let seen = memory.as_ref().and_then(|memory| memory.list.as_ref());
        if let Some(seen) = seen {
            check_against(seen, signed.as_ref())?;
        }
        let Some(signed) = signed.filter(|_| is_believed) else {
            return match memory {
                Some(_) => Ok(store.touch(Kind::Remote, &record_name(self.address()))?),
                None => Memory::save(self, store, b"", true),
            };
        };
        let list = &signed.list;
        let done = memory.as_ref().and_then(Memory::done);
        let is_new = |entry: &&Entry| done.is_none_or(|done| !done.contains(entry));
        let new: Vec<&Entry> = list.entries.iter().filter(is_new).collect();
        if new.is_empty() && seen == Some(list) {
            return Ok(store.touch(Kind::Remote, &record_name(self.address()))?);
        }
        let is_done = new.is_empty() || self.purge(store, &new)?;
        Memory::save(self, store, &signed.encode(), is_done)
    }

    /// Purges what the store has of new entries; tells whether all of it is gone.
    fn purge(&self, store: &Store, new: &[&Entry]) -> Result<bool> {
        let mut missing = None;
        let mut banned = Vec::new();
        for entry in new {
            let set = match &entry.set {
                None => Ok(Vec::new()),
                Some(set) => self.set(set),
            };
            // What is known of it is denied all the same.
            banned.push(entry.banned(set.as_deref().unwrap_or_default()));
            missing = missing.or(set.err());
        }
        let Purged { trees, records, blobs, in_use, .. } = purge::purge_banned(store, banned)?;
        if trees + records + blobs + in_use > 0 {
            let still = match in_use {
                0 => String::new(),
                count => format!("; runs that are under way keep {count} trees until they end"),
            };
            self.remark(format!(
                "{} denies what this store had: {trees} trees, {records} records and {blobs} blobs were purged{still}",
                self.address()
            ));
        }
        missing.map_or(Ok(in_use == 0), Err)
    }

    /// Reads the deny-list and takes over what it says, without asking for anything else.
    ///
    /// # Errors
    /// As a pull; it counts as read for [`has_heeded`].
    pub fn heed_now(&self, store: &Store, trusted: &TrustedKeys) -> Result<()> {
        let heeded = self.ask(store, trusted, |_, _| Ok(None::<()>));
        if heeded.is_err() {
            // So that who has no network is not told at each command.
            for remote in std::iter::once(self).chain(self.main()) {
                match Memory::of(remote, store)? {
                    Some(_) => store.touch(Kind::Remote, &record_name(remote.address()))?,
                    None => Memory::save(remote, store, b"", true)?,
                }
            }
        }
        heeded.map(drop)
    }
}

/// Tells whether the deny-list of a remote was read not longer ago than `age`.
#[must_use]
pub fn has_heeded(store: &Store, address: &Address, age: Duration) -> bool {
    let path = store.record_path(Kind::Remote, &record_name(address));
    let modified = std::fs::symlink_metadata(path).and_then(|stat| stat.modified());
    // A clock that was set back makes it old.
    modified
        .is_ok_and(|time| SystemTime::now().duration_since(time).is_ok_and(|passed| passed <= age))
}

/// What became of the deny-list of a remote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denial {
    /// Entries that it did not have.
    pub added: usize,
    /// Plans and refs there that named what was purged, and are gone.
    pub removed: usize,
}

/// Adds what was purged to the deny-list of a remote, and removes the plans and refs there that name it, as far as they are soon found.
///
/// # Errors
/// [`Error::ReadOnly`]; [`Error::Setup`] when others were faster each time, or the list is full; and whatever remote and store say.
pub fn deny(
    remote: &Remote,
    store: &Store,
    purged: &[Purged],
    (key, trusted): (&PrivateKey, &TrustedKeys),
) -> Result<Denial> {
    remote.writable()?;
    match remote.deny_list().and_then(|found| remote.heed(store, found.as_ref(), trusted)) {
        // What it lacks it gets back.
        Ok(()) | Err(Error::Rollback { .. }) => {}
        Err(error) => return Err(error),
    }
    let banned = purged.iter().flat_map(|purged| &purged.banned);
    let new: Vec<(Entry, Vec<u8>)> = banned.map(Entry::of).collect();
    for _ in 0..ATTEMPTS {
        if let Some(added) = add(remote, store, &new, (key, trusted))? {
            let removed = remote.sweep(purged, trusted)?;
            return Ok(Denial { added, removed });
        }
    }
    let reason = "others changed the deny-list each time".to_owned();
    Err(Error::Setup { action: "deny it", reason })
}

/// Adds entries once; `None` when somebody else has changed the list meanwhile.
fn add(
    remote: &Remote,
    store: &Store,
    new: &[(Entry, Vec<u8>)],
    (key, trusted): (&PrivateKey, &TrustedKeys),
) -> Result<Option<usize>> {
    let found = remote.deny_list()?;
    let there = found.as_ref().map(decoded).transpose()?;
    let is_believed = match &there {
        Some(there) => remote.believes(there, trusted)?,
        None => false,
    };
    let there = there.filter(|_| is_believed);
    let memory = Memory::of(remote, store)?.unwrap_or_default();
    let mut list = there.as_ref().map_or_else(
        || DenyList { serial: 0, time_secs: 0, entries: BTreeSet::new() },
        |there| there.list.clone(),
    );
    let before = list.entries.clone();
    list.entries.extend(new.iter().map(|(entry, _)| *entry));
    if let Some(seen) = &memory.list {
        list.entries.extend(&seen.entries);
        list.serial = list.serial.max(seen.serial);
    }
    let added: Vec<Entry> = list.entries.difference(&before).copied().collect();
    let is_ours = there.as_ref().is_some_and(|there| there.key == key.public().key);
    if added.is_empty() && is_ours {
        return Ok(Some(0));
    }
    for entry in &added {
        put_set(remote, store, entry, new)?;
    }
    let full = |reason: String| Error::Setup { action: "deny more", reason };
    list.serial = list.serial.checked_add(1).ok_or_else(|| full("no number is left".to_owned()))?;
    list.time_secs = now_secs();
    let known = memory.done().into_iter().flatten().copied();
    let done: BTreeSet<Entry> = known.chain(new.iter().map(|(entry, _)| *entry)).collect();
    // What others have added a moment ago is purged when the list is read next.
    let is_done = list.entries.is_subset(&done);
    let bytes = SignedDenyList::sign(list, key).encode();
    if bytes.len() as u64 > BYTES_MAX {
        return Err(full(format!("the deny-list would be longer than {BYTES_MAX} bytes")));
    }
    if !remote.set_object(OBJECT, bytes.clone(), found)? {
        return Ok(None);
    }
    Memory::save(remote, store, &bytes, is_done)?;
    Ok(Some(added.len()))
}

/// Writes the hashes of a denied tree's blobs.
fn put_set(remote: &Remote, store: &Store, entry: &Entry, new: &[(Entry, Vec<u8>)]) -> Result<()> {
    let Some(set) = &entry.set else { return Ok(()) };
    let bytes = match new.iter().find(|(known, _)| known == entry) {
        Some((_, bytes)) => bytes.clone(),
        None => {
            let log = store.log()?;
            log.get(Topic::Purged, entry.name.as_bytes()).unwrap_or_default().to_vec()
        }
    };
    if *blake3::hash(&bytes).as_bytes() != *set.hash.as_bytes() {
        let reason = format!("this store has forgotten what the tree {} held", entry.name);
        return Err(Error::Setup { action: "write the deny-list again", reason });
    }
    remote.put(&format!("denied/{}", set.hash), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> PrivateKey {
        PrivateKey::new("a", &[seed; 32]).unwrap()
    }

    fn tree(seed: u8) -> Banned {
        let blobs = (0..seed).map(|byte| BlobHash::from_bytes([byte; 32])).collect();
        Banned::Tree { tree: TreeHash::from_bytes([seed; 32]), blobs }
    }

    fn list(banned: &[Banned], serial: u64) -> DenyList {
        let entries = banned.iter().map(|one| Entry::of(one).0).collect();
        DenyList { serial, time_secs: 1_700_000_000, entries }
    }

    fn signed() -> SignedDenyList {
        let blob = Banned::Blob(BlobHash::from_bytes([7; 32]));
        let package = Banned::Package([8; 32]);
        SignedDenyList::sign(list(&[tree(3), tree(0), package, blob], 12), &key(1))
    }

    #[test]
    fn a_deny_list_is_read_as_it_was_written() {
        let signed = signed();
        assert_eq!(SignedDenyList::decode(&signed.encode()), Ok(signed.clone()));
        assert!(signed.is_signed() && signed.list.entries.len() == 4);
        let empty = SignedDenyList::sign(list(&[], 0), &key(1));
        assert_eq!(SignedDenyList::decode(&empty.encode()), Ok(empty));
    }

    #[test]
    fn every_changed_byte_of_a_deny_list_is_found() {
        let bytes = signed().encode();
        for at in 0..bytes.len() {
            for flip in [1, 0x20, 0x80] {
                let mut changed = bytes.clone();
                changed[at] ^= flip;
                let read = SignedDenyList::decode(&changed);
                assert!(!read.is_ok_and(|read| read.is_signed()), "byte {at}");
            }
            assert!(SignedDenyList::decode(&bytes[..at]).is_err(), "length {at}");
        }
        assert!(SignedDenyList::decode(&[&bytes[..], b"\n"].concat()).is_err());
    }

    #[test]
    fn there_is_one_text_per_deny_list() {
        let text = String::from_utf8(signed().encode()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let is_read = |lines: &[&str]| {
            let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
            SignedDenyList::decode(text.as_bytes()).is_ok()
        };
        assert!(is_read(&lines));
        // Entries are lines 3 to 6: a blob, a package, a tree without and one with blobs.
        for (one, two) in [(3, 4), (4, 5), (5, 6)] {
            let mut swapped = lines.clone();
            swapped.swap(one, two);
            assert!(!is_read(&swapped), "{swapped:?}");
            let mut doubled = lines.clone();
            doubled.insert(one, lines[one]);
            assert!(!is_read(&doubled), "{doubled:?}");
        }
        for (at, from, to) in [
            (1, "serial 12", "serial 012"),
            (3, "blob ", "file "),
            (5, "tree ", "tree  "),
            (6, " 3", " 0"),
            (6, " 3", " 32769"),
            (6, " 3", ""),
            (6, "tree ", "blob "),
        ] {
            let (head, tail) = lines[at].rsplit_once(from).unwrap();
            let changed = format!("{head}{to}{tail}");
            let mut lines = lines.clone();
            lines[at] = &changed;
            assert!(!is_read(&lines), "{changed}");
        }
    }
}
