"""Letters of DNA to ids: n-grams of bases, overlapping or not, and single letters for all else."""

from unimodal.kernels.dna_ngrams.api import dna_ngrams as dna_ngrams
from unimodal.kernels.dna_ngrams.layout import first_single as first_single
