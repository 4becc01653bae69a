#!/usr/bin/env bash
# run_fault.sh MPIRUN PROGRAM CASE RANKS [GPU_MEMORY]: runs one case of fault_comm, fault_nccl or fault_nccl_select, whose
# last rank misbehaves. Every other rank must report "ok" by itself; then a stopped rank is ended, and no process may be
# left, nor, where the program GPU_MEMORY is given, any memory of the GPUs. 77: all ranks skipped.
set -euo pipefail
mpirun=$1 program=$2 case=$3 ranks=$4 gpu_memory=${5:-}
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

# MiB in use before, of all GPUs together; nothing where there is no GPU: the ranks say so too.
before=
if [ -n "$gpu_memory" ]; then
    before=$("$gpu_memory") || before=
fi

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
# Nothing else that the job started: its folder is on every command line of it.
for file in /proc/[0-9]*/cmdline; do
    line=()
    mapfile -d '' -t line 2>/dev/null <"$file" || true
    if [[ " ${line[*]} " == *" $dir"* ]]; then
        echo "$case: left over: ${line[*]}"
        failed=1
    fi
done
# A process that was killed gives its memory back a moment after it is gone. The driver keeps a few MiB of its own.
if [ -n "$before" ]; then
    begin=$SECONDS
    after=$("$gpu_memory") || after=
    while [ -n "$after" ] && ((after > before + 8 && SECONDS - begin < 10)); do
        sleep 0.5
        after=$("$gpu_memory") || after=
    done
    if [ -z "$after" ] || ((after > before + 8)); then
        echo "$case: GPU memory in use: $before MiB before, ${after:-unknown} MiB afterwards"
        failed=1
    else
        echo "$case: GPU memory in use: $before MiB before, $after MiB afterwards"
    fi
fi
# What a sanitizer says is a failure, whoever says it.
if grep -E 'Sanitizer|runtime error:' "$dir/log"; then
    failed=1
fi
if ((failed)); then
    cat "$dir/log"
fi
exit "$failed"
