"""The size of a JPEG from its header, without decoding it."""

import struct

# Start-of-frame markers: C0-CF without C4 (Huffman tables), C8 (reserved) and CC (arithmetic coding conditions).
_START_OF_FRAME = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD8)}  # TEM and restart markers stand alone


def jpeg_size_px(data: bytes) -> tuple[int, int]:
    """(width, height) in pixels. Raises ValueError when the bytes are no JPEG or end before the frame header."""
    if data[:2] != b"\xff\xd8":
        raise ValueError(f"not a JPEG: starts with {data[:2].hex() or 'nothing'} instead of ffd8")
    place = 2
    while place + 9 <= len(data):
        if data[place] != 0xFF:
            raise ValueError(f"broken JPEG: no marker at byte {place}")
        marker = data[place + 1]
        if marker == 0xFF:  # padding before a marker
            place += 1
        elif marker in _WITHOUT_LENGTH:
            place += 2
        elif marker in _START_OF_FRAME:
            height, width = struct.unpack(">HH", data[place + 5 : place + 9])
            return width, height
        else:
            place += 2 + struct.unpack(">H", data[place + 2 : place + 4])[0]
    raise ValueError(f"broken JPEG: {len(data)} bytes without a frame header")
