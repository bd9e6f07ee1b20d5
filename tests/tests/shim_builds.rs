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

/// The loader looks for the libraries that a program needs before the shim is there: it says which one it lacks, and finds
/// those that are real.
#[test]
fn libraries_needed_at_the_start_have_to_be_real() {
    let name = "libraries_needed_at_the_start_have_to_be_real";
    if !have(name, &[Need::Tool("cc")]) {
        return;
    }
    let pair = Pair::new("build-needed", |sandbox, source| {
        let main = "int seven(void);\nint main(void) { return seven(); }\n";
        let files = [("seven.c", "int seven(void) { return 7; }\n"), ("main.c", main)];
        write(source, &files);
        let line = "mkdir bin lib; cc -shared -fPIC seven.c -o lib/libseven.so; \
                    cc main.c -Llib -lseven '-Wl,-rpath,$ORIGIN/../lib' -o bin/main";
        natively(sandbox, source, line);
    });
    assert_eq!(pair.really(&["view/bin/main"]).status.code(), Some(7));
    let missing = pair.virtually(&["view/bin/main"]);
    assert_eq!(missing.status.code(), Some(127), "{missing}");
    assert!(missing.stderr.contains("libseven.so: cannot open shared object file"), "{missing}");
    let found = pair.virtually(&["sh", "-c", "cat view/lib/libseven.so >copy; view/bin/main"]);
    assert_eq!((found.status.code(), found.stderr.as_str()), (Some(7), ""), "{found}");
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
    // cargo says how long it took, and units finish in any order.
    let quiet = "2>&1 | sed 's/ in [0-9.]*s//' | sort";
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
