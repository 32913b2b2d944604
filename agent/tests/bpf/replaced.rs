//! Sessions that go while a program works with them. Their elements of the map are the next sessions' at once.

use std::{
    net::SocketAddr,
    os::fd::AsFd,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use tcpauth::keys::TcpOptions;
use tcpauth_common::{Algorithm, layout::Session};

use super::{
    connection::{Connection, Family, LOCAL_ISN, PEER_ISN, PSH_ACK},
    context::Context,
    lab::{Lab, program},
    segment::Segment,
};

const SEGMENTS: u32 = 20_000;

#[test]
fn segment_of_a_session_that_goes_moves_no_other() {
    let connection = Connection::new(Family::V4, Algorithm::HmacSha256_128, TcpOptions::Include);
    let session = connection.session();
    let other = Connection { local: SocketAddr::new(connection.local.ip(), 41_000), ..connection.clone() };
    let of_other =
        Session { send_seq: 7 << 32, recv_seq: 9 << 32, last_segment: 0, ..other.session_from(3, 4) };
    let data = vec![0xa5; 1400];
    let ours = Segment { data: data.clone(), ..connection.outbound(PSH_ACK, LOCAL_ISN + 1) }.frame();
    let theirs = Segment { data, ..connection.inbound(PSH_ACK, PEER_ISN + 1) };
    let theirs = connection.sign(&session.slots[0].recv, theirs, 0).frame();
    do_not_wait_for_others();
    for (name, frame) in [("seal", ours), ("ingress", theirs)] {
        let mut lab = Lab::with(&connection, Some(&session));
        let context = Context { ifindex: lab.ifindex, mark: lab.ifindex, ..Context::default() };
        let running = program(lab.ebpf(), name).fd().unwrap().as_fd().try_clone_to_owned().unwrap();
        let done = AtomicBool::new(false);
        let (replaced, moved) = thread::scope(|scope| {
            let traffic = scope.spawn(|| {
                do_not_wait_for_others();
                for _ in 0..SEGMENTS {
                    context.run(running.as_fd(), &frame).unwrap();
                }
                done.store(true, Ordering::Release);
            });
            let (mut replaced, mut moved) = (0, 0);
            while !done.load(Ordering::Acquire) && !traffic.is_finished() {
                lab.remove(&connection);
                lab.put(&other, &of_other);
                for _ in 0..10 {
                    let now = lab.session(&other).unwrap();
                    if (now.send_seq, now.recv_seq, now.last_segment) != (7 << 32, 9 << 32, 0) {
                        moved += 1;
                        break;
                    }
                }
                lab.remove(&other);
                lab.put(&connection, &session);
                // Long enough for a run to begin, in most rounds.
                (0..replaced % 8).for_each(|_| assert!(lab.session(&connection).is_some()));
                replaced += 1;
            }
            traffic.join().unwrap();
            (replaced, moved)
        });
        assert!(replaced > 100, "{name}: only {replaced} times");
        // A tenth of a microsecond is left in which nobody can tell. Without a check it is half of them.
        assert!(moved * 10 <= replaced, "{name}: {moved} of {replaced} sessions were moved");
    }
}

/// Puts the calling thread before those of other programs: on a busy machine two threads seldom run at the same time.
fn do_not_wait_for_others() {
    let priority = libc::sched_param { sched_priority: 1 };
    // SAFETY: the parameter outlives the call, which is about the calling thread.
    let set = unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &raw const priority) };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}
