//! What does a client ask for, and what was it told?
//!
//! A writer owns what it makes: nobody else changes it, so what it was told says how each thing may stand. An answer of success or refusal
//! leaves one way; no answer leaves two.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, bail, ensure};
use controller::{
    resource::Objects as _,
    resources::{FloatingIp, Port, Subnet},
    store::{Read as _, Snapshot},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde_json::{Value, json};
use uuid::Uuid;

use super::process::Home;
use crate::scale::http::Http;

/// Ports that a writer keeps; beyond it, it rather deletes.
const PORTS: usize = 60;
/// Floating IPs that it keeps.
const FLOATING: usize = 4;

/// What a thing is, and by what it is found again if the answer with its id was lost.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// A port, by its name.
    Port(String),
    /// A floating IP, by its description.
    Floating(String),
    /// A subnet, by its name.
    Subnet(String),
    /// The interface of the writer's router in a subnet.
    Interface(String),
}

/// How a thing may stand: not at all, or with this (a port's description, a floating IP's port).
type Ways = BTreeSet<Option<String>>;

/// What the answers were.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counts {
    /// Success.
    pub acknowledged: u64,
    /// Refusals.
    pub refused: u64,
    /// None.
    pub unknown: u64,
    /// Of these, found done.
    pub done: u64,
}

impl Counts {
    /// Both.
    pub fn add(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.done += other.done;
    }
}

/// One client and its book.
#[derive(Debug)]
pub struct Writer {
    number: usize,
    random: StdRng,
    made: u64,
    network: String,
    router: String,
    /// Where its ports are; where its router comes and goes.
    subnet: String,
    second: String,
    outside: String,
    anchor: String,
    anchor_ip: String,
    /// The network whose subnets give all of its ports an address.
    automatic: Option<String>,
    book: BTreeMap<Name, Ways>,
    ids: BTreeMap<Name, String>,
    /// What one request was about that nobody answered: all of it is as before, or all as asked.
    whole: Vec<(Name, Option<String>)>,
    /// What was told.
    pub counts: Counts,
}

fn id_of(answer: &Value, kind: &str) -> anyhow::Result<String> {
    let id = answer[kind]["id"].as_str();
    Ok(id.with_context(|| format!("no id: {answer}"))?.to_owned())
}

/// What became of a request.
enum Told {
    Done(Value),
    Refused,
    Nothing,
}

impl Writer {
    /// A writer with a network, two subnets, a router that leads outside and a port.
    ///
    /// # Errors
    /// When anything is refused.
    pub fn new(
        number: usize,
        seed: u64,
        http: &mut Http,
        outside: &str,
        automatic: Option<&str>,
    ) -> anyhow::Result<Self> {
        let network = json!({"network": {"name": format!("w{number}")}});
        let network = id_of(&http.post("/v2.0/networks", &network)?, "network")?;
        let mut subnet = |cidr: &str| -> anyhow::Result<String> {
            let body = json!({"subnet": {"network_id": network, "ip_version": 4, "cidr": cidr}});
            id_of(&http.post("/v2.0/subnets", &body)?, "subnet")
        };
        let (first, second) = (subnet("10.0.0.0/22")?, subnet("10.1.0.0/24")?);
        let gateway = json!({"router": {"external_gateway_info": {"network_id": outside}}});
        let router = id_of(&http.post("/v2.0/routers", &gateway)?, "router")?;
        let path = format!("/v2.0/routers/{router}/add_router_interface");
        let body = json!({"subnet_id": first}).to_string();
        http.ask("PUT", &path, body.as_bytes())?.json()?;
        let fixed = json!([{"subnet_id": first}]);
        let anchor =
            json!({"port": {"network_id": network, "fixed_ips": fixed, "binding:host_id": "h0"}});
        let anchor = http.post("/v2.0/ports", &anchor)?;
        let ip = anchor["port"]["fixed_ips"][0]["ip_address"].as_str();
        Ok(Self {
            number,
            random: StdRng::seed_from_u64(seed ^ (number as u64) << 32),
            made: 0,
            router,
            subnet: first,
            second,
            outside: outside.to_owned(),
            anchor_ip: ip.context("no address")?.to_owned(),
            anchor: id_of(&anchor, "port")?,
            network,
            automatic: automatic.map(str::to_owned),
            book: BTreeMap::new(),
            ids: BTreeMap::new(),
            whole: Vec::new(),
            counts: Counts::default(),
        })
    }

    /// Asks for one thing after the other until nobody answers.
    ///
    /// # Errors
    /// When a server is at fault that lives.
    pub fn write(&mut self, home: &Home, token: &str) -> anyhow::Result<()> {
        let Ok(mut http) = Http::connect(home.api, token) else {
            return Ok(());
        };
        while self.step(&mut http)? {}
        Ok(())
    }

    /// One request; `false` when nobody answered.
    fn step(&mut self, http: &mut Http) -> anyhow::Result<bool> {
        let ports = self.there(|name| matches!(name, Name::Port(_)));
        let floating = self.there(|name| matches!(name, Name::Floating(_)));
        let lot = self.random.random_range(0..100);
        match lot {
            0..30 if ports.len() < PORTS => self.make_ports(http),
            30..35 => self.make_none(http),
            35..55 => self.change_port(http, &ports),
            65..75 => self.attach(http),
            75..82 if floating.len() < FLOATING => self.make_floating(http),
            82..92 => self.lead(http, &floating),
            92..96 => self.delete(http, &floating),
            96..100 if self.automatic.is_some() => self.renumber(http),
            _ => self.delete(http, &ports),
        }
    }

    /// What is there for certain, of one kind.
    fn there(&self, kind: impl Fn(&Name) -> bool) -> Vec<Name> {
        let there = self.book.iter().filter(|(name, ways)| {
            kind(name) && !ways.contains(&None) && self.ids.contains_key(*name)
        });
        there.map(|(name, _)| name.clone()).collect()
    }

    fn fresh(&mut self) -> String {
        self.made += 1;
        format!("w{}-{}", self.number, self.made)
    }

    /// Asks, and notes for each thing of it how it would stand.
    fn ask(
        &mut self,
        http: &mut Http,
        (method, path, body): (&str, &str, &Value),
        things: &[(Name, Option<String>)],
    ) -> anyhow::Result<Told> {
        let text = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let answer = http.ask(method, path, text.as_bytes());
        match answer {
            Ok(answer) if (200..300).contains(&answer.status) => {
                self.counts.acknowledged += 1;
                for (name, way) in things {
                    self.book.insert(name.clone(), [way.clone()].into());
                }
                let body = if answer.body.is_empty() {
                    Value::Null
                } else {
                    answer.json()?
                };
                Ok(Told::Done(body))
            }
            Ok(answer) if (400..500).contains(&answer.status) => {
                self.counts.refused += 1;
                for (name, _) in things {
                    self.book
                        .entry(name.clone())
                        .or_insert_with(|| [None].into());
                }
                Ok(Told::Refused)
            }
            Ok(answer) => bail!(
                "{method} {path}: {}: {}",
                answer.status,
                String::from_utf8_lossy(&answer.body)
            ),
            Err(_) => {
                self.counts.unknown += 1;
                for (name, way) in things {
                    let ways = self
                        .book
                        .entry(name.clone())
                        .or_insert_with(|| [None].into());
                    ways.insert(way.clone());
                }
                self.whole = things.to_vec();
                Ok(Told::Nothing)
            }
        }
    }

    fn make_ports(&mut self, http: &mut Http) -> anyhow::Result<bool> {
        let count = self.random.random_range(1..=12);
        let names: Vec<String> = (0..count).map(|_| self.fresh()).collect();
        let bodies: Vec<Value> = names
            .iter()
            .map(|name| {
                let host = ["", "h0", "h1"].choose(&mut self.random).copied();
                json!({"name": name, "network_id": self.network, "binding:host_id": host})
            })
            .collect();
        let things: Vec<_> = names
            .into_iter()
            .map(|name| (Name::Port(name), Some(String::new())))
            .collect();
        let ask = ("POST", "/v2.0/ports", &json!({"ports": bodies}));
        match self.ask(http, ask, &things)? {
            Told::Done(answer) => {
                let made = answer["ports"].as_array().context("no ports")?;
                ensure!(made.len() == things.len(), "{answer}");
                for (port, (name, _)) in made.iter().zip(things) {
                    let id = port["id"].as_str().context("no id")?;
                    self.ids.insert(name, id.to_owned());
                }
                Ok(true)
            }
            Told::Refused => bail!("a bulk create of ports was refused"),
            Told::Nothing => Ok(false),
        }
    }

    /// Several ports, of which the last has an address that is another's: none is made.
    fn make_none(&mut self, http: &mut Http) -> anyhow::Result<bool> {
        let names: Vec<String> = (0..3).map(|_| self.fresh()).collect();
        let mut bodies: Vec<Value> = names
            .iter()
            .map(|name| json!({"name": name, "network_id": self.network}))
            .collect();
        bodies[2]["fixed_ips"] = json!([{"ip_address": self.anchor_ip}]);
        let body = json!({"ports": bodies});
        // Whatever becomes of it, it is not made.
        let things: Vec<_> = names
            .into_iter()
            .map(|name| (Name::Port(name), None))
            .collect();
        match self.ask(http, ("POST", "/v2.0/ports", &body), &things)? {
            Told::Done(answer) => bail!("an address was given twice: {answer}"),
            Told::Refused => Ok(true),
            Told::Nothing => Ok(false),
        }
    }

    fn change_port(&mut self, http: &mut Http, ports: &[Name]) -> anyhow::Result<bool> {
        let Some(name) = ports.choose(&mut self.random).cloned() else {
            return Ok(true);
        };
        let text = self.fresh();
        let path = format!("/v2.0/ports/{}", self.ids[&name]);
        let body = json!({"port": {"description": text}});
        let told = self.ask(http, ("PUT", &path, &body), &[(name, Some(text))])?;
        self.expect(&told)
    }

    /// Nothing of a writer's own is refused, but where a floating IP leads to what goes.
    fn expect(&self, told: &Told) -> anyhow::Result<bool> {
        match told {
            Told::Done(_) => Ok(true),
            Told::Refused => bail!("writer {} was refused what is its own", self.number),
            Told::Nothing => Ok(false),
        }
    }

    fn delete(&mut self, http: &mut Http, things: &[Name]) -> anyhow::Result<bool> {
        let Some(name) = things.choose(&mut self.random).cloned() else {
            return Ok(true);
        };
        let kind = match name {
            Name::Port(_) => "ports",
            Name::Floating(_) => "floatingips",
            Name::Subnet(_) => "subnets",
            Name::Interface(_) => bail!("an interface is not deleted so"),
        };
        let path = format!("/v2.0/{kind}/{}", self.ids[&name]);
        let told = self.ask(http, ("DELETE", &path, &Value::Null), &[(name, None)])?;
        self.expect(&told)
    }

    /// The router comes to the second subnet, or leaves it.
    fn attach(&mut self, http: &mut Http) -> anyhow::Result<bool> {
        let name = Name::Interface(self.second.clone());
        let there = self
            .book
            .get(&name)
            .is_some_and(|ways| !ways.contains(&None));
        let (verb, way) = if there {
            ("remove_router_interface", None)
        } else {
            ("add_router_interface", Some(String::new()))
        };
        let path = format!("/v2.0/routers/{}/{verb}", self.router);
        let body = json!({"subnet_id": self.second});
        let told = self.ask(http, ("PUT", &path, &body), &[(name, way)])?;
        self.expect(&told)
    }

    fn make_floating(&mut self, http: &mut Http) -> anyhow::Result<bool> {
        let text = self.fresh();
        let floating = json!({"floating_network_id": self.outside, "description": text});
        let name = Name::Floating(text);
        let things = [(name.clone(), Some(String::new()))];
        let ask = (
            "POST",
            "/v2.0/floatingips",
            &json!({"floatingip": floating}),
        );
        let told = self.ask(http, ask, &things)?;
        if let Told::Done(answer) = &told {
            self.ids.insert(name, id_of(answer, "floatingip")?);
        }
        self.expect(&told)
    }

    /// A floating IP leads to the writer's port, or to nobody. Only one can have its address.
    fn lead(&mut self, http: &mut Http, floating: &[Name]) -> anyhow::Result<bool> {
        let Some(name) = floating.choose(&mut self.random).cloned() else {
            return Ok(true);
        };
        let port = self.random.random_bool(0.5).then(|| self.anchor.clone());
        let path = format!("/v2.0/floatingips/{}", self.ids[&name]);
        let body = json!({"floatingip": {"port_id": port}});
        let way = Some(port.unwrap_or_default());
        Ok(!matches!(
            self.ask(http, ("PUT", &path, &body), &[(name, way)])?,
            Told::Nothing
        ))
    }

    /// A subnet that gives every port of its network an address comes, or goes.
    fn renumber(&mut self, http: &mut Http) -> anyhow::Result<bool> {
        let subnets = self.there(|name| matches!(name, Name::Subnet(_)));
        if subnets.len() > 1 {
            return self.delete(http, &subnets);
        }
        let name = self.fresh();
        let network = self.automatic.clone().context("no such network")?;
        let body = json!({"subnet": {
            "network_id": network, "name": name, "ip_version": 6, "ipv6_address_mode": "slaac", "ipv6_ra_mode": "slaac",
            "cidr": format!("fd00:{:x}:{:x}::/64", self.number, self.made),
        }});
        let name = Name::Subnet(name);
        let things = [(name.clone(), Some(String::new()))];
        let told = self.ask(http, ("POST", "/v2.0/subnets", &body), &things)?;
        if let Told::Done(answer) = &told {
            self.ids.insert(name, id_of(answer, "subnet")?);
        }
        self.expect(&told)
    }

    /// Holds the book against what a store has; from then on it says what was found.
    ///
    /// # Errors
    /// When anything stands otherwise than it may.
    pub fn check(&mut self, store: &Snapshot, found: &Found) -> anyhow::Result<()> {
        let mut stands = BTreeMap::new();
        for (name, ways) in &self.book {
            let stand = match name {
                Name::Interface(subnet) => {
                    let claim = format!("iface/{}/{subnet}", self.router);
                    store.entry(&claim).map(|_| (String::new(), String::new()))
                }
                _ => found.0.get(name).cloned(),
            };
            let way = stand.as_ref().map(|(_, way)| way.clone());
            ensure!(
                ways.contains(&way),
                "writer {}: {name:?} stands as {way:?}, and was told to be {ways:?}",
                self.number
            );
            stands.insert(name.clone(), stand);
        }
        let asked = std::mem::take(&mut self.whole);
        let done = |(name, way): &&(Name, Option<String>)| {
            stands
                .get(name)
                .map(|stand| stand.as_ref().map(|(_, way)| way))
                == Some(way.as_ref())
        };
        let count = asked.iter().filter(done).count();
        ensure!(
            count == 0 || count == asked.len(),
            "writer {}: {count} of {} are done: {asked:?}",
            self.number,
            asked.len()
        );
        self.counts.done += u64::from(!asked.is_empty() && count > 0);
        for (name, stand) in stands {
            if let Some((id, way)) = stand {
                self.ids.insert(name.clone(), id);
                self.book.insert(name, [Some(way)].into());
            } else {
                // Names are not used again: what is gone stays in the book only until it was seen gone.
                self.ids.remove(&name);
                self.book.remove(&name);
            }
        }
        Ok(())
    }

    /// Its subnets that nobody may touch.
    pub fn subnet(&self) -> &str {
        &self.subnet
    }

    /// Every name that it has on its books.
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.book.keys()
    }
}

/// What a store has, by name: id, and how it stands.
#[derive(Debug, Default)]
pub struct Found(BTreeMap<Name, (String, String)>);

impl Found {
    /// Of a whole store.
    ///
    /// # Errors
    /// When two things have one name.
    pub fn of(store: &Snapshot) -> anyhow::Result<Self> {
        let mut found = Self::default();
        let mut put = |name: Name, id: Uuid, way: String| -> anyhow::Result<()> {
            let before = found.0.insert(name.clone(), (id.to_string(), way));
            ensure!(before.is_none(), "{name:?} is there twice");
            Ok(())
        };
        for port in store.objects::<Port>() {
            if port.meta.name.starts_with('w') {
                let name = Name::Port(port.meta.name.clone());
                put(name, port.meta.id, port.meta.description.clone())?;
            }
        }
        for floating in store.objects::<FloatingIp>() {
            let name = Name::Floating(floating.meta.description.clone());
            let port = floating.port_id.map(|port| port.to_string());
            put(name, floating.meta.id, port.unwrap_or_default())?;
        }
        for subnet in store.objects::<Subnet>() {
            if subnet.meta.name.starts_with('w') {
                let name = Name::Subnet(subnet.meta.name.clone());
                put(name, subnet.meta.id, String::new())?;
            }
        }
        Ok(found)
    }

    /// Who is there that nobody has on its books?
    pub fn strangers<'a>(&'a self, writers: &[Writer]) -> Vec<&'a Name> {
        let known: BTreeSet<&Name> = writers.iter().flat_map(Writer::names).collect();
        self.0.keys().filter(|name| !known.contains(name)).collect()
    }
}
