"""The stream: documents, their encoding into positions, and packing into batches."""

from unimodal.stream.batch import Batch, FeatureGroup, HeadTargets, collate
from unimodal.stream.documents import Document, Segment, segment_factory
from unimodal.stream.encoding import EncodedDocument, StreamConfig, encode_document
from unimodal.stream.packing import Packer, PackingConfig
from unimodal.stream.values import tokenized, varied

__all__ = [
    "Batch",
    "Document",
    "EncodedDocument",
    "FeatureGroup",
    "HeadTargets",
    "Packer",
    "PackingConfig",
    "Segment",
    "StreamConfig",
    "collate",
    "encode_document",
    "segment_factory",
    "tokenized",
    "varied",
]
