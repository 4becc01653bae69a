#!/usr/bin/env bash
# The output file of `hisa select` is the same bytes whatever the ranks, the stripe, the append chunks, the exchange, the
# place of the queries, the threads and the tiles. Each factor by itself, then random combinations (the seed is printed; pass
# it with --seed to repeat them). --full tries every combination of the main factors,
# --few (for sanitized builds) one trace and fewer combinations.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"

# Rows of each trace; the deals below sum to them.
SYNTH_ROWS=37
TRACE_ROWS=128

passes "$HISA" synth --family drift --tokens 6000 --rows $SYNTH_ROWS --heads 8 --head-dim 64 --keys drift.k --queries drift.q
passes "$HISA" synth --family exact --tokens 6000 --rows $SYNTH_ROWS --heads 8 --head-dim 64 --keys exact.k --queries exact.q
TRACES="drift exact"
if [ $FEW = yes ]; then
    TRACES="exact"
elif [ -n "$TRACE_KEYS" ]; then
    ln -s "$TRACE_KEYS" real.k
    ln -s "$TRACE_QUERIES" real.q
    TRACES="$TRACES real"
fi
[ -n "$MPIRUN" ] && RANKS="1 2 3 4 5 8" || RANKS=1

# What decides the result; the synthetic traces are small, so are their m and k.
params() {
    case $1 in
    real) echo "--top-k 2048 --top-blocks 64" ;;
    *) echo "--top-k 300 --top-blocks 8 --sink-blocks 1 --local-blocks 2" ;;
    esac
}

rows_of() { [ "$1" = real ] && echo $TRACE_ROWS || echo $SYNTH_ROWS; }

# deal TRACE RANKS: rows for each rank, uneven: the first rank none, the last few, the middle one what is left.
deal() {
    local rows list="" r n left
    rows=$(rows_of "$1")
    left=$rows
    for ((r = 0; r < $2; r++)); do
        n=0
        if [ "$r" -eq $(($2 / 2)) ]; then
            n=$((rows - ($2 > 2 ? 5 : 0)))
        elif [ "$r" -eq $(($2 - 1)) ]; then
            n=$left
        fi
        left=$((left - n))
        list="$list${list:+,}$n"
    done
    echo "$list"
}

# base TRACE MODE: the file that the others are compared with: one rank, no mpirun, everything by default.
base() {
    local scores=--scores
    [ "$2" = block ] && scores=""
    # shellcheck disable=SC2046,SC2086
    passes "$HISA" select --keys "$1.k" --queries "$1.q" --out "$1.$2.base" --mode "$2" $(params "$1") $scores --threads 1
}

# same TRACE MODE RANKS OPTIONS...
same() {
    local trace=$1 mode=$2 n=$3 scores=--scores
    shift 3
    [ "$mode" = block ] && scores=""
    rm -f out
    # shellcheck disable=SC2046,SC2086
    passes_on "$n" "$HISA" select --keys "$trace.k" --queries "$trace.q" --out out --mode "$mode" $(params "$trace") \
        $scores "$@" && ! cmp -s "$trace.$mode.base" out &&
        fail "$trace, mode $mode, ranks $n, $*: the file differs" && cmp "$trace.$mode.base" out
}

one_factor() {
    local trace=$1 mode=$2 n many=3 x
    [ -n "$MPIRUN" ] || many=1
    base "$trace" "$mode" || return
    for n in $RANKS; do
        same "$trace" "$mode" "$n"
    done
    for x in 2 7 contiguous; do
        same "$trace" "$mode" $many --stripe $x
    done
    for x in 1 100 128 1000; do
        same "$trace" "$mode" $many --append-chunk $x
    done
    for x in owner oneshot lists; do
        same "$trace" "$mode" $many --exchange $x
        same "$trace" "$mode" $many --exchange $x --queries-on sharded
        same "$trace" "$mode" $many --exchange $x --queries-on sharded --rows-per-rank "$(deal "$trace" $many)"
    done
    for x in 1 2; do
        same "$trace" "$mode" $many --threads $x
    done
    for x in 1 5; do
        same "$trace" "$mode" $many --tile-rows $x
    done
}

# pick NAME WORD...: sets NAME to one of the words. Not in a subshell, where RANDOM would start over each time.
pick() {
    local -n picked=$1
    shift
    shift $((RANDOM % $#))
    # shellcheck disable=SC2034
    picked=$1
}

random_one() {
    local trace mode n stripe chunk exchange threads tile place
    # shellcheck disable=SC2086
    pick trace $TRACES
    pick mode hisa hisa flat block
    # shellcheck disable=SC2086
    pick n $RANKS
    pick stripe 1 2 3 7 contiguous
    pick chunk 0 77 100 128 1000
    pick exchange auto owner oneshot lists
    pick threads 1 2
    pick tile 0 1 3 16
    pick place replicated sharded uneven
    local where=(--queries-on "$place")
    [ "$place" = uneven ] && where=(--queries-on sharded --rows-per-rank "$(deal "$trace" "$n")")
    same "$trace" "$mode" "$n" --stripe "$stripe" --append-chunk "$chunk" --exchange "$exchange" --threads "$threads" \
        --tile-rows "$tile" "${where[@]}"
}

all_combinations() {
    local trace=$1 mode=$2 n stripe chunk exchange where threads
    for n in $RANKS; do
        for stripe in 1 2 7 contiguous; do
            for chunk in 1 100 128 1000 0; do
                for exchange in owner oneshot lists; do
                    for where in replicated sharded uneven; do
                        local places=(--queries-on "$where")
                        [ $where = uneven ] && places=(--queries-on sharded --rows-per-rank "$(deal "$trace" "$n")")
                        for threads in 1 2; do
                            same "$trace" "$mode" "$n" --stripe $stripe --append-chunk $chunk --exchange $exchange \
                                --threads $threads "${places[@]}"
                        done
                    done
                done
            done
        done
    done
}

echo "seed $SEED"
for trace in $TRACES; do
    for mode in hisa flat; do
        one_factor "$trace" $mode
        [ $FULL = no ] || all_combinations "$trace" $mode
    done
    base "$trace" block
    same "$trace" block "${RANKS##* }" --stripe 2 --append-chunk 100
done
RANDOM=$((SEED % 32768))
[ $FEW = yes ] && combinations=8 || combinations=24
for ((i = 0; i < combinations; i++)); do
    random_one
done
finish
