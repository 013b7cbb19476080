//! The way to a Service from this machine.

use crate::aggregated::Cluster;
use crate::parts::look::KUBECTL;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Stdio};

/// An address, `HOST:PORT`, for as long as this is there.
pub struct Door {
    address: String,
    /// With what it says: it ends when nobody listens.
    forward: Option<(Child, BufReader<ChildStdout>)>,
}

impl Door {
    /// One that needs nobody.
    pub fn plain(address: String) -> Self {
        Door {
            address,
            forward: None,
        }
    }

    /// By `kubectl port-forward`, to one of the Service's pods.
    pub fn forwarded(cluster: &Cluster, service: &str, port: u16) -> Self {
        let (service, port) = (format!("service/{service}"), format!(":{port}"));
        let mut kubectl = cluster.client(KUBECTL);
        kubectl.args(["-n", "ate-system", "port-forward", &service, &port]);
        let mut forward = kubectl.stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        let mut lines = BufReader::new(forward.stdout.take().unwrap());
        lines.read_line(&mut said).unwrap();
        // Forwarding from 127.0.0.1:41234 -> 9443
        let address = said.split_whitespace().nth(2);
        let address = address.unwrap_or_else(|| panic!("kubectl port-forward {service}: {said}"));
        Door {
            address: address.to_owned(),
            forward: Some((forward, lines)),
        }
    }
}

impl std::ops::Deref for Door {
    type Target = str;
    fn deref(&self) -> &str {
        &self.address
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if let Some((forward, _)) = &mut self.forward {
            let _ = forward.kill();
            let _ = forward.wait();
        }
    }
}
