#!/usr/bin/env bash
# The command with --backend cuda: with the f32 scorer the bytes of --backend cpu, with the others the same bytes however
# it is called. command.sh HISA
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
shape=(--top-k 700 --top-blocks 16 --block-size 64)
"$hisa" synth --family drift --tokens 20000 --rows 70 --heads 16 --head-dim 64 "${files[@]}"
for mode in hisa flat block; do
    scores=(--scores)
    [ $mode = block ] && scores=()
    for backend in cpu cuda; do
        HISA_CUDA_SCORER=f32 "$hisa" select "${files[@]}" --mode $mode --backend $backend "${shape[@]}" "${scores[@]}" \
            --out "$dir/$backend"
    done
    cmp "$dir/cpu" "$dir/cuda"
    HISA_CUDA_SCORER=f32 "$hisa" verify "${files[@]}" --mode $mode --backend cuda "${shape[@]}"
    for scorer in mma ''; do # '': the best for the device
        for way in "--tile-rows 3 --append-chunk 777" "--exchange owner" ""; do
            # shellcheck disable=SC2086 # words of their own
            HISA_CUDA_SCORER=$scorer "$hisa" select "${files[@]}" --mode $mode --backend cuda "${shape[@]}" "${scores[@]}" \
                $way --out "$dir/way"
            if [ -n "$way" ]; then
                mv "$dir/way" "$dir/way${way:2:4}"
            fi
        done
        cmp "$dir/way" "$dir/waytile"
        cmp "$dir/way" "$dir/wayexch"
    done
done
# More rows than the audit takes at once, with weights of 20 bytes a row.
files=(--keys "$dir/odd.keys" --queries "$dir/odd.queries")
"$hisa" synth --family drift --tokens 20000 --rows 131 --heads 5 --head-dim 64 "${files[@]}"
"$hisa" audit "${files[@]}" --backend cpu "${shape[@]}" --json "$dir/cpu.json"
HISA_CUDA_SCORER=f32 "$hisa" audit "${files[@]}" --backend cuda "${shape[@]}" --json "$dir/f32.json"
HISA_CUDA_SCORER='' "$hisa" audit "${files[@]}" --backend cuda "${shape[@]}" --json "$dir/best.json"
python3 - "$dir" <<'PYTHON'
import json, sys
cpu, f32, best = (json.load(open(f"{sys.argv[1]}/{name}.json")) for name in ("cpu", "f32", "best"))
for report in (cpu, f32, best):
    report.pop("backend", None)
assert cpu == f32, (cpu, f32)
for mode in ("hisa", "block"):
    for figure in ("recall", "mass", "iou"):
        assert abs(cpu[mode][figure]["mean"] - best[mode][figure]["mean"]) < 0.001, (mode, figure, cpu, best)
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
    assert "exchanges" not in b, b
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
# What cannot be captured is timed without.
"$hisa" bench --backend cuda --tokens 4096 --rows 4 --mode hisa --exchange owner,lists --graph --repeats 5 --json "$dir/graph"
python3 - "$dir/graph" <<'PYTHON'
import json, sys
owner, lists = (json.loads(line) for line in open(sys.argv[1]))
assert "graph" not in owner and lists["graph"]["seconds"]["median"] > 0, (owner, lists)
PYTHON
# Ranks one after another on the device: the command itself holds their selections up to one rank's.
for exchange in auto owner; do
    "$hisa" bench --backend cuda --as-ranks 1,2,5 --tokens 64K --rows 200 --neighbours 200 --mode hisa,flat --repeats 5 \
        --exchange $exchange --json "$dir/ranks"
    python3 - "$dir/ranks" <<'PYTHON'
import json, sys
lines = [json.loads(line) for line in open(sys.argv[1])]
assert [(d["mode"], d["ranks"]) for d in lines] == [(m, p) for m in ("hisa", "flat") for p in (1, 2, 5)], lines
for d in lines:
    assert d["backend"] == "cuda" and d["same_as_one_rank"] and d["comm"] == "threads", d
    assert 0 < d["scoring"]["seconds_median"] <= d["scoring"]["seconds_slowest"] < 0.05, d
    assert all(0 <= s["seconds_median"] <= s["seconds_slowest"] < 0.05 for s in d["steps"]), d
PYTHON
done
"$hisa" bench --backend cuda --as-ranks 3 --tokens 64K --rows 100 --mode hisa --queries-on sharded --repeats 2
