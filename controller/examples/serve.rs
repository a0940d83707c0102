//! A controller on the address and data dir of its arguments: `serve 127.0.0.1:9696 /tmp/controller`.

use controller::{Config, run};
use std::{error::Error, path::PathBuf};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let listen = arguments
        .next()
        .unwrap_or_else(|| "127.0.0.1:9696".to_owned())
        .parse()?;
    let data_dir = PathBuf::from(arguments.next().ok_or("a data dir is wanted")?);
    let config = Config {
        listen,
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
