#!/usr/bin/env bash
# Builds with CUDA and runs the GPU suites, on a machine that has a GPU, nvcc (12.4 or newer), CMake and a C compiler.
# Installs nothing. launch/test.sh --gpu installs what is missing first, and then comes here.
#
#     launch/gpu-test.sh [--build FOLDER] [--build-only] [--bench] [--sanitize] [PREFIX]
#
# PREFIX      a folder with Check, cJSON and, where the machine has none, pkgconf, for machines that cannot install them:
#             their Debian packages unpacked into it (apt-get download check libcjson1 libcjson-dev libsubunit0
#             libsubunit-dev pkgconf pkgconf-bin libpkgconf3; dpkg -x each)
# --build     where to build (default build/gpu)
# --build-only  builds, and runs nothing
# --bench     prints timings of the command's benchmark as well
# --sanitize  runs the suites under compute-sanitizer as well, on fewer cases
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
tree=$root/build/gpu
bench=no
only=no
sanitize=no
prefix=
while [ $# -gt 0 ]; do
    case $1 in
    --build)
        tree=$2
        shift
        ;;
    --bench) bench=yes ;;
    --build-only) only=yes ;;
    --sanitize) sanitize=yes ;;
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
mkdir -p "$tree"
if ! { cmake -S "$root" -B "$tree" "${generator[@]}" -DHISA_CUDA=ON -DHISA_WERROR=ON "${architectures[@]}" &&
    cmake --build "$tree" -j "${JOBS:-$(nproc)}"; } >"$tree/build.log" 2>&1; then
    tail -n 60 "$tree/build.log"
    exit 1
fi
[ $only = no ] || exit 0
"$tree"/src/cli/hisa info
ctest --test-dir "$tree" -L gpu --output-on-failure --no-tests=error
failed=0
if [ $sanitize = yes ]; then
    for tool in memcheck initcheck synccheck racecheck; do
        echo "compute-sanitizer --tool $tool"
        # One test asks for more memory than there is; that is no finding. A tool that takes too long is none either, but
        # is not a pass.
        if ! HISA_TEST_CASES=${SANITIZE_CASES:-16} CK_RUN_CASE=small timeout 200 compute-sanitizer --tool $tool \
            --report-api-errors no --error-exitcode 9 "$tree"/tests/gpu/test_cuda; then
            echo "gpu-test: $tool failed, or took more than 200 s" >&2
            failed=1
        fi
    done
fi
if [ $bench = yes ]; then
    "$tree"/src/cli/hisa bench --backend cuda --tokens 131072 --rows 512 --mode hisa,flat,block --warmup 2 --repeats 5
fi
exit $failed
