//! The edges of processes: programs that clear or use the environment, that have a runtime or rights of their own, or
//! that are built for another C library or processor. Each says the same with real files and under the shim.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use rift_tests::again::{Again, NOBODY, is_again, run};
use rift_tests::apps::{compiled, compiled_by, compiled_with};
use rift_tests::need::{Need, find_in_path, have, skip};
use rift_tests::pair::Pair;
use rift_tests::repository;
use rift_tests::sandbox::{clear, rift_binary};

/// A small tree with programs in it.
fn small(name: &str, programs: &[&Path]) -> Pair {
    let pair = Pair::new(name, |sandbox, source| {
        for folder in ["bin", "lib/deep"] {
            fs::create_dir_all(source.join(folder)).unwrap();
        }
        let numbers: String = (0..3000).map(|number| format!("{number}\n")).collect();
        for (file, text) in [("a", "hello\n"), ("lib/deep/numbers", &numbers), ("lib/s", "words\n")]
        {
            fs::write(source.join(file), text).unwrap();
        }
        for program in programs {
            let place = source.join("bin").join(program.file_name().unwrap());
            fs::copy(program, place).unwrap();
        }
        // Others than the owner look at it in some tests.
        for folder in [sandbox.path(""), sandbox.home()] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        }
    });
    fs::write(pair.real.join("outside"), "out\n").unwrap();
    fs::write(pair.shim.join("outside"), "out\n").unwrap();
    pair
}

/// Links of a tree that lead out of it, and `..`, lead where they do among real files.
#[test]
fn links_out_of_a_tree_lead_there() {
    let pair = Pair::new("edges-links", |_, source| {
        fs::create_dir(source.join("d")).unwrap();
        for (target, link) in [
            ("/etc/passwd", "absolute"),
            ("/etc", "folder"),
            ("../../outside", "d/up"),
            ("../outside", "up"),
            ("d/up", "twice"),
            ("/bin/sh", "shell"),
        ] {
            symlink(target, source.join(link)).unwrap();
        }
    });
    for at in [&pair.real, &pair.shim] {
        fs::write(at.join("outside"), "out\n").unwrap();
    }
    let by_descriptor = "import os\nd = os.open('view/d', os.O_RDONLY)\n\
                         print(os.stat('up', dir_fd=d).st_size, os.stat('../../outside', dir_fd=d).st_size)\n\
                         os.chdir(d)\nprint(open('up').read())";
    // What is beside the root of another projection is found in another way.
    for others in [0, 1] {
        for (line, wanted) in [
            ("cat view/absolute", "root:"),
            ("cat view/folder/passwd", "root:"),
            ("ls view/folder/ | grep passwd", "passwd"),
            ("cat view/d/up view/up view/twice", "out\nout\nout"),
            ("cat view/d/../../outside", "out"),
            ("stat -L -c %s view/up", "4"),
            ("stat -c '%F %N' view/up", "symbolic link"),
            ("view/shell -c 'echo started'", "started"),
            ("exec view/shell -c 'echo started'", "started"),
            ("cd view/folder && pwd -P", "/etc"),
            ("find -L view/d -printf '%p %s\\n'", "view/d/up 4"),
            ("realpath view/twice", "outside"),
            ("cp -rL view/d copy && cat copy/up; rm -r copy", "out"),
            ("mkdir view/new; mv view/d/up view/new/; cat view/new/up", "out"),
            ("chmod 600 view/up; stat -c %a outside; chmod 644 outside", "600"),
            ("echo more >>view/up; cat outside; echo out >outside", "more"),
            ("touch view/folder/../nowhere/x; echo $?", "1"),
            ("stat view/absolute/x; echo $?", "Not a directory"),
            ("rm view/folder/missing", "No such file"),
        ] {
            // Each finds nothing that is real.
            pair.begin_again();
            pair.copy();
            pair.assert_same_line(line, wanted);
            if line.contains("realpath") {
                assert!(!pair.is_real("absolute"));
            }
        }
        if others == 0 && have("links_out_of_a_tree_lead_there", &[Need::Tool("python3")]) {
            pair.begin_again();
            pair.assert_same(&["python3", "-c", by_descriptor], "4 4");
        }
        if others == 0 {
            pair.show_another();
        }
    }
}

/// What is missing in a directory that is real by now hides nothing that the tree has in it, also where another projection or a
/// link makes the way there a longer one.
#[test]
fn a_missing_name_hides_no_other() {
    let pair = small("edges-missing", &[]);
    for at in [&pair.real, &pair.shim] {
        symlink(".", at.join("alias")).unwrap();
    }
    pair.show_another();
    for way in ["view", "alias/view", "./alias/view"] {
        let line = format!(
            "cat {way}/lib/deep/numbers >log; cat {way}/lib/none {way}/lib/s; rm -f {way}/lib/no; cat {way}/lib/none {way}/a {way}/lib/s"
        );
        pair.assert_same_line(&line, "words\nhello\nwords");
        pair.begin_again();
    }
}

/// Each of the shells reads, globs, changes to and redirects into folders that only the shim shows.
#[test]
fn shells_work_in_a_tree() {
    let name = "shells_work_in_a_tree";
    let pair = small("edges-shells", &[]);
    for (shell, more) in [
        ("dash", ""),
        (
            "bash",
            "shopt -s globstar; echo view/**; [ -f view/a ] && mapfile -t x <view/a && echo $x",
        ),
        ("zsh", "print -l view/**/*(.); print $(<view/a)"),
        ("busybox", ""),
    ] {
        if !have(name, &[Need::Tool(shell)]) {
            continue;
        }
        let script = format!(
            "{more}\necho view/* view/lib/*; cd view/lib && pwd && . ./s 2>/dev/null; wc -l <deep/numbers; \
             read x <../a; echo $x; for i in deep/*; do echo $i; done; echo {shell} >made; cat made; cd -; \
             test -x view/lib && test ! -e view/none && echo right"
        );
        let words: &[&str] = match shell {
            "busybox" => &["busybox", "sh", "-c", &script],
            "zsh" => &["zsh", "-fc", &script],
            shell => &[shell, "-c", &script],
        };
        pair.assert_same(words, "right");
    }
    let perl = "chdir 'view/lib'; print for sort glob '*'; open F, '<', '../a'; print <F>; \
                -d 'deep' and print 'right'; unlink 'made'; rename 's', 't'; print sort <*>";
    if have(name, &[Need::Tool("perl")]) {
        pair.assert_same(&["perl", "-e", perl], "right");
    }
    pair.end();
}

/// Who clears the environment, or takes the shim out of it, starts programs that have it all the same.
#[test]
fn a_cleared_environment_keeps_the_tree() {
    let pair = small("edges-cleared", &[]);
    for words in [
        &["env", "-i", "/bin/cat", "view/a"][..],
        &["env", "-i", "/bin/sh", "-c", "/bin/cat view/a; /bin/ls view; exec /bin/cat view/a"],
        &["env", "-u", "LD_PRELOAD", "cat", "view/a"],
        &["sh", "-c", "unset LD_PRELOAD RIFT_RUN; ls view; exec cat view/a"],
        &["sh", "-c", "LD_PRELOAD= RIFT_RUN= exec cat view/a"],
    ] {
        pair.assert_same(words, "hello");
    }
    assert!(!pair.is_real("lib"));
    pair.end();
}

/// What the kernel opens to start a program is made real with the way to it: interpreters and loaders of the tree.
#[test]
fn interpreters_and_loaders_of_a_tree_start_programs() {
    let name = "interpreters_and_loaders_of_a_tree_start_programs";
    if !have(name, &[Need::Tool("cc")]) {
        return;
    }
    let plain = compiled("cat").unwrap();
    let pair = small("edges-started", &[&plain]);
    let source = pair.sandbox.path("source");
    symlink("bin/cat", source.join("link")).unwrap();
    symlink("bin", source.join("folder")).unwrap();
    fs::copy("/lib64/ld-linux-x86-64.so.2", source.join("lib/loader")).unwrap();
    for at in [&pair.real, &pair.shim] {
        for way in ["bin/cat", "link", "folder/cat", "lib/../bin/cat"] {
            let script = at.join(way.replace('/', "-"));
            fs::write(&script, format!("#!{}/view/{way}\nbody\n", at.display())).unwrap();
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let loader = format!("-Wl,--dynamic-linker={}/view/lib/loader", at.display());
        let mut cc = pair.sandbox.command(at, "cc");
        let program = repository().join("tests/apps/cat.c");
        assert!(cc.arg(&loader).arg(program).args(["-o", "loaded"]).status().unwrap().success());
    }
    pair.take_in();
    for started in ["bin-cat", "link", "folder-cat", "lib-..-bin-cat"] {
        pair.assert_same(&[&format!("./{started}")], "body");
        pair.begin_again();
        pair.assert_same_line(&format!("exec ./{started}"), "body");
        pair.begin_again();
    }
    // A link on the way is real, and what it leads to is not.
    pair.assert_same_line("touch -h view/folder; exec ./folder-cat", "body");
    pair.begin_again();
    // The way leads in by a directory outside.
    pair.assert_same_line("mkdir else; cd else; ../view/link ../view/a", "hello");
    pair.begin_again();
    pair.assert_same_line("exec ./loaded view/a", "hello");
    pair.begin_again();
    pair.assert_same(&["./loaded", "view/a"], "hello");
}

/// Another preloaded library is loaded as well, wherever it is named, and hears what it would hear without the shim.
#[test]
fn other_preloaded_libraries_are_kept() {
    let name = "other_preloaded_libraries_are_kept";
    if !have(name, &[Need::Tool("cc")]) {
        return;
    }
    let library = compiled_with("count_opens", "count_opens.so", &["-shared", "-fPIC"]).unwrap();
    let library = library.display().to_string();
    let pair = small("edges-preload", &[]);
    for preload in [
        format!("LD_PRELOAD={library}"),
        format!("LD_PRELOAD={library}:$LD_PRELOAD"),
        format!("LD_PRELOAD=$LD_PRELOAD:{library}"),
        format!("LD_PRELOAD='{library} '$LD_PRELOAD"),
    ] {
        let line = format!(
            "rm -f counts; COUNT_TO=$PWD/counts {preload} cat view/a view/lib/deep/numbers | tail -n 1; cat counts"
        );
        // One file each.
        pair.assert_same_line(&line, "2999\n2\n");
    }
    // It was there before the run.
    let mut command = pair.command("view", &["cat", "view/a", "view/lib/s"]);
    command.env("LD_PRELOAD", &library).env("COUNT_TO", pair.sandbox.path("counted"));
    let ran = pair.sandbox.run(&mut command).unwrap().success().unwrap();
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("hello\nwords\n", ""), "{ran}");
    let counted = fs::read_to_string(pair.sandbox.path("counted")).unwrap();
    assert_eq!(counted.lines().next(), Some("2"), "{counted}");
    pair.end();
}

/// Programs with the sanitizers' runtimes in them, which look at what was loaded before, and replace the allocator.
#[test]
fn sanitized_programs_work_in_a_tree() {
    let name = "sanitized_programs_work_in_a_tree";
    if !have(name, &[Need::Tool("cc")]) {
        return;
    }
    let address =
        compiled_with("reads", "reads-asan", &["-fsanitize=address", "-pthread"]).unwrap();
    let thread = compiled_with("reads", "reads-tsan", &["-fsanitize=thread", "-pthread"]).unwrap();
    let pair = small("edges-sanitized", &[&address, &thread]);
    for line in [
        "view/bin/reads-asan view/a view/lib/deep/numbers",
        "view/bin/reads-tsan view/a view/lib/deep/numbers",
        "ASAN_OPTIONS=detect_leaks=1 view/bin/reads-asan view/a view/lib/none view/lib/deep/numbers",
        "env -i view/bin/reads-asan view/a view/lib/deep/numbers",
        "LD_PRELOAD=$(cc -print-file-name=libasan.so) cat view/lib/deep/numbers >/dev/null && echo view/lib/deep/numbers: 13890",
    ] {
        pair.assert_same_line(line, "view/lib/deep/numbers: 13890");
        pair.begin_again();
    }
    let words = ["view/bin/reads-asan", "view/a"];
    pair.assert_same(&words, "view/a: 6 bytes, hello");
    assert!(!pair.is_real("lib"));
    pair.end();
}

/// Allocators that are preloaded or linked.
#[test]
fn other_allocators_work_in_a_tree() {
    let name = "other_allocators_work_in_a_tree";
    if !have(name, &[Need::Tool("cc"), Need::Library("jemalloc"), Need::Library("mimalloc")]) {
        return;
    }
    let [jemalloc, mimalloc] = ["jemalloc", "mimalloc"].map(|library| {
        let words = ["-pthread", "-Wl,--no-as-needed", &format!("-l{library}")];
        compiled_with("reads", &format!("reads-{library}"), &words).unwrap()
    });
    let plain = compiled_with("reads", "reads", &["-pthread"]).unwrap();
    let pair = small("edges-allocators", &[&jemalloc, &mimalloc, &plain]);
    for line in [
        "view/bin/reads-jemalloc view/a view/lib/deep/numbers",
        "view/bin/reads-mimalloc view/a view/lib/deep/numbers",
        "LD_PRELOAD=$(cc -print-file-name=libjemalloc.so) view/bin/reads view/a view/lib/deep/numbers; ls -R view",
        "LD_PRELOAD=$(cc -print-file-name=libmimalloc.so) view/bin/reads view/a view/lib/deep/numbers; ls -R view",
    ] {
        pair.assert_same_line(line, "view/lib/deep/numbers: 13890");
    }
    pair.end();
}

/// Programs for another processor or C library, and without any loader: none sees an empty directory, and no loader
/// complains of a library that it can't load.
#[test]
fn foreign_programs_see_the_tree() {
    let name = "foreign_programs_see_the_tree";
    if !have(name, &[Need::Tool("cc")]) {
        return;
    }
    let mut ways = vec![("cc", "reads-static", &["-static", "-pthread"][..])];
    if have(name, &[Need::Narrow]) {
        ways.push(("cc", "reads-32", &["-m32", "-pthread"]));
        ways.push(("cc", "reads-32-static", &["-m32", "-static", "-pthread"]));
    }
    if have(name, &[Need::Tool("musl-gcc")]) {
        ways.push(("musl-gcc", "reads-musl", &["-pthread"]));
        ways.push(("musl-gcc", "reads-musl-static", &["-static", "-pthread"]));
    }
    for (compiler, program, words) in ways {
        let made = compiled_by(compiler, "reads", program, words).unwrap();
        let pair = small("edges-foreign", &[&made]);
        let inside = format!("view/bin/{program}");
        let wanted = "view/lib/deep/numbers: 13890";
        pair.assert_same(&[&inside, "view/a", "view/lib/deep/numbers"], wanted);
        pair.begin_again();
        // What it starts, and what is started after it.
        let line = format!(
            "{inside} view/a view/lib/deep/numbers; echo x >view/x; exec {inside} view/x view/lib/s"
        );
        pair.assert_same_line(&line, wanted);
        pair.begin_again();
        let outside = made.display().to_string();
        pair.assert_same(&["env", "-i", &outside, "view/a", "view/lib/deep/numbers"], wanted);
    }
    if have(name, &[Need::Tool("busybox")]) {
        let pair = small("edges-busybox", &[&find_in_path("busybox").unwrap()]);
        pair.assert_same(&["view/bin/busybox", "sh", "-c", "ls -R view; /bin/cat view/a"], "hello");
    }
}

/// Programs that become another user: they and what they start see the tree, and no loader complains of a library of
/// somebody else.
#[test]
fn programs_of_another_user_see_the_tree() {
    let name = "programs_of_another_user_see_the_tree";
    if !have(name, &[Need::Root]) {
        return;
    }
    let as_nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    for (tool, words) in [
        ("sudo", &["sudo", "-n", "cat", "view/a"][..]),
        ("sudo", &["sudo", "-n", "-u", "nobody", "sh", "-c", "ls view; cat view/lib/s view/a"]),
        ("su", &["su", "-s", "/bin/sh", "nobody", "-c", "ls view; cat view/lib/s view/a"]),
        ("setpriv", &[&["setpriv"], &as_nobody[..], &["sh", "-c", "ls view; cat view/a"]].concat()),
        (
            "setpriv",
            &[
                "sh",
                "-c",
                "setpriv --reuid=65534 --clear-groups sh -c 'cat view/lib/s'; cat view/a",
            ],
        ),
    ] {
        if !have(name, &[Need::Tool(tool)]) {
            continue;
        }
        // No right is given up for trapping system calls.
        for flags in [&[][..], &["--trap"]] {
            let mut pair = small("edges-user", &[]);
            pair.flags = flags;
            pair.assert_same(words, "hello");
        }
    }
}

/// Programs below another root, from which the shim can't be loaded, see the tree where it is below that root, and no
/// loader complains.
#[test]
fn a_changed_root_keeps_the_tree() {
    let name = "a_changed_root_keeps_the_tree";
    if !have(name, &["chroot", "unshare", "busybox"].map(Need::Tool)) || !have(name, &[Need::Root])
    {
        return;
    }
    // The loader and the libraries of a program that is dynamic.
    let fill = "for file in /bin/cat $(ldd /bin/cat | grep -o '/[^ ]*'); do \
                case $file in *-librift.so) ;; *) mkdir -p $root${file%/*}; cp -L $file $root$file ;; esac; done; ";
    for (line, wanted) in [
        ("root=.; FILL chroot . /bin/cat view/a view/lib/s", "words"),
        ("root=view; FILL chroot view /bin/cat a lib/s", "words"),
        ("root=other; FILL chroot other /bin/cat view/a; echo $?", "No such file"),
        (
            "root=other; FILL mkdir -p other/$PWD/view && mount --bind other other && mount --bind view other/$PWD/view && \
             cd other && mkdir old && pivot_root . old && exec /bin/cat ${PWD%/other}/view/a",
            "hello",
        ),
    ] {
        let pair = small("edges-root", &[]);
        let line = line.replace("FILL", fill);
        pair.assert_same(&["unshare", "--mount", "sh", "-c", &line], wanted);
    }
}

/// A debugger stops a program of the tree where it should, and the program does what it does.
#[test]
fn a_debugger_works_in_a_tree() {
    let name = "a_debugger_works_in_a_tree";
    if !have(name, &[Need::Tool("cc"), Need::Tool("gdb"), Need::Strace]) {
        return;
    }
    let program = compiled("cat").unwrap();
    let pair = small("edges-debugger", &[&program]);
    let line = "gdb -q -batch -ex 'break main' -ex run -ex continue -ex 'print 6*7' --args view/bin/cat view/a 2>&1 | \
                grep -oE '^(hello|.1 = 42|Breakpoint 1, .* main|.Inferior 1 .*exited normally)' | sed 's/process [0-9]*//'";
    let said = pair.assert_same_line(line, "Breakpoint 1, 0x0000555555555");
    assert!(said.contains("hello") && said.contains("exited normally"), "{said}");
    pair.assert_same(&["strace", "-f", "-o", "/dev/null", "view/bin/cat", "view/a"], "hello");
    let loaded = [
        "gdb",
        "-q",
        "-batch",
        "-ex",
        "break main",
        "-ex",
        "run",
        "-ex",
        "info sharedlibrary",
        "view/bin/cat",
    ];
    assert!(pair.virtually(&loaded).stdout.contains("-librift.so"));
    assert!(!pair.is_real("lib"));
    // It starts the loader by itself, which is a program without one.
    let listed = pair.virtually(&["ldd", "view/bin/cat"]).stdout;
    assert!(listed.contains("-librift.so") && listed.contains("libc.so"), "{listed}");
    pair.end();
}

/// A browser, whose processes take away their own system calls, shows a page of the tree, its script included.
#[test]
fn a_browser_with_its_own_sandbox_works() {
    let name = "a_browser_with_its_own_sandbox_works";
    if !is_again() {
        if have(name, &[Need::Tool("chromium"), Need::PidNamespace, Need::Nobody]) {
            run(name, Again { user: NOBODY, fuse_conf: "" });
        }
        return;
    }
    let mut pair = Pair::new("edges-browser", |_, source| {
        let page = "<html><body><p id=x>page</p><script src=\"s/s.js\"></script></body></html>";
        fs::create_dir(source.join("s")).unwrap();
        fs::write(source.join("page.html"), page).unwrap();
        let script = "document.getElementById('x').textContent = 'from the script';";
        fs::write(source.join("s/s.js"), script).unwrap();
        fs::write(source.join("s/unseen"), "").unwrap();
    });
    // The path of a socket is short. What it says of the machine differs from run to run.
    let line = "export TMPDIR=$(mktemp -d -p /tmp); trap 'rm -r $TMPDIR' EXIT; \
                timeout 100 chromium --headless --disable-gpu --no-first-run --user-data-dir=$PWD/user \
                --virtual-time-budget=2000 --dump-dom file://$PWD/view/page.html 2>/dev/null";
    for flags in [&[][..], &["--trap"]] {
        pair.flags = flags;
        pair.assert_same_line(line, "from the script");
        assert!(pair.is_real("s/s.js") && !pair.is_real("s/unseen"));
    }
    pair.end();
}

/// Changes the build-id of a library, so that nobody has seen it.
fn change_build_id(library: &Path) {
    let mut bytes = fs::read(library).unwrap();
    // A note of 20 bytes, of kind 3, by GNU: see elf(5).
    let head = [4, 0, 0, 0, 20, 0, 0, 0, 3, 0, 0, 0, b'G', b'N', b'U', 0];
    let at = bytes.windows(head.len()).position(|part| part == head).unwrap() + head.len();
    bytes[at..at + 20].reverse();
    fs::write(library, bytes).unwrap();
}

/// A program with a C library and a loader that no run was told of sees the tree, the first time and from then on.
#[test]
fn an_unknown_c_library_is_looked_at() {
    let name = "an_unknown_c_library_is_looked_at";
    if !have(name, &[Need::Tool("cc"), Need::Tool("ldd")]) {
        return;
    }
    let mut pair = small("edges-unknown", &[]);
    let own = pair.sandbox.path("own");
    fs::create_dir(&own).unwrap();
    let line = "for file in $(ldd /bin/cat | grep -oE '/[^ ]*/(libc|ld-linux-x86-64)[.]so[.][0-9]'); do \
                cp -L $file $0; done; ls $0";
    let copied = pair.really(&["sh", "-c", line, own.to_str().unwrap()]);
    assert_eq!(copied.stdout, "ld-linux-x86-64.so.2\nlibc.so.6\n", "{copied}");
    for library in ["ld-linux-x86-64.so.2", "libc.so.6"] {
        change_build_id(&own.join(library));
    }
    let program = own.join("cat");
    let (loader, folder) = (own.join("ld-linux-x86-64.so.2"), own.display().to_string());
    let source = repository().join("tests/apps/cat.c").display().to_string();
    let loader = format!("-Wl,--dynamic-linker={}", loader.display());
    let rpath = format!("-Wl,-rpath,{folder}");
    let program = program.to_str().unwrap();
    let made = pair.really(&["cc", &loader, &rpath, "-o", program, &source]);
    made.success().unwrap();
    let tools = || fs::read_dir(pair.sandbox.store().join("tools")).unwrap().count();
    for is_first in [true, false] {
        pair.begin_again();
        let before = pair.virtually(&["true"]).success().map(|_| tools()).unwrap();
        pair.assert_same(&[program, "view/lib/s"], "words");
        assert!(pair.is_real("lib/s") && !pair.is_real("a"), "not all was made real");
        // What was found, and a copy, of each of the two.
        assert_eq!(tools() - before, if is_first { 4 } else { 0 });
    }
    // Of another copy, all system calls are jumps.
    pair.begin_again();
    pair.flags = &["--trap"];
    let before = pair.virtually(&["true"]).success().map(|_| tools()).unwrap();
    pair.assert_same(&[program, "view/lib/s"], "words");
    assert!(pair.is_real("lib/s") && !pair.is_real("a"), "not all was made real");
    assert_eq!(tools() - before, 4);
    pair.flags = &[];
    // What can't be looked at finds real files.
    for library in ["ld-linux-x86-64.so.2", "libc.so.6"] {
        let (place, hidden) = (own.join(library), own.join("hidden"));
        fs::rename(&place, &hidden).unwrap();
        fs::copy(&hidden, &place).unwrap();
        strip_build_id(&place);
    }
    pair.begin_again();
    pair.assert_same(&[program, "view/lib/s"], "words");
    assert!(pair.is_real("a"), "all was made real");
    pair.end();
}

/// Takes the build-id of a library away: its note becomes one of another kind.
fn strip_build_id(library: &Path) {
    let mut bytes = fs::read(library).unwrap();
    let head = [4, 0, 0, 0, 20, 0, 0, 0, 3, 0, 0, 0, b'G', b'N', b'U', 0];
    let at = bytes.windows(head.len()).position(|part| part == head).unwrap();
    bytes[at + 8] = 99;
    fs::write(library, bytes).unwrap();
}

/// Where no memory may become executable that was written, the tree is seen as well.
#[test]
fn a_tree_is_seen_where_code_may_not_be_written() {
    let name = "a_tree_is_seen_where_code_may_not_be_written";
    if !have(name, &[Need::Tool("cc")]) {
        return;
    }
    let program = compiled("deny_exec_gain").unwrap();
    let program = program.to_str().unwrap();
    let pair = small("edges-deny", &[]);
    if pair.really(&[program, "true"]).status.code() == Some(125) {
        return skip(name, "the kernel lets memory become executable");
    }
    pair.assert_same(&[program, "sh", "-c", "cat view/a; ls view/lib"], "hello");
    assert!(pair.is_real("a") && !pair.is_real("lib"), "not all was made real");
    pair.end();
}

/// A system call beside which nothing can move is heard of as well, where the library's copy is mapped and where it is
/// patched in its place.
#[test]
fn a_call_that_stands_alone_is_heard_of() {
    let name = "a_call_that_stands_alone_is_heard_of";
    if !have(name, &[Need::Tool("cc")]) {
        return;
    }
    let pair = small("edges-alone", &[]);
    let source = repository().join("tests/apps/alone.c").display().to_string();
    let [library, program] =
        ["libc-alone.so", "alone"].map(|file| pair.sandbox.path(file).display().to_string());
    let library_words = ["cc", "-shared", "-DLIBRARY", "-Wl,--build-id", "-o", &library, &source];
    pair.really(&library_words).success().unwrap();
    let rpath = format!("-Wl,-rpath,{}", pair.sandbox.path("").display());
    pair.really(&["cc", "-o", &program, &source, &library, &rpath]).success().unwrap();
    pair.assert_same(&[&program, "view/lib/s"], "words");
    assert!(!pair.is_real("a"), "not all was made real");
    if have(name, &[Need::Tool("gdb")]) {
        pair.begin_again();
        let line =
            format!("gdb -q -batch -ex run --args {program} view/lib/s 2>&1 | grep -o words");
        pair.assert_same_line(&line, "words");
        assert!(!pair.is_real("a"), "not all was made real");
    }
    pair.end();
}

/// A debugger that stops a program in the C library and in what it loads later finds its stops.
#[test]
fn stops_in_the_c_library_stay() {
    let name = "stops_in_the_c_library_stay";
    if !have(name, &[Need::Tool("gdb")]) {
        return;
    }
    let pair = small("edges-stops", &[]);
    let line = "gdb -q -batch -ex 'set breakpoint pending on' -ex 'break setlocale' -ex run -ex continue \
                --args cat view/a 2>&1 | grep -oE '^(hello|Breakpoint 1, .*setlocale|.Inferior 1 .*exited normally)' | \
                sed -e 's/process [0-9]*//' -e 's/0x[0-9a-f]*//'";
    let said = pair.assert_same_line(line, "setlocale");
    assert!(said.contains("hello") && said.contains("exited normally"), "{said}");
    assert!(!pair.is_real("lib"));
    pair.end();
}

/// The code that runs is in a file whose bytes at other places are the library's, so that symbols are found.
#[test]
fn maps_show_the_patched_copies() {
    let pair = small("edges-maps", &[]);
    let maps = pair.virtually(&["cat", "/proc/self/maps", "view/a"]).stdout;
    let code = maps.lines().filter(|line| line.contains(" r-xp ") && line.contains("/libc.so"));
    assert_eq!(code.count(), 0, "{maps}");
    let copies = maps.lines().filter(|line| line.ends_with("-libc.so.6"));
    assert!(
        copies.clone().count() == 2 && copies.clone().all(|line| line.contains(" r-xp ")),
        "{maps}"
    );
    assert!(!maps.contains("rwxp"), "{maps}");
    pair.end();
}

/// See PR_SET_SYSCALL_USER_DISPATCH in prctl(2).
const TRAPS: Need = Need::Works(
    "a kernel that traps system calls",
    "case $(uname -r) in [0-4].*|5.[0-9].*|5.10.*) exit 1;; esac",
);

/// A tree as `raw_calls` looks at it, with the program itself.
fn for_raw_calls(name: &str, program: &Path) -> Pair {
    let mut pair = small(name, &[]);
    let source = pair.sandbox.path("source");
    fs::create_dir(source.join("d")).unwrap();
    fs::write(source.join("d/b"), "b\n").unwrap();
    symlink("a", source.join("link")).unwrap();
    fs::copy(program, source.join("raw_calls")).unwrap();
    pair.take_in();
    pair.flags = &["--trap"];
    pair
}

/// System calls that a program makes itself see the tree where they are trapped: from threads, children, handlers, with
/// signals blocked and with SIGSYS handled by the program.
#[test]
fn system_calls_of_the_programs_own_are_trapped() {
    let name = "system_calls_of_the_programs_own_are_trapped";
    if !have(name, &[Need::Tool("cc"), TRAPS]) {
        return;
    }
    let mut ways = vec!["cc"];
    if have(name, &[Need::Tool("musl-gcc")]) {
        ways.push("musl-gcc");
    }
    for compiler in ways {
        let made =
            compiled_by(compiler, "raw_calls", &format!("raw_calls-{compiler}"), &["-pthread"])
                .unwrap();
        let program = made.display().to_string();
        let mut pair = for_raw_calls("edges-raw", &made);
        let said = pair.assert_same(&[&program, "view"], "a sandbox of its own: as it is");
        assert!(!said.contains("OTHERWISE"), "{said}");
        assert!(pair.is_real("a") && !pair.is_real("lib"), "not all was made real");
        pair.end();
        // Nothing is seen of the tree where nothing is trapped.
        clear(&pair.shim.join("view")).unwrap();
        pair.flags = &[];
        let ran = pair.virtually(&[&program, "look", "view"]);
        assert_eq!(ran.status.code(), Some(8), "{ran}");
        // What can't be followed finds real files.
        pair.copy();
        pair.begin_again();
        pair.flags = &["--trap"];
        let said = pair.assert_same(&[&program, "odd", "view"], "a call of another kind: as it is");
        assert!(!said.contains("OTHERWISE"), "{said}");
        assert!(pair.is_real("lib/deep/numbers"), "all was made real");
        pair.end();
    }
}

/// The signal that trapped calls come by can't be blocked there, and what is started ignores it no more than it would.
#[test]
fn sigsys_is_not_blocked_where_calls_are_trapped() {
    let name = "sigsys_is_not_blocked_where_calls_are_trapped";
    if !have(name, &[Need::Tool("python3"), TRAPS]) {
        return;
    }
    let mut pair = small("edges-sigsys", &[]);
    pair.flags = &["--trap"];
    let text = "import ctypes, signal as s\n\
                s.pthread_sigmask(s.SIG_BLOCK, [s.SIGSYS, s.SIGTERM])\n\
                print(sorted(int(one) for one in s.pthread_sigmask(s.SIG_BLOCK, [])))\n\
                print(ctypes.CDLL(None).prctl(59, 0, 0, 0, 0))";
    let words = ["python3", "-c", text];
    assert_eq!(pair.really(&words).success().unwrap().stdout, "[15, 31]\n0\n");
    assert_eq!(pair.virtually(&words).success().unwrap().stdout, "[15]\n-1\n");
    if have(name, &[Need::Tool("cc"), Need::Tool("gdb")]) {
        let raw = compiled_with("cat", "cat-raw", &["-DRAW"]).unwrap().display().to_string();
        let ran = pair.virtually(&["gdb", "-q", "-batch", "-ex", "run", "--args", &raw, "view/a"]);
        assert!(ran.stdout.contains("received signal SIGSYS"), "{ran}");
        let passed = "handle SIGSYS nostop noprint pass";
        let words = ["gdb", "-q", "-batch", "-ex", passed, "-ex", "run", "--args", &raw, "view/a"];
        assert!(pair.virtually(&words).stdout.contains("hello\n"));
    }
}

/// A kernel that traps no calls: the run goes on without, after one line, and with `RIFT_STRICT=1` not at all. Where only a
/// program of the run can't have it, that one finds real files.
#[test]
fn without_a_kernel_that_traps_it_is_said_once() {
    let name = "without_a_kernel_that_traps_it_is_said_once";
    if !have(name, &[Need::Tool("cc"), TRAPS]) {
        return;
    }
    let deny = compiled("deny").unwrap().display().to_string();
    let raw = compiled_with("cat", "cat-raw", &["-DRAW"]).unwrap().display().to_string();
    // PR_SET_SYSCALL_USER_DISPATCH is 59, and has bits that other options in use have not.
    let (call, error) = (format!("{}&48", libc::SYS_prctl), libc::EINVAL.to_string());
    let denied = [deny.as_str(), &call, &error];
    let mut pair = small("edges-no-trap", &[]);
    pair.flags = &["--trap"];
    let within = [&denied[..], &[&raw, "view/a"]].concat();
    assert_eq!(pair.virtually(&within).success().unwrap().stdout, "hello\n");
    assert!(pair.is_real("lib/deep/numbers"), "all was made real");
    pair.begin_again();
    let rift = rift_binary().unwrap().display().to_string();
    let words = ["exec", "--as", "virtual", "--trap", "--tree", "tree=view", "--", "sh", "-c"];
    let line = format!("cat view/a; {raw} view/lib/s || echo nothing");
    let run = |strict: &str| {
        let mut command = pair.sandbox.command(&pair.shim, denied[0]);
        command.args(&denied[1..]).arg(&rift).args(words).arg(&line).env("RIFT_STRICT", strict);
        pair.sandbox.run(&mut command).unwrap()
    };
    let ran = run("0");
    assert_eq!(ran.stdout, "hello\nnothing\n", "{ran}");
    assert_eq!(ran.stderr.lines().filter(|line| line.contains("Linux 5.11")).count(), 1, "{ran}");
    let ran = run("1");
    assert_eq!((ran.status.code(), ran.stdout.as_str()), (Some(125), ""), "{ran}");
    assert!(ran.stderr.contains("Linux 5.11"), "{ran}");
}
