"""Finds the files of a checkpoint: in a folder, in the package, or in a repository on the Hub."""

import dataclasses
import re
from pathlib import Path

from flax_bigbird._messages import first_line
from flax_bigbird.checkpoint.errors import CheckpointError
from flax_bigbird.pretrained import local_path

_SNAPSHOT = re.compile(r"snapshots[/\\]([0-9a-f]{40})[/\\]")


def is_hub_id(name: str) -> bool:
    """Returns whether a name may be that of a repository on the Hub, which `/a`, `./a` are not."""
    from huggingface_hub import utils

    try:
        utils.validate_repo_id(name)
    except utils.HFValidationError:
        return False
    return True


@dataclasses.dataclass
class Source:
    """Where a checkpoint's files come from, with the options for downloading them.

    All files of a repository come from the same commit: that of the first file downloaded.

    Attributes:
      name: a folder, the name of a model that ships inside the package, or a Hub id.
      revision: the branch, tag or commit on the Hub.
      subfolder: the folder inside `name` that holds the checkpoint.
      token, cache_dir, force_download, local_files_only: as in `huggingface_hub.hf_hub_download`.
      unreachable: why the Hub could not be reached; empty if it could, or was not needed.
    """

    name: str
    revision: str | None = None
    subfolder: str = ""
    token: str | bool | None = None
    cache_dir: str | Path | None = None
    force_download: bool = False
    local_files_only: bool = False
    unreachable: str = dataclasses.field(default="", init=False)
    _commit: str | None = dataclasses.field(default=None, init=False)

    def __str__(self) -> str:
        return repr(f"{self.name}/{self.subfolder}" if self.subfolder else self.name)

    @property
    def folder(self) -> Path | None:
        """The local folder, including the subfolder, or None for a Hub id."""
        path = Path(local_path(self.name)).expanduser()
        return path / (self.subfolder or "") if path.is_dir() else None

    @property
    def hint(self) -> str:
        """What the message about a missing file must add: that the Hub could not be reached."""
        if self.folder is not None or not self.unreachable:
            return ""
        return (
            " (there is no folder of that name, and the Hub could not be asked for files that are "
            f"not in its cache: {self.unreachable})"
        )

    def get(self, file: str) -> Path | None:
        """Returns the local path of a file, downloaded if necessary, or None if there is no file.

        Raises:
          CheckpointError: if the name is neither a folder nor a repository that can be read, or
            the download fails.
        """
        if self.folder is not None:
            path = self.folder / file
            return path if path.is_file() else None
        if Path(self.name).expanduser().exists():
            raise CheckpointError(
                f"a checkpoint is a folder or a Hub id; {self.name!r} is a file: pass the folder "
                "that holds it"
            )
        if not is_hub_id(self.name):
            raise CheckpointError(
                f"a checkpoint is a folder or a Hub id ('owner/name'); {self.name!r} is no Hub id, "
                "and there is no folder of that name: check the path"
            )
        path = self._download(file)
        snapshot = _SNAPSHOT.search(str(path))
        if snapshot:
            self._commit = snapshot[1]
        return path

    def _download(self, file: str) -> Path | None:
        """Returns the path of a file in the Hub's cache, downloaded if necessary, or None."""
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
            self.unreachable = "offline" if self._is_offline() else first_line(error)
            return None
        except errors.EntryNotFoundError:
            return None
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
            raise CheckpointError(
                f"a checkpoint is a folder or a Hub id; there is no repository {self.name!r} at "
                f"revision {self.revision or 'main'!r} on the Hub (or you may not read it), and no "
                "folder of that name: check the spelling, or pass token="
            ) from error
        except OSError as error:
            raise CheckpointError(
                f"{file} of {self.name!r} could not be downloaded from the Hub: "
                f"{first_line(error)}: try again, or pass local_files_only=True to use the cache"
            ) from error
        return Path(path)

    def _is_offline(self) -> bool:
        from huggingface_hub import constants

        return self.local_files_only or constants.HF_HUB_OFFLINE
