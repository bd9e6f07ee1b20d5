//! Jobs of GitHub and GitLab with `scripts/ci`: the lines of action.yml and gitlab.yml are read from these files and run as the systems
//! run them.
//!
//! Each job has a fresh machine, at the same paths as in the hosted services: home, working directory and temporary folder are made anew, and
//! what one job has of another is only what the cache carried. `$/scripts/ci/close` is run by node, as a runner does.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rift_tests::again::{NOBODY, as_nobody_too};
use rift_tests::differ::{Options, compare};
use rift_tests::fixture::{Fixture, edit_json};
use rift_tests::need::{Need, find_in_path, have, skip};
use rift_tests::npm_project::prepare_mini;
use rift_tests::refused::Refusal;
use rift_tests::repository;
use rift_tests::sandbox::{Ran, Sandbox, clear, rift_binary};
use rift_tests::server::Server;
use rift_tests::warm::{Scripts, Warm};
use serde_json::{Value, json};

/// Reads the few forms of YAML that our files have, and refuses all others: what this takes for text is text to any reader.
fn yaml(path: &str) -> Value {
    let text = fs::read_to_string(repository().join(path)).unwrap();
    let is_said = |line: &&str| !line.trim().is_empty() && !line.trim().starts_with('#');
    let lines = text.lines().filter(is_said);
    let mut lines: Vec<(usize, &str)> =
        lines.map(|line| (line.len() - line.trim_start().len(), line.trim())).collect();
    let mut at = 0;
    let value = block(&mut lines, &mut at);
    assert_eq!(at, lines.len(), "{path}");
    value
}

fn block<'t>(lines: &mut [(usize, &'t str)], at: &mut usize) -> Value {
    let indent = lines[*at].0;
    let is_here =
        |lines: &[(usize, &str)], at: usize| lines.get(at).is_some_and(|line| line.0 == indent);
    if lines[*at].1.starts_with("- ") {
        let mut items = Vec::new();
        while is_here(lines, *at) && lines[*at].1.starts_with("- ") {
            let item: &'t str = &lines[*at].1[2..];
            if key(item).is_some() {
                lines[*at] = (indent + 2, item);
                items.push(block(lines, at));
            } else {
                *at += 1;
                items.push(scalar(item));
            }
        }
        return items.into();
    }
    let mut fields = serde_json::Map::new();
    while is_here(lines, *at) {
        let (name, rest) = key(lines[*at].1).unwrap();
        *at += 1;
        let value = if rest.is_empty() { block(lines, at) } else { scalar(rest) };
        assert!(fields.insert(name.to_owned(), value).is_none(), "{name} is there twice");
    }
    fields.into()
}

fn key(line: &str) -> Option<(&str, &str)> {
    let (name, rest) = line.split_once(':')?;
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    (is_name && (rest.is_empty() || rest.starts_with(' '))).then_some((name, rest.trim()))
}

fn scalar(text: &str) -> Value {
    let is_plain = !text.starts_with(|c: char| "'\"|>&*{[!%@`".contains(c));
    assert!(is_plain && !text.contains(": ") && !text.contains(" #"), "{text}");
    text.into()
}

fn texts(value: &Value) -> Vec<String> {
    let list = value.as_array().unwrap().iter();
    list.map(|item| item.as_str().unwrap().to_owned()).collect()
}

fn pairs(value: &Value) -> Vec<(String, String)> {
    let fields = value.as_object().into_iter().flatten();
    fields.map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())).collect()
}

/// What the cache of a CI keeps under a key.
struct Entry {
    key: String,
    folder: PathBuf,
}

/// What jobs run on, one after the other, and the cache that outlives them.
struct Runners {
    sandbox: Sandbox,
    npmrc: String,
    entries: Vec<Entry>,
    jobs: u32,
    /// What each command of a job begins with.
    inside: Vec<String>,
    /// The user of a job, if it is another one.
    user: Option<u32>,
}

/// What a job is told.
#[derive(Clone, Default)]
struct Event {
    /// What started it, if not a push.
    name: Option<&'static str>,
    /// Whose code it runs; nothing where that is not told.
    code_from: Option<&'static str>,
    /// Inputs of the action.
    inputs: Vec<(&'static str, String)>,
    env: Vec<(&'static str, String)>,
    /// Whether npm finds no package, in its cache or elsewhere.
    has_no_packages: bool,
}

impl Runners {
    fn new(name: &str) -> Self {
        let sandbox = Sandbox::new(name).unwrap();
        let npmrc = fs::read_to_string(sandbox.home().join(".npmrc")).unwrap();
        fs::create_dir(sandbox.path("tools")).unwrap();
        symlink(rift_binary().unwrap(), sandbox.path("tools/rift")).unwrap();
        Self { sandbox, npmrc, entries: Vec::new(), jobs: 0, inside: Vec::new(), user: None }
    }

    fn workspace(&self) -> PathBuf {
        self.sandbox.path("work/app/app")
    }

    /// Gives the next job a machine.
    fn machine(&mut self, event: &Event, prepare: &dyn Fn(&Path)) {
        self.jobs += 1;
        for folder in ["home", "work", "tmp"] {
            clear(&self.sandbox.path(folder)).unwrap();
        }
        for folder in ["home/.npm", "work/app/app", "work/temp", "tmp/files"] {
            fs::create_dir_all(self.sandbox.path(folder)).unwrap();
        }
        fs::write(self.sandbox.home().join(".npmrc"), &self.npmrc).unwrap();
        if !event.has_no_packages {
            let warm = Warm::of(Fixture::Small, Scripts::Off).unwrap();
            warm.fill_npm_cache(&self.sandbox).unwrap();
            if self.user.is_some() {
                // What is shared with other tests by links keeps its owner.
                let (shared, own) = (self.sandbox.path("home/.npm"), self.sandbox.path("home/own"));
                copy(&shared, &own);
                clear(&shared).unwrap();
                fs::rename(own, shared).unwrap();
            }
        }
        prepare(&self.workspace());
        self.hand_over();
    }

    /// Makes the files of a job those of its user, and leaves the temporary folder to the runner's.
    fn hand_over(&self) {
        let Some(user) = self.user else { return };
        let owner = format!("{user}:{user}");
        let mut command = Command::new("chown");
        command
            .args(["-R", &owner])
            .args(["home", "work", "tmp"].map(|name| self.sandbox.path(name)));
        assert!(command.status().unwrap().success());
        std::os::unix::fs::chown(self.sandbox.path("work/temp"), Some(0), Some(0)).unwrap();
    }

    /// Returns a command of a job, in its working directory.
    fn command(&self, event: &Event, path: &[PathBuf], words: &[&str]) -> Command {
        let words: Vec<&str> =
            self.inside.iter().map(String::as_str).chain(words.iter().copied()).collect();
        let mut command = self.sandbox.command(&self.workspace(), words[0]);
        command.args(&words[1..]).env_remove("RIFT_STORE").env("CI", "true");
        // Packages come from npm's cache or from nowhere.
        command.env("npm_config_offline", "true");
        command.envs(event.env.iter().map(|(name, value)| (name, value)));
        let named = event.env.iter().find(|(name, _)| *name == "PATH");
        let given = named.map(|(_, path)| path.into()).or_else(|| std::env::var_os("PATH"));
        let given: Vec<PathBuf> = std::env::split_paths(&given.unwrap()).collect();
        let path = path.iter().cloned().chain([self.sandbox.path("tools")]).chain(given);
        command.env("PATH", std::env::join_paths(path).unwrap());
        command
    }

    /// Copies what the cache has into a folder; tells whether it is of this very key.
    fn restore(&self, path: &Path, key: &str, prefixes: &[String]) -> Option<bool> {
        let newest = |is_it: &dyn Fn(&str) -> bool| {
            self.entries.iter().rev().find(|entry| is_it(&entry.key))
        };
        let exact = newest(&|known| known == key);
        let found = exact.or_else(|| {
            prefixes.iter().find_map(|prefix| newest(&|known| known.starts_with(prefix.as_str())))
        })?;
        copy(&found.folder, path);
        self.hand_over();
        Some(exact.is_some())
    }

    /// Keeps a folder under a key.
    fn save(&mut self, path: &Path, key: &str) {
        let folder = self.sandbox.path(&format!("entries/{}", self.jobs));
        fs::create_dir_all(self.sandbox.path("entries")).unwrap();
        copy(path, &folder);
        self.entries.push(Entry { key: key.to_owned(), folder });
    }

    /// Returns the objects of a kind that the remote in the last entry has.
    fn objects(&self, kind: &str) -> Vec<PathBuf> {
        let folder = self.entries.last().unwrap().folder.join("remote").join(kind);
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    /// Runs a whole job of GitHub: the action, and then the lines of `script`, each as a step.
    fn github(&mut self, event: &Event, prepare: &dyn Fn(&Path), script: &[&str]) -> Ended {
        self.machine(event, prepare);
        let (event, jobs) = (event.clone(), self.jobs);
        let (path, env) = (Vec::new(), BTreeMap::new());
        let (outputs, posts) = (BTreeMap::new(), Vec::new());
        let ended = Ended {
            log: String::new(),
            markdown: String::new(),
            is_good: true,
            env: BTreeMap::new(),
        };
        let mut job = Job { runners: self, event, number: jobs, path, env, outputs, posts, ended };
        for step in yaml("scripts/ci/action.yml")["runs"]["steps"].as_array().unwrap() {
            job.step(step);
        }
        for line in script {
            job.line(line, &[]);
        }
        job.end()
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    clear(to).unwrap();
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

/// What is done when a job ends, the last one first.
enum Post {
    Node(PathBuf),
    Save { path: PathBuf, key: String },
}

/// A job of GitHub.
struct Job<'r> {
    runners: &'r mut Runners,
    event: Event,
    number: u32,
    path: Vec<PathBuf>,
    env: BTreeMap<String, String>,
    outputs: BTreeMap<String, String>,
    posts: Vec<Post>,
    ended: Ended,
}

/// What a job left behind.
struct Ended {
    log: String,
    markdown: String,
    is_good: bool,
    env: BTreeMap<String, String>,
}

impl Job<'_> {
    /// Evaluates what stands in `${{ }}`.
    fn value(&self, expression: &str) -> String {
        let given = |name: &str| {
            let found = self.event.inputs.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.clone()).unwrap_or_default()
        };
        match expression {
            "toJSON(matrix)" => "null".to_owned(),
            "hashFiles('**/package-lock.json', '**/npm-shrinkwrap.json')" => self.lockfiles(),
            "github.event.pull_request.head.repo.full_name || \
             github.event.workflow_run.head_repository.full_name" => {
                self.event.code_from.unwrap_or_default().to_owned()
            }
            _ => match (expression.strip_prefix("inputs."), expression.strip_prefix("steps.")) {
                (Some(name), _) => {
                    let known = &yaml("scripts/ci/action.yml")["inputs"][name];
                    assert!(known.is_object(), "{expression}");
                    given(name)
                }
                (_, Some(output)) => self.outputs.get(output).cloned().unwrap_or_default(),
                _ => panic!("{expression} is unknown"),
            },
        }
    }

    fn fill(&self, text: &str) -> String {
        let mut parts = text.split("${{ ");
        let mut filled = parts.next().unwrap().to_owned();
        for part in parts {
            let (expression, rest) = part.split_once(" }}").unwrap();
            filled.push_str(&self.value(expression));
            filled.push_str(rest);
        }
        filled
    }

    fn lockfiles(&self) -> String {
        let mut hasher = DefaultHasher::new();
        let mut folders = vec![self.runners.workspace()];
        while let Some(folder) = folders.pop() {
            let lockfile = folder.join("package-lock.json");
            fs::read(lockfile).unwrap_or_default().hash(&mut hasher);
            let inner = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
            let mut inner: Vec<PathBuf> = inner.filter(|path| path.is_dir()).collect();
            inner.sort();
            folders.extend(inner);
        }
        format!("{:016x}", hasher.finish())
    }

    /// Returns the folder that a path of an input means.
    fn folder(&self, path: &str) -> PathBuf {
        self.runners.sandbox.home().join(path.strip_prefix("~/").unwrap())
    }

    fn step(&mut self, step: &Value) {
        if let Some(condition) = step["if"].as_str() {
            let (left, right) = condition.split_once(" == ").unwrap();
            if self.value(left) != right.trim_matches('\'') {
                return;
            }
        }
        let id = step["id"].as_str().unwrap_or_default().to_owned();
        let with: BTreeMap<String, String> =
            pairs(&step["with"]).into_iter().map(|(name, text)| (name, self.fill(&text))).collect();
        if let Some(line) = step["run"].as_str() {
            assert_eq!(step["shell"], "sh");
            let env: Vec<_> = pairs(&step["env"])
                .into_iter()
                .map(|(name, text)| (name, self.fill(&text)))
                .collect();
            for (name, value) in self.line(line, &env) {
                self.outputs.insert(format!("{id}.outputs.{name}"), value);
            }
            return;
        }
        match step["uses"].as_str().unwrap() {
            action @ ("actions/cache@v6" | "actions/cache/restore@v6") => {
                let (path, key) = (self.folder(&with["path"]), with["key"].clone());
                let found = self.runners.restore(&path, &key, &[with["restore-keys"].clone()]);
                let hit = found.map(|is_exact| is_exact.to_string()).unwrap_or_default();
                self.outputs.insert(format!("{id}.outputs.cache-hit"), hit);
                if action == "actions/cache@v6" && found != Some(true) {
                    self.posts.push(Post::Save { path, key });
                }
            }
            own => {
                let folder = repository().join(own.strip_prefix("$/").unwrap());
                let runs = yaml(&format!("{}/action.yml", &own[2..]))["runs"].clone();
                assert_eq!(runs["using"], "node24");
                self.node(&folder.join(runs["main"].as_str().unwrap()));
                self.posts.push(Post::Node(folder.join(runs["post"].as_str().unwrap())));
            }
        }
    }

    fn node(&mut self, script: &Path) {
        self.run(&["node", script.to_str().unwrap()], &[]);
    }

    /// Runs a line as a step, as a runner does with `shell: sh`; returns its outputs.
    fn line(&mut self, line: &str, env: &[(String, String)]) -> Vec<(String, String)> {
        let script = self.runners.sandbox.path("tmp/files/step.sh");
        fs::write(&script, format!("{line}\n")).unwrap();
        self.run(&["sh", "-e", script.to_str().unwrap()], env)
    }

    fn run(&mut self, words: &[&str], env: &[(String, String)]) -> Vec<(String, String)> {
        const FILES: [&str; 4] =
            ["GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_PATH", "GITHUB_STEP_SUMMARY"];
        let files = FILES.map(|name| self.runners.sandbox.path("tmp/files").join(name));
        let mut command = self.runners.command(&self.event, &self.path, words);
        let number = self.number.to_string();
        let event = self.event.name.unwrap_or("push");
        for (name, value) in [
            ("GITHUB_ACTIONS", "true"),
            ("GITHUB_RUN_ID", &number),
            ("GITHUB_JOB", "build"),
            ("GITHUB_REPOSITORY", "owner/app"),
            ("GITHUB_EVENT_NAME", event),
        ] {
            command.env(name, value);
        }
        command.env("GITHUB_ACTION_PATH", repository().join("scripts/ci"));
        command.env("RUNNER_TEMP", self.runners.sandbox.path("work/temp"));
        for (name, file) in FILES.iter().zip(&files) {
            fs::write(file, "").unwrap();
            fs::set_permissions(file, fs::Permissions::from_mode(0o666)).unwrap();
            command.env(name, file);
        }
        command.envs(&self.env).envs(env.iter().map(|(name, value)| (name, value)));
        let ran = self.runners.sandbox.run(&mut command).unwrap();
        self.ended.is_good &= ran.status.success();
        self.ended.log.push_str(&format!("$ {}\n{}{}", ran.command, ran.stdout, ran.stderr));
        let [outputs, env, path, markdown] = files.map(|file| fs::read_to_string(file).unwrap());
        self.ended.markdown.push_str(&markdown);
        let read = |text: &str| -> Vec<(String, String)> {
            let pairs = text.lines().map(|line| line.split_once('=').unwrap());
            pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
        };
        self.env.extend(read(&env));
        for folder in path.lines() {
            self.path.insert(0, folder.into());
        }
        read(&outputs)
    }

    fn end(mut self) -> Ended {
        while let Some(post) = self.posts.pop() {
            match post {
                Post::Node(script) => self.node(&script),
                Post::Save { path, key } if self.ended.is_good => self.runners.save(&path, &key),
                Post::Save { .. } => {}
            }
        }
        self.ended.env = self.env;
        self.ended
    }
}

impl Ended {
    #[track_caller]
    fn good(self) -> Self {
        assert!(self.is_good && !self.log.contains("panicked"), "{}", self.log);
        self
    }

    #[track_caller]
    fn says(&self, words: &[&str]) {
        for word in words {
            assert!(self.log.contains(word), "no `{word}`:\n{}", self.log);
        }
    }

    #[track_caller]
    fn never_says(&self, words: &[&str]) {
        for word in words {
            assert!(!self.log.contains(word), "`{word}`:\n{}", self.log);
        }
    }
}

fn without_packages() -> Event {
    Event { has_no_packages: true, ..Event::default() }
}

fn of_a_fork() -> Event {
    Event { name: Some("pull_request"), code_from: Some("stranger/app"), ..Event::default() }
}

fn small(workspace: &Path) {
    Fixture::Small.prepare(workspace).unwrap();
}

fn mini(workspace: &Path) {
    prepare_mini(workspace).unwrap();
}

/// Makes a project of one of the packages that [`mini`] has.
fn tiny(workspace: &Path) {
    prepare_mini(workspace).unwrap();
    let needs = json!({"js-tokens": "^4.0.0"});
    edit_json(&workspace.join("package.json"), |manifest| {
        manifest["dependencies"] = needs.clone();
        Ok(())
    })
    .unwrap();
    edit_json(&workspace.join("package-lock.json"), |lock| {
        lock["packages"][""]["dependencies"] = needs.clone();
        let packages = lock["packages"].as_object_mut().unwrap();
        packages.retain(|place, _| place.is_empty() || place.ends_with("js-tokens"));
        Ok(())
    })
    .unwrap();
}

/// Makes what the jobs of all users read; the user of a test that runs again can't.
fn install() {
    for scripts in [Scripts::Off, Scripts::On] {
        Warm::of(Fixture::Small, scripts).unwrap();
    }
}

#[track_caller]
fn assert_as_npm(runners: &Runners) {
    let expected = Warm::of(Fixture::Small, Scripts::On).unwrap();
    let differences =
        compare(&expected.project(), &runners.workspace(), Options::default()).unwrap();
    let lines: Vec<String> = differences.iter().take(20).map(ToString::to_string).collect();
    assert!(lines.is_empty(), "{}", lines.join("\n"));
}

/// Returns every byte that a remote's data has, unpacked.
fn data(runners: &Runners) -> Vec<u8> {
    let unpacked = |path: &PathBuf| {
        let bytes = fs::read(path).unwrap();
        let is_compressed = path.extension().is_some_and(|extension| extension == "zst");
        if is_compressed { zstd::decode_all(&bytes[..]).unwrap() } else { bytes }
    };
    runners.objects("data").iter().flat_map(unpacked).collect()
}

fn has(bytes: &[u8], word: &str) -> bool {
    bytes.windows(word.len()).any(|at| at == word.as_bytes())
}

/// The whole story: a job makes the tree, another has it without npm, a registry or a cache of npm's, and a pull request from a fork reads.
#[test]
fn one_line_carries_trees_from_job_to_job() {
    const NAME: &str = "one_line_carries_trees_from_job_to_job";
    install();
    as_nobody_too(NAME);
    let mut runners = Runners::new("ci");
    let first = runners.github(&Event::default(), &small, &["npm ci"]).good();
    assert_as_npm(&runners);
    first.says(&["on PATH is used", "read and written", "rift summary: 1 run", "1 result of 1 ("]);
    assert!(first.markdown.starts_with("### rift: 1 run\n"), "{}", first.markdown);
    assert!(first.markdown.contains("| hit rate | 0 % |"), "{}", first.markdown);
    // The key is in the log where the runner is told to mask it, and nowhere else.
    let entry = &runners.entries.last().unwrap().folder;
    let private = fs::read_to_string(entry.join("key")).unwrap();
    let digits = private.trim_end().rsplit(':').next().unwrap();
    assert_eq!(digits.len(), 64);
    assert_eq!(first.log.matches(digits).count(), 1, "{}", first.log);
    first.says(&[&format!("::add-mask::{digits}")]);
    assert_eq!(runners.objects("plans").len(), 1);

    let (line, trace) = traced(NAME, &runners);
    let second = runners.github(&without_packages(), &small, &[&line, "rift why"]).good();
    assert_as_npm(&runners);
    second.says(&["signed by ci", "  hit rate  100 %"]);
    second.never_says(&["warning", "is not used"]);
    assert_eq!(runners.entries.len(), 1, "an entry that was found is not saved again");
    if let Some(trace) = trace {
        let text = fs::read_to_string(trace).unwrap();
        let started: Vec<&str> = text.lines().filter(|line| line.ends_with("= 0")).collect();
        let is_tool = |line: &&&str| {
            let program = line.split('"').nth(1).unwrap_or_default();
            ["node", "npm"]
                .into_iter()
                .filter_map(find_in_path)
                .any(|tool| tool == Path::new(program))
        };
        assert_eq!(started.iter().find(is_tool), None, "{text}");
        assert!(started.iter().any(|line| line.contains("rift\"")), "{text}");
    }

    // A fork reads what is there, and makes what is not for itself alone.
    let read =
        runners.github(&Event { has_no_packages: true, ..of_a_fork() }, &small, &["npm ci"]).good();
    read.says(&["only read", "  hit rate  100 %"]);
    assert_eq!(read.env["RIFT_KEY"], "");
    assert!(!read.env["RIFT_TRUSTED_KEYS"].is_empty());
    read.never_says(&["add-mask", digits]);
    let changed = runners.github(&of_a_fork(), &mini, &["npm ci", "rift why"]).good();
    changed.says(&["rift: 3 packages", "there is no key to sign with", "  hit rate  0 %"]);
    let kept = runners.objects("plans");
    assert_eq!((runners.entries.len(), kept.len()), (1, 1));
}

#[test]
fn only_who_may_write_is_given_the_key() {
    let mut runners = Runners::new("ci-access");
    for (name, code_from, says) in [
        ("push", None, "read and written"),
        ("workflow_dispatch", None, "read and written"),
        ("pull_request", Some("owner/app"), "read and written"),
        ("pull_request", Some("stranger/app"), "only read"),
        // The fork is gone.
        ("pull_request", None, "only read"),
        ("pull_request_target", Some("stranger/app"), "only read"),
        ("workflow_run", Some("stranger/app"), "only read"),
        ("workflow_run", Some("owner/app"), "read and written"),
    ] {
        let event = Event { name: Some(name), code_from, ..Event::default() };
        let given = Event { env: vec![("RIFT_KEY", "rift private key 1 a:b".to_owned())], ..event };
        let ended = runners.github(&given, &mini, &["true"]).good();
        ended.says(&[says]);
        assert_eq!(ended.env["RIFT_KEY"].is_empty(), says == "only read", "{name} {code_from:?}");
        assert_eq!(runners.entries.pop().is_some(), says != "only read", "{name} {code_from:?}");
    }
}

/// Returns the line of a step that runs `npm ci`, and where its trace of started programs will be.
fn traced(test: &str, runners: &Runners) -> (String, Option<PathBuf>) {
    if !have(test, &[Need::Strace]) {
        return ("npm ci".to_owned(), None);
    }
    let trace = runners.sandbox.path("trace");
    let line = format!("strace -f -qq -e trace=execve -o '{}' sh -c 'npm ci'", trace.display());
    (line, Some(trace))
}

#[test]
fn a_carried_folder_loses_what_the_job_does_not_need() {
    let mut runners = Runners::new("ci-prune");
    let both = |workspace: &Path| {
        tiny(&workspace.join("tiny"));
        mini(&workspace.join("mini"));
    };
    let script = ["cd tiny && npm ci", "cd mini && npm ci"];
    runners.github(&Event::default(), &both, &script).good().says(&["2 results of 2 ("]);
    assert_eq!((runners.objects("plans").len(), runners.objects("data").len()), (2, 2));
    assert!(has(&data(&runners), "@license React"));
    // Another lockfile, another entry: it begins with what the one before had.
    let one = |workspace: &Path| tiny(&workspace.join("tiny"));
    let ended = runners.github(&without_packages(), &one, &["cd tiny && npm ci"]).good();
    ended.says(&["  hit rate  100 %", "1 result of 1 ("]);
    assert_eq!(runners.entries.len(), 2);
    for kind in ["plans", "trees", "places", "data"] {
        assert_eq!(runners.objects(kind).len(), 1, "{kind}");
    }
    assert!(!has(&data(&runners), "@license React"));
    // The ref that leads to the tree that is gone is gone, too: what is new is whole.
    runners.entries.remove(0);
    let ended = runners.github(&Event::default(), &both, &script[1..]).good();
    ended.says(&["  hit rate  0 %", "1 result of 1 ("]);
    let ended = runners.github(&without_packages(), &both, &script[1..]).good();
    ended.says(&["  hit rate  100 %"]);
    // Who needs nothing leaves everything as it is.
    let before = runners.objects("data");
    let other = |workspace: &Path| fs::write(workspace.join("package-lock.json"), "{}").unwrap();
    runners.github(&Event::default(), &other, &["true"]).good().says(&["so everything stays"]);
    assert_eq!(runners.objects("data").len(), before.len());
}

/// Whatever the cache brings, the job does what it is for.
#[test]
fn a_job_with_a_broken_cache_ends_well() {
    let mut runners = Runners::new("ci-broken");
    runners.github(&Event::default(), &mini, &["npm ci"]).good();
    let entry = runners.entries[0].folder.clone();
    let whole = runners.sandbox.path("whole");
    copy(&entry, &whole);
    let pack = |entry: &Path| {
        fs::read_dir(entry.join("remote/data")).unwrap().next().unwrap().unwrap().path()
    };
    type Break<'b> = &'b dyn Fn(&Path);
    let cases: [(&str, Break<'_>, &[&str]); 5] = [
        ("cut", &|at| fs::write(pack(at), "cut").unwrap(), &["is not used", "0 results of 1"]),
        ("no plan", &|at| clear(&at.join("remote/plans")).unwrap(), &["hit rate  0 %"]),
        (
            "no remote",
            &|at| {
                clear(&at.join("remote")).unwrap();
                fs::write(at.join("remote"), "a file").unwrap();
            },
            &["goes on without rift", "`rift-ci.sh start` has failed"],
        ),
        ("no key", &|at| fs::write(at.join("key"), "nonsense").unwrap(), &["is no private key"]),
        (
            "nothing",
            &|at| clear(at).and_then(|()| Ok(fs::create_dir(at)?)).unwrap(),
            &["hit rate  0 %"],
        ),
    ];
    for (name, damage, said) in cases {
        copy(&whole, &entry);
        damage(&entry);
        let ended = runners.github(
            &Event::default(),
            &mini,
            &["npm ci", "test -e node_modules/react/index.js"],
        );
        assert!(ended.is_good, "{name}: {}", ended.log);
        ended.says(said);
    }
    // What was made beside a damaged entry is not kept, and that is said.
    copy(&whole, &entry);
    clear(&entry.join("remote/plans")).unwrap();
    let ended = runners.github(&Event::default(), &mini, &["npm ci"]).good();
    ended.says(&["::warning title=rift::what this job has made is not kept"]);
    // Who asks for it is told by a failure.
    fs::write(pack(&entry), "cut").unwrap();
    copy(&whole.join("remote/plans"), &entry.join("remote/plans"));
    let strict = Event { env: vec![("RIFT_STRICT", "1".to_owned())], ..Event::default() };
    assert!(!runners.github(&strict, &mini, &["npm ci"]).is_good);
}

/// Returns a folder of programs that has neither rift nor cargo.
fn few_tools(runners: &Runners) -> PathBuf {
    let folder = runners.sandbox.path("few");
    fs::create_dir(&folder).unwrap();
    for name in [
        "cat",
        "cp",
        "cut",
        "dirname",
        "env",
        "find",
        "id",
        "ln",
        "mkdir",
        "mv",
        "node",
        "npm",
        "rm",
        "sed",
        "sh",
        "sha256sum",
        "sort",
        "test",
        "tr",
        "true",
        "uname",
        "xargs",
    ] {
        symlink(fs::canonicalize(find_in_path(name).unwrap()).unwrap(), folder.join(name)).unwrap();
    }
    folder
}

/// What stands in for cargo gives the program that the tests are about: to build another takes minutes, see
/// `cargo_builds_the_program_that_jobs_use`.
#[test]
fn a_program_that_was_built_is_carried() {
    let mut runners = Runners::new("ci-build");
    let few = few_tools(&runners);
    fs::remove_file(runners.sandbox.path("tools/rift")).unwrap();
    let path = |folders: &[&Path]| {
        vec![("PATH", std::env::join_paths(folders).unwrap().into_string().unwrap())]
    };
    let without = Event { env: path(&[&few]), ..Event::default() };
    let alone = runners.github(&without, &mini, &["npm ci", "test -e node_modules/react"]).good();
    alone.says(&["neither rift nor cargo", "::warning title=rift::this job goes on without rift"]);
    alone.never_says(&["rift summary"]);
    let strict = Event {
        env: [without.env.clone(), vec![("RIFT_STRICT", "1".to_owned())]].concat(),
        ..without.clone()
    };
    assert!(!runners.github(&strict, &mini, &["true"]).is_good);
    runners.entries.clear();

    let cargo = runners.sandbox.path("cargo/cargo");
    fs::create_dir_all(cargo.parent().unwrap()).unwrap();
    let rift = rift_binary().unwrap();
    let script = format!(
        "#!/bin/sh\n[ -d launcher ] && [ \"$1 $2 $3 $4 $5 $6\" = 'install --quiet --locked --path launcher --root' ] \
         && mkdir -p \"$7/bin\" && cp '{}' \"$7/bin/rift\"\n",
        rift.display()
    );
    fs::write(&cargo, script).unwrap();
    fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).unwrap();
    let with = Event { env: path(&[&few, cargo.parent().unwrap()]), ..Event::default() };
    let built = runners.github(&with, &mini, &["npm ci"]).good();
    built.says(&["rift is built with cargo", "rift summary: 1 run"]);
    assert_eq!(fs::read_dir(runners.entries[0].folder.join("bin")).unwrap().count(), 1);
    let carried =
        runners.github(&Event { has_no_packages: true, ..with.clone() }, &mini, &["npm ci"]).good();
    carried.says(&["from the cache is used", "  hit rate  100 %"]);
    // Of other sources it is not the program any more.
    let bin = fs::read_dir(runners.entries[0].folder.join("bin"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    fs::rename(&bin, bin.with_file_name("rift-0000000000000000")).unwrap();
    let again = runners.github(&with, &mini, &["npm ci"]).good();
    again.says(&["rift is built with cargo"]);
}

#[test]
fn cargo_builds_the_program_that_jobs_use() {
    const NAME: &str = "cargo_builds_the_program_that_jobs_use";
    if !rift_tests::full() || !have(NAME, &[Need::Tool("cargo")]) {
        if !rift_tests::full() {
            skip(NAME, "takes minutes (scripts/test --full runs it)");
        }
        return;
    }
    let mut runners = Runners::new("ci-cargo");
    fs::remove_file(runners.sandbox.path("tools/rift")).unwrap();
    let home = PathBuf::from(std::env::var_os("HOME").unwrap());
    let env = [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")].map(|(name, inner)| {
        let given = std::env::var(name).unwrap_or_else(|_| home.join(inner).display().to_string());
        (name, given)
    });
    // It is to be built, not to be fast.
    let profile = [
        ("CARGO_PROFILE_RELEASE_LTO", "off"),
        ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0"),
        ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
    ];
    let profile = profile.map(|(name, value)| (name, value.to_owned()));
    let event = Event { env: env.into_iter().chain(profile).collect(), ..Event::default() };
    let ended = runners.github(&event, &mini, &["npm ci"]).good();
    ended.says(&["rift is built with cargo", "rift summary: 1 run"]);
}

/// With a remote of its own the cache carries no tree, and no key is made.
#[test]
fn a_remote_takes_the_place_of_the_folder() {
    let mut runners = Runners::new("ci-remote");
    let keys = runners.sandbox.path("keys");
    let mut command =
        runners.sandbox.rift(&runners.sandbox.home(), &["key", "new", "ci@main"]).unwrap();
    command.env("XDG_CONFIG_HOME", &keys);
    let public =
        runners.sandbox.run(&mut command).unwrap().success().unwrap().stdout.trim_end().to_owned();
    let private = fs::read_to_string(keys.join("rift/key")).unwrap();
    let remote = format!("file://{}", runners.sandbox.path("bucket").display());
    let writer = [("remote", remote.clone()), ("key", private), ("floor", "50".to_owned())];
    let writer = Event { inputs: writer.into(), ..Event::default() };
    let first = runners.github(&writer, &mini, &["npm ci"]).good();
    first.says(&["read and written", "add-mask", "::warning title=rift::the hit rate is 0 %25"]);
    first.never_says(&["result of"]);
    assert!(!runners.entries[0].folder.join("remote").exists());
    assert!(!runners.entries[0].folder.join("key").exists());
    let inputs = vec![("remote", remote), ("trusted-keys", format!("\n{public}\n"))];
    let fork = Event { inputs, has_no_packages: true, ..of_a_fork() };
    let read = runners.github(&fork, &mini, &["npm ci", "rift why"]).good();
    read.says(&["only read", "signed by ci@main", "  hit rate  100 %"]);
}

/// As in a container whose user is not root: the runner's folders are others', there is no capability, and calls are filtered.
#[test]
fn jobs_in_containers_need_no_root() {
    const NAME: &str = "jobs_in_containers_need_no_root";
    if !have(NAME, &[Need::Root, Need::Nobody, Need::Tool("cc")]) {
        return;
    }
    let mut runners = Runners::new("ci-container");
    let user = [format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")];
    let user = ["setpriv".to_owned()].into_iter().chain(user).chain(["--clear-groups".to_owned()]);
    runners.inside = Refusal::Container.words().unwrap().into_iter().chain(user).collect();
    runners.user = Some(NOBODY);
    for (event, rate) in
        [(Event::default(), "  hit rate  0 %"), (without_packages(), "  hit rate  100 %")]
    {
        let ended = runners.github(&event, &mini, &["npm ci", "id -u"]).good();
        ended.says(&[rate, &format!("{NOBODY}\n")]);
        ended.never_says(&["without a store", "is not used"]);
    }
}

/// Runs a job of GitLab: before and script in one shell, after in another, with the cache that the template asks for.
fn gitlab(runners: &mut Runners, branch: &str, event: &Event, script: &[&str]) -> (Ran, Ran) {
    let template = yaml("scripts/ci/gitlab.yml")[".rift"].clone();
    runners.machine(event, &mini);
    let job = format!("{}-{}", std::process::id(), runners.jobs);
    let workspace = runners.workspace();
    let predefined = [
        ("GITLAB_CI", "true"),
        ("CI_SERVER_URL", "https://gitlab.test"),
        ("CI_JOB_ID", &job),
        ("CI_PROJECT_DIR", workspace.to_str().unwrap()),
        ("CI_PROJECT_PATH", "group/app"),
        ("CI_JOB_NAME_SLUG", "test"),
        ("CI_COMMIT_REF_SLUG", branch),
        ("CI_DEFAULT_BRANCH", "main"),
    ];
    let expand = |text: &str| {
        // The longest name first, as one may begin with another.
        let mut names = predefined;
        names.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        names
            .iter()
            .fold(text.to_owned(), |text, (name, value)| text.replace(&format!("${name}"), value))
    };
    let mut variables: BTreeMap<String, String> = pairs(&template["variables"])
        .into_iter()
        .map(|(name, value)| (name, expand(&value)))
        .collect();
    assert!(variables["VELO_RIFT_CHECKOUT"].ends_with(&job));
    variables.insert("VELO_RIFT_CHECKOUT".to_owned(), repository().display().to_string());
    let cache = &template["cache"];
    let key = expand(cache["key"].as_str().unwrap());
    let fallback: Vec<String> =
        texts(&cache["fallback_keys"]).iter().map(|key| expand(key)).collect();
    let [carried] = &texts(&cache["paths"])[..] else { panic!("{cache}") };
    let carried = workspace.join(carried.trim_end_matches('/'));
    runners.restore(&carried, &key, &fallback);
    let run = |lines: Vec<String>| {
        let text = format!("set -e\n{}\n", lines.join("\n"));
        let mut command = runners.command(event, &[], &["sh", "-c", &text]);
        command.envs(predefined).envs(&variables);
        runners.sandbox.run(&mut command).unwrap()
    };
    let own = script.iter().map(|line| (*line).to_owned());
    let done = run(texts(&template["before_script"]).into_iter().chain(own).collect());
    let after = run(texts(&template["after_script"]));
    runners.save(&carried, &key);
    (done, after)
}

#[test]
fn the_template_of_gitlab_carries_trees() {
    install();
    as_nobody_too("the_template_of_gitlab_carries_trees");
    let mut runners = Runners::new("ci-gitlab");
    let script = ["npm ci", "test -e node_modules/react/index.js", "rift why"];
    let (made, after) = gitlab(&mut runners, "main", &Event::default(), &script);
    let (made, after) = (made.success().unwrap(), after.success().unwrap());
    assert!(made.stderr.contains("read and written"), "{made}");
    assert!(made.stdout.contains("shared at file://"), "{made}");
    assert!(after.stdout.starts_with("rift summary: 1 run\n"), "{after}");
    assert!(after.stderr.contains("1 result of 1 ("), "{after}");
    let left: Vec<_> = fs::read_dir(runners.sandbox.path("tmp")).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");

    // A branch begins with what the default branch has.
    let (had, after) = gitlab(&mut runners, "feature", &without_packages(), &script);
    let had = had.success().unwrap();
    assert!(had.stdout.contains("signed by ci"), "{had}");
    assert!(after.success().unwrap().stdout.contains("  hit rate  100 %"));
    assert_eq!(runners.entries.last().unwrap().key, "rift-test-feature");
    assert_eq!(runners.objects("plans").len(), 1);
    // Nothing of it is for git.
    let ignored = fs::read_to_string(runners.workspace().join(".rift-ci/.gitignore")).unwrap();
    assert_eq!(ignored, "*\n");

    // Without rift the job does without it, unless it must not.
    fs::remove_file(runners.sandbox.path("tools/rift")).unwrap();
    let few = few_tools(&runners).display().to_string();
    let mut event = Event { env: vec![("PATH", few)], ..Event::default() };
    let (alone, after) = gitlab(&mut runners, "other", &event, &script[..2]);
    let alone = alone.success().unwrap();
    assert!(alone.stderr.contains("neither rift nor cargo"), "{alone}");
    assert_eq!(after.success().unwrap().stdout, "");
    event.env.push(("RIFT_STRICT", "1".to_owned()));
    assert!(!gitlab(&mut runners, "other", &event, &script[..2]).0.status.success());
}

/// Returns the part of docs/ci.md under a heading.
fn recipe(heading: &str) -> String {
    let text = fs::read_to_string(repository().join("docs/ci.md")).unwrap();
    let (_, part) = text.split_once(&format!("\n## {heading}\n")).unwrap();
    part.split("\n## ").next().unwrap().to_owned()
}

#[test]
fn other_systems_run_the_same_script() {
    let mut runners = Runners::new("ci-other");
    let part = recipe("Other systems");
    let lines = part.split("```").nth(1).unwrap().strip_prefix("sh\n").unwrap();
    for (event, rate) in [(Event::default(), "  0 %"), (without_packages(), "  100 %")] {
        runners.machine(&event, &mini);
        symlink(repository(), runners.workspace().join("rift")).unwrap();
        let carried = runners.sandbox.home().join(".rift-ci/carried");
        runners.restore(&carried, "other", &[]);
        let mut command = runners.command(&event, &[], &["sh", "-e", "-c", lines]);
        command.env_remove("CI");
        let ran = runners.sandbox.run(&mut command).unwrap().success().unwrap();
        assert!(ran.stdout.contains(&format!("  hit rate{rate}\n")), "{ran}");
        assert!(ran.stderr.contains("1 result of 1 (") && !ran.stderr.contains("warning"), "{ran}");
        runners.save(&carried, "other");
    }
}

#[test]
fn an_image_gets_files_and_no_store() {
    const NAME: &str = "an_image_gets_files_and_no_store";
    if !have(NAME, &[Need::Root, Need::Tool("unshare"), Need::Tool("hostname")]) {
        return;
    }
    let mut runners = Runners::new("ci-image");
    let part = recipe("Images: docker build");
    let line = part.lines().find_map(|line| line.trim().strip_prefix("RIFT_STORE=")).unwrap();
    let mount = runners.sandbox.path("cache-mount");
    fs::create_dir(&mount).unwrap();
    let line = line.replace("/var/cache/rift", mount.to_str().unwrap());
    for event in [Event::default(), without_packages()] {
        runners.machine(&event, &mini);
        let line = format!("hostname buildkitsandbox && RIFT_STORE={line}");
        let mut command = runners.command(&event, &[], &["unshare", "--uts", "sh", "-c", &line]);
        command.env_remove("CI");
        let ran = runners.sandbox.run(&mut command).unwrap().success().unwrap();
        assert!(ran.stderr.starts_with("rift: 3 packages projected"), "{ran}");
        assert!(runners.workspace().join("node_modules/react/index.js").is_file());
        let made: Vec<_> = fs::read_dir(runners.sandbox.home()).unwrap().flatten().collect();
        let made: Vec<_> = made.iter().map(|entry| entry.file_name()).collect();
        assert!(made.iter().all(|name| name == ".npm" || name == ".npmrc"), "{made:?}");
    }
    assert!(mount.join("store").is_dir());
}

#[test]
fn a_pod_that_is_not_root_has_the_tree() {
    const NAME: &str = "a_pod_that_is_not_root_has_the_tree";
    if !have(NAME, &[Need::Root, Need::Nobody, Need::Tool("cc")]) {
        return;
    }
    let server = Server::start().unwrap();
    let mut runners = Runners::new("ci-pod");
    let part = recipe("Pods that are not root");
    let value = |name: &str| {
        let (_, rest) = part.split_once(&format!("name: {name}\n")).unwrap();
        rest.lines().next().unwrap().trim().strip_prefix("value: ").unwrap().to_owned()
    };
    let words = part.lines().find_map(|line| line.trim().strip_prefix("command: ")).unwrap();
    let words: Vec<String> = serde_json::from_str(words).unwrap();
    let tested = |workspace: &Path| {
        mini(workspace);
        edit_json(&workspace.join("package.json"), |manifest| {
            manifest["scripts"] = json!({"test": "test -e node_modules/react/index.js"});
            Ok(())
        })
        .unwrap();
    };
    let env = [
        // What only root can reach is no part of an image.
        ("PATH", "/usr/bin:/bin:/usr/sbin:/sbin".to_owned()),
        ("AWS_ENDPOINT_URL", server.endpoint()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ACCESS_KEY_ID", "test".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "testtest".to_owned()),
        ("RIFT_REMOTE", value("RIFT_REMOTE")),
    ];
    let event = Event { env: env.into(), ..Event::default() };
    runners.machine(&event, &tested);
    let run = |runners: &Runners, event: &Event, words: &[&str]| {
        let mut command = runners.command(event, &[], words);
        if runners.user.is_some() {
            // Of no user that the image knows.
            command.env("HOME", "/").env_remove("TMPDIR");
            for name in ["CACHE", "CONFIG", "DATA", "STATE"] {
                command.env_remove(format!("XDG_{name}_HOME"));
            }
        } else {
            command.env("RIFT_STORE", runners.sandbox.store());
        }
        runners.sandbox.run(&mut command).unwrap().success().unwrap()
    };
    let public = run(&runners, &event, &["rift", "key", "new", "ci@main"]).stdout;
    run(&runners, &event, &["rift", "exec", "--", "npm", "ci"]);

    let own_tmp = "mount -t tmpfs -o mode=1777 rift-test /tmp && exec \"$@\"";
    let container = Refusal::Container.words().unwrap();
    let user = [format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")];
    runners.inside = ["unshare", "--mount", "sh", "-c", own_tmp, "sh"].map(str::to_owned).into();
    runners.inside.extend(container);
    runners.inside.extend(["setpriv".to_owned(), "--clear-groups".to_owned()]);
    runners.inside.extend(user);
    runners.user = Some(NOBODY);
    let pod = [("RIFT_STORE", value("RIFT_STORE")), ("RIFT_TRUSTED_KEYS", public)];
    let mut pod = Event { env: [event.env, pod.into()].concat(), ..without_packages() };
    runners.machine(&pod, &tested);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let ran = run(&runners, &pod, &words);
    assert!(ran.stderr.contains("rift: 3 packages projected"), "{ran}");
    assert!(!ran.stderr.contains("warning:"), "{ran}");
    // What everybody may write to is no place for a store, as the page says.
    let volume = runners.sandbox.path("tmp/volume");
    fs::create_dir(&volume).unwrap();
    fs::set_permissions(&volume, fs::Permissions::from_mode(0o777)).unwrap();
    pod.env.push(("RIFT_STORE", volume.join("store").display().to_string()));

    let refused = runners.command(&pod, &[], &["rift", "ingest", "."]).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("anybody may write to it"), "{said}");
}

#[test]
fn shellcheck_finds_nothing_in_the_script() {
    if !have("shellcheck_finds_nothing_in_the_script", &[Need::Tool("shellcheck")]) {
        return;
    }
    let script = repository().join("scripts/ci/rift-ci.sh");
    let output = Command::new("shellcheck").args(["--shell=sh"]).arg(script).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
