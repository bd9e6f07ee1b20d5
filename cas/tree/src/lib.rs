//! Velo Rift: trees.
