//! The job of a CI system that this process is a part of, and how GitHub Actions is told something.
//!
//! A job that builds what a stranger has proposed, such as the pull request of a fork, is told from others by the same variables.
//! What a job is named by goes into records as a hash: it tells jobs apart and says nothing about them.

use std::ffi::OsString;
use std::path::Path;

use crate::env_vars::{self, CI_SYSTEMS, FORK_SIGNS};

/// A CI system that this process runs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ci {
    /// The hash of what names the job; `None` where the system does not name it.
    pub job: Option<String>,
}

/// Returns the CI system around this process; `None` when there seems to be none.
#[must_use]
pub fn here() -> Option<Ci> {
    of(env_vars::get)
}

fn of(get: impl Fn(&str) -> Option<OsString>) -> Option<Ci> {
    let is_on = |sign: &str| get(sign).is_some_and(|value| value != "false" && value != "0");
    let system = CI_SYSTEMS.iter().find(|system| is_on(system.sign))?;
    let mut hasher = blake3::Hasher::new();
    let mut is_named = false;
    for name in system.job {
        let value = get(name).unwrap_or_default();
        is_named |= !value.is_empty();
        for part in [name.as_bytes(), b"=", value.as_encoded_bytes(), b"\0"] {
            hasher.update(part);
        }
    }
    // 128 bits are enough for jobs, and half as long in each record.
    let job = is_named.then(|| hasher.finalize().to_hex()[..32].to_owned());
    Some(Ci { job })
}

/// Tells whether this job may build what somebody has proposed who may not write to the repository.
#[must_use]
pub fn is_untrusted() -> bool {
    is_of_fork(env_vars::get, |path| std::fs::read(path).ok())
}

fn is_of_fork(
    get: impl Fn(&str) -> Option<OsString>,
    read: impl Fn(&Path) -> Option<Vec<u8>>,
) -> bool {
    let is_fork = FORK_SIGNS.iter().any(|sign| {
        let head = get(sign.head).filter(|value| !value.eq_ignore_ascii_case("false"));
        head.is_some_and(|head| sign.base.is_none_or(|base| get(base) != Some(head)))
    });
    is_fork || is_of_github_fork(get, read)
}

/// GitHub Actions tells it in the file of the event. A pull request of which that says nothing counts as a fork's.
fn is_of_github_fork(
    get: impl Fn(&str) -> Option<OsString>,
    read: impl Fn(&Path) -> Option<Vec<u8>>,
) -> bool {
    let name = get(env_vars::GITHUB_EVENT_NAME).unwrap_or_default();
    let name = name.to_string_lossy();
    let head = match name.as_ref() {
        "workflow_run" => "/workflow_run/head_repository/full_name",
        name if name.starts_with("pull_request") => "/pull_request/head/repo/full_name",
        _ => return false,
    };
    let event = get(env_vars::GITHUB_EVENT_PATH).and_then(|path| read(Path::new(&path)));
    let event: Option<serde_json::Value> =
        event.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let text = |at: &str| event.as_ref()?.pointer(at)?.as_str().map(str::to_owned);
    let (head, base) = (text(head), text("/repository/full_name"));
    head.is_none() || head != base
}

/// Tells whether what is printed is read by a runner of GitHub Actions.
#[must_use]
pub fn is_github() -> bool {
    env_vars::get(env_vars::GITHUB_ACTIONS).is_some_and(|value| value == "true")
}

/// Returns the line that makes GitHub Actions show a warning beside the job.
#[must_use]
pub fn annotation(title: &str, message: &str) -> String {
    let title = escape(title).replace(':', "%3A").replace(',', "%2C");
    format!("::warning title={title}::{}", escape(message))
}

/// Escapes what would end a command of the runner, or be taken for an escape.
fn escape(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(variables: &[(&str, &str)]) -> Option<Option<String>> {
        let get = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        };
        of(get).map(|ci| ci.job)
    }

    #[test]
    fn jobs_are_told_apart_by_what_names_them() {
        assert_eq!(job(&[]), None);
        assert_eq!(job(&[("CI", "false")]), None);
        assert_eq!(job(&[("CI", "true"), ("CI_JOB_ID", "1")]), Some(None), "CI alone names none");
        let github = [("CI", "true"), ("GITHUB_ACTIONS", "true"), ("GITHUB_RUN_ID", "1")];
        let first = job(&github).unwrap().unwrap();
        assert!(first.len() == 32 && first.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_eq!(job(&github).unwrap().unwrap(), first);
        for (name, value) in [
            ("GITHUB_RUN_ATTEMPT", "2"),
            ("GITHUB_JOB", "test"),
            ("RUNNER_NAME", "second"),
            ("RUNNER_TRACKING_ID", "github_2"),
        ] {
            let other = job(&[github.as_slice(), &[(name, value)]].concat());
            assert_ne!(other.unwrap().unwrap(), first, "{name}");
        }
        // Not a concatenation of values, which can be cut elsewhere.
        let [one, two] = [("1", "23"), ("12", "3")].map(|(run, attempt)| {
            job(&[("GITHUB_ACTIONS", "1"), ("GITHUB_RUN_ID", run), ("GITHUB_RUN_ATTEMPT", attempt)])
        });
        assert_ne!(one, two);
        let gitlab = |id| job(&[("GITLAB_CI", "true"), ("CI", "true"), ("CI_JOB_ID", id)]);
        assert_ne!(gitlab("1"), gitlab("2"));
        assert!(gitlab("1").unwrap().is_some());
    }

    #[test]
    fn what_a_fork_proposes_is_told_from_the_rest() {
        let is_of_fork = |variables: &[(&str, &str)], event: &str| {
            let get = |name: &str| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| OsString::from(value))
            };
            let read = |path: &Path| (path == Path::new("/event")).then(|| event.into());
            super::is_of_fork(get, read)
        };
        let event = |head: &str| {
            let repository = |name: &str| format!(r#"{{"full_name": "{name}"}}"#);
            format!(
                r#"{{"pull_request": {{"head": {{"repo": {head}}}}}, "repository": {}}}"#,
                repository("team/app")
            )
        };
        let (own, fork) = (r#"{"full_name": "team/app"}"#, r#"{"full_name": "them/app"}"#);
        for name in ["pull_request", "pull_request_target", "pull_request_review"] {
            let github = [("GITHUB_EVENT_NAME", name), ("GITHUB_EVENT_PATH", "/event")];
            assert!(!is_of_fork(&github, &event(own)), "{name}");
            assert!(is_of_fork(&github, &event(fork)), "{name}");
            // The fork is deleted, the file says nothing or is not there: nobody knows, so it counts.
            assert!(is_of_fork(&github, &event("null")), "{name}");
            assert!(is_of_fork(&github, "{}") && is_of_fork(&github[..1], ""), "{name}");
        }
        let run = [("GITHUB_EVENT_NAME", "workflow_run"), ("GITHUB_EVENT_PATH", "/event")];
        let event = r#"{"workflow_run": {"head_repository": {"full_name": "them/app"}}, "repository": {"full_name": "team/app"}}"#;
        assert!(is_of_fork(&run, event) && !is_of_fork(&run, &event.replace("them", "team")));
        assert!(!is_of_fork(&[("GITHUB_EVENT_NAME", "push")], "") && !is_of_fork(&[], ""));
        let merge = "CI_MERGE_REQUEST_SOURCE_PROJECT_ID";
        for (expected, variables) in [
            (true, &[(merge, "7"), ("CI_MERGE_REQUEST_PROJECT_ID", "3")][..]),
            (false, &[(merge, "3"), ("CI_MERGE_REQUEST_PROJECT_ID", "3")]),
            (true, &[("SYSTEM_PULLREQUEST_ISFORK", "True")]),
            (false, &[("SYSTEM_PULLREQUEST_ISFORK", "False")]),
            (true, &[("CIRCLE_PR_REPONAME", "app")]),
            (true, &[("BUILDKITE_PULL_REQUEST_REPO", "a"), ("BUILDKITE_REPO", "b")]),
            (false, &[("BUILDKITE_PULL_REQUEST_REPO", "a"), ("BUILDKITE_REPO", "a")]),
            (true, &[("CHANGE_FORK", "them")]),
        ] {
            assert_eq!(is_of_fork(variables, ""), expected, "{variables:?}");
        }
    }

    #[test]
    fn annotations_end_where_they_should() {
        assert_eq!(
            annotation("rift", "50 % at `npm ci`"),
            "::warning title=rift::50 %25 at `npm ci`"
        );
        assert_eq!(
            annotation("a:b,c\n%", "x::y\r\n::error::z, %0A"),
            "::warning title=a%3Ab%2Cc%0A%25::x::y%0D%0A::error::z, %250A"
        );
    }
}
