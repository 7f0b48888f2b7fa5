"""Cached attention reads queries and caches in any layout."""

import pytest
import torch

from unimodal.kernels.attention import attend_cached


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_last_axis_that_is_not_contiguous_gives_the_same(which):
    tensors = [torch.randn(2, 3, 4, 16), torch.randn(2, 9, 2, 16), torch.randn(2, 9, 2, 16)]
    visible = torch.rand(2, 3, 9) > 0.4
    expected = attend_cached(*tensors, visible)
    strided = tensors[which].permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)
    assert strided.stride(-1) != 1
    tensors[which] = strided
    torch.testing.assert_close(attend_cached(*tensors, visible), expected, rtol=1e-5, atol=1e-6)
