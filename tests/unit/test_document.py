"""Documents made of records."""

from __future__ import annotations

import math
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.boottime import BootClock
from sensor.document import Builder, source
from sensor.kernel.decode import Record
from sensor.outputs.ecs_json import encode
from sensor.process.table import ProcessTable
from sensor.process.users import Users
from sensor.schema import BY_ID, BY_NAME, DERIVED, EVENTS, HEADER, Flag, Kind
from tests.unit.records import SECOND, execution, fork, record
from tests.unit.test_dns import message

OFFSET = 1_700_000_000 * SECOND
NAMES = {0: "root", 33: "www-data"}


class Bench:
    """A table and a builder, as the engine has them."""

    def __init__(self, **more: Any) -> None:
        clock, self.users = BootClock(OFFSET), Users(NAMES.get)
        self.table = ProcessTable("boot", clock=clock, users=self.users)
        self.builder = Builder(self.table, clock, self.users, **more)

    def make(self, item: Record) -> dict[str, Any]:
        """The document of one record."""
        process = self.table.apply(item)
        assert process is not None
        return self.builder.build(item, process)


@pytest.fixture
def bench() -> Bench:
    """With a shell 100 that was started by sshd 50 and executes."""
    made = Bench()
    made.table.apply(execution(50, 1, "/usr/sbin/sshd", "sshd", "-D", session_pid=50))
    made.table.apply(fork(50, 1, 100, SECOND))
    made.table.apply(execution(100, SECOND, "/bin/sh", "sh", "-c", "a  b", executable="/usr/bin/dash",
                               session_pid=50, cwd="/tmp", cgroup="/system.slice/ssh.service"))
    return made


def address(text: str) -> bytes:
    """IPv4 text as the ring has it."""
    return bytes(map(int, text.split("."))) + bytes(12)


def test_exec_document_says_who_what_and_whose_child(bench: Bench) -> None:
    """The fields that most rules look at."""
    document = bench.make(execution(100, SECOND, "/usr/bin/lsmod", "lsmod", executable="/usr/bin/kmod", uid=33,
                                    session_pid=50, cwd="/srv", time_ns=12 * SECOND + 345))
    process = document["process"]
    assert document["@timestamp"] == "2023-11-14T22:13:32.000000345Z"
    assert document["event"]["action"] == "process-exec"
    assert document["event"]["dataset"] == "sensor.process_exec"
    assert process["executable"] == "/usr/bin/lsmod"
    assert process["name"] == "lsmod"
    assert process["executable_resolved"] == "/usr/bin/kmod"
    assert process["args"] == ["lsmod"]
    assert process["working_directory"] == "/srv"
    assert process["start"] == "2023-11-14T22:13:21.000000000Z"
    assert process["parent"]["executable"] == "/usr/sbin/sshd"
    assert process["parent"]["command_line"] == "sshd -D"
    assert process["parent"]["user"] == {"id": "0", "name": "root"}
    assert process["session_leader"] == {"pid": 50, "executable": "/usr/sbin/sshd",
                                         "entity_id": process["parent"]["entity_id"]}
    assert process["ancestors"] == ["/usr/sbin/sshd"]
    assert document["user"] == {"id": "33", "name": "www-data", "effective": {"id": 33, "group": {"id": 0}}}


def test_command_line_joins_arguments_by_single_spaces(bench: Bench) -> None:
    """Spaces inside arguments stay; nothing is quoted, as rules expect."""
    process = bench.make(record("file_unlink", path="/x"))["process"]
    assert process["command_line"] == "sh -c a  b"


def test_script_is_beside_its_interpreter(bench: Bench) -> None:
    """Image is the interpreter; the script has a key of its own."""
    process = bench.make(execution(100, SECOND, "./go", "/bin/sh", "./go", interpreter="/bin/sh", cwd="/tmp",
                                   executable="/usr/bin/dash", flags=Flag.SCRIPT))["process"]
    assert (process["executable"], process["script"]) == ("/bin/sh", "/tmp/go")


@pytest.mark.parametrize(("flags", "kind"), [
    (Flag.CREATED | Flag.WRITE, "creation"), (Flag.WRITE, "change"), (Flag.TRUNC, "change"), (0, "access")])
def test_open_is_typed_by_the_most_it_did(bench: Bench, flags: Flag, kind: str) -> None:
    """Creation, change or access."""
    document = bench.make(record("file_open", path="/etc/cron.d/x.sh", mode=0o100644, flags=flags))
    assert document["event"]["type"] == [kind]
    assert document["file"]["mode"] == "100644"
    assert document["file"]["name"] == "x.sh"
    assert document["file"]["directory"] == "/etc/cron.d"
    assert document["file"]["extension"] == "sh"


def test_flags_are_listed_by_name(bench: Bench) -> None:
    """Lower case, in order of the bits; no bit, no list."""
    made = bench.make(record("file_open", path="/x", flags=Flag.WRITE | Flag.CREATED | 1 << 31))
    assert made["sensor"]["flags"] == ["created", "write"]
    assert "flags" not in bench.make(record("file_open", path="/x"))["sensor"]


def test_argument_is_joined_to_its_directory(bench: Bench) -> None:
    """Hooks that have only the argument name the directory it starts from."""
    made = bench.make(record("file_rename", base="/srv/www", name="../x", source_base="/tmp", source_name="y"))
    assert made["file"]["path"] == "/srv/x"
    assert made["file"]["Ext"]["original"]["path"] == "/tmp/y"


def test_relative_argument_without_directory_is_kept_and_counted(bench: Bench) -> None:
    """The end of the path still serves rules; that it is not absolute is no secret."""
    made = bench.make(record("file_unlink", name="wtmp"))
    assert made["file"]["path"] == "wtmp"
    assert bench.builder.counters.errors["relative_path"] == 1


def test_symbolic_link_target_is_raw_and_hard_link_target_a_path(bench: Bench) -> None:
    """The text of a symbolic link may mean anything."""
    more = {"path": "/a", "source_base": "/etc", "source_name": "../x/./y"}
    assert bench.make(record("file_link", symbolic=1, **more))["file"]["target_path"] == "../x/./y"
    assert bench.make(record("file_link", symbolic=0, **more))["file"]["target_path"] == "/x/y"


def connection(event: str = "network_connect", **more: Any) -> Record:
    """A TCP connection over IPv4 that succeeded, unless told otherwise."""
    values: dict[str, Any] = {"address_family": 2, "protocol": 6, "source_port": 40000, "destination_port": 443,
                              "source_address": address("10.0.0.1"), "destination_address": address("192.0.2.7")}
    return record(event, **{**values, **more})


def test_connect_is_egress_and_accept_ingress(bench: Bench) -> None:
    """Sigma's Initiated tells the two apart."""
    made = bench.make(connection())
    assert made["network"] == {"iana_number": 6, "transport": "tcp", "type": "ipv4", "direction": "egress",
                               "initiated": True}
    assert made["source"] == {"ip": "10.0.0.1", "port": 40000}
    assert made["destination"] == {"ip": "192.0.2.7", "port": 443}
    made = bench.make(connection("network_accept"))["network"]
    assert (made["direction"], made["initiated"]) == ("ingress", False)
    assert "initiated" not in bench.make(connection("network_bind"))["network"]


@pytest.mark.parametrize(("raw", "text", "kind"), [
    (bytes(10) + b"\xff\xff\xc0\0\x02\x07", "192.0.2.7", "ipv4"),
    (bytes.fromhex("20010db8") + bytes(11) + b"\1", "2001:db8::1", "ipv6"),
    (bytes(15) + b"\1", "::1", "ipv6"),
])
def test_ipv6_addresses_are_short_and_mapped_ones_ipv4(bench: Bench, raw: bytes, text: str, kind: str) -> None:
    """What went over the wire, in the one way of writing it."""
    made = bench.make(connection(address_family=10, source_address=raw, destination_address=raw))
    assert made["destination"]["ip"] == made["source"]["ip"] == text
    assert made["network"]["type"] == kind


@pytest.mark.parametrize(("result", "outcome"), [(0, "success"), (-111, "failure"), (-115, "unknown")])
def test_connect_in_progress_has_unknown_outcome(bench: Bench, result: int, outcome: str) -> None:
    """A non-blocking connect has only begun."""
    event = bench.make(connection(result=result))["event"]
    assert (event["outcome"], event["result"]) == (outcome, result)


def test_unbound_side_is_absent(bench: Bench) -> None:
    """No address and no port is nobody, port 0 none yet; no family is no address."""
    made = bench.make(connection("network_listen", destination_address=bytes(16), destination_port=0))
    assert "destination" not in made
    made = bench.make(connection(source_port=0))
    assert made["source"] == {"ip": "10.0.0.1"}
    made = bench.make(connection(address_family=99))
    assert made["destination"] == {"port": 443}
    assert "type" not in made["network"]


def test_dns_question_is_read_and_garbage_counted(bench: Bench) -> None:
    """The name asked for, or nothing."""
    query = message(b"evil", b"example", kind=16).decode("utf-8", "surrogateescape")
    made = bench.make(connection("dns_query", query=query, protocol=17))
    assert made["dns"] == {"question": {"name": "evil.example", "type": "TXT"}}
    assert "dns" not in bench.make(connection("dns_query", query="\udcff", protocol=17))
    assert bench.builder.counters.errors["dns_message"] == 1


def test_unset_texts_and_unknown_users_are_absent(bench: Bench) -> None:
    """Absent is absent: never null, never an empty text."""
    document = bench.make(record("file_open", uid=4242))
    assert "path" not in document["file"]
    assert "name" not in document["file"]
    assert document["user"]["id"] == "4242"
    assert "name" not in document["user"]


def test_ptrace_target_is_named_only_where_the_number_is_the_hosts(bench: Bench) -> None:
    """A pid from inside a namespace may be anybody's outside."""
    target = bench.make(record("process_ptrace", request=16, target_pid=50))["process"]["target"]
    assert (target["pid"], target["executable"]) == (50, "/usr/sbin/sshd")
    bench.table.apply(execution(100, SECOND, "/bin/sh", ns_pid=3))
    assert bench.make(record("process_ptrace", target_pid=50))["process"]["target"] == {"pid": 50}


def test_exit_document_has_code_and_signal(bench: Bench) -> None:
    """And is about the program that ended."""
    process = bench.make(record("process_exit", exit_code=3, exit_signal=9))["process"]
    assert (process["exit_code"], process["exit_signal"]) == (3, 9)
    assert process["executable"] == "/bin/sh"


def test_thread_and_namespaces_of_the_event_do_not_stick_to_the_process(bench: Bench) -> None:
    """Two events of one process share its part of the document; what one adds, the other lacks."""
    one = bench.make(connection(tid=107, netns=77))["process"]
    assert one["thread"]["id"] == 107
    assert one["namespace"]["net"] == 77
    two = bench.make(record("file_open", path="/x"))["process"]
    assert two["thread"]["id"] == 100
    assert two["namespace"].get("net") != 77
    assert two["thread"]["capabilities"] == one["thread"]["capabilities"]


def test_service_and_container_come_from_the_cgroup(bench: Bench) -> None:
    """Of the process, with every event."""
    made = bench.make(record("file_open", path="/x"))
    assert made["service"] == {"name": "ssh.service"}
    assert made["sensor"]["cgroup"] == {"id": 1, "path": "/system.slice/ssh.service"}
    made = bench.make(execution(100, SECOND, "/bin/sh", cgroup="/docker/" + "a" * 64, cgroup_id=9))
    assert made["container"] == {"id": "a" * 64, "runtime": "docker"}
    assert "service" not in made


def test_event_id_tells_rings_processors_and_generations_apart() -> None:
    """Sequence numbers begin anew with new rings; ids don't repeat."""
    ids = {Bench(generation=generation).make(record("file_open", path="/x", ring=ring, cpu=cpu, seq=seq))
           ["event"]["id"] for generation in (0, 1) for ring in (0, 1) for cpu in (1, 11) for seq in (1, 11)}
    assert len(ids) == 16


def test_garbage_time_still_has_a_text() -> None:
    """Before 1970 or after 9999, a timestamp is a text in RFC 3339's form."""
    for offset in (-(1 << 63), 0, 1 << 70):
        text = BootClock(offset).text(5)
        assert (len(text), text[4], text[10], text[19], text[-1]) == (30, "-", "T", ".", "Z")


def test_every_key_of_a_document_is_in_the_event_table() -> None:
    """Documents hold nothing that docs/fields.md does not explain."""
    listed = {item.ecs for event in EVENTS for item in event.fields} | {item.ecs for item in HEADER}
    listed |= {key for key, _events, _doc in DERIVED}
    open_ended = tuple(key[:-1] for key in map(str, listed) if key.endswith(".*"))
    known_extra = {"network.initiated", "process.target.entity_id", "process.target.executable",
                   "process.target.name"}
    for event in EVENTS:
        if event.family == "user":
            continue
        bench = Bench()
        bench.table.apply(execution(50, 1, "/usr/sbin/sshd"))
        bench.table.apply(fork(50, 1, 100, SECOND))
        document = bench.make(filled(event.name))
        for key in flatten(document):
            assert key in listed or key.startswith(open_ended) or key in known_extra, (event.name, key)


def filled(event: str) -> Record:
    """A record with something in every field."""
    samples = {Kind.TEXT: "text", Kind.PATH: "/dir/na.me", Kind.LIST: ("a", "b"), Kind.ADDRESS: bytes(range(16))}
    values = {item.name: samples.get(item.kind, 2) for item in BY_NAME[event].fields}
    if "query" in values:
        values["query"] = message(b"a").decode()
    return record(event, flags=0x3FFFF, **values)


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


@pytest.mark.parametrize("event", [event.name for event in EVENTS if event.family != "user"])
def test_every_public_field_of_a_record_is_in_its_document(event: str) -> None:
    """No row of the table is forgotten by the builder."""
    flat = flatten(Bench().make(filled(event)))
    expected = {item.ecs for item in (*HEADER, *BY_NAME[event].fields) if item.ecs}
    assert expected <= set(flat)


def test_generated_source_is_deterministic() -> None:
    """The same table gives the same builder in every process."""
    assert source(BY_ID[10]) == source(BY_ID[10])


_BITS = {Kind.U64: 64, Kind.I64: 63, Kind.U32: 32, Kind.I32: 31, Kind.U16: 16}
_TEXTS = st.one_of(
    st.just(""), st.binary(max_size=30).map(lambda raw: raw.decode("utf-8", "surrogateescape")),
    st.sampled_from(["\0", "\x1b[2J", "/" * 5000, "a" * 9000, "..", "/dev/fd/3", "/x\n.y", "\udcff"]))


def _value(kind: Kind) -> st.SearchStrategy[Any]:
    if kind is Kind.ADDRESS:
        return st.binary(min_size=16, max_size=16)
    if kind is Kind.TEXT:
        return _TEXTS
    if kind is Kind.PATH:
        return _TEXTS.map(lambda text: "/" + text if text else "")
    if kind is Kind.LIST:
        return st.lists(_TEXTS, max_size=4).map(tuple)
    low = -(1 << 31) if kind is Kind.I32 else 0
    return st.one_of(st.sampled_from([0, 1, 2, 6, 10, 17, 50, 100]), st.integers(low, (1 << _BITS[kind]) - 1))


def _record(event_id: int) -> st.SearchStrategy[Record]:
    values = st.tuples(*(_value(item.kind) for item in BY_ID[event_id].fields))
    number = _value(Kind.U32)
    header = st.tuples(_value(Kind.U16), *[_value(Kind.U64)] * 3, *[number] * 4, _value(Kind.U64), number,
                       st.one_of(number, st.sampled_from([0, int(Flag.SCRIPT), int(Flag.FD_EXEC)])))
    return st.builds(lambda head, tail: Record(event_id, *head, tail), header, values)


KERNEL_IDS = [event.id for event in EVENTS if event.family != "user"]


@given(st.lists(st.sampled_from(KERNEL_IDS).flatmap(_record), min_size=1, max_size=6))
def test_any_record_gives_a_document_that_json_can_hold(records: list[Record]) -> None:
    """Whatever the kernel side or a liar puts into fields: no exception, no empty text, no null."""
    bench = Bench()
    for item in records:
        process = bench.table.apply(item)
        if process is None:
            continue
        document = bench.builder.build(item, process)
        orjson.loads(encode(document))
        for key, value in flatten(document).items():
            assert value not in (None, "", {}, []) or key.startswith("process.args"), key
            assert not isinstance(value, float) or math.isfinite(value)
