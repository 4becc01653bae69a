#!/usr/bin/env bash
# Every bad input through the command, alone and on three ranks: the exit status is not 0, one line from hisa on stderr names
# the cause, no output file appears, and nothing is left beside it. --few (for sanitized builds, where a start on three ranks takes
# a second): all of them alone, and of those that select refuses every third on three ranks.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"

mkdir outputs
python3 "$HERE/bad_files.py" >bad.list || fail "bad_files.py"

# refused STATUS PATTERN COMMAND...: fails with this status (any but 0 if '*') and one line that matches. What mpirun says of
# its own accord does not count.
refused() {
    local status=$1 pattern=$2 got lines
    shift 2
    CHECKS=$((CHECKS + 1))
    timeout "$LIMIT" "$@" </dev/null >refused.out 2>refused.err
    got=$?
    lines=$(grep -c '^hisa: ' refused.err)
    local why=""
    [ $got -ne 0 ] || why="it succeeded"
    [ "$status" = '*' ] || [ $got -eq "$status" ] || why="exit status $got, expected $status"
    [ $got -lt 124 ] || why="exit status $got"
    [ "$lines" -eq 1 ] || why="$lines lines of its own on stderr"
    if ! grep '^hisa: ' refused.err | grep -Eqi -- "$pattern"; then
        why=${why:-"the message does not match $pattern"}
    fi
    [ -z "$(ls -A outputs)" ] || why="left behind: $(ls -A outputs)"
    case $1 in
    *mpirun) ;;
    *) [ "$(wc -l <refused.err)" -le 1 ] || why="more than one line on stderr" ;;
    esac
    if [ -n "$why" ]; then
        fail "$*: $why"
        head -n 12 refused.err
    fi
    find outputs -mindepth 1 -delete
}

# Options under which the good trace is selected from without complaint.
GOOD=(--block-size 16 --top-blocks 8 --top-k 64)
OUT=(--out outputs/out)
FILES=(--keys good.k --queries good.q)
ON3=()
[ -n "$MPIRUN" ] && ON3=("$MPIRUN" -n 3)

# select_refused STATUS PATTERN OPTIONS...: alone, and on three ranks (with --few every third time).
ASKED=0
select_refused() {
    local status=$1 pattern=$2
    shift 2
    refused "$status" "$pattern" "$HISA" select "$@"
    ASKED=$((ASKED + 1))
    if [ -n "$MPIRUN" ] && { [ $FEW = no ] || [ $((ASKED % 3)) -eq 0 ]; }; then
        refused "$status" "$pattern" "${ON3[@]}" "$HISA" select "$@"
    fi
}

passes "$HISA" select "${FILES[@]}" "${GOOD[@]}" "${OUT[@]}"
[ -s outputs/out ] || fail "the good trace gave no output"
[ -z "$MPIRUN" ] || passes "${ON3[@]}" "$HISA" select "${FILES[@]}" "${GOOD[@]}" "${OUT[@]}"
[ "$(ls -A outputs)" = out ] || fail "left beside the output: $(ls -A outputs)"
rm -f outputs/*

bad_files() {
    local kind name pattern
    while IFS=$'\t' read -r kind name pattern; do
        if [ "$kind" = keys ]; then
            select_refused 1 "$pattern" --keys "$name" --queries good.q "${GOOD[@]}" "${OUT[@]}"
        else
            select_refused 1 "$pattern" --keys good.k --queries "$name" "${GOOD[@]}" "${OUT[@]}"
        fi
    done <bad.list
    select_refused 1 "nowhere" --keys nowhere --queries good.q "${GOOD[@]}" "${OUT[@]}"
    mkfifo pipe
    select_refused 1 "pipe" --keys pipe --queries good.q "${GOOD[@]}" "${OUT[@]}"
    select_refused 1 "outputs|directory" --keys outputs --queries good.q "${GOOD[@]}" "${OUT[@]}"
}

bad_options() {
    select_refused 2 "--keys.*missing" --queries good.q "${OUT[@]}"
    select_refused 2 "--queries.*missing" --keys good.k "${OUT[@]}"
    select_refused 2 "--out.*missing" "${FILES[@]}"
    select_refused 2 "top-k.*'many'" "${FILES[@]}" "${OUT[@]}" --top-k many
    select_refused 2 "top-k.*'-3'" "${FILES[@]}" "${OUT[@]}" --top-k=-3
    select_refused 2 "top-k.*'99999999999999999999'" "${FILES[@]}" "${OUT[@]}" --top-k 99999999999999999999
    select_refused 2 "mode.*'both'" "${FILES[@]}" "${OUT[@]}" --mode both
    select_refused 2 "stripe.*'0'" "${FILES[@]}" "${OUT[@]}" --stripe 0
    select_refused 2 "deadline.*'0'" "${FILES[@]}" "${OUT[@]}" --deadline 0
    select_refused 2 "'--colour'" "${FILES[@]}" "${OUT[@]}" --colour
    select_refused 2 "'--top-k' needs a value" "${FILES[@]}" "${OUT[@]}" --top-k
    select_refused 2 "'--scores=1' takes no value" "${FILES[@]}" "${OUT[@]}" --scores=1
    select_refused 2 "unexpected argument 'more'" "${FILES[@]}" "${OUT[@]}" more
    # m*B < k, m < sink + local, B not a power of two: the library's own words.
    select_refused 1 "top_k|top-k|top_blocks" "${FILES[@]}" "${OUT[@]}" --block-size 16 --top-blocks 3 --top-k 64
    select_refused 1 "sink|local|top_blocks" "${FILES[@]}" "${OUT[@]}" "${GOOD[@]}" --sink-blocks 5 --local-blocks 4
    select_refused 1 "block_size|block-size" "${FILES[@]}" "${OUT[@]}" "${GOOD[@]}" --block-size 100
    select_refused 1 "score" "${FILES[@]}" "${OUT[@]}" "${GOOD[@]}" --mode block --scores
    select_refused 1 "cuda" "${FILES[@]}" "${OUT[@]}" "${GOOD[@]}" --backend cuda
    select_refused 1 "nccl|CUDA" "${FILES[@]}" "${OUT[@]}" "${GOOD[@]}" --comm nccl # no NCCL in the build, or no device
    select_refused 1 "nccl.*not for --backend cpu" "${FILES[@]}" "${OUT[@]}" "${GOOD[@]}" --comm nccl --backend cpu
    select_refused 1 "share-gpu.*nccl" "${FILES[@]}" "${OUT[@]}" "${GOOD[@]}" --share-gpu
    select_refused 2 "comm-latency.*'-1'" "${FILES[@]}" "${OUT[@]}" --comm-latency=-1
    select_refused 2 "comm-bandwidth.*'0'" "${FILES[@]}" "${OUT[@]}" --comm-bandwidth 0
    refused 1 "--measure.*one" "$HISA" info --measure
    select_refused 1 "rows-per-rank.*sharded" "${FILES[@]}" "${OUT[@]}" "${GOOD[@]}" --rows-per-rank 5
    select_refused 1 "rows-per-rank" "${FILES[@]}" "${OUT[@]}" "${GOOD[@]}" --queries-on sharded --rows-per-rank 1,1,1,1
    refused 1 "rows-per-rank.*5" "$HISA" select "${FILES[@]}" "${OUT[@]}" "${GOOD[@]}" --queries-on sharded --rows-per-rank 4
    [ -z "$MPIRUN" ] ||
        refused 1 "--comm self" "${ON3[@]}" "$HISA" select "${FILES[@]}" "${OUT[@]}" "${GOOD[@]}" --comm self
    refused 2 "subcommand is missing" "$HISA"
    refused 2 "'dance'" "$HISA" dance
    refused 2 "--tokens.*'0'" "$HISA" synth --tokens 0 --keys outputs/k --queries outputs/q
    refused 2 "--queries.*missing" "$HISA" synth --keys outputs/k
    refused 1 "head.dim" "$HISA" synth --tokens 100 --head-dim 24 --keys outputs/k --queries outputs/q
    refused 1 "no/folder" "$HISA" synth --tokens 100 --rows 1 --keys no/folder/k --queries outputs/q
    refused 2 "--mode.*'fast'" "$HISA" bench --mode hisa,fast
    refused 2 "--exchange.*'fast'" "$HISA" bench --exchange owner,fast
    refused 2 "--exchange.*''" "$HISA" bench --exchange owner,
    refused 2 "--stripe.*'0'" "$HISA" bench --stripe 1,0
    refused 2 "--stripe.*list of" "$HISA" bench --stripe 1,1,1,1,1,1,1,1,1
    refused 2 "--exchange.*'owner,oneshot'" "$HISA" select "${FILES[@]}" --out out --exchange owner,oneshot
    refused 2 "--stripe.*'1,2'" "$HISA" select "${FILES[@]}" --out out --stripe 1,2
    refused 2 "--as-ranks takes one" "$HISA" bench --as-ranks 2 --stripe 1,2
    refused 2 "--keys and --queries" "$HISA" bench --keys good.k
    refused 2 "--sequences.*synthetic" "$HISA" bench "${FILES[@]}" --sequences 2
    refused 2 "--rows.*5 rows.*2 sequences" "$HISA" bench --rows 5 --sequences 2
    refused 2 "--query-family.*'odd'" "$HISA" bench --query-family odd
    refused 1 "--append.*300" "$HISA" bench --tokens 256 --rows 1 --append 300
    refused 1 "--graph.*cpu" "$HISA" bench --backend cpu --graph
    refused 1 "--sets.*cpu" "$HISA" bench --backend cpu --sets 2
    refused 1 "cuda" "$HISA" bench --backend cuda --graph
    refused 2 "--rows.*'0'" "$HISA" audit "${FILES[@]}" --rows 0
    refused 1 "no/folder" "$HISA" audit "${FILES[@]}" "${GOOD[@]}" --json no/folder/report
}

# told STATUS PATTERN WHAT: the status was 1, and refused.full holds one line that matches.
told() {
    CHECKS=$((CHECKS + 1))
    if [ "$1" -ne 1 ] || [ "$(grep -c "$2" refused.full)" -ne 1 ] || [ "$(wc -l <refused.full)" -ne 1 ]; then
        fail "$3: exit status $1, $(cat refused.full)"
    fi
}

outputs_that_fail() {
    select_refused 1 "no/folder" "${FILES[@]}" "${GOOD[@]}" --out no/folder/out
    mkdir folder
    select_refused 1 "folder" "${FILES[@]}" "${GOOD[@]}" --out folder
    # A limit on the size of files stands for a full disk: indices of 5 rows of 64 are 1280 bytes, the limit is 512.
    (
        trap '' XFSZ
        ulimit -f 1
        exec "$HISA" select "${FILES[@]}" --block-size 16 --top-blocks 16 --top-k 256 "${OUT[@]}"
    ) 2>refused.full
    told $? '^hisa: select: .*outputs/out' "file too large"
    [ -z "$(ls -A outputs)" ] || fail "file too large: left behind: $(ls -A outputs)"
    full_disk
    [ -c /dev/full ] || return
    local what
    for what in "info" "--help" "select --help" "audit ${FILES[*]} ${GOOD[*]}" "verify ${FILES[*]} ${GOOD[*]}" \
        "bench --tokens 256 --rows 1 --heads 2 --repeats 1 ${GOOD[*]}"; do
        # shellcheck disable=SC2086
        "$HISA" $what >/dev/full 2>refused.full
        told $? '^hisa: .*standard output' "hisa $what >/dev/full"
    done
    refused 1 "/dev/full" "$HISA" audit "${FILES[@]}" "${GOOD[@]}" --json /dev/full
    CHECKS=$((CHECKS + 1))
    (
        "$HISA" info 2>refused.pipe
        echo $? >refused.status
    ) | true
    # `true` may have gone before or after the pipe was written: either all was well, or it was reported.
    case $(cat refused.status) in
    0) ;;
    1) grep -q 'hisa: info: .*standard output' refused.pipe || fail "closed pipe: $(cat refused.pipe)" ;;
    *) fail "closed pipe: exit status $(cat refused.status)" ;;
    esac
}

# A real full disk, where we may mount one.
full_disk() {
    mkdir disk
    mount -t tmpfs -o size=16k tmpfs disk 2>/dev/null || return 0
    dd if=/dev/zero of=disk/filler bs=4096 count=3 2>/dev/null
    select_refused 1 "space" "${FILES[@]}" --block-size 16 --top-blocks 16 --top-k 256 --scores --out disk/out
    [ "$(ls -A disk)" = filler ] || fail "left on the full disk: $(ls -A disk)"
    umount disk
}

# differs PATTERN "OPTIONS of rank 0" "OPTIONS of rank 1": whole command lines after hisa.
differs() {
    local status=$1 pattern=$2
    # shellcheck disable=SC2086
    refused "$status" "$pattern" "$MPIRUN" -n 1 "$HISA" $3 : -n 1 "$HISA" $4
}

one_rank_only() {
    local good="select ${FILES[*]} ${GOOD[*]} ${OUT[*]}" name
    for name in cut-in-data duplicate-name k-of-24; do
        differs 1 "rank 1:.*$name" "$good" "$good --keys $name"
        differs 1 "rank 0:.*$name" "$good --keys $name" "$good"
    done
    # Ranks share the check of values. In its own part a rank names the cause; a fault elsewhere shows as another file.
    differs 1 "rank 1:.*k-nan" "$good" "$good --keys k-nan"
    differs 1 "keys file" "$good --keys k-nan" "$good"
    differs 1 "rank 0:.*k-scale-zero" "$good --keys k-scale-zero" "$good"
    differs 1 "keys file" "$good" "$good --keys k-scale-zero"
    differs 1 "rank 1:.*weights-nan" "$good" "$good --queries weights-nan"
    differs 1 "rank 1:.*ks-above-ke" "$good" "$good --queries ks-above-ke"
    differs 1 "queries file" "$good --queries weights-nan" "$good"
    differs 1 "rank 1:.*nowhere" "$good" "$good --keys nowhere"
    differs 1 "keys file" "$good" "$good --keys other.k"
    differs 1 "queries" "$good" "$good --queries fewer.q"
    differs 1 "top-k" "$good" "$good --top-k 63"
    differs 1 "mode" "$good" "$good --mode flat"
    differs 1 "stripe" "$good" "$good --stripe 2"
    differs 1 "exchange" "$good --exchange owner" "$good --exchange oneshot"
    differs 1 "queries-on" "$good" "$good --queries-on sharded"
    differs 1 "rows-per-rank" "$good --queries-on sharded --rows-per-rank 4,1" "$good --queries-on sharded --rows-per-rank 1,4"
    differs 1 "scores" "$good" "$good --scores"
    differs 1 "comm" "$good" "$good --comm mpi"
    differs 1 "subcommand" "$good" "info"
    differs 1 "help" "$good" "$good --help"
    differs 2 "rank 1:.*'--colour'" "$good" "$good --colour"
    differs 2 "rank 0:.*'--colour'" "$good --colour" "$good"
    differs 1 "oracle-rows" "verify ${FILES[*]} ${GOOD[*]}" "verify ${FILES[*]} ${GOOD[*]} --oracle-rows 2"
}

bad_files
bad_options
outputs_that_fail
[ -z "$MPIRUN" ] || one_rank_only
finish
