//! Connections of native Linux with TCP-AO and TCP-MD5, whose segments verify: tests/vectors/.

use std::path::Path;

use tcpauth::{
    capture::{Frame, Frames},
    config::Config,
};

/// Capture files.
pub const FILES: [&[u8]; 3] = [
    include_bytes!("../../../tests/vectors/linux-ao/sha1-v4-ts1.pcap"),
    include_bytes!("../../../tests/vectors/linux-ao/cmac-v6-ts1.pcap"),
    include_bytes!("../../../tests/vectors/linux-md5/v4.pcap"),
];

/// Frames of a file that an input has room for.
const FRAMES: usize = 12;

/// The neighbours as either end of the captured connections has them.
const CONFIG: &str = r#"
neighbor."10.99.1.2" = { password = "topsecret-key-one", port = 1790, send-id = 61, recv-id = 84 }
neighbor."10.99.1.1" = { password = "topsecret-key-one", port = 1790, send-id = 84, recv-id = 61 }
[neighbor."fd99:1::2"]
password = "topsecret-key-one"
port = 1790
send-id = 61
recv-id = 84
algorithm = "aes-128-cmac-96"
[neighbor."fd99:1::1"]
password = "topsecret-key-one"
port = 1790
send-id = 84
recv-id = 61
algorithm = "aes-128-cmac-96"
[neighbor."192.0.2.2"]
password = "a password of TCP-MD5"
wire = "md5"
"#;

/// Configuration of both ends.
pub fn config() -> Config {
    Config::parse(CONFIG, Path::new("fuzz.toml")).expect("it is valid")
}

/// The first frames of a capture file.
pub fn frames(file: &[u8]) -> Vec<Frame> {
    Frames::new(file).into_iter().flatten().map_while(Result::ok).take(FRAMES).collect()
}
