//! Which native function does a group name, and how is it set?
//!
//! The value of a port pair group's own attribute `network_function`: an object with one key, the
//! kind. The schema is the lab file's (`firewall`, `load_balancer`, `shaper`, `nat`). What a plain function takes is its own affair:
//! the catalogue is asked.

use hostconfig::share::MAX_CLASSES;
use net::{PortRange, Prefix};
use nfv::catalog::{native, plain_kind};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::Value;
use std::{collections::BTreeMap, fmt, net::IpAddr, str::FromStr};
use uuid::Uuid;

use crate::resources::{health::Health, nat::Nat, protocol::protocol_number, subnet::loose_prefix};

/// Rules of a firewall: a first packet walks them one by one.
const RULES: usize = 1000;
/// Members of a load balancer: fewer than a hundredth of a Maglev table's entries.
const MEMBERS: usize = 500;

/// A native function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", remote = "Self")]
pub enum NetworkFunction {
    /// Ordered, stateful rules.
    Firewall(Firewall),
    /// A virtual address over members.
    LoadBalancer(LoadBalancer),
    /// An exact rate with a bounded queue.
    Shaper(Shaper),
    /// Addresses of its own in place of others'.
    Nat(Nat),
    /// One that needs nothing but its settings.
    #[serde(skip)]
    Plain(hostconfig::Plain),
}

impl Serialize for NetworkFunction {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Plain(plain) => out.collect_map([(&plain.name, &plain.settings)]),
            Self::Firewall(_) | Self::LoadBalancer(_) | Self::Shaper(_) | Self::Nat(_) => {
                Self::serialize(self, out)
            }
        }
    }
}

impl<'de> Deserialize<'de> for NetworkFunction {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(input)?;
        let entry = value.as_object().and_then(|map| map.iter().next());
        let plain = entry.and_then(|(name, settings)| Some((plain_kind(name)?, settings)));
        match plain {
            Some((kind, settings)) => Ok(Self::Plain(hostconfig::Plain {
                name: kind.name.to_owned(),
                settings: kind.shape(settings).map_err(D::Error::custom)?,
                places: BTreeMap::new(),
            })),
            None => Self::deserialize(value).map_err(D::Error::custom),
        }
    }
}

/// Allow or deny.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It passes.
    Allow,
    /// It is dropped.
    Deny,
}

/// The first rule that matches a connection's first packet decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Firewall {
    /// In order.
    #[serde(default)]
    pub rules: Vec<FirewallRule>,
    /// When no rule matches.
    #[serde(default = "deny")]
    pub default: Action,
}

const fn deny() -> Action {
    Action::Deny
}

/// A rule of a firewall; what is absent matches anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirewallRule {
    /// What then.
    pub action: Action,
    /// Human label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A protocol by name or number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Source addresses.
    #[serde(default, with = "loose", skip_serializing_if = "Option::is_none")]
    pub source: Option<Prefix>,
    /// Destination addresses.
    #[serde(default, with = "loose", skip_serializing_if = "Option::is_none")]
    pub destination: Option<Prefix>,
    /// Source ports: `80` or `80-90`.
    #[serde(default, with = "ports", skip_serializing_if = "Option::is_none")]
    pub source_port: Option<PortRange>,
    /// Destination ports: `80` or `80-90`.
    #[serde(default, with = "ports", skip_serializing_if = "Option::is_none")]
    pub destination_port: Option<PortRange>,
}

/// An IP protocol, written as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Protocol {
    text: String,
    number: u8,
}

impl Protocol {
    /// The number.
    pub const fn number(&self) -> u8 {
        self.number
    }
}

impl Serialize for Protocol {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Protocol {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = text_or_number(input)?.to_ascii_lowercase();
        let number = protocol_number(&text)
            .ok_or_else(|| D::Error::custom(format!("not a protocol: {text}")))?;
        Ok(Self { text, number })
    }
}

pub(super) fn text_or_number<'de, D: Deserializer<'de>>(input: D) -> Result<String, D::Error> {
    match Value::deserialize(input)? {
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        other @ (Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_)) => Err(
            D::Error::custom(format!("neither text nor number: {other}")),
        ),
    }
}

/// A prefix whose host bits are cut off, or an address.
mod loose {
    use super::*;

    #[expect(clippy::ref_option, reason = "the signature that serde calls")]
    pub(super) fn serialize<S: Serializer>(v: &Option<Prefix>, out: S) -> Result<S::Ok, S::Error> {
        v.serialize(out)
    }

    pub(super) fn deserialize<'de, D>(input: D) -> Result<Option<Prefix>, D::Error>
    where
        D: Deserializer<'de>,
    {
        let Some(text) = Option::<String>::deserialize(input)? else {
            return Ok(None);
        };
        let prefix = loose_prefix(&text);
        prefix
            .map(Some)
            .ok_or_else(|| D::Error::custom(format!("not an address or prefix: {text}")))
    }
}

/// `80`, `"80"`, `"80-90"`.
mod ports {
    use super::*;

    #[expect(
        clippy::ref_option,
        clippy::trivially_copy_pass_by_ref,
        reason = "the signature that serde calls"
    )]
    pub(super) fn serialize<S: Serializer>(
        v: &Option<PortRange>,
        out: S,
    ) -> Result<S::Ok, S::Error> {
        v.serialize(out)
    }

    pub(super) fn deserialize<'de, D>(input: D) -> Result<Option<PortRange>, D::Error>
    where
        D: Deserializer<'de>,
    {
        let text = text_or_number(input)?;
        let range = PortRange::from_str(&text).map_err(D::Error::custom)?;
        Ok(Some(range))
    }
}

/// Connections to a virtual address go to one of the members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadBalancer {
    /// The virtual address.
    pub vip: IpAddr,
    /// The listener's port.
    pub port: u16,
    /// TCP or UDP.
    #[serde(default)]
    pub protocol: Balanced,
    /// How a member is chosen.
    #[serde(default)]
    pub algorithm: Algorithm,
    /// Who serves.
    #[serde(default)]
    pub members: Vec<Member>,
    /// How they are asked whether they do; nobody does if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// Where the address is; a request may leave it out if the members say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_id: Option<Uuid>,
}

/// What a load balancer takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Balanced {
    /// TCP connections.
    #[default]
    Tcp,
    /// UDP flows.
    Udp,
    /// SCTP associations.
    Sctp,
}

impl Balanced {
    /// The IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

/// How a load balancer chooses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// Maglev over addresses and ports.
    #[default]
    Maglev,
    /// Maglev over the source address.
    SourceIp,
    /// By weight in turn, in each switch for itself.
    RoundRobin,
}

/// Who a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// A port: its address, whatever that becomes.
    Port(Uuid),
    /// An address on the virtual address's network.
    Address(IpAddr),
}

impl Target {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let address = text.parse().map(Self::Address);
        address.ok().or_else(|| text.parse().map(Self::Port).ok())
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(id) => id.fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// A member of a load balancer; in a request also just a port's id or an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub target: Target,
    /// The port that it listens on; the listener's if none.
    pub port: Option<u16>,
    /// Its share; 0 takes no new connection.
    pub weight: u16,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberForm {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port_id: Option<Uuid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(default = "one")]
    weight: u16,
}

const fn one() -> u16 {
    1
}

impl Serialize for Member {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let (port_id, address) = match self.target {
            Target::Port(id) => (Some(id), None),
            Target::Address(address) => (None, Some(address)),
        };
        MemberForm {
            port_id,
            address,
            port: self.port,
            weight: self.weight,
        }
        .serialize(out)
    }
}

impl<'de> Deserialize<'de> for Member {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(input)?;
        if let Value::String(text) = &value {
            let target = Target::parse(text)
                .ok_or_else(|| D::Error::custom(format!("neither port id nor address: {text}")))?;
            return Ok(Self {
                target,
                port: None,
                weight: 1,
            });
        }
        let form: MemberForm = serde_json::from_value(value).map_err(D::Error::custom)?;
        let target = match (form.port_id, form.address) {
            (Some(id), None) => Target::Port(id),
            (None, Some(address)) => Target::Address(address),
            _ => {
                return Err(D::Error::custom(
                    "a member is a port_id or an address, one of them",
                ));
            }
        };
        if form.weight > 256 {
            return Err(D::Error::custom(format!(
                "weight out of range (0..=256): {}",
                form.weight
            )));
        }
        Ok(Self {
            target,
            port: form.port,
            weight: form.weight,
        })
    }
}

/// What exceeds the rate waits, what exceeds the queue is dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shaper {
    /// Bits a second: `100mbit`.
    pub rate: Rate,
    /// Bytes that may go at once after a pause: `64KiB`.
    #[serde(default)]
    pub burst: Size,
    /// In which order what waits goes; by flow if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<Queue>,
    /// Its parts, each with a queue of its own; they lend each other what they leave.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<Class>,
}

/// A part of a shaper's traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Class {
    /// Which marks are in it (RFC 2474); none: what no other class has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dscp: Vec<u8>,
    /// Bits a second that it has for certain.
    pub rate: Rate,
    /// Bits a second that it never exceeds; the shaper's rate if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ceil: Option<Rate>,
}

impl Shaper {
    fn check(&self) -> Result<(), String> {
        if self.classes.len() > MAX_CLASSES {
            return Err(format!("a shaper has at most {MAX_CLASSES} classes"));
        }
        let mut promised: u64 = 0;
        for (at, class) in self.classes.iter().enumerate() {
            let of = |reason: &str| Err(format!("class {at}: {reason}"));
            let ceil = class.ceil.unwrap_or(self.rate);
            if class.rate.0 > ceil.0 {
                return of(&format!("its rate is above its ceil: {}", class.rate));
            }
            if ceil.0 > self.rate.0 {
                return of(&format!("its ceil is above the shaper's rate: {ceil}"));
            }
            let before = || self.classes.iter().take(at);
            if class.dscp.is_empty() && before().any(|other| other.dscp.is_empty()) {
                return of("another one has no dscp either");
            }
            for (nth, mark) in class.dscp.iter().enumerate() {
                if *mark > 63 {
                    return of(&format!("dscp out of range (0..=63): {mark}"));
                }
                let here = class.dscp.iter().take(nth);
                if before()
                    .flat_map(|other| &other.dscp)
                    .chain(here)
                    .any(|other| other == mark)
                {
                    return of(&format!("dscp is in a class already: {mark}"));
                }
            }
            promised = promised.saturating_add(class.rate.0);
        }
        if promised > self.rate.0 {
            return Err(format!(
                "rates of classes are together above the shaper's rate: {}",
                Rate(promised)
            ));
        }
        Ok(())
    }
}

/// How packets wait.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Queue {
    /// Flows take turns; one that stands for too long is told, by ECN or a drop.
    #[default]
    FqCodel,
    /// First in, first out, until it is full.
    Fifo,
}

/// Bits a second, 8,000 to 10¹².
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate(u64);

impl Rate {
    /// The number.
    pub const fn bits_per_second(self) -> u64 {
        self.0
    }
}

/// Bytes, 1,514 (one frame) to 1 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(u64);

impl Default for Size {
    /// One super-frame of a tap: less would shape TSO's bursts into waits.
    fn default() -> Self {
        Self(64 * 1024)
    }
}

impl Size {
    /// The number.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

const RATE_UNITS: &[(&str, u64)] = &[
    ("gbit", 1_000_000_000),
    ("mbit", 1_000_000),
    ("kbit", 1_000),
    ("bit", 1),
    ("bps", 1),
];
const SIZE_UNITS: &[(&str, u64)] = &[
    ("gib", 1 << 30),
    ("mib", 1 << 20),
    ("kib", 1 << 10),
    ("gb", 1_000_000_000),
    ("mb", 1_000_000),
    ("kb", 1_000),
    ("b", 1),
];

/// `100mbit` with these units to a number; at most three decimals.
fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let unit = units.iter().find(|(unit, _)| lower.ends_with(unit));
    let (digits, scale) = match unit {
        Some((unit, scale)) => (lower.strip_suffix(unit)?.trim_end(), *scale),
        None => (lower.as_str(), 1),
    };
    let (whole, decimals) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !all_digits(whole) || !all_digits(decimals) || decimals.len() > 3 {
        return None;
    }
    let thousandths: u64 = format!("{decimals:0<3}").parse().ok()?;
    let whole: u64 = whole.parse().ok()?;
    let total =
        u128::from(whole) * u128::from(scale) + u128::from(thousandths) * u128::from(scale) / 1000;
    u64::try_from(total).ok()
}

fn spelled(number: u64, units: &[(&str, u64)], names: &[&str]) -> String {
    let exact = units
        .iter()
        .zip(names)
        .find(|((_, scale), _)| number.is_multiple_of(*scale));
    exact.map_or_else(
        || number.to_string(),
        |((_, scale), name)| format!("{}{name}", number / scale),
    )
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = &["gbit", "mbit", "kbit", "bit"];
        f.write_str(&spelled(self.0, RATE_UNITS, names))
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = text_or_number(input)?;
        with_unit(&text, RATE_UNITS)
            .filter(|bits| (8_000..=1_000_000_000_000).contains(bits))
            .map(Self)
            .ok_or_else(|| D::Error::custom(format!("not a rate (8kbit to 1000gbit): {text}")))
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let binary = SIZE_UNITS.get(..3).unwrap_or_default();
        out.serialize_str(&spelled(self.0, binary, &["GiB", "MiB", "KiB"]))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = text_or_number(input)?;
        with_unit(&text, SIZE_UNITS)
            .filter(|bytes| (1_514..=1 << 30).contains(bytes))
            .map(Self)
            .ok_or_else(|| D::Error::custom(format!("not a size (1514 B to 1 GiB): {text}")))
    }
}

/// Checks the value of `network_function` and brings it to its full form.
///
/// # Errors
/// What is wrong, with the remedy where the schema has grown beyond this version.
pub fn shape(value: &Value) -> Result<Value, String> {
    let kinds = native().collect::<Vec<_>>().join(", ");
    let Some(object) = value.as_object() else {
        return Err(format!(
            "'{value}' is not an object with one key of {kinds}"
        ));
    };
    let mut keys = object.iter();
    let (Some((kind, _)), None) = (keys.next(), keys.next()) else {
        return Err(format!("exactly one key is wanted, of {kinds}"));
    };
    if !native().any(|name| name == kind) {
        return Err(format!(
            "unknown network function '{kind}', known are {kinds}"
        ));
    }
    let function: NetworkFunction =
        serde_json::from_value(value.clone()).map_err(|error| format!("{kind}: {error}"))?;
    match &function {
        NetworkFunction::Firewall(firewall) => {
            if firewall.rules.len() > RULES {
                return Err(format!("a firewall has at most {RULES} rules"));
            }
            for (at, rule) in firewall.rules.iter().enumerate() {
                rule.check()
                    .map_err(|reason| format!("rule {at} of the firewall: {reason}"))?;
            }
        }
        NetworkFunction::LoadBalancer(balancer) => {
            if balancer.port == 0 {
                return Err("load_balancer: port out of range (1..=65535): 0".to_owned());
            }
            if let Some(health) = &balancer.health {
                health
                    .suits(balancer.protocol)
                    .map_err(|reason| format!("load_balancer: {reason}"))?;
            }
            if balancer.members.len() > MEMBERS {
                return Err(format!("a load balancer has at most {MEMBERS} members"));
            }
            for (at, member) in balancer.members.iter().enumerate() {
                let again = balancer.members.iter().take(at);
                if again
                    .into_iter()
                    .any(|other| (other.target, other.port) == (member.target, member.port))
                {
                    return Err(format!("load_balancer: duplicate member {}", member.target));
                }
            }
        }
        NetworkFunction::Shaper(shaper) => {
            shaper
                .check()
                .map_err(|reason| format!("shaper: {reason}"))?;
        }
        NetworkFunction::Plain(_) => {}
        NetworkFunction::Nat(nat) => nat.check().map_err(|reason| format!("nat: {reason}"))?,
    }
    serde_json::to_value(function).map_err(|error| error.to_string())
}

impl FirewallRule {
    fn check(&self) -> Result<(), String> {
        if let (Some(source), Some(destination)) = (self.source, self.destination)
            && source.is_ipv4() != destination.is_ipv4()
        {
            return Err(format!("{source} and {destination} are of two families"));
        }
        let with_ports = self
            .protocol
            .as_ref()
            .is_some_and(|p| [6, 17, 132].contains(&p.number()));
        if (self.source_port.is_some() || self.destination_port.is_some()) && !with_ports {
            return Err("ports need protocol tcp, udp or sctp".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_shapers_classes_are_parts_of_it() {
        let shaper = |classes: Value| {
            shape(&json!({"shaper": {"rate": "10mbit", "burst": "64KiB", "classes": classes}}))
        };
        let taken = json!([{"dscp": [46], "rate": "6mbit"}, {"rate": "4mbit", "ceil": "5mbit"}]);
        assert_eq!(shaper(taken.clone()).unwrap()["shaper"]["classes"], taken);
        assert!(
            shaper(json!([])).unwrap()["shaper"]
                .get("classes")
                .is_none()
        );
        for (classes, why) in [
            (json!([{}]), "missing field `rate`"),
            (
                json!([{"rate": "1mbit", "weight": 1}]),
                "unknown field `weight`",
            ),
            (
                json!([{"rate": "6mbit"}, {"dscp": [1], "rate": "5mbit"}]),
                "together above the shaper's rate: 11mbit",
            ),
            (
                json!([{"rate": "1mbit", "ceil": "11mbit"}]),
                "class 0: its ceil is above the shaper's rate: 11mbit",
            ),
            (
                json!([{"rate": "2mbit", "ceil": "1mbit"}]),
                "class 0: its rate is above its ceil: 2mbit",
            ),
            (
                json!([{"dscp": [64], "rate": "1mbit"}]),
                "class 0: dscp out of range (0..=63): 64",
            ),
            (
                json!([{"dscp": [1], "rate": "1mbit"}, {"dscp": [2, 1], "rate": "1mbit"}]),
                "class 1: dscp is in a class already: 1",
            ),
            (
                json!([{"dscp": [3, 3], "rate": "1mbit"}]),
                "class 0: dscp is in a class already: 3",
            ),
            (
                json!([{"rate": "1mbit"}, {"rate": "1mbit"}]),
                "class 1: another one has no dscp either",
            ),
            (
                json!(vec![json!({"rate": "8kbit"}); 17]),
                "at most 16 classes",
            ),
        ] {
            let refused = shaper(classes.clone()).unwrap_err();
            assert!(refused.contains(why), "{classes}: {refused}");
        }
    }

    #[test]
    fn the_schema_of_the_lab_file_is_taken_and_completed() {
        let id = Uuid::new_v4();
        let shaped = shape(&json!({"load_balancer": {
            "vip": "10.0.0.100", "port": 80, "algorithm": "maglev", "members": [id, "10.0.0.7"]
        }}))
        .unwrap();
        assert_eq!(
            shaped["load_balancer"]["members"][0],
            json!({"port_id": id, "weight": 1})
        );
        assert_eq!(shaped["load_balancer"]["members"][1]["address"], "10.0.0.7");
        assert_eq!(shape(&shaped).unwrap(), shaped);
        let health = json!({"type": "udp-connect"});
        let shaped = shape(&json!({"load_balancer": {
            "vip": "10.0.0.100", "port": 53, "protocol": "udp", "health": health
        }}))
        .unwrap();
        assert_eq!(shaped["load_balancer"]["health"]["interval"], "3s");
        assert_eq!(shape(&shaped).unwrap(), shaped);
        let shaped = shape(&json!({"shaper": {"rate": "100mbit", "burst": "64KiB"}})).unwrap();
        assert_eq!(
            shaped,
            json!({"shaper": {"rate": "100mbit", "burst": "64KiB"}})
        );
        let limiter = shape(&json!({"rate_limiter": {"rate": "10/s"}})).unwrap();
        assert_eq!(
            limiter,
            json!({"rate_limiter": {"rate": "10/s", "per": "source"}})
        );
        assert_eq!(shape(&limiter).unwrap(), limiter);
        for queue in ["fq_codel", "fifo"] {
            let chosen = json!({"shaper": {"rate": "1mbit", "burst": "64KiB", "queue": queue}});
            assert_eq!(shape(&chosen).unwrap(), chosen);
        }
        let shaped = shape(&json!({"firewall": {
            "rules": [{"action": "deny", "source": "10.0.0.66/32"},
                      {"action": "allow", "protocol": "tcp", "destination_port": 80}],
            "default": "allow"
        }}))
        .unwrap();
        assert_eq!(shaped["firewall"]["rules"][0]["source"], "10.0.0.66/32");
        assert_eq!(shaped["firewall"]["rules"][1]["destination_port"], "80");
    }

    #[test]
    fn what_no_function_is_is_refused() {
        for bad in [
            json!({}),
            json!({"nat": {}}),
            json!({"firewall": {}, "shaper": {"rate": "1mbit"}}),
            json!({"shaper": {"rate": "fast"}}),
            json!({"shaper": {"rate": "1bit"}}),
            json!({"shaper": {"rate": "1mbit", "queue": "sfq"}}),
            json!({"shaper": {"rate": "1mbit", "queue": null, "depth": 5}}),
            json!({"firewall": {"queue": "fifo"}}),
            json!({"rate_limiter": {"rate": "10/s", "burst": 0}}),
            json!({"plain": {"name": "rate_limiter", "settings": {"rate": "1/s"}}}),
            json!({"appliance": {}}),
            json!({"load_balancer": {"vip": "x", "port": 80}}),
            json!({"load_balancer": {"vip": "10.0.0.1", "port": 0}}),
            json!({"load_balancer": {"vip": "10.0.0.1", "port": 80, "members": ["web-1"]}}),
            json!({"load_balancer": {"vip": "10.0.0.1", "port": 80, "health": {}}}),
            json!({"load_balancer": {"vip": "10.0.0.1", "port": 80, "health": {"type": "udp-connect"}}}),
            json!({"firewall": {"health": {"type": "tcp"}}}),
            json!({"firewall": {"rules": [{"action": "allow", "destination_port": 80}]}}),
        ] {
            assert!(shape(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rates_and_sizes_have_units() {
        assert_eq!(with_unit("100mbit", RATE_UNITS), Some(100_000_000));
        assert_eq!(with_unit("1.5gbit", RATE_UNITS), Some(1_500_000_000));
        assert_eq!(with_unit("64KiB", SIZE_UNITS), Some(65_536));
        assert_eq!(with_unit("1.5", RATE_UNITS), Some(1));
        assert_eq!(with_unit("-1mbit", RATE_UNITS), None);
        assert_eq!(with_unit("mbit", RATE_UNITS), None);
        assert_eq!(with_unit("99999999999999999999gbit", RATE_UNITS), None);
    }
}
