//! What becomes of a connection's keys, without any I/O: the data plane holds a segment for which it
//! lacks keys, and this decides which session serves it, or why it is refused.
//!
//! - [`on_held`]: a held segment comes, a session to install, a change of one or a reason to refuse goes.
//! - [`adopt()`]: the session of a connection that was up before it was protected.
//! - [`plan()`]: how the keys of a session that is up change, with its neighbour's chain or with time; [`half_open()`]:
//!   those of one that is not.
//! - [`with_agreed()`], [`roll_in()`], [`settle()`]: keys that were agreed with the peer's daemon, and follow no chain.
//! - [`identify()`], [`key_in_slot()`]: which key of the chain is where in a session.
//! - [`expiry()`]: when a session's entry in the map has served. [`Quota`]: how many entries a neighbor may have.
//! - [`Sizes`]: whether our stack leaves room for the option.
//!
//! With TCP-MD5 the keys do not depend on ISNs, and a session has them all from its first SYN on.
//!
//! An ISN is believed only from a segment whose MAC verified, or from our own end: a forged segment
//! leaves nothing behind (RFC 5925 §7.5 leaves this to implementers; several got it wrong).

use tcpauth_common::{
    DropReason,
    layout::{KeyChange, Session},
};

pub use adopt::{AdoptError, adopt};
pub use agreed::{AGREED_IDS, begun_with, free_key_id, free_key_id_beside, roll_in, settle, with_agreed};
pub use bypass::{Bypass, BypassWatch, Observation, SessionCount, SocketCount, Unprotected};
pub use clock::{Monotonic, Now};
pub use expiry::{Progress, Whereabouts, expiry, progress};
pub use half_open::half_open;
pub use handshake::our_syn_key;
pub use held::{HOLD_LIMIT, on_held};
pub use plan::{has_traffic_keys, identify, is_agreed, key_in_slot, plan};
pub use quota::{Admission, Full, Holder, Quota};
pub use room::{Sizes, largest_segment};
pub use segment::{Segment, Signature, address};

mod adopt;
mod agreed;
mod bypass;
mod clock;
mod expiry;
mod half_open;
mod handshake;
mod held;
mod plan;
mod quota;
mod room;
mod segment;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

/// What becomes of a held segment. Holds keys: no `Debug`.
pub enum Outcome {
    /// The session goes into the map, then the segment goes on.
    Install(Box<Session>),
    /// The session in the map, at which programs are at work, changes in its place; then the segment goes on.
    Change(Box<KeyChange>),
    /// The session in the map serves already (the segment was held twice): the segment goes on.
    Release,
    /// The segment is dropped, and nothing is installed.
    Refuse(DropReason),
}
