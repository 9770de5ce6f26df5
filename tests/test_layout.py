"""The house: which module may import which, what stands where, and that the files agree with each other."""

import ast
import inspect
import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomllib
import yaml

import attn_course
from tools import constraints, notebooks, repository

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "attn_course"

# Every name of the document that the course grows from.
DOCUMENT = [
    "MultiHeadAttention",
    "TransformerBlock",
    "PositionalEncoding",
    "SpatialAttention",
    "ChannelAttention",
    "CBAM",
    "SelfAttention2D",
    "AttentionCNN",
    "HybridAttentionModel",
    "create_hybrid_model",
    "AttentionAnalysis",
    "AttentionSelector",
    "PerformanceBenchmark",
    "transformer_example",
    "cnn_attention_example",
    "attention_complexity_comparison",
    "memory_comparison",
    "usage_examples",
    "sliding_window_attention",
    "transformer_cnn_hybrid",
]

# Who may import whom. A new family of mechanisms needs a line here.
MECHANISMS = {"transformer", "positional", "cnn", "window"}
ABOVE_MECHANISMS = {
    "analysis",
    "benchmark",
    "hybrid",
    "selection",
    "cli",
    "exercises",
    "experiments",
    "plots",
    "widgets",
    "grading",
}
MAY_NOT = {
    **{name: ABOVE_MECHANISMS for name in MECHANISMS},
    "hybrid": {
        "selection",
        "cli",
        "benchmark",
        "analysis",
        "exercises",
        "experiments",
        "plots",
        "widgets",
        "grading",
    },
    "analysis": {"selection", "cli", "exercises", "experiments", "plots", "widgets", "grading"},
    "benchmark": {"selection", "cli", "exercises", "experiments", "plots", "widgets", "grading"},
    "selection": {"cli", "exercises", "experiments", "plots", "widgets", "grading"},
    "textbook": ABOVE_MECHANISMS | MECHANISMS,
    "exercises": {"plots", "widgets", "cli", "grading"},
    "experiments": {"grading", "cli"},
    "widgets": {"grading", "cli"},
    "plots": {"grading", "cli", "widgets"},
    "grading": {"cli", "plots", "widgets", "experiments"},
}
ONLY = {"matplotlib": {"plots"}, "seaborn": {"plots"}, "ipywidgets": {"widgets"}, "anywidget": {"widgets"}}


# --- imports --------------------------------------------------------------------------------------


def imports(text: str, module: str, *, package: bool = False) -> set[str]:
    """Every module that a file names in an import, at any depth, relative ones spelled out."""
    parts = module.split(".")
    here = parts if package else parts[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            found |= {start, *(f"{start}.{alias.name}" for alias in node.names)}
    return found


def family(module: str) -> str | None:
    """The part of ``attn_course`` that a module belongs to: attn_course.exercises.core -> exercises."""
    parts = module.split(".")
    return parts[1] if parts[0] == "attn_course" and len(parts) > 1 else None


def broken_rules(module: str, names: set[str]) -> list[str]:
    """Which import rules of the house a module breaks that imports ``names``."""
    me = family(module)
    broken = [
        f"{module} imports {name}" for name in names if name.split(".")[0] in {"notebooks", "tests", "tools"}
    ]
    for name in sorted(names):
        top, part = name.split(".")[0], family(name)
        if top in ONLY and me not in ONLY[top]:
            broken.append(f"{module} imports {name}, only {', '.join(ONLY[top])} may")
        if me == "complexity" and (top == "torch" or (top == "attn_course" and part != me)):
            broken.append(f"{module} imports {name}, it may not")
        if part in MAY_NOT.get(me or "", set()) and part != me:
            broken.append(f"{module} imports {name}, imports run the other way")
    return broken


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


@pytest.mark.parametrize(("module", "path"), [pytest.param(*item, id=item[0]) for item in modules()])
def test_module_imports_only_what_the_house_allows(module, path):
    names = imports(path.read_text(), module, package=path.name == "__init__.py")
    assert broken_rules(module, names) == []


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("attn_course.complexity", "import torch"),
        ("attn_course.complexity", "def f():\n    from .transformer import causal_mask"),
        ("attn_course.transformer", "from .analysis import AttentionAnalysis"),
        ("attn_course.analysis", "from attn_course import selection"),
        ("attn_course.selection", "from . import cli"),
        ("attn_course.exercises.core", "from ..plots import draw"),
        ("attn_course.analysis", "import matplotlib.pyplot as plt"),
        ("attn_course.plots", "from ipywidgets import interact"),
        ("attn_course.data", "import tests.site_sample"),
    ],
)
def test_an_import_against_the_house_is_found(module, text):
    assert broken_rules(module, imports(text, module))


def test_an_import_that_the_house_allows_is_not_reported():
    text = "import torch\nfrom .transformer import causal_mask\nfrom . import complexity"
    assert broken_rules("attn_course.hybrid", imports(text, "attn_course.hybrid")) == []


def loaded_by(statement: str) -> set[str]:
    """The top-level modules in memory after a statement, in a Python of its own."""
    code = f"import sys\n{statement}\nimport json\nprint(json.dumps(sorted(sys.modules)))"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(json.loads(answer.stdout))


def test_importing_the_package_loads_nothing_that_was_not_asked_for():
    extra = {
        "torch",
        "numpy",
        "matplotlib",
        "seaborn",
        "pandas",
        "sklearn",
        "IPython",
        "ipywidgets",
        "anywidget",
    }
    assert not extra & loaded_by("import attn_course")


def test_importing_a_mechanism_loads_torch_and_no_library_beside_it():
    loaded = loaded_by("from attn_course import MultiHeadAttention, CBAM")
    assert "torch" in loaded
    assert not {"matplotlib", "seaborn", "pandas", "sklearn", "IPython", "ipywidgets", "anywidget"} & loaded


def test_complexity_works_where_torch_is_missing():
    assert "torch" not in loaded_by("import attn_course.complexity")


def test_importing_every_mechanism_leaves_torchs_global_state_alone():
    code = """
import torch
def state():
    return (torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads(),
            torch.random.initial_seed(), torch.are_deterministic_algorithms_enabled(),
            torch.get_rng_state().sum().item())
torch.manual_seed(7)
before = state()
import attn_course
for name in attn_course.__all__:
    getattr(attn_course, name)
import attn_course.exercises
assert state() == before, (before, state())
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DOCUMENT)
def test_every_name_of_the_document_is_one_import_away(name):
    assert callable(getattr(attn_course, name))


def test_the_package_lists_exactly_what_it_gives():
    assert set(DOCUMENT) <= set(attn_course.__all__)
    assert set(attn_course.__all__) <= set(dir(attn_course))


def test_an_unknown_name_is_an_attribute_error_that_names_it():
    with pytest.raises(AttributeError, match="no_such_thing"):
        attn_course.no_such_thing  # noqa: B018


def raised(function: object) -> set[str]:
    """The exceptions that a function's own body raises by name."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, SyntaxError, TypeError):
        return set()
    calls = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc]
    names = [node.func if isinstance(node, ast.Call) else node for node in calls]
    return {node.id for node in names if isinstance(node, ast.Name)}


def gaps_in_docstring(thing: object) -> list[str]:
    """What the docstring of a public name lacks."""
    text = inspect.getdoc(thing) or ""
    if (
        not text
        or text == inspect.getdoc(type(thing))
        or (inspect.isclass(thing) and "__doc__" not in vars(thing))
    ):
        return ["a docstring"]
    gaps = []
    members = [thing, *(vars(thing).values() if inspect.isclass(thing) else [])]
    told = text + "".join(inspect.getdoc(member) or "" for member in members[1:])
    errors = set().union(*(raised(member) for member in members)) & {"ValueError", "KeyError", "TypeError"}
    gaps += [f"Raises: {error}" for error in sorted(errors) if f"{error}" not in told or "Raises" not in told]
    if len(text.split()) < 3:
        gaps.append("more than a label")
    return gaps


@pytest.mark.parametrize("name", attn_course.__all__)
def test_every_public_name_says_what_it_does_and_what_it_raises(name):
    assert gaps_in_docstring(getattr(attn_course, name)) == []


@pytest.mark.parametrize(
    "name",
    [
        "MultiHeadAttention",
        "PositionalEncoding",
        "ChannelAttention",
        "SpatialAttention",
        "CBAM",
        "SelfAttention2D",
        "TransformerBlock",
    ],
)
def test_every_mechanism_names_its_paper(name):
    text = inspect.getdoc(getattr(attn_course, name)) or ""
    assert re.search(r"arXiv|doi|\b(19|20)\d\d\b", text), f"{name} cites nothing"


def test_a_docstring_without_its_errors_is_found():
    def halve(n):
        """Half of an even number, as an integer."""
        if n % 2:
            raise ValueError(f"{n} is odd")
        return n // 2

    def bare(n):
        return n

    assert gaps_in_docstring(halve) == ["Raises: ValueError"]
    assert gaps_in_docstring(bare) == ["a docstring"]


# --- files that must agree ------------------------------------------------------------------------


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirement(line: str) -> str:
    return re.match(r"[A-Za-z0-9._-]+", line)[0].lower().replace("_", "-")


def unpinned(project: dict, pinned: dict[str, str]) -> list[str]:
    """Requirements of the project that no pin covers."""
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    return sorted({name for group in groups for name in map(requirement, group)} - set(pinned))


def test_every_requirement_has_its_version_in_constraints():
    assert unpinned(project(), notebooks.pins(ROOT / "constraints.txt")) == []


def test_a_requirement_without_a_pin_is_found():
    wanted = {"dependencies": ["torch>=2.5"], "optional-dependencies": {"a": ["numpy", "Left_Pad>1"]}}
    assert unpinned(wanted, {"torch": "2.13.0", "numpy": "2.4.6"}) == ["left-pad"]


def test_constraints_hold_plain_pins_and_nothing_of_one_machine():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#") and not constraints.PIN.match(line)] == []
    assert not re.search(r"\+|@|file:|/", "\n".join(line for line in lines if not line.startswith("#")))
    assert "torch==2.13.0" in lines


def test_the_packages_own_requirements_are_ranges_that_leave_colabs_versions_alone():
    assert [line for line in project()["dependencies"] if "==" in line or "<" in line] == []


def test_conda_gets_what_pyproject_and_constraints_say():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    plain = [line for line in conda["dependencies"] if isinstance(line, str)]
    (pip,) = [part["pip"] for part in conda["dependencies"] if isinstance(part, dict)]
    assert "python=3.11" in plain and conda["name"] == project()["name"]
    assert {requirement(line) for line in plain} <= {
        "python",
        "pip",
        "nodejs",
        "make",
    }  # no second list of versions
    (editable,) = [line for line in pip if line.startswith("--editable")]
    extras = set(re.search(r"\[(.*)\]", editable)[1].split(","))
    from tools import env

    assert extras == set(env.EXTRAS.split(",")) <= set(project()["optional-dependencies"])
    assert "--constraint constraints.txt" in pip and len(pip) == 2


def test_the_version_is_the_same_everywhere():
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert attn_course.__version__ == project()["version"] == str(cff["version"])
    assert (
        f"## [{attn_course.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
        or "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()
    )


def test_the_repositorys_address_is_the_same_everywhere():
    mine = repository.current()
    texts = ((str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")) for path in repository.holders())
    assert repository.strays(texts, mine) == []


def test_tests_and_tools_read_the_address_and_do_not_hold_it():
    mine = repository.current()
    others = set(repository.files()) - set(repository.holders()) - {ROOT / "tests" / "test_tools.py"}
    assert [path.name for path in sorted(others) if mine.url in path.read_text(encoding="utf-8")] == []


def test_the_places_that_must_hold_the_address_hold_it():
    mine = repository.current()
    for name in ("README.md", "CITATION.cff", "pyproject.toml"):
        assert mine.url in (ROOT / name).read_text(), f"{name} does not hold {mine.url}"


# Written in two parts, so that this file does not hold them itself.
FORBIDDEN = [
    r"/wo" r"rk/(?:main|shared)",
    r"/tmp/te" r"am",
    r"/ho" r"me/\w+/",
    r"/Us" r"ers/\w+/",
    r"/opt/(?:pypi|wh)",
]


def forbidden(text: str) -> list[str]:
    return [match[0] for pattern in FORBIDDEN for match in re.finditer(pattern, text)]


def test_no_file_holds_a_place_on_somebodys_disk():
    found = {
        str(path.relative_to(ROOT)): forbidden(path.read_text(encoding="utf-8"))
        for path in repository.files()
    }
    assert {name: words for name, words in found.items() if words} == {}


def test_a_place_on_a_disk_is_found():
    assert forbidden("see /ho" + "me/ada/course") and not forbidden(
        "see results/ and https://example.org/home/"
    )


def test_every_module_has_its_test_file_and_there_is_no_drawer_for_the_rest():
    assert not list(PACKAGE.rglob("util*.py")) and not list(PACKAGE.rglob("helper*.py"))
    tested = {path.stem.removeprefix("test_") for path in (ROOT / "tests").glob("test_*.py")}
    assert {
        "transformer",
        "positional",
        "cnn",
        "window",
        "hybrid",
        "complexity",
        "analysis",
        "benchmark",
    } <= tested
    assert {"selection", "notebooks", "book", "layout", "tools"} <= tested
    assert any(name.startswith("exercises") for name in tested)


def test_the_prose_files_and_both_licences_are_there():
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff", "LICENSE", "LICENSE-TEXT"):
        assert len((ROOT / name).read_text()) > 300, f"{name} is empty"
    assert "MIT License" in (ROOT / "LICENSE").read_text()
    assert "creativecommons.org/licenses/by/4.0" in (ROOT / "LICENSE-TEXT").read_text()


def test_contributing_names_every_folder_and_every_module():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    parts = [path.name for path in PACKAGE.iterdir() if path.suffix == ".py" and path.stem != "__init__"]
    parts += [
        f"{path.name}/" for path in PACKAGE.iterdir() if path.is_dir() and (path / "__init__.py").exists()
    ]
    missing = [
        part for part in [*parts, "book/", "notebooks/", "results/", "tests/", "tools/"] if part not in text
    ]
    assert missing == []


def test_the_citation_file_has_what_github_needs():
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cff["cff-version"] == "1.2.0"
    assert {
        "message",
        "title",
        "authors",
        "version",
        "date-released",
        "license",
        "repository-code",
        "type",
    } <= set(cff)
    assert cff["license"] == ["MIT", "CC-BY-4.0"] and cff["repository-code"] == repository.current().url
    assert all("name" in author or "family-names" in author for author in cff["authors"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", str(cff["date-released"]))
