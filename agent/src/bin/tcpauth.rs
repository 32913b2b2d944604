//! The command `tcpauth`: see [`tcpauth::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    tcpauth::core_dump::forbid();
    tcpauth::cli::main()
}
