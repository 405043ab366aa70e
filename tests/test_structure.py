"""The shape of the code base: floors, the one seam to ComfyUI, cheap imports, nothing dangerous."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from .conftest import ROOT

FLOORS = {
    "version": -1,
    "host": 0,
    "families": 1,
    "pipelines": 2,
    "trainers": 3,
    "evaluation": 3,
    "nodes": 4,
    "headless": 5,
}
ONLY_ABOVE = {"host": {"nodes", "headless", "host"}}
"""Packages that may be imported by these alone, whatever their floor."""
PACKAGES = [name for name in FLOORS if name != "version"]
COMFYUI = {"comfy", "comfy_api", "comfy_execution", "folder_paths", "server", "execution", "nodes"}
HEAVY = {"torch", "diffusers", "transformers", "peft", "matplotlib", "numpy", "PIL"}
MODULES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))
ALL_FILES = [*MODULES, ROOT / "__init__.py", ROOT / "cli.py", ROOT / "version.py"]


def name_of(path):
    return str(path.relative_to(ROOT))


def imports(path):
    """(top-level name of ours or "", absolute top-level name or "", line) of every import."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield "", alias.name.split(".")[0], node.lineno
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield "", (node.module or "").split(".")[0], node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - (node.level - 1)]
            modules = [node.module] if node.module else [alias.name for alias in node.names]
            for module in modules:
                yield (*base, *module.split("."))[0], "", node.lineno


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_run_downwards_only(path):
    here = path.relative_to(ROOT).parts[0]
    for ours, _, line in imports(path):
        if ours in FLOORS:
            assert FLOORS[ours] <= FLOORS[here], f"line {line}: {here} must not know {ours}"
            allowed = ONLY_ABOVE.get(ours)
            assert allowed is None or here in allowed, f"line {line}: {here} must not know {ours}"


@pytest.mark.parametrize("path", ALL_FILES, ids=name_of)
def test_only_one_file_names_comfyui_and_none_names_itself(path):
    for _, absolute, line in imports(path):
        if name_of(path) != "host/comfyui.py":
            assert absolute not in COMFYUI, f"line {line} names ComfyUI's {absolute}"
        if name_of(path) != "cli.py":  # it starts the package from a folder of any name
            assert absolute != "likeness", f"line {line}: ComfyUI loads us under another name"


@pytest.mark.parametrize("path", ALL_FILES, ids=name_of)
def test_nothing_executes_code_from_files_or_calls_home(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        assert called not in {"eval", "exec", "os.system", "pickle.load", "pickle.loads"}, called
        if called == "torch.load":
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert keywords.get("weights_only") == "True", f"line {node.lineno}"


def test_files_stay_small():
    long = {
        name_of(path): count
        for path in ALL_FILES
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > 320
    }
    assert not long, "split them"


def test_every_package_is_in_the_wheel():
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10; pytest brings it there
        import tomli as tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = set(project["tool"]["setuptools"]["packages"])
    present = {"likeness", *(f"likeness.{name}" for name in PACKAGES)}
    nested = {"likeness." + ".".join(path.parent.relative_to(ROOT).parts) for path in MODULES}
    assert listed == present | nested


def test_importing_every_module_needs_neither_comfyui_nor_torch():
    modules = [
        "likeness." + ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in MODULES
    ]
    code = f"""
import importlib, sys
for name in ["likeness", *{modules!r}]:
    if not name.endswith("__main__"):
        importlib.import_module(name.removesuffix(".__init__"))
print(*sorted({HEAVY!r} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    heavy = done.stdout.split()
    assert not heavy, f"imported at start-up: {heavy}"
