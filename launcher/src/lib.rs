//! Velo Rift: launcher.
