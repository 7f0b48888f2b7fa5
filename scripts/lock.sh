#!/usr/bin/env bash
# Writes requirements.lock: the versions in the environment of $1 (default .venv), as constraints.
#
#   scripts/lock.sh [ENVIRONMENT]
#
# The environment is one in which every extra that runs here is installed (`make test` makes it) and
# tested. Packages of extras that are not installed (gpu, control, finetune) are resolved against it
# by pip without being installed. Names and exact versions only: no addresses, no hashes, no local
# version labels, so that one file serves CPU and CUDA builds (docs/decisions/0002).
set -euo pipefail
cd "$(dirname "$0")/.."
python="${1:-.venv}/bin/python"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" -m pip list --format=freeze --exclude-editable --exclude pip --exclude unimodal \
    | sed 's/+[A-Za-z0-9.]*$//' > "$work/installed"
# torch 2.13.0 pins this triton.
printf 'triton==3.7.1\n' >> "$work/installed"

"$python" - <<'PY' > "$work/wanted"
import tomllib
extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]
print("\n".join(line for name in ("control", "finetune") for line in extras[name]))
PY
"$python" -m pip install --quiet --dry-run --ignore-installed --report "$work/report.json" \
    --constraint "$work/installed" --requirement "$work/wanted"

"$python" - "$work/installed" "$work/report.json" > "$work/lock" <<'PY'
import json
import re
import sys

pins = dict(line.split("==") for line in open(sys.argv[1]).read().split())
for item in json.load(open(sys.argv[2]))["install"]:
    data = item["metadata"]
    pins.setdefault(data["name"], data["version"].split("+")[0])
names = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins.items()}
print("# Exact versions, used as constraints: pip install -c requirements.lock -e .[report,eval]")
print("# Written by scripts/lock.sh on Python 3.11; not meant to be edited.")
for name in sorted(names):
    old = "; python_version < '3.14'" if name in {"hydra-core", "omegaconf"} else ""
    print(f"{name}=={names[name]}{old}")
PY
mv "$work/lock" requirements.lock
chmod 644 requirements.lock
echo "requirements.lock: $(grep -c == requirements.lock) packages"
