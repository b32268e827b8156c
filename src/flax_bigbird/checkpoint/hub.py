"""Where a checkpoint's files are: a folder, or a repository on the Hugging Face Hub."""

import dataclasses
from pathlib import Path

from flax_bigbird.checkpoint.errors import CheckpointError


@dataclasses.dataclass(frozen=True)
class Source:
    """A folder or a Hub id, with the options that fetching from the Hub takes."""

    name: str
    revision: str | None = None
    subfolder: str = ""
    token: str | bool | None = None
    cache_dir: str | Path | None = None
    force_download: bool = False
    local_files_only: bool = False

    @property
    def folder(self) -> Path | None:
        """The local folder (with the subfolder), or None for a Hub id."""
        path = Path(self.name).expanduser()
        return path / (self.subfolder or "") if path.is_dir() else None

    def get(self, file: str) -> Path | None:
        """The local path of a file, downloaded if need be; None when the source has none.

        Raises:
          CheckpointError: the name is neither a folder nor a reachable repository.
        """
        if self.folder is not None:
            path = self.folder / file
            return path if path.is_file() else None
        if Path(self.name).exists():
            raise CheckpointError(
                f"a checkpoint is a folder or a Hub id; {self.name!r} is a file: pass the folder "
                "that holds it"
            )
        import huggingface_hub
        from huggingface_hub import errors

        try:
            return Path(
                huggingface_hub.hf_hub_download(
                    self.name,
                    file,
                    subfolder=self.subfolder or None,
                    revision=self.revision,
                    token=self.token,
                    cache_dir=self.cache_dir,
                    force_download=self.force_download,
                    local_files_only=self.local_files_only,
                    dry_run=False,
                )
            )
        except errors.LocalEntryNotFoundError:
            return None  # offline and not in the cache; another file may be
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
                "check the path"
            ) from error
        except OSError as error:
            raise CheckpointError(
                f"{file} of {self.name!r} could not be fetched from the Hub: {error}"
            ) from error
