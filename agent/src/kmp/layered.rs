//! The handshake on the protected connection itself, before its first octet of data.
