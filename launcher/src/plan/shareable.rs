//! Results that machines share: what the store keeps under a plan's key, as far as remotes have to know it.

use rift_cas::Store;
use rift_tree::TreeHash;

/// What a plan found, as a record that names trees.
pub trait Shareable: Sized {
    /// Reads what is kept under a key, in hexadecimal; `None` when there is nothing that can be used.
    ///
    /// # Errors
    /// What the system says.
    fn find(store: &Store, key: &str) -> rift_cas::Result<Option<Self>>;

    /// Keeps it under a key.
    ///
    /// # Errors
    /// What the system says.
    fn save(&self, store: &Store, key: &str) -> anyhow::Result<()>;

    /// Reads the record of somebody else; `None` where it means nothing here, or would be written elsewhere than in the project.
    fn of_others(payload: &[u8]) -> Option<Self>;

    /// Returns the record, which names all trees as `trees_of_plan` finds them.
    ///
    /// # Errors
    /// It can't be encoded.
    fn record(&self) -> anyhow::Result<Vec<u8>>;

    /// Returns the trees; `None` when one has no hash.
    fn trees(&self) -> Option<Vec<TreeHash>>;

    /// Returns the parts of remotes that have it, each with the key that signed it there: `ADDRESS HEX`.
    fn shared(&mut self) -> &mut Vec<String>;

    /// Tells whether it holds all that others need.
    fn is_whole(&self) -> bool;

    /// Tells whether its trees may hold secrets of this machine.
    fn may_hold_secrets(&self) -> bool;
}
