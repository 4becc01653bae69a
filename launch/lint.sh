#!/usr/bin/env bash
# Static checks: format, clang-tidy, cppcheck, shellcheck, and rules of this project that a script can check.
#
#     launch/lint.sh [BUILD]     BUILD: a built tree (default: build/lint, which is then made with clang)
#
# Prints one line a check and what it found; the exit status is 0 if all are clean.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
jobs=$(nproc)

build=${1:-}
if [ -z "$build" ]; then
    build=$root/build/lint
    compiler=$(command -v clang-14 || command -v clang)
    cmake -S . -B "$build" -G Ninja -DCMAKE_C_COMPILER="$compiler" >/dev/null
    cmake --build "$build" >/dev/null
fi

if [ ! -e "$build/compile_commands.json" ] || [ ! -e "$build/libhisa.so" ]; then
    echo "lint: $build is not a built tree" >&2
    exit 1
fi

mapfile -t sources < <(find comm include src tests -name '*.[ch]' -o -name '*.cc' | sort)
mapfile -t units < <(find comm src tests -name '*.c' -not -path 'tests/consumer/*' | sort)
mapfile -t scripts < <(grep -rlE '^#!.*\b(ba)?sh\b' .ci launch tests | sort)
tidy=$(command -v clang-tidy-14 || command -v clang-tidy)

check_format() {
    if ! command -v clang-format-14 >/dev/null; then
        echo "skipped: no clang-format-14 on this machine"
        return 0
    fi
    local source failed=0
    for source in "${sources[@]}"; do
        if ! clang-format-14 "$source" | cmp -s - "$source"; then
            echo "clang-format-14 -i $source"
            failed=1
        fi
    done
    return "$failed"
}

check_tidy() {
    # Only files that this build compiles: the others have no flags to be read with.
    local unit
    for unit in "${units[@]}"; do
        if grep -qF "\"file\": \"$root/$unit\"" "$build/compile_commands.json"; then
            printf '%s\0' "$unit"
        fi
    done | xargs -0 -r -n 1 -P "$jobs" "$tidy" -p "$build" --quiet 2>&1 | { grep -vE '^[0-9]+ warnings? generated' || true; }
}

# readdirCalled: readdir_r is deprecated, and each test program reads a folder in one thread.
check_cppcheck() {
    cppcheck --project="$build/compile_commands.json" --std=c11 --enable=warning,performance,portability \
        --inline-suppr --suppress=missingIncludeSystem --suppress=readdirCalled --library=posix --error-exitcode=1 --quiet -j "$jobs"
}

# SC2317: what is called by a trap or by a name in a variable looks unreachable to it.
check_shell() { shellcheck --exclude=SC2317 "${scripts[@]}"; }

check_python() {
    # Syntax only; nothing is written beside the scripts.
    find launch tests -name '*.py' -exec python3 -c \
        'import ast, sys; [ast.parse(open(name).read(), name) for name in sys.argv[1:]]' {} +
}

# A file has one job: none over 700 lines.
check_length() { wc -l "${sources[@]}" "${scripts[@]}" | awk '$1 > 700 && $2 != "total" {print; long = 1} END {exit long}'; }

check_exports() { launch/exports.sh "$build/libhisa.so" "$build/libhisa.a"; }

# Each public header compiles alone, in C11 and in C++17, with both compilers.
check_headers() {
    local header include compiler mpi_flags
    # Debian's mpicc knows where mpi.h is; the flags are its own.
    read -r -a mpi_flags <<<"$(mpicc --showme:compile 2>/dev/null | sed 's/-I/-isystem /g' || true)"
    # CMake knows where nccl.h and what it includes are, if this build has them.
    local nccl cuda
    nccl=$(sed -n 's/^NCCL_INCLUDE_DIR:[^=]*=//p' "$build/CMakeCache.txt")
    cuda=$(sed -n 's/^NCCL_CUDA_INCLUDE_DIR:[^=]*=//p' "$build/CMakeCache.txt")
    for header in include/hisa/*.h; do
        if [ "$header" = include/hisa/hisa_nccl.h ]; then
            [ -e "$nccl/nccl.h" ] || continue
            mpi_flags=(-isystem "$nccl" -isystem "$cuda")
        fi
        # A declaration after it, as a file with macros alone is none in ISO C.
        include=$(printf '#include <hisa/%s>\nextern int declared;' "$(basename "$header")")
        for compiler in gcc "$(command -v clang-14 || command -v clang)"; do
            echo "$include" | "$compiler" -x c -std=c11 -Wall -Wextra -Wpedantic -Wconversion -Werror -Iinclude \
                "${mpi_flags[@]}" -fsyntax-only -
            echo "$include" | "$compiler" -x c++ -std=c++17 -Wall -Wextra -Wpedantic -Wconversion -Werror -Iinclude \
                "${mpi_flags[@]}" -fsyntax-only -
        done
    done
}

# finds_none WHAT GREP-ARGUMENTS...: fails where grep finds something.
finds_none() {
    local what=$1
    shift
    if grep "$@"; then
        echo "$what"
        return 1
    fi
}

check_rules() {
    local files
    finds_none "hisa.h must include no vendor's header" -nE '#include <(mpi|nccl|cuda)' include/hisa/hisa.h || return 1
    # But for two places. As an index is created: which scorer, for tests and comparisons. As a communicator is: what NCCL
    # reads there, to say beforehand what it will refuse.
    if grep -rnwE '(secure_)?getenv' comm src/base src/layout src/index src/select src/backend |
        grep -vE '^src/backend/cuda/device\.c:.*\<getenv\(HISA_CUDA_SCORER_VARIABLE\)' |
        grep -vE '^comm/same_gpu\.c:.*\<getenv\("NCCL_(HOSTID|MULTI_RANK_GPU_ENABLE)"\)'; then
        echo "library code must not read the environment"
        return 1
    fi
    finds_none "comm must know nothing of attention" -rnE '#include "(index|select|backend|layout|io|oracle|cli)/' comm || return 1
    finds_none "backends must not know the communicators" -rnE '#include "comm/' src/backend || return 1
    finds_none "the oracle must not know the backends" -rnE '#include "(backend|select|index)/' src/oracle || return 1
    files=$(grep -rlE '#include [<"]mpi\.h' comm src || true)
    if [ "$(wc -w <<<"$files")" -gt 1 ]; then
        echo "more than one file includes mpi.h: $files"
        return 1
    fi
    files=$(grep -rlE '#include [<"](hisa/hisa_)?nccl\.h' comm src/base src/layout src/index src/select src/backend || true)
    if [ "$(wc -w <<<"$files")" -gt 1 ]; then
        echo "more than one file of the library includes nccl.h: $files"
        return 1
    fi
}

# The first program of the README is the one that the consumer test builds and runs; the lines of the second are in the one
# that it builds with NCCL.
check_readme() {
    awk '/^```c$/ { ++n; on = 1; next } /^```$/ { on = 0 } on && n == 1' README.md | diff - tests/consumer/main.c || return 1
    local line
    awk '/^```c$/ { ++n; on = 1; next } /^```$/ { on = 0 } on && n == 2' README.md | while read -r line; do
        line=${line%%/\**}
        line=${line%"${line##*[![:space:]]}"}
        grep -qF -- "$line" tests/consumer/nccl.c || {
            echo "README, not in tests/consumer/nccl.c: $line"
            return 1
        }
    done
}

failed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for check in format tidy cppcheck shell python length exports headers rules readme; do
    start=$SECONDS
    # In a subshell of its own and outside of any condition, so that set -e holds inside.
    set +e
    (
        set -e
        "check_$check"
    ) >"$log" 2>&1
    status=$?
    set -e
    if [ $status -eq 0 ]; then
        printf '%-9s ok, %d s\n' "$check" $((SECONDS - start))
        cat "$log"
    else
        printf '%-9s FAILED\n' "$check"
        head -n 200 "$log"
        failed=1
    fi
done
exit $failed
