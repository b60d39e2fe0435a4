"""`Server-Timing`: where the time of an answer went, as far as is known when its head is written.

For the network panel of a browser and for whoever debugs; only where the endpoint's `tidegate: {server_timing: true}` asks
for it, because it tells callers how busy a deployment is.
"""

from __future__ import annotations


def server_timing(arrival: int, dispatched: int, connecting: int, now: int, *, answered: bool) -> bytes:
    """The field with its line end. All in nanoseconds: `arrival`, `dispatched` (0 = never) and `now` monotonic moments,
    `connecting` a duration. `answered`: whether a replica has.

    queue: until a replica was chosen. connect: for a new connection to it. model: from there to the first byte of its
    answer; it holds the rest of the request's body. total: all of it. What is left over is the gateway's own.
    """
    queue = (dispatched or now) - arrival
    parts = f"queue;dur={queue / 1e6:.3f}"
    if dispatched:
        parts += f", connect;dur={connecting / 1e6:.3f}"
    if answered:
        parts += f", model;dur={(now - dispatched - connecting) / 1e6:.3f}"
    return f"server-timing: {parts}, total;dur={(now - arrival) / 1e6:.3f}\r\n".encode()
