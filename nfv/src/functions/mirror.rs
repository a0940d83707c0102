//! Who else is shown a connection's packets?
//!
//! A port of the host on which the connection entered the chain gets a copy of each, as it came there: before what other functions rewrite, and whatever
//! they let wait. A copy is judged by nobody and goes nowhere else, so no mirror sees another's copies.
//!
//! # Cost
//! A copy of each packet; nothing for connections without a mirror.

use std::fmt;

use net::{Id, Probe, ids::kind};
use serde::{Deserialize, Serialize};

use crate::{
    catalog::{Plain, SettingFault},
    function::{Context, Decision, NetworkFunction, Shown},
};

/// What a configuration says beside `mirror`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The port that gets the copies; a lab file names a workload.
    pub to: Id<kind::Port>,
    /// Whose packets it gets.
    #[serde(default)]
    pub of: Of,
}

/// Which direction of a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Of {
    /// Both.
    #[default]
    Both,
    /// What its initiator sends.
    Forward,
    /// What is answered.
    Reply,
}

/// A mirror.
#[derive(Debug)]
pub struct Mirror(Settings);

impl Plain for Mirror {
    type Settings = Settings;
    const PORTS: &'static [&'static str] = &["to"];

    fn new(settings: &Settings) -> Result<Self, SettingFault> {
        Ok(Self(settings.clone()))
    }
}

impl NetworkFunction for Mirror {
    fn decide(
        &self,
        _first: &mut Probe,
        _cx: &Context<'_>,
        note: &mut dyn FnMut(fmt::Arguments<'_>),
    ) -> Decision {
        let Settings { to, of } = self.0;
        let what = match of {
            Of::Both => "both directions",
            Of::Forward => "what is sent",
            Of::Reply => "what is answered",
        };
        note(format_args!("copies of {what} to port {to}"));
        Decision::Copy(Shown {
            to,
            forward: of != Of::Reply,
            reply: of != Of::Forward,
        })
    }
}

#[cfg(test)]
mod tests {
    use net::FlowKey;
    use serde_json::json;

    use super::*;

    const TO: &str = "00000000-0000-0000-0000-000000000007";

    #[test]
    fn it_copies_what_it_says_and_reads_nothing() {
        for (of, forward, reply) in [
            ("both", true, true),
            ("forward", true, false),
            ("reply", false, true),
        ] {
            let settings = serde_json::from_value(json!({"to": TO, "of": of})).unwrap();
            let mirror = Mirror::new(&settings).unwrap();
            let mut probe = Probe::new(&FlowKey::default());
            let decision = mirror.decide(&mut probe, &Context::default(), &mut |_| {});
            let to = TO.parse().unwrap();
            assert_eq!(decision, Decision::Copy(Shown { to, forward, reply }));
            assert_eq!(probe.mask(), Probe::new(&FlowKey::default()).mask());
        }
    }

    #[test]
    fn settings_that_cannot_be_are_refused() {
        for bad in [
            json!({}),
            json!({"to": "web-1"}),
            json!({"to": TO, "of": "all"}),
            json!({"to": TO, "snaplen": 64}),
        ] {
            assert!(
                serde_json::from_value::<Settings>(bad.clone()).is_err(),
                "{bad}"
            );
        }
    }
}
