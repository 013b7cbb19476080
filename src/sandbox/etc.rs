//! The files below `/etc` that are not an image's but its sandbox's: who it is, who it knows, and how it resolves names. As container
//! engines write them; fresh at every start, a restore included.

use super::{Dns, Error, Spec};
use crate::api::dns::{MOST_SEARCHES, MOST_SERVERS};
use std::fmt::Write;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Their names.
pub const FILES: [&str; 3] = ["hostname", "hosts", "resolv.conf"];
/// The executor's own configuration; the second where the first names none but a server of the machine's own, as systemd's does.
const OWN: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];
/// What is read of it.
const MAX_OWN: u64 = 64 << 10;

/// Where the sandbox with that directory has the file.
pub(super) fn file(state_dir: &Path, name: &str) -> PathBuf {
    state_dir.join("etc").join(name)
}

/// Writes all of them.
pub(super) fn write(spec: &Spec) -> Result<(), Error> {
    let own = OWN.map(read);
    let own = own.iter().find(|text| !servers(text).is_empty());
    let texts = [
        format!("{}\n", spec.actor_id),
        hosts(spec),
        resolv_conf(own.map_or("", |text| text), &spec.dns),
    ];
    let dir = spec.state_dir.join("etc");
    let mut written = std::fs::create_dir_all(&dir);
    for (name, text) in FILES.iter().zip(texts) {
        // In its place: a sandbox that was created ahead has it already.
        written = written.and_then(|()| std::fs::write(dir.join(name), text));
    }
    written.map_err(Error::io(format!("cannot write {}", dir.display())))
}

fn read(file: &str) -> String {
    let mut text = String::new();
    let opened = std::fs::File::open(file);
    let read = opened.and_then(|file| file.take(MAX_OWN).read_to_string(&mut text));
    match read {
        Ok(_) => text,
        Err(_) => String::new(),
    }
}

fn hosts(spec: &Spec) -> String {
    let mut text = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
    if !spec.actor_id.is_empty() {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}\t{}", spec.address, spec.actor_id);
    }
    text
}

/// The words after `name` of every line that begins with it.
fn words<'a>(text: &'a str, name: &str) -> Vec<Vec<&'a str>> {
    let line = |line: &'a str| {
        let mut words = line.split_whitespace();
        (words.next() == Some(name)).then(|| words.collect())
    };
    text.lines().filter_map(line).collect()
}

/// Servers that can be reached from a sandbox: not those of the machine itself.
fn servers(text: &str) -> Vec<&str> {
    let reachable = |server: &&str| {
        let address = server.split('%').next().unwrap_or_default();
        let address = address.parse::<std::net::IpAddr>();
        address.is_ok_and(|address| !address.is_loopback())
    };
    words(text, "nameserver")
        .concat()
        .into_iter()
        .filter(reachable)
        .collect()
}

fn resolv_conf(own: &str, dns: &Dns) -> String {
    let own = if dns.alone { "" } else { own };
    // Of searches the last line counts.
    let searches = words(own, "search").pop().unwrap_or_default();
    let options = words(own, "options").concat();
    let more = |own: Vec<&str>, said: &[String], most: usize| {
        let mut all: Vec<String> = Vec::new();
        for word in own.into_iter().chain(said.iter().map(|s| &**s)) {
            if all.len() < most && !all.iter().any(|known| known == word) {
                all.push(word.to_owned());
            }
        }
        all
    };
    let servers = more(servers(own), &dns.nameservers, MOST_SERVERS);
    let searches = more(searches, &dns.searches, MOST_SEARCHES);
    // An option that is said takes the place of the same one.
    let name = |option: &str| option.split(':').next().map(str::to_owned);
    let replaced = |option: &&str| !dns.options.iter().any(|said| name(said) == name(option));
    let options: Vec<_> = options.into_iter().filter(replaced).collect();
    let options = more(options, &dns.options, usize::MAX);
    let mut text: String = servers
        .iter()
        .map(|s| format!("nameserver {s}\n"))
        .collect();
    for (name, words) in [("search", searches), ("options", options)] {
        if !words.is_empty() {
            let _ = writeln!(text, "{name} {}", words.join(" "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|w| (*w).to_owned()).collect()
    }

    #[test]
    fn names_are_resolved_as_the_worker_does_and_as_the_template_says() {
        let own = "# a pod's\nsearch old\nsearch team.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\noptions ndots:5 edns0\n";
        let nothing = Dns::default();
        assert_eq!(
            resolv_conf(own, &nothing),
            "nameserver 10.96.0.10\nsearch team.svc.cluster.local svc.cluster.local\noptions ndots:5 edns0\n"
        );
        let mut said = Dns {
            alone: false,
            nameservers: strings(&["10.96.0.10", "9.9.9.9"]),
            searches: strings(&["example.org"]),
            options: strings(&["ndots:1"]),
        };
        assert_eq!(
            resolv_conf(own, &said),
            "nameserver 10.96.0.10\nnameserver 9.9.9.9\nsearch team.svc.cluster.local svc.cluster.local example.org\noptions edns0 ndots:1\n"
        );
        said.alone = true;
        assert_eq!(
            resolv_conf(own, &said),
            "nameserver 10.96.0.10\nnameserver 9.9.9.9\nsearch example.org\noptions ndots:1\n"
        );
        let stub = "nameserver 127.0.0.53\nnameserver ::1\nnameserver fe80::1%eth0\n";
        assert_eq!(servers(stub), ["fe80::1%eth0"]);
        let many = "nameserver 1.1.1.1\n".repeat(9)
            + "nameserver 1.1.1.2\nnameserver 1.1.1.3\nnameserver 1.1.1.4\n";
        assert_eq!(resolv_conf(&many, &nothing).lines().count(), MOST_SERVERS);
        assert_eq!(resolv_conf("", &nothing), "");
    }
}
