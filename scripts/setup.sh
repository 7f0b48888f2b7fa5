#!/usr/bin/env bash
# Makes an environment that can run this checkout: scripts/setup.sh [EXTRA ...]
#
# With VIRTUAL_ENV set it installs into that environment and keeps the torch (and triton) that it
# finds there; otherwise into .venv, which it makes when missing. Versions come from
# requirements.lock. A stamp in the environment remembers what was installed for which
# pyproject.toml and requirements.lock, so that a second call is instant.
set -euo pipefail
cd "$(dirname "$0")/.."

environment="${VIRTUAL_ENV:-$PWD/.venv}"
python="$environment/bin/python"
stamp="$environment/.unimodal-setup"

if [ ! -x "$python" ]; then
    base="${PYTHON:-$(command -v python3.11 || command -v python3 || command -v python || true)}"
    if [ -z "$base" ] || ! "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "setup: needs Python 3.11 or newer, found '${base:-none}'; say which with PYTHON=..." >&2
        exit 2
    fi
    echo "setup: making $environment with $("$base" --version)"
    "$base" -m venv "$environment"
fi

key="$(cat pyproject.toml requirements.lock | cksum | tr ' ' '-') $PWD"
missing=()
for extra in core "$@"; do
    grep -qxF "$key $extra" "$stamp" 2>/dev/null || missing+=("$extra")
done
[ "${#missing[@]}" -gt 0 ] || exit 0

"$python" -m pip --version >/dev/null 2>&1 || "$python" -m ensurepip --upgrade >/dev/null
constraints=$(mktemp)
trap 'rm -f "$constraints"' EXIT
"$python" - requirements.lock > "$constraints" <<'PY'
# The lock, but with the torch (and what must fit it) that the environment already has.
import importlib.metadata
import re
import sys

kept = {}
for name in ("torch", "triton", "torchaudio"):
    try:
        kept[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        continue
for line in open(sys.argv[1], encoding="utf-8"):
    name = re.split("==", line)[0]
    if name == "triton" and "torch" in kept and "triton" not in kept:
        torch_needs = importlib.metadata.requires("torch") or []
        if any(need.startswith("triton") for need in torch_needs):
            continue
    print(f"{name}=={kept[name]}" if name in kept else line.rstrip())
PY

extras=() whisper=""
for extra in "$@"; do
    extras+=("$extra")
    [ "$extra" != parity ] || whisper=yes
done
list="$(IFS=,; echo "${extras[*]-}")"
echo "setup: installing unimodal${list:+[$list]} into $environment"
options=(--quiet --disable-pip-version-check --constraint "$constraints")
"$python" -m pip install "${options[@]}" --editable ".${list:+[$list]}"
if [ -n "$whisper" ]; then
    # It asks for triton on Linux (641 MB); the extra names all else that it needs.
    "$python" -m pip install "${options[@]}" --no-deps openai-whisper
fi
for extra in "${missing[@]}"; do
    echo "$key $extra" >> "$stamp"
done
