//! Runs in the middle of other runs on the same CPU, as PREEMPT_RT allows: none works in the memory of another.

use tcpauth::keys::TcpOptions;
use tcpauth_common::{Algorithm, DropReason, layout::Counters};

use super::{
    connection::{ACK, Connection, Family, LOCAL_ISN, PEER_ISN, PSH_ACK, SYN},
    context::{Context, Verdict},
    lab::{Lab, octets},
    segment::Segment,
};

fn connections() -> impl Iterator<Item = Connection> {
    let families = [Family::V4, Family::V6].into_iter();
    families.flat_map(|family| {
        Algorithm::ALL
            .into_iter()
            .filter(|algorithm| *algorithm != Algorithm::Md5)
            .map(move |algorithm| Connection::new(family, algorithm, TcpOptions::Include))
    })
}

fn with_data(segment: Segment) -> Segment {
    Segment { data: (0..1000).map(|i| i as u8).collect(), ..segment }
}

/// Ours sealed, the neighbor's verified, a forged one refused, a SYN held.
fn exchange(lab: &mut Lab, connection: &Connection) {
    let session = connection.session();
    let sealed = lab.sealed(&with_data(connection.outbound(PSH_ACK, LOCAL_ISN + 1)));
    assert!(connection.accepts(&session.slots[0].send, &sealed, 0), "the MAC is of something else");
    let genuine =
        connection.sign(&session.slots[0].recv, with_data(connection.inbound(PSH_ACK, PEER_ISN + 1)), 0);
    assert_eq!(lab.verified(&genuine).data, genuine.data);
    let mut forged = genuine.frame();
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(lab.ingress(&forged).0, Verdict::Drop);
    let reason = lab.take_dropped().map(|dropped| dropped.reason);
    assert_eq!(reason, Some(DropReason::WrongMac as u8));
    let syn = Segment { source: (connection.local.ip(), 41000).into(), ..connection.outbound(SYN, 9) };
    assert_eq!(lab.seal(&syn.frame()).0, Verdict::Drop);
    assert_eq!(lab.take_held().map(|(_, frame)| frame), Some(syn.frame()));
}

#[test]
fn run_leaves_the_memory_of_those_in_whose_middle_it_is() {
    for connection in connections() {
        let mut lab = Lab::with(&connection, Some(&connection.session()));
        let mut preempted = Vec::new();
        while preempted.len() + 1 < lab.memory.elements() as usize {
            preempted.push(lab.memory.occupy(preempted.len() as u32));
            lab.put(&connection, &connection.session());
            lab.refill(connection.neighbor);
            exchange(&mut lab, &connection);
            for (number, octets) in preempted.iter().enumerate() {
                assert!(lab.memory.octets(number as u32) == *octets, "element {number} was written");
            }
            assert_eq!(lab.memory.busy().len(), preempted.len(), "the run keeps what it took");
        }
        (0..preempted.len() as u32).for_each(|number| lab.memory.free(number));
    }
}

#[test]
fn element_that_is_free_again_is_used_again() {
    let connection = Connection::plain();
    let mut lab = Lab::with(&connection, Some(&connection.session()));
    let octets = lab.memory.occupy(0);
    exchange(&mut lab, &connection);
    lab.memory.free(0);
    lab.put(&connection, &connection.session());
    exchange(&mut lab, &connection);
    assert!(lab.memory.octets(0)[8..] != octets[8..]);
}

#[test]
fn run_for_which_no_memory_is_left_drops_its_packet() {
    let connection = Connection::plain();
    let session = connection.session();
    let mut lab = Lab::with(&connection, Some(&session));
    let occupied: Vec<_> = (0..lab.memory.elements()).map(|number| lab.memory.occupy(number)).collect();
    let genuine = connection.signed(&session, ACK, PEER_ISN + 1).frame();
    let ours = connection.outbound(ACK, LOCAL_ISN + 1).frame();
    let before = lab.counters(connection.neighbor);
    let mut expected = Counters::default();
    for (program, frame) in [
        ("ingress", &genuine[..]),
        ("ingress_l3", &genuine[14..]),
        ("egress", &ours),
        ("egress_l3", &ours[14..]),
        ("seal", &ours),
    ] {
        let context = Context { ifindex: lab.ifindex, mark: lab.ifindex, ..Context::default() };
        assert_eq!(lab.run(program, context, frame).0, Verdict::Drop, "{program}");
        expected.dropped[DropReason::NoMemory as usize] += 1;
        assert_eq!(lab.counters(Counters::OF_NO_NEIGHBOR), expected, "{program}");
    }
    assert_eq!(lab.counters(connection.neighbor), before);
    assert!(lab.session(&connection).is_some_and(|after| octets(&after) == octets(&session)));
    assert!(lab.take_dropped().is_none() && lab.take_held().is_none());
    for (number, before) in (0..).zip(&occupied) {
        assert!(lab.memory.octets(number) == *before, "element {number} was written");
        lab.memory.free(number);
    }
    exchange(&mut lab, &connection);
}
