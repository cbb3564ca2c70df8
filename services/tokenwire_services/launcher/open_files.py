"""How many files a process may have open: each connection is one, and shells commonly allow 1024."""

from __future__ import annotations

import resource

_MANY = 1 << 20


def allow_many_files() -> None:
    """Raise this process's own limit, and that of what it starts, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MANY if hard == resource.RLIM_INFINITY else min(hard, _MANY)
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
