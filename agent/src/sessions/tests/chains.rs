//! Handshakes of neighbours with several keys.
