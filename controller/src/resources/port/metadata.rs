//! What does a workload hear of itself?
//!
//! The port's own attribute `overweave:metadata`: what its host's switch answers at 169.254.169.254 and `fe80::a9fe:a9fe` besides what it
//! knows. User data may hold secrets: no message quotes it, and nothing prints it.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hostconfig::metadata::UserData;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Port, SERVICE_OWNERS};

/// The most characters of user data in base64, Nova's limit.
const USER_DATA: usize = 65_535;
/// The most keys.
const KEYS: usize = 16;
/// The most characters of a key, and of the name of one.
const KEY: usize = 4096;
const KEY_NAME: usize = 255;
/// The most characters of an instance's id, and of a host name (RFC 1035 §2.3.4).
const INSTANCE_ID: usize = 255;
const HOSTNAME: usize = 253;

/// What a port's owner sets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// The instance's id, instead of the port's device or the port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<String>,
    /// The host name, instead of the port's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// SSH keys, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub public_keys: BTreeMap<String, String>,
    /// User data, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<UserData>,
}

impl Port {
    /// What its host is told for its workload; `None` where its own section says all.
    pub fn told(&self) -> Option<hostconfig::Metadata> {
        let owner = self.device_owner.as_str();
        let serves = owner.starts_with("network:") || SERVICE_OWNERS.contains(&owner);
        if self.place().is_none() || serves {
            return None;
        }
        if self.metadata.is_none() && self.device_id.is_empty() {
            return None;
        }
        let set = self.metadata.as_ref();
        Some(hostconfig::Metadata {
            port: self.meta.id.into(),
            device: self.device_id.clone(),
            project: self.meta.project_id.clone(),
            instance_id: set.and_then(|m| m.instance_id.clone()),
            hostname: set.and_then(|m| m.hostname.clone()),
            public_keys: set.map(|m| m.public_keys.clone()).unwrap_or_default(),
            user_data: set.and_then(|m| m.user_data.clone()),
        })
    }
}

/// Checks the attribute; what is `null` or empty in it is as if it were not there.
pub(super) fn shape(value: &Value) -> Result<Value, String> {
    let given = value
        .as_object()
        .ok_or("not an object with instance_id, hostname, public_keys, user_data")?;
    let mut kept = Map::new();
    for (key, value) in given {
        let checked = match key.as_str() {
            "instance_id" => text(value, key)?.map(instance_id).transpose()?,
            "hostname" => text(value, key)?.map(hostname).transpose()?,
            "public_keys" => public_keys(value)?,
            "user_data" => text(value, key)?.map(user_data).transpose()?,
            // What is quoted must not be what somebody put into the wrong place.
            _ => {
                return Err(
                    "an unknown key beside instance_id, hostname, public_keys, user_data".into(),
                );
            }
        };
        if let Some(checked) = checked {
            kept.insert(key.clone(), checked);
        }
    }
    Ok(if kept.is_empty() {
        Value::Null
    } else {
        Value::Object(kept)
    })
}

/// A text that says something.
fn text<'v>(value: &'v Value, key: &str) -> Result<Option<&'v str>, String> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            Err(format!("{key}: not text"))
        }
    }
}

fn instance_id(id: &str) -> Result<Value, String> {
    if id.len() > INSTANCE_ID || !id.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(format!(
            "instance_id: not 1 to {INSTANCE_ID} printable ASCII characters without spaces"
        ));
    }
    Ok(json!(id))
}

fn hostname(name: &str) -> Result<Value, String> {
    let label = |label: &str| {
        let inner = label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let ends = !label.starts_with('-') && !label.ends_with('-');
        (1..=63).contains(&label.len()) && inner && ends
    };
    if name.len() > HOSTNAME || !name.split('.').all(label) {
        return Err("hostname: not a host name (RFC 1123)".to_owned());
    }
    Ok(json!(name))
}

fn public_keys(value: &Value) -> Result<Option<Value>, String> {
    let keys = match value {
        Value::Null => return Ok(None),
        Value::Object(keys) => keys,
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            return Err("public_keys: not an object of keys by name".to_owned());
        }
    };
    if keys.len() > KEYS {
        return Err(format!("public_keys: more than {KEYS} keys"));
    }
    // One line each: whoever reads them writes them into a file of lines.
    let plain =
        |text: &str, most| (1..=most).contains(&text.len()) && !text.chars().any(char::is_control);
    for (name, key) in keys {
        let named = plain(name, KEY_NAME) && !name.contains(['=', '/', '|']);
        if !named {
            return Err(format!(
                "public_keys: the name of a key has 1 to {KEY_NAME} bytes on one line, and no '=' or '/'"
            ));
        }
        if !key.as_str().is_some_and(|key| plain(key, KEY)) {
            return Err(format!(
                "public_keys: the key {name} is not text of 1 to {KEY} bytes on one line"
            ));
        }
    }
    Ok((!keys.is_empty()).then(|| value.clone()))
}

fn user_data(text: &str) -> Result<Value, String> {
    // Tools break lines in base64.
    let text: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    if text.len() > USER_DATA {
        return Err(format!(
            "user_data: more than {USER_DATA} characters of base64"
        ));
    }
    match STANDARD.decode(&text) {
        Ok(_) => Ok(json!(text)),
        Err(_) => Err("user_data: not base64 (RFC 4648 section 4, with padding)".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_says_nothing_is_nothing_and_the_rest_is_kept() {
        for nothing in [
            json!({}),
            json!({"user_data": null, "hostname": "", "public_keys": {}}),
        ] {
            assert_eq!(shape(&nothing), Ok(Value::Null));
        }
        let all = json!({
            "instance_id": "i-00000001", "hostname": "web-1.example.org",
            "public_keys": {"me": "ssh-ed25519 AAAA me@home"}, "user_data": "I2Nsb3VkLWNvbmZpZwo=",
        });
        assert_eq!(shape(&all), Ok(all.clone()));
        let read: Metadata = serde_json::from_value(all.clone()).unwrap();
        assert_eq!(json!(read), all);
        let broken = json!({"user_data": "I2Nsb3Vk\nLWNvbmZp Zwo=\n"});
        assert_eq!(
            shape(&broken),
            Ok(json!({"user_data": "I2Nsb3VkLWNvbmZpZwo="}))
        );
    }

    #[test]
    fn sizes_and_forms_are_checked_at_both_bounds_and_no_message_quotes_a_secret() {
        let data = |n: usize| json!({"user_data": "AAAA".repeat(n)});
        assert!(shape(&data(USER_DATA / 4)).is_ok());
        let many = |n: usize| {
            let keys: Map<_, _> = (0..n)
                .map(|n| (n.to_string(), json!("ssh-rsa A")))
                .collect();
            json!({"public_keys": keys})
        };
        assert!(shape(&many(KEYS)).is_ok());
        for (bad, said) in [
            (json!("secret"), "not an object"),
            (data(USER_DATA / 4 + 1), "user_data: more than"),
            (json!({"user_data": "secret"}), "user_data: not base64"),
            (
                json!({"user_data": "c2VjcmV0c2VjcmV0c2Vjcg"}),
                "user_data: not base64",
            ),
            (json!({"user_data": 7}), "user_data: not text"),
            (json!({"secret": "secret"}), "an unknown key"),
            (json!({"hostname": "a b"}), "hostname: not a host name"),
            (json!({"hostname": "-a"}), "hostname: not a host name"),
            (json!({"hostname": "a..b"}), "hostname: not a host name"),
            (
                json!({"hostname": "a".repeat(64)}),
                "hostname: not a host name",
            ),
            (json!({"instance_id": "a b"}), "instance_id: not 1"),
            (
                json!({"instance_id": "a".repeat(256)}),
                "instance_id: not 1",
            ),
            (json!({"instance_id": "a\u{0}"}), "instance_id: not 1"),
            (
                json!({"public_keys": ["secret"]}),
                "public_keys: not an object",
            ),
            (
                json!({"public_keys": {"a/b": "secret"}}),
                "public_keys: the name",
            ),
            (
                json!({"public_keys": {"a": "secret\nsecret"}}),
                "public_keys: the key a",
            ),
            (json!({"public_keys": {"a": 1}}), "public_keys: the key a"),
            (many(KEYS + 1), "public_keys: more than"),
        ] {
            let refused = shape(&bad).unwrap_err();
            assert!(refused.starts_with(said), "{refused}");
            assert!(!refused.contains("secret"), "{refused}");
        }
    }

    #[test]
    fn a_host_name_fits_a_label_exactly() {
        assert!(shape(&json!({"hostname": "a".repeat(63)})).is_ok());
    }
}
