"""Ahead-of-time build of the compiled operators: python setup.py build_ext (see scripts/install_ext.sh)."""

import sys
from pathlib import Path

from setuptools import setup

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.libraries import setup_kwargs  # noqa: E402

if __name__ == "__main__":
    setup(**setup_kwargs("shencoder"))
