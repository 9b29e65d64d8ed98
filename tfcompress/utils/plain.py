"""Names and messages as they are, wherever they are shown."""


def plain(text: object) -> str:
    """Text without what a terminal or a page would obey: such characters as escapes.

    These are control characters, line breaks among them, characters that change the direction of
    writing, and bytes of a file name that are not UTF-8.

    >>> plain("fc\\x1b[31m")
    'fc\\\\x1b[31m'
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in str(text)
    )


def plain_lines(text: object) -> str:
    """The same for a text of several lines, which stay."""
    return "\n".join(map(plain, str(text).split("\n")))


def unparsed(text: object) -> str:
    """Text for a picture, in which matplotlib takes nothing for a formula."""
    return plain(text).replace("$", r"\$")
