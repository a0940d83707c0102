//! What of a plan is outside of the fabric?
//!
//! An external network is a network of the plan like any other; routers get gateways on it, and workloads floating IPs. Who of them is where is said
//! here, as the controller would choose it.

use std::collections::BTreeSet;

use hostconfig::{
    Endpoint, FloatingIp, Location, Section,
    floating_ip::Workload,
    nat::Forward,
    router::{Gateway, InterfaceAddr},
};
use net::{Id, UnicastMac, ids::kind, testkit};

use super::{NetId, Plan, PortUuid, RouterUuid, vtep};

/// The id of a floating IP.
pub type FloatingUuid = Id<kind::FloatingIp>;

/// Whose a floating IP is.
#[derive(Debug, Clone)]
pub enum Serves {
    /// All of it is this workload's.
    Workload(PortUuid),
    /// Its ports are forwarded.
    Forwards(Vec<Forward>),
}

impl Plan {
    /// Gives a router a gateway by the n-th addresses of a network; no host has it yet.
    pub fn gateway(&mut self, router: RouterUuid, network: NetId, n: u16, nexthop: PortUuid) {
        let port = self.uuid().into();
        let subnets = &self.networks[&network].subnets;
        let addrs = [false, true].map(|v6| InterfaceAddr {
            addr: self.host(network, n, v6),
            subnet: subnets[usize::from(v6)].cidr,
        });
        let gateway = Gateway {
            port,
            network,
            mac: UnicastMac::try_from(testkit::mac(0xa000 + n)).unwrap(),
            addrs: addrs.to_vec(),
            nexthops: [false, true].map(|v6| self.addr(nexthop, v6)).to_vec(),
            snat: true,
            at: None,
            movable: true,
            qos: None,
        };
        self.router_mut(router).gateway = Some(gateway);
    }

    /// A router's gateway, to change it.
    pub fn gateway_mut(&mut self, router: RouterUuid) -> &mut Gateway {
        let gateway = self.router_mut(router).gateway.as_mut();
        gateway.expect("a router with a gateway")
    }

    /// A floating IP by the n-th address of its router's external network: at this host, or nobody's.
    pub fn floating_ip(
        &mut self,
        (router, n): (RouterUuid, u16),
        serves: Serves,
        at: Option<usize>,
    ) -> FloatingUuid {
        let (id, port) = (self.uuid().into(), self.uuid().into());
        let of = &self.routers[&router];
        let network = of
            .gateway
            .as_ref()
            .expect("a router with a gateway")
            .network;
        let (to, forwards) = match serves {
            Serves::Workload(port) => {
                let addr = self.addr(port, false);
                (Some(Workload { port, addr }), vec![])
            }
            Serves::Forwards(forwards) => (None, forwards),
        };
        let floating = FloatingIp {
            id,
            project: of.project,
            port,
            network,
            addr: self.host(network, n, false),
            mac: UnicastMac::try_from(testkit::mac(0xb000 + n)).unwrap(),
            router,
            to,
            forwards,
            at: at.map(vtep),
            movable: true,
            qos: None,
        };
        self.floating.insert(id, floating);
        id
    }

    /// A floating IP, to change it.
    pub fn floating_mut(&mut self, id: FloatingUuid) -> &mut FloatingIp {
        self.floating
            .get_mut(&id)
            .expect("a floating ip of this plan")
    }

    /// Takes a floating IP away.
    pub fn remove_floating(&mut self, id: FloatingUuid) {
        self.floating.remove(&id);
    }

    /// All floating IPs.
    pub fn floating_ips(&self) -> impl Iterator<Item = &FloatingIp> {
        self.floating.values()
    }

    /// The external networks that a host answers on, and the inner networks of their routers.
    pub(super) fn outside_of(&self, host: usize) -> (BTreeSet<NetId>, BTreeSet<NetId>) {
        let here = Some(vtep(host));
        let (mut outside, mut inside) = (BTreeSet::new(), BTreeSet::new());
        let shown = self.floating.values().filter(|f| f.at == here);
        let shown: BTreeSet<_> = shown.map(|f| f.router).collect();
        for router in self.routers.values() {
            let Some(gateway) = &router.gateway else {
                continue;
            };
            if gateway.at == here || shown.contains(&router.id) {
                outside.insert(gateway.network);
                inside.extend(router.interfaces.iter().map(|i| i.network));
            }
        }
        (outside, inside)
    }

    /// What a host is told of gateways and floating IPs on these networks, and of those of these routers.
    pub(super) fn answered(
        &self,
        host: usize,
        networks: &BTreeSet<NetId>,
        routers: &BTreeSet<RouterUuid>,
    ) -> Vec<Section> {
        let mut all = vec![];
        let here = Some(vtep(host));
        let mut there = |id, network, mac, addrs, at| {
            if let Some(at) = at
                && networks.contains(&network)
                && here != Some(at)
            {
                all.push(Section::Endpoint(Endpoint {
                    id,
                    network,
                    project: None,
                    mac,
                    addrs,
                    dns_name: None,
                    at: Location::Vtep(at),
                }));
            }
        };
        for gateway in self.routers.values().filter_map(|r| r.gateway.as_ref()) {
            let addrs = gateway.addrs.iter().map(|a| a.addr).collect();
            there(
                gateway.port,
                gateway.network,
                gateway.mac,
                addrs,
                gateway.at,
            );
        }
        for f in self.floating.values() {
            there(f.port, f.network, f.mac, vec![f.addr], f.at);
        }
        let known = self
            .floating
            .values()
            .filter(|f| routers.contains(&f.router));
        all.extend(known.cloned().map(Section::FloatingIp));
        all
    }
}
