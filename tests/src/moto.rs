//! moto, a server that has AWS's services in memory: S3 for remotes, and STS for roles.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::need::skip;

/// A running moto, which ends with the value.
pub struct Moto(Child, u16);

impl Drop for Moto {
    fn drop(&mut self) {
        let _is_ended = self.0.kill().and_then(|()| self.0.wait()).is_ok();
    }
}

impl Moto {
    /// Starts it, with a bucket; its log is kept in a folder.
    ///
    /// # Errors
    /// When it does not answer within a minute.
    pub fn start(program: &Path, folder: &Path) -> Result<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let log = fs::File::create(folder.join("moto.log"))?;
        let mut command = Command::new(program);
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        command.env("MOTO_RECORDER_FILEPATH", folder.join("moto.recorded"));
        command.stdout(log.try_clone()?).stderr(log);
        let moto = Self(command.spawn()?, port);
        let started = Instant::now();
        while moto.make_bucket().is_err() {
            ensure!(started.elapsed() < Duration::from_secs(60), "moto does not answer");
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(moto)
    }

    /// Returns the address of all its services.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.1)
    }

    fn make_bucket(&self) -> Result<()> {
        self.ask("PUT /bucket").map(drop)
    }

    /// Makes moto keep what it is asked, from here on.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn record(&self) -> Result<()> {
        self.ask("POST /moto-api/recorder/start-recording").map(drop)
    }

    /// Returns what it was asked, with all headers, a line of JSON each.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn recorded(&self) -> Result<String> {
        self.ask("GET /moto-api/recorder/download-recording")
    }

    fn ask(&self, what: &str) -> Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.1))?;
        let host = format!("127.0.0.1:{}", self.1);
        write!(
            stream,
            "{what} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.contains(" 200 "), "{answer}");
        Ok(answer)
    }
}

/// Returns the program, which `scripts/test` installs below the target directory; without it, `test` is skipped.
///
/// # Errors
/// When the running binary is not inside a target directory.
pub fn program(test: &str) -> Result<Option<PathBuf>> {
    let program = crate::target_folder()?.join("moto/bin/moto_server");
    if program.is_file() {
        return Ok(Some(program));
    }
    skip(test, "moto is not installed (scripts/test installs it from PyPI)");
    Ok(None)
}
