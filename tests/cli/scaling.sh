#!/usr/bin/env bash
# The sweep over ranks and its page, with small shapes on the CPU: all cases are there, one that fails is told and the rest
# kept, and the lines alone give the page. And the script that holds several GPUs to one.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
ranks=1,2
[ -n "$MPIRUN" ] || ranks=1
sweep=("$HERE/../../launch/gpu-scaling.sh" --backend cpu --out "$PWD/page")

passes "${sweep[@]}" --hisa "$HISA" --ranks $ranks --quick --commit 1a2b
passes python3 -c '
import json, sys
lines = [json.loads(line) for line in open(sys.argv[1])]
ranks = [int(word) for word in sys.argv[2].split(",")]
assert not [d for d in lines if "failed" in d], lines
cases = [d for d in lines if "case" in d]
assert all(d["commit"] == "1a2b" for d in cases)
for p in ranks:
    mine = [d for d in cases if d["ranks"] == p]
    # Of each length: prefill and decode of 1 and 4 rows in two modes; on several ranks 3 and 2 exchanges on 2 stripes, and tiles.
    assert len(mine) == 2 * (6 if p == 1 else 3 * (3 + 2) * 2 + 2), (p, len(mine))
    assert p == 1 or {d["exchange"] for d in mine} == {"owner", "oneshot", "lists"}
    assert p == 1 or [d["ranks"] for d in lines if d.get("measure") == "network"] == [p]' page/scaling-cpu.jsonl $ranks
passes grep -c '^| prefill of 64 queries at 8K' page/scaling-cpu.md
passes grep -c '^### Decode, mode flat' page/scaling-cpu.md
cp page/scaling-cpu.md before.md
passes "${sweep[@]}" --page-only && passes cmp before.md page/scaling-cpu.md

# One case fails on its second length: its first is there, and all others.
cat >half <<'SCRIPT'
#!/usr/bin/env bash
case $* in
*"--rows 4 "*"--mode flat"*)
    "$HISA" "${@/4096,8192/4096}"
    echo "hisa: no luck" >&2
    exit 1
    ;;
esac
exec "$HISA" "$@"
SCRIPT
chmod +x half
export HISA
CHECKS=$((CHECKS + 1))
if "${sweep[@]}" --hisa "$PWD/half" --ranks 1 --quick --only decode >passes.out 2>&1; then
    fail "a sweep with a case that failed says that all is well"
fi
passes grep -c 'decode flat 4 on 1, 8K: hisa: no luck' page/scaling-cpu.md
passes grep -c '| 8K | 1 | 1 |' page/scaling-cpu.md
# Measured again it takes its place, and the page says what each commit measured.
passes "${sweep[@]}" --hisa "$HISA" --ranks 1 --quick --only 'decode flat 4' --append --commit 3c4d
passes grep -c '| 8K | 4 | 1 |' page/scaling-cpu.md
passes grep -c '^- commit .* (mode flat and hisa), commit 3c4d (mode flat)' page/scaling-cpu.md
CHECKS=$((CHECKS + 1))
! grep '^- commit .*(mode' before.md || fail "the page tells modes apart where there is one commit"
CHECKS=$((CHECKS + 1))
! grep 'no luck' page/scaling-cpu.md || fail "the page names a failure that has been made good"

# Ranks that cannot talk are told once, and cost no time for each of their cases.
cat >mute <<'SCRIPT'
#!/usr/bin/env bash
if [ "$1" = info ]; then
    echo "hisa: no word" >&2
    exit 1
fi
exec "$HISA" "$@"
SCRIPT
chmod +x mute
if [ -n "$MPIRUN" ]; then
    CHECKS=$((CHECKS + 1))
    if "${sweep[@]}" --hisa "$PWD/mute" --ranks 1,2 --quick --only 'decode hisa 1' >passes.out 2>&1 ||
        ! grep -q '2 ranks cannot talk' passes.out || grep -q '2 ranks, decode' passes.out; then
        fail "a sweep goes on with ranks that cannot talk"
    fi
    passes grep -c 'network on 2.*hisa: no word' page/scaling-cpu.md
fi

# refused PATTERN ARGUMENT...: the sweep says no, in one line.
refused() {
    local pattern=$1
    shift
    CHECKS=$((CHECKS + 1))
    if "${sweep[@]}" "$@" >passes.out 2>&1 || ! grep -Eq -- "$pattern" passes.out || [ "$(wc -l <passes.out)" -ne 1 ]; then
        fail "$*: $(cat passes.out)"
    fi
}
if [ -n "$MPIRUN" ]; then
    # Two ranks that differ from one are told: the wrapper selects fewer blocks where it is one of several.
    verify=("$HERE/../../launch/gpu-verify.sh" --backend cpu --ranks 2 --tokens 16K --only select)
    passes "${verify[@]}" --hisa "$HISA" && cp passes.out all && passes grep -x '24 passed, 0 failed' all
    cat >half <<'SCRIPT'
#!/usr/bin/env bash
[ -z "${OMPI_COMM_WORLD_RANK:-}" ] || set -- "$@" --top-blocks 40
exec "$HISA" "$@"
SCRIPT
    CHECKS=$((CHECKS + 1))
    if "${verify[@]}" --hisa "$PWD/half" >passes.out 2>&1 || ! grep -qx '14 passed, 10 failed' passes.out; then
        fail "ranks that differ from one go unnoticed: $(tail -n 1 passes.out)"
    fi
fi
refused "unknown argument '--fast'" --fast
refused "'--ranks' needs a value" --ranks
refused "--ranks.*'1,two'" --ranks 1,two
finish
