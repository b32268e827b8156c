"""What the scripts check before they compute or write anything."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

TOKENIZER_FILES = ("spiece.model", "tokenizer.json", "tokenizer_config.json")


def check_files(folder: Path, names: tuple[str, ...], what: str) -> None:
    """Exits with a message if a folder lacks one of some files.

    Args:
      folder: The folder.
      names: The names of the files.
      what: What they are, for the message.
    """
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise SystemExit(
            f"error: {folder} must hold {what}, {', '.join(names)}; it lacks {', '.join(missing)}: "
            "name another folder, or copy them to it"
        )


def read_texts(path: str | Path, count: int | None = None) -> list[str]:
    """Returns the texts in the column "text" of a Parquet file.

    Exits with a message if the file cannot be read, or does not have a text in every row.

    Args:
      path: The file.
      count: The maximum number of texts; by default, all are read.
    """
    texts: list[Any] = []
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            batches = file.iter_batches(64, columns=["text"]) if "text" in names else ()
            for batch in batches:
                texts += batch["text"].to_pylist()
                if count is not None and len(texts) >= count:
                    break
    except (OSError, pa.ArrowException) as error:
        raise SystemExit(
            f"error: {path} must be a readable Parquet file ({error}): name another file, or "
            "download it again"
        ) from error
    if not texts or not all(isinstance(text, str) for text in texts):
        raise SystemExit(
            f'error: {path} must have a column "text" with a text in every row; it has the columns '
            f"{', '.join(names)}, and {sum(isinstance(text, str) for text in texts)} texts in "
            f"{len(texts)} rows: name another file, or correct this one"
        )
    return texts[:count]
