// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mistakes of the person who runs it: all of a file at once, each with its place; everything else in one sentence, with an exit
//! code of sysexits.h.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use lb_tests::agent::{Agent, public_directory, verb};
use lb_tests::config::{Config, Path};
use lb_tests::net::Net;
use lb_tests::process::text;

use crate::support::{PORT, SERVER_PORT, tcp_config};

/// sysexits.h: the input file did not exist or was not readable.
const EX_NOINPUT: i32 = 66;

/// sysexits.h: a service is unavailable.
const EX_UNAVAILABLE: i32 = 69;

/// sysexits.h: not sufficient permission.
const EX_NOPERM: i32 = 77;

/// sysexits.h: something was found in an unconfigured or misconfigured state.
const EX_CONFIG: i32 = 78;

/// Ten mistakes, each marked by what its message must contain.
const TEN_MISTAKES: &str = r#"[globl]                                    # globl
[admin]
bind = "127.0.0.1"                         # port
[frontend.https]
bind = ["10.1.0.1:443"]
mode = "tls-passthrough"
client-hello-timout = "5s"                 # client-hello-timeout
client-hello-max = "1MiB"                  # client-hello-max
on-no-name = "nowhere"                     # nowhere
[[frontend.https.route]]
sni = ["www..example"]                     # www..example
backend = "web"
[backend.web]
balance = "round-robbin"                   # round-robin
connect-timeout = 5                        # connect-timeout
check = { type = "tcp", interval = "0s" }  # interval
[[backend.web.server]]
name = "web-1"
address = "10.2.0.2:443"
weight = 300                               # 256
"#;

#[test]
fn ten_mistakes_get_ten_messages_with_their_places() {
    let place = public_directory();
    std::fs::write(place.path().join("wrong.toml"), TEN_MISTAKES).expect("a temporary file");
    for arguments in [["check", "--config", "wrong.toml"], ["run", "--config", "wrong.toml"]] {
        let output = verb(place.path(), &arguments);
        let complaint = text(&output.stderr);
        assert_eq!(output.status.code(), Some(EX_CONFIG), "{complaint}");
        assert!(complaint.contains("10 problems"), "{complaint}");
        for (number, line) in (1..).zip(TEN_MISTAKES.lines()) {
            let Some((_, hint)) = line.split_once("# ") else { continue };
            let message =
                complaint.lines().find(|message| message.contains(&format!("wrong.toml:{number}:")));
            let message = message.unwrap_or_else(|| panic!("nothing about line {number}:\n{complaint}"));
            assert!(message.contains(hint), "{hint:?} is not in {message:?}");
        }
        let messages = complaint.lines().filter(|message| message.contains("wrong.toml:")).count();
        // One of them may be the heading.
        assert!((10..=11).contains(&messages), "{complaint}");
    }
}

#[test]
fn broken_toml_is_a_message_with_its_place() {
    let place = public_directory();
    std::fs::write(place.path().join("broken.toml"), "[admin]\nbind = \"\n").expect("a temporary file");
    let output = verb(place.path(), &["check", "--config", "broken.toml"]);
    assert_sentence(&output, EX_CONFIG, &["broken.toml:2:"]);
}

#[test]
fn a_missing_file_is_one_sentence() {
    let place = public_directory();
    for verb_name in ["check", "run"] {
        let output = verb(place.path(), &[verb_name, "--config", "absent.toml"]);
        assert_sentence(&output, EX_NOINPUT, &["absent.toml", "no such file"]);
    }
}

#[test]
fn an_unreadable_file_is_one_sentence() {
    let net = Net::new(1);
    let config = tcp_config(&net, Path::Copy, "");
    // The file is the last of the arguments. Root reads everything, so the agent must be somebody else.
    let script = "for file; do :; done; chmod 000 \"$file\"; exec setpriv --reuid=65534 --regid=65534 \
                  --clear-groups --inh-caps=-all --bounding-set=-all \"$@\"";
    let output = Agent::launch(&net).through(&["sh", "-c", script, "sh"]).fail(&config);
    assert_sentence(&output, EX_NOINPUT, &["lb.toml", "permission denied"]);
}

#[test]
fn a_taken_port_is_one_sentence() {
    let net = Net::new(1);
    let _taken = net.balancer.listen(PORT);
    let output = Agent::launch(&net).fail(&tcp_config(&net, Path::Copy, ""));
    assert_sentence(&output, EX_UNAVAILABLE, &[&net.frontend(PORT).to_string(), "in use"]);
}

#[test]
fn a_privileged_port_without_privileges_is_one_sentence() {
    let net = Net::new(1);
    let server = net.server().address(SERVER_PORT);
    let config = Config::new().tcp("in", net.frontend(443), "out", "").backend("out", server, "");
    let output = Agent::launch(&net).unprivileged().fail(&config);
    let hints = [&net.frontend(443).to_string()[..], "CAP_NET_BIND_SERVICE"];
    assert_sentence(&output, EX_NOPERM, &hints);
}

#[test]
fn an_address_of_another_host_is_one_sentence() {
    let net = Net::new(1);
    let server = net.server().address(SERVER_PORT);
    let elsewhere = net.client.address(PORT);
    let config = Config::new().tcp("in", elsewhere, "out", "").backend("out", server, "");
    let output = Agent::launch(&net).fail(&config);
    assert_sentence(&output, EX_UNAVAILABLE, &[&elsewhere.to_string()]);
}

#[test]
fn a_log_that_cannot_be_written_is_one_sentence() {
    let net = Net::new(1);
    let place = public_directory();
    std::fs::set_permissions(place.path(), Permissions::from_mode(0o755)).expect("our own directory");
    let log = place.path().join("absent/lb.log");
    let server = net.server().address(SERVER_PORT);
    let config = Config::with_log(&format!("target = \"file:{}\"", log.display()))
        .tcp("in", net.frontend(PORT), "out", "")
        .backend("out", server, "");
    let output = Agent::launch(&net).fail(&config);
    // sysexits.h: EX_CANTCREAT, a (user specified) output file cannot be created.
    assert_sentence(&output, 73, &[&log.to_string_lossy()]);
}

/// One line on standard error that contains all `hints`, and the exit code.
#[track_caller]
fn assert_sentence(output: &Output, code: i32, hints: &[&str]) {
    let complaint = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{complaint}");
    let errors: Vec<&str> =
        complaint.lines().filter(|line| hints.iter().all(|hint| line.contains(hint))).collect();
    assert_eq!(errors.len(), 1, "{hints:?} in one line:\n{complaint}");
    assert!(!complaint.contains("panicked"), "{complaint}");
}
