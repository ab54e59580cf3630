#!/usr/bin/env bash
# The extension under sanitizers: builds it anew in a folder of its own and runs the tests of the engine with it.
#
#   tests/sanitize.sh          AddressSanitizer and UndefinedBehaviorSanitizer
#   tests/sanitize.sh thread   ThreadSanitizer
#
# More arguments go to pytest instead of tests/engine. It wants GCC or Clang with their sanitizer runtimes, and an environment with the test
# dependencies (pip install -e ".[dev]"). llama.cpp itself is not instrumented: what is found lies in native/, or in what
# native/ hands over. ThreadSanitizer cannot see the barriers of an OpenMP library that is not instrumented either, so
# reports from within libgomp, libggml and libllama are suppressed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

kind=address,undefined library=libasan.so
if [ "${1:-}" = thread ]; then kind=thread library=libtsan.so; shift; fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo "== build with -fsanitize=$kind"
flags="-fsanitize=$kind -fno-omit-frame-pointer -fno-sanitize-recover=undefined -g -O1"
CXXFLAGS="$flags" LDFLAGS="-fsanitize=$kind" python -m pip wheel --quiet --no-deps --wheel-dir "$work" .
python -m zipfile -e "$work"/*.whl "$work/tree"

echo "== tests of the engine"
printf 'called_from_lib:libgomp.so\nrace:libgomp.so\nrace:libggml\nrace:libllama\nrace:_umath\nrace:python\n' >"$work/tsan.supp"
# Python and its extensions leave memory to the end of the process, and libllama throws through frames of its own
export ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0:alloc_dealloc_mismatch=1
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
export TSAN_OPTIONS="suppressions=$work/tsan.supp ignore_noninstrumented_modules=1 halt_on_error=1"
export PYTHONPATH="$work/tree" PYTHONMALLOC=malloc
compiler=${CXX:-c++}
preload="$("$compiler" -print-file-name="$library") $("$compiler" -print-file-name=libstdc++.so)"
LD_PRELOAD="$preload" python -m pytest -q -p no:cacheprovider "${@:-tests/engine}"
