#!/usr/bin/env bash
# The extension under sanitizers: builds it anew in a folder of its own and runs the tests of the engine with it.
#
#   tests/sanitize.sh          AddressSanitizer and UndefinedBehaviorSanitizer
#   tests/sanitize.sh thread   ThreadSanitizer
#
# More arguments go to pytest instead of tests/engine. It wants GCC or Clang with their sanitizer runtimes, and an
# environment with the test dependencies (pip install -e ".[dev]"). llama.cpp itself is not instrumented: what is found
# lies in native/, or in what native/ hands over.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

kind=address,undefined library=libasan.so
if [ "${1:-}" = thread ]; then kind=thread library=libtsan.so; shift; fi

work=$(mktemp -d)
# reports go to files: pytest keeps what a test that dies has written
trap 'cat "$work"/report.* 2>/dev/null || true; rm -rf "$work"' EXIT

echo "== build with -fsanitize=$kind"
flags="-fsanitize=$kind -fno-omit-frame-pointer -fno-sanitize-recover=undefined -g -O1"
CXXFLAGS="$flags" LDFLAGS="-fsanitize=$kind" python -m pip wheel --quiet --no-deps --wheel-dir "$work" .
python -m zipfile -e "$work"/*.whl "$work/tree"
# the tests go along: started here, Python would take the package, and the extension, of the source tree
cp -r tests bench pyproject.toml "$work/tree"
cd "$work/tree"

echo "== tests of the engine"
# Python and its extensions leave memory to the end of the process, and libllama throws through frames of its own
# a refused allocation is a test's subject, and no error
export ASAN_OPTIONS="detect_leaks=0:allocator_may_return_null=1:log_path=$work/report"
export UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1:log_path=$work/report"
export TSAN_OPTIONS="ignore_noninstrumented_modules=1:halt_on_error=1:log_path=$work/report"
export PYTHONPATH="$work/tree" PYTHONMALLOC=malloc PYTHONDONTWRITEBYTECODE=1
compiler=${CXX:-c++}
preload="$("$compiler" -print-file-name="$library") $("$compiler" -print-file-name=libstdc++.so)"
# peak memory is the sanitizer's own here
LD_PRELOAD="$preload" python -m pytest -q -p no:cacheprovider --ignore=tests/engine/test_memory.py "${@:-tests/engine}"
