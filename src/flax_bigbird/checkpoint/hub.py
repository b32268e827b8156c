"""Where a checkpoint's files are: a folder, the package, or a repository on the Hub."""

import dataclasses
import re
from pathlib import Path

from flax_bigbird.checkpoint.errors import CheckpointError
from flax_bigbird.pretrained import local_path

_SNAPSHOT = re.compile(r"snapshots[/\\]([0-9a-f]{40})[/\\]")


@dataclasses.dataclass
class Source:
    """A folder, a shipped model's name or a Hub id, with what fetching from the Hub takes.

    All files of a repository come from one commit: the one that the first of them was of.
    """

    name: str
    revision: str | None = None
    subfolder: str = ""
    token: str | bool | None = None
    cache_dir: str | Path | None = None
    force_download: bool = False
    local_files_only: bool = False
    unreachable: str = dataclasses.field(default="", init=False)  # why the Hub gave no answer
    _commit: str | None = dataclasses.field(default=None, init=False)

    def __str__(self) -> str:
        return repr(f"{self.name}/{self.subfolder}" if self.subfolder else self.name)

    @property
    def folder(self) -> Path | None:
        """The local folder (with the subfolder), or None for a Hub id."""
        path = Path(local_path(self.name)).expanduser()
        return path / (self.subfolder or "") if path.is_dir() else None

    @property
    def hint(self) -> str:
        """What a message of a file not found adds."""
        if self.folder is not None or not self.unreachable:
            return ""
        return (
            " (no folder of that name is here, and the Hub could not be asked for what its cache "
            f"lacks: {self.unreachable})"
        )

    def get(self, file: str) -> Path | None:
        """The local path of a file, downloaded if need be; None when the source has none.

        Raises:
          CheckpointError: the name is neither a folder nor a reachable repository.
        """
        if self.folder is not None:
            path = self.folder / file
            return path if path.is_file() else None
        if Path(self.name).expanduser().exists():
            raise CheckpointError(
                f"a checkpoint is a folder or a Hub id; {self.name!r} is a file: pass the folder "
                "that holds it"
            )
        import huggingface_hub
        from huggingface_hub import errors

        try:
            path = huggingface_hub.hf_hub_download(
                self.name,
                file,
                subfolder=self.subfolder or None,
                revision=self._commit or self.revision,
                token=self.token,
                cache_dir=self.cache_dir,
                force_download=self.force_download,
                local_files_only=self.local_files_only or bool(self.unreachable),
                dry_run=False,
            )
        except errors.LocalEntryNotFoundError as error:  # offline, and not in the cache
            self.unreachable = "offline" if self._is_offline() else _first_line(error)
            return None
        except errors.EntryNotFoundError:
            return None
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
            raise CheckpointError(
                f"no repository {self.name!r} at revision {self.revision or 'main'!r} on the Hub "
                "(or no right to read it), and no folder of that name here: check the spelling, "
                "or pass token="
            ) from error
        except errors.HFValidationError as error:
            raise CheckpointError(
                f"{self.name!r} is neither a folder that exists nor a Hub id ('owner/name'): "
                f"check the path (looked for {file} there)"
            ) from error
        except OSError as error:
            raise CheckpointError(
                f"{file} of {self.name!r} could not be fetched from the Hub: {_first_line(error)}"
            ) from error
        snapshot = _SNAPSHOT.search(str(path))
        if snapshot:
            self._commit = snapshot[1]
        return Path(path)

    def _is_offline(self) -> bool:
        from huggingface_hub import constants

        return self.local_files_only or constants.HF_HUB_OFFLINE


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
