"""The algorithms: a function each, called with the members of the message's payload.

The signature is checked before the call: a missing, unexpected or mistyped field fails the message.
"""


def language_detection(text: str) -> dict:
    return {"lang": "es" if "hola" in text else "en"}


def ocr(image_url: str, scale: int = 1) -> dict:
    if not image_url.startswith("http"):
        raise ValueError(f"cannot fetch {image_url}")
    return {"text": image_url.rsplit("/", 1)[-1].upper(), "scale": scale}


def add(a: int, b: int) -> dict:
    return {"sum": a + b}
