"""Containers: how rows lie on disk or in a bucket. Each file here reads one, at flat memory."""

from alignjax.data.containers.find import parts, select, split_parts
from alignjax.data.containers.part import FIRST, Part, Rows, Start

__all__ = ["FIRST", "Part", "Rows", "Start", "parts", "select", "split_parts"]
