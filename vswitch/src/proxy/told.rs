//! What does the program say of those who serve?

use std::{io, path::Path, time::Duration};

use hostconfig::proxy::Proxy;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::timeout,
};
use uuid::Uuid;

use crate::datapath::probes::Verdict;

/// Longer than it takes to say all.
const PATIENCE: Duration = Duration::from_secs(2);
/// More than it says of a thousand members.
const LONGEST: u64 = 1 << 20;

/// What it says now of the members that it asks.
///
/// # Errors
/// When it is silent.
pub(super) async fn verdicts(socket: &Path, proxy: &Proxy) -> io::Result<Vec<Verdict>> {
    let said = ask(socket, b"show stat -1 4 -1\n").await?;
    Ok(understood(&said, proxy))
}

/// Which configuration it has; `None`: it does not say.
pub(super) async fn mark(socket: &Path) -> Option<u64> {
    let said = ask(socket, b"show info\n").await.ok()?;
    let mut lines = said.lines();
    let mark = lines.find_map(|line| line.strip_prefix("description: "))?;
    mark.parse().ok()
}

async fn ask(socket: &Path, question: &[u8]) -> io::Result<String> {
    let asked = async {
        let mut stream = UnixStream::connect(socket).await?;
        stream.write_all(question).await?;
        let mut said = String::new();
        stream.take(LONGEST).read_to_string(&mut said).await?;
        Ok(said)
    };
    timeout(PATIENCE, asked).await?
}

/// The rows of servers that were asked at least once.
fn understood(said: &str, proxy: &Proxy) -> Vec<Verdict> {
    let mut lines = said.lines();
    let columns: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let column = |name: &str| columns.iter().position(|column| *column == name);
    let (Some(status), Some(check)) = (column("status"), column("check_status")) else {
        return Vec::new();
    };
    let rows = lines.filter_map(|line| {
        let row: Vec<&str> = line.split(',').collect();
        let (pool, _) = row.first()?.split_once(':')?;
        let (pool, member): (Uuid, Uuid) = (pool.parse().ok()?, row.get(1)?.parse().ok()?);
        let pool = proxy.pools.iter().find(|other| other.id == pool)?;
        // While it asks for the first time it takes everybody for serving; who follows another row has none of this.
        let was_asked = row
            .get(check)
            .is_some_and(|said| !said.is_empty() && !said.contains("INI"));
        was_asked.then_some(Verdict {
            monitor: pool.monitor.as_ref()?.id,
            member: member.into(),
            serves: !row.get(status)?.starts_with("DOWN"),
        })
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use hostconfig::{
        chain::{HealthProbe, Monitor},
        proxy::{HttpAlgorithm, HttpPool},
    };

    use super::*;

    #[test]
    fn who_was_asked_is_judged_and_nobody_else() {
        let id = Uuid::from_u128;
        let monitor = Monitor {
            id: id(9).into(),
            probe: HealthProbe::Tcp,
            delay_ms: 1000,
            timeout_ms: 500,
            rise: 1,
            fall: 1,
            elsewhere: vec![],
        };
        let proxy = Proxy {
            port: id(1).into(),
            listeners: vec![],
            pools: vec![HttpPool {
                id: id(2),
                algorithm: HttpAlgorithm::RoundRobin,
                persistence: None,
                members: vec![],
                monitor: Some(monitor),
            }],
        };
        let (pool, other) = (id(2), id(3));
        let mut said = vec!["# pxname,svname,status,check_status".to_owned()];
        for (member, status, check) in [
            (11, "UP", "L4OK"),
            (12, "DOWN", "* L4CON"),
            (13, "UP 1/3", "INI"),
            (14, "DRAIN", "L7OK"),
            (15, "no check", ""),
            (16, "DOWN 1/2", "L7OK"),
        ] {
            said.push(format!("{pool}:{other},{},{status},{check}", id(member)));
            said.push(format!("{other}:{other},{},{status},{check}", id(member)));
        }
        said.push(format!("{pool}:{other},BACKEND,UP,\n\nfrontend,FRONTEND\n"));
        let said = said.join("\n");
        let found = understood(&said, &proxy);
        let found: Vec<_> = found
            .iter()
            .map(|v| (v.member.uuid().as_u128(), v.serves))
            .collect();
        assert_eq!(found, [(11, true), (12, false), (14, true), (16, false)]);
        assert_eq!(understood("Unknown command", &proxy), []);
    }
}
