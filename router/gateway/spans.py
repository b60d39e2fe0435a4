"""Spans as OTLP writes them in JSON, put together from pieces of text: a dictionary per span would cost three times as much."""

from __future__ import annotations

from json.encoder import encode_basestring_ascii as quoted

SERVER, CLIENT = 2, 3
"""Kinds of a span."""
MOST_KEPT = 1024
"""Pieces of each kind that are kept; they are begun anew when there are more."""


def text(key: str, value: str) -> str:
    """An attribute that is a string."""
    return f'{{"key":"{key}","value":{{"stringValue":{quoted(value)}}}}}'


def whole(key: str, value: int) -> str:
    """An attribute that is a whole number."""
    return f'{{"key":"{key}","value":{{"intValue":"{value}"}}}}'


def fraction(key: str, value: float) -> str:
    """An attribute that is a finite number."""
    return f'{{"key":"{key}","value":{{"doubleValue":{value!r}}}}}'


def event(at_ns: int, name: str, attributes: str) -> str:
    """Something that happened during a span. `attributes`: with commas between them."""
    return f'{{"timeUnixNano":"{at_ns}","name":"{name}","attributes":[{attributes}]}}'


def span_bytes(
    trace: int, span: int, parent: int, state: bytes, flags: int, *, name: str, kind: int, start_ns: int, end_ns: int,
    attributes: str, events: str, error: str,
) -> bytes:  # fmt: skip
    """One span. Ids as numbers, `parent` 0 = none; times are Unix nanoseconds; `name` is quoted already; `error` = why it
    failed, empty for no failure. Attributes and events: with commas between them.
    """
    more = f',"parentSpanId":"{parent:016x}"' if parent else ""
    if state:
        more += f',"traceState":{quoted(state.decode("latin-1"))}'
    if events:
        more += f',"events":[{events}]'
    if error:
        more += f',"status":{{"code":2,"message":{quoted(error)}}}'
    body = (
        f'{{"traceId":"{trace:032x}","spanId":"{span:016x}","name":{name},"kind":{kind},"startTimeUnixNano":"{start_ns}"'
        f',"endTimeUnixNano":"{max(end_ns, start_ns)}","flags":{flags},"attributes":[{attributes}]{more}}}'
    )
    return body.encode()
