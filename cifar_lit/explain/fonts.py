"""Fonts that have the letters of class names, in whatever script they are."""

import unicodedata
from collections.abc import Iterable
from functools import cache

from matplotlib.font_manager import findfont, get_font, get_font_names

# That of matplotlib, with Latin, Greek, Cyrillic, Arabic and Hebrew letters.
DEFAULT = "DejaVu Sans"
# Those of Linux, macOS and Windows that have Chinese, Japanese and Korean ones.
WIDE = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Source Han Sans SC", "WenQuanYi Zen Hei"),
    *("PingFang SC", "Hiragino Sans GB", "Hiragino Sans", "Apple SD Gothic Neo", "Arial Unicode MS"),
    *("Microsoft YaHei", "SimHei", "Yu Gothic", "MS Gothic", "Malgun Gothic"),
)


def lacking(names: Iterable[str]) -> str | None:
    """A line about names with letters that no font here has, which are drawn as boxes; None where there are none."""
    lacks = [name for name in names if any(ord(letter) not in _letters() for letter in name if _is_drawn(letter))]
    if not lacks:
        return None
    return f"No font here has all letters of {lacks[0]}, which are drawn as boxes: install one, such as Noto Sans CJK."


def _is_drawn(letter: str) -> bool:
    # Joiners, and what says how the letter before is to look, have no shape of their own.
    return not letter.isspace() and unicodedata.category(letter) not in ("Cf", "Mn")


@cache
def _letters() -> frozenset[int]:
    return frozenset().union(*(get_font(findfont(name)).get_charmap() for name in families()))


@cache
def families() -> list[str]:
    """Names of the fonts that text is to be drawn with: where one lacks a letter the next one is asked."""
    installed = set(get_font_names())
    return [DEFAULT, *(name for name in WIDE if name in installed)]
