"""What a search's directory notes of it: where its trial table is, and whether there was one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stantune.errors import StantuneError, StoreError
from stantune.files import read_json, write_whole

_STORAGE = "storage"
# Whether there was a table. Notes of before have it only where there was.
_BEGUN = "begun"


class Note:
    """The note in its file; read anew each time.

    Attributes:
        file: where it is.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def was_begun(self) -> bool:
        """Tell whether a search was begun whose table was there."""
        try:
            return bool(read_json(self.file).get(_BEGUN, True))
        except (OSError, ValueError, AttributeError):
            return self.file.exists()

    def storage(self) -> str | None:
        """Return where the table is, as messages may show it; None where nothing says so.

        Raises StoreError where the note cannot be read or is damaged.
        """
        try:
            return str(read_json(self.file)[_STORAGE])
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(
                f"{self.file} cannot be read ({error.strerror or error}); mend that, or choose another directory with "
                "`out`"
            ) from error
        except (ValueError, KeyError, TypeError):
            raise StoreError(
                f"{self.file} is damaged; move the directory away, or begin anew in another with `out`"
            ) from None

    def storage_to_look_at(self) -> str | None:
        """Return the same, None also where the note is damaged; raises StantuneError where it may not be read."""
        try:
            return self.storage()
        except StoreError as error:
            if isinstance(error.__cause__, PermissionError):
                raise StantuneError(
                    f"{self.file} cannot be read ({error.__cause__.strerror}); see that you may read the directory and "
                    "what is in it"
                ) from error
            return None

    def more(self) -> dict[str, Any]:
        """Return what else was noted."""
        try:
            return {name: value for name, value in read_json(self.file).items() if name not in (_STORAGE, _BEGUN)}
        except (OSError, ValueError, AttributeError):
            return {}

    def write(self, storage: str, begun: bool, **more: Any) -> None:
        """Note where the table is and whether the search was begun; what else was noted stays, unless it is None now.

        Raises StantuneError.
        """
        others = {name: value for name, value in {**self.more(), **more}.items() if value is not None}
        noted = {_STORAGE: storage, **({} if begun else {_BEGUN: False}), **others}
        try:
            write_whole(self.file, json.dumps(noted).encode())
        except OSError as error:
            raise unwritten(self.file, error) from error


def unwritten(file: Path, error: OSError) -> StantuneError:
    """Say what the system says of a file, or a folder, that is written."""
    return StantuneError(f"{file} cannot be written ({error.strerror}); make room and give the same command again")
