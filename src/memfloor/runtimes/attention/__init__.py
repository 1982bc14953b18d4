"""Attention backends, one file each: decode attention of all layers, each over a KV buffer pair of its own.

To add one, write its file and add a line here.
"""

from memfloor.runtimes.attention.engine import EngineAttention
from memfloor.runtimes.attention.flash_attention_2 import FlashAttention2
from memfloor.runtimes.attention.flash_attention_3 import FlashAttention3
from memfloor.runtimes.attention.flashinfer import FlashInfer
from memfloor.runtimes.attention.flex import Flex
from memfloor.runtimes.attention.sdpa import Sdpa
from memfloor.runtimes.protocol import System

BACKENDS: dict[str, type[System]] = {
    backend.name: backend
    for backend in (
        Sdpa,
        FlashAttention2,
        FlashAttention3,
        FlashInfer,
        Flex,
        EngineAttention,
    )
}
