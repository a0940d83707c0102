//! How does a controller start, run and end?
//!
//! [`Core`] is what all of its parts share. [`Controller::start`] opens the store, makes the admin at
//! the first start, binds the API's address and writes `clouds.yaml`; [`Controller::serve`] answers
//! until it is told to stop.

use crate::{
    api::{self, Api, Judge, JudgeError, Limits},
    audit::Audit,
    config::Config,
    hosts::{
        self,
        pki::{Authority, PkiError},
    },
    identity::{self, Bootstrap},
    keys::{Keyring, KeyringError},
    policy::{Board, PolicyError},
    private, resources,
    rules::{Facts, Occasion},
    stats::Stats,
    status::StatusBoard,
    store::{DiskError, Embedded, Read as _, RedbDisk, Store, TransactError, transact},
    time::Clock,
};
use futures::FutureExt as _;
use rand::{Rng, RngCore, distr::Alphanumeric};
use serde_norway::Value as Yaml;
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_rustls::TlsAcceptor;

/// How often spent tokens are cleared away.
const SWEEP: Duration = Duration::from_mins(5);
/// How often the policies' files are looked at.
const WATCH: Duration = Duration::from_secs(2);

/// What all parts of a controller share.
#[derive(Debug)]
pub struct Core {
    /// Intent.
    pub store: Arc<dyn Store>,
    /// What hosts proved.
    pub status: Arc<StatusBoard>,
    /// The time.
    pub clock: Clock,
    /// What is fixed at the start.
    pub facts: Arc<Facts>,
    /// Who changed what.
    pub audit: Audit,
    /// Who may do what, where files say so.
    pub policies: Arc<Board>,
    data_dir: Option<PathBuf>,
    api_addr: OnceLock<SocketAddr>,
}

impl Core {
    /// A core over any store: for simulated regions and tests.
    pub fn new(store: Arc<dyn Store>, facts: Facts, clock: Clock, audit: Audit) -> Self {
        Self {
            store,
            status: Arc::default(),
            clock,
            facts: Arc::new(facts),
            audit,
            policies: Arc::default(),
            data_dir: None,
            api_addr: OnceLock::new(),
        }
    }

    /// The same, of a data dir.
    #[must_use]
    pub fn of_dir(mut self, data_dir: &Path) -> Self {
        self.data_dir = Some(data_dir.to_owned());
        self
    }

    /// The same, with these policies.
    #[must_use]
    pub fn under(mut self, policies: Board) -> Self {
        self.policies = Arc::new(policies);
        self
    }

    /// Where its files are, if it has any.
    pub fn data_dir(&self) -> Option<&Path> {
        self.data_dir.as_deref()
    }

    /// Where the API listens; before it does, an address that nobody has.
    pub fn api_addr(&self) -> SocketAddr {
        let nowhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        self.api_addr.get().copied().unwrap_or(nowhere)
    }

    /// Can the store write?
    pub fn is_healthy(&self) -> bool {
        self.store.is_healthy()
    }

    /// The time and the luck of one request.
    pub fn occasion(&self) -> Occasion {
        let mut seed = [0; 32];
        rand::rng().fill_bytes(&mut seed);
        Occasion {
            now: self.clock.now(),
            seed,
            facts: Arc::clone(&self.facts),
            bundles: Arc::default(),
        }
    }
}

/// Why a controller does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store cannot be opened.
    #[error("cannot open the store")]
    Store(#[from] DiskError),
    /// The store cannot be written.
    #[error("cannot write to the store: {0}")]
    Unavailable(String),
    /// A file cannot be read or written.
    #[error("cannot use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The address cannot be had.
    #[error("cannot listen on {addr}; is another controller running?")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The certificate or key cannot be used.
    #[error("cannot use the certificate and key of [tls]")]
    Tls(#[source] io::Error),
    /// The policies cannot be used.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The other Keystone cannot be asked.
    #[error("cannot use the keystone of the config")]
    Keystone(#[from] JudgeError),
    /// The password cannot be hashed.
    #[error("cannot hash the admin's password: {0}")]
    Password(String),
    /// The CA for hosts cannot be had.
    #[error("cannot set up the hosts' identities")]
    Pki(#[from] PkiError),
    /// Secrets can't be kept.
    #[error("cannot keep secrets")]
    Keys(#[from] KeyringError),
    /// The metrics cannot be registered.
    #[error("cannot register the metrics")]
    Metrics(#[from] prometheus::Error),
}

/// A controller that is about to serve.
pub struct Controller {
    core: Arc<Core>,
    stats: Arc<Stats>,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    limits: Limits,
    sweeper: JoinHandle<()>,
    watcher: JoinHandle<()>,
    clouds: PathBuf,
    judge: Option<Judge>,
}

impl std::fmt::Debug for Controller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controller")
            .field("core", &self.core)
            .finish_non_exhaustive()
    }
}

impl Controller {
    /// Opens the store and binds the address.
    ///
    /// # Errors
    /// What is in the way, with the file or address.
    pub async fn start(config: &Config, ca_pin: String) -> Result<Self, StartError> {
        let disk = RedbDisk::open(&config.data_dir, resources::decode)?;
        Self::start_on(disk, config, ca_pin).await
    }

    /// The same with the store's file already open.
    ///
    /// # Errors
    /// What is in the way, with the file or address.
    pub async fn start_on(
        disk: RedbDisk,
        config: &Config,
        ca_pin: String,
    ) -> Result<Self, StartError> {
        let data_dir = config.data_dir.as_path();
        let (store, writer) = Embedded::open(Arc::new(disk))?;
        tokio::spawn(writer);
        let in_dir = |name: &str| data_dir.join(name);
        let (audit, writer) = Audit::open(data_dir).map_err(|source| StartError::File {
            path: in_dir("audit.jsonl"),
            source,
        })?;
        tokio::spawn(writer);
        let is_used = store.snapshot().scan("secret/").next().is_some();
        let keyring = Keyring::open(data_dir, is_used)?;
        let facts = Facts {
            ca_pin,
            underlay_mtu: config.underlay_mtu,
            dns_domain: config.dns_domain.clone(),
            dns_resolvers: config.dns_resolvers.clone(),
            keyring: Some(Arc::new(keyring)),
        };
        let policies = Board::open(config.policies.clone())?;
        let core = Core::new(Arc::new(store), facts, Clock::default(), audit);
        let core = Arc::new(core.of_dir(data_dir).under(policies));
        let tls = match &config.tls {
            Some(tls) => Some(api::acceptor(&tls.cert, &tls.key).map_err(StartError::Tls)?),
            None => None,
        };
        let failed = |source| StartError::Listen {
            addr: config.listen,
            source,
        };
        let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        core.api_addr.get_or_init(|| addr);
        let clouds = in_dir("clouds.yaml");
        let url = format!(
            "{}://{}/identity/v3",
            if tls.is_some() { "https" } else { "http" },
            reachable(addr)
        );
        let unusable = |source| StartError::File {
            path: clouds.clone(),
            source,
        };
        let judge = match &config.keystone {
            Some(url) => Some(Judge::new(url, config.keystone_ca.as_deref())?),
            None => None,
        };
        // Where another Keystone judges, nobody could use an admin of this one.
        let first = match judge {
            Some(_) => None,
            None => first_start(&core)?,
        };
        match first {
            Some((password, with)) => {
                // The file first: a crash between the two makes another admin at the next start,
                // the other way round it would leave one whose password nobody knows.
                write_clouds(&clouds, &url, &password).map_err(unusable)?;
                bootstrap(&core, with).await?;
            }
            None if judge.is_none() => refresh_clouds(&clouds, &url).map_err(unusable)?,
            None => {}
        }
        let limits = Limits {
            connections: config.max_connections,
            ..Limits::default()
        };
        let sweeper = tokio::spawn(sweep(Arc::clone(&core)));
        let watcher = tokio::spawn(watch(Arc::clone(&core.policies)));
        let stats = Arc::new(Stats::new()?);
        tracing::info!(%addr, data_dir = %data_dir.display(), "the API listens");
        Ok(Self {
            core,
            stats,
            listener,
            tls,
            limits,
            sweeper,
            watcher,
            clouds,
            judge,
        })
    }

    /// What its parts share.
    pub const fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Its counters.
    pub const fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// Where the API listens.
    pub fn api_addr(&self) -> SocketAddr {
        self.core.api_addr()
    }

    /// The `clouds.yaml` that was written.
    pub fn clouds_file(&self) -> &Path {
        &self.clouds
    }

    /// Answers until `shutdown`, then lets open requests end.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send) {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let api = Api::new(Arc::clone(&self.core), self.stats, scheme).judged_by(self.judge);
        api::serve(self.listener, api.router(), self.tls, self.limits, shutdown).await;
        self.sweeper.abort();
        self.watcher.abort();
        tracing::info!("the API has stopped");
    }
}

/// A controller from start to end.
///
/// # Errors
/// What is in the way of its start.
pub async fn run(
    config: Config,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), StartError> {
    let authority = Arc::new(Authority::open(&config.data_dir)?);
    let disk = RedbDisk::open(&config.data_dir, resources::decode)?;
    run_on(disk, authority, config, shutdown).await
}

/// The same with the store's file already open.
///
/// # Errors
/// What is in the way of its start.
pub async fn run_on(
    disk: RedbDisk,
    authority: Arc<Authority>,
    config: Config,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), StartError> {
    let controller = Controller::start_on(disk, &config, authority.pin()).await?;
    let addr = config.hosts_addr();
    let listener = TcpListener::bind(addr).await;
    let listener = listener.map_err(|source| StartError::Listen { addr, source })?;
    let parts = hosts::Parts {
        store: Arc::clone(&controller.core().store),
        status: Arc::clone(&controller.core().status),
        facts: Arc::clone(&controller.core().facts),
        tls: authority.server_config()?,
        authority,
        stats: hosts::Stats::new(controller.stats().registry())?,
    };
    tracing::info!(%addr, "hosts are listened to");
    let shutdown = shutdown.shared();
    let hosts = hosts::serve(listener, parts, hosts::Limits::default(), shutdown.clone());
    tokio::join!(hosts, controller.serve(shutdown));
    Ok(())
}

/// A wildcard address is reached over loopback.
fn reachable(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, addr.port())
}

/// The password and the records of an admin, if there is none yet.
fn first_start(core: &Core) -> Result<Option<(String, Bootstrap)>, StartError> {
    let snapshot = core.store.snapshot();
    if identity::by_name::<identity::User>(&snapshot, "user", "admin").is_some() {
        return Ok(None);
    }
    let password: String = rand::rng()
        .sample_iter(&Alphanumeric)
        .take(24)
        .map(char::from)
        .collect();
    let mut salt = [0; 16];
    rand::rng().fill_bytes(&mut salt);
    let password_hash = identity::hash_password(&password, salt)
        .map_err(|error| StartError::Password(error.to_string()))?;
    let ids = (0..identity::ROLES.len() + 2).map(|_| uuid::Uuid::new_v4().simple().to_string());
    let with = Bootstrap {
        ids: ids.collect(),
        password_hash,
    };
    Ok(Some((password, with)))
}

async fn bootstrap(core: &Core, with: Bootstrap) -> Result<(), StartError> {
    let made = transact::<_, ()>(core.store.as_ref(), move |view| {
        Ok(identity::bootstrap(view, &with))
    });
    match made.await {
        Ok(_) => Ok(()),
        Err(TransactError::Refused(())) => unreachable!("it refuses nothing"),
        Err(TransactError::Unavailable(error)) => {
            Err(StartError::Unavailable(error.reason.to_string()))
        }
    }
}

fn write_clouds(path: &Path, url: &str, password: &str) -> io::Result<()> {
    let text = format!(
        "# The admin of this controller. Keep it secret.\n\
         clouds:\n  overweave:\n    auth:\n      auth_url: {url}\n      username: admin\n      \
         password: {password}\n      project_name: admin\n      user_domain_name: Default\n      \
         project_domain_name: Default\n    region_name: RegionOne\n    interface: public\n    \
         identity_api_version: 3\n"
    );
    private::write(path, &text)
}

/// The address may be another than at the last start: the file follows it, the rest stays.
fn refresh_clouds(path: &Path, url: &str) -> io::Result<()> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let invalid = |error: serde_norway::Error| io::Error::new(io::ErrorKind::InvalidData, error);
    let mut clouds: Yaml = serde_norway::from_str(&text).map_err(invalid)?;
    let auth = clouds
        .get_mut("clouds")
        .and_then(|clouds| clouds.get_mut("overweave"))
        .and_then(|cloud| cloud.get_mut("auth"))
        .and_then(Yaml::as_mapping_mut);
    let Some(auth) = auth else { return Ok(()) };
    if auth.get("auth_url").and_then(Yaml::as_str) == Some(url) {
        return Ok(());
    }
    auth.insert(Yaml::from("auth_url"), Yaml::from(url));
    private::write(path, &serde_norway::to_string(&clouds).map_err(invalid)?)
}

/// Reads the policies' files again when they change.
async fn watch(policies: Arc<Board>) {
    if policies.is_fixed() {
        return;
    }
    let mut ticks = tokio::time::interval(WATCH);
    loop {
        ticks.tick().await;
        let board = Arc::clone(&policies);
        match tokio::task::spawn_blocking(move || board.refresh()).await {
            Ok(Ok(true)) => tracing::info!("the policies were read again"),
            Ok(Ok(false)) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "the policies stay as they were: their files are wrong");
            }
            Err(error) => tracing::warn!(%error, "the policies were not looked at"),
        }
    }
}

async fn sweep(core: Arc<Core>) {
    let mut ticks = tokio::time::interval(SWEEP);
    loop {
        ticks.tick().await;
        let now = core.clock.now();
        let swept = transact::<_, ()>(core.store.as_ref(), move |view| {
            Ok(identity::sweep(view, now))
        });
        if let Err(error) = swept.await {
            tracing::warn!(%error, "spent tokens were not cleared away");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{backup, restore};

    #[test]
    fn a_wildcard_is_reached_over_loopback() {
        for (from, to) in [
            ("0.0.0.0:9696", "127.0.0.1:9696"),
            ("[::]:80", "[::1]:80"),
            ("10.0.0.1:80", "10.0.0.1:80"),
        ] {
            assert_eq!(reachable(from.parse().unwrap()), to.parse().unwrap());
        }
    }

    /// A data dir of this test's own, gone when it ends.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new() -> Self {
            let path = std::env::temp_dir().join(format!("ow-core-{}", uuid::Uuid::new_v4()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            drop(std::fs::remove_dir_all(&self.0));
        }
    }

    fn config(data_dir: &Path) -> Config {
        let listen = "127.0.0.1:0".parse().unwrap();
        Config {
            listen,
            data_dir: data_dir.to_owned(),
            ..Config::default()
        }
    }

    #[tokio::test]
    async fn an_admin_is_made_once_and_a_backup_holds_it() {
        let dir = Scratch::new();
        let data = dir.0.join("data");
        let mut admins = Vec::new();
        for _ in 0..2 {
            let controller = Controller::start(&config(&data), String::new())
                .await
                .unwrap();
            let clouds = std::fs::read_to_string(controller.clouds_file()).unwrap();
            assert!(clouds.contains(&controller.api_addr().to_string()));
            let snapshot = controller.core().store.snapshot();
            let admin = identity::by_name::<identity::User>(&snapshot, "user", "admin").unwrap();
            let clouds: Yaml = serde_norway::from_str(&clouds).unwrap();
            let auth = &clouds["clouds"]["overweave"]["auth"];
            let password = auth["password"].as_str().unwrap();
            assert!(identity::verify_password(
                password,
                admin.password_hash.as_deref()
            ));
            admins.push(admin.id.clone());
            let second = Controller::start(&config(&data), String::new()).await;
            assert!(second.is_err(), "one controller a store");
            controller.serve(async {}).await;
            // The writer ends with the last handle; the next round opens the file again.
            while RedbDisk::open(&data, resources::decode).is_err() {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(admins.first(), admins.last());
        let file = dir.0.join("backup");
        let records = backup(&data, &file).unwrap();
        assert!(records > 0);
        let other = dir.0.join("other");
        assert_eq!(restore(&file, &other).unwrap(), records);
        let controller = Controller::start(&config(&other), String::new())
            .await
            .unwrap();
        let snapshot = controller.core().store.snapshot();
        assert!(identity::by_name::<identity::User>(&snapshot, "user", "admin").is_some());
        assert!(backup(&dir.0.join("nowhere"), &file).is_err());
    }

    #[tokio::test]
    async fn with_tls_the_listener_speaks_https() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let dir = Scratch::new();
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let (cert, key) = (dir.0.join("cert.pem"), dir.0.join("key.pem"));
        std::fs::write(&cert, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let tls = Some(crate::config::Tls {
            cert: cert.clone(),
            key,
        });
        let config = Config {
            tls,
            ..config(&dir.0)
        };
        let controller = Controller::start(&config, String::new()).await.unwrap();
        let addr = controller.api_addr();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = tokio::spawn(controller.serve(async {
            drop(stopped.await);
        }));
        let mut roots = rustls::RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = tokio::net::TcpStream::connect(addr).await.unwrap();
        let name = "localhost".try_into().unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
        let mut stream = connector.connect(name, stream).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        // The server may close without a close_notify.
        drop(stream.read_to_end(&mut answer).await);
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.contains("https://localhost/v2.0/"), "{answer}");
        stop.send(()).unwrap();
        server.await.unwrap();
        let bad = crate::config::Tls {
            cert: cert.clone(),
            key: cert,
        };
        let config = Config {
            tls: Some(bad),
            ..config
        };
        assert!(matches!(
            Controller::start(&config, String::new()).await,
            Err(StartError::Tls(_) | StartError::Store(_))
        ));
    }

    #[test]
    fn clouds_yaml_follows_the_address_and_keeps_the_password() {
        let path = std::env::temp_dir().join(format!("ow-clouds-{}.yaml", uuid::Uuid::new_v4()));
        write_clouds(&path, "http://127.0.0.1:1/identity/v3", "secret").unwrap();
        refresh_clouds(&path, "http://127.0.0.1:2/identity/v3").unwrap();
        let clouds: Yaml =
            serde_norway::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let auth = &clouds["clouds"]["overweave"]["auth"];
        assert_eq!(
            auth["auth_url"].as_str(),
            Some("http://127.0.0.1:2/identity/v3")
        );
        assert_eq!(auth["password"].as_str(), Some("secret"));
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata(&path).unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);
        std::fs::remove_file(&path).unwrap();
    }
}
