"""Run Triton kernels in its interpreter, where no GPU is needed; must come before triton is first imported."""

import os

import pytest

os.environ["TRITON_INTERPRET"] = "1"
interpreter = pytest.importorskip("triton.runtime.interpreter")


def _read_scalars_as_numpy_2_4_wants() -> None:
    # Triton 3.6 turns one-element arrays into loop bounds with int(array), which numpy 2.4 refuses.
    patch_tensor = interpreter._patch_lang_tensor

    def patch(tensor, scope):
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patch


_read_scalars_as_numpy_2_4_wants()


@pytest.fixture
def exact_fp8(monkeypatch):
    """Let the interpreter round float32 to fp8 as a GPU does: its own conversion loses carries."""
    import torch
    import triton.language as tl
    from triton.runtime import interpreter

    convert = interpreter._convert_float

    def exact(values, source, target, rounding_mode):
        if (source, target) != (tl.float32, tl.float8e4nv):
            return convert(values, source, target, rounding_mode)
        return torch.from_numpy(values.copy()).to(torch.float8_e4m3fn).view(torch.uint8).numpy()

    monkeypatch.setattr(interpreter, "_convert_float", exact)
