"""What a terminal may be shown: event data is written by attackers."""

from __future__ import annotations

import re

# C0, DEL and C1 drive the terminal (ESC, CSI as one byte); bidirectional controls reorder what is
# read; zero-width characters, tags and line separators hide or break it; surrogates are raw bytes.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\ufff9-\uffff\ud800-\udfff\U000e0000-\U000e0fff]")


def terminal_safe(text: str) -> str:
    r"""Replace what a terminal would act upon by visible escapes (``\x1b``, ``\u202e``)."""
    return _UNSAFE.sub(lambda hit: _visible(ord(hit[0])), text)


def _visible(code: int) -> str:
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"  # the byte that was not UTF-8
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
