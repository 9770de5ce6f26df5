"""The command line: what it calls, what it prints, and its exit status."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
import torch

from attn_course import benchmark, cli, machine
from attn_course.benchmark import memory, record
from tests import fake_suite


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    """The suite of the tests in place of the one that takes minutes."""
    monkeypatch.setattr(benchmark, "suite", fake_suite)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2**34, raising=False)
    monkeypatch.setattr(record, "run", partial(record.run, suite="tests.fake_suite", progress=False))


@pytest.fixture
def files(tmp_path):
    """Two records, the second one with one peer a half slower; made by hand, without a run."""
    rows = []
    for case in fake_suite.cases("smoke", "cpu")[:2]:
        row = fake_suite.run_case(case, seconds=0, rounds=11, device="cpu")
        rows.append(row)
    rows.append(
        {
            **rows[0],
            "case": "large",
            "status": "too large",
            "message": "7 GiB are free",
            "peers": {},
            "absent": {},
        }
    )
    head = {
        "schema": record.SCHEMA,
        "preset": "smoke",
        "settings": {"seconds": 0.0, "rounds": 11, "device": "cpu", "threads": 1},
        "conditions": record.conditions("cpu", threads=1),
        "ceilings": {},
    }
    paths = tmp_path / "a.json", tmp_path / "b.json"
    for path in paths:
        path.write_text(json.dumps({**head, "name": path.stem, "rows": rows}))
        usual = rows[1]["peers"]["usual"]
        slower = fake_suite.summary([1.5 * value for value in usual["samples_s"]])
        rows[1] = {**rows[1], "peers": {**rows[1]["peers"], "usual": {**usual, **slower}}}
    return paths


# --- bench run ---------------------------------------------------------------------------------------------


def test_bench_run_passes_its_options_on(monkeypatch, tmp_path, files, capsys):
    calls = []

    def run(out, **options):
        calls.append((out, options))
        options["say"]("a word")
        return record.load(files[0])

    monkeypatch.setattr(record, "run", run)
    words = ["--preset", "full", "--resume", "--device", "cpu", "--threads", "3", "--seconds", "2.5"]
    assert cli.main(["bench", "run", "--out", str(tmp_path / "c.json"), *words, "--limit", "60"]) == 0
    ((out, options),) = calls
    assert out == tmp_path / "c.json"
    options.pop("say")
    assert options == {
        "preset": "full",
        "resume": True,
        "device": "cpu",
        "threads": 3,
        "seconds": 2.5,
        "limit": 60.0,
    }
    printed = capsys.readouterr().out
    assert f"Written to {out}" in printed and "sleep, n=1" in printed and "half the time" in printed


def test_a_run_without_a_name_is_named_after_the_machine(monkeypatch, files):
    called = []
    monkeypatch.setattr(record, "run", lambda out, **options: called.append(out) or record.load(files[0]))
    assert cli.main(["bench", "run", "--device", "cpu"]) == 0
    assert [str(path) for path in called] == [f"results/{machine.slug('cpu')}.json"]


def test_a_run_from_the_command_to_the_file(tmp_path, capsys):
    out = tmp_path / "a.json"
    argv = ["bench", "run", "--device", "cpu", "--preset", "smoke", "--out", str(out), "--seconds", "0"]
    assert cli.main(argv) == 0
    found = record.load(out)
    record.validate(found)
    assert found["preset"] == "smoke" and found["settings"]["seconds"] == 0 and len(found["rows"]) == 11
    printed = capsys.readouterr().out
    assert all(row["case"] in printed for row in found["rows"])
    assert cli.main(argv) == 1
    assert "is not overwritten" in capsys.readouterr().err
    assert cli.main([*argv, "--resume"]) == 0
    assert cli.main([*argv, "--resume", "--preset", "course"]) == 1
    assert "preset was 'smoke' and is 'course'" in capsys.readouterr().err
    assert record.load(out) == found


def test_a_case_that_failed_gives_the_status_one_and_one_that_did_not_fit_does_not(
    monkeypatch, files, capsys
):
    found = record.load(files[0])
    monkeypatch.setattr(record, "run", lambda out, **options: found)
    assert cli.main(["bench", "run", "--out", "a.json"]) == 0
    found["rows"][2]["status"] = "wrong"
    assert cli.main(["bench", "run", "--out", "a.json"]) == 1
    assert "wrong: large: 7 GiB are free" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--preset", "large"], 2, "preset must be one of smoke, course, full, got 'large'"),
        (["--threads", "0"], 2, "threads must be at least 1, got 0"),
        (["--device", "tpu"], 2, "'tpu'"),
    ],
)
def test_what_does_not_exist_gives_a_message_and_no_traceback(tmp_path, capsys, options, status, words):
    assert cli.main(["bench", "run", "--out", str(tmp_path / "a.json"), *options]) == status
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_says_how_to_go_on(monkeypatch, tmp_path, capsys):
    def run(out, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(record, "run", run)
    out = str(tmp_path / "my run.json")
    assert cli.main(["bench", "run", "--out", out, "--threads", "2", "--seconds", "1.5"]) == 130
    said = capsys.readouterr().err
    assert "No finished case is lost" in said
    assert f"attn-course bench run --preset course --threads 2 --seconds 1.5 --out '{out}' --resume" in said


def test_ctrl_c_in_a_terminal_ends_the_command_and_the_same_command_goes_on(tmp_path):
    """With the real thing: a command in a process of its own, and its worker in another."""
    out, log = tmp_path / "a.json", tmp_path / "log"
    code = (
        "import signal\nimport sys\nfrom functools import partial\nfrom attn_course import benchmark, cli\n"
        # As in a terminal: whoever is started in the background inherits that Ctrl-C is ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from attn_course.benchmark import memory, record\nfrom tests import fake_suite\n"
        "benchmark.suite = fake_suite\n"
        "record.run = partial(record.run, suite='tests.fake_suite')\nsys.exit(cli.main())"
    )
    argv = ["bench", "run", "--preset", "full", "--device", "cpu", "--out", str(out)]
    environment = {**os.environ, "FAKE_SUITE_LOG": str(log), "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", code, *argv], env=environment, stderr=subprocess.PIPE, text=True
    ) as command:
        until = time.monotonic() + 60
        while not log.exists() or not log.read_text().endswith("hang\n"):
            assert time.monotonic() < until and command.poll() is None
            time.sleep(0.05)
        command.send_signal(signal.SIGINT)
        try:
            said = command.communicate(timeout=60)[1]
        finally:
            command.kill()
    assert command.returncode == 130
    assert "Traceback" not in said and f"attn-course {' '.join(argv)} --resume" in said
    child = int(log.read_text().split()[0])
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    assert [path.name for path in tmp_path.glob("a.json*")] == ["a.json.partial"]
    assert cli.main([*argv, "--limit", "0.5", "--resume"]) == 0
    assert [row["status"] for row in record.load(out)["rows"]] == ["killed", "measured"]


# --- Reading files -----------------------------------------------------------------------------------------


def test_bench_show_prints_the_table_the_ratios_with_their_control_and_the_bars(files, capsys):
    assert cli.main(["bench", "show", str(files[0])]) == 0
    printed = capsys.readouterr().out
    for words in (
        "sleep, n=1",
        "usual",
        "2.00 [2.00, 2.00]",
        "control 1.00 [0.99, 1.01]",
        "too large: 7 GiB",
    ):
        assert words in printed
    assert (
        "reached" in printed and "half the time: 2.00 [1.90, 2.10], control [0.98, 1.02]; bar 1.5" in printed
    )
    assert machine.processor() in printed


def test_bench_compare_prints_what_exceeds_the_noise(files, capsys):
    assert cli.main(["bench", "compare", *map(str, files)]) == 0
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if line.endswith("slower")]
    assert len(lines) == 1 and lines[0].split()[0] == "usual" and "1.50 [" in lines[0]
    assert "4 times compared: 1 slower in B, 0 faster, 3 not told apart from noise" in printed


def test_bench_plot_draws_a_file(files, tmp_path, capsys):
    out = tmp_path / "a.png"
    assert cli.main(["bench", "plot", str(files[0]), "--out", str(out)]) == 0
    assert out.read_bytes().startswith(b"\x89PNG") and f"Drawn to {out}" in capsys.readouterr().out


def test_bench_validate_names_the_file_and_the_place_of_each_fault(files, tmp_path, capsys):
    assert cli.main(["bench", "validate", *map(str, files)]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{path}: valid" for path in files]
    wrong = json.loads(files[1].read_text())
    wrong["rows"][1]["peers"]["usual"]["median_s"] = "1 ms"
    files[1].write_text(json.dumps(wrong))
    (tmp_path / "c.json").write_text("{")
    assert cli.main(["bench", "validate", *map(str, files), str(tmp_path / "c.json")]) == 1
    printed = capsys.readouterr()
    assert printed.out == f"{files[0]}: valid\n"
    first, second = printed.err.splitlines()
    assert first.startswith(f"{files[1]}: $.rows[1].peers.usual.median_s: '1 ms'")
    assert second.startswith(f"{tmp_path / 'c.json'} is not JSON")


def test_bench_validate_without_jsonschema_says_how_to_get_it(files, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    assert cli.main(["bench", "validate", str(files[0])]) == 1
    assert "pip install 'attn-course[bench]'" in capsys.readouterr().err


def test_bench_plot_without_matplotlib_says_how_to_get_it(files, tmp_path, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "attn_course.plots", raising=False)
    monkeypatch.delattr("attn_course.plots", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    assert cli.main(["bench", "plot", str(files[0]), "--out", str(tmp_path / "a.png")]) == 1
    assert "pip install 'attn-course[notebooks]'" in capsys.readouterr().err


@pytest.mark.parametrize("action", [["show"], ["compare"], ["plot", "--out", "a.png"], ["validate"]])
def test_a_file_that_is_missing_or_something_else_gives_a_message_and_no_traceback(action, tmp_path, capsys):
    (tmp_path / "b.json").write_text('{"schema": "attn-course/speed/1"}')
    for name, words in (("a.json", "No such file"), ("b.json", "'attn-course/speed/1', expected")):
        names = [str(tmp_path / name)] * (2 if action == ["compare"] else 1)
        assert cli.main(["bench", *action, *names]) == 1
        assert words in capsys.readouterr().err


# --- doctor, and wrong calls -------------------------------------------------------------------------------


def test_doctor_says_what_the_machine_has_and_what_will_run(capsys):
    assert cli.main(["doctor"]) == 0
    lines = {line[:22].strip(): line[22:].strip() for line in capsys.readouterr().out.splitlines()}
    assert lines["torch"] == torch.__version__.split("+")[0]
    assert lines["machine"] == machine.describe()
    assert lines["memory"].startswith("16.0 GiB free of ")
    assert {"python", "device", "threads", "clock", "GPU", "compiler", "THP_MEM_ALLOC_ENABLE"} <= set(lines)
    assert set(record.PEERS) <= set(lines)
    assert lines["bench smoke"] == "11 cases"
    assert lines["bench course"] == "7 cases, 1 too large for this machine"


def test_doctor_says_which_peer_is_missing_and_which_is_there(monkeypatch, capsys):
    monkeypatch.setattr(
        machine, "versions", lambda names=("torch",): {name: "1.2.3" for name in names if name != "timm"}
    )
    assert cli.main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert f"{'timm':22}not installed" in printed and f"{'einops':22}1.2.3\n" in printed


@pytest.mark.parametrize(
    "argv", [[], ["bench"], ["bench", "speed"], ["bench", "plot", "a.json"], ["bench", "validate"], ["dance"]]
)
def test_a_wrong_call_shows_the_usage(argv, capsys):
    with pytest.raises(SystemExit) as error:
        cli.main(argv)
    assert error.value.code == 2
    assert "usage: attn-course" in capsys.readouterr().err


# --- scenarios ---------------------------------------------------------------------------------------------


@pytest.fixture
def held(tmp_path):
    """A record of two scenarios, made by hand; the first choice was right in one of them."""

    def candidate(name, predicted, measured):
        price = {"seconds": predicted, "flops": 1, "bytes_moved": 1, "peak_bytes": 1}
        return {"candidate": name, "predicted": price, "median_s": measured, "out": ""}

    record = {
        "schema": "attn-course/scenarios/1", "name": "m", "machine": "a machine", "threads": 1, "finished": True,
        "rows": [
            {"scenario": "one", "candidates": [candidate("a", 1.0, 1.0), candidate("b", 2.0, 3.0)]},
            {"scenario": "two", "candidates": [candidate("a", 1.0, 1.5), candidate("b", 2.0, 1.0)]},
        ],
    }  # fmt: skip
    path = tmp_path / "m.json"
    path.write_text(json.dumps(record))
    return path


def test_scenarios_show_prints_how_often_the_choice_was_right_and_every_miss(held, capsys):
    assert cli.main(["scenarios", "show", str(held)]) == 0
    printed = capsys.readouterr().out
    assert "the selector         first choice within 15 % of the best: 1 of 2 (50%)" in printed
    assert "order right: 1 of 2 pairs (50%)" in printed and "fewest FLOPs" in printed
    assert "miss: two: a took 1.50 times b" in printed
    assert "order: two: a took 1.50 times b, predicted the other way round" in printed


def test_scenarios_run_passes_on_what_was_given_and_prints_the_agreement(held, capsys, monkeypatch, tmp_path):
    given = {}

    def run(out, **options):
        given.update(options, out=out)
        return json.loads(held.read_text())

    monkeypatch.setattr("attn_course.selection.run_scenarios", run)
    assert (
        cli.main(["scenarios", "run", "--out", str(tmp_path / "x.json"), "--resume", "--seconds", "0.25"])
        == 0
    )
    assert given == {"out": tmp_path / "x.json", "resume": True, "device": None, "seconds": 0.25}
    assert "1 of 2 (50%)" in capsys.readouterr().out
    cli.main(["scenarios", "run"])
    assert given["out"].parts[:2] == ("results", "scenarios") and not given["resume"]


def test_scenarios_that_are_stopped_say_how_to_go_on_and_a_file_that_is_there_is_refused(
    capsys, monkeypatch, held
):
    def stopped(out, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("attn_course.selection.run_scenarios", stopped)
    assert cli.main(["scenarios", "run", "--device", "cpu"]) == cli.INTERRUPTED
    assert "attn-course scenarios run --device cpu --resume" in capsys.readouterr().err
    monkeypatch.undo()
    before = held.read_bytes()
    assert cli.main(["scenarios", "run", "--out", str(held)]) == 1
    assert "go on with --resume" in capsys.readouterr().err and held.read_bytes() == before
    held.write_text("{")
    assert cli.main(["scenarios", "show", str(held)]) == 1
    assert "is no JSON" in capsys.readouterr().err
