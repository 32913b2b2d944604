//! Where the programs under test are.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Context, Result, anyhow};

use crate::process::run;

/// Environment variable that names the folder with `tcpauthd` and `tcpauth`.
pub const FOLDER_VARIABLE: &str = "TCPAUTH_BIN_DIR";

static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();

/// The programs in `folder` are the ones under test. Has no effect once one was asked for.
pub fn use_folder(folder: PathBuf) {
    let _ = FOLDER.set(Ok(folder));
}

/// The path of `tcpauthd` or `tcpauth`. Without [`FOLDER_VARIABLE`] they are built first, once.
///
/// # Errors
/// If they do not build.
pub fn binary(name: &str) -> Result<PathBuf> {
    let folder = FOLDER.get_or_init(|| folder().map_err(|error| format!("{error:#}")));
    let path = folder.as_ref().map_err(|error| anyhow!("{error}"))?.join(name);
    path.is_file().then_some(path.clone()).with_context(|| format!("{} is not there", path.display()))
}

/// Root of the workspace. What cargo says when it runs a program goes before what it said when it built it: a folder
/// `target` may have been copied from another checkout.
pub fn workspace() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let built = || env!("CARGO_MANIFEST_DIR").into();
        let package = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(built, PathBuf::from);
        package.parent().map_or("/".into(), Path::to_owned)
    })
}

/// Builds `tcpauthd` and `tcpauth` and gives their folder. Always the release profile: end-to-end tests,
/// demo and benchmarks run what is installed.
fn folder() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os(FOLDER_VARIABLE) {
        return Ok(folder.into());
    }
    let mut build = Command::new("cargo");
    build.current_dir(workspace()).args(["build", "--release", "--quiet", "-p", "tcpauth", "--bins"]);
    run(build)?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    Ok(workspace().join(target.unwrap_or("target".into())).join("release"))
}
