#!/usr/bin/env python3
"""One end of a TLS connection by GnuTLS, which shares no code with tcpauth's.

    gnutls_psk.py client|server --port N --priority STRING --label TEXT --context HEX
        --identity TEXT --key HEX [--certificate FILE --private-key FILE]     by PSK; a certificate is for RSA_PSK
        --public-key FILE --private-key FILE                                  by raw public key (RFC 7250)

A server prints the port that it listens at (--port 0: any) on a line of its own. After the handshake both ends print the
exported key of 32 octets in hex (RFC 5705), and the fingerprint of the peer's raw public key on a second line. Then the
client sends a message, which the server sends back.
gnutls-cli and gnutls-serv cannot print an exporter.
"""

import argparse
import ctypes
import hashlib
import socket
import sys
import tempfile

SERVER, CLIENT, NO_TICKETS, ENABLE_RAWPK = 1, 2, 1 << 10, 1 << 18
CRD_CERTIFICATE, CRD_PSK = 1, 4
KEY_HEX = 1
FORMAT_PEM = 1
SEC_PARAM_MEDIUM = 35
CERT_REQUIRE = 2
KEY_DIGITAL_SIGNATURE = 128
MESSAGE = b"from GnuTLS"

gnutls = ctypes.CDLL("libgnutls.so.30")
gnutls.gnutls_strerror.restype = ctypes.c_char_p
for name in ["gnutls_record_send", "gnutls_record_recv"]:
    getattr(gnutls, name).restype = ctypes.c_ssize_t
    getattr(gnutls, name).argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
gnutls.gnutls_prf_rfc5705.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_char_p,
    ctypes.c_size_t,
    ctypes.c_char_p,
    ctypes.c_size_t,
    ctypes.c_char_p,
]


class Datum(ctypes.Structure):
    """gnutls_datum_t"""

    _fields_ = [("data", ctypes.c_char_p), ("size", ctypes.c_uint)]


class RawDatum(ctypes.Structure):
    """The same, of octets among which there are zeros."""

    _fields_ = [("data", ctypes.c_void_p), ("size", ctypes.c_uint)]


def call(function, *arguments):
    """Calls a function of GnuTLS, and ends the program if it fails."""
    code = getattr(gnutls, function)(*arguments)
    if code < 0:
        sys.exit(f"{function}: {gnutls.gnutls_strerror(code).decode()}")
    return code


def client_credentials(options):
    """What a client has: its identity and the key."""
    credentials = ctypes.c_void_p()
    call("gnutls_psk_allocate_client_credentials", ctypes.byref(credentials))
    key = options.key.encode()
    datum = Datum(key, len(key))
    call("gnutls_psk_set_client_credentials", credentials, options.identity.encode(), ctypes.byref(datum), KEY_HEX)
    return credentials


def server_credentials(options):
    """What a server has: a file with the client's identity and the key, and a group for DHE_PSK."""
    credentials = ctypes.c_void_p()
    call("gnutls_psk_allocate_server_credentials", ctypes.byref(credentials))
    # GnuTLS reads it during the handshake; it goes with the program.
    options.passwords = tempfile.NamedTemporaryFile("w")
    options.passwords.write(f"{options.identity}:{options.key}\n")
    options.passwords.flush()
    call("gnutls_psk_set_server_credentials_file", credentials, options.passwords.name.encode())
    call("gnutls_psk_set_server_known_dh_params", credentials, SEC_PARAM_MEDIUM)
    return credentials


def certificate_credentials(options):
    """For RSA_PSK: the server's certificate, or none; the client takes any. Or the raw public key of an end."""
    credentials = ctypes.c_void_p()
    call("gnutls_certificate_allocate_credentials", ctypes.byref(credentials))
    if options.certificate:
        files = [options.certificate.encode(), options.private_key.encode()]
        call("gnutls_certificate_set_x509_key_file", credentials, *files, FORMAT_PEM)
    if options.public_key:
        files = [options.public_key.encode(), options.private_key.encode()]
        more = [None, KEY_DIGITAL_SIGNATURE, None, 0, 0]
        call("gnutls_certificate_set_rawpk_key_file", credentials, *files, FORMAT_PEM, *more)
    return credentials


def peer_fingerprint(session):
    """SHA-256 of the certificate or public key that the other end has shown, in hex."""
    count = ctypes.c_uint()
    gnutls.gnutls_certificate_get_peers.restype = ctypes.POINTER(RawDatum)
    shown = gnutls.gnutls_certificate_get_peers(session, ctypes.byref(count))
    return hashlib.sha256(ctypes.string_at(shown[0].data, shown[0].size)).hexdigest()


def connect(options):
    """The TCP connection."""
    if options.role == "client":
        return socket.create_connection(("127.0.0.1", options.port), 10)
    listener = socket.create_server(("127.0.0.1", options.port))
    listener.settimeout(10)
    print(listener.getsockname()[1], flush=True)
    return listener.accept()[0]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["client", "server"])
    parser.add_argument("--port", type=int, required=True)
    for name in ["priority", "label", "context"]:
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--identity")
    parser.add_argument("--key")
    parser.add_argument("--certificate")
    parser.add_argument("--public-key")
    parser.add_argument("--private-key")
    options = parser.parse_args()
    is_client = options.role == "client"

    session = ctypes.c_void_p()
    call("gnutls_init", ctypes.byref(session), (CLIENT if is_client else SERVER | NO_TICKETS) | ENABLE_RAWPK)
    call("gnutls_priority_set_direct", session, options.priority.encode(), None)
    if options.key:
        psk = client_credentials(options) if is_client else server_credentials(options)
        call("gnutls_credentials_set", session, CRD_PSK, psk)
    call("gnutls_credentials_set", session, CRD_CERTIFICATE, certificate_credentials(options))
    if options.public_key and not is_client:
        gnutls.gnutls_certificate_server_set_request(session, CERT_REQUIRE)
    connection = connect(options)
    # GnuTLS blocks by itself.
    connection.setblocking(True)
    gnutls.gnutls_transport_set_int2(session, connection.fileno(), connection.fileno())
    gnutls.gnutls_handshake_set_timeout(session, 10_000)
    while (code := gnutls.gnutls_handshake(session)) < 0:
        if gnutls.gnutls_error_is_fatal(code):
            sys.exit(f"handshake: {gnutls.gnutls_strerror(code).decode()}")

    label, context = options.label.encode(), bytes.fromhex(options.context)
    key = ctypes.create_string_buffer(32)
    call("gnutls_prf_rfc5705", session, len(label), label, len(context), context, 32, key)
    print(key.raw.hex(), flush=True)
    if options.public_key:
        print(peer_fingerprint(session), flush=True)

    buffer = ctypes.create_string_buffer(1024)
    if is_client:
        call("gnutls_record_send", session, MESSAGE, len(MESSAGE))
        received = call("gnutls_record_recv", session, buffer, len(buffer))
        if buffer.raw[:received] != MESSAGE:
            sys.exit("another message came back")
    else:
        received = call("gnutls_record_recv", session, buffer, len(buffer))
        call("gnutls_record_send", session, buffer.raw[:received], received)
    connection.close()


if __name__ == "__main__":
    main()
