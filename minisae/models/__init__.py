"""Small language models in NumPy with hooks, and the text they read."""

from minisae.models.language_model import CharGPT, activations, document_loss, generate, load, random_init, save
from minisae.models.text import Document, documents

__all__ = [
    "CharGPT",
    "Document",
    "activations",
    "document_loss",
    "documents",
    "generate",
    "load",
    "random_init",
    "save",
]
