//! The command `tcpauth` as a process: exit codes, prompts at a terminal, what `ps` would show.

#[path = "cli/keys.rs"]
mod keys;
#[path = "cli/process.rs"]
mod process;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::Path,
    process::Stdio,
};

use nix::{
    sys::{
        signal::{Signal, kill},
        termios::{LocalFlags, tcgetattr},
    },
    unistd::Pid,
};
use process::{at_a_terminal, daemon, tcpauth};
use serde_json::{Value, json};

#[test]
fn the_exit_code_says_what_happened() {
    let dir = tempfile::tempdir().unwrap();
    let failing = status(&["established", "failing"]);
    let fine = status(&["established", "idle"]);
    let refusal = json!({ "answer": "error", "value": "not now" });
    for (arguments, answer, code) in [
        (&["status"][..], Some(&fine), 0),
        (&["status"], Some(&failing), 4),
        (&["status", "--json"], Some(&failing), 4),
        (&["reload"], Some(&refusal), 2),
        (&["neighbor", "remove", "192.0.2.1"], Some(&refusal), 1),
        (&["reload"], None, 3),
        (&["status"], None, 3),
        (&["stat"], None, 2),
        (&["genkey"], None, 0),
        (&["check", "/nonexistent.toml"], None, 2),
        (&["neighbor", "add", "192.0.2.1", "--password-file=/nonexistent"], None, 2),
        (&["version"], None, 0),
        (&["purge"], None, 2),
    ] {
        let socket = dir.path().join("daemon.sock");
        let daemon = answer.map(|answer| daemon(&socket, &[answer]));
        let output = tcpauth(&socket).args(arguments).stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
        assert!(matches!(code, 0 | 4) || !output.stderr.is_empty(), "{arguments:?} fails without a word");
        drop(daemon);
        let _ = fs::remove_file(&socket);
    }
}

#[test]
fn a_refused_reload_says_first_that_all_stays() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("daemon.sock");
    let refusal = json!({ "answer": "error", "value": "a.toml:1:1: one\na.toml:2:1: two" });
    let _daemon = daemon(&socket, &[&refusal]);
    let output = tcpauth(&socket).arg("reload").output().unwrap();
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "tcpauth: not loaded, the running configuration stays:\na.toml:1:1: one\na.toml:2:1: two\n"
    );
}

#[test]
fn signing_to_a_neighbor_is_asked_for_and_its_answer_shown() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("daemon.sock");
    let line = "segments to 192.0.2.1 are signed from now on";
    let done = json!({ "answer": "done", "value": line });
    let requests = daemon(&socket, &[&done]);
    let output = tcpauth(&socket).args(["neighbor", "sign", "192.0.2.1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{line}\n"));
    assert_eq!(requests.recv().unwrap(), json!({ "request": "neighbor-sign", "peer": "192.0.2.1" }));
    let socket = dir.path().join("another.sock");
    let refusal = json!({ "answer": "error", "value": "192.0.2.1 is not signed to" });
    let _requests = daemon(&socket, &[&refusal]);
    let output = tcpauth(&socket).args(["neighbor", "sign", "192.0.2.1"]).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &[][..]));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "tcpauth: 192.0.2.1 is not signed to\n");
}

#[test]
fn sessions_of_a_neighbor_that_is_not_configured_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("daemon.sock");
    let sessions = json!({ "answer": "sessions", "value": [session()] });
    let none = json!({ "answer": "error", "value": "192.0.2.9 is no configured neighbour" });
    let known = json!({ "answer": "neighbors", "value": status(&["idle"])["value"]["neighbors"] });
    for (answer, code, shown) in [(&none, 1, ""), (&known, 0, "no sessions\n")] {
        let requests = daemon(&socket, &[&sessions, answer]);
        let output = tcpauth(&socket).args(["session", "show", "192.0.2.9"]).output().unwrap();
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(code), shown.as_bytes()));
        // Until the daemon has gone.
        assert_eq!(requests.iter().count(), 2);
    }
}

#[test]
fn json_is_the_protocols_struct() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("daemon.sock");
    let answer = status(&["established"]);
    let _daemon = daemon(&socket, &[&answer]);
    let output = tcpauth(&socket).args(["status", "--json"]).output().unwrap();
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed, answer["value"]);
}

/// As of a daemon that was not replaced yet.
#[test]
fn status_without_the_newest_fields_is_understood() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("daemon.sock");
    let mut answer = status(&["established"]);
    for field in ["sockets_error", "unsaved", "unconfigured"] {
        answer["value"]["agent"].as_object_mut().unwrap().remove(field).unwrap();
    }
    answer["value"]["neighbors"][0].as_object_mut().unwrap().remove("on_unprotected").unwrap();
    let _daemon = daemon(&socket, &[&answer]);
    let output = tcpauth(&socket).args(["status"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

/// A status of a daemon that is newer, with a field, a list and words that this version does not know.
fn newer_status(protocol: u32) -> Value {
    let mut answer = status(&["established"]);
    answer["protocol"] = json!(protocol);
    answer["version"] = json!("9.1.0");
    let value = &mut answer["value"];
    value["agent"]["version"] = json!("9.1.0");
    value["agent"]["color"] = json!({ "is": "new" });
    value["neighbors"][0]["state"] = json!("half-open");
    value["neighbors"][0]["timers"] = json!([1, 2]);
    value["paths"] = json!([]);
    answer
}

#[test]
fn a_newer_daemons_status_is_shown_with_its_unknown_words() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("daemon.sock");
    let _daemon = daemon(&socket, &[&newer_status(1), &newer_status(1)]);
    let output = tcpauth(&socket).args(["status"]).output().unwrap();
    // A state that is not known may be a bad one.
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("half-open"), "{text}");
    assert!(text.contains("other version") && text.contains("tcpauthd 9.1.0"), "{text}");
    let output = tcpauth(&socket).args(["status", "--json"]).output().unwrap();
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["neighbors"][0]["state"], "half-open");
}

#[test]
fn a_daemon_of_another_protocol_is_told_in_one_line() {
    let mut lacking = status(&["established"]);
    lacking["value"]["neighbors"][0].as_object_mut().unwrap().remove("port").unwrap();
    let shapeless = json!({ "protocol": 2, "version": "9.1.0", "answer": "pages", "value": 7 });
    for (answer, daemon_is) in
        [(newer_status(2), "9.1.0"), (shapeless, "9.1.0"), (lacking, "of an older version")]
    {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("daemon.sock");
        let _daemon = daemon(&socket, &[&answer]);
        let output = tcpauth(&socket).args(["status"]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(told.contains(&format!("tcpauthd is {daemon_is}, tcpauth is ")), "{told}");
        assert!(
            told.contains("systemctl restart tcpauthd@cli-test")
                || told.contains("systemctl restart tcpauthd")
        );
        assert_eq!(told.trim_end().lines().count(), 1, "{told}");
        assert!(!told.contains("column"), "{told}");
    }
}

#[test]
fn a_password_typed_at_the_terminal_is_neither_echoed_nor_an_argument() {
    const PASSWORD: &str = "v61ne0qkel33& \"quoted\"";
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("daemon.sock");
    let requests = daemon(&socket, &[&json!({ "answer": "done", "value": "added 192.0.2.1" })]);
    let (mut terminal, mut child) = at_a_terminal(tcpauth(&socket).args(["neighbor", "add", "192.0.2.1"]));

    let mut shown = terminal.until("Password for 192.0.2.1: ");
    let arguments = fs::read_to_string(format!("/proc/{}/cmdline", child.id())).unwrap();
    terminal.line(PASSWORD);
    shown += &terminal.until("Again: ");
    terminal.line(PASSWORD);
    shown += &terminal.until("added 192.0.2.1");
    assert!(child.wait().unwrap().success());

    assert!(!shown.contains("v61ne"), "{shown}");
    assert!(arguments.contains("neighbor") && !arguments.contains("v61ne"), "{arguments}");
    let request = requests.recv().unwrap();
    assert_eq!(request["request"], "neighbor-add");
    assert_eq!(request["peer"], "192.0.2.1");
    let table: toml::Table = request["toml"].as_str().unwrap().parse().unwrap();
    assert_eq!(table["password"].as_str(), Some(PASSWORD));
}

#[test]
fn passwords_that_differ_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("daemon.sock");
    let (mut terminal, mut child) = at_a_terminal(tcpauth(&socket).args(["neighbor", "add", "192.0.2.1"]));
    terminal.until("Password for 192.0.2.1: ");
    terminal.line("one");
    terminal.until("Again: ");
    terminal.line("another");
    terminal.until("the two passwords differ");
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

/// A paste, or `expect`, does not wait for prompts.
#[test]
fn what_is_typed_ahead_is_not_echoed() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("daemon.sock");
    let _requests = daemon(&socket, &[&json!({ "answer": "done", "value": "added" })]);
    let (mut terminal, mut child) = at_a_terminal(tcpauth(&socket).args(["neighbor", "add", "192.0.2.1"]));
    let mut shown = terminal.until("P");
    terminal.line("early\nearly");
    shown += &terminal.until("added");
    assert!(!shown.contains("early"), "{shown}");
    assert!(child.wait().unwrap().success());
}

#[test]
fn ctrl_c_at_the_prompt_gives_the_terminal_back() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("daemon.sock");
    let (mut terminal, mut child) = at_a_terminal(tcpauth(&socket).args(["neighbor", "add", "192.0.2.1"]));
    let master = terminal.master.try_clone().unwrap();
    let flags = || tcgetattr(&master).unwrap().local_flags;
    terminal.until("Password for 192.0.2.1: ");
    assert!(!flags().contains(LocalFlags::ECHO));
    terminal.write_all(b"half\x03").unwrap();
    terminal.until("interrupted; nothing was changed");
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(flags().contains(LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG));
}

#[test]
fn a_password_comes_from_standard_input() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("daemon.sock");
    let requests = daemon(&socket, &[&json!({ "answer": "done", "value": "added" })]);
    let mut child = tcpauth(&socket)
        .args(["neighbor", "add", "192.0.2.1", "--password-file", "-", "--key-id", "7"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"from a pipe\n").unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"added\n");
    let request = requests.recv().unwrap();
    assert_eq!(request["toml"], "password = \"from a pipe\"\nkey-id = 7\n");
}

#[test]
fn watching_redraws_in_place_waits_for_the_daemon_and_ends_with_ctrl_c() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("daemon.sock");
    let none = json!({ "answer": "sessions", "value": [] });
    let one = json!({ "answer": "sessions", "value": [session()] });
    let requests = daemon(&socket, &[&none, &one]);
    let mut command = tcpauth(&socket);
    let (mut terminal, mut child) = at_a_terminal(command.args(["session", "show", "--watch"]));
    terminal.until("\x1b[?1049h");
    terminal.until("\x1b[Hno sessions\x1b[K");
    terminal.until("\x1b[Hsession 192.0.2.2:40000 > 192.0.2.1:179\x1b[K");
    drop(requests);
    terminal.until("\x1b[Htcpauthd is not running");
    terminal.write_all(b"\x03").unwrap();
    terminal.until("\x1b[?1049l");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn following_events_ends_with_ctrl_c_and_with_the_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let missed = json!({ "event": "missed", "count": 3 });
    let listen = |name: &str| {
        let socket = dir.path().join(name);
        let listener = UnixListener::bind(&socket).unwrap();
        (socket, listener)
    };
    for stop_daemon in [false, true] {
        let (socket, listener) = listen(&format!("{stop_daemon}.sock"));
        let mut child = tcpauth(&socket).arg("events").stdout(Stdio::piped()).spawn().unwrap();
        let mut stream = listener.accept().unwrap().0;
        let mut request = String::new();
        BufReader::new(&stream).read_line(&mut request).unwrap();
        assert_eq!(request, "{\"request\":\"events\"}\n");
        writeln!(stream, "{missed}").unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "3 events not shown: too many at once\n");
        if stop_daemon {
            drop(stream);
            assert_eq!(child.wait().unwrap().code(), Some(3));
        } else {
            kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
            assert_eq!(child.wait().unwrap().code(), Some(0));
        }
    }
}

#[test]
fn keys_are_of_the_length_asked_for_and_never_the_same() {
    let genkey = |arguments: &[&str]| {
        let output = tcpauth(Path::new("/nonexistent")).arg("genkey").args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let key = genkey(&[]);
    assert_eq!(hex::decode(key.trim_end()).unwrap().len(), 32);
    assert_eq!(key.lines().count(), 1);
    assert_ne!(genkey(&[]), key);
    assert_eq!(genkey(&["--bits=128", "--format=base64"]).len(), 24 + 1);
}

#[test]
fn a_key_pair_is_known_by_its_fingerprint() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("router.pem");
    let run = |arguments: &[&str]| tcpauth(Path::new("/nonexistent")).args(arguments).output().unwrap();
    let text = |octets: Vec<u8>| String::from_utf8(octets).unwrap();
    let file = path.to_str().unwrap();

    let made = run(&["genkey", "--raw-public-key", "--out", file]);
    assert_eq!(made.status.code(), Some(0), "{made:?}");
    let fingerprint = text(made.stdout);
    assert_eq!(hex::decode(fingerprint.trim_end()).unwrap().len(), 32);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(fs::read_to_string(&path).unwrap().starts_with("-----BEGIN PRIVATE KEY-----\n"));
    assert_eq!(text(run(&["key", "fingerprint", file]).stdout), fingerprint);
    let json: Value = serde_json::from_slice(&run(&["key", "fingerprint", file, "--json"]).stdout).unwrap();
    assert_eq!(json, json!({ "fingerprint": fingerprint.trim_end() }));

    // What openssl(1) says of the public key alone.
    let openssl = |arguments: &[&str]| {
        std::process::Command::new("openssl").args(arguments).output().expect("openssl is installed").stdout
    };
    let public = dir.path().join("public.pem");
    fs::write(&public, openssl(&["pkey", "-in", file, "-pubout"])).unwrap();
    assert_eq!(text(run(&["key", "fingerprint", public.to_str().unwrap()]).stdout), fingerprint);

    // A key that is there is not written over.
    let key = fs::read(&path).unwrap();
    let again = run(&["genkey", "--raw-public-key", "--out", file]);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(again.stderr).contains("router.pem: File exists"));
    assert_eq!(fs::read(&path).unwrap(), key);

    let printed = run(&["genkey", "--raw-public-key"]);
    let other = dir.path().join("other.pem");
    fs::write(&other, &printed.stdout).unwrap();
    let shown = text(run(&["key", "fingerprint", other.to_str().unwrap()]).stdout);
    assert!(text(printed.stderr).ends_with(&shown) && shown != fingerprint);

    fs::write(&other, "no key").unwrap();
    let refused = run(&["key", "fingerprint", other.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(refused.stderr).contains("there is no key or certificate in it"));
}

fn status(states: &[&str]) -> Value {
    let neighbors: Vec<_> = states
        .iter()
        .enumerate()
        .map(|(number, state)| {
            json!({
                "peer": format!("192.0.2.{number}"), "state": state, "reason": null,
                "key_management": "implicit", "algorithm": "hmac-sha-1-96", "send_id": 1, "recv_id": 1,
                "tcp_options": "include", "port": 179, "ttl_security": null, "forwarded": [], "unauthenticated": "drop", "on_unprotected": "report", "kmp": null,
                "sessions": 0, "open_sessions": 0, "displaced_sessions": 0, "counters": counters(),
                "last_drop": null
            })
        })
        .collect();
    json!({ "answer": "status", "value": {
        "agent": {
            "version": "0.1.0", "instance": "cli-test", "pid": 1, "uptime_seconds": 1,
            "config_file": "/etc/tcpauth/cli-test.toml", "reload_error": null, "keep_error": null, "sessions": 0,
            "held_segments": 0, "overload": 0, "no_memory": 0, "lane_dropped": 0, "key_log": null,
            "sockets_error": null, "unsaved": false, "unconfigured": []
        },
        "interfaces": [],
        "neighbors": neighbors
    } })
}

fn session() -> Value {
    json!({
        "neighbor": "192.0.2.1", "local": "192.0.2.2:40000", "peer": "192.0.2.1:179",
        "state": "established", "key_management": "implicit", "algorithm": "hmac-sha-1-96",
        "keys": "chain", "keys_age_seconds": 1, "phase": "open", "accepted_ids": [1],
        "send_id": 1, "recv_id": 1, "local_isn": 1, "peer_isn": 2, "send_sne": 0, "recv_sne": 0,
        "age_seconds": 1, "idle_seconds": 0, "counters": counters()
    })
}

fn counters() -> Value {
    json!({
        "signed_segments": 0, "signed_octets": 0, "verified_segments": 0, "verified_octets": 0,
        "unsigned_sent": 0, "unsigned_received": 0, "dropped": {}
    })
}
