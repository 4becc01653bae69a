#!/usr/bin/env bash
# Installs a build of hisa and uses it as a stranger would: by CMake and by pkg-config, shared and static, from C and C++.
#
#     launch/consumer.sh BUILD WORK     BUILD: a configured and built tree; WORK: a folder, emptied first
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
build=$1
work=$2
source=$here/tests/consumer

rm -rf "$work"
cmake --install "$build" --prefix "$work/prefix" >/dev/null
pc=$(dirname "$(find "$work/prefix" -name hisa.pc)")
export PKG_CONFIG_PATH=$pc

for languages in "C;CXX" CXX; do
    tree=$work/cmake-${languages//;/-}
    cmake -S "$source" -B "$tree" -G Ninja -DCMAKE_PREFIX_PATH="$work/prefix" -DCONSUMER_LANGUAGES="$languages" >/dev/null
    cmake --build "$tree"
    for program in "$tree"/c*_hisa "$tree"/c*_hisa_static; do
        "$program"
    done
done

# pkg-config answers in words quoted for a shell.
declare -a headers shared static
eval "headers=($(pkg-config --cflags hisa))"
eval "shared=($(pkg-config --libs hisa))"
# The static library is named by its file: -lhisa would take the shared one beside it.
eval "static=($(pkg-config --static --libs hisa | sed 's/-lhisa\b/-l:libhisa.a/'))"
compile=(-Wall -Wextra -Wpedantic -Werror "${headers[@]}")
library=$(dirname "$pc")
run="$work/pkg-config"
mkdir -p "$run"
cc -std=c11 "${compile[@]}" "$source/main.c" -o "$run/c_hisa" "${shared[@]}" "-Wl,-rpath,$library"
c++ -std=c++17 "${compile[@]}" "$source/main.cc" -o "$run/cc_hisa" "${shared[@]}" "-Wl,-rpath,$library"
cc -std=c11 "${compile[@]}" "$source/main.c" -o "$run/c_hisa_static" "${static[@]}"
c++ -std=c++17 "${compile[@]}" "$source/main.cc" -o "$run/cc_hisa_static" "${static[@]}"
for program in "$run"/*; do
    "$program"
done
for program in "$run"/*_static "$work"/cmake-*/*_static; do
    if ldd "$program" | grep libhisa >/dev/null; then
        echo "$program asks for the shared library" >&2
        exit 1
    fi
done
