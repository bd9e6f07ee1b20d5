//! Trees where mounts are refused, as in a container: they are files, and so is what was mounted before.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs;

use rift_tests::mounts::{assert_same, mounts_at, open, servers_of, state, uncover, with_tree};
use rift_tests::need::{Need, have};
use rift_tests::refused::{REFUSALS, Refusal};
use rift_tests::sandbox::{clear, rift_binary};

/// What was mounted when that was permitted is there with all changes, as files, which is said once.
#[test]
fn what_was_mounted_is_files_where_mounts_are_refused() {
    let name = "what_was_mounted_is_files_where_mounts_are_refused";
    let tools = ["cc", "setpriv", "unshare"].map(Need::Tool);
    if !have(name, &[&[Need::Root, Need::Fuse][..], &tools].concat()) {
        return;
    }
    let sandbox = with_tree("was-mounted");
    let view = sandbox.home().join("view");
    let ways =
        if rift_tests::full() { &REFUSALS[..] } else { &[Refusal::Calls, Refusal::Container] };
    for way in ways {
        let words = way.words().unwrap();
        let refused = |strict: &str, arguments: &[&str]| {
            let mut command = sandbox.command(&sandbox.home(), &words[0]);
            command.args(&words[1..]).arg(rift_binary().unwrap()).args(arguments);
            sandbox.run(command.env("RIFT_STRICT", strict)).unwrap()
        };
        let ran = refused("0", &["open", "tree", "view"]);
        assert_eq!((ran.status.code(), view.exists()), (Some(125), false), "{way:?}: {ran}");
        for is_private in [false, true] {
            let option = if is_private { &["--private"][..] } else { &[] };
            let exec = [&["exec", "--as", "mount"], option, &["--tree", "tree=view", "cat"]];
            let cat = [&exec.concat()[..], &["view/a", "view/lib/new"]].concat();
            assert_eq!(open(&sandbox, "home/view"), view);
            fs::write(view.join("lib/new"), "new").unwrap();
            fs::remove_file(view.join("lib/x.js")).unwrap();
            uncover(&sandbox, &view);
            let context = format!("{way:?}, private: {is_private}");
            let ran = refused("1", &cat);
            assert_eq!(ran.status.code(), Some(125), "{context}: {ran}");
            let ran = refused("0", &cat);
            assert_eq!(ran.status.code(), Some(0), "{context}: {ran}");
            assert_eq!(ran.stdout, "hello\nnew", "{context}: {ran}");
            assert_eq!(ran.stderr.matches("warning:").count(), 1, "{context}: {ran}");
            assert_eq!((state(&sandbox, &view).as_str(), mounts_at(&view)), ("current", 0));
            assert!(servers_of(&view).is_empty(), "{context}");
            // But for the changes it is the tree.
            assert!(!view.join("lib/x.js").exists());
            fs::remove_dir_all(view.join("lib")).unwrap();
            let mut copy = sandbox.command(&sandbox.home(), "cp");
            copy.arg("-a").arg(sandbox.path("source/lib")).arg(&view);
            assert!(copy.status().unwrap().success());
            assert_same(&sandbox.path("source"), &view);
            clear(&view).unwrap();
        }
    }
}
