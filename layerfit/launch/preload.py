"""Everything heavy that a run imports. A fork server loads it once; no tensor is computed here."""

import gc
import logging
import threading

logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)  # peft imports it; it reports kernels that nobody uses

import deepspeed  # noqa: E402, F401
import lm_eval  # noqa: E402
import lm_eval.evaluator  # noqa: E402
import lm_eval.models.huggingface  # noqa: E402
import lm_eval.tasks  # noqa: E402, F401
import peft  # noqa: E402, F401
import torch  # noqa: E402, F401
import transformers.models.auto  # noqa: E402
import transformers.models.llama.modeling_llama  # noqa: E402, F401
from tqdm import tqdm  # noqa: E402

import layerfit.engines.zero  # noqa: E402
import layerfit.run.worker  # noqa: E402, F401

tqdm.set_lock(threading.RLock())  # its own is a semaphore of the system, which a process that ends at once would leak

gc.collect()
gc.freeze()  # a run's collections then pass over what is here, a million objects: 5% of a small run's time
