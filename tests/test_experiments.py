import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from attn_course import data
from attn_course.experiments import chapter1, core
from attn_course.experiments.__main__ import main


def experiment(log: list[int], **changes) -> core.Experiment:
    def run(seed, **settings):
        log.append(seed)
        return {"square": seed**2, **settings}, nn.Linear(2, 1) if seed == 0 else None

    return replace(core.Experiment("squares", "Squares grow.", run, {"size": 3}), **changes)


def test_every_seed_is_recorded_with_machine_and_versions(tmp_path):
    record = core.run(experiment([]), folder=tmp_path, say=lambda line: None)
    assert record.values("square") == [0, 1, 4] and record.values("size") == [3, 3, 3]
    found = core.load("squares", folder=tmp_path)
    assert found == record and found.machine and found.versions["torch"]


def test_a_recorded_seed_is_not_run_again(tmp_path):
    log: list[int] = []
    core.run(experiment(log, seeds=(0, 1)), folder=tmp_path, say=lambda line: None)
    core.run(experiment(log, seeds=(0, 1, 2)), folder=tmp_path, say=lambda line: None)
    assert log == [0, 1, 2]


def test_an_interrupt_loses_the_seed_in_progress_alone(tmp_path):
    def run(seed, **settings):
        if seed == 1:
            raise KeyboardInterrupt
        return {"square": seed**2}, None

    with pytest.raises(KeyboardInterrupt):
        core.run(experiment([], run=run), folder=tmp_path, say=lambda line: None)
    assert core.load("squares", folder=tmp_path).values("seed") == [0]
    assert [path.name for path in (tmp_path / "experiments").iterdir()] == ["squares.json"]


def test_other_settings_are_refused_and_the_record_stays(tmp_path):
    core.run(experiment([]), folder=tmp_path, say=lambda line: None)
    path = tmp_path / "experiments" / "squares.json"
    before = path.read_bytes()
    with pytest.raises(ValueError, match="'size': 5"):
        core.run(experiment([], settings={"size": 5}), folder=tmp_path, say=lambda line: None)
    assert path.read_bytes() == before
    record = core.run(
        experiment([], settings={"size": 5}), folder=tmp_path, restart=True, say=lambda line: None
    )
    assert record.values("size") == [5, 5, 5]


def test_a_record_begun_elsewhere_is_not_continued_here(tmp_path):
    core.run(experiment([], seeds=(0,)), folder=tmp_path, say=lambda line: None)
    path = tmp_path / "experiments" / "squares.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "machine": "another"}))
    with pytest.raises(ValueError, match="begun on another"):
        core.run(experiment([]), folder=tmp_path, say=lambda line: None)


def test_the_first_seeds_model_comes_back(tmp_path):
    kept = {}

    def run(seed, **settings):
        model = nn.Linear(2, 1)
        kept[seed] = model.weight.clone()
        return {}, model

    core.run(experiment([], run=run), folder=tmp_path, say=lambda line: None)
    model = core.load_model("squares", nn.Linear(2, 1), folder=tmp_path)
    assert model.weight.equal(kept[0]) and not model.training


def test_a_file_that_is_no_record_is_told_and_a_missing_one_says_how_to_make_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="make experiments"):
        core.load("squares", folder=tmp_path)
    path = tmp_path / "experiments" / "squares.json"
    path.parent.mkdir()
    path.write_text('{"experiment": "squares"')
    with pytest.raises(ValueError, match="not the record"):
        core.load("squares", folder=tmp_path)


def test_an_unknown_name_lists_what_there_is(capsys):
    assert main(["run", "no-such-experiment"]) == 2
    assert "language-model" in capsys.readouterr().err


def test_every_experiment_is_recorded_for_all_its_seeds_with_its_present_settings():
    for name, known in core.catalog().items():
        record = core.load(name)
        assert tuple(record.values("seed")) == known.seeds
        assert record.settings == json.loads(json.dumps(known.settings))


def test_the_kept_model_is_the_one_of_the_record():
    record = core.load("language-model")
    model = core.load_model("language-model", chapter1.CharacterModel())
    text = data.standard_library()
    if text.sha256 != record.runs[0]["text_sha256"]:  # another Python has another text, and other bits
        return
    inputs, targets = chapter1.test_windows(text.test, record.settings["length"])
    with torch.no_grad():
        assert chapter1.bits_per_character(model, inputs, targets) == pytest.approx(
            record.runs[0]["bits"], abs=0.01
        )


def test_the_innermost_open_bracket_is_found():
    inside = chapter1.opening_brackets(data.encode("a(b(c)d)e)("))
    #          a   (  b  (  c  )  d  )   e   )   (
    expected = [-1, -1, 1, 1, 3, 1, 1, -1, -1, -1, -1]
    assert inside.tolist() == expected


def test_habits_of_hand_made_heads_are_exact():
    tokens = data.encode("f(abcd)").repeat(2, 1)
    n = tokens.shape[1]
    previous = torch.zeros(2, n, n)
    previous[:, torch.arange(n), (torch.arange(n) - 1).clamp_min(0)] = 1
    bracket = torch.zeros(2, n, n)
    bracket[:, torch.arange(n), torch.tensor([0, 0, 1, 1, 1, 1, 1])] = 1
    first, second = chapter1.head_habits([torch.stack([previous, bracket], dim=1)], tokens)
    assert (first["previous_weight"], first["previous_top"], first["bracket_weight"]) == (1, 1, 0)
    assert (second["bracket_weight"], second["bracket_top"]) == (1, 1)
    assert second["bracket_queries"] == 2 * 3  # b, c and d stand at least two places after the bracket
    assert first["previous_even"] == pytest.approx(sum(1 / k for k in range(2, n + 1)) / (n - 1))


def test_counting_finds_the_entropy_of_what_was_counted():
    text = data.encode("ab" * 500 + "\n")
    inputs, targets = text[None, :1000], text[None, 1:1001]
    bits = chapter1.baselines(text, inputs, targets)
    assert bits["bigram"] < 0.3 < bits["unigram"] < 1.5


def test_the_model_never_looks_ahead():
    model = chapter1.CharacterModel(d_model=8, num_heads=2, num_layers=2).eval()
    tokens = torch.arange(11)[None]
    changed = tokens.clone()
    changed[0, 7:] += 5
    a, b = model(tokens)[0], model(changed)[0]
    torch.testing.assert_close(a[:, :7], b[:, :7])
    assert not a[:, 7:].allclose(b[:, 7:])
