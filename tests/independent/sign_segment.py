#!/usr/bin/python3
"""Compute the TCP-AO MAC of a segment, with the code of verify_capture.py.

Reads an Ethernet frame in hex from standard input and prints the MAC in hex; the octets where the frame has its MAC
do not matter.
"""

import argparse
import sys

from verify_capture import ALGORITHMS, AoVerifier, Key, Segment, ip_segment, network_layer, parse_tcp


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    secret = parser.add_mutually_exclusive_group(required=True)
    secret.add_argument("--password", type=str.encode, dest="master", help="the master key as text")
    secret.add_argument("--key", type=bytes.fromhex, dest="master", help="the master key in hex")
    parser.add_argument("--algorithm", choices=ALGORITHMS, default="hmac-sha-1-96")
    parser.add_argument("--source-isn", type=int, required=True)
    parser.add_argument("--destination-isn", type=int, required=True)
    parser.add_argument("--sne", type=int, default=0)
    args = parser.parse_args()
    segment = Segment(1, "", *ip_segment(*network_layer(1, bytes.fromhex(sys.stdin.read()))))
    parse_tcp(segment)
    key = Key(None, args.algorithm, "rfc5926", args.master)
    mac = AoVerifier([], False).compute(key, segment, args.source_isn, args.destination_isn, None, args.sne)
    print(mac.hex())


if __name__ == "__main__":
    main()
