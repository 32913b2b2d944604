//! Octets in order over segments that may be lost, repeated or reordered: what a TCP without options, congestion control
//! and close would do for the few thousand octets of a handshake.
