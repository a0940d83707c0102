//! What does it cost that a packet waits: in order, and by flow, among few flows and many?

#![expect(clippy::unwrap_used, reason = "a bench may fail loudly")]

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use hostconfig::Discipline;
use net::{Now, Packet, PacketPool, testkit::FrameBuilder};
use nfv::functions::shaper::{Pace, ShaperQueue};

fn packet(pool: &mut PacketPool, flow: u16) -> Packet {
    let frame = FrameBuilder::udp(false, flow, 53);
    let frame = frame.payload(&[0; 1472]).build();
    let mut packet = pool.take(frame.len()).unwrap();
    packet.fill(&frame).unwrap();
    packet.parse().unwrap();
    packet
}

/// One comes and one goes, a thousand wait, spread over so many flows.
fn wait(c: &mut Criterion) {
    let mut group = c.benchmark_group("queue");
    group.measurement_time(Duration::from_secs(2));
    for (queue, flows) in [
        (Discipline::Fifo, 1),
        (Discipline::FqCodel, 1),
        (Discipline::FqCodel, 16),
        (Discipline::FqCodel, 1000),
    ] {
        let pace = Pace {
            bits: Some((1_000_000_000_000, 1 << 30)),
            segments: None,
            queue_bytes: 1 << 30,
            queue,
        };
        let name = if queue.is_fifo() { "fifo" } else { "fq_codel" };
        group.bench_function(BenchmarkId::new(name, flows), |b| {
            let mut pool = PacketPool::new(1024, 0);
            let mut queue = ShaperQueue::new(pace, 1024, 7, Now::ZERO);
            for n in 0..1000 {
                let packet = packet(&mut pool, 1 + n % flows);
                queue.enqueue(packet, Now::ZERO).unwrap();
            }
            let mut nanos = 0;
            b.iter(|| {
                // A thousand wait for a millisecond: not long.
                nanos += 1_000;
                let now = Now::from_nanos(nanos);
                let packet = queue.dequeue(now).unwrap();
                queue.enqueue(packet, now).unwrap();
            });
        });
    }
    group.finish();
}

criterion_group!(benches, wait);
criterion_main!(benches);
