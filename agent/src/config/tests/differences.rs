//! How the running configuration differs from the file.

use super::*;

/// The differences between a file and what runs.
fn differences(file: &str, running: &str) -> Vec<String> {
    let written = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(written.path(), file).unwrap();
    let differences = good(running).differences(written.path());
    differences.unwrap_or_else(|errors| panic!("{errors}")).iter().map(Difference::to_string).collect()
}

const FILE: &str = r#"
# A comment.
[defaults]
port = 179
[key-chain.backbone]
key.1 = { password = "c-secret-1" }
key.2 = { password = "c-secret-2", send-lifetime = "never" }
[neighbor."192.0.2.1"]
key-chain = "backbone"
[neighbor."192.0.2.2"]
password = "n-secret-0"
key.1.password = "n-secret-1"
"#;

#[test]
fn each_difference_is_told_and_no_secret() {
    let running = r#"
        defaults = { port = 180, ttl-security = 1 }
        [key-chain.backbone]
        key.2 = { password = "c-secret-3", send-lifetime = "2026-12-01T00:00:00Z/" }
        key.3 = { password = "c-secret-4" }
        [key-chain.other]
        key.1 = { password = "c-secret-5" }
        [neighbor]
        "192.0.2.2" = { password-file = "/dev/null", key.1.password = "n-secret-1", forwarded = ["192.0.2.7"] }
        "2001:DB8::9" = { key-chain = "other", key.1.password = "n-secret-1" }
    "#;
    let written = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(written.path(), FILE).unwrap();
    // What is compared is the text: it need not be good.
    let text = Text::loaded(Zeroizing::new(running.to_owned()), true);
    let config = Config { text, ..Config::default() };
    let found: Vec<String> =
        config.differences(written.path()).unwrap().iter().map(Difference::to_string).collect();
    assert_eq!(
        found,
        [
            "~ defaults port: 179 → 180",
            "~ defaults ttl-security: not given → 1",
            "- key-chain.backbone key.1",
            "~ key-chain.backbone key.2: secret changed",
            "~ key-chain.backbone key.2 send-lifetime: \"never\" → \"2026-12-01T00:00:00Z/\"",
            "+ key-chain.backbone key.3",
            "+ key-chain.other",
            "- neighbor.\"192.0.2.1\"",
            "~ neighbor.\"192.0.2.2\": secret changed",
            "~ neighbor.\"192.0.2.2\" forwarded: not given → [\"192.0.2.7\"]",
            "+ neighbor.\"2001:db8::9\"",
        ]
    );
}

#[test]
fn what_is_only_written_in_another_way_is_no_difference() {
    assert_eq!(differences(FILE, FILE), [""; 0]);
    let other = "neighbor = { \"192.0.2.2/32\" = { password = 'n-secret-0', key.1 = { \"password\" = \"n-secret-1\" } }, \
                 \"192.0.2.1\".key-chain = \"backbone\" }\n[defaults]\nport = 0xb3\n[key-chain.backbone.key]\n\
                 1.password = \"c-secret-1\"\n[key-chain.backbone.key.2]\nsend-lifetime = \"never\"\npassword = \"c-secret-2\"\n";
    assert_eq!(differences(FILE, other), [""; 0]);
}

#[test]
fn a_value_that_may_be_a_misplaced_secret_is_not_shown() {
    let running = "neighbor.\"192.0.2.1\".password = \"n-secret-0\"";
    assert_eq!(
        differences(&format!("{running}\nneighbor.\"192.0.2.1\".pasword = \"v61ne0qkel33&\""), running),
        ["~ neighbor.\"192.0.2.1\" pasword: a value that is not shown → not given"]
    );
}

#[test]
fn a_file_that_is_not_toml_is_an_error() {
    let written = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(written.path(), "a b").unwrap();
    let error = good(FILE).differences(written.path()).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}:1:3: not TOML: ", written.path().display())), "{error}");
}

#[test]
fn the_fields_of_tls_are_told_one_by_one_in_any_form() {
    let file = "[neighbor.\"192.0.2.1\"]\npassword = \"n-secret-00\"\nkey-management = \"external\"\n\
                rekey-interval = 60\n[neighbor.\"192.0.2.1\".tls]\nidentity = \"router 1\"\n\
                suites = [\"TLS_AES_128_GCM_SHA256\"]\n";
    let running = |tls: &str| {
        format!(
            "neighbor.\"192.0.2.1\" = {{ password = \"n-secret-00\", key-management = \"external\", {tls} }}"
        )
    };
    assert_eq!(
        differences(
            file,
            &running(
                "rekey-interval = 60, tls = { identity = 'router 1', suites = ['TLS_AES_128_GCM_SHA256'] }"
            )
        ),
        [""; 0]
    );
    assert_eq!(
        differences(
            file,
            &running("tls.suites = ['TLS_AES_256_GCM_SHA384'], tls.peer-identity = 'router 2'")
        ),
        [
            "~ neighbor.\"192.0.2.1\" rekey-interval: 60 → not given",
            "~ neighbor.\"192.0.2.1\" tls.identity: \"router 1\" → not given",
            "~ neighbor.\"192.0.2.1\" tls.peer-identity: not given → \"router 2\"",
            "~ neighbor.\"192.0.2.1\" tls.suites: [\"TLS_AES_128_GCM_SHA256\"] → [\"TLS_AES_256_GCM_SHA384\"]",
        ]
    );
    // What is no field may be a secret in the wrong place.
    let misplaced = "[neighbor.\"192.0.2.1\"]\npassword = \"n-secret-00\"\nkey-management = \"external\"\n\
                     tls.password = \"v61ne0qkel33&\"";
    let running = running("tls = {}");
    assert_eq!(
        differences(misplaced, &running),
        ["~ neighbor.\"192.0.2.1\" tls.password: a value that is not shown → not given"]
    );
}
