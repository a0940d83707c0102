//! 1: What came in, and may it be looked at?
//!
//! Each packet is parsed once. What is a fragment meets the others of its packet next ([`fragments`](super::fragments)).
//!
//! # References
//! RFC 4291 §2.5.5.2 (mapped addresses do not belong on a wire); RFC 4861 §7.1.

use std::net::IpAddr;

use net::{
    Batch, DropReason, Errand, Fragment, L3, Mtu, NetworkId, Now, Origin, Packet, PacketPool, Vni,
    VtepId, flow_key::ethertype,
};
use nfv::conntrack::Entry;

use super::{
    Budget, Datapath, Job, Payer, Refusal, Stage, Start, Tables, port_of, tables::trunk::Tagged,
    wire,
};
use crate::io::{Tunnelled, offload};

/// What the tables say of the tunnel from which the last frame came: frames of one come in runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tunnel {
    from: (u64, Vni, IpAddr),
    network: NetworkId,
    mtu: Mtu,
    vtep: Option<VtepId>,
}

impl<M: AsRef<[Entry]> + AsMut<[Entry]>> Datapath<M> {
    /// Says on which network a frame from the tunnel is, and adds it to a batch; what is on none is dropped and counted.
    ///
    /// # Errors
    /// Gives the frame back when the batch is full.
    pub fn enter_tunnel(
        &mut self,
        tables: &Tables,
        frame: Tunnelled,
        batch: &mut Batch,
        now: Now,
        pool: &mut PacketPool,
    ) -> Result<(), Tunnelled> {
        if batch.is_full() {
            return Err(frame);
        }
        let Tunnelled {
            mut packet,
            vni,
            vtep,
            nsh,
        } = frame;
        if let Some(nsh) = nsh {
            if let Err(reason) = self.enter_chained(tables, &mut packet, (nsh, vtep)) {
                self.refuse_rx(packet, reason, now, pool);
                return Ok(());
            }
            return batch.push(packet).map_err(|packet| Tunnelled {
                packet,
                vni,
                vtep,
                nsh: Some(nsh),
            });
        }
        let now_from = (tables.version(), vni, vtep);
        if self.tunnel.is_none_or(|t| t.from != now_from) {
            let network = match tables.network_of(vni) {
                Some(network) if network.wire.is_none() => network,
                other => {
                    let reason = other.map_or(DropReason::UnknownVni, |_| DropReason::NotByTunnel);
                    self.refuse_rx(packet, reason, now, pool);
                    return Ok(());
                }
            };
            self.tunnel = Some(Tunnel {
                from: now_from,
                network: network.dense,
                mtu: network.mtu,
                vtep: tables.vtep_id(vtep),
            });
        }
        if let Some(tunnel) = &self.tunnel {
            packet.set_origin(Origin::Tunnel(tunnel.network));
            clamp(&mut packet, tunnel.mtu);
            if let Some(vtep) = tunnel.vtep {
                self.hands.counters.tunnel_rx(vtep);
            }
        }
        batch.push(packet).map_err(|packet| Tunnelled {
            packet,
            vni,
            vtep,
            nsh,
        })
    }

    /// Counts a frame that a device or the underlay gave up while reading.
    pub fn refuse_rx(
        &mut self,
        packet: Packet,
        reason: DropReason,
        now: Now,
        pool: &mut PacketPool,
    ) {
        self.hands.ledger.rx += u64::from(packet.segments());
        let refusal = Refusal::new(reason, Stage::Io);
        self.hands.drop(packet, &refusal, now, pool);
    }

    /// 1: parse; refuse the malformed.
    pub(super) fn admit(&mut self, tables: &Tables, batch: &mut Batch, now: Now) {
        self.hands.counters.batch(batch.len());
        // A batch is of one origin, or of few: what they have in common is counted at once.
        let mut of = Origin::Switch;
        let mut sum = (0, 0);
        for mut packet in batch.drain() {
            let admitted = admit(&mut packet)
                .and_then(|()| untag(tables, &mut packet))
                .and_then(|()| unlabel(tables, &mut packet));
            if admitted.is_ok() {
                wire::listen(tables, &packet, now);
            }
            if packet.origin() != of {
                self.count_rx(tables, of, sum);
                (of, sum) = (packet.origin(), (0, 0));
            }
            let segments = packet.segments();
            sum.0 += u64::from(segments);
            sum.1 += packet.wire_bytes();
            let paid = match of {
                Origin::Port(id) => {
                    let payer = Payer::From(id);
                    self.budgets.take(payer, Budget::Packets, segments, now)
                }
                Origin::Tunnel(_) | Origin::Switch => true,
            };
            let admitted = if paid {
                admitted
            } else {
                Err(Budget::Packets.reason())
            };
            let start = match admitted {
                Ok(()) if packet.key().ip_frag != Fragment::Whole as u8 => {
                    self.bring_together(packet, now);
                    continue;
                }
                Ok(()) => Start::Open,
                Err(reason) => Start::Drop(reason),
            };
            self.jobs.push(Job::read(packet, start));
        }
        self.count_rx(tables, of, sum);
    }

    fn count_rx(&mut self, tables: &Tables, of: Origin, (segments, bytes): (u64, u64)) {
        self.hands.ledger.rx += segments;
        let port = match of {
            Origin::Port(id) => Some(id),
            Origin::Tunnel(network) => tables.wire_of(network),
            Origin::Switch => None,
        };
        if let Some(id) = port.filter(|_| segments > 0) {
            self.hands.counters.receive(id, segments, bytes);
        }
    }

    /// A fragment goes to where those of its packet meet, which may be here.
    fn bring_together(&mut self, mut packet: Packet, now: Now) {
        let home = self.fragments.home(&packet, self.settings.workers);
        if home == self.settings.worker {
            return self.meet(packet, now);
        }
        packet.set_errand(Errand::Meet);
        self.jobs.push(Job::read(packet, Start::Hand(home)));
    }

    /// A fragment is here, where those of its packet meet. What goes on goes as if it had just been read: its connection may be at
    /// home elsewhere.
    pub(super) fn meet(&mut self, mut packet: Packet, now: Now) {
        packet.set_errand(Errand::Run);
        let before = self.fragments.waiting();
        self.fragments.meet(packet, now, &mut self.met);
        // A fragment is one segment.
        let held = self.hands.ledger.held + self.fragments.waiting() as u64;
        self.hands.ledger.held = held.saturating_sub(before as u64);
        for (packet, goes) in self.met.drain(..) {
            let start = match goes {
                Ok(()) => Start::Open,
                Err(reason) => Start::Drop(reason),
            };
            self.jobs.push(Job::read(packet, start));
        }
    }

    /// Drops the fragments that waited for their first in vain.
    pub(super) fn give_up_fragments(&mut self, now: Now, pool: &mut PacketPool) {
        self.fragments.expire(now, &mut self.met);
        for (packet, goes) in self.met.drain(..) {
            let reason = goes.err().unwrap_or(DropReason::FragmentUnmatched);
            let refusal = Refusal {
                port: port_of(&packet),
                ..Refusal::new(reason, Stage::Ingress)
            };
            self.hands.ledger.held = self.hands.ledger.held.saturating_sub(1);
            self.hands.drop(packet, &refusal, now, pool);
        }
    }
}

/// Parses a packet, and judges what no table needs to.
///
/// # Errors
/// The reason why it can't be looked at.
pub fn admit(packet: &mut Packet) -> Result<(), DropReason> {
    packet.parse()?;
    let (l3, key) = (packet.headers().l3, packet.key());
    // An IPv6 packet with mapped addresses would look like an IPv4 connection.
    if l3 == L3::Ipv6 && (is_mapped(key.ip_src) || is_mapped(key.ip_dst)) {
        return Err(DropReason::MalformedIpv6);
    }
    // RFC 4861 §7.1: a Neighbor Discovery message that was ever forwarded is none.
    if key.ethertype == ethertype::IPV6
        && key.ip_proto == net::flow_key::proto::ICMP6
        && (133..=137).contains(&key.l4_src)
        && key.ip_ttl != 255
    {
        return Err(DropReason::MalformedNd);
    }
    Ok(())
}

/// What bears a tag on a trunk's device is a sub-port's, without it; from here on nothing tells it from what comes by a device of its own.
#[inline]
fn untag(tables: &Tables, packet: &mut Packet) -> Result<(), DropReason> {
    if packet.key().vlan == 0 {
        return Ok(());
    }
    let Origin::Port(device) = packet.origin() else {
        return Ok(());
    };
    let sub_port = match tables.tagged(device, packet.key().vlan & 0x0fff) {
        Tagged::Is(port) => Origin::Port(port),
        Tagged::Unknown => return Err(DropReason::TrunkVlanUnknown),
        // The tables refuse it, as all that is tagged.
        Tagged::NoTrunk => return Ok(()),
    };
    if !packet.pop_vlan() {
        return Err(DropReason::MalformedEthernet);
    }
    packet.set_origin(sub_port);
    packet.key_mut().set_origin(sub_port);
    if packet.key().ethertype == ethertype::VLAN {
        // One more tag: refused like any port's.
        return admit(packet);
    }
    Ok(())
}

/// What comes out of an appliance under a label: without it, from here on its path tells from where in which chain.
#[inline]
fn unlabel(tables: &Tables, packet: &mut Packet) -> Result<(), DropReason> {
    if packet.key().ethertype != ethertype::MPLS {
        return Ok(());
    }
    let origin = packet.origin();
    if !tables.is_labelled(origin) {
        // Nobody's label: judged as whatever is no IP.
        return Ok(());
    }
    let came = packet.pop_label().ok_or(DropReason::ChainLabelWrong)?;
    if tables.label(origin, came.path()) != Some(came) {
        return Err(DropReason::ChainLabelWrong);
    }
    admit(packet)?;
    // The device's word was looked at when nobody saw under the label.
    offload::validate(packet.headers(), packet.len(), &packet.offload())?;
    packet.key_mut().path = came.path();
    Ok(())
}

fn is_mapped(addr: [u8; 16]) -> bool {
    let [head @ .., _, _, _, _] = addr;
    head == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]
}

/// Cuts an uncut TCP super-frame of a kernel VTEP at what the network carries. Its sender's segment size did not come with it: the
/// underlay knows only what the path would carry, which may be more than a workload takes.
fn clamp(packet: &mut Packet, mtu: net::Mtu) {
    let mut offload = packet.offload();
    let headers = packet.headers();
    let behind = headers.payload_at.saturating_sub(headers.l3_at);
    if let net::Gso::Tcp { size, .. } = &mut offload.gso
        && behind < mtu.get()
    {
        *size = (*size).min(mtu.get() - behind);
        packet.set_offload(offload);
    }
}
