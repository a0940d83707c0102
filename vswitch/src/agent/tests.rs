//! Does the agent do what it is told, and find its way back after a restart?

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Mutex,
    time::Duration,
};

use hostconfig::{Section, wire::from_host};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{
    testkit::{Authority, config, endpoint, network, port},
    *,
};
use crate::{
    local::{Attach, Detach},
    testing::Scratch,
};

/// What outlives a vswitch: the devices of a host, by place; and what its workers last ran.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    pub(crate) devices: BTreeMap<(PathBuf, String), Id<kind::Port>>,
    pub(crate) held: BTreeSet<Id<kind::Port>>,
    pub(crate) ran: Vec<u64>,
    gone: Vec<Id<kind::Port>>,
    pub(crate) dead: bool,
    /// Physical networks whose interfaces are down.
    pub(crate) broken_wires: BTreeSet<String>,
    ports: usize,
    changes: usize,
    /// It does not hear from its controller.
    alone: bool,
    lease: Now,
    /// A worker saw it end.
    lapsed: bool,
    /// What it has of limits that several hosts share.
    divided: BTreeMap<OneWay, u64>,
    /// What its workers counted.
    counted: BTreeMap<meters::Key, Count>,
    /// What became of members that it asks.
    found: Vec<Verdict>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct FakeSwitch(pub(crate) Arc<Mutex<Machine>>);

fn place(at: &Attachment) -> (PathBuf, String) {
    (at.netns.clone(), at.ifname.clone())
}

impl Switch for FakeSwitch {
    fn fence(&mut self, alone: bool) {
        self.0.lock().unwrap().alone = alone;
    }
    fn lease(&mut self, until: Now) {
        self.0.lock().unwrap().lease = until;
    }
    fn lapsed(&mut self) -> bool {
        std::mem::take(&mut self.0.lock().unwrap().lapsed)
    }
    fn run(&mut self, config: &HostConfig, zones: &Ports) -> Vec<Complaint> {
        let mut machine = self.0.lock().unwrap();
        machine.ran.push(config.generation.get());
        let ports = config
            .sections
            .keys()
            .filter(|k| matches!(k, SectionKey::Port(_)));
        machine.ports = ports.count();
        let gateways = config.sections.keys();
        let gateways = gateways.filter(|k| matches!(k, SectionKey::Router(_)));
        assert_eq!(zones.zones.len(), machine.ports + gateways.count());
        Vec::new()
    }
    fn create(&mut self, wanted: &Wanted<'_>) -> Result<(), DeviceError> {
        assert_eq!(wanted.network.id, wanted.port.network);
        let mut machine = self.0.lock().unwrap();
        let owner = *machine
            .devices
            .entry(place(wanted.at))
            .or_insert(wanted.port.id);
        if owner != wanted.port.id {
            return Err(DeviceError {
                code: code::NAME_TAKEN,
                message: "taken".to_owned(),
            });
        }
        machine.held.insert(owner);
        Ok(())
    }
    fn open(&mut self, wanted: &Wanted<'_>) -> Result<(), DeviceError> {
        let mut machine = self.0.lock().unwrap();
        if machine.devices.get(&place(wanted.at)) != Some(&wanted.port.id) {
            return Err(DeviceError {
                code: code::DEVICE,
                message: "no such tap".to_owned(),
            });
        }
        machine.held.insert(wanted.port.id);
        Ok(())
    }
    fn change(&mut self, _: &Wanted<'_>) -> Result<(), DeviceError> {
        self.0.lock().unwrap().changes += 1;
        Ok(())
    }
    fn close(&mut self, port: Id<kind::Port>) {
        self.0.lock().unwrap().held.remove(&port);
    }
    fn delete(&mut self, _: Id<kind::Port>, at: &Attachment) -> Result<(), DeviceError> {
        self.0.lock().unwrap().devices.remove(&place(at));
        Ok(())
    }
    fn wires(&mut self, config: &HostConfig) -> Obstacles {
        let machine = self.0.lock().unwrap();
        let broken = |name: &str| machine.broken_wires.contains(name);
        let wired = super::apply::wired(config);
        wired
            .filter(|(_, wire)| broken(&wire.physical))
            .map(|(network, wire)| (network.id, format!("{} is down", wire.physical)))
            .collect()
    }
    fn gone(&mut self) -> Vec<Id<kind::Port>> {
        std::mem::take(&mut self.0.lock().unwrap().gone)
    }
    fn meters(&mut self) -> BTreeMap<meters::Key, Count> {
        self.0.lock().unwrap().counted.clone()
    }
    fn divide(&mut self, parts: &BTreeMap<OneWay, u64>) -> BTreeMap<OneWay, Use> {
        self.0.lock().unwrap().divided.clone_from(parts);
        BTreeMap::new()
    }
    fn balanced(&mut self) -> Balanced {
        Balanced::new()
    }
    fn verdicts(&mut self) -> Vec<Verdict> {
        self.0.lock().unwrap().found.clone()
    }
    fn ask(&mut self, _: &Ask) -> Result<Answer, Refusal> {
        Ok(Answer::default())
    }
    fn is_alive(&mut self) -> bool {
        !self.0.lock().unwrap().dead
    }
    fn stop(&mut self) {
        self.0.lock().unwrap().held.clear();
    }
}

#[derive(Debug, Clone, Default)]
struct FakeWire(Arc<Mutex<Vec<Said>>>);

/// A message on a stream; none: the stream was opened.
type Said = (StreamId, Option<from_host::Message>);

impl Wire for FakeWire {
    fn connect(&mut self, stream: StreamId, _: &Arc<ClientConfig>) {
        self.0.lock().unwrap().push((stream, None));
    }
    fn send(&mut self, stream: StreamId, message: wire::FromHost) -> bool {
        self.0.lock().unwrap().push((stream, message.message));
        true
    }
    fn disconnect(&mut self, _: StreamId) {}
}

/// A host: what outlives its vswitch, and the one that runs.
struct Host {
    dir: Scratch,
    machine: FakeSwitch,
    wire: FakeWire,
    agent: Option<Agent<FakeSwitch, FakeWire>>,
    now: Now,
    identity: Identity,
}

impl Host {
    fn new(name: &str) -> Self {
        let (identity, _) = Authority::new().host("h1");
        let mut host = Self {
            dir: Scratch::new(name),
            machine: FakeSwitch::default(),
            wire: FakeWire::default(),
            agent: None,
            now: Now::ZERO,
            identity,
        };
        host.start();
        host
    }

    fn start(&mut self) {
        let me = Me {
            host: "h1".to_owned(),
            controller: "https://192.0.2.9:9697".to_owned(),
            underlay: Underlay {
                vtep: "192.0.2.1".parse().unwrap(),
                mtu: 1500,
            },
            workers: 1,
            physical_networks: Vec::new(),
            proxies: false,
            availability_zone: "nova".to_owned(),
        };
        let state = State::open(&self.dir.path().join("state")).unwrap();
        let (switch, wire) = (self.machine.clone(), self.wire.clone());
        self.agent = Some(Agent::new(me, state, switch, wire, self.now).unwrap());
    }

    fn kill(&mut self) {
        self.agent = None;
        self.machine.0.lock().unwrap().held.clear();
    }

    fn agent(&mut self) -> &mut Agent<FakeSwitch, FakeWire> {
        self.agent.as_mut().unwrap()
    }

    fn hear(&mut self, input: Input) {
        let now = self.now;
        self.agent().hear(input, now);
        self.agent().settle(now);
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        let now = self.now;
        self.agent().settle(now);
    }

    fn connect(&mut self) -> StreamId {
        let identity = self.identity.clone();
        let fresh = self.agent().state.identity().unwrap().is_none();
        self.hear(Input::Joined { identity, fresh });
        let stream = self.wire.0.lock().unwrap().last().unwrap().0;
        self.hear(Input::Session(Event::Connected(stream)));
        stream
    }

    /// The controller asks, and says what reading of this host's clock it has.
    fn ping(&mut self, stream: StreamId, heard: Now) {
        let message = wire::from_controller::Message::Ping(wire::Ping {
            nonce: 1,
            heard: Some(heard.nanos()),
        });
        let message = wire::FromController {
            message: Some(message),
        };
        self.hear(Input::Session(Event::Received(stream, message)));
    }

    fn tell(&mut self, stream: StreamId, config: &HostConfig) {
        let body = |s: &Arc<hostconfig::Keyed>| wire::SectionBody {
            key: s.key().to_string(),
            hash: s.hash().0.to_vec(),
            body: s.bytes().to_vec(),
        };
        let update = wire::Update {
            incarnation: config.incarnation.to_string(),
            generation: config.generation.get(),
            whole: true,
            upserts: config.sections.values().map(body).collect(),
            removals: Vec::new(),
            digest: config.digest().0.to_vec(),
            replaced: Vec::new(),
        };
        let message = Some(wire::from_controller::Message::Update(update));
        let message = wire::FromController { message };
        self.hear(Input::Session(Event::Received(stream, message)));
    }

    fn ask(&mut self, ask: Ask) -> oneshot::Receiver<Result<Answer, Refusal>> {
        let (reply, answer) = oneshot::channel();
        self.hear(Input::Ask(ask, reply));
        answer
    }

    fn attach(&mut self, port: u128, ifname: &str) -> oneshot::Receiver<Result<Answer, Refusal>> {
        let netns = self.dir.path().display().to_string();
        self.ask(Ask::Attach(Attach {
            port: id(port),
            netns,
            ifname: ifname.to_owned(),
            fixed: true,
        }))
    }

    fn acks(&self) -> Vec<wire::Ack> {
        let said = self.wire.0.lock().unwrap();
        let acks = said.iter().filter_map(|(_, m)| match m {
            Some(from_host::Message::Ack(ack)) => Some(ack.clone()),
            _ => None,
        });
        acks.collect()
    }

    fn told_of(&self, port: u128) -> Option<wire::PortState> {
        let said = self.wire.0.lock().unwrap();
        let reports = said.iter().filter_map(|(_, m)| match m {
            Some(from_host::Message::Report(report)) => Some(report),
            _ => None,
        });
        let mut ports = reports.flat_map(|r| r.ports.clone());
        ports.rfind(|p| p.port == id(port).to_string())
    }
}

fn id(n: u128) -> Id<kind::Port> {
    Uuid::from_u128(n).into()
}

fn two_ports(generation: u64) -> HostConfig {
    let mut config = config([network(1, 5001), port(1, 1), port(2, 1)]);
    config.generation.0 = generation;
    config
}

fn code_of(answer: &mut oneshot::Receiver<Result<Answer, Refusal>>) -> &'static str {
    match answer.try_recv() {
        Ok(Ok(_)) => "ok",
        Ok(Err(refusal)) => refusal.code,
        Err(_) => "waiting",
    }
}

#[test]
fn a_config_is_run_kept_and_acknowledged_and_the_port_is_active_once_attached() {
    let mut host = Host::new("agent-run");
    assert_eq!(code_of(&mut host.ask(Ask::Health)), code::UNAVAILABLE);
    let stream = host.connect();
    assert_eq!(code_of(&mut host.ask(Ask::Health)), code::UNAVAILABLE);
    host.tell(stream, &two_ports(3));
    assert_eq!(host.machine.0.lock().unwrap().ran, [3]);
    assert_eq!(host.acks().last().unwrap().generation, 3);
    assert_eq!(code_of(&mut host.ask(Ask::Health)), "ok");
    let down = host.told_of(1).unwrap();
    assert_eq!((down.attached, down.active), (false, false));

    assert_eq!(code_of(&mut host.attach(1, "eth0")), "ok");
    let up = host.told_of(1).unwrap();
    assert_eq!(
        (up.attached, up.active, up.reason.as_str()),
        (true, true, "")
    );
    // Again, the same: nothing new. Another place: refused.
    assert_eq!(code_of(&mut host.attach(1, "eth0")), "ok");
    assert_eq!(
        code_of(&mut host.attach(1, "eth1")),
        code::ATTACHED_ELSEWHERE
    );
    assert_eq!(code_of(&mut host.attach(2, "eth0")), code::NAME_TAKEN);
    assert_eq!(host.machine.0.lock().unwrap().devices.len(), 1);
}

#[test]
fn an_update_that_says_nothing_new_is_acknowledged_and_not_run_again() {
    let mut host = Host::new("agent-same");
    let stream = host.connect();
    host.tell(stream, &two_ports(3));
    host.tell(stream, &two_ports(3));
    assert_eq!(host.machine.0.lock().unwrap().ran, [3]);
    assert_eq!(host.acks().len(), 2);
}

#[test]
fn a_restarted_vswitch_forwards_from_disk_before_it_hears_from_anyone() {
    let mut host = Host::new("agent-disk");
    let stream = host.connect();
    host.tell(stream, &two_ports(3));
    assert_eq!(code_of(&mut host.attach(1, "eth0")), "ok");
    let zones = host.agent().ports.zones.clone();

    host.kill();
    host.start();
    assert_eq!(host.machine.0.lock().unwrap().ran, [3, 3]);
    assert_eq!(host.machine.0.lock().unwrap().held, [id(1)].into());
    // And again, now that it was flushed.
    host.pass(FLUSH_AFTER);
    assert!(host.dir.path().join("state/config").exists());
    host.kill();
    host.start();
    assert_eq!(host.machine.0.lock().unwrap().ran, [3, 3, 3]);
    assert_eq!(host.agent().ports.zones, zones);
    // It tells so as soon as it is heard.
    host.wire.0.lock().unwrap().clear();
    host.connect();
    assert!(host.told_of(1).unwrap().active);
    assert_eq!(code_of(&mut host.ask(Ask::Health)), "ok");
}

#[test]
fn a_device_that_is_gone_after_a_restart_is_told_of_and_can_be_attached_again() {
    let mut host = Host::new("agent-lost");
    let stream = host.connect();
    host.tell(stream, &two_ports(3));
    assert_eq!(code_of(&mut host.attach(1, "eth0")), "ok");
    host.kill();
    host.machine.0.lock().unwrap().devices.clear();
    host.start();
    host.connect();
    let state = host.told_of(1).unwrap();
    assert_eq!(
        (state.active, state.reason.as_str()),
        (false, "no such tap")
    );
    assert_eq!(code_of(&mut host.attach(1, "eth0")), "ok");
    assert!(host.told_of(1).unwrap().active);

    host.machine.0.lock().unwrap().gone.push(id(1));
    host.hear(Input::DeviceGone);
    assert!(!host.told_of(1).unwrap().attached);
}

#[test]
fn an_attachment_waits_for_its_port_and_not_for_ever() {
    let mut host = Host::new("agent-wait");
    let stream = host.connect();
    let mut first = host.attach(1, "eth0");
    assert_eq!(code_of(&mut first), "waiting");
    host.pass(FLUSH_AFTER);
    assert_eq!(
        host.agent().deadline(),
        Some(Now::ZERO + Duration::from_secs(10))
    );
    host.pass(Duration::from_secs(8));
    host.tell(stream, &two_ports(3));
    assert_eq!(code_of(&mut first), "ok");

    let mut unknown = host.attach(7, "eth7");
    host.pass(Duration::from_millis(9999));
    assert_eq!(code_of(&mut unknown), "waiting");
    host.pass(Duration::from_millis(1));
    assert_eq!(code_of(&mut unknown), code::UNKNOWN_PORT);
    assert!(host.agent().waiting.is_empty());
}

#[test]
fn each_reason_not_to_attach_has_its_code() {
    let mut host = Host::new("agent-codes");
    let stream = host.connect();
    let mut down = port(4, 1);
    if let Section::Port(p) = &mut down {
        p.admin_up = false;
    }
    host.tell(
        stream,
        &config([network(1, 5001), endpoint(3, 1), down, port(5, 1)]),
    );
    let mut elsewhere = host.attach(3, "eth3");
    host.pass(Duration::from_secs(2));
    assert_eq!(code_of(&mut elsewhere), code::BOUND_ELSEWHERE);
    let mut down = host.attach(4, "eth4");
    host.pass(Duration::from_secs(10));
    assert_eq!(code_of(&mut down), code::TIMEOUT);
    // A device of another's.
    let netns = host.dir.path().canonicalize().unwrap();
    host.machine
        .0
        .lock()
        .unwrap()
        .devices
        .insert((netns, "eth5".to_owned()), id(99));
    assert_eq!(code_of(&mut host.attach(5, "eth5")), code::NAME_TAKEN);
    assert!(
        !host.agent().ports.attachments.contains_key(&id(5)),
        "nothing half-made stays"
    );
    assert_eq!(code_of(&mut host.attach(5, "no/name")), code::BAD_REQUEST);
    let nowhere = Ask::Attach(Attach {
        port: id(5),
        netns: "/nowhere/at/all".to_owned(),
        ifname: "eth0".to_owned(),
        fixed: false,
    });
    assert_eq!(code_of(&mut host.ask(nowhere)), code::NO_NAMESPACE);
}

#[test]
fn a_namespace_that_went_takes_its_port_down_and_its_name_may_be_used_again() {
    let mut host = Host::new("agent-netns");
    let stream = host.connect();
    host.tell(stream, &two_ports(3));
    host.pass(FLUSH_AFTER);
    let netns = host.dir.path().join("w");
    std::fs::write(&netns, "").unwrap();
    let attach = || Attach {
        port: id(1),
        netns: netns.display().to_string(),
        ifname: "eth0".to_owned(),
        fixed: true,
    };
    assert_eq!(code_of(&mut host.ask(Ask::Attach(attach()))), "ok");
    assert_eq!(
        host.agent().deadline(),
        Some(Now::ZERO + attach::LOOK_EVERY)
    );
    // Gone: seen at the next look.
    std::fs::remove_file(&netns).unwrap();
    host.pass(attach::LOOK_EVERY);
    assert!(!host.told_of(1).unwrap().attached);
    assert!(host.machine.0.lock().unwrap().held.is_empty());
    assert_eq!(host.agent().deadline(), None);
    // Back, another one of the same name; then replaced behind the switch's back: seen by whoever attaches.
    std::fs::write(&netns, "").unwrap();
    assert_eq!(code_of(&mut host.ask(Ask::Attach(attach()))), "ok");
    let other = host.dir.path().join("other");
    std::fs::write(&other, "").unwrap();
    std::fs::rename(&other, &netns).unwrap();
    host.machine.0.lock().unwrap().devices.clear();
    assert_eq!(code_of(&mut host.ask(Ask::Attach(attach()))), "ok");
    assert_eq!(host.machine.0.lock().unwrap().devices.len(), 1);
    assert!(host.told_of(1).unwrap().active);
}

#[test]
fn a_namespace_may_be_a_process_s() {
    let mut host = Host::new("agent-proc");
    let stream = host.connect();
    host.tell(stream, &two_ports(3));
    let attach = Attach {
        port: id(1),
        netns: format!("/proc/{}/ns/net", std::process::id()),
        ifname: "eth0".to_owned(),
        fixed: true,
    };
    assert_eq!(code_of(&mut host.ask(Ask::Attach(attach))), "ok");
}

#[test]
fn a_worker_that_ended_is_noticed() {
    let mut host = Host::new("agent-dead");
    let stream = host.connect();
    host.tell(stream, &two_ports(3));
    assert_eq!(code_of(&mut host.attach(1, "eth0")), "ok");
    host.machine.0.lock().unwrap().dead = true;
    assert!(host.agent().is_sound());
    host.pass(attach::LOOK_EVERY);
    assert!(!host.agent().is_sound());
}

#[test]
fn a_detached_port_leaves_nothing() {
    let mut host = Host::new("agent-detach");
    let stream = host.connect();
    host.tell(stream, &two_ports(3));
    assert_eq!(code_of(&mut host.attach(1, "eth0")), "ok");
    let detach = || Ask::Detach(Detach { port: id(1) });
    assert_eq!(code_of(&mut host.ask(detach())), "ok");
    assert!(host.machine.0.lock().unwrap().devices.is_empty());
    assert!(!host.told_of(1).unwrap().attached);
    assert_eq!(code_of(&mut host.ask(detach())), code::NOT_ATTACHED);
    host.kill();
    host.start();
    assert!(host.machine.0.lock().unwrap().held.is_empty());
}

#[test]
fn an_unbound_port_lets_go_of_its_device_and_takes_it_again_when_it_is_back() {
    let mut host = Host::new("agent-unbound");
    let stream = host.connect();
    host.tell(stream, &two_ports(3));
    assert_eq!(code_of(&mut host.attach(1, "eth0")), "ok");
    let zone = host.agent().ports.zones[&id(1)];
    let mut without = config([network(1, 5001), port(2, 1)]);
    without.generation.0 = 4;
    host.tell(stream, &without);
    assert!(host.machine.0.lock().unwrap().held.is_empty());
    assert_eq!(host.machine.0.lock().unwrap().devices.len(), 1);
    host.tell(stream, &two_ports(5));
    assert_eq!(host.machine.0.lock().unwrap().held, [id(1)].into());
    assert!(host.told_of(1).unwrap().active);
    assert_ne!(
        host.agent().ports.zones[&id(1)],
        zone,
        "a zone is not reused"
    );
}

#[test]
fn a_sub_port_goes_by_its_parents_device_alone() {
    let mut host = Host::new("agent-trunk");
    let stream = host.connect();
    host.tell(stream, &two_ports(3));
    assert_eq!(code_of(&mut host.attach(2, "eth0")), "ok");
    let mut sub_port = port(2, 1);
    if let Section::Port(p) = &mut sub_port {
        p.trunk = Some(hostconfig::SubPort {
            parent: id(1),
            vlan: net::Vlan::try_from(101).unwrap(),
        });
    }
    let mut trunk = config([network(1, 5001), port(1, 1), sub_port]);
    trunk.generation.0 = 4;
    host.tell(stream, &trunk);
    // The device that it had is left alone, and is not given back to it.
    assert!(host.machine.0.lock().unwrap().held.is_empty());
    assert_eq!(code_of(&mut host.attach(2, "eth0")), code::SUB_PORT);
    assert!(!host.told_of(2).unwrap().active);
    assert_eq!(code_of(&mut host.attach(1, "eth1")), "ok");
    assert!(host.told_of(1).unwrap().active && host.told_of(2).unwrap().active);
    host.kill();
    host.start();
    assert_eq!(host.machine.0.lock().unwrap().held, [id(1)].into());
    // No trunk's any more, it has its own again.
    let stream = host.connect();
    host.tell(stream, &two_ports(5));
    assert_eq!(host.machine.0.lock().unwrap().held, [id(1), id(2)].into());
}

#[test]
fn a_changed_mtu_is_followed_and_nothing_else_is_touched() {
    let mut host = Host::new("agent-mtu");
    let stream = host.connect();
    host.tell(stream, &two_ports(3));
    assert_eq!(code_of(&mut host.attach(1, "eth0")), "ok");
    assert_eq!(code_of(&mut host.attach(2, "eth1")), "ok");
    host.tell(stream, &two_ports(4));
    assert_eq!(host.machine.0.lock().unwrap().changes, 0);
    let mut smaller = network(1, 5001);
    if let Section::Network(n) = &mut smaller {
        n.mtu = net::Mtu::try_from(1400).unwrap();
    }
    let mut changed = config([smaller, port(1, 1), port(2, 1)]);
    changed.generation.0 = 5;
    host.tell(stream, &changed);
    assert_eq!(host.machine.0.lock().unwrap().changes, 2);
}

#[test]
fn what_contradicts_itself_is_complained_about_and_the_rest_is_run() {
    let mut host = Host::new("agent-faults");
    let stream = host.connect();
    host.tell(stream, &config([network(1, 5001), port(1, 1), port(2, 2)]));
    assert_eq!(host.machine.0.lock().unwrap().ports, 1);
    let ack = host.acks().pop().unwrap();
    assert_eq!(ack.complaints.len(), 1);
    assert_eq!(ack.complaints[0].key, format!("port/{}", id(2)));
    let mut left_out = host.attach(2, "eth0");
    host.pass(Duration::from_secs(10));
    assert_eq!(code_of(&mut left_out), code::TIMEOUT);
}

#[test]
fn a_damaged_state_dir_is_a_new_beginning_not_an_end() {
    let mut host = Host::new("agent-damaged");
    let stream = host.connect();
    host.tell(stream, &two_ports(3));
    host.kill();
    let file = host.dir.path().join("state/config.next");
    std::fs::write(&file, b"\0\0\0").unwrap();
    host.start();
    assert_eq!(
        host.machine.0.lock().unwrap().ran,
        [3],
        "there is nothing to run"
    );
    let stream = host.connect();
    host.tell(stream, &two_ports(3));
    assert_eq!(host.machine.0.lock().unwrap().ran, [3, 3]);
}

#[test]
fn status_and_metrics_say_where_it_stands() {
    let mut host = Host::new("agent-status");
    let stream = host.connect();
    host.tell(stream, &two_ports(3));
    host.attach(1, "eth0");
    let status = host.ask(Ask::Status).try_recv().unwrap().unwrap();
    assert_eq!(status.ok["generation"], 3);
    assert_eq!(status.ok["connected"], true);
    assert_eq!(status.ok["ports"].as_array().unwrap().len(), 2);
    assert!(status.text.contains("ACTIVE eth0 in"), "{}", status.text);
    let metrics = host.ask(Ask::Metrics).try_recv().unwrap().unwrap().text;
    for line in [
        "vswitch_config_generation 3\n",
        "vswitch_ports_active 1\n",
        "vswitch_ports_bound 2\n",
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
}

#[test]
fn a_gateway_has_a_zone_of_its_own_that_outlives_the_process() {
    let mut host = Host::new("agent-gateway-zone");
    let stream = host.connect();
    let router = |generation| {
        let gateway = hostconfig::router::Gateway {
            port: id(70),
            network: Uuid::from_u128(5).into(),
            mac: net::testkit::mac(70).try_into().unwrap(),
            addrs: vec![],
            nexthops: vec![],
            snat: true,
            at: None,
            movable: true,
            qos: None,
        };
        let mut told = config([hostconfig::Section::Router(hostconfig::Router {
            id: Uuid::from_u128(9).into(),
            name: "r".into(),
            project: Uuid::from_u128(7).into(),
            admin_up: true,
            interfaces: vec![],
            routes: vec![],
            gateway: Some(gateway),
            meters: Vec::new(),
        })]);
        told.generation.0 = generation;
        told
    };
    host.tell(stream, &router(3));
    let zone = host.agent().ports.zones[&id(70)];
    host.kill();
    host.start();
    assert_eq!(host.agent().ports.zones[&id(70)], zone);
    let stream = host.connect();
    let mut without = config([]);
    without.generation.0 = 4;
    host.tell(stream, &without);
    assert!(host.agent().ports.zones.is_empty());
}

#[test]
fn a_port_goes_down_and_up_with_its_networks_wire() {
    let mut host = Host::new("wired");
    let Section::Network(mut wired) = network(1, 5001) else {
        unreachable!("it is a network")
    };
    wired.wire = Some(hostconfig::network::Wire {
        physical: "physnet1".to_owned(),
        vlan: None,
    });
    let machine = host.machine.clone();
    let set = |broken: bool| {
        let wires = &mut machine.0.lock().unwrap().broken_wires;
        if broken {
            wires.insert("physnet1".to_owned());
        } else {
            wires.clear();
        }
    };
    set(true);
    let stream = host.connect();
    host.tell(stream, &config([Section::Network(wired), port(1, 1)]));
    let attached = host.attach(1, "t1");
    host.pass(Duration::from_secs(11));
    drop(attached);
    let state = |host: &mut Host| {
        let states = host.agent().states();
        let state = &states[&Uuid::from_u128(1).into()];
        (state.active, state.reason.clone())
    };
    assert_eq!(state(&mut host), (false, "physnet1 is down".to_owned()));
    let complaints = host.agent().running.complaints.clone();
    assert_eq!(complaints.len(), 1);
    assert!(complaints[0].key.starts_with("network/"), "{complaints:?}");
    // Nobody tells: it is found within seconds.
    set(false);
    assert!(host.agent().deadline().is_some());
    host.pass(Duration::from_secs(5));
    assert!(state(&mut host).0);
    set(true);
    host.pass(Duration::from_secs(5));
    assert!(!state(&mut host).0);
}

#[test]
fn a_silent_controller_is_waited_for_and_then_what_could_move_is_given_up() {
    let mut host = Host::new("agent-fence");
    let gateway = hostconfig::router::Gateway {
        port: id(70),
        network: Uuid::from_u128(5).into(),
        mac: net::testkit::mac(70).try_into().unwrap(),
        addrs: vec![],
        nexthops: vec![],
        snat: true,
        at: Some("192.0.2.1".parse().unwrap()),
        movable: true,
        qos: None,
    };
    let router = |gateway| hostconfig::Router {
        id: Uuid::from_u128(9).into(),
        name: "r".into(),
        project: Uuid::from_u128(7).into(),
        admin_up: true,
        interfaces: vec![],
        routes: vec![],
        gateway: Some(gateway),
        meters: Vec::new(),
    };
    let elsewhere = router(hostconfig::router::Gateway {
        at: Some("192.0.2.2".parse().unwrap()),
        ..gateway.clone()
    });
    let mut told = config([Section::Router(router(gateway))]);
    told.generation.0 = 3;
    let is_alone = |host: &Host| host.machine.0.lock().unwrap().alone;
    let runs = |host: &Host| host.machine.0.lock().unwrap().ran.len();
    assert!(is_alone(&host), "nothing was heard yet");
    host.pass(Duration::from_secs(3));
    let stream = host.connect();
    host.ping(stream, Now::ZERO);
    host.tell(stream, &told);
    assert!(is_alone(&host), "nothing of it was heard yet");
    let before = runs(&host);
    let first = host.now;
    host.ping(stream, first);
    assert!(!is_alone(&host));
    assert_eq!(runs(&host), before + 1, "its config is run anew");
    let lease = |host: &Host| host.machine.0.lock().unwrap().lease;
    assert_eq!(lease(&host), first + Duration::from_millis(1200));
    host.pass(Duration::from_millis(1100));
    assert!(!is_alone(&host));
    host.pass(Duration::from_millis(200));
    assert!(is_alone(&host));
    assert_eq!(runs(&host), before + 2);
    // What was under way for too long is of no use.
    host.ping(stream, first);
    assert!(is_alone(&host));
    let now = host.now;
    host.ping(stream, now);
    assert!(!is_alone(&host));
    assert_eq!(runs(&host), before + 3);
    // A worker saw the lease end, and the agent heard of another before it looked: what was given up is taken up again.
    host.machine.0.lock().unwrap().lapsed = true;
    host.ping(stream, now);
    assert!(!is_alone(&host));
    assert_eq!(runs(&host), before + 5, "without it, and with it");
    // What is at another host is not run anew.
    let quiet = runs(&host);
    let mut elsewhere = config([Section::Router(elsewhere)]);
    elsewhere.generation.0 = 4;
    host.tell(stream, &elsewhere);
    host.pass(Duration::from_millis(1600));
    assert!(is_alone(&host));
    let now = host.now;
    host.ping(stream, now);
    assert_eq!(runs(&host), quiet + 1, "as it was told, and no more");
    told.generation.0 = 5;
    host.tell(stream, &told);
    // What is said on another stream is not heard.
    host.pass(Duration::from_millis(1600));
    let now = host.now;
    host.ping(session::StreamId::default(), now);
    assert!(is_alone(&host));
    // A new process believes what is on disk only when it is told.
    host.ping(stream, now);
    assert!(!is_alone(&host));
    host.kill();
    host.start();
    assert!(is_alone(&host));
}

#[test]
fn a_host_says_what_it_uses_of_what_several_share_and_has_what_it_is_answered() {
    let node = share::Node {
        id: Uuid::from_u128(7),
        rate_bps: 0,
        ceil_bps: 6_400_000,
        burst_bytes: 3_000,
        fabric: true,
    };
    let egress = hostconfig::qos::Limit {
        share: Some(share::Share {
            rate_bps: 0,
            within: vec![node],
        }),
        ..hostconfig::qos::Limit::default()
    };
    let policy = Section::Qos(hostconfig::QosPolicy {
        id: Uuid::from_u128(8).into(),
        name: "q".to_owned(),
        egress,
        ingress: hostconfig::qos::Limit::default(),
        dscp: None,
    });
    let way = OneWay {
        node: node.id,
        direction: hostconfig::group::Direction::Egress,
    };
    let mut host = Host::new("agent-parts");
    let stream = host.connect();
    host.tell(stream, &config([policy]));
    let has = |host: &Host| host.machine.0.lock().unwrap().divided.get(&way).copied();
    let said = |host: &Host| {
        let said = host.wire.0.lock().unwrap();
        let uses = said.iter().filter_map(|(_, m)| match m {
            Some(from_host::Message::Uses(uses)) => Some(uses.clone()),
            _ => None,
        });
        uses.collect::<Vec<_>>()
    };
    assert_eq!(has(&host), Some(100_000), "never told: a 64th");
    let first = said(&host).pop().unwrap();
    assert_eq!((first.follows, first.uses[0].part_bps), (0, 100_000));
    let part = wire::Part {
        node: node.id.to_string(),
        ingress: false,
        part_bps: 5_000_000,
        alone_bps: 3_200_000,
    };
    let parts = wire::Parts {
        clock: first.clock,
        parts: vec![part],
    };
    let message = Some(from_controller::Message::Parts(parts));
    let message = wire::FromController { message };
    host.hear(Input::Session(Event::Received(stream, message)));
    host.pass(Duration::from_millis(200));
    assert_eq!(has(&host), Some(5_000_000));
    let second = said(&host).pop().unwrap();
    assert_eq!(second.follows, first.clock);
    let mut shown = host.ask(Ask::Metrics);
    let text = shown.try_recv().unwrap().unwrap().text;
    let metric = "direction=\"egress\"} 5000000\n";
    assert!(text.contains(metric), "{text}");
    let mut top = host.ask(Ask::Top);
    let text = top.try_recv().unwrap().unwrap().text;
    assert!(
        text.contains("egress: 5000000 of 6400000 bit/s here"),
        "{text}"
    );
    // Without an answer it comes down to its even part, and the controller need not be there for that.
    host.hear(Input::Session(Event::Lost(stream, "gone".to_owned())));
    host.pass(Duration::from_secs(3));
    assert_eq!(has(&host), Some(3_200_000));
    // Nothing is shared any more.
    let stream = host.wire.0.lock().unwrap().last().unwrap().0;
    host.hear(Input::Session(Event::Connected(stream)));
    let mut empty = config([]);
    empty.generation = hostconfig::Generation(2);
    host.tell(stream, &empty);
    assert_eq!(has(&host), None);
}
