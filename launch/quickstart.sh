#!/usr/bin/env bash
# From a bare machine to a verified result: installs what is missing, builds, selects tokens with 4 ranks on an index trace
# of a real text, compares with one rank and with a plain reference, and measures how good the approximation is.
#
#     launch/quickstart.sh
#
# From any directory, as root or not, as often as you like. It writes to build/quickstart only. RANKS sets the number of
# ranks (default 4), JOBS the number of compilers at once (default: the number of processors).
set -euo pipefail
cd "$(dirname "$0")/.."
tree=build/quickstart
out=$tree/demo
ranks=${RANKS:-4}

case ${1:-} in
"") ;;
-h | --help)
    sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p}' "$0"
    exit 0
    ;;
*)
    echo "quickstart: unknown argument '$1' (see --help)" >&2
    exit 1
    ;;
esac

launch/deps.sh build
mkdir -p "$out"

# seconds START: since then, with one decimal.
seconds() { awk -v from="$1" -v to="$EPOCHREALTIME" 'BEGIN { printf "%.1f", to - from }'; }

# step NAME WORDS COMMAND...: runs it with its output in a log; leaves its time in `took`.
step() {
    local name=$1 words=$2 start=$EPOCHREALTIME
    shift 2
    printf '%s ... ' "$words"
    if ! "$@" >"$out/$name.log" 2>&1 </dev/null; then
        echo "FAILED"
        tail -n 40 "$out/$name.log"
        echo "quickstart: failed: $*" >&2
        exit 1
    fi
    took=$(seconds "$start")
    echo "$took s"
}

configure_and_build() {
    cmake -S . -B "$tree" -G Ninja -DCMAKE_BUILD_TYPE=Release -DHISA_TESTS=OFF &&
        cmake --build "$tree" -j "${JOBS:-$(nproc)}"
}
step build "building hisa in $tree" configure_and_build

trace=(--keys tests/data/smollm2-32k.keys.safetensors --queries tests/data/smollm2-32k.queries.safetensors)
hisa=(launch/mpirun -n "$ranks" "$tree/src/cli/hisa")
step select "selecting, $ranks ranks" "${hisa[@]}" select "${trace[@]}" --out "$out/selection.safetensors"
select_took=$took
step verify "verifying" "${hisa[@]}" verify "${trace[@]}"
verify_took=$took
step audit "auditing" "${hisa[@]}" audit "${trace[@]}" --json "$out/audit.json"
audit_took=$took

# The tables of verify and audit, cut down to what a newcomer asks for.
read -r queries tokens k < <(sed -nE 's/^([0-9]+) queries over ([0-9]+) tokens, mode [a-z]+, k ([0-9]+),.*/\1 \2 \3/p' \
    "$out/verify.log")
one_rank=$(awk '/^the same on one rank/ { print $6 - $7 " of " $6 }' "$out/verify.log")
reference=$(awk '/^the plain reference/ { print $4 - $5 " of " $4 }' "$out/verify.log")
recall() { awk -v mode="$1" '$1 == mode && $2 == "recall" { print "mean " $3 ", worst query " $6 }' "$out/audit.log"; }

row() { printf '%-54s %-32s %7s\n' "$@" | sed 's/ *$//'; }
echo
echo "$tokens tokens of a real text, $queries queries; for each the best $k tokens, by two stages on $ranks ranks:"
echo
row "what" "result" "time"
row "selected, result in $out" "selection.safetensors" "$select_took s"
row "queries with the same bytes as on one rank" "$one_rank" "$verify_took s"
row "queries with the same tokens as in a plain reference" "$reference" ""
row "share of the exact top $k found (recall)" "$(recall hisa)" "$audit_took s"
row "the same by blocks alone, without the second stage" "$(recall block)" ""
echo
echo "More: ${hisa[*]} --help; logs and audit.json in $out; all tests: launch/test.sh"
