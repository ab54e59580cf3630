#!/usr/bin/env bash
# quantprobe on a CUDA build of llama-cpp-python, for a machine that has nvcc, cmake and Python but no network.
#
#   bench/gpu.sh pack SDIST.tar.gz OUT_DIR   where the network is: the trimmed source of llama-cpp-python, wheels, models
#   bench/gpu.sh run OUT_DIR                 there: build, check, one table
#
# SDIST.tar.gz is llama-cpp-python's source archive (pip download --no-binary :all: --no-deps llama-cpp-python).
# pack reads:
#   PYTHON_VERSION=3.12      Python of the other machine
#   WHEELS="gguf diskcache"  what its Python lacks; WHEELS=all for everything quantprobe needs (150 MB and more)
#   MODEL=FILE.gguf          a Q4_1 or better SmolLM2, cut in parts of 40 MB so that each can travel by itself
#   SHARED=FOLDER            reference data: golden/ and data/text/wiki.txt
# run reads:
#   CPU=1                    the same road without CUDA, to try it out
#   CUDA_ARCH=native         for example 90
#   JOBS=N                   compilers at once; all cores without it
set -euo pipefail

readonly MAX_MB=60
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() {
    echo "gpu.sh: $*" >&2
    exit 1
}

say() {
    echo "== $* (${SECONDS} s)"
}

# What no build of libllama with CUDA or for the CPU reads; llama.cpp's common library is left out of the build.
trim() {
    local tree=$1 name
    local llama=$tree/vendor/llama.cpp
    for name in models docs tests media benches examples tools pocs app ci conversion gguf-py grammars scripts skills requirements; do
        rm -rf "${llama:?}/$name"
    done
    rm -rf "$tree"/{.git,.github,docs,docker,examples,tests} "$llama"/vendor/cpp-httplib "$llama"/.[a-z]*
    find "$llama/ggml/src" -mindepth 1 -maxdepth 1 -type d -name 'ggml-*' ! -name ggml-cpu ! -name ggml-cuda -exec rm -rf {} +
    sed -i.orig 's/set(LLAMA_BUILD_COMMON ON CACHE/set(LLAMA_BUILD_COMMON OFF CACHE/' "$tree/CMakeLists.txt"
    rm "$tree/CMakeLists.txt.orig"
}

pack() {
    local sdist=$1 out=$2 work tree
    [[ -f $sdist ]] || fail "there is no source archive $sdist"
    mkdir -p "$out/wheels"
    work=$(mktemp -d)
    # the path is wanted now, not when the trap runs
    # shellcheck disable=SC2064
    trap "rm -rf '$work'" EXIT
    tar -xzf "$sdist" -C "$work"
    tree=$(find "$work" -mindepth 1 -maxdepth 1 -type d -name 'llama_cpp_python-*')
    [[ -n $tree ]] || fail "$sdist is not a source archive of llama-cpp-python"
    trim "$tree"
    (($(du -sm "$tree" | cut -f1) < MAX_MB)) || fail "the trimmed tree has $(du -sm "$tree" | cut -f1) MB, the limit is $MAX_MB"
    tar -cJf "$out/llama-cpp-python.tar.xz" -C "$work" "$(basename "$tree")"
    echo "llama-cpp-python: $(du -sm "$tree" | cut -f1) MB of source, $(du -sm "$out/llama-cpp-python.tar.xz" | cut -f1) MB packed"
    pack_wheels "$out/wheels"
    if [[ -n ${MODEL:-} ]]; then
        rm -f "$out"/model.part-*
        split -b 40M "$MODEL" "$out/model.part-"
        (cd "$out" && cat model.part-* | sha256sum | cut -d' ' -f1 >model.sha256)
    fi
    if [[ -n ${SHARED:-} ]]; then
        mkdir -p "$out/shared/golden" "$out/shared/data/text"
        cp -R "$SHARED/golden/tiny" "$SHARED/golden/smollm2" "$out/shared/golden/"
        cp "$SHARED/data/text/wiki.txt" "$out/shared/data/text/"
        chmod -R u+w "$out/shared"
    fi
    du -sh "$out"/*
}

pack_wheels() {
    local -a wanted options
    read -ra wanted <<<"${WHEELS:-gguf diskcache}"
    options=(--only-binary=:all: --python-version "${PYTHON_VERSION:-3.12}" --implementation cp)
    for libc in 2_17 2_27 2_28 2_34; do
        options+=(--platform "manylinux_${libc}_x86_64")
    done
    options+=(--platform manylinux2014_x86_64)
    if [[ ${WHEELS:-} == all ]]; then
        wanted=(gguf diskcache numpy numba scipy click rich matplotlib jinja2 psutil nanobind scikit-build-core setuptools)
    else
        options+=(--no-deps)
    fi
    python3 -m pip download --quiet "${options[@]}" --dest "$1" "${wanted[@]}"
}

run() {
    local out work
    out=$(cd "$1" && pwd)
    [[ -f $out/llama-cpp-python.tar.xz ]] || fail "$out has no llama-cpp-python.tar.xz; make it with: bench/gpu.sh pack"
    for tool in python3 cmake c++; do
        command -v "$tool" >/dev/null || fail "this machine has no $tool"
    done
    [[ -n ${CPU:-} ]] || command -v nvcc >/dev/null || fail "this machine has no nvcc; CPU=1 tries the road without CUDA"
    work=$(mktemp -d)
    # shellcheck disable=SC2064
    trap "rm -rf '$work'" EXIT
    # a folder of packages, not a virtual environment: python3 may be one itself, whose packages another would not see
    export PYTHONPATH=$work/site CMAKE_BUILD_PARALLEL_LEVEL=${JOBS:-$(nproc)} PIP_DISABLE_PIP_VERSION_CHECK=1
    if compgen -G "$out/wheels/*.whl" >/dev/null; then
        install "$work/site" "$out"/wheels/*.whl
    fi
    build_llama "$out" "$work"
    say "quantprobe's extension"
    build "$work/built" "$here"
    install "$work/site" "$work"/built/*.whl
    join_model "$out" "$work"
    say "checks"
    cd "$work" && python3 "$here/bench/gpu_check.py" --shared "$out/shared" --model "$work/model.gguf" --work "$work" ${CPU:+--cpu}
    say "done"
}

install() {
    local site=$1
    shift
    python3 -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$site" "$@"
}

build() {
    python3 -m pip wheel --quiet --no-index --no-deps --no-build-isolation --wheel-dir "$1" "$2"
}

build_llama() {
    local out=$1 work=$2
    local -a options=(-DLLAVA_BUILD=OFF -DGGML_NATIVE=ON -DLLAMA_BUILD_IS_DEV=OFF)
    if [[ -n ${CPU:-} ]]; then
        options+=(-DGGML_CUDA=OFF)
    else
        options+=(-DGGML_CUDA=ON "-DCMAKE_CUDA_ARCHITECTURES=${CUDA_ARCH:-native}")
        options+=(-DGGML_CUDA_FA_QUANTS=f16-f16 -DGGML_CUDA_NCCL=OFF)
    fi
    tar -xJf "$out/llama-cpp-python.tar.xz" -C "$work"
    say "llama-cpp-python: ${options[*]}"
    CMAKE_ARGS="${options[*]}" build "$work/built" "$(echo "$work"/llama_cpp_python-*)"
    say "llama-cpp-python is built"
}

join_model() {
    local out=$1 work=$2
    compgen -G "$out/model.part-*" >/dev/null || return 0
    cat "$out"/model.part-* >"$work/model.gguf"
    [[ $(sha256sum <"$work/model.gguf" | cut -d' ' -f1) == $(cat "$out/model.sha256") ]] || fail "a part of the model is missing or damaged"
}

case ${1:-} in
    pack)
        [[ $# == 3 ]] || fail "usage: bench/gpu.sh pack SDIST.tar.gz OUT_DIR"
        pack "$2" "$3"
        ;;
    run)
        [[ $# == 2 ]] || fail "usage: bench/gpu.sh run OUT_DIR"
        run "$2"
        ;;
    *) fail "usage: bench/gpu.sh pack SDIST.tar.gz OUT_DIR, or bench/gpu.sh run OUT_DIR" ;;
esac
