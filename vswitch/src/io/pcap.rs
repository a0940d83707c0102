//! How does traffic get into a file, and out of one?
//!
//! The classic pcap format, with nanoseconds: written for captures and tests, read for replays. [`PcapPort`] is a port whose
//! workload is two files.
//!
//! # Attack
//! A file is no friend: lengths are checked against the largest frame before anything is read.
//!
//! # References
//! draft-ietf-opsawg-pcap: file header and packet record.

use std::io::{self, Read, Write};

use net::{Batch, DropReason, Now, PacketPool, packet::LARGE};

use super::{PortIo, Refused, Rx};

const MAGIC_NANOS: u32 = 0xa1b2_3c4d;
const MAGIC_MICROS: u32 = 0xa1b2_c3d4;
const ETHERNET: u32 = 1;

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum PcapError {
    /// Reading failed, or the file ends inside of a record.
    #[error("cannot read the capture")]
    Read(#[from] io::Error),
    /// It is no pcap file.
    #[error("not a pcap file: magic {0:#010x}")]
    Magic(u32),
    /// Its frames are not Ethernet.
    #[error("link type must be ethernet (1): {0}")]
    LinkType(u32),
    /// A record says that it is larger than any frame.
    #[error("frame larger than {LARGE} bytes: {0}")]
    TooLarge(u32),
}

/// Writes frames to a file.
#[derive(Debug)]
pub struct PcapWriter<W>(W);

impl<W: Write> PcapWriter<W> {
    /// Begins a file.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn new(mut file: W) -> io::Result<Self> {
        file.write_all(&MAGIC_NANOS.to_le_bytes())?;
        file.write_all(&2u16.to_le_bytes())?;
        file.write_all(&4u16.to_le_bytes())?;
        file.write_all(&[0; 8])?;
        file.write_all(&(u32::try_from(LARGE).unwrap_or(u32::MAX)).to_le_bytes())?;
        file.write_all(&ETHERNET.to_le_bytes())?;
        Ok(Self(file))
    }

    /// Adds a frame.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn write(&mut self, at: Now, frame: &[u8]) -> io::Result<()> {
        let nanos = u32::try_from(at.nanos() % 1_000_000_000).unwrap_or(0);
        let len = u32::try_from(frame.len()).or(Err(io::ErrorKind::InvalidInput))?;
        for word in [at.seconds(), nanos, len, len] {
            self.0.write_all(&word.to_le_bytes())?;
        }
        self.0.write_all(frame)
    }

    /// Writes out what is buffered and gives the file back.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn finish(mut self) -> io::Result<W> {
        self.0.flush()?;
        Ok(self.0)
    }
}

/// Reads frames from a file, of either byte order and either resolution.
#[derive(Debug)]
pub struct PcapReader<R> {
    file: R,
    big_endian: bool,
    nanos_per_tick: u64,
}

impl<R: Read> PcapReader<R> {
    /// Opens a file.
    ///
    /// # Errors
    /// When it is no pcap file of Ethernet frames.
    pub fn new(mut file: R) -> Result<Self, PcapError> {
        let mut header = [0; 24];
        file.read_exact(&mut header)?;
        let [m0, m1, m2, m3, .., l0, l1, l2, l3] = header;
        let magic = [m0, m1, m2, m3];
        let (little, big) = (u32::from_le_bytes(magic), u32::from_be_bytes(magic));
        let (big_endian, nanos_per_tick) = match (little, big) {
            (MAGIC_NANOS, _) => (false, 1),
            (MAGIC_MICROS, _) => (false, 1000),
            (_, MAGIC_NANOS) => (true, 1),
            (_, MAGIC_MICROS) => (true, 1000),
            _ => return Err(PcapError::Magic(little)),
        };
        let reader = Self {
            file,
            big_endian,
            nanos_per_tick,
        };
        match reader.word([l0, l1, l2, l3]) {
            ETHERNET => Ok(reader),
            other => Err(PcapError::LinkType(other)),
        }
    }

    fn word(&self, bytes: [u8; 4]) -> u32 {
        if self.big_endian {
            u32::from_be_bytes(bytes)
        } else {
            u32::from_le_bytes(bytes)
        }
    }

    /// The next frame into `frame`, and when it was; `None` at the end.
    ///
    /// # Errors
    /// When the file ends early or contradicts itself.
    pub fn read(&mut self, frame: &mut Vec<u8>) -> Result<Option<Now>, PcapError> {
        let mut first = [0; 1];
        if self.file.read(&mut first)? == 0 {
            return Ok(None);
        }
        let mut rest = [0; 15];
        self.file.read_exact(&mut rest)?;
        let [s0] = first;
        let [s1, s2, s3, t0, t1, t2, t3, l0, l1, l2, l3, ..] = rest;
        let seconds = self.word([s0, s1, s2, s3]);
        let ticks = self.word([t0, t1, t2, t3]);
        let len = self.word([l0, l1, l2, l3]);
        if len as usize > LARGE {
            return Err(PcapError::TooLarge(len));
        }
        frame.resize(len as usize, 0);
        self.file.read_exact(frame)?;
        let nanos = u64::from(seconds) * 1_000_000_000 + u64::from(ticks) * self.nanos_per_tick;
        Ok(Some(Now::from_nanos(nanos)))
    }
}

/// A port that replays one file and records what it is sent in another.
#[derive(Debug)]
pub struct PcapPort<R, W> {
    reader: PcapReader<R>,
    writer: PcapWriter<W>,
    frame: Vec<u8>,
    clock: Now,
}

impl<R: Read, W: Write> PcapPort<R, W> {
    /// Replays `reader` as fast as it is read; records to `writer`, with the time of the frame that was replayed last.
    pub fn new(reader: PcapReader<R>, writer: PcapWriter<W>) -> Self {
        Self {
            reader,
            writer,
            frame: Vec::new(),
            clock: Now::ZERO,
        }
    }

    /// Ends the record.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn finish(self) -> io::Result<W> {
        self.writer.finish()
    }
}

impl<R: Read + Send + std::fmt::Debug, W: Write + Send + std::fmt::Debug> PortIo
    for PcapPort<R, W>
{
    fn rx(&mut self, pool: &mut PacketPool, batch: &mut Batch, _refused: &mut Refused) -> Rx {
        while !batch.is_full() {
            let Some(mut packet) = pool.take_large() else {
                return Rx::Starved;
            };
            let Ok(Some(at)) = self.reader.read(&mut self.frame) else {
                pool.give(packet);
                return Rx::Gone;
            };
            self.clock = at;
            // The reader refuses what is larger than a large buffer.
            if packet.fill(&self.frame).is_err() {
                pool.give(packet);
                return Rx::Gone;
            }
            if let Err(packet) = batch.push(packet) {
                pool.give(packet);
                return Rx::More;
            }
        }
        Rx::More
    }

    fn tx(&mut self, pool: &mut PacketPool, batch: &mut Batch, refused: &mut Refused) -> u64 {
        let mut sent = 0;
        for packet in batch.drain() {
            if self.writer.write(self.clock, packet.bytes()).is_ok() {
                sent += u64::from(packet.segments());
                pool.give(packet);
            } else {
                refused.push((packet, DropReason::PortSend));
            }
        }
        sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut writer = PcapWriter::new(vec![]).unwrap();
        let at = Now::from_nanos(3_000_000_007);
        writer.write(at, b"one").unwrap();
        writer.write(at, b"").unwrap();
        let file = writer.finish().unwrap();
        let mut reader = PcapReader::new(&file[..]).unwrap();
        let mut frame = vec![];
        assert_eq!(reader.read(&mut frame).unwrap(), Some(at));
        assert_eq!(frame, b"one");
        assert_eq!(reader.read(&mut frame).unwrap(), Some(at));
        assert!(frame.is_empty());
        assert_eq!(reader.read(&mut frame).unwrap(), None);
    }

    #[test]
    fn a_file_that_lies_is_refused() {
        assert!(matches!(
            PcapReader::new(&[0; 24][..]),
            Err(PcapError::Magic(0))
        ));
        assert!(matches!(
            PcapReader::new(&[0; 5][..]),
            Err(PcapError::Read(_))
        ));
        let mut file = PcapWriter::new(vec![]).unwrap().finish().unwrap();
        file.extend([0u8; 8]);
        file.extend(u32::MAX.to_le_bytes());
        file.extend([0u8; 4]);
        let mut reader = PcapReader::new(&file[..]).unwrap();
        assert!(matches!(
            reader.read(&mut vec![]),
            Err(PcapError::TooLarge(u32::MAX))
        ));
        file.truncate(30);
        let mut reader = PcapReader::new(&file[..]).unwrap();
        assert!(matches!(reader.read(&mut vec![]), Err(PcapError::Read(_))));
        file[20] = 9;
        assert!(matches!(
            PcapReader::new(&file[..]),
            Err(PcapError::LinkType(9))
        ));
    }

    #[test]
    fn a_port_replays_and_records() {
        let mut writer = PcapWriter::new(vec![]).unwrap();
        for n in 0..70u8 {
            writer.write(Now::from_nanos(n.into()), &[n; 60]).unwrap();
        }
        let file = writer.finish().unwrap();
        let mut port = PcapPort::new(
            PcapReader::new(&file[..]).unwrap(),
            PcapWriter::new(vec![]).unwrap(),
        );
        let mut pool = PacketPool::new(0, 70);
        let (mut batch, mut refused) = (Batch::new(), vec![]);
        assert_eq!(port.rx(&mut pool, &mut batch, &mut refused), Rx::More);
        assert_eq!(port.tx(&mut pool, &mut batch, &mut refused), 64);
        assert_eq!(port.rx(&mut pool, &mut batch, &mut refused), Rx::Gone);
        assert_eq!(port.tx(&mut pool, &mut batch, &mut refused), 6);
        let record = port.finish().unwrap();
        assert_eq!(record.len(), file.len());
    }
}
