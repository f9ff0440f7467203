"""Guard: who is let in, and what an address can never reach."""

from pathlib import Path

import pytest

from segcore.store import Workspace
from segcore.view.app import STATIC, view_app
from segcore.view.guard import POLICY, Guard
from segcore.view.serve import LOOPBACK, is_loopback
from tests.synthetic import put_image
from tests.view.conftest import Answer, Client
from tests.view.test_tiles import noise

TOKEN = "a-token"
HOME = {"host": "127.0.0.1:8000", "cookie": f"segcore-80={TOKEN}"}


@pytest.fixture
def guarded(workspace: Workspace) -> Client:
    put_image(workspace, "i0", noise((3, 20, 20)))
    return Client(Guard(view_app(workspace), LOOPBACK, TOKEN))


def ask(client: Client, path: str = "/", method: str = "GET", **headers: str) -> Answer:
    return client.get(path, method, {**HOME, **headers})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8000", "localhost:1", "LOCALHOST", "[::1]:8000", "[::1]"])
def test_own_names_are_let_in(guarded: Client, host: str) -> None:
    assert ask(guarded, host=host).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "127.0.0.1.evil.example",
        "localhost.evil.example:80",
        "",
        "10.0.0.1",
        "[::2]",
        "[evil]",
    ],
)
def test_other_names_are_turned_away(guarded: Client, host: str) -> None:
    assert ask(guarded, host=host).status == 421
    assert ask(guarded, f"/?token={TOKEN}", host=host).status == 421


def test_without_a_host_nothing_is_told(guarded: Client) -> None:
    assert guarded.get("/", headers={"cookie": HOME["cookie"]}).status == 421


def test_addresses_in_numbers_are_own_names_only_when_asked(workspace: Workspace) -> None:
    client = Client(Guard(view_app(workspace), LOOPBACK, TOKEN, any_address=True))
    assert ask(client, host="10.0.0.1:8000").status == 200
    assert ask(client, host="[fe80::1]:8000").status == 200
    assert ask(client, host="evil.example").status == 421


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_nothing_can_be_changed(guarded: Client, method: str) -> None:
    assert ask(guarded, "/api/images", method).status == 405


def test_the_token_is_asked_for_and_kept_in_a_cookie(guarded: Client) -> None:
    stranger = {"host": "localhost"}
    assert guarded.get("/", headers=stranger).status == 403
    assert guarded.get("/?token=wrong", headers=stranger).status == 403
    assert guarded.get("/", headers=stranger | {"cookie": "segcore-80=wrong"}).status == 403
    assert guarded.get("/api/images/i0", headers=stranger | {"cookie": f"segcore-81={TOKEN}"}).status == 403
    first = guarded.get(f"/image/i0?token={TOKEN}&z=1", headers=stranger)
    assert (first.status, first.headers["location"]) == (303, "/image/i0?z=1")
    assert first.headers["set-cookie"] == f"segcore-80={TOKEN}; HttpOnly; Path=/; SameSite=lax"


def test_the_redirect_stays_here(guarded: Client) -> None:
    away = guarded.get(f"//evil.example/?token={TOKEN}", headers={"host": "localhost"})
    assert (away.status, away.headers["location"]) == (303, "/evil.example/")


def test_every_answer_has_the_headers(guarded: Client) -> None:
    answers = [ask(guarded), ask(guarded, "/api/images"), ask(guarded, "/none"), ask(guarded, host="evil.example")]
    for answer in answers:
        assert answer.headers["content-security-policy"] == POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in answer.headers
    assert "unsafe" not in POLICY
    assert ask(guarded, "/api/images").headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "../..",
        "%2e%2e",
        "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "..%5c..",
        ".hidden",
        "%00",
        "a%00b",
        "a%0ab",
        "%2fetc%2fpasswd",
        "i0%2f..%2fi0",
        "x" * 300,
        "%ff",
    ],
)
def test_no_name_leads_out_of_the_workspace(guarded: Client, name: str) -> None:
    addresses = [
        f"/api/images/{name}", f"/api/images/{name}/values?y=0&x=0", f"/thumbnail/{name}", f"/static/{name}",
        f"/tile/{name}/image/image/0/0/0", f"/tile/i0/labels/{name}/0/0/0", f"/tile/i0/layers/{name}/0/0/0",
        f"/api/images/i0/values?y=0&x=0&of=labels%2F{name}", f"/api/images/i0/values?y=0&x=0&of=layers%2F{name}",
    ]  # fmt: skip
    for address in addresses:
        answer = ask(guarded, address)
        assert answer.status in (400, 404), (address, answer)
        assert b"root:" not in answer.content


def test_an_id_that_looks_like_a_path_never_reaches_the_store(guarded: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(Workspace, "image", lambda self, image_id: asked.append(image_id))
    ask(guarded, "/api/images/..%2f..%2fsecret")
    ask(guarded, "/tile/%2e%2e/image/image/0/0/0")
    assert asked == []


@pytest.mark.parametrize(
    "address",
    ["0/0/-1", "0/0/x", "0/0/1e3", "99/0/0", "0/1/0", "0/0/999999999999", "0/0/0?z=-1", "0/0/0?bands=0,1",
     "0/0/0?bands=0,1,9", "0/0/0?bands=%27", "0/0/0?low=nan&high=1", "0/0/0?low=a&high=1", "0/0/0?low=1e999&high=2"],
)  # fmt: skip
def test_tiles_that_cannot_be_are_one_line(guarded: Client, address: str) -> None:
    answer = ask(guarded, f"/tile/i0/image/image/{address}")
    assert answer.status == 400
    assert "\n" not in answer.json()["error"]
    assert ask(guarded, "/tile/i0/elsewhere/image/0/0/0").status == 400
    assert ask(guarded, "/tile/i0/labels/target/0/0/0?hidden=70000").status in (400, 404)


def test_a_very_long_address_is_refused(guarded: Client) -> None:
    assert ask(guarded, "/api/images?text=" + "a" * 9000).status == 414


def test_our_own_files_are_all_there_and_load_nothing_from_elsewhere(guarded: Client) -> None:
    for path in STATIC.rglob("*"):
        if path.is_file():
            address = f"/static/{path.relative_to(STATIC).as_posix()}"
            answer = ask(guarded, address)
            assert answer.content == path.read_bytes()
            again = ask(guarded, address, **{"if-none-match": answer.headers["etag"]})
            assert (again.status, again.content) == (304, b"")
            if path.parent == STATIC:
                assert "http" not in path.read_text().replace("https:", "http:").replace("fetchJson", "")
                assert "innerHTML" not in path.read_text()
    assert ask(guarded, "/static/openlayers/ol.js").headers["content-type"].startswith("text/javascript")


def test_openlayers_is_the_version_that_the_makefile_names() -> None:
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    version = makefile.partition("OPENLAYERS := ol@")[2].split()[0]
    assert f'"{version}"' in (STATIC / "openlayers" / "ol.js").read_text()
    assert "BSD 2-Clause License" in (STATIC / "openlayers" / "LICENSES.txt").read_text()


def test_what_only_this_machine_reaches() -> None:
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.0.0.2", "::1", "localhost"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", ""))
