"""The package as a whole: what an import costs, who may import whom, what an installation holds, what papers say."""

import ast
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

import ase_nnxc
from ase_nnxc import cli
from ase_nnxc.cli.command import _parser
from ase_nnxc.ks.terms import STANDARD_TERMS

PACKAGE = Path(ase_nnxc.__file__).parent
REPOSITORY = Path(__file__).resolve().parents[1]
MODULES = sorted(PACKAGE.rglob("*.py"))

# Imports point down: a part may import itself and the parts on lines above its own. What is imported from the package
# itself counts as "version" and "calculator". A new part is put on a line here.
LAYERS = (
    {"version", "units", "folder_lock", "regular_files", "ranks", "_moved"},
    {"xc"},
    {"atoms"},
    {"pseudopotentials"},
    {"ks"},
    {"conventional", "interop"},
    {"checkpoints"},
    {"registry"},
    {"calculator"},
    {"eos"},
    {"train"},
    {"interop.deepchem"},
    {"train.config"},
    {"train.fit_config"},
    {"cli"},
    {"__main__", "plugin"},
)
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}
# The core knows its own folder and these; ks also knows what a functional, a pseudopotential and a radial function are.
KNOWN_BELOW = (
    "ase_nnxc.xc.features.",
    "ase_nnxc.xc.functional.",
    "ase_nnxc.pseudopotentials.protocol.",
    "ase_nnxc.pseudopotentials.radial.",
    "ase_nnxc.ranks.",
    "ase_nnxc._moved.",
)
CORE_LIBRARIES = {"torch", "numpy", "scipy", "spglib"}


def imports(path: Path) -> Iterator[str]:
    """Every imported name of a module as an absolute one: "torch", "ase_nnxc.ks.basis.Basis"."""
    package = ["ase_nnxc", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            yield from (".".join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names)


def part(name: str) -> str:
    """The part of the package that a dotted name below ase_nnxc belongs to."""
    module = ".".join(name.split(".")[1:3])
    if module in LEVEL:
        return module
    first = [*name.split("."), ""][1]
    return {"NNXCCalculator": "calculator", "__version__": "version"}.get(first, first)


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def run_python(code: str, folder: Path) -> str:
    """Output of a fresh interpreter that finds the package under test, wherever it lies."""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_import_is_light(tmp_path):
    heavy = "{'torch', 'pyscf', 'scipy', 'matplotlib', 'spglib', 'ase.io'}"
    assert run_python(f"import sys, ase_nnxc; print({heavy} & set(sys.modules) or '')", tmp_path).strip() == ""


def test_fit_of_an_equation_of_state_is_loaded_without_what_scans_need(tmp_path):
    unneeded = "{'matplotlib', 'spglib', 'ase.io'}"
    code = f"import sys, ase_nnxc.eos.birch_murnaghan; print({unneeded} & set(sys.modules) or '')"
    assert run_python(code, tmp_path).strip() == ""


def test_calculator_is_found_when_asked_for_and_a_wrong_name_is_not():
    from ase_nnxc.calculator import NNXCCalculator

    assert ase_nnxc.NNXCCalculator is NNXCCalculator
    assert all(getattr(ase_nnxc, name) is not None for name in ase_nnxc.__all__)
    with pytest.raises(AttributeError, match="NNXCalculator"):
        _ = ase_nnxc.NNXCalculator


@pytest.mark.parametrize("path", [p for p in MODULES if p != PACKAGE / "__init__.py"], ids=relative)
def test_imports_point_down(path):
    own = part(".".join(["ase_nnxc", *path.relative_to(PACKAGE).with_suffix("").parts]))
    for name in imports(path):
        if name.split(".")[0] == "ase_nnxc" and part(name) != own:
            assert LEVEL[part(name)] < LEVEL[own], f"{own} imports {name}"


@pytest.mark.parametrize("core", ["ks", "xc"])
def test_core_knows_nothing_of_ase_files_or_names(core):
    for path in (PACKAGE / core).rglob("*.py"):
        for name in imports(path):
            library = name.split(".")[0]
            if library == "ase_nnxc":
                assert part(name) == core or name.startswith(KNOWN_BELOW), f"{relative(path)}: {name}"
            else:
                assert library in CORE_LIBRARIES or library in sys.stdlib_module_names, f"{relative(path)}: {name}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "ks").glob("*.py")), ids=relative)
def test_core_beside_the_terms_names_no_single_term(path):
    """It asks for the list of the terms and for what a term is."""
    allowed = {"ase_nnxc.ks.terms.STANDARD_TERMS"}
    imported = {name for name in imports(path) if name.startswith("ase_nnxc.ks.terms.")}
    assert {name for name in imported - allowed if not name.startswith("ase_nnxc.ks.terms.term.")} == set()
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert texts & {term.name for term in STANDARD_TERMS} == set()  # state.terms["hartree"]
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    assert names & {term.__name__ for term in STANDARD_TERMS} == set()


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_public_things_have_a_docstring(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    public = [
        node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    ]
    assert [node.name for node in public if not ast.get_docstring(node)] == []
    assert path.read_text(encoding="utf-8") == "" or ast.get_docstring(tree), "the module has none"


def test_installation_holds_the_data():
    package = files("ase_nnxc")
    for name in ("py.typed", "data/valences.json", "models/README.md"):
        assert (package / name).is_file(), name


def test_citation_and_changelog_have_the_version():
    citation = (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.*)$", citation, re.MULTILINE)[1] == ase_nnxc.__version__
    changelog = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## \[(\d.*?)\]", changelog, re.MULTILINE)[1] == ase_nnxc.__version__


def test_readme_python_compiles_and_imports_what_exists():
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        tree = compile(block, "README.md", "exec", flags=ast.PyCF_ONLY_AST)
        lines = [ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        exec("\n".join(lines), {})


PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
TRAINS = {"why-differentiable.md"}  # four functionals


@pytest.mark.skipif(not (REPOSITORY / "docs").is_dir(), reason="not a checkout")
@pytest.mark.parametrize(
    "page", [pytest.param(p, id=p.name, marks=pytest.mark.slow if p.name in TRAINS else ()) for p in PAGES[1:]]
)
def test_blocks_of_the_pages_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pyscf.scf.hf.MUTE_CHKFILE", True)  # PySCF leaves its temporary files open
    names = dict[str, object]()
    for language, block in re.findall(r"```(python|bash)\n(.*?)```", page.read_text(encoding="utf-8"), re.S):
        if language == "python":
            exec(compile(block, page.name, "exec"), names)
            continue
        for command in block.splitlines():
            program, *arguments = shlex.split(command)
            assert (program, cli.main(arguments)) == ("nnxc", 0), command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_pages_show_and_links_are_right(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for command in re.findall(r"^\$ nnxc (.*)$", text, re.M):
        _parser().parse_args(shlex.split(command))
    linked = [target for target in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in target]
    assert [target for target in linked if not (page.parent / target).exists()] == []
