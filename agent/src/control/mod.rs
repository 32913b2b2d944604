//! The Unix socket between `tcpauthd` and `tcpauth`: one JSON object a line, each way.

pub mod client;
mod kmp;
pub mod protocol;
pub mod server;
pub mod words;
