//! The command `tcpauth`: see [`tcpauth::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    tcpauth::cli::main()
}
