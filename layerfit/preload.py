"""Everything heavy that a run imports. A fork server loads it once; no tensor is computed here."""

import deepspeed  # noqa: F401
import lm_eval
import lm_eval.models.huggingface
import lm_eval.tasks  # noqa: F401
import peft  # noqa: F401
import torch  # noqa: F401
import transformers.models.auto
import transformers.models.llama.modeling_llama  # noqa: F401

import layerfit.engines.zero
import layerfit.worker  # noqa: F401
