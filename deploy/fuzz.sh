#!/usr/bin/env bash
# fuzz.sh SECONDS: fuzzes what reads HTTP and WebSocket, guided by coverage: callers, replicas, HTTP/2 and frames a quarter of
# the time each. What reaches something that neither the cases of tests/corpus nor the inputs kept before reach is kept in
# tests/fuzz/corpus, and goes when a smaller one does; an input that breaks something is left as
# tests/fuzz/broken-* and ends the run with an error.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=$(($1 / 4))
if ! .venv/bin/python -c 'import atheris' 2>/dev/null; then
  echo "atheris, which fuzzing needs, has wheels for Linux on x86-64 with Python 3.11 to 3.13 only; this is $(uname -sm) with $(.venv/bin/python --version)." >&2
  exit 1
fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for kind in requests answers http2 frames; do
  mkdir -p "$folder/$kind"
  .venv/bin/python -m tests.support.http_inputs "$kind" "$folder/$kind"
  .venv/bin/python -m tests.fuzz "$kind" -max_len=1000 -dict=tests/fuzz/dictionary.txt -max_total_time="$seconds" \
    "-artifact_prefix=tests/fuzz/broken-$kind-" "tests/fuzz/corpus/$kind" "$folder/$kind"
  echo "$kind: $(find "tests/fuzz/corpus/$kind" -type f | wc -l) inputs are kept beside the cases"
done
