//! What do tests with real namespaces share?

#![expect(clippy::print_stderr, reason = "it says when it skips")]

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, TcpListener, TcpStream},
    process::Command,
    time::Duration,
};

use vswitch::io::netns::Netns;

/// `false`, having said so, when namespaces can't be made here.
pub(crate) fn root() -> bool {
    let may = rustix::process::geteuid().is_root();
    let must = std::env::var("OVERWEAVE_REQUIRE_ROOT").is_ok_and(|v| v == "1");
    assert!(may || !must, "root is required here");
    if !may {
        eprintln!("skipped: needs root");
    }
    may
}

pub(crate) fn ip(args: &str) {
    let done = Command::new("ip")
        .args(args.split_whitespace())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "ip {args}: {said}");
}

/// A namespace that goes with the test.
pub(crate) struct Space(pub(crate) String);

impl Space {
    pub(crate) fn new(name: &str) -> Self {
        let name = format!("owio{}-{name}", std::process::id());
        ip(&format!("netns add {name}"));
        ip(&format!("-n {name} link set lo up"));
        Self(name)
    }

    pub(crate) fn netns(&self) -> Netns {
        Netns::named(&self.0)
    }

    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.netns().enter(work).unwrap()
    }

    /// A counter of the kernel's, such as `Tcp: InCsumErrors`.
    pub(crate) fn counter(&self, protocol: &str, name: &str) -> u64 {
        let text = self.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap());
        let mut lines = text.lines().filter(|l| l.starts_with(protocol));
        let names = lines.next().unwrap().split_whitespace();
        let values = lines.next().unwrap().split_whitespace();
        let mut pairs = names.zip(values);
        pairs.find(|(n, _)| *n == name).unwrap().1.parse().unwrap()
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        // Its devices go with it; that it is gone already is no news.
        drop(Command::new("ip").args(["netns", "del", &self.0]).output());
    }
}

/// Sends `len` bytes by TCP and proves that the same arrived.
pub(crate) fn transfer(from: &Space, to: &Space, address: IpAddr, len: usize) {
    let listener = to.run(|| TcpListener::bind((address, 0)).unwrap());
    let target = listener.local_addr().unwrap();
    let data: Vec<u8> = (0..len)
        .map(|n| (n * 31 % 65_521).to_le_bytes()[0])
        .collect();
    std::thread::scope(|scope| {
        let receiver = scope.spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream
                .set_read_timeout(Some(Duration::from_secs(20)))
                .unwrap();
            let mut got = Vec::with_capacity(len);
            stream.read_to_end(&mut got).unwrap();
            got
        });
        let mut stream = from
            .run(|| TcpStream::connect_timeout(&target, Duration::from_secs(10)))
            .unwrap();
        stream
            .set_write_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream.write_all(&data).unwrap();
        drop(stream);
        assert!(
            receiver.join().unwrap() == data,
            "other bytes arrived than were sent"
        );
    });
}

pub(crate) fn no_checksum_errors(spaces: &[&Space]) {
    for space in spaces {
        for protocol in ["Tcp:", "Udp:"] {
            let name = "InCsumErrors";
            assert_eq!(
                space.counter(protocol, name),
                0,
                "{protocol} in {}",
                space.0
            );
        }
    }
}
