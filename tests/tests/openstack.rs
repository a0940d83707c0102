//! The real `openstack` client against a running lab, with real traffic that obeys each of its commands within a second.
//!
//! Needs root and the client (docs/testing.md says how it gets there). The tables below are commands, and after ` | ` what
//! must be seen of them; `tests::openstack::Script` plays them.

#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    process::Output,
    sync::{Arc, mpsc::Sender},
    time::{Duration, Instant},
};

use p12_keystore::{Certificate, KeyStore, KeyStoreEntry, PrivateKey, PrivateKeyChain};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    version::{TLS12, TLS13},
};
use serde_json::json;
use tests::{
    netns::{Lab, printed, run},
    openstack::{
        Client, How, Namespace, Offer, Probe, Request, Script, Watch, allowed, refusal, serve,
        serve_http, serve_late,
    },
};

const NAME: &str = "t-osc";
const BALANCED: &str = "t-osb";
const PEOPLED: &str = "t-osp";
const HTTP: &str = "t-osh";
const EACH: &str = "t-ose";

/// The lab, with a script that an admin says, and namespaces for four ports.
struct Scene {
    // In the order in which they go.
    script: Script,
    _servers: Sender<()>,
    a: Namespace,
    b: Namespace,
    c: Namespace,
    d: Namespace,
    lab: Lab,
}

impl Scene {
    fn set(lab_name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("{lab_name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let file = dir.join("two-hosts.yaml");
        fs::write(&file, "hosts: [h1, h2]\nnetworks: []\nworkloads: []\n").unwrap();
        let lab = Lab::up_from(file.to_str().unwrap(), lab_name);
        fs::remove_dir_all(&dir).unwrap();
        let [a, b, c, d] =
            ["a", "b", "c", "d"].map(|name| Namespace::new(&format!("{lab_name}-{name}")));
        let servers = serve(&b, &[80, 81, 53]);
        let client = Client::start(&lab.path("clouds.yaml"), "overweave");
        Self {
            script: Script::new(client),
            _servers: servers,
            a,
            b,
            c,
            d,
            lab,
        }
    }

    fn port(&self, verb: &str, name: &str, host: &str, more: &[&str]) -> Output {
        let dir = self.lab.path(&format!("hosts/{host}"));
        let port = self.script.kept(name);
        let said = ["port", verb, port, "--run-dir", dir.to_str().unwrap()];
        run(&[&said, more].concat())
    }

    /// On a host of the lab: `overweave port attach`.
    fn attach(&self, name: &str, host: &str, namespace: &Namespace) {
        let more = ["--netns", namespace.name(), "--static"];
        printed("port attach", &self.port("attach", name, host, &more));
        // What is measured is not this kernel's patience with a neighbour that did not answer.
        namespace.set("ipv4/neigh/eth0/retrans_time_ms", "100");
        namespace.set("ipv6/neigh/eth0/retrans_time_ms", "100");
    }

    fn detach(&self, name: &str, host: &str) {
        printed("port detach", &self.port("detach", name, host, &[]));
    }

    /// What is watched of the two first ports: from the first to the second, and to what it owns for a while.
    fn watch(&mut self) {
        let probes = [
            ("ping", Probe::Ping(ip("10.77.0.12"), None)),
            ("ping6", Probe::Ping(ip("fd77::12"), None)),
            ("tcp80", Probe::Tcp((ip("10.77.0.12"), 80).into())),
            ("tcp81", Probe::Tcp((ip("10.77.0.12"), 81).into())),
            ("tcp80v6", Probe::Tcp((ip("fd77::12"), 80).into())),
            ("udp53", Probe::Udp((ip("10.77.0.12"), 53).into())),
            (
                "spoof",
                Probe::Ping(ip("10.77.0.12"), Some(ip("10.77.0.200"))),
            ),
            ("second", Probe::Ping(ip("10.77.0.13"), None)),
            ("vip80", Probe::Tcp((ip("10.77.0.100"), 80).into())),
        ];
        for (name, probe) in probes {
            self.script.watch(name, Watch::start(&self.a, probe));
        }
    }

    /// A third port, made in each way; `seen` is its traffic to the second, from its own address and from another one. Each
    /// has fresh addresses: others keep the MAC address of the last for a while.
    fn made_as(&mut self, number: u8, options: &str, seen: &str) {
        let address = format!("--fixed-ip subnet=blue-v4,ip-address=10.77.0.{number}");
        self.script.row(&format!(
            "port create c --network blue --host h1 {address} {options} = c"
        ));
        self.attach("c", "h1", &self.c);
        self.third(number, seen);
        self.detach("c", "h1");
        self.script.row("port delete c");
    }

    fn third(&mut self, number: u8, seen: &str) {
        let other = format!("10.77.0.{}", number + 100);
        self.c.ip(&format!("addr add {other}/24 dev eth0"));
        let (to, other) = (ip("10.77.0.12"), Some(ip(&other)));
        self.script
            .watch("own", Watch::start(&self.c, Probe::Ping(to, None)));
        self.script
            .watch("other", Watch::start(&self.c, Probe::Ping(to, other)));
        self.script.row(&format!("port show c | {seen}"));
        self.script.forget("own");
        self.script.forget("other");
    }

    /// DHCP clients, one in each namespace.
    fn ask_dhcp(&mut self) {
        let offers = [
            ("dhcp", &self.a, Offer::Any),
            ("dns", &self.b, Offer::Dns(Ipv4Addr::new(9, 9, 9, 9))),
            (
                "gateway",
                &self.c,
                Offer::Router(Ipv4Addr::new(10, 77, 0, 254)),
            ),
        ];
        for (name, namespace, offer) in offers {
            namespace.ip("route add 255.255.255.255 dev eth0");
            self.script
                .watch(name, Watch::start(namespace, Probe::Dhcp(offer)));
        }
    }

    /// From the first port to one on another network, and to what lies beyond that.
    fn route(&mut self) {
        self.script.play("routed");
        self.attach("d", "h2", &self.d);
        self.d.ip("addr add 172.16.0.1/32 dev lo");
        for route in ["10.78.0.0/24 via 10.77.0.1", "172.16.0.0/24 via 10.77.0.1"] {
            self.a.ip(&format!("route add {route}"));
        }
        self.a.ip("-6 route add fd78::/64 via fd77::");
        for (name, to) in [
            ("routed", "10.78.0.12"),
            ("near", "10.77.0.1"),
            ("routed6", "fd78::12"),
            ("beyond", "172.16.0.1"),
        ] {
            let probe = Probe::Ping(ip(to), None);
            self.script.watch(name, Watch::start(&self.a, probe));
        }
        self.script.play("routers");
        for name in ["routed", "near", "routed6", "beyond"] {
            self.script.forget(name);
        }
        self.detach("d", "h2");
    }

    /// A load balancer's clients behind a router, and outside.
    fn balances_for_others(&mut self) {
        for name in ["vip80", "vip53", "vip80v6", "vip", "hairpin"] {
            self.script.forget(name);
        }
        self.script.play("balancers-beyond");
        self.attach("c", "h2", &self.c);
        self.attach("d", "h1", &self.d);
        self.b.ip("route replace default via 10.77.0.1");
        self.d.ip("route replace default via 10.78.0.1");
        for (name, from, to) in [
            ("routed80", &self.d, "10.77.0.101"),
            ("floating80", &self.c, "203.0.113.100"),
        ] {
            let probe = Probe::Tcp((ip(to), 80).into());
            self.script.watch(name, Watch::start(from, probe));
        }
        self.script.play("balancers-routed");
    }

    /// Someone else, by what tells Keystone who that is.
    fn someone(&self, kind: &str, auth: &[(&str, &str)]) -> Script {
        let own = fs::read_to_string(self.lab.path("clouds.yaml")).unwrap();
        let url = own
            .lines()
            .find_map(|line| line.trim().strip_prefix("auth_url: "));
        let auth: BTreeMap<&str, &str> = auth
            .iter()
            .copied()
            .chain([("auth_url", url.unwrap())])
            .collect();
        // What is JSON is YAML.
        let cloud = json!({"clouds": {"overweave": {"auth_type": kind, "auth": auth}}});
        let file = self.lab.path("someone.yaml");
        fs::write(&file, cloud.to_string()).unwrap();
        Script::new(Client::start(&file, "overweave"))
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn traffic_obeys_the_openstack_client_within_a_second() {
    if !allowed() {
        return;
    }
    let mut scene = Scene::set(NAME);
    scene.script.play("identity");
    scene.script.play("fabric");
    scene.attach("a", "h1", &scene.a);
    scene.attach("b", "h2", &scene.b);
    // Addresses that the ports do not own, yet.
    scene.a.ip("addr add 10.77.0.200/24 dev eth0");
    scene.b.ip("addr add 10.77.0.13/24 dev eth0");
    scene.watch();
    scene.script.play("groups");
    scene.script.play("ports");
    scene.script.play("qos");
    scene.script.play("firewall");
    whoever_is_rejected_hears_of_it(&mut scene);
    scene.made_as(20, "--no-security-group", "own- other-");
    scene.made_as(21, "--security-group www", "own+ other-");
    scene.made_as(
        22,
        "--security-group www --allowed-address ip-address=10.77.0.122",
        "own+ other+",
    );
    scene.made_as(
        23,
        "--no-security-group --disable-port-security",
        "own+ other+",
    );
    a_disabled_port_is_attached_once_it_is_enabled(&mut scene);
    scene.script.play("networks");
    scene.ask_dhcp();
    scene.script.play("subnets");
    scene.script.play("pools");
    scene.route();
    scene.script.play("chains");
    another_project_sees_nothing(&mut scene);
    scene.script.play("removal");
    println!("{}", scene.script.report());
}

#[test]
fn a_load_balancer_serves_as_the_openstack_client_says() {
    if !allowed() {
        return;
    }
    let mut scene = Scene::set(BALANCED);
    scene.script.play("fabric");
    scene.attach("a", "h1", &scene.a);
    scene.attach("b", "h2", &scene.b);
    let (vip, vip6) = (ip("10.77.0.100"), ip("fd77::100"));
    for (name, from, probe) in [
        ("vip80", &scene.a, Probe::Tcp((vip, 80).into())),
        ("vip53", &scene.a, Probe::Udp((vip, 53).into())),
        ("vip80v6", &scene.a, Probe::Tcp((vip6, 80).into())),
        ("vip", &scene.a, Probe::Ping(vip, None)),
        // The member's own calls.
        ("hairpin", &scene.b, Probe::Tcp((vip, 80).into())),
    ] {
        scene.script.watch(name, Watch::start(from, probe));
    }
    scene.script.play("balancers");
    scene.balances_for_others();
    println!("{}", scene.script.report());
}

#[test]
fn requests_go_where_the_openstack_client_says() {
    if !allowed() {
        return;
    }
    let mut scene = Scene::set(HTTP);
    scene.script.play("fabric");
    scene.attach("a", "h1", &scene.a);
    scene.attach("b", "h2", &scene.b);
    let _one = serve_http(&scene.b, "one", 8081);
    let _two = serve_http(&scene.b, "two", 8082);
    let (v4, v6) = ((ip("10.77.0.100"), 80).into(), (ip("fd77::100"), 80).into());
    let see = |path, head: &str, sees| Request {
        path,
        head: head.to_owned(),
        sees,
        how: How::AtOnce,
    };
    for (name, to, request) in [
        ("one", v4, see("/", "", "I am one")),
        ("two", v4, see("/", "", "I am two")),
        ("from", v4, see("/", "", "x-forwarded-for: 10.77.0.11")),
        ("port", v4, see("/", "", "x-forwarded-port: 80")),
        (
            "old",
            v4,
            see("/old/x", "", "location: http://new.example/%41"),
        ),
        (
            "below",
            v4,
            see("/moved/x", "", "location: https://new.example/moved/x"),
        ),
        ("api", v4, see("/api/", "", "I am two")),
        (
            "teapot",
            v4,
            see("/", "X-Kind: it's-a-teapot\r\n", "403 Forbidden"),
        ),
        ("jpeg", v4, see("/cat.jpeg", "", "403 Forbidden")),
        ("sticky", v4, see("/", "", "set-cookie: SRV=")),
        ("none", v4, see("/", "", "503 Service Unavailable")),
        ("one6", v6, see("/", "", "I am one")),
        ("from6", v6, see("/", "", "x-forwarded-for: fd77::11")),
    ] {
        let watch = Watch::start(&scene.a, Probe::Http(to, request));
        scene.script.watch(name, watch);
    }
    scene.script.play("http");
    let files = certified(&mut scene);
    // The next proxy has the last one's address, and another MAC address: nobody tells who knew that one.
    scene.b.ip("neigh flush dev eth0");
    scene.script.play("tls");
    fs::remove_dir_all(files).unwrap();
    println!("{}", scene.script.report());
}

#[test]
fn each_word_of_http_does_what_it_says() {
    if !allowed() {
        return;
    }
    let mut scene = Scene::set(EACH);
    scene.script.play("fabric");
    scene.attach("a", "h1", &scene.a);
    scene.attach("b", "h2", &scene.b);
    let _one = serve_http(&scene.b, "one", 8081);
    let _two = serve_http(&scene.b, "two", 8082);
    let _late = serve_late(&scene.b, "late", 8083);
    let ask = |path, sees| Request {
        path,
        head: String::new(),
        sees,
        how: How::AtOnce,
    };
    let one = ask("/", "I am one");
    let with = |request: &Request, how| Request {
        how,
        ..request.clone()
    };
    let kind = "X-Kind: a\r\n".to_owned();
    for (name, port, request) in [
        ("one", 80, one.clone()),
        ("two", 80, ask("/", "I am two")),
        ("twin", 81, one.clone()),
        ("from", 80, ask("/", "x-forwarded-for: 10.77.0.11")),
        ("beside", 80, with(&one, How::Beside)),
        ("halting", 80, with(&one, How::Halting)),
        ("late", 80, with(&ask("/late", "I am late"), How::Patiently)),
        ("lost", 80, with(&ask("/lost", "503 "), How::Patiently)),
        ("api", 80, ask("/api/x", "I am two")),
        ("old", 80, ask("/old", "location: http://new.example/\r")),
        ("permanent", 80, ask("/old", "308 Permanent Redirect")),
        ("rival", 80, ask("/old", "location: http://rival.example/")),
        (
            "kind",
            80,
            Request {
                head: kind,
                ..ask("/", "I am two")
            },
        ),
    ] {
        let to = (ip("10.77.0.100"), port).into();
        let watch = Watch::start(&scene.a, Probe::Http(to, request));
        scene.script.watch(name, watch);
    }
    scene.script.play("http-each");
    println!("{}", scene.script.report());
}

#[test]
fn people_may_what_the_openstack_client_says() {
    if !allowed() {
        return;
    }
    let mut scene = Scene::set(PEOPLED);
    another_domain_keeps_its_own_people(&mut scene);
    a_credential_does_what_it_may(&mut scene);
}

/// Certificates of three names, and who asks for each over TLS, trusting their issuer alone. Where their files are.
fn certified(scene: &mut Scene) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("{HTTP}-tls-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(root.der().clone()).unwrap();
    let config = |version| {
        let versions = [version];
        let config = ClientConfig::builder_with_protocol_versions(&versions);
        let config = config.with_root_certificates(roots.clone());
        Arc::new(config.with_no_client_auth())
    };
    let (new, old) = (config(&TLS13), config(&TLS12));
    let mut offering = ClientConfig::clone(&new);
    offering.alpn_protocols = vec![b"http/1.1".to_vec()];
    let offering = Arc::new(offering);
    for name in ["a", "b", "c"] {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![format!("{name}.example")]).unwrap();
        let leaf = params.signed_by(&key, &root).unwrap();
        let certificate = Certificate::from_der(leaf.der()).unwrap();
        let own = PrivateKey::from_der(key.serialized_der()).unwrap();
        let chain = PrivateKeyChain::new(b"1".to_vec(), own, [certificate]);
        let mut bundle = KeyStore::new();
        bundle.add_entry(name, KeyStoreEntry::PrivateKeyChain(chain));
        let bundle = bundle.writer("").write().unwrap();
        for (kind, bytes) in [
            ("p12", bundle),
            ("pem", leaf.pem().into_bytes()),
            ("key", key.serialize_pem().into_bytes()),
        ] {
            let file = dir.join(format!("{name}.{kind}"));
            fs::write(&file, bytes).unwrap();
            let kept = format!("{name}-{kind}");
            scene.script.keep(&kept, file.to_str().unwrap());
        }
    }
    let (v4, v6) = (
        (ip("10.77.0.101"), 443).into(),
        (ip("fd77::101"), 443).into(),
    );
    let one = "I am one";
    let proto = "x-forwarded-proto: https";
    let hsts = "strict-transport-security: max-age=1000; includeSubDomains\r\n";
    for (name, to, how, server, sees) in [
        ("tls-a", v4, &new, "a.example", one),
        ("tls-b", v4, &new, "b.example", one),
        ("tls-c", v4, &new, "c.example", one),
        ("tls-old", v4, &old, "a.example", one),
        ("tls-alpn", v4, &offering, "a.example", "alpn: http/1.1"),
        ("tls-proto", v4, &new, "a.example", proto),
        ("tls-preload", v4, &new, "a.example", "; preload"),
        ("tls-hsts", v4, &new, "a.example", hsts),
        ("tls6-a", v6, &new, "a.example", one),
        ("tls6-b", v6, &new, "b.example", one),
    ] {
        let request = Request {
            path: "/",
            head: String::new(),
            sees,
            how: How::AtOnce,
        };
        let probe = Probe::Https(to, Arc::clone(how), server, request);
        let watch = Watch::start(&scene.a, probe);
        scene.script.watch(name, watch);
    }
    dir
}

/// And moves to the other host.
fn a_disabled_port_is_attached_once_it_is_enabled(scene: &mut Scene) {
    scene.script.row("port create c --network blue --host h1 --disable --security-group www --fixed-ip subnet=blue-v4,ip-address=10.77.0.24 = c | admin_state_up=false");
    scene.script.row("port set c --enable");
    scene.attach("c", "h1", &scene.c);
    scene.third(24, "own+ other-");
    scene.detach("c", "h1");
    scene.script.row("port set c --host h2");
    scene.attach("c", "h2", &scene.c);
    scene.third(24, "own+ other- binding_host_id=h2 status=ACTIVE");
}

/// From its own switch, and through the tunnel from its receiver's.
fn whoever_is_rejected_hears_of_it(scene: &mut Scene) {
    scene.script.row("port create c --network blue --host h1 --no-security-group --disable-port-security --fixed-ip subnet=blue-v4,ip-address=10.77.0.25 --fixed-ip subnet=blue-v6,ip-address=fd77::25 = c");
    scene.attach("c", "h1", &scene.c);
    for row in [
        "security group rule create www --protocol udp --ethertype IPv6 = udp6",
        "firewall group rule create no --action reject --source-ip-address 10.77.0.25",
        "firewall group rule create no6 --action reject --ip-version 6 --source-ip-address fd77::25",
        "firewall group rule create all --action allow",
        "firewall group rule create all6 --action allow --ip-version 6",
        "firewall group policy create polite --firewall-rule no --firewall-rule no6 --firewall-rule all --firewall-rule all6",
        "firewall group create shut --ingress-firewall-policy polite --egress-firewall-policy polite",
    ] {
        scene.script.row(row);
    }
    for port in ["c", "b"] {
        let at = |verb: &str| format!("firewall group {verb} shut --port {port} | ping+ tcp80v6+");
        scene.script.row(&at("set"));
        for (to, kind) in [
            ("10.77.0.12", ErrorKind::HostUnreachable),
            ("fd77::12", ErrorKind::PermissionDenied),
        ] {
            let tcp = Probe::Tcp((ip(to), 80).into());
            let udp = Probe::Udp((ip(to), 53).into());
            hears(&scene.c, &tcp, ErrorKind::ConnectionRefused);
            hears(&scene.c, &udp, kind);
        }
        scene.script.row(&at("unset"));
    }
    for row in [
        "firewall group delete shut",
        "firewall group policy delete polite",
        "firewall group rule delete no no6 all all6",
        "security group rule delete $udp6",
    ] {
        scene.script.row(row);
    }
    scene.detach("c", "h1");
    scene.script.row("port delete c");
}

/// Tries until the change is there: as often as it takes, but not for ever.
fn hears(namespace: &Namespace, probe: &Probe, wanted: ErrorKind) {
    let since = Instant::now();
    loop {
        let told = refusal(namespace, probe);
        if told == Some(wanted) {
            return;
        }
        let waited = since.elapsed();
        assert!(
            waited < Duration::from_secs(10),
            "{probe:?}: {told:?}, not {wanted}, for {waited:?}"
        );
    }
}

fn another_domain_keeps_its_own_people(scene: &mut Scene) {
    scene.script.play("domain");
    let ann = [
        ("username", "ann"),
        ("password", "secret-of-ann"),
        ("user_domain_name", "lab"),
    ];
    let everywhere = [&ann[..], &[("domain_name", "lab")]].concat();
    scene.someone("v3password", &everywhere).play("keeper");
    let north = [("project_name", "north"), ("project_domain_name", "lab")];
    let mut ann = scene.someone("v3password", &[&ann[..], &north].concat());
    ann.row("network create of-ann");
    ann.row("network list | has=of-ann lacks=blue");
    // What she may comes from her group alone.
    scene
        .script
        .row("group remove user --group-domain lab --user-domain lab ops ann");
    ann.row("network list | refused=401");
    scene.script.play("domain-removal");
}

fn a_credential_does_what_it_may(scene: &mut Scene) {
    scene.script.play("credential");
    let secret = [
        ("application_credential_id", scene.script.kept("robot")),
        ("application_credential_secret", "secret-of-a-robot"),
    ];
    let mut robot = scene.someone("v3applicationcredential", &secret);
    robot.row("network create of-a-robot | project_id~");
    robot.row("network create --external far | refused=403");
    robot.row("application credential create another --role reader | refused=403");
    robot.row("network delete of-a-robot");
    scene.script.row("application credential delete robot");
    robot.row("network list | refused=401");
}

fn another_project_sees_nothing(scene: &mut Scene) {
    let wrong = [
        ("username", "admin"),
        ("password", "not-it"),
        ("user_domain_name", "Default"),
    ];
    let mut wrong = scene.someone("v3password", &wrong);
    wrong.row("token issue | refused=401");
    wrong.row("network list | refused=401");
    scene.script.play("tenant");
    let ruby = [
        ("username", "ruby"),
        ("password", "secret-of-ruby"),
        ("user_domain_name", "Default"),
        ("project_name", "red"),
        ("project_domain_name", "Default"),
    ];
    let mut ruby = scene.someone("v3password", &ruby);
    for name in ["blue", "a", "b", "www", "other"] {
        ruby.keep(name, scene.script.kept(name));
    }
    ruby.play("denied");
    scene
        .script
        .row("port show b | ping+ tcp80+ admin_state_up=true");
    scene.script.row("user delete ruby");
    ruby.row("network list | refused=401");
    scene.script.row("project delete red");
}
