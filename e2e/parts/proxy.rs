//! In front of a real server: passes bytes on, or does to connections what networks and tired servers do.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long an answer's reader may take to leave.
const FAREWELL: Duration = Duration::from_secs(1);
/// Longest head of a request.
const MAX_HEAD: usize = 16 << 10;

/// What becomes of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Pass,
    /// So many bytes of the server's answers arrive, then nothing more.
    Stall(u64),
    /// So many bytes of the server's answers arrive, then the end.
    Cut(u64),
    Reset,
    /// Each request gets this status, and the server hears nothing.
    Answer(u16),
}

pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    server: SocketAddr,
    mode: Mutex<Mode>,
    connections: Mutex<Vec<TcpStream>>,
    met: AtomicUsize,
    ended: AtomicBool,
}

impl Proxy {
    pub fn start(server: SocketAddr, mode: Mode) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy {
            address: listener.local_addr().unwrap(),
            shared: Arc::new(Shared {
                server,
                mode: Mutex::new(mode),
                connections: Mutex::default(),
                met: AtomicUsize::new(0),
                ended: AtomicBool::new(false),
            }),
        };
        let shared = proxy.shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if shared.ended.load(Ordering::SeqCst) {
                    return;
                }
                let shared = shared.clone();
                // A connection that breaks is what this is for.
                std::thread::spawn(move || drop(shared.serve(client)));
            }
        });
        proxy
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on; connections that are there end. Returns how many came since it was last told.
    pub fn set(&self, mode: Mode) -> usize {
        *self.shared.mode.lock().unwrap() = mode;
        for connection in self.shared.connections.lock().unwrap().drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
        self.shared.met.swap(0, Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.set(Mode::Reset);
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn serve(&self, client: TcpStream) -> std::io::Result<()> {
        let mode = *self.mode.lock().unwrap();
        self.met.fetch_add(1, Ordering::SeqCst);
        if mode != Mode::Reset {
            self.keep(&client)?;
        }
        match mode {
            Mode::Pass => self.pass(client, u64::MAX, false),
            Mode::Stall(bytes) => self.pass(client, bytes, true),
            Mode::Cut(bytes) => self.pass(client, bytes, false),
            Mode::Reset => nix::sys::socket::setsockopt(
                &client,
                nix::sys::socket::sockopt::Linger,
                &libc::linger {
                    l_onoff: 1,
                    l_linger: 0,
                },
            )
            .map_err(Into::into),
            Mode::Answer(status) => answer(client, status),
        }
    }

    fn keep(&self, connection: &TcpStream) -> std::io::Result<()> {
        let mut all = self.connections.lock().unwrap();
        all.push(connection.try_clone()?);
        Ok(())
    }

    /// Both ways; of the answers only so many bytes.
    fn pass(&self, client: TcpStream, bytes: u64, stall: bool) -> std::io::Result<()> {
        let server = TcpStream::connect(self.server)?;
        self.keep(&server)?;
        let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
        let there = std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
        let passed = std::io::copy(&mut (&server).take(bytes), &mut &client);
        if !(stall && passed? == bytes) {
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        }
        drop(there.join());
        Ok(())
    }
}

fn answer(mut client: TcpStream, status: u16) -> std::io::Result<()> {
    let (mut head, mut byte) = (vec![], [0]);
    while !head.ends_with(b"\r\n\r\n") && head.len() < MAX_HEAD {
        client.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    write!(
        client,
        "HTTP/1.1 {status} so\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    )?;
    client.shutdown(Shutdown::Write)?;
    // With something unread the answer might not arrive.
    client.set_read_timeout(Some(FAREWELL))?;
    std::io::copy(&mut client, &mut std::io::sink()).map(drop)
}
