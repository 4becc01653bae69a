#!/usr/bin/env bash
# Measures how selection scales over the GPUs of one host, and writes the page of it: a Markdown file named after the device,
# and beside it the JSON lines that it was made from, which are written as they come. The page is never edited by hand.
#
#     launch/gpu-scaling.sh [--build FOLDER | --hisa FILE] [--ranks P,...] [--out FOLDER] [--commit TEXT] [--quick]
#                           [--only REGEX] [--append] [--seconds N] [--backend cpu] [--page-only] [PREFIX]
#
# PREFIX       libraries for machines that cannot install them, as in launch/gpu-test.sh, which builds
# --build      where to build (default build/gpu)
# --hisa       the command to measure with: nothing is built
# --ranks      numbers of ranks, one a GPU (default: powers of two up to the number of GPUs). Speed-ups are beside 1
# --out        where the page goes (default launch/results)
# --commit     what is measured (default: what git says)
# --quick      two repeats of each case: to see that all of them run
# --only       starts whose name matches, for example 'prefill hisa'
# --append     keeps the lines that are there: a case that is measured again takes the place of the one before
# --seconds    no start begins later than that (default 420)
# --backend    cpu: small shapes over MPI, to see the script work where there is no GPU; the page says so
# --page-only  measures nothing: makes the page from the lines that are there
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
tree=$root/build/gpu
hisa=
ranks=
out=$root/launch/results
commit=
backend=cuda
pass=()
prefix=()
while [ $# -gt 0 ]; do
    case $1 in
    --build | --hisa | --ranks | --out | --commit | --only | --seconds | --backend)
        if [ $# -lt 2 ]; then
            echo "gpu-scaling: '$1' needs a value" >&2
            exit 1
        fi
        case $1 in
        --build) tree=$(realpath -m "$2") ;;
        --hisa) hisa=$(realpath "$2") ;;
        --ranks) ranks=$2 ;;
        --out) out=$(realpath -m "$2") ;;
        --commit) commit=$2 ;;
        --backend) backend=$2 ;;
        *) pass+=("$1" "$2") ;;
        esac
        shift
        ;;
    --quick | --append | --page-only) pass+=("$1") ;;
    -h | --help)
        sed -n '2,/^set -/{/^set -\|shellcheck/d;s/^# \{0,1\}//;p}' "$root/launch/gpu-scaling.sh"
        exit 0
        ;;
    -*)
        echo "gpu-scaling: unknown argument '$1' (see --help)" >&2
        exit 1
        ;;
    *) prefix=("$(cd "$1" && pwd)") ;;
    esac
    shift
done
if ! [[ $backend =~ ^(cuda|cpu)$ && $ranks =~ ^([1-9][0-9]*(,[1-9][0-9]*)*)?$ ]]; then
    echo "gpu-scaling: --backend is cuda or cpu, --ranks numbers with commas between them: '$backend', '$ranks'" >&2
    exit 1
fi

cd "$root"
device=cpu
gpus=2
if [ "$backend" = cuda ]; then
    device=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1) || true
    gpus=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | wc -l) || true
fi
if [ -z "$ranks" ]; then
    ranks=1
    for ((p = 2; p <= gpus; p *= 2)); do
        ranks+=,$p
    done
fi
case " ${pass[*]-} " in
*" --page-only "*) ;;
*)
    if [ -z "$hisa" ]; then
        launch/gpu-test.sh --build "$tree" --build-only "${prefix[@]}"
        hisa=$tree/src/cli/hisa
    fi
    ;;
esac
for libraries in "${prefix[@]/%//usr/lib/$(uname -m)-linux-gnu}"; do
    export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
done
export NCCL_NVLS_ENABLE=${NCCL_NVLS_ENABLE:-0} # multicast is off on the machines that the figures are compared with
if [ -z "$commit" ]; then
    commit=$(git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)
fi
mkdir -p "$out"
exec python3 launch/gpu_scaling.py --hisa "$hisa" --mpirun launch/mpirun --out "$out" --commit "$commit" --backend "$backend" \
    --device "$device" --ranks "$ranks" "${pass[@]}"
