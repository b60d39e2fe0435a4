"""Settings for gunicorn inside a replica's own environment, where Tidegate is not installed: standard library only,
and any Python that the model needs. Names that an older gunicorn does not know are ignored by it.
"""

import ctypes
import os
import signal

control_socket_disable = True
"""The default socket is one per user: replicas would fight over it."""


def post_fork(server, worker):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201, ARG001 -- gunicorn's hook
    """A worker ends with its master: left alone it would keep the port and go on answering."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    if os.getppid() != server.pid:
        os._exit(0)
