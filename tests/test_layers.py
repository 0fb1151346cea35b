"""The layers: who may import whom, and that only what trains imports torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import losskit

ROOT = Path(losskit.__file__).parent
# A layer may import itself and the layers before it.
LAYERS = [
    {"constants", "diagnostics", "spelling"},
    {"schema", "config", "syntax"},
    {"registry", "strategies"},
    {"modules", "settings", "loss_checker", "balancing_checker", "validation", "first_pass", "fixing"},
    {"building", "testing", "smoke", "distributed"},
    {"integrations"},
    {"cli"},
    {"pytest_plugin"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
# What is reached only through `LossEntry.module.load()`, or through building: imports inside functions.
DEFERRED = {("registry", "modules"), ("building", "modules")}
FILES = sorted(ROOT.rglob("*.py"))


def layer_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0]


def imports(tree):
    """Each imported module, and whether the import stands at the top of the file."""
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, id(node) in top
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in top


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path):
    layer = layer_of(path)
    if layer in ("__init__", "__main__"):
        return
    for module, is_top in imports(ast.parse(path.read_text("utf-8"))):
        if module.startswith("losskit."):
            other = module.split(".")[1]
            deferred = (layer, other) in DEFERRED and not is_top
            assert LEVEL[other] <= LEVEL[layer] or deferred, f"{layer} imports {other}"
        # Who imports an integration trains, so torch is there.
        if module.split(".")[0] == "torch" and layer not in ("modules", "integrations"):
            guarded = not is_top
            assert guarded, f"{path.name} imports torch"


def test_integrations_import_no_framework():
    frameworks = {"accelerate", "hydra", "lightning", "omegaconf", "ray", "skorch", "transformers"}
    for path in (ROOT / "integrations").rglob("*.py"):
        assert not frameworks & {module.split(".")[0] for module, _ in imports(ast.parse(path.read_text("utf-8")))}


def test_schema_never_imports_the_registry():
    for path in (ROOT / "schema").rglob("*.py"):
        modules = [module for module, _ in imports(ast.parse(path.read_text("utf-8")))]
        assert "losskit.registry" not in modules, path.name


def test_importing_losskit_imports_nothing_else():
    code = """
import __future__, sys, typing
before = set(sys.modules)
import losskit
print(*set(sys.modules) - before)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["losskit"]


def test_public_names_are_sorted_and_there():
    assert losskit.__all__ == sorted(losskit.__all__)
    for name in losskit.__all__:
        assert getattr(losskit, name) is not None
    assert callable(losskit.validate)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = losskit.nothing


def test_no_module_hides_a_public_name():
    # A submodule becomes an attribute of its package when it is imported, and would replace the function.
    modules = {path.stem for path in ROOT.glob("*.py")} | {path.name for path in ROOT.iterdir() if path.is_dir()}
    assert modules & set(losskit.__all__) <= {"distributed", "testing"}
