#!/usr/bin/env bash
# run_fault.sh MPIRUN PROGRAM CASE RANKS: runs one case of fault_comm or fault_nccl, whose last rank misbehaves. Every
# other rank must report "ok" by itself; then a stopped rank is ended, and no process may be left. 77: all ranks skipped.
set -euo pipefail
mpirun=$1 program=$2 case=$3 ranks=$4
limit=${HISA_FAULT_SECONDS:-100} # the program's own deadlines are far below

dir=$(mktemp -d)
launcher=
# Only processes that this script started: the launcher, and ranks by the id that they wrote.
end_ranks() {
    local file
    for file in "$dir"/pid.*; do
        if [ -e "$file" ]; then
            kill -KILL "$(cat "$file")" 2>/dev/null || true
        fi
    done
}
finish() {
    end_ranks
    if [ -n "$launcher" ]; then
        kill -TERM "$launcher" 2>/dev/null || true
        wait "$launcher" 2>/dev/null || true
    fi
    rm -rf "$dir"
}
trap finish EXIT

# A rank that dies must not take the job with it: the survivors are what is tested.
"$mpirun" --enable-recovery -n "$ranks" "$program" "$case" "$dir" >"$dir/log" 2>&1 &
launcher=$!

survivors_are_done() {
    local rank
    for ((rank = 0; rank < ranks - 1; ++rank)); do
        [ -e "$dir/result.$rank" ] || return 1
    done
}
begin=$SECONDS
while ! survivors_are_done && kill -0 "$launcher" 2>/dev/null && ((SECONDS - begin < limit)); do
    sleep 0.1
done

# All report, or none does: one machine has the device or has it not.
if [ "$(cat "$dir/result.0" 2>/dev/null)" = skipped ]; then
    cat "$dir/log"
    exit 77
fi
failed=0
for ((rank = 0; rank < ranks - 1; ++rank)); do
    result=$(cat "$dir/result.$rank" 2>/dev/null || echo "no result within $limit s")
    echo "$case: rank $rank: $result"
    [ "$result" = ok ] || failed=1
done
if [ -e "$dir/result.$((ranks - 1))" ] && [ "$(cat "$dir/result.$((ranks - 1))")" != ok ]; then
    # It lives on in cases of wrong sizes and calls; whatever it saw in the others is not asserted.
    echo "$case: last rank: $(cat "$dir/result.$((ranks - 1))")"
    case $case in other* | finalized) failed=1 ;; esac
fi

# The survivors leave by themselves; the stopped rank is helped.
gone() { ! kill -0 "$(cat "$dir/pid.$1" 2>/dev/null || echo 0)" 2>/dev/null; }
for ((rank = 0; rank < ranks - 1; ++rank)); do
    begin=$SECONDS
    until gone "$rank"; do
        if ((SECONDS - begin >= 20)); then
            echo "$case: rank $rank does not leave"
            failed=1
            break
        fi
        sleep 0.1
    done
done
end_ranks
begin=$SECONDS
while kill -0 "$launcher" 2>/dev/null && ((SECONDS - begin < 20)); do
    sleep 0.1
done
if kill -0 "$launcher" 2>/dev/null; then
    echo "$case: the launcher does not end"
    failed=1
else
    wait "$launcher" || true
    launcher=
fi
for ((rank = 0; rank < ranks; ++rank)); do
    gone "$rank" || { echo "$case: rank $rank is left over"; failed=1; }
done
# What a sanitizer says is a failure, whoever says it.
if grep -E 'Sanitizer|runtime error:' "$dir/log"; then
    failed=1
fi
if ((failed)); then
    cat "$dir/log"
fi
exit "$failed"
