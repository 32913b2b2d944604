//! Invariants of the systemd units, for systemd 252 and later.

use std::{fs, path::Path, process::Command};

const UNITS: [&str; 2] = ["tcpauthd.service", "tcpauthd@.service"];

fn text(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/systemd").join(name)).unwrap()
}

/// The values of `key` in `section`, in order.
fn values(name: &str, section: &str, key: &str) -> Vec<String> {
    let mut current = String::new();
    let mut found = Vec::new();
    for line in text(name).lines().map(str::trim) {
        if let Some(header) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            current = header.to_owned();
        } else if let Some((name, value)) = line.split_once('=')
            && current == section
            && name == key
        {
            found.push(value.to_owned());
        }
    }
    found
}

#[test]
fn systemd_never_changes_the_group_of_the_control_socket() {
    for unit in UNITS {
        for key in ["RuntimeDirectory", "RuntimeDirectoryMode", "RuntimeDirectoryPreserve", "User", "Group"] {
            assert_eq!(values(unit, "Service", key), [""; 0], "{unit}: {key}");
        }
        assert_eq!(values(unit, "Service", "UMask"), ["0077"], "{unit}");
        let capabilities = values(unit, "Service", "CapabilityBoundingSet").join(" ");
        assert!(
            capabilities.split(' ').any(|one| one == "CAP_CHOWN"),
            "{unit}: the daemon gives it its group"
        );
    }
}

#[test]
fn the_daemon_is_restarted_for_ever() {
    for unit in UNITS {
        assert_eq!(values(unit, "Unit", "StartLimitIntervalSec"), ["0"], "{unit}");
        assert_eq!(values(unit, "Service", "Restart"), ["on-failure"], "{unit}");
        assert_eq!(values(unit, "Service", "RestartPreventExitStatus"), [""; 0], "{unit}");
    }
}

#[test]
fn a_kmp_port_below_1024_can_be_bound() {
    for unit in UNITS {
        let capabilities = values(unit, "Service", "CapabilityBoundingSet").join(" ");
        assert!(capabilities.split(' ').any(|one| one == "CAP_NET_BIND_SERVICE"), "{unit}");
    }
}

#[test]
fn stopping_the_daemon_removes_nothing() {
    for unit in UNITS {
        for key in ["ExecStop", "ExecStopPost", "PrivateTmp", "ProtectSystem", "ProtectHome"] {
            assert_eq!(values(unit, "Service", key), [""; 0], "{unit}: {key}");
        }
    }
}

#[test]
fn a_crash_of_tcpauthd_leaves_the_bgp_daemon_alone() {
    let drop_in = "after-tcpauthd.conf";
    for key in ["Requires", "BindsTo", "PartOf", "Requisite"] {
        assert_eq!(values(drop_in, "Unit", key), [""; 0], "{key}");
    }
    assert_eq!(values(drop_in, "Unit", "Wants"), ["tcpauthd.service"]);
    assert_eq!(values(drop_in, "Unit", "After"), ["tcpauthd.service"]);
    // Without this, the BGP daemon would start unprotected when tcpauthd cannot start.
    assert_eq!(values(drop_in, "Service", "ExecStartPre").len(), 1);
}

#[test]
fn systemd_takes_the_units() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    // Commands that exist here, because systemd looks for them.
    let runnable = |text: String| {
        text.replace("/usr/bin/tcpauthd", "/bin/true").replace("/usr/bin/tcpauth ", "/bin/true ")
    };
    UNITS.iter().for_each(|unit| write(unit, &runnable(text(unit))));
    write("bgp.service", "[Service]\nExecStart=/bin/sleep 1\n");
    write("bgp.service.d/tcpauthd.conf", &runnable(text("after-tcpauthd.conf")));
    let units = ["tcpauthd.service", "tcpauthd@blue.service", "bgp.service"];
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args(units.map(|unit| folder.path().join(unit)))
        .env("SYSTEMD_UNIT_PATH", format!("{}:", folder.path().display()))
        .output();
    let Ok(output) = output else {
        eprintln!("NOT RUN: systemd-analyze is not installed");
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    let about_ours: Vec<&str> =
        said.lines().filter(|line| line.contains("tcpauthd") || line.contains("bgp.service")).collect();
    assert!(output.status.success() && about_ours.is_empty(), "{said}");
}
