//! What do most entries begin with?
//!
//! Networks of both families, and workloads with addresses that the entry knows: what they send does not follow what the API says, or
//! nothing could differ.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use net::{Id, Mac, ids::kind};
use serde_json::{Value, json};

use super::{Region, id, with};

/// The MAC address of the first workload of a pair.
pub const MAC_A: &str = "02:00:00:00:00:0b";
/// Of the second.
pub const MAC_B: &str = "02:00:00:00:00:0c";
/// Of a workload whose port says next to nothing.
const MAC_P: &str = "02:00:00:00:00:70";
/// The group that every region has, which allows everything.
const OPEN: &str = "open";

/// A network with a subnet of each family.
#[derive(Debug, Clone)]
pub struct Net {
    /// Its id.
    pub id: String,
    /// Its number, in its prefixes.
    pub number: u8,
    /// Its subnet `10.0.N.0/24`.
    pub v4: String,
    /// Its subnet `fd00:N::/64`.
    pub v6: String,
}

/// A workload.
#[derive(Debug, Clone)]
pub struct Nic {
    /// Its port's id.
    pub id: String,
    /// The same.
    pub port: Id<kind::Port>,
    /// The host that it is on, by its place.
    pub host: usize,
    /// Its MAC address.
    pub mac: Mac,
    /// Its addresses.
    pub v4: Ipv4Addr,
    /// Its addresses.
    pub v6: Ipv6Addr,
}

impl Nic {
    /// Its address of a family.
    pub fn addr(&self, v6: bool) -> IpAddr {
        if v6 { self.v6.into() } else { self.v4.into() }
    }

    /// The router that its subnets name, of a family.
    pub fn gateway(&self, v6: bool) -> IpAddr {
        if v6 {
            let mut groups = self.v6.segments();
            groups[7] = 1;
            IpAddr::V6(groups.into())
        } else {
            let mut octets = self.v4.octets();
            octets[3] = 1;
            IpAddr::V4(octets.into())
        }
    }

    /// Does it reach the address without a router?
    pub fn near(&self, addr: IpAddr) -> bool {
        match addr {
            IpAddr::V4(addr) => addr.octets()[..3] == self.v4.octets()[..3],
            IpAddr::V6(addr) => addr.segments()[..4] == self.v6.segments()[..4],
        }
    }

    /// The same workload with another address.
    #[must_use]
    pub fn at(&self, addr: &str) -> Self {
        let mut other = self.clone();
        match addr.parse().unwrap() {
            IpAddr::V4(addr) => other.v4 = addr,
            IpAddr::V6(addr) => other.v6 = addr,
        }
        other
    }

    /// The same workload with another MAC address.
    #[must_use]
    pub fn called(&self, mac: &str) -> Self {
        let mac = mac.parse().unwrap();
        Self {
            mac,
            ..self.clone()
        }
    }
}

/// `02:00:00:00:NN:nn`
fn mac_of(number: u8, at: u8) -> String {
    format!("02:00:00:00:{number:02x}:{at:02x}")
}

impl Region {
    /// What all scenes share; it stays.
    pub(super) fn prepare(&mut self) {
        let group = self.make("security_group", &json!({"name": OPEN}));
        for family in ["IPv4", "IPv6"] {
            let rule = json!({"security_group_id": id(&group), "direction": "ingress", "ethertype": family});
            self.make("security_group_rule", &rule);
        }
        self.made.clear();
    }

    /// The id of the group that allows everything.
    pub fn open(&mut self) -> String {
        let found = self.read(super::ADMIN.0, &format!("security-groups?name={OPEN}"));
        id(&found["security_groups"][0]).to_owned()
    }

    /// A network of the admin's.
    pub fn net(&mut self, number: u8) -> Net {
        self.net_with(number, &json!({}))
    }

    /// A network of the admin's with these attributes besides.
    pub fn net_with(&mut self, number: u8, more: &Value) -> Net {
        let base = json!({"name": format!("net{number}")});
        let network = self.make("network", &with(&base, more));
        let [v4, v6] =
            [4, 6].map(|version| self.subnet_of(id(&network), number, version, &json!({})));
        Net {
            id: id(&network).to_owned(),
            number,
            v4,
            v6,
        }
    }

    /// A subnet of a network; its id.
    pub fn subnet_of(&mut self, network: &str, number: u8, version: u8, more: &Value) -> String {
        let cidr = match version {
            4 => format!("10.0.{number}.0/24"),
            _ => format!("fd00:{number:x}::/64"),
        };
        let gateway = match version {
            4 => format!("10.0.{number}.1"),
            _ => format!("fd00:{number:x}::1"),
        };
        let mut base = json!({"network_id": network, "ip_version": version, "cidr": cidr});
        if more.get("cidr").is_none() {
            base["gateway_ip"] = json!(gateway);
        }
        let made = self.make("subnet", &with(&base, more));
        id(&made).to_owned()
    }

    /// What a workload's port is made with: on host `h1` and on, at address .11 and on.
    pub fn nic_body(&mut self, net: &Net, host: usize, at: u8) -> Value {
        let open = self.open();
        let number = net.number;
        json!({
            "name": format!("{}", char::from(b'a' + at - 11)),
            "network_id": net.id,
            "mac_address": mac_of(number, at),
            "port_security_enabled": true,
            "security_groups": [open],
            "binding:host_id": format!("h{}", host + 1),
            "fixed_ips": [
                {"subnet_id": net.v4, "ip_address": format!("10.0.{number}.{at}")},
                {"subnet_id": net.v6, "ip_address": format!("fd00:{number:x}::{at:x}")},
            ],
        })
    }

    /// A workload that allows everything.
    pub fn nic(&mut self, net: &Net, host: usize, at: u8) -> Nic {
        self.nic_with(net, host, at, &json!({}))
    }

    /// A workload with these attributes of its port besides.
    pub fn nic_with(&mut self, net: &Net, host: usize, at: u8, more: &Value) -> Nic {
        let body = with(&self.nic_body(net, host, at), more);
        let made = self.make("port", &body);
        self.workload(&made, net, host, at)
    }

    /// The workload of a port that an entry made by itself, from [`Region::nic_body`].
    pub fn workload(&mut self, made: &Value, net: &Net, host: usize, at: u8) -> Nic {
        let id = id(made).to_owned();
        let port = id.parse().unwrap();
        let label = made["name"].as_str().unwrap().to_owned();
        self.labels.insert(port, label);
        let number = net.number;
        let nic = Nic {
            id,
            port,
            host,
            mac: mac_of(number, at).parse().unwrap(),
            v4: Ipv4Addr::new(10, 0, number, at),
            v6: Ipv6Addr::new(0xfd00, number.into(), 0, 0, 0, 0, 0, at.into()),
        };
        self.nics.insert(port, nic.clone());
        nic
    }

    /// A network with a workload on each of two hosts: `a` and `b`.
    pub fn pair(&mut self) -> (Net, Nic, Nic) {
        let net = self.net(0);
        let a = self.nic(&net, 0, 11);
        let b = self.nic(&net, 1, 12);
        (net, a, b)
    }

    /// Puts subnets and two workloads on a network for as long as something is looked at.
    pub fn populated<T>(
        &mut self,
        network: &Value,
        look: impl FnOnce(&mut Self, &Nic, &Nic) -> T,
    ) -> T {
        let [v4, v6] = [4, 6].map(|version| self.subnet_of(id(network), 0, version, &json!({})));
        let net = Net {
            id: id(network).to_owned(),
            number: 0,
            v4,
            v6,
        };
        let (a, b) = (self.nic(&net, 0, 11), self.nic(&net, 1, 12));
        let seen = look(self, &a, &b);
        self.remove("port", &a.id);
        self.remove("port", &b.id);
        self.remove("subnet", &net.v4);
        self.remove("subnet", &net.v6);
        seen
    }

    /// A workload with what a port gets that says nothing but where it is and on which host, `h1`.
    pub fn plain(&mut self, network: &str, more: &Value) -> Nic {
        let base = json!({"name": "plain", "network_id": network, "binding:host_id": "h1", "mac_address": MAC_P});
        let made = self.make("port", &with(&base, more));
        self.arrived_at(&made, "plain")
    }

    /// A workload on host `h1` with a port that a member makes.
    ///
    /// # Errors
    /// Why it can't have one.
    pub fn guest(&mut self, token: &str, body: &Value) -> Result<Nic, String> {
        let (status, answer) = self.call(token, "POST", "/v2.0/ports", &json!({"port": body}));
        if status != 201 {
            let why = &answer["NeutronError"]["type"];
            return Err(format!("no port: {status} {why}"));
        }
        let place = json!({"binding:host_id": "h1"});
        let made = self.set("port", id(&answer["port"]), &place);
        Ok(self.arrived_at(&made, "guest"))
    }

    /// A workload on host `h1` with the addresses of its port.
    fn arrived_at(&mut self, made: &Value, label: &str) -> Nic {
        let port = id(made).parse().unwrap();
        self.labels.insert(port, label.to_owned());
        let addrs = made["fixed_ips"].as_array().unwrap().iter();
        let addrs: Vec<IpAddr> = addrs
            .map(|fixed| fixed["ip_address"].as_str().unwrap().parse().unwrap())
            .collect();
        let v4 = addrs.iter().find_map(|addr| match addr {
            IpAddr::V4(addr) => Some(*addr),
            IpAddr::V6(_) => None,
        });
        let v6 = addrs.iter().find_map(|addr| match addr {
            IpAddr::V4(_) => None,
            IpAddr::V6(addr) => Some(*addr),
        });
        Nic {
            id: id(made).to_owned(),
            port,
            host: 0,
            mac: made["mac_address"].as_str().unwrap().parse().unwrap(),
            v4: v4.unwrap_or(Ipv4Addr::UNSPECIFIED),
            v6: v6.unwrap_or(Ipv6Addr::UNSPECIFIED),
        }
    }

    /// Looks at what a workload with a plain port sees, and takes it away.
    pub fn plainly<T>(&mut self, network: &str, look: impl FnOnce(&mut Self, &Nic) -> T) -> T {
        let nic = self.plain(network, &json!({}));
        let seen = look(self, &nic);
        self.remove("port", &nic.id);
        seen
    }

    /// A router between networks; its id.
    pub fn router(&mut self, nets: &[&Net]) -> String {
        let router = self.make("router", &json!({"name": "r"}));
        for net in nets {
            for subnet in [&net.v4, &net.v6] {
                self.join(id(&router), subnet);
            }
        }
        id(&router).to_owned()
    }

    /// Gives a router an interface on a subnet.
    pub fn join(&mut self, router: &str, subnet: &str) {
        let by = json!({"subnet_id": subnet});
        self.act("router", router, "add_router_interface", &by);
    }

    /// Takes it away.
    pub fn leave(&mut self, router: &str, subnet: &str) {
        let by = json!({"subnet_id": subnet});
        self.act("router", router, "remove_router_interface", &by);
    }

    /// An external network with a workload on it, outside of all routers.
    pub fn outside(&mut self, number: u8) -> (Net, Nic) {
        let net = self.net_with(number, &json!({"router:external": true}));
        let out = self.nic_with(&net, 1, 99, &json!({"name": "out"}));
        (net, out)
    }

    /// Gives a router a gateway on an external network.
    pub fn gate(&mut self, router: &str, net: &Net) {
        let info = json!({"external_gateway_info": {"network_id": net.id}});
        self.set("router", router, &info);
    }
}
