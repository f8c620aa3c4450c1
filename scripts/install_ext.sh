#!/bin/sh
# Build the compiled operators ahead of time and put them beside their packages, then load them in a fresh process.
# Optional: without it they are built on first use. PYTHON chooses the interpreter, MAX_JOBS the compile jobs.
set -e
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
"$python" -m common.libraries
TADPOLE_CACHE=/nonexistent "$python" - <<'END'
from common import libraries

for name in libraries.NAMES:
    print(f"{name}: loads from {libraries.build(name)}")
END
