//! What does each attribute of a trunk change?

use net::testkit::FrameBuilder;
use serde_json::{Value, json};
use tests::evidence::{Entry, Nic, Region, Seen, entry, id, with};

/// A parent `a` on one network, and on another a port without a device and a workload `b` that is written to.
struct Carried {
    parent: Nic,
    spare: Nic,
    sub: String,
    far: Nic,
}

fn carried(r: &mut Region) -> Carried {
    let (under, over) = (r.net(0), r.net(1));
    let parent = r.nic(&under, 0, 11);
    let spare = r.nic(&under, 1, 14);
    let far = r.nic(&over, 1, 12);
    let nowhere = json!({"binding:host_id": ""});
    let sub = r.nic_with(&over, 0, 13, &nowhere).id;
    Carried {
        parent,
        spare,
        sub,
        far,
    }
}

fn sub_ports(sub: &str) -> Value {
    json!([{"port_id": sub, "segmentation_type": "vlan", "segmentation_id": 5}])
}

/// What a workload sends by the sub-port, by the device of either.
fn tagged(r: &mut Region, all: &Carried) -> Seen {
    let mac = "02:00:00:00:01:0d".parse().unwrap();
    let mut seen = vec![];
    for device in [&all.parent, &all.spare] {
        for v6 in [false, true] {
            let (frame, from) = if v6 {
                (FrameBuilder::echo(true, 7), "fd00:1::d")
            } else {
                (FrameBuilder::echo(false, 7), "10.0.1.13")
            };
            let frame = frame.macs(mac, all.far.mac).vlan(5);
            let frame = frame.addrs(from.parse().unwrap(), all.far.addr(v6));
            seen.extend(r.sends(device, frame.build()));
        }
        let back = FrameBuilder::echo(false, 8).macs(all.far.mac, mac);
        let back = back.addrs(all.far.v4.into(), "10.0.1.13".parse().unwrap());
        seen.extend(r.sends(&all.far, back.build()));
    }
    seen
}

pub(crate) const TABLE: &[Entry] = &[
    entry("trunk.port_id", |r| {
        let all = carried(r);
        let base = json!({"name": "t", "port_id": all.parent.id, "sub_ports": sub_ports(&all.sub)});
        let other = json!(all.spare.id);
        r.by_create(("trunk", &base), ("port_id", &other), |r, _| {
            tagged(r, &all)
        });
    }),
    entry("trunk.admin_state_up", |r| {
        let all = carried(r);
        let base = json!({"name": "t", "port_id": all.parent.id, "sub_ports": sub_ports(&all.sub)});
        let made = r.make("trunk", &base);
        let down = json!(false);
        r.by_update(("trunk", id(&made)), ("admin_state_up", &down), |r| {
            tagged(r, &all)
        });
        let seen = tagged(r, &all);
        r.remove("trunk", id(&made));
        let made = r.make("trunk", &with(&base, &json!({"admin_state_up": false})));
        assert_ne!(tagged(r, &all), seen, "made so it is down at once");
        r.set("trunk", id(&made), &json!({"admin_state_up": true}));
    }),
    entry("trunk.sub_ports", |r| {
        let all = carried(r);
        let base = json!({"name": "t", "port_id": all.parent.id});
        let subs = sub_ports(&all.sub);
        r.by_create(("trunk", &base), ("sub_ports", &subs), |r, _| {
            tagged(r, &all)
        });
    }),
    entry("add_subports.sub_ports", |r| {
        let all = carried(r);
        let trunk = r.make("trunk", &json!({"name": "t", "port_id": all.parent.id}));
        let mut there = false;
        r.differs(
            |r| {
                if std::mem::replace(&mut there, true) {
                    let by = json!({"sub_ports": [{"port_id": all.sub}]});
                    r.act("trunk", id(&trunk), "remove_subports", &by);
                }
                tagged(r, &all)
            },
            |r| {
                let by = json!({"sub_ports": sub_ports(&all.sub)});
                r.act("trunk", id(&trunk), "add_subports", &by);
                tagged(r, &all)
            },
        );
    }),
    entry("remove_subports.sub_ports", |r| {
        let all = carried(r);
        let subs = sub_ports(&all.sub);
        let trunk = json!({"name": "t", "port_id": all.parent.id, "sub_ports": subs});
        let trunk = r.make("trunk", &trunk);
        let mut gone = false;
        r.differs(
            |r| {
                if std::mem::replace(&mut gone, true) {
                    let by = json!({"sub_ports": subs});
                    r.act("trunk", id(&trunk), "add_subports", &by);
                }
                tagged(r, &all)
            },
            |r| {
                let by = json!({"sub_ports": [{"port_id": all.sub}]});
                r.act("trunk", id(&trunk), "remove_subports", &by);
                tagged(r, &all)
            },
        );
    }),
];
