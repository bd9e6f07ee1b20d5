#!/usr/bin/env bash
# Suites of others that exercise a file system, with one line per test: `ok NAME`, `failed NAME` or `skipped NAME`.
#
#   suites.sh prepare SOURCES           gets them, by package name, into the folder SOURCES (as root or with sudo)
#   suites.sh lay SUITE SOURCES DIR     puts the files of a suite into DIR, which is empty
#   suites.sh run SUITE SOURCES DIR [PART...]   runs it on the files in DIR; what it prints otherwise goes to stderr
#
# Parts are patterns of pjdfstest's and of Node.js's names, and applets of busybox; without any, all tests run.
# pjdfstest and fsx are crates; busybox's and Node.js's own tests come with Debian's source packages and judge the
# installed busybox and node, so some of them fail on any file system.
set -euo pipefail

number_repeated() { awk '{ n = ++seen[$0]; print (n > 1 ? $0 " (" n ")" : $0) }'; }

prepare() {
    local sources=$1 sudo= tool
    mkdir -p "$sources/bin" "$sources/apt/lists/partial" "$sources/apt/parts"
    cd "$sources"
    [ "$(id -u)" = 0 ] || sudo="sudo -n"
    for tool in pjdfstest@0.2.2 fsx@0.3.2; do
        local name=${tool%@*} found
        [ ! -x "bin/$name" ] || continue
        # Installed for the user, nobody else may run it.
        found=$(command -v "$name" || echo "${CARGO_HOME:-$HOME/.cargo}/bin/$name")
        [ -x "$found" ] || cargo install --locked "$tool"
        cp "$found" bin/
    done
    local missing=() pair
    for pair in dpkg-source:dpkg-dev busybox:busybox bc:bc chattr:e2fsprogs; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
    done
    [ ${#missing[@]} -eq 0 ] || $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qqy --no-install-recommends "${missing[@]}"
    # The machine's own package sources, as source packages, in a list of their own.
    local apt=(apt-get -qq -o "Dir::State::lists=$PWD/apt/lists" -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$PWD/apt/parts")
    awk 'BEGIN { RS = ""; ORS = "\n\n" } !/security/' /etc/apt/sources.list.d/*.sources | sed 's/^Types:.*/Types: deb-src/' >apt/parts/src.sources
    local package
    for package in busybox nodejs; do
        [ ! -e "$package" ] || continue
        "${apt[@]}" update
        (mkdir -p "apt/$package" && cd "apt/$package" && "${apt[@]}" source "$package")
        mv "apt/$package/$package"-*/ "$package"
    done
}

lay() {
    local suite=$1 sources=$2 dir=$3
    case $suite in
    pjdfstest)
        mkdir -m 777 "$dir/files"
        cat >"$dir/config.toml" <<'END'
[features]
posix_fallocate = {}
rename_ctime = {}
utimensat = {}
utime_now = {}

[settings]
naptime = 0.01
allow_remount = false

[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
END
        ;;
    fsx)
        local seed
        printf '[opsize]\nmax = 65536\n' >"$dir/mapped.toml"
        printf '[opsize]\nmax = 65536\n[weights]\nmapread = 0\nmapwrite = 0\n' >"$dir/plain.toml"
        for seed in 1 2 3 4 5; do
            head -c $((seed * 40000)) /dev/zero | tr '\0' x >"$dir/mapped.$seed"
            head -c $((seed * 40000)) /dev/zero | tr '\0' y >"$dir/plain.$seed"
        done
        ;;
    busybox)
        cp -r "$sources/busybox/testsuite" "$sources/busybox/scripts" "$dir/"
        cp "$sources/busybox/debian/config/pkg/deb" "$dir/.config"
        cp "$(command -v busybox)" "$dir/busybox"
        ;;
    node-fs)
        mkdir "$dir/scratch"
        cp -r "$sources/nodejs/test" "$dir/test"
        ;;
    esac
}

run() {
    local suite=$1 sources=$2 dir=$3
    shift 3
    case $suite in
    pjdfstest)
        # Names of sockets are short, so the folder gets a short one in a namespace of the suite's own.
        unshare --mount --propagation private bash -c 'mount --bind "$1" /mnt &&
            shift && exec "$@"' bash "$dir" "$sources/bin/pjdfstest" -c /mnt/config.toml -p /mnt/files "$@" 2>&1 | sed 's/\x1b\[[0-9;]*m//g' | tee /dev/stderr |
            awk '$2 == "ok" || $2 == "FAILED" || $2 == "skipped" { print ($2 == "FAILED" ? "failed" : $2), $1 }' || true
        chattr -R -i "$dir/files" 2>/dev/null || true
        ;;
    fsx)
        local how seed
        for how in mapped plain; do
            for seed in 1 2 3 4 5; do
                if "$sources/bin/fsx" -q -f "$dir/$how.toml" -P "$dir" -N "${FSX_STEPS:-2000}" -S "$seed" "$dir/$how.$seed" >&2; then
                    echo "ok $how.$seed"
                else
                    echo "failed $how.$seed"
                fi
            done
        done
        ;;
    busybox)
        cd "$dir/testsuite"
        # Its status is the number of failures.
        { bindir=$dir tsdir=$dir/testsuite SKIP_INTERNET_TESTS=1 SKIP_KNOWN_BUGS=1 timeout 500 ./runtest "$@" 2>&1 </dev/null || true; } |
            tee /dev/stderr | sed -nE 's/^PASS: /ok /p; s/^FAIL: /failed /p; s/^(SKIPPED|UNTESTED): /skipped /p' | number_repeated
        ;;
    node-fs)
        cd "$dir/test"
        local test flags part is_wanted
        for test in {parallel,sequential}/test-{fs,file,stream-fs,require,module,dir,path,cwd,process-chdir,process-cwd}*.{js,mjs}; do
            [[ ${test#*/} =~ ^test-(fs|file|stream-fs|require|module|dir|path|cwd|process-(chdir|cwd))[^/]*$ && -e $test ]] || continue
            # Its two parts open one file at once, and one reads what the other may have emptied just then.
            [ "$test" != parallel/test-fs-write-stream-eagain.mjs ] || continue
            if [ $# -gt 0 ]; then
                is_wanted=
                for part; do [[ $test != *$part* ]] || is_wanted=1; done
                [ -n "$is_wanted" ] || continue
            fi
            flags=$(grep -m1 '^// Flags:' "$test" | sed 's#^// Flags:##' || true)
            # shellcheck disable=SC2086
            if NODE_TEST_DIR=$dir/scratch timeout 60 node $flags "$test" >&2 </dev/null; then
                echo "ok $test"
            else
                echo "failed $test"
            fi
        done
        ;;
    esac
}

case ${1:-} in
prepare) prepare "$(mkdir -p "$2" && realpath "$2")" ;;
lay | run)
    dir=$(realpath -e "$4")
    [ "$dir" != / ] || exit 2
    "$1" "$2" "$3" "$dir" "${@:5}"
    ;;
*)
    echo "usage: suites.sh prepare SOURCES | lay SUITE SOURCES DIR | run SUITE SOURCES DIR [PART...]" >&2
    exit 2
    ;;
esac
