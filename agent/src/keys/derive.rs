//! From a master key tuple to the keys of one connection (RFC 5925 §5.2).

use tcpauth_common::{
    Algorithm, Isn, Kdf, KeyId,
    kdf::{self, Context},
    layout::{KeyMaterial, KeySlot, Quartet, Session, SynKey},
    mac,
};
use zeroize::Zeroize;

use super::{Mkt, TcpOptions};

/// The other end's ISN while it is not known: that of a SYN without ACK.
const NO_ISN: Isn = Isn(0);

/// What our end is in a connection. Counts with [`Kdf::Isn`], which puts the client's ISN before the server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It sent the first SYN.
    Client,
    /// It answers one.
    Server,
}

impl Role {
    /// Our end's in `session`.
    pub fn of(session: &Session) -> Self {
        if session.flags & Session::CLIENT != 0 { Self::Client } else { Self::Server }
    }
}

impl Mkt {
    /// Key of our SYN without ACK: `Send_SYN_traffic_key` (RFC 5925 §3.2). Empty for TCP-MD5, which has no other
    /// for a SYN.
    pub fn syn_send(&self, quartet: &Quartet, local_isn: Isn) -> SynKey {
        self.syn_key(self.send_id, self.recv_id, &sent(quartet, local_isn, NO_ISN))
    }

    /// Key of the peer's SYN without ACK: `Receive_SYN_traffic_key` (RFC 5925 §3.2). Empty for TCP-MD5, which has no
    /// other for a SYN.
    pub fn syn_recv(&self, quartet: &Quartet, peer_isn: Isn) -> SynKey {
        self.syn_key(self.recv_id, self.send_id, &received(quartet, NO_ISN, peer_isn))
    }

    /// Keys of all other segments, both directions: `Send_other_traffic_key`, `Receive_other_traffic_key`
    /// (RFC 5925 §3.2). Those of TCP-MD5 are the password ([`mac::password`]), whatever the connection, and key SYNs
    /// too.
    pub fn traffic_slot(&self, quartet: &Quartet, local_isn: Isn, peer_isn: Isn, role: Role) -> KeySlot {
        let (sent, received) = (sent(quartet, local_isn, peer_isn), received(quartet, local_isn, peer_isn));
        let [send, recv] = match (self.algorithm, self.kdf, role) {
            (Algorithm::Md5, ..) => mac::password(self.master_key.octets()),
            (_, Kdf::Rfc5926, _) => [self.material(&sent), self.material(&received)],
            // One key for both directions.
            (_, Kdf::Isn | Kdf::None, Role::Client) => [self.material(&sent); 2],
            (_, Kdf::Isn | Kdf::None, Role::Server) => [self.material(&received); 2],
        };
        KeySlot { send, recv, ..self.empty_slot() }
    }

    /// KeyIDs, algorithm and flags of this tuple, with keys of zeros: a slot to be filled.
    pub fn empty_slot(&self) -> KeySlot {
        KeySlot {
            algorithm: self.algorithm as u8,
            send_id: self.send_id,
            recv_id: self.recv_id,
            flags: self.flags(),
            ..KeySlot::default()
        }
    }

    /// Whether options other than TCP-AO are left out of the MAC.
    pub fn excludes_options(&self) -> bool {
        self.tcp_options == TcpOptions::Exclude
    }

    fn syn_key(&self, key_id: KeyId, rnext_id: KeyId, context: &Context) -> SynKey {
        if self.algorithm == Algorithm::Md5 {
            return SynKey::default();
        }
        let material = self.material(context);
        SynKey { algorithm: self.algorithm as u8, key_id, rnext_id, flags: self.flags(), material }
    }

    fn flags(&self) -> u8 {
        if self.excludes_options() { KeySlot::EXCLUDE_OPTIONS } else { 0 }
    }

    fn material(&self, context: &Context) -> KeyMaterial {
        let mut key = kdf::traffic_key(self.kdf, self.algorithm, self.master_key.octets(), context);
        let material = mac::prepare(self.algorithm, key.octets());
        key.octets_mut().zeroize();
        material
    }
}

/// The context of segments we send.
fn sent(quartet: &Quartet, local_isn: Isn, peer_isn: Isn) -> Context {
    let local = (&quartet.local, quartet.local_port);
    let peer = (&quartet.peer, quartet.peer_port);
    Context::new(local, peer, local_isn, peer_isn)
}

/// The context of segments we receive.
fn received(quartet: &Quartet, local_isn: Isn, peer_isn: Isn) -> Context {
    let local = (&quartet.local, quartet.local_port);
    let peer = (&quartet.peer, quartet.peer_port);
    Context::new(peer, local, peer_isn, local_isn)
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::keys::MasterKey;

    fn mkt(algorithm: Algorithm, kdf: Kdf, tcp_options: TcpOptions) -> Mkt {
        Mkt {
            send_id: KeyId(61),
            recv_id: KeyId(84),
            algorithm,
            kdf,
            tcp_options,
            master_key: MasterKey::new(Zeroizing::new(b"testvector".to_vec())).unwrap(),
        }
    }

    fn every_way() -> impl Iterator<Item = (Kdf, Algorithm)> {
        Kdf::ALL.into_iter().flat_map(|kdf| Algorithm::TCP_AO.map(|algorithm| (kdf, algorithm)))
    }

    fn ends() -> (Quartet, Quartet) {
        let (a, b) = ([0x11; 16], [0x22; 16]);
        (
            Quartet { local: a, peer: b, local_port: 40000, peer_port: 179, scope: 0 },
            Quartet { local: b, peer: a, local_port: 179, peer_port: 40000, scope: 7 },
        )
    }

    #[test]
    fn what_one_end_sends_with_the_other_receives_with() {
        let (ours, theirs) = ends();
        for (kdf, algorithm) in every_way() {
            let mkt = mkt(algorithm, kdf, TcpOptions::Include);
            for (role, other) in [(Role::Client, Role::Server), (Role::Server, Role::Client)] {
                let here = mkt.traffic_slot(&ours, Isn(1), Isn(2), role);
                let there = mkt.traffic_slot(&theirs, Isn(2), Isn(1), other);
                assert_eq!(here.send.words, there.recv.words);
                assert_eq!(here.recv.words, there.send.words);
            }
            assert_eq!(
                mkt.syn_send(&ours, Isn(1)).material.words,
                mkt.syn_recv(&theirs, Isn(1)).material.words
            );
        }
    }

    #[test]
    fn every_key_of_a_connection_differs() {
        let (ours, _) = ends();
        for algorithm in Algorithm::TCP_AO {
            let mkt = mkt(algorithm, Kdf::Rfc5926, TcpOptions::Include);
            let slot = mkt.traffic_slot(&ours, Isn(1), Isn(2), Role::Client);
            let keys = [
                slot.send.words,
                slot.recv.words,
                mkt.syn_send(&ours, Isn(1)).material.words,
                mkt.syn_recv(&ours, Isn(2)).material.words,
                mkt.traffic_slot(&ours, Isn(2), Isn(1), Role::Client).send.words,
            ];
            for (i, key) in keys.iter().enumerate() {
                assert!(!keys[..i].contains(key), "{algorithm:?}: key {i} stands twice");
            }
        }
    }

    #[test]
    fn the_key_of_both_isns_is_one_for_both_directions_and_starts_from_the_client() {
        let (ours, theirs) = ends();
        for algorithm in Algorithm::TCP_AO {
            let mkt = mkt(algorithm, Kdf::Isn, TcpOptions::Include);
            let slot = mkt.traffic_slot(&ours, Isn(1), Isn(2), Role::Client);
            assert_eq!(slot.send.words, slot.recv.words);
            let context = Context::new((&ours.local, 40000), (&ours.peer, 179), Isn(1), Isn(2));
            let key = kdf::traffic_key(Kdf::Isn, algorithm, b"testvector", &context);
            assert_eq!(slot.send.words, mac::prepare(algorithm, key.octets()).words);
            // The other way round, whoever asks.
            let server = mkt.traffic_slot(&ours, Isn(1), Isn(2), Role::Server);
            assert_ne!(server.send.words, slot.send.words);
            assert_ne!(mkt.traffic_slot(&ours, Isn(1), Isn(3), Role::Client).send.words, slot.send.words);
            // Of a SYN the client is its sender.
            let syn = Context::new((&ours.local, 40000), (&ours.peer, 179), Isn(1), Isn(0));
            let key = kdf::traffic_key(Kdf::Isn, algorithm, b"testvector", &syn);
            for material in [mkt.syn_send(&ours, Isn(1)).material, mkt.syn_recv(&theirs, Isn(1)).material] {
                assert_eq!(material.words, mac::prepare(algorithm, key.octets()).words);
            }
        }
    }

    #[test]
    fn a_static_key_is_the_same_for_every_segment() {
        let (ours, theirs) = ends();
        for algorithm in Algorithm::TCP_AO {
            let mkt = mkt(algorithm, Kdf::None, TcpOptions::Include);
            let slot = mkt.traffic_slot(&ours, Isn(1), Isn(2), Role::Client);
            let other = mkt.traffic_slot(&theirs, Isn(3), Isn(4), Role::Server);
            let syn = mkt.syn_send(&ours, Isn(5)).material;
            for words in [slot.recv.words, other.send.words, other.recv.words, syn.words] {
                assert_eq!(words, slot.send.words, "{algorithm:?}");
            }
        }
    }

    #[test]
    fn a_slot_of_tcp_md5_is_the_password_and_its_syn_keys_are_empty() {
        let (ours, _) = ends();
        for kdf in Kdf::ALL {
            let mkt = mkt(Algorithm::Md5, kdf, TcpOptions::Include);
            let slot = mkt.traffic_slot(&ours, Isn(1), Isn(2), Role::Client);
            let [send, recv] = mac::password(b"testvector");
            assert_eq!((slot.send.words, slot.recv.words), (send.words, recv.words));
            assert_eq!(mkt.syn_send(&ours, Isn(1)).algorithm, 0);
            assert_eq!(mkt.syn_recv(&ours, Isn(1)).algorithm, 0);
        }
    }

    #[test]
    fn a_slot_carries_the_ids_and_flags() {
        let slot = mkt(Algorithm::Aes128Cmac96, Kdf::Rfc5926, TcpOptions::Exclude).empty_slot();
        assert_eq!((slot.algorithm, slot.send_id, slot.recv_id, slot.flags), (2, KeyId(61), KeyId(84), 1));
        assert_eq!(slot.send.words, [0; 16]);
        assert_eq!(mkt(Algorithm::Aes128Cmac96, Kdf::Rfc5926, TcpOptions::Include).empty_slot().flags, 0);
    }
}
