//! What do the zones of a router change?

use serde_json::json;
use tests::evidence::{Entry, Sent, ZONES, entry, id};

pub(crate) const TABLE: &[Entry] = &[entry("router.availability_zone_hints", |r| {
    let net = r.net(0);
    let a = r.nic(&net, 0, 11);
    let (outside, out) = r.outside(9);
    let base = json!({"name": "r", "availability_zone_hints": [ZONES[1]]});
    let other = json!([ZONES[2]]);
    r.by_create(
        ("router", &base),
        ("availability_zone_hints", &other),
        |r, made| {
            r.join(id(made), &net.v4);
            r.gate(id(made), &outside);
            let mut seen = r.way(&a, out.v4.into(), Sent::Ping);
            seen.push(r.shown("router", id(made), "availability_zones"));
            r.set("router", id(made), &json!({"external_gateway_info": null}));
            r.leave(id(made), &net.v4);
            seen
        },
    );
})];
