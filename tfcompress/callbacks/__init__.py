"""Callbacks for `fit`."""

from .prune import Prune as Prune
