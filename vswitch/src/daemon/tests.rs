//! Does a whole vswitch join, follow its controller, and come back?
//!
//! Everything but workers and devices: real TLS, gRPC, state dir, socket and HTTP, against a small controller in the same
//! process.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hostconfig::{
    HostConfig,
    wire::{self, from_controller, from_host},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream, UnixStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming, transport::Server};

use super::*;
use crate::{
    agent::{
        identity,
        link::stub::hosts_server::{Hosts, HostsServer},
        testkit::{Authority, config, network, port},
        tests::FakeSwitch,
    },
    config::Options,
    testing::Scratch,
};

const SECRET: [u8; 32] = [7; 32];
/// For what takes milliseconds.
const SOON: Duration = Duration::from_secs(10);

/// A controller of one host.
#[derive(Debug)]
struct Controller {
    authority: Authority,
    used: AtomicBool,
    config: Mutex<HostConfig>,
    heard: mpsc::Sender<from_host::Message>,
}

#[derive(Debug, Clone)]
struct Service(Arc<Controller>);

#[tonic::async_trait]
impl Hosts for Service {
    async fn join(
        &self,
        request: Request<wire::JoinRequest>,
    ) -> Result<Response<wire::JoinReply>, Status> {
        let request = request.into_inner();
        let good = request.token == URL_SAFE_NO_PAD.encode(SECRET);
        if !good || self.0.used.swap(true, Ordering::SeqCst) {
            return Err(Status::unauthenticated("the token is used or expired"));
        }
        Ok(Response::new(wire::JoinReply {
            certificate_der: self.0.authority.sign(request.csr_der).to_vec(),
            ca_der: self.0.authority.ca().to_vec(),
        }))
    }

    type SyncStream = ReceiverStream<Result<wire::FromController, Status>>;

    async fn sync(
        &self,
        request: Request<Streaming<wire::FromHost>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let mut messages = request.into_inner();
        let (updates, answers) = mpsc::channel(4);
        let controller = Arc::clone(&self.0);
        tokio::spawn(async move {
            while let Some(Ok(message)) = messages.next().await {
                let message = message.message.unwrap();
                if let from_host::Message::Hello(_) = message {
                    let update = whole(&controller.config.lock().unwrap());
                    let message = Some(from_controller::Message::Update(update));
                    updates
                        .send(Ok(wire::FromController { message }))
                        .await
                        .unwrap();
                }
                controller.heard.send(message).await.unwrap();
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

fn whole(config: &HostConfig) -> wire::Update {
    let body = |s: &Arc<hostconfig::Keyed>| wire::SectionBody {
        key: s.key().to_string(),
        hash: s.hash().0.to_vec(),
        body: s.bytes().to_vec(),
    };
    wire::Update {
        incarnation: config.incarnation.to_string(),
        generation: config.generation.get(),
        whole: true,
        upserts: config.sections.values().map(body).collect(),
        removals: Vec::new(),
        digest: config.digest().0.to_vec(),
        replaced: Vec::new(),
    }
}

impl Controller {
    /// Serves on loopback: where, the controller, and what it hears.
    async fn start() -> (SocketAddr, Arc<Self>, mpsc::Receiver<from_host::Message>) {
        let (heard, hears) = mpsc::channel(64);
        let controller = Arc::new(Self {
            authority: Authority::new(),
            used: AtomicBool::new(false),
            config: Mutex::new(config([network(1, 5001), port(1, 1)])),
            heard,
        });
        let (leaf, key) = controller.authority.controller(identity::CONTROLLER_NAME);
        let mut tls = rustls::ServerConfig::builder_with_provider(identity::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf, controller.authority.ca().clone()], key)
            .unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (accepted, incoming) = mpsc::channel(4);
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                // A caller that does not believe the certificate hangs up.
                if let Ok(tls) = acceptor.accept(tcp).await {
                    drop(accepted.send(Ok::<_, std::io::Error>(tls)).await);
                }
            }
        });
        let service = HostsServer::new(Service(Arc::clone(&controller)));
        let incoming = ReceiverStream::new(incoming);
        tokio::spawn(async move {
            Server::builder()
                .serve_with_incoming(service, incoming)
                .await
        });
        (addr, controller, hears)
    }

    fn token(&self) -> String {
        let pin = identity::pin(self.authority.ca()).unwrap();
        format!(
            "ow1.{}.{}",
            URL_SAFE_NO_PAD.encode(pin),
            URL_SAFE_NO_PAD.encode(SECRET)
        )
    }
}

/// A running vswitch.
struct Vswitch {
    stop: oneshot::Sender<()>,
    done: JoinHandle<Result<(), Error>>,
    machine: FakeSwitch,
    metrics: SocketAddr,
}

async fn free_port() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    listener.local_addr().unwrap()
}

async fn vswitch(dir: &Path, controller: SocketAddr, token: Option<String>) -> Vswitch {
    let metrics = free_port().await;
    let options = Options {
        host: Some("h1".to_owned()),
        controller: Some(format!("https://{controller}")),
        join: token,
        run_dir: Some(dir.to_owned()),
        metrics_listen: Some(metrics),
        ..Options::default()
    };
    let config = Config::load(None, options).unwrap();
    let machine = FakeSwitch::default();
    let switch = machine.clone();
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async move { drop(stopped.await) };
    let done = tokio::spawn(serve(config, shutdown, move |_, _, _, _| Ok(switch)));
    Vswitch {
        stop,
        done,
        machine,
        metrics,
    }
}

impl Vswitch {
    async fn stop(self) -> Result<(), Error> {
        drop(self.stop);
        timeout(SOON, self.done).await.unwrap().unwrap()
    }

    async fn healthz(&self) -> String {
        let mut stream = TcpStream::connect(self.metrics).await.unwrap();
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

async fn ask(dir: &Path, request: Value) -> Value {
    let stream = UnixStream::connect(dir.join("vswitch.sock")).await.unwrap();
    let mut stream = BufReader::new(stream);
    let line = format!("{request}\n");
    stream.write_all(line.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_line(&mut answer).await.unwrap();
    serde_json::from_str(&answer).unwrap()
}

async fn next_ack(hears: &mut mpsc::Receiver<from_host::Message>) -> wire::Ack {
    loop {
        let message = timeout(SOON, hears.recv()).await.unwrap().unwrap();
        if let from_host::Message::Ack(ack) = message {
            return ack;
        }
    }
}

async fn next_hello(hears: &mut mpsc::Receiver<from_host::Message>) -> wire::Hello {
    loop {
        let message = timeout(SOON, hears.recv()).await.unwrap().unwrap();
        if let from_host::Message::Hello(hello) = message {
            return hello;
        }
    }
}

#[tokio::test]
async fn a_host_joins_once_converges_attaches_and_comes_back_with_its_own_certificate() {
    let dir = Scratch::new("whole");
    let (addr, controller, mut hears) = Controller::start().await;
    let running = vswitch(dir.path(), addr, Some(controller.token())).await;
    let hello = next_hello(&mut hears).await;
    assert_eq!(
        (hello.incarnation.as_str(), hello.vtep.as_str()),
        ("", "127.0.0.1")
    );
    let ack = next_ack(&mut hears).await;
    let digest = controller.config.lock().unwrap().digest();
    assert_eq!(ack.digest, digest.0);
    assert!(running.healthz().await.starts_with("HTTP/1.1 200 "));

    let attach = json!({"verb": "attach", "args": {
        "port": "00000000-0000-0000-0000-000000000001", "netns": dir.path(), "ifname": "eth0", "static": true,
    }});
    let answer = ask(dir.path(), attach).await;
    assert_eq!(answer["ok"]["active"], true, "{answer}");
    let status = ask(dir.path(), json!({"verb": "status"})).await;
    assert_eq!(status["ok"]["ports"][0]["active"], true, "{status}");
    running.stop().await.unwrap();
    assert!(!dir.path().join("vswitch.sock").exists());

    // The same token again: used, and not needed. The config and the attachment come from disk.
    let running = vswitch(dir.path(), addr, Some(controller.token())).await;
    let hello = next_hello(&mut hears).await;
    assert_eq!((hello.generation, hello.sections.len()), (1, 2));
    assert_eq!(running.machine.0.lock().unwrap().ran, [1]);
    running.stop().await.unwrap();
    // And none at all.
    let running = vswitch(dir.path(), addr, None).await;
    next_hello(&mut hears).await;
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_refused_token_a_wrong_pin_and_no_token_end_it_with_their_reasons() {
    let dir = Scratch::new("refused");
    let (addr, controller, _hears) = Controller::start().await;
    controller.used.store(true, Ordering::SeqCst);
    let used = vswitch(dir.path(), addr, Some(controller.token())).await;
    let error = timeout(SOON, used.done)
        .await
        .unwrap()
        .unwrap()
        .unwrap_err();
    assert!(
        matches!(&error, Error::Join(JoinError::Refused { .. })),
        "{error}"
    );
    assert!(error.to_string().contains("used or expired"), "{error}");
    assert!(
        error.to_string().contains("overweave host add h1"),
        "{error}"
    );

    let (_, other, _others_hears) = Controller::start().await;
    let wrong = vswitch(dir.path(), addr, Some(other.token())).await;
    let error = timeout(SOON, wrong.done)
        .await
        .unwrap()
        .unwrap()
        .unwrap_err();
    assert!(
        matches!(&error, Error::Join(JoinError::WrongController { .. })),
        "{error}"
    );

    let none = vswitch(dir.path(), addr, None).await;
    let error = timeout(SOON, none.done)
        .await
        .unwrap()
        .unwrap()
        .unwrap_err();
    assert!(matches!(&error, Error::NoToken), "{error}");
}

#[tokio::test]
async fn a_token_of_another_controller_moves_the_host() {
    let dir = Scratch::new("moves");
    let (first, controller, mut hears) = Controller::start().await;
    let running = vswitch(dir.path(), first, Some(controller.token())).await;
    next_ack(&mut hears).await;
    running.stop().await.unwrap();

    let (second, other, mut others_hears) = Controller::start().await;
    other.config.lock().unwrap().incarnation = uuid::Uuid::from_u128(2);
    let running = vswitch(dir.path(), second, Some(other.token())).await;
    assert_eq!(next_ack(&mut others_hears).await.generation, 1);
    assert!(other.used.load(Ordering::SeqCst));
    running.stop().await.unwrap();
}

#[tokio::test]
async fn while_no_controller_answers_it_says_so_and_tries_on() {
    let dir = Scratch::new("nobody");
    let nobody = free_port().await;
    let token = {
        let (_, controller, _hears) = Controller::start().await;
        controller.token()
    };
    let running = vswitch(dir.path(), nobody, Some(token)).await;
    let waited = timeout(SOON, async {
        loop {
            if dir.path().join("vswitch.sock").exists() {
                let health = running.healthz().await;
                if health.contains("no controller answers at") {
                    return health;
                }
            }
            tokio::task::yield_now().await;
        }
    });
    assert!(waited.await.unwrap().starts_with("HTTP/1.1 503 "));
    assert!(!running.done.is_finished());
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_second_vswitch_on_the_same_directories_is_refused() {
    let dir = Scratch::new("twice");
    let (addr, controller, mut hears) = Controller::start().await;
    let running = vswitch(dir.path(), addr, Some(controller.token())).await;
    next_ack(&mut hears).await;
    let second = vswitch(dir.path(), addr, None).await;
    let error = timeout(SOON, second.done)
        .await
        .unwrap()
        .unwrap()
        .unwrap_err();
    assert!(
        matches!(&error, Error::State(StateError::Locked { .. })),
        "{error}"
    );
    assert!(ask(dir.path(), json!({"verb": "status"})).await["ok"].is_object());
    running.stop().await.unwrap();
}
