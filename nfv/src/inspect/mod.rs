//! Do a connection's first bytes have what may not pass?
//!
//! The judge of inspectors: byte patterns and a protocol's first bytes, in the first `depth` bytes of each direction. It
//! says nothing of how packets come to it.
//!
//! - [`Inspector`]: the settings, checked, and an automaton for each direction
//! - [`records`]: the inspections that there is room for
//! - [`stream`]: what of a TCP connection was inspected, and what its receiver may yet put together
//!
//! # Cost
//! One step of an automaton a byte, up to the depth; no step depends on how many patterns there are.

pub mod records;
pub mod stream;
#[cfg(test)]
mod tests;

use aho_corasick::{
    Anchored,
    automaton::{Automaton as _, StateID},
    nfa::contiguous::NFA,
};
use serde::{Deserialize, Serialize};

use crate::{catalog::SettingFault, conntrack::Side, functions::mirror::Of};

/// The most patterns of an inspector: a word has a bit for each.
pub const MAX_PATTERNS: usize = 64;
/// The longest pattern.
pub const MAX_PATTERN: usize = 256;
/// The most bytes of all patterns.
pub const MAX_BYTES: usize = 4_096;
/// The least depth: within it every protocol has shown itself.
pub const MIN_DEPTH: u32 = 16;
/// The largest depth.
pub const MAX_DEPTH: u32 = 16_384;

/// What an inspector looks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What it looks for.
    #[serde(default)]
    pub patterns: Vec<Pattern>,
    /// What a connection's first bytes must look like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// How many bytes of each direction it reads.
    #[serde(default = "depth")]
    pub depth: u32,
    /// What becomes of a connection whose beginning it did not see, or for which there is no room.
    #[serde(default)]
    pub undecided: Undecided,
}

/// What becomes of what can't be judged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Undecided {
    /// It does not pass.
    #[default]
    Closed,
    /// It passes, and is not read.
    Open,
}

/// An inspector's name in the records of connections that it cleared: it says what is looked for. Never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(u32);

impl Digest {
    /// How many bits it has.
    pub const BITS: u32 = 28;

    /// FNV-1a of the settings as JSON: the same in every process.
    fn of(settings: &Settings) -> Self {
        let text = serde_json::to_vec(settings).unwrap_or_default();
        let hash = text.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let folded = (hash ^ hash >> Self::BITS) & ((1 << Self::BITS) - 1);
        Self(u32::try_from(folded).unwrap_or(1).max(1))
    }

    /// As a number.
    pub const fn number(self) -> u32 {
        self.0
    }
}

fn depth() -> u32 {
    4_096
}

/// Bytes, as text or in hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pattern {
    /// As UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Two digits a byte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hex: Option<String>,
    /// In which direction.
    #[serde(default)]
    pub of: Of,
    /// What happens to a connection that has it.
    #[serde(default)]
    pub then: Then,
}

/// What a pattern means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    /// The connection ends without a word.
    #[default]
    Drop,
    /// It ends, and both ends are told.
    Reset,
    /// It goes on, and is counted.
    Alert,
}

/// What a TCP connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// A method; a status line (RFC 9112 §2). HTTP/2 begins otherwise, and is refused.
    Http,
    /// A record of the handshake; for an answer also an alert (RFC 8446 §5.1).
    Tls,
    /// The initiator's identification; the server may speak before its own (RFC 4253 §4.2).
    Ssh,
}

type Openings = &'static [&'static [u8]];

const METHODS: Openings = &[
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"CONNECT ",
    b"OPTIONS ",
    b"TRACE ",
    b"PATCH ",
];

impl Protocol {
    /// One of them begins the direction; none: anything may.
    fn openings(self, side: Side) -> Openings {
        match (self, side) {
            (Self::Http, Side::Original) => METHODS,
            (Self::Http, Side::Reply) => &[b"HTTP/1."],
            (Self::Tls, Side::Original) => &[&[22, 3]],
            (Self::Tls, Side::Reply) => &[&[22, 3], &[21, 3]],
            (Self::Ssh, Side::Original) => &[b"SSH-2.0-"],
            (Self::Ssh, Side::Reply) => &[],
        }
    }
}

/// Why a connection may not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condemned {
    /// It has this pattern, counted from 0 as the settings have it.
    Pattern {
        /// Which.
        index: u8,
        /// Are both ends told?
        reset: bool,
    },
    /// It does not speak what it must.
    Protocol,
}

/// The patterns, a bit each, that were met and only counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Alerts(pub u64);

/// An inspector. Two are equal if they look for the same.
#[derive(Debug)]
pub struct Inspector {
    digest: Digest,
    undecided: Undecided,
    depth: u32,
    protocol: Option<Protocol>,
    halves: [Half; 2],
}

impl PartialEq for Inspector {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for Inspector {}

/// What is looked for in one direction.
#[derive(Debug)]
struct Half {
    automaton: NFA,
    start: StateID,
    /// Of each pattern of the automaton its number in the settings, and what it means.
    patterns: Vec<(u8, Then)>,
    openings: Openings,
}

/// How far one direction was read.
#[derive(Debug, Clone, Copy)]
struct Scan {
    state: StateID,
    read: u32,
    /// The openings that still fit, a bit each; 0: one was whole, or none is wanted.
    fits: u16,
}

impl Inspector {
    /// From its settings.
    ///
    /// # Errors
    /// What is wrong with them, by the name of the setting.
    pub fn new(settings: &Settings) -> Result<Self, SettingFault> {
        let depth = settings.depth;
        SettingFault::within("depth", depth.into(), MIN_DEPTH.into()..=MAX_DEPTH.into())?;
        let count = settings.patterns.len();
        let least = u64::from(settings.protocol.is_none());
        SettingFault::within("patterns", count as u64, least..=MAX_PATTERNS as u64)?;
        let read: Vec<Vec<u8>> = settings
            .patterns
            .iter()
            .map(|pattern| pattern.bytes(depth))
            .collect::<Result<_, _>>()?;
        let total: usize = read.iter().map(Vec::len).sum();
        SettingFault::within("bytes of all patterns", total as u64, 0..=MAX_BYTES as u64)?;
        let half = |side| Half::new(settings, &read, side);
        Ok(Self {
            digest: Digest::of(settings),
            undecided: settings.undecided,
            depth,
            protocol: settings.protocol,
            halves: [half(Side::Original)?, half(Side::Reply)?],
        })
    }

    fn half(&self, side: Side) -> &Half {
        side.of(&self.halves)
    }

    /// By what it is known in the record of a connection.
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// What becomes of what it can't judge.
    pub const fn undecided(&self) -> Undecided {
        self.undecided
    }

    /// What a connection must speak.
    pub const fn protocol(&self) -> Option<Protocol> {
        self.protocol
    }

    /// Judges a datagram by itself, up to the depth. The protocols are those of streams: where one is wanted none passes.
    ///
    /// # Errors
    /// When it may not go on.
    pub fn datagram(&self, side: Side, payload: &[u8]) -> Result<Alerts, Condemned> {
        if self.protocol.is_some() {
            return Err(Condemned::Protocol);
        }
        let half = self.half(side);
        let first = payload.get(..self.depth as usize).unwrap_or(payload);
        half.read(&mut half.begin(), first)
    }
}

impl Pattern {
    fn bytes(&self, depth: u32) -> Result<Vec<u8>, SettingFault> {
        let bytes = match (&self.text, &self.hex) {
            (Some(text), None) => text.as_bytes().to_vec(),
            (None, Some(hex)) => from_hex(hex).ok_or_else(|| {
                SettingFault::Form(format!("hex of a pattern is not two digits a byte: {hex}"))
            })?,
            (None, None) | (Some(_), Some(_)) => {
                let why = "a pattern has either text or hex";
                return Err(SettingFault::Form(why.to_owned()));
            }
        };
        let most = MAX_PATTERN.min(depth as usize) as u64;
        SettingFault::within("bytes of a pattern", bytes.len() as u64, 1..=most)?;
        Ok(bytes)
    }

    fn is_of(&self, side: Side) -> bool {
        match self.of {
            Of::Both => true,
            Of::Forward => side == Side::Original,
            Of::Reply => side == Side::Reply,
        }
    }
}

fn from_hex(hex: &str) -> Option<Vec<u8>> {
    let digit = |c: &u8| char::from(*c).to_digit(16);
    let pairs = hex.as_bytes().chunks(2).map(|pair| {
        let [high, low] = pair else { return None };
        u8::try_from(digit(high)? << 4 | digit(low)?).ok()
    });
    pairs.collect()
}

impl Half {
    fn new(settings: &Settings, read: &[Vec<u8>], side: Side) -> Result<Self, SettingFault> {
        let mut patterns = Vec::new();
        let mut wanted = Vec::new();
        for ((index, pattern), bytes) in (0u8..).zip(&settings.patterns).zip(read) {
            if pattern.is_of(side) {
                patterns.push((index, pattern.then));
                wanted.push(bytes);
            }
        }
        let fault = |why: String| SettingFault::Form(format!("patterns: {why}"));
        // A prefilter skips bytes, and so loses the state in which the next segment is read.
        let automaton = NFA::builder().prefilter(false).build(wanted);
        let automaton = automaton.map_err(|error| fault(error.to_string()))?;
        let start = automaton.start_state(Anchored::No);
        Ok(Self {
            start: start.map_err(|error| fault(error.to_string()))?,
            automaton,
            patterns,
            openings: settings
                .protocol
                .map_or(&[][..], |protocol| protocol.openings(side)),
        })
    }

    /// Is nothing looked for in this direction?
    fn is_idle(&self) -> bool {
        self.patterns.is_empty() && self.openings.is_empty()
    }

    fn begin(&self) -> Scan {
        let fits = (0..self.openings.len()).fold(0, |all, n| all | 1 << n);
        Scan {
            state: self.start,
            read: 0,
            fits,
        }
    }

    /// Reads on. Who is condemned is read no further.
    fn read(&self, scan: &mut Scan, bytes: &[u8]) -> Result<Alerts, Condemned> {
        let mut alerts = Alerts::default();
        for &byte in bytes {
            self.open(scan, byte)?;
            scan.read += 1;
            scan.state = self.automaton.next_state(Anchored::No, scan.state, byte);
            if !self.automaton.is_match(scan.state) {
                continue;
            }
            for n in 0..self.automaton.match_len(scan.state) {
                let met = self.automaton.match_pattern(scan.state, n);
                match self.patterns.get(met.as_usize()) {
                    Some((index, Then::Alert)) => alerts.0 |= 1 << index,
                    Some((index, then)) => {
                        return Err(Condemned::Pattern {
                            index: *index,
                            reset: *then == Then::Reset,
                        });
                    }
                    None => {}
                }
            }
        }
        Ok(alerts)
    }

    /// Does this byte go on with an opening?
    fn open(&self, scan: &mut Scan, byte: u8) -> Result<(), Condemned> {
        if scan.fits == 0 {
            return Ok(());
        }
        let mut fits = 0;
        for (n, opening) in self.openings.iter().enumerate() {
            if scan.fits >> n & 1 == 0 || opening.get(scan.read as usize) != Some(&byte) {
                continue;
            }
            if opening.len() == scan.read as usize + 1 {
                scan.fits = 0;
                return Ok(());
            }
            fits |= 1 << n;
        }
        scan.fits = fits;
        if fits == 0 {
            return Err(Condemned::Protocol);
        }
        Ok(())
    }
}
