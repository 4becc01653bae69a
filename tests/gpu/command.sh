#!/usr/bin/env bash
# The command with --backend cuda against the same with --backend cpu: the same bytes. command.sh HISA
set -euo pipefail
hisa=$1
if ! "$hisa" info | grep -q '^CUDA device.*sm_'; then
    echo "no CUDA device: skipped"
    "$hisa" info | grep '^CUDA' || true
    exit 77
fi
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
files=(--keys "$dir/keys" --queries "$dir/queries")
"$hisa" synth --family drift --tokens 20000 --rows 70 --heads 16 --head-dim 64 "${files[@]}"
for mode in hisa flat block; do
    scores=(--scores)
    [ $mode = block ] && scores=()
    for backend in cpu cuda; do
        "$hisa" select "${files[@]}" --mode $mode --backend $backend --top-k 700 --top-blocks 16 --block-size 64 \
            "${scores[@]}" --out "$dir/$backend"
    done
    cmp "$dir/cpu" "$dir/cuda"
    "$hisa" verify "${files[@]}" --mode $mode --backend cuda --top-k 700 --top-blocks 16 --block-size 64
done
for backend in cpu cuda; do
    "$hisa" audit "${files[@]}" --backend $backend --top-k 700 --top-blocks 16 --block-size 64 --json "$dir/$backend.json"
done
python3 - "$dir" <<'PYTHON' || exit 1
import json, sys
cpu, cuda = (json.load(open(f"{sys.argv[1]}/{b}.json")) for b in ("cpu", "cuda"))
for report in (cpu, cuda):
    report.pop("backend", None)
assert cpu == cuda, (cpu, cuda)
PYTHON
"$hisa" bench --backend cuda --tokens 4096 --rows 8 --mode hisa,flat
