//! Why a command or a project is left to the real npm.

use std::fmt;

/// One clause that says why npm itself must run, fit to follow "npm runs itself: ".
///
/// It never holds a value from configuration, so no secret can get into a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why(String);

impl Why {
    pub(crate) fn new(clause: impl Into<String>) -> Why {
        Why(clause.into())
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for Why {
    fn from(clause: &str) -> Why {
        Why::new(clause)
    }
}

impl From<String> for Why {
    fn from(clause: String) -> Why {
        Why::new(clause)
    }
}
