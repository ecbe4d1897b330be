"""Fonts that have the letters of class names, in whatever script they are."""

from functools import cache

from matplotlib.font_manager import get_font_names

# That of matplotlib, with Latin, Greek, Cyrillic, Arabic and Hebrew letters.
DEFAULT = "DejaVu Sans"
# Those of Linux, macOS and Windows that have Chinese, Japanese and Korean ones.
WIDE = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Source Han Sans SC", "WenQuanYi Zen Hei"),
    *("PingFang SC", "Hiragino Sans GB", "Hiragino Sans", "Apple SD Gothic Neo", "Arial Unicode MS"),
    *("Microsoft YaHei", "SimHei", "Yu Gothic", "MS Gothic", "Malgun Gothic"),
)


@cache
def families() -> list[str]:
    """Names of the fonts that text is to be drawn with: where one lacks a letter the next one is asked."""
    installed = set(get_font_names())
    return [DEFAULT, *(name for name in WIDE if name in installed)]
