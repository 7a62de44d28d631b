"""Hold LoRA and LISA to their contract on two GPUs, which this project has never had; NCCL joins them.

DS_ACCELERATOR=cuda PYTHONPATH=. torchrun --nproc-per-node 2 scripts/check_two_gpus.py
"""

import os
import sys

from tests.engines.test_contract import assert_kept
from tests.helpers.contract import watch

device = sys.argv[1] if len(sys.argv) > 1 else "cuda"
expected = {method: watch(method, "torch").losses for method in ("lora", "lisa")}  # on the CPU, one process
for method, engine in [(m, e) for m in expected for e in ("zero0", "zero1", "zero2", "zero3")]:
    report = watch(method, engine, extra=(f"engine.device={device}",))
    assert_kept(report, method)  # frozen to the bit, active moves, state for the active alone
    apart = max(abs(ours - theirs) for ours, theirs in zip(report.losses, expected[method], strict=True))
    assert apart < 1e-3, f"{method} on {engine}: a loss differs from plain torch on the CPU by {apart}"
    if os.environ["RANK"] == "0":
        print(f"{method:<5} {engine}  kept on {os.environ['WORLD_SIZE']} ranks; losses within {apart:.0e}", flush=True)
os._exit(0)  # as a run does: threads of DeepSpeed now and then abort an interpreter that shuts down
