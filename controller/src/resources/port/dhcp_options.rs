//! What may a port have its DHCP client told besides?
//!
//! `extra_dhcp_opts`: options by the names that dnsmasq gives them, as Neutron's do, or by their numbers. What a name or a value cannot
//! be sent as is refused when it is asked for; [`encode`] is the one place that says how each is sent.
//!
//! # References
//! RFC 2132; RFC 3397; RFC 3442; RFC 3361; RFC 8415 §21; RFC 3646; RFC 5908; RFC 5970.

use super::Port;
use crate::{
    refusal::Refusal,
    resource::Verb,
    rules::{Caller, Change, Write},
    store::View,
};
use net::Prefix;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::net::{IpAddr, Ipv4Addr};

/// How many options: with the longest values they fit a message of 9,000 bytes.
const OPTIONS: usize = 32;
/// The longest name and value (Neutron's).
const NAME: usize = 64;
const VALUE: usize = 255;
/// Options that may be blank: they are not sent then, whatever the subnet says.
const BLANK: &[&str] = &["router", "classless-static-route"];

/// An option of a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DhcpOption {
    /// Its name, or its number.
    pub opt_name: String,
    /// What is sent; `None` only in a request: it is no more.
    #[serde(default)]
    pub opt_value: Option<String>,
    /// 4 or 6.
    #[serde(default = "four")]
    pub ip_version: u8,
}

const fn four() -> u8 {
    4
}

/// How an option is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// Under this code.
    Option(u16, Vec<u8>),
    /// The option of this code is not sent.
    Omit(u16),
    /// As the server to boot from.
    NextServer(Ipv4Addr),
    /// Not at all: addresses of the other family.
    Nowhere,
}

/// What the value of an option is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Addresses,
    Text,
    Flag,
    /// A number of so many bytes.
    Number(usize),
    Names,
    /// Prefixes and next hops, one behind the other.
    Routes,
    /// Addresses or names of SIP servers (RFC 3361).
    Sip,
    /// Addresses or names of time servers (RFC 5908).
    Ntp6,
    /// Texts with their lengths (RFC 5970 §3.2).
    Texts,
    /// The server to boot from, which is no option.
    Server,
    /// As it looks: addresses, bytes in hexadecimal, or a text.
    Looks,
}

type Known = (&'static str, u16, Form);

/// The options of DHCPv4.
const V4: &[Known] = &[
    ("netmask", 1, Form::Addresses),
    ("time-offset", 2, Form::Number(4)),
    ("router", 3, Form::Addresses),
    ("dns-server", 6, Form::Addresses),
    ("log-server", 7, Form::Addresses),
    ("lpr-server", 9, Form::Addresses),
    ("hostname", 12, Form::Text),
    ("boot-file-size", 13, Form::Number(2)),
    ("domain-name", 15, Form::Text),
    ("swap-server", 16, Form::Addresses),
    ("root-path", 17, Form::Text),
    ("extension-path", 18, Form::Text),
    ("ip-forward-enable", 19, Form::Flag),
    ("non-local-source-routing", 20, Form::Flag),
    ("policy-filter", 21, Form::Addresses),
    ("max-datagram-reassembly", 22, Form::Number(2)),
    ("default-ttl", 23, Form::Number(1)),
    ("mtu", 26, Form::Number(2)),
    ("all-subnets-local", 27, Form::Flag),
    ("router-discovery", 31, Form::Flag),
    ("router-solicitation", 32, Form::Addresses),
    ("static-route", 33, Form::Addresses),
    ("trailer-encapsulation", 34, Form::Flag),
    ("arp-timeout", 35, Form::Number(4)),
    ("ethernet-encap", 36, Form::Flag),
    ("tcp-ttl", 37, Form::Number(1)),
    ("tcp-keepalive", 38, Form::Number(4)),
    ("nis-domain", 40, Form::Text),
    ("nis-server", 41, Form::Addresses),
    ("ntp-server", 42, Form::Addresses),
    ("netbios-ns", 44, Form::Addresses),
    ("netbios-dd", 45, Form::Addresses),
    ("netbios-nodetype", 46, Form::Number(1)),
    ("netbios-scope", 47, Form::Text),
    ("x-windows-fs", 48, Form::Addresses),
    ("x-windows-dm", 49, Form::Addresses),
    ("T1", 58, Form::Number(4)),
    ("T2", 59, Form::Number(4)),
    ("vendor-class", 60, Form::Text),
    ("nis+-domain", 64, Form::Text),
    ("nis+-server", 65, Form::Addresses),
    ("tftp-server", 66, Form::Text),
    ("bootfile-name", 67, Form::Text),
    ("mobile-ip-home", 68, Form::Addresses),
    ("smtp-server", 69, Form::Addresses),
    ("pop3-server", 70, Form::Addresses),
    ("nntp-server", 71, Form::Addresses),
    ("irc-server", 74, Form::Addresses),
    ("user-class", 77, Form::Text),
    ("posix-timezone", 100, Form::Text),
    ("tzdb-timezone", 101, Form::Text),
    ("ipv6-only", 108, Form::Number(4)),
    ("domain-search", 119, Form::Names),
    ("sip-server", 120, Form::Sip),
    ("classless-static-route", 121, Form::Routes),
    ("tftp-server-address", 150, Form::Addresses),
    ("server-ip-address", 255, Form::Server),
];

/// The options of DHCPv6.
const V6: &[Known] = &[
    ("sip-server-domain", 21, Form::Names),
    ("sip-server", 22, Form::Addresses),
    ("dns-server", 23, Form::Addresses),
    ("domain-search", 24, Form::Names),
    ("nis-server", 27, Form::Addresses),
    ("nis+-server", 28, Form::Addresses),
    ("nis-domain", 29, Form::Names),
    ("nis+-domain", 30, Form::Names),
    ("sntp-server", 31, Form::Addresses),
    ("information-refresh-time", 32, Form::Number(4)),
    ("ntp-server", 56, Form::Ntp6),
    ("bootfile-url", 59, Form::Text),
    ("bootfile-param", 60, Form::Texts),
];

/// Codes that say what a message is, and whose: nobody else's to say.
fn is_reserved(version: u8, code: u16) -> bool {
    match version {
        4 => matches!(code, 0 | 50..=57 | 61 | 80 | 82 | 255..),
        _ => matches!(code, 0..=20 | 25 | 26),
    }
}

/// How an option is sent.
///
/// # Errors
/// What is wrong with its name or its value.
pub fn encode(version: u8, name: &str, value: &str) -> Result<Sent, String> {
    let table = if version == 4 { V4 } else { V6 };
    let named = table.iter().find(|(known, ..)| *known == name);
    let numbered = || {
        let code = name.parse::<u16>().ok()?;
        let known = table.iter().find(|(_, known, _)| *known == code);
        let form = known.map_or(Form::Looks, |(_, _, form)| *form);
        (!is_reserved(version, code)).then_some((code, form))
    };
    let known = named.map(|(_, code, form)| (*code, *form));
    let Some((code, form)) = known.or_else(numbered) else {
        return Err(format!("no option of DHCPv{version} is known as '{name}'"));
    };
    if value.trim().is_empty() && BLANK.contains(&name) {
        return Ok(Sent::Omit(code));
    }
    let wrong = || format!("'{value}' is no value of option '{name}'");
    let addresses = || value.split(',').map(|one| one.trim().parse::<IpAddr>());
    if matches!(form, Form::Addresses | Form::Server) {
        let all: Vec<IpAddr> = addresses().collect::<Result<_, _>>().or(Err(wrong()))?;
        // Clients of Neutron give a port of an IPv6 network the other family's options: kept, and sent to nobody.
        if all.iter().any(|addr| addr.is_ipv4() != (version == 4)) {
            return Ok(Sent::Nowhere);
        }
        if let (Form::Server, [IpAddr::V4(one)]) = (form, all.as_slice()) {
            return Ok(Sent::NextServer(*one));
        }
        if form == Form::Server {
            return Err(wrong());
        }
    }
    let data = content(form, value).ok_or_else(wrong)?;
    let most = if version == 4 { 255 } else { 1024 };
    if data.is_empty() || data.len() > most {
        return Err(wrong());
    }
    Ok(Sent::Option(code, data))
}

/// The bytes of a value; `None`: it is none of this form.
fn content(form: Form, value: &str) -> Option<Vec<u8>> {
    let parts = || value.split(',').map(str::trim);
    match form {
        Form::Addresses => joined(parts().map(address)),
        Form::Text => Some(value.as_bytes().to_vec()),
        Form::Flag => match value.trim() {
            "0" | "false" => Some(vec![0]),
            "1" | "true" => Some(vec![1]),
            _ => None,
        },
        Form::Number(bytes) => number(bytes, value.trim()),
        Form::Names => joined(parts().map(labels)),
        Form::Routes => routes(&parts().collect::<Vec<_>>()),
        Form::Sip => match joined(parts().map(address)) {
            Some(addresses) => Some([vec![1], addresses].concat()),
            None => Some([vec![0], joined(parts().map(labels))?].concat()),
        },
        Form::Ntp6 => joined(parts().map(|part| {
            let (code, data) = match address(part) {
                Some(address) => (1u16, address),
                None => (3, labels(part)?),
            };
            let length = u16::try_from(data.len()).ok()?;
            let head = [code.to_be_bytes(), length.to_be_bytes()].concat();
            Some([head, data].concat())
        })),
        Form::Texts => joined(parts().map(|part| {
            let length = u16::try_from(part.len()).ok()?;
            Some([&length.to_be_bytes()[..], part.as_bytes()].concat())
        })),
        Form::Server => None,
        Form::Looks => {
            let addresses = || joined(parts().map(address));
            let text = || Some(value.as_bytes().to_vec());
            addresses().or_else(|| bytes(value)).or_else(text)
        }
    }
}

fn joined(parts: impl Iterator<Item = Option<Vec<u8>>>) -> Option<Vec<u8>> {
    let parts: Option<Vec<_>> = parts.collect();
    Some(parts?.concat())
}

fn address(text: &str) -> Option<Vec<u8>> {
    match text.parse().ok()? {
        IpAddr::V4(addr) => Some(addr.octets().to_vec()),
        IpAddr::V6(addr) => Some(addr.octets().to_vec()),
    }
}

fn number(bytes: usize, text: &str) -> Option<Vec<u8>> {
    let value: i64 = text.parse().ok()?;
    let bits = u32::try_from(bytes * 8).ok()?;
    let fits = value >= -(1 << (bits - 1)) && value < 1 << bits;
    let whole = value.to_be_bytes();
    let tail = whole.get(whole.len().checked_sub(bytes)?..)?;
    fits.then(|| tail.to_vec())
}

/// Pairs of hexadecimal digits with colons, two at least: what has one may be a text.
fn bytes(text: &str) -> Option<Vec<u8>> {
    let pairs = text.split(':').map(|pair| {
        let is_pair = pair.len() == 2;
        u8::from_str_radix(pair, 16).ok().filter(|_| is_pair)
    });
    let all: Option<Vec<u8>> = pairs.collect();
    all.filter(|all| all.len() > 1)
}

/// A name in labels (RFC 1035 §3.1).
fn labels(name: &str) -> Option<Vec<u8>> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let mut labels = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok()?;
        (1..=63).contains(&length).then_some(())?;
        labels.push(length);
        labels.extend(label.as_bytes());
    }
    labels.push(0);
    (labels.len() <= 255).then_some(labels)
}

/// RFC 3442.
fn routes(parts: &[&str]) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    for pair in parts.chunks(2) {
        let [to, by] = pair else {
            return None;
        };
        let to: Prefix = to.parse().ok()?;
        let IpAddr::V4(addr) = to.addr() else {
            return None;
        };
        let by: Ipv4Addr = by.parse().ok()?;
        all.push(to.bits());
        let significant = usize::from(to.bits().div_ceil(8));
        all.extend(addr.octets().iter().take(significant));
        all.extend(by.octets());
    }
    Some(all)
}

/// The form of `extra_dhcp_opts` in a body.
pub(super) fn shape(value: &Value) -> Result<Value, String> {
    if value.is_null() {
        return Ok(Value::Array(Vec::new()));
    }
    let Some(items) = value.as_array() else {
        return Err(invalid(format_args!("'{value}' is not a list")));
    };
    if items.len() > OPTIONS {
        return Err(invalid(format_args!("more than {OPTIONS} options")));
    }
    let checked = items.iter().map(|item| {
        let known = item.as_object().and_then(option);
        known.ok_or_else(|| {
            let item = python(item);
            invalid(format_args!("No valid key specs matched for: {item}"))
        })
    });
    let checked: Vec<DhcpOption> = checked.collect::<Result<_, _>>()?;
    for option in &checked {
        if let Some(value) = &option.opt_value {
            encode(option.ip_version, &option.opt_name, value)
                .map_err(|why| invalid(format_args!("extra_dhcp_opts: {why}")))?;
        }
    }
    serde_json::to_value(checked).map_err(|error| error.to_string())
}

fn invalid(text: std::fmt::Arguments<'_>) -> String {
    format!("InvalidInput|Invalid input for operation: {text}.")
}

/// An option as a body has it; `None`: it is none.
fn option(keys: &Map<String, Value>) -> Option<DhcpOption> {
    let known = ["opt_name", "opt_value", "ip_version"];
    keys.keys()
        .all(|key| known.contains(&key.as_str()))
        .then_some(())?;
    let name = keys.get("opt_name")?.as_str()?;
    let value = match keys.get("opt_value")? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    let blank = BLANK.contains(&name);
    let fits = |text: &String| {
        let long = text.chars().count();
        long <= VALUE && (blank || !text.trim().is_empty()) && !text.chars().any(char::is_control)
    };
    let version = match keys.get("ip_version") {
        None => 4,
        Some(Value::String(text)) => text.parse().ok()?,
        Some(number) => u8::try_from(number.as_u64()?).ok()?,
    };
    let whole = !name.trim().is_empty()
        && name.chars().count() <= NAME
        && matches!(version, 4 | 6)
        && value.as_ref().is_none_or(fits);
    whole.then(|| DhcpOption {
        opt_name: name.to_owned(),
        opt_value: value,
        ip_version: version,
    })
}

/// As Neutron writes a value in its messages.
fn python(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => format!("'{text}'"),
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(python).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(keys) => {
            let pairs = keys
                .iter()
                .map(|(key, value)| format!("'{key}': {}", python(value)));
            let pairs: Vec<_> = pairs.collect();
            format!("{{{}}}", pairs.join(", "))
        }
    }
}

/// What a request wants of the options becomes what they are: one that has a value is set, one without is no more, what is not named
/// stays.
pub(super) fn options(
    _: &View,
    change: &Change<'_, Port>,
    _: &Caller,
) -> Result<Vec<Write>, Refusal> {
    let Some(after) = change.after else {
        return Ok(Vec::new());
    };
    let Some(wanted) = after.wanted_dhcp.as_ref().filter(|_| change.is_asked()) else {
        return Ok(Vec::new());
    };
    let mut port = after.clone();
    port.wanted_dhcp = None;
    port.extra_dhcp_opts = match change.before {
        Some(before) if change.verb != Verb::Create => before.extra_dhcp_opts.clone(),
        Some(_) | None => Vec::new(),
    };
    let all = &mut port.extra_dhcp_opts;
    for one in wanted {
        let same =
            |had: &DhcpOption| had.opt_name == one.opt_name && had.ip_version == one.ip_version;
        let known = all.iter().position(same);
        match (known, &one.opt_value) {
            (Some(at), None) => {
                all.remove(at);
            }
            (Some(at), Some(_)) => {
                if let Some(had) = all.get_mut(at) {
                    had.clone_from(one);
                }
            }
            (None, Some(_)) => all.push(one.clone()),
            (None, None) => {}
        }
    }
    if all.len() > OPTIONS {
        return Err(Refusal::input(format_args!(
            "extra_dhcp_opts: more than {OPTIONS} options"
        )));
    }
    Ok(vec![Write::amend(port)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn options_are_sent_in_their_forms() {
        let sent = |version, name, value| encode(version, name, value).unwrap();
        let option = |code, data: &[u8]| Sent::Option(code, data.to_vec());
        for (name, value, is) in [
            ("bootfile-name", "pxe.0", option(67, b"pxe.0")),
            ("67", "pxe.0", option(67, b"pxe.0")),
            (
                "ntp-server",
                "10.0.0.1, 10.0.0.2",
                option(42, &[10, 0, 0, 1, 10, 0, 0, 2]),
            ),
            ("mtu", "1400", option(26, &[5, 120])),
            ("time-offset", "-1", option(2, &[255; 4])),
            ("ip-forward-enable", "1", option(19, &[1])),
            ("domain-search", "a.b", option(119, &[1, b'a', 1, b'b', 0])),
            (
                "classless-static-route",
                "10.1.0.0/16,10.0.0.1,0.0.0.0/0,10.0.0.2",
                option(121, &[16, 10, 1, 10, 0, 0, 1, 0, 10, 0, 0, 2]),
            ),
            ("sip-server", "10.0.0.1", option(120, &[1, 10, 0, 0, 1])),
            ("252", "http://wpad/", option(252, b"http://wpad/")),
            ("252", "0a:ff", option(252, &[10, 255])),
            ("252", "10.0.0.1", option(252, &[10, 0, 0, 1])),
            (
                "server-ip-address",
                "10.0.0.9",
                Sent::NextServer([10, 0, 0, 9].into()),
            ),
            ("server-ip-address", "2015::badd", Sent::Nowhere),
            ("router", "", Sent::Omit(3)),
            ("classless-static-route", " ", Sent::Omit(121)),
        ] {
            assert_eq!(sent(4, name, value), is, "{name}");
        }
        let mut ntp = vec![0, 1, 0, 16];
        ntp.extend("fd00::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
        assert_eq!(sent(6, "ntp-server", "fd00::1"), option(56, &ntp));
        assert_eq!(
            sent(6, "bootfile-url", "tftp://x/"),
            option(59, b"tftp://x/")
        );
        assert_eq!(
            sent(6, "bootfile-param", "a,bc"),
            option(60, b"\0\x01a\0\x02bc")
        );
    }

    #[test]
    fn what_cannot_be_sent_is_refused() {
        for (version, name, value) in [
            (4, "no-such-option", "x"),
            (6, "bootfile-name", "x"),
            (4, "53", "1"),
            (4, "255", "1"),
            (4, "256", "1"),
            (6, "1", "x"),
            (4, "mtu", "65536"),
            (4, "mtu", "big"),
            (4, "ntp-server", "ntp.example.org"),
            (4, "server-ip-address", "10.0.0.1,10.0.0.2"),
            (4, "ip-forward-enable", "2"),
            (4, "classless-static-route", "10.0.0.0/8"),
            (4, "domain-search", "a..b"),
            (4, "tag:x,router", "10.0.0.1"),
        ] {
            assert!(encode(version, name, value).is_err(), "{name} {value}");
        }
        let long = "a".repeat(256);
        assert!(encode(4, "root-path", &long).is_err());
    }

    #[test]
    fn bodies_are_checked_in_neutrons_words() {
        let text = shape(&json!([{"opt_value": "x"}])).unwrap_err();
        let expected = "InvalidInput|Invalid input for operation: No valid key specs matched for: {'opt_value': 'x'}.";
        assert_eq!(text, expected);
        let named = |name: &str, value: Value| json!([{"opt_name": name, "opt_value": value}]);
        for bad in [
            json!({}),
            named("", json!("x")),
            named(" ", json!("x")),
            named("mtu", json!("")),
            named("mtu", json!(5)),
            named(&"x".repeat(65), json!("x")),
            named("root-path", json!("x".repeat(256))),
            named("root-path", json!("a\nb")),
            json!([{"opt_name": "mtu", "opt_value": "5", "ip_version": 5}]),
            json!([{"opt_name": "mtu", "opt_value": "5", "more": 1}]),
        ] {
            assert!(shape(&bad).is_err(), "{bad}");
        }
        let good = json!([{"opt_name": "mtu", "opt_value": null}, {"opt_name": "router", "opt_value": "", "ip_version": "4"}]);
        let shaped = shape(&good).unwrap();
        assert_eq!(shaped[1]["ip_version"], 4);
    }
}
