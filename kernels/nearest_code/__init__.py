"""The nearest row of a codebook, without the matrix of distances."""

from unimodal.kernels.nearest_code.api import nearest_code as nearest_code
