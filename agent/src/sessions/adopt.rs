//! A connection that was up before it was protected: its session, from what the kernel counts of it.

use tcpauth_common::{Algorithm, Isn, layout::Session, tcp_socket::TcpSocket};

/// Octets of the longest authentication option: the key, and the algorithm with it, may change.
const MOST_ROOM: u32 = Algorithm::MOST_OPTION_LEN as u32;

/// Why a connection that is up is not taken over. It goes on only as its neighbour's `unauthenticated` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdoptError {
    /// The kernel's counts mean another ISN at the end that connected than at the one that accepted.
    #[error(
        "both ends use port {port}, so nobody can tell which end opened the connection; let the BGP daemon restart \
         this session, or let it connect from another port"
    )]
    BothPorts {
        /// The neighbour's port.
        port: u16,
    },
    /// The kernel puts an option of its own into every segment.
    #[error(
        "our BGP daemon has the kernel sign it (TCP-MD5 or TCP-AO), and segments that are signed twice or otherwise \
         do not pass: it ends at its hold time unless `tcpauth neighbor remove` comes before. Take the password from \
         the BGP daemons of both sides, which restarts the session, and then protect it"
    )]
    SignedByKernel,
}

/// The session of an established connection of a neighbour with `port`, without keys: what
/// [`plan`](super::plan()) needs is there.
///
/// The end with the neighbour's port accepted the connection, the other one opened it.
///
/// # Errors
/// [`AdoptError`].
pub fn adopt(socket: &TcpSocket, port: u16) -> Result<Session, AdoptError> {
    let accepted = match (socket.local_port == port, socket.peer_port == port) {
        (true, true) => return Err(AdoptError::BothPorts { port }),
        (accepted, _) => accepted,
    };
    if socket.is_signed != 0 {
        return Err(AdoptError::SignedByKernel);
    }
    // Of Linux: the SYN is among the octets acknowledged of a socket that connected; one that accepted was made
    // when its SYN had been acknowledged.
    let acknowledged = socket.bytes_acked + u64::from(accepted);
    let local_isn = Isn(socket.snd_una.wrapping_sub(acknowledged as u32));
    // SYN and data.
    let received = socket.bytes_received + 1;
    let peer_isn = Isn(socket.rcv_nxt.wrapping_sub(received as u32));
    let in_flight = socket.snd_nxt.wrapping_sub(socket.snd_una);
    let mut session = Session {
        flags: Session::LOCAL_ISN | Session::PEER_ISN | Session::ADOPTED,
        local_isn,
        peer_isn,
        send_seq: u64::from(local_isn.0) + acknowledged + u64::from(in_flight),
        recv_seq: u64::from(peer_isn.0) + received,
        local_ack: socket.rcv_nxt,
        local_window: socket.rcv_wnd,
        local_wscale: u32::from(socket.rcv_wscale),
        largest_segment: (socket.mss + u32::from(socket.header_len)).saturating_sub(MOST_ROOM),
        ..Session::default()
    };
    if accepted {
        session.flags |= Session::SYN_RECV;
        session.syn_recv_isn = peer_isn;
    } else {
        session.flags |= Session::CLIENT;
    }
    Ok(session)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the kernel says of a connection after so many octets.
    fn socket(
        local_isn: u32,
        peer_isn: u32,
        sent: u64,
        in_flight: u32,
        received: u64,
        accepted: bool,
    ) -> TcpSocket {
        let snd_una = local_isn.wrapping_add(1).wrapping_add(sent as u32);
        TcpSocket {
            bytes_received: received,
            bytes_acked: sent + u64::from(!accepted),
            local_port: if accepted { 179 } else { 40000 },
            peer_port: if accepted { 40000 } else { 179 },
            rcv_nxt: peer_isn.wrapping_add(1).wrapping_add(received as u32),
            snd_una,
            snd_nxt: snd_una.wrapping_add(in_flight),
            ..TcpSocket::default()
        }
    }

    proptest! {
        #[test]
        fn isns_and_extensions_are_those_the_connection_began_with(
            isns: (u32, u32), sent in 0..1_u64 << 40, received in 0..1_u64 << 40, in_flight in 0..1_u32 << 30,
            accepted: bool,
        ) {
            let socket = socket(isns.0, isns.1, sent, in_flight, received, accepted);
            let session = adopt(&socket, 179).unwrap();
            prop_assert_eq!((session.local_isn.0, session.peer_isn.0), isns);
            prop_assert_eq!(session.send_seq, u64::from(isns.0) + 1 + sent + u64::from(in_flight));
            prop_assert_eq!(session.recv_seq, u64::from(isns.1) + 1 + received);
            prop_assert_eq!(session.send_seq as u32, socket.snd_nxt);
            prop_assert_eq!(session.recv_seq as u32, socket.rcv_nxt);
            prop_assert_eq!(session.flags & Session::SYN_RECV != 0, accepted);
            prop_assert_eq!(session.flags & Session::CLIENT != 0, !accepted);
        }
    }

    #[test]
    fn a_connection_that_the_kernel_signs_is_refused() {
        for accepted in [false, true] {
            let socket = TcpSocket { is_signed: 1, ..socket(1, 2, 3, 0, 4, accepted) };
            assert_eq!(adopt(&socket, 179).err(), Some(AdoptError::SignedByKernel));
        }
    }

    #[test]
    fn a_connection_with_the_neighbours_port_at_both_ends_is_refused() {
        let socket = TcpSocket { local_port: 179, peer_port: 179, ..TcpSocket::default() };
        assert_eq!(adopt(&socket, 179).err(), Some(AdoptError::BothPorts { port: 179 }));
    }
}
