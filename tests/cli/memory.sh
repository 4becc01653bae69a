#!/usr/bin/env bash
# Bounded memory: hisa select on a million tokens and 256 queries, alone and on 4 ranks, stays below the size of its inputs
# and its output plus 256 MB a rank, in modes hisa and flat. With --full at 64 heads, otherwise at 8: the scores in flight
# are the same.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
LIMIT=600

HEADS=8
[ "$FULL" = no ] || HEADS=64
passes "$HISA" synth --tokens 1048576 --rows 256 --heads $HEADS --keys keys --queries queries

# Runs the rest of its arguments and writes their peak resident memory, in bytes, to a file of its own in folder $1.
cat >peak.py <<'END'
import os, resource, subprocess, sys
status = subprocess.run(sys.argv[2:]).returncode
with open(os.path.join(sys.argv[1], str(os.getpid())), "w") as file:
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024, file=file)
sys.exit(status)
END

for mode in hisa flat; do
    for ranks in 1 4; do
        [ $ranks -eq 1 ] || [ -n "$MPIRUN" ] || continue
        rm -rf peak out && mkdir peak
        command=(python3 peak.py peak "$HISA" select --mode "$mode" --keys keys --queries queries --out out)
        if [ $ranks -eq 1 ]; then passes "${command[@]}"; else passes_on $ranks "${command[@]}"; fi
        bound=$(($(stat -c %s keys) + $(stat -c %s queries) + $(stat -c %s out) + (256 << 20)))
        most=$(cat peak/* | sort -n | tail -n 1)
        CHECKS=$((CHECKS + 1))
        echo "mode $mode, $ranks ranks: peak $((most >> 20)) MiB a rank, bound $((bound >> 20)) MiB"
        [ "$(cat peak/* | wc -l)" -eq $ranks ] || fail "not every rank was measured"
        [ "$most" -lt "$bound" ] || fail "mode $mode on $ranks ranks took $most bytes, more than $bound"
    done
done
finish
