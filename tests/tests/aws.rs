//! AWS's profiles: keys, programs, roles that are assumed and single sign-on, against the simulator of S3, moto and a portal.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use rift_cas::remote::address::Address;
use rift_cas::remote::{self, Limits, Options, Remote};
use rift_tests::listener::{self, Listener};
use rift_tests::moto::{self, Moto};
use rift_tests::sandbox::{Ran, Sandbox};
use rift_tests::server::Server;

/// A secret that must never be printed.
const SECRET: &str = "s3cr3t-of-the-test";

/// A machine.
struct Machine {
    sandbox: Sandbox,
}

impl Machine {
    fn new(name: &str) -> Result<Self> {
        Ok(Self { sandbox: Sandbox::new(name)? })
    }

    fn path(&self, inner: &str) -> String {
        self.sandbox.path(inner).display().to_string()
    }

    /// Makes the files of a folder.
    fn write(&self, folder: &str, files: &[(&str, Vec<u8>)]) -> Result<()> {
        fs::create_dir_all(self.sandbox.path(folder))?;
        for (name, bytes) in files {
            fs::write(self.sandbox.path(folder).join(name), bytes)?;
        }
        Ok(())
    }
}

/// Makes a program of the sandbox that prints what a `credential_process` does, by lines of a shell.
fn program(one: &Machine, name: &str, lines: &str) -> Result<String> {
    use std::os::unix::fs::PermissionsExt as _;
    let path = one.sandbox.path(name);
    fs::write(&path, format!("#!/bin/sh\n{lines}\n"))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path.display().to_string())
}

/// The lines that print a key which is good for so many seconds.
fn prints(id: &str, seconds: u32) -> String {
    let end = format!("$(date -u -d '+{seconds} seconds' +%Y-%m-%dT%H:%M:%SZ)");
    format!(
        "cat <<END\n{{\"Version\": 1, \"AccessKeyId\": \"{id}\", \"SecretAccessKey\": \"{SECRET}\", \
         \"SessionToken\": \"{SECRET}\", \"Expiration\": \"{end}\"}}\nEND"
    )
}

/// Tries a remote with AWS's files as they are, and these variables.
fn check_remote(one: &Machine, variables: &[(&str, &str)]) -> Result<Ran> {
    let words = ["remote", "check", "s3://bucket/team"];
    let mut command = one.sandbox.rift(&one.sandbox.home(), &words)?;
    let ran = one.sandbox.run(command.envs(variables.iter().copied()))?;
    ensure!(!format!("{}{}", ran.stdout, ran.stderr).contains(SECRET), "{ran}");
    Ok(ran)
}

/// Credentials, region and endpoint come from AWS's files where the environment has none.
#[test]
fn profiles_of_aws_are_used() -> Result<()> {
    let server = Server::start()?;
    let one = Machine::new("profiles")?;
    let endpoint = server.endpoint();
    let printer = program(
        &one,
        "a printer",
        &format!("test \"$1\" = 'x y' || exit 1\n{}", prints("AKPROCESS", 3600)),
    )?;
    let config = format!(
        "[default]\nregion = eu-west-1\nendpoint_url = {endpoint}\n\
         [profile other]\nservices = here\naws_access_key_id = AKOVERRIDDEN\naws_secret_access_key = x\n\
         [services here]\ns3 =\n  endpoint_url = {endpoint}\n\
         [profile process]\nendpoint_url = {endpoint}\ncredential_process = \"{printer}\" 'x y'\n"
    );
    let keys = format!(
        "[default]\naws_access_key_id = AKDEFAULT\naws_secret_access_key = {SECRET}\n\
         [other]\naws_access_key_id = AKOTHER # of the team\naws_secret_access_key = {SECRET}\naws_session_token = t\n"
    );
    one.write(
        "home/.aws",
        &[("config", config.clone().into()), ("credentials", keys.clone().into())],
    )?;
    one.write(
        "elsewhere",
        &[("config", config.into()), ("credentials", keys.replace("AKDEFAULT", "AKMOVED").into())],
    )?;
    let (moved_config, moved) = (one.path("elsewhere/config"), one.path("elsewhere/credentials"));
    let files = [("AWS_CONFIG_FILE", &*moved_config), ("AWS_SHARED_CREDENTIALS_FILE", &*moved)];
    let env = [("AWS_ACCESS_KEY_ID", "AKENV"), ("AWS_SECRET_ACCESS_KEY", SECRET)];
    for (variables, expected) in [
        (&[][..], "AKDEFAULT"),
        (&[("AWS_PROFILE", "other")], "AKOTHER"),
        (&[("AWS_PROFILE", "process")], "AKPROCESS"),
        (&files, "AKMOVED"),
        (&env, "AKENV"),
        (&[env[0], env[1], ("AWS_PROFILE", "other")], "AKENV"),
    ] {
        check_remote(&one, variables)?.success()?;
        assert_eq!(server.keys(), [expected], "{variables:?}");
    }
    Ok(())
}

/// A program is asked once for credentials that last, again before others are over, and never at once by several.
#[test]
fn credentials_that_end_are_asked_for_again() -> Result<()> {
    let server = Server::start()?;
    let one = Machine::new("expiry")?;
    let count = one.path("count");
    for (seconds, is_asked_again) in [(3600, false), (100, false), (5, true)] {
        let lines =
            format!("echo >> '{count}'\nn=$(wc -l < '{count}')\n{}", prints("AK$n", seconds));
        let printer = program(&one, "printer", &lines)?;
        let config = format!(
            "[default]\nendpoint_url = {}\ncredential_process = {printer}\n",
            server.endpoint()
        );
        one.write("home/.aws", &[("config", config.into())])?;
        check_remote(&one, &[])?.success()?;
        let (keys, asked) = (server.keys(), server.asked().len());
        let ran = fs::read_to_string(&count)?.lines().count();
        assert!(asked >= 4, "{asked}");
        assert_eq!(ran, if is_asked_again { asked } else { 1 }, "{seconds} s: {keys:?}");
        assert_eq!(keys.len(), ran, "each is used as soon as it is there: {keys:?}");
        fs::remove_file(&count)?;
    }
    Ok(())
}

/// What can't be used ends in an error that names the profile and shows nothing of the credentials.
#[test]
fn odd_profiles_end_in_a_clear_error() -> Result<()> {
    let server = Server::start()?;
    let one = Machine::new("odd-profiles")?;
    let wrong = "does not print credentials of version 1";
    let process = |name: &str, lines: &str| -> Result<String> {
        Ok(format!("credential_process = {}", program(&one, name, lines)?))
    };
    let role = |rest: &str| format!("role_arn = arn:aws:iam::1:role/x\n{rest}");
    let sign_on = "sso_start_url = https://x.test/start\nsso_region = eu-west-1\nsso_account_id = 1\n\
                   sso_role_name = r";
    let secret_words = format!("credential_process = /no/such/program {SECRET}");
    let table = [
        (
            process("fails", &format!("echo {SECRET}; echo renew  it >&2; exit 3"))?,
            "exit status: 3: renew it",
        ),
        (process("mute", &format!("echo {SECRET}; exit 3"))?, "exit status: 3, and says nothing"),
        (process("garbage", &format!("echo {SECRET}"))?, wrong),
        (process("silent", "true")?, wrong),
        (
            process(
                "version",
                &format!("echo '{{\"Version\": 2, \"SecretAccessKey\": \"{SECRET}\"}}'"),
            )?,
            wrong,
        ),
        (process("over", &prints("AKOVER", 0))?, "credentials that are over"),
        (process("endless", "yes | head -c 1000000; exit 0")?, "bytes"),
        (
            process("holds", &format!("{}\nsleep 4 &", prints("AKHOLDS", 3600)))?,
            "does not end what it prints",
        ),
        (secret_words, "could not be started"),
        ("credential_process = \"open".to_owned(), "can't be read"),
        (role("source_profile = y"), "no profile `y`"),
        (role("source_profile = bare"), "`bare` has no credentials"),
        (role("source_profile = odd"), "`odd` is to assume its role with itself"),
        (role("credential_source = Moon"), "Ec2InstanceMetadata"),
        (role("credential_source = Environment"), "environment's keys, which has none"),
        (role("mfa_serial = me\nsource_profile = bare"), "export-credentials"),
        (role("source_profile = keys\nduration_seconds = 60"), "from 900 to 43200"),
        ("sso_session = nowhere\nsso_account_id = 1".to_owned(), "no session `nowhere`"),
        ("sso_start_url = https://x\nsso_account_id = 1".to_owned(), "lacks `sso_role_name`"),
        (sign_on.to_owned(), "`aws sso login --profile odd`"),
        ("aws_access_key_id = AKHALF".to_owned(), "one half of a key"),
    ];
    for (settings, expected) in table {
        let config = format!(
            "[profile odd]\nendpoint_url = {}\n{settings}\n[profile bare]\nregion = eu-west-1\n\
             [profile keys]\naws_access_key_id = AK\naws_secret_access_key = {SECRET}\n",
            server.endpoint()
        );
        one.write("home/.aws", &[("config", config.into())])?;
        let ran = check_remote(&one, &[("AWS_PROFILE", "odd")])?;
        assert_eq!(ran.status.code(), Some(125), "{settings}: {ran}");
        assert!(ran.stderr.contains(expected) && ran.stderr.contains("odd"), "{settings}: {ran}");
        assert_eq!(server.asked(), [], "{settings}");
    }
    let ran = check_remote(&one, &[("AWS_PROFILE", "nobody")])?;
    assert!(ran.stderr.contains("no profile `nobody`"), "{ran}");
    // One that is too slow is ended, and the run goes on without the remote.
    let slow = process("slow", "exec sleep 500")?;
    let config = format!("[default]\nendpoint_url = {}\n{slow}\n", server.endpoint());
    one.write("home/.aws", &[("config", config.into())])?;
    let options = Options {
        limits: Limits { answer: Duration::from_millis(400), ..Limits::default() },
        aws: remote::aws::Files {
            config: Some(one.sandbox.path("home/.aws/config")),
            ..Default::default()
        },
        ..Options::default()
    };
    let opened = Remote::open(&Address::parse("s3://bucket")?, &options)?;
    let started = Instant::now();
    let error = opened.check(false).err().context("it was to fail")?;
    assert!(error.to_string().contains("was not done"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    one.sandbox.settle()
}

/// A profile's key is the one that requests are signed with.
#[test]
fn a_profile_reaches_s3_as_moto_has_it() -> Result<()> {
    let Some(moto) = moto::program("a_profile_reaches_s3_as_moto_has_it")? else { return Ok(()) };
    let one = Machine::new("moto-profile")?;
    let moto = Moto::start(&moto, &one.sandbox.home())?;
    let endpoint = moto.endpoint();
    let printer = program(&one, "printer", &prints("AKPRINTED", 3600))?;
    let config = format!(
        "[default]\nregion = us-east-1\nendpoint_url = {endpoint}\naws_access_key_id = AKSTATIC\n\
         aws_secret_access_key = {SECRET}\n\
         [profile printed]\nregion = us-east-1\nendpoint_url = {endpoint}\ncredential_process = {printer}\n"
    );
    one.write("home/.aws", &[("config", config.into())])?;
    moto.record()?;
    for (profile, key) in [("default", "AKSTATIC"), ("printed", "AKPRINTED")] {
        check_remote(&one, &[("AWS_PROFILE", profile)])?.success()?;
        let recorded = moto.recorded()?;
        assert!(recorded.contains(&format!("Credential={key}/")), "{profile}: {recorded}");
        assert!(
            !recorded.contains(SECRET) || key == "AKPRINTED",
            "a session token is sent, no key"
        );
    }
    Ok(())
}

/// Looks at the signature of a request to STS as AWS's own library for Python makes it.
const JUDGE: &str = r#"
import base64, json, sys
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
key, secret, path = sys.argv[1:]
judged = 0
for line in open(path):
    asked = json.loads(line)
    body = asked["body"] or ""
    body = base64.b64decode(body) if asked["body_encoded"] else body.encode()
    if b"Action=AssumeRole" not in body:
        continue
    headers = {name.lower(): value for name, value in asked["headers"].items()}
    words = headers["authorization"].replace(",", "").split()
    if f"Credential={key}/" not in words[1]:
        continue
    names = words[2].split("=")[1].split(";")
    assert "host" in names and "x-amz-date" in names and "content-type" in names, names
    request = AWSRequest("POST", asked["url"], {name: headers[name] for name in names}, body)
    request.context["timestamp"] = headers["x-amz-date"]
    region = words[1].split("/")[2]
    auth = SigV4Auth(Credentials(key, secret), "sts", region)
    canonical = auth.canonical_request(request)
    expected = auth.signature(auth.string_to_sign(request, canonical), request)
    assert words[3] == "Signature=" + expected, canonical
    judged += 1
    print(region, body.decode())
assert judged == 1, judged
"#;

/// A role is assumed with the keys of another profile, of the environment, or of another role; STS is asked once.
#[test]
fn roles_are_assumed_as_moto_has_them() -> Result<()> {
    let Some(program) = moto::program("roles_are_assumed_as_moto_has_them")? else {
        return Ok(());
    };
    let one = Machine::new("roles")?;
    let moto = Moto::start(&program, &one.sandbox.home())?;
    let server = Server::start()?;
    let (sts, s3) = (moto.endpoint(), server.endpoint());
    let config = format!(
        "[profile base]\naws_access_key_id = AKBASE\naws_secret_access_key = {SECRET}\n\
         [profile first]\nregion = eu-west-1\nservices = here\nrole_arn = arn:aws:iam::111111111111:role/first\n\
         source_profile = base\nexternal_id = a b&c\nrole_session_name = job-7\nduration_seconds = 1800\n\
         [profile second]\nservices = here\nrole_arn = arn:aws:iam::111111111111:role/second\nsource_profile = first\n\
         [profile own]\nservices = here\nrole_arn = arn:aws:iam::111111111111:role/own\nsource_profile = own\n\
         aws_access_key_id = AKOWN\naws_secret_access_key = {SECRET}\n\
         [profile env]\nservices = here\nrole_arn = arn:aws:iam::111111111111:role/env\n\
         credential_source = Environment\n\
         [services here]\ns3 =\n  endpoint_url = {s3}\nsts =\n  endpoint_url = {sts}\n"
    );
    one.write("home/.aws", &[("config", config.into())])?;
    moto.record()?;
    let env = [("AWS_ACCESS_KEY_ID", "AKENV"), ("AWS_SECRET_ACCESS_KEY", SECRET)];
    let chosen = [("AWS_ENDPOINT_URL_STS", sts.as_str()), ("AWS_REGION", "us-west-2")];
    for (variables, profile, key, times, asked) in [
        (
            &[][..],
            "first",
            "AKBASE",
            1,
            "eu-west-1 Action=AssumeRole&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A111111111111%3Arole%2Ffirst\
             &RoleSessionName=job-7&DurationSeconds=1800&ExternalId=a%20b%26c",
        ),
        (&[], "second", "AKBASE", 2, "role%2Ffirst"),
        (&[], "own", "AKOWN", 1, "us-east-1 Action=AssumeRole"),
        (&env, "env", "AKENV", 1, "RoleSessionName=rift"),
        (&chosen, "own", "AKOWN", 1, "us-west-2 Action=AssumeRole"),
    ] {
        let recorded = one.sandbox.home().join("moto.recorded");
        fs::write(&recorded, "")?;
        let variables: Vec<_> =
            variables.iter().copied().chain([("AWS_PROFILE", profile)]).collect();
        check_remote(&one, &variables)?.success()?;
        let keys = server.keys();
        assert!(keys.len() == 1 && keys[0].starts_with("ASIA"), "{profile}: {keys:?}");
        let text = fs::read_to_string(&recorded)?;
        assert!(!text.contains(SECRET), "a key is never sent");
        assert_eq!(text.lines().count(), times, "{profile}: {text}");
        let mut judge = one.sandbox.command(
            &one.sandbox.home(),
            program.parent().context("it is in a folder")?.join("python3"),
        );
        judge.args(["-c", JUDGE, key, SECRET]).arg(&recorded);
        let judged = one.sandbox.run(&mut judge)?.success()?.stdout;
        assert!(judged.contains(asked), "{profile}: {judged}");
    }
    // The credentials are good for all that S3 is asked.
    let config = format!(
        "[default]\nendpoint_url = {sts}\nrole_arn = arn:aws:iam::111111111111:role/r\nsource_profile = base\n\
         [profile base]\naws_access_key_id = AKBASE\naws_secret_access_key = {SECRET}\n"
    );
    one.write("home/.aws", &[("config", config.into())])?;
    check_remote(&one, &[])?.success()?;
    assert!(
        moto.recorded()?.contains("x-amz-security-token")
            || moto.recorded()?.contains("X-Amz-Security-Token")
    );
    Ok(())
}

/// A portal of AWS's single sign-on.
struct Portal {
    listener: Listener,
    asked: Arc<Mutex<Vec<(String, String)>>>,
    status: Arc<AtomicU32>,
}

impl Portal {
    /// Starts one whose credentials are good for so many seconds each; their ids are numbered.
    fn start(seconds: u64) -> Result<Self> {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let status = Arc::new(AtomicU32::new(200));
        let (all, code) = (Arc::clone(&asked), Arc::clone(&status));
        let listener = Listener::start(move |stream| {
            answer(stream, &all, code.load(Ordering::Relaxed), seconds)
        })?;
        Ok(Self { listener, asked, status })
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.listener.port())
    }

    /// Returns what it was asked since the last call, and with which token.
    fn asked(&self) -> Vec<(String, String)> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

fn answer(
    mut stream: &TcpStream,
    asked: &Mutex<Vec<(String, String)>>,
    status: u32,
    seconds: u64,
) -> Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut headers = listener::headers(&mut reader)?;
    let token = headers.remove("x-amz-sso_bearer_token").unwrap_or_default();
    let number = {
        let mut asked = asked.lock().unwrap();
        asked.push((first.trim_end().to_owned(), token));
        asked.len()
    };
    let end = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_millis();
    let end = end + u128::from(seconds) * 1000;
    let body = match status {
        200 => format!(
            "{{\"roleCredentials\": {{\"accessKeyId\": \"AKSSO{number}\", \"secretAccessKey\": \"{SECRET}\", \
             \"sessionToken\": \"{SECRET}\", \"expiration\": {end}}}}}"
        ),
        _ => format!("{{\"message\": \"{SECRET}\"}}"),
    };
    let redirect = if status == 302 { "Location: /elsewhere\r\n" } else { "" };
    write!(
        stream,
        "HTTP/1.1 {status} X\r\n{redirect}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    Ok(())
}

/// Both forms of a sign-on are used, by the token that `aws sso login` has left; one that is over is said, with what helps.
#[test]
fn a_sign_on_is_used_while_it_lasts() -> Result<()> {
    let server = Server::start()?;
    let portal = Portal::start(3600)?;
    let one = Machine::new("sign-on")?;
    let (s3, at) = (server.endpoint(), portal.endpoint());
    let rest = "sso_account_id = 222222222222\nsso_role_name = Read & write\n";
    let config = format!(
        "[profile corp]\nservices = here\nsso_session = my corp\n{rest}\
         [sso-session my corp]\nsso_region = eu-west-1\nsso_start_url = https://corp.test/start\n\
         sso_registration_scopes = sso:account:access\n\
         [profile older]\nservices = here\nsso_region = eu-west-1\nsso_start_url = https://older.test/start#/\n{rest}\
         [services here]\ns3 =\n  endpoint_url = {s3}\nsso =\n  endpoint_url = {at}\n"
    );
    one.write("home/.aws", &[("config", config.clone().into())])?;
    // As `printf 'my corp' | sha1sum` and its like name them.
    let name = |text: &str| -> Result<String> {
        let line = format!("printf %s '{text}' | sha1sum");
        let said = Command::new("sh").args(["-c", &line]).output()?.stdout;
        Ok(String::from_utf8(said)?.split_whitespace().next().context("a sum")?.to_owned())
    };
    let token = |of: &str, token: &str, end: &str| -> Result<()> {
        let text = format!(
            "{{\"startUrl\": \"https://x\", \"accessToken\": \"{token}\", \"expiresAt\": \"{end}\"}}"
        );
        one.write("home/.aws/sso/cache", &[(&format!("{}.json", name(of)?), text.into())])
    };
    let (good, over) = ("2900-01-01T00:00:00Z", "2001-01-01T00:00:00Z");
    let asks =
        "GET /federation/credentials?role_name=Read%20%26%20write&account_id=222222222222 HTTP/1.1";
    let elsewhere = [("AWS_ENDPOINT_URL_SSO", at.as_str())];
    for (profile, of, more) in
        [("corp", "my corp", &[][..]), ("older", "https://older.test/start#/", &elsewhere)]
    {
        let check = |variables: &[(&str, &str)]| {
            let all: Vec<_> = variables.iter().copied().chain([("AWS_PROFILE", profile)]).collect();
            check_remote(&one, &all)
        };
        // The variable comes before the file.
        let told = if more.is_empty() {
            config.clone()
        } else {
            config.replace(&at, "http://127.0.0.1:1")
        };
        one.write("home/.aws", &[("config", told.into())])?;
        let refused = |ran: Ran, why: &str| -> Result<()> {
            ensure!(ran.status.code() == Some(125), "{ran}");
            let help = format!("`aws sso login --profile {profile}`");
            ensure!(ran.stderr.contains(&help) && ran.stderr.contains(why), "{why}: {ran}");
            Ok(())
        };
        refused(check(more)?, "nobody has signed on")?;
        token(of, SECRET, over)?;
        refused(check(more)?, "the sign-on is over")?;
        token(of, "", "soon")?;
        refused(check(more)?, "can't be read")?;
        assert_eq!((portal.asked(), server.asked()), (vec![], vec![]), "{profile}");
        token(of, SECRET, good)?;
        check(more)?.success()?;
        assert_eq!(portal.asked(), [(asks.to_owned(), SECRET.to_owned())], "{profile}");
        assert_eq!(server.keys(), ["AKSSO1"], "{profile}");
        let _earlier = server.asked();
        portal.status.store(401, Ordering::Relaxed);
        refused(check(more)?, "is not accepted any more")?;
        for (status, times) in [(403, 1), (500, 5), (302, 1)] {
            let _earlier = portal.asked();
            portal.status.store(status, Ordering::Relaxed);
            let ran = check(more)?;
            assert_eq!(ran.status.code(), Some(125), "{ran}");
            let said = format!("it answers with status {status}");
            assert!(ran.stderr.contains(&said) && ran.stderr.contains(profile), "{ran}");
            assert_eq!(portal.asked().len(), times, "{profile}: {status}");
        }
        portal.status.store(200, Ordering::Relaxed);
        assert_eq!(server.asked(), [], "{profile}");
    }
    // Nothing of it is told in many words, or kept by rift.
    let run = |words: &[&str]| -> Result<Ran> {
        let mut command = one.sandbox.rift(&one.sandbox.home(), words)?;
        let ran = one.sandbox.run(command.env("AWS_PROFILE", "corp"))?.success()?;
        ensure!(!format!("{}{}", ran.stdout, ran.stderr).contains(SECRET), "{ran}");
        Ok(ran)
    };
    one.write("home/.aws", &[("config", config.clone().into())])?;
    one.write("source", &[("file", b"bytes".to_vec())])?;
    run(&["key", "new", "me"])?;
    run(&["ingest", &one.path("source"), "--name", "deps"])?;
    run(&["push", "--verbose", "deps", "s3://bucket/team"])?;
    let mut folders = vec![one.sandbox.path(".")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.starts_with(one.sandbox.path("./home/.aws")) {
                let bytes = fs::read(&path)?;
                assert!(!String::from_utf8_lossy(&bytes).contains(SECRET), "{}", path.display());
            }
        }
    }
    // Credentials that end while the remote is in use are asked for again, by the same token.
    let short = Portal::start(5)?;
    one.write("home/.aws", &[("config", config.replace(&at, &short.endpoint()).into())])?;
    let _earlier = (server.keys(), server.asked());
    check_remote(&one, &[("AWS_PROFILE", "corp")])?.success()?;
    let asked = server.asked().len();
    assert!(asked >= 4 && short.asked().len() == asked, "{asked}");
    assert_eq!(server.keys().len(), asked);
    Ok(())
}
