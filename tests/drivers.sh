#!/bin/bash
# The op tests, the golden data and exact rollouts on the two other CPU drivers that Debian 12 has: its own Mesa 22.3 (lavapipe, for
# compatibility) and Chromium's SwiftShader, which lacks nearly everything optional.
#
# usage: tests/drivers.sh BUILD SCRATCH [mesa22 | swiftshader] [STEP...]
#   BUILD     a build folder; SCRATCH keeps the driver and the shader caches between runs (nothing is installed)
#   STEP      a group of tests/kernels, golden, or exact; all of them where none is named
# Prints one line a step, and last "N passed, N failed". Hours on 2 cores: Mesa 22.3 is 5 to 10 times slower than 25.
set -u
build=$(realpath "$1") scratch=$2
shift 2
root=$(realpath "$(dirname "$0")/..")
mkdir -p "$scratch" && scratch=$(realpath "$scratch")
drivers=(mesa22 swiftshader)
case "${1:-}" in mesa22 | swiftshader) drivers=("$1"); shift ;; esac
steps=("$@")
data=$root/tests/data/fixtures
passed=0 failed=0
library=usr/lib/$(dpkg-architecture -qDEB_HOST_MULTIARCH 2>/dev/null || echo x86_64-linux-gnu)

# package NAME VERSION-PATTERN: a Debian package unpacked under $scratch/root.
package() {
    local version
    version=$(apt-cache madison "$1" | awk -v want="$2" '$3 ~ want { print $3; exit }')
    [ -n "$version" ] || { echo "drivers: apt has no $1 $2" >&2; return 1; }
    (cd "$scratch" && { [ -e "$1.$version" ] || { apt-get download -q "$1=$version" >&2 && dpkg -x "$1"_*.deb root &&
        rm -f "$1"_*.deb && touch "$1.$version"; }; })
}

icd() { # NAME LIBRARY
    printf '{"file_format_version": "1.0.0", "ICD": {"library_path": "%s", "api_version": "1.2.0"}}\n' "$2" >"$scratch/$1.json"
    export VK_ICD_FILENAMES=$scratch/$1.json VK_DRIVER_FILES=$scratch/$1.json
}

mesa22() {
    package mesa-vulkan-drivers '^22[.]3' || return 1
    local driver=$scratch/root/$library/libvulkan_lvp.so
    export LD_LIBRARY_PATH=
    if ldd "$driver" | grep -q 'libLLVM-15.*not found'; then
        package libllvm15 '^1:15' || return 1
        LD_LIBRARY_PATH=$scratch/root/$library
    fi
    icd mesa22 "$driver"
    wanted='Mesa 22.3'
}

swiftshader() {
    local driver=/usr/lib/chromium/libvk_swiftshader.so
    if [ ! -e "$driver" ]; then
        package chromium-common . || return 1
        driver=$scratch/root/$driver
    fi
    export LD_LIBRARY_PATH=
    icd swiftshader "$driver"
    wanted=SwiftShader
}

step() { # DRIVER NAME COMMAND...
    local name="$1: $2" log=$scratch/log/$1-${2//[^A-Za-z0-9_-]/_}.log before=$SECONDS rc=0
    shift 2
    timeout --kill-after=20 7200 "$@" >"$log" 2>&1 || rc=$?
    if [ "$rc" = 0 ]; then
        passed=$((passed + 1))
        echo "ok    $name ($((SECONDS - before)) s)"
    else
        failed=$((failed + 1))
        echo "FAIL  $name: exit $rc ($((SECONDS - before)) s)"
        grep -vE '\[ +(RUN|OK)|^ok ' "$log" | tail -n 30 | sed 's/^/      /'
    fi
}

named() { # whether step $1 is asked for
    local s
    [ "${#steps[@]}" = 0 ] && return 0
    for s in "${steps[@]}"; do [ "$s" = "$1" ] && return 0; done
    return 1
}

cases=tables,one_image,two_images,text_only,sft,adamw,grpo # golden's: all but LoRA
groups=$(sed -n "s/^  '\([a-z]*\)',$/\1/p" "$root/tests/kernels/meson.build")
for driver in "${drivers[@]}"; do
    mkdir -p "$scratch/log" "$scratch/cache-$driver"
    export VIREO_CACHE=$scratch/cache-$driver MESA_SHADER_CACHE_DIR=$scratch/cache-$driver
    export VIREO_TEST_DATA=$root/tests/data
    export VIREO_GPU_DEBUG=${VIREO_GPU_DEBUG-poison}
    if ! $driver || ! "$build/vireo" devices | grep -q "$wanted"; then
        failed=$((failed + 1))
        echo "FAIL  $driver: no such device"
        continue
    fi
    for group in $groups; do
        ! named "$group" || step "$driver" "$group" "$build/tests/kernels/kernels" "$group"
    done
    ! named golden || step "$driver" golden "$build/tests/golden" "$data" --only "$cases"
    for model in tiny-qwen2_5_vl tiny-qwen2_5_vl-bf16-sharded; do
        ! named exact || step "$driver" "exact $model" "$build/tests/exact" "$data/$model"
    done
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
