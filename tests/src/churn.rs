//! Who gets the last address, and does anybody get one that is another's?
//!
//! Clients make, move and delete ports on a network of two subnets of thirteen addresses each, chosen and automatic ones, while a router comes
//! and goes between them. They write down who has what: an address enters the book when its port's answer comes, and leaves it before it is
//! asked to go. So whoever is given an address that is on the book was given it too early. Then the first subnet is filled by all at once, and
//! each address freed and taken again; then a quota.

use std::{
    collections::BTreeMap,
    fmt,
    path::Path,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde_json::{Value, json};

use crate::{
    ledger::sound,
    scale::{Stand, http::Http},
};

/// Addresses of a /28 without its ends and its gateway.
const ROOM: usize = 13;
/// What the race for a quota is for.
const QUOTA: u64 = 20;

/// What was seen.
#[derive(Debug, Default, Clone, Copy)]
pub struct Seen {
    /// Ports made.
    pub made: u64,
    /// Ports that moved to another address.
    pub moved: u64,
    /// Ports deleted.
    pub deleted: u64,
    /// Refusals: nothing free, or another's.
    pub refused: u64,
    /// Times that the router came.
    pub attached: u64,
    /// The most that were alive at once in the first subnet.
    pub most: usize,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ports made, {} moved, {} deleted, {} refused; the router came {} times; at most {} of {ROOM} alive",
            self.made, self.moved, self.deleted, self.refused, self.attached, self.most
        )
    }
}

impl Seen {
    fn add(&mut self, other: &Self) {
        self.made += other.made;
        self.moved += other.moved;
        self.deleted += other.deleted;
        self.refused += other.refused;
        self.attached += other.attached;
        self.most = self.most.max(other.most);
    }
}

/// Who has which address.
#[derive(Debug, Default)]
struct Book(Mutex<BTreeMap<String, String>>);

impl Book {
    /// A port's answer came; how many of the first subnet are alive now.
    fn enter(&self, address: &str, port: &str) -> anyhow::Result<usize> {
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = book.insert(address.to_owned(), port.to_owned()) {
            bail!("{address} is {port}'s and {other}'s");
        }
        Ok(book
            .keys()
            .filter(|address| address.starts_with(FIRST))
            .count())
    }

    /// It is about to be asked to go.
    fn leave(&self, address: &str) {
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        book.remove(address);
    }
}

/// How addresses of the first subnet begin.
const FIRST: &str = "10.9.0.";

/// Where the race is.
#[derive(Debug, Clone)]
struct Track {
    network: String,
    first: String,
    second: String,
    router: String,
}

fn id(answer: &Value, kind: &str) -> anyhow::Result<String> {
    let id = answer[kind]["id"].as_str();
    Ok(id.with_context(|| format!("no id: {answer}"))?.to_owned())
}

fn track(http: &mut Http) -> anyhow::Result<Track> {
    let network = http.post("/v2.0/networks", &json!({"network": {"name": "churn"}}))?;
    let network = id(&network, "network")?;
    let mut subnet = |cidr: &str, pools: Value| -> anyhow::Result<String> {
        let body = json!({"network_id": network, "ip_version": 4, "cidr": cidr, "allocation_pools": pools});
        id(
            &http.post("/v2.0/subnets", &json!({"subnet": body}))?,
            "subnet",
        )
    };
    // Two pools that are not next to each other in the order of the request.
    let pools = json!([{"start": "10.9.0.9", "end": "10.9.0.14"}, {"start": "10.9.0.2", "end": "10.9.0.8"}]);
    let first = subnet("10.9.0.0/28", pools)?;
    let second = subnet(
        "10.9.1.0/28",
        json!([{"start": "10.9.1.2", "end": "10.9.1.14"}]),
    )?;
    let router = id(
        &http.post("/v2.0/routers", &json!({"router": {}}))?,
        "router",
    )?;
    Ok(Track {
        network,
        first,
        second,
        router,
    })
}

/// What an answer about a port says: its id and address; `None`: it was refused as it may be.
fn port(
    method: &str,
    path: &str,
    body: &Value,
    http: &mut Http,
) -> anyhow::Result<Option<(String, String)>> {
    let answer = http.ask(method, path, body.to_string().as_bytes())?;
    if answer.status == 409 {
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let kinds = [
            "IpAddressGenerationFailure",
            "IpAddressAlreadyAllocated",
            "OverQuota",
        ];
        ensure!(
            kinds.iter().any(|kind| text.contains(kind)),
            "{method} {path}: {text}"
        );
        return Ok(None);
    }
    let answer = answer.json()?;
    let address = answer["port"]["fixed_ips"][0]["ip_address"].as_str();
    let address = address.with_context(|| format!("no address: {answer}"))?;
    Ok(Some((id(&answer, "port")?, address.to_owned())))
}

/// One client's race.
fn race(
    mut http: Http,
    track: &Track,
    book: &Book,
    (number, until): (u64, Instant),
) -> anyhow::Result<Seen> {
    let (mut random, mut seen) = (StdRng::seed_from_u64(number), Seen::default());
    let mut own: Vec<(String, String)> = Vec::new();
    while Instant::now() < until || !own.is_empty() {
        let over = Instant::now() >= until;
        let lot = random.random_range(0..10);
        let chosen = format!("{FIRST}{}", random.random_range(2..=14));
        let wanted = [
            json!([{"subnet_id": track.first}]),
            json!([{"ip_address": chosen}]),
            json!([{"subnet_id": track.first, "ip_address": chosen}]),
            json!([{"subnet_id": track.second}]),
            Value::Null,
        ];
        let wanted = wanted.choose(&mut random).cloned().unwrap_or_default();
        let mut body = json!({"port": {}});
        if !wanted.is_null() {
            body["port"]["fixed_ips"] = wanted.clone();
        }
        if lot < 5 && own.len() < 3 && !over {
            body["port"]["network_id"] = json!(track.network);
            match port("POST", "/v2.0/ports", &body, &mut http)? {
                None => seen.refused += 1,
                Some((id, address)) => {
                    seen.most = seen.most.max(book.enter(&address, &id)?);
                    seen.made += 1;
                    own.push((id, address));
                }
            }
        } else if lot < 7 && !wanted.is_null() && !own.is_empty() && !over {
            let at = random.random_range(0..own.len());
            let (id, before) = own.swap_remove(at);
            book.leave(&before);
            let moved = port("PUT", &format!("/v2.0/ports/{id}"), &body, &mut http)?;
            seen.moved += u64::from(moved.is_some());
            seen.refused += u64::from(moved.is_none());
            let (id, address) = moved.unwrap_or((id, before));
            seen.most = seen.most.max(book.enter(&address, &id)?);
            own.push((id, address));
        } else if let Some((id, address)) = own.pop() {
            book.leave(&address);
            let gone = http.ask("DELETE", &format!("/v2.0/ports/{id}"), b"")?;
            ensure!(gone.status == 204, "delete: {}", gone.status);
            seen.deleted += 1;
        }
        ensure!(seen.most <= ROOM, "{} alive of {ROOM}", seen.most);
    }
    Ok(seen)
}

/// The router that comes to one subnet or the other, by its gateway, and goes.
fn wander(mut http: Http, track: &Track, until: Instant) -> anyhow::Result<Seen> {
    let mut seen = Seen::default();
    while Instant::now() < until {
        for subnet in [&track.first, &track.second] {
            for verb in ["add", "remove"] {
                let path = format!("/v2.0/routers/{}/{verb}_router_interface", track.router);
                let body = json!({"subnet_id": subnet}).to_string();
                http.ask("PUT", &path, body.as_bytes())?.json()?;
            }
            seen.attached += 1;
        }
    }
    Ok(seen)
}

/// All clients do the same at once.
fn together<T: Send>(
    stand: &Stand,
    clients: usize,
    act: impl Fn(usize, Http) -> anyhow::Result<T> + Sync,
) -> anyhow::Result<Vec<T>> {
    let all: anyhow::Result<Vec<Http>> = (0..clients).map(|_| stand.client()).collect();
    let all = all?;
    thread::scope(|scope| {
        let act = &act;
        let all: Vec<_> = all
            .into_iter()
            .enumerate()
            .map(|(n, http)| scope.spawn(move || act(n, http)))
            .collect();
        let joined = all.into_iter().map(|one| match one.join() {
            Ok(done) => done,
            Err(_) => bail!("a client panicked"),
        });
        joined.collect()
    })
}

/// All take addresses of the first subnet until each is refused: all are given, each once. Then each is freed, and can be had at once.
fn fill(stand: &Stand, track: &Track, clients: usize) -> anyhow::Result<()> {
    let one =
        json!({"port": {"network_id": track.network, "fixed_ips": [{"subnet_id": track.first}]}});
    let given = together(stand, clients, |_, mut http| {
        let mut own = Vec::new();
        while let Some(port) = port("POST", "/v2.0/ports", &one, &mut http)? {
            own.push(port);
        }
        Ok(own)
    })?;
    let given: Vec<_> = given.into_iter().flatten().collect();
    let distinct: BTreeMap<&str, &str> = given
        .iter()
        .map(|(id, address)| (address.as_str(), id.as_str()))
        .collect();
    ensure!(given.len() == ROOM && distinct.len() == ROOM, "{given:?}");
    let mut http = stand.client()?;
    for (id, address) in &given {
        let gone = http.ask("DELETE", &format!("/v2.0/ports/{id}"), b"")?;
        ensure!(gone.status == 204, "delete: {}", gone.status);
        let again =
            json!({"port": {"network_id": track.network, "fixed_ips": [{"ip_address": address}]}});
        let made = port("POST", "/v2.0/ports", &again, &mut http)?;
        let (id, had) =
            made.with_context(|| format!("{address} was freed, and is not to be had"))?;
        ensure!(had == *address, "{had} instead of {address}");
        // And so can it be had by who does not ask for it: it is the only one.
        let gone = http.ask("DELETE", &format!("/v2.0/ports/{id}"), b"")?;
        ensure!(gone.status == 204, "delete: {}", gone.status);
        let made = port("POST", "/v2.0/ports", &one, &mut http)?;
        let (_, had) = made.with_context(|| format!("{address} was freed, and is not given"))?;
        ensure!(had == *address, "{had} instead of {address}");
        ensure!(
            port("POST", "/v2.0/ports", &one, &mut http)?.is_none(),
            "one too many"
        );
    }
    for address in distinct.keys() {
        let path = format!(
            "/v2.0/ports?fixed_ips=ip_address%3D{address}&network_id={}",
            track.network
        );
        let found = http.ask("GET", &path, b"")?.json()?;
        let id = found["ports"][0]["id"].as_str().context("a port is gone")?;
        http.ask("DELETE", &format!("/v2.0/ports/{id}"), b"")?;
    }
    Ok(())
}

/// All make ports where there is room for thousands, one by one and by twos, and may have so many.
fn quota(stand: &Stand, clients: usize) -> anyhow::Result<()> {
    let mut http = stand.client()?;
    let network = http.post("/v2.0/networks", &json!({"network": {}}))?;
    let network = id(&network, "network")?;
    let subnet =
        json!({"subnet": {"network_id": network, "ip_version": 4, "cidr": "10.32.0.0/16"}});
    http.post("/v2.0/subnets", &subnet)?;
    let path = format!("/v2.0/quotas/{}", stand.project);
    let limit = json!({"quota": {"port": QUOTA}}).to_string();
    http.ask("PUT", &path, limit.as_bytes())?.json()?;
    let made = together(stand, clients, |n, mut http| {
        let (one, mut made) = (json!({"network_id": network}), 0);
        for _ in 0..QUOTA {
            let count = 1 + n % 2;
            let body = json!({"ports": vec![one.clone(); count]}).to_string();
            let answer = http.ask("POST", "/v2.0/ports", body.as_bytes())?;
            ensure!(matches!(answer.status, 201 | 409), "{}", answer.status);
            made += u64::from(answer.status == 201) * count as u64;
        }
        Ok(made)
    })?;
    let made: u64 = made.iter().sum();
    ensure!(made <= QUOTA, "{made} ports, and {QUOTA} are allowed");
    // Whoever makes two may find room for one only: singles fill it up.
    ensure!(
        made == QUOTA || clients < 2,
        "{made} ports, and {QUOTA} could be had"
    );
    let listed = http.ask("GET", "/v2.0/ports?fields=id", b"")?.json()?;
    ensure!(listed["ports"].as_array().map(Vec::len) == usize::try_from(QUOTA).ok());
    let details = http.ask("GET", &format!("{path}/details"), b"")?.json()?;
    ensure!(details["quota"]["port"]["used"] == QUOTA, "{details}");
    Ok(())
}

/// Races for so long, then fills up.
///
/// # Errors
/// The first address that two had, the first that was lost, or a count that is off.
pub fn run(dir: &Path, clients: usize, time: Duration) -> anyhow::Result<Seen> {
    let stand = Stand::up(dir)?;
    let track = track(&mut stand.client()?)?;
    let (book, until) = (Book::default(), Instant::now() + time);
    let all = together(&stand, clients + 1, |n, http| {
        if n == clients {
            wander(http, &track, until)
        } else {
            race(http, &track, &book, (n as u64, until))
        }
    })?;
    let mut seen = Seen::default();
    for one in &all {
        seen.add(one);
    }
    sound::check(&stand.core.store.snapshot())?;
    fill(&stand, &track, clients)?;
    quota(&stand, clients)?;
    sound::check(&stand.core.store.snapshot())?;
    Ok(seen)
}
