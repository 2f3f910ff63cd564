"""Datasette, a finished ASGI application, over a small SQLite database."""

import csv
import io
import sqlite3
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from frameworks.browser import Browser, loads
from frameworks.conftest import Run
from server import Listening
from wire import Malformed

ROWS = 3000


@pytest.fixture(scope="module")
def server(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    path = tmp_path_factory.mktemp("data") / "plants.db"
    database = sqlite3.connect(path)
    database.execute("create table plants (id integer primary key, name text, height_cm real, family text)")
    rows = ((number, f"plant {number}", number / 10, f"family {number % 7}") for number in range(ROWS))
    database.executemany("insert into plants values (?, ?, ?, ?)", rows)
    database.commit()
    database.close()
    with run("on_datasette:app", "asgi", {"DATABASE": str(path)}) as server:
        yield server


def test_pages(browser: Browser) -> None:
    for target, found in (
        ("/", b"plants"),
        ("/plants", b"3,000"),
        ("/plants/plants", b"family 3"),
        ("/plants/plants/7", b"plant 7"),
    ):
        response = browser.get(target)
        assert (response.status, response["content-type"]) == (200, "text/html; charset=utf-8")
        assert found in response.body


def test_json(browser: Browser) -> None:
    found = browser.json("/plants/plants.json?_shape=array&family__exact=family+3&_size=5")
    assert [row["id"] for row in found] == [3, 10, 17, 24, 31]
    facets = browser.json("/plants/plants.json?_facet=family")["facet_results"]
    assert "family" in str(facets)


def test_queries(browser: Browser) -> None:
    sql = quote("select count(*) as n, max(height_cm) as most from plants where family = :family")
    response = browser.get(f"/plants.json?sql={sql}&family=family+0&_shape=array")
    if response.status == 302:
        response = browser.get(response["location"])
    assert loads(response) == [{"n": 429, "most": 299.6}]
    assert browser.get("/plants.json?sql=" + quote("delete from plants")).status in (302, 400)


def test_a_streamed_table(browser: Browser) -> None:
    response = browser.get("/plants/plants.csv?_stream=on&_size=max")
    rows = list(csv.DictReader(io.StringIO(response.body.decode())))
    assert len(rows) == ROWS
    assert rows[-1]["name"] == f"plant {ROWS - 1}"


def test_the_database_itself(browser: Browser, maker: str) -> None:
    """Datasette gives its file a length and a transfer coding; one of them must not reach the client (RFC 9112 §6.2)."""
    if maker == "reference":
        with pytest.raises(Malformed, match="framed twice"):
            browser.get("/plants.db")
        return
    response = browser.get("/plants.db")
    assert response.body.startswith(b"SQLite format 3\0")
    assert len(response.body) % 4096 == 0


def test_static_files_and_errors(browser: Browser) -> None:
    assert browser.get("/-/static/app.css")["content-type"].startswith("text/css")
    assert browser.get("/nowhere").status == 404
    assert browser.json("/-/versions.json")["asgi"] == "3.0"
    assert browser.request("HEAD", "/plants/plants").status in (200, 405)
