"""Text files of a user, read alike: a byte order mark is skipped, what is no text is bad input and not a traceback."""

from __future__ import annotations

from pathlib import Path

from testbed.errors import InputError

#: No text file that a person names is larger; one that is has been named by mistake, and would fill the memory.
MAX_TEXT_BYTES = 256 * 1024 * 1024


def read_text(path: Path, what: str, allowed: str = "text in UTF-8") -> str:
    """Content of a file, ``what`` being its name in errors ("trace", "lab file").

    Raises InputError for a file that cannot be read, that is no text, or that is larger than any of its kind.
    """
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise InputError(
                f"the {what} is too large",
                where=str(path),
                value=f"{path.stat().st_size / 1e6:.0f} MB",
                allowed=f"up to {MAX_TEXT_BYTES / 1e6:.0f} MB",
            )
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read the {what}: {error.strerror}", where=str(path)) from None
    except UnicodeDecodeError:
        raise InputError("not a text file", where=str(path), allowed=allowed) from None
    if "\0" in text:
        raise InputError("not a text file", where=str(path), allowed=allowed)
    return text
