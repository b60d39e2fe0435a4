"""Who is let in. Health is open to all; an operator's token opens everything else, narrower ones a single address.

Where no token is set, only this machine can connect (`router.runtime.login` sees to it), and nobody is asked.
"""

from __future__ import annotations

import logging
import re

from aiohttp import web

from router.contract.signatures import QUERY, is_signed
from router.control.middleware import Handler, Refused
from router.runtime.login import TOKEN, Login
from router.runtime.telemetry import Limited

_log = logging.getLogger(__name__)
LOGIN = web.AppKey("login", Login)

OPEN = frozenset({"/healthz", "/readyz"})
"""Without secrets, for whoever looks after the process."""
METRICS = "/metrics"
SAY_SECONDS = 30.0
"""Between two lines about callers who were refused."""
_ASSET = re.compile(r"/v1/assets/([0-9a-f]{64})")
_say = Limited(_log, seconds=SAY_SECONDS)


@web.middleware
async def admitted(request: web.Request, handler: Handler) -> web.StreamResponse:
    """401 for whoever shows nothing that opens this address, before any of the body is read."""
    login = request.app[LOGIN]
    if not login.operators or request.path in OPEN or _signed(login, request):
        return await handler(request)
    shown = request.headers.getall("Authorization", [])
    scheme, _, token = shown[0].partition(" ") if len(shown) == 1 else ("", "", "")
    if scheme.lower() == "bearer":
        token = token.strip()
        if login.operators.know(token) or (request.path == METRICS and login.metrics.know(token)):
            return await handler(request)
    what = "another token than ours" if shown else "no token"
    _say.warning("login", f"a caller was refused: it shows {what}", path=request.path[:100], peer=request.remote)
    raise Refused(
        401,
        "Unauthorized",
        f"the request shows {what}: send 'Authorization: Bearer TOKEN' with the operators' token; the command line reads it "
        f"from the file that {TOKEN} names",
    )


def _signed(login: Login, request: web.Request) -> bool:
    asset = _ASSET.fullmatch(request.path)
    signature = request.query.get(QUERY)
    if asset is None or signature is None or request.method not in ("GET", "HEAD"):
        return False
    return any([is_signed(key, asset[1], signature) for key in login.assets.current()])  # noqa: C419 -- all of them, always
