//! Does a host converge on what its controller says, whatever becomes of the stream?

use hostconfig::{AddressSet, Section, diff};
use proptest::prelude::*;
use sha2::Digest as _;

use super::*;

/// A controller with one host: what it holds for it, and what it heard.
#[derive(Debug, Default)]
struct Controller {
    config: HostConfig,
    /// The incarnations that its store was restored from.
    replaced: Vec<Uuid>,
    /// What it believes that the host holds.
    believed: BTreeMap<SectionKey, SectionHash>,
    acks: Vec<wire::Ack>,
    ports: BTreeMap<String, wire::PortState>,
    hellos: Vec<wire::Hello>,
    reports: usize,
    pongs: Vec<u64>,
}

impl Controller {
    fn new(incarnation: u128) -> Self {
        Self {
            config: HostConfig {
                incarnation: Uuid::from_u128(incarnation),
                ..HostConfig::default()
            },
            ..Self::default()
        }
    }

    fn set(&mut self, id: u8, member: u8) {
        self.config.generation.0 += 1;
        self.config.insert(section(id, member));
    }

    fn remove(&mut self, id: u8) {
        self.config.generation.0 += 1;
        self.config.sections.remove(&section(id, 0).key());
    }

    /// What differs from what the host is believed to hold.
    fn update(&mut self) -> wire::Update {
        let upserts = self
            .config
            .sections
            .values()
            .filter(|s| self.believed.get(&s.key()) != Some(&s.hash()))
            .map(|s| body(s))
            .collect();
        let removals = self
            .believed
            .keys()
            .filter(|key| !self.config.sections.contains_key(key))
            .map(ToString::to_string)
            .collect();
        let whole = self.believed.is_empty();
        self.believed = self
            .config
            .sections
            .iter()
            .map(|(k, s)| (*k, s.hash()))
            .collect();
        wire::Update {
            incarnation: self.config.incarnation.to_string(),
            generation: self.config.generation.get(),
            whole,
            upserts,
            removals,
            digest: self.config.digest().0.to_vec(),
            replaced: self.replaced.iter().map(Uuid::to_string).collect(),
        }
    }

    fn hear(&mut self, message: wire::FromHost) {
        match message.message.unwrap() {
            from_host::Message::Hello(hello) => {
                self.believed = hello
                    .sections
                    .iter()
                    .map(|s| {
                        let hash = SectionHash(s.hash.as_slice().try_into().unwrap());
                        (s.key.parse().unwrap(), hash)
                    })
                    .collect();
                self.ports.clear();
                self.hellos.push(hello);
            }
            from_host::Message::Ack(ack) => self.acks.push(ack),
            from_host::Message::Report(report) => {
                self.reports += 1;
                for port in report.ports {
                    self.ports.insert(port.port.clone(), port);
                }
            }
            from_host::Message::Pong(pong) => self.pongs.push(pong.nonce),
            from_host::Message::Uses(_) => {} // of no session's concern
        }
    }
}

/// A host: its session, and the loop around it.
#[derive(Debug)]
struct Host {
    session: Session,
    now: Now,
    stream: Option<StreamId>,
    wake: Option<Now>,
    /// What the workers run, and the disk holds.
    applied: Arc<HostConfig>,
    complaints: Vec<Complaint>,
    /// The incarnations that the disk holds as replaced.
    replaced: Vec<Uuid>,
    dials: Vec<Now>,
}

impl Host {
    fn new(held: HostConfig) -> Self {
        let introduction = Introduction {
            vtep: "192.0.2.1".to_owned(),
            version: "0".to_owned(),
            underlay_mtu: 1500,
            physical_networks: vec!["physnet1".to_owned()],
            proxies: true,
            availability_zone: "west".to_owned(),
        };
        let held = Arc::new(held);
        Self {
            session: Session::new(introduction, Arc::clone(&held), Vec::new(), 42),
            now: Now::ZERO,
            stream: None,
            wake: None,
            applied: held,
            complaints: Vec::new(),
            replaced: Vec::new(),
            dials: Vec::new(),
        }
    }

    fn on(&mut self, event: Event, controller: &mut Controller) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            for effect in self.session.on(event, self.now) {
                match effect {
                    Effect::Connect(stream) => {
                        self.dials.push(self.now);
                        self.stream = Some(stream);
                    }
                    Effect::Disconnect(stream) => {
                        assert_ne!(self.stream, None);
                        self.stream = self.stream.filter(|s| *s != stream);
                    }
                    Effect::Send(stream, message) => {
                        if self.stream == Some(stream) {
                            controller.hear(message);
                        }
                    }
                    Effect::Apply(config) => {
                        self.applied = config;
                        events.push(self.ran());
                    }
                    Effect::Fence(replaced) => self.replaced = replaced,
                    Effect::Wake(at) => self.wake = Some(at),
                }
            }
        }
    }

    fn ran(&self) -> Event {
        Event::Applied(Applied {
            config: Arc::clone(&self.applied),
            complaints: self.complaints.clone(),
        })
    }

    /// Waits, if it must, until it dials; then the stream stands.
    fn connect(&mut self, controller: &mut Controller) -> StreamId {
        self.on(Event::Start, controller);
        while self.stream.is_none() {
            self.now = self.wake.take().unwrap();
            self.on(Event::Tick, controller);
        }
        let stream = self.stream.unwrap();
        self.on(Event::Connected(stream), controller);
        stream
    }

    fn lose(&mut self, controller: &mut Controller) {
        if let Some(stream) = self.stream.take() {
            self.on(Event::Lost(stream, "cut".to_owned()), controller);
        }
    }

    fn receive(&mut self, update: wire::Update, controller: &mut Controller) {
        let message = Some(from_controller::Message::Update(update));
        let stream = self.stream.unwrap();
        self.on(
            Event::Received(stream, wire::FromController { message }),
            controller,
        );
    }

    fn converge(&mut self, controller: &mut Controller) {
        for _ in 0..4 {
            if self.stream.is_none() || !self.session.is_connected() {
                self.connect(controller);
            }
            let update = controller.update();
            self.receive(update, controller);
            if self.applied.digest() == controller.config.digest() {
                return;
            }
        }
        panic!("no convergence: {self:?} {controller:?}");
    }
}

fn section(id: u8, member: u8) -> Arc<Keyed> {
    let set = AddressSet {
        part: None,
        id: Uuid::from_u128(u128::from(id)).into(),
        members: [format!("10.0.0.{member}/32").parse().unwrap()].into(),
    };
    Arc::new(Keyed::new(Section::AddressSet(set)).unwrap())
}

fn body(section: &Keyed) -> wire::SectionBody {
    wire::SectionBody {
        key: section.key().to_string(),
        hash: section.hash().0.to_vec(),
        body: section.bytes().to_vec(),
    }
}

#[test]
fn a_first_config_is_whole_and_later_ones_are_deltas() {
    let (mut host, mut controller) = (Host::new(HostConfig::default()), Controller::new(1));
    controller.set(1, 1);
    controller.set(2, 1);
    host.converge(&mut controller);
    assert_eq!(controller.hellos[0].incarnation, "");
    let kept = Arc::clone(&host.applied.sections[&section(2, 1).key()]);

    controller.set(1, 9);
    controller.set(3, 1);
    controller.remove(1);
    let update = controller.update();
    assert_eq!(
        (update.whole, update.upserts.len(), update.removals.len()),
        (false, 1, 1)
    );
    host.receive(update, &mut controller);
    assert_eq!(*host.applied, controller.config);
    let ack = controller.acks.last().unwrap();
    assert_eq!(
        (ack.generation, ack.digest.as_slice()),
        (5, &controller.config.digest().0[..])
    );
    // An unchanged section is the same allocation: its epoch stays.
    assert!(Arc::ptr_eq(
        &kept,
        &host.applied.sections[&section(2, 1).key()]
    ));
}

#[test]
fn a_host_back_from_disk_is_told_only_the_difference() {
    let (mut host, mut controller) = (Host::new(HostConfig::default()), Controller::new(1));
    for id in 1..9 {
        controller.set(id, 1);
    }
    host.converge(&mut controller);
    let disk = HostConfig::clone(&host.applied);
    controller.set(3, 2);

    let mut host = Host::new(disk);
    assert_eq!(
        host.session.held().sections.len(),
        8,
        "it forwards before it connects"
    );
    host.connect(&mut controller);
    let hello = controller.hellos.last().unwrap();
    assert_eq!((hello.generation, hello.sections.len()), (8, 8));
    let update = controller.update();
    assert_eq!((update.whole, update.upserts.len()), (false, 1));
    host.receive(update, &mut controller);
    assert_eq!(*host.applied, controller.config);
}

#[test]
fn a_delta_that_does_not_lead_to_the_digest_changes_nothing_and_asks_for_everything() {
    let (mut host, mut controller) = (Host::new(HostConfig::default()), Controller::new(1));
    controller.set(1, 1);
    host.converge(&mut controller);
    controller.set(2, 1);
    let lost = controller.update();
    controller.set(3, 1);
    let next = controller.update();
    assert_eq!(lost.upserts.len(), 1);
    let before = HostConfig::clone(&host.applied);
    let stream = host.stream;
    host.receive(next, &mut controller);
    assert_eq!(*host.applied, before);
    assert_ne!(host.stream, stream, "it dials anew, at once");
    host.connect(&mut controller);
    assert_eq!(controller.hellos.last().unwrap().sections, Vec::new());
    let update = controller.update();
    assert!(update.whole);
    host.receive(update, &mut controller);
    assert_eq!(*host.applied, controller.config);
    // The next stream trusts what is held again.
    host.lose(&mut controller);
    host.connect(&mut controller);
    assert_eq!(controller.hellos.last().unwrap().sections.len(), 3);
}

#[test]
fn a_controller_that_is_wrong_each_time_is_asked_ever_more_rarely() {
    let (mut host, mut controller) = (Host::new(HostConfig::default()), Controller::new(1));
    controller.set(1, 1);
    for _ in 0..8 {
        host.connect(&mut controller);
        let mut update = controller.update();
        update.digest = vec![0; 32];
        host.receive(update, &mut controller);
    }
    let gaps: Vec<_> = host.dials.windows(2).map(|w| w[1] - w[0]).collect();
    assert!(gaps.last().unwrap() >= &Duration::from_secs(7), "{gaps:?}");
    assert!(controller.acks.is_empty());
    assert_eq!(*host.applied, HostConfig::default());
}

#[test]
fn a_body_that_is_not_what_was_announced_is_not_followed() {
    let (mut host, mut controller) = (Host::new(HostConfig::default()), Controller::new(1));
    controller.set(1, 1);
    host.connect(&mut controller);
    let mut update = controller.update();
    update.upserts[0].body = section(1, 2).bytes().to_vec();
    host.receive(update, &mut controller);
    assert_eq!(*host.applied, HostConfig::default());
    for bad in [vec![], vec![1; 15], vec![1; 17]] {
        host.connect(&mut controller);
        let mut update = controller.update();
        update.upserts[0].hash = bad;
        host.receive(update, &mut controller);
        assert_eq!(*host.applied, HostConfig::default());
    }
}

#[test]
fn an_older_generation_is_refused_and_another_incarnation_is_followed() {
    let (mut host, mut controller) = (Host::new(HostConfig::default()), Controller::new(1));
    controller.set(1, 1);
    controller.set(2, 1);
    host.converge(&mut controller);
    let mut stale = controller.update();
    stale.generation = 1;
    host.receive(stale, &mut controller);
    assert_eq!(host.applied.generation, Generation(2));
    assert_eq!(controller.acks.len(), 1);

    // The store was restored from a backup: generations begin lower, under another incarnation.
    let mut restored = Controller::new(2);
    restored.set(2, 1);
    host.lose(&mut controller);
    host.connect(&mut restored);
    assert_eq!(
        restored.hellos[0].incarnation,
        Uuid::from_u128(1).to_string()
    );
    let update = restored.update();
    host.receive(update, &mut restored);
    assert_eq!(*host.applied, restored.config);
    assert_eq!(restored.acks.last().unwrap().generation, 1);
}

#[test]
fn an_incarnation_that_was_replaced_is_never_followed_again() {
    let (mut host, mut first) = (Host::new(HostConfig::default()), Controller::new(1));
    first.set(1, 1);
    host.converge(&mut first);
    let mut second = Controller::new(2);
    second.set(1, 2);
    second.replaced = vec![Uuid::from_u128(1), Uuid::from_u128(2)];
    host.lose(&mut first);
    host.converge(&mut second);
    // Nobody replaces himself.
    assert_eq!(host.replaced, [Uuid::from_u128(1)]);
    let applied = Arc::clone(&host.applied);
    // The first one is found again, and says more than it did.
    for _ in 0..3 {
        host.lose(&mut second);
        first.set(2, 1);
        host.connect(&mut first);
        let update = first.update();
        host.receive(update, &mut first);
        assert_eq!((host.stream, first.acks.len()), (None, 1), "let go of");
    }
    assert!(Arc::ptr_eq(&host.applied, &applied));
    host.converge(&mut second);
    // One that replaced nothing is followed, and so is the one of before.
    let mut other = Controller::new(3);
    other.set(1, 3);
    host.lose(&mut second);
    host.converge(&mut other);
    host.lose(&mut other);
    host.converge(&mut second);
    assert_eq!(host.applied.incarnation, Uuid::from_u128(2));
    // Many stores later the first ones are forgotten, not all.
    let many = 100..100 + u128::try_from(REPLACED_MAX).unwrap();
    second.replaced = many.map(Uuid::from_u128).collect();
    second.set(1, 4);
    host.converge(&mut second);
    assert_eq!(host.replaced.len(), REPLACED_MAX);
    assert!(!host.replaced.contains(&Uuid::from_u128(1)));
}

#[test]
fn an_incarnation_that_is_none_is_refused() {
    let (mut host, mut controller) = (Host::new(HostConfig::default()), Controller::new(1));
    host.connect(&mut controller);
    let mut update = controller.update();
    update.incarnation = "7".to_owned();
    host.receive(update, &mut controller);
    assert!(controller.acks.is_empty());
}

#[test]
fn a_section_that_this_version_cannot_read_is_complained_about_and_left_out() {
    let (mut host, mut controller) = (Host::new(HostConfig::default()), Controller::new(1));
    controller.set(1, 1);
    host.connect(&mut controller);
    let mut update = controller.update();
    // A newer controller's body: more than this version knows, well hashed.
    let key = section(2, 1).key();
    let text = br#"{"id":"00000000-0000-0000-0000-000000000002","members":[],"more":1}"#;
    let mut sha = sha2::Sha256::new();
    sha.update(key.to_string());
    sha.update([0]);
    sha.update(text);
    let hash: [u8; 32] = sha.finalize().into();
    update.upserts.push(wire::SectionBody {
        key: key.to_string(),
        hash: hash[..16].to_vec(),
        body: text.to_vec(),
    });
    let half = SectionHash(hash[..16].try_into().unwrap());
    update.digest = Digest::over([section(1, 1).hash(), half]).0.to_vec();
    host.receive(update.clone(), &mut controller);
    assert_eq!(host.applied.sections.len(), 1);
    let ack = controller.acks.last().unwrap();
    assert_eq!(
        ack.digest, update.digest,
        "it holds what it was told, even if it can't read it"
    );
    assert_eq!(ack.complaints[0].key, key.to_string());
    assert!(ack.complaints[0].text.contains("more"), "{ack:?}");
    // It is not asked for again.
    host.lose(&mut controller);
    host.connect(&mut controller);
    assert_eq!(controller.hellos.last().unwrap().sections.len(), 2);
}

#[test]
fn a_section_of_an_unknown_kind_does_not_keep_the_others_away() {
    let (mut host, mut controller) = (Host::new(HostConfig::default()), Controller::new(1));
    controller.set(1, 1);
    host.connect(&mut controller);
    let mut update = controller.update();
    update.digest = vec![9; 32];
    update.upserts.push(wire::SectionBody {
        key: "tunnel/00000000-0000-0000-0000-000000000002".to_owned(),
        hash: vec![1; 16],
        body: b"{}".to_vec(),
    });
    host.receive(update, &mut controller);
    assert_eq!(host.applied.sections.len(), 1);
    assert!(controller.acks[0].complaints[0].key.starts_with("tunnel/"));
}

#[test]
fn what_an_older_stream_says_is_not_heard() {
    let (mut host, mut controller) = (Host::new(HostConfig::default()), Controller::new(1));
    controller.set(1, 1);
    let old = host.connect(&mut controller);
    host.lose(&mut controller);
    host.connect(&mut controller);
    let message = Some(from_controller::Message::Update(controller.update()));
    host.on(
        Event::Received(old, wire::FromController { message }),
        &mut controller,
    );
    assert_eq!(*host.applied, HostConfig::default());
    host.on(Event::Lost(old, "late".to_owned()), &mut controller);
    assert!(host.session.is_connected());
}

#[test]
fn an_acknowledgement_waits_for_the_newest_config() {
    let (mut host, mut controller) = (Host::new(HostConfig::default()), Controller::new(1));
    controller.set(1, 1);
    host.converge(&mut controller);
    let older = host.ran();
    controller.set(1, 2);
    let update = controller.update();
    host.receive(update, &mut controller);
    let acks = controller.acks.len();
    host.on(older, &mut controller);
    assert_eq!(controller.acks.len(), acks);
}

#[test]
fn complaints_go_with_the_acknowledgement_and_are_bounded() {
    let (mut host, mut controller) = (Host::new(HostConfig::default()), Controller::new(1));
    controller.set(1, 1);
    host.complaints = (0..1000)
        .map(|n| Complaint {
            key: format!("port/{n:04}"),
            text: "why".to_owned(),
        })
        .collect();
    host.converge(&mut controller);
    let complaints = &controller.acks[0].complaints;
    assert_eq!(complaints.len(), COMPLAINTS_MAX + 1);
    assert_eq!(complaints[COMPLAINTS_MAX].text, "and 744 complaints more");
}

#[test]
fn ports_are_told_once_all_on_a_new_stream_and_changes_after() {
    let (mut host, mut controller) = (Host::new(HostConfig::default()), Controller::new(1));
    let (a, b): (Id<kind::Port>, Id<kind::Port>) =
        (Uuid::from_u128(1).into(), Uuid::from_u128(2).into());
    let state = |active| PortState {
        attached: true,
        active,
        reason: String::new(),
    };
    let both = BTreeMap::from([(a, state(true)), (b, state(false))]);
    host.on(Event::Ports(both.clone()), &mut controller);
    host.connect(&mut controller);
    assert_eq!(controller.ports.len(), 2);

    controller.ports.clear();
    let changed = BTreeMap::from([(a, state(true)), (b, state(true))]);
    host.on(Event::Ports(changed.clone()), &mut controller);
    assert_eq!(
        controller.ports.keys().collect::<Vec<_>>(),
        [&b.to_string()]
    );
    controller.ports.clear();
    host.on(Event::Ports(changed), &mut controller);
    assert!(controller.ports.is_empty());
    host.on(
        Event::Ports(BTreeMap::from([(a, state(true))])),
        &mut controller,
    );
    assert!(!controller.ports[&b.to_string()].attached);

    host.lose(&mut controller);
    host.connect(&mut controller);
    assert_eq!(controller.ports.len(), 1);

    host.on(Event::Ports(BTreeMap::new()), &mut controller);
    host.lose(&mut controller);
    let reports = controller.reports;
    host.connect(&mut controller);
    assert_eq!(
        controller.reports,
        reports + 1,
        "that there is none is told too"
    );
}

#[test]
fn of_a_port_that_is_told_of_anew_the_state_is_repeated() {
    let (mut host, mut controller) = (Host::new(HostConfig::default()), Controller::new(1));
    let port = crate::agent::testkit::port(1, 1);
    let id = Uuid::from_u128(1).into();
    let up = PortState {
        attached: true,
        active: true,
        reason: String::new(),
    };
    controller
        .config
        .insert(Arc::new(Keyed::new(port).unwrap()));
    host.on(Event::Ports(BTreeMap::from([(id, up)])), &mut controller);
    host.converge(&mut controller);
    controller.ports.clear();
    let mut again = controller.update();
    again.upserts = vec![body(&controller.config.sections[&SectionKey::Port(id)])];
    host.receive(again, &mut controller);
    assert!(controller.ports[&id.to_string()].active);
}

#[test]
fn of_two_configs_of_one_generation_only_the_second_is_acknowledged() {
    let (mut host, mut controller) = (Host::new(HostConfig::default()), Controller::new(1));
    controller.set(1, 1);
    host.converge(&mut controller);
    let first = host.ran();
    controller.set(2, 1);
    controller.config.generation.0 -= 1;
    let update = controller.update();
    host.receive(update, &mut controller);
    let acks = controller.acks.len();
    host.on(first, &mut controller);
    assert_eq!(controller.acks.len(), acks);
}

#[test]
fn pings_are_answered() {
    let (mut host, mut controller) = (Host::new(HostConfig::default()), Controller::new(1));
    let stream = host.connect(&mut controller);
    let message = Some(from_controller::Message::Ping(wire::Ping {
        nonce: 77,
        heard: None,
    }));
    host.on(
        Event::Received(stream, wire::FromController { message }),
        &mut controller,
    );
    assert_eq!(controller.pongs, [77]);
}

#[test]
fn pauses_grow_are_spread_and_end_with_success() {
    let mut controller = Controller::new(1);
    let pauses = |seed: u64| -> Vec<Duration> {
        let mut host = Host::new(HostConfig::default());
        host.session.random = seed | 1;
        let mut nobody = Controller::new(1);
        host.on(Event::Start, &mut nobody);
        for _ in 0..12 {
            host.lose(&mut nobody);
            host.now = host.wake.take().unwrap();
            host.on(Event::Tick, &mut nobody);
        }
        host.dials.windows(2).map(|w| w[1] - w[0]).collect()
    };
    let (one, other) = (pauses(1), pauses(99));
    assert!(one[0] < BACKOFF_FIRST && one[0] >= BACKOFF_FIRST / 2);
    assert!(one[11] <= BACKOFF_MAX && one[11] >= BACKOFF_MAX / 2);
    assert_ne!(one, other);
    assert_eq!(one, pauses(1), "a seed repeats");

    let mut host = Host::new(HostConfig::default());
    for _ in 0..6 {
        host.connect(&mut controller);
        host.lose(&mut controller);
    }
    controller.set(1, 1);
    host.converge(&mut controller);
    host.lose(&mut controller);
    assert!(host.wake.unwrap() - host.now < BACKOFF_FIRST);
}

#[derive(Debug, Clone)]
enum Step {
    Set(u8, u8),
    Remove(u8),
    Tell,
    /// An update that the host never gets.
    Skip,
    Lose,
    Restart,
    Restore,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1u8..6, 0u8..4).prop_map(|(id, member)| Step::Set(id, member)),
        2 => (1u8..6).prop_map(Step::Remove),
        4 => Just(Step::Tell),
        1 => Just(Step::Skip),
        1 => Just(Step::Lose),
        1 => Just(Step::Restart),
        1 => Just(Step::Restore),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    #[test]
    fn a_host_converges_whatever_was_lost(steps in steps()) {
        let (mut host, mut controller) = (Host::new(HostConfig::default()), Controller::new(1));
        let mut backup = HostConfig { incarnation: Uuid::from_u128(1), ..HostConfig::default() };
        let mut incarnation = 1;
        for step in steps {
            match step {
                Step::Set(id, member) => controller.set(id, member),
                Step::Remove(id) => controller.remove(id),
                Step::Tell if host.session.is_connected() => {
                    let update = controller.update();
                    host.receive(update, &mut controller);
                }
                Step::Tell => { host.connect(&mut controller); }
                Step::Skip => { controller.update(); }
                Step::Lose => host.lose(&mut controller),
                Step::Restart => host = Host::new(HostConfig::clone(&host.applied)),
                Step::Restore => {
                    host.lose(&mut controller);
                    incarnation += 1;
                    std::mem::swap(&mut controller.config, &mut backup);
                    controller.config.incarnation = Uuid::from_u128(incarnation);
                }
            }
            // Whatever is acknowledged is what the host runs.
            if let Some(ack) = controller.acks.pop() {
                prop_assert_eq!(ack.digest.as_slice(), &host.applied.digest().0[..]);
            }
        }
        host.converge(&mut controller);
        prop_assert_eq!(&host.applied.sections, &controller.config.sections);
        prop_assert!(diff::plan(&host.applied, &controller.config).is_empty());
    }
}
