#!/usr/bin/python3
"""Compute the TCP-AO MAC of a segment, with the code of verify_capture.py.

Reads an Ethernet frame in hex from standard input and prints the MAC in hex; the octets where the frame has its MAC
do not matter.
"""

import argparse
import sys

from verify_capture import ALGORITHMS, AoVerifier, Segment, ip_segment, network_layer, parse_tcp


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--password", required=True)
    parser.add_argument("--algorithm", choices=ALGORITHMS, default="hmac-sha-1-96")
    parser.add_argument("--source-isn", type=int, required=True)
    parser.add_argument("--destination-isn", type=int, required=True)
    parser.add_argument("--sne", type=int, default=0)
    args = parser.parse_args()
    segment = Segment(1, "", *ip_segment(*network_layer(1, bytes.fromhex(sys.stdin.read()))))
    parse_tcp(segment)
    verifier = AoVerifier([], args.algorithm, "rfc5926", False)
    mac = verifier.compute(args.password.encode(), segment, args.source_isn, args.destination_isn, None, args.sne)
    print(mac.hex())


if __name__ == "__main__":
    main()
