"""Measurements, each a module to run: `python -m unimodal.benchmarks.train_step`."""
