"""A benchmark's file: no finished row is lost, nothing is overwritten, and what is read from it is so."""

import copy
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from attn_course import machine
from attn_course.benchmark import record, suite, worker
from attn_course.benchmark.clock import ratio, summary
from tests import fake_suite

SUITE = "tests.fake_suite"
CONDITIONS = {
    "machine": "a machine of the tests",
    "device": "cpu",
    "processor": "a processor",
    "cores": 3,
    "threads": 1,
    "memory_bytes": 7 * 2**30,
    "system": "Linux 1",
    "gpu": None,
    "clock": {"governor": "performance", "mhz": 2000},
    "allocator": {"settings": {"default": {}}, "transparent_huge_pages": "madvise", "preloaded": []},
    "environment": {},
    "compiler": None,
    "versions": {"python": "3.11.7", "torch": "2.13.0", "attn_course": "0.1.0"},
    "commit": {"hash": "0123456789" * 4, "dirty": False},
    "date": "2026-11-23",
}


class Forked:
    """What a worker is to its parent, made by a fork: as real a process, without seconds of imports."""

    def __init__(self, environment, said):
        (asked, ask), (heard, hear) = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.setsid()
                for source, target in ((asked, 0), (hear, 1), (said.fileno(), 2)):
                    os.dup2(source, target)
                os.closerange(3, 1024)  # as an exec does: the locked file, the pipes of other workers
                os.environ.clear()
                os.environ.update(environment)
                sys.stdin = open(0, closefd=False)  # noqa: SIM115
                sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
                worker.main()
            finally:
                os._exit(1)
        os.close(asked), os.close(hear)
        self.stdin, self.stdout = open(ask, "wb"), open(heard, "rb")  # noqa: SIM115
        self._status = None

    def poll(self, flag=os.WNOHANG):
        if self._status is None:
            pid, status = os.waitpid(self.pid, flag)
            self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status

    def wait(self):
        return self.poll(0)


@pytest.fixture
def fast(monkeypatch):
    """Workers by fork, and conditions that are the same whatever happens to the checkout meanwhile."""
    monkeypatch.setattr(worker, "_start", Forked)
    monkeypatch.setattr(
        record, "conditions", lambda device, *, threads: {**copy.deepcopy(CONDITIONS), "threads": threads}
    )


def run(out, **options):
    said = []
    options = {"preset": "smoke", "device": "cpu", "threads": 1, "progress": False, **options}
    return record.run(out, suite=SUITE, say=said.append, **options), said


def in_a_process(fn):
    """Start `fn` in a process of its own."""
    pid = os.fork()
    if pid == 0:
        try:
            fn()
            os._exit(0)
        finally:
            os._exit(1)
    return pid


def names(found):
    return [row["case"] for row in found["rows"]]


def lines_of(found, rows):
    """The partial file of a record, line by line, after so many rows."""
    head = {key: value for key, value in found.items() if key not in ("rows", "ceilings")}
    entries = [
        {"head": head},
        {"ceilings": found["ceilings"]},
        *({"row": row} for row in found["rows"][:rows]),
    ]
    return [json.dumps(entry) + "\n" for entry in entries]


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- Interruptions -----------------------------------------------------------------------------------------


def test_a_run_killed_ten_times_at_random_points_equals_one_that_was_not(fast, tmp_path, monkeypatch):
    log, out = tmp_path / "log", tmp_path / "a" / "killed.json"
    partial = out.with_name("killed.json.partial")
    start = time.monotonic()
    whole, _ = run(tmp_path / "whole.json")
    usual = time.monotonic() - start
    monkeypatch.setenv("FAKE_SUITE_LOG", str(log))

    chance, kills, points = random.Random(7), 0, set()
    while kills < 10 or (len(points) < 3 and kills < 40):
        pid = in_a_process(lambda: run(out, resume=True))
        time.sleep(chance.uniform(0.0, usual / 2))
        os.kill(pid, signal.SIGKILL)
        killed = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        if out.exists():  # it was done before its time: once more from the start
            out.unlink(), log.unlink(), partial.unlink(missing_ok=True)
        elif killed:
            kills += 1
            begun = {}
            for line in log.read_text().splitlines() if log.exists() else []:
                worker_id, name = line.split(" ", 1)
                begun.setdefault(worker_id, []).append(name)
            text = partial.read_text() if partial.exists() else ""
            for of_one in begun.values():  # a worker begins its next case when the row is on disk
                for name in of_one[:-1]:
                    assert f'"case": "{name}"' in text
            points.add(text.count("\n"))
    found, _ = run(out, resume=True)

    assert names(found) == names(whole) == [case.name for case in fake_suite.cases("smoke", "cpu")]
    assert {row["status"] for row in found["rows"]} == {"measured"}
    assert {**found, "name": "", "rows": 0} == {**whole, "name": "", "rows": 0}
    assert json.loads(out.read_text()) == found
    assert list(content(out.parent)) == ["killed.json"]
    assert len(points) >= 3  # they came at different rows


def test_the_file_is_mended_whatever_part_of_its_last_line_was_written(tmp_path):
    head = {"schema": record.SCHEMA, "preset": "smoke", "settings": {}, "conditions": {"machine": "a"}}
    cases = fake_suite.cases("smoke", "cpu")[:2]
    rows = [worker.empty_row(fake_suite, case) for case in cases]
    path, said = tmp_path / "a.json.partial", []
    with record._Partial(path, head, said.append) as file:
        file.go_on()
        for entry in ({"ceilings": {}}, {"row": rows[0]}, {"row": rows[1]}):
            file.append(**entry)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    assert said == [] and len(lines) == 4
    for last, missing in ((0, {"head": head}), (3, {"row": rows[1]})):
        before = b"".join(lines[:last])
        for length in range(len(lines[last])):
            path.write_bytes(before + lines[last][:length])
            said.clear()
            with record._Partial(path, head, said.append) as file:
                assert list(file.rows) == [row["case"] for row in rows[: max(0, last - 2)]]
                file.go_on()
                if "row" in missing:
                    file.append(**missing)
            assert path.read_bytes() == before + lines[last]
            assert len(said) == bool(length) and all(f"after {length} bytes" in text for text in said)


def test_a_half_written_line_is_told_and_its_case_run_again(fast, tmp_path, monkeypatch):
    out, log = tmp_path / "a.json", tmp_path / "log"
    whole, _ = run(out)
    out.unlink()
    (tmp_path / "a.json.partial").write_text("".join(lines_of(whole, 4))[:-9])
    monkeypatch.setenv("FAKE_SUITE_LOG", str(log))
    found, said = run(out, resume=True)
    assert names(found) == names(whole)
    assert any("cut off" in text for text in said) and any("3 of 11 cases are done" in text for text in said)
    assert [line.split(" ", 1)[1] for line in log.read_text().splitlines()] == names(whole)[3:]


def test_ctrl_c_leaves_the_rows_and_no_process(fast, tmp_path, monkeypatch):
    out, started = tmp_path / "a.json", []
    asked = record._Workers.row

    def row(self, module, case, ceilings):
        started[:] = self._workers.values()
        if case.sizes["n"] == 3:
            raise KeyboardInterrupt
        return asked(self, module, case, ceilings)

    with monkeypatch.context() as patch:
        patch.setattr(record._Workers, "row", row)
        with pytest.raises(KeyboardInterrupt):
            run(out)
    assert started and not any(each.alive() for each in started)
    assert not out.exists()
    found, said = run(out, resume=True)
    assert len(found["rows"]) == 11 and any("3 of 11" in text for text in said)


def test_a_worker_ends_in_the_middle_of_a_case_when_its_parent_is_killed(fast, tmp_path, monkeypatch):
    log = tmp_path / "log"
    monkeypatch.setenv("FAKE_SUITE_LOG", str(log))
    parent = in_a_process(lambda: run(tmp_path / "a.json", preset="full"))
    until = time.monotonic() + 20
    while not log.exists() or not log.read_text().endswith("hang\n"):
        assert time.monotonic() < until
        time.sleep(0.01)
    child = int(log.read_text().split()[0])
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    while Path(f"/proc/{child}").exists() and Path(f"/proc/{child}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_run_that_is_finished_is_not_run_again(fast, tmp_path, monkeypatch):
    out = tmp_path / "a.json"
    found, _ = run(out)
    (tmp_path / "a.json.partial").write_text("left by a kill between the last two steps")
    before = out.read_bytes()
    monkeypatch.setattr(record, "_Workers", None)
    assert run(out, resume=True)[0] == found
    assert content(tmp_path) == {"a.json": before}


# --- What happens to a case --------------------------------------------------------------------------------


def test_what_a_case_does_to_its_process_becomes_a_row_and_the_next_case_runs(tmp_path):
    """With the real thing: two Pythons of their own, one for each allocator setting."""
    found, said = run(tmp_path / "a.json", preset="course", threads=2)
    rows = {row["case"]: row for row in found["rows"]}
    assert {name: row["status"] for name, row in rows.items()} == {
        "sleep, n=2": "measured",
        "raise": "failed",
        "memory": "out of memory",
        "kill": "killed",
        "large": "too large",
        "not a number": "failed",
        "where": "measured",
    }
    assert "nothing of the kind" in rows["raise"]["message"]
    assert "SIGKILL" in rows["kill"]["message"]
    assert f"{fake_suite.HUGE / 2**30:.2f} GiB" in rows["large"]["message"]
    assert rows["where"]["note"] == "huge pages: 1, threads: 2"  # as its process saw it
    assert any("kill: the worker was ended" in text for text in said)
    record.validate(found)
    assert found["conditions"]["versions"] == record.conditions()["versions"]


def test_a_case_that_hangs_is_given_up_and_the_next_one_runs(fast, tmp_path):
    found, _ = run(tmp_path / "a.json", preset="full", limit=0.5)
    assert [row["status"] for row in found["rows"]] == ["killed", "measured"]
    assert "0.5 s" in found["rows"][0]["message"]


def test_a_worker_keeps_what_is_printed_out_of_its_answers_and_says_that_it_was_killed(fast):
    started = worker.Worker(SUITE, "smoke", "cpu", 1)
    try:
        row = started.ask(20, case="sleep, n=1", seconds=0, rounds=3, ceilings=None)
        assert row["status"] == "measured" and row["peers"]["ours"]["runs"] == 3
        with pytest.raises(RuntimeError, match="no such case"):
            started.ask(20, case="no such case", seconds=0, rounds=3, ceilings=None)
        assert started.last_words() == "a library says something on standard output"
    finally:
        started.stop()
    assert not started.alive()
    with pytest.raises(worker.WorkerDied, match="SIGKILL"):
        started.ask(20, ask="ceilings")


def test_a_suite_that_cannot_be_imported_is_said_at_once(fast):
    with pytest.raises(RuntimeError, match=r"ModuleNotFoundError.*no_such_suite"):
        worker.Worker("no_such_suite", "smoke", "cpu", 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"preset": "large"}, "smoke, course, full.*'large'"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
        ({"seconds": -1.0}, "seconds must be at least 0, got -1"),
        ({"limit": 0}, "limit must be more than 0"),
        ({"device": "tpu"}, "cpu.*'tpu'"),
    ],
)
def test_what_does_not_exist_is_refused_before_a_file_is_made(fast, tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        run(tmp_path / "a.json", **options)
    with pytest.raises(ValueError, match=r"\.json.*'a\.txt'"):
        run(tmp_path / "a.txt")
    assert content(tmp_path) == {}


# --- Refusals ----------------------------------------------------------------------------------------------


BEGUN = []


@pytest.fixture
def begun(fast, tmp_path):
    """The folder of a run that was interrupted after four rows, in the middle of the fifth."""
    if not BEGUN:
        whole, _ = run(tmp_path / "a.json")
        (tmp_path / "a.json").unlink()
        BEGUN.append("".join(lines_of(whole, 5)).encode()[:-50])
    (tmp_path / "a.json.partial").write_bytes(BEGUN[0])
    return tmp_path


CHANGES = {
    "machine": (("machine",), "another machine"),
    "threads": (("threads",), 2),
    "versions.torch": (("versions", "torch"), "2.5.0"),
    "versions.attn_course": (("versions", "attn_course"), "0.0.9"),
    "versions.timm": (("versions", "timm"), "1.0.31"),
    "commit.hash": (("commit", "hash"), "f" * 40),
    "environment.OMP_PROC_BIND": (("environment", "OMP_PROC_BIND"), "close"),
    "allocator.transparent_huge_pages": (("allocator", "transparent_huge_pages"), "always"),
}


def changed(fields, path, value):
    fields = copy.deepcopy(fields)
    place = fields
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return fields


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("finished", [False, True])
def test_a_file_of_other_conditions_is_refused_with_the_difference_and_stays_as_it_is(
    begun, monkeypatch, name, finished
):
    if finished:
        run(begun / "a.json", resume=True)
    before = content(begun)
    assert ("a.json" in before) == finished
    monkeypatch.setattr(record, "conditions", lambda *a, **k: changed(CONDITIONS, *CHANGES[name]))
    with pytest.raises(FileExistsError, match=re.escape(name) + " was .* and is .*") as error:
        run(begun / "a.json", resume=True)
    assert repr(CHANGES[name][1]) in str(error.value)
    assert content(begun) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"preset": "course"}, "preset was 'smoke' and is 'course'"),
        ({"seconds": 0.5}, r"settings.seconds was 0.01 and is 0.5"),
        ({"rounds": 8}, r"settings.rounds was 7 and is 8"),
        ({"threads": 2}, r"settings.threads was 1 and is 2"),
        ({"resume": False}, "was begun: go on with --resume"),
    ],
)
def test_other_settings_are_refused_with_the_difference_and_the_file_stays_as_it_is(begun, options, words):
    before = content(begun)
    with pytest.raises(FileExistsError, match=words):
        run(begun / "a.json", **{"resume": True, **options})
    assert content(begun) == before


def test_another_date_clock_or_a_moved_file_is_no_difference(begun, monkeypatch):
    later = changed(changed(CONDITIONS, ("date",), "2026-11-24"), ("clock", "mhz"), 1200)
    monkeypatch.setattr(record, "conditions", lambda *a, **k: later)
    (begun / "a.json.partial").rename(begun / "b.json.partial")
    found, _ = run(begun / "b.json", resume=True)
    assert len(found["rows"]) == 11 and found["conditions"]["date"] == "2026-11-23"


@pytest.mark.parametrize(
    ("text", "resume", "words"),
    [
        ("mine", False, "is not overwritten"),
        ("mine", True, "is not JSON.*not overwritten"),
        ('{"schema": "attn-course/speed/1"}', True, "attn-course/speed/1.*not overwritten"),
    ],
)
def test_an_existing_file_is_never_overwritten(fast, tmp_path, text, resume, words):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(FileExistsError, match=words):
        run(tmp_path / "a.json", resume=resume)
    assert content(tmp_path) == {"a.json": text.encode()}


@pytest.mark.parametrize(
    ("line", "change"),
    [
        (0, lambda line: line[:-40] + b"\n"),
        (0, lambda line: b'{"ceilings": {}}\n'),
        (3, lambda line: line[:40] + b"\n"),
        (3, lambda line: b"\0" * 30 + b"\n"),
        (3, lambda line: b"[]\n"),
        (3, lambda line: b'{"head": {}}\n'),
        (3, lambda line: b'{"row": {}}\n'),
        (3, lambda line: line.replace(b"sleep, n=1", b"sleep, n=77", 1)),
    ],
)
def test_a_damaged_partial_file_is_refused_and_stays_as_it_is(begun, line, change):
    path = begun / "a.json.partial"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line] = change(lines[line])
    path.write_bytes(b"".join(lines))
    before = content(begun)
    with pytest.raises(FileExistsError, match=rf"damaged in line {line + 1}|not of this suite: sleep, n=77"):
        run(begun / "a.json", resume=True)
    assert content(begun) == before


def test_two_runs_into_one_file_at_once_are_refused(begun):
    code = (
        "import fcntl, sys; file = open(sys.argv[1]); fcntl.flock(file, fcntl.LOCK_EX); "
        "print('held', flush=True); sys.stdin.read()"
    )
    before = content(begun)
    with subprocess.Popen(
        [sys.executable, "-c", code, str(begun / "a.json.partial")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(BlockingIOError, match="another run is writing"):
            run(begun / "a.json", resume=True)
        assert content(begun) == before
        other.kill()
    assert len(run(begun / "a.json", resume=True)[0]["rows"]) == 11


def test_a_run_holds_its_file_while_it_runs(fast, tmp_path, monkeypatch):
    out, refused = tmp_path / "a.json", []
    asked = record._Workers.row

    def row(self, module, case, ceilings):
        if case.sizes["n"] == 2:
            for resume in (True, False):
                with pytest.raises((BlockingIOError, FileExistsError)) as error:
                    run(out, resume=resume)
                refused.append(type(error.value))
        return asked(self, module, case, ceilings)

    monkeypatch.setattr(record._Workers, "row", row)
    assert len(run(out)[0]["rows"]) == 11
    assert refused == [BlockingIOError, FileExistsError]


# --- The schema --------------------------------------------------------------------------------------------


def peers_of(samples):
    """Peers with these samples, ours among them under the name that the fake suite gives it."""
    ours = samples[fake_suite.OURS]
    return {
        name: {**summary(values), "time_ratio": asdict(ratio(values, ours)), "peak_bytes": 7 * 2**20}
        for name, values in samples.items()
    }


def record_of(*cases, name="a"):
    """A record with one measured row for each dictionary of samples."""
    rows = []
    for number, samples in enumerate(cases):
        row = worker.empty_row(fake_suite, fake_suite.Case("sleep", {"n": number}))
        del row["message"]
        rows.append({**row, "status": "measured", "peers": peers_of(samples)})
    return {
        "schema": record.SCHEMA,
        "name": name,
        "preset": "smoke",
        "settings": {"seconds": 1.0, "rounds": 7, "device": "cpu", "threads": 1},
        "conditions": copy.deepcopy(CONDITIONS),
        "ceilings": {"matrix_product": {"flops_per_s": 1e9}, "copy": {"bytes_per_s": 1e9}},
        "rows": rows,
    }


def small():
    times = {"usual": [3.0, 2.0, 4.0], "ours": [1.0, 1.1, 1.2], "ours (control)": [1.1, 1.0, 1.2]}
    return record_of(times, times)


def test_a_record_fits_the_schema_as_a_card_writes_it_and_as_a_processor_does():
    found = small()
    record.validate(found)
    found["settings"]["device"] = found["conditions"]["device"] = "cuda"
    found["conditions"]["gpu"] = {
        "name": "a card",
        "memory_bytes": 2**34,
        "cuda": "13.0",
        "driver": "580.1",
        "clock_mhz": 300.0,
        "clock_max_mhz": 1980.0,
        "power_limit_w": None,
        "performance_state": "P0",
    }
    found["conditions"]["commit"] = None
    found["ceilings"] = {}
    record.validate(found)


GONE = object()
WRONG = [
    (("schema",), "attn-course/bench/2", "$.schema"),
    (("rows",), GONE, "$: 'rows'"),
    (("extra",), 1, "$: .*'extra'"),
    (("preset",), "large", "$.preset"),
    (("settings", "rounds"), 0, "$.settings.rounds"),
    (("settings", "threads"), "two", "$.settings.threads"),
    (("conditions", "machine"), "", "$.conditions.machine"),
    (("conditions", "gpu"), {"name": "a card"}, "$.conditions.gpu"),
    (("conditions", "date"), "23.11.2026", "$.conditions.date"),
    (("conditions", "commit"), {"hash": "unknown", "dirty": False}, "$.conditions.commit"),
    (("conditions", "versions", "torch"), GONE, "$.conditions.versions: 'torch'"),
    (("conditions", "clock"), GONE, "$.conditions: 'clock'"),
    (("ceilings", "copy"), {}, "$.ceilings.copy"),
    (("rows", 1, "mode"), "backward", "$.rows[1].mode"),
    (("rows", 1, "status"), "fine", "$.rows[1].status"),
    (("rows", 1, "sizes"), [1], "$.rows[1].sizes"),
    (("rows", 1, "allocator"), "jemalloc", "$.rows[1].allocator"),
    (("rows", 1, "status"), "killed", "$.rows[1]"),  # with peers, without a message
    (("rows", 1, "peers"), {}, "$.rows[1].peers"),
    (("rows", 1, "peers", "usual", "median"), 1.0, "$.rows[1].peers.usual: .*'median'"),
    (("rows", 1, "peers", "usual", "median_s"), "1 ms", "$.rows[1].peers.usual.median_s"),
    (("rows", 1, "peers", "usual", "median_s"), -1.0, "$.rows[1].peers.usual.median_s"),
    (("rows", 1, "peers", "usual", "samples_s"), [], "$.rows[1].peers.usual.samples_s"),
    (("rows", 1, "peers", "usual", "time_ratio", "low"), GONE, "$.rows[1].peers.usual.time_ratio: 'low'"),
    (("rows", 1, "peers", "usual", "peak_bytes"), 0.5, "$.rows[1].peers.usual.peak_bytes"),
    # What a schema cannot say.
    (("rows", 1, "case"), "sleep, n=0", "$.rows[1].case: 'sleep, n=0' stands in row 0"),
    (("rows", 1, "peers", "ours"), GONE, "$.rows[1].peers: lacks 'ours'"),
    (("rows", 1, "peers", "ours (control)"), GONE, "$.rows[1].peers: lacks 'ours (control)'"),
    (("rows", 1, "baseline"), "textbook", "$.rows[1].peers: lacks 'textbook'"),
    (("rows", 1, "peers", "usual", "runs"), 4, "$.rows[1].peers['usual'].runs: is 4, there are 3"),
    (("rows", 1, "peers", "usual", "samples_s"), [3.0, 2.0], "$.rows[1].peers: not as many rounds"),
    (("rows", 1, "peers", "usual", "median_s"), 3.5, "$.rows[1].peers['usual'].median_s: is 3.5"),
    (("rows", 1, "peers", "usual", "third_quartile_s"), 2.5, "$.rows[1].peers['usual']: its quartiles"),
    (("rows", 1, "peers", "usual", "time_ratio", "low"), 9.0, "$.rows[1].peers['usual'].time_ratio"),
]


@pytest.mark.parametrize(("path", "value", "where"), WRONG)
def test_a_wrong_file_is_refused_with_the_path_of_the_fault(path, value, where):
    found = small()
    place = found
    for step in path[:-1]:
        place = place[step]
    if value is GONE:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    with pytest.raises(ValueError) as error:
        record.validate(found)
    words = re.escape(where).replace(r"\.\*", ".*")
    assert re.search(f"^{words}", str(error.value), re.MULTILINE), str(error.value)


def test_every_fault_is_told_at_once():
    found = small()
    found["preset"], found["rows"][0]["mode"] = "large", "backward"
    with pytest.raises(ValueError) as error:
        record.validate(found)
    assert [line.partition(":")[0] for line in str(error.value).splitlines()] == [
        "$.preset",
        "$.rows[0].mode",
    ]


def test_without_jsonschema_validating_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    with pytest.raises(ImportError, match=r"attn-course\[bench\]"):
        record.validate(small())


def test_the_schema_is_a_schema_and_names_the_version_that_is_written():
    from jsonschema import Draft202012Validator

    Draft202012Validator.check_schema(record.schema())
    assert record.schema()["properties"]["schema"]["const"] == record.SCHEMA == record.schema()["$id"]


def test_what_this_machine_says_of_itself_fits_the_schema():
    found = small()
    found["conditions"] = record.conditions()
    record.validate(found)


# --- Reading -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "has the schema None"),
        ('{"schema": "attn-course/bench/2"}', "'attn-course/bench/2', expected 'attn-course/bench/1'"),
        ('{"schema": "attn-course/bench/1", "rows": []}', "lacks ceilings, conditions, name"),
        ('{"schema": NaN}', "NaN is no number"),
    ],
)
def test_a_file_that_holds_something_else_is_named(tmp_path, text, words):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=words) as error:
        record.load(path)
    assert str(path) in str(error.value)


def test_every_file_of_the_folder_is_a_machine_under_its_own_name(tmp_path):
    for name in ("b", "a"):
        (tmp_path / f"{name}.json").write_text(json.dumps(small()))
    (tmp_path / "experiments").mkdir()
    (tmp_path / "README.md").write_text("words")
    assert list(record.machines(tmp_path)) == ["a", "b"]
    assert record.machines(tmp_path)["b"] == small()


def test_the_files_that_the_course_ships_are_valid():
    for name, found in record.machines().items():
        record.validate(found)
        assert found["name"] == name


def test_the_table_shows_every_peer_the_control_and_what_was_not_measured():
    found = small()
    found["rows"].append(
        {**worker.empty_row(fake_suite, fake_suite.Case("large")), "status": "too large", "message": "7 GiB"}
    )
    found["rows"][0]["absent"] = {"timm": "not installed"}
    found["rows"][0]["peers"]["usual"].update(flops_share=0.25, bytes_share=0.5)
    text = record.table(found)
    control = found["rows"][0]["peers"]["ours (control)"]["time_ratio"]["median"]
    assert f"3 rounds, control {control:.2f} [" in text
    assert "3000.00 ms" in text and "7.0 MiB" in text and "50% bytes/s" in text
    assert "too large: 7 GiB" in text and "absent: not installed" in text
    assert "ours (control)" not in text


def test_bars_say_what_was_reached_beside_the_control_and_what_was_not_measured():
    times = {"low": 1.9, "high": 2.1, "control": [0.98, 1.02]}
    peaks = {"low": 1.0, "high": 1.0, "control": None}
    nothing = dict.fromkeys(("value", "low", "high", "control", "reached"))
    bars = [
        {"label": "a", "value": 2.0, "bound": 1.5, "reached": True, **times},
        {"label": "b", "value": 1.0, "bound": 1 / 0.7, "reached": False, **peaks},
        {"label": "c", "bound": 1.5, **nothing},
        {"label": "d", "value": 1.4, "bound": 1.5, "reached": True, **times},
    ]
    assert [line.split(maxsplit=1) for line in record.bars_table(bars).splitlines()] == [
        ["reached", "a: 2.00 [1.90, 2.10], control [0.98, 1.02]; bar 1.5"],
        ["NOT", "REACHED   b: 1.00; bar 1.43"],
        ["not", "measured  c"],
        ["in", "the noise  d: 1.40 [1.90, 2.10], control [0.98, 1.02]; bar 1.5"],
    ]
    assert record.bars_table(bars[2:3]).strip().startswith("none of the 1 was measured")


def test_a_peer_that_makes_the_whole_map_decides_what_a_case_needs():
    case = suite._case(
        "multi-head-attention", suite._TOKENS, (1, 2048, 64, 8), "forward", note="without weights"
    )
    weights = 4 * 8 * 2048 * 2048
    assert suite.predicted(case)["peak_bytes"] < weights < worker.needed_bytes(suite, case)
    training = replace(case, mode="training")
    assert worker.needed_bytes(suite, case) < worker.needed_bytes(suite, training)
    image = suite._case("self-attention-2d", suite._IMAGE, (3, 64, 96, 96), "forward")
    assert worker.needed_bytes(suite, image) == 2 * 4 * 3 * (96 * 96) ** 2
    windows = suite._lengths(1, 8, 4096, 64, 128)
    assert worker.needed_bytes(suite, windows) == 2 * 4 * 8 * 4096**2
    assert worker.needed_bytes(fake_suite, fake_suite.Case("sleep")) == 7


def test_a_row_of_the_real_suite_fits_the_schema(tmp_path):
    case = next(case for case in suite.cases("smoke", "cpu") if case.mechanism == "spatial-attention")
    found = record_of()
    found["rows"] = [worker.row(suite, case, device="cpu", seconds=0, rounds=7, ceilings=found["ceilings"])]
    record.validate(found)
    assert found["rows"][0]["status"] == "measured" and case.name in record.table(found)
    assert all(bar["value"] is None for bar in suite.bars(found["rows"]))


# --- Two files ---------------------------------------------------------------------------------------------


def noisy(chance, seconds, spread, rounds=30):
    return [seconds * chance.lognormvariate(0, spread) for _ in range(rounds)]


def measured(seed, *, cases=12, spread=0.03, slower=(), factor=1.2, name="a"):
    """A record with noise in every sample; in the cases `slower` the peer "usual" takes `factor` times as long."""
    chance = random.Random(seed)
    rows = []
    for number in range(cases):
        usual = 2e-3 * (factor if number in slower else 1)
        rows.append(
            {
                "usual": noisy(chance, usual, spread),
                "ours": noisy(chance, 1e-3, spread),
                "ours (control)": noisy(chance, 1e-3, spread),
            }
        )
    return record_of(*rows, name=name)


def verdicts(comparison):
    return {(row["case"], row["peer"]): row["verdict"] for row in comparison["rows"]}


def test_a_planted_difference_of_a_fifth_is_found_and_nothing_else():
    comparison = record.compare(measured(1), measured(2, slower={3, 7}))
    found = verdicts(comparison)
    assert len(found) == 24
    different = {key: verdict for key, verdict in found.items() if verdict != "same"}
    assert different == {("sleep, n=3", "usual"): "slower", ("sleep, n=7", "usual"): "slower"}
    row = next(row for row in comparison["rows"] if row["case"] == "sleep, n=3" and row["peer"] == "usual")
    assert row["low"] <= row["ratio"] <= row["high"] and row["low"] < 1.2 < row["high"]
    assert row["b_over_ours"] / row["a_over_ours"] == pytest.approx(1.2, rel=0.1)


def test_the_other_way_round_the_same_is_faster():
    there = record.compare(measured(1), measured(2, slower={3}))
    back = record.compare(measured(2, slower={3}), measured(1))
    assert verdicts(back)["sleep, n=3", "usual"] == "faster"
    for one, other in zip(there["rows"], back["rows"], strict=True):
        assert one["ratio"] * other["ratio"] == pytest.approx(1)
        assert one["low"] * other["high"] == pytest.approx(1)
        assert one["noise"] == pytest.approx(other["noise"])


@pytest.mark.parametrize("spread", [0.01, 0.05, 0.2])
def test_noise_alone_is_not_called_a_difference(spread):
    for seed in range(5):
        comparison = record.compare(
            measured(10 + seed, spread=spread), measured(20 + seed, spread=spread, name="b")
        )
        assert set(verdicts(comparison).values()) == {"same"}


def test_a_control_that_strays_in_one_file_hides_a_difference_of_its_size():
    a, b = measured(1), measured(2, slower={3})
    strayed = b["rows"][3]["peers"]["ours (control)"]["time_ratio"]
    strayed.update(low=1.0, median=1.02, high=1.3)
    assert verdicts(record.compare(a, b))["sleep, n=3", "usual"] == "same"
    strayed.update(low=1 / 1.3, median=1.0, high=1.0)
    assert verdicts(record.compare(b, a))["sleep, n=3", "usual"] == "same"


def test_a_control_that_is_good_by_luck_is_not_believed_where_the_others_stray():
    a, b = measured(1), measured(2, slower={3})

    def stray(rows):
        for row in rows:
            row["peers"]["ours (control)"]["time_ratio"].update(low=1.2, median=1.3, high=1.4)

    stray(b["rows"][5:6])  # one case that was disturbed says nothing of the others
    assert verdicts(record.compare(a, b))["sleep, n=3", "usual"] == "slower"
    stray(row for row in b["rows"] if row["case"] != "sleep, n=3")
    assert verdicts(record.compare(a, b))["sleep, n=3", "usual"] == "same"


def test_cases_and_conditions_that_differ_are_told():
    a, b = small(), small()
    b["name"], b["conditions"]["versions"]["torch"] = "b", "2.5.0"
    b["rows"][1]["status"] = "killed"
    comparison = record.compare(a, b)
    assert comparison["only_a"] == ["sleep, n=1"] and comparison["only_b"] == []
    assert comparison["differences"] == ["versions.torch was '2.13.0' and is '2.5.0'"]
    text = record.comparison_table(comparison)
    assert "only in A: sleep, n=1" in text and "versions.torch was" in text
    assert "2 times compared: 0 slower in B, 0 faster, 2 not told apart from noise" in text


def test_the_interval_of_a_median_is_two_of_the_samples_and_holds_it_as_often_as_it_says():
    assert record.median_interval([5.0, 3.0, 4.0]) == (3.0, 5.0)
    assert record.median_interval(range(7)) == (0, 6)  # 2 / 2 ** 7 = 1.6 %
    assert record.median_interval(range(10)) == (1, 8)  # 2 (1 + 10) / 2 ** 10 = 2.1 %
    chance, missed = random.Random(3), 0
    for _ in range(2000):
        low, high = record.median_interval([chance.expovariate(1.0) for _ in range(21)])
        missed += not low <= 0.6931471805599453 <= high
    assert missed / 2000 <= 0.025 + 3 * (0.025 * 0.975 / 2000) ** 0.5
    with pytest.raises(ValueError, match="at least one sample"):
        record.median_interval([])


def test_a_median_lies_inside_its_interval():
    chance = random.Random(5)
    for n in range(1, 40):
        samples = [chance.random() for _ in range(n)]
        low, high = record.median_interval(samples)
        assert low <= statistics.median(samples) <= high


# --- Beside it ---------------------------------------------------------------------------------------------


def test_the_pins_of_the_peers_are_what_the_conditions_report():
    lines = (Path(__file__).parent.parent / "tools" / "peers.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z-]+==[\d.]+", pin) for pin in pins)
    assert {pin.partition("==")[0] for pin in pins} == set(record.PEERS)


def test_the_folder_of_results_is_found():
    assert machine.results_folder().name in ("results", "_results")
