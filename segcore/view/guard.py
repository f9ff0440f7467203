"""Guard: what stands between the network and the pages; every request passes it, every answer gets its headers.

Read-only (GET and HEAD), for the machine's own names only (a page from elsewhere whose name was made to point here is
turned away: DNS rebinding), and for browsers that know the token of this run, from its first address or their cookie.
"""

import ipaddress
import secrets
from urllib.parse import parse_qs, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
MAX_ADDRESS_BYTES = 8192


class Guard:
    """Wraps an application.

    Args:
        app: answers what is let through.
        hosts: names under which it may be asked for, without port; beside them any address in numbers if `any_address`.
        token: of this run.
        any_address: whether it listens on more than the machine's own loopback.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str], token: str, any_address: bool = False) -> None:
        self._app, self._hosts, self._token, self._any_address = app, hosts, token, any_address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        refused = self._refusal(scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        await (refused or self._app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        """The answer to whoever is not let through."""
        headers = Headers(scope=scope)
        if scope["method"] not in ("GET", "HEAD"):
            return refusal(405, f"{scope['method']}: nothing can be changed here, only GET")
        if len(scope["raw_path"]) + len(scope["query_string"]) > MAX_ADDRESS_BYTES:
            return refusal(414, "the address is too long")
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            return refusal(421, "asked for under a name that is not this machine's; use the address that was printed")
        cookie = f"segcore-{scope['server'][1]}"  # cookies do not tell ports apart
        known = cookie_parser(headers.get("cookie", "")).get(cookie, "")
        if self._is_token(known):
            return None
        query = parse_qs(scope["query_string"].decode("latin-1"))
        if not self._is_token(query.pop("token", [""])[0]):
            return refusal(403, "open the address that `segcore view` printed: it holds the token of this run")
        rest = urlencode(query, doseq=True)
        path = "/" + scope["raw_path"].decode("latin-1").lstrip("/")  # `//host` would lead elsewhere
        answer = RedirectResponse(path + (f"?{rest}" if rest else ""), status_code=303)
        answer.set_cookie(cookie, self._token, httponly=True, samesite="lax")
        return answer

    def _is_ours(self, host: str) -> bool:
        name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
        if name.lower() in self._hosts:
            return True
        try:
            return self._any_address and bool(ipaddress.ip_address(name))
        except ValueError:
            return False

    def _is_token(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), self._token.encode())


def refusal(status: int, reason: str) -> JSONResponse:
    """An error as JSON, one line."""
    return JSONResponse({"error": reason}, status)
