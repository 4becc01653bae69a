#!/usr/bin/env bash
# Installs what is missing, builds, and runs all tests. From any directory, as root or not, as often as you like.
#
#     launch/test.sh [--quick] [--slow] [--gpu]
#
# --quick  only the first stage: gcc, and every suite that is neither slow nor for a GPU
# --slow   adds the suites labelled slow: a minute of fuzzing, the whole of the invariance matrix
# --gpu    only the GPU suites (launch/gpu-test.sh): needs a GPU and nvcc
#
# Builds and logs go to build/test. Each stage prints one line; a stage that fails prints the end of its log, and the
# others still run. JOBS sets how many things are done at once (default: the number of processors).
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
work=$root/build/test
logs=$work/logs
jobs=${JOBS:-$(nproc)}

quick=no
slow=no
for argument in "$@"; do
    case $argument in
    --quick) quick=yes ;;
    --slow) slow=yes ;;
    --gpu)
        launch/deps.sh test
        exec launch/gpu-test.sh --build "$work/gpu"
        ;;
    -h | --help)
        sed -n '2,/^set -/{/^set -\|shellcheck/d;s/^# \{0,1\}//;p}' "$0"
        exit 0
        ;;
    *)
        echo "test: unknown argument '$argument' (see --help)" >&2
        exit 1
        ;;
    esac
done

launch/deps.sh "$([ $quick = yes ] && echo test || echo lint)"
rm -rf "$logs"
mkdir -p "$logs"
clang=$(command -v clang-14 || command -v clang || true)

# build TREE CMAKE-ARGUMENTS...
build() {
    local tree=$work/$1
    shift
    cmake -S "$root" -B "$tree" -G Ninja "$@"
    cmake --build "$tree" -j "$jobs"
}

# suite TREE CTEST-ARGUMENTS...
suite() {
    local tree=$work/$1
    shift
    ctest --test-dir "$tree" -j "$jobs" --output-on-failure --no-tests=error "$@"
}

stage_gcc() {
    build gcc -DCMAKE_C_COMPILER=gcc -DCMAKE_BUILD_TYPE=Release -DHISA_WERROR=ON
    suite gcc -LE '^(slow|gpu)$'
}

stage_clang() {
    build clang -DCMAKE_C_COMPILER="$clang" -DCMAKE_BUILD_TYPE=Release -DHISA_WERROR=ON
    suite clang -L '^(unit|mpi)$' -LE '^(slow|gpu)$'
}

stage_sanitize() {
    # Optimised: the random cases take 2.6 times as long at -O1.
    build sanitize -DCMAKE_C_COMPILER=gcc -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_C_FLAGS_RELWITHDEBINFO="-O2 -g" \
        -DHISA_SANITIZE=address,undefined
    # tests/CMakeLists.txt sets LSAN_OPTIONS: leaks of Open MPI are not ours.
    export ASAN_OPTIONS=detect_leaks=1:abort_on_error=0:detect_stack_use_after_return=1
    export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
    suite sanitize -LE '^(slow|gpu)$'
}

# built FILE: stages that use the build of another say so if it is not there.
built() {
    if [ ! -e "$1" ]; then
        echo "$1 is not there: its stage did not build"
        return 1
    fi
}

stage_lint() { launch/lint.sh "$work/clang"; }

stage_valgrind() {
    local hisa=$work/gcc/src/cli/hisa trace=$work/valgrind
    built "$hisa"
    mkdir -p "$trace"
    "$hisa" synth --tokens 3000 --rows 6 --keys "$trace/keys.safetensors" --queries "$trace/queries.safetensors"
    valgrind --error-exitcode=1 --leak-check=full --errors-for-leak-kinds=definite,indirect \
        "$hisa" select --comm self --keys "$trace/keys.safetensors" --queries "$trace/queries.safetensors" \
        --top-blocks 8 --top-k 512 --out "$trace/selection.safetensors"
}

stage_consumer() {
    built "$work/gcc/libhisa.so"
    launch/consumer.sh "$work/gcc" "$work/consumer"
}

stage_slow() {
    build fuzz -DCMAKE_C_COMPILER="$clang" -DCMAKE_BUILD_TYPE=RelWithDebInfo -DHISA_FUZZ=ON \
        -DHISA_SANITIZE=address,undefined
    suite fuzz -L '^slow$' -R '[Ff]uzz'
    suite gcc -L '^slow$' -LE '^gpu$'
}

stages=(gcc clang sanitize lint valgrind consumer)
[ $quick = no ] || stages=(gcc)
[ $slow = no ] || stages+=(slow)
declare -A about=(
    [gcc]="gcc, warnings are errors, all suites"
    [clang]="clang, warnings are errors, unit and mpi suites"
    [sanitize]="address and undefined-behaviour sanitizers, all suites"
    [lint]="format, clang-tidy, cppcheck, exports, headers, rules"
    [valgrind]="hisa select under valgrind"
    [consumer]="programs that use the installed package"
    [slow]="fuzzing, whole invariance matrix"
)

passed=0
failed=0
skipped=0
table=()
totals=()
for stage in "${stages[@]}"; do
    log=$logs/$stage.log
    printf '%-9s %s ... ' "$stage" "${about[$stage]}"
    start=$SECONDS
    # In a subshell of its own and outside of any condition, so that set -e holds inside.
    set +e
    (
        set -e
        "stage_$stage"
    ) >"$log" 2>&1 </dev/null
    status=$?
    set -e

    # "98% tests passed, 1 tests failed out of 50", as ctest sums up; it counts skipped tests as passed.
    read -r passed_here failed_here skipped_here < <(awk '
        /^[0-9]+% tests passed, [0-9]+ tests? failed out of [0-9]+/ { failed += $4; all += $9 }
        /\*\*\*Skipped/ { ++skipped }
        END { print all - failed - skipped, failed + 0, skipped + 0 }' "$log")
    while read -r line; do
        totals+=("$stage: $line")
    done < <(grep -E '^[0-9]+% tests passed, ' "$log")
    if [ $status -eq 0 ]; then
        result=ok
    else
        result=FAILED
        # A stage that no ctest counts, or that failed before it, is one failure.
        [ "$failed_here" -gt 0 ] || failed_here=1
    fi
    passed=$((passed + passed_here))
    failed=$((failed + failed_here))
    skipped=$((skipped + skipped_here))
    echo "$result, $((SECONDS - start)) s"
    if [ $status -ne 0 ]; then
        echo "---- the end of $log"
        tail -n 80 "$log"
        echo "----"
    elif [ "$stage" = lint ]; then
        grep skipped "$log" || true
    fi
    table+=("$(printf '%-9s %-6s %5d s   %s' "$stage" "$result" $((SECONDS - start)) "${about[$stage]}")")
done

echo
echo "stage     result    time   what"
printf '%s\n' "${table[@]}"
echo
if [ ${#totals[@]} -gt 0 ]; then
    printf '%s\n' "${totals[@]}"
fi
echo "$passed tests passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
