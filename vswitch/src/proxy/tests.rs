use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    os::{fd::AsFd as _, unix::fs::PermissionsExt as _},
    process::Command,
};

use hostconfig::proxy::{HttpListener, HttpTls, Pem, Proxy, TlsVersion};
use rustix::{
    process::{Pid, Signal, kill_process, test_kill_process},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use rustls_pki_types::CertificateDer;
use tokio::{net::TcpStream, time::timeout};
use uuid::Uuid;

use super::*;
use crate::local::Answer;

const PATIENCE: Duration = Duration::from_secs(10);

fn proxy(n: u16) -> (Id<kind::Port>, Arc<Proxy>) {
    let id = Uuid::from_u128(n.into());
    let listener = HttpListener {
        id,
        port: n,
        connection_limit: None,
        client_timeout: 1000,
        connect_timeout: 1000,
        member_timeout: 1000,
        insert: vec![],
        policies: vec![],
        pool: None,
        tls: None,
    };
    let proxy = Proxy {
        port: id.into(),
        listeners: vec![listener],
        pools: vec![],
    };
    (id.into(), Arc::new(proxy))
}

/// Keepers and an agent that answers them.
struct Rig {
    wanted: watch::Sender<Wanted>,
    inputs: mpsc::Receiver<Input>,
    dir: PathBuf,
    task: tokio::task::JoinHandle<()>,
}

/// What an agent hears.
#[derive(Debug, PartialEq)]
enum Heard {
    /// A device in this process's namespace was asked for.
    Attach(i32),
    Detach,
    Trouble(String),
    Runs,
}

impl Rig {
    fn new(name: &str, program: PathBuf) -> Self {
        let (send, inputs) = mpsc::channel(16);
        let (wanted, heard) = watch::channel(Wanted::new());
        let dir = std::env::temp_dir().join(format!("overweave-{name}-{}", std::process::id()));
        let means = Means {
            program,
            dir: dir.clone(),
            asker: Asker::new(send.clone()),
            inputs: send,
        };
        let task = tokio::spawn(keep(means, heard));
        Self {
            wanted,
            inputs,
            dir,
            task,
        }
    }

    /// The next that the agent hears; what it is asked for it does.
    async fn next(&mut self) -> Heard {
        let input = timeout(PATIENCE, self.inputs.recv()).await;
        match input.expect("soon").expect("they run") {
            Input::Ask(Ask::Attach(attach), reply) => {
                drop(reply.send(Ok(Answer::default())));
                let pid = attach.netns.strip_prefix("/proc/");
                let pid = pid.and_then(|rest| rest.strip_suffix("/ns/net")).unwrap();
                Heard::Attach(pid.parse().unwrap())
            }
            Input::Ask(Ask::Detach(_), reply) => {
                drop(reply.send(Ok(Answer::default())));
                Heard::Detach
            }
            Input::Proxied(_, Proxied { trouble, .. }) => {
                trouble.map_or(Heard::Runs, Heard::Trouble)
            }
            other @ (Input::Session(_)
            | Input::Joined { .. }
            | Input::NotJoined(_)
            | Input::Ask(..)
            | Input::DeviceGone
            | Input::Stop) => panic!("{other:?}"),
        }
    }

    async fn started(&mut self) -> Pid {
        let Heard::Attach(pid) = self.next().await else {
            panic!("a device is asked for first");
        };
        assert_eq!(self.next().await, Heard::Runs);
        Pid::from_raw(pid).unwrap()
    }
}

/// The program and root's rights are there, or need not be.
fn program() -> Option<PathBuf> {
    let found = super::program().filter(|_| rustix::process::geteuid().is_root());
    let must = std::env::var_os("OVERWEAVE_REQUIRE_ROOT").is_some_and(|v| v == "1");
    assert!(
        found.is_some() || !must,
        "root's rights and HAProxy are needed"
    );
    found
}

async fn gone(pid: Pid) {
    let ends = async {
        let mut turns = interval(Duration::from_millis(20));
        while test_kill_process(pid).is_ok() {
            turns.tick().await;
        }
    };
    timeout(PATIENCE, ends).await.expect("it ends");
}

#[tokio::test]
async fn a_program_runs_in_a_namespace_of_its_own_and_is_started_again_when_it_ends() {
    let Some(program) = program() else {
        return;
    };
    let mut rig = Rig::new("proxy-runs", program);
    rig.wanted.send_replace([proxy(7001)].into());
    let pid = rig.started().await;
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    let its = fs::read_link(format!("/proc/{}/ns/net", pid.as_raw_nonzero())).unwrap();
    assert_ne!(own, its);
    // What it listens on is not here.
    let here = TcpStream::connect(("127.0.0.1", 7001)).await;
    assert_eq!(here.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    let (port, _) = proxy(7001);
    let config = rig.dir.join(port.to_string()).join("haproxy.cfg");
    assert_eq!(
        fs::metadata(&config).unwrap().permissions().mode() & 0o777,
        0o600
    );

    kill_process(pid, Signal::KILL).unwrap();
    let Heard::Trouble(why) = rig.next().await else {
        panic!("it has ended");
    };
    assert!(why.starts_with("the proxy ended: "), "{why}");
    let again = rig.started().await;
    assert_ne!(again, pid);

    // Another listener: the same process goes on.
    let (_, changed) = proxy(7002);
    let changed = Proxy {
        port,
        ..Proxy::clone(&changed)
    };
    rig.wanted.send_replace([(port, Arc::new(changed))].into());
    assert_eq!(rig.next().await, Heard::Runs);
    let text = fs::read_to_string(&config).unwrap();
    assert!(
        text.contains("bind *:7002") && !text.contains("7001"),
        "{text}"
    );

    rig.wanted.send_replace(Wanted::new());
    assert_eq!(rig.next().await, Heard::Detach);
    gone(again).await;
    drop(rig.wanted);
    timeout(PATIENCE, rig.task).await.unwrap().unwrap();
    fs::remove_dir_all(&rig.dir).unwrap();
}

/// What is in the files below a directory, and the names of all.
fn files(dir: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else if entry.file_type().unwrap().is_file() {
            let text = fs::read_to_string(entry.path()).unwrap();
            found.push((entry.path(), text));
        }
    }
    found
}

/// Does something where a program is.
fn inside<T: Send>(pid: Pid, work: impl FnOnce() -> T + Send) -> T {
    let there = fs::File::open(format!("/proc/{}/ns/net", pid.as_raw_nonzero())).unwrap();
    std::thread::scope(|scope| {
        let entered = scope.spawn(|| {
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(there.as_fd(), network).unwrap();
            work()
        });
        entered.join().unwrap()
    })
}

/// A connection over TLS to who shows this certificate, or why there is none.
fn secured(pid: Pid, port: u16, shown: &CertificateDer<'static>) -> std::io::Result<Secured> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(shown.clone()).unwrap();
    let config = rustls::ClientConfig::builder().with_root_certificates(roots);
    let config = Arc::new(config.with_no_client_auth());
    let name = "proxy.example".try_into().unwrap();
    let session = rustls::ClientConnection::new(config, name).unwrap();
    let tcp = inside(pid, || std::net::TcpStream::connect(("127.0.0.1", port)))?;
    tcp.set_read_timeout(Some(PATIENCE))?;
    let mut stream = rustls::StreamOwned::new(session, tcp);
    stream.conn.complete_io(&mut stream.sock)?;
    Ok(stream)
}

type Secured = rustls::StreamOwned<rustls::ClientConnection, std::net::TcpStream>;

#[tokio::test]
async fn a_program_reads_certificates_from_memory_and_takes_others_while_it_runs() {
    let Some(program) = program() else {
        return;
    };
    let certified = || {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["proxy.example".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let text = certificate.pem() + &key.serialize_pem();
        let (port, plain) = proxy(7006);
        let mut changed = Proxy::clone(&plain);
        changed.listeners[0].client_timeout = 10_000;
        changed.listeners[0].tls = Some(HttpTls {
            certificates: vec![Pem::new(text)],
            versions: vec![TlsVersion::V13],
            ciphers: None,
            alpn: vec![],
            hsts: None,
        });
        (certificate.der().clone(), (port, Arc::new(changed)))
    };
    let mut rig = Rig::new("proxy-certified", program);
    let ((first, one), (second, two)) = (certified(), certified());
    rig.wanted.send_replace([one].into());
    let pid = rig.started().await;
    inside(pid, || {
        let up = ["link", "set", "lo", "up"];
        assert!(Command::new("ip").args(up).status().unwrap().success());
    });
    assert!(secured(pid, 7006, &second).is_err());
    let mut open = secured(pid, 7006, &first).unwrap();
    open.write_all(b"GET / HTTP/1.1\r\nHost: proxy.example\r\n")
        .unwrap();
    rig.wanted.send_replace([two].into());
    assert_eq!(rig.next().await, Heard::Runs);
    test_kill_process(pid).unwrap();
    let since = Instant::now();
    while let Err(error) = secured(pid, 7006, &second) {
        assert!(since.elapsed() < PATIENCE, "{error}");
    }
    // What was open before goes on.
    open.write_all(b"Connection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    open.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 503 Service Unavailable"),
        "{answer}"
    );
    let found = files(&rig.dir);
    assert!(
        found
            .iter()
            .any(|(_, text)| text.contains(" ssl crt '/proc/"))
    );
    for (path, text) in found {
        assert!(!text.contains("PRIVATE KEY"), "{}", path.display());
    }
    // One that is no certificate is refused, and what ran before runs on.
    let (_, (port, good)) = certified();
    let mut bad = Proxy::clone(&good);
    bad.listeners[0].tls.as_mut().unwrap().certificates = vec![Pem::new("no PEM".to_owned())];
    rig.wanted.send_replace([(port, Arc::new(bad))].into());
    assert!(matches!(rig.next().await, Heard::Trouble(_)));
    test_kill_process(pid).unwrap();
    rig.wanted.send_replace([(port, good)].into());
    assert_eq!(rig.next().await, Heard::Runs);
    rig.task.abort();
    gone(pid).await;
    fs::remove_dir_all(&rig.dir).unwrap();
}

#[tokio::test]
async fn one_that_comes_again_waits_until_its_device_is_gone() {
    let Some(program) = program() else {
        return;
    };
    let mut rig = Rig::new("proxy-again", program);
    rig.wanted.send_replace([proxy(7005)].into());
    let pid = rig.started().await;
    rig.wanted.send_replace(Wanted::new());
    let asked = timeout(PATIENCE, rig.inputs.recv()).await.unwrap().unwrap();
    let Input::Ask(Ask::Detach(_), reply) = asked else {
        panic!("{asked:?}");
    };
    rig.wanted.send_replace([proxy(7005)].into());
    let early = timeout(Duration::from_millis(500), rig.inputs.recv()).await;
    assert!(early.is_err(), "{early:?}");
    drop(reply.send(Ok(Answer::default())));
    assert_ne!(rig.started().await, pid);
    rig.task.abort();
    fs::remove_dir_all(&rig.dir).unwrap();
}

#[tokio::test]
async fn what_it_refuses_is_told_and_what_ran_before_runs_on() {
    let Some(program) = program() else {
        return;
    };
    let mut rig = Rig::new("proxy-refuses", program);
    let (port, good) = proxy(7003);
    rig.wanted.send_replace([(port, Arc::clone(&good))].into());
    let pid = rig.started().await;
    // A listener whose pool is not there.
    let mut bad = Proxy::clone(&good);
    bad.listeners[0].pool = Some(Uuid::nil());
    rig.wanted.send_replace([(port, Arc::new(bad))].into());
    let Heard::Trouble(why) = rig.next().await else {
        panic!("it cannot be had");
    };
    assert!(why.contains("is named, and not there"), "{why}");
    test_kill_process(pid).unwrap();
    rig.wanted.send_replace([(port, good)].into());
    assert_eq!(rig.next().await, Heard::Runs);
    rig.task.abort();
    gone(pid).await;
    fs::remove_dir_all(&rig.dir).unwrap();
}

#[tokio::test]
async fn a_host_without_the_program_says_so() {
    let mut rig = Rig::new("proxy-none", PathBuf::from("/nowhere/haproxy"));
    rig.wanted.send_replace([proxy(7004)].into());
    let Heard::Trouble(why) = rig.next().await else {
        panic!("there is none");
    };
    assert!(why.starts_with("/nowhere/haproxy: "), "{why}");
    rig.task.abort();
    fs::remove_dir_all(&rig.dir).unwrap();
}
