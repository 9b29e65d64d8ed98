"""What goes wrong, where a built-in exception does not tell enough."""


class ExportError(ValueError):
    """A model that cannot be exported, or a file that does not compute what the model computes."""


class WriteError(OSError, ValueError):
    """A file cannot be written: a full disk, a missing folder, no permission."""


class ArchiveError(ValueError):
    """A file is no archive, is damaged, newer than this version, or made to mislead."""
