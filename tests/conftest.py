"""One set of hypothesis examples for everybody, so that a red run can be repeated.

`HYPOTHESIS_SEARCH=1 make test` draws new examples every time and more of them.
"""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("search", max_examples=1000, deadline=None)
settings.load_profile("search" if os.environ.get("HYPOTHESIS_SEARCH") else "repeatable")
