//! `npm ci` and argument-less `npm install`, answered from the store.

pub mod compose;
pub mod driver;
pub mod package;
pub mod planned;
pub mod scripts;
