"""Modalities of somebody else: a grid with a header, a continuous input, an own file format."""
