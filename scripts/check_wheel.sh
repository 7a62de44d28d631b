#!/usr/bin/env bash
# Check that the wheel works outside the checkout: build it, install it into a new environment, and run every command
# from an empty folder. PYTHON: an environment with the dependencies, which the new one shares (default: .venv).
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
python=$(realpath -s "${PYTHON:-.venv/bin/python}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH
export HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1

"$python" -m pip wheel . --quiet --no-deps --no-build-isolation --wheel-dir "$work/dist"
"$python" -m venv --without-pip "$work/venv"
"$python" -m pip --python "$work/venv/bin/python" install --quiet --no-deps "$work"/dist/*.whl
# Only the path is shared: the editable install of this checkout needs its own .pth and stays out.
"$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > \
    "$("$work/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/lent.pth"
export PATH="$work/venv/bin:$PATH"

mkdir "$work/empty"
cd "$work/empty"
step() { echo "check_wheel: $*"; "$@"; }
fails() { # fails STATUS TEXT COMMAND...: it exits with STATUS and one line on stderr that contains TEXT
    local status=0
    "${@:3}" > out.txt 2> err.txt || status=$?
    echo "check_wheel: ${*:3} -> $status $(cat err.txt)"
    [ "$status" = "$1" ] && [ "$(wc -l < err.txt)" = 1 ] && grep -qF -- "$2" err.txt
}

python - "$root" <<'PYTHON'
import sys
from pathlib import Path
import layerfit
from layerfit import config, installation
package, root = Path(layerfit.__file__).resolve().parent, Path(sys.argv[1]).resolve()
assert not package.is_relative_to(root), f"layerfit is the checkout's: {package}"
assert config.CONF == package / "conf", config.CONF
code = installation.source()
assert code.commit and code.dirty is not None, code
Path("draft").write_text("--draft" if code.dirty else "")  # from a dirty tree a table can only be a draft
PYTHON
draft=$(cat draft)

step layerfit --version
step layerfit --help > /dev/null
fails 2 "did you mean lisa?" layerfit method=lsia
fails 2 "did you mean table?" layerfit tabel demo
fails 2 "--conf DIR" layerfit tune nano_main

few="training.max_steps=4 training.batch_size=8 training.max_length=32"
step layerfit method=lisa $few eval=none
mkdir -p mine/table mine/dataset
sed 's/^name: .*/name: mine/' "$root/conf/dataset/nano.yaml" > mine/dataset/mine.yaml
cat > mine/table/mine.yaml <<'YAML'
title: A table of one's own
base: [dataset=mine, training.max_steps=4, training.batch_size=8]
rows: {Vanilla: [method=vanilla], LISA: [method=lisa]}
seeds: [0]
columns: {Facts: nano_facts/acc}
YAML
step layerfit todo mine --conf mine
step layerfit table mine --conf mine $draft
step layerfit -m method=lisa,full $few eval=none "hydra.searchpath=[file://$PWD/mine]" dataset=mine
[ "$(ls results/runs/*.json | grep -vc items)" = 5 ]
step layerfit todo demo | tail -n 1
step layerfit estimate demo | tail -n 3
step layerfit prefetch model=nano dataset=nano eval=nano --mirror mirror --check
layerfit prefetch mirror --mirror mirror --check > out.txt && exit 1
grep -q "; layerfit prefetch mirror --mirror mirror" out.txt

# From the committed records it renders the committed tables.
mkdir committed
cp -r "$root/results" committed/
cd committed
rm results/tables/nano_main.* results/claims.md
step layerfit table nano_main > /dev/null
step layerfit claims > /dev/null
cmp results/tables/nano_main.md "$root/results/tables/nano_main.md"
sed -E 's/layerfit table ([a-z_.]+)/make table T=\1/' results/claims.md | cmp - "$root/results/claims.md"
step layerfit report
fails 2 "is not a file" layerfit judge rescore nowhere.jsonl
echo "check_wheel: the wheel works"
