//! Compilers, build tools and interpreters in trees that only the shim shows: what they make is what they make of real
//! files.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rift_tests::need::{Need, have};
use rift_tests::pair::Pair;
use rift_tests::sandbox::{Sandbox, clear};
use rift_tests::target_folder;

/// Writes files below a folder.
fn write(folder: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

/// Runs a line of a shell natively; it has to succeed.
fn natively(sandbox: &Sandbox, at: &Path, line: &str) -> String {
    let mut command = sandbox.command(at, "sh");
    let ran = sandbox.run(command.args(["-ec", line])).unwrap().success().unwrap();
    ran.stdout
}

/// A C project with headers and a library in the tree, built beside it and in it, twice.
#[test]
fn a_c_project_is_built_in_a_tree() {
    let name = "a_c_project_is_built_in_a_tree";
    if !have(name, &["cc", "make", "ar"].map(Need::Tool)) {
        return;
    }
    let pair = Pair::new("build-c", |_, source| {
        write(
            source,
            &[
                ("include/deep/seven.h", "int seven(void);\n"),
                ("lib/seven.c", "#include <deep/seven.h>\nint seven(void) { return 7; }\n"),
                (
                    "main.c",
                    "#include <stdio.h>\n#include \"deep/seven.h\"\nint main(void) { printf(\"%d\\n\", seven()); return 0; }\n",
                ),
                (
                    "Makefile",
                    "OUT ?= .\n$(OUT)/main: main.c $(OUT)/libseven.a\n\tcc -Iinclude $< -L$(OUT) -lseven -o $@\n\
                     $(OUT)/libseven.a: $(OUT)/seven.o\n\tar rcsD $@ $<\n\
                     $(OUT)/seven.o: lib/seven.c include/deep/seven.h\n\tcc -Iinclude -MD -c $< -o $@\n",
                ),
            ],
        );
    });
    for line in [
        "mkdir out && make -C view OUT=../out && out/main && cksum out/*.o out/*.a",
        "make -C view OUT=../out; make -C view && view/main && make -C view",
        "touch view/include/deep/seven.h && make -C view && cat view/seven.d && view/main",
        "mkdir shared && cc -shared -fPIC -Iview/include view/lib/seven.c -o shared/libseven.so && \
         cc -Iview/include view/main.c -Lshared -lseven '-Wl,-rpath,$ORIGIN' -o shared/main && \
         cp -r shared view/ && rm -r shared && view/shared/main",
    ] {
        pair.assert_same_line(line, "7\n");
    }
    pair.end();
}

/// A virtual environment with a package whose C extension finds a library of its own by `$ORIGIN`.
#[test]
fn a_python_environment_works_in_a_tree() {
    let name = "a_python_environment_works_in_a_tree";
    let python = "/usr/bin/python3";
    let can = "/usr/bin/python3 -c 'import venv, sysconfig; open(sysconfig.get_path(\"include\") + \"/Python.h\")'";
    if !have(name, &[Need::Tool("cc"), Need::Works("python3 with venv and its headers", can)]) {
        return;
    }
    let pair = Pair::new("build-python", |sandbox, source| {
        natively(sandbox, source, &format!("{python} -m venv --without-pip ."));
        let site = natively(sandbox, source, "cd lib/python3.*/site-packages; pwd");
        let package = PathBuf::from(site.trim()).join("quick");
        write(
            &package,
            &[
                ("__init__.py", "from ._quick import seven\nfrom . import more\n"),
                ("more.py", "import json\nVALUE = json.dumps({'a': [1, 2]})\n"),
                (
                    "_quick.c",
                    "#include <Python.h>\nint seven(void);\n\
                     static PyObject *get(PyObject *s, PyObject *a) { (void)s; (void)a; return PyLong_FromLong(seven()); }\n\
                     static PyMethodDef all[] = {{\"seven\", get, METH_NOARGS, \"\"}, {NULL, NULL, 0, NULL}};\n\
                     static struct PyModuleDef it = {PyModuleDef_HEAD_INIT, \"_quick\", \"\", -1, all, 0, 0, 0, 0};\n\
                     PyMODINIT_FUNC PyInit__quick(void) { return PyModule_Create(&it); }\n",
                ),
                ("seven.c", "int seven(void) { return 7; }\n"),
            ],
        );
        let line = format!(
            "mkdir libs; cc -shared -fPIC seven.c -o libs/libseven.so; \
             cc -shared -fPIC $({python} -c 'import sysconfig; print(\"-I\" + sysconfig.get_path(\"include\"))') _quick.c \
             -Llibs -lseven '-Wl,-rpath,$ORIGIN/libs' -o _quick.so"
        );
        natively(sandbox, &package, &line);
    });
    for line in [
        "view/bin/python -c 'import quick, sys; print(quick.seven(), quick.more.VALUE, sys.prefix)'",
        ". view/bin/activate; python -c 'import quick; print(quick.seven())'; which python",
        "cd view/lib/python3*/site-packages && ls -R quick && ../../../bin/python -m quick.more; python3 -c 'print(7)'",
        "view/bin/python -m compileall -q view/lib/python3*/site-packages/quick; view/bin/python -c 'import quick; print(quick.seven())'",
    ] {
        pair.assert_same_line(line, "7");
    }
    // They hold the place that they were compiled at.
    pair.assert_same_line(
        "find view -name '*.pyc' | sort; find view -name __pycache__ -exec rm -r {} +",
        "quick",
    );
    pair.end();
}

/// Makes a library of each name that returns its value plus those of what it needs: `name value place needs flags`.
const MAKE_LIBRARY: &str = r#"
make() { # NAME VALUE FOLDER "NEEDS" FLAGS...
    name=$1 value=$2 folder=$3 needs=$4; shift 4
    { for one in $needs; do echo "int $one(void);"; done
      echo "int $name(void) { return $value"; for one in $needs; do echo "+ $one()"; done; echo ";}"; } >$name.c
    mkdir -p $folder
    ${CC:-cc} -shared -fPIC $name.c -o $folder/lib$name.so -Wl,-soname,lib$name.so "$@"
}
main() { # FILE "NEEDS" FLAGS...
    file=$1 needs=$2; shift 2
    { echo '#include <stdio.h>'; for one in $needs; do echo "int $one(void);"; done
      echo 'int main(void) { printf("%d", 0'; for one in $needs; do echo "+ $one()"; done; echo '); puts(""); return 0; }'; } >main.c
    mkdir -p $(dirname $file); ${CC:-cc} main.c -o $file "$@"
}
"#;

/// Programs, in the tree and beside it, whose libraries the loader finds in the tree before the shim is there.
fn with_libraries(name: &str, cc: &str) -> Pair {
    let pair = Pair::new(name, |sandbox, source| {
        let place = sandbox.path("");
        let shown = |at: &str| place.join(at).join("view").display().to_string();
        // A chain of three, by RUNPATH; one that only RPATH finds, and what that needs; one by its path.
        let line = format!(
            r#"{MAKE_LIBRARY} CC={cc}
            new=-Wl,--enable-new-dtags old=-Wl,--disable-new-dtags
            make three 3 lib/deep "" ; make two 20 lib "three" -Llib/deep -lthree $new '-Wl,-rpath,$ORIGIN/deep'
            make one 100 lib "two" -Llib -ltwo -Llib/deep $new '-Wl,-rpath,${{ORIGIN}}' -Wl,-rpath-link,lib/deep
            main bin/chain one $new '-Wl,-rpath,/nowhere:$ORIGIN/../lib' -Llib -lone -Wl,-rpath-link,lib:lib/deep
            make inner 7 old "" ; make outer 40 old inner -Lold -linner
            main bin/inherits outer $old '-Wl,-rpath,$ORIGIN/../old' -Lold -louter
            # The processor's own before the others; what the distribution calls its folder.
            make outer 1000 caps/glibc-hwcaps/x86-64-v2 ""; make outer 2000 caps ""
            make plain 9 lib/x86_64-linux-gnu ""; mkdir lib64; cp lib/x86_64-linux-gnu/libplain.so lib64
            main bin/tokens plain $new '-Wl,-rpath,$ORIGIN/../$LIB' -Llib64 -lplain
            make outer 40 old inner -Lold -linner
            main bin/bare outer -Lold -louter -Wl,-rpath-link,old
            mv lib/libone.so lib/libone.so.1; ln -s libone.so.1 lib/libone.so; ln -s bin programs; ln -s ../bin/chain lib/link
            ln -s lib folder; ln -s old/deep/../ way
            make pre 0 pre "" ; echo 'int puts(const char *); __attribute__((constructor)) static void say(void) {{ puts("pre"); }}' >>pre.c
            ${{CC:-cc}} -shared -fPIC pre.c -o pre/libpre.so
            for at in {real} {shim}; do
                main $at/../beside outer -Lold -louter -Wl,-rpath-link,old $old -Wl,-rpath,$at/old
                main $at/../through one $new '-Wl,-rpath,$ORIGIN/view/folder' -Llib -lone -Wl,-rpath-link,lib:lib/deep
                mkdir -p $at/../out; make via 5000 $at/../out outer -Lold -louter $old '-Wl,-rpath,$ORIGIN/../view/old'
                main $at/../indirect via $new '-Wl,-rpath,$ORIGIN/out' -L$at/../out -lvia -Wl,-rpath-link,old
                ln -sf view $at/../alias; main $at/../aliased one $new '-Wl,-rpath,$ORIGIN/out/../alias/lib' -Llib -lone -Wl,-rpath-link,lib:lib/deep
            done; rm -f *.c"#,
            real = shown("real"),
            shim = shown("shim"),
        );
        for at in ["real", "shim"] {
            fs::create_dir_all(place.join(at).join("view")).unwrap();
        }
        natively(sandbox, source, &line);
        fs::remove_dir(place.join("shim/view")).unwrap();
    });
    pair.begin_again();
    pair
}

/// What programs need of a tree at their start, and how the loader is told where it is; with what they print.
const STARTS: &[(&str, &str)] = &[
    ("view/bin/chain", "123"),
    ("exec view/programs/chain", "123"),
    ("view/lib/link", "123"),
    ("cd view/bin; ./chain", "123"),
    ("mkdir -p else; cd else; ../view/lib/link; exec ../view/programs/chain", "123"),
    ("view/bin/inherits", "47"),
    ("./beside", "47"),
    ("./through", "123"),
    ("./indirect", "5047"),
    ("./aliased", "123"),
    ("LD_LIBRARY_PATH=view/old exec view/bin/bare", "47"),
    ("LD_LIBRARY_PATH=$PWD/view/old view/bin/bare", "47"),
    (
        "export LD_LIBRARY_PATH=/nowhere:$PWD/alias/old; view/bin/bare; ./through; ./beside",
        "47\n123\n47\n",
    ),
    ("cd view/old; LD_LIBRARY_PATH=/nowhere: ../bin/bare", "47"),
    ("cd view/bin; LD_LIBRARY_PATH='$ORIGIN/../old' ./bare", "47"),
    ("env LD_LIBRARY_PATH=view/old view/bin/bare; view/bin/bare 2>&1 || echo none", "none"),
    ("LD_LIBRARY_PATH=view/caps:view/old view/bin/bare", "000"),
    ("view/bin/tokens", "9"),
    ("LD_PRELOAD=$PWD/view/pre/libpre.so view/bin/chain", "pre\n123"),
    ("LD_PRELOAD=libpre.so LD_LIBRARY_PATH=view/pre:view/old view/bin/bare", "pre\n47"),
    ("LD_PRELOAD=$PWD/view/pre/libpre.so:$PWD/view/folder/libone.so sh -c 'echo done'", "done"),
];

/// Libraries of the tree that a program needs at its start are found, however the loader is told where they are.
#[test]
fn libraries_needed_at_the_start_are_found() {
    let name = "libraries_needed_at_the_start_are_found";
    if !have(name, &[Need::Tool("cc")]) {
        return;
    }
    let pair = with_libraries("build-needed", "cc");
    let loader = "/lib64/ld-linux-x86-64.so.2";
    let by_hand = [
        format!("{loader} view/bin/chain"),
        format!("{loader} --library-path view/old view/bin/bare"),
        format!("{loader} --preload view/pre/libpre.so view/bin/inherits"),
    ];
    let by_hand = by_hand.iter().map(|line| (line.as_str(), "\n"));
    for (line, wanted) in STARTS.iter().copied().chain(by_hand) {
        pair.assert_same_line(line, wanted);
        pair.begin_again();
    }
    // The launcher starts a program itself.
    for words in [&["view/bin/chain"][..], &["./beside"], &["./aliased"], &["./indirect"]] {
        pair.assert_same(words, "\n");
        pair.begin_again();
    }
    let mut command = pair.command("view", &["view/bin/bare"]);
    let ran = pair.sandbox.run(command.env("LD_LIBRARY_PATH", "view/old")).unwrap();
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("47\n", ""), "{ran}");
    // Nothing else has become real.
    pair.begin_again();
    pair.assert_same_line("view/bin/chain", "123");
    for (entry, is_real) in [
        ("lib/libone.so", true),
        ("lib/libone.so.1", true),
        ("lib/deep/libthree.so", true),
        ("old", false),
        ("pre", false),
        ("bin/bare", false),
        ("folder", false),
    ] {
        assert_eq!(pair.is_real(entry), is_real, "{entry}");
    }
}

/// Where more is needed than there is room to look for, everything is there.
#[test]
fn more_libraries_than_can_be_looked_for_are_found() {
    let name = "more_libraries_than_can_be_looked_for_are_found";
    if !have(name, &[Need::Tool("cc")]) {
        return;
    }
    let pair = Pair::new("build-many", |sandbox, source| {
        // Together, and one alone, they have longer paths than are kept.
        let line = format!(
            r#"{MAKE_LIBRARY}
            long=$(printf '/%03000d' 0) names=
            for at in $(seq 20); do make lib$at $at many "" "-Wl,-rpath,$long"; names="$names lib$at"; done
            main bin/many "$names" '-Wl,-rpath,$ORIGIN/../many' -Lmany $(for at in $(seq 20); do echo -llib$at; done)
            main bin/long "lib1" "-Wl,-rpath,$long:$long:"'$ORIGIN/../many' -Lmany -llib1
            rm *.c; echo other >other"#
        );
        natively(sandbox, source, &line);
    });
    for (line, wanted) in [("view/bin/many", "210"), ("view/bin/long", "1\n")] {
        pair.assert_same_line(line, wanted);
        assert!(pair.is_real("other"));
        pair.begin_again();
    }
}

/// As with the system's C library, with musl.
#[test]
fn musl_finds_libraries_needed_at_the_start() {
    let name = "musl_finds_libraries_needed_at_the_start";
    if !have(name, &[Need::Tool("cc"), Need::Tool("musl-gcc")]) {
        return;
    }
    let pair = with_libraries("build-needed-musl", "musl-gcc");
    for (line, wanted) in STARTS {
        // The shell's loader does not load what was made for musl, which knows neither tokens but one, and none in the
        // environment, nor that nothing is the working directory.
        if ["PRELOAD", "'$ORIGIN", "/nowhere: ", "tokens"].iter().any(|word| line.contains(word)) {
            continue;
        }
        pair.assert_same_line(line, wanted);
        pair.begin_again();
    }
}

/// A program that needs nothing of a tree is looked at as far as its names go, and no more.
#[test]
fn a_start_outside_reads_little() {
    let name = "a_start_outside_reads_little";
    if !have(name, &[Need::Tool("cc"), Need::Strace]) {
        return;
    }
    let pair = Pair::new("build-outside", |_, source| write(source, &[("a", "hello\n")]));
    fs::write(pair.sandbox.path("shim/main.c"), "int main(void) { return 0; }\n").unwrap();
    // Between the fork and the start of the program.
    let line = "cc main.c -o main; strace -f -o trace sh -c './main; ./main; :'; \
                awk '/fork|clone/ { n = 0 } /pread64|openat/ { n++ } /execve.*main\"]/ { print n }' trace";
    let ran = pair.virtually(&["sh", "-c", line]).success().unwrap();
    for count in ran.stdout.lines() {
        let count: usize = count.parse().unwrap();
        // One open, and two reads.
        assert!(
            count <= 3,
            "{}\n{}",
            ran.stdout,
            fs::read_to_string(pair.shim.join("trace")).unwrap()
        );
    }
    assert_eq!(ran.stdout.lines().count(), 2, "{ran}");
}

/// numpy and pandas, as pip installs them.
#[test]
fn numpy_and_pandas_work_in_a_tree() {
    let name = "numpy_and_pandas_work_in_a_tree";
    if !rift_tests::full() {
        return;
    }
    let can = "/usr/bin/python3 -c 'import ensurepip, venv'";
    if !have(name, &[Need::Works("python3 with venv and pip", can)]) {
        return;
    }
    let pair = Pair::new("build-numpy", |sandbox, source| {
        let made = installed("numpy", |folder| {
            // pip reads how this machine reaches its registry from the user's own settings.
            let line = "/usr/bin/python3 -m venv . && bin/python -m pip install -q numpy==2.4.6 pandas==3.1.1";
            let mut command = std::process::Command::new("sh");
            let status = command.args(["-ec", line]).current_dir(folder).status();
            status.unwrap().success()
        });
        natively(sandbox, source, &format!("cp -a {}/. .", made.display()));
    });
    let program = "import numpy, pandas, sys\n\
                   a = numpy.arange(12.0).reshape(3, 4)\n\
                   print(numpy.linalg.det(a @ a.T + numpy.eye(3)).round(6), a.sum())\n\
                   f = pandas.DataFrame({'k': list('aabb'), 'v': [1, 2, 3, 4]})\n\
                   print(f.groupby('k').v.sum().to_dict(), pandas.__version__, numpy.__version__)\n\
                   print(f.to_csv(index=False), pandas.date_range('2020-01-01', periods=3, freq='ME').tolist())\n\
                   print(numpy.random.default_rng(1).integers(0, 100, 5), len(sys.modules), sys.prefix)\n";
    for round in 0..2 {
        pair.assert_same(&["view/bin/python", "-c", program], "2427.0 66.0");
        assert!(!pair.is_real("lib/python3.11/site-packages/pandas/tests"), "{round}");
    }
    pair.assert_same_line("view/bin/python -m pip list 2>/dev/null", "pandas");
    let gone = "view/bin/python -m pip uninstall -qy pandas 2>/dev/null; view/bin/python -c 'import pandas'";
    pair.assert_same_line(gone, "No module named 'pandas'");
    pair.end();
}

/// Returns a folder that is made once and then shared by all runs of the tests; only to be copied.
fn installed(name: &str, make: impl FnOnce(&Path) -> bool) -> PathBuf {
    let folder = target_folder().unwrap().join("warm").join(name);
    let done = folder.with_extension("done");
    if !done.exists() {
        clear(&folder).unwrap();
        fs::create_dir_all(&folder).unwrap();
        assert!(make(&folder), "{name} could not be installed");
        File::create(done).unwrap();
    }
    folder
}

/// The words that let cargo run in a sandbox: it finds its toolchain and its registry by them.
fn cargo_settings() -> String {
    let home = std::env::var("HOME").unwrap_or_default();
    let setting = |name: &str, folder: &str| {
        let value = std::env::var(name).unwrap_or_else(|_| format!("{home}/{folder}"));
        format!("export {name}={value}; ")
    };
    setting("CARGO_HOME", ".cargo") + &setting("RUSTUP_HOME", ".rustup")
}

/// A crate with a vendored dependency and a build script, all in the tree.
#[test]
fn a_crate_is_built_in_a_tree() {
    let name = "a_crate_is_built_in_a_tree";
    if !have(name, &[Need::Tool("cargo")]) {
        return;
    }
    let settings = cargo_settings();
    let pair = Pair::new("build-crate", |sandbox, source| {
        write(
            source,
            &[
                (
                    "Cargo.toml",
                    "[package]\nname = \"made\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\n[dependencies]\ndep = \"1\"\n\n[workspace]\n",
                ),
                (
                    "src/main.rs",
                    "fn main() { println!(\"{} {}\", dep::seven(), include_str!(\"../words.txt\").trim()); }\n\
                     #[test]\nfn seven() { assert_eq!(dep::seven(), 7); }\n",
                ),
                ("words.txt", "words\n"),
                ("build.rs", "fn main() { println!(\"cargo::rerun-if-changed=words.txt\"); }\n"),
                (
                    "vendor/dep/Cargo.toml",
                    "[package]\nname = \"dep\"\nversion = \"1.0.0\"\nedition = \"2021\"\n",
                ),
                ("vendor/dep/src/lib.rs", "pub fn seven() -> u32 { 7 }\n"),
                ("vendor/dep/.cargo-checksum.json", "{\"files\":{},\"package\":null}"),
                (
                    ".cargo/config.toml",
                    "[source.crates-io]\nreplace-with = \"vendored\"\n\n[source.vendored]\ndirectory = \"vendor\"\n",
                ),
            ],
        );
        natively(sandbox, source, &format!("{settings} cargo generate-lockfile --offline"));
    });
    // cargo says how long it took, and whom it waited for; units finish in any order.
    let quiet = "2>&1 | sed '/Blocking waiting/d; s/ in [0-9.]*s//' | sort";
    for (line, wanted) in [
        (
            format!("cargo build --offline --target-dir ../beside {quiet}; ../beside/debug/made"),
            "7 words",
        ),
        (format!("cargo build --offline --target-dir ../beside {quiet}; ls"), "Finished"),
        (
            format!("echo others >words.txt; cargo run --offline --target-dir ../beside {quiet}"),
            "7 others",
        ),
        (format!("cargo test --offline {quiet}"), "1 passed"),
        (format!("cargo build --offline {quiet}; cargo clean 2>/dev/null; ls -a"), "Cargo.toml"),
    ] {
        pair.assert_same_line(&format!("{settings} cd view; {line}"), wanted);
    }
    pair.end();
}

/// ripgrep, as its authors have packaged it, built for release with real files, beside a projection, and in one: at the
/// same place, so that the programs are the same to the byte.
#[test]
fn ripgrep_is_built_in_a_tree() {
    let name = "ripgrep_is_built_in_a_tree";
    if !rift_tests::full() || !have(name, &[Need::Tool("cargo")]) {
        return;
    }
    let settings = cargo_settings();
    let pair = Pair::new("build-ripgrep", |sandbox, source| {
        let made = installed("ripgrep-14.1.1", |folder| {
            let manifest = "[package]\nname = \"fetch\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\
                            [dependencies]\nripgrep = \"=14.1.1\"\n[workspace]\n";
            write(folder, &[("fetch/Cargo.toml", manifest), ("fetch/src/lib.rs", "")]);
            // What the packaged lockfile names is fetched too. It is no member of the workspace that it lies below.
            let line = format!(
                "{settings} (cd fetch && cargo fetch); tar xf $CARGO_HOME/registry/cache/*/ripgrep-14.1.1.crate; \
                 rm -r fetch; mv ripgrep-14.1.1/* .; rm -r ripgrep-14.1.1; \
                 echo '[workspace]' >>Cargo.toml; cargo fetch --locked"
            );
            let mut command = std::process::Command::new("sh");
            command.args(["-ec", &line]).current_dir(folder).status().unwrap().success()
        });
        natively(sandbox, source, &format!("cp -a {}/. .", made.display()));
    });
    let [view, kept] = ["view", "kept"].map(|name| pair.shim.join(name));
    // It asks for the commit of whatever it lies in.
    let built = |out: &str| {
        format!(
            "{settings} export GIT_DIR=/nowhere; cd view && cargo build --release --locked --offline -q --target-dir ../{out} && \
             cd .. && cksum <{out}/release/rg && {out}/release/rg --version && \
             {out}/release/rg -c --sort path fn view/crates/core && {out}/release/rg --files --sort path view"
        )
    };
    // With real files, then beside a projection, in the folder that a projection is shown at afterwards.
    fs::rename(pair.real.join("view"), &view).unwrap();
    let expected = natively(&pair.sandbox, &pair.shim, &built("out"));
    assert!(expected.contains("ripgrep 14.1.1"), "{expected}");
    fs::remove_dir_all(pair.shim.join("out")).unwrap();
    let run = |shown: &str| {
        let mut command = pair.command(shown, &["sh", "-c", &built("out")]);
        pair.sandbox.run(&mut command).unwrap().success().unwrap()
    };
    assert_eq!(run("other").stdout, expected);
    fs::remove_dir_all(pair.shim.join("out")).unwrap();
    fs::rename(&view, &kept).unwrap();
    assert_eq!(run("view").stdout, expected);
    fs::rename(&kept, pair.real.join("view")).unwrap();
    pair.end();
}
