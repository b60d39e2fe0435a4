#!/usr/bin/env bash
# system-packages.sh NAME[:COMMAND] …: makes sure that Debian packages are there. As root it installs what is missing;
# otherwise it says in one sentence what to install. With COMMAND, the package counts as there when the command is.
set -euo pipefail
missing=()
for entry in "$@"; do
  name=${entry%%:*}; command=${entry#*:}
  if [ "$command" != "$entry" ] && command -v "$command" >/dev/null 2>&1; then continue; fi
  dpkg -s "$name" >/dev/null 2>&1 || missing+=("$name")
done
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
  echo "Missing system packages: ${missing[*]}. Install them (on Debian or Ubuntu: sudo apt-get install ${missing[*]}) and run this again." >&2
  exit 1
fi
printf '\033[2m› installing %s\033[0m\n' "${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq >/dev/null
# A package's service must not start: tests and benchmarks run their own processes.
policy=/usr/sbin/policy-rc.d
made=
if [ ! -e "$policy" ]; then printf '#!/bin/sh\nexit 101\n' > "$policy"; chmod +x "$policy"; made=1; fi
trap '[ -z "$made" ] || rm -f "$policy"' EXIT
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
