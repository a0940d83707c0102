//! What is proved, and what is not?
//!
//! Status is derived anew from what hosts hold and say, never carried along: a port is realised when
//! its host is here, has acknowledged the port's present section and says that the port forwards. A
//! network is realised when every host that needs it holds it, its virtual addresses and its routers. A gateway and a floating IP are
//! when the host that answers for them holds them.
//!
//! # Absence
//! A stream that breaks proves nothing: for [`GRACE`] the last that was proved stands, then it falls.
//! Until a host has spoken again for the first time after a start of the controller, its ports are not
//! realised and neither are its networks; a host that is away holds no network up.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use hostconfig::SectionKey;
use net::{Id, Now, ids::kind};
use uuid::Uuid;

use super::{
    publish::{Live, Reading},
    session::{Metered, Review, Session},
};
use crate::{
    compile::{Compiler, Touched, intent::HostName},
    status::{Served, StatusBoard, Sum},
    time::Seconds,
};

/// How long a host may be gone before what it proved no longer stands: SEMANTICS' bound for a verdict.
const GRACE: Duration = Duration::from_secs(10);
/// What VXLAN puts around an inner IP packet, without the outer IP header: UDP, VXLAN, Ethernet.
const ENCAP_BYTES: u32 = 8 + 8 + 14;

type Sessions = BTreeMap<HostName, Live>;

/// Where a host stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    /// It has not spoken since the start, or since it was away.
    Fresh(Now),
    /// It is connected and has proved what it holds.
    Settled,
    /// It was settled; its stream broke, or began anew.
    Lost(Now),
    /// It is gone.
    Away,
}

#[derive(Debug)]
struct HostStatus {
    id: Uuid,
    presence: Presence,
    seen: Seconds,
    vtep_refused: Option<String>,
}

/// The writer of the board.
#[derive(Debug)]
pub(super) struct Status {
    board: Arc<StatusBoard>,
    hosts: BTreeMap<HostName, HostStatus>,
    /// What the board says of ports and networks, so that only differences are written.
    ports: BTreeMap<Id<kind::Port>, Uuid>,
    unrealised: BTreeSet<Id<kind::Network>>,
    complaints: BTreeMap<Uuid, String>,
}

impl Status {
    /// What a host has counted at routers' gateways.
    pub(super) fn metered(&self, host: Uuid, metered: &[Metered]) {
        let sums = metered.iter().map(|metered| {
            let sum = Sum {
                packets: metered.packets,
                bytes: metered.bytes,
            };
            ((metered.label, metered.router), sum)
        });
        self.board.set_meters(host, sums.collect());
    }

    /// What passed a host's listeners.
    pub(super) fn balanced(&self, host: Uuid, balanced: Vec<(Uuid, Served)>) {
        self.board.set_served(host, balanced.into_iter().collect());
    }

    pub(super) fn new(board: Arc<StatusBoard>) -> Self {
        Self {
            board,
            hosts: BTreeMap::new(),
            ports: BTreeMap::new(),
            unrealised: BTreeSet::new(),
            complaints: BTreeMap::new(),
        }
    }

    /// A host's record changed, came or went.
    pub(super) fn host_changed(&mut self, host: &HostName, compiler: &Compiler, at: Reading) {
        let Some(record) = compiler.intent().host(host) else {
            if let Some(gone) = self.hosts.remove(host) {
                self.board.forget_host(gone.id);
                self.complaints.remove(&gone.id);
                self.ports.retain(|_, prover| *prover != gone.id);
            }
            return;
        };
        let id = record.id.uuid();
        let fresh = HostStatus {
            id,
            presence: Presence::Fresh(at.now),
            seen: at.wall,
            vtep_refused: None,
        };
        let known = self.hosts.entry(host.clone()).or_insert(fresh);
        if known.id != id {
            self.board.forget_host(known.id);
            self.ports.retain(|_, prover| *prover != known.id);
            known.id = id;
            known.presence = Presence::Fresh(at.now);
        }
    }

    /// A host opened a stream.
    pub(super) fn connected(&mut self, host: &HostName, compiler: &Compiler, at: Reading) {
        self.host_changed(host, compiler, at);
        if let Some(status) = self.hosts.get_mut(host) {
            status.presence = match status.presence {
                Presence::Settled => Presence::Lost(at.now),
                Presence::Away => Presence::Fresh(at.now),
                going @ (Presence::Fresh(_) | Presence::Lost(_)) => going,
            };
            status.seen = at.wall;
            status.vtep_refused = None;
            self.board.set_host(status.id, true, at.wall);
        }
    }

    /// A host's stream ended.
    pub(super) fn parted(&mut self, host: &HostName, at: Reading) {
        if let Some(status) = self.hosts.get_mut(host) {
            if status.presence == Presence::Settled {
                status.presence = Presence::Lost(at.now);
            }
            status.seen = at.wall;
        }
    }

    /// A host's VTEP address can't be had.
    pub(super) fn refuse_vtep(&mut self, host: &HostName, reason: &str, compiler: &Compiler) {
        if let Some(status) = self.hosts.get_mut(host) {
            status.vtep_refused = Some(reason.to_owned());
            let id = status.id;
            self.complain(id, Some(reason.to_owned()));
        }
        for port in compiler.intent().ports_at(host) {
            self.complain(port.section.id.uuid(), Some(reason.to_owned()));
        }
    }

    /// What a session says may prove something else now.
    pub(super) fn review(
        &mut self,
        host: &HostName,
        review: &Review,
        compiler: &Compiler,
        live: &Sessions,
        at: Reading,
    ) {
        let Some(session) = live.get(host).map(|live| &live.session) else {
            return;
        };
        let Some(status) = self.hosts.get_mut(host) else {
            return;
        };
        let (id, refused) = (status.id, status.vtep_refused.clone());
        let first = session.is_settled() && status.presence != Presence::Settled;
        if first {
            status.presence = Presence::Settled;
            status.seen = at.wall;
            self.board.set_host(id, true, at.wall);
        }
        let said = session.first_complaint();
        self.complain(id, refused.or(said));
        match review {
            Review::Sections(keys) if !first => self.review_sections(host, keys, compiler, live),
            Review::Sections(_) | Review::All => self.review_host(host, compiler, live),
        }
    }

    /// A commit touched these.
    pub(super) fn review_touched(
        &mut self,
        touched: &Touched,
        compiler: &Compiler,
        live: &Sessions,
    ) {
        for &port in &touched.ports {
            self.review_port(port, compiler, live);
            if compiler.intent().is_vip(port)
                && let Some(port) = compiler.intent().port(port)
            {
                self.review_network(port.section.network, compiler, live);
            }
        }
        for &floating in &touched.floating {
            self.review_floating(floating, compiler, live);
        }
        for &network in &touched.networks {
            self.review_network(network, compiler, live);
        }
        for &chain in &touched.chains {
            let first = compiler.chain_complaints(chain).into_iter().next();
            self.complain(chain.uuid(), first.map(|complaint| complaint.to_string()));
        }
    }

    /// Hosts that were gone for too long are away.
    pub(super) fn tick(&mut self, compiler: &Compiler, live: &Sessions, at: Reading) {
        let mut fallen = Vec::new();
        for (host, status) in &mut self.hosts {
            let (Presence::Fresh(since) | Presence::Lost(since)) = status.presence else {
                continue;
            };
            if at.now.since(since) >= GRACE {
                status.presence = Presence::Away;
                let here = live.contains_key(host);
                self.board.set_host(status.id, here, status.seen);
                fallen.push(host.clone());
            }
        }
        for host in fallen {
            self.review_host(&host, compiler, live);
        }
    }

    /// Everything that a host has a part in.
    fn review_host(&mut self, host: &HostName, compiler: &Compiler, live: &Sessions) {
        let mut networks: BTreeSet<_> = compiler.networks_of(host).collect();
        for port in compiler.intent().ports_at(host) {
            networks.insert(port.section.network);
            self.review_port(port.section.id, compiler, live);
        }
        for network in networks {
            self.review_network(network, compiler, live);
        }
        let sections = compiler.config(host).into_iter();
        let keys = sections.flat_map(|config| config.sections.keys());
        for key in keys {
            if let SectionKey::FloatingIp(id) = key {
                self.review_floating(*id, compiler, live);
            }
        }
    }

    /// What these sections of a host are about.
    pub(super) fn review_sections(
        &mut self,
        _host: &HostName,
        keys: &BTreeSet<SectionKey>,
        compiler: &Compiler,
        live: &Sessions,
    ) {
        let mut networks = BTreeSet::new();
        let mut routers = BTreeSet::new();
        for key in keys {
            match key {
                SectionKey::Port(id) => self.review_port(*id, compiler, live),
                SectionKey::Network(id) => {
                    networks.insert(*id);
                    let leaving = compiler.intent().gateways_on.of(id);
                    routers.extend(leaving.copied());
                }
                SectionKey::Endpoint(id) if compiler.intent().is_vip(*id) => {
                    networks.extend(compiler.intent().port(*id).map(|port| port.section.network));
                }
                SectionKey::Router(id) => {
                    routers.insert(*id);
                    let ports = compiler.intent().interfaces_of(*id);
                    networks.extend(ports.map(|port| port.section.network));
                }
                SectionKey::Vteps
                | SectionKey::AddressSet(_)
                | SectionKey::AddressPart(..)
                | SectionKey::Group(_)
                | SectionKey::Firewall(_)
                | SectionKey::Qos(_)
                | SectionKey::Chain(_)
                | SectionKey::Metadata(_)
                | SectionKey::Proxy(_)
                | SectionKey::Endpoint(_) => {}
                SectionKey::FloatingIp(id) => self.review_floating(*id, compiler, live),
            }
        }
        for router in routers {
            if let Some((gateway, _)) = compiler.intent().gateway(router) {
                self.review_port(gateway.port, compiler, live);
            }
        }
        for network in networks {
            self.review_network(network, compiler, live);
        }
    }

    fn review_port(&mut self, id: Id<kind::Port>, compiler: &Compiler, live: &Sessions) {
        let before = self.ports.get(&id).copied();
        let (prover, complaint) = self.judge(id, before, compiler, live);
        self.prove(id, before, prover);
        self.complain(id.uuid(), complaint);
    }

    fn prove(&mut self, id: Id<kind::Port>, before: Option<Uuid>, prover: Option<Uuid>) {
        if before == prover {
            return;
        }
        if let Some(host) = before {
            self.board.set_port(id.uuid(), host, false);
            self.ports.remove(&id);
        }
        if let Some(host) = prover {
            self.board.set_port(id.uuid(), host, true);
            self.ports.insert(id, host);
        }
    }

    /// A floating IP is proved by the host that answers for it.
    fn review_floating(&mut self, id: Id<kind::FloatingIp>, compiler: &Compiler, live: &Sessions) {
        // Ids are unique among all objects: it stands among the ports.
        let key = Id::new(id.uuid());
        let before = self.ports.get(&key).copied();
        let intent = compiler.intent();
        let floating = intent.floating_ip(id);
        let seat = floating.and_then(|floating| intent.seat(floating));
        let prover = floating.zip(seat).and_then(|(floating, (host, _))| {
            let needs = [
                SectionKey::FloatingIp(id),
                SectionKey::Network(floating.network),
            ];
            let router = floating.router.map(SectionKey::Router);
            let needs = needs.into_iter().chain(router);
            let told = compiler.config(&host.name)?;
            let told = told.sections.contains_key(&SectionKey::FloatingIp(id));
            let (prover, _) = self.proof(&host.name, needs, before, live);
            prover.filter(|_| told)
        });
        self.prove(key, before, prover);
    }

    /// Does a host hold all of this, and can it realise it? Else, what is against it.
    fn proof(
        &self,
        host: &HostName,
        needs: impl Iterator<Item = SectionKey>,
        before: Option<Uuid>,
        live: &Sessions,
    ) -> (Option<Uuid>, Option<String>) {
        let Some(status) = self.hosts.get(host) else {
            return (None, None);
        };
        let session = match (status.presence, live.get(host)) {
            (Presence::Settled, Some(live)) => &live.session,
            (Presence::Lost(_), _) => return (before.filter(|h| *h == status.id), None),
            (Presence::Settled | Presence::Fresh(_) | Presence::Away, _) => return (None, None),
        };
        let mut proved = true;
        for key in needs {
            if let Some(complaint) = session.complaint(key) {
                return (None, Some(complaint.to_owned()));
            }
            proved &= session.is_proved(key);
        }
        (proved.then_some(status.id), None)
    }

    /// Who proves a port, and what stands against it.
    fn judge(
        &self,
        id: Id<kind::Port>,
        before: Option<Uuid>,
        compiler: &Compiler,
        live: &Sessions,
    ) -> (Option<Uuid>, Option<String>) {
        let complaint = compiler
            .port_complaint(id)
            .map(|complaint| complaint.to_string());
        let intent = compiler.intent();
        let Some(port) = intent.port(id) else {
            return (None, None);
        };
        let Some(host) = &port.host else {
            return (None, complaint);
        };
        if let Some(router) = port.gateway_of {
            // No device: the host has it once it has the router and what is outside.
            let needs = [
                SectionKey::Router(router),
                SectionKey::Network(port.section.network),
            ];
            let (prover, against) = self.proof(host, needs.into_iter(), before, live);
            let seated = intent.gateway_host(router).is_some_and(|h| h.name == *host);
            let prover = prover.filter(|_| seated && complaint.is_none());
            return (prover, complaint.or(against));
        }
        let Some(status) = self.hosts.get(host) else {
            return (None, complaint);
        };
        let refused = status.vtep_refused.clone();
        let session = match (status.presence, live.get(host)) {
            (Presence::Settled, Some(live)) => &live.session,
            (Presence::Lost(_), _) => return (before.filter(|h| *h == status.id), complaint),
            (Presence::Settled | Presence::Fresh(_) | Presence::Away, _) => {
                return (None, refused.or(complaint));
            }
        };
        let key = SectionKey::Port(id);
        let report = session.report(id);
        let against = refused
            .or(complaint)
            .or_else(|| session.complaint(key).map(ToOwned::to_owned))
            .or_else(|| too_small(session, compiler, host, port.section.network));
        let active = report.is_some_and(|report| report.active);
        let reason = report
            .map(|report| report.reason.clone())
            .filter(|_| !active);
        let proved = against.is_none() && active && session.is_proved(key);
        let against = against.or(reason.filter(|reason| !reason.is_empty()));
        (proved.then_some(status.id), against)
    }

    fn review_network(&mut self, id: Id<kind::Network>, compiler: &Compiler, live: &Sessions) {
        let intent = compiler.intent();
        let mut keys = vec![SectionKey::Network(id)];
        let vips = intent
            .ports_on(id)
            .filter(|port| intent.is_vip(port.section.id));
        keys.extend(vips.map(|port| SectionKey::Endpoint(port.section.id)));
        let routers = intent.routers_on(id).into_iter();
        let routers = routers.filter(|router| intent.routers.contains_key(router));
        keys.extend(routers.map(SectionKey::Router));
        let realised = compiler.hosts_of(id).all(|host| {
            let presence = self.hosts.get(host).map(|status| status.presence);
            match (presence, live.get(host)) {
                (Some(Presence::Settled), Some(live)) => {
                    keys.iter().all(|key| live.session.is_proved(*key))
                        && live.session.complaint(SectionKey::Network(id)).is_none()
                }
                (Some(Presence::Lost(_) | Presence::Away), _) => true,
                (Some(Presence::Settled | Presence::Fresh(_)) | None, _) => false,
            }
        });
        let changed = if realised {
            self.unrealised.remove(&id)
        } else {
            self.unrealised.insert(id)
        };
        if changed {
            self.board.set_network(id.uuid(), realised);
        }
    }

    fn complain(&mut self, object: Uuid, complaint: Option<String>) {
        if self.complaints.get(&object) == complaint.as_ref() {
            return;
        }
        self.board.set_complaint(object, complaint.as_deref());
        match complaint {
            Some(text) => self.complaints.insert(object, text),
            None => self.complaints.remove(&object),
        };
    }
}

/// Does the host's underlay carry the network's largest packet?
fn too_small(
    session: &Session,
    compiler: &Compiler,
    host: &HostName,
    network: Id<kind::Network>,
) -> Option<String> {
    let carried = session.underlay_mtu()?;
    let vtep = compiler.intent().host(host)?.vtep?;
    let section = &compiler.intent().network(network)?.section;
    if section.wire.is_some() {
        return None;
    }
    let mtu = u32::from(section.mtu.get());
    let needed = mtu + ENCAP_BYTES + if vtep.is_ipv4() { 20 } else { 40 };
    (needed > carried).then(|| {
        format!("underlay mtu of host {host} is {carried}, network mtu {mtu} needs {needed}")
    })
}
