"""What the clients say is read rightly, and a target is reached only by figures that may be compared. Nothing is measured here."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from http_versions.__main__ import usual_cpus
from http_versions.cases import CASES, TARGETS, Target
from http_versions.load import Unreadable, command, h2load, h3load, microseconds
from http_versions.measure import TRANSFERS, Round, Transfer
from http_versions.report import Report, flatness, verdict
from http_versions.servers import NATIVE, Ask, Place, nginx_config

SAID_BY_H2LOAD = """
TLS Protocol: TLSv1.3
Cipher: TLS_AES_128_GCM_SHA256
Server Temp Key: X25519 253 bits
Application protocol: h2

finished in 2.01s, 65025.00 req/s, 1.55MB/s
requests: 130060 total, 130370 started, 130050 done, 130050 succeeded, 7 failed, 3 errored, 0 timeout
status codes: 130000 2xx, 50 3xx, 0 4xx, 0 5xx
traffic: 3.10MB (3250000) total, 891.42KB (912814) headers (space savings 90.39%), 0B (0) data
                     min         max         mean         sd        +/- sd
time for request:      129us     18.72ms      4.52ms      2.37ms    74.42%
time for connect:    10.87ms     47.77ms     32.94ms     12.55ms    65.63%
"""

ROUND = Round(
    per_s=1000.0,
    errors=0,
    p50_us=1.0,
    p99_us=2.0,
    root_cpu_us=10.0,
    children_cpu_us=0.0,
    rss_mib=1.0,
    wire_bytes=20.0,
    resumed=1.0,
)
TARGET = Target("h2-fixed", "asked", "fasterapi", ("nginx", "nginx-quic"), most=1.2)
TRANSFER = Transfer("h3", "upload", 100.0, 1.0, edge_before_mib=10.0, edge_rss_mib=12.0, worker_rss_mib=30.0)


def test_h2load_counts_answers_that_were_200_and_calls_the_others_errors() -> None:
    load = h2load(SAID_BY_H2LOAD, seconds=2)
    assert (load.answers, load.begun, load.errors, load.seconds) == (130000, 130370, 60, 2.0)
    assert (load.p50_us, load.p99_us, load.wire_bytes) == (4520.0, 18720.0, 25.0)


@pytest.mark.parametrize(
    ("there", "instead"),
    [
        ("130000 2xx", "0 2xx"),
        ("Application protocol: h2", "Application protocol: http/1.1"),
        ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384"),
        ("traffic:", ""),
    ],
)
def test_what_h2load_did_otherwise_does_not_count(there: str, instead: str) -> None:
    with pytest.raises(Unreadable):
        h2load(SAID_BY_H2LOAD.replace(there, instead), seconds=2)


def test_times_come_in_three_units() -> None:
    assert [microseconds(text) for text in ("129us", "1.5ms", "2s")] == [129.0, 1500.0, 2e6]
    with pytest.raises(Unreadable):
        microseconds("1m")


def test_h3load_counts_answers_that_were_200_and_calls_the_others_errors() -> None:
    said = {"requests": 10, "errors": 1, "seconds": 2.0, "p50_us": 3, "p99_us": 4, "wire_bytes": 800, "resumed": 4}
    load = h3load(json.dumps({**said, "statuses": {"200": 8, "307": 2}}))
    assert (load.answers, load.begun, load.errors, load.wire_bytes, load.resumed) == (8, 11, 3, 100.0, 4)
    for wrong in (json.dumps({**said, "statuses": {"404": 10}}), ""):
        with pytest.raises(Unreadable):
            h3load(wrong)


def test_every_client_asks_with_the_method_of_the_fixed_answer() -> None:
    for case in CASES:
        words = command(case, Ask("/hello", "OPTIONS"), "https://127.0.0.1:1/hello", 1, "h3load")
        assert any("OPTIONS" in word for word in words), case.name


def test_a_target_is_measured_against_the_best_of_its_peers() -> None:
    slow, fast = replace(ROUND, root_cpu_us=9.0), replace(ROUND, root_cpu_us=8.0)
    reached = verdict(TARGET, {"h2-fixed": {"fasterapi": [ROUND], "nginx": [slow]}})
    assert reached.reached
    assert reached.cpu_ratio == pytest.approx(10 / 9)
    missed = verdict(TARGET, {"h2-fixed": {"fasterapi": [ROUND], "nginx": [slow], "nginx-quic": [fast]}})
    assert missed.reached is False
    assert missed.cpu_ratio == pytest.approx(1.25)


def test_a_rate_that_was_asked_for_counts_as_well() -> None:
    found = {"h2-fixed": {"fasterapi": [ROUND], "nginx": [replace(ROUND, per_s=600.0)]}}
    assert verdict(replace(TARGET, least=1.5), found).reached
    assert verdict(replace(TARGET, least=2.0), found).reached is False


def test_a_target_without_figures_is_not_judged() -> None:
    for found in ({}, {"h2-fixed": {"fasterapi": [ROUND]}}, {"h2-fixed": {"nginx": [ROUND]}}):
        assert verdict(TARGET, found).reached is None


def test_resumed_handshakes_are_compared_only_if_all_were_resumed() -> None:
    target = replace(TARGET, case="tls-resumed", peers=("nginx",))
    found = {"tls-resumed": {"fasterapi": [ROUND], "nginx": [replace(ROUND, resumed=0.67)]}}
    judged = verdict(target, found)
    assert judged.reached is None
    assert "nginx" in judged.measured


def test_memory_is_flat_if_no_transfer_made_the_edge_grow() -> None:
    all_of_them = [replace(TRANSFER, version=version, direction=direction) for version, direction in TRANSFERS]
    assert flatness(all_of_them).reached
    assert flatness([*all_of_them[1:], replace(all_of_them[0], edge_rss_mib=500.0)]).reached is False
    assert flatness(all_of_them[1:]).reached is None


def test_the_report_has_every_target_even_when_nothing_could_be_measured() -> None:
    report = Report("how", {}, {}, [], ["nginx: not installed"], ["round 1: it ended"])
    text = report.markdown()
    assert text.count("not judged") == len(TARGETS) + 1
    assert "nginx: not installed" in text
    assert "round 1: it ended" in text
    assert len(json.loads(report.json())["targets"]) == len(TARGETS) + 1


def test_every_target_is_of_contenders_that_its_case_measures() -> None:
    measured = {case.name: {each.name for each in case.contenders} for case in CASES}
    for target in TARGETS:
        assert {target.ours, *target.peers} <= measured[target.case], target


def test_nginx_listens_on_udp_only_when_it_can(tmp_path: Path) -> None:
    place = Place(1, tmp_path, Path("fasterapi"))
    assert "quic" not in nginx_config(place, quic=False)
    assert "listen 127.0.0.1:1 quic" in nginx_config(place, quic=True)
    assert NATIVE.is_ours


def test_client_and_server_are_apart_where_there_are_cpus_enough() -> None:
    assert usual_cpus([0, 1, 2, 3]) == ("0,1", "3")
    assert usual_cpus([4, 6]) == ("4", "6")
    assert usual_cpus([5]) == ("5", "5")
