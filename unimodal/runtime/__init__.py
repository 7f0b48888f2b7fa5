"""The user's handle on a trained model: generate, transcribe, classify, embed, score, describe.

    model = um.load("runs/emoji")
    model.generate(um.Image(picture)).value

`model` holds the handle, `prompts` turns what is given into requests by the tasks that the run
recorded, `schema` describes. Not here: the command line, evaluation over data sets.
"""

from unimodal.runtime.model import Model, load
from unimodal.runtime.prompts import AUTO, Prompt
from unimodal.runtime.results import Choice, Transcript, TranscriptSegment

__all__ = ["AUTO", "Choice", "Model", "Prompt", "Transcript", "TranscriptSegment", "load"]
