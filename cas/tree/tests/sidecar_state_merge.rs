//! The sidecar, the state word under contention, and the merge rule against a plain reference.

#![allow(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in test functions, not in what they call"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;
use rift_tree::builder::Item;
use rift_tree::merge::{self, Place, States};
use rift_tree::sidecar::{self, Container, ContainerKind, Location, Sidecar, Stamp};
use rift_tree::state::{Attempt, Birth, Inodes, Owner, Real, State, StateWord, slot_count};
use rift_tree::{EntryId, FormatError, Manifest, TreeHash};
use support::{Model, build, model};

#[test]
fn sidecar_round_trips_and_refuses_damage() {
    let stamp = |seed: u64| Stamp { size: seed, inode: seed + 1, mtime_ns: -(seed as i64) };
    let containers = [
        Container { name: [1; 32], stamp: stamp(5), kind: ContainerKind::Pack },
        Container { name: [2; 32], stamp: stamp(6), kind: ContainerKind::Loose },
        Container { name: [3; 32], stamp: stamp(7), kind: ContainerKind::PackInFrames },
        Container { name: [4; 32], stamp: stamp(8), kind: ContainerKind::LooseInFrames },
    ];
    let locations = [
        Location { container: 0, offset: 64 },
        Location { container: 1, offset: 0 },
        Location { container: 0, offset: sidecar::OFFSET_MAX },
    ];
    let tree = TreeHash::from_bytes([7; 32]);
    let bytes = sidecar::write(tree, stamp(9), &containers, &locations).unwrap();
    let read = Sidecar::parse(&bytes).unwrap();
    assert_eq!((read.tree(), read.manifest_stamp()), (tree, stamp(9)));
    assert_eq!([0, 1, 2, 3].map(|number| read.container(number).unwrap()), containers);
    assert_eq!(read.container(4), None);
    let found: Vec<Location> = (0..3).map(|blob| read.location(blob).unwrap()).collect();
    assert_eq!(found, locations);
    assert_eq!(read.location(3), None);
    for length in 0..bytes.len() {
        assert!(Sidecar::parse(&bytes[..length]).is_err(), "{length}");
        assert!(Sidecar::split(&bytes[..length]).is_err(), "{length}");
    }
    for behind in [&b""[..], b"tables"] {
        let both = [&bytes, behind].concat();
        assert_eq!(Sidecar::split(&both), Ok((&bytes[..], behind)));
    }
    assert_eq!(
        Sidecar::parse(&[b"RIFTPACK", &bytes[8..]].concat()).unwrap_err(),
        FormatError::Magic
    );
    let too_far = [Location { container: 4, offset: 0 }];
    assert!(sidecar::write(tree, stamp(0), &containers, &too_far).is_err());
}

/// A file of a file system that tells no births.
fn numbered(inode: u64) -> Real {
    Real { inode, birth: Birth::UNKNOWN }
}

#[test]
fn a_number_that_is_given_anew_is_another_files() {
    let (first, later) = (Birth::new(1_800_000_000, 7), Birth::new(1_800_000_000, 4_000_007));
    assert!(first.may_be(first) && first.may_be(Birth::UNKNOWN) && Birth::UNKNOWN.may_be(later));
    assert!(!first.may_be(later));
    assert_ne!(Birth::new(0, 0), Birth::UNKNOWN);
    let word = StateWord::new();
    let Attempt::Won(claim) = word.claim(Owner::new(5, 5)) else { panic!("pristine") };
    assert_eq!(word.birth(), Birth::UNKNOWN, "the owner of a claim is no birth");
    assert!(word.finish(claim, Real { inode: 42, birth: first }));
    assert_eq!((word.load(), word.birth()), (State::Detached { inode: 42 }, first));
    assert!(word.revert(42));
    assert_eq!(word.birth(), Birth::UNKNOWN);
}

#[test]
fn one_of_many_claims_wins_and_a_dead_owner_is_replaced() {
    let word = StateWord::new();
    let owner = |pid| Owner::new(pid, u64::from(pid) << 3);
    let Attempt::Won(claim) = word.claim(owner(4_194_303)) else { panic!("pristine") };
    assert_eq!(word.load(), State::Claimed(owner(4_194_303)));
    assert_eq!(owner(4_194_303).pid(), 4_194_303);
    assert_eq!(word.claim(owner(2)), Attempt::Busy(owner(4_194_303)));
    assert_eq!(word.take_over(owner(3), owner(2)), Attempt::Busy(owner(4_194_303)));
    let Attempt::Won(second) = word.take_over(owner(4_194_303), owner(2)) else { panic!("dead") };
    assert!(word.finish(second, numbered(42)));
    assert!(!word.give_up(claim), "the old claim is void");
    assert_eq!(word.load(), State::Detached { inode: 42 });
    assert_eq!(word.claim(owner(5)), Attempt::Detached);
}

/// Inodes that collide, that are others' by now and that two threads add at once all lead to their entries.
#[test]
fn entries_are_found_by_the_inodes_of_their_files() {
    const ENTRIES: u32 = 5_000;
    let words: Vec<StateWord> = (0..ENTRIES).map(|_| StateWord::new()).collect();
    let slots: Vec<AtomicU32> = (0..slot_count(ENTRIES)).map(|_| AtomicU32::new(0)).collect();
    let inodes = Inodes::new(&words, &slots);
    let inode = |id: u32| u64::from(id % 2) << 40 | u64::from(id / 2 + 10);
    let detach = |id: u32, inode| {
        let word = &words[id as usize];
        let Attempt::Won(claim) = word.claim(Owner::new(1, 1)) else { panic!("pristine") };
        inodes.add(inode, EntryId(id));
        assert!(word.finish(claim, numbered(inode)));
    };
    std::thread::scope(|scope| {
        for part in 0..2 {
            scope.spawn(move || {
                for id in (1..ENTRIES - 1).filter(|id| id % 2 == part) {
                    detach(id, inode(id));
                    assert_eq!(inodes.entry(inode(id)), Some(EntryId(id)));
                }
            });
        }
    });
    for id in 1..ENTRIES - 1 {
        assert_eq!(inodes.entry(inode(id)), Some(EntryId(id)));
    }
    assert_eq!([inodes.entry(0), inodes.entry(9), inodes.entry(u64::MAX)], [None; 3]);
    // A file is gone, and the system gives its number to another entry's.
    words[7].forget_inode(inode(7));
    assert_eq!(inodes.entry(inode(7)), None);
    detach(ENTRIES - 1, inode(7));
    assert_eq!(inodes.entry(inode(7)), Some(EntryId(ENTRIES - 1)));
}

#[test]
fn a_replaced_owner_leaves_the_inode_alone() {
    let owner = |pid| Owner::new(pid, 1);
    for gone_or_made in [0, 42] {
        let word = StateWord::new();
        let Attempt::Won(slow) = word.claim(owner(1)) else { panic!("pristine") };
        let Attempt::Won(fast) = word.take_over(owner(1), owner(2)) else { panic!("dead") };
        assert!(word.finish(fast, numbered(gone_or_made)));
        assert!(!word.finish(slow, numbered(7)));
        assert_eq!(word.load(), State::Detached { inode: gone_or_made });
    }
    let words: Vec<StateWord> = (0..20_000).map(|_| StateWord::new()).collect();
    let claims: Vec<_> = words.iter().map(|word| word.claim(owner(1))).collect();
    let start = std::sync::Barrier::new(2);
    let (slow, fast): (Vec<bool>, Vec<bool>) = std::thread::scope(|scope| {
        let (words, start) = (&words, &start);
        let slow = scope.spawn(move || {
            start.wait();
            let won = claims.into_iter().zip(words).map(|(claim, word)| match claim {
                Attempt::Won(claim) => word.finish(claim, numbered(7)),
                other => panic!("{other:?}"),
            });
            won.collect()
        });
        let fast = scope.spawn(move || {
            start.wait();
            let won = words.iter().map(|word| match word.take_over(owner(1), owner(2)) {
                Attempt::Won(claim) => word.finish(claim, numbered(42)),
                Attempt::Detached => false,
                Attempt::Busy(by) => panic!("{by:?}"),
            });
            won.collect()
        });
        (slow.join().unwrap(), fast.join().unwrap())
    });
    for ((word, slow), fast) in words.iter().zip(slow).zip(fast) {
        assert!(slow != fast, "one of them, not both");
        assert_eq!(word.load(), State::Detached { inode: if slow { 7 } else { 42 } });
    }
}

#[test]
fn claims_from_many_threads_are_exclusive() {
    const WORDS: usize = 2_000;
    let words: Vec<StateWord> = (0..WORDS).map(|_| StateWord::new()).collect();
    let made: Vec<AtomicU32> = (0..WORDS).map(|_| AtomicU32::new(0)).collect();
    std::thread::scope(|scope| {
        for thread in 1..=8_u32 {
            let (words, made) = (&words, &made);
            scope.spawn(move || {
                for (at, word) in words.iter().enumerate() {
                    let owner = Owner::new(thread, 0);
                    let mut tries = 0;
                    loop {
                        match word.claim(owner) {
                            Attempt::Won(claim)
                                if tries == 0 && (at as u32 + thread).is_multiple_of(3) =>
                            {
                                assert!(word.give_up(claim));
                                tries = 1;
                            }
                            Attempt::Won(claim) => {
                                made[at].fetch_add(1, Ordering::Relaxed);
                                assert!(word.finish(
                                    claim,
                                    numbered(u64::from(thread) * 1_000_000 + at as u64)
                                ));
                                break;
                            }
                            Attempt::Busy(_) => std::thread::yield_now(),
                            Attempt::Detached => break,
                        }
                    }
                    let State::Detached { inode } = word.load() else { panic!("not detached") };
                    assert_eq!(inode % 1_000_000, at as u64);
                }
            });
        }
    });
    assert!(made.iter().all(|count| count.load(Ordering::Relaxed) == 1));
}

/// The plain reference: what is shown, as a map, and what is really on disk.
struct Reference {
    tree: Model,
    detached: BTreeSet<Vec<u8>>,
    disk: BTreeMap<Vec<u8>, Item>,
}

impl Reference {
    fn is_directory(&self, path: &[u8]) -> bool {
        path.is_empty() || matches!(self.shown(path), Some(Item::Directory { .. }))
    }

    fn shown(&self, path: &[u8]) -> Option<Item> {
        match self.tree.get(path) {
            Some(item) if !self.detached.contains(path) => Some(item.clone()),
            _ => self.disk.get(path).cloned(),
        }
    }

    /// Makes the directories above `path` real.
    fn make_parents_real(&mut self, path: &[u8]) {
        for (at, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            self.make_real(&path[..at]);
        }
    }

    fn make_real(&mut self, path: &[u8]) {
        if let Some(item) = self.tree.get(path)
            && self.detached.insert(path.to_vec())
        {
            self.disk.insert(path.to_vec(), item.clone());
        }
    }

    fn create(&mut self, path: &[u8], item: Item) {
        let (parent, _) = rift_tree::name::split_last(path);
        if self.is_directory(parent) && self.shown(path).is_none() {
            self.make_parents_real(path);
            self.disk.insert(path.to_vec(), item);
        }
    }

    /// Takes away a whole subtree; everything below is detached first.
    fn remove(&mut self, path: &[u8]) {
        let below = [path, b"/"].concat();
        let is_in = |other: &[u8]| other == path || other.starts_with(&below);
        self.detached.extend(self.tree.keys().filter(|other| is_in(other)).cloned());
        self.disk.retain(|other, _| !is_in(other));
    }
}

struct Marks<'a> {
    manifest: Manifest<'a>,
    words: Vec<StateWord>,
}

impl Marks<'_> {
    fn sync(&self, reference: &Reference) {
        for path in &reference.detached {
            let id = self.manifest.lookup(path).unwrap();
            if let Attempt::Won(claim) = self.words[id.0 as usize].claim(Owner::new(1, 1)) {
                assert!(self.words[id.0 as usize].finish(claim, numbered(1)));
            }
        }
    }
}

impl States for Marks<'_> {
    fn state(&self, id: EntryId) -> State {
        // The projection's root is a real directory from the start.
        if id == EntryId::ROOT {
            State::Detached { inode: 2 }
        } else {
            self.words[id.0 as usize].load()
        }
    }
}

#[derive(Debug, Clone)]
enum Op {
    MakeReal(usize),
    Create(usize, Vec<u8>, bool),
    Remove(usize),
    RemoveMade(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        any::<usize>().prop_map(Op::MakeReal),
        (any::<usize>(), support::name(), any::<bool>())
            .prop_map(|(at, name, is_dir)| Op::Create(at, name, is_dir)),
        any::<usize>().prop_map(Op::Remove),
        any::<usize>().prop_map(Op::RemoveMade),
    ]
}

fn apply(reference: &mut Reference, op: &Op) {
    let pick = |count: usize, at: usize| if count == 0 { None } else { Some(at % count) };
    let tree_path = |reference: &Reference, at: usize| {
        pick(reference.tree.len(), at).map(|at| reference.tree.keys().nth(at).unwrap().clone())
    };
    match op {
        Op::MakeReal(at) => {
            if let Some(path) = tree_path(reference, *at)
                && !reference.detached.contains(&path)
            {
                reference.make_parents_real(&path);
                reference.make_real(&path);
            }
        }
        Op::Create(at, name, is_dir) => {
            let parent = tree_path(reference, *at).unwrap_or_default();
            let path =
                if parent.is_empty() { name.clone() } else { [&parent[..], b"/", name].concat() };
            let item = match is_dir {
                true => Item::Directory { permissions: 0o700 },
                false => Item::Symlink { target: b"made".to_vec() },
            };
            reference.create(&path, item);
        }
        Op::Remove(at) => {
            if let Some(path) = tree_path(reference, *at) {
                reference.remove(&path);
            }
        }
        Op::RemoveMade(at) => {
            let made = pick(reference.disk.len(), *at);
            if let Some(path) = made.map(|at| reference.disk.keys().nth(at).unwrap().clone()) {
                reference.remove(&path);
            }
        }
    }
}

/// What the rule says is at `path`, asking the reference's disk where the kernel answers.
fn resolve(marks: &Marks<'_>, reference: &Reference, path: &[u8]) -> Option<Item> {
    match merge::place(&marks.manifest, marks, path) {
        Place::Pristine(id) => {
            assert_eq!(marks.manifest.lookup(path), Some(id));
            reference.tree.get(path).cloned()
        }
        Place::Detached(_) | Place::Foreign => reference.disk.get(path).cloned(),
        Place::Missing | Place::NotDirectory(_) => None,
    }
}

fn listing(marks: &Marks<'_>, reference: &Reference, path: &[u8]) -> BTreeSet<Vec<u8>> {
    let id = marks.manifest.lookup(path);
    let mut names = BTreeSet::new();
    for child in id.into_iter().flat_map(|id| marks.manifest.children(id)) {
        if merge::lists_tree_child(marks, child) {
            names.insert(marks.manifest.name(child).unwrap().to_vec());
        }
    }
    for other in reference.disk.keys() {
        let (parent, name) = rift_tree::name::split_last(other);
        if parent == path && merge::lists_kernel_name(marks, marks.manifest.lookup(other)) {
            names.insert(name.to_vec());
        }
    }
    names
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_rule_agrees_with_the_reference(model in model(), ops in prop::collection::vec(op(), 0..30)) {
        let built = build(&model);
        let manifest = Manifest::parse(&built.bytes).unwrap();
        let words = (0..manifest.len()).map(|_| StateWord::new()).collect();
        let marks = Marks { manifest, words };
        let mut reference = Reference { tree: model.clone(), detached: BTreeSet::new(), disk: BTreeMap::new() };
        for op in &ops {
            apply(&mut reference, op);
        }
        marks.sync(&reference);
        let mut paths: BTreeSet<Vec<u8>> = reference.tree.keys().chain(reference.disk.keys()).cloned().collect();
        for path in paths.clone() {
            paths.insert([&path[..], b"/zz-absent"].concat());
        }
        for path in &paths {
            prop_assert_eq!(resolve(&marks, &reference, path), reference.shown(path), "{}", path.escape_ascii());
            if reference.is_directory(path) {
                let expected: BTreeSet<Vec<u8>> = reference.tree.keys().chain(reference.disk.keys())
                    .filter(|other| rift_tree::name::split_last(other).0 == path.as_slice())
                    .filter(|other| reference.shown(other).is_some())
                    .map(|other| rift_tree::name::split_last(other).1.to_vec())
                    .collect();
                prop_assert_eq!(listing(&marks, &reference, path), expected);
            }
        }
    }
}
