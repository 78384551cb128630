#!/bin/sh
# Everything that needs one CUDA device, in under ten minutes: the tests that other machines skip, then the loop, saving
# and memory on the device as a table. From the root of the repository, in an environment with lazyengine[test].
# Ends with the code of the tests; PYTHON names another interpreter, OUT a folder for what is written (gpu_report).
set -u
python=${PYTHON:-python}
out=${OUT:-gpu_report}
mkdir -p "$out"
"$python" -c 'import torch, sys; sys.exit(0 if torch.cuda.is_available() else "gpu.sh: torch finds no CUDA device")' || exit 2
"$python" - <<'END' | tee "$out/device.txt"
import torch
device = torch.cuda.get_device_properties(0)
print(f"{device.name}, {device.total_memory / 2**30:.0f} GiB, torch {torch.__version__}, CUDA {torch.version.cuda}")
END
timeout 300 "$python" -m pytest -q -m gpu -p no:cacheprovider tests > "$out/tests.txt" 2>&1
code=$?
tail -n 15 "$out/tests.txt"
timeout 240 "$python" -m tests.benchmarks --quick --only gpu --json "$out/figures.json" | tee "$out/table.txt"
timeout 60 "$python" -m lazyengine profile projects/digits/config.py --output "$out/profile" | tee "$out/profile.txt"
exit $code
