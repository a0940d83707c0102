//! What is between a stack and its port?
//!
//! A device without offloads: super-frames that the switch delivers are cut and their checksums finished, as a NIC's driver would, and the
//! stack checks every checksum.

use std::collections::VecDeque;

use net::{Gso, Headers, Now};
use smoltcp::{
    phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken},
    time::Instant,
};
use vswitch::io::{
    memory::Frame,
    offload::{self, Segments},
};

/// A stack's device.
#[derive(Debug)]
pub struct Nic {
    mtu: u16,
    pub(super) inbox: VecDeque<Vec<u8>>,
    pub(super) outbox: Vec<Vec<u8>>,
    pub(super) arrivals: Vec<(Now, u64)>,
}

impl Nic {
    pub(super) fn new(mtu: u16) -> Self {
        Self {
            mtu,
            inbox: VecDeque::new(),
            outbox: vec![],
            arrivals: vec![],
        }
    }

    pub(super) fn receive(&mut self, frame: Frame, now: Now) {
        for bytes in cut(frame) {
            assert!(
                bytes.len() <= usize::from(self.mtu) + 14,
                "the switch delivers no more than the MTU"
            );
            self.arrivals
                .push((now, u64::try_from(bytes.len()).unwrap()));
            self.inbox.push_back(bytes);
        }
    }
}

/// The frames that a frame stands for.
fn cut(frame: Frame) -> Vec<Vec<u8>> {
    let Frame {
        mut bytes,
        mut offload,
    } = frame;
    let (headers, _) = Headers::parse(&bytes).unwrap();
    if offload.gso == Gso::None {
        offload::finish(&mut bytes, &headers, &mut offload);
        return vec![bytes];
    }
    let mut segments = Segments::new(&bytes, &headers, &offload, usize::MAX).unwrap();
    let mut head = vec![0; segments.header_len()];
    let mut out = vec![];
    while let Some(payload) = segments.next_into(&mut head) {
        out.push([&head, payload].concat());
    }
    out
}

/// A frame for the stack.
#[derive(Debug)]
pub struct Arrived(Vec<u8>);

impl RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

/// Room for a frame of the stack's.
#[derive(Debug)]
pub struct Room<'a>(&'a mut Vec<Vec<u8>>);

impl TxToken for Room<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push(frame);
        result
    }
}

impl Device for Nic {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Room<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Arrived, Room<'_>)> {
        let frame = self.inbox.pop_front()?;
        Some((Arrived(frame), Room(&mut self.outbox)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Room<'_>> {
        Some(Room(&mut self.outbox))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        // smoltcp counts the Ethernet header in.
        capabilities.max_transmission_unit = usize::from(self.mtu) + 14;
        capabilities
    }
}
