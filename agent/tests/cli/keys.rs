//! `tcpauth key` and `tcpauth config` as processes.

use std::{
    io::Write,
    process::{Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::process::{at_a_terminal, daemon, tcpauth};

#[test]
fn the_exit_code_of_key_and_config_says_what_happened() {
    let refusal = error("not now");
    let equal = json!({ "answer": "differences", "value": [] });
    let different =
        json!({ "answer": "differences", "value": ["neighbor 192.0.2.1: key 2 is not in the file"] });
    let retire = &["key", "retire", "192.0.2.1", "1"][..];
    for (arguments, answers, code) in [
        (&["config", "diff"][..], &[&equal][..], 0),
        (&["config", "diff"], &[&different], 1),
        (&["config", "diff", "--json"], &[&different], 1),
        (&["config", "diff"], &[&refusal], 2),
        (&["config", "diff"], &[], 3),
        (&["config", "write"], &[&done("written")], 0),
        (&["config", "write"], &[&refusal], 1),
        (&["key", "show"], &[&keys(0, 1)], 0),
        (&["key", "show", "192.0.2.9"], &[&refusal], 1),
        (&["key", "show", "192.0.2.9"], &[&json!({ "answer": "keys", "value": [] })], 1),
        (retire, &[&done("retired")], 0),
        (retire, &[&refusal], 1),
        (&["key", "roll", "192.0.2.1"], &[&refusal], 1),
        (&["key", "roll", "192.0.2.1"], &[&done("rolled")], 3),
        (&["key", "roll"], &[], 2),
        (&["key", "add", "192.0.2.9", "--password-file=/nonexistent"], &[&refusal], 1),
        (&["key", "add", "192.0.2.1", "--password-file=/nonexistent"], &[&keys(0, 1)], 2),
    ] {
        let (output, _) = run(arguments, answers);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
        let said = !output.stderr.is_empty() || !output.stdout.is_empty();
        assert!(said, "{arguments:?} ends without a word");
    }
}

#[test]
fn what_differs_from_the_file_is_listed() {
    let lines = ["neighbor 192.0.2.1: key 2 is not in the file", "neighbor 192.0.2.2: not running"];
    let answer = json!({ "answer": "differences", "value": lines });
    let (output, requests) = run(&["config", "diff"], &[&answer]);
    assert_eq!(stdout(&output), format!("{}\n{}\n", lines[0], lines[1]));
    assert_eq!(requests, [json!({ "request": "config-diff" })]);
    let (output, _) = run(&["config", "diff", "--json"], &[&answer]);
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), json!(lines));
}

#[test]
fn a_key_is_added_and_the_next_steps_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("daemon.sock");
    let requests = daemon(&socket, &[&keys(0, 1), &done("added key 2 of 192.0.2.1")]);
    let mut child = tcpauth(&socket)
        .args(["key", "add", "192.0.2.1", "--number=2", "--password-file=-", "--send-id=2", "--recv-id=3"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"from a pipe\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let expected = "\
added key 2 of 192.0.2.1
next:
  1. add the same key on the other router, if it is not there yet, with --send-id 3 --recv-id 2
  2. on both, one after the other: `tcpauth key roll 192.0.2.1`
  3. when `tcpauth key show 192.0.2.1` tells that nobody sends with the old key: `tcpauth key retire 192.0.2.1 KEY`
gone when the machine reboots, unless `tcpauth config write` keeps it
";
    assert_eq!(stdout(&output), expected);
    assert_eq!(requests.recv().unwrap(), json!({ "request": "keys", "peer": "192.0.2.1" }));
    let toml = "password = \"from a pipe\"\nsend-id = 2\nrecv-id = 3\n";
    assert_eq!(
        requests.recv().unwrap(),
        json!({ "request": "key-add", "peer": "192.0.2.1", "number": 2, "toml": toml })
    );
}

#[test]
fn the_password_of_a_key_is_typed_and_not_echoed() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("daemon.sock");
    let requests = daemon(&socket, &[&keys(0, 1), &done("added key 2")]);
    let (mut terminal, mut child) = at_a_terminal(tcpauth(&socket).args(["key", "add", "192.0.2.1"]));
    let mut shown = terminal.until("Password for a new key of 192.0.2.1: ");
    terminal.line("v61ne0qkel33&");
    shown += &terminal.until("Again: ");
    terminal.line("v61ne0qkel33&");
    shown += &terminal.until("added key 2");
    assert!(child.wait().unwrap().success());
    assert!(!shown.contains("v61ne"), "{shown}");
    let toml = requests.iter().nth(1).unwrap()["toml"].as_str().unwrap().to_owned();
    assert!(toml.starts_with("password = \"v61ne0qkel33&\"\n"));
}

#[test]
fn an_unknown_neighbor_is_refused_before_a_password_is_asked_for() {
    let refusal = error("192.0.2.9 is no configured neighbour");
    let (output, requests) = run(&["key", "add", "192.0.2.9"], &[&refusal]);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "tcpauth: 192.0.2.9 is no configured neighbour\n");
    assert_eq!(requests, [json!({ "request": "keys", "peer": "192.0.2.9" })]);
}

#[test]
fn rolling_is_followed_until_all_sessions_have_moved() {
    let answers = [&done("rolled 192.0.2.1 to key 2"), &keys(0, 3), &keys(2, 3), &keys(3, 3)];
    let (output, requests) = run(&["key", "roll", "192.0.2.1", "2"], &answers);
    assert!(output.status.success());
    let shown = stdout(&output);
    assert!(shown.starts_with("rolled 192.0.2.1 to key 2\nrolled 3 of 3 sessions, "), "{shown}");
    assert_eq!(shown.lines().count(), 2, "{shown}");
    assert_eq!(requests[0], json!({ "request": "key-roll", "peer": "192.0.2.1", "number": 2 }));
    assert_eq!(requests[1..], vec![json!({ "request": "keys", "peer": "192.0.2.1" }); 3]);
}

#[test]
fn the_daemon_is_asked_at_most_four_times_a_second() {
    let waiting = keys(0, 1);
    let begin = Instant::now();
    run(&["key", "roll", "--all"], &[&done("rolled"), &waiting, &waiting, &waiting, &waiting, &keys(1, 1)]);
    assert!(begin.elapsed() >= Duration::from_secs(1), "{:?}", begin.elapsed());
}

#[test]
fn what_still_waits_for_its_peer_is_told_and_is_no_failure() {
    let waiting = keys(1, 3);
    let (output, requests) =
        run(&["key", "roll", "--all", "--wait", "1"], &[&[&done("rolled all")][..], &[&waiting; 9]].concat());
    assert_eq!(output.status.code(), Some(0));
    let shown = stdout(&output);
    assert!(shown.starts_with("rolled all\nrolled 1 of 3 sessions, 1."), "{shown}");
    assert!(shown.contains("\n  neighbor 192.0.2.1: 2 of 3 sessions wait for the peer ("), "{shown}");
    assert!(shown.contains("\nnothing is lost"), "{shown}");
    assert_eq!(requests[0], json!({ "request": "key-roll", "peer": null, "number": null }));
    assert_eq!(requests[1], json!({ "request": "keys", "peer": null }));
}

#[test]
fn without_waiting_nothing_is_asked_after_the_roll() {
    let (output, requests) =
        run(&["key", "roll", "--all", "--wait", "0"], &[&done("rolled all"), &keys(0, 3)]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(0), "rolled all\n"));
    assert_eq!(requests.len(), 1);
}

#[test]
fn rolling_in_json_prints_the_protocols_answers() {
    let answers = [&done("rolled"), &keys(0, 3), &keys(3, 3)];
    let (output, _) = run(&["key", "roll", "--all", "--json"], &answers);
    let shown = stdout(&output);
    let lines: Vec<Value> = shown.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines, [done("rolled"), keys(3, 3)]);
}

#[test]
fn at_a_terminal_progress_is_one_line_and_ctrl_c_ends_only_the_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("daemon.sock");
    let (rolled, none, one) = (done("rolled all"), keys(0, 3), keys(1, 3));
    let _requests = daemon(&socket, &[&[&rolled, &none][..], &[&one; 40]].concat());
    let (mut terminal, mut child) =
        at_a_terminal(tcpauth(&socket).args(["key", "roll", "--all", "--wait", "60"]));
    terminal.until("rolled all\r\n");
    let between = terminal.until("\r\x1b[Krolled 1 of 3 sessions, ");
    assert!(
        between.starts_with("\r\x1b[Krolled 0 of 3 sessions, ") && !between.contains('\n'),
        "{between:?}"
    );
    terminal.write_all(b"\x03").unwrap();
    terminal.until("\r\x1b[Krolled 1 of 3 sessions, ");
    terminal.until("nothing is lost");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn retiring_names_the_key() {
    for (arguments, force) in [
        (&["key", "retire", "192.0.2.1", "1"][..], false),
        (&["key", "retire", "192.0.2.1", "1", "--force"], true),
    ] {
        let (output, requests) = run(arguments, &[&done("retired key 1 of 192.0.2.1")]);
        assert_eq!(stdout(&output), "retired key 1 of 192.0.2.1\n");
        let request = json!({ "request": "key-retire", "peer": "192.0.2.1", "number": 1, "force": force });
        assert_eq!(requests, [request]);
    }
}

#[test]
fn keys_in_json_are_the_protocols_struct() {
    let (output, _) = run(&["key", "show", "--json"], &[&keys(1, 3)]);
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), keys(1, 3)["value"]);
}

/// `tcpauth` without a terminal, before a daemon that gives these answers; with what it was asked.
fn run(arguments: &[&str], answers: &[&Value]) -> (Output, Vec<Value>) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("daemon.sock");
    let requests = (!answers.is_empty()).then(|| daemon(&socket, answers));
    let mut command = tcpauth(&socket);
    let output = command.args(arguments).stdin(Stdio::null()).output().unwrap();
    let requests = requests.map(|requests| requests.try_iter().collect()).unwrap_or_default();
    (output, requests)
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn done(text: &str) -> Value {
    json!({ "answer": "done", "value": text })
}

fn error(text: &str) -> Value {
    json!({ "answer": "error", "value": text })
}

/// Two keys, of which so many sessions have moved to the second.
fn keys(rolled: u64, open: u64) -> Value {
    let key = |number: u32, preferred: bool, sessions: u64| {
        json!({
            "number": number, "send_id": number, "recv_id": number, "algorithm": "hmac-sha-1-96",
            "send_lifetime": "always", "accept_lifetime": "always", "state": "valid", "preferred": preferred,
            "sending_sessions": sessions, "receiving_sessions": sessions, "switched_seconds_ago": null
        })
    };
    json!({ "answer": "keys", "value": [{
        "neighbor": "192.0.2.1", "chain": null, "open_sessions": open, "rolled_sessions": rolled, "closes": null, "agreed": null,
        "keys": [key(1, false, open - rolled), key(2, true, rolled)]
    }] })
}
