//! A server in a process of its own, gone with its handle.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long it may take to answer.
const START: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(10);
/// Ports that are tried.
const ATTEMPTS: usize = 5;

pub struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    /// Runs what `command` makes of an address of this machine, until it takes connections there.
    pub fn start(command: impl Fn(SocketAddr) -> Command) -> Self {
        // The port may be taken between our asking for it and the server's binding it: then try another.
        for _ in 0..ATTEMPTS {
            let port = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = port.local_addr().unwrap();
            drop(port);
            let child = spawn(command(address));
            let mut server = Server { child, address };
            if server.answers() {
                return server;
            }
        }
        panic!("the server does not answer");
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    #[allow(dead_code, reason = "not every suite that includes this file needs it")]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// Starts it again, at the same address.
    #[allow(dead_code, reason = "not every suite that includes this file kills it")]
    pub fn restart(&mut self, command: Command) {
        self.kill();
        self.child = spawn(command);
        assert!(self.answers(), "the server does not come back");
    }

    fn answers(&mut self) -> bool {
        let until = Instant::now() + START;
        while self.child.try_wait().unwrap().is_none() && Instant::now() < until {
            if TcpStream::connect(self.address).is_ok() {
                return true;
            }
            std::thread::sleep(LOOK);
        }
        false
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(mut command: Command) -> Child {
    let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
    let spawned = quiet.spawn();
    spawned.unwrap_or_else(|e| panic!("{:?}: {e}; run e2e/setup.sh test", command.get_program()))
}
