"""Log-mel features of speech, equal to openai-whisper's. Usable alone."""

from unimodal.kernels.log_mel.api import log_mel as log_mel
from unimodal.kernels.log_mel.bank import HOP_LENGTH as HOP_LENGTH
from unimodal.kernels.log_mel.bank import MIN_SAMPLES as MIN_SAMPLES
from unimodal.kernels.log_mel.bank import SAMPLE_RATE_HZ as SAMPLE_RATE_HZ
from unimodal.kernels.log_mel.bank import mel_bank as mel_bank
