#!/usr/bin/env bash
# Builds with CUDA and runs the GPU suites, on a machine that has a GPU, nvcc (12.4 or newer), CMake and a C compiler.
# Installs nothing. launch/test.sh --gpu installs what is missing first, and then comes here.
#
#     launch/gpu-test.sh [--build FOLDER] [--build-only] [--only REGEX] [--bench] [--sanitize | --only-sanitize] [PREFIX]
#
# PREFIX      a folder with Check, cJSON and, where the machine has none, pkgconf, for machines that cannot install them:
#             their Debian packages unpacked into it (apt-get download check libcjson1 libcjson-dev libsubunit0
#             libsubunit-dev pkgconf pkgconf-bin libpkgconf3; dpkg -x each)
# --build     where to build (default build/gpu)
# --build-only  builds, and runs nothing
# --only      runs those of the suites whose name matches, for example nccl
# --bench     prints timings of the command's benchmark as well
# --sanitize  runs the suites' small cases under compute-sanitizer as well, and says at the end what each tool found:
#             clean, findings (a failure), or no result (the tool's own error or SANITIZE_SECONDS (200) over: none).
#             SANITIZE_TOOLS chooses among "memcheck initcheck synccheck racecheck", SANITIZE_CASES how many random cases.
#             racecheck takes a build of its own, in FOLDER-racecheck, where all lanes of a warp arrive at a barrier and not
#             one for all: it sees no order in a __syncwarp() before that one's arrival (src/backend/cuda/hopper_ptx.cuh).
#             memcheck also goes over two ranks that talk by NCCL, where this build has them
# --only-sanitize  the same without the plain run of the suites; with --only ranks, over the two ranks alone
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
tree=$root/build/gpu
bench=no
only=no
suites_named=.
sanitize=no
plain=yes
prefix=
while [ $# -gt 0 ]; do
    case $1 in
    --build)
        tree=$2
        shift
        ;;
    --bench) bench=yes ;;
    --build-only) only=yes ;;
    --only)
        suites_named=$2
        shift
        ;;
    --sanitize) sanitize=yes ;;
    --only-sanitize)
        sanitize=yes
        plain=no
        ;;
    -h | --help)
        sed -n '2,/^set -/{/^set -\|shellcheck/d;s/^# \{0,1\}//;p}' "$0"
        exit 0
        ;;
    -*)
        echo "gpu-test: unknown argument '$1' (see --help)" >&2
        exit 1
        ;;
    *) prefix=$(cd "$1" && pwd) ;;
    esac
    shift
done

if [ -n "$prefix" ]; then
    libraries=$prefix/usr/lib/$(uname -m)-linux-gnu
    # The packages' files name /usr: point them to where they lie.
    sed -i "s#^prefix=.*#prefix=$prefix/usr#; s#^libdir=.*#libdir=$libraries#; s#=/usr/#=$prefix/usr/#" \
        "$libraries"/pkgconfig/*.pc
    export PKG_CONFIG_PATH=$libraries/pkgconfig${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}
    export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    export LIBRARY_PATH=$libraries${LIBRARY_PATH:+:$LIBRARY_PATH}
    command -v pkg-config >/dev/null || export PKG_CONFIG=$prefix/usr/bin/pkgconf
fi

architectures=()
if capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d .); then
    # Only what this machine runs; 9.0 has instructions of its own.
    [ "$capability" = 90 ] && capability=90a
    [ -n "$capability" ] && architectures=("-DCMAKE_CUDA_ARCHITECTURES=$capability-real")
fi
generator=()
command -v ninja >/dev/null && generator=(-G Ninja)
# build_tree FOLDER ARGUMENT...: all of it, with these arguments of CMake's.
build_tree() {
    local folder=$1
    shift
    mkdir -p "$folder"
    if ! { cmake -S "$root" -B "$folder" "${generator[@]}" -DHISA_CUDA=ON -DHISA_WERROR=ON "${architectures[@]}" "$@" &&
        cmake --build "$folder" -j "${JOBS:-$(nproc)}"; } >"$folder/build.log" 2>&1; then
        tail -n 60 "$folder/build.log"
        exit 1
    fi
}

build_tree "$tree"
[ $only = no ] || exit 0
"$tree"/src/cli/hisa info
failed=0
# A suite fails, and the rest still runs.
if [ $plain = yes ]; then
    if ! "$tree"/src/cli/hisa info | grep -qE '^NCCL +yes' || ! command -v mpicc >/dev/null; then
        echo "gpu-test: no NCCL or no MPI here: the suites of several ranks are left out"
    fi
    ctest --test-dir "$tree" -L gpu -R "$suites_named" --output-on-failure --no-tests=error || failed=1
fi

# conclude WHAT LOG STATUS START: adds a line to `outcomes` on a run of a tool that began at START, with its exit status.
# Three ends are told apart: findings and failing tests, which fail this script; and a tool that gave no result (its own
# error, or no end in time), which neither passes nor fails.
outcomes=()
conclude() {
    local what=$1 log=$2 status=$3 start=$4 outcome
    if grep -E '^=+ +(Invalid|Uninitialized|Misaligned|Barrier error|Divergent|Error: (Race|Potential)|Warning: Race|Race reported|Potential)' \
        "$log" >"$log.findings"; then
        outcome="FINDINGS: $(sed -n '1s/^=* *//p' "$log.findings")"
        failed=1
    elif grep -q 'Internal Sanitizer Error' "$log"; then
        outcome="no result: $(grep -m 1 'Internal Sanitizer Error' "$log" | sed 's/^=* *//')"
    elif [ "$status" -eq 124 ] || [ "$status" -eq 137 ]; then
        outcome="no result: not done in $seconds s"
    elif [ "$status" -eq 9 ]; then
        outcome="FINDINGS: exit status 9"
        failed=1
    elif [ "$status" -eq 77 ]; then
        outcome="skipped: $(tail -n 1 "$log")"
    elif [ "$status" -ne 0 ]; then
        outcome="FAILED: exit status $status"
        failed=1
    elif ! grep -qE '(ERROR|RACECHECK) SUMMARY: 0 ' "$log"; then
        outcome="no result: no summary"
    else
        outcome=clean
    fi
    rm -f "$log.findings"
    case $outcome in
    FINDINGS* | FAILED*) tail -n 60 "$log" ;;
    "no result"*) tail -n 5 "$log" ;;
    esac
    outcomes+=("$what $(printf '%4d s' $((SECONDS - start)))  $outcome")
}

# sanitized TOOL SUITE SCORER CASES: the suite's small cases under the tool.
sanitized() {
    local tool=$1 suite=$2 scorer=$3 cases=$4 what status=0 start=$SECONDS
    local log=$tree/sanitize-$tool-$suite${scorer:+-$scorer}.log from=$tree
    [ "$tool" != racecheck ] || from=$tree-racecheck
    what="$(printf '%-9s %-17s %-6s' "$tool" "$suite" "${scorer:-all}")"
    echo "compute-sanitizer --tool $what ($log)"
    # One test asks for more memory than there is, others pass bad pointers: calls that fail are no findings.
    HISA_CUDA_SCORER=$scorer HISA_TEST_CASES=$cases CK_RUN_CASE=small timeout -k 10 "$seconds" \
        compute-sanitizer --tool "$tool" --report-api-errors no --error-exitcode 9 "$from/tests/gpu/$suite" \
        >"$log" 2>&1 || status=$?
    conclude "$what" "$log" $status "$start"
}

# sanitized_ranks SUITE CASE: a test case of the suite in two ranks that talk by NCCL, each under memcheck, with few ways
# of everything. NCCL itself makes calls that fail and thinks nothing of it (it asks for kernels that its library has not
# for this device): calls that fail are no findings here either.
sanitized_ranks() {
    local suite=$1 case=$2 what status=0 start=$SECONDS
    local log=$tree/sanitize-memcheck-$suite-np2-$case.log
    what="$(printf '%-9s %-17s %-6s' memcheck "$suite" np2)"
    echo "compute-sanitizer --tool $what, $case ($log)"
    rm -f "$log" "$log".rank.*
    HISA_TEST_PART=12 HISA_TEST_CASES=2 HISA_TEST_CALLS=5 CK_RUN_CASE=$case timeout -k 10 "$seconds" \
        launch/mpirun -n 2 compute-sanitizer --tool memcheck --report-api-errors no --error-exitcode 9 \
        --log-file "$log.rank.%p" "$tree/tests/nccl/$suite" >"$log" 2>&1 || status=$?
    # The launcher tells a rank's exit status in words of its own. Both ranks must have come to a summary.
    local summaries
    summaries=$(cat "$log".rank.* 2>/dev/null | grep -c 'ERROR SUMMARY' || true)
    cat "$log".rank.* >>"$log" 2>/dev/null || true
    if [ $status -eq 0 ] && [ "$summaries" -ne 2 ]; then
        sed -i '/ERROR SUMMARY/d' "$log" # that is no result
    fi
    conclude "$what" "$log" $status "$start"
}

if [ $sanitize = yes ]; then
    if ! command -v compute-sanitizer >/dev/null; then
        echo "gpu-test: --sanitize needs compute-sanitizer, which comes with CUDA" >&2
        exit 1
    fi
    seconds=${SANITIZE_SECONDS:-200}
    # Suites with cases that are called small.
    mapfile -t suites < <(grep -l 'tcase_create("small")' tests/gpu/test_*.c | xargs -n 1 basename -s .c)
    [ "$suites_named" != ranks ] || suites=()
    for tool in ${SANITIZE_TOOLS:-memcheck initcheck synccheck racecheck}; do
        if [ "$tool" = racecheck ] && [ ${#suites[@]} -gt 0 ]; then
            build_tree "$tree-racecheck" -DCMAKE_CUDA_FLAGS=-DHISA_EACH_LANE_ARRIVES
        fi
        if [ "$tool" = memcheck ] && [ -x "$tree/tests/nccl/test_nccl_select" ]; then
            sanitized_ranks test_nccl_comm data
            sanitized_ranks test_nccl_select as_a_single_gpu
        fi
        for suite in "${suites[@]}"; do
            # racecheck has ended in an error of its own ("failure to track a kernel launch"): a scorer at a time and few
            # cases, so that one does not hide the others. Only suites that go through the scorers can be asked for one.
            if [ "$tool" = racecheck ] && grep -q gpu_try_scorer "tests/gpu/$suite.c"; then
                for scorer in f32 mma wgmma; do
                    sanitized "$tool" "$suite" $scorer "${SANITIZE_CASES:-4}"
                done
            else
                sanitized "$tool" "$suite" "" "${SANITIZE_CASES:-16}"
            fi
        done
    done
    echo
    printf '%s\n' "${outcomes[@]}"
    echo
    without=$(printf '%s\n' "${outcomes[@]}" | grep -c 'no result: ' || true)
    echo "compute-sanitizer: ${#outcomes[@]} runs, $without without a result$([ "$without" -eq 0 ] || echo " (that is no pass)")"
fi
if [ $bench = yes ]; then
    "$tree"/src/cli/hisa bench --backend cuda --tokens 131072 --rows 512 --mode hisa,flat,block --warmup 2 --repeats 5
fi
exit $failed
