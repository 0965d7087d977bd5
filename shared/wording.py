"""Text for people."""


def sentence(text: str) -> str:
    """Returns `text` with a capital at its beginning, unless it begins with an address."""
    if "://" in text.partition(" ")[0]:
        return text
    return text[:1].upper() + text[1:]
