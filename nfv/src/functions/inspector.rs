//! Do a connection's first bytes have what may not pass?
//!
//! Of TCP the first bytes of each direction, put together as their receiver would; of UDP each datagram by itself. What is found ends the
//! connection, resets it, or is only counted. What is neither TCP nor UDP is not read, and does not pass where a protocol is wanted.
//!
//! # Cost
//! A look-up a packet and a step a byte until both directions are read to their depth and acknowledged ([`crate::inspect`]); then nothing.

use std::{fmt, sync::Arc};

use net::{DropReason, Probe, flow_key::proto};

use crate::{
    catalog::{Plain, SettingFault},
    chain::MAX_INSPECTORS,
    function::{Context, Decision, NetworkFunction},
    inspect::{self, Settings, Undecided},
};

/// An inspector.
#[derive(Debug)]
pub struct Inspector {
    judge: Arc<inspect::Inspector>,
    patterns: usize,
    depth: u32,
}

impl Plain for Inspector {
    type Settings = Settings;
    // A connection's record has room for what two said.
    const MOST: usize = MAX_INSPECTORS;

    fn new(settings: &Settings) -> Result<Self, SettingFault> {
        Ok(Self {
            judge: Arc::new(inspect::Inspector::new(settings)?),
            patterns: settings.patterns.len(),
            depth: settings.depth,
        })
    }
}

impl NetworkFunction for Inspector {
    fn decide(
        &self,
        first: &mut Probe,
        _cx: &Context<'_>,
        note: &mut dyn FnMut(fmt::Arguments<'_>),
    ) -> Decision {
        let wanted = self.judge.protocol();
        let read = match first.ip_proto() {
            proto::TCP => true,
            proto::UDP => wanted.is_none(),
            _ => false,
        };
        if read {
            let (patterns, depth) = (self.patterns, self.depth);
            let undecided = match self.judge.undecided() {
                Undecided::Closed => "does not pass",
                Undecided::Open => "passes",
            };
            note(format_args!(
                "reads the first {depth} bytes of each direction for {patterns} patterns{}; what it can't judge {undecided}",
                if wanted.is_some() {
                    " and a protocol"
                } else {
                    ""
                },
            ));
            return Decision::Inspect;
        }
        if wanted.is_some() {
            note(format_args!("does not speak the protocol that is wanted"));
            return Decision::Drop {
                reason: DropReason::InspectorProtocol,
                rule: None,
            };
        }
        note(format_args!("neither TCP nor UDP: not read"));
        Decision::Pass
    }

    fn inspector(&self) -> Option<&Arc<inspect::Inspector>> {
        Some(&self.judge)
    }
}

#[cfg(test)]
mod tests {
    use net::FlowKey;
    use serde_json::json;

    use super::*;

    fn says(settings: serde_json::Value, ip_proto: u8) -> Decision {
        let inspector = Inspector::new(&serde_json::from_value(settings).unwrap()).unwrap();
        let key = FlowKey {
            ip_proto,
            ..FlowKey::default()
        };
        inspector.decide(&mut Probe::new(&key), &Context::default(), &mut |_| {})
    }

    #[test]
    fn what_has_streams_or_datagrams_is_read_and_a_protocol_is_one_of_streams() {
        let patterns = json!({"patterns": [{"text": "x"}]});
        let http = json!({"protocol": "http"});
        let refused = Decision::Drop {
            reason: DropReason::InspectorProtocol,
            rule: None,
        };
        for (settings, ip_proto, wanted) in [
            (&patterns, proto::TCP, Decision::Inspect),
            (&patterns, proto::UDP, Decision::Inspect),
            (&patterns, proto::ICMP, Decision::Pass),
            (&patterns, proto::SCTP, Decision::Pass),
            (&http, proto::TCP, Decision::Inspect),
            (&http, proto::UDP, refused),
            (&http, proto::ICMP6, refused),
        ] {
            assert_eq!(
                says(settings.clone(), ip_proto),
                wanted,
                "{settings} {ip_proto}"
            );
        }
    }

    #[test]
    fn what_looks_for_the_same_is_one_to_a_connection_that_was_cleared() {
        let digest = |settings| {
            let inspector = Inspector::new(&serde_json::from_value(settings).unwrap()).unwrap();
            inspector.judge.digest()
        };
        let one = digest(json!({"patterns": [{"text": "x"}]}));
        assert_eq!(
            one,
            digest(json!({"patterns": [{"text": "x", "of": "both"}], "depth": 4096}))
        );
        let others = [
            json!({"patterns": [{"text": "y"}]}),
            json!({"patterns": [{"hex": "78"}]}),
            json!({"patterns": [{"text": "x"}], "depth": 64}),
            json!({"patterns": [{"text": "x"}], "protocol": "tls"}),
            json!({"patterns": [{"text": "x"}], "undecided": "open"}),
        ];
        assert!(others.into_iter().all(|other| digest(other) != one));
    }
}
