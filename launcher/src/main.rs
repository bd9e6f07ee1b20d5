//! Velo Rift.
fn main() {}
