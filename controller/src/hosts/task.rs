//! Where do commits, streams and the clock meet?
//!
//! One task has the [`Publisher`] and gives it one event after the other: what the store committed,
//! what hosts said, that time passed. It is the edge: what comes out goes to the streams' queues.
//!
//! # Threads
//! One task; its inbox holds [`INBOX`] messages, then pushes back on the streams. A stream whose own
//! queue is full is hung up and begins anew.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use hostconfig::{Generation, wire};
use net::Now;
use rustls::ServerConfig;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_rustls::TlsAcceptor;
use tonic::Status;
use uuid::Uuid;

use super::{
    appliances::Lost,
    pki::Authority,
    proxies::Seating,
    publish::{Conn, Effect, Event, Publisher, Reading},
    schedule::Placement,
    server::{self, Limits, Service},
    session::HangUp,
    stats::Stats,
};
use crate::{
    compile::intent::HostName,
    refusal::Refusal,
    resource::{Objects as _, Resource as _},
    resources::{
        Host, Port,
        host::Site,
        lbaas::{
            self,
            health_monitor::{Verdict, note},
        },
        port::{GATEWAY_OWNER, PROXY_OWNER},
    },
    rules::Facts,
    rules::{self, Occasion, Write},
    status::StatusBoard,
    store::{self, Revision, Store, TransactError, View, Watcher, transact},
    time::Seconds,
};

/// Messages of all streams that wait for the task.
const INBOX: usize = 1024;
/// Connections whose handshake is done and that gRPC has not taken yet.
const READY: usize = 64;
/// Commits that are followed as one when they came together: hosts that say hello meanwhile wait no longer than for these.
pub const TOGETHER: usize = 256;
/// Sessions are looked at this often: their shortest time limit is 5 s.
const TICK: Duration = Duration::from_secs(1);
/// Hosts with gateways are looked at this often: each other time they are asked, and a gateway of one that is gone waits so much longer at most.
const BEAT: Duration = Duration::from_millis(100);
/// How long streams may take to end.
const DRAIN: Duration = Duration::from_secs(5);

/// What a stream tells the task.
#[derive(Debug)]
pub(super) enum Message {
    /// A host opened a stream; the store said at this revision that it may.
    Connected {
        conn: Conn,
        host: HostName,
        certificate: String,
        revision: Revision,
        outgoing: mpsc::Sender<Result<wire::FromController, Status>>,
        hang_up: oneshot::Sender<Status>,
    },
    /// A host said something.
    Heard(Conn, wire::FromHost),
    /// A stream ended.
    Closed(Conn),
    /// A host's VTEP address could not be written.
    VtepRefused(HostName, String),
}

/// What serving the hosts needs of the rest of the controller.
#[derive(Debug)]
pub struct Parts {
    /// Intent, and what hosts add to their own records.
    pub store: Arc<dyn Store>,
    /// What hosts proved.
    pub status: Arc<StatusBoard>,
    /// What the controller knows besides.
    pub facts: Arc<Facts>,
    /// Who signs for hosts.
    pub authority: Arc<Authority>,
    /// The listener's TLS, [`Authority::server_config`].
    pub tls: ServerConfig,
    /// What is counted.
    pub stats: Stats,
}

/// Serves the hosts on `listener` until `shutdown`, then ends their streams.
pub async fn serve(
    listener: TcpListener,
    parts: Parts,
    limits: Limits,
    shutdown: impl Future<Output = ()> + Send,
) {
    let Parts {
        store,
        status,
        facts,
        authority,
        tls,
        stats,
    } = parts;
    let tls = TlsAcceptor::from(Arc::new(tls));
    let (stop, stopped) = watch::channel(false);
    let (inbox, messages) = mpsc::channel(INBOX);
    let (ready, connections) = mpsc::channel(READY);
    let (of_task, said) = (Arc::clone(&store), inbox.clone());
    // Compiling a whole region takes seconds: the API answers meanwhile.
    let starting =
        tokio::task::spawn_blocking(move || Task::new(of_task, (status, facts), said, stats));
    let Ok(task) = starting.await else {
        tracing::error!("the publisher did not start");
        return;
    };
    let service = Service::new(store, authority, inbox);
    let accepting = tokio::spawn(server::accept(
        listener,
        tls,
        limits,
        ready,
        stopped.clone(),
    ));
    let publishing = tokio::spawn(task.run(messages, stopped.clone()));
    let serving = tokio::spawn(service.serve(connections, stopped));
    shutdown.await;
    stop.send_replace(true);
    let drained = timeout(DRAIN, async {
        drop((accepting.await, publishing.await));
        serving.await
    });
    match drained.await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => tracing::warn!(%error, "the hosts' listener ended badly"),
        Ok(Err(_)) | Err(_) => tracing::warn!("hosts' streams were cut off by the shutdown"),
    }
}

/// Returns when told to stop, or when nobody is left to tell.
pub(super) async fn told(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}

struct Stream {
    outgoing: mpsc::Sender<Result<wire::FromController, Status>>,
    hang_up: oneshot::Sender<Status>,
}

struct Task {
    publisher: Publisher,
    facts: Arc<Facts>,
    watcher: Watcher,
    store: Arc<dyn Store>,
    inbox: mpsc::Sender<Message>,
    streams: HashMap<Conn, Stream>,
    stats: Stats,
    started: Instant,
}

impl Task {
    fn new(
        store: Arc<dyn Store>,
        (status, facts): (Arc<StatusBoard>, Arc<Facts>),
        inbox: mpsc::Sender<Message>,
        stats: Stats,
    ) -> Self {
        let started = Instant::now();
        let (snapshot, watcher) = store.watch();
        let publisher = Publisher::of(&snapshot, status, &facts, reading(started));
        Self {
            publisher,
            facts,
            watcher,
            store,
            inbox,
            streams: HashMap::new(),
            stats,
            started,
        }
    }

    async fn run(mut self, mut messages: mpsc::Receiver<Message>, mut stop: watch::Receiver<bool>) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut beats = interval(BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                events = self.watcher.some(TOGETHER) => match events {
                    Some(events) => self.follow(&events),
                    None => break,
                },
                message = messages.recv() => match message {
                    Some(message) => self.hear(message).await,
                    None => break,
                },
                _ = ticks.tick() => {
                    self.step(Event::Tick);
                    self.stats.show_lags(self.publisher.lags());
                }
                _ = beats.tick() => self.step(Event::Beat),
                () = told(&mut stop) => break,
            }
        }
        for (_, stream) in self.streams.drain() {
            // A stream that has ended meanwhile does not mind.
            drop(
                stream
                    .hang_up
                    .send(Status::unavailable("the controller is stopping")),
            );
        }
    }

    fn follow(&mut self, events: &[store::Event]) {
        let began = Instant::now();
        let fell_behind = |event| matches!(event, &store::Event::Resync(_));
        if events.iter().any(fell_behind) {
            tracing::warn!("the publisher fell behind the store and compares everything");
        }
        self.step(Event::heard(events, &self.facts));
        self.stats.followed(began.elapsed());
    }

    async fn hear(&mut self, message: Message) {
        match message {
            Message::Connected {
                conn,
                host,
                certificate,
                revision,
                outgoing,
                hang_up,
            } => {
                // The stream was let in by a commit that may still be on its way here.
                while self.publisher.compiler().generation() < Generation(revision.get()) {
                    let Some(events) = self.watcher.some(TOGETHER).await else {
                        return;
                    };
                    self.follow(&events);
                }
                self.streams.insert(conn, Stream { outgoing, hang_up });
                tracing::info!(%host, "a host connected");
                self.step(Event::Connected(conn, host, certificate));
            }
            Message::Heard(conn, message) => self.step(Event::Heard(conn, message)),
            Message::Closed(conn) => {
                self.streams.remove(&conn);
                self.step(Event::Closed(conn));
            }
            Message::VtepRefused(host, reason) => self.step(Event::VtepRefused(host, reason)),
        }
    }

    fn step(&mut self, event: Event) {
        let effects = self.publisher.on(event, reading(self.started));
        for effect in effects {
            match effect {
                Effect::Send(conn, message) => {
                    let taken = self
                        .streams
                        .get(&conn)
                        .is_none_or(|stream| stream.outgoing.try_send(Ok(message)).is_ok());
                    if !taken {
                        self.hang_up(conn, &Status::resource_exhausted("too slow"));
                        self.step(Event::Closed(conn));
                    }
                }
                Effect::HangUp(conn, reason) => {
                    tracing::info!(%reason, "a host's stream was ended");
                    let status = match reason {
                        HangUp::Unknown => Status::unauthenticated(reason.to_string()),
                        HangUp::Protocol(_) => Status::invalid_argument(reason.to_string()),
                        HangUp::NoHello | HangUp::Silent | HangUp::NoAck | HangUp::Replaced => {
                            Status::aborted(reason.to_string())
                        }
                    };
                    self.hang_up(conn, &status);
                }
                Effect::Vtep(host, vtep) => self.write_vtep(host.uuid(), vtep),
                Effect::Site(host, site) => self.write_site(host.uuid(), site),
                Effect::Place(placement) => self.write_placement(placement),
                Effect::Seat(seating) => self.write_seating(seating),
                Effect::Judge(verdicts) => self.write_verdicts(verdicts),
                Effect::Lost(news) => self.write_lost(news),
            }
        }
    }

    fn hang_up(&mut self, conn: Conn, status: &Status) {
        if let Some(stream) = self.streams.remove(&conn) {
            // It may have ended by itself.
            drop(stream.hang_up.send(status.clone()));
        }
    }

    /// Notes in the store where a gateway is.
    fn write_placement(&self, placement: Placement) {
        let store = Arc::clone(&self.store);
        let port = placement.port;
        let host = placement.to.host.as_ref();
        let to = host.map(ToString::to_string).unwrap_or_default();
        tokio::spawn(async move {
            let now = Seconds::of(SystemTime::now());
            match place(store.as_ref(), placement, now).await {
                Ok(true) => tracing::info!(%port, host = to, "a router's gateway was placed"),
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "a router's gateway was not placed"),
            }
        });
    }

    /// Notes in the store where a load balancer's proxy is.
    fn write_seating(&self, seating: Seating) {
        let store = Arc::clone(&self.store);
        let (balancer, host) = (seating.load_balancer, seating.to.clone());
        let host = host.map(|host| host.to_string()).unwrap_or_default();
        tokio::spawn(async move {
            let now = Seconds::of(SystemTime::now());
            match seat(store.as_ref(), seating, now).await {
                Ok(true) => tracing::info!(%balancer, host, "a load balancer's proxy was placed"),
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "a load balancer's proxy was not placed"),
            }
        });
    }

    /// Notes in the store what a host found of members that it asks.
    fn write_verdicts(&self, verdicts: Vec<Verdict>) {
        let store = Arc::clone(&self.store);
        tokio::spawn(async move {
            let now = Seconds::of(SystemTime::now());
            if let Err(error) = judge(store.as_ref(), verdicts, now).await {
                tracing::warn!(%error, "what a monitor found was not noted");
            }
        });
    }

    /// Notes in the store where a host stands.
    fn write_site(&self, host: Uuid, site: Site) {
        let store = Arc::clone(&self.store);
        tokio::spawn(async move {
            let now = Seconds::of(SystemTime::now());
            if let Err(error) = note_site(store.as_ref(), host, site, now).await {
                tracing::warn!(?error, "where a host stands was not noted");
            }
        });
    }

    /// Notes in the store whether a host of appliances is gone.
    fn write_lost(&self, news: Lost) {
        let store = Arc::clone(&self.store);
        tokio::spawn(async move {
            let now = Seconds::of(SystemTime::now());
            match note_lost(store.as_ref(), news, now).await {
                Ok(()) => {
                    tracing::info!(host = %news.host, lost = news.lost, "a host of appliances");
                }
                Err(error) => tracing::warn!(?error, "that a host is gone was not noted"),
            }
        });
    }

    /// Notes in the store where a host's VTEP is: from there the compiler has it, after a restart too.
    fn write_vtep(&mut self, host: Uuid, vtep: Option<IpAddr>) {
        let (store, inbox) = (Arc::clone(&self.store), self.inbox.clone());
        tokio::spawn(async move {
            let now = Seconds::of(SystemTime::now());
            match note_vtep(store.as_ref(), host, vtep, now).await {
                Ok(()) => {}
                Err(TransactError::Refused((name, reason))) => {
                    tracing::warn!(host = %name, reason, "a host's VTEP is refused");
                    // Gone only when the controller stops.
                    drop(inbox.send(Message::VtepRefused(name, reason)).await);
                }
                Err(TransactError::Unavailable(error)) => {
                    tracing::warn!(%error, "a host's VTEP was not noted");
                }
            }
        });
    }
}

/// Does what [`Effect::Place`] asks for: the gateway's port is bound to the host, if it is where it was. Was it?
///
/// # Errors
/// That the store cannot write, or a rule of ports was broken.
pub async fn place(
    store: &dyn Store,
    placement: Placement,
    now: Seconds,
) -> Result<bool, TransactError<Refusal>> {
    let moment = Occasion {
        now,
        seed: [0; 32],
        facts: Arc::default(),
        bundles: Arc::default(),
    };
    let set = move |view: &mut View| {
        let port = view.object::<Port>(placement.port.uuid());
        let name = |host: &Option<HostName>| host.as_ref().map_or("", HostName::as_str).to_owned();
        let is_as_it_was = |port: &Arc<Port>| {
            let was = (name(&placement.from.host), name(&placement.from.left));
            port.device_owner == GATEWAY_OWNER && (&port.host, &port.left) == (&was.0, &was.1)
        };
        let Some(port) = port.filter(is_as_it_was) else {
            return Ok(false);
        };
        let mut port = Port::clone(&port);
        port.host = name(&placement.to.host);
        port.left = name(&placement.to.left);
        port.may_move = placement.may_move;
        rules::follow_up(view, vec![Write::put(port)], &moment.moment())?;
        Ok(true)
    };
    Ok(transact(store, set).await?.value)
}

/// Does what [`Effect::Seat`] asks for: the proxy's port is bound to the host, if it is where it was. Was it?
///
/// # Errors
/// That the store cannot write, or a rule of ports was broken.
pub async fn seat(
    store: &dyn Store,
    seating: Seating,
    now: Seconds,
) -> Result<bool, TransactError<Refusal>> {
    let moment = Occasion {
        now,
        seed: [0; 32],
        facts: Arc::default(),
        bundles: Arc::default(),
    };
    let set = move |view: &mut View| {
        let port = view.object::<Port>(seating.port.uuid());
        let name = |host: &Option<HostName>| host.as_ref().map_or("", HostName::as_str).to_owned();
        let from = name(&seating.from);
        let port = port.filter(|port| port.device_owner == PROXY_OWNER && port.host == from);
        let Some(port) = port else {
            return Ok(false);
        };
        let mut port = Port::clone(&port);
        port.host = name(&seating.to);
        let mut writes = vec![Write::put(port)];
        // Whether anybody serves its listeners is part of their plans.
        writes.extend(lbaas::again(view, "loadbalancer_id", seating.load_balancer));
        rules::follow_up(view, writes, &moment.moment())?;
        Ok(true)
    };
    Ok(transact(store, set).await?.value)
}

/// Does what [`Effect::Judge`] asks for: what was found is kept with each member.
///
/// # Errors
/// That the store cannot write, or a rule of pools was broken.
pub async fn judge(
    store: &dyn Store,
    verdicts: Vec<Verdict>,
    now: Seconds,
) -> Result<(), TransactError<Refusal>> {
    let moment = Occasion {
        now,
        seed: [0; 32],
        facts: Arc::default(),
        bundles: Arc::default(),
    };
    let set = move |view: &mut View| note(view, &verdicts, &moment.moment());
    transact(store, set).await?;
    Ok(())
}

/// Does what [`Effect::Site`] asks for: the names go into the host's record.
///
/// # Errors
/// That the store cannot write.
pub async fn note_site(
    store: &dyn Store,
    host: Uuid,
    site: Site,
    now: Seconds,
) -> Result<(), TransactError<()>> {
    let set = move |view: &mut View| {
        let told = view.object::<Host>(host);
        let known = |host: &Host| {
            host.physical_networks == site.physical_networks
                && (&host.availability_zone, host.proxies)
                    == (&site.availability_zone, site.proxies)
        };
        let Some(host) = told.filter(|host| !known(host)) else {
            return Ok(());
        };
        let mut host = Host::clone(&host);
        host.physical_networks.clone_from(&site.physical_networks);
        host.availability_zone.clone_from(&site.availability_zone);
        host.proxies = site.proxies;
        host.meta.revision_number += 1;
        host.meta.updated_at = now;
        view.put(Host::SPEC.key(host.meta.id), Arc::new(host));
        Ok(())
    };
    transact(store, set).await?;
    Ok(())
}

/// Does what [`Effect::Lost`] asks for: the host's record says whether it is gone.
///
/// # Errors
/// That the store cannot write.
pub async fn note_lost(
    store: &dyn Store,
    news: Lost,
    now: Seconds,
) -> Result<(), TransactError<()>> {
    let set = move |view: &mut View| {
        let told = view.object::<Host>(news.host.uuid());
        let Some(host) = told.filter(|host| host.lost_at.is_some() != news.lost) else {
            return Ok(());
        };
        let mut host = Host::clone(&host);
        host.lost_at = news.lost.then_some(now);
        host.meta.revision_number += 1;
        host.meta.updated_at = now;
        view.put(Host::SPEC.key(host.meta.id), Arc::new(host));
        Ok(())
    };
    transact(store, set).await?;
    Ok(())
}

/// Does what [`Effect::Vtep`] asks for: the address goes into the host's record.
///
/// # Errors
/// The host's name and the reason, when another host has the address; that the store cannot write.
pub async fn note_vtep(
    store: &dyn Store,
    host: Uuid,
    vtep: Option<IpAddr>,
    now: Seconds,
) -> Result<(), TransactError<(HostName, String)>> {
    transact(store, move |view| set_vtep(view, host, vtep, now)).await?;
    Ok(())
}

fn set_vtep(
    view: &mut View,
    id: Uuid,
    vtep: Option<IpAddr>,
    now: Seconds,
) -> Result<(), (HostName, String)> {
    let Some(host) = view.object::<Host>(id).filter(|host| host.vtep != vtep) else {
        return Ok(());
    };
    let twin = view
        .objects::<Host>()
        .into_iter()
        .find(|other| other.meta.id != id && vtep.is_some() && other.vtep == vtep);
    if let (Some(twin), Some(vtep)) = (twin, vtep) {
        let reason = format!("the VTEP address {vtep} is host {}'s", twin.meta.name);
        return Err((HostName::from(host.meta.name.as_str()), reason));
    }
    let mut host = Host::clone(&host);
    host.vtep = vtep;
    host.meta.revision_number += 1;
    host.meta.updated_at = now;
    view.put(Host::SPEC.key(id), Arc::new(host));
    Ok(())
}

fn reading(started: Instant) -> Reading {
    let nanos = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
    Reading {
        now: Now::from_nanos(nanos),
        wall: Seconds::of(SystemTime::now()),
    }
}
