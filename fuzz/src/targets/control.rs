//! Request lines on the control socket.

use std::path::Path;

use tcpauth::{
    config::{Config, Edit, KeyOwner},
    control::protocol::Request,
};
use zeroize::Zeroizing;

/// A configuration to which requests add.
const BEFORE: &str = "neighbor.\"192.0.2.1\".password = \"v61ne0qkel33&\"\n";

/// A line. What it asks to add goes into the running configuration, or is refused and changes nothing.
pub fn control(data: &[u8]) {
    let Ok(request) = serde_json::from_slice(data) else { return };
    let folder = Path::new("/nowhere");
    let mut config = Config::parse(BEFORE, &folder.join("fuzz.toml")).expect("it is valid");
    let Some(edit) = edit(request) else { return };
    match config.apply(&[edit], folder) {
        Ok(()) => drop(config.warnings()),
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert_eq!(config.neighbors.len(), 1, "nothing has changed");
        }
    }
}

/// What the daemon does for `request` to its configuration.
fn edit(request: Request) -> Option<Edit> {
    let owner = |peer: String| Some(KeyOwner::Neighbor(peer.parse().ok()?));
    Some(match request {
        Request::NeighborAdd { peer, toml } => Edit::AddNeighbor { peer, toml: Zeroizing::new(toml) },
        Request::NeighborRemove { peer } => Edit::RemoveNeighbor { peer: peer.parse().ok()? },
        Request::KeyAdd { peer, number, toml } => {
            Edit::SetKey { owner: owner(peer)?, number: number.unwrap_or(2), toml: Zeroizing::new(toml) }
        }
        Request::KeyRetire { peer, number, .. } => Edit::RemoveKey { owner: owner(peer)?, number },
        _ => return None,
    })
}

/// A request of each kind.
pub fn seeds() -> Vec<Vec<u8>> {
    let key = || "password = \"8jK_aax41mQe\"\nsend-lifetime = \"2027-03-01T00:00:00Z/\"".to_owned();
    let [here, there] = ["192.0.2.1", "2001:db8::1"].map(str::to_owned);
    let requests = [
        Request::Status,
        Request::Neighbors { peer: Some(here.clone()) },
        Request::NeighborAdd { peer: there, toml: key() + "\nalgorithm = \"aes-128-cmac-96\"\nport = 1179" },
        Request::NeighborRemove { peer: here.clone() },
        Request::Sessions,
        Request::KeyAdd { peer: here.clone(), number: Some(2), toml: key() },
        Request::KeyRoll { peer: None, number: None },
        Request::KeyRetire { peer: here, number: 0, force: true },
        Request::Events,
    ];
    requests.iter().map(|request| serde_json::to_vec(request).expect("it has a form")).collect()
}
