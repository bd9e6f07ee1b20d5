//! A terminal with somebody who types, for shells that are used as people use them.
//!
//! script(1) makes it. Invariant: what was typed is told from what was printed by the caller, who has the shell work out
//! what is waited for (`echo end-$((1 + 1))`). Called by the tests of shells.

use std::io::{Read as _, Write as _};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

const TIME_LIMIT: Duration = Duration::from_secs(120);

/// A program in a terminal of its own.
#[derive(Debug)]
pub struct Terminal {
    program: Child,
    keyboard: ChildStdin,
    screen: Receiver<Vec<u8>>,
    /// What was printed and not waited for yet.
    rest: String,
}

impl Terminal {
    /// Starts `line`, a command of sh(1), with the surroundings of `like`, which is script(1) without arguments.
    ///
    /// # Errors
    /// When script(1) cannot be started.
    pub fn start(mut like: Command, line: &str) -> Result<Self> {
        like.args(["-q", "-e", "-c", line, "/dev/null"]).env("TERM", "dumb");
        let spawned = like.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut program = spawned.spawn().context("could not start script(1)")?;
        let keyboard = program.stdin.take().context("script(1) has no input")?;
        let mut output = program.stdout.take().context("script(1) has no output")?;
        let (sender, screen) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                if sender.send(bytes[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Ok(Self { program, keyboard, screen, rest: String::new() })
    }

    /// Types keys.
    ///
    /// # Errors
    /// When nobody reads them any more.
    pub fn press(&mut self, keys: &str) -> Result<()> {
        self.keyboard.write_all(keys.as_bytes())?;
        Ok(self.keyboard.flush()?)
    }

    /// Types a line.
    ///
    /// # Errors
    /// As [`Terminal::press`].
    pub fn enter(&mut self, line: &str) -> Result<()> {
        self.press(&format!("{line}\r"))
    }

    /// Waits until `text` is printed; returns what was printed up to its end.
    ///
    /// # Errors
    /// When the terminal is closed before, or after two minutes.
    pub fn wait_for(&mut self, text: &str) -> Result<String> {
        let start = Instant::now();
        loop {
            if let Some(at) = self.rest.find(text) {
                let after = self.rest.split_off(at + text.len());
                return Ok(std::mem::replace(&mut self.rest, after));
            }
            let left = TIME_LIMIT.saturating_sub(start.elapsed());
            match self.screen.recv_timeout(left) {
                Ok(bytes) => self.rest.push_str(&String::from_utf8_lossy(&bytes)),
                Err(RecvTimeoutError::Timeout) => {
                    bail!("`{text}` does not come, but: {}", self.rest)
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("the terminal is closed before `{text}`: {}", self.rest)
                }
            }
        }
    }

    /// Waits for the program to end.
    ///
    /// # Errors
    /// As waitpid(2).
    pub fn end(mut self) -> Result<ExitStatus> {
        while let Ok(bytes) = self.screen.recv_timeout(TIME_LIMIT) {
            self.rest.push_str(&String::from_utf8_lossy(&bytes));
        }
        Ok(self.program.wait()?)
    }
}
