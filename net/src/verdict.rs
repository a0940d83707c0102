//! How does a packet begin, and how does it end?
//!
//! Closed lists. Every packet that enters a host ends delivered (tx), dropped for one [`DropReason`], or [`Consumed`]; what
//! the switch makes itself is [`Originated`], what it multiplies is [`Copied`].
//!
//! # Invariants
//! Conservation, in segments, on every host: rx + originated + copies = tx + dropped + consumed + held.

macro_rules! closed_list {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident => $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// Every member, in order; a member's place is its index.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// How many members there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The name in metrics and dumps.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// Its place in [`Self::ALL`].
            pub const fn index(self) -> usize {
                self as usize
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

closed_list! {
    /// Why a packet was dropped. Closed: whoever adds one documents it here.
    DropReason {
        /// The frame ends inside its Ethernet header, or is larger than any buffer.
        MalformedEthernet => "malformed_ethernet",
        /// An IPv4 header that contradicts itself or the frame (RFC 791 §3.1).
        MalformedIpv4 => "malformed_ipv4",
        /// An IPv6 header or extension chain that contradicts itself, the frame, or is too long (RFC 8200 §4).
        MalformedIpv6 => "malformed_ipv6",
        /// A TCP, UDP, ICMP, ICMPv6 or SCTP header that ends early or contradicts itself.
        MalformedL4 => "malformed_l4",
        /// An ARP message of a wrong shape (RFC 826).
        MalformedArp => "malformed_arp",
        /// A Neighbor Discovery message of a wrong shape or hop limit (RFC 4861 §7.1).
        MalformedNd => "malformed_nd",
        /// A DHCP message that no server could answer (RFC 2131 §2).
        MalformedDhcp => "malformed_dhcp",
        /// What came to a name server is no question (RFC 1035 §4.1).
        MalformedDns => "malformed_dns",
        /// A VXLAN header without the I flag, or an outer packet that ends early (RFC 7348 §5).
        MalformedVxlan => "malformed_vxlan",
        /// Chain transport with headers of another version, length or kind, or that end early (RFC 8300 §2).
        MalformedNsh => "malformed_nsh",
        /// A virtio-net header that contradicts its frame.
        MalformedOffload => "malformed_offload",
        /// A checksum that was to be verified and did not hold.
        BadChecksum => "bad_checksum",
        /// A later fragment that waited for its packet's first one in vain.
        FragmentUnmatched => "fragment_unmatched",
        /// There is no room for another fragment in flight, or it had to go for a newer one of the same origin.
        FragmentTableFull => "fragment_table_full",
        /// A tagged frame on a port that carries no VLANs.
        VlanNotAllowed => "vlan_not_allowed",
        /// A tagged frame on the parent of a trunk, none of whose sub-ports has that VLAN.
        TrunkVlanUnknown => "trunk_vlan_unknown",
        /// Link-local control (STP, LLDP, pause), never forwarded (IEEE 802.1Q §8.6.3).
        LinkLocalControl => "link_local_control",
        /// The port is administratively down, or its network is; or the router, or the interface of it, that it came to.
        AdminDown => "admin_down",
        /// The port or network went away while the packet was under way.
        PortGone => "port_gone",
        /// A source MAC that is not the port's.
        PortSecurityMac => "port_security_mac",
        /// A source IP that is not the port's.
        PortSecurityIp => "port_security_ip",
        /// An ARP sender that is not the port's.
        PortSecurityArp => "port_security_arp",
        /// A Neighbor Advertisement or Solicitation for what is not the port's.
        PortSecurityNd => "port_security_nd",
        /// A DHCP server's message from a workload.
        PortSecurityDhcpServer => "port_security_dhcp_server",
        /// A Router Advertisement or Redirect from a workload.
        PortSecurityRa => "port_security_ra",
        /// An EtherType that port security does not pass (neither IP nor ARP).
        PortSecurityEthertype => "port_security_ethertype",
        /// No egress rule of the sender's security groups allows it.
        SecurityGroupEgress => "security_group_egress",
        /// No ingress rule of the receiver's security groups allows it.
        SecurityGroupIngress => "security_group_ingress",
        /// It belongs to no connection and can't begin one (RFC 9293 §3.10).
        ConntrackInvalid => "conntrack_invalid",
        /// The port is at its limit of connections, and none could be evicted.
        ConntrackPortFull => "conntrack_port_full",
        /// The project is at its limit of connections, and none could be evicted.
        ConntrackProjectFull => "conntrack_project_full",
        /// The port begins more connections a second than its budget has.
        ConnectionBudget => "connection_budget",
        /// The port sends more packets a second than its budget has.
        PacketBudget => "packet_budget",
        /// The port sends, or is sent, more packets of unknown flows a second than its budget has.
        MissBudget => "miss_budget",
        /// The host's connection table is full.
        ConntrackFull => "conntrack_full",
        /// A firewall denies it: one of a chain, or the group of a port or a router's interface.
        FirewallDenied => "firewall_denied",
        /// The firewall group of a port or a router's interface rejects it: its sender is told.
        FirewallRejected => "firewall_rejected",
        /// The load balancer has no member to send it to.
        NoHealthyMember => "no_healthy_member",
        /// A NAT has no free port for it at any of its addresses.
        NatExhausted => "nat_exhausted",
        /// Its client has as many connections through a NAT as it may.
        NatClientLimit => "nat_client_limit",
        /// The address that a NAT gave its connection is no longer the NAT's.
        NatAddressGone => "nat_address_gone",
        /// Mirrors made as many copies in this second as they may.
        MirrorBudget => "mirror_budget",
        /// Its source, or the chain, has begun as many connections as a function lets begin in this time.
        RateLimited => "rate_limited",
        /// A function that counts sources has no room for another.
        RateTableFull => "rate_table_full",
        /// An inspector met bytes that may not pass; its connection ends.
        InspectorPattern => "inspector_pattern",
        /// It does not speak the protocol that an inspector wants.
        InspectorProtocol => "inspector_protocol",
        /// An inspector ended its connection before.
        InspectorCondemned => "inspector_condemned",
        /// Bytes before it are missing, which an inspector has to see first.
        InspectorGap => "inspector_gap",
        /// It has other bytes than an inspector saw in the same place.
        InspectorRewritten => "inspector_rewritten",
        /// It has urgent data among what an inspector reads.
        InspectorUrgent => "inspector_urgent",
        /// It is a fragment among what an inspector reads.
        InspectorFragment => "inspector_fragment",
        /// An inspector did not see its connection begin.
        InspectorUndecided => "inspector_undecided",
        /// Inspectors have no room for another connection, or for its bytes.
        InspectorFull => "inspector_full",
        /// No instance of an appliance is up, and its group fails closed.
        ApplianceDown => "appliance_down",
        /// Another connection with the same addresses is in the appliance: what comes back could not be told apart.
        ChainPlaceAmbiguous => "chain_place_ambiguous",
        /// It came out of an appliance to which it was not handed over, and is not the appliance's own.
        ChainPlaceUnknown => "chain_place_unknown",
        /// It went from host to host of a chain as often as it may (RFC 8300 §2.2, §2.3).
        ChainIndexSpent => "chain_index_spent",
        /// It came by the chain transport for a port that is not at this hop of this chain.
        ChainPathUnknown => "chain_path_unknown",
        /// It came out of an appliance without the label under which it went in, or with another one.
        ChainLabelWrong => "chain_label_wrong",
        /// A virtual address, or a router's, receives what no listener asked for.
        NoListener => "no_listener",
        /// The shaper's queue is full.
        ShaperQueueFull => "shaper_queue_full",
        /// The queue of a limit that a QoS policy sets its port is full.
        QosQueueFull => "qos_queue_full",
        /// The flow that it is of has waited in a queue for too long, and hears no marks (CoDel, RFC 8289).
        CoDelDrop => "codel_drop",
        /// A network function failed; native ones fail closed.
        FunctionFault => "function_fault",
        /// The destination MAC is known nowhere on the network.
        UnknownUnicast => "unknown_unicast",
        /// It would go back to where it came from, or came out of a tunnel to be routed: its own switch does that.
        SplitHorizon => "split_horizon",
        /// It went through the switch too often.
        HopLimit => "hop_limit",
        /// Its TTL or hop limit does not take it past the routers on its way (RFC 1812 §5.3.1, RFC 8200 §3).
        TtlExceeded => "ttl_exceeded",
        /// A router has no route to its destination.
        NoRoute => "no_route",
        /// No host has the router's gateway, by which it would leave the fabric.
        NoGateway => "no_gateway",
        /// It begins from outside, with an address that its router's gateway hides.
        HiddenAddress => "hidden_address",
        /// Nobody on the network has the address of a router's next hop.
        UnknownNeighbor => "unknown_neighbor",
        /// A source or destination that no router forwards: link-local, multicast, loopback, unspecified (RFC 1812 §5.3.7, RFC 4291 §2.5).
        Martian => "martian",
        /// There is nobody to flood it to.
        NoReceiver => "no_receiver",
        /// It is larger than the receiving link, and must not be cut.
        MtuExceeded => "mtu_exceeded",
        /// VXLAN from an address that is not a known VTEP.
        UnknownVtep => "unknown_vtep",
        /// A VNI that this host does not serve.
        UnknownVni => "unknown_vni",
        /// An inner frame whose source MAC lives on this very host: a forgery, or a loop.
        TunnelSpoof => "tunnel_spoof",
        /// It came out of a tunnel, and is of a network that is on wires: nothing of that crosses the underlay.
        NotByTunnel => "not_by_tunnel",
        /// A frame off a wire whose source MAC lives on this very host, or can be nobody's: a forgery, or a loop.
        WireSpoof => "wire_spoof",
        /// Its network is on a wire that this host does not have, or that is down.
        NoWire => "no_wire",
        /// A router's next hop outside was asked for, and has not answered yet.
        NeighbourUnresolved => "neighbour_unresolved",
        /// The underlay refused the datagram.
        UnderlaySend => "underlay_send",
        /// The receiving port's device refused the frame (down, or out of memory).
        PortSend => "port_send",
        /// The receiving port's queue stayed full.
        PortQueueFull => "port_queue_full",
        /// No packet buffer was free.
        PoolExhausted => "pool_exhausted",
        /// The ring to the worker that owns the connection is full.
        HandOverFull => "hand_over_full",
        /// The limit of packets that the switch originates for this port was reached.
        OriginateLimit => "originate_limit",
        /// The metadata service takes no more packets of the port in this second, has no room, or does not run.
        MetadataRefused => "metadata_refused",
        /// The switch is shutting down.
        Shutdown => "shutdown",
    }
}

closed_list! {
    /// What the switch makes itself.
    Originated {
        /// An ARP reply in the name of another port.
        ArpReply => "arp_reply",
        /// A Neighbor Advertisement in the name of another port.
        NeighborAdvertisement => "neighbor_advertisement",
        /// A DHCPv4 answer.
        Dhcp => "dhcp",
        /// A DHCPv6 answer.
        Dhcp6 => "dhcp6",
        /// An answer to a question for a name.
        Dns => "dns",
        /// A Router Advertisement.
        RouterAdvertisement => "router_advertisement",
        /// An ARP request or Neighbor Solicitation for a neighbour outside.
        Solicitation => "solicitation",
        /// An ARP announcement or unsolicited Neighbor Advertisement of an address that is here now.
        Announcement => "announcement",
        /// An ICMP error or echo reply.
        Icmp => "icmp",
        /// A TCP reset.
        TcpReset => "tcp_reset",
        /// A health probe.
        Probe => "probe",
        /// A frame of the metadata service.
        Metadata => "metadata",
    }
}

closed_list! {
    /// What the switch multiplies.
    Copied {
        /// A copy for one more receiver of a broadcast, unknown or multicast frame.
        Flood => "flood",
        /// A copy for a mirror.
        Mirror => "mirror",
    }
}

closed_list! {
    /// What ends in the switch because it was meant for it.
    Consumed {
        /// An ARP request that was answered.
        Arp => "arp",
        /// A Neighbor or Router Solicitation that was answered.
        NeighborDiscovery => "neighbor_discovery",
        /// A DHCP message that was answered, or needs no answer.
        Dhcp => "dhcp",
        /// A question for a name that was answered.
        Dns => "dns",
        /// An ICMP echo to an address of the switch.
        Icmp => "icmp",
        /// An answer to a probe.
        Probe => "probe",
        /// A packet for the metadata service.
        Metadata => "metadata",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_indices_are_places() {
        let names: std::collections::HashSet<_> =
            DropReason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), DropReason::COUNT);
        for (i, r) in DropReason::ALL.iter().enumerate() {
            assert_eq!(r.index(), i);
        }
    }
}
