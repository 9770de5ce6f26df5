import subprocess
from types import SimpleNamespace

import pytest
import torch

from attn_course import machine, training


def test_the_machine_is_described_by_what_it_has():
    words = machine.describe()
    if torch.cuda.is_available():
        assert torch.cuda.get_device_name(0) in words
    else:
        assert f"{machine.cores()} cores" in words and words.endswith("no GPU")


def test_versions_are_those_that_are_imported():
    versions = machine.versions()
    assert versions["torch"] == torch.__version__.split("+")[0]
    assert versions["python"].count(".") == 2


def test_versions_of_what_is_not_installed_are_left_out():
    assert set(machine.versions(["torch", "no-such-package"])) == {"python", "torch"}


def test_the_introduction_names_the_device_that_it_returns(capsys, monkeypatch):
    monkeypatch.setattr(training, "best_device", lambda: torch.device("meta"))
    assert machine.introduce() == torch.device("meta")
    assert "using meta" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("processor", "stem"),
    [
        ("AMD EPYC", "amd-epyc-3-cores"),
        ("Intel(R) Xeon(R) CPU @ 2.20GHz", "intel-xeon-3-cores"),
        ("Apple M3 Pro", "apple-m3-pro-3-cores"),
    ],
)
def test_a_machine_is_a_files_name(monkeypatch, processor, stem):
    monkeypatch.setattr(machine, "processor", lambda: processor)
    monkeypatch.setattr(machine, "cores", lambda: 3)
    assert machine.slug("cpu") == stem


def test_a_card_is_a_files_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    assert machine.slug("cuda") == "nvidia-h100-80gb-hbm3"
    assert machine.default_device() == "cuda"


def test_the_clock_is_read_where_the_system_tells_it(monkeypatch, tmp_path):
    for core, mhz in enumerate((1_000_000, 3_000_000)):
        folder = tmp_path / f"cpu{core}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text("powersave\n")
        (folder / "scaling_cur_freq").write_text(f"{mhz}\n")
    monkeypatch.setattr(machine, "_CPUS", tmp_path)
    assert machine.clock() == {"governor": "powersave", "mhz": 2000}


def test_without_cpufreq_the_clock_is_what_cpuinfo_says_and_else_unknown(monkeypatch, tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("model name\t: A\ncpu MHz\t\t: 2000.4\n\nmodel name\t: A\ncpu MHz\t\t: 2001.0\n")
    monkeypatch.setattr(machine, "_CPUS", tmp_path / "none")
    monkeypatch.setattr(machine, "_CPUINFO", cpuinfo)
    assert machine.clock() == {"governor": None, "mhz": 2001}
    assert machine.processor() == "A"
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "none")
    assert machine.clock() == {"governor": None, "mhz": None}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("580.65.06, 345, 1980, 700.00, P0", ("580.65.06", 345.0, 1980.0, 700.0, "P0")),
        ("580.65.06, 345, 1980, [N/A], P0", ("580.65.06", 345.0, 1980.0, None, "P0")),
        ("", (None, None, None, None, None)),
    ],
)
def test_a_card_is_described_by_torch_and_by_nvidia_smi_where_there_is_one(monkeypatch, answer, expected):
    asked = []
    properties = SimpleNamespace(name="a card", total_memory=2**34, uuid="12ab")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(machine, "_answer", lambda command: asked.append(command) or answer)
    found = machine.gpu()
    assert (found["name"], found["memory_bytes"]) == ("a card", 2**34)
    keys = ("driver", "clock_mhz", "clock_max_mhz", "power_limit_w", "performance_state")
    assert tuple(found[key] for key in keys) == expected
    assert asked[0][1] == "--id=GPU-12ab"  # the card that torch sees, not the first of the machine


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True)


def test_the_commit_is_that_of_the_checkout_and_dirty_when_the_package_differs(monkeypatch, tmp_path):
    package = tmp_path / "attn_course"
    package.mkdir()
    (package / "machine.py").write_text("a")
    monkeypatch.setattr(machine, "__file__", str(package / "machine.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert machine.commit() is None
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "one")
    first = machine.commit()
    assert len(first["hash"]) == 40 and first["dirty"] is False
    (tmp_path / "results.json").write_text("a record takes no part")
    assert machine.commit() == first
    (package / "new.py").write_text("b")
    assert machine.commit() == {**first, "dirty": True}


def test_a_repository_that_is_not_the_packages_own_is_not_asked(monkeypatch, tmp_path):
    package = tmp_path / "site-packages" / "attn_course"
    package.mkdir(parents=True)
    monkeypatch.setattr(machine, "__file__", str(package / "machine.py"))
    git(tmp_path, "init")
    (tmp_path / "a").write_text("a")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-m", "one")
    assert machine.commit() is None


def test_a_command_that_is_missing_fails_or_hangs_answers_nothing(monkeypatch):
    assert machine._answer(["no-such-command"]) == ""
    assert machine._answer(["false"]) == ""
    assert machine._answer(["echo", "a"]) == "a"

    def run(command, timeout, **options):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", run)
    assert machine._answer(["echo", "a"]) == ""


def test_results_lie_beside_the_package_or_in_it(monkeypatch, tmp_path):
    package = tmp_path / "attn_course"
    package.mkdir()
    monkeypatch.setattr(machine, "__file__", str(package / "machine.py"))
    assert machine.results_folder() == package / "_results"
    (tmp_path / "results").mkdir()
    assert machine.results_folder() == tmp_path / "results"
