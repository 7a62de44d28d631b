"""One block's forward, walked without numbers: where gradients pass, and which tensors autograd keeps for backward.

After Korthikanti et al., arXiv:2205.05198, section 4.1, which counts a GELU block with dropout that trains whole. Here:
Llama's block (RMSNorm in fp32, SwiGLU, fused attention that keeps no scores), no dropout, and what PyTorch leaves out
where something is frozen: the input of a frozen linear module, and everything below the lowest unit that trains.
BLOOM and GPT-J attend without a fused kernel, and keep their scores.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from layerfit.estimate.shapes import NORMS, Sizes, linear_shapes
from layerfit.methods.base import Insert

ATTENTION: dict[str, tuple[tuple[str, ...], str]] = {
    "llama": (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "self_attn.o_proj"),
    "mistral": (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "self_attn.o_proj"),
    "gptj": (("attn.q_proj", "attn.k_proj", "attn.v_proj"), "attn.out_proj"),
    "bloom": (("self_attention.query_key_value",), "self_attention.dense"),
    "opt": (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "self_attn.out_proj"),
}
"""The linear modules into attention, and the one out of it."""
MLP: dict[str, tuple[tuple[str, ...], str]] = {
    "llama": (("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj"),
    "mistral": (("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj"),
    "gptj": (("mlp.fc_in",), "mlp.fc_out"),
    "bloom": (("mlp.dense_h_to_4h",), "mlp.dense_4h_to_h"),
    "opt": (("fc1",), "fc2"),
}
FP32 = 4


@dataclass(frozen=True)
class Trained:
    """What trains in one block. weights: modules (linear, norms). inserts: adapters, by module; active: which train."""

    weights: frozenset[str] = frozenset()
    inserts: dict[str, Insert] = field(default_factory=dict)
    active: frozenset[str] = frozenset()


@dataclass
class Walk:
    """One block, for sequences of `length` tokens in numbers of `bytes_each`.

    kept: bytes a token, by tensor: what two operators keep is kept once. gradient: whether one has reached this point.
    reached: linear modules whose input needs a gradient. attended: whether one passes attention.
    packed: whether rows hold several examples, kept apart by a mask. sharded: ZeRO-3, whose linear function keeps its
    input also where it is frozen.
    """

    sizes: Sizes
    trained: Trained
    bytes_each: int
    length: int
    gradient: bool
    packed: bool = False
    sharded: bool = False
    kept: dict[str, float] = field(default_factory=dict)
    reached: set[str] = field(default_factory=set)
    attended: bool = False

    def run(self) -> Walk:
        """Walk the block; `gradient` is then that of its output."""
        start, norms = self.gradient, NORMS[self.sizes.kind]
        after = self._norm(norms[0], "x", start)
        attention = self._attention(after, norms[0])
        if len(norms) == 1:  # GPT-J's MLP is beside its attention
            self.gradient = self._mlp(after, norms[0]) or attention or start
            return self
        middle = start or attention
        self.gradient = self._mlp(self._norm(norms[1], "middle", middle), norms[1]) or middle
        return self

    def keep(self, name: str, numbers: float, each: int | None = None) -> None:
        """Keep a tensor of so many numbers a token."""
        self.kept[name] = numbers * (self.bytes_each if each is None else each)

    def norm(self, source: str, *, trains: bool, gradient: bool) -> bool:
        """Keep a norm's tensors; return whether its output needs a gradient.

        RMSNorm computes in fp32, on a copy of its input where that is bf16; LayerNorm keeps mean and deviation.
        """
        width = self.sizes.width
        if self.sizes.llama:
            if gradient:
                self.keep(f"{source} in fp32", width, FP32)
                self.keep(f"{source} deviation", 1, FP32)
            if trains:
                self.keep(f"{source} normalized", width)
        elif gradient or trains:
            self.keep(source, width)
            self.keep(f"{source} moments", 2, FP32)
        return gradient or trains

    def _norm(self, module: str, source: str, gradient: bool) -> bool:
        return self.norm(source, trains=module in self.trained.weights, gradient=gradient)

    def _linear(self, module: str, source: str, gradient: bool) -> bool:
        """Return whether the output needs a gradient."""
        num_out, num_in = linear_shapes(self.sizes)[module]
        trains, insert = module in self.trained.weights, self.trained.inserts.get(module)
        active = module in self.trained.active
        if gradient:
            self.reached.add(module)
        if trains or (self.sharded and gradient):
            self.keep(source, num_in)
        if insert is not None and (active or (self.sharded and gradient)):
            if insert.reads == "input" or insert.dense:
                self.keep(source, num_in)
            elif insert.reads == "output":
                self.keep(f"{module} output", num_out)
            self.keep(f"{module} insert", insert.kept)
        elif insert is not None and gradient:
            self.keep(f"{module} insert", insert.passing)
        if insert is not None and insert.masks and gradient:  # a gradient of the input passes it, none other
            self.keep(f"{module} mask", insert.masks, 1)
        return gradient or trains or active

    def _attention(self, gradient: bool, source: str) -> bool:
        sizes, (into, out) = self.sizes, ATTENTION[self.sizes.kind]
        grads = [self._linear(module, source, gradient) for module in into]
        self.attended = any(grads)
        if self.attended and sizes.kind in ("bloom", "gptj"):
            self._unfused()
        elif self.attended:
            queries, keys = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
            if self.packed:  # with a mask, kept in the dtype of the rest, grouped keys and values are repeated
                keys = queries
                self.keep("mask", self.length)
            for name, numbers in (("q", queries), ("k", keys), ("v", keys), ("attention", queries)):
                self.keep(name, numbers)
            self.keep("log-sum-exp", sizes.heads, FP32)
        return self._linear(out, "attention", self.attended)

    def _unfused(self) -> None:
        """Scores of every pair of tokens, in fp32 and rounded; GPT-J multiplies queries and keys in fp32."""
        sizes, scores = self.sizes, self.sizes.heads * self.length
        each = FP32 if sizes.kind == "gptj" else self.bytes_each
        self.keep("q", sizes.width, each)
        self.keep("k", sizes.width, each)
        self.keep("v", sizes.width)
        self.keep("rotations", 4 * sizes.rotary_dim)  # sines and cosines, of queries and of keys
        self.keep("softmax", scores, FP32)
        if self.bytes_each < FP32:
            self.keep("softmax rounded", scores)

    def _mlp(self, gradient: bool, source: str) -> bool:
        inner, (into, out) = self.sizes.inner, MLP[self.sizes.kind]
        grads = [self._linear(module, source, gradient) for module in into]
        if self.sizes.llama:
            gate, up = grads
            if gate:
                self.keep("gate", inner)
                self.keep("up", inner)
            if up:
                self.keep("silu", inner)
        elif grads[0] and self.sizes.kind == "opt":
            self.keep("product", inner)  # ReLU keeps its output
        elif grads[0]:
            # BLOOM's GELU keeps its input; GPT-J's, of single operators, four tensors.
            self.keep("inner", inner * (4 if self.sizes.kind == "gptj" else 1))
        return self._linear(out, "product", any(grads))
