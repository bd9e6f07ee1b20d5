#!/bin/sh
# What a CI job does with rift, for action.yml and gitlab.yml.
#
#   rift-ci.sh begin    GitHub only, before the cache is restored: names its entry, and empties the folder that it carries
#   rift-ci.sh install  finds rift on PATH or in the carried folder, or builds it from this checkout
#   rift-ci.sh start    makes plain `npm ci` of later steps run under rift; prints lines for `eval` where there is no GITHUB_ENV
#   rift-ci.sh close    leaves in the carried folder what the job used or made, and shows the summary
#
# A step with this never fails the job: what goes wrong is said, and the job goes on without rift. RIFT_STRICT=1 makes it fail.
#
# Settings, each also with INPUT_ instead of RIFT_ as action.yml has them:
#   RIFT_REMOTE         where trees are shared; without it a folder that the cache of the CI carries
#   RIFT_KEY            the private key that signs them there, from a secret
#   RIFT_TRUSTED_KEYS   public keys whose trees are used
#   RIFT_FLOOR          the hit rate that the job has to reach, in percent
#
#   carried folder      work folder, of one job
#     bin/rift-SUM        bin/rift      the program
#     remote/…            shims/        npm and npx for PATH
#     key, key.pub        store/        the store
#                         env, hit      what start has set; whether the cache had this very entry
set -eu

say() { echo "rift: $*" >&2; }

# A line that CI systems show beside the job.
warn() {
    case ${GITHUB_ACTIONS:-} in
        true) echo "::warning title=rift::$*" ;;
        *) echo "warning: $*" ;;
    esac >&2
}

# Prints a short sum of what comes in.
short_sum() { sha256sum | cut -c 1-16; }

# Prints the checkout that this script is a part of.
source_folder() { (cd "$(dirname "$0")/../.." && pwd); }

# Prints the sum of all that rift is built from and for.
source_sum() (
    cd "$(source_folder)"
    { uname -sm; find Cargo.toml Cargo.lock cas launcher shim -type f ! -path '*/target/*' | LC_ALL=C sort | xargs cat; } | short_sum
)

# Prints the folder that the cache carries: action.yml and gitlab.yml name the same.
carried_folder() {
    case ${GITLAB_CI:-} in
        true) echo "${CI_PROJECT_DIR:?}/.rift-ci" ;;
        *) echo "${HOME:?}/.rift-ci/carried" ;;
    esac
}

# Prints the job's own folder. Rift refuses a store below a folder of another user, which the runner's is in containers.
work_folder() {
    if [ -n "${RUNNER_TEMP:-}" ] && [ -n "$(find "$RUNNER_TEMP" -prune -user "$(id -u)" 2>/dev/null)" ]; then
        echo "$RUNNER_TEMP/rift-ci"
    else
        echo "${TMPDIR:-/tmp}/rift-ci-$(id -u)-${CI_JOB_ID:-${GITHUB_RUN_ID:-$(pwd | short_sum)}}-${GITHUB_JOB:-}"
    fi
}

# Prints whether the job may write to what others read: `write`, or `read` for code from a fork, or `none` where rift does not run.
access() {
    [ "$(uname -s)" = Linux ] || { echo none; return; }
    # What begin has said, as only that step knows where the code is from.
    [ -z "${INPUT_ACCESS:-}" ] || { echo "$INPUT_ACCESS"; return; }
    case ${GITHUB_EVENT_NAME:-} in
        pull_request* | workflow_run)
            # Who has removed the fork has no name.
            [ "${INPUT_CODE_FROM:-}" = "${GITHUB_REPOSITORY:-}" ] || { echo read; return; } ;;
    esac
    case ${CI_MERGE_REQUEST_SOURCE_PROJECT_PATH:-${CI_PROJECT_PATH:-}} in
        "${CI_PROJECT_PATH:-}") echo write ;;
        *) echo read ;;
    esac
}

begin() {
    access=$(access)
    echo "access=$access" >>"${GITHUB_OUTPUT:?}"
    [ "$access" != none ] || { say "rift runs on Linux only; this job goes on without it"; return; }
    carried=$(carried_folder)
    rm -rf "${carried:?}"
    # Jobs that need other trees have other entries; of the same job the last one is the next best.
    name=rift-1-$(uname -sm | tr ' ' -)-${GITHUB_JOB:-job}-$(printf %s "${INPUT_MATRIX:-}" | short_sum)-
    inputs="${INPUT_LOCKFILES:-} $(node --version 2>/dev/null || true) $(source_sum)"
    {
        echo "prefix=$name"
        echo "key=$name$(printf %s "$inputs" | short_sum)"
    } >>"$GITHUB_OUTPUT"
}

# Makes bin/rift of the work folder the program at $1, if that runs here.
use() {
    [ -x "$1" ] || return 1
    "$1" --version >/dev/null 2>&1 || return 1
    mkdir -p "$work/bin"
    ln -sf "$1" "$work/bin/rift"
}

install() {
    work=$(work_folder)
    rm -rf "${work:?}"
    [ "$(access)" != none ] || return 0
    # Not -p: nobody else may have made it.
    mkdir -m 700 "$work"
    carried=$(carried_folder)
    mkdir -p "$carried"
    if rift=$(command -v rift) && use "$rift"; then
        rm -rf "${carried:?}/bin"
        say "$("$rift" --version) on PATH is used"
        return
    fi
    rift=$carried/bin/rift-$(source_sum)
    if use "$rift"; then
        say "$("$rift" --version) from the cache is used"
        return
    fi
    command -v cargo >/dev/null || { say "there is neither rift nor cargo on PATH"; return 1; }
    say "rift is built with cargo, which takes some minutes; the cache keeps it for later jobs"
    # Not where the project is: its settings of cargo are for the project.
    (cd "$(source_folder)" && cargo install --quiet --locked --path launcher --root "$work/built" --target-dir "$work/target") >&2
    rm -rf "${carried:?}/bin" "$work/target"
    mkdir -p "$carried/bin"
    mv "$work/built/bin/rift" "$rift"
    use "$rift"
}

# Adds a variable of later steps.
put() { printf '%s\n' "$1=$2" >>"$work/env"; }

# Prints $1 on one line, with commas between what were lines.
one_line() {
    line=$(printf %s "$1" | tr -s '\r\n' ',,')
    line=${line#,}
    printf %s "${line%,}"
}

start() {
    work=$(work_folder)
    [ -x "$work/bin/rift" ] || return 0
    carried=$(carried_folder)
    access=$(access)
    remote=$(one_line "${INPUT_REMOTE:-${RIFT_REMOTE:-}}")
    key=$(one_line "${INPUT_KEY:-${RIFT_KEY:-}}")
    trusted=$(one_line "${INPUT_TRUSTED_KEYS:-${RIFT_TRUSTED_KEYS:-}}")
    floor=$(one_line "${INPUT_FLOOR:-${RIFT_FLOOR:-}}")
    if [ -z "$remote" ]; then
        remote=file://$carried/remote
        mkdir -p "$carried/remote"
        echo "*" >"$carried/.gitignore"
        if [ "$access" = write ] && [ ! -f "$carried/key" ]; then
            XDG_CONFIG_HOME=$work/config "$work/bin/rift" key new ci >"$carried/key.pub"
            mv "$work/config/rift/key" "$carried/key"
        fi
        if [ -f "$carried/key" ]; then
            key=$(one_line "$(cat "$carried/key")")
            trusted=$trusted,$(one_line "$(cat "$carried/key.pub")")
        fi
    fi
    # An empty value takes back what the job was given.
    [ "$access" = write ] || key=
    if [ -n "$key" ] && [ "${GITHUB_ACTIONS:-}" = true ]; then
        echo "::add-mask::${key##*:}" >&2
    fi
    : >"$work/env"
    put RIFT_STORE "$work/store"
    put RIFT_REMOTE "$remote"
    put RIFT_KEY "$key"
    put RIFT_TRUSTED_KEYS "${trusted#,}"
    [ -z "$floor" ] || put RIFT_FLOOR "$floor"
    echo "${INPUT_HIT:-}" >"$work/hit"
    shims=$("$work/bin/rift" hook --shims "$work/shims")
    if [ -n "${GITHUB_ENV:-}" ]; then
        cat "$work/env" >>"$GITHUB_ENV"
        # The last one is the first on PATH.
        printf '%s\n' "$work/bin" "$shims" >>"${GITHUB_PATH:?}"
    else
        sed "s/'/'\\\\''/g; s/=/='/; s/^/export /; s/\$/'/" "$work/env"
        # shellcheck disable=SC2016 # who evaluates this has a PATH
        printf 'export PATH='\''%s:%s'\'':"$PATH"\n' "$shims" "$work/bin"
    fi
    say "\`npm ci\` of later steps runs under rift; $remote is $([ -n "$key" ] && echo "read and written" || echo "only read")"
}

close() {
    work=$(work_folder)
    [ -f "$work/env" ] || return 0
    while IFS= read -r line; do
        export "${line?}"
    done <"$work/env"
    carried=$(carried_folder)
    status=0
    # The store began empty, so every run in it is of this job, also where nothing names the job.
    if [ "$RIFT_REMOTE" = "file://$carried/remote" ] && [ -n "$RIFT_KEY" ]; then
        "$work/bin/rift" remote prune --since 7d "$RIFT_REMOTE" || status=1
        new=$(find "$carried/remote/plans" -newer "$work/hit" -type f 2>/dev/null || true)
        if [ -n "$new" ] && [ "$(cat "$work/hit")" = true ]; then
            warn "what this job has made is not kept: the cache has had its entry for these lockfiles and this node before." \
                "Set up node before rift, and remove the entry if it is damaged."
        fi
    fi
    "$work/bin/rift" summary --since 7d || status=1
    # The runner's own folder goes with the job.
    case $work in
        "${RUNNER_TEMP:-/nowhere}"/*) ;;
        *) rm -rf "${work:?}" ;;
    esac
    return "$status"
}

case ${1-} in
    begin | install | start | close)
        # In a process of its own, so that any failure ends it.
        if sh "$0" "do-$1"; then
            exit 0
        fi
        warn "this job goes on without rift, or without a part of it: \`rift-ci.sh $1\` has failed"
        [ "${RIFT_STRICT:-0}" != 1 ] || exit 1
        ;;
    do-begin | do-install | do-start | do-close) "${1#do-}" ;;
    *)
        echo "usage: rift-ci.sh begin|install|start|close" >&2
        exit 2
        ;;
esac
