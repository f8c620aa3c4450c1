#!/usr/bin/env bash
# On a machine with an NVIDIA GPU: build everything, run the tests marked cuda, benchmark, and write one JSON.
#   bash scripts/gpu_check.sh [docs/gpu.json]
# The exit status is that of the tests; what went wrong is in the JSON too.
set -uo pipefail
cd "$(dirname "$0")/.."
target=${1:-docs/gpu.json}
python=${PYTHON:-python}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tee "$work/gpu.txt"
start=$(date +%s)
"$python" extension.py 2>&1 | tee "$work/build.txt"
echo "$(($(date +%s) - start))" > "$work/build_seconds.txt"
"$python" -m pytest -q tests -m cuda --junitxml "$work/tests.xml" 2>&1 | tee "$work/tests.txt"
status=${PIPESTATUS[0]}
"$python" scripts/bench.py ops --device cuda --json "$work/ops.json" 2>&1 | tee "$work/ops.txt"

"$python" scripts/bench.py sd --device cuda --json "$work/sd.json" 2>&1 | tee "$work/sd.txt"

"$python" - "$work" "$target" "$status" <<'END'
import json
import sys
from pathlib import Path

work, target, status = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])


def figures(name):
    """Of a benchmark, or the last it said."""
    path = work / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else (work / f"{name}.txt").read_text().splitlines()[-5:]


report = {
    "gpu": (work / "gpu.txt").read_text().strip(),
    "build_seconds": int((work / "build_seconds.txt").read_text()),
    "build": (work / "build.txt").read_text().splitlines()[-5:],
    "tests_status": status,
    "tests": (work / "tests.txt").read_text().splitlines()[-20:],
    "ops": figures("ops"),
    "sd": figures("sd"),
}
target.parent.mkdir(parents=True, exist_ok=True)
part = target.with_suffix(".part")
part.write_text(json.dumps(report, indent=2) + "\n")
part.replace(target)
print(f"wrote {target}")
END
exit "$status"
