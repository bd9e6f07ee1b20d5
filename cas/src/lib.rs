//! Velo Rift: store.
