"""What goes wrong in an export."""


class ExportError(ValueError):
    """A model that cannot be exported, or a file that does not compute what the model computes."""
