#!/usr/bin/env bash
# On a machine with an NVIDIA GPU: build everything, run the tests marked cuda, benchmark operators and whole steps (of
# cards of 6 and 4 GB, too), look for bad memory accesses and races in the kernels, and write one JSON.
#   bash scripts/gpu_check.sh [docs/gpu.json]
# The exit status is that of the tests; what went wrong in any part is in the JSON, and the others run all the same. It is
# written anew after each part. PYTHON chooses the interpreter.
set -uo pipefail
cd "$(dirname "$0")/.."
target=${1:-docs/gpu.json}
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

declare -A limits=( # seconds of each part; ten minutes together
  [gpu]=10 [build]=110 [tests]=140
  [ops]=50 [step]=25 [render]=25 [export]=20 [sd]=50 # field and march are part of ops
  [whole]=35 [cap6]=30 [cap4]=30
  [memcheck]=40 [racecheck]=30
)
kernels=(test_{adan,freqencoder,fusedfield_cuda,gridencoder,gridencoder_module,raymarching,raymarching_composite,shencoder}.py)
small="opcheck or rules_of_torch or shape3 or -31" # of their tests: every operator, at sizes around a warp
sanitizer=$(command -v compute-sanitizer || echo "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer")

part() { # part NAME COMMAND...: run it within its limit; its status, its seconds and what it said are kept
  local name=$1 start=$SECONDS
  shift
  echo "== $name"
  timeout -k 5 "${limits[$name]}" "$@" 2>&1 | tee "$work/$name.txt"
  local status=${PIPESTATUS[0]}
  echo "$name $status $((SECONDS - start))" >> "$work/parts.txt"
  report
  return "$status"
}

report() { # the JSON of the parts so far
  "$python" - "$work" "$target" <<'END_OF_REPORT'
import json
import sys
from pathlib import Path

work, target = Path(sys.argv[1]), Path(sys.argv[2])


def found(name, status, seconds):
    """Of a part; a benchmark that was stopped has the figures of the cases it had come to."""
    said = (work / f"{name}.txt").read_text(errors="replace").splitlines()[-60:]
    report = {"status": int(status), "seconds": int(seconds), "said": said}
    path = work / f"{name}.json"
    return report | ({"figures": json.loads(path.read_text())} if path.exists() else {})


lines = (work / "parts.txt").read_text().splitlines()
report = {name: found(name, *rest) for name, *rest in map(str.split, lines)}
target.parent.mkdir(parents=True, exist_ok=True)
part = target.with_suffix(".part")
part.write_text(json.dumps(report, indent=2) + "\n")
part.replace(target)
END_OF_REPORT
}

part gpu nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
part build "$python" -m common.libraries
part tests "$python" -m pytest -q tests -m cuda -rfE --tb=short --continue-on-collection-errors
tested=$?
for name in ops step render export sd; do
  part "$name" "$python" scripts/bench.py "$name" --device cuda --rounds 5 --json "$work/$name.json"
done
run=(--guidance SD --hf_key random:sd21 --device cuda -O) # whole steps of Stable Diffusion 2.1, with random weights
part whole "$python" scripts/time_steps.py --json "$work/whole.json" -- "${run[@]}"
part cap6 "$python" scripts/time_steps.py --json "$work/cap6.json" --cap 6 -- "${run[@]}" --vram 6
part cap4 "$python" scripts/time_steps.py --json "$work/cap4.json" --cap 4 -- "${run[@]}" --vram_O
export PYTORCH_NO_CUDA_MEMORY_CACHING=1 # a tensor with memory of its own: what lies beyond it is out of bounds
for tool in memcheck racecheck; do
  part "$tool" "$sanitizer" --tool "$tool" --error-exitcode 1 --report-api-errors no \
    --kernel-name-exclude kernel_substring=at6native "$python" -m pytest -q "${kernels[@]/#/tests/}" -m cuda -k "$small"
done
echo "wrote $target"
exit "$tested"
