#!/bin/sh
# Check that every native engine computes the same bits (check_engines.c; look-up also in plain C), that the parameter search finds the same in
# every form (check_fit.c), and that the area mean is exact (check_area.c): on this processor, again under the address
# and undefined behaviour sanitizers, and, where a cross compiler and QEMU are installed, on an emulated aarch64
# processor with the NEON engine. Exits non-zero on a difference.
#
# Usage: check_kernels.sh [C compiler]
set -eu

here=$(cd "$(dirname "$0")" && pwd)
native="$here/../../fracbnn_pynq/native"
compiler=${1:-${CC:-cc}}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

sources=$(find "$native" -name '*.c' ! -name module.c | sort)

# build OUTPUT COMPILER FLAG...: OUTPUT checks the engines, OUTPUT.fit the parameter search, OUTPUT.area the
# area mean
build() {
    output=$1
    shift
    for check in engines fit area; do
        # shellcheck disable=SC2086 # a list of files
        "$@" -std=c11 -Wall -Wextra -Werror -Wno-psabi -fno-math-errno -ffp-contract=off -o "$output.$check" \
            "$here/check_$check.c" "$here/lookup_portable.c" $sources -lpthread -lm
    done
}

echo "== $compiler"
build "$work/native" "$compiler" -O3
"$work/native.engines"
"$work/native.fit"
"$work/native.area"

echo "== $compiler, sanitizers"
sanitize="-fsanitize=address,undefined -fno-sanitize-recover=all"
# shellcheck disable=SC2086 # two flags
if echo 'int main(void) { return 0; }' | "$compiler" $sanitize -x c -o "$work/probe" - 2>/dev/null; then
    build "$work/sanitized" "$compiler" -O1 -g $sanitize
    # Plans live until the program ends.
    ASAN_OPTIONS=detect_leaks=0 "$work/sanitized.engines"
    "$work/sanitized.fit"
    "$work/sanitized.area"
else
    echo "skipped: $compiler has no sanitizers"
fi

echo "== aarch64"
cross=aarch64-linux-gnu-gcc
qemu=$(command -v qemu-aarch64-static || command -v qemu-aarch64 || true)
if ! command -v "$cross" >/dev/null; then
    echo "skipped: $cross is not installed"
elif [ -z "$qemu" ]; then
    echo "skipped: neither qemu-aarch64-static nor qemu-aarch64 is installed"
else
    build "$work/aarch64" "$cross" -O3 -static
    "$qemu" "$work/aarch64.engines"
    "$qemu" "$work/aarch64.fit"
    "$qemu" "$work/aarch64.area"
fi
