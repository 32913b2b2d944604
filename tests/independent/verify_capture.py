#!/usr/bin/python3
"""Verify the TCP-AO MAC, or the TCP-MD5 digest, of every segment in a pcap file.

Shares no code with tcpauth: it was written from RFC 5925, RFC 5926, draft-ietf-tcpm-tcp-ao-algs, RFC 2385, the paper
on SipHash and draft-rescorla-tcp-auth-arch-00, with the standard library's hmac and hashlib and, for AES-128-CMAC, the
package `cryptography` (Debian: python3-cryptography).
Beside the MACs it checks the IP header and TCP checksums and, with --mtu, the length of each packet.

With --key-log it knows the keys that two daemons agreed on for each connection, and says how many segments are under
such keys. With --layered it also reads the octets of each connection in their order: the handshake that establishes
it, TLS records, and then BGP, all of it under agreed keys.

The last line of output is
    segments N, verified N, failed N, without option N, bad checksum N
Exit status: 0 if there were segments, all verified, all checksums are right and so is the order; 1 if not; 2 for a file or an
argument that cannot be used.
"""

import argparse
import hashlib
import hmac
import ipaddress
import re
import struct
import sys
from dataclasses import dataclass, field

TCP, FRAGMENT = 6, 44
HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS = 0, 43, 60
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16


# --- Algorithms ---------------------------------------------------------------------------------------------


def aes_cmac(key, message):
    from cryptography.hazmat.primitives.ciphers.algorithms import AES
    from cryptography.hazmat.primitives.cmac import CMAC

    mac = CMAC(AES(key))
    mac.update(message)
    return mac.finalize()


def hmac_with(name):
    return lambda key, message: hmac.new(key, message, getattr(hashlib, name)).digest()


hmac_sha1, hmac_sha256 = hmac_with("sha1"), hmac_with("sha256")


def siphash_2_4(key, message):
    """SipHash-2-4 with 128 bits of output: 2 rounds a word, 4 at the end of each half."""
    mask = 2**64 - 1
    k0, k1 = struct.unpack("<QQ", key)
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D ^ 0xEE,
         k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]

    def rotated(value, bits):
        return (value << bits | value >> (64 - bits)) & mask

    def half_round(a, b, c, d, s, t):
        v[a], v[c] = (v[a] + v[b]) & mask, (v[c] + v[d]) & mask
        v[b], v[d] = rotated(v[b], s) ^ v[a], rotated(v[d], t) ^ v[c]
        v[a] = rotated(v[a], 32)

    def rounds(number):
        for _ in range(number):
            half_round(0, 1, 2, 3, 13, 16)
            half_round(2, 1, 0, 3, 17, 21)

    padded = message + bytes(7 - len(message) % 8) + bytes([len(message) % 256])
    for (word,) in struct.iter_unpack("<Q", padded):
        v[3] ^= word
        rounds(2)
        v[0] ^= word
    halves = []
    for index, constant in ((2, 0xEE), (1, 0xDD)):
        v[index] ^= constant
        rounds(4)
        halves.append(v[0] ^ v[1] ^ v[2] ^ v[3])
    return struct.pack("<QQ", *halves)


def as_it_is(master):
    return master


def condensed(prf, zero_key):
    """RFC 5926, 3.1.1.2: a master key of another length than 16 octets goes through the PRF first."""
    return lambda master: master if len(master) == 16 else prf(zero_key, master)[:16]


def counter_kdf(prf, octets):
    """RFC 5926, 3.1.1: one round of the PRF."""
    return lambda key, context: prf(key, b"\x01TCP-AO" + context + struct.pack("!H", octets * 8))[:octets]


def hkdf_sha256(master, context):
    """RFC 5869 with a salt of zeros, the context as info and one block of output."""
    return hmac_sha256(hmac_sha256(bytes(32), master), context + b"\x01")


@dataclass
class Algorithm:
    rfc5926: object  # the KDF of --kdf rfc5926, from a key of the PRF and a context
    prf: object  # keyed by the master key: the KDF of --kdf isn
    prf_key: object  # what the master key goes through to become a key of the PRF
    mac: object
    mac_key: object  # what the master key goes through to become a key of the MAC: --kdf none
    key_len: int
    mac_len: int  # on the wire

    def traffic_key(self, kdf, master, context):
        if kdf == "rfc5926":
            return self.rfc5926(self.prf_key(master), context)
        if kdf == "isn":
            return self.prf(self.prf_key(master), context)[:self.key_len]
        return self.mac_key(master)


condensed_by_aes, condensed_by_sha = condensed(aes_cmac, bytes(16)), condensed(hmac_sha256, bytes(32))

ALGORITHMS = {
    "hmac-sha-1-96": Algorithm(counter_kdf(hmac_sha1, 20), hmac_sha1, as_it_is, hmac_sha1, as_it_is, 20, 12),
    "aes-128-cmac-96":
        Algorithm(counter_kdf(aes_cmac, 16), aes_cmac, condensed_by_aes, aes_cmac, condensed_by_aes, 16, 12),
    "hmac-sha-256-96": Algorithm(counter_kdf(hmac_sha256, 32), hmac_sha256, as_it_is, hmac_sha256, as_it_is, 32, 12),
    "hmac-sha-256-128": Algorithm(hkdf_sha256, hmac_sha256, as_it_is, hmac_sha256, as_it_is, 32, 16),
    "siphash-2-4-96":
        Algorithm(counter_kdf(hmac_sha256, 16), hmac_sha256, as_it_is, siphash_2_4, condensed_by_sha, 16, 12),
}


@dataclass
class Key:
    """A master key tuple: how the MACs of segments with its KeyID come from its master key."""

    key_id: object  # None: any
    algorithm: str
    kdf: str
    master: bytes
    exclude_options: object = None  # None: as --exclude-options says

    def mac_len(self):
        return ALGORITHMS[self.algorithm].mac_len

    def mac(self, context, message):
        algorithm = ALGORITHMS[self.algorithm]
        return algorithm.mac(algorithm.traffic_key(self.kdf, self.master, context), message)[:algorithm.mac_len]


# --- Keys of single connections -----------------------------------------------------------------------------


@dataclass
class Agreed:
    """Keys that two daemons agreed on for one connection."""

    local: tuple  # (address, port) of the end whose daemon wrote the log
    peer: tuple
    client_isn: int
    server_isn: object  # None: the server had none yet
    key_of: dict  # end that sends: Key

    def is_of(self, source, destination, client_isn, server_isn):
        return ({source, destination} == {self.local, self.peer} and client_isn == self.client_isn
                and self.server_isn in (None, server_isn))


def read_key_log(text):
    """Lines `LOCAL PEER client-isn server-isn algorithm send-id recv-id master-key-in-hex include|exclude`.

    The ends are with their ports. Older logs do not have the last field."""
    agreed = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            local, peer, client_isn, server_isn, algorithm, send_id, recv_id, master, *tcp_options = line.split()
            if tcp_options not in ([], ["include"], ["exclude"]):
                raise ValueError(f"tcp-options {' '.join(tcp_options)}")
            exclude = tcp_options == ["exclude"] if tcp_options else None
            local, peer, master = parse_end(local), parse_end(peer), bytes.fromhex(master)
            server_isn = None if server_isn == "-" else int(server_isn)
            if algorithm not in ALGORITHMS:
                raise ValueError(algorithm)
            key_of = {local: Key(int(send_id), algorithm, "rfc5926", master, exclude),
                      peer: Key(int(recv_id), algorithm, "rfc5926", master, exclude)}
            agreed.append(Agreed(local, peer, int(client_isn), server_isn, key_of))
        except ValueError as error:
            raise ValueError(f"line {number} of the key log: {error}") from None
    return agreed


def parse_end(text):
    """The end (address, port) that `192.0.2.1:179` or `[2001:db8::1]:179` names."""
    found = re.fullmatch(r"\[?([^\]]+)\]?:(\d+)", text)
    if found is None:
        raise ValueError(f"{text} is not an address with a port")
    return ipaddress.ip_address(found[1]).packed, int(found[2])


# --- From the file to segments ------------------------------------------------------------------------------


@dataclass
class Segment:
    number: int
    time: str
    source: bytes
    destination: bytes
    octets: bytes  # TCP header and data
    packet_len: int
    ip_checksum_good: bool
    problem: str = ""
    sport: int = 0
    dport: int = 0
    seq: int = 0
    ack: int = 0
    flags: int = 0
    header_len: int = 20
    options: list = field(default_factory=list)  # (kind, offset in the segment, octets)
    is_agreed: bool = False  # verified with a key of its connection only
    isns: tuple = (0, 0)  # of source and destination, once verified; 0: none yet
    client: tuple = ()  # the end that opened its connection, once verified

    def ao(self):
        return self.first_option(29)

    def md5(self):
        return self.first_option(19)

    def first_option(self, kind):
        found = [option for option in self.options if option[0] == kind]
        return found[0] if found else None

    def from_end(self):
        return (self.source, self.sport)

    def to_end(self):
        return (self.destination, self.dport)


def frames(data):
    """Yields (time, link type, octets, octets on the wire) of a pcap file."""
    kinds = {b"\xd4\xc3\xb2\xa1": ("<", 6), b"\xa1\xb2\xc3\xd4": (">", 6),
             b"\x4d\x3c\xb2\xa1": ("<", 9), b"\xa1\xb2\x3c\x4d": (">", 9)}
    if data[:4] not in kinds or len(data) < 24:
        raise ValueError("not a pcap file (pcapng is not read by this program)")
    order, digits = kinds[data[:4]]
    link = struct.unpack_from(order + "I", data, 20)[0] & 0xFFFF
    at = 24
    while at < len(data):
        if at + 16 > len(data):
            raise ValueError("the file ends in the middle of a record")
        seconds, fraction, captured, original = struct.unpack_from(order + "IIII", data, at)
        at += 16
        if at + captured > len(data):
            raise ValueError("the file ends in the middle of a record")
        yield f"{seconds}.{fraction:0{digits}}", link, data[at:at + captured], original
        at += captured


def network_layer(link, frame):
    """The EtherType and the octets behind the link layer and any VLAN tags."""
    if link in (12, 14, 101, 228, 229):
        return {4: 0x0800, 6: 0x86DD}.get(frame[0] >> 4), frame
    where = {1: (12, 14), 113: (14, 16), 276: (0, 20)}
    if link not in where:
        raise ValueError(f"link type {link} is not supported")
    kind_at, rest_at = where[link]
    kind, rest = struct.unpack_from("!H", frame, kind_at)[0], frame[rest_at:]
    while kind in (0x8100, 0x88A8, 0x9100):
        kind, rest = struct.unpack_from("!H", rest, 2)[0], rest[4:]
    return kind, rest


def ip_segment(kind, octets):
    """Source, destination, TCP octets, packet length, IP checksum right, problem; None if not TCP."""
    if kind == 0x0800:
        header_len = (octets[0] & 15) * 4
        total, _, fragment = struct.unpack_from("!HHH", octets, 2)
        if octets[9] != TCP:
            return None
        good = ones_sum(octets[:header_len]) == 0xFFFF
        problem = "fragment" if fragment & 0x3FFF else "cut short" if len(octets) < total else ""
        return octets[12:16], octets[16:20], octets[header_len:total], total, good, problem
    if kind != 0x86DD:
        return None
    total = 40 + struct.unpack_from("!H", octets, 4)[0]
    source, destination = octets[8:24], octets[24:40]
    following, at, problem = octets[6], 40, "cut short" if len(octets) < total else ""
    while following != TCP:
        if following == FRAGMENT:
            if struct.unpack_from("!H", octets, at + 2)[0] & 0xFFF9:
                problem = "fragment"
            length = 8
        elif following in (HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS):
            length = 8 + octets[at + 1] * 8
            if following == ROUTING and octets[at + 3] > 0:
                # The pseudo-header has the final destination (RFC 8200 §8.1).
                last = at + 8 if octets[at + 2] == 4 else at + length - 16
                destination = octets[last:last + 16]
        else:
            return None
        following, at = octets[at], at + length
    return source, destination, octets[at:total], total, True, problem


def parse_tcp(segment):
    octets = segment.octets
    if len(octets) >= 4:
        segment.sport, segment.dport = struct.unpack_from("!HH", octets)
    if segment.problem:
        return
    if len(octets) < 20 or not 20 <= (octets[12] >> 4) * 4 <= len(octets):
        segment.problem = "malformed"
        return
    segment.seq, segment.ack = struct.unpack_from("!II", octets, 4)
    segment.header_len, segment.flags = (octets[12] >> 4) * 4, octets[13]
    at = 20
    while at < segment.header_len and octets[at] != 0:
        length = 1 if octets[at] == 1 else octets[at + 1] if at + 1 < segment.header_len else 0
        if length < 1 or (octets[at] != 1 and length < 2) or at + length > segment.header_len:
            segment.problem = "malformed"
            return
        segment.options.append((octets[at], at, octets[at:at + length]))
        at += length


def segments(data, port):
    for number, (time, link, frame, original) in enumerate(frames(data), 1):
        try:
            found = ip_segment(*network_layer(link, frame))
        except (IndexError, struct.error):
            # Headers that were not captured whole: not to be taken for somebody else's frame.
            if len(frame) < original:
                yield Segment(number, time, b"", b"", b"", original, True, "cut short")
            continue
        if found is None:
            continue
        segment = Segment(number, time, *found)
        parse_tcp(segment)
        if port in (segment.sport, segment.dport) or (segment.problem and not segment.sport):
            yield segment


def ones_sum(octets):
    if len(octets) % 2:
        octets += b"\0"
    total = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pseudo_header(segment):
    if len(segment.source) == 4:
        return segment.source + segment.destination + struct.pack("!BBH", 0, TCP, len(segment.octets))
    return segment.source + segment.destination + struct.pack("!II", len(segment.octets), TCP)


# --- Connections and MACs -----------------------------------------------------------------------------------


class Connection:
    """ISNs by end, and the highest sequence number, extended to 64 bits, that each end has sent; who sent a SYN."""

    def __init__(self):
        self.isn, self.highest, self.opened_by = {}, {}, set()

    def begin(self, end, isn):
        self.isn[end], self.highest[end] = isn, isn

    def client(self):
        """The end that sent the SYN; if both did, the one with the lower address, then port."""
        return min(self.opened_by)

    def begin_unless_begun(self, end, isn):
        if self.isn.get(end) != isn:
            self.begin(end, isn)

    def extended(self, end, seq):
        """The number congruent to seq that is nearest to the highest so far (RFC 9187's outcome)."""
        highest = self.highest[end]
        near = (highest & ~0xFFFFFFFF) | seq
        return min((near - 2**32, near, near + 2**32), key=lambda value: abs(value - highest))

    def advance(self, end, extended):
        self.highest[end] = max(self.highest[end], extended)


class AoVerifier:
    def __init__(self, keys, exclude_options, agreed=()):
        """Keys that hold for all connections, and those of single ones."""
        self.keys, self.exclude_options, self.agreed = keys, exclude_options, agreed
        every_key = [*keys, *(key for each in agreed for key in each.key_of.values())]
        self.option_lens = {4 + key.mac_len() for key in every_key}
        self.connections = {}  # frozenset of both ends: connections, the newest first

    def option(self, segment):
        return segment.ao()

    def context(self, kdf, segment, sisn, disn, client):
        """Seen from the sender (RFC 5925, 5.2), with --kdf isn from the client."""
        (source, sport), (destination, dport) = segment.from_end(), segment.to_end()
        if kdf == "isn" and client != segment.from_end():
            source, sport, sisn, destination, dport, disn = destination, dport, disn, source, sport, sisn
        return source + destination + struct.pack("!HHII", sport, dport, sisn, disn)

    def compute(self, key, segment, sisn, disn, client, sne):
        octets = bytearray(segment.octets)
        octets[16:18] = bytes(2)
        _, at, option = segment.ao()
        octets[at + 4:at + len(option)] = bytes(len(option) - 4)
        header, data = octets[:segment.header_len], octets[segment.header_len:]
        if self.exclude_options if key.exclude_options is None else key.exclude_options:
            header = header[:20] + header[at:at + len(option)]
        message = struct.pack("!I", sne & 0xFFFFFFFF) + pseudo_header(segment) + bytes(header) + bytes(data)
        return key.mac(self.context(key.kdf, segment, sisn, disn, client), message)

    def keys_for(self, segment, sisn, disn, client):
        """Yields (key, whether it was agreed on) for a segment of the connection with these ISNs."""
        source, destination = segment.from_end(), segment.to_end()
        isns = (sisn, disn) if client == source else (disn, sisn)
        key_id = segment.ao()[2][2]
        for agreed in self.agreed:
            key = agreed.key_of.get(source)
            if key is not None and key.key_id == key_id and agreed.is_of(source, destination, *isns):
                yield key, True
        for key in self.keys:
            if key.key_id is None or key.key_id == key_id:
                yield key, False

    def candidates(self, segment):
        """Yields (source ISN, destination ISN, client, extended sequence number, what to do if they prove right)."""
        source, destination = segment.from_end(), segment.to_end()
        known = self.connections.setdefault(frozenset((source, destination)), [])
        if segment.flags & SYN and not segment.flags & ACK:
            # A repeated SYN, or one that crosses the peer's, belongs to the newest; any other begins anew.
            if known and known[0].isn.get(source, segment.seq) == segment.seq:
                connection = known[0]
            else:
                connection = Connection()
                known.append(connection)  # behind all others, until it has proved right
            if source not in connection.isn:
                connection.begin(source, segment.seq)
            connection.opened_by.add(source)
            yield (segment.seq, 0, source, segment.seq,
                   lambda: (known.remove(connection), known.insert(0, connection)))
        elif segment.flags & SYN:
            for connection in list(known):
                if connection.isn.get(destination) == (segment.ack - 1) % 2**32:
                    if source not in connection.isn:
                        connection.begin(source, segment.seq)
                    yield (segment.seq, connection.isn[destination], connection.client(), segment.seq,
                           lambda: connection.begin_unless_begun(source, segment.seq))
        else:
            for connection in known:
                if destination not in connection.isn:
                    continue
                if source in connection.isn:
                    extended = connection.extended(source, segment.seq)
                    yield (connection.isn[source], connection.isn[destination], connection.client(), extended,
                           lambda: connection.advance(source, extended))
                elif segment.flags & RST:
                    # A closed port's answer to a SYN: its sequence number stands for its ISN.
                    yield segment.seq, connection.isn[destination], destination, segment.seq, lambda: None

    def verify(self, segment):
        """Whether the MAC is right, the MAC that was computed (None if none could be), and what is wrong."""
        if sum(option[0] in (19, 29) for option in segment.options) > 1:
            return False, None, "authentication option twice"
        option = segment.ao()[2]
        if len(option) not in self.option_lens:
            return False, None, "wrong option length"
        computed, problem = None, "SYN not in the capture: ISNs unknown"
        for sisn, disn, client, extended, proved_right in self.candidates(segment):
            problem = "unknown KeyID" if computed is None else problem
            for key, was_agreed in self.keys_for(segment, sisn, disn, client):
                if len(option) != 4 + key.mac_len():
                    problem = "wrong option length"
                    continue
                computed, problem = self.compute(key, segment, sisn, disn, client, extended >> 32), "wrong MAC"
                if hmac.compare_digest(computed, option[4:]):
                    proved_right()
                    segment.is_agreed, segment.isns, segment.client = was_agreed, (sisn, disn), client
                    return True, computed, ""
        return False, computed, problem

    def believe(self, segment):
        """Takes the ISN from a SYN without the option: its connection may be signed later."""
        if segment.flags & SYN:
            for *_, proved_right in self.candidates(segment):
                proved_right()
                break


class LayeredConnection:
    """One connection that begins with a TLS handshake and goes on with BGP: its verified segments, in order."""

    def __init__(self, client, server):
        self.client, self.server, self.segments = client, server, []

    def description(self):
        """What was seen, in words.

        Raises ValueError for what must not be."""
        if not self.check_opening():
            return "refused or never answered"
        isn = {self.client: self.segments[0].seq}
        isn[self.server] = next(segment.seq for segment in self.segments if segment.from_end() == self.server)
        octets = {end: self.octets_of(end, isn[end]) for end in isn}
        handshake = {end: records_len(octets[end]) for end in isn}
        if octets[self.client] and octets[self.client][:1] + octets[self.client][5:6] != b"\x16\x01":
            raise ValueError("the client does not begin with a ClientHello")
        application = {end: octets[end][handshake[end]:] for end in isn}
        for end in isn:
            if application[end][:16] != (b"\xff" * 16)[:len(application[end])]:
                raise ValueError(f"what follows {handshake[end]} octets of TLS is not BGP")
        if not any(application.values()):
            return "ended before BGP"
        self.check_switch(isn, handshake)
        return (f"SYN, SYN-ACK, ACK, ClientHello, {handshake[self.client]} octets of TLS from the client and "
                f"{handshake[self.server]} from the server, BGP under agreed keys")

    def check_opening(self):
        """The SYN, its answer, the ACK of that, and only then data. False if the server did not answer the SYN, or
        refused it: nothing may listen there yet."""
        kinds = []
        for segment in self.segments:
            controls, has_data = segment.flags & (SYN | ACK | RST | FIN), len(segment.octets) > segment.header_len
            kind = {SYN: "SYN", SYN | ACK: "SYN-ACK", ACK: "data" if has_data else "ACK"}.get(controls, "end")
            if kind not in kinds and not (kind == "ACK" and segment.from_end() == self.server):
                kinds.append(kind)
        expected = ["SYN", "SYN-ACK", "ACK", "data"]
        if [kind for kind in kinds if kind != "end"] != expected[:len([kind for kind in kinds if kind != "end"])]:
            raise ValueError(f"opened by {', '.join(kinds)}")
        if kinds in (["SYN"], ["SYN", "end"]):
            return False
        if kinds[:2] != expected[:2]:
            raise ValueError("never answered")
        return True

    def octets_of(self, end, isn):
        """All that `end` sent, from its first octet to the first gap."""
        pieces = sorted((offset, data) for segment, offset, data in self.data_of(end, isn))
        octets = b""
        for offset, data in pieces:
            if offset > len(octets):
                break
            overlap = octets[offset:offset + len(data)]
            if overlap != data[:len(overlap)]:
                raise ValueError(f"octet {offset} and those after it were sent again as others")
            octets += data[len(overlap):]
        return octets

    def data_of(self, end, isn):
        """Yields (segment, offset of its data in the stream, data)."""
        for segment in self.segments:
            data = segment.octets[segment.header_len:]
            if segment.from_end() == end and data and not segment.flags & (SYN | RST):
                yield segment, (segment.seq - isn - 1) % 2**32, data

    def check_switch(self, isn, handshake):
        """No octet of BGP before the whole handshake was sent, and none under any but agreed keys."""
        handshake_sent = 0
        for end in isn:
            ends_at = [segment.number for segment, offset, data in self.data_of(end, isn[end])
                       if offset + len(data) == handshake[end]]
            if not ends_at:
                raise ValueError("a segment has octets of the handshake and others")
            handshake_sent = max(handshake_sent, ends_at[0])
        for end in isn:
            for segment, offset, data in self.data_of(end, isn[end]):
                if offset + len(data) <= handshake[end]:
                    continue
                if offset < handshake[end]:
                    raise ValueError(f"frame {segment.number} has octets of the handshake and others")
                if not segment.is_agreed:
                    raise ValueError(f"frame {segment.number} has BGP under a key that was not agreed on")
                if segment.number < handshake_sent:
                    raise ValueError(f"frame {segment.number} has BGP before the handshake was over")


def records_len(octets):
    """How many octets of TLS records a stream begins with (RFC 8446, 5.1)."""
    at = 0
    while at + 5 <= len(octets) and octets[at] in (20, 21, 22, 23) and octets[at + 1] == 3:
        at += 5 + struct.unpack_from("!H", octets, at + 3)[0]
    if at > len(octets):
        raise ValueError("a TLS record is cut short")
    return at


class Layered:
    """Every connection of a capture, taken for a LayeredConnection."""

    def __init__(self):
        self.connections = {}  # (client, server, client's ISN): connection

    def add(self, segment):
        is_client = segment.client == segment.from_end()
        server = segment.to_end() if is_client else segment.from_end()
        key = (segment.client, server, segment.isns[0 if is_client else 1])
        self.connections.setdefault(key, LayeredConnection(segment.client, server)).segments.append(segment)

    def report(self):
        """Prints a line for each, and tells whether all are right and one at least got as far as BGP."""
        right, got_to_bgp = True, False
        for connection in self.connections.values():
            try:
                said = connection.description()
                got_to_bgp |= said.endswith("agreed keys")
            except ValueError as error:
                said, right = f"failed: {error}", False
            print(f"connection {end(*connection.client)} > {end(*connection.server)}: {said}")
        return right and got_to_bgp


class Md5Verifier:
    """RFC 2385, 2.0: pseudo-header, TCP header without options and with a checksum of zero, data, password."""

    def __init__(self, keys):
        self.passwords = [password for _, password in keys]

    def believe(self, segment):
        """No key depends on an ISN."""

    def option(self, segment):
        return segment.md5()

    def verify(self, segment):
        """As AoVerifier.verify."""
        if sum(option[0] in (19, 29) for option in segment.options) > 1:
            return False, None, "authentication option twice"
        option, computed = segment.md5()[2], None
        if len(option) != 18:
            return False, None, "wrong option length"
        header = segment.octets[:16] + bytes(2) + segment.octets[18:20]
        message = pseudo_header(segment) + header + segment.octets[segment.header_len:]
        for password in self.passwords:
            computed = hashlib.md5(message + password).digest()
            if hmac.compare_digest(computed, option[2:]):
                return True, computed, ""
        return False, computed, "wrong MAC"


# --- Output -------------------------------------------------------------------------------------------------


def flag_letters(flags):
    letters = "".join(letter for bit, letter in ((FIN, "F"), (SYN, "S"), (RST, "R"), (PSH, "P"), (ACK, "."))
                      if flags & bit)
    return letters or "none"


def end(address, port):
    return f"{ipaddress.ip_address(address) if address else '?'} port {port}"


def one_line(segment, verdict):
    option, md5 = segment.ao(), segment.md5()
    ids = f"KeyID {option[2][2]} RNextKeyID {option[2][3]} MAC {option[2][4:].hex()}" \
        if option and len(option[2]) >= 4 else f"MD5 {md5[2][2:].hex()}" if md5 else "no option"
    return (f"{segment.number} {segment.time} {end(*segment.from_end())} > {end(*segment.to_end())} "
            f"[{flag_letters(segment.flags)}] seq {segment.seq} "
            f"len {max(0, len(segment.octets) - segment.header_len)} {ids}: {verdict}")


def show(segment, computed, verdict):
    option, md5 = segment.ao(), segment.md5()
    rows = [("frame", f"{segment.number}, captured at {segment.time}"),
            ("from", end(*segment.from_end())), ("to", end(*segment.to_end())),
            ("seq", segment.seq), ("ack", segment.ack), ("flags", f"[{flag_letters(segment.flags)}]"),
            ("data", f"{max(0, len(segment.octets) - segment.header_len)} octets")]
    if option and len(option[2]) >= 4:
        rows += [("KeyID", option[2][2]), ("RNextKeyID", option[2][3]),
                 ("MAC on the wire", option[2][4:].hex()),
                 ("MAC recomputed", computed.hex() if computed else "none")]
    elif md5:
        rows += [("MD5 on the wire", md5[2][2:].hex()), ("MD5 recomputed", computed.hex() if computed else "none")]
    for name, value in rows + [("verdict", verdict)]:
        print(f"{name:>16}  {value}")


def parse_key(text):
    key_id, colon, secret = text.rpartition(":")
    try:
        octets = bytes.fromhex(secret)
        if not octets:
            raise ValueError
        return (int(key_id) if colon else None), octets
    except ValueError:
        raise argparse.ArgumentTypeError("write [ID:]HEX, with the KeyID as a decimal number") from None


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("file", metavar="FILE.pcap")
    parser.add_argument("--key", action="append", type=parse_key, default=[], metavar="[ID:]HEX",
                        help="a master key, of segments with this KeyID if there is one; repeatable")
    parser.add_argument("--password", action="append", default=[], help="a master key as text; repeatable")
    parser.add_argument("--algorithm", choices=[*ALGORITHMS, "md5"], default="hmac-sha-1-96",
                        help="md5: of TCP-MD5, whose master keys are its passwords")
    parser.add_argument("--kdf", choices=("rfc5926", "isn", "none"), default="rfc5926",
                        help="traffic keys: of RFC 5926; from both ISNs; the master key itself")
    parser.add_argument("--port", type=int, default=179, help="TCP port of either end (default 179)")
    parser.add_argument("--exclude-options", action="store_true", help="other TCP options are not under the MAC")
    parser.add_argument("--mtu", type=int, help="IP packets longer than this fail")
    parser.add_argument("--key-log", action="append", default=[], metavar="FILE",
                        help="keys of single connections, as tcpauthd --key-log writes them; repeatable")
    parser.add_argument("--layered", action="store_true", help="each connection begins with a TLS handshake, then BGP")
    parser.add_argument("--verbose", action="store_true", help="one line a segment")
    parser.add_argument("--show", type=int, metavar="N", help="decode the Nth segment, from 1")
    args = parser.parse_args()
    args.keys = args.key + [(None, text.encode()) for text in args.password]
    if not args.keys and not args.key_log:
        parser.error("give a key with --key, --password or --key-log")
    if args.layered and not args.key_log:
        parser.error("--layered needs --key-log")
    return args


def verifier_of(args):
    if args.algorithm == "md5":
        return Md5Verifier(args.keys)
    agreed = []
    for name in args.key_log:
        with open(name, encoding="ascii") as file:
            agreed += read_key_log(file.read())
    keys = [Key(key_id, args.algorithm, args.kdf, master) for key_id, master in args.keys]
    return AoVerifier(keys, args.exclude_options, agreed)


def main():
    args = arguments()
    verifier, layered = verifier_of(args), Layered()
    count = verified = failed = without = bad = under_agreed = 0
    with open(args.file, "rb") as file:
        data = file.read()
    for segment in segments(data, args.port):
        count += 1
        computed, checksum = None, ""
        if not segment.problem:
            good = ones_sum(pseudo_header(segment) + segment.octets) == 0xFFFF and segment.ip_checksum_good
            bad += not good
            checksum = "" if good else ", bad checksum"
        too_long = args.mtu is not None and segment.packet_len > args.mtu
        if segment.problem:
            verdict = f"failed: {segment.problem}"
        elif too_long:
            verdict = f"failed: packet of {segment.packet_len} octets exceeds the MTU"
        elif verifier.option(segment) is None:
            verdict = "without option"
            verifier.believe(segment)
        else:
            right, computed, problem = verifier.verify(segment)
            verdict = "verified" if right else f"failed: {problem}"
            under_agreed += right and segment.is_agreed
            if right and args.layered:
                layered.add(segment)
        verified += verdict == "verified"
        without += verdict == "without option"
        failed += verdict.startswith("failed")
        if args.verbose:
            print(one_line(segment, verdict + checksum))
        if args.show == count:
            show(segment, computed, verdict + checksum)
    if args.show is not None and not 1 <= args.show <= count:
        raise ValueError(f"there is no segment {args.show}, only {count}")
    in_order = layered.report() if args.layered else True
    if args.key_log:
        print(f"under agreed keys {under_agreed}")
    print(f"segments {count}, verified {verified}, failed {failed}, without option {without}, bad checksum {bad}")
    return 0 if count and verified == count and not bad and in_order else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, ValueError) as error:
        print(f"{sys.argv[0]}: {error}", file=sys.stderr)
        sys.exit(2)
