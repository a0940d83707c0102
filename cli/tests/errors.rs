//! What does a person see who makes a mistake?
//!
//! One line on stderr that starts with `error:`, names the place and says what to do; exit code 1, or 2 for a wrong use
//! of the command itself. None of these needs root: all is refused before anything is made.

#![expect(clippy::unwrap_used, reason = "a test stops where it can't go on")]

use std::path::PathBuf;
use std::process::{Command, Output};

fn overweave(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_overweave"))
        .args(args)
        .env("OS_CLIENT_CONFIG_FILE", "/nowhere/clouds.yaml")
        .env_remove("OS_CLOUD")
        .output()
        .unwrap()
}

#[track_caller]
fn refused(args: &[&str], words: &[&str]) {
    let output = overweave(args);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(output.stdout.is_empty());
    assert!(
        said.starts_with("error: ") && said.trim_end().lines().count() == 1,
        "{said}"
    );
    for word in words {
        assert!(said.contains(word), "{said} does not say {word}");
    }
}

fn written(name: &str, text: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("overweave-{}-{name}", std::process::id()));
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_bad_lab_is_one_line_and_nothing_is_made() {
    let good = "hosts: [h1]\nnetworks: [{name: a, cidr: 10.0.0.0/24}]\n";
    for (name, more, words) in [
        ("key.yaml", "workload: []\n", ["key.yaml", "workload"]),
        (
            "overlap.yaml",
            "",
            ["overlap.yaml: networks[1].cidr", "overlaps"],
        ),
        (
            "outside.yaml",
            "workloads: [{name: w, host: h1, network: a, ip: 10.1.0.1}]\n",
            ["outside.yaml: workloads[0].ip", "choose an address inside"],
        ),
        (
            "function.yaml",
            "chains: [{name: c, classifier: {network: a}, functions: [{fire: {}}]}]\n",
            ["chains[0].functions[0]", "name one of: firewall"],
        ),
    ] {
        let text = if name == "overlap.yaml" {
            "hosts: [h1]\nnetworks: [{name: a, cidr: 10.0.0.0/24}, {name: b, cidr: 10.0.0.0/16}]\n"
                .to_owned()
        } else {
            format!("{good}{more}")
        };
        let path = written(name, &text);
        refused(&["lab", "run", path.to_str().unwrap()], &words);
        let stem = path.file_stem().unwrap().to_str().unwrap();
        assert!(
            !std::path::Path::new("/run/overweave-lab")
                .join(stem)
                .exists()
        );
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn what_is_not_there_is_said_with_the_remedy() {
    refused(
        &["lab", "run", "/nowhere.yaml"],
        &["/nowhere.yaml", "configs/labs"],
    );
    refused(
        &["flows", "--run-dir", "/nowhere"],
        &["/nowhere/vswitch.sock", "--run-dir"],
    );
    refused(
        &["token"],
        &["/nowhere/clouds.yaml", "OS_CLIENT_CONFIG_FILE"],
    );
    let port = "00000000-0000-0000-0000-000000000001";
    refused(
        &["port", "attach", port, "--netns", "no-such-ns"],
        &["/run/netns/no-such-ns", "ip netns add"],
    );
}

#[test]
fn a_wrong_use_is_exit_code_2() {
    for args in [
        &["lab"][..],
        &["fly"],
        &["port", "attach", "x"],
        &["explain", "tcp"],
    ] {
        let output = overweave(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn completions_name_the_verbs() {
    let output = overweave(&["completions", "bash"]);
    assert!(output.status.success());
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .contains("conntrack")
    );
}
