#!/usr/bin/env bash
# Holds several GPUs of one host to the bytes of one: the NCCL suites with a GPU for each rank, hisa verify, and selections
# on one rank and on several compared byte for byte, on the real trace and on a synthetic one of 1M tokens.
#
#     launch/gpu-verify.sh [--build FOLDER | --hisa FILE] [--ranks P,...] [--only PART] [--tokens N]
#                          [--backend cpu] [PREFIX]
#
# PREFIX     libraries for machines that cannot install them, as in launch/gpu-test.sh, which builds
# --build    where to build (default build/gpu)
# --hisa     the command to hold to it: nothing is built, and no suites are run
# --ranks    numbers of ranks, one a GPU (default: powers of two from 2 to the number of GPUs)
# --only     a part of it: suites, verify or select; or faults, the suites of lost peers, which are run when asked for
# --tokens   length of the synthetic trace (default 1M)
# --backend  cpu: over MPI, to see the script work where there is no GPU
#
# Prints a line a check, then "N passed, N failed"; the exit status is 0 if none failed.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
tree=$root/build/gpu
hisa=
ranks=
only=.
tokens=1M
backend=cuda
prefix=()
while [ $# -gt 0 ]; do
    case $1 in
    --build | --hisa | --ranks | --only | --tokens | --backend)
        if [ $# -lt 2 ]; then
            echo "gpu-verify: '$1' needs a value" >&2
            exit 1
        fi
        case $1 in
        --build) tree=$(realpath -m "$2") ;;
        --hisa) hisa=$(realpath "$2") ;;
        --ranks) ranks=$2 ;;
        --only) only=$2 ;;
        --tokens) tokens=$2 ;;
        --backend) backend=$2 ;;
        esac
        shift
        ;;
    -h | --help)
        sed -n '2,/^set -/{/^set -\|shellcheck/d;s/^# \{0,1\}//;p}' "$root/launch/gpu-verify.sh"
        exit 0
        ;;
    -*)
        echo "gpu-verify: unknown argument '$1' (see --help)" >&2
        exit 1
        ;;
    *) prefix=("$(cd "$1" && pwd)") ;;
    esac
    shift
done
if ! [[ $backend =~ ^(cuda|cpu)$ && $ranks =~ ^([1-9][0-9]*(,[1-9][0-9]*)*)?$ && $only =~ ^(\.|suites|verify|select|faults)$ ]]; then
    echo "gpu-verify: --backend is cuda or cpu, --ranks numbers with commas between them, --only suites, verify, select or faults:" \
        "'$backend', '$ranks', '$only'" >&2
    exit 1
fi
cd "$root"

gpus=2
comm=mpi
if [ "$backend" = cuda ]; then
    gpus=$(nvidia-smi --query-gpu=name --format=csv,noheader | wc -l)
    comm=nccl
fi
if [ -z "$ranks" ]; then
    for ((p = 2; p <= gpus; p *= 2)); do
        ranks+=${ranks:+,}$p
    done
    if [ -z "$ranks" ]; then
        echo "gpu-verify: one GPU is nothing to hold to one GPU" >&2
        exit 1
    fi
fi
suites=no
if [ -z "$hisa" ]; then
    launch/gpu-test.sh --build "$tree" --build-only "${prefix[@]}"
    hisa=$tree/src/cli/hisa
    suites=yes
fi
for libraries in "${prefix[@]/%//usr/lib/$(uname -m)-linux-gnu}"; do
    export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
done
export NCCL_NVLS_ENABLE=${NCCL_NVLS_ENABLE:-0}

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
passed=0
failed=0

# check SECONDS WHAT COMMAND...: runs it, and shows the end of what it said if it fails. A suite that skips has not passed.
check() {
    local limit=$1 what=$2 start=$SECONDS status=0
    shift 2
    timeout -k 10 "$limit" "$@" >"$dir/log" 2>&1 </dev/null || status=$?
    if [ $status -eq 0 ]; then
        passed=$((passed + 1))
        printf 'ok      %4d s  %s\n' $((SECONDS - start)) "$what"
    else
        failed=$((failed + 1))
        printf 'FAILED  %4d s  %s: exit status %d\n' $((SECONDS - start)) "$what" $status
        tail -n 25 "$dir/log"
    fi
}

# The suites that CTest knows for so many ranks, without the small sizes that it gives to ranks that share a GPU.
run_suites() {
    local p=$1 program
    ctest --test-dir "$tree" -N -L gpu -R "\.test_nccl_.*\.np$p\$" | sed -n 's/.*: gpu\.\(test_nccl_[a-z_]*\)\.np.*/\1/p' |
        sort -u >"$dir/suites"
    if [ ! -s "$dir/suites" ]; then
        check 1 "suites of $p ranks: there are none" false
    fi
    while read -r program; do
        check 300 "$program, $p ranks" launch/mpirun -n "$p" "$tree/tests/nccl/$program"
    done <"$dir/suites"
}

# on P ARGUMENT...: the command on so many ranks.
on() {
    local p=$1 subcommand=$2
    shift 2
    if [ "$p" -eq 1 ]; then
        "$hisa" "$subcommand" --backend "$backend" --comm self "$@"
    else
        launch/mpirun -n "$p" "$hisa" "$subcommand" --backend "$backend" --comm "$comm" "$@"
    fi
}

# selected P FILE ARGUMENT...: the bytes of P ranks are those of one, in FILE.
selected() {
    local p=$1 file=$2
    shift 2
    on "$p" select "$@" --scores --out "$dir/many" && cmp "$file" "$dir/many"
}
export -f on selected
export hisa backend comm dir

# What runs a function where timeout wants a command.
function_of=(bash -c 'set -euo pipefail; "$@"' gpu-verify)

real=tests/data/smollm2-32k
declare -A keys=([real]=$real.keys.safetensors [synthetic]=$dir/keys) queries=([real]=$real.queries.safetensors [synthetic]=$dir/queries)
"$hisa" synth --tokens "$tokens" --rows 256 --keys "$dir/keys" --queries "$dir/queries" >/dev/null

if [ "$only" = faults ]; then
    check 560 "suites of lost peers" ctest --test-dir "$tree" -L gpu -R '^fault\.nccl' --no-tests=error
    grep -E '^ *[0-9]+/[0-9]+ ' "$dir/log" || true
fi
for p in ${ranks//,/ }; do
    if [ $suites = yes ] && [[ $only =~ ^(\.|suites)$ ]]; then
        run_suites "$p"
    fi
    for trace in real synthetic; do
        files=(--keys "${keys[$trace]}" --queries "${queries[$trace]}")
        for mode in hisa flat; do
            if [[ $only =~ ^(\.|verify)$ ]]; then
                # The f32 scorer has the reference's bits; the best for the device has one rank's. In mode flat the
                # reference takes half a second a row of 1M tokens.
                check 240 "verify, $trace, mode $mode, $p ranks, f32 and the reference" env HISA_CUDA_SCORER=f32 \
                    "${function_of[@]}" on "$p" verify "${files[@]}" --mode $mode --oracle-rows 16
                check 240 "verify, $trace, mode $mode, $p ranks" "${function_of[@]}" on "$p" verify \
                    "${files[@]}" --mode $mode --oracle-rows 0
            fi
            if [[ $only =~ ^(\.|select)$ ]]; then
                one=$dir/one-$trace-$mode
                [ -e "$one" ] || check 120 "select, $trace, mode $mode, one rank" "${function_of[@]}" on 1 \
                    select "${files[@]}" --mode $mode --scores --out "$one"
                for way in "owner 1" "owner contiguous" "oneshot 1" "lists 1" "owner 1 --tile-rows 50"; do
                    read -r exchange stripe tiles <<<"$way"
                    # shellcheck disable=SC2086 # tiles are words of their own, or none
                    check 120 "select, $trace, mode $mode, $p ranks, $exchange, stripe $stripe${tiles:+, $tiles}" \
                        "${function_of[@]}" selected "$p" "$one" "${files[@]}" --mode $mode \
                        --exchange "$exchange" --stripe "$stripe" $tiles
                done
            fi
        done
    done
done
echo "$passed passed, $failed failed"
[ $failed -eq 0 ] && [ $passed -gt 0 ]
