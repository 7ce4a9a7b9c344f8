"""Runs the compiled network beside this file: `python run.py INPUTS.npy [OUTPUTS.npy]`, inputs `[N, ...]` float32."""

import json
import os
import sys
from pathlib import Path

folder = Path(__file__).resolve().parent
manifest = json.loads((folder / "manifest.json").read_text())
os.environ.setdefault("TVM_NUM_THREADS", str(manifest["target"]["threads"]))  # read once, when TVM is imported

import numpy as np  # noqa: E402
import tvm  # noqa: E402
from tvm.runtime.vm import VirtualMachine  # noqa: E402

images = np.ascontiguousarray(np.load(sys.argv[1], allow_pickle=False), np.float32)
network = VirtualMachine(tvm.runtime.load_module(str(folder / manifest["library"])), tvm.cpu())["main"]
outputs = np.concatenate([network(tvm.runtime.tensor(images[i : i + 1])).numpy() for i in range(len(images))])
if len(sys.argv) > 2:
    np.save(sys.argv[2], outputs)
else:
    print(outputs)
