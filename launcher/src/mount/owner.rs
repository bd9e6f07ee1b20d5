//! Owners of claims: processes by pid and birth, see [`rift_tree::state`].

use rift_tree::state::Owner;

/// Returns this process.
pub(super) fn current() -> Owner {
    let pid = std::process::id();
    Owner::new(pid, birth(pid).unwrap_or_default())
}

/// Tells whether the process of a claim is gone; its pid may be another process's by now.
pub(super) fn is_dead(owner: Owner) -> bool {
    // 16 bits of the start time are kept.
    birth(owner.pid()).is_none_or(|birth| birth as u16 != owner.birth())
}

/// Returns when a process started, in clock ticks since boot, see proc(5).
fn birth(pid: u32) -> Option<u64> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let after = stat.iter().rposition(|byte| *byte == b')')?;
    let text = std::str::from_utf8(stat.get(after + 2..)?).ok()?;
    text.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_living_are_told_from_the_dead() {
        assert!(!is_dead(current()));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let owner = Owner::new(child.id(), birth(child.id()).unwrap());
        assert!(!is_dead(owner));
        child.wait().unwrap();
        assert!(is_dead(owner));
        // A pid that is somebody else's by now.
        let other = Owner::new(std::process::id(), u64::from(current().birth()) + 1);
        assert!(is_dead(other));
    }
}
