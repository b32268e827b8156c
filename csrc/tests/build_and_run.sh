#!/bin/sh
# Builds the native tests with sanitizers and runs them: build_and_run.sh [address|thread]
set -eu
cd "$(dirname "$0")"
case "${1:-address}" in
  address) flags="-fsanitize=address,undefined -fno-sanitize-recover=all" ;;
  thread) flags="-fsanitize=thread" ;;
  *) echo "one of address, thread; got $1" >&2; exit 2 ;;
esac
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
sources="../memory.cc ../prepare.cc ../schedule.cc ../attention.cc ../kernels_plain.cc ../kernels_avx2.cc ../kernels_avx512.cc native_test.cc"
for source in $sources; do
  "${CXX:-g++}" -std=c++17 -O1 -g -Wall -Wextra -Wno-psabi -ffp-contract=fast $flags \
    -c "$source" -o "$folder/$(basename "$source" .cc).o"
done
# The tests let allocations fail.
"${CXX:-g++}" $flags -Wl,--wrap=aligned_alloc "$folder"/*.o -pthread -o "$folder/native_test"
"$folder/native_test"
