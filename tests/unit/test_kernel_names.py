"""Names of real kernels, as readers see them."""

import pytest

from memfloor.report.kernel_names import short_name, short_names

MULTIPLY = (
    "void at::native::elementwise_kernel<128, 4, at::native::gpu_kernel_impl_nocast<at::native::BinaryFunctor<float, "
    "float, float, at::native::binary_internal::MulFunctor<float> > >(at::TensorIteratorBase&, ...)"
)
REDUCE = "void cublasLt::splitKreduce_kernel<32, 16, int, float, __nv_bfloat16, float, __nv_bfloat16>(int)"


@pytest.mark.parametrize(
    ("name", "short"),
    [
        (MULTIPLY, "elementwise_kernel (MulFunctor)"),
        (MULTIPLY[:80], "elementwise_kernel"),
        (REDUCE, "splitKreduce_kernel"),
        ("nvjet_sm90_tst_8x64_64x16_4x1_v_bz_bias_TNN", "nvjet_sm90_tst_8x64_64x16_4x1_v_bz_bias_TNN"),
        ("attention_kernel", "attention_kernel"),
        ("cudnn_generated_fort_native_sdpa_sm80_flash_fprop_wmma_f16_knob_3_64x64x128_4x1x1_kernel0_0", None),
    ],
)
def test_a_name_says_what_the_kernel_is(name, short):
    assert short_name(name) == (name[:60] if short is None else short)


def test_kernels_that_share_a_short_name_are_told_apart():
    other = REDUCE.replace("<32, 16", "<32, 8")
    names = short_names([REDUCE, other, MULTIPLY])
    assert len(set(names.values())) == 3
    assert names[MULTIPLY] == "elementwise_kernel (MulFunctor)"
    assert names[other].startswith("splitKreduce_kernel <32, 8")
