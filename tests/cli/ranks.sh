#!/usr/bin/env bash
# hisa bench --as-ranks: ranks one after another in one process. That they select what one rank does is checked by the
# command itself, which fails otherwise.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"

says() {
    CHECKS=$((CHECKS + 1))
    grep -Eq -- "$1" passes.out || { fail "it does not say '$1'" && cat passes.out; }
}

# refuses PATTERN COMMAND...: exit status 2 or 1, and why.
refuses() {
    local pattern=$1
    shift
    CHECKS=$((CHECKS + 1))
    timeout "$LIMIT" "$@" </dev/null >refuses.out 2>&1 && fail "it runs: $*"
    grep -Eq -- "$pattern" refuses.out || { fail "it does not say '$pattern': $*" && cat refuses.out; }
}

SMALL=(--backend cpu --block-size 64 --top-blocks 16 --top-k 200 --heads 8 --head-dim 64 --rows 24 --neighbours 24)
BENCH=("$HISA" bench --tokens 16K "${SMALL[@]}" --repeats 2 --as-ranks)

passes "${BENCH[@]}" 1,2,4 --json lines && says 'mode hisa' && says 'mode flat' && says '^score tokens' &&
    says '4 ranks: ' && says 'select the same' && says 'over 1/ranks' && says '^  mean, likewise' && says '^most kept blocks'
cat >check.py <<'PYTHON'
import json
import sys

lines = [json.loads(line) for line in open(sys.argv[1])]
ranks = [int(word) for word in sys.argv[2].split(",")]
modes = sys.argv[3].split(",")
assert [(d["mode"], d["ranks"]) for d in lines] == [(m, p) for m in modes for p in ranks], lines
for d in lines:
    one = next(o for o in lines if o["mode"] == d["mode"] and o["ranks"] == 1)
    p = d["ranks"]
    assert d["measure"] == "as-ranks" and d["comm"] == "threads" and d["backend"] == "cpu" and d["same_as_one_rank"]
    steps = {s["step"]: s for s in d["steps"]}
    alone = {s["step"]: s for s in one["steps"]}
    for s in steps.values():
        assert 0 <= s["seconds_median"] <= s["seconds_slowest"] < 10, s
        assert s["seconds_slowest"] / p <= s["seconds_mean"] * (1 + 1e-9) <= s["seconds_slowest"] * (1 + 2e-9), s
        stays = p > 1 and s["seconds_slowest"] * p > 1.15 * alone[s["step"]]["seconds_slowest"]
        assert (s["step"] in d["does_not_shrink"]) == stays, (s, d["does_not_shrink"])
        received = s["bytes_received_per_query_and_rank"]
        assert abs(received - s["bytes_sent_per_query_and_rank"]) < 1e-6 and (received > 0) <= (p > 1), s
    scoring = d["scoring"]
    assert 0 < scoring["seconds_median"] <= scoring["seconds_slowest"] <= d["all_steps"]["seconds_slowest"], d
    expected = scoring["seconds_slowest"] / one["scoring"]["seconds_slowest"]
    assert abs(scoring["of_one_rank"] - expected) < 1e-9 and abs(scoring["over_ideal"] - expected * p) < 1e-9, d
    expected = scoring["seconds_mean"] / one["scoring"]["seconds_slowest"]
    assert abs(scoring["mean_over_ideal"] - expected * p) < 1e-9, d
    # Pairs of row and kept block: known where the owner merge has gone over kept blocks, and then the ratio is that of
    # the keys, which the CPU counts.
    uneven = d.get("kept_blocks_of_busiest_rank_over_mean")
    assert (uneven is not None) == (d["mode"] == "hisa" and p > 1) and (uneven is None or 1 <= uneven <= p), d
    tokens = steps["score tokens"]
    if uneven is not None and d["exchange"] == "owner" and d["tokens"] % d["block_size"] == 0:
        keys = tokens["keys_per_query_of_busiest_rank"] * p / tokens["keys_per_query"]
        assert abs(uneven - keys) < 0.05, (uneven, keys)
    # The work: blocks of equal size, dealt like cards. One-shot refines more, a rank its own best blocks.
    for name in ("score blocks", "score tokens"):
        s = steps[name]
        if d["mode"] == "flat" or name == "score blocks" or d["exchange"] == "owner":
            assert abs(s["keys_per_query"] - alone[name]["keys_per_query"]) < 1e-6, (s, alone[name])
            # Neighbours keep the same blocks, two a rank at P = 8: whose they are is chance, the same one each time.
            bound = 2 if d["mode"] == "hisa" and name == "score tokens" else 1.02
            assert s["keys_per_query"] <= s["keys_per_query_of_busiest_rank"] * p <= bound * s["keys_per_query"], s
    total = sum(s["bytes_received_per_query_and_rank"] for s in steps.values())
    both = d["bytes_received_per_query_and_rank"]
    if p > 1:
        assert abs(total - both[d["exchange"]]) < 1e-6, (total, both)
    else:
        assert both == {"owner": 0, "oneshot": 0} and not d["does_not_shrink"], d
    assert d["allgather_bytes_per_query_and_rank"] == 8 * d["top_k"] * (p - 1), d
    if d["mode"] == "hisa" and p > 1:
        m, size = d["top_blocks"], d["block_size"]
        sharded = d["queries_on"] == "sharded"
        queries = (p - 1) / p * (d["heads"] * (d["head_dim"] + 4) + 16) if sharded else 0
        assert abs(both["oneshot"] - queries - (p - 1) * m * (8 + 4 * size)) < 1e-6, (both, p)
        # Lists and kept blocks; a bit a candidate; the scores of others' blocks, on average.
        fixed = queries + (p - 1) / p * m * (8 + 4) + (p - 1) / p * m * size / 8
        scores = (p - 1) / p / p * m * size * 4
        assert fixed + 0.8 * scores < both["owner"] < fixed + 1.2 * scores, (both, fixed, scores)
        if d["exchange"] == "owner":
            assert abs(steps["merge blocks"]["bytes_received_per_query_and_rank"] - (p - 1) / p * m * 12) < 1e-6, steps
PYTHON
passes python3 check.py lines 1,2,4 hisa,flat || cat passes.err
# One rank is measured first though nobody asks, and once if somebody does; --json - prints nothing else.
passes "${BENCH[@]}" 3 --mode hisa --exchange owner --json - && cp passes.out piped
passes python3 check.py piped 1,3 hisa
passes "${BENCH[@]}" 2,1,1,8 --exchange owner --queries-on sharded --mode hisa,flat,block --json sharded
passes python3 check.py sharded 1,2,8 hisa,flat,block
# Sequences, contiguous shards, and more ranks than rows or blocks.
passes "${BENCH[@]}" 5 --sequences 3 --stripe contiguous --mode hisa,flat && says '5 ranks: '
passes "$HISA" bench --tokens 300 "${SMALL[@]}" --rows 3 --neighbours 3 --repeats 1 --as-ranks 1,7,64 && says '64 ranks: '

# The promise: at P = 8, with the shapes in use, at most 6.5 KB where an all-gather of lists brings 115 KB.
passes "$HISA" bench --backend cpu --tokens 64K --rows 16 --neighbours 16 --mode hisa --exchange owner --repeats 1 --warmup 0 \
    --as-ranks 8 --json shapes
passes python3 check.py shapes 1,8 hisa
passes python3 -c '
import json
d = [json.loads(line) for line in open("shapes")][1]
assert (d["top_blocks"], d["block_size"], d["top_k"]) == (64, 128, 2048)
assert d["bytes_received_per_query_and_rank"]["owner"] <= 6500, d
assert d["allgather_bytes_per_query_and_rank"] == 114688, d'

refuses "as-ranks: '0' is not a list" "${BENCH[@]}" 0
refuses "as-ranks: '4,65' is not a list" "${BENCH[@]}" 4,65
refuses 'as-ranks goes without' "${BENCH[@]}" 2 --overlap
refuses 'as-ranks goes without' "${BENCH[@]}" 2 --append 10
refuses 'as-ranks goes without' "${BENCH[@]}" 3 --queries-on sharded --rows-per-rank 20,4
if [ -n "$MPIRUN" ]; then
    refuses 'leave mpirun out' "$MPIRUN" -n 2 "${BENCH[@]}" 2
fi
finish
