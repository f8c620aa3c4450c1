"""scripts/gpu_check.sh with programs that only note what they are asked: what it runs, how long, and what it leaves."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nerf import cli

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "gpu_check.sh"
BENCHMARKS = ["ops", "step", "render", "export", "sd"]
WHOLE = {"whole": [], "cap6": ["--cap", "6"], "cap4": ["--cap", "4"]}
PARTS = ["gpu", "build", "tests", *BENCHMARKS, *WHOLE, "memcheck", "racecheck"]


def program(folder, name, body):
    """A program that notes its arguments in folder/asked, and does `body`."""
    path = folder / name
    path.write_text(f'#!/bin/bash\necho "{name} $*" >> "{folder}/asked"\n{body}\n')
    path.chmod(0o755)


@pytest.fixture
def check(tmp_path):
    """check(): the exit status, the JSON and what was asked of the programs."""
    program(tmp_path, "nvidia-smi", 'echo "A GPU, 580.1, 8192 MiB"')
    program(
        tmp_path,
        "python",
        f"""case "$*" in
            -\\ *) exec {sys.executable} "$@" ;;
            *common.libraries) exit 7 ;;
            *pytest*) echo "1 failed"; exit 3 ;;
            *bench.py\\ sd*) echo "out of memory"; exit 1 ;;
            *bench.py*) echo '{{"rows": []}}' > "${{@: -1}}" ;;
            *time_steps.py*) echo '{{"phases": {{}}}}' > "$3" ;;
        esac""",
    )

    def run():
        target = tmp_path / "made" / "gpu.json"
        tools = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CUDA_HOME": str(tmp_path / "cuda")}
        command = ["bash", str(SCRIPT), str(target)]
        done = subprocess.run(command, env={**os.environ, **tools, "PYTHON": "python"}, capture_output=True, text=True)
        return done.returncode, json.loads(target.read_text()), (tmp_path / "asked").read_text().splitlines()

    return run


def test_every_part_runs_whatever_became_of_the_others_and_the_status_is_that_of_the_tests(check):
    status, report, asked = check()
    assert status == 3 and list(report) == PARTS
    assert [report[name]["status"] for name in PARTS] == [0, 7, 3, 0, 0, 0, 0, 1, 0, 0, 0, 127, 127]
    assert report["gpu"]["said"] == ["A GPU, 580.1, 8192 MiB"] and report["tests"]["said"] == ["1 failed"]
    assert [name for name in PARTS if "figures" in report[name]] == BENCHMARKS[:-1] + list(WHOLE)
    assert report["sd"]["said"] == ["out of memory"] and report["ops"]["figures"] == {"rows": []}
    assert "compute-sanitizer" in report["memcheck"]["said"][0]
    benches = [line for line in asked if "bench.py" in line]
    assert [line.split()[2] for line in benches] == BENCHMARKS and all("--device cuda" in line for line in benches)
    runs = [line.split(" -- ") for line in asked if "time_steps.py" in line]
    assert [said.split()[4:] for said, _ in runs] == list(WHOLE.values())
    for _, words in runs:
        assert "--device cuda" in words
        config = cli.parse(["--text", "a frog", *words.replace("--device cuda", "").split()]).config
        assert config.guidance.guidance == ("SD",) and config.guidance.hf_key == "random:sd21" and config.training.fp16


@pytest.mark.parametrize("place", ["", "cuda/bin"])
def test_kernels_are_checked_by_the_sanitizer_on_path_or_of_cuda_home(check, tmp_path, place):
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    program(tmp_path / place, "compute-sanitizer", f'echo "$PYTORCH_NO_CUDA_MEMORY_CACHING" > {tmp_path}/caching')
    _, report, _ = check()
    assert report["memcheck"]["status"] == report["racecheck"]["status"] == 0
    asked = (tmp_path / place / "asked").read_text()
    tools = re.findall(r"compute-sanitizer --tool (\w+) .* -m pytest .* -m cuda -k ", asked)
    assert tools == ["memcheck", "racecheck"] and (tmp_path / "caching").read_text() == "1\n"
    files = re.findall(r"tests/\w+\.py", asked)
    assert len(files) == 2 * 8 and all((SCRIPT.parents[1] / path).is_file() for path in files)


def test_all_parts_together_fit_ten_minutes():
    limits = dict(re.findall(r"\[(\w+)\]=(\d+)", SCRIPT.read_text()))
    assert sorted(limits) == sorted(PARTS) and sum(map(int, limits.values())) <= 600
