//! What may a caller of the run dir's socket say?
//!
//! The socket is its owner's alone, yet a script that speaks gibberish must not end the switch.

use vswitch::datapath::Described;
use vswitch::simulated::understood;

/// A line: a request, and a packet in words as `explain` takes it.
pub(crate) fn request(bytes: &[u8]) {
    if let Err(answer) = understood(bytes) {
        let Ok(answer) = serde_json::from_slice::<serde_json::Value>(&answer) else {
            unreachable!("an answer is JSON");
        };
        let of = |key: &str| answer.pointer(key).and_then(|value| value.as_str());
        let code = of("/error/code");
        assert!(
            matches!(code, Some("bad_request" | "unknown_verb")),
            "not a refusal to understand: {answer}"
        );
        assert!(of("/error/message").is_some_and(|text| !text.is_empty()));
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _described = text.parse::<Described>();
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    const PORT: &str = "00000000-0000-4000-8000-000000000007";
    let mut seeds = vec![
        format!(
            r#"{{"verb":"attach","args":{{"port":"{PORT}","netns":"blue","ifname":"eth1","static":true}}}}"#
        ),
        format!(r#"{{"verb":"detach","args":{{"port":"{PORT}"}}}}"#),
    ];
    let plain = [
        r#"{"verb":"explain","args":{"port":"p1","packet":"tcp 10.0.0.5:40000 > 10.0.0.9:443"}}"#,
        r#"{"verb":"explain","args":{"tunnel":{"vtep":"192.0.2.2","vni":5001},"packet":"icmp 10.0.0.1 > 10.0.0.2"}}"#,
        r#"{"verb":"flows","args":{"match":"10.0.0.1","limit":10}}"#,
        r#"{"verb":"conntrack"}"#,
        r#"{"verb":"drops","args":{}}"#,
        r#"{"verb":"fdb","args":null}"#,
        r#"{"verb":"status"}"#,
        "tcp 10.0.0.5:40000 > 10.0.0.9:443 flags syn,ack eth 02:00:00:00:00:01 > 02:00:00:00:00:02",
        "udp [fd00::5]:53 > [fd00::9]:53 len 1400",
        "icmp6 fd00::1 > fd00::2 type 128 code 0",
        "arp 10.0.0.1 > 10.0.0.2",
        "proto-47 10.0.0.1 > 10.0.0.2",
    ];
    seeds.extend(plain.map(str::to_owned));
    seeds.into_iter().map(String::into_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_is_understood_one_way() {
        for seed in seeds() {
            let text = String::from_utf8(seed.clone()).unwrap();
            let either = understood(&seed).is_ok() || text.parse::<Described>().is_ok();
            assert!(either, "{text}");
        }
    }
}
