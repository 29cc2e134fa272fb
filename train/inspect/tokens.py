"""Token ids as what they stand for: characters, control tokens, and runs of image tokens."""

import codecs
import json
import re
from collections.abc import Callable
from typing import Any

from ...processing import LlavaProcessor
from .findings import ShownToken


def tokens_of(
    ids: list[int], states: list[str], processor: LlavaProcessor, tokens_of_image: list[int]
) -> list[ShownToken]:
    """Token ids as what they stand for, each image one entry."""
    runs = iter(tokens_of_image)
    tokenizer = processor.tokenizer
    added = tokenizer.added_tokens_decoder
    pieces = tokenizer.convert_ids_to_tokens(ids)
    spell = _speller(tokenizer)
    tokens: list[ShownToken] = []
    characters = _Characters()
    image_left = 0
    for position, (token_id, piece, state) in enumerate(zip(ids, pieces, states, strict=True)):
        token = ShownToken("", piece, token_id, position, state)
        if token_id == processor.image_token_id:
            if image_left:  # another of the same image
                image_left -= 1
                tokens[-1].count += 1
                continue
            image_left = next(runs) - 1
            token.text, token.kind = "image", "image"
            characters.end()
        elif token_id in added and piece.strip():
            token.text, token.kind = piece, "control"
            characters.end()
        else:
            characters.spell(token, spell(piece))
        tokens.append(token)
    characters.end()
    return tokens


class _Characters:
    """Bytes of tokens to characters. One that is spread over several tokens goes to the first of them."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._first: ShownToken | None = None

    def spell(self, token: ShownToken, spelling: bytes) -> None:
        text = self._decoder.decode(spelling)
        if self._first is not None and text:
            self._first.text += text[0]
            text, self._first = text[1:], None
        token.text = text
        if self._first is None and self._decoder.getstate()[0]:
            self._first = token

    def end(self) -> None:
        """No more bytes of this character will come."""
        rest = self._decoder.decode(b"", final=True)
        if self._first is not None:
            self._first.text += rest
        self._decoder.reset()
        self._first = None


def _speller(tokenizer: Any) -> Callable[[str], bytes]:
    """How pieces of a vocabulary spell text: the bytes of a piece, by what the tokenizer's decoder does to it."""
    decoder = json.dumps(json.loads(tokenizer.backend_tokenizer.to_str())["decoder"], ensure_ascii=False)
    if '"ByteLevel"' in decoder:
        plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
        others = [byte for byte in range(0x100) if byte not in plain]
        alphabet = {chr(byte): bytes([byte]) for byte in plain}
        alphabet |= {chr(0x100 + number): bytes([byte]) for number, byte in enumerate(others)}
        return lambda piece: b"".join(alphabet.get(character) or character.encode() for character in piece)
    if '"WordPiece"' in decoder:
        return lambda piece: piece[2:].encode() if piece.startswith("##") else f" {piece}".encode()
    word_start = "▁" if "▁" in decoder else " "
    falls_back = '"ByteFallback"' in decoder

    def spell(piece: str) -> bytes:
        if falls_back and (byte := re.fullmatch(r"<0x([0-9A-F]{2})>", piece)):
            return bytes.fromhex(byte[1])
        return piece.replace(word_start, " ").encode()

    return spell
