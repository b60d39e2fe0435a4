#!/usr/bin/env bash
# compiled.sh [quickly]: Tidegate with its live path compiled, unpacked in build/compiled; made anew only when a source has changed.
# "quickly" is for tests: what is not optimised does, and what is optimised already too.
# What starts there (`cd build/compiled && ../../.venv/bin/python -m router.app …`) runs compiled.
set -euo pipefail
cd "$(dirname "$0")/.."
sources() {
  { cat deploy/compiling.py pyproject.toml; .venv/bin/python -VV; find router autoscaler mirror loadtests -type f \
    ! -name '*.pyc' -print0 | sort -z | xargs -0 sha256sum; } | sha256sum | cut -d' ' -f1
}
key=$(sources)
how=${1:-1}
made=$(cat build/compiled/.key 2>/dev/null || true)
if [ "$made" = "$key 1" ] || [ "$made" = "$key $how" ]; then exit 0; fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
echo "compiling the live path" >&2
while true; do
  TIDEGATE_COMPILE=$how .venv/bin/uv build -q --wheel --no-build-isolation --python .venv/bin/python -o "$folder/$key"
  made=$key
  key=$(sources)
  [ "$made" = "$key" ] && break
  echo "a source has changed meanwhile: once more" >&2
done
rm -rf build/compiled
mkdir -p build/compiled
.venv/bin/python -m zipfile -e "$folder/$key"/*.whl build/compiled
# The tests run in it as they do here.
for one in tests docs deploy pyproject.toml README.md CHANGELOG.md Makefile; do ln -s "../../$one" "build/compiled/$one"; done
echo "$key $how" >build/compiled/.key
