#!/usr/bin/env bash
# The page of what one rank of several computes: its arithmetic, and that the page in the repository is what its lines give.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
launch=$(cd "$HERE/../../launch" && pwd)

passes env PYTHONDONTWRITEBYTECODE=1 PYTHONPATH="$launch" python3 -c '
import gpu_ranks
# 10 that do not shrink and 100 that do.
fixed, shared = gpu_ranks.fit({1: 110, 2: 60, 4: 35, 8: 22.5})
assert abs(fixed - 10) < 1e-9 and abs(shared - 100) < 1e-9, (fixed, shared)
row = gpu_ranks.share_row("scores", {1: 110, 2: 60, 4: 35, 8: 22.5})
assert row == "| scores | 110.0 (1.00) | 60.0 (1.09) | 35.0 (1.27) | 22.5 (1.64) | 10.0 | 1.00 | 1.00 | 1.00 | 1.00 |", row
# Of two ranks the last five calls of each, in turn: not what was launched before them, nor what they launch twice.
before = [("fill", 7)] * 20 + [("make_rows", 99), ("scores", 99)] * 4
calls = [launch for us in [1, 2] * gpu_ranks.REPEATS for launch in (("make_rows", 0), ("scores", us), ("twice", 5), ("twice", 5))]
assert gpu_ranks.of_last_calls(before + calls, 2) == {"make_rows": [[0] * 5, [0] * 5], "scores": [[1] * 5, [2] * 5]}
try:
    gpu_ranks.of_last_calls(calls[4:], 2)
    raise AssertionError("a call too few is taken")
except SystemExit as end:
    assert "9 launches of make_rows" in str(end), end
names = {"void score_blocks<64>(CUtensorMap_st, block_source_t)": "score_blocks", "emit(int, long)": "emit",
         "void compact<hisa_radix_t<256, 5, 5>>(compact_t)": "compact"}
for name, kernel in names.items():
    assert gpu_ranks.NAME.search(name).group(1) == kernel, name'

mkdir page
cp "$launch"/results/ranks-*.jsonl page
passes "$launch/gpu-ranks.sh" --page-only --out "$PWD/page"
for page in "$launch"/results/ranks-*.md; do
    passes cmp "$page" "page/$(basename "$page")"
done
CHECKS=$((CHECKS + 1))
! "$launch/gpu-ranks.sh" --commit >passes.out 2>&1 || fail "a flag without its value is taken"
finish
