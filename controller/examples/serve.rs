//! A controller on the address and data dir of its arguments: `serve 127.0.0.1:9696 /tmp/controller`.
//! Hosts connect at the next port.

use controller::{Config, run};
use std::{error::Error, net::SocketAddr, path::PathBuf};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let listen: SocketAddr = arguments
        .next()
        .unwrap_or_else(|| "127.0.0.1:9696".to_owned())
        .parse()?;
    let data_dir = PathBuf::from(arguments.next().ok_or("a data dir is wanted")?);
    let hosts = SocketAddr::new(listen.ip(), listen.port().saturating_add(1));
    let config = Config {
        listen,
        hosts_listen: Some(hosts),
        data_dir,
        ..Config::default()
    };
    let shutdown = async {
        // Without the signal it serves until it is killed.
        drop(tokio::signal::ctrl_c().await);
    };
    run(config, shutdown).await?;
    Ok(())
}
