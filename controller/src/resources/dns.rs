//! Which names do ports have?
//!
//! A port's `dns_name` is in its own `dns_domain`, else in its network's, else in the controller's. One that ends with a dot is whole. A port
//! without one has but the names of its addresses, `host-10-0-0-5`. A floating IP's name is in its own domain, and known on its project's
//! networks of that domain.
//!
//! # References
//! RFC 1034 §3.1; RFC 1123 §2.1.

use crate::{
    refusal::Refusal,
    resource::Objects,
    resources::{FloatingIp, Network, Port, floating_ip},
    rules::{Caller, Change, Facts, Write},
    store::View,
};
use serde_json::{Value, json};
use std::net::IpAddr;

/// The domain of networks that have none, unless the operator says another (Neutron's).
pub const DEFAULT_DOMAIN: &str = "openstacklocal.";
/// The longest name.
const NAME: usize = 255;
/// The most name servers of the operator's: no client asks more of them in turn.
pub const RESOLVERS: usize = 8;

/// A name server of the operator's: an address that a router leads to.
///
/// # Errors
/// When it is none.
pub fn resolver(text: &str) -> Result<IpAddr, String> {
    let addr: IpAddr = text
        .parse()
        .map_err(|_wrong: std::net::AddrParseError| format!("not an address: {text}"))?;
    let reached = match addr {
        IpAddr::V4(addr) => !(addr.is_link_local() || addr.is_broadcast()),
        IpAddr::V6(addr) => !addr.is_unicast_link_local(),
    };
    if !reached || addr.is_unspecified() || addr.is_loopback() || addr.is_multicast() {
        return Err(format!("no router leads to such an address: {text}"));
    }
    Ok(addr)
}

/// What is wrong with the labels of a name, in Neutron's words.
fn check(name: &str) -> Result<(), String> {
    let wrong = |reason: String| {
        Err(format!(
            "'{name}' not a valid PQDN or FQDN. Reason: {reason}"
        ))
    };
    let bare = name.strip_suffix('.').unwrap_or(name);
    if bare.len() > NAME {
        return wrong(format!("'{bare}' exceeds the {NAME} character FQDN limit"));
    }
    let labels: Vec<&str> = bare.split('.').collect();
    for label in &labels {
        if label.is_empty() {
            return wrong("Encountered an empty component".to_owned());
        }
        if label.starts_with('-') || label.ends_with('-') {
            return wrong(format!(
                "Name '{label}' must not start or end with a hyphen"
            ));
        }
        let hyphenated = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if label.len() > 63 || !label.chars().all(hyphenated) {
            return wrong(format!(
                "Name '{label}' must be 1-63 characters long, each of which can only be alphanumeric or a hyphen"
            ));
        }
    }
    match labels.as_slice() {
        [_, .., top] if top.chars().all(|c| c.is_ascii_digit()) => {
            wrong(format!("TLD '{top}' must not be all numeric"))
        }
        _ => Ok(()),
    }
}

/// The form of a `dns_name` in a body.
pub(super) fn name_shape(value: &Value) -> Result<Value, String> {
    let text = text(value)?;
    if !text.is_empty() {
        check(&text)?;
    }
    Ok(json!(text))
}

/// The form of a floating IP's `dns_name`: it is within its domain.
pub(super) fn floating_name_shape(value: &Value) -> Result<Value, String> {
    let text = text(value)?;
    if text.ends_with('.') {
        return Err(format!(
            "'{text}' is a FQDN. It should be a relative domain name"
        ));
    }
    if !text.is_empty() {
        check(&text)?;
    }
    Ok(json!(text))
}

/// The form of a `dns_domain` in a body.
pub(super) fn domain_shape(value: &Value) -> Result<Value, String> {
    let text = text(value)?;
    check_domain(&text)?;
    Ok(json!(text))
}

/// Names are the same in small letters and in large ones.
fn text(value: &Value) -> Result<String, String> {
    let text = value.as_str();
    let text = text.ok_or_else(|| format!("'{value}' is not a valid string"))?;
    Ok(text.to_ascii_lowercase())
}

/// What is wrong with a domain.
///
/// # Errors
/// In Neutron's words.
pub fn check_domain(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Ok(());
    }
    if !text.ends_with('.') {
        return Err(format!("'{text}' is not a FQDN"));
    }
    check(text)?;
    if text.len() > NAME - 2 {
        return Err(format!(
            "'{text}' contains {} characters. Adding a sub-domain will cause it to exceed the maximum length of a FQDN of '{NAME}'",
            text.len()
        ));
    }
    Ok(())
}

/// The domain of a network's names, with its dot; empty: they have none.
pub fn domain_of<'a>(network: &'a Network, facts: &'a Facts) -> &'a str {
    if network.dns_domain.is_empty() {
        &facts.dns_domain
    } else {
        &network.dns_domain
    }
}

/// A name in a domain, whole.
fn within(name: &str, domain: &str) -> String {
    if name.ends_with('.') || domain.is_empty() {
        name.to_owned()
    } else {
        format!("{name}.{domain}")
    }
}

/// A port's name as hosts are told it: in its network's domain, unless it ends with a dot. `None`: it has none.
pub fn told(port: &Port) -> Option<String> {
    let name = Some(port.dns_name.as_str()).filter(|name| !name.is_empty())?;
    Some(within(name, &port.dns_domain))
}

/// The domain of a floating IP's name, and its name with it, both without a dot at the end. `None`: it has none.
pub fn floating(floating: &FloatingIp) -> Option<(String, String)> {
    let domain = floating.dns_domain.strip_suffix('.')?;
    let name = Some(floating.dns_name.as_str()).filter(|name| !name.is_empty())?;
    Some((domain.to_owned(), within(name, domain)))
}

/// A floating IP has a name and a domain, or neither.
pub(super) fn floating_named(
    _: &View,
    change: &Change<'_, FloatingIp>,
    _: &Caller,
) -> Result<Vec<Write>, Refusal> {
    let Some(after) = change.made() else {
        return Ok(Vec::new());
    };
    let without = |is: &str, other: &str| {
        floating_ip::bad(format_args!("{is} cannot be specified without a {other}"))
    };
    let (name, domain) = (&after.dns_name, &after.dns_domain);
    match (name.is_empty(), domain.is_empty()) {
        (true, false) => Err(without("dns_domain", "dns_name")),
        (false, true) => Err(without("dns_name", "dns_domain")),
        (false, false) if within(name, domain).len() > NAME => Err(too_long(name, domain)),
        (true, true) | (false, false) => Ok(Vec::new()),
    }
}

fn too_long(name: &str, domain: &str) -> Refusal {
    let length = within(name, domain).len();
    Refusal::attribute(
        "dns_name",
        format_args!(
            "'{name}' in the domain '{domain}' has {length} characters, {NAME} at most are allowed"
        ),
    )
}

/// The name that an address has without a port's saying so.
pub fn generated(addr: IpAddr) -> String {
    format!("host-{}", addr.to_string().replace(['.', ':'], "-"))
}

/// `dns_assignment`: what each address of a port is called.
pub fn assignment(port: &Port, network: Option<&Network>, facts: &Facts) -> Value {
    let domain = network.map_or(facts.dns_domain.as_str(), |n| domain_of(n, facts));
    let domain = Some(port.dns_domain.as_str())
        .filter(|own| !own.is_empty() && !port.dns_name.is_empty())
        .unwrap_or(domain);
    let all = port.fixed_ips.iter().map(|fixed| {
        let hostname = if port.dns_name.is_empty() {
            generated(fixed.ip_address)
        } else {
            port.dns_name.clone()
        };
        json!({
            "ip_address": fixed.ip_address,
            "fqdn": within(&hostname, domain),
            "hostname": hostname,
        })
    });
    all.collect()
}

/// A whole name is in the domain that it would have anyway, and no name is too long.
pub(super) fn named(
    view: &View,
    change: &Change<'_, Port>,
    _: &Caller,
) -> Result<Vec<Write>, Refusal> {
    let Some(after) = change.after.filter(|_| change.is_asked()) else {
        return Ok(Vec::new());
    };
    let same = |before: &Port| {
        (&before.dns_name, &before.dns_domain) == (&after.dns_name, &after.dns_domain)
    };
    if after.dns_name.is_empty() || change.before.is_some_and(same) {
        return Ok(Vec::new());
    }
    let network = view.object::<Network>(after.network_id);
    let facts = &change.moment.facts;
    let domain = match (&network, after.dns_domain.as_str()) {
        (Some(network), "") => domain_of(network, facts),
        (None, "") => &facts.dns_domain,
        (_, own) => own,
    };
    let name = &after.dns_name;
    let inside = name
        .strip_suffix(domain)
        .and_then(|rest| rest.strip_suffix('.'));
    if name.ends_with('.') && !domain.is_empty() && inside.is_none_or(str::is_empty) {
        return Err(Refusal::attribute(
            "dns_name",
            format_args!(
                "The dns_name passed is a FQDN. Its higher level labels must be equal to the dns_domain '{domain}'. It must also include one or more valid DNS labels to the left of '{domain}'"
            ),
        ));
    }
    if within(name, domain).len() > NAME {
        return Err(too_long(name, domain));
    }
    Ok(Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_domains_are_checked_in_neutrons_words() {
        let name = |text: &str| name_shape(&json!(text));
        assert_eq!(name("MyHost").unwrap(), json!("myhost"));
        for good in ["", "a", "a.b", "a.b.", "1", "a1-b", "x.1a"] {
            assert!(name(good).is_ok(), "{good}");
        }
        assert_eq!(
            name("bad_name!").unwrap_err(),
            "'bad_name!' not a valid PQDN or FQDN. Reason: Name 'bad_name!' must be 1-63 characters long, each of which can only be alphanumeric or a hyphen"
        );
        let long = "a".repeat(64);
        for bad in [
            "-a", "a-", "a..b", ".", "a.1", "a\n", "\u{e9}", &long, "a.b.7.",
        ] {
            assert!(name(bad).is_err(), "{bad}");
        }
        for (text, good) in [
            ("www", true),
            ("a.b", true),
            ("", true),
            ("a.b.", false),
            ("-a", false),
        ] {
            assert_eq!(floating_name_shape(&json!(text)).is_ok(), good, "{text}");
        }
        assert!(name_shape(&json!(5)).is_err() && name_shape(&Value::Null).is_err());
        let domain = |text: &str| domain_shape(&json!(text));
        assert_eq!(domain("Example.org.").unwrap(), json!("example.org."));
        assert_eq!(
            domain("example org").unwrap_err(),
            "'example org' is not a FQDN"
        );
        assert!(domain("").is_ok() && domain("exa mple.").is_err());
        assert!(domain(&format!("{}.", "abc.".repeat(63) + "ab")).is_err());
    }

    #[test]
    fn addresses_have_names_of_both_families() {
        assert_eq!(generated("10.0.0.5".parse().unwrap()), "host-10-0-0-5");
        assert_eq!(generated("fd00::5".parse().unwrap()), "host-fd00--5");
    }
}
