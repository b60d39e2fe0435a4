"""What stands in each chunk of a stream exactly once, and in nothing that a proxy adds."""

MARK = b"~"
