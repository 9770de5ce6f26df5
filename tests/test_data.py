import sys

import pytest
import torch

from attn_course import data


def test_encoding_and_decoding_give_the_text_back():
    text = "def f(x):\n    return x ** 2  # ~\n"
    assert data.decode(data.encode(text)) == text


def test_a_character_outside_the_alphabet_becomes_the_unknown_token():
    tokens = data.encode("aé\t")
    assert tokens.tolist()[1:] == [data.UNKNOWN, data.UNKNOWN]
    assert tokens.max() < data.VOCABULARY_SIZE


def test_the_standard_library_is_split_by_module_without_overlap():
    assert not set(data.TRAIN_MODULES) & set(data.TEST_MODULES)
    text = data.standard_library()
    assert len(text.train) > 5 * len(text.test) > 0
    assert int(text.train.max()) < data.VOCABULARY_SIZE


def test_another_text_than_the_recorded_one_is_said(monkeypatch):
    same = sys.version_info[:3] == tuple(int(part) for part in data.RECORDED_PYTHON.split("."))
    assert ("the same text" in data.standard_library().note) == same
    monkeypatch.setattr(data, "TEST_MODULES", ("cmd", "no_such_module"))
    note = data.standard_library().note
    assert "differs" in note and "no_such_module" in note


def test_a_python_without_its_sources_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(data.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(FileNotFoundError, match="argparse"):
        data.standard_library()


def test_tokens_are_integers():
    assert data.encode("x").dtype == torch.long
