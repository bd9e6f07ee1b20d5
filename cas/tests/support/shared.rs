//! A remote in a folder that stores share.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use rift_cas::Store;
use rift_cas::remote::address::Address;
use rift_cas::remote::keys::{PrivateKey, TrustedKeys};
use rift_cas::remote::reference::{SignedRef, Statement};
use rift_cas::remote::{self, Error, Extent, Options, Pushed, Remote};
use rift_tree::TreeHash;

use super::{Files, folder, read_back};

/// A remote in a folder, and who may write to it.
pub(crate) struct Shared {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) key: PrivateKey,
    pub(crate) trusted: TrustedKeys,
}

impl Shared {
    pub(crate) fn new() -> Self {
        let key = PrivateKey::new("me", &[7; 32]).unwrap();
        let mut trusted = TrustedKeys::default();
        trusted.add(key.public());
        Self { folder: folder(), key, trusted }
    }

    pub(crate) fn path(&self, inner: &str) -> PathBuf {
        self.folder.path().join(inner)
    }

    pub(crate) fn store(&self, name: &str) -> Store {
        Store::open(&self.path(name)).unwrap()
    }

    pub(crate) fn remote(&self) -> Remote {
        let address = Address::parse(&format!("file://{}", self.path("remote").display()));
        let options = Options { makes_folder: true, ..Options::default() };
        Remote::open(&address.unwrap(), &options).unwrap()
    }

    pub(crate) fn push(&self, store: &Store, name: &str, tree: TreeHash) -> Pushed {
        let keys = (&self.key, &self.trusted);
        remote::push(&self.remote(), store, name, tree, keys, &|_| {}).unwrap()
    }

    /// Pulls into a store of its own; returns the files that are there then, and what was received.
    pub(crate) fn pull(&self, name: &str) -> Result<(Files, remote::Traffic), Error> {
        let (store, remote) = (self.store("pulled"), self.remote());
        let pulled = remote::pull(&remote, &store, (name, Extent::Whole), &self.trusted, &|_| {});
        let files = pulled.map(|pulled| {
            let files = read_back(&store, pulled.tree, &self.path("written")).unwrap().unwrap();
            (files, remote.traffic())
        });
        assert_eq!(store.get_ref(name).unwrap().is_some(), files.is_ok());
        fs::remove_dir_all(self.path("pulled")).unwrap();
        files
    }

    /// Returns the names of the objects of data.
    pub(crate) fn objects(&self) -> BTreeSet<String> {
        let entries = fs::read_dir(self.path("remote/data")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Returns the path of the only object of data whose name ends so.
    pub(crate) fn object(&self, end: &str) -> PathBuf {
        let objects = self.objects();
        let mut named = objects.iter().filter(|name| name.ends_with(end));
        let path = self.path("remote/data").join(named.next().unwrap());
        assert_eq!(named.next(), None, "{objects:?}");
        path
    }

    /// Returns the statement of a ref, and the bytes of its places.
    pub(crate) fn places(&self, name: &str) -> (Statement, Vec<u8>) {
        let bytes = fs::read(self.path("remote/refs").join(name)).unwrap();
        let statement = SignedRef::decode(&bytes).unwrap().statement;
        let hex = TreeHash::from_bytes(statement.at.places).to_string();
        (statement, fs::read(self.path("remote/places").join(hex)).unwrap())
    }

    /// Makes a ref name other places, and signs it.
    pub(crate) fn set_places(&self, name: &str, places: &[u8]) {
        let (mut statement, _) = self.places(name);
        statement.at.places = *blake3::hash(places).as_bytes();
        statement.at.places_bytes = places.len() as u64;
        let hex = TreeHash::from_bytes(statement.at.places).to_string();
        fs::write(self.path("remote/places").join(hex), places).unwrap();
        let signed = SignedRef::sign(statement, &self.key).encode();
        fs::write(self.path("remote/refs").join(name), signed).unwrap();
    }
}

/// Returns files of text, each another one.
pub(crate) fn text(seed: usize, count: usize, length: usize) -> Files {
    let line = |file: usize, line: usize| {
        format!("export const value_{line} = require('./module_{}'); // {file}\n", line * file % 97)
    };
    let file = |number: usize| {
        let mut bytes = Vec::new();
        for at in 0.. {
            if bytes.len() >= length {
                break;
            }
            bytes.extend_from_slice(line(number + seed, at).as_bytes());
        }
        bytes
    };
    (0..count).map(|number| (format!("lib/{seed}-{number:05}.js"), file(number))).collect()
}
