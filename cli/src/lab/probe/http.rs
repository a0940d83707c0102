//! Which member answered, and how fast does a download run?
//!
//! Plain HTTP/1.1 by hand: one connection a request, so that a load balancer chooses anew each time.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::authority;
use crate::lab::netns;

const PATIENCE: Duration = Duration::from_secs(5);
/// An answer of the lab's server is a line; anybody else's is cut here.
const ANSWER_MAX: u64 = 64 * 1024;

/// Where to ask.
#[derive(Debug, Clone)]
pub(crate) struct Page {
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    pub(crate) path: String,
}

impl Page {
    fn connect(&self, more: &str) -> anyhow::Result<TcpStream> {
        let to = SocketAddr::new(self.address, self.port);
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)
            .with_context(|| format!("connect to {to}"))?;
        stream
            .set_read_timeout(Some(PATIENCE))
            .context("set a timeout")?;
        stream
            .set_write_timeout(Some(PATIENCE))
            .context("set a timeout")?;
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: overweave-lab\r\nConnection: close\r\n{more}\r\n",
            self.path,
            authority(self.address, self.port)
        );
        stream
            .write_all(request.as_bytes())
            .with_context(|| format!("ask {to}"))?;
        Ok(stream)
    }
}

/// How often each answered, and what went wrong otherwise.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    pub(crate) by: BTreeMap<String, usize>,
    pub(crate) failed: usize,
    pub(crate) first_failure: Option<String>,
}

/// Asks a number of times, a connection each. An answer is known by its first line.
///
/// # Errors
/// When the namespace can't be had; a failed request is in the answer.
pub(crate) fn ask(namespace: &str, page: &Page, times: usize) -> anyhow::Result<Answers> {
    netns::inside(namespace, || {
        let mut answers = Answers::default();
        for _ in 0..times {
            match get(page) {
                Ok(name) => *answers.by.entry(name).or_default() += 1,
                Err(error) => {
                    answers.failed += 1;
                    answers
                        .first_failure
                        .get_or_insert_with(|| format!("{error:#}"));
                    // Three without any answer: the rest would only take the same time again.
                    if answers.failed >= 3 && answers.by.is_empty() {
                        answers.failed = times;
                        break;
                    }
                }
            }
        }
        Ok(answers)
    })
}

fn get(page: &Page) -> anyhow::Result<String> {
    let mut text = Vec::new();
    page.connect("")?
        .take(ANSWER_MAX)
        .read_to_end(&mut text)
        .context("read the answer")?;
    answer(&String::from_utf8_lossy(&text))
}

fn answer(text: &str) -> anyhow::Result<String> {
    let (head, body) = text
        .split_once("\r\n\r\n")
        .context("the answer is no HTTP")?;
    let status = head.split_whitespace().nth(1).unwrap_or_default();
    if status != "200" {
        bail!("status {status}");
    }
    Ok(body.lines().next().unwrap_or_default().trim().to_owned())
}

/// Downloads and measures bits of payload a second, after the first second.
///
/// # Errors
/// When nothing comes.
pub(crate) fn download(namespace: &str, page: &Page, length: Duration) -> anyhow::Result<u64> {
    netns::inside(namespace, || {
        let mut stream = page.connect("X-Overweave-Stream: 1\r\n")?;
        let mut buffer = vec![0_u8; 256 * 1024];
        let start = Instant::now();
        let (mut counted, mut since) = (0_u64, None);
        loop {
            let read = stream.read(&mut buffer).context("download")?;
            if read == 0 {
                bail!(
                    "the download ended after {:.1} s; does a lab's `http` server answer there?",
                    start.elapsed().as_secs_f64()
                );
            }
            let now = Instant::now();
            match since {
                None if now - start >= Duration::from_secs(1) => since = Some(now),
                None => {}
                Some(since) => {
                    counted += u64::try_from(read).unwrap_or_default();
                    if now - since >= length {
                        return Ok(super::throughput::rate(counted, now - since));
                    }
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_its_first_line() {
        assert_eq!(
            answer("HTTP/1.1 200 OK\r\nX: y\r\n\r\nweb-1\n").unwrap(),
            "web-1"
        );
        assert_eq!(
            answer("HTTP/1.1 503 No\r\n\r\n").unwrap_err().to_string(),
            "status 503"
        );
        assert!(answer("hello").is_err());
    }
}
