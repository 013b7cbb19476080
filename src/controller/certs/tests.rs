//! With a clock of their own, and rustls' word for whether one believes another.

use super::issue::issue;
use super::plan::{CA_LIFE, LEAF_LIFE, plan};
use super::process::{CA, Process, processes};
use super::{Contents, Pems};
use crate::identity::{Authority, Certificate, LeafRequest};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const APISERVER: &str = "ate-apiserver-tls";
const ROUTER: &str = "ate-router-tls";

struct World {
    now: SystemTime,
    processes: Vec<Process>,
    contents: Contents,
}

impl World {
    fn new() -> Self {
        let mut world = Self::empty();
        world.look();
        world
    }

    fn empty() -> Self {
        Self {
            now: SystemTime::UNIX_EPOCH + 20_000 * DAY,
            processes: processes("ate-system").collect(),
            contents: Contents::new(),
        }
    }

    /// What a look writes.
    fn look(&mut self) -> Vec<&'static str> {
        let before = self.contents.clone();
        let plan = plan(self.now, &self.processes, &before);
        self.contents = issue(&plan, self.now, &self.processes, &before).unwrap();
        let changed = self
            .contents
            .iter()
            .filter(|(k, v)| before.get(*k) != Some(v));
        changed.map(|(name, _)| *name).collect()
    }

    fn after(&mut self, time: Duration) -> Vec<&'static str> {
        self.now += time;
        self.look()
    }

    fn leaf(&self, secret: &str) -> &str {
        &self.contents[secret].leaf.chain
    }

    fn bundle(&self) -> Vec<Certificate> {
        Certificate::all(&self.contents[CA].ca)
    }

    /// All is well, and stays so for a while.
    fn is_at_rest(&mut self) {
        for process in &self.processes {
            let bundle = &self.contents[CA].ca;
            let pems = &self.contents[process.secret];
            assert_eq!(&pems.ca, bundle, "{}", process.secret);
            let leaf = Certificate::first(&pems.leaf.chain).unwrap();
            assert!(leaf.says(&process.request) && leaf.has_key(&pems.leaf.key));
            assert!(believes(&self.contents[APISERVER], pems, self.now));
            assert!(believes(pems, &self.contents[APISERVER], self.now));
        }
        assert!(self.look().is_empty());
        assert!(self.after(HOUR / 60).is_empty());
    }
}

/// Whether one takes another for a client and for a server, as rustls has it; kube-apiserver wants the CA to be valid, too.
fn believes(one: &Pems, other: &Pems, now: SystemTime) -> bool {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for ca in CertificateDer::pem_slice_iter(one.ca.as_bytes()) {
        roots.add(ca.unwrap()).unwrap();
    }
    let roots = Arc::new(roots);
    let leaf = CertificateDer::from_pem_slice(other.leaf.chain.as_bytes()).unwrap();
    let time = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap());
    let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
    let client = clients
        .build()
        .unwrap()
        .verify_client_cert(&leaf, &[], time);
    let servers = WebPkiServerVerifier::builder_with_provider(roots, provider);
    let name = ServerName::try_from(name_of(other)).unwrap();
    let server = servers
        .build()
        .unwrap()
        .verify_server_cert(&leaf, &[], &name, &[], time);
    let read = Certificate::first(&other.leaf.chain).unwrap();
    let by = Certificate::all(&one.ca).into_iter();
    let ca_is_valid = by
        .filter(|ca| read.is_signed_by(ca))
        .any(|ca| ca.life().contains(&now));
    client.is_ok() && server.is_ok() && ca_is_valid
}

/// A name that it serves under.
fn name_of(pems: &Pems) -> String {
    let leaf = Certificate::first(&pems.leaf.chain).unwrap();
    let of = processes("ate-system").find(|p| leaf.says(&p.request));
    of.unwrap().request.sans[0].clone()
}

#[test]
fn from_nothing_all_is_made_once() {
    let mut world = World::empty();
    let all = [
        APISERVER,
        CA,
        "ate-controller-tls",
        "ate-objects-tls",
        ROUTER,
        "ate-store-tls",
        "atelet-tls",
    ];
    assert_eq!(world.look(), all);
    assert_eq!(world.bundle().len(), 1);
    world.is_at_rest();
    assert!(world.after(11 * HOUR).is_empty());
}

#[test]
fn leaves_are_renewed_at_half_of_their_life_by_the_same_ca() {
    let mut world = World::new();
    let ca = world.contents[CA].clone();
    for _ in 0..5 {
        let old = world.contents.clone();
        assert_eq!(world.after(LEAF_LIFE / 2).len(), 6);
        assert_eq!(world.contents[CA], ca);
        for (one, other) in [(&old, &world.contents), (&world.contents, &old)] {
            assert!(believes(&one[ROUTER], &other[APISERVER], world.now));
        }
        world.is_at_rest();
    }
}

/// For days whoever has what there was up to five hours ago and whoever has what there is believe one another. How many CAs there are,
/// whether the first is one, and whether leaves are its.
fn hours(world: &mut World, first: &Certificate) -> Vec<(usize, bool, bool)> {
    let (mut recent, mut phases) = (VecDeque::new(), vec![]);
    for _ in 0..80 {
        world.after(HOUR);
        recent.push_front(world.contents.clone());
        recent.truncate(6);
        for old in &recent {
            for (one, other) in [(old, &world.contents), (&world.contents, old)] {
                let pair = [(APISERVER, ROUTER), (ROUTER, APISERVER)];
                for (a, b) in pair {
                    assert!(believes(&one[a], &other[b], world.now), "{phases:?}");
                }
            }
        }
        let by_first = Certificate::first(world.leaf(ROUTER))
            .unwrap()
            .is_signed_by(first);
        let phase = (
            world.bundle().len(),
            world.bundle().contains(first),
            by_first,
        );
        if phases.last() != Some(&phase) {
            phases.push(phase);
        }
    }
    phases
}

/// Every hour for days before and after the CA's half: whoever has what there was up to five hours ago and whoever has what there
/// is believe one another.
#[test]
fn while_the_ca_is_changed_all_believe_one_another() {
    let mut world = World::new();
    let first = world.bundle().remove(0);
    while world.now < first.life().start + CA_LIFE / 2 - DAY {
        world.after(12 * HOUR);
        assert_eq!(world.bundle(), std::slice::from_ref(&first));
    }
    let phases = hours(&mut world, &first);
    let wanted = [
        (1, true, true),
        (2, true, true),
        (2, true, false),
        (1, false, false),
    ];
    assert_eq!(phases, wanted);
    world.is_at_rest();
}

#[test]
fn certificates_that_somebody_else_issued_are_taken_over() {
    let mut world = World::new();
    let year = |request: &LeafRequest| LeafRequest {
        validity: CA_LIFE,
        ..request.clone()
    };
    let theirs = Authority::new("theirs", 10 * CA_LIFE, world.now).unwrap();
    world.contents.remove(CA);
    for process in &world.processes {
        let pems = Pems {
            ca: theirs.certificate().to_owned(),
            leaf: theirs.leaf_at(&year(&process.request), world.now).unwrap(),
        };
        world.contents.insert(process.secret, pems);
    }
    let first = Certificate::first(theirs.certificate()).unwrap();
    let wanted = [(2, true, true), (2, true, false), (1, false, false)];
    assert_eq!(hours(&mut world, &first), wanted);
    world.is_at_rest();
}

#[test]
fn years_go_by() {
    let (mut world, mut cas) = (World::new(), vec![]);
    for _ in 0..800 * 2 {
        world.after(12 * HOUR);
        assert!(believes(
            &world.contents[ROUTER],
            &world.contents[APISERVER],
            world.now
        ));
        let bundle = world.bundle();
        assert!(bundle.len() <= 2);
        if !cas.contains(&bundle[0]) {
            cas.push(bundle[0].clone());
        }
    }
    assert_eq!(cas.len(), 5, "one in half a year");
}

#[test]
fn what_was_switched_off_comes_back() {
    for (off, same_ca) in [
        (2 * DAY, true),
        (31 * DAY, true),
        // Half of the CA's life and nearly all of it.
        (200 * DAY, false),
        (CA_LIFE - HOUR, false),
        (2 * CA_LIFE, false),
    ] {
        let mut world = World::new();
        let ca = world.leaf(CA).to_owned();
        let written = world.after(off);
        assert!(written.len() >= 4, "{written:?}");
        assert_eq!(world.leaf(CA) == ca, same_ca, "{off:?}");
        world.is_at_rest();
        // Nothing is left of it in the end.
        for _ in 0..4 {
            world.after(LEAF_LIFE / 2);
        }
        assert_eq!(world.bundle().len(), 1);
        world.is_at_rest();
    }
}

type Damage = fn(&mut Contents, &Pems);

/// Of one Secret of a process; the last is that of somebody else.
const DAMAGES: &[(&str, Damage)] = &[
    ("deleted", |c, _| drop(c.remove(ROUTER))),
    ("emptied", |c, _| {
        c.entry(ROUTER).or_default().leaf.chain.clear()
    }),
    ("garbage", |c, _| {
        c.entry(ROUTER).or_default().leaf.chain = "!".into()
    }),
    ("no key", |c, _| {
        c.entry(ROUTER).or_default().leaf.key.clear()
    }),
    ("another's key", |c, _| {
        c.get_mut(ROUTER).unwrap().leaf.key = c[APISERVER].leaf.key.clone()
    }),
    ("another's leaf", |c, _| {
        c.get_mut(ROUTER).unwrap().leaf = c[APISERVER].leaf.clone()
    }),
    ("no bundle", |c, _| c.entry(ROUTER).or_default().ca.clear()),
    ("a foreign bundle", |c, s| {
        c.entry(ROUTER).or_default().ca = s.ca.clone()
    }),
    ("a foreign leaf", |c, s| {
        c.insert(ROUTER, s.clone()).map_or((), drop)
    }),
];

/// Of the CA's.
const CA_DAMAGES: &[(&str, Damage)] = &[
    ("deleted", |c, _| drop(c.remove(CA))),
    ("garbage", |c, _| {
        c.entry(CA).or_default().leaf.chain = "!".into()
    }),
    ("no key", |c, _| c.entry(CA).or_default().leaf.key.clear()),
    ("a leaf", |c, _| {
        c.get_mut(CA).unwrap().leaf = c[APISERVER].leaf.clone()
    }),
    ("emptied", |c, _| drop(c.insert(CA, Pems::default()))),
];

fn somebody_else() -> Pems {
    let mut world = World::new();
    world.contents.remove(ROUTER).unwrap()
}

#[test]
fn damage_is_put_back() {
    for (what, damage) in DAMAGES {
        let mut world = World::new();
        let before = world.contents.clone();
        damage(&mut world.contents, &somebody_else());
        assert_eq!(world.look(), [ROUTER], "{what}");
        assert_eq!(world.contents[APISERVER], before[APISERVER], "{what}");
        world.is_at_rest();
    }
}

#[test]
fn without_its_ca_leaves_go_on_beside_a_new_one() {
    for (what, damage) in CA_DAMAGES {
        let mut world = World::new();
        let before = world.contents.clone();
        world.after(HOUR);
        damage(&mut world.contents, &somebody_else());
        world.look();
        assert_ne!(world.leaf(CA), before[CA].leaf.chain, "{what}");
        assert_eq!(world.leaf(ROUTER), before[ROUTER].leaf.chain, "{what}");
        assert_eq!(world.bundle().len(), 2, "{what}");
        assert!(
            believes(&before[APISERVER], &world.contents[ROUTER], world.now),
            "{what}"
        );
        world.is_at_rest();
        // Up to three quarters where the new CA is not known yet.
        for _ in 0..26 {
            let old = world.contents.clone();
            world.after(HOUR);
            assert!(
                believes(&old[APISERVER], &world.contents[ROUTER], world.now),
                "{what}"
            );
        }
        assert_eq!(world.bundle().len(), 1, "{what}");
        world.is_at_rest();
    }
}

#[test]
fn nobody_is_trusted_for_being_in_the_bundle() {
    let mut world = World::new();
    world.after(2 * DAY);
    world.look();
    let own = world.bundle();
    let foreign = somebody_else().ca;
    world.contents.get_mut(CA).unwrap().ca.push_str(&foreign);
    assert_eq!(world.look(), [CA]);
    assert_eq!(world.bundle(), own);
}

#[test]
fn a_bundle_does_not_grow_without_end() {
    let mut world = World::new();
    for _ in 0..10 {
        world.contents.get_mut(CA).unwrap().leaf.key.clear();
        world.after(HOUR / 60);
    }
    assert_eq!(world.bundle().len(), 5);
    world.is_at_rest();
}

#[test]
fn a_clock_that_was_wrong_does_no_lasting_harm() {
    let mut world = World::new();
    let right = world.now;
    world.now += 3 * CA_LIFE;
    world.look();
    world.now = right + HOUR;
    world.look();
    world.is_at_rest();
    assert!(world.bundle()[0].life().contains(&world.now));
}
