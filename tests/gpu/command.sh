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
"$hisa" bench --backend cuda --tokens 4096 --rows 8 --mode hisa,flat --append 1000 --overlap

# bench: the windows give the number of keys that the CPU backend counts, and all that is timed is there.
for family in drift exact; do
    for backend in cpu cuda; do
        sets=()
        [ $backend = cuda ] && sets=(--sets 1)
        "$hisa" bench --backend $backend --family $family --tokens 20000 --rows 70 --heads 8 --head-dim 64 --block-size 64 \
            --top-blocks 16 --top-k 700 --mode hisa,flat,block --repeats 3 "${sets[@]}" --json "$dir/$backend.bench"
    done
    python3 - "$dir" <<'PYTHON'
import json, sys
cpu, cuda = ([json.loads(line) for line in open(f"{sys.argv[1]}/{b}.bench")] for b in ("cpu", "cuda"))
assert len(cpu) == len(cuda) == 3
for a, b in zip(cpu, cuda):
    assert [s["keys_per_query"] for s in a["steps"]] == [s["keys_per_query"] for s in b["steps"]], (a["steps"], b["steps"])
    assert b["keys_exact"] and b["query_sets"] == 1
    for seconds in (b["seconds"], b["seconds_l2_emptied"]):
        assert 0 < seconds["min"] <= seconds["median"] <= seconds["max"], b
    # Steps are parts of a call; the events between them cost some microseconds each.
    steps = sum(s["seconds"]["median"] for s in b["steps"])
    assert 0 < steps < 3 * b["seconds"]["median"] + 200e-6, b
    assert b["device"]["l2_bytes"] > 0 and b["device"]["name"] and b["ceilings"]["copy_bytes_per_second"] > 1e10, b
PYTHON
done
# Sets in turn, sequences, and a decode step replayed from a graph.
"$hisa" bench --backend cuda --tokens 4096 --rows 4 --sequences 4 --mode hisa --graph --repeats 20 --json "$dir/graph" \
    --commit "$(printf 'a "quoted" one')"
python3 - "$dir/graph" <<'PYTHON'
import json, sys
report = json.load(open(sys.argv[1]))
graph = report["graph"]
for name in ("seconds", "seconds_l2_emptied", "seconds_back_to_back"):
    assert 0 < graph[name]["min"] <= graph[name]["median"] <= graph[name]["max"] < 1, report
assert report["sequences"] == 4 and report["query_sets"] > 1 and report["commit"] == 'a "quoted" one', report
PYTHON
