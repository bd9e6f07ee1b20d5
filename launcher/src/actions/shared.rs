//! Actions that machines share: those of a run as one tree, and the entries of one that came from somebody else.
//!
//! ```text
//! KEY-N/action      what it did, see entry.rs; the folder's mtime is the day on which it was used last
//! KEY-N/found       what it found, see found.rs
//! KEY-N/0, 1, …     what its files held
//! ```

use std::collections::hash_map::Entry as Slot;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use rift_cas::tree::OpenTree;
use rift_cas::{Lease, Store};
use rift_tree::builder::{Builder, Item};
use rift_tree::{EntryId, Kind, TreeHash};

use super::entry::{DONE, Entries, FOUND, Kept};
use super::{EntryName, Event};

/// How many actions that a run had nothing to do with are handed on.
const OTHERS_MAX: usize = 1000;
/// For how long they are, in nanoseconds.
const HANDED_ON_NS: i64 = 30 * DAY_NS;
const DAY_NS: i64 = 86_400 * 1_000_000_000;
/// How many digits a key has.
const KEY_DIGITS: usize = 64;

/// Where an action lies, and when it was used last.
struct Member {
    key: String,
    used_ns: i64,
    name: EntryName,
}

/// What machines are to share.
#[derive(Debug, Default)]
pub struct Gathered {
    /// The tree, where there is anything; it stays while the lease lives.
    pub tree: Option<(TreeHash, Lease)>,
    /// Files that are left out with the actions that made them, with what they hold, see [`rift_cas::secrets`].
    pub left_out: BTreeMap<String, &'static str>,
}

/// Keeps the actions that a run has used or made as one tree, with what came of others, and without those that have left secrets.
///
/// # Errors
/// What the system says.
pub fn gather(
    store: &Store,
    events: &[Event],
    others: Option<TreeHash>,
) -> anyhow::Result<Gathered> {
    let mut gathered = Gathered::default();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let today_ns = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX) / DAY_NS * DAY_NS;
    let own = events.iter().filter_map(|event| {
        let name = event.entry.clone()?;
        Some(Member { key: event.key.clone(), used_ns: today_ns, name })
    });
    let mut members: Vec<Member> = own.collect();
    if members.is_empty() {
        return Ok(gathered);
    }
    let known: HashSet<(String, String)> =
        members.iter().map(|one| (one.name.tree.clone(), one.name.folder.clone())).collect();
    if let Some(tree) = others {
        let mut handed_on = match store.open_tree(tree)? {
            Some(tree) => members_of(&tree),
            None => Vec::new(),
        };
        handed_on.retain(|one| {
            let is_own = known.contains(&(one.name.tree.clone(), one.name.folder.clone()));
            !is_own && one.used_ns + HANDED_ON_NS >= today_ns
        });
        handed_on.sort_by_key(|one| std::cmp::Reverse(one.used_ns));
        handed_on.truncate(OTHERS_MAX);
        members.extend(handed_on);
    }
    // The same actions are the same tree, whatever the order in which they ran and whoever had them before.
    let (mut trees, mut sorted) = (HashMap::new(), BTreeMap::new());
    for Member { key, used_ns, name } in members {
        let tree = match trees.entry(name.tree) {
            Slot::Occupied(known) => known.into_mut(),
            Slot::Vacant(new) => {
                let hash = TreeHash::from_hex(new.key().as_bytes())?;
                new.insert(store.open_tree(hash)?.map(Arc::new))
            }
        };
        let kept = tree.as_ref().and_then(|tree| Kept::within(Arc::clone(tree), &name.folder));
        let Some(kept) = kept else { continue };
        // Of what can't be read, nobody knows what it holds.
        let Ok(secret) = kept.secret() else { continue };
        if let Some((path, holds)) = secret {
            gathered.left_out.insert(path, holds);
            continue;
        }
        let Some(meaning) = kept.meaning() else { continue };
        let known = sorted.entry((key, meaning)).or_insert((used_ns, kept));
        known.0 = known.0.max(used_ns);
    }
    if sorted.is_empty() {
        return Ok(gathered);
    }
    let mut builder = Builder::new();
    let mut last = (None, 0);
    for ((key, _), (used_ns, kept)) in &sorted {
        let number = if last.0 == Some(key) { last.1 + 1 } else { 0 };
        last = (Some(key), number);
        let at = format!("{key}-{number}");
        builder.put(at.as_bytes(), *used_ns, Item::Directory { permissions: 0o755 })?;
        for (name, size, hash) in kept.files().context("an action is more than its files")? {
            let item = Item::File { permissions: 0o644, size, hash };
            builder.put(&[at.as_bytes(), b"/", name].concat(), 0, item)?;
        }
    }
    let built = builder.finish()?;
    // gc waits while the index lives.
    let (_, index) = store.import()?.finish(&[])?;
    store.publish_located(&built, &index)?;
    drop(index);
    gathered.tree = Some((built.hash, store.lease(built.hash)?));
    Ok(gathered)
}

/// Tells whether a run has used or made what a tree of actions lacks.
#[must_use]
pub fn has_more(events: &[Event], tree: Option<TreeHash>) -> bool {
    let tree = tree.map(|tree| tree.to_string());
    let mut entries = events.iter().filter_map(|event| event.entry.as_ref());
    entries.any(|entry| Some(&entry.tree) != tree.as_ref())
}

/// Begins to bring what has not come of a tree of actions: first what each has found, then what it has made.
pub fn prefetch(tree: &OpenTree) {
    let Some(partial) = tree.partial() else { return };
    let manifest = tree.manifest();
    let (mut found, mut made) = (Vec::new(), Vec::new());
    for folder in manifest.children(EntryId::ROOT) {
        for child in manifest.children(folder) {
            if let Some(Kind::File { blob, .. }) = manifest.kind(child) {
                let name = manifest.name(child);
                let is_found = [DONE, FOUND].iter().any(|known| name == Some(known.as_bytes()));
                if is_found { found.push(blob) } else { made.push(blob) }
            }
        }
    }
    let bringing = partial.serve();
    partial.ask_for(found.into_iter());
    bringing.prefetch(&made);
}

/// Keeps the actions of somebody else's tree under their keys, and returns how many.
///
/// # Errors
/// What the system says.
pub fn take(store: &Store, tree: &OpenTree) -> anyhow::Result<usize> {
    let members = members_of(tree);
    let count = members.len();
    for Member { key, name, .. } in members {
        Entries::add_behind(store, &key, name)?;
    }
    Ok(count)
}

fn members_of(opened: &OpenTree) -> Vec<Member> {
    let (manifest, tree) = (opened.manifest(), opened.hash().to_string());
    let mut members = Vec::new();
    for child in manifest.children(EntryId::ROOT) {
        let Some(folder) = manifest.name(child).and_then(|name| std::str::from_utf8(name).ok())
        else {
            continue;
        };
        let Some(key) = folder.get(..KEY_DIGITS).filter(|key| is_key(key)) else { continue };
        let used_ns = manifest.mtime_ns(child).unwrap_or(0);
        let name = EntryName {
            tree: tree.clone(),
            folder: folder.to_owned(),
            is_foreign: true,
            is_confirmed: false,
        };
        members.push(Member { key: key.to_owned(), used_ns, name });
    }
    members
}

fn is_key(key: &str) -> bool {
    key.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::super::entry::{Done, Left};
    use super::*;

    #[test]
    fn actions_go_to_others_and_on_from_there() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let import = store.import().unwrap();
        let mut unit = import.unit();
        let mut builder = Builder::new();
        for (folder, path) in [("x-1", "\u{1}W/a.o"), ("x-2", "\u{1}W/out/.env")] {
            builder.put(folder.as_bytes(), 0, Item::Directory { permissions: 0o755 }).unwrap();
            let (path, name) = (path.to_owned(), "0".to_owned());
            let left = vec![Left::File { path, mode: 0o644, name, is_text: false }];
            let (said, pinned, program) = (Vec::new(), Vec::new(), "cc".to_owned());
            let done = Done { program, left, said, pinned, cpu_ns: 0 };
            let done = serde_json::to_vec(&done).unwrap();
            for (name, bytes) in [(DONE, &*done), (FOUND, b""), ("0", b"TOKEN=x")] {
                let hash = unit.add(bytes).unwrap();
                let size = bytes.len() as u64;
                let item = Item::File { permissions: 0o644, size, hash };
                builder.put(format!("{folder}/{name}").as_bytes(), 0, item).unwrap();
            }
        }
        unit.flush().unwrap();
        drop(unit);
        let built = builder.finish().unwrap();
        let (_, index) = import.finish(&[]).unwrap();
        store.publish_located(&built, &index).unwrap();
        drop(index);
        let event = |key: &str, entry| Event {
            program: "cc".to_owned(),
            what: "a".to_owned(),
            outcome: Outcome::Kept,
            key: key.repeat(KEY_DIGITS),
            told: Vec::new(),
            unit: None,
            entry,
        };
        let named = |folder: &str| {
            let (tree, folder) = (built.hash.to_string(), folder.to_owned());
            EntryName { tree, folder, ..EntryName::default() }
        };
        let name = named("x-1");
        assert!(gather(&store, &[event("a", None)], None).unwrap().tree.is_none());
        // What has left a secret stays here.
        let secret = gather(&store, &[event("c", Some(named("x-2")))], None).unwrap();
        assert!(secret.tree.is_none() && secret.left_out.len() == 1, "{secret:?}");
        let gather = |events: &[Event], others| {
            let gathered = gather(&store, events, others).unwrap();
            assert!(gathered.left_out.is_empty(), "{gathered:?}");
            gathered.tree.unwrap()
        };
        let events = [event("a", Some(name.clone())), event("a", Some(name.clone()))];
        let (tree, _lease) = gather(&events, None);
        assert_eq!(gather(&events[..1], None).0, tree);
        let take = |tree| take(&store, &store.open_tree(tree).unwrap().unwrap()).unwrap();
        assert_eq!(take(tree), 1);
        let found = Entries::find(&store, &"a".repeat(KEY_DIGITS)).unwrap();
        let kept: Vec<_> = found.kept(&store, None).map(|(name, _)| name.clone()).collect();
        assert!(kept.len() == 1 && kept[0].is_foreign && kept[0].tree == tree.to_string());
        // The next run had other actions, and hands these on.
        let (more, _lease) = gather(&[event("b", Some(name))], Some(tree));
        assert_eq!(take(more), 2);
        let brought =
            event("a", Some(EntryName { tree: more.to_string(), ..EntryName::default() }));
        assert!(has_more(&events, Some(more)) && has_more(&events, None));
        assert!(!has_more(&[brought, event("b", None)], Some(more)));
    }
}
