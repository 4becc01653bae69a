#!/usr/bin/env bash
# Compares the three lists that must be one: the functions marked HISA_API in include/hisa, those of src/hisa.map, and
# those that the shared library exports. Looks, too, at what the library asks of others.
#
#     launch/exports.sh LIBHISA.SO LIBHISA.A
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
shared=$1
static=$2

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
headers=("$here/include/hisa/hisa.h" "$here/include/hisa/hisa_version.h")
all=("$here"/include/hisa/*.h)
# A build without MPI or NCCL: neither its header nor its functions are part of it.
for part in mpi nccl; do
    if nm "$static" 2>/dev/null | grep " hisa_comm_create_$part\$" >/dev/null; then
        headers+=("$here/include/hisa/hisa_$part.h")
    fi
done
functions() {
    cat "$@" | tr '\n' ' ' | grep -oE 'HISA_API [a-z][^(;#]*\(' | grep -oE 'hisa_\w+\($' | tr -d '(' | sort
}
functions "${headers[@]}" >"$work/headers"
sed -n 's/^ *\(hisa_[a-z0-9_]*\);$/\1/p' "$here/src/hisa.map" | sort >"$work/map"
nm -D --defined-only "$shared" | awk '$2 != "A" {sub("@.*", "", $3); print $3}' | sort >"$work/library"

failed=0
compare() { # WHAT FILE FILE
    if ! diff "$2" "$3" >"$work/diff"; then
        echo "$1 differ:" && grep '^[<>]' "$work/diff"
        failed=1
    fi
}
[ -s "$work/headers" ] || { echo "no HISA_API function found in include/hisa" && exit 1; }
compare "headers (<) and exports of the shared library (>)" "$work/headers" "$work/library"
functions "${all[@]}" >"$work/all"
compare "headers (<) and src/hisa.map (>)" "$work/all" "$work/map"

# The library never prints, never ends the process, and reads no environment but where an index on CUDA chooses its scorer
# (HISA_CUDA_SCORER) and where NCCL is about to read its own (launch/lint.sh holds the source to that).
never='(v?f?printf|v?dprintf|puts|fputs|putchar|putc|fputc|fwrite|perror|exit|_exit|quick_exit|abort|__assert_fail|getenv|secure_getenv|MPI_Abort|setenv)'
if nm -A -u "$static" 2>/dev/null | awk '{parts = split($1, part, ":"); print part[parts - 1], $NF}' | sort -u |
    grep -vxE '(device|same_gpu)\.c\.o getenv' | grep -E " ((__)?$never(_chk)?|std(out|err))\$"; then
    echo "is asked for by the library, which must not print, exit, abort or read the environment"
    failed=1
fi
exit $failed
