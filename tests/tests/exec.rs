//! `rift exec` around any command, in surroundings that a test has to make: namespaces, closed streams.

use anyhow::Result;
use rift_tests::need::{Need, have};
use rift_tests::sandbox::{Sandbox, rift_binary};

/// As in a container whose first process did not begin a session of its own: getsid(2) gives 0.
#[test]
fn a_session_begun_outside_of_the_pid_namespace_changes_nothing() -> Result<()> {
    if !have("a_session_begun_outside_of_the_pid_namespace_changes_nothing", &[Need::PidNamespace])
    {
        return Ok(());
    }
    let sandbox = Sandbox::new("pid-namespace")?;
    let mut command = sandbox.command(&sandbox.home(), "unshare");
    command.args(["--user", "--map-root-user", "--pid", "--fork"]).arg(rift_binary()?);
    command.args(["exec", "--", "sh", "-c", "echo done; exit 3"]);
    let ran = sandbox.run(&mut command)?;
    assert_eq!((ran.status.code(), ran.stdout.as_str()), (Some(3), "done\n"), "{ran}");
    Ok(())
}
