//! How does one client speak to the API, without a library's pace in the figures?
//!
//! HTTP/1.1 over one connection that is kept, one request after the other: the body's length is said by the server, of the whole or of each
//! chunk.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
};

use anyhow::{Context as _, bail};
use serde_json::Value;

/// A connection.
#[derive(Debug)]
pub struct Http {
    stream: BufReader<TcpStream>,
    token: String,
}

/// What was answered.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The token that a login got.
    pub token: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Errors
    /// When it is none, or the status says that it was refused.
    pub fn json(&self) -> anyhow::Result<Value> {
        let text = String::from_utf8_lossy(&self.body);
        if !(200..300).contains(&self.status) {
            bail!("answered {}: {text}", self.status);
        }
        serde_json::from_slice(&self.body).with_context(|| format!("no JSON: {text}"))
    }
}

impl Http {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn connect(addr: SocketAddr, token: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: BufReader::with_capacity(1 << 16, stream),
            token: token.to_owned(),
        })
    }

    /// Asks, and waits for the whole answer.
    ///
    /// # Errors
    /// When the connection ends, or what comes is no HTTP.
    pub fn ask(&mut self, method: &str, path: &str, body: &[u8]) -> anyhow::Result<Answer> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: bench\r\nx-auth-token: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            self.token,
            body.len()
        );
        let mut request = head.into_bytes();
        request.extend_from_slice(body);
        self.stream.get_mut().write_all(&request)?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|text| text.parse().ok());
        let status = status.with_context(|| format!("{method} {path}: no status: {line:?}"))?;
        let (mut length, mut token, mut in_chunks) = (0, None, false);
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(": ") else {
                break;
            };
            match name {
                "content-length" => length = value.parse()?,
                "transfer-encoding" => in_chunks = value == "chunked",
                "x-subject-token" => token = Some(value.to_owned()),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        while in_chunks {
            line.clear();
            self.stream.read_line(&mut line)?;
            let length = usize::from_str_radix(line.trim_end(), 16)?;
            let from = body.len();
            // A chunk, and the end of its line.
            body.resize(from + length + 2, 0);
            self.stream.read_exact(&mut body[from..])?;
            body.truncate(from + length);
            in_chunks = length > 0;
        }
        Ok(Answer {
            status,
            token,
            body,
        })
    }

    /// Makes objects; the answer.
    ///
    /// # Errors
    /// When they are refused.
    pub fn post(&mut self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.ask("POST", path, body.to_string().as_bytes())?.json()
    }
}
