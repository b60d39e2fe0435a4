"""Managed compute on this machine: every replica is a supervised process in an environment of its own."""

from autoscaler.backends.local.backend import LocalBackend
from autoscaler.backends.local.folder import Rules

__all__ = ["LocalBackend", "Rules"]
