#!/usr/bin/env bash
# Times .tflite files against each other on an Android phone, by LiteRT's own `benchmark_model`.
#
#   tools/bench_android.sh BENCHMARK_MODEL FILE.tflite... [-- OPTION...]
#
# BENCHMARK_MODEL is the binary for android_arm64 on this computer; the first file is what the
# others are compared with; options go to `benchmark_model` as they are, such as
# `--enable_op_profiling=true`. Files run in turn, ROUNDS times, so that heat and clock speeds
# fall on all of them alike. Times are in microseconds, medians over the rounds.
#
# Settings: THREADS=1, ROUNDS=5, RUNS=50 of each file in a round, CPUS= the mask of the cores to
# run on, in hexadecimal (f0: cores 4 to 7), FOLDER=/data/local/tmp/tfcompress on the phone.
set -euo pipefail
THREADS=${THREADS:-1} ROUNDS=${ROUNDS:-5} RUNS=${RUNS:-50} CPUS=${CPUS:-}
FOLDER=${FOLDER:-/data/local/tmp/tfcompress}

fail() { echo "$*" >&2; exit 1; }
[ $# -ge 2 ] || fail "usage: tools/bench_android.sh BENCHMARK_MODEL FILE.tflite... [-- OPTION...]"
command -v adb >/dev/null || fail "adb is missing: install Android's platform tools."
binary=$1 files=()
shift
while [ $# -gt 0 ] && [ "$1" != -- ]; do files+=("$1"); shift; done
[ $# -eq 0 ] || shift
for file in "$binary" "${files[@]}"; do [ -f "$file" ] || fail "There is no such file: $file"; done
[ "$(adb get-state 2>/dev/null)" = device ] ||
  fail "No phone answers: connect one with USB debugging on, see \`adb devices\`."

adb shell mkdir -p "$FOLDER"
adb push "$binary" "$FOLDER/benchmark_model" >/dev/null
adb shell chmod +x "$FOLDER/benchmark_model"
for place in "${!files[@]}"; do adb push "${files[$place]}" "$FOLDER/$place.tflite" >/dev/null; done

numbers='.*Inference timings in us: Init: ([^,]*), First inference: ([^,]*),.*Inference \(avg\): *(.*)'
times=$(mktemp)
trap 'rm -f "$times"' EXIT
for ((round = 1; round <= ROUNDS; round++)); do
  for place in "${!files[@]}"; do
    output=$(adb shell ${CPUS:+taskset "$CPUS"} "$FOLDER/benchmark_model" \
      --graph="$FOLDER/$place.tflite" --num_threads="$THREADS" --num_runs="$RUNS" "$@" \
      2>&1 </dev/null) || fail "benchmark_model failed on ${files[$place]}: $output"
    line=$(grep -E "$numbers" <<<"$output" | tail -1) ||
      fail "benchmark_model told no times of ${files[$place]}: $output"
    sed -E "s/$numbers/$round $place \1 \2 \3/" <<<"$line" | tr -d '\r' >>"$times"
    case "$*" in *profiling*) echo "$output" ;; esac
  done
done

echo "$(adb shell getprop ro.product.model | tr -d '\r'), $THREADS threads, cores ${CPUS:-any}"
NAMES=$(printf '%s\n' "${files[@]##*/}") awk -v rounds="$ROUNDS" '
  function median(list, n,   i, j, t) {
    for (i = 2; i <= n; i++)
      for (j = i; j > 1 && list[j - 1] > list[j]; j--) {
        t = list[j]; list[j] = list[j - 1]; list[j - 1] = t
      }
    return n % 2 ? list[(n + 1) / 2] : (list[n / 2] + list[n / 2 + 1]) / 2
  }
  { load[$2, $1] = $3; first[$2, $1] = $4; run[$2, $1] = $5; if ($2 + 1 > count) count = $2 + 1 }
  END {
    split(ENVIRON["NAMES"], name, "\n")
    printf "%-32s %10s %10s %10s %8s\n", "file", "load", "first call", "later", "faster"
    for (f = 0; f < count; f++) {
      for (r = 1; r <= rounds; r++) {
        a[r] = load[f, r]; b[r] = first[f, r]; c[r] = run[f, r]; d[r] = run[0, r] / run[f, r]
      }
      printf "%-32s %10.0f %10.0f %10.1f %7.2fx\n", name[f + 1], \
        median(a, rounds), median(b, rounds), median(c, rounds), median(d, rounds)
    }
  }' "$times"
