"""Django, over WSGI and over ASGI: the admin site, forms, uploads, streams."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from frameworks.browser import Browser, brief, content, hidden
from frameworks.conftest import APPS, Interface, Run
from server import Listening
from wire import chunked, head

PAYLOAD = bytes(range(256)) * 8192


@pytest.fixture(scope="module", params=["wsgi", "asgi"])
def interface(request: pytest.FixtureRequest) -> Interface:
    found: Interface = request.param
    return found


def environment(data: Path) -> dict[str, str]:
    return {"SITE_DATA": str(data), "DJANGO_SETTINGS_MODULE": "django_site.settings"}


@pytest.fixture(scope="session")
def migrated(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site's data: a database with its tables and one administrator."""
    data = tmp_path_factory.mktemp("site")

    def manage(*arguments: str) -> str:
        everything = {**os.environ, **environment(data), "DJANGO_SUPERUSER_PASSWORD": "secret"}
        command = [str(python), "-m", "django", *arguments]
        return subprocess.run(command, cwd=APPS, env=everything, capture_output=True, text=True, check=True).stdout

    assert "No changes" in manage("makemigrations", "--check", "--dry-run")
    assert "Applying notes.0001_initial... OK" in manage("migrate")
    manage("createsuperuser", "--noinput", "--username", "root", "--email", "root@test.test")
    return data


@pytest.fixture(scope="module")
def server(run: Run, interface: Interface, migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    data = tmp_path_factory.mktemp("copies") / "site"
    shutil.copytree(migrated, data)
    with run(f"django_site.{interface}:application", interface, environment(data)) as server:
        yield server


@pytest.fixture
def admin(browser: Browser) -> Browser:
    page = browser.get("/admin/login/?next=/admin/").body.decode()
    form = {
        "username": "root",
        "password": "secret",
        "csrfmiddlewaretoken": hidden(page, "csrfmiddlewaretoken"),
        "next": "/admin/",
    }
    response = browser.post_form("/admin/login/", form)
    assert (response.status, response["location"]) == (302, "/admin/"), brief(response)
    assert {"csrftoken", "sessionid"} <= set(browser.cookies)
    return browser


def test_the_admin_site_asks_for_a_login(browser: Browser) -> None:
    response = browser.get("/admin/")
    assert (response.status, response["location"]) == (302, "/admin/login/?next=/admin/")
    page = browser.get("/admin/login/").body.decode()
    form = {"username": "root", "password": "wrong", "csrfmiddlewaretoken": hidden(page, "csrfmiddlewaretoken")}
    assert b"Please enter the correct username" in browser.post_form("/admin/login/", form).body


def test_a_form_without_its_token_is_403(browser: Browser) -> None:
    response = browser.post_form("/admin/login/", {"username": "root", "password": "secret"})
    assert response.status == 403
    assert b"CSRF verification failed" in response.body


def test_notes_in_the_admin_site(admin: Browser) -> None:
    assert b"Site administration" in admin.get("/admin/").body
    page = admin.get("/admin/notes/note/add/").body.decode()
    form = {"title": "žluť", "csrfmiddlewaretoken": hidden(page, "csrfmiddlewaretoken")}
    files = [("file", ("a.txt", "text/plain", b"attached"))]
    response = admin.post_files("/admin/notes/note/add/", form, files)
    assert (response.status, response["location"]) == (302, "/admin/notes/note/"), brief(response)
    page = content(admin.get("/admin/notes/note/?q=lu", accept_encoding="gzip")).decode()
    assert "žluť" in page
    assert "was added successfully" in page, "the message that the redirect left behind"
    assert "žluť" in [note["title"] for note in admin.json("/")["notes"]]


def test_an_upload_and_its_download(admin: Browser) -> None:
    page = admin.get("/notes/new/").body.decode()
    form = {"title": "large", "csrfmiddlewaretoken": hidden(page, "csrfmiddlewaretoken")}
    response = admin.post_files("/notes/new/", form, [("file", ("large.bin", "application/octet-stream", PAYLOAD * 4))])
    assert response.status == 302, brief(response)
    file = admin.get(response["location"])
    assert file["content-disposition"].startswith('attachment; filename="large')
    assert file.body == PAYLOAD * 4


def test_a_page_behind_the_login(browser: Browser) -> None:
    response = browser.get("/notes/new/")
    assert (response.status, response["location"]) == (302, "/admin/login/?next=/notes/new/")


def test_logging_out(admin: Browser) -> None:
    page = admin.get("/admin/").body.decode()
    assert admin.post_form("/admin/logout/", {"csrfmiddlewaretoken": hidden(page, "csrfmiddlewaretoken")}).status == 200
    assert admin.get("/admin/").status == 302


def test_streams(browser: Browser) -> None:
    expected = b"".join(b"%d\n" % number for number in range(3000))
    assert browser.get("/stream/3000/").body == expected
    assert content(browser.get("/stream/3000/", accept_encoding="gzip")) == expected


def test_an_asynchronous_view(browser: Browser) -> None:
    assert browser.json("/async/")["second"] == "slept"


def test_the_request(browser: Browser) -> None:
    found = browser.get("/meta/?a=%20b", host="test:81", x_test="1").json
    expected = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/meta/",
        "QUERY_STRING": "a=%20b",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_X_TEST": "1",
        "uri": "http://test:81/meta/?a=%20b",
        "scheme": "http",
    }
    assert {key: found[key] for key in expected} == expected
    assert browser.get("/meta/", host="elsewhere.test").status == 400


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_streamed_request(server: Listening, framing: str, interface: Interface) -> None:
    body = chunked(PAYLOAD[:100_000], PAYLOAD[100_000:]) if framing == "chunked" else PAYLOAD
    field = {"transfer-encoding": "chunked"} if framing == "chunked" else {"content-length": str(len(body))}
    with server.connect() as connection:
        connection.send(head("POST", "/raw/", field) + body)
        found = connection.response().json
    if (framing, interface) == ("chunked", "wsgi"):
        # Django takes a WSGI body without Content-Length for empty, under every server (WSGIRequest.__init__).
        assert found["size"] == 0
        return
    assert found == {"size": len(PAYLOAD), "sha256": hashlib.sha256(PAYLOAD).hexdigest()}


def test_conditional_requests_and_errors(browser: Browser) -> None:
    response = browser.get("/")
    assert browser.get("/", if_none_match=response["etag"]).status == 304
    assert browser.get("/nowhere/").status == 404
    assert (browser.get("/admin").status, browser.get("/admin")["location"]) == (301, "/admin/")
    assert browser.get("/fails/").status == 500
    browser.server.log.wait("RuntimeError: broken on purpose")
