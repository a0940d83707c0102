//! Which forms may a port's addresses and pairs have in a body?

use super::bare_host;
use net::{Mac, UnicastMac};
use serde_json::Value;
use std::{collections::HashSet, net::IpAddr};
use uuid::Uuid;

/// How many addresses a port may have.
const ADDRESSES: usize = 64;
/// How many allowed address pairs (Neutron's default).
const PAIRS: usize = 10;

pub(in crate::resources) fn fixed_ips_shape(value: &Value) -> Result<Value, String> {
    let Some(items) = value.as_array() else {
        return Err(format!("Invalid data format for fixed IP: '{value}'"));
    };
    let mut seen = HashSet::new();
    for item in items {
        let keys = item.as_object().filter(|keys| !keys.is_empty());
        let keys = keys.ok_or_else(|| format!("Invalid data format for fixed IP: '{item}'"))?;
        for (key, value) in keys {
            let text = value.as_str().unwrap_or_default();
            match key.as_str() {
                "ip_address" => {
                    let address: IpAddr = text
                        .parse()
                        .ok()
                        .ok_or_else(|| format!("'{text}' is not a valid IP address"))?;
                    if !seen.insert(address) {
                        return Err(format!("Duplicate IP address '{text}'"));
                    }
                }
                "subnet_id" => {
                    let id = text.parse::<Uuid>().ok();
                    id.ok_or_else(|| format!("'{text}' is not a valid UUID"))?;
                }
                _ => return Err(format!("Invalid data format for fixed IP: '{item}'")),
            }
        }
    }
    if items.len() > ADDRESSES {
        return Err(format!("more than {ADDRESSES} addresses"));
    }
    Ok(value.clone())
}

pub(super) fn pairs_shape(value: &Value) -> Result<Value, String> {
    // Words of their own for what is wrong: `name|text`, told apart in api/body.rs.
    let Some(items) = value.as_array() else {
        return Err("HTTPBadRequest|Allowed address pairs must be a list.".to_owned());
    };
    if items.len() > PAIRS {
        return Err(format!(
            "AllowedAddressPairExhausted|The number of allowed address pair exceeds the maximum {PAIRS}."
        ));
    }
    let mut seen = HashSet::new();
    for item in items {
        let Some(text) = item.get("ip_address") else {
            return Err(
                "AllowedAddressPairsMissingIP|AllowedAddressPair must contain ip_address"
                    .to_owned(),
            );
        };
        let text = text.as_str().unwrap_or_default();
        let Some(prefix) = bare_host::parse(text) else {
            return Err(format!("HTTPBadRequest|'{text}' is not a valid IP address"));
        };
        if prefix.addr().is_multicast() {
            return Err(format!(
                "HTTPBadRequest|IP {text} is a multicast address, which is not supported."
            ));
        }
        let mac = item.get("mac_address").filter(|mac| !mac.is_null());
        let mac = match mac {
            Some(mac) => {
                let text = mac.as_str().unwrap_or_default();
                let mac = text
                    .parse::<Mac>()
                    .ok()
                    .filter(|mac| UnicastMac::try_from(*mac).is_ok());
                Some(mac.ok_or_else(|| {
                    format!("HTTPBadRequest|'{text}' is not a valid MAC address.")
                })?)
            }
            None => None,
        };
        if item.as_object().is_some_and(|keys| {
            keys.keys()
                .any(|key| key != "ip_address" && key != "mac_address")
        }) {
            return Err(format!(
                "HTTPBadRequest|Unrecognized attribute(s) in '{item}'"
            ));
        }
        if !seen.insert((mac, prefix)) {
            let mac = mac.map_or_else(|| "None".to_owned(), |mac| mac.to_string());
            return Err(format!(
                "DuplicateAddressPairInRequest|Request contains duplicate address pair: mac_address {mac} ip_address {text}."
            ));
        }
    }
    Ok(value.clone())
}

pub(super) fn profile_shape(value: &Value) -> Result<Value, String> {
    let text = value.to_string();
    if !value.is_object() || text.len() > 4095 {
        return Err(format!(
            "'{text}' is not a dictionary of at most 4095 characters"
        ));
    }
    Ok(value.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::port::AddressPair;
    use net::Prefix;
    use serde_json::json;

    #[test]
    fn an_address_pair_of_one_address_is_written_bare() {
        let text = r#"{"ip_address":"10.0.0.9","mac_address":null}"#;
        let pair: AddressPair = serde_json::from_str(text).unwrap();
        assert_eq!(pair.ip_address, Prefix::host("10.0.0.9".parse().unwrap()));
        assert_eq!(serde_json::to_string(&pair).unwrap(), text);
        let wide: AddressPair = serde_json::from_str(r#"{"ip_address":"10.0.0.0/8"}"#).unwrap();
        assert_eq!(json!(wide)["ip_address"], "10.0.0.0/8");
    }

    #[test]
    fn fixed_ips_are_checked_in_all_their_forms() {
        let id = Uuid::new_v4();
        for good in [
            json!([]),
            json!([{"subnet_id": id}]),
            json!([{"ip_address": "10.0.0.1"}]),
            json!([{"subnet_id": id, "ip_address": "fd00::1"}]),
        ] {
            assert!(fixed_ips_shape(&good).is_ok(), "{good}");
        }
        for bad in [
            json!("10.0.0.1"),
            json!([{}]),
            json!([{"ip_address": "10.0.0.500"}]),
            json!([{"subnet_id": "x"}]),
            json!([{"ip_address": "10.0.0.1"}, {"ip_address": "10.0.0.1"}]),
            json!([{"ip_address": "10.0.0.1", "more": 1}]),
        ] {
            assert!(fixed_ips_shape(&bad).is_err(), "{bad}");
        }
    }
}
