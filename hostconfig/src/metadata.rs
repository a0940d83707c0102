//! What does a workload hear of itself?
//!
//! A section of its own beside the port's: when user data changes, no flow is judged again, and nobody but the port's host hears of it.
//! Where nothing is set there is no section; the switch says what the port's own tells.

use std::{collections::BTreeMap, fmt};

use net::{Id, ids::kind};
use serde::{Deserialize, Serialize};

/// What the metadata service says to the workload behind a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// The port.
    pub port: Id<kind::Port>,
    /// What the port belongs to, as Nova knows it; empty: nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub device: String,
    /// Its project, as Keystone spells it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub project: String,
    /// The instance's id; `None`: the device, or else the port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<String>,
    /// Its host name; `None`: by the port's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Its SSH keys, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub public_keys: BTreeMap<String, String>,
    /// What it is to run or read at its first start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<UserData>,
}

/// User data in base64 (RFC 4648 §4). It may hold secrets: it is never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UserData(String);

impl UserData {
    /// From its base64 text.
    pub fn new(base64: String) -> Self {
        Self(base64)
    }

    /// Its base64 text.
    pub fn base64(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for UserData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserData({} characters)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Keyed, Section, SectionKey};

    #[test]
    fn a_section_of_it_round_trips_and_does_not_print_what_may_be_secret() {
        let metadata = Metadata {
            port: uuid::Uuid::from_u128(7).into(),
            device: "vm-7".to_owned(),
            project: "p-1".to_owned(),
            instance_id: None,
            hostname: Some("web".to_owned()),
            public_keys: [("me".to_owned(), "ssh-ed25519 AAAA me".to_owned())].into(),
            user_data: Some(UserData::new("c2VjcmV0".to_owned())),
        };
        assert!(!format!("{metadata:?}").contains("c2VjcmV0"));
        let keyed = Keyed::new(Section::Metadata(metadata.clone())).unwrap();
        assert_eq!(keyed.key(), SectionKey::Metadata(metadata.port));
        let read = Keyed::decode(keyed.key(), keyed.bytes().to_vec(), keyed.hash()).unwrap();
        assert_eq!(*read.body(), Section::Metadata(metadata));
    }
}
