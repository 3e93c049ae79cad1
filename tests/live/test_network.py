"""Sockets connected, accepted, bound, listening, and DNS queries, against what the workload says it did."""

from __future__ import annotations

import errno
import ipaddress
from collections import Counter
from types import SimpleNamespace

import pytest

from tests.live.harness import ROOT, Document, Sensor, Workloads, action, flags, get, of_kind

DAILY = 23
RARE = 7
ACTIONS = ("network-connect", "network-accept", "network-bind", "network-listen", "dns-query")
QUERY_TYPES = {1: "A", 28: "AAAA", 16: "TXT", 15: "MX", 2: "NS"}


@pytest.fixture(scope="module")
def ran(sensor: Sensor, workloads: Workloads) -> SimpleNamespace:
    """The workload's truth, and the network documents of its process in order."""
    truth, documents = sensor.watch(lambda: workloads.run("net", DAILY, RARE))
    seen = [d for d in of_kind(documents, *ACTIONS) if get(d, "process.pid") == truth["pid"]]
    return SimpleNamespace(truth=truth, seen=seen)


def _address(text: str) -> str:
    """IPv4 inside IPv6 is the same address."""
    parsed = ipaddress.ip_address(text)
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)


def _rows(ran: SimpleNamespace, op: str, how: str | None = None) -> list[Document]:
    return [row for row in ran.truth["operations"] if row["op"] == op and how in (None, row["how"])]


def _seen(ran: SimpleNamespace, wanted: str) -> list[Document]:
    return [d for d in ran.seen if action(d) == wanted]


def _pairs(ran: SimpleNamespace, op: str, wanted: str) -> list[tuple[Document, Document]]:
    """Truth and document side by side; the workload is one thread, so the order is the same."""
    return list(zip(_rows(ran, op), _seen(ran, wanted), strict=True))


def test_every_connect_is_seen_once_with_peer_transport_and_result(ran: SimpleNamespace) -> None:
    """IPv4, IPv6 and mapped; TCP and UDP; done, refused and under way: in order, none twice."""
    wanted = [
        (_address(row["destination_ip"]), row["destination_port"], row["transport"], -row["errno"])
        for row in _rows(ran, "connect")
    ]
    seen = [
        (
            _address(get(d, "destination.ip")),
            get(d, "destination.port"),
            get(d, "network.transport"),
            get(d, "event.result"),
        )
        for d in _seen(ran, "network-connect")
    ]
    assert seen == wanted


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_23_connects_of_a_kind_are_23_events(ran: SimpleNamespace, family: str, transport: str) -> None:
    """Counted by the port of the workload's own listener."""
    ports = {
        row["destination_port"]
        for row in _rows(ran, "connect", "plain")
        if (row["type"], row["transport"]) == (family, transport)
    }
    seen = [
        d
        for d in _seen(ran, "network-connect")
        if get(d, "destination.port") in ports and get(d, "network.type") == family and get(d, "event.result") == 0
    ]
    assert len(ports) == 1
    assert len(seen) == DAILY
    assert {get(d, "network.transport") for d in seen} == {transport}


@pytest.mark.parametrize(
    ("how", "times"),
    [
        ("sendto", 2 * RARE),
        ("sendmsg", 2 * RARE),
        ("sendmmsg", 6 * RARE),
        ("past the connection", 2 * RARE),
        ("dissolved", 2 * RARE),
        ("AF_UNSPEC", RARE),
        ("IPv4", RARE),
        ("dns sendto", 2 * RARE),
    ],
)
@pytest.mark.hostile("socket-ways")
def test_first_datagram_to_a_place_is_a_connect_and_the_next_is_not(
    ran: SimpleNamespace, how: str, times: int
) -> None:
    """Without a connection to it: by every call that sends, by whatever family the address claims to be."""
    pairs = [(row, d) for row, d in _pairs(ran, "connect", "network-connect") if row["how"] == how]
    assert len(pairs) == times
    for row, d in pairs:
        told = _address(get(d, "destination.ip")), get(d, "destination.port"), get(d, "network.transport")
        assert told == (row["destination_ip"], row["destination_port"], "udp")
        assert "argument" in flags(d)


@pytest.mark.hostile("socket-ways")
def test_connection_that_a_send_begins_is_a_connect(ran: SimpleNamespace) -> None:
    """MSG_FASTOPEN: the addresses are the kernel's."""
    pairs = [(row, d) for row, d in _pairs(ran, "connect", "network-connect") if row["how"] == "fast open"]
    if not pairs:
        pytest.skip("this kernel opens no TCP connection by a send")
    assert len(pairs) == 2 * RARE
    for row, d in pairs:
        assert (get(d, "destination.ip"), get(d, "source.port")) == (row["destination_ip"], row["source_port"])


def test_tcp_and_udp_under_other_names_are_seen(ran: SimpleNamespace) -> None:
    """MPTCP, which is TCP on the wire, and UDP-Lite."""
    pairs = _pairs(ran, "connect", "network-connect")
    for how, transport in (("mptcp", "tcp"), ("udp-lite", "udp-lite")):
        seen = [get(d, "network.transport") for row, d in pairs if row["how"] == how]
        assert seen in ([], [transport] * 2 * RARE), how  # a kernel may have none


def test_source_of_a_connect_is_what_getsockname_says(ran: SimpleNamespace) -> None:
    """Local address and the port that the kernel chose."""
    for row, d in _pairs(ran, "connect", "network-connect"):
        if "source_ip" in row:
            told = _address(get(d, "source.ip")), get(d, "source.port")
            assert told == (_address(row["source_ip"]), row["source_port"]), row


@pytest.mark.parametrize(
    ("how", "result", "outcome"),
    [
        ("plain", 0, "success"),
        ("refused", -errno.ECONNREFUSED, "failure"),
        ("non-blocking", -errno.EINPROGRESS, "unknown"),
    ],
)
def test_outcome_follows_from_the_result(ran: SimpleNamespace, how: str, result: int, outcome: str) -> None:
    """A refused connect failed; a non-blocking one has only begun."""
    pairs = [(row, d) for row, d in _pairs(ran, "connect", "network-connect") if row["how"] == how]
    assert len(pairs) >= 2 * RARE
    assert {(get(d, "event.result"), get(d, "event.outcome")) for _, d in pairs} == {(result, outcome)}


def test_connects_go_out_and_accepts_come_in(ran: SimpleNamespace) -> None:
    """network.direction and network.initiated, which Sigma's Initiated reads."""
    assert {(get(d, "network.direction"), get(d, "network.initiated")) for d in _seen(ran, "network-connect")} == {
        ("egress", True)
    }
    assert {(get(d, "network.direction"), get(d, "network.initiated")) for d in _seen(ran, "network-accept")} == {
        ("ingress", False)
    }


def test_every_accept_is_seen_once_with_the_peers_port(ran: SimpleNamespace) -> None:
    """The source is the peer, the destination is the listener; accept and accept4 alike."""
    rows = _rows(ran, "accept")
    rarest = sum(len(_rows(ran, "connect", how)) for how in ("fast open", "mptcp"))
    assert len(rows) == 2 * (DAILY + RARE) + RARE + rarest
    wanted = [
        (
            _address(row["source_ip"]),
            row["source_port"],
            _address(row["destination_ip"]),
            row["destination_port"],
            row["transport"],
            row["type"],
        )
        for row in rows
    ]
    seen = [
        (
            _address(get(d, "source.ip")),
            get(d, "source.port"),
            _address(get(d, "destination.ip")),
            get(d, "destination.port"),
            get(d, "network.transport"),
            get(d, "network.type"),
        )
        for d in _seen(ran, "network-accept")
    ]
    assert seen == wanted


def test_accept_and_connect_of_one_connection_have_the_same_two_ends(ran: SimpleNamespace) -> None:
    """Source and destination mean the same on both sides."""

    def ends(documents: list[Document]) -> Counter[tuple[object, ...]]:
        return Counter(
            (
                _address(get(d, "source.ip")),
                get(d, "source.port"),
                _address(get(d, "destination.ip")),
                get(d, "destination.port"),
            )
            for d in documents
        )

    connected = [
        d
        for d in _seen(ran, "network-connect")
        if get(d, "network.transport") == "tcp" and get(d, "event.result") in (0, -errno.EINPROGRESS)
    ]
    assert ends(connected) == ends(_seen(ran, "network-accept"))


def test_binds_have_the_port_that_the_kernel_gave(ran: SimpleNamespace) -> None:
    """Port 0 was asked for; the document says which it became."""
    wanted = [(row["source_ip"], row["source_port"], row["transport"], row["type"], 0) for row in _rows(ran, "bind")]
    seen = [
        (
            get(d, "source.ip"),
            get(d, "source.port"),
            get(d, "network.transport"),
            get(d, "network.type"),
            get(d, "event.result"),
        )
        for d in _seen(ran, "network-bind")
    ]
    assert seen == wanted


def test_listeners_have_their_address(ran: SimpleNamespace) -> None:
    """One event per listen()."""
    wanted = [(row["source_ip"], row["source_port"], row["transport"], row["type"]) for row in _rows(ran, "listen")]
    assert len(wanted) == 7
    seen = [
        (get(d, "source.ip"), get(d, "source.port"), get(d, "network.transport"), get(d, "network.type"))
        for d in _seen(ran, "network-listen")
    ]
    assert seen == wanted


@pytest.mark.parametrize(("how", "each"), [("sendto", 1), ("sendmsg", 1), ("sendmmsg", 3), ("send", 1)])
def test_dns_queries_have_name_type_and_server(ran: SimpleNamespace, how: str, each: int) -> None:
    """Each datagram to port 53, also each of a sendmmsg() and one whose name lies in two pieces."""
    rows = _rows(ran, "dns", how)
    assert len(rows) == 2 * RARE * each
    wanted = [(row["name"], QUERY_TYPES[row["query_type"]], row["destination_ip"], 53, row["type"]) for row in rows]
    names = {row["name"] for row in rows}
    seen = [
        (
            get(d, "dns.question.name"),
            get(d, "dns.question.type"),
            get(d, "destination.ip"),
            get(d, "destination.port"),
            get(d, "network.type"),
        )
        for d in _seen(ran, "dns-query")
        if get(d, "dns.question.name") in names
    ]
    assert seen == wanted


def test_dns_by_write_is_seen_or_declared_as_missed(ran: SimpleNamespace) -> None:
    """write() on a connected socket passes the socket calls by; the probe's head owns up to it."""
    names = [row["name"] for row in _rows(ran, "dns", "write")]
    seen = [get(d, "dns.question.name") for d in _seen(ran, "dns-query")]
    found = [name for name in names if name in seen]
    if found != names:
        assert found == []
        head = (ROOT / "probes" / "datagram.c").read_text().split("*/")[0]
        assert "write()" in head.split("Misses")[1]


def test_nothing_but_port_53_over_udp_is_a_dns_query(ran: SimpleNamespace) -> None:
    """Datagrams to other ports are none, and no query makes two."""
    by_write = {row["name"] for row in _rows(ran, "dns", "write")}
    seen = [d for d in _seen(ran, "dns-query") if get(d, "dns.question.name") not in by_write]
    assert {get(d, "destination.port") for d in seen} == {53}
    assert {get(d, "network.transport") for d in seen} == {"udp"}
    assert len(seen) == len([row for row in _rows(ran, "dns") if row["name"] not in by_write])


def test_unix_sockets_and_dissolved_associations_make_no_event(ran: SimpleNamespace) -> None:
    """AF_UNIX and AF_UNSPEC are no network connections."""
    assert {get(d, "network.type") for d in ran.seen} == {"ipv4", "ipv6"}
    assert len(_seen(ran, "network-connect")) == len(_rows(ran, "connect"))


def test_addresses_of_successful_tcp_connects_are_the_kernels(ran: SimpleNamespace) -> None:
    """Nothing that the caller could have swapped."""
    done = [
        d for d in _seen(ran, "network-connect") if get(d, "network.transport") == "tcp" and get(d, "event.result") == 0
    ]
    assert done
    assert not [d for d in done if "argument" in flags(d)]


def test_documents_name_the_acting_process(ran: SimpleNamespace) -> None:
    """Executable and user come with every network event."""
    assert {get(d, "process.executable") for d in ran.seen} == {ran.truth["executable"]}
    assert {get(d, "user.name") for d in ran.seen} == {"root"}
