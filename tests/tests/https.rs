//! Remotes behind TLS and proxies, as companies have them: certificates of one's own, and names that only a proxy knows.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rift_tests::need::{Need, have};
use rift_tests::sandbox::{Ran, Sandbox};

/// A web server that knows nothing but files, behind TLS.
const SERVER: &str = "
import http.server, ssl
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain('../cert.pem', '../key.pem')
class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
";

/// Makes an authority of its own, and a certificate for a name that nobody resolves.
const CERTIFICATES: &str = "
openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=authority
openssl req -newkey rsa:2048 -nodes -keyout key.pem -out leaf.csr -subj /CN=remote.test
echo subjectAltName=DNS:remote.test,DNS:localhost >names
openssl x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out cert.pem -days 2 -extfile names
";

/// A folder that a machine has pushed to, on the web.
struct Web {
    sandbox: Sandbox,
    server: Child,
    port: u16,
    public: String,
}

impl Web {
    fn new(name: &str) -> Self {
        let sandbox = Sandbox::new(name).unwrap();
        let home = sandbox.home();
        fs::write(home.join("file"), "of the tree").unwrap();
        let rift = |words: &[&str]| {
            let ran = sandbox.run(&mut sandbox.rift(&home, words).unwrap()).unwrap();
            ran.success().unwrap().stdout.trim_end().to_owned()
        };
        let public = rift(&["key", "new", "one"]);
        rift(&["ingest", ".", "--name", "site"]);
        let folder = sandbox.path("served");
        rift(&["push", "site", &format!("file://{}", folder.display())]);
        let mut make = sandbox.command(&sandbox.path(""), "sh");
        sandbox.run(make.args(["-ec", CERTIFICATES])).unwrap().success().unwrap();
        let mut serve = sandbox.command(&folder, "python3");
        serve.args(["-c", SERVER]).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut server = serve.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { sandbox, server, port: line.trim_end().parse().unwrap(), public }
    }

    /// Pulls on a machine that has nothing.
    fn pull(&self, host: &str, env: &[(&str, String)]) -> Ran {
        let other = Sandbox::new("https-other").unwrap();
        let url = format!("https://{host}:{}", self.port);
        let mut command: Command = other.rift(&other.home(), &["pull", "site", &url]).unwrap();
        command.env("RIFT_TRUSTED_KEYS", &self.public);
        command.envs(env.iter().map(|(name, value)| (name, value)));
        other.run(&mut command).unwrap()
    }

    fn authority(&self) -> (&'static str, String) {
        ("SSL_CERT_FILE", self.sandbox.path("ca.pem").display().to_string())
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        let _is_ended = self.server.kill().and_then(|()| self.server.wait()).is_ok();
    }
}

#[test]
fn certificates_of_ones_own_are_honored() {
    let needs = [Need::Tool("openssl"), Need::Tool("python3")];
    if !have("certificates_of_ones_own_are_honored", &needs) {
        return;
    }
    let web = Web::new("certificates");
    web.pull("localhost", &[web.authority()]).success().unwrap();
    let stranger = web.pull("localhost", &[]);
    assert_eq!(stranger.status.code(), Some(125));
    assert!(stranger.stderr.contains("certificate"), "{stranger}");
    // It is another host's.
    let other = web.pull("127.0.0.1", &[web.authority()]);
    assert_eq!(other.status.code(), Some(125));
    assert!(other.stderr.contains("certificate"), "{other}");
}

/// A proxy that knows the name of the remote, and counts who asks for it.
fn proxy() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, count) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let counted = Arc::clone(&counted);
            std::thread::spawn(move || tunnel(client, &counted));
        }
    });
    (port, count)
}

fn tunnel(mut client: TcpStream, counted: &AtomicUsize) -> std::io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let host = first.strip_prefix("CONNECT remote.test:").and_then(|rest| rest.split(' ').next());
    let Some(port) = host.and_then(|port| port.parse::<u16>().ok()) else {
        return client.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n");
    };
    counted.fetch_add(1, Ordering::Relaxed);
    let mut server = TcpStream::connect(("127.0.0.1", port))?;
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    let (mut from_server, mut to_client) = (server.try_clone()?, client.try_clone()?);
    std::thread::spawn(move || std::io::copy(&mut from_server, &mut to_client));
    std::io::copy(&mut reader, &mut server).map(drop)
}

#[test]
fn proxies_of_the_environment_are_used() {
    let needs = [Need::Tool("openssl"), Need::Tool("python3")];
    if !have("proxies_of_the_environment_are_used", &needs) {
        return;
    }
    let web = Web::new("proxies");
    let (port, count) = proxy();
    let through = |name| (name, format!("http://127.0.0.1:{port}"));
    web.pull("remote.test", &[web.authority(), through("HTTPS_PROXY")]).success().unwrap();
    assert!(count.load(Ordering::Relaxed) > 0);
    // Nobody else knows the name, and a proxy is not asked for what it is not for.
    let alone = web.pull("remote.test", &[web.authority()]);
    assert_eq!(alone.status.code(), Some(125), "{alone}");
    let before = count.load(Ordering::Relaxed);
    let not = ("NO_PROXY", "localhost".to_owned());
    web.pull("localhost", &[web.authority(), through("HTTPS_PROXY"), not]).success().unwrap();
    assert_eq!(count.load(Ordering::Relaxed), before);
}
