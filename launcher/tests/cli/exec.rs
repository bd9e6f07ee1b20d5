//! A command under `rift exec` can't be told from one without: status, signals, streams, arguments.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::home::Home;

#[test]
fn statuses_are_those_of_the_child_and_of_shells() {
    let home = Home::new();
    fs::write(home.work("plain"), b"exit 5\n").unwrap();
    fs::write(home.work("script"), b"exit $1\n").unwrap();
    fs::write(home.work("no-interpreter"), b"#!/no/such/interpreter\n").unwrap();
    for name in ["script", "no-interpreter"] {
        fs::set_permissions(home.work(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::create_dir(home.work("folder")).unwrap();
    let table: [(&[&str], i32); 11] = [
        (&["true"], 0),
        (&["false"], 1),
        (&["sh", "-c", "exit 77"], 77),
        (&["sh", "-c", "exit 255"], 255),
        (&["./script", "6"], 6),
        (&["./plain"], 126),
        (&["./folder"], 126),
        (&["./no-interpreter"], 127),
        (&["no-such-program-anywhere"], 127),
        (&["./missing"], 127),
        (&[""], 127),
    ];
    for disabled in ["", "1"] {
        for (command, code) in table {
            let mut rift = home.rift();
            rift.arg("exec").arg("--").args(command).env("RIFT_DISABLE", disabled);
            let ended = rift.output().unwrap();
            assert_eq!(ended.status.code(), Some(code), "{command:?} RIFT_DISABLE={disabled}");
            assert_eq!(ended.stderr.is_empty(), !matches!(code, 126 | 127), "{command:?}");
        }
    }
}

#[test]
fn a_child_that_dies_of_a_signal_takes_rift_with_it() {
    let home = Home::new();
    for (name, number) in [("TERM", 15), ("KILL", 9), ("INT", 2), ("SEGV", 11), ("USR1", 10)] {
        let ended = home.run(["exec", "--", "sh", "-c", &format!("kill -{name} $$")]);
        assert_eq!(ended.0.status.signal(), Some(number), "{name}");
        assert!(!ended.0.status.core_dumped(), "{name}");
    }
    let shell = home
        .command("sh")
        .args(["-c", "\"$0\" exec -- sh -c 'kill -9 $$'; echo $?", env!("CARGO_BIN_EXE_rift")])
        .output()
        .unwrap();
    assert_eq!(shell.stdout, b"137\n", "as shells report it");
}

/// Starts a shell script under `rift exec` in a process group of its own; it has said that it is ready.
fn start(home: &Home, script: &str) -> (Child, BufReader<ChildStdout>) {
    let mut rift = home.rift();
    rift.args(["exec", "--", "sh", "-c", script]).process_group(0);
    let mut child = rift.stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    (child, out)
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

#[test]
fn signals_are_handed_on_once_and_rift_outlives_its_child() {
    let signals = [
        ("TERM", Signal::TERM),
        ("INT", Signal::INT),
        ("HUP", Signal::HUP),
        ("QUIT", Signal::QUIT),
        ("USR1", Signal::USR1),
        ("USR2", Signal::USR2),
        ("WINCH", Signal::WINCH),
        ("ALRM", Signal::ALARM),
        ("VTALRM", Signal::VTALARM),
        ("PROF", Signal::PROF),
        ("IO", Signal::IO),
    ];
    let home = Home::new();
    for (name, signal) in signals {
        // Counts for a while after the first, so that a second would be seen.
        let script = format!(
            "n=0; trap 'n=$((n+1))' {name}; echo ready; \
             i=0; while [ $n = 0 ] && [ $i -lt 200 ]; do sleep 0.05; i=$((i+1)); done; \
             sleep 0.2; sleep 0.1; echo $n; exit 40"
        );
        let (mut child, mut out) = start(&home, &script);
        kill_process(pid(&child), signal).unwrap();
        let mut counted = String::new();
        out.read_to_string(&mut counted).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(40), "{name}");
        assert_eq!(counted, "1\n", "{name}");
    }
}

#[test]
fn a_signal_to_the_whole_group_does_not_end_rift_before_its_child() {
    let home = Home::new();
    let script =
        "trap 'sleep 0.2; echo cleaned up; exit 9' INT; echo ready; while :; do sleep 0.05; done";
    let (mut child, mut out) = start(&home, script);
    kill_process_group(pid(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(9));
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "cleaned up\n");
}

#[test]
fn a_process_that_signals_the_whole_group_may_reach_the_child_twice() {
    let home = Home::new();
    let script = "n=0; trap 'n=$((n+1))' TERM; echo ready; \
                  i=0; while [ $n = 0 ] && [ $i -lt 200 ]; do sleep 0.05; i=$((i+1)); done; \
                  sleep 0.2; sleep 0.1; exit $((40 + n))";
    let (mut child, _out) = start(&home, script);
    kill_process_group(pid(&child), Signal::TERM).unwrap();
    let code = child.wait().unwrap().code();
    // Two that are pending at once are one.
    assert!(matches!(code, Some(41 | 42)), "{code:?}");
}

#[test]
fn a_rift_that_is_killed_takes_its_child_along() {
    let home = Home::new();
    let (mut child, mut out) = start(&home, "echo ready; echo $$; exec sleep 600");
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    let command = Pid::from_raw(line.trim().parse().unwrap()).unwrap();
    kill_process(command, Signal::CONT).unwrap();
    kill_process(pid(&child), Signal::KILL).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "", "the child's end of the pipe closes");
}

/// Tells the state of a process, see proc_pid_stat(5).
fn state(process: Pid) -> Option<char> {
    let path = format!("/proc/{}/stat", process.as_raw_nonzero());
    fs::read_to_string(path).ok()?.rsplit_once(") ")?.1.chars().next()
}

#[test]
fn stopping_rift_alone_does_not_stop_its_child() {
    let home = Home::new();
    let (mut child, mut out) = start(&home, "echo ready; echo $$; while :; do :; done");
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    let command = Pid::from_raw(line.trim().parse().unwrap()).unwrap();
    let stops = |process, expected: bool| {
        (0..200).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            (state(process) == Some('T')) == expected
        })
    };
    kill_process(pid(&child), Signal::TSTP).unwrap();
    assert!(stops(pid(&child), true));
    assert_ne!(state(command), Some('T'), "only rift was told");
    kill_process(pid(&child), Signal::CONT).unwrap();
    assert!(stops(pid(&child), false));
    kill_process_group(pid(&child), Signal::STOP).unwrap();
    assert!(stops(pid(&child), true) && stops(command, true), "as Ctrl-Z does");
    kill_process_group(pid(&child), Signal::CONT).unwrap();
    assert!(stops(pid(&child), false) && stops(command, false));
    kill_process(pid(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(15));
}

#[test]
fn a_child_that_signals_its_group_gets_the_signal_once() {
    let home = Home::new();
    let script =
        "n=0; trap 'n=$((n+1))' TERM; echo ready; kill -TERM 0; sleep 0.3; exit $((40 + n))";
    let (mut child, _out) = start(&home, script);
    assert_eq!(child.wait().unwrap().code(), Some(41));
}

#[test]
fn ctrl_c_reaches_the_child_once() {
    let home = Home::new();
    // script(1) gives a terminal and types what it reads.
    let inner = "n=0; trap 'n=$((n+1))' INT; echo ready; \
                 i=0; while [ $n = 0 ] && [ $i -lt 200 ]; do sleep 0.05; i=$((i+1)); done; \
                 sleep 0.2; sleep 0.1; echo counted $n; exit 40";
    fs::write(home.work("inner.sh"), inner).unwrap();
    let line = format!("exec {} exec -- sh ./inner.sh", env!("CARGO_BIN_EXE_rift"));
    let mut typist = home.command("script");
    typist.args(["-q", "-e", "-c", &line, "/dev/null"]).env("TERM", "dumb");
    let spawned = typist.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut typist = match spawned {
        Ok(typist) => typist,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("skipped: script(1) is not here to give a terminal");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let mut keyboard = typist.stdin.take().unwrap();
    let mut screen = BufReader::new(typist.stdout.take().unwrap());
    let mut text = String::new();
    while !text.contains("ready") {
        assert_ne!(screen.read_line(&mut text).unwrap(), 0, "{text}");
    }
    keyboard.write_all(b"\x03").unwrap();
    screen.read_to_string(&mut text).unwrap();
    assert_eq!(typist.wait().unwrap().code(), Some(40), "{text}");
    assert!(text.contains("counted 1"), "{text}");
}

#[test]
fn signal_dispositions_are_inherited_as_they_are() {
    let home = Home::new();
    let look = "grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status";
    for before in ["", "trap '' PIPE; ", "trap '' INT HUP; ", "trap '' PIPE TERM; "] {
        let run = |prefix: &str| {
            let script = format!("{before}exec {prefix} {look}");
            let output = home.command("bash").args(["-c", &script]).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let masks = text.lines().map(|line| line.split_once(":\t").unwrap());
            masks.map(|(name, mask)| format!("{name} {mask}\n")).collect::<String>()
        };
        let native = run("");
        assert!(native.contains("SigIgn"));
        assert_eq!(run(&format!("{} exec --", env!("CARGO_BIN_EXE_rift"))), native, "{before}");
        let disabled = format!("env RIFT_DISABLE=1 {} exec --", env!("CARGO_BIN_EXE_rift"));
        assert_eq!(run(&disabled), native, "{before}");
    }
}

#[test]
fn streams_arguments_and_environment_pass_through() {
    let home = Home::new();
    let odd = OsStr::from_bytes(b"caf\xe9 \n--help");
    let mut rift = home.rift();
    rift.args(["exec", "--"]).args([
        "sh",
        "-c",
        "cat; printf %s \"$1\"; printf %s \"$X\" >&2",
        "sh",
    ]);
    rift.arg(odd).env("X", odd).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = rift.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"in\xff").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.stdout, [b"in\xff", odd.as_bytes()].concat());
    assert_eq!(output.stderr, odd.as_bytes(), "rift says nothing of its own");
    let native = home.command("env").output().unwrap();
    let under = home.run(["exec", "--", "env"]);
    assert_eq!(under.0.stdout, native.stdout, "the environment is the same");
}

/// A closed stream stays closed: the program is told by `EBADF`, and the next file it opens gets the number.
#[test]
fn closed_streams_stay_closed() {
    let home = Home::new();
    // Builtins only: a redirection or a substitution would open descriptors.
    let look = "s=; for n in 0 1 2 3 4 5 6 7 8 9; do f=/proc/$$/fd/$n; \
                if [ $f -ef /dev/null ]; then s+=n; elif [ -e $f ]; then s+=o; else s+=-; fi; done; \
                echo $s > seen";
    fs::write(home.work("look.sh"), look).unwrap();
    let rift = env!("CARGO_BIN_EXE_rift");
    let prefixes =
        ["".into(), format!("{rift} exec --"), format!("env RIFT_DISABLE=1 {rift} exec --")];
    for (streams, expected) in [
        ("", "nnn-------\n"),
        ("<&-", "-nn-------\n"),
        (">&-", "n-n-------\n"),
        ("2>&-", "nn--------\n"),
        ("<&- >&-", "--n-------\n"),
        ("<&- >&- 2>&-", "----------\n"),
        ("<&- 5</dev/zero", "-nn--o----\n"),
    ] {
        for prefix in &prefixes {
            let line = format!("exec {prefix} bash -c '. ./look.sh' {streams}");
            let mut bash = home.command("bash");
            bash.args(["-c", &line])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            assert!(bash.status().unwrap().success(), "{line}");
            assert_eq!(fs::read_to_string(home.work("seen")).unwrap(), expected, "{line}");
        }
    }
}

#[test]
fn arguments_need_no_dashes_before_them() {
    let home = Home::new();
    assert_eq!(home.run(["exec", "echo", "--help", "-q"]).good(), "--help -q\n");
    assert_eq!(home.run(["exec", "--verify", "--", "echo", "--", "x"]).good(), "-- x\n");
}

#[test]
fn a_broken_settings_file_fails_exec_but_not_when_rift_is_off() {
    let home = Home::new();
    fs::write(home.work("rift.toml"), b"vai = 'hardlink'\n").unwrap();
    let error = home.run(["exec", "--", "true"]).bad(125);
    assert!(error.contains("rift.toml:1: unknown key `vai`"), "{error}");
    assert!(error.contains("hint: did you mean `via`?"), "{error}");
    let off = home.rift().args(["exec", "--", "true"]).env("RIFT_DISABLE", "1").status().unwrap();
    assert_eq!(off.code(), Some(0));
}

#[test]
fn a_hooked_command_runs_alone_where_rift_cannot_begin() {
    let home = Home::new();
    fs::write(home.work("rift.toml"), b"vai = 'hardlink'\n").unwrap();
    let hooked = |strict: &str| {
        let mut rift = home.rift();
        rift.args(["exec", "--hooked", "--", "sh", "-c", "echo out; exit 3"]);
        let output = rift.env("RIFT_STRICT", strict).output().unwrap();
        let [out, err] =
            [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        (output.status.code(), out, err)
    };
    for is_off in ["", "0", "false"] {
        let (status, out, err) = hooked(is_off);
        assert_eq!((status, out.as_str()), (Some(3), "out\n"), "{err}");
        assert!(err.starts_with("warning: sh runs without rift: "), "{err}");
        assert!(err.ends_with("rift.toml:1: unknown key `vai`; did you mean `via`?\n"), "{err}");
    }
    let (status, out, err) = hooked("1");
    assert_eq!((status, out.as_str()), (Some(125), ""), "{err}");
}

#[test]
fn the_summary_of_an_unknown_command_is_for_programs_only() {
    let home = Home::new();
    let ran = home.run(["exec", "--summary-json", "s.json", "--", "sh", "-c", "exit 3"]);
    assert_eq!(ran.bad(3), "");
    let text = fs::read_to_string(home.work("s.json")).unwrap();
    let summary: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(summary["mode"], "untouched");
    assert_eq!(summary["command"][0], "sh");
    assert_eq!(summary["original_ms"], serde_json::Value::Null);
    assert_eq!(home.run(["plan", "--", "make"]).good(), "make: not recognized: runs untouched\n");
    assert!(!home.path().join(".local").exists(), "no store is made for it");
}

#[test]
fn a_child_left_without_its_reader_ends_as_it_would_natively() {
    let home = Home::new();
    let line = |prefix: &str| format!("{prefix} yes | head -1; echo ${{PIPESTATUS[0]}}");
    let run = |prefix: &str| {
        let mut bash: Command = home.command("bash");
        String::from_utf8(bash.args(["-c", &line(prefix)]).output().unwrap().stdout).unwrap()
    };
    assert_eq!(run(&format!("{} exec --", env!("CARGO_BIN_EXE_rift"))), run(""));
}
