"""The proxies beside ours, each started with the same work and a configuration of its own."""
