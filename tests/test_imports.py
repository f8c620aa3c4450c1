"""Imports go one way only (docs: the house)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXTENSIONS = {"raymarching", "gridencoder", "fusedfield", "shencoder", "freqencoder", "adan", "rasterizer"}
ALLOWED = {  # part -> the parts it may import
    "common": set(),
    "extension": {"common"},
    **{name: {"extension"} for name in EXTENSIONS},
    "fusedfield": {"extension", "gridencoder"},
    "guidance": set(),
    "roofline": {"extension"},
    "toybox": {"extension"},
    "nerf": EXTENSIONS | {"common", "extension", "guidance", "toybox"},
}
PARTS = set(ALLOWED) | {"main", "scripts", "tests"}


def imported_parts(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names & PARTS


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_imports_go_one_way(part):
    files = [ROOT / f"{part}.py"] if (ROOT / f"{part}.py").exists() else (ROOT / part).rglob("*.py")
    forbidden = {
        str(f.relative_to(ROOT)): imported_parts(f) - ALLOWED[part] - {part} for f in files if f.name != "setup.py"
    }
    assert not {file: parts for file, parts in forbidden.items() if parts}
