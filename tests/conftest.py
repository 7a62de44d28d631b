import os

os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Before anything imports the Hugging Face libraries: no test needs the network, and hub.offline=true can then be
# asked for in a process where an earlier test has imported them.
os.environ["HF_HUB_OFFLINE"] = "1"

from multiprocessing import forkserver

import pytest
import torch

from layerfit.models.hub import EMBEDDED
from layerfit.models.packed import unpack

for folder in (EMBEDDED / "models" / "layerfit").iterdir():
    unpack(folder)  # tests read the folders themselves, without asking the package for them


@pytest.fixture
def own_server():
    """The fork server that runs come from is begun in this test, with its environment, and ends with it."""
    forkserver._forkserver._stop()
    yield
    forkserver._forkserver._stop()


@pytest.fixture(autouse=True)
def _no_rank_is_left_behind():
    """An engine that a test leaves open would make every process that a later test starts take itself for its rank."""
    yield
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        os.environ.pop(name, None)


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Tiny tensors on two threads are slower, and two test processes on two cores three times slower."""
    torch.set_num_threads(1)
