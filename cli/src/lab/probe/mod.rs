//! What do real clients see?
//!
//! The lab's own small clients. Each runs on a thread that has entered the workload's namespace.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

pub(crate) mod connect;
pub(crate) mod http;
pub(crate) mod ping;
pub(crate) mod throughput;

/// Does `work` for each item on at most `width` threads at a time; results in the items' order.
pub(crate) fn side_by_side<I: Sync, T: Send>(
    items: &[I],
    width: usize,
    work: impl Fn(&I) -> anyhow::Result<T> + Sync,
) -> anyhow::Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else {
                return Ok(done);
            };
            match work(item) {
                Ok(result) => done.push((index, result)),
                Err(error) => {
                    // The others stop after what they have in hand.
                    next.store(items.len(), Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
    };
    let mut all = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..width.min(items.len()))
            .map(|_| scope.spawn(worker))
            .collect();
        let mut all = Vec::with_capacity(items.len());
        let mut failed = None;
        for one in workers {
            match one.join() {
                Ok(Ok(done)) => all.extend(done),
                Ok(Err(error)) => failed = failed.or(Some(error)),
                Err(_) => failed = failed.or(Some(anyhow::anyhow!("a worker thread died"))),
            }
        }
        failed.map_or(Ok(all), Err)
    })?;
    all.sort_by_key(|(index, _)| *index);
    Ok(all.into_iter().map(|(_, result)| result).collect())
}

/// `10.0.0.1:80` or `[fd00::1]:80`.
pub(crate) fn authority(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_the_order_of_their_items() {
        let items: Vec<usize> = (0..100).collect();
        let doubled = side_by_side(&items, 7, |n| Ok(n * 2)).unwrap();
        assert_eq!(doubled, items.iter().map(|n| n * 2).collect::<Vec<_>>());
    }

    #[test]
    fn the_first_failure_is_told() {
        let items: Vec<usize> = (0..100).collect();
        let failed = side_by_side(&items, 4, |n| {
            if *n == 3 {
                anyhow::bail!("three");
            }
            Ok(())
        });
        assert_eq!(failed.unwrap_err().to_string(), "three");
    }
}
