//! Who is behind which port?
//!
//! The sections of the config that runs, as they are: nothing is copied, and a change of user data is a pointer.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hostconfig::{HostConfig, Keyed, Metadata, Network, Port, Section, SectionKey};
use net::{Id, ids::kind};

/// What is known of the ports of this host.
#[derive(Debug, Default)]
pub(super) struct Directory {
    ports: HashMap<Id<kind::Port>, Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    port: Arc<Keyed>,
    network: Option<Arc<Keyed>>,
    metadata: Option<Arc<Keyed>>,
}

/// The instance behind a port.
#[derive(Debug, Clone)]
pub(super) struct Instance {
    entry: Entry,
}

impl Directory {
    pub(super) fn new(config: &HostConfig) -> Self {
        let section = |key| config.sections.get(&key).map(Arc::clone);
        let ports = config.sections.iter().filter_map(|(key, keyed)| {
            let (SectionKey::Port(id), Section::Port(port)) = (key, keyed.body()) else {
                return None;
            };
            let entry = Entry {
                port: Arc::clone(keyed),
                network: section(SectionKey::Network(port.network)),
                metadata: section(SectionKey::Metadata(*id)),
            };
            Some((*id, entry))
        });
        Self {
            ports: ports.collect(),
        }
    }

    /// Is there such a port?
    pub(super) fn has(&self, port: Id<kind::Port>) -> bool {
        self.ports.contains_key(&port)
    }

    pub(super) fn instance(&self, port: Id<kind::Port>) -> Option<Instance> {
        let entry = self.ports.get(&port)?.clone();
        matches!(entry.port.body(), Section::Port(_)).then_some(Instance { entry })
    }
}

impl Instance {
    pub(super) fn port(&self) -> Option<&Port> {
        if let Section::Port(port) = self.entry.port.body() {
            Some(port)
        } else {
            None
        }
    }

    pub(super) fn network(&self) -> Option<&Network> {
        if let Section::Network(network) = self.entry.network.as_ref()?.body() {
            Some(network)
        } else {
            None
        }
    }

    fn told(&self) -> Option<&Metadata> {
        if let Section::Metadata(metadata) = self.entry.metadata.as_ref()?.body() {
            Some(metadata)
        } else {
            None
        }
    }

    /// What Nova knows it by, and its project; `None` where it is not Nova's, or its owner said what it is to hear.
    pub(super) fn novas(&self) -> Option<(&str, &str)> {
        let told = self.told()?;
        let own = told.instance_id.is_some()
            || told.hostname.is_some()
            || told.user_data.is_some()
            || !told.public_keys.is_empty();
        (!own && !told.device.is_empty()).then_some((&told.device, &told.project))
    }

    pub(super) fn id(&self) -> String {
        let told = self.told();
        let device = || {
            let device = &told?.device;
            (!device.is_empty()).then(|| device.clone())
        };
        let set = told.and_then(|t| t.instance_id.clone());
        set.or_else(device)
            .or_else(|| Some(self.port()?.id.to_string()))
            .unwrap_or_default()
    }

    pub(super) fn name(&self) -> &str {
        self.port().map_or("", |port| &port.name)
    }

    pub(super) fn project(&self) -> String {
        let told = self.told().map(|told| told.project.as_str());
        match told.filter(|project| !project.is_empty()) {
            Some(project) => project.to_owned(),
            None => self
                .port()
                .map(|port| port.project.uuid().simple().to_string())
                .unwrap_or_default(),
        }
    }

    /// What is set; else the port's name among names, its name for people as a label (RFC 1123 §2.1), or one made of its address.
    pub(super) fn hostname(&self) -> String {
        if let Some(set) = self.told().and_then(|told| told.hostname.as_ref()) {
            return set.clone();
        }
        let named = self.port().and_then(|port| port.dns_name.as_ref());
        if let Some(named) = named {
            return named.trim_end_matches('.').to_owned();
        }
        let label = label(self.name());
        if !label.is_empty() {
            return label;
        }
        let made = self.addresses().next().map(|addr| {
            let text = addr.to_string().replace(['.', ':'], "-");
            format!("host-{}", text.trim_matches('-'))
        });
        made.unwrap_or_else(|| "host".to_owned())
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = (&str, &str)> {
        let keys = self.told().map(|told| &told.public_keys);
        let keys = keys.into_iter().flat_map(BTreeMap::iter);
        keys.map(|(name, key)| (name.as_str(), key.as_str()))
    }

    pub(super) fn user_data(&self) -> Option<Vec<u8>> {
        let set = self.told()?.user_data.as_ref()?;
        STANDARD.decode(set.base64()).ok()
    }

    pub(super) fn has_user_data(&self) -> bool {
        self.told().is_some_and(|told| told.user_data.is_some())
    }

    /// Its addresses, those of IPv4 first.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let all = || self.port().into_iter().flat_map(|port| &port.fixed_ips);
        let v4 = all().map(|ip| ip.addr).filter(IpAddr::is_ipv4);
        v4.chain(all().map(|ip| ip.addr).filter(IpAddr::is_ipv6))
    }
}

/// A name as people give it, as a host name's label.
fn label(name: &str) -> String {
    let kept = name.chars().filter_map(|c| match c {
        ' ' | '_' | '.' => Some('-'),
        c if c.is_ascii_alphanumeric() || c == '-' => Some(c.to_ascii_lowercase()),
        _ => None,
    });
    let kept: String = kept.take(63).collect();
    kept.trim_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_name_for_people_becomes_a_label() {
        for (name, label) in [
            ("web-1", "web-1"),
            ("Web Server_1", "web-server-1"),
            ("-a.b-", "a-b"),
            ("größe", "gre"),
            ("", ""),
            ("!!", ""),
        ] {
            assert_eq!(super::label(name), label);
        }
        assert_eq!(super::label(&"a".repeat(80)).len(), 63);
    }
}
