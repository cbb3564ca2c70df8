"""Who may call /v1, and whatever else costs work: whoever presents one of the configured keys.

A presented key is compared with every configured one in time that depends on neither, so that response
times tell nothing about the keys.
"""

from __future__ import annotations

import hashlib
import hmac

from starlette.types import ASGIApp, Receive, Scope, Send

from tokenwire_services.gateway.errors import ApiError
from tokenwire_services.gateway.headers import header

_PROTECTED = ("/v1", "/tokenize", "/detokenize")
_CHALLENGE = (("www-authenticate", "Bearer"),)


class RequireApiKey:
    """Answers requests to what is protected without a valid key with 401, before their body is read."""

    def __init__(self, app: ASGIApp, api_keys: tuple[str, ...]) -> None:
        self._app = app
        self._digests = [_digest(key) for key in api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _is_protected(scope["path"]):
            problem = self._problem(header(scope, b"authorization"))
            if problem is not None:
                await ApiError.from_http(401, problem, _CHALLENGE).response()(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _problem(self, authorization: str) -> str | None:
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            return "You didn't provide an API key; send one in an Authorization header: Bearer YOUR_KEY"
        presented = _digest(key.strip())
        matches = [hmac.compare_digest(presented, digest) for digest in self._digests]
        return None if any(matches) else "Incorrect API key provided"


def _is_protected(path: str) -> bool:
    return any(path == protected or path.startswith(protected + "/") for protected in _PROTECTED)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
