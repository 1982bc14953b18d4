"""The shape of a model, with the field names of Hugging Face configs."""

from hashlib import sha256

from pydantic import BaseModel, ConfigDict, Field, model_validator

from memfloor.errors import UsageError

# Far beyond any model, and so few that every count of bytes is one of 64 bits.
MOST_DEEP, MOST_WIDE, MOST_WORDS = 2**12, 2**20, 2**24
KNOWN_MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")


class ModelSpec(BaseModel):
    """Describe a dense decoder-only transformer, with the field names of Hugging Face configs.

    Mixture-of-experts and encoder-decoder models are left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    name: str
    model_type: str
    hidden_size: int = Field(gt=0, le=MOST_WIDE)
    intermediate_size: int = Field(gt=0, le=MOST_WIDE)
    num_hidden_layers: int = Field(gt=0, le=MOST_DEEP)
    num_attention_heads: int = Field(gt=0, le=MOST_DEEP)
    num_key_value_heads: int = Field(gt=0, le=MOST_DEEP)
    head_dim: int = Field(gt=0, le=MOST_DEEP)
    vocab_size: int = Field(gt=0, le=MOST_WORDS)
    tie_word_embeddings: bool
    max_position_embeddings: int = Field(gt=0)
    rms_norm_eps: float = Field(gt=0)
    rope_theta: float = Field(gt=0)
    rope_scaling: dict[str, float | str] | None = None
    qkv_bias: bool = False
    attention_output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    sliding_window: int | None = Field(default=None, gt=0)
    num_sliding_layers: int = Field(default=0, ge=0)
    source: str = ""

    def __hash__(self) -> int:
        # One field is a dictionary, which has no hash; equal shapes have equal names and sizes.
        return hash((self.name, self.hidden_size, self.num_hidden_layers))

    @property
    def fingerprint(self) -> str:
        """Return eight hexadecimal digits that differ between two models of one name but not of one shape."""
        shape = self.model_dump_json(exclude={"name", "source"})
        return sha256(shape.encode()).hexdigest()[:8]

    def window_of(self, layer: int) -> int:
        """Return how many slots a token sees in a decoder block, its own included; 0 is all."""
        # The last blocks slide, as in transformers' `max_window_layers`.
        slides = layer >= self.num_hidden_layers - self.num_sliding_layers
        return self.sliding_window or 0 if slides else 0

    @model_validator(mode="after")
    def _check(self) -> "ModelSpec":
        if self.model_type not in KNOWN_MODEL_TYPES:
            raise ValueError(f"unknown model_type {self.model_type!r}; known: {', '.join(KNOWN_MODEL_TYPES)}")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        if self.num_sliding_layers > self.num_hidden_layers:
            raise ValueError(f"{self.num_sliding_layers} sliding layers are more than all {self.num_hidden_layers}")
        return self


def check_context(spec: ModelSpec, context_len: int) -> None:
    """Refuse a context the model was not made for.

    Raises:
        UsageError: The context is beyond `max_position_embeddings`.
    """
    if context_len > spec.max_position_embeddings:
        raise UsageError(
            f"context {context_len} is beyond {spec.name}'s {spec.max_position_embeddings} positions; "
            f"allowed: 1 to {spec.max_position_embeddings}"
        )
