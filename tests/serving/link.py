"""A bad line: packets between two network namespaces, late, lost now and then, or not passed on at all.

`python link.py NAMESPACE SECONDS LOSS` makes the namespace and a line to it, tells `ready`, and passes packets on until
its input ends: `NEAR` on this side, `FAR` on the other. The line `cut` on its input parts the two, `mend` joins them
again. It needs root and /dev/net/tun. (`tc netem` does the same in the kernel, where it was built with it.)
"""

import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import sys
import time

NEAR, FAR = "198.18.0.1", "198.18.0.2"
"""Of the block that is set apart for trials (RFC 2544): nobody else has them."""
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x1, 0x1000


def ip(*words: str) -> None:
    """Run `ip`."""
    subprocess.run(["ip", *words], check=True)


def device(name: str) -> int:
    """A network device whose packets are read and written here."""
    made = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(made, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
    return made


def made(namespace: str) -> dict[int, int]:
    """The two ends of a line, each with the other one."""
    ip("netns", "add", namespace)
    near, far = device("wn-near"), device("wn-far")
    ip("link", "set", "wn-far", "netns", namespace)
    ip("addr", "add", f"{NEAR}/30", "dev", "wn-near")
    ip("link", "set", "wn-near", "up")
    ip("-n", namespace, "link", "set", "lo", "up")
    ip("-n", namespace, "addr", "add", f"{FAR}/30", "dev", "wn-far")
    ip("-n", namespace, "link", "set", "wn-far", "up")
    return {near: far, far: near}


def relay(ends: dict[int, int], seconds: float, loss: float, rng: random.Random) -> None:
    """Pass packets on, `seconds` later each, until the input ends."""
    waiting: list[tuple[float, int, int, bytes]] = []
    passed, whole = 0, True
    while True:
        left = max(waiting[0][0] - time.monotonic(), 0) if waiting else None
        for ready in select.select([*ends, sys.stdin], [], [], left)[0]:
            if ready is sys.stdin:
                if not (word := os.read(0, 100).decode()):
                    return
                whole = word.split()[-1] != "cut"
                continue
            packet = os.read(ready, 65_536)
            passed += 1
            if whole and rng.random() >= loss:
                heapq.heappush(waiting, (time.monotonic() + seconds, passed, ends[ready], packet))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, end, packet = heapq.heappop(waiting)
            if whole:
                os.write(end, packet)


def main() -> None:
    """See above."""
    namespace, seconds, loss = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
    try:
        ends = made(namespace)
        print("ready", flush=True)
        relay(ends, seconds, loss, random.Random(0))
    finally:
        subprocess.run(["ip", "netns", "del", namespace], check=False)


if __name__ == "__main__":
    main()
