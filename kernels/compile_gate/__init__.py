"""Compiles every Triton kernel for every target without a GPU, and refuses spills and overflows.

python -m unimodal.kernels.compile_gate          bf16, head sizes 64 and 128 (`make gates`)
python -m unimodal.kernels.compile_gate --all    everything, on two Tritons (`make compile-gate`)
"""
