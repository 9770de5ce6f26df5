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


def test_the_introduction_names_the_device_that_it_returns(capsys, monkeypatch):
    monkeypatch.setattr(training, "best_device", lambda: torch.device("meta"))
    assert machine.introduce() == torch.device("meta")
    assert "using meta" in capsys.readouterr().out
