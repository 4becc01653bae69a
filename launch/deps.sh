#!/usr/bin/env bash
# Makes sure that what hisa needs is on this machine. The one list of dependencies; the other scripts call it.
#
#     launch/deps.sh [--no-install] [build|test|lint]
#
# build  to compile the library and the hisa command and to run it under mpirun (the default)
# test   that, and what the test suites need
# lint   that, and what the whole of launch/test.sh needs
#
# What is there already, from whatever source, is left alone; then nothing is installed and no root is needed. What is
# missing is installed by apt-get, as root or with sudo (Debian 12, Ubuntu 24.04). --no-install only names it.
set -euo pipefail

die() {
    echo "deps: $*" >&2
    exit 1
}

install=yes
level=build
for argument in "$@"; do
    case $argument in
    --no-install) install=no ;;
    build | test | lint) level=$argument ;;
    -h | --help)
        sed -n '2,/^set -/{/^set -\|shellcheck/d;s/^# \{0,1\}//;p}' "$0"
        exit 0
        ;;
    *) die "unknown argument '$argument' (see --help)" ;;
    esac
done

has() { command -v "$1" >/dev/null 2>&1; }
has_library() { has pkg-config && pkg-config --exists "$1"; }
has_mpi() { has mpicc && has mpirun; }

has_cmake() {
    local version
    has cmake || return 1
    version=$(cmake --version | sed -n '1s/[^0-9]*//p')
    [ "$(printf '%s\n3.25\n' "$version" | sort -V | head -n 1)" = 3.25 ]
}

# has_compiler COMMAND LANGUAGE: it is there, and so are the headers of the system's library.
has_compiler() {
    has "$1" && printf '#include <stdlib.h>\nint main(void) { return 0; }\n' | "$1" -x "$2" -o /dev/null - 2>/dev/null
}

clang() { if has clang-14; then clang-14 "$@"; else command clang "$@"; fi; }
has_clang() { (has clang-14 || has clang) && has_compiler clang c; }
has_clang_tidy() { has clang-tidy-14 || has clang-tidy; }
has_clang_openmp() {
    has_clang && printf '#include <omp.h>\nint main(void) { return omp_get_max_threads() < 0; }\n' |
        clang -fopenmp=libomp -x c -o /dev/null - 2>/dev/null
}
has_clang_fuzzer() {
    has_clang && printf '%s\n' 'int LLVMFuzzerTestOneInput(const unsigned char *d, unsigned long n);' \
        'int LLVMFuzzerTestOneInput(const unsigned char *d, unsigned long n) { return d == 0 && n > 0; }' |
        clang -fsanitize=fuzzer,address,undefined -x c -o /dev/null - 2>/dev/null
}

# need LEVEL "PACKAGES" "WHY" CHECK...: notes the packages if the level is asked for and the check fails.
need() {
    local at=$1 names=$2 why=$3
    shift 3
    case $level/$at in
    build/test | build/lint | test/lint) return 0 ;;
    esac
    if ! "$@"; then
        packages+=("$names")
        reasons+=("$why")
    fi
}

look() {
    packages=()
    reasons=()
    need build "gcc libc6-dev" "C compiler with OpenMP" has_compiler cc c
    need build "cmake" "configures the build, 3.25 or newer" has_cmake
    need build "ninja-build" "runs the build" has ninja
    need build "pkg-config" "finds cJSON and Check" has pkg-config
    need build "libopenmpi-dev openmpi-bin" "MPI, by which the ranks talk" has_mpi
    need build "libcjson-dev" "cJSON, for the headers of safetensors files" has_library libcjson
    need test "g++" "C++ compiler: the public headers are C++ too" has_compiler c++ c++
    need test "check" "Check, the framework of the tests" has_library check
    # Version 14, as Debian 12 and Ubuntu 24.04 have it: another clang-format formats differently.
    need lint "clang-14" "second compiler" has_clang
    need lint "clang-14 libclang-rt-14-dev" "clang's sanitizer and fuzzer runtimes" has_clang_fuzzer
    need lint "clang-14 libomp-14-dev" "OpenMP for clang" has_clang_openmp
    need lint "clang-tidy-14" "static analysis" has_clang_tidy
    need lint "clang-format-14" "the formatter" has clang-format-14
    need lint "cppcheck" "static analysis" has cppcheck
    need lint "shellcheck" "checks the shell scripts" has shellcheck
    need lint "valgrind" "finds memory errors and leaks" has valgrind
    need lint "python3" "checks the Python scripts" has python3
}

look
if [ ${#packages[@]} -eq 0 ]; then
    exit 0
fi
for i in "${!packages[@]}"; do
    printf 'deps: missing %-27s %s\n' "${packages[i]}" "(${reasons[i]})"
done
if [ $install = no ]; then
    exit 1
fi

has apt-get || die "this is not an apt system: install the above by other means"
if [ "$(id -u)" -eq 0 ]; then
    as_root=(env)
elif has sudo; then
    as_root=(sudo env)
    sudo true || die "sudo was refused: ask an administrator to install ${packages[*]}"
else
    die "neither root nor sudo: ask an administrator to install ${packages[*]}"
fi
apt() {
    "${as_root[@]}" DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 "$@" >"$log" 2>&1
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
echo "deps: running apt-get update, then apt-get install of the above; this takes some minutes"
if ! apt update; then
    echo "deps: apt-get update failed, going on with the lists that are here: $(tail -n 1 "$log")" >&2
fi
names=()
read -r -a split <<<"${packages[*]}"
for name in "${split[@]}"; do
    # A later distribution has no version 14: take its own.
    if [[ $name == *-14* ]] && ! apt-cache show "$name" >/dev/null 2>&1; then
        name=${name/-14/}
    fi
    names+=("$name")
done
if ! apt install -y --no-install-recommends "${names[@]}"; then
    tail -n 20 "$log" >&2
    die "apt-get install failed: ${names[*]}"
fi
hash -r
look
if [ "${packages[*]}" = clang-format-14 ]; then
    echo "deps: there is no clang-format-14 here, the check of the format will be skipped" >&2
elif [ ${#packages[@]} -ne 0 ]; then
    die "still missing after the installation: ${packages[*]} (is this older than Debian 12 and Ubuntu 24.04?)"
fi
echo "deps: installed"
