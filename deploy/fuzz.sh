#!/usr/bin/env bash
# fuzz.sh SECONDS: fuzzes what reads HTTP, guided by coverage, half of the time per side. What reaches code that the cases of
# tests/corpus do not reach is kept in tests/fuzz/corpus, as little of it as does; an input that breaks something is left as
# tests/fuzz/broken-* and ends the run with an error.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=$(($1 / 2))
if ! .venv/bin/python -c 'import atheris' 2>/dev/null; then
  echo "atheris, which fuzzing needs, has wheels for Linux on x86-64 with Python 3.11 to 3.13 only; this is $(uname -sm) with $(.venv/bin/python --version)." >&2
  exit 1
fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for kind in requests answers; do
  kept=tests/fuzz/corpus/$kind
  fuzz=(.venv/bin/python -m tests.fuzz "$kind" -max_len=1000 -dict=tests/fuzz/dictionary.txt "-artifact_prefix=tests/fuzz/broken-$kind-")
  mkdir -p "$folder/$kind" "$kept"
  .venv/bin/python -m tests.support.http_inputs "$kind" "$folder/$kind"
  cp -n "$kept"/* "$folder/$kind" 2>/dev/null || true
  "${fuzz[@]}" -max_total_time="$seconds" "$folder/$kind"
  # The cases first; then what still adds something to them is what is kept.
  rm -rf "$folder/least"
  mkdir "$folder/least"
  .venv/bin/python -m tests.support.http_inputs "$kind" "$folder/least"
  ls "$folder/least" >"$folder/cases"
  "${fuzz[@]}" -merge=1 "$folder/least" "$folder/$kind"
  rm -f "$kept"/*
  (cd "$folder/least" && ls | grep -vxFf "$folder/cases" || true) | while read -r name; do cp "$folder/least/$name" "$kept/$name"; done
  echo "$kind: $(ls "$kept" | wc -l) inputs are kept beside the cases"
done
