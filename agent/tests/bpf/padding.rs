//! An end of options before the header's end: what is put behind it would not be seen.

use tcpauth_common::option::kind;

use super::{
    connection::{ACK, Connection, LOCAL_ISN},
    lab::Lab,
    segment::Segment,
};

#[test]
fn the_option_never_stands_behind_the_end_of_options() {
    let connection = Connection::plain();
    let session = connection.session();
    let mut lab = Lab::with(&connection, Some(&session));
    let timestamps = [8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
    for (options, wanted) in [
        (vec![0; 4], vec![]),
        (vec![0; 24], vec![]),
        ([&timestamps[..], &[0, 0]].concat(), [&timestamps[..], &[1, 1]].concat()),
        ([&timestamps[..], &[1, 0]].concat(), [&timestamps[..], &[1, 1]].concat()),
        (vec![1, 1, 0, kind::AO], vec![]),
    ] {
        let ours = Segment { options, data: vec![1; 9], ..connection.outbound(ACK, LOCAL_ISN + 1) };
        let sealed = lab.sealed(&ours);
        assert!(connection.accepts(&session.slots[0].send, &sealed, 0));
        assert_eq!(sealed.options[..sealed.options.len() - 16], wanted);
        assert_eq!(sealed.data, ours.data);
    }
}
