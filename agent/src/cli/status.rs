//! `tcpauth status`: the daemon, its interfaces and neighbours.

use std::process::ExitCode;

use super::{
    counts,
    failure::{Failure, NEIGHBOR_FAILING},
    human, kmp,
    output::Output,
    table::{Block, Cell, Colour, Paint, Table},
};
use crate::control::{
    client::{Client, VERSION},
    protocol::{AgentStatus, InterfaceStatus, NeighborStatus, Status},
    words::{NeighborState, SessionState},
};

/// Show the status. The exit code says whether a neighbour is failing or closed.
pub async fn run(client: &Client, output: Output) -> Result<ExitCode, Failure> {
    let status = client.status().await?;
    output.result(&status, |colour| text(&status, colour))?;
    Ok(exit_code(&status))
}

/// In which color a neighbor's state is shown.
pub fn paint_of_neighbor(state: &NeighborState) -> Paint {
    match state {
        NeighborState::Established => Paint::Good,
        NeighborState::Failing | NeighborState::Unprotected | NeighborState::Closed => Paint::Bad,
        NeighborState::Unsigned | NeighborState::Connecting | NeighborState::Other(_) => Paint::Warn,
        NeighborState::Idle => Paint::Plain,
    }
}

/// In which color a session's state is shown.
pub fn paint_of(state: &SessionState) -> Paint {
    match state {
        SessionState::Established => Paint::Good,
        SessionState::Failed => Paint::Bad,
        SessionState::SynSent | SessionState::SynReceived | SessionState::Handshake => Paint::Warn,
        SessionState::Adopted | SessionState::Closing | SessionState::Closed | SessionState::Other(_) => {
            Paint::Plain
        }
    }
}

/// Whether an operator has to look at a neighbor. One in a state that this version does not know counts as such,
/// because it may be a bad one.
fn is_in_trouble(neighbor: &NeighborStatus) -> bool {
    match neighbor.state {
        NeighborState::Failing
        | NeighborState::Closed
        | NeighborState::Unprotected
        | NeighborState::Other(_) => true,
        NeighborState::Idle
        | NeighborState::Connecting
        | NeighborState::Established
        | NeighborState::Unsigned => false,
    }
}

fn exit_code(status: &Status) -> ExitCode {
    if status.neighbors.iter().any(is_in_trouble)
        || status.interfaces.iter().any(|interface| interface.failing)
        || !status.agent.unconfigured.is_empty()
    {
        NEIGHBOR_FAILING.into()
    } else {
        ExitCode::SUCCESS
    }
}

fn text(status: &Status, colour: Colour) -> String {
    [
        agent(&status.agent).render(colour),
        if status.interfaces.is_empty() {
            "no interfaces\n".to_owned()
        } else {
            interfaces(&status.interfaces).render(colour)
        },
        if status.neighbors.is_empty() {
            "no neighbors are configured\n".to_owned()
        } else {
            neighbors(&status.neighbors).render(colour)
        },
    ]
    .join("\n")
}

fn agent(agent: &AgentStatus) -> Block {
    let uptime = human::duration(agent.uptime_seconds);
    let mut block = Block::new(format!(
        "tcpauthd {}, instance {}, pid {}, up {uptime}",
        agent.version, agent.instance, agent.pid
    ));
    if agent.version != VERSION {
        let advice =
            format!("tcpauth is {VERSION}: restart tcpauthd, or use the tcpauth that was installed with it");
        block.painted_field("other version", Paint::Warn, advice);
    }
    block.field("config", &agent.config_file);
    if let Some(error) = &agent.reload_error {
        block.painted_field("reload refused", Paint::Bad, error);
    }
    if let Some(error) = &agent.keep_error {
        block.painted_field("NOT KEPT", Paint::Bad, error);
    }
    if agent.unsaved {
        let advice = "changes made by command; `tcpauth config diff` shows them, `config write` or `config discard` ends it";
        block.painted_field("unsaved", Paint::Warn, advice);
    }
    if !agent.unconfigured.is_empty() {
        let missing = format!(
            "{}: protected before and not in the configuration; sessions go on, new ones do not come up; configure, or \
             `tcpauth neighbor remove`",
            agent.unconfigured.join(", ")
        );
        block.painted_field("NOT CONFIGURED", Paint::Bad, missing);
    }
    if let Some(file) = &agent.key_log {
        let warning =
            format!("agreed keys are written in clear to {file}: whoever reads it can forge segments");
        block.painted_field("KEY LOG", Paint::Bad, warning);
    }
    block.field("sessions", agent.sessions.to_string());
    if let Some(error) = &agent.sockets_error {
        let text = format!("{error}: connections that get past the programs are not found");
        block.painted_field("sockets", Paint::Bad, text);
    }
    block.field("held since start", human::plural(agent.held_segments, "segment"));
    if agent.overload > 0 {
        let lost = format!("{} lost, a ring buffer was full", human::plural(agent.overload, "record"));
        block.painted_field("overload", Paint::Bad, lost);
    }
    if agent.no_memory > 0 {
        let lost = format!(
            "{} dropped, programs of one CPU were preempted too often",
            human::plural(agent.no_memory, "packet")
        );
        block.painted_field("no memory", Paint::Bad, lost);
    }
    if agent.lane_dropped > 0 {
        let lost = format!(
            "{} on the way to be signed, a queue was full",
            human::plural(agent.lane_dropped, "frame")
        );
        block.painted_field("lost", Paint::Warn, lost);
    }
    block
}

fn interfaces(interfaces: &[InterfaceStatus]) -> Table {
    let mut table = Table::new(&["INTERFACE", "INDEX", "MTU", "PROGRAMS"]);
    for interface in interfaces {
        let how = interface.attached.as_str();
        let attached = matches!(how, "tcx" | "clsact") || how.starts_with("by ");
        let paint = match attached {
            _ if interface.failing => Paint::Bad,
            true => Paint::Good,
            false => Paint::Warn,
        };
        table.row(
            vec![
                Cell::text(&interface.name),
                Cell::quantity(interface.index),
                Cell::quantity(interface.mtu),
                Cell::text(&interface.attached).painted(paint),
            ],
            vec![],
        );
    }
    table
}

fn neighbors(neighbors: &[NeighborStatus]) -> Table {
    let mut table = Table::new(&["NEIGHBOR", "STATE", "SESSIONS", "SIGNED", "VERIFIED", "DROPPED"]);
    for neighbor in neighbors {
        let counters = &neighbor.counters;
        let dropped: u64 = counters.dropped.values().sum();
        let paint = paint_of_neighbor(&neighbor.state);
        table.row(
            vec![
                Cell::text(&neighbor.peer),
                Cell::text(neighbor.state.as_str()).painted(paint),
                Cell::quantity(neighbor.open_sessions),
                Cell::quantity(counters.signed_segments),
                Cell::quantity(counters.verified_segments),
                Cell::quantity(dropped),
            ],
            notes(neighbor, paint),
        );
    }
    table
}

/// Below a neighbour: why it is not established, and what was dropped.
fn notes(neighbor: &NeighborStatus, paint: Paint) -> Vec<(Paint, String)> {
    let reason = neighbor.reason.iter().map(|reason| (paint, reason.clone()));
    let dropped = counts::dropped(&neighbor.counters).map(|dropped| format!("dropped: {dropped}"));
    let last = neighbor.last_drop.iter().map(|last| format!("last drop: {}", counts::last_drop(last)));
    let fallback = neighbor.kmp.iter().filter_map(kmp::fallback_in_use).map(|line| (Paint::Warn, line));
    reason.chain(fallback).chain(dropped.into_iter().chain(last).map(|line| (Paint::Plain, line))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::samples;

    #[test]
    fn status_reads_well() {
        let expected = "\
tcpauthd 0.1.0, instance default, pid 812, up 3h5m
  config:           /etc/tcpauth/tcpauth.toml
  sessions:         2
  held since start: 4 segments

INTERFACE  INDEX   MTU  PROGRAMS
eth0           2  1500  tcx
wg0            7  1420  not an Ethernet link

NEIGHBOR         STATE        SESSIONS  SIGNED  VERIFIED  DROPPED
192.0.2.1        established         1    1204      1199        0
192.0.2.9        failing             0       0         0       15
  wrong MAC: the password differs at the two ends
  dropped: wrong-mac 12, no-option 3
  last drop: wrong-mac, inbound, 3s ago, 192.0.2.9:40000 > 192.0.2.2:179
2001:db8:1::/64  idle                0       0         0        0
";
        assert_eq!(text(&samples::status(), Colour::Off), expected);
    }

    #[test]
    fn troubles_of_the_agent_are_shown() {
        let mut status = samples::status();
        status.agent.reload_error = Some(
            "tcpauth.toml:3:1: unknown field `pasword`\ntcpauth.toml:4:1: unknown field `prot`".to_owned(),
        );
        status.agent.keep_error =
            Some("/run/tcpauth/default.running.toml: No space left on device".to_owned());
        status.agent.overload = 1;
        status.agent.no_memory = 2;
        status.agent.lane_dropped = 2;
        status.agent.sockets_error = Some("netlink: cannot list TCP sockets: no such file".to_owned());
        status.agent.key_log = Some("/tmp/keys.log".to_owned());
        status.interfaces.clear();
        status.neighbors.clear();
        let expected = "\
tcpauthd 0.1.0, instance default, pid 812, up 3h5m
  config:           /etc/tcpauth/tcpauth.toml
  reload refused:   tcpauth.toml:3:1: unknown field `pasword`
                    tcpauth.toml:4:1: unknown field `prot`
  NOT KEPT:         /run/tcpauth/default.running.toml: No space left on device
  KEY LOG:          agreed keys are written in clear to /tmp/keys.log: whoever reads it can forge segments
  sessions:         2
  sockets:          netlink: cannot list TCP sockets: no such file: connections that get past the programs are not \
                    found
  held since start: 4 segments
  overload:         1 record lost, a ring buffer was full
  no memory:        2 packets dropped, programs of one CPU were preempted too often
  lost:             2 frames on the way to be signed, a queue was full

no interfaces

no neighbors are configured
";
        assert_eq!(text(&status, Colour::Off), expected);
    }

    #[test]
    fn keys_of_the_password_for_want_of_agreed_ones_are_loud() {
        let mut status = samples::status();
        let mut neighbor = samples::kmp_neighbor();
        if let Some(kmp) = &mut neighbor.kmp {
            (kmp.fallback, kmp.fallback_sessions) = ("implicit".to_owned(), 1);
        }
        status.neighbors = vec![neighbor];
        let shown = text(&status, Colour::On);
        let expected = "\x1b[33mfallback: 1 session has keys derived from the password: no keys could be agreed\x1b[0m\n";
        assert!(shown.contains(expected), "{shown}");
    }

    #[test]
    fn a_failing_neighbor_shows_in_the_exit_code() {
        let mut status = samples::status();
        assert_eq!(exit_code(&status), ExitCode::from(4));
        status.neighbors.retain(|neighbor| neighbor.state != NeighborState::Failing);
        assert_eq!(exit_code(&status), ExitCode::SUCCESS);
    }

    #[test]
    fn an_interface_without_its_programs_shows_in_the_exit_code_and_in_red() {
        let mut status = samples::status();
        status.neighbors.truncate(1);
        status.interfaces[0].failing = true;
        status.interfaces[0].attached = "tcx, the program on egress is missing".to_owned();
        assert_eq!(exit_code(&status), ExitCode::from(4));
        let shown = text(&status, Colour::On);
        assert!(shown.contains("\x1b[31mtcx, the program on egress is missing\x1b[0m"), "{shown}");
    }

    #[test]
    fn an_unprotected_neighbor_shows_in_the_exit_code_and_in_red() {
        let mut status = samples::status();
        status.neighbors.truncate(1);
        status.neighbors[0].state = NeighborState::Unprotected;
        assert_eq!(exit_code(&status), ExitCode::from(4));
        let shown = text(&status, Colour::On);
        assert!(shown.contains("\x1b[31munprotected\x1b[0m"), "{shown}");
    }

    #[test]
    fn a_neighbor_without_a_valid_key_shows_in_the_exit_code_and_in_red() {
        let mut status = samples::status();
        status.neighbors.truncate(1);
        assert_eq!(exit_code(&status), ExitCode::SUCCESS);
        status.neighbors[0].state = NeighborState::Closed;
        assert_eq!(exit_code(&status), ExitCode::from(4));
        let shown = text(&status, Colour::On);
        assert!(shown.contains("\x1b[31mclosed\x1b[0m"), "{shown}");
    }
}
