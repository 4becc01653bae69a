#!/usr/bin/env bash
# The subcommands one after the other, as a user would go: synth, select, verify, audit, bench, info.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"

# says PATTERN: what the last command printed.
says() {
    CHECKS=$((CHECKS + 1))
    grep -Eq -- "$1" passes.out || { fail "it does not say '$1'" && cat passes.out; }
}

# json FILE EXPRESSION: true of each line or of the whole document, which is `d`.
json() {
    passes python3 -c '
import json, sys
text = open(sys.argv[1]).read()
docs = [json.loads(line) for line in text.splitlines()] if sys.argv[3] == "lines" else [json.loads(text)]
assert docs and all(eval(sys.argv[2], {"d": d}) for d in docs), docs' "$1" "$2" "${3:-whole}"
}

MANY=3
[ -n "$MPIRUN" ] || MANY=1

for command in select verify audit synth bench info; do
    passes "$HISA" $command --help && says "^Usage: hisa $command " && says '--help'
done
passes "$HISA" --help && says 'select .*verify|verify' && says 'mpirun'
passes "$HISA" --version && says '^hisa [0-9]+\.[0-9]+\.[0-9]+$'
passes "$HISA" select --version && says '^hisa [0-9]+\.[0-9]+\.[0-9]+$'
passes_on $MANY "$HISA" select --help
[ "$(grep -c '^Usage' passes.out)" -eq 1 ] || fail "the help is printed by several ranks"
passes "$HISA" info && says '^backends +cpu' && says '^communicators +self'
if [ -n "$MPIRUN" ]; then
    passes_on 2 "$HISA" info --backend cpu --measure --comm-latency 12.5 && says '^taken to cost +latency 12.5 us, 4 GB/s' &&
        says '^owner merge +flat: from [0-9]+ rows at 128K tokens' && says '^that is +--comm-latency [0-9]'
    # A collective so slow that its four never pay.
    passes_on 2 "$HISA" info --backend cpu --comm-latency 1e12 && for mode in hisa flat block; do
        says "^owner merge +$mode: never at 128K tokens, never at 1024K tokens, never at 4096K tokens$"
    done
fi

TRACE=(--keys keys --queries queries)
SMALL=(--block-size 64 --top-blocks 16 --top-k 200)
passes "$HISA" synth --tokens 4K --rows 20 --heads 8 --head-dim 64 --needles 3 --seed 7 "${TRACE[@]}"
passes_on $MANY "$HISA" synth --tokens 4K --rows 20 --heads 8 --head-dim 64 --needles 3 --seed 7 --keys keys2 --queries queries2
passes cmp keys keys2 && passes cmp queries queries2
passes "$HISA" synth --tokens 1000 --rows 5 --family exact --heads 8 --head-dim 64 --keys exact.k --queries exact.q

passes_on $MANY "$HISA" select "${TRACE[@]}" --out out "${SMALL[@]}" --scores
[ -s out ] || fail "select wrote nothing"

for mode in hisa flat block; do
    passes_on $MANY "$HISA" verify "${TRACE[@]}" "${SMALL[@]}" --mode $mode && says '^ok$' &&
        says 'one rank +20 +0' && says 'reference +20 +0'
done
passes "$HISA" verify "${TRACE[@]}" "${SMALL[@]}" --oracle-rows 3 && says 'one rank +20 +0' && says 'reference +3 +0'
passes_on $MANY "$HISA" verify --keys exact.k --queries exact.q "${SMALL[@]}" --queries-on sharded && says '^ok$'

passes_on $MANY "$HISA" audit "${TRACE[@]}" "${SMALL[@]}" --json report && says 'recall' && says 'needles'
json report 'd["rows"] == 20 and 0 <= d["hisa"]["recall"]["mean"] <= 1 and d["hisa"]["recall"]["p1"] <= d["hisa"]["recall"]["p10"]'
json report 'all(0 <= d[m][f][x] <= 1 for m in ("hisa", "block") for f in ("recall", "mass", "iou") for x in ("mean", "worst"))'
json report '0 < d["needles"]["flat"] <= d["needles"]["planted"] == 60'
passes "$HISA" audit "${TRACE[@]}" "${SMALL[@]}" --json - && cp passes.out piped && passes python3 -m json.tool piped
passes "$HISA" audit "${TRACE[@]}" "${SMALL[@]}" --json alone
passes python3 -c '
import json
a, b = (json.load(open(name)) for name in ("report", "alone"))
a.pop("ranks"), b.pop("ranks")
assert a == b, "the audit depends on the number of ranks"'
# All blocks kept: hisa is flat.
passes "$HISA" audit "${TRACE[@]}" --block-size 64 --top-blocks 64 --top-k 200 --rows 6 --json all
json all 'd["rows"] == 6 and d["hisa"]["recall"]["worst"] == 1 and d["hisa"]["iou"]["worst"] == 1'

BENCH=(--heads 8 --head-dim 64 --rows 6 --repeats 2 "${SMALL[@]}")
passes_on $MANY "$HISA" bench --tokens 2K,4K "${BENCH[@]}" --json bench && says 'score tokens' && says 'over flat'
json bench 'd["seconds"]["min"] <= d["seconds"]["median"] <= d["seconds"]["max"] and len(d["steps"]) == 6' lines
json bench 'd["tokens"] in (2048, 4096) and d["keys_per_query"] > 0 and d["peak_gflops_per_core"] > 0' lines
json bench 'd["speedup_over_flat"] > 0 and d["workspace_bytes"] > 0 and d["index_bytes"] > 0' lines
[ "$(wc -l <bench)" -eq 4 ] || fail "bench: 4 lines of JSON expected"
# On the CPU nothing is said of a device, and of choices only those that were made.
json bench 'not {"device", "ceilings", "graph", "sequences", "query_family", "commit", "neighbours_share"} & d.keys()' lines
passes_on $MANY "$HISA" bench --tokens 4K "${BENCH[@]}" --mode hisa --sequences 3 --append 100 --commit 1a2b --json - &&
    cp passes.out many
[ "$(wc -l <many)" -eq 2 ] || fail "bench --append: 2 lines of JSON expected"
json many 'd["sequences"] == 3 and d["commit"] == "1a2b" and d["tokens"] == 4096' lines
json many 'd.get("measure") != "append" or d["appended"] == 100 and d["bytes"] == (2 * 100 + 2) * (64 + 4)' lines
json many '0 < d["seconds"]["min"] <= d["seconds"]["median"] <= d["seconds"]["max"]' lines
# Rows of different sequences are no neighbours: two pairs in each of two sequences.
passes "$HISA" bench --tokens 4K "${BENCH[@]}" --mode hisa --sequences 2 --overlap --json - && cp passes.out pairs
json pairs 'd["neighbours_share"]["pairs"] == 4' lines
# Consecutive queries share more of what they keep if they look for topics than if they are random.
for family in same random; do
    passes "$HISA" bench --tokens 16K --heads 16 --head-dim 64 --rows 32 --neighbours 32 --repeats 1 --warmup 0 --mode hisa \
        --block-size 64 --top-blocks 16 --top-k 200 --query-family $family --overlap --json $family
done
passes python3 -c '
import json
same, random = (json.load(open(name))["neighbours_share"] for name in ("same", "random"))
assert same["pairs"] == random["pairs"] == 31
assert 0 <= random["blocks"] < same["blocks"] <= 1 and 0 <= random["tokens"] < same["tokens"] <= 1, (same, random)'
passes "$HISA" bench "${TRACE[@]}" "${SMALL[@]}" --repeats 1 --warmup 0 --mode flat --json - && cp passes.out flat
json flat 'd["mode"] == "flat" and d["rows"] == 20 and d["bytes_sent_per_query_and_rank"] == 0' lines
if [ -n "$MPIRUN" ]; then
    passes_on 3 "$HISA" bench --tokens 4K "${BENCH[@]}" --mode hisa --exchange owner --json - && cp passes.out owner
    json owner 'd["exchange"] == "owner" and d["bytes_sent_per_query_and_rank"] > 0 and d["ranks"] == 3' lines
    json owner 'd["allgather_bytes_per_query_and_rank"] == 8 * 200 * 2' lines
    # Exchanges are parts of their steps, and on the CPU nothing runs under them.
    json owner '0 < d["exchanges"]["seconds"]["median"] < d["exchanges"]["in_order_seconds"]["median"]' lines
    json owner 'all(0 <= s["exchange_seconds"]["median"] <= s["seconds"]["median"] for s in d["steps"])' lines
    json owner '0 < d["exchanges"]["seconds_least_waiting"]["median"] <= d["exchanges"]["seconds"]["median"]' lines
    json owner 'd["exchanges"]["tiles"] == 1 and d["exchanges"]["hidden_share"] == 0 < d["exchanges"]["predicted_seconds"]' lines
    passes_on 3 "$HISA" bench --tokens 4K "${BENCH[@]}" --mode hisa --exchange lists --tile-rows 4 --json - && cp passes.out lists
    json lists 'd["exchange"] == "lists" and d["exchanges"]["tiles"] == 2' lines
    json lists 'd["bytes_received_per_query_and_rank"] == 8 * (200 + 16) * 2' lines
fi
# Each exchange on each stripe, and the speedup over the flat one like it.
passes_on $MANY "$HISA" bench --tokens 4K "${BENCH[@]}" --exchange owner,lists,auto --stripe 1,contiguous --json lists &&
    says '^flat +[-a-z]+ +[-a-z0-9]+ +4096 '
[ "$(wc -l <lists)" -eq 12 ] || fail "bench: 12 lines of JSON expected"
json lists 'd["speedup_over_flat"] > 0' lines
json lists '(d["mode"] == "flat") == (d["speedup_over_flat"] == 1)' lines
passes python3 -c '
import json
docs = [json.loads(line) for line in open("lists")]
assert [d["stripe"] for d in docs] == [1] * 6 + [0] * 6, docs
assert [d["mode"] for d in docs] == (["hisa"] * 3 + ["flat"] * 3) * 2, docs
assert [d["exchange"] for d in docs][:2] == ["owner", "lists"], docs'
# Nothing but errors goes to stderr, and none of the above was one.
passes "$HISA" audit "${TRACE[@]}" "${SMALL[@]}"
[ -s passes.err ] && fail "progress in a pipe: $(cat passes.err)"
finish
