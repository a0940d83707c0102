//! Names of what is outside.

use serde_json::json;
use tests::evidence::{Entry, entry, with};

use crate::routers::gated;

pub(crate) const TABLE: &[Entry] = &[
    entry("floatingip.dns_name", |r| {
        let (_, a, outside, _) = gated(r);
        let base = json!({"floating_network_id": outside.id, "floating_ip_address": "10.0.9.200"});
        let base = with(
            &base,
            &json!({"dns_name": "other", "dns_domain": "openstacklocal."}),
        );
        r.by_create(
            ("floatingip", &base),
            ("dns_name", &json!("www")),
            |r, _| {
                let mut seen = r.looked_up(&a, "www.openstacklocal");
                seen.extend(r.looked_up(&a, "200.9.0.10.in-addr.arpa"));
                seen
            },
        );
    }),
    entry("floatingip.dns_domain", |r| {
        let (_, a, outside, _) = gated(r);
        let base = json!({"floating_network_id": outside.id, "floating_ip_address": "10.0.9.200"});
        let base = with(
            &base,
            &json!({"dns_name": "www", "dns_domain": "red.example."}),
        );
        r.by_create(
            ("floatingip", &base),
            ("dns_domain", &json!("openstacklocal.")),
            |r, _| r.looked_up(&a, "www.openstacklocal"),
        );
    }),
];
