//! The layouts of [`tcpauth_common::layout`] as aya wants them: plain data.

use aya::Pod;
use tcpauth_common::layout::{
    Bucket, Counters, Dropped, Held, KeyChange, PeerRule, Policy, Quartet, Session, Settings, VlanTag,
};
use tcpauth_common::tcp_socket::{TcpSocket, TcpSocketOffsets};

/// A key or value of a map; a type of our own because neither `Pod` nor the layouts are ours here.
#[repr(transparent)]
#[derive(Clone, Copy, Default)]
pub(super) struct Value<T>(pub T);

/// Plain data: every bit pattern is a value, and there is no padding that is not named.
///
/// # Safety
/// The implementing type must be `repr(C)` and made of integers (or such types) only.
pub(super) unsafe trait Plain: Copy + 'static {}

macro_rules! plain {
    ($($layout:ty),* $(,)?) => {$(
        // SAFETY: `repr(C)`, integers and arrays of them throughout.
        unsafe impl Plain for $layout {}
    )*};
}
plain!(Bucket, Counters, Dropped, Held, KeyChange, PeerRule, Policy, Quartet, Session, Settings, VlanTag);
plain!(TcpSocket, TcpSocketOffsets);

// SAFETY: `Plain` is what `Pod` asks for, and the wrapper is transparent.
unsafe impl<T: Plain> Pod for Value<T> {}

/// The octets of a value, where it is: no copy of a secret is made.
pub(super) fn octets<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: plain data without hidden padding, borrowed as long as the octets are.
    unsafe { std::slice::from_raw_parts((&raw const *value).cast(), size_of::<T>()) }
}

/// The head of a record, if the record is long enough, and the octets after it.
pub(super) fn split_head<T: Plain>(record: &[u8]) -> Option<(T, &[u8])> {
    let (head, rest) = record.split_at_checked(size_of::<T>())?;
    // SAFETY: `head` has the size of T, any bits are a T, and the read does not ask for alignment.
    Some((unsafe { head.as_ptr().cast::<T>().read_unaligned() }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_split_at_any_alignment() {
        let held = Held { frame_len: 3, ifindex: 7, ..Held::default() };
        let octets = octets(&held);
        let mut record = vec![0xff];
        record.extend_from_slice(octets);
        record.extend_from_slice(b"abc");
        let (head, rest) = split_head::<Held>(&record[1..]).unwrap();
        assert_eq!(head, held);
        assert_eq!(rest, b"abc");
        assert!(split_head::<Held>(&octets[1..]).is_none());
    }
}
