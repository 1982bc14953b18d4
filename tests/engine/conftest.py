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
