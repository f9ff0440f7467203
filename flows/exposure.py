"""Exposure: what a Prefect server lets in, found by asking it as a stranger would; and what watches its runs.

A server for this machine alone may be open: nobody else reaches it. Any other that is open is a finding, since whoever
may start runs, or make deployments, runs programs on the workers.
"""

import base64
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from segcore.errors import SegcoreError
from segcore.roots import SOURCE_ROOTS, WORKSPACE_ROOTS

TIMEOUT_S = 5
STRANGER = "https://stranger.invalid"
LOCAL = ("127.0.0.1", "localhost", "::1")
LOCKED = {"env", "command", "working_dir"}
"""What a run must not bring."""


class Finding(NamedTuple):
    """One check."""

    name: str
    told: str
    fine: bool


class Exposure:
    """One server, asked with and without its password.

    Args:
        url: of its API, `http://127.0.0.1:4200/api`.
        password: `user:password`; None where there is none.
    """

    def __init__(self, url: str, password: str | None) -> None:
        self.url, self._password = url.rstrip("/"), password

    @property
    def is_local(self) -> bool:
        """True for a server that is asked on this machine; it may still listen to others."""
        return urlsplit(self.url).hostname in LOCAL

    def findings(self) -> Iterator[Finding]:
        """What is checked, what was found, and whether it is as it should be.

        Raises:
            SegcoreError: if the server does not take the password, so that nothing can be checked.
        """
        if self._ask("GET", "/admin/version")[0] in (401, 403):
            raise SegcoreError(f"{self.url}: does not take the password in PREFECT_API_AUTH_STRING")
        yield self._tls()
        yield self._auth()
        yield self._cors()
        yield self._csrf()
        yield self._pages()
        yield self._database()
        yield self._pools()
        yield self._automations()
        yield self._roots()

    def _tls(self) -> Finding:
        if self.url.startswith("https://"):
            return Finding("TLS", "on", True)
        if self.is_local:
            return Finding("TLS", "off: right for 127.0.0.1; others reach it through a proxy with TLS", True)
        return Finding("TLS", "off: the password travels readable; put a proxy with TLS before it", False)

    def _auth(self) -> Finding:
        if self._ask("GET", "/admin/version", with_password=False)[0] in (401, 403):
            return Finding("password", "asked for", True)
        return self._open("password", "everybody who reaches it may run anything: set PREFECT_SERVER_API_AUTH_STRING")

    def _cors(self) -> Finding:
        headers = {"Origin": STRANGER, "Access-Control-Request-Method": "POST"}
        _, answered, _ = self._ask("OPTIONS", "/flows/filter", None, headers)
        if answered.get("access-control-allow-origin") not in ("*", STRANGER):
            return Finding("other pages (CORS)", "kept out", True)
        told = "every web page may call it from your browser: set PREFECT_SERVER_CORS_ALLOWED_ORIGINS"
        return self._open("other pages (CORS)", told)

    def _csrf(self) -> Finding:
        if self._csrf_headers():
            return Finding("forged requests (CSRF)", "refused", True)
        told = "are taken: set PREFECT_SERVER_CSRF_PROTECTION_ENABLED=true"
        return self._open("forged requests (CSRF)", told)

    def _pages(self) -> Finding:
        _, _, told = self._ask("GET", "/ui-settings", base=self.url.removesuffix("/api"))
        if not isinstance(told, dict) or not told.get("available_uis"):
            return Finding("pages", "none: is PREFECT_UI_STATIC_DIRECTORY a folder that the server may write?", True)
        return Finding("pages", f"look for the server at {told.get('api_url')}", True)

    def _database(self) -> Finding:
        _, _, settings = self._ask("GET", "/admin/settings")
        server = settings.get("server", {}) if isinstance(settings, dict) else {}
        driver = str(server.get("database", {}).get("driver") or "")
        if "postgresql" in driver:
            return Finding("database", "PostgreSQL", True)
        if not driver:
            return Finding(
                "database", "not told by the server; PostgreSQL where several workers or long nights run", True
            )
        return Finding(
            "database", "SQLite: enough for one laptop; PostgreSQL where workers run every night", self.is_local
        )

    def _pools(self) -> Finding:
        _, _, pools = self._ask("POST", "/work_pools/filter", {}, self._csrf_headers())
        if pools == []:
            return Finding("work pools", "none yet: `segcore deploy` makes one", True)
        open_ones = [
            pool["name"]
            for pool in (pools if isinstance(pools, list) else [])
            if LOCKED & pool.get("base_job_template", {}).get("variables", {}).get("properties", {}).keys()
        ]
        if not open_ones:
            return Finding("work pools", "no run can bring a command or an environment", True)
        told = f"{', '.join(open_ones)}: a run may bring its own command and environment; `segcore deploy` makes one"
        return self._open("work pools", f"{told} that does not let it")

    def _automations(self) -> Finding:
        _, _, found = self._ask("POST", "/automations/filter", {}, self._csrf_headers())
        names = {str(each.get("name")) for each in found} if isinstance(found, list) else set()
        ours = sorted(name.removeprefix("segcore: ") for name in names if name.startswith("segcore: "))
        if ours:
            return Finding("automations", ", ".join(ours), True)
        return Finding(
            "automations", "none: a run whose machine went down is Running for ever; run `segcore deploy`", True
        )

    def _roots(self) -> Finding:
        if SOURCE_ROOTS in os.environ or WORKSPACE_ROOTS in os.environ:
            listed = [f"{name}={os.environ.get(name, 'nothing')}" for name in (SOURCE_ROOTS, WORKSPACE_ROOTS)]
            return Finding("roots", "; ".join(listed), True)
        told = "not set here: runs of a worker with this environment may read and write everywhere that it may"
        return Finding("roots", f"{told}; set {SOURCE_ROOTS} and {WORKSPACE_ROOTS}", True)

    def _csrf_headers(self) -> dict[str, str]:
        """What a POST needs where CSRF protection is on; empty where it is off."""
        status, _, found = self._ask("GET", "/csrf-token?client=segcore-doctor")
        if status != 200 or not isinstance(found, dict):
            return {}
        return {"Prefect-Csrf-Token": str(found["token"]), "Prefect-Csrf-Client": "segcore-doctor"}

    def _open(self, name: str, told: str) -> Finding:
        """What lets too much in; on this machine alone it may stand."""
        return Finding(name, f"open{' (asked on this machine)' if self.is_local else ''}: {told}", self.is_local)

    def _ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        with_password: bool = True,
        base: str | None = None,
    ) -> tuple[int, dict[str, str], Any]:
        """Status, headers in lower case, and the answer; a refusal is an answer too."""
        sent = {"Content-Type": "application/json", **(headers or {})}
        if with_password and self._password is not None:
            sent["Authorization"] = f"Basic {base64.b64encode(self._password.encode()).decode()}"
        data = None if body is None else json.dumps(body).encode()
        url = f"{base or self.url}{path}"
        request = urllib.request.Request(url, data, sent, method=method)  # noqa: S310 - the user's own
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
                return answer.status, _lower(answer.headers), _parsed(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, _lower(error.headers), None


def _lower(headers: Any) -> dict[str, str]:
    return {str(name).lower(): str(value) for name, value in headers.items()}


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None
