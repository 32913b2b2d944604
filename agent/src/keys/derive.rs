//! From a master key tuple to the keys of one connection (RFC 5925, 5.2).

use tcpauth_common::{
    Isn, Kdf, KeyId,
    kdf::{self, Context},
    layout::{KeyMaterial, KeySlot, Quartet, SynKey},
    mac,
};
use zeroize::Zeroize;

use super::{Mkt, TcpOptions};

/// The other end's ISN while it is not known: that of a SYN without ACK.
const NO_ISN: Isn = Isn(0);

impl Mkt {
    /// Key of our SYN without ACK: `Send_SYN_traffic_key`.
    pub fn syn_send(&self, quartet: &Quartet, local_isn: Isn) -> SynKey {
        self.syn_key(self.send_id, self.recv_id, self.sent(quartet, local_isn, NO_ISN))
    }

    /// Key of the peer's SYN without ACK: `Receive_SYN_traffic_key`.
    pub fn syn_recv(&self, quartet: &Quartet, peer_isn: Isn) -> SynKey {
        self.syn_key(self.recv_id, self.send_id, self.received(quartet, NO_ISN, peer_isn))
    }

    /// Keys of all other segments, both directions: `Send_other_traffic_key`, `Receive_other_traffic_key`.
    pub fn traffic_slot(&self, quartet: &Quartet, local_isn: Isn, peer_isn: Isn) -> KeySlot {
        KeySlot {
            send: self.sent(quartet, local_isn, peer_isn),
            recv: self.received(quartet, local_isn, peer_isn),
            ..self.empty_slot()
        }
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

    fn syn_key(&self, key_id: KeyId, rnext_id: KeyId, material: KeyMaterial) -> SynKey {
        SynKey { algorithm: self.algorithm as u8, key_id, rnext_id, flags: self.flags(), material }
    }

    fn flags(&self) -> u8 {
        if self.excludes_options() { KeySlot::EXCLUDE_OPTIONS } else { 0 }
    }

    fn sent(&self, quartet: &Quartet, local_isn: Isn, peer_isn: Isn) -> KeyMaterial {
        let local = (&quartet.local, quartet.local_port);
        let peer = (&quartet.peer, quartet.peer_port);
        self.material(&Context::new(local, peer, local_isn, peer_isn))
    }

    fn received(&self, quartet: &Quartet, local_isn: Isn, peer_isn: Isn) -> KeyMaterial {
        let local = (&quartet.local, quartet.local_port);
        let peer = (&quartet.peer, quartet.peer_port);
        self.material(&Context::new(peer, local, peer_isn, local_isn))
    }

    fn material(&self, context: &Context) -> KeyMaterial {
        match self.kdf {
            Kdf::Rfc5926 => {
                let mut key = kdf::traffic_key(self.algorithm, self.master_key.octets(), context);
                let material = mac::prepare(self.algorithm, key.octets());
                key.octets_mut().zeroize();
                material
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tcpauth_common::Algorithm;
    use zeroize::Zeroizing;

    use super::*;
    use crate::keys::MasterKey;

    fn mkt(algorithm: Algorithm, tcp_options: TcpOptions) -> Mkt {
        Mkt {
            send_id: KeyId(61),
            recv_id: KeyId(84),
            algorithm,
            kdf: Kdf::Rfc5926,
            tcp_options,
            master_key: MasterKey::new(Zeroizing::new(b"testvector".to_vec())).unwrap(),
        }
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
        for algorithm in Algorithm::ALL {
            let mkt = mkt(algorithm, TcpOptions::Include);
            let (here, there) =
                (mkt.traffic_slot(&ours, Isn(1), Isn(2)), mkt.traffic_slot(&theirs, Isn(2), Isn(1)));
            assert_eq!(here.send.words, there.recv.words);
            assert_eq!(here.recv.words, there.send.words);
            assert_eq!(
                mkt.syn_send(&ours, Isn(1)).material.words,
                mkt.syn_recv(&theirs, Isn(1)).material.words
            );
        }
    }

    #[test]
    fn every_key_of_a_connection_differs() {
        let (ours, _) = ends();
        for algorithm in Algorithm::ALL {
            let mkt = mkt(algorithm, TcpOptions::Include);
            let slot = mkt.traffic_slot(&ours, Isn(1), Isn(2));
            let keys = [
                slot.send.words,
                slot.recv.words,
                mkt.syn_send(&ours, Isn(1)).material.words,
                mkt.syn_recv(&ours, Isn(2)).material.words,
                mkt.traffic_slot(&ours, Isn(2), Isn(1)).send.words,
            ];
            for (i, key) in keys.iter().enumerate() {
                assert!(!keys[..i].contains(key), "{algorithm:?}: key {i} stands twice");
            }
        }
    }

    #[test]
    fn a_slot_carries_the_ids_and_flags() {
        let slot = mkt(Algorithm::Aes128Cmac96, TcpOptions::Exclude).empty_slot();
        assert_eq!((slot.algorithm, slot.send_id, slot.recv_id, slot.flags), (2, KeyId(61), KeyId(84), 1));
        assert_eq!(slot.send.words, [0; 16]);
        assert_eq!(mkt(Algorithm::Aes128Cmac96, TcpOptions::Include).empty_slot().flags, 0);
    }
}
