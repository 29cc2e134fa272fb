"""What the head of a file says: whether it is a video, and how many bytes it is to have, which tells one that was cut off
from one that is short."""

import io
from typing import Any

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_ASF = b"\x30\x26\xb2\x75"
_BOXES = (b"moov", b"mdat", b"moof")  # what is behind the last box of MP4 may be anything


def looks_like_video(head: bytes) -> bool:
    """Whether the first bytes of a file, 12 of them or more, are those of a video. An animation is a picture here."""
    if head[4:8] == b"ftyp":
        return head[8:11] not in (b"hei", b"hev", b"avi", b"mif", b"msf")  # HEIC and AVIF
    return head.startswith((_EBML, b"FLV\x01", b"OggS", _ASF, b"\0\0\1\xba")) or head[8:12] == b"AVI "


def promised_bytes(file: Any) -> int:
    """Where the last part of a file ends by its own head; 0 where nothing is said of it.

    Of MP4 and MOV the boxes (ISO/IEC 14496-12, 4.2), of Matroska and WebM the segment (RFC 8794, 6.2), of AVI the chunk.

    Args:
        file: Open for reading. It is left at its beginning.
    """
    file.seek(0)
    head = file.read(12)
    if head.startswith(_EBML):
        end = _end_of_segment(file)
    elif head.startswith(b"RIFF"):
        end = 8 + int.from_bytes(head[4:8], "little")
    elif head[4:8] == b"ftyp" or head[4:8] in _BOXES:
        end = _end_of_boxes(file)
    else:
        end = 0
    file.seek(0)
    return end


def _end_of_boxes(file: Any) -> int:
    start, last = 0, 0
    while True:
        file.seek(start)
        head = file.read(16)
        if len(head) < 8:
            return last
        size, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if size == 1:
            size = int.from_bytes(head[8:16], "big")
        if size < 8:  # to the end of the file, or no box
            return last
        start += size
        last = start if kind in _BOXES else last


def _end_of_segment(file: Any) -> int:
    file.seek(len(_EBML))
    header = _element_size(file)
    if header is None:
        return 0
    file.seek(header, io.SEEK_CUR)
    if file.read(4) != _SEGMENT or (size := _element_size(file)) is None:
        return 0
    return file.tell() + size


def _element_size(file: Any) -> int | None:
    """A size as EBML writes it: as many more bytes as the first has zeros in front. None where it is not known."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    more = 8 - first[0].bit_length()
    size = int.from_bytes(bytes([first[0] & (0x7F >> more)]) + file.read(more), "big")
    return None if size == (1 << 7 * (more + 1)) - 1 else size
