#!/usr/bin/env bash
# What there is to know of a GPU, in under four minutes: `gdd probe`, the benchmark of an iteration, the tests.
#
#     benchmarks/gpu.sh FOLDER [SETTING]
#
# Everything is printed as it comes and left in FOLDER; what fails does not keep the rest from running. With
# GDD_DEVICE=cpu it runs on the CPU, with a small setting such as `digits`.
set -uo pipefail
out=$(realpath -m "${1:?say where the tables go}")
setting=${2:-cifar10-uncond}
export GDD_DEVICE=${GDD_DEVICE:-cuda}
[ "$GDD_DEVICE" = cpu ] && marker=slow slower=8 || marker=gpu slower=1
root=$(realpath "$(dirname "$0")/..")
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
mkdir -p "$out" && cd "$out" || exit 1
failed=0

step() { # NAME SECONDS COMMAND...
  local name=$1 seconds=$2
  shift 2
  echo "== $name ($(date +%T))"
  timeout --kill-after=10 $((slower * seconds)) "$@" 2>&1 | tee "$out/$name.txt"
  local status=${PIPESTATUS[0]}
  [ "$status" = 0 ] || { failed=1; echo "== $name ended with status $status" | tee -a "$out/$name.txt"; }
}

step probe 110 python -m gdd --config "$root/config" probe "$setting" --seconds 25
batch=$([ "$GDD_DEVICE" = cpu ] && echo 8 || echo 64)
step iteration 60 python "$root/benchmarks/iteration.py" --setting "$setting" --device "$GDD_DEVICE" \
  --batch "$batch" --seconds 35 --unchecked
cd "$root" && step tests 65 python -m pytest -q -n 0 -p no:cacheprovider -m "$marker" tests/gpu
echo "== done ($(date +%T)): $out"
exit $failed
