//! The Velo Rift preload library.
