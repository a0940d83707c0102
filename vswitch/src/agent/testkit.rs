//! What stands in for a controller in this crate's tests?

use std::sync::Arc;

use hostconfig::{
    Endpoint, Generation, HostConfig, Keyed, Location, Network, Port, Section, Subnet,
    port::FixedIp,
};
use net::{Mtu, Vni};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, IsCa,
    KeyPair, KeyUsagePurpose,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer};
use uuid::Uuid;

use super::identity::Identity;

/// A controller's CA.
#[derive(Debug)]
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        Self {
            issuer: CertifiedIssuer::self_signed(params, key).unwrap(),
        }
    }

    pub(crate) fn ca(&self) -> &CertificateDer<'static> {
        self.issuer.der()
    }

    /// A controller's certificate of a name, and its key.
    pub(crate) fn controller(
        &self,
        name: &str,
    ) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let signed = params.signed_by(&key, &self.issuer).unwrap();
        (
            signed.der().clone(),
            PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
    }

    /// A host that joined, and the CA.
    pub(crate) fn host(&self, name: &str) -> (Identity, CertificateDer<'static>) {
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let signed = params.signed_by(&key, &self.issuer).unwrap();
        let identity = Identity::new(
            key.serialize_der(),
            signed.der().to_vec(),
            self.ca().to_vec(),
        );
        (identity.unwrap(), self.ca().clone())
    }

    /// Signs a host's request.
    pub(crate) fn sign(&self, csr: Vec<u8>) -> CertificateDer<'static> {
        let csr = CertificateSigningRequestDer::from(csr);
        let params = CertificateSigningRequestParams::from_der(&csr).unwrap();
        params.signed_by(&self.issuer).unwrap().der().clone()
    }
}

/// Sections for tests, and a config of them.
pub(crate) fn config(sections: impl IntoIterator<Item = Section>) -> HostConfig {
    let mut config = HostConfig {
        incarnation: Uuid::from_u128(1),
        generation: Generation(1),
        ..HostConfig::default()
    };
    for section in sections {
        config.insert(Arc::new(Keyed::new(section).unwrap()));
    }
    config
}

pub(crate) fn network(id: u128, vni: u32) -> Section {
    Section::Network(Network {
        id: Uuid::from_u128(id).into(),
        name: format!("net-{id}"),
        project: Uuid::from_u128(9).into(),
        vni: Vni::try_from(vni).unwrap(),
        mtu: Mtu::try_from(1450).unwrap(),
        admin_up: true,
        subnets: vec![Subnet {
            id: Uuid::from_u128(8).into(),
            cidr: "10.0.0.0/24".parse().unwrap(),
            gateway: Some("10.0.0.1".parse().unwrap()),
            dhcp: None,
            dhcp6: None,
            ra: None,
            dns6: vec![],
        }],
        wire: None,
        domain: String::new(),
        resolvers: Vec::new(),
        names: Vec::new(),
    })
}

fn mac(id: u128) -> net::UnicastMac {
    let mac: net::Mac = format!("02:00:00:00:00:{id:02x}").parse().unwrap();
    mac.try_into().unwrap()
}

pub(crate) fn port(id: u128, network: u128) -> Section {
    Section::Port(Port {
        id: Uuid::from_u128(id).into(),
        name: format!("port-{id}"),
        network: Uuid::from_u128(network).into(),
        project: Uuid::from_u128(9).into(),
        mac: mac(id),
        fixed_ips: vec![FixedIp {
            addr: format!("10.0.0.{id}").parse().unwrap(),
            subnet: Uuid::from_u128(8).into(),
        }],
        admin_up: true,
        port_security: false,
        allowed_address_pairs: Vec::new(),
        security_groups: Vec::new(),
        max_connections: 1000,
        qos: None,
        host_number: Some(0),
        dns_name: None,
        dhcp: hostconfig::DhcpOptions::default(),
        trunk: None,
        firewall: None,
    })
}

/// A port elsewhere, with the MAC address 100 beyond.
pub(crate) fn endpoint(id: u128, network: u128) -> Section {
    Section::Endpoint(Endpoint {
        id: Uuid::from_u128(id).into(),
        network: Uuid::from_u128(network).into(),
        project: None,
        mac: mac(id + 100),
        addrs: Vec::new(),
        dns_name: None,
        at: Location::Vtep("192.0.2.2".parse().unwrap()),
    })
}
