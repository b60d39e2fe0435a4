"""Tidegate on Kubernetes: a real cluster on this machine for tests, the demo and benches."""
