#!/usr/bin/python3
"""Compute the keys that two daemons agree on, for known secrets of TLS: tests/vectors/kmp.json.

Shares no code with tcpauth: it was written from docs/handshakes.md, docs/wire-format.md, RFC 8446 (7.1 and 7.5), RFC 5246
(5), RFC 5705 and RFC 5926 with the standard library's hmac and hashlib.

    kmp_vectors.py > tests/vectors/kmp.json
"""

import hashlib
import hmac
import ipaddress
import json
import struct

VERSION = 1
CLIENT, SERVER = 0, 1


def octets(address):
    """16 octets of an address, IPv4 mapped into IPv6."""
    address = ipaddress.ip_address(address)
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed


def text(value):
    value = value.encode()
    return bytes([len(value)]) + value


def message(kind, body):
    return struct.pack("!BH", kind, len(body)) + body


def capabilities(software, algorithms, kinds, seconds):
    body = struct.pack("!H", VERSION) + text(software)
    body += bytes([len(algorithms)]) + b"".join(map(text, algorithms))
    return message(1, body + bytes([len(kinds), *kinds]) + struct.pack("!I", seconds))


def connection(case):
    (client, client_port), (server, server_port) = case["client"], case["server"]
    server_isn = case["server_isn"]
    return (
        octets(client) + struct.pack("!H", client_port) + octets(server) + struct.pack("!H", server_port)
        + struct.pack("!IBI", case["client_isn"], server_isn is not None, server_isn or 0)
    )


def context(case, offerer_says, accepter_says):
    algorithm = case["algorithm"].encode()
    return (
        struct.pack("!H", VERSION)
        + connection(case)
        + bytes([case["offerer"], case["client_recv_id"], case["server_recv_id"], case["tcp_options"]])
        + bytes.fromhex(case["offer_nonce"])
        + bytes.fromhex(case["accept_nonce"])
        + bytes([len(algorithm)]) + algorithm
        + hashlib.sha256(offerer_says + accepter_says).digest()
    )


# --- Exporters ----------------------------------------------------------------------------------------------


def hkdf_expand_label(name, secret, label, value, length):
    """RFC 8446, 7.1: HKDF-Expand of one block or more."""
    label = b"tls13 " + label
    info = struct.pack("!HB", length, len(label)) + label + bytes([len(value)]) + value
    output, block, counter = b"", b"", 1
    while len(output) < length:
        block = hmac.new(secret, block + info + bytes([counter]), name).digest()
        output, counter = output + block, counter + 1
    return output[:length]


def tls13_exporter(name, exporter_secret, label, value):
    """RFC 8446, 7.5."""
    size = hashlib.new(name).digest_size
    derived = hkdf_expand_label(name, exporter_secret, label, hashlib.new(name, b"").digest(), size)
    return hkdf_expand_label(name, derived, b"exporter", hashlib.new(name, value).digest(), 32)


def tls12_exporter(name, master_secret, randoms, label, value):
    """RFC 5705, 4, with the PRF of RFC 5246, 5."""
    seed = label + randoms + struct.pack("!H", len(value)) + value
    output, a = b"", seed
    while len(output) < 32:
        a = hmac.new(master_secret, a, name).digest()
        output += hmac.new(master_secret, a + seed, name).digest()
    return output[:32]


def exporter(case, label, value):
    tls = case["tls"]
    secret = bytes.fromhex(tls["secret"])
    if tls["version"] == "TLS 1.3":
        return tls13_exporter(tls["hash"], secret, label, value)
    return tls12_exporter(tls["hash"], secret, bytes.fromhex(tls["randoms"]), label, value)


# --- Traffic keys (RFC 5926 and docs/wire-format.md) --------------------------------------------------------


def traffic_key(algorithm, master_key, source, destination, source_isn, destination_isn):
    def end(address):
        return ipaddress.ip_address(address).packed

    ends = end(source[0]) + end(destination[0]) + struct.pack("!HH", source[1], destination[1])
    ends += struct.pack("!II", source_isn, destination_isn)
    if algorithm == "hmac-sha-256-128":
        pseudorandom = hmac.new(bytes(32), master_key, "sha256").digest()
        return hmac.new(pseudorandom, ends + b"\x01", "sha256").digest()
    name, length = {"hmac-sha-1-96": ("sha1", 20), "hmac-sha-256-96": ("sha256", 32)}[algorithm]
    counter = b"\x01TCP-AO" + ends + struct.pack("!H", length * 8)
    return hmac.new(master_key, counter, name).digest()[:length]


# --- The vectors --------------------------------------------------------------------------------------------


def computed(case):
    # What each end says first.
    offerer_says, accepter_says = (capabilities(**case[end]) for end in ("offerer_can", "accepter_can"))
    value = context(case, offerer_says, accepter_says)
    master_key = exporter(case, b"EXPORTER-tcpauth-mkt", value)
    key = exporter(case, b"EXPORTER-tcpauth-confirm", value)
    confirmation = {
        end: hmac.new(key, b"tcpauth " + end.encode() + b"\x00" + value, "sha256").digest()
        for end in ("offerer", "accepter")
    }
    number = struct.pack("!I", case["id"])
    by_client = case["offerer"] == CLIENT
    offerer_id, accepter_id = (case[f"{'client' if end else 'server'}_recv_id"] for end in (by_client, not by_client))
    offer = number + connection(case) + bytes([case["offerer"], offerer_id, case["tcp_options"]])
    accept = number + bytes([accepter_id]) + bytes.fromhex(case["accept_nonce"]) + text(case["algorithm"])
    client, server, client_isn = case["client"], case["server"], case["client_isn"]
    # The server's ISN, which was not known when the keys were agreed.
    server_isn = case["server_isn"] if case["server_isn"] is not None else case["later_server_isn"]
    key_of = lambda *ends: traffic_key(case["algorithm"], master_key, *ends).hex()
    return {
        "messages": {
            "offerers_capabilities": offerer_says.hex(),
            "accepters_capabilities": accepter_says.hex(),
            "offer": message(2, offer + bytes.fromhex(case["offer_nonce"])).hex(),
            "accept": message(3, accept + confirmation["accepter"]).hex(),
            "confirm": message(4, number + confirmation["offerer"]).hex(),
            "done": message(5, number).hex(),
        },
        "context": value.hex(),
        "master_key": master_key.hex(),
        "confirmation_key": key.hex(),
        "client_syn_key": key_of(client, server, client_isn, 0),
        "client_to_server_key": key_of(client, server, client_isn, server_isn),
        "server_to_client_key": key_of(server, client, server_isn, client_isn),
    }


def pattern(start, length):
    return bytes((start + 7 * number) % 256 for number in range(length)).hex()


def main():
    one = {"software": "one 1.0", "algorithms": ["hmac-sha-256-128", "hmac-sha-1-96"], "kinds": [29], "seconds": 3600}
    two = {
        "software": "two/2.7 ß",
        "algorithms": ["tomorrow", "hmac-sha-256-96", "hmac-sha-256-128", "hmac-sha-1-96"],
        "kinds": [253, 29],
        "seconds": 86400,
    }
    nonces = {"offer_nonce": pattern(1, 16), "accept_nonce": pattern(2, 16)}
    cases = [
        {
            "name": "external, IPv4, offered by the client before the server has an ISN; TLS 1.3 with SHA-256",
            "client": ["192.0.2.1", 40000], "server": ["192.0.2.2", 179],
            "client_isn": 0xFBFBAB5A, "server_isn": None, "later_server_isn": 0x11C14261,
            "offerer": CLIENT, "client_recv_id": 128, "server_recv_id": 255, "tcp_options": 0, **nonces,
            "algorithm": "hmac-sha-256-128", "offerer_can": one, "accepter_can": two, "id": 1,
            "tls": {"version": "TLS 1.3", "hash": "sha256", "secret": pattern(3, 32)},
        },
        {
            "name": "refresh, IPv6, offered by the server, options excluded; TLS 1.3 with SHA-384",
            "client": ["2001:db8::1", 179], "server": ["2001:db8::ffff:2", 1790],
            "client_isn": 0, "server_isn": 0, "offerer": SERVER, "client_recv_id": 200, "server_recv_id": 131,
            "tcp_options": 1, **nonces, "algorithm": "hmac-sha-256-128", "offerer_can": two,
            "accepter_can": one, "id": 0x01020304,
            "tls": {"version": "TLS 1.3", "hash": "sha384", "secret": pattern(4, 48)},
        },
        {
            "name": "layered, IPv4; TLS 1.2 with the PRF of SHA-256",
            "client": ["10.0.0.1", 65535], "server": ["10.255.0.1", 179],
            "client_isn": 1, "server_isn": 0xFFFFFFFF, "offerer": CLIENT, "client_recv_id": 129,
            "server_recv_id": 129, "tcp_options": 0, **nonces, "algorithm": "hmac-sha-1-96",
            "offerer_can": {**one, "algorithms": ["hmac-sha-1-96"]}, "accepter_can": two, "id": 1,
            "tls": {"version": "TLS 1.2", "hash": "sha256", "secret": pattern(5, 48), "randoms": pattern(6, 64)},
        },
    ]
    print(json.dumps([{**case, **computed(case)} for case in cases], indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
