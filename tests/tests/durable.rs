//! What was acknowledged is there, whatever happens and however many ask at once.

use std::{path::Path, time::Duration};

use tests::{
    churn,
    ledger::{self, Wish},
};

/// One death of each kind; `ledger --kills 100` is the long form.
#[test]
fn what_was_acknowledged_is_there_after_kill_9() {
    let wish = Wish {
        kills: 5,
        writers: 12,
        ports: 40,
        mortal: Path::new(env!("CARGO_BIN_EXE_mortal")).to_owned(),
        dir: std::env::temp_dir(),
        seed: 7,
    };
    let seen = ledger::run(&wish, &mut |_| {}).unwrap();
    assert!(seen.counts.acknowledged > 0, "{seen}");
    assert_eq!(seen.deaths.values().sum::<usize>(), 5, "{seen}");
}

/// `churn --seconds 60` is the long form.
#[test]
fn no_address_is_two_ports_and_none_is_lost() {
    let seen = churn::run(&std::env::temp_dir(), 16, Duration::from_secs(2)).unwrap();
    assert!(seen.made > 0 && seen.refused > 0, "{seen}");
}
