//! Stacks with real clients on a virtual clock, pages, and a Nova that checks signatures.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    task::{Context as Task, Poll, Waker},
};

use hostconfig::{Metadata, Section, metadata::UserData};
use http_body_util::BodyExt as _;
use hyper::{Request, http::request::Parts};
use net::{Id, Mac, ids::kind};
use rtrb::{Consumer, RingBuffer};
use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    socket::tcp,
    time::Instant,
    wire::{HardwareAddress, IpCidr, Ipv4Packet, Ipv6Packet, TcpPacket},
};
use uuid::Uuid;

use super::{stack::Opened, *};
use crate::{
    agent::testkit::{config, network, port},
    datapath::{Tables, dns, tables::metadata as service},
};

const MTU: usize = 1450;

fn id(n: u128) -> Id<kind::Port> {
    Uuid::from_u128(n).into()
}

fn mac_of(port: Id<kind::Port>) -> Mac {
    let n = u8::try_from(port.uuid().as_u128()).unwrap();
    Mac::new([2, 0, 0, 0, 0, n])
}

/// A workload's own stack.
struct Client {
    port: Id<kind::Port>,
    addr: IpAddr,
    iface: Interface,
    sockets: SocketSet<'static>,
    device: TestDevice,
}

/// What a client sends and gets, as IP packets.
#[derive(Default)]
struct TestDevice {
    rx: std::collections::VecDeque<Vec<u8>>,
    tx: Vec<Vec<u8>>,
}

struct Got(Vec<u8>);
struct Sends<'a>(&'a mut Vec<Vec<u8>>);

impl smoltcp::phy::RxToken for Got {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl smoltcp::phy::TxToken for Sends<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut bytes = vec![0; len];
        let done = f(&mut bytes);
        self.0.push(bytes);
        done
    }
}

impl smoltcp::phy::Device for TestDevice {
    type RxToken<'a> = Got;
    type TxToken<'a> = Sends<'a>;
    fn receive(&mut self, _: Instant) -> Option<(Got, Sends<'_>)> {
        Some((Got(self.rx.pop_front()?), Sends(&mut self.tx)))
    }
    fn transmit(&mut self, _: Instant) -> Option<Sends<'_>> {
        Some(Sends(&mut self.tx))
    }
    fn capabilities(&self) -> smoltcp::phy::DeviceCapabilities {
        let mut all = smoltcp::phy::DeviceCapabilities::default();
        all.medium = smoltcp::phy::Medium::Ip;
        all.max_transmission_unit = MTU;
        all
    }
}

impl Client {
    fn new(n: u128, addr: &str) -> Self {
        let addr: IpAddr = addr.parse().unwrap();
        let mut device = TestDevice::default();
        let mut iface =
            Interface::new(Config::new(HardwareAddress::Ip), &mut device, Instant::ZERO);
        let bits = if addr.is_ipv4() { 24 } else { 64 };
        iface.update_ip_addrs(|own| own.push(IpCidr::new(addr.into(), bits)).unwrap());
        let gateway = Ipv4Addr::new(10, 0, 0, 1);
        iface.routes_mut().add_default_ipv4_route(gateway).unwrap();
        Self {
            port: id(n),
            addr,
            iface,
            sockets: SocketSet::new(vec![]),
            device,
        }
    }

    fn connect(&mut self, from: u16) -> SocketHandle {
        self.connect_to(from, service::PORT)
    }

    fn connect_to(&mut self, from: u16, port: u16) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 65_535]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        let to: IpAddr = if self.addr.is_ipv4() {
            service::V4.into()
        } else {
            service::V6.into()
        };
        let cx = self.iface.context();
        socket.connect(cx, (to, port), from).unwrap();
        self.sockets.add(socket)
    }

    fn socket(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    fn sends(&mut self, now: Now) -> Vec<Inward> {
        let at = Instant::from_micros(i64::try_from(now.nanos() / 1000).unwrap());
        self.iface.poll(at, &mut self.device, &mut self.sockets);
        let (port, sent) = (self.port, std::mem::take(&mut self.device.tx));
        sent.into_iter().map(|ip| inward(port, ip)).collect()
    }
}

/// A packet as a worker hands it in.
fn inward(port: Id<kind::Port>, ip: Vec<u8>) -> Inward {
    let (src, dst, l4): (IpAddr, IpAddr, usize) = if ip[0] >> 4 == 4 {
        let packet = Ipv4Packet::new_checked(&ip).unwrap();
        let l4 = usize::from(packet.header_len());
        (packet.src_addr().into(), packet.dst_addr().into(), l4)
    } else {
        let packet = Ipv6Packet::new_checked(&ip).unwrap();
        (packet.src_addr().into(), packet.dst_addr().into(), 40)
    };
    let tcp = TcpPacket::new_unchecked(&ip[l4..]);
    Inward {
        worker: 0,
        port,
        eth: (mac_of(port), service::MAC),
        mtu: MTU,
        from: SocketAddr::new(src, tcp.src_port()),
        to: SocketAddr::new(dst, tcp.dst_port()),
        opens: tcp.syn() && !tcp.ack(),
        verified: false,
        l4,
        ip: ip.into(),
    }
}

struct Rig {
    stacks: Stacks,
    ring: [rtrb::Producer<Outward>; 1],
    out: Consumer<Outward>,
    counters: Arc<Counters>,
    now: Now,
    opened: Vec<Opened>,
    next: Option<Now>,
}

impl Rig {
    fn new(limits: Limits) -> Self {
        let (ring, out) = RingBuffer::new(256);
        let counters = Arc::new(Counters::default());
        Self {
            stacks: Stacks::new(limits, 7, Arc::clone(&counters)),
            ring: [ring],
            out,
            counters,
            now: Now::from_nanos(1_000_000_000),
            opened: vec![],
            next: None,
        }
    }

    /// Lets clients and stacks speak until nobody has anything to say.
    fn settle(&mut self, clients: &mut [&mut Client]) {
        for _ in 0..200 {
            let mut said = false;
            for client in clients.iter_mut() {
                for inward in client.sends(self.now) {
                    said = true;
                    self.stacks.take(inward);
                }
            }
            let turn = self.stacks.turn(self.now, &mut self.ring);
            self.opened.extend(turn.opened);
            self.next = turn.next;
            while let Ok(Outward { port, frame, .. }) = self.out.pop() {
                said = true;
                let client = clients.iter_mut().find(|c| c.port == port).unwrap();
                assert_eq!(frame[..6], mac_of(port).octets());
                assert_eq!(frame[6..12], service::MAC.octets());
                client.device.rx.push_back(frame[14..].to_vec());
            }
            if !said {
                return;
            }
        }
        panic!("they do not come to an end");
    }

    fn read(&mut self, of: Opened) -> Poll<std::io::Result<Vec<u8>>> {
        let mut into = [0; 4096];
        let mut cx = Task::from_waker(Waker::noop());
        let read = self.stacks.read(of.port, of.id, &mut into, &mut cx);
        read.map_ok(|n| into[..n].to_vec())
    }

    fn write(&mut self, of: Opened, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let mut cx = Task::from_waker(Waker::noop());
        self.stacks.write(of.port, of.id, bytes, &mut cx)
    }
}

#[test]
fn two_ports_with_one_address_and_one_source_port_are_two_connections() {
    let mut rig = Rig::new(Limits::default());
    for addr in ["10.0.0.5", "fe80::5"] {
        let (mut a, mut b) = (Client::new(1, addr), Client::new(2, addr));
        let (to_a, to_b) = (a.connect(4000), b.connect(4000));
        rig.settle(&mut [&mut a, &mut b]);
        let opened = std::mem::take(&mut rig.opened);
        assert_eq!(opened.len(), 2);
        for (client, handle, text) in [(&mut a, to_a, "a"), (&mut b, to_b, "b")] {
            client.socket(handle).send_slice(text.as_bytes()).unwrap();
        }
        rig.settle(&mut [&mut a, &mut b]);
        for of in &opened {
            let expected = if of.port == id(1) { "a" } else { "b" };
            let Poll::Ready(Ok(read)) = rig.read(*of) else {
                panic!("it has something to read");
            };
            assert_eq!(read, expected.as_bytes());
            assert!(matches!(
                rig.write(*of, expected.as_bytes()),
                Poll::Ready(Ok(1))
            ));
            rig.stacks.close(of.port, of.id);
        }
        rig.settle(&mut [&mut a, &mut b]);
        for (client, handle, text) in [(&mut a, to_a, "a"), (&mut b, to_b, "b")] {
            let mut got = [0; 8];
            let n = client.socket(handle).recv_slice(&mut got).unwrap();
            assert_eq!(&got[..n], text.as_bytes());
            client.socket(handle).close();
        }
        rig.settle(&mut [&mut a, &mut b]);
        assert_eq!(rig.counters.read().open, 0, "what is over is gone");
    }
}

#[test]
fn what_is_written_arrives_whole_however_much_it_is() {
    let mut rig = Rig::new(Limits::default());
    let mut client = Client::new(1, "10.0.0.5");
    let handle = client.connect(4000);
    rig.settle(&mut [&mut client]);
    let of = rig.opened[0];
    let all: Vec<u8> = (0..=u8::MAX).cycle().take(200_000).collect();
    let (mut written, mut got) = (0, vec![]);
    while got.len() < all.len() {
        if let Poll::Ready(Ok(n)) = rig.write(of, &all[written..]) {
            written += n;
        }
        rig.settle(&mut [&mut client]);
        client
            .socket(handle)
            .recv(|bytes| (bytes.len(), got.extend_from_slice(bytes)))
            .unwrap();
    }
    assert_eq!(got, all);
}

#[test]
fn a_port_has_as_many_connections_as_it_may_and_a_neighbour_has_its_own() {
    let limits = Limits {
        of_port: 3,
        of_host: 5,
        ..Limits::default()
    };
    let mut rig = Rig::new(limits);
    let (mut a, mut b) = (Client::new(1, "10.0.0.5"), Client::new(2, "10.0.0.5"));
    for from in 0..3 {
        a.connect(4000 + from);
    }
    rig.settle(&mut [&mut a]);
    for from in 3..6 {
        a.connect(4000 + from);
    }
    rig.settle(&mut [&mut a]);
    assert_eq!(rig.opened.len(), 3);
    assert_eq!(rig.counters.read().full_port, 3);
    for from in 0..3 {
        b.connect(5000 + from);
    }
    rig.settle(&mut [&mut b]);
    // Two of five were free; for the third nobody has more than its own two and one.
    assert_eq!(rig.opened.len(), 5);
    let counts = rig.counters.read();
    assert_eq!((counts.open, counts.full_host), (5, 1));
    // A third port gets one of the greediest's.
    let mut c = Client::new(3, "10.0.0.5");
    c.connect(6000);
    rig.settle(&mut [&mut c]);
    assert_eq!(rig.opened.len(), 6);
    assert_eq!(rig.counters.read().open, 5);
    let first = rig.opened[0];
    assert!(
        matches!(rig.read(first), Poll::Ready(Err(_))),
        "it was the oldest"
    );
}

#[test]
fn half_open_connections_go_first_and_by_themselves() {
    let limits = Limits {
        of_port: 2,
        ..Limits::default()
    };
    let mut rig = Rig::new(limits);
    let mut client = Client::new(1, "10.0.0.5");
    // Two that never answer the handshake.
    client.connect(4000);
    client.connect(4001);
    for inward in client.sends(rig.now) {
        rig.stacks.take(inward);
    }
    rig.stacks.turn(rig.now, &mut rig.ring);
    assert_eq!(rig.counters.read().open, 2);
    let mut honest = Client::new(1, "10.0.0.6");
    honest.connect(4002);
    for _ in 0..5 {
        for inward in honest.sends(rig.now) {
            rig.stacks.take(inward);
        }
        rig.opened
            .extend(rig.stacks.turn(rig.now, &mut rig.ring).opened);
        while let Ok(Outward { frame, .. }) = rig.out.pop() {
            let to = Ipv4Packet::new_unchecked(&frame[14..]).dst_addr();
            if IpAddr::V4(to) == honest.addr {
                honest.device.rx.push_back(frame[14..].to_vec());
            }
        }
    }
    assert_eq!(rig.opened.len(), 1, "in place of the oldest half-open one");
    rig.now = rig.now + Duration::from_secs(11);
    rig.stacks.turn(rig.now, &mut rig.ring);
    assert_eq!(rig.counters.read().open, 1, "the other one's time is over");
}

#[test]
fn who_knows_of_a_connection_that_is_not_there_is_told() {
    let mut rig = Rig::new(Limits::default());
    let mut client = Client::new(1, "10.0.0.5");
    let handle = client.connect(4000);
    rig.settle(&mut [&mut client]);
    // The switch was started anew.
    rig = Rig::new(Limits::default());
    client.socket(handle).send_slice(b"hello").unwrap();
    rig.settle(&mut [&mut client]);
    assert_eq!(client.socket(handle).state(), tcp::State::Closed);
    assert_eq!(rig.counters.read().open, 0);
}

#[test]
fn what_no_longer_has_a_port_has_no_connection_and_what_is_unsound_is_not_read() {
    let mut rig = Rig::new(Limits::default());
    let mut client = Client::new(1, "10.0.0.5");
    let handle = client.connect(4000);
    rig.settle(&mut [&mut client]);
    client.socket(handle).send_slice(b"hello").unwrap();
    for mut inward in client.sends(rig.now) {
        let last = inward.ip.len() - 1;
        inward.ip[last] ^= 1;
        rig.stacks.take(inward);
    }
    rig.stacks.turn(rig.now, &mut rig.ring);
    assert_eq!(rig.counters.read().lost, 1, "its checksum is wrong");
    let of = rig.opened[0];
    assert!(rig.read(of).is_pending());
    rig.stacks.retain(|port| port != id(1));
    assert!(matches!(rig.read(of), Poll::Ready(Err(_))));
    rig.stacks.turn(rig.now, &mut rig.ring);
    assert_eq!(rig.counters.read().open, 0);
}

#[test]
fn a_super_frame_whose_checksum_is_still_to_be_made_is_read_whole() {
    let mut rig = Rig::new(Limits::default());
    let mut client = Client::new(1, "10.0.0.5");
    let handle = client.connect(4000);
    rig.settle(&mut [&mut client]);
    client.socket(handle).send_slice(&[b'x'; 1000]).unwrap();
    let mut sent = client.sends(rig.now);
    let Some(mut one) = sent.pop() else {
        panic!("it was sent");
    };
    // As a device hands it over: six segments in one, no checksum.
    let mut ip = one.ip.to_vec();
    ip.extend([b'y'; 5000]);
    let len = u16::try_from(ip.len()).unwrap();
    Ipv4Packet::new_unchecked(&mut ip).set_total_len(len);
    one.ip = ip.into();
    one.verified = true;
    rig.stacks.take(one);
    rig.stacks.turn(rig.now, &mut rig.ring);
    let of = rig.opened[0];
    let mut read = vec![];
    while let Poll::Ready(Ok(more)) = rig.read(of) {
        read.extend(more);
    }
    assert_eq!(read.len(), 6000);
}

#[test]
fn a_full_ring_loses_nothing() {
    let mut rig = Rig::new(Limits::default());
    let (ring, out) = RingBuffer::new(2);
    (rig.ring, rig.out) = ([ring], out);
    let mut client = Client::new(1, "10.0.0.5");
    let handle = client.connect(4000);
    rig.settle(&mut [&mut client]);
    let of = rig.opened[0];
    assert!(matches!(
        rig.write(of, &[1; 12_000]),
        Poll::Ready(Ok(12_000))
    ));
    rig.settle(&mut [&mut client]);
    assert_eq!(client.socket(handle).recv_queue(), 12_000);
}

fn set(metadata: Metadata) -> Context {
    let directory = Directory::new(&config([
        network(1, 7),
        port(5, 1),
        port(6, 1),
        Section::Metadata(metadata),
    ]));
    Context {
        directory: Arc::new(ArcSwap::from_pointee(directory)),
        counters: Arc::default(),
        nova: None,
        tables: Arc::new(ArcSwap::from_pointee(Tables::empty(1))),
        clock: crate::worker::monotonic,
    }
}

fn told() -> Metadata {
    Metadata {
        port: id(5),
        device: "3f0a".to_owned(),
        project: "p".to_owned(),
        instance_id: None,
        hostname: Some("web.example.org".to_owned()),
        public_keys: [("me".to_owned(), "ssh-ed25519 AAAA".to_owned())].into(),
        user_data: Some(UserData::new("I2Nsb3VkLWNvbmZpZwo=".to_owned())),
    }
}

fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

async fn asked(context: &Context, port: u128, asked: &Parts) -> (u16, String) {
    let from = "10.0.0.5:4000".parse().unwrap();
    let answer = server::answer(asked, (id(port), from), context).await;
    let code = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (code, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn pages_of_both_trees_say_what_is_set_and_what_is_known() {
    let context = set(told());
    for (path, body) in [
        ("/", "2009-04-04\nlatest"),
        ("/latest", "meta-data/\nuser-data"),
        ("/latest/", "meta-data/\nuser-data"),
        (
            "/latest/meta-data/",
            "hostname\ninstance-id\nlocal-hostname\nlocal-ipv4\nmac\npublic-keys/",
        ),
        ("/2009-04-04/meta-data/instance-id", "3f0a"),
        ("/latest/meta-data/hostname", "web.example.org"),
        ("/latest/meta-data/local-hostname", "web.example.org"),
        ("/latest/meta-data/local-ipv4", "10.0.0.5"),
        ("/latest/meta-data/mac", "02:00:00:00:00:05"),
        ("/latest/meta-data/public-keys/", "0=me"),
        ("/latest/meta-data/public-keys/0/", "openssh-key"),
        (
            "/latest/meta-data/public-keys/0/openssh-key",
            "ssh-ed25519 AAAA",
        ),
        ("/latest/user-data", "#cloud-config\n"),
        ("/openstack", "2015-10-15\n2018-08-27\nlatest"),
        (
            "/openstack/latest",
            "meta_data.json\nnetwork_data.json\nuser_data\nvendor_data.json",
        ),
        ("/openstack/2018-08-27/user_data", "#cloud-config\n"),
        ("/openstack/latest/vendor_data.json", "{}"),
    ] {
        let answer = asked(&context, 5, &request("GET", path, &[])).await;
        assert_eq!(answer, (200, body.to_owned()), "{path}");
    }
    let path = "/openstack/latest/meta_data.json";
    let (_, body) = asked(&context, 5, &request("GET", path, &[])).await;
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["uuid"], "3f0a");
    assert_eq!(body["project_id"], "p");
    assert_eq!(body["public_keys"]["me"], "ssh-ed25519 AAAA");
    let path = "/openstack/latest/network_data.json";
    let (_, body) = asked(&context, 5, &request("GET", path, &[])).await;
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        body["links"][0]["ethernet_mac_address"],
        "02:00:00:00:00:05"
    );
    assert_eq!(body["links"][0]["mtu"], 1450);
    assert_eq!(body["networks"][0]["ip_address"], "10.0.0.5");
    assert_eq!(body["networks"][0]["netmask"], "255.255.255.0");
    assert_eq!(body["networks"][0]["routes"][0]["gateway"], "10.0.0.1");
}

#[tokio::test]
async fn of_a_port_that_nothing_is_set_of_its_own_section_says_all() {
    let context = set(told());
    let get = |path: &str| request("GET", path, &[]);
    let answer = asked(&context, 6, &get("/latest/meta-data/instance-id")).await;
    assert_eq!(answer, (200, id(6).to_string()));
    let answer = asked(&context, 6, &get("/latest/meta-data/hostname")).await;
    assert_eq!(answer, (200, "port-6".to_owned()));
    let Section::Port(mut named) = port(6, 1) else {
        panic!("it is a port");
    };
    named.dns_name = Some("six.example.org.".to_owned());
    let named = Directory::new(&config([network(1, 7), Section::Port(named)]));
    let context = Context {
        directory: Arc::new(ArcSwap::from_pointee(named)),
        ..context
    };
    let answer = asked(&context, 6, &get("/latest/meta-data/hostname")).await;
    assert_eq!(answer, (200, "six.example.org".to_owned()));
    for gone in [
        "/latest/user-data",
        "/latest/meta-data/public-keys/",
        "/openstack/latest/user_data",
    ] {
        assert_eq!(asked(&context, 6, &get(gone)).await.0, 404, "{gone}");
    }
    assert_eq!(
        asked(&context, 7, &get("/latest")).await.0,
        404,
        "no such port"
    );
}

#[tokio::test]
async fn what_is_not_a_plain_question_is_refused() {
    let context = set(told());
    for (method, path, headers, code) in [
        ("GET", "/latest", &[][..], 200),
        ("HEAD", "/latest", &[], 200),
        ("PUT", "/latest/api/token", &[], 405),
        ("POST", "/latest", &[], 405),
        ("DELETE", "/latest", &[], 405),
        ("GET", "/latest", &[("X-Forwarded-For", "10.0.0.9")], 403),
        ("GET", "/latest", &[("Forwarded", "for=10.0.0.9")], 403),
        ("GET", "/1.0/meta-data", &[], 404),
        ("GET", "/latest/nothing", &[], 404),
        (
            "GET",
            "/latest/meta-data/public-keys/9/openssh-key",
            &[],
            404,
        ),
        ("GET", "/latest/meta-data/public-keys/x", &[], 404),
        ("GET", "/openstack/1999-01-01", &[], 404),
        ("GET", "/latest/../latest", &[], 404),
    ] {
        let answer = asked(&context, 5, &request(method, path, headers)).await;
        assert_eq!(answer.0, code, "{method} {path}");
    }
}

/// RFC 4231, test cases 1, 2 and 6.
#[test]
fn signatures_are_hmac_sha256() {
    let cases: [(&[u8], &[u8], &str); 3] = [
        (
            &[0x0b; 20],
            b"Hi There",
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
        ),
        (
            b"Jefe",
            b"what do ya want for nothing?",
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        ),
        (
            &[0xaa; 131],
            b"Test Using Larger Than Block-Size Key - Hash Key First",
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        ),
    ];
    for (key, message, signature) in cases {
        assert_eq!(nova::signature(key, message), signature);
    }
}

mod asking_nova {
    use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        sync::mpsc,
    };

    use super::*;
    use crate::testing::Scratch;

    fn secret_file(scratch: &Scratch, mode: u32) -> PathBuf {
        let path = scratch.path().join("secret");
        fs::write(&path, "hush\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn reached_at(port: u16, secret: PathBuf) -> NovaConfig {
        NovaConfig {
            host: "127.0.0.1".to_owned(),
            port,
            tls: false,
            shared_secret_file: secret,
            ca_file: None,
        }
    }

    /// A server that notes what it is asked, and answers a signed question about `/x` with that status.
    async fn nova(answers: &'static str) -> (u16, mpsc::UnboundedReceiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (notes, noted) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = vec![];
                while !head.windows(4).any(|w| w == b"\r\n\r\n") {
                    let mut piece = [0; 1024];
                    let n = stream.read(&mut piece).await.unwrap();
                    head.extend_from_slice(&piece[..n]);
                }
                let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
                let signed = super::nova::signature(b"hush", b"3f0a");
                let good = head.contains(&format!("x-instance-id-signature: {signed}\r\n"));
                let status = if good { answers } else { "403 Forbidden" };
                let answer = format!(
                    "HTTP/1.1 {status}\r\nContent-Type: text/x-nova\r\nContent-Length: 4\r\nConnection: close\r\n\r\npage"
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
                drop(notes.send(head));
            }
        });
        (port, noted)
    }

    fn novas(config: &NovaConfig) -> Context {
        let metadata = Metadata {
            hostname: None,
            public_keys: std::collections::BTreeMap::new(),
            user_data: None,
            ..told()
        };
        Context {
            nova: Some(Nova::open(config).unwrap()),
            ..set(metadata)
        }
    }

    #[test]
    fn who_asks_is_known_by_the_address_it_asks_from_or_one_of_that_family() {
        let [v4, other, v6]: [IpAddr; 3] =
            ["10.0.0.5", "10.0.0.6", "fd00::5"].map(|a| a.parse().unwrap());
        let link_local: IpAddr = "fe80::5".parse().unwrap();
        let all = [v4, other, v6];
        for (from, own, seen) in [
            (other, &all[..], other),
            (v6, &all, v6),
            (link_local, &all, v6),
            (link_local, &all[..2], v4),
            (link_local, &[], link_local),
        ] {
            assert_eq!(
                server::seen_as(from, own),
                seen,
                "from {from}, who has {own:?}"
            );
        }
    }

    #[tokio::test]
    async fn it_is_told_who_asks_with_our_signature_and_nothing_that_the_workload_says_of_itself() {
        let scratch = Scratch::new("nova-asked");
        let (port, mut noted) = nova("200 OK").await;
        let context = novas(&reached_at(port, secret_file(&scratch, 0o600)));
        let lies = [
            ("X-Instance-ID", "another"),
            ("X-Tenant-ID", "another"),
            ("X-Instance-ID-Signature", "forged"),
            ("X-Metadata-Provider", "another"),
            ("User-Agent", "cloud-init"),
        ];
        let answer = asked(&context, 5, &request("GET", "/latest/x?y=1", &lies)).await;
        assert_eq!(answer, (200, "page".to_owned()));
        let head = noted.recv().await.unwrap();
        assert!(head.starts_with("get /latest/x?y=1 http/1.1\r\n"), "{head}");
        for line in [
            "x-instance-id: 3f0a",
            "x-tenant-id: p",
            "x-forwarded-for: 10.0.0.5",
            "user-agent: cloud-init",
        ] {
            assert_eq!(head.matches(line).count(), 1, "{line}: {head}");
        }
        assert!(
            !head.contains("another") && !head.contains("forged"),
            "{head}"
        );
        // Of a port that is not Nova's, and of one whose owner set something, the switch speaks.
        let path = "/latest/meta-data/instance-id";
        assert_eq!(
            asked(&context, 6, &request("GET", path, &[])).await.1,
            id(6).to_string()
        );
        let set = Context {
            nova: context.nova,
            ..set(told())
        };
        assert_eq!(asked(&set, 5, &request("GET", path, &[])).await.1, "3f0a");
    }

    #[tokio::test]
    async fn its_refusals_are_passed_on_and_its_silence_is_503() {
        let scratch = Scratch::new("nova-refuses");
        for (status, code) in [
            ("404 Not Found", 404),
            ("500 Internal Server Error", 500),
            ("503 Service Unavailable", 503),
            ("302 Found", 500),
        ] {
            let (port, _noted) = nova(status).await;
            let context = novas(&reached_at(port, secret_file(&scratch, 0o600)));
            let answer = asked(&context, 5, &request("GET", "/x", &[])).await;
            assert_eq!(answer.0, code, "{status}");
            assert_ne!(answer.1, "page");
        }
        // Another secret: refused.
        let (port, _noted) = nova("200 OK").await;
        let path = secret_file(&scratch, 0o600);
        fs::write(&path, "other").unwrap();
        let context = novas(&reached_at(port, path.clone()));
        assert_eq!(asked(&context, 5, &request("GET", "/x", &[])).await.0, 403);
        // Nobody there.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let context = novas(&reached_at(port, path));
        assert_eq!(asked(&context, 5, &request("GET", "/x", &[])).await.0, 503);
    }

    #[test]
    fn a_secret_that_others_may_read_is_refused_and_never_printed() {
        let scratch = Scratch::new("nova-secret");
        for mode in [0o644, 0o640, 0o604] {
            let refused = Nova::open(&reached_at(1, secret_file(&scratch, mode)));
            assert!(matches!(refused, Err(NovaError::Mode(_))), "{mode:o}");
        }
        let nova = Nova::open(&reached_at(1, secret_file(&scratch, 0o400))).unwrap();
        assert!(!format!("{nova:?}").contains("hush"));
        let none = reached_at(1, scratch.path().join("none"));
        assert!(matches!(Nova::open(&none), Err(NovaError::Read { .. })));
        let tls = NovaConfig {
            tls: true,
            ca_file: Some(secret_file(&scratch, 0o600)),
            ..reached_at(1, secret_file(&scratch, 0o600))
        };
        assert!(matches!(Nova::open(&tls), Err(NovaError::Certificates(_))));
    }
}

mod by_tcp {
    //! Questions for names by TCP, and who answers those that the network does not know.

    use simple_dns::{CLASS, Name, Packet, PacketFlag, Question, RCODE, TYPE, rdata::RData};

    use super::*;

    /// Port 5 is `web`; these are the network's name servers.
    fn context(servers: &[&str]) -> Context {
        let (mut network, mut port) = (network(1, 7), port(5, 1));
        let Section::Network(of) = &mut network else {
            unreachable!("it is a network")
        };
        of.domain = "blue.example".to_owned();
        of.resolvers = servers.iter().map(|s| s.parse().unwrap()).collect();
        if let Section::Port(port) = &mut port {
            port.dns_name = Some("web".to_owned());
        }
        let config = config([network, port]);
        let zones = [(id(5), net::Zone(7))].into();
        Context {
            directory: Arc::new(ArcSwap::from_pointee(Directory::new(&config))),
            tables: Arc::new(ArcSwap::from_pointee(Tables::build(
                None, &config, &zones, 1,
            ))),
            ..set(told())
        }
    }

    fn question(name: &str) -> Vec<u8> {
        let mut message = Packet::new_query(0x1234);
        let name = Name::new(name).unwrap();
        let of = Question::new(name, TYPE::A.into(), CLASS::IN.into(), false);
        message.questions.push(of);
        framed(&message.build_bytes_vec().unwrap())
    }

    fn framed(message: &[u8]) -> Vec<u8> {
        let length = u16::try_from(message.len()).unwrap();
        [&length.to_be_bytes(), message].concat()
    }

    /// The first message of these bytes.
    fn first(bytes: &mut Vec<u8>) -> Vec<u8> {
        let length = usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
        let rest = bytes.split_off(2 + length);
        std::mem::replace(bytes, rest).split_off(2)
    }

    fn read(client: &mut Client, handle: SocketHandle, into: &mut Vec<u8>) {
        let socket = client.socket(handle);
        while socket.can_recv() {
            socket
                .recv(|bytes| {
                    into.extend_from_slice(bytes);
                    (bytes.len(), ())
                })
                .unwrap();
        }
    }

    /// What a client hears to what it says, and the name server's hears. Whatever the service sends in the client's name is that one's.
    async fn converse(
        context: Context,
        v6: bool,
        says: &[u8],
        mut server: Option<(&mut Client, &[u8])>,
        enough: usize,
    ) -> (Vec<u8>, Vec<u8>) {
        let (doors, mut hatches) = hatch::hatches(1, 64, 64);
        let stacks = Stacks::new(Limits::default(), 7, Arc::clone(&context.counters));
        let serves = run(doors, stacks, context, vec![], crate::worker::monotonic);
        let talk = async {
            let hatch = &mut hatches[0];
            let mut client = Client::new(5, if v6 { "fe80::5" } else { "10.0.0.5" });
            let socket = client.connect_to(4000, 53);
            let listens = server.as_mut().filter(|(_, answer)| !answer.is_empty());
            let there = listens.map(|(server, _)| {
                let buffer = || tcp::SocketBuffer::new(vec![0; 65_535]);
                let mut socket = tcp::Socket::new(buffer(), buffer());
                socket.listen(dns::UPSTREAM).unwrap();
                server.sockets.add(socket)
            });
            let (mut told, mut asked) = (vec![], vec![]);
            let (mut said, mut answered) = (false, false);
            for _ in 0..1_000_000 {
                let now = crate::worker::monotonic();
                for inward in client.sends(now) {
                    assert!(hatch.put(inward));
                }
                let sent = server.iter_mut().flat_map(|(server, _)| server.sends(now));
                for packet in sent {
                    let port = id(5);
                    assert!(hatch.put(Inward { port, ..packet }));
                }
                if let (Some((server, answer)), Some(there)) = (&mut server, there) {
                    read(server, there, &mut asked);
                    if !answered && asked.len() > 2 {
                        let socket = server.socket(there);
                        assert_eq!(socket.send_slice(answer).unwrap(), answer.len());
                        answered = true;
                    }
                }
                while let Some(Outward { port, frame, sent }) = hatch.pop() {
                    assert_eq!(port, id(5));
                    let ends = [mac_of(port), service::MAC].map(Mac::octets);
                    let ip = frame[14..].to_vec();
                    if !sent {
                        assert_eq!([&frame[..6], &frame[6..12]], ends);
                        client.device.rx.push_back(ip);
                        continue;
                    }
                    assert_eq!([&frame[6..12], &frame[..6]], ends);
                    let (server, _) = server.as_mut().expect("nobody is asked in vain");
                    server.device.rx.push_back(ip);
                }
                if client.socket(socket).can_send() && !said {
                    assert_eq!(client.socket(socket).send_slice(says).unwrap(), says.len());
                    said = true;
                }
                read(&mut client, socket, &mut told);
                if told.len() >= enough {
                    break;
                }
                tokio::task::yield_now().await;
            }
            assert!(told.len() >= enough, "{} of {enough} bytes", told.len());
            drop(hatches);
            (told, asked)
        };
        let set = LocalSet::new();
        let all = async { tokio::join!(serves, talk).1 };
        set.run_until(all).await
    }

    fn code(message: &[u8]) -> RCODE {
        let message = Packet::parse(message).unwrap();
        assert_eq!(message.id(), 0x1234);
        assert!(message.has_flags(PacketFlag::RESPONSE));
        message.rcode()
    }

    #[tokio::test]
    async fn what_the_network_knows_is_said_and_what_nobody_is_there_to_say_is_refused() {
        let says = [
            question("web.blue.example"),
            question("example.org"),
            question("nobody"),
        ];
        let context = context(&[]);
        let counters = Arc::clone(&context.counters);
        let (mut told, _) = converse(context, false, &says.concat(), None, 105).await;
        assert_eq!(counters.read().named, [3, 0, 0, 0]);
        let web = first(&mut told);
        let web = Packet::parse(&web).unwrap();
        assert!(matches!(&web.answers[0].rdata, RData::A(a) if a.address == 0x0a00_0005));
        assert_eq!(code(&first(&mut told)), RCODE::Refused);
        assert_eq!(code(&first(&mut told)), RCODE::NameError);
    }

    #[tokio::test]
    async fn what_it_does_not_know_is_asked_of_its_name_server_in_the_workloads_name() {
        for v6 in [false, true] {
            let own = if v6 {
                service::V6.into()
            } else {
                IpAddr::from(service::V4)
            };
            let mut server = Client::new(9, &own.to_string());
            let says = [question("web"), question("example.org"), question("web")];
            let long = framed(&vec![7; 40_000]);
            let context = context(&["10.0.0.9", "fd00::9"]);
            let counters = Arc::clone(&context.counters);
            let (mut told, asked) = converse(
                context,
                v6,
                &says.concat(),
                Some((&mut server, &long)),
                40_000 + 2 * 40,
            )
            .await;
            assert_eq!(code(&first(&mut told)), RCODE::NoError);
            assert_eq!(first(&mut told), vec![7; 40_000], "as it was said");
            assert_eq!(code(&first(&mut told)), RCODE::NoError);
            assert_eq!(asked, question("example.org"), "and nothing else was asked");
            assert_eq!(counters.read().named, [2, 1, 0, 0]);
        }
    }

    #[tokio::test]
    async fn a_name_server_that_does_not_listen_is_a_failure() {
        let says = [question("example.org"), question("web")].concat();
        let mut deaf = Client::new(9, &service::V4.to_string());
        let context = context(&["10.0.0.9"]);
        let counters = Arc::clone(&context.counters);
        let (mut told, _) = converse(context, false, &says, Some((&mut deaf, &[])), 50).await;
        assert_eq!(counters.read().named, [1, 0, 1, 0]);
        assert_eq!(code(&first(&mut told)), RCODE::ServerFailure);
        assert_eq!(code(&first(&mut told)), RCODE::NoError);
    }
}
