//! What the tests' own servers share: they answer connections on a port of their own, and read the heads of requests.

use std::collections::BTreeMap;
use std::io::{self, BufRead};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Answers connections until it goes.
#[derive(Debug)]
pub struct Listener {
    port: u16,
    is_over: Arc<AtomicBool>,
}

impl Listener {
    /// Listens on a port of its own, and gives each connection to `answer` in a thread.
    ///
    /// # Errors
    /// What the system says.
    pub fn start<E: 'static>(
        answer: impl Fn(&TcpStream) -> Result<(), E> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let is_over = Arc::new(AtomicBool::new(false));
        let (is_ended, answer) = (Arc::clone(&is_over), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if is_ended.load(Ordering::Relaxed) {
                    return;
                }
                let answer = Arc::clone(&answer);
                // What goes wrong ends the connection, not the server, and the client says so.
                std::thread::spawn(move || drop(answer(&stream)));
            }
        });
        Ok(Self { port, is_over })
    }

    /// Returns its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        // Wakes who waits for connections.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

/// Reads the headers of a request, up to the empty line; their names are in lower case.
///
/// # Errors
/// What the system says.
pub fn headers(reader: &mut impl BufRead) -> io::Result<BTreeMap<String, String>> {
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { return Ok(headers) };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
}
