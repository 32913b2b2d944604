//! The configuration file.

use std::path::Path;

use tcpauth::config::Config;

/// The example, which has every field.
pub const EXAMPLE: &str = include_str!("../../../config/tcpauth.toml");

/// A text. What is wrong with it is said, with its place; what is right can be asked for.
pub fn config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match Config::parse(&text, Path::new("/nowhere/fuzz.toml")) {
        Ok(config) => {
            let _ = config.warnings();
            for neighbor in &config.neighbors {
                assert!(config.neighbor(&neighbor.peer.to_string()).is_some(), "it is found by its name");
            }
        }
        Err(errors) => assert!(!errors.to_string().is_empty()),
    }
}

/// The example, and each of its tables.
pub fn seeds() -> Vec<Vec<u8>> {
    let bare: String =
        EXAMPLE.lines().filter(|line| !line.starts_with('#')).flat_map(|line| [line, "\n"]).collect();
    let tables = bare.split("\n[").map(|table| format!("[{table}").into_bytes());
    tables.chain([bare.clone().into_bytes()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_valid_and_in_pieces() {
        let seeds = seeds();
        let whole = String::from_utf8(seeds.last().unwrap().clone()).unwrap();
        assert!(seeds.len() > 5 && Config::parse(&whole, Path::new("/nowhere/fuzz.toml")).is_ok());
    }
}
