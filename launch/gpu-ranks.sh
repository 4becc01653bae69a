#!/usr/bin/env bash
# What the kernels of one rank of several cost, on one GPU: ranks run one after another on their own shards (hisa bench
# --as-ranks), ncu times every kernel, and a page says how each falls with the number of ranks and what of it does not. Writes a
# Markdown file named after the device, and beside it the JSON lines of kernels that it was made from.
#
#     launch/gpu-ranks.sh [--build FOLDER | --hisa FILE | --page-only] [--out FOLDER] [--commit TEXT] [--tokens N]
#                         [--rows N] [PREFIX]
#
# PREFIX    libraries for machines that cannot install them, as in launch/gpu-test.sh, which builds
# --build   where to build (default build/gpu)
# --hisa    the command to measure: nothing is built
# --page-only  measures nothing: the pages again, from the JSON lines that are there
# --out     where the page goes (default launch/results)
# --commit  what is measured (default: what git says)
# --tokens, --rows  of the call (default 1M, 4096)
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
tree=$root/build/gpu
hisa=
out=$root/launch/results
commit=
tokens=1M
rows=4096
page_only=no
prefix=()
while [ $# -gt 0 ]; do
    case $1 in
    --build | --hisa | --out | --commit | --tokens | --rows)
        if [ $# -lt 2 ]; then
            echo "gpu-ranks: '$1' needs a value" >&2
            exit 1
        fi
        case $1 in
        --build) tree=$2 ;;
        --hisa) hisa=$(realpath "$2") ;;
        --out) out=$(realpath -m "$2") ;;
        --commit) commit=$2 ;;
        --tokens) tokens=$2 ;;
        --rows) rows=$2 ;;
        esac
        shift
        ;;
    --page-only) page_only=yes ;;
    -h | --help)
        sed -n '2,/^set -/{/^set -\|shellcheck/d;s/^# \{0,1\}//;p}' "$0"
        exit 0
        ;;
    -*)
        echo "gpu-ranks: unknown argument '$1' (see --help)" >&2
        exit 1
        ;;
    *) prefix=("$(cd "$1" && pwd)") ;;
    esac
    shift
done

if [ $page_only = yes ]; then
    exec python3 launch/gpu_ranks.py --out "$out" --page-only
fi
if [ -z "$hisa" ]; then
    launch/gpu-test.sh --build "$tree" --build-only "${prefix[@]}"
    hisa=$tree/src/cli/hisa
fi
for libraries in "${prefix[@]/%//usr/lib/$(uname -m)-linux-gnu}"; do
    export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
done
if [ -z "$commit" ]; then
    commit=$(git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)
fi
mkdir -p "$out"
exec python3 launch/gpu_ranks.py --hisa "$hisa" --out "$out" --commit "$commit" --tokens "$tokens" --rows "$rows"
