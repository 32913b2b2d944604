//! One daemon of several on a host: where its socket, its pins and its file are.

use std::path::PathBuf;

/// Name of a daemon's instance; one per network namespace. `default` unless `--instance` says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance(String);

/// Why a name cannot be an instance's.
#[derive(Debug, thiserror::Error)]
#[error("instance name {0:?}: use 1 to 32 letters, digits, '-' or '_'")]
pub struct InstanceNameError(String);

impl Instance {
    /// The instance's name.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Folder below bpffs that holds this instance's pinned maps, programs and links.
    pub fn pin_dir(&self) -> PathBuf {
        PathBuf::from("/sys/fs/bpf/tcpauth").join(&self.0)
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        PathBuf::from("/run/tcpauth").join(format!("{}.sock", self.0))
    }

    /// Where the running configuration is kept while it differs from its file.
    pub fn kept_config(&self) -> PathBuf {
        self.socket().with_extension("running.toml")
    }

    /// The configuration file if none is named: `/etc/tcpauth/tcpauth.toml`, or
    /// `/etc/tcpauth/NAME.toml` for another instance than `default`.
    pub fn config_file(&self) -> PathBuf {
        let name = if self.0 == "default" { "tcpauth" } else { &self.0 };
        PathBuf::from("/etc/tcpauth").join(format!("{name}.toml"))
    }
}

impl Default for Instance {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl std::str::FromStr for Instance {
    type Err = InstanceNameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if (1..=32).contains(&name.len()) && name.chars().all(legal) {
            Ok(Self(name.to_owned()))
        } else {
            Err(InstanceNameError(name.to_owned()))
        }
    }
}

impl std::fmt::Display for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
