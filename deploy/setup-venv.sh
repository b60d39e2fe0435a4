#!/usr/bin/env bash
# Makes ./.venv with everything at the locked versions. Safe to run again: it does nothing when nothing changed.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\033[2m› %s\033[0m\n' "$*" >&2; }
python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo "Tidegate needs Python 3.11 or newer; '$python' is $("$python" --version 2>&1 || true). Set PYTHON=/path/to/python3.11." >&2
  exit 1
fi

stamp=.venv/.locked
want=$(cat deploy/requirements/dev.txt pyproject.toml | sha256sum | cut -d' ' -f1)
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ] && [ -x .venv/bin/tidegate ] && exit 0

if [ ! -x .venv/bin/pip ]; then
  say "creating .venv"
  rm -rf .venv
  if ! "$python" -m venv .venv >/dev/null 2>&1; then
    rm -rf .venv
    bash deploy/system-packages.sh python3-venv
    "$python" -m venv .venv
  fi
fi
say "installing the locked packages (the first time this downloads them)"
sed -n '/^uv==/,/^[a-z0-9-]*==/p' deploy/requirements/dev.txt | sed '1!{/^[a-z]/d}' > .venv/uv.txt
.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r .venv/uv.txt
.venv/bin/uv pip install --quiet --compile-bytecode --python .venv/bin/python --require-hashes -r deploy/requirements/dev.txt
.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation -e .
# Every start of a process would compile its sources again where Python may not write bytecode by itself.
.venv/bin/python -m compileall -q router autoscaler mirror loadtests
echo "$want" > "$stamp"
