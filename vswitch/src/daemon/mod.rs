//! How is a vswitch put together, and taken down?
//!
//! Parts are built here, each given only what it uses, and run until told to stop: then nobody new is heard, workers drain
//! and flush, and everything is closed. Taps, addresses and the state dir stay for the next process.

use std::{fs, future::Future, io::Error as IoError, pin::pin, thread, time::Duration};

use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};
use tracing::{info, warn};

use crate::{
    agent::{
        self, Agent, Clock, Grpc, IdentityError, Input, JoinError, JoinToken, Me, StateError,
        Switch, identity::Identity, report::Underlay, state::State,
    },
    config::Config,
    http::{self, HttpError},
    local::{self, Asker, LocalError},
    proxy,
    switch::{LocalSwitch, StartError},
};

/// Inputs that wait for the agent; who has more to say waits.
const INPUTS: usize = 256;
/// The first and the longest pause between attempts to join.
const JOIN_PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// Why a vswitch does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The state dir can't be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The local socket can't be served.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// Metrics can't be served.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The controller did not let it join.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// What it joined with can't be used.
    #[error("the host's identity can't be used")]
    Identity(#[from] IdentityError),
    /// It never joined, and has no token to.
    #[error(
        "this host has not joined a controller yet: give --join TOKEN; `overweave host add NAME` prints one"
    )]
    NoToken,
    /// There is no address to tunnel from.
    #[error("can't tell which address to tunnel from: no way to {controller}; give --vtep-ip")]
    Vtep {
        /// The controller's.
        controller: String,
        /// Why not.
        #[source]
        source: IoError,
    },
    /// The system gives no thread.
    #[error("can't start a thread")]
    Thread(#[source] IoError),
    /// The workers can't be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A thread of the vswitch ended before it was told to.
    #[error(
        "a thread of the vswitch ended unexpectedly; see the log, and start it again: it takes up where it stood"
    )]
    Ended,
}

/// Runs a vswitch until `shutdown`; its taps and its state dir stay for the next.
///
/// # Errors
/// When it can't start, or the controller does not let it join. What it says names the remedy.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    serve(config, shutdown, |config, state, underlay, inputs| {
        let seed = state.seed()?;
        Ok(LocalSwitch::start(config, underlay.vtep, seed, &inputs)?)
    })
    .await
}

/// Runs the parts around a switch that `build` makes, until `shutdown`.
pub(crate) async fn serve<S: Switch + Send + 'static>(
    config: Config,
    shutdown: impl Future<Output = ()>,
    build: impl FnOnce(&Config, &State, Underlay, mpsc::Sender<Input>) -> Result<S, Error>,
) -> Result<(), Error> {
    let clock = Clock::start();
    let state = State::open(&config.state_dir)?;
    let identity = state.identity()?;
    let fresh = needs_join(&config, identity.as_ref())?;
    let socket = local::bind(&config.socket())?;
    let metrics = http::bind(config.metrics_listen).await?;
    let underlay = underlay(&config).await?;
    let (inputs, heard) = mpsc::channel(INPUTS);
    let asker = Asker::new(inputs.clone());

    let switch = build(&config, &state, underlay, inputs.clone())?;
    let me = Me {
        host: config.host.clone(),
        controller: config.controller.to_string(),
        underlay,
        workers: config.workers.get(),
        physical_networks: config.physical_networks.names(),
        availability_zone: config.availability_zone.clone(),
        proxies: config.haproxy.is_some(),
    };
    let (keeper, wanted) = watch::channel(proxy::Wanted::new());
    let runtime = Handle::current();
    let wire = Grpc::new(runtime.clone(), config.controller.clone(), inputs.clone());
    let (ended, agent_ended) = oneshot::channel();
    let agent = thread::Builder::new()
        .name("agent".to_owned())
        .spawn(move || {
            let run = || -> Result<(), Error> {
                let mut agent = Agent::new(me, state, switch, wire, clock.now())?;
                agent.keep_proxies(keeper);
                agent::run(agent, heard, &runtime, clock).or(Err(Error::Ended))
            };
            drop(ended.send(run())); // nobody waits any more
        })
        .map_err(Error::Thread)?;

    let mut tasks = JoinSet::new();
    tasks.spawn(local::serve(socket, asker.clone()));
    if let Some(program) = config.haproxy.clone() {
        let means = proxy::Means {
            program,
            dir: config.run_dir.join("proxy"),
            asker: asker.clone(),
            inputs: inputs.clone(),
        };
        tasks.spawn(proxy::keep(means, wanted));
    }
    tasks.spawn(http::serve(metrics, asker));
    info!(host = config.host, vtep = %underlay.vtep, workers = config.workers.get(), "vswitch runs");

    let enrolled = enroll(&config, identity.filter(|_| !fresh), inputs.clone());
    let mut agent_ended = pin!(agent_ended);
    let mut shutdown = pin!(shutdown);
    let mut result = tokio::select! {
        () = &mut shutdown => Ok(()),
        Err(refused) = enrolled => Err(refused),
        ended = &mut agent_ended => return finish(agent, ended).await,
    };

    // Stop accepting; then the agent lets the workers drain and flush, and closes.
    tasks.shutdown().await;
    drop(fs::remove_file(config.socket())); // gone already is as good
    drop(inputs.send(Input::Stop).await);
    let ended = agent_ended.await;
    if result.is_ok() {
        result = finish(agent, ended).await;
    }
    info!("vswitch stopped; devices and state stay");
    result
}

/// Waits for the agent's thread.
async fn finish(
    agent: thread::JoinHandle<()>,
    ended: Result<Result<(), Error>, oneshot::error::RecvError>,
) -> Result<(), Error> {
    let joined = tokio::task::spawn_blocking(move || agent.join()).await;
    match (joined, ended) {
        (Ok(Ok(())), Ok(result)) => result,
        _ => Err(Error::Ended),
    }
}

/// Must the host join before it can connect?
fn needs_join(config: &Config, identity: Option<&Identity>) -> Result<bool, Error> {
    match (identity, &config.join) {
        (None, None) => Err(Error::NoToken),
        (None, Some(_)) => Ok(true),
        (Some(_), None) => Ok(false),
        // A token of the CA that the host knows already is old news; of another, the host moves.
        (Some(identity), Some(token)) => Ok(identity.pin()? != token.pin()),
    }
}

async fn underlay(config: &Config) -> Result<Underlay, Error> {
    let vtep = match config.vtep_ip {
        Some(vtep) => vtep,
        None => agent::underlay::source(&config.controller)
            .await
            .map_err(|source| Error::Vtep {
                controller: config.controller.to_string(),
                source,
            })?,
    };
    let mtu = agent::underlay::mtu(vtep);
    Ok(Underlay { vtep, mtu })
}

/// Gives the agent an identity: the one from disk, or a new one. Goes on trying while no controller answers; ends only
/// with a refusal.
async fn enroll(
    config: &Config,
    identity: Option<Identity>,
    inputs: mpsc::Sender<Input>,
) -> Result<std::convert::Infallible, Error> {
    let joined = match (identity, &config.join) {
        (Some(identity), _) => Input::Joined {
            identity,
            fresh: false,
        },
        (None, Some(token)) => Input::Joined {
            identity: join(config, token, &inputs).await?,
            fresh: true,
        },
        (None, None) => return Err(Error::NoToken),
    };
    drop(inputs.send(joined).await);
    std::future::pending().await
}

async fn join(
    config: &Config,
    token: &JoinToken,
    inputs: &mpsc::Sender<Input>,
) -> Result<Identity, JoinError> {
    let (mut pause, longest) = JOIN_PAUSES;
    let mut said = String::new();
    loop {
        match agent::join::join(&config.controller, &config.host, token).await {
            Ok(identity) => {
                info!(controller = %config.controller, "joined");
                return Ok(identity);
            }
            Err(error) if error.is_transient() => {
                let why = agent::chain(&error);
                if why != said {
                    warn!(why, "not joined yet; trying on");
                    drop(
                        inputs
                            .send(Input::NotJoined(format!("not joined yet: {why}")))
                            .await,
                    );
                    said = why;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(longest);
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
