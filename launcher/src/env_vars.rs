//! Every environment variable that rift reads, as a documented constant.
//!
//! Those of settings are named here and bound to their key in [`crate::config`]; no other file spells
//! a variable's name.

/// Where the store is.
pub const RIFT_STORE: &str = "RIFT_STORE";
/// How large the store may grow before gc makes it smaller.
pub const RIFT_MAX_SIZE: &str = "RIFT_MAX_SIZE";
/// Whether the store is on a disk or in memory.
pub const RIFT_TIER: &str = "RIFT_TIER";
/// How much memory a store in memory may take.
pub const RIFT_RAM_MAX: &str = "RIFT_RAM_MAX";
/// How a tree is shown.
pub const RIFT_AS: &str = "RIFT_AS";
/// How files get their bytes.
pub const RIFT_VIA: &str = "RIFT_VIA";
/// Whether known results are used and kept.
pub const RIFT_CACHE: &str = "RIFT_CACHE";
/// Whether recorded results of install scripts are used and kept.
pub const RIFT_SCRIPT_CACHE: &str = "RIFT_SCRIPT_CACHE";
/// Whether what builds of cargo leave in `target` is kept, and put back.
pub const RIFT_TARGET_CACHE: &str = "RIFT_TARGET_CACHE";
/// Whether sources get the times back that cargo knows.
pub const RIFT_SOURCE_TIMES: &str = "RIFT_SOURCE_TIMES";
/// Variables, separated by commas, that install scripts read beside those that rift knows of.
pub const RIFT_SCRIPT_ENV: &str = "RIFT_SCRIPT_ENV";
/// Programs of builds, separated by commas, that are recorded beside those that rift knows.
pub const RIFT_PROGRAMS: &str = "RIFT_PROGRAMS";
/// Whether compilers are told to leave the place of a checkout out of what they make.
pub const RIFT_REMAP_PATHS: &str = "RIFT_REMAP_PATHS";
/// Whether system calls are trapped that a program makes by instructions of its own.
pub const RIFT_TRAP: &str = "RIFT_TRAP";
/// When content is checked against its hash.
pub const RIFT_VERIFY: &str = "RIFT_VERIFY";
/// Whether rift fails where it would otherwise run the real command.
pub const RIFT_STRICT: &str = "RIFT_STRICT";
/// How many threads read and write files.
pub const RIFT_THREADS: &str = "RIFT_THREADS";
/// Whether output has colors.
pub const RIFT_COLOR: &str = "RIFT_COLOR";
/// Whether the summary is left out.
pub const RIFT_QUIET: &str = "RIFT_QUIET";
/// Where the summary is written as JSON.
pub const RIFT_SUMMARY_JSON: &str = "RIFT_SUMMARY_JSON";
/// Which hit rate a job has to reach, in percent.
pub const RIFT_FLOOR: &str = "RIFT_FLOOR";
/// Where trees are shared.
pub const RIFT_REMOTE: &str = "RIFT_REMOTE";
/// How many seconds `rift exec` may take to share a result.
pub const RIFT_SHARE_SECONDS: &str = "RIFT_SHARE_SECONDS";
/// The private key that signs what is shared, as its file has it: for CI, from its secrets.
pub const RIFT_KEY: &str = "RIFT_KEY";
/// Keys whose signatures count beside those that are listed, as `NAME:HEX` with commas or line feeds between them.
pub const RIFT_TRUSTED_KEYS: &str = "RIFT_TRUSTED_KEYS";
/// Which part of the remotes is read first and alone written to.
pub const RIFT_NAMESPACE: &str = "RIFT_NAMESPACE";
/// `1` makes `rift exec` execute the command and nothing else, see exec(2).
pub const RIFT_DISABLE: &str = "RIFT_DISABLE";

/// Where the run file of the run is that a process belongs to; rift sets it.
pub const RIFT_RUN: &str = "RIFT_RUN";
/// The program in whose place rift was started; rift sets it.
pub const RIFT_REPLAY: &str = "RIFT_REPLAY";
/// What `LD_PRELOAD` is for that program; rift sets it.
pub const RIFT_PRELOAD: &str = "RIFT_PRELOAD";
/// Where the journal is that a process is recorded in; rift sets it.
pub const RIFT_RECORD: &str = "RIFT_RECORD";

/// In which shell the hook is on, as `bash:PID`; the hook's own code sets it.
pub const RIFT_HOOK: &str = "RIFT_HOOK";

/// Libraries to load before all others, see ld.so(8).
pub const LD_PRELOAD: &str = "LD_PRELOAD";
/// Where the loader looks for libraries, see ld.so(8).
pub const LD_LIBRARY_PATH: &str = "LD_LIBRARY_PATH";
/// Libraries that watch the loader, see rtld-audit(7).
pub const LD_AUDIT: &str = "LD_AUDIT";
/// Whether libuv uses io_uring.
pub const UV_USE_IO_URING: &str = "UV_USE_IO_URING";
/// No colors when set to anything but the empty string.
pub const NO_COLOR: &str = "NO_COLOR";
/// Colors also where there is no terminal, unless it is `0`.
pub const CLICOLOR_FORCE: &str = "CLICOLOR_FORCE";
/// The type of the terminal; `dumb` has no colors.
pub const TERM: &str = "TERM";
/// Where programs are looked for, see environ(7).
pub const PATH: &str = "PATH";
/// The user's home directory.
pub const HOME: &str = "HOME";
/// Where programs keep their files; the store is in its folder `rift`.
pub const XDG_DATA_HOME: &str = "XDG_DATA_HOME";
/// A file of certificates that servers are known by, as OpenSSL's tools read it.
pub const SSL_CERT_FILE: &str = "SSL_CERT_FILE";
/// Where users configure programs; the user's file is `rift/config.toml` in it.
pub const XDG_CONFIG_HOME: &str = "XDG_CONFIG_HOME";
/// Where programs remember things; rift lists stores in other places there.
pub const XDG_STATE_HOME: &str = "XDG_STATE_HOME";
/// A folder of the user's that is gone after a restart, mostly in memory.
pub const XDG_RUNTIME_DIR: &str = "XDG_RUNTIME_DIR";
/// Where temporary files are, see environ(7).
pub const TMPDIR: &str = "TMPDIR";

/// The profile of AWS's files whose credentials are used.
pub const AWS_PROFILE: &str = "AWS_PROFILE";
/// Where AWS's settings are, instead of `~/.aws/config`.
pub const AWS_CONFIG_FILE: &str = "AWS_CONFIG_FILE";
/// Where AWS's keys are, instead of `~/.aws/credentials`.
pub const AWS_SHARED_CREDENTIALS_FILE: &str = "AWS_SHARED_CREDENTIALS_FILE";
/// Where AWS's single sign-on is asked, instead of its own portal.
pub const AWS_ENDPOINT_URL_SSO: &str = "AWS_ENDPOINT_URL_SSO";
/// `true` where endpoints in AWS's files do not count.
pub const AWS_IGNORE_CONFIGURED_ENDPOINT_URLS: &str = "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS";

/// Whether this is a job of GitHub Actions, or of a system that has its runner.
pub const GITHUB_ACTIONS: &str = "GITHUB_ACTIONS";
/// What has started a job of GitHub Actions.
pub const GITHUB_EVENT_NAME: &str = "GITHUB_EVENT_NAME";
/// The file that describes it, JSON.
pub const GITHUB_EVENT_PATH: &str = "GITHUB_EVENT_PATH";
/// The file whose Markdown GitHub Actions shows with the job.
pub const GITHUB_STEP_SUMMARY: &str = "GITHUB_STEP_SUMMARY";

/// A CI system by its variables.
#[derive(Debug)]
pub struct CiSystem {
    /// Is set, to something other than `false` or `0`, in each of its jobs.
    pub sign: &'static str,
    /// Together they name one job among all that may use a store.
    pub job: &'static [&'static str],
}

/// The CI systems whose jobs can be told apart. Jobs of a matrix have one `GITHUB_JOB`, but a runner has one job at a time,
/// and its tracking id is another in each.
pub const CI_SYSTEMS: [CiSystem; 15] = [
    CiSystem {
        sign: GITHUB_ACTIONS,
        job: &[
            "GITHUB_RUN_ID",
            "GITHUB_RUN_ATTEMPT",
            "GITHUB_JOB",
            "RUNNER_NAME",
            "RUNNER_TRACKING_ID",
        ],
    },
    CiSystem { sign: "GITLAB_CI", job: &["CI_SERVER_URL", "CI_JOB_ID"] },
    CiSystem { sign: "BUILDKITE", job: &["BUILDKITE_JOB_ID"] },
    CiSystem {
        sign: "CIRCLECI",
        job: &[
            "CIRCLE_WORKFLOW_ID",
            "CIRCLE_PROJECT_REPONAME",
            "CIRCLE_BUILD_NUM",
            "CIRCLE_NODE_INDEX",
        ],
    },
    CiSystem { sign: "TF_BUILD", job: &["BUILD_BUILDID", "SYSTEM_JOBID", "SYSTEM_JOBATTEMPT"] },
    CiSystem { sign: "JENKINS_URL", job: &["JENKINS_URL", "BUILD_TAG"] },
    CiSystem {
        sign: "BITBUCKET_BUILD_NUMBER",
        job: &["BITBUCKET_PIPELINE_UUID", "BITBUCKET_STEP_UUID"],
    },
    CiSystem { sign: "TRAVIS", job: &["TRAVIS_JOB_ID"] },
    CiSystem { sign: "APPVEYOR", job: &["APPVEYOR_JOB_ID"] },
    CiSystem { sign: "CODEBUILD_BUILD_ID", job: &["CODEBUILD_BUILD_ID"] },
    CiSystem { sign: "SEMAPHORE", job: &["SEMAPHORE_JOB_ID"] },
    CiSystem { sign: "CIRRUS_CI", job: &["CIRRUS_TASK_ID"] },
    CiSystem {
        sign: "TEAMCITY_VERSION",
        job: &["TEAMCITY_PROJECT_NAME", "TEAMCITY_BUILDCONF_NAME", "BUILD_NUMBER"],
    },
    CiSystem { sign: "DRONE", job: &["DRONE_REPO", "DRONE_BUILD_NUMBER", "DRONE_STAGE_NUMBER"] },
    // What the others set as well; it names no job.
    CiSystem { sign: "CI", job: &[] },
];

/// A variable that tells of a fork whose proposal a job builds.
#[derive(Debug)]
pub struct ForkSign {
    /// Names where the proposal comes from; only set in jobs of a proposal, or `false` there.
    pub head: &'static str,
    /// Names the repository that it is for; `None` where `head` is set for forks alone.
    pub base: Option<&'static str>,
}

/// How CI systems other than GitHub Actions tell that a job builds what a fork has proposed.
pub const FORK_SIGNS: [ForkSign; 8] = [
    ForkSign {
        head: "CI_MERGE_REQUEST_SOURCE_PROJECT_ID",
        base: Some("CI_MERGE_REQUEST_PROJECT_ID"),
    },
    ForkSign { head: "BUILDKITE_PULL_REQUEST_REPO", base: Some("BUILDKITE_REPO") },
    ForkSign { head: "CIRCLE_PR_REPONAME", base: None },
    ForkSign { head: "SYSTEM_PULLREQUEST_ISFORK", base: None },
    ForkSign { head: "CHANGE_FORK", base: None },
    ForkSign { head: "TRAVIS_PULL_REQUEST_SLUG", base: Some("TRAVIS_REPO_SLUG") },
    ForkSign { head: "APPVEYOR_PULL_REQUEST_HEAD_REPO_NAME", base: Some("APPVEYOR_REPO_NAME") },
    ForkSign { head: "SEMAPHORE_GIT_PR_SLUG", base: Some("SEMAPHORE_GIT_REPO_SLUG") },
];

/// What begins the name of each variable that is rift's own.
pub const PREFIX: &str = "RIFT_";

/// Every variable of rift's own.
pub const OWN: [&str; 29] = [
    RIFT_STORE,
    RIFT_MAX_SIZE,
    RIFT_TIER,
    RIFT_RAM_MAX,
    RIFT_AS,
    RIFT_VIA,
    RIFT_CACHE,
    RIFT_SCRIPT_CACHE,
    RIFT_TARGET_CACHE,
    RIFT_SOURCE_TIMES,
    RIFT_SCRIPT_ENV,
    RIFT_PROGRAMS,
    RIFT_REMAP_PATHS,
    RIFT_TRAP,
    RIFT_VERIFY,
    RIFT_STRICT,
    RIFT_THREADS,
    RIFT_COLOR,
    RIFT_QUIET,
    RIFT_SUMMARY_JSON,
    RIFT_FLOOR,
    RIFT_REMOTE,
    RIFT_SHARE_SECONDS,
    RIFT_KEY,
    RIFT_TRUSTED_KEYS,
    RIFT_NAMESPACE,
    RIFT_DISABLE,
    RIFT_RUN,
    RIFT_HOOK,
];

/// Returns a variable that is set to something.
#[must_use]
pub fn get(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}
