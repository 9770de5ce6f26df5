"""The command line: what it calls, what it prints, and its exit status."""

import json

import pytest
import torch

from attn_course import benchmark, cli


@pytest.fixture
def recorded(monkeypatch):
    """What `record_speed` was called with; it gives back one row that went well unless told otherwise."""
    calls = []

    def record_speed(out, **options):
        calls.append((out, options))
        options["say"]("a table")
        return {"rows": calls[0][1].get("rows", [{}])}

    monkeypatch.setattr(benchmark, "record_speed", record_speed)
    return calls


def test_bench_speed_passes_its_options_on(recorded, tmp_path, capsys):
    out = tmp_path / "a.json"
    assert cli.main(["bench", "speed", "--out", str(out), "--quick", "--compile", "--seconds", "3"]) == 0
    ((path, options),) = recorded
    assert path == out
    assert (options["quick"], options["compiled"], options["seconds"], options["device"]) == (
        True,
        True,
        3.0,
        None,
    )
    printed = capsys.readouterr().out
    assert "a table" in printed and f"Written to {out}" in printed


def test_bench_speed_sets_the_threads_it_is_told(recorded, monkeypatch, tmp_path):
    threads = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    assert cli.main(["bench", "speed", "--out", str(tmp_path / "a.json"), "--threads", "3"]) == 0
    assert threads == [3]
    assert cli.main(["bench", "speed", "--out", str(tmp_path / "a.json"), "--threads", "0"]) == 2
    assert threads == [3]


def test_a_case_that_failed_gives_the_status_one(monkeypatch, tmp_path):
    monkeypatch.setattr(
        benchmark, "record_speed", lambda out, **options: {"rows": [{}, {"failed": "memory"}]}
    )
    assert cli.main(["bench", "speed", "--out", str(tmp_path / "a.json")]) == 1


def test_an_existing_record_gives_a_message_and_no_traceback(tmp_path, capsys):
    out = tmp_path / "a.json"
    out.write_text("mine")
    assert cli.main(["bench", "speed", "--quick", "--out", str(out)]) == 1
    assert "is not overwritten" in capsys.readouterr().err
    assert out.read_text() == "mine"


def test_a_run_from_the_command_to_the_file(monkeypatch, tmp_path, capsys):
    case = benchmark.speed_cases(quick=True)[-1]
    monkeypatch.setattr(benchmark, "speed_cases", lambda **options: [case])
    out = tmp_path / "a.json"
    assert (
        cli.main(["bench", "speed", "--quick", "--seconds", "0", "--device", "cpu", "--out", str(out)]) == 0
    )
    (row,) = json.loads(out.read_text())["rows"]
    assert row["case"] == case.name
    printed = capsys.readouterr().out
    for peer in row["peers"]:
        assert peer in printed


def test_doctor_says_versions_device_and_threads(capsys):
    assert cli.main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert torch.__version__.split("+")[0] in printed
    for name in ("python", "machine", "device", "threads", "THP_MEM_ALLOC_ENABLE"):
        assert f"\n{name} " in printed


@pytest.mark.parametrize("argv", [[], ["bench"], ["bench", "speed"], ["dance"]])
def test_a_wrong_call_shows_the_usage(argv, capsys):
    with pytest.raises(SystemExit) as error:
        cli.main(argv)
    assert error.value.code == 2
    assert "usage: attn-course" in capsys.readouterr().err
