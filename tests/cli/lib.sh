#!/usr/bin/env bash
# What the scripts of this folder share. Sourced with: --hisa PATH [--mpirun PATH] [--keys FILE --queries FILE] [--full] [--few]
# [--seed N]. Leaves HISA, MPIRUN (empty without MPI), TRACE_KEYS, TRACE_QUERIES, FULL, FEW, SEED, and stands in a new folder
# that goes when the script ends.
# shellcheck shell=bash disable=SC2034 # the scripts use what is set here
set -u

HISA="" MPIRUN="" TRACE_KEYS="" TRACE_QUERIES="" FULL=no FEW=no SEED=$(date +%s)
while [ $# -gt 0 ]; do
    case $1 in
    --hisa) HISA=$(realpath "$2") && shift ;;
    --mpirun) MPIRUN=$(realpath "$2") && shift ;;
    --keys) TRACE_KEYS=$(realpath "$2") && shift ;;
    --queries) TRACE_QUERIES=$(realpath "$2") && shift ;;
    --seed) SEED=$2 && shift ;;
    --full) FULL=yes ;;
    --few) FEW=yes ;;
    *) echo "unknown argument '$1'" >&2 && exit 2 ;;
    esac
    shift
done
[ -x "$HISA" ] || { echo "--hisa PATH is missing" >&2 && exit 2; }

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
cd "$WORK" || exit 2

# A hang is a failure of its own, and quicker than CTest's limit.
LIMIT=${HISA_TEST_LIMIT:-120}
FAILURES=0
CHECKS=0

fail() {
    FAILURES=$((FAILURES + 1))
    echo "FAIL: $*"
}

# passes COMMAND...: runs it and shows what it said if it fails.
passes() {
    CHECKS=$((CHECKS + 1))
    if ! timeout "$LIMIT" "$@" </dev/null >passes.out 2>passes.err; then
        fail "$*"
        head -n 20 passes.out passes.err
        return 1
    fi
}

# passes_on N COMMAND...: the same on N ranks; without MPI, on one.
passes_on() {
    local n=$1
    shift
    if [ -n "$MPIRUN" ]; then
        passes "$MPIRUN" -n "$n" "$@"
    else
        passes "$@"
    fi
}

finish() {
    echo "$CHECKS checks, $FAILURES failures"
    [ "$CHECKS" -gt 0 ] && [ "$FAILURES" -eq 0 ]
    exit
}
