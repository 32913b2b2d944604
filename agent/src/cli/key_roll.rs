//! `tcpauth key roll` and `tcpauth key refresh`: prefer a key, or agree on new ones, and follow how the sessions move
//! to it.

use std::{
    io::{self, IsTerminal},
    pin::pin,
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::{
    failure::Failure,
    human,
    output::{Output, print},
    watch::interrupted,
};
use crate::control::{
    client::Client,
    protocol::{Answer, KeyStatus, NeighborKeys, Request},
};

/// What to roll, and how long to follow it.
#[derive(clap::Args)]
pub struct RollArgs {
    /// The neighbor as in the configuration
    #[arg(value_name = "NEIGHBOR", required_unless_present = "all")]
    pub neighbor: Option<String>,
    /// Number of the key, as `key show` has it [default: the newest]
    #[arg(value_name = "KEY", conflicts_with = "all")]
    pub number: Option<u32>,
    /// Roll every neighbor to its newest key
    #[arg(long, conflicts_with = "neighbor")]
    pub all: bool,
    /// Wait at most so long for the sessions to move; 0 to return at once
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub wait: u32,
}

impl RollArgs {
    /// Have the daemon roll, then follow the sessions until all have moved, the time is over, or Ctrl-C.
    pub async fn run(self, client: &Client, output: Output) -> Result<(), Failure> {
        let request = Request::KeyRoll { peer: self.neighbor.clone(), number: self.number };
        Order { request, neighbor: self.neighbor, wait: self.wait, only_agreed: false }
            .carry_out(client, output)
            .await
    }
}

/// Whose keys to replace, and how long to follow it.
#[derive(clap::Args)]
pub struct RefreshArgs {
    /// A neighbor as in the configuration [default: all whose keys are agreed]
    #[arg(value_name = "NEIGHBOR")]
    pub neighbor: Option<String>,
    /// Wait at most so long for the sessions to move; 0 to return at once
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub wait: u32,
}

impl RefreshArgs {
    /// Have the daemon agree on new keys, then follow the sessions until all have moved, the time is over, or Ctrl-C.
    pub async fn run(self, client: &Client, output: Output) -> Result<(), Failure> {
        let request = Request::KeyRefresh { peer: self.neighbor.clone() };
        Order { request, neighbor: self.neighbor, wait: self.wait, only_agreed: true }
            .carry_out(client, output)
            .await
    }
}

/// What the daemon is to do, and whose sessions are followed then.
struct Order {
    request: Request,
    neighbor: Option<String>,
    /// Seconds; 0: they are not followed.
    wait: u32,
    /// Only those of neighbours whose keys are agreed.
    only_agreed: bool,
}

impl Order {
    async fn carry_out(mut self, client: &Client, output: Output) -> Result<(), Failure> {
        let start = Instant::now();
        let request = std::mem::replace(&mut self.request, Request::Status);
        let done = Answer::Done(client.order(request).await?);
        output.line(&done, |_| if let Answer::Done(done) = &done { done.clone() } else { String::new() })?;
        if self.wait == 0 {
            return Ok(());
        }
        let in_place = !output.json && io::stdout().is_terminal();
        let deadline = start + Duration::from_secs(self.wait.into());
        let keys = self.follow(client, in_place, start, deadline).await.inspect_err(|_| {
            if in_place {
                // The error stands on a line of its own. If that cannot be written, nor can the error.
                let _ = print("\n");
            }
        })?;
        let line_start = if in_place { REDRAW } else { "" };
        let result = Progress::of(&keys).result(start.elapsed());
        output.line(&Answer::Keys(keys), |_| format!("{line_start}{result}"))
    }

    async fn keys(&self, client: &Client) -> Result<Vec<NeighborKeys>, Failure> {
        let mut keys = client.keys(self.neighbor.clone()).await?;
        keys.retain(|neighbor| !self.only_agreed || neighbor.agreed.is_some());
        Ok(keys)
    }

    /// Ask until all sessions have moved, `deadline`, or Ctrl-C. What was answered last.
    async fn follow(
        &self,
        client: &Client,
        in_place: bool,
        start: Instant,
        deadline: Instant,
    ) -> Result<Vec<NeighborKeys>, Failure> {
        let mut interrupted = pin!(interrupted());
        let mut keys = self.keys(client).await?;
        loop {
            let progress = Progress::of(&keys);
            let left = deadline.saturating_duration_since(Instant::now());
            if progress.is_complete() || left.is_zero() {
                return Ok(keys);
            }
            if in_place {
                print(&format!("{REDRAW}{}", progress.line(start.elapsed())))?;
            }
            let again = async {
                sleep(PERIOD.min(left)).await;
                self.keys(client).await
            };
            keys = tokio::select! {
                biased;
                result = &mut interrupted => return result.map(|()| keys).map_err(Failure::from),
                again = again => again?,
            };
        }
    }
}

/// Time between two questions to the daemon.
const PERIOD: Duration = Duration::from_millis(250);
/// Back to the start of the terminal's line, and clear it.
const REDRAW: &str = "\r\x1b[K";
/// Said of sessions whose peer chooses when we send with the new key.
const NOTHING_LOST: &str = "nothing is lost: these sessions go on with their older key, and move by themselves once \
                            their peer has the new key and has rolled it too, and sends anything";
/// Said of sessions whose peer cannot choose.
const NO_KEY_ID: &str = "over TCP-MD5, and among keys that share an id, we may send with the new key already: nothing \
                         is lost if the peer has it; if not, add it there now";
/// Said of sessions whose keys are agreed.
const UNTIL_AGREED: &str = "nothing is lost: these sessions go on with the keys they have until new ones are agreed; \
                            `tcpauth status` tells what they wait for";
/// So many neighbours that are waited for are named.
const NAMED: usize = 10;

/// How far the sessions have moved.
struct Progress<'a> {
    rolled: u64,
    open: u64,
    /// Neighbours with sessions that have not moved yet.
    waiting: Vec<&'a NeighborKeys>,
}

impl<'a> Progress<'a> {
    fn of(neighbors: &'a [NeighborKeys]) -> Self {
        Self {
            rolled: neighbors.iter().map(|neighbor| neighbor.rolled_sessions).sum(),
            open: neighbors.iter().map(|neighbor| neighbor.open_sessions).sum(),
            waiting: neighbors.iter().filter(|neighbor| waiting_sessions(neighbor) > 0).collect(),
        }
    }

    fn is_complete(&self) -> bool {
        self.waiting.is_empty()
    }

    /// In one line; `elapsed` since the command began.
    fn line(&self, elapsed: Duration) -> String {
        let sessions = human::plural(self.open, "session");
        format!("rolled {} of {sessions}, {:.1} s", self.rolled, elapsed.as_secs_f64())
    }

    /// The last line, and what is waited for if not all have moved.
    fn result(&self, elapsed: Duration) -> String {
        if self.open == 0 {
            return "no session is open: there is nothing to wait for".to_owned();
        }
        let mut lines = vec![self.line(elapsed)];
        if self.is_complete() {
            return lines.remove(0);
        }
        lines.extend(self.waiting.iter().take(NAMED).map(|neighbor| format!("  {}", waits_for(neighbor))));
        if let more @ 1.. = self.waiting.len().saturating_sub(NAMED) {
            lines.push(format!("  and {} more: `tcpauth key show`", human::plural(more as u64, "neighbor")));
        }
        if self.waiting.iter().any(|neighbor| neighbor.agreed.is_some()) {
            lines.push(UNTIL_AGREED.to_owned());
        }
        // Without a preferred key there is no comfort.
        let asks = |neighbor: &&NeighborKeys| preferred(neighbor).map(|key| can_ask_for(key, &neighbor.keys));
        let by_chain = self.waiting.iter().copied().filter(|neighbor| neighbor.agreed.is_none());
        let asks: Vec<_> = by_chain.filter_map(|neighbor| asks(&neighbor)).collect();
        for (whether, said) in [(true, NOTHING_LOST), (false, NO_KEY_ID)] {
            if asks.contains(&whether) {
                lines.push(said.to_owned());
            }
        }
        lines.join("\n")
    }
}

/// Open sessions that do not use the preferred key in both directions yet.
fn waiting_sessions(neighbor: &NeighborKeys) -> u64 {
    neighbor.open_sessions.saturating_sub(neighbor.rolled_sessions)
}

fn preferred(neighbor: &NeighborKeys) -> Option<&KeyStatus> {
    neighbor.keys.iter().find(|key| key.preferred)
}

/// Whether each side can ask the other for `key` by its KeyID (RFC 5925 §6.1): TCP-MD5 has none, and one that
/// several of the neighbour's `keys` share names none of them. Then we begin to send with it unasked.
fn can_ask_for(key: &KeyStatus, keys: &[KeyStatus]) -> bool {
    let shares = |other: &KeyStatus| {
        other.number != key.number && (other.send_id == key.send_id || other.recv_id == key.recv_id)
    };
    key.algorithm != "md5" && !keys.iter().any(shares)
}

fn waits_for(neighbor: &NeighborKeys) -> String {
    let name = &neighbor.neighbor;
    let waiting = waiting_sessions(neighbor);
    let verb = if waiting == 1 { "waits" } else { "wait" };
    let sessions = human::plural(neighbor.open_sessions, "session");
    match preferred(neighbor) {
        _ if neighbor.agreed.is_some() => {
            format!("neighbor {name}: {waiting} of {sessions} {verb} for new keys to be agreed")
        }
        Some(key) => format!(
            "neighbor {name}: {waiting} of {sessions} {verb} for the peer (key {}: we send with it on {}, the peer on {})",
            key.number, key.sending_sessions, key.receiving_sessions
        ),
        None => format!("neighbor {name}: {waiting} of {sessions} {verb}: no key may be sent with now"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::samples;

    const ELAPSED: Duration = Duration::from_millis(3140);

    fn neighbor(name: &str, rolled_sessions: u64, open_sessions: u64) -> NeighborKeys {
        NeighborKeys { neighbor: name.to_owned(), rolled_sessions, open_sessions, ..samples::keys() }
    }

    #[test]
    fn sessions_of_all_neighbours_are_counted_together() {
        let neighbors = [neighbor("192.0.2.1", 312, 500), neighbor("192.0.2.2", 500, 500)];
        let progress = Progress::of(&neighbors);
        assert!(!progress.is_complete());
        assert_eq!(progress.line(ELAPSED), "rolled 812 of 1000 sessions, 3.1 s");
    }

    #[test]
    fn when_all_have_moved_there_is_nothing_more_to_say() {
        let neighbors = [neighbor("192.0.2.1", 1, 1), neighbor("192.0.2.2", 0, 0)];
        let progress = Progress::of(&neighbors);
        assert!(progress.is_complete());
        assert_eq!(progress.result(ELAPSED), "rolled 1 of 1 session, 3.1 s");
    }

    #[test]
    fn without_sessions_nothing_is_waited_for() {
        for neighbors in [&[][..], &[neighbor("192.0.2.1", 0, 0)]] {
            let progress = Progress::of(neighbors);
            assert!(progress.is_complete());
            assert_eq!(progress.result(ELAPSED), "no session is open: there is nothing to wait for");
        }
    }

    #[test]
    fn who_is_waited_for_is_named() {
        let mut closed = neighbor("192.0.2.7", 0, 1);
        closed.keys.clear();
        let neighbors = [neighbor("192.0.2.1", 312, 500), neighbor("192.0.2.2", 500, 500), closed];
        let expected = "\
rolled 812 of 1001 sessions, 3.1 s
  neighbor 192.0.2.1: 188 of 500 sessions wait for the peer (key 2: we send with it on 312, the peer on 400)
  neighbor 192.0.2.7: 1 of 1 session waits: no key may be sent with now
nothing is lost: these sessions go on with their older key, and move by themselves once their peer has the new key \
and has rolled it too, and sends anything";
        assert_eq!(Progress::of(&neighbors).result(ELAPSED), expected);
    }

    #[test]
    fn a_peer_that_cannot_be_asked_must_have_the_key() {
        let mut md5 = neighbor("192.0.2.1", 0, 1);
        for key in &mut md5.keys {
            "md5".clone_into(&mut key.algorithm);
        }
        let mut shared = neighbor("192.0.2.1", 0, 1);
        shared.keys[0].recv_id = shared.keys[1].recv_id;
        for unasked in [md5, shared] {
            let result = Progress::of(std::slice::from_ref(&unasked)).result(ELAPSED);
            assert!(result.ends_with(NO_KEY_ID) && !result.contains(NOTHING_LOST), "{result}");
            let both = [neighbor("192.0.2.2", 0, 1), unasked];
            let result = Progress::of(&both).result(ELAPSED);
            assert!(result.ends_with(&format!("{NOTHING_LOST}\n{NO_KEY_ID}")), "{result}");
        }
    }

    #[test]
    fn keys_that_are_agreed_are_waited_for_without_a_preferred_one() {
        let waiting = samples::agreed_keys();
        let result = Progress::of(std::slice::from_ref(&waiting)).result(ELAPSED);
        let expected = "\
rolled 1 of 3 sessions, 3.1 s
  neighbor 192.0.2.3: 2 of 3 sessions wait for new keys to be agreed
nothing is lost: these sessions go on with the keys they have until new ones are agreed; `tcpauth status` tells what \
they wait for";
        assert_eq!(result, expected);
        let both = [waiting, neighbor("192.0.2.1", 0, 1)];
        let result = Progress::of(&both).result(ELAPSED);
        assert!(result.ends_with(&format!("{UNTIL_AGREED}\n{NOTHING_LOST}")), "{result}");
    }

    #[test]
    fn a_neighbour_without_a_preferred_key_is_no_comfort() {
        let mut closed = neighbor("192.0.2.1", 0, 1);
        closed.keys.clear();
        let result = Progress::of(&[closed]).result(ELAPSED);
        assert!(result.ends_with("1 of 1 session waits: no key may be sent with now"), "{result}");
    }

    #[test]
    fn a_thousand_neighbours_do_not_fill_the_terminal() {
        let neighbors: Vec<_> = (0..1000).map(|number| neighbor(&format!("peer{number}"), 0, 1)).collect();
        let result = Progress::of(&neighbors).result(ELAPSED);
        assert_eq!(result.lines().count(), 1 + NAMED + 2);
        assert!(result.contains("\n  and 990 neighbors more: `tcpauth key show`\n"), "{result}");
    }
}
