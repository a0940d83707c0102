//! Over real TLS on loopback: who is answered what?

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hostconfig::wire::{self, from_controller, from_host};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Status, Streaming,
    transport::{Channel, Endpoint},
};
use uuid::Uuid;

use super::{
    Limits, Parts, Stats,
    pki::{Authority, CONTROLLER_NAME},
    serve,
    server::stub::hosts_client::HostsClient,
};
use crate::{
    resource::{Meta, Objects as _, Resource as _},
    resources::{
        Host,
        host::{JoinToken, join_token_key},
    },
    status::StatusBoard,
    store::{Embedded, Event, MemoryDisk, Store, transact},
    time::Seconds,
};

const SECRET: [u8; 32] = [7; 32];

/// A controller's hosts' side with one host that may join.
struct Fabric {
    store: Arc<dyn Store>,
    status: Arc<StatusBoard>,
    authority: Arc<Authority>,
    addr: SocketAddr,
    host: Uuid,
    dir: PathBuf,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl Fabric {
    async fn new() -> Self {
        let (store, writer) = Embedded::open(Arc::new(MemoryDisk::new(Uuid::new_v4()))).unwrap();
        tokio::spawn(writer);
        let store: Arc<dyn Store> = Arc::new(store);
        let host = Uuid::new_v4();
        let key = join_token_key(&SECRET);
        let record = Host {
            meta: Meta::new(host, "", "h1"),
            number: None,
            vtep: None,
            physical_networks: std::collections::BTreeSet::new(),
            availability_zone: "nova".to_owned(),
            proxies: false,
            foreign: false,
            capacity: None,
            admin_state_up: true,
            token_key: Some(key.clone()),
            lost_at: None,
            certificate: None,
            new_token: false,
        };
        let token = JoinToken {
            host_id: host,
            expires_at: Seconds::new(u64::MAX),
        };
        transact::<_, ()>(store.as_ref(), move |view| {
            view.put(Host::SPEC.key(host), Arc::new(record.clone()));
            let claim = crate::resource::Claim { holder: host };
            view.put(Host::name_key("h1"), Arc::new(claim));
            view.put(key.as_str(), Arc::new(token.clone()));
            Ok(())
        })
        .await
        .unwrap();
        let dir = std::env::temp_dir().join(format!("ow-hosts-{}", Uuid::new_v4()));
        let authority = Arc::new(Authority::open(&dir).unwrap());
        let status = Arc::new(StatusBoard::default());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let parts = Parts {
            store: Arc::clone(&store),
            status: Arc::clone(&status),
            facts: Arc::default(),
            tls: authority.server_config().unwrap(),
            authority: Arc::clone(&authority),
            stats: Stats::new(&prometheus::Registry::new()).unwrap(),
        };
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(serve(
            listener,
            parts,
            Limits {
                hosts: 8,
                strangers: 8,
            },
            async {
                drop(stopped.await);
            },
        ));
        Self {
            store,
            status,
            authority,
            addr,
            host,
            dir,
            stop,
            serving,
        }
    }

    async fn client(&self, identity: Option<(&KeyPair, &[u8])>) -> HostsClient<Channel> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.certificate().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match identity {
            None => config.with_no_client_auth(),
            Some((key, certificate)) => {
                let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
                let chain = vec![CertificateDer::from(certificate.to_vec())];
                config.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let (addr, tls) = (self.addr, TlsConnector::from(Arc::new(config)));
        let connector = tower::service_fn(move |_: tonic::codegen::http::Uri| {
            let tls = tls.clone();
            async move {
                let tcp = TcpStream::connect(addr).await?;
                let name = ServerName::try_from(CONTROLLER_NAME).unwrap();
                Ok::<_, std::io::Error>(TokioIo::new(tls.connect(name, tcp).await?))
            }
        });
        let endpoint = Endpoint::from_static("http://controller.overweave");
        HostsClient::new(endpoint.connect_with_connector(connector).await.unwrap())
    }

    async fn join(
        &self,
        host: &str,
        secret: &[u8],
        key: &KeyPair,
    ) -> Result<wire::JoinReply, Status> {
        let csr = CertificateParams::default().serialize_request(key).unwrap();
        let request = wire::JoinRequest {
            host: host.to_owned(),
            token: URL_SAFE_NO_PAD.encode(secret),
            csr_der: csr.der().to_vec(),
        };
        self.client(None)
            .await
            .join(request)
            .await
            .map(tonic::Response::into_inner)
    }

    async fn sync(
        &self,
        key: &KeyPair,
        certificate: &[u8],
    ) -> Result<
        (
            mpsc::Sender<wire::FromHost>,
            Streaming<wire::FromController>,
        ),
        Status,
    > {
        let (say, said) = mpsc::channel(8);
        let mut client = self.client(Some((key, certificate))).await;
        let answers = client.sync(ReceiverStream::new(said)).await?.into_inner();
        let hello = wire::Hello {
            vtep: "192.0.2.1".to_owned(),
            ..wire::Hello::default()
        };
        say.send(message(from_host::Message::Hello(hello)))
            .await
            .unwrap();
        Ok((say, answers))
    }

    async fn end(self) {
        self.stop.send(()).unwrap();
        self.serving.await.unwrap();
        std::fs::remove_dir_all(self.dir).unwrap();
    }
}

fn message(message: from_host::Message) -> wire::FromHost {
    wire::FromHost {
        message: Some(message),
    }
}

async fn next_update(answers: &mut Streaming<wire::FromController>) -> wire::Update {
    loop {
        match answers.message().await.unwrap().unwrap().message.unwrap() {
            from_controller::Message::Update(update) => return update,
            from_controller::Message::Ping(_) | from_controller::Message::Parts(_) => {}
        }
    }
}

#[tokio::test]
async fn a_token_joins_one_host_once() {
    let fabric = Fabric::new().await;
    let key = KeyPair::generate().unwrap();
    for (host, secret) in [("h1", [8; 32].as_slice()), ("h2", &SECRET), ("h1", b"")] {
        let refused = fabric.join(host, secret, &key).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{host}");
    }
    let reply = fabric.join("h1", &SECRET, &key).await.unwrap();
    assert_eq!(reply.ca_der, fabric.authority.certificate().to_vec());
    let again = fabric.join("h1", &SECRET, &key).await.unwrap_err();
    assert_eq!(again.code(), Code::Unauthenticated);
    fabric.end().await;
}

#[tokio::test]
async fn an_expired_token_is_refused() {
    let fabric = Fabric::new().await;
    let token = JoinToken {
        host_id: fabric.host,
        expires_at: Seconds::new(1),
    };
    transact::<_, ()>(fabric.store.as_ref(), move |view| {
        view.put(join_token_key(&SECRET), Arc::new(token.clone()));
        Ok(())
    })
    .await
    .unwrap();
    let refused = fabric
        .join("h1", &SECRET, &KeyPair::generate().unwrap())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    fabric.end().await;
}

#[tokio::test]
async fn without_a_certificate_only_join_is_answered() {
    let fabric = Fabric::new().await;
    let (_say, said) = mpsc::channel::<wire::FromHost>(1);
    let refused = fabric
        .client(None)
        .await
        .sync(ReceiverStream::new(said))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    fabric.end().await;
}

#[tokio::test]
async fn a_certificate_of_another_ca_gets_no_answer_at_all() {
    let fabric = Fabric::new().await;
    let dir = std::env::temp_dir().join(format!("ow-hosts-{}", Uuid::new_v4()));
    let other = Authority::open(&dir).unwrap();
    let key = KeyPair::generate().unwrap();
    let csr = CertificateParams::default()
        .serialize_request(&key)
        .unwrap();
    let forged = other.sign_host("h1", csr.der()).unwrap();
    assert!(fabric.sync(&key, &forged).await.is_err());
    std::fs::remove_dir_all(dir).unwrap();
    fabric.end().await;
}

#[tokio::test]
async fn a_host_is_told_what_it_should_be_until_it_is_deleted() {
    let fabric = Fabric::new().await;
    let key = KeyPair::generate().unwrap();
    let certificate = fabric
        .join("h1", &SECRET, &key)
        .await
        .unwrap()
        .certificate_der;
    let (_, mut watcher) = fabric.store.watch();
    let (say, mut answers) = fabric.sync(&key, &certificate).await.unwrap();
    let first = next_update(&mut answers).await;
    assert_eq!(
        first
            .upserts
            .iter()
            .map(|s| s.key.as_str())
            .collect::<Vec<_>>(),
        ["vteps"]
    );
    let ack = |update: &wire::Update| {
        message(from_host::Message::Ack(wire::Ack {
            generation: update.generation,
            digest: update.digest.clone(),
            complaints: Vec::new(),
        }))
    };
    say.send(ack(&first)).await.unwrap();
    // Its VTEP goes into its record, and from there into everybody's config.
    let Some(Event::Commit(commit)) = watcher.next().await else {
        panic!("no commit")
    };
    let record = commit.snapshot.object::<Host>(fabric.host).unwrap();
    assert_eq!(record.vtep, Some(IpAddr::from([192, 0, 2, 1])));
    let second = next_update(&mut answers).await;
    assert!(second.generation > first.generation);
    say.send(ack(&second)).await.unwrap();
    assert!(fabric.status.is_host_alive(fabric.host));
    let host = fabric.host;
    transact::<_, ()>(fabric.store.as_ref(), move |view| {
        view.delete(&Host::SPEC.key(host));
        Ok(())
    })
    .await
    .unwrap();
    let ended = answers.message().await.unwrap_err();
    assert_eq!(ended.code(), Code::Unauthenticated);
    assert!(!fabric.status.is_host_alive(fabric.host));
    let refused = fabric.sync(&key, &certificate).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    fabric.end().await;
}

#[tokio::test]
async fn at_shutdown_streams_end_with_a_reason() {
    let fabric = Fabric::new().await;
    let key = KeyPair::generate().unwrap();
    let certificate = fabric
        .join("h1", &SECRET, &key)
        .await
        .unwrap()
        .certificate_der;
    let (_say, mut answers) = fabric.sync(&key, &certificate).await.unwrap();
    next_update(&mut answers).await;
    fabric.stop.send(()).unwrap();
    let ended = loop {
        match answers.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("ended without a reason"),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::Unavailable);
    fabric.serving.await.unwrap();
    std::fs::remove_dir_all(fabric.dir).unwrap();
}
