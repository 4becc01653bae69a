#!/usr/bin/env bash
# Measures on a GPU every case that the CUDA backend has a target for, and writes the page of results: a Markdown file named
# after the device, and beside it the JSON lines of hisa bench that it was made from. The page is never edited by hand.
#
#     launch/gpu-results.sh [--build FOLDER] [--out FOLDER] [--commit TEXT] [--quick] [PREFIX]
#
# PREFIX    libraries for machines that cannot install them, as in launch/gpu-test.sh, which builds
# --build   where to build (default build/gpu)
# --out     where the page goes (default launch/results)
# --commit  what is measured (default: what git says)
# --quick   a tenth of the repeats: to see that all cases run
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
tree=$root/build/gpu
out=$root/launch/results
commit=
quick=()
prefix=()
while [ $# -gt 0 ]; do
    case $1 in
    --build | --out | --commit)
        if [ $# -lt 2 ]; then
            echo "gpu-results: '$1' needs a value" >&2
            exit 1
        fi
        case $1 in
        --build) tree=$2 ;;
        --out) out=$2 ;;
        --commit) commit=$2 ;;
        esac
        shift
        ;;
    --quick) quick=(--quick) ;;
    -h | --help)
        sed -n '2,/^set -/{/^set -\|shellcheck/d;s/^# \{0,1\}//;p}' "$0"
        exit 0
        ;;
    -*)
        echo "gpu-results: unknown argument '$1' (see --help)" >&2
        exit 1
        ;;
    *) prefix=("$(cd "$1" && pwd)") ;;
    esac
    shift
done

launch/gpu-test.sh --build "$tree" --build-only "${prefix[@]}"
for libraries in "${prefix[@]/%//usr/lib/$(uname -m)-linux-gnu}"; do
    export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
done
if [ -z "$commit" ]; then
    commit=$(git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)
fi
mkdir -p "$out"
exec python3 launch/gpu_results.py --hisa "$tree/src/cli/hisa" --out "$out" --commit "$commit" "${quick[@]}"
