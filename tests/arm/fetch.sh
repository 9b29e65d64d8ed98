#!/usr/bin/env bash
# Fetches what the ARM suite runs on: Debian's Python for ARM64 and LiteRT's wheels for it.
#
#   tests/arm/fetch.sh      into build/arm, where `pytest -n 0 tests/arm` looks for it
#
# The newest LiteRT of the suite is the one installed beside `python3`; `test_arm.py` has the list.
# Debian packages are unpacked into build/arm/debian by a package database of its own: nothing of the
# machine changes. Needs apt-get, dpkg and pip; the tests themselves need `qemu-aarch64-static`
# (apt-get install qemu-user-static). What is there already is not fetched again.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=$PWD/build/arm
current=$(python3 -c 'from importlib.metadata import version; print(version("ai-edge-litert"))')

python=$(apt-cache show python3-minimal | sed -n 's/^Version: \(3\.[0-9]*\).*/\1/p' | head -1)
if [ ! -e "$folder/debian/usr/bin/python$python" ]; then
  mkdir -p "$folder"/{debian,debs,apt/lists/partial,apt/cache/archives/partial}
  : >"$folder/apt/status"
  options=(-qq -o APT::Architecture=arm64 -o APT::Architectures=arm64
    -o Dir::State::lists="$folder/apt/lists" -o Dir::State::status="$folder/apt/status"
    -o Dir::Cache="$folder/apt/cache" -o APT::Sandbox::User=root)
  apt-get "${options[@]}" update
  (cd "$folder/debs" && apt-get "${options[@]}" download \
    libc6 libgcc-s1 libstdc++6 zlib1g libexpat1 libffi8 libbz2-1.0 liblzma5 \
    "libpython$python-minimal" "libpython$python-stdlib" "python$python-minimal")
  for package in "$folder"/debs/*.deb; do dpkg -x "$package" "$folder/debian"; done
  rm -r "$folder/debs" "$folder/apt"
fi

wheels() {  # FOLDER PACKAGE...
  python3 -m pip install -qq --no-deps --only-binary=:all: --python-version "$python" \
    --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 \
    --platform manylinux_2_27_aarch64 --platform manylinux_2_28_aarch64 \
    --target "$1.part" "${@:2}"
  mv "$1.part" "$1"
}
[ -e "$folder/numpy" ] || wheels "$folder/numpy" numpy
for version in "$current" 2.1.2 1.4.0 1.2.0; do
  [ -e "$folder/litert-$version" ] || wheels "$folder/litert-$version" "ai-edge-litert==$version"
done
ln -sfn "python$python" "$folder/debian/usr/bin/python3"
