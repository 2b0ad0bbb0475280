"""Reading the document of a personality: at the start, at a reload and for `check`, which wait for it."""

from pathlib import Path

from dub5.service.documents.reading import read_now
from dub5.service.documents.refusals import FILE_BYTES_MAX, ReadRefused


class PersonalityDocument:
    """The file of a document that a personality has."""

    @staticmethod
    def read(path: Path) -> tuple[str, str]:
        """Return the text of a file, and what is wrong with it: one of the two is empty.

        The file is read in a process of its own, which is waited for.
        """
        try:
            if path.exists() and not path.is_file():  # a pipe would be waited for
                return "", f"{str(path)!r} is not a file."
            with path.open("rb") as file:
                data = file.read(FILE_BYTES_MAX + 1)
            if len(data) > FILE_BYTES_MAX:
                return "", f"{str(path)!r} is larger than {FILE_BYTES_MAX:,} bytes."
            return read_now(data, path.name).text, ""
        except OSError as error:
            return "", f"{str(path)!r} cannot be read ({error.strerror})."
        except ReadRefused as refused:
            return "", f"{str(path)!r}: {refused.sentence}"
