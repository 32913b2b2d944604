//! Installing without starting services.

use std::{fs, io, os::unix::fs::PermissionsExt, path::Path};

use anyhow::{Context, Result};

/// Debian asks this program, if it is there, whether a service may be started.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// How ours is known, should an earlier run have been killed before it could remove it.
const MARK: &str = "# made by tcpauth's cargo xtask setup, removed at its end";

/// While this lives, packages that are installed do not start their services. A policy that the machine has
/// already is left alone, and decides.
pub struct NoServices {
    is_ours: bool,
}

impl NoServices {
    /// Puts the policy in place.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn begin() -> Result<Self> {
        match fs::read_to_string(POLICY) {
            Ok(text) if !text.contains(MARK) => return Ok(Self { is_ours: false }),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).context(POLICY),
        }
        // 101: the action is forbidden. Only starting is; a service that runs may be restarted by an upgrade.
        let script = format!("#!/bin/sh\n{MARK}\ncase \"$*\" in *' start'*) exit 101 ;; esac\nexit 0\n");
        let ours = Self { is_ours: true };
        fs::write(POLICY, script).context(POLICY)?;
        fs::set_permissions(Path::new(POLICY), fs::Permissions::from_mode(0o755)).context(POLICY)?;
        Ok(ours)
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.is_ours {
            let _ = fs::remove_file(POLICY);
        }
    }
}
