"""Reads a file that is walked over: in large stretches, or little around each header."""

from collections.abc import Callable, Iterator

from clipjax.data.tar_header import BLOCK

Read = Callable[[int, int], bytes]
"""read(offset, length) -> bytes; fewer only at the end of the file."""

_LEAST_BYTES, _MOST_BYTES = 2048, 256 << 10  # of one read when only headers are wanted


class Window:
    """A stretch of the file in memory: large reads in a stream, small ones from header to header.

    Args:
        read: gives bytes of the file.
        size: of the file.
        stream_bytes: of one read; 0 to read little, and more where members lie close together.
    """

    def __init__(self, read: Read, size: int, stream_bytes: int):
        self._read, self._size = read, size
        self._stream = stream_bytes
        self._chunk = stream_bytes or _LEAST_BYTES
        self._start, self._data = 0, b""

    def at(self, offset: int, length: int) -> bytes:
        """Returns `length` bytes, fewer at the end of the file."""
        first = offset - self._start
        if first >= 0 and first + length <= len(self._data):
            return self._data[first : first + length]
        end = self._start + len(self._data)
        if not self._stream:
            near = 0 <= offset - end + BLOCK < 2 * self._chunk
            self._chunk = min(4 * self._chunk, _MOST_BYTES) if near else _LEAST_BYTES
        wanted = min(max(length, self._chunk), max(self._size - offset, 0))
        self._start, self._data = offset, self._read(offset, wanted) if wanted else b""
        if len(self._data) < wanted:
            raise EOFError(f"the file ended at byte {offset + len(self._data):,}")
        return self._data[:length]

    def pieces(self, offset: int, length: int) -> Iterator[bytes]:
        """Yields the bytes of a content in pieces, of what is in memory first."""
        while length:
            first = offset - self._start
            held = len(self._data) - first
            if not 0 <= first < len(self._data):
                held = self._chunk
            piece = self.at(offset, min(length, held))
            yield piece
            offset += len(piece)
            length -= len(piece)
