"""Text for people."""


def sentence(text: str) -> str:
    """`text` with a capital at its beginning, unless that is an address: those stay as they are."""
    if "://" in text.partition(" ")[0]:
        return text
    return text[:1].upper() + text[1:]
